"""What pip is told of where packages are, told to uv: it reads none of pip's settings."""

import ast
import os
import re
import subprocess
import sys

STAY = ("UV_CACHE_DIR", "UV_HTTP_TIMEOUT", "UV_LINK_MODE", "UV_NO_CACHE")  # uv's own settings that choose no packages
SINGLE = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
SEVERAL = {"extra-index-url": ("UV_EXTRA_INDEX_URL", " "), "trusted-host": ("UV_INSECURE_HOST", " ")}
SEVERAL |= {"find-links": ("UV_FIND_LINKS", ",")}


def settings(python):
    """Pip's settings from any of its files and variables."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^(global|install|:env:)\.([a-z-]+)=(.*)$", listed, flags=re.MULTILINE)
    rows.sort(key=lambda row: ("global", "install", ":env:").index(row[0]))  # the last wins
    return {name: ast.literal_eval(value) for _, name, value in rows}


def variables(pip):
    """The environment that uv gets: an address may hold a password, which a command line would show."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("UV_") or name in STAY}
    found |= {name: pip[key] for key, name in SINGLE.items() if pip.get(key)}
    return found | {name: sep.join(pip[key].split()) for key, (name, sep) in SEVERAL.items() if pip.get(key)}


def bytecode():
    """The options of pip and of uv: Python compiles what it imports, and that is a part of all that is installed.

    Where it is told to write nothing, it would compile at each start: then all is compiled when it is installed.
    """
    return ((), ("--compile-bytecode",)) if sys.dont_write_bytecode else (("--no-compile",), ())


def options(pip):
    """The options by which uv does as pip: a version may come from any index, for its hash says which file it is."""
    offline = ("--no-index",) if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else ()
    return ("--no-config", "--system-certs", "--index-strategy", "unsafe-best-match", *offline, *bytecode()[1])


def lock_of_uv(lock, folder):
    """A lock of uv alone."""
    lines = re.search(r"^uv==(?:.*\\\n)*.*\n", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)[0]
    (folder / "uv.txt").write_text(lines, encoding="utf-8")
    return folder / "uv.txt"

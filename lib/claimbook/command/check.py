"""Everything that has to pass (``make test``): the book, then one run of pytest over all there is to test.

The recorded verdicts are those of the quick profile, on the processor, with seed 0; so is the book that is tested.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from claimbook.command.__main__ import interrupted_too
from claimbook.command.__main__ import main as command
from claimbook.run import kernel
from claimbook.source.pages import Layout, notebooks
from claimbook.source.parameters import BadParameter, parse

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def check(root: Path, jobs: str) -> int:
    """Build the book, then test whatever it came to; the exit status is 0 if both went well.

    The site is built from nothing, so that warnings of pages that did not change are seen too.
    """
    parameters = parse("quick", "cpu", "0", jobs)
    built = command(["build", "--fresh-site", "--device", "cpu", "--jobs", jobs])
    if built == 130:
        return built
    browser = find_browser()
    if browser is None:
        print(
            "no browser found: install Chromium or Chrome, which the checks of the site open pages in", file=sys.stderr
        )
        return 2
    kernel.install()
    layout = Layout(root, parameters.profile)
    executed = [layout.executed(page) for page in notebooks(root)]
    arguments = ["-n", str(parameters.jobs), "--dist", "loadfile", "--doctest-modules", "--doctest-continue-on-failure"]
    arguments += ["--nbval-lax", "--nbval-kernel-name", kernel.NAME, "--nbval-sanitize-with", "tests/nbval.cfg"]
    arguments += ["lib", "tests", *(str(path.relative_to(root)) for path in executed if path.is_file())]
    variables = kernel.environment(root, jobs=max(2, parameters.jobs)) | {"CLAIMBOOK_BROWSER": browser}
    tested = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=root, env=variables).returncode
    if built:
        print("the book was not built; its report stands above the tests", file=sys.stderr)
    return built or tested


def find_browser() -> str | None:
    """The path of a Chromium or Chrome; as root on a Debian system one is installed if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing chromium, which opens the pages of the site", flush=True)
        variables = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", *words], stdout=subprocess.DEVNULL, env=variables)
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found


if __name__ == "__main__":
    interrupted_too()
    try:
        sys.exit(check(Path.cwd(), sys.argv[1]))
    except BadParameter as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)

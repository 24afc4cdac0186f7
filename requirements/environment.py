"""Create or refresh .venv from the locks. Needs nothing but a Python; does nothing when the locks are unchanged.

uv, which stands in the lock itself, installs the locked packages several times faster than pip; where it does not work,
pip does the same. Torch is left to pip, whose settings on a machine may lead to another build of it.
"""

import contextlib
import csv
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pip_to_uv
from progress import follow

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"
TEMPORARY = VENV / "tmp"  # on the disk that has room for .venv: pip keeps gigabytes there until it installs them
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
LOCK = HERE / "dev.txt"
TORCH = HERE / "torch.txt"
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off", *pip_to_uv.bytecode()[0])
LOCKED = ("--no-deps", "--require-hashes")
STEPS = 4


def fingerprint():
    """Hash of everything that the installation depends on."""
    parts = [repr(sys.version_info[:2]).encode(), str(VENV).encode()]
    parts += [
        (HERE / name).read_bytes() for name in ("run.txt", "dev.txt", "torch.txt", "environment.py", "pip_to_uv.py")
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts += [repr([project["build-system"], project["project"], project["tool"]["setuptools"]]).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def begin(number, what):
    """Say which step begins; what its lines start with."""
    label = f"environment: {number} of {STEPS}"
    print(f"{label}, {what}", flush=True)
    return label


def run(label, *command):
    """Run a command; on failure show what it said, and which it was, and stop."""
    status, said = follow(command, label, state=fetched, cwd=ROOT, env=os.environ | {"TMPDIR": str(TEMPORARY)})
    if status:
        print(*said, sep="\n", file=sys.stderr)
        sys.exit(f"environment: failed (exit {status}): {' '.join(map(str, command))}")


def fetched():
    """How much pip has downloaded and not installed yet."""
    size = 0
    for folder, _, names in os.walk(TEMPORARY):
        with contextlib.suppress(OSError):  # pip may remove a file at any time
            size += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
    return f"{size / 1e6:,.0f} MB" if size > 1e6 else ""


def usable():
    """Whether .venv is made by this version of Python and has a pip."""
    check = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    return PYTHON.exists() and subprocess.run([PYTHON, "-c", check], stderr=subprocess.DEVNULL).returncode == 0


def packages():
    """The folders by which installed packages are known."""
    return list(VENV.glob("lib/python*/site-packages/*.dist-info"))


def whole(package):
    """Whether all files of an installed package are there with their sizes; compiled ones come and go."""
    try:
        with (package / "RECORD").open(encoding="utf-8", newline="") as record:
            rows = [(package.parent / name, size) for name, _, size in csv.reader(record) if not name.endswith(".pyc")]
        return all(path.stat().st_size == int(size) if size else path.exists() for path, size in rows)
    except (OSError, ValueError):
        return False


def mend():
    """Forget packages that were installed in part when something was interrupted: they are then installed again."""
    for package in packages():
        if not whole(package):
            shutil.rmtree(package)


def by_uv(label):
    """Install the locked packages by uv; what went wrong, or nothing."""
    try:
        # A wheel or nothing: to build uv would take far longer than it saves.
        lock = pip_to_uv.lock_of_uv(LOCK, TEMPORARY)
        status, said = follow((PYTHON, *PIP, *LOCKED, "--only-binary", ":all:", "-r", lock), label, cwd=ROOT)
        if not status:
            pip = pip_to_uv.settings(PYTHON)
            command = (UV, "pip", "install", "--python", PYTHON, *LOCKED, *pip_to_uv.options(pip), "-r", LOCK)
            state = lambda: f"{len(packages())} in .venv"
            status, said = follow(command, label, state=state, cwd=ROOT, env=pip_to_uv.variables(pip))
        return f"exit {status}: {''.join(said[-1:])}" if status else None
    except (OSError, subprocess.SubprocessError, SyntaxError, ValueError) as problem:
        return str(problem)


def install_locked():
    """The locked packages with their hashes."""
    count = len(re.findall(r"^[\w.-]+==", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE))
    label = begin(2, f"up to {count} locked packages: 300 MB to fetch")
    problem = by_uv(label)
    if problem:
        print(f"{label}, uv failed ({problem}): pip installs the same, which takes some minutes", flush=True)
        mend()
        run(label, PYTHON, *PIP, *LOCKED, "-r", LOCK)


def install():
    """The locked packages, then torch with the libraries its build needs, then normdyn itself."""
    label = begin(1, "the virtual environment .venv")
    if usable():
        mend()
    else:
        shutil.rmtree(VENV, ignore_errors=True)
    TEMPORARY.mkdir(parents=True, exist_ok=True)
    if not PYTHON.exists():
        run(label, sys.executable, "-m", "venv", VENV)
    install_locked()
    torch = TORCH.read_text(encoding="utf-8").strip()
    label = begin(3, f"{torch} and what its build needs: 0.2 GB to fetch, with CUDA 3 GB")
    run(label, PYTHON, *PIP, "-r", TORCH)
    label = begin(4, "the library of this book")
    run(label, PYTHON, *PIP, "--no-deps", "--no-build-isolation", "--editable", ROOT)


def take_turn():
    """A second make waits, and then finds all done."""
    lock = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("environment: another make is installing; this one waits for it", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def main():
    take_turn()
    current = fingerprint()
    if not (STAMP.exists() and STAMP.read_text() == current and PYTHON.exists()):
        started = time.monotonic()
        STAMP.exists() and STAMP.unlink()
        shutil.rmtree(TEMPORARY, ignore_errors=True)
        install()
        shutil.rmtree(TEMPORARY, ignore_errors=True)
        temporary = STAMP.with_suffix(".tmp")
        temporary.write_text(current)
        os.replace(temporary, STAMP)
        print(f"environment: ready after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it runs is ended, too
    try:
        main()
    except KeyboardInterrupt:
        print("\nenvironment: interrupted; the next make goes on from here", file=sys.stderr)
        sys.exit(130)

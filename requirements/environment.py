"""Create or refresh .venv from the locks. Needs nothing but a Python; does nothing when the locks are unchanged."""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"
PYTHON = VENV / "bin" / "python"


def fingerprint():
    """Hash of everything that the installation depends on."""
    parts = [repr(sys.version_info[:2]).encode(), str(VENV).encode()]
    parts += [(HERE / name).read_bytes() for name in ("run.txt", "dev.txt", "torch.txt", "environment.py")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts += [repr([project["build-system"], project["project"], project["tool"]["setuptools"]]).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def run(*command):
    """Run a command; on failure say which and stop."""
    result = subprocess.run([str(part) for part in command], cwd=ROOT)
    if result.returncode:
        sys.exit(f"environment: failed (exit {result.returncode}): {' '.join(map(str, command))}")


def usable():
    """Whether .venv is whole and made by this version of Python."""
    check = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    return PYTHON.exists() and subprocess.run([PYTHON, "-c", check], stderr=subprocess.DEVNULL).returncode == 0


def install():
    """The locked packages with their hashes, then torch with the libraries its build needs, then normdyn itself."""
    print("environment: installing the locked packages into .venv", flush=True)
    if not usable():
        shutil.rmtree(VENV, ignore_errors=True)
        run(sys.executable, "-m", "venv", VENV)
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-qq")
    run(*pip, "--no-deps", "--require-hashes", "-r", HERE / "dev.txt")
    run(*pip, "-r", HERE / "torch.txt")
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)


def main():
    fcntl.flock(os.open(HERE, os.O_RDONLY), fcntl.LOCK_EX)  # a second make waits, and then finds all done
    current = fingerprint()
    if not (STAMP.exists() and STAMP.read_text() == current and PYTHON.exists()):
        STAMP.exists() and STAMP.unlink()
        install()
        temporary = STAMP.with_suffix(".tmp")
        temporary.write_text(current)
        os.replace(temporary, STAMP)


if __name__ == "__main__":
    main()

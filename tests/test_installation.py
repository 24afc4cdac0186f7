"""The installation of the environment, with commands that only pretend: what it tells, and what follows a failure."""

import fcntl
import hashlib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HERE = ROOT / "requirements"
UV = Path(sys.executable).with_name("uv")

# Stands for .venv/bin/python and .venv/bin/uv: notes what it is asked, says what pip says, and may be told to fail.
PRETENDER = """#!/bin/bash
case "$*" in
    *"import pip"*) exit 0 ;;
    *"config list"*) echo "global.index-url='https://user:secret@index.invalid/simple'"; exit 0 ;;
esac
said="$(basename "$0") $*"
echo "$said" >> asked
echo "Collecting everything"
if [[ -n "$SLOW" && "$said" =~ $SLOW ]]; then echo $$ > pid; exec sleep 60; fi
if [[ -n "$FAIL" && "$said" =~ $FAIL ]]; then echo "no such thing"; exit 3; fi
exit 0
"""


@pytest.fixture
def module(monkeypatch):
    """A module of the folder of requirements, by its name."""
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module


@pytest.fixture
def project(tmp_path):
    """A folder with the program of the environment, small locks, and a .venv whose commands pretend."""
    for name in ("environment.py", "pip_to_uv.py", "progress.py", "dev.txt", "torch.txt"):
        (tmp_path / "requirements").mkdir(exist_ok=True)
        shutil.copy(HERE / name, tmp_path / "requirements" / name)
    (tmp_path / "requirements" / "run.txt").touch()
    (tmp_path / "pyproject.toml").write_text('[build-system]\n[project]\nname = "tiny"\n[tool.setuptools]\n')
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "uv"):
        path = tmp_path / ".venv" / "bin" / name
        path.write_text(PRETENDER)
        path.chmod(0o755)
    return tmp_path


def start(project, **variables):
    """The program at work; ``FAIL`` and ``SLOW`` are patterns of the commands that fail or take long."""
    command = [sys.executable, "requirements/environment.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=project, env=os.environ | variables, **pipes)


def install(project, **variables):
    """Its exit status, what it printed, and what it asked of the commands since."""
    (project / "asked").unlink(missing_ok=True)
    process = start(project, **variables)
    printed = process.communicate(timeout=60)[0]
    asked = (project / "asked").read_text().splitlines() if (project / "asked").exists() else []
    return process.returncode, printed, asked


def wait_for(path):
    """The text of a file, as soon as it is there."""
    end = time.monotonic() + 30
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.02)
    return path.read_text()


def alive(pid):
    """Whether a process runs (one that ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_each_step_is_told_and_torch_is_left_to_pip(project):
    status, printed, asked = install(project)
    assert status == 0
    steps = re.findall(r"^environment: (\d) of (\d), (.*)$", printed, flags=re.MULTILINE)
    assert [(int(a), int(b)) for a, b, _ in steps] == [(n, 4) for n in range(1, 5)]
    torch = (HERE / "torch.txt").read_text().strip()
    assert "locked packages" in steps[1][2] and torch in steps[2][2]
    assert re.search(r"^environment: ready after \d+ s$", printed, flags=re.MULTILINE)
    first, second, third, fourth = asked
    assert first.startswith("python -m pip ") and "--require-hashes --only-binary :all:" in first
    assert second.startswith("uv pip install ") and "--require-hashes" in second and second.endswith("dev.txt")
    assert third.startswith("python -m pip ") and third.endswith("torch.txt") and "--editable" in fourth
    assert "secret" not in "".join([printed, *asked])


def test_what_is_installed_is_not_installed_again_and_says_nothing(project):
    install(project)
    assert install(project) == (0, "", [])
    (project / "requirements" / "torch.txt").write_text("torch==0.0.0\n")
    assert len(install(project)[2]) == 4


@pytest.mark.parametrize("broken", ["^uv ", "only-binary"])
def test_where_uv_fails_pip_installs_the_same_and_one_line_says_so(project, broken):
    status, printed, asked = install(project, FAIL=broken)
    assert status == 0
    told = [line for line in printed.splitlines() if "uv failed" in line]
    assert len(told) == 1 and "exit 3: no such thing" in told[0]
    instead = asked[1 if broken == "only-binary" else 2]
    assert instead.startswith("python -m pip ") and "--no-deps --require-hashes" in instead
    assert instead.endswith("dev.txt") and asked[-1].count("--editable")


def test_where_uv_cannot_run_pip_installs_the_same(project):
    (project / ".venv" / "bin" / "uv").unlink()
    status, printed, asked = install(project)
    assert status == 0 and "uv failed" in printed and len(asked) == 4


def test_a_failure_shows_what_was_said_and_the_next_run_goes_on(project):
    status, printed, _ = install(project, FAIL="torch.txt")
    assert status == 1 and "Collecting everything\nno such thing\n" in printed
    assert "environment: failed (exit 3): " in printed and "ready" not in printed
    assert install(project)[0] == 0


def test_a_stopped_installation_leaves_no_command_behind(project):
    process = start(project, SLOW="torch.txt")
    pid = int(wait_for(project / "pid"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143 and not alive(pid)


def test_an_interrupted_installation_says_so_and_does_not_go_on_with_pip(project):
    process = start(project, SLOW="^uv ")
    pid = int(wait_for(project / "pid"))
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=30)[0]
    assert process.returncode == 130 and "the next make goes on from here" in printed and "uv failed" not in printed
    assert not alive(pid) and install(project)[0] == 0


def test_a_second_run_says_that_it_waits(project):
    lock = os.open(project / "requirements", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = start(project)
    assert "another make is installing" in process.stdout.readline()
    os.close(lock)
    assert "ready" in process.communicate(timeout=60)[0]


def test_a_long_command_is_told_line_by_line(module, monkeypatch, capsys):
    progress = module("progress")
    monkeypatch.setattr(progress, "EVERY", 0.1)
    script = "import time; print('Downloading torch (190 MB)', flush=True); time.sleep(1)"
    status, said = progress.follow([sys.executable, "-c", script], "3 of 4", state=lambda: "20 MB")
    assert (status, said) == (0, ["Downloading torch (190 MB)"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3 and lines[-1] == "3 of 4, 1 s, 20 MB, Downloading torch (190 MB)"
    assert module("environment").STEPS == 4 and 10 <= importlib.reload(progress).EVERY <= 15


def test_a_terminal_has_one_line_that_is_renewed(module, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    module("progress").follow([sys.executable, "-c", "import time; time.sleep(1.5)"], "3 of 4", state=lambda: "w" * 99)
    printed = capsys.readouterr().out
    assert "\n" not in printed and printed.endswith("\r\x1b[K")
    assert max(map(len, printed.split("\r\x1b[K"))) == 39


def test_uv_is_told_what_pip_is_told_and_nothing_else(module, monkeypatch, tmp_path):
    translation = module("pip_to_uv")
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://global.invalid\nextra-index-url =\n    https://b.invalid\n    https://c.invalid\n"
        "[install]\nindex-url = https://install.invalid\nfind-links = /a /b\ntrusted-host = b.invalid\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("UV_INDEX", "https://other.invalid")
    monkeypatch.setenv("UV_CACHE_DIR", "/cache")

    def told():
        settings = translation.settings(sys.executable)
        found = translation.variables(settings)
        return {name: value for name, value in found.items() if name.startswith("UV_")}, translation.options(settings)

    variables, options = told()
    assert variables == {
        "UV_CACHE_DIR": "/cache",
        "UV_DEFAULT_INDEX": "https://install.invalid",
        "UV_EXTRA_INDEX_URL": "https://b.invalid https://c.invalid",
        "UV_FIND_LINKS": "/a,/b",
        "UV_INSECURE_HOST": "b.invalid",
    }
    assert "--no-config" in options and "--no-index" not in options
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.invalid")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    variables, options = told()
    assert variables["UV_DEFAULT_INDEX"] == "https://variable.invalid" and "--no-index" in options


def test_all_is_compiled_only_where_python_keeps_nothing_that_it_compiles(project):
    for silent, compiled in (("1", True), ("", False)):
        (project / ".venv" / "installed.sha256").unlink(missing_ok=True)
        _, by_uv, *by_pip = [line.split() for line in install(project, PYTHONDONTWRITEBYTECODE=silent)[2]]
        assert ("--compile-bytecode" in by_uv) is compiled
        assert [("--no-compile" in words) is not compiled for words in by_pip] == [True, True]


def test_uv_is_locked_with_hashes(module, tmp_path):
    lines = module("pip_to_uv").lock_of_uv(HERE / "dev.txt", tmp_path).read_text().splitlines()
    assert re.match(r"uv==[\d.]+ \\", lines[0]) and len(lines) > 2
    assert all(re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line) for line in lines[1:])
    assert not lines[-1].endswith("\\")


@pytest.fixture
def wheels(tmp_path):
    """A folder with a wheel of one module, and the lock that names its hash."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    files = {
        "tiny.py": "ONE = 1\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["tiny-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*files, "tiny-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    (tmp_path / "lock.txt").write_text(f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return folder


def test_uv_itself_takes_what_is_translated_and_mends_what_was_interrupted(module, monkeypatch, tmp_path, wheels):
    """The real one, from a folder, without a network; a file that is lost is found out and comes again."""
    environment, translation = module("environment"), module("pip_to_uv")
    monkeypatch.setattr(environment, "VENV", tmp_path / "venv")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    pip = {"find-links": str(wheels), "no-index": "true"}
    command = [UV, "pip", "install", "--python", tmp_path / "venv" / "bin" / "python", "--no-deps", "--require-hashes"]
    command += [*translation.options(pip), "-r", tmp_path / "lock.txt"]

    def by_uv():
        return subprocess.run(command, env=translation.variables(pip), capture_output=True, text=True)

    assert by_uv().returncode == 0
    (package,) = environment.packages()
    assert environment.whole(package)
    environment.mend()
    assert environment.packages() == [package]
    module_file = package.parent / "tiny.py"
    for damage in (module_file.unlink, (package / "RECORD").unlink):
        damage()
        environment.mend()
        assert environment.packages() == []
        assert by_uv().returncode == 0 and module_file.read_text() == "ONE = 1\n"
    (tmp_path / "lock.txt").write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    shutil.rmtree(package)
    assert by_uv().returncode != 0 and environment.packages() == []

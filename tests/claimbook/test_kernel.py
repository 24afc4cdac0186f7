"""What a user has set up stays away from kernels; long names of folders and endless chapters do no harm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from claimbook.run import execute, kernel
from tiny_book import ONE, TWO, tiny_book

DISPLAY = "from IPython.display import display"
# Each could change what a page finds, and none may reach it.
SET = {
    "PYTHONOPTIMIZE": "1",
    "PYTHONSTARTUP": "startup.py",
    "PYTHONINSPECT": "1",
    "PYTHONWARNINGS": "ignore",
    "IPYTHON_PROFILE": "mine",
    "JUPYTER_CONFIG_DIR": "jupyter",
    "MPLRC": "matplotlibrc",
    "MATPLOTLIBRC": "matplotlibrc",
    "TORCH_LOGS": "all",
    "PYTORCH_JIT": "0",
    "TORCHINDUCTOR_CACHE_DIR": "cache",
    "CUDNN_LOGINFO_DBG": "1",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_PROMOTION_STATE": "legacy",
    "JAXTYPING_DISABLE": "1",
    "LANGUAGE": "de",
    "LC_NUMERIC": "de_DE.UTF-8",
    "SOURCE_DATE_EPOCH": "0",
}
THREADS = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")  # a user's to set


@pytest.mark.parametrize("name", sorted({*SET, *kernel.KEPT_AWAY}))
def test_a_variable_of_the_user_does_not_reach_kernels(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, SET.get(name, "the user's"))
    assert kernel.environment(tmp_path, jobs=1).get(name) != SET.get(name, "the user's")


@pytest.mark.parametrize("name", [*THREADS, "PATH", "HOME", "LD_LIBRARY_PATH"])
def test_what_says_where_things_lie_and_how_much_there_is_does(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "the user's")
    assert kernel.environment(tmp_path, jobs=1)[name] == "the user's"


def run(book, page, **variables):
    """Execute a page as a step of its own does; returns status and what was printed."""
    command = [sys.executable, "-m", "claimbook", "chapter", page, "--device", "cpu"]
    result = subprocess.run(
        command, cwd=book.root, env=os.environ | variables, capture_output=True, text=True, timeout=300
    )
    return result.returncode, result.stdout + result.stderr


def test_a_false_assertion_fails_a_page_under_pythonoptimize(tmp_path):
    book = tiny_book(tmp_path / "book")
    book.edit(f"chapters/{ONE}.md", DISPLAY, f"assert 1 == 2\n{DISPLAY}")
    status, text = run(book, ONE, PYTHONOPTIMIZE="1")
    assert status == 1 and "AssertionError" in text
    assert not book.layout.executed(ONE).exists()


def test_files_of_the_user_do_not_reach_a_page(tmp_path):
    """Startup scripts, modules of a user site, styles and configurations, each of which would stop the page."""
    book, home = tiny_book(tmp_path / "book"), tmp_path / "home"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stop = "raise SystemExit('a file of the user was read')\n"
    files = {
        ".ipython/profile_default/startup/00-mine.py": stop,
        ".ipython/profile_default/ipython_config.py": stop,
        ".jupyter/jupyter_config.py": stop,
        f".local/lib/{version}/site-packages/usercustomize.py": stop,
        f".local/lib/{version}/site-packages/tiny/__init__.py": stop,
        ".config/matplotlib/matplotlibrc": "figure.dpi: 7\n",
        ".pythonrc.py": stop,
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    look = "import matplotlib\n\nassert matplotlib.rcParams['figure.dpi'] != 7"
    book.edit(f"chapters/{ONE}.md", DISPLAY, f"{look}\n{DISPLAY}")
    variables = {"HOME": str(home), "PYTHONSTARTUP": str(home / ".pythonrc.py")}
    status, text = run(book, ONE, **variables)
    assert status == 0, text
    assert "a file of the user" not in book.layout.log(ONE).read_text(encoding="utf-8")


def test_a_temporary_folder_with_a_long_name(tmp_path):
    book, long = tiny_book(tmp_path / "book"), tmp_path / ("long" * 40)
    long.mkdir()
    status, text = run(book, ONE, TMPDIR=str(long))
    assert status == 0, text


def test_where_no_name_is_short_enough_there_are_ports(tmp_path, monkeypatch):
    from jupyter_client.manager import AsyncKernelManager

    monkeypatch.setattr(kernel, "SOCKET", 10)
    assert kernel.short_folder() is None
    manager = kernel.over_sockets(AsyncKernelManager)()
    assert (manager.transport, manager.ip) == ("tcp", "127.0.0.1")
    book = tiny_book(tmp_path / "book")
    execute.execute(book.layout, ONE, book.parameters)
    assert book.layout.executed(ONE).is_file()


def test_an_address_of_a_socket_has_room(monkeypatch):
    from jupyter_client.manager import AsyncKernelManager

    manager = kernel.over_sockets(AsyncKernelManager)()
    assert manager.transport == "ipc" and len(f"{manager.ip}-5") <= kernel.SOCKET
    assert Path(manager.ip).parent.is_dir()


def test_a_chapter_that_does_not_end_is_stopped(tmp_path):
    book = tiny_book(tmp_path / "book")
    path = book.root / "pyproject.toml"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n[tool.claimbook]\nminutes = {{ quick = 0.1 }}\n", encoding="utf-8")
    book.edit(f"chapters/{ONE}.md", DISPLAY, f"import time\n\ntime.sleep(600)\n{DISPLAY}")
    with pytest.raises(execute.ChapterFailed, match=r"0\.1 minutes"):
        execute.execute(book.layout, ONE, book.parameters)
    execute.execute(book.layout, TWO, book.parameters)  # others have their own limit

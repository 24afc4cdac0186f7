"""A parameter that is not allowed gets one line that says what is, before anything is computed."""

import subprocess
import sys

import pytest

from claimbook.source import parameters
from claimbook.source.parameters import BadParameter, Parameters, parse, resolve_device
from tiny_book import REPOSITORY, tiny_book


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"profile": "papr"}, "PROFILE=papr is not known: choose quick or paper"),
        ({"device": "gpu"}, "DEVICE=gpu is not known: choose auto, cpu or cuda"),
        ({"seed": "-1"}, "SEED=-1 is not allowed: give a whole number"),
        ({"seed": "1e3"}, "SEED=1e3 is not allowed"),
        ({"jobs": "x"}, "JOBS=x is not allowed: give a whole number from 1 up"),
        ({"jobs": "0"}, "JOBS=0 is not allowed"),
    ],
)
def test_words_that_are_not_allowed(words, line):
    with pytest.raises(BadParameter, match=line):
        parse(**{"device": "cpu"} | words)


def test_words_that_are_allowed():
    assert parse("paper", "cpu", "7", "3") == Parameters("paper", "cpu", 7, 3)
    assert parse(device="cpu").jobs >= 1


@pytest.mark.parametrize(
    ("devices", "cuda_build", "auto"), [(0, True, "cpu"), (1, False, "cpu"), (1, True, "cuda"), (0, False, "cpu")]
)
def test_auto_takes_cuda_where_device_and_build_allow_it(monkeypatch, devices, cuda_build, auto):
    monkeypatch.setattr(parameters, "cuda_devices", lambda: devices)
    monkeypatch.setattr(parameters, "torch_has_cuda", lambda: cuda_build)
    assert resolve_device("auto") == auto
    if auto == "cuda":
        assert resolve_device("cuda") == "cuda"
    else:
        with pytest.raises(BadParameter, match="DEVICE=cuda is not possible"):
            resolve_device("cuda")


def run(*words, cwd=REPOSITORY):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["book", "PROFILE=papr"], "PROFILE=papr is not known: choose quick or paper"),
        (["book", "JOBS=two"], "JOBS=two is not allowed"),
        (["book", "PYTHON=no-such-python"], "PYTHON=no-such-python is not a command: give a Python 3.11 or newer"),
        (["book", "PYTHON=false"], "PYTHON=false is not a working Python"),
        (["chapter", "PAGE=nope"], "PAGE=nope is not a chapter with code: choose one of "),
        (["compare", "PAGE=nope"], "PAGE=nope is not a chapter with code: choose one of "),
        (["chapter"], "PAGE= is not a chapter with code"),
    ],
)
def test_make_says_it_in_one_line(words, line):
    result = run("make", *words)
    assert result.returncode == 2
    said = [text for text in result.stderr.splitlines() if not text.startswith("make")]
    assert len(said) == 1 and line in said[0], result.stderr
    assert result.stdout == ""


def test_an_old_python_is_told_so(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text(
        f'#!/bin/sh\ntest "$1" = -c && exec {sys.executable} -c "import sys; sys.version_info = (3, 9); $2"\n'
    )
    old.chmod(0o755)
    result = run("make", "book", f"PYTHON={old}")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == f"Python 3.9 is too old (PYTHON={old}): 3.11 or newer is needed"


def test_the_steps_say_it_too(tmp_path):
    book = tiny_book(tmp_path / "book")
    for words in (["build", "--profile", "papr"], ["execute", "nope"], ["chapter", "index"]):
        result = run(sys.executable, "-m", "claimbook", *words, cwd=book.root)
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert not (book.root / "build").exists()

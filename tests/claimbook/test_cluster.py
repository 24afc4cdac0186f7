"""Chapters as jobs of a cluster. What needs a real Slurm is skipped where there is none.

``requirements/slurm/one-machine.sh`` sets one up on a Debian machine.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from claimbook.run import engine, execute
from claimbook.source import parameters
from claimbook.source.parameters import BadParameter, parse
from tiny_book import ONE, REPOSITORY, TWO, tiny_book

PROFILE = REPOSITORY / "requirements" / "slurm"
PLUGIN = "snakemake_executor_plugin_slurm"


def answers(*words):
    return subprocess.run(words, capture_output=True, timeout=60).returncode == 0


def why_not():
    """Why no job can be submitted here; empty if one can."""
    if shutil.which("sinfo") is None:
        return "there is no Slurm here (no sinfo); requirements/slurm/one-machine.sh sets one up"
    if not answers("sinfo"):
        return "Slurm's controller does not answer; requirements/slurm/one-machine.sh starts it"
    if importlib.util.find_spec(PLUGIN) is None:
        return "Snakemake's plugin for Slurm is not installed; run make slurm"
    return ""


needs_slurm = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def submits(monkeypatch):
    """A machine that seems to have sbatch and the plugin."""
    monkeypatch.setattr(parameters.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(parameters.importlib.util, "find_spec", lambda name: name)


def test_the_profile_is_the_folder_and_says_how_many_jobs(submits):
    given = parse(cluster="slurm", device="auto")
    assert (given.cluster, given.jobs, given.device) == (str(PROFILE), 100, "cpu")
    assert parse(cluster="slurm", jobs="3").jobs == 3
    assert parse(cluster=str(PROFILE)) == given
    assert parse(device="cpu").cluster == ""


def test_devices_are_those_of_the_nodes(submits, monkeypatch):
    monkeypatch.setattr(parameters, "cuda_devices", lambda: 0)
    assert parse(cluster="slurm", device="cuda").device == "cuda"
    with pytest.raises(BadParameter, match="DEVICE=gpu is not known"):
        parse(cluster="slurm", device="gpu")


def test_a_cluster_that_cannot_be_used_is_told_in_one_line(submits, monkeypatch, tmp_path):
    for word in ("slrum", str(tmp_path)):
        with pytest.raises(BadParameter, match=f"CLUSTER={word} is not known: choose slurm, or a folder"):
            parse(cluster=word)
    monkeypatch.setattr(parameters.importlib.util, "find_spec", lambda name: None)
    assert parse(cluster="slurm", installed=False).cluster
    with pytest.raises(BadParameter, match="plugin for it is not installed; run make slurm"):
        parse(cluster="slurm")
    (tmp_path / "config.yaml").write_text("executor: cluster-generic\njobs: 7\n")
    with pytest.raises(BadParameter, match="install snakemake-executor-plugin-cluster-generic into .venv"):
        parse(cluster=str(tmp_path))
    monkeypatch.setattr(parameters.shutil, "which", lambda name: None)
    assert parse(cluster=str(tmp_path), installed=False).jobs == 7
    with pytest.raises(BadParameter, match="CLUSTER=slurm is not possible: this machine has no sbatch"):
        parse(cluster="slurm", installed=False)


def test_make_says_it_too():
    result = subprocess.run(["make", "book", "CLUSTER=slrum"], cwd=REPOSITORY, capture_output=True, text=True)
    said = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert result.returncode == 2 and len(said) == 1 and said[0].startswith("CLUSTER=slrum is not known")


def test_how_far_a_page_is_its_files_tell(tmp_path, capsys):
    """Begun, begun once more after it was lost, ended: no engine's words are read."""
    book = tiny_book(tmp_path / "book")
    engine.plan(book.layout, book.parameters, [ONE])
    watch = engine.Watch(book.layout, [ONE])
    watch.look()
    for mark in ("17 1", "17 1", "18 2"):
        book.layout.begun(ONE).parent.mkdir(parents=True, exist_ok=True)
        book.layout.begun(ONE).write_text(mark)
        watch.look()
    assert execute.execute(book.layout, ONE, book.parameters)
    book.layout.begun(ONE).write_text("18 2")
    watch.look()
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"[0/1] {ONE}: running", f"[0/1] {ONE}: lost or failed, once more"]
    assert len(said) == 3 and said[2].startswith(f"[1/1] {ONE}: executed in ")


@pytest.fixture
def impatient(tmp_path):
    """The profile, in a folder of its own, with less time between two looks at the jobs."""
    wait = "slurm-init-seconds-before-status-checks: "
    text = (PROFILE / "config.yaml").read_text(encoding="utf-8")
    assert f"{wait}10\n" in text
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(text.replace(f"{wait}10", f"{wait}2"), encoding="utf-8")
    return tmp_path / "profile"


@pytest.fixture
def book(tmp_path):
    """A tiny book whose first page says that it began and waits until it may go on."""
    book = tiny_book(tmp_path / "book")
    folder = f"pathlib.Path({str(book.root)!r})"
    lines = ["import os, pathlib, time", f"open({folder} / f'begun-{{os.getpid()}}', 'w').close()"]
    lines += [f"while not ({folder} / 'go').exists():", "    time.sleep(0.05)", "from tiny.alpha import number"]
    book.edit("chapters/part/one.md", "from tiny.alpha import number", "\n".join(lines))
    return book


def command(book, step="run", cluster="slurm"):
    words = [sys.executable, "-m", "claimbook", step, "--device", "cpu", "--cluster", str(cluster)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, cwd=book.root, start_new_session=True, **streams)


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def begun(book):
    return len(list(book.root.glob("begun-*")))


def jobs(book, page):
    """The jobs of one page of this book, the first one first, with their states."""
    words = ["squeue", "--states=all", "--noheader", "--sort=i", "--format=%i|%T|%Z|%k"]
    rows = [line.split("|") for line in subprocess.run(words, capture_output=True, text=True).stdout.splitlines()]
    name = page.replace("/", "_")
    return {job: state for job, state, folder, text in rows if folder == str(book.root) and text.endswith(name)}


def content(book, page):
    """An executed notebook without its provenance."""
    notebook = json.loads(book.layout.executed(page).read_text(encoding="utf-8"))
    notebook["metadata"].pop("claimbook")
    return notebook


@needs_slurm
@pytest.mark.parametrize(
    ("step", "kill", "state"),
    [("build", ["scancel", "{}"], "CANCELLED"), ("run", ["scancel", "--signal=KILL", "{}.0"], "FAILED")],
    ids=["cancelled", "killed"],
)
def test_a_lost_job_is_submitted_again_and_nothing_is_lost(book, step, kill, state):
    """Slurm kills on whichever node it is: the job, or in it step 0, the processes that execute the chapter."""
    process = command(book, step)
    until(lambda: begun(book) == 1 and engine.is_current(book.layout, TWO, book.parameters))
    done = book.layout.executed(TWO).read_bytes()
    (lost,) = jobs(book, ONE)
    subprocess.run([word.format(lost) for word in kill], check=True)
    until(lambda: begun(book) == 2)
    (book.root / "go").touch()
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    for line in ("part/one: lost or failed, once more", "[2/2] part/one: executed in", "2 of 2 chapters executed"):
        assert line in text
    states = jobs(book, ONE)
    assert [states.pop(lost), *states.values()] == [state, "COMPLETED"]
    assert list(jobs(book, TWO).values()) == ["COMPLETED"]
    assert book.layout.executed(TWO).read_bytes() == done
    assert (book.layout.html / f"{ONE}.html").is_file() == (step == "build")
    assert engine.plan(book.layout, book.parameters, [ONE, TWO]) == []
    submitted = {page: content(book, page) for page in (ONE, TWO)}
    for page in (ONE, TWO):
        book.layout.executed(page).unlink()
        assert execute.execute(book.layout, page, book.parameters)
        assert content(book, page) == submitted[page], "a job's notebook differs from one made here"


@needs_slurm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill -9"])
def test_a_build_that_ends_takes_its_jobs_with_it_and_the_next_goes_on(book, impatient, number):
    process = command(book, cluster=impatient)
    until(lambda: begun(book) == 1 and engine.is_current(book.layout, TWO, book.parameters))
    done = book.layout.executed(TWO).read_bytes()
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    until(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & set(jobs(book, ONE).values()))
    (book.root / "go").touch()
    again = command(book, cluster=impatient)
    text = again.communicate(timeout=240)[0]
    assert again.returncode == 0 and text.splitlines()[-1] == "book: 1 of 2 chapters executed", text
    assert book.layout.executed(TWO).read_bytes() == done


@needs_slurm
def test_a_failing_chapter_is_reported_as_on_one_machine(book, impatient):
    (book.root / "go").touch()
    book.edit("chapters/part/one.md", "from tiny.alpha import number", "raise RuntimeError('the pump is dry')")
    process = command(book, cluster=impatient)
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 1 and len(jobs(book, ONE)) == 3, text
    assert "chapters/part/one.md failed in code cell 2:" in text and "RuntimeError: the pump is dry\nlog: " in text
    assert "1 chapter failed; the finished ones are kept; 1 of 2 chapters executed" in text
    assert engine.plan(book.layout, book.parameters, [ONE, TWO]) == [ONE]

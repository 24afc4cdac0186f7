"""The engine: which chapters are to run, and running them in parallel, as processes here or as jobs of a cluster."""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import psutil

from claimbook.run import failures
from claimbook.run.execute import executed_run
from claimbook.source import pages
from claimbook.source.files import to_json, write_whole
from claimbook.source.keys import Key, page_key
from claimbook.source.pages import Layout
from claimbook.source.parameters import Parameters

LOOK = 0.1  # seconds between two looks at the files of running pages


class BuildFailed(Exception):
    """The build stopped; the message is the report. What is finished is kept, and the last good site left alone."""


def say(text: str) -> None:
    print(text, flush=True)


def execute_all(layout: Layout, parameters: Parameters) -> tuple[str, dict[str, dict]]:
    """Execute what is not current; say in words how much that was, and return the reports of what failed."""
    names = pages.notebooks(layout.root)
    waiting = plan(layout, parameters, names)
    failed = run_chapters(layout, parameters, waiting) if waiting else {}
    return f"{len(waiting) - len(failed)} of {len(names)} chapters executed", failed


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the lock of the book: a second build says whom it waits for, waits, and then finds everything done.

    The system lets go of the lock when its holder ends, however it ends.
    """
    (root / "build").mkdir(parents=True, exist_ok=True)
    with open(root / "build" / ".lock", "a+", errors="replace") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            say(f"book: another build is running (process {lock.read().strip() or 'unknown'}); waiting for it to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def plan(layout: Layout, parameters: Parameters, names: list[str]) -> list[str]:
    """The pages whose current key is not executed.

    Writes each one's key to ``build/<profile>/keys``. The file is newer than the executed notebook exactly if the page
    has to be executed, and never the same twice (Snakemake takes small files with equal contents for unchanged): so an
    engine that goes by files alone comes to the same plan.
    """
    waiting = []
    for page in names:
        key = page_key(layout.root, page, parameters)
        run = executed_run(layout, page)
        if run.get("key") != key.key:
            planned = {"key": key.key, "parts": key.parts, "because": why(key, run), "time": time.time()}
            write_whole(layout.key(page), to_json(planned))
            waiting.append(page)
    return waiting


def is_current(layout: Layout, page: str, parameters: Parameters) -> bool:
    """Whether the executed notebook of a page carries its current key."""
    return executed_run(layout, page).get("key") == page_key(layout.root, page, parameters).key


def why(key: Key, run: dict) -> str:
    """Why a page has to be executed, in a few words."""
    return ", ".join(key.changes(run["parts"])) + " changed" if run else "not executed yet"


def run_chapters(layout: Layout, parameters: Parameters, waiting: list[str]) -> dict[str, dict]:
    """Execute pages in parallel, here or on a cluster, a line for each one that begins or ends.

    How far a page is, its files tell: a mark when it begins, a notebook with its key or a report when it ends. So no
    engine's words are read, and any engine that runs ``python -m claimbook execute`` will do.

    Returns:
        Page -> report of every chapter that failed; the others are finished first.

    Raises:
        BuildFailed: the engine of a cluster failed for another reason.
    """
    at_once = _at_once(parameters, len(waiting))
    say(f"book: executing {len(waiting)} chapters ({parameters.profile}, {parameters.device}, {at_once} at once)")
    for page in waiting:
        layout.failure(page).unlink(missing_ok=True)
        layout.begun(page).unlink(missing_ok=True)
        say(f"  {page}: {json.loads(layout.key(page).read_text(encoding='utf-8'))['because']}")
    watch = Watch(layout, waiting)
    if parameters.cluster:
        _on_cluster(layout, parameters, waiting, watch)
    else:
        _here(layout, parameters, waiting, watch)
    failed = failures.read(layout, waiting)
    lost = [page for page in waiting if page not in failed and not is_current(layout, page, parameters)]
    return failed | {page: failures.silent(layout, page, edited=watch.is_fresh(page)) for page in lost}


def _at_once(parameters: Parameters, waiting: int) -> int:
    """How many chapters run side by side; one GPU serves one at a time."""
    return 1 if parameters.device == "cuda" and not parameters.cluster else min(parameters.jobs, waiting)


class Watch:
    """Says what became of pages, from the files that they leave."""

    def __init__(self, layout: Layout, waiting: list[str]):
        self.layout, self.waiting = layout, waiting
        self.begun: dict[str, str] = {}
        self.ended: set[str] = set()

    def look(self) -> None:
        """A line for each page that began, began once more, or ended since the last look."""
        for page in self.waiting:
            mark = self.layout.begun(page)
            began = mark.read_text(encoding="utf-8") if mark.is_file() else ""
            if began and self.begun.get(page) != began:
                self.tell(page, "lost or failed, once more" if page in self.begun else "running")
                self.begun[page] = began
                self.ended.discard(page)
            if page not in self.ended and (state := self.state(page)):
                self.ended.add(page)
                self.tell(page, state)

    def state(self, page: str) -> str:
        """How a page ended; empty while it has not."""
        if self.layout.failure(page).is_file():
            return "failed"
        if not self.is_fresh(page):
            return ""  # of an earlier build: reading it again and again would cost what it weighs
        return f"executed in {executed_run(self.layout, page)['seconds']} s"

    def is_fresh(self, page: str) -> bool:
        """Whether the executed notebook of a page is of this build."""
        notebook = self.layout.executed(page)
        return notebook.is_file() and notebook.stat().st_mtime > self.layout.key(page).stat().st_mtime

    def tell(self, page: str, state: str) -> None:
        say(f"[{len(self.ended)}/{len(self.waiting)}] {page}: {state}")


def _here(layout: Layout, parameters: Parameters, waiting: list[str], watch: Watch) -> None:
    """A process for each page, so many at once as there are jobs."""
    queue, running = list(reversed(waiting)), list[subprocess.Popen]()
    try:
        while queue or running:
            running = [process for process in running if process.poll() is None]
            while queue and len(running) < _at_once(parameters, len(waiting)):
                running.append(_start(layout, parameters, queue.pop()))
            watch.look()
            time.sleep(LOOK)
    except BaseException:
        _stop(running, patience=6.0)
        raise


def _start(layout: Layout, parameters: Parameters, page: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "claimbook", "execute", page]
    command += [f"--{name}={getattr(parameters, name)}" for name in ("profile", "device", "seed", "jobs")]
    return _follower(command, layout.root, subprocess.DEVNULL)  # what it says lies in the page's log and report


def _on_cluster(layout: Layout, parameters: Parameters, waiting: list[str], watch: Watch) -> None:
    """Snakemake sends a job for each page, and sends one once more that was lost or failed."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", "Snakefile"]
    command += ["--workflow-profile", parameters.cluster, "--jobs", str(parameters.jobs), "--scheduler", "greedy"]
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "--keep-going", "--force", "--nocolor"]
    command += ["--config", *(f"{name}={getattr(parameters, name)}" for name in ("profile", "device", "seed", "jobs"))]
    command += ["--", *(str(layout.executed(page).relative_to(layout.root)) for page in waiting)]
    log = layout.build / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as stream:
        engine = _follower(command, layout.root, stream)
        try:
            while engine.poll() is None:
                watch.look()
                time.sleep(LOOK)
            watch.look()
        except BaseException:
            _stop([engine], patience=30.0)  # it cancels its jobs when it is asked, and is given the time for it
            raise
    if engine.returncode and not watch.begun:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-15:])
        raise BuildFailed(f"{tail}snakemake failed (exit {engine.returncode}); run it again; log: {log}")


def _follower(command: list[str], folder: Path, output: int | TextIO) -> subprocess.Popen:
    """A process that is interrupted when this one ends, however it ends."""
    return subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        preexec_fn=_end_with_parent,
    )


def _stop(processes: list[subprocess.Popen], patience: float) -> None:
    """End processes with their families: ask them, and after a while make them.

    Ctrl-C has asked them already; a signal to the launcher alone has not. Kernels are ended by their chapters.
    """
    families = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            families += psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
    for member in families:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def _end_with_parent() -> None:
    """Ask Linux to interrupt this process when the launcher is killed, so that none runs beside the next build's.

    Snakemake takes SIGTERM for the wish to see its running jobs to their end; an interrupt makes it cancel them.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a launcher in the background of a shell ignores interrupts
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # 1 is PR_SET_PDEATHSIG

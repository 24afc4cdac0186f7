"""Faults from outside: killed kernels, full disks, cut files, broken networks, interrupts, builds at once, nonsense.

After each the message says what to do, and nothing that was computed before is lost or computed again.
"""

import contextlib
import dataclasses
import errno
import hashlib
import http.server
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from claimbook.command import build
from claimbook.command.__main__ import main
from claimbook.registry import verdicts
from claimbook.run import engine, execute
from claimbook.show import results
from claimbook.site import merge
from claimbook.source import pages
from claimbook.source.pages import BookError
from normdyn.data import files as datafiles
from normdyn.data import sets as data
from tiny_book import ONE, REPOSITORY, TWO, hear, tiny_book

LIMIT = 200_000  # bytes a file may have, where a full disk is played by a limit on the size of files


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A tiny book, executed and staged once; tests break copies of it."""
    book = tiny_book(tmp_path_factory.mktemp("tiny") / "book")
    build.run(book.root, book.parameters)
    build.stage(book.layout, book.parameters)
    return book


@pytest.fixture
def book(executed, tmp_path):
    return executed.copy(tmp_path / "book")


@contextlib.contextmanager
def kept(book, *names):
    """These pages are executed before and after: the same bytes, not written again, and current."""
    state = lambda: [(path.read_bytes(), path.stat().st_mtime_ns) for path in map(book.layout.executed, names)]
    before = state()
    yield
    assert state() == before
    assert set(names).isdisjoint(engine.plan(book.layout, book.parameters, pages.notebooks(book.root)))
    assert leftovers(book) == []


def leftovers(book):
    """Files under temporary names, below what is built or recorded."""
    folders = (book.layout.build / "executed", book.layout.build / "site", book.root / "data")
    return [path for folder in folders for path in folder.rglob(".*.*") if path.is_file()]


def step(book, *words):
    """What a step answers with in this process: its exit status."""
    return main([*words, "--device", "cpu", "--jobs", "2", "--root", str(book.root)])


def launch(book, *words, **options):
    """Start a step as the Makefile does, in a process group of its own."""
    command = [sys.executable, "-m", "claimbook", *words, "--device", "cpu", "--jobs", "2"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=book.root, start_new_session=True, **{"preexec_fn": hear} | streams | options)


def answer(process, seconds=120):
    """Status and text of a step that ends."""
    text = process.communicate(timeout=seconds)[0]
    assert "Traceback" not in text, text
    return process.returncode, text


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def hold(book, page=ONE):
    """Make a page write the process id of its kernel and wait for a file; returns how to learn the id."""
    code = """import os, time
from pathlib import Path
root = Path(os.environ["CLAIMBOOK_ROOT"])
(root / "half").write_text(str(os.getpid()))
(root / "half").rename(root / "kernel")
while not (root / "go").exists():
    time.sleep(0.05)
"""
    old = {ONE: "from tiny.alpha import number", TWO: "from tiny.beta import twice"}[page]
    book.edit(f"chapters/{page}.md", old, code + old)

    def kernel():
        until((book.root / "kernel").exists)
        return int((book.root / "kernel").read_text())

    return kernel


def go(book):
    (book.root / "go").touch()


def gone(process):
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


# Kernels


def test_a_kernel_that_is_killed_inside_a_cell(book):
    kernel = hold(book)
    with kept(book, TWO):
        process = launch(book, "run")
        os.kill(kernel(), signal.SIGKILL)
        status, text = answer(process)
        assert status == 1
        assert "chapters/part/one.md failed in code cell 2:\n    from IPython.display import display\n" in text
        assert "Kernel died: it was killed, or memory ran out; run it again, with JOBS=1 if memory is short" in text
        assert "1 chapter failed; the finished ones are kept" in text and "log: build/quick/logs/" in text
        go(book)
        status, text = answer(launch(book, "run"))
        assert (status, text.splitlines()[-1]) == (0, "book: 1 of 2 chapters executed")


def test_a_chapter_whose_own_process_is_killed(book):
    kernel = hold(book)
    with kept(book, TWO):
        process = launch(book, "run")
        running = kernel()
        chapters = [
            p for p in psutil.Process(process.pid).children(recursive=True) if p.cmdline()[3:5] == ["execute", ONE]
        ]
        assert len(chapters) == 1
        chapters[0].kill()
        status, text = answer(process)
        assert status == 1 and text.endswith(
            "chapters/part/one.md failed:\nit ended without a report: it was killed, or memory ran out; run it again, "
            "with JOBS=1 if memory is short\nlog: build/quick/logs/part/one.log\n\n"
            "1 chapter failed; the finished ones are kept; 0 of 2 chapters executed\n"
        )
        until(lambda: gone(running), 10)  # a kernel ends with who started it


# Full disks


def full(monkeypatch, ending):
    """From now on there is no room for the files whose paths end so."""
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith(ending):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)


def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


ROOM = "No space left on device; make room on the disk and run it again; what is finished is kept"
LARGER = "File too large; raise the limit on the size of files (ulimit -f) and run it again; what is finished is kept"


def test_a_library_that_is_edited_while_chapters_run_is_named_as_the_cause(book, monkeypatch):
    def here(layout, parameters, waiting, watch):
        execute.execute(layout, ONE, parameters)
        book.edit("lib/tiny/alpha.py", "return 1.0", "return 2.0")

    book.edit("lib/tiny/alpha.py", "return 1", "return 1.0")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_here", here)
        waiting = engine.plan(book.layout, book.parameters, [ONE])
        failed = engine.run_chapters(book.layout, book.parameters, waiting)
    assert failed[ONE]["error"] == "it was executed, but what it rests on was edited since; run it again"


def test_a_notebook_that_finds_no_room_leaves_the_old_one(book, monkeypatch):
    before = book.layout.executed(ONE).read_bytes()
    book.edit("lib/tiny/alpha.py", "return 1", "return 1.0")
    with kept(book, TWO):
        with monkeypatch.context() as patch:
            full(patch, "executed/part/one.ipynb")
            with pytest.raises(
                execute.ChapterFailed, match=f"part/one.md failed:\n.*executed/part/one.ipynb: {ROOM}\nlog"
            ):
                execute.execute(book.layout, ONE, book.parameters)
        assert book.layout.executed(ONE).read_bytes() == before
        assert engine.plan(book.layout, book.parameters, [ONE, TWO]) == [ONE]


def test_no_room_even_for_the_report(book, monkeypatch):
    book.edit("lib/tiny/alpha.py", "return 1", "return 1.0")
    with kept(book, TWO):
        with monkeypatch.context() as patch:
            full(patch, "")
            with pytest.raises(execute.ChapterFailed, match=ROOM):
                execute.execute(book.layout, ONE, book.parameters)


def test_an_output_too_large_for_the_disk(book):
    book.edit("chapters/part/one.md", "from tiny.alpha", f"print('x' * {2 * LIMIT})\nfrom tiny.alpha")
    with kept(book, TWO):
        status, text = answer(launch(book, "run", preexec_fn=limited))
        assert status == 1
        assert "chapters/part/one.md failed:\n" in text and LARGER in text
        assert "1 chapter failed; the finished ones are kept" in text
        assert engine.plan(book.layout, book.parameters, [ONE, TWO]) == [ONE]


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("keys/part/one.json", ["plan"]),
        ("keys/part/one.json", ["run"]),
        ("build/quick/verdicts.json", ["build"]),
        ("site/part/one.ipynb", ["build"]),
        ("data/verdicts/quick.json", ["verdicts"]),
        ("data/claims/Z.yaml", ["verdicts"]),
    ],
)
def test_no_room_for_what_the_pipeline_writes(book, monkeypatch, capsys, ending, words):
    ledger = [book.root / "data/verdicts/quick.json", book.root / "data/claims/Z.yaml"]
    ledger[0].parent.mkdir()
    ledger[0].write_text("{}\n")
    if words[0] in ("plan", "run"):
        book.edit("lib/tiny/alpha.py", "return 1", "return 1.0")
    else:
        shutil.rmtree(book.layout.staged)
        if words[0] == "build":
            (book.layout.build / "verdicts.json").unlink()
    before = [path.read_bytes() for path in ledger]
    with kept(book, TWO):
        with monkeypatch.context() as patch:
            full(patch, ending)
            assert step(book, *words) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 2 and said.endswith(f"{ending}: {ROOM}\n"), said
        changed = [path for path, old in zip(ledger, before, strict=True) if path.read_bytes() != old]
        assert changed == ([ledger[0]] if ending.endswith(".yaml") else [])
    if words[0] == "verdicts":
        assert step(book, *words) == 0
        assert "page: part/one" in ledger[1].read_text()


def test_no_room_for_the_site_leaves_the_old_one(book, monkeypatch, capsys):
    jupyter_book(monkeypatch, book, "the old site")
    build.build(book.root, book.parameters)
    book.edit("chapters/part/one.md", "The first number", "The very first number")
    jupyter_book(monkeypatch, book, "the new site")
    room = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    def copy(source, target, *rest, **more):
        if "html.new" in str(target) and room:
            raise room.pop()
        return copyfile(source, target, *rest, **more)

    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", copy)
    with kept(book, ONE, TWO):
        assert step(book, "build") == 1
        assert capsys.readouterr().err.endswith(f"html.new/index.html: {ROOM}\n")
        assert (book.layout.html / "index.html").read_text() == "the old site"
        assert step(book, "build") == 0
        assert (book.layout.html / "index.html").read_text() == "the new site"


def test_no_room_for_a_stored_result(tmp_path):
    """The old file stays, and the error names it and says that the arrays are still there to be saved."""
    code = f"""import resource, torch
from claimbook.show import results
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    results.save({{"a": torch.rand(5000)}}, "toy", setup={{}}, seeds=0, seconds=1.0, device="cpu", data_sha256="",
                 folder={str(tmp_path)!r})
except OSError as error:
    print(error)"""
    path = stored(tmp_path, torch.ones(3))
    before = path.read_bytes()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "File too large; make room, or choose another folder, and save again: " in said and "toy.npz'" in said
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def stored(folder, array, profile="paper"):
    """A result in a file of its own."""
    made = {"setup": {}, "seeds": 0, "seconds": 1.0, "device": "cpu", "data_sha256": ""}
    return results.save({"a": array}, "toy", **made, profile=profile, folder=folder)


# Cut files


def cuts(path):
    """The contents of a file, cut here and there, and garbled."""
    content = path.read_bytes()
    return [content[:length] for length in (0, 1, len(content) // 2, len(content) - 2)] + [b"\xff" + content]


def test_an_executed_notebook_that_was_cut_anywhere_is_waited_for_and_not_published(book):
    path = book.layout.executed(ONE)
    with kept(book, TWO):
        for content in cuts(path):
            path.write_bytes(content)
            assert engine.plan(book.layout, book.parameters, [ONE, TWO]) == [ONE]
            with pytest.raises(merge.Stale, match="part/one: .* is not published"):
                build.stage(book.layout, book.parameters)


def test_what_the_pipeline_notes_for_itself_may_be_garbled(book, capsys):
    notes = ["keys/part/one.json", "logs/part/one.failure.json", "logs/part/one.lock", "runs.json", "verdicts.json"]
    for path in [book.layout.build / name for name in (*notes, "site.sha256", "../.lock", "work/machinery.sha256")]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\xff{")
    with kept(book, ONE, TWO):
        assert step(book, "plan") == 0 and capsys.readouterr().out == ""
        assert not build.site_is_current(book.layout)
        build.stage(book.layout, book.parameters)
    assert list(verdicts.read_verdicts(book.layout.build / "verdicts.json", "")) == ["Z-one"]


def test_built_verdicts_that_were_cut_are_not_recorded(book, capsys):
    path = book.layout.build / "verdicts.json"
    with kept(book, ONE, TWO):
        for content in cuts(path)[:4] + [b"[]", b'{"Z-one": {"verdict": "holds"}}']:
            path.write_bytes(content)
            assert step(book, "verdicts") == 1
            assert not (book.root / "data/verdicts").exists()
            said = capsys.readouterr().err
            assert "verdicts.json: cut or damaged (" in said
            assert said.endswith("; run make book PROFILE=quick, which writes it anew\n")
        build.stage(book.layout, book.parameters)
        assert step(book, "verdicts") == 0


def test_recorded_verdicts_that_were_cut(book, capsys):
    assert step(book, "verdicts") == step(book, "compare") == 0
    path = book.root / "data/verdicts/quick.json"
    with kept(book, ONE, TWO):
        for content in cuts(path):
            path.write_bytes(content)
            assert step(book, "compare") == 1
            said = capsys.readouterr().err
            assert "quick.json: cut or damaged" in said
            assert said.endswith("; take it back from the last commit: git checkout -- data/verdicts/quick.json\n")
        assert step(book, "verdicts") == step(book, "compare") == 0


def test_a_registry_that_was_cut_anywhere(book, capsys):
    """It is named, or what is left still tells all that the pages decide."""
    path = book.root / "data/claims/Z.yaml"
    content, whole, named = path.read_bytes(), verdicts.collect(book.layout, [ONE, TWO]), 0
    with kept(book, ONE, TWO):
        for length in range(len(content)):
            path.write_bytes(content[:length])
            try:
                assert verdicts.collect(book.layout, [ONE, TWO]) == whole
            except BookError as problem:
                said, named = str(problem), named + 1
                assert "data/claims" in said and ("git checkout -- data/claims/Z.yaml" in said or "add a row" in said)
        assert named > len(content) / 2
        path.write_bytes(content[: content.index(b"  section: 2")])
        assert step(book, "build") == 1
        assert "data/claims/Z.yaml: Z-two has no " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("_toc.yml", b"", "_toc.yml lists no page; mend it, or take it back from the last commit"),
        (
            "_toc.yml",
            b"root: index\nchapters:\n  - file: part/one\n  - fi",
            "_toc.yml: 'fi' is not an entry; mend it, or take it back",
        ),
        ("_toc.yml", b"root: \xff", "_toc.yml: not YAML ("),
        ("_config.yml", b"sphinx: {config: [", "_config.yml, line 2: not YAML ("),
        ("data/claims/Z.yaml", b"Z-one", "data/claims/Z.yaml: not a list of claims; mend it, or take it back"),
        ("chapters/part/one.md", b"\xff", "one.md: not UTF-8 text (invalid start byte at byte 0); mend the file"),
    ],
)
def test_sources_that_were_cut_are_named(book, monkeypatch, capsys, name, content, line):
    monkeypatch.setattr(build, "make_site", lambda layout, **_: verdicts.written(layout.root))
    path = book.root / name
    whole = path.read_bytes()
    with kept(book, ONE, TWO):
        path.write_bytes(content)
        assert step(book, "build") == 1
        assert line in capsys.readouterr().err
        path.write_bytes(whole)


def test_a_stored_result_that_was_cut_fails_its_page_only(book):
    shutil.copytree(REPOSITORY / "lib/claimbook/show", book.root / "lib/claimbook/show")
    path = stored(book.root / "data/results", torch.ones(300), "quick")
    load = 'from claimbook.show import results\n\nresults.load("data/results/quick/toy.npz")\n'
    book.edit("chapters/part/two.md", "from tiny.beta", f"{load}from tiny.beta")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with kept(book, ONE):
        line = r"toy.npz is damaged or was not written by save\(\): run its study again"
        with pytest.raises(execute.ChapterFailed, match=f"part/two.md failed in code cell 2:\n(.*\n)*.*{line}"):
            execute.execute(book.layout, TWO, book.parameters)


# Broken networks


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """A publisher of CIFAR-10 who sends only as many bytes as ``sent`` says, out of ``content``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        content, sent, length = os.urandom(300_000), 100_000, True

        def do_GET(self):
            self.send_response(200)
            if self.length:
                self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()
            self.wfile.write(self.content[: self.sent])

        def log_message(self, *_):
            """Requests are not news."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        checksums = {"cifar-10-python.tar.gz": "md5:" + hashlib.md5(Handler.content).hexdigest()}
        changes = {"url": f"http://127.0.0.1:{server.server_port}/", "checksums": checksums}
        monkeypatch.setattr(datafiles, "CIFAR10", dataclasses.replace(datafiles.CIFAR10, **changes))
        yield Handler
        server.shutdown()


def test_a_connection_that_breaks_in_the_middle(tmp_path, publisher):
    remedy = (
        "could not fetch http.*/cifar-10-python.tar.gz .*Without a network, put CIFAR-10's files in .*NORMDYN_DATA="
    )
    with pytest.raises(ConnectionError, match=remedy):
        data.cifar10(directory=tmp_path / "data", download=True)
    assert list((tmp_path / "data").iterdir()) == []
    publisher.length = False  # then nothing but the checksum can tell that it is not whole
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz has not the checksum .*nothing was kept, try again"):
        data.cifar10(directory=tmp_path / "data", download=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_broken_download_keeps_the_files_that_were_there(tmp_path, publisher):
    own = tmp_path / "data" / "cifar-10-batches-py" / "test_batch"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(ConnectionError):
        data.cifar10(directory=tmp_path / "data", download=True)
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == [own] and own.read_bytes() == b"mine"


@pytest.mark.parametrize("where", ["while it is fetched", "while it is unpacked"])
def test_no_room_for_a_data_set(tmp_path, publisher, monkeypatch, where):
    publisher.sent = len(publisher.content)

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "while it is fetched":
        monkeypatch.setattr("pooch.core.stream_download", refuse)
    else:
        monkeypatch.setattr(datafiles, "_unpack", refuse)
    text = "no room for CIFAR-10 .No space left on device.; nothing was kept: make room, or name another folder: .*data"
    with pytest.raises(OSError, match=text):
        data.cifar10(directory=tmp_path / "data", download=True)
    assert list((tmp_path / "data").iterdir()) == []


# Interrupts


INTERRUPTED = "book: interrupted; what is finished is kept, and the next run goes on"


def test_a_terminated_build_ends_its_kernels_and_the_next_one_goes_on(book):
    """As a batch system or ``timeout`` does: the signal reaches the launcher alone."""
    kernel = hold(book)
    with kept(book, TWO):
        process = launch(book, "run")
        number = kernel()
        process.terminate()
        status, text = answer(process)
        assert (status, text.splitlines()[-1]) == (130, INTERRUPTED)
        until(lambda: gone(number), 10)
        go(book)
        status, text = answer(launch(book, "run"))
        assert (status, text.splitlines()[-1]) == (0, "book: 1 of 2 chapters executed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_chapter_ends_its_kernel_and_leaves_the_old_notebook(book, number):
    kernel, before = hold(book), book.layout.executed(ONE).read_bytes()
    with kept(book, TWO):
        process = launch(book, "chapter", ONE)
        running = kernel()
        process.send_signal(number)
        status, text = answer(process)
        assert (status, text.splitlines()[-1]) == (130, INTERRUPTED)
        until(lambda: gone(running), 10)
        assert book.layout.executed(ONE).read_bytes() == before
        assert engine.plan(book.layout, book.parameters, [ONE, TWO]) == [ONE]


def jupyter_book(monkeypatch, book, text, interrupted=False):
    """Play the program that makes the site: it writes two pages, or one and a half."""
    run = subprocess.run

    def play(command, **options):
        if "jupyter-book" not in command[0]:
            return run(command, **options)
        html = Path(command[command.index("--path-output") + 1], "_build", "html")
        html.mkdir(parents=True, exist_ok=True)
        if interrupted:
            (html / "half.html").write_text(text[: len(text) // 2])
            raise KeyboardInterrupt
        (html / "index.html").write_text(text)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(build.subprocess, "run", play)


def test_an_interrupted_site_is_not_published_and_not_built_upon(book, monkeypatch, capsys):
    jupyter_book(monkeypatch, book, "the old site")
    assert step(book, "build") == 0
    book.edit("chapters/part/one.md", "The first number", "The very first number")
    with kept(book, ONE, TWO):
        jupyter_book(monkeypatch, book, "the new site", interrupted=True)
        assert step(book, "build") == 130
        assert capsys.readouterr().err.splitlines()[-1] == INTERRUPTED
        assert [path.name for path in book.layout.html.iterdir()] == ["index.html"]
        jupyter_book(monkeypatch, book, "the new site")
        assert step(book, "build") == 0
        assert (book.layout.html / "index.html").read_text() == "the new site"
        assert not (book.layout.html / "half.html").exists()


# Two builds at once


def test_a_build_that_waits_for_one_that_is_killed_goes_on_in_its_place(book):
    hold(book)
    with kept(book, TWO):
        first = launch(book, "run")
        until((book.root / "kernel").exists)
        second = launch(book, "run")
        assert second.stdout.readline().endswith(f"(process {first.pid}); waiting for it to end\n")
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate(timeout=30)
        go(book)
        status, text = answer(second)
        assert (status, text.splitlines()[-1]) == (0, "book: 1 of 2 chapters executed")


def test_two_sites_at_once_end_as_one(book):
    hold(book)
    with kept(book, TWO):
        first = launch(book, "build")
        until((book.root / "kernel").exists)
        second, other = launch(book, "build"), launch(book, "verdicts", "--profile", "paper")
        assert answer(other)[1].strip() == "there are no verdicts yet; run make book PROFILE=paper"
        assert "waiting for it to end" in second.stdout.readline()
        go(book)
        for process, line in (
            (first, "1 of 2 chapters executed, site built"),
            (second, "0 of 2 chapters executed, site"),
        ):
            status, text = answer(process)
            assert status == 0 and text.splitlines()[-1].startswith(f"book: {line}"), text
        assert "The first number" in (book.layout.html / f"{ONE}.html").read_text()


# Nonsense

NONSENSE = {
    "profile": (["", "Quick", "quick ", "../paper", "quick;ls", "None"], "choose quick or paper"),
    "device": (["", "CPU", "cuda:0", "cpu\n", "0"], "choose auto, cpu or cuda"),
    "seed": (["", " 1", "+1", "0x1", "1.0", "nan", "1" * 10, "²", "1\n"], "give a whole number from 0 to 999999999"),
    "jobs": (["-1", "+2", "1.5", "all", "10000", "0x2", "2\n"], "give a whole number from 1 up (this machine has "),
    "root": (
        ["nowhere", "_toc.yml", "chapters"],
        "is not the root of a book: there is no _toc.yml; name the root",
    ),
}


@pytest.mark.parametrize(
    "words", [["build"], ["run"], ["plan"], ["chapter", ONE], ["compare"], ["execute", ONE], ["verdicts"]]
)
def test_every_option_of_every_step_refuses_nonsense_in_a_line(book, capsys, monkeypatch, words):
    monkeypatch.chdir(book.root)
    before = {path: path.stat().st_mtime_ns for path in book.root.rglob("*")}
    for option, (values, line) in NONSENSE.items():
        for value in values:
            assert main([*words, "--device", "cpu", f"--{option}={value}"]) == 2, (option, value)
            said = capsys.readouterr()
            assert said.out == "" and line in said.err and value.strip() in said.err, (option, value)
    assert {path: path.stat().st_mtime_ns for path in book.root.rglob("*")} == before


@pytest.mark.parametrize("name", ["chapter", "execute", "compare"])
def test_a_page_that_is_none(book, capsys, name):
    for page in ("index", "part", "/part/one", "../one", "part/one.md", "part/one/", "PART/ONE", "*"):
        assert step(book, name, page) == 2
        assert capsys.readouterr().err == f"PAGE={page} is not a chapter with code: choose one of {ONE}, {TWO}\n"


@pytest.mark.parametrize(
    "words", [[], ["bild"], ["build", "--sed", "1"], ["build", ONE], ["chapter"], ["run", "--seed"]]
)
def test_words_that_are_no_step_or_option_show_the_usage(capsys, words):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    said = capsys.readouterr().err
    assert said.startswith("usage: python -m claimbook") and "error: " in said


@pytest.mark.parametrize("words", [["build", "--seed=x"], ["check", "x"]])
def test_no_traceback_reaches_the_reader(book, words):
    module = ["claimbook.command.check", *words[1:]] if words[0] == "check" else ["claimbook", *words]
    result = subprocess.run([sys.executable, "-m", *module], cwd=book.root, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and " is not allowed: give a " in result.stderr


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("PROFILE=it's", "PROFILE=it's is not known: choose quick or paper"),
        ("DEVICE=cpu'; touch here; '", "DEVICE=cpu'; touch here; ' is not known: choose auto, cpu or cuda"),
        ('SEED="0"', 'SEED="0" is not allowed: give a whole number from 0 to 999999999'),
        ("JOBS=`touch here`", "JOBS=`touch here` is not allowed: give a whole number from 1 up (this machine has "),
        ("PAGE=a, b", "PAGE=a, b is not a chapter with code: choose one of "),
        ("PYTHON=it's", "PYTHON=it's is not a command: give a Python 3.11 or newer"),
        ("PROFIL=paper", "PROFIL is not an option: choose among PROFILE DEVICE SEED JOBS PAGE PYTHON"),
    ],
)
def test_make_takes_a_word_as_it_is_and_names_what_it_may_be(word, line):
    goals = ["parameters", *(["chapter"] if word.startswith("PAGE") else [])]
    result = subprocess.run(["make", *goals, word], cwd=REPOSITORY, capture_output=True, text=True)
    said = [text for text in result.stderr.splitlines() if not text.startswith("make")]
    assert (result.returncode, result.stdout, len(said)) == (2, "", 1) and said[0].startswith(line), result.stderr
    assert not (REPOSITORY / "here").exists()

"""The pipeline under faults: what it executes, keeps, publishes, and refuses to publish."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import nbformat
import pytest

from claimbook.command import build
from claimbook.run import engine, execute, failures
from claimbook.site import merge
from claimbook.source import pages
from claimbook.source.parameters import Parameters
from tiny_book import ONE, TWO, hear, tiny_book


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A tiny book, executed and built once; tests work on copies of it."""
    book = tiny_book(tmp_path_factory.mktemp("tiny") / "book")
    build.build(book.root, book.parameters)
    return book


@pytest.fixture
def book(built, tmp_path):
    return built.copy(tmp_path / "book")


def started(book):
    """When each executed notebook was written: tells whether a page was executed again."""
    return {page: book.layout.executed(page).stat().st_mtime_ns for page in (ONE, TWO)}


def html(book, page):
    return (book.layout.html / f"{page}.html").read_text(encoding="utf-8")


def no_kernel(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a page was executed")

    monkeypatch.setattr(engine, "run_chapters", refuse)


def command(book, step="build"):
    """Start a step as the Makefile does, in a process group of its own."""
    words = [sys.executable, "-m", "claimbook", step, "--device", "cpu", "--jobs", "2"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, cwd=book.root, start_new_session=True, preexec_fn=hear, **streams)


def test_a_page_tells_what_made_it(built):
    run = execute.executed_run(built.layout, ONE)
    assert (run["profile"], run["device"], run["seed"]) == ("quick", "cpu", 0)
    assert run["seconds"] > 0 and run["memory"] > 2**20 and run["versions"]["python"]
    text = html(built, ONE)
    for shown in ("How this page was made", run["commit"], run["versions"]["numpy"], run["key"][:16]):
        assert shown in text


def test_a_figure_offers_its_data(built):
    link = re.search(r'href="([^"]*square\.csv)"', html(built, ONE))
    data = (built.layout.html / ONE).parent / link[1]
    assert data.read_text(encoding="utf-8") == "seed,number\n0,1\n"


def test_the_notebook_for_readers_carries_parameters_and_outputs(built):
    notebook = nbformat.read(built.layout.html / "_sources" / f"{ONE}.ipynb", as_version=4)
    nbformat.validate(notebook)
    injected = [cell for cell in notebook.cells if "injected-parameters" in pages.tags(cell)]
    assert len(injected) == 1 and "remove-cell" in pages.tags(injected[0])
    assert any(cell.cell_type == "code" and cell.outputs for cell in notebook.cells)
    assert len({cell["id"] for cell in notebook.cells}) == len(notebook.cells)


def test_nothing_changed_means_nothing_done(book, monkeypatch):
    no_kernel(monkeypatch)
    before = started(book)
    stamp = (book.layout.html / "index.html").stat().st_mtime_ns
    build.build(book.root, book.parameters)
    assert started(book) == before
    assert (book.layout.html / "index.html").stat().st_mtime_ns == stamp


def test_edited_prose_and_caption_are_published_and_nothing_is_executed(book, monkeypatch):
    no_kernel(monkeypatch)
    book.edit("chapters/part/one.md", "The first number", "The very first number")
    book.edit("chapters/part/one.md", "A square stays a square.", "Squares stay squares.")
    build.build(book.root, book.parameters)
    assert "The very first number" in html(book, ONE) and "Squares stay squares." in html(book, ONE)


def test_an_edited_module_executes_exactly_its_dependents(book):
    before = started(book)
    book.edit("lib/tiny/gamma.py", "return 3", "return 4")
    names = pages.notebooks(book.root)
    waiting = engine.plan(book.layout, book.parameters, names)
    assert waiting == [TWO]
    engine.run_chapters(book.layout, book.parameters, waiting)
    after = started(book)
    assert [page for page in (ONE, TWO) if after[page] != before[page]] == [TWO]
    assert "8 five" in book.layout.executed(TWO).read_text(encoding="utf-8")
    assert engine.plan(book.layout, book.parameters, names) == []


def test_a_stale_page_is_not_published(book):
    book.edit("lib/tiny/alpha.py", "return 1", "return 1.0")
    with pytest.raises(merge.Stale, match="part/one: the executed notebook does not carry the current key"):
        build.stage(book.layout, book.parameters)


def test_outputs_of_another_seed_or_profile_are_not_published(book):
    with pytest.raises(merge.Stale, match="current key"):
        merge.merge(book.layout, ONE, Parameters("quick", "cpu", seed=1))
    assert merge.Layout(book.root, "paper").executed(ONE) != book.layout.executed(ONE)


def test_a_truncated_notebook_is_executed_again(book):
    path = book.layout.executed(ONE)
    path.write_bytes(path.read_bytes()[:-200])
    waiting = engine.plan(book.layout, book.parameters, pages.notebooks(book.root))
    assert waiting == [ONE]
    engine.run_chapters(book.layout, book.parameters, waiting)
    nbformat.validate(nbformat.read(path, as_version=4))
    assert engine.is_current(book.layout, ONE, book.parameters)


def test_a_failing_cell_fails_the_build_with_a_report_and_keeps_the_rest(book):
    book.edit("chapters/part/one.md", "from tiny.alpha import number", "raise RuntimeError('the pump is dry')")
    book.edit("lib/tiny/gamma.py", "return 3", "return 5")
    process = command(book)
    text = process.communicate()[0]
    assert process.returncode == 1
    assert "chapters/part/one.md failed in code cell 2:" in text
    assert "    raise RuntimeError('the pump is dry')" in text
    assert "at: raise RuntimeError('the pump is dry')\nRuntimeError: the pump is dry\nlog: " in text
    log = re.search(r"^log: (.*)$", text, flags=re.MULTILINE)[1]
    assert "the pump is dry" in (book.root / log).read_text(encoding="utf-8")
    assert "1 chapter failed; the finished ones are kept; 1 of 2 chapters executed" in text
    assert len(text.splitlines()) < 20, text
    assert engine.plan(book.layout, book.parameters, pages.notebooks(book.root)) == [ONE]
    said, other = html(book, ONE), html(book, TWO)
    for shown in ("<title>One", "This chapter failed", "the pump is dry", 'id="sec-one"', f"PAGE={ONE}"):
        assert shown in said, shown
    assert "10 five" in other and 'href="one.html#sec-one"' in other
    for old in ("A square stays a square.", "square.csv", "How this page was made", str(book.root)):
        assert old not in said, old
    assert not (book.layout.staged / f"{ONE}.ipynb").exists()
    assert list(json.loads((book.layout.build / "runs.json").read_text())) == [TWO]
    assert json.loads((book.layout.build / "verdicts.json").read_text()) == {}


def test_a_failed_page_comes_back_when_it_is_mended(book):
    book.edit("chapters/part/one.md", "from tiny.alpha import number", "raise RuntimeError('the pump is dry')")
    for state in ("built", "unchanged"):
        with pytest.raises(build.BuildFailed, match=f"site {state}, with a page for each that says so"):
            build.build(book.root, book.parameters)
    book.edit("chapters/part/one.md", "raise RuntimeError('the pump is dry')", "from tiny.alpha import number")
    build.build(book.root, book.parameters)
    assert "A square stays a square." in html(book, ONE) and "failed" not in html(book, ONE)


def test_a_chapter_that_ends_without_a_report_is_told_and_not_published(book, monkeypatch):
    book.edit("chapters/part/one.md", "from tiny.alpha import number", "raise RuntimeError('the pump is dry')")
    book.edit("chapters/part/two.md", "print(twice(), stored)", "raise RuntimeError('so is the well')")
    read = failures.read
    monkeypatch.setattr(failures, "read", lambda layout, names: read(layout, [ONE]))
    with pytest.raises(build.BuildFailed, match="2 chapters failed"):
        build.build(book.root, book.parameters)
    assert "it ended without a report" in html(book, TWO) and "five" not in html(book, TWO)


def test_the_page_of_a_failed_chapter_names_no_folder_of_this_machine(book):
    error = f"FileNotFoundError: {book.root}/data/x.csv, {sys.prefix}/lib/y.py, {tempfile.gettempdir()}/chapter-ab_1/z"
    text = failures.page(book.layout, failures.silent(book.layout, ONE) | {"error": error})
    assert "FileNotFoundError: data/x.csv, lib/y.py, z" in text and str(book.root) not in text


def test_a_cell_that_leaves_or_kills_the_kernel_fails_too(book):
    book.edit("chapters/part/one.md", "from tiny.alpha import number", "import sys; sys.exit(0)")
    with pytest.raises(execute.ChapterFailed, match="was not executed: the kernel left before it"):
        execute.execute(book.layout, ONE, book.parameters)
    book.edit("chapters/part/two.md", "print(twice(), stored)", "os.kill(os.getpid(), 9)")
    with pytest.raises(execute.ChapterFailed, match="Kernel died"):
        execute.execute(book.layout, TWO, book.parameters)


def test_a_warning_of_the_site_fails_again_until_it_is_mended(book, monkeypatch):
    no_kernel(monkeypatch)
    good = html(book, ONE)
    book.edit("chapters/part/one.md", "The first number", "The number of [](sec-nowhere)")
    for _ in range(2):
        with pytest.raises(build.BuildFailed, match=r"chapters/part/one.md.*sec-nowhere"):
            build.build(book.root, book.parameters)
        assert html(book, ONE) == good
    book.edit("chapters/part/one.md", "The number of [](sec-nowhere)", "The number")
    build.build(book.root, book.parameters)
    assert "The number" in html(book, ONE)


def slow(book):
    """Make page one wait until a file appears, and say that it began."""
    wait = "open(go.with_name('begun'), 'w').close()\nwhile not go.exists():\n    time.sleep(0.05)"
    code = f"import time, pathlib\ngo = pathlib.Path({str(book.root)!r}, 'go')\n{wait}\nfrom tiny.alpha import number"
    book.edit("chapters/part/one.md", "from tiny.alpha import number", code)
    book.edit("lib/tiny/gamma.py", "return 3", "return 6")


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "interrupt"])
def test_after_a_kill_the_next_build_goes_on(book, number):
    slow(book)
    process = command(book, "run")
    until(lambda: (book.root / "begun").exists() and engine.is_current(book.layout, TWO, book.parameters))
    done = book.layout.executed(TWO).stat().st_mtime_ns
    os.killpg(process.pid, number)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), text
    (book.root / "go").touch()
    again = command(book, "run")
    text = again.communicate(timeout=120)[0]
    assert again.returncode == 0, text
    assert text.splitlines()[-1] == "book: 1 of 2 chapters executed"
    assert book.layout.executed(TWO).stat().st_mtime_ns == done


def test_a_second_build_waits_and_finds_everything_done(book):
    slow(book)
    first = command(book, "run")
    until(lambda: (book.root / "begun").exists())
    second = command(book, "run")
    line = second.stdout.readline()
    assert line == f"book: another build is running (process {first.pid}); waiting for it to end\n"
    (book.root / "go").touch()
    assert first.wait(timeout=120) == 0
    text = second.communicate(timeout=60)[0]
    assert second.returncode == 0 and text == "book: 0 of 2 chapters executed\n"
    first.stdout.close()


def test_two_executions_of_one_page_do_not_meet(book):
    slow(book)
    words = [sys.executable, "-m", "claimbook", "execute", ONE, "--device", "cpu"]
    both = [subprocess.Popen(words, cwd=book.root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    until(lambda: (book.root / "begun").exists())
    (book.root / "go").touch()
    said = sorted(process.communicate(timeout=60)[0].splitlines()[-1] for process in both)
    assert said == [f"{ONE}: current", f"{ONE}: executed"]


def test_executing_twice_gives_the_same_bytes_but_for_times(book):
    def content():
        notebook = json.loads(book.layout.executed(ONE).read_text(encoding="utf-8"))
        notebook["metadata"].pop("claimbook")
        return json.dumps(notebook)

    before = content()
    book.layout.executed(ONE).unlink()
    execute.execute(book.layout, ONE, Parameters("quick", "cpu", 0, 2))
    assert content() == before


def test_a_page_that_left_the_book_leaves_the_site(book):
    book.edit("_toc.yml", "  - file: part/two\n", "")
    (book.root / "chapters/part/two.md").unlink()
    build.build(book.root, book.parameters)
    assert not (book.layout.html / f"{TWO}.html").exists()
    assert not (book.layout.staged / f"{TWO}.ipynb").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("_toc.yml", "part/two", "part/three", "part/three has no chapter; write chapters/part/three.md"),
        ("_toc.yml", "part/two", "part/one", "part/one stands there twice"),
        ("chapters/part/one.md", "[parameters, remove-input]", "[remove-input]", "one cell tagged 'parameters'"),
        ("chapters/part/two.md", "  display_name: Python 3\n", "  - display_name: [\n", "not a MyST notebook"),
    ],
)
def test_mistakes_in_the_sources_are_named(book, name, old, new, line):
    book.edit(name, old, new)
    with pytest.raises(pages.BookError, match=re.escape(line)):
        build.build(book.root, book.parameters)

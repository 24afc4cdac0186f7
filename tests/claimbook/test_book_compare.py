"""`make compare`: a reader's numbers beside the published ones."""

import json
import subprocess
import sys

import pytest

from claimbook.registry import compare, verdicts
from claimbook.source.pages import BookError
from tiny_book import ONE, TWO, tiny_book


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A tiny book, page one executed by the command itself, and what that found published."""
    book = tiny_book(tmp_path_factory.mktemp("tiny") / "book")
    (book.root / "data/verdicts").mkdir()
    (book.root / "data/verdicts/quick.json").write_text("{}")
    first = command(book, ONE)
    assert first.returncode == 1 and "no: not published, yours holds" in first.stdout, first.stderr
    verdicts.record(book.root, "quick", verdicts.collect(book.layout, [ONE]))
    return book


@pytest.fixture
def book(executed, tmp_path):
    return executed.copy(tmp_path / "book")


def command(book, *words):
    line = [sys.executable, "-m", "claimbook", "compare", *words, "--device", "cpu", "--jobs", "2"]
    return subprocess.run(line, cwd=book.root, capture_output=True, text=True)


def publish(book, **changes):
    """Edit what is published of Z-one."""
    path = book.root / "data/verdicts/quick.json"
    stored = json.loads(path.read_text())
    stored["Z-one"] |= changes
    path.write_text(json.dumps(stored))


def row(text):
    return next(" ".join(line.split()) for line in text.splitlines() if line.startswith("Z-one"))


def test_equal_verdicts_agree(book):
    result = command(book, ONE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].split("  ")[0] == "claim" and "your value" in result.stdout
    assert row(result.stdout) == "Z-one 0 0 0.5 yes, holds"
    assert "1 of 1 verdicts agree with the published ones (profile quick, seed 0, cpu)" in result.stdout


@pytest.mark.parametrize(
    ("changes", "shown", "status"),
    [
        ({"value": 0.7, "verdict": "fails"}, "Z-one 0.7 0 0.5 no: published fails, yours holds", 1),
        ({"value": 0.3}, "Z-one 0.3 0 0.5 yes, holds; another number", 0),
        ({"bound": 0.25}, "Z-one 0 0 0.5 yes, holds; published bound 0.25", 0),
    ],
)
def test_what_differs_is_said(book, changes, shown, status):
    publish(book, **changes)
    result = command(book, ONE)
    assert (row(result.stdout), result.returncode) == (shown, status)


def test_a_verdict_that_is_gone_does_not_agree(book):
    stored = json.loads((book.root / "data/verdicts/quick.json").read_text())
    stored["Z-two"] = stored["Z-one"] | {"page": ONE}
    found = compare.rows(book.layout, [ONE], stored)
    assert [(r.claim, r.agrees) for r in found] == [("Z-one", True), ("Z-two", False)]
    assert "published holds, yours not decided" in compare.table(found)


def test_without_a_page_all_that_are_executed(book):
    assert compare.compare(book.root, "", book.parameters)
    book.layout.executed(ONE).unlink()
    with pytest.raises(BookError, match="no page is executed yet: name one by PAGE"):
        compare.compare(book.root, "", book.parameters)


def test_a_stale_page_is_named_and_left_out(book):
    book.edit("lib/tiny/alpha.py", "return 1", "return 2")
    assert compare.executed_pages(book.layout, book.parameters) == ([], [ONE])


def test_a_page_without_verdicts_says_so(book):
    result = command(book, TWO)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (
        0,
        "part/two: no verdicts to compare, neither published nor found here",
    )


def test_a_profile_without_published_verdicts_says_so(book):
    (book.root / "data/verdicts/quick.json").unlink()
    result = command(book, ONE)
    assert result.returncode == 1 and "no verdicts are published for PROFILE=quick" in result.stderr


def test_a_chapter_that_fails_is_told(book):
    book.edit("chapters/part/one.md", "from tiny.alpha import number", "raise RuntimeError('the pump is dry')")
    result = command(book, ONE)
    assert result.returncode == 1 and "RuntimeError: the pump is dry" in result.stderr


def test_an_unknown_page_is_told(book):
    result = command(book, "nope")
    assert result.returncode == 2 and "PAGE=nope is not a chapter with code" in result.stderr

"""A book that nobody touched is told by time stamps; whatever is touched is looked at as ever."""

import dataclasses
import os

import pytest

from claimbook.command import build, untouched
from claimbook.run import engine
from tiny_book import ONE, tiny_book


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    book = tiny_book(tmp_path_factory.mktemp("tiny") / "book")
    build.build(book.root, book.parameters)
    return book


def is_untouched(book, parameters=None):
    return untouched.is_untouched(book.layout, untouched.sources(book.layout, parameters or book.parameters))


def test_nothing_is_planned_where_nothing_was_touched(book, monkeypatch, capsys):
    monkeypatch.setattr(engine, "plan", None)
    assert build.build(book.root, book.parameters) == book.layout.html
    assert "book: nothing was touched" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        f"chapters/{ONE}.md",
        "lib/tiny/alpha.py",
        "_config.yml",
        "_toc.yml",
        "requirements/run.txt",
        f"build/quick/executed/{ONE}.ipynb",
        "build/quick/verdicts.json",
        "build/quick/html/index.html",
    ],
)
def test_a_file_that_is_written_again_or_gone_is_noticed(book, name):
    assert is_untouched(book)
    path = book.root / name
    content, status = path.read_bytes(), path.stat()
    path.unlink()
    assert not is_untouched(book)
    path.write_bytes(content)
    assert not is_untouched(book)
    restore(path, status)
    assert is_untouched(book)


def restore(path, status):
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_new_file_is_noticed(book):
    path = book.root / "data" / "new.txt"
    path.write_text("new", encoding="utf-8")
    assert not is_untouched(book)
    path.unlink()
    assert is_untouched(book)


def test_other_parameters_are_another_build(book):
    assert not is_untouched(book, dataclasses.replace(book.parameters, seed=1))


def test_an_edit_while_the_book_is_built_is_noticed(tmp_path, monkeypatch):
    book = tiny_book(tmp_path / "book")
    make_site = build.make_site

    def edited_meanwhile(*arguments, **options):
        made = make_site(*arguments, **options)
        book.edit(f"chapters/{ONE}.md", "# One", "# One, edited")
        return made

    monkeypatch.setattr(build, "make_site", edited_meanwhile)
    build.build(book.root, book.parameters)
    assert not is_untouched(book)


def test_a_build_that_failed_is_never_untouched(tmp_path):
    book = tiny_book(tmp_path / "book")
    book.edit(f"chapters/{ONE}.md", "from tiny.alpha import number", "raise RuntimeError('the pump is dry')")
    with pytest.raises(build.Incomplete):
        build.build(book.root, book.parameters)
    assert not is_untouched(book)

"""The print edition: one document whose links stay inside, and the PDF that a browser makes of it."""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from claimbook.command import build
from claimbook.command.check import BROWSERS
from claimbook.editions import pdf
from claimbook.source.pages import BookError, pages
from tiny_book import tiny_book

ROOT = Path(__file__).parents[1]
SITE = Path(os.environ.get("CLAIMBOOK_SITE") or ROOT / "build" / "quick" / "html").resolve()
BROWSER = os.environ.get("CLAIMBOOK_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    book = tiny_book(tmp_path_factory.mktemp("tiny") / "book")
    build.build(book.root, book.parameters)
    return book


def wrong(document):
    """What keeps a document from being one: ids that stand twice, links and pictures that lead nowhere or outside."""
    soup = BeautifulSoup(document, "html.parser")
    ids = Counter(node["id"] for node in soup.find_all(id=True))
    inside = {f"#{name}" for name in ids}
    addresses = {node["href"] for node in soup.find_all("a", href=True)}
    lost = {a for a in addresses - inside if not a.startswith("https://")}
    missing = {node["src"] for node in soup.find_all("img") if not (SITE / node["src"]).is_file()}
    return [name for name, n in ids.items() if n > 1], sorted(lost), sorted(missing)


def test_the_document_of_the_book_is_whole():
    document = pdf.one_document(ROOT, SITE, pages(ROOT))
    assert wrong(document) == ([], [], [])
    for page in pages(ROOT):
        assert f'id="{pdf.anchor(page)}"' in document
    assert str(ROOT) not in document and "<details>" not in document
    assert not re.search("<img[^>]*dark-ground", document)


def test_links_between_pages_lead_inside(tiny):
    document = pdf.one_document(tiny.root, tiny.layout.html, pages(tiny.root))
    two = BeautifulSoup(document, "html.parser").select_one("#part-two")
    assert [a["href"] for a in two.select("a[href]")] == ["#part-one--sec-one"]
    assert wrong(document)[:2] == ([], [])
    assert "(CSV)" not in document and "profile quick, seed 0" in document  # the file is not on paper, what made it is


def test_the_checker_sees_what_is_wrong():
    document = '<p id="a"></p><p id="a"></p><a href="#b"></a><a href="c.csv"></a><a href="#a"></a><img src="d.svg">'
    assert wrong(document) == (["a"], ["#b", "c.csv"], ["d.svg"])


@needs_browser
def test_a_tiny_book_is_printed(tiny):
    target = tiny.layout.build / "book.pdf"
    assert pdf.make_pdf(tiny.root, tiny.layout.html, target, BROWSER) == 5  # title, contents, three pages
    content = target.read_bytes()
    assert content.startswith(b"%PDF-")
    for title in (b"a tiny book", b"Contents", b"A tiny book", b"One", b"Two"):
        assert b"/Title (" + title + b")" in content, title
    assert str(tiny.root).encode() not in content


@needs_browser
def test_a_part_of_the_book_is_printed(tmp_path):
    """The first paper; the whole book is printed the same way, and takes minutes."""
    names = [page for page in pages(ROOT) if page.startswith("weight-balancing/")]
    sheets = pdf.make_pdf(ROOT, SITE, tmp_path / "book.pdf", BROWSER, names)
    assert sheets > 100, sheets
    content = (tmp_path / "book.pdf").read_bytes()
    assert re.search(rb"/Title \((\d+\. )?Rescaling symmetry", content) and len(content) < 60e6


@needs_browser
def test_what_is_missing_is_named(tiny, tmp_path):
    shutil.copytree(tiny.layout.html, tmp_path / "html")
    page = tmp_path / "html" / "part" / "one.html"
    page.write_text(page.read_text().replace("_images/", "_images/gone-"))
    with pytest.raises(BookError, match="the print edition lacks _images/gone-"):
        pdf.make_pdf(tiny.root, tmp_path / "html", tmp_path / "book.pdf", BROWSER)
    shutil.rmtree(tmp_path / "html")
    with pytest.raises(BookError, match="there is no site to print"):
        pdf.make_pdf(tiny.root, tmp_path / "html", tmp_path / "book.pdf", BROWSER)
    assert not (tmp_path / "book.pdf").exists()

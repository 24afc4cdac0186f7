"""What has to be true of the pages of the site, read from its files. Every checker returns a list of problems."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

LARGEST = 1_500_000  # bytes; a page of this size still opens at once on a phone
REFERENCES = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}
LOOKS_LIKE_A_PATH = re.compile(r"(\.(svg|png|jpe?g|gif)$)|(^|/)_images/|^[0-9a-f]{16,}", re.IGNORECASE)


@cache
def parse(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def pages(site: Path) -> list[Path]:
    """All pages of the site, without redirects and what is carried along below ``_static`` and ``_sources``."""
    aside = lambda folder: folder.startswith("_") or folder in ("claims", "figures")
    return sorted(p for p in site.rglob("*.html") if not aside(p.relative_to(site).parts[0]))


@cache
def anchors(page: Path) -> set[str]:
    return {node[name] for name in ("id", "name") for node in parse(page).find_all(attrs={name: True})}


def broken_links(page: Path) -> list[str]:
    """Links and resources that lead nowhere, and resources that come from another host."""
    problems = []
    for node in parse(page).find_all(list(REFERENCES)):
        target = node.get(REFERENCES[node.name])
        if not target:
            continue
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            if node.name != "a" and parts.scheme != "data" and "canonical" not in node.get("rel", []):
                problems.append(f"{node.name} is loaded from elsewhere: {target}")
            continue
        file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not file.is_file():
            problems.append(f"{target}: no such file")
        elif parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in anchors(file):
            problems.append(f"{target}: no such anchor")
    return problems


def weak_alternatives(page: Path) -> list[str]:
    """Pictures in the text without a text alternative that says what one would see."""
    problems = []
    for image in parse(page).select("article img"):
        text, figure = " ".join(image.get("alt", "").split()), image.find_parent("figure")
        caption = figure.select_one(".caption-text") if figure else None
        if not text:
            problems.append(f"{image.get('src')}: no alternative text")
        elif LOOKS_LIKE_A_PATH.search(text):
            problems.append(f"{image.get('src')}: the alternative text is a path: {text}")
        elif caption and text == " ".join(caption.get_text().split()):
            problems.append(f"{image.get('src')}: the alternative text repeats the caption")
        elif figure and len(text.split()) < 8:
            problems.append(f"{image.get('src')}: the alternative text says too little: {text}")
        if caption is None and (figure or image.find_parent(class_="cell_output")):
            problems.append(f"{image.get('src')}: no caption")
    return problems


def figures_without_data(page: Path) -> list[str]:
    """Computed figures without, below them, a link to a CSV that has rows and a line on what made it."""
    problems = []
    for figure in parse(page).select("div.cell_output figure"):
        line = figure.find_next("div", class_="figure-data")
        following = figure.find_next("figure")
        if line is None or (following is not None and following.find_next("div", class_="figure-data") is line):
            problems.append(f"{figure.get('id')}: no line with its data")
            continue
        link = line.select_one('a[href$=".csv"]')
        file = (page.parent / unquote(link["href"])).resolve() if link else None
        if file is None or not file.is_file() or len(file.read_text().splitlines()) < 2:
            problems.append(f"{figure.get('id')}: no data in {link and link['href']}")
        if "seed" not in line.get_text() or "commit" not in line.get_text():
            problems.append(f"{figure.get('id')}: the line below does not say what made the figure")
    return problems


def unpublishable(page: Path) -> list[str]:
    """What no page may hold: more bytes than a phone likes, the trace of an error, a title that is missing."""
    problems = []
    if page.stat().st_size > LARGEST:
        problems.append(f"{page.stat().st_size} bytes, more than {LARGEST}")
    if "Traceback (most recent call last)" in page.read_text(encoding="utf-8"):
        problems.append("an error is shown")
    titles = [title for title in parse(page).select("main h1") if not title.find_parent(class_="onlyprint")]
    if len(titles) != 1:
        problems.append(f"{len(titles)} headings of the first level")
    return problems

"""The print edition (``make pdf``): all pages of the built site in one document, printed by a headless Chromium."""

import copy
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

from claimbook.source.files import write_whole
from claimbook.source.pages import BookError, pages

HOST = "http://book.invalid/"  # every request for it is answered from the folder of the site
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync".split()
# What only a screen needs: the dark drawings, forms, anchors to copy, the entry to cite a page.
SCREEN_ONLY = "img.dark-ground, form, a.headerlink, details.cite-page, script"
REFERRING = ("for", "aria-labelledby", "aria-describedby", "aria-controls", "headers")
# Tokens of code that become plain text, which makes the file a third smaller: all but keywords, comments and strings.
PLAIN = re.compile('<span class="(?:w|n[a-z]?|p|ow?|m[a-z]|s[ai]|bp|fm)">([^<]*)</span>')
STYLE = Path(__file__).parents[1] / "site" / "static" / "claimbook.css"
MATHJAX = "_static/mathjax/tex-chtml.js"
# As on the site, where Sphinx marks what is mathematics by a class; without a menu and a second copy of each formula.
MATHEMATICS = {
    "options": {
        "enableMenu": False,
        "enableAssistiveMml": False,
        "processHtmlClass": "tex2jax_process|mathjax_process|math|output_area",
    }
}
UNTYPESET = """() => {
  const bad = [...document.querySelectorAll("mjx-merror")].map((node) => node.textContent);
  const formulas = document.querySelectorAll(".math").length;
  const typeset = document.querySelectorAll("mjx-container").length;
  return typeset < formulas ? [...bad, `${formulas - typeset} formulas`] : bad;
}"""
FOOTER = (
    '<div style="width: 100%; font: 8px sans-serif; text-align: center; color: #545b66"><span class="pageNumber">'
    "</span></div>"
)


def make_pdf(root: Path, site: Path, target: Path, browser: str, names: Sequence[str] = ()) -> int:
    """Print a built site; return the number of sheets.

    Args:
        root: The book, for its title and the order of its pages.
        site: Its built pages.
        target: The file to write.
        browser: The program of a Chromium or Chrome.
        names: The pages to print, if not all.

    Raises:
        BookError: the site is not built, or something on it is missing or not typeset.
    """
    if not (site / "index.html").is_file():
        raise BookError("there is no site to print; run make book first")
    document = one_document(root, site, names or pages(root))
    write_whole(target, printed(document, site, browser))
    return len(re.findall(rb"/Type\s*/Page\b", target.read_bytes()))


def printed(document: str, site: Path, browser: str) -> bytes:
    """The document as PDF; whatever it names comes from the folder of the site, and nothing from elsewhere."""
    from playwright.sync_api import Route, sync_playwright

    missing: list[str] = []

    def answer(route: Route) -> None:
        url = urlsplit(route.request.url)
        file = site / unquote(url.path).lstrip("/")
        if url.path == "/":
            route.fulfill(body=document, content_type="text/html; charset=utf-8")
        elif route.request.url.startswith(HOST) and file.is_file():
            route.fulfill(path=file)
        else:
            missing.append(route.request.url.removeprefix(HOST))
            route.abort()

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        page = chromium.new_page(color_scheme="light", reduced_motion="reduce")
        page.set_default_timeout(0)
        page.route("**/*", answer)
        page.goto(HOST)
        page.evaluate("async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }")
        missing += page.evaluate(UNTYPESET)
        if missing:
            raise BookError(f"the print edition lacks {', '.join(missing[:5])}")
        content = page.pdf(
            format="A4",
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
            outline=True,
            tagged=True,
        )
        chromium.close()
    return content


def one_document(root: Path, site: Path, names: Sequence[str]) -> str:
    """Pages as one HTML document: title, contents, then page after page, with links that stay inside."""
    parsed = {page: read(site / f"{page}.html") for page in names}
    styles = dict.fromkeys(style for page, soup in parsed.items() for style in style_sheets(page, soup))
    articles = {page: article(page, soup, parsed) for page, soup in parsed.items()}
    titles = {page: title(soup) for page, soup in parsed.items()}
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    script = f'<script defer src="{MATHJAX}"></script>' if (site / MATHJAX).is_file() else ""
    links = "".join(f'<link rel="stylesheet" href="{escape(style)}">' for style in styles)
    return (
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{escape(config['title'])}</title>{links}<style>{STYLE.read_text(encoding='utf-8')}</style>"
        f"<script>window.MathJax = {json.dumps(MATHEMATICS)}</script>"
        f'{script}</head><body class="print-edition"><main>'
        f"{front(config)}{contents(root, titles)}{''.join(articles.values())}</main></body></html>"
    )


def read(file: Path) -> BeautifulSoup:
    """A page of the site, without the marks of most tokens of code."""
    return BeautifulSoup(PLAIN.sub(r"\1", file.read_text(encoding="utf-8")), "html.parser")


def style_sheets(page: str, soup: BeautifulSoup) -> list[str]:
    """The style sheets of a page, as seen from the root of the site."""
    return [resolve(page, link["href"]) for link in soup.select("link[rel=stylesheet]")]


def title(soup: BeautifulSoup) -> str:
    """The heading of a page, as HTML without its anchor."""
    heading = copy.copy(soup.select_one("article h1"))
    for anchor in heading.select("a.headerlink"):
        anchor.decompose()
    return heading.decode_contents().strip()


def front(config: Mapping[str, Any]) -> str:
    """The title page."""
    settings = config.get("sphinx", {}).get("config", {}).get("html_theme_options", {})
    address = settings.get("repository_url", "")
    lines = [config.get("author", ""), str(config.get("copyright", "")), address]
    below = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return f'<section class="print-front"><p class="print-title">{escape(config["title"])}</p>{below}</section>'


def contents(root: Path, titles: Mapping[str, str]) -> str:
    """The table of contents, by the parts of ``_toc.yml``; pages that are not printed are left out."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    lines = [
        f'<li class="print-part">{escape(name)}</li>'
        if kind == "caption"
        else f'<li><a href="#{anchor(name)}">{titles[name]}</a></li>'
        for kind, name in entries(toc)
        if kind == "caption" or name in titles
    ]
    return f'<nav class="print-contents bd-article"><h1>Contents</h1><ul>{"".join(lines)}</ul></nav>'


def entries(node: Any) -> Iterator[tuple[str, str]]:
    """Walk a table of contents: ``("caption", text)`` where a part begins, ``("page", name)`` for every page."""
    if isinstance(node, dict):
        for key in ("caption", "root", "file"):
            if key in node:
                yield "caption" if key == "caption" else "page", str(node[key]).removesuffix(".md")
        for key in ("parts", "chapters", "sections", "subtrees", "entries"):
            yield from entries(node.get(key, []))
    else:
        for item in node:
            yield from entries(item)


def article(page: str, soup: BeautifulSoup, book: Mapping[str, Any]) -> str:
    """The text of a page: its ids are made unique, its links lead inside the document, what is folded is open."""
    text = soup.select_one("article.bd-article")
    for node in text.select(SCREEN_ONLY):
        node.decompose()
    for node in text.select("details"):
        node["open"] = ""
    for node in text.select("[tabindex]"):
        del node["tabindex"]
    seen: set[str] = set()
    for node in text.find_all(id=True):
        if node["id"] in seen:  # sphinx-proof gives all proofs of a page one id
            del node["id"]
        else:
            seen.add(node["id"])
            node["id"] = anchor(page, node["id"])
    for name in REFERRING:
        for node in text.find_all(attrs={name: True}):
            node[name] = " ".join(anchor(page, word) for word in str(node[name]).split())
    for node in text.find_all(src=True):
        node["src"] = resolve(page, node["src"])
    for node in text.find_all("a", href=True):
        lead(page, node, book)
    text["id"], text["class"] = anchor(page), ["bd-article", "print-page"]
    return str(text)


def lead(page: str, link: Tag, book: Mapping[str, Any]) -> None:
    """Make a link lead to its place in the document; one to a file beside the site becomes plain text."""
    url = urlsplit(link["href"])
    if url.scheme or url.netloc:
        return
    target = resolve(page, url.path).removesuffix(".html") if url.path else page
    if target in book:
        link["href"] = f"#{anchor(target, unquote(url.fragment))}"
    elif link.find_parent(class_="figure-data") and link.next_sibling:
        link.next_sibling.replace_with(str(link.next_sibling).removeprefix(" · "))
        link.decompose()
    else:
        link.unwrap()


def anchor(page: str, name: str = "") -> str:
    """The id of a page in the document, or of something on it.

    Example:
        >>> anchor("part/page"), anchor("part/page", "fig-norms")
        ('part-page', 'part-page--fig-norms')
    """
    slug = re.sub("[^A-Za-z0-9]+", "-", page)
    return f"{slug}--{name}" if name else slug


def resolve(page: str, address: str) -> str:
    """An address on a page, as seen from the root of the site.

    Example:
        >>> resolve("part/page", "../_images/a.svg"), resolve("index", "_static/a.css?v=1")
        ('_images/a.svg', '_static/a.css?v=1')
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), address))

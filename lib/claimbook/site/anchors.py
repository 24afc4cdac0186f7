"""Addresses that stay: ``/figures/<name>`` leads to where a figure stands now (claims have pages of their own).

And under every page how to cite it. The redirects are written anew by every build, so they follow a page that moves.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from claimbook.site.templates import render


def redirects(app: Sphinx) -> dict[str, tuple[str, str]]:
    """Title and target of every lasting address, by its path without suffix."""
    found = {}
    labels = app.env.domains["std"].anonlabels
    for name, (page, anchor) in labels.items():
        if name.startswith("fig-"):
            found[f"figures/{name}"] = (f"Figure {name.removeprefix('fig-')}", f"../{page}.html#{anchor}")
    return found


def write_redirects(app: Sphinx, error: Exception | None) -> None:
    """One small page for each lasting address; those of an earlier build that lead nowhere are removed."""
    if error is not None or app.builder.format != "html":
        return
    found = redirects(app)
    for old in Path(app.outdir, "figures").glob("*.html"):
        if f"figures/{old.stem}" not in found:
            old.unlink()
    for address, (title, href) in found.items():
        path = Path(app.outdir, f"{address}.html")
        path.parent.mkdir(exist_ok=True)
        path.write_text(render("redirect", title=title, href=href), encoding="utf-8")


def bibtex(page: str, title: str, book: str, author: str, year: str, url: str) -> str:
    """The BibTeX entry of one page.

    Example:
        >>> print(bibtex("part/page", "Norms", "The Book", "The Authors", "2026", "https://example.org"))
        @incollection{the-book-part-page,
          author    = {{The Authors}},
          title     = {Norms},
          booktitle = {The Book},
          note      = {Page part/page},
          year      = {2026},
          url       = {https://example.org}
        }
    """
    fields = {"author": f"{{{author}}}", "title": title, "booktitle": book, "note": f"Page {page}", "year": year}
    lines = ",\n".join(f"  {name:<9} = {{{value}}}" for name, value in (fields | {"url": url}).items())
    key = re.sub("[^a-z0-9]+", "-", f"{book} {page}".lower())
    return f"@incollection{{{key},\n{lines}\n}}"


def cite(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the entry below the text of every chapter, folded."""
    if doctree is None or "/" not in page:
        return
    title = app.env.titles[page].astext()
    entry = bibtex(
        page,
        title,
        app.config.html_title or app.config.project,
        app.config.author,
        str(app.config.copyright),
        app.config.html_theme_options["repository_url"],
    )
    context["body"] += str(render("cite", entry=entry))  # a str that Markup is added to would be escaped


def setup(app: Sphinx) -> None:
    """Register the events."""
    app.connect("html-page-context", cite)
    app.connect("build-finished", write_redirects)

"""Addresses that stay: ``/claims/<id>`` and ``/figures/<name>`` lead to where a claim or a figure stands now.

And under every page how to cite it. The redirects are written anew by every build, so they follow a page that moves.
"""

import re
from html import escape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from normdyn.book.site_ledger import CLAIMS, current_ledger

REDIRECT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="canonical" href="{href}"><meta http-equiv="refresh" content="0; url={href}"></head>
<body><p><a href="{href}">{title}</a></p></body></html>
"""


def redirects(app: Sphinx) -> dict[str, tuple[str, str]]:
    """Title and target of every lasting address, by its path without suffix."""
    found = {
        f"claims/{claim}": (f"Claim {claim}", f"../{CLAIMS}.html#claim-{claim}")
        for claim in current_ledger(app.env).rows
    }
    labels = app.env.get_domain("std").anonlabels
    for name, (page, anchor) in labels.items():
        if name.startswith("fig-"):
            found[f"figures/{name}"] = (f"Figure {name.removeprefix('fig-')}", f"../{page}.html#{anchor}")
    return found


def write_redirects(app: Sphinx, error: Exception | None) -> None:
    """One small page for each lasting address; those of an earlier build that lead nowhere are removed."""
    if error is not None or app.builder.format != "html":
        return
    found = redirects(app)
    for folder in ("claims", "figures"):
        for old in Path(app.outdir, folder).glob("*.html"):
            if f"{folder}/{old.stem}" not in found:
                old.unlink()
    for address, (title, href) in found.items():
        path = Path(app.outdir, f"{address}.html")
        path.parent.mkdir(exist_ok=True)
        path.write_text(REDIRECT.format(title=escape(title), href=escape(href)), encoding="utf-8")


def bibtex(page: str, title: str, book: str, author: str, year: str, url: str) -> str:
    """The BibTeX entry of one page.

    Example:
        >>> print(bibtex("square-loss/bounds", "Norms", "The Book", "The Authors", "2026", "https://example.org"))
        @incollection{normdyn-square-loss-bounds,
          author    = {{The Authors}},
          title     = {Norms},
          booktitle = {The Book},
          note      = {Page square-loss/bounds},
          year      = {2026},
          url       = {https://example.org}
        }
    """
    fields = {"author": f"{{{author}}}", "title": title, "booktitle": book, "note": f"Page {page}", "year": year}
    lines = ",\n".join(f"  {name:<9} = {{{value}}}" for name, value in (fields | {"url": url}).items())
    return f"@incollection{{normdyn-{re.sub('[^a-z0-9]+', '-', page)},\n{lines}\n}}"


def cite(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the entry below the text of every chapter, folded."""
    if doctree is None or "/" not in page:
        return
    title = app.env.titles[page].astext()
    entry = bibtex(
        page,
        title,
        app.config.html_title or app.config.project,
        "The Norm Dynamics authors",
        str(app.config.copyright),
        app.config.html_theme_options["repository_url"],
    )
    context["body"] += (
        f'<details class="cite-page"><summary>Cite this page</summary><pre tabindex="0">{escape(entry)}</pre></details>'
    )


def setup(app: Sphinx) -> None:
    """Register the events."""
    app.connect("html-page-context", cite)
    app.connect("build-finished", write_redirects)

"""What directives over the ledger have in common, and the role that shows one verdict.

A claim's row is found at ``claims.html#claim-<id>``, the cell that decided it at ``<page>.html#evidence-<id>``.
"""

import json
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from claimbook.site.ledger import Ledger, beside, ledger_of
from claimbook.site.templates import mark, render

log = logging.getLogger(__name__)

CLAIMS = "claims"  # the page with the table of claims


def ask_for_mathjax(app: Sphinx, doctree: nodes.document) -> None:
    """Sphinx loads MathJax where it sees mathematics; tell it about the mathematics inside our HTML."""
    if any('class="math ' in node.astext() for node in doctree.findall(nodes.raw)):
        app.env.get_domain("math").data["has_equations"][app.env.docname] = True


def top(env: BuildEnvironment) -> str:
    """Where the site begins, seen from the page that is being read."""
    return env.app.builder.get_relative_uri(env.docname, "index").removesuffix("index.html")


def claim_href(env: BuildEnvironment, claim: str) -> str:
    """The address of a claim's page, from the page that is being read."""
    return f"{top(env)}claims/{claim}.html"


class Ledgered(SphinxDirective):
    """A directive that shows part of the ledger."""

    def ledger(self) -> Ledger:
        return ledger_of(self.env)

    def link(self, page: str, anchor: str = "") -> str:
        """Where another page lies, seen from this one; empty if the book has no such page."""
        if page not in self.env.found_docs:
            return ""
        uri = self.env.app.builder.get_relative_uri(self.env.docname, page)
        return f"{uri}#{anchor}" if anchor else uri

    def page_of(self, claim: str) -> str:
        """Where the page of a claim lies, seen from this one."""
        return claim_href(self.env, claim)

    def evidence(self, claim: str) -> str:
        """Where the cell lies that decided a claim."""
        page, lost = self.ledger().verdicts.get(claim, {}).get("page"), self.ledger().rows[claim].get("page", "")
        return self.link(page, f"evidence-{claim}") if page else self.link(lost) if lost in self.ledger().failed else ""

    def paper(self, key: str) -> dict[str, Any]:
        for paper in self.ledger().papers:
            if paper["key"] == key:
                return paper
        raise self.error(f"no paper {key}: choose one of {', '.join(p['key'] for p in self.ledger().papers)}")

    def named(self, page: str) -> dict[str, str]:
        """A page by its path in words, titles of other pages are not known while this one is read; and its address."""
        return {"title": page.replace("/", ": ").replace("-", " "), "href": self.link(page)}

    def left(self, name: str, absent: Any) -> Any:
        """What the pipeline left beside the staged sources in a file of JSON."""
        file = beside(self.env.app, name)
        if not file.is_file():
            return absent
        self.env.note_dependency(str(file))
        return json.loads(file.read_text(encoding="utf-8"))

    def show(self, template: str, **context: Any) -> list[nodes.Node]:
        """A template, filled in."""
        return [nodes.raw("", str(render(template, **context)), format="html")]


class Claim(SphinxRole):
    """``{claim}`Z-one```: the verdict of a claim, linked to its row."""

    def run(self):
        ledger, claim = ledger_of(self.env), self.text.strip()
        if claim not in ledger.rows:
            log.warning(
                "claim %s is not in the registry",
                claim,
                location=self.get_location(),
                type="claimbook",
                subtype="claim",
            )
            return [nodes.literal("", claim)], []
        shown = mark(ledger.verdict(claim), claim_href(self.env, claim), claim)
        return [nodes.raw("", str(shown), format="html")], []


def setup(app: Sphinx) -> None:
    """Register the role."""
    app.add_role("claim", Claim())
    app.connect("doctree-read", ask_for_mathjax)

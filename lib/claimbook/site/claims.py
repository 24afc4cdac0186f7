"""A page for every claim: quotation, reading, verdict, numbers, probes, source, history, dispute, how to cite.

They are rendered from one template beside the site, not through Sphinx, so that hundreds of them cost a second.
"""

import functools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx

from claimbook.evidence.cards import mark, number
from claimbook.evidence.words import PROBES
from claimbook.registry import audits
from claimbook.registry.verdicts import OURS
from claimbook.site.anchors import bibtex
from claimbook.site.ledger import Ledger, beside, current_ledger, repository
from claimbook.site.templates import render
from claimbook.source.files import write_if_changed

FOLDER = "claims"


def curve(part: dict[str, Any]) -> Markup:
    """The cells of a tendency in the order of their effects, each with its interval: a specification curve."""
    cells = sorted(part["cells"])
    ends = [value for cell in cells for value in cell] + [part["least"]]
    finite = [value for value in ends if abs(value) < 1e300] or [0.0]
    low, high = min(finite), max(finite)
    place = lambda value: round(190 - 180 * (min(max(value, low), high) - low) / ((high - low) or 1.0), 1)
    step = 545 / max(len(cells), 1)
    drawn = [
        (round(50 + step * (k + 0.5) - 5, 1), place(down), place(mean), place(up), down > part["least"])
        for k, (mean, down, up) in enumerate(cells)
    ]
    shown = sum(cell[-1] for cell in drawn)
    label = (
        f"Effect in {len(cells)} cells with its one-sided intervals at {part['confidence']:.0%}, in order of size: "
        f"{shown} of {len(cells)} show it, {part['share']:.0%} have to."
    )
    return render(
        "curve",
        cells=drawn,
        zero=place(part["least"]),
        least=number(part["least"]),
        top=number(high),
        bottom="" if low == part["least"] else number(low),
        label=label,
    )


def told(name: str, result: dict[str, Any]) -> str:
    """What one probe found, in a sentence."""
    match name, result["status"]:
        case _, "none":
            return f"{result['why'].capitalize()}." if "why" in result else "No function of the library can be bent."
        case "seeds", _:
            words = "; ".join(f"seed {seed}: {word}" for seed, word in result["words"].items())
            worst = result["worst"]
            return f"{words}." + (f" Worst at seed {worst['seed']}, {number(worst['ratio'])} bounds." if worst else "")
        case "resolution", _:
            share = lambda value: value if isinstance(value, str) else number(value)
            parts = "; ".join(f"{part or 'the statement'}: {share(value)}" for part, value in result["parts"].items())
            return f"The share by which the predicted side may be wrong before the verdict turns: {parts}."
        case "tightness", _:
            ratios = lambda r: "the right side is never above rounding" if r is None else ", ".join(map(number, r))
            parts = "; ".join(f"{part or 'the statement'}: {ratios(r)}" for part, r in result["parts"].items())
            return f"Least, median and largest ratio of the two sides, at their closest in each item: {parts}."
        case "common ground", _:
            both = ", ".join(result["both"]) or "nothing beyond networks, data and losses"
            shared = f" Inside runs that they share: {', '.join(result['shared'])}." if result["shared"] else ""
            body = f" The body calls {', '.join(result['body'])}." if result["body"] else ""
            return f"Both sides call {both}.{shared}{body}"
        case "bend", _:
            texts = [
                f"{label}: {', '.join(result[key])}"
                for key, label in (("turned", "The verdict turns with"), ("not tested here", "Not tested here"))
                if result[key]
            ]
            return f"Functions made wrong by 1 %. {'. '.join(texts)}."
        case _:
            worlds = "; ".join(f"{world}: {_states(found)}" for world, found in result["worlds"].items())
            return f"{worlds}."


def _states(found: Any) -> str:
    return found if isinstance(found, str) else ", ".join(f"{part or 'it'} {state}" for part, state in found.items())


class Pages:
    """What all pages of claims have in common, read once."""

    def __init__(self, app: Sphinx):
        self.app, self.root = app, repository(app)
        self.ledger: Ledger = current_ledger(app.env)
        self.records, self.changes = self._json("evidence.json", {}), self._json("history.json", [])
        self.probes = audits.read_all(self.root)
        self.stale = set(audits.stale(self.root, list(self.probes)))
        self.carries: dict[str, list[str]] = defaultdict(list)
        for row in self.ledger.rows.values():
            for ground in row.get("rests_on") or []:
                self.carries[ground].append(row["id"])

    def _json(self, name: str, absent: Any) -> Any:
        path = beside(self.app, name)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else absent

    def render(self, claim: str) -> str:
        """The page of one claim."""
        row, entry, record = self.ledger.rows[claim], self.ledger.verdicts.get(claim, {}), self.records.get(claim)
        word, stored = self.ledger.verdict(claim), self.probes.get(claim)
        grounds = row.get("rests_on") or []
        link = lambda other: Markup('<a href="{0}.html">{0}</a> {1}').format(other, mark(self.ledger.verdict(other)))
        correction = row.get("correction", "")
        page = entry.get("page") or row.get("page")
        theme = self.app.config.html_theme_options
        context = {
            "curve": curve,
            "book": self.app.config.html_title or self.app.config.project,
            "claim": claim,
            "row": row,
            "ours": row["paper"] == OURS,
            "word": word,
            "mark": mark(word),
            "summary": f"{claim}: {word}. {row['statement']}"[:300],
            "entry": entry,
            "record": record,
            "correction": correction,
            "where": f"{page}.html#evidence-{claim}" if page and page in self.app.env.found_docs else "",
            "probes": self._probes(row, stored) if stored and record else [],
            "current": claim not in self.stale,
            "rests": [(other, link(other)) for other in grounds if other in self.ledger.rows],
            "lost": [other for other in grounds if self.ledger.verdict(other) == "fails"],
            "carries": [link(other) for other in self.carries.get(claim, [])],
            "source": _coloured(record["source"]) if record else "",
            "history": [
                (change["date"], change["commit"], before, after)
                for change in self.changes
                for name, before, after in change["changed"]
                if name == claim
            ],
            "dispute": _dispute(theme.get("repository_url", ""), claim, row, entry, word),
            "cite": bibtex(
                f"claims/{claim}",
                f"Claim {claim}: {word.replace('-', ' ')}",
                self.app.config.html_title or self.app.config.project,
                self.app.config.author,
                str(self.app.config.copyright),
                theme.get("repository_url", ""),
            ),
        }
        context["formulas"] = "$" in json.dumps([row, correction, record and record["parts"]])
        return render("claim", **context)

    def _probes(self, row: dict[str, Any], stored: dict[str, Any]) -> list[tuple[str, str, str, str]]:
        judged, excuses = audits.judged(row, stored), row.get("excuses") or {}
        return [
            (
                name,
                judged[name],
                told(name, stored["probes"][name]),
                excuses.get(name, "") * (judged[name] == "excused"),
            )
            for name in PROBES
        ]


@functools.cache
def _coloured(source: str) -> Markup:
    return Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))


def _dispute(repository_url: str, claim: str, row: dict[str, Any], entry: dict[str, Any], word: str) -> str:
    """The address of a report with what is known filled in."""
    if not repository_url:
        return ""
    numbers = ", ".join(f"{name} {number(entry.get(name))}" for name in ("value", "bound", "control"))
    body = (
        f"**Claim** {claim}, {row['section']}\n\n> {row.get('quote') or row['statement']}\n\n"
        f"**Verdict** {word} ({numbers})\n\n"
        f"**What is wrong with the verdict, the reading or the evidence?**\n\n\n"
        f"**A few lines that show it** (start from `make claim CLAIM={claim}`)\n\n```python\n\n```\n"
    )
    return f"{repository_url}/issues/new?title={quote(f'Dispute {claim}')}&body={quote(body)}"


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the page of every claim of the registry, and take out those of claims that are gone."""
    if error is not None or app.builder.format != "html":
        return
    pages, folder = Pages(app), Path(app.outdir, FOLDER)
    kept = {write_if_changed(folder / f"{claim}.html", pages.render(claim)) for claim in pages.ledger.rows}
    for path in set(folder.glob("*.html")) - kept:
        path.unlink()


def setup(app: Sphinx) -> None:
    """Register the event."""
    app.connect("build-finished", write)

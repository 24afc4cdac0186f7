"""The errata: what a paper prints and does not hold, gravest first, and the program that shows it."""

from collections import Counter
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from claimbook.evidence.words import SEVERITIES
from claimbook.site.directives import Ledgered, top
from claimbook.site.ledger import Ledger, current_ledger, repository
from claimbook.site.programs import program, source_of

WRONG = {"fails": "What fails", "holds-with-correction": "What holds with a correction"}  # errata, gravest first
WEIGHT = (("theorem",), ("proposition", "corollary", "lemma"), ("claim", "definition-check", "algorithm"), ("fact",))
SHORT = 60  # lines, blank ones aside, that a program may have to be shown on the page
PROGRAMS = "_static/counterexamples"


class Errata(Ledgered):
    """``{ledger-errata} E``: what is printed, what is right, the evidence and its program, by consequence."""

    required_arguments = 1

    def run(self):
        ledger, key = self.ledger(), self.paper(self.arguments[0])["key"]
        wrong = by_consequence(ledger, key)
        if not wrong:
            return self.show("ledger-errata", errata=[])
        out = []
        for verdict, title in WRONG.items():
            rows = [row for row in wrong if ledger.verdict(row["id"]) == verdict]
            if not rows:
                continue
            section = self.section(f"errata-{key}-{verdict}", f"{title} ({len(rows)})")
            for name, core in (("Core results", True), ("Further statements", False)):
                part = [row for row in rows if row["core"] == core]
                if part:
                    anchor = f"errata-{key}-{verdict}-{'core' if core else 'further'}"
                    inner = self.section(anchor, f"{name} ({len(part)})")
                    inner += self.show("ledger-errata", errata=list(map(self.erratum, part)))
                    section += inner
            out.append(section)
        return out

    @staticmethod
    def section(anchor: str, title: str) -> nodes.section:
        section = nodes.section(ids=[anchor])
        section += nodes.title("", title)
        return section

    def erratum(self, row: dict[str, Any]) -> dict[str, Any]:
        """What is shown of one erratum."""
        claim, entry = row["id"], self.ledger().verdicts[row["id"]]
        return {
            "row": row,
            "entry": entry,
            "href": self.page_of(claim),
            "evidence": self.evidence(claim),
            "program": self.program(row, entry),
        }

    def program(self, row: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        """What decides a claim as a program: to unfold where it is short, to take away in any case."""
        root = repository(self.env.app)
        text = program(row, entry, root)
        self.env.note_dependency(str(source_of(entry, root)))
        lines, href = sum(map(bool, text.splitlines())), f"{top(self.env)}{PROGRAMS}/{row['id']}.py"
        return {"href": href, "lines": lines, "text": text if lines <= SHORT else ""}


class ErrataSummary(Ledgered):
    """``{ledger-errata-summary}``: how many errata of each consequence a paper has, as a table."""

    def run(self):
        ledger = self.ledger()
        papers = [
            {
                "key": paper["key"],
                "title": paper["title"],
                "href": self.link(f"errata/{paper['folder']}"),
                "counts": self.count(ledger, paper["key"]),
            }
            for paper in ledger.papers
        ]
        total = [sum(column) for column in zip(*(paper["counts"] for paper in papers), strict=True)]
        return self.show("ledger-errata-summary", papers=papers, verdicts=list(WRONG), total=total)

    @staticmethod
    def count(ledger: Ledger, key: str) -> list[int]:
        found = Counter((ledger.verdict(row["id"]), row["core"]) for row in by_consequence(ledger, key))
        return [*(found[verdict, core] for verdict in WRONG for core in (True, False)), found.total()]


def by_consequence(ledger: Ledger, paper: str) -> list[dict[str, Any]]:
    """What a paper prints and does not hold: failures first; in each, core results, weightier kinds, larger misses."""

    def order(row: dict[str, Any]) -> tuple:
        entry = ledger.verdicts[row["id"]]
        missed = entry["value"] if entry["verdict"] == "fails" else entry["control"]
        kind = next((i for i, kinds in enumerate(WEIGHT) if row["kind"] in kinds), len(WEIGHT))
        grave = -SEVERITIES.index(row["severity"]) if row.get("severity") else 0
        return list(WRONG).index(entry["verdict"]), not row["core"], grave, kind, -(missed or 0) / (entry["bound"] or 1)

    return sorted((row for row in ledger.of(paper) if ledger.verdict(row["id"]) in WRONG), key=order)


def write_programs(app: Sphinx, error: Exception | None) -> None:
    """Put the programs of all errata into the finished site, and take out those of others."""
    if error is not None or app.builder.format != "html":
        return
    ledger, folder = current_ledger(app.env), Path(app.outdir, PROGRAMS)
    folder.mkdir(parents=True, exist_ok=True)
    wrong = {row["id"]: row for paper in ledger.papers for row in by_consequence(ledger, paper["key"])}
    for claim, row in wrong.items():
        text = program(row, ledger.verdicts[claim], repository(app))
        (folder / f"{claim}.py").write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        if path.stem not in wrong:
            path.unlink()


def setup(app: Sphinx) -> None:
    """Register the directives, and what writes the programs."""
    app.add_directive("ledger-errata", Errata)
    app.add_directive("ledger-errata-summary", ErrataSummary)
    app.connect("build-finished", write_programs)

"""Claims in tables and sentences: how many have which verdict, every claim with a filter, how far each paper is."""

from collections import Counter
from typing import Any

from sphinx.application import Sphinx

from claimbook.registry import audits
from claimbook.registry.doors import doors
from claimbook.registry.verdicts import OURS
from claimbook.site.directives import CLAIMS, Ledgered
from claimbook.site.ledger import FAILED, LABELS, NOT_YET, repository

MEANING = {
    "holds": "True as printed, read with the hypotheses of its own section; the control misses the bound.",
    "holds-with-correction": "The same conclusion is true after a changed hypothesis, constant, sign, index or range: "
    "the corrected statement is tested, and as printed it misses. A negated conclusion is never a correction.",
    "fails": "No such repair: a counterexample violates it, or the truth is the opposite.",
    "qualitative": "A tendency without a sharp number: seen in nine cells of ten at a confidence of 99 %, "
    "and not in the control.",
    "open": "Not decided; the row says what is missing.",
    "not-checkable": "An opinion, a citation or a matter outside of mathematics and experiment.",
    NOT_YET: "The chapter that will decide it is not written.",
    FAILED: "The chapter that decides it did not run to its end in this build; its page shows the error.",
}


def decided(count: Counter) -> int:
    """How many of the counted claims have a verdict."""
    return count.total() - count[NOT_YET] - count[FAILED]


class Summary(Ledgered):
    """``{ledger-summary}``: how many claims of each paper have which verdict, as a table."""

    def run(self):
        ledger = self.ledger()
        count = ledger.count()
        papers = [
            {
                "key": paper["key"],
                "title": paper["title"],
                "href": f"{self.link(CLAIMS)}?paper={paper['key']}",
                "count": ledger.count(paper["key"]),
            }
            for paper in ledger.papers
        ]
        present = [v for v in LABELS if count[v] or v not in (NOT_YET, FAILED)]
        return self.show("ledger-summary", papers=papers, verdicts=present, count=count)


class Meanings(Ledgered):
    """``{ledger-verdicts}``: what each verdict means."""

    def run(self):
        return self.show("ledger-verdicts", meaning=MEANING)


class Sentence(Ledgered):
    """``{ledger-sentence}``: the counts in one sentence, for the front page."""

    def run(self):
        count = self.ledger().count()
        return self.show(
            "ledger-sentence",
            total=count.total(),
            decided=decided(count),
            counts=[(v, count[v]) for v in LABELS if v not in (NOT_YET, FAILED) and count[v]],
            waiting=count[NOT_YET],
            lost=count[FAILED],
        )


class Claims(Ledgered):
    """``{ledger-claims} E``: every claim of a paper, or of all without an argument, with a filter above the table."""

    optional_arguments = 1

    def run(self):
        ledger = self.ledger()
        keys = self.arguments or [*(paper["key"] for paper in ledger.papers), *([OURS] if ledger.of(OURS) else [])]
        claims = [self.claim(row) for key in keys for row in ledger.of(key)]
        return self.show("ledger-claims", claims=claims, filters=self.filters(keys, claims))

    def claim(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the table shows of one claim."""
        claim, ledger = row["id"], self.ledger()
        return {
            "row": row,
            "entry": ledger.verdicts.get(claim, {}),
            "verdict": ledger.verdict(claim),
            "href": self.page_of(claim),
            "evidence": self.evidence(claim),
        }

    def filters(self, keys: list[str], claims: list[dict[str, Any]]) -> dict[str, list[tuple[str, str]]]:
        """Value and text of every choice, by what is filtered."""
        kinds = Counter(claim["row"]["kind"] for claim in claims)
        verdicts = Counter(claim["verdict"] for claim in claims)
        return {
            "paper": [(key, f"{key} · {self.title(key)}") for key in keys] if len(keys) > 1 else [],
            "kind": [(kind, f"{kind} ({n})") for kind, n in sorted(kinds.items())],
            "verdict": [(v, f"{LABELS[v]} ({verdicts[v]})") for v in LABELS if verdicts[v]],
        }

    def title(self, key: str) -> str:
        return "ours, counted apart" if key == OURS else self.paper(key)["title"]


class Papers(Ledgered):
    """``{paper-cards}``: one card a paper, which says how far it is."""

    def run(self):
        return self.show("paper-cards", papers=list(map(self.card, self.ledger().papers)))

    def card(self, paper: dict[str, Any]) -> dict[str, Any]:
        """The paper as the configuration has it, and how far it is."""
        count = self.ledger().count(paper["key"])
        done, total = decided(count), count.total()
        return paper | {
            "decided": done,
            "total": total,
            "state": "written" if done == total else "being written" if done else "not yet written",
            "href": self.link(f"{paper['folder']}/index") if done else "",
            "claims": f"{self.link(CLAIMS)}?paper={paper['key']}",
        }


class Probes(Ledgered):
    """``{ledger-probes}``: how many probes passed, are excused and by which sentence, are red, stale or not made."""

    def run(self):
        root, rows = repository(self.env.app), self.ledger().rows
        functions = [claim for claim in doors(root) if claim in rows]
        stored = audits.read_all(root)
        for claim in stored:
            self.env.note_dependency(str(root / audits.FOLDER / f"{claim}.json"))
        judged = {claim: audits.judged(rows[claim], stored[claim]) for claim in functions if claim in stored}
        count = Counter(status for found in judged.values() for status in found.values())
        excuses = [
            {"claim": claim, "href": self.page_of(claim), "probe": probe, "text": rows[claim]["excuses"][probe]}
            for claim, found in judged.items()
            for probe, status in found.items()
            if status == "excused"
        ]
        return self.show(
            "ledger-probes",
            functions=len(functions),
            made=len(judged),
            stale=len(audits.stale(root, list(judged))),
            count=count,
            excuses=excuses,
        )


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("ledger-summary", Summary)
    app.add_directive("ledger-sentence", Sentence)
    app.add_directive("ledger-verdicts", Meanings)
    app.add_directive("ledger-claims", Claims)
    app.add_directive("ledger-probes", Probes)
    app.add_directive("paper-cards", Papers)

"""The ledger on the site: verdict marks, the table of claims, the errata, the papers.

Rows come from ``data/claims/<paper>.yaml``, verdicts from ``verdicts.json`` of the profile. A claim's row is found at
``claims.html#claim-<id>``, the cell that decided it at ``<page>.html#evidence-<id>``.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from normdyn.book.counterexamples import counterexample
from normdyn.book.files import write_if_changed
from normdyn.book.slices import NoSlice
from normdyn.ledger import VERDICTS

log = logging.getLogger(__name__)

CLAIMS = "claims"  # the page with the table of claims
NOT_YET, FAILED = "not-yet", "chapter-failed"  # without a verdict
LABELS = {verdict: verdict.replace("-", " ") for verdict in VERDICTS} | {
    NOT_YET: "not yet written",
    FAILED: "chapter failed",
}
MEANING = {
    "holds": "The statement as printed stays within its bound, and its control misses the bound.",
    "holds-with-correction": "As printed it misses; the corrected statement beside it stays within the bound.",
    "fails": "A measured counterexample violates it.",
    "qualitative": "A tendency without a sharp number; it was seen, and the control does not show it.",
    "open": "Not decided; the row says what is missing.",
    "not-checkable": "An opinion, a citation or a matter outside of mathematics and experiment.",
    NOT_YET: "The chapter that will decide it is not written.",
    FAILED: "The chapter that decides it did not run to its end in this build; its page shows the error.",
}

WRONG = {"fails": "What fails", "holds-with-correction": "What holds with a correction"}  # errata, gravest first
WEIGHT = (("theorem",), ("proposition", "corollary", "lemma"), ("claim", "definition-check", "algorithm"), ("fact",))
SHORT = 60  # lines, blank ones aside, that a program may have to be shown on the page
PROGRAMS = "_static/counterexamples"


@dataclass(frozen=True)
class Ledger:
    """Rows of the registry and the verdicts of one profile."""

    rows: dict[str, dict[str, Any]]
    verdicts: dict[str, dict[str, Any]]
    papers: tuple[dict[str, Any], ...]
    files: tuple[Path, ...]
    failed: frozenset[str] = frozenset()  # pages that did not run to their end

    def verdict(self, claim: str) -> str:
        """The verdict, or ``not-yet``, or ``chapter-failed``."""
        without = FAILED if self.rows.get(claim, {}).get("page") in self.failed else NOT_YET
        return self.verdicts.get(claim, {}).get("verdict", without)

    def of(self, paper: str) -> list[dict[str, Any]]:
        """The rows of one paper, in the order of its registry."""
        return [row for row in self.rows.values() if row["paper"] == paper]

    def count(self, paper: str | None = None) -> Counter:
        """How many rows have which verdict."""
        return Counter(self.verdict(row["id"]) for row in (self.of(paper) if paper else self.rows.values()))


def read_ledger(claims: Path, verdicts: Path, papers: list[dict[str, Any]], failures: Path | None = None) -> Ledger:
    """Read the registry and the verdicts; a missing verdict file means that nothing is decided yet.

    Raises:
        ValueError: two rows carry one id.
    """
    rows: dict[str, dict[str, Any]] = {}
    files = sorted(claims.glob("*.yaml"))
    for file in files:
        for row in yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader):
            if row["id"] in rows:
                raise ValueError(f"{file.name}: the id {row['id']} stands twice in the registry")
            rows[row["id"]] = {"paper": file.stem, "kind": "claim", "section": "", "core": False} | row
    decided = json.loads(verdicts.read_text(encoding="utf-8")) if verdicts.is_file() else {}
    failed = json.loads(failures.read_text(encoding="utf-8")) if failures and failures.is_file() else {}
    reports = [failures] if failures else []
    return Ledger(rows, decided, tuple(papers), (*files, verdicts, *reports), frozenset(failed))


def repository(app: Sphinx) -> Path:
    """The root of the book: the nearest folder above the staged sources that has ``data/claims``."""
    above = (folder for folder in Path(app.srcdir).parents if (folder / "data" / "claims").is_dir())
    return next(above, Path(app.srcdir))


def beside(app: Sphinx, name: str) -> Path:
    """A file that the pipeline left beside the staged sources; ``NORMDYN_<NAME>`` names another one."""
    return Path(os.environ.get(f"NORMDYN_{Path(name).stem.upper()}") or Path(app.srcdir).parent / name)


def current_ledger(env: BuildEnvironment) -> Ledger:
    """The ledger, read once a build."""
    ledger = getattr(env, "_normdyn_ledger", None)
    if ledger is None:
        claims = Path(os.environ.get("NORMDYN_CLAIMS") or repository(env.app) / "data" / "claims")
        failures = beside(env.app, "failures.json")
        ledger = read_ledger(claims, beside(env.app, "verdicts.json"), env.config.normdyn_papers, failures)
        env._normdyn_ledger = ledger
    return ledger


def ledger_of(env: BuildEnvironment) -> Ledger:
    """The ledger, for a page that is being read; it is read again when the ledger changes."""
    ledger = current_ledger(env)
    for file in filter(Path.is_file, ledger.files):
        env.note_dependency(str(file))
    return ledger


def forget(app: Sphinx, env: BuildEnvironment, *_: Any) -> None:
    """A stored environment must not carry the ledger of an earlier build."""
    env._normdyn_ledger = None


def ask_for_mathjax(app: Sphinx, doctree: nodes.document) -> None:
    """Sphinx loads MathJax where it sees mathematics; tell it about the mathematics inside our HTML."""
    if any('class="math ' in node.astext() for node in doctree.findall(nodes.raw)):
        app.env.get_domain("math").data["has_equations"][app.env.docname] = True


# ---------------------------------------------------------------------------------------------------------------- HTML


def rich(text: str) -> str:
    """One line of the registry as HTML: ``$...$`` is mathematics, backquotes are code.

    Example:
        >>> rich("$a<b$ in `f`")
        '<span class="math notranslate nohighlight">\\\\(a&lt;b\\\\)</span> in <code>f</code>'
    """
    out = []
    for i, part in enumerate(re.split(r"\$([^$]+)\$", str(text))):
        part = escape(part, quote=False)
        out.append(
            f'<span class="math notranslate nohighlight">\\({part}\\)</span>'
            if i % 2
            else re.sub("`([^`]+)`", r"<code>\1</code>", part)
        )
    return "".join(out)


def number(value: float | None) -> str:
    """A number as a reader wants it: two digits, an exact zero as 0.

    Example:
        >>> number(0.0), number(3.14159e-16), number(12.0), number(None)
        ('0', '3.1e-16', '12', '–')
    """
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-2 or abs(value) >= 1e4 else f"{value:.3g}"


def mark(verdict: str, href: str = "", claim: str = "") -> str:
    """A verdict as a small mark: a colour, a sign and a word."""
    name = f'<span class="visually-hidden">{escape(claim)} </span>' if claim else ""
    tag, link = ("a", f' href="{escape(href)}"') if href else ("span", "")
    return f'<{tag} class="verdict-mark verdict-{verdict}"{link}>{name}{LABELS[verdict]}</{tag}>'


def numbers(entry: dict[str, Any]) -> str:
    """Measured value, bound and control of a decided claim."""
    if entry.get("value") is None:
        return ""
    pairs = (("measured", "value"), ("bound", "bound"), ("control", "control"))
    texts = (f"<span>{name} <b>{number(entry.get(key))}</b></span>" for name, key in pairs)
    return f'<p class="ledger-numbers">{" ".join(texts)}</p>'


# ---------------------------------------------------------------------------------------------------- roles, directives


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

    def evidence(self, claim: str) -> str:
        """Where the cell lies that decided a claim."""
        page, lost = self.ledger().verdicts.get(claim, {}).get("page"), self.ledger().rows[claim].get("page", "")
        return self.link(page, f"evidence-{claim}") if page else self.link(lost) if lost in self.ledger().failed else ""

    def where(self, claim: str) -> str:
        """A link to the deciding cell, or nothing."""
        href = self.evidence(claim)
        name = "the deciding cell" if claim in self.ledger().verdicts else "the chapter's error"
        name += f'<span class="visually-hidden"> of {claim}</span>'
        return f'<p class="ledger-where"><a href="{href}">{name}</a></p>' if href else ""

    def paper(self, key: str) -> dict[str, Any]:
        for paper in self.ledger().papers:
            if paper["key"] == key:
                return paper
        raise self.error(f"no paper {key}: choose one of {', '.join(p['key'] for p in self.ledger().papers)}")

    def html(self, text: str) -> list[nodes.Node]:
        return [nodes.raw("", text, format="html")]


class Claim(SphinxRole):
    """``{claim}`E-fig1```: the verdict of a claim, linked to its row."""

    def run(self):
        ledger, claim = ledger_of(self.env), self.text.strip()
        if claim not in ledger.rows:
            log.warning(
                "claim %s is not in the registry", claim, location=self.get_location(), type="normdyn", subtype="claim"
            )
            return [nodes.literal("", claim)], []
        uri = self.env.app.builder.get_relative_uri(self.env.docname, CLAIMS)
        return [nodes.raw("", mark(ledger.verdict(claim), f"{uri}#claim-{claim}", claim), format="html")], []


class Summary(Ledgered):
    """``{ledger-summary}``: how many claims of each paper have which verdict, as a table."""

    def run(self):
        ledger = self.ledger()
        present = [v for v in LABELS if ledger.count()[v] or v not in (NOT_YET, FAILED)]
        head = "".join(f'<th scope="col">{mark(v)}</th>' for v in present)
        body = "".join(self.row(ledger, paper, present) for paper in ledger.papers)
        foot = '<tr><th scope="row">All</th>' + self.cells(ledger.count(), present) + "</tr>"
        return self.html(
            '<div class="ledger-scroll"><table class="ledger-summary">'
            '<caption class="visually-hidden">Claims of each paper by verdict</caption>'
            f'<thead><tr><th scope="col">Paper</th>{head}<th scope="col">all</th></tr></thead>'
            f"<tbody>{body}</tbody><tfoot>{foot}</tfoot></table></div>"
        )

    def row(self, ledger: Ledger, paper: dict[str, Any], present: list[str]) -> str:
        href, count = f"{self.link(CLAIMS)}?paper={paper['key']}", ledger.count(paper["key"])
        name = f'<a href="{href}"><b>{paper["key"]}</b> {escape(paper["title"])}</a>'
        return f'<tr><th scope="row">{name}</th>{self.cells(count, present, href)}</tr>'

    @staticmethod
    def cells(count: Counter, present: list[str], href: str = "") -> str:
        def cell(verdict: str) -> str:
            n = count[verdict]
            shown = f'<a href="{href}&amp;verdict={verdict}">{n}</a>' if n and href else str(n or "·")
            return f"<td>{shown}</td>"

        return "".join(map(cell, present)) + f"<td>{count.total()}</td>"


class Meanings(Ledgered):
    """``{ledger-verdicts}``: what each verdict means."""

    def run(self):
        items = "".join(f"<dt>{mark(v)}</dt><dd>{text}</dd>" for v, text in MEANING.items())
        return self.html(f'<dl class="ledger-verdicts">{items}</dl>')


class Sentence(Ledgered):
    """``{ledger-sentence}``: the counts in one sentence, for the front page."""

    def run(self):
        count = self.ledger().count()
        decided = count.total() - count[NOT_YET] - count[FAILED]
        parts = ", ".join(f"<b>{count[v]}</b> {mark(v)}" for v in LABELS if v not in (NOT_YET, FAILED) and count[v])
        rest = f" The other <b>{count[NOT_YET]}</b> wait for their chapters." if count[NOT_YET] else ""
        rest += f" <b>{count[FAILED]}</b> are lost, for their chapters failed in this build." if count[FAILED] else ""
        return self.html(
            f'<p class="ledger-sentence">The papers make <b>{count.total()}</b> claims that we number. '
            f"<b>{decided}</b> have a verdict{': ' + parts if parts else ''}.{rest}</p>"
        )


class Claims(Ledgered):
    """``{ledger-claims} E``: every claim of a paper, or of all without an argument, with a filter above the table."""

    optional_arguments = 1

    def run(self):
        ledger = self.ledger()
        keys = [self.paper(self.arguments[0])["key"]] if self.arguments else [p["key"] for p in ledger.papers]
        rows = [row for key in keys for row in ledger.of(key)]
        body = "".join(self.row(row) for row in rows)
        return self.html(
            f'<form class="ledger-filter" role="search" aria-label="Filter claims" hidden>{self.filters(keys, rows)}'
            f'<output class="ledger-found">{len(rows)} claims</output></form>'
            # Roles in words: the style sheet lays each row out by itself, which would take them away.
            '<table class="ledger" role="table"><thead role="rowgroup"><tr role="row">'
            '<th scope="col" role="columnheader">Claim</th><th scope="col" role="columnheader">Statement</th>'
            '<th scope="col" role="columnheader">Verdict</th></tr></thead>'
            f'<tbody role="rowgroup">{body}</tbody></table>'
        )

    def filters(self, keys: list[str], rows: list[dict[str, Any]]) -> str:
        def select(name: str, values: Iterator[tuple[str, str]]) -> str:
            options = "".join(f'<option value="{escape(v)}">{escape(text)}</option>' for v, text in values)
            return f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>'

        kinds = Counter(row["kind"] for row in rows)
        verdicts = Counter(self.ledger().verdict(row["id"]) for row in rows)
        papers = (
            select("paper", ((key, f"{key} · {self.paper(key)['title']}") for key in keys)) if len(keys) > 1 else ""
        )
        return (
            papers
            + select("kind", ((kind, f"{kind} ({n})") for kind, n in sorted(kinds.items())))
            + select("verdict", ((v, f"{LABELS[v]} ({verdicts[v]})") for v in LABELS if verdicts[v]))
            + '<label>text <input type="search" name="text" autocomplete="off"></label>'
            + '<label class="ledger-core"><input type="checkbox" name="core" value="true"> core results only</label>'
        )

    def row(self, row: dict[str, Any]) -> str:
        claim, entry = row["id"], self.ledger().verdicts.get(row["id"], {})
        verdict, kind = self.ledger().verdict(claim), escape(row["kind"])
        core = ' <span class="ledger-core-mark">core</span>' if row["core"] else ""
        below = "".join(
            f'<p class="ledger-{key}"><b>{label}.</b> {rich(entry[key])}</p>'
            for key, label in (
                ("correction", "Counterexample" if verdict == "fails" else "Correction"),
                ("note", "Note"),
            )
            if entry.get(key)
        )
        data = {"paper": row["paper"], "kind": kind, "verdict": verdict, "core": "true" if row["core"] else "false"}
        attributes = " ".join(f'data-{name}="{value}"' for name, value in data.items())
        return (
            f'<tr id="claim-{claim}" role="row" {attributes}>'
            f'<th scope="row" role="rowheader"><a class="ledger-id" href="#claim-{claim}">{claim}</a>{core}'
            f'<span class="ledger-place">{kind}, {rich(row["section"])}</span></th>'
            f'<td role="cell"><p>{rich(row["statement"])}</p>{below}</td>'
            f'<td role="cell">{mark(verdict)}{numbers(entry)}{self.where(claim)}</td></tr>'
        )


class Errata(Ledgered):
    """``{ledger-errata} E``: what is printed, what is right, the evidence and its program, by consequence."""

    required_arguments = 1

    def run(self):
        ledger, key = self.ledger(), self.paper(self.arguments[0])["key"]
        wrong = by_consequence(ledger, key)
        if not wrong:
            return self.html("<p>Nothing printed has failed so far.</p>")
        out: list[nodes.Node] = []
        for verdict, title in (
            (v, text) for v, text in WRONG.items() if any(ledger.verdict(r["id"]) == v for r in wrong)
        ):
            rows = [row for row in wrong if ledger.verdict(row["id"]) == verdict]
            section = self.section(f"errata-{key}-{verdict}", f"{title} ({len(rows)})")
            for name, core in (("Core results", True), ("Further statements", False)):
                part = [row for row in rows if row["core"] == core]
                if part:
                    anchor = f"errata-{key}-{verdict}-{'core' if core else 'further'}"
                    inner = self.section(anchor, f"{name} ({len(part)})")
                    inner += self.html("".join(map(self.entry, part)))
                    section += inner
            out.append(section)
        return out

    @staticmethod
    def section(anchor: str, title: str) -> nodes.section:
        section = nodes.section(ids=[anchor])
        section += nodes.title("", title)
        return section

    def entry(self, row: dict[str, Any]) -> str:
        claim, entry = row["id"], self.ledger().verdicts[row["id"]]
        href = self.link(CLAIMS, f"claim-{claim}")
        right = "Counterexample" if entry["verdict"] == "fails" else "What is right"
        note = f"<dt>Note</dt><dd>{rich(entry['note'])}</dd>" if entry.get("note") else ""
        return (
            f'<article class="erratum verdict-{entry["verdict"]}" id="erratum-{claim}" aria-label="{claim}">'
            f'<p class="erratum-head"><span class="verdict-claim">{claim}</span> {mark(entry["verdict"], href, claim)}'
            f' <span class="ledger-place">{escape(row["kind"])}, {rich(row["section"])}</span></p>'
            f"<dl><dt>As printed</dt><dd>{rich(row['statement'])}</dd>"
            f"<dt>{right}</dt><dd>{rich(entry['correction'])}</dd>{note}"
            f"<dt>Evidence</dt><dd>{numbers(entry)}{self.where(claim)}</dd>{self.program(row, entry)}</dl></article>"
        )

    def program(self, row: dict[str, Any], entry: dict[str, Any]) -> str:
        """What decides a claim as a program: to unfold where it is short, to take away in any case."""
        text = program(self.env.app, row, entry)
        if not text:
            return ""
        self.env.note_dependency(str(chapter_of(self.env.app, entry)))
        claim, lines = row["id"], sum(map(bool, text.splitlines()))
        href = self.env.app.builder.get_relative_uri(self.env.docname, "index").removesuffix("index.html")
        name = f'<span class="visually-hidden">the program of {claim}: </span>{claim}.py'
        load = f'<a href="{href}{PROGRAMS}/{claim}.py" download>{name}</a> <span>({lines} lines)</span>'
        if lines > SHORT:
            return f'<dt>Run it</dt><dd class="counterexample">{load}</dd>'
        code = (
            f'<div class="highlight"><pre>{escape(text, quote=False)}</pre></div>'  # coloured, a page weighs a megabyte
        )
        return (
            f'<dt>Run it</dt><dd class="counterexample">{load}<details><summary>Show the program'
            f'<span class="visually-hidden"> of {claim}</span></summary>'
            f'<div class="counterexample-code" role="region" tabindex="0" aria-label="Program of {claim}">{code}</div>'
            "</details></dd>"
        )


class ErrataSummary(Ledgered):
    """``{ledger-errata-summary}``: how many errata of each consequence a paper has, as a table."""

    def run(self):
        ledger = self.ledger()
        counts = {paper["key"]: self.count(ledger, paper["key"]) for paper in ledger.papers}
        body = "".join(self.row(paper, counts[paper["key"]]) for paper in ledger.papers)
        foot = self.cells([sum(column) for column in zip(*counts.values(), strict=True)])
        groups = "".join(f'<th scope="colgroup" colspan="2">{mark(verdict)}</th>' for verdict in WRONG)
        parts = "".join('<th scope="col">core</th><th scope="col">further</th>' for _ in WRONG)
        return self.html(
            '<div class="ledger-scroll"><table class="ledger-summary">'
            '<caption class="visually-hidden">Errata of each paper by consequence</caption>'
            f'<thead><tr><th scope="col" rowspan="2">Paper</th>{groups}<th scope="col" rowspan="2">all</th></tr>'
            f"<tr>{parts}</tr></thead><tbody>{body}</tbody>"
            f'<tfoot><tr><th scope="row">All</th>{foot}</tr></tfoot></table></div>'
        )

    @staticmethod
    def count(ledger: Ledger, key: str) -> list[int]:
        found = Counter((ledger.verdict(row["id"]), row["core"]) for row in by_consequence(ledger, key))
        return [*(found[verdict, core] for verdict in WRONG for core in (True, False)), found.total()]

    def row(self, paper: dict[str, Any], counts: list[int]) -> str:
        name, href = f"<b>{paper['key']}</b> {escape(paper['title'])}", self.link(f"errata/{paper['folder']}")
        shown = f'<a href="{href}">{name}</a>' if href else name
        return f'<tr><th scope="row">{shown}</th>{self.cells(counts)}</tr>'

    @staticmethod
    def cells(counts: list[int]) -> str:
        return "".join(f"<td>{n or '·'}</td>" for n in counts)


def by_consequence(ledger: Ledger, paper: str) -> list[dict[str, Any]]:
    """What a paper prints and does not hold: failures first; in each, core results, weightier kinds, larger misses."""

    def order(row: dict[str, Any]) -> tuple:
        entry = ledger.verdicts[row["id"]]
        missed = entry["value"] if entry["verdict"] == "fails" else entry["control"]
        kind = next((i for i, kinds in enumerate(WEIGHT) if row["kind"] in kinds), len(WEIGHT))
        return list(WRONG).index(entry["verdict"]), not row["core"], kind, -(missed or 0) / (entry["bound"] or 1)

    return sorted((row for row in ledger.of(paper) if ledger.verdict(row["id"]) in WRONG), key=order)


# ------------------------------------------------------------------------------------------------------------ programs


def chapter_of(app: Sphinx, entry: dict[str, Any]) -> Path:
    """The source of the page that decided a claim."""
    return repository(app) / "chapters" / f"{entry.get('page')}.md"


def program(app: Sphinx, row: dict[str, Any], entry: dict[str, Any]) -> str:
    """The program that decides a claim; empty where the chapter is not there or has no call that names the claim."""
    if not chapter_of(app, entry).is_file():
        return ""
    try:
        return counterexample(repository(app), row, entry)
    except NoSlice:
        return ""


def write_programs(app: Sphinx, error: Exception | None) -> None:
    """Put the programs of all errata into the finished site, and take out those of others."""
    if error is not None or app.builder.format != "html":
        return
    ledger, folder = current_ledger(app.env), Path(app.outdir, PROGRAMS)
    wrong = [row for paper in ledger.papers for row in by_consequence(ledger, paper["key"])]
    programs = {row["id"]: program(app, row, ledger.verdicts[row["id"]]) for row in wrong}
    folder.mkdir(parents=True, exist_ok=True)
    kept = [write_if_changed(folder / f"{claim}.py", text.encode()) for claim, text in programs.items() if text]
    for path in set(folder.iterdir()) - set(kept):
        path.unlink()


class Papers(Ledgered):
    """``{paper-cards}``: one card a paper, which says how far it is."""

    def run(self):
        return self.html('<ul class="papers">' + "".join(map(self.card, self.ledger().papers)) + "</ul>")

    def card(self, paper: dict[str, Any]) -> str:
        count = self.ledger().count(paper["key"])
        decided, total = count.total() - count[NOT_YET] - count[FAILED], count.total()
        href = self.link(f"{paper['folder']}/index") if decided else ""
        title = f"{paper['key']}. {escape(paper['title'])}"
        state = "written" if decided == total else "being written" if decided else "not yet written"
        shown = f"{decided} of {total} claims decided" if decided else f"{total} claims listed"
        claims = f"{self.link(CLAIMS)}?paper={paper['key']}"
        return (
            f'<li class="paper paper-{state.replace(" ", "-")}"><p class="paper-title">'
            + (f'<a href="{href}">{title}</a>' if href else title)
            + f'</p><p class="paper-authors">{escape(paper["authors"])}</p><p>{escape(paper["about"])}</p>'
            f'<p class="paper-state"><span class="paper-badge">{state}</span> <a href="{claims}">{shown}</a></p></li>'
        )


def setup(app: Sphinx) -> None:
    """Register roles and directives."""
    app.add_config_value("normdyn_papers", [], "env")
    app.add_role("claim", Claim())
    app.add_directive("ledger-summary", Summary)
    app.add_directive("ledger-sentence", Sentence)
    app.add_directive("ledger-verdicts", Meanings)
    app.add_directive("ledger-claims", Claims)
    app.add_directive("ledger-errata", Errata)
    app.add_directive("ledger-errata-summary", ErrataSummary)
    app.add_directive("paper-cards", Papers)
    app.connect("doctree-read", ask_for_mathjax)
    app.connect("env-before-read-docs", forget)
    app.connect("env-updated", forget)
    app.connect("build-finished", write_programs)

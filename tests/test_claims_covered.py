"""The ledger: every claim of a written paper is decided by a page, and a fresh run reproduces the recorded verdicts."""

import json
from collections import Counter
from pathlib import Path

import pytest

from claimbook.command import build
from claimbook.evidence.words import WORDS
from claimbook.registry import verdicts
from claimbook.run import engine
from claimbook.source import pages
from claimbook.source.pages import Layout
from claimbook.source.parameters import Parameters

ROOT = Path(__file__).parents[1]
LAYOUT = Layout(ROOT, "quick")
# The run whose verdicts are recorded: the processor, seed 0.
CURRENT = Parameters("quick", "cpu", 0)
RECORDED = ROOT / "data" / "verdicts" / "quick.json"


@pytest.fixture(scope="module")
def fresh():
    names = pages.notebooks(ROOT)
    absent = [page for page in names if not LAYOUT.executed(page).is_file()]
    assert not absent, f"not executed: {', '.join(absent)}; run make book"
    return verdicts.collect(LAYOUT, names)


def test_the_site_is_built_from_current_sources():
    stale = [p for p in pages.notebooks(ROOT) if not engine.is_current(LAYOUT, p, CURRENT)]
    assert not stale, f"not current: {', '.join(stale)}; run make book"
    assert build.site_is_current(LAYOUT), "the site is not current; run make book"


def test_every_chapter_is_in_the_table_of_contents():
    written = {str(path.relative_to(ROOT / "chapters").with_suffix("")) for path in (ROOT / "chapters").rglob("*.md")}
    assert written == set(pages.pages(ROOT))


def test_the_registry_is_well_formed():
    claims = verdicts.read_claims(ROOT)
    papers = {row["key"] for row in verdicts.read_papers(ROOT)}
    fields = ["id", "paper", "section", "kind", "core", "statement", "page"]
    new = {"quote", "quote_as_read", "correction", "severity", "rests_on", "stands_by", "excuses", "deviates", "beside"}
    for claim, row in claims.items():
        assert [name for name in row if name not in new] == fields, claim
        assert row["paper"] in papers | {verdicts.OURS} and claim.startswith(f"{row['paper']}-"), claim
        assert row["statement"] and row["section"] and isinstance(row["core"], bool), claim
        assert ("beside" in row) == (row["paper"] == verdicts.OURS), claim
    assert {row["paper"] for row in claims.values()} == papers | {verdicts.OURS}
    counts = Counter(row["paper"] for row in claims.values() if row["paper"] in papers)
    assert counts == {"E": 73, "A": 55, "D": 209, "B": 136, "C": 135}, "the 608 claims of the papers"


def test_every_claim_of_a_written_paper_has_a_verdict(fresh):
    assert "E" in verdicts.written(ROOT)
    assert verdicts.missing(ROOT, fresh) == []


def test_a_fresh_run_reproduces_the_recorded_verdicts(fresh):
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert verdicts.contradictions(recorded, fresh) == []


def test_recorded_verdicts_have_their_form(fresh):
    for claim, entry in json.loads(RECORDED.read_text(encoding="utf-8")).items():
        assert set(entry) == {*verdicts.FIELDS, "reason", "function"}, claim
        assert entry["reason"], claim  # of the bound, or why there is none
        assert entry["verdict"] in WORDS, claim
        numbers = [entry[name] for name in ("value", "bound", "control")]
        decided = entry["verdict"] not in ("open", "not-checkable")
        assert all(isinstance(n, float) for n in numbers) if decided else entry["reason"], claim


def test_the_registry_says_on_which_page_a_claim_is_decided():
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    for claim, row in verdicts.read_claims(ROOT).items():
        assert row["page"] == (recorded[claim]["page"] if claim in recorded else None), claim


def test_results_of_one_profile_never_show_as_another():
    for page in pages.notebooks(ROOT):
        stored = json.loads(LAYOUT.executed(page).read_text(encoding="utf-8"))["metadata"]["claimbook"]
        assert stored["profile"] == "quick" and "profile=quick" in stored["parts"]["parameters"], page

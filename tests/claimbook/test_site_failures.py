"""Claims of a chapter that failed say so, and lead to the page that shows its error."""

import json
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from claimbook.site import ledger as site_ledger
from claimbook.site.ledger import FAILED, NOT_YET, read_ledger
from claimbook.site.tables import Claims, Sentence

ROWS = """
- {id: Z-one, section: "1", kind: theorem, core: true, statement: One., page: part/one}
- {id: Z-two, section: "2", kind: theorem, core: false, statement: Two., page: part/two}
- {id: Z-three, section: "3", kind: theorem, core: false, statement: Three., page: part/three}
"""
HOLDS = {"verdict": "holds", "value": 0.0, "bound": 1.0, "control": 200.0, "page": "part/one"}


@pytest.fixture
def ledger(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/Z.yaml").write_text(ROWS)
    (tmp_path / "verdicts.json").write_text(json.dumps({"Z-one": HOLDS | {"correction": ""}}))
    (tmp_path / "failures.json").write_text(json.dumps({"part/two": "the pump is dry"}))
    papers = [{"key": "Z", "title": "Z"}]
    return read_ledger(tmp_path / "claims", tmp_path / "verdicts.json", papers, tmp_path / "failures.json")


def directive(kind, ledger):
    found = object.__new__(kind)
    found.ledger = lambda: ledger
    found.arguments = []
    found.page_of = lambda claim: f"claims/{claim}.html"
    found.link = lambda page, anchor="": f"{page}.html#{anchor}" if anchor else f"{page}.html"
    return found


def test_a_claim_without_a_verdict_is_of_a_chapter_that_failed_or_is_not_written(ledger):
    assert [ledger.verdict(claim) for claim in ("Z-one", "Z-two", "Z-three")] == ["holds", FAILED, NOT_YET]
    assert ledger.files[-1].name == "failures.json"


def test_its_row_leads_to_the_page_that_shows_the_error(ledger):
    (node,) = directive(Claims, ledger).run()
    table = BeautifulSoup(node.astext(), "html.parser")
    row = {claim: str(table.select_one(f"#claim-{claim}")) for claim in ledger.rows}
    assert "chapter failed" in row["Z-two"] and 'href="part/two.html"' in row["Z-two"]
    assert "the chapter's error" in row["Z-two"] and "not yet written" not in row["Z-two"]
    assert "#evidence-Z-one" in row["Z-one"] and "the deciding cell" in row["Z-one"]
    assert "not yet written" in row["Z-three"] and 'class="ledger-where"' not in row["Z-three"]


def test_the_front_page_does_not_count_it_as_decided(ledger):
    (node,) = directive(Sentence, ledger).run()
    text = node.astext()
    assert "<b>1</b> have a verdict" in text and "<b>1</b> wait for their chapters" in text
    assert "<b>1</b> are lost, for their chapters failed" in text


def test_what_the_pipeline_left_is_read_beside_the_verdicts(ledger, tmp_path, monkeypatch):
    names = ("verdicts", "failures")
    for name in names:
        monkeypatch.setenv(f"CLAIMBOOK_{name.upper()}", str(tmp_path / f"{name}.json"))
    monkeypatch.setenv("CLAIMBOOK_CLAIMS", str(tmp_path / "claims"))
    env = SimpleNamespace(app=SimpleNamespace(srcdir=tmp_path), config=SimpleNamespace(claimbook_papers=[]))
    assert site_ledger.current_ledger(env).failed == {"part/two"}

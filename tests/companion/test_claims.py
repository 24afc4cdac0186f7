"""Every claim that is a function: decided alone, its row complete, its probes without a red one that nothing excuses.

``pytest -k E-lem2.4`` decides one claim.
"""

import json
from functools import cache
from pathlib import Path

import pytest

from claimbook.evidence import Case
from claimbook.evidence.words import PROBES, SEVERITIES
from claimbook.registry import audits, verdicts
from claimbook.registry.doors import doors, load

ROOT = Path(__file__).resolve().parents[2]
DOORS = doors(ROOT)
QUOTED = 2  # sentences at most


@cache
def rows():
    return verdicts.read_claims(ROOT)


@cache
def recorded():
    return json.loads((ROOT / "data" / "verdicts" / "quick.json").read_text(encoding="utf-8"))


def test_there_are_claims_in_the_new_form():
    assert len(DOORS) >= 73


@pytest.mark.parametrize("claim", DOORS)
def test_the_function_alone_gives_the_recorded_word(claim):
    record = load(ROOT, claim).decide(Case()).record
    assert record["word"] == recorded()[claim]["verdict"]
    assert record["function"].startswith(DOORS[claim])


@pytest.mark.parametrize("claim", DOORS)
def test_its_row_says_what_the_paper_says_and_what_it_rests_on(claim):
    row, word = rows()[claim], recorded()[claim]["verdict"]
    if row["paper"] == verdicts.OURS:
        assert row["beside"] in {"A", "B", "C", "D", "E"}
    else:
        assert row.get("quote"), "the decisive words of the paper are missing"
    if row["core"] and row["paper"] != verdicts.OURS:
        assert isinstance(row.get("rests_on"), list), "say which claims the paper's proof of it uses, [] if none"
    assert set(row.get("rests_on") or []) <= rows().keys() - {claim}
    if word in verdicts.WRONG:
        assert row.get("correction") and row.get("severity") in SEVERITIES
    else:
        assert not row.get("severity") and not row.get("correction"), f"it {word}: nothing is corrected"


PROBED = sorted({claim for claim in DOORS if audits.read(ROOT, claim)} - set(audits.stale(ROOT, list(DOORS))))


@pytest.mark.parametrize("claim", PROBED)
def test_no_probe_is_red_without_an_excuse(claim):
    """Stale probes and those not made yet are counted on the page of claims, never red; a release asks for all to be
    current (``make audit``)."""
    row = rows()[claim]
    judged = audits.judged(row, audits.read(ROOT, claim))
    assert "red" not in judged.values()
    idle = set(row.get("excuses") or {}) - {name for name in PROBES if judged[name] == "excused"}
    assert not idle, "an excuse stands for a probe that is not red"

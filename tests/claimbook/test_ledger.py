"""The verdict as a function of the evidence: a table by hand, refusals, and what a notebook shows of it."""

import itertools
import json
import math
from dataclasses import asdict

import pytest

from claimbook.registry import ledger
from claimbook.registry.ledger import ControlError, Evidence, verdict

good = {"reason": "rounding", "control": 1.0}


# Verdicts


@pytest.mark.parametrize(
    "evidence, expected",
    [
        (ledger.check("A-1", 1e-13, 1e-12, **good), "holds"),
        (ledger.check("A-1", 1e-12, 1e-12, **good), "holds"),
        (ledger.check("A-1", -0.3, 1e-12, **good), "holds"),
        (ledger.check("A-1", 2e-12, 1e-12, **good), "fails"),
        (ledger.correct("A-1", 0, 1e-12, printed=1, reason="r", correction="c"), "holds-with-correction"),
        (ledger.correct("A-1", 1, 1e-12, printed=1, reason="r", correction="c"), "open"),
        (ledger.correct("A-1", 0, 1e-12, printed=0, reason="r", correction="c", control=1), "holds"),
        (ledger.correct("A-1", 0, 1e-2, printed=0.5, reason="r", correction="c", control=2), "open"),
        (ledger.refute("A-1", 1, 1e-12, reason="r", control=0, counterexample="c"), "fails"),
        (ledger.refute("A-1", 0, 1e-12, reason="r", control=0, counterexample="c"), "holds"),
        (ledger.refute("A-1", 0.5, 1e-2, reason="r", control=0, counterexample="c"), "open"),
        (ledger.observe("A-1", -0.1, 0.01, **good), "qualitative"),
        (ledger.observe("A-1", 0.1, 0.01, **good), "fails"),
        (ledger.leave_open("A-1", "no proof"), "open"),
        (ledger.not_checkable("A-1", "an opinion"), "not-checkable"),
    ],
)
def test_verdicts_by_hand(evidence, expected):
    assert verdict(evidence) == expected


def test_the_builder_finds_the_same_verdict_from_the_stored_numbers():
    pieces = [
        ledger.check("A-1", 1e-13, 1e-12, **good),
        ledger.correct("A-2", 0, 1e-12, printed=1, reason="r", correction="c"),
        ledger.refute("A-3", 1, 1e-12, reason="r", control=0, counterexample="c"),
        ledger.leave_open("A-4", "no proof"),
    ]
    for piece in pieces:
        stored = json.loads(json.dumps(piece._repr_mimebundle_()[1]))["claimbook"]["evidence"]
        assert [Evidence(**numbers) for numbers in stored] == [piece]
        assert verdict(Evidence(**stored[0])) == verdict(piece)


def test_a_larger_residual_never_turns_a_claim_true():
    values = [-1.0, 0.0, 1e-13, 1e-12, 1e-11, 1e-3, 1.0]
    makers = {
        "check": lambda v: ledger.check("A-1", v, 1e-12, **good),
        "correct": lambda v: ledger.correct("A-1", v, 1e-12, printed=1, reason="r", correction="c"),
        "refute": lambda v: ledger.refute("A-1", v, 1e-12, reason="r", control=0, counterexample="c"),
        "observe": lambda v: ledger.observe("A-1", v, 1e-12, **good),
    }
    true = {"holds", "holds-with-correction", "qualitative"}
    for make in makers.values():
        outcomes = [verdict(make(v)) in true for v in values]
        assert all(before or not after for before, after in itertools.pairwise(outcomes))
        assert outcomes[0] and not outcomes[-1]


# Controls and refusals


@pytest.mark.parametrize("control", [0.0, 1e-12, 1e-10, -5.0])
def test_a_control_that_passes_breaks_the_check(control):
    with pytest.raises(ControlError, match="A-1: the control must be above 1e-10, it is"):
        ledger.check("A-1", 1e-13, 1e-12, reason="rounding", control=control)


def test_a_margin_says_by_how_much_the_control_must_miss():
    assert verdict(ledger.check("A-1", 0.5, 1, reason="a count", control=2, margin=1)) == "holds"
    with pytest.raises(ControlError, match="above 10"):
        ledger.check("A-1", 0.5, 1, reason="a count", control=10, margin=10)


def test_the_control_of_a_counterexample_must_satisfy_the_claim():
    with pytest.raises(ControlError, match="A-1: the control must be at most 1e-12, it is 0.5"):
        ledger.refute("A-1", 1, 1e-12, reason="r", control=0.5, counterexample="c")


def test_the_printed_statement_is_the_control_of_its_correction():
    with pytest.raises(ControlError, match="A-1: the control must be above"):
        ledger.correct("A-1", 0, 1e-12, printed=1e-11, reason="r", correction="c")


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["value", "bound", "control"])
def test_numbers_must_be_finite(name, wrong):
    numbers = {"value": 0.0, "bound": 1e-12, "control": 1.0} | {name: wrong}
    with pytest.raises(ValueError, match=f"A-1: {name} must be a finite number"):
        ledger.check("A-1", numbers["value"], numbers["bound"], reason="r", control=numbers["control"])


def test_other_refusals_name_what_is_missing():
    with pytest.raises(ValueError, match="bound must be positive, got 0"):
        ledger.check("A-1", 0, 0, **good)
    with pytest.raises(ValueError, match="give the reason of the bound"):
        ledger.check("A-1", 0, 1, reason="", control=200)
    with pytest.raises(ValueError, match="state the correction"):
        ledger.correct("A-1", 0, 1e-12, printed=1, reason="r", correction="")
    with pytest.raises(ValueError, match="printed must be a finite number"):
        ledger.correct("A-1", 0, 1e-12, printed=math.nan, reason="r", correction="c", control=1)
    with pytest.raises(ValueError, match="say why it is open"):
        ledger.leave_open("A-1", "")
    with pytest.raises(ValueError, match="say why it is not-checkable"):
        ledger.not_checkable("A-1", "")


# What a notebook shows


def test_the_line_that_is_compared_does_not_depend_on_rounding():
    lines = {
        ledger.line(ledger.check("A-1", v, 1e-12, reason="r", control=c)) for v, c in [(0, 1), (3e-15, 0.7), (-1, 9)]
    }
    assert lines == {"A-1: holds (residual <= 1e-12)"}
    assert ledger.line(ledger.check("A-1", 1, 1e-12, **good)) == "A-1: fails (residual > 1e-12)"
    assert ledger.line(ledger.leave_open("A-1", "no proof")) == "A-1: open (no proof)"
    shown = ledger.check("A-1", 0, 1e-12, shown="rate 0.75", **good)
    assert ledger.line(shown) == "A-1: holds (residual <= 1e-12, rate 0.75)"


def test_a_card_carries_its_anchor_the_verdict_and_escaped_texts():
    piece = ledger.correct("A-1", 0, 1e-12, printed=1, reason="p < q & more", correction="<b>x</b>", note='"n"')
    data, metadata = piece._repr_mimebundle_()
    html = data["text/html"]
    assert 'id="evidence-A-1"' in html
    assert "verdict-holds-with-correction" in html
    assert "p &lt; q &amp; more" in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<b>x</b>" not in html
    assert "#claim-A-1" in html
    assert metadata["claimbook"]["evidence"] == [asdict(piece)]


def test_a_table_shows_one_line_and_one_row_for_each_piece():
    pieces = [ledger.check(f"A-{k}", 0, 1e-12, **good) for k in range(3)] + [ledger.leave_open("A-3", "no proof")]
    data, metadata = ledger.table(pieces)._repr_mimebundle_()
    assert data["text/plain"].split("\n") == [ledger.line(piece) for piece in pieces]
    assert [f'id="evidence-A-{k}"' in data["text/html"] for k in range(4)] == [True] * 4
    assert [numbers["claim"] for numbers in metadata["claimbook"]["evidence"]] == ["A-0", "A-1", "A-2", "A-3"]


def test_an_entry_of_the_verdict_file():
    piece = ledger.correct("A-1", 1e-15, 1e-12, printed=1, reason="r", correction="c", note="n")
    assert ledger.entry(piece, "one/page") == {
        "verdict": "holds-with-correction", "value": 1e-15, "bound": 1e-12, "control": 1.0,
        "page": "one/page", "note": "n", "correction": "c",
    }  # fmt: skip
    undecided = ledger.entry(ledger.leave_open("A-1", "no proof"), "one/page")
    assert (undecided["value"], undecided["note"]) == (None, "no proof")


@pytest.mark.parametrize("value, text", [(0.0, "0"), (0.5, "0.5"), (123.4, "123"), (1.26e-9, "1.3e-09"), (None, "–")])
def test_numbers_are_shown_with_few_digits(value, text):
    assert ledger._number(value) == text

"""Evidence that cannot cheat: every way of cheating that audits found is tried here, and refused or seen."""

import json
import math
from fractions import Fraction

import pytest
import torch

from claimbook.evidence import (
    Case,
    ControlError,
    Unfinished,
    at_most,
    cards,
    claim,
    counterexample,
    decide,
    equal,
    limit,
    shared,
    tendency,
    together,
)
from claimbook.evidence.case import forget
from claimbook.evidence.claims import CLAIMS
from claimbook.evidence.words import WORDS, unbroken, word

ONE = torch.ones(3, dtype=torch.float64)


@pytest.fixture(autouse=True)
def no_doors_left(monkeypatch):
    """Claims made in a test are forgotten with it."""
    monkeypatch.setattr("claimbook.evidence.claims.CLAIMS", dict(CLAIMS))


def square(**worlds):
    """Two squared is four, in the worlds given."""

    @claim("X-square", **worlds)
    def claimed(case, power=2, target=4.0, shift=0.0):
        """Two to the power two is four."""
        return equal(lambda: [2.0**power + shift], lambda: [target], 1e-12, "rounding")

    return claimed


# Words, by rule


def test_a_statement_that_stands_and_whose_control_misses_holds():
    verdict = square(control={"power": 3}).decide(Case())
    assert verdict.word == "holds"
    assert verdict.record["value"] == 0 and verdict.record["control"] == 1.0


def test_a_statement_that_misses_fails_if_it_stands_in_its_control():
    assert square(control={"target": 8.0}).decide(Case()).word == "holds"
    failing = claim("X-fails", control={"power": 3})(
        lambda case, power=2: equal(lambda: 2.0**power, lambda: 8.0, 1e-9, "r")
    )
    assert failing.decide(Case()).word == "fails"


def test_a_statement_that_misses_everywhere_decides_nothing():
    """A check that no world satisfies may be broken itself."""
    broken = claim("X-b", control={"power": 4})(lambda case, power=2: equal(lambda: 2.0**power, lambda: 8.0, 1e-9, "r"))
    with pytest.raises(ControlError, match="X-b: no control breaks the statement"):
        broken.decide(Case())


def test_between_bound_and_margin_nothing_is_decided():
    assert square(control={"power": 3})(Case(), shift=1e-10).state() == "undecided"
    near = claim("X-near", control={"shift": 1.0})(
        lambda case, shift=1e-11: equal(lambda: 1.0 + shift, lambda: 1.0, 1e-12, "rounding")
    )
    assert near.decide(Case()).word == "open"


def test_a_correction_holds_only_where_the_printed_form_misses():
    assert square(printed={"target": 5.0}).decide(Case()).word == "holds-with-correction"
    assert square(printed={"target": 4.0}, control={"power": 3}).decide(Case()).word == "holds"


def test_a_run_that_has_not_finished_decides_nothing():
    def train():
        raise Unfinished("3 of 5 networks have not fitted after 100 steps")

    unfinished = claim("X-u", control={"steps": 0})(lambda case, steps=9: equal(train, lambda: 0.0, 1e-3, "r"))
    verdict = unfinished.decide(Case())
    assert verdict.word == "open"
    assert cards.line(verdict.record) == "X-u: open (3 of 5 networks have not fitted after 100 steps)"


# Controls


def test_a_control_that_passes_is_refused_with_all_numbers():
    with pytest.raises(ControlError, match=r"X-square: no control breaks the statement\n.*measured 0, bound 1e-12"):
        square(control={"power": 2.0}).decide(Case())


def test_a_control_is_the_same_function_with_an_argument_changed():
    with pytest.raises(ValueError, match="control 1 changes 'steps': it must be an argument with a default"):
        square(control={"steps": 1})
    with pytest.raises(ValueError, match="X-square: name what breaks it"):
        square()
    with pytest.raises(ValueError, match="control 1 changes nothing"):
        square(control=[{}])


def test_an_id_stands_on_one_door():
    square(control={"power": 3})
    with pytest.raises(ValueError, match="X-square stands on two doors"):
        claim("X-square", control={"a": 1})(lambda case, a=0: equal(lambda: a, lambda: 0.0, 1e-9, "r"))


def test_each_part_is_broken_by_a_control_or_resolved():
    def both(case, first=1.0, second=1.0):
        return together(
            first=at_most(lambda: first, lambda: 1.0, 1e-12, "rounding"),
            second=at_most(lambda: second, lambda: 1.0, 1e-12, "rounding"),
        )

    assert claim("X-1", control=[{"first": 2.0}, {"second": 2.0}])(both).decide(Case()).word == "holds"
    with pytest.raises(ControlError, match="no control breaks second"):
        claim("X-2", control={"first": 2.0})(both).decide(Case())


def test_a_part_resolved_to_one_per_cent_needs_no_control_of_its_own_but_the_claim_does():
    def parts(case, first=1.5, last=1.5):
        return together(
            first=equal(lambda: first, lambda: 1.5, 1e-12, "rounding"),
            last=equal(lambda: last, lambda: 1.5, 1e-12, "rounding"),
        )

    assert claim("X-1", control={"first": 2.5})(parts).decide(Case()).word == "holds"
    with pytest.raises(ControlError, match="all parts: one of them has to be broken"):
        claim("X-2", control={"first": 1.5})(parts).decide(Case())


def test_a_count_or_a_sign_needs_a_control_of_its_own():
    def parts(case, value=1.5, sign=-1.0):
        return together(
            value=equal(lambda: value, lambda: 1.5, 1e-12, "rounding"),
            sign=equal(lambda: sign, lambda: -1.0, 1e-12, "signs are exact"),
        )

    with pytest.raises(ControlError, match="no control breaks sign"):
        claim("X-1", control={"value": 2.5})(parts).decide(Case())
    assert claim("X-2", control=[{"value": 2.5}, {"sign": 1.0}])(parts).decide(Case()).word == "holds"


def test_a_control_that_diverges_counts_as_a_miss():
    diverging = claim("X-d", control={"start": math.nan})(
        lambda case, start=1.0: equal(lambda: start, lambda: 1.0, 1e-12, "rounding")
    )
    record = diverging.decide(Case()).record
    assert record["word"] == "holds" and record["control"] == 1e308
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))


# Kinds


def test_not_a_number_never_stands():
    assert equal(lambda: math.nan, lambda: 1.0, 1e-9, "r").state() == "misses"
    assert equal(lambda: [1.0, math.nan], lambda: [1.0, 1.0], 1e-9, "r").state() == "misses"
    assert at_most(lambda: math.nan, lambda: 1.0, 1e-9, "r").state() == "misses"


@pytest.mark.parametrize(("side", "message"), [([], "measured has no items"), (torch.ones(0), "item 0 of measured is")])
def test_nothing_is_no_evidence(side, message):
    with pytest.raises(ValueError, match=message):
        equal(lambda: side, lambda: side, 1e-9, "r").state()


def test_sides_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"item 0: measured has shape \(2,\), predicted \(3,\)"):
        equal(lambda: torch.ones(2), lambda: ONE, 1e-9, "r").state()
    with pytest.raises(ValueError, match="left has 2 items, right 1"):
        at_most(lambda: [1.0, 2.0], lambda: [1.0], 1e-9, "r").state()


@pytest.mark.parametrize(("bound", "reason", "message"), [(0.0, "r", "bound must be positive"), (1e-3, "", "reason")])
def test_a_bound_is_positive_and_has_a_reason(bound, reason, message):
    with pytest.raises(ValueError, match=message):
        equal(lambda: 1.0, lambda: 1.0, bound, reason)


def test_equal_compares_with_the_largest_entry_with_each_entry_or_with_a_scale():
    small = torch.tensor([1.0, 1e-6], dtype=torch.float64)
    off = torch.tensor([1.0, 2e-6], dtype=torch.float64)
    assert equal(lambda: off, lambda: small, 1e-3, "r").residual() == pytest.approx(1e-6)
    assert equal(lambda: off, lambda: small, 1e-3, "r", each=True).residual() == pytest.approx(0.5)
    assert equal(lambda: 1e-9, lambda: 0.0, 1e-3, "r", scale=lambda: 10.0).residual() == pytest.approx(1e-10)


def test_resolution_is_the_share_by_which_the_prediction_may_be_wrong():
    assert equal(lambda: 1.5 * ONE, lambda: 1.5 * ONE, 1e-3, "r").resolution() == pytest.approx(1e-3, rel=1.0)
    assert equal(lambda: -ONE, lambda: -ONE, 1e-3, "signs").resolution() is None, "a sign has no one per cent"
    blind = equal(lambda: ONE, lambda: 0 * ONE, 10.0, "r")
    assert blind.resolution() == math.inf, "a bound of ten scales sees nothing"
    assert equal(lambda: 0 * ONE, lambda: 0 * ONE, 1e-6, "r", scale=lambda: ONE).resolution() < 1e-5


def test_at_most_tells_how_close_its_sides_come():
    part = at_most(lambda: [0.1 * ONE, 0.9 * ONE], lambda: [ONE, ONE], 1e-12, "rounding")
    assert part.state() == "stands"
    assert part.tightness() == pytest.approx((0.1, 0.9, 0.9))
    assert at_most(lambda: 1.5 * ONE, lambda: ONE, 1e-12, "rounding").residual() == pytest.approx(0.5)


def draws(mean, spread, cells=10, seeds=10):
    generator = torch.Generator().manual_seed(0)
    return [mean + spread * torch.randn(seeds, generator=generator, dtype=torch.float64) for _ in range(cells)]


def test_a_tendency_is_decided_by_an_effect_with_its_uncertainty():
    assert tendency(lambda: draws(1.0, 0.1), reason="ten cells").state() == "stands"
    assert tendency(lambda: draws(-1.0, 0.1), reason="ten cells").state() == "misses"
    assert tendency(lambda: draws(0.1, 1.0), reason="ten cells").state() == "undecided", "more seeds are needed"
    assert tendency(lambda: draws(1.0, 0.1), reason="ten cells", least=2.0).state() == "misses"


def test_a_sign_alone_is_no_tendency():
    """All means are positive, and none of them is told from zero."""
    values = [cell - cell.mean() + 0.01 for cell in draws(0.0, 1.0)]
    assert tendency(lambda: values, reason="ten cells").shown == 0


def test_nine_cells_of_ten_show_a_tendency_and_eight_do_not():
    up, down = draws(1.0, 0.1), draws(-1.0, 0.1)
    assert tendency(lambda: up[:9] + down[:1], reason="ten cells").state() == "stands"
    assert tendency(lambda: up[:8] + down[:2], reason="ten cells").state() == "misses"


def test_a_cell_of_two_seeds_is_refused():
    with pytest.raises(ValueError, match="a cell has 2 seeds"):
        tendency(lambda: [ONE[:2]], reason="r").state()


def test_a_tendency_is_qualitative_and_its_control_shows_none():
    made = claim("X-t", control={"mean": 0.0})(
        lambda case, mean=1.0: tendency(lambda: draws(mean, 0.1), reason="ten cells of ten seeds")
    )
    assert made.decide(Case()).word == "qualitative"
    with pytest.raises(ControlError):
        claim("X-t2", control={"mean": 2.0})(made.function).decide(Case())


def test_a_limit_has_to_stay_when_its_range_is_extended():
    settled = limit(lambda reach: 1 + math.exp(-30 * reach), lambda: 1.0, 1e-9, "e to the minus thirty")
    passing = limit(lambda reach: reach, lambda: 1.0, 1e-9, "it only passes through one")
    assert settled.state() == "stands"
    assert passing.state() == "misses" and passing.drift() == pytest.approx((0.0, 1.0))


def witness(case, x=2.0, exact=None, premise=1.0):
    return counterexample(
        equal(lambda: [x**2], lambda: [x], 1e-12, "rounding"),
        exact=None if exact is None else lambda: exact,
        positive=at_most(lambda: -premise, lambda: 0.0, 1e-12, "exact", scale=lambda: 1.0),
    )


def test_a_counterexample_fails_a_claim_where_its_premises_stand():
    verdict = claim("X-c", control={"x": 1.0})(witness).decide(Case())
    assert verdict.word == "fails" and verdict.record["value"] == 1.0
    assert (
        claim("X-c2", control={"x": 1.0})(lambda case, x=2.0: witness(case, x, None, -1.0)).decide(Case()).word
        == "open"
    )


def test_a_counterexample_is_checked_again_by_independent_means():
    right = lambda case, x=2.0, exact=Fraction(1): witness(case, x, exact if x == 2.0 else None)
    wrong = lambda case, x=2.0, exact=Fraction(3, 2): witness(case, x, exact if x == 2.0 else None)
    assert claim("X-r", control={"x": 1.0})(right).decide(Case()).word == "fails"
    assert claim("X-w", control={"x": 1.0})(wrong).decide(Case()).word == "open"


def test_together_takes_several():
    with pytest.raises(ValueError, match="two or more parts"):
        together(only=equal(lambda: 1.0, lambda: 1.0, 1e-9, "r"))


# Cases and runs


def test_roles_and_seeds_have_streams_of_their_own():
    draw = lambda case, role: torch.rand(4, generator=case.generator(role)).tolist()
    assert draw(Case(0), "data") == draw(Case(0), "data")
    assert draw(Case(0), "data") != draw(Case(0), "weights")
    assert draw(Case(0), "data") != draw(Case(1), "data")
    assert draw(Case(0), 1) != draw(Case(1), 0)


def test_a_shared_run_is_computed_once_until_it_is_forgotten():
    calls = []

    @shared
    def run(case, steps=3):
        calls.append(steps)
        return steps

    assert [run(Case()), run(Case()), run(Case(), steps=4)] == [3, 3, 4] and calls == [3, 4]
    forget()
    assert run(Case()) == 3 and calls == [3, 4, 3]


# Records and what is shown


def test_the_word_follows_from_the_stored_numbers_alone():
    record = square(control={"power": 3}).decide(Case()).record
    stored = json.loads(json.dumps(record))
    assert word(stored) == "holds" and unbroken(stored) == []
    stored["parts"][0]["state"] = "misses"
    assert word(stored) == "fails"
    assert {word(stored)} <= set(WORDS)


def test_a_notebook_shows_a_line_a_card_with_the_source_and_the_record():
    text, metadata = square(control={"power": 3}).decide(Case())._repr_mimebundle_()
    assert text["text/plain"] == "X-square: holds (residual <= 1e-12)"
    assert 'id="evidence-X-square"' in text["text/html"] and "2.0**power" in text["text/html"]
    assert "<details" in text["text/html"] and "<details open" not in text["text/html"]
    assert metadata["claimbook"]["evidence"][0]["controls"] == ["power = 3"]


def test_several_verdicts_are_one_table():
    first = square(control={"power": 3})
    second = claim("X-two", control={"a": 1.0})(lambda case, a=0.0: equal(lambda: a, lambda: 0.0, 1e-9, "r"))
    text, metadata = decide(Case(), first, second)._repr_mimebundle_()
    assert text["text/plain"].splitlines() == [
        "X-square: holds (residual <= 1e-12)",
        "X-two: holds (residual <= 1e-09)",
    ]
    assert text["text/html"].count("<table") == 1 and metadata["claimbook"]["table"] is True


def test_words_of_the_registry_are_shown_and_escaped():
    record = square(control={"power": 3}).decide(Case()).record
    rows = {"X-square": {"quote": "four & <more>", "statement": "$2^2<5$"}}
    shown = cards.html([record], table=False, rows=rows, href="claims/{}.html")
    assert "four &amp; &lt;more&gt;" in shown and r"\(2^2&lt;5\)" in shown and 'href="claims/X-square.html"' in shown

"""Probes see what they are for: each way in which a check can be worth nothing is built here, and turns one red."""

import sys
import types

import pytest
import torch

from claimbook.evidence import Case, at_most, claim, equal, shared, tendency, together
from claimbook.evidence.probes import House, probe
from claimbook.evidence.tracing import at_most_seconds, bent, reached
from claimbook.evidence.words import PROBES, judge

LIBRARY = """
import torch

def cube(x):
    return x**3

def cube_again(x):
    return cube(x)

def names():
    return ("a", "b")

def pair(x):
    return {"value": x, "list": [x, x]}

def power(n):
    return lambda x: x**n

def train(steps):
    return 1.0 - 0.5**steps
"""
HOUSE = House(["toylib"], common=["toylib.names"], training=["toylib.train"])


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """A package of functions to trace and to bend; claims of a test are forgotten with it."""
    module = types.ModuleType("toylib")
    exec(LIBRARY, module.__dict__)
    monkeypatch.setitem(sys.modules, "toylib", module)
    CLAIMS_HERE.clear()
    monkeypatch.setattr("claimbook.evidence.claims.CLAIMS", CLAIMS_HERE)
    return module


CLAIMS_HERE = {}
X = torch.tensor([1.1, 2.2, 3.3], dtype=torch.float64)
MISS = {"shift": 1.0}


def found(function, **worlds):
    """The probes of a claim made of a function."""
    CLAIMS_HERE.pop("X-probe", None)
    return probe(claim("X-probe", **({"control": MISS} | worlds))(function), HOUSE)


def test_a_sound_claim_passes(library):
    sound = lambda case, shift=0.0: equal(lambda: library.cube(X) + shift, lambda: X * X * X, 1e-12, "rounding")
    result = found(sound)
    assert {name: result[name]["status"] for name in PROBES} == {
        "seeds": "none",
        "resolution": "passed",
        "tightness": "none",
        "common ground": "passed",
        "bend": "passed",
        "unfinished": "none",
    }
    assert result["bend"]["turned"] == ["toylib:cube"]


def test_common_ground_is_seen(library):
    """Both sides computed by one function agree whatever it computes."""
    itself = lambda case, shift=0.0: equal(
        lambda: library.cube(X) + shift, lambda: library.cube_again(X), 1e-12, "rounding"
    )
    result = found(itself)
    assert result["common ground"]["status"] == "red"
    assert result["common ground"]["unchecked"] == ["toylib:cube"]
    assert result["bend"]["status"] == "passed" and result["bend"]["not tested here"] == ["toylib:cube"]


def test_what_another_claim_checks_may_stand_on_both_sides(library):
    itself = lambda case, shift=0.0: equal(lambda: library.cube(X) + shift, lambda: library.cube(X), 1e-12, "rounding")
    one = claim("X-probe", control=MISS)(itself)
    house = House(["toylib"], checked={"toylib:cube": "X-cube"})
    assert probe(one, house)["common ground"]["status"] == "passed"
    assert probe(one, house)["bend"]["status"] == "red", "and still nothing of it is tested here"


def test_a_body_that_calls_the_library_is_seen(library):
    def eager(case, shift=0.0):
        cubes = library.cube(X)
        return equal(lambda: cubes + shift, lambda: X**3, 1e-12, "rounding")

    assert found(eager)["common ground"]["body"] == ["toylib:cube"]


def test_runs_that_sides_share_are_told_apart(library):
    run = shared(lambda: library.cube(X))
    result = found(lambda case, shift=0.0: equal(lambda: run() + shift, lambda: run() * 1.0, 1e-12, "rounding"))
    assert result["common ground"]["status"] == "passed" and "toylib:cube" in result["common ground"]["shared"]


def test_a_value_that_cannot_miss_is_blind(library):
    generous = lambda case, shift=0.0: equal(lambda: library.cube(X) + 1e6 * shift, lambda: X, 50.0, "a guess")
    result = found(generous)
    assert result["resolution"] == {"status": "red", "parts": {"": "blind"}, "weak": ["the statement"]}
    assert result["bend"]["status"] == "red" and result["bend"]["not tested here"] == ["toylib:cube"]


def test_a_resolution_of_two_per_cent_is_weak():
    weak = lambda case, shift=0.0: equal(lambda: X + 9 * shift, lambda: X, 0.02, "a small sample", margin=10)
    assert found(weak)["resolution"]["status"] == "red"


def test_an_inequality_that_is_never_tight_is_loose():
    loose = lambda case, shift=0.0: at_most(lambda: 0.1 * X + 99 * shift, lambda: X, 1e-12, "rounding")
    tight = lambda case, shift=0.0: at_most(lambda: 0.9 * X + 99 * shift, lambda: X, 1e-12, "rounding")
    assert found(loose)["tightness"]["status"] == "red" and found(tight)["tightness"]["status"] == "passed"


def test_a_word_that_turns_with_the_seed_is_red():
    def lucky(case, shift=0.0):
        draw = lambda: torch.rand(1, generator=case.generator("x"), dtype=torch.float64)
        first = torch.rand(1, generator=Case(0).generator("x"), dtype=torch.float64)
        return equal(lambda: draw() + shift, lambda: first, 1e-12, "that draw")

    result = found(lucky)["seeds"]
    assert result["status"] == "red" and result["words"]["0"] == "holds" and "ControlError" in result["words"]["1"]


def test_a_claim_over_seeds_passes_and_names_the_worst():
    def fair(case, shift=0.0):
        draw = lambda: torch.rand(5, generator=case.generator("x"), dtype=torch.float64)
        return equal(lambda: draw() + draw() + shift, lambda: 2 * draw(), 1e-12, "rounding")

    assert found(fair)["seeds"]["status"] == "passed" and found(fair)["seeds"]["worst"]["ratio"] == 0


def trained(library, goal):
    return lambda case, steps=40, shift=0.0: equal(lambda: library.train(steps) + shift, lambda: goal, 1e-9, "40 steps")


def test_training_without_its_other_worlds_is_red(library):
    assert found(trained(library, 1.0))["unfinished"]["weak"] == ["untrained", "longer"]


def test_the_word_turns_untrained_and_stays_when_trained_longer(library):
    worlds = {"untrained": {"steps": 0}, "longer": {"steps": 80}}
    assert found(trained(library, 1.0), **worlds)["unfinished"]["status"] == "passed"
    passing = lambda case, steps=2, shift=0.0: equal(
        lambda: library.train(steps) + shift, lambda: 0.75, 1e-9, "2 steps"
    )
    assert found(passing, untrained={"steps": 0}, longer={"steps": 4})["unfinished"]["weak"] == ["longer"]
    constant = lambda case, steps=9, shift=0.0: equal(
        lambda: 0 * library.train(steps) + 1 + shift, lambda: 1.0, 1e-9, "says nothing of training"
    )
    assert found(constant, untrained={"steps": 0}, longer={"steps": 18})["unfinished"]["weak"] == ["untrained"]


def test_probes_of_tendencies_and_of_several_parts(library):
    cells = lambda case, mean: [
        mean + 0.1 * torch.randn(9, generator=case.generator(k), dtype=torch.float64) for k in range(10)
    ]
    result = found(lambda case, shift=1.0: tendency(lambda: cells(case, shift), reason="ten"), control={"shift": 0.0})
    assert result["seeds"]["status"] == "passed" and result["resolution"]["status"] == "none"
    parts = lambda case, shift=0.0: together(
        value=equal(lambda: library.cube(X) + shift, lambda: X**3, 1e-12, "rounding"),
        order=at_most(lambda: X + shift, lambda: X + 0.1, 1e-12, "rounding"),
    )
    result = found(parts)
    assert set(result["resolution"]["parts"]) == {"value"} and set(result["tightness"]["parts"]) == {"order"}


def test_a_red_probe_with_an_excuse_is_excused():
    result = {name: {"status": "red"} for name in PROBES} | {"bend": {"status": "passed"}}
    judged = judge(result, {"seeds": "it is about one draw", "bend": "not needed"})
    assert judged["seeds"] == "excused" and judged["bend"] == "passed" and judged["resolution"] == "red"


# Tracing and bending


def test_functions_are_found_by_the_module_that_defines_them(library):
    seen = reached(lambda: (library.cube_again(X), library.names(), torch.ones(2)), ["toylib"])
    assert seen.direct == {"toylib:cube_again", "toylib:cube", "toylib:names"}
    assert reached(lambda: library.cube(X), ["toyli"]).all == frozenset()


def test_a_bent_function_is_wrong_by_about_one_per_cent_everywhere_and_only_within(library):
    user = types.ModuleType("toylib.user")
    user.cube = library.cube
    sys.modules["toylib.user"] = user
    try:
        with bent("toylib:cube", ["toylib"]):
            for value in (library.cube(X), user.cube(X), library.cube_again(X)):
                share = (value / X**3 - 1).abs()
                assert ((share > 0.004) & (share < 0.016)).all() and share.unique().numel() == 3
        assert torch.equal(library.cube(X), X**3) and user.cube is library.cube
    finally:
        del sys.modules["toylib.user"]


def test_functions_that_give_functions_or_containers_are_bent_too(library):
    with bent("toylib:power", ["toylib"]), bent("toylib:pair", ["toylib"]):
        assert not torch.equal(library.power(2)(X), X**2)
        assert library.pair(1.0) == {"value": 1.01, "list": [1.01, 1.01]}
    with bent("toylib:names", ["toylib"]):
        assert library.names() == ("a", "b")


def test_what_cannot_be_bent_is_named():
    with pytest.raises(LookupError, match="toylib:absent cannot be replaced"), bent("toylib:absent", ["toylib"]):
        raise AssertionError("not reached")


def test_a_bent_claim_that_never_ends_is_stopped():
    with pytest.raises(TimeoutError, match="not finished after 0 s"), at_most_seconds(0.05):
        while True:
            pass

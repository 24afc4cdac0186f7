"""Sliding: closed forms along kinks, crossings and releases, and what has no continuation."""

import pytest
import torch

from claimbook.show.checks import relative_error
from normdyn.motion.flows import integrate
from normdyn.motion.sliding import slide

number = lambda x: torch.tensor(x, dtype=torch.float64)


def lifted(state, gates):
    """Pushed up by a clock and, above zero, down by one: pinned while the clock is between 0 and 1."""
    return {"x": state["clock"] - gates[0], "clock": torch.ones_like(state["clock"])}


def test_a_pinned_switch_is_released_when_its_gate_opens():
    start, first = {"x": number(0.0), "clock": number(0.5)}, lambda s: s["x"][None]
    path = slide(lifted, first, start, [0, 0.25, 0.5, 2.5])
    assert relative_error(path["gates"][:2, 0], torch.tensor([0.5, 0.75]).double()) < 1e-10
    assert path["x"][:3].abs().max() < 1e-10 and path["gates"][3].item() == 1
    assert path["events"].tolist() == pytest.approx([0.5], abs=1e-9)
    assert path["x"][3].item() == pytest.approx(2.0, rel=1e-9)  # (clock - 1)^2 / 2 at clock 3


def test_a_crossing_is_met_exactly_where_a_fixed_step_is_first_order():
    field = lambda s, gates: {"x": 1 + 2 * gates[0] + 0 * s["x"]}
    path = slide(field, lambda s: s["x"][None], {"x": number(-0.3)}, [0, 1])
    assert path["x"][-1].item() == pytest.approx(3 * 0.7, rel=1e-11)
    assert path["gates"][:, 0].tolist() == [0, 1]


def test_without_a_switch_near_it_is_integrate():
    start, turn = {"x": torch.tensor([2.0, 0.5]).double()}, lambda s: torch.stack([-s["x"][1], s["x"][0]])
    path = slide(lambda s, gates: {"x": 0.1 * turn(s)}, lambda s: s["x"], start, [0, 1, 2])
    assert relative_error(path["x"], integrate(lambda s: {"x": 0.1 * turn(s)}, start, [0, 1, 2])["x"]) < 1e-11
    assert len(path["events"]) == 0


def test_two_switches_are_pinned_together():
    pull = torch.tensor([[1.0, 0.3], [0.2, 1.0]]).double()
    field = lambda s, gates: {"x": torch.tensor([0.4, 0.6]).double() - pull @ gates + 0 * s["x"]}
    path = slide(field, lambda s: s["x"], {"x": torch.tensor([-0.2, 0.3]).double()}, [0, 5])
    assert path["x"][-1].abs().max() < 1e-10
    assert relative_error(pull @ path["gates"][-1], torch.tensor([0.4, 0.6]).double()) < 1e-10


def test_where_solutions_branch_or_events_have_no_end_it_says_so():
    away = lambda s, gates: {"x": 2 * gates[0] - 1 + 0 * s["x"]}
    with pytest.raises(RuntimeError, match=r"3 continuations at switches \[0\]"):
        slide(away, lambda s: s["x"][None], {"x": number(0.0)}, [0, 1])
    waves = lambda s, gates: {"x": torch.ones_like(s["x"])}
    with pytest.raises(RuntimeError, match="max_events = 3 changes"):
        slide(waves, lambda s: (9 * s["x"]).sin()[None], {"x": number(0.1)}, torch.linspace(0, 9, 91), max_events=3)

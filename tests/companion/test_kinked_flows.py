"""The network that can be solved: its closed forms, and where an integrator with error control stalls."""

import pytest
import torch

from claimbook.evidence import Case
from companion.weight_balancing import kinked_flows as kinks
from normdyn.motion.flows import integrate
from normdyn.rescaling.flows import minimum_norm_flow


@pytest.mark.parametrize("p", kinks.POWERS)
def test_closed_forms_satisfy_their_equation(p):
    m = kinks.TILT * (1 + kinks.TILT**p) ** (1 / p)
    c, h = kinks.TILT / (2 * p) * (1 + kinks.TILT**p) ** (1 / p - 1), 1e-3
    assert kinks.closed_form(p, 0.0) == pytest.approx(0.25, rel=1e-12)
    for time in (0.5, 2.0):
        u = kinks.closed_form(p, time)
        rate = (kinks.closed_form(p, time + h) - kinks.closed_form(p, time - h)) / (2 * h)
        assert rate == pytest.approx(c * u ** (3 - p) * (kinks.TARGET - m * u**2), rel=1e-5)


@pytest.mark.parametrize("p", kinks.POWERS)
def test_the_solvable_network_begins_balanced_and_at_its_kink(p):
    one = kinks.solvable(p)
    assert one.switches({"W": one.W})[0] == 0
    assert one.W[2].abs().pow(p).sum().item() == pytest.approx(one.W[3, 2].abs().pow(p).item())


def test_integrate_stops_where_slide_goes_on():
    one = kinks.solvable(1)
    flow = minimum_norm_flow(one.plain, one.hidden, p=1, q=1)
    with pytest.raises(RuntimeError, match="max_evaluations = 400 are spent at time .* take motion.sliding.slide"):
        integrate(flow, {"W": one.W, "b": torch.zeros_like(one.W[0])}, [0, 2], max_evaluations=400)
    assert kinks.solved(1)["gates"][-1, 0] < 1


def test_gates_agree_with_signs_although_units_come_to_zero():
    """Where all weights into a unit vanish many switches turn at once, and an event may be lost to rounding."""
    for run in kinks.slid(Case(0, "quick", "cpu"), 0.1, False):
        for W, gates in zip(run["W"], run["gates"], strict=True):
            switches = run["one"].switches({"W": W})
            free = (gates == 0) | (gates == 1)
            assert ((2 * gates - 1) * switches)[free].min() > -1e-9

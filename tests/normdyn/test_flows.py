"""Motion: integrators against closed forms, and their refusals."""

import math

import pytest
import torch

from claimbook.show.checks import observed_order, relative_error
from normdyn.motion.flows import descend, gradient, gradient_flow, integrate

START = {"x": torch.tensor([1.0, -2.0], dtype=torch.float64), "y": torch.tensor([[3.0]], dtype=torch.float64)}


def quadratic(params):
    return params["x"].square().sum() + params["y"].square().sum() / 2


def test_gradient_agrees_with_functorch_and_fills_unused_parameters():
    slopes = gradient(quadratic)(START | {"z": torch.ones(2, dtype=torch.float64)})
    expected = torch.func.grad(quadratic)(START)
    assert all(torch.equal(slopes[name], expected[name]) for name in expected)
    assert torch.equal(slopes["z"], torch.zeros(2, dtype=torch.float64))


def test_gradient_passes_arguments_on_and_works_without_grad_mode():
    scaled = lambda params, factor: factor * quadratic(params)
    with torch.no_grad():
        slopes = gradient(scaled)(START, 3.0)
    assert torch.equal(slopes["x"], 6 * START["x"])


def test_gradient_flow_of_a_quadratic_decays_at_its_curvature_plus_the_decay():
    times = torch.linspace(0, 2, 9, dtype=torch.float64)
    path = integrate(gradient_flow(quadratic, weight_decay=0.5), START, times)
    assert relative_error(path["x"], torch.exp(-2.5 * times)[:, None] * START["x"]) < 1e-12
    assert relative_error(path["y"], torch.exp(-1.5 * times)[:, None, None] * START["y"]) < 1e-12


def test_records_are_as_accurate_at_inner_times_as_at_the_end():
    rotation = lambda s: {"x": torch.stack([-s["x"][1], s["x"][0]])}
    times = torch.linspace(0, 6, 7, dtype=torch.float64)
    path = integrate(rotation, {"x": torch.tensor([1.0, 0.0], dtype=torch.float64)}, times)
    assert (path["x"] - torch.stack([times.cos(), times.sin()], 1)).abs().max() < 1e-11


def test_integrate_keeps_the_start_and_uses_the_record():
    path = integrate(gradient_flow(quadratic), START, [0, 1], record={"loss": quadratic, "one": lambda _: 1.0})
    assert START["x"].tolist() == [1.0, -2.0]
    assert path["loss"].shape == (2,) and path["loss"][0] == 9.5 and path["one"].tolist() == [1.0, 1.0]


def test_descend_is_euler_and_first_order():
    exact, steps = math.exp(-1), [0.1, 0.05, 0.025]
    ends = [descend(lambda s: {"x": -s["x"]}, {"x": torch.ones((), dtype=torch.float64)}, step=h, steps=round(1 / h))
            for h in steps]  # fmt: skip
    assert ends[0]["x"][-1].item() == pytest.approx(0.9**10, rel=1e-14)
    assert abs(observed_order([abs(end["x"][-1].item() - exact) for end in ends], steps) - 1) < 0.05


def test_descend_records_every_few_steps_and_the_end():
    path = descend(lambda s: {"x": s["x"]}, {"x": torch.ones(())}, step=0.5, steps=5, every=2)
    assert path["times"].tolist() == [0.0, 1.0, 2.0, 2.5]


@pytest.mark.parametrize("times", [[0.0], [0.0, 1.0, 1.0], [1.0, 0.0]])
def test_integrate_refuses_times_that_do_not_increase(times):
    with pytest.raises(ValueError, match="times must increase"):
        integrate(gradient_flow(quadratic), START, times)


def test_integrate_refuses_single_precision():
    with pytest.raises(ValueError, match=r"float64.*\['x'\] are not"):
        integrate(gradient_flow(quadratic), START | {"x": START["x"].float()}, [0, 1])


def test_integrate_says_where_it_gave_up():
    explosive = lambda s: {"x": s["x"] ** 2}
    with pytest.raises(RuntimeError, match="reached time"):
        integrate(explosive, {"x": torch.ones((), dtype=torch.float64)}, [0, 2])


def test_integrate_counts_all_evaluations_of_a_call():
    seen = []
    field = lambda s: seen.append(1) or {"x": -s["x"]}
    start = {"x": torch.ones((), dtype=torch.float64)}
    integrate(field, start, [0, 1, 2, 3])
    integrate(field, start, [0, 1, 2, 3], max_evaluations=len(seen))
    with pytest.raises(RuntimeError, match=f"max_evaluations = {len(seen) // 2 - 1} are spent at time"):
        integrate(field, start, [0, 1, 2, 3], max_evaluations=len(seen) // 2 - 1)
    with pytest.raises(ValueError, match="max_evaluations must be positive, got 0"):
        integrate(field, start, [0, 1], max_evaluations=0)


def test_integrate_stops_where_a_kink_pins_it_and_says_what_to_do():
    pinned = lambda s: {"x": 0.5 - (s["x"] > 0).double()}  # both sides push towards zero
    start = {"x": torch.tensor(0.7, dtype=torch.float64)}
    with pytest.raises(RuntimeError, match=r"= 5000 are spent at time 1\.4.* of 3.* take motion.sliding.slide"):
        integrate(pinned, start, [0, 3], max_evaluations=5000)


@pytest.mark.parametrize(
    "options", [{"step": 0.0, "steps": 1}, {"step": 0.1, "steps": 0}, {"step": 0.1, "steps": 1, "every": 0}]
)
def test_descend_refuses_nonsense(options):
    with pytest.raises(ValueError, match="must be positive"):
        descend(gradient_flow(quadratic), START, **options)

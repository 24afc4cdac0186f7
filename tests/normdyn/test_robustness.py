"""Noise and distances against slow twins: finite differences, exhaustive search over activation patterns."""

from itertools import product

import pytest
import torch
from scipy.optimize import minimize

from normdyn.measures import robustness
from normdyn.measures.robustness import (
    boundary_above,
    boundary_below,
    fold,
    input_gradient,
    noise_curve,
    output,
    path_norm,
    perturb,
    tolerance,
)
from normdyn.networks.normalizers import batch_norm


def network(draws=3, width=4, inputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    return {"W": draw(draws, width, inputs), "b": draw(draws, width), "v": draw(draws, width), "c": draw(draws) / 3}


def samples(draws=3, count=12, inputs=3, seed=1):
    return torch.randn(draws, count, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_distance(params, x):
    """Nearest point of the boundary: a small projection in each of the ``2**h`` linear pieces."""
    W, b, v, c = (params[n].numpy() for n in "Wbvc")
    best = float("inf")
    for pattern in product((0.0, 1.0), repeat=len(b)):
        on = torch.tensor(pattern).numpy()
        slope, offset = (on * v) @ W, float((on * v) @ b + c)
        side = (2 * on - 1)[:, None] * W, (2 * on - 1) * b
        found = minimize(
            lambda z: ((z - x) ** 2).sum() / 2, x, jac=lambda z: z - x, method="SLSQP",
            constraints=[{"type": "eq", "fun": lambda z, s=slope, o=offset: s @ z + o},
                         {"type": "ineq", "fun": lambda z, s=side: s[0] @ z + s[1]}],
            options={"ftol": 1e-14, "maxiter": 300},
        )  # fmt: skip
        feasible = abs(slope @ found.x + offset) < 1e-8 and (side[0] @ found.x + side[1]).min() > -1e-8
        best = min(best, float(((found.x - x) ** 2).sum() ** 0.5)) if feasible else best
    return best


def test_gradient_agrees_with_autograd():
    params, X = network(), samples().requires_grad_()
    expected = torch.autograd.grad(output(params, X).sum(), X)[0]
    assert torch.allclose(input_gradient(params, X), expected, atol=1e-14)


def test_folding_keeps_the_normalised_function():
    params, X = network(), samples()
    gain = 1 + torch.rand(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = X @ params["W"].mT
    hat = torch.stack([batch_norm(one, epsilon=0.1) for one in z])
    expected = (torch.relu(gain[:, None] * hat + params["b"][:, None]) * params["v"][:, None]).sum(-1)
    variance, mean = torch.var_mean(z, 1, correction=0)
    folded = fold(params, mean, variance, gain, epsilon=0.1)
    assert torch.allclose(output(folded, X), expected + params["c"][:, None], atol=1e-13)


def test_distances_bracket_the_exact_one():
    params, X = network(), samples()
    below, above = boundary_below(params, X), boundary_above(params, X)
    exact = torch.tensor([[exact_distance({n: p[k] for n, p in params.items()}, x.numpy()) for x in X[k, :6]]
                          for k in range(3)], dtype=torch.float64)  # fmt: skip
    assert exact.isfinite().all()
    assert (below[:, :6] <= exact * (1 + 1e-6)).all() and (exact <= above[:, :6] * (1 + 1e-6)).all()
    assert ((above[:, :6] / exact) < 1.01).double().mean() > 0.7  # a local search, mostly the nearest
    assert ((below[:, :6] / exact) > 0.2).all()


def test_distances_are_exact_for_a_hyperplane():
    params = {"W": torch.tensor([[[3.0, 4.0]]]), "b": torch.tensor([[100.0]]), "v": torch.tensor([[2.0]]),
              "c": torch.tensor([-200.0])}  # fmt: skip
    params = {n: p.double() for n, p in params.items()}
    X = torch.tensor([[[1.0, 1.0], [-3.0, 0.0], [0.3, 0.4]]], dtype=torch.float64)
    expected = (X @ torch.tensor([3.0, 4.0], dtype=torch.float64)).abs() / 5
    assert torch.allclose(boundary_above(params, X), expected, rtol=1e-6)
    assert torch.allclose(boundary_below(params, X), expected, rtol=1e-6)


def test_one_sign_has_no_boundary():
    params = network() | {"c": torch.full((3,), 1e3, dtype=torch.float64)}
    with pytest.raises(ValueError, match="one sign"):
        boundary_above(params, samples())


def test_path_norm_bounds_slopes_and_forgets_rescaling():
    params, X = network(), samples(count=200)
    assert (input_gradient(params, X).norm(dim=-1) <= path_norm(params)[:, None] + 1e-12).all()
    scaled = params | {"W": 7 * params["W"], "b": 7 * params["b"], "v": params["v"] / 7}
    assert torch.allclose(path_norm(scaled), path_norm(params))


@pytest.mark.parametrize("unit", robustness.NOISES)
def test_noise_has_the_size_asked_for(unit):
    params = {"W": 5.0 * torch.randn(2, 200, 300, generator=torch.Generator().manual_seed(3), dtype=torch.float64)}
    moved = perturb(params, 0.1, torch.Generator().manual_seed(4), relative_to=unit)["W"] - params["W"]
    scale = {"absolute": 1.0, "layer": 5.0, "weight": params["W"].abs()}[unit]
    assert abs((moved / scale).std().item() - 0.1) < 1e-3


def test_relative_noise_commutes_with_rescaling():
    params = network()
    eight = {n: 8 * p for n, p in params.items()}
    for unit, same in (("layer", True), ("weight", True), ("absolute", False)):
        a, b = (perturb(p, 0.3, torch.Generator().manual_seed(5), relative_to=unit) for p in (params, eight))
        assert all(torch.equal(8 * a[n], b[n]) for n in a) == same


def test_unknown_unit():
    with pytest.raises(ValueError, match="relative_to must be one of"):
        perturb(network(), 0.1, torch.Generator(), relative_to="row")


def test_tolerance_interpolates_in_the_logarithm():
    sizes = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    accuracy = torch.tensor([[1.0, 1.0], [0.95, 0.8], [0.85, 0.5]], dtype=torch.float64)
    assert torch.allclose(tolerance(sizes, accuracy), torch.tensor([10**0.5, 10**-0.5], dtype=torch.float64))
    with pytest.raises(ValueError, match="must pass level"):
        tolerance(sizes, accuracy, level=0.4)


def test_noise_curve_counts_signs():
    params = {"w": torch.tensor([1.0, -1.0], dtype=torch.float64)}
    classify = lambda p: p["w"][:, None].expand(2, 400)
    labels = torch.ones(2, 400, dtype=torch.float64)
    quiet = noise_curve(classify, params, labels, [1e-6, 1e-3], torch.Generator().manual_seed(6))
    assert torch.equal(quiet, torch.tensor([[1.0, 0.0]] * 2, dtype=torch.float64))
    loud = noise_curve(classify, params, labels, [1e6], torch.Generator().manual_seed(6), repeats=400)
    assert ((loud - 0.5).abs() < 0.1).all()  # four standard errors

"""Steps on unit spheres against autograd, bisection in plain arithmetic and closed forms."""

import math

import pytest
import torch

from claimbook.show.checks import observed_order
from normdyn.motion import constraints as c

EXPONENTS = (1.3, 2.0, 3.0, 6.0)


def pair(seed, p, n=6):
    g = torch.Generator().manual_seed(seed)
    u, drive = torch.randn(2, n, generator=g, dtype=torch.float64)
    return u / torch.linalg.vector_norm(u, p), drive


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0, math.inf])
def test_norm_gradient_is_autograds(p):
    u, _ = pair(0, 2)
    leaf = (3 * u).requires_grad_()
    torch.linalg.vector_norm(leaf, p).backward()
    assert (c.norm_gradient(leaf.detach(), p) - leaf.grad).abs().max() < 1e-14


@pytest.mark.parametrize(
    "u, p, word",
    [
        ([0.0, 0.0], 2, "zero"),
        ([1.0, 0.0], 1, "zero entries"),
        ([1.0, -1.0], math.inf, "two entries"),
        ([1.0], 0.5, "p"),
    ],
)
def test_no_gradient_is_said(u, p, word):
    with pytest.raises(ValueError, match=word):
        c.norm_gradient(torch.tensor(u), p)


@pytest.mark.parametrize("p", EXPONENTS)
def test_tangent_projection_does_not_change_the_norm_to_first_order(p):
    u, g = pair(1, p)
    norm = lambda x: torch.linalg.vector_norm(x, p)
    assert abs(torch.func.jvp(norm, (u,), (c.tangent_projection(u, g, p),))[1]) < 1e-14
    assert abs(torch.func.jvp(norm, (u,), (g,))[1]) > 1e-2


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("seed", range(3))
def test_lagrange_and_coefficient_steps_keep_the_norm(p, seed):
    u, g = pair(seed, p)
    for step in (c.lagrange_step, c.coefficient_step):
        assert abs(torch.linalg.vector_norm(step(u, 0.1 * g, p), p) - 1) < 1e-13


@pytest.mark.parametrize("p", EXPONENTS)
def test_lagrange_multiplier_by_bisection(p):
    u, g = pair(2, p)
    g = 0.05 * g
    normal = [p * math.copysign(abs(x) ** (p - 1), x) for x in u.tolist()]
    excess = lambda m: sum(abs(a + b - m * k) ** p for a, b, k in zip(u.tolist(), g.tolist(), normal, strict=True)) - 1
    low, high = -0.3, 0.3  # the smaller root of a convex function: positive on the left of it
    assert excess(low) > 0 > excess(high)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    assert abs(c.lagrange_multiplier(u, g, p) - low) < 1e-14


@pytest.mark.parametrize("p", [2.0, 3.0])
def test_too_large_a_step_is_refused(p):
    u, g = pair(3, p)
    with pytest.raises(ValueError, match="too large"):
        c.lagrange_multiplier(u, 100 * c.tangent_projection(u, g, p), p)


@pytest.mark.parametrize("p", [1.0, math.inf])
def test_lagrange_refuses_norms_with_corners(p):
    u, g = pair(4, p)
    with pytest.raises(ValueError, match="strictly between"):
        c.lagrange_multiplier(u, g, p)


def test_off_the_sphere_is_refused():
    u, g = pair(5, 2)
    for call in (c.lagrange_step, c.natural_step, lambda u, g: c.constrained_velocity(u, g, method="tangent")):
        with pytest.raises(ValueError, match="divide by the norm"):
            call(2 * u, g)
    with pytest.raises(ValueError, match="newton"):
        c.constrained_velocity(u, g, method="newton")


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize(
    "method, step",
    [("lagrange", c.lagrange_step), ("tangent", c.tangent_step), ("coefficient", c.coefficient_step)],
)
def test_velocity_is_the_limit_of_the_step(p, method, step):
    u, g = pair(6, p)
    sizes = [1e-2, 5e-3, 2.5e-3]
    errors = [
        (step(u, h * g, p) - u - h * c.constrained_velocity(u, g, p, method=method)).norm().item() + 1e-15
        for h in sizes
    ]
    assert errors[-1] < 1e-4 and (errors[-1] < 1e-13 or observed_order(errors, sizes) > 1.8)


@pytest.mark.parametrize("p", EXPONENTS)
def test_weight_normalization_step_is_autograd_of_the_quotient(p):
    u, g = pair(7, p)
    raw = (1.7 * u).requires_grad_()
    (raw / torch.linalg.vector_norm(raw, p) @ g).backward()
    step = c.weight_normalization_step(raw.detach(), g, p) - raw.detach()
    assert (step - raw.grad).norm() < 1e-14 and abs(step @ raw.detach()) < 1e-14  # Euclidean norm kept, any p
    unit = c.weight_normalization_step(u, 1e-6 * g, p)
    drift = unit / torch.linalg.vector_norm(unit, p) - u
    assert (drift / 1e-6 - c.constrained_velocity(u, g, p, method="weight")).norm() < 1e-4


def test_natural_step_is_a_rotation():
    u, g = pair(8, 2)
    t = c.tangent_projection(u, g)
    moved = c.natural_step(u, g)
    assert abs(moved.norm() - 1) < 1e-14 and abs(torch.acos(moved @ u) - t.norm()) < 1e-12
    assert (c.natural_step(u, 0 * g) - u).norm() < 1e-15

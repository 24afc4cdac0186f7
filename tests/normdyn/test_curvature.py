"""Zero modes against finite differences, exact ranks and known critical points."""

from itertools import product

import pytest
import sympy
import torch

from normdyn.measures.curvature import (
    critical_point,
    flatten,
    general_orbit_dimension,
    hessian,
    interpolation_nullity,
    minimum,
    nullity,
    orbit_dimension,
    orbit_tangent,
    orthogonal_orbit_dimension,
    unflatten,
)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain(widths, seed=0):
    return [draw(seed + l, n, m) for l, (m, n) in enumerate(zip(widths, widths[1:], strict=False))]


def test_hessian_is_a_finite_difference():
    params, x = {"A": draw(0, 2, 3), "b": draw(1, 2)}, draw(2, 3)
    loss = lambda p: torch.tanh(p["A"] @ x + p["b"]).square().sum()
    flat, step = flatten(params), 1e-5
    slope = torch.func.grad(lambda v: loss(unflatten(v, params)))
    columns = [(slope(flat + step * e) - slope(flat - step * e)) / (2 * step) for e in torch.eye(8).double()]
    assert torch.allclose(hessian(loss, params), torch.stack(columns), atol=1e-8)


def test_hessian_refuses_single_precision():
    with pytest.raises(ValueError, match="float64"):
        hessian(lambda p: p["w"].square().sum(), {"w": torch.ones(2)})


@pytest.mark.parametrize("zeros", range(5))
def test_nullity_counts_each_kind(zeros):
    values = torch.cat([torch.zeros(zeros), torch.tensor([-1.0, 2.0, 3.0])]).double()
    Q = torch.linalg.qr(draw(3, zeros + 3, zeros + 3))[0]
    assert nullity((Q * values) @ Q.mT * 1e-7)[:3] == (zeros, 1, 2)


def test_nullity_of_zero_needs_a_scale():
    assert nullity(torch.zeros(3, 3).double()).zeros == 3
    assert nullity(1e-12 * torch.eye(3).double()).zeros == 0
    assert nullity(1e-12 * torch.eye(3).double(), scale=1.0).zeros == 3


def test_nullity_refuses_a_blurred_rank():
    with pytest.raises(ValueError, match="gap"):
        nullity(torch.diag(torch.tensor([1.0, 2e-8, 0.9e-8]).double()))
    with pytest.raises(ValueError, match="symmetric"):
        nullity(draw(0, 3, 3))


def test_critical_points_of_any_index():
    loss = lambda p: (p["w"] ** 2 - 1).square().sum()
    found = {tuple(round(v) for v in critical_point(loss, {"w": draw(s, 2)})["w"].tolist()) for s in range(150)}
    assert found == set(product((-1, 0, 1), repeat=2))
    assert critical_point(lambda p: p["w"].exp().sum(), {"w": draw(0, 1)}, steps=5) is None


def test_minimum_is_a_minimum():
    loss = lambda p: (p["a"] @ p["b"] - 2).square() / 2 + 0.5 * (p["a"].square().sum() + p["b"].square().sum()) / 2
    point = minimum(loss, {"a": draw(0, 3), "b": draw(1, 3)})
    assert abs(point["a"] @ point["b"] - 1.5) < 1e-9  # the product shrinks by the decay
    assert nullity(hessian(loss, point))[:3] == (2, 0, 4)  # rotations of one vector in three dimensions


def test_the_loss_does_not_move_along_the_orbit():
    weights = chain((3, 4, 2, 3))
    for direction in orbit_tangent(weights):
        step, moved = 0, []
        for W in weights:
            moved.append(direction[step : step + W.numel()].reshape(W.shape))
            step += W.numel()
        f = lambda *ws: ws[2] @ ws[1] @ ws[0]
        assert torch.func.jvp(f, tuple(weights), tuple(moved))[1].abs().max() < 1e-12


def exact_orbit_dimension(weights):
    """Rank over the integers, for weights rounded to small integers."""
    return sympy.Matrix([[int(v) for v in row] for row in orbit_tangent(weights).tolist()]).rank()


@pytest.mark.parametrize("widths", [(2, 3, 2), (3, 1, 3), (2, 3, 3, 1), (4, 2, 3, 2), (1, 3, 1, 3, 1)])
def test_formula_against_exact_ranks(widths):
    weights = [(3 * W).round() for W in chain(widths)]
    assert general_orbit_dimension(widths) == orbit_dimension(weights) == exact_orbit_dimension(weights)


@pytest.mark.parametrize("seed", range(30))
def test_formula_with_any_ranks(seed):
    g = torch.Generator().manual_seed(seed)
    widths = torch.randint(1, 5, (int(torch.randint(3, 6, (), generator=g)),), generator=g).tolist()
    weights = []
    for l, (m, n) in enumerate(zip(widths, widths[1:], strict=False)):
        r = int(torch.randint(0, min(m, n) + 1, (), generator=g))
        weights.append(draw(100 * seed + l, n, r) @ draw(100 * seed + 50 + l, r, m))
    ranks = {}
    for i in range(len(widths)):
        P = torch.eye(widths[i]).double()
        for j in range(i + 1, len(widths)):
            P = weights[j - 1] @ P
            ranks[i, j] = int(torch.linalg.matrix_rank(P, rtol=1e-9))
    assert general_orbit_dimension(widths, ranks) == orbit_dimension(weights)


@pytest.mark.parametrize(("widths", "rank"), [((3, 4, 1), 1), ((4, 3, 3, 1), 1), ((4, 4, 3), 3), ((5, 4, 6, 3), 2)])
def test_orthogonal_formula_at_balanced_weights(widths, rank):
    bases = [torch.linalg.qr(draw(k, d, d))[0][:, :rank] for k, d in enumerate(widths)]
    s = torch.arange(1, rank + 1).double()
    weights = [(above * s) @ below.mT for below, above in zip(bases, bases[1:], strict=False)]
    assert orthogonal_orbit_dimension(widths, rank) == orbit_dimension(weights, "orthogonal")


@pytest.mark.parametrize("widths", [(1, 2, 3), (3, 3, 3), (4, 2, 3, 2), (2, 3, 4, 4, 3), (4, 5, 2)])
def test_zero_modes_are_an_orbit_once_the_ends_move_too(widths):
    weights, X = chain(widths), draw(9, widths[0] + 2, widths[0])

    output = lambda layers: torch.linalg.multi_dot([*layers[::-1], X.mT])
    loss = lambda p: (output(list(p.values())) - output(weights)).square().sum()
    zeros = nullity(hessian(loss, {str(l): W for l, W in enumerate(weights)})).zeros
    assert zeros == interpolation_nullity(widths) == orbit_dimension(weights, ends=True)
    assert orbit_dimension(weights) <= zeros


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="rank must lie"):
        orthogonal_orbit_dimension([3, 2, 3], 3)
    with pytest.raises(ValueError, match="group must be"):
        orbit_tangent(chain((2, 2, 2)), "unitary")
    with pytest.raises(ValueError, match="order the layers"):
        orbit_tangent([draw(0, 2, 3), draw(1, 2, 3)])
    with pytest.raises(ValueError, match="at least two layers"):
        general_orbit_dimension([3])

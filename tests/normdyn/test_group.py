"""The rescaling group against loops over edges, closed forms, and an independent minimiser."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from claimbook.show.checks import relative_error
from normdyn.networks.graphs import feedforward, layered_matrix, layered_weights, random_dag
from normdyn.rescaling import group as rescaling

EXPONENTS = list(itertools.product((0.5, 1.0, 1.5, 2.0, 3.0), repeat=2)) + [(2.0, 8.0)]
every_exponent = pytest.mark.parametrize("p, q", EXPONENTS)


def network(seed, **kwargs):
    return random_dag(torch.Generator().manual_seed(seed), **kwargs)


def random_factors(hidden, seed, size=1.0):
    z = size * torch.randn(len(hidden), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(hidden, z.exp(), 1.0)


# Slow twins: numbers, not tensors


def slow_rho(W, p, q):
    return [sum(abs(w) ** p for w in row) ** (q / p) for row in W.tolist()]


def slow_outgoing(W, p, q):
    rows, rho = W.tolist(), slow_rho(W, p, q)
    share = lambda j, i: abs(rows[j][i]) ** p / sum(abs(w) ** p for w in rows[j])
    return [sum(rho[j] * share(j, i) for j in range(len(W)) if rows[j][i] != 0) for i in range(len(W))]


def slow_regularizer(z, W, hidden, p, q):
    """F(log a), edge by edge."""
    a, free = [1.0] * len(W), iter(z)
    for i in range(len(W)):
        a[i] = math.exp(next(free)) if hidden[i] else 1.0
    return sum(
        sum((abs(w) * a[i] / a[j]) ** p for j, w in enumerate(row)) ** (q / p) for i, row in enumerate(W.tolist())
    ) / q  # fmt: skip


@every_exponent
def test_quantities_agree_with_loops_over_edges(p, q):
    for seed in range(5):
        W, hidden = network(seed)
        as_tensor = lambda values: torch.tensor(values, dtype=torch.float64)
        rho, outgoing = as_tensor(slow_rho(W, p, q)), as_tensor(slow_outgoing(W, p, q))
        assert relative_error(rescaling.per_unit_regularizer(W, p=p, q=q), rho) < 1e-13
        assert relative_error(rescaling.incoming_outgoing(W, p=p, q=q)[1], outgoing) < 1e-13
        assert relative_error(rescaling.rescaling_imbalance(W, hidden, p=p, q=q), (rho - outgoing)[hidden]) < 1e-12
        assert rescaling.regularizer(W, p=p, q=q).item() == pytest.approx(sum(rho.tolist()) / q, rel=1e-13)
        assert rescaling.entrywise_norm(W, p=p, q=q).item() == pytest.approx(sum(rho.tolist()) ** (1 / q), rel=1e-13)
        z = torch.randn(int(hidden.sum()), generator=torch.Generator().manual_seed(seed), dtype=W.dtype)
        expected = slow_regularizer(z.tolist(), W, hidden.tolist(), p, q)
        assert rescaling.orbit_regularizer(z, W, hidden, p=p, q=q).item() == pytest.approx(expected, rel=1e-12)


def test_stochastic_matrix_has_rows_that_sum_to_one_where_there_are_inputs():
    W, _ = network(0)
    total = rescaling.stochastic_matrix(W, p=1.5).sum(1)
    assert total[:3].tolist() == [0, 0, 0]
    assert relative_error(total[3:], torch.ones_like(total[3:])) < 1e-14


def test_what_enters_rows_leaves_columns():
    W, _ = network(1)
    incoming, outgoing = rescaling.incoming_outgoing(W, p=2, q=3)
    assert incoming.sum().item() == pytest.approx(outgoing.sum().item(), rel=1e-14)


# The norm


def test_norm_has_its_special_cases():
    W, _ = network(2)
    assert rescaling.entrywise_norm(W, p=2, q=2).item() == pytest.approx(torch.linalg.matrix_norm(W).item(), rel=1e-14)
    assert rescaling.entrywise_norm(W, p=1, q=1).item() == pytest.approx(W.abs().sum().item(), rel=1e-14)
    largest_row = torch.linalg.matrix_norm(W, math.inf).item()
    assert rescaling.entrywise_norm(W, p=1, q=4000).item() == pytest.approx(largest_row, rel=1e-3)
    assert rescaling.entrywise_norm(torch.zeros(3, 3), p=2, q=2).item() == 0


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
@pytest.mark.parametrize("q", [2, 64, 512])
def test_norm_is_homogeneous_far_from_one(scale, q):
    W, _ = network(3)
    expected = scale * rescaling.entrywise_norm(W, p=3, q=q)
    assert rescaling.entrywise_norm(scale * W, p=3, q=q).item() == pytest.approx(expected.item(), rel=1e-13)


def test_norm_of_a_single_precision_network_does_not_overflow():
    W = torch.tensor([[3e30, 4e30]])
    assert rescaling.entrywise_norm(W, p=2, q=8).item() == pytest.approx(5e30, rel=1e-6)


# The group


def test_rescalings_form_a_group_that_keeps_the_function():
    W, hidden = network(4)
    b, X = (torch.randn(*s, generator=torch.Generator().manual_seed(5), dtype=W.dtype) for s in ((len(W),), (20, 3)))
    a, c = random_factors(hidden, 6), random_factors(hidden, 7)
    once, twice = rescaling.rescale(W, b, a * c), rescaling.rescale(*rescaling.rescale(W, b, a), c)
    back = rescaling.rescale(*rescaling.rescale(W, b, a), 1 / a)
    for k, original in enumerate((W, b)):
        assert relative_error(twice[k], once[k]) < 1e-14
        assert relative_error(back[k], original) < 1e-14
    before, after = feedforward(W, b, X, hidden), feedforward(*once, X, hidden)
    assert relative_error(after, before) < 1e-12
    assert relative_error(feedforward(*once, X, hidden, activation=torch.tanh), before) > 1e-2


def test_rescale_moves_one_edge_as_written():
    W = torch.zeros(3, 3)
    W[1, 0], W[2, 1] = 2.0, 3.0
    V, c = rescaling.rescale(W, torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 4.0, 1.0]))
    assert (V[1, 0].item(), V[2, 1].item(), c.tolist()) == (8.0, 0.75, [0.0, 4.0, 1.0])


# Derivatives


@every_exponent
def test_imbalance_is_the_derivative_along_the_orbit(p, q):
    for seed in range(3):
        W, hidden = network(seed)
        start = torch.zeros(int(hidden.sum()), dtype=W.dtype)
        Q = rescaling.rescaling_imbalance(W, hidden, p=p, q=q)
        along = torch.func.grad(lambda z: rescaling.orbit_regularizer(z, W, hidden, p=p, q=q))(start)  # noqa: B023
        by_lemma = rescaling.rescaling_derivative(lambda V: rescaling.regularizer(V, p=p, q=q), W, hidden)
        assert relative_error(along, Q) < 1e-12
        assert relative_error(by_lemma, Q) < 1e-12


@every_exponent
def test_curvature_is_that_of_finite_differences_and_positive(p, q):
    W, hidden = network(8)
    slope = lambda z: torch.func.grad(lambda z: rescaling.orbit_regularizer(z, W, hidden, p=p, q=q))(z)
    z, h = torch.zeros(int(hidden.sum()), dtype=W.dtype), 1e-5
    H = torch.func.hessian(lambda z: rescaling.orbit_regularizer(z, W, hidden, p=p, q=q))(z)
    differences = torch.stack(
        [(slope(z + h * e) - slope(z - h * e)) / (2 * h) for e in torch.eye(len(z), dtype=z.dtype)]
    )
    assert relative_error(H, differences) < 1e-7  # h squared and rounding over h
    scale = H.diagonal().rsqrt()
    assert torch.linalg.eigvalsh(scale[:, None] * H * scale).min() > 1e-6


def test_norm_has_a_finite_gradient_on_a_network_with_absent_edges():
    W, _ = network(9)
    for p, q in EXPONENTS:
        slope = torch.func.grad(lambda V: rescaling.entrywise_norm(V, p=p, q=q))(W)  # noqa: B023
        assert slope.isfinite().all()
        euler = (slope * W).sum().item()  # the norm is homogeneous of degree one
        assert euler == pytest.approx(rescaling.entrywise_norm(W, p=p, q=q).item(), rel=1e-12)


def test_scatter_places_differentiates_and_batches():
    hidden = torch.tensor([False, True, False, True])
    assert rescaling.scatter(torch.tensor([5.0, 7.0]), hidden).tolist() == [0, 5, 0, 7]
    jacobian = torch.func.jacfwd(lambda v: rescaling.scatter(v, hidden))(torch.zeros(2))
    assert torch.equal(jacobian, torch.eye(4)[:, hidden])


# Updates


@every_exponent
def test_update_is_the_ratio_to_the_power_and_the_minimiser_of_the_majoriser(p, q):
    W, hidden = network(10)
    a = rescaling.multiplicative_update(W, hidden, p=p, q=q)
    rho, outgoing = slow_rho(W, p, q), slow_outgoing(W, p, q)
    for i, free in enumerate(hidden.tolist()):
        assert a[i].item() == pytest.approx((outgoing[i] / rho[i]) ** (1 / (4 * max(p, q))) if free else 1.0, rel=1e-12)
    G = lambda x: rescaling.auxiliary_function(x, W, p=p, q=q).item()
    for seed in range(20):
        x = random_factors(hidden, seed, size=0.3)
        F = rescaling.orbit_regularizer(x[hidden].log(), W, hidden, p=p, q=q).item()
        assert F <= G(x) * (1 + 1e-12)
        assert G(a) <= G(a * x)
    assert G(torch.ones_like(a)) == pytest.approx(rescaling.regularizer(W, p=p, q=q).item(), rel=1e-13)


@every_exponent
def test_no_exponent_up_to_the_safe_one_increases_the_norm(p, q):
    for seed, share in itertools.product(range(10), (0.3, 1.0)):
        W, hidden = network(seed, spread=2.0)
        for _ in range(5):
            e = share * rescaling.largest_safe_exponent(p, q)
            V, _ = rescaling.rescale(W, W[0], rescaling.multiplicative_update(W, hidden, p=p, q=q, exponent=e))
            assert rescaling.entrywise_norm(V, p=p, q=q) <= (1 + 1e-13) * rescaling.entrywise_norm(W, p=p, q=q)
            W = V


def chain(p, q):
    """Forty hidden units in a row, displaced from balance along the steepest mode."""
    k = torch.arange(42, dtype=torch.float64)
    z = 0.01 * (-1) ** k * torch.sin(math.pi * k / 41)
    return torch.diag(torch.ones(41, dtype=z.dtype), -1) * (z[:, None] - z).exp(), (k > 0) & (k < 41)


def dominated_row(p, q):
    """A tiny weight of a hidden unit into an output with another weight."""
    W = torch.zeros(4, 4, dtype=torch.float64)
    W[2, 0], W[3, 1], W[3, 2] = 1, 1, 10 ** (-200 / p)
    return W, torch.tensor([False, False, True, False])


@pytest.mark.parametrize("p, q, worst", [(1, 1, chain), (1, 2, chain), (2, 2, chain), (2, 1, dominated_row),
                                         (3, 1, dominated_row), (5, 2, dominated_row)])  # fmt: skip
def test_a_slightly_larger_exponent_than_the_safe_one_increases_some_norm(p, q, worst):
    W, hidden = worst(p, q)
    norms = []
    for share in (1.0, 1.03):
        e = share * rescaling.largest_safe_exponent(p, q)
        V, _ = rescaling.rescale(W, W[0], rescaling.multiplicative_update(W, hidden, p=p, q=q, exponent=e))
        norms.append((rescaling.entrywise_norm(V, p=p, q=q) / rescaling.entrywise_norm(W, p=p, q=q)).item() - 1)
    assert norms[0] <= 1e-15
    assert norms[1] > 1e-6


# The independent minimiser


def test_minimum_of_one_unit_is_the_closed_form():
    W, hidden = layered_matrix(layered_weights([4, 1, 3], torch.Generator().manual_seed(0)))
    for p in (1.0, 2.0, 3.0):
        expected = (W[:, 4].abs().pow(p).sum() / W[4].abs().pow(p).sum()) ** (1 / (2 * p))
        assert rescaling.orbit_minimum(W, hidden, p=p, q=p)[4].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("p, q", [(1.0, 1.0), (2.0, 2.0), (1.0, 2.0), (2.0, 1.0), (3.0, 1.5), (2.0, 8.0)])
def test_minimum_agrees_with_a_search_without_derivatives_and_is_balanced(p, q):
    for seed in range(3):
        W, hidden = network(seed, hidden=4)
        a = rescaling.orbit_minimum(W, hidden, p=p, q=q)
        assert torch.equal(a[~hidden], torch.ones_like(a[~hidden]))
        V, _ = rescaling.rescale(W, W[0], a)
        incoming, outgoing = (side[hidden] for side in rescaling.incoming_outgoing(V, p=p, q=q))
        assert (outgoing / incoming).log().abs().max() < 1e-10
        F = lambda z: math.log(slow_regularizer(z, W, hidden.tolist(), p, q))  # noqa: B023
        found = minimize(F, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13, "maxiter": 4000})
        assert F(a[hidden].log().tolist()) == pytest.approx(found.fun, abs=1e-9)
        assert F(a[hidden].log().tolist()) <= found.fun + 1e-14


def test_minimum_does_not_depend_on_where_the_orbit_is_entered():
    W, hidden = network(11, spread=3.0)
    V, _ = rescaling.rescale(W, W[0], random_factors(hidden, 12, size=3.0))
    ends = [rescaling.rescale(U, U[0], rescaling.orbit_minimum(U, hidden, p=2, q=1))[0] for U in (W, V)]
    assert relative_error(ends[1], ends[0]) < 1e-11


@pytest.mark.parametrize("side", [0, 1])
def test_a_vacuous_unit_has_no_minimum(side):
    W, hidden = network(13)
    W.select(side, 5)[:] = 0
    with pytest.raises(RuntimeError, match="is a hidden unit vacuous"):
        rescaling.orbit_minimum(W, hidden, p=2, q=2)


# Refusals


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_factors_that_are_no_rescaling_are_refused(wrong):
    W, hidden = network(14)
    a = torch.ones(len(W), dtype=W.dtype)
    a[5] = wrong
    with pytest.raises(ValueError, match="rescaling factors must be positive and finite"):
        rescaling.rescale(W, W[0], a)


@pytest.mark.parametrize("p, q, name", [(0.0, 1.0, "p"), (1.0, -2.0, "q"), (math.nan, 1.0, "p")])
def test_exponents_that_are_not_positive_are_refused(p, q, name):
    W, _ = network(15)
    for function in (rescaling.per_unit_regularizer, rescaling.entrywise_norm, rescaling.regularizer):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            function(W, p=p, q=q)
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        rescaling.largest_safe_exponent(p, q)

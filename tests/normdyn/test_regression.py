"""Exact descent on linear models against the literal loop, closed forms and rational arithmetic."""

import math
from fractions import Fraction

import flint
import numpy as np
import pytest
import torch

from normdyn.motion.regression import (
    chebyshev_nodes,
    expected_square_error,
    linear_descent,
    minimum_norm_interpolant,
    monomials,
    perturbed_descent,
    perturbed_variances,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(features, y, w, step, steps):
    """Gradient descent in NumPy, one step after the other."""
    A, y, w = features.numpy(), y.numpy(), w.numpy().copy()
    for _ in range(steps):
        w -= step / len(y) * (A.T @ (A @ w - y))
    return torch.from_numpy(w)


@pytest.mark.parametrize("count", [1, 2, 9, 76])
def test_chebyshev_nodes_are_zeros_of_the_chebyshev_polynomial(count):
    nodes = chebyshev_nodes(count).numpy()
    assert np.abs(np.polynomial.chebyshev.chebval(nodes, [0] * count + [1])).max() < 1e-12
    assert (np.diff(nodes) > 0).all()


def test_monomials_are_numpys():
    x = draw(5)
    np.testing.assert_allclose(monomials(x, 6).numpy(), np.vander(x.numpy(), 7, increasing=True), rtol=1e-14)


@pytest.mark.parametrize("samples, degree", [(9, 30), (9, 4), (9, 8), (1, 3)])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 1000])
def test_exact_descent_is_the_loop(samples, degree, steps):
    x = chebyshev_nodes(samples)
    features, y, start = monomials(x, degree), draw(samples, seed=1), draw(degree + 1, seed=2)
    exact = linear_descent(features, y, step=0.4).at(start, steps)
    torch.testing.assert_close(exact, loop(features, y, start, 0.4, steps), rtol=1e-11, atol=1e-11)


def test_a_million_steps_are_the_loop():
    features, y = monomials(chebyshev_nodes(9), 39), torch.sin(8 * math.pi * chebyshev_nodes(9))
    start = draw(40, seed=3)
    exact = linear_descent(features, y, step=0.4).at(start, 1_000_000)
    looped = loop(features, y, start, 0.4, 1_000_000)
    assert (exact - looped).abs().max() < 1e-10 * looped.abs().max()


def test_runs_compose():
    descent = linear_descent(draw(4, 7), draw(4, seed=1), step=0.1)
    start = draw(3, 7, seed=2)
    torch.testing.assert_close(descent.at(descent.at(start, 12), 30), descent.at(start, 42), rtol=1e-12, atol=1e-12)


def test_the_solution_is_the_pseudoinverse():
    features, y = draw(4, 7), draw(4, seed=1)
    torch.testing.assert_close(linear_descent(features, y, step=0.01).solution, torch.linalg.pinv(features) @ y)


def test_a_rate_of_one_reaches_the_solution_in_one_step():
    descent = linear_descent(torch.eye(2, dtype=torch.float64), torch.ones(2).double(), step=2.0)
    assert (descent.at(draw(2), 1) - 1).abs().max() < 1e-15


def test_the_law_of_kicks_is_that_of_many_runs():
    x = chebyshev_nodes(5)
    features, y = monomials(x, 7), draw(5, seed=1)
    descent = linear_descent(features, y, step=0.3)
    options = {"deviation": 0.5, "every": 30, "count": 6}
    runs = perturbed_descent(
        descent, torch.zeros(40_000, 8).double(), generator=torch.Generator().manual_seed(2), **options
    )
    variances = perturbed_variances(descent, **options)
    modes = (runs[-1] @ descent.modes).var(0)
    torch.testing.assert_close(modes, variances[0], rtol=0.05, atol=1e-6)
    null = descent.null_part(runs[-1]).square().sum(1).mean() / descent.null_dimension
    assert abs(null / variances[1] - 1) < 0.03
    other = monomials(draw(6, seed=3).tanh(), 7)
    errors = (runs[-1] @ other.mT - 1).square().mean(1)
    mean = descent.at(torch.zeros(8).double(), 7 * 30)
    expected = expected_square_error(descent, mean, variances, other, torch.ones(6).double())
    assert abs(errors.mean() - expected) < 6 * errors.std() / 200


def rational_solve(A, b):
    """Gaussian elimination in fractions."""
    rows = [[*row, value] for row, value in zip(A, b, strict=True)]
    for i in range(len(rows)):
        pivot = next(k for k in range(i, len(rows)) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for k in range(len(rows)):
            if k != i:
                rows[k] = [u - rows[k][i] * v for u, v in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


@pytest.mark.parametrize("degree", [2, 4, 6])
def test_interpolant_is_that_of_rational_arithmetic(degree, monkeypatch):
    nodes, y, t = [Fraction(k, 7) for k in (-6, -2, 1, 3, 5)], [Fraction(k) for k in (1, -1, 2, 0, 3)], Fraction(2, 5)
    Phi = [[x**k for k in range(degree + 1)] for x in nodes]
    dot = lambda u, v: sum(a * b for a, b in zip(u, v, strict=True))
    columns = list(map(list, zip(*Phi, strict=True)))
    if degree >= 4:
        alpha = rational_solve([[dot(u, v) for v in Phi] for u in Phi], y)
        w = [dot(column, alpha) for column in columns]
    else:
        w = rational_solve([[dot(u, v) for v in columns] for u in columns], [dot(u, y) for u in columns])
    ball = lambda q: flint.arb(q.numerator) / q.denominator
    monkeypatch.setattr(flint.ctx, "prec", 300)
    found = minimum_norm_interpolant([*map(ball, nodes)], [*map(ball, y)], [ball(t)], degree, bits=300)
    assert abs(float(found.values[0]) - float(dot(w, [t**k for k in range(degree + 1)]))) < 1e-12
    assert abs(float(found.squared_norm) / float(dot(w, w)) - 1) < 1e-12
    assert found.digits > 60


def test_precision_is_put_back():
    before = flint.ctx.prec
    minimum_norm_interpolant([flint.arb(1)], [flint.arb(1)], [flint.arb(0)], 2, bits=999)
    assert flint.ctx.prec == before


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        chebyshev_nodes(0)
    with pytest.raises(ValueError, match="degree must not be negative, got -1"):
        monomials(draw(2), -1)
    with pytest.raises(ValueError, match="step must be positive"):
        linear_descent(draw(2, 3), draw(2), step=0.0)
    with pytest.raises(ValueError, match="step 100 diverges"):
        linear_descent(draw(2, 3), draw(2), step=100.0)
    with pytest.raises(ValueError, match="steps must not be negative"):
        linear_descent(draw(2, 3), draw(2), step=0.01).at(draw(3), -1)
    with pytest.raises(ValueError, match="bits = 2 is not enough"):
        nodes = [flint.arb(k) / 50 for k in range(30)]
        minimum_norm_interpolant(nodes, nodes, nodes, 40, bits=2)

"""Runs behind the claims of Figures 7 to 10 and 13 of paper D: descent on polynomials without an eigenvector in sight.

The mean square without a factor one half is what descends with the paper's step of 0.2, so that in the library's loss
``|f - y|^2 / 2n`` the step is 0.4. Numbers of steps are reached by squaring the affine map of one step.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flint
import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from normdyn.motion.regression import (
    LinearDescent,
    chebyshev_nodes,
    linear_descent,
    minimum_norm_interpolant,
    monomials,
)
from normdyn.networks.graphs import mlp

STEP, POINTS, TESTS = 0.4, 9, 100
LONG = 10_000_000
CLOCK = sorted({round(10 ** (k / 4)) for k in range(4, 22)} | {125_000, 250_000})


def draw(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


def target(x: Tensor) -> Tensor:
    return torch.sin(8 * math.pi * x)


class Problem(NamedTuple):
    """Features and targets in training and test, and the step that descends."""

    features: Tensor
    y: Tensor
    tests: Tensor
    y_test: Tensor
    step: float

    def errors(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Mean square errors in training and test; weights are rows."""
        pairs = ((self.features, self.y), (self.tests, self.y_test))
        train, test = ((w @ F.mT - y).square().mean(-1) for F, y in pairs)
        return train, test


def with_nodes(x: Tensor, degree: int) -> Problem:
    test = torch.linspace(-1, 1, TESTS, dtype=torch.float64)
    features = monomials(x, degree)
    largest = len(x) / torch.linalg.svdvals(features)[0].item() ** 2
    return Problem(features, target(x), monomials(test, degree), target(test), min(STEP, 1.5 * largest))


@shared
def problem(degree: int) -> Problem:
    """Nine Chebyshev nodes, a hundred equispaced test points."""
    return with_nodes(chebyshev_nodes(POINTS), degree)


@shared
def drawn_problem(case: Case, degree: int, k: int) -> Problem:
    """Nine nodes drawn evenly from the interval; the step is smaller where 0.4 diverges."""
    x = 2 * torch.rand(POINTS, generator=case.generator(f"nodes {k}"), dtype=torch.float64) - 1
    return with_nodes(x, degree)


@shared
def solved(degree: int) -> LinearDescent:
    """Descent in its eigenbasis."""
    one = problem(degree)
    return linear_descent(one.features, one.y, step=one.step)


@shared
def solved_drawn(case: Case, degree: int, k: int) -> LinearDescent:
    one = drawn_problem(case, degree, k)
    return linear_descent(one.features, one.y, step=one.step)


# Many steps without eigenvectors


class Affine(NamedTuple):
    """The map ``w -> M w + b``; M is symmetric."""

    M: Tensor
    b: Tensor

    def after(self, first: "Affine") -> "Affine":
        return Affine(self.M @ first.M, self.M @ first.b + self.b)

    def __call__(self, w: Tensor) -> Tensor:
        return w @ self.M + self.b


@shared
def many_steps(degree: int, steps: int, weight_decay: float = 0.0) -> Affine:
    """Steps of gradient descent in a row, composed by repeated squaring."""
    one = problem(degree)
    size = one.features.shape[1]
    scale = one.step / len(one.y)
    shrink = (1 - one.step * weight_decay) * torch.eye(size).double()
    double = Affine(shrink - scale * one.features.mT @ one.features, scale * one.features.mT @ one.y)
    total = Affine(torch.eye(size).double(), torch.zeros(size).double())
    while steps:
        if steps % 2:
            total = double.after(total)
        double, steps = double.after(double), steps // 2
    return total


def flat_part(degree: int, w: Tensor) -> Tensor:
    """Projection on the null space of the features, by the pseudoinverse."""
    features = problem(degree).features
    return w - w @ (torch.linalg.pinv(features) @ features).mT


@shared
def kicked(case: Case, degree: int, deviation: float = 0.45) -> tuple[Tensor, Tensor]:
    """The minimum-norm solution, and where a kick puts it."""
    one = problem(degree)
    solution = torch.linalg.lstsq(one.features, one.y[:, None], driver="gelsd").solution[:, 0]
    return solution, solution + deviation * draw(case, f"kick {degree}", degree + 1)


class Kicks(NamedTuple):
    """Expectations just before each kick and once long after the last: squared norm, training and test error."""

    norm: Tensor
    train: Tensor
    test: Tensor


@shared
def expected(degree: int, deviation: float, every: int, count: int, last: int, weight_decay: float = 0.0) -> Kicks:
    """Mean and covariance carried through descents and kicks from zero; the last entry is ``last`` steps later."""
    one, stretch = problem(degree), many_steps(degree, every, weight_decay)
    size = degree + 1
    mean, C, noise = stretch.b, torch.zeros(size, size).double(), deviation**2 * torch.eye(size).double()
    found = []

    def note() -> None:
        spread = [((F @ C) * F).sum(1).mean() for F in (one.features, one.tests)]
        found.append((mean @ mean + C.trace(), *(e + s for e, s in zip(one.errors(mean), spread, strict=True))))

    note()
    for _ in range(count):
        mean, C = stretch(mean), stretch.M @ (C + noise) @ stretch.M
        note()
    rest = many_steps(degree, last, weight_decay)
    mean, C = rest(mean), rest.M @ C @ rest.M
    note()
    return Kicks(*(torch.stack(list(column)) for column in zip(*found, strict=True)))


@shared
def walked(case: Case, degree: int, deviation: float, every: int, count: int, runs: int) -> Tensor:
    """Flat part of the weights after many kicks, one row a run."""
    stretch, w = many_steps(degree, every), torch.zeros(runs, degree + 1).double()
    for k in range(count):
        w = stretch(w + deviation * draw(case, f"walk {k}", runs, degree + 1))
    return flat_part(degree, w)


@shared
def sawtooth(case: Case, degree: int, deviation: float, every: int, count: int, runs: int, last: int) -> Kicks:
    """Averages over runs, at :func:`moments` after each kick: squared norm, training and test error."""
    one, descent = problem(degree), solved(degree)
    w, found = torch.zeros(runs, degree + 1).double(), []
    for k in range(count + 1):
        if k:
            w = w + deviation * draw(case, f"saw {degree} {k}", runs, degree + 1)
        for n in moments(every if k < count else last):
            now = descent.at(w, n)
            found.append((now.square().sum(1).mean(), *(e.mean() for e in one.errors(now))))
        w = descent.at(w, every)
    return Kicks(*(torch.stack(list(column)) for column in zip(*found, strict=True)))


def moments(every: int) -> list[int]:
    """Numbers of steps after a kick at which something is drawn."""
    return [0, *(round(every * s) for s in (0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0))]


# Figures 8, 9 and 10 without kicks


class Curve(NamedTuple):
    """Averages over repetitions at the times of ``CLOCK``."""

    train: Tensor
    test: Tensor
    norm: Tensor

    def rise(self) -> Tensor:
        """Last over least test error."""
        return self.test[-1] / self.test.min()

    def late(self) -> Tensor:
        """The larger change of test error and norm over the second half of the run, relative to the last value."""
        half = CLOCK.index(125_000)
        return torch.stack([(x[half] / x[-1] - 1).abs() for x in (self.test, self.norm)]).max()


@shared
def curve(case: Case, degree: int, scale: float, k: int, nodes: str = "chebyshev", repetitions: int = 30) -> Curve:
    """Descent from Gaussian starts, thirty of them, on Chebyshev nodes or on nodes that are drawn."""
    if nodes == "chebyshev":
        one, descent = problem(degree), solved(degree)
    else:
        one, descent = drawn_problem(case, degree, k), solved_drawn(case, degree, k)
    start = scale * draw(case, f"start {degree} {scale} {k}", repetitions, degree + 1)
    path = torch.stack([descent.at(start, n) for n in CLOCK])
    train, test = one.errors(path)
    return Curve(train.mean(1), test.mean(1), path.norm(dim=2).mean(1))


def unfinished_share(case: Case, draws: int = 100) -> float:
    """Of drawn nodes, the share that leaves a training error above 1e-8 after ten million steps from zero."""
    left = []
    for k in range(draws):
        end = solved_drawn(case, 39, k).at(torch.zeros(40).double(), LONG)
        left.append(drawn_problem(case, 39, k).errors(end)[0])
    return (torch.stack(left) > 1e-8).double().mean().item()


# Figure 7


@shared
def plane(case: Case, samples: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A quadratic loss in two parameters, and the features behind it."""
    rows = draw(case, "two parameters", 2, 2)[:samples]
    return rows, lambda w: (rows @ w - 1).square().mean()


FITTED = 6


@shared
def network(case: Case, k: int, fitted: bool = True) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Weights of a tanh network of two layers that fits six labels by Gauss-Newton steps, and its outputs times labels.

    Raises:
        Unfinished: the steps do not arrive.
    """
    X, y = draw(case, f"network {k} X", FITTED, 3), draw(case, f"network {k} y", FITTED).sign()
    f = lambda w: y * mlp([w[:24].view(8, 3), w[24:].view(1, 8)], X, activation=torch.tanh)[:, 0]
    w = draw(case, f"network {k} w", 32)
    for _ in range(80 if fitted else 0):
        rest = 1 - f(w)
        if rest.abs().max() < 1e-13:
            break
        J = torch.func.jacrev(f)(w)
        move = torch.linalg.lstsq(J, rest[:, None], driver="gelsd").solution[:, 0]
        w = w + move * min(1.0, 2 / move.norm().item())
    if fitted and (f(w) - 1).abs().max() > 1e-12:
        raise Unfinished(f"network {k} has not fitted its labels")
    return w, f


# Figure 13

DEGREES = (1, 10, 30, 60, 75, 85, 100, 150, 200, 250, 300)
NODES, FINE, COARSE, BITS = 76, 600, 100, 1200


class Interpolated(NamedTuple):
    """Logarithms to base ten of test errors at 600 equispaced and 100 Chebyshev points, and certified digits."""

    equispaced: float
    chebyshev: float
    digits: float


@shared
def interpolated(degree: int) -> Interpolated:
    """The minimum-norm polynomial through 76 Chebyshev nodes in ball arithmetic of 1,200 bits."""
    before, flint.ctx.prec = flint.ctx.prec, BITS
    try:
        pi = flint.arb.pi()
        chebyshev = lambda n: [((2 * k + 1) * pi / (2 * n)).cos() for k in range(n)]
        even = [flint.arb(2 * k) / (FINE - 1) - 1 for k in range(FINE)]
        points, nodes = even + chebyshev(COARSE), chebyshev(NODES)
        truth = lambda x: [(8 * pi * t).sin() for t in x]
        found = minimum_norm_interpolant(nodes, truth(nodes), points, degree, bits=BITS)
        flint.ctx.prec = BITS
        squares = [(a - b) ** 2 for a, b in zip(found.values, truth(points), strict=True)]
        error = lambda part: float((sum(part, flint.arb(0)) / len(part)).log() / flint.arb(10).log())
        return Interpolated(error(squares[:FINE]), error(squares[FINE:]), found.digits)
    finally:
        flint.ctx.prec = before


@shared
def in_double(degree: int) -> float:
    """The same at equispaced points in double precision, by the singular value decomposition and its usual cut-off."""
    x, t = chebyshev_nodes(NODES), torch.linspace(-1, 1, FINE, dtype=torch.float64)
    w = torch.linalg.lstsq(monomials(x, degree), target(x)[:, None], driver="gelsd").solution[:, 0]
    return (monomials(t, degree) @ w - target(t)).square().mean().log10().item()

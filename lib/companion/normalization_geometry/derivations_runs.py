"""Runs of the chapter on the derivations of paper C's appendix: one unit on a batch of ``m`` samples.

``z = X W + b`` and ``a = gain * hat + shift``. Slopes ``delta`` are those of the loss in ``a``; ``s^2`` is the variance
plus epsilon, the paper's ``sigma^2`` at epsilon zero.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mpmath
import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.measures import curvature
from normdyn.networks.normalizers import batch_norm, normalize

GAIN, SHIFT = 1.7, 0.4


EPSILONS = (0.0, 0.1)


def eye(m: int) -> Tensor:
    return torch.eye(m, dtype=torch.float64)


class Unit(NamedTuple):
    """Inputs, weights, values, their spread and normalised form, slopes in the outputs; functions of values."""

    X: Tensor
    W: Tensor
    b: Tensor
    z: Tensor
    s: Tensor
    hat: Tensor
    delta: Tensor
    spread: Callable[[Tensor], Tensor]
    outputs: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]


@shared
def units(case: Case, epsilon: float = 0.0, center: bool = True, stored: bool = False) -> list[Unit]:
    """Five units whose loss couples all samples; without the mean taken off, or by stored statistics."""
    found = []
    for k in range(5):
        X, W = 0.8 + normal(case, f"C unit {k} X", 7, 3), normal(case, f"C unit {k} W", 3)
        b, R = normal(case, f"C unit {k} b", 1), normal(case, f"C unit {k} R", 7)
        z = X @ W + b
        spread = lambda z: (z.var(correction=0) + epsilon).sqrt()
        s, held = spread(z), (z.mean()[None], spread(z).square()[None])

        def outputs(z, held=held):
            if stored:
                return GAIN * batch_norm(z[:, None], statistics=held)[:, 0] + SHIFT
            hat = normalize(z, (0,), epsilon=epsilon) if center else z / (z.square().mean() + epsilon).sqrt()
            return GAIN * hat + SHIFT

        seen = lambda a, R=R: (torch.sin(a * R) * a.roll(1)).sum() + (a @ R).tanh()
        delta = torch.func.grad(seen)(outputs(z))
        whole = lambda z, seen=seen, outputs=outputs: seen(outputs(z))
        found.append(Unit(X, W, b, z, s, (z - z.mean()) / s, delta, spread, outputs, whole))
    return found


@shared
def every(case: Case, **world) -> list[Unit]:
    """The units with and without epsilon."""
    return [one for epsilon in EPSILONS for one in units(case, epsilon, **world)]


def in_values(one: Unit) -> Tensor:
    """The gradient of the loss in the values of the unit, by automatic differentiation."""
    return torch.func.grad(one.loss)(one.z)


def in_weights(one: Unit) -> Tensor:
    return torch.func.grad(lambda W: one.loss(one.X @ W + one.b))(one.W)


@shared
def responses(case: Case, epsilon: float) -> list[Tensor]:
    """How all outputs (rows) move with each value (columns), by central differences of two sizes, extrapolated."""
    found = []
    for one in units(case, epsilon):
        slope = lambda h, one=one: torch.stack(
            [(one.outputs(one.z + h * e) - one.outputs(one.z - h * e)) / (2 * h) for e in eye(len(one.z))], 1
        )
        h = 0.004 * one.s
        found.append((64 * slope(h / 4) - 20 * slope(h / 2) + slope(h)) / 45)
    return found


def centred(X: Tensor) -> Tensor:
    return X - X.mean(0)


class Fit(NamedTuple):
    """Inputs, all parameters at the minimum of a regression, values there, and slopes in outputs and in values."""

    X: Tensor
    params: dict[str, Tensor]
    loss: Callable[[dict[str, Tensor]], Tensor]
    z: Tensor
    s: Tensor
    delta: Tensor
    slopes: Tensor


@shared
def regressions(case: Case, samples: int) -> list[Fit]:
    """Normalised linear units of four inputs at the minimum of the square loss: least squares, written as a unit."""
    found = []
    for k in range(5):
        X, y = 0.5 + normal(case, f"C fit {k} X", samples, 4), normal(case, f"C fit {k} y", samples)
        w = torch.linalg.lstsq(centred(X), (y - y.mean())[:, None], driver="gelsd").solution[:, 0]
        s = (X @ w).std(correction=0)
        p = {"w": w, "b": torch.ones(1, dtype=X.dtype), "gain": s[None], "shift": y.mean()[None]}
        read = lambda p, z, y=y: (p["gain"] * normalize(z, (0,)) + p["shift"] - y).square().sum() / 2
        loss = lambda p, X=X, read=read: read(p, X @ p["w"] + p["b"])
        z = X @ w + 1
        delta = centred(X) @ w + y.mean() - y
        found.append(Fit(X, p, loss, z, s, delta, torch.func.grad(lambda z, p=p, read=read: read(p, z))(z)))
    return found


class Batch(NamedTuple):
    """Values of a unit, their spread and normalised form, slopes, and the square loss of values on its targets."""

    z: Tensor
    s: Tensor
    hat: Tensor
    delta: Tensor
    loss: Callable[[Tensor], Tensor]


@shared
def batches(
    case: Case, epsilon: float = 0.0, residual: float = 0.0, center: bool = True, samples: int = 8
) -> list[Batch]:
    """Five batches whose targets are met up to residuals."""
    found = []
    for k in range(5):
        z, delta = normal(case, f"C batch {k} z", samples), residual * normal(case, f"C batch {k} delta", samples)

        def outputs(z):
            hat = normalize(z, (0,), epsilon=epsilon) if center else z / (z.square().mean() + epsilon).sqrt()
            return GAIN * hat + SHIFT

        target = outputs(z) - delta
        loss = lambda z, target=target, outputs=outputs: (outputs(z) - target).square().sum() / 2
        s = (z.var(correction=0) + epsilon).sqrt()
        found.append(Batch(z, s, (z - z.mean()) / s, delta, loss))
    return found


def hessian(one: Batch) -> Tensor:
    """The Hessian in the values, by automatic differentiation."""
    return torch.func.hessian(one.loss)(one.z)


def bent_along(one: Batch) -> float:
    """By how much the bend of the loss along the normalised values misses the printed one, by 60 digits.

    A second difference of the loss itself, at steps of 1e-15.
    """
    with mpmath.workdps(60):
        z = [mpmath.mpf(value) for value in one.z.tolist()]
        m, h = len(z), mpmath.mpf(10) ** -15

        def unit(z):
            mean = mpmath.fsum(z) / m
            s = mpmath.sqrt(mpmath.fsum((v - mean) ** 2 for v in z) / m)
            return [(v - mean) / s for v in z], s

        hat, s = unit(z)
        gain = mpmath.mpf(GAIN)
        moved = lambda t: unit([v + t * e for v, e in zip(z, hat, strict=True)])[0]
        loss = lambda t: mpmath.fsum((gain * (a - c)) ** 2 for a, c in zip(moved(t), hat, strict=True)) / 2
        bend = (loss(h) - 2 * loss(mpmath.mpf(0)) + loss(-h)) / h**2 / m
        printed = (gain / s) ** 2 * (1 - m)
        return float(abs(bend - printed) / abs(printed))


def raw(z: Tensor) -> Tensor:
    """No normalisation."""
    return z


def hat_of(z: Tensor) -> Tensor:
    return normalize(z, (0,))


class Solution(NamedTuple):
    """A unit in weights, bias, gain and shift that meets its targets: inputs, parameters, loss, unshifted outputs."""

    X: Tensor
    params: dict[str, Tensor]
    loss: Callable[[dict[str, Tensor]], Tensor]
    z: Tensor
    own: Tensor


@shared
def solutions(case: Case, normaliser: Callable[[Tensor], Tensor], samples: int = 8, inputs: int = 4) -> list[Solution]:
    found = []
    for k in range(5):
        X = 0.5 + normal(case, f"C solution {k} X", samples, inputs)
        p = {"w": normal(case, f"C solution {k} w", inputs), "b": normal(case, f"C solution {k} b", 1)}
        p |= {"gain": torch.tensor([GAIN], dtype=X.dtype), "shift": torch.tensor([SHIFT], dtype=X.dtype)}
        output = lambda p, X=X: p["gain"] * normaliser(X @ p["w"] + p["b"])
        own = output(p)
        loss = lambda q, target=own + SHIFT, output=output: (output(q) + q["shift"] - target).square().sum() / 2
        found.append(Solution(X, p, loss, X @ p["w"] + p["b"], own))
    return found


def bend(one: Solution, gain_part: float) -> Tensor:
    """Second derivative of the loss along weights and bias, and some part of the gain."""
    q = {name: one.params[name] for name in ("w", "b", "gain")}
    way = {"w": q["w"], "b": q["b"], "gain": gain_part * q["gain"]}
    along = lambda t: one.loss(one.params | {name: q[name] + t * way[name] for name in q})
    return torch.func.grad(torch.func.grad(along))(torch.zeros((), dtype=torch.float64))


def risen(one: Solution) -> float:
    """Twice the loss after half of the way along (w, b, -gain), per squared step and squared outputs: no derivative."""
    p = one.params
    moved = p | {"w": 1.5 * p["w"], "b": 1.5 * p["b"], "gain": 0.5 * p["gain"]}
    return (2 * one.loss(moved) / (0.25 * one.own.square().sum())).item()


@shared
def in_weight_space(
    case: Case, shapes: Sequence[tuple[int, int]], normaliser: Callable[[Tensor], Tensor]
) -> list[tuple[Solution, Tensor]]:
    """Units with the Hessians of their weights."""
    return [
        (one, curvature.hessian(lambda q, one=one: one.loss(one.params | q), {"w": one.params["w"]}))
        for m, n in shapes
        for one in solutions(case, normaliser, m, n)
    ]


@shared
def directions(case: Case, n: int) -> list[Tensor]:
    return [normal(case, f"C sphere {n} {k}", n) for k in range(5)]

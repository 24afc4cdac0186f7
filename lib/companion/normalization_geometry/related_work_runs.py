"""Runs of section 2 of paper C: gradients in deep normalised networks, spectra, and margins under noisy statistics."""

from collections.abc import Callable
from math import acos, asin, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev

from claimbook.evidence import Case, Unfinished, shared
from companion.square_loss.maximum_margin import draw
from normdyn.measures.curvature import hessian
from normdyn.networks.normalizers import batch_norm, weight_norm

Activation = Callable[[Tensor], Tensor]
Law = Callable[[int], float]

# Gradients in deep networks


def identity(z: Tensor) -> Tensor:
    return z


@shared
def squared_gradients(case: Case, depth: int, batch: int, activation: Activation, kind: str = "normalised",
                      width: int = 128, seeds: int = 16) -> Tensor:  # fmt: skip
    """Squared norms of the gradient in each layer's output, geometric mean over draws; row 0 is the input.

    Args:
        kind: ``normalised`` layers of Gaussian weights, those with ``skips``, or ``plain`` ones at He's scale.
    """
    logs = []
    for k in range(seeds):
        g = case.generator(f"{kind} {depth} {batch} {activation.__name__} {k}")
        layers = [torch.randn(batch, width, generator=g).requires_grad_()]
        for _ in range(depth):
            W = torch.randn(width, width, generator=g) * ((2.0 if kind == "plain" else 1.0) / width) ** 0.5
            z = layers[-1] @ W.mT
            branch = activation(z if kind == "plain" else batch_norm(z))
            layers.append(layers[-1] + branch if kind == "skips" else branch)
        above = torch.randn(batch, width, generator=g)
        slopes = torch.autograd.grad((layers[-1] * above).sum(), layers)
        logs.append(torch.stack([s.square().sum() for s in slopes]).log())
    return torch.stack(logs).mean(0).exp().double()


def rate(squares: Tensor, ends: int = 3) -> Tensor:
    """Logarithm of the factor per layer, without a few layers at both ends where distributions settle."""
    inner = squares[ends:-ends].log()
    return (inner[0] - inner[-1]) / (len(inner) - 1)


def relu_factor(B: float) -> float:
    """Factor per layer of the squared gradient in ReLU layers, for batches of B equally correlated samples."""
    rho = -1 / (B - 1)
    q = 1 / 4 + asin(rho) / (2 * pi)
    J = (sqrt(1 - rho**2) + rho * (pi - acos(rho))) / (2 * pi)
    return B / (B - 3) * (1 / 2 - (1 - q - J) / B) / (1 / 2 - J)


def linear_factor(B: float) -> float:
    return (B - 2) / (B - 3)


@shared
def sampled_factor(case: Case, activation: Activation, B: int, units: int = 20000) -> float:
    """The same for any activation, averaged over random directions of normalised signals."""
    z = draw(case, f"directions {B}", B, units)
    z = z - z.mean(0)
    z = (z / z.square().mean(0).sqrt()).requires_grad_()
    h = activation(z)
    D = torch.autograd.grad(h.sum(), z)[0]
    project = lambda t: t.square().sum(0) - t.sum(0).square() / B
    trace = D.square().sum(0) * (1 - 1 / B) - project(D) / B - project(z.detach() * D) / B
    return (trace.mean() / (h.var(0, correction=0).mean() * (B - 3))).item()


# Symmetries of a layer

INPUTS, UNITS = 5, 12


@shared
def lost(case: Case, normalizer: Callable[[Tensor], Tensor], of: str) -> float:
    """The number of directions that change no normalised signal, among scalings of single units or of all weights."""
    X, k, d = draw(case, "samples", 60, INPUTS), INPUTS, UNITS
    point, scales = draw(case, "layer", d * (k + 1)), draw(case, "scales", d).exp()
    out = lambda p, c: normalizer(c * (X @ p[: d * k].reshape(d, k).mT + p[d * k :]))
    J = jacrev(out, argnums=1 if of == "scales" else 0)(point, scales).flatten(0, 1)
    return float(J.shape[1] - torch.linalg.matrix_rank(J, atol=1e-9, rtol=0.0).item())


@shared
def signals(case: Case) -> Tensor:
    return draw(case, "signals", 9, UNITS)


@shared
def maps(case: Case) -> Tensor:
    """Feature maps: four samples, eight channels."""
    return draw(case, "maps", 4, 8, 7, 7)


# Conditioning


class Problem(NamedTuple):
    """A quadratic and the weights at its minimum."""

    A: Tensor
    w: Tensor

    def best(self) -> float:
        """The best c in two dimensions, the root of the ratio of the curvatures along and across w."""
        u = self.w / self.w.norm()
        across = torch.stack([-u[1], u[0]])
        return ((u @ self.A @ u) / (across @ self.A @ across)).sqrt().item()


@shared
def problems(case: Case) -> list[Problem]:
    """Six quadratics: four in two dimensions, one in three and one in five."""
    found = []
    for j, n in enumerate((2, 2, 2, 2, 3, 5)):
        R = draw(case, f"curvature {j}", n, n)
        found.append(Problem(R @ R.mT + 0.05 * torch.eye(n, dtype=R.dtype), draw(case, f"minimum {j}", n)))
    return found


@shared
def spectra(case: Case, c: float | None) -> list[Tensor]:
    """Nonzero eigenvalues of autograd's Hessian in v and g at the minima, for |v| = g/c, or at the best c."""
    found = []
    for one in problems(case) if c else problems(case)[:4]:
        g, length = one.w.norm(), c or one.best()
        loss = lambda s, one=one: (lambda e: e @ one.A @ e)(weight_norm(s["v"][None], s["g"][None])[0] - one.w) / 2
        values = torch.linalg.eigvalsh(hessian(loss, {"v": one.w / length, "g": g}))
        found.append(values[values.abs().argsort()[1:]].sort().values)
    return found


# Margins under noisy statistics

TRIES, HIDDEN, POINTS = 40, 16, 40
PARTS = (40, 20, 10, 5)
LEVEL, STEPS = 0.03, 1500


class Fit(NamedTuple):
    """Distance of each sample to the other class's region, and which networks have all samples right."""

    distances: Tensor
    fitted: Tensor


@shared
def arcs(case: Case) -> tuple[Tensor, Tensor]:
    """Two interleaved noisy arcs for each try: inputs (tries, points, 2) and labels (points)."""
    g, y = case.generator("arcs"), torch.arange(POINTS) % 2 * 2.0 - 1
    t = pi * torch.rand(TRIES, POINTS, generator=g)
    X = torch.stack([t.cos(), t.sin()], 2) * y[:, None] - y[:, None] * torch.tensor([0.5, 0.15])
    return X + 0.08 * torch.randn(TRIES, POINTS, 2, generator=g), y


def logits(P: list[Tensor], X: Tensor, reference: Tensor | None = None) -> Tensor:
    """Outputs (tries, parts, samples); every part has its own statistics unless given a reference sample."""
    z = X @ P[0][:, None]
    given = z if reference is None else reference @ P[0][:, None]
    variance, mean = torch.var_mean(given, 2, keepdim=True, correction=0)
    hat = (z - mean) / (variance + 1e-5).sqrt()
    return (torch.relu(P[1][:, None] * hat + P[2][:, None]) @ P[3][:, None]).squeeze(3) + P[4][:, None]


def measured(P: list[Tensor], X: Tensor, y: Tensor) -> Fit:
    """Distances in the plane, found on a grid, with the statistics of the full training set."""
    line = torch.linspace(-2.2, 2.2, 81)
    mesh, reference = torch.cartesian_prod(line, line), X[:, None]
    side = logits(P, mesh.expand(TRIES, 1, -1, 2), reference)[:, 0]
    own = logits(P, reference, reference)[:, 0] * y > 0
    there = torch.stack([torch.where(side > 0, 0.0, 9.0), torch.where(side < 0, 0.0, 9.0)], 1)
    away = torch.cdist(X, mesh) + torch.where((y > 0)[None, :, None], there[:, 1:], there[:, :1])
    return Fit(torch.where(own, away.amin(2), 0.0), own.all(1))


@shared
def noisy(case: Case, part: int, steps: int = STEPS) -> dict[str, Fit]:
    """Networks with one hidden layer under descent on all samples, normalised in random parts of this size.

    At the end, and at the first of every ten steps at which the loss with full statistics is below 0.03. Data and
    starts are those of all sizes.
    """
    (X, y), g, shuffled = arcs(case), case.generator("start"), case.generator("order")
    shapes = [(2, HIDDEN), (1, HIDDEN), (1, HIDDEN), (HIDDEN, 1), (1, 1)]
    P = [torch.randn(TRIES, *s, generator=g) / s[0] ** 0.5 for s in shapes]
    P[1], P[2], P[4] = torch.ones_like(P[1]), torch.zeros_like(P[2]), torch.zeros(TRIES, 1)
    stopped, hit = [p.clone() for p in P], torch.zeros(TRIES, dtype=torch.bool)
    softplus = torch.nn.functional.softplus
    for k in range(steps):
        if k % 10 == 0:
            now = (softplus(-y * logits(P, X[:, None])[:, 0]).mean(1) < LEVEL) & ~hit
            stopped = [torch.where(now.view(-1, *[1] * (p.ndim - 1)), p, q) for p, q in zip(P, stopped, strict=True)]
            hit = hit | now
        rows = torch.randperm(POINTS, generator=shuffled)
        P = [p.requires_grad_() for p in P]
        f = logits(P, X[:, rows].reshape(TRIES, -1, part, 2))
        loss = softplus(-y[rows].reshape(-1, part) * f).mean((1, 2)).sum()
        P = [(p - 0.3 * s).detach() for p, s in zip(P, torch.autograd.grad(loss, P), strict=True)]
    level = measured(stopped, X, y)
    return {"steps": measured(P, X, y), "loss": Fit(level.distances, level.fitted & hit)}


@shared
def gains(case: Case, part: int, stop: str, of: str, steps: int = STEPS) -> Tensor:
    """By how much noise changes the least or the mean distance, over tries in which both networks fit.

    Raises:
        Unfinished: in fewer than twenty both fit.
    """
    with_noise, without = noisy(case, part, steps)[stop], noisy(case, 40, steps)[stop]
    both = with_noise.fitted & without.fitted
    if both.sum() < 20:
        raise Unfinished(f"with parts of {part} both networks fit in {int(both.sum())} of {TRIES} tries")
    value = lambda one: one.distances.amin(1) if of == "least" else one.distances.mean(1)
    return (value(with_noise) - value(without))[both]

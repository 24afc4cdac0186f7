"""Runs of the quotient of section 4 of paper C: units, a network of two normalised layers, flows in two metrics."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torch.nn import functional as F

from claimbook.evidence import Case, shared
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.motion.flows import gradient, integrate
from normdyn.networks.losses import cross_entropy
from normdyn.networks.normalizers import batch_norm, normalized_mlp

Normaliser = Callable[[Tensor], Tensor]
INPUTS, WIDTHS = 4, (4, 6, 5, 3)
SHAPES = [shape for n, m in zip(WIDTHS, WIDTHS[1:], strict=False) for shape in ((m, n), (m,))]
SIZES = [math.prod(shape) for shape in SHAPES]
LAYER = torch.repeat_interleave(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor(SIZES))
RADII = ((0.1, 3.0), (50.0, 0.02))
TIMES, STARTS = torch.linspace(0, 4, 21, dtype=torch.float64), (0.5, 1.0, 2.0)


def raw(z: Tensor) -> Tensor:
    return z


def unit(u: Tensor) -> Tensor:
    return u / u.norm()


def rank(M: Tensor) -> float:
    return float(torch.linalg.matrix_rank(M, rtol=1e-10))


# One unit


class Fibre(NamedTuple):
    """Weights and bias of one unit, its outputs as a function of them, and points said to be the same unit."""

    p: Tensor
    outputs: Callable[[Tensor], Tensor]


@shared
def one_unit(case: Case, normaliser: Normaliser) -> list[Fibre]:
    """Five units of four weights and a bias on thirty samples."""
    found = []
    for k in range(5):
        X, p = normal(case, f"C quotient {k} X", 30, INPUTS), normal(case, f"C quotient {k} p", INPUTS + 1)
        outputs = lambda p, X=X: normaliser((X @ p[:INPUTS] + p[INPUTS])[:, None])[:, 0]
        found.append(Fibre(p, outputs))
    return found


@shared
def same_unit(case: Case, normaliser: Normaliser, shift: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    """Outputs at scaled parameters with the bias moved, and at the parameters themselves."""
    last = torch.eye(INPUTS + 1, dtype=torch.float64)[INPUTS]
    return [
        (one.outputs(scale * one.p + shift * last), one.outputs(one.p))
        for one in one_unit(case, normaliser) for scale in (1e-3, 2.7, 400.0)
    ]  # fmt: skip


# A metric


@shared
def vectors(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A weight vector of seven entries and two moves, five times."""
    return [tuple(normal(case, f"C metric {k}", 3, 7)) for k in range(5)]  # type: ignore[misc]


@shared
def directions(case: Case, power: int, radius: float, speed: float = 1.0) -> Tensor:
    """Unit vectors along the flow ``-|w|^power grad L`` from one direction at a radius; three losses of a unit."""
    found = []
    for k in range(3):
        X = normal(case, f"C scale-free {k}", 40, 2)
        loss = lambda s, X=X: torch.nn.functional.softplus(
            -X[:, 0].sign() * batch_norm((X @ s["w"])[:, None])[:, 0]
        ).mean()
        slope = gradient(loss)
        field = lambda s, slope=slope: {"w": -(s["w"].norm() ** power) * slope(s)["w"]}
        start = {"w": radius * torch.tensor([-0.8, 0.6], dtype=torch.float64)}
        found.append(integrate(field, start, TIMES / speed, record={"u": lambda s: unit(s["w"])}, relative=1e-10)["u"])
    return torch.stack(found)


# A network of two normalised layers


class Net(NamedTuple):
    """Inputs, labels and the parameters of a network in one vector."""

    Z: Tensor
    y: Tensor
    theta: Tensor

    def logits(self, theta: Tensor, normaliser: Normaliser = batch_norm) -> Tensor:
        parts = [part.reshape(shape) for part, shape in zip(theta.split(SIZES), SHAPES, strict=True)]
        return normalized_mlp(
            parts[::2], self.Z, normalizer=normaliser, activation=torch.tanh, biases=parts[1::2]
        )  # fmt: skip

    def loss(self, theta: Tensor, normaliser: Normaliser = batch_norm) -> Tensor:
        return cross_entropy(self.logits(theta, normaliser), self.y)


@shared
def nets(case: Case) -> list[Net]:
    """Three networks of tanh units with biases on sixty samples of three classes."""
    return [
        Net(normal(case, f"C net {k} Z", 60, 4), torch.arange(60) % 3, normal(case, f"C net {k}", sum(SIZES)) / 2)
        for k in range(3)
    ]


def with_batch(one: Net) -> Normaliser:
    return batch_norm


def without(one: Net) -> Normaliser:
    return raw


def with_stored(one: Net) -> Normaliser:
    """The statistics that the layers had at the network's own parameters, as at inference."""
    kept = {}

    def remember(z: Tensor) -> Tensor:
        kept[z.shape[1]] = z.mean(0).detach(), z.var(0, correction=0).detach()
        return batch_norm(z)

    one.logits(one.theta, remember)
    return lambda z: batch_norm(z, statistics=kept[z.shape[1]])


def at_radii(one: Net, r: Tensor) -> Tensor:
    """Parameters whose first two layers are multiplied, weights and biases together."""
    return torch.where(LAYER == 0, r[0], torch.where(LAYER == 1, r[1], 1.0)) * one.theta


@shared
def by_radius(case: Case, statistics: Callable[[Net], Normaliser]) -> list[tuple[float, float, Tensor]]:
    """Loss at other radii of two layers, at their own, and its derivatives in their logarithms there."""
    found = []
    for one in nets(case):
        normaliser = statistics(one)
        value = lambda r, one=one, normaliser=normaliser: one.loss(at_radii(one, r), normaliser)
        own = value(torch.ones(2, dtype=torch.float64)).item()
        for pair in RADII:
            r = torch.tensor(pair, dtype=torch.float64)
            found.append((value(r).item(), own, r * grad(value)(r)))
    return found


@shared
def on_unit_vectors(case: Case) -> list[float]:
    """Loss of the networks of :func:`by_radius` with both layers of unit length, by torch's own functions."""
    found = []
    for one in nets(case):
        W1, b1, W2, b2, W3, b3 = (p.reshape(s) for p, s in zip(one.theta.split(SIZES), SHAPES, strict=True))
        H = one.Z
        for W, b in ((W1, b1), (W2, b2)):
            r = torch.cat([W.flatten(), b]).norm()
            H = torch.tanh(F.batch_norm(F.linear(H, W / r, b / r), None, None, training=True, eps=1e-30))
        found += [F.cross_entropy(F.linear(H, W3, b3), one.y).item()] * len(RADII)
    return found


@shared
def on_the_sphere(case: Case, statistics: Callable[[Net], Normaliser]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """First layers of unit length, slopes along great circles in all tangent directions, and the whole gradient."""
    found, size = [], SIZES[0] + SIZES[1]
    for one in nets(case):
        normaliser = statistics(one)
        value = lambda w, one=one, nf=normaliser: one.loss(torch.cat([w, one.theta[size:]]), nf)
        u = unit(one.theta[:size])
        frame = torch.linalg.svd(u[None])[2][1:]  # orthonormal, across the radius
        slopes = [
            jacfwd(lambda t, e=e, value=value, u=u: value(t.cos() * u + t.sin() * e))(torch.zeros((), dtype=u.dtype))
            for e in frame
        ]
        found.append((u, torch.stack(slopes) @ frame, grad(value)(u)))
    return found


class Information(NamedTuple):
    """Fisher information of the softmax outputs, the scale directions of two layers, and the gradient of the loss."""

    F: Tensor
    scales: Tensor
    g: Tensor


@shared
def information(case: Case, statistics: Callable[[Net], Normaliser]) -> list[Information]:
    found = []
    for one in nets(case):
        normaliser = statistics(one)
        J = jacrev(lambda t, one=one, normaliser=normaliser: one.logits(t, normaliser))(one.theta)
        p = one.logits(one.theta, normaliser).softmax(1)
        M = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        F = torch.einsum("nca,ncd,ndb->ab", J, M, J) / len(p)
        scales = torch.stack([torch.where(LAYER == l, one.theta, 0.0) for l in (0, 1)])
        found.append(Information((F + F.mT) / 2, scales, grad(lambda t, one=one: one.loss(t))(one.theta)))
    return found


# Curvature in polar coordinates


class Wave(NamedTuple):
    """A loss on the plane that depends on the angle, and a little on the radius if ``radial`` is not zero."""

    c: Tensor
    s: Tensor
    radial: float

    def at(self, w: Tensor) -> Tensor:
        angle, orders = torch.atan2(w[1], w[0]), torch.arange(1, 5, dtype=w.dtype)
        return (self.c * (orders * angle).cos() + self.s * (orders * angle).sin()).sum() + self.radial * w.norm()


ANGLES, LENGTHS = torch.linspace(-3.1, 3.1, 125, dtype=torch.float64), (0.5, 1.0, 4.0)


@shared
def waves(case: Case, radial: float = 0.0) -> list[Wave]:
    return [Wave(*normal(case, f"C wave {k}", 2, 4), radial) for k in range(3)]


@shared
def frames(case: Case, radial: float = 0.0) -> list[Tensor]:
    """Hessians in the orthonormal polar frame at every angle, one item a loss and a radius, ``(angles, 2, 2)``."""
    cos, sin = ANGLES.cos(), ANGLES.sin()
    e = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    second = lambda wave, r: vmap(hessian(wave.at))(r * e[:, 0])
    return [e @ second(wave, r) @ e.mT for wave in waves(case, radial) for r in LENGTHS]

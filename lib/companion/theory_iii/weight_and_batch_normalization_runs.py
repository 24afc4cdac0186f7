"""Runs of section 6 of paper D: one layer at an instant, normalised networks that train, flows in logarithmic time.

Labels are absorbed: ``x`` stands for ``y x``. A *drive* is minus the gradient in what the network sees.
"""

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import BatchNorm1d, Linear, Sequential
from torch.nn.utils.parametrizations import weight_norm

from claimbook.evidence import Case, Unfinished, shared
from companion.theory_iii.hidden_complexity_control_runs import (
    generic,
    largest_margin,
    normal,
    separable,
    smooth_cube,
)
from normdyn.data.sets import digits
from normdyn.motion.flows import Field, Params, gradient, gradient_flow, integrate
from normdyn.networks.graphs import mlp
from normdyn.networks.normalizers import batch_norm, normalized_mlp
from normdyn.norms.margins import follow
from normdyn.symmetry.polar import from_polar, reparametrized, standardize_columns, to_polar

FOLLOWED = "integrator's tolerance of 1e-10 a step"

# One layer of a network of two, at an instant


class Layer(NamedTuple):
    """The first layer ``W`` of a tanh network, its length and direction, and the drive at it."""

    loss: Callable[[Tensor], Tensor]
    W: Tensor
    length: Tensor
    direction: Tensor
    drive: Tensor


@shared
def layers(case: Case, size: float = 1.0, gain: float | None = None) -> list[Layer]:
    """Five networks; the directions have a norm, and the length of the layer may be set."""
    found = []
    for k in range(5):
        X, y = normal(case, f"layer {k} X", 8, 4), normal(case, f"layer {k} y", 8).sign()
        W, a = normal(case, f"layer {k} W", 5, 4) / 2, normal(case, f"layer {k} a", 5)
        W = W if gain is None else gain * W / W.norm()
        loss = lambda W, X=X, y=y, a=a: (-y * mlp([W, a[None]], X, activation=torch.tanh)[:, 0]).exp().sum()
        drive = -gradient(lambda p, loss=loss: loss(p["W"]))({"W": W})["W"]
        found.append(Layer(loss, W, W.norm(), size * W / W.norm(), drive))
    return found


@shared
def raw_norms(case: Case, decay: float) -> list[Tensor]:
    """Norm of v along the flow of weight normalisation, of three networks from norm 1.5; v may decay."""
    found = []
    for k in range(3):
        X, y = normal(case, f"flow {k} X", 8, 4), normal(case, f"flow {k} y", 8).sign()
        W = {"A": normal(case, f"flow {k} A", 5, 4) / 2, "B": normal(case, f"flow {k} B", 1, 5)}
        net = lambda p, X=X: mlp([p["A"], p["B"]], X, activation=torch.tanh)[:, 0]
        flow = reparametrized(gradient_flow(lambda p, net=net, y=y: (-y * net(p)).exp().mean()), "weight normalization")
        field = lambda p, flow=flow: {n: x - decay * p[n] * n.endswith("direction") for n, x in flow(p).items()}
        path = integrate(field, to_polar(W, size=1.5), torch.linspace(0, 0.5, 3), relative=1e-11)
        found += [path[f"{name}.direction"].flatten(1).norm(dim=1) for name in W]
    return found


@shared
def ends(case: Case, system: str) -> list[Tensor]:
    """Weights of these networks at time one half, under the plain flow or in lengths and directions."""
    found = []
    for k in range(3):
        X, y = normal(case, f"flow {k} X", 8, 4), normal(case, f"flow {k} y", 8).sign()
        W = {"A": normal(case, f"flow {k} A", 5, 4) / 2, "B": normal(case, f"flow {k} B", 1, 5)}
        net = lambda p, X=X: mlp([p["A"], p["B"]], X, activation=torch.tanh)[:, 0]
        drive = gradient_flow(lambda p, net=net, y=y: (-y * net(p)).exp().mean())
        if system == "plain":
            path = integrate(drive, W, (0.0, 0.5), relative=1e-10)
        else:
            seen = {n: lambda p, n=n: from_polar(p)[n] for n in W}
            path = integrate(reparametrized(drive, system), to_polar(W), (0.0, 0.5), record=seen, relative=1e-10)
        found.append(torch.cat([path[n][-1].flatten() for n in W]))
    return found


# Batches


@shared
def batches(case: Case, role: str, columns: int, count: int = 5, samples: int = 6) -> list[Tensor]:
    return [normal(case, f"{role} {k}", samples, columns) for k in range(count)]


@shared
def inputs_of_a_unit(case: Case, orthogonal: bool = False) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs (7 samples, 4 features), weights and targets; orthogonal inputs have as many features as samples."""
    found = []
    for k in range(5):
        X = normal(case, f"unit {k} X", 7, 7 if orthogonal else 4)
        X = torch.linalg.qr(X)[0] if orthogonal else X
        found.append((X, normal(case, f"unit {k} w", X.shape[1]), normal(case, f"unit {k} y", 7)))
    return found


@shared
def raw_motion(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows of raw weights under batch normalisation, their velocity, and the drive of the same units without it."""
    found = []
    for k in range(3):
        X, y = normal(case, f"raw {k} X", 8, 4), normal(case, f"raw {k} y", 8).sign()
        W, a = normal(case, f"raw {k} W", 5, 4), normal(case, f"raw {k} a", 1, 5)
        free = lambda W, X=X, y=y, a=a: (-y * (torch.tanh(X @ W.mT) @ a.mT)[:, 0]).exp().mean()
        kept = lambda W, X=X, y=y, a=a: (-y * normalized_mlp([W, a], X, activation=torch.tanh)[:, 0]).exp().mean()
        h, moved = -torch.func.grad(free)(W), -torch.func.grad(kept)(W)
        found += list(zip(W, moved, h, strict=True))
    return found


@shared
def signal_motion(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Normalised signals of one unit over the batch, their velocity, and that of the signals before."""
    found = []
    for X, w, y in inputs_of_a_unit(case):
        hat = lambda w, X=X: standardize_columns((X @ w)[:, None], center=False)[:, 0]
        moved = -torch.func.grad(lambda w, y=y, hat=hat: (-y * hat(w)).exp().sum())(w)
        found.append((hat(w), torch.func.jvp(hat, (w,), (moved,))[1], X @ moved))
    return found


NORMALISED = {
    "batch": lambda m, n: Sequential(Linear(m, n, bias=False), BatchNorm1d(n, eps=1e-30, affine=False)),
    "weight": lambda m, n: weight_norm(Linear(m, n, bias=False)),
}


@shared
def signals(case: Case, kind: str, factor: float, steps: int = 30) -> list[Tensor]:
    """What each unit of two hidden layers receives on the batch, in torch's own layers, after some steps of training.

    One tensor (samples, units) a layer, of five networks; at the end the weights are scaled, or the gains of weight
    normalisation, which has no other weights that count.
    """
    found = []
    for k in range(5):
        blocks = [NORMALISED[kind](m, n).double() for m, n in ((5, 6), (6, 6))]
        H, y = normal(case, f"signals {k} X", 40, 5), normal(case, f"signals {k} y", 40).sign()
        last = normal(case, f"signals {k} last", 6).requires_grad_()
        raw = [p for b in blocks for p in b.parameters() if p.dim() == 2 and p.shape[1] > 1]
        gains = [b.parametrizations.weight.original0 for b in blocks] if kind == "weight" else []
        with torch.no_grad():
            for j, p in enumerate(raw):
                p.copy_(normal(case, f"signals {k} {j}", *p.shape) / 4)
            for p in gains:
                p.fill_(1.0)
        free = [*dict.fromkeys([*raw, *gains]), last]
        seen = lambda blocks=blocks, H=H: (first := blocks[0](H), blocks[1](first.relu()))
        for _ in range(steps):
            loss = (-y * (seen()[1].relu() @ last)).exp().mean()
            for p, g in zip(free, torch.autograd.grad(loss, free), strict=True):
                p.data -= 0.1 * g / (1 + g.norm())
        with torch.no_grad():
            for p in raw if kind == "batch" else gains:
                p *= factor
            found += [s.detach() for s in seen()]
    return found


@shared
def rows_along_the_flow(case: Case, system: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Weights of both hidden layers before and after a stretch of flow, and the layer's inputs after it.

    ``batch``: batch normalisation of every unit, means subtracted. ``whole``: weight normalisation of whole layers, as
    the paper has it; then the weights are the directions v.
    """
    found = []
    for k in range(2):
        X, y = normal(case, f"rows {k} X", 12, 4), normal(case, f"rows {k} y", 12).sign()
        X = X @ (torch.eye(4).double() + 0.5 * normal(case, f"rows {k} mixing", 4, 4))
        shapes = {"A": (5, 4), "B": (4, 5), "C": (1, 4)}
        W = {n: normal(case, f"rows {k} {n}", *shape) / 2 for n, shape in shapes.items()}
        net = {"batch": lambda w, X=X: normalized_mlp(w, X, normalizer=batch_norm, activation=torch.tanh),
               "whole": lambda w, X=X: mlp(w, X, activation=torch.tanh)}[system]  # fmt: skip
        drive = gradient_flow(lambda p, net=net, y=y: (-y * net(list(p.values()))[:, 0]).exp().mean())
        if system == "batch":
            path = integrate(drive, W, (0.0, 0.5, 1.0), relative=1e-10)
        else:
            flow, start = reparametrized(drive, "weight normalization"), to_polar(W)
            path = integrate(flow, start, (0.0, 0.5, 1.0), relative=1e-10)
            path = {n: path[f"{n}.direction"] for n in W}
        H = X
        for n in ("A", "B"):
            found.append((path[n][0], path[n][-1], H))
            Z = H @ path[n][-1].mT
            H = torch.tanh(batch_norm(Z) if system == "batch" else Z)
    return found


# Coarse and fine steps on real images

METHODS = ("plain", "coefficient", "weight")
FINE, COARSE, DRAWS, LEVEL = (0.003, 0.006), (0.01, 0.02, 0.03), 12, 0.2


class Trained(NamedTuple):
    """Shares of wrong test images, (steps, draws): at the first fit, at the loss :data:`LEVEL`, and at the end.

    ``fitted`` says which networks classify all training images at the end.
    """

    fit: Tensor
    level: Tensor
    end: Tensor
    fitted: Tensor


def advance(method: str, V: Tensor, g: Tensor, h: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """One step of directions ``V`` (draws, steps, weights) and lengths ``g``; ``h`` is the drive at ``g V / |V|``."""
    n, e = V.norm(dim=2, keepdim=True), eta[:, None]
    u = V / n
    along = (u * h).sum(2, keepdim=True)
    if method == "plain":
        W = g[..., None] * u + e * h
        return W / W.norm(dim=2, keepdim=True), W.norm(dim=2)
    step = g[..., None] * (h if method == "coefficient" else (h - u * along) / n)
    new = V + e * step
    return new / new.norm(dim=2, keepdim=True) if method == "coefficient" else new, g + eta * along[..., 0]


@shared
def on_digits(
    case: Case, method: str, etas: tuple[float, ...], steps: int = 1500, samples: int = 50, width: int = 16
) -> Trained:
    """Digits below five against the others: two layers of ReLUs, exponential loss, equal steps; twelve draws."""
    data, role = digits(), f"digits {width}"
    images, signs = data.inputs.flatten(1).float(), (2.0 * (data.labels >= 5) - 1).float()
    orders = [torch.randperm(len(images), generator=case.generator(f"{role} {k}")) for k in range(DRAWS)]
    X, y = (torch.stack([x[o[:samples]] for o in orders]) for x in (images, signs))
    unseen, truth = (torch.stack([x[o[-1000:]] for o in orders]) for x in (images, signs))
    E, eta = len(etas), torch.tensor(etas)
    A, B = (normal(case, f"{role} {name}", DRAWS, n).float() for name, n in (("in", width * 64), ("out", width)))
    A, B = (0.18 * A)[:, None].repeat(1, E, 1), (B / width**0.5)[:, None].repeat(1, E, 1)
    (gA, A), (gB, B) = ((W.norm(dim=2), W / W.norm(dim=2, keepdim=True)) for W in (A, B))
    fit, level = torch.full((DRAWS, E), torch.nan), torch.full((DRAWS, E), torch.nan)
    for t in range(steps + 1):
        WA, WB = (g[..., None] * V / V.norm(dim=2, keepdim=True) for g, V in ((gA, A), (gB, B)))
        hidden = lambda X, WA=WA: (WA.view(DRAWS, -1, 64) @ X.mT).view(DRAWS, E, width, -1)
        Z = hidden(X)
        f = (WB[:, :, None] @ Z.relu())[:, :, 0] * y[:, None]
        force = (-f).exp() / samples
        if t % 10 == 0 or t == steps:
            wrong = ((WB[:, :, None] @ hidden(unseen).relu())[:, :, 0] * truth[:, None] <= 0).float().mean(2)
            fit = torch.where(fit.isnan() & (f > 0).all(2), wrong, fit)
            level = torch.where(level.isnan() & (force.sum(2) < LEVEL) & (f > 0).all(2), wrong, level)
        pull = force * y[:, None]
        hB = (Z.relu() @ pull[..., None])[..., 0]
        hA = ((Z > 0) * WB[..., None] * pull[:, :, None]).view(DRAWS, -1, samples) @ X
        A, gA = advance(method, A, gA, hA.view(DRAWS, E, -1), eta)
        B, gB = advance(method, B, gB, hB, eta)
    return Trained(fit.mT.double(), level.mT.double(), wrong.mT.double(), (f > 0).all(2).mT)


def leads(case: Case, methods: tuple[str, str], stop: str, steps: int, samples: tuple[int, int]) -> list[Tensor]:
    """By how much the second method's share of wrong images is lower, one row a step size, one entry a draw.

    Draws count in which all normalised networks fit and come to that stop.

    Raises:
        Unfinished: these are fewer than nine of the twelve.
    """
    a, b = (on_digits(case, method, FINE, steps, n) for method, n in zip(methods, samples, strict=True))
    wrong = getattr(a, stop) - getattr(b, stop)
    fitted = b.fitted if methods[0] == "plain" else a.fitted & b.fitted
    kept = [row[good & row.isfinite()] for row, good in zip(wrong, fitted, strict=True)]
    if min(map(len, kept)) < 9:
        raise Unfinished(f"{methods[1]} descent: networks have not fitted, or not reached the stop '{stop}'")
    return kept


# Where normalised flows end


def moments(P: Tensor) -> Tensor:
    """Second moments of the batch, means left in."""
    return P.mT @ P / len(P)


def direction(w: Tensor) -> Tensor:
    return w / w.norm()


@shared
def square_sets(case: Case, white: bool = False) -> list[Tensor]:
    """As many samples as inputs, three, for which the two margins ask for directions far apart; or whitened ones."""
    found, k = [], 0
    while len(found) < 3:
        P, k = separable(case, f"square {k}", 3, 3) * torch.tensor([1.0, 0.5, 2.0]).double(), k + 1
        try:
            apart = (shortest(P) - direction(torch.linalg.solve(P, torch.ones(3).double()))).norm()
        except ValueError:
            continue
        if apart > 0.3 and torch.linalg.cond(P) < 12 and generic(P):
            found.append(torch.linalg.qr(P)[0] * torch.linalg.qr(P)[0].sum(1, keepdim=True).sign() if white else P)
    return found


def shortest(P: Tensor) -> Tensor:
    """Direction of the largest Euclidean margin: the shortest ``w`` with ``P w >= 1``, over all sets of active rows."""
    best = None
    for size in range(1, len(P) + 1):
        for chosen in combinations(range(len(P)), size):
            A = P[list(chosen)]
            w = A.mT @ torch.linalg.lstsq(A @ A.mT, torch.ones(size).double()[:, None]).solution[:, 0]
            if (P @ w > 1 - 1e-9).all() and (best is None or w.norm() < best.norm()):
                best = w
    if best is None:
        raise ValueError("no set of active rows is feasible")
    return direction(best)


@shared
def late_motion(case: Case, kind: str, white: bool, s: float) -> list[Tensor]:
    """Unit vectors along which a normalised linear unit moves between log t = s and 2 s, for the square sets."""
    return [_moved(P, kind, s) for P in square_sets(case, white)]


def _moved(P: Tensor, kind: str, s: float) -> Tensor:
    metric = moments(P) if kind == "batch" else None
    limit = largest_margin(P, metric)
    path = follow(
        P, limit.direction + 0.3, (s, 2 * s), frame=limit.direction / limit.margin, metric=metric,
        system=f"{kind} normalization",
    )  # fmt: skip
    return direction(path["vector"][1] - path["vector"][0])


@shared
def losses_left(case: Case, kind: str, white: bool, s: float) -> list[Tensor]:
    """Losses along the limit at log t = 2 s, from the margins of the direction of motion."""
    pairs = zip(square_sets(case, white), late_motion(case, kind, white, s), strict=True)
    return [(-2 * s * P @ u).exp().sum() for P, u in pairs]


SIGNS = torch.tensor([1.0, -1, 1, -1, 1, -1], dtype=torch.float64)
KINDS = ("means in", "means out", "two batches")
SCAN = torch.linspace(-torch.pi, torch.pi, 20_001, dtype=torch.float64)
CIRCLE = torch.stack([SCAN.cos(), SCAN.sin()], 1)


def own_margins(P: Tensor, kind: str) -> Tensor:
    """Margins of all samples in all directions of the plane, relative to the moments of the sample's batch.

    With the means out there is a shift beside the gain, and the two together have norm one; the best pair counts.
    """
    if kind == "two batches":
        Z = (CIRCLE @ P.mT).view(len(CIRCLE), 2, -1)
        return (Z / Z.square().mean(2, keepdim=True).sqrt()).flatten(1)
    Z = CIRCLE @ (P if kind == "means in" else SIGNS[:, None] * P).mT
    Z = Z if kind == "means in" else Z - Z.mean(1, keepdim=True)
    Z = Z / Z.square().mean(1, keepdim=True).sqrt()
    if kind == "means in":
        return Z
    low, high = Z[:, SIGNS > 0].amin(1, keepdim=True), Z[:, SIGNS < 0].amax(1, keepdim=True)
    turn = torch.atan2(
        -(low + high), torch.tensor(2.0).double()
    )  # gain cos, shift sin: worst samples of both signs tie
    return SIGNS * (turn.cos() * Z + turn.sin())


@shared
def plane_sets(case: Case, kind: str) -> list[Tensor]:
    """Two sets of six samples in the plane with exactly two on the margin in their own norm, far from the Euclidean."""
    found, k = [], 0
    while len(found) < 2:
        P, k = separable(case, f"{kind} {k}", 6, 2), k + 1
        margins = own_margins(P, kind)
        best = margins.amin(1).argmax()
        least = margins[best].sort().values
        clear = least[2] > 1.3 * least[1] and least[1] < 1.01 * least[0] and least[0] > 0
        if clear and (CIRCLE[best] - shortest(P)).norm() > 0.25:
            found.append(P)
    return found


def drive_of_unit(P: Tensor, kind: str) -> Field:
    """Minus the gradient of the logarithm of the loss of one normalised unit, by hand, as it is asked for so often.

    The unit has a gain g, weights w, and a shift b with the means out.
    """
    out = kind == "means out"
    signs = SIGNS.numpy() if out else np.ones(len(P))
    X = SIGNS[:, None] * P
    data = (X - X.mean(0) if out else P).numpy()
    batches_of = 2 if kind == "two batches" else 1

    def field(p: Params) -> Params:
        Z = (data @ p["w"].numpy()).reshape(batches_of, -1)
        s = np.sqrt((Z**2).mean(1, keepdims=True))
        hat = Z / s
        f = signs * (p["g"].item() * hat.ravel() + (p["b"].item() if out else 0.0))
        force = np.exp(f.min() - f)
        c = signs * force / force.sum()
        dhat = p["g"].item() * c.reshape(batches_of, -1)
        dZ = (dhat - hat * (dhat * hat).mean(1, keepdims=True)) / s
        found = {"g": torch.tensor(c @ hat.ravel()), "w": _t(dZ.ravel() @ data)}
        return found | ({"b": torch.tensor(c.sum())} if out else {})

    return field


def _t(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


@shared
def marches(case: Case, kind: str, s: float) -> list[Tensor]:
    """Gain times direction at s, 2 s and 4 s, one row a time, in a clock in which s is near log t."""
    found = []
    for P in plane_sets(case, kind):
        start = {"g": torch.ones(()).double(), "w": shortest(P)}
        start |= {"b": torch.zeros(()).double()} if kind == "means out" else {}
        drive, clock = drive_of_unit(P, kind), (0.0, s, 2 * s, 4 * s)
        path = integrate(drive, start, clock, method="BDF", relative=1e-7, absolute=1e-9)
        found.append((path["g"][:, None] * path["w"] / path["w"].norm(dim=1, keepdim=True))[1:])
    return found


def unit_by_kind(case: Case, kind: str, reach: float) -> list[Tensor]:
    """Directions in which gain times direction moves from s = 400 to 800, or from 800 to 1600."""
    k = int(reach) - 1
    return [direction(path[k + 1] - path[k]) for path in marches(case, kind, 400.0)]


# In depth

DEPTH_LEVELS, HIDDEN, NETS = (25.0, 400.0), (2, 3), 8


class Behind(NamedTuple):
    """A network with normalised hidden units: the weights that these effectively have, shifts and last weights.

    ``pull`` is the gradient of the outputs, weighted by their forces, in all of them, in the plain network that has the
    same outputs.
    """

    weights: Tensor
    rest: Tensor
    covariance: Tensor
    pull: Tensor


@shared
def behind_normalisation(case: Case, hidden: int) -> list[list[Behind]]:
    """Networks with gains and shifts, means out, units z^3/|z|^2, followed until the smallest output has both levels.

    Raises:
        Unfinished: a network did not come to a level.
    """
    return [_raised(case, f"behind {hidden} {k}", hidden) for k in range(NETS)]


def downhill(X: Tensor) -> Field:
    """Minus the gradient of the logarithm of the loss of such a network, by hand, as it is asked for so often."""
    data, signs = X.numpy(), SIGNS.numpy()

    def field(p: Params) -> Params:
        w, g, b, a = (p[name].numpy() for name in "wgba")
        Z = data @ w.T
        s = np.sqrt((Z**2).mean(0))
        hat = Z / s
        H = g * hat + b
        q = (H**2).sum(1, keepdims=True)
        out = signs * (H**3 @ a) / q[:, 0]
        force = np.exp(out.min() - out)
        c = (signs * force / force.sum())[:, None] * a
        dH = 3 * c * H**2 / q - 2 * H * (c * H**3).sum(1, keepdims=True) / q**2
        dhat = dH * g
        dZ = (dhat - hat * (dhat * hat).mean(0)) / s
        da = (signs * force / force.sum()) @ (H**3 / q)
        return {"w": _t(dZ.T @ data), "g": _t((dH * hat).sum(0)), "b": _t(dH.sum(0)), "a": _t(da)}

    return field


def _raised(case: Case, role: str, hidden: int) -> list[Behind]:
    X = SIGNS[:, None] * separable(case, role, 6, 2)
    X = X - X.mean(0)
    plain = lambda W, b, a: SIGNS * (smooth_cube(X @ W.mT + b) @ a)
    p = {"w": normal(case, f"{role} w", hidden, 2), "g": torch.ones(hidden).double()}
    p |= {"b": 0.1 * normal(case, f"{role} b", hidden), "a": normal(case, f"{role} a", hidden)}
    effective = lambda p: p["g"][:, None] * p["w"] / (X @ p["w"].mT).std(0, correction=0)[:, None]
    f = lambda p: plain(effective(p), p["b"], p["a"])
    found, clock = [], 0.0
    for level in DEPTH_LEVELS:
        while f(p).min() < level:
            step, clock = 0.4 if f(p).min() < 10 else 0.2, clock + 0.4
            if clock > 40:
                raise Unfinished(f"{role}: the smallest output stays at {f(p).min():.1f}")
            path = integrate(downhill(X), p, (0.0, step), method="LSODA", relative=1e-6, absolute=1e-8)
            p = {name: path[name][1] for name in p}
        W, force = effective(p), torch.softmax(-f(p), 0)
        slopes = torch.func.grad(lambda W, b, a, force=force: force @ plain(W, b, a), (0, 1, 2))(W, p["b"], p["a"])
        pull = torch.cat([x.flatten() for x in slopes])
        found.append(Behind(W, torch.cat([p["b"], p["a"]]), moments(X), direction(pull)))
    return found


# The figure

FIGURE_POINTS = torch.tensor([[2.2, 2.0], [1.3, 0.4], [1.3, -1.0], [1.8, 1.3], [2.3, 1.2]], dtype=torch.float64)
CLOCK = torch.logspace(0, 3, 31).double()


@shared
def figure_paths(kind: str) -> Tensor:
    """Effective weights of a normalised unit at logarithmic times, one row a time."""
    metric = moments(FIGURE_POINTS) if kind == "batch" else None
    limit, start = largest_margin(FIGURE_POINTS, metric), torch.tensor([0.5, 1.0]).double()
    clock = CLOCK if kind == "batch" else CLOCK[CLOCK <= 410]
    return follow(
        FIGURE_POINTS, start, clock, frame=limit.direction / limit.margin, metric=metric, relative=1e-7,
        system=f"{kind} normalization",
    )["vector"]  # fmt: skip

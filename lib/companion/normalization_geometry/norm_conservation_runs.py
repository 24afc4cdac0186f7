"""Runs of section 5.1 of paper C, its first half: flows and steps of normalised networks, and one unit under noise.

Networks are those of :mod:`companion.normalization_geometry.invariances_runs`, tanh with gains, shifts and biases.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.normalization_geometry.invariances_runs import networks, normalizer, outputs
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.motion.flows import Field, Params, gradient, gradient_flow, integrate
from normdyn.networks.graphs import mlp
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import normalize, normalize_backward, weight_norm

WIDTHS = (3, 6, 6, 2)
COUNT = 2  # networks
HIDDEN = ("W0", "W1")
CLOCK = torch.linspace(0, 0.5, 3).double()
CAREFUL = {"relative": 1e-10, "absolute": 1e-12}


def identity(z: Tensor) -> Tensor:
    return z


def fit(case: Case, k: int, kind: str, epsilon: float = 0.0) -> Callable[[Params], Tensor]:
    """Square loss of a network on the first of its batches."""
    X, Y = networks(case, WIDTHS)[k].batches[0]
    return lambda p: square_loss(outputs(p, X, kind, epsilon), Y)


@shared
def followed(case: Case, kind: str, epsilon: float = 0.0, biased: bool = True) -> list[Params]:
    """All parameters along the flow; without ``biased`` the hidden layers have no biases."""
    found = []
    for k in range(COUNT):
        start, free = dict(networks(case, WIDTHS)[k].params), gradient_flow(fit(case, k, kind, epsilon))
        if not biased:
            start |= {name: torch.zeros_like(start[name]) for name in ("b0", "b1")}
        still = () if biased else ("b0", "b1")
        field = lambda p, free=free, still=still: {n: v * (n not in still) for n, v in free(p).items()}
        found.append(integrate(field, start, CLOCK, **CAREFUL))
    return found


@shared
def weight_normalised(case: Case, decay: float = 0.0) -> list[tuple[Params, Params]]:
    """Paths of two layers with w = g v/|v| for each row, v at any length, and minus the velocities at the start."""
    found = []
    for k in range(COUNT):
        draw = lambda name, *shape, k=k: normal(case, f"C wn {k} {name}", *shape)
        X, y = draw("X", 20, 3), draw("y", 20, 1)
        start = {"v": draw("v", 4, 3), "g": 1 + draw("g", 4).abs(), "V": draw("V", 1, 4)}
        loss = lambda p, X=X, y=y: square_loss(mlp([weight_norm(p["v"], p["g"]), p["V"]], X, activation=torch.tanh), y)
        free = gradient_flow(loss)
        field = lambda p, free=free: {n: x - decay * p[n] * (n == "v") for n, x in free(p).items()}
        found.append((integrate(field, start, CLOCK, **CAREFUL), gradient(loss)(start)))
    return found


def row_norms(path: Params) -> Tensor:
    """Norms of all rows of hidden weights, times first."""
    return torch.cat([path[name].norm(dim=2) for name in HIDDEN], 1)


def layer_squares(path: Params) -> Tensor:
    """Squared norms of the weights of hidden layers, times first."""
    return torch.stack([path[name].square().sum((1, 2)) for name in HIDDEN], 1)


def whole_squares(path: Params) -> Tensor:
    """The same with their biases."""
    return layer_squares(path) + torch.stack([path[f"b{l}"].square().sum(1) for l in (0, 1)], 1)


def bias_sums(path: Params) -> Tensor:
    return torch.stack([path[f"b{l}"].sum(1) for l in (0, 1)], 1)


def biases(path: Params) -> Tensor:
    return torch.cat([path[f"b{l}"] for l in (0, 1)], 1)


class Kept(NamedTuple):
    """What a quantity is at the start, and later, one row a time; and its scale."""

    first: Tensor
    later: Tensor
    size: Tensor


def _kept(values: Tensor, size: Tensor | None = None) -> Kept:
    return Kept(values[:1].expand_as(values[1:]), values[1:], values[0].abs() if size is None else size)


@shared
def kept(
    case: Case, quantity: Callable[[Params], Tensor], kind: str, epsilon: float = 0.0, biased: bool = True
) -> list[Kept]:
    """A quantity of the hidden layers along the flow."""
    return [_kept(quantity(path)) for path in followed(case, kind, epsilon, biased)]


@shared
def kept_lengths(case: Case, decay: float) -> list[Kept]:
    """Norms of v along the flow of weight normalisation."""
    return [_kept(path["v"].norm(dim=2)) for path, _ in weight_normalised(case, decay)]


# Symmetries


class Moved(NamedTuple):
    """States (times, all) along a flow, forces there, and a generator: a matrix of a linear group, or a shift."""

    theta: Tensor
    force: Tensor
    generator: Tensor

    def tangent(self) -> Tensor:
        return self.theta @ self.generator.mT if self.generator.ndim == 2 else self.generator.expand_as(self.theta)


def _flat(p: Params) -> Tensor:
    return torch.cat([x.flatten() for x in p.values()])


def _moved(field: Field, path: Params, marks: list[tuple[bool, Params]]) -> list[Moved]:
    """A path with several generators, each given as entries of a diagonal, or of a shift, for some parameters."""
    states = [{n: x[t] for n, x in path.items() if n != "times"} for t in range(len(CLOCK))]
    theta, force = (torch.stack([_flat(q) for q in some]) for some in (states, [field(p) for p in states]))
    full = lambda mark: _flat({n: mark.get(n, torch.zeros_like(x)) for n, x in states[0].items()})
    return [Moved(theta, force, torch.diag(full(mark)) if linear else full(mark)) for linear, mark in marks]


@shared
def symmetric(case: Case, linear: bool, unbroken: bool = True) -> list[Moved]:
    """Scales of normalised layers and of two linear layers, or shifts; broken where nothing is normalised."""
    found, kind = [], "layer" if unbroken else "none"
    for k in range(COUNT):
        start = networks(case, WIDTHS)[k].params
        ones = {n: torch.ones_like(x) for n, x in start.items()}
        scales: list[tuple[bool, Params]] = [(True, {n: ones[n] for n in (f"W{l}", f"b{l}")}) for l in range(2)]
        column = torch.eye(3).double()[k] * ones["W0"]
        shifts: list[tuple[bool, Params]] = [(False, {"b0": ones["b0"]}), (False, {"W0": column})]
        path, field = followed(case, kind)[k], gradient_flow(fit(case, k, kind))
        found += _moved(field, path, scales if linear else shifts)
        if linear:
            X, Y = networks(case, WIDTHS)[k].batches[0]
            act, pair = identity if unbroken else torch.tanh, {n: start[n] for n in ("W0", "W2")}
            two = gradient_flow(lambda p, X=X, Y=Y, act=act: square_loss(mlp([p["W0"], p["W2"]], X, activation=act), Y))
            path = integrate(two, pair, CLOCK, **CAREFUL)
            found += _moved(two, path, [(True, {"W0": ones["W0"], "W2": -ones["W2"]})])
    return found


def quadratic(one: Moved) -> Tensor:
    """Half of it has the tangent for a gradient, where the generator is symmetric."""
    return (one.theta * one.tangent()).sum(1) if one.generator.ndim == 2 else one.theta @ one.generator


def component(one: Moved) -> Tensor:
    """Component along the direction that is invariant at the start."""
    return one.theta @ one.tangent()[0]


@shared
def charges(case: Case, charge: Callable[[Moved], Tensor], linear: bool, unbroken: bool) -> list[Kept]:
    """A charge of each symmetry along the flow."""
    size = lambda one: one.theta[0].norm() * one.tangent()[0].norm()
    return [_kept(charge(one), size(one)) for one in symmetric(case, linear, unbroken)]


@shared
def pushes(case: Case, unbroken: bool) -> list[tuple[Tensor, Tensor]]:
    """Inner products of forces with tangents, and products of their norms."""
    both = [*symmetric(case, False, unbroken), *symmetric(case, True, unbroken)]
    size = lambda one: one.force.norm(dim=1) * one.tangent().norm(dim=1)
    return [((one.force * one.tangent()).sum(1), size(one)) for one in both]


@shared
def screwed(case: Case, tilt: float = 0.0) -> list[tuple[Tensor, float]]:
    """Where four flows end that go round an orbit of a screw and back, with its pitch; tilted losses see more."""
    found = []
    for pitch in (0.5, 1.0, 2.0):
        near, far = 1.0, 1.0 + 0.5 * normal(case, "C screw", 1)[0].abs().item() + 0.5
        radius = lambda p: p["x"][:2].norm()
        helix = lambda p, h=pitch: torch.atan2(p["x"][1], p["x"][0]) - p["x"][2] / h + tilt * p["x"][2]
        turned = lambda r, h=pitch: 1 / (1 / r**2 + 1 / h**2)  # time in which the second loss falls by one
        legs = ((-1, radius, far - near), (1, helix, turned(far)), (1, radius, far - near), (-1, helix, turned(near)))
        x = torch.tensor([near, 0.0, 0.0]).double()
        for sign, function, duration in legs:
            field = gradient_flow(lambda p, sign=sign, function=function: sign * function(p))
            x = integrate(field, {"x": x}, (0.0, duration))["x"][-1]
        found.append((x, pitch, far))
    return found


@shared
def over_time(case: Case, until: float = 10.0, step: float = 0.5) -> dict[str, Params]:
    """One network under the flow and by steps: norms of rows of both hidden layers, of the last one, and times."""
    start, field = networks(case, WIDTHS)[0].params, gradient_flow(fit(case, 0, "batch"))
    record = {f"layer {l + 1}": lambda p, l=l: p[f"W{l}"].norm(dim=1) for l in range(2)}
    record["last layer"] = lambda p: p["W2"].norm()[None]
    flow = integrate(field, start, torch.linspace(0, until, 41).double(), record=record, relative=1e-7, absolute=1e-9)
    p, seen = start, [{n: measure(start) for n, measure in record.items()}]
    for _ in range(round(until / step)):
        velocity = field(p)
        p = {n: x + step * velocity[n] for n, x in p.items()}
        seen.append({n: measure(p) for n, measure in record.items()})
    steps = {n: torch.stack([one[n] for one in seen]) for n in record}
    return {"flow": flow, "steps": steps | {"times": step * torch.arange(len(seen)).double()}}


# Steps


class Stepped(NamedTuple):
    """Squared norms before and after each step of descent, squared gradients there, and losses."""

    squares: Tensor
    pushes: Tensor
    losses: Tensor


@shared
def stepped(case: Case, kind: str, step: float, count: int = 60) -> list[Stepped]:
    """Descent of whole networks: rows of hidden weights, or whole hidden layers with their biases."""
    found = []
    for k in range(COUNT):
        loss, p = fit(case, k, kind), networks(case, WIDTHS)[k].params
        slope, squares, pushes, losses = gradient(loss), [_squares(p, kind)], [], [loss(p)]
        for _ in range(count):
            g = slope(p)
            p = {n: x - step * g[n] for n, x in p.items()}
            pushes.append(_squares(g, kind))
            squares.append(_squares(p, kind))
            losses.append(loss(p))
        found.append(Stepped(torch.stack(squares), torch.stack(pushes), torch.stack(losses)))
    return found


def _squares(p: Params, kind: str) -> Tensor:
    if kind == "layer":
        return torch.stack([p[f"W{l}"].square().sum() + p[f"b{l}"].square().sum() for l in range(2)])
    return torch.cat([p[name].square().sum(1) for name in HIDDEN])


@shared
def penalised(case: Case, kind: str, k: int, factor: float, decay: float) -> tuple[Tensor, Tensor]:
    """Loss with a penalty on the second layer's weights times a factor, and the rate of their squared norm.

    The rate is that at the weights themselves, under the flow of both.
    """
    full, loss = networks(case, WIDTHS)[k].params, fit(case, k, kind)
    whole = lambda W: loss(full | {"W1": W}) + decay / 2 * W.square().sum()
    W = full["W1"]
    return whole(factor * W), -2 * (W * torch.func.grad(whole)(W)).sum()


@shared
def second_squares(case: Case) -> list[Tensor]:
    """Squared norms of the second layers' weights."""
    return [networks(case, WIDTHS)[k].params["W1"].square().sum() for k in range(COUNT)]


SPAN = 2.0


@shared
def hidden_only(case: Case, kind: str, step: float | None, decay: float = 0.0, times: tuple[float, ...] = (0.0, SPAN)):
    """Flow, or descent by a step, of hidden weights from rows of norm one, all else fixed: weights and losses."""
    found = []
    for k in range(COUNT):
        full = networks(case, WIDTHS)[k].params
        whole = fit(case, k, kind)
        loss = lambda p, full=full, whole=whole: whole(full | p)
        field = gradient_flow(loss, weight_decay=decay)
        p = {name: torch.nn.functional.normalize(full[name], dim=1) for name in HIDDEN}
        if step is None:
            path = integrate(field, p, times, **CAREFUL)
            kept = [{name: path[name][t] for name in HIDDEN} for t in range(len(times))]
        else:
            kept = [p]
            for _ in range(round(times[-1] / step)):
                velocity = field(p)
                p = {name: x + step * velocity[name] for name, x in p.items()}
                kept.append(p)
        found.append(({n: torch.stack([q[n] for q in kept]) for n in HIDDEN}, torch.stack([loss(q) for q in kept])))
    return found


@shared
def grown(case: Case, kind: str, step: float) -> list[Tensor]:
    """Growth of the summed squares of the hidden weights, over the step, to time ``SPAN``."""
    total = lambda p, t: sum(x[t].square().sum() for x in p.values())
    return [(total(p, -1) - total(p, 0)) / step for p, _ in hidden_only(case, kind, step)]


# One unit under noise


class Noisy(NamedTuple):
    """Of k runs: squared norms before, and after the last, step; squared gradients at unit length, turns, cosines."""

    squares: Tensor
    pushes: Tensor
    turns: Tensor
    radial: Tensor

    def late(self, values: Tensor) -> Tensor:
        """The later half."""
        return values[len(self.turns) // 2 : len(self.turns)]


OPTIMISERS = {
    "SGD": lambda w, rate, decay: torch.optim.SGD(w, lr=rate, weight_decay=decay),
    "momentum": lambda w, rate, decay: torch.optim.SGD(w, lr=rate, weight_decay=decay, momentum=0.9),
    "Adam": lambda w, rate, decay: torch.optim.Adam(w, lr=rate, weight_decay=decay, eps=1e-15),
    "AdamW": lambda w, rate, decay: torch.optim.AdamW(w, lr=rate, weight_decay=decay, eps=1e-15),
    "AdamW without momentum": lambda w, rate, decay: torch.optim.AdamW(
        w, lr=rate, weight_decay=decay, eps=1e-15, betas=(0.0, 0.999)
    ),
}


@shared
def task(case: Case, features: int, noise: float, aligned: bool = False, samples: int = 512) -> tuple[Tensor, Tensor]:
    """White inputs and noisy labels along one direction: drawn, or a coordinate."""
    role = f"C unit {features} {noise}"
    X = normal(case, role + " X", samples, features)
    X = X - X.mean(0)
    X = X @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(X.mT, correction=0))).mT
    aim = torch.eye(features).double()[0] if aligned else normal(case, role + " aim", features)
    return X, X @ aim / aim.norm() + noise * normal(case, role + " noise", samples)


def best(X: Tensor, y: Tensor) -> Tensor:
    """Unit vector of the best direction of one linear unit: least squares."""
    return torch.nn.functional.normalize(torch.linalg.lstsq(X - X.mean(0), y[:, None]).solution[:, 0], dim=0)


def unit_gradient(w: Tensor, X: Tensor, y: Tensor, epsilon: float = 0.0, frozen: bool = False) -> Tensor:
    """Gradients of one unit under batch normalisation, for k runs: w (k, d), X (k, m, d); frozen: of a linear unit."""
    z = (X @ w[..., None]).squeeze(-1)
    error = (z if frozen else normalize(z, (1,), epsilon=epsilon)) - y
    slope = error / z.shape[1]
    return torch.einsum("kmd,km->kd", X, slope if frozen else normalize_backward(z, slope, (1,), epsilon=epsilon))


@shared
def noisy(
    case: Case, optimiser: str = "SGD", *, rate: float = 0.05, decay: float = 0.02, steps: int = 3000, runs: int = 100,
    radii: tuple[float, ...] = (1.0,), features: int = 8, noise: float = 1.0, aligned: bool = False,
    epsilon: float = 0.0, frozen: bool = False,
) -> Noisy:  # fmt: skip
    """Batches of sixteen, with torch's optimisers, from the best direction at given norms, ``runs`` of each."""
    X, y = task(case, features, noise, aligned)
    start = torch.tensor(radii).double().repeat_interleave(runs)[:, None] * best(X, y)
    w = torch.nn.Parameter(start.clone())
    step, generator = OPTIMISERS[optimiser]([w], rate, decay), case.generator(f"C batches {optimiser}")
    rows: list[tuple[Tensor, ...]] = []
    for _ in range(steps):
        at, before = torch.randint(len(y), (len(start), 16), generator=generator), w.detach().clone()
        w.grad = unit_gradient(before, X[at], y[at], epsilon, frozen)
        square, push = before.square().sum(1), w.grad.square().sum(1)
        radial = (w.grad * before).sum(1) / (square * push).sqrt()
        step.step()
        u, v = (torch.nn.functional.normalize(x, dim=1) for x in (before, w.detach()))
        turn = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
        rows.append((square, push * square, turn, radial))
    squares, pushes, turns, radial = map(torch.stack, zip(*rows, strict=True))
    return Noisy(torch.cat([squares, w.detach().square().sum(1)[None]]), pushes, turns, radial)


# Where the flow ends


@shared
def ends(case: Case, kind: str = "batch", curved: bool = False) -> list[tuple[Tensor, Tensor, float]]:
    """Last weights of one unit, the best direction and the first norm: white and correlated inputs, two norms.

    Curved: a wave of the normalised value, whose loss has several minima.
    """
    found = []
    for k, mixed in enumerate((False, False, True, True)):
        X, y = task(case, 2, 1.0, samples=64)
        X = X @ (torch.eye(2) + 0.4 * normal(case, "C mixing", 2, 2)).double() if mixed else X
        act = (lambda z: torch.sin(4 * z)) if curved else identity
        loss = lambda p, X=X, y=y, act=act: square_loss(act(normalizer(kind, 0.0)((X @ p["w"])[:, None])), y[:, None])
        r = (0.3, 3.0)[k % 2]
        begin = torch.nn.functional.normalize(normal(case, f"C end {k}", 2), dim=0)
        path = integrate(gradient_flow(loss), {"w": r * begin}, [0.0, 60 * r**2], relative=1e-10)
        aim = _best_angle(lambda u, loss=loss: loss({"w": u})) if curved else best(X, y)
        found.append((path["w"][-1], aim, r))
    return found


def _best_angle(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The best unit vector of the plane: a grid of angles, refined three times."""
    middle, reach = torch.pi, torch.pi
    unit = lambda angle: torch.stack([angle.cos(), angle.sin()], -1)
    for _ in range(4):
        angles = torch.linspace(middle - reach, middle + reach, 801).double()
        middle = angles[int(torch.stack([loss(u) for u in unit(angles)]).argmin())].item()
        reach /= 200
    return unit(torch.tensor(middle).double())

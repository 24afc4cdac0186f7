"""Runs of section 5.1 of paper C, its second half, and of 5.2: one unit in the plane, steps of all sizes, saddles."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.normalization_geometry.invariances_runs import normalizer
from companion.normalization_geometry.norm_conservation_runs import task
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.measures.curvature import hessian
from normdyn.motion.flows import Field, Params, gradient, gradient_flow, integrate
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import batch_norm, normalize, normalized_mlp

# One linear unit in the plane

LENGTHS = (0.3, 3.0)
STEP = 0.3


def across(aim: Tensor) -> Tensor:
    """Unit vector at a right angle in the plane."""
    return torch.stack([-aim[1], aim[0]])


class Plane(NamedTuple):
    """Inputs and labels, the best weights without normalisation, and the loss of the weights."""

    X: Tensor
    y: Tensor
    best: Tensor
    loss: Callable[[Tensor], Tensor]

    @property
    def aim(self) -> Tensor:
        return self.best / self.best.norm()


@shared
def planes(case: Case, kind: str, mixed: bool = False) -> list[Plane]:
    """Three tasks of 64 samples, with white inputs or correlated ones."""
    found = []
    for k in range(3):
        X, y = task(case, 2, 0.4 + 0.1 * k, samples=64)
        X = X @ (torch.eye(2) + 0.4 * normal(case, f"C plane {k}", 2, 2)).double() if mixed else X
        act = normalizer(kind, 0.0)
        loss = lambda w, X=X, y=y, act=act: square_loss(act((X @ w)[:, None]), y[:, None])
        found.append(Plane(X, y, torch.linalg.lstsq(X, y[:, None]).solution[:, 0], loss))
    return found


def follow(field: Field, start: Tensor, until: float, steps: int = 0) -> Tensor:
    """Path of one vector ``w``: the flow at nine times, or that many Euler steps of 0.3."""
    if not steps:
        return integrate(field, {"w": start}, until * torch.linspace(0, 1, 9).double() ** 2, relative=1e-11)["w"]
    path = [start]
    for _ in range(steps):
        path.append(path[-1] + STEP * field({"w": path[-1]})["w"])
    return torch.stack(path)


@shared
def rotations(case: Case, kind: str, mixed: bool = False, steps: int = 0) -> list[tuple[Tensor, Plane, float]]:
    """Paths from a right angle to the best direction, at two norms, to time 8, below BN times the squared norm."""
    until = lambda r: 8.0 if kind == "none" else 8 * r**2
    return [
        (follow(gradient_flow(lambda p, at=at: at.loss(p["w"])), r * across(at.aim), until(r), steps), at, r)
        for at in planes(case, kind, mixed)
        for r in LENGTHS
    ]


@shared
def first_speeds(case: Case, size: float, product: bool) -> list[Tensor]:
    """How fast the loss falls at the start, over its largest speed along the flow.

    Product: the unit has an output weight that is trained and starts small as well.
    """
    found = []
    for at in planes(case, "none"):
        start = {"w": size * across(at.aim), "a": torch.tensor(size if product else 1.0).double()}
        flow = gradient_flow(lambda p, at=at: at.loss(p["a"] * p["w"]))
        field = lambda p, flow=flow: {n: v * (product or n == "w") for n, v in flow(p).items()}
        speed = {"speed": lambda p, field=field: sum(v.square().sum() for v in field(p).values())}
        seen = integrate(field, start, torch.linspace(0, 12, 25).double(), record=speed, relative=1e-6, absolute=1e-9)[
            "speed"
        ]
        found.append(seen[0] / seen.max())
    return found


@shared
def crossings(case: Case, rate: float, steps: int = 10) -> list[Tensor]:
    """How often descent crosses the best length, on a linear unit with white inputs from a short start."""
    found = []
    for at in planes(case, "none"):
        w, side, slope = 0.3 * across(at.aim), [], torch.func.grad(at.loss)
        for _ in range(steps + 1):
            side.append((w @ at.aim - at.best.norm()).sign())
            w = w - rate * slope(w)
        found.append((torch.stack(side).diff() != 0).sum())
    return found


# Scale and step


class Units(NamedTuple):
    """A hidden layer of tanh units with fixed outputs: outputs and loss as functions of its weights, and a start.

    What they are made of goes with them: inputs, targets, output weights.
    """

    output: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]
    start: Tensor
    X: Tensor
    y: Tensor
    V: Tensor


@shared
def hidden_layers(case: Case, kind: str, count: int = 4) -> list[Units]:
    """Three layers on 24 samples with random targets, rows of norm one."""
    found = []
    for k in range(3):
        draw = lambda name, *shape, k=k: normal(case, f"C scale {k} {count} {name}", *shape)
        X, y, V = draw("X", 24, 3), draw("y", 24, 1), 0.5 * draw("V", 1, count)
        act = normalizer(kind, 0.0)
        net = lambda W, X=X, V=V, act=act: normalized_mlp([W, V], X, normalizer=act, activation=torch.tanh)
        loss = lambda W, net=net, y=y: square_loss(net(W), y)
        found.append(Units(net, loss, torch.nn.functional.normalize(draw("W", count, 3), dim=1), X, y, V))
    return found


@shared
def descended(case: Case, kind: str, scale: float, step: float, steps: int = 60) -> list[tuple[Tensor, Tensor]]:
    """Weights over the initial scale along descent, and the last loss."""
    found = []
    for one in hidden_layers(case, kind):
        W, slope = scale * one.start, torch.func.grad(one.loss)
        path = [W]
        for _ in range(steps):
            path.append(path[-1] - step * slope(path[-1]))
        found.append((torch.stack(path) / scale, one.loss(path[-1])))
    return found


@shared
def losses_by_hand(case: Case, scale: float, step: float, steps: int = 60) -> list[Tensor]:
    """The last losses of the same descent below batch normalisation, with the gradient written out."""
    found = []
    for *_, start, X, y, V in hidden_layers(case, "batch"):
        W = scale * start
        for k in range(steps + 1):
            z = X @ W.mT
            centred = z - z.mean(0)
            s = centred.square().mean(0).sqrt()
            hat = centred / s
            a = torch.tanh(hat)
            error = a @ V.mT - y
            if k < steps:
                delta = (error @ V) * (1 - a.square()) / len(X)
                W = W - step * ((delta - delta.mean(0) - hat * (delta * hat).mean(0)) / s).mT @ X
        found.append(error.square().sum() / (2 * len(X)))
    return found


@shared
def relative_updates(case: Case, scales: tuple[float, ...], kind: str) -> list[Tensor]:
    """Norm of the gradient of each unit over the norm of its weights, at weights times each scale."""
    found = []
    for one in hidden_layers(case, kind):
        at = [torch.func.grad(one.loss)(s * one.start).norm(dim=1) / s for s in scales]
        found.append(torch.stack(at))
    return found


class Capped(NamedTuple):
    """Of one unit: steps, effective rates after the first one, gradient at unit norm, last losses."""

    steps: Tensor
    rates: Tensor
    push: Tensor
    losses: Tensor


@shared
def all_steps(case: Case, kind: str = "batch", count: int = 1) -> list[Capped]:
    """Descent from norm one with steps over twelve decades, and with the step for the largest effective rate."""
    found = []
    for one in hidden_layers(case, kind, count=1):
        slope = torch.func.grad(one.loss)
        push = slope(one.start).norm()
        steps = torch.cat([torch.logspace(-4, 8, 49).double(), 1 / push[None]])
        W = one.start - steps[:, None, None] * slope(one.start)
        rates = steps / W.square().sum((1, 2))
        for _ in range(count - 1):
            W = W - steps[:, None, None] * torch.func.vmap(slope)(W)
        found.append(Capped(steps, rates, push, torch.func.vmap(one.loss)(W)))
    return found


@shared
def curvatures(case: Case, radius: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Largest curvature along the best direction at a radius with and without BN, and the slope of the labels."""
    top = lambda at, w: torch.linalg.eigvalsh(hessian(lambda p: at.loss(p["w"]), {"w": w})).max()
    pairs = zip(planes(case, "batch"), planes(case, "none"), strict=True)
    return [(top(a, radius * a.aim), top(b, radius * a.aim), (a.X.mT @ a.y / len(a.y)).norm()) for a, b in pairs]


@shared
def unit_hessians(case: Case, kind: str) -> list[Tensor]:
    """Hessians of the hidden layers at rows of norm one, a column a weight: derivatives of the gradient in turn."""
    found = []
    for one in hidden_layers(case, kind):
        slope, flat = torch.func.grad(one.loss), torch.eye(one.start.numel()).double()
        columns = [torch.func.jvp(slope, (one.start,), (e.reshape(one.start.shape),))[1].flatten() for e in flat]
        found.append(torch.stack(columns, 1))
    return found


# Descent lemma


class Smooth(NamedTuple):
    """A smooth function, a bound on its curvature, and a start."""

    f: Callable[[Tensor], Tensor]
    curvature: float
    start: Tensor


@shared
def waves(case: Case) -> list[Smooth]:
    """A parabola, and sums of four waves in five dimensions."""
    found = [Smooth(lambda x: x @ x / 2, 1.0, normal(case, "C parabola", 5))]
    for k in range(3):
        a, F = normal(case, f"C wave {k} a", 5) / 2, normal(case, f"C wave {k} F", 4, 5)
        f = lambda x, a=a, F=F: (a[:4].abs() * (1 - torch.cos(F @ x + a[4]))).sum()
        found.append(Smooth(f, (a[:4].abs() * F.square().sum(1)).sum().item(), normal(case, f"C wave {k} x", 5)))
    return found


@shared
def regressions(case: Case, separable: bool) -> list[Smooth]:
    """Logistic regressions in the plane; with labels that a line separates, or with some of them turned."""
    found = []
    for k in range(3):
        X = normal(case, f"C logistic {k}", 20, 2)
        y = (X @ torch.tensor([1.0, 0.5]).double()).sign()
        y = y if separable else y * torch.where(torch.arange(20) % 3 == 0, -1.0, 1.0)
        f = lambda w, P=y[:, None] * X: torch.nn.functional.softplus(-P @ w).mean()
        curvature = torch.linalg.eigvalsh(X.mT @ X / 80).max().item()
        found.append(Smooth(f, curvature, torch.zeros(2, dtype=torch.float64)))
    return found


@shared
def paths(case: Case, product: float) -> list[Tensor]:
    """Losses of waves along 200 steps of descent; the product is step times curvature."""
    found = []
    for one in waves(case):
        x, slope, losses = one.start, torch.func.grad(one.f), [one.f(one.start)]
        for _ in range(200):
            x = x - product / one.curvature * slope(x)
            losses.append(one.f(x))
        found.append(torch.stack(losses))
    return found


@shared
def iterates(case: Case, product: float, separable: bool) -> list[tuple[Tensor, Tensor]]:
    """Weights of logistic regression after 500 and 1000 steps."""
    found = []
    for one in regressions(case, separable):
        x, step, slope, kept = one.start, product / one.curvature, torch.func.grad(one.f), []
        for k in range(1000):
            x = x - step * slope(x)
            if k in (499, 999):
                kept.append(x)
        found.append((kept[0], kept[1]))
    return found


# Example 5.1


class Example(NamedTuple):
    """Two inputs and targets of a batch, and weights."""

    X: Tensor
    targets: Tensor
    w: Tensor

    def loss(self, w: Tensor) -> Tensor:
        return square_loss(batch_norm((self.X @ w)[:, None]), self.targets[:, None])


@shared
def examples(case: Case) -> list[Example]:
    """Five of them, with correlated inputs of a mean."""
    mix = torch.tensor([[1.0, 0.4], [0.0, 0.8]]).double()
    draw = lambda k, name, *shape: normal(case, f"C 5.1 {k} {name}", *shape)
    return [
        Example(draw(k, "X", 16, 2) @ mix + torch.tensor([0.5, -1.0]).double(), draw(k, "t", 16), draw(k, "w", 2))
        for k in range(5)
    ]


@shared
def example_slopes(case: Case, size: float = 1.0) -> list[Tensor]:
    """Gradients at the weights times a factor, by automatic differentiation."""
    return [torch.func.grad(one.loss)(size * one.w) for one in examples(case)]


# Saddles and dead units

SAMPLES = 12


@shared
def batch_gradients(case: Case, sizes: Sequence[int], frozen: bool = False) -> list[Tensor]:
    """Norms of the gradients of all batches of given sizes, at networks whose targets are fitted exactly."""
    found = []
    for k in range(2):
        draw = lambda name, *shape, k=k: normal(case, f"C saddle {k} {name}", *shape)
        X, W, V = draw("X", SAMPLES, 3), draw("W", 4, 3), draw("V", 1, 4)
        Z = X @ W.mT
        constants = (Z.mean(0), Z.var(0, correction=0)) if frozen else None
        net = lambda W, X, V=V, constants=constants: normalized_mlp(
            [W, V], X, normalizer=lambda z: batch_norm(z, statistics=constants), activation=torch.tanh
        )
        y = normalized_mlp([W, V], X, activation=torch.tanh)
        slope = torch.func.grad(lambda W, X, y, net=net: square_loss(net(W, X), y))
        for m in sizes:
            at = torch.tensor(list(combinations(range(SAMPLES), m)))
            g = torch.func.vmap(slope, in_dims=(None, 0, 0))(W, X[at], y[at])
            found.append(g.flatten(1).norm(dim=1))
    return found


class Rectified(NamedTuple):
    """Signals (layers, batch, units) that enter gains and shifts in front of a ReLU, and the gains."""

    values: Tensor
    gain: Tensor
    shift: Tensor


BATCH = 32


@shared
def rectified(case: Case, normalised: bool) -> Rectified:
    """A thousand layers of eight units with biases of the order of a hundred; signals as they are, or normalised."""
    X, W = normal(case, "C dead X", 1000, BATCH, 6), normal(case, "C dead W", 1000, 8, 6)
    z = torch.einsum("knd,kud->knu", X, W) + 100 * normal(case, "C dead b", 1000, 1, 8)
    gain, shift = normal(case, "C dead gain", 1000, 1, 8), 3 * normal(case, "C dead shift", 1000, 1, 8)
    return Rectified(normalize(z, (1,)) if normalised else z, gain, shift)


# Large steps

STEPS = (0.8, 0.1)
SEEDS, WIDTH = 16, 12
FITTED = 0.25  # of the first loss


def _fit(p: Params, X: Tensor, y: Tensor, normalised: bool, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Square losses of a stack of networks, along the leading axes of the parameters."""
    z = X @ p["W"].mT + p["b"][..., None, :]
    z = normalize(z, (-2,)) if normalised else z
    return (act(z) @ p["V"].mT - y).square().sum((-2, -1)) / (2 * y.shape[-2])


class Settled(NamedTuple):
    """Largest curvatures and last losses over first ones, one row a step and one column a seed."""

    tops: Tensor
    losses: Tensor


@shared
def settled(case: Case, normalised: bool, kind: str, time: float = 200.0) -> Settled:
    """Networks of twelve units that fit a wave on twenty samples, by descent for one time at each step."""
    act = {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu}[kind]
    draw = lambda name, *shape: normal(case, f"C flat {name}", SEEDS, *shape)
    X = draw("X", 20, 3)
    y = torch.sin(2 * X @ draw("aim", 3, 1) / 3**0.5)
    start = {"W": draw("W", WIDTH, 3) / 3**0.5, "V": draw("V", 1, WIDTH) / WIDTH**0.5, "b": 0.3 * draw("b", WIDTH)}
    p = {n: v.expand(len(STEPS), *v.shape).clone() for n, v in start.items()}
    step = torch.tensor(STEPS).double()
    count, slope = (time / step).round(), gradient(lambda p: _fit(p, X, y, normalised, act).sum())
    first = _fit(p, X, y, normalised, act)
    for t in range(int(count.max())):
        rate, g = torch.where(t < count, step, 0.0), slope(p)
        p = {n: x - rate.reshape(-1, *[1] * (x.ndim - 1)) * g[n] for n, x in p.items()}
    last = (_fit(p, X, y, normalised, act) / first).nan_to_num(torch.inf)
    tops = torch.full((len(STEPS), SEEDS), torch.nan).double()
    for k in range(len(STEPS)):
        for i in range(SEEDS):
            if last[k, i] < FITTED or time < 10:
                one = lambda q, i=i: _fit(q, X[i], y[i], normalised, act)
                tops[k, i] = torch.linalg.eigvalsh(hessian(one, {n: x[k, i] for n, x in p.items()})).max()
    return Settled(tops, last)


def flatter(run: Settled) -> Tensor:
    """Logarithm of the curvature after small steps over that after large ones, of the seeds where both fit."""
    effect = (run.tops[1] / run.tops[0]).log()
    effect = effect[effect.isfinite()]
    if len(effect) < SEEDS // 2:
        raise Unfinished(f"{len(effect)} of {SEEDS} networks have fitted")
    return effect

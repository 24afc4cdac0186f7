"""Runs of section 7 of paper D: networks at an instant, three flows from one start, and flows in logarithmic time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from normdyn.motion.flows import Field, Params, gradient_flow, integrate
from normdyn.networks.graphs import mlp
from normdyn.norms.margins import follow
from normdyn.symmetry.polar import from_polar, hard_margin, reparametrized, seen_velocity, to_polar

Outputs = Callable[[Params], Tensor]
FLOWS = ("gradient", "weight normalization")
PULL = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)  # the longer sample pulls first
DRAWN, FEW = 8, 2
LOG_TIMES = torch.cat([torch.logspace(math.log10(20), 2, 9), torch.tensor([140.0, 200, 280, 400, 560, 800])]).double()
LINE = torch.cat([torch.zeros(1), torch.logspace(-3, 3, 37)]).double()
HILL = torch.cat([torch.zeros(1), torch.logspace(-2, 3, 41)]).double()


def normal(case: Case, role: int | str, *shape: int) -> Tensor:
    """Gaussian numbers in float64, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


def identity(z: Tensor) -> Tensor:
    return z


def smooth_cube(z: Tensor) -> Tensor:
    """z^3 over the squared norm of z: homogeneous of order one, not linear, and without kinks."""
    return z**3 / z.square().sum(1, keepdim=True)


def exponential(f: Outputs) -> Field:
    """Minus the gradient of the exponential loss."""
    return gradient_flow(lambda p: (-f(p)).exp().sum())


def network(case: Case, role: str, depth: int, activation, *, samples=6, labelled=True, bias=0.0, size=1.0):
    """Outputs of a layered network as a function of its weights, with or without labels absorbed, and a start."""
    widths = (4, 5, 5)[:depth] + (1,)
    X, y = size * normal(case, f"{role} X", samples, 4), normal(case, f"{role} y", samples).sign()
    y[:2] = torch.tensor([1.0, -1.0])
    weights = {f"W{k}": 0.6 * normal(case, f"{role} W{k}", widths[k + 1], widths[k]) for k in range(depth)}
    shifts = [bias * normal(case, f"{role} b{k}", widths[k + 1]) for k in range(depth)] if bias else None
    f = lambda p: mlp([p[f"W{k}"] for k in range(depth)], X, activation=activation, biases=shifts)[:, 0]
    return (lambda p: y * f(p)) if labelled else f, weights


# At an instant


class Instant(NamedTuple):
    """A network, its flow, and what the paper's formulas are made of; dictionaries are over layers.

    ``truth`` and ``normalised`` are velocities of length and direction, without and with weight normalisation, by
    automatic differentiation of their definitions.
    """

    f: Outputs
    weights: Params
    drive: Params
    lengths: Params
    units: Params
    rho: Tensor
    own: Tensor
    tilde: Tensor
    pull: Tensor
    raw: Params
    slopes: Params
    truth: dict[str, tuple[Tensor, Tensor]]
    normalised: dict[str, tuple[Tensor, Tensor]]


def polar(W: Tensor) -> tuple[Tensor, Tensor]:
    return W.norm(), W / W.norm()


def weight_normalised(loss, weights: Params) -> dict[str, tuple[Tensor, Tensor]]:
    """Minus the gradients in g and v of the loss at W = g v / |v|, at |v| = 1."""
    start = {k: polar(W) for k, W in weights.items()}
    seen = lambda p: {k: g * v / v.norm() for k, (g, v) in p.items()}
    found = torch.func.grad(lambda p: loss(seen(p)))(start)
    return {k: (-g, -v) for k, (g, v) in found.items()}


def instant(f: Outputs, true: Outputs, W: Params, size: float) -> Instant:
    """The formulas' parts from ``f`` and directions of norm ``size``, velocities from the true outputs."""
    loss = lambda p: (-true(p)).exp().sum()
    drive = {k: -g for k, g in torch.func.grad(loss)(W).items()}
    lengths, units = {k: x.norm() for k, x in W.items()}, {k: size * x / x.norm() for k, x in W.items()}
    rho = torch.stack(list(lengths.values())).prod()
    truth = {k: torch.func.jvp(polar, (W[k],), (drive[k],))[1] for k in W}
    slope, tilde = torch.func.jacrev(f), f(units)
    return Instant(
        f, W, drive, lengths, units, rho, f(W), tilde, (-rho * tilde).exp(), slope(W), slope(units), truth,
        weight_normalised(loss, W),
    )  # fmt: skip


@shared
def instants(case: Case, *, labelled: bool = True, biased: bool = False, size: float = 1.0) -> list[Instant]:
    """ReLU networks of two and three layers at random weights."""
    found = []
    for depth in (2, 3):
        for k in range(4):
            made = lambda labels, d=depth, k=k: network(
                case, f"instant {d} {k}", d, torch.relu, labelled=labels, bias=float(biased)
            )
            found.append(instant(made(labelled)[0], made(True)[0], made(True)[1], size))
    return found


@shared
def scaled_vectors(case: Case, size: float) -> list[tuple[Tensor, Tensor]]:
    """A vector and its direction, which is given a norm."""
    drawn = [normal(case, f"vector {k}", 5) for k in range(5)]
    return [(w, size * w / w.norm()) for w in drawn]


@shared
def projectors(case: Case, size: float) -> list[Tensor]:
    """S of these directions, as matrices."""
    return [torch.eye(5, dtype=v.dtype) - torch.outer(v, v) for _, v in scaled_vectors(case, size)]


@shared
def resting(case: Case, toward: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Length, direction and drive of layers whose drive points along them; or of some on the way there."""
    found = []
    for k in range(3):
        for depth in (1, 2):
            f, W = network(case, f"resting {depth} {k}", depth, identity, samples=4, size=0.5)
            drive, lengths = exponential(f), {name: x.norm().clamp(max=0.6) for name, x in W.items()}
            start = V = {name: x / x.norm() for name, x in W.items()}
            seen = lambda V, lengths=lengths: {name: lengths[name] * V[name] for name in V}
            for _ in range(200):  # a step along the drive and back to the sphere: it rests where S h = 0
                h = drive(seen(V))
                V = {name: V[name] + 0.3 * h[name] / h[name].norm() for name in V}
                V = {name: x / x.norm() for name, x in V.items()}
            V = {name: toward * V[name] + (1 - toward) * start[name] for name in V}
            V = {name: x / x.norm() for name, x in V.items()}
            found += [(lengths[name], V[name], h) for name, h in drive(seen(V)).items()]
    return found


# Three flows from one start

NETWORKS = ((1, identity), (3, identity), (2, smooth_cube))
TIMES = (0.0, 0.2, 0.5)


def _flat(W: Params) -> Tensor:
    return torch.cat([x.flatten() for x in W.values()])


@shared
def positions(case: Case, system: str) -> list[dict[str, Tensor]]:
    """Weights along the plain flow, or along a system in lengths and directions, of all networks."""
    found = []
    for depth, activation in NETWORKS:
        f, W = network(case, f"flow {depth} {activation.__name__}", depth, activation, samples=3, size=0.5)
        drive = exponential(f)
        if system == "plain":
            found.append(integrate(drive, W, TIMES, relative=1e-9))
            continue
        seen = {k: lambda p, k=k: from_polar(p)[k] for k in W}
        found.append(integrate(reparametrized(drive, system), to_polar(W), TIMES, record=seen, relative=1e-9))
    return found


def _rows(path: dict[str, Tensor], unit: bool) -> Tensor:
    layers = [x.flatten(1) for k, x in path.items() if k != "times"]
    return torch.cat([x / x.norm(dim=1, keepdim=True) if unit else x for x in layers], 1)


@shared
def paths(case: Case, system: str) -> list[Tensor]:
    return [_rows(path, False) for path in positions(case, system)]


@shared
def unit_vectors(case: Case, system: str) -> list[Tensor]:
    return [_rows(path, True) for path in positions(case, system)]


@shared
def seen_paths(case: Case) -> list[Tensor]:
    """Unit vectors under weight normalisation once more: W itself is moved, by another integrator."""
    found = []
    for depth, activation in NETWORKS:
        f, W = network(case, f"flow {depth} {activation.__name__}", depth, activation, samples=3, size=0.5)
        drive = exponential(f)
        field = lambda p, drive=drive: {k: seen_velocity(p[k].norm(), p[k] / p[k].norm(), h)
                                        for k, h in drive(p).items()}  # fmt: skip
        found.append(_rows(integrate(field, W, TIMES, relative=1e-10, absolute=1e-12, method="LSODA"), True))
    return found


def one_point_start(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """A point on the first axis, a start beside it, and times."""
    draw = normal(case, "one point", 1).tanh()
    x, start = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 1.2]).double()
    return x, start * (1 + 0.3 * draw), torch.tensor([1.0, 100, 1e4], dtype=torch.float64)


@shared
def one_point_units(case: Case, system: str) -> Tensor:
    x, start, times = one_point_start(case)
    drive, clock = exponential(lambda p: x[None] @ p["w"]), torch.cat([torch.zeros(1).double(), times])
    if system == "plain":
        w = integrate(drive, {"w": start}, clock, relative=1e-11)["w"]
    else:
        record = {"w": lambda p: from_polar(p)["w"]}
        w = integrate(reparametrized(drive, system), to_polar({"w": start}), clock, record=record, relative=1e-11)["w"]
    return w / w.norm(dim=1, keepdim=True)


@shared
def figure_one(case: Case, system: str) -> Tensor:
    """Two weights at the times of the figure; the paper gives no numbers."""
    X = torch.tensor([[1.0, 2.0], [4.0, -1.0]], dtype=torch.float64)
    drive, start = exponential(lambda p: X @ p["w"]), {"w": torch.tensor([0.3, -0.6], dtype=torch.float64)}
    if system == "plain":
        return integrate(drive, start, LINE)["w"]
    record = {"w": lambda p: from_polar(p)["w"]}
    return integrate(reparametrized(drive, system), to_polar(start), LINE, record=record)["w"]


# Norms


@shared
def norms_of_three(case: Case, start: tuple[float, ...], biased: bool) -> list[Tensor]:
    """Norms of three layers along the flow, one column a layer."""
    found = []
    for activation in (identity, smooth_cube):
        for k in range(1):
            name = f"norms {activation.__name__} {k}"
            f, W = network(case, name, 3, activation, samples=3, bias=float(biased))
            W = {key: s * x / x.norm() for (key, x), s in zip(W.items(), start, strict=True)}
            path = integrate(exponential(f), W, [0.0, 0.5, 1.0], relative=1e-10)
            found.append(torch.stack([path[key].flatten(1).norm(dim=1) for key in W], 1))
    return found


class Growing(NamedTuple):
    """Lengths and their rates, (times, layers), at given log(1 + t / t0)."""

    clock: Tensor
    lengths: Tensor
    rates: Tensor

    def at(self, share: float) -> int:
        return int((self.clock - share * 10).abs().argmin())


@shared
def growing(case: Case, start: str) -> list[Growing]:
    """Linear networks of one to three layers on separable points, followed in logarithmic time."""
    found, clock = [], torch.tensor([0.0, 0.1, 0.2, 0.4, 0.7, 1, 2, 4, 7, 10, 14, 20], dtype=torch.float64)
    for depth in (1, 2, 3):
        for k in range(2):
            P = 0.5 * separable(case, f"growing {depth} {k}", 5, 3)
            f, W = aligned(case, f"growing {depth} {k}", depth, P, -1.0 if start == "misclassifying" else 1.0)
            field = exponential(f)
            slow = lambda p, field=field: (
                {"s": torch.ones((), dtype=torch.float64)}
                | {key: p["s"].exp() * h for key, h in field({k: x for k, x in p.items() if k != "s"}).items()}
            )
            begin = {"s": torch.zeros((), dtype=torch.float64)} | W
            path = integrate(slow, begin, clock, relative=1e-8, absolute=1e-10)
            lengths, rates = [], []
            for t in range(len(clock)):
                now = {key: path[key][t] for key in W}
                h = field(now)
                lengths.append(torch.stack([x.norm() for x in now.values()]))
                rates.append(torch.stack([(x * h[key]).sum() / x.norm() for key, x in now.items()]))
            found.append(Growing(clock, torch.stack(lengths), torch.stack(rates)))
    return found


def separable(case: Case, role: str, n: int, d: int) -> Tensor:
    """Points, labels absorbed, on one side of the hyperplane across (1, ..., 1)."""
    P = normal(case, f"{role} points", n, d)
    along = P.sum(1) / d**0.5
    return P + (along.abs() + 0.4 - along)[:, None] / d**0.5


def aligned(case: Case, role: str, depth: int, P: Tensor, sign: float) -> tuple[Outputs, Params]:
    """A linear network on these points whose product is (1, ..., 1) at the start, or minus that."""
    d = P.shape[1]
    ones = torch.ones(1, d, dtype=P.dtype) / d**0.5
    frame = [q / q.norm() for q in (normal(case, f"{role} frame {k}", 4) for k in range(depth - 1))]
    inputs, outputs = [ones[0], *frame], [*frame, torch.ones(1, dtype=P.dtype)]
    pairs = zip(outputs, inputs, strict=True)
    W = {f"W{k}": torch.outer(o, i) * (sign if k == 0 else 1.0) for k, (o, i) in enumerate(pairs)}
    return (lambda p: mlp([p[f"W{k}"] for k in range(depth)], P, activation=identity)[:, 0]), W


# Margins in logarithmic time


class Geometry(NamedTuple):
    """Largest margin of separable points, its unit direction, the multipliers of the support vectors, and which."""

    margin: Tensor
    direction: Tensor
    dual: Tensor
    supports: Tensor


def largest_margin(P: Tensor, metric: Tensor | None = None) -> Geometry:
    """Multipliers are those of the vector with margin one: it is their sum of points."""
    u, dual = hard_margin(P, metric)
    u = u / u.norm()
    margin, on = (P @ u).min(), dual > 1e-9
    return Geometry(margin, u, dual[on] / margin**2, on)


def generic(P: Tensor) -> bool:
    """No multiplier nearly zero, no other point nearly on the margin, and multipliers that differ."""
    one = largest_margin(P)
    gap = (P @ one.direction / one.margin - 1)[~one.supports]
    cost = -one.dual.log()
    spread = one.dual @ cost / one.dual.sum() - cost.min()
    return bool(one.dual.min() > 0.1 * one.dual.sum() and (gap > 0.3).all() and spread > 0.1 and len(one.dual) > 1)


@shared
def point_sets(case: Case, count: int = DRAWN) -> list[tuple[Tensor, Tensor]]:
    """Drawn points that are generic, with a drawn start; and two orthogonal points with the start that overshoots."""
    found, k = [(PULL, torch.tensor([0.05, 2.0], dtype=torch.float64))], 0
    while len(found) <= count:
        n, d = ((4, 2), (5, 3), (6, 5), (7, 3))[len(found) % 4]
        P = separable(case, f"set {k}", n, d)
        if generic(P):
            found.append((P, normal(case, f"set {k} start", d)))
        k += 1
    return found


@shared
def geometry(case: Case, count: int = DRAWN, stretch: float = 1.0) -> list[Geometry]:
    """The largest margins, under a norm in which the first coordinate counts more if stretched."""
    metric = lambda P: torch.diag(torch.tensor([stretch] + [1.0] * (P.shape[1] - 1), dtype=P.dtype))
    return [largest_margin(P, None if stretch == 1 else metric(P)) for P, _ in point_sets(case, count)]


class Margins(NamedTuple):
    """Normalised margins (times, samples) along a flow, the clock, and what the limit is made of."""

    clock: Tensor
    vector: Tensor
    margins: Tensor
    length: Tensor
    supports: Tensor
    best: Tensor

    def at(self, when: float) -> int:
        return int((self.clock - when).abs().argmin())


def hard(run: Margins) -> Tensor:
    """The smallest margin at each time."""
    return run.margins.amin(1, keepdim=True)


def smoothed(run: Margins) -> Tensor:
    """Minus the logarithm of the loss, over the length."""
    return -torch.logsumexp(-run.length[:, None] * run.margins, 1, keepdim=True) / run.length[:, None]


@shared
def late(case: Case, system: str = "gradient", count: int = DRAWN) -> list[Margins]:
    """Linear models at log t from 20 to 800; under weight normalisation, which is stiff, to 400."""
    found, times = [], LOG_TIMES[LOG_TIMES <= (800 if system == "gradient" else 400)]
    for (P, start), limit in zip(point_sets(case, count), geometry(case, count), strict=True):
        w = follow(P, start, times, system=system, frame=limit.direction / limit.margin)["vector"]
        length = w.norm(dim=1)
        found.append(Margins(times, w, w @ P.mT / length[:, None], length, limit.supports, limit.margin))
    return found


def limit_direction(run: Margins, s: float) -> Tensor:
    """Unit vector along which w moves between log t = s and 2 s."""
    moved = run.vector[run.at(2 * s)] - run.vector[run.at(s)]
    return moved / moved.norm()


@shared
def hills(case: Case, system: str = "gradient") -> list[Margins]:
    """Linear models from loss one on, to time 1000: the two orthogonal points, and drawn ones."""
    found, name = [], {"gradient": "polar", "weight normalization": "sphere"}[system]
    record = {"w": lambda p: from_polar(p)["w"]}
    for (P, start), limit in zip(point_sets(case, 2), geometry(case, 2), strict=True):
        begin = start if start @ P.mT @ torch.ones(len(P), dtype=P.dtype) > 0 and P is PULL else limit.direction + 0.3
        flow = reparametrized(exponential(lambda p, P=P: P @ p["w"]), name)
        w = integrate(flow, to_polar({"w": begin}), HILL, record=record, relative=1e-10)["w"]
        kept = w[torch.logsumexp(-(w @ P.mT), 1) < 0]
        length, clock = kept.norm(dim=1), HILL[len(HILL) - len(kept) :]
        found.append(Margins(clock, kept, kept @ P.mT / length[:, None], length, limit.supports, limit.margin))
    return found


def _along(f: Outputs, order: int | None) -> Field:
    """The flow's orbit: the gradient of the smoothed margin of outputs; with an order, in the logarithm of the norm."""

    def field(p: Params) -> Params:
        with torch.enable_grad():
            leaves = {k: x.detach().requires_grad_() for k, x in p.items()}
            out = f(leaves)
            pull = torch.softmax(-out, 0).detach()
            slopes = torch.autograd.grad(pull @ out, list(leaves.values()))
        speed = 1.0 if order is None else sum(x.square().sum() for x in p.values()) / (order * pull @ out.detach())
        return {k: speed * g for k, g in zip(p, slopes, strict=True)}

    return field


GROWN = ((2, identity), (3, identity), (2, smooth_cube), (3, smooth_cube))


def separated_start(case: Case, role: str, depth: int, activation) -> tuple[Outputs, Params]:
    """A network that has just separated its points."""
    widths = (3, 2, 2)[:depth] + (1,)
    P = separable(case, role, 5, 3)
    f = lambda p: mlp([p[f"W{k}"] for k in range(depth)], P, activation=activation)[:, 0]
    for k in range(20):
        W = {f"W{l}": 0.7 * normal(case, f"{role} {k} W{l}", widths[l + 1], widths[l]) for l in range(depth)}
        for _ in range(24):
            if f(W).min() > 0.2:
                return f, W
            path = integrate(_along(f, None), W, [0.0, 0.25], relative=1e-7, absolute=1e-9)
            W = {key: path[key][1] for key in W}
            if sum(x.square().sum() for x in W.values()) > 50:
                break
    raise RuntimeError(f"{role}: no start separates the points")


@shared
def grown(case: Case) -> list[Margins]:
    """Networks from separation on, until the product of their norms has grown fortyfold."""
    found = []
    for depth, activation in GROWN:
        for k in range(2):
            f, W = separated_start(case, f"grown {depth} {activation.__name__} {k}", depth, activation)
            clock = torch.linspace(0, math.log(40) / depth, 25, dtype=torch.float64)
            path = integrate(_along(f, depth), W, clock, relative=1e-8, absolute=1e-10)
            at = [{key: path[key][t] for key in W} for t in range(len(clock))]
            rho = torch.stack([torch.stack([x.norm() for x in p.values()]).prod() for p in at])
            margins = torch.stack([f(p) for p in at]) / rho[:, None]
            last = margins[-1]
            near = last < last.min() + 6 / rho[-1]  # samples that still pull at the end: e^-6 of the strongest or more
            found.append(Margins(clock, torch.stack([_flat(p) for p in at]), margins, rho, near, last.min()))
    return found


@shared
def grown_late(case: Case) -> list[Margins]:
    """The half of :func:`grown` with the longer weights, in the logarithm of the norm."""
    half = slice(12, None)
    return [
        Margins(r.clock[half], r.vector[half], r.margins[half], r.length[half], r.supports, r.best) for r in grown(case)
    ]


def supports(run: Margins) -> Tensor:
    """Normalised margins of all support vectors of the limit, each for itself."""
    return run.margins[:, run.supports]


@shared
def linear_series(case: Case, since: str, value, system: str = "gradient", count: int = DRAWN) -> list[Tensor]:
    """A margin at the recorded times of linear models, one row a time: late, or from separation on."""
    return [value(run) for run in (late(case, system, count) if since == "late" else hills(case, system))]


@shared
def network_series(case: Case, since: str, value) -> list[Tensor]:
    """The same of networks."""
    return [value(run) for run in (grown_late(case) if since == "late" else grown(case))]


TWO_LIMITS = (2, 5)  # found among the numbers 0 to 13


def two_layers_or_one(number: int, depth: int) -> tuple[Outputs, Params]:
    """Three samples, and three hidden units or none; the draws are part of the witness and not of the case."""
    draw = torch.Generator().manual_seed(number)
    X = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    y = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    shapes = ((3, 3), (1, 3)) if depth == 2 else ((1, 3),)
    W = {f"W{k}": 0.6 * torch.randn(*shape, generator=draw, dtype=torch.float64) for k, shape in enumerate(shapes)}
    return (lambda p: y * mlp([p[f"W{k}"] for k in range(depth)], X, activation=smooth_cube)[:, 0]), W


@shared
def descended(number: int, depth: int, system: str, goals: tuple[float, ...] = (15.0, 30.0)) -> list[Tensor]:
    """Smallest normalised margin once the smallest output has reached a goal, by steps of a fiftieth of the weights."""
    f, W = two_layers_or_one(number, depth)
    field, found = _along(f, None), []
    for goal in goals:
        while (least := f(W).min().item()) < goal:
            h = field(W)
            if system == "weight normalization":
                h = {k: seen_velocity(W[k].norm(), W[k] / W[k].norm(), h[k]) for k in W}
            largest = max((h[k].norm() / W[k].norm()).item() for k in W)
            step = min(0.02 / largest, 0.5 / max(1.0, least))
            W = {k: W[k] + step * h[k] for k in W}
        found.append(f(W).min() / torch.stack([x.norm() for x in W.values()]).prod())
    return found

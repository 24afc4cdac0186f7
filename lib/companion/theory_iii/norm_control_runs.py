"""Runs behind the claims of sections 5 and 8 of paper D: steps, flows with a norm held fixed, and where they stop."""

import math
from itertools import product
from typing import NamedTuple

import torch
from scipy.optimize import brentq, minimize, nnls
from scipy.spatial import ConvexHull
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.theory_iii.hidden_complexity_control_runs import (
    Outputs,
    aligned,
    exponential,
    geometry,
    identity,
    late,
    normal,
    point_sets,
    separable,
    separated_start,
    smooth_cube,
)
from companion.theory_iii.summary_theorem_runs import rows
from normdyn.motion.constraints import constrained_velocity, tangent_projection
from normdyn.motion.flows import Params, gradient, integrate
from normdyn.networks.graphs import mlp
from normdyn.symmetry.polar import reparametrized, to_polar

norm = torch.linalg.vector_norm
SETS = 1  # drawn beside the two orthogonal points


# Spheres and pushed vectors


@shared
def scattered(case: Case, p: float | None = None) -> Tensor:
    """Points in four dimensions, of unit Lp norm if p is given."""
    points = normal(case, "scattered", 60, 4)
    return points if p is None else points / norm(points, p, dim=1, keepdim=True)


@shared
def facets(shape: str) -> Tensor:
    """Normals of the facets of a cube or a cross-polytope in four dimensions, at distance one in their direction."""
    corners = {"cube": rows(list(product([-1, 1], repeat=4))), "cross": torch.cat([torch.eye(4), -torch.eye(4)])}
    planes = ConvexHull(corners[shape].numpy(), qhull_options="Qt").equations.round(9) + 0.0
    return rows(sorted({tuple(plane[:-1] / -plane[-1]) for plane in planes}))


@shared
def pairs(case: Case, count: int = 20, size: float = 0.3) -> list[tuple[Tensor, Tensor]]:
    """Unit vectors, and drives of one length."""
    unit = lambda role: (lambda u: u / u.norm())(normal(case, role, 6))
    return [(unit(f"pair {k}"), size * unit(f"drive {k}")) for k in range(count)]


def multiplier_by_search(V: Tensor, g: Tensor) -> float:
    """The multiplier for which one step of descent on the Lagrangian, with p = 2, has unit norm."""

    def excess(multiplier: float) -> float:
        pull = torch.func.grad(lambda v: multiplier * (v.square().sum() - 1))(V)
        return (V + g - pull).norm().item() - 1

    return brentq(excess, -0.5, (1 + (V @ g).item()) / 2, xtol=1e-15, rtol=1e-15)


# A network and its Lagrangian


class Layers(NamedTuple):
    """Lengths and unit directions of the layers of a ReLU network, inputs, and labels."""

    lengths: Params
    units: Params
    X: Tensor
    y: Tensor

    def rho(self) -> Tensor:
        return torch.stack(list(self.lengths.values())).prod()


@shared
def layers(case: Case) -> list[Layers]:
    """Random networks of two and three layers, two of each."""
    found = []
    for widths in ((3, 5, 1), (3, 5, 4, 1)):
        for k in range(2):
            name = f"layers {len(widths)} {k}"
            W = [normal(case, f"{name} {l}", n, m) for l, (m, n) in enumerate(zip(widths, widths[1:], strict=False))]
            lengths = {f"{l}": 0.8 + 0.6 * torch.rand((), generator=case.generator(f"{name} length {l}")).double()
                       for l in range(len(W))}  # fmt: skip
            y = normal(case, f"{name} y", 7).sign()
            units = {f"{l}": w / w.norm() for l, w in enumerate(W)}
            found.append(Layers(lengths, units, normal(case, f"{name} X", 7, 3), y))
    return found


@shared
def descent(case: Case, p: float, multiplier: float) -> list[Params]:
    """Minus the gradient of the Lagrangian (14) in lengths and directions, the same multiplier in all layers."""
    found = []
    for one in layers(case):
        names = list(one.units)

        def loss(s: Params, one: Layers = one, names: list[str] = names) -> Tensor:
            rho = torch.stack([s[f"r{k}"] for k in names]).prod()
            f = mlp([s[f"V{k}"] for k in names], one.X)[:, 0]
            penalty = sum((multiplier * (s[f"V{k}"].abs().pow(p).sum() - 1) for k in names), torch.zeros(()))
            return (-rho * one.y * f).exp().sum() + penalty

        state = {f"r{k}": one.lengths[k] for k in names} | {f"V{k}": one.units[k] for k in names}
        found.append({name: -g for name, g in gradient(loss)(state).items()})
    return found


@shared
def outputs(case: Case) -> list[tuple[Tensor, Params]]:
    """Outputs of the normalised networks, and their slopes in each layer, sample by sample."""
    found = []
    for one in layers(case):
        f = lambda V, one=one: mlp(list(V.values()), one.X)[:, 0]
        found.append((f(one.units), torch.func.jacrev(f)(one.units)))
    return found


@shared
def drifts(case: Case, p: float, projector: float) -> Tensor:
    """Lp norms along the flow of a drive that turns with time, projected along the normal of another norm."""
    M, x = normal(case, f"turning {p}", 5, 5), normal(case, f"start {p}", 5)
    u = x + x.sign()  # entries of both signs, off zero, where the norm has a corner
    drive = lambda s: 0.2 * torch.sin(M @ s["u"] + 5 * s["t"])
    field = lambda s: {"u": tangent_projection(s["u"], drive(s), projector), "t": torch.ones_like(s["t"])}
    path = integrate(field, {"u": u / norm(u, p), "t": rows(0.0)}, [0.0, 0.25, 0.5, 0.75, 1.0])
    return norm(path["u"], p, dim=1)


# Which margin a method makes large

DATA = rows([[1.0, 0.5, 0.3], [0.8, 1.2, -0.3], [2.0, 0.6, 1.2], [2.0, -0.2, 0.9], [1.1, 2.0, 0.3]])  # rows y x
EXPONENTS = (1.5, 2.0, 3.0, 6.0)
PLANE = rows([[1.0, 0.5], [1.4, 0.9], [1.1, 1.6], [2.2, 0.7]])  # in the plane, the first one is alone on every margin


@shared
def largest_margin_in(p: float) -> Tensor:
    """Direction of the largest Lp margin on the data: the shortest w with all margins at least one."""
    limits = {"type": "ineq", "fun": lambda w: DATA.numpy() @ w - 1, "jac": lambda w: DATA.numpy()}
    w = minimize(lambda w: (abs(w) ** p).sum() / p, [2.0, 1.0, 1.0], constraints=limits, method="SLSQP",
                 options={"ftol": 1e-15, "maxiter": 500}).x  # fmt: skip
    return rows((w / math.hypot(*w)).tolist())


@shared
def constrained(method: str, p: float, data: Tensor = DATA, records: int = 2) -> Tensor:
    """Directions as rho grows from one to 1e4, and then to 2e4, along the flow that a method follows for small steps.

    The gradient is divided by rho and the loss: with the plain one the same path is run through in another time.
    """

    def field(s: Params) -> Params:
        u = s["u"] / norm(s["u"], p)
        drive = s["rho"] * torch.softmax(-s["rho"] * (data @ u), 0) @ data
        return {"u": constrained_velocity(u, drive, p, method=method), "rho": s["rho"]}

    start = rows([1.0, 0.9, 0.8] if data.shape[1] == 3 else [0.15, 1.0])
    times = [*(math.log(1e4) * torch.linspace(0, 1, records).double() ** 2).tolist(), math.log(2e4)]
    path = integrate(field, {"u": start / norm(start, p), "rho": rows(1.0)}, times, method="Radau", relative=1e-7,
                     absolute=1e-10)["u"]  # fmt: skip
    return path / path.norm(dim=1, keepdim=True)


# Late times


@shared
def pulled(case: Case, s: float) -> list[tuple[Tensor, Tensor]]:
    """Unit vector and drive times t, for linear models at log t = s, on the sphere (p = 2)."""
    found = []
    for run, (P, _) in zip(late(case, "weight normalization", SETS), point_sets(case, SETS), strict=True):
        w = run.vector[run.at(s)]
        found.append((w / w.norm(), w.norm() * (s - P @ w).exp() @ P))
    return found


CLOCK = (0.0, 6.0, 12.0)


class Sphere(NamedTuple):
    """At the clock's times, one row each: drives of all layers, multipliers, speeds of directions, lengths."""

    drives: Tensor
    multipliers: Tensor
    speeds: Tensor
    lengths: Tensor


@shared
def on_spheres(case: Case) -> list[Sphere]:
    """Networks under the flow with a multiplier for p = 2, in the clock log(1 + t); linear ones and a smooth one."""
    found = []
    for depth, activation in ((2, identity), (3, identity), (2, smooth_cube)):
        name = f"spheres {depth} {activation.__name__}"
        if activation is identity:
            f, W = aligned(case, name, depth, 0.5 * separable(case, name, 5, 3), 1.0)
        else:
            f, W = separated_start(case, name, depth, activation)
        found.append(_on_spheres(f, W))
    return found


def _on_spheres(f: Outputs, W: Params) -> Sphere:
    flow, names = reparametrized(exponential(f), "sphere"), list(W)

    def slow(s: Params) -> Params:
        own = {k: x for k, x in s.items() if k != "clock"}
        return {k: s["clock"].exp() * x for k, x in flow(own).items()} | {"clock": torch.ones_like(s["clock"])}

    begin = to_polar(W) | {"clock": torch.zeros((), dtype=torch.float64)}
    path = integrate(slow, begin, CLOCK, relative=1e-6, absolute=1e-8)
    at: list[list[Tensor]] = [[], [], [], []]
    for i in range(len(CLOCK)):
        r = {k: path[f"{k}.length"][i] for k in names}
        V = {k: path[f"{k}.direction"][i] for k in names}
        rho = torch.stack(list(r.values())).prod()
        pull = torch.func.grad(lambda U, rho=rho: (-rho * f(U)).exp().sum())(V)
        g = {k: -x for k, x in pull.items()}  # rho times the weighted slopes: the g of (17)
        along = torch.stack([(g[k] * V[k]).sum() for k in names])
        at[0].append(torch.stack([g[k].norm() for k in names]))
        at[1].append(along / 2)
        at[2].append(torch.stack([(g[k] - a * V[k]).norm() for k, a in zip(names, along, strict=True)]))
        at[3].append(torch.stack(list(r.values())))
    return Sphere(*(torch.stack(x) for x in at))


class Still(NamedTuple):
    """Outputs as a function of unit layers, these layers, and the weights of the samples in the force."""

    f: Outputs
    units: Params
    alpha: Tensor
    X: Tensor


@shared
def rank_one(case: Case) -> list[Still]:
    """Three linear layers of rank one, in line, at the largest margin; the weights are those of the support vectors."""
    found = []
    for (P, _), best in zip(point_sets(case, SETS), geometry(case, SETS), strict=True):
        a, b = (x / x.norm() for x in (normal(case, "frame a", 4), normal(case, "frame b", 4)))
        units = {"W0": torch.outer(a, best.direction), "W1": torch.outer(b, a), "W2": b[None]}
        f = lambda p, P=P: mlp([p["W0"], p["W1"], p["W2"]], P, activation=identity)[:, 0]
        alpha = torch.zeros(len(P), dtype=torch.float64)
        alpha[best.supports] = best.dual
        found.append(Still(f, units, alpha / alpha.sum(), P))
    return found


# The geometry of Fisher and Rao


@shared
def slopes_of_losses(case: Case, biased: bool) -> list[tuple[Tensor, Tensor, Tensor, int]]:
    """Weights, slopes of the loss sample by sample, slope in the output times the output, and the depth."""
    found = []
    for one in layers(case):
        W = {k: one.lengths[k] * V for k, V in one.units.items()}
        shifts = [0.5 * normal(case, f"fisher {k}", len(x)) for k, x in W.items()] if biased else None
        f = lambda p, one=one, shifts=shifts: mlp(list(p.values()), one.X, biases=shifts)[:, 0]
        slopes = torch.func.jacrev(lambda p, one=one, f=f: (-one.y * f(p)).exp())(W)
        flat = torch.cat([slopes[k].flatten(1) for k in W], 1)
        out = one.y * f(W)
        found.append((torch.cat([x.flatten() for x in W.values()]), flat, -out * (-out).exp(), len(W)))
    return found


# A penalty on rho

PENALTIES = (1e-2, 1e-4)
GAMMA = 0.8


@shared
def length_of_a_point(penalty: float, until: float, start: float = 1.0) -> Tensor:
    """Late length of the flow for one point of margin GAMMA, with a penalty times the squared length."""
    field = lambda s: {"rho": GAMMA * torch.exp(-GAMMA * s["rho"]) - 2 * penalty * s["rho"]}
    return integrate(field, {"rho": rows(start)}, (0.0, until), method="LSODA", relative=1e-10)["rho"][-1]


@shared
def penalised(case: Case, penalty: float, until: float) -> list[Tensor]:
    """The same with several points, whose direction moves too."""
    found = []
    for P, _ in point_sets(case, SETS):

        def field(s: Params, P: Tensor = P) -> Params:
            u = s["u"] / s["u"].norm()
            g = s["rho"] * (-s["rho"] * (P @ u)).exp() @ P
            return {"u": g - u * (u @ g), "rho": u @ g / s["rho"] - 2 * penalty * s["rho"]}

        start = {"u": P.mean(0) / P.mean(0).norm(), "rho": rows(1.0)}
        end = integrate(field, start, (0.0, until), method="LSODA", relative=1e-9, absolute=1e-12)
        found.append(end["rho"][-1])
    return found


@shared
def shortest_penalised(case: Case, penalty: float) -> list[Tensor]:
    """Length of the minimiser of the loss plus penalty times the squared length, by Newton's method: it is convex."""
    found = []
    for P, _ in point_sets(case, SETS):
        w = torch.zeros(P.shape[1], dtype=torch.float64)
        for _ in range(100):
            q = (-P @ w).exp()
            step = torch.linalg.solve(P.mT * q @ P + 2 * penalty * torch.eye(len(w)).double(), q @ P - 2 * penalty * w)
            w = w + step * min(1.0, 1.0 / step.norm().item())
        found.append(w.norm())
    return found


# Kernels


@shared
def exclusive_or(case: Case) -> Tensor:
    """Gaussian kernel between ten points of two classes that no line separates, labels absorbed.

    Drawn again until some points are no support vectors and nothing is nearly degenerate.
    """
    for k in range(200):
        Z = normal(case, f"exclusive or {k}", 10, 2)
        y = (Z[:, 0] * Z[:, 1]).sign()
        K = y[:, None] * torch.exp(-torch.cdist(Z, Z).square()) * y
        dual = _dual(K)
        on = dual > 1e-9
        slowest = torch.linalg.eigvalsh(dual[on].sqrt()[:, None] * K[on][:, on] * dual[on].sqrt())[0]
        if 4 <= on.sum() < 10 and slowest > 0.1 and (K[~on] @ dual).min() > 1.1:
            return K
    raise RuntimeError("no kernel of 200 is generic")


def _dual(K: Tensor) -> Tensor:
    """Coefficients of the support vector machine without offset, by non-negative least squares."""
    lower, info = torch.linalg.cholesky_ex(K)
    if info:
        return torch.zeros(len(K), dtype=torch.float64)
    ones = torch.linalg.solve_triangular(lower, torch.ones(len(K), 1, dtype=torch.float64), upper=False)[:, 0]
    return rows(nnls(lower.mT.numpy(), ones.numpy(), maxiter=5000)[0].tolist())


@shared
def growth(case: Case, space: str, reach: float) -> Tensor:
    """What the coefficients of a kernel machine grow by per unit of log t, between log t = 200 and 400 times reach."""
    K = exclusive_or(case)
    metric = {"features": torch.eye(len(K)).double(), "coefficients": K}[space]
    field = lambda s: {"c": metric @ (s["s"] - K @ s["c"]).exp(), "s": torch.ones_like(s["s"])}
    start = {"c": torch.zeros(len(K), dtype=torch.float64), "s": rows(0.0)}
    c = integrate(field, start, (0.0, 200 * reach, 400 * reach), method="Radau", relative=1e-9, absolute=1e-10)["c"]
    return (c[2] - c[1]) / (200 * reach)


@shared
def support_vector_machine(case: Case) -> Tensor:
    """Dual coefficients of the machine without offset."""
    return _dual(exclusive_or(case))


# Prescribed lengths

SCHEDULES = {"square root": lambda t: 1 + t.sqrt(), "linear": lambda t: 1 + t}
LENGTHS = rows([1, 2, 4, 10, 30, 100, 500, 2000, 4000])  # at which directions are recorded


def times_of(schedule: str) -> Tensor:
    """When the prescribed length has these values; of the logarithm, up to the time that the square root needs."""
    found = {"linear": LENGTHS - 1, "square root": (LENGTHS - 1) ** 2}
    return found[schedule] if schedule in found else (rows(range(9)) * math.log(10) * 7 / 8).exp() - 1


@shared
def scheduled(case: Case, schedule: str, divided: bool) -> list[Tensor]:
    """Directions at these times for a prescribed length; rho and the loss divide the gradient, or nothing does."""
    found = []
    for (P, _), limit in zip(point_sets(case, SETS), geometry(case, SETS), strict=True):
        length = {"logarithm": lambda t, gamma=limit.margin: 1 + torch.log1p(t) / gamma, **SCHEDULES}[schedule]

        def field(s: Params, P: Tensor = P, length=length) -> Params:
            u, rho = s["u"] / s["u"].norm(), length(s["t"])
            weights = torch.softmax(-rho * (P @ u), 0) if divided else rho * torch.exp(-rho * (P @ u))
            return {"u": tangent_projection(u, weights @ P), "t": torch.ones_like(s["t"])}

        start = {"u": P.mean(0) / P.mean(0).norm(), "t": rows(0.0)}
        path = integrate(field, start, times_of(schedule), method="Radau", relative=1e-6, absolute=1e-10)
        found.append(path["u"] / path["u"].norm(dim=1, keepdim=True))
    return found


# Stationary layers


def curved(z: Tensor) -> Tensor:
    """Homogeneous of order one, neither linear nor flat at zero."""
    return z + z**3 / (2 * z.square().sum(1, keepdim=True))


STATIONARY = ((3, identity, 10.0), (3, identity, 40.0), (2, curved, 10.0), (2, curved, 40.0))


@shared
def still(case: Case, steps: int = 300) -> list[Still]:
    """Unit layers at which the force of the exponential loss at a fixed rho has no part along the spheres.

    Raises:
        Unfinished: it still has one.
    """
    found = []
    for depth, activation, rho in STATIONARY:
        for k in range(2):
            f, W, X = _still_network(case, depth, activation, k)
            V = {name: x / x.norm() for name, x in W.items()}
            V, rest = _ascend(lambda p, f=f, rho=rho: -torch.logsumexp(-rho * f(p), 0) / rho, V, steps, rho)
            if steps and not rest < 1e-9:
                raise Unfinished(f"depth {depth}, rho {rho:g}, start {k}: layers still move by {rest:.0e} of the force")
            found.append(Still(f, V, torch.softmax(-rho * f(V), 0), X))
    return found


def _ascend(soft: Outputs, V: Params, steps: int, rho: float) -> tuple[Params, float]:
    """Climb on unit spheres by short steps, and on to rest by Newton's; more short ones where that was too early."""
    unit = lambda p: {k: x / x.norm() for k, x in p.items()}
    force, V = gradient(lambda p: soft(unit(p))), unit(V)  # nothing of the force is along the layers
    found = V, math.inf
    for _ in range(10 if steps else 0):
        for _ in range(steps):
            g = force(V)
            V = unit({k: V[k] + 0.5 / (1 + rho) * g[k] for k in V})
        found = _to_rest(lambda p: soft(unit(p)), V)
        if found[1] < 1e-9:
            break
    return unit(found[0]), found[1]


def _to_rest(soft: Outputs, V: Params) -> tuple[Params, float]:
    """A zero of the slope next to V, by the method of Levenberg and Marquardt, and the largest slope left."""
    shapes, sizes = [x.shape for x in V.values()], [x.numel() for x in V.values()]
    unpack = lambda v: {k: x.reshape(s) for k, x, s in zip(V, v.split(sizes), shapes, strict=True)}
    slope = torch.func.grad(lambda v: soft(unpack(v)))
    bend, v, damping = torch.func.jacrev(slope), torch.cat([x.flatten() for x in V.values()]), 1e-3
    rest, J = slope(v), bend(v)
    for _ in range(40):
        if rest.abs().max() < 1e-11:
            break
        tried = v - torch.linalg.solve(J @ J + damping * torch.eye(len(v), dtype=v.dtype), J @ rest)
        if (left := slope(tried)).norm() < rest.norm():
            v, rest, damping = tried, left, damping / 10
            J = bend(v)
        else:
            damping *= 10
    return unpack(v), rest.abs().max().item()


def _still_network(case: Case, depth: int, activation, k: int) -> tuple[Outputs, Params, Tensor]:
    name = f"still {depth} {activation.__name__} {k}"
    P = separable(case, name, 5, 3)
    if activation is identity:
        widths = (3, 4, 4)[:depth] + (1,)
        W = {f"W{l}": normal(case, f"{name} {l}", n, m)
             for l, (m, n) in enumerate(zip(widths, widths[1:], strict=False))}  # fmt: skip
        f = lambda p: mlp([p[f"W{l}"] for l in range(depth)], P, activation=identity)[:, 0]
        last = f"W{depth - 1}"
        return f, W | {last: W[last] * f(W).mean().sign()}, P
    f, W = separated_start(case, name, depth, activation)
    return f, W, P

"""Runs of section 8.1 of paper D: one point and several, in logarithmic time, and descent on one flower.

Labels are absorbed: ``x`` stands for ``y x``.
"""

from math import exp, hypot, log
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.theory_iii.hidden_complexity_control_runs import Geometry, generic, largest_margin, normal, separable
from normdyn.data.sets import iris
from normdyn.motion.flows import Params, gradient, integrate
from normdyn.norms.margins import decay_exponents, direction_error, follow, symmetric_pair

GRADIENT, WEIGHT, BATCH = "gradient", "weight normalization", "batch normalization"
FLOWS = (GRADIENT, WEIGHT)


def rows(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def across(w: Tensor, x: Tensor) -> Tensor:
    """What a vector has at right angles to another."""
    return w - x * (w @ x) / (x @ x)


# At an instant


class Motion(NamedTuple):
    """Points, a length and a direction, and their velocities by the chain rule."""

    X: Tensor
    rho: Tensor
    V: Tensor
    rates: tuple[Tensor, Tensor]


@shared
def motions(case: Case) -> list[Motion]:
    """Twenty problems of six points in four dimensions, not separated as a rule."""
    found = []
    for k in range(20):
        X, w = normal(case, f"points {k}", 6, 4), normal(case, f"weights {k}", 4)
        drive = -torch.func.grad(lambda w, X=X: (-X @ w).exp().sum())(w)
        rates = torch.func.jvp(lambda w: (w.norm(), w / w.norm()), (w,), (drive,))[1]
        found.append(Motion(X, w.norm(), w / w.norm(), rates))
    return found


@shared
def pulls(case: Case) -> list[Tensor]:
    """Five vectors x of lengths that are not one."""
    return [(1.5 + 0.3 * k) * x / x.norm() for k in range(5) for x in [normal(case, f"pull {k}", 4)]]


@shared
def pairs(case: Case, side: str, near: float) -> list[tuple[Tensor, Tensor]]:
    """Directions in two's, for each of the pulls: separating (V.x > 0), or anywhere on the sphere."""
    found = []
    for k, x in enumerate(pulls(case)):
        V = normal(case, f"first {k}", 200, 4)
        U = V + near * normal(case, f"second {k}", 200, 4)
        turn = lambda Z, x=x: torch.where((Z @ x > 0)[:, None], Z, Z - 2 * torch.outer(Z @ x, x) / (x @ x))
        V, U = (turn(V), turn(U)) if side == "separating" else (V, U)
        found.append((V / V.norm(dim=1, keepdim=True), U / U.norm(dim=1, keepdim=True)))
    return found


def turning(V: Tensor, x: Tensor) -> Tensor:
    """(I - V V') x for each row V."""
    return x - V * (V @ x)[..., None]


@shared
def turned(case: Case, start: str) -> list[Tensor]:
    """Where the flow of the direction ends, from drawn starts and from close to the antipode, or at it."""
    found = []
    for k, x in enumerate(pulls(case)):
        V = normal(case, f"start {k}", 20, 4)
        V[0] = -x + (1e-3 * V[0] if start == "drawn" else 0)
        V = V / V.norm(dim=1, keepdim=True)
        field = lambda p, x=x: {"V": turning(p["V"] / p["V"].norm(dim=1, keepdim=True), x)}
        path = integrate(field, {"V": V}, [0.0, 30 / x.norm().item()], relative=1e-9)
        found.append(path["V"][-1])
    return found


# One point


class One(NamedTuple):
    """A point and a start."""

    x: Tensor
    start: Tensor


@shared
def single(case: Case, unit: bool) -> list[One]:
    """Six points of lengths from a half to two, or of length one, in two to four dimensions, with separating starts."""
    found = []
    for k in range(6):
        x, w = normal(case, f"single {k}", 2 + k % 3), normal(case, f"single start {k}", 2 + k % 3)
        x = x / x.norm() * (1.0 if unit else 0.5 * 1.3**k)
        found.append(One(x, across(w, x) + 0.5 * x / x.norm()))
    return found


@shared
def tangents(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Unit points, and a vector at right angles to each."""
    return [(x, across(w, x)) for x, w in single(case, True)]


@shared
def followed(case: Case, unit: bool, system: str, log_times: tuple[float, ...]) -> list[dict[str, Tensor]]:
    """Each point's flow in the weights, recorded at given log t."""
    return [
        follow(x[None], start, log_times, system=system, frame=x / (x @ x), relative=1e-10)
        for x, start in single(case, unit)
    ]


def miss(path: dict[str, Tensor], x: Tensor) -> Tensor:
    """Distance of the unit vector of w from that of x, at the recorded times."""
    w = path["vector"]
    return (w / w.norm(dim=1, keepdim=True) - x / x.norm()).norm(dim=1)


def angle_in_logs(
    x: Tensor, start: Tensor, system: str, log_times: list[float], size: float = 1.0
) -> dict[str, Tensor]:
    """Logarithms of the error |v - x/|x|| and of the sine of the angle, for angles far below what a vector can hold.

    ``pull`` is t exp(-w.x).
    The state is the length and ``u = log tan(theta/2)``, the clock ``s = log(1 + t)``.
    """
    n, first = x.norm(), start.norm()
    half = torch.atan2(across(start, x).norm(), start @ x / n) / 2

    def field(p: Params) -> Params:
        theta = 2 * p["u"].exp().atan()
        g = (p["s"] + p["lag"]) / n
        pull = (p["s"] - g * n * theta.cos()).exp() * n
        speed = g / size**2 if system == WEIGHT else 1 / g
        return {"s": torch.ones_like(g), "lag": n * pull * theta.cos() - 1, "u": -speed * pull}

    begin = {"s": rows(0.0), "lag": first * n, "u": half.tan().log()}
    record = {
        "error": lambda p: log(2) + p["u"] - torch.log1p((2 * p["u"]).exp()) / 2,
        "pull": lambda p: (p["s"] - (p["s"] + p["lag"]) * (2 * p["u"].exp().atan()).cos()).exp(),
        "length": lambda p: (p["s"] + p["lag"]) / n,
        "sine": lambda p: log(2) + p["u"] - torch.log1p((2 * p["u"]).exp()),
    }
    times = [0.0, *log_times]
    return integrate(field, begin, times, record=record, method="LSODA", relative=1e-11, absolute=1e-12)


REACHED = (200.0, 400.0, 800.0)


@shared
def in_logs(case: Case, unit: bool, system: str, size: float = 1.0) -> list[dict[str, Tensor]]:
    """The same points to log t = 800, also under the flow on the sphere, with raw weights of a given size."""
    return [angle_in_logs(x, start, system, list(REACHED), size) for x, start in single(case, unit)]


# Figure 2

STEP, BEGIN = 0.05, (0.5, 0.5)  # in the margin; along the flower and across


@shared
def flower_length() -> float:
    return iris().inputs[0].norm().item()


@shared
def descended(case: Case, kind: str, norm: float) -> tuple[Tensor, Tensor]:
    """Descent on one point of given length: times, and the logarithm of the tangent of the angle.

    Exact reductions: plain descent leaves the part across alone; in g and v three numbers are left.
    """
    last = {"quick": 10**5, "paper": 10**6}[case.profile]
    marks = sorted({round(10 ** (k / 8)) for k in range(8, round(8 * log(last, 10)) + 1)})
    step, seen, kept = STEP / norm**2, 0, []
    m, g, a, b = BEGIN[0] * norm, hypot(*BEGIN), BEGIN[0] / hypot(*BEGIN), BEGIN[1] / hypot(*BEGIN)
    for mark in marks:
        for _ in range(mark - seen):
            if kind == GRADIENT:
                m += step * norm**2 * exp(-m)
            else:
                n = hypot(a, b)
                push = step * norm * exp(-g * norm * a / n)
                turn = g * push / n**3
                g, a, b = g + push * a / n, a + turn * b * b, b - turn * a * b
        seen = mark
        kept.append(log(norm * BEGIN[1] / m) if kind == GRADIENT else log(b / a))
    return step * rows(marks), rows(kept)


@shared
def flower_late(log_times: tuple[float, ...]) -> list[Tensor]:
    """Tangent of the angle to the flower under the standard flow, at unit length and as it is."""
    found = []
    for norm in (1.0, flower_length()):
        x = rows([norm, 0.0])
        path = follow(x[None], rows(BEGIN), log_times, frame=x / norm**2)
        found.append(path["vector"][:, 1] / path["vector"][:, 0])
    return found


# Several points

CASES = {
    "unequal dual weights": rows([[1.0, 1.0], [1.0, -0.5]]),
    "equal dual weights": rows([[1.0, 0.3], [1.0, -0.3]]),
    "one support vector": rows([[1.0, 0.0], [1.2, 0.7]]),
    "a zero dual weight": rows([[1.0, 0.0], [1.0, 0.7]]),
}
FIRST = rows([1.0, 0.3])
CLOCK = torch.logspace(0.3, log(690, 10), 15, dtype=torch.float64)


def shortest(P: Tensor, metric: Tensor | None = None) -> Tensor:
    """The shortest vector with margins of one, in a metric."""
    one = largest_margin(P, metric)
    return one.direction / one.margin


@shared
def angles(name: str, system: str) -> Tensor:
    """Logarithm of the angle to the largest margin of one of the cases, at the times of the figure."""
    if name == "equal dual weights":  # in the logarithm of the angle: it leaves the range of floating point
        return symmetric_pair(0.3, (FIRST[0].item(), FIRST[1].item()), CLOCK, system=system)["log_tangent"]
    vector = shortest(CASES[name])
    return direction_error(follow(CASES[name], FIRST, CLOCK, system=system, frame=vector), vector).log()


@shared
def symmetric(system: str, log_times: tuple[float, ...]) -> Tensor:
    """Logarithm of the tangent of the angle of the case with equal dual weights."""
    return symmetric_pair(0.3, (FIRST[0].item(), FIRST[1].item()), rows(log_times), system=system)["log_tangent"]


@shared
def residuals(name: str, system: str, log_times: tuple[float, ...]) -> Tensor:
    """``w - s c`` of one of the cases, with c the shortest vector with margins of one."""
    return follow(CASES[name], FIRST, log_times, system=system, frame=shortest(CASES[name]))["residual"]


def slowest(P: Tensor) -> float:
    """Least power of 1/t with which the standard flow comes to rest across the largest margin."""
    one = largest_margin(P)
    return decay_exponents(P[one.supports], one.direction / one.margin, one.dual)[0].item()


@shared
def planes(case: Case, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Drawn sets in two and three dimensions whose support vectors span and differ in weight, with starts.

    What comes to rest slower than t^-0.15 is left out: at log t = 86 it would not have.
    """
    found, k = [], 0
    while len(found) < count:
        d = 2 + len(found) % 2
        P = separable(case, f"plane {k}", d + 2, d)
        if generic(P) and int(largest_margin(P).supports.sum()) == d and slowest(P) > 0.15:
            found.append((P, normal(case, f"plane start {k}", d)))
        k += 1
    return found


@shared
def one_each(case: Case) -> list[tuple[Tensor, Tensor]]:
    """The first point of each of these sets, alone."""
    return [(P[:1], start + P[0]) for P, start in planes(case)]


def sets(case: Case, points: str) -> list[tuple[Tensor, Tensor]]:
    return planes(case) if points == "several" else one_each(case)


@shared
def geometries(case: Case, points: str = "several") -> list[Geometry]:
    return [largest_margin(P) for P, _ in sets(case, points)]


LATE = (86.25, 172.5, 345.0, 690.0)


@shared
def errors(case: Case, system: str, points: str = "several") -> list[Tensor]:
    """Angles of these sets to the largest margin at log t = 86 to 690."""
    found = []
    for P, start in sets(case, points):
        vector = shortest(P)
        found.append(direction_error(follow(P, start, LATE, system=system, frame=vector, relative=1e-7), vector))
    return found


def late_constant(angle: Tensor, s: float) -> Tensor:
    """C of C / log t, from the inverse angles at log t = s and 2 s: what is constant in them drops out."""
    k = LATE.index(s)
    return s / (1 / angle[k + 1] - 1 / angle[k])


@shared
def iris_late() -> dict[str, Tensor]:
    """Setosa against the rest without a bias: angle times log t at t = 1e13, 1e43, 1e130 and 1e300."""
    data = iris()
    flowers = data.inputs * (1 - 2 * (data.labels > 0).double())[:, None]
    vector, late = shortest(flowers), rows([30.0, 100.0, 300.0, 690.0])
    start = torch.full((4,), 0.1, dtype=torch.float64)
    path = lambda system: follow(flowers, start, late, system=system, frame=vector)
    return {"points": flowers} | {system: direction_error(path(system), vector) * late for system in FLOWS}


# Batch normalisation


@shared
def batches(case: Case, inputs: str) -> list[tuple[Tensor, Tensor]]:
    """Batches in three dimensions with their second moments: as drawn, or whitened."""
    found, k = [], 0
    while len(found) < 2:
        P = separable(case, f"batch {k}", 5, 3) * rows([1.0, 2.0, 0.5])
        k += 1
        M = P.mT @ P / len(P)
        white = P @ torch.linalg.inv(torch.linalg.cholesky(M)).mT
        if generic(white) and int(largest_margin(white).supports.sum()) == 3:
            found.append((white, torch.eye(3, dtype=P.dtype)) if inputs == "whitened" else (P, M))
    return found


def batch_normalised(p: Params, X: Tensor) -> Tensor:
    z = X @ p["v"]
    return p["g"] * z / z.square().mean().sqrt()


@shared
def seen_motion(case: Case, inputs: str, kind: str) -> list[Tensor]:
    """Velocity of the vector that a layer applies, by automatic differentiation; the same vector for both kinds."""
    found = []
    for k, (P, M) in enumerate(batches(case, inputs)):
        w = normal(case, f"seen {k}", 3)
        w = w / w.norm()
        seen = {
            "batch": lambda p, M=M: p["g"] * p["v"] / (p["v"] @ M @ p["v"]).sqrt(),
            "weight": lambda p: p["g"] * p["v"] / p["v"].norm(),
        }[kind]
        output = {"batch": batch_normalised, "weight": lambda p, X, seen=seen: X @ seen(p)}[kind]
        start = {"g": (w @ M @ w).sqrt() if kind == "batch" else w.norm(), "v": w}
        drive = {k: -h for k, h in gradient(lambda p, P=P, output=output: (-output(p, P)).exp().sum())(start).items()}
        found.append(torch.func.jvp(seen, (start,), (drive,))[1])
    return found


@shared
def batch_late(case: Case, inputs: str) -> list[Tensor]:
    """Vectors that batch normalisation applies at log t = 86 to 345, in whitened coordinates."""
    found = []
    for P, M in batches(case, inputs):
        own = shortest(P, M)
        w = follow(P, own + 0.1 * P[0], LATE[:3], system=BATCH, metric=M, frame=own, relative=1e-7)["vector"]
        found.append(w @ torch.linalg.cholesky(M))
    return found


@shared
def whitened(case: Case, inputs: str) -> list[tuple[Tensor, Geometry]]:
    """The same batches in whitened coordinates, and their largest margins there."""
    white = [P @ torch.linalg.inv(torch.linalg.cholesky(M)).mT for P, M in batches(case, inputs)]
    return [(P, largest_margin(P)) for P in white]


@shared
def lone_direction(case: Case, kind: str) -> list[Tensor]:
    """How far the direction turns on a batch of one point, from time 0 to 20."""
    found = []
    for x, start in single(case, True):
        loss = {
            "batch": lambda p, x=x: (-batch_normalised(p, x[None])).exp().sum(),
            "weight": lambda p, x=x: (-p["g"] * x @ p["v"] / p["v"].norm()).exp(),
        }[kind]
        field = lambda p, loss=loss: {k: -h for k, h in gradient(loss)(p).items()}
        v = integrate(field, {"g": rows(1.0), "v": start / start.norm()}, [0.0, 20.0], relative=1e-8)["v"]
        found.append((v[1] / v[1].norm() - v[0]).norm())
    return found

"""Runs of sections 14.1 and 14.2 of paper D: one linear layer, square and exponential loss, with and without penalty.

Labels are absorbed under the exponential loss: ``x`` stands for ``y x``. Losses are sums, as in these sections.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.special import lambertw
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.theory_iii.hidden_complexity_control_runs import (
    Geometry,
    exponential,
    generic,
    largest_margin,
    normal,
    polar,
    weight_normalised,
)
from normdyn.measures.curvature import critical_point, hessian
from normdyn.motion.flows import gradient_flow, integrate
from normdyn.norms.margins import decay_exponents, follow
from normdyn.symmetry.polar import reparametrized, to_polar


def rows(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def identity(z: Tensor) -> Tensor:
    return z


# Square loss

SHAPES = {"wide": (4, 7, 4), "tall": (9, 3, 3), "thin": (6, 5, 2)}  # examples, dimensions, rank


@shared
def problems(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Examples, targets and weights: more dimensions than examples, fewer, and examples that do not span."""
    found = []
    for name, (n, d, rank) in SHAPES.items():
        X = normal(case, f"{name} rows", n, rank) @ normal(case, f"{name} columns", rank, d) / rank**0.5
        found.append((X, normal(case, f"{name} targets", n), normal(case, f"{name} weights", d)))
    return found


@shared
def interpolable(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The same with targets that some weights fit, as these sections assume."""
    return [(X, X @ normal(case, f"teacher {k}", X.shape[1]), w) for k, (X, _, w) in enumerate(problems(case))]


def square(X: Tensor, y: Tensor, unit=identity, penalty: float = 0.0):
    """The loss in the weights, with a penalty |w|^2."""
    return lambda p: (y - unit(X @ p["w"])).square().sum() + penalty * p["w"].square().sum()


def null_part(X: Tensor, w: Tensor) -> Tensor:
    """What the weights have at right angles to all examples."""
    return w - torch.linalg.pinv(X, rtol=1e-10) @ (X @ w)


@shared
def drifts(case: Case, unit=identity, penalty: float = 0.0) -> list[Tensor]:
    """Velocity of the weights by automatic differentiation."""
    return [gradient_flow(square(X, y, unit, penalty))({"w": w})["w"] for X, y, w in problems(case)]


@shared
def jacobians(case: Case, penalty: float = 0.0) -> list[Tensor]:
    return [-hessian(square(X, y, penalty=penalty), {"w": w}) for X, y, w in problems(case)]


@shared
def kept(case: Case, rule: str, decay: float = 0.0) -> list[Tensor]:
    """Null parts of the weights after a while of flow, descent or stochastic descent, under either loss."""
    found = []
    for k, (X, y, w) in enumerate(interpolable(case)):
        step = 0.2 / torch.linalg.matrix_norm(X, 2).item() ** 2
        losses = [square(X, y, penalty=decay), lambda p, X=X: (-X @ p["w"]).exp().sum() + decay * p["w"].square().sum()]
        if rule == "flow":
            ends = [integrate(gradient_flow(f), {"w": w}, [0.0, 1.0], relative=1e-9)["w"][-1] for f in losses]
        elif rule == "Adam":
            ends = [adam(f, w) for f in losses]
        else:
            ends, order = [], torch.randint(len(X), (200,), generator=case.generator(f"order {k}")).tolist()
            for slope in (lambda z, t: 2 * (t - z), lambda z, t: (-z).exp()):
                at = w
                for n in order:
                    few = slice(n, n + 1) if rule == "stochastic" else slice(None)
                    at = at + step * (slope(X[few] @ at, y[few]).clamp(max=5.0) @ X[few] - 2 * decay * at)
                ends.append(at)
        found += [null_part(X, end) for end in ends]
    return found


def adam(loss, w: Tensor, steps: int = 100) -> Tensor:
    leaf = w.clone().requires_grad_()
    method = torch.optim.Adam([leaf], lr=0.02)
    for _ in range(steps):
        method.zero_grad()
        loss({"w": leaf}).backward()
        method.step()
    return leaf.detach()


@shared
def descended(case: Case, start: str) -> list[Tensor]:
    """Weights after 2^20 steps of descent, half of the largest stable ones, by squaring the affine map of a step."""
    found = []
    for X, y, w in interpolable(case):
        step = 0.5 / torch.linalg.matrix_norm(X, 2).item() ** 2
        A, b = torch.eye(len(w), dtype=w.dtype) - 2 * step * X.mT @ X, 2 * step * X.mT @ y
        for _ in range(20):
            A, b = A @ A, A @ b + b
        found.append(A @ (torch.zeros_like(w) if start == "zero" else w) + b)
    return found


@shared
def ridge(case: Case, penalty: float, fitted: bool = False) -> list[Tensor]:
    """Minimisers with the penalty times |w|^2, by stacking its root under the examples.

    With ``fitted`` the penalty is a share of the least positive eigenvalue, and targets can be fitted.
    """
    found = []
    for X, y, w in interpolable(case) if fitted else problems(case):
        d, lam = len(w), penalty * (least(X) if fitted else 1.0)
        stacked = torch.cat([X, lam**0.5 * torch.eye(d, dtype=X.dtype)])
        found.append(torch.linalg.lstsq(stacked, torch.cat([y, y.new_zeros(d)])[:, None]).solution[:, 0])
    return found


def least(X: Tensor) -> float:
    """The smallest eigenvalue of X'X that is not zero."""
    values = torch.linalg.svdvals(X)
    return values[values > 1e-10 * values[0]][-1].item() ** 2


@shared
def settled(case: Case, penalty: float) -> list[Tensor]:
    """Where the flow ends from three starts of each problem, one row a start."""
    found = []
    for k, (X, y, w) in enumerate(problems(case)):
        starts = 3 * normal(case, f"settling {k}", 3, len(w))
        f = lambda p, X=X, y=y: (y - p["w"] @ X.mT).square().sum() + penalty * p["w"].square().sum()
        found.append(integrate(gradient_flow(f), {"w": starts}, [0.0, 30.0], method="LSODA", relative=1e-9)["w"][-1])
    return found


FADING = (0.0, 0.03, 0.1)
TIMES = torch.linspace(0, 30, 11, dtype=torch.float64)


@shared
def fading(case: Case, penalty: float) -> Tensor:
    """Size of the null part along the flow of the first problem."""
    X, y, w = problems(case)[0]
    size = {"null": lambda p: null_part(X, p["w"]).norm()}
    flow = gradient_flow(square(X, y, penalty=penalty))
    return integrate(flow, {"w": w}, TIMES, record=size, relative=1e-9)["null"]


# Exponential loss


class Cloud(NamedTuple):
    """Eight unit vectors with positive margins in four of six dimensions, their largest margin, and a start."""

    points: Tensor
    frame: Tensor
    best: Geometry
    hard: Tensor
    start: Tensor

    def outside(self, w: Tensor) -> Tensor:
        """The part that no point sees."""
        return w - w @ self.frame.mT @ self.frame


@shared
def clouds(case: Case, count: int = 3) -> list[Cloud]:
    """Drawn until support vectors are settled by log t = 1000 and have weights that differ and do not vanish."""
    found, k = [], 0
    while len(found) < count:
        frame = torch.linalg.qr(normal(case, f"frame {k}", 6, 4)).Q.mT
        teacher, inner = normal(case, f"teacher {k}", 4), normal(case, f"cloud {k}", 8, 4)
        inner = inner * (inner @ teacher).sign()[:, None] + teacher / teacher.norm()
        points = inner / inner.norm(dim=1, keepdim=True) @ frame
        best, start = largest_margin(points), normal(case, f"start {k}", 6)
        k += 1
        hard = best.direction / best.margin
        if not generic(points) or decay_exponents(points[best.supports], hard, best.dual).min() < 0.03:
            continue
        found.append(Cloud(points, frame, best, hard, 2 * start / start.norm()))
    return found


@shared
def late(case: Case, system: str, log_times: tuple[float, ...]) -> list[dict[str, Tensor]]:
    """Weights and residuals ``w - s w_hard`` of the clouds at given log t, under the flow or weight normalisation."""
    return [follow(c.points, c.start, log_times, system=system, frame=c.hard) for c in clouds(case)]


@shared
def fits_end(case: Case) -> list[Tensor]:
    """Where the flow of the square loss ends on these clouds, for drawn targets that can be fitted."""
    found = []
    for k, c in enumerate(clouds(case)):
        target = normal(case, f"fitted {k}", 6)
        found.append(target - c.outside(target) + c.outside(c.start))
    return found


class Curved(NamedTuple):
    """Examples, labels, weights and the Jacobian of the flow there, by automatic differentiation."""

    X: Tensor
    w: Tensor
    jacobian: Tensor


@shared
def curved(case: Case, label: float) -> list[Curved]:
    """Examples that span, that are fewer than dimensions, and that lie in a plane, with labels plus and minus one."""
    found = []
    for k, (X, _, _) in enumerate(problems(case)):
        y, w = label * normal(case, f"labels {k}", len(X)).sign(), normal(case, f"curved {k}", X.shape[1])
        found.append(Curved(X * y[:, None], w, -hessian(lambda p, y=y, X=X: (-y * (X @ p["w"])).exp().sum(), {"w": w})))
    return found


def penalised(points: Tensor, penalty: float):
    return lambda p: (-points @ p["w"]).exp().sum() + penalty * p["w"].square().sum()


PENALTY = 0.25


@shared
def rest(case: Case, penalty: float = PENALTY) -> list[Tensor]:
    """Equilibria with a penalty, as zeros of the gradient."""
    found = []
    for c in clouds(case):
        point = critical_point(penalised(c.points, penalty), {"w": torch.zeros(6, dtype=torch.float64)})
        found.append(_there(point)["w"])
    return found


def _there(point):
    if point is None:
        raise Unfinished("no zero of the gradient was found")
    return point


@shared
def rest_jacobians(case: Case) -> list[Tensor]:
    pairs = zip(clouds(case), rest(case), strict=True)
    return [-hessian(penalised(c.points, PENALTY), {"w": w}) for c, w in pairs]


@shared
def met(case: Case, penalty: float) -> list[Tensor]:
    """Where the penalised flow ends from four starts of each cloud, one row a start."""
    found = []
    for k, c in enumerate(clouds(case)):
        f = lambda p, c=c: (-p["w"] @ c.points.mT).exp().sum() + penalty * p["w"].square().sum()
        starts = {"w": normal(case, f"meeting {k}", 4, 6)}
        found.append(integrate(gradient_flow(f), starts, [0.0, 45.0], method="LSODA", relative=1e-9)["w"][-1])
    return found


@shared
def coefficients(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Independent points, and the coefficients in them of the penalised minimiser; with what is not in their span."""
    found = []
    for k, (n, d) in enumerate(((3, 3), (4, 6), (5, 5))):
        X = normal(case, f"independent {k}", n, d)
        w = _there(critical_point(penalised(X, PENALTY), {"w": torch.zeros(d, dtype=torch.float64)}))["w"]
        k_n = torch.linalg.pinv(X.mT) @ w
        found.append((X, k_n, w - k_n @ X))
    return found


@shared
def residual(case: Case, s: float) -> list[Tensor]:
    """``w - s w_hard`` of the penalised minimiser where ``2 lambda s e^s = 1``: lambda may be as small as e^(-10^6)."""
    found = []
    for c in clouds(case):
        beyond = (c.points @ c.hard - 1).clamp_min(0)
        loss = lambda p, c=c, beyond=beyond: (
            (-c.points @ p["r"] - s * beyond).exp().sum() + c.hard @ p["r"] + p["r"].square().sum() / (2 * s)
        )
        found.append(_there(critical_point(loss, {"r": torch.zeros(6, dtype=torch.float64)}))["r"])
    return found


def along(penalty: float) -> float:
    """s for a penalty: Lambert's function of 1/(2 lambda)."""
    return float(lambertw(1 / (2 * penalty)).real)


def in_span(c: Cloud, r: Tensor) -> Tensor:
    """The part in the span of the support vectors."""
    on = c.points[c.best.supports]
    return torch.linalg.pinv(on) @ (on @ r)


# Steps


def in_ball(case: Case, role: str, count: int, d: int, radius: float) -> Tensor:
    z = normal(case, role, count, d)
    share = torch.rand(count, 1, generator=case.generator(f"{role} share"), dtype=torch.float64).sqrt()
    return radius * share * z / z.norm(dim=1, keepdim=True)


RADII = (0.5, 2.0, 5.0)


@shared
def balls(case: Case) -> list[tuple[Tensor, float, Tensor, Tensor]]:
    """A point or a cloud, a radius, and pairs in the ball: far ones, and near ones where the loss is steepest."""
    found = []
    for k, R in enumerate(RADII):
        for name, X in (("cloud", clouds(case)[0].points), ("point", clouds(case)[0].points[:1] * (1 + 0.2 * k))):
            steep = -0.999 * R * X / X.norm(dim=1, keepdim=True)
            a = torch.cat([in_ball(case, f"{name} {R} first", 200, 6, R), steep, steep])
            b = torch.cat([in_ball(case, f"{name} {R} second", 200, 6, R), 0.999 * steep, 0.5 * steep])
            found.append((X, R, a, b))
    return found


# Unit weights


@shared
def separated(case: Case, kind: str) -> Tensor:
    """Whether d + 1 labelled points in d dimensions, extended by a one and scaled, can be separated."""
    found, alternate = [], rows([1.0, -1.0, 1.0])
    for d in range(1, 7):
        for k in range(8):
            if kind == "independent":
                X, y = normal(case, f"generic {d} {k}", d + 1, d), normal(case, f"signs {d} {k}", d + 1).sign()
            else:
                X, y = torch.outer(torch.arange(3.0).double(), normal(case, f"line {d} {k}", d + 1)), alternate
            Z = torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], 1)
            Z = y[:, None] * Z / Z.norm(dim=1, keepdim=True)
            goal = np.zeros(Z.shape[1])
            found.append(linprog(goal, A_ub=-Z.numpy(), b_ub=-np.ones(len(Z)), bounds=(None, None)).status == 0)
    return rows(found)


@shared
def turnings(case: Case, system: str) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Cloud's points, length, direction and the velocities of both under a system, by automatic differentiation."""
    found = []
    for k, c in enumerate(clouds(case)):
        w = (1.5 + k) * normal(case, f"turning {k}", 6)
        loss = lambda p, c=c: (-c.points @ p["w"]).exp().sum()
        if system == "polar":
            rho, v = torch.func.jvp(polar, (w,), (gradient_flow(loss)({"w": w})["w"],))[1]
        else:
            rho, v = weight_normalised(loss, {"w": w})["w"]
        found.append((c.points, w, rho, v))
    return found


PHASE = torch.linspace(0, 20, 41, dtype=torch.float64)


@shared
def fallen(case: Case, system: str, side: float) -> list[tuple[Tensor, Tensor]]:
    """Length, and the part of the direction that no point sees, over times 0 to 20, from margins of one sign."""
    found = []
    for c in clouds(case):
        begin = side * c.best.direction + c.outside(c.start) / c.outside(c.start).norm()
        record = {"rho": lambda p: p["w.length"], "null": lambda p, c=c: c.outside(p["w.direction"])}
        field = reparametrized(exponential(lambda p, c=c: c.points @ p["w"]), system)
        clock = PHASE if side > 0 else PHASE / 40  # the other side is left soon
        path = integrate(field, to_polar({"w": begin / begin.norm()}), clock, record=record, relative=1e-11)
        found.append((path["rho"], path["null"]))
    return found


# One point: a Riccati equation


@shared
def lone(case: Case) -> list[tuple[Tensor, Tensor]]:
    """A vector, and forty starts from which the solution stays finite."""
    found = []
    for k in range(3):
        x, v = normal(case, f"lone {k}", 3), 1.5 * normal(case, f"lone starts {k}", 40, 3)
        found.append((x, v * (0.9 * x.norm() / (v @ x).abs()).clamp_max(1)[:, None]))
    return found


def riccati(v: Tensor, x: Tensor) -> Tensor:
    return x - v * (v @ x)[..., None]


def damped(v: Tensor, x: Tensor) -> Tensor:
    return x - v * torch.tanh(v @ x)[..., None]


@shared
def solved(case: Case, field=riccati, units: float = 2.0) -> list[Tensor]:
    """Solutions at time 2/|x| from all starts, by integration."""
    return [follow_vector(field, x, v, [0.0, units / x.norm().item()])[-1] for x, v in lone(case)]


def follow_vector(field, x: Tensor, v: Tensor, times) -> Tensor:
    return integrate(lambda p: {"v": field(p["v"], x)}, {"v": v}, times, relative=1e-11)["v"]


@shared
def zeros(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Places where the velocity vanishes, by Newton's method from all starts that it brings to an end."""
    found = []
    for x, v in lone(case):
        jacobian = torch.func.vmap(torch.func.jacrev(lambda u, x=x: riccati(u, x)))
        for _ in range(60):
            v = v - torch.linalg.solve(jacobian(v), riccati(v, x)[..., None])[..., 0]
        done = riccati(v, x).norm(dim=1) < 1e-10 * x.norm()
        found.append((x, v[done]))
    return found


@shared
def off_the_sphere(case: Case, side: str) -> list[Tensor]:
    """| |v|^2 - 1 | along the flow from starts with v.x of one sign; behind, for a short while."""
    found = []
    for x, v in lone(case):
        v = v * ((v @ x).sign() * (1 if side == "ahead" else -1))[:, None]
        times = torch.linspace(0, (6.0 if side == "ahead" else 0.1) / x.norm().item(), 13, dtype=torch.float64)
        found.append((follow_vector(riccati, x, v, times).square().sum(-1) - 1).abs())
    return found


@shared
def on_the_sphere(case: Case) -> list[Tensor]:
    """Lengths at time 2/|x| from starts on the sphere."""
    units = [(x, v / v.norm(dim=1, keepdim=True)) for x, v in lone(case)]
    return [follow_vector(riccati, x, v, [0.0, 2 / x.norm().item()])[-1].norm(dim=1) for x, v in units]


def projection(start: float, times: Tensor) -> Tensor:
    """v.x/|x| in the time |x| t: tanh or coth."""
    p = math.atanh(start) if abs(start) < 1 else math.atanh(1 / start)
    return torch.tanh(times + p) if abs(start) < 1 else 1 / torch.tanh(times + p)

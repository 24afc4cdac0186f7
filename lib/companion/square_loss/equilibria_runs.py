"""Equilibria of length and direction, and flows that lead to them: shared by section 2.3.1 and appendix E of paper B.

The decay is the paper's: a penalty ``decay * rho**2`` on a sum of squares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, radians

import torch
from scipy.optimize import brentq, least_squares, minimize, minimize_scalar
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.square_loss.maximum_margin import constraint
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.measures.curvature import minimum
from normdyn.motion.flows import integrate
from normdyn.networks.chains import homogeneous_activation
from normdyn.networks.graphs import layered_weights, mlp

DECAY = 0.05
SMOOTH = homogeneous_activation(1)  # z^3/|z|^2: homogeneous of degree one as the ReLU, without kinks


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def unit_rows(X: Tensor) -> Tensor:
    return X / X.norm(dim=1, keepdim=True)


def rows(values: list | float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def at_angles(*degrees: float) -> Tensor:
    """Unit inputs in the plane."""
    angles = torch.deg2rad(rows(list(degrees)))
    return torch.stack([angles.cos(), angles.sin()], 1)


def ridge(X: Tensor, y: Tensor, decay: float) -> Tensor:
    """Equilibrium of one linear layer, w = rho v."""
    return torch.linalg.solve(X.mT @ X + decay * torch.eye(X.shape[1], dtype=X.dtype), X.mT @ y)


@dataclass(frozen=True)
class Point:
    """A length, unit layers, inputs and labels, and what a run found there.

    ``f`` are the outputs of the unit layers, ``slopes`` their gradients in every layer, samples first, and ``ell`` the
    residuals rho f - y.
    """

    X: Tensor
    y: Tensor
    V: tuple[Tensor, ...]
    rho: Tensor
    f: Tensor
    slopes: tuple[Tensor, ...]
    ell: Tensor

    @property
    def pulls(self) -> list[Tensor]:
        """Sum of l_n df_n/dV_k, a layer each."""
        return [torch.tensordot(self.ell, S, 1) for S in self.slopes]

    def rate(self, rho: Tensor, decay: float = DECAY) -> Tensor:
        """Velocity of the length: minus the derivative of the penalised sum of squares."""
        loss = lambda r: (r * self.f - self.y).square().sum() + decay * r**2
        return -torch.func.grad(loss)(rho)


def point(X: Tensor, y: Tensor, V: tuple[Tensor, ...], rho: Tensor, activation=SMOOTH) -> Point:
    """Outputs and gradients at a point."""
    outputs = lambda *V: mlp(list(V), X, activation=activation)[:, 0]
    f = outputs(*V)
    return Point(X, y, V, rho, f, torch.func.jacrev(outputs, argnums=tuple(range(len(V))))(*V), rho * f - y)


def problem(case: Case, role: str, samples: int, widths: tuple[int, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Unit inputs, labels of both kinds, unit layers."""
    y = rows([1.0, -1.0] * samples)[:samples]
    layers = layered_weights(widths, case.generator(f"layers {role}"))
    return unit_rows(normal(case, f"inputs {role}", samples, widths[0])), y, tuple(map(unit, layers))


@shared
def equilibria(case: Case, samples: int = 6, number: int = 6) -> list[Point]:
    """Joint critical points of length and unit layers, by L-BFGS and Newton's method; no flow is involved."""
    found: list[Point] = []
    for k in range(40):
        X, y, V = problem(case, f"equilibrium {k}", samples, (3, 4, 1))
        output = lambda s, X=X: mlp([unit(s["V0"]), unit(s["V1"])], X, activation=SMOOTH)[:, 0]

        def loss(s: dict[str, Tensor], y=y, output=output) -> Tensor:
            pinned = sum((s[n].square().sum() - 1).square() for n in ("V0", "V1"))  # norms that do not matter
            return (s["rho"] * output(s) - y).square().sum() + DECAY * s["rho"] ** 2 + pinned

        start = {"rho": rows(1.0), "V0": V[0], "V1": V[1]}
        end = minimum(loss, start, steps=300)
        if end is not None and end["rho"].abs() > 1e-3:
            sign = end["rho"].sign()
            found.append(point(X, y, (unit(end["V0"]), sign * unit(end["V1"])), sign * end["rho"]))
        if len(found) == number:
            return found
    raise Unfinished(f"{len(found)} of {number} equilibria found")


@shared
def elsewhere(case: Case, number: int = 6) -> list[Point]:
    """Random networks of length 1.5 with labels that they separate in the mean: no equilibria."""
    found = []
    for k in range(number):
        X, y, V = problem(case, f"elsewhere {k}", 6, (3, 4, 1))
        some = point(X, y, V, rows(1.5))
        found.append(point(X, y * (y @ some.f).sign(), V, rows(1.5)))
    return found


@shared
def there(case: Case, resting: bool) -> list[Point]:
    return equilibria(case) if resting else elsewhere(case)


def one_input(c: Tensor, other: Tensor) -> Tensor:
    return c[None]


def two_inputs(c: Tensor, other: Tensor) -> Tensor:
    return torch.stack([c, unit(c + 0.5 * other)])


@shared
def aligned(case: Case, inputs: Callable[[Tensor, Tensor], Tensor]) -> list[Point]:
    """ReLU networks of rank one aligned with their first input, labels one; three networks at three lengths."""
    found = []
    for k in range(3):
        a, c = unit(normal(case, f"aligned a {k}", 4).abs()), unit(normal(case, f"aligned c {k}", 3))
        X = inputs(c, normal(case, f"aligned other {k}", 3))
        y, V = torch.ones(len(X), dtype=torch.float64), (torch.outer(a, c), a[None])
        found += [point(X, y, V, rows(rho), torch.relu) for rho in (0.3, 0.9, 2.0)]
    return found


@shared
def jacobians(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Gradients of samples, one a row, and the layer: first layers at rest, linear layers of nine samples."""
    found = [(one.slopes[0].flatten(1), one.V[0].flatten()) for one in equilibria(case)]
    for k in range(5):
        X, y = unit_rows(normal(case, f"nine {k}", 9, 3)), normal(case, f"nine labels {k}", 9).sign()
        found.append((X, unit(ridge(X, y, DECAY))))
    return found


@shared
def layer(case: Case, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and direction of a linear layer."""
    y = rows([1.0, -1.0] * 3)
    return unit_rows(normal(case, f"layer {k}", 6, 4)), y, unit(normal(case, f"layer v {k}", 4))


# A layer in the plane: all its critical angles at one length


@dataclass(frozen=True)
class Plane:
    """Outputs a.g(M_n v) of unit vectors v in the plane, homogeneous of degree one and smooth; labels."""

    M: Tensor
    a: Tensor
    y: Tensor
    curved: bool

    def outputs(self, angle: Tensor) -> Tensor:
        z = torch.einsum("nij,...j->...ni", self.M, torch.stack([angle.cos(), angle.sin()], -1))
        return (z**3 / z.square().sum(-1, keepdim=True) if self.curved else z) @ self.a

    def loss(self, rho: float, angle: Tensor) -> Tensor:
        return (rho * self.outputs(angle) - self.y).square().sum(-1) + DECAY * rho**2


@shared
def planes(case: Case) -> list[Plane]:
    """Three linear layers and three curved ones, five samples each."""
    return [
        Plane(normal(case, f"plane {k}", 5, 2, 2), normal(case, f"plane {k} a", 2), rows([1.0, -1, 1, -1, 1]), k > 2)
        for k in range(6)
    ]


def least_over_angles(one: Plane, rho: float) -> tuple[float, float]:
    """The least loss at one length and the angle where it is reached: the best of a grid, refined."""
    grid = torch.linspace(-pi, pi, 721, dtype=torch.float64)
    best = grid[one.loss(rho, grid).argmin()].item()
    end = minimize_scalar(lambda t: one.loss(rho, rows([t])).item(), bounds=(best - 0.02, best + 0.02),
                          method="bounded", options={"xatol": 1e-12})  # fmt: skip
    return end.fun, end.x


def least_length(one: Plane) -> float:
    """The length of the least m(rho) = min over V of the loss, by search."""
    lengths, grid = torch.linspace(0.01, 10, 200), torch.linspace(-pi, pi, 721, dtype=torch.float64)
    best = min(lengths.tolist(), key=lambda rho: one.loss(rho, grid).min().item())
    end = minimize_scalar(lambda rho: least_over_angles(one, rho)[0], bounds=(max(best - 0.06, 1e-3), best + 0.06),
                          method="bounded", options={"xatol": 1e-12})  # fmt: skip
    return end.x


def length_of_one_direction(one: Plane) -> float:
    """A length that is stationary for one V, at which it is positive: half a radian off the best."""
    _, angle = least_over_angles(one, least_length(one))
    f = one.outputs(rows([angle + 0.5]))[0]
    return ((one.y @ f) / (DECAY + f @ f)).item()


def radial_rates(one: Plane, rho: float) -> list[float]:
    """The velocity of the length at each critical angle of the loss at this length."""
    turning = torch.func.grad(lambda s: one.loss(rho, s).sum())
    slope = lambda t: turning(torch.tensor(t, dtype=torch.float64)).item()
    angles = torch.linspace(-pi + 0.001, pi + 0.001, 361, dtype=torch.float64)
    grid, values = angles.tolist(), turning(angles).tolist()
    found = []
    for left, right, a, b in zip(grid, grid[1:], values, values[1:], strict=False):
        if a * b < 0:
            f = one.outputs(torch.tensor(brentq(slope, left, right, xtol=1e-14), dtype=torch.float64))
            found.append((-2 * (rho * f - one.y) @ f - 2 * DECAY * rho).item())
    return found


# Observation 1: one ReLU unit in the plane


@shared
def planar(angles: tuple[float, ...], decay: float, start: float = -75.0, method: str = "LSODA", stop: float = 4e3):
    """Length and angle of one ReLU unit from length 0.01, all labels one; its least output, w and the moving target."""
    X = at_angles(*angles)
    v = lambda s: torch.stack([s["angle"].cos(), s["angle"].sin()])
    across = lambda s: torch.stack([-s["angle"].sin(), s["angle"].cos()])
    f = lambda s: torch.relu(X @ v(s))

    def field(s):
        ell, on = s["rho"] * f(s) - 1, (X @ v(s) > 0).double()
        return {
            "rho": -2 * ell @ f(s) - 2 * decay * s["rho"],
            "angle": -2 * s["rho"] * (ell * on) @ (X @ across(s)),
        }

    record = {
        "rho": lambda s: s["rho"],
        "margin": lambda s: f(s).min(),
        "w": lambda s: s["rho"] * v(s),
        "target": lambda s: f(s).sum() / (decay + f(s) @ f(s)),
    }
    times = [0.0, *(t for t in torch.logspace(-1, 3.6, 70, dtype=torch.float64).tolist() if t <= stop)]
    begin = {"rho": rows([0.01])[0], "angle": rows([radians(start)])[0]}
    return integrate(field, begin, times, record=record, relative=1e-10, absolute=1e-12, method=method)


# Interpolants of one length


@dataclass(frozen=True)
class Interpolant:
    """Margins at the data, outputs elsewhere, and the dimension of the set of such points."""

    margins: Tensor
    probe: Tensor
    dimension: int


SIZES, SAMPLES, LENGTH = (5, 8, 1), 6, 30.0


@shared
def interpolants(case: Case, fitted: bool = True) -> list[Interpolant]:
    """Unit layers of a ReLU network with rho f = y at one length, from several starts, by Levenberg and Marquardt."""
    X, y, _ = problem(case, "interpolants", SAMPLES, SIZES)
    elsewhere = unit_rows(normal(case, "probe", 20, SIZES[0]))
    found = []
    for k in range(12):
        V = problem(case, f"interpolant {k}", SAMPLES, SIZES)[2]
        split = lambda q, V=V: [p.reshape(W.shape) for p, W in zip(q.split([W.numel() for W in V]), V, strict=True)]
        rest = lambda q, split=split: torch.cat(
            [LENGTH * mlp(split(q), X)[:, 0] - y, torch.stack([W.square().sum() - 1 for W in split(q)])]
        )
        jacobian = lambda q, rest=rest: torch.func.jacrev(rest)(torch.as_tensor(q))
        q = torch.cat([W.flatten() for W in V])
        if fitted:
            end = least_squares(lambda q, rest=rest: rest(torch.as_tensor(q)).numpy(), q.numpy(),
                                jac=lambda q, jacobian=jacobian: jacobian(q).numpy(),
                                xtol=1e-15, ftol=1e-15, gtol=1e-15)  # fmt: skip
            q = torch.as_tensor(end.x)
            if abs(end.fun).max() > 1e-12:
                continue
        rank = int(torch.linalg.matrix_rank(jacobian(q), rtol=1e-9))
        net = split(q)
        found.append(Interpolant(y * mlp(net, X)[:, 0], mlp(net, elsewhere)[:, 0], len(q) - rank))
    if len(found) < 4:
        raise Unfinished(f"{len(found)} of 12 starts interpolate")
    return found[:4]


@shared
def widest(case: Case, points: tuple[Tensor, ...], among: str) -> list[float]:
    """The largest least margin of unit vectors, all margins equal (``eq``) or not (``ineq``), by quadratic programs."""
    found = []
    for A in points:
        goal = torch.zeros(A.shape[1] + 1, dtype=torch.float64)
        goal[-1] = -1
        rules = [constraint("eq", lambda q: q[:-1].square().sum()[None] - 1),
                 constraint(among, lambda q, A=A: A @ q[:-1] - q[-1])]  # fmt: skip
        start = torch.cat([unit(A.sum(0)), torch.zeros(1, dtype=torch.float64)])
        end = minimize(lambda q: -q[-1], start.numpy(), jac=lambda q, goal=goal: goal.numpy(), constraints=rules,
                       method="SLSQP", options={"maxiter": 1000, "ftol": 1e-14})  # fmt: skip
        found.append(-end.fun)
    return found


# Linear layers without decay: the first interpolant


@dataclass(frozen=True)
class First:
    """Length at the end of the flow, that of the least interpolant, the start's part outside of the inputs' span."""

    rho: float
    least: float
    outside: float
    start: float


@shared
def first_interpolants(case: Case, noise: float, number: int = 3, start: float = 1e-3) -> list[First]:
    """Flow in length and direction of one linear layer from a small length, four inputs in eight dimensions.

    Args:
        noise: How much the inputs, times labels, differ from one another.
    """
    found = []
    for k in range(number):
        role = f"first {noise} {k}"
        A = unit_rows(normal(case, f"{role} mean", 8) / 8**0.5 + noise * normal(case, f"{role} inputs", 4, 8))
        v = unit(normal(case, f"{role} v", 8))
        v = v * (A @ v).sum().sign()  # average separability
        outside = (v - torch.linalg.pinv(A) @ (A @ v)).square().sum().item()
        push = lambda s, A=A: 2 * (1 - s["rho"] * A @ s["v"]) @ A
        flow = lambda s, push=push: {
            "rho": push(s) @ s["v"],
            "v": s["rho"] * (push(s) - s["v"] * (push(s) @ s["v"])),
        }
        path = integrate(flow, {"rho": rows([start])[0], "v": v}, (0.0, 2000.0), method="LSODA",
                         relative=1e-10, absolute=1e-12)  # fmt: skip
        rho = path["rho"][-1]
        if (rho * A @ path["v"][-1] - 1).abs().max() > 1e-5:
            raise Unfinished(f"{role} has not interpolated by time 2000")
        found.append(First(rho.item(), torch.linalg.pinv(A).sum(1).norm().item(), outside, start))
    return found


@shared
def linear_ends(case: Case, decay: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points, lengths, directions at time 250 of one linear layer from four starts, the second opposite the first."""
    A = unit_rows(unit(normal(case, "ends mean", 8)) + 0.25 * normal(case, "ends", 4, 8))
    starts = [unit(normal(case, f"ends {k}", 8)) for k in range(3)]
    starts[0] = unit(unit(A.sum(0)) + 0.5 * starts[0])
    starts.insert(1, -starts[0])

    def flow(s):
        push = 2 * (1 - s["rho"] * A @ s["v"]) @ A
        along = push @ s["v"]
        return {"rho": along - 2 * decay * s["rho"], "v": s["rho"] * (push - along * s["v"])}

    ends = [integrate(flow, {"rho": rows([0.3])[0], "v": v}, (0.0, 250.0), method="LSODA", relative=1e-9,
                      absolute=1e-12) for v in starts]  # fmt: skip
    return A, torch.stack([e["rho"][-1] for e in ends]), torch.stack([e["v"][-1] for e in ends])


# One sample at a time


@shared
def least_defect(case: Case, degrees: float, starts: int = 4) -> float:
    """Least sum of squared sines between the first layer and its two gradients, over networks with both inputs active.

    L-BFGS on smooth gates; the answer is evaluated with the exact ones.
    """
    X, found = at_angles(0.0, degrees), []
    for k in range(starts):
        V0 = normal(case, f"defect {degrees} {k}", 4, 2).abs().requires_grad_()
        V1 = normal(case, f"defect last {degrees} {k}", 4).abs().requires_grad_()

        def sines(gate, V0=V0, V1=V1):
            S = torch.einsum("ni,i,nj->nij", gate(X @ V0.mT), V1, X)
            cosines = (S * V0).sum((1, 2)) / S.flatten(1).norm(dim=1) / V0.norm()
            return (1 - cosines.square()).sum()

        steps = torch.optim.LBFGS([V0, V1], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-15,
                                  line_search_fn="strong_wolfe")  # fmt: skip

        def closure(steps=steps, sines=sines):
            steps.zero_grad()
            value = sines(lambda z: torch.sigmoid(20 * z))
            value.backward()
            return value

        steps.step(closure)
        found.append(sines(lambda z: (z > 0).double()).item())
    return min(found)

"""Runs of appendix H of paper B: factors of a layer's derivative, minima of deep linear networks, training."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad, jacrev

from claimbook.evidence import Case, Unfinished, shared
from companion.theory_iii import hidden_complexity_control_runs
from normdyn.measures.curvature import flatten, unflatten
from normdyn.networks.graphs import mlp

Layers = Sequence[Tensor]
Activation = Callable[[Tensor], Tensor]
DECAY = 0.01
identity: Activation = torch.positive  # of linear networks
SMALL = 1e-3  # decay at the critical points in closed form
TURN = 2 / 27**0.5  # largest a^2 b with a^2 + b^2 = 1


def unit(weights: Layers) -> list[Tensor]:
    """Every layer divided by its Frobenius norm."""
    return [w / w.norm() for w in weights]


@shared
def normal(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers in float64, one independent stream for each role; not to be changed in place."""
    return hidden_complexity_control_runs.normal(case, role, *shape)


@shared
def orthogonal(case: Case, role: str, p: int) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(normal(case, role, p, p))[0]


# The derivative by a layer is an outer product


class Halves(NamedTuple):
    """The output for one input, and of each layer the factors from above and below."""

    output: Tensor
    pairs: list[tuple[Tensor, Tensor]]


def halves(V: Layers, x: Tensor, activation: Activation = torch.relu, gates_of: Tensor | None = None) -> Halves:
    """The factors a and b of each layer with frozen gates, by hand; gates may be those of another input."""
    frozen = lambda z, at: z if activation is identity else (at > 0) * z
    below, gates, at = [x], [], x if gates_of is None else gates_of
    for W in V[:-1]:
        at = W @ at
        gates.append(at)
        below.append(frozen(W @ below[-1], at))
        at = frozen(at, at)
    above = [torch.ones(1, dtype=x.dtype)]
    for W, z in zip(V[:0:-1], gates[::-1], strict=True):
        above.append(frozen(W.mT @ above[-1], z))
    return Halves((V[-1] @ below[-1])[0], list(zip(above[::-1], below, strict=True)))


def slopes(V: Layers, X: Tensor, activation: Activation = torch.relu) -> list[Tensor]:
    """Derivatives of all outputs by each layer, by automatic differentiation."""
    return list(jacrev(lambda V: mlp(V, X, activation=activation)[:, 0])(list(V)))


def replaced(V: Layers, x: Tensor, activation: Activation = torch.relu) -> list[Tensor]:
    """One sweep: each layer becomes its normalised derivative, from the last to the first."""
    V = list(V)
    for k in reversed(range(len(V))):
        a, b = halves(V, x, activation).pairs[k]
        V[k] = torch.outer(a, b) / (a.norm() * b.norm())
    return V


@shared
def drawn(case: Case) -> list[tuple[list[Tensor], Tensor]]:
    """Five ReLU networks of four unit layers, each with the input of eight that gets through best."""
    found = []
    for k in range(5):
        shapes = (5, 4), (5, 5), (5, 5), (1, 5)
        V = unit([normal(case, f"net {k} {l}", *shape) for l, shape in enumerate(shapes)])
        X = normal(case, f"net {k} X", 40, 4)
        found.append((V, max(X, key=lambda x, V=V: mlp(V, x[None]).abs().item())))
    return found


@shared
def solutions(case: Case, activation: Activation = torch.relu) -> list[tuple[list[Tensor], Tensor]]:
    """Solutions of the constraint for one input with a nonzero output, from the drawn networks."""
    return [(replaced(V, x, activation), x) for V, x in drawn(case)]


# Minima of the square loss over unit layers, with the length at its equilibrium


class Problem(NamedTuple):
    """Inputs of unit norm and labels of both signs."""

    X: Tensor
    y: Tensor


def problem(case: Case, role: str, samples: int, width: int) -> Problem:
    X, y = normal(case, f"{role} X", samples, width), normal(case, f"{role} y", samples).sign()
    y[:2] = torch.tensor([1.0, -1.0], dtype=y.dtype)
    return Problem(X / X.norm(dim=1, keepdim=True), y)


def length(f: Tensor, y: Tensor, decay: float = DECAY) -> Tensor:
    """The equilibrium of the length, at given normalised outputs."""
    return (y @ f) / (decay + f @ f)


def reduced_loss(f: Tensor, y: Tensor, decay: float = DECAY) -> Tensor:
    """sum (rho f - y)^2 + decay rho^2 at the equilibrium of rho."""
    return len(y) - (y @ f) ** 2 / (decay + f @ f)


@shared
def linear_problems(case: Case, collinear: bool = False) -> list[Problem]:
    found = [problem(case, f"linear {k}", 5, 6) for k in range(5)]
    return [Problem(p.X[:1] * p.y[:, None], p.y) for p in found] if collinear else found


@shared
def linear_minima(case: Case, collinear: bool = False, depth: int = 4) -> list[list[Tensor]]:
    """Global minima of deep linear networks in closed form: layers u_k u_(k-1)' along the ridge regressor."""
    found = []
    for k, (X, y) in enumerate(linear_problems(case, collinear)):
        ridge = torch.linalg.solve(X.mT @ X + SMALL * torch.eye(6, dtype=X.dtype), X.mT @ y)
        u = [ridge] + [normal(case, f"minimum {k} {l}", 6) for l in range(depth - 1)] + [torch.ones(1, dtype=X.dtype)]
        u = [v / v.norm() for v in u]
        found.append([torch.outer(above, below) for below, above in zip(u, u[1:], strict=False)])
    return found


def lowest(loss: Callable[[dict[str, Tensor]], Tensor], start: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """L-BFGS from one start."""
    both = torch.func.grad_and_value(lambda v: loss(unflatten(v, start)))

    def evaluate(v: np.ndarray) -> tuple[float, np.ndarray]:
        slope, value = both(torch.from_numpy(v))
        return value.item(), slope.numpy()

    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 1e-16, "gtol": 1e-10}
    found = minimize(evaluate, flatten(start).numpy(), jac=True, method="L-BFGS-B", options=options)
    return unflatten(torch.from_numpy(found.x), start)


class Witness(NamedTuple):
    """A critical point of the square loss over unit layers."""

    V: list[Tensor]
    X: Tensor
    y: Tensor
    activation: Activation


@shared
def critical(case: Case, collinear: bool = False) -> list[Witness]:
    """Global minima of linear networks and critical points of ReLU networks of three layers, in closed form.

    The ReLU networks see inputs x and -x with opposite labels and have one channel for each sign. With ``collinear``
    linear networks see inputs on one line, and ReLU networks, of the swept solutions, one input.
    """
    found = [
        Witness(V, *p, identity)
        for V, p in zip(linear_minima(case, collinear), linear_problems(case, collinear), strict=True)
    ]
    if collinear:
        one = lambda x: Witness([], x[None] / x.norm(), torch.ones(1, dtype=x.dtype), torch.relu)
        return found + [one(x)._replace(V=V) for V, x in solutions(case)]
    both = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    for p in linear_problems(case):
        X = p.X * p.y[:, None]  # all labels one
        scaled = 8 * SMALL * torch.eye(6, dtype=X.dtype)  # the normalised output is w x divided by the root of 8
        w = torch.linalg.solve(2 * X.mT @ X + scaled, 2 * X.sum(0))
        V = [both * w / w.norm() / 2**0.5, torch.eye(2, dtype=X.dtype) / 2**0.5, both.mT / 2**0.5]
        y = torch.ones(len(X), dtype=X.dtype)
        found.append(Witness(V, torch.cat([X, -X]), torch.cat([y, -y]), torch.relu))
    return found


# Trained networks


def rows(w: Tensor) -> Tensor:
    """Rows of one length, the matrix of norm one."""
    return w / w.norm(dim=1, keepdim=True) / len(w) ** 0.5


def drawn_layers(case: Case, role: str, depth: int, width: int = 6) -> dict[str, Tensor]:
    shapes = [(width, width)] * (depth - 1) + [(1, width)]
    return {f"{k}": normal(case, f"{role} {k}", *shape) for k, shape in enumerate(shapes)}


class Trained(NamedTuple):
    """Layers before and after, and the loss reached."""

    start: list[Tensor]
    end: list[Tensor]
    loss: Tensor


@shared
def linear_trained(case: Case, how: str, spread: float = 0.0) -> list[Trained]:
    """Linear networks of three layers on eight inputs of six coordinates, by L-BFGS to its end.

    ``how`` they are normalised: layers or rows; ``spread`` weighs a penalty on unequal singular values.
    """
    seen = unit if how == "layers" else lambda W: list(map(rows, W))
    uneven = lambda v: (6 * v @ v.mT - torch.eye(6, dtype=v.dtype)).square().sum()
    penalty = lambda V: sum(map(uneven, V[:-1]))
    found = []
    for k in range(3):
        X, y = problem(case, f"bias {k}", 8, 6)
        start = drawn_layers(case, f"bias {k}", 3)
        fit = lambda V, X=X, y=y: reduced_loss(mlp(V, X, activation=identity)[:, 0], y)
        loss = lambda W, fit=fit: fit(seen(list(W.values()))) + spread * penalty(seen(list(W.values())))
        before, after = (seen(list(W.values())) for W in (start, lowest(loss, start, 3000)))
        found.append(Trained(before[:-1], after[:-1], fit(after)))
    return found


def least_losses(case: Case) -> list[Tensor]:
    """The global minima that those networks should reach: of ridge regression."""
    found = []
    for k in range(3):
        X, y = problem(case, f"bias {k}", 8, 6)
        kernel = X @ X.mT + DECAY * torch.eye(8, dtype=X.dtype)
        found.append(DECAY * y @ torch.linalg.solve(kernel, y))
    return found


class Shared(NamedTuple):
    """Inputs, labels, and the layers reached, inner ones of one matrix or free."""

    X: Tensor
    y: Tensor
    V: list[Tensor]


@shared
def shared_or_not(case: Case, tied: bool, activation: Activation = identity) -> list[Shared]:
    """Two networks of three layers and one of four, inner layers tied or free; of the tied four the lowest of six."""
    found = []
    for depth, count, starts in ((3, 2, 1), (4, 1, 6 if tied else 1)):
        inner = ["0"] * (depth - 1) if tied else [f"{l}" for l in range(depth - 1)]
        names = (*inner, f"{depth - 1}")
        for k, (X, y) in enumerate(linear_problems(case)[:count]):
            net = lambda p, names=names: unit([p[n] for n in names])
            loss = lambda p, X=X, y=y, net=net: reduced_loss(mlp(net(p), X, activation=activation)[:, 0], y)
            ends = []
            for s in range(starts):
                start = drawn_layers(case, f"tied {k} {s}", depth)
                steps = 2000 if activation is identity else 30
                ends.append(lowest(loss, {n: start[n] for n in sorted(set(names))}, steps))
            found.append(Shared(X, y, net(min(ends, key=loss))))
    return found


@shared
def turning(case: Case) -> list[Shared]:
    """Rest points of four linear layers whose three equal inner ones turn a plane: P = b w e' - a e w', in closed form.

    Then P^3 = -a b P, and the output is at most a^2 b |x| = 2/sqrt(27) |x|.
    """
    a, b, found = (2 / 3) ** 0.5, (1 / 3) ** 0.5, []
    for k, (X, y) in enumerate(linear_problems(case)[:2]):
        w = torch.linalg.solve(X.mT @ X + DECAY / TURN**2 * torch.eye(6, dtype=X.dtype), X.mT @ y)
        w = w / w.norm()
        e = normal(case, f"turning {k}", 6)
        e = (lambda e: e / e.norm())(e - (e @ w) * w)
        P = b * torch.outer(w, e) - a * torch.outer(e, w)
        one = Shared(X, y, [P, P, P, e[None]])
        if least_curvature(one) < -1e-9:
            raise Unfinished("a rest point from which a direction leads down is none that descent ends at")
        found.append(one)
    return found


def least_curvature(one: Shared) -> Tensor:
    """Least eigenvalue of the loss's Hessian in the shared matrix and the last layer, over the largest."""
    start = torch.cat([one.V[0].flatten(), one.V[-1].flatten()])

    def loss(v: Tensor) -> Tensor:
        P, last = unit([v[:36].view(6, 6), v[36:].view(1, 6)])
        return reduced_loss(mlp([P, P, P, last], one.X, activation=identity)[:, 0], one.y)

    values = torch.linalg.eigvalsh(torch.func.hessian(loss)(start))
    return values[0] / values[-1]


class Gated(NamedTuple):
    """Share of first-layer units that are open on every training input, over networks that have fitted."""

    open: Tensor


@shared
def gates(case: Case, how: str, samples: int, positive: bool = False) -> Gated:
    """ReLU networks of three layers and width eight after 200 steps from 16 starts; those that have fitted count.

    With ``positive`` nothing is negative at the start, and all labels are one.
    """
    problems = [problem(case, f"gates {k}", samples, 8) for k in range(16)]
    X, y = torch.stack([p.X for p in problems]), torch.stack([p.y for p in problems])
    W = {f"{k}": normal(case, f"gates W{k}", 16, 8 if k < 2 else 1, 8) for k in range(3)}
    if positive:
        X, y, W = X.abs(), y.abs(), {k: w.abs() for k, w in W.items()}
    norms = lambda w: w.flatten(1).norm(dim=1)[:, None, None] if how == "layers" else w.norm(dim=2, keepdim=True)
    share = lambda w: 1.0 if how == "layers" else w.shape[1] ** -0.5

    def outputs(W):
        V = [share(w) * w / norms(w) for w in W.values()]
        return ((X @ V[0].mT).relu() @ V[1].mT).relu() @ V[2].mT

    def losses(W):
        f = outputs(W)[:, :, 0]
        return (y.shape[1] - (y * f).sum(1) ** 2 / (DECAY + f.square().sum(1))).sum()

    slope = grad(losses)
    for _ in range(200):
        G = slope(W)
        W = {k: W[k] - 0.2 * G[k] for k in W}
    fitted = (outputs(W)[:, :, 0] * y > 0).all(1)
    if fitted.sum() < 3:
        raise Unfinished(f"{int(fitted.sum())} of 16 networks have fitted {samples} inputs; at least three are needed")
    return Gated((X @ W["0"].mT > 0).all(1).double().mean(1)[fitted])


class History(NamedTuple):
    """Residual of the constraint over the outputs during descent, per layer, and what the inputs allow the first."""

    steps: Tensor
    residual: Tensor
    floor: Tensor


@shared
def descent(case: Case) -> History:
    """A ReLU network of three layers on eight inputs in four dimensions under gradient descent."""
    X, y = problem(case, "descent", 8, 4)
    shapes = (8, 4), (8, 8), (1, 8)
    W = {f"{k}": unit([normal(case, f"descent {k}", *shape)])[0] for k, shape in enumerate(shapes)}
    slope = grad(lambda W: reduced_loss(mlp(unit(list(W.values())), X)[:, 0], y, 0.05))
    at = sorted({int(1.12**k) for k in range(66)})
    residual, floor = [], []
    for step in range(at[-1] + 1):
        if step in at:
            V = unit(list(W.values()))
            f = mlp(V, X)[:, 0]
            size = f.square().sum()
            gaps = [f[:, None, None] * v - d for v, d in zip(V, slopes(V, X), strict=True)]
            residual.append(torch.stack([(gap.square().sum() / size).sqrt() for gap in gaps]))
            floor.append((1 - torch.linalg.eigvalsh(torch.einsum("n,ni,nj->ij", f**2, X, X)).max() / size).sqrt())
        G = slope(W)
        W = {k: W[k] - 0.01 * G[k] for k in W}
    return History(torch.tensor(at), torch.stack(residual), torch.stack(floor))


# Layers of the paper's two classes, and diagonal ones


@shared
def projections(case: Case, rank: int, inside: bool) -> list[Witness]:
    """Linear networks with equal projections on the line of a vector, or on more, and four inputs on one line each."""
    found = []
    for k in range(5):
        Q = orthogonal(case, f"projection {k}", 5)
        P = Q[:, :rank] @ Q[:, :rank].mT / rank**0.5
        c = normal(case, f"multiples {k}", 4)
        X = c[:, None] * (Q[:, 0] if inside else Q[:, 0] + Q[:, 1])
        found.append(Witness([P, P, P, Q[:, :1].mT], X, c, identity))
    return found


@shared
def diagonal_solution(x: Tensor, support: tuple[int, ...], depth: int, power: float | None = None) -> Tensor:
    """Weights of equal modulus in all layers on a support, unit layers; signs are in the last layer.

    The modulus is |f/x|^power with power = 1/(L-2); as printed the power is minus one.
    """
    size = x[list(support)].abs()
    f = (size ** (-2 / (depth - 2))).sum() ** (-(depth - 2) / 2)
    v = torch.zeros_like(x)
    v[list(support)] = (f / size) ** (1 / (depth - 2) if power is None else power)
    return torch.stack([v] * (depth - 1) + [v * x.sign()])

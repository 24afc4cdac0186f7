"""What decides the claims of section 15 of paper D: descent that shrinks as well, and maps that bring nothing apart.

NMGD is a step of gradient descent times a factor ``1 - lambda_n`` that tends to one, with ``lambda_n = n^-a``.
"""

import cmath
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, equal, limit, shared, together
from normdyn.motion.regression import linear_descent

STEPS = 20_000
RATES = (1.0, 0.6, 0.3)  # by which a step contracts the modes of our least squares problem
SCALES = (1.0, 10.0, 100.0)  # of the starts


def draw(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


def growth(step: Callable[[Tensor], Tensor], x: Tensor, z: Tensor, order: float = 2.0) -> Tensor:
    """Distances after a step over distances before it."""
    return torch.linalg.vector_norm(step(x) - step(z), order, -1) / torch.linalg.vector_norm(x - z, order, -1)


# Fixed points of maps that bring nothing apart


def hinge_map(case: Case, rows: int = 4, size: int = 30, times: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Descent on half the squared violations of ``A x <= b``; its fixed points are that polyhedron, zero is outside."""
    A, b = polyhedron(case, rows, size)
    step = times / torch.linalg.matrix_norm(A, 2).item() ** 2
    return lambda x: x - step * torch.relu(x @ A.mT - b) @ A


def polyhedron(case: Case, rows: int = 4, size: int = 30) -> tuple[Tensor, Tensor]:
    """Gaussian normals and negative right-hand sides."""
    return draw(case, "normals", rows, size), -1 - draw(case, "sides", rows).abs()


def clamped_and_swapped(x: Tensor) -> Tensor:
    """Into the box [1, 2] x [0, 3] x ..., then half way to the neighbours swapped: contracts in every p-norm."""
    low, high = torch.tensor([1.0, 0.0] * 5).double(), torch.tensor([2.0, 3.0] * 5).double()
    inside = x.clamp(low, high)
    return (inside + inside.roll(1, -1)) / 2


def letter(x: Tensor) -> Tensor:
    """(x, y) goes to (x, |x|), which brings nothing apart in the maximum norm; the fixed points form the letter V."""
    return torch.stack([x[..., 0], x[..., 0].abs()], -1)


def to_the_line(x: Tensor) -> Tensor:
    """(x, y) goes to (x, 1)."""
    return torch.stack([x[..., 0], torch.ones_like(x[..., 0])], -1)


def space(order: float) -> int:
    """Dimension of the space with the norm of that order."""
    return 2 if order == math.inf else 10


def map_of(case: Case, order: float, times: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A non-expansive map of the space; the Euclidean one is a gradient step, which may be made longer."""
    if order == 2:
        return hinge_map(case, 4, 10, times)
    return letter if order == math.inf else clamped_and_swapped


@shared
def fixed_points(case: Case, order: float) -> Tensor:
    """Forty fixed points of that map."""
    x, T = 3 * draw(case, "space", 40, space(order)), map_of(case, order)
    for _ in range(3000):
        x = T(x)
    return x


@shared
def middles(case: Case, order: float, shift: int = 1) -> Tensor:
    """Half way between fixed points and others."""
    x = fixed_points(case, order)
    return (x + x.roll(shift, 0)) / 2


def width_of_least(order: float) -> Tensor:
    """How wide the points of least norm lie among the fixed points of :func:`to_the_line`, up to rounding."""
    some = torch.stack([torch.linspace(-2, 2, 401).double(), torch.zeros(401).double()], 1)
    line = to_the_line(some)
    size = torch.linalg.vector_norm(line, order, -1)
    least = line[size <= size.min() * (1 + 1e-12), 0]
    return least.max() - least.min()


def pairs(case: Case, order: float) -> tuple[Tensor, Tensor]:
    """Points of the space to be brought nearer."""
    return 3 * draw(case, "first", 500, space(order)), 3 * draw(case, "second", 500, space(order))


@claim("D-thm10", control=[{"orders": (math.inf,)}, {"times": 8.0}])
def fixed_points_are_convex(case, orders=(2.0, 4.0), times=1.0):
    """Fixed points of a non-expansive map are convex, with one point of least norm, if the norm is strictly convex.

    Descent onto a polyhedron in the Euclidean norm, a box with swapped neighbours in the norm of order four. In the
    maximum norm, which is not strictly convex, both fail; a longer step is not non-expansive. That the set is closed is
    continuity.  D Theorem 10
    """
    return together(
        convex=equal(
            measured=lambda: [map_of(case, p)(middles(case, p, k)) for p in orders for k in (1, 7)],
            predicted=lambda: [middles(case, p, k) for p in orders for k in (1, 7)],
            bound=1e-9, reason="3,000 steps of a linearly convergent iteration, and rounding",
        ),
        unique=equal(
            measured=lambda: [width_of_least(p) for p in orders],
            predicted=lambda: [0.0 for _ in orders],
            scale=lambda: [1.0 for _ in orders],
            bound=1e-3, reason="a tenth of the spacing of the points on the line",
        ),
        nonexpansive=at_most(
            left=lambda: [growth(map_of(case, p, times), *pairs(case, p), p) for p in orders],
            right=lambda: [1.0 for _ in orders],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


MAPS: dict[str, tuple[Callable[[complex], complex], complex]] = {
    "point reflection": (lambda z: 2 - z, 1),
    "rotation": (lambda z: 1 + cmath.exp(1j) * (z - 1), 1),
    "line reflection": (lambda z: z.conjugate() + 2j, 1j),
}  # isometries of the plane, each with its fixed point of least norm


def power(t: int, a: float = 0.9) -> float:
    return t**-a


def every_other(t: int) -> float:
    """A sequence that tends to zero with a divergent sum, and jumps."""
    return t**-0.9 if t % 2 else 0.0


def summable(t: int) -> float:
    return t**-1.5


@shared
def shrunk(name: str, sequence: Callable[[int], float], steps: int) -> Tensor:
    """The last two iterates of ``z -> (1 - s_t) T z``: real and imaginary parts."""
    T, z, last = MAPS[name][0], 3 + 4j, 0j
    for t in range(2, steps):
        last, z = z, (1 - sequence(t)) * T(z)
    return torch.tensor([[last.real, last.imag], [z.real, z.imag]], dtype=torch.float64)


def nearest(name: str) -> Tensor:
    """Fixed point of least norm, twice."""
    return torch.tensor([[MAPS[name][1].real, MAPS[name][1].imag]] * 2, dtype=torch.float64)


@claim("D-eq123", printed={"sequence": every_other}, control={"sequence": summable})
def shrinking_finds_the_least_norm(case, sequence=power):
    """With s to 0, a divergent sum and a summable variation, x -> (1 - s) T x tends to the fixed point of least norm.

    Isometries of the plane, where nothing but the shrinking contracts. As printed, without a condition on the
    variation, a reflection that is shrunk at every other step ends in a cycle.  D (123)
    """
    return limit(
        measured=lambda reach: [shrunk(name, sequence, int(100_000 * reach)) for name in MAPS],
        predicted=lambda: [nearest(name) for name in MAPS],
        bound=1e-3, reason="the fixed point of the last shrunk map is off by about s, 3e-5 after 100,000 steps",
    )  # fmt: skip


@shared
def multiples(case: Case, k: float, steps: int) -> Tensor:
    """Iterates of ``k T`` for the map onto a polyhedron, from three starts."""
    x, T = torch.stack([c * draw(case, f"start {c}", 30) for c in SCALES]), hinge_map(case)
    for _ in range(steps):
        x = k * T(x)
    return x


@shared
def halpern(case: Case, a: float) -> dict[int, Tensor]:
    """Iterates of ``(1 - n^-a) T``, counted from two, for the same map from three starts, after STEPS and twice."""
    x, T, found = torch.stack([c * draw(case, f"start {c}", 30) for c in SCALES]), hinge_map(case), {}
    for n in range(2, 2 * STEPS + 1):
        x = (1 - n**-a) * T(x)
        if n in (STEPS, 2 * STEPS):
            found[n] = x
    return found


def least_distance(A: Tensor, b: Tensor) -> Tensor:
    """The point of ``A x <= b`` nearest to zero, by non-negative least squares (Lawson and Hanson)."""
    system = np.vstack([-A.numpy().T, -b.numpy()[None]])
    unit = np.zeros(len(system))
    unit[-1] = 1
    dual, _ = optimize.nnls(system, unit)
    residual = system @ dual - unit
    return torch.from_numpy(-residual[:-1] / residual[-1])


@claim("D-thm11", printed={"of": "T"}, control={"a": 1.5})
def halpern_converges(case, of="kT", a=0.9):
    """Iterating kT tends to the fixed point of kT, and with k to 1 as 1 - 1/n^a to the fixed point of T of least norm.

    Descent onto a polyhedron in thirty dimensions, from starts up to a hundred times as long as the answer; the answer
    by another algorithm. As printed the first limit is a fixed point of T: it is off by (1 - k) |T y|.  D Theorem 11
    """
    factors = (0.9, -0.5)
    return together(
        first=limit(
            measured=lambda reach: [multiples(case, k, int(600 * reach)) for k in factors],
            predicted=lambda: [(k if of == "kT" else 1) * hinge_map(case)(multiples(case, k, 1200)) for k in factors],
            bound=1e-12, reason="0.9^600 is below rounding",
        ),
        second=limit(
            measured=lambda reach: [halpern(case, a)[int(STEPS * reach)]],
            predicted=lambda: [least_distance(*polyhedron(case)).expand(3, -1)],
            bound=5e-3, reason="the lag, 20,000^-0.9 over the slowest rate of the map, which is 0.03 or more",
        ),
    )  # fmt: skip


# Least squares


@shared
def regression(case: Case) -> tuple[Tensor, Tensor]:
    """Three samples in six dimensions, with singular values such that a step of size one contracts by RATES."""
    left = torch.linalg.qr(draw(case, "left", 3, 3))[0]
    right = torch.linalg.qr(draw(case, "right", 6, 3))[0]
    return left * (3 * torch.tensor(RATES).double()).sqrt() @ right.mT, draw(case, "targets", 3)


@shared
def nmgd(case: Case, a: float, first: int = 2, marks: tuple[int, ...] = (STEPS, 2 * STEPS)) -> dict[int, Tensor]:
    """NMGD with steps of size one on half the mean square, counted from ``first``, from three starts; at the marks."""
    features, targets = regression(case)
    w, found = torch.stack([c * draw(case, f"weights {c}", 6) for c in SCALES]), {}
    matrix, shift = torch.eye(6).double() - features.mT @ features / 3, targets @ features / 3
    for n in range(first, max(marks) + 1):
        w = (1 - n**-a) * torch.addmm(shift, w, matrix)
        if n in marks:
            found[n] = w
    return found


def least_norm(case: Case) -> Tensor:
    """Pseudoinverse times targets."""
    features, targets = regression(case)
    return torch.linalg.pinv(features) @ targets


def lag(case: Case, shrink: float) -> Tensor:
    """By how much the fixed point of a shrunk step departs from the least-norm solution, in units of the shrinking."""
    found = linear_descent(*regression(case), step=1.0)
    short = 1 / (found.rates + shrink * (1 - found.rates))
    return -found.modes @ (short * (found.modes.mT @ found.solution))


@claim("D-nmgd-linear", control={"exponents": (1.5,)})
def nmgd_finds_the_least_norm(case, exponents=(0.7, 0.85)):
    """On least squares NMGD tends to the solution of least norm from any start, with a lag of lambda_n over the rate.

    Starts up to a hundred times as long as the answer, counted from two and, as printed, from one, where the first
    step erases the start. A summable sequence keeps part of the start.  D section 14.1, item 4, and section 15
    """
    ends = lambda a, first, reach: nmgd(case, a, first)[int(STEPS * reach)]
    small = lambda a, reach: (reach * STEPS) ** -a
    return together(
        converges=limit(
            measured=lambda reach: [ends(a, first, reach) for a in exponents for first in (1, 2)],
            predicted=lambda: [least_norm(case).expand(3, -1) for _ in exponents for _ in (1, 2)],
            bound=5e-3, reason="the shrinking over the slowest rate, 20,000^-0.7 / 0.3 = 0.0033",
        ),
        lag=limit(
            measured=lambda reach: [(ends(a, 2, reach) - least_norm(case)) / small(a, reach) for a in exponents],
            predicted=lambda: [lag(case, small(a, 1)).expand(3, -1) for a in exponents],
            bound=5e-3, reason="the prediction is for the shorter range; over the longer one it changes by 20,000^-0.7",
        ),
    )  # fmt: skip


@shared
def before(case: Case) -> Tensor:
    """Weights before three steps."""
    return draw(case, "steps", 3, 6)


def as_optimiser(loss: Callable[[Tensor], Tensor], w: Tensor, rate: float, shrink: float) -> Tensor:
    """A step of torch's SGD, then the weights times one minus the shrinking: what changed."""
    parameter = w.clone().requires_grad_()
    step = torch.optim.SGD([parameter], lr=rate)
    loss(parameter).backward()
    step.step()
    with torch.no_grad():
        parameter *= 1 - shrink
    return (parameter - w).detach()


def as_written(slope: Tensor, w: Tensor, rate: float, shrink: float, damped: bool = True) -> Tensor:
    """The right-hand side of (124)."""
    return -(1 - shrink if damped else 1) * rate * slope - shrink * w


@claim("D-eq124", control={"damped": False})
def update_as_written(case, damped=True):
    """A step of NMGD is 1 - lambda times a step of gradient descent: decay after the step, its gradient shrunk too.

    On least squares, with the gradient by hand. The control decays beside the step, as decoupled weight decay does.
    D (124)
    """
    ways = ((1.0, 0.3), (0.2, 0.01), (0.5, 1.0))
    loss = lambda w: (regression(case)[0] @ w - regression(case)[1]).square().sum() / 6
    slope = lambda w: (regression(case)[0] @ w - regression(case)[1]) @ regression(case)[0] / 3
    return equal(
        measured=lambda: [as_optimiser(loss, w, *way) for w, way in zip(before(case), ways, strict=True)],
        predicted=lambda: [as_written(slope(w), w, *way, damped) for w, way in zip(before(case), ways, strict=True)],
        bound=1e-13, reason="rounding",
    )  # fmt: skip


# Networks


STARTS = ((3.0, 0.33), (3.0, 0.7, 0.5), (2.0, 1.2, 0.6, 0.7))  # two, three and four scalar layers; products near one
LATE = (1000, 10_000)  # the index from which chains and the network count, so that the shrinking is small at once
EXPONENT = (0.8, 0.6)


def scalar_chain(
    start: tuple[float, ...], a: float | None, first: int, steps: int, marks: tuple[int, ...] = ()
) -> list[list[float]]:
    """NMGD with steps of 0.1 on half of (1 - w_1 w_2 ...)^2; plain descent if ``a`` is None. Weights at the marks."""
    w, found, marks = list(start), [], marks or (steps,)
    for n in range(first, first + steps):
        keep = 1.0 if a is None else 1 - n**-a
        error = 1 - math.prod(w)
        w = [keep * (v + 0.1 * error * math.prod(w[:i] + w[i + 1 :])) for i, v in enumerate(w)]
        if n - first + 1 in marks:
            found.append(w)
    return found


@shared
def chains(a: float | None, first: int) -> dict[float, list[Tensor]]:
    """Ends of scalar chains after 25,000 steps, and after twice as many."""
    some = [scalar_chain(start, a, first, 50_000, (25_000, 50_000)) for start in STARTS]
    return {reach: [torch.tensor(run[k]).double() for run in some] for k, reach in enumerate((1.0, 2.0))}


@shared
def small_task(case: Case) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Orthogonal weights of a network with two hidden layers of four tanh, far from balanced, and three samples."""
    turn = lambda k, m, n: torch.linalg.qr(draw(case, f"layer {k}", m, n))[0].numpy()
    weights = [turn(0, 4, 3), turn(1, 4, 4), 2 * turn(2, 4, 1).T]
    return weights, 3**0.5 * np.eye(3), np.array([[0.8, -0.6, 0.7]])


@shared
def tanh_ends(case: Case, a: float | None, first: int) -> dict[float, list[np.ndarray]]:
    """NMGD on half the mean square in that network, gradients by hand; weights after STEPS, and after twice as many."""
    (U, V, W), X, Y = small_task(case)
    found, rate = {}, 0.2
    for n in range(first, first + 2 * STEPS):
        keep = 1.0 if a is None else 1 - n**-a
        g = np.tanh(U @ X)
        h = np.tanh(V @ g)
        out = (W @ h - Y) / 3
        back = (W.T @ out) * (1 - h * h)
        ahead = (V.T @ back) * (1 - g * g)
        U, V, W = keep * (U - rate * ahead @ X.T), keep * (V - rate * back @ g.T), keep * (W - rate * out @ h.T)
        if n - first + 1 in (STEPS, 2 * STEPS):
            found[(n - first + 1) / STEPS] = [U, V, W]
    return found


def along_the_solutions(case: Case, weights: list[np.ndarray]) -> Tensor:
    """What of the weights is tangent to the set of networks with these outputs: zero where the norm is stationary.

    It counts as one where the network has died, and where the norm is stationary but not least among neighbours.
    """
    X = torch.from_numpy(small_task(case)[1])
    flat = torch.cat([torch.from_numpy(W).flatten() for W in weights])

    def outputs(p: Tensor) -> Tensor:
        U, V, W = (part.view(W.shape) for part, W in zip(p.split([W.size for W in weights]), weights, strict=True))
        return (W @ torch.tanh(V @ torch.tanh(U @ X)))[0]

    if outputs(flat).abs().max() < 1e-3:
        return torch.tensor(1.0, dtype=torch.float64)
    J = torch.func.jacrev(outputs)(flat)
    forces = flat @ torch.linalg.pinv(J)  # flat = J' forces, if the norm is stationary
    bending = torch.eye(len(flat)).double() - (forces[:, None, None] * torch.func.hessian(outputs)(flat)).sum(0)
    tangent = torch.linalg.svd(J)[2][len(J) :]
    if torch.linalg.eigvalsh(tangent @ bending @ tangent.mT)[0] <= 0:
        return torch.tensor(1.0, dtype=torch.float64)
    return (tangent @ flat).norm() / flat.norm()


@claim("D-nmgd-deep", printed={"first": (1, 1)}, control=[{"a": (None, None)}, {"first": (2, 2)}])
def nmgd_in_deep_networks(case, a=EXPONENT, first=LATE):
    """In deep networks NMGD ends where the norm is locally least among solutions, if it shrinks little from the start.

    Two, three and four scalar layers end balanced; a network with two hidden layers of tanh ends where its weights are
    orthogonal to the solutions and the norm curves upwards along them. Counted from one, as printed, the first step
    ends at the saddle at zero; from two, three and more layers fall into it. Plain descent ends elsewhere.
    D sections 14 and 15
    """
    return together(
        chains=limit(
            measured=lambda reach: chains(a[0], first[0])[reach],
            predicted=lambda: [[1.0] * len(start) for start in STARTS],
            bound=3e-3, reason="the lag, 26,000^-0.8 / 0.1 over two or more",
        ),
        network=limit(
            measured=lambda reach: [along_the_solutions(case, tanh_ends(case, a[1], first[1])[reach])],
            predicted=lambda: [0.0],
            scale=lambda: [1.0],
            bound=5e-3, reason="shrinkings add up to 55; the outputs are off by 0.008",
        ),
    )  # fmt: skip

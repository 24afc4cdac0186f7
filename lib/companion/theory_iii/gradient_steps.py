"""What decides the claims of section 15.1 of paper D, when a gradient step brings no two points further apart."""

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, shared, together
from companion.theory_iii.halpern_iterations import draw, growth


def two_relu_weights(w: Tensor) -> Tensor:
    """Half of (1 - w_2 max(w_1, 0))^2: one ReLU, two weights, one sample."""
    return (1 - w[..., 1] * torch.relu(w[..., 0])).square() / 2


def one_layer(w: Tensor) -> Tensor:
    """Half of (1 - w_1 - w_2)^2: two weights in one layer."""
    return (1 - w[..., 0] - w[..., 1]).square() / 2


def gradient_step(loss: Callable[[Tensor], Tensor], gamma: float) -> Callable[[Tensor], Tensor]:
    return lambda w: w - gamma * torch.func.grad(loss)(w)


Pair = tuple[Fraction, tuple[Fraction, Fraction], tuple[Fraction, Fraction]]


def far_and_near() -> list[Pair]:
    """Step sizes with two points each: a far minimum and its neighbour, and two points near the minimum (1, 1)."""
    found: list[Pair] = []
    for root in (Fraction(1, 100), Fraction(1, 10), Fraction(1)):
        w, d = 2 / root, Fraction(1, 100)
        found.append((root**2, (1 / w, w), (2 / w, w)))
        more, less = Fraction(11, 10) + d, Fraction(11, 10) - d
        found.append((root**2, (more, less), (less, more)))
    return found


FAR_AND_NEAR = far_and_near()


def float_growth(loss: Callable[[Tensor], Tensor], pair: Pair) -> Tensor:
    """Growth of one distance, with gradients by automatic differentiation."""
    gamma, x, z = float(pair[0]), *(torch.tensor([float(v) for v in p], dtype=torch.float64) for p in pair[1:])
    return growth(gradient_step(loss, gamma), x, z)


def exact_excess(slope: Callable, pair: Pair) -> float:
    """Growth of one distance less one, in rational arithmetic up to the last root."""
    gamma, x, z = pair
    after = [p - q - gamma * (s - t) for p, q, s, t in zip(x, z, slope(*x), slope(*z), strict=True)]
    ratio = sum(v * v for v in after) / sum((p - q) ** 2 for p, q in zip(x, z, strict=True)) - 1
    return float(ratio) / (1 + math.sqrt(1 + ratio))


def relu_slope(w: Fraction, v: Fraction) -> tuple[Fraction, Fraction]:
    """Gradient of :func:`two_relu_weights` by hand, for an active unit."""
    return -(1 - w * v) * v, -(1 - w * v) * w


@claim("D-hessian-bounded-above", control={"loss": one_layer})
def no_step_size_for_relu_networks(case, loss=two_relu_weights):
    """No step size makes descent on a deep ReLU network non-expansive: a ReLU between two weights is enough.

    At a minimum with weights 1/w and w the curvature is w^2 or more, without bound; and as close as one likes to every
    minimum it is negative in some direction. Two witnesses for each of three step sizes.  D section 15
    """
    inputs = torch.linspace(-2, 2, 9).double()
    return counterexample(
        at_most(
            left=lambda: [float_growth(loss, pair) for pair in FAR_AND_NEAR],
            right=lambda: [1.0 for _ in FAR_AND_NEAR],
            bound=1e-9, reason="rounding of differences",
        ),
        exact=lambda: min(exact_excess(relu_slope, pair) for pair in FAR_AND_NEAR),
        lipschitz=at_most(
            left=lambda: [
                float(v) * (torch.relu(float(w) * inputs).diff()).abs() for _, x, z in FAR_AND_NEAR for w, v in (x, z)
            ],
            right=lambda: [float(w * v) * inputs.diff().abs() for _, x, z in FAR_AND_NEAR for w, v in (x, z)],
            bound=1e-12, reason="rounding",
        ),
        global_minimum=equal(
            measured=lambda: [1 - x[0] * x[1] for _, x, _ in FAR_AND_NEAR[::2]],
            predicted=lambda: [0.0 for _ in FAR_AND_NEAR[::2]],
            bound=1e-12, reason="exact",
        ),
    )  # fmt: skip


# Smooth, convex, contracting


def parabola(curvature: float) -> Callable[[Tensor], Tensor]:
    """Gradient of half the curvature times the square."""
    return lambda x: curvature * x


def parabola_growth(curvature: float, gamma: float, x: Tensor, z: Tensor) -> Tensor:
    return growth(lambda w: w - gamma * parabola(curvature)(w), x, z)


@claim("D-def12-equivalence", control={"curvature": 1.0})
def smooth_is_not_nonexpansive(case, curvature=-1.0):
    """L-smooth is not the same as a non-expansive step: -x^2/2 is 1-smooth, its step doubles distances.  D 15.1"""
    x, z = torch.tensor([[1.0], [3.0]]).double(), torch.tensor([[0.5], [-4.0]]).double()
    return counterexample(
        at_most(
            left=lambda: [parabola_growth(curvature, 1.0, x, z)],
            right=lambda: [1.0],
            bound=1e-12, reason="rounding",
        ),
        exact=lambda: abs(1 - Fraction(curvature)) - 1,
        smooth=at_most(
            left=lambda: [(parabola(curvature)(x) - parabola(curvature)(z)).abs()],
            right=lambda: [(x - z).abs()],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


AMPLITUDES = (1.0, -2.0, 0.3, -0.5)


@shared
def axes_of(case: Case) -> Tensor:
    """Orthonormal axes in four dimensions."""
    return torch.linalg.qr(draw(case, "axes", 4, 4))[0]


def ripples(x: Tensor, axes: Tensor) -> Tensor:
    """Weighted sum of log cosh along the axes: its curvatures are the amplitudes at zero, and smaller elsewhere."""
    return (torch.tensor(AMPLITUDES).double() * (x @ axes.mT).cosh().log()).sum(-1)


def ripple_slope(x: Tensor, axes: Tensor) -> Tensor:
    """Its gradient, by hand."""
    return (torch.tensor(AMPLITUDES).double() * torch.tanh(x @ axes.mT)) @ axes


@shared
def some_pairs(case: Case) -> tuple[Tensor, Tensor]:
    """Five thousand random pairs."""
    return draw(case, "x", 5000, 4), draw(case, "z", 5000, 4)


@shared
def curvatures(case: Case) -> Tensor:
    """All eigenvalues of its Hessian at zero and at random points, by automatic differentiation."""
    points = torch.cat([torch.zeros(1, 4).double(), draw(case, "points", 200, 4)])
    axes = axes_of(case)
    return torch.linalg.eigvalsh(torch.func.vmap(torch.func.hessian(lambda x: ripples(x, axes)))(points))


@claim("D-lem13", control={"largest": lambda spectrum: spectrum.max()})
def bounded_curvature_is_smooth(case, largest=lambda spectrum: spectrum.abs().max()):
    """If all curvatures lie between -L and L, differences of gradients are at most L times those of points.

    A sum of log cosh with amplitudes of both signs, 5,000 pairs far and near. A bound from above alone does not do.
    D Lemma 13
    """
    slope = lambda k, c: ripple_slope(c * some_pairs(case)[k], axes_of(case))
    distance = lambda c: (c * (some_pairs(case)[0] - some_pairs(case)[1])).norm(dim=1)
    return at_most(
        left=lambda: [(slope(0, c) - slope(1, c)).norm(dim=1) for c in (1, 1e-2)],
        right=lambda: [largest(curvatures(case)) * distance(c) for c in (1, 1e-2)],
        bound=1e-9, reason="rounding; the curvature is largest at zero, which is among the points",
    )  # fmt: skip


def cubic_step(x: Tensor, gamma: float) -> Tensor:
    """A gradient step on the sum of (x^2 - 1)^2 / 4."""
    return x - gamma * (x**3 - x)


@claim("D-lem14", control={"steps": (0.0,)})
def fixed_points_are_critical(case, steps=(1e-3, -0.5, 2.0)):
    """A point is fixed by a gradient step of any size but zero if and only if its gradient vanishes.

    The sum of (x^2 - 1)^2 / 4 in four dimensions, critical where all coordinates are -1, 0 or 1: all 81 such points,
    and 81 others, some of which differ from them in one coordinate.  D Lemma 14
    """
    corners = lambda: torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 4)
    others = lambda: corners() + draw(case, "kicks", 81, 4) * (torch.arange(81)[:, None] % 4 >= torch.arange(4))
    return equal(
        measured=lambda: [(cubic_step(p, c) == p).all(1).double() for c in steps for p in (corners(), others())],
        predicted=lambda: [torch.full((81,), value) for _ in steps for value in (1.0, 0.0)],
        scale=lambda: [1.0 for _ in steps for _ in range(2)],
        bound=1e-3, reason="yes or no, in exact arithmetic",
    )  # fmt: skip


@shared
def planes(case: Case) -> Tensor:
    """Directions of a convex sum of log cosh."""
    return draw(case, "planes", 7, 4)


def convex_slope(x: Tensor, M: Tensor) -> Tensor:
    """Gradient of the sum of log cosh along the directions."""
    return torch.tanh(x @ M.mT) @ M


def steepest(M: Tensor) -> float:
    """Its largest curvature, which it has at zero."""
    return torch.linalg.matrix_norm(M, 2).item() ** 2


def along(case: Case, size: float) -> tuple[Tensor, Tensor]:
    """Random pairs, and pairs about zero in the steepest direction."""
    x, z = size * draw(case, "x", 2000, 4), size * draw(case, "z", 2000, 4)
    steep = torch.linalg.svd(planes(case))[2][:1]
    return torch.cat([x, size * steep]), torch.cat([z, -size * steep])


@claim("D-thm15", printed={"times": 4.0}, control={"sign": -1.0})
def convex_steps_do_not_expand(case, times=2.0, sign=1.0):
    """A gradient step on a convex L-smooth function brings no two points further apart for step sizes up to 2/L.

    A sum of log cosh, pairs far and near. As printed, for all step sizes, it is false from there on; the control is
    concave.  D Theorem 15
    """
    slope = lambda x: sign * convex_slope(x, planes(case))
    cells = [(c, size) for c in (times / 4, times / 2, times) for size in (1.0, 1e-3)]
    step = lambda c: lambda x: x - c / steepest(planes(case)) * slope(x)
    return at_most(
        left=lambda: [growth(step(c), *along(case, size)) for c, size in cells],
        right=lambda: [1.0 for _ in cells],
        bound=1e-9, reason="rounding of differences",
    )  # fmt: skip


Witness = tuple[tuple[int, int], Fraction, tuple[Fraction, Fraction], tuple[Fraction, Fraction]]
FIFTH = Fraction(1, 5)
UNIT = ((4 * FIFTH, 3 * FIFTH), (3 * FIFTH, 4 * FIFTH), (Fraction(1), Fraction(0)))
WITNESSES: tuple[Witness, ...] = (
    ((3, 4), Fraction(1, 100), UNIT[0], UNIT[1]),  # where the loss is concave: any step size
    ((3, 4), Fraction(1), UNIT[0], UNIT[1]),
    ((1, 4), Fraction(1), UNIT[0], UNIT[2]),  # the second point is a minimum with loss zero
)


def normalised(a: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Half of (a.v/|v| - 1)^2: weight normalisation of one unit on one sample."""
    return lambda v: (torch.tensor(a).double() @ v / v.norm() - 1).square() / 2


def projected(a: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Half the squared distance from the line through a: its Hessian is a projection."""
    n = torch.tensor(a).double() / math.hypot(*a)
    return lambda v: (v - (n @ v) * n).square().sum() / 2


def normalised_slope(a: tuple[int, int]) -> Callable:
    """Its gradient at unit vectors, by hand."""

    def slope(x: Fraction, y: Fraction) -> tuple[Fraction, Fraction]:
        f = a[0] * x + a[1] * y
        return (f - 1) * (a[0] - f * x), (f - 1) * (a[1] - f * y)

    return slope


@claim("D-thm15-wn", control={"loss": projected})
def normalised_steps_expand(case, loss=normalised):
    """Weight normalisation does not make steps up to one non-expansive: its Hessian is no projection.

    One unit, one sample: two points where the loss is concave, which every step drives apart, and a minimum of loss
    zero with a neighbour. What has eigenvalues 0 and 1 is the projection in the gradient alone.  D section 15.1
    """
    return counterexample(
        at_most(
            left=lambda: [float_growth(loss(a), pair) for a, *pair in WITNESSES],
            right=lambda: [1.0 for _ in WITNESSES],
            bound=1e-9, reason="rounding of differences",
        ),
        exact=lambda: min(exact_excess(normalised_slope(a), tuple(pair)) for a, *pair in WITNESSES),
    )  # fmt: skip


def quadratic_descent(spectrum: tuple[float, ...], gamma: float, steps: int) -> Tensor:
    """Descent from (1, 1, ...) on half the sum of curvature times square, step by step."""
    w, h = torch.ones(len(spectrum)).double(), torch.tensor(spectrum).double()
    for _ in range(steps):
        w = w - gamma * h * w
    return w


def exact_distance(spectrum: tuple[float, ...], gamma: Fraction, steps: int) -> Fraction:
    """Its squared distance from zero, in rational arithmetic."""
    return sum(((1 - gamma * Fraction(str(h))) ** steps) ** 2 for h in spectrum)


@claim("D-thm16a", control={"spectrum": (1.0, 1.0)})
def steepest_rate_is_too_fast(case, spectrum=(1.0, 0.01)):
    """Descent on an L-smooth function need not contract by 1 - gamma L a step: it never contracts faster.

    Half of x^2 + y^2 / 100 with gamma = 0.9 and L = 1, three steps. The printed bound is a bound from below, by the
    triangle inequality. Where all curvatures are equal it is attained.  D Theorem 16 (a)
    """
    steps = 3
    bound = lambda: (1 - Fraction(9, 10)) ** (2 * steps) * 2
    return counterexample(
        at_most(
            left=lambda: [quadratic_descent(spectrum, 0.9, steps).square().sum()],
            right=lambda: [(1 - 0.9 * 1.0) ** (2 * steps) * 2],
            bound=1e-12, reason="rounding",
        ),
        exact=lambda: exact_distance(spectrum, Fraction(9, 10), steps) / bound() - 1,
        smooth=at_most(left=lambda: [max(map(abs, spectrum))], right=lambda: [1.0], bound=1e-12, reason="exact"),
        converges=equal(
            measured=lambda: [quadratic_descent(spectrum, 0.9, 5000)],
            predicted=lambda: [torch.zeros(len(spectrum))],
            scale=lambda: [1.0],
            bound=1e-12, reason="0.991^5000 is below 1e-19",
        ),
    )  # fmt: skip


@shared
def distances(case: Case, share: float, ridge: float = 0.5, steps: int = 20) -> Tensor:
    """Squared distances from the minimum, zero, of descent on log cosh plus a ridge; rows are steps, columns starts."""
    M = planes(case)
    w, gamma = draw(case, "descents", 200, 4), share / (steepest(M) + ridge)
    close = 1e-3 * torch.linalg.svd(M)[2][[0, -1]]  # near zero everything is quadratic
    w, found = torch.cat([w, close]), []
    for _ in range(steps):
        found.append(w.square().sum(1))
        w = w - gamma * (convex_slope(w, M) + ridge * w)
    return torch.stack([*found, w.square().sum(1)])


def steps_allowed(case: Case, share: float, ridge: float, exponent: int = 1) -> Tensor:
    """(1 - gamma mu)^t for every t."""
    rate = 1 - share / (steepest(planes(case)) + ridge) * ridge
    return torch.tensor([[rate ** (exponent * t)] for t in range(1, 21)]).double()


@claim("D-thm16b", control={"shares": (8.0,)})
def strongly_convex_rate(case, shares=(0.01, 0.1, 0.5, 0.99)):
    """With mu-strong convexity and gamma L < 1 squared distances fall by 1 - gamma mu a step, or faster.

    Log cosh plus a ridge, 202 starts, every step of twenty. The control has gamma L = 8.  D Theorem 16 (b)
    """
    start = lambda share: distances(case, share)[:1]
    return at_most(
        left=lambda: [distances(case, share)[1:] for share in shares],
        right=lambda: [steps_allowed(case, share, 0.5) * start(share) for share in shares],
        bound=1e-12, reason="rounding",
    )  # fmt: skip


def norms(case: Case, share: float, ridge: float) -> Tensor:
    """Distances from the minimum, all steps but the first."""
    return distances(case, share, ridge)[1:].sqrt()


def starts(case: Case, share: float, ridge: float) -> Tensor:
    """Distances from the minimum at the start."""
    return distances(case, share, ridge)[:1].sqrt()


def slowest(case: Case, share: float, ridge: float) -> Tensor:
    """(1 - gamma L)^t for every t."""
    return ((1 - share) ** torch.arange(1.0, 21.0, dtype=torch.float64))[:, None]


@claim("O-distance-rates", control={"share": 8.0})
def distance_rates(case, share=0.4, ridge=0.5):
    """With gamma L < 1 a step multiplies the distance from a minimum by 1 - gamma L or more, by 1 - gamma mu or less.

    The first needs an L-smooth function and no more, the second a mu-strongly convex one. Log cosh plus a ridge, 202
    starts, two of them close to the minimum in its steepest and in its flattest direction, every step of twenty.
    """
    return together(
        not_faster=at_most(
            left=lambda: [slowest(case, share, ridge) * starts(case, share, ridge)],
            right=lambda: [norms(case, share, ridge)],
            bound=1e-9, reason="rounding",
        ),
        not_slower=at_most(
            left=lambda: [norms(case, share, ridge)],
            right=lambda: [steps_allowed(case, share, ridge) * starts(case, share, ridge)],
            bound=1e-9, reason="rounding",
        ),
    )  # fmt: skip

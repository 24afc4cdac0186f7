"""What decides the claims of section 14.3 of paper D: a penalty, an example of four weights, zero modes of symmetries.

The penalty is ``lambda |w|^2``, as in the paper; the library's weight decay is twice that.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, equal, shared, together
from normdyn.measures.curvature import (
    Params,
    flatten,
    general_orbit_dimension,
    hessian,
    interpolation_nullity,
    minimum,
    nullity,
    orbit_dimension,
    orthogonal_orbit_dimension,
    unflatten,
)
from normdyn.networks.graphs import layered_weights, mlp
from normdyn.networks.losses import square_loss

COUNTS = "whole numbers, each with a gap of a hundred or more in the spectrum"


def draw(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


def identity(z: Tensor) -> Tensor:
    return z


def layers(case: Case, role: str, widths: Sequence[int], gain: float = 1.0) -> Params:
    return {str(l): W for l, W in enumerate(layered_weights(widths, case.generator(role), gain=gain))}


# One layer: the penalty works

PENALTY = 0.05
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": lambda f, y: square_loss(f, y),
    "exponential": lambda f, y: torch.exp(-y.sign() * f).sum(),
}


@shared
def curved(case: Case, widths: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Hessians of two losses, and what remains of them if outputs were linear in the weights; deep ones at zero."""
    X, y, found = draw(case, "X", 6, 9), draw(case, "y", 6, 1), []
    net = lambda q: mlp(list(q.values()), X, activation=identity)
    for k, loss in product(range(5), LOSSES.values()):
        p = {n: W * (len(widths) == 2) for n, W in layers(case, f"linear {k}", widths).items()}
        J = torch.func.jacrev(lambda v, p=p: net(unflatten(v, p))[:, 0])(flatten(p))
        bend = torch.func.hessian(lambda f, loss=loss: loss(f[:, None], y))(net(p)[:, 0])
        found.append((hessian(lambda q, loss=loss: loss(net(q), y), p), J.mT @ bend @ J))
    return found


@claim("D-linear-psd", control={"widths": (9, 3, 1)})
def penalty_lifts_every_eigenvalue(case, widths=(9, 1)):
    """With one linear layer the Hessian is a sum of squares, and the penalty lifts it above 2 lambda.  D section 14.3

    The control has two linear layers, at the origin.
    """
    lifted = lambda H: torch.linalg.eigvalsh(H + 2 * PENALTY * torch.eye(len(H), dtype=H.dtype))
    return together(
        squares=equal(
            measured=lambda: [H for H, _ in curved(case, widths)],
            predicted=lambda: [G for _, G in curved(case, widths)],
            bound=1e-12, reason="rounding; 9 weights, 6 samples, two losses at 5 points",
        ),
        lifted=at_most(
            left=lambda: [2 * PENALTY for _ in curved(case, widths)],
            right=lambda: [lifted(H)[0] for H, _ in curved(case, widths)],
            scale=lambda: [lifted(H)[-1] for H, _ in curved(case, widths)],
            bound=1e-12, reason="rounding of eigenvalues, relative to the largest",
        ),
    )  # fmt: skip


# The example of four weights: exp(-f) + lambda |w|^2 with f = w1 w2 + w3 w4

BELOW, BEYOND = (0.02, 0.1, 0.2, 0.3, 0.4), (0.6, 0.8, 1.0)  # penalties on both sides of one half


def exponential(f: Tensor) -> Tensor:
    return torch.exp(-f)


def logistic(f: Tensor) -> Tensor:
    return torch.nn.functional.softplus(-f)


def output(w: Tensor, share: float = 1.0) -> Tensor:
    """The example's network; another share of the second path is a network with another input."""
    return w[0] * w[1] + share * w[2] * w[3]


def four_weights(
    penalty: float, loss: Callable[[Tensor], Tensor] = exponential, share: float = 1.0
) -> Callable[[Params], Tensor]:
    """The loss of the example, as a function of its weights."""
    return lambda p: loss(output(p["w"], share)) + penalty * p["w"].square().sum()


@shared
def lowest(case: Case, penalty: float, loss: Callable[[Tensor], Tensor] = exponential) -> Tensor:
    """The lowest of the minima found from three starts."""
    of = four_weights(penalty, loss)
    found = [minimum(of, {"w": draw(case, f"start {k}", 4)}, tolerance=1e-10) for k in range(3)]
    return min((p for p in found if p is not None), key=of)["w"]


@shared
def scattered(case: Case) -> list[tuple[float, Tensor]]:
    """Penalties and points anywhere."""
    return [(0.1 + 0.1 * k, draw(case, f"point {k}", 4)) for k in range(8)]


@claim("D-eq84", control={"loss": logistic})
def two_sets_of_critical_points(case, loss=exponential):
    """The gradient is 2 lambda (w - c P w) with c = exp(-f)/2 lambda and P the exchange within pairs.  D (84)

    It vanishes at w = 0, or where c = 1: at the minima.
    """
    ratio = lambda w, penalty: torch.exp(-w[0] * w[1] - w[2] * w[3]) / (2 * penalty)
    slope = lambda penalty, w: torch.func.grad(lambda v: four_weights(penalty, loss)({"w": v}))(w)
    return together(
        gradient=equal(
            measured=lambda: [slope(penalty, w) / (2 * penalty) for penalty, w in scattered(case)],
            predicted=lambda: [w - ratio(w, penalty) * w[[1, 0, 3, 2]] for penalty, w in scattered(case)],
            bound=1e-12, reason="rounding of a gradient; 8 points",
        ),
        dichotomy=equal(
            measured=lambda: [ratio(lowest(case, l, loss), l) for l in (0.02, 0.05, 0.1, 0.2)],
            predicted=lambda: [1.0] * 4,
            bound=1e-9, reason="gradient below 1e-10 at the minima found",
        ),
    )  # fmt: skip


def on_the_circle(penalty: float, share: float) -> Tensor:
    """A critical point: w1 = w2, w3 = w4, and f = -log 2 lambda."""
    a, b = (-share * math.log(2 * penalty)) ** 0.5, (-(1 - share) * math.log(2 * penalty)) ** 0.5
    return torch.tensor([a, a, b, b], dtype=torch.float64)


@shared
def circles() -> list[tuple[float, Tensor]]:
    """A point of the circle for each of five penalties."""
    return [(penalty, on_the_circle(penalty, 0.3)) for penalty in BELOW]


@claim("D-eq85", printed={"sign": -1})
def determinant_of_the_hessian(case, sign=1):
    """det H = e^-4f (4 l^2 e^2f - 1)(4 l^2 e^2f + 2 l e^f |w|^2 + 2f - 1), anywhere and on the circle.  D (85)"""
    H = lambda penalty, w: hessian(four_weights(penalty), {"w": w})

    def formula(penalty: float, w: Tensor) -> Tensor:
        f = w[0] * w[1] + w[2] * w[3]
        power = 4 * penalty**2 * torch.exp(2 * sign * f)
        second = power + 2 * penalty * torch.exp(f) * w.square().sum() + 2 * f - 1
        return torch.exp(-4 * f) * (power - 1) * second

    return together(
        anywhere=equal(
            measured=lambda: [torch.linalg.det(H(*at)) for at in scattered(case)],
            predicted=lambda: [formula(*at) for at in scattered(case)],
            bound=1e-9, reason="rounding of a determinant; 8 points",
        ),
        critical=equal(
            measured=lambda: [torch.linalg.det(H(*at)) for at in circles()],
            predicted=lambda: [formula(*at) for at in circles()],
            scale=lambda: [torch.linalg.matrix_norm(H(*at), 2) ** 4 for at in circles()],
            bound=1e-12, reason="rounding, relative to the fourth power of the largest eigenvalue; five circles",
        ),
    )  # fmt: skip


@claim("D-lem8", printed={"penalties": BELOW + BEYOND})
def degenerate_up_to_one_half(case, penalties=BELOW):
    """The global minimum has one zero eigenvalue for every lambda < 1/2, beside a saddle at the origin.  D Lemma 8

    Its value, 2 lambda (1 - log 2 lambda), is the least of exp(-f) + 2 lambda |f|, which bounds the loss from below.
    """
    at = lambda penalty: torch.linalg.eigvalsh(hessian(four_weights(penalty), {"w": lowest(case, penalty)}))
    origin = lambda penalty: hessian(four_weights(penalty), {"w": torch.zeros(4, dtype=torch.float64)})
    circle = lambda l: torch.tensor([0.0, *sorted([-4 * l * math.log(2 * l), 4 * l, 4 * l])], dtype=torch.float64)
    return together(
        global_minimum=equal(
            measured=lambda: [four_weights(l)({"w": lowest(case, l)}) for l in penalties],
            predicted=lambda: [2 * l * (1 - math.log(2 * l)) for l in penalties],
            bound=1e-9, reason="gradient below 1e-10 at the minima found",
        ),
        degenerate=equal(
            measured=lambda: [at(l) for l in penalties],
            predicted=lambda: [circle(l) for l in penalties],
            bound=1e-7, reason="gradient below 1e-10 at the minima found",
        ),
        saddle=equal(
            measured=lambda: [torch.linalg.eigvalsh(origin(l)) for l in BELOW],
            predicted=lambda: [torch.tensor([2 * l - 1] * 2 + [2 * l + 1] * 2, dtype=torch.float64) for l in BELOW],
            bound=1e-12, reason="rounding of eigenvalues",
        ),
    )  # fmt: skip


@claim("D-lem8-logistic", printed={"penalties": (0.02, 0.1, 0.2, 0.3, 0.4)}, control={"penalties": (0.6, 0.8)})
def logistic_up_to_one_quarter(case, penalties=(0.02, 0.05, 0.1, 0.15, 0.2)):
    """With the logistic loss the global minimum has one zero eigenvalue for every lambda < 1/4.  D section 14.3"""

    def circle(l: float) -> list[float]:
        """The spectrum where sigma(-f) = 2 lambda; the loss bends by 2 lambda (1 - 2 lambda) in f."""
        at = min(2 * l, 0.5)  # beyond one quarter there is no such f >= 0
        return sorted([0.0, 2 * at * (1 - at) * math.log((1 - at) / at), 4 * l, 4 * l])

    H = lambda l: hessian(four_weights(l, logistic), {"w": lowest(case, l, logistic)})
    return equal(
        measured=lambda: [torch.linalg.eigvalsh(H(l)) for l in penalties],
        predicted=lambda: [torch.tensor(circle(l), dtype=torch.float64) for l in penalties],
        bound=1e-7, reason="gradient below 1e-10 at the minima found; five penalties",
    )  # fmt: skip


PLANES = {
    "as printed": torch.eye(4, dtype=torch.float64),
    "sums": torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, -1, 0, 0], [0, 0, 1, -1]], dtype=torch.float64) / 2**0.5,
}  # rows 1, 2 span the first plane and rows 3, 4 the second


def turned(w: Tensor, basis: Tensor, plane: int, angle: float) -> Tensor:
    """A rotation in the first or in the second plane of a basis."""
    c, s, v = math.cos(angle), math.sin(angle), basis @ w
    i = 2 * plane
    rotated = torch.stack([c * v[i] - s * v[i + 1], s * v[i] + c * v[i + 1]])
    return basis.mT @ torch.cat([v[:i], rotated, v[i + 2 :]])


def symmetries(share: float) -> int:
    """Dimension of the rotations that leave f alone: skew A with A' S + S A = 0, S the second derivatives of f."""
    units, S = torch.eye(16, dtype=torch.float64).reshape(16, 4, 4), torch.zeros(4, 4, dtype=torch.float64)
    S[0, 1] = S[1, 0] = 1.0
    S[2, 3] = S[3, 2] = share
    rows = torch.cat([(units + units.mT).flatten(1), (units.mT @ S + S @ units).flatten(1)], 1)
    return 16 - int(torch.linalg.matrix_rank(rows))


@shared
def turns(case: Case, planes: str, share: float) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The loss at five points, and after turns by five angles in the first and in the second plane."""
    of, points = four_weights(0.1, share=share), [draw(case, f"turn {k}", 4) for k in range(5)]
    after = lambda w, plane, angle: of({"w": turned(w, PLANES[planes], plane, angle)})
    both = ([torch.stack([after(w, plane, a) for a in (0.4, 1.1, 2.0, 3.9, 5.3)]) for w in points] for plane in (0, 1))
    return [of({"w": w}) for w in points], *both


@claim("D-lem8-circles", printed={"planes": "as printed"}, control={"share": 2.0})
def two_circles(case, planes="sums", share=1.0):
    """Turning the sums (w1 + w2, w3 + w4), or the differences, leaves the loss alone; no other rotation does.

    The second turns nothing at the minimum, which has one zero eigenvalue. The control weighs the second path twice.
    D section 14.3
    """
    lost = "rounding; 5 points, 5 angles"
    before, after = (lambda: turns(case, planes, share)[0]), (lambda plane: turns(case, planes, share)[1 + plane])
    one, of = (lambda: circles()[1][1]), (lambda p: four_weights(0.1, share=share)(p))
    moves = lambda plane: (turned(one(), PLANES["sums"], plane, 0.4) - one()).norm() > 0.1
    return together(
        first=equal(measured=lambda: after(0), predicted=before, bound=1e-12, reason=lost),
        second=equal(measured=lambda: after(1), predicted=before, bound=1e-12, reason=lost),
        all=equal(measured=lambda: symmetries(share), predicted=lambda: 2, bound=1e-4, reason="a whole number"),
        at_the_minimum=equal(
            measured=lambda: nullity(hessian(of, {"w": one()})).zeros,
            predicted=lambda: float(moves(0)) + float(moves(1)),
            bound=1e-4, reason="a whole number with a gap; circles along which the minimum moves",
        ),
    )  # fmt: skip


# Zero modes of linear networks

PATTERNS = (
    *product((1, 2, 3), repeat=3), *product((1, 2), repeat=4),
    (4, 5, 2), (2, 4, 3), (3, 3, 3, 3), (5, 3, 4, 2), (3, 2, 2, 3), (4, 6, 6, 1), (3, 3, 3, 3, 3),
)  # fmt: skip


@shared
def interpolating(case: Case, widths: tuple[int, ...], shift: float = 0.0) -> tuple[Params, Tensor]:
    """Weights of a linear network, and the Hessian where the targets are its own outputs plus a shift."""
    p, X = layers(case, f"{widths} W", widths), draw(case, f"{widths} X", widths[0] + 3, widths[0])
    of = lambda q: mlp(list(q.values()), X, activation=identity)
    target = of(p) + shift
    return p, hessian(lambda q: square_loss(of(q), target), p)


def hidden_group(widths: Sequence[int]) -> int:
    """Dimension of the group between the layers: the paper's count."""
    return sum(d * d for d in widths[1:-1])


def zero_modes(H: Tensor) -> int:
    return nullity(H, relative=1e-10, gap=100).zeros


@claim("D-gl-zero-modes", printed={"count": hidden_group, "orbits": hidden_group}, control={"shift": 1.0})
def zero_modes_of_linear_networks(case, count=interpolation_nullity, orbits=general_orbit_dimension, shift=0.0):
    """At a generic interpolating point a linear network has D - r (d_0 + d_L - r) zero modes, r the least width.

    They are the orbit of the groups between the layers and of the maps at both ends that fix the product; the former
    alone have sum d_k^2 less their stabiliser.  D section 14.3
    """
    weights = lambda p: list(interpolating(case, p)[0].values())
    zeros = lambda patterns: [zero_modes(interpolating(case, p, shift)[1]) for p in patterns]
    narrow = [p for p in PATTERNS if len(set(p[1:-1])) == 1 and p[1] <= min(p[0], p[-1])]
    return together(
        count=equal(
            measured=lambda: zeros(PATTERNS), predicted=lambda: [count(p) for p in PATTERNS], bound=1e-4, reason=COUNTS
        ),
        as_printed=equal(
            measured=lambda: zeros(narrow), predicted=lambda: [hidden_group(p) for p in narrow],
            bound=1e-4, reason=COUNTS,
        ),
        orbit=equal(
            measured=lambda: zeros(PATTERNS),
            predicted=lambda: [orbit_dimension(weights(p), ends=True) for p in PATTERNS],
            bound=1e-4, reason=COUNTS,
        ),
        hidden=equal(
            measured=lambda: [orbit_dimension(weights(p)) for p in PATTERNS],
            predicted=lambda: [orbits(p) for p in PATTERNS], bound=1e-4, reason=COUNTS,
        ),
    )  # fmt: skip


STAIR, SINGULAR = (4, 6, 4), (2.6, 1.9, 1.2, 0.5)
DECAYS = (0.1, 0.3, 0.6, 0.9, 1.5, 1.8, 2.1, 2.4)
OTHERS = (
    ((3, 2, 1), 0.1, (2.0,)), ((3, 4, 1), 0.1, (2.0,)), ((4, 4, 3), 0.1, (2.0, 1.5, 1.0)),
    ((4, 3, 3, 1), 0.1, (2.0,)), ((3, 3, 3, 3), 0.1, (2.0, 1.6)),
)  # fmt: skip


@shared
def decayed(
    case: Case, widths: tuple[int, ...], decay: float, values: tuple[float, ...], place: str = "minimum"
) -> tuple[Params, Tensor]:
    """A minimum with weight decay and the Hessian there: white inputs, a target with these singular values."""
    n, m = widths[0], widths[-1]
    U, V = (torch.linalg.qr(draw(case, f"{widths} {k}", k, k))[0][:, : len(values)] for k in (m, n))
    X, target = n**0.5 * torch.eye(n, dtype=torch.float64), (U * torch.tensor(values, dtype=torch.float64)) @ V.mT

    def loss(p: Params) -> Tensor:
        fit = square_loss(mlp(list(p.values()), X, activation=identity), X @ target.mT)
        return fit + decay / 2 * torch.stack([W.square().sum() for W in p.values()]).sum()

    for k in range(5):
        start = layers(case, f"{widths} {decay} {k}", widths)
        if place == "origin":
            p = {name: torch.zeros_like(W) for name, W in start.items()}
        else:
            p = minimum(loss, start, tolerance=1e-10)
        if p is not None:
            return p, hessian(loss, p)
    raise ValueError(f"no minimum of widths {widths} at decay {decay} from five starts")


def kept(values: Sequence[float], decay: float) -> int:
    """How many singular values of the target outlive the decay, with two layers."""
    return sum(value > decay for value in values)


@claim("D-od-zero-modes", printed={"decays": (*DECAYS, 3.0)}, control={"place": "origin"})
def zero_modes_with_weight_decay(case, decays=DECAYS, place="minimum"):
    """A minimum of rank r has sum C(d_k, 2) - C(d_k - r, 2) zero modes, one at least where r >= 1 and some d_k >= 2.

    With two layers and white inputs r is the number of the target's singular values above the decay.  D section 14.3
    """
    spectrum = lambda one: nullity(decayed(case, *one, place)[1], relative=1e-7, gap=100)
    places = lambda: [*((STAIR, decay, SINGULAR) for decay in decays), *OTHERS]
    return together(
        some=at_most(
            left=lambda: [1.0 for _ in places()], right=lambda: [float(spectrum(one).zeros) for one in places()],
            scale=lambda: [1.0 for _ in places()], bound=1e-4, reason=COUNTS,
        ),
        count=equal(
            measured=lambda: [spectrum(one).zeros for one in places()],
            predicted=lambda: [orthogonal_orbit_dimension(one[0], kept(one[2], one[1])) for one in places()],
            bound=1e-4, reason=COUNTS,
        ),
        minima=equal(
            measured=lambda: [spectrum(one).negative for one in places()], predicted=lambda: [0 for _ in places()],
            bound=1e-4, reason=COUNTS,
        ),
    )  # fmt: skip

"""What decides the claims of section 10 of paper D: dimensions of critical sets under the square loss.

Networks have a polynomial activation, so that no rescaling symmetry is left. Critical points are made, not searched:
where labels may be chosen, the error is put at right angles to the slopes that have to vanish.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, shared, together
from normdyn.measures.curvature import Params, flatten, hessian, nullity, unflatten
from normdyn.motion.flows import gradient
from normdyn.networks.graphs import layered_weights, mlp
from normdyn.networks.losses import square_loss

COUNTS = "whole numbers, each with a gap of a hundred or more in the spectrum"
Point = tuple[Params, Tensor, Tensor]  # weights, inputs, labels


def draw(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


def polynomial(z: Tensor) -> Tensor:
    """The first terms of exp(z) - 1."""
    return z + z**2 / 2 + z**3 / 6


def inputs(case: Case, role: str, samples: int, dimensions: int) -> Tensor:
    """Inputs without outliers, between -1.5 and 1.5, so that ranks can be read off."""
    return 3 * torch.rand(samples, dimensions, generator=case.generator(role), dtype=torch.float64) - 1.5


def network(p: Params, X: Tensor) -> Tensor:
    return mlp(list(p.values()), X, activation=polynomial)


def layers(case: Case, role: str, widths: Sequence[int]) -> Params:
    """Weights and a role for the layers; the first layer maps inputs to the first hidden width."""
    return {str(l): W for l, W in enumerate(layered_weights(widths, case.generator(role), gain=0.5))}


def sizes(widths: Sequence[int]) -> list[int]:
    """Numbers of weights, layer by layer."""
    return [m * n for m, n in pairwise(widths)]


def slope(point: Point) -> Tensor:
    """The gradient of the square loss as one vector."""
    p, X, Y = point
    return flatten(gradient(lambda q: square_loss(network(q, X), Y))(p))


def misfit(point: Point) -> Tensor:
    p, X, Y = point
    return square_loss(network(p, X), Y)


def at_right_angles(case: Case, role: str, span: Tensor) -> Tensor:
    """A random vector of length one at right angles to the columns of a matrix."""
    v = draw(case, role, len(span), 1)
    Q = torch.linalg.qr(span)[0]
    v = v - Q @ (Q.mT @ v)
    v = v - Q @ (Q.mT @ v)  # once more, against rounding
    return v / v.norm()


# Three kinds of critical points


@shared
def interpolating(case: Case, widths: tuple[int, ...], samples: int, repeated: bool = False) -> Point:
    """A point that fits: labels are the network's own outputs. With ``repeated`` the second sample is the first."""
    p, X = layers(case, f"{widths} fit", widths), inputs(case, f"{widths} {samples} X", samples, widths[0])
    U, _, V = torch.linalg.svd(p["0"], full_matrices=False)
    p["0"] = U @ V  # units that see different things, so that ranks can be read off
    if repeated:
        X[1] = X[0]
    return p, X, network(p, X)


@shared
def last_layer_zero(case: Case, widths: tuple[int, ...], samples: int, last: float = 0.0) -> Point:
    """The last layer vanishes, and labels are at right angles to the features below it."""
    p, X = layers(case, f"{widths} last", widths), inputs(case, f"{widths} {samples} X", samples, widths[0])
    features = polynomial(mlp(list(p.values())[:-1], X, activation=polynomial))
    Y = at_right_angles(case, f"{widths} {samples} Y", features)
    p[str(len(p) - 1)] = last * p[str(len(p) - 1)]
    return p, X, Y


@shared
def first_layer_zero(case: Case, widths: tuple[int, ...], samples: int) -> Point:
    """The first layer vanishes, and the path from it to the output has no slope at zero; labels are anything."""
    p, X = layers(case, f"{widths} first", widths), inputs(case, f"{widths} {samples} X", samples, widths[0])
    names = list(p)
    path = torch.eye(widths[1], dtype=torch.float64)
    for name in names[1:-1]:
        path = p[name] @ path
    p[names[0]] = torch.zeros_like(p[names[0]])
    p[names[-1]] = at_right_angles(case, f"{widths} top", path).mT
    return p, X, draw(case, f"{widths} {samples} labels", samples, 1)


@shared
def flat(case: Case, kind: Callable[..., Point], *of: Any) -> int:
    """Zero eigenvalues of the Hessian of the square loss at one of these points."""
    p, X, Y = kind(case, *of)
    H = hessian(lambda q: square_loss(network(q, X), Y), p)
    return nullity(H, relative=1e-11, gap=100).zeros


FITS = (((4, 6, 1), 3), ((4, 6, 1), 9), ((8, 2, 1), 10), ((3, 4, 4, 1), 8))


@claim("D-bezout-dimension", control={"repeated": True})
def interpolating_points_lose_a_dimension_a_sample(case, repeated=False):
    """At a generic interpolating point D - N directions are flat, and they are a set of solutions.  D section 10"""
    free = lambda: [sum(sizes(widths)) - samples for widths, samples in FITS]

    def residual(widths: tuple[int, ...], samples: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        p, X, _ = interpolating(case, widths, samples, repeated)
        return (lambda v: network(unflatten(v, p), X)[:, 0]), flatten(p)

    return together(
        hessian=equal(
            measured=lambda: [flat(case, interpolating, *fit, repeated) for fit in FITS], predicted=free,
            bound=1e-4, reason=COUNTS,
        ),
        solutions=equal(
            measured=lambda: [dimension(nearby(case, f"set {N}", *residual((2, 3, 1), N))) for N in (3, 5)],
            predicted=lambda: [9 - N for N in (3, 5)], bound=1e-4, reason=COUNTS,
        ),
    )  # fmt: skip


LAST = (((4, 3, 1), 6), ((10, 2, 1), 9), ((3, 4, 1), 8), ((3, 4, 3, 1), 7))


@claim("D-last-layer-zero-degeneracy", control={"last": 0.5})
def last_layer_zero_keeps_its_dimension(case, last=0.0):
    """Where all weights of the last layer vanish, D - 2 D_K directions stay flat, whatever N.  D section 10"""
    return together(
        critical=equal(
            measured=lambda: [slope(last_layer_zero(case, *one, last)) for one in LAST],
            predicted=lambda: [torch.zeros(sum(sizes(widths))) for widths, _ in LAST],
            scale=lambda: [torch.ones(()) for _ in LAST], bound=1e-12, reason="rounding of a projection",
        ),
        flat=equal(
            measured=lambda: [flat(case, last_layer_zero, *one, last) for one in LAST],
            predicted=lambda: [sum(sizes(widths)) - 2 * sizes(widths)[-1] for widths, _ in LAST],
            bound=1e-4, reason=COUNTS,
        ),
    )  # fmt: skip


BOTTLENECK, SAMPLES = (3, 2, 16, 1), 10


@claim("D-conj2", control={"widths": (3, 8, 16, 1)})
def global_minima_are_the_most_degenerate(case, widths=BOTTLENECK):
    """With more weights in each of the last layers than samples, other critical points are less degenerate than fits.

    Witness: a narrow first layer whose weights are all zero. In the control all layers are large.  D section 10
    """
    N = SAMPLES
    other = lambda: first_layer_zero(case, widths, N)
    weights = lambda: sum(sizes(widths))
    lost = lambda: sizes(widths)[0] + widths[1]  # the weights of the first layer, and the slopes of paths through it
    return counterexample(
        statement=at_most(
            left=lambda: [flat(case, first_layer_zero, widths, N)],
            right=lambda: [flat(case, interpolating, widths, N)],
            bound=1e-5, reason=COUNTS,
        ),
        exact=lambda: [(N - lost()) / (weights() - N)],
        critical=equal(
            measured=lambda: [slope(other())], predicted=lambda: [torch.zeros(weights())],
            scale=lambda: [torch.ones(())], bound=1e-12, reason="rounding of a projection",
        ),
        not_fitting=at_most(left=lambda: [0.05], right=lambda: [misfit(other())], bound=1e-9, reason="a loss"),
        last_layers=at_most(
            left=lambda: [float(N)] * (len(widths) - 2), right=lambda: [float(n) for n in sizes(widths)[1:]],
            bound=1e-9, reason="whole numbers",
        ),
    )  # fmt: skip


@shared
def split_unit(case: Case, shares: tuple[float, ...]) -> Point:
    """A critical point of one unit that does not fit, and its unit split: copies share the outgoing weight."""
    X, w, a = inputs(case, "split X", 6, 3), draw(case, "split w", 3, 1), 1 + draw(case, "split a", 1, 1).abs()
    z = X @ w
    bend = 1 + z + z**2 / 2
    Y = a * polynomial(z) - at_right_angles(case, "split E", torch.cat([polynomial(z), bend * X], 1))
    share = torch.tensor(shares, dtype=torch.float64)
    return {"0": w.mT.repeat(len(shares), 1), "1": (share * a)}, X, Y


@claim("D-nonfitting-isolated", control={"shares": (1.0,)})
def critical_points_without_zero_weights_are_isolated(case, shares=(0.5, 0.8, -0.3)):
    """Critical points that do not fit are isolated if no weight is zero.  D section 10

    Witness: a unit split into three, however it is shared. The control is the unit before.
    """
    point = lambda: split_unit(case, shares)
    return counterexample(
        statement=equal(
            measured=lambda: [flat(case, split_unit, shares)], predicted=lambda: [0.0], bound=1e-4, reason=COUNTS,
        ),
        exact=lambda: [float(len(shares) - 1)],
        critical=equal(
            measured=lambda: [slope(point())], predicted=lambda: [torch.zeros(4 * len(shares))],
            scale=lambda: [torch.ones(())], bound=1e-11, reason="rounding of a projection",
        ),
        not_fitting=at_most(left=lambda: [0.05], right=lambda: [misfit(point())], bound=1e-9, reason="a loss"),
        no_weight_is_zero=at_most(
            left=lambda: [1e-4], right=lambda: [flatten(point()[0]).abs().min()], bound=1e-9, reason="the least weight",
        ),
    )  # fmt: skip


# The preimage theorem

RADIUS = 1e-4


def nearby(case: Case, role: str, F: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """Points of the level set of F through a, at a small distance, in units of that distance."""
    slopes, goal = torch.func.vmap(torch.func.jacrev(F)), F(a)
    v = a + RADIUS * draw(case, role, 40, len(a))
    for _ in range(8):
        gap = torch.func.vmap(F)(v) - goal
        v = v - (torch.linalg.pinv(slopes(v), rtol=1e-9) @ gap[..., None])[..., 0]
    return (v - a) / RADIUS


def dimension(points: Tensor) -> int:
    """Directions that points span, up to a share of two in a thousand."""
    values = torch.linalg.svdvals(points)
    return int((values > 2e-3 * values[0]).sum())


@claim("D-thm6", control={"place": "tip"})
def regular_preimages_are_manifolds(case, place="regular"):
    """Where the derivative is onto, a level set has dim M - dim N dimensions: quadrics, a cone, one in a sphere.

    The control is the tip of the cone, where the derivative is zero.  D Theorem 6
    """
    forms = lambda k, n=2: draw(case, f"quadric {k}", n, 5, 5)
    quadric = lambda A: lambda v: torch.einsum("kij,i,j->k", A, v, v)
    cone = lambda v: v[:1] ** 2 + v[1:2] ** 2 - v[2:] ** 2
    square = lambda v: (v[:1] + 2 * v[1:]) ** 2  # the paper's example at x = (1, 2)
    sphere = lambda A: lambda v: torch.cat([v.square().sum()[None], quadric(A)(v)])  # M is a sphere, N a line
    on_cone = torch.tensor([3.0, 4, 5] if place == "regular" else [0.0, 0, 0], dtype=torch.float64)
    at = lambda role, F, a: dimension(nearby(case, role, F, a))
    return equal(
        measured=lambda: [
            *(at(f"near {k}", quadric(forms(k)), draw(case, f"at {k}", 5)) for k in range(3)),
            at("cone", cone, on_cone), at("square", square, draw(case, "at square", 2)),
            at("sphere", sphere(forms(7, 1)), draw(case, "at sphere", 5)),
        ],
        predicted=lambda: [5 - 2, 5 - 2, 5 - 2, 3 - 1, 2 - 1, 4 - 1],
        bound=1e-4, reason="whole numbers; points at a distance of 1e-4 leave their tangent by as much",
    )  # fmt: skip


@shared
def pairs(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Places and directions in the plane."""
    return [(draw(case, f"v {k}", 2), draw(case, f"w {k}", 2)) for k in range(5)]


def derivative(F: Callable[[Tensor], Tensor], v: Tensor, w: Tensor) -> Tensor:
    """DF_v(w), by automatic differentiation."""
    return torch.func.jvp(F, (v,), (w,))[1]


@claim("D-thm6-example", control={"x": (1.0, 3.0)})
def example_of_the_preimage_theorem(case, x=(1.0, 2.0)):
    """P = (w1 x1 + w2 x2)^2 at x = (1, 2): its derivative, and its derivative along itself, twice its value.  D 10.1"""
    P = lambda w: (w @ torch.tensor(x, dtype=torch.float64)) ** 2
    return together(
        derivative=equal(
            measured=lambda: [derivative(P, v, w) for v, w in pairs(case)],
            predicted=lambda: [(2 * v[0] + 4 * v[1]) * w[0] + (4 * v[0] + 8 * v[1]) * w[1] for v, w in pairs(case)],
            bound=1e-12, reason="rounding of a polynomial",
        ),
        onto=equal(
            measured=lambda: [derivative(P, v, v) for v, _ in pairs(case)],
            predicted=lambda: [2 * v[0] ** 2 + 8 * v[0] * v[1] + 8 * v[1] ** 2 for v, _ in pairs(case)],
            bound=1e-12, reason="rounding of a polynomial",
        ),
        twice=equal(
            measured=lambda: [derivative(P, v, v) for v, _ in pairs(case)],
            predicted=lambda: [2 * P(v) for v, _ in pairs(case)],
            bound=1e-12, reason="rounding of a polynomial",
        ),
    )  # fmt: skip

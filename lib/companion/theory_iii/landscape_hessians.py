"""What decides the claims of sections 3, 8 and 10.2 of paper D on Hessians: at infinity, of linear models, in V.

Labels are absorbed: ``x`` stands for ``y x``, and ``m_n`` is the margin of sample ``n``.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import Case, claim, equal, limit, shared, together
from companion.theory_iii.landscape import Widths, draw, exponential, layers, linear, network
from normdyn.measures.curvature import Params, critical_point, flatten, hessian, nullity, unflatten
from normdyn.motion.flows import gradient_flow, integrate
from normdyn.networks.graphs import mlp

# Along a ray

RAYS: tuple[Widths, ...] = ((4, 1), (4, 6, 1), (4, 5, 4, 1))
Ray = tuple[Params, Tensor, Tensor]


@shared
def ray(case: Case, widths: Widths, wrong: bool) -> Ray:
    """Weights, five samples, and labels that the network separates; or that of the smallest margin is wrong."""
    p, X = layers(case, f"ray {widths}", widths), draw(case, f"ray X {widths}", 40, 4)
    X = X[network(p, X).abs() > 0.05][:5]
    y = network(p, X).sign()
    if wrong:
        y[network(p, X).abs().argmin()] *= -1
    return p, X, y


def stretch(case: Case, widths: Widths, size: float) -> float:
    """Factor of all weights at which the smallest output has this size."""
    p, X, _ = ray(case, widths, False)
    return (size / network(p, X).abs().min().item()) ** (1 / len(p))


@shared
def along(case: Case, widths: Widths, size: float, wrong: bool = False) -> Tensor:
    """The Hessian on the ray where the smallest output has this size."""
    p, X, y = ray(case, widths, wrong)
    scaled = {k: stretch(case, widths, size) * W for k, W in p.items()}
    return hessian(lambda q: exponential(y * network(q, X)), scaled)


@shared
def expansion(case: Case, widths: Widths, size: float, wrong: bool) -> Tensor:
    """The same from slopes and curvatures of the margins at the start of the ray, by homogeneity alone."""
    p, X, y = ray(case, widths, wrong)
    of = lambda v: y * network(unflatten(v, p), X)
    at, c, L = flatten(p), stretch(case, widths, size), len(p)
    G, C = torch.func.jacfwd(of)(at), torch.func.jacfwd(torch.func.jacrev(of))(at)
    weight = torch.exp(-(c**L) * of(at))
    return c ** (2 * L - 2) * G.mT @ (weight[:, None] * G) - c ** (L - 2) * torch.einsum("n,nij->ij", weight, C)


@claim("D-hessian-at-infinity", control={"wrong": True})
def hessians_vanish_at_infinity(case, wrong=False):
    """Along a separating ray the Hessian is a sum of e^-m times powers of rho, and tends to zero.  D section 3

    One to three layers. With one label wrong it grows without bound.
    """
    norm = lambda widths, size: torch.linalg.matrix_norm(along(case, widths, size, wrong), 2)
    return together(
        formula=equal(
            measured=lambda: [along(case, widths, size, wrong) for widths in RAYS for size in (2.0, 40.0)],
            predicted=lambda: [expansion(case, widths, size, wrong) for widths in RAYS for size in (2.0, 40.0)],
            bound=1e-9, reason="rounding in exponents of up to some hundreds",
        ),
        vanishing=limit(
            measured=lambda reach: [norm(widths, 120 * reach) / norm(widths, 1.0) for widths in RAYS],
            predicted=lambda: [0.0] * 3, scale=lambda: [1.0] * 3,
            bound=1e-40, reason="e^-119 times powers of the length: smallest margin 120, then 240, against 1",
        ),
    )  # fmt: skip


# Linear models


def linear_hessian(X: Tensor, w: Tensor) -> Tensor:
    return hessian(lambda p: exponential(linear(p, X)), {"w": w})


@shared
def clouds(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Ten sets of six samples in four dimensions, and weights; some samples are misclassified."""
    return [(draw(case, f"cloud {k}", 6, 4), draw(case, f"cloud w {k}", 4)) for k in range(10)]


@claim("D-hessian-linear-form", printed={"weighted": False})
def hessian_of_a_linear_model(case, weighted=True):
    """The Hessian is sum e^-m_n x_n x_n'; without weights, as printed, up to a factor.  D section 3"""

    def form(X: Tensor, w: Tensor) -> Tensor:
        weight = torch.exp(-X @ w)
        size = X.square().sum(1)
        return X.mT @ ((weight if weighted else weight @ size / size.sum() * torch.ones_like(weight))[:, None] * X)

    return equal(
        measured=lambda: [linear_hessian(X, w) for X, w in clouds(case)],
        predicted=lambda: [form(X, w) for X, w in clouds(case)],
        bound=1e-12, reason="rounding; ten points",
    )  # fmt: skip


COUNTED = tuple((n, d) for d in (3, 5, 8) for n in (1, 2, d - 1, d, d + 3))


@shared
def counted(case: Case, repeated: bool) -> list[int]:
    """Negative eigenvalues of the Hessian of minus the loss, at random weights."""
    found = []
    for n, d in COUNTED:
        X = draw(case, f"counted {n} {d}", n, d)
        X = X[torch.zeros(n, dtype=torch.long)] if repeated else X
        found.append(
            nullity(-linear_hessian(X, draw(case, f"counted w {n} {d}", d) / 4), relative=1e-11, gap=100).negative
        )
    return found


@claim("D-negative-eigenvalue-count", control={"repeated": True})
def as_many_negative_eigenvalues_as_samples(case, repeated=False):
    """At any finite point -L has min(N, D) negative eigenvalues, with labels right or wrong.  D section 3

    For generic samples; one that is repeated counts once.
    """
    return equal(
        measured=lambda: counted(case, repeated), predicted=lambda: [min(n, d) for n, d in COUNTED],
        bound=1e-4, reason="whole numbers, each with a gap in the spectrum",
    )  # fmt: skip


@shared
def opposed(case: Case, dimensions: int, pairs: int) -> tuple[Tensor, Tensor]:
    """Pairs of samples a, -c a, and the minimum of the loss on them by a search."""
    a = draw(case, f"opposed {dimensions} {pairs}", pairs, dimensions)
    X = torch.cat([a, -a * torch.linspace(0.5, 1.5, pairs, dtype=torch.float64)[:, None]])
    p = critical_point(lambda p: exponential(linear(p, X)), {"w": torch.zeros(dimensions, dtype=torch.float64)})
    if p is None:
        raise ValueError(f"no minimum of {pairs} opposed pairs in {dimensions} dimensions")
    return X, p["w"]


@claim("D-d3n2", control={"pairs": 3})
def three_weights_two_samples(case, pairs=1):
    """Three weights, two samples: at a minimum the Hessian of -L has one negative eigenvalue and two zeros.

    A minimum exists if the samples oppose each other on one line. Wherever D > N some eigenvalue is zero.  D section 3
    """

    def spectrum() -> Tensor:
        """From the minimum's equation along the line, e^((1 + c) z) = 1 / c."""
        a, c = draw(case, f"opposed 3 {pairs}", pairs, 3)[0], 0.5
        z = -math.log(c) / (1 + c)
        return torch.stack([-a @ a * (math.exp(-z) + c**2 * math.exp(c * z)), *torch.zeros(2, dtype=torch.float64)])

    values = lambda X, w: torch.linalg.eigvalsh(-linear_hessian(X, w))
    sets = lambda: [(3, pairs), (4, 1 + pairs // 2), (6, 2), (8, 3)]
    return together(
        spectrum=equal(
            measured=lambda: values(*opposed(case, 3, pairs)), predicted=spectrum,
            bound=1e-9, reason="a gradient below 1e-11 at the minimum found",
        ),
        not_hyperbolic=equal(
            measured=lambda: [values(*opposed(case, *one))[-1] for one in sets()], predicted=lambda: [0.0] * 4,
            scale=lambda: [values(*opposed(case, *one))[0] for one in sets()],
            bound=1e-12, reason="rounding, relative to the largest eigenvalue",
        ),
    )  # fmt: skip


# Misclassified samples and the directions that they hold


@shared
def held(case: Case, height: float) -> tuple[Tensor, Tensor]:
    """Five samples in five dimensions, and weights where the loss rests on the plane of the first three.

    The third opposes the sum of the first two: whatever the weights, one of the three is misclassified, or none has a
    margin. The others can be separated, and their margins have grown by ``height``.
    """
    X = draw(case, "held", 5, 5)
    X[2] = -(X[0] + X[1]) / 5
    plane = torch.linalg.qr(X[:2].mT)[0]  # columns span the plane of the three
    off = X[3:] - X[3:] @ plane @ plane.mT
    up = torch.linalg.pinv(off) @ torch.ones(2, dtype=torch.float64)
    balance = lambda p: exponential(X @ (plane @ p["c"] + height * up))
    rest = critical_point(balance, {"c": torch.zeros(2, dtype=torch.float64)})
    if rest is None:
        raise ValueError(f"no rest on the plane at height {height}")
    return X, plane @ rest["c"] + height * up


def projector(vectors: Tensor) -> Tensor:
    """Onto the span of some rows."""
    _, s, V = torch.linalg.svd(vectors, full_matrices=False)
    V = V[s > 1e-9 * s[0]]
    return V.mT @ V


@claim("D-misclassification-span", printed={"span": "misclassified"})
def misclassified_samples_hold_a_span(case, span="balanced"):
    """Directions that stay curved: the span of the samples that no weights separate, not of the misclassified alone.

    Everything else flattens as the other margins grow.  D sections 3 and 10.2
    """

    def curved(height: float) -> Tensor:
        X, w = held(case, height)
        values, vectors = torch.linalg.eigh(linear_hessian(X, w))
        return vectors[:, values > 1e-4 * values[-1]] @ vectors[:, values > 1e-4 * values[-1]].mT

    def expected() -> Tensor:
        X, w = held(case, 20.0)
        return projector(X[:3] if span == "balanced" else X[X @ w < 0])

    return limit(
        measured=lambda reach: curved(20 * reach), predicted=expected,
        bound=1e-5, reason="what separated samples still weigh, e^-20 times their length",
    )  # fmt: skip


# One weight: x_1 > 0 is misclassified, x_2 > 0 is not

PAIRS = ((0.7, 1.0), (0.7, 2.5), (1.5, 2.5), (1.0, 3.0), (2.0, 2.5))


@shared
def ends(sign: float) -> list[Tensor]:
    """Where the flow is at time 40 from w = 1; with sign -1 no sample is misclassified."""
    loss = lambda a, b: lambda p: torch.exp(sign * a * p["w"]) + torch.exp(-b * p["w"])
    start = {"w": torch.tensor(1.0, dtype=torch.float64)}
    return [integrate(gradient_flow(loss(a, b)), start, (0.0, 40.0))["w"][-1] for a, b in PAIRS]


@claim("D-eq7", control={"sign": -1.0})
def equilibrium_of_one_weight(case, sign=1.0):
    """The flow ends at w* = log(x_2/x_1) / (x_1 + x_2) if one of two samples is misclassified and x_2 > x_1.  D (7)"""
    return equal(
        measured=lambda: ends(sign), predicted=lambda: [math.log(b / a) / (a + b) for a, b in PAIRS],
        bound=1e-9, reason="integrator's tolerance of 1e-12 a step; rates are one or more, the time is 40",
    )  # fmt: skip


@shared
def approach(sign: float) -> list[Tensor]:
    """Rate at which two neighbours on both sides of w* come together, over half a unit of time."""
    found, h, t = [], 1e-4, 0.5
    for a, b in PAIRS:
        rest = math.log(b / a) / (a + b)
        flow = gradient_flow(lambda p, a=a, b=b: torch.exp(sign * a * p["w"]) + torch.exp(-b * p["w"]))
        start = lambda s, rest=rest: {"w": torch.tensor(rest + s * h, dtype=torch.float64)}
        above, below = (integrate(flow, start(s), (0.0, t))["w"][-1] for s in (1, -1))
        found.append(-((above - below) / (2 * h)).log() / t)
    return found


@claim("D-eq8", control={"sign": -1.0})
def equilibrium_is_hyperbolic(case, sign=1.0):
    """Neighbours of w* come together at the rate x_1^2 e^(x_1 w*) + x_2^2 e^(-x_2 w*) > 0, which is -dF/dw.  D (8)"""

    def rate(a: float, b: float) -> float:
        w = math.log(b / a) / (a + b)
        return a**2 * math.exp(a * w) + b**2 * math.exp(-b * w)

    return equal(
        measured=lambda: approach(sign), predicted=lambda: [rate(*one) for one in PAIRS],
        bound=1e-6, reason="neighbours at 1e-4, whose second-order terms cancel",
    )  # fmt: skip


# The Hessian under a norm constraint


@shared
def directions(case: Case) -> tuple[Params, Tensor]:
    """Unit layers of a linear network with two layers, and samples that it separates."""
    V = {k: W / W.norm() for k, W in layers(case, "V", (3, 4, 1)).items()}
    X = draw(case, "V X", 5, 3)
    f = mlp(list(V.values()), X, activation=lambda z: z)
    return V, X * f.sign()


@shared
def of_the_lagrangian(case: Case, rho: float, multiplier: float) -> Tensor:
    """Its Hessian in V, by automatic differentiation."""
    V, X = directions(case)
    f = lambda p: mlp(list(p.values()), X, activation=lambda z: z)
    penalty = lambda p: torch.stack([W.square().sum() - 1 for W in p.values()]).sum()
    return hessian(lambda p: exponential(rho * f(p)) + multiplier * penalty(p), V)


@claim("D-eq47", printed={"sign": -1.0}, control={"multiplier": 0.2})
def hessian_under_a_norm_constraint(case, sign=1.0, multiplier=0.3):
    """H = sum [rho^2 df df' - rho d^2f] e^(-rho f) + 2 lambda I: the printed matrix is -H.  D (47)

    It vanishes as rho grows, with the multiplier that a critical point has, rho sum f e^(-rho f) / 2.
    """

    def slopes() -> tuple[Tensor, Tensor, Tensor]:
        """First and second derivatives of the outputs, written out for two layers."""
        V, X = directions(case)
        W, a = V["0"], V["1"][0]
        f = X @ W.mT @ a
        first = torch.cat([torch.einsum("h,nd->nhd", a, X).flatten(1), X @ W.mT], 1)
        second, hidden = torch.zeros(5, 16, 16, dtype=torch.float64), torch.arange(4)
        for h in hidden.tolist():
            second[:, 3 * h : 3 * h + 3, 12 + h] = X
            second[:, 12 + h, 3 * h : 3 * h + 3] = X
        return f, first, second

    def formula(rho: float = 1.7, lagrange: float = 0.3) -> Tensor:
        f, first, second = slopes()
        weight = torch.exp(-rho * f)
        bent = rho**2 * first.mT @ (weight[:, None] * first) - rho * torch.einsum("n,nij->ij", weight, second)
        return sign * (bent + 2 * lagrange * torch.eye(16, dtype=torch.float64))

    def late(size: float) -> Tensor:
        """Norm of the Hessian where the smallest of the exponents is this large."""
        f = slopes()[0]
        rho = (size / f.min()).item()
        lagrange = (rho * (f * torch.exp(-rho * f)).sum() / 2).item()
        return torch.linalg.matrix_norm(of_the_lagrangian(case, rho, lagrange), 2)

    return together(
        formula=equal(
            measured=lambda: of_the_lagrangian(case, 1.7, multiplier), predicted=formula,
            bound=1e-12, reason="rounding; a linear network with two layers, 16 weights",
        ),
        vanishing=limit(
            measured=lambda reach: late(120 * reach), predicted=lambda: 0.0, scale=lambda: 1.0,
            bound=1e-30, reason="e^-120 times powers of rho",
        ),
    )  # fmt: skip

"""What decides the claims of section 16 of paper D: Theorem 17, part by part.

Labels are absorbed: ``x`` stands for ``y x``, and the margin of a network is its smallest output. Runs are in
:mod:`companion.theory_iii.summary_theorem_runs`.
"""

import math
from collections.abc import Callable
from itertools import product

import mpmath
import torch
from scipy.optimize import differential_evolution, minimize
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, shared, together
from companion.theory_iii import summary_theorem_runs as runs
from companion.theory_iii.summary_theorem_runs import normalised, pair, rows
from normdyn.motion.constraints import (
    coefficient_step,
    lagrange_step,
    natural_step,
    tangent_step,
    weight_normalization_step,
)
from normdyn.motion.flows import Params, gradient, gradient_flow, integrate
from normdyn.symmetry.polar import hard_margin, reparametrized, standardize_columns, to_polar


def draw(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


# Part 1: no critical point separates

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda m: (-m).exp(),
    "logistic": lambda m: torch.log1p((-m).exp()),
    "hinge": lambda m: (m.min().detach() / 2 - m).relu(),  # its corner lies below all margins
}
FLOORS = {"exponential": 1.0, "logistic": 0.5}  # |loss'(m)| is at least this times e^-m where m > 0
SHAPES = ((3, 1), (3, 5, 1), (3, 4, 1, 1), (3, 5, 5, 1), (3, 5, 5, 5, 1))


def forward(p: Params, X: Tensor, slope: float) -> Tensor:
    """A ReLU network whose slope at exactly zero is chosen."""
    *hidden, last = p.values()
    for W in hidden:
        Z = X @ W.mT
        X = Z * ((Z > 0) + slope * (Z == 0)).detach()
    return (X @ last.mT)[:, 0]


@shared
def separated(case: Case) -> list[tuple[Params, Tensor, float, Tensor]]:
    """Networks, inputs, slopes at kinks, outputs, none zero: labels are signs. Whole numbers put units at kinks."""
    found = []
    for k in range(100):
        shape, whole = SHAPES[k % 5], k % 2
        p = {f"W{l}": draw(case, f"{k} {l}", n, m) for l, (m, n) in enumerate(zip(shape, shape[1:], strict=False))}
        X, gain = draw(case, f"{k} X", 6, 3), (0.05, 0.7, 2.0)[k % 3]
        p, X = ({n: W.round() for n, W in p.items()}, X.round()) if whole else ({n: gain * W for n, W in p.items()}, X)
        slope = (0.0, 0.5, 1.0)[k % 3]
        f = forward(p, X, slope)
        if f.any():
            found.append((p, X[f != 0], slope, f[f != 0]))
    return found


def layer_pulls(case: Case, loss: str) -> list[Tensor]:
    """Length of each layer times the length of its gradient."""
    found = []
    for p, X, slope, f in separated(case):
        y = f.sign()
        g = gradient(lambda q, y=y, X=X, slope=slope: LOSSES[loss](y * forward(q, X, slope)).sum())(p)
        found.append(torch.stack([p[k].norm() * g[k].norm() for k in p]))
    return found


@claim("D-thm17-1", control={"losses": ("hinge", "hinge")})
def no_critical_point_separates(case, losses=("exponential", "logistic")):
    """Where a ReLU network separates, length times gradient of every layer is at least a sum of m e^-m: never zero.

    Exponential and logistic loss, one to four layers, any slope at kinks. A hinge loss beyond its corner has no such
    floor.  D Theorem 17 (1)
    """
    floor = lambda m: (m * (-m).exp()).sum()
    return at_most(
        left=lambda: [c * floor(one[-1].abs()) for c in FLOORS.values() for one in separated(case)],
        right=lambda: [pulls for loss in losses for pulls in layer_pulls(case, loss)],
        scale=lambda: [c * floor(one[-1].abs()) for c in FLOORS.values() for one in separated(case)],
        bound=1e-12, reason="rounding; a layer between single units is exactly tight for the exponential loss",
    )  # fmt: skip


# Part 2: what the bound asks for

EXPONENTS = (1.5, 2.0, 4.0)
CIRCLE = torch.linspace(-math.pi, math.pi, 30001, dtype=torch.float64)
DIRECTIONS = torch.stack([CIRCLE.cos(), CIRCLE.sin()], 1)


@shared
def plane(case: Case) -> list[Tensor]:
    """Three sets of six samples in the plane that a line through zero separates."""
    draws = [draw(case, f"plane {k}", 6, 2) for k in range(3)]
    return [torch.stack([1 + x[:, 0].abs(), 0.5 + 0.8 * x[:, 1]], 1) for x in draws]


@shared
def best_of_bound(case: Case, k: int, p: float, b1: float = 4.0) -> Tensor:
    """Direction that minimises surrogate plus complexity over margin in the ball of the Lp norm, and over lengths."""
    A = plane(case)[k]
    coins = rows(list(product((-1.0, 1.0), repeat=len(A))))
    complexity = torch.linalg.vector_norm(coins @ A, p / (p - 1), dim=1).mean() / len(A)
    m = DIRECTIONS @ A.mT / torch.linalg.vector_norm(DIRECTIONS, p, dim=1, keepdim=True)
    keep = m.amin(1) > 0
    m = m[keep]
    bound = lambda rho: (-rho * m).exp().mean(1) + b1 * rho * complexity / (rho * m.amin(1))
    return DIRECTIONS[keep][torch.stack([bound(rho) for rho in (1.0, 10.0, 100.0, 1e3, 1e4)]).amin(0).argmin()]


def max_margin(A: Tensor, p: float) -> Tensor:
    """Direction of the largest Lp margin: the shortest w with all margins at least one, by quadratic programming."""
    limits = {"type": "ineq", "fun": lambda w: A.numpy() @ w - 1, "jac": lambda w: A.numpy()}
    w = minimize(lambda w: (abs(w) ** p).sum() / p, [2.0, 0.5], constraints=limits, method="SLSQP",
                 options={"ftol": 1e-15, "maxiter": 500})  # fmt: skip
    return rows((w.x / math.hypot(*w.x)).tolist())


@shared
def network_by_bound(case: Case, degrees: float, b1: float = 4.0) -> Tensor:
    """Margin of the network of two units that a global search for the least bound ends at."""
    X = pair(degrees).numpy()
    turns = CIRCLE[::30]
    sides = torch.stack([turns.cos(), turns.sin()], 1).matmul(pair(degrees).mT).relu()
    coins = rows([[1, 1], [1, -1]])
    complexity = (coins @ sides.mT).abs().amax(1).mean().item() / 2

    def margin(v):
        W, a = v[:4].reshape(2, 2), v[4:6]
        return ((X @ W.T).clip(0) @ a) / (math.sqrt((W**2).sum() * (a**2).sum()) + 1e-12)

    def bound(v):
        f = margin(v)
        return sum(math.exp(-x * 10 ** v[6]) for x in f) / 2 + b1 * complexity / f.min() if f.min() > 1e-3 else 1e4

    found = differential_evolution(bound, [(-1, 1)] * 6 + [(0, 4)], rng=1 + case.seed, tol=1e-8, maxiter=250,
                                   popsize=8, polish=False)  # fmt: skip
    return rows(margin(found.x).min())


@claim("D-thm17-2", control={"swap": True})
def bound_asks_for_the_margin(case, swap=False):
    """The bound with the smallest margin is least where that margin is largest, in the norm that defines the class.

    Linear units, p = 1.5, 2 and 4, and ReLU networks of two units, against the certified maximum. The control takes
    the margin in the norm of another p, and the network's on samples at another angle.  D Theorem 17 (2), (133)
    """
    angles = (50.0, 70.0)
    asked = (4.0, 1.5, 2.0) if swap else EXPONENTS
    largest = lambda degrees: max(math.cos(math.radians(degrees)), 0.5)
    return together(
        linear=equal(
            measured=lambda: [best_of_bound(case, k, p) for k in range(3) for p in EXPONENTS],
            predicted=lambda: [max_margin(A, p) for A in plane(case) for p in asked],
            bound=5e-4, reason="scanned directions are 0.0002 apart, and the programme's tolerance comes to as much",
        ),
        network=equal(
            measured=lambda: [network_by_bound(case, degrees) for degrees in angles],
            predicted=lambda: [largest(degrees) for degrees in (angles[::-1] if swap else angles)],
            bound=1e-3, reason="a random search that stops where its population agrees to eight digits of the bound",
        ),
    )  # fmt: skip


# Parts 3 and 6: which maximum

WITNESSES = ((46.0, 0), (50.0, 0), (54.0, 0))  # degrees, and number of the start
LEVEL = 1e-3
LATE = "lengths at the end, of which one over the product is what the margin lacks: 1e-6 or less"


def cosines() -> list[float]:
    return [math.cos(math.radians(degrees)) for degrees, _ in WITNESSES]


def on_both(degrees: float) -> Tensor:
    """Margin of the network whose four units all look between the samples."""
    W = rows([[1.0, 0.0]]).expand(4, 2)
    return normalised({"W": W, "a": torch.ones(4).double()}, pair(degrees))


def ends(case: Case, law: str, leak: float) -> list[Tensor]:
    """Margins of the ends, layers at unit norm."""
    found = ((degrees, runs.followed(case, degrees, k, law, leak)) for degrees, k in WITNESSES)
    return [normalised(p, pair(degrees), leak) for degrees, p in found]


def losses(case: Case, law: str, leak: float) -> list[Tensor]:
    """Losses at the ends."""
    found = ((degrees, runs.followed(case, degrees, k, law, leak)) for degrees, k in WITNESSES)
    return [(-runs.network(p, pair(degrees), leak)).exp().sum() for degrees, p in found]


def in_decimals(case: Case, law: str, leak: float) -> list[float]:
    """By what share the ends miss the best margin, from the weights found, in thirty digits."""
    found = []
    with mpmath.workdps(30):
        for degrees, k in WITNESSES:
            p = runs.followed(case, degrees, k, law, leak)
            angle, a = mpmath.radians(mpmath.mpf(degrees)), [mpmath.mpf(x) for x in p["a"].tolist()]
            W = [[mpmath.mpf(x) for x in row] for row in p["W"].tolist()]
            fields = [[w[0] * mpmath.cos(angle) + s * w[1] * mpmath.sin(angle) for w in W] for s in (1, -1)]
            f = min(sum(b * max(z, leak * z) for b, z in zip(a, zs, strict=True)) for zs in fields)
            size = mpmath.sqrt(sum(x * x for row in W for x in row) * sum(x * x for x in a))
            found.append(float(1 - f / size / mpmath.cos(angle)))
    return found


@claim("D-thm17-3", control={"leak": 1.0})
def constrained_flow_maximises(case, leak=0.0):
    """Gradient flow on unit spheres yields the largest margin of a ReLU network. It does not: the start decides.

    Two samples, four units, each active on one sample at the start: the loss vanishes and the margin tends to one
    half, where a network of the same shape has cos 46, 50, 54 degrees. Linear units (leak one) do reach it.
    D Theorem 17 (3), (134)
    """
    return counterexample(
        statement=equal(
            measured=lambda: ends(case, "sphere", leak), predicted=lambda: cosines(),
            bound=LEVEL, reason=LATE,
        ),
        exact=lambda: in_decimals(case, "sphere", leak),
        fitted=at_most(
            left=lambda: losses(case, "sphere", leak), right=lambda: [0.0 for _ in WITNESSES],
            scale=lambda: [1.0 for _ in WITNESSES],
            bound=1e-6, reason="the loss is at most the exponential of minus the margin times the lengths at the end",
        ),
        half=equal(
            measured=lambda: ends(case, "sphere", leak), predicted=lambda: [0.5 for _ in WITNESSES],
            bound=1e-4, reason=LATE,
        ),
        attained=equal(
            measured=lambda: [on_both(degrees) for degrees, _ in WITNESSES], predicted=lambda: cosines(),
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


@claim("D-thm17-6", control={"leak": 1.0})
def free_flow_maximises(case, leak=0.0):
    """Standard flow, normalised at the end, performs margin maximisation under an implicit unit norm. It does not.

    The same samples and starts as for the flow on spheres, the same end; linear units do reach the largest margin.
    D Theorem 17 (6)
    """
    return counterexample(
        statement=equal(
            measured=lambda: ends(case, "standard", leak), predicted=lambda: cosines(),
            bound=LEVEL, reason=LATE,
        ),
        exact=lambda: in_decimals(case, "standard", leak),
        fitted=at_most(
            left=lambda: losses(case, "standard", leak), right=lambda: [0.0 for _ in WITNESSES],
            scale=lambda: [1.0 for _ in WITNESSES],
            bound=1e-6, reason="the loss is at most the exponential of minus the margin times the lengths at the end",
        ),
        half=equal(
            measured=lambda: ends(case, "standard", leak), predicted=lambda: [0.5 for _ in WITNESSES],
            bound=1e-4, reason=LATE,
        ),
        attained=equal(
            measured=lambda: [on_both(degrees) for degrees, _ in WITNESSES], predicted=lambda: cosines(),
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


DECIDED = (46, 50, 54, 68, 76)  # degrees; nearer to 60 and 67.5, where kinds of ends merge, the flow becomes slow


def finished(batch: runs.Batch, keep: Tensor) -> Tensor:
    """Limits of the starts kept; raises where one of them still moves."""
    if (batch.moving() & keep).any():
        raise runs.Unfinished(f"{int((batch.moving() & keep).sum())} starts that separate still move")
    return batch.margins[keep & batch.separating()]


def kept(case: Case, degrees: int, every: bool) -> Tensor:
    """Starts with units on one sample each, or all starts."""
    W, _ = runs.starts_of_three(case, degrees)
    return torch.ones(len(W), dtype=torch.bool) if every else runs.one_each(W, pair(degrees))


@claim("O-two-samples", control=[{"every": True}, {"kinds": ("both",)}])
def one_each_ends_at_a_half(case, every=False, kinds=("both", "one")):
    """Two samples, two layers: no margin above max(cos phi, 1/2); starts with units on one sample each end at 1/2.

    Forty random starts of three units at each of five angles, with velocities in closed form that are checked against
    the library. The controls take all starts that separate, or leave out units that see one sample only.
    """
    certified = lambda degrees: max({"both": math.cos(math.radians(degrees)), "one": 0.5}[kind] for kind in kinds)
    batch = lambda degrees: runs.three_units(case, "tangent", DECIDED)[degrees]
    everywhere = lambda: torch.cat([batch(degrees).margins[kept(case, degrees, every)] for degrees in DECIDED])
    return together(
        caught=equal(
            measured=lambda: torch.cat([finished(batch(d), kept(case, d, every)) for d in DECIDED])
            if not every else everywhere()[everywhere() > runs.SEPARATES],
            predicted=lambda: 0.5,
            bound=1e-3, reason="limits are approached exponentially, runs are ten or more time constants long",
        ),
        certified=at_most(
            left=lambda: [batch(degrees).margins.max() for degrees in DECIDED],
            right=lambda: [certified(degrees) for degrees in DECIDED],
            bound=1e-12, reason="rounding",
        ),
        library=equal(
            measured=lambda: [speeds(case, k, law) for k in range(3) for law in ("standard", "tangent")],
            predicted=lambda: [speeds_by_library(case, k, s) for k in range(3) for s in ("polar", "sphere")],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


@shared
def some_state(case: Case, k: int) -> tuple[Tensor, Params]:
    """Two samples, and a network in lengths and directions, with layers of unequal length."""
    return draw(case, f"{k} X", 2, 2), to_polar({"W": draw(case, f"{k} W", 4, 2), "a": 0.3 * draw(case, f"{k} a", 4)})


def speeds(case: Case, k: int, law: str) -> Tensor:
    """Velocities in the clock of the runs, brought to the clock of the library."""
    X, p = some_state(case, k)
    r = torch.stack([p["W.length"], p["a.length"]])[None]
    dr, dV, dv = runs.velocities(X, p["W.direction"][None], p["a.direction"][None], r, law)
    clock = 1.0 if law == "standard" else r.prod()
    return torch.cat([(clock * x).flatten() for x in (dr, dV, dv)])


def speeds_by_library(case: Case, k: int, system: str) -> Tensor:
    """The same by automatic differentiation."""
    X, p = some_state(case, k)
    drive = gradient_flow(lambda w: torch.logsumexp(-(X @ w["W"].mT).relu() @ w["a"], 0))
    found = reparametrized(drive, system)(p)
    return torch.cat([found[k].reshape(-1) for k in ("W.length", "a.length", "W.direction", "a.direction")])


# Part 4: two families

Step = Callable[[Tensor, Tensor, float], Tensor]
STEPS: dict[str, Step] = {
    "lagrange": lagrange_step,
    "tangent": tangent_step,
    "coefficient": coefficient_step,
    "weight": lambda u, g, p: weight_normalization_step(u, g, p) / weight_normalization_step(u, g, p).norm(p),
    "great circle": lambda u, g, p: natural_step(u, g),
}
TINY = 1e-6


@shared
def pushed(case: Case, k: int, p: float) -> tuple[Tensor, Tensor]:
    """A vector of unit norm, and a drive of Euclidean length one."""
    u, g = draw(case, f"{k} u", 6), draw(case, f"{k} g", 6)
    return u / torch.linalg.vector_norm(u, p), g / g.norm()


ALL = [(name, p) for name in ("lagrange", "tangent") for p in (1.5, 2.0, 3.0, 6.0)]
OTHERS = {p: [("coefficient", p), ("weight", p)] for p in (2.0, 3.0, 6.0)}
MEMBERS = {
    p: [(name, q, k) for name, q in ALL + others + [("great circle", 2.0)] for k in range(5)]
    for p, others in OTHERS.items()
}  # methods with norms and draws: the two families for all p, coefficient and weight normalisation for one


@claim("D-thm17-4", printed={"p": 3.0}, control={"p": 6.0})
def two_families_are_one_flow(case, p=2.0):
    """A multiplier that keeps the Lp norm and a tangent gradient are one flow; for p = 2 all methods of the paper are.

    What a small step adds to the free one lies along the normal and keeps the norm. For p = 3 and 6 coefficient and
    weight normalisation do not.  D Theorem 17 (4)
    """
    quotient = lambda name, u, g, q: (STEPS[name](u, TINY * g, q) - u) / TINY
    normal = lambda u, q: torch.func.grad(lambda x: x.abs().pow(q).sum().pow(1 / q))(u)
    along = lambda u, g, v: g - v * (v @ g) / (v @ v)
    return equal(
        measured=lambda: [quotient(name, *pushed(case, k, q), q) for name, q, k in MEMBERS[p]],
        predicted=lambda: [
            along(*pushed(case, k, q), normal(pushed(case, k, q)[0], q)) for _, q, k in MEMBERS[p]
        ],
        scale=lambda: [1.0 for _ in MEMBERS[p]],
        bound=1e-4, reason="terms of second order in a step of 1e-6, with the curvature of the ball for their factor",
    )  # fmt: skip


# Part 5: two normalisations


@shared
def normalised_end(samples: tuple[tuple[float, float], ...], kind: str) -> Tensor:
    """Direction of the weights of one ReLU unit behind a normalisation, late in the clock of the loss's logarithm."""
    P = rows(samples)
    signal = {
        "weight": lambda w: P @ w / w.norm(),
        "batch": lambda w: standardize_columns((P @ w)[:, None], center=False)[:, 0],
    }[kind]
    flow = gradient_flow(lambda p: torch.logsumexp(-p["g"] * signal(p["w"]).relu(), 0))
    start = {"g": rows(1.0), "w": rows([0.8, 0.9])}
    w = integrate(flow, start, (0.0, 10.0, 100.0), method="LSODA", relative=1e-9, absolute=1e-12)["w"]
    if not torch.linalg.vector_norm(w[-1] / w[-1].norm() - w[-2] / w[-2].norm()) < 1e-2:
        raise runs.Unfinished(f"{kind} normalisation: the direction still moves")
    return w[-1] / w[-1].norm()


def own_margin(samples: tuple[tuple[float, float], ...]) -> Tensor:
    """Direction of the largest margin in the norm of the second moments."""
    P = rows(samples)
    w = hard_margin(P, P.mT @ P / len(P))[0]
    return w / w.norm()


TWO = ((1.0, 0.0), (2.0, 2.0))
TURNED = ((2.0, 1.0), (-1.0, 2.0))  # at right angles and equally long: second moments are a multiple of the identity


@claim("D-thm17-5", control={"samples": TURNED})
def both_maximise_under_the_euclidean_norm(case, samples=TWO):
    """Weight and batch normalisation both maximise the margin under a unit L2 norm. Batch normalisation does not.

    One ReLU unit, two samples: it ends at (2, -1), the largest margin in the norm of the second moments; weight
    normalisation at (1, 0), the Euclidean one. Where second moments are a multiple of one, both agree.
    D Theorem 17 (5)
    """
    late = "directions arrive exponentially in the gain; integrator at 1e-9"
    return counterexample(
        statement=equal(
            measured=lambda: [normalised_end(samples, "batch")], predicted=lambda: [hard_margin(rows(samples))[0]],
            bound=1e-3, reason=late,
        ),
        exact=lambda: [1 / math.sqrt(5)],
        weights=equal(
            measured=lambda: [normalised_end(samples, "weight")], predicted=lambda: [hard_margin(rows(samples))[0]],
            bound=1e-3, reason=late,
        ),
        moments=equal(
            measured=lambda: [normalised_end(samples, "batch")], predicted=lambda: [own_margin(samples)],
            bound=1e-3, reason=late,
        ),
    )  # fmt: skip

"""What decides the claims of sections 5 and 8 of paper D: four ways to hold a norm, and where they lead.

Runs are in :mod:`companion.theory_iii.norm_control_runs`. Labels are absorbed in the outputs unless the name ``y``
stands beside them.
"""

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, limit, together
from companion.theory_iii import norm_control_runs as runs
from companion.theory_iii import summary_theorem_runs as ends_of
from companion.theory_iii.norm_control_runs import EXPONENTS, norm, rows
from companion.theory_iii.summary_theorem import LATE, STEPS, WITNESSES, cosines, ends, in_decimals, losses, pushed
from normdyn.motion.constraints import coefficient_step, natural_step
from normdyn.norms.margins import follow

ROUNDING = "rounding; ReLU networks of two and three layers, two of each"

# Section 5: spheres and their normals


def fitted_sphere(points: Tensor) -> Tensor:
    """Centre and squared radius of the sphere next to the points, by linear least squares."""
    A = torch.cat([2 * points, torch.ones(len(points), 1).double()], 1)
    found = torch.linalg.lstsq(A, points.square().sum(1, keepdim=True)).solution[:, 0]
    return torch.cat([found[:-1], (found[-1] + found[:-1].square().sum())[None]])


@claim("D-unit-balls", control={"swap": True, "round_one": 3.0})
def spheres_of_three_norms(case, swap=False, round_one=2.0):
    """Unit vectors: a sphere of radius one for p = 2, a cube for p = oo, a cross-polytope for p = 1.  D section 5

    In four dimensions: a sphere fitted to unit vectors; hulls of corners, their gauge, and how many facets they have.
    """
    shapes = ("cross", "cube") if swap else ("cube", "cross")
    gauge = lambda shape: (runs.scattered(case) @ runs.facets(shape).mT).amax(1)
    return together(
        sphere=equal(
            measured=lambda: fitted_sphere(runs.scattered(case, round_one)), predicted=lambda: torch.eye(5)[-1],
            bound=1e-12, reason="rounding of a least-squares problem with 60 points",
        ),
        polytopes=equal(
            measured=lambda: [gauge(shape) for shape in shapes],
            predicted=lambda: [runs.scattered(case).abs().amax(1), runs.scattered(case).abs().sum(1)],
            bound=1e-8, reason="normals of facets are rounded to nine digits; 60 points",
        ),
        facets=equal(
            measured=lambda: [float(len(runs.facets(shape))) for shape in shapes], predicted=lambda: [8.0, 16.0],
            bound=1e-3, reason="counts",
        ),
    )  # fmt: skip


CORNERS = {1.0: (1.0, 0.0, -2.0), math.inf: (1.0, -2.0, 2.0), 2.0: (0.0, 0.0, 0.0)}


def printed_normal(u: Tensor, p: float) -> Tensor:
    """The gradient of the norm as the paper lists it, for p = 1, 2 and infinity."""
    if p == 1:
        return u.sign()
    if p == 2:
        return u / u.norm().clamp(min=1e-300)
    return torch.where(torch.arange(len(u)) == u.abs().argmax(), u.sign(), 0.0)


@claim("D-thm4-norm-gradients", control={"corner": True})
def normals_of_three_norms(case, corner=False):
    """Gradients: u / |u| for p = 2, signs for p = 1, the sign of the largest entry alone for p = oo.  D section 5.3

    Forward differences at generic points. At a corner (a zero entry, a tie, zero itself) they are no gradient.
    """
    points = lambda: [(p, u) for p in CORNERS for u in ([rows(CORNERS[p])] if corner else runs.scattered(case)[:20])]
    along = lambda u, p, h=1e-7: torch.stack([(norm(u + h * e, p) - norm(u, p)) / h for e in torch.eye(len(u))])
    return equal(
        measured=lambda: [along(u, p) for p, u in points()],
        predicted=lambda: [printed_normal(u, p) for p, u in points()],
        scale=lambda: [1.0 for _ in points()],
        bound=1e-4, reason="a step of 1e-7 times the curvature, and rounding over the step; 20 points for each p",
    )  # fmt: skip


@claim("D-thm4", control={"normal": 2.0})
def tangent_flow_keeps_the_norm(case, normal=None):
    """Whatever drives it, u' = (I - v v'/|v|^2) g with v the norm's gradient keeps |u|_p at one.  D Theorem 4

    A drive that turns with time, p = 1.5, 3 and 6; the control projects with the normal of p = 2.
    """
    return equal(
        measured=lambda: [runs.drifts(case, p, normal or p) for p in (1.5, 3.0, 6.0)],
        predicted=lambda: [1.0 for _ in range(3)],
        bound=1e-10, reason="a tolerance of 1e-12 a step, some hundred steps",
    )  # fmt: skip


@claim("D-coefficient-normalization", control={"divide": False})
def division_keeps_the_norm(case, divide=True):
    """A free step and division by the Lp norm keep |u|_p at one; the free step alone does not.  D section 5.2, (21)"""
    step = lambda u, g, p: coefficient_step(u, 0.1 * g, p) if divide else u + 0.1 * g
    powers = lambda x, p: x.abs().amax() if p == math.inf else x.abs().pow(p).sum()
    return equal(
        measured=lambda: [powers(step(*pushed(case, k, p), p), p) for p in (1.0, *EXPONENTS, math.inf)
                          for k in range(3)],
        predicted=lambda: [1.0 for _ in range(18)],
        bound=1e-13, reason="rounding; p from 1 to infinity",
    )  # fmt: skip


# Section 5.1: the Lagrangian


@claim("D-eq15", printed={"label": False})
def lengths_under_the_lagrangian(case, label=True):
    """Lengths move at (rho/rho_k) sum_n exp(-rho y f~) y f~: the label stands in front too.  D (15)"""
    force = lambda one, f: (-one.rho() * one.y * f).exp() @ ((one.y if label else 1.0) * f)
    return equal(
        measured=lambda: [found[f"r{k}"] for found, one in
                          zip(runs.descent(case, 2.0, 0.37), runs.layers(case), strict=True) for k in one.units],
        predicted=lambda: [one.lengths[k] ** -1 * one.rho() * force(one, f)
                           for one, (f, _) in zip(runs.layers(case), runs.outputs(case), strict=True)
                           for k in one.units],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


def pulled_back(V: Tensor, p: float) -> Tensor:
    """Minus the slope of |V|_p^p."""
    return -p * V.sign() * V.abs() ** (p - 1)


def pushed_on(V: Tensor, p: float) -> Tensor:
    """As printed, with the real part of a power of a negative number."""
    return p * (V.to(torch.complex128) ** (p - 1)).real


@claim("D-eq16", printed={"term": pushed_on})
def directions_under_the_lagrangian(case, term=pulled_back):
    """Directions move at rho sum_n y exp(-rho y f~) df~/dV - lambda p sign(V)|V|^(p-1).  D (16), p = 1.5, 2, 3, 4"""
    force = lambda one, f, slope: one.rho() * torch.einsum("n,nij->ij", one.y * (-one.rho() * one.y * f).exp(), slope)
    powers = (1.5, 2.0, 3.0, 4.0)
    return equal(
        measured=lambda: [found[f"V{k}"] for p in powers for found, one in
                          zip(runs.descent(case, p, 0.37), runs.layers(case), strict=True) for k in one.units],
        predicted=lambda: [force(one, f, slopes[k]) + 0.37 * term(one.units[k], p) for p in powers
                           for one, (f, slopes) in zip(runs.layers(case), runs.outputs(case), strict=True)
                           for k in one.units],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


@claim("D-eq17-19", printed={"sign": 1})
def multiplier_of_a_unit_norm(case, sign=-1):
    """The multiplier that keeps |V| = 1 in a step solves |alpha V + g| = 1 with alpha = 1 - 2 lambda.  D (17)-(19)

    It is searched for on steps of descent on the Lagrangian, p = 2.
    """
    size = lambda V, g: ((1 + sign * 2 * runs.multiplier_by_search(V, g)) * V + g).norm()
    return equal(
        measured=lambda: [size(V, g) for V, g in runs.pairs(case)], predicted=lambda: [1.0] * 20,
        bound=1e-13, reason="rounding of a bisection; 20 pairs with a drive of length 0.3",
    )  # fmt: skip


@claim("D-eq20", control={"sign": 1})
def alpha_in_closed_form(case, sign=-1):
    """alpha = sqrt(1 - |g|^2 + (V.g)^2) - V.g is the root of |alpha V + g| = 1 that is one without a drive.  D (20)"""
    root = lambda V, g: brentq(lambda a: (a * V + g).norm().item() - 1, -(V @ g).item(), 2.0, xtol=1e-15, rtol=1e-15)
    return equal(
        measured=lambda: [root(V, g) for V, g in runs.pairs(case)],
        predicted=lambda: [(1 - g @ g + (V @ g) ** 2).sqrt() + sign * (V @ g) for V, g in runs.pairs(case)],
        bound=1e-13, reason="rounding of a bisection; 20 pairs with a drive of length 0.3",
    )  # fmt: skip


# Equal for small steps

TECHNIQUES = ("lagrange", "coefficient", "tangent")


def beside_the_circle(name: str, u: Tensor, g: Tensor) -> Tensor:
    """Leading term of what separates a step from the great circle, for p = 2."""
    a = u @ g
    t = g - u * a
    return {"tangent": t @ t / 2 * u, "coefficient": -a * t, "lagrange": t @ t / 6 * t, "weight": -t @ t / 3 * t}[name]


ORDERS = {"tangent": (2, 1e-4), "coefficient": (2, 1e-4), "lagrange": (3, 1e-3), "weight": (3, 1e-3)}


@claim("D-four-techniques", control={"p": 3.0})
def one_flow_in_small_steps(case, p=2.0):
    """For p = 2 multiplier, division and tangent gradient agree to first order, with the great circle too.  D section 5

    The second part has the leading terms by which they, and weight normalisation, differ from the great circle. In the
    control, p = 3, division follows another flow.
    """
    quotient = lambda name, u, g: (STEPS[name](u, 1e-6 * g, p) - u) / 1e-6
    normal = lambda u: torch.func.grad(lambda x: x.abs().pow(p).sum().pow(1 / p))(u)
    along = lambda u, g, v: g - v * (v @ g) / (v @ v)
    off = lambda name, u, g, order, h: (STEPS[name](u, h * g, 2.0) - natural_step(u, h * g)) / h**order
    return together(
        equivalent=equal(
            measured=lambda: [quotient(name, *pushed(case, k, p)) for name in TECHNIQUES for k in range(5)],
            predicted=lambda: [along(*pushed(case, k, p), normal(pushed(case, k, p)[0])) for _ in TECHNIQUES
                               for k in range(5)],
            scale=lambda: [1.0] * 15,
            bound=1e-4, reason="terms of second order in a step of 1e-6; five pushed vectors",
        ),
        circle=equal(
            measured=lambda: [off(name, *pushed(case, k, 2.0), *ORDERS[name]) for name in ORDERS for k in range(5)],
            predicted=lambda: [beside_the_circle(name, *pushed(case, k, 2.0)) for name in ORDERS for k in range(5)],
            scale=lambda: [1.0] * 20,
            bound=3e-3, reason="the next order in steps of 1e-4 and 1e-3",
        ),
    )  # fmt: skip


# Which margin

FAR = "what is left of a direction at rho = 1e4 is of order one over rho; five samples in three dimensions"


@claim("O-oblique", control={"swap": True})
def which_margin_a_method_reaches(case, swap=False):
    """In one linear layer multiplier, tangent gradient and weight normalisation reach the largest Lp margin, each p its
    own; division by the Lp norm, and the free flow, reach the largest L2 margin for every p.

    The reference is quadratic or convex programming. In the control p = 2 and the own p change places.
    """
    own = lambda p: 2.0 if swap else p
    end = lambda method, p, reach: runs.constrained(method, p)[int(reach)]
    return together(
        normal=limit(
            measured=lambda reach: [end(m, p, reach) for m in ("tangent", "weight") for p in (1.5, 3.0, 6.0)],
            predicted=lambda: [runs.largest_margin_in(own(p)) for _ in range(2) for p in (1.5, 3.0, 6.0)],
            bound=1e-3, reason=FAR,
        ),
        division=limit(
            measured=lambda reach: [end("coefficient", p, reach) for p in (1.5, 3.0, 6.0)],
            predicted=lambda: [runs.largest_margin_in(p if swap else 2.0) for p in (1.5, 3.0, 6.0)],
            bound=1e-3, reason=FAR,
        ),
        free=limit(
            measured=lambda reach: [free_direction(400 * reach)],
            predicted=lambda: [runs.largest_margin_in(6.0 if swap else 2.0)],
            bound=1e-3, reason="moved between log t = 200 and 400, and twice that; the rest falls exponentially in it",
        ),
    )  # fmt: skip


def free_direction(s: float) -> Tensor:
    """Unit vector along which the free flow moves between log t = s / 2 and s."""
    w = follow(runs.DATA, rows([1.0, 0.9, 0.8]), [s / 2, s], frame=rows([1.0, 0.5, 0.0]))["vector"]
    return (w[1] - w[0]) / (w[1] - w[0]).norm()


@claim("D-lp-tangent-margin", control={"leak": 1.0})
def constrained_descent_maximises(case, leak=0.0):
    """With the norm held fixed, where descent converges it does so to a largest margin. In ReLU networks it does not.

    Two layers of ReLUs, p = 2: the flow on spheres converges, with vanishing loss, to one half of what a network of the
    same shape attains otherwise, as in Theorem 17. Linear units reach the largest margin; for other p see O-oblique.
    D section 9
    """
    return counterexample(
        statement=equal(
            measured=lambda: ends(case, "sphere", leak), predicted=lambda: cosines(), bound=1e-3, reason=LATE,
        ),
        exact=lambda: in_decimals(case, "sphere", leak),
        converged=at_most(
            left=lambda: losses(case, "sphere", leak), right=lambda: [0.0 for _ in WITNESSES],
            scale=lambda: [1.0 for _ in WITNESSES],
            bound=1e-6, reason="the loss is at most the exponential of minus the margin times the lengths at the end",
        ),
    )  # fmt: skip


@claim("D-l2-only", control={"leak": 1.0})
def free_descent_maximises_in_two_norms_only(case, leak=0.0):
    """Standard descent maximises the margin of a deep network for the L2 norm, not for others. In ReLU networks not so.

    The witnesses of Theorem 17 (6): the free flow converges to a margin of one half where more is attained. Linear
    units reach the largest L2 margin, and no other one: O-oblique.  D abstract
    """
    return counterexample(
        statement=equal(
            measured=lambda: ends(case, "standard", leak), predicted=lambda: cosines(), bound=1e-3, reason=LATE,
        ),
        exact=lambda: in_decimals(case, "standard", leak),
        converged=at_most(
            left=lambda: losses(case, "standard", leak), right=lambda: [0.0 for _ in WITNESSES],
            scale=lambda: [1.0 for _ in WITNESSES],
            bound=1e-6, reason="the loss is at most the exponential of minus the margin times the lengths at the end",
        ),
    )  # fmt: skip


@claim("D-kernel-machines", control={"space": "coefficients"})
def kernels_reach_their_margin(case, space="features"):
    """A kernel machine under the exponential loss grows along its support vector machine, per unit of log t.  D 9

    Ten points of an exclusive-or. The control descends on the coefficients, with their own geometry.
    """
    return limit(
        measured=lambda reach: runs.growth(case, space, reach), predicted=lambda: runs.support_vector_machine(case),
        bound=1e-6, reason="what is left at log t = 200 is exponentially small in it; integrator at 1e-9",
    )  # fmt: skip


KINDS = ((50, 2), (54, 2))  # degrees between a sample and the axis, and how many margins the ends have


def number_of_kinds(margins: Tensor) -> float:
    """How many values, to two digits."""
    return float(len((100 * margins).round().unique()))


def ends_from_many_starts(case: Case, degrees: int, units: str) -> Tensor:
    """Margins at the ends that have settled: forty random starts of three ReLUs, or three starts of linear units."""
    if units == "linear":
        found = (ends_of.followed(case, degrees, k, "sphere", 1.0) for k in range(3))
        return torch.stack([ends_of.normalised(p, ends_of.pair(degrees), 1.0) for p in found])
    batch = ends_of.three_units(case, "tangent", tuple(d for d, _ in KINDS))[degrees]
    return batch.margins[batch.separating() & ~batch.moving(1e-3)]


def split_unit(degrees: int, bend: Tensor) -> Tensor:
    """Margin of a unit on both samples that is split into two copies, at an angle of shares; layers at unit norm."""
    share = torch.stack([bend.cos(), bend.sin()], 1)
    outputs = (share[:, :, None] * torch.tensor([1.0, 0.0]).double()) @ ends_of.pair(degrees).mT
    return (outputs.relu() * share[..., None]).sum(1).amin(1)


def nearby(case: Case, degrees: int, units: str) -> Tensor:
    """Margins of networks close to the one whose two units look at one sample each; layers at unit norm."""
    X, reach = ends_of.pair(degrees), rows([1e-4, 1e-3, 1e-2])[:, None, None, None]
    draw = torch.randn(3, 100, 2, 3, generator=case.generator(f"nearby {degrees}"), dtype=torch.float64)
    W, a = X + reach * draw[..., :2], 1 + reach[..., 0] * draw[..., 2]
    Z = W @ X.mT
    f = ((Z.relu() if units == "ReLU" else Z) * a[..., None]).sum(2)
    return f.amin(2) / (W.flatten(2).norm(dim=2) * a.norm(dim=2))


@claim("D-multiple-max-margins", control={"units": "linear"})
def several_margins_one_in_linear_models(case, units="ReLU"):
    """ReLU networks have several maxima of the margin, told by the start, and degenerate ones; linear models have one.

    Two samples, three units, forty starts at each of two angles: two values. A split unit gives a curve of equal
    maxima.  D sections 6.4, 7.1
    """
    bend = torch.linspace(0, math.pi / 2, 9).double()
    there = lambda degrees: {"ReLU": 0.5, "linear": math.cos(math.radians(degrees)) ** 2}[units]
    return together(
        several=equal(
            measured=lambda: [number_of_kinds(ends_from_many_starts(case, degrees, units)) for degrees, _ in KINDS],
            predicted=lambda: [number for _, number in KINDS],
            bound=4e-3, reason="counts; values that agree to two digits are one",
        ),
        maxima=at_most(
            left=lambda: [nearby(case, degrees, units) for degrees, _ in KINDS],
            right=lambda: [there(degrees) for degrees, _ in KINDS],
            bound=1e-12, reason="rounding; 300 networks near the end that is not the best",
        ),
        degenerate=equal(
            measured=lambda: [split_unit(degrees, bend) for degrees, _ in KINDS],
            predicted=lambda: [math.cos(math.radians(degrees)) for degrees, _ in KINDS],
            bound=1e-13, reason="rounding; nine splits at each angle",
        ),
        linear=equal(
            measured=lambda: [ends_from_many_starts(case, degrees, "linear") for degrees, _ in KINDS],
            predicted=lambda: [math.cos(math.radians(degrees)) for degrees, _ in KINDS],
            bound=1e-4, reason=LATE,
        ),
    )  # fmt: skip

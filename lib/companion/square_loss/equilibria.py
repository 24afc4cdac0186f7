"""What decides section 2.3.1 and appendix E of paper B: what holds where length and direction come to rest.

The way there is in :mod:`companion.square_loss.equilibria_paths`.
"""

import math

import torch
from scipy.linalg import qr
from scipy.optimize import brentq
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, together
from companion.square_loss import equilibria_runs as runs
from companion.square_loss.equilibria_runs import DECAY, Point
from companion.theory_iii.hidden_complexity_control_runs import normal

SOLVER = "the solver's gradient of 1e-11 over curvature and decay; 6 critical points, two layers"


def force(one: Point) -> list[Tensor]:
    """The size of the terms that cancel in the sums over samples, a layer each."""
    return [torch.tensordot(one.ell.abs(), S.abs(), 1).max() for S in one.slopes]


# What holds at an equilibrium


@claim("B-eq7", control={"decay": 0.0})
def length_at_rest(case, decay=DECAY):
    """The length rests at sum(y f)/(decay + sum f^2): root of its velocity at frozen V, and joint equilibria.  B (7)

    Control: the formula without decay.
    """
    target = lambda one: (one.y @ one.f) / (decay + one.f @ one.f)
    root = lambda one: brentq(lambda r: one.rate(torch.tensor(r, dtype=torch.float64)).item(), -1e4, 1e4, xtol=1e-13)
    return together(
        frozen=equal(
            measured=lambda: [root(one) for one in runs.elsewhere(case)],
            predicted=lambda: [target(one) for one in runs.elsewhere(case)],
            bound=1e-9, reason="tolerance of the root finder; 6 random networks",
        ),
        joint=equal(
            measured=lambda: [one.rho for one in runs.equilibria(case)],
            predicted=lambda: [target(one) for one in runs.equilibria(case)],
            bound=1e-8, reason=SOLVER,
        ),
    )  # fmt: skip


def own_labels(one: Point) -> Tensor:
    return one.y


def other_labels(one: Point) -> Tensor:
    return -one.y


@claim("B-rhodot-sign", control={"labels": other_labels})
def length_chases_its_target(case, labels=own_labels):
    """Below rho_eq the length grows, above it shrinks: its velocity is 2 (decay + sum f^2)(rho_eq - rho).  B 2.3.1

    Six separated networks, lengths 0 to 20. Control: the target of other labels.
    """
    lengths = torch.linspace(0.0, 20.0, 42, dtype=torch.float64)
    gain = lambda one: DECAY + one.f @ one.f
    velocity = lambda one: torch.stack([one.rate(r) for r in lengths])
    law = lambda one: 2 * gain(one) * ((labels(one) @ one.f) / gain(one) - lengths)
    return together(
        sign=equal(
            measured=lambda: [velocity(one).sign() for one in runs.elsewhere(case)],
            predicted=lambda: [law(one).sign() for one in runs.elsewhere(case)],
            bound=1e-2, reason="signs are whole numbers; 6 networks, 42 lengths",
        ),
        rate=equal(
            measured=lambda: [velocity(one) for one in runs.elsewhere(case)],
            predicted=lambda: [law(one) for one in runs.elsewhere(case)],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


@claim("B-eq8", control={"resting": False})
def directions_at_rest(case, resting=True):
    """At an equilibrium sum l_n df_n/dV_k = V_k sum l_n f_n. Control: random points.  B (8)"""
    some = lambda: runs.there(case, resting)
    return equal(
        measured=lambda: [pull for one in some() for pull in one.pulls],
        predicted=lambda: [W * (one.ell @ one.f) for one in some() for W in one.V],
        scale=lambda: [size for one in some() for size in force(one)],
        bound=1e-8, reason=SOLVER,
    )  # fmt: skip


@claim("B-fn4", printed={"decay": 0.0})
def sums_at_rest(case, decay=DECAY):
    """There sum l_n f_n = -decay rho and sum l_n df_n/dV_k = -decay rho V_k. Printed: both are zero.  B footnote 4"""
    some = lambda: runs.equilibria(case)
    return together(
        length=equal(
            measured=lambda: [one.ell @ one.f for one in some()],
            predicted=lambda: [-decay * one.rho for one in some()],
            scale=lambda: [(one.ell * one.f).abs().sum() for one in some()],
            bound=1e-8, reason=SOLVER,
        ),
        layers=equal(
            measured=lambda: [pull for one in some() for pull in one.pulls],
            predicted=lambda: [-decay * one.rho * W for one in some() for W in one.V],
            scale=lambda: [size for one in some() for size in force(one)],
            bound=1e-8, reason=SOLVER,
        ),
    )  # fmt: skip


def weights(one: Point) -> Tensor:
    """The paper's alpha_n."""
    return one.ell / (one.ell @ one.f)


@claim("B-eq29", control={"resting": False})
def layers_are_sums_of_gradients(case, resting=True):
    """At rest V_k = sum alpha_n df_n/dV_k, alpha_n = l_n/sum l_m f_m = (y_n - rho f_n)/(decay rho).  B (29), (38)

    Control: random points.
    """
    some = lambda: runs.there(case, resting)
    return together(
        layers=equal(
            measured=lambda: [W for one in some() for W in one.V],
            predicted=lambda: [torch.tensordot(weights(one), S, 1) for one in some() for S in one.slopes],
            bound=1e-7, reason=SOLVER,
        ),
        weights=equal(
            measured=lambda: [weights(one) for one in some()],
            predicted=lambda: [(one.y - one.rho * one.f) / (DECAY * one.rho) for one in some()],
            bound=1e-7, reason=SOLVER,
        ),
    )  # fmt: skip


@claim("B-eq36", control={"resting": False})
def averaged_gradient(case, resting=True):
    """V_k f-hat = df-hat/dV_k for the gradient weighted by y_n - rho f_n, where f-hat is their inner product.  B (36)

    And f-hat is the weighted sum of outputs, of every layer the same. Control: random points.
    """
    some = lambda: runs.there(case, resting)
    average = lambda one: [torch.tensordot(one.y - one.rho * one.f, S, 1) for S in one.slopes]
    return together(
        equation=equal(
            measured=lambda: [mean for one in some() for mean in average(one)],
            predicted=lambda: [W * ((one.y - one.rho * one.f) @ one.f) for one in some() for W in one.V],
            scale=lambda: [size for one in some() for size in force(one)],
            bound=1e-8, reason=SOLVER,
        ),
        output=equal(
            measured=lambda: [(W * mean).sum() for one in some() for W, mean in zip(one.V, average(one), strict=True)],
            predicted=lambda: [(one.y - one.rho * one.f) @ one.f for one in some() for _ in one.V],
            scale=lambda: [size for one in some() for size in force(one)],
            bound=1e-12, reason="rounding; Euler's identity",
        ),
    )  # fmt: skip


@claim("B-eq37", control={"samples": 1})
def sample_by_sample(case, samples=6):
    """At an equilibrium l_n df_n/dV_k = l_n V_k f_n for every n. Control: a single sample.  B (37)"""
    some = lambda: runs.equilibria(case, samples)
    return counterexample(
        equal(
            measured=lambda: [one.ell[:, None, None] * S for one in some() for S in one.slopes],
            predicted=lambda: [(one.ell * one.f)[:, None, None] * W for one in some() for W in one.V],
            scale=lambda: [size for one in some() for size in force(one)],
            bound=1e-7, reason=SOLVER,
        ),
        at_rest=equal(
            measured=lambda: [pull for one in some() for pull in one.pulls],
            predicted=lambda: [-DECAY * one.rho * W for one in some() for W in one.V],
            scale=lambda: [size for one in some() for size in force(one)],
            bound=1e-7, reason=SOLVER,
        ),
    )  # fmt: skip


# The weights of the samples

FAN, RIGHT_ANGLE = (0.0, 30.0, 60.0), (0.0, 90.0)


def planar_weights(*angles: float) -> Tensor:
    """The alpha_n of one linear layer at rest, inputs at some angles, all labels one."""
    X = runs.at_angles(*angles)
    y = torch.ones(len(X), dtype=torch.float64)
    w = runs.ridge(X, y, DECAY)
    return (y - X @ w) / (DECAY * w.norm())


@claim("B-alpha-positive", control={"angles": RIGHT_ANGLE})
def weights_are_positive(case, angles=FAN):
    """The weights alpha_n of (29) are positive at equilibria.  B appendix E

    One linear layer, all labels one, inputs at 0, 30 and 60 degrees. Control: two inputs at right angles.
    """
    inputs = lambda: runs.at_angles(*angles)
    middle = math.radians(sum(angles) / len(angles))
    cosines = 1 + 3**0.5  # of the three with the one in the middle, which by symmetry has the direction of w
    length = cosines / (DECAY + 1 + 2 * 0.75)
    return counterexample(
        at_most(
            left=lambda: -planar_weights(*angles).amin(), right=lambda: 0.0, scale=lambda: 1.0,
            bound=1e-9, reason="rounding over the decay",
        ),
        exact=lambda: (length - 1) / (DECAY * length),
        representation=equal(
            measured=lambda: planar_weights(*angles) @ inputs(),
            predicted=lambda: torch.tensor([math.cos(middle), math.sin(middle)], dtype=torch.float64),
            bound=1e-9, reason="rounding over the decay; by symmetry v lies in the middle",
        ),
    )  # fmt: skip


def fitted_angle() -> float:
    """The angle at which the equilibrium of inputs at 50 and -50 degrees fits a third one."""
    w = runs.ridge(runs.at_angles(50.0, -50.0), torch.ones(2, dtype=torch.float64), DECAY)
    return torch.rad2deg((1 / w.norm()).acos()).item()


GENERIC = (23.0, 46.0, 69.0)


@claim("B-alpha-nonzero", printed={"third": (fitted_angle(),)})
def weights_do_not_vanish(case, third=GENERIC):
    """With decay no weight is zero, in general: not one in random networks and in linear layers of three inputs.  B E.3

    Printed: never; a third input that the equilibrium of two others happens to fit.
    """
    random = lambda k: runs.unit_rows(normal(case, f"generic {k}", 6, 4))
    labels = torch.tensor([1.0, -1] * 3, dtype=torch.float64)
    some = lambda: [
        *(planar_weights(50.0, -50.0, angle) for angle in third),
        *(labels - random(k) @ runs.ridge(random(k), labels, DECAY) for k in range(200)),
        *(weights(one) for one in runs.equilibria(case)),
    ]
    return equal(
        measured=lambda: [float((alpha.abs() < 1e-10).sum()) for alpha in some()],
        predicted=lambda: [0.0] * (len(third) + 206),
        bound=1e-3, reason="whole numbers: weights below 1e-10; 3 planar layers, 200 random ones, 6 networks",
    )  # fmt: skip


def rebuilt(J: Tensor, goal: Tensor, missing: int) -> Tensor:
    """A vector in as many rows of J as the rank of J, less some, picked by pivoting; least squares."""
    rank = int(torch.linalg.matrix_rank(J, rtol=1e-9))
    basis = J[torch.from_numpy(qr(J.mT.numpy(), pivoting=True, mode="r")[1][: rank - missing])].mT
    return basis @ torch.linalg.lstsq(basis, goal[:, None]).solution[:, 0]


@claim("B-fn11", control={"missing": 1})
def rank_bounds_the_terms(case, missing=0):
    """As many samples as the rank of the Jacobian suffice in (29). Control: one fewer.  B footnote 11"""

    return equal(
        measured=lambda: [rebuilt(J, goal, missing) for J, goal in runs.jacobians(case)],
        predicted=lambda: [goal for _, goal in runs.jacobians(case)],
        bound=1e-6, reason="the solver's gradient over decay, times conditioning; 6 networks, 5 layers of 9 samples",
    )  # fmt: skip


# Is there one?


@claim("B-exist-crit", printed={"length": runs.length_of_one_direction})
def least_length_has_one(case, length=runs.least_length):
    """At the length that minimises m(rho) = min over V of the loss, a critical V has the length at rest.  B 2.3.1

    Layers in the plane, all critical angles listed. Printed: at a length that is stationary for another V.
    """
    nearest = lambda one: min(map(abs, runs.radial_rates(one, length(one))))
    return equal(
        measured=lambda: [nearest(one) for one in runs.planes(case)],
        predicted=lambda: [0.0 for _ in runs.planes(case)],
        scale=lambda: [1.0 for _ in runs.planes(case)],
        bound=1e-5,
        reason="tolerance of nested searches: a minimum is found to the root of rounding; 6 layers",
    )


@claim("B-fn5", control={"inputs": runs.two_inputs})
def aligned_but_not_at_rest(case, inputs=runs.one_input):
    """Where V_k f_n = df_n/dV_k the layers rest at each length, the length only at 1/(1 + decay).  B footnote 5

    ReLU networks of rank one aligned with a single input. Control: a second input.
    """

    some = lambda: runs.aligned(case, inputs)
    return together(
        layers=equal(
            measured=lambda: [one.ell @ one.f * W - pull for one in some()
                              for W, pull in zip(one.V, one.pulls, strict=True)],
            predicted=lambda: [torch.zeros_like(W) for one in some() for W in one.V],
            scale=lambda: [W.abs().max() for one in some() for W in one.V],
            bound=1e-12, reason="rounding; 3 networks at lengths 0.3, 0.9 and 2",
        ),
        length=equal(
            measured=lambda: [one.rate(one.rho) for one in some()],
            predicted=lambda: [2 - 2 * (1 + DECAY) * one.rho for one in some()],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip

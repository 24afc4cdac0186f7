"""What decides the second half of section 6 of paper C: zero modes of deep networks, decay, the origin and margins.

Weight decay is ``lambda``: the penalty is half of it times the squared norm. Runs are in
:mod:`companion.normalization_geometry.zero_modes_runs`.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, limit, together
from companion.normalization_geometry import zero_modes_runs as runs
from companion.normalization_geometry.zero_modes_runs import DECAY, DECAYED, EPSILONS, PATTERNS, Cloud, Saddle, identity
from normdyn.measures.curvature import interpolation_nullity, orthogonal_orbit_dimension
from normdyn.symmetry.polar import hard_margin

COUNTS = "whole numbers, each with a gap of a hundred or more in the spectrum"
ROUNDING = "rounding of second derivatives"

# Deep linear networks


@claim("C-deep-linear-zero-modes", printed={"solved": False}, control={"activation": torch.tanh})
def rescaling_is_a_zero_mode(case, solved=True, activation=identity):
    """Rescaling layer i by alpha and j by 1/alpha, H t = -(G_i, -G_j) for t = (W_i, -W_j): zero at critical points.

    Printed: zero at random weights. Control: tanh between the layers.  C 6.1
    """
    there, anywhere = (
        lambda: runs.rescalings(case, solved, activation),
        lambda: runs.rescalings(case, False, activation),
    )
    return together(
        zero=equal(
            measured=lambda: [one.applied for one in there()], predicted=lambda: [0.0 for _ in there()],
            scale=lambda: [one.size * one.direction.norm() for one in there()],
            bound=1e-12, reason=f"{ROUNDING}; 5 networks of three layers, all pairs of layers",
        ),
        elsewhere=equal(
            measured=lambda: [one.applied for one in anywhere()], predicted=lambda: [-one.slopes for one in anywhere()],
            bound=1e-11, reason=f"{ROUNDING}; 5 networks of three layers, all pairs of layers",
        ),
    )  # fmt: skip


def left_by(case, kind: str) -> list[float]:
    """Zero modes of the architectures of the claim."""
    some = [runs.decayed_modes(case, p) if kind == "decay" else runs.zero_modes(case, kind, p) for p in DECAYED]
    return [float(count) for count in some]


@claim("C-deep-linear-bn-zero-modes", control={"kind": "decay"})
def normalisation_removes_zero_modes(case, kind="batch"):
    """With BN in every hidden layer no zero modes of the Hessian are left but rotations of hidden units. All are left.

    Counted at solutions. Control: weight decay in the place of BN, which leaves the rotations.  C 6.1
    """
    turns = lambda: [float(orthogonal_orbit_dimension(p, min(p))) for p in DECAYED]
    return counterexample(
        at_most(left=lambda: left_by(case, kind), right=turns, scale=lambda: [1.0 for _ in DECAYED],
                bound=1e-4, reason=COUNTS),
        exact=lambda: min(interpolation_nullity(p) - orthogonal_orbit_dimension(p, min(p)) for p in DECAYED),
        critical=equal(
            measured=lambda: [runs.slope_there(case, "batch", p) for p in DECAYED],
            predicted=lambda: [0.0 for _ in DECAYED], scale=lambda: [1.0 for _ in DECAYED],
            bound=1e-12, reason="rounding: targets are the network's own outputs",
        ),
    )  # fmt: skip


FITS = {
    "plain": PATTERNS,
    "batch": PATTERNS,
    "weight": PATTERNS,
    "affine": tuple(p for p in PATTERNS if min(p) == p[-1]),
    "layer": tuple(p for p in PATTERNS if min(p[1:-1]) >= 3),
}


def expected(kind: str, widths: tuple[int, ...]) -> int:
    """Zero modes by the proposition."""
    hidden = sum(widths[1:-1])
    if kind == "layer":
        q = min(widths[0], *(d - 1 for d in widths[1:-1]))
        return sum(a * b for a, b in pairwise(widths)) - q * (widths[0] + widths[-1]) + math.comb(q, 2) + 1
    more = {"plain": 0, "batch": 0, "affine": 2 * hidden - widths[-1], "weight": hidden + widths[-1]}
    return interpolation_nullity(widths) + more[kind]


@claim("O-normalised-zero-modes", control={"activation": torch.tanh})
def zero_modes_of_normalised_networks(case, activation=identity):
    """Linear networks have as many zero modes with BN as without; gains, shifts and WN add some, LN takes some away.

    Control: tanh between the layers.
    """
    return together(
        **{
            kind: equal(
                measured=lambda kind=kind: [runs.zero_modes(case, kind, p, activation) for p in FITS[kind]],
                predicted=lambda kind=kind: [expected(kind, p) for p in FITS[kind]],
                bound=1e-4, reason=COUNTS,
            )
            for kind in FITS
        }
    )  # fmt: skip


# Weight decay


@claim("C-wd-curves-zero-modes", printed={"solved": False}, control={"epsilon": 0.1})
def decay_bends_the_flat_directions(case, solved=True, epsilon=0.0):
    """Where the loss has no gradient, decay gives the scales below BN, LN and WN the eigenvalue lambda, in place of 0.

    No such point is a minimum: along a scale the slope is lambda |w|^2, anywhere. Printed: the eigenvalue at random
    points. Control: epsilon = 0.1, for WN a power 0.1 of the length.  C 6
    """
    there = lambda: runs.flat_directions(case, DECAY, solved, epsilon)
    anywhere = lambda: runs.flat_directions(case, DECAY, False, epsilon)
    size = lambda t: t.square().sum()
    return together(
        eigenvalue=equal(
            measured=lambda: [one.applied for one in there()],
            predicted=lambda: [DECAY * one.direction for one in there()],
            bound=1e-9, reason=f"{ROUNDING}, at a decay of 0.01; 5 layers of four tanh units",
        ),
        slope=equal(
            measured=lambda: [one.slope @ one.direction for one in anywhere()],
            predicted=lambda: [DECAY * size(one.direction) for one in anywhere()],
            bound=1e-10, reason=f"{ROUNDING}, at a decay of 0.01; 5 layers of four tanh units",
        ),
    )  # fmt: skip


@claim("O-decay-on-symmetries", control={"place": "nearby"})
def decay_bends_rescalings_and_not_rotations(case, place="minimum"):
    """At minima of deep linear networks with decay lambda rescalings are eigenvectors with 2 lambda, rotations with 0.

    Control: points near the minima.
    """
    pairs = lambda kind: runs.decayed_directions(case, kind, place)
    minima = "minima found to a gradient of 1e-11, at a decay of 0.01; 5 architectures"
    return together(
        rescalings=equal(
            measured=lambda: [applied for _, applied in pairs("rescaling")],
            predicted=lambda: [2 * DECAY * t for t, _ in pairs("rescaling")],
            bound=1e-6, reason=minima,
        ),
        rotations=equal(
            measured=lambda: [applied for _, applied in pairs("rotation")],
            predicted=lambda: [0.0 for _ in pairs("rotation")], scale=lambda: [DECAY for _ in pairs("rotation")],
            bound=1e-6, reason=minima,
        ),
    )  # fmt: skip


# The origin


def rate(one: Saddle, epsilon: float | None) -> Tensor:
    """|X'y|/m without normalisation, |X_c'y|/(m sqrt(epsilon)) with."""
    if epsilon is None:
        return (one.X.mT @ one.y).norm() / len(one.X)
    return ((one.X - one.X.mean(0)).mT @ one.y).norm() / len(one.X) / epsilon**0.5


@claim("C-bn-origin", printed={"target": "constant"}, control={"normalised": False})
def origin_is_left_sooner(case, target="seen", normalised=True):
    """One leaves the origin at the rate |X_c'y|/(m sqrt(eps)) with BN, |X'y|/m without: sooner where that is larger.

    Nothing pushes off the origin itself. Printed: constant targets, which centred inputs do not see. Control: no BN
    where there should be some.  C 6.1
    """
    cells = [e if normalised else None for e in EPSILONS]
    drawn = lambda: [(e, one) for e in EPSILONS for one in runs.saddles(case)]
    speed = lambda path: (path[1][-1] / path[1][-6]).log() / (path[0][-1] - path[0][-6])
    return together(
        curvature=equal(
            measured=lambda: [v for e in cells for v in runs.steepest(case, e)],
            predicted=lambda: [rate(one, e) for e, one in drawn()],
            bound=1e-9, reason=f"{ROUNDING}; 3 problems, epsilon from 0.1 to 1e-5",
        ),
        escape=equal(
            measured=lambda: [speed(path) for e in cells[::2] for path in runs.escapes(case, e)],
            predicted=lambda: [rate(one, e) for e in EPSILONS[::2] for one in runs.saddles(case)],
            bound=1e-4, reason="what is left of decaying modes where the distance has grown some thousandfold",
        ),
        sooner=at_most(
            left=lambda: [plain for plain, _ in runs.below_threshold(case, target)],
            right=lambda: [normalised for _, normalised in runs.below_threshold(case, target)],
            scale=lambda: [plain for plain, _ in runs.below_threshold(case, target)],
            bound=1e-9, reason="eigenvalues to rounding; epsilon at 0.9, 0.1 and 0.001 of the threshold",
        ),
        still=equal(
            measured=lambda: [g for e in cells for g in runs.resting(case, e)],
            predicted=lambda: [0.0 for _ in drawn()], scale=lambda: [1.0 for _ in drawn()],
            bound=1e-12, reason="zero to the last bit, but for rounding",
        ),
    )  # fmt: skip


# Margins


@claim("C-linear-margin-norm", control={"margins": "equal"})
def shortest_vector_has_the_largest_margin(case, margins="at least"):
    """The vector of least norm with all margins at least one has the direction of the largest margin, which is 1/|w|.

    Control: margins equal to one, as nearly as can be.  C 6.1
    """
    best = lambda: [(one, hard_margin(one.points)[0]) for one in runs.clouds(case)]
    return together(
        direction=equal(
            measured=lambda: [w / w.norm() for w in runs.least_norms(case, margins)],
            predicted=lambda: [u for _, u in best()],
            bound=1e-7, reason="tolerance of the quadratic program; 5 sets of 12 points",
        ),
        margin=equal(
            measured=lambda: [1 / w.norm() for w in runs.least_norms(case, margins)],
            predicted=lambda: [(one.points @ u).min() for one, u in best()],
            bound=1e-7, reason="tolerance of the quadratic program; 5 sets of 12 points",
        ),
    )  # fmt: skip


def in_the_data_norm(one: Cloud) -> Tensor:
    u = hard_margin(one.points, one.moments)[0]
    return u / u.norm()


def euclidean(one: Cloud) -> Tensor:
    return hard_margin(one.points)[0]


@claim("C-bn-wd-max-margin", printed={"best": euclidean}, control={"on": "weights"})
def decay_on_the_gain_selects_a_margin(case, best=in_the_data_norm, on="gain"):
    """BN with decay lambda on its gain tends to the largest margin in the norm w'Cw of the data as lambda goes to zero.

    With C the covariance of the inputs; log(1/lambda) over the gain tends to that margin. Printed: the Euclidean one.
    Control: decay on the weights alone.  C 6.1 and 7.3
    """
    largest = lambda one: (one.points @ hard_margin(one.points, one.moments)[0]).min()
    reason = "one over the gain; decays exp(-10^5) and exp(-2 10^5), 5 sets of 12 points in general position"
    return together(
        direction=limit(
            measured=lambda reach: [w for w, _ in runs.selected(case, on, reach)],
            predicted=lambda: [best(one) for one in runs.clouds(case)],
            bound=5e-4, reason=reason,
        ),
        rate=limit(
            measured=lambda reach: [value for _, value in runs.selected(case, on, reach)],
            predicted=lambda: [largest(one) for one in runs.clouds(case)],
            bound=1e-3, reason=reason,
        ),
        rest=equal(
            measured=lambda: [slope for slope, _ in runs.slopes_at_rest(case)],
            predicted=lambda: [0.0 for _ in runs.slopes_at_rest(case)],
            scale=lambda: [size for _, size in runs.slopes_at_rest(case)],
            bound=1e-8, reason="Newton's method to rounding; decays from 1 to 1e-5",
        ),
    )  # fmt: skip

"""What decides the claims of section 7 of paper D: a change of coordinates, weight normalisation, rising margins.

Labels are absorbed in the outputs: ``f_n`` stands for ``y_n f(x_n)``. Runs are in
:mod:`companion.theory_iii.hidden_complexity_control_runs`.
"""

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, limit, together
from companion.theory_iii import hidden_complexity_control_runs as runs
from companion.theory_iii.hidden_complexity_control_runs import (
    FEW,
    Instant,
    hard,
    instants,
    late,
    paths,
    smoothed,
    supports,
    unit_vectors,
)
from normdyn.norms.margins import one_point, one_point_normalized
from normdyn.symmetry.polar import polar_velocity, sphere_velocity

ROUNDING = "rounding of sums that cancel in part; ReLU networks of two and three layers, 4 of each"
TWO_RUNS = "two integrations with a tolerance of 1e-9 a step, to times 0.2 and 0.5; one to three layers"
FOLLOWED = "integrator's tolerance of 1e-8 a step"


def projector(v: Tensor) -> Tensor:
    """S, as a matrix that acts on the flattened tensor."""
    flat = v.flatten()
    return torch.eye(len(flat), dtype=v.dtype) - torch.outer(flat, flat)


# Section 7.1: polar coordinates


@claim("D-sec7.1-relations", control={"size": 1.5})
def projector_and_slopes(case, size=1.0):
    """v is the gradient of |w|; S is a projector with one zero eigenvalue, S w = 0, dv/dw = S/rho; f scales.  D 7.1"""
    scaled = lambda: runs.scaled_vectors(case, size)
    S = lambda: runs.projectors(case, size)
    ends = torch.tensor([0.0, 1, 1, 1, 1], dtype=torch.float64)
    return together(
        length=equal(
            measured=lambda: [torch.func.grad(torch.norm)(w) for w, _ in scaled()],
            predicted=lambda: [v for _, v in scaled()],
            bound=1e-14, reason="rounding of one division; 5 vectors in five dimensions",
        ),
        spectrum=equal(
            measured=lambda: [torch.linalg.eigvalsh(P) for P in S()], predicted=lambda: [ends] * 5,
            bound=1e-13, reason="rounding of a symmetric eigenvalue problem",
        ),
        direction=equal(
            measured=lambda: [torch.func.jacrev(lambda w: w / w.norm())(w) for w, _ in scaled()],
            predicted=lambda: [P / w.norm() for P, (w, _) in zip(S(), scaled(), strict=True)],
            bound=1e-13, reason="rounding of an outer product",
        ),
        kernel=equal(
            measured=lambda: [P @ torch.stack([w, v], 1) for P, (w, v) in zip(S(), scaled(), strict=True)],
            predicted=lambda: [torch.zeros(5, 2)] * 5, scale=lambda: [w.norm() for w, _ in scaled()],
            bound=1e-13, reason="rounding, relative to the length of w",
        ),
        projector=equal(
            measured=lambda: [P @ P for P in S()], predicted=S,
            bound=1e-13, reason="rounding of a matrix product",
        ),
        slopes=equal(
            measured=lambda: [one.raw[k] for one in instants(case, size=size) for k in one.weights],
            predicted=lambda: [
                one.rho / one.lengths[k] * one.slopes[k] for one in instants(case, size=size) for k in one.weights
            ],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("D-eq31-36", control={"velocity": sphere_velocity})
def polar_form_of_the_flow(case, velocity=polar_velocity):
    """The length of a layer moves at V.dW/dt, its direction at S dW/dt / rho.  D (31), (32), (35), (36)"""
    return equal(
        measured=lambda: [part for one in instants(case) for k in one.weights for part in one.truth[k]],
        predicted=lambda: [
            part
            for one in instants(case)
            for k in one.weights
            for part in velocity(one.lengths[k], one.units[k], one.drive[k])
        ],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


@claim("D-eq33", control=[{"labelled": False}, {"biased": True}])
def lengths_move(case, labelled=True, biased=False):
    """Each length moves at (rho/rho_k) sum_n exp(-rho f~_n) f~_n, labels absorbed.  D (33)"""
    some = lambda: instants(case, labelled=labelled, biased=biased)
    return equal(
        measured=lambda: [one.truth[k][0] for one in some() for k in one.weights],
        predicted=lambda: [one.rho / one.lengths[k] * one.pull @ one.tilde for one in some() for k in one.weights],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@claim("D-eq34", control=[{"power": 1}, {"labelled": False}])
def directions_move(case, power=2, labelled=True):
    """Each direction moves at (rho/rho_k^2) sum_n exp(-rho f~_n) (I - V V') df~_n/dV.  D (34), (101)"""
    some = lambda: instants(case, labelled=labelled)
    across = lambda one, k: projector(one.units[k]) @ one.slopes[k].flatten(1).mT @ one.pull
    return equal(
        measured=lambda: [one.truth[k][1].flatten() for one in some() for k in one.weights],
        predicted=lambda: [one.rho / one.lengths[k] ** power * across(one, k) for one in some() for k in one.weights],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@claim("D-fact3", control={"system": "sphere"})
def same_dynamics(case, system="polar"):
    """The flow of the weights and the system in lengths and directions are one motion of W = rho V.  D Fact 3"""
    product = lambda one, k: one.units[k] * one.truth[k][0] + one.lengths[k] * one.truth[k][1]
    return together(
        identity=equal(
            measured=lambda: [product(one, k) for one in instants(case) for k in one.weights],
            predicted=lambda: [one.drive[k] for one in instants(case) for k in one.weights],
            bound=1e-12, reason=ROUNDING,
        ),
        paths=equal(
            measured=lambda: paths(case, system), predicted=lambda: paths(case, "plain"),
            bound=1e-8, reason=TWO_RUNS,
        ),
    )  # fmt: skip


@claim("D-reparam-endpoint", control={"system": "sphere"})
def normalised_once_at_the_end(case, system="polar"):
    """The system in lengths and directions ends at the unit vectors of the plain flow, normalised once.  D 14.5.3"""
    return equal(
        measured=lambda: [path[1:] for path in unit_vectors(case, system)],
        predicted=lambda: [path[1:] for path in unit_vectors(case, "plain")],
        bound=1e-8, reason=TWO_RUNS,
    )  # fmt: skip


# Weight normalisation is another flow


@claim("D-eq37-38", control={"power": 0})
def a_factor_of_the_squared_length(case, power=2):
    """Directions move at rho S h under weight normalisation, at S h / rho without it, lengths alike.  D (37), (38)"""
    each = lambda of: [of(one, k) for one in instants(case) for k in one.weights]
    across = lambda one, k: (projector(one.units[k]) @ one.drive[k].flatten()).reshape(one.drive[k].shape)
    return together(
        weight_normalisation=equal(
            measured=lambda: each(lambda one, k: one.normalised[k][1]),
            predicted=lambda: each(lambda one, k: one.lengths[k] ** (power - 1) * across(one, k)),
            bound=1e-12, reason=ROUNDING,
        ),
        standard=equal(
            measured=lambda: each(lambda one, k: one.truth[k][1]),
            predicted=lambda: each(lambda one, k: across(one, k) / one.lengths[k]),
            bound=1e-12, reason=ROUNDING,
        ),
        length=equal(
            measured=lambda: each(lambda one, k: one.normalised[k][0]),
            predicted=lambda: each(lambda one, k: (one.units[k] * one.drive[k]).sum()),
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("D-same-critical-points", control={"toward": 0.5})
def both_rest_where_nothing_pulls_across(case, toward=1.0):
    """Where S h = 0 in every layer both flows keep their directions; elsewhere neither does.  D section 7.1"""
    resting = lambda: runs.resting(case, toward)
    speeds = lambda flow: [flow(*one)[1] for one in resting()]
    zero = lambda: [torch.zeros_like(V) for _, V, _ in resting()]
    size = lambda: [h.norm() for _, _, h in resting()]
    why = "fixed-point iteration to rounding, relative to |h|; one and two layers, 3 of each"
    return together(
        standard=equal(measured=lambda: speeds(polar_velocity), predicted=zero, scale=size, bound=1e-9, reason=why),
        weight_normalisation=equal(
            measured=lambda: speeds(sphere_velocity), predicted=zero, scale=size, bound=1e-9, reason=why
        ),
    )


def angles_by_closed_form(case: Case) -> Tensor:
    """Directions of one point's two flows at the times of the witness, neither integrated in the plane."""
    x, start, times = runs.one_point_start(case)
    log_tan = one_point(x, start, times.log())
    log_sine = one_point_normalized(x, start, (1 + times).log())["log_sine"]
    free, ball = torch.atan(log_tan.exp()), torch.asin(log_sine.exp())
    unit = lambda angle: torch.stack([angle.cos(), angle.sin()], 1)
    return (unit(ball) - unit(free)).abs().max() / unit(free).abs().max()


def disagreement(case: Case) -> list[Tensor]:
    """The violation again: the closed form of one point; for networks, W itself moved as weight normalisation does."""
    pairs = zip(runs.seen_paths(case), unit_vectors(case, "plain"), strict=True)
    return [angles_by_closed_form(case), *((a[1:] - b[1:]).abs().max() / b[1:].abs().max() for a, b in pairs)]


@claim("D-sec7-same-unit-vector", control={"system": "polar"})
def unit_vectors_at_equal_time(case, system="sphere"):
    """The unit vector at time T is the same, whether or not |v| = 1 is enforced during the descent.  D section 7

    Witnesses: one point and one layer; networks of one to three layers. Only a change of coordinates stands.
    """
    both = lambda kind: [
        runs.one_point_units(case, kind)[1:],
        *(path[1:] for path in unit_vectors(case, kind)),
    ]
    return counterexample(
        equal(measured=lambda: both(system), predicted=lambda: both("plain"), bound=1e-7, reason=TWO_RUNS),
        exact=lambda: disagreement(case) if system == "sphere" else [torch.tensor(0.0)],
    )


@claim("O-two-limits", control={"depth": 1})
def two_flows_two_maxima(case, depth=2):
    """From one start a network's two flows can end at margins that differ by a fifth or more, and stay there.

    Two witnesses; margins are taken where the smallest output is 15, and again at 30. One linear layer is the control.
    """
    ends = lambda k, system: torch.stack(runs.descended(k, depth, system))
    gap = lambda k: (ends(k, "weight normalization") / ends(k, "gradient") - 1).abs()
    return equal(
        measured=lambda: [(gap(k) > 0.2).double() for k in runs.TWO_LIMITS],
        predicted=lambda: [torch.ones(2) for _ in runs.TWO_LIMITS],
        bound=1e-4, reason="counts; both gaps are larger than a half",
    )  # fmt: skip


@claim("D-fig1", control=[{"system": "sphere"}, {"other": "polar"}])
def three_systems(case, system="polar", other="weight normalization"):
    """Two weights, two examples: the polar system lies on the standard flow, weight normalisation not.  D Fig. 1"""
    away = lambda: (runs.figure_one(case, other) - runs.figure_one(case, "plain")).abs().amax(0)
    return together(
        coincide=equal(
            measured=lambda: runs.figure_one(case, system), predicted=lambda: runs.figure_one(case, "plain"),
            bound=1e-10, reason="two integrations with a tolerance of 1e-12 a step, to time 1000",
        ),
        elsewhere=equal(
            measured=lambda: (away() > 0.1).double(), predicted=lambda: torch.ones(2),
            bound=1e-4, reason="counts; each weight is somewhere more than 0.1 away, fixed beforehand",
        ),
    )  # fmt: skip


# Norms


@claim("D-eq42-43", control={"biased": True})
def layers_grow_alike(case, biased=False):
    """|W_k| moves at sum_n f_n exp(-f_n) / |W_k|, its square at twice the sum, whatever the layer.  D (41) to (43)"""
    some = lambda: instants(case, biased=biased)
    return together(
        norms=equal(
            measured=lambda: [one.truth[k][0] for one in some() for k in one.weights],
            predicted=lambda: [one.own @ (-one.own).exp() / one.lengths[k] for one in some() for k in one.weights],
            bound=1e-11, reason=ROUNDING,
        ),
        squares=equal(
            measured=lambda: [2 * (one.weights[k] * one.drive[k]).sum() for one in some() for k in one.weights],
            predicted=lambda: [2 * one.own @ (-one.own).exp() for one in some() for _ in one.weights],
            bound=1e-11, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("D-balanced-norms", control=[{"start": (1.0, 1.3, 0.8)}, {"biased": True}])
def equal_norms_stay_equal(case, start=(1.0, 1.0, 1.0), biased=False):
    """Layers of equal norm keep it, while all of them grow.  D section 7.1"""
    norms = lambda: runs.norms_of_three(case, start, biased)
    return equal(
        measured=lambda: [path[1:, 1:] for path in norms()], predicted=lambda: [path[1:, :1].expand(-1, 2)
        for path in norms()],
        bound=1e-9, reason="integrator's tolerance of 1e-10 a step; three layers, linear and not",
    )  # fmt: skip


@claim("D-rho-increasing", control=[{"start": "misclassifying"}, {"stop": 0.02}])
def lengths_grow_ever_slower(case, start="separating", stop=1.0):
    """Once the data are separated every length grows, and its rate tends to zero.  D section 7.1"""
    speed = lambda one: one.rates / one.rates.abs().max()
    return together(
        rising=at_most(
            left=lambda: [one.lengths[:-1] for one in runs.growing(case, start)],
            right=lambda: [one.lengths[1:] for one in runs.growing(case, start)],
            bound=1e-7, reason="integrator's tolerance of 1e-8 a step; one to three layers, 2 of each",
        ),
        slowing=limit(
            measured=lambda reach: [speed(one)[one.at(stop * reach)] for one in runs.growing(case, start)],
            predicted=lambda: [torch.zeros(one.lengths.shape[1]) for one in runs.growing(case, start)],
            scale=lambda: [torch.ones(()) for _ in runs.growing(case, start)],
            bound=1e-3, reason="the rate falls as one over time, which has grown by e^10, then by e^20",
        ),
    )  # fmt: skip


def margins_count(geometry) -> Tensor:
    return 1 / geometry.margin


def margins_ignored(geometry) -> Tensor:
    return torch.ones_like(geometry.margin)


@claim("D-rho-log-t", printed={"slope": margins_ignored})
def length_of_one_layer(case, slope=margins_count):
    """With one layer the length grows as log t over the largest margin.  D section 7.1"""
    length = lambda one, s: one.vector[one.at(s)].norm()
    return limit(
        measured=lambda r: [(length(one, 400 * r) - length(one, 200 * r)) / (200 * r) for one in late(case)],
        predicted=lambda: [slope(one) for one in runs.geometry(case)],
        bound=1e-3,
        reason="what is left at log t = 200 and 400 falls as their square; 9 data sets",
    )


# Which margin rises


def double_sum(one: Instant, m: int) -> Tensor:
    """The rate of f~_m: all samples pull, each with its own force and its own slope."""
    inner = lambda k: one.slopes[k].flatten(1) @ one.slopes[k][m].flatten() - one.tilde * one.tilde[m]
    return sum(one.rho / one.lengths[k] ** 2 * one.pull @ inner(k) for k in one.weights)


def single_sum(one: Instant, m: int) -> Tensor:
    """As printed: the one sample in the place of all others."""
    own = lambda k: one.slopes[k][m].square().sum() - one.tilde[m] ** 2
    return sum(one.rho / one.lengths[k] ** 2 * len(one.tilde) * one.pull[m] * own(k) for k in one.weights)


def rate_of_smallest(one: Instant) -> Tensor:
    """By the chain rule, of the sample with the smallest normalised margin."""
    velocity = {k: one.truth[k][1] for k in one.weights}
    return torch.func.jvp(one.f, (one.units,), (velocity,))[1][one.tilde.argmin()]


@claim("D-eq39", printed={"law": single_sum})
def rate_of_the_margin(case, law=double_sum):
    """The rate of f~ at the support vector is a sum over all samples, of products of its slope with theirs.  D (39)"""
    return equal(
        measured=lambda: [rate_of_smallest(one) for one in instants(case)],
        predicted=lambda: [law(one, int(one.tilde.argmin())) for one in instants(case)],
        bound=1e-10,
        reason=ROUNDING,
    )


def before(series: list[Tensor]) -> list[Tensor]:
    """Values at all recorded times but the last."""
    return [one[:-1] for one in series]


def after(series: list[Tensor]) -> list[Tensor]:
    """Values at all recorded times but the first."""
    return [one[1:] for one in series]


LATE = "log t from 20 to 800, fixed beforehand"


@claim("D-eq40", printed={"of": supports}, control={"since": "separation"})
def smallest_margin_rises_in_the_end(case, of=hard, since="late"):
    """From some time on the smallest normalised margin rises, in linear models and homogeneous networks.  D (40)

    Late is log t >= 20 for linear models, and the half of the run with the longer weights for networks. In the control
    it is as soon as the data are separated.
    """
    return together(
        linear=at_most(
            left=lambda: before(runs.linear_series(case, since, of)),
            right=lambda: after(runs.linear_series(case, since, of)),
            bound=1e-8, reason=f"{FOLLOWED}; 8 drawn data sets and one made up, {LATE}",
        ),
        networks=at_most(
            left=lambda: before(runs.network_series(case, since, of)),
            right=lambda: after(runs.network_series(case, since, of)),
            bound=1e-7, reason="integrator's tolerance of 1e-8 a step; two and three layers, linear or not, 2 of each",
        ),
    )  # fmt: skip


@claim("D-fact4", printed={"since": "separation"}, control=[{"value": hard}, {"stretch": 4.0}])
def all_flows_raise_the_margin(case, since="late", value=smoothed, stretch=1.0):
    """Standard flow, weight normalisation and Lagrange multipliers end at the largest margin under |v|_2 = 1.  D Fact 4

    All raise the smoothed margin from loss one on, and the smallest margin from some time on. Multipliers that keep
    |v| = 1 give the field of weight normalisation. The control asks for the largest margin under another norm.
    """
    every = lambda: [run for system in runs.FLOWS for run in late(case, system, FEW)]
    series = lambda since, value: [x for f in runs.FLOWS for x in runs.linear_series(case, since, value, f, FEW)]
    return together(
        smallest=at_most(
            left=lambda: before(series(since, hard)), right=lambda: after(series(since, hard)),
            bound=1e-8, reason=f"{FOLLOWED}; 3 data sets, {LATE}",
        ),
        smoothed=at_most(
            left=lambda: before(series("separation", value)), right=lambda: after(series("separation", value)),
            bound=1e-9, reason="integrator's tolerance of 1e-10 a step; 3 data sets, from loss one to t = 1000",
        ),
        direction=limit(
            measured=lambda reach: [runs.limit_direction(run, 100 * reach) for run in every()],
            predicted=lambda: [one.direction for _ in runs.FLOWS for one in runs.geometry(case, FEW, stretch)],
            bound=1e-3, reason="between log t = 100 and 200, and twice that; what is left falls as their square",
        ),
    )  # fmt: skip


def against_the_mean(geometry) -> Tensor:
    """b - a: what the weighted mean of -log alpha is above its least value."""
    cost = -geometry.dual.log()
    return (geometry.dual @ cost) / geometry.dual.sum() - cost.min()


def against_the_plain_mean(geometry) -> Tensor:
    """The same with equal weights."""
    cost = -geometry.dual.log()
    return cost.mean() - cost.min()


@claim("O-late-margin", control={"law": against_the_plain_mean})
def margin_comes_from_below(case, law=against_the_mean):
    """Late, the smallest margin is gamma (1 - (b - a)/log t): b the weighted mean of -log alpha_n, a its least value.

    Read off as log t over the inverse of the margin's share still missing, whose constants drop out of a difference.
    """
    inverse = lambda run, s: 1 / (1 - hard(run)[run.at(s), 0] / run.best)
    slope = lambda run, s: s / (inverse(run, 2 * s) - inverse(run, s))
    return limit(
        measured=lambda reach: [slope(run, 200 * reach) for run in late(case)],
        predicted=lambda: [law(one) for one in runs.geometry(case)],
        bound=2e-3, reason="what is left falls as the square of log t = 200; 8 drawn data sets and one made up",
    )  # fmt: skip

"""What decides the claims of section 6 of paper C: the Hessian of a normalised unit, its conditioning, flat solutions.

Runs are in :mod:`companion.normalization_geometry.hessian_runs`.
"""

import torch
from scipy.linalg import eigh
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, tendency, together
from companion.normalization_geometry import hessian_runs as runs
from companion.normalization_geometry.hessian_runs import as_drawn, filled_axis, frozen, frozen_deviation, live, plain
from companion.normalization_geometry.protocols import STARTS
from normdyn.measures.curvature import nullity
from normdyn.networks.normalizers import batch_norm

AUTOGRAD = "rounding of automatic differentiation; 5 data sets of 40 samples, 5 inputs whose deviations span a decade"

# The length


@claim("C-bn-hessian-zero-mode", control={"place": "anywhere"})
def length_is_a_null_direction(case, place="minimum"):
    """At a minimum in direction the Hessian of one normalised unit has the eigenvalue zero, with eigenvector w.  C 6.1

    The other eigenvalues are positive there. Control: weights at which the gradient is not zero.
    """
    return together(
        rest=equal(
            measured=lambda: [one.g for one in runs.units(case, place)], predicted=lambda: [torch.zeros(5)] * 5,
            scale=lambda: [one.H.norm() * one.w.norm() for one in runs.units(case, place)],
            bound=1e-12, reason=AUTOGRAD,
        ),
        null=equal(
            measured=lambda: [one.H @ one.w for one in runs.units(case, place)],
            predicted=lambda: [torch.zeros(5)] * 5,
            scale=lambda: [one.H.norm() * one.w.norm() for one in runs.units(case, place)],
            bound=1e-12, reason=AUTOGRAD,
        ),
        signs=equal(
            measured=lambda: [Tensor(nullity(one.H)[:3]) for one in runs.units(case, place)],
            predicted=lambda: [Tensor([1, 0, 4])] * 5,
            bound=1e-3, reason="zero, negative and positive eigenvalues are whole numbers",
        ),
    )  # fmt: skip


@claim("O-constant-on-rays", control={"unit": plain})
def slope_bends_the_radius(case, unit=batch_norm):
    """Of a loss constant on rays, Hw = - grad L and H(rw) = H(w)/r^2; with grad L not zero, H is indefinite.

    On the plane of w and the gradient the form has a zero on its diagonal: the depth of its lowest eigenvalue follows.
    """
    some = lambda n: runs.units(case, "anywhere", unit, n)

    def depth(one):
        beside, along = one.g.norm() / one.w.norm(), one.g @ one.H @ one.g / (one.g @ one.g)
        return ((along.square() + 4 * beside.square()).sqrt() - along) / 2

    return together(
        row=equal(
            measured=lambda: [one.H @ one.w for one in some(5)], predicted=lambda: [-one.g for one in some(5)],
            scale=lambda: [one.H.norm() * one.w.norm() for one in some(5)], bound=1e-12, reason=AUTOGRAD,
        ),
        degree=equal(
            measured=lambda: [9 * one.H for one in runs.units(case, "anywhere", unit, 5, 3.0)],
            predicted=lambda: [one.H for one in some(5)], bound=1e-11, reason=AUTOGRAD,
        ),
        depth=at_most(
            left=lambda: [depth(one) for one in some(5) + some(2)],
            right=lambda: [-torch.linalg.eigvalsh(one.H)[0] for one in some(5) + some(2)],
            scale=lambda: [one.H.norm() for one in some(5) + some(2)],
            bound=1e-10, reason=AUTOGRAD + ", and 5 of 2 inputs, where both sides are one",
        ),
    )  # fmt: skip


# What freezing the statistics leaves out


def product(X: Tensor, w: Tensor) -> Tensor:
    return X @ w


def length(X: Tensor, w: Tensor) -> Tensor:
    return w.norm()


@claim("C-orthogonal-perturbation", control={"quantity": length})
def turning_changes_nothing_at_first(case, quantity=product):
    """Turning w leaves w.x unchanged to first order. It does not: w.x moves at v.x. Control: the length of w.  C 6.1"""
    size = lambda X, w: (X.square().mean() * (w @ w)).sqrt()

    def rate(X, w, v):
        turned = lambda t: quantity(X, w * t.cos() + v * t.sin())
        return torch.func.jacfwd(turned)(torch.zeros((), dtype=w.dtype)).abs().max() / size(X, w)

    return counterexample(
        equal(
            measured=lambda: [rate(*one) for one in runs.turns(case)], predicted=lambda: [0.0] * 5,
            bound=1e-6, reason="rounding; the largest rate of 40 samples, in units of their size",
        ),
        exact=lambda: torch.stack([(X @ v).abs().max() / size(X, w) for X, w, v in runs.turns(case)]).min(),
        right_angle=equal(
            measured=lambda: [w @ v for _, w, v in runs.turns(case)], predicted=lambda: [0.0] * 5,
            scale=lambda: [w @ w for _, w, _ in runs.turns(case)], bound=1e-14, reason="rounding",
        ),
    )  # fmt: skip


@claim("C-frozen-stats", control={"statistics": (live,)})
def frozen_statistics_are_faithful(case, statistics=(frozen_deviation, frozen)):
    """With statistics held constant the slopes of a unit's outputs are orthogonal to w, as with live ones.  C 6.1

    They are not: at a solution the mean square of their products with w, w'Hw, is one or more. Control: live ones.
    """
    some = lambda: [one for kind in statistics for one in runs.at_solutions(case, kind)]

    def by_hand():
        own = [((one.X - one.X.mean(0)) @ one.w).square().mean() for one in some()]
        return torch.stack([v / (one.X @ one.w).var(correction=0) for v, one in zip(own, some(), strict=True)]).min()

    return counterexample(
        equal(
            measured=lambda: [one.w @ one.H @ one.w for one in some()], predicted=lambda: [0.0] * len(some()),
            bound=1e-10, reason="rounding; 5 batches of 40 samples of 5 inputs and 5 of 6 samples of 8",
        ),
        exact=by_hand,
        solved=equal(
            measured=lambda: [one.g for one in some()], predicted=lambda: [torch.zeros_like(one.g) for one in some()],
            scale=lambda: [one.H.norm() * one.w.norm() for one in some()], bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


# Two Hessians in closed form


def second_moment(X: Tensor) -> Tensor:
    return X.mT @ X / len(X)


def covariance(X: Tensor) -> Tensor:
    return torch.cov(X.mT, correction=0)


@claim("C-nobn-hessian-covariance", printed={"moment": covariance})
def hessian_of_a_linear_unit(case, moment=second_moment):
    """The Hessian of a linear unit is the second moment of its inputs; the covariance is what a bias leaves of it.

    Printed: the covariance, for a unit without a bias.  C 6.1
    """
    joint = lambda H: H[:-1, :-1] - torch.outer(H[:-1, -1], H[-1, :-1]) / H[-1, -1]
    return together(
        without=equal(
            measured=lambda: [H for _, H, _ in runs.linear_units(case)],
            predicted=lambda: [moment(X) for X, _, _ in runs.linear_units(case)],
            bound=1e-12, reason=AUTOGRAD,
        ),
        eliminated=equal(
            measured=lambda: [joint(H) for *_, H in runs.linear_units(case)],
            predicted=lambda: [covariance(X) for X, *_ in runs.linear_units(case)],
            bound=1e-12, reason=AUTOGRAD,
        ),
    )  # fmt: skip


@claim("C-bn-hessian-closed-form", control={"white": True})
def curvature_of_normalised_inputs(case, white=False):
    """Across w the Hessian at a minimum is the covariance of normalised inputs, up to a factor, or the identity.

    It is neither: what is near the identity is the output, and the inputs' covariance remains. Control: white inputs,
    of which it is true and where nothing was to be improved.  C 6.1
    """
    some = lambda: runs.units(case, white=white)
    across = lambda w: torch.eye(len(w), dtype=w.dtype) - torch.outer(w, w) / (w @ w)
    shape = lambda M, w: across(w) @ M @ across(w) / (across(w) @ M).trace()
    tangent = lambda one: shape(torch.eye(5, dtype=one.w.dtype), one.w)
    correlations = lambda one: shape(torch.corrcoef(one.X.mT), one.w)

    def by_hand():
        C = lambda one: torch.cov(one.X.mT, correction=0)
        form = lambda one: C(one) - torch.outer(C(one) @ one.w, C(one) @ one.w) / (one.w @ C(one) @ one.w)
        gap = lambda one, printed: (shape(form(one), one.w) - printed).abs().max() / printed.abs().max()
        return torch.stack([gap(one, printed(one)) for one in some() for printed in (correlations, tangent)]).min()

    return counterexample(
        equal(
            measured=lambda: [one.H / one.H.trace() for one in some() for _ in range(2)],
            predicted=lambda: [printed(one) for one in some() for printed in (correlations, tangent)],
            bound=1e-5, reason="rounding; 5 data sets, each matrix by its trace across w",
        ),
        exact=by_hand,
        rest=equal(
            measured=lambda: [one.g for one in some()], predicted=lambda: [torch.zeros(5)] * 5,
            scale=lambda: [one.H.norm() * one.w.norm() for one in some()], bound=1e-11, reason="rounding",
        ),
    )  # fmt: skip


@claim("O-unit-hessian", control=[{"place": "anywhere"}, {"statistics": frozen_deviation}])
def covariance_less_one_rank(case, place="minimum", statistics=live):
    """At the minimum H = rho/s^2 (C - Cww'C/w'Cw), for any targets; per unit of the data norm all but one are equal.

    Where targets are met its rank is min(n - 1, m - 2), one less than with constant statistics.
    """
    C, s2 = lambda one: covariance(one.X), lambda one: (one.X @ one.w).var(correction=0)
    explained = lambda one: torch.linalg.lstsq(one.X - one.X.mean(0), one.y[:, None])[0][:, 0]
    rho = lambda one: ((one.X - one.X.mean(0)) @ explained(one)).square().mean().sqrt()
    less = lambda one: C(one) - torch.outer(C(one) @ one.w, C(one) @ one.w) / (one.w @ C(one) @ one.w)
    return together(
        form=equal(
            measured=lambda: [one.H for one in runs.units(case, place)],
            predicted=lambda: [rho(one) / s2(one) * less(one) for one in runs.units(case, place)],
            bound=1e-10, reason=AUTOGRAD,
        ),
        one_value=equal(
            measured=lambda: [
                torch.from_numpy(eigh(one.H.numpy(), C(one).numpy(), eigvals_only=True)) * s2(one)
                for one in runs.units(case, place)
            ],
            predicted=lambda: [rho(one) * torch.tensor([0.0, 1, 1, 1, 1]).double() for one in runs.units(case, place)],
            bound=1e-9, reason="rounding times the condition number of the covariance, some hundreds",
        ),
        ranks=equal(
            measured=lambda: [float(nullity(one.H).positive) for one in runs.at_solutions(case, statistics)],
            predicted=lambda: [float(min(n - 1, m - 2)) for m, n in 5 * [(40, 5)] + 5 * [(6, 8)]],
            bound=1e-3, reason="whole numbers",
        ),
    )  # fmt: skip


# Conditioning

ORDER = "rounding times the condition number, at most 1e5; 1800 data sets and two examples"


def with_bias(rows: Tensor) -> Tensor:
    return rows[:, 2]


def without_bias(rows: Tensor) -> Tensor:
    return rows[:, 3]


def of_covariance(rows: Tensor) -> Tensor:
    return rows[:, 1]


def trimmed(rows: Tensor) -> Tensor:
    """The second largest over the second smallest eigenvalue of the covariance."""
    return rows[:, 4]


@claim("O-unit-conditioning", control=[{"rival": without_bias}, {"raw": trimmed}, {"least": of_covariance}])
def never_worse_than_with_a_bias(case, rival=with_bias, raw=of_covariance, least=trimmed):
    """At a solution lambda_2/lambda_(n-1) <= kappa_BN <= kappa(C) <= kappa of a unit with a bias, and kappa_w too.

    Controls: a unit without a bias, which can be the better one by any factor; and bounds in each other's place.
    """
    every = lambda: [*runs.unit_conditions(case, as_drawn).values(), runs.two_examples(case)]
    return together(
        below=at_most(
            left=lambda: [least(rows) for rows in every()], right=lambda: [rows[:, 0] for rows in every()],
            bound=1e-8, reason=ORDER,
        ),
        above=at_most(
            left=lambda: [rows[:, 0] for rows in every()], right=lambda: [raw(rows) for rows in every()],
            bound=1e-8, reason=ORDER,
        ),
        bias=at_most(
            left=lambda: [column for rows in every() for column in (rows[:, 1], rows[:, 3])],
            right=lambda: [rival(rows) for rows in every() for _ in range(2)],
            bound=1e-8, reason=ORDER,
        ),
        examples=equal(
            measured=lambda: runs.two_examples(case)[:, [0, 3]],
            predicted=lambda: torch.tensor([[1.0, 100.0], [100.0, 1.0]], dtype=torch.float64),
            bound=1e-8, reason=ORDER, each=True,
        ),
    )  # fmt: skip


@claim("C-conditioning-interlacing", control={"mean": filled_axis})
def conditioning_improves(case, mean=as_drawn):
    """With zero modes left out, normalisation tends to lower the condition number: one unit, and hidden layers.

    Decades, over inputs with three sizes of mean; units on two spectra, tanh layers at three lengths of their rows.
    Control: units whose inputs have their mean along the weakest direction.  C 6.1
    """
    better = lambda rows: (rows[:, 3] / rows[:, 0]).log10()
    layered = lambda shift, size: (lambda rows: (rows[:, 0] / rows[:, 1]).log10())(
        runs.layer_conditions(case, shift, size)
    )
    return tendency(
        effect=lambda: [
            *(better(rows) for rows in runs.unit_conditions(case, mean).values()),
            *(layered(shift, size) for shift in runs.SHIFTS for size in STARTS.values()),
        ],
        reason="cells fixed before looking; 300 data sets a cell of units, 60 of layers, at points that meet targets",
    )


# Flat solutions


@claim(
    "C-summary-flatness",
    control={"activations": ("relu",), "longer": 10.0},
    untrained={"steps": 0},
    longer={"steps": 1400, "level": 0.005},
)
def solutions_are_flatter(case, activations=("relu", "tanh"), longer=1.0, steps=700, level=0.01):
    """Solutions found with batch normalisation tend to have a smaller largest curvature.  C 6, 8

    Decades at one loss, by activation, optimiser and start. With a tanh it is the other way round. Control, where it
    stands: ReLUs, the rows of the normalised layers ten times as long, with the same outputs.
    """
    return tendency(
        effect=lambda: [
            row for kind in activations for optimiser in runs.RATES
            for row in runs.flatness(case, kind, optimiser, steps, level, longer)
        ],
        reason="two activations, two optimisers, three starts; 8 seeds, each at its first step at a loss of 0.01",
    )  # fmt: skip

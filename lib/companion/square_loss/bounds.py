"""What decides section 4 and appendix F of paper B: bounds with the ramp loss, their scale, and leaving one out.

Runs are in :mod:`companion.square_loss.bounds_runs`.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, together
from companion.square_loss import bounds_runs as runs
from companion.square_loss.bounds_runs import Layers
from companion.theory_iii.margins_and_bounds_runs import memoriser
from normdyn.networks.graphs import mlp

DELTAS = torch.tensor([0.5, 0.2, 0.05], dtype=torch.float64)
SIZES = (5, 20, 60, 200)
DOMAINS = (60, 2000)
CELLS = [(points, samples) for points in DOMAINS for samples in SIZES]
QUANTILE = "a quantile of 400 trials; fractions of one half, a fifth and a twentieth, 5 to 200 samples"


def confidence(samples: int) -> Tensor:
    """The last term of the bounds, without its constant."""
    return ((1 / DELTAS).log() / (2 * samples)).sqrt()


def reached(values: Tensor) -> Tensor:
    """What all but a fraction of the trials stay below."""
    return torch.quantile(values, 1 - DELTAS)


# The ramp loss

GRID = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
WIDTHS = (0.1, 0.5, 1.0, 2.0)


def ramp(margin: Tensor, width: float) -> Tensor:
    """One below margin zero, none beyond the width, linear between."""
    return (1 - margin / width).clamp(0, 1)


def centred(margin: Tensor, width: float) -> Tensor:
    """A ramp that is one half at margin zero."""
    return (0.5 - margin / width).clamp(0, 1)


@claim("B-ramp", printed={"excess": 1e-6}, control={"loss": centred})
def error_lies_below_the_ramp(case, loss=ramp, excess=0.0):
    """The 0-1 loss, which counts a margin of zero, is never above the ramp loss, whose Lipschitz constant is 1/gamma.

    Printed: strictly below it, by a millionth say. Control: a ramp around zero.
    """
    return together(
        below=at_most(
            left=lambda: [(GRID <= 0).double() + excess for _ in WIDTHS],
            right=lambda: [loss(GRID, width) for width in WIDTHS],
            scale=lambda: [1.0 for _ in WIDTHS],
            bound=1e-12, reason="exact values; 60,001 margins from -3 to 3, zero among them; four widths",
        ),
        steep=equal(
            measured=lambda: [loss(GRID, width).diff().abs().amax() / GRID.diff()[0] for width in WIDTHS],
            predicted=lambda: [1 / width for width in WIDTHS],
            bound=1e-8, reason="differences of neighbouring margins, which lie 1e-4 apart",
        ),
    )  # fmt: skip


# Uniform bounds


@claim("B-eq41", control=[{"c1": 0.0}, {"c1": 1.0}, {"width_matters": False}])
def uniform_bound(case, c1=2.0, c2=5.2, width_matters=True):
    """|L - L^| <= c1 R_N + c2 sqrt(ln(1/delta)/2N) for all members, in all but a fraction delta of the samples.

    c1 is 2 over gamma and c2 = 3 sqrt(3) for delta up to one half, with R_N that of the sample. Classes whose worst
    member is known: all functions on a domain with the values 0 and gamma times the label. Controls: no complexity;
    half of it; two for any gamma.
    """
    widths = (0.2, 1.0)
    cells = [(width, *cell) for width in widths for cell in CELLS]
    weight = lambda width: c1 / width if width_matters else c1
    term = lambda width, one: weight(width) * width * one.averages / 2  # two values, 0 and gamma, for -1 and 1
    runs_of = lambda: [(term(width, memoriser(case, *cell)), memoriser(case, *cell)) for width, *cell in cells]
    return at_most(
        left=lambda: [reached(one.gaps - own) + own.mean() for own, one in runs_of()],
        right=lambda: [own.mean() + c2 * confidence(one.samples) for own, one in runs_of()],
        bound=0.02, reason=QUANTILE, margin=10.0,
    )  # fmt: skip


@claim("B-obs3", control=[{"power": 0.5}, {"c1": 0.0}])
def norm_bounds_the_error(case, c1=2.0, c2=1.0, power=1.0):
    """An interpolant of norm rho errs by at most c1 rho R_N + c2 sqrt(ln(1/delta)/2N), R_N of normalised networks.

    Classes of interpolants whose worst member is known, with the norms 1, 4 and 25: normalised functions have the
    values 0 and 1/rho, and what is unseen may be wrong. R_N is averaged over samples. Controls: the root of rho; no
    complexity.
    """
    cells = [(rho, *cell) for rho in (1.0, 4.0, 25.0) for cell in CELLS]
    normalised = lambda rho, one: one.averages.mean() / (2 * rho)
    return at_most(
        left=lambda: [reached(memoriser(case, *cell).unseen) for _, *cell in cells],
        right=lambda: [c1 * rho**power * normalised(rho, memoriser(case, *cell)) + c2 * confidence(cell[1])
                       for rho, *cell in cells],
        bound=0.02, reason=QUANTILE, margin=10.0,
    )  # fmt: skip


# Homogeneity

PAIRS = ((2.0, 3.0), (0.1, 7.0), (50.0, 50.0))


@claim("B-eq42", control={"bias": 0.5})
def complexity_scales_with_the_product(case, bias=0.0):
    """The Rademacher average of networks with layers of norms rho_1, rho_2 is rho_1 rho_2 times that of unit ones.

    Two ReLU layers in the plane: a search over networks of these norms against an exact one over unit ones. Control: a
    hidden bias of fixed size.
    """
    return equal(
        measured=lambda: [runs.searched(case, norms, bias) for norms in PAIRS],
        predicted=lambda: [math.prod(norms) * runs.exact(case, bias) for norms in PAIRS],
        bound=1e-7, reason="a search over angles that resolves 1e-9; 60 draws of signs on 12 points",
    )  # fmt: skip


def first(norms: tuple[float, ...]) -> float:
    return norms[0]


@claim("B-eq43", control=[{"stretch": 0.5}, {"order": first}, {"bias": 0.5}])
def shorter_interpolants_have_better_bounds(case, stretch=1.0, order=math.prod, bias=0.0):
    """Of two interpolants the one with the smaller rho has the smaller bound: their other terms are the same.

    The ramp losses of interpolants are those of margin one; g and f = g / rho make the same errors; the complexity
    grows with the product of norms. Controls: no interpolants; the norm of the first layer for rho; hidden biases.
    """
    pairs = lambda: sorted([*PAIRS, (4.0, 1.0), (0.5, 9.0)], key=order)
    errors = lambda layers, X: (mlp(layers.weights, X, biases=layers.biases)[:, 0] > 0).double()
    return together(
        ramps=equal(
            measured=lambda: [
                ramp(one, width).mean() for one in runs.interpolants(case, stretch) for width in (0.7, 2.0)
            ],
            predicted=lambda: [max(0.0, 1 - 1 / width) for _ in range(18) for width in (0.7, 2.0)],
            scale=lambda: [1.0 for _ in range(36)],
            bound=1e-9, reason="rounding of 18 interpolants from different starts; widths 0.7 and 2",
        ),
        errors=equal(
            measured=lambda: [errors(one, runs.inputs(case)) for one in runs.networks(case, bias)],
            predicted=lambda: [errors(normalised(one), runs.inputs(case)) for one in runs.networks(case, bias)],
            bound=1e-9, reason="labels, compared one by one; 5 ReLU networks, 500 inputs",
        ),
        order=at_most(
            left=lambda: [runs.searched(case, norms, 0.0) for norms in pairs()[:-1]],
            right=lambda: [runs.searched(case, norms, 0.0) for norms in pairs()[1:]],
            bound=1e-7, reason="a search over angles that resolves 1e-9; five classes of two ReLU layers",
        ),
    )  # fmt: skip


def normalised(layers: Layers) -> Layers:
    """Layers of norm one, biases as they are."""
    return layers._replace(weights=[W / W.norm() for W in layers.weights])


# Leaving one out


@claim("B-obs3-stable", control={"start": "random"})
def shortest_interpolant_is_most_stable(case, start="informed"):
    """No interpolant has a smaller error on samples that are left out than the shortest one.  It is not so.

    Random ReLU features of two digits; gradient flow from the ridge solution of other samples. Control: the mean over
    starts and their negatives, which know nothing.
    """
    trial = lambda: runs.digits_task(case)
    return counterexample(
        at_most(
            left=lambda: [runs.left_out(case, "zero")], right=lambda: [runs.left_out(case, start)],
            bound=1e-6, reason="rounding of a kernel matrix of 60 samples",
        ),
        interpolates=equal(
            measured=lambda: [runs.margins(trial(), u) for u in runs.starts(case, start)],
            predicted=lambda: [1.0 for _ in runs.starts(case, start)],
            bound=1e-8, reason="rounding of a pseudoinverse",
        ),
        longer=at_most(
            left=lambda: [runs.least_length(trial())],
            right=lambda: [runs.length(trial(), u) for u in runs.starts(case, start)[:1]],
            bound=1e-9, reason="an exact inequality; rounding",
        ),
        exact=lambda: [runs.refitted(case, "zero") / runs.refitted(case, start) - 1],
    )  # fmt: skip

"""What decides section 3 of paper B: where the length can stop, how many minima there are, and Figures 1 to 5.

Runs are in :mod:`companion.square_loss.batch_normalization_and_decay_runs`.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, equal, tendency, together
from companion.square_loss import batch_normalization_and_decay_runs as runs
from companion.square_loss import unnormalized
from companion.square_loss.unnormalized_runs import images

ROOT = "tolerance of the root finder"

# Where the length can stop


@claim("B-eq9", control={"fits": False})
def no_small_critical_length(case, fits=True):
    """Critical rho obey sum y f = rho (lambda + sum f^2), and with a loss close to zero are not small.  B (9)

    At a mean square loss of at most 0.01 they are 0.9 over the largest |f| or more. Control: a loss far from zero.
    """
    some = lambda: runs.fitting(case, fits)
    return together(
        equation=equal(
            measured=lambda: [one.m.sum() for one in some()],
            predicted=lambda: [one.rho * (one.decay + one.m.square().sum()) for one in some()],
            bound=1e-10, reason=f"{ROOT}; 9 sets of 20 outputs, with decay and without",
        ),
        not_small=at_most(
            left=lambda: [1 - runs.CLOSE**0.5 for _ in some()],
            right=lambda: [one.rho * one.m.abs().max() for one in some()],
            scale=lambda: [1.0 for _ in some()],
            bound=1e-9, reason=f"an exact inequality; {ROOT}",
        ),
    )  # fmt: skip


@claim("B-fn6", printed={"least": -1.0}, control={"decay": 30.0})
def length_one_is_the_least(case, least=0.0, decay=0.0):
    """Without decay and with 0 <= y f <= 1, critical rho are at least one, and one for values 0 and 1 only.  B fn. 6

    Their excess is sum m (1 - m)/sum m^2, m = y f. Printed: samples may lie on the wrong side. Control: decay.
    """
    some = lambda: runs.drawn_lengths(case, least, decay)
    return together(
        least=at_most(
            left=lambda: [1.0 for _ in some()], right=lambda: [one.rho for one in some()],
            scale=lambda: [1.0 for _ in some()], bound=1e-10, reason=f"{ROOT}; 12 sets of 20 outputs",
        ),
        excess=equal(
            measured=lambda: [one.rho - 1 for one in some()],
            predicted=lambda: [(one.m * (1 - one.m)).sum() / one.m.square().sum() for one in some()],
            scale=lambda: [1.0 for _ in some()], bound=1e-10, reason=f"{ROOT}; 12 sets, three of zeros and ones",
        ),
    )  # fmt: skip


def by_squares(m: Tensor) -> Tensor:
    return m.square()


def alike(m: Tensor) -> Tensor:
    return torch.ones_like(m)


@claim("B-fn9-sparse", printed={"least": -1.0, "weights": alike})
def small_length_is_zero_or_one(case, least=0.0, weights=by_squares):
    """For 0 <= y f <= 1 and no decay rho - 1 is a mean distance of outputs from 0 and 1; rho is a mean of 1/(y f).

    Both with weights f^2. Printed: weights alike, and samples on the wrong side.  B footnote 9
    """
    some = lambda: runs.drawn_lengths(case, least)
    seen = lambda m: m[m != 0]
    mean = lambda m, values: (weights(m) * values).sum() / weights(m).sum()
    return together(
        distance=equal(
            measured=lambda: [one.rho - 1 for one in some()],
            predicted=lambda: [(one.m.abs() * (1 - one.m).abs()).sum() / one.m.square().sum() for one in some()],
            scale=lambda: [1.0 for _ in some()], bound=1e-10, reason=f"{ROOT}; 12 sets, three of zeros and ones",
        ),
        inverse=equal(
            measured=lambda: [one.rho for one in some()],
            predicted=lambda: [mean(seen(one.m), 1 / seen(one.m)) for one in some()],
            bound=1e-10, reason=f"{ROOT}; outputs of zero have no weight",
        ),
    )  # fmt: skip


def largest_trained(case, k: int) -> Tensor:
    """Largest |f| of networks trained without normalisation, from one of three scales; one entry a draw."""
    return unnormalized.end_of(case, k, 0.0).normalised()[-1].abs().amax(1)


@claim("B-small-f", control={"drawn": False})
def outputs_are_far_below_one(case, drawn=True):
    """Outputs of normalised networks are usually far below one: a tenth or less.  B section 3

    Drawn networks of 3, 4 and 6 layers, 20 draws, and four layers trained on digits. Control: aligned layers.
    """
    random = lambda: [runs.largest_outputs(case, L, width, drawn) for L in (3, 4, 6) for width in (16, 64)]
    trained = lambda: [largest_trained(case, k) for k in range(3)]
    return tendency(
        effect=lambda: [math.log(0.1) - f.log() for f in [*random(), *trained()]],
        reason="6 shapes with 20 draws, 3 scales of trained layers with 5; a tenth was set beforehand",
    )


# Many solutions


@claim("B-many-minima-large-rho", control=[{"width": 8}, {"draws": (0, 0, 0)}, {"size": 1000.0}])
def many_interpolants_none_small(case, width=60, draws=(0, 1, 2), size=1.0):
    """The last layer interpolates over any random hidden layers, each draw another function; none has a small rho.

    For unit inputs and labels +-1 rho is at least one, and at least 2 over the distance of the nearest two samples with
    different labels. Controls: 8 features for 20 samples; one draw twice; longer inputs.  B section 3
    """
    some = lambda: [runs.last_layer(case, k, width, size) for k in draws]
    floor = lambda X, y: max(1.0, 2 / runs.nearest(X, y).item())
    trained = lambda: [unnormalized.end_of(case, k, 0.0).rho[-1].min() for k in range(3)]
    return together(
        interpolate=equal(
            measured=lambda: [one.g for one in some()], predicted=lambda: [one.y for one in some()],
            bound=1e-8, reason="rounding of least squares; 3 draws, 60 features for 20 samples",
        ),
        differ=at_most(
            left=lambda: [0.1 for _ in draws[1:]],
            right=lambda: [(one.probe - some()[0].probe).norm() / one.probe.norm() for one in some()[1:]],
            scale=lambda: [1.0 for _ in draws[1:]], bound=1e-9, reason="a tenth at 30 other inputs, fixed beforehand",
        ),
        not_small=at_most(
            left=lambda: [1.0, *(floor(one.X, one.y) for one in some()), *[floor(*images(case)) for _ in range(3)]],
            right=lambda: [aligned(case), *(one.rho for one in some()), *trained()],
            scale=lambda: [1.0 for _ in range(4 + len(draws))],
            bound=1e-9, reason="an exact inequality; an aligned network, 3 last layers, 3 scales of trained layers",
        ),
    )  # fmt: skip


def aligned(case) -> Tensor:
    """Product of norms of a network of rank one that interpolates one sample."""
    layers, x = runs.chain_of_rank_one(case, (6, 8, 8, 1))
    return 1 / runs.normalised_outputs(layers, x)[0]


def by_output(one: runs.Steps) -> Tensor:
    return (one.ell * one.g).abs()


def residual_alone(one: runs.Steps) -> Tensor:
    return one.ell.abs()


@claim("B-fn8-sgd", printed={"held": residual_alone}, control={"samples": 3})
def single_samples_stop_at_zero(case, held=by_output, samples=12):
    """Steps with one sample vanish for all samples only where every residual does, if no output is zero.  B fn. 8

    |l_n g_n| <= |W_k| |l_n dg_n/dW_k|. At another critical point of descent it rests, and SGD wanders. Printed: without
    outputs; one network is switched off. Control: so few samples that the residuals vanish.
    """
    pairs = lambda: [(one, W, S) for one in runs.networks(case) for W, S in zip(one.W, one.slopes, strict=True)]
    return together(
        stops=at_most(
            left=lambda: [held(one) for one, *_ in pairs()],
            right=lambda: [W.norm() * (one.ell[:, None, None] * S).flatten(1).norm(dim=1) for one, W, S in pairs()],
            scale=lambda: [1.0 for _ in pairs()],
            bound=1e-11, reason="rounding; 6 networks of 4 layers, one of them switched off",
        ),
        descent_rests=equal(
            measured=lambda: [S for one in runs.wandering(case, samples) for S in one.gradient],
            predicted=lambda: [0.0 for one in runs.wandering(case, samples) for _ in one.gradient],
            scale=lambda: [1.0 + size for one in runs.wandering(case, samples) for size in one.terms],
            bound=1e-12, reason="rounding of least squares; 3 networks of two linear layers",
        ),
        sgd_wanders=at_most(
            left=lambda: [0.01 for _ in runs.wandering(case, samples)],
            right=lambda: [one.moved for one in runs.wandering(case, samples)],
            scale=lambda: [1.0 for _ in runs.wandering(case, samples)],
            bound=1e-6, reason="a hundredth of the weights, fixed beforehand; the last 500 of 4000 steps",
        ),
    )  # fmt: skip


# Large decay


@claim("B-large-lambda", control={"decays": (0.0,)}, untrained={"steps": 1}, longer={"steps": 3000})
def large_decay_forgets_the_length(case, decays=(0.3, 1.0), steps=1500):
    """Large decay leaves less than half of the spread of rho_eq that starts of length 1, 3 and 20 leave without it.

    ReLU networks of two and three layers, 48 and 24 wide; ten data sets. Control: no decay.  B 1.2, 3 and E.1
    """
    shapes = ((2, 48), (3, 24))
    spread = lambda shape, decay: (lambda r: r.amax(1) - r.amin(1))(
        runs.from_three_lengths(case, *shape, decay, steps).log()
    )
    return tendency(
        effect=lambda: [1 - spread(shape, decay) / spread(shape, 0.0) for shape in shapes for decay in decays],
        least=0.5, reason="2 depths, 2 decays, 10 data sets, three starts each; the half was fixed beforehand",
    )  # fmt: skip


@claim("O-one-unit-two-limits", control={"activation": torch.positive})
def one_unit_has_two_limits(case, activation=torch.relu):
    """One ReLU unit, three samples at e_1 and one at -e_1, labels one: rho ends at 3/(lambda + 3) or 1/(lambda + 1).

    From either side, at any decay. Control: a linear unit.
    """
    decays = (0.1, 1.0, 10.0)
    return equal(
        measured=lambda: [torch.stack(runs.two_sides(decay, activation)) for decay in decays],
        predicted=lambda: [torch.tensor([3 / (decay + 3), 1 / (decay + 1)]) for decay in decays],
        each=True, bound=1e-6, reason="integrator's tolerance of 1e-9 a step, to time 100; three decays",
    )  # fmt: skip


# Figures 1 to 5: four normalised layers from norms 0.1, 1 and 5, on digits and, stored, on CIFAR-10

BOTH = "3 starts, 8 seeds on digits, 5 on images, the median of the last ten records"
FORGOTTEN = 0.2  # share of a difference between starts that may be left
BEFORE = {"when": "first"}


@claim("B-fig1", printed={"decay": 0.0}, control=BEFORE, untrained=BEFORE, longer={"epochs": 600})
def it_trains_and_forgets(case, decay=0.01, when="late", epochs=0):
    """With normalisation and decay 0.01 the loss falls below a tenth from all three starts, and rho forgets them.

    Printed: no decay, as the caption also says. Control: before training.  B Fig. 1
    """
    some = lambda: runs.both(case, decay, epochs)
    return together(
        trains=tendency(
            effect=lambda: [math.log(0.1) - row.log() for one in some() for row in runs.late(one.loss, when)],
            reason=f"{BOTH}; a tenth of the loss of predicting nothing, set when the images' losses were known",
        ),
        forgets=tendency(
            effect=lambda: [FORGOTTEN - left for one in some() for left in runs.left_of_the_start(one.rho, when)],
            reason=f"{BOTH}; a fifth of the difference of two logarithms",
        ),
    )  # fmt: skip


@claim("B-fig2", control=[{"decay": 0.0}, BEFORE], untrained=BEFORE, longer={"epochs": 600})
def rho_forgets_its_start(case, decay=0.01, when="late", epochs=0):
    """With normalisation and decay rho ends near one value from starts up to six decades apart. Control: no decay.

    B Fig. 2
    """
    return tendency(
        effect=lambda: [FORGOTTEN - left for one in runs.both(case, decay, epochs)
                        for left in runs.left_of_the_start(one.rho, when)],
        reason=f"{BOTH}; of the difference of two logarithms a fifth may be left",
    )  # fmt: skip


@claim("B-fig3", control=[{"decay": 0.0}, BEFORE], untrained=BEFORE, longer={"epochs": 600})
def outputs_forget_it_too(case, decay=0.01, when="late", epochs=0):
    """With normalisation and decay the mean of |f_n| ends near one value from all starts. Control: no decay.  B Fig. 3

    Differences are measured against those of 1/rho at the start.
    """
    begin = lambda one: (one.rho[0].log().diff(dim=0)).abs()
    ends = lambda one: runs.late(one.size.log(), when).diff(dim=0).abs()
    return tendency(
        effect=lambda: [FORGOTTEN - left for one in runs.both(case, decay, epochs) for left in ends(one) / begin(one)],
        reason=f"{BOTH}; a fifth of the difference of two logarithms",
    )


@claim("B-fig4", control=BEFORE, untrained=BEFORE, longer={"epochs": 600})
def ratio_comes_to_rho(case, decay=0.01, when="late", epochs=0):
    """The ratio of sum y f to sum f^2 comes within a tenth of rho, from all three starts. Control: before training.

    B Fig. 4
    """
    off = lambda one: (runs.late(one.ratio, when) - 1).abs()
    return tendency(
        effect=lambda: [0.1 - row for one in runs.both(case, decay, epochs) for row in off(one)],
        reason=f"{BOTH}; a tenth, set when the images' ratios were known",
    )


@claim("B-fig5", control=BEFORE, untrained=BEFORE, longer={"epochs": 600})
def margins_gather(case, decay=0.01, when="late", epochs=0):
    """Eight margins of ten lie within a factor of two of one another, from all three starts. Control: before training.

    B Fig. 5
    """
    return tendency(
        effect=lambda: [1 / 3 - row for one in runs.both(case, decay, epochs) for row in runs.late(one.spread, when)],
        reason=f"{BOTH}; the factor was set when the images' margins were known",
    )


@claim("B-init-dependence", control={"decay": 0.0}, untrained=BEFORE, longer={"epochs": 600})
def only_both_forget(case, decay=0.01, when="late", epochs=0):
    """The final rho spreads more over the starts without decay, or with neither, than with both: twice or more.

    Digits and images without decay, digits without normalisation too. Control: decay is off everywhere.  B section 3
    """
    reach = lambda decay: [runs.reach(one.rho, when) for one in runs.both(case, decay, epochs)]
    neither = lambda: runs.reach(runs.on_digits(case, 0.0, epochs, True).rho, when)
    return tendency(
        effect=lambda: [
            *(other - own for other, own in zip(reach(0.0), reach(decay), strict=True)),
            neither() - reach(decay)[0] if decay else reach(0.0)[0] - reach(0.0)[0],
        ],
        least=math.log(2),
        reason="2 ways to leave one out, 8 seeds on digits, 5 on images; a factor of two",
    )  # fmt: skip

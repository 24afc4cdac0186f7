"""Experiment 3 of paper C: margins and noise on weights, with and without batch normalisation, over ways to train."""

import torch
from torch.nn.functional import softplus

from claimbook.evidence import at_most, claim, equal, limit, tendency, together
from companion.normalization_geometry import margins_and_initialization_runs as runs
from companion.normalization_geometry.margins_and_initialization_runs import CELLS, SIZES, WAYS
from normdyn.measures.robustness import tolerance

OVER = "72 cells: 3 starts, 3 optimisers with 2 steps each, 4 stopping rules; up to 10 pairs each that have fitted"


def both(case, way, stop, quantity, **normalised):
    """A quantity of the networks of a cell whose pairs have fitted, with and without normalisation."""
    kept = runs.fitted(case, way, stop)
    return quantity(case, way, stop, True, **normalised)[..., kept], quantity(case, way, stop, False)[..., kept]


def mean_margin(case, way, stop, normalised, stretch=1.0):
    return stretch * runs.margins(case, way, stop, normalised).mean(1)


@claim("C-exp3-accuracy", control=[{"rectified": False}, {"samples": 45}])
def both_fit(case, rectified=True, samples=300):
    """Both networks reach full training accuracy on classes that no hyperplane separates.  C 8, experiment 3

    Controls: the same networks with the identity for the rectifier; 45 points in 50 dimensions.
    """
    reached = lambda way, kind: runs.pairs(case, way, rectified).reached[f"first {kind}"]
    return together(
        fit=tendency(
            effect=lambda: [2 * (reached(way, kind) >= 0).double() - 1 for way in WAYS for kind in ("BN", "plain")],
            reason="36 cells of 10 networks: more of them fit within 140 steps than do not",
        ),
        no_hyperplane=tendency(
            effect=lambda: [runs.violations(case, samples)], least=0.01, reason="10 tasks, by linear programming"
        ),
    )


@claim("C-exp3-margin", control={"stretch": 2.0})
def margins_are_larger(case, stretch=1.0):
    """The mean margin is larger with batch normalisation.  C 8, experiment 3

    Control: the last layer of the normalised network times two, the same classifier.
    """

    def ratio(way, stop):
        normalised, plain = both(case, way, stop, mean_margin, stretch=stretch)
        return (normalised / plain).log()

    return tendency(effect=lambda: [ratio(*cell) for cell in CELLS], reason=OVER)


@claim("C-fig8.2-left", control={"flipped": 0.5})
def histogram_moves_and_narrows(case, flipped=0.0):
    """The histogram of margins is further right and narrower with batch normalisation.  C Figure 8.2, left

    Medians and interquartile ranges. Control: half of the labels flipped for the plain network.
    """

    def quartiles(way, stop, normalised, flipped=0.0):
        kept, levels = runs.fitted(case, way, stop), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        return runs.margins(case, way, stop, normalised, flipped)[kept].quantile(levels, dim=1)

    pair = lambda way, stop: (quartiles(way, stop, True), quartiles(way, stop, False, flipped))
    width = lambda q: (q[2] - q[0]).log()
    return together(
        right=tendency(effect=lambda: [n[1] - p[1] for n, p in (pair(*cell) for cell in CELLS)], reason=OVER),
        narrower=tendency(
            effect=lambda: [width(p) - width(n) for n, p in (pair(*cell) for cell in CELLS)], reason=OVER
        ),
    )


@claim("C-exp3-noise", control={"factor": 8.0})
def noise_is_tolerated(case, factor=1.0):
    """Training accuracy survives more noise on all parameters with batch normalisation.  C 8, experiment 3

    The noise at which accuracy falls to 0.9. Control: all parameters of the normalised network times eight.
    """

    def gain(way, stop):
        curves = both(case, way, stop, runs.accuracies, factor=factor)
        normalised, plain = (tolerance(SIZES, curve) for curve in curves)
        return (normalised / plain).log()

    return tendency(effect=lambda: [gain(*cell) for cell in CELLS], reason=OVER)


@claim("C-fig8.2-right", control={"factor": 8.0})
def curve_drops_slower(case, factor=1.0):
    """The curve of accuracy against noise lies higher with batch normalisation.  C Figure 8.2, right

    The mean over sizes of the noise, evenly spaced in its logarithm. Control: as for the noise that is tolerated.
    """

    def above(way, stop):
        normalised, plain = both(case, way, stop, runs.accuracies, factor=factor)
        return (normalised - plain).mean(0)

    return tendency(effect=lambda: [above(*cell) for cell in CELLS], reason=OVER)


# Losses of a margin with their inverses: the convex one that trains, and a concave one that falls as well.
SHAPES = {
    "logistic": (lambda m: softplus(-m), lambda value: -torch.log(torch.expm1(value))),
    "concave": (lambda m: -softplus(m), lambda value: torch.log(torch.expm1(-value))),
}


@claim("O-margin-at-a-loss", control=[{"shape": "concave"}, {"power": 0.5}])
def margin_is_the_loss(case, shape="logistic", power=1.0):
    """The mean margin is at least l^-1(L), and above it by l''/(2|l'|) times the variance, to second order.  Ours

    Jensen's inequality on all trained networks, and its expansion around the margin 2 as the spread shrinks.
    Controls: a concave loss; the standard deviation in place of the variance.
    """
    loss, inverse = SHAPES[shape]
    trained = lambda: [runs.margins(case, way, stop, n) for way, stop in CELLS for n in (True, False)]
    skewed = lambda reach: torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64) * 1e-3 / reach
    above = lambda m: m.mean() - SHAPES["logistic"][1](softplus(-m).mean())
    return together(
        jensen=at_most(
            lambda: [inverse(loss(m).mean(1)) for m in trained()], lambda: [m.mean(1) for m in trained()],
            bound=1e-12, reason="rounding of means over 300 margins",
        ),
        expansion=limit(
            lambda reach: above(2 + skewed(reach)) / skewed(reach).var(correction=0) ** power,
            lambda: torch.sigmoid(torch.tensor(2.0, dtype=torch.float64)) / 2,
            bound=5e-3, reason="the next order is a thousandth at a spread of a thousandth",
        ),
    )  # fmt: skip


@claim("O-noise-has-a-unit", control={"noise": 1.0})
def accuracy_moves_with_the_weights(case, noise=8.0):
    """All parameters times c: the same classifier, and its accuracy under noise c sigma is that under sigma.  Ours

    With a trained gain and shift and no output bias the output is multiplied by c^2. Control: the noise is not
    multiplied.
    """
    curve = lambda factor, stretch: runs.accuracies(case, WAYS[0], "first", True, factor=factor, stretch=stretch)
    return equal(
        measured=lambda: curve(8.0, noise),
        predicted=lambda: curve(1.0, 1.0),
        bound=1e-3, reason="a factor of eight is exact in binary arithmetic; an accuracy is a multiple of 1/300",
    )  # fmt: skip

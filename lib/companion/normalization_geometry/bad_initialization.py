"""Experiment 4 of paper C: a deep narrow network from weights that are all far too small or far too large."""

import torch

from claimbook.evidence import Unfinished, at_most, claim, equal, tendency, together
from companion.normalization_geometry import bad_initialization_runs as runs
from companion.normalization_geometry.bad_initialization_runs import LARGE, NOTHING, SCALES, SMALL

PLAIN = ("descent", "momentum")
GOOD = (1e-3, 1e-2, 0.1, 1.0, 10.0)


def votes(case, batch_norm, scales, losses=tuple(NOTHING), optimisers=PLAIN):
    """One cell a scale, loss and optimiser: 1 for each network that has learned, -1 for each other."""
    rows = [SCALES.index(scale) for scale in scales]
    return [
        2 * runs.learned(case, batch_norm, loss, optimiser)[row].double() - 1
        for loss in losses
        for optimiser in optimisers
        for row in rows
    ]


@claim("C-exp4-nobn", control={"scales": (1.0,)})
def plain_networks_fail(case, scales=SMALL + LARGE):
    """Without BN the network does not learn within 300 steps from weights that are very large or very small.  C 8

    Descent without and with momentum, logistic and square loss. Control: He's own scale.
    """
    return tendency(
        effect=lambda: [-cell for cell in votes(case, False, scales)],
        reason="24 cells: a hundredth of He's weights and less, ten times them and more; 2 losses, 2 optimisers",
    )


# Scale and epsilon at one ratio scale^3 / epsilon^2, so that all should wait equally long.
WAITS = ((3e-4 * 1e-2 ** (2 / 3), 1e-7), (3e-4, 1e-5), (3e-4 * 1e2 ** (2 / 3), 1e-3))


@claim("C-exp4-bn", control={"batch_norm": False}, printed={"scales": SCALES[:1] + GOOD + SCALES[-1:], "wait": 5.0})
def normalised_networks_train(case, batch_norm=True, scales=GOOD, wait=None):
    """With BN training proceeds from either; from very small weights after a delay of eps^2/(eta c^3).  C 8, exp. 4

    Logistic loss. The delay is predicted from a network that only subtracts means. As printed: all scales, and a delay
    of a few iterations (five).
    """
    pace = 0.1 * WAITS[1][0] ** 3 / WAITS[1][1] ** 2

    def predicted():
        if wait:
            return [wait for _ in WAITS]
        return [_finished(runs.centred_delays(case, pace)) for _ in WAITS]

    return together(
        trains=tendency(
            effect=lambda: votes(case, batch_norm, scales, ("logistic",)),
            reason="10 cells: a thousandth of He's weights to ten times them, descent without and with momentum",
        ),
        delay=equal(
            measured=lambda: [_finished(runs.delays(case, *pair)) for pair in WAITS],
            predicted=predicted,
            bound=0.15, margin=20.0,
            reason="weights grow tenfold before they leave; medians of whole steps, hence the margin",
        ),
    )  # fmt: skip


def _finished(steps):
    """The median over draws of how long networks stay on the plateau."""
    if steps.isinf().double().mean() > 0.4:
        raise Unfinished(f"{int(steps.isinf().sum())} of {len(steps)} networks are still on the plateau")
    return steps.median()


@claim("O-adam-from-small", control={"optimiser": "descent"})
def adam_leaves_the_plateau(case, optimiser="Adam"):
    """With BN, Adam learns from a ten-thousandth of He's weights, and from a thousand times them.  Ours

    Logistic loss; the steps of Adam do not depend on the size of the gradient. Control: plain descent.
    """
    return tendency(
        effect=lambda: votes(case, True, (SMALL[0], LARGE[-1]), ("logistic",), (optimiser,)),
        reason="2 cells, the two ends at which plain descent fails",
        share=1.0,
    )


@claim("O-plateau", control={"power": 0})
def plateau_has_one_clock(case, power=3):
    """From c theta with the step eta c^-(L-2) descent goes through c times the path from theta, for small c.  Ours

    Five layers without normalisation; scales 1e-3 and 1e-4 against 1e-2. Control: one step for all.
    """
    return equal(
        measured=lambda: [runs.plateau_ends(case, scale, power) for scale in (1e-3, 1e-4)],
        predicted=lambda: [runs.plateau_ends(case, 1e-2, 3)] * 2,
        bound=1e-6, reason="the loss is not linear by the output, which is c^5",
    )  # fmt: skip


@claim("O-hidden-scale", control={"power": 0})
def scale_is_a_step_and_an_epsilon(case, power=2):
    """With BN, hidden weights times c are the step eta/c^2 and epsilon/c^2 for the hidden layers.  Ours

    For epsilon = 0 it is known. Thirty steps of descent. Control: epsilon stays.
    """
    factors = (0.3, 10.0)
    flat = lambda params, factor: torch.cat(
        [(p / factor if runs.hidden(n) else p).reshape(-1) for n, p in params.items()]
    )
    return equal(
        measured=lambda: [flat(runs.descended(case, c, 1e-3, 0.1), c) for c in factors],
        predicted=lambda: [flat(runs.descended(case, 1.0, 1e-3 / c**power, 0.1 / c**2), 1.0) for c in factors],
        bound=1e-8, reason="rounding, amplified by thirty steps",
    )  # fmt: skip


@claim("O-large-weights-stay", control={"factor": 1.0})
def large_hidden_weights_stay(case, factor=100.0):
    """From hidden weights a hundred times too large, descent with BN does not change them.  Ours

    The last layer at its usual scale; 200 steps. The losses are those of a network whose hidden weights are held.
    Control: He's scale.
    """
    norms = lambda: runs.held(case, factor, False)[1][-1]
    return together(
        norms=equal(norms, lambda: torch.ones_like(norms()), 1e-6, "relative steps of eta / c^2, squared"),
        losses=at_most(
            lambda: (runs.held(case, factor, False)[0] - runs.held(case, factor, True)[0]).abs().amax(0),
            lambda: 0.01 * runs.held(case, factor, True)[0][0],
            bound=1e-9, margin=1.0, reason="a hundredth of the loss at the start",
            scale=lambda: runs.held(case, factor, True)[0][0],
        ),
    )  # fmt: skip

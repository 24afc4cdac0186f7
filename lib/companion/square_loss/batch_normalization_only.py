"""What decides Figures 6 to 9 of paper B, and two remarks: what forgetting needs, and which loss is faster.

Runs are in :mod:`companion.square_loss.batch_normalization_only_runs`.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import Unfinished, claim, equal, tendency, together
from companion.square_loss import batch_normalization_only_runs as runs
from companion.square_loss.batch_normalization_and_decay_runs import late
from companion.square_loss.batch_normalization_only_runs import PENALTY, WIDTHS

BOTH = "2 starts, 8 seeds on digits, 5 on images, the median of the last ten records"
BEFORE = {"when": "first"}


@claim("B-fig6", control=[{"normalised": False}, BEFORE], untrained=BEFORE, longer={"epochs": 600})
def both_starts_fit(case, normalised=True, when="late", epochs=0):
    """With normalisation and no decay both starts fit all samples, each within one half of its label.  B Fig. 6

    Controls: digits without normalisation, where the small start stays at zero; before training.
    """
    return tendency(
        effect=lambda: [row - 0.5 for least in runs.lowest(case, epochs, normalised) for row in late(least, when)],
        reason=f"{BOTH}; every sample within one half of its label, as for Figure 10",
    )


@claim("B-fig7", printed={"factor": False}, control={"decay": 0.1}, untrained=BEFORE, longer={"epochs": 600})
def rho_remembers_its_start(case, factor=True, decay=0.0, when="late", epochs=0):
    """Without decay rho ends tenfold apart from two starts; it begins at zero if the output has a factor that does.

    Printed: no trained parameter, where rho begins at a ten-thousandth and at 625. Control: decay, on digits.
    B Fig. 7
    """
    digits = lambda: runs.on_digits(case, epochs, decay, True, factor)
    apart = lambda one: late(one.rho[:, 1].log(), when) - late(one.rho[:, 0].log(), when)
    return together(
        begins=equal(
            measured=lambda: [digits().rho[0]], predicted=lambda: [0.0], scale=lambda: [1.0],
            bound=1e-12, reason="exact zeros; two starts, eight seeds",
        ),
        remembers=tendency(
            effect=lambda: [apart(digits()), apart(runs.stored())], least=math.log(10),
            reason="digits with the factor, images without; 8 and 5 seeds; tenfold, fixed beforehand",
        ),
    )  # fmt: skip


def root_mean_square(case, epochs: int) -> Tensor:
    """Distance of rho y f from one, over records, starts and seeds."""
    return (runs.on_two(case, epochs)["outputs"][:, :, 0] * runs.labels(case) - 1).square().mean(-1).sqrt()


@claim("B-fig8", control=BEFORE, untrained=BEFORE, longer={"epochs": 600})
def margins_become_one_line(case, when="late", epochs=0):
    """Margins are off a horizontal line by the root of the loss, so that at zero loss they are one line.  B Fig. 8

    After training the ninth decile is less than 1.5 times the first. Control: before training.
    """
    return together(
        line=equal(
            measured=lambda: [root_mean_square(case, epochs)],
            predicted=lambda: [runs.on_digits(case, epochs).loss.sqrt()],
            bound=1e-10, reason="rounding; digits, all records, both starts, 8 seeds",
        ),
        flat=tendency(
            effect=lambda: [0.2 - row for one in (runs.on_digits(case, epochs), runs.stored())
                            for row in late(one.spread, when)],
            reason=f"{BOTH}; the factor of Figure 12",
        ),
    )  # fmt: skip


@claim("B-fig9", control=BEFORE, untrained=BEFORE, longer={"epochs": 600})
def outputs_gather_at_one_over_rho(case, when="late", epochs=0):
    """The histogram of |f_n| gathers at 1/rho from both starts. Control: before training.  B Fig. 9"""
    end = lambda: [row for deciles in runs.sizes(case, epochs) for row in late(deciles, when)]
    return together(
        narrow=tendency(
            effect=lambda: [0.2 - runs.gap(row) for row in end()],
            reason=f"{BOTH}; the ninth decile less than 1.5 times the first",
        ),
        centred=tendency(
            effect=lambda: [0.1 - (row[..., 1] - 1).abs() for row in end()],
            reason=f"{BOTH}; the median of rho |f| within a tenth of one, fixed beforehand",
        ),
    )  # fmt: skip


# What forgetting needs


@claim("B-rem-bn-needed", control={"decay": 0.0}, printed={"depth": 2})
def forgetting_needs_normalisation(case, depth=3, decay=PENALTY, steps=5000):
    """From any start to one length needs normalisation and decay: without it a small start ends at zero.  B 6.1

    Three ReLU layers on four inputs that no linear network fits, products of norms 1e-5 and 8. As printed: two layers.
    Control: no decay.
    """
    ends = lambda product, normalised: runs.deep_cross(
        case, product, depth=depth, decay=decay, normalised=normalised, steps=steps
    )
    return together(
        plain_small=equal(
            lambda: ends(1e-5, False), lambda: torch.zeros(4), 1e-3, "decay for a time of 250 leaves less",
            scale=lambda: ends(8.0, False),
        ),
        normalised=equal(
            lambda: ends(1e-5, True), lambda: ends(8.0, True), 1e-3, "what 5000 steps leave", margin=10.0
        ),
    )  # fmt: skip


@claim("O-two-layers-forget", control={"decay": 0.0}, untrained={"steps": 1}, longer={"steps": 16_000})
def decay_is_enough_for_two_layers(case, decay=PENALTY, steps=8000):
    """Two wide ReLU layers with decay end at the least norm without normalisation, from all starts.  Ours

    Inputs that no linear network fits, products of norms 0.7, 8 and 72; the least norm is known. Control: no decay.
    """
    ends = lambda: [runs.on_the_cross(case, width, decay, steps) for width in WIDTHS]
    return together(
        least=equal(
            lambda: [one.rho for one in ends()], lambda: [4 * (1 - PENALTY) for _ in WIDTHS], 2e-3,
            "what 8000 steps leave; 2 widths, 3 sizes, 4 draws", margin=10.0,
        ),
        near_zero_loss=equal(
            lambda: [one.margins for one in ends()], lambda: [1 - PENALTY for _ in WIDTHS], 2e-3,
            "what 8000 steps leave", margin=5.0,
        ),
    )  # fmt: skip


# Which loss is faster


@claim("B-rem-speed", control={"rates": (0,)})
def square_loss_is_faster(case, rates=None):
    """The square loss reaches a good test error on CIFAR-10 in fewer steps than cross-entropy.  B 6.1

    Open as long as no setting is given; with rates it asks the stored runs, of four rates from 0.003 to 0.1.
    """
    if rates is None:
        raise Unfinished(
            "the remark names neither network nor steps; small stored runs reach no good error, and at equal steps "
            "or at ten times the steps for one loss they say opposite things"
        )
    return tendency(
        effect=lambda: [runs.arrivals(rate)[1].log() - runs.arrivals(rate)[0].log() for rate in rates],
        reason="6 starts a rate, 1000 images of 8 by 8 pixels; steps to an error of two thirds",
    )

"""Numbers that the prose of the chapter on nonlinear activations quotes, rounded, by the names it calls them."""

from dataclasses import replace

from torch import Tensor

from claimbook.evidence import Case
from companion.unified_balancing import activations_drawings as drawings
from companion.unified_balancing.activations import ENTROPY, SQUARE, descent, off

WIDE = {
    "square loss": "data/results/paper/figure-1c-seeds.npz",
    "cross-entropy": "data/results/paper/figure-1d-seeds.npz",
}
SHORT = ("data/results/paper/tanh-balance-square.npz", "data/results/paper/tanh-balance-cross-entropy.npz")


def spread(values: Tensor, digits: int = 1) -> str:
    """From the least to the largest, in per cent."""
    return f"{100 * values.min():.{digits}f} to {100 * values.max():.{digits}f}"


def of_the_figures(case: Case) -> dict[str, str]:
    """How near the balances of digits stay to the exponential."""
    square, entropy = descent(case, SQUARE), descent(case, ENTROPY)
    gelu = descent(case, replace(SQUARE, activation="gelu"))
    return {
        "close": f"{100 * off(square, SQUARE).max():.0f}",
        "early": f"{100 * off(entropy, ENTROPY)[square['step'] <= 250].max():.0f}",
        "late": spread(off(entropy, ENTROPY)[-1].amax(1), 0),
        "whole": spread(square["moved"][-1].amax(1), 0),
        "gelu-close": f"{100 * off(gelu, SQUARE).max():.1f}",
    }


def of_the_studies() -> dict[str, str]:
    """The same at the paper's widths, and on MNIST, with where these runs come from."""
    studies = {title: drawings.wide(name) for title, name in WIDE.items()}
    square, entropy = (studies[title][0] for title in WIDE)
    thousand = int((entropy["step"][0] == 1000).nonzero()[0])
    short = [drawings.wide(name)[0] for name in SHORT]
    away = lambda run: f"{100 * (run['ratio'] - 1).abs().max():.1f}"
    return {
        "w-square": away(square),
        "w-early": f"{100 * (entropy['ratio'][:, thousand] - 1).abs().max():.1f}",
        "w-late": "; ".join(", ".join(f"{x:.2f}" for x in row) for row in entropy["ratio"][:, -1].tolist()),
        "mnist": " % and ".join(away(run) for run in short) + " %",
        "sharp": f"{max(run['sharpness'].max().item() for run in short):.1f}",
        "made": " ".join(origin.summary() for _, origin in studies.values()),
    }


def of_the_causes(case: Case) -> dict[str, str]:
    """What differs between the two losses after a thousand steps, and what the pull alone does."""
    square, entropy = descent(case, SQUARE), descent(case, ENTROPY)
    row = int((square["step"] == 1000).nonzero()[0])
    drive = lambda run: run["flow"][row, :, 0]
    lost = lambda run: 1 - run["order"][row].prod(-1)
    fields = lambda run: ", ".join(f"{z:.2f}" for z in run["field"][row].mean(0))
    weak, far = replace(ENTROPY, loss_scale=0.1), replace(SQUARE, target_scale=5.0)
    return {
        "drive-ratio": f"{(drive(entropy) / drive(square)).mean():.1f}",
        "fraction-ratio": f"{(lost(entropy) / lost(square)).mean():.1f}",
        "fields-square": fields(square),
        "fields-entropy": fields(entropy),
        "spared": f"{100 * off(descent(case, weak), weak).max():.1f}",
        "far": f"{off(descent(case, far), far).amax((0, 2)).min():.1f}",
        "edge": f"{2 / SQUARE.learning_rate:.0f}",
    }

"""Figures of the chapter on the square loss, and the numbers that its prose quotes."""

from math import pi

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import why_square_loss_runs as runs
from companion.square_loss.bounds_runs import unit

LOOKS = (BROKEN, {"color": GREEN, "linestyle": ":", "linewidth": 2.0}, MEASURED)


def shares(case: Case) -> Tensor:
    """The share of runs within one per cent of the least loss, by width."""
    ends = runs.by_width(case)
    least = torch.tensor([one.loss for one in runs.best(case, 0.1)]).repeat(len(runs.WIDTHS))
    return (ends.losses() + 0.1 * ends.rho**2 < 1.01 * least).double().view(len(runs.WIDTHS), -1).mean(1)


def draw_minimum(case: Case) -> None:
    """Final length over the least one against the length at the start; and the share of runs that succeed by width."""
    fig, (left, right) = axes(1, 2, height=3.0)
    columns = {"start": torch.tensor(runs.STARTS)}
    for shift, decay, look in zip((0.94, 1.0, 1.06), runs.DECAYS, LOOKS, strict=True):
        least = torch.tensor([one.rho for one in runs.best(case, decay)])
        ratio = torch.stack([runs.descents(case)[decay, start].rho / least for start in runs.STARTS])
        middle, low, high = ratio.median(1).values, ratio.amin(1), ratio.amax(1)
        label = f"$\\lambda={decay:g}$" if decay else "no decay"
        at = [shift * start for start in runs.STARTS]
        left.errorbar(
            at, middle, torch.stack([middle - low, high - middle]), marker="o", capsize=3, label=label, **look
        )
        columns |= {f"{name}_{decay:g}": part for name, part in (("median", middle), ("least", low), ("largest", high))}
    left.axhline(1, **PREDICTED)
    left.set(xscale="log", xlabel=r"length $\rho$ at the start", ylabel="final length / least length", ylim=(0.9, None))
    left.set_xticks(runs.STARTS, [f"{start:g}" for start in runs.STARTS])
    left.minorticks_off()
    left.legend(loc="upper left")
    right.plot(runs.WIDTHS, 100 * shares(case), marker="o", **MEASURED)
    right.set(xscale="log", xlabel="hidden units", ylabel="runs at the least loss, per cent", ylim=(-5, 105))
    right.set_xticks(runs.WIDTHS, [str(width) for width in runs.WIDTHS])
    right.minorticks_off()
    show_figure(fig, name="why-minimum", data=columns | {"width": runs.WIDTHS, "share": shares(case)})


def draw_measure(case: Case, decay: float = 0.01) -> None:
    """The best network for the first data set: its certificate, its units, and those of a trained one."""
    X, one = runs.inputs(case)[0], runs.best(case, decay)[0]
    z = runs.residuals(case, decay)[0]
    angles = torch.linspace(0, 2 * pi, 721, dtype=X.dtype)
    h = (X @ unit(angles).mT).relu().mT @ z / (decay * one.rho)
    ends = runs.descents(case)[decay, runs.LARGE]
    turned, sizes = torch.atan2(ends.V1[0, :, 1], ends.V1[0, :, 0]) % (2 * pi), ends.V1[0].norm(dim=1) * ends.V2[0]
    degrees = lambda a: a.rad2deg() % 360
    fig, (top, low) = axes(2, 1, height=4.6, width=6.4, sharex=True)
    top.plot(angles.rad2deg(), h, **MEASURED)
    for level in (-1, 1):
        top.axhline(level, **PREDICTED)
    top.plot(degrees(one.angles), one.masses.sign(), "o", color=BROKEN["color"], markersize=6)
    top.set(ylabel=r"pull on a unit $/\ \lambda\rho$", ylim=(-1.35, 1.35))
    share, at = one.masses / one.rho, degrees(one.angles)
    low.vlines(at, 0, share, color=BROKEN["color"], linewidth=3, alpha=0.5, label="best network")
    summed, seen = heaps(degrees(turned), sizes / sizes.abs().sum())
    low.plot(seen, summed, "o", color=MEASURED["color"], markersize=6, label="64 trained units, summed")
    low.axhline(0, color="#8a8f98", linewidth=0.8)
    low.set(xlabel="direction of a unit, degrees", ylabel="share of the length", xlim=(0, 360), ylim=(-0.42, 0.55))
    low.set_xticks(range(0, 361, 60))
    low.legend(loc="upper right", fontsize=8)
    data = {"angle": angles.rad2deg(), "pull": h, "best_angle": at, "best_share": share}
    show_figure(fig, name="why-measure", data=data | {"trained_angle": seen, "trained_share": summed})


def heaps(angles: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Units within two degrees of each other and of one sign taken together: sums and mean angles."""
    left, sums, middles = sizes.clone(), list[Tensor](), list[Tensor]()
    while left.abs().max() > 1e-3:
        k = left.abs().argmax()
        near = ((angles - angles[k] + 180) % 360 - 180).abs() < 2
        near &= left.sign() == left[k].sign()
        sums.append(left[near].sum())
        middles.append(angles[k])
        left[near] = 0
    return torch.stack(sums), torch.stack(middles)


def numbers(case: Case) -> dict[str, str]:
    """What the prose quotes."""
    share = 100 * shares(case)
    far = runs.descents(case)[0.0, runs.LARGE].rho / torch.tensor([one.rho for one in runs.best(case, 0.0)])
    gap = runs.regret(case, "square") - runs.regret(case, "logistic")
    widest = torch.tensor(runs.widest(case, "classifiers")) * torch.tensor(runs.shortest(case))
    rank = {depth: runs.sensed(case, 1, depth).mean() for depth in (1, 2, 3)}
    return {
        "share-four": f"{share[1]:.0f}",
        "far-least": f"{far.min():.2f}",
        "far-most": f"{far.max():.2f}",
        "regret-square": f"{100 * runs.regret(case, 'square').mean():.1f}",
        "regret-logistic": f"{100 * runs.regret(case, 'logistic').mean():.1f}",
        "regret-gap": f"{100 * gap.mean():.1f} ± {100 * gap.std() / len(gap) ** 0.5:.1f}",
        "crowd": f"{100 * (widest[-1] - 1):.0f}",
        "rank-one": f"{rank[1]:.1f}",
        "rank-two": f"{rank[2]:.1f}",
        "rank-three": f"{rank[3]:.1f}",
    }

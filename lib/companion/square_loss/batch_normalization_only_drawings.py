"""Figures of the chapter on batch normalisation without decay, and the numbers of its text."""

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show import results
from claimbook.show.figures import BAND, BLUE, BROKEN, MEASURED, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import batch_normalization_only_runs as runs
from companion.square_loss.batch_normalization_and_decay_runs import late

COLORS = (BLUE, VERMILION)
RATES = (0.003, 0.01, 0.03, 0.1)


def draw_memory(case: Case) -> None:
    """Products of norms from two starts: digits, digits with a factor that starts at zero, and images."""
    fig, panels = axes(1, 3, height=3.0, sharey=True)
    columns: dict[str, Tensor] = {}
    shown = (("digits", runs.on_digits(case)), ("digits, output factor", runs.on_digits(case, factor=True)),
             ("CIFAR-10", runs.stored()))  # fmt: skip
    for ax, (title, one) in zip(panels, shown, strict=True):
        first = 1 if "factor" in title else 0  # zero has no logarithm
        t = one.epochs[first:]
        for k, (color, start) in enumerate(zip(COLORS, runs.STARTS, strict=True)):
            band = one.rho[first:, k]
            ax.fill_between(t, band.amin(1), band.amax(1), **BAND | {"color": color})
            ax.semilogy(t, band.log().mean(1).exp(), color=color, linewidth=2, label=f"start {start:g}")
            columns |= {f"{title} {start:g}": band.log().mean(1).exp(), f"epochs {title}": t}
        ax.set(xlabel="epochs", title=title)
    panels[0].set(ylabel=r"$\rho$, all layers")
    panels[2].legend(loc="lower right", fontsize=8)
    show_figure(fig, name="norm-remembers", data=columns)


def draw_margins(case: Case) -> None:
    """Sorted margins at the end on digits; deciles of rho |f| against epochs on digits and on images."""
    fig, (left, *tops) = axes(1, 3, height=3.0)
    columns: dict[str, Tensor] = {}
    margins = (runs.on_two(case)["outputs"][:, :, 0] * runs.labels(case))[-1]
    rank = torch.arange(margins.shape[-1]) / margins.shape[-1]
    for k, (color, start) in enumerate(zip(COLORS, runs.STARTS, strict=True)):
        line = margins[k].sort(-1).values.mean(0)
        left.plot(rank, line, color=color, linewidth=2, label=f"start {start:g}")
        columns[f"margins {start:g}"] = line
    left.axhline(1, **PREDICTED)
    left.set(xlabel="share of samples", title=r"$\rho\,y_nf_n$, digits", ylim=(0, 2))
    left.legend(loc="lower right", fontsize=8)
    epochs = (runs.on_digits(case).epochs, runs.stored().epochs)
    for ax, t, deciles, title in zip(tops, epochs, runs.sizes(case), ("digits", "CIFAR-10"), strict=True):
        for k, (color, start) in enumerate(zip(COLORS, runs.STARTS, strict=True)):
            low, _, high = deciles[1:, k].mean(1).unbind(-1)
            ax.fill_between(t[1:], low, high, color=color, alpha=0.4, linewidth=0)
            columns |= {f"{title} {start:g} low": low, f"{title} {start:g} high": high}
        ax.axhline(1, **PREDICTED)
        ax.set(xlabel="epochs", title=rf"$\rho\,|f_n|$, {title}", ylim=(0, 2))
    show_figure(fig, name="margins-and-outputs", data=columns)


def draw_cross(case: Case) -> None:
    """Product of norms of two plain layers against descent's steps, with decay and without, over the least one."""
    fig, ax = axes(height=3.0)
    steps = (1, 100, 200, 400, 800, 1600, 3200, 8000)
    columns = {"steps": torch.tensor(steps)}
    for decay, style, label in ((runs.PENALTY, MEASURED, "decay"), (0.0, BROKEN, "no decay")):
        ends = torch.stack([runs.on_the_cross(case, 64, decay, n).rho / (4 * (1 - decay)) for n in steps])
        for j, start in enumerate(runs.PRODUCTS):
            mean = ends[:, 4 * j : 4 * j + 4].log().mean(1).exp()
            ax.loglog(steps, mean, **style, label=label if j == 0 else None)
            columns[f"{label} {start:g}"] = mean
    ax.axhline(1, **PREDICTED, label="least")
    ax.set(xlabel="steps", ylabel=r"$\rho$ over the least")
    ax.legend(loc="lower right", ncols=3)
    show_figure(fig, name="plain-forgets", data=columns)


def numbers(case: Case) -> dict[str, str]:
    """What the text quotes: losses, spreads and distances at the end, the factor, arrivals of the two losses."""
    digits, images = runs.on_digits(case), runs.stored()
    with_factor = runs.on_digits(case, factor=True)
    bare = runs.on_digits(case, normalised=False)
    apart = lambda one: (late(one.rho[:, 1].log()) - late(one.rho[:, 0].log())).mean().exp()
    gain = runs.on_two(case, factor=True)["gain"][-1].abs()
    first = [runs.arrivals(k) for k in range(len(RATES))]
    ends = [runs.on_the_cross(case, 64, decay).rho / (4 * (1 - decay)) for decay in (runs.PENALTY, 0.0)]
    return {
        "origin": results.load("data/results/paper/neural-collapse-images.npz")[1].summary(),
        "loss-small": f"{late(digits.loss)[0].max():.0e}", "loss-large": f"{late(digits.loss)[1].max():.0e}",
        "loss-images": f"{late(images.loss).max():.0e}", "stuck": f"{late(bare.loss)[0].min():.2f}",
        "apart-digits": f"{apart(digits):.0f}", "apart-images": f"{apart(images):.0f}",
        "apart-factor": f"{apart(with_factor):.0e}",
        "gain": f"{gain.min():.2f} to {gain.max():.2f}",
        "spread": f"{max(late(one.spread).max().item() for one in (digits, images)):.2f}",
        "good": f"{100 * first[0][2]:.0f}",
        "cross-first": str(sum(int((b < a).sum()) for a, b, _ in first)),
        "square-first": str(int((first[2][0] < first[0][1]).sum() + (first[3][0] < first[1][1]).sum())),
        "excess": f"{(ends[0] - 1).abs().max():.0e}", "excess-free": f"{ends[1].min():.2f} to {ends[1].max():.0f}",
    }  # fmt: skip

"""Figures 1 to 12 of paper B on images, and the numbers that the prose quotes."""

import torch
from matplotlib.axes import Axes
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, GREEN, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import figures_on_images_runs as runs
from companion.square_loss.figures_on_images_runs import DECAY, LATE, NORMED, PLAIN, quantity
from companion.studies.square_loss_figures import LEVELS

COLORS = (BLUE, GREEN, VERMILION)
DIGITS = {"color": PREDICTED["color"], "linestyle": ":", "linewidth": 1.6}


def bands(ax: Axes, times: Tensor, values: Tensor, label: str, color: str, style: str = "-") -> Tensor:
    """Median and range over seeds, records by seeds; returns the median."""
    middle = values.nanmedian(-1).values
    if style == "-":
        ax.fill_between(times, values.amin(-1), values.amax(-1), color=color, alpha=0.2, linewidth=0)
    ax.semilogy(times, middle, color=color, linestyle=style, linewidth=1.6, label=label)
    return middle


def draw_margins(case: Case) -> None:
    """Figures 5, 8 and 12: sorted margins times the length at the end, means over five seeds."""
    fig, (left, middle, right) = axes(1, 3, height=3.0, sharey=True)
    columns: dict[str, Tensor] = {"share": torch.tensor(LEVELS)}

    def curve(ax: Axes, name: str, values: Tensor, **style) -> None:
        ax.plot(LEVELS, values, markersize=3, **style)
        columns[name] = values

    for i, color in enumerate(COLORS):
        start = f"start {runs.setups()[DECAY]['scales'][i]:g}"
        curve(left, f"fig5_{start}", quantity(DECAY, "margins")[-1, i].mean(0), color=color, marker="o", label=start)
    curve(left, "fig5_digits", runs.digits(case)["margins"][-1, :, 0].mean((0, 1)), label="digits", **DIGITS)
    for i, color in enumerate((BLUE, VERMILION)):
        start = f"start {runs.setups()[NORMED]['scales'][i]:g}"
        curve(middle, f"fig8_{start}", quantity(NORMED, "margins")[-1, i].mean(0), color=color, marker="o", label=start)
    for name, color in zip(PLAIN[1:], (GREEN, VERMILION), strict=True):
        start = f"start {runs.setups()[name]['scales'][0]:g}"
        curve(right, f"fig12_{start}", quantity(name, "margins")[-1, 0].mean(0), color=color, marker="o", label=start)
    titles = ("Figure 5: BN and decay", "Figure 8: BN, no decay", "Figure 12: neither")
    for ax, title in zip((left, middle, right), titles, strict=True):
        ax.axhline(1, **PREDICTED)
        ax.set(xlabel="share of samples", title=title, ylim=(-0.6, 2))
        ax.legend(fontsize=8, loc="lower right")
    left.set_ylabel(r"$\rho\,y_nf_n$")
    show_figure(fig, name="images-margins", data=columns)


def draw_decay(case: Case) -> None:
    """Figures 1 to 4: loss, product of norms, mean size of the normalised output, ratio; dash-dotted without decay."""
    fig, panels = axes(2, 2, height=5.2)
    t = runs.stored()[f"{DECAY}__epochs"]
    columns = {"epochs": t}
    for i, color in enumerate(COLORS):
        start = f"start {runs.setups()[DECAY]['scales'][i]:g}"
        for decay, style in ((0, "-"), (1, "-.")):
            pick = lambda what, i=i, decay=decay: quantity(DECAY, what, decay)[:, i]
            drawn = {
                "Figure 1: training loss": pick("loss"),
                r"Figure 2: $\rho$, all layers": pick("rho"),
                r"Figure 3: mean of $|f_n|$": runs.moments(pick("margins"))[1] / pick("rho"),
                r"Figure 4: $\sum y_ng_n/\sum g_n^2$": pick("ratio"),
            }
            for k, (ax, (title, values)) in enumerate(zip(panels.flat, drawn.items(), strict=True), 1):
                if k in (1, 4) and decay:
                    continue
                shown = slice(1, None) if k in (3, 4) else slice(None)
                columns[f"fig{k}_{start}_{'none' if decay else 'decay'}"] = bands(
                    ax, t[shown], values[shown], start if not decay else "", color, style
                )
                ax.set(title=title)
    panels[1, 1].set(yscale="linear", ylim=(0.4, 1.6))
    panels[1, 1].axhline(1, **PREDICTED)
    panels[0, 0].legend(fontsize=8, loc="upper right")
    for ax in panels[1]:
        ax.set_xlabel("epochs")
    show_figure(fig, name="images-decay", data=columns)


def draw_no_decay(case: Case) -> None:
    """Figures 6, 7 and 9: loss, product of norms, and quantiles of y f over time."""
    fig, (left, middle, right) = axes(1, 3, height=2.9)
    t = runs.stored()[f"{NORMED}__epochs"]
    columns = {"epochs": t}
    for i, color in enumerate((BLUE, VERMILION)):
        start = f"start {runs.setups()[NORMED]['scales'][i]:g}"
        columns[f"fig6_{start}"] = bands(left, t, quantity(NORMED, "loss")[:, i], start, color)
        columns[f"fig7_{start}"] = bands(middle, t, quantity(NORMED, "rho")[:, i], start, color)
        share = (quantity(NORMED, "margins")[:, i] / quantity(NORMED, "rho")[:, i, :, None]).median(1).values
        fitted = share[:, 0] > 0  # from here on |f| is y f
        right.fill_between(t[fitted], share[fitted, 1], share[fitted, -2], color=color, alpha=0.35, linewidth=0)
        right.semilogy(t[fitted], share[fitted, 4], color=color, linewidth=1.4)
        right.semilogy(t[1:], 1 / quantity(NORMED, "rho")[1:, i].median(-1).values, **PREDICTED)
        columns |= {f"fig9_{start}_low": share[:, 1], f"fig9_{start}_high": share[:, -2]}
    for ax, title in zip(
        (left, middle, right), ("Figure 6: training loss", r"Figure 7: $\rho$, all layers", r"Figure 9: $|f_n|$"),
        strict=True,
    ):  # fmt: skip
        ax.set(xlabel="epochs", title=title)
    left.legend(fontsize=8)
    show_figure(fig, name="images-no-decay", data=columns)


def draw_plain(case: Case) -> None:
    """Figures 10 and 11: the printed step for start 5, smaller ones for 15 and 30."""
    fig, panels = axes(1, 2, height=2.9)
    columns = {"epochs": runs.stored()["small_steps__epochs"]}
    for name, color in zip(PLAIN, COLORS, strict=True):
        setup = runs.setups()[name]
        label = f"start {setup['scales'][0]:g}, step {setup['learning_rate']:g}"
        for ax, what in zip(panels, ("loss", "rho"), strict=True):
            columns[f"{what}_{setup['scales'][0]:g}"] = bands(
                ax, columns["epochs"], quantity(name, what)[:, 0], label, color
            )
    panels[0].set(xlabel="epochs", title="Figure 10: training loss")
    panels[1].set(xlabel="epochs", title=r"Figure 11: $\rho$, all layers")
    panels[0].legend(fontsize=8, loc="lower left")
    show_figure(fig, name="images-plain", data=columns)


def span(values: Tensor, digits: int = 2, scale: float = 1.0) -> str:
    """Least to largest."""
    return f"{scale * values.min().item():.{digits}f} to {scale * values.max().item():.{digits}f}"


def of_decay(case: Case) -> dict[str, str]:
    """Figures 1 to 5 with decay and without, on images and on digits."""
    late = lambda what, decay: quantity(DECAY, what, decay)[-LATE:].mean((0, 2))
    flat = lambda decay: runs.relative_spread(quantity(DECAY, "margins", decay)[-LATE:]).mean((0, 2))
    ends = quantity(DECAY, "margins")[-1].mean(1)
    beside = runs.digits(case)
    third = lambda values: values[-len(values) // 3 :, :, 0].mean((0, 2))
    error = lambda decay: quantity(DECAY, "test_error", decay)[-1].mean(-1)
    return {
        "loss": span(late("loss", 0), 3), "loss-none": span(late("loss", 1), 3),
        "loss-digits": span(third(beside["loss"]), 3),
        "flat": span(flat(0)), "flat-none": span(flat(1)),
        "flat-digits": span(third(runs.relative_spread(beside["margins"]))),
        "ends": f"{ends.min():.2f} to {ends.max():.2f}",
        "forgets": f"{runs.apart(quantity(DECAY, 'rho')):.1f}",
        "remembers": f"{runs.apart(quantity(DECAY, 'rho', 1)):.0f}",
        "folded": f"{runs.apart(quantity(DECAY, 'rho_folded')):.1f}",
        "folded-none": f"{runs.apart(quantity(DECAY, 'rho_folded', 1)):.1f}",
        "ratio": span(quantity(DECAY, "ratio")[-10:].mean(0)),
        "error": span(error(0), 0, 100), "error-none": span(error(1), 0, 100),
        "first-f": f"{runs.apart(runs.moments(quantity(DECAY, 'margins'))[1] / quantity(DECAY, 'rho')):.1f}",
    }  # fmt: skip


def of_the_rest() -> dict[str, str]:
    """Figures 6 to 12."""
    printed = quantity(PLAIN[0], "loss")[-1]
    moved = [(quantity(name, "rho")[-1] / quantity(name, "rho")[0] - 1).abs().max().item() for name in PLAIN[1:]]
    flat = lambda name: runs.relative_spread(quantity(name, "margins")[-LATE:]).mean((0, 2))
    return {
        "apart": f"{runs.apart(quantity(NORMED, 'rho')):.0f}",
        "apart-folded": f"{runs.apart(quantity(NORMED, 'rho_folded')):.1f}",
        "final": f"{quantity(NORMED, 'loss')[-1].median(-1).values.max():.0e}",
        "flat-conv": span(flat(NORMED)), "flat-small": f"{flat(PLAIN[1])[0]:.2f}",
        "flat-smaller": f"{flat(PLAIN[2])[0]:.2f}", "loss-smaller": span(quantity(PLAIN[2], "loss")[-1]),
        "error-conv": span(quantity(NORMED, "test_error")[-1].mean(-1), 0, 100),
        "error-small": f"{100 * quantity(PLAIN[1], 'test_error')[-1].mean():.0f}",
        "error-smaller": f"{100 * quantity(PLAIN[2], 'test_error')[-1].mean():.0f}",
        "dead": f"{int((printed[0] > 0.9).sum())}", "finite-15": f"{int(printed[1].isfinite().sum())}",
        "finite-30": f"{int(printed[2].isfinite().sum())}",
        "moved-15": f"{100 * moved[0]:.0f}", "moved-30": f"{100 * moved[1]:.1f}",
    }  # fmt: skip

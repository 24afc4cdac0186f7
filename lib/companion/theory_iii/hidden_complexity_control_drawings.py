"""Figures of the chapter on hidden complexity control: three flows, margins early and late."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii.hidden_complexity_control_runs import (
    LINE,
    figure_one,
    geometry,
    hard,
    hills,
    largest_margin,
    late,
    smoothed,
)

FIGURE_POINTS = torch.tensor([[1.0, 2.0], [4.0, -1.0]], dtype=torch.float64)


def draw_three_flows(case: Case) -> None:
    """Figure 1: two weights over time, and in their plane."""
    fig, (ax, plane) = axes(1, 2, height=3.2)
    looks = {
        "polar": (MEASURED, "polar system"),
        "weight normalization": (BROKEN, "weight normalisation"),
        "plain": (PREDICTED, "standard flow"),
    }
    columns = {"time": LINE}
    for system, (look, label) in looks.items():
        w = figure_one(case, system)
        for k in range(2):
            ax.semilogx(LINE[1:], w[1:, k], **look, label=label if k == 0 else None)
            columns[f"{label.replace(' ', '_')}_{k + 1}"] = w[:, k]
        plane.plot(w[:, 0], w[:, 1], **look)
    w = figure_one(case, "plain")[-1]
    for k in range(2):
        ax.annotate(f"$w_{k + 1}$", (LINE[-1] * 0.3, w[k] - 0.75))
    ax.set(xlabel="time", ylabel="weight")
    ax.legend(fontsize=8)
    best = largest_margin(FIGURE_POINTS).direction
    plane.plot([0, 4 * best[0]], [0, 4 * best[1]], color="#8a8f98", linewidth=0.9)
    plane.annotate("largest margin", (2.1 * best[0], 2.6 * best[1]), ha="right", fontsize=9)
    plane.set(xlabel="$w_1$", ylabel="$w_2$")
    show_figure(fig, name="three-flows", data=columns)


def draw_margins(case: Case) -> None:
    """Smallest and smoothed margin of two orthogonal points over logarithmic time, early and late."""
    fig, (left, right) = axes(1, 2, height=3.2)
    columns, one = {}, geometry(case)[0]
    early = hills(case)[0]
    left.semilogx(early.clock, hard(early), **BROKEN, label="smallest")
    left.semilogx(early.clock, smoothed(early), **MEASURED, label="smoothed")
    left.axhline(one.margin, **PREDICTED, label="largest possible")
    left.set(xlabel="time $t$", ylabel="normalised margin", ylim=(0.3, 1.12))
    left.legend(fontsize=8, loc="lower right")
    columns |= {"early_time": early.clock, "early_smallest": hard(early)[:, 0], "early_smoothed": smoothed(early)[:, 0]}
    run = late(case)[0]
    share = run.margins / one.margin
    right.semilogx(run.clock, share[:, 0], color=GREEN, label="the other support vector")
    right.semilogx(run.clock, share[:, 1], **BROKEN, label="smallest")
    cost = -one.dual.log()
    mean = one.dual @ cost / one.dual.sum()
    for n in range(2):
        law = 1 + (cost[n] - mean) / run.clock
        right.semilogx(run.clock, law, **PREDICTED, label="law" if n == 0 else None)
        columns |= {f"late_{n + 1}": share[:, n], f"law_{n + 1}": law}
    right.set(xlabel=r"$\log t$", ylabel=r"margin over $\gamma$", ylim=(0.975, 1.14))
    right.set_xticks([20, 50, 100, 200, 400, 800], ["20", "50", "100", "200", "400", "800"])
    right.set_xticks([], minor=True)
    right.legend(fontsize=8)
    show_figure(fig, name="margins", data=columns | {"log_time": run.clock})

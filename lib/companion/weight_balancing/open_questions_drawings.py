"""Figures of the chapter on what remains open."""

import torch
from matplotlib.axes import Axes
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, GREEN, INK, MEASURED, ORANGE, PREDICTED, PURPLE, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing import open_questions as open_ones


def draw_unbalanced(case: Case) -> None:
    """Steps to a low loss, and units that are idle by then, against imbalance, for three architectures."""
    fig, panels = axes(1, 2, height=3.3)
    data = {"s": list(open_ones.DEGREES)}
    for hidden, color in zip(open_ones.ARCHITECTURES, (BLUE, ORANGE, GREEN), strict=True):
        name = "-".join(map(str, (64, *hidden, 10)))
        runs = open_ones.races(case, hidden, open_ones.best_of_a_grid)
        shown = {"steps": runs.steps.double(), "idle": 100 * runs.idle.double()}
        for ax, (what, values) in zip(panels, shown.items(), strict=True):
            spread(ax, values, color, name)
            middle = values.quantile(0.5, 0)
            data |= {f"{what} {name}": middle[:-1], f"{what} {name} balanced": middle[-1:]}
    panels[0].set(yscale="log", ylabel="steps to a loss of 0.2", ylim=(30, 340))
    panels[0].set_yticks((50, 100, 200, 300), ("50", "100", "200", "300"))
    panels[0].minorticks_off()
    panels[1].set(ylabel="idle hidden units, per cent", ylim=(0, 100))
    panels[0].legend(loc="lower right", fontsize=8.5)
    show_figure(fig, name="unbalanced", data=data)


def spread(ax: Axes, values: Tensor, color: str, label: str) -> None:
    """Median and quartiles over seeds, a column a degree of imbalance; the last column, balanced, is a dashed line."""
    low, middle, high = values[:, :-1].quantile(torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype), 0)
    ax.semilogx(open_ones.DEGREES, middle, color=color, linewidth=2, marker="o", markersize=4, label=label)
    ax.fill_between(open_ones.DEGREES, low, high, color=color, alpha=0.15, linewidth=0)
    ax.axhline(values[:, -1].quantile(0.5), color=color, linestyle="--", linewidth=1.2)
    ax.set(xlabel="imbalance $s$", xticks=open_ones.DEGREES)


def draw_path_norms(case: Case) -> None:
    """By how much the largest row of the least l_{p,q} norm exceeds the root of the path norm, against q."""
    fig, ax = axes(height=2.9, width=6.0)
    nets, orders = open_ones.layered(case), list(open_ones.ORDERS)
    roots = [open_ones.root_of_largest(net, 2) for net in nets]
    excess = [rows / root - 1 for rows, root in zip(open_ones.largest_rows(case), roots, strict=True)]
    bound = [max(map(open_ones.mean_width, nets)) ** (1 / q) - 1 for q in orders]
    lines = ax.loglog(orders, torch.stack(excess).mT, **MEASURED | {"linewidth": 1.3, "marker": "o", "markersize": 3})
    lines[0].set_label("four networks")
    ax.loglog(orders, bound, **PREDICTED, label="bound $g^{1/q}-1$")
    ax.set(xlabel="$q$", ylabel="largest row / root $-$ 1")
    ax.legend()
    data = {f"excess {number + 1}": one for number, one in enumerate(excess)}
    show_figure(fig, name="path-norm", data={"q": orders, "bound": bound} | data)


def draw_rates(case: Case) -> None:
    """Effective rates of SGD on a normalised model: with decay, without it, and where all samples can be fitted."""
    fig, ax = axes(height=2.9, width=6.0)
    fitted = open_ones.learning(case, 0.0, open_ones.fitted, 4 * open_ones.STEPS)
    curves = {
        "weight decay": (open_ones.learning(case, 0.04), MEASURED | {"color": GREEN}),
        "all samples fit": (fitted, MEASURED | {"color": PURPLE}),
        "neither": (open_ones.learning(case, 0.0), MEASURED),
    }
    steps = torch.logspace(0, 3.3, 60).long().unique()
    data = {"step": steps}
    for label, (rates, look) in curves.items():
        data[label] = rates.mean(1)[steps - 1]
        ax.loglog(steps, data[label], **look, label=label)
    late = steps[steps >= 20]
    data |= {"late step": late, "bound": 1 / (open_ones.least_noise(case) * (2.0 * late).sqrt())}
    ax.loglog(late, data["bound"], **PREDICTED, label=r"$1/(c_0\sqrt{2t}\,)$")
    ax.set(xlabel="step $t$", ylabel=r"effective rate $\eta/\|w\|^2$")
    ax.legend(fontsize=8.5)
    show_figure(fig, name="effective-rate", data=data)


def draw_gauges(case: Case) -> None:
    """Change of test accuracy by a change of gauge between steps, at a small rate for all and at each method's best."""
    fig, panels = axes(1, 2, height=2.9)
    names, data = [*open_ones.GAUGES, "random"], {}
    worlds = [(open_ones.SMALL, "rate 1/80 for all", ORANGE), (None, "each at its best rate", BLUE)]
    for ax, (rate, title, color) in zip(panels, worlds, strict=True):
        gains = torch.stack([open_ones.gain(case, name, rate).double() for name in names])
        middle, half = gains.mean(1), 2.2 * gains.std(1) / gains.shape[1] ** 0.5  # 95 %, Student with 11 degrees
        ax.errorbar(range(len(names)), middle, half, fmt="o", color=color, capsize=4)
        ax.axhline(0, color=INK, linewidth=1)
        ax.set(title=title, xlim=(-0.5, 3.5))
        ax.set_xticks(range(len(names)), names)
        data |= {"gauge": names, f"mean, {title}": middle, f"half width, {title}": half}
    panels[0].set_ylabel("test accuracy, points")
    show_figure(fig, name="generalisation", data=data)

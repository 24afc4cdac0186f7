"""Figures of the chapter on training in balance."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, ORANGE, PURPLE, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing import balanced_training as training

LOOKS = {
    "balanced (1, 1)": MEASURED,
    "balanced (1, 2)": MEASURED | {"color": ORANGE},
    "balanced (2, 2)": MEASURED | {"color": GREEN},
    "descent (2, 2)": BROKEN,
    "descent, rescaled": BROKEN | {"color": PURPLE, "linewidth": 1.1},
    "descent (1, 1)": BROKEN | {"linestyle": ":"},
}


def draw_training(case: Case) -> None:
    """Loss with its penalty, and the largest imbalance, against steps for six rules."""
    fig, (left, right) = axes(1, 2, height=3.9, width=7.6)
    data = {}
    for name, look in LOOKS.items():
        runs = training.runs(case, name)
        loss = torch.stack([r.losses for r in runs])
        worst = torch.stack([r.imbalances.abs().amax(1) / r.share for r in runs]).amax(0)[1:].clamp_min(1e-17)
        at = 10 * torch.arange(loss.shape[1])
        left.semilogy(at, loss.mean(0), **look)
        left.fill_between(at, loss.amin(0), loss.amax(0), color=look["color"], alpha=0.15, linewidth=0)
        right.semilogy(torch.arange(1, len(worst) + 1), worst, **look, label=name)
        data |= {"loss step": at, f"loss {name}": loss.mean(0), f"imbalance {name}": worst}
    left.set(xlabel="step", ylabel=r"training loss $\mathcal{E}+\lambda\mathcal{R}$")
    right.set(xlabel="step", ylabel="largest relative imbalance", ylim=(1e-16, 1e6))
    right.legend(fontsize=7.5, ncols=2, loc="upper center")
    show_figure(fig, name="balanced-training", data=data)


def draw_steps_and_sizes(case: Case) -> None:
    """Share of the step asked for that was taken; and how the sizes of weights are distributed after training."""
    fig, (left, right) = axes(1, 2, height=3.1)
    asked = list(training.ASKED)
    rules = {"(1, 1), one stage": (1, 1), "(2, 2), two stages": (2, 2), "(2, 2), one stage": (2, 1)}
    data = {"step": asked}
    for (rule, (p, stages)), look in zip(rules.items(), (MEASURED, MEASURED | {"color": GREEN}, BROKEN), strict=True):
        shares = training.shares(case, p, p, stages)
        data[f"share {rule}"] = shares.mean(0)
        left.semilogx(asked, shares.mean(0), **look, marker="o", markersize=4, label=rule)
        left.fill_between(asked, shares.amin(0), shares.amax(0), color=look["color"], alpha=0.2, linewidth=0)
    left.set(xlabel="step asked for, in flow time", ylabel="share taken", ylim=(-0.05, 1.45))
    left.set_xticks(asked, [str(step) for step in asked])
    left.minorticks_off()
    left.legend(fontsize=8, loc="upper center")
    data["size"] = torch.logspace(-5, 0, 51, dtype=torch.float64)
    for name in ("balanced (1, 1)", "balanced (1, 2)", "balanced (2, 2)", "descent (1, 1)"):
        runs = training.runs(case, name)
        data[f"below {name}"] = torch.stack([training.small(r, data["size"]) for r in runs]).mean(0)
        right.semilogx(data["size"], data[f"below {name}"], **LOOKS[name], label=name)
    right.set(xlabel="size relative to the largest weight", ylabel="share of weights below")
    right.legend(fontsize=8)
    show_figure(fig, name="step-and-sparsity", data=data)

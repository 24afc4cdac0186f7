"""Figures of the chapter on constraints on the weight matrices."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import MEASURED, PREDICTED, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.square_loss.weight_constraints_runs import descent, normal

ROWS = 1000
ASPECTS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def draw_constraint(case: Case) -> None:
    """How far each layer of a network in training is from its derivatives, and what the inputs allow the first."""
    run = descent(case)
    fig, ax = axes(height=3.0)
    for k, color in enumerate(layer_colors(3)):
        ax.loglog(run.steps, run.residual[:, k], **(MEASURED | {"color": color}), label=f"layer {k + 1}")
    ax.loglog(run.steps, run.floor, **PREDICTED, label="least for layer 1")
    ax.set(xlabel="step", ylabel="residual over output")
    ax.set_yticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    ax.minorticks_off()
    ax.legend(ncols=2, fontsize=8)
    columns = {f"layer_{k + 1}": run.residual[:, k] for k in range(3)}
    show_figure(fig, name="constraint-defect", data={"step": run.steps, "floor": run.floor} | columns)


def draw_edges(case: Case) -> None:
    """Least and largest singular values of Gaussian matrices against the ratio of columns to rows."""
    values = [torch.linalg.svdvals(normal(case, f"edges {c}", ROWS, int(c * ROWS)) / ROWS**0.5) for c in ASPECTS]
    extremes, aspects = torch.stack([torch.stack([s.min(), s.max()]) for s in values]), torch.tensor(ASPECTS)
    fine = torch.linspace(0, 1, 200)
    fig, ax = axes(height=2.9)
    ax.plot(fine, 1 + fine.sqrt(), **PREDICTED, label=r"$1\pm\sqrt{c}$")
    ax.plot(fine, 1 - fine.sqrt(), **PREDICTED)
    ax.plot(aspects, extremes, "o", color=MEASURED["color"], label=["measured", None])
    ax.axhline(1, color="#8a8f98", linewidth=0.9)
    ax.annotate("orthogonal", (0.99, 1.04), ha="right", fontsize=9)
    ax.set(xlabel="columns over rows $c$", ylabel="singular values", ylim=(-0.05, 2.15))
    ax.legend(loc="upper left")
    show_figure(
        fig, name="singular-edges", data={"aspect": aspects, "least": extremes[:, 0], "largest": extremes[:, 1]}
    )

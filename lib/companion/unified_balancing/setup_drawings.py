"""Figures of the chapter on the setup of paper A."""

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show.figures import BROKEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.unified_balancing.common import identity
from companion.unified_balancing.setup import (
    DECAY,
    PULLS_APART,
    SAMPLES,
    TIMES,
    arrival,
    decays,
    fields_of,
    starts,
    violations,
)
from normdyn.motion.flows import descend, gradient_flow
from normdyn.networks.chains import chain
from normdyn.networks.losses import square_loss

RATES = (0.1, 0.01, 0.001)


@shared
def chatter(case: Case) -> dict[float, dict]:
    """The first field of one ReLU unit under gradient descent with several learning rates, up to a time of 4."""
    one, Y = starts(case)[0], torch.tensor(PULLS_APART, dtype=torch.float64)[:, None]
    flow = gradient_flow(lambda p: square_loss(chain([p["w"], p["v"]], SAMPLES, [torch.relu]), Y))
    record = {"z": lambda p: fields_of(p)[0]}
    go = lambda h: descend(flow, {"w": one.w, "v": one.v}, step=h, steps=round(4 / h), record=record)
    return {h: go(h) for h in RATES}


def shares_near_the_kink(case: Case) -> list[float]:
    """Of its time each run spends within two learning rates of the kink."""
    return [(path["z"].abs() < 2 * h).double().mean().item() for h, path in chatter(case).items()]


def exact_ties(case: Case) -> int:
    """How often a field was exactly zero, in all runs together."""
    return sum(int((path["z"] == 0).sum()) for path in chatter(case).values())


def draw_conventions(case: Case) -> None:
    """Two readings of the regulariser, and the field that comes to its kink and stays."""
    fig, (left, right) = axes(1, 2, height=3.0)
    size = lambda B: B.flatten(1).norm(dim=1) / B[0].norm()
    half, printed = (size(decays(case, literal, identity)[0]["B"]) for literal in (False, True))
    left.semilogy(TIMES, half, **MEASURED, label=r"drift $-\delta\theta$")
    left.semilogy(TIMES, printed, **BROKEN, label=r"$R=\|\theta\|^2$ as printed")
    for rate, label in ((2, None), (4, r"$e^{-2\delta t}$, $e^{-4\delta t}$")):
        left.semilogy(TIMES, torch.exp(-rate * DECAY * TIMES), **PREDICTED, label=label)
    left.set(xlabel="time", ylabel=r"$\|B(t)\|\,/\,\|B(0)\|$")
    left.legend()
    columns: dict[str, Tensor] = {"time": TIMES, "half": half, "printed": printed}
    for h, style in zip(RATES[:2], (BROKEN | {"linewidth": 1.0}, MEASURED), strict=True):
        path = chatter(case)[h]
        right.plot(path["times"], path["z"], **style, label=f"learning rate {h:g}")
        columns |= {f"time_{h:g}": path["times"], f"field_{h:g}": path["z"]}
    right.axhline(0, **PREDICTED)
    right.axvline(arrival(starts(case)[0], PULLS_APART), **PREDICTED)
    right.set(xlabel="time", ylabel="pre-activation of sample 1")
    right.legend()
    show_figure(fig, name="conventions", data=columns)


def draw_biases(case: Case) -> None:
    """Which law a bias breaks, layer by layer."""
    fig, panels = axes(1, 2, height=2.9)
    found = [violations(case, j) for j in range(4)]
    tables = {"norm": torch.stack([f[0] for f in found], 1), "balance": torch.stack([f[1] for f in found], 1)}
    titles = ("norm law of layer", "balance law above layer")
    columns = {"law": [i + 1 for i in range(4) for _ in range(4)], "bias": [j + 1 for _ in range(4) for j in range(4)]}
    for ax, (name, laws), title in zip(panels, tables.items(), titles, strict=True):
        for i, j in (laws > 1e-9).nonzero().tolist():
            side = [j - 0.5, j + 0.5]
            ax.fill_between(side, i - 0.5, i + 0.5, color=BROKEN["color"], alpha=0.35, linewidth=0)
            text = f"{100 * laws[i, j]:.0f} %" if laws[i, j] < 10 else "> 1000 %"
            ax.text(j, i, text, ha="center", va="center")
        ax.grid(False)
        ax.set(xlim=(-0.5, 3.5), ylim=(len(laws) - 0.5, -0.5), xticks=range(4), xticklabels=range(1, 5))
        ax.set(yticks=range(len(laws)), yticklabels=range(1, len(laws) + 1))
        ax.set(xlabel="layer that has a bias", ylabel=title)
        columns[name] = laws.flatten()
    show_figure(fig, name="biases", data=columns)

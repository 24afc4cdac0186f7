"""Figures of the chapter on the balance between layers."""

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show.figures import BLUE, BROKEN, GREEN, MEASURED, PREDICTED, PURPLE, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.unified_balancing import tied_layers as tied
from companion.unified_balancing.balancedness import RATE, REACH, STEPS, descents, learnable, synchronising
from companion.unified_balancing.common import identity, listed, named
from normdyn.motion.flows import descend, gradient_flow
from normdyn.networks.chains import chain
from normdyn.networks.losses import square_loss
from normdyn.norms.laws import gramian_balance, unit_balance

GREEN_DOTS = MEASURED | {"color": GREEN, "linestyle": ":", "linewidth": 3}


@shared
def track(case: Case) -> dict[str, Tensor]:
    """Sizes of balances in a network with a ReLU after the first layer and an identity after the second; decay 0.1."""
    weights, X, Y = learnable(case)[0]
    loss = lambda p: square_loss(chain(listed(p), X, [torch.relu, identity, torch.relu]), Y)
    off = lambda M: (M - torch.diag(M.diagonal())).norm()
    measure = {
        "identity": lambda p: gramian_balance(p["W2"], p["W3"]).norm(),
        "units": lambda p: unit_balance(p["W1"], p["W2"]).norm(),
        "off the diagonal": lambda p: off(gramian_balance(p["W1"], p["W2"])),
    }
    start = named([W / 2 for W in weights])  # a small start, which has farther to go
    field = gradient_flow(loss, weight_decay=0.1)
    return descend(field, start, step=0.01, steps=600, every=10, record=measure)


def draw_balance(case: Case) -> None:
    """The law of the flow over time, and both laws on a run beyond the edge of stability."""
    fig, (left, right) = axes(1, 2, height=3.1)
    path = dict(track(case))
    time = path.pop("times")
    looks = {"identity": MEASURED, "units": GREEN_DOTS, "off the diagonal": BROKEN}
    labels = ("identity, whole matrix", "ReLU, units", "ReLU, off the diagonal")
    for (name, values), label in zip(path.items(), labels, strict=True):
        left.semilogy(time, values / values[0], **looks[name], label=label)
    left.semilogy(time, torch.exp(-0.2 * time), **PREDICTED, label=r"$e^{-2\delta t}$")
    left.set(xlabel="time", ylabel="size of the balance, relative")
    left.legend()
    run, way = descents(case, identity, False)[-1], STEPS["beyond the edge"]
    steps = torch.arange(1, len(run.measured) + 1)
    size = run.measured.abs().amax((1, 2))
    law = torch.exp(-2 * way["decay"] * way["eta"] * (steps - 1))[:, None, None] * run.measured[0]
    flow, exact = ((B - run.measured).abs().amax((1, 2)) / size for B in (law, run.carried))
    right.semilogy(steps[1:], flow[1:], **BROKEN, label="law of the flow")
    right.semilogy(steps, exact.clamp_min(1e-17), **MEASURED, label="exact law of the step")
    right.set(xlabel="step", ylabel="relative error of the balance")
    right.legend(loc="center right")
    columns = {"step": steps, "flow_law": flow, "exact_law": exact}
    show_figure(fig, name="balance", data={"time": time} | path | columns)


def draw_convolutions(case: Case) -> None:
    """By how much channel Gramians and operators miss the law, layout by layout."""
    fig, ax = axes(height=3.6, width=7.2)
    error = lambda B: ((B - tied.shrunk(B)).abs().max() / B[0].abs().max()).clamp_min(1e-16).item()
    channels, operators = (
        [error(B) for B in tied.balances(case, balance)] for balance in (tied.of_channels, tied.of_operators)
    )
    meets = [tied.by_criterion(layout) for layout in tied.EVERY]
    rows = range(len(tied.NAMED))
    picked = lambda values, which: ([v for v, m in zip(values, meets, strict=True) if m == which],
                                    [k for k, m in zip(rows, meets, strict=True) if m == which])  # fmt: skip
    ax.semilogx(channels, rows, "o", color=BLUE, markersize=8, label="channel Gramians")
    ax.semilogx(*picked(operators, True), "D", color=GREEN, markersize=5, label="operator, condition met")
    ax.semilogx(*picked(operators, False), "D", color=VERMILION, markersize=6, label="operator, condition not met")
    ax.set(yticks=list(rows), yticklabels=list(tied.NAMED), ylim=(len(rows) - 0.4, -0.6), xlim=(1e-17, 10))
    ax.set(xlabel=r"relative error of $e^{-2\delta t}$")
    ax.legend(loc="center")
    data = {
        "layout": list(tied.NAMED),
        "channel": channels,
        "operator": operators,
        "condition": [int(m) for m in meets],
    }
    show_figure(fig, name="convolutions", data=data)


SETTINGS = {
    "linear, decay 0.2": (identity, 0.2, MEASURED),
    "ReLU, decay 0.2": (torch.relu, 0.2, GREEN_DOTS),
    "tanh, decay 0.2": (torch.tanh, 0.2, BROKEN | {"color": PURPLE}),
    "ReLU, no decay": (torch.relu, 0.0, BROKEN | {"linestyle": "-"}),
    "ReLU, decay 2": (torch.relu, 2.0, BROKEN),
}


def draw_synchronise(case: Case) -> None:
    """Ratio of the norms of last and first layer over time."""
    fig, ax = axes(height=3.0, width=6.6)
    time, columns = RATE * torch.arange(REACH + 1, dtype=torch.float64), {}
    for name, (activation, decay, style) in SETTINGS.items():
        ratio = (synchronising(case, activation, decay, *([] if decay else [REACH]))[0].ratio[: REACH + 1] / 2).exp()
        ax.plot(time, ratio, **style, label=name)
        columns[name] = ratio[::5]
    ax.axhline(1, **PREDICTED)
    ax.set(xlabel="time", ylabel="norm of last / norm of first layer", ylim=(0, None))
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.2))
    show_figure(fig, name="synchronise", data={"time": time[::5]} | columns)

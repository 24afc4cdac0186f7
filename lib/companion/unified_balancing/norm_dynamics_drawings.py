"""Figures of the chapter on norm dynamics: rates, norms rebuilt from one number, steps, and theories of the output."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.unified_balancing.norm_dynamics import WIDE, foretold, norm_law, rebuilt, squared_norms
from companion.unified_balancing.norm_dynamics_runs import (
    GELU,
    HOMOGENEOUS,
    MISNAMED,
    TANH,
    TASKS,
    descent,
    followed,
    passes,
    rate,
)
from normdyn.norms.laws import order_products

OUTSIDE = (
    {"units": TANH},
    {"units": GELU},
    {"units": MISNAMED},
    {"units": HOMOGENEOUS, "biased": True},
    {"units": HOMOGENEOUS, "stale": True},
)


def draw_rates(case: Case) -> None:
    """Rates of squared norms against the theorem's, in and out of its class; and norms rebuilt from one number."""
    fig, (left, right) = axes(1, 2, height=3.2)
    points = lambda some: torch.cat([torch.stack([norm_law(one), rate(one.net, squared_norms)], 1) for one in some])
    inside = points(passes(case))
    outside = points([one for world in OUTSIDE for one in passes(case, **world)])
    broken = {"color": BROKEN["color"], "alpha": 0.7}
    left.plot(outside[:, 0], outside[:, 1], "x", markersize=4, label="outside of the class", **broken)
    left.plot(inside[:, 0], inside[:, 1], "o", markersize=3.5, label="homogeneous", color=MEASURED["color"])
    left.plot([-1e3, 1e2], [-1e3, 1e2], **PREDICTED)
    left.set_xscale("symlog", linthresh=1)
    left.set_yscale("symlog", linthresh=1)
    low = 1.4 * inside.min().item()
    left.set(xlabel="rate by Theorem 2", ylabel="measured rate", xlim=(low, 0), ylim=(low, 0))
    left.legend(loc="upper left", fontsize=8)
    run = followed(case)[0]
    again, K = rebuilt(run, order_products, True), order_products(run.orders)
    for l, color in enumerate(layer_colors(4)):
        right.plot(run.times, run.squares[:, l], "o", color=color, label=f"layer {l + 1}, $K={K[l]:g}$")
        right.plot(run.times, again[:, l], **PREDICTED)
    right.set(xlabel="time", ylabel=r"$\|W_\ell\|^2$")
    right.legend(fontsize=8)
    columns = {"predicted": inside[:, 0], "measured": inside[:, 1], "time": run.times}
    columns |= {"outside_predicted": outside[:, 0], "outside_measured": outside[:, 1]}
    layers = {f"layer_{l + 1}": run.squares[:, l] for l in range(4)}
    show_figure(fig, name="norm-rates", data=columns | layers)


def draw_quotient(case: Case) -> None:
    """The difference quotient beyond the edge, what the flow predicts, and the exact law of a step."""
    fig, (left, right) = axes(1, 2, height=3.1)
    run, step = descent(case, "beyond the edge", False, False, order_products), 0.15
    quotient, flow, law = ((run.after - run.before).sum(1) / step, run.flow.sum(1), run.law.sum(1))
    steps = torch.arange(len(quotient))
    left.plot(steps, quotient, **MEASURED, label="difference quotient")
    left.plot(steps, flow, **BROKEN, label="flow, Theorem 2")
    left.plot(steps, law, **PREDICTED, label="law of a step")
    rises = (run.loss.diff()[50:] > 0).nonzero()
    edge = 50 + (int(rises[0]) if len(rises) else 50)  # the first rise of the loss after the start has settled
    window = slice(edge - 30, edge + 50)
    low, high = flow[window].min().item(), quotient[window].max().item()
    ends = low - 0.05 * (high - low), high + 0.5 * (high - low)
    left.set(xlabel="step", ylabel=r"rate of $\|\theta\|^2$", xlim=(window.start, window.stop), ylim=ends)
    left.legend(fontsize=8, loc="upper left")
    gap, rest = (quotient - flow).abs(), (quotient - law).abs().clamp_min(1e-17)
    right.semilogy(steps, gap, **BROKEN, label="flow")
    right.semilogy(steps, rest, **MEASURED, label="law of a step")
    right.set(xlabel="step", ylabel="distance from the quotient")
    right.legend(loc="center right")
    columns = {"step": steps, "quotient": quotient, "flow": flow, "law": law, "gap_flow": gap, "gap_law": rest}
    show_figure(fig, name="difference-quotient", data=columns | {"loss": run.loss})


WIDTHS = (32, 96, 320, WIDE)
THEORIES = {
    "kernel, lazy scaling": ("ntk", "kernel", MEASURED | {"marker": "o"}),
    "wide output, mean-field scaling": ("mean field", "output", MEASURED | {"color": GREEN, "marker": "s"}),
    "kernel, mean-field scaling": ("mean field", "kernel", BROKEN | {"marker": "D"}),
}


def draw_theories(case: Case) -> None:
    """Error of what a theory of the output foretells of norms, against width."""
    fig, ax = axes(height=3.0, width=6.2)
    columns = {"width": torch.tensor(WIDTHS)}
    draws = {WIDTHS[0]: 6, WIDE: 1}
    for name, (scaling, theory, look) in THEORIES.items():
        errors = [foretold(case, TASKS[0], w, scaling, theory, draws.get(w, 2))[-1].mean() for w in WIDTHS]
        columns[name.replace(" ", "_")] = torch.stack(errors)
        ax.loglog(WIDTHS, torch.stack(errors), **look, label=name)
    first = columns["kernel,_lazy_scaling"][0]
    ax.loglog(WIDTHS, first * (torch.tensor(WIDTHS) / 32.0) ** -0.5, **PREDICTED, label="slope −1/2")
    ax.set_xticks(list(WIDTHS), [str(w) for w in WIDTHS])
    ax.set_xticks([], minor=True)
    low, high = ax.get_ylim()
    ax.set(xlabel="pairs of hidden units", ylabel="error of the norm's growth", ylim=(low, 6 * high))
    ax.legend(fontsize=8, ncols=2, loc="upper center")
    show_figure(fig, name="lazy-norms", data=columns)

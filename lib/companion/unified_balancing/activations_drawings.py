"""Figures of the chapter on other activations."""

from dataclasses import replace

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show import results
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.unified_balancing.activations import (
    ENTROPY,
    SQUARE,
    Figure,
    descent,
    drawn,
    off,
    relative_defect,
    total,
)

PAIR = {"square loss": SQUARE, "cross-entropy": ENTROPY}
LINES = ("-", ":", "--", "-.")


def band(ax, steps: Tensor, values: Tensor, **style) -> None:
    """Mean over seeds with the range of all seeds."""
    ax.plot(steps, values.mean(1), **style)
    ax.fill_between(steps, values.amin(1), values.amax(1), color=style["color"], alpha=0.2, linewidth=0)


def draw_balance(case: Case) -> None:
    """Largest entry of the balance at three junctions, and how far it is from its curve, in heights of the figure."""
    fig, panels = axes(2, 2, height=4.8, sharex=True, sharey="row")
    data = {}
    for (top, bottom), (title, figure) in zip(panels.T, PAIR.items(), strict=True):
        run = descent(case, figure)
        steps, gap = run["step"], off(run, figure).clamp_min(1e-6)
        curve = torch.exp(-2 * figure.weight_decay * figure.learning_rate * steps)
        for l, color in enumerate(layer_colors(3)):
            look = {"color": color, "linestyle": LINES[l], "linewidth": 1.8}
            band(top, steps, run["ratio"][:, :, l] * curve[:, None], **look, label=f"layers {l + 1}, {l + 2}")
            band(bottom, steps[1:], gap[1:, :, l], **look)
            data |= {f"{title}_largest_{l + 1}": (run["ratio"][:, :, l] * curve[:, None]).mean(1)}
        top.plot(steps, curve, **PREDICTED, label=r"$e^{-2\delta t}$")
        bottom.axhline(0.05, **PREDICTED)
        bottom.set(xlabel="step", yscale="log", ylim=(1e-5, 1))
        top.set(title=title)
    panels[0, 0].set(ylabel=r"$\max|\mathcal{B}|$ over its start")
    panels[1, 0].set(ylabel="distance (dashes: 1/20)")
    panels[0, 0].legend(fontsize=8)
    show_figure(fig, name="tanh-balance", data={"step": steps, "predicted": curve} | data)


def draw_norms(case: Case) -> None:
    """Total rate with order one and decay alone; distances by layer and of the exact law, in heights of the figure."""
    fig, panels = axes(2, 2, height=4.8, sharex=True, sharey="row")
    data = {}
    for (top, bottom), (title, figure) in zip(panels.T, PAIR.items(), strict=True):
        run = descent(case, figure)
        steps, predicted = run["step"], run["flow"] + run["decay"]
        band(top, steps, total(run["quotient"]), **MEASURED, label="measured")
        top.plot(steps, total(predicted).mean(1), **PREDICTED, label="predicted, $k=1$")
        top.plot(steps, total(run["decay"]).mean(1), **BROKEN, label="decay alone")
        for l, color in enumerate(layer_colors(4)):
            gap = ((run["quotient"] - predicted)[:, :, l].abs() / drawn(run)).mean(1)
            bottom.semilogy(steps, gap, color=color, linestyle=LINES[l], linewidth=1.6, label=f"layer {l + 1}")
            data |= {f"{title}_missed_{l + 1}": gap}
        rest = run["quotient"] - predicted - run["defect"] - run["own"]
        exact = (rest.abs().amax(2) / drawn(run)).amax(1).clamp_min(1e-17)
        bottom.semilogy(steps, exact, **PREDICTED, label="exact law")
        bottom.set(xlabel="step")
        top.set(title=title)
        data |= {f"{title}_{name}": total(run[name]).mean(1) for name in ("quotient", "flow", "decay")}
    panels[0, 0].set(ylabel=r"rate of $\|\theta\|^2$")
    panels[1, 0].set(ylabel="distance, heights of the figure")
    panels[0, 0].legend(fontsize=8)
    panels[1, 0].legend(ncol=2, loc="center right", fontsize=8)
    show_figure(fig, name="tanh-norms", data={"step": steps} | data)


def draw_orders(case: Case) -> None:
    """How the defect vanishes as an activation is straightened; effective orders of the junctions in training."""
    fig, (left, right) = axes(1, 2, height=3.2)
    scales = [1e-3, 1e-2, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    data = {"a": scales}
    for activation, look in (("tanh", MEASURED), ("gelu", BROKEN), ("relu", {"color": GREEN})):
        for loss, line in (("square", "-"), ("cross-entropy", ":")):
            sizes = [relative_defect(case, Figure(loss=loss, activation=activation, bent=a))[0].item() for a in scales]
            name = {"tanh": "tanh", "gelu": "GELU", "relu": "ReLU"}[activation] if line == "-" else None
            left.loglog(scales, sizes, **(look | {"linestyle": line}), label=name)
            data[f"{activation}_{loss}"] = sizes
    left.axvline(1.0, **PREDICTED)
    left.set(xlabel=r"$a$ in $\phi(az)/a$ (dotted: cross-entropy)", ylabel="relative size of the defect")
    left.legend(fontsize=8)
    for (title, figure), line in zip(PAIR.items(), ("-", ":"), strict=True):
        run = descent(case, figure)
        for l, color in enumerate(layer_colors(3)):
            order = run["order"][:, :, l].median(1).values
            label = f"layers {l + 1}, {l + 2}" if line == "-" else None
            right.plot(run["step"][4:], order[4:], color=color, linestyle=line, linewidth=1.8, label=label)
            data[f"{title}_order_{l + 1}"] = order
    right.axhline(1.0, **PREDICTED)
    right.set(xlabel="step (dotted: cross-entropy)", ylabel="effective order", ylim=(0.5, 1.05))
    right.legend(fontsize=8)
    show_figure(fig, name="effective-order", data=data)


CHANGES = {
    "square loss": [("target_scale", c) for c in (0.5, 1.0, 2.0, 5.0)],
    "cross-entropy": [("loss_scale", c) for c in (0.1, 0.3, 1.0, 2.0)],
}


@shared
def treated(case: Case) -> dict[str, list[tuple[float, float, float]]]:
    """For each loss and change of its pull: the factor, pre-activations of the last hidden layer, and what moved."""
    found = {}
    for name, changes in CHANGES.items():
        runs = [descent(case, replace(PAIR[name], seeds=2, steps=1001, **{key: c})) for key, c in changes]
        ends = [(run["field"][-1, :, -1].mean().item(), run["moved"][-1].amax(-1).mean().item()) for run in runs]
        found[name] = [(c, *end) for (_, c), end in zip(changes, ends, strict=True)]
    return found


def draw_interventions(case: Case) -> None:
    """What has moved in the balance against pre-activations, for both losses with a weaker or a stronger pull."""
    fig, ax = axes(height=3.2, width=6.0)
    data = {}
    for (name, rows), look in zip(treated(case).items(), (MEASURED, BROKEN), strict=True):
        factors, fields, moved = zip(*rows, strict=True)
        look = look | {"linewidth": 0.8, "marker": "o" if name == "square loss" else "D"}
        ax.loglog(fields, moved, **look, label=name)
        for factor, *point in rows:
            offset = (-24, 5) if name == "square loss" else (7, -10)
            ax.annotate(f"×{factor:g}", point, xytext=offset, textcoords="offset points", fontsize=8)
        data |= {f"{name}_factor": factors, f"{name}_field": fields, f"{name}_moved": moved}
    ax.set(xlabel="pre-activations of the last hidden layer, root mean square", ylabel="moved, of the largest entry")
    ax.legend(loc="lower right")
    show_figure(fig, name="tanh-interventions", data=data)


def wide(name: str) -> tuple[dict[str, Tensor], results.Provenance]:
    """A stored study at the paper's width, seeds along the first axis, with its prediction and ratio to Theorem 1."""
    run, origin = results.load(name)
    if len(origin.seeds) == 1:
        run = {key: values[None] for key, values in run.items()}
    time = origin.setup["learning_rate"] * run["step"][..., None]
    ratio = run["largest"] / run["largest"][:, :1] * torch.exp(2 * origin.setup["weight_decay"] * time)
    return run | {"ratio": ratio, "predicted": run["flow"] + run["decay"]}, origin


def draw_wide(studies: dict[str, str]) -> None:
    """Figures 1c, 1d, 2a and 2b in their printed form, three seeds each, of studies by title."""
    fig, panels = axes(2, 2, height=5.0, sharex=True, sharey="row")
    data = {}
    for (top, bottom), (title, name) in zip(panels.T, studies.items(), strict=True):
        run, _ = wide(name)
        steps = run["step"][0]
        curve = torch.exp(-2 * SQUARE.weight_decay * SQUARE.learning_rate * steps)
        for l, color in enumerate(layer_colors(3)):
            values = (run["ratio"][:, :, l] * curve).T
            band(top, steps, values, color=color, linestyle=LINES[l], linewidth=1.8, label=f"layers {l + 1}, {l + 2}")
            data[f"{title}_largest_{l + 1}"] = values.mean(1)
        top.semilogy(steps, curve, **PREDICTED, label=r"$e^{-2\delta t}$")
        band(bottom, steps, -total(run["quotient"]).T, **MEASURED, label="measured")
        bottom.plot(steps, -total(run["predicted"]).mean(0), **PREDICTED, label="predicted, $k=1$")
        top.set(title=title)
        bottom.set(xlabel="step", yscale="log")
        data |= {f"{title}_{name}": total(run[name]).mean(0) for name in ("quotient", "predicted")}
    panels[0, 0].set(ylabel=r"$\max|\mathcal{B}|$ over its start")
    panels[1, 0].set(ylabel=r"minus the rate of $\|\theta\|^2$")
    panels[0, 0].legend(fontsize=8)
    panels[1, 0].legend(fontsize=8)
    show_figure(fig, name="tanh-paper-size", data={"step": steps, "curve": curve} | data)


def rates(case: Case, figure: Figure) -> dict[str, float]:
    """Largest distance of the measured total rate from each prediction, in heights of the figure: worst seed."""
    run = descent(case, figure)
    away = lambda predicted: ((total(run["quotient"]) - predicted).abs().amax(0) / drawn(run)).max().item()
    flow, decay = run["flow"][..., 0], total(run["decay"])
    return {"order one": away(4 * flow + decay), "decay alone": away(decay), "order two": away(15 * flow + decay)}

"""Figures of the chapter on empirical evidence."""

from dataclasses import replace

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show import results
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.unified_balancing.convolutional import FIGURE_1A, FIGURE_1B, descent
from companion.unified_balancing.evidence import FEW, LEAKY, SETTLED, total

LINES = ("-", ":", "--", "-.")  # layers lie on each other: they are told apart by their dashes too
CAUSES = ("flow", "step", "leak")


def rest(run: dict[str, Tensor]) -> Tensor:
    """What the exact law leaves of every quotient."""
    return run["quotient"] - run["flow"] - run["step"] - run["leak"]


def layer_styles(count: int) -> list[dict]:
    """A colour and a dash for each layer, from the input on."""
    return [{"color": c, "linestyle": d, "linewidth": 1.8} for c, d in zip(layer_colors(count), LINES, strict=False)]


def draw_figure_1a(case: Case) -> None:
    """Rates of three layers with their common prediction; what it misses of each, over five seeds."""
    run, columns = descent(case, FEW), {}
    steps = torch.arange(FEW.steps)
    fig, (left, right) = axes(1, 2, height=3.3)
    share = ((run["quotient"] - run["flow"]) / run["quotient"]).abs()
    for l, style in enumerate(layer_styles(3)):
        left.plot(steps[SETTLED:], run["quotient"][SETTLED:, 0, l], **style, label=f"layer {l + 1}")
        smooth = share[:, :, l].unfold(0, 9, 1).median(-1).values  # swings of period two
        right.semilogy(steps[4:-4], smooth.median(1).values, **style)
        band = smooth.amin(1), smooth.amax(1)
        right.fill_between(steps[4:-4], *band, color=style["color"], alpha=0.2, linewidth=0)
        columns |= {f"quotient_{l + 1}": run["quotient"][:, 0, l], f"share_{l + 1}": smooth.median(1).values}
    left.plot(steps[SETTLED:], run["drive"][SETTLED:, 0], **PREDICTED, label="predicted")
    exact = (rest(run).abs().amax(2) / run["quotient"].abs().amax(2)).amax(1)
    right.semilogy(steps, exact, **MEASURED, label="exact law, worst layer and seed")
    left.set(xlabel="step", ylabel=r"rate of $\|W_\ell\|^2$")
    right.set(xlabel="step", ylabel="missed, relative to the rate")
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="center right")
    show_figure(
        fig, name="figure-1a-digits", data={"step": steps, "predicted": run["drive"][:, 0], "law": exact} | columns
    )


def draw_figure_1b(case: Case) -> None:
    """Rates of four layers and of all together with their predictions; the causes of what layers 1 and 3 do."""
    run, columns = descent(case, LEAKY), {}
    steps = torch.arange(LEAKY.steps)
    fig, (left, right) = axes(1, 2, height=3.3)
    left.plot(steps[SETTLED:], total(run["quotient"])[SETTLED:, 0], **MEASURED, label="all layers")
    for l, style in enumerate(layer_styles(4)):
        left.plot(steps[SETTLED:], run["quotient"][SETTLED:, 0, l], **style, label=f"layer {l + 1}")
        columns |= {f"{cause}_{l + 1}": run[cause][:, 0, l] for cause in ("quotient", *CAUSES)}
    left.plot(steps[SETTLED:], run["drive"][SETTLED:, 0], **PREDICTED, label="predicted, all and 4")
    left.plot(steps[SETTLED:], 0 * steps[SETTLED:], **PREDICTED)
    right.semilogy(steps, run["leak"][:, 0, 0].abs(), **BROKEN, label="leak, layers 1 to 3")
    for l, style in enumerate(layer_styles(4)[:3]):
        look = style | {"color": GREEN} if l == 1 else style
        right.semilogy(steps, run["step"][:, 0, l], **look, label=f"finite steps, layer {l + 1}")
    right.semilogy(steps, rest(run)[:, 0].abs().amax(1).clamp_min(1e-17), **PREDICTED, label="rest")
    left.set(xlabel="step", ylabel=r"rate of $\|W_\ell\|^2$")
    right.set(xlabel="step", ylabel="parts of the rate", ylim=(1e-17, 1e2))
    left.legend(fontsize=8)
    right.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.19))
    show_figure(fig, name="figure-1b-digits", data={"step": steps, "predicted": run["drive"][:, 0]} | columns)


SHORT = {"steps": 120, "seeds": 1}
CHOICES = {
    "1a: as chosen": (FIGURE_1A, {}),
    "centred targets": (FIGURE_1A, {"centred": True}),
    "inputs in [0, 1]": (FIGURE_1A, {"inputs": "pixels"}),
    "120 images": (FIGURE_1A, {"images": 120}),
    "twice the steps": (FIGURE_1A, {"steps": 240}),
    "weights of LeCun": (FIGURE_1A, {"gain": 1.0}),
    "weights of He": (FIGURE_1A, {"gain": 2.0}),
    "1b: as chosen": (FIGURE_1B, {}),
    r"$\varepsilon=0$": (FIGURE_1B, {"epsilon": 0.0}),
    r"$\varepsilon=10^{-3}$": (FIGURE_1B, {"epsilon": 1e-3}),
    "inputs in [0, 1] ": (FIGURE_1B, {"inputs": "pixels"}),
    "weights of He ": (FIGURE_1B, {"gain": 2.0}),
}


@shared
def tried(case: Case) -> dict[str, dict[str, Tensor]]:
    """One run for each choice that the paper leaves open."""
    base = {"images": 40} | SHORT
    return {name: descent(case, replace(setup, **(base | change))) for name, (setup, change) in CHOICES.items()}


def draw_choices(case: Case) -> None:
    """Which share of all movement of the norms the prediction misses, and for which cause."""
    fig, ax = axes(height=3.8)
    moved = lambda run, cause: total(run[cause]).abs().sum()
    shares = [[moved(run, c) / sum(moved(run, k) for k in CAUSES) for c in CAUSES[1:]] for run in tried(case).values()]
    step, leak = torch.tensor(shares).T
    place, seen = torch.arange(len(CHOICES)).flip(0), leak > 0
    ax.semilogx(step, place, "o", color=MEASURED["color"], label="finite steps")
    ax.semilogx(leak[seen], place[seen], "D", color=BROKEN["color"], label=r"leak of $\varepsilon$")
    ax.axvline(0.05, **PREDICTED)
    ax.set_yticks(place.tolist(), list(CHOICES))
    ax.set(xlabel="share of all movement that the prediction misses (dashes: a twentieth)", xlim=(1e-5, 1.3))
    ax.legend(loc="upper left")
    show_figure(fig, name="evidence-choices", data={"choice": list(CHOICES), "finite_steps": step, "leak": leak})


def terms(run: dict[str, Tensor], learning_rate: float) -> dict[str, Tensor]:
    """Quotient, flow, finite steps and leak of a stored run, layers last, and what the exact law leaves."""
    parts = {
        "quotient": run["squares"].diff(dim=0) / learning_rate,
        "flow": run["order"] * run["drive"][:, None],
        "step": learning_rate * run["gradient"],
        "leak": run["leak"],
    }
    return parts | {"rest": rest(parts)}


def stored(name: str) -> tuple[dict[str, Tensor], results.Provenance]:
    """A stored run on images with the terms of its law."""
    run, origin = results.load(name)
    return run | terms(run, origin.setup["learning_rate"]), origin


def draw_stored(studies: dict[str, str]) -> None:
    """Rates of all layers with the prediction, and what it and the exact law miss, one row a figure of the paper."""
    fig, panels = axes(len(studies), 2, height=3.1 * len(studies), squeeze=False)
    data = {}
    for (left, right), (title, name) in zip(panels, studies.items(), strict=True):
        run, _ = stored(name)
        steps, layers = torch.arange(len(run["quotient"])), run["quotient"].shape[1]
        for l, style in enumerate(layer_styles(layers)):
            left.plot(steps[5:], run["quotient"][5:, l], **style, label=f"layer {l + 1}")
            right.semilogy(steps, (run["quotient"] - run["flow"])[:, l].abs(), **(style | {"linewidth": 0.9}))
            data |= {f"{title[:9]}_{cause}_{l + 1}": run[cause][:, l] for cause in ("quotient", "flow", "rest")}
        for K in run["order"].unique():
            left.plot(steps[5:], K * run["drive"][5:], **PREDICTED, label=f"predicted, $K={K:g}$")
        right.semilogy(steps, run["rest"].abs().amax(1).clamp_min(1e-17), **MEASURED, label="exact law, worst layer")
        left.set(xlabel="step", ylabel=r"rate of $\|W_\ell\|^2$", title=title)
        right.set(xlabel="step", ylabel="distance from the quotient")
        right.legend(fontsize=8, loc="center right")
        left.legend(fontsize=8)
    show_figure(fig, name="evidence-stored", data=data)

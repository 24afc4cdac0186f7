"""Figures of the chapter on the edge of stability."""

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show import results
from claimbook.show.figures import BROKEN, GREEN, GRID, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.unified_balancing.convolutional import descent
from companion.unified_balancing.edge_of_stability import EDGE, crossings
from companion.unified_balancing.evidence import SETTLED, total
from companion.unified_balancing.evidence_drawings import stored, terms


def two_panels(
    run: dict[str, Tensor], at: Tensor, sharpness: Tensor, cross: int, rate: float, name: str, legend: str
) -> None:
    """Rate with both predictions above, sharpness with the edge below; the crossing is marked in both."""
    fig, (top, bottom) = axes(2, 1, height=4.6, sharex=True)
    steps = torch.arange(len(run["quotient"]))
    exact = run["flow"] + run["step"]
    top.plot(steps[SETTLED:], run["quotient"][SETTLED:], **MEASURED, label="difference quotient")
    top.plot(steps[SETTLED:], run["flow"][SETTLED:], **BROKEN, label="prediction of the flow")
    top.plot(steps[SETTLED:], exact[SETTLED:], **PREDICTED, label="exact law of a step")
    bottom.plot(at, sharpness[:, 1:], color=MEASURED["color"], linewidth=0.8, alpha=0.5)
    bottom.plot(at, sharpness[:, 0], marker=".", **MEASURED, label="sharpness")
    bottom.axhline(2 / rate, **PREDICTED, label=r"$2/\eta$")
    for ax in (top, bottom):
        ax.axvline(cross, color=GRID, linewidth=4, zorder=0)
    top.legend(loc=legend)
    bottom.legend(loc="lower right")
    top.set(ylabel=r"rate of $\|\theta\|^2$")
    bottom.set(xlabel="step", ylabel=r"$\lambda_{\max}$", ylim=(0, None))
    data = {"step": steps, "quotient": run["quotient"], "flow": run["flow"], "finite_steps": run["step"], "at": at}
    show_figure(fig, name=name, data=data | {f"sharpness_{k}": s for k, s in enumerate(sharpness.T)})


def draw_edge(case: Case) -> None:
    """Rate and predictions of the first seed; the sharpness of all seeds."""
    run, cross = descent(case, EDGE), int(crossings(case, EDGE)[0])
    first = {name: total(run[name])[:, 0] for name in ("quotient", "flow", "step")}
    two_panels(first, run["at"], run["sharpness"], cross, EDGE.learning_rate, "edge-of-stability", "lower left")


def crossing(run: dict[str, Tensor], rate: float) -> int:
    """First step, after the settling ones, at which a stored run was seen above its edge."""
    above = (run["sharpness"] > 2 / rate) & (run["sharpness_steps"] >= 2 * SETTLED)
    return int(run["sharpness_steps"][above.nonzero()[0]])


def draw_photographs(name: str, rate: float) -> None:
    """The same of a stored run."""
    run, _ = stored(name)
    sums = {key: total(run[key]) for key in ("quotient", "flow", "step")}
    sharpness = run["sharpness"][:, None]
    two_panels(sums, run["sharpness_steps"], sharpness, crossing(run, rate), rate, "edge-stored", "upper left")


def repeated(name: str) -> tuple[list[dict[str, Tensor]], results.Provenance]:
    """The runs of a study that was stored for several seeds, with the terms of their law."""
    stacked, origin = results.load(name)
    runs = [{key: values[k] for key, values in stacked.items()} for k in range(len(origin.seeds))]
    return [run | terms(run, origin.setup["learning_rate"]) for run in runs], origin


def partings() -> dict[str, tuple[list[dict[str, Tensor]], results.Provenance]]:
    """The stored studies of Fig. 1b in which its curves part, and the one without epsilon in which they do not."""
    return {
        "inputs in [0, 1]": repeated("data/results/paper/figure-1b-pixels.npz"),
        r"the same, $\varepsilon=0$": repeated("data/results/paper/figure-1b-no-epsilon.npz"),
        "ten times the step": repeated("data/results/paper/figure-1b-large-step.npz"),
    }


def causes(run: dict[str, Tensor], steps: slice) -> tuple[float, float]:
    """Shares of finite steps and of the leak in the total rate, in the median over some steps."""
    quotient = total(run["quotient"])[steps]
    return tuple((total(run[name])[steps] / quotient).median().item() for name in ("step", "leak"))


def draw_two_partings() -> None:
    """Shares of the total rate that the prediction misses, by cause; sharpness over its edge; three seeds each."""
    studies, data = partings(), {}
    fig, panels = axes(2, len(studies), height=4.8, sharex="col", sharey="row")
    for (top, bottom), (title, (runs, origin)) in zip(panels.T, studies.items(), strict=True):
        eta = origin.setup["learning_rate"]
        for k, run in enumerate(runs):
            quotient = total(run["quotient"])
            for name, look in (("leak", BROKEN), ("step", {"color": GREEN})):
                share = (total(run[name]) / quotient).unfold(0, 9, 1).median(-1).values
                label = {"leak": "leak", "step": "finite steps"}[name] if k == 0 else None
                top.plot(torch.arange(len(share))[SETTLED:] + 4, 100 * share[SETTLED:], **look, label=label)
                data[f"{title}_{name}_{k}"] = share
            bottom.plot(run["sharpness_steps"], run["sharpness"] * eta / 2, marker=".", **MEASURED)
        top.axhline(5, **PREDICTED)
        bottom.axhline(1, **PREDICTED)
        top.set(title=title)
        bottom.set(xlabel="step", ylim=(0, 3))
    panels[0, 0].set(ylabel="missed, % of the rate", ylim=(-1, 20))
    panels[1, 0].set(ylabel=r"sharpness over $2/\eta$")
    panels[0, 1].legend(fontsize=8)
    show_figure(fig, name="two-partings", data=data)

"""Figures of the page on networks of one's own."""

from torch import Tensor, nn

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, MEASURED, ORANGE, PREDICTED, PURPLE, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.unified_balancing.in_practice import attentive, slopes, under_momentum


def smooth(x: Tensor) -> Tensor:
    """Means over ten steps."""
    return x.unfold(0, 10, 10).mean(1)


def draw_resnet(case: Case) -> None:
    """The rate of all squared norms with two predictions, and the terms of the exact law."""
    total = under_momentum(case).total()
    t = smooth(total["step"].double())
    fig, (ax, causes) = axes(1, 2, height=3.2)
    ax.plot(t, smooth(total["rate"]), **MEASURED, label="difference quotient")
    ax.plot(t, smooth(total["flow"] + total["decay"]), **BROKEN, label="flow and decay")
    ax.plot(t, smooth(total["law"]), **PREDICTED, label="exact law")
    ax.set(xlabel="step", ylabel=r"rate of $\|\theta\|^2$", yscale="symlog")
    ax.legend()
    colours = {"flow": BLUE, "broken": VERMILION, "decay": ORANGE, "optimizer": GREEN, "step_term": PURPLE}
    for name, colour in colours.items():
        causes.plot(t, smooth(total[name]), color=colour, label=name.removesuffix("_term"))
    causes.set(xlabel="step", ylabel="term of the exact law", yscale="symlog", ylim=(-0.5, 300))
    causes.legend(ncols=2)
    columns = {name: smooth(total[name]) for name in ("rate", "law", *colours)}
    show_figure(fig, name="monitor-resnet", data={"step": t} | columns)


def draw_transformer(case: Case) -> None:
    """Slopes in the first block over the alignment, which is the slope of the readout."""
    monitors = {"ReLU": attentive(case, single=True, eps=1e-5), "GELU": attentive(case, nn.GELU, eps=1e-5, single=True)}
    found = {kind: slopes(monitor) for kind, monitor in monitors.items()}
    t = smooth(monitors["ReLU"].total()["step"].double())
    fig, panels = axes(1, 2, height=3.2, sharex=True)
    heads, curves = tuple(f"attention.{n}" for n in ("query", "key", "value", "out")), {}
    for ax, kinds, names in ((panels[0], ("ReLU",), heads), (panels[1], ("ReLU", "GELU"), ("up", "down"))):
        for k, (kind, name) in enumerate((kind, name) for kind in kinds for name in names):
            label = name.removeprefix("attention.") + (f", {kind}" if len(kinds) > 1 else "")
            curves[label] = smooth(found[kind][f"layers.0.{name}.weight"]) / smooth(found[kind]["head.weight"])
            style = PREDICTED if k % 2 else MEASURED | {"color": (BLUE, VERMILION)[k // 2], "linewidth": 3}
            ax.plot(t, curves[label], **style, label=label)
        ax.set(xlabel="step", ylabel=r"$\langle W,g\rangle\,/\,\langle f,\nabla_f L\rangle$")
        ax.margins(y=0.35)
        ax.legend(ncols=2, loc="upper left")
    show_figure(fig, name="monitor-transformer", data={"step": t} | curves)

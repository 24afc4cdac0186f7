"""Figures of the chapter on neural collapse, and the numbers that its prose quotes."""

import torch
from matplotlib.ticker import LogLocator
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, GREEN, MEASURED, ORANGE, PREDICTED, PURPLE, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import neural_collapse_runs as runs
from companion.square_loss.neural_collapse_runs import curve
from companion.studies.collapse_runs import LOSSES

PARTS = {"variance_ratio": ("NC1, scatter", BLUE), "angle_gap": ("NC2, angles", GREEN),
         "duality_gap": ("NC3, duality", PURPLE), "center_disagreement": ("NC4, nearest mean", ORANGE)}  # fmt: skip
WAYS = {(False, 0): (VERMILION, "-.", "no decay"), (False, 1): (VERMILION, "-", "decay"),
        (True, 0): (BLUE, "-.", "BN, no decay"), (True, 1): (BLUE, "-", "BN and decay")}  # fmt: skip
FLOOR = 1e-3  # where the shares that are zero are drawn


def middle(values: Tensor) -> Tensor:
    """Geometric mean over seeds, the plain mean where a value is zero."""
    return torch.where((values > 0).all(1), values.clamp_min(1e-300).log().mean(1).exp(), values.mean(1))


def draw_take_away(case: Case) -> None:
    """NC1 to NC4 of ten classes of CIFAR-10 under the square loss, with decay and without."""
    run = runs.images()[10, False]
    fit = runs.fitted(run)[0].max().item()
    columns = {"step": run["steps"]}
    fig, panels = axes(1, 2, height=3.1, sharey=True)
    for ax, decay, title in zip(panels, (1, 0), ("with weight decay", "without"), strict=True):
        for name, (label, color) in PARTS.items():
            values = middle(curve(run, name, "square", decay)).clamp(min=FLOOR)
            ax.loglog(run["steps"], values, color=color, linewidth=1.9, label=label)
            columns[f"{name}_{'decay' if decay else 'none'}"] = values
        ax.axvline(fit, **PREDICTED)
        ax.set(xlabel="step", title=title)
    panels[0].set(ylim=(0.7 * FLOOR, 10), ylabel="zero at collapse")
    panels[0].legend(loc="lower left", fontsize=8)
    show_figure(fig, name="collapse", data=columns)


def draw_scatter(case: Case) -> None:
    """Scatter within classes over scatter between: losses above each other, numbers of classes side by side."""
    fig, panels = axes(2, 3, height=4.4, sharex=True, sharey=True)
    columns = {f"step_{C}_classes": runs.images()[C, False]["steps"] for C in (2, 3, 10)}
    for line, loss in zip(panels, LOSSES, strict=True):
        for ax, C in zip(line, (2, 3, 10), strict=True):
            for (bn, decay), (color, style, label) in WAYS.items():
                run = runs.images()[C, bn]
                values = curve(run, "variance_ratio", loss, decay)
                ax.loglog(run["steps"], middle(values), color=color, linestyle=style, linewidth=1.5, label=label)
                ax.fill_between(run["steps"], values.amin(1), values.amax(1), color=color, alpha=0.15, linewidth=0)
                columns[f"{loss}_{C}_classes{'_bn' * bn}{'_decay' * decay}"] = middle(values)
            ax.set_title(f"{loss}, {C} classes")
        line[0].set_ylabel(r"$\mathrm{tr}\,\Sigma_W/\mathrm{tr}\,\Sigma_B$")
    for ax in panels[1]:
        ax.set_xlabel("step")
    fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    show_figure(fig, name="collapse-images-nc1", data=columns)


def draw_private(case: Case) -> None:
    """Loss and measures of collapse at the private units over eight decades of decay."""
    grid = [10.0**-k for k in range(9, 1, -1)]
    losses = [runs.loss(runs.private(d)).item() for d in grid]
    fig, (left, right) = axes(1, 2, height=3.0)
    left.loglog(grid, losses, **MEASURED | {"marker": "o", "markersize": 4}, label="square loss")
    left.loglog(grid, [losses[3] * (d / grid[3]) ** 2 for d in grid], **PREDICTED, label="slope two")
    columns = {"decay": grid, "loss": losses}
    for name, color in zip(runs.MEASURES, (BLUE, BLUE, GREEN, PURPLE, ORANGE), strict=True):
        values = [runs.measures("private", d)[name].item() for d in grid]
        right.loglog(grid, values, color=color, linestyle="--" if name in ("NC1, published", "NC2") else "-",
                     label=name)  # fmt: skip
        columns[name.lower().replace(", ", "_")] = values
    left.set(xlabel=r"weight decay $\lambda$")
    left.legend()
    right.set(xlabel=r"weight decay $\lambda$", ylim=(1e-2, 2.5), title="measures of collapse")
    right.legend(fontsize=8, loc="center left", bbox_to_anchor=(0.0, 0.52), ncols=2)
    show_figure(fig, name="collapse-counterexample", data=columns)


def draw_depth(case: Case) -> None:
    """Scatter on the four clusters under decay with one and two hidden layers, without normalisation and with it."""
    level = runs.by_hand("private", 0.0)["NC1, scatter"]
    fig, panels = axes(1, 2, height=3.0, sharey=True)
    columns: dict[str, Tensor] = {}
    for ax, bn in zip(panels, (False, True), strict=True):
        for hidden, color in zip((1, 2), (VERMILION, BLUE), strict=True):
            run = runs.descended(case, hidden, batch_norm=bn)
            values = run["variance_ratio"][:, 0, 0]
            ax.loglog(run["steps"], middle(values), color=color, label=f"{hidden} hidden")
            ax.fill_between(run["steps"], values.amin(1), values.amax(1), color=color, alpha=0.2, linewidth=0)
            columns |= {"step": run["steps"], f"hidden_{hidden}{'_bn' * bn}": middle(values)}
        ax.set(xlabel="step", title="batch normalisation" if bn else "no normalisation")
        ax.legend(loc="lower left", fontsize=8)
    panels[0].axhline(level, **PREDICTED)
    panels[0].set_ylabel("scatter within over between")
    panels[0].yaxis.set_major_locator(LogLocator(10))
    show_figure(fig, name="collapse-depth", data=columns)


def of_images() -> dict[str, str]:
    """What the stored runs find, for the prose."""
    every = runs.images()
    plain = [every[C, False] for C in (2, 3, 10)]
    late = max(runs.fitted(run).max().item() for run in every.values())
    last = min(run["steps"][-1].item() for run in every.values())
    ratio = lambda run, loss: (
        middle(curve(run, "variance_ratio", loss, 0))[-1] / middle(curve(run, "variance_ratio", loss, 1))[-1]
    ).item()
    square, entropy = ([ratio(run, loss) for run in plain] for loss in LOSSES)
    stalled = [curve(run, "variance_ratio", loss, 0)[-1] for run in every.values() for loss in LOSSES]
    jumped = max(run["error"][run["steps"] > 1000][:, :, 1].max().item() for run in every.values())
    disagree = [curve(run, "center_disagreement", "square", 0)[-1] for run in every.values()]
    end = lambda run, name, loss, decay: f"{curve(run, name, loss, decay)[-1].mean().item():.2f}"
    return runs.plan() | {
        "late": f"{late}", "last": f"{last}",
        "dropped": f"{min(square):.0f} to {max(square):.0f}", "dropped-ce": f"{min(entropy):.1f} to {max(entropy):.1f}",
        "stalled": f"{min(v.min().item() for v in stalled):.1f} to {max(v.max().item() for v in stalled):.0f}",
        "jumped": f"{100 * jumped:.0f}",
        "angles": end(plain[2], "angle_gap", "square", 1), "angles-none": end(plain[2], "angle_gap", "square", 0),
        "dual": end(plain[0], "duality_gap", "cross-entropy", 1),
        "dual-square": end(plain[0], "duality_gap", "square", 1),
        "dual-ten": end(plain[2], "duality_gap", "square", 1),
        "nc4-none": f"{100 * min(v.min().item() for v in disagree):.0f} to "
                    f"{100 * max(v.max().item() for v in disagree):.0f}",
        "images-stalled": f"{curve(plain[2], 'variance_ratio', 'square', 0)[-1].mean().item():.1f}",
    }  # fmt: skip


def of_depth(case: Case) -> dict[str, str]:
    """Scatter at the end of training on the four clusters, and what the global minimum foretells."""
    found = {"level": f"{runs.by_hand('private', 0.0)['NC1, scatter']:.2f}"}
    for bn in (False, True):
        for hidden in (1, 2):
            run = runs.descended(case, hidden, batch_norm=bn)
            values, name = run["variance_ratio"][-1, 0, 0], f"hidden-{hidden}{'-bn' * bn}"
            found[name] = f"{values.median().item():.{4 if hidden == 2 and not bn else 2}f}"
            found[f"{name}-range"] = f"{values.min().item():.2f} to {values.max().item():.2f}"
            found[f"{name}-loss"] = f"{run['loss'][-1, 0, 0].median().item():.0e}"
    return found

"""Figures of the chapter on experiment 1: the loss of one unit, how far norms move, paths in the plane."""

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, GREEN, INK, ORANGE, PREDICTED, PURPLE, VERMILION, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import norms_and_spectra_runs as runs
from companion.normalization_geometry.norms_and_spectra_runs import LARGE, RATES, SCALES, SMALL

WORLDS = (("BN", True, 0.0), (r"BN, $\epsilon=0.05$", True, 0.05), ("none", False, 0.0))


def one(case: Case, w: Tensor, normalised: bool, epsilon: float) -> Tensor:
    """Square losses of the first task at weights ``(..., 2)``."""
    X, y = (part[:1] for part in runs.task(case))
    flat = w.reshape(-1, 1, 2)
    return torch.stack([runs.losses(X, y, v, "square", normalised, epsilon)[0] for v in flat]).reshape(w.shape[:-1])


def paths(case: Case, normalised: bool, epsilon: float, size: float) -> Tensor:
    """Four descents of the first task, ``(steps, 4, 2)``."""
    X, y = (part[0].expand(4, *part.shape[1:]) for part in runs.task(case))
    path = [size * runs.spokes(4) @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64)]
    slope = runs.gradient(lambda p: runs.losses(X, y, p["w"], "square", normalised, epsilon).sum())
    for _ in range(1500):
        path.append(path[-1] - 0.05 * size**2 * slope({"w": path[-1]})["w"])
    return torch.stack(path)


def draw_contours(case: Case) -> None:
    """The loss over the plane of weights with BN, with an epsilon, and without normalisation; four descents each."""
    best = runs.best(*runs.task(case))[0]
    reach = 3 * best.norm().item()
    side = torch.linspace(-reach, reach, 61).double()
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
    fig, panels = axes(1, 3, height=3.3, width=8.4, sharey=True)
    columns = {}
    for ax, (name, normalised, epsilon) in zip(panels, WORLDS, strict=True):
        heights = one(case, grid, normalised, epsilon)
        low, high = heights.min().item(), heights.max().item()
        levels = low + (high - low) * torch.linspace(0.02, 1, 13) ** 2
        ax.contour(side, side, heights, levels=levels.tolist(), colors=layer_colors(13), linewidths=0.9)
        path = paths(case, normalised, epsilon, 0.8 * reach)
        for k in range(4):
            ax.plot(*path[:, k].T, color=BLUE, linewidth=1.8)
            ax.plot(*path[0, k], "o", color=BLUE, markersize=4)
            columns |= {f"{name[:4]}_{k}_w1": path[:, k, 0], f"{name[:4]}_{k}_w2": path[:, k, 1]}
        if normalised:
            ax.plot([0, 4 * best[0]], [0, 4 * best[1]], color=VERMILION, linestyle="--", linewidth=1.6)
        else:
            ax.plot(*best, "*", color=VERMILION, markersize=11)
        ax.set(xlabel="$w_1$", title=name, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    panels[0].set_ylabel("$w_2$")
    show_figure(fig, name="c-toy-contours", data=columns)


def draw_change(case: Case) -> None:
    """Relative growth of the norm against step over squared start; its distribution in five variants."""
    fig, (left, right) = axes(1, 2, height=3.2, width=8.4)
    columns = {}
    for loss, colour, marker in (("logistic", BLUE, "o"), ("square", GREEN, "^")):
        norms = runs.grown(case, loss).norms
        ratio = (torch.tensor(RATES, dtype=torch.float64)[:, None] / norms[0] ** 2).flatten()
        change = (norms[-1] / norms[0] - 1).flatten()
        left.loglog(ratio, change, marker, ms=2.5, color=colour, alpha=0.6, label=loss)
        columns |= {f"ratio_{loss}": ratio, f"change_{loss}": change}
    line = torch.logspace(-5, 0, 20)
    left.loglog(line, 0.25 * line, color=INK, linewidth=1, linestyle=":", label="slope 1")
    left.axhline(0.01, **PREDICTED)
    left.set(xlabel=r"$\eta/\|w_0\|^2$", ylabel=r"growth of $\|w\|$", title="scales and steps", ylim=(1e-9, 1e5))
    left.legend(loc="upper left", fontsize=8)
    varied = runs.varied(case)
    rank = (torch.arange(100) + 1) / 100
    for (name, values), colour in zip(varied.items(), (BLUE, GREEN, PURPLE, VERMILION, ORANGE), strict=True):
        right.semilogx(values.sort().values, rank, color=colour, linewidth=1.6, label=name)
        columns[name] = values.sort().values
    right.axvline(0.01, **PREDICTED)
    right.set(
        xlabel=r"change of $\|w\|$", ylabel="share of starts below", title=r"scale 1, $\eta=0.1$", xlim=(1e-6, 30)
    )
    right.legend(loc="upper left", fontsize=8)
    show_figure(fig, name="c-norm-change", data=columns)


def draw_arcs(case: Case) -> None:
    """One task: the plane for a long start, and angle against norm for a long and a short one."""
    X, y = runs.task(case)
    best, k = runs.best(X, y), 0
    aim, size = runs.unit(best), best.norm(dim=1)
    fig, (left, right) = axes(1, 2, height=3.3, width=8.4)
    columns = {}
    for factor in (LARGE[-1], SMALL[0]):
        bare = runs.exact(case, "blobs", runs.starts(case, "blobs", factor))[:, k] / size[k]
        arc = runs.arcs(case, "blobs", "square", factor)[:, k] / size[k]
        for path, colour, dash, name in ((arc, GREEN, "-", "BN"), (bare, VERMILION, "-.", "none")):
            along, off = path @ aim[k], path @ runs.across(aim[k])
            angle, norm = torch.rad2deg(torch.atan2(off, along)), path.norm(dim=1)
            label = name if factor > 1 else None
            right.semilogy(angle, norm, color=colour, linestyle=dash, linewidth=2, label=label)
            right.plot(angle[0], norm[0], "o", color=colour, ms=5)
            if factor > 1:
                left.plot(along, off, color=colour, linestyle=dash, linewidth=2, label=name)
            columns |= {f"{name}_{factor:g}_angle": angle, f"{name}_{factor:g}_norm": norm}
    quarter = torch.linspace(0, torch.pi / 2, 50)
    left.plot(10 * quarter.cos(), 10 * quarter.sin(), **PREDICTED)
    left.plot(1, 0, "*", color=PURPLE, ms=11)
    left.set(xlabel=r"along $w_*$", ylabel="across", title=r"long start, in units of $\|w_*\|$", aspect="equal")
    right.plot(0, 1, "*", color=PURPLE, ms=11, clip_on=False)
    right.set(xlabel="angle to the best direction, degrees", ylabel=r"$\|w\|/\|w_*\|$", title="long and short start",
              xlim=(95, -3), ylim=(0.06, 17), xticks=(90, 60, 30, 0))  # fmt: skip
    right.legend(loc="center left")
    show_figure(fig, name="c-arcs", data=columns)


def numbers(case: Case) -> dict[str, str]:
    """For the text: shares below one percent, the largest change, the lead of the radius by start, classes and loss."""
    change = {loss: runs.grown(case, loss).norms for loss in ("logistic", "square")}
    grown = {loss: norms[-1] / norms[0] - 1 for loss, norms in change.items()}
    told = {f"share-{scale:g}": f"{100 * (grown['logistic'][i, 1] < 0.01).double().mean():.0f}"
            for i, scale in enumerate(SCALES)}  # fmt: skip
    told["largest"] = f"{max(g.max().item() for g in grown.values()):.0f}"
    varied = runs.varied(case)
    for name, key in (("as left", "one"), ("gain, shift", "gain"), ("batch of 10", "batch"), ("square loss", "square"),
                      (r"$\epsilon=1$", "eps")):  # fmt: skip
        told[f"kept-{key}"] = f"{100 * (varied[name] < 0.01).double().mean():.0f}"
    lead = lambda kind, factor: runs.radial_lead(runs.exact(case, kind, runs.starts(case, kind, factor))) + 0.5
    for name, kind, factor in (("long", "blobs", 10.0), ("short", "blobs", 0.1), ("stretched", "stretched", 10.0)):
        told[f"lead-{name}"] = f"{100 * lead(kind, factor).mean():.0f}"
    bent = runs.radial_lead(runs.logistic(case, "blobs", LARGE[-1], torch.pi / 2)) + 0.5
    told["lead-logistic"] = f"{100 * bent.mean():.0f}"
    told["lead-spread"] = f"{100 * lead('stretched', 10.0).std():.0f}"
    return told

"""Figures of the chapter on experiment 3: curves of specifications, one pair's histograms, and noise in three units."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, GREEN, INK, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import margins_and_initialization as experiment
from companion.normalization_geometry import margins_and_initialization_runs as runs
from companion.normalization_geometry.margins_and_initialization_runs import CELLS, SIZES, STOPS, WAYS

COLOURS = dict(zip(STOPS, (BLUE, GREEN, VERMILION, "#CC79A7"), strict=True))
LOOK = {True: (BLUE, "-", "BN"), False: (VERMILION, "-.", "without")}


def draw_specifications(case: Case) -> None:
    """Ratios of mean margins and of tolerated noise in every cell, sorted, with intervals of 99 %."""
    fig, panels = axes(1, 2, height=3.2, width=9.0)
    titles = ("mean margin, BN over without", "noise tolerated, BN over without")
    columns = {}
    for ax, title, claim in zip(
        panels, titles, (experiment.margins_are_larger, experiment.noise_is_tolerated), strict=True
    ):
        found = torch.tensor(claim(case).cells, dtype=torch.float64).exp()  # mean, low, high
        order = found[:, 0].argsort()
        for name, colour in COLOURS.items():
            at = [k for k, cell in enumerate(order.tolist()) if CELLS[cell][1] == name]
            mean, low, high = found[order[at]].T
            ax.errorbar(at, mean, yerr=(mean - low, high - mean), fmt="o", ms=3, lw=1, color=colour, label=STOPS[name])
        ax.axhline(1, color=INK, lw=0.8)
        ax.set(title=title, xlabel="ways to train, sorted", yscale="log")
        ticks = (0.6, 0.8, 1, 1.2, 1.5) if claim is experiment.margins_are_larger else (0.5, 0.7, 1)
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        columns[title] = found[order, 0]
    panels[0].axhline(1.5, **PREDICTED)
    panels[0].text(71, 1.47, "printed: 1.8 / 1.2", va="top", ha="right", fontsize=8)
    panels[0].set_ylim(0.55, 1.7)
    panels[0].legend(loc="lower right", fontsize=7)
    show_figure(fig, name="margin-specifications", data=columns)


def draw_histograms(case: Case, stop: str = "first") -> None:
    """Margins of all pairs of one way to train, and where the two printed means lie."""
    fig, (left, right) = axes(1, 2, height=2.9, width=8.0)
    bins, columns = torch.linspace(0, 12, 41, dtype=torch.float64), {}
    for normalised, (colour, dash, label) in LOOK.items():
        m = runs.margins(case, WAYS[0], stop, normalised)
        for alpha, kind, name in ((0.25, "stepfilled", None), (1.0, "step", label)):
            left.hist(m.flatten().numpy(), bins=bins.numpy(), density=True, histtype=kind, color=colour, alpha=alpha,
                      linestyle=dash, label=name)  # fmt: skip
        matched = runs.margins(case, WAYS[0], "matched", normalised)
        right.plot(matched.std(1), matched.mean(1), "o" if normalised else "^", ms=5, color=colour, label=label)
        columns |= {
            f"mean_{label}": m.mean(1),
            f"deviation_{label}": matched.std(1),
            f"matched_{label}": matched.mean(1),
        }
    for value in (1.2, 1.8):
        left.axvline(value, **PREDICTED)
    left.text(1.9, 0.97, "printed means", va="top", fontsize=8, transform=left.get_xaxis_transform())
    left.set(xlabel="margin $yf(x)$", ylabel="density", title=STOPS[stop])
    right.set(xlabel="standard deviation", ylabel="mean margin", title=STOPS["matched"])
    left.legend(fontsize=8)
    show_figure(fig, name="margin-histograms", data=columns)


def draw_noise(case: Case) -> None:
    """Training accuracy against noise in three units, with quartiles over pairs; grey: all parameters times eight."""
    fig, panels = axes(1, 3, height=2.9, width=9.0, sharey=True)
    units = {"absolute": "one size for all", "layer": "relative to the tensor", "weight": "relative to the weight"}
    columns = {"size": SIZES}
    for ax, (unit, title) in zip(panels, units.items(), strict=True):
        for normalised, (colour, dash, label) in LOOK.items():
            seen = runs.accuracies(case, WAYS[0], "first", normalised, unit=unit)
            low, high = seen.quantile(torch.tensor([0.25, 0.75], dtype=seen.dtype), dim=1)
            ax.fill_between(SIZES, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.semilogx(SIZES, seen.mean(1), color=colour, linestyle=dash, linewidth=1.8, label=label)
            columns[f"{label}_{unit}"] = seen.mean(1)
        ax.set(xlabel="standard deviation", title=title)
    eight = runs.accuracies(case, WAYS[0], "first", True, factor=8.0).mean(1)
    panels[0].semilogx(SIZES, eight, color="#888888", linewidth=1.4, label=r"BN, all $\times 8$")
    panels[0].set(ylabel="training accuracy")
    panels[0].legend(loc="lower left", fontsize=8)
    show_figure(fig, name="noise-curves", data=columns | {"rescaled": eight})


def counts(case: Case) -> dict[str, str]:
    """For the text: in how many cells each effect is shown and denied, ratios, and distances to the boundary."""
    told = {}
    claims = {"margin": experiment.margins_are_larger, "noise": experiment.noise_is_tolerated}
    for name, claim in claims.items():
        cells = claim(case).cells
        told[f"{name}-shown"] = f"{sum(low > 0 for _, low, _ in cells)}"
        told[f"{name}-denied"] = f"{sum(high < 0 for _, _, high in cells)}"
        told[f"{name}-most"] = f"{torch.tensor([mean for mean, _, _ in cells]).max().exp():.2f}"
    both = [cell for cell, (_, low, _) in zip(CELLS, claims["margin"](case).cells, strict=True) if low > 0]
    told["margin-both"] = f"{sum(stop == 'both' for _, stop in both)}"
    narrower = experiment.histogram_moves_and_narrows(case).members["narrower"].cells
    told["narrower"] = f"{sum(low > 0 for _, low, _ in narrower)}"
    told["cells"] = f"{len(CELLS)}"
    for normalised, (_, _, label) in LOOK.items():
        below, above = runs.distances(case, WAYS[0], "first", normalised)
        told |= {f"below-{label}": f"{below.mean():.2f}", f"above-{label}": f"{above.mean():.2f}"}
        told[f"test-{label}"] = f"{100 * runs.tests(case, WAYS[0], 'first', normalised).mean():.1f}"
    return told

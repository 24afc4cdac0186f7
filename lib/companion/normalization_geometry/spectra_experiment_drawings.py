"""Figures of the chapter on experiment 2: a curve of specifications, curves of one way, spectra at the end."""

import itertools

import torch

from claimbook.evidence import Case, tendency
from claimbook.show.figures import BLUE, GREEN, INK, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import spectra_experiment as experiment
from companion.normalization_geometry import spectra_experiment_runs as runs
from companion.normalization_geometry.protocols import STARTS
from companion.normalization_geometry.spectra_experiment_runs import HIGH, LOWERED, RULES, STEPS, WAYS, Way

LOOK = {"relu": (BLUE, "o", "ReLU"), "tanh": (VERMILION, "^", "tanh")}


def intervals(case: Case, rule: str) -> list[tuple[str, float, float, float]]:
    """Activation, and ratio of iterations with its interval of 99 %, of every cell of a rule, rising."""
    some, found = runs.ways(case) if rule == "equal" else WAYS, []
    for way in some:
        cells = experiment.delays(case, rule, True, STEPS, [way])
        if cells:
            cells = tendency(effect=lambda cells=cells: cells, reason="for the figure").cells
            found += [(way.activation, *torch.tensor(cell, dtype=torch.float64).exp().tolist()) for cell in cells]
    return sorted(found, key=lambda row: row[1])


def draw_specifications(case: Case) -> None:
    """How many times as many iterations the plain network takes, in every cell, by the rule for steps."""
    fig, panels = axes(1, 2, height=3.2, width=9.0, sharey=True)
    columns = {}
    for ax, (rule, title) in zip(panels, RULES.items(), strict=True):
        rows = intervals(case, rule)
        for name, (colour, mark, label) in LOOK.items():
            at = [k for k, row in enumerate(rows) if row[0] == name]
            mean, low, high = torch.tensor([rows[k][1:] for k in at], dtype=torch.float64).T
            ax.errorbar(at, mean, yerr=(mean - low, high - mean), fmt=mark, ms=3, lw=1, color=colour, label=label)
        ax.axhline(1, color=INK, lw=0.8)
        ax.set(title=title, xlabel="ways to train and levels, sorted", yscale="log")
        ticks = (0.5, 1, 2, 5, 10)
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        columns[f"iterations_{rule}"] = torch.tensor([row[1] for row in rows])
    panels[0].set_ylabel("iterations without BN / with")
    panels[0].legend(loc="upper left", fontsize=8)
    show_figure(fig, name="c-specifications", data=columns)


def draw_curves(case: Case) -> None:
    """Loss and norm of the gradient of one way with each activation, at the largest step that is stable with BN."""
    fig, panels = axes(2, 2, height=5.0, sharex=True)
    columns = {"iteration": torch.arange(STEPS + 1)}
    for (row, what), (column, act) in itertools.product(enumerate(("loss", "slope")), enumerate(LOOK)):
        ax, way = panels[row, column], Way("torch", act, "hidden", "momentum")
        for normalised, colour, dash, label in ((True, BLUE, "-", "BN"), (False, VERMILION, "-.", "without")):
            seen = experiment.run(case, way, "equal", normalised, STEPS, what).double().clamp(max=1e3)
            low, middle, high = seen.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=seen.dtype), dim=1)
            ax.fill_between(torch.arange(len(seen)), low, high, color=colour, alpha=0.2, linewidth=0)
            ax.semilogy(middle, color=colour, linestyle=dash, label=label)
            columns[f"{act}_{label}_{what}"] = middle
        ax.axvline(100, **PREDICTED)
    for ax, act in zip(panels[0], LOOK, strict=True):
        rate = runs.RATES["momentum"][runs.chosen(case, Way("torch", act, "hidden", "momentum"), "equal", True)]
        ax.set(title=f"{LOOK[act][2]}, step {rate:g}", ylim=(1e-4, 5))
    for ax in panels[1]:
        ax.set(xlabel="iterations", ylim=(3e-3, 10))
    panels[0, 0].set_ylabel("loss")
    panels[1, 0].set_ylabel(r"$\|\nabla L\|$")
    panels[0, 0].legend(loc="upper right", fontsize=8)
    show_figure(fig, name="c-loss-curves", data=columns)


def draw_spectra(case: Case) -> None:
    """Ratios of largest eigenvalues against ratios of steps, and condition numbers against where zero is cut off."""
    fig, (left, right) = axes(1, 2, height=3.2, width=8.0)
    columns = {}
    for act, layers in experiment.NETS:
        colour, mark, label = LOOK[act]
        for high, low in ((HIGH, LOWERED[0]), (HIGH, LOWERED[1]), (LOWERED[1], LOWERED[1])):
            pairs = [
                (experiment.tops(case, "plain", act, s, low, 800), experiment.tops(case, layers, act, s, high, 800))
                for s in STARTS
            ]
            ratio = torch.cat([(p[0] / n[0])[p[1] & n[1]] for p, n in pairs])
            spread = torch.linspace(-0.05, 0.05, len(ratio)) + (0.06 if layers == "all" else -0.06)
            told = label if layers == "all" and high == low else None
            left.loglog(high / low * spread.exp(), ratio, mark, ms=2.5, alpha=0.6, color=colour, label=told)
            columns[f"{act}_{layers}_{high:.2f}_{low:.2f}"] = ratio
    line = torch.tensor([0.8, 8.0])
    left.loglog(line, line, color=INK, lw=0.8)
    left.axhline(5, **PREDICTED)
    left.text(0.82, 5.4, "printed: 5", fontsize=8)
    for axis, ticks in ((left.xaxis, (1, 2, 4, 6)), (left.yaxis, (0.2, 0.5, 1, 2, 5, 10))):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    left.minorticks_off()
    left.set(xlabel="ratio of steps, with BN / without", title="top eigenvalue, without BN / with")
    left.legend(loc="lower right", fontsize=8)
    cuts = torch.logspace(-6, -1, 21, dtype=torch.float64)
    for kind, colour, dash, label in (("plain", VERMILION, "-.", "without"), ("hidden", BLUE, "-", "BN, hidden layers"),
                                      ("all", GREEN, "-", "BN, all layers")):  # fmt: skip
        values = runs.spectra(case, kind, "relu")
        middle = torch.stack([runs.conditions(values, cut).median() for cut in cuts.tolist()])
        right.loglog(cuts, middle, color=colour, linestyle=dash, label=label)
        columns[f"condition_{kind}"] = middle
    for number in (20, 200):
        right.axhline(number, **PREDICTED)
        right.text(1.2e-6, 1.25 * number, f"printed: {number}", fontsize=8)
    right.set(xlabel="cut-off, relative to the top", title="condition number, ReLU")
    right.legend(loc="upper right", fontsize=8)
    show_figure(fig, name="c-end-spectra", data=columns | {"cut": cuts})


def counts(case: Case) -> dict[str, str]:
    """Numbers for the text."""
    told = {"ways": f"{len(WAYS)}", "kept": f"{len(runs.ways(case))}"}
    told["fits"] = f"{sum(bool(runs.stable(case, way, True).any()) for way in WAYS)}"
    middle = lambda values: torch.tensor(values).median().item()
    for rule, act in itertools.product(RULES, LOOK):
        rows = [row for row in intervals(case, rule) if row[0] == act]
        told |= {f"{rule}-{act}": f"{middle([row[1] for row in rows]):.1f}", f"{rule}-{act}-all": f"{len(rows)}"}
        told[f"{rule}-{act}-shown"] = f"{sum(low > 1 for _, _, low, _ in rows)}"
    for act, kind in itertools.product(LOOK, ("plain", "hidden")):
        values = runs.spectra(case, kind, act)
        told[f"rank-{act}-{kind}"] = f"{(values.sum(1) / values[:, -1]).median():.1f}"
        told[f"above-{act}-{kind}"] = f"{(values > 0.01 * values[:, -1:]).sum(1).median():.0f}"
        told[f"lowest-{act}-{kind}"] = f"{values[:, 0].median():.2f}"
        rate = LOWERED[0] if kind == "plain" else HIGH
        seen = [experiment.tops(case, kind, act, start, rate, 800)[0] for start in STARTS]
        told[f"top-{act}-{kind}"] = f"{torch.cat(seen).median():.1f}"
        final = torch.cat(
            [runs.tops(case, kind, act)[1][:, runs.final_setup(case, kind, act).learning_rates.index(rate)]]
        )
        told[f"loss-{act}-{kind}"] = f"{final.median():.4f}"
    for kind in ("plain", "hidden"):
        some = runs.teachers(case, kind, "tanh", 64)
        told[f"few-{kind}"], told[f"of-{kind}"] = f"{runs.zeros(some[0]):.0f}", f"{len(some[0])}"
        least = [(one[0] / one[one > 2e-14 * one[0]][-1]).square() for one in runs.teachers(case, kind, "tanh", 800)]
        told[f"exact-{kind}"] = f"{torch.stack(least).log10().median():.0f}"
    return told

"""Figures of the chapter on related work, and the numbers that its prose quotes."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, MEASURED, ORANGE, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import related_work_runs as runs
from companion.normalization_geometry.related_work import BATCHES, condition

DEPTH, BATCH = 40, 64


def draw_gradient_growth(case: Case) -> None:
    """Squared gradients over depth for four kinds of networks; the factor a layer against the batch size."""
    fig, (left, right) = axes(1, 2, height=3.3)
    columns = {"layers": torch.arange(DEPTH + 1)}
    curves = {
        "BN, ReLU": (torch.relu, "normalised", MEASURED),
        "BN, linear": (runs.identity, "normalised", {"color": GREEN, "linewidth": 2}),
        "BN, ReLU, skips": (torch.relu, "skips", {"color": ORANGE, "linewidth": 2}),
        "He, no BN": (torch.relu, "plain", BROKEN),
    }
    for name, (activation, kind, look) in curves.items():
        squares = runs.squared_gradients(case, DEPTH, BATCH, activation, kind)
        columns[name] = squares.flip(0) / squares[-1]
        left.semilogy(columns["layers"], columns[name], **look, label=name)
    for law in (runs.relu_factor, runs.linear_factor):
        left.semilogy(columns["layers"], law(BATCH) ** columns["layers"].double(), **PREDICTED)
    left.set(xlabel="layers from the top", ylabel="squared gradient / top")
    left.legend(loc="upper left")
    fine = torch.linspace(7, 140, 200)
    kinds = (("ReLU", torch.relu, runs.relu_factor, BLUE), ("linear", runs.identity, runs.linear_factor, GREEN))
    for name, activation, law, color in kinds:
        factors = [runs.rate(runs.squared_gradients(case, 24, B, activation)).exp().item() for B in BATCHES]
        right.semilogx(BATCHES, factors, "o", color=color, label=f"{name}, measured")
        right.semilogx(fine, [law(b) for b in fine.tolist()], **PREDICTED)
        columns[f"{name}_factor"] = factors
    right.set(xlabel="batch size", ylabel="factor per layer")
    right.set_xticks(BATCHES, [str(B) for B in BATCHES])
    right.minorticks_off()
    right.legend(loc="upper right")
    show_figure(fig, name="gradient-growth", data=columns | {"batch": BATCHES})


def draw_condition(case: Case) -> None:
    """Condition number under weight normalisation over the plain one, against c = g/|v|; one curve a size."""
    fig, ax = axes(height=3.0)
    grid = torch.logspace(-1.5, 1.5, 41, dtype=torch.float64).tolist()
    columns = {"c": grid}
    values = torch.stack([torch.stack([condition(s) for s in runs.spectra(case, c)]) for c in grid])
    for j, color in ((0, BLUE), (4, VERMILION), (5, GREEN)):
        one = runs.problems(case)[j]
        plain = condition(torch.linalg.eigvalsh(one.A))
        ax.loglog(grid, values[:, j] / plain, color=color, linewidth=2, label=f"{len(one.A)} dimensions")
        columns[f"ratio_{len(one.A)}"] = values[:, j] / plain
    for draw in (ax.axhline, ax.axvline):
        draw(1, color="#8a8f98", linewidth=0.8)
    ax.set(xlabel="$c = g/|v|$", ylabel="condition number / plain")
    ax.legend(loc="upper center")
    show_figure(fig, name="weight-norm-condition", data=columns)


def draw_noise(case: Case) -> None:
    """Least and mean distance to the boundary against the samples that share statistics, at two stops."""
    fig, panels = axes(1, 2, height=3.0)
    columns = {"samples": runs.PARTS}
    looks = {"steps": (MEASURED, "after 1500 steps"), "loss": (BROKEN, "at loss 0.03")}
    for ax, (name, of) in zip(panels, (("least distance", "least"), ("mean distance", "mean")), strict=True):
        for stop, (look, label) in looks.items():
            found = [runs.noisy(case, part)[stop] for part in runs.PARTS]
            value = [(one.distances.amin(1) if of == "least" else one.distances.mean(1))[one.fitted] for one in found]
            middle = torch.stack([v.mean() for v in value])
            error = torch.stack([v.std() / len(v) ** 0.5 for v in value])
            ax.errorbar(range(4), middle, error, marker="o", capsize=3, label=label, **look)
            columns |= {f"{of}_{stop}": middle, f"{of}_{stop}_error": error}
        ax.set(xlabel="samples that share statistics", title=name)
        ax.set_xticks(range(4), [str(part) for part in runs.PARTS])
    panels[0].legend(fontsize=8)
    show_figure(fig, name="noise-margin", data=columns)


def numbers(case: Case) -> dict[str, str]:
    """What the prose quotes."""
    factor = lambda f, B: runs.rate(runs.squared_gradients(case, 24, B, f)).exp().item()
    deep = {kind: runs.squared_gradients(case, 64, 32, torch.relu, kind, 256, 3) for kind in ("normalised", "skips")}
    doubling = {kind: (squares[32] / squares[64]).item() for kind, squares in deep.items()}
    fitted = runs.noisy(case, 5)
    found = {
        "relu128": f"{factor(torch.relu, 128):.2f}",
        "relu-theory": f"{runs.relu_factor(128):.2f}",
        "linear128": f"{factor(runs.identity, 128):.2f}",
        "plain": f"{runs.rate(runs.squared_gradients(case, DEPTH, BATCH, torch.relu, 'plain')).exp():.2f}",
        "doubling": f"{doubling['normalised']:.0e}",
        "skip-doubling": f"{doubling['skips']:.1f}",
        "unfitted": f"{int((~fitted['steps'].fitted).sum())}",
    }
    for part in runs.PARTS:
        for stop in ("steps", "loss"):
            one = runs.noisy(case, part)[stop]
            found[f"least-{part}-{stop}"] = f"{one.distances.amin(1)[one.fitted].mean():.2f}"
    return found

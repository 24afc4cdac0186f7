"""Figures of the chapter on zero modes, decay and margins, and the numbers that its prose quotes."""

import math

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, INK, MEASURED, PREDICTED, VERMILION, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import zero_modes_runs as runs
from companion.normalization_geometry.zero_modes import euclidean, in_the_data_norm, rate


def draw_spectra(case: Case, widths: tuple[int, ...] = (4, 5, 2)) -> None:
    """Curvatures at a solution of a linear network, plain and normalised."""
    fig, ax = axes(height=2.7, width=6.6)
    columns, names = {}, {"plain": "plain", "batch": "BN", "affine": "BN, gains, shifts", "layer": "LN"}
    for i, (kind, color) in enumerate(zip(names, (VERMILION, BLUE, GREEN, INK), strict=True)):
        values = torch.linalg.eigvalsh(runs.curvatures(case, kind, widths)).flip(0)
        zeros = runs.zero_modes(case, kind, widths)
        columns[kind] = values[: len(values) - zeros]
        ax.semilogx(columns[kind], torch.full_like(columns[kind], 3.0 - i), "o", color=color, alpha=0.7)
        ax.annotate(f"{zeros} zero modes", (8e-4, 3 - i), ha="center", va="center", color=color)
    ax.set_yticks([3, 2, 1, 0], list(names.values()))
    ax.yaxis.grid(False)
    ax.set(xlabel="eigenvalue", ylim=(-0.5, 3.5), xlim=(1e-4, 30))
    show_figure(fig, name="c-zero-mode-spectra", data=columns)


def draw_escape(case: Case) -> None:
    """Leaving the origin: distance against time, and rate against epsilon."""
    one, epsilons = runs.saddles(case)[0], runs.EPSILONS
    fig, (left, right) = axes(1, 2, height=3.0)
    columns, measured = {}, []
    for e, color in zip(epsilons[::2], layer_colors(3), strict=True):
        t, size = runs.escapes(case, e)[0]
        left.loglog(t[1:], (size / size[0])[1:], color=color, label=rf"$\epsilon=10^{{{round(math.log10(e))}}}$")
        columns |= {f"time_{e}": t, f"growth_{e}": size / size[0]}
        measured.append(((size[-1] / size[-6]).log() / (t[-1] - t[-6])).item())
    t, size = runs.escapes(case, None)[0]
    left.loglog(t[1:], (size / size[0])[1:], **BROKEN, label="no BN")
    left.set(xlabel="time", title="distance from origin / start")
    left.legend(loc="upper left")
    right.loglog(epsilons[::2], measured, "o", color=BLUE, label="measured growth")
    right.loglog(epsilons, [rate(one, e).item() for e in epsilons], **PREDICTED, label="by the formula")
    right.axhline(rate(one, None).item(), **BROKEN, label="no BN")
    right.set(xlabel=r"$\epsilon$", title="rate of escape")
    right.legend(loc="upper right")
    show_figure(fig, name="c-origin-escape", data=columns | {"epsilon": epsilons[::2], "rate": measured})


def angle(a: Tensor, b: Tensor) -> float:
    return 2 * torch.asin(((a - b).norm() / 2).clamp(max=1)).item()


def angles(case: Case) -> list[list[tuple[float, float, float, float]]]:
    """Along each cloud's path: gain, decimal logarithm of the decay, angles to both largest margins."""
    found = []
    for one, path in zip(runs.clouds(case), runs.paths(case), strict=True):
        goals = in_the_data_norm(one), euclidean(one)
        found.append(
            [(v.norm().item(), -s / math.log(10), *(angle(one.back(v), goal) for goal in goals)) for s, v in path]
        )
    return found


def draw_margins(case: Case) -> None:
    """Angles to the largest margins against the gain, and against the decay that holds it."""
    fig, (left, right) = axes(1, 2, height=3.1, sharey=True)
    columns = {}
    for k, rows in enumerate(angles(case)):
        gain, decay, data, own = zip(*rows, strict=True)
        left.loglog(gain, data, **MEASURED | {"linewidth": 1.3}, label=None if k else "data norm")
        left.loglog(gain, own, **BROKEN | {"linewidth": 1.1}, label=None if k else "Euclidean")
        usual = [i for i, d in enumerate(decay) if -20 < d < 0]
        right.plot([decay[i] for i in usual], [data[i] for i in usual], **MEASURED | {"linewidth": 1.3})
        right.plot([decay[i] for i in usual], [own[i] for i in usual], **BROKEN | {"linewidth": 1.1})
        columns |= {f"gain_{k}": gain, f"data_{k}": data, f"own_{k}": own, f"log_decay_{k}": decay}
    left.loglog([30, 3e5], [10 / 30, 10 / 3e5], **PREDICTED, label="slope $-1$")
    left.legend(loc="lower left")
    left.set(xlabel=r"gain $\gamma$", ylabel="angle to the largest margin")
    right.set(xlabel=r"$\log_{10}$ of the decay on the gain", xticks=[-20, -15, -10, -5, 0])
    show_figure(fig, name="c-decay-margin", data=columns)


def at_usual_decays(case: Case) -> dict[str, str]:
    """Angles in degrees to the margin in the data norm, smallest and largest over clouds, where decay is near 1e-4."""
    nearest = [min(rows, key=lambda row: abs(row[1] + 4)) for rows in angles(case)]
    data = [math.degrees(row[2]) for row in nearest]
    return {
        "usual-low": f"{min(data):.0f}",
        "usual-high": f"{max(data):.0f}",
        "usual-gain": f"{sum(row[0] for row in nearest) / len(nearest):.0f}",
        "end": f"{max(rows[-1][2] for rows in angles(case)):.0e}",
        "end-own": f"{math.degrees(max(rows[-1][3] for rows in angles(case))):.0f}",
    }

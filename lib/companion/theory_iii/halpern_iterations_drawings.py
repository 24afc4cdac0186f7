"""Figures of the chapter on descent that shrinks as well: what it finds, and the landscape of D Figure 4."""

import math

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show.figures import BLUE, BROKEN, GREEN, INK, MEASURED, PREDICTED, PURPLE, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii.halpern_iterations import lag, least_norm, nmgd, scalar_chain
from companion.theory_iii.water_level import crossings, ebb, ground

MARKS = tuple(sorted({round(10 ** (0.25 * k)) for k in range(4, 18)}))
CHAINS = {
    "two layers, from 2": ((3.0, 0.33), 2, MEASURED),
    "three layers, from 1000": ((3.0, 0.7, 0.5), 1000, MEASURED | {"color": GREEN}),
    "three layers, from 2": ((3.0, 0.7, 0.5), 2, BROKEN),
}


@shared
def chain_distances() -> dict[str, list[float]]:
    """Distance of scalar chains from the balanced minimum, at the marks; the shrinking is n^-0.8."""
    found = {}
    for name, (start, first, _) in CHAINS.items():
        path = torch.tensor(scalar_chain(start, 0.8, first, MARKS[-1], MARKS)).double()
        found[name] = (path - 1).abs().amax(1).tolist()
    return found


@shared
def regression_distances(case: Case) -> dict[str, Tensor]:
    """Distance from the least-norm solution of the farthest start, and the law of the lag."""
    least, found = least_norm(case), {}
    for a in (0.7, 0.85, 1.5):
        path = nmgd(case, a, 2, MARKS)
        found[f"{a:g}"] = torch.stack([(path[n][-1] - least).norm() / least.norm() for n in MARKS])
    for a in (0.7, 0.85):
        found[f"law {a:g}"] = torch.stack([(lag(case, n**-a) * n**-a).norm() / least.norm() for n in MARKS])
    return found


def draw_shrinking(case: Case) -> None:
    """What shrinking descent finds: on least squares, and in chains of scalar layers."""
    fig, (left, right) = axes(1, 2, height=3.2)
    runs = regression_distances(case)
    for name, look in (("0.7", MEASURED), ("0.85", MEASURED | {"color": GREEN}), ("1.5", BROKEN)):
        left.loglog(MARKS, runs[name], **look, label=f"$a={name}$")
    for name in ("law 0.7", "law 0.85"):
        left.loglog(MARKS, runs[name], **PREDICTED, label="lag" if name == "law 0.7" else None)
    left.set(xlabel="step", ylabel="distance from the least norm", title="least squares", ylim=(1e-4, None))
    left.legend(fontsize=8)
    for name, (_, _, look) in CHAINS.items():
        right.loglog(MARKS, chain_distances()[name], **look, label=name)
    right.set(xlabel="steps made", ylabel="distance from balance", title="products of scalar layers")
    right.legend(fontsize=8, loc="lower left")
    columns = {f"least_squares_{k.replace(' ', '_')}": v for k, v in runs.items()}
    columns |= {k.replace(", ", "_").replace(" ", "_"): v for k, v in chain_distances().items()}
    show_figure(fig, name="nmgd-depth", data={"step": list(MARKS)} | columns)


LEVEL = 0.1


def draw_landscape(case: Case) -> None:
    """The landscape exp(-f) from above with its water, near the origin and beyond a norm of 200, and two boats."""
    fig, panels = axes(2, 1, height=5.6)
    columns = {}
    views = (((-30.0, 30.0), 4.0, (0.02, 20.6), 6000), ((196.0, 216.0), 30.0, (0.02, 208.9), 3000))
    for ax, (ends, width, start, steps) in zip(panels, views, strict=True):
        w2 = torch.linspace(*ends, 181, dtype=torch.float64)
        w1 = torch.linspace(-width, width, 61, dtype=torch.float64)
        height = -ground(w1[:, None], w2[None]) / math.log(10)  # of the loss, in powers of ten
        top = height.max().item()
        shore = math.log10(LEVEL)
        land = [shore + (top - shore) * k / 8 for k in range(9)]
        ax.contourf(w2, w1, height, levels=[-1e9, shore], colors=[BLUE], alpha=0.3)
        ax.contourf(w2, w1, height, levels=land, cmap="YlOrBr", alpha=0.75)
        ax.contour(w2, w1, height, levels=[shore], colors=[BLUE], linestyles="solid", linewidths=1.2)
        boat = ebb(start, LEVEL, steps)
        ax.plot(boat[::20, 1], boat[::20, 0], color=PURPLE, linewidth=2)
        ax.plot(*reversed(start), "o", color=PURPLE, markersize=5)
        ax.plot(boat[-1, 1], boat[-1, 0], "s", color=VERMILION, markersize=6)
        ax.set(ylabel="$w_1$", xlim=ends, ylim=(-width, width))
        ax.grid(False)
        columns[f"boat_{ends[1]:g}"] = boat[:: steps // 100].norm(dim=1)
    seen = crossings(LEVEL, 18.0, 26.0)
    panels[0].plot(seen, torch.zeros(len(seen)), "x", color=INK, markersize=6)
    panels[1].set(xlabel="$w_2$")
    panels[0].set(title="loss $e^{-f}$ seen from above; blue is water, loss at most 0.1")
    show_figure(fig, name="water-level", data={"time": list(range(len(columns["boat_30"])))} | columns)

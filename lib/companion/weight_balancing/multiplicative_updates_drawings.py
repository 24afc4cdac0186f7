"""Figures of the chapter on multiplicative updates."""

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, ORANGE, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing.common import EXPONENTS, F, Problem, networks, update
from companion.weight_balancing.multiplicative_updates import majoriser, shortest
from companion.weight_balancing.multiplicative_updates_runs import (
    boundary,
    descents,
    least_order,
    norm_written_out,
    of_least_norm,
    way_to_rest,
)


def draw_gaps(case: Case) -> None:
    """Gap to the least norm against passes, two networks for each pair of exponents."""
    fig, ax = axes(height=3.2, width=6.6)
    columns, runs = {}, list(zip(descents(case), of_least_norm(case)[::2], strict=True))
    for k, (p, q) in enumerate(EXPONENTS):
        style = {"color": f"C{k % 5}", "linestyle": "-" if k < 5 else ":", "linewidth": 1.2}
        mine = [run.norms / norm_written_out(s.W, p, q) - 1 for run, s in runs if (s.p, s.q) == (p, q)]
        for n, gap in enumerate(mine[1:]):
            ax.semilogy(gap[gap > 1e-14], **style, label=None if n else f"({p}, {q})")
            columns[f"gap p={p} q={q} network {n}"] = gap[gap > 1e-14]
    ax.set(xlabel="pass", ylabel="gap to the least norm, relative", ylim=(1e-14, None), xlim=(0, None))
    ax.legend(title="(p, q)", ncol=2)
    show_figure(fig, name="algorithm-1", data=columns)


def draw_majoriser(case: Case) -> None:
    """F, the paper's G and ours of the least order after an update, against its exponent times max(p, q)."""
    fig, panels = axes(1, 2, height=2.9, sharey=True)
    W, hidden = networks(case, "majoriser", 2)[1]
    kappas = torch.linspace(0, 1.1, 111, dtype=W.dtype)
    columns = {"kappa": kappas}
    for ax, (p, q) in zip(panels, [(2, 2), (2, 1)], strict=True):
        s = Problem(W, hidden, p, q)
        steps = [update(s, lambda p, q, k=k: k / max(p, q)) for k in kappas.tolist()]
        curves = {
            "F": torch.stack([F(a, s) for a in steps]),
            "G": torch.stack([majoriser(a, s) for a in steps]),
            "least r": torch.stack([majoriser(a, s, least_order) for a in steps]),
        }
        styles = {"F": MEASURED, "G": BROKEN, "least r": BROKEN | {"color": ORANGE, "linestyle": ":"}}
        for name, values in curves.items():
            ax.plot(kappas, values / values[0], **styles[name], label=name)
            columns[f"{name} p={p} q={q}"] = values / values[0]
        ax.axvline(0.25, color=GREEN, lw=1.2, label="paper")
        ax.axhline(1, **PREDICTED | {"linewidth": 0.8})
        ax.set(title=f"p = {p}, q = {q}", xlabel=r"exponent $\times\,\max(p, q)$", ylim=(0, 1.5))
    panels[0].set_ylabel("relative to F before"), panels[1].legend(ncol=2, loc="lower left")
    show_figure(fig, name="majoriser", data=columns)


def two_units() -> Problem:
    """Two inputs, two hidden units, one output."""
    W = torch.zeros(5, 5, dtype=torch.float64)
    for i, j, w in [(2, 0, 2.0), (2, 1, 1.0), (3, 2, 1.5), (3, 1, 0.4), (4, 3, 0.3), (4, 2, 0.25)]:
        W[i, j] = w
    return Problem(W, torch.tensor([False, False, True, True, False]), 2, 2)


def outline(problem: Problem, centre: Tensor) -> Tensor:
    """The boundary of the sublevel set as a closed curve around a point inside."""
    angle = torch.linspace(0, torch.pi, 721, dtype=centre.dtype)[:-1]
    edge = boundary(problem, torch.stack([angle.cos(), angle.sin()], 1))
    edge = edge[torch.atan2(*(edge - centre).T).argsort()]
    return torch.cat([edge, edge[:1]])


def draw_sublevel(case: Case) -> None:
    """The rescalings with a norm no larger than at the start, their box, and the walk of the updates."""
    s = two_units()
    path, (up, down) = way_to_rest(s, 60), shortest((norm_written_out(s.W, 2, 2) / s.W.abs()).log(), s.hidden)
    loop, box = outline(s, path[-1]), torch.stack([-down, up], 1)
    corner = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 0])
    fig, ax = axes(height=3.4, width=5.2)
    ax.plot(loop[:, 0], loop[:, 1], **MEASURED, label="norm as at the start")
    ax.plot(box[0][corner[0]], box[1][corner[1]], **PREDICTED, label="path bounds")
    ax.plot(path[:, 0], path[:, 1], **BROKEN | {"linestyle": "-", "marker": "o", "ms": 3}, label="updates")
    ax.set(xlabel=r"$\log a$ of the first unit", ylabel=r"$\log a$ of the second unit")
    ax.legend(loc="upper left", bbox_to_anchor=(0.05, 0.93))
    pairs = {"curve": loop.T, "update": path.T, "box": box}
    show_figure(fig, name="sublevel", data={f"{name} {k + 1}": xy[k] for name, xy in pairs.items() for k in (0, 1)})

"""Figures of the chapter on one layer: time and penalty on one path, what a penalty costs, directions."""

import math
from typing import Any

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii.one_layer_networks_runs import (
    FADING,
    TIMES,
    clouds,
    fading,
    fallen,
    in_span,
    interpolable,
    late,
    least,
    projection,
    residual,
    ridge,
)

LEFT = {"color": GREEN, "linestyle": "-", "linewidth": 2.0}
CLOCK = tuple(torch.logspace(0, 3, 19, dtype=torch.float64).tolist())


def draw_paths(case: Case) -> None:
    """Distance of the direction from the largest margin, in training time and in the penalty."""
    fig, ax = axes(1, 1, width=5.8, height=3.3)
    c, s = clouds(case)[0], torch.tensor(CLOCK, dtype=torch.float64)
    off = lambda W: (W / W.norm(dim=1, keepdim=True) - c.best.direction).norm(dim=1)
    path = late(case, "gradient", CLOCK)[0]
    rest = torch.stack([residual(case, one)[0] for one in CLOCK])
    end = late(case, "gradient", (1e4, 2e4))[0]["residual"][-1]
    kept = end - in_span(c, end)
    offset = torch.linalg.pinv(c.points[c.best.supports]) @ -c.best.dual.log()
    straight = s[:, None] * c.hard
    rows = {
        "flow": off(path["vector"]),
        "penalty": off(straight + rest),
        "flow_without_remainder": off(path["vector"] - kept),
        "law_flow": off(straight + offset + kept),
        "law_penalty": off(straight + offset),
    }
    ax.loglog(s, rows["flow"], **MEASURED, label=r"flow, $s=\log t$")
    ax.loglog(s, rows["penalty"], **LEFT, label=r"penalty, $2\lambda se^s=1$")
    ax.loglog(s, rows["flow_without_remainder"], "o", color=GREEN, markersize=4, label="flow without its remainder")
    for name in ("law_flow", "law_penalty"):
        ax.loglog(s[5:], rows[name][5:], **PREDICTED, label="predicted" if name == "law_flow" else None)
    ax.set(xlabel="$s$", ylabel="distance to the largest margin")
    ax.legend(fontsize=8, loc="lower left")
    show_figure(fig, name="one-layer-paths", data={"s": s} | rows)


def draw_ridge(case: Case) -> None:
    """The null part over time under penalties, and the distance to the solution of least norm against the penalty."""
    fig, (left, right) = axes(1, 2, height=3.0)
    columns: dict[str, Any] = {"time": TIMES}
    for lam, look in zip(FADING, (BROKEN, MEASURED, LEFT), strict=True):
        left.semilogy(TIMES, fading(case, lam), **look, label=rf"$\lambda={lam:g}$" if lam else "no penalty")
        columns[f"null_{lam:g}"] = fading(case, lam)
        if lam:
            left.semilogy(TIMES, fading(case, lam)[0] * (-2 * lam * TIMES).exp(), **PREDICTED)
    left.set(xlabel="time", ylabel="size of the null part")
    left.legend(fontsize=8)
    X, y, _ = interpolable(case)[0]
    shares = torch.logspace(-6, 1, 15, dtype=torch.float64)
    plus = torch.linalg.pinv(X)
    gap = torch.stack([(ridge(case, one, True)[0] - plus @ y).norm() for one in shares.tolist()])
    law = shares * least(X) * (plus @ plus.mT @ plus @ y).norm()
    right.loglog(shares * least(X), gap, **MEASURED, label="equilibrium")
    right.loglog(shares * least(X), law, **PREDICTED, label="first order")
    right.set(xlabel=r"penalty $\lambda$", ylabel="distance to $X^+y$")
    right.legend(fontsize=8)
    show_figure(
        fig, name="one-layer-ridge", data=columns | {"penalty": shares * least(X), "gap": gap, "first_order": law}
    )


def draw_sphere(case: Case) -> None:
    """Fall of the null part of the direction under two systems, and the projection of one Riccati equation."""
    fig, (left, right) = axes(1, 2, height=3.0)
    columns: dict[str, Any] = {}
    laws = {"polar": lambda rho: 1 / rho, "sphere": lambda rho: (-(rho**2) / 2).exp()}
    for (system, law), look, label in zip(
        laws.items(), (MEASURED, LEFT), ("flow of $w$", "weight normalisation"), strict=True
    ):
        rho, null = fallen(case, system, 1.0)[0]
        size = null.norm(dim=1)
        left.semilogy(rho, size, **look, label=label)
        left.semilogy(rho, law(rho) / law(rho[0]) * size[0], **PREDICTED)
        columns |= {f"rho_{system}": rho, f"null_{system}": size}
    left.set(xlabel=r"length $\rho$", ylabel=r"$\|v_\perp\|$")
    left.legend(fontsize=8, loc="lower left")
    for start in (2.0, 0.5, 0.0, -0.9, -1.2):
        last = 4.0 if start > -1 else 0.9 * math.atanh(1 / -start)
        time: Tensor = torch.linspace(0, last, 81, dtype=torch.float64)
        right.plot(time, projection(start, time), **(MEASURED if start > -1 else BROKEN))
        columns |= {f"time_{start:g}": time, f"from_{start:g}": projection(start, time)}
    right.axhline(-1, **PREDICTED)
    right.text(1.9, -1.45, "unstable equilibrium", fontsize=8.5)
    right.set(xlabel=r"$\|x\|\,t$", ylabel=r"$v^\top x/\|x\|$", ylim=(-3, 2.2))
    show_figure(fig, name="one-layer-sphere", data=columns)

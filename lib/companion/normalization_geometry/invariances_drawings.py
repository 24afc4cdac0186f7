"""Figures of the chapter on the invariances of three normalisations."""

import torch
from matplotlib.colors import BoundaryNorm

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, MEASURED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import invariances_runs as runs

WAYS = {  # name -> kind of normalisation, epsilon, power of the factor on the gain
    "BN": ("batch", 0.0, 0.0),
    "BN, eps = 1e-5": ("batch", 1e-5, 0.0),
    "BN, eps = 1e-2": ("batch", 1e-2, 0.0),
    "gain divided": ("batch", 0.0, -1.0),
    "no BN": ("none", 0.0, 0.0),
}


def draw_rescaled(case: Case) -> None:
    """Relative change of the outputs against the factor on a layer's weights and biases."""
    grid, columns = torch.logspace(-3, 3, 24).double(), {}
    for name, (kind, epsilon, power) in WAYS.items():
        moved = [runs.change(case, c, kind=kind, epsilon=epsilon, gain=c**power) for c in grid.tolist()]
        columns[name] = torch.stack(moved)
    styles = [MEASURED, {"color": GREEN}, {"color": GREEN, "linestyle": "--"}, BROKEN,
              {"color": VERMILION, "linestyle": ":"}]  # fmt: skip
    fig, ax = axes(width=6.8, height=3.3)
    for (name, values), style in zip(columns.items(), styles, strict=True):
        ax.loglog(grid, values.clamp_min(1e-17), label=name, **style)
    ax.text(30, 4e-15, r"BN, $\epsilon=0$", color=BLUE, ha="center")
    ax.text(1000, 4e-6, r"$\epsilon=10^{-5}$", color=GREEN, ha="right", va="top")
    ax.text(1000, 4e-3, r"$\epsilon=10^{-2}$", color=GREEN, ha="right", va="top")
    ax.text(1.0, 1e2, "gain divided by $c$; no BN (dotted)", color=VERMILION, ha="center")
    ax.set(xlabel="factor $c$ on weights and biases", ylabel="relative change of the outputs", ylim=(1e-17, 1e5))
    show_figure(fig, name="c-rescaled", data={"factor": grid} | columns)


def draw_valley(case: Case) -> None:
    """The loss of one unit over its two weights, and flows from four starts."""
    side = torch.linspace(-2, 2, 161).double()
    plane = torch.cartesian_prod(side, side) + 1e-9
    fig, panels = axes(1, 3, height=2.9, sharey=True)
    columns = {}
    for ax, (name, valley) in zip(panels, runs.valleys(case).items(), strict=True):
        height = valley.loss(plane)
        levels = height.quantile(torch.linspace(0, 1, 19).double())
        ax.contourf(side, side, height.reshape(161, 161).mT, levels=levels, cmap="cividis",
                    norm=BoundaryNorm(levels, 256))  # fmt: skip
        for k, path in enumerate(valley.paths):
            ax.plot(*path.mT, color="white", linewidth=1.6)
            ax.plot(*path[0], "o", color="white", markersize=4)
            columns |= {f"{name} {k} x": path[:, 0], f"{name} {k} y": path[:, 1]}
        if name == "no normalisation":
            ax.plot(*valley.paths[0][-1], "+", color=VERMILION, markersize=11, markeredgewidth=2)
        ax.set(title=name, xlabel="$w_1$", aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
        ax.grid(False)
    panels[0].set(ylabel="$w_2$")
    show_figure(fig, name="c-valley", data=columns)


def draw_lengths(case: Case) -> None:
    """The loss over the length of v and the gain with both orbits, and what a flow in v and g conserves."""
    times, length, gain, start = runs.lengths(case)
    r0, g0 = start.v.norm(), start.gain
    sizes, gains = torch.linspace(0.4, 2, 60).double() * r0, torch.linspace(0.05, 2.2, 60).double() * g0
    surface = torch.stack([start.loss(runs.seen(start.v * r / r0, g)) for g in gains for r in sizes])
    fig, (left, right) = axes(1, 2, height=3.0)
    left.contourf(sizes, gains, surface.reshape(60, 60), levels=18, cmap="cividis")
    left.plot(sizes, g0.expand(60), color="white", linewidth=2)
    left.plot(sizes, r0 * g0 / sizes, color=VERMILION, linestyle="-.", linewidth=2)
    left.plot(r0, g0, "o", color="white")
    left.text(2 * r0, 1.05 * g0, r"$(\alpha v,g)$", color="white", ha="right")
    left.text(1.9 * r0, 0.25 * g0, r"$(\alpha v,g/\alpha)$", color=VERMILION, ha="right")
    left.set(xlabel=r"$\|v\|$", ylabel="$g$", ylim=(gains[0], gains[-1]))
    left.grid(False)
    right.plot(times, length - length[0], label=r"$\|v\|^2$", **MEASURED)
    right.plot(times, length - gain - (length - gain)[0], label=r"$\|v\|^2-g^2$", **BROKEN)
    right.set(xlabel="flow time", ylabel="change since the start")
    right.legend()
    show_figure(fig, name="c-weight-norm", data={"time": times, "length": length, "gain": gain})

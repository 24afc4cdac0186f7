"""Figures of the chapter on conditioning and the Hessian, and the numbers that its prose quotes."""

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, INK, MEASURED, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import hessian_runs as runs
from companion.normalization_geometry.hessian_runs import as_drawn, differentiated, moments, of_unit, plain
from companion.normalization_geometry.protocols import STARTS
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.networks.normalizers import batch_norm

RADII = torch.logspace(-1, 1, 9, dtype=torch.float64)


def plane(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Two inputs, standardised targets that a unit can meet, and the best direction."""
    X = normal(case, "C plane", 60, 2) @ torch.tensor([[1.0, 0.4], [0.0, 0.5]], dtype=torch.float64)
    y = batch_norm((X @ torch.tensor([1.0, 0.8], dtype=torch.float64))[:, None])[:, 0]
    best = torch.linalg.solve(*moments(X, y))
    return X, y, best / best.norm()


def sharpest(X: Tensor, y: Tensor, w: Tensor, unit=batch_norm) -> float:
    return torch.linalg.eigvalsh(differentiated(X, y, w, unit).H)[-1].item()


def draw_valley(case: Case) -> None:
    """The loss of one unit with two weights, and its largest curvature against their length."""
    X, y, best = plane(case)
    grid = torch.linspace(-1.5, 1.5, 80, dtype=torch.float64)
    loss = of_unit(X, y)
    field = torch.tensor([[loss({"w": torch.stack([a, b])}) for a in grid] for b in grid])
    fig, (left, right) = axes(1, 2, height=3.3)
    levels = [0.02, 0.1, 0.25, 0.5, 0.8, 1.1, 1.4, 1.7, 1.9]
    left.contour(grid, grid, field, levels=levels, cmap="cividis", linewidths=1.1)
    reach = torch.tensor([0.0, 1.5])
    for sign, style, name, at in ((1, PREDICTED, "valley", 0.7), (-1, BROKEN, "ridge", 0.9)):
        left.plot(*(sign * best[:, None] * reach), **style)
        left.annotate(name, (sign * at * best[0] + 0.1, sign * at * best[1] - 0.2))
    left.set(xlabel="$w_1$", ylabel="$w_2$", title="loss", aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    other = torch.stack([-best[1], best[0]])
    lines = {
        "valley": [sharpest(X, y, r * best) for r in RADII],
        "other": [sharpest(X, y, r * other) for r in RADII],
        "plain": [sharpest(X, y, r * best, plain) for r in RADII],
    }
    right.loglog(RADII, lines["valley"], **MEASURED, label="on the valley")
    right.loglog(RADII, lines["other"], color=GREEN, linewidth=1.6, label="a quarter turn off")
    right.loglog(RADII, lines["valley"][4] / RADII**2, **PREDICTED, label=r"$\propto1/\|w\|^2$")
    right.loglog(RADII, lines["plain"], **BROKEN, label="plain unit")
    right.set(xlabel=r"$\|w\|$", title="largest curvature")
    right.legend(loc="upper right")
    show_figure(fig, name="c-hessian-valley", data={"radius": RADII} | lines)


def draw_conditions(case: Case) -> None:
    """Condition numbers with and without normalisation: one unit, a hidden layer, and one function at many lengths."""
    fig, (left, middle, right) = axes(1, 3, height=3.1)
    units = runs.unit_conditions(case, as_drawn)[0.3, 1.0][:100]
    ratio, columns = units[:, :1] / units[:, 2:4], {"unit": units[:, 0]}
    for k, color, name in ((0, BLUE, "with bias"), (1, VERMILION, "no bias")):
        left.loglog(units[:, 2 + k], units[:, 0], ".", color=color, markersize=4, label=name)
        columns[name.replace(" ", "_")] = ratio[:, k]
    layered = {shift: runs.layer_conditions(case, shift, 1.0)[:30] for shift in (0.0, 1.0)}
    for (shift, rows), color in zip(layered.items(), (BLUE, VERMILION), strict=True):
        middle.loglog(rows[:, 0], rows[:, 1], ".", color=color, markersize=5, label=f"mean {shift:g}")
        columns |= {f"layer_plain_{shift:g}": rows[:, 0], f"layer_normalised_{shift:g}": rows[:, 1]}
    for ax, values in ((left, units[:, [0, 2, 3]]), (middle, torch.cat(list(layered.values())))):
        ends = [values.min().item(), values.max().item()]
        ax.plot(ends, ends, **PREDICTED)
        ax.legend(loc="upper left", handletextpad=0.1, borderaxespad=0.1, fontsize=8)
    left.set(xlabel="plain", ylabel="normalised", title="one unit")
    middle.set(xlabel="plain", title="hidden layer")
    lengths = torch.logspace(-1.5, 1.5, 13, dtype=torch.float64)
    right.loglog(lengths, swept(case, lengths), **MEASURED)
    right.set(xlabel="length of rows", title="one function")
    show_figure(fig, name="c-condition-scatter", data=columns | {"length": lengths, "swept": swept(case, lengths)})


def swept(case: Case, lengths: Tensor) -> Tensor:
    """Condition number of one normalised layer whose rows are made longer, which leaves its outputs alone."""
    found = [runs.condition(runs.layers(case, "0", 1.0, 1.0, r.item())[1], 1e-22) for r in lengths]
    return torch.tensor(found, dtype=torch.float64)


def draw_flatness(case: Case) -> None:
    """By how many decades normalised solutions are flatter; one row a cell, one dot a seed; open: ten times as long."""
    fig, ax = axes(height=3.4, width=6.4)
    columns, names = {}, []
    for kind in ("relu", "tanh"):
        for optimiser in runs.RATES:
            cells = (runs.flatness(case, kind, optimiser, 700, 0.01, longer) for longer in (1.0, 10.0))
            for start, gains, stretched in zip(STARTS, *cells, strict=True):
                place, color = -len(names), BLUE if kind == "relu" else VERMILION
                ax.plot(gains, torch.full_like(gains, place), ".", color=color, alpha=0.5, markersize=5)
                ax.plot([gains.mean()], [place], "D", color=color, markersize=6)
                ax.plot([stretched.mean()], [place], "D", color=GREEN, markersize=6, fillstyle="none")
                names.append(f"{'ReLU' if kind == 'relu' else 'tanh'}, {optimiser}, {start}")
                key = names[-1].replace(", ", "_")
                columns |= {key: gains, f"{key}_ten_times": stretched}
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks([-k for k in range(len(names))], names, fontsize=8)
    ax.set(xlabel="decades by which the normalised network is flatter")
    show_figure(fig, name="c-flatness", data=columns)


def numbers(case: Case) -> dict[str, str]:
    """What the prose quotes: medians and shares of condition numbers, and gains in flatness."""
    found = {}
    for shift, name in zip(runs.SHIFTS, ("none", "some", "much"), strict=True):
        rows = runs.unit_conditions(case, as_drawn)[shift, 1.0]
        found[f"ratio-{name}"] = f"{(rows[:, 3] / rows[:, 0]).median():.1f}"
        found[f"harm-{name}"] = f"{100 * (rows[:, 0] > rows[:, 3] * (1 + 1e-9)).double().mean():.0f}"
    sweep = swept(case, torch.logspace(-1.5, 1.5, 13, dtype=torch.float64))
    found["sweep"] = f"{sweep.max() / sweep.min():.0f}"
    for kind in ("relu", "tanh"):
        rows = [g for o in runs.RATES for g in runs.flatness(case, kind, o, 700, 0.01)]
        means = [10 ** row.mean().item() for row in rows]
        factors = sorted(means if kind == "relu" else [1 / mean for mean in means])
        found |= {f"{kind}-least": f"{factors[0]:.1f}", f"{kind}-most": f"{factors[-1]:.1f}"}
        rows = [g for o in runs.RATES for g in runs.flatness(case, kind, o, 700, 0.01, 10.0)]
        found[f"{kind}-stretched"] = f"{10 ** min(row.mean().item() for row in rows):.1f}"
    return found

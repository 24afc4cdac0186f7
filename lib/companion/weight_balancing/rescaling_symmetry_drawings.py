"""Figures of the chapter on rescaling symmetry."""

import math

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Arc, Circle, FancyArrowPatch

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, GRID, INK, MEASURED, ORANGE, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing.common import networks
from companion.weight_balancing.rescaling_symmetry import Unit, effect, turned
from normdyn.rescaling.group import rescale

SETTINGS = ((0.5, "½", "2"), (1.0, "1", "1"), (2.0, "2", "½"))  # with the factors of what enters and what leaves
HEIGHTS = (0.95, 0.0, -0.95)  # of the three inputs, and of the three readers
SIDE, KNOB, NODE = 2.0, 0.52, 0.13  # where inputs and readers stand, and radii
SWEEP = 100  # degrees that the knob turns for a factor of four


def drawn_unit() -> Unit:
    """The unit of the figure: weights that can be told apart as widths."""
    return Unit(*(torch.tensor(x, dtype=torch.float64) for x in ([1.5, -0.8, 1.0], 0.6, [1.0, -1.5, 0.5])))


def draw_dial(case: Case) -> None:
    """E Fig. 1: one unit with its weights at three settings of its dial, and below what it adds to each reader."""
    fig, panels = axes(2, 3, height=3.4, gridspec_kw={"height_ratios": [1.6, 1]}, sharey="row")
    line = torch.linspace(-2, 2, 161, dtype=torch.float64)
    X = line[:, None] * torch.tensor([1.0, 0.5, -0.3], dtype=line.dtype)
    unit, columns = drawn_unit(), {"position": line}
    reference = effect(unit, X)
    for (above, below), (a, enters, leaves) in zip(panels.T, SETTINGS, strict=True):
        now = turned(unit, a)
        draw_unit(above, now, a)
        above.set_title(f"$a$ = {enters}", pad=0)
        for x, text, color in ((-1.8, f"in × {enters}", BLUE), (1.8, f"out × {leaves}", ORANGE)):
            above.text(x, -1.5, text, ha="center", va="center", color=color, fontsize=10)
        added = effect(now, X)
        below.plot(line, added, color=GREEN, linewidth=2.4)
        below.plot(line, reference, **PREDICTED, label=["as at $a$ = 1", None, None])
        below.set(xlabel="along a line of inputs", xticks=(-2, 0, 2), yticks=(-4, 0, 4), ylim=(-4.3, 4.3))
        columns |= {f"reader {k + 1} at a={a}": added[:, k] for k in range(3)}
    panels[1, 0].set_ylabel("effect")
    panels[1, 0].legend(loc="upper left", borderpad=0.1)
    show_figure(fig, name="dial", data=columns)


def draw_unit(ax: Axes, unit: Unit, a: float) -> None:
    """One unit: widths are sizes of weights, broken lines negative ones; the mark on the knob is its setting."""
    for y, w, v in zip(HEIGHTS, unit.incoming.tolist(), unit.outgoing.tolist(), strict=True):
        for x, weight, color in ((-SIDE, w, BLUE), (SIDE, v, ORANGE)):
            reach = math.hypot(x, y)
            ends = [(x * r / reach, y * r / reach) for r in (reach - NODE, KNOB + 0.04)]
            draw_weight(ax, ends, weight, color)
            ax.add_patch(Circle((x, y), NODE, fc="none", ec=INK, lw=1.2))
    draw_weight(ax, [(0, -1.25), (0, -KNOB - 0.04)], unit.bias.item(), BLUE)
    ax.text(0, -1.5, "bias", ha="center", va="center", fontsize=10, color=BLUE)
    draw_knob(ax, a)
    ax.set(xlim=(-2.6, 2.6), ylim=(-1.7, 1.2), aspect="equal")
    ax.axis("off")


def draw_weight(ax: Axes, ends: list[tuple[float, float]], weight: float, color: str) -> None:
    ax.add_patch(
        FancyArrowPatch(
            *ends, arrowstyle="-", shrinkA=0, shrinkB=0, capstyle="butt", color=color,
            lw=3.0 * abs(weight), linestyle="-" if weight > 0 else (0, (1.2, 0.6)),
        )
    )  # fmt: skip


def draw_knob(ax: Axes, a: float) -> None:
    """The dial of the unit: ticks at a half, one and two, and a mark at the setting."""
    ax.add_patch(Circle((0, 0), KNOB, fc="none", ec=INK, lw=1.8))
    ray = lambda x, *radii: zip(*((r * math.sin(turn(x)), r * math.cos(turn(x))) for r in radii), strict=True)
    for x in (0.5, 1.0, 2.0):
        ax.plot(*ray(x, KNOB + 0.12, KNOB + 0.24), color=INK, lw=1.2)
    size, start = 2 * KNOB + 0.24, 90 - SWEEP / 2
    ax.add_patch(Arc((0, 0), size, size, theta1=start, theta2=start + SWEEP, color=GRID, lw=1.2))
    ax.plot(*ray(a, 0.0, KNOB - 0.1), color=INK, lw=3.4, solid_capstyle="round")


def turn(a: float) -> float:
    """The angle of the knob, from upright, clockwise."""
    return math.radians(SWEEP / 2 * math.log2(a))


def draw_valley(case: Case) -> None:
    """What enters and what leaves one hidden unit against its factor, and the root of the sum of their squares."""
    W, hidden = networks(case, "valley", 1)[0]
    unit = int(hidden.nonzero()[3])
    best = (W[:, unit].norm() / W[unit].norm()).sqrt()
    factors = best * torch.logspace(-1, 1, 81, dtype=W.dtype)
    one = torch.ones(len(W), dtype=W.dtype)
    turns = [rescale(W, one, one.index_fill(0, torch.tensor(unit), x))[0] for x in factors.tolist()]
    sizes = torch.stack([torch.stack([V[unit].norm(), V[:, unit].norm()]) for V in turns])
    law = torch.stack([factors * W[unit].norm(), W[:, unit].norm() / factors], 1)
    fig, ax = axes(height=2.9, width=6.0)
    ax.loglog(factors, sizes[:, 0], **MEASURED, label="incoming")
    ax.loglog(factors, sizes[:, 1], **MEASURED | {"color": ORANGE}, label="outgoing")
    ax.loglog(factors, law, **PREDICTED, label=["predicted", None])
    ax.loglog(factors, sizes.norm(dim=1), **BROKEN, label="root sum of squares")
    ax.set(xlabel="factor $a$ of one hidden unit", ylabel=r"$\ell_2$ size")
    ax.legend(loc="upper center", ncol=2)
    columns = {"factor": factors, "incoming": sizes[:, 0], "outgoing": sizes[:, 1]}
    show_figure(fig, name="one-unit", data=columns)

"""Figures of the chapter on norm control: two spheres with two methods on each, and a length that is prescribed."""

import math

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GRID, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii.hidden_complexity_control_runs import geometry, point_sets
from companion.theory_iii.norm_control_late import lag
from companion.theory_iii.norm_control_runs import (
    EXPONENTS,
    LENGTHS,
    PLANE,
    SETS,
    constrained,
    norm,
    rows,
    scheduled,
    times_of,
)

LOOKS = {"tangent": (MEASURED, "tangent gradient"), "coefficient": (BROKEN, "division by the norm")}


def draw_which_margin(case: Case) -> None:
    """Paths on the spheres of p = 1.5 and 6, and the ends of both methods for several p."""
    fig, (plane, right) = axes(1, 2, height=3.3)
    turn = torch.linspace(0, math.pi / 2, 200, dtype=torch.float64)
    ring = torch.stack([turn.cos(), turn.sin()], 1)
    slope = (PLANE[0, 1] / PLANE[0, 0]).item()
    columns: dict[str, object] = {}
    for p, place in ((1.5, (0.52, 0.43)), (6.0, (0.68, 1.04))):
        ball = ring / norm(ring, p, dim=1, keepdim=True)
        plane.plot(*ball.mT, color="#8a8f98", linewidth=0.9)
        plane.annotate(f"$p={p:g}$", place)
        for (method, (look, _)), shift in zip(LOOKS.items(), (1.025, 0.975), strict=True):
            path = constrained(method, p, PLANE, 31)
            path = shift * path / norm(path, p, dim=1, keepdim=True)
            plane.plot(*path.mT, **look)
            plane.plot(*path[-1], "o", color=look["color"], markersize=5)
            columns |= {f"{method}_{p:g}_{x}": path[:, k] for k, x in enumerate(("x", "y"))}
    plane.plot([0, 1.15], [0, 1.15 * slope], **PREDICTED)
    plane.annotate("largest $L_2$ margin", (0.42, 0.12), fontsize=9)
    plane.set(xlabel="$u_1$", ylabel="$u_2$", xlim=(0, 1.18), ylim=(0, 1.18), aspect="equal")
    fine = torch.linspace(1.25, 8, 100, dtype=torch.float64)
    law = torch.atan(slope ** (1 / (fine - 1))).rad2deg()
    right.plot(fine, law, **PREDICTED, label="largest $L_p$ margin")
    right.axhline(math.degrees(math.atan(slope)), **PREDICTED | {"linestyle": ":"}, label="largest $L_2$ margin")
    for (method, (look, label)), mark in zip(LOOKS.items(), ("o", "X"), strict=True):
        ends = [constrained(method, p, PLANE, 31)[-1] for p in EXPONENTS]
        angles = [math.degrees(math.atan2(w[1].item(), w[0].item())) for w in ends]
        right.plot(EXPONENTS, angles, mark, color=look["color"], markersize=6, label=label)
        columns[f"{method}_end"] = angles
    right.set(xlabel="$p$", ylabel="direction at the end, degrees", ylim=(0, 46))
    right.legend(fontsize=8, loc="lower right")
    show_figure(fig, name="which-margin", data=columns | {"p": EXPONENTS, "law_p": fine, "law": law})


def draw_schedules(case: Case) -> None:
    """What the margin lacks over time, for three prescribed lengths, with the divided and the plain gradient."""
    fig, ax = axes(height=3.2)
    (P, _), best = point_sets(case, SETS)[1], geometry(case, SETS)[1]
    columns: dict[str, object] = {}
    for name, label in (("logarithm", r"$\log t$"), ("square root", r"$\sqrt{t}$"), ("linear", "$t$")):
        times = times_of(name)[1:]
        for divided, look in ((False, BROKEN), (True, MEASURED)):
            u = scheduled(case, name, divided)[1][1:]
            lacks = (best.margin - (u @ P.mT).amin(1)).clamp(min=1e-9)
            ax.plot(times, lacks, **look, alpha=0.9)
            if divided:
                ax.annotate(label, (times[-1] * 1.25, lacks[-1]), va="center")
            columns |= {f"{name.replace(' ', '_')}_{'divided' if divided else 'plain'}": lacks}
        columns[f"time_{name.replace(' ', '_')}"] = times
    law = lag(best.dual) / LENGTHS[3:]
    for name in ("linear", "square root"):
        ax.plot(times_of(name)[3:], law, **PREDICTED, label="law" if name == "linear" else None)
    ax.plot([], [], **MEASURED, label=r"gradient divided by $\rho$ and the loss")
    ax.plot([], [], **BROKEN, label="plain gradient")
    ax.set(xscale="log", yscale="log", xlabel="time", ylabel="what the margin lacks", xlim=(0.8, 1e8))
    ax.legend(fontsize=8, loc="lower left")
    ax.grid(color=GRID)
    show_figure(fig, name="rho-schedule", data=columns | {"law": rows(law.tolist())})

"""Figures of the chapter on rates of convergence: several points in logarithmic time, and one flower."""

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii.rates_of_convergence import constants_of, cubic_law, lambert_law
from companion.theory_iii.rates_of_convergence_runs import (
    CASES,
    CLOCK,
    FLOWS,
    GRADIENT,
    WEIGHT,
    angles,
    descended,
    flower_length,
)

LOOKS = {GRADIENT: MEASURED, WEIGHT: {"color": GREEN, "linestyle": "-", "linewidth": 2.0}}
NAMES = {GRADIENT: "standard flow", WEIGHT: "weight normalisation"}
DEEPEST = -32.0


def laws() -> dict[tuple[str, str], Tensor]:
    """Logarithms of the predicted angles, for the cases that have one without a free constant."""
    unequal, pair, one, zero = CASES
    C = constants_of(CASES[unequal]).log()
    return {
        (unequal, GRADIENT): C - CLOCK.log(),
        (one, WEIGHT): torch.tensor(0.7).double().log() - 0.2 * CLOCK,
        (pair, WEIGHT): cubic_law(CLOCK) - cubic_law(CLOCK[:1]) + angles(pair, WEIGHT)[0],
        (zero, WEIGHT): lambert_law(CLOCK).log() - CLOCK.log(),
    }


def _cut(log_angle: Tensor) -> Tensor:
    """What the picture has room for."""
    return torch.where((log_angle < DEEPEST) | (log_angle > 0.3), torch.nan, log_angle).exp()


def draw_dual_weights(case: Case) -> None:
    """Angle to the largest margin against log t for four data sets and two flows."""
    fig, panels = axes(2, 2, height=5.2)
    found, columns = laws(), {"log_time": CLOCK}
    for ax, name in zip(panels.flat, CASES, strict=True):
        for system in FLOWS:
            ax.plot(CLOCK, _cut(angles(name, system)), **LOOKS[system], label=NAMES[system])
            columns[f"{name}, {system}"] = angles(name, system)
            if (name, system) in found:
                ax.plot(CLOCK, _cut(found[name, system]), **PREDICTED, label="law")
        ax.set(xscale="log", yscale="log", title=name)
        ax.set_xticks([2, 10, 100, 690], ["2", "10", "100", "690"])
        ax.set_xticks([], minor=True)
    for ax in panels[1]:
        ax.set(xlabel=r"$\log t$")
    for ax in panels[:, 0]:
        ax.set(ylabel="angle")
    panels[0, 0].legend(loc="lower left", fontsize=8)
    show_figure(fig, name="rates-more-points", data=columns)


def draw_one_flower(case: Case) -> None:
    """Figure 2: descent on one flower, at unit length and as it is, with the printed rates."""
    fig, (left, right) = axes(1, 2, height=3.2)
    columns = {}
    for ax, kind in ((left, GRADIENT), (right, WEIGHT)):
        for label, norm, look in (("unit length", 1.0, MEASURED), ("as it is", flower_length(), BROKEN)):
            time, angle = descended(case, kind, norm)
            ax.plot(time, angle.exp(), **look, label=label)
            columns |= {f"time, {label}, {kind}": time, f"log tan, {label}, {kind}": angle}
        ax.set(xscale="log", yscale="log", xlabel="time $t$", title=NAMES[kind].replace("flow", "descent"))
    time = descended(case, GRADIENT, 1.0)[0]
    late = time[time > 4]
    left.plot(late, 0.5 / late.log(), **PREDICTED)
    left.annotate(r"$1/\,2\log t$", (40, 0.155), fontsize=9)
    right.plot(late, (-(late.log() ** 2) / 2).exp(), **PREDICTED)
    right.annotate(r"$t^{-\log t/2}$", (late[len(late) // 2] * 0.12, 1e-8), fontsize=9)
    left.set(ylabel=r"tangent of the angle", ylim=(0.04, 2))
    left.legend(loc="lower left", fontsize=8)
    show_figure(fig, name="rates-one-point", data=columns)

"""Figures of the chapter on the summarising theorem: where flows end, and what two normalisations hold fixed."""

import math

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii.summary_theorem import TWO, normalised_end
from companion.theory_iii.summary_theorem_runs import WIDTHS, by_width, caught, rows, three_units


def draw_ends(case: Case) -> None:
    """Margins of the ends against the angle between two samples, and the share that misses against the width."""
    fig, (left, right) = axes(1, 2, height=3.2, gridspec_kw={"width_ratios": [3, 2]})
    fine = torch.linspace(45, 86, 200, dtype=torch.float64)
    bend = fine.deg2rad()
    third = (fine > 60) & (fine < 67.5)
    left.plot(fine, bend.cos().clamp(min=0.5), **PREDICTED, label="largest margin there is")
    left.plot(fine, bend.cos().clamp(max=0.5), **BROKEN, label="other stationary margins")
    left.plot(fine[third], 1 / (1 - 2 * (2 * bend[third]).cos()), **BROKEN)
    found = three_units(case)
    keep = {degrees: batch.separating() & ~batch.moving() for degrees, batch in found.items()}
    shown = [(degrees, m) for degrees, batch in found.items() for m in batch.margins[keep[degrees]].tolist()]
    left.plot(
        *zip(*shown, strict=True), "o", color=MEASURED["color"], markersize=4.5, alpha=0.6, label="ends of the flow"
    )
    for x, m, text in ((47, 0.7, r"$\cos\varphi$"), (73, 0.515, r"$1/2$"), (68, 0.43, r"$1/(1-2\cos2\varphi)$")):
        left.annotate(text, (x + 1, m))
    left.set(xlabel=r"half angle $\varphi$ between the samples, degrees", ylabel="margin at the end", ylim=(0, 0.79))
    left.legend(loc="lower left", fontsize=8)
    missed, law = misses(case), [caught(units) for units in WIDTHS]
    right.plot(WIDTHS, missed, **MEASURED | {"marker": "o", "markersize": 4.5}, label="measured")
    right.plot(WIDTHS, law, **PREDICTED, label="told from the start")
    right.set(xlabel="units", ylabel="share that misses the largest", ylim=(0, 0.5))
    right.legend(loc="upper right", fontsize=8)
    columns = {"angle": [x for x, _ in shown], "margin": [m for _, m in shown]}
    show_figure(fig, name="which-maximum", data=columns | {"units": WIDTHS, "missed": missed, "predicted": law})


def misses(case: Case) -> list[float]:
    """Share of the finished starts that end below the largest margin, at fifty degrees."""
    best, found = math.cos(math.radians(50)), []
    for batch in by_width(case):
        ended = batch.margins[batch.separating() & ~batch.moving()]
        found.append((ended < best - 0.05).double().mean().item())
    return found


def draw_normalisations(case: Case) -> None:
    """The two samples, the unit circle, the ellipse of the second moments, and where each normalisation ends."""
    fig, ax = axes(height=3.4, width=5.6)
    P = rows(TWO)
    C = P.mT @ P / len(P)
    turn = torch.linspace(0, 2 * math.pi, 400, dtype=torch.float64)
    ring = torch.stack([turn.cos(), turn.sin()], 1)
    ellipse = ring / (ring @ C * ring).sum(1).sqrt()[:, None]
    ax.plot(*P.mT, "*", color="#c98a00", markersize=11, label="samples")
    ax.plot(*ring.mT, **PREDICTED, label=r"$|w|=1$")
    ax.plot(*ellipse.mT, **PREDICTED | {"linestyle": ":"}, label=r"$w^\top Cw=1$")
    columns = {"circle_x": ring[:, 0], "circle_y": ring[:, 1], "ellipse_x": ellipse[:, 0], "ellipse_y": ellipse[:, 1]}
    looks = {"weight": MEASURED, "batch": MEASURED | {"color": GREEN}}
    for kind, look in looks.items():
        w = normalised_end(TWO, kind)
        w = w if kind == "weight" else w / (w @ C @ w).sqrt()
        ax.plot([0, w[0]], [0, w[1]], **look, label=f"{kind} normalisation ends here")
        ax.plot(w[0], w[1], "o", color=look["color"])
        columns |= {f"{kind}_end": w}
    ax.set(xlim=(-1.9, 5.2), ylim=(-1.8, 2.3), aspect="equal", xlabel="$w_1$", ylabel="$w_2$")
    ax.legend(fontsize=8, loc="center right")
    show_figure(fig, name="two-normalisations", data=columns)

"""Figures of the chapter on metric and quotient."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, INK, MEASURED, PREDICTED, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import metric_and_quotient_runs as runs


def draw_scale_free(case: Case) -> None:
    """Three Euclidean flows in the plane of weights, and the angle turned in both metrics."""
    fig, (left, right) = axes(1, 2, height=3.2)
    start = torch.tensor([-0.8, 0.6], dtype=torch.float64)
    turned = lambda u: torch.acos((u @ start).clamp(-1, 1))
    data = {"time": runs.TIMES}
    for r, color in zip(runs.STARTS, layer_colors(3), strict=True):
        plane, metric = runs.directions(case, 0, r)[0], runs.directions(case, 2, r)[0]
        left.plot(*(r * plane).mT, color=color, linewidth=2)
        left.plot(*(r * plane)[::5].mT, "o", color=color, markersize=4)
        left.plot([0, r * start[0]], [0, r * start[1]], color=INK, linewidth=0.6, alpha=0.5)
        right.plot(runs.TIMES, turned(plane), **BROKEN, label="Euclidean" if r == 1 else None)
        right.plot(runs.TIMES, turned(metric), **MEASURED, label="scale-free" if r == 1 else None)
        at, name = (runs.TIMES[-1], turned(plane)[-1]), f"r = {r:g}"
        right.annotate(name, at, xytext=(4, -3), textcoords="offset points", fontsize=9)
        data |= {f"euclidean_{r}": turned(plane), f"scale_free_{r}": turned(metric)}
    left.set(aspect="equal", xlabel="$w_1$", ylabel="$w_2$", title="Euclidean flow, five times")
    right.set(xlabel="flow time", ylabel="angle turned", xlim=(0, 4.9))
    right.legend(loc="center right", bbox_to_anchor=(1.0, 0.74))
    show_figure(fig, name="scale-free-metric", data=data)


def draw_polar(case: Case) -> None:
    """Eigenvalues of the Hessian of a function of the angle at radius one, and the curvature across the radius."""
    H = runs.frames(case)[runs.LENGTHS.index(1.0)]
    values, bend, slope = torch.linalg.eigvalsh(H), H[:, 1, 1], -H[:, 0, 1]
    root = (bend**2 + 4 * slope**2).sqrt()
    fig, ax = axes(height=3.0)
    ax.plot(runs.ANGLES, values, **MEASURED, label=["eigenvalues", None])
    ax.plot(runs.ANGLES, torch.stack([bend + root, bend - root], 1) / 2, **PREDICTED, label=["predicted", None])
    ax.plot(runs.ANGLES, bend, **BROKEN, label="printed: $f''$")
    ax.axhline(0, color=INK, linewidth=0.6, alpha=0.5)
    critical = [i for i in range(len(slope) - 1) if slope[i] * slope[i + 1] < 0]
    ax.plot(runs.ANGLES[critical], bend[critical], "o", color=INK, markersize=5)
    ax.set(xlabel="angle", ylabel="curvature at r = 1")
    ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.17))
    data = {"angle": runs.ANGLES, "low": values[:, 0], "high": values[:, 1], "printed": bend}
    show_figure(fig, name="polar-curvature", data=data)

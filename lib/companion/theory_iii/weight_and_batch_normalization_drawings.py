"""Figures of the chapter on weight and batch normalisation: two margins, and coarse steps."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, INK, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii import weight_and_batch_normalization_runs as runs
from companion.theory_iii.weight_and_batch_normalization_runs import CLOCK, COARSE, FIGURE_POINTS, FINE, METHODS
from normdyn.symmetry.polar import hard_margin

BATCH = MEASURED | {"color": GREEN}


def draw_two_margins(case: Case) -> None:
    """Where the two normalisations go, in the plane of weights, and how near they come, over logarithmic time."""
    fig, (plane, ax) = axes(1, 2, height=3.4)
    C, columns = runs.moments(FIGURE_POINTS), {}
    best = {"weight": hard_margin(FIGURE_POINTS)[0], "batch": hard_margin(FIGURE_POINTS, C)[0]}
    turn = torch.linspace(0, 2 * torch.pi, 181).double()
    circle = torch.stack([turn.cos(), turn.sin()], 1)
    ellipse = circle / torch.einsum("ki,ij,kj->k", circle, C, circle).sqrt()[:, None]
    plane.plot(*circle.mT, color=INK, linewidth=0.9, linestyle=":")
    plane.plot(*ellipse.mT, color=GREEN, linewidth=0.9, linestyle=":")
    plane.scatter(*FIGURE_POINTS.mT, marker="+", s=70, color=INK, zorder=4)
    for kind, look, metric in (("weight", MEASURED, torch.eye(2).double()), ("batch", BATCH, C)):
        w = runs.figure_paths(kind)
        v = w / torch.einsum("ti,ij,tj->t", w, metric, w).sqrt()[:, None]
        plane.plot(*v.mT, **look | {"linewidth": 3.5})
        plane.plot(*torch.stack([torch.zeros(2).double(), best[kind]]).mT, **look | {"linewidth": 1.0})
        plane.plot(*best[kind], "o", color=look["color"])
    plane.annotate("WN", best["weight"] + torch.tensor([0.08, 0.08]), fontsize=9)
    plane.annotate("BN", best["batch"] + torch.tensor([-0.1, -0.25]), fontsize=9)
    plane.set(xlabel="$w_1$", ylabel="$w_2$", aspect="equal", xlim=(-1.2, 2.6), ylim=(-1.4, 2.2))
    unit = lambda w: w / w.norm(dim=-1, keepdim=True)
    curves = (
        ("wn", "weight", "weight", MEASURED, "WN to the Euclidean optimum"),
        ("bn", "batch", "weight", BROKEN, "BN to the Euclidean optimum"),
        ("bn_own", "batch", "batch", BATCH, "BN to its own optimum"),
    )
    for name, kind, goal, look, label in curves:
        away = (unit(runs.figure_paths(kind)) - unit(best[goal])).norm(dim=1)
        ax.loglog(CLOCK[: len(away)], away, **look, label=label)
        columns[name] = away
    ax.set(xlabel=r"$\log(1+t)$", ylabel="distance of directions", ylim=(2e-4, 1.5))
    ax.legend(fontsize=8, loc="lower left")
    show_figure(fig, name="two-margins", data={"log_time": CLOCK} | columns)


def draw_coarse_steps(case: Case) -> None:
    """Test error after 1500 equal steps, against the step, and how many networks had fitted by then."""
    fig, (left, right) = axes(1, 2, height=2.9)
    etas = (*FINE, *COARSE)
    looks = {"plain": PREDICTED, "coefficient": BROKEN, "weight": MEASURED}
    names = {"plain": "plain", "coefficient": "coefficient normalisation", "weight": "weight normalisation"}
    columns = {"step": torch.tensor(etas)}
    for method in METHODS:
        parts = [runs.on_digits(case, method, steps) for steps in (FINE, COARSE)]
        wrong, fitted = torch.cat([p.end for p in parts]), torch.cat([p.fitted for p in parts]).double().mean(1)
        middle = wrong.quantile(0.5, dim=1)
        spread = torch.stack([middle - wrong.quantile(0.25, dim=1), wrong.quantile(0.75, dim=1) - middle])
        left.errorbar(etas, middle, spread, **looks[method], marker="o", markersize=4, capsize=3, label=names[method])
        right.plot(etas, fitted, **looks[method], marker="o", markersize=4)
        columns |= {f"{method}_median": middle, f"{method}_fitted": fitted}
    for axis in (left, right):
        axis.set(xscale="log", xlabel="step size")
        axis.set_xticks(etas, [f"{eta:g}" for eta in etas])
        axis.set_xticks([], minor=True)
    left.set(ylabel="share of wrong test images", ylim=(0, 1))
    right.set(ylabel="share of networks that fitted", ylim=(-0.05, 1.05))
    left.legend(fontsize=8, loc="upper left")
    show_figure(fig, name="coarse-steps", data=columns)

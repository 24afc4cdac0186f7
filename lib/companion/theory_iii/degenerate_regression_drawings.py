"""Figures of the chapter on degenerate regression: Figures 7 to 10 and 13 of paper D."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, INK, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii import degenerate_regression_runs as runs
from companion.theory_iii.degenerate_regression import (
    COUNT,
    DEVIATION,
    EVERY,
    MANY,
    OFTEN,
    REST,
    STRONG,
    law,
    least_errors,
    least_squares,
)
from normdyn.motion.regression import linear_descent

DOTTED = {"linestyle": ":"}


def _hills(ax, w1, w2, heights) -> None:
    ax.plot_surface(w1, w2, heights, cmap="cividis", alpha=0.75, linewidth=0.2, rcount=24, ccount=24)
    ax.set_xlabel("$w_1$", labelpad=-4)
    ax.set_ylabel("$w_2$", labelpad=-4)
    ax.tick_params(pad=-2, labelsize=8)
    ax.set_box_aspect((1, 1, 0.7), zoom=0.92)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.fill = False


def draw_valleys(case: Case) -> None:
    """Figure 7 as a surface: a quadratic valley with paths of descent, and one that slopes towards infinity."""
    fig, (left, right) = axes(1, 2, height=3.2, subplot_kw={"projection": "3d"})
    row = torch.tensor([[1.0, 0.6]]).double()
    loss = lambda w: (w @ row[0] - 1).square()
    line = torch.linspace(-2, 2, 41, dtype=torch.float64)
    w1, w2 = torch.meshgrid(line, line, indexing="xy")
    _hills(left, w1, w2, loss(torch.stack([w1, w2], 2)).clamp(max=9))
    descent = linear_descent(row, torch.ones(1).double(), step=0.1)
    starts = torch.tensor([[-1.8, -0.6], [-0.9, -1.8], [1.9, 1.6], [1.9, 0.2]]).double()
    columns = {}
    for k, start in enumerate(starts):
        path = torch.stack([descent.at(start, n) for n in range(40)])
        left.plot(path[:, 0], path[:, 1], loss(path) + 0.1, color="#d55e00", linewidth=2, zorder=5)
        left.plot(*(x[None] for x in path[-1]), 0.1, "o", color=INK, markersize=4, zorder=6)
        columns |= {f"path{k}_w1": path[:, 0], f"path{k}_w2": path[:, 1]}
    left.set(xticks=range(-2, 3), yticks=range(-2, 3))
    left.view_init(38, -70)
    line = torch.linspace(0, 3, 41, dtype=torch.float64)
    w1, w2 = torch.meshgrid(line, line, indexing="xy")
    _hills(right, w1, w2, torch.exp(-w1 * w2))
    right.set(xticks=range(4), yticks=range(4))
    right.view_init(28, 50)
    show_figure(fig, name="regression-valley", data=columns)


def draw_overfitting(case: Case) -> None:
    """Figure 8: errors and norm over a quarter of a million steps, degree 30 beside degree 4."""
    fig, (left, right) = axes(1, 2, height=3.1)
    columns = {"steps": torch.tensor(runs.CLOCK)}
    for degree, look in ((30, MEASURED), (4, BROKEN)):
        one = runs.curve(case, degree, 0.1, 0)
        left.semilogx(runs.CLOCK, one.test, **look, label=f"degree {degree}, test")
        left.semilogx(runs.CLOCK, one.train, **look | DOTTED, label=f"degree {degree}, training")
        right.semilogx(runs.CLOCK, one.norm, **look, label=f"degree {degree}")
        columns |= {f"{name}_{degree}": getattr(one, name) for name in one._fields}
    left.set(xlabel="steps", ylabel="mean square error", ylim=(0, 2))
    left.legend(fontsize=8, loc="upper left")
    right.set(xlabel="steps", ylabel="norm of the weights")
    right.legend(fontsize=8)
    show_figure(fig, name="regression-overfit", data=columns)


def _clock(every: int, count: int, last: int) -> torch.Tensor:
    """Steps at the moments of :func:`runs.sawtooth`, in units of a thousand."""
    found = [k * every + n for k in range(count + 1) for n in runs.moments(every if k < count else last)]
    return torch.tensor(found) / 1e3


def draw_kicks(case: Case) -> None:
    """Figure 9: errors and norm of 29 kicked runs with the closed form, and below the run without kicks."""
    fig, ((errors, norm), (calm, still)) = axes(2, 2, height=5.4)
    saw = runs.sawtooth(case, 39, DEVIATION, EVERY, COUNT, 29, REST + EVERY)
    clock = _clock(EVERY, COUNT, REST + EVERY) / 1e3
    errors.semilogy(clock, saw.test, **BROKEN | {"linestyle": "-"}, label="test")
    errors.semilogy(clock, saw.train, **MEASURED | {"linewidth": 1.0}, label="training")
    told = law(39, DEVIATION, EVERY, COUNT, REST)
    before = torch.tensor([(m + 1) * EVERY / 1e6 for m in range(COUNT + 1)] + [10.0])
    errors.semilogy(before[1:-1], told.train[1:-1], **PREDICTED, label="law, before a kick")
    errors.set(xlabel="million steps", ylabel="mean square error", ylim=(1e-10, 30))
    errors.legend(fontsize=8, loc="lower right")
    norm.plot(clock, saw.norm, **MEASURED | {"linewidth": 1.0}, label="29 runs")
    norm.plot(before, told.norm, **PREDICTED, label="law, before a kick")
    norm.set(xlabel="million steps", ylabel="squared norm")
    norm.legend(fontsize=8, loc="lower right")
    one, thousand = runs.curve(case, 30, 0.1, 0), torch.tensor(runs.CLOCK) / 1e3
    calm.plot(thousand, one.test, **BROKEN | {"linestyle": "-"}, label="test")
    calm.plot(thousand, one.train, **MEASURED, label="training")
    calm.set(xlabel="thousand steps, no kicks", ylabel="mean square error")
    calm.legend(fontsize=8, loc="center right")
    still.plot(thousand, one.norm.square(), **MEASURED)
    still.set(xlabel="thousand steps, no kicks", ylabel="squared norm", ylim=(0, 320))
    columns = {"million_steps": clock} | {name: getattr(saw, name) for name in saw._fields}
    columns |= {"before": before, "law_norm": told.norm, "law_train": told.train}
    show_figure(fig, name="regression-kicks", data=columns)


def draw_convex(case: Case) -> None:
    """Figure 10: degree 4 without kicks and its inset; with kicks, training error and norm."""
    fig, (left, middle, right) = axes(1, 3, height=2.9)
    one, thousand = runs.curve(case, 4, 0.1, 0), torch.tensor(runs.CLOCK) / 1e3
    inset = left.inset_axes((0.4, 0.62, 0.57, 0.3))
    for ax in (left, inset):
        ax.plot(thousand, one.test, **BROKEN | {"linestyle": "-"}, label="test")
        ax.plot(thousand, one.train, **MEASURED, label="training")
    left.set(xlabel="thousand steps", ylabel="mean square error", ylim=(0, 1.2))
    left.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.15))
    inset.set(xlim=(0, 5), ylim=(0.48, 0.5))
    inset.tick_params(labelsize=7)
    saw, clock = runs.sawtooth(case, 4, STRONG, OFTEN, MANY, 30, OFTEN), _clock(OFTEN, MANY, OFTEN)
    middle.semilogy(clock, saw.train, **MEASURED | {"linewidth": 1.0})
    middle.axhline(least_squares().item(), **PREDICTED, label="least squares")
    middle.set(xlabel="thousand steps, kicks", ylabel="training error", ylim=(0.08, 3))
    middle.legend(fontsize=8, loc="lower center")
    told = law(4, STRONG, OFTEN, MANY, OFTEN).norm
    right.plot(clock, saw.norm, **MEASURED | {"linewidth": 1.0})
    right.axhline(told[1].item(), **PREDICTED, label="law, before a kick")
    right.set(xlabel="thousand steps, kicks", ylabel="squared norm", ylim=(0, 5))
    right.legend(fontsize=8, loc="upper center")
    columns = {"thousand_steps": clock} | {name: getattr(saw, name) for name in saw._fields}
    show_figure(fig, name="regression-convex", data=columns)


def draw_degrees(case: Case) -> None:
    """Figure 13: test error over degrees, in logarithms and as it is."""
    fig, (left, right) = axes(1, 2, height=3.2)
    even, chebyshev, double = (least_errors(kind) for kind in ("equispaced", "chebyshev", "double"))
    left.plot(runs.DEGREES, even, **MEASURED, marker=".", label="long arithmetic")
    left.plot(runs.DEGREES, double, **BROKEN, label="double precision")
    left.axvline(runs.NODES - 1, color=GREEN, linewidth=1.0, linestyle=":", label="76 coefficients, 76 points")
    left.set(xlabel="degree", ylabel=r"$\log_{10}$ of the test error")
    left.legend(fontsize=8, loc="lower right")
    right.plot(runs.DEGREES, 10**even, **MEASURED, marker=".", label="equispaced test points")
    right.plot(runs.DEGREES, 10**chebyshev, color=GREEN, marker=".", label="Chebyshev test points")
    right.plot(runs.DEGREES, 10**double, **BROKEN, label="double precision")
    right.set(xlabel="degree", ylabel="test error", ylim=(-0.02, 0.52))
    right.legend(fontsize=8)
    inset = right.inset_axes((0.45, 0.22, 0.5, 0.36))
    inset.plot(runs.DEGREES, 10**even, **MEASURED, marker=".")
    inset.plot(runs.DEGREES, 10**chebyshev, color=GREEN, marker=".")
    inset.set(xlim=(190, 305), ylim=(-0.0005, 0.01))
    inset.tick_params(labelsize=7)
    inset.grid(False)
    data = {"degree": runs.DEGREES, "equispaced": even, "chebyshev": chebyshev, "double": double}
    show_figure(fig, name="regression-degree", data=data)

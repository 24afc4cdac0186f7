"""The figure of the chapter on maximum margin and minimum norm."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import maximum_margin as margin
from normdyn.symmetry.polar import hard_margin


def draw_support(case: Case) -> None:
    """Margins of one classifier, in order; the share of support vectors and the two norms by dimension."""
    points = margin.independent(case, "shown", 20, 30)
    margins = (points @ hard_margin(points)[0]) * margin.classifier_norm(points)
    ordered, rank = margins.sort().values, torch.arange(1, 21)
    shares, ratios = margin.supports(case)
    fig, (left, right) = axes(1, 2, height=3.2)
    left.plot(rank, ordered, "o", **MEASURED, markersize=5, label="classifier")
    left.plot(rank, torch.ones(20), **PREDICTED, label="interpolant")
    left.set(xlabel="sample, in order", ylabel="margin", ylim=(0, None))
    left.legend(fontsize=8)
    right.semilogx(margin.DIMENSIONS, shares, "o", **MEASURED, markersize=4, label="share of support vectors")
    right.semilogx(margin.DIMENSIONS, ratios, "s", **BROKEN, markersize=4, label="norm over the interpolant's")
    right.set(xlabel="dimensions (10 samples)", ylim=(0, 1.05))
    right.legend(fontsize=8, loc="lower right")
    columns = {"rank": rank, "margin": ordered, "dimension": margin.DIMENSIONS, "share": shares, "ratio": ratios}
    show_figure(fig, name="support-share", data=columns)

"""The figure of the chapter on the structural property: residuals of critical points by Pythagoras."""

from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii.structural_property import critical_points


def share(f: Tensor, y: Tensor) -> tuple[float, float]:
    """Squared output and squared residual, over the squared targets."""
    return (f.norm() / y.norm()).square().item(), ((y - f).norm() / y.norm()).square().item()


def draw_pythagoras(case: Case) -> None:
    """Critical points, where the searches began, and critical points of networks with an output bias."""
    fig, ax = axes(height=3.2)
    free, shifted = critical_points(case), critical_points(case, -1.0)
    groups = {
        "critical": [share(one.f, one.y) for one in free],
        "start": [share(one.start, one.y) for one in free],
        "shifted": [share(one.f, one.y) for one in shifted],
    }
    ax.plot([0, 1], [1, 0], **PREDICTED, label="Pythagoras")
    looks = {
        "critical": MEASURED | {"linestyle": "none", "marker": "o", "label": "critical points"},
        "start": BROKEN | {"linestyle": "none", "marker": "x", "label": "where searches began"},
        "shifted": BROKEN
        | {"linestyle": "none", "marker": "^", "fillstyle": "none", "label": "critical, with a bias at the output"},
    }
    for name, look in looks.items():
        ax.plot(*zip(*groups[name], strict=True), **look)
    ax.set(xlabel=r"$\|f\|^2/\|y\|^2$", ylabel=r"$\|y-f\|^2/\|y\|^2$", xlim=(0, 1.3), ylim=(0, 1.3))
    ax.legend(fontsize=8)
    columns = {
        f"{name}_{axis}": [pair[k] for pair in pairs]
        for name, pairs in groups.items()
        for k, axis in enumerate(("output", "residual"))
    }
    show_figure(fig, name="critical-pythagoras", data=columns)

"""One look for all figures: colour-blind safe, readable on light and on dark ground, the same bytes every time."""

import io
import re
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

INK, GRID = "#1b1e23", "#c9ced6"  # the site swaps exactly these two for its dark mode
BLUE, VERMILION, GREEN, ORANGE, PURPLE = "#2b7bba", "#d55e00", "#009e73", "#c98a00", "#b0609a"

MEASURED = {"color": BLUE, "linestyle": "-", "linewidth": 2.0}
PREDICTED = {"color": INK, "linestyle": "--", "linewidth": 1.3, "zorder": 3}
BROKEN = {"color": VERMILION, "linestyle": "-.", "linewidth": 1.6}
BAND = {"color": BLUE, "alpha": 0.25, "linewidth": 0}

STYLE: Any = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "legend.labelcolor": INK, "grid.color": GRID, "grid.linewidth": 0.6,
    "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "axes.titlesize": 10.5, "axes.labelsize": 10, "legend.fontsize": 9, "legend.frameon": False,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "font.size": 10, "font.family": "DejaVu Sans",
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "axes.prop_cycle": cycler(color=[BLUE, VERMILION, GREEN, ORANGE, PURPLE]),
    "svg.hashsalt": "claimbook", "svg.fonttype": "path",
    "axes.formatter.limits": (-3, 4), "axes.formatter.use_mathtext": True,
}  # fmt: skip


def axes(rows: int = 1, columns: int = 1, *, width: float = 7.2, height: float | None = None, **kwargs):
    """A figure in the house style: ``figure, axes`` as ``matplotlib.pyplot.subplots`` gives them.

    Args:
        rows, columns: Panels.
        width, height: Inches; the height defaults to 2.7 a row, a width that is readable on a phone is 7.2 or less.
    """
    matplotlib.rcParams.update(STYLE)
    return plt.subplots(rows, columns, figsize=(width, height or 2.7 * rows), layout="constrained", **kwargs)


def layer_colors(count: int) -> list[str]:
    """Colours for layers from first to last: cividis without its ends, which vanish on dark and on light ground."""
    colormap = matplotlib.colormaps["cividis"]
    return [matplotlib.colors.to_hex(colormap(0.35 + 0.5 * k / max(count - 1, 1))) for k in range(count)]


def to_svg(figure: Figure) -> str:
    """The figure as SVG text without date and with stable identifiers; closes the figure."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "claimbook", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    plt.close(figure)
    return re.sub(r"[ \t]+\n", "\n", text.getvalue())

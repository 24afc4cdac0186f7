"""What a notebook cell shows: a figure with its data, and a number for the prose."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import display
from matplotlib.figure import Figure

from claimbook.show.figures import to_svg


def show_figure(figure: Figure, *, name: str, data: Mapping[str, Sequence | Any]) -> None:
    """Show a figure as SVG together with the data behind it.

    Args:
        figure: Drawn with :func:`claimbook.show.figures.axes`; closed afterwards.
        name: File name of the data, without suffix; unique on the page.
        data: Columns of the CSV (tensors, arrays or lists). Columns may differ in length; short ones end in blanks.
    """
    metadata = {"claimbook": {"figure": name, "csv": to_csv(data)}}
    display({"image/svg+xml": to_svg(figure), "text/plain": f"figure {name}"}, raw=True, metadata=metadata)


def to_csv(data: Mapping[str, Sequence | Any]) -> str:
    """Columns as comma-separated text, numbers with six digits: enough to redraw, stable against rounding.

    Example:
        >>> print(to_csv({"step": [0, 1], "ratio": [1.0, 0.5]}), end="")
        step,ratio
        0,1
        1,0.5
    """
    columns = {key: getattr(values, "tolist", lambda v=values: list(v))() for key, values in data.items()}
    for key, column in columns.items():
        if not isinstance(column, list) or any(isinstance(v, list) for v in column):
            raise ValueError(f"data[{key!r}] must be one-dimensional: give each curve a column of its own")
    length = max(map(len, columns.values()), default=0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for i in range(length):
        writer.writerow([_cell(column[i]) if i < len(column) else "" for column in columns.values()])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def glue(name: str, value: Any) -> None:
    """Give a number a name that prose can use: ``{glue:text}`name```. Rounding is the caller's."""
    mime = "application/papermill.record/text/plain"
    display(
        {mime: repr(str(value))},
        raw=True,
        metadata={"scrapbook": {"name": name, "mime_prefix": mime[: -len("text/plain")]}},
    )

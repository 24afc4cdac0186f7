"""Stored tables of the part *Use it*, as a page shows them."""

from collections.abc import Sequence
from html import escape

from IPython.display import HTML, display

SHORT = 18  # letters of a cell that is not broken into lines


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows as an HTML table, for the site and for a notebook; what is short stands in one line."""
    whole = lambda cell: cell.replace(" ", "\u00a0").replace("-", "\u2011") if len(cell) <= SHORT else cell
    line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{escape(whole(cell))}</{tag}>" for cell in cells) + "</tr>"
    body = "".join(line(row, "td") for row in rows)
    display(HTML(f'<table class="table"><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table>'))

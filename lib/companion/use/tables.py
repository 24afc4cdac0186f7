"""Stored tables of the part *Use it*, as a page shows them."""

from collections.abc import Sequence
from html import escape

from IPython.display import HTML, display


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows as an HTML table, for the site and for a notebook."""
    line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
    body = "".join(line(row, "td") for row in rows)
    display(HTML(f'<table class="table"><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table>'))

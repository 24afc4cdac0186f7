"""How a verdict is shown: one line of text that is the same on every machine, and a card or a table of HTML.

A notebook shows what it knows; the site renders the same templates once more with the words of the registry.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

Record = dict[str, Any]


def bundle(records: Sequence[Record], *, table: bool) -> tuple[dict[str, str], dict[str, Any]]:
    """What a cell shows: text, HTML and, as metadata, the records."""
    page = {"text/plain": "\n".join(map(line, records)), "text/html": html(records, table=table)}
    return page, {"claimbook": {"evidence": list(records), "table": table}}


def line(record: Record) -> str:
    """Claim, verdict and on which side of its bound the residual lies."""
    if record["unfinished"]:
        return f"{record['claim']}: {record['word']} ({record['unfinished']})"
    side = "<=" if record["value"] <= record["bound"] else ">"
    return f"{record['claim']}: {record['word']} (residual {side} {record['bound']:.2g})"


def html(
    records: Sequence[Record],
    *,
    table: bool,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
    probes: Mapping[str, str] | None = None,
    href: str = "",
) -> str:
    """The card of one record, or a table of several.

    Args:
        rows: Claim id -> its row of the registry, for quotation, reading and correction.
        probes: Claim id -> what its probes found, in a line.
        href: Address of a claim's page, with ``{}`` for the id; without it nothing leads there.
    """
    rows, probes = rows or {}, probes or {}

    def marked(record: Record, link: str = "") -> Markup:
        return mark(record["word"], link)

    tools = {"page": lambda record: href.format(record["claim"]) if href else "", "mark": marked}
    entries = [(record, rows.get(record["claim"], {}), sentence(record)) for record in records]
    if table:
        return _templates().get_template("table.html").render(entries=entries, reasons=reasons, **tools)
    return "".join(
        _templates()
        .get_template("card.html")
        .render(
            record=record,
            row=row,
            statement=statement,
            reasons=reasons(record),
            probes=Markup(probes.get(record["claim"], "")),
            **tools,
        )
        for record, row, statement in entries
    )


def sentence(record: Record) -> str:
    """The first paragraph of the function's documentation."""
    return " ".join(record["statement"].split("\n\n")[0].split())


def reasons(record: Record) -> Markup:
    """Why the bounds are what they are, each once."""
    return Markup("; ").join(rich(text) for text in dict.fromkeys(part["reason"] for part in record["parts"]))


def mark(word: str, href: str = "") -> Markup:
    """A verdict as a small mark, a link where there is somewhere to go."""
    tag, link = ("a", f' href="{escape(href)}"') if href else ("span", "")
    return Markup(f'<{tag} class="verdict-mark verdict-{word}"{link}>{word.replace("-", " ")}</{tag}>')


def number(value: float | None) -> str:
    """A number as a reader wants it: two digits, an exact zero as 0, one that diverged as a sign.

    Example:
        >>> number(0.0), number(3.14159e-16), number(12.0), number(None)
        ('0', '3.1e-16', '12', '–')
    """
    if value is None:
        return "–"
    if abs(value) >= 1e300:
        return "∞"
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-2 or abs(value) >= 1e4 else f"{value:.3g}"


def rich(text: str) -> Markup:
    """One line of text as HTML: ``$...$`` is mathematics, backquotes are code.

    Example:
        >>> print(rich("$a<b$ in `f`"))
        <span class="math notranslate nohighlight">\\(a&lt;b\\)</span> in <code>f</code>
    """
    out = []
    for position, part in enumerate(re.split(r"\$([^$]+)\$", str(text))):
        part = escape(part, quote=False)
        formula = f'<span class="math notranslate nohighlight">\\({part}\\)</span>'
        out.append(formula if position % 2 else re.sub("`([^`]+)`", r"<code>\1</code>", part))
    return Markup("".join(out))


def numbers(record: Record) -> str:
    """All parts with their numbers, as text: what an error shows."""
    rows = []
    for part in record["parts"]:
        values = {"measured": part["value"], "bound": part["bound"], "printed": part["printed_value"]}
        text = ", ".join(f"{name} {value:.3g}" for name, value in values.items() if value is not None)
        reached = zip(part["control_values"], part["controls"], strict=True)
        controls = ", ".join(f"{number(value)} ({state})" for value, state in reached)
        name = part["name"] or part["kind"]
        rows.append(
            f"  {name}: {part['state']}, {text}, controls [{controls}], resolution {number(part['resolution'])}"
        )
    return "\n".join(rows)


@functools.cache
def _templates() -> Environment:
    found = Environment(loader=PackageLoader("claimbook.evidence"), autoescape=True, trim_blocks=True)
    found.globals["rich"] = rich
    found.globals["number"] = found.filters["number"] = number
    return found

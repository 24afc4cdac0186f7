"""The templates of the site: Python computes plain data, a template lays it out."""

import functools
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from claimbook.evidence.cards import number, rich
from claimbook.site.ledger import LABELS


@functools.cache
def templates() -> Environment:
    """The templates of the site, with what they call."""
    found = Environment(loader=PackageLoader("claimbook.site"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.globals |= {"rich": rich, "number": number, "labels": LABELS}
    return found


def render(name: str, **context: Any) -> Markup:
    """One template, filled in."""
    return Markup(templates().get_template(f"{name}.html").render(context))


def mark(verdict: str, href: str = "", claim: str = "") -> Markup:
    """A verdict as a small mark: a colour, a sign and a word.

    Example:
        >>> print(mark("not-yet"))
        <span class="verdict-mark verdict-not-yet">not yet written</span>
    """
    return vars(templates().get_template("parts.html").module)["mark"](verdict, href, claim)

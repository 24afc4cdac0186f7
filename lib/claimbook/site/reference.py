"""The reference of a library, as Sphinx reads it from docstrings: what is said once is shown once.

A page names a module, ``.. automodule:: package.module`` with ``:members:``; that is all an author writes.
"""

from typing import Any

from sphinx.application import Sphinx

FIELD = "Alias for field number"  # what Python says of a named tuple's fields, which its docstring describes


def skip(app: Sphinx, what: str, name: str, member: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out fields of named tuples, and names that a module only passes on: they stand where they are made."""
    if (getattr(member, "__doc__", None) or "").startswith(FIELD):
        return True
    made = getattr(member, "__module__", None)
    return True if what == "module" and made and made != app.env.temp_data.get("autodoc:module") else None


def signature(
    app: Sphinx, what: str, name: str, made: Any, options: Any, arguments: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Defaults of data classes that are made anew, as ``...``: no parser reads ``<factory>``."""
    return arguments and arguments.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> None:
    """Register it where autodoc is in use."""
    if "sphinx.ext.autodoc" in app.extensions:
        app.connect("autodoc-skip-member", skip)
        app.connect("autodoc-process-signature", signature)

"""Which function decides a claim: the ids on the doors of a book's package, read from the source, then imported."""

import ast
import difflib
import importlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from claimbook.source.pages import BookError
from claimbook.source.settings import read_settings

if TYPE_CHECKING:  # torch comes with it, which only those need who decide a claim
    from claimbook.evidence.claims import Claim


def doors(root: Path) -> dict[str, str]:
    """Claim id -> module that decides it, in the order of files and lines; nothing is imported.

    Raises:
        BookError: an id stands on two doors.
    """
    package, found = read_settings(root).package, dict[str, str]()
    for path in sorted((root / "lib" / package).rglob("*.py")) if package else ():
        module = ".".join(path.relative_to(root / "lib").with_suffix("").parts)
        for claim in _ids(path, path.stat().st_mtime_ns):
            if claim in found:
                raise BookError(f"{claim} stands on a door in {found[claim]} and in {module}: decide it once")
            found[claim] = module
    return found


def load(root: Path, claim: str) -> "Claim":
    """The function that decides a claim.

    Raises:
        BookError: no module has it.
    """
    known = doors(root)
    if claim not in known:
        raise BookError(unknown(claim, known))
    folder = str(root / "lib")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.import_module(known[claim])
    from claimbook.evidence.claims import CLAIMS

    return CLAIMS[claim]


def unknown(claim: str, known: Iterable[str]) -> str:
    """What to say to an id that no function has: some that are like it.

    Example:
        >>> unknown("A-eq77", ["A-eq7", "E-lem2.4"])
        'CLAIM=A-eq77 has no function: choose an id from data/claims, such as A-eq7'
    """
    near = difflib.get_close_matches(claim, known := list(known), n=4, cutoff=0.4) or known[:4]
    return f"CLAIM={claim} has no function: choose an id from data/claims, such as {', '.join(near)}"


@cache
def _ids(path: Path, changed: int) -> tuple[str, ...]:
    """The ids in decorators ``@claim("...")`` of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [d for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for d in node.decorator_list]
    return tuple(
        call.args[0].value
        for call in calls
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "claim"
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    )

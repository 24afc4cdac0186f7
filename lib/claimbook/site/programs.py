"""The program of a claim: a file that calls the function which decides it, whose source stands below as comments."""

import ast
import textwrap
from pathlib import Path
from typing import Any

RUN = """
from claimbook.evidence import Case, cards
from {module} import {name}

record = {name}.decide(Case()).record
print(cards.line(record))
print(cards.numbers(record))
"""


def source_of(entry: dict[str, Any], root: Path) -> Path:
    """The file of the function that decided a claim."""
    module = entry["function"].partition(":")[0]
    return root / "lib" / Path(*module.split(".")).with_suffix(".py")


def program(row: dict[str, Any], entry: dict[str, Any], root: Path) -> str:
    """The program of a claim.

    Args:
        row: The claim's row of the registry.
        entry: Its published verdict.
        root: The root of the book.
    """
    module, _, name = entry["function"].partition(":")
    text = source_of(entry, root).read_text(encoding="utf-8")
    node = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    lines = text.splitlines()[node.decorator_list[0].lineno - 1 : node.end_lineno]
    shown = "\n".join(f"# {line}".rstrip() for line in lines)
    head = _head(row, entry).replace('"""', "'''").rstrip('\\"')  # it stands between the quotes of a raw string
    return f'r"""{head}\n"""\n{RUN.format(module=module, name=name)}\n# What decides it, in {module}:\n#\n{shown}\n'


def _head(row: dict[str, Any], entry: dict[str, Any]) -> str:
    """What a program says about itself: the claim as printed, the verdict, and where it comes from."""
    numbers = (f"{name} {entry[name]:.3g}" for name in ("value", "bound", "control") if entry[name] is not None)
    texts = [
        f"{row['id']}: {row['statement']}",
        f"Published: {', '.join([entry['verdict'], *numbers])}.",
        f"Argued in chapters/{entry['page']}.md. Needs this book's own packages.",
    ]
    return "\n\n".join(
        textwrap.fill(" ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False) for text in texts
    )

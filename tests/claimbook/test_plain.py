"""Prose of notebooks that leave the site: no directive stays raw."""

import re
from pathlib import Path

import pytest

from claimbook.site.plain import Book, plain

ROOT = Path(__file__).parents[2]
BOOK = Book(
    numbers={"eq-law": "(3.1)", "fig-decay": "Figure 3.2", "thm-x": "Theorem 3.4", "sec-one": "One"},
    places={"fig-decay": "https://example.org/one.html#fig-decay", "sec-one": "https://example.org/one.html"},
    glued={"gap": "2 %"},
    claim=lambda claim: ("holds", f"https://example.org/claims/{claim}.html"),
    cited=lambda key: {"saul2023weight": "Saul 2023"}[key],
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("falls by {glue:text}`gap`", "falls by 2 %"),
        ("see {numref}`fig-decay`", "see [Figure 3.2](https://example.org/one.html#fig-decay)"),
        ("{ref}`the page <sec-one>`", "[the page](https://example.org/one.html)"),
        ("by {eq}`eq-law` and {prf:ref}`thm-x`", "by (3.1) and Theorem 3.4"),
        ("{cite:p}`saul2023weight`", "(Saul 2023)"),
        ("{cite:t}`saul2023weight` says", "Saul 2023 says"),
        ("{claim}`E-1`", "[E-1: holds](https://example.org/claims/E-1.html)"),
        ("(sec-one)=\n# One", "# One"),
        ("no role: `{x}` and $\\{a\\}$", "no role: `{x}` and $\\{a\\}$"),
        ("```python\nx = {1}\n```", "```python\nx = {1}\n```"),
    ],
)
def test_roles_become_numbers_and_links(text, shown):
    assert plain(text, BOOK) == shown


def test_formulas_keep_their_numbers():
    assert plain("```{math}\n:label: eq-law\nx=1\n```", BOOK) == "$$\nx=1\n\\tag{3.1}\n$$"
    assert plain("```{math}\nx=1\n```", BOOK) == "$$\nx=1\n$$"


def test_theorems_proofs_and_boxes_are_text():
    theorem = "```{prf:theorem} Saul, Theorem 2.1\n:label: thm-x\nIt falls by {glue:text}`gap`.\n```"
    assert plain(theorem, BOOK) == "> **Theorem 3.4** (Saul, Theorem 2.1).\n> It falls by 2 %."
    assert plain("```{prf:proof}\nClear.\n```", BOOK) == "*Proof.* Clear.\n∎"
    box = ":::{admonition} In four lines\n:class: in-short\n**The paper says** so.\n:::"
    assert plain(box, BOOK) == "> **In four lines**\n>\n> **The paper says** so."


def test_nested_fences_are_written_out():
    nested = "````{admonition} Ours\n:class: tip\n```{math}\n:label: eq-law\nx=1\n```\nafter\n````\nend"
    assert plain(nested, BOOK) == "> **Ours**\n>\n> $$\n> x=1\n> \\tag{3.1}\n> $$\n> after\nend"
    inner = ":::{div} a\n:::{div} b\ntext\n:::\n:::\nend"
    assert plain(inner, BOOK) == "text\nend"


def test_no_chapter_keeps_a_raw_directive():
    from claimbook.source import pages

    free = Book(cited=lambda key: key)
    raw = re.compile(r"(?m)^\s*(?:`{3,}|:{3,})\{(?!code-cell)|\{(?:glue:text|numref|eq|ref|cite:[pt]|prf:ref|claim)\}`")
    chapters = [path for path in sorted((ROOT / "chapters").rglob("*.md")) if pages.is_notebook(path)]
    left = {
        str(path.relative_to(ROOT)): raw.findall(plain(cell.source, free))
        for path in chapters
        for cell in pages.read(path).cells
        if cell.cell_type == "markdown" and raw.search(plain(cell.source, free))
    }
    assert len(chapters) > 60 and left == {}

"""Reading: which pages the book has, and what is in a chapter.

A page is named by the path of its chapter below ``chapters/``, without suffix: ``part/page``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Tags that change what executing a cell does; all the others only change how it looks.
EXECUTION_TAGS = frozenset({"parameters", "raises-exception", "skip-execution"})


class BookError(Exception):
    """Something in the sources of the book is wrong; the message is one line that says where and what to do."""


def read_yaml(root: Path, name: str) -> Any:
    """What a YAML file of the book holds.

    Raises:
        BookError: it is missing, cut or damaged; the message says where.
    """
    try:
        return yaml.load((root / name).read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise BookError(f"{name} is missing; {restore(name)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        text = " ".join(str(getattr(problem, "problem", None) or problem).split())
        raise BookError(f"{name}{line}: not YAML ({text}); mend it, or {restore(name)}") from None


def restore(name: str) -> str:
    """How to get a file back that was cut or lost."""
    return f"take it back from the last commit: git checkout -- {name}"


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Layout:
    """Where things lie: the root of the book and the folders of one profile."""

    root: Path
    profile: str

    @property
    def build(self) -> Path:
        return self.root / "build" / self.profile

    @property
    def staged(self) -> Path:
        return self.build / "site"

    @property
    def html(self) -> Path:
        return self.build / "html"

    def source(self, page: str) -> Path:
        return self.root / "chapters" / f"{page}.md"

    def executed(self, page: str) -> Path:
        return self.build / "executed" / f"{page}.ipynb"

    def key(self, page: str) -> Path:
        return self.build / "keys" / f"{page}.json"

    def log(self, page: str) -> Path:
        return self.build / "logs" / f"{page}.log"

    def begun(self, page: str) -> Path:
        return self.build / "logs" / f"{page}.begun"

    def failure(self, page: str) -> Path:
        return self.build / "logs" / f"{page}.failure.json"


def pages(root: Path) -> list[str]:
    """The pages in the order of ``_toc.yml``, whose entries are paths below ``chapters/``.

    Raises:
        BookError: there are none, or an entry has no chapter, or stands twice.
    """
    found = list(_entries(read_yaml(root, "_toc.yml")))
    if not found:
        raise BookError(f"_toc.yml lists no page; mend it, or {restore('_toc.yml')}")
    for page in found:
        if found.count(page) > 1:
            raise BookError(f"_toc.yml: {page} stands there twice")
        if not (root / "chapters" / f"{page}.md").is_file():
            raise BookError(f"_toc.yml: {page} has no chapter; write chapters/{page}.md or remove the entry")
    return found


def _entries(node: Any):
    """Walk a table of contents: every ``root`` and ``file``, in order."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in ("root", "file"):
                yield str(value).removesuffix(".md")
            elif name in ("parts", "chapters", "sections", "subtrees", "entries"):
                yield from _entries(value)
    elif isinstance(node, list):
        for item in node:
            if not isinstance(item, dict):
                raise BookError(f"_toc.yml: {item!r} is not an entry; mend it, or {restore('_toc.yml')}")
            yield from _entries(item)


def is_notebook(source: Path) -> bool:
    """Whether a chapter has code to execute; a page of prose alone is staged as it is.

    Raises:
        BookError: the file is not text.
    """
    try:
        return "\n```{code-cell}" in source.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise BookError(f"{source}: not UTF-8 text ({problem.reason} at byte {problem.start}); mend the file") from None


def notebooks(root: Path) -> list[str]:
    """The pages that have code cells."""
    return [page for page in pages(root) if is_notebook(root / "chapters" / f"{page}.md")]


def read(source: Path):
    """The chapter as a notebook without outputs, its cells named by their positions.

    Raises:
        BookError: the file is not a MyST notebook, or names no ``parameters`` cell.
    """
    import jupytext

    try:
        notebook = jupytext.read(source, fmt="md:myst")
    except Exception as problem:
        raise BookError(f"{source.name}: not a MyST notebook: {str(problem).splitlines()[0]}") from problem
    for position, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{position:03d}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if sum("parameters" in tags(cell) for cell in code_cells(notebook)) != 1:
        raise BookError(
            f"{source}: a chapter with code has exactly one cell tagged 'parameters' (profile, seed, device)"
        )
    return notebook


def code_cells(notebook) -> list:
    """The code cells, in order; the cell that papermill injects is not one of them."""
    return [c for c in notebook.cells if c.cell_type == "code" and "injected-parameters" not in tags(c)]


def tags(cell) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


def execution_tags(cell) -> list[str]:
    """The tags that change what executing the cell does, sorted."""
    return sorted(EXECUTION_TAGS.intersection(tags(cell)))

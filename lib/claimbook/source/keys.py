"""Keying: a hash of everything that changes a page's results, and of nothing else.

It covers the sources and execution tags of the code cells, the parameters, the modules of the library that
the chapter reaches by imports (read from the syntax tree), the files below ``data/`` that the cells or those modules
name, the locked versions and the device class. The library is every package below ``lib/``; of this one only what a
page computes or shows with. Prose, captions, alt text and the machinery that builds books are not part of it.
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from claimbook.source import pages
from claimbook.source.files import digest, tree_digest
from claimbook.source.parameters import Parameters

MACHINERY = "claimbook"  # except these, which pages import:
# (how a verdict looks changes no result: the site shows it anew).
SHARED = re.compile(rf"{MACHINERY}(\.evidence(\.(?!cards).*)?|\.show(\..*)?)?")
LOCKS = ("requirements/run.txt", "requirements/torch.txt")
# The registry and the verdicts are written from results; nothing is computed from them.
LEDGER = ("data/claims", "data/verdicts", "data/costs", "data/audit")


@dataclass(frozen=True)
class Key:
    """A page's key and the hashes of its parts, which tell why a page is executed again."""

    key: str
    parts: dict[str, str]

    def changes(self, other: dict[str, str]) -> list[str]:
        """The names of the parts in which this key differs from the parts of another."""
        return sorted(n for n in self.parts.keys() | other.keys() if self.parts.get(n) != other.get(n))


def page_key(root: Path, page: str, parameters: Parameters) -> Key:
    """The current key of a page."""
    cells = _cells_of_file(root / "chapters" / f"{page}.md")
    sources = [source for source, _ in cells]
    parts = {
        "code": digest(*(text for cell in cells for text in cell)),
        "parameters": f"profile={parameters.profile} seed={parameters.seed}",
        "device": parameters.device,
    } | source_key(root, sources)
    return Key(digest(*(text for name in sorted(parts) for text in (name, parts[name]))), parts)


def source_key(root: Path, sources: list[str]) -> dict[str, str]:
    """Hashes of what code rests on besides itself: locks, modules of the library, and the data that they name."""
    modules = reached(root, sources)
    parts = {name: _file_digest(root / name) for name in LOCKS if (root / name).is_file()}
    parts |= {str(path.relative_to(root)): _file_digest(path) for path in modules.values()}
    named = set[str]().union(*(named_data(text) for text in sources), *map(_data_of_file, modules.values()))
    for name in sorted(named):
        path = root / name
        if path.is_file():
            parts[name] = _file_digest(path)
        elif path.is_dir():
            parts[name] = tree_digest(path)
        else:
            parts[name] = "absent"
    return parts


def reached(root: Path, sources: list[str]) -> dict[str, Path]:
    """The modules of the library that code reaches by imports, directly and through one another.

    Code that cannot be parsed reaches all of them: it fails when it is executed, not here.
    """
    library = _library(root)
    names, found = frozenset(library), dict[str, Path]()
    waiting = [name for text in sources for name in _imports(text, "", names)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = library[name]
            waiting += _imports_of_file(library[name], name, names)
    return dict(sorted(found.items()))


def _library(root: Path) -> dict[str, Path]:
    """Module name -> file, for every package below ``lib/`` without the machinery that builds books."""
    base = root / "lib"
    library = {}
    for path in sorted(base.glob("*/**/*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[0] != MACHINERY or SHARED.fullmatch(name):
            library[name] = path
    return library


@cache
def _imports(text: str, module: str, library: frozenset[str]) -> set[str]:
    """The library's modules that one source imports; ``module`` is its own name, for relative imports.

    Importing ``a.b`` also executes ``a``. A string that equals a module's name counts as an import of it.
    """
    tree = _parse(text)
    if tree is None:
        return set(library)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level] if module else []
                start = ".".join([*package, *([start] if start else [])])
            names |= {start} | {f"{start}.{alias.name}" for alias in node.names}
            if any(alias.name == "*" for alias in node.names):
                names |= {name for name in library if name.startswith(f"{start}.")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in library:
            names.add(node.value)
    parents = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    return parents & library


@cache
def named_data(text: str) -> set[str]:
    """The paths below ``data/`` that string constants in a source name, without the ledger's own files.

    Example:
        >>> sorted(named_data("open('data/results/quick/gap.npz'); folder = 'data/verdicts'"))
        ['data/results/quick/gap.npz']
    """
    tree = _parse(text)
    found = set()
    for node in ast.walk(tree) if tree else ():
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"data/[\w./-]+", node.value)
        ):
            found.add(node.value.rstrip("/"))
    return {name for name in found if not name.startswith(LEDGER) and ".." not in name}


def _parse(text: str) -> ast.AST | None:
    """The syntax tree of a cell or module; lines of IPython magic are left out; None if it is not Python."""
    lines = ["" if re.match(r"\s*[%!]", line) else line for line in text.split("\n")]
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:
        return None


# A plan asks about the same files once for every page; their contents are taken as fixed for the time stamp they have.
def _file_digest(path: Path) -> str:
    return _digest_at(path, _stamp(path))


def _cells_of_file(path: Path) -> tuple[tuple[str, str], ...]:
    return _cells_at(path, _stamp(path) if path.is_file() else None)


def _imports_of_file(path: Path, module: str, library: frozenset[str]) -> set[str]:
    package = f"{module}.__init__" if path.name == "__init__.py" else module
    return _imports_at(path, _stamp(path), package, library)


def _data_of_file(path: Path) -> set[str]:
    return _data_at(path, _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@cache
def _digest_at(path: Path, stamp: tuple[int, int]) -> str:
    return digest(path.read_bytes())


@cache
def _cells_at(path: Path, stamp: tuple[int, int] | None) -> tuple[tuple[str, str], ...]:
    """Source and execution tags of the code cells of a chapter."""
    return tuple((cell.source, " ".join(pages.execution_tags(cell))) for cell in pages.code_cells(pages.read(path)))


@cache
def _imports_at(path: Path, stamp: tuple[int, int], module: str, library: frozenset[str]) -> set[str]:
    return _imports(path.read_text(encoding="utf-8"), module, library)


@cache
def _data_at(path: Path, stamp: tuple[int, int]) -> set[str]:
    return named_data(path.read_text(encoding="utf-8"))

"""The structure of the code: which folder of which package imports which, read from the syntax trees.

``python -m claimbook structure`` prints the picture that stands in a book's CONTRIBUTING.md.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def imported(source: str, modules: frozenset[str] | set[str]) -> set[str]:
    """Which of some modules a source imports, wherever in it; a package's own file counts where nothing else is meant.

    Example:
        >>> sorted(imported("from a.b import c, f", {"a", "a.b", "a.b.c", "a.d"}))
        ['a.b', 'a.b.c']
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & modules) | ({node.module or ""} if names - modules else set())
    return found & modules


def library(folder: Path) -> dict[str, Path]:
    """Module name -> file, for every package below a folder."""
    found = {}
    for path in sorted(folder.glob("*/**/*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def packages(folder: Path) -> dict[str, set[str]]:
    """Package -> the other packages below the folder that it imports."""
    return _arrows(folder, lambda name: name.partition(".")[0])


def folders(folder: Path, package: str) -> dict[str, set[str]]:
    """Folder of a package -> the folders of that package that it imports; modules beside the folders are left out."""
    inner = {path.parent.name for path in (folder / package).glob("*/__init__.py")}
    part = lambda name: name.split(".")[1] if name.startswith(f"{package}.") and name.split(".")[1] in inner else ""
    return {name: {n for n in to if n} for name, to in _arrows(folder, part).items() if name}


def _arrows(folder: Path, part) -> dict[str, set[str]]:
    modules = library(folder)
    arrows: dict[str, set[str]] = {part(name): set() for name in modules}
    for name, path in modules.items():
        source = path.read_text(encoding="utf-8")
        arrows[part(name)] |= {part(other) for other in imported(source, set(modules))} - {part(name)}
    return arrows


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """The names along a circle of arrows; empty if there is none.

    Example:
        >>> circle({"a": {"b"}, "b": {"c"}, "c": set()}), sorted(set(circle({"a": {"b"}, "b": {"a"}})))
        ([], ['a', 'b'])
    """
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as problem:
        return problem.args[1]
    return []


def picture(folder: Path) -> str:
    """Packages, and in each its folders from the ground up; behind an arrow stands what each imports."""
    lines = []
    for package in _upward(among := packages(folder)):
        lines.append(_line(package, among[package], ""))
        inner = folders(folder, package)
        lines += [_line(name, inner[name], "  ") for name in _upward(inner)]
    return "\n".join(lines)


def _line(name: str, to: set[str], indent: str) -> str:
    return f"{indent}{name:<{26 - len(indent)}}<- {', '.join(sorted(to))}" if to else f"{indent}{name}"


def _upward(arrows: dict[str, set[str]]) -> list[str]:
    """The names so that each comes after what it imports, those of one floor by the alphabet."""
    sorter, found = TopologicalSorter(arrows), []
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found += ready
        sorter.done(*ready)
    return found

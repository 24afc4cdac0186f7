"""Who imports whom: packages in one direction, folders without a circle, and their picture in CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

import pytest

from claimbook.command import structure
from claimbook.source import pages

ROOT = Path(__file__).parents[1]
LIB = ROOT / "lib"
ALLOWED = {"normdyn": set(), "claimbook": set(), "companion": {"normdyn", "claimbook"}}
SHARED = ("claimbook.show", "claimbook.evidence")


def test_a_package_imports_what_it_may():
    found = structure.packages(LIB)
    assert found.keys() == ALLOWED.keys()
    assert {name: to - ALLOWED[name] for name, to in found.items() if to - ALLOWED[name]} == {}


@pytest.mark.parametrize("package", ALLOWED)
def test_folders_form_no_circle(package):
    assert structure.circle(structure.folders(LIB, package)) == []


def test_what_pages_show_themselves_with_uses_nothing_else_of_the_machinery():
    assert structure.folders(LIB, "claimbook")["show"] == set()


@pytest.mark.parametrize("page", pages.notebooks(ROOT))
def test_chapters_import_the_library_and_of_the_machinery_what_is_in_their_key(page):
    modules = structure.library(LIB).keys()
    for cell in pages.code_cells(pages.read(ROOT / "chapters" / f"{page}.md")):
        source = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.M)
        other = [
            m for m in structure.imported(source, modules) if m.startswith("claimbook") and not m.startswith(SHARED)
        ]
        assert other == []


def test_the_machinery_does_not_know_the_name_of_this_book():
    files = [path for path in (LIB / "claimbook").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 40
    assert [
        str(path.relative_to(ROOT)) for path in files if "normdyn" in path.read_text(encoding="utf-8").lower()
    ] == []


def test_the_picture_in_contributing_is_true():
    assert f"```\n{structure.picture(LIB)}\n```" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_a_wrong_direction_and_a_circle_would_be_noticed(tmp_path):
    for name, text in {
        "one/__init__.py": "",
        "one/a/__init__.py": "",
        "one/a/x.py": "def f():\n    from one.b import y",
        "one/b/__init__.py": "",
        "one/b/y.py": "import one.a.x\nfrom two import z",
        "two/__init__.py": "",
        "two/z.py": "import torch",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert structure.packages(tmp_path) == {"one": {"two"}, "two": set()}
    assert structure.folders(tmp_path, "one") == {"a": {"b"}, "b": {"a"}}
    assert set(structure.circle(structure.folders(tmp_path, "one"))) == {"a", "b"}


ALIASES = {
    "gauge": "rescaling.gauge",
    "optim": "rescaling.descent",
    "monitor": "norms.monitor",
    "scale_invariance": "symmetry.scale_invariance",
    "collapse": "measures.collapse",
    "symmetry": "symmetry.continuous",
}


@pytest.mark.parametrize(("short", "full"), ALIASES.items(), ids=ALIASES.keys())
def test_short_names_are_the_same_objects(short, full):
    alias = __import__(f"normdyn.{short}", fromlist=["_"])
    module = __import__(f"normdyn.{full}", fromlist=["_"])
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    public = {name for name in defined if not name.startswith("_")}
    assert public and public <= set(alias.__all__)
    assert all(getattr(alias, name) is getattr(module, name) for name in alias.__all__)

"""What every public name of the library says of itself: what it is, what it raises, its shapes, where it comes from."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

NORMDYN = Path(__file__).parents[1] / "lib" / "normdyn"
MODULES = [str(path.relative_to(NORMDYN)) for path in sorted(NORMDYN.rglob("*.py"))]
SOURCELESS = {
    "data/files.py": "reads and fetches files",
    "data/sets.py": "its sets name their publishers in `provenance`",
    "networks/graphs.py": "builders of networks; what is a paper's names its equation",
}


def public(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.ClassDef | None]]:
    """Public functions and classes of a module, and public methods with their class."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node, None
            for member in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield member, node


def raised(function: ast.AST) -> set[str]:
    """Names of the exceptions that a body raises itself."""
    found = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc]
    return {ast.unparse(e.func if isinstance(e, ast.Call) else e) for e in found}


def bare(function: ast.FunctionDef) -> list[str]:
    """Arguments, and ``return``, that are a tensor without a shape; pairs and options of them too."""
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    annotations = {a.arg: a.annotation for a in arguments} | {"return": function.returns}
    alone = ("Tensor", "Tensor | None", "None | Tensor", "torch.Tensor", "Optional[Tensor]")
    return [name for name, a in annotations.items() if a is not None and ast.unparse(a) in alone]


def wanting(text: str, *, sourceless: bool = False) -> list[str]:
    """What the docstrings of a module lack."""
    tree, missing = ast.parse(text), []
    whole = ast.get_docstring(tree) or ""
    if not whole:
        missing.append("module: no docstring")
    for node, owner in public(tree):
        name, doc = node.name if owner is None else f"{owner.name}.{node.name}", ast.get_docstring(node) or ""
        if not doc:
            missing.append(f"{name}: no docstring")
        of_class = "" if owner is None else ast.get_docstring(owner) or ""
        body = node if isinstance(node, ast.FunctionDef) else next(
            (m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None
        )  # fmt: skip
        sections = [t.partition("Raises:")[2] for t in (doc, of_class)]
        unnamed = {e for e in raised(body) if not any(e in s for s in sections)} if body else set()
        missing += [f"{name}: raises {e}, its docstring does not say so" for e in sorted(unnamed)]
        if isinstance(node, ast.FunctionDef):
            missing += [f"{name}: {argument} is a tensor without a shape" for argument in bare(node)]
            if not (sourceless or any("Source" in t for t in (doc, of_class, whole))):
                missing.append(f"{name}: no source")
    return missing


@pytest.mark.parametrize("module", MODULES)
def test_public_names_say_what_they_are(module):
    text = (NORMDYN / module).read_text(encoding="utf-8")
    assert wanting(text, sourceless=module in SOURCELESS) == []


def test_modules_without_sources_exist_and_are_few():
    assert SOURCELESS.keys() <= set(MODULES)
    assert len(SOURCELESS) < 5


def test_what_is_wanting_would_be_noticed():
    text = '"""M."""\ndef f(x: Tensor) -> Float[Tensor, "n"]:\n    raise ValueError("no")\n'
    assert wanting(text) == [
        "f: no docstring",
        "f: raises ValueError, its docstring does not say so",
        "f: x is a tensor without a shape",
        "f: no source",
    ]
    assert (
        wanting('"""M. Source: ours."""\ndef f():\n    """F.\n\n    Raises:\n        E: Yes.\n    """\n    raise E')
        == []
    )

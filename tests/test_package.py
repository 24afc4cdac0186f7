"""The package as practitioners get it: the wheel, installed beside torch, NumPy and SciPy and nothing else."""

import ast
import json
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import normdyn

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "lib" / "normdyn"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted(
    ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in LIBRARY.rglob("*.py")
)


def needed(names):
    """These distributions and all that they need, by name."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in found:
            try:
                found[name] = distribution(name)
            except ModuleNotFoundError:  # of another platform
                continue
            requirements = [Requirement(text) for text in found[name].requires or []]
            waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [Path(sys.executable).with_name("uv"), "build", "--wheel", "--offline", "--no-build-isolation"]
    command += ["--python", sys.executable, "--out-dir", folder, ROOT]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("normdyn-*.whl")
    return found


@pytest.fixture(scope="module")
def empty(wheel, tmp_path_factory):
    """An environment's packages: the wheel, what it says it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for found in needed(Requirement(text).name for text in PROJECT["dependencies"]).values():
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(found.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return folder


def alone(folder, program):
    """What a program prints where only a folder's packages can be imported."""
    command = [sys.executable, "-S", "-I", "-c", f"import sys\nsys.path.append({str(folder)!r})\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_the_science_and_no_book(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"normdyn", f"normdyn-{normdyn.__version__}.dist-info"}
    assert "normdyn/py.typed" in names and "normdyn/__init__.pyi" in names
    assert sum(name.endswith(".py") for name in names) == len(MODULES)


def test_it_needs_torch_numpy_and_scipy():
    assert {Requirement(text).name for text in PROJECT["dependencies"]} == {"numpy", "scipy", "torch"}


def test_every_module_and_every_example_works_with_what_the_wheel_asks_for(empty):
    program = f"""
import doctest, importlib, json
tried = failed = 0
for name in {MODULES!r}:
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if name == "normdyn.data.sets":  # its examples are sets that come with scikit-learn
        continue
    result = doctest.testmod(module, optionflags=flags)
    tried, failed = tried + result.attempted, failed + result.failed
absent = [name for name in ("flint", "jaxtyping", "matplotlib", "pooch", "sklearn", "claimbook") if name in sys.modules]
print("\\n" + json.dumps([tried, failed, absent]))
"""
    tried, failed, absent = json.loads(alone(empty, program).splitlines()[-1])
    assert tried > 100 and failed == 0 and absent == []


def test_an_extra_that_is_missing_is_named(empty):
    program = """
from normdyn.data.sets import digits
try:
    digits()
except ImportError as error:
    print(error)
"""
    assert "pip install normdyn[data]" in alone(empty, program)


def test_the_package_alone_imports_nothing_else(empty):
    program = (
        "import normdyn\nprint([name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy', 'scipy')])"
    )
    assert alone(empty, program).strip() == "[]"


def test_tools_are_where_the_package_says_and_type_checkers_are_told_the_same():
    for name, module in normdyn.TOOLS.items():
        assert getattr(normdyn, name).__module__ == f"normdyn.{module}"
    told = ast.parse((LIBRARY / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module.removeprefix("normdyn.")
        for node in told.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("normdyn")
        for alias in node.names
    }
    assert imported == normdyn.TOOLS
    with pytest.raises(AttributeError, match="no attribute 'rebalence'"):
        normdyn.rebalence  # noqa: B018


def test_every_module_has_its_page_in_the_reference():
    documented = {
        line.removeprefix(".. automodule:: ")
        for path in (ROOT / "chapters" / "reference").glob("*.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(".. automodule:: ")
    }
    packages = {module for module in MODULES if (ROOT / "lib" / module.replace(".", "/")).is_dir()}
    aliases = {module for module in MODULES if (import_module(module).__doc__ or "").startswith("Another name of")}
    assert documented == set(MODULES) - packages - aliases


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_is_public(module):
    path = ROOT / "lib" / Path(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    made = any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_" for node in tree.body)
    found = import_module(module)
    listed = getattr(found, "__all__", [])
    assert listed or not made
    assert all(hasattr(found, name) for name in listed) and sorted(set(listed)) == sorted(listed)

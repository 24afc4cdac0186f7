"""A key changes with what changes results, and with nothing else."""

import pytest

from claimbook.source.keys import page_key, reached
from claimbook.source.parameters import Parameters
from tiny_book import ONE, TWO, tiny_book


@pytest.fixture
def book(tmp_path):
    return tiny_book(tmp_path / "book")


def keys(book, parameters=None):
    return {page: page_key(book.root, page, parameters or book.parameters).key for page in (ONE, TWO)}


def changed(book, before):
    return [page for page, key in keys(book).items() if key != before[page]]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("chapters/part/one.md", "The first number", "The very first number"),
        ("chapters/part/one.md", "A square stays a square.", "Squares stay squares."),
        ("chapters/part/one.md", "alt: One square.", "alt: One black square."),
        ("chapters/part/one.md", "[parameters, remove-input]", "[parameters, hide-input]"),
        ("chapters/part/one.md", "[nbval-check-output]", "[nbval-check-output, hide-input]"),
        ("chapters/part/one.md", "display_name: Python 3", "display_name: Python"),
        ("lib/claimbook/source/__init__.py", "no page", "not one page"),
        ("requirements/dev.txt", "sphinx==7", "sphinx==8"),
        ("data/claims/Z.yaml", "One is one.", "One equals one."),
        ("_config.yml", "a tiny book", "a small book"),
    ],
)
def test_what_changes_no_result_changes_no_key(book, name, old, new):
    before = keys(book)
    book.edit(name, old, new)
    assert changed(book, before) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "pages"),
    [
        ("chapters/part/one.md", "number() - 1.0)", "number() - 1.00)", [ONE]),
        ("chapters/part/one.md", "[nbval-check-output]", "[nbval-check-output, skip-execution]", [ONE]),
        ("lib/tiny/alpha.py", "return 1", "return 1.0", [ONE]),
        ("lib/tiny/claims.py", "bound=0.5", "bound=0.25", [ONE]),
        ("lib/tiny/gamma.py", "return 3", "return 4", [TWO]),
        ("lib/tiny/__init__.py", "three", "3", [ONE, TWO]),
        ("data/results/stored.txt", "five", "six", [TWO]),
        ("requirements/run.txt", "2.0", "2.1", [ONE, TWO]),
        ("requirements/torch.txt", "2.0", "2.1", [ONE, TWO]),
    ],
)
def test_what_changes_results_changes_the_keys_of_the_pages_that_depend_on_it(book, name, old, new, pages):
    before = keys(book)
    book.edit(name, old, new)
    assert changed(book, before) == pages


@pytest.mark.parametrize("other", [Parameters("paper"), Parameters(device="cuda"), Parameters(seed=1)])
def test_profile_device_and_seed_are_part_of_the_key(book, other):
    before = keys(book, Parameters())
    assert all(key != before[page] for page, key in keys(book, other).items())


def test_the_number_of_jobs_is_not_part_of_the_key(book):
    assert keys(book, Parameters(jobs=1)) == keys(book, Parameters(jobs=8))


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import tiny", ["tiny"]),
        ("import tiny.alpha as a", ["tiny", "tiny.alpha"]),
        ("from tiny import alpha", ["tiny", "tiny.alpha"]),
        ("def f():\n    from tiny import gamma", ["tiny", "tiny.gamma"]),
        ("import importlib\nimportlib.import_module('tiny.gamma')", ["tiny", "tiny.gamma"]),
        ("%matplotlib inline\n!ls\nfrom tiny.beta import *", ["tiny", "tiny.beta", "tiny.gamma"]),
        ("from tiny import *", ["tiny", "tiny.alpha", "tiny.beta", "tiny.claims", "tiny.gamma"]),
        ("this is no Python", ["claimbook", "tiny", "tiny.alpha", "tiny.beta", "tiny.claims", "tiny.gamma"]),
        ("import torch", []),
    ],
)
def test_imports_are_read_from_the_syntax_tree(book, source, modules):
    assert list(reached(book.root, [source])) == modules


def test_relative_imports_are_followed(book):
    book.edit("lib/tiny/beta.py", "from tiny.gamma", "from .gamma")
    assert list(reached(book.root, ["import tiny.beta"])) == ["tiny", "tiny.beta", "tiny.gamma"]


def test_a_key_tells_why_it_differs(book):
    old = page_key(book.root, TWO, book.parameters)
    book.edit("lib/tiny/gamma.py", "return 3", "return 4")
    assert page_key(book.root, TWO, book.parameters).changes(old.parts) == ["lib/tiny/gamma.py"]

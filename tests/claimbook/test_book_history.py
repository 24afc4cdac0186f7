"""The history of the recorded verdicts, read from the repository, and the table that shows it."""

import json
import subprocess

import pytest

from claimbook.registry.history import history
from claimbook.site.runs import VerdictHistory

FILE = "data/verdicts/quick.json"


def git(root, *words):
    names = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *names, *words], check=True, capture_output=True)


def record(root, message, verdicts):
    """Commit verdicts, given as claim -> (verdict, page), or a text as it is."""
    text = (
        verdicts
        if isinstance(verdicts, str)
        else json.dumps({claim: {"verdict": verdict, "page": page} for claim, (verdict, page) in verdicts.items()})
    )
    (root / FILE).write_text(text)
    git(root, "add", FILE)
    git(root, "commit", "-q", "-m", message)


@pytest.fixture
def root(tmp_path):
    """A repository that recorded verdicts three times, and broken ones in between."""
    root = tmp_path / "book"
    (root / "data/verdicts").mkdir(parents=True)
    git(tmp_path, "init", "-q", "book")
    record(root, "one", {"Z-one": ("open", "part/one"), "Z-gone": ("holds", "part/one")})
    record(root, "broken", "<<<<<<< HEAD")
    two = {"Z-one": ("holds", "part/one"), "Z-two": ("fails", "part/two")}
    record(root, "two", two)
    (root / "other.txt").write_text("no verdict\n")
    git(root, "add", "other.txt")
    git(root, "commit", "-q", "-m", "other")
    record(root, "three", two | {"Z-three": ("holds", "part/two")})
    return root


def test_every_change_is_counted_against_the_one_before(root):
    three, two, one = history(root, "quick")
    assert (three["count"], three["pages"]) == ({"holds": 2, "fails": 1}, 2)
    assert (three["new"], three["new_pages"], three["gone"], three["changed"]) == (1, 1, 0, [])
    assert (two["new"], two["gone"], two["changed"]) == (1, 1, [["Z-one", "open", "holds"]])
    assert (one["new"], one["new_pages"], one["gone"]) == (2, 1, 0)
    assert all(len(change["commit"]) == 10 and len(change["date"]) == 10 for change in (one, two, three))


def test_only_the_last_changes_are_shown(root):
    assert history(root, "quick", last=1) == history(root, "quick")[:1]


def test_a_shallow_clone_tells_what_it_knows(root, tmp_path):
    git(tmp_path, "clone", "-q", "--depth", "3", f"file://{root}", "shallow")
    (only,) = history(tmp_path / "shallow", "quick")
    assert only["count"] == {"holds": 2, "fails": 1} and only["new"] == 0
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{root}", "shallowest")
    assert history(tmp_path / "shallowest", "quick") == []


def test_without_a_repository_there_is_none(tmp_path, root, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert history(tmp_path, "quick") == [] and history(root, "paper") == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert history(root, "quick") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"new": 2, "new_pages": 1}, "2 new, on 1 page"),
        ({"gone": 3}, "3 gone"),
        ({"changed": [["Z-one", "open", "holds-with-correction"]]}, "Z-one: open → holds with correction"),
        ({"changed": [["Z", "open", "holds"]] * 6}, "Z: open → holds; " * 4 + "2 more with another verdict"),
        ({}, "numbers only"),
    ],
)
def test_a_change_is_told_in_a_line(change, said):
    plain = {"new": 0, "new_pages": 0, "gone": 0, "changed": []}
    assert VerdictHistory.difference(plain | change) == said

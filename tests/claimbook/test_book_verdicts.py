"""Verdicts are collected from evidence, once for each claim, and compared with the recorded ones."""

import json

import pytest
import yaml

from claimbook.registry import verdicts
from claimbook.source.pages import BookError
from tiny_book import ONE, TWO, record, tiny_book

EVIDENCE = record("Z-one", 0.1)


@pytest.fixture
def book(tmp_path):
    return tiny_book(tmp_path / "book")


def store(book, page, *evidence):
    """An executed notebook with this evidence in its outputs."""
    outputs = [{"metadata": {"claimbook": {"evidence": [item]}}} for item in evidence]
    path = book.layout.executed(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": [{"outputs": outputs}, {}]}), encoding="utf-8")


def test_the_verdict_follows_from_the_numbers(book):
    store(book, ONE, EVIDENCE)
    open_ = {"word": "open", "parts": [], "value": None, "bound": None, "control": None, "reason": "nobody knows"}
    store(book, TWO, record("Z-two", 0.1) | open_ | {"unfinished": "nobody knows"})
    found = verdicts.collect(book.layout, [TWO, ONE])
    assert list(found) == ["Z-one", "Z-two"]
    one = {"verdict": "holds", "value": 0.1, "bound": 0.5, "control": 100.0, "page": ONE, "correction": ""}
    assert found["Z-one"] == one | {"reason": "counting", "function": "tiny.claims:record"}
    assert (found["Z-two"]["verdict"], found["Z-two"]["reason"]) == ("open", "nobody knows")
    missed = record("Z-one", 0.1)
    missed["parts"][0]["state"] = "misses"  # whatever the word says that was stored beside it
    row = {"id": "Z-one", "correction": "no", "severity": "misprint"}
    assert verdicts.entry(missed, row, ONE)["verdict"] == "fails"


def test_what_fails_or_is_corrected_says_how_and_how_gravely(book):
    store(book, ONE, record("Z-one", 0.7))
    with pytest.raises(BookError, match="part/one: Z-one fails, and its row has no correction and no severity"):
        verdicts.collect(book.layout, [ONE])


def test_the_records_of_all_claims_are_what_their_pages_show(book):
    store(book, ONE, EVIDENCE)
    store(book, TWO, record("Z-two", 0.2))
    assert verdicts.records(book.layout, [ONE, TWO]) == {"Z-one": EVIDENCE, "Z-two": record("Z-two", 0.2)}


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (EVIDENCE, EVIDENCE, "part/two: claim Z-one is already recorded by part/one; record it once"),
        (EVIDENCE, EVIDENCE | {"claim": "Z-three"}, "part/two: claim Z-three is not in data/claims"),
    ],
)
def test_a_claim_is_known_and_recorded_once(book, first, second, line):
    store(book, ONE, first)
    store(book, TWO, second)
    with pytest.raises(BookError, match=line):
        verdicts.collect(book.layout, [ONE, TWO])


def test_an_id_stands_once_in_the_registry(book):
    (book.root / "data/claims/Y.yaml").write_text((book.root / "data/claims/Z.yaml").read_text())
    with pytest.raises(BookError, match="the id Z-one stands twice"):
        verdicts.read_claims(book.root)


def test_claims_of_written_papers_without_a_verdict_are_missing(book):
    with open(book.root / "_config.yml", "a", encoding="utf-8") as config:
        config.write("    claimbook_papers:\n      - {key: Z, folder: part}\n")
    assert verdicts.missing(book.root, {}) == []
    (book.root / "chapters/part/index.md").write_text("# Part\n")
    assert verdicts.written(book.root) == {"Z"}
    assert verdicts.missing(book.root, {"Z-one": {}}) == ["Z-two"]


def entry(**changes):
    plain = {
        "verdict": "holds",
        "value": 1e-15,
        "bound": 1e-12,
        "control": 0.3,
        "page": ONE,
        "correction": "",
    }
    return plain | changes


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, None),
        ({"value": 8e-13}, None),
        ({"control": 0.301}, None),
        ({"reason": "told otherwise"}, None),
        ({"verdict": "fails", "value": 1e-3}, "Z-one: recorded as holds, but part/one finds fails"),
        ({"control": 0.4}, None),
        ({"value": 2e-9}, "Z-one: value is recorded as 1e-15, but part/one finds 2e-09"),
        ({"bound": 1e-6}, "Z-one: bound is recorded as 1e-12, but part/one finds 1e-06"),
        ({"page": TWO}, "Z-one: page is recorded as part/one, but part/two finds part/two"),
        ({"correction": "twice that"}, None),
    ],
)
def test_a_fresh_run_that_contradicts_the_record_is_told(changes, line):
    lines = verdicts.contradictions({"Z-one": entry()}, {"Z-one": entry(**changes)})
    assert lines == ([line] if line else [])


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ({"verdict": "qualitative", "value": 1.6, "bound": 4.0}, {"value": 1.5}, True),
        ({"verdict": "qualitative", "value": 1.6, "bound": 4.0}, {"value": 1.0}, False),
        ({"verdict": "qualitative", "value": 1.6, "bound": 4.0}, {"value": 1.5, "verdict": "fails"}, False),
        ({"verdict": "fails", "value": 1.7e7, "bound": 8.0}, {"value": 1.6e7}, True),
        ({"verdict": "fails", "value": 1.7e7, "bound": 8.0}, {"value": 1.1e7}, False),
        ({"verdict": "fails", "value": 1.7e2, "bound": 8.0}, {"value": 1.6e2}, False),
        ({"verdict": "holds", "value": 1.7, "bound": 8.0}, {"value": 1.6}, False),
    ],
)
def test_numbers_of_tendencies_and_explosions_are_one_draw(old, new, same):
    before = entry(**old)
    assert (verdicts.contradictions({"Z-one": before}, {"Z-one": before | new}) == []) == same


def test_claims_on_one_side_only_are_told():
    assert verdicts.contradictions({"Z-one": entry()}, {}) == ["Z-one: is recorded, but no page decides it"]
    assert verdicts.contradictions({}, {"Z-one": entry()}) == ["Z-one: is not recorded yet"]


def test_the_verdicts_of_a_gpu_are_recorded_beside_the_others(book):
    verdicts.record(book.root, "quick", {"Z-two": entry(page=TWO)})
    before = [path.read_bytes() for path in (book.root / "data").rglob("*") if path.is_file()]
    verdicts.record(book.root, "quick-cuda", {"Z-two": entry(page=ONE)})
    assert json.loads((book.root / "data/verdicts/quick-cuda.json").read_text())["Z-two"]["page"] == ONE
    (book.root / "data/verdicts/quick-cuda.json").unlink()
    assert [path.read_bytes() for path in (book.root / "data").rglob("*") if path.is_file()] == before


def test_recording_writes_the_verdicts_and_the_pages(book):
    before = yaml.safe_load((book.root / "data/claims/Z.yaml").read_text())
    verdicts.record(book.root, "quick", {"Z-two": entry(page=TWO)})
    stored = json.loads((book.root / "data/verdicts/quick.json").read_text())
    assert stored == {"Z-two": entry(page=TWO)}
    before[1]["page"] = TWO
    assert yaml.safe_load((book.root / "data/claims/Z.yaml").read_text()) == before

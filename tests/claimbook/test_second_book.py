"""A second book, of another package and another paper, is built, decided and audited by the same commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from claimbook.registry import audits

REPOSITORY = Path(__file__).parents[2]
WORDS = {"G-sum": "holds", "G-cubes": "holds-with-correction", "G-primes": "fails", "G-means": "qualitative"}


def run(root, *words):
    command = [sys.executable, "-m", "claimbook", *words, "--device", "cpu", "--jobs", "1"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The second book in a folder of its own, audited and built."""
    root = tmp_path_factory.mktemp("second") / "book"
    shutil.copytree(REPOSITORY / "tests" / "fixtures" / "second", root)
    audited = run(root, "audit")
    assert audited.returncode == 0, audited.stdout + audited.stderr
    built = run(root, "build")
    assert built.returncode == 0, built.stdout + built.stderr
    recorded = run(root, "verdicts")
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    return root


def page(book, name):
    return (book / "build" / "quick" / "html" / f"{name}.html").read_text(encoding="utf-8")


def test_verdicts_follow_from_its_claims(book):
    recorded = json.loads((book / "data" / "verdicts" / "quick.json").read_text())
    assert {claim: entry["verdict"] for claim, entry in recorded.items()} == WORDS


def test_one_claim_is_decided_alone(book):
    result = run(book, "claim", "G-cubes")
    assert result.returncode == 0, result.stderr
    assert "the paper: the sum of the cubes is the sum of the numbers" in result.stdout
    assert "published: holds-with-correction" in result.stdout and "Probes passed: common ground, bend" in result.stdout
    unknown = run(book, "claim", "G-nothing")
    assert unknown.returncode == 1 and "CLAIM=G-nothing has no function: choose an id from data" in unknown.stderr
    assert len(unknown.stderr.split("\n")) == 3, "one line, after an empty one"


def test_probes_are_stored_current_and_made_again_when_the_code_changes(book, tmp_path):
    copy = tmp_path / "book"
    shutil.copytree(book, copy)
    assert audits.stale(copy, list(WORDS)) == []
    assert "0 of 4 claims have no current probes" in run(copy, "audit").stdout
    path = copy / "lib" / "sums" / "laws.py"
    path.write_text(path.read_text().replace("n * (n + 1) / 2", "n * (n + 1) * 0.5"))
    assert audits.stale(copy, list(WORDS)) == list(WORDS)
    result = run(copy, "audit", "G-sum")
    assert result.returncode == 0 and "1 of 1 claims" in result.stdout
    assert audits.stale(copy, list(WORDS)) == ["G-cubes", "G-primes", "G-means"]


def test_a_red_probe_fails_the_audit_until_it_is_excused(book, tmp_path):
    copy = tmp_path / "book"
    shutil.copytree(book, copy)
    path = copy / "lib" / "proofs" / "gauss" / "triangles.py"
    path.write_text(path.read_text().replace("sum(first(n)) + start", "triangular(n) + start"))
    result = run(copy, "audit", "G-sum")
    assert result.returncode == 1 and "common ground red (both sides call sums.laws:triangular)" in result.stdout
    rows = copy / "data" / "claims" / "G.yaml"
    excuses = "  excuses: {common ground: it is a definition, bend: it is a definition}\n"
    rows.write_text(rows.read_text().replace("  rests_on: []\n", "  rests_on: []\n" + excuses))
    assert run(copy, "audit", "G-sum").returncode == 0


def test_every_claim_has_a_page_with_all_that_is_known(book):
    shown = page(book, "claims/G-cubes")
    for text in (
        "the sum of the cubes is the sum of the numbers",  # the paper's words
        "add up to the square",  # what is right
        "wrong constant",  # severity
        "G-sum.html",  # its ground
        "sum_of_cubes",  # the function that decides it
        "issues/new?title=Dispute%20G-cubes",
        "make claim CLAIM=G-cubes",
        "note      = {Page claims/G-cubes}",
        "small whole numbers are exact",  # the reason of the bound
        "bend: passed",
    ):
        assert text in shown, text
    assert "G-cubes.html" in page(book, "claims/G-sum"), "what it carries"
    assert "<svg" in page(book, "claims/G-means"), "cells of a tendency are drawn"


def test_cards_on_the_page_are_closed_and_lead_to_the_claim(book):
    shown = page(book, "gauss/triangles")
    assert '<details class="verdict verdict-holds" id="evidence-G-sum">' in shown
    assert 'href="../claims/G-sum.html"' in shown
    assert shown.count('id="evidence-G-') == 4 and "the sum of the first n numbers" in shown


def test_beside_an_erratum_stands_a_program_that_runs(book):
    programs = sorted((book / "build" / "quick" / "html" / "_static" / "counterexamples").iterdir())
    assert [path.stem for path in programs] == ["G-cubes", "G-primes"]
    shown = page(book, "claims")
    assert 'href="_static/counterexamples/G-cubes.py"' in shown and "# def sum_of_cubes(" in shown
    words = {"cwd": book, "env": os.environ | {"PYTHONPATH": str(book / "lib")}, "capture_output": True, "text": True}
    result = subprocess.run([sys.executable, str(programs[0])], **words)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("G-cubes: holds-with-correction (residual <= 1e-15)")


def test_a_correction_without_its_sentence_or_severity_does_not_build(book, tmp_path):
    copy = tmp_path / "book"
    shutil.copytree(book, copy)
    rows = copy / "data" / "claims" / "G.yaml"
    rows.write_text(rows.read_text().replace("  severity: wrong constant\n", ""))
    result = run(copy, "build")
    assert result.returncode == 1
    assert "G-cubes holds-with-correction, and its row has no severity" in result.stderr


def test_the_machinery_knows_no_book():
    """No name of this book, of its packages or of its papers."""
    names = re.compile(
        r"normdyn|companion|norm dynamics|weight.balancing|unified.balancing|theory.iii|square.loss", re.I
    )
    machinery = REPOSITORY / "lib" / "claimbook"
    files = [path for path in machinery.rglob("*") if path.suffix in (".py", ".html", ".css", ".js")]
    found = {
        f"{path.relative_to(machinery)}: {match[0]}"
        for path in files
        for match in names.finditer(path.read_text(encoding="utf-8"))
    }
    assert len(files) > 40 and found == set()

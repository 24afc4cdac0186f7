"""Errata: their order, and the program beside each, which calls the function that decides the claim."""

import builtins
import json
import re
import subprocess
import symtable
import sys
from pathlib import Path

import pytest

from claimbook.registry import verdicts
from claimbook.run import kernel
from claimbook.site.errata import by_consequence
from claimbook.site.ledger import Ledger
from claimbook.site.programs import program, source_of

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "data/verdicts/quick.json").read_text(encoding="utf-8"))
ROWS = verdicts.read_claims(ROOT)
ERRATA = [claim for claim, entry in RECORDED.items() if entry["verdict"] in verdicts.WRONG]


def unbound(text):
    """Names that a program reads somewhere and binds nowhere."""
    names = lambda table: (
        table.get_symbols() if table.get_type() == "module" else filter(lambda s: s.is_global(), table.get_symbols())
    )
    scopes, todo = [], [symtable.symtable(text, "program", "exec")]
    while todo:
        scopes.append(todo.pop())
        todo += scopes[-1].get_children()
    symbols = [symbol for table in scopes for symbol in names(table)]
    bound = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    return {s.get_name() for s in symbols if s.is_referenced()} - bound - set(dir(builtins))


def test_every_erratum_has_a_whole_program_that_shows_the_source_of_its_function():
    for claim in ERRATA:
        text = program(ROWS[claim], RECORDED[claim], ROOT)
        module, _, name = RECORDED[claim]["function"].partition(":")
        assert source_of(RECORDED[claim], ROOT).is_file()
        assert unbound(text) == set() and f"from {module} import {name}" in text, claim
        assert re.search(rf'# @claim\((\n# +)?"{re.escape(claim)}"', text) and f"# def {name}(" in text, claim


def test_a_program_runs_by_itself_and_gives_the_published_verdict(tmp_path):
    claim = "E-lem2.4"
    (tmp_path / "one.py").write_text(program(ROWS[claim], RECORDED[claim], ROOT), encoding="utf-8")
    line, variables = [sys.executable, "one.py"], kernel.environment(ROOT, 2)
    result = subprocess.run(line, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{claim}: {RECORDED[claim]['verdict']} (")


@pytest.mark.parametrize("said", ['ends with a quote"', 'has """ within', "ends with a stroke\\"])
def test_whatever_a_claim_says_can_stand_in_a_program(tmp_path, said):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/doors.py").write_text('@claim("X-1")\ndef one(case):\n    return 1\n')
    entry = {"verdict": "fails", "value": 2.0, "bound": 1.0, "control": None, "page": "a/b", "function": "doors:one"}
    text = program({"id": "X-1", "statement": said}, entry, tmp_path)
    compile(text, "X-1", "exec")
    assert "Published: fails, value 2, bound 1.\n" in text and text.endswith("# def one(case):\n#     return 1\n")


def test_errata_stand_in_the_order_of_their_consequence():
    row = lambda claim, core, kind: {"id": claim, "paper": "X", "core": core, "kind": kind}
    entry = lambda verdict, value=0.0, control=9.0: {
        "verdict": verdict,
        "value": value,
        "control": control,
        "bound": 1.0,
    }
    rows = {
        "small": (row("small", False, "claim"), entry("fails", 200.0)),
        "large": (row("large", False, "claim"), entry("fails", 300.0)),
        "corrected": (row("corrected", True, "theorem"), entry("holds-with-correction")),
        "figure": (row("figure", False, "figure"), entry("fails", 1e9)),
        "core": (row("core", True, "figure"), entry("fails", 200.0)),
        "lemma": (row("lemma", False, "lemma"), entry("fails", 200.0)),
        "right": (row("right", True, "theorem"), entry("holds")),
    }
    ledger = Ledger({k: r for k, (r, _) in rows.items()}, {k: e for k, (_, e) in rows.items()}, (), ())
    assert [r["id"] for r in by_consequence(ledger, "X")] == ["core", "lemma", "large", "small", "figure", "corrected"]

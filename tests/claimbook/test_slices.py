"""Slices: what a claim rests on is kept, what it does not is left out, and the programs give the published numbers."""

import ast
import builtins
import json
import re
import subprocess
import symtable
import sys
from pathlib import Path

import pytest

from claimbook.registry import counterexamples, ledger, verdicts
from claimbook.registry.counterexamples import Outcome, script
from claimbook.run import kernel
from claimbook.site.errata import by_consequence
from claimbook.site.ledger import Ledger
from claimbook.source.parameters import Parameters
from claimbook.source.slices import NoSlice, Page

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "data/verdicts/quick.json").read_text(encoding="utf-8"))
ROWS = verdicts.read_claims(ROOT)
ERRATA = [claim for claim, entry in RECORDED.items() if entry["verdict"] in counterexamples.WRONG]
SLICED = [claim for claim in ERRATA if "function" not in RECORDED[claim]]  # the others are programs already
# Some of each paper, of both verdicts, from pages that decide them in a second.
SAMPLE = "B-nc2 B-G-exp-fixed-rho C-prop4.3 C-margin-doubling C-summary-flatness C-wn-length-direction".split()
SAMPLE += ["C-polar-curvature", "C-ln-shift-group"]

DECIDED = 'ledger.check("X-1", {}, 1, reason="rounding", control=1000)'


def kept(*cells, deciding="x"):
    """The statements that a claim about ``x`` rests on, of some cells."""
    return [s.text for s in Page([*cells, DECIDED.format(deciding)]).slice("X-1")]


# ------------------------------------------------------------------------------------------------------------- slicing


def test_only_what_is_read_is_kept_in_its_order():
    assert kept("a = 1", "b = 2", "c = 3\nx = a + c") == ["a = 1", "c = 3", "x = a + c"]


def test_a_rebound_name_forgets_what_it_was():
    assert kept("x = 1\nx = 2\ny = x") == ["x = 2"]
    assert kept("x = 1\nx = x + 1") == ["x = 1", "x = x + 1"]


@pytest.mark.parametrize(
    "change",
    [
        "x.append(1)",
        "x[0] = 1",
        "x.size = 1",
        "x += [1]",
        "for k in range(3):\n    x.append(k)",
        "with open('f') as file:\n    x.append(file)",
        "if True:\n    x = [2]",
        "change(x)",
        "y = x.pop()",
        "y = x.mul_(2)",
        "assert x.pop()",
        "del x[0]",
        "f(3, out=x)",
        "(y := x).append(2)",
    ],
)
def test_whatever_may_change_a_value_is_kept(change):
    assert kept("x = [0]", change) == ["x = [0]", change]


@pytest.mark.parametrize(
    "harmless",
    ["glue('x', x)", "print(x)", "y = x + 1", "assert x", "y = [x for x in range(3)]", "f = lambda x: x.append(1)"],
)
def test_what_only_looks_is_left_out(harmless):
    assert kept("x = [0]", harmless) == ["x = [0]"]


def test_a_change_through_another_name_is_kept():
    assert len(kept("x = [[0], 1]", "y = x[0]", "y.append(1)")) == 3
    assert len(kept("x = [[0], 1]", "for row in x:\n    row.append(1)")) == 2
    assert len(kept("x = {'a': [0]}", "for name, row in x.items():\n    row += [1]")) == 2


def test_a_function_that_writes_to_its_argument_or_outside_is_seen_where_it_is_called():
    fill = "def fill(rows):\n    rows.append(1)\n    return 0"
    assert kept("x = []", fill, "y = fill(x)") == ["x = []", fill, "y = fill(x)"]
    assert kept("x = []", fill, "y = 1") == ["x = []"]
    note = "def note(value):\n    x.append(value)"
    assert kept("x = []", note, "y = [note(1)]") == ["x = []", note, "y = [note(1)]"]


def test_a_closure_reads_what_a_name_is_when_it_is_called():
    cells = ["a = 1", "f = lambda: a", "a = 2", "x = f()", "a = 3"]
    assert kept(*cells[:4]) == ["f = lambda: a", "a = 2", "x = f()"]
    assert kept(*cells) == ["f = lambda: a", "a = 2", "x = f()", "a = 3"]  # what f returned might ask again
    assert kept(*cells, deciding="f()") == ["f = lambda: a", "a = 3"]


def test_another_name_of_a_function_reads_what_the_function_reads():
    for second in ("g = f", "g = partial(f, 1)"):
        cells = ["def f(n):\n    x.append(n)", second, "y = g()"]
        assert kept("x = []", *cells) == ["x = []", *cells]


def test_a_function_inside_a_value_brings_what_it_reads():
    cells = ["a = 1", "def loss(w):\n    return a * w", "field = flow(loss)", "x = field(2)"]
    assert kept(*cells) == cells


def test_names_of_other_scopes_are_other_names():
    cells = ["n = 5", "rows = [n for n in range(3)]", "f = lambda n: n + 1", "x = f(rows[0])"]
    assert kept(*cells) == cells[1:]
    assert kept("n = 5", "def f():\n    n = 1\n    return n", "x = f()")[0] != "n = 5"


def test_a_generator_moves_on_wherever_it_is_used():
    cells = [
        "g = torch.Generator().manual_seed(0)",
        "a = torch.randn(3, generator=g)",
        "x = torch.randn(3, generator=g)",
    ]
    assert kept(*cells) == cells
    fresh = [
        "import torch",
        "def g(k):\n    return torch.Generator().manual_seed(k)",
        "a = draw(g(0))",
        "x = draw(g(1))",
    ]
    assert kept(*fresh) == [*fresh[:2], fresh[3]]
    kept_one = [*fresh[:2], "own = g(2)", "a = draw(own)", "x = draw(own)"]
    assert kept(*kept_one) == kept_one
    drawn = [cells[0], "draw = lambda n: torch.randn(n, generator=g)", "a = draw(3)", "x = draw(3)"]
    assert kept(*drawn) == drawn


def test_an_optimizer_changes_its_model():
    cells = ["net = torch.nn.Linear(2, 1)", "opt = torch.optim.SGD(net.parameters())", "opt.step()", "x = net(1)"]
    assert kept(*cells) == cells


def test_figures_are_left_out_and_what_their_loops_collect_is_not():
    figure = ["x = {}", "fig, panels = axes(1, 2)"]
    assert kept(*figure, "panels[0].plot(x)", "draw(panels[1], x)", "fig.legend()") == ["x = {}"]
    loop = "for panel, k in zip(panels, range(2)):\n    panel.plot(k)"
    assert kept(*figure, loop) == ["x = {}"]
    assert loop.replace("panel.plot(k)", "x[k] = 1") in kept(*figure, loop.replace("panel.plot(k)", "x[k] = 1"))


def test_imports_are_cut_to_the_names_in_use():
    text = script(Page(["from m import a, b, c\nimport os, sys", "x = a + c", DECIDED.format("x")]), "X-1", "head")
    assert "from m import a, c\n" in text and "os" not in text


def test_decorators_comments_and_settings_stay():
    cells = ["torch.set_num_threads(1)", "# rows\n@cache\ndef f():\n    return 1", "x = f()  # once"]
    text = script(Page([*cells, DECIDED.format("x")]), "X-1", "head")
    assert "torch.set_num_threads(1)" in text and "# rows\n@cache\ndef f():" in text and "x = f()  # once" in text


def test_of_a_table_only_the_row_is_kept():
    table = (
        'ledger.table([\n    ledger.check("X-2", y, 1, reason="r", control=9),\n    ' + DECIDED.format("x") + ",\n])"
    )
    page = Page(["x = 1", "y = 2", table])
    assert [s.text for s in page.slice("X-1")] == ["x = 1"] and [s.text for s in page.slice("X-2")] == ["y = 2"]
    assert "X-2" not in script(page, "X-1", "head")


def test_of_a_table_that_is_computed_all_rows_are():
    page = Page(["x = 1", f"ledger.table([row for row in [{DECIDED.format('x')}]])"])
    assert "if row.claim == 'X-1')" in script(page, "X-1", "head")


def test_a_claim_without_a_call_is_told():
    with pytest.raises(NoSlice, match="names X-9"):
        Page(["x = 1"]).slice("X-9")


def test_parameters_are_kept_and_replaced():
    page = Page(["profile = 'quick'\nseed = 0", "x = 1", DECIDED.format("x")], parameters=0)
    assert "seed = 0\n" in script(page, "X-1", "head")
    assert "seed = 0\nseed = 3\n" in script(page, "X-1", "head", {"profile": "quick", "seed": 3})


# ------------------------------------------------------------------------------------------------------------ programs


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


def test_every_erratum_has_a_whole_program():
    for claim in SLICED:
        text = counterexamples.counterexample(ROOT, ROWS[claim], RECORDED[claim])
        compile(text, claim, "exec")
        assert unbound(text) == set(), claim
        deciding = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and n.value == claim]
        assert len(deciding) == 1, claim


def test_the_program_of_a_claim_that_is_a_function_calls_it_and_shows_its_source():
    for claim in set(ERRATA) - set(SLICED):
        text = counterexamples.program_of(ROWS[claim], RECORDED[claim], ROOT)
        module, _, name = RECORDED[claim]["function"].partition(":")
        assert unbound(text) == set() and f"from {module} import {name}" in text, claim
        assert re.search(rf'# @claim\((\n# +)?"{re.escape(claim)}"', text) and f"# def {name}(" in text, claim


RUN_EACH = """
import contextlib, dataclasses, io, json, runpy, sys
for path in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evidence = runpy.run_path(path, run_name="__main__")["evidence"]
    print(json.dumps([dataclasses.asdict(evidence), printed.getvalue()]))
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """What the programs of the sample find and print, run one after the other by one Python without pytest."""
    folder = tmp_path_factory.mktemp("programs")
    for claim in SAMPLE:
        text = counterexamples.counterexample(ROOT, ROWS[claim], RECORDED[claim])
        (folder / f"{claim}.py").write_text(text, encoding="utf-8")
    files = [f"{claim}.py" for claim in SAMPLE]
    line, variables = [sys.executable, "-c", RUN_EACH, *files], kernel.environment(ROOT, 2)
    result = subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(zip(SAMPLE, map(json.loads, result.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("claim", SAMPLE)
def test_programs_give_the_published_numbers(sample, claim):
    evidence, printed = sample[claim]
    found = ledger.entry(ledger.Evidence(**evidence), RECORDED[claim]["page"])
    outcome = Outcome(claim, RECORDED[claim], found)
    assert outcome.agrees, counterexamples.told(outcome)
    assert printed.startswith(f"{claim}: {RECORDED[claim]['verdict']} (")


@pytest.mark.parametrize(
    ("change", "agrees"),
    [({}, True), ({"value": 0.3}, False), ({"verdict": "holds"}, False), ({"bound": 2.0}, False), (None, False)],
)
def test_another_verdict_bound_or_number_does_not_agree(change, agrees):
    entry = {"verdict": "fails", "value": 5.0, "bound": 1.0, "control": 0.0}
    assert Outcome("X-1", entry, None if change is None else entry | change).agrees is agrees


def command(*words):
    line = [sys.executable, "-m", "claimbook", *words, "--device", "cpu", "--jobs", "2"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def test_the_command_shows_both_sides():
    result = command("counterexample", "C-prop4.3")
    assert result.returncode == 0, result.stderr
    assert "C-prop4.3 as printed: " in result.stdout and "What is right: " in result.stdout
    yours, published = (line.split() for line in result.stdout.splitlines() if line.startswith(("yours", "published")))
    assert yours[-1] == published[-1] == RECORDED["C-prop4.3"]["verdict"] and yours[2] == published[2]


def test_the_command_says_what_a_claim_can_be():
    result = command("counterexample", "A-eq77")
    assert result.returncode == 2
    assert result.stderr.startswith("CLAIM=A-eq77 is not in data/claims") and "A-eq7" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("found", "status", "told"), [(1.0, True, "2 of 2"), (5.0, False, "the others: X-1, X-2")])
def test_all_of_them_are_counted(monkeypatch, capsys, found, status, told):
    entry = {"verdict": "fails", "value": 1.0, "bound": 0.1, "control": 0.0}
    recorded = {"X-1": entry, "X-2": entry, "X-3": entry | {"verdict": "holds"}}
    monkeypatch.setattr(counterexamples.compare, "published", lambda root, profile: recorded)
    monkeypatch.setattr(
        counterexamples, "run", lambda layout, claim, p: Outcome(claim, entry, entry | {"value": found})
    )
    assert counterexamples.run_all(ROOT, Parameters("quick", "cpu", 0, jobs=2)) is status
    assert told in capsys.readouterr().out


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
    ledger_ = Ledger({k: r for k, (r, _) in rows.items()}, {k: e for k, (_, e) in rows.items()}, (), ())
    assert [r["id"] for r in by_consequence(ledger_, "X")] == ["core", "lemma", "large", "small", "figure", "corrected"]

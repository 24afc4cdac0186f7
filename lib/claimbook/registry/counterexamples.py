"""Counterexamples: one claim as a Python program that runs by itself, and the check that it gives what is published.

``make counterexample CLAIM=Z-one`` writes one and runs it; ``make counterexamples`` runs those of all errata. The site
shows them beside the errata. What a program consists of is found by :mod:`.slices`, never typed.
"""

import ast
import difflib
import json
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from claimbook.registry import compare, ledger, verdicts
from claimbook.run import kernel
from claimbook.source import pages
from claimbook.source.files import write_if_changed
from claimbook.source.pages import BookError, Layout
from claimbook.source.parameters import BadParameter, Parameters
from claimbook.source.slices import NoSlice, Page, in_list
from claimbook.source.statements import DEFINITIONS, IMPORTS, Statement

WRONG = ("fails", "holds-with-correction")
# The packages of the book, which stand beside this one.
OWN = {path.parent.name for path in Path(__file__).parents[2].glob("*/__init__.py")}
PATIENCE = 600  # seconds that one program may take
PRINT = """print(ledger.line(evidence))"""
NUMBERS = """
print(f"measured {evidence.value:.3g}, bound {evidence.bound:.3g}, control {evidence.control:.3g}")"""
# What runs a program and hands its evidence on; the last line of its output.
RUNNER = """
import json, runpy, sys
from dataclasses import asdict
print(json.dumps(asdict(runpy.run_path(sys.argv[1], run_name="__main__")["evidence"])))
"""


@cache
def read(source: Path, changed: int) -> Page:
    """The code of a chapter; ``changed`` is the time of its last change, so that an edited chapter is read again."""
    cells = [cell for cell in pages.code_cells(pages.read(source)) if "skip-execution" not in pages.tags(cell)]
    parameters = next(i for i, cell in enumerate(cells) if "parameters" in pages.tags(cell))
    return Page([cell.source for cell in cells], parameters)


def counterexample(root: Path, row: dict[str, Any], entry: dict[str, Any], parameters: Parameters | None = None) -> str:
    """The program of a claim.

    Args:
        root: The root of the book.
        row: The claim's row of the registry.
        entry: Its published verdict.
        parameters: Other values of profile, seed and device than the chapter has.

    Raises:
        NoSlice: the chapter does not decide the claim.
    """
    source = root / "chapters" / f"{entry['page']}.md"
    given = parameters and {"profile": parameters.profile, "seed": parameters.seed, "device": parameters.device}
    return script(read(source, source.stat().st_mtime_ns), row["id"], _head(row, entry), given)


RUN = """
from claimbook.evidence import Case, cards
from {module} import {name}

record = {name}.decide(Case()).record
print(cards.line(record))
print(cards.numbers(record))
"""


def program_of(row: dict[str, Any], entry: dict[str, Any], root: Path) -> str:
    """The program of a claim that is a function: it calls the function, whose source stands below it as comments."""
    module, _, name = entry["function"].partition(":")
    source = root / "lib" / Path(*module.split(".")).with_suffix(".py")
    text = source.read_text(encoding="utf-8")
    node = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    lines = text.splitlines()[node.decorator_list[0].lineno - 1 : node.end_lineno]
    shown = "\n".join(f"# {line}".rstrip() for line in lines)
    run = RUN.format(module=module, name=name)
    return f'r"""{_safe(_head(row, entry))}\n"""\n{run}\n# What decides it, in {module}:\n#\n{shown}\n'


def _head(row: dict[str, Any], entry: dict[str, Any]) -> str:
    """What a program says about itself: the claim as printed, the verdict, and where it comes from."""
    fill = lambda text: textwrap.fill(" ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False)
    published = ", ".join([entry["verdict"], *(f"{n} {entry[n]:.3g}" for n in NAMED if entry[n] is not None)])
    made = f"Made from chapters/{entry['page']}.md: the statements on which it rests. Needs this book's own packages."
    return "\n\n".join([fill(f"{row['id']}: {row['statement']}"), fill(f"Published: {published}."), fill(made)])


def _safe(head: str) -> str:
    """A text that can stand between the quotes of a raw string."""
    return head.replace('"""', "'''").rstrip('\\"')


NAMED = ("value", "bound", "control")


def script(page: Page, claim: str, head: str, parameters: dict[str, Any] | None = None) -> str:
    """A Python program that decides one claim and prints the verdict with its numbers.

    Args:
        page: The chapter's code.
        claim: The id that the ledger is called with.
        head: What the program's docstring says.
        parameters: Values that replace those in the cell of parameters.

    Raises:
        NoSlice: the page does not decide the claim.
    """
    position, call = page.find(claim)
    deciding, kept = page.statements[position], page.slice(claim)
    if in_list(deciding.node, call):
        shown = f"evidence = {_call(call, deciding.source)}"
    else:
        table = ast.get_source_segment(deciding.source, deciding.node)
        shown = f"evidence = next(row for row in {table}.rows if row.claim == {claim!r})"
    imports, body = _imports(kept)
    first = [s for s in body if s.cell == page.parameters]
    own = {s.node.targets[0].id: s.node.value for s in first if isinstance(s.node, ast.Assign)}
    other = {n: v for n, v in (parameters or {}).items() if n not in own or ast.unparse(own[n]) != repr(v)}
    changed = "\n".join(f"{name} = {value!r}" for name, value in other.items())
    numbers = NUMBERS if getattr(call.func, "attr", "") not in ("leave_open", "not_checkable") else ""
    rest = _text([s for s in body if s not in first])
    gap = "\n\n\n" if body and isinstance(body[-1].node, DEFINITIONS) else "\n\n"
    start = "\n\n".join(
        filter(None, [f'r"""{_safe(head)}\n"""', imports, "\n".join(filter(None, [_text(first), changed]))])
    )
    between = "\n\n\n" if rest.startswith(("def ", "class ", "@")) else "\n\n"
    return start + (between + rest if rest else "") + gap + shown + "\n" + PRINT + numbers + "\n"


def _call(call: ast.Call, source: str) -> str:
    """The deciding call, laid out anew: what is measured on one line, then an argument a line."""
    indent = lambda node, column: _shifted(ast.get_source_segment(source, node), node.col_offset, column)
    lines = [indent(node, 4) for node in call.args]
    flat = ", ".join(lines)
    lines = [flat] if len(flat) < 110 and "\n" not in flat else lines
    lines += [f"{word.arg}={indent(word.value, 5 + len(word.arg))}" for word in call.keywords]
    return f"{ast.unparse(call.func)}(\n" + "".join(f"    {line},\n" for line in lines) + ")"


def _shifted(text: str, column: int, target: int) -> str:
    """Text of several lines, moved from one column to another."""
    first, *rest = text.split("\n")
    return "\n".join([first, *(" " * target + line.removeprefix(" " * column) for line in rest)])


def _imports(kept: list[Statement]) -> tuple[str, list[Statement]]:
    """The imports, those of one module on one line, and the other statements; an import that rebinds stays in place."""
    bound = [name for s in kept for name in s.binds]
    moved = [s for s in kept if isinstance(s.node, IMPORTS) and all(bound.count(name) == 1 for name in s.binds)]
    modules: dict[str, list[str]] = {}
    for s in moved:
        before, _, names = s.text.partition("import ")
        modules.setdefault(before or s.text, []).append(names.strip("()\n "))
    lines = [_import(before, names) for before, names in modules.items()]
    future = [line for line in lines if line.startswith("from __future__")]
    ours = [line for line in lines if line.split()[1].split(".")[0] in OWN]
    others = [line for line in lines if line not in future + ours]
    groups = ("\n".join(group) for group in (future, others, ours))
    return "\n\n".join(filter(None, groups)), [s for s in kept if s not in moved]


def _import(before: str, names: list[str]) -> str:
    line = f"{before}import {', '.join(names)}" if before.startswith("from ") else before
    if len(line) <= 120:
        return line
    wrapped = textwrap.fill(", ".join(names), 110, initial_indent="    ", subsequent_indent="    ")
    return f"{before}import (\n{wrapped},\n)"


def _text(kept: list[Statement]) -> str:
    """The statements; a blank line between cells, two around definitions."""
    out = ""
    for before, s in zip([None, *kept], kept, strict=False):
        defines = [isinstance(one.node, DEFINITIONS) for one in (before, s) if one]
        out += "" if before is None else "\n\n\n" if any(defines) else "\n" if before.cell == s.cell else "\n\n"
        out += s.comment + s.text
    return out


# ------------------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Outcome:
    """What a program found, or why it found nothing."""

    claim: str
    published: dict[str, Any]
    found: dict[str, Any] | None
    printed: str = ""

    @property
    def agrees(self) -> bool:
        """Whether verdict, bound and numbers are those that are published."""
        old, new = self.published, self.found
        if new is None or any(old[name] != new[name] for name in ("verdict", "bound")):
            return False
        return all(verdicts.agree(old[name], new[name], old["bound"]) for name in ("value", "control"))


def write(layout: Layout, claim: str, parameters: Parameters) -> tuple[Path, dict[str, Any]]:
    """Write a claim's program to ``build/<profile>/counterexamples``; return its file and what is published of it.

    Raises:
        BadParameter: there is no such claim.
        BookError: nothing is published of it.
    """
    claims = verdicts.read_claims(layout.root)
    if claim not in claims:
        near = difflib.get_close_matches(claim, claims, n=4, cutoff=0.4) or list(claims)[:4]
        raise BadParameter(f"CLAIM={claim} is not in data/claims: choose an id from there, such as {', '.join(near)}")
    entry = compare.published(layout.root, parameters.profile).get(claim)
    if entry is None:
        raise BookError(f"{claim}: no verdict is published for PROFILE={parameters.profile}")
    try:
        text = counterexample(layout.root, claims[claim], entry, parameters)
    except NoSlice as problem:
        raise BookError(f"chapters/{entry['page']}.md: {problem}") from None
    return write_if_changed(layout.build / "counterexamples" / f"{claim}.py", text.encode()), entry


def run(layout: Layout, claim: str, parameters: Parameters) -> Outcome:
    """Write a claim's program and run it as a chapter runs, in a folder of its own."""
    path, entry = write(layout, claim, parameters)
    environment = kernel.environment(layout.root, parameters.jobs)
    with tempfile.TemporaryDirectory(prefix="counterexample-") as folder:
        try:
            result = subprocess.run(
                [sys.executable, "-c", RUNNER, str(path)],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(claim, entry, None, f"took longer than {PATIENCE} s")
    if result.returncode:
        return Outcome(claim, entry, None, result.stderr.strip())
    *printed, last = result.stdout.splitlines()
    return Outcome(claim, entry, ledger.entry(ledger.Evidence(**json.loads(last)), entry["page"]), "\n".join(printed))


def show(root: Path, claim: str, parameters: Parameters) -> bool:
    """Run a claim's program and show the claim, what it finds and what is published; say whether the two agree."""
    layout = Layout(root, parameters.profile)
    path, entry = write(layout, claim, parameters)
    row = verdicts.read_claims(root)[claim]
    print(textwrap.fill(f"{claim} as printed: {row['statement']}", 100, break_long_words=False))
    if entry["correction"]:
        right = "Counterexample" if entry["verdict"] == "fails" else "What is right"
        print(textwrap.fill(f"{right}: {entry['correction']}", 100, break_long_words=False))
    print(f"\n{path.relative_to(root)}, from chapters/{entry['page']}.md\n", flush=True)
    outcome = run(layout, claim, parameters)
    if outcome.found is None:
        print(outcome.printed, file=sys.stderr)
        raise BookError(f"{claim}: its program did not reach a verdict")
    lines = [("", "measured", "bound", "control", "verdict")]
    for name, found in (("yours", outcome.found), ("published", entry)):
        lines.append((name, *(compare.number(found[n]) for n in NAMED), found["verdict"]))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    for name, *numbers, verdict in lines:
        shown = [name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)), verdict]
        print("  ".join(shown))
    print(f"\n{claim} {'gives' if outcome.agrees else 'differs from'} the published verdict and numbers")
    return outcome.agrees


def run_all(root: Path, parameters: Parameters) -> bool:
    """Run the programs of all errata, ``parameters.jobs`` at once; say whether each gives what is published.

    Claims that are functions are their own programs, which ``make claim`` runs.
    """
    layout = Layout(root, parameters.profile)
    recorded = compare.published(root, parameters.profile)
    wrong = [claim for claim, entry in recorded.items() if entry["verdict"] in WRONG and "function" not in entry]
    differing = []
    with ThreadPoolExecutor(parameters.jobs) as pool:
        for outcome in pool.map(lambda claim: run(layout, claim, parameters), wrong):
            print(f"{outcome.claim}: {told(outcome)}", flush=True)
            if not outcome.agrees:
                differing.append(outcome.claim)
    print(f"\n{len(wrong) - len(differing)} of {len(wrong)} programs give the published verdict and numbers")
    if differing:
        print(f"the others: {', '.join(differing)}")
    return not differing


def told(outcome: Outcome) -> str:
    """One line of the summary."""
    if outcome.found is None:
        return f"no verdict: {(outcome.printed.splitlines() or ['no output'])[-1]}"
    if outcome.agrees:
        return f"{outcome.found['verdict']}, as published"
    numbers = (f"{n} {compare.number(outcome.published[n])} -> {compare.number(outcome.found[n])}" for n in NAMED)
    return f"published {outcome.published['verdict']}, found {outcome.found['verdict']}; {', '.join(numbers)}"

"""Tables of ``make zoo``: every tool on the networks and training loops that people use, as the site shows them."""

import json
from collections.abc import Callable
from typing import Any

from claimbook.show.results import ROOT
from companion.use.tables import table

FOLDER = "data/zoo"
PRECISIONS = ("float64", "float32")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def stored(name: str) -> dict[str, Any]:
    """One table with the versions it was made with."""
    return json.loads((ROOT / FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def versions(name: str) -> str:
    """What a table was made with, in a line."""
    return ", ".join(f"{package} {number}" for package, number in stored(name)["versions"].items())


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def power(value: float) -> str:
    """As a power of ten with one digit; exactly nothing as 0."""
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit} · 10{str(int(exponent)).translate(RAISED)}" if value else "0"


def networks() -> None:
    """``rebalance`` on public models: how much could be rescaled, whether the function was kept, beside aimet-torch."""
    rows = []
    for name, row in stored("rebalance")["rows"].items():
        ours, other = row["normdyn"], row["aimet"]
        rows.append([
            name, f"{ours['rescaled']:.0%} of {ours['units']:,}", *(power(ours["difference"][d]) for d in PRECISIONS),
            seconds(ours["seconds"]), "fails" if other["seconds"] is None else seconds(other["seconds"]),
        ])  # fmt: skip
    table(("network", "units rescaled", "off in float64", "in float32", "time", "aimet-torch"), rows)


def barriers() -> None:
    """What keeps the other units, with the networks that have it: the commonest reason first."""
    found: dict[str, list[str]] = {}
    for name, row in stored("rebalance")["rows"].items():
        for reason in row["normdyn"]["reasons"]:
            found.setdefault(reason, []).append(name)
    rows = sorted(found.items(), key=lambda item: -len(item[1]))
    table(("what keeps a unit", "in"), [[reason, ", ".join(names)] for reason, names in rows])


def loops() -> None:
    """``NormMonitor`` in training loops: what is true of each, and what it said."""
    rows = [
        [row["loop"], row["expected"], "pass" if row["passes"] else "fails", "; ".join(row["said"]),
         "; ".join(row["reasons"] + row["scaling"])]
        for row in stored("loops")["rows"]
    ]  # fmt: skip
    table(("loop", "true", "outcome", "what the monitor says", "and why"), rows)


def passed(name: str, passes: Callable[[Any], bool]) -> str:
    """How many of a table's rows pass, in words."""
    rows = stored(name)["rows"]
    each = rows.values() if isinstance(rows, dict) else rows
    return f"{sum(map(passes, each))} of {len(rows)}"


def measures() -> None:
    """Measures on public models: a pass, or what was seen."""
    rows = [
        [row["model"], row["tool"], "pass" if row["passed"] else "refused", row["note"], seconds(row["seconds"])]
        for row in stored("measures")["rows"]
    ]
    table(("network", "tool", "outcome", "what it says", "time"), rows)

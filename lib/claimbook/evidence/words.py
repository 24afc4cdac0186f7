"""The verdict, and what probes say of it: functions of the numbers, never of the name of the function that was called.

A *record* is what a claim hands over: its parts with their states in the claim's own world, in the printed form if the
claim is a correction, and under each control.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

Word = Literal["holds", "holds-with-correction", "fails", "qualitative", "open", "not-checkable"]
WORDS: tuple[Word, ...] = get_args(Word)
SEVERITIES = ("misprint", "wrong constant", "missing hypothesis", "wrong conclusion")  # mildest first
FORM = 2  # of a record; raised when what a notebook stores of a verdict changes
PROBES = ("seeds", "resolution", "tightness", "common ground", "bend", "unfinished")


def whole(states: list[str]) -> str:
    """The state of several statements together."""
    return "misses" if "misses" in states else "undecided" if "undecided" in states else "stands"


def word(record: dict[str, Any]) -> Word:
    """The verdict that follows from a record.

    ``holds``: every part stands. ``holds-with-correction``: every part stands, and in the printed form one misses.
    ``fails``: a part misses. ``qualitative``: ``holds``, of a tendency. ``open``: a run has not finished, or a number
    lies between its bound and what would refute it.

    Example:
        >>> part = {"kind": "equal", "state": "stands", "printed": None}
        >>> word({"parts": [part]}), word({"parts": [part | {"printed": "misses"}]})
        ('holds', 'holds-with-correction')
    """
    if record.get("unfinished"):
        return "open"
    parts = record["parts"]
    found = whole([part["state"] for part in parts if not part.get("premise")])
    if found == "misses":
        return "fails"
    if found == "undecided":
        return "open"
    printed = [part["printed"] for part in parts]
    if any(state is not None for state in printed):
        as_printed = whole([state for state in printed if state is not None])
        if as_printed == "undecided":
            return "open"
        if as_printed == "misses":
            return "holds-with-correction"
    return "qualitative" if any(part["kind"] == "tendency" for part in parts) else "holds"


def unbroken(record: dict[str, Any]) -> list[str]:
    """The parts that nothing breaks: no control misses there, and they are not resolved to 1 % either.

    Where the claim fails, a control is a world in which it stands; then one such world is enough.
    """
    if word(record) == "open":  # nothing is said that a control could belie
        return []
    stands = [part for part in record["parts"] if not part.get("premise")]
    worlds = range(len(record["controls"]))
    if word(record) == "fails":
        kept = any(whole([part["controls"][k] for part in stands]) == "stands" for k in worlds)
        return [] if kept else [part["name"] or "the statement" for part in stands]
    lost = []
    for part in stands:
        broken = "misses" in part["controls"] or part["printed"] == "misses"
        if part["kind"] == "tendency":
            broken = any(state != "stands" for state in part["controls"])
        resolved = part["resolution"] is not None and part["resolution"] <= 0.01 and len(record["parts"]) > 1
        if not (broken or resolved):
            lost.append(part["name"] or "the statement")
    nowhere = not any("misses" in part["controls"] or part["printed"] == "misses" for part in stands)
    if not lost and nowhere and not any(part["kind"] == "tendency" for part in stands):
        lost = ["all parts: one of them has to be broken"]
    return lost


def judge(found: Mapping[str, Mapping[str, Any]], excuses: Mapping[str, str]) -> dict[str, str]:
    """Probe -> passed, red, excused or none."""
    judged = {}
    for name in PROBES:
        status = found[name]["status"]
        judged[name] = "excused" if status == "red" and name in excuses else status
    return judged

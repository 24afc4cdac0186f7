"""A claim: a function with its id on the door, and the other worlds in which the same function is tried."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from claimbook.evidence import cards
from claimbook.evidence.case import Case
from claimbook.evidence.kinds import AtMost, Counterexample, Evidence, Kind, Limit, Tendency, Unfinished
from claimbook.evidence.words import FORM, Word, unbroken, word

Change = Mapping[str, Any]
CLAIMS: dict[str, "Claim"] = {}  # of the modules that are imported, by id


class ControlError(AssertionError):
    """No control breaks a part of the claim: the check cannot tell true from false."""


@dataclass(frozen=True)
class Verdict:
    """The word for one case, with the numbers it follows from."""

    record: dict[str, Any] = field(repr=False)

    @property
    def claim(self) -> str:
        return self.record["claim"]

    @property
    def word(self) -> Word:
        return self.record["word"]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, str], dict[str, Any]]:
        return cards.bundle([self.record], table=False)


@dataclass(frozen=True)
class Verdicts:
    """Several verdicts, shown as one table."""

    rows: tuple[Verdict, ...]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, str], dict[str, Any]]:
        return cards.bundle([verdict.record for verdict in self.rows], table=True)


class Claim:
    """The function of a claim. Calling it gives its evidence, in the claim's own world or in another one."""

    def __init__(self, id: str, function: Callable[..., Evidence], worlds: dict[str, Any]):
        self.id, self.function = id, function
        self.control: list[Change] = worlds["control"]
        self.printed: Change | None = worlds["printed"]
        self.untrained: Change | None = worlds["untrained"]
        self.longer: Change | None = worlds["longer"]
        functools.update_wrapper(self, function)
        known = inspect.signature(function).parameters
        given = {"printed": self.printed, "untrained": self.untrained, "longer": self.longer}
        given |= {f"control {k + 1}": change for k, change in enumerate(self.control)}
        for name, change in given.items():
            for argument in change or {}:
                if argument not in known or known[argument].default is inspect.Parameter.empty:
                    raise ValueError(f"{id}: {name} changes {argument!r}: it must be an argument with a default")
            if change is not None and not change:
                raise ValueError(f"{id}: {name} changes nothing: name an argument and its other value")

    @property
    def where(self) -> str:
        """Its function as ``module:name``."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    def __call__(self, case: Case, **changes: Any) -> Evidence:
        return self.function(case, **changes)

    def decide(self, case: Case) -> Verdict:
        """The verdict for one case, by rule (:func:`claimbook.evidence.words.word`).

        Raises:
            ControlError: no control breaks a part of the claim, and the part is not resolved to 1 %.
        """
        record = self.record(case)
        lost = unbroken(record)
        if lost:
            raise ControlError(f"{self.id}: no control breaks {', '.join(lost)}\n{cards.numbers(record)}")
        return Verdict(record)

    def record(self, case: Case) -> dict[str, Any]:
        """Everything that the word follows from, and what a page shows, as plain data."""
        text = {
            "form": FORM,
            "claim": self.id,
            "statement": inspect.getdoc(self.function) or "",
            "function": f"{self.function.__module__}:{self.function.__name__}",
            "source": inspect.getsource(self.function),
            "printed": _named(self.printed),
            "controls": [_named(change) for change in self.control],
        }
        try:
            evidence = self(case)
            parts = [_part(name, part) for name, part in evidence.parts().items()]
        except Unfinished as reason:
            empty: dict[str, Any] = {
                "parts": [],
                "unfinished": str(reason),
                "value": None,
                "bound": None,
                "control": None,
            }
            return text | empty | {"word": "open", "reason": str(reason), "part": ""}
        for row in parts:
            row["premise"] = isinstance(evidence, Counterexample) and row["name"] != "violated"
        worlds = [self(case, **change).parts() for change in self.control]
        printed = self(case, **self.printed).parts() if self.printed else None
        for row in parts:
            name = row["name"]
            row["controls"] = [world[name].state() for world in worlds if name in world]
            row["control_values"] = [_number(world[name].residual()) for world in worlds if name in world]
            row["printed"] = printed[name].state() if printed and name in printed else None
            row["printed_value"] = _number(printed[name].residual()) if printed and name in printed else None
        record = text | {"parts": parts, "unfinished": None}
        record["word"] = word(record)
        return record | _headline(record)


def claim(
    id: str,
    *,
    control: Change | Sequence[Change] | None = None,
    printed: Change | None = None,
    untrained: Change | None = None,
    longer: Change | None = None,
) -> Callable[[Callable[..., Evidence]], Claim]:
    """Put an id on the door of a function ``(case, **arguments with defaults) -> evidence``.

    Args:
        id: As in the registry.
        control: Arguments of the same function in a world where the hypothesis is broken, and nothing else; a list
            where a claim has several parts. Of a claim that fails: a world in which it stands.
        printed: The statement as printed, where the claim holds with a correction only.
        untrained: The same claim on networks that were not trained: probes see the word turn.
        longer: On networks trained twice as long: probes see the word stay.

    Raises:
        ValueError: nothing would break the claim, or a world changes what is no argument with a default.

    Example:
        >>> from claimbook.evidence import equal
        >>> @claim("X-square", control={"power": 3})
        ... def square(case, power=2):
        ...     "Two to the power two is four."
        ...     return equal(lambda: 2.0**power, lambda: 4.0, 1e-15, "exact in floating point")
        >>> square.decide(Case()).word
        'holds'
    """
    controls = list(control) if isinstance(control, Sequence) else [control] if control else []
    if not (controls or printed):
        raise ValueError(f"{id}: name what breaks it, control= or printed=")
    worlds = {"control": controls, "printed": printed, "untrained": untrained, "longer": longer}

    def door(function: Callable[..., Evidence]) -> Claim:
        made = Claim(id, function, worlds)
        first = CLAIMS.get(id)
        if first is not None and first.where != made.where:
            raise ValueError(f"{id} stands on two doors: {first.where} and {made.where}")
        CLAIMS[id] = made
        return made

    return door


def decide(case: Case, *claims: Claim) -> Verdicts:
    """Decide several small claims and show them in one table."""
    return Verdicts(tuple(one.decide(case) for one in claims))


def _part(name: str, part: Kind) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "kind": part.name,
        "premise": False,
        "state": part.state(),
        "value": _number(part.residual()),
        "bound": part.bound,
        "reason": part.reason,
        "resolution": _number(part.resolution()),
    }
    if isinstance(part, Tendency):
        row |= {"cells": part.cells, "share": part.share, "confidence": part.confidence, "least": part.least}
    if isinstance(part, Limit):
        row["drift"] = [_number(value) for value in part.drift()]
    if isinstance(part, AtMost):
        row["tightness"] = part.tightness()
    if isinstance(part, Counterexample):
        row["exact"] = _number(part.exact_residual())
    return row


def _headline(record: dict[str, Any]) -> dict[str, Any]:
    """The one line of numbers: of the part that comes nearest to its bound, or misses it most.

    A part that no control breaks, but that is resolved to 1 %, would show one number twice: another goes first.
    """
    own = [part for part in record["parts"] if not part["premise"]]
    if record["word"] != "fails":
        own = [part for part in own if "misses" in (*part["controls"], part["printed"])] or own
    # Below a tenth of its bound a residual may be rounding, which differs from machine to machine: the first part then.
    head = max(own, key=lambda part: max(part["value"] / part["bound"], 0.1))
    if record["word"] == "fails" and head["kind"] != "counterexample":
        head = next(part for part in own if part["state"] == "misses")
    reached = [value for value in head["control_values"] if value is not None]
    printed = head["printed_value"]
    if printed is None and record["printed"]:
        printed = next((p["printed_value"] for p in own if p["printed"] == "misses"), None)
    pick = min if record["word"] == "fails" else max
    return {
        "part": head["name"],
        "reason": head["reason"],
        "value": head["value"],
        "bound": head["bound"],
        "control": pick(reached) if reached else printed,
        "as_printed": printed,
    }


def _number(value: float | None) -> float | None:
    """A number for JSON: one that diverged becomes the largest there is."""
    if value is None:
        return None
    return value if math.isfinite(value) else math.copysign(1e308, value) if not math.isnan(value) else 1e308


def _named(change: Change | None) -> str:
    """A world in words: ``activation = tanh``."""
    if not change:
        return ""

    def name(value: Any) -> str:
        if isinstance(value, tuple):
            return f"({', '.join(map(name, value))})"
        text = getattr(value, "__name__", None) or repr(value)
        return text if len(text) <= 60 else text[:57] + "..."

    return ", ".join(f"{argument} = {name(value)}" for argument, value in change.items())

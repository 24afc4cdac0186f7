"""What a verdict is worth: six probes of one claim, each ``passed``, ``red``, or of no use here (``none``).

A red probe is a finding. Where it cannot be mended, the registry may hold a sentence that excuses it; the reader judges
the sentence, and the book counts how many there are.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from claimbook.evidence.case import Case, draws, forget
from claimbook.evidence.claims import Claim
from claimbook.evidence.kinds import TIGHT, AtMost, Counterexample, Equal, Kind
from claimbook.evidence.tracing import at_most_seconds, bent, reached

SEEDS = (0, 1, 2, 3, 4)
RESOLVED = 0.01
Result = dict[str, Any]


@dataclass(frozen=True)
class House:
    """What the probes have to know of a book.

    Args:
        packages: Whose functions are traced and bent.
        common: Modules (or packages) that both sides may use: networks, data, losses.
        training: Modules or functions that train: claims that reach them say what happens untrained, and with more.
        checked: Function -> which other claim or test checks it; such a function may stand on both sides.
    """

    packages: Sequence[str]
    common: Sequence[str] = ()
    training: Sequence[str] = ()
    checked: Mapping[str, str] = field(default_factory=dict)


def probe(
    claim: Claim, house: House, case: Case | None = None, *, say: Callable[[str], None] = lambda text: None
) -> dict[str, Result]:
    """All probes of one claim: name -> status and what was found."""
    case, start = case or Case(), time.perf_counter()
    forget()
    before = draws()
    clock = time.perf_counter()
    evidence = claim(case)
    states = _states(evidence)
    alone = time.perf_counter() - clock
    random = draws() > before
    say(f"{claim.id}: {alone:.1f} s alone, {'random' if random else 'not random'}")
    found = {"seeds": seeds(claim, case) if random else _none("nothing is drawn")}
    found["resolution"] = resolution(evidence)
    found["tightness"] = tightness(evidence)
    found["common ground"] = common_ground(claim, case, house)
    touched = reached(_fresh(lambda: _states(claim(case))), house.packages).all - {claim.where}
    found["bend"] = bend(claim, case, house, sorted(touched), states, alone)
    found["unfinished"] = unfinished(claim, case, house, touched, states)
    found["time"] = {"status": "none", "alone": round(alone, 2), "seconds": round(time.perf_counter() - start, 1)}
    forget()
    return found


def seeds(claim: Claim, case: Case, numbers: Sequence[int] = SEEDS) -> Result:
    """The word over several seeds, and the residual that comes nearest to its bound."""
    words, ratios = {}, {}
    for number in numbers:
        forget()
        try:
            record = claim.decide(case.with_seed(number)).record
            words[number] = record["word"]
            if record["value"] is not None:
                ratios[number] = record["value"] / record["bound"]
        except Exception as error:  # a probe reports, it does not stop
            words[number] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    worst = max(ratios, key=ratios.__getitem__) if ratios else None
    return {
        "status": "passed" if len(set(words.values())) == 1 and ratios else "red",
        "words": {str(number): text for number, text in words.items()},
        "worst": None if worst is None else {"seed": worst, "ratio": ratios[worst]},
    }


def resolution(evidence: Any) -> Result:
    """By what share the predicted side of each part may be wrong before its state turns."""
    parts, blind = dict[str, Any](), list[str]()
    for name, part in evidence.parts().items():
        if part.name in ("tendency", "at most"):
            continue  # a tendency has its confidence, an inequality its tightness
        if isinstance(part, Equal) and part.counted():
            continue  # one per cent of a count or a sign means nothing: a control has to break it
        if isinstance(evidence, Counterexample) and name != "violated":
            continue
        value = part.resolution()
        seen = value is not None and (value < 10 or isinstance(part, Counterexample))
        parts[name] = value if seen else "blind"
        if not seen or (not isinstance(part, Counterexample) and value > RESOLVED):
            blind.append(name or "the statement")
    if not parts:
        return _none("no equality")
    return {"status": "red" if blind else "passed", "parts": parts, "weak": blind}


def tightness(evidence: Any) -> Result:
    """Least, median and largest ratio of the two sides of each inequality."""
    found = {name: part.tightness() for name, part in evidence.parts().items() if isinstance(part, AtMost)}
    if isinstance(evidence, Counterexample):
        found = {}
    if not found:
        return _none("no inequality")
    loose = [name or "the statement" for name, ratios in found.items() if ratios is None or ratios[-1] < 1 / TIGHT]
    return {"status": "red" if loose else "passed", "parts": found, "loose": loose}


def common_ground(claim: Claim, case: Case, house: House) -> Result:
    """The functions that both sides of a part call, beyond networks, data and losses."""
    both, body = set[str](), reached(_fresh(lambda: claim(case)), house.packages)
    inside: set[str] = set()
    for part in _kinds(claim(case)):
        sides = [reached(_fresh(side), house.packages) for name, side in part.sides().items() if name != "exact"]
        for side in sides:
            inside |= side.inside
        if len(sides) == 2:
            both |= sides[0].direct & sides[1].direct
    free = lambda name: name.replace(":", ".").startswith(tuple(house.common)) or _is_shared(name)
    both = {name for name in both if not free(name)}
    unchecked = sorted(both - house.checked.keys())
    body_calls = sorted(body.all - {claim.where})
    return {
        "status": "red" if unchecked or body_calls else "passed",
        "both": sorted(both),
        "unchecked": unchecked,
        "body": body_calls,  # what the body calls before the sides do escapes the tracing
        "shared": sorted(inside),
    }


def bend(
    claim: Claim, case: Case, house: House, functions: Sequence[str], states: Mapping[str, str], alone: float
) -> Result:
    """Each function that the claim reaches, made wrong by 1 %: does a state turn?"""
    turned, unmoved, fixed = list[str](), list[str](), list[str]()
    for name in functions:
        forget()
        try:
            with bent(name, house.packages), at_most_seconds(30 + 10 * alone):
                same = _states(claim(case)) == states
        except LookupError:
            fixed.append(name)
            continue
        except Exception:  # an error, or no end: it was noticed
            same = False
        (unmoved if same else turned).append(name)
    forget()
    bendable = turned or unmoved
    status = "none" if not bendable else "passed" if turned else "red"
    return {"status": status, "turned": turned, "not tested here": unmoved, "not bent": fixed}


def unfinished(claim: Claim, case: Case, house: House, touched: frozenset[str], states: Mapping[str, str]) -> Result:
    """The same claim untrained, where its states have to turn, and trained for longer, where they have to stay."""
    trains = any(name.replace(":", ".").startswith(tuple(house.training)) for name in touched)
    if not trains and claim.untrained is None and claim.longer is None:
        return _none("nothing is trained")
    found, red = dict[str, Any](), list[str]()
    for name, change, turns in (("untrained", claim.untrained, True), ("longer", claim.longer, False)):
        if change is None:
            found[name] = "not tried"
            red.append(name)
            continue
        forget()
        with contextlib.suppress(Exception):
            found[name] = _states(claim(case, **change))
            if (found[name] != states) == turns:
                continue
        found.setdefault(name, "an error")
        if not (turns and found[name] == "an error"):
            red.append(name)
    forget()
    return {"status": "red" if red else "passed", "worlds": found, "weak": red}


def _kinds(evidence: Any) -> list[Kind]:
    return [part for part in evidence.parts().values() if part.sides()]


def _states(evidence: Any) -> dict[str, str]:
    return {name: part.state() for name, part in evidence.parts().items()}


def _fresh(act: Callable[[], Any]) -> Callable[[], Any]:
    """An act before which the caches of shared runs are emptied."""

    def begin() -> Any:
        forget()
        return act()

    return begin


def _is_shared(name: str) -> bool:
    module, _, function = name.partition(":")
    return hasattr(getattr(sys.modules.get(module), function, None), "__wrapped__") and not isinstance(
        getattr(sys.modules.get(module), function), Claim
    )


def _none(why: str) -> Result:
    return {"status": "none", "why": why}

"""``make audit [CLAIM=...]``: the probes of every claim that are not made yet, or by older code."""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from claimbook.evidence.kinds import Unfinished
from claimbook.evidence.probes import House, probe
from claimbook.evidence.words import PROBES
from claimbook.registry import audits, verdicts
from claimbook.registry.doors import doors, load, unknown
from claimbook.source.pages import BookError
from claimbook.source.settings import read_settings


def house(root: Path) -> House:
    """What the probes have to know of a book."""
    settings = read_settings(root)
    return House((settings.package, *settings.library), settings.common, settings.training, settings.checked)


def report(root: Path, name: str) -> dict[str, Any]:
    """The probes of one claim, made now; of one that is open for a reason of its own there is nothing to probe."""
    started = time.perf_counter()
    try:
        return probe(load(root, name), house(root))
    except Unfinished as reason:
        seconds = round(time.perf_counter() - started, 1)
        found = {one: {"status": "none", "why": f"undecided: {reason}"} for one in PROBES}
        return found | {"time": {"status": "none", "seconds": seconds, "alone": seconds}}


def choose(known: list[str], names: list[str]) -> list[str]:
    """The claims that ids or beginnings of ids name; an id in full is no beginning of others.

    Example:
        >>> choose(["D-eq5", "D-eq50", "D-fig1", "D-fig13"], ["D-eq5", "D-fig"])
        ['D-eq5', 'D-fig1', 'D-fig13']
    """
    starts = tuple(name for name in names if name not in known)
    return [claim for claim in known if not names or claim in names or claim.startswith(starts)]


def audit(root: Path, names: list[str], *, jobs: int = 1) -> bool:
    """Make and store the probes that are stale, a line for each; say whether none of all asked for is red.

    It may be interrupted: what is stored stays, and the next run goes on.

    Args:
        names: Ids or beginnings of ids; none means every claim that has a function. One that is named in full is
            made again though it is current.
    """
    known, rows = list(doors(root)), verdicts.read_claims(root)
    chosen = choose(known, names)
    if not chosen:
        raise BookError(unknown(" ".join(names), known))
    stale = set(audits.stale(root, [claim for claim in chosen if claim not in names]))
    waiting = [claim for claim in chosen if claim in names or claim in stale]
    print(f"audit: {len(waiting)} of {len(chosen)} claims have no current probes", flush=True)
    started = time.perf_counter()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_alone) as pool:
        made = {pool.submit(_one, root, claim): claim for claim in waiting}
        try:
            for number, done in enumerate(as_completed(made), 1):
                claim = made[done]
                found = done.result()
                print(f"[{number}/{len(waiting)}] {claim}: {_line(rows.get(claim, {}), found)}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    stored = {claim: audits.read(root, claim) or {} for claim in chosen}
    judged = {claim: audits.judged(rows.get(claim, {}), stored[claim]) for claim in chosen}
    counts = {s: sum(list(j.values()).count(s) for j in judged.values()) for s in ("passed", "excused", "red")}
    red = [
        f"{claim}: {', '.join(p for p in PROBES if j[p] == 'red')}"
        for claim, j in judged.items()
        if "red" in j.values()
    ]
    print(f"audit: {', '.join(f'{n} {status}' for status, n in counts.items())}, {time.perf_counter() - started:.0f} s")
    print("\n".join(["red, each a finding to mend:", *red] if red else []))
    return not red


def _alone() -> None:
    import torch

    torch.set_num_threads(1)


def _one(root: Path, claim: str) -> dict[str, Any]:
    made = audits.key(root, claim)
    found = report(root, claim)
    audits.store(root, claim, json.loads(json.dumps(found)), made)
    return found


def _line(row: dict[str, Any], found: dict[str, Any]) -> str:
    judged = audits.judged(row, {"probes": found})
    reds = {name: found[name] for name in PROBES if judged[name] == "red"}
    told = [f"{name} red ({_why(name, result)})" for name, result in reds.items()]
    return f"{found['time']['seconds']:.0f} s, " + ("; ".join(told) if told else "nothing red")


def _why(name: str, result: dict[str, Any]) -> str:
    """The finding of a red probe in a few words."""
    match name:
        case "seeds":
            return ", ".join(f"{seed}: {word}" for seed, word in result["words"].items())
        case "resolution":
            return ", ".join(f"{part or 'statement'}: {result['parts'][part]}" for part in result["parts"])
        case "tightness":
            return f"never within a factor of two: {', '.join(result['loose'])}"
        case "common ground":
            both, body = ", ".join(result["unchecked"]), ", ".join(result["body"])
            return "; ".join(filter(None, [both and f"both sides call {both}", body and f"the body calls {body}"]))
        case "bend":
            return f"not noticed: {', '.join(result['not tested here'])}"
        case _:
            return ", ".join(f"{world}: {result['worlds'].get(world)}" for world in result["weak"])


def processes() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))

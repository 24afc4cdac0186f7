"""Stored numbers of a GPU beside those of the processor: the difference, and what is allowed (``make devices``)."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from claimbook.registry import verdicts
from claimbook.run.devices import read_costs, stem, uses_device
from claimbook.source import pages
from claimbook.source.pages import BookError, restore
from claimbook.source.parameters import PROFILES

SHARE = 0.02  # of a number, where it is larger than its bound: what the order of summation may change in a short run


def allowed(number: float, bound: float) -> float:
    """How far a number of another device may lie away: the claim's own bound, or 2 % of what is larger than that.

    Example:
        >>> allowed(1e-15, 1e-12), allowed(50.0, 1e-12)
        (1e-12, 1.0)
    """
    return max(bound, SHARE * abs(number))


def compared(cpu: dict[str, dict], gpu: dict[str, dict], failed: Collection[str] = ()) -> list[dict[str, Any]]:
    """A row for every stored number, and for every claim without one: what both devices found, whether they agree.

    Args:
        failed: The pages that failed on the GPU.
    """
    rows = []
    for claim in [*cpu, *(claim for claim in gpu if claim not in cpu)]:
        old, new = cpu.get(claim), gpu.get(claim)
        entry = cpu[claim] if claim in cpu else gpu[claim]
        both = [entry["verdict"] if entry else None for entry in (old, new)]
        shared = {"claim": claim, "page": entry["page"], "verdicts": both, "reason": entry.get("reason", "")}
        names = [name for name in ("value", "control") if entry[name] is not None] or [""]
        for name in names:
            numbers = [side[name] if side and name else None for side in (old, new)]
            rows.append(shared | {"name": name, "numbers": numbers} | _judged(both, numbers, entry["bound"]))
            if new is None and entry["page"] in failed:
                rows[-1]["problem"] = f"not run on the GPU: {entry['page']} failed"
    return rows


def _judged(verdict: list[str | None], numbers: list[float | None], bound: float | None) -> dict[str, Any]:
    """Difference, what is allowed of it, and what does not agree, in words; empty if all does."""
    gap = limit = None
    old, new = numbers
    if old is not None and new is not None and bound is not None:
        gap, limit = abs(new - old), allowed(old, bound)
    if None in verdict:
        problem = f"decided only on the {'GPU' if verdict[0] is None else 'CPU'}"
    elif verdict[0] != verdict[1]:
        problem = f"{verdict[0]} on the CPU, {verdict[1]} on the GPU"
    elif old is not None and new is None:
        problem = "no number on the GPU"
    else:
        problem = "" if gap is None or limit is None or gap <= limit else "differs by more than is allowed"
    return {"difference": gap, "allowed": limit, "problem": problem}


def comparisons(root: Path) -> list[dict[str, Any]]:
    """For every profile of which a run on a GPU is stored: the rows, the last costs on both, what failed on the GPU."""
    found = []
    for profile in PROFILES:
        gpu = _stored(root, profile, "cuda")
        if gpu:
            cpu = _stored(root, profile, "cpu")
            known = [read_costs(root, profile, device) for device in ("cpu", "cuda")]
            costs = [rows[-1] if rows else None for rows in known]
            failed = (costs[1] or {}).get("failed", {})
            rows = compared(cpu, gpu, failed) if cpu else []
            found.append({"profile": profile, "rows": rows, "costs": costs, "failed": failed})
    return found


def _stored(root: Path, profile: str, device: str) -> dict[str, dict]:
    """The recorded verdicts; empty if there are none."""
    name = f"data/verdicts/{stem(profile, device)}.json"
    return verdicts.read_verdicts(root / name, restore(name)) if (root / name).is_file() else {}


def told(found: dict[str, Any]) -> str:
    """One comparison in lines: what differs, and how much agrees."""
    profile, rows = found["profile"], found["rows"]
    if not rows:
        return f"{profile}: no run on a CPU is stored to compare with; make verdicts DEVICE=cpu PROFILE={profile}"
    number = lambda value: "-" if value is None else f"{value:.3g}"
    lost = [f"{page} failed on the GPU: {error}" for page, error in found["failed"].items()]
    lines = [
        f"{r['claim']} {r['name'] or 'verdict'}: CPU {number(r['numbers'][0])}, GPU {number(r['numbers'][1])}, "
        f"allowed {number(r['allowed'])}: {r['problem']}"
        for r in rows
        if r["problem"]
    ]
    count = f"{len(rows) - len(lines)} of {len(rows)}"
    return "\n".join([*lost, *lines, f"{profile}: {count} stored numbers agree, CPU and GPU"])


def show(root: Path) -> bool:
    """Print the comparison of every profile; say whether all numbers agree (``make devices``).

    Raises:
        BookError: no run on a GPU is stored, or a stored file is damaged.
    """
    found = comparisons(root)
    if not found:
        raise BookError("no run on a GPU is stored; on a machine with one: make verdicts DEVICE=cuda")
    print("\n".join(map(told, found)))
    return not any(row["problem"] for comparison in found for row in comparison["rows"])


def stage(root: Path, names: list[str], profile: str) -> dict[str, Any]:
    """What the pages on devices and costs show: the comparisons, which chapters use a device, the costs over time."""
    sources = {page: root / "chapters" / f"{page}.md" for page in names}
    code = [page for page, source in sources.items() if pages.is_notebook(source)]
    return {
        "profile": profile,
        "comparisons": comparisons(root),
        "uses": {page: uses_device(sources[page]) for page in code},
        "costs": read_costs(root, profile, "cpu"),
    }

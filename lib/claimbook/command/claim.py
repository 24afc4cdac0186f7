"""``make claim CLAIM=...``: one claim alone, its numbers beside the published ones, and what its probes found."""

import time
from pathlib import Path

from claimbook.command.audit import report
from claimbook.evidence import Case, cards
from claimbook.registry import audits, verdicts
from claimbook.registry.doors import load
from claimbook.source.parameters import Parameters


def show(root: Path, name: str, parameters: Parameters, *, again: bool = False) -> bool:
    """Decide one claim and print what is known of it; say whether the published word comes out.

    Args:
        again: Make its probes again and store them, in place of showing the stored ones.
    """
    row = verdicts.read_claims(root).get(name, {})
    started = time.perf_counter()
    claim = load(root, name)
    record = claim.decide(Case(parameters.seed, parameters.profile, parameters.device)).record
    print(f"{name}: {row.get('statement', cards.sentence(record))}")
    if row.get("quote"):
        print(f"  the paper: {row['quote']}")
    print(
        f"  {record['function']}, {time.perf_counter() - started:.1f} s\n{cards.line(record)}\n{cards.numbers(record)}"
    )
    path = root / "data" / "verdicts" / f"{parameters.profile}.json"
    published = verdicts.read_verdicts(path, "run make verdicts").get(name) if path.is_file() else None
    if published:
        shown = ", ".join(f"{n} {cards.number(published[n])}" for n in ("value", "bound", "control"))
        print(f"published: {published['verdict']} ({shown})")
    if again:
        audits.store(root, name, report(root, name), audits.key(root, name))
    stored = audits.read(root, name)
    print(audits.summary(row, stored, current=stored is not None and stored["key"] == audits.key(root, name)))
    return published is None or published["verdict"] == record["word"]

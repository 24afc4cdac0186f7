"""Stored probes: one file a claim below ``data/audit``, with the key of the code they were made under."""

import json
from pathlib import Path
from typing import Any

from claimbook.evidence.words import judge
from claimbook.registry.doors import doors
from claimbook.source.files import digest, to_json, write_whole
from claimbook.source.keys import source_key
from claimbook.source.settings import read_settings

FOLDER = "data/audit"


def key(root: Path, claim: str) -> str:
    """Hash of everything that changes what the probes of a claim find."""
    return keys(root, [claim])[claim]


def keys(root: Path, names: list[str]) -> dict[str, str]:
    """The same for several claims; those of one module share theirs."""
    modules, settings = doors(root), repr(read_settings(root))

    def made(module: str) -> str:
        parts = source_key(root, [f"import {module}", "import claimbook.evidence.probes"])
        return digest(*(f"{name}={value}" for name, value in sorted(parts.items())), settings)

    by_module = {module: made(module) for module in {modules[name] for name in names}}
    return {name: by_module[modules[name]] for name in names}


def read(root: Path, claim: str) -> dict[str, Any] | None:
    """What the probes of a claim found last, or None."""
    path = root / FOLDER / f"{claim}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never made, or cut: it is made again
        return None


def read_all(root: Path) -> dict[str, dict[str, Any]]:
    """Claim id -> stored probes, of all claims that have a function."""
    found = {claim: read(root, claim) for claim in doors(root)}
    return {claim: stored for claim, stored in found.items() if stored is not None}


def store(root: Path, claim: str, found: dict[str, Any], made: str) -> Path:
    """Keep what the probes found under the key of the code as it was when they began."""
    return write_whole(root / FOLDER / f"{claim}.json", to_json({"claim": claim, "key": made, "probes": found}))


def stale(root: Path, names: list[str]) -> list[str]:
    """The claims whose probes were never made, or by other code than today's."""
    current = keys(root, names)
    return [name for name in names if (read(root, name) or {}).get("key") != current[name]]


def judged(row: dict[str, Any], stored: dict[str, Any]) -> dict[str, str]:
    """Probe -> passed, red, excused or none, with the excuses of the claim's row."""
    return judge(stored["probes"], row.get("excuses") or {})


def summary(row: dict[str, Any], stored: dict[str, Any] | None, *, current: bool = True) -> str:
    """One line for a card: which probes passed, which are red, and which an excuse covers."""
    if stored is None:
        return "Probes: not made yet."
    by_status: dict[str, list[str]] = {}
    for name, status in judged(row, stored).items():
        by_status.setdefault(status, []).append(name)
    texts = [
        f"{status}: {', '.join(by_status[status])}" for status in ("passed", "excused", "red") if status in by_status
    ]
    return f"Probes {'; '.join(texts) or 'none apply'}{'' if current else ' (made with older code)'}."

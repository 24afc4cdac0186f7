"""Collecting the verdicts: records from the executed notebooks, the word found anew from their numbers."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from claimbook.evidence.words import word
from claimbook.run.execute import outputs_metadata
from claimbook.source.files import to_json, write_if_changed
from claimbook.source.pages import BookError, Layout, read_yaml, restore

CLAIM_FIELDS = ("id", "paper", "section", "kind", "core", "statement", "page")
OURS = "O"  # in place of a paper, in rows of what is the book's own
WRONG = ("fails", "holds-with-correction")
SUMMATION, DRAW = 0.02, 1 / 3  # how far two runs may differ: by the order of summation, by another draw
FIELDS = ("verdict", "value", "bound", "control", "page", "correction")


def read_papers(root: Path) -> list[dict]:
    """The papers in the order of the book: ``claimbook_papers`` in ``_config.yml``, with key, folder, title etc."""
    config = read_yaml(root, "_config.yml")
    return config.get("sphinx", {}).get("config", {}).get("claimbook_papers", [])


def read_claims(root: Path) -> dict[str, dict]:
    """Claim id -> row of ``data/claims/*.yaml``, in the order of the files.

    Raises:
        BookError: a file is cut or damaged, a row is not whole, or an id stands twice.
    """
    claims: dict[str, dict] = {}
    for path in sorted((root / "data" / "claims").glob("*.yaml")):
        name = f"data/claims/{path.name}"
        rows = read_yaml(root, name) or []
        if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise BookError(f"{name}: not a list of claims; mend it, or {restore(name)}")
        for position, row in enumerate(rows):
            absent = [field for field in CLAIM_FIELDS if field not in row]
            if absent:
                what = row.get("id", f"row {position + 1}")
                raise BookError(f"{name}: {what} has no {', '.join(absent)}; complete the row, or {restore(name)}")
            if row["id"] in claims:
                raise BookError(f"{name}: the id {row['id']} stands twice")
            claims[row["id"]] = row
    return claims


def read_verdicts(path: Path, remedy: str) -> dict[str, dict]:
    """Verdicts as they were stored.

    Raises:
        BookError: the file is cut or damaged; the message ends with the remedy.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(entry, dict) and entry.keys() >= set(FIELDS) for entry in found.values()):
            return found
        problem = "an entry is not whole"
    except (ValueError, AttributeError) as error:
        problem = str(error)
    raise BookError(f"{path}: cut or damaged ({problem}); {remedy}")


def written(root: Path) -> set[str]:
    """The papers whose chapters exist; every claim of these needs a verdict."""
    return {row["key"] for row in read_papers(root) if (root / "chapters" / row["folder"] / "index.md").is_file()}


def collect(layout: Layout, names: Iterable[str]) -> dict[str, dict]:
    """Claim id -> verdict, numbers, page, from the executed notebooks of the pages.

    Raises:
        BookError: a claim is not in the registry, or two records are made of one.
    """
    claims, verdicts = read_claims(layout.root), dict[str, dict]()
    for page in names:
        for metadata in outputs_metadata(layout.executed(page)):
            for stored in metadata.get("evidence", []):
                claim = stored["claim"]
                if claim not in claims:
                    raise BookError(f"{page}: claim {claim} is not in data/claims; add a row or mend the id")
                if claim in verdicts:
                    first = verdicts[claim]["page"]
                    raise BookError(f"{page}: claim {claim} is already recorded by {first}; record it once")
                verdicts[claim] = entry(stored, claims[claim], page)
    return {claim: verdicts[claim] for claim in claims if claim in verdicts}


def entry(stored: dict, row: dict, page: str) -> dict:
    """What is kept of one piece of evidence; the word is found anew from its numbers.

    Raises:
        BookError: a correction or a failure has no sentence or no severity in the registry.
    """
    found = word(stored)
    if found in WRONG:
        absent = [name for name in ("correction", "severity") if not row.get(name)]
        if absent:
            raise BookError(f"{page}: {row['id']} {found}, and its row has no {' and no '.join(absent)}; complete it")
    kept = {name: stored[name] for name in ("value", "bound", "control", "reason", "function")}
    return kept | {"verdict": found, "page": page, "correction": row.get("correction", "")}


def records(layout: Layout, names: Iterable[str]) -> dict[str, dict]:
    """Claim id -> the whole record of its verdict: what its page shows."""
    stored = (
        evidence
        for page in names
        for metadata in outputs_metadata(layout.executed(page))
        for evidence in metadata.get("evidence", [])
    )
    return {one["claim"]: one for one in stored}


def missing(root: Path, verdicts: dict[str, dict]) -> list[str]:
    """The claims of written papers that have no verdict."""
    papers = written(root) | {OURS}
    return [claim for claim, row in read_claims(root).items() if row["paper"] in papers and claim not in verdicts]


def contradictions(recorded: dict[str, dict], fresh: dict[str, dict]) -> list[str]:
    """Where a fresh run disagrees with the recorded verdicts, a line each; empty if it reproduces them.

    Numbers of tendencies agree if they are within a third of each other: they are those of one draw, and training
    turns another processor's rounding into another draw. So do values that violate a bound a hundredfold, such as what
    explodes.
    """
    lines = []
    for claim in sorted(recorded.keys() | fresh.keys()):
        old, new = recorded.get(claim), fresh.get(claim)
        if old is None or new is None:
            lines.append(f"{claim}: {'is recorded, but no page decides it' if new is None else 'is not recorded yet'}")
        elif old["verdict"] != new["verdict"]:
            lines.append(f"{claim}: recorded as {old['verdict']}, but {new['page']} finds {new['verdict']}")
        else:
            lines += [
                f"{claim}: {name} is recorded as {old[name]}, but {new['page']} finds {new[name]}"
                for name in ("bound", "page")
                if old[name] != new[name]
            ]
            # not the control: some diverge
            if not agree(old["value"], new["value"], old["bound"], DRAW if _drawn(old) and _drawn(new) else SUMMATION):
                lines.append(f"{claim}: value is recorded as {old['value']}, but {new['page']} finds {new['value']}")
    return lines


def _drawn(entry: dict) -> bool:
    """Whether its numbers are those of one draw: a tendency, or a violation whose size decides nothing."""
    return entry["verdict"] == "qualitative" or (entry["verdict"] == "fails" and entry["value"] >= 100 * entry["bound"])


def agree(old: float | None, new: float | None, bound: float | None, tolerance: float = SUMMATION) -> bool:
    """Whether two numbers are the same measurement.

    What is left below a bound differs from machine to machine where it is rounding: below a bound of 1e-9 or less, and
    below a tenth of any bound, only the side of the bound is compared, which the verdict does. All other numbers agree
    to the tolerance; 2 % leaves room for the order of summation in a short training run, and for nothing else.

    Example:
        >>> agree(3e-16, 5e-15, bound=1e-12), agree(0.1, 0.2, bound=0.5)
        (True, False)
    """
    if old is None or new is None or bound is None:
        return old is new
    noise = bound if bound <= 1e-9 else bound / 10
    return max(abs(old), abs(new)) <= noise or math.isclose(old, new, rel_tol=tolerance)


def record(root: Path, name: str, verdicts: dict[str, dict]) -> list[Path]:
    """Store verdicts as the recorded ones, and in the registry the page of each claim.

    Args:
        name: The profile, and ``-cuda`` if they are those of a GPU, which stand beside the others and change no page.
    """
    files = [write_if_changed(root / "data" / "verdicts" / f"{name}.json", to_json(verdicts))]
    if name.endswith("-cuda"):
        return files
    for path in sorted((root / "data" / "claims").glob("*.yaml")):
        lines, claim = [], ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("- id: "):
                claim = line.removeprefix("- id: ").strip()
            if line.startswith("  page: ") and claim in verdicts:
                line = f"  page: {verdicts[claim]['page']}"
            lines.append(line)
        files.append(write_if_changed(path, "\n".join(lines) + "\n"))
    return files

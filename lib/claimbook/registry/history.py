"""How the recorded verdicts came to be: the changes of ``data/verdicts/<profile>.json`` in git."""

import io
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

LAST = 30  # changes that are shown


def history(root: Path, profile: str, last: int = LAST) -> list[dict[str, Any]]:
    """The last changes of the recorded verdicts, newest first; empty without a repository.

    Each tells commit, date, how many claims have which verdict and on how many pages, and against the change before it:
    how many claims are new and on how many pages, how many are gone, and which have another verdict.
    """
    file = f"data/verdicts/{profile}.json"
    log = git(root, "log", f"-{last + 1}", "--format=%H %cs", "--", file).decode().splitlines()
    cut = boundary(root)
    commits = [line.split() for line in log if line.split()[0] not in cut]
    versions = stored(root, [f"{commit}:./{file}" for commit, _ in commits])
    found = [(commit, date, v) for (commit, date), v in zip(commits, versions, strict=True) if v is not None]
    before: list[dict | None] = [*(verdicts for _, _, verdicts in found[1:]), None if cut else {}]
    pairs = zip(found, before, strict=False)
    return [change(commit, date, verdicts, old) for (commit, date, verdicts), old in pairs][:last]


def change(commit: str, date: str, new: dict[str, dict], old: dict[str, dict] | None) -> dict[str, Any]:
    """One row of the history; ``old`` is ``None`` where the repository does not tell what was before."""
    old = new if old is None else old
    fresh = [claim for claim in new if claim not in old]
    both = [claim for claim in sorted(new) if claim in old]
    return {
        "commit": commit[:10],
        "date": date,
        "count": dict(Counter(entry["verdict"] for entry in new.values())),
        "pages": len({entry["page"] for entry in new.values()}),
        "new": len(fresh),
        "new_pages": len({new[claim]["page"] for claim in fresh}),
        "gone": len(old.keys() - new.keys()),
        "changed": [
            [claim, old[claim]["verdict"], new[claim]["verdict"]]
            for claim in both
            if old[claim]["verdict"] != new[claim]["verdict"]
        ],
    }


def git(root: Path, *words: str, stdin: str = "") -> bytes:
    """What git says; nothing if it is missing or knows no repository here."""
    if shutil.which("git") is None:
        return b""
    command = ["git", "-C", str(root), *words]
    result = subprocess.run(command, input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return result.stdout if result.returncode == 0 else b""


def boundary(root: Path) -> set[str]:
    """Where a shallow clone ends: these commits seem to have made every file, and tell nothing."""
    path = root / (git(root, "rev-parse", "--git-path", "shallow").decode().strip() or "no repository")
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()


def stored(root: Path, names: list[str]) -> list[dict[str, dict] | None]:
    """JSON files of the repository, read by one process; ``None`` for what is missing or not JSON."""
    found: list[dict[str, dict] | None] = []
    stream = io.BytesIO(git(root, "cat-file", "--batch", stdin="".join(f"{name}\n" for name in names)))
    for _ in names:
        header = stream.readline().split()
        content = stream.read(int(header[-1]) + 1) if header[1:2] == [b"blob"] else b""
        try:
            found.append(json.loads(content))
        except ValueError:
            found.append(None)
    return found

"""The ledger: rows of ``data/claims/<paper>.yaml``, verdicts from ``verdicts.json`` of the profile, and their words."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from claimbook.evidence.words import WORDS

NOT_YET, FAILED = "not-yet", "chapter-failed"  # without a verdict
LABELS = {word: word.replace("-", " ") for word in WORDS} | {
    NOT_YET: "not yet written",
    FAILED: "chapter failed",
}


@dataclass(frozen=True)
class Ledger:
    """Rows of the registry and the verdicts of one profile."""

    rows: dict[str, dict[str, Any]]
    verdicts: dict[str, dict[str, Any]]
    papers: tuple[dict[str, Any], ...]
    files: tuple[Path, ...]
    failed: frozenset[str] = frozenset()  # pages that did not run to their end

    def verdict(self, claim: str) -> str:
        """The verdict, or ``not-yet``, or ``chapter-failed``."""
        without = FAILED if self.rows.get(claim, {}).get("page") in self.failed else NOT_YET
        return self.verdicts.get(claim, {}).get("verdict", without)

    def of(self, paper: str) -> list[dict[str, Any]]:
        """The rows of one paper, in the order of its registry."""
        return [row for row in self.rows.values() if row["paper"] == paper]

    def count(self, paper: str | None = None) -> Counter:
        """How many rows of one paper, or of all of them, have which verdict; what is ours is counted apart."""
        papers = [paper] if paper else [known["key"] for known in self.papers]
        return Counter(self.verdict(row["id"]) for key in papers for row in self.of(key))


def read_ledger(claims: Path, verdicts: Path, papers: list[dict[str, Any]], failures: Path | None = None) -> Ledger:
    """Read the registry and the verdicts; a missing verdict file means that nothing is decided yet.

    Raises:
        ValueError: two rows carry one id.
    """
    rows: dict[str, dict[str, Any]] = {}
    files = sorted(claims.glob("*.yaml"))
    for file in files:
        for row in yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) or []:
            if row["id"] in rows:
                raise ValueError(f"{file.name}: the id {row['id']} stands twice in the registry")
            rows[row["id"]] = {"paper": file.stem, "kind": "claim", "section": "", "core": False} | row
    decided = json.loads(verdicts.read_text(encoding="utf-8")) if verdicts.is_file() else {}
    failed = json.loads(failures.read_text(encoding="utf-8")) if failures and failures.is_file() else {}
    reports = [failures] if failures else []
    return Ledger(rows, decided, tuple(papers), (*files, verdicts, *reports), frozenset(failed))


def repository(app: Sphinx) -> Path:
    """The root of the book: the nearest folder above the staged sources that has ``data/claims``."""
    above = (folder for folder in Path(app.srcdir).parents if (folder / "data" / "claims").is_dir())
    return next(above, Path(app.srcdir))


def beside(app: Sphinx, name: str) -> Path:
    """A file that the pipeline left beside the staged sources; ``CLAIMBOOK_<NAME>`` names another one."""
    return Path(os.environ.get(f"CLAIMBOOK_{Path(name).stem.upper()}") or Path(app.srcdir).parent / name)


def current_ledger(env: BuildEnvironment) -> Ledger:
    """The ledger, read once a build."""
    ledger = getattr(env, "_claimbook_ledger", None)
    if ledger is None:
        claims = Path(os.environ.get("CLAIMBOOK_CLAIMS") or repository(env.app) / "data" / "claims")
        failures = beside(env.app, "failures.json")
        ledger = read_ledger(claims, beside(env.app, "verdicts.json"), env.config.claimbook_papers, failures)
        vars(env)["_claimbook_ledger"] = ledger
    return ledger


def ledger_of(env: BuildEnvironment) -> Ledger:
    """The ledger, for a page that is being read; it is read again when the ledger changes."""
    ledger = current_ledger(env)
    for file in filter(Path.is_file, ledger.files):
        env.note_dependency(str(file))
    return ledger


def forget(app: Sphinx, env: BuildEnvironment, *_: Any) -> None:
    """A stored environment must not carry the ledger of an earlier build."""
    vars(env)["_claimbook_ledger"] = None


def setup(app: Sphinx) -> None:
    """Register the papers and what forgets the ledger between two builds."""
    app.add_config_value("claimbook_papers", [], "env")
    app.connect("env-before-read-docs", forget)
    app.connect("env-updated", forget)

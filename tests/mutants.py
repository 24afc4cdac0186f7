"""Does a wrong formula turn a test red? ``make mutants`` changes one place of the library at a time and runs its tests.

The list is ``mutants.yaml``; the score goes to ``data/mutants.json``, which the site shows. A mutation recorded as
caught is not tried again unless ``--all`` is given or its text changed. Nothing is changed in the working tree: library
and tests are copied to a temporary folder first.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "data" / "mutants.json"
MINUTES = 5
OTHERS = ["laws", "rescaling_flows", "studies", "descent", "monitor", "gauge", "gauge_graph"]


def mutants() -> list[dict[str, str]]:
    """The list, each with its ``key``: a hash of what is changed and where."""
    rows = yaml.safe_load((ROOT / "tests" / "mutants.yaml").read_text(encoding="utf-8"))
    return [row | {"key": hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:12]} for row in rows]


def source(row: dict[str, str], root: Path = ROOT) -> Path:
    """The file of a mutation's module: ``folder.module`` of the library, or a full name of claimbook."""
    full = row["module"] if row["module"].startswith("claimbook.") else f"normdyn.{row['module']}"
    return root / "lib" / f"{full.replace('.', '/')}.py"


def own(row: dict[str, str]) -> str | None:
    """The name of the module's own test, without ``test_``: with its folder where two modules share a name, or that."""
    names = (row["module"].replace(".", "_"), row["module"].rpartition(".")[2], row["module"].split(".")[-2])
    return next((name for name in names if list((ROOT / "tests").glob(f"*/test_{name}.py"))), None)


def mutated(row: dict[str, str], text: str) -> str:
    """The module's text with its one place changed.

    Raises:
        ValueError: The place is not there, or there more than once.
    """
    count = text.count(row["was"])
    if count != 1:
        raise ValueError(f"{row['module']}: {row['was']!r} stands there {count} times; a mutation needs one place")
    return text.replace(row["was"], row["now"])


def attempt(row: dict[str, str], others: list[str] = OTHERS) -> dict[str, Any]:
    """Run tests on a mutated copy: the module's own and its examples, then ``others``; ``caught``: the first red."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("lib", "tests", "data"):
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        path = source(row, Path(folder))
        path.write_text(mutated(row, path.read_text(encoding="utf-8")), encoding="utf-8")
        first = [name] if (name := own(row)) else []
        rest = [other for other in others if other not in first]
        caught = _run(Path(folder), ["--doctest-modules", str(path), *first])
        if not caught and rest:
            caught = _run(Path(folder), rest)
    return {"key": row["key"], "module": row["module"], "what": row["what"], "caught": caught}


def _run(folder: Path, arguments: list[str]) -> str | None:
    """The first failing test of one run of pytest; a run that hangs or cannot import the library counts as caught."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    found = {path.stem.removeprefix("test_"): str(path) for path in (folder / "tests").rglob("test_*.py")}
    tests = [word if word.startswith(("-", "/")) else found[word] for word in arguments]
    variables = os.environ | {"PYTHONPATH": str(folder / "lib"), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, *tests], cwd=folder, env=variables, capture_output=True, text=True, timeout=60 * MINUTES
        )
    except subprocess.TimeoutExpired:
        return f"no end after {MINUTES} minutes"
    if done.returncode in (0, 5):  # 5: there was no test to run
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if failed is None or done.returncode not in (1, 2):
        raise RuntimeError(f"pytest did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return re.sub(r"\[.*", "", failed[1].removeprefix("../").split("/lib/")[-1])


def main(words: list[str]) -> int:
    """Try what is not recorded as caught; the status is 0 if every mutation was caught."""
    stored = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() and "--all" not in words else []
    known = {result["key"]: result for result in stored if result["caught"]}
    results = []
    for row in tqdm(mutants(), unit="mutant"):
        results.append(known.get(row["key"]) or attempt(row))
        if not results[-1]["caught"]:
            tqdm.write(f"survived: {row['module']}, {row['what']}: {row['now']}")
        RECORD.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    caught = sum(bool(result["caught"]) for result in results)
    print(f"{caught} of {len(results)} mutations were caught")
    return 0 if caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

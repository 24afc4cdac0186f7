"""Devices: which chapters use one and how much of it, and what every page cost at each recording of the verdicts.

Verdicts of the processor are ``data/verdicts/<profile>.json``, those of a GPU ``data/verdicts/<profile>-cuda.json``;
what the pages cost lies under the same names in ``data/costs``, with the chapters that failed and so cost nothing.
"""

import ast
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from claimbook.source import pages
from claimbook.source.files import to_json, write_if_changed
from claimbook.source.pages import BookError, restore

KEPT = 20  # recordings of costs that are kept
USE = """import torch
from IPython.display import display

used = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
display({"text/plain": ""}, raw=True, metadata={"claimbook": {"device_memory": used}})"""


def stem(profile: str, device: str) -> str:
    """Name of what is stored of a profile and a device, without suffix.

    Example:
        >>> stem("quick", "cpu"), stem("paper", "cuda")
        ('quick', 'paper-cuda')
    """
    return f"{profile}-cuda" if device == "cuda" else profile


# ------------------------------------------------------------------------------------------------- the use of a device


def uses_device(source: Path) -> bool:
    """Whether a chapter's code reads the parameter ``device``: without that it computes on the processor."""
    if len(re.findall(r"\bdevice\b", source.read_text(encoding="utf-8"))) < 2:  # nothing but its default
        return False
    cells = [cell for cell in pages.code_cells(pages.read(source)) if "parameters" not in pages.tags(cell)]
    return any(_reads(cell.source, "device") for cell in cells)


def _reads(text: str, name: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:
        return name in text
    return any(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in nodes)


def used_memory(notebook) -> int | None:
    """Take the last cell, which is :data:`USE`, out of an executed notebook; return the bytes that it found."""
    cell = notebook.cells.pop()
    found = [output.get("metadata", {}).get("claimbook", {}).get("device_memory") for output in cell.outputs]
    return next((value for value in found if value is not None), None)


@contextmanager
def busy(device: str, folder: Path) -> Iterator[list[float]]:
    """Watch a GPU while something runs: afterwards the list holds the share of time that it was busy.

    It stays empty on the processor and where there is no ``nvidia-smi``.
    """
    found: list[float] = []
    if device != "cuda" or shutil.which("nvidia-smi") is None:
        yield found
        return
    words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=500", "--id=0"]
    with tempfile.TemporaryFile("w+", dir=folder) as stream:
        watcher = subprocess.Popen(words, stdout=stream, stderr=subprocess.DEVNULL)
        try:
            yield found
        finally:
            watcher.terminate()
            watcher.wait()
            stream.seek(0)
            seen = [float(line) for line in stream.read().splitlines() if line.strip().isdigit()]
            found += [sum(seen) / len(seen) / 100] if seen else []


# --------------------------------------------------------------------------------------------------------------- costs


def read_costs(root: Path, profile: str, device: str) -> list[dict[str, Any]]:
    """What pages cost at each recording, newest last; empty if nothing is recorded.

    Raises:
        BookError: the file is cut or damaged.
    """
    name = f"data/costs/{stem(profile, device)}.json"
    if not (root / name).is_file():
        return []
    try:
        found = json.loads((root / name).read_text(encoding="utf-8"))
        if all(entry.keys() >= {"commit", "date", "device", "pages"} for entry in found):
            return found
        problem = "an entry is not whole"
    except (ValueError, AttributeError, TypeError) as error:
        problem = str(error)
    raise BookError(f"{name}: cut or damaged ({problem}); {restore(name)}")


def record_costs(
    root: Path, profile: str, device: str, runs: dict[str, dict], commit: str, failed: dict[str, str] | None = None
) -> Path:
    """Append what the pages of this build cost; a second recording of one commit replaces the first.

    Args:
        failed: Page -> error of the chapters that did not run to their end, if any.

    Only the newest recording keeps memory and use of the device, and at most :data:`KEPT` are kept.
    """
    fields = ("seconds", "memory", "device_memory", "device_busy")
    cost = {page: {f: run[f] for f in fields if run.get(f) is not None} for page, run in sorted(runs.items())}
    before = [entry for entry in read_costs(root, profile, device) if entry["commit"] != commit]
    for entry in before:
        entry["pages"] = {page: {"seconds": run["seconds"]} for page, run in entry["pages"].items()}
    names = sorted({run["device"] for run in runs.values()})
    lost = {"failed": failed} if failed else {}
    now = {"commit": commit, "date": time.strftime("%Y-%m-%d", time.gmtime()), "device": ", ".join(names)}
    stored = [*before, now | lost | {"pages": cost}][-KEPT:]
    return write_if_changed(root / "data" / "costs" / f"{stem(profile, device)}.json", to_json(stored))

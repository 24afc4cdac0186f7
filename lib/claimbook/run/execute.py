"""Executing: one chapter through papermill, whole or not at all, with its key and provenance inside."""

import contextlib
import copy
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

from claimbook.run import devices, kernel
from claimbook.source import pages
from claimbook.source.files import refusal, to_json, write_whole
from claimbook.source.keys import page_key
from claimbook.source.pages import Layout
from claimbook.source.parameters import Parameters
from claimbook.source.settings import read_settings

SCHEMA = 1  # raised when what is stored in an executed notebook changes its form
SHOWN_VERSIONS = ("torch", "numpy", "scipy", "matplotlib")
DIED = "Kernel died: it was killed, or memory ran out; run it again, with JOBS=1 if memory is short"
TOO_LONG = (
    "the chapter was stopped after {:g} minutes, which is all it may take: find what does not end, or raise its "
    "profile's minutes in [tool.claimbook] of pyproject.toml"
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class ChapterFailed(Exception):
    """A cell of a chapter raised an error; the message is the short report."""


def executed_run(layout: Layout, page: str) -> dict:
    """The provenance inside an executed notebook; empty if there is none or it is not whole."""
    try:
        notebook = json.loads(layout.executed(page).read_text(encoding="utf-8"))
        run = notebook["metadata"]["claimbook"]
        return run if run["schema"] == SCHEMA and run["page"] == page else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def outputs_metadata(path: Path) -> list[dict]:
    """What the outputs of an executed notebook say in their ``claimbook`` metadata, in order."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if "claimbook" in output.get("metadata", {}):
                found.append(output["metadata"]["claimbook"])
    return found


def execute(layout: Layout, page: str, parameters: Parameters) -> bool:
    """Execute a page unless its key is executed already; say whether it was.

    The notebook appears under its name when it is whole. While one process executes a page, a second one waits and
    then finds its key. If its sources are edited meanwhile, it is executed again.

    Raises:
        ChapterFailed: a cell raised an error, its kernel died, or the machine refused to write; log, partial notebook
            and report lie in ``build/<profile>/logs``.
    """
    try:
        return _execute(layout, page, parameters)
    except OSError as error:
        if (text := refusal(error)) is None:
            raise
        raise _failure(layout, page, RuntimeError(text)) from error


def _execute(layout: Layout, page: str, parameters: Parameters) -> bool:
    log = layout.log(page)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        layout.failure(page).unlink(missing_ok=True)
        for _ in range(3):
            key = page_key(layout.root, page, parameters)
            if executed_run(layout, page).get("key") == key.key:
                return False
            write_whole(layout.begun(page), f"{os.getpid()} {time.time_ns()}")
            notebook, run = _run(layout, page, parameters)
            if page_key(layout.root, page, parameters) == key:
                notebook.metadata["claimbook"] = run | {"key": key.key, "parts": key.parts}
                write_whole(layout.executed(page), to_json(notebook))
                return True
        raise _failure(layout, page, RuntimeError("its sources were edited while it was executed, three times"))


def _run(layout: Layout, page: str, parameters: Parameters):
    """Let papermill execute the code cells in a scratch folder; return the notebook and its provenance."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    log, failed = layout.log(page), layout.log(page).with_suffix(".ipynb")
    minutes = read_settings(layout.root).minutes[parameters.profile]
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="chapter-") as name, open(log, "w", encoding="utf-8") as stream:
        scratch = Path(name)
        write_whole(scratch / "source.ipynb", to_json(_code_only(layout.source(page), parameters.device)))
        (scratch / "work").mkdir()
        try:
            with devices.busy(parameters.device, scratch) as share:
                variables = kernel.environment(layout.root, parameters.jobs)
                notebook = _papermill(scratch, stream, parameters, variables, minutes)
            _check_complete(notebook)
        except (PapermillExecutionError, DeadKernelError, CellTimeoutError, RuntimeError) as error:
            if isinstance(error, CellTimeoutError):
                error = _at_last_cell(RuntimeError(TOO_LONG.format(minutes)), scratch / "executed.ipynb")
            elif isinstance(error, DeadKernelError):
                error = _at_last_cell(RuntimeError(DIED), scratch / "executed.ipynb")
            if (scratch / "executed.ipynb").exists():
                shutil.copyfile(scratch / "executed.ipynb", failed)
            stream.write(ANSI.sub("", str(error)) + "\n")
            raise _failure(layout, page, error) from None
    failed.unlink(missing_ok=True)
    device_memory = devices.used_memory(notebook) if parameters.device == "cuda" else None
    _tidy(notebook)
    return notebook, {
        "schema": SCHEMA,
        "page": page,
        "profile": parameters.profile,
        "device": device_name(parameters.device),
        "seed": parameters.seed,
        "seconds": round(time.perf_counter() - clock, 1),
        "memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "device_memory": device_memory,
        "device_busy": round(share[0], 3) if share else None,
        "versions": versions(),
        "commit": commit(layout.root),
        "started": started.isoformat(timespec="seconds"),
    }


def _papermill(scratch: Path, stream, parameters: Parameters, environment: dict[str, str], minutes: float):
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    kernel.install()
    deadline, before = time.monotonic() + 60 * minutes, dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        return papermill.execute_notebook(
            scratch / "source.ipynb",
            scratch / "executed.ipynb",
            parameters={"profile": parameters.profile, "seed": parameters.seed, "device": parameters.device},
            kernel_name=kernel.NAME,
            kernel_manager_class=kernel.speaking_into(stream, kernel.over_sockets(AsyncKernelManager)),
            cwd=str(scratch / "work"),
            progress_bar=False,
            log_output=False,
            stdout_file=stream,
            stderr_file=stream,
            autosave_cell_every=0,
            timeout_func=lambda cell: max(1, round(deadline - time.monotonic())),
        )
    finally:
        os.environ.clear()
        os.environ.update(before)


def _code_only(source: Path, device: str):
    """The chapter's code cells with the tags that matter when executing and testing; no prose, no captions.

    On a GPU a last cell asks how much of its memory was used; it is taken out again.
    """
    notebook = pages.read(source)
    notebook.cells = pages.code_cells(notebook)
    if device == "cuda":
        notebook.cells.append(nbformat.v4.new_code_cell(devices.USE))
    for position, cell in enumerate(notebook.cells):
        kept = [tag for tag in pages.tags(cell) if tag in pages.EXECUTION_TAGS or tag.startswith("nbval-")]
        cell["id"], cell["metadata"] = f"code-{position:03d}", copy.copy(type(cell.metadata)(tags=kept))
    notebook["metadata"] = {
        "kernelspec": {"name": kernel.NAME, "display_name": kernel.NAME, "language": "python"},
        "language_info": {"name": "python"},
    }
    return notebook


def _tidy(notebook) -> None:
    """Take out what papermill and the kernel add and nobody reads: times, statuses, temporary paths."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for name in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(name, None)
        if "injected-parameters" in pages.tags(cell):
            cell["id"] = "injected-parameters"


def _check_complete(notebook) -> None:
    """A cell may leave by ``sys.exit(0)``, which papermill takes for success; the cells after it are then missing."""
    for position, cell in enumerate(pages.code_cells(notebook)):
        if cell.execution_count is None and "skip-execution" not in pages.tags(cell) and cell.source.strip():
            raise RuntimeError(f"code cell {position + 1} was not executed: the kernel left before it")


def _at_last_cell(error: Any, partial: Path) -> Any:
    """An error that no cell raised, with the cell in which it came: the last one that papermill began."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        cells = json.loads(partial.read_text(encoding="utf-8"))["cells"]
        began = [i for i, cell in enumerate(cells) if cell["metadata"]["papermill"]["start_time"]]
        error.cell_index, error.source = began[-1], "".join(cells[began[-1]]["source"])
    return error


def _failure(layout: Layout, page: str, error: Any) -> ChapterFailed:
    """Store the report of a failure and make the exception that carries it."""
    code = [line for line in getattr(error, "source", "").strip().split("\n") if line.strip()]
    message = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else str(error)
    traceback = ANSI.sub("", "\n".join(getattr(error, "traceback", [])))
    report = {
        "page": page,
        "cell": max(1, getattr(error, "cell_index", 0)),  # counted from 1; papermill's own cell stands second
        "source": code[:6] + (["..."] if len(code) > 6 else []),
        "line": (re.findall(r"^-+> *\d+ (.*)$", traceback, flags=re.MULTILINE) or [""])[0].strip(),
        "error": ANSI.sub("", message).strip()[:600],
        "log": str(layout.log(page).relative_to(layout.root)),
    }
    with contextlib.suppress(OSError):  # where the disk is full, the message is all there is
        write_whole(layout.failure(page), to_json(report))
    return ChapterFailed(format_report(report))


def format_report(report: dict) -> str:
    """The failure of one chapter in a few lines: chapter, cell, error, log."""
    where = f" in code cell {report['cell']}:" if report["source"] else ":"
    head = f"chapters/{report['page']}.md failed{where}"
    at = [f"at: {report['line']}"] if report["line"] else []
    source = [f"    {line}" for line in report["source"]]
    return "\n".join([head, *source, *at, report["error"], f"log: {report['log']}"])


def versions() -> dict[str, str]:
    """The versions that a page shows: Python and the libraries that compute."""
    found = {"python": platform.python_version()}
    for name in SHOWN_VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> str:
    """The commit that is checked out, short, with ``+`` if chapters, library or locks differ from it."""

    def git(*words: str) -> str:
        result = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else ""

    if shutil.which("git") is None or not (name := git("rev-parse", "--short=10", "HEAD")):
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "chapters", "lib", "requirements")
    return f"{name}+" if changed else name


def device_name(device: str) -> str:
    """The device class with the model of the first GPU; the processor's model tells nothing that is needed."""
    if device != "cuda":
        return device
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True) if shutil.which(query[0]) else None
    return f"cuda ({result.stdout.splitlines()[0]})" if result and result.stdout.strip() else "cuda"


def main(root: Path, page: str, parameters: Parameters) -> int:
    """Execute one page and say in one line what became of it."""
    layout = Layout(root, parameters.profile)
    try:
        done = execute(layout, page, parameters)
    except ChapterFailed as problem:
        print(problem, flush=True)
        return 1
    print(f"{page}: {'executed' if done else 'current'}", flush=True)
    return 0

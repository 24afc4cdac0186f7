"""Merging: the prose of today with the outputs of the executed notebook, if and only if its key is current."""

import os
from functools import cache
from pathlib import Path

import nbformat

from claimbook.evidence import cards
from claimbook.registry import audits
from claimbook.registry.doors import doors
from claimbook.registry.verdicts import read_claims
from claimbook.run.execute import executed_run
from claimbook.source import pages
from claimbook.source.files import to_json, write_if_changed
from claimbook.source.keys import page_key
from claimbook.source.pages import Layout
from claimbook.source.parameters import Parameters

DATA_FOLDER = "_static/figures-data"


class Stale(Exception):
    """A page has no executed notebook that carries its current key; it must not be published."""


def merge(layout: Layout, page: str, parameters: Parameters) -> list[Path]:
    """Stage a page: prose, captions and tags from the chapter, outputs from the executed notebook.

    Also writes the CSV behind every figure and links it below the figure, and ends the page with its provenance.

    Returns:
        The files that make the staged page.

    Raises:
        Stale: the executed notebook is missing, not whole, or carries another key.
    """
    run = executed_run(layout, page)
    if run.get("key") != page_key(layout.root, page, parameters).key:
        raise Stale(f"{page}: the executed notebook does not carry the current key; it is not published")
    executed = nbformat.read(layout.executed(page), as_version=4)
    notebook = pages.read(layout.source(page))
    ours, theirs = pages.code_cells(notebook), pages.code_cells(executed)
    if [c.source for c in ours] != [c.source for c in theirs]:
        raise Stale(
            f"{page}: the executed notebook has other code cells than the chapter; it is not published; "
            f"delete {layout.executed(page)} and build again"
        )
    injected = [cell for cell in executed.cells if "injected-parameters" in pages.tags(cell)]
    written, cells = [], []
    outputs = iter(theirs)
    rows, probes = words_of_claims(layout.root)
    href = "../" * page.count("/") + "claims/{}.html"
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        source = next(outputs)
        cell.outputs, cell.execution_count = source.outputs, source.execution_count
        for output in cell.outputs:
            show_verdicts(output, rows, probes, href)
        if "parameters" in pages.tags(cell):
            cells += [_hidden(cell) for cell in injected]
        for name, text in figures(cell):
            target = layout.staged / DATA_FOLDER / page / f"{name}.csv"
            written.append(write_if_changed(target, text))
            cells.append(_markdown(f"data-{name}", _data_link(page, name, run)))
    cells.append(_markdown("provenance", provenance(run)))
    notebook.cells = cells
    notebook.metadata["language_info"] = executed.metadata.get("language_info", {"name": "python"})
    return [*written, write_if_changed(layout.staged / f"{page}.ipynb", to_json(notebook))]


def show_verdicts(output, rows: dict[str, dict], probes: dict[str, str], href: str) -> None:
    """Render the cards of an output once more, with the words of the registry as they are today."""
    shown = output.get("metadata", {}).get("claimbook", {})
    if "evidence" in shown:
        output["data"]["text/html"] = cards.html(
            shown["evidence"], table=shown["table"], rows=rows, probes=probes, href=href
        )


@cache
def words_of_claims(root: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """The rows of the registry, and what the probes of each claim found, in a line."""
    rows, known = read_claims(root), {claim: audits.read(root, claim) for claim in doors(root)}
    stale = set(audits.stale(root, list(known)))
    tell = lambda claim: audits.summary(rows.get(claim, {}), known[claim], current=claim not in stale)
    return rows, {claim: tell(claim) for claim in known}


def figures(cell) -> list[tuple[str, str]]:
    """Name and CSV of every figure that a code cell shows."""
    metadata = (output.get("metadata", {}).get("claimbook", {}) for output in cell.outputs)
    return [(m["figure"], m["csv"]) for m in metadata if "figure" in m]


def _hidden(cell):
    """The parameters that were injected: part of the notebook for who downloads it, not of the page."""
    cell["metadata"] = {"tags": ["injected-parameters", "remove-cell"]}
    return cell


def _markdown(name: str, text: str):
    cell = nbformat.v4.new_markdown_cell(text)
    cell["id"] = name[:64]
    return cell


def _data_link(page: str, name: str, run: dict) -> str:
    """The line below a figure: its data, and what made it."""
    link = os.path.relpath(f"{DATA_FOLDER}/{page}/{name}.csv", start=Path(page).parent)
    return f":::{{div}} figure-data\n[Data of this figure (CSV)]({link}) · {made_by(run)}\n:::"


def made_by(run: dict) -> str:
    """Profile, seed, device and commit in half a line."""
    return f"profile {run['profile']}, seed {run['seed']}, {run['device']}, commit {run['commit']}"


def provenance(run: dict) -> str:
    """The closing block of a page: everything that tells how its numbers were made."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    rows = {
        "Profile": run["profile"],
        "Device": run["device"],
        "Seed": run["seed"],
        "Versions": versions,
        "Commit": f"`{run['commit']}`",
        "Executed": f"{run['started'].replace('T', ' ').replace('+00:00', ' UTC')}, in {run['seconds']:.1f} s",
        "Peak memory": f"{run['memory'] / 2**20:.0f} MB",
        "Key": f"`{run['key'][:16]}`",
    }
    table = "\n".join(f"{name}\n: {value}\n" for name, value in rows.items())
    return f":::{{admonition}} How this page was made\n:class: provenance dropdown\n\n{table}:::"


def runs(layout: Layout, names: list[str]) -> dict[str, dict]:
    """The provenance of every executed page, for the status page."""
    return {page: {k: v for k, v in executed_run(layout, page).items() if k != "parts"} for page in names}

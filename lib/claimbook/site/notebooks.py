"""The notebooks that readers download or launch: the staged ones, with prose that any viewer shows as it is meant.

Numbers, links and captions stand in place of directives, and one cell installs the library where it is missing.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from claimbook.site.ledger import current_ledger
from claimbook.site.ledger import repository as root_of
from claimbook.site.plain import Book, plain

INSTALL = "install-library"
CELL = """try:
    import claimbook, {package}
except ImportError:
    !git clone --quiet --depth 1 {repository} {folder}
    %pip install --quiet --editable "{folder}[book]"
    import os, sys

    sys.path.insert(0, os.path.abspath("{folder}/lib"))"""  # new installs are seen at start only


def package(root: Path) -> str:
    """The package that the book's project installs: its name in ``pyproject.toml``; this one where it has none."""
    file = root / "pyproject.toml"
    known = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return known.get("project", {}).get("name", "claimbook")


def prepare(notebook: dict, repository: str, package: str) -> dict:
    """Put a cell first that gets the library, with its stored results, where it is missing, as on a fresh machine."""
    if notebook["cells"] and notebook["cells"][0].get("id") == INSTALL:
        return notebook
    cell: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "id": INSTALL,
        "metadata": {},
        "outputs": [],
        "source": CELL.format(repository=repository, package=package, folder=repository.rstrip("/").rpartition("/")[2]),
    }
    return notebook | {"cells": [cell, *notebook["cells"]], "nbformat": 4, "nbformat_minor": 5}


def written_out(notebook: dict, book: Book) -> dict:
    """The same notebook with plain prose, and each caption below its figure."""
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell = cell | {"source": plain(text, book)}
        cells.append(cell)
        figure = cell["metadata"].get("mystnb", {}).get("figure", {}) if cell["cell_type"] == "code" else {}
        if figure.get("caption"):
            number = book.numbers.get(figure.get("name", ""), "Figure")
            caption = {"cell_type": "markdown", "id": f"caption-{len(cells)}", "metadata": {}}
            cells.append(caption | {"source": f"*{number}.* {plain(figure['caption'], book)}"})
    return notebook | {"cells": cells}


def glued(notebook: dict) -> dict[str, str]:
    """Name -> value of the numbers that a page's cells give to its prose."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    named = [(output["metadata"]["scrapbook"]["name"], output) for output in outputs
             if "scrapbook" in output.get("metadata", {})]  # fmt: skip
    return {name: "".join(next(iter(output["data"].values()))).strip("'") for name, output in named}


class Numbers:
    """What the finished site knows of labels: their numbers and addresses."""

    def __init__(self, app: Sphinx):
        self.app, self.env = app, app.env
        theme = app.config.html_theme_options
        self.base = (app.config.html_baseurl or theme.get("repository_url", "")).rstrip("/")
        self.labels = self.env.domains["std"].anonlabels
        self.named: dict[tuple[str, str], list[str]] = {}
        self.numbers: dict[str, str] = {}
        self.places: dict[str, str] = {}
        for label, (page, anchor) in self.labels.items():
            self.places[label] = f"{self.base}/{page}.html#{anchor}"
            self.named.setdefault((page, anchor), []).append(label)
        for label, (_, _, title) in self.env.domains["std"].labels.items():
            self.numbers[label] = title
        for page, kinds in self.env.toc_fignumbers.items():
            for kind, found in kinds.items():
                for anchor, number in found.items():
                    self._number(page, kind, anchor, ".".join(map(str, number)))

    def _number(self, page: str, kind: str, anchor: str, number: str) -> None:
        place = f"{self.base}/{page}.html#{anchor}"
        if kind == "displaymath":
            label = anchor.removeprefix("equation-")
            self.numbers[label], self.places[label] = f"({number})", place
            return
        spoken = f"{kind.capitalize()} {number}"
        for label in {anchor, *self.named.get((page, anchor), ())}:
            self.numbers[label], self.places[label] = spoken, place

    def book(self, notebook: dict) -> Book:
        """What one notebook needs to know."""
        ledger = current_ledger(self.env)
        href = lambda claim: f"{self.base}/claims/{claim}.html"
        claim = lambda claim: (ledger.verdict(claim).replace("-", " "), href(claim))
        return Book(self.numbers, self.places, glued(notebook), claim, self.cited)

    def cited(self, key: str) -> str:
        """Authors and year of a reference."""
        entries = self.env.domains["cite"].bibdata.data.entries  # type: ignore[attr-defined]
        if key not in entries:
            return key
        names = [" ".join(person.last_names) for person in entries[key].persons.get("author", [])]
        who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        return f"{who} {entries[key].fields.get('year', '')}".strip()


def publish(app: Sphinx, error: Exception | None) -> None:
    """Prepare every notebook below ``_sources``."""
    if error is not None or app.builder.format != "html":
        return
    name, numbers = package(root_of(app)), Numbers(app)
    for file in sorted(Path(app.outdir, "_sources").rglob("*.ipynb")):
        notebook = json.loads(file.read_text(encoding="utf-8"))
        prepared = prepare(notebook, app.config.html_theme_options["repository_url"], name)
        if prepared is not notebook:
            text = json.dumps(written_out(prepared, numbers.book(notebook)), indent=1, ensure_ascii=False)
            file.write_text(text + "\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Register the event."""
    app.connect("build-finished", publish)

"""The notebooks that readers download or launch: the staged ones, with one cell that installs the library."""

import json
from pathlib import Path

from sphinx.application import Sphinx

INSTALL = "install-normdyn"
CELL = """try:
    import normdyn
except ImportError:
    !git clone --quiet --depth 1 {repository} norm-dynamics
    %pip install --quiet --editable norm-dynamics
    import os, sys

    sys.path.insert(0, os.path.abspath("norm-dynamics/lib"))"""  # new installs are seen at start only


def prepare(notebook: dict, repository: str) -> dict:
    """Put a cell first that gets ``normdyn``, with its stored results, where it is missing, as on a fresh machine."""
    if notebook["cells"] and notebook["cells"][0].get("id") == INSTALL:
        return notebook
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": INSTALL,
        "metadata": {},
        "outputs": [],
        "source": CELL.format(repository=repository),
    }
    return notebook | {"cells": [cell, *notebook["cells"]], "nbformat": 4, "nbformat_minor": 5}


def publish(app: Sphinx, error: Exception | None) -> None:
    """Prepare every notebook below ``_sources``."""
    if error is not None or app.builder.format != "html":
        return
    for file in sorted(Path(app.outdir, "_sources").rglob("*.ipynb")):
        notebook = json.loads(file.read_text(encoding="utf-8"))
        prepared = prepare(notebook, app.config.html_theme_options["repository_url"])
        if prepared is not notebook:
            file.write_text(json.dumps(prepared, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Register the event."""
    app.connect("build-finished", publish)

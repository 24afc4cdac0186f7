"""The notebooks that readers download or launch: the staged ones, with one cell that installs the library."""

import json
from pathlib import Path

from sphinx.application import Sphinx

INSTALL = "install-normdyn"


def prepare(notebook: dict, repository: str) -> dict:
    """Put a cell first that installs ``normdyn`` where it is missing, as on a fresh cloud machine."""
    if notebook["cells"] and notebook["cells"][0].get("id") == INSTALL:
        return notebook
    source = f"try:\n    import normdyn\nexcept ImportError:\n    %pip install --quiet git+{repository}"
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": INSTALL,
        "metadata": {},
        "outputs": [],
        "source": source,
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

"""A figure of one page shown on another: ``{shown-figure} one-principle one-principle``, its alternative text below.

The drawing is the one that the executed page holds, so it is as current as the page; it links to the page's figure.
"""

import json
from pathlib import Path

from sphinx.application import Sphinx

from claimbook.site.directives import Ledgered
from claimbook.site.html import darken
from claimbook.site.ledger import beside


def drawing(notebook: Path, name: str) -> str | None:
    """The SVG of the figure with that name, or None if the page does not hold one."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if output.get("metadata", {}).get("claimbook", {}).get("figure") == name:
            return "".join(output["data"]["image/svg+xml"])
    return None


class ShownFigure(Ledgered):
    """Page and name of the figure as arguments, ``:caption:`` as option, the alternative text as content."""

    required_arguments = 2
    has_content = True
    option_spec = {"caption": str}

    def run(self):
        page, name = self.arguments
        notebook = beside(self.env.app, "executed") / f"{page}.ipynb"
        if not notebook.is_file():
            return []
        self.env.note_dependency(str(notebook))
        svg = drawing(notebook, name)
        if svg is None:
            raise self.error(f"{page} draws no figure {name}: give the name that its cell hands to show_figure")
        folder = Path(self.env.app.outdir, "_images")
        folder.mkdir(parents=True, exist_ok=True)
        images = {"light": (f"front-{name}.svg", svg), "dark": (f"front-{name}-dark.svg", darken(svg))}
        for file, text in images.values():
            (folder / file).write_text(text, encoding="utf-8")
        return self.show(
            "shown-figure",
            images={ground: file for ground, (file, _) in images.items()},
            alt=" ".join(self.content),
            href=self.link(page, f"fig-{name}"),
            caption=self.options.get("caption", ""),
        )


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("shown-figure", ShownFigure)

"""Figures for light and for dark ground, and what the theme leaves undone for accessibility."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

# Ink and grid of normdyn.figures.STYLE, and what stands for them on a dark ground. Curves keep their colours.
DARK = {"#1b1e23": "#e6e8eb", "#c9ced6": "#4a505a"}


def darken(svg: str) -> str:
    """The same drawing for a dark ground.

    Example:
        >>> darken('<path style="stroke: #1b1e23"/><path style="stroke: #2b7bba"/>')
        '<path style="stroke: #e6e8eb"/><path style="stroke: #2b7bba"/>'
    """
    return re.sub("|".join(DARK), lambda found: DARK[found[0].lower()], svg, flags=re.IGNORECASE)


class Twins(SphinxTransform):
    """Give every figure that a cell has drawn a twin for dark mode."""

    default_priority = 870  # before Sphinx collects the images of the page, at 880

    def apply(self, **_: Any) -> None:
        drawn = Path(self.app.outdir).parent / "jupyter_execute"
        for image in list(self.document.findall(nodes.image)):
            uri = image["uri"]
            file = (
                Path(self.env.srcdir, uri.lstrip("/"))
                if uri.startswith("/")
                else Path(self.env.doc2path(self.env.docname)).parent / uri
            )
            if file.suffix != ".svg" or drawn.resolve() not in file.resolve().parents:
                continue
            twin = file.with_name(f"{file.stem}-dark.svg")
            twin.write_text(darken(file.read_text(encoding="utf-8")), encoding="utf-8")
            dark = image.deepcopy()
            dark["uri"] = uri.removesuffix(".svg") + "-dark.svg"
            image["classes"].append("only-light")
            dark["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, dark)


def setup(app: Sphinx) -> None:
    """Register transforms and events."""
    app.add_transform(Twins)

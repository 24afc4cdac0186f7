"""The site: a Sphinx extension that shows the ledger, themes the figures and keeps pages accessible and offline.

It reads what the pipeline left beside the staged sources, ``verdicts.json``, ``runs.json`` and ``history.json`` in
``build/<profile>``, and the registry ``data/claims``; it computes nothing. What pages can use:

- ``{claim}`E-fig1```: a verdict mark that links to the claim's row; an unknown claim is a warning.
- ``{ledger-summary}``, ``{ledger-claims}``, ``{ledger-errata}`` and ``{paper-cards}``: see :mod:`.site_ledger`.
- ``{run-status}`` and ``{verdict-history}``: what every page cost, and how the verdicts changed, see :mod:`.site_runs`.
- ``{device-comparison}``, ``{device-use}`` and ``{seconds-history}``: CPU and GPU, see :mod:`.site_devices`.

Every claim and figure has a lasting address, every chapter its BibTeX entry: see :mod:`.site_anchors`.
"""

import zlib
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import Any

from sphinx.application import Sphinx

from normdyn.book import site_anchors, site_devices, site_front, site_html, site_ledger, site_notebooks, site_runs

STATIC = Path(__file__).parent / "static"
MATHJAX = ("tex-chtml.js", "input/tex/extensions/*.js", "output/chtml/fonts/woff-v2/*.woff")


def mathjax_files() -> dict[str, Path]:
    """The part of the vendored MathJax 3 that the pages load, by its path below ``_static/mathjax``.

    Raises:
        FileNotFoundError: the package ``sphinx-mathjax-offline``, which carries MathJax, is not installed.
    """
    package = find_spec("sphinx-mathjax-offline")
    if package is None:
        raise FileNotFoundError("MathJax is not installed: pip install sphinx-mathjax-offline")
    folder = Path(package.submodule_search_locations[0], "static", "mathjax")
    return {str(path.relative_to(folder)): path for pattern in MATHJAX for path in sorted(folder.glob(pattern))}


def serve_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax into the finished site, once."""
    if error is None and app.builder.format == "html":
        for name, source in mathjax_files().items():
            target = Path(app.outdir, "_static", "mathjax", name)
            if not target.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                copyfile(source, target)


def leave_out_thebe(app: Sphinx) -> None:
    """Jupyter Book loads Thebe, which names a script on another host on every page; nothing here uses it."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if not one.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files[:] = [file for file in app.registry.css_files if "thebe" not in str(file[0])]


def configure(app: Sphinx, config: Any) -> None:
    """Set what every page needs and no author should have to think of."""
    config.html_static_path.append(str(STATIC))
    config.mathjax_path = "mathjax/tex-chtml.js"
    config.html_favicon = config.html_favicon or str(STATIC / "favicon.svg")
    # Formulas are no tab stops of their own; screen readers get the MathML that MathJax puts beside each.
    config.mathjax3_config = {"options": {"enableMenu": False, "enableAssistiveMml": True}} | (
        config.mathjax3_config or {}
    )
    leave_out_thebe(app)
    app.add_css_file("normdyn.css", priority=900)
    app.add_js_file(None, body="document.documentElement.classList.add('typesetting')")  # until normdyn.js says else
    app.add_js_file("normdyn.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("config-inited", configure)
    app.connect("build-finished", serve_mathjax)
    for part in (site_ledger, site_runs, site_devices, site_html, site_notebooks, site_anchors, site_front):
        part.setup(app)
    sources = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("site*.py")))
    version = zlib.crc32(sources)  # pages read by another version of this extension are read again
    return {"version": "1", "env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

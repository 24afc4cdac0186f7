"""The site: a Sphinx extension that shows the ledger, themes the figures and keeps pages accessible and offline.

It reads what the pipeline left beside the staged sources, ``verdicts.json``, ``runs.json`` and ``history.json`` in
``build/<profile>``, and the registry ``data/claims``; it computes nothing. What pages can use:

- ``{claim}`Z-one```: a verdict mark that links to the claim's row; an unknown claim is a warning.
- ``{ledger-summary}``, ``{ledger-claims}`` and ``{paper-cards}``: see :mod:`.tables`.
- ``{ledger-errata}`` and ``{ledger-errata-summary}``: what is printed and does not hold, see :mod:`.errata`.
- ``{run-status}`` and ``{verdict-history}``: what every page cost, and how the verdicts changed, see :mod:`.runs`.
- ``.. automodule::``: a page of the library's reference, see :mod:`.reference`.
- ``{device-comparison}``, ``{device-use}`` and ``{seconds-history}``: CPU and GPU, see :mod:`.devices`.

Every claim and figure has a lasting address, every chapter its BibTeX entry: see :mod:`.anchors`.
"""

import zlib
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import Any

from sphinx.application import Sphinx

from claimbook.site import anchors as site_anchors
from claimbook.site import claims as site_claims
from claimbook.site import devices as site_devices
from claimbook.site import directives as site_directives
from claimbook.site import errata as site_errata
from claimbook.site import front as site_front
from claimbook.site import html as site_html
from claimbook.site import ledger as site_ledger
from claimbook.site import notebooks as site_notebooks
from claimbook.site import reference as site_reference
from claimbook.site import runs as site_runs
from claimbook.site import tables as site_tables

STATIC = Path(__file__).parent / "static"
MATHJAX = ("tex-chtml.js", "input/tex/extensions/*.js", "output/chtml/fonts/woff-v2/*.woff")


def mathjax_files() -> dict[str, Path]:
    """The part of the vendored MathJax 3 that the pages load, by its path below ``_static/mathjax``.

    Raises:
        FileNotFoundError: the package ``sphinx-mathjax-offline``, which carries MathJax, is not installed.
    """
    package = find_spec("sphinx-mathjax-offline")
    if package is None or not package.submodule_search_locations:
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
    app.add_css_file("claimbook.css", priority=900)
    app.add_js_file(None, body="document.documentElement.classList.add('typesetting')")  # until claimbook.js says else
    app.add_js_file("claimbook.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("config-inited", configure)
    app.connect("build-finished", serve_mathjax)
    for part in (
        site_ledger,
        site_directives,
        site_tables,
        site_errata,
        site_runs,
        site_devices,
        site_html,
        site_notebooks,
        site_anchors,
        site_front,
        site_claims,
        site_reference,
    ):
        part.setup(app)
    here = Path(__file__).parent
    sources = b"".join(file.read_bytes() for file in sorted([*here.glob("*.py"), *here.glob("templates/*.html")]))
    version = zlib.crc32(sources)  # pages read by another version of this extension are read again
    return {"version": "1", "env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

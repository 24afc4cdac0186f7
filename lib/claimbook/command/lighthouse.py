"""Lighthouse scores of the built site (``make lighthouse``): three pages, four categories, none below 95.

Lighthouse is a program of npm, which nothing else here needs; it looks at the site through the system's Chromium.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from gzip import compress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from claimbook.source.pages import BookError

PAGES = ("index", "normalization-geometry/step-size", "claims")  # the front, mathematics with figures, the largest
VERSION = "lighthouse@12"
LEAST = 95
RUNS = 3  # the median counts, as a busy machine slows a page down
LIMIT = 300  # seconds for one run
FLAGS = "--chrome-flags=--headless --no-sandbox"


class Zipped(SimpleHTTPRequestHandler):
    """Serve files as public hosts do: compressed, and to be kept for a day."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        content, kind = file.read_bytes(), self.guess_type(str(file))
        self.send_response(200)
        if kind.startswith("text/") or kind.endswith(("javascript", "json", "svg+xml")):
            content = compress(content)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "max-age=86400")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing about requests."""


@contextmanager
def served(site: Path):
    """The address of the site on this machine, while it is needed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Zipped, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def scores(text: str) -> dict[str, int]:
    """The score of each category, in percent, from the file that Lighthouse writes.

    Raises:
        BookError: Lighthouse could not judge the page, or the text is no result of it.

    Example:
        >>> scores('{"categories": {"seo": {"score": 0.98}}}')
        {'seo': 98}
    """
    try:
        result = json.loads(text)
        problem = (result.get("runtimeError") or {}).get("message")
        found = {name: category["score"] for name, category in result["categories"].items()}
    except (ValueError, LookupError, AttributeError, TypeError):
        raise BookError("Lighthouse wrote no result that can be read") from None
    if problem or not found or None in found.values():
        raise BookError(f"Lighthouse could not judge the page: {problem or 'a category has no score'}")
    return {name: round(100 * score) for name, score in found.items()}


def judge(address: str, browser: str) -> dict[str, int]:
    """Run Lighthouse once, on a page at an address.

    Raises:
        BookError: it fails, or takes longer than ``LIMIT``.
    """
    with TemporaryDirectory() as folder:
        target = Path(folder, "result.json")
        words = ["npx", "--yes", VERSION, address, "--preset=desktop", "--quiet", FLAGS]
        words += ["--output=json", f"--output-path={target}"]
        try:
            run = subprocess.run(
                words, env=os.environ | {"CHROME_PATH": browser}, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            raise BookError(f"Lighthouse took more than {LIMIT} s for {address}") from None
        if run.returncode or not target.is_file():
            last = (run.stderr.strip().splitlines() or ["it wrote no result"])[-1]
            raise BookError(f"Lighthouse failed: {last}")
        return scores(target.read_text(encoding="utf-8"))


def report(page: str, found: Mapping[str, int]) -> str:
    """One line a page; what is below the least score is marked.

    Example:
        >>> report("index", {"performance": 94, "seo": 100})
        'index: performance 94 (below 95), seo 100'
    """
    shown = (f"{name} {score}" + (f" (below {LEAST})" if score < LEAST else "") for name, score in found.items())
    return f"{page}: {', '.join(shown)}"


def lighthouse(site: Path, browser: str | None) -> bool:
    """Print the scores of the three pages; return whether all suffice.

    Raises:
        BookError: npm, a browser or the site is missing, or Lighthouse fails.
    """
    if shutil.which("npx") is None:
        raise BookError("no npm found: install Node.js with npm, which brings Lighthouse")
    if browser is None:
        raise BookError("no browser found: install Chromium or Chrome, which Lighthouse opens the pages in")
    if not (site / "index.html").is_file():
        raise BookError("there is no site to judge; run make book first")
    enough = True
    with served(site) as host:
        for page in PAGES:
            runs = [judge(f"{host}/{page}.html", browser) for _ in range(RUNS)]
            found = {name: round(median(run[name] for run in runs)) for name in runs[0]}
            print(report(page, found), flush=True)
            enough &= min(found.values()) >= LEAST
    return enough


if __name__ == "__main__":
    from claimbook.command.check import BROWSERS

    try:
        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        sys.exit(0 if lighthouse(Path(sys.argv[1]), program) else 1)
    except BookError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)

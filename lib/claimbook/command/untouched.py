"""Whether anything was touched since the last whole build: names, sizes and times of files say so at once.

What they cannot tell apart is built as ever, where hashes decide; so this saves time and decides nothing else.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from claimbook.registry.history import git
from claimbook.source.files import digest, write_whole
from claimbook.source.pages import Layout
from claimbook.source.parameters import Parameters

OURS = ("build", "__pycache__")  # below the root; and every folder whose name begins with a dot
LARGE = ("work", "html", "html.new", "html.old", "logs")  # below the build's: of the site its first page stands for all


def sources(layout: Layout, parameters: Parameters) -> str:
    """Hash of what a build reads: taken before it begins, so that an edit meanwhile counts."""
    head = git(layout.root, "rev-parse", "HEAD").decode()
    return digest(sys.version, repr(parameters), head, *_stamps(layout.root, OURS))


def is_untouched(layout: Layout, before: str) -> bool:
    """Whether the last build was whole, of the same sources, and is all there."""
    noted = _note(layout)
    return noted.is_file() and noted.read_bytes() == digest(before, *_left(layout)).encode()


def note(layout: Layout, before: str) -> None:
    """Remember a whole build."""
    write_whole(_note(layout), digest(before, *_left(layout)))


def _note(layout: Layout) -> Path:
    return layout.build / ".untouched"


def _left(layout: Layout) -> list[str]:
    index = layout.html / "index.html"
    return [*_stamps(layout.build, LARGE), *([str(index.stat().st_mtime_ns)] if index.is_file() else [])]


def _stamps(folder: Path, without: tuple[str, ...]) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in without and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                status = os.stat(path := f"{place}/{name}")
                yield f"{path} {status.st_size} {status.st_mtime_ns}"

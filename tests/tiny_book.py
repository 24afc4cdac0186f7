"""A tiny book for the tests of the pipeline: two pages with code, three library modules, one claim decided."""

import runpy
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from claimbook.source.pages import Layout
from claimbook.source.parameters import Parameters

REPOSITORY = Path(__file__).parents[1]
BOOK = REPOSITORY / "tests" / "fixtures" / "book"
ONE, TWO = "part/one", "part/two"
record = runpy.run_path(str(BOOK / "lib/tiny/claims.py"))["record"]  # of a claim, as the book's pages show it


@dataclass(frozen=True)
class TinyBook:
    """A book in a folder of its own that a test may edit and break."""

    root: Path
    parameters: Parameters = Parameters("quick", "cpu", 0, 2)

    @property
    def layout(self) -> Layout:
        return Layout(self.root, self.parameters.profile)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file of the book; the text must be there."""
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} does not contain {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def copy(self, target: Path) -> "TinyBook":
        """The same book, with what was executed and built, elsewhere."""
        shutil.copytree(self.root, target)
        return TinyBook(target, self.parameters)


def tiny_book(target: Path) -> TinyBook:
    """A fresh one: nothing is executed."""
    shutil.copytree(BOOK, target)
    shutil.copyfile(REPOSITORY / "Snakefile", target / "Snakefile")
    return TinyBook(target)


def hear() -> None:
    """For the start of a step: a suite that was put in the background hands on that SIGINT is to be ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

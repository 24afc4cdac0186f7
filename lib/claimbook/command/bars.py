"""``make bars``: how near pages are to essays. Lines, share of code, lengths of cells, where the first figure is."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from claimbook.source import pages

LINES, SHARE, MEDIAN, LONGEST, WIDTH, TEACHING = 320, 0.30, 8, 14, 80, 2
FIRST_SCREEN = 16  # lines of prose before the headline figure: title, box, a short paragraph
HIDDEN = {"remove-input", "hide-input", "remove-cell", "hide-cell"}


@dataclass(frozen=True)
class Bars:
    """Measures of one page."""

    page: str
    lines: int
    code: int
    cells: tuple[int, ...]
    widest: int
    teaching: int
    figure: int | None

    def missed(self) -> list[str]:
        """The bars that the page does not reach, in words; empty if it is an essay."""
        share = self.code / max(self.lines, 1)
        tests = [
            (self.lines > LINES, f"{self.lines} lines, at most {LINES}"),
            (share > SHARE, f"{share:.0%} code, at most {SHARE:.0%}"),
            (statistics.median(self.cells or [0]) > MEDIAN, f"cells of {statistics.median(self.cells):g} lines in the "
             f"median, at most {MEDIAN}"),
            (max(self.cells, default=0) > LONGEST, f"a cell of {max(self.cells, default=0)} lines, at most {LONGEST}"),
            (self.widest > WIDTH, f"a visible line of {self.widest} characters, at most {WIDTH}"),
            (self.teaching < TEACHING, f"{self.teaching} cells that teach by computing, at least {TEACHING}"),
            (self.figure is None or self.figure > FIRST_SCREEN, "no figure on the first screen"),
        ]  # fmt: skip
        return [text for missed, text in tests if missed]


def measure(root: Path, page: str) -> Bars:
    """The measures of one page, read from its source."""
    notebook = pages.read(root / "chapters" / f"{page}.md")
    source = (root / "chapters" / f"{page}.md").read_text(encoding="utf-8")
    lines = sum(bool(line.strip()) for line in source.split("\n"))
    prose, sizes, widest, teaching, figure = 0, [], 0, 0, None
    for cell in notebook.cells:
        body = [line for line in cell.source.split("\n") if line.strip()]
        if cell.cell_type != "code":
            prose += len(body)
            continue
        if figure is None and cell.metadata.get("mystnb", {}).get("figure"):
            figure = prose
        sizes.append(len(body))
        if not HIDDEN & set(pages.tags(cell)):
            widest = max([widest, *map(len, body)])
            teaching += len(body) >= 3 and "decide" not in cell.source
    return Bars(page, lines, sum(sizes), tuple(sizes), widest, teaching, figure)


def pages_of_claims(root: Path) -> list[str]:
    """The pages that call claims."""
    sources = {page: root / "chapters" / f"{page}.md" for page in pages.notebooks(root)}
    return [page for page, path in sources.items() if ".decide(" in path.read_text(encoding="utf-8")]


def show(root: Path, names: list[str]) -> bool:
    """Print a line a page; say whether all of them are essays."""
    found = [measure(root, page) for page in names]
    for bars in found:
        missed = "; ".join(bars.missed()) or "an essay"
        cells = f"cells {statistics.median(bars.cells):g}/{max(bars.cells)}"
        print(f"{bars.page}: {bars.lines} lines, {bars.code / bars.lines:.0%} code, {cells}: {missed}")
    return not any(bars.missed() for bars in found)

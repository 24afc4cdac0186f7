"""Comparing: the verdicts that this machine finds beside the published ones (``make compare``)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claimbook.registry import verdicts
from claimbook.run.engine import is_current
from claimbook.run.execute import execute
from claimbook.source import pages
from claimbook.source.pages import BookError, Layout, restore
from claimbook.source.parameters import Parameters

HEAD = ("claim", "published value", "your value", "bound", "verdicts agree?")


@dataclass(frozen=True)
class Row:
    """One claim, as published and as found here; either entry may be missing."""

    claim: str
    published: dict[str, Any] | None
    yours: dict[str, Any] | None

    @property
    def agrees(self) -> bool:
        """Whether both sides give one verdict; a claim that stands on one side only does not agree."""
        old, new = self.published, self.yours
        return old is not None and new is not None and old["verdict"] == new["verdict"]

    def cells(self) -> tuple[str, ...]:
        """What the table shows of it."""
        old, new = self.published or {}, self.yours or {}
        bound = (new or old).get("bound")
        return self.claim, number(old.get("value")), number(new.get("value")), number(bound), self.answer()

    def answer(self) -> str:
        """``yes``, or in what the two sides differ."""
        if self.published is None:
            return f"no: not published, yours {(self.yours or {})['verdict']}"
        if self.yours is None:
            return f"no: published {self.published['verdict']}, yours not decided"
        if not self.agrees:
            return f"no: published {self.published['verdict']}, yours {self.yours['verdict']}"
        old, new = self.published, self.yours
        if old["bound"] != new["bound"]:
            return f"yes, {new['verdict']}; published bound {number(old['bound'])}"
        same = verdicts.agree(old["value"], new["value"], old["bound"])
        return f"yes, {new['verdict']}" + ("" if same else "; another number")


def number(value: float | None) -> str:
    """A number in a column; a dash for none.

    Example:
        >>> number(0.0), number(3.14159e-16), number(0.25), number(None)
        ('0', '3.14e-16', '0.25', '-')
    """
    return "-" if value is None else f"{value:.3g}"


def published(root: Path, profile: str) -> dict[str, dict]:
    """The published verdicts of a profile.

    Raises:
        BookError: there are none, or they are damaged.
    """
    path = root / "data" / "verdicts" / f"{profile}.json"
    if not path.is_file():
        raise BookError(f"no verdicts are published for PROFILE={profile}: there is no data/verdicts/{profile}.json")
    return verdicts.read_verdicts(path, restore(f"data/verdicts/{profile}.json"))


def rows(layout: Layout, names: list[str], recorded: dict[str, dict]) -> list[Row]:
    """A row for every claim that one of the pages decides, here or as published, in the order of the registry."""
    yours = verdicts.collect(layout, names)
    claims = yours.keys() | {claim for claim, entry in recorded.items() if entry["page"] in names}
    order = [claim for claim in verdicts.read_claims(layout.root) if claim in claims]
    order += sorted(claims.difference(order))
    return [Row(claim, recorded.get(claim), yours.get(claim)) for claim in order]


def table(found: list[Row]) -> str:
    """The rows in columns, the numbers to the right."""
    lines = [HEAD, *(row.cells() for row in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]

    def line(cells: tuple[str, ...]) -> str:
        claim, *numbers, answer = cells
        shown = [claim.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)), answer]
        return "  ".join(shown)

    return "\n".join([line(HEAD), "  ".join("-" * w for w in (*widths, len(HEAD[-1]))), *map(line, lines[1:])])


def compare(root: Path, page: str, parameters: Parameters) -> bool:
    """Show what this machine finds beside what is published; say whether all verdicts agree.

    Args:
        page: The page to compare, executed first if it is not current; empty for all that are executed already.

    Raises:
        BookError: no verdicts are published, or nothing is executed.
        ChapterFailed: a cell raised an error.
    """
    layout, recorded = Layout(root, parameters.profile), published(root, parameters.profile)
    if page:
        execute(layout, page, parameters)
        names = [page]
    else:
        names, stale = executed_pages(layout, parameters)
        for name in stale:
            print(f"{name}: executed with other code or parameters; left out")
        if not names:
            raise BookError("no page is executed yet: name one by PAGE=<paper>/<section>, or run make book first")
    found = rows(layout, names, recorded)
    if not found:
        print(f"{', '.join(names)}: no verdicts to compare, neither published nor found here")
        return True
    print(table(found))
    agreeing = sum(row.agrees for row in found)
    on = f"profile {parameters.profile}, seed {parameters.seed}, {parameters.device}"
    print(f"\n{agreeing} of {len(found)} verdicts agree with the published ones ({on})")
    return agreeing == len(found)


def executed_pages(layout: Layout, parameters: Parameters) -> tuple[list[str], list[str]]:
    """The pages that are executed, and those that were executed with other code or parameters."""
    current, stale = list[str](), list[str]()
    for page in pages.notebooks(layout.root):
        if layout.executed(page).is_file():
            (current if is_current(layout, page, parameters) else stale).append(page)
    return current, stale

"""Chapters that failed: their reports, and the page that stands in the place of each. It holds no earlier result."""

import json
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from claimbook.run.execute import format_report
from claimbook.source import pages
from claimbook.source.pages import BookError, Layout

PAGE = """{labels}# {title}

```{{admonition}} This chapter failed
:class: danger

It was executed for this build and did not run to its end. Nothing that it computed earlier is shown, and the claims
that it decides have no verdict until it runs again.
```

{cell}The error:

{error}

To see it on your machine: `make chapter PAGE={page}`.
"""


def read(layout: Layout, names: Iterable[str]) -> dict[str, dict]:
    """Page -> report, of those that have one."""
    files = {page: layout.failure(page) for page in names}
    return {page: json.loads(file.read_text(encoding="utf-8")) for page, file in files.items() if file.is_file()}


def staged(layout: Layout) -> dict[str, str]:
    """Page -> the first line of its error, of the chapters that failed in the build that is staged.

    Raises:
        BookError: what the build left is cut or damaged.
    """
    file = layout.build / "failures.json"
    try:
        errors = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {page: without_paths(error, layout.root).partition("\n")[0] for page, error in errors.items()}
    except (ValueError, AttributeError, TypeError) as problem:
        remedy = f"run make book PROFILE={layout.profile}, which writes it anew"
        raise BookError(f"{file}: cut or damaged ({problem}); {remedy}") from None


def silent(layout: Layout, page: str, edited: bool = False) -> dict:
    """The report of a chapter that ended without one: the system killed it, or what it rests on was edited since."""
    log = str(layout.log(page).relative_to(layout.root))
    killed = "it ended without a report: it was killed, or memory ran out; run it again, with JOBS=1 if memory is short"
    error = "it was executed, but what it rests on was edited since; run it again" if edited else killed
    return {"page": page, "cell": 1, "source": [], "line": "", "error": error, "log": log}


def told(failed: Mapping[str, dict]) -> str:
    """The reports as the build prints them; empty if nothing failed."""
    if not failed:
        return ""
    count = "1 chapter" if len(failed) == 1 else f"{len(failed)} chapters"
    return "\n\n".join([*map(format_report, failed.values()), f"{count} failed; the finished ones are kept"])


def page(layout: Layout, report: dict) -> str:
    """The page in place of a chapter: its title and labels, so that links to it lead here, and the error."""
    prose = "\n".join(c.source for c in pages.read(layout.source(report["page"])).cells if c.cell_type == "markdown")
    title = re.search(r"^# +(.+)$", prose, flags=re.MULTILINE)
    labels = dict.fromkeys(re.findall(r"^\(([^()\s]+)\)=\s*$", prose, flags=re.MULTILINE))
    source = "\n".join(report["source"])
    return PAGE.format(
        labels="".join(f"({label})=\n" for label in labels),
        title=title[1] if title else report["page"],
        cell=f"In code cell {report['cell']}:\n\n{fenced(source, 'python')}\n\n" if source else "",
        error=fenced(without_paths(report["error"], layout.root)),
        page=report["page"],
    )


def fenced(text: str, language: str = "text") -> str:
    """Text as a block of code, whatever is in it.

    Example:
        >>> print(fenced("a ``` b"))
        ````text
        a ``` b
        ````
    """
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return f"{fence}{language}\n{text}\n{fence}"


def without_paths(text: str, root: Path) -> str:
    """The text without the folders of this machine."""
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/chapter-\w+/", "", text)
    for folder in (str(root), sys.prefix, str(Path.home())):
        text = text.replace(f"{folder}/", "") if folder != "/" else text
    return text

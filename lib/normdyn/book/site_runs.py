"""What every page cost, and how the recorded verdicts came to be: the tables of the status page."""

import json
from html import escape
from typing import Any

from sphinx.application import Sphinx

from normdyn.book.site_devices import megabytes, share
from normdyn.book.site_ledger import LABELS, Ledgered, beside, mark


class RunStatus(Ledgered):
    """``{run-status}``: every executed page with time, memory, device, profile, key and its verdicts."""

    def run(self):
        runs, failed = self.stored("runs.json"), self.stored("failures.json")
        links = ", ".join(f'<a href="{self.link(page)}">{self.title(page)}</a>' for page in failed)
        lost = f"<p><b>{len(failed)} failed</b> and show no results: {links}.</p>" if failed else ""
        if not runs:
            return self.html(f"{lost}<p>No page of this profile has been executed.</p>")
        order = list(self.env.toctree_includes.get(self.env.config.root_doc, [])) + sorted(runs)
        pages = sorted(runs, key=lambda page: order.index(page))
        seconds, memory = (sum(run["seconds"] for run in runs.values()), max(run["memory"] for run in runs.values()))
        names = ("page", "seconds", "memory", "profile", "device", "of it used", "seed", "commit", "key", "verdicts")
        if not any(run.get("device_memory") for run in runs.values()):
            names = tuple(name for name in names if name != "of it used")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        body = "".join(self.row(page, runs[page], device_use="of it used" in names) for page in pages)
        return self.html(
            f"{lost}<p>{len(runs)} executed pages took {seconds:.0f} s in total; "
            f"none needed more than {memory / 2**20:.0f} MB.</p>"
            '<div class="ledger-scroll"><table class="run-status">'
            '<caption class="visually-hidden">Runs of all pages</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def stored(self, name: str) -> dict[str, Any]:
        """A file that the pipeline left beside the staged sources; empty if there is none."""
        file = beside(self.env.app, name)
        if not file.is_file():
            return {}
        self.env.note_dependency(str(file))
        return json.loads(file.read_text(encoding="utf-8"))

    def row(self, page: str, run: dict[str, Any], device_use: bool) -> str:
        href, title = self.link(page), self.title(page)
        verdicts = [v["verdict"] for v in self.ledger().verdicts.values() if v["page"] == page]
        marks = " ".join(
            f'<span class="run-verdicts">{verdicts.count(v)} {mark(v)}</span>' for v in dict.fromkeys(sorted(verdicts))
        )
        cells = (
            f"{run['seconds']:.1f}",
            f"{run['memory'] / 2**20:.0f} MB",
            run["profile"],
            run["device"],
            *([f"{megabytes(run, 'device_memory')}, busy {share(run)}"] if device_use else []),
            run["seed"],
            f"<code>{escape(str(run['commit'])[:12])}</code>",
            f"<code>{escape(run['key'][:12])}</code>",
            marks or "none",
        )
        return (
            f'<tr><th scope="row"><a href="{href}">{title}</a></th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )

    def title(self, page: str) -> str:
        """The page's path in words; titles of other pages are not known while this one is read."""
        return escape(page.replace("/", ": ").replace("-", " "))


class VerdictHistory(Ledgered):
    """``{verdict-history}``: how many claims had which verdict, at each change of the recorded verdicts."""

    def run(self):
        file = beside(self.env.app, "history.json")
        changes = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        if file.is_file():
            self.env.note_dependency(str(file))
        if not changes:
            return self.html("<p>This copy of the book carries no history of its verdicts.</p>")
        present = [v for v in LABELS if any(change["count"].get(v) for change in changes)]
        names = ("recorded", "commit", "pages", "claims", *map(mark, present), "against the row below")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        body = "".join(self.row(change, present) for change in changes)
        return self.html(
            '<div class="ledger-scroll"><table class="run-status verdict-history">'
            '<caption class="visually-hidden">Verdicts at each change of the record, newest first</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def row(self, change: dict[str, Any], present: list[str]) -> str:
        count = change["count"]
        cells = (
            f"<code>{escape(change['commit'])}</code>",
            change["pages"],
            sum(count.values()),
            *(count.get(verdict, "·") for verdict in present),
            self.difference(change),
        )
        shown = "".join(f"<td>{cell}</td>" for cell in cells)
        return f'<tr><th scope="row">{escape(change["date"])}</th>{shown}</tr>'

    @staticmethod
    def difference(change: dict[str, Any], most: int = 4) -> str:
        """What is new, gone or judged otherwise, in a line."""
        pages = "1 page" if change["new_pages"] == 1 else f"{change['new_pages']} pages"
        parts = [f"{change['new']} new, on {pages}"] if change["new"] else []
        parts += [f"{change['gone']} gone"] if change["gone"] else []
        others = change["changed"]
        parts += [f"{escape(claim)}: {LABELS[old]} → {LABELS[new]}" for claim, old, new in others[:most]]
        parts += [f"{len(others) - most} more with another verdict"] if len(others) > most else []
        return "; ".join(parts) or "numbers only"


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("run-status", RunStatus)
    app.add_directive("verdict-history", VerdictHistory)

"""What every page cost: the table of runs on the status page."""

import json
from html import escape
from typing import Any

from sphinx.application import Sphinx

from normdyn.book.site_ledger import Ledgered, beside, mark


class RunStatus(Ledgered):
    """``{run-status}``: every executed page with time, memory, device, profile, key and its verdicts."""

    def run(self):
        file = beside(self.env.app, "runs.json")
        if not file.is_file():
            return self.html("<p>No page of this profile has been executed.</p>")
        self.env.note_dependency(str(file))
        runs = json.loads(file.read_text(encoding="utf-8"))
        order = list(self.env.toctree_includes.get(self.env.config.root_doc, [])) + sorted(runs)
        pages = sorted(runs, key=lambda page: order.index(page))
        seconds, memory = (sum(run["seconds"] for run in runs.values()), max(run["memory"] for run in runs.values()))
        names = ("page", "seconds", "memory", "profile", "device", "seed", "commit", "key", "verdicts")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        body = "".join(self.row(page, runs[page]) for page in pages)
        return self.html(
            f"<p>{len(runs)} executed pages took {seconds:.0f} s in total; "
            f"none needed more than {memory / 2**20:.0f} MB.</p>"
            '<div class="ledger-scroll"><table class="run-status">'
            '<caption class="visually-hidden">Runs of all pages</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def row(self, page: str, run: dict[str, Any]) -> str:
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


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("run-status", RunStatus)

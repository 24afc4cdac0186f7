"""What every page cost, and how the recorded verdicts came to be: the tables of the status page."""

from typing import Any

from sphinx.application import Sphinx

from claimbook.site.devices import megabytes, share
from claimbook.site.directives import Ledgered
from claimbook.site.ledger import LABELS


class RunStatus(Ledgered):
    """``{run-status}``: every executed page with time, memory, device, profile, key and its verdicts."""

    def run(self):
        runs, failed = self.stored("runs.json"), self.stored("failures.json")
        order = list(self.env.toctree_includes.get(self.env.config.root_doc, [])) + sorted(runs)
        use = any(run.get("device_memory") for run in runs.values())
        return self.show(
            "run-status",
            failed=list(map(self.named, failed)),
            pages=[self.page(page, runs[page], use) for page in sorted(runs, key=order.index)],
            device_use=use,
            seconds=sum(run["seconds"] for run in runs.values()),
            memory=max((run["memory"] for run in runs.values()), default=0) / 2**20,
        )

    def stored(self, name: str) -> dict[str, Any]:
        """A file that the pipeline left beside the staged sources; empty if there is none."""
        return self.left(name, {})

    def page(self, page: str, run: dict[str, Any], device_use: bool) -> dict[str, Any]:
        """What the table shows of one page."""
        verdicts = sorted(v["verdict"] for v in self.ledger().verdicts.values() if v["page"] == page)
        cells = [f"{run['seconds']:.1f}", f"{run['memory'] / 2**20:.0f} MB", run["profile"], run["device"]]
        used = [f"{megabytes(run, 'device_memory')}, busy {share(run)}"] if device_use else []
        return self.named(page) | {
            "cells": [*cells, *used, run["seed"]],
            "commit": str(run["commit"])[:12],
            "key": run["key"][:12],
            "verdicts": [(verdict, verdicts.count(verdict)) for verdict in dict.fromkeys(verdicts)],
        }


class VerdictHistory(Ledgered):
    """``{verdict-history}``: how many claims had which verdict, at each change of the recorded verdicts."""

    def run(self):
        changes = self.left("history.json", [])
        present = [v for v in LABELS if any(change["count"].get(v) for change in changes)]
        told = [change | {"difference": self.difference(change)} for change in changes]
        return self.show("verdict-history", changes=told, verdicts=present)

    @staticmethod
    def difference(change: dict[str, Any], most: int = 4) -> str:
        """What is new, gone or judged otherwise, in a line."""
        pages = "1 page" if change["new_pages"] == 1 else f"{change['new_pages']} pages"
        parts = [f"{change['new']} new, on {pages}"] if change["new"] else []
        parts += [f"{change['gone']} gone"] if change["gone"] else []
        others = change["changed"]
        parts += [f"{claim}: {LABELS[old]} → {LABELS[new]}" for claim, old, new in others[:most]]
        parts += [f"{len(others) - most} more with another verdict"] if len(others) > most else []
        return "; ".join(parts) or "numbers only"


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("run-status", RunStatus)
    app.add_directive("verdict-history", VerdictHistory)

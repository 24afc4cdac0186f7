"""CPU and GPU side by side, which chapters use a device, what pages cost over time: tables from ``devices.json``."""

from itertools import groupby
from typing import Any

from sphinx.application import Sphinx

from claimbook.evidence.cards import number
from claimbook.site.directives import Ledgered
from claimbook.site.ledger import LABELS
from claimbook.site.templates import render

COMMAND = "make verdicts DEVICE={device} PROFILE={profile}"
NAMES = {"value": "measured", "control": "control", "": "no number"}


class Devices(Ledgered):
    """A directive that shows part of ``devices.json``."""

    def stored(self) -> dict[str, Any]:
        """What the pipeline left beside the staged sources; empty if there is nothing."""
        return self.left("devices.json", {})


class Comparison(Devices):
    """``{device-comparison}``: every stored number of the CPU beside that of the GPU, or that there is none."""

    def run(self):
        stored = self.stored()
        command = COMMAND.format(device="cuda", profile=stored.get("profile", "quick"))
        comparisons = list(map(self.comparison, stored.get("comparisons", [])))
        return self.show("device-comparison", comparisons=comparisons, command=command)

    def comparison(self, found: dict[str, Any]) -> dict[str, Any]:
        """One profile: what failed, what differs, all numbers, and what the pages cost."""
        rows = list(map(self.row, found["rows"]))
        gpu = found["costs"][1]
        return {
            "profile": found["profile"],
            "command": COMMAND.format(device="cpu", profile=found["profile"]),
            "gpu": gpu["device"] if gpu else "not recorded",
            "failed": [(self.named(page), error) for page, error in found.get("failed", {}).items()],
            "rows": rows,
            "wrong": [row for row in rows if row["problem"]],
            "costs": self.costs(*(cost["pages"] for cost in found["costs"])) if all(found["costs"]) else [],
        }

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """What a table shows of one number."""
        words = {v: LABELS[v] for v in row["verdicts"] if v}
        answer = row["problem"] or f"yes, {words[row['verdicts'][0]]}"
        for verdict, label in words.items():
            answer = answer.replace(f"{verdict} on", f"{label} on")
        return {
            "claim": row["claim"],
            "href": self.link(row["page"], f"evidence-{row['claim']}"),
            "cells": [NAMES[row["name"]], *map(number, (*row["numbers"], row["difference"]))],
            "allowed": number(row["allowed"]),
            "reason": row["reason"] if row["name"] == "value" else "",
            "answer": answer,
            "problem": row["problem"],
        }

    def costs(self, cpu: dict[str, Any], gpu: dict[str, Any]) -> list[tuple[dict[str, str], list[str]]]:
        """Seconds, memory and use of the device of every page on both."""
        return [
            (
                self.named(page),
                [seconds(run) for run in (old, new)]
                + [megabytes(run, "memory") for run in (old, new)]
                + [megabytes(new, "device_memory"), share(new)],
            )
            for page, old, new in ((page, cpu.get(page), gpu.get(page)) for page in sorted(cpu.keys() | gpu.keys()))
        ]


class Use(Devices):
    """``{device-use}``: which chapters compute on the device that is asked for, found by reading their code."""

    def run(self):
        uses = self.stored().get("uses", {})
        on = [self.named(page) for page, used in uses.items() if used]
        return self.show("device-use", pages=on, chapters=len(uses))


class Seconds(Devices):
    """``{seconds-history}``: the seconds of every page at each recording of the verdicts, as a small curve."""

    def run(self):
        costs = self.stored().get("costs", [])
        order = list(self.env.toctree_includes.get(self.env.config.root_doc, []))
        last = costs[-1]["pages"] if costs else {}
        pages = sorted(last, key=lambda page: (order.index(page) if page in order else len(order), page))
        series = {page: [entry["pages"].get(page, {}).get("seconds") for entry in costs] for page in pages}
        return self.show(
            "seconds-history",
            recordings=[
                {
                    "commit": entry["commit"],
                    "date": entry["date"],
                    "seconds": sum(run["seconds"] for run in entry["pages"].values()),
                }
                for entry in costs
            ],
            pages=[(self.named(page), self.cells(values)) for page, values in series.items()],
        )

    @staticmethod
    def cells(values: list[float | None]) -> list[str]:
        known = [value for value in values if value is not None]
        return [sparkline(values), f"{min(known):.1f}", f"{known[-1]:.1f}"]


def sparkline(values: list[float | None], width: int = 120, height: int = 22) -> str:
    """A curve without axes from zero up; a point where there is one value, a gap where there is none.

    Example:
        >>> sparkline([1.0, 2.0]).count("polyline"), sparkline([1.0, None, 2.0]).count("circle")
        (1, 2)
    """
    known = [value for value in values if value is not None]
    top, step = max(known) or 1.0, (width - 6) / max(len(values) - 1, 1)
    runs = [
        [(f"{3 + i * step:.1f}", f"{height - 3 - (height - 6) * (value or 0.0) / top:.1f}") for i, value in run]
        for there, run in groupby(enumerate(values), lambda point: point[1] is not None)
        if there
    ]
    label = f"{known[0]:.1f} s first, {known[-1]:.1f} s last, {len(known)} recorded"
    return render("sparkline", label=label, width=width, height=height, runs=runs)


def seconds(run: dict[str, Any] | None) -> str:
    """Seconds of a run; a dash without one."""
    return f"{run['seconds']:.1f}" if run else "–"


def megabytes(run: dict[str, Any] | None, name: str) -> str:
    """Bytes of a run in MB; a dash if they are not recorded."""
    value = (run or {}).get(name)
    return "–" if value is None else f"{value / 2**20:.0f} MB"


def share(run: dict[str, Any] | None) -> str:
    """The share of time in which the device was busy; a dash if nobody watched it."""
    value = (run or {}).get("device_busy")
    return "–" if value is None else f"{100 * value:.0f} %"


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("device-comparison", Comparison)
    app.add_directive("device-use", Use)
    app.add_directive("seconds-history", Seconds)

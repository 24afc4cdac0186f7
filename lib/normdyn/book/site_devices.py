"""CPU and GPU side by side, which chapters use a device, what pages cost over time: tables from ``devices.json``."""

import json
from html import escape
from typing import Any

from sphinx.application import Sphinx

from normdyn.book.site_ledger import LABELS, Ledgered, beside, number

COMMAND = "make verdicts DEVICE=cuda PROFILE={profile}"
NAMES = {"value": "measured", "control": "control", "": "no number"}


class Devices(Ledgered):
    """A directive that shows part of ``devices.json``."""

    def stored(self) -> dict[str, Any]:
        """What the pipeline left beside the staged sources; empty if there is nothing."""
        file = beside(self.env.app, "devices.json")
        if not file.is_file():
            return {}
        self.env.note_dependency(str(file))
        return json.loads(file.read_text(encoding="utf-8"))

    def page(self, name: str) -> str:
        """A page by its path in words, linked if the book has it."""
        title, href = escape(name.replace("/", ": ").replace("-", " ")), self.link(name)
        return f'<a href="{href}">{title}</a>' if href else title

    @staticmethod
    def table(caption: str, head: list[str], rows: list[list[str]], name: str = "") -> str:
        """A table whose first column names the row."""
        line = lambda cells: (
            f'<tr><th scope="row">{cells[0]}</th>' + "".join(f"<td>{c}</td>" for c in cells[1:]) + "</tr>"
        )
        heads = "".join(f'<th scope="col">{text}</th>' for text in head)
        return (
            f'<div class="ledger-scroll"><table class="run-status {name}">'
            f'<caption class="visually-hidden">{caption}</caption>'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(map(line, rows))}</tbody></table></div>"
        )


class Comparison(Devices):
    """``{device-comparison}``: every stored number of the CPU beside that of the GPU, or that there is none."""

    def run(self):
        stored = self.stored()
        found = stored.get("comparisons", [])
        if found:
            return self.html("".join(map(self.comparison, found)))
        command = COMMAND.format(profile=stored.get("profile", "quick"))
        return self.html(
            f"<p><b>No run on a GPU is stored.</b> On a machine with one, <code>{command}</code> executes the book "
            "there and stores what it finds beside the numbers of the processor, and this place compares them.</p>"
        )

    def comparison(self, found: dict[str, Any]) -> str:
        """One profile: a sentence, what differs, all numbers, and what the pages cost."""
        profile, rows = found["profile"], found["rows"]
        if not rows:
            command = COMMAND.format(profile=profile).replace("cuda", "cpu")
            return (
                f"<p>Profile {profile}: a GPU run is stored, but none of a CPU; <code>{command}</code> makes one.</p>"
            )
        wrong = [row for row in rows if row["problem"]]
        names = [escape(cost["device"]) if cost else "not recorded" for cost in found["costs"]]
        text = self.failed(found["failed"]) if found["failed"] else ""
        text += (
            f"<p>Profile {profile}, CPU against GPU ({names[1]}): <b>{len(rows) - len(wrong)} of {len(rows)}</b> "
            f"stored numbers agree{'.' if not wrong else '; these do not:'}</p>"
        )
        text += self.numbers(f"What differs, profile {profile}", wrong) if wrong else ""
        text += f"<details><summary>All numbers of profile {profile}</summary>"
        text += self.numbers(f"All numbers, profile {profile}", rows) + "</details>"
        return text + (self.costs(profile, found["costs"]) if all(found["costs"]) else "")

    def failed(self, errors: dict[str, str]) -> str:
        """The chapters that failed on the GPU, with their errors."""
        items = "".join(f"<li>{self.page(page)}: <code>{escape(error)}</code></li>" for page, error in errors.items())
        return f"<p>These chapters failed on the GPU, and their claims are not run there:</p><ul>{items}</ul>"

    def numbers(self, caption: str, rows: list[dict[str, Any]]) -> str:
        head = ["claim", "number", "CPU", "GPU", "difference", "allowed", "agree?"]
        return self.table(caption, head, [self.cells(row) for row in rows], "device-comparison")

    def cells(self, row: dict[str, Any]) -> list[str]:
        href = self.link(row["page"], f"evidence-{row['claim']}")
        claim = f'<a href="{href}">{escape(row["claim"])}</a>' if href else escape(row["claim"])
        shown = [number(value) for value in (*row["numbers"], row["difference"], row["allowed"])]
        words = {v: LABELS[v] for v in row["verdicts"] if v}
        answer = row["problem"] or f"yes, {words[row['verdicts'][0]]}"
        for verdict, label in words.items():
            answer = answer.replace(f"{verdict} on", f"{label} on")
        if row["name"] == "value" and row["reason"]:
            shown[-1] += f'<span class="ledger-place">{escape(row["reason"])}</span>'
        return [claim, NAMES[row["name"]], *shown, escape(answer)]

    def costs(self, profile: str, costs: list[dict[str, Any]]) -> str:
        """Seconds, memory and use of the device of every page on both."""
        cpu, gpu = (cost["pages"] for cost in costs)
        head = ["page", "CPU seconds", "GPU seconds", "CPU memory", "GPU memory", "device memory", "device busy"]
        rows = [
            [self.page(page), *(seconds(run.get(page)) for run in (cpu, gpu))]
            + [*(megabytes(run.get(page), "memory") for run in (cpu, gpu)), megabytes(gpu.get(page), "device_memory")]
            + [share(gpu.get(page))]
            for page in sorted(cpu.keys() | gpu.keys())
        ]
        return self.table(f"Costs of all pages, profile {profile}", head, rows, "device-costs")


class Use(Devices):
    """``{device-use}``: which chapters compute on the device that is asked for, found by reading their code."""

    def run(self):
        uses = self.stored().get("uses", {})
        on = [page for page, used in uses.items() if used]
        if not on:
            return self.html(f"<p>None of the {len(uses)} chapters with code reads <code>device</code>.</p>")
        items = "".join(f"<li>{self.page(page)}</li>" for page in on)
        verb = "reads" if len(on) == 1 else "read"
        return self.html(
            f"<p>{len(on)} of the {len(uses)} chapters with code {verb} <code>device</code> and compute there:</p>"
            f"<ul>{items}</ul><p>The other {len(uses) - len(on)} compute on the processor, whatever is asked for.</p>"
        )


class Seconds(Devices):
    """``{seconds-history}``: the seconds of every page at each recording of the verdicts, as a small curve."""

    def run(self):
        costs = self.stored().get("costs", [])
        if not costs:
            return self.html("<p>No seconds are recorded yet; <code>make verdicts</code> records them.</p>")
        order = list(self.env.toctree_includes.get(self.env.config.root_doc, []))
        pages = sorted(costs[-1]["pages"], key=lambda page: (order.index(page) if page in order else len(order), page))
        rows = [self.cells(page, [entry["pages"].get(page, {}).get("seconds") for entry in costs]) for page in pages]
        total = [sum(run["seconds"] for run in entry["pages"].values()) for entry in costs]
        first, last = costs[0], costs[-1]
        return self.html(
            f"<p>{len(costs)} recording{'s' if len(costs) > 1 else ''}, commit <code>{escape(first['commit'])}</code> "
            f"({escape(first['date'])}) to <code>{escape(last['commit'])}</code> ({escape(last['date'])}); all pages "
            f"together took {total[0]:.0f} s in the first and {total[-1]:.0f} s in the last.</p>"
            + self.table("Seconds of all pages over the recordings", ["page", "seconds", "least", "last"], rows)
        )

    def cells(self, page: str, values: list[float | None]) -> list[str]:
        known = [value for value in values if value is not None]
        return [self.page(page), sparkline(values), f"{min(known):.1f}", f"{known[-1]:.1f}"]


def sparkline(values: list[float | None], width: int = 120, height: int = 22) -> str:
    """A curve without axes from zero up; a point where there is one value, a gap where there is none.

    Example:
        >>> sparkline([1.0, 2.0]).count("polyline"), sparkline([1.0, None, 2.0]).count("circle")
        (1, 2)
    """
    top, step = max(v for v in values if v is not None) or 1.0, (width - 6) / max(len(values) - 1, 1)
    parts, run = [], []
    for i, value in enumerate([*values, None]):
        if value is not None:
            run.append(f"{3 + i * step:.1f},{height - 3 - (height - 6) * value / top:.1f}")
        elif run:
            x, y = run[-1].split(",")
            line = f'<polyline points="{" ".join(run)}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
            parts.append(line if len(run) > 1 else f'<circle cx="{x}" cy="{y}" r="2" fill="currentColor"/>')
            run = []
    known = [f"{value:.1f}" for value in values if value is not None]
    label = f"{known[0]} s first, {known[-1]} s last, {len(known)} recorded"
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{''.join(parts)}</svg>"
    )


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

"""Evidence for a claim, and the verdict that follows from it.

A page never states a verdict. It hands over numbers: the residual of the statement, the bound that the residual may
reach and the reason of that bound, and the same residual with the hypothesis broken on purpose (the control).
:func:`verdict` is a function of these alone, and the book's builder calls it again on the stored numbers.

A value is always a *residual*: small means true. The control has to miss the bound by ``margin``, a hundred unless
the page gives a reason for less; a check whose control passes is a broken check, and raises :class:`ControlError`.
"""

import html
import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["holds", "holds-with-correction", "fails", "qualitative", "open", "not-checkable"]
VERDICTS: tuple[Verdict, ...] = Verdict.__args__


class ControlError(AssertionError):
    """The control did what it must not: the check cannot tell true from false."""


@dataclass(frozen=True)
class Evidence:
    """What a page hands to the ledger about one claim. Numbers are residuals, see the module's text."""

    claim: str
    kind: Literal["check", "correct", "refute", "observe", "open", "not-checkable"]
    value: float | None = None
    bound: float | None = None
    control: float | None = None
    printed: float | None = None
    margin: float = 100.0
    reason: str = ""
    note: str = ""
    correction: str = ""
    shown: str | None = None

    def __post_init__(self):
        if self.kind in ("open", "not-checkable"):
            if not self.reason:
                raise ValueError(f"{self.claim}: say why it is {self.kind}, reason is empty")
            return
        for name in ("value", "bound") + (("printed",) if self.kind == "correct" else ("control",)):
            number = getattr(self, name)
            if number is None or not math.isfinite(number):
                raise ValueError(f"{self.claim}: {name} must be a finite number, got {number}")
        if not self.bound > 0:
            raise ValueError(f"{self.claim}: bound must be positive, got {self.bound}")
        if not self.reason:
            raise ValueError(f"{self.claim}: give the reason of the bound {self.bound:g}")
        if self.kind in ("correct", "refute") and not self.correction:
            raise ValueError(f"{self.claim}: state the correction or the counterexample in a sentence")
        broken = self.control is not None and (
            self.control > self.bound if self.kind == "refute" else not self.control > self.margin * self.bound
        )
        if broken:
            limit = f"at most {self.bound:g}" if self.kind == "refute" else f"above {self.margin * self.bound:g}"
            raise ControlError(f"{self.claim}: the control must be {limit}, it is {self.control:g}")

    # What a notebook shows: one line that is the same on every machine, and a card for the site.
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": line(self), "text/html": card(self)}, {"claimbook": {"evidence": [asdict(self)]}}


@dataclass(frozen=True)
class Table:
    """Several pieces of evidence shown as one compact table."""

    rows: tuple[Evidence, ...]

    def _repr_mimebundle_(self, include=None, exclude=None):
        body = "".join(row(evidence) for evidence in self.rows)
        head = "<tr><th>Claim</th><th>Verdict</th><th>Measured</th><th>Bound</th><th>Control</th></tr>"
        table = f'<div class="evidence-table"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
        plain = "\n".join(line(evidence) for evidence in self.rows)
        return {"text/plain": plain, "text/html": table}, {"claimbook": {"evidence": [asdict(e) for e in self.rows]}}


def verdict(evidence: Evidence) -> Verdict:
    """The verdict that follows from the numbers.

    ``holds``: the statement as printed stays within its bound. ``holds-with-correction``: as printed it misses, as
    corrected it stays within. ``fails``: it misses, or a counterexample violates it. ``qualitative``: a tendency was
    seen (or not: then ``fails``). ``open`` and ``not-checkable`` carry a reason and no number.

    Example:
        >>> verdict(check("A-1", 1e-16, 1e-12, reason="rounding", control=0.3))
        'holds'
        >>> verdict(check("A-1", 1e-3, 1e-12, reason="rounding", control=0.3))
        'fails'
    """
    small = evidence.value is not None and evidence.value <= (evidence.bound or 0)
    match evidence.kind:
        case "check":
            return "holds" if small else "fails"
        case "correct":
            if evidence.printed <= evidence.bound:
                return "holds"
            missed = evidence.printed > evidence.margin * evidence.bound
            return "holds-with-correction" if small and missed else "open"
        case "refute":
            return "holds" if small else "fails" if evidence.value > evidence.margin * evidence.bound else "open"
        case "observe":
            return "qualitative" if small else "fails"
        case kind:
            return kind


def check(
    claim: str,
    value: float,
    bound: float,
    *,
    reason: str,
    control: float,
    note: str = "",
    margin: float = 100.0,
    shown: str | None = None,
) -> Evidence:
    """The statement as printed: ``value`` is its residual, ``control`` the residual with the hypothesis broken.

    Raises:
        ControlError: ``control`` does not exceed ``margin * bound``.
        ValueError: a number is missing, not a number, or the bound is not positive.
    """
    return Evidence(
        claim, "check", float(value), float(bound), float(control), margin=margin, reason=reason, note=note, shown=shown
    )


def correct(
    claim: str,
    value: float,
    bound: float,
    *,
    printed: float,
    reason: str,
    correction: str,
    control: float | None = None,
    note: str = "",
    margin: float = 100.0,
    shown: str | None = None,
) -> Evidence:
    """A corrected statement: ``value`` is its residual, ``printed`` that of the statement as printed.

    The printed statement is the control unless another one is given.
    """
    control = printed if control is None else control
    return Evidence(
        claim,
        "correct",
        float(value),
        float(bound),
        float(control),
        float(printed),
        margin,
        reason,
        note,
        correction,
        shown,
    )


def refute(
    claim: str,
    value: float,
    bound: float,
    *,
    reason: str,
    control: float,
    counterexample: str,
    note: str = "",
    margin: float = 100.0,
    shown: str | None = None,
) -> Evidence:
    """A counterexample: ``value`` is by how much it violates the statement, ``control`` the same measure where the
    missing hypothesis is added, which must stay within ``bound``."""
    return Evidence(
        claim,
        "refute",
        float(value),
        float(bound),
        float(control),
        margin=margin,
        reason=reason,
        note=note,
        correction=counterexample,
        shown=shown,
    )


def observe(
    claim: str,
    value: float,
    bound: float,
    *,
    reason: str,
    control: float,
    note: str = "",
    margin: float = 1.0,
    shown: str | None = None,
) -> Evidence:
    """A tendency without a sharp number: seen if ``value <= bound``; the control must not show it."""
    return Evidence(
        claim,
        "observe",
        float(value),
        float(bound),
        float(control),
        margin=margin,
        reason=reason,
        note=note,
        shown=shown,
    )


def leave_open(claim: str, reason: str) -> Evidence:
    """The claim is not decided; say what is missing."""
    return Evidence(claim, "open", reason=reason)


def not_checkable(claim: str, reason: str) -> Evidence:
    """The claim is an opinion, a citation or outside of mathematics and experiment; say which."""
    return Evidence(claim, "not-checkable", reason=reason)


def table(rows: list[Evidence]) -> Table:
    """Show small checks together, one line each."""
    return Table(tuple(rows))


def entry(evidence: Evidence, page: str) -> dict[str, Any]:
    """The row of the verdict file: verdict, value, bound, control, page, note, correction."""
    note = evidence.note or (evidence.reason if evidence.value is None else "")
    return {
        "verdict": verdict(evidence),
        "value": evidence.value,
        "bound": evidence.bound,
        "control": evidence.control,
        "page": page,
        "note": note,
        "correction": evidence.correction,
    }


def line(evidence: Evidence) -> str:
    """One line that does not depend on rounding: claim, verdict, bound and, if the page gave one, the rounded value."""
    if evidence.value is None:
        return f"{evidence.claim}: {verdict(evidence)} ({evidence.reason})"
    side = "<=" if evidence.value <= evidence.bound else ">"
    shown = f", {evidence.shown}" if evidence.shown else ""
    return f"{evidence.claim}: {verdict(evidence)} (residual {side} {evidence.bound:.2g}{shown})"


def _number(value: float | None) -> str:
    """A few digits; exact zero as 0, no number as a dash."""
    if value is None:
        return "–"
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-2 or abs(value) >= 1e4 else f"{value:.3g}"


def _text(text: str) -> str:
    """Text for HTML; ``$...$`` becomes mathematics, in the form that Sphinx and Jupyter both typeset."""
    return re.sub(r"\$([^$]+)\$", r'<span class="math notranslate nohighlight">\\(\1\\)</span>', html.escape(text))


def _mark(evidence: Evidence) -> str:
    kind, claim = verdict(evidence), html.escape(evidence.claim)
    return f'<a class="verdict-mark verdict-{kind}" href="../claims.html#claim-{claim}">{kind.replace("-", " ")}</a>'


def card(evidence: Evidence) -> str:
    """The evidence as a small block of HTML, with the anchor ``evidence-<claim>``."""
    claim, kind = html.escape(evidence.claim), verdict(evidence)
    lines = [f'<span class="verdict-claim">{claim}</span> {_mark(evidence)}']
    if evidence.correction:
        label = "Counterexample" if kind == "fails" else "Correction"
        lines.append(f'<span class="verdict-text">{label}: {_text(evidence.correction)}</span>')
    if evidence.value is None:
        lines.append(f'<span class="verdict-text">{_text(evidence.reason)}</span>')
    else:
        printed = "" if evidence.printed is None else f" · as printed <b>{_number(evidence.printed)}</b>"
        lines.append(
            f'<span class="verdict-numbers">measured <b>{_number(evidence.value)}</b>{printed}'
            f" · bound <b>{_number(evidence.bound)}</b> ({_text(evidence.reason)})"
            f" · control <b>{_number(evidence.control)}</b></span>"
        )
    if evidence.note:
        lines.append(f'<span class="verdict-text">{_text(evidence.note)}</span>')
    return f'<div class="verdict verdict-{kind}" id="evidence-{claim}">' + "".join(lines) + "</div>"


def row(evidence: Evidence) -> str:
    """The evidence as a row of a table."""
    claim = html.escape(evidence.claim)
    texts = [t for t in (evidence.shown, evidence.correction, evidence.note, evidence.reason) if t]
    details = f'<div class="verdict-text">{_text(" · ".join(texts))}</div>'
    cells = "".join(f"<td>{_number(v)}</td>" for v in (evidence.value, evidence.bound, evidence.control))
    first = f'<td><span class="verdict-claim">{claim}</span>{details}</td><td>{_mark(evidence)}</td>'
    return f'<tr id="evidence-{claim}">{first}{cells}</tr>'

"""Kinds of evidence. Each holds its two sides as callables and computes the residual itself; small means true.

A *side* takes no argument and returns a number, a tensor, or a list of them, one an item (a network, a pair of
exponents, a cell), so that sides may be ragged. Nothing of a side is computed before it is asked for.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from scipy import stats
from torch import Tensor

Side = Callable[[], Any]
State = Literal["stands", "misses", "undecided"]
MARGIN = 100.0  # a statement that misses its bound by less is neither true nor false
TIGHT = 2.0  # an inequality whose sides never come closer than this factor says so


class Unfinished(Exception):
    """A run that a side needs has not come to its end: it decides nothing. The message says which, and why."""


def items(side: Side) -> list[Tensor]:
    """The values of a side in float64 on the processor, one tensor an item."""
    values = side()
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    return [_tensor(value) for value in values]


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", torch.float64)
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError):
        return torch.tensor(float(value), dtype=torch.float64)  # exact numbers of SymPy, FLINT or Fraction


def largest(values: Sequence[float]) -> float:
    """The largest residual; one that is not a number counts as infinite."""
    return max((math.inf if math.isnan(value) else value for value in values), default=math.inf)


@dataclass(frozen=True)
class Kind:
    """What all kinds share: a bound with its reason, and a state that follows from the residual."""

    bound: float
    reason: str
    margin: float = MARGIN

    name = "kind"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ValueError(f"bound must be positive and finite, got {self.bound}")
        if not self.reason:
            raise ValueError(f"give the reason of the bound {self.bound:g}")

    def residual(self) -> float:
        """What is compared with the bound."""
        raise TypeError(f"{type(self).__name__} computes no residual")

    def state(self) -> State:
        """Whether the statement stands, misses by :data:`MARGIN` times its bound, or neither."""
        value = self.residual()
        return "stands" if value <= self.bound else "misses" if value > self.margin * self.bound else "undecided"

    def resolution(self) -> float | None:
        """The share by which the predicted side may be wrong before the state turns; None where that has no meaning."""
        return None

    def parts(self) -> dict[str, "Kind"]:
        return {"": self}

    def sides(self) -> dict[str, Side]:
        """The callables by name, for tracing."""
        return {}


@dataclass(frozen=True)
class Equal(Kind):
    """Measured and predicted agree, see :func:`equal`."""

    measured: Side = lambda: 0.0
    predicted: Side = lambda: 0.0
    each: bool = False
    scale: Side | None = None

    name = "equal"

    @functools.cached_property
    def values(self) -> tuple[list[Tensor], list[Tensor], list[Tensor] | None]:
        measured, predicted = items(self.measured), items(self.predicted)
        return _paired(measured, predicted, "measured", "predicted"), predicted, self.scale and items(self.scale)

    def gaps(self, bend: float = 0.0) -> list[float]:
        """Residual of each item, with the predicted side wrong by the share ``bend`` of its own size or scale."""
        measured, predicted, scales = self.values
        found = []
        for k, (m, p) in enumerate(zip(measured, predicted, strict=True)):
            if scales is not None:
                size = scales[k].abs()
                gap = (m - p - bend * size).abs()
            else:
                size = torch.maximum(p.abs(), m.abs()) if self.each else p.abs().max()
                gap = (m - (1 + bend) * p).abs()
            found.append((gap / torch.where(size > 0, size, 1.0)).max().item())
        return found

    def residual(self) -> float:
        return largest(self.gaps())

    def counted(self) -> bool:
        """Whether both sides are whole numbers (counts, signs) without a scale: one per cent of them means nothing."""
        measured, predicted, scale = self.values
        return (
            scale is None
            and self.bound < 1
            and all(bool((value == value.round()).all()) for value in (*measured, *predicted))
        )

    def resolution(self) -> float | None:
        if self.counted():
            return None
        stands = self.residual() <= self.bound
        return _turns(lambda eps: (max(largest(self.gaps(eps)), largest(self.gaps(-eps))) <= self.bound) != stands)

    def sides(self) -> dict[str, Side]:
        return {"measured": self.measured, "predicted": self.predicted}


@dataclass(frozen=True)
class AtMost(Kind):
    """The left side is nowhere above the right one, see :func:`at_most`."""

    left: Side = lambda: 0.0
    right: Side = lambda: 0.0
    scale: Side | None = None

    name = "at most"

    @functools.cached_property
    def values(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        left, right = items(self.left), items(self.right)
        scales = [r.abs() for r in right] if self.scale is None else items(self.scale)
        return _paired(left, right, "left", "right"), right, scales

    def gaps(self) -> list[float]:
        """Largest excess of the left side in each item, relative to the scale."""
        return [((l - r) / torch.where(s > 0, s, 1.0)).max().item() for l, r, s in zip(*self.values, strict=True)]

    def residual(self) -> float:
        return largest(self.gaps())

    def tightness(self) -> tuple[float, float, float] | None:
        """Least, median and largest over items of how far the left side comes up to the right one, at its closest.

        One is tight; None where the right side is never above rounding.
        """
        ratios = []
        for left, right, scale in zip(*self.values, strict=True):
            seen = (right > 1e-9 * scale.abs()).expand_as(left) & (right > 0).expand_as(left)
            if seen.any():
                ratios.append((left[seen] / right.expand_as(left)[seen]).max().item())
        ratios.sort()
        return (ratios[0], ratios[len(ratios) // 2], ratios[-1]) if ratios else None

    def sides(self) -> dict[str, Side]:
        return {"left": self.left, "right": self.right}


@dataclass(frozen=True)
class Tendency(Kind):
    """An effect over cells and seeds, see :func:`tendency`."""

    effect: Side = lambda: [torch.zeros(2)]
    least: float = 0.0
    confidence: float = 0.99
    share: float = 0.9

    name = "tendency"

    @functools.cached_property
    def cells(self) -> list[tuple[float, float, float]]:
        """Mean effect of each cell with the ends of its one-sided intervals at the confidence asked for."""
        return [_interval(cell, self.confidence) for cell in items(self.effect)]

    @property
    def shown(self) -> float:
        """The share of cells in which the effect is larger than ``least`` at the confidence asked for."""
        return sum(low > self.least for _, low, _ in self.cells) / len(self.cells)

    @property
    def denied(self) -> float:
        """The share of cells in which it is smaller than ``least`` at that confidence."""
        return sum(high < self.least for _, _, high in self.cells) / len(self.cells)

    def residual(self) -> float:
        """The share of cells that do not show the effect."""
        return 1 - self.shown

    def state(self) -> State:
        """Undecided where more seeds could still bring it to the share asked for."""
        if self.residual() <= self.bound:
            return "stands"
        return "misses" if self.denied > self.bound else "undecided"

    def sides(self) -> dict[str, Side]:
        return {"effect": self.effect}


@dataclass(frozen=True)
class Limit(Kind):
    """A rate or a limit, read off over a stated range and once more over a longer one, see :func:`limit`."""

    measured: Callable[[float], Any] = lambda reach: 0.0
    predicted: Side = lambda: 0.0
    scale: Side | None = None
    longer: float = 2.0

    name = "limit"

    @functools.cached_property
    def ranges(self) -> tuple[Equal, Equal]:
        """The same equality over the stated range and over the longer one."""
        make = lambda reach: Equal(
            self.bound, self.reason, self.margin, lambda: self.measured(reach), self.predicted, False, self.scale
        )
        return make(1.0), make(self.longer)

    def residual(self) -> float:
        return max(one.residual() for one in self.ranges)

    def drift(self) -> tuple[float, float]:
        """The residual over the stated range, and over the longer one."""
        first, second = self.ranges
        return first.residual(), second.residual()

    def resolution(self) -> float | None:
        return max(one.resolution() or math.inf for one in self.ranges)

    def sides(self) -> dict[str, Side]:
        return {"measured": lambda: self.measured(1.0), "predicted": self.predicted}


@dataclass(frozen=True)
class Counterexample(Kind):
    """A statement that a witness violates although the premises hold, see :func:`counterexample`."""

    statement: Kind = field(kw_only=True)
    premises: Mapping[str, Kind] | None = None
    exact: Side | None = None

    name = "counterexample"

    def residual(self) -> float:
        """By how much the mildest of the witnesses violates the statement."""
        gaps = self.statement.gaps() if isinstance(self.statement, (Equal, AtMost)) else [self.statement.residual()]
        return min((math.nan if math.isnan(gap) else gap for gap in gaps), default=math.nan)

    def exact_residual(self) -> float | None:
        """The violation as computed by independent means; None where that was not done."""
        return None if self.exact is None else min(value.min().item() for value in items(self.exact))

    def parts(self) -> dict[str, Kind]:
        return {"violated": self, **(self.premises or {})}

    def state(self) -> State:
        """``stands`` here means that the statement does: that nothing violates it."""
        value = self.residual()
        if value <= self.bound:
            return "stands"
        if not value > self.margin * self.bound:  # also where it is not a number
            return "undecided"
        exact = self.exact_residual()
        agrees = exact is None or math.isclose(exact, value, rel_tol=1e-6)
        kept = all(premise.state() == "stands" for premise in (self.premises or {}).values())
        return "misses" if agrees and kept else "undecided"

    def resolution(self) -> float | None:
        return self.residual()

    def sides(self) -> dict[str, Side]:
        return self.statement.sides() | ({"exact": self.exact} if self.exact else {})


@dataclass(frozen=True)
class Together:
    """Several statements that one claim makes, see :func:`together`."""

    members: Mapping[str, Kind]

    name = "together"

    def parts(self) -> dict[str, Kind]:
        return dict(self.members)


Evidence = Kind | Together


def equal(
    measured: Side,
    predicted: Side,
    bound: float,
    reason: str,
    *,
    each: bool = False,
    scale: Side | None = None,
    margin: float = MARGIN,
) -> Equal:
    """Measured and predicted agree.

    The residual is the largest difference over the largest prediction of the item; with ``each`` entry by entry; with
    ``scale`` relative to another side, where the prediction is or may be zero.

    Args:
        measured, predicted: The two sides; neither may use the other's way of computing.
        bound: What the residual may reach.
        reason: A sentence about error: rounding, a tolerance of an integrator, the order of a step, a sample's size.
        margin: By how many bounds a false statement misses; a page that takes less than 100 says why in ``reason``.

    Raises:
        ValueError: the bound is not positive, the reason is empty, or the sides have different shapes.

    Example:
        >>> equal(lambda: 2.0**0.5, lambda: 1.41421356, 1e-8, "nine digits").state()
        'stands'
    """
    return Equal(bound, reason, margin, measured, predicted, each, scale)


def at_most(
    left: Side, right: Side, bound: float, reason: str, *, scale: Side | None = None, margin: float = MARGIN
) -> AtMost:
    """The left side is nowhere above the right one, by more than the share ``bound`` of it, or of ``scale``."""
    return AtMost(bound, reason, margin, left, right, scale)


def tendency(
    effect: Side,
    *,
    reason: str,
    least: float = 0.0,
    confidence: float = 0.99,
    share: float = 0.9,
) -> Tendency:
    """An effect without a sharp number that shows in most cells, whatever is drawn.

    Args:
        effect: One item a cell (a start, a width, an optimiser, a stopping rule), one entry a seed; positive where the
            paper says so. Give its logarithm where ratios are meant.
        reason: Over which cells and seeds, fixed before looking; and why another share, if it is not nine in ten.
        least: The size from which an effect counts.
        confidence: Of the one-sided interval of the mean over seeds (Student's t) in every cell.
        share: Of the cells that have to show it.

    Raises:
        ValueError: a cell has fewer than three seeds.
    """
    if not (0.5 < confidence < 1 and 0 < share <= 1):
        raise ValueError(f"confidence {confidence} must lie between 0.5 and 1, share {share} between 0 and 1")
    return Tendency(1 - share + 1e-9, reason, 1.0, effect, least, confidence, share)


def limit(
    measured: Callable[[float], Any],
    predicted: Side,
    bound: float,
    reason: str,
    *,
    scale: Side | None = None,
    longer: float = 2.0,
    margin: float = MARGIN,
) -> Limit:
    """A rate or a limit: ``measured(1.0)`` reads it off over the range that the claim states, ``measured(longer)`` over
    one that is longer by that factor; both have to agree with the prediction."""
    return Limit(bound, reason, margin, measured, predicted, scale, longer)


def counterexample(statement: Kind, *, exact: Side | None = None, **premises: Kind) -> Counterexample:
    """A statement that every witness violates by 100 bounds, although each premise stands.

    Args:
        statement: What the paper promises, as :func:`equal` or :func:`at_most`; one item a witness.
        exact: The size of the mildest violation by independent means: exact or interval arithmetic where the witness
            is algebraic, a closed form, another library.
        premises: The hypotheses of the claim, each measured at the witness.
    """
    return Counterexample(statement.bound, statement.reason, statement.margin, premises, exact, statement=statement)


def together(**members: Kind) -> Together:
    """Several statements under one id: the claim holds if all of them do."""
    if len(members) < 2:
        raise ValueError("together takes two or more parts; a single one stands by itself")
    return Together(members)


def _paired(first: list[Tensor], second: list[Tensor], a: str, b: str) -> list[Tensor]:
    """The items of one side in the shapes of the other; a single number stands for all entries."""
    if len(first) != len(second):
        raise ValueError(f"{a} has {len(first)} items, {b} {len(second)}: compare like with like")
    if not first:
        raise ValueError(f"{a} has no items: nothing is compared")
    for k, (x, y) in enumerate(zip(first, second, strict=True)):
        if not x.numel() or not y.numel():
            raise ValueError(f"item {k} of {a if not x.numel() else b} is empty: nothing is compared")
        if x.shape != y.shape and x.numel() != 1 and y.numel() != 1:
            raise ValueError(f"item {k}: {a} has shape {tuple(x.shape)}, {b} {tuple(y.shape)}: compare like with like")
    return [x.expand_as(y) if x.numel() == 1 else x for x, y in zip(first, second, strict=True)]


def _turns(turned: Callable[[float], bool]) -> float:
    """The smallest power of two times 1e-16 at which something turns; infinite if it does not below ten."""
    eps = 1e-16
    while eps < 10 and not turned(eps):
        eps *= 2
    return eps if eps < 10 else math.inf


def _interval(effects: Tensor, confidence: float) -> tuple[float, float, float]:
    count = effects.numel()
    if count < 3:
        raise ValueError(f"a cell has {count} seeds: an effect with its uncertainty needs three or more, better ten")
    if not effects.isfinite().all():
        return math.nan, -math.inf, math.inf
    mean, reach = effects.mean().item(), stats.t.ppf(confidence, count - 1) * effects.std().item() / count**0.5
    return mean, mean - reach, mean + reach

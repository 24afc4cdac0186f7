"""What was rescaled, what was not, and why.

Source: ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from normdyn.networks.traced import Trace
from normdyn.shapes import Float

__all__ = ["Report", "Units", "factors_of", "listed", "units_of"]


@dataclass(frozen=True)
class Units:
    """Units of one layer with one fate.

    Attributes:
        layer: Its dotted name in the model.
        parameter: The weights that enter these units.
        indices: Which outputs of the layer.
        rescaled: Whether they were free; a free unit may still have found its factor to be 1.
        reason: Why not.
        joined: Other layers with units of the same classes, which have the same factors.
    """

    layer: str
    parameter: str
    indices: tuple[int, ...]
    rescaled: bool
    reason: str = ""
    joined: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = f"{len(self.indices)} unit{'s' * (len(self.indices) != 1)}"
        if not self.rescaled:
            return f"{self.layer}: {count} kept: {self.reason}"
        return f"{self.layer}: {count} rescaled" + (f", together with {', '.join(self.joined)}" if self.joined else "")


@dataclass(frozen=True)
class Report:
    """Every class of units of a model, and what was checked.

    Attributes:
        units: In the order of running.
        notes: What could not be seen or checked, and why.
        differences: Largest difference of any returned tensor on the sample, relative to that tensor's largest entry;
            by mode, ``eval`` and ``train``. Empty if nothing was verified.
        folded: Layers, and the batch normalisations that were folded into them.
        gap: A proven bound on how far the norm is above its minimum, relative to it; None if none was asked for.
    """

    units: tuple[Units, ...]
    notes: tuple[str, ...] = ()
    differences: dict[str, float] = field(default_factory=dict)
    folded: tuple[tuple[str, str], ...] = ()
    gap: float | None = None

    @property
    def rescaled(self) -> int:
        """How many units were free."""
        return sum(len(units.indices) for units in self.units if units.rescaled)

    @property
    def kept(self) -> int:
        """How many were not."""
        return sum(len(units.indices) for units in self.units if not units.rescaled)

    def reasons(self) -> dict[str, int]:
        """Each reason with the number of units that stay for it."""
        found: dict[str, int] = {}
        for units in self.units:
            if not units.rescaled:
                found[units.reason] = found.get(units.reason, 0) + len(units.indices)
        return found

    def __str__(self) -> str:
        lines = [f"{self.rescaled} units rescaled, {self.kept} kept", *map(str, self.units), *self.notes]
        if self.gap is not None:
            lines.append(f"the norm is proven to be within {self.gap:.1e} of the least, relative to it")
        lines += [f"{norm} is folded into {layer}" for layer, norm in self.folded]
        lines += [f"{mode} mode verified: outputs differ by {value:.1e}" for mode, value in self.differences.items()]
        return "\n".join(lines)


def units_of(trace: Trace, kept: dict[int, str]) -> tuple[Units, ...]:
    """The units of every layer with weights.

    Args:
        kept: Further classes that stay, with the reason.
    """
    layers = [use for use in trace.uses if use.of is None]
    roots = [trace.classes.roots(use.target).flatten() for use in layers]
    # Which layers share a class: an id for each set of them, of which there are few however many units there are.
    shared = torch.zeros(len(trace.classes), dtype=torch.long)
    sets: list[tuple[str, ...]] = [()]
    for use, each in zip(layers, roots, strict=True):
        classes = each[each > 0].unique()
        for old in shared[classes].unique().tolist():
            chosen = classes[shared[classes] == old]
            shared[chosen] = len(sets)
            sets.append((*sets[old], use.layer))
    found = []
    for use, each in zip(layers, roots, strict=True):
        free = each > 0
        if kept:
            free &= ~torch.isin(each, torch.tensor(list(kept)))
        groups: dict[tuple, list[int]] = {}
        for number in shared[each[free]].unique().tolist():
            others = tuple(name for name in sets[number] if name != use.layer)
            groups[True, "", others] = (free & (shared[each] == number)).nonzero().flatten().tolist()
        stay = (~free).nonzero().flatten()
        why = trace.classes.reasons(use.target.flatten()[stay])
        for index, root, cause in zip(stay.tolist(), each[stay].tolist(), why, strict=True):
            groups.setdefault((False, (kept.get(root) if root else cause) or "", ()), []).append(index)
        ordered = sorted(groups.items(), key=lambda group: group[1][0])
        found += [Units(use.layer, use.name, tuple(indices), *key) for key, indices in ordered]
    return tuple(found)


def factors_of(trace: Trace, factors: Float[Tensor, " n"]) -> dict[str, Tensor]:
    """``a`` for the units of each layer with weights, by the layer's name."""
    found: dict[str, list[Tensor]] = {}
    for use in trace.uses:
        if use.of is None:
            found.setdefault(use.layer, []).append(factors[use.target].exp().flatten())
    return {name: torch.cat(parts) for name, parts in found.items()}


def listed(names: Sequence[str], limit: int = 3) -> str:
    """The first few names.

    Source: elementary.

    Example:
        >>> listed(["a", "b", "c", "d"])
        'a, b, c and 1 more'
    """
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")

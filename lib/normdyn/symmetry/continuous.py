r"""Continuous symmetries of a network, counted from its Jacobian and listed by hand.

Moving the parameters along a symmetry leaves the function alone, so at a generic point the symmetries' tangents are
the null space of the Jacobian from parameters to outputs. :func:`null_space` finds that space by the gap in the
singular values, :func:`predicted_symmetries` counts what should be in it, and :func:`generators` lists its vectors.
A network is a stack of blocks *affine map, normalisation, gain and shift, activation* below a linear layer:

==================================  =================================  =============================================
normalisation                       symmetries of one block            condition
==================================  =================================  =============================================
none, stored statistics             2 a unit                           gains and shifts are trained
batch                               1 a unit, and 1 a unit             and epsilon = 0, or one batch and gains (below)
layer, group (dense, or by place)   ``fan_in + 1`` a group, and 1      and epsilon = 0
layer, group, instance over space   1 a group, and 1                   and epsilon = 0
weight                              1 a unit, and 2 a unit             and gains and shifts are trained
any, below a ReLU                   1 a unit                           gains are trained, or no activity is normalised
==================================  =================================  =============================================

With epsilon > 0 and outputs seen on *one* batch, a unit's scale under batch normalisation is undone by a fixed factor,
which its gain takes, or else, below a ReLU, what reads the unit.

Source: ours; paper C, sections 4 and 6, names the symmetries of batch, layer and weight normalisation and counts fewer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from normdyn.networks.normalizers import batch_norm, group_norm, layer_norm, normalize, weight_norm
from normdyn.shapes import Float

__all__ = [
    "ACTIVATIONS",
    "NORMALIZERS",
    "Architecture",
    "NullSpace",
    "Params",
    "activities",
    "draw",
    "generators",
    "jacobian",
    "null_space",
    "outputs",
    "pattern_margin",
    "predicted_symmetries",
    "reduced",
    "unexplained",
]

Params = dict[str, Tensor]
NORMALIZERS = ("none", "batch", "stored", "layer", "group", "place", "instance", "weight")
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "softplus": torch.nn.functional.softplus}


class NullSpace(NamedTuple):
    """Null vectors of a matrix and their certificate.

    Attributes:
        basis: Orthonormal null vectors, one a row.
        values: All singular values, largest first; zeros stand for those that a flat matrix lacks.
        gap: Smallest kept singular value over the largest dropped one, which counts as rounding at least.
    """

    basis: Float[Tensor, "n D"]
    values: Float[Tensor, " D"]
    gap: float


@dataclass(frozen=True)
class Architecture:
    """Blocks of an affine map, a normalisation, a gain and a shift, and an activation, below a linear layer.

    Attributes:
        widths: Inputs, hidden units (channels), outputs.
        normalizer: ``none``, ``batch`` (the batch's statistics), ``stored`` (constants, as at inference), ``layer`` and
            ``group`` (a sample's; over space too), ``place`` (a sample's, channels at one place), ``instance``,
            ``weight``.
        activation: ``relu``, which lets a unit's scale pass, or ``tanh``, ``softplus``, which do not.
        affine: Gain and shift of each hidden unit are parameters; else one and zero.
        epsilon: Added to variances.
        groups: For ``group``.
        kernel: Length of circular one-dimensional convolutions, whose last signal is averaged over space; 0 is dense.

    Raises:
        ValueError: An unknown name, or groups of fewer than three values, whose normalised values are constant.
    """

    widths: Sequence[int] = (3, 6, 2)
    normalizer: str = "batch"
    activation: str = "relu"
    affine: bool = True
    epsilon: float = 0.0
    groups: int = 2
    kernel: int = 0

    def __post_init__(self):
        if self.normalizer not in NORMALIZERS or self.activation not in ACTIVATIONS:
            names = f"{', '.join(NORMALIZERS)} and {', '.join(ACTIVATIONS)}"
            raise ValueError(f"normalizer={self.normalizer!r}, activation={self.activation!r}: choose among {names}")
        if self.normalizer in ("place", "instance") and not self.kernel:
            raise ValueError(f"normalizer={self.normalizer!r} needs space: give a kernel")
        dense = not self.kernel or self.normalizer == "place"
        for width in self.widths[1:-1]:
            if width % self.count(width) or (self.by_sample and dense and width // self.count(width) < 3):
                raise ValueError(f"{width} units make no {self.count(width)} equal groups of three or more")

    @property
    def by_sample(self) -> bool:
        """Statistics are those of one sample."""
        return self.normalizer in ("layer", "group", "place", "instance")

    def count(self, width: int) -> int:
        """Groups of a sample's values that share a mean."""
        return {"group": self.groups, "instance": width}.get(self.normalizer, 1)


def null_space(matrix: Float[Tensor, "R D"], *, gap: float = 1e4) -> NullSpace:
    """Null space of a matrix, cut at the widest gap between singular values; float64 rounding ends the list.

    Args:
        gap: Required ratio across the cut.

    Raises:
        ValueError: Not float64, or no two neighbours are that far apart, so that the rank is not decided.

    Example:
        >>> null_space(torch.diag(torch.tensor([3.0, 1e-17, 2.0], dtype=torch.float64))).basis.abs().tolist()
        [[0.0, 1.0, 0.0]]
    """
    if matrix.dtype != torch.float64:
        raise ValueError(f"matrix must be float64 to tell small from zero, got {matrix.dtype}: call .double()")
    _, found, right = torch.linalg.svd(matrix, full_matrices=len(matrix) < matrix.shape[1])
    values = torch.cat([found, found.new_zeros(matrix.shape[1] - len(found))])
    floor = torch.finfo(values.dtype).eps * values[0].clamp_min(torch.finfo(values.dtype).tiny)
    ratios = values / torch.cat([values[1:], values.new_zeros(1)]).clamp_min(floor)
    if not values.any():
        return NullSpace(right, values, math.inf)
    rank = int(ratios.argmax()) + 1
    if not ratios[rank - 1] >= gap:
        raise ValueError(
            f"no gap of {gap:g} between singular values, at most {ratios[rank - 1]:.3g}: give more inputs, or "
            "leave the point, where a symmetry is nearly there"
        )
    return NullSpace(right[rank:], values, ratios[rank - 1].item())


def jacobian(function: Callable[[Params], Tensor], params: Params) -> Float[Tensor, "R D"]:
    """Derivatives of all outputs, rows, in all parameters, flattened in the order of ``params``."""
    blocks = torch.func.jacfwd(lambda p: function(p).reshape(-1))(params)
    return torch.cat([blocks[name].flatten(1) for name in params], 1).detach()


def draw(
    architecture: Architecture, generator: Generator, *, batches: int = 3, samples: int = 40, places: int = 6
) -> tuple[Params, list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Generic parameters, batches of inputs of different spread, and stored mean and variance for each block.

    Where no batch centres them, activities are shifted so that every unit changes its sign over the inputs. A ReLU unit
    that never does has symmetries of its own, and so have two of a block with the same pattern, or two in a row that
    are never active together. Points close to that, see :func:`pattern_margin`, are drawn again.

    Raises:
        ValueError: A hundred draws all had such units.
    """
    for _ in range(100):
        drawn = _draw(architecture, generator, batches, samples, places)
        if architecture.activation != "relu" or pattern_margin(architecture, *drawn) >= 0.03:
            return drawn
    raise ValueError(f"some ReLU units share their patterns on {samples} samples a batch: give more")


def pattern_margin(
    architecture: Architecture, params: Params, inputs: Sequence[Tensor], statistics: Sequence[tuple[Tensor, Tensor]]
) -> float:
    """How far ReLU units are from sharing patterns, as a share of the inputs.

    The least of: the shares on which two units of a block differ in being active, or a unit and no or every other; and
    the shares on which two units of blocks that follow each other are active together.
    """
    seen = [activities(architecture, params, X, statistics) for X in inputs]
    active = [
        torch.cat([block[l][1].transpose(0, 1).flatten(1) for block in seen], 1).sign().clamp_min(0)
        for l in range(len(seen[0]))
    ]
    shares = [torch.cdist(a, a, p=1)[~torch.eye(len(a), dtype=torch.bool)] for a in active]
    shares += [a.sum(1) for a in active] + [(1 - a).sum(1) for a in active]
    shares += [(first @ second.mT).flatten() for first, second in pairwise(active)]
    return torch.cat(shares).min().item() / active[0].shape[1]


def _draw(architecture: Architecture, generator: Generator, batches: int, samples: int, places: int):
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    space, kernel = ((places,), (architecture.kernel,)) if architecture.kernel else ((), ())
    inputs = [(1 + b / 2) * (normal(samples, architecture.widths[0], *space) + 0.3) for b in range(batches)]
    params, statistics = {}, []
    for l, (fan_in, width) in enumerate(pairwise(architecture.widths[:-1])):
        params[f"W{l}"] = normal(width, fan_in, *kernel) / (fan_in * math.prod(kernel)) ** 0.5
        params[f"b{l}"] = normal(width) / 3
        if architecture.normalizer == "weight":
            params[f"g{l}"] = 1 + normal(width).abs()
        if architecture.affine:
            params |= {f"gain{l}": 1 + normal(width).abs() / 2, f"shift{l}": normal(width) / 3}
        statistics.append((normal(width) / 3, 1 + normal(width).square()))
        if architecture.by_sample:
            values = activities(architecture, params, torch.cat(inputs), statistics)[-1][0]
            params[f"b{l}"] = params[f"b{l}"] - values.transpose(0, 1).flatten(1).mean(1)
        elif architecture.normalizer != "batch":
            field = activities(architecture, params, torch.cat(inputs), statistics)[-1][1]
            name, unit = (f"shift{l}", 1) if architecture.affine else (f"b{l}", _deviation(architecture, statistics[l]))
            params[name] = params[name] - unit * field.transpose(0, 1).flatten(1).quantile(0.4, dim=1)
    params |= {"V": normal(architecture.widths[-1], architecture.widths[-2]), "c": normal(architecture.widths[-1])}
    return params, inputs, statistics


def activities(
    architecture: Architecture, params: Params, X: Float[Tensor, "n ..."], statistics: Sequence[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Of each block, the affine map's values and what enters the activation: ``(n, units)`` or ``(n, channels, T)``."""
    seen, H = [], X
    for l in range(len([name for name in params if name.startswith("W")])):
        column = lambda name, l=l: params[f"{name}{l}"].reshape(-1, *[1] * (X.ndim - 2))
        W = weight_norm(params[f"W{l}"], params[f"g{l}"]) if f"g{l}" in params else params[f"W{l}"]
        z = column("b") + (_convolve(H, W) if architecture.kernel else H @ W.mT)
        y = _normalized(architecture, z, statistics[l])
        y = column("gain") * y + column("shift") if architecture.affine else y
        seen.append((z, y))
        H = ACTIVATIONS[architecture.activation](y)
    return seen


def outputs(
    architecture: Architecture, params: Params, inputs: Sequence[Tensor], statistics: Sequence[tuple[Tensor, Tensor]]
) -> Float[Tensor, "n r"]:
    """Outputs of the network on every batch, normalised batch by batch, one below the other."""
    tops = torch.cat([activities(architecture, params, X, statistics)[-1][1] for X in inputs])
    H = ACTIVATIONS[architecture.activation](tops)
    return (H.mean(2) if architecture.kernel else H) @ params["V"].mT + params["c"]


def predicted_symmetries(architecture: Architecture, *, batches: int = 3) -> dict[str, int]:
    """How many symmetries of each kind the network has, by the table above; kinds as in :func:`generators`.

    Raises:
        ValueError: Two batches with ``epsilon > 0`` under batch normalisation: the factors of two blocks can then
            undo each other, and the count is neither that of one batch nor that of many.

    Example:
        >>> predicted_symmetries(Architecture((3, 6, 2), "batch", "relu"))
        {'scale': 6, 'shift': 6, 'ReLU': 6}
        >>> predicted_symmetries(Architecture((3, 6, 2), "layer", "tanh"))
        {'scale': 1, 'shift': 1, 'columns': 3}
    """
    a, exact, counts = architecture, architecture.epsilon == 0, dict[str, int]()
    relu = a.activation == "relu"
    if batches == 2 and a.normalizer == "batch" and not exact:
        raise ValueError("batches must be one, or three and more, got 2: see the docstring")
    for fan_in, width in pairwise(a.widths[:-1]):
        groups = a.count(width)
        single = batches == 1 and (a.affine or relu)
        match a.normalizer:
            case "batch":
                new = {"scale": width * (exact or single), "shift": width, "ReLU": width * (relu and a.affine)}
            case "weight":
                new = {"scale": width, "gain": width * a.affine, "shift": width * a.affine, "ReLU": width * relu}
            case "none" | "stored":
                new = {"gain": width * a.affine, "shift": width * a.affine, "ReLU": width * relu}
            case kind:
                columns = 0 if a.kernel and kind != "place" else groups * fan_in * max(a.kernel, 1)
                new = {"scale": groups * exact, "shift": groups, "columns": columns}
                new["ReLU"] = width * (relu and a.affine)
        counts = {kind: counts.get(kind, 0) + number for kind, number in new.items()}
    return {kind: number for kind, number in counts.items() if number}


def generators(
    architecture: Architecture, params: Params, inputs: Sequence[Tensor], statistics: Sequence[tuple[Tensor, Tensor]]
) -> tuple[list[str], Float[Tensor, "g D"]]:
    """Tangents of the symmetries at a point, one a row, and their names: kind, block and unit or group (and weight).

    Kinds: ``scale`` of what is normalised; ``shift`` of a bias that a mean, or a later shift, takes out; ``columns``,
    one input's weights raised alike in all units that share a mean; ``gain`` against weights; ``ReLU``, a unit's scale
    handed on to its readers.
    """
    names, rows = [], []

    def add(name: str, moved: Params):
        names.append(name)
        rows.append(torch.cat([moved.get(key, torch.zeros_like(p)).reshape(-1) for key, p in params.items()]))

    for l, width in enumerate(architecture.widths[1:-1]):
        z = activities(architecture, params, inputs[0], statistics)[l][0] if len(inputs) == 1 else None
        for unit in range(width):
            for kind, moved in _of_unit(architecture, params, l, unit, statistics[l], z):
                add(f"{kind} {l}.{unit}", moved)
        for group, members in enumerate(torch.arange(width).reshape(architecture.count(width), -1)):
            for place, (kind, moved) in enumerate(_of_group(architecture, params, l, members)):
                add(f"{kind} {l}.{group}" + (f".{place}" if kind == "columns" else ""), moved)
    return names, torch.stack(rows) if rows else torch.zeros(0, sum(p.numel() for p in params.values())).double()


def unexplained(space: NullSpace, rows: Float[Tensor, "g D"]) -> tuple[float, int]:
    """Largest sine of an angle between the generators' span and the null space, and null vectors beyond the span.

    Example:
        >>> plane = null_space(torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64))
        >>> unexplained(plane, torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64))
        (0.0, 1)
    """
    if not len(rows):
        return 0.0, len(space.basis)
    unit = rows / rows.norm(dim=1, keepdim=True)
    _, values, right = torch.linalg.svd(unit, full_matrices=False)
    span = right[values > 1e-10 * values[0]]
    outside = span - span @ space.basis.mT @ space.basis
    return torch.linalg.matrix_norm(outside, 2).item(), len(space.basis) - len(span)


def reduced(basis: Float[Tensor, "n D"], *, tolerance: float = 1e-9) -> Float[Tensor, "n D"]:
    """Row-reduced basis of the same space, rows scaled to largest entry one: shows vectors that share no parameter.

    Rows with disjoint supports come back as they are, up to a factor and their order, with no knowledge of them.

    Example:
        >>> mixed = torch.tensor([[1.0, 2.0, 1.0], [1.0, 2.0, -1.0]], dtype=torch.float64)
        >>> reduced(mixed).tolist()
        [[0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    rows, done = basis.clone(), 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        pivot = done + int(rows[done:, column].abs().argmax())
        if rows[pivot, column].abs() > tolerance:
            rows[[done, pivot]] = rows[[pivot, done]]
            rows[done] = rows[done] / rows[done, column]
            others = torch.arange(len(rows)) != done
            rows[others] -= rows[others, column, None] * rows[done]
            done += 1
    rows = rows / rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return torch.where(rows.abs() > tolerance, rows, 0.0)


def _of_unit(a: Architecture, params: Params, l: int, unit: int, statistics, z: Tensor | None):
    """Kinds and tangents of one unit's symmetries."""
    at = lambda name, value=None: _only(params[name], unit, params[name][unit] if value is None else value)
    gain = {f"gain{l}": at(f"gain{l}")} if a.affine else {}
    mean, deviation = (statistics[0][unit], _deviation(a, statistics)[unit]) if a.normalizer == "stored" else (0.0, 1.0)
    passed = _readers(params, l, unit)
    if a.normalizer == "batch":
        yield "shift", {f"b{l}": at(f"b{l}", 1.0)}
        if a.epsilon == 0:
            yield "scale", {f"W{l}": at(f"W{l}")}
        elif z is not None and (a.affine or a.activation == "relu"):
            variance = z.transpose(0, 1).flatten(1)[unit].var(correction=0)
            taker = gain if a.affine else passed
            share = a.epsilon / (variance + a.epsilon)  # d log of what is left of the scale
            yield "scale", {f"W{l}": at(f"W{l}")} | {key: -share * t for key, t in taker.items()}
    if not a.by_sample and a.normalizer != "batch":
        size = "g" if a.normalizer == "weight" else "W"
        scale = {f"{size}{l}": at(f"{size}{l}"), f"b{l}": at(f"b{l}", params[f"b{l}"][unit] - mean)}
        if a.normalizer == "weight":
            yield "scale", {f"W{l}": at(f"W{l}")}
        if a.affine:
            yield "gain", scale | {key: -t for key, t in gain.items()}
            yield "shift", {f"b{l}": at(f"b{l}", 1.0), f"shift{l}": -gain[f"gain{l}"] / deviation}
        elif a.activation == "relu":
            yield "ReLU", scale | {key: -t for key, t in passed.items()}
    if a.affine and a.activation == "relu":
        yield "ReLU", gain | {f"shift{l}": at(f"shift{l}")} | {key: -t for key, t in passed.items()}


def _of_group(a: Architecture, params: Params, l: int, members: Tensor):
    """Kinds and tangents of the symmetries of units that share the mean of each sample."""
    if not a.by_sample:
        return
    W = params[f"W{l}"]
    if not a.kernel or a.normalizer == "place":
        for j in range(W[0].numel()):
            column = torch.eye(W[0].numel(), dtype=W.dtype)[j].reshape(W.shape[1:])
            yield "columns", {f"W{l}": _only(W, members, column)}
    if a.epsilon == 0:
        yield "scale", {f"{n}{l}": _only(params[f"{n}{l}"], members, params[f"{n}{l}"][members]) for n in "Wb"}
    yield "shift", {f"b{l}": _only(params[f"b{l}"], members, 1.0)}


def _readers(params: Params, l: int, unit: int) -> Params:
    """Tangent that scales all weights which read one unit; a normalised weight's length follows its vector's."""
    name = f"W{l + 1}" if f"W{l + 1}" in params else "V"
    moved = torch.zeros_like(params[name])
    moved[:, unit] = params[name][:, unit]
    if f"g{l + 1}" not in params:
        return {name: moved}
    share = (moved * params[name]).flatten(1).sum(1) / params[name].square().flatten(1).sum(1)
    return {name: moved, f"g{l + 1}": share * params[f"g{l + 1}"]}


def _only(like: Tensor, index, value) -> Tensor:
    """Zeros of a shape, with a value at an index."""
    out = torch.zeros_like(like)
    out[index] = value
    return out


def _deviation(a: Architecture, statistics: tuple[Tensor, Tensor]) -> Tensor:
    """Standard deviations by which stored statistics divide, ones without them."""
    return (statistics[1] + a.epsilon).sqrt() if a.normalizer == "stored" else torch.ones_like(statistics[1])


def _convolve(H: Float[Tensor, "n i T"], W: Float[Tensor, "o i k"]) -> Float[Tensor, "n o T"]:
    """Circular convolution."""
    padded = torch.cat([H, H[:, :, : W.shape[2] - 1]], 2)
    return torch.nn.functional.conv1d(padded, W)


def _normalized(a: Architecture, z: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
    match a.normalizer:
        case "batch":
            return batch_norm(z, epsilon=a.epsilon)
        case "stored":
            return batch_norm(z, epsilon=a.epsilon, statistics=statistics)
        case "layer":
            return layer_norm(z, epsilon=a.epsilon)
        case "group" | "instance":
            return group_norm(z, a.count(z.shape[1]), epsilon=a.epsilon)
        case "place":
            return normalize(z, (1,), epsilon=a.epsilon)
    return z

r"""From a trace to a rescaling problem, and from its solution back to the parameters.

Kernels are reduced once, to the size of the weights between each pair of units; columns of one class become one, and
so do rows that are not rescaled, for ``p = q``. What is left is small, and all passes of the solver run on it.

Source: ours.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normdyn.networks.modules import UnsupportedModel
from normdyn.networks.traced import Trace, Use
from normdyn.rescaling.shared import Weights
from normdyn.shapes import Float, Int

__all__ = ["ENTRIES", "Assembly", "apply", "assemble", "check_range", "kernel_sizes", "multiply", "sizes"]

ENTRIES = 1 << 18  # of a piece that stays in the cache between two operations on it


class Assembly(NamedTuple):
    """A rescaling problem and how it came about.

    Attributes:
        layers: Sizes of weights with their classes, numbered without gaps.
        uses: The use of a parameter behind each layer.
        numbers: Class number of the trace for each class of the problem; 0 first.
    """

    layers: list[Weights]
    uses: list[Use]
    numbers: Int[Tensor, " n"]

    @property
    def chain(self) -> list[Tensor] | None:
        """The weights of a layered network, each layer's rows being the next one's columns; None if it is another."""
        values, above = [], torch.zeros(0).long()
        rows = torch.cat([torch.zeros(0).long(), *(target[target > 0] for _, target, _ in self.layers)])
        if len(rows) != len(rows.unique()):  # classes that several rows share
            return None
        for l, (value, target, source) in enumerate(self.layers):
            value = torch.block_diag(*value) if len(value) > 1 else value[0]
            target, source = target.flatten(), source.flatten()
            if l and not torch.equal(source, above):
                return None
            if not l and source.any():
                return None
            if not ((target > 0).all() if l < len(self.layers) - 1 else not target.any()):
                return None
            values.append(value)
            above = target
        return values


def assemble(
    trace: Trace, parameters: Mapping[str, Tensor], *, p: float, q: float, count_biases: bool = False
) -> Assembly:
    """The rescaling problem of a traced network.

    Args:
        parameters: By name.
        count_biases: Biases are entries of their units' rows.

    Raises:
        UnsupportedModel: A weight that counts is not finite.
    """
    layers, uses = [], []
    for number, use in enumerate(trace.uses):
        if use.of is not None:
            continue
        target, source = trace.classes.roots(use.target), trace.classes.roots(use.source)
        values, source = sizes(use.view(parameters[use.name].detach()), source, p=p)
        if p == q and not target.any() and len(target) == 1:
            values, target = values.norm(p, 1, keepdim=True), target[:, :1]
        if count_biases:
            for bias in trace.uses:
                if bias.of == number:
                    column = bias.view(parameters[bias.name].detach()).abs().to(values.dtype)
                    if target.shape != column.shape[:2]:
                        column = column.norm(p, 1, keepdim=True)
                    values = torch.cat([values, column], 2)
                    source = torch.cat([source, source.new_zeros(len(source), 1)], 1)
        if not values.sum().isfinite() and not values.isfinite().all():  # a sum is read faster
            if not parameters[use.name].isfinite().all():
                raise UnsupportedModel(f"{use.name} holds a value that is not finite")
            raise UnsupportedModel(f"{use.name}: the size of its rows is too large for {values.dtype}")
        layers.append(Weights(values, target, source))
        uses.append(use)
    numbers = torch.cat([torch.zeros(1, dtype=torch.long), *[part.flatten() for l in layers for part in l[1:]]])
    numbers, inverse = numbers.unique(return_inverse=True)
    parts, at = [], 1
    for values, target, source in layers:
        middle, end = at + target.numel(), at + target.numel() + source.numel()
        parts.append(
            Weights(values, inverse[at:middle].reshape(target.shape), inverse[middle:end].reshape(source.shape))
        )
        at = end
    return Assembly(parts, uses, numbers)


def sizes(
    weights: Float[Tensor, "g r c *k"], source: Int[Tensor, "g c"], *, p: float
) -> tuple[Float[Tensor, "g r d"], Int[Tensor, "g d"]]:
    """Sizes of the weights between units, columns of one class being one; and the classes of the columns left.

    Example:
        >>> W = torch.tensor([[[3.0, 4.0, 1.0]]])
        >>> sizes(W, torch.tensor([[5, 5, 6]]), p=2)
        (tensor([[[5., 1.]]]), tensor([[5, 6]]))
    """
    groups, rows, columns = weights.shape[:3]
    if columns > 1 and not source.any():
        return kernel_sizes(weights.reshape(groups, rows, 1, -1), p), source[:, :1]
    weights = weights.flatten(3) if weights.ndim > 3 else weights
    if groups > 1 or columns == 1:
        return kernel_sizes(weights, p), source
    classes, inverse, counts = source[0].unique(return_inverse=True, return_counts=True)
    if len(classes) == columns:
        return kernel_sizes(weights, p), source
    each = columns // len(classes)
    if each * len(classes) == columns and (counts == each).all():
        runs = source.reshape(-1, each)
        if (runs == runs[:, :1]).all():
            return kernel_sizes(weights.reshape(1, rows, len(classes), -1), p), runs[None, :, 0]
    values = kernel_sizes(weights, p)[0]
    if p == math.inf:
        into = inverse.to(values.device).expand(rows, -1)
        return values.abs().new_zeros(1, rows, len(classes)).scatter_reduce(
            2, into[None], values.abs()[None], "amax"
        ), classes[None]
    unit = values.amax().clamp_min(torch.finfo(values.dtype).tiny)
    powers = torch.zeros(rows, len(classes), dtype=torch.float64, device=values.device)
    powers.index_add_(1, inverse.to(values.device), (values / unit).to(torch.float64).pow(p))
    return (powers.pow(1 / p) * unit).to(values.dtype)[None], classes[None]


def kernel_sizes(kernels: Float[Tensor, "g r c *k"], p: float) -> Float[Tensor, "g r c"]:
    r""":math:`(\sum_k |w_k|^p)^{1/p}` over the last axis, in the weights' precision where that is safe.

    Example:
        >>> kernel_sizes(torch.tensor([[[[3.0, 4.0]]]], dtype=torch.float16), 2)
        tensor([[[5.]]])
    """
    if kernels.ndim == 3:
        return kernels if kernels.dtype in (torch.float32, torch.float64) else kernels.float()
    if kernels.shape[3] == 1:
        return kernel_sizes(kernels[..., 0], p)
    if kernels.dtype not in (torch.float32, torch.float64):
        kernels = kernels.float()
    if p != 2 or kernels.shape[3] > 40 or not kernels.is_contiguous():
        norms = torch.linalg.vector_norm(kernels, p, dim=3)
    else:  # a product with ones is faster than a reduction over short rows
        flat = kernels.reshape(-1, kernels.shape[3])
        norms, ones = flat.new_empty(len(flat)), flat.new_ones(kernels.shape[3])
        step = ENTRIES // kernels.shape[3]
        for piece, into in zip(flat.split(step), norms.split(step), strict=True):
            torch.mv(piece.square(), ones, out=into)
        norms = norms.sqrt_().reshape(kernels.shape[:3])
    if p == math.inf:
        return norms
    info = torch.finfo(norms.dtype)
    low, high = (info.tiny / info.eps) ** (1 / min(p, 1e3)), info.max ** (1 / max(p, 1)) / kernels.shape[3]
    if ((norms > low) & (norms < high)).all():
        return norms
    largest = kernels.abs().amax(3).to(torch.float64)
    unit = torch.where(largest > 0, largest, 1.0)
    return largest * (kernels / unit[..., None]).abs().pow(p).sum(3).pow(1 / p)


def apply(trace: Trace, model: nn.Module, factors: Float[Tensor, " n"]) -> None:
    """Write the rescaled parameters into a model.

    Args:
        factors: ``log a`` for every class number of the trace, zero for what stays.

    Raises:
        UnsupportedModel: A number would leave its dtype; nothing has been written then.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    moved = [use for use in trace.uses if factors[use.target].any() or factors[use.source].any()]
    with torch.no_grad():
        for use in moved:
            check_range(use, use.view(parameters[use.name]), factors)
        for use in moved:
            multiply(use.view(parameters[use.name]), factors[use.target], factors[use.source])


def check_range(use: Use, weights: Float[Tensor, "g r c *k"], factors: Float[Tensor, " n"]) -> None:
    """Refuse factors that would take weights out of their dtype.

    Raises:
        UnsupportedModel: They would.
    """
    limit = torch.finfo(weights.dtype).max
    top, bottom = factors[use.target], factors[use.source]
    largest = math.log(max(weights.abs().amax().item(), 1e-300)) if weights.dtype.itemsize < 4 else 0.0
    if weights.dtype.itemsize >= 4:  # the largest weight is far from the limit if factors are moderate
        if (top.max() - bottom.min()) < 40:
            return
        largest = math.log(max(weights.abs().amax().item(), 1e-300))
    if largest + (top.max() - bottom.min()).item() < math.log(limit):
        return
    log = weights.to(torch.float64).abs().log().flatten(3).amax(3) if weights.ndim > 3 else weights.double().abs().log()
    if (log + top[:, :, None].to(log) - bottom[:, None].to(log)).max() > math.log(limit):
        raise UnsupportedModel(f"{use.layer}: the rescaled weights overflow their dtype; use a wider one")


def multiply(weights: Float[Tensor, "g r c *k"], top: Float[Tensor, "g r"], bottom: Float[Tensor, "g c"]) -> None:
    """Multiply by ``exp(top - bottom)`` in place."""
    kernel = (1,) * (weights.ndim - 3)
    device, dtype = weights.device, weights.dtype
    split = max(top.abs().max(), bottom.abs().max()) < 40 and dtype in (torch.float32, torch.float64)
    if split:  # two factors one after the other are in range
        rows, columns = top.exp().to(device, dtype), (-bottom).exp().to(device, dtype)
        pieces = max(1, ENTRIES // max(1, weights[0, 0].numel()))
        turns, leaves = bool(rows.ne(1).any()), bool(columns.ne(1).any())
        for group, row, column in zip(weights, rows, columns, strict=True) if len(weights) <= 64 else ():
            for piece, factor in zip(group.split(pieces), row.split(pieces), strict=True):
                if turns:
                    piece.mul_(factor.reshape(-1, 1, *kernel))
                if leaves:
                    piece.mul_(column.reshape(-1, *kernel))
        if len(weights) > 64:
            weights.mul_((rows[:, :, None] * columns[:, None]).reshape(*weights.shape[:3], *kernel))
        return
    factor = (top[:, :, None] - bottom[:, None]).exp().to(device).reshape(*weights.shape[:3], *kernel)
    weights.copy_((weights.to(torch.float64) * factor).to(dtype))

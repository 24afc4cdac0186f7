"""Networks as the rescaling group sees them: free units, and magnitudes of the weights between ranges of units.

A *pass* over the weights gives both sides of the balance at every unit. Sums are kept as logarithms, matrices of
powers in the cheapest arithmetic that loses nothing: single precision, double precision, logarithms.

Source: the sums are those of Saul, section 2; the arithmetic is ours.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from normdyn.shapes import Bool, Float

__all__ = [
    "CHUNK",
    "SMALL",
    "Block",
    "RescalingProblem",
    "SparseBlock",
    "VacuousUnit",
    "check_alive",
    "check_exponents",
    "check_graph",
]

SMALL = 1 << 15  # entries below which double precision costs nothing
CHUNK = 128  # rows that stay in the cache between two operations on them


class VacuousUnit(ValueError):
    """A hidden unit that nothing enters or nothing leaves: no minimum exists.

    Attributes:
        unit: Its index among all units.
        side: ``enters`` or ``leaves``.
    """

    def __init__(self, unit: int, side: str, count: int):
        self.unit, self.side, self.count = unit, side, count
        super().__init__(f"unit {unit} is vacuous: no nonzero weight {side} it ({count} such units); remove it first")


class Block:
    """Connections from one range of units to another, as weighted sums of ``|w|**p`` over rows or columns.

    The powers are formed in single precision. A sum so close to the smallest numbers that it may have lost a part
    has them formed anew in double precision, then as logarithms.

    Args:
        weights: One row a unit of ``target``, one column a unit of ``source``; signs do not matter.
        precise: Begin with double precision.
    """

    def __init__(self, weights: Float[Tensor, "t s"], target: slice, source: slice, *, p: float, precise: bool = False):
        self.weights, self.target, self.source, self.p = weights.detach(), target, source, p
        self.scale = 1.0  # bounds the powers: the first row sums have x = 1
        self.form(torch.float64 if precise or self.weights.numel() < SMALL else torch.float32)

    def form(self, dtype: torch.dtype | None) -> None:
        """Form the powers in this dtype; None stands for their logarithms in double precision."""
        self.dtype = dtype
        if dtype is None:
            self.power = self.p * self.weights.abs().to(torch.float64).log()
            return
        self.power = torch.empty_like(self.weights, dtype=dtype, memory_format=torch.contiguous_format)
        for rows, powers in zip(self.weights.split(CHUNK), self.power.split(CHUNK), strict=True):
            powers.copy_(rows)
            powers.square_() if self.p == 2 else powers.abs_() if self.p == 1 else powers.abs_().pow_(self.p)

    def multiply(self, x: Float[Tensor, " s"], *, transposed: bool = False) -> Float[Tensor, " t"]:
        """Sums weighted by ``x``, in the block's dtype."""
        return torch.mv(self.power.mT if transposed else self.power, x.to(self.dtype))

    def logsumexp(self, log_x: Float[Tensor, " s"], *, transposed: bool = False) -> Float[Tensor, " t"]:
        """The same by logarithms throughout."""
        return torch.logsumexp((self.power.mT if transposed else self.power) + log_x, 1)

    def connected(self, *, transposed: bool = False) -> Bool[Tensor, " t"]:
        """Rows (columns) with a nonzero weight."""
        return (self.weights != 0).any(0 if transposed else 1)

    def threshold(self) -> float:
        """Sums above it are exact to rounding: what underflow can take from them is less."""
        info = torch.finfo(self.dtype or torch.float64)
        return info.tiny / info.eps * max(self.weights.shape) * self.scale

    def sums(self, log_x: Float[Tensor, " s"], *, transposed: bool = False) -> Float[Tensor, " t"]:
        """Logarithms of ``sum_j |w_ij|**p x_j``, or over ``i`` if transposed; changes the dtype where it must."""
        if self.dtype is None:
            return self.logsumexp(log_x, transposed=transposed)
        shift = log_x.max()
        total = self.multiply((log_x - shift).exp(), transposed=transposed).to(torch.float64)
        smallest, largest = (value.item() for value in total.aminmax())
        self.scale = max(self.scale, largest)
        if not smallest > self.threshold():
            live = total[self.connected(transposed=transposed)]
            smallest = live.min().item() if len(live) else torch.inf
        if smallest > self.threshold() and self.scale < torch.finfo(self.dtype).max / max(self.weights.shape):
            return total.log_().add_(shift)
        self.form(torch.float64 if self.dtype == torch.float32 else None)
        self.scale = max(1.0, self.power.sum(1).max().item()) if self.dtype is not None else 1.0
        return self.sums(log_x, transposed=transposed)


class SparseBlock(Block):
    """The same for a sparse matrix (any torch sparse layout), by logarithms of its nonzero entries."""

    def form(self, dtype: torch.dtype | None) -> None:
        """Form the logarithms of the nonzero entries, whatever the dtype."""
        entries = self.weights.to_sparse_coo().coalesce()
        self.weights, (self.rows, self.columns) = entries, entries.indices()
        self.dtype, self.power = None, self.p * entries.values().abs().to(torch.float64).log()

    def logsumexp(self, log_x: Float[Tensor, " s"], *, transposed: bool = False) -> Float[Tensor, " t"]:
        """Logarithms of the weighted sums over the nonzero entries."""
        into, out_of = (self.columns, self.rows) if transposed else (self.rows, self.columns)
        terms = self.power + log_x[out_of]
        top = terms.new_full((self.weights.shape[1 if transposed else 0],), -torch.inf).scatter_reduce(
            0, into, terms, "amax"
        )
        top = torch.where(top > -torch.inf, top, 0.0)
        return torch.zeros_like(top).index_add(0, into, (terms - top[into]).exp()).log() + top


class RescalingProblem:
    """A network seen by its rescaling group: which units are free, and the weights between ranges of units.

    Build it with :meth:`layered` or :meth:`graph`. The weights are read, never written.

    Attributes:
        bound, start: Bound on ``|log a|``, and where to begin: none, and at zero.

    Raises:
        ValueError: ``p`` or ``q`` is not positive, or shapes do not fit.
    """

    bound = float("inf")
    start: Tensor | None = None

    def __init__(
        self, hidden: Bool[Tensor, " n"], blocks: Sequence[Block], *, p: float, q: float, layers: Sequence[slice] = ()
    ):
        check_exponents(p, q)
        self.hidden, self.blocks, self.p, self.q, self.layers = hidden, tuple(blocks), p, q, tuple(layers)
        self.back = [block for block in blocks if hidden[block.source].any()]  # fixed units need no column sums
        n, index = len(hidden), torch.arange(max(len(layers), 1), device=hidden.device)
        lengths = torch.tensor([layer.stop - layer.start for layer in layers] or [n], device=hidden.device)
        self.layer = index.repeat_interleave(lengths)  # of each unit; a graph that is not layered is one
        self.below, self.above = (
            ((self.layer + shift).clamp(0, len(index) - 1) if layers else self.layer) for shift in (-1, 1)
        )
        self.thresholds: dict[bool, Tensor | None] = {False: None, True: None}

    @classmethod
    def layered(
        cls, weights: Sequence[Float[Tensor, "_ _"]], *, p: float, q: float, precise: bool = False
    ) -> "RescalingProblem":
        """Of a layered network; ``weights[l]`` is ``(fan_out, fan_in)``, only magnitudes matter.

        For a convolution pass the norms of its kernels, see :func:`normdyn.networks.modules.kernel_norms`.
        """
        check_exponents(p, q)
        if not len(weights):
            raise ValueError("weights must hold one matrix or more, got none")
        for l, W in enumerate(weights):
            if W.ndim != 2 or (l and W.shape[1] != weights[l - 1].shape[0]):
                fan_in = weights[l - 1].shape[0] if l else "any number of"
                raise ValueError(f"weights[{l}] must be a matrix with {fan_in} columns, got shape {tuple(W.shape)}")
        widths = [weights[0].shape[1]] + [W.shape[0] for W in weights]
        ends = torch.tensor([0, *widths]).cumsum(0).tolist()
        layers = [slice(start, end) for start, end in pairwise(ends)]
        hidden = torch.zeros(ends[-1], dtype=torch.bool, device=weights[0].device)
        hidden[ends[1] : ends[-2]] = True
        blocks = [Block(W, layers[l + 1], layers[l], p=p, precise=precise) for l, W in enumerate(weights)]
        return cls(hidden, blocks, p=p, q=q, layers=layers)

    @classmethod
    def graph(
        cls, W: Float[Tensor, "n n"], hidden: Bool[Tensor, " n"], *, p: float, q: float, precise: bool = False
    ) -> "RescalingProblem":
        """Of any feedforward graph: ``W`` strictly lower triangular, dense or sparse, inputs first, outputs last."""
        check_exponents(p, q)
        check_graph(W, hidden)
        units = hidden.nonzero()
        if W.layout != torch.strided or not len(units):
            whole = slice(0, len(hidden))
            return cls(hidden, [SparseBlock(W.to_sparse(), whole, whole, p=p)], p=p, q=q)
        target, source = slice(int(units[0]), len(hidden)), slice(0, int(units[-1]) + 1)
        return cls(hidden, [Block(W[target, source], target, source, p=p, precise=precise)], p=p, q=q)

    def traverse(self, z: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """One pass: logarithms of ``in`` and ``out`` of all units at ``log a = z``."""
        p, q = self.p, self.q
        pz = p * z
        rows = self.sums(-pz)
        log_in = q / p * (rows + pz)
        share = torch.where(rows > -torch.inf, log_in - rows, -torch.inf)
        return log_in, self.sums(share, transposed=True) - pz

    def sums(self, log_x: Float[Tensor, " n"], *, transposed: bool = False) -> Float[Tensor, " n"]:
        """Logarithms of all row or column sums of the powers, weighted by ``x``; minus infinity where none are."""
        blocks, threshold = (self.back if transposed else self.blocks), self.thresholds[transposed]
        if threshold is not None:
            shift = self.largest_of_layer(log_x)
            x = (log_x - shift.index_select(0, self.layer)).exp_()
            total = torch.zeros_like(log_x)
            for block in blocks:
                into, out_of = (block.source, block.target) if transposed else (block.target, block.source)
                total[into] = block.multiply(x[out_of], transposed=transposed)
            if (total >= threshold).all():
                return total.log_().add_(shift.index_select(0, self.above if transposed else self.below))
        logs, threshold = torch.full_like(log_x, -torch.inf), torch.zeros_like(log_x)
        for block in blocks:
            into, out_of = (block.source, block.target) if transposed else (block.target, block.source)
            logs[into] = block.sums(log_x[out_of], transposed=transposed)
            if block.dtype is not None:
                threshold[into] = block.threshold()
        threshold[logs == -torch.inf] = 0.0
        self.thresholds[transposed] = None if any(block.dtype is None for block in blocks) else threshold
        return logs

    def rounding(self) -> float:
        """Relative error of the norm that the arithmetic in use leaves."""
        return max(torch.finfo(block.dtype or torch.float64).eps for block in self.blocks)

    def largest_of_layer(self, values: Float[Tensor, " n"]) -> Float[Tensor, " l"]:
        """Largest value in each layer, zero where there is no finite one."""
        top = values.new_full((max(len(self.layers), 1),), -torch.inf).scatter_reduce(0, self.layer, values, "amax")
        return torch.where(top > -torch.inf, top, 0.0)

    def rescale_(self, weights: Sequence[Float[Tensor, "_ _"]], z: Float[Tensor, " n"]) -> None:
        """Rescale the layers' weights by ``exp(z)`` in place; the function they compute is unchanged."""
        a = z.exp()
        for W, block in zip(weights, self.blocks, strict=True):
            into, out_of = a[block.target].to(W.dtype), a[block.source].reciprocal().to(W.dtype)
            for rows, factors in zip(W.split(CHUNK), into.split(CHUNK), strict=True):
                rows.mul_(factors[:, None]).mul_(out_of)

    def rescaled(self, weights: Sequence[Float[Tensor, "_ _"]], z: Float[Tensor, " n"]) -> list[Tensor]:
        """The layers' weights after rescaling by ``exp(z)``, as new tensors."""
        weights = [W.detach().clone() for W in weights]
        self.rescale_(weights, z)
        return weights


def check_exponents(p: float, q: float) -> None:
    """Check the exponents of a norm.

    Raises:
        ValueError: One is not positive and finite.
    """
    for name, value in (("p", p), ("q", q)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive finite number, got {value}")


def check_graph(W: Float[Tensor, "..."], hidden: Bool[Tensor, " n"]) -> None:
    """Check that ``W``, dense or sparse and of any shape, is the matrix of a feedforward graph.

    Raises:
        ValueError: It is not square with a row for each unit, not finite, or not strictly lower triangular.
    """
    if W.ndim != 2 or W.shape != (len(hidden), len(hidden)):
        raise ValueError(
            f"W must be square with {len(hidden)} rows, one for each entry of hidden, got {tuple(W.shape)}"
        )
    dense = W.layout == torch.strided
    entries = W if dense else W.to_sparse_coo().coalesce()
    if not (entries if dense else entries.values()).isfinite().all():
        raise ValueError("W holds a value that is not finite")
    if dense and W.triu().count_nonzero() or not dense and (entries.indices()[0] <= entries.indices()[1]).any():
        raise ValueError("W must be strictly lower triangular: order the units from inputs to outputs")


def check_alive(
    log_in: Float[Tensor, " n"], log_out: Float[Tensor, " n"], hidden: Bool[Tensor, " n"], *, first: int = 0
) -> None:
    """Check the sums of a pass; ``first`` numbers the first unit.

    Raises:
        ValueError: A weight was not finite.
        VacuousUnit: Nothing enters or nothing leaves a hidden unit.
    """
    for name, values in (("enters", log_in), ("leaves", log_out)):
        if not (values[hidden] < torch.inf).all() or log_in.isnan().any() or (log_in == torch.inf).any():
            raise ValueError("the weights hold a value that is not finite")
        dead = (hidden & (values == -torch.inf)).nonzero().flatten().tolist()
        if dead:
            raise VacuousUnit(first + dead[0], name, len(dead))

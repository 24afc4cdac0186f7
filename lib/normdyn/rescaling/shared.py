r"""Rescaling with shared factors: units of one class have the same factor, whatever layers they are in.

The norm is taken over *rows*, one a unit of a layer. Row ``r`` of class ``t`` and weights from columns of classes
``s`` contributes

.. math:: \rho_r(z) = e^{q z_t} \bigl(\textstyle\sum_j |w_{rj}|^p e^{-p z_{s(j)}}\bigr)^{q/p},
          \qquad z = \log a,

the exponential of a convex function of ``z`` for any sharing, since sharing is a linear map of ``z`` into the factors
of all units. So is the logarithm of the norm. The paper's update is still monotone: its majoriser is separable in
``z``, and stays so when terms of one class are added up.

Source: ours, after Saul, section 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normdyn.rescaling.problems import Block, check_exponents
from normdyn.shapes import Bool, Float, Int

__all__ = ["GroupedBlock", "SharedProblem", "Weights", "logsumexp_by", "reachable"]


class Weights(NamedTuple):
    """Weights of one layer as groups of matrices.

    Attributes:
        values: Sizes of the weights between two units, ``(sum |w|**p)**(1/p)`` over a kernel: groups x rows x columns.
        target: Class of each row; 0 is not rescaled.
        source: Class of each column.
    """

    values: Float[Tensor, "g r c"]
    target: Int[Tensor, "g r"]
    source: Int[Tensor, "g c"]


class GroupedBlock(Block):
    """Connections that are block diagonal: in each group from its columns to its rows."""

    def __init__(
        self, weights: Float[Tensor, "g r c"], target: slice, source: slice, *, p: float, precise: bool = False
    ):
        super().__init__(weights.flatten(1), target, source, p=p, precise=precise)
        shape = weights.shape
        self.weights, self.power = self.weights.reshape(shape), self.power.reshape(shape)

    def multiply(self, x: Float[Tensor, " s"], *, transposed: bool = False) -> Float[Tensor, " t"]:
        """Sums weighted by ``x``, in the block's dtype."""
        power = self.power.mT if transposed else self.power
        x = x.to(self.dtype).reshape(power.shape[0], power.shape[2])
        if 1 in power.shape[1:]:
            return (power * x[:, None]).sum(2).flatten()
        return torch.bmm(power, x[:, :, None]).flatten()

    def logsumexp(self, log_x: Float[Tensor, " s"], *, transposed: bool = False) -> Float[Tensor, " t"]:
        """The same by logarithms throughout."""
        power = self.power.mT if transposed else self.power
        return torch.logsumexp(power + log_x.reshape(power.shape[0], 1, power.shape[2]), 2).flatten()

    def connected(self, *, transposed: bool = False) -> Bool[Tensor, " t"]:
        """Rows (columns) with a nonzero weight."""
        return (self.weights != 0).any(1 if transposed else 2).flatten()


class SharedProblem:
    """A network whose units share factors by classes; the weights are read, never written.

    Attributes:
        hidden: Classes that may be rescaled: all but number 0.
        layers: Empty; what is layered has a solver of its own.
        start: Where a solver begins, if not at zero.
        bound: On ``|log a|``. The majoriser is separable and convex, so that a safe step cut off at the bound is safe.

    Raises:
        ValueError: ``p`` or ``q`` is not positive.

    Source: ours.
    """

    def __init__(
        self,
        layers: Sequence[Weights],
        count: int,
        *,
        p: float,
        q: float,
        precise: bool = False,
        bound: float = float("inf"),
    ):
        check_exponents(p, q)
        self.p, self.q, self.layers, self.bound = p, q, (), bound
        self.start: Tensor | None = None
        device = layers[0].values.device
        self.hidden = torch.ones(count, dtype=torch.bool, device=device)
        self.hidden[0] = False
        self.blocks: list[Block] = []
        rows = columns = 0
        for values, target, source in layers:
            if len(values) == 1:
                values = values[0]
            kind = Block if values.ndim == 2 else GroupedBlock
            into, out_of = slice(rows, rows + target.numel()), slice(columns, columns + source.numel())
            self.blocks.append(kind(values, into, out_of, p=p, precise=precise))
            rows, columns = into.stop, out_of.stop
        join = lambda parts: torch.cat([part.flatten() for part in parts]).to(device)
        self.row, self.column = join([l.target for l in layers]), join([l.source for l in layers])
        self.back = [block for block in self.blocks if self.column[block.source].any()]
        lengths = lambda spans: torch.tensor([span.stop - span.start for span in spans], device=device)
        number = torch.arange(len(self.blocks), device=device)
        self.block_of = {
            False: number.repeat_interleave(lengths([b.source for b in self.blocks])),
            True: number.repeat_interleave(lengths([b.target for b in self.blocks])),
        }
        self.thresholds: dict[bool, Tensor | None] = {False: None, True: None}

    def traverse(self, z: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """One pass: logarithms of ``in`` and ``out`` of all classes at ``log a = z``; of class 0 what is fixed."""
        p, q, n = self.p, self.q, len(self.hidden)
        rows = self.sums(-p * z[self.column])
        log_rows = q / p * rows + q * z[self.row]
        share = torch.where(rows > -torch.inf, log_rows - rows, -torch.inf)
        columns = self.sums(share, transposed=True) - p * z[self.column]
        return logsumexp_by(log_rows, self.row, n), logsumexp_by(columns, self.column, n)

    def sums(self, log_x: Float[Tensor, " n"], *, transposed: bool = False) -> Float[Tensor, " m"]:
        """Logarithms of all row (column) sums of the powers, weighted by ``x`` on columns (rows)."""
        blocks, threshold = self.back if transposed else self.blocks, self.thresholds[transposed]
        here, there = self.block_of[transposed], self.block_of[not transposed]
        into = lambda block: block.source if transposed else block.target
        out_of = lambda block: block.target if transposed else block.source
        if threshold is not None:
            top = log_x.new_full((len(self.blocks),), -torch.inf).scatter_reduce(0, here, log_x, "amax")
            top = torch.where(top > -torch.inf, top, 0.0)
            x, total = (log_x - top[here]).exp_(), log_x.new_zeros(len(there))
            for block in blocks:
                total[into(block)] = block.multiply(x[out_of(block)], transposed=transposed)
            if (total >= threshold).all():
                return total.log_().add_(top[there])
        logs, threshold = log_x.new_full((len(there),), -torch.inf), log_x.new_zeros(len(there))
        for block in blocks:
            logs[into(block)] = block.sums(log_x[out_of(block)], transposed=transposed)
            if block.dtype is not None:
                threshold[into(block)] = block.threshold()
        threshold[logs == -torch.inf] = 0.0
        self.thresholds[transposed] = None if any(block.dtype is None for block in blocks) else threshold
        return logs

    def rounding(self) -> float:
        """Relative error of the norm that the arithmetic in use leaves."""
        return max(torch.finfo(block.dtype or torch.float64).eps for block in self.blocks)


def logsumexp_by(values: Float[Tensor, " n"], group: Int[Tensor, " n"], count: int) -> Float[Tensor, " m"]:
    """Logarithms of sums of exponentials over the entries of each group.

    Source: elementary.

    Example:
        >>> logsumexp_by(torch.tensor([1.0, 2.0, 3.0]).log(), torch.tensor([0, 0, 2]), 3).exp().round().tolist()
        [3.0, 0.0, 3.0]
    """
    top = values.new_full((count,), -torch.inf).scatter_reduce(0, group, values, "amax")
    top = torch.where(top > -torch.inf, top, 0.0)
    return values.new_zeros(count).index_add(0, group, (values - top[group]).exp_()).log_().add_(top)


def reachable(problem: SharedProblem, *, backwards: bool = False) -> Bool[Tensor, " n"]:
    """Classes that nonzero weights connect to what is fixed: from it, or backwards to it.

    The least norm is attained if and only if every class is reached both ways: else a set of classes that nothing from
    outside enters could grow without end, making what leaves it as small as one likes.

    Source: ours; Saul, section 2, asks it of every unit.
    """
    found, blocks = ~problem.hidden, problem.blocks[::-1] if backwards else problem.blocks
    start, end = (problem.row, problem.column) if backwards else (problem.column, problem.row)
    while True:
        before = found.clone()
        for block in blocks:
            here, there = (block.target, block.source) if backwards else (block.source, block.target)
            x = torch.where(found[start[here]], 0.0, -torch.inf).to(torch.float64)
            if (x > -torch.inf).any():
                reached = block.sums(x, transposed=backwards) > -torch.inf
                found[end[there][reached]] = True
        if torch.equal(before, found):
            return found

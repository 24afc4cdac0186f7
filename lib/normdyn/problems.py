"""Networks as the rescaling group sees them: free units, and magnitudes of the weights between ranges of units.

A *pass* over the weights gives both sides of the balance at every unit. Sums are kept as logarithms, matrices of
powers in the cheapest arithmetic that loses nothing: single precision, double precision, logarithms.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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
    """Connections from one range of units to another, as sums of ``|w|**p`` over rows and columns.

    The powers are held in single precision as long as no sum comes near its smallest numbers, then in double
    precision, then as logarithms.
    """

    def __init__(self, weights: Tensor, target: slice, source: slice, *, p: float, precise: bool = False):
        self.weights, self.target, self.source, self.p = weights.detach(), target, source, p
        self.power, self.floor, self.scale = None, 0.0, 1.0
        self.use(torch.float64 if precise or weights.numel() < 1 << 15 else torch.float32)

    def use(self, dtype: torch.dtype | None) -> None:
        """Form the powers in this dtype; None stands for their logarithms."""
        self.dtype = dtype
        if dtype is None:
            self.power = self.p * self.weights.abs().to(torch.float64).log()
            return
        W = self.weights.to(dtype, copy=True)
        self.power = W.square_() if self.p == 2 else W.abs_() if self.p == 1 else W.abs_().pow_(self.p)
        info = torch.finfo(dtype)
        self.floor = info.tiny / info.eps * max(W.shape)

    def row_sums(self, log_x: Float[Tensor, " s"]) -> Float[Tensor, " t"]:
        """Logarithms of ``sum_j |w_ij|**p x_j``."""
        return self.sums(log_x, transposed=False)

    def column_sums(self, log_y: Float[Tensor, " t"]) -> Float[Tensor, " s"]:
        """Logarithms of ``sum_i |w_ij|**p y_i``."""
        return self.sums(log_y, transposed=True)

    def sums(self, log_x: Tensor, *, transposed: bool) -> Tensor:
        shift = log_x.max()
        if self.dtype is None:
            return torch.logsumexp((self.power.mT if transposed else self.power) + log_x, 1)
        x = (log_x - shift).exp().to(self.dtype)
        total = ((self.power.mT if transposed else self.power) @ x).to(torch.float64)
        smallest, largest = (v.item() for v in total.aminmax())
        self.scale = max(self.scale, largest)  # bounds the powers themselves: the first call has x = 1
        if smallest > self.floor * self.scale and largest < torch.finfo(self.dtype).max:
            return total.log_().add_(shift)
        self.use(torch.float64 if self.dtype == torch.float32 else None)
        return self.sums(log_x, transposed=transposed)


class SparseBlock(Block):
    """The same for a sparse matrix (any torch sparse layout), from its nonzero entries."""

    def use(self, dtype: torch.dtype | None) -> None:
        entries = self.weights.to_sparse_coo().coalesce()
        self.shape, (self.rows, self.columns) = entries.shape, entries.indices()
        self.dtype, self.power = None, self.p * entries.values().abs().to(torch.float64).log()

    def sums(self, log_x: Tensor, *, transposed: bool) -> Tensor:
        here, there = (self.columns, self.rows) if transposed else (self.rows, self.columns)
        terms = self.power + log_x[there]
        size = self.shape[1] if transposed else self.shape[0]
        top = terms.new_full((size,), -torch.inf).scatter_reduce(0, here, terms, "amax")
        reach = torch.where(top.isfinite(), top, torch.zeros_like(top))
        return torch.zeros_like(top).index_add(0, here, (terms - reach[here]).exp()).log() + reach


class RescalingProblem:
    """A network seen by its rescaling group: which units are free, and the weights between ranges of units.

    Build it with :meth:`layered` or :meth:`graph`.

    Raises:
        ValueError: ``p`` or ``q`` is not positive, a weight is not finite, shapes do not fit, or a hidden unit is
            vacuous (nothing enters or nothing leaves it), in which case no minimum exists.
    """

    def __init__(
        self, hidden: Bool[Tensor, " n"], blocks: Sequence[Block], *, p: float, q: float, layers: Sequence[slice] = ()
    ):
        check_exponents(p, q)
        self.hidden, self.blocks, self.p, self.q, self.layers = hidden, tuple(blocks), p, q, tuple(layers)

    @classmethod
    def layered(
        cls, weights: Sequence[Float[Tensor, "_ _"]], *, p: float, q: float, precise: bool = False
    ) -> "RescalingProblem":
        """Of a layered network; ``weights[l]`` is ``(fan_out, fan_in)``, only magnitudes matter.

        For a convolution pass the norms of its kernels, see :func:`channel_magnitudes`.
        """
        check_exponents(p, q)
        if not weights:
            raise ValueError("weights must hold one matrix or more, got none")
        for l, W in enumerate(weights):
            if W.ndim != 2 or (l and W.shape[1] != weights[l - 1].shape[0]):
                fan_in = weights[l - 1].shape[0] if l else "any"
                raise ValueError(f"weights[{l}] must be a matrix with {fan_in} columns, got shape {tuple(W.shape)}")
        widths = [weights[0].shape[1]] + [W.shape[0] for W in weights]
        ends = torch.tensor(widths).cumsum(0).tolist()
        layers = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        hidden = torch.zeros(ends[-1], dtype=torch.bool, device=weights[0].device)
        hidden[ends[0] : ends[-2]] = True
        blocks = [Block(W, layers[l + 1], layers[l], p=p, precise=precise) for l, W in enumerate(weights)]
        return cls(hidden, blocks, p=p, q=q, layers=layers)

    @classmethod
    def graph(
        cls, W: Float[Tensor, "n n"], hidden: Bool[Tensor, " n"], *, p: float, q: float, precise: bool = False
    ) -> "RescalingProblem":
        """Of any feedforward graph: ``W`` strictly lower triangular, dense or sparse, with the mask of hidden units."""
        check_exponents(p, q)
        check_graph(W, hidden)
        units = hidden.nonzero()
        if not len(units):
            raise ValueError("hidden marks no unit: nothing can be rescaled")
        target, source = slice(int(units[0]), len(hidden)), slice(0, int(units[-1]) + 1)
        if W.layout == torch.strided:
            block = Block(W[target, source], target, source, p=p, precise=precise)
        else:
            block = SparseBlock(W, slice(0, len(hidden)), slice(0, len(hidden)), p=p)
        return cls(hidden, [block], p=p, q=q)

    def traverse(self, z: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """One pass: logarithms of ``in`` and ``out`` of all units at ``log a = z``."""
        p, q = self.p, self.q
        rows = torch.full_like(z, -torch.inf)
        for block in self.blocks:
            rows[block.target] = torch.logaddexp(rows[block.target], block.row_sums(-p * z[block.source]))
        live = rows > -torch.inf
        log_sums = torch.where(live, p * z + rows, 0.0)
        log_in = torch.where(live, q / p * log_sums, -torch.inf)
        share = torch.where(live, (q / p - 1) * log_sums + p * z, -torch.inf)
        columns = torch.full_like(z, -torch.inf)
        for block in self.blocks:
            if self.hidden[block.source].any():
                columns[block.source] = torch.logaddexp(columns[block.source], block.column_sums(share[block.target]))
        return log_in, columns - p * z

    def equalize_layers(self, z: Tensor, log_in: Tensor, log_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Minimise over rescalings that are constant on layers, in closed form and without a pass.

        Layer totals :math:`T_\ell = \sum_{i \in \ell} \rho_i` all become their geometric mean; ``in`` follows the
        units' own layer, ``out`` the next one. A graph that is not layered is returned as it is.
        """
        if len(self.layers) < 3:
            return z, log_in, log_out
        totals = torch.stack([log_in[layer].logsumexp(0) for layer in self.layers[1:]])
        change = totals.mean() - totals
        steps = change.cumsum(0) / self.q
        z, log_in, log_out = z.clone(), log_in.clone(), log_out.clone()
        for l, layer in enumerate(self.layers[1:]):
            log_in[layer] += change[l]
            if l < len(change) - 1:
                z[layer] += steps[l]
                log_out[layer] += change[l + 1]
        return z, log_in, log_out

    def rescaled(self, weights: Sequence[Float[Tensor, "_ _"]], z: Float[Tensor, " n"]) -> list[Tensor]:
        """The layers' weights after rescaling by ``exp(z)``; the function they compute is unchanged."""
        return [
            W * z[block.target, None].exp().to(W.dtype) * (-z[block.source]).exp().to(W.dtype)
            for W, block in zip(weights, self.blocks, strict=True)
        ]


def check_exponents(p: float, q: float) -> None:
    for name, value in (("p", p), ("q", q)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive finite number, got {value}")


def check_graph(W: Tensor, hidden: Tensor) -> None:
    if W.ndim != 2 or W.shape != (len(hidden), len(hidden)):
        raise ValueError(
            f"W must be square with {len(hidden)} rows, one for each entry of hidden, got {tuple(W.shape)}"
        )
    if W.layout == torch.strided:
        if not W.isfinite().all():
            raise ValueError("W holds a value that is not finite")
        if W.triu().count_nonzero():
            raise ValueError("W must be strictly lower triangular: order the units from inputs to outputs")
        connected = W != 0
        check_alive(connected.sum(1).log(), connected.sum(0).log(), hidden)


def check_alive(log_in: Tensor, log_out: Tensor, hidden: Tensor) -> None:
    for name, values in (("enters", log_in), ("leaves", log_out)):
        if values[hidden].isnan().any():
            raise ValueError("the weights hold a value that is not finite")
        dead = (hidden & (values == -torch.inf)).nonzero().flatten().tolist()
        if dead:
            raise VacuousUnit(dead[0], name, len(dead))

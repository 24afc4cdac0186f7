r"""Inner products of weights, gradients and updates in float64, over one step of an optimiser.

For each tensor with weights ``W`` before and ``V`` after the step, update ``u = V - W``, gradient ``G`` of the backward
passes and ``g`` that the optimiser finds, ``d = g - G``. Products are summed in float64 whatever the tensors' precision
is; on a processor, those of a gradient that nothing changed on its way in float32 where that is the model's precision.
There it is done piece by piece, in pieces that stay in the cache; on an accelerator all at once, without a look at a
number.

Source: ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normdyn.shapes import Float

__all__ = ["NAMES", "PIECE", "SAFE", "Pieces", "Rows"]

NAMES = ("WG", "GG", "Gg", "Gd", "dd", "WW", "Wg", "Wu", "gg", "VV", "uu")
PIECE = 2**16  # numbers in a piece: in float64 half a megabyte
SAFE = (1e-25, 1e30)

# A gradient that nothing changed has these, where they stand among WW, Wu, uu, VV, Wg, gg and a zero.
_PLACE = [("WW", "Wu", "uu", "VV", "Wg", "gg", "dd").index({"WG": "Wg", "GG": "gg", "Gg": "gg", "Gd": "dd"}.get(n, n))
          for n in NAMES]  # fmt: skip
_COMPARED = [k for k, name in enumerate(NAMES) if "g" in name or "G" in name or "d" in name]


class Pieces:
    """On a processor. Memory: a copy of weights and gradients, and one more of each gradient that was changed.

    Args:
        parameters: The tensors that are watched.
        junctions: Pairs of their indices, a layer and the next, whose units' balances are wanted.

    Attributes:
        received: Where the gradients ``G`` are to be gathered.
    """

    compares = True

    def __init__(self, parameters: Sequence[Tensor], junctions: Sequence[tuple[int, int]]):
        self.received = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in parameters]
        self._weights = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in parameters]
        self._sides = [parameters[0].new_zeros(2, 3, len(parameters[k]), dtype=torch.float64) for k, _ in junctions]
        below = {k: side[0] for (k, _), side in zip(junctions, self._sides, strict=True)}
        above = {k: side[1] for (_, k), side in zip(junctions, self._sides, strict=True)}
        self._junctions = junctions
        self._double = torch.tensor([p.dtype == torch.float64 for p in parameters])
        steps = [_step(p, k in below or k in above) for k, p in enumerate(parameters)]
        counts = [len(W.view(-1).split(step)) for W, step in zip(self._weights, steps, strict=True)]
        owners = torch.arange(len(parameters)).repeat_interleave(torch.tensor(counts))
        self._owners = nn.functional.one_hot(owners, len(parameters)).mT.double()
        self._moved = torch.zeros(sum(counts), 4, dtype=torch.float64)
        self._slopes = {kind: torch.zeros(sum(counts), 2, dtype=kind) for kind in {_plain(p) for p in parameters}}
        self._none = torch.zeros(len(parameters), 1, dtype=torch.float64)
        buffers = torch.empty(5, max(steps, default=0), dtype=torch.float64)
        cells = zip(self._moved.split(counts), *(table.split(counts) for table in self._slopes.values()), strict=True)
        self._tensors = [
            _Tensor(W, G, steps[k], buffers, moved, dict(zip(self._slopes, slopes, strict=True))[_plain(W)],
                    below.get(k), above.get(k))
            for k, (W, G, (moved, *slopes)) in enumerate(zip(self._weights, self.received, cells, strict=True))
        ]  # fmt: skip

    def begin(self, parameters: Sequence[Tensor], found: Sequence[Tensor | None]) -> None:
        """Before the step: take the weights, and the gradients ``g``; None where it is ``G`` to the last bit."""
        torch._foreach_copy_(self._weights, list(parameters))
        self._found = found

    def finish(self, parameters: Sequence[Tensor]) -> Float[Tensor, "l 11"]:
        """After the step: all products, in the order of ``NAMES``."""
        for tensor, p, found in zip(self._tensors, parameters, self._found, strict=True):
            tensor.move(p.detach())
            if found is None:
                tensor.slope()
        moved = self._owners @ self._moved
        moved = torch.where(self._double[:, None], moved, _updates(moved.T).T)
        slopes = self._owners @ sum(table.double() for table in self._slopes.values())
        products = torch.cat((moved, slopes, self._none), 1)[:, _PLACE]
        for k, (found, gg) in enumerate(zip(self._found, slopes[:, 1].tolist(), strict=True)):
            if found is not None:
                products[k, _COMPARED] = self._tensors[k].compared(found)
            elif not SAFE[0] < gg < SAFE[1]:  # squares of small or large numbers may have left the range of float32
                products[k, _COMPARED] = self._tensors[k].compared(self.received[k])
        self._found = []
        return products

    def balances(self) -> list[Tensor]:
        """For each unit of each junction: its balance, and half of the first- and the second-order change."""
        found = []
        for (below, above), (k, _) in zip(self._sides, self._junctions, strict=True):
            sums = below - above
            found.append((sums if self._double[k] else _updates(sums)[:3]).flatten())
        return found


class _Tensor:
    """The products of one tensor: all views that a step needs are made once, for small networks feel each of them.

    ``moved`` and ``slopes`` take the products of each piece, ``below`` and ``above`` the sums over the weights into a
    unit, and out of it.
    """

    def __init__(self, W, G, step, buffers, moved, slopes, below, above):
        self._step = step
        self._old, self._received = W.view(-1).split(step), G.view(-1).split(step)
        self._views = [tuple(buffers[:, : len(piece)].unbind()) for piece in self._old]
        self._double = W.dtype == torch.float64
        self._moved, self._cells = moved, [cells.unbind() for cells in moved]
        self._slopes = [cells.unbind() for cells in slopes]
        self._below, self._above = below, above
        width = max(1, W[0].numel()) if W.ndim else 1
        if below is not None:
            units = [slice(start, start + step // width) for start in range(0, len(W), max(1, step // width))]
            self._units = [below[:, some] for some in units]
            pairs = [buffers[:2, : len(piece)].view(2, -1, width).transpose(0, 1) for piece in self._old]
            grams = [torch.zeros(len(rows), 2, 2, dtype=torch.float64) for rows in pairs]
            self._rows = [(rows, rows.mT, g, g.view(-1, 4).mT) for rows, g in zip(pairs, grams, strict=True)]
        if above is not None:
            units = above.shape[1]
            self._grids = [buffers[2:5, : len(piece)].view(3, -1, units, width // units) for piece in self._old]
            self._lines = [buffers[2:5, : len(piece)].view(3, -1, width) for piece in self._old]
            self._pairs = [(buffers[:2, : len(piece)], buffers[2:4, : len(piece)]) for piece in self._old]

    def move(self, p: Tensor) -> None:
        """Products of weights with themselves and with the update: in float64 the update, else the weights after it.

        Numbers of 24 bits have products of 48: differences of their sums in float64 are as good as those of updates.
        """
        for k, new in enumerate(p.reshape(-1).split(self._step)):
            w, other, *_ = self._views[k]
            w.copy_(self._old[k])
            other.copy_(new)
            WW, WO, OO, VV = self._cells[k]
            if self._double:
                torch.dot(other, other, out=VV)
                other.sub_(w)
            if self._above is not None:
                self._leave(k, w, other)
            if self._below is not None:
                self._enter(k)
                torch.sum(self._units[k], 1, out=self._moved[k, :3])
            else:
                torch.dot(w, w, out=WW)
                torch.dot(w, other, out=WO)
                torch.dot(other, other, out=OO)

    def _leave(self, k: int, w: Tensor, other: Tensor) -> None:
        """Sums over the weights out of each unit."""
        both, products = self._pairs[k]
        torch.mul(both, w, out=products)
        torch.mul(other, other, out=self._views[k][4])
        grid = self._grids[k]
        sums = grid[..., 0].sum(1) if grid.shape[3] == 1 else grid.sum((1, 3))
        self._above.copy_(sums) if k == 0 else self._above.add_(sums)

    def _enter(self, k: int) -> None:
        """Sums over the weights into each unit: of the products, where those are at hand."""
        if self._above is not None:
            torch.sum(self._lines[k], 2, out=self._units[k])
            return
        rows, columns, grams, sums = self._rows[k]
        torch.bmm(rows, columns, out=grams)
        self._units[k][:2], self._units[k][2] = sums[:2], sums[3]

    def slope(self) -> None:
        """Products of a gradient that nothing changed, in its own precision: the bars on them are those of it."""
        for w, g, (Wg, gg) in zip(self._old, self._received, self._slopes, strict=True):
            if w.dtype != Wg.dtype:
                w, g = w.to(Wg.dtype), g.to(Wg.dtype)
            torch.dot(w, g, out=Wg)
            torch.dot(g, g, out=gg)

    def compared(self, found: Tensor) -> Float[Tensor, " c"]:
        """Products of gradients that differ: what no factor explains is a small difference of them."""
        sums: dict[str, Tensor] = {}
        for k, new in enumerate(found.reshape(-1).split(self._step)):
            w, g, G, d, *_ = self._views[k]
            for buffer, values in ((w, self._old[k]), (g, new), (G, self._received[k])):
                buffer.copy_(values)
            torch.sub(g, G, out=d)
            values = {"W": w, "g": g, "G": G, "d": d}
            for name in (NAMES[c] for c in _COMPARED):
                product = torch.dot(values[name[0]], values[name[1]])
                sums[name] = sums[name] + product if name in sums else product
        return torch.stack(list(sums.values()))


def _plain(p: Tensor) -> torch.dtype:
    """In which a gradient is multiplied that nothing changed: its own, if processors multiply in that."""
    return p.dtype if p.dtype in (torch.float32, torch.float64) else torch.float32


def _updates(sums: Tensor) -> Tensor:
    """Products WW, Wu, uu and VV from WW, WV and VV."""
    WW, WV, VV = sums[:3]
    return torch.stack((WW, WV - WW, VV - 2 * WV + WW, VV))


def _step(p: Tensor, units: bool) -> int:
    """Numbers in a piece of a tensor; whole rows if its units are summed."""
    row = max(1, p[0].numel()) if units else 1
    return min(max(1, PIECE // row) * row, max(1, p.numel()))


class Rows:
    """On an accelerator. Memory: 32 bytes a parameter, 56 with junctions."""

    compares = False

    def __init__(self, parameters: Sequence[Tensor], junctions: Sequence[tuple[int, int]]):
        self.received = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in parameters]
        sizes = [p.numel() for p in parameters]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        slices = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._rows = torch.zeros(4, sum(sizes), dtype=torch.float64, device=parameters[0].device)
        self._blocks = [self._rows[:, s] for s in slices]
        self._views = [[row[s].view_as(p) for s, p in zip(slices, parameters, strict=True)] for row in self._rows]
        self._products = self._rows.new_zeros(3, self._rows.shape[1] if junctions else 0)
        self._sides = [
            (
                self._products[:, slices[below]].view(3, len(parameters[below]), -1),
                self._products[:, slices[above]].view(3, len(parameters[above]), len(parameters[below]), -1),
            )
            for below, above in junctions
        ]

    def begin(self, parameters: Sequence[Tensor], found: Sequence[Tensor | None]) -> None:
        """As :meth:`Pieces.begin`."""
        gradients = [G if g is None else g for G, g in zip(self.received, found, strict=True)]
        for row, tensors in enumerate((parameters, self.received, gradients)):
            torch._foreach_copy_(self._views[row], list(tensors))
        torch.sub(self._rows[2], self._rows[1], out=self._rows[3])
        self._compared = self._gramians()[:, [1, 5, 6, 7, 15]]
        self._rows[1].copy_(self._rows[2])

    def finish(self, parameters: Sequence[Tensor]) -> Float[Tensor, "l 11"]:
        """As :meth:`Pieces.finish`."""
        torch._foreach_copy_(self._views[2], list(parameters))
        torch.sub(self._rows[2], self._rows[0], out=self._rows[3])
        return torch.cat([self._compared, self._gramians()[:, [0, 1, 3, 5, 10, 15]]], 1)

    def _gramians(self) -> Tensor:
        return torch.stack([block @ block.mT for block in self._blocks]).flatten(1)

    def balances(self) -> list[Tensor]:
        """As :meth:`Pieces.balances`."""
        if self._sides:
            for product, i, j in zip(self._products, (0, 0, 3), (0, 3, 3), strict=True):
                torch.mul(self._rows[i], self._rows[j], out=product)
        return [(below.sum(2) - above.sum((1, 3))).flatten() for below, above in self._sides]

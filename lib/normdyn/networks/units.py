r"""Classes of units: which entries of a network's values must carry one common factor, and which must carry none.

A *class* is a set of units that are rescaled by the same factor ``a > 0``. Every value in a network gets an integer
tensor of its shape that names the class of each entry; along axes where it is constant the tensor is expanded, so that
it takes no memory. Operations on values then act on classes: a reshape moves them, an addition unites them, what is
not homogeneous fixes them at factor one, with a reason.

Source: ours, on the rescaling group of Saul, section 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normdyn.shapes import Int

__all__ = ["Birth", "Classes", "core"]


class Birth(NamedTuple):
    """Classes that one operation created: ``number`` from ``first``, for the outputs of layer ``layer``."""

    first: int
    number: int
    layer: str


class Classes:
    """Union-find over class numbers. Number 0 stands for the factor one: inputs, outputs, constants.

    Attributes:
        births: Who created which numbers, in order.

    Source: elementary (Tarjan's disjoint sets).

    Example:
        >>> classes = Classes()
        >>> a, b = classes.fresh(2, "first"), classes.fresh(2, "second")
        >>> classes.unite(a, b, "added")
        >>> classes.fix(b[:1], "softmax")
        >>> classes.roots(a).tolist(), classes.reason(1), classes.reason(2)
        ([0, 2], 'softmax', None)
    """

    def __init__(self) -> None:
        self._parent, self._why = torch.zeros(2, 1024, dtype=torch.long)
        self._reasons = ["", "an input, an output or a constant"]
        self._why[0], self._count = 1, 1
        self.births: list[Birth] = []

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int, layer: str) -> Int[Tensor, " n"]:
        """New classes of one unit each."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            more = torch.zeros(max(count, len(self._parent)), dtype=torch.long)
            self._parent, self._why = torch.cat([self._parent, more]), torch.cat([self._why, more])
        numbers = torch.arange(first, self._count)
        self._parent[first : self._count] = numbers
        self.births.append(Birth(first, count, layer))
        return numbers

    def _representatives(self, numbers: Tensor) -> Tensor:
        found = self._parent[numbers]
        while not torch.equal(above := self._parent[found], found):
            found = above
        return found

    def roots(self, numbers: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
        """One number for each class, 0 for all that are fixed."""
        found = self._representatives(numbers)
        return torch.where(self._why[found] > 0, 0, found)

    def fixed(self, numbers: Int[Tensor, "*s"]) -> bool:
        """Whether all of them are fixed."""
        return not self.roots(core(numbers)).any()

    def reason(self, number: int) -> str | None:
        """Why a class is fixed, or None."""
        return self.reasons(torch.tensor([number]))[0]

    def reasons(self, numbers: Int[Tensor, " n"]) -> list[str | None]:
        """Why each of the classes is fixed, or None."""
        why = self._why[self._representatives(numbers)].tolist()
        return [self._reasons[k] if k else None for k in why]

    def fix(self, numbers: Int[Tensor, "*s"], reason: str) -> None:
        """Give them the factor one; the first reason stays."""
        found = self._representatives(core(numbers)).flatten()
        found = found[self._why[found] == 0]
        if len(found):
            self._reasons.append(reason)
            self._why[found] = len(self._reasons) - 1

    def unite(self, a: Int[Tensor, "*s"], b: Int[Tensor, "*t"], reason: str) -> None:
        """Make classes equal entry by entry, under broadcasting. What meets a fixed one is fixed, for its reason.

        Args:
            reason: For what meets a constant, which has no reason of its own.
        """
        pairs = torch.stack(torch.broadcast_tensors(core(a), core(b))).reshape(2, -1)
        while True:
            pairs = self._representatives(pairs)
            pairs = pairs[:, pairs[0] != pairs[1]]
            why = self._why[pairs]
            pairs, why = pairs[:, ~(why > 0).all(0)], why[:, ~(why > 0).all(0)]
            if not pairs.numel():
                return
            free = ~(why > 0).any(0)
            if free.any():
                self._merge(pairs[:, free])
                continue
            self._reasons.append(reason)
            why = torch.where(why.amax(0) == 1, len(self._reasons) - 1, why.amax(0))
            self._why[torch.where(self._why[pairs[0]] > 0, pairs[1], pairs[0])] = why

    def _merge(self, pairs: Tensor) -> None:
        low, high = pairs.aminmax(dim=0)
        if len(high.unique()) == len(high) and not torch.isin(high, low).any():  # one to one, as most are
            self._parent[high] = low
            return
        above: dict[int, int] = {}

        def root(number: int) -> int:
            while number in above:
                number = above[number]
            return number

        for one, other in pairs.unique(dim=1).T.tolist():
            one, other = root(one), root(other)
            if one != other:
                above[max(one, other)] = min(one, other)
        if above:
            self._parent[list(above)] = torch.tensor([root(number) for number in above])

    def together(self, numbers: Int[Tensor, "*s"], axes: Sequence[int], reason: str) -> Int[Tensor, "*t"]:
        """Unite along axes, which then have length 1."""
        numbers = core(numbers, axes)
        for axis in axes:
            if numbers.shape[axis] > 1:
                first = numbers.narrow(axis, 0, 1)
                self.unite(first.expand_as(numbers), numbers, reason)
                numbers = first
        return numbers


def core(numbers: Int[Tensor, "*s"], axes: Sequence[int] | None = None) -> Int[Tensor, "*t"]:
    """Expanded axes (of those given) cut down to length 1; it broadcasts to what it was.

    Source: elementary.

    Example:
        >>> core(torch.arange(3).reshape(3, 1).expand(3, 50)).shape
        torch.Size([3, 1])
    """
    for axis in range(numbers.ndim) if axes is None else axes:
        if numbers.stride(axis) == 0 and numbers.shape[axis] > 1:
            numbers = numbers.narrow(axis, 0, 1)
    return numbers

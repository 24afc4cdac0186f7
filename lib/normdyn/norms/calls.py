r"""What comes after a layer: modules in the order of their calls, and sums over the biases from a layer upward.

The sums of all layers are taken at once, so that a network of any depth is looked at in time linear in its size.

Source: ours.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from normdyn.shapes import Float

__all__ = ["Calls", "is_bias", "normalises"]


class Calls:
    """The calls of one forward pass.

    Args:
        called: Names of modules in the order of their calls; a module may come more than once.
        modules: All modules by name.
        parameters: Names of the parameters, in the order of the columns of what is summed.
    """

    def __init__(self, called: Sequence[str], modules: Mapping[str, nn.Module], parameters: Sequence[str]):
        self._called, self._modules, self._parameters = list(called), modules, list(parameters)
        self._first = {name: k for k, name in reversed(list(enumerate(self._called)))}
        self._last = {name: k for k, name in enumerate(self._called)}
        biases: dict[str, list[int]] = {}
        for column, name in enumerate(parameters):
            if is_bias(name):
                biases.setdefault(name.rpartition(".")[0], []).append(column)
        self._biases = biases
        reached = sorted(
            (self._last[owner], column) for owner in biases if owner in self._last for column in biases[owner]
        )
        self._positions, self._columns = [p for p, _ in reached], [column for _, column in reached]

    def _start(self, name: str) -> int:
        """Where the parameter's own module is called first; the beginning for a parameter of none."""
        return self._first.get(name.rpartition(".")[0], 0)

    def after(self, name: str, order: float) -> Iterator[str]:
        """Modules from this parameter's own on, each once.

        Under order 0 the list ends with the first normalisation: what comes later cannot matter.
        """
        owner, seen = name.rpartition(".")[0], set()
        for k in range(self._start(name), len(self._called)):
            other = self._called[k]
            if other not in seen:
                seen.add(other)
                yield other
                if order == 0 and other != owner and normalises(self._modules[other]):
                    return

    def _short(self, name: str) -> list[int]:
        """Biases under order 0: those below the normalisation."""
        owner = name.rpartition(".")[0]
        later = (m for m in self.after(name, 0) if m == owner or not normalises(self._modules[m]))
        return [column for m in later for column in self._biases.get(m, ())]

    def has_biases(self, name: str, order: float) -> bool:
        """Whether any comes from this parameter's module upward, under order 0 below the normalisation."""
        if order > 0:
            return bool(self._positions) and self._positions[-1] >= self._start(name)
        return bool(self._short(name))

    def bias_sums(self, values: Float[Tensor, "s l"]) -> Callable[..., Float[Tensor, " s"]]:
        """Function of a parameter's name and order that sums the columns of the biases from its module upward."""
        columns = values[:, self._columns].flip(1).cumsum(1).flip(1)
        padded = torch.cat([columns, values.new_zeros(len(values), 1)], 1)

        def above(name: str, order: float = 1.0) -> Tensor:
            if order > 0:
                return padded[:, bisect_left(self._positions, self._start(name))]
            return values[:, self._short(name)].sum(1)

        return above


def is_bias(name: str) -> bool:
    """Whether a parameter of this name is a bias, which has no order of its own."""
    return name.rpartition(".")[2].endswith("bias")


def normalises(module: nn.Module) -> bool:
    """Whether a module is a normalisation, by the name of its class."""
    return "Norm" in type(module).__name__

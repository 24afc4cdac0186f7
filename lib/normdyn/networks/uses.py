r"""How a network uses its parameters: which view of one is multiplied by which factors.

Source: ours, after Saul, eqs. (6), (7).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normdyn.shapes import Int, Shaped

__all__ = ["Use", "random_like", "tensors_in"]


class Use(NamedTuple):
    """A parameter in one layer: each of its entries is multiplied by ``a[target] / a[source]``.

    Attributes:
        name: Of the parameter.
        layer: The module that used it.
        size, stride, offset: A view of its memory as groups x rows x columns x kernel positions.
        target: Class of each row.
        source: Class of each column; 0 where nothing is divided out.
        of: For a bias, or a parameter that is a value by itself, the number of the layer whose units it belongs to, or
            -1; None for weights that multiply.
    """

    name: str
    layer: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    target: Int[Tensor, "g r"]
    source: Int[Tensor, "g c"]
    of: int | None

    @property
    def geometry(self) -> tuple:
        """What the view is, whatever it is used for."""
        axes = [(n, s) for n, s in zip(self.size, self.stride, strict=True) if n > 1 and s]
        return (*sorted(axes, key=lambda axis: -axis[1]), self.offset)

    @property
    def reach(self) -> tuple[int, int]:
        """First and last place in memory."""
        return self.offset, self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))

    def view(self, parameter: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The view of that parameter, or of another tensor in its format."""
        return parameter.as_strided(self.size, self.stride, parameter.storage_offset() + self.offset)


def tensors_in(value: Any, depth: int = 0) -> list[Shaped[Tensor, "..."]]:
    """All tensors in nested containers, dataclasses and plain objects.

    Source: elementary.

    Example:
        >>> len(tensors_in({"a": [torch.zeros(1)], "b": (torch.zeros(2), 3)}))
        2
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, (list, tuple, set)):
        if depth > 8 or isinstance(value, (str, bytes, int, float, type, nn.Module)) or not hasattr(value, "__dict__"):
            return []
        value = list(vars(value).values())
    return [leaf for part in value for leaf in tensors_in(part, depth + 1)]


def random_like(value: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Some numbers for a tensor without any."""
    if value.is_floating_point():
        return torch.randn(
            value.shape, dtype=value.dtype, device=device, generator=torch.Generator(device).manual_seed(0)
        )
    return torch.ones(value.shape, dtype=value.dtype, device=device)

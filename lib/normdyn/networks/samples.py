"""Inputs that a model accepts, when none is given: made from the shape of its first layer.

Source: ours.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FIRST", "LIKELY", "LINES", "SIDES", "arguments", "samples"]

LIKELY = (32, 64, 28, 128, 224, 96, 16, 48, 256, 299, 8)
SIDES = (*LIKELY, *(n for n in range(1, 130) if n not in LIKELY), 384, 512)
LINES = (*SIDES, 1024, 4096, 16000)
FIRST = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Embedding, nn.RNNBase, nn.Bilinear,
)  # fmt: skip


def arguments(sample: Any) -> tuple[tuple, dict]:
    """A sample as positional and keyword arguments: a tensor, a tuple of arguments, or a dict of them.

    Source: elementary.

    Example:
        >>> arguments({"x": 1}), arguments((1, 2))
        (((), {'x': 1}), ((1, 2), {}))
    """
    if isinstance(sample, dict):
        return (), sample
    return (tuple(sample) if isinstance(sample, (tuple, list)) else (sample,)), {}


def samples(model: nn.Module, batch: int = 2) -> Iterator[Tensor]:
    """Batches of normal numbers (of words for an embedding) that the first layer would take.

    The right size of an image is not known: likely ones come one after the other, small ones first.

    Args:
        batch: Samples in a batch; batch normalisation wants two or more.

    Source: ours.
    """
    first: Any = next((m for m in model.modules() if isinstance(m, FIRST)), None)
    parameter = next((first or model).parameters(), torch.zeros(1))
    if first is None:
        shapes: list[tuple[int, ...]] = [(batch, *parameter.shape), (batch, 3, 32, 32), (batch, 8)]
    elif isinstance(first, nn.Embedding):
        words = torch.arange(batch * 8, device=first.weight.device) % first.num_embeddings
        yield words.reshape(batch, 8)
        return
    elif isinstance(first, nn.RNNBase):
        shapes = [(batch, 8, first.input_size)]
    elif isinstance(first, (nn.Linear, nn.Bilinear)):
        width = first.in_features if isinstance(first, nn.Linear) else first.in1_features
        shapes = [(batch, width), (batch, 8, width)]
        shapes += [(batch, c, s, s) for c in (1, 3, 2, 4) for s in (int((width / c) ** 0.5),) if c * s * s == width]
        shapes += [(batch, 3, side, side) for side in LIKELY]
    else:
        space = first.weight.ndim - 2
        sides = (4, 1, *SIDES) if isinstance(first, nn.modules.conv._ConvTransposeNd) else SIDES
        sides = {1: LINES, 2: sides, 3: tuple(side for side in sides if side <= 64)}[space]
        shapes = [(batch, first.in_channels, *[side] * space) for side in sides]
        if isinstance(first, nn.modules.conv._ConvTransposeNd):
            shapes.append((batch, first.in_channels))
    generator = torch.Generator(parameter.device).manual_seed(0)
    for shape in shapes:
        yield torch.randn(shape, dtype=parameter.dtype, device=parameter.device, generator=generator)

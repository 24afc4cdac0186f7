"""Measures of disagreement that a page compares with a bound."""

import math
from collections.abc import Iterable, Sequence

from jaxtyping import Float
from torch import Tensor


def relative_error(measured: Float[Tensor, "..."], predicted: Float[Tensor, "..."]) -> float:
    """Largest absolute difference over the largest predicted magnitude; absolute where the prediction is zero.

    Example:
        >>> import torch
        >>> relative_error(torch.tensor([1.0, 2.2]), torch.tensor([1.0, 2.0]))  # doctest: +ELLIPSIS
        0.1000000...
    """
    if measured.shape != predicted.shape:
        raise ValueError(
            f"measured has shape {tuple(measured.shape)}, predicted {tuple(predicted.shape)}: compare like with like"
        )
    return _number((measured - predicted).abs().max().item() / (predicted.abs().max().item() or 1.0))


def largest(values: Float[Tensor, "..."]) -> float:
    """Largest magnitude of a tensor, as a number."""
    return _number(values.abs().max().item())


def worst(values: Iterable[float]) -> float:
    """The largest of some disagreements, where Python's ``max`` would lose one that is not a number.

    Example:
        >>> worst([1e-13, 3e-12])
        3e-12
    """
    return max(_number(float(value)) for value in values)


def mildest(values: Iterable[float]) -> float:
    """The smallest of some disagreements: of several controls the one that comes closest to passing."""
    return min(_number(float(value)) for value in values)


def observed_order(errors: Sequence[float], steps: Sequence[float]) -> float:
    """Slope of log error against log step by least squares: the order of convergence.

    Example:
        >>> round(observed_order([1e-2, 1e-4, 1e-6], [1e-1, 1e-2, 1e-3]), 12)
        2.0
    """
    if len(errors) != len(steps) or len(errors) < 2:
        raise ValueError(f"need two or more errors with their steps, got {len(errors)} and {len(steps)}")
    x, y = ([math.log(v) for v in values] for values in (steps, errors))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return _number(
        sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    )


def _number(value: float) -> float:
    """Python's ``max`` and ``min`` drop a nan that does not come first: it must not leave this module."""
    if math.isnan(value):
        raise ValueError("the disagreement is not a number: look for nan, or an infinity on both sides")
    return value

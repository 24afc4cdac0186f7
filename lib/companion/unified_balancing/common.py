"""What several chapters of paper A share: chains that learn something, and activations by name."""

from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from normdyn.networks.graphs import layered_weights
from normdyn.networks.losses import cross_entropy


class Task(NamedTuple):
    """A chain of layers and what it has to learn; samples are rows."""

    weights: list[Tensor]
    X: Tensor
    Y: Tensor


def identity(z: Tensor) -> Tensor:
    """No nonlinearity at all."""
    return z


@shared
def chains(
    case: Case,
    role: int | str,
    widths: tuple[int, ...],
    *,
    samples: int = 12,
    gain: float = 1.5,
    count: int = 3,
    loss=None,
) -> list[Task]:
    """Gaussian weights, inputs and targets; for cross-entropy the targets are labels."""
    draw, found = case.generator(role), []
    for _ in range(count):
        weights = layered_weights(widths, draw, gain=gain)
        X, Y = (torch.randn(samples, width, generator=draw, dtype=torch.float64) for width in (widths[0], widths[-1]))
        found.append(Task(weights, X, Y.argmax(1) if loss is cross_entropy else Y))
    return found


def named(weights: list[Tensor]) -> dict[str, Tensor]:
    """The layers as named parameters, ``W1`` first."""
    return {f"W{l + 1}": W for l, W in enumerate(weights)}


def listed(params: dict[str, Tensor]) -> list[Tensor]:
    """The layers of :func:`named` in their order; other parameters are left out."""
    return [params[f"W{l + 1}"] for l in range(sum(name.startswith("W") for name in params))]


def root(z: Tensor) -> Tensor:
    """Homogeneous of order 1/2."""
    return z.abs().sqrt()


def squared_relu(z: Tensor) -> Tensor:
    """Homogeneous of order 2."""
    return torch.relu(z) ** 2


def signed_square(z: Tensor) -> Tensor:
    """Homogeneous of order 2, and odd."""
    return z * z.abs()


def normal(case: Case, role: int | str, *shape: int) -> Tensor:
    """Gaussian numbers in float64, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)

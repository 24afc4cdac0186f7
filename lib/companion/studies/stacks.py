"""What studies of many small networks share: networks of one form are stacked, and one gradient trains them all.

The network is the first dimension of every parameter. It unfolds to a grid whose last axis is the seeds, such as
scales by decays by seeds: everything random belongs to a seed and is shared along the other axes.

Random numbers are drawn on the processor, so that they are the same for every device.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Params = dict[str, Tensor]
Device = torch.device | str


def require(setup: Any, *, filled: Sequence[str] = (), at_least_one: Sequence[str] = ()) -> None:
    """Check fields of a setup; None stands for no choice and passes as a number.

    Raises:
        ValueError: A field that must be filled is empty, or a number is below one.
    """
    for name in filled:
        if not getattr(setup, name):
            raise ValueError(f"{name} is empty: give one value or more")
    for name in at_least_one:
        value = getattr(setup, name)
        if value is not None and not value >= 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


def move(params: Params, device: Device) -> Params:
    """The same parameters on a device."""
    return {name: p.to(device) for name, p in params.items()}


def in_words(device: Device) -> str:
    """A device, for the provenance of a result: the name of a GPU, or the processor and its threads.

    Example:
        >>> in_words("cpu").startswith("cpu, ")
        True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {'one thread' if threads == 1 else f'{threads} threads'}"


def unfold(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Values of all networks as a grid of this shape, on the processor and apart from any graph."""
    return values.detach().reshape(*shape, *values.shape[1:]).cpu()


def along(numbers: Float[Tensor, " k"], p: Float[Tensor, "k ..."]) -> Tensor:
    """One number for each network, in the shape that multiplies a stacked parameter.

    Example:
        >>> along(torch.ones(5), torch.ones(5, 3, 2)).shape
        torch.Size([5, 1, 1])
    """
    return numbers.reshape(-1, *[1] * (p.ndim - 1))


def leaves(params: Params, frozen: Sequence[str] = ()) -> Params:
    """The parameters as leaves of a new graph, which needs no gradient of the frozen ones."""
    return {name: p.detach().requires_grad_(name not in frozen) for name, p in params.items()}


def gradients(losses: Float[Tensor, " k"], params: Params) -> Params:
    """Gradient of every network's loss with respect to its own parameters, those that need none left out."""
    moving = [name for name, p in params.items() if p.requires_grad]
    slopes = torch.autograd.grad(losses.sum(), [params[name] for name in moving])
    return dict(zip(moving, slopes, strict=True))


def orders(seeds: Sequence[int], samples: int, copies: int, *, salt: int = 2) -> Iterator[Int[Tensor, "k n"]]:
    """Endless random orders of the samples, one for each seed, shared by ``copies`` networks.

    Example:
        >>> first = next(orders((0, 1), samples=10, copies=3))
        >>> first.shape, bool((first[:2] == first[2:4]).all())
        (torch.Size([6, 10]), True)
    """
    generators = [torch.Generator().manual_seed(1000 * seed + salt) for seed in seeds]
    while True:
        yield torch.stack([torch.randperm(samples, generator=g) for g in generators]).repeat(copies, 1)

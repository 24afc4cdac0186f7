"""What a claim may depend on besides its arguments, and runs that several claims and figures share."""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

_CACHES: list[Any] = []
_DRAWN: list[int] = [0]


@dataclass(frozen=True)
class Case:
    """Seed, profile and device of one run; nothing else may change what a claim finds.

    Args:
        seed: Every random number comes from a generator that is made from it.
        profile: ``quick`` or ``paper``, by which a claim chooses its size.
        device: Where training runs; numbers come back to the processor.
    """

    seed: int = 0
    profile: str = "quick"
    device: str = "cpu"

    def generator(self, role: int | str) -> torch.Generator:
        """A stream of random numbers of its own for each role, on the processor.

        Example:
            >>> a, b = Case(0).generator("data"), Case(0).generator("weights")
            >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
            False
        """
        _DRAWN[0] += 1
        number = zlib.crc32(role.encode()) if isinstance(role, str) else role
        return torch.Generator().manual_seed(1_000_003 * self.seed + number)

    def with_seed(self, seed: int) -> "Case":
        """The same case with another seed."""
        return replace(self, seed=seed)


def draws() -> int:
    """How often a generator was asked for in this process: a claim for which it stays is not random."""
    return _DRAWN[0]


def shared(run: Callable[P, T]) -> Callable[P, T]:
    """A run that is computed once for equal arguments; probes empty all of them, see :func:`forget`.

    Sides call it; the body of a claim does not, so that what a side rests on can be traced.
    """
    cached = functools.cache(run)
    _CACHES.append(cached)

    @functools.wraps(run)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return cached(*args, **kwargs)  # type: ignore[arg-type]  # what cannot be hashed raises

    return call


def forget() -> None:
    """Empty the caches of all shared runs."""
    for cached in _CACHES:
        cached.cache_clear()

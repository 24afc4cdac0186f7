"""Hooks that stay with what they watch, and the model and optimiser inside of others that wrap them.

Source: ours.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

__all__ = ["Hook", "compiled", "innermost", "unwrapped"]


class Hook:
    """A hook that stays behind: copies and pickles of what carries it get a built-in function that does nothing.

    Compiled code leaves it out, for what happens inside of it is out of sight.
    """

    def __init__(self, call: Callable[..., None]):
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        if not torch.compiler.is_compiling():
            self._call(*arguments)

    def __reduce__(self):
        return getattr, (nullcontext(), "__exit__")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of torch.compile and DistributedDataParallel."""
    inner: Any = model
    while isinstance(inner, nn.parallel.DistributedDataParallel) or hasattr(inner, "_orig_mod"):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module
    return inner


def compiled(model: nn.Module) -> bool:
    """Whether some of its modules run as compiled code, in which no hook sees a call."""
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The one that steps: Accelerate's and Lightning's optimisers wrap it.

    Raises:
        TypeError: It takes no hooks.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}, which takes no hooks: pass the torch.optim.Optimizer that it "
            "steps with"
        )
    return optimizer


def sharding(model: nn.Module) -> str:
    """What splits the model's weights over processes, in words; empty if nothing does."""
    kinds = {kind.__name__ for m in model.modules() for kind in type(m).__mro__}
    for name in ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"):
        if name in kinds:
            return name
    for parameter in model.parameters():
        names = {kind.__name__ for kind in type(parameter).__mro__}
        if "DTensor" in names or hasattr(parameter, "placements"):
            return "DTensor"
        if "FlatParameter" in names or hasattr(parameter, "_is_flat_param"):
            return "FullyShardedDataParallel"
        if hasattr(parameter, "ds_id"):
            return "DeepSpeed ZeRO"
    return ""

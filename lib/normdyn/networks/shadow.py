r"""A copy of a model that has shapes and no numbers, and shares nothing with it.

Source: ours.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["SAME_SHAPE", "Shadow", "Untraceable", "shadow", "shortcut"]

SAME_SHAPE = "relu hardtanh silu gelu sigmoid tanh hardswish hardsigmoid elu leaky_relu bernoulli mish softplus".split()


class Untraceable(Exception):
    """Control flow or shapes that depend on values."""


class Shadow(NamedTuple):
    """A model on the meta device.

    Attributes:
        model: The copy.
        names: Of parameters, by the place of their memory.
        parameters: Those of the copy, that they stay alive.
        frozen: Parameters that cannot be rescaled, with the reason.
    """

    model: nn.Module
    names: dict[int, str]
    parameters: list[nn.Parameter]
    frozen: dict[str, str]


def shadow(model: nn.Module) -> Shadow:
    """Copy a model without its numbers; parameters that are one memory stay one.

    Raises:
        Untraceable: A parameter is no plain tensor.

    Source: ours.
    """
    memo: dict[int, Any] = {}
    names, frozen = dict[int, str](), dict[str, str]()
    seen: dict[tuple, nn.Parameter] = {}
    spans: list[tuple[int, int, str]] = []
    for name, value in model.named_parameters(remove_duplicate=False):
        if id(value) in memo:
            continue
        if value.is_meta or type(value.data) is not Tensor:
            raise Untraceable(f"{name}: a parameter of type {type(value).__name__} on {value.device}")
        key = (value.data_ptr(), value.shape, value.stride()) if value.numel() else (id(value),)
        if key not in seen:
            shell = torch.empty_like(value, device="meta", requires_grad=False)
            seen[key] = nn.Parameter(shell, requires_grad=value.requires_grad and value.is_floating_point())
            names[seen[key].untyped_storage()._cdata] = name
            if shell.stride() != value.stride():
                frozen[name] = f"{name} is laid out in memory in a way that views cannot follow"
            elif not value.is_floating_point():
                frozen[name] = f"{name} holds {value.dtype}, not real floating-point numbers"
            start, stop = value.data_ptr(), value.data_ptr() + value.numel() * value.element_size()
            for first, last, before in spans:
                if start < last and first < stop:
                    for each in (name, before):
                        frozen.setdefault(each, f"{name} shares memory with {before}")
            spans.append((start, stop, name))
        memo[id(value)] = seen[key]
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for module in model.modules():
        for other in vars(module).values():
            if isinstance(other, Tensor):
                memo.setdefault(id(other), other.detach())
    return Shadow(copy.deepcopy(model, memo), names, list(seen.values()), frozen)


def shortcut(name: str, args: tuple, kwargs: dict) -> Any:
    """Outputs without numbers of operations that PyTorch takes long to tell the shapes of; None for others.

    Source: elementary.
    """
    value = args[0] if args else None
    if not isinstance(value, Tensor) or not value.is_meta or not value.is_floating_point():
        return None
    if name in SAME_SHAPE:
        return torch.empty_like(value)
    if name.endswith("_") and name[:-1] in SAME_SHAPE:
        return value
    if name in ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"):
        return (torch.empty_like(value), *value.new_empty(2, value.shape[1]).unbind())
    if name == "native_layer_norm":
        rest = [*value.shape[: value.ndim - len(args[1])], *[1] * len(args[1])]
        return (torch.empty_like(value), value.new_empty(rest), value.new_empty(rest))
    return None

"""Whether two models compute the same, on a sample, in their own precision.

Source: ours.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normdyn.networks.modules import UnsupportedModel
from normdyn.networks.traced import tensors_in
from normdyn.shapes import Shaped

__all__ = ["TOLERANCES", "NotTheSame", "duplicate", "largest_difference", "mode", "outputs", "tolerance"]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.2}


class NotTheSame(UnsupportedModel):
    """A rescaled model that does not compute what the model did. The model that was given is as it was."""


def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps computed tensors among its attributes.

    Source: elementary.
    """
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, computed)


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put all modules into one mode, and back.

    Source: elementary.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, was in before:
            module.training = was


def outputs(
    model: nn.Module, args: tuple, kwargs: dict, *, training: bool, noise: float = 0.0
) -> list[Shaped[Tensor, "..."]]:
    """All tensors that a model returns; its buffers and the stream of random numbers are left as they are.

    Args:
        noise: Run it with weights that are wrong by this many units of rounding, at random.

    Source: elementary.
    """
    buffers = {name: value.clone() for name, value in model.named_buffers()} if training else {}
    if noise:
        for name, value in model.named_parameters():
            draw = torch.Generator(value.device).manual_seed(len(name))
            sign = torch.rand(value.shape, generator=draw, device=value.device) - 0.5
            eps = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
            buffers[name] = (value.detach() * (1 + 2 * noise * eps * sign.double())).to(value.dtype)
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.no_grad(), mode(model, training), torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(0)
        return [value.detach().clone() for value in tensors_in(functional_call(model, buffers, args, kwargs))]


def tolerance(model: nn.Module, values: list[Shaped[Tensor, "..."]]) -> float:
    """How far outputs may differ in the coarsest precision that a model uses, if it does not amplify rounding.

    Source: elementary.
    """
    dtypes = [v.dtype for v in values if v.is_floating_point()] + [p.dtype for p in model.parameters()]
    return max(TOLERANCES.get(dtype, 0.1) for dtype in dtypes)


def largest_difference(before: list[Shaped[Tensor, "..."]], after: list[Shaped[Tensor, "..."]]) -> float:
    """Over all pairs of tensors, relative to the largest finite entry of the first; infinite if kinds differ.

    Example:
        >>> largest_difference([torch.tensor([1.0, 4.0])], [torch.tensor([1.0, 4.4])])
        0.1...
    """
    worst = 0.0 if len(before) == len(after) else float("inf")
    for one, other in zip(before, after, strict=False):
        if one.shape != other.shape or one.dtype != other.dtype:
            return float("inf")
        if not one.numel():
            continue
        if not one.is_floating_point():
            worst = max(worst, float((one != other).any()))
            continue
        one, other = one.to(torch.float64), other.to(torch.float64)
        seen = one.isfinite()
        if not torch.equal(seen, other.isfinite()):
            return float("inf")
        gap, size = (
            torch.where(seen, one - other, 0.0).abs().max().item(),
            torch.where(seen, one, 0.0).abs().max().item(),
        )
        worst = max(worst, gap / size if size else float("inf") if gap else 0.0)
    return worst


class Check:
    """What a model returned on a sample, to compare with what it returns later.

    Args:
        modes: Training modes to run it in.

    Attributes:
        notes: What could not be compared, or only coarsely.

    Source: ours.
    """

    def __init__(self, model: nn.Module, args: tuple, kwargs: dict, modes: tuple[bool, ...]):
        self.args, self.kwargs, self.notes = args, kwargs, list[str]()
        self.before: dict[bool, list[Tensor]] = {}
        for training in modes:
            try:
                self.before[training] = outputs(model, args, kwargs, training=training)
            except Exception as error:
                self.notes.append(f"not verified in {'train' if training else 'eval'} mode: {one_line(error)}")

    def compare(self, model: nn.Module) -> dict[str, float]:
        """The largest relative difference in each mode.

        Raises:
            NotTheSame: It is more than rounding explains. Some models amplify rounding without bounds, in training
                mode above all (a batch normalisation over few numbers): then as much is allowed as rounding of the
                weights does.
        """
        found = {}
        for training, values in self.before.items():
            name = "train" if training else "eval"
            after = outputs(model, self.args, self.kwargs, training=training)
            found[name] = largest_difference(values, after)
            if found[name] <= tolerance(model, values):
                continue
            noisy = outputs(model, self.args, self.kwargs, training=training, noise=4.0)
            rounding = largest_difference(after, noisy)
            if not found[name] <= 30 * rounding:
                raise NotTheSame(
                    f"in {name} mode the rescaled model's outputs differ by {found[name]:.1e}, while rounding of its "
                    f"weights moves them by {rounding:.0e}; the model is as it was"
                )
            self.notes.append(f"in {name} mode the model amplifies rounding of its weights to {rounding:.0e}")
        return found


def one_line(error: Exception | None) -> str:
    """The first line of a message.

    Source: elementary.
    """
    text = str(error).strip().split("\n")[0]
    return text or type(error).__name__

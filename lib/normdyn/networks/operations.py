r"""What each tensor operation does to the classes of its inputs, see :mod:`normdyn.networks.units`.

There are four kinds. Movements (views, concatenation) carry classes along; homogeneous operations of degree one keep
them, and unite what they mix; layers with weights make new ones, each weight being a quotient of two factors; all
others are barriers, which fix what enters and leaves. An operation that is not known is a barrier.

The names are those of PyTorch's ATen operators, to which every function and module is reduced when it runs.

Source: ours; each rule is an identity of the form ``f(a x) = a f(x)``, and the chapter on graphs proves them.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from normdyn.networks.units import core
from normdyn.shapes import Shaped

__all__ = [
    "BARRIERS",
    "COMPARISONS",
    "ELEMENTWISE",
    "MOVEMENTS",
    "NORMALISATIONS",
    "RANDOM",
    "REDUCTIONS",
    "RULES",
    "SUMS",
    "WINDOWS",
    "barrier",
    "choose",
    "clamp",
    "compare",
    "convert",
    "join",
    "keep",
    "move",
    "pad",
    "pick",
    "prelu",
    "propagate",
    "reduce",
    "rule",
    "smallest",
    "unite",
    "window",
]

RULES: dict[str, Callable] = {}

MOVEMENTS = (
    "view _unsafe_view reshape _reshape_alias unsqueeze squeeze expand permute transpose t slice select split "
    "split_with_sizes unbind chunk detach alias flip roll repeat unfold pixel_shuffle pixel_unshuffle channel_shuffle "
    "native_channel_shuffle diagonal narrow movedim"
).split()
ELEMENTWISE = (
    "relu leaky_relu abs neg clone contiguous lift_fresh native_dropout dropout feature_dropout rrelu "
    "rrelu_with_noise rrelu_with_noise_functional positive tril triu zero"
).split()
WINDOWS = (
    "max_pool avg_pool adaptive_max_pool adaptive_avg_pool _adaptive_avg_pool max_pool_with_indices upsample_nearest "
    "_upsample_nearest_exact upsample_linear upsample_bilinear upsample_trilinear upsample_bicubic "
    "_upsample_bilinear_aa _upsample_bicubic_aa reflection_pad replication_pad fractional_max_pool mkldnn_max_pool"
).split()
REDUCTIONS = "mean sum amax amin max min nansum nanmean median linalg_vector_norm norm std cumsum".split()
SUMS = "add sub rsub maximum minimum fmax fmin copy lerp".split()
COMPARISONS = (
    "gt lt ge le eq ne sign sgn signbit isnan isfinite isinf zeros_like ones_like full_like empty_like rand_like "
    "randn_like new_zeros new_ones new_empty new_full"
).split()
BARRIERS = (
    "hardtanh clamp clamp_min clamp_max silu gelu sigmoid tanh hardswish hardsigmoid elu celu selu softplus mish exp "
    "log log1p expm1 sqrt rsqrt reciprocal pow sin cos erf softmax _softmax _safe_softmax log_softmax _log_softmax var "
    "softshrink hardshrink threshold log_sigmoid_forward square glu logsumexp round floor ceil var_mean std_mean"
).split()
RANDOM = "bernoulli uniform normal fill random exponential zero".split()
NORMALISATIONS = {
    "native_batch_norm": 1, "_native_batch_norm_legit": 1, "_native_batch_norm_legit_no_training": 1, "batch_norm": 1,
    "_batch_norm_with_update": 1, "_batch_norm_no_update": 1, "cudnn_batch_norm": 1, "miopen_batch_norm": 1,
    "native_group_norm": 1, "native_layer_norm": -1, "_fused_rms_norm": -1, "rms_norm": -1,
}  # fmt: skip


def rule(*names: str) -> Callable:
    """Register a rule under the names of its operations, without trailing underscores."""

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def propagate(ctx: Any, func: Any, args: tuple, kwargs: dict, out: Any) -> None:
    """Give the outputs of an operation their classes.

    Args:
        ctx: The trace: ``ids`` and ``set`` of values, ``weight`` of parameters, ``classes``, ``where``.

    Source: ours.
    """
    name = func._schema.name.split("::")[1]
    mutates = func._schema.is_mutable and not name.startswith("_") and name.endswith("_")
    plain = name[:-1] if mutates else name
    action = RULES.get(plain) or RULES.get(re.sub(r"\dd(?=_|$)", "", plain)) or barrier
    target = args[0] if mutates and args else None
    if plain == "copy" and ctx.write(args[0], args[1]):
        return
    if mutates and plain in RANDOM:
        return ctx.set(out, ctx.constant(out)) if not ctx.tracked(target) else ctx.classes.fix(
            ctx.ids(target), ctx.said(f"{plain} writes constants")
        )  # fmt: skip
    before = ctx.ids(target) if isinstance(target, Tensor) else None
    if func._schema.is_mutable and not mutates and not ("batch_norm" in name or "rrelu" in name):
        action = barrier
    action(ctx, plain, func, args, kwargs, out)
    if before is not None:  # what lies at one place in memory keeps one class, also for other views of it
        ctx.classes.unite(before, ctx.ids(out), ctx.said("written to in place"))
        ctx.set(target, before)
        ctx.set(out, before)


def barrier(ctx, name, func, args, kwargs, out, reason: str | None = None) -> None:
    """Fix all that enters; what leaves is fixed too."""
    verdict = "is not" if name in BARRIERS else "is not known to be"
    reason = reason or ctx.said(f"{ctx.actor(name)} {verdict} homogeneous, g(a x) = a g(x)")
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, Tensor):
            ctx.fix(value, reason)
    for value in tree_leaves(out):
        if isinstance(value, Tensor):
            ctx.set(value, ctx.constant(value, reason))


@rule(*MOVEMENTS)
def move(ctx, name, func, args, kwargs, out) -> None:
    """Do to the classes what is done to the values."""
    numbers = ctx.raw(args[0])
    if name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        if len(args) > 1 and isinstance(args[1], torch.dtype):
            return barrier(ctx, name, func, args, kwargs, out)
        moved = numbers.reshape(out.shape)
    else:
        moved = func(numbers, *args[1:], **kwargs)
    for value, each in zip(tree_leaves(out), tree_leaves(moved), strict=True):
        ctx.set(value, each)
    ctx.follow_blank(numbers, tree_leaves(moved))


@rule(*ELEMENTWISE)
def keep(ctx, name, func, args, kwargs, out) -> None:
    """One output, of the first input's classes; further ones (a mask) are constants."""
    first, *rest = tree_leaves(out)
    ctx.set(first, ctx.ids(args[0]))
    for value in rest:
        ctx.set(value, ctx.constant(value))


@rule("as_strided")
def stride(ctx, name, func, args, kwargs, out) -> None:
    """A view by strides, which keeps its classes where it only says how memory is laid out."""
    if out.shape == args[0].shape and 1 in out.shape[-2:]:
        return keep(ctx, name, func, args, kwargs, out)
    barrier(ctx, name, func, args, kwargs, out)


@rule("_to_copy", "to")
def convert(ctx, name, func, args, kwargs, out) -> None:
    """A change of precision; numbers that are not real are barriers."""
    if out.is_floating_point() or not args[0].is_floating_point():
        return keep(ctx, name, func, args, kwargs, out)
    barrier(ctx, name, func, args, kwargs, out)


@rule("threshold", "hardtanh", "clamp", "clamp_min", "clip")
def clamp(ctx, name, func, args, kwargs, out) -> None:
    """A ReLU in disguise, if all bounds are zero or infinite."""
    bounds = [value for value in (*args[1:], *kwargs.values()) if value is not None]
    if all(isinstance(value, (int, float)) and (value == 0 or math.isinf(value)) for value in bounds):
        return keep(ctx, name, func, args, kwargs, out)
    barrier(ctx, name, func, args, kwargs, out)


@rule("_prelu_kernel", "prelu")
def prelu(ctx, name, func, args, kwargs, out) -> None:
    """Slopes stay as they are; classes that share a slope tensor are not joined by that."""
    ctx.fix(args[1], ctx.said("a slope, which no rescaling changes"))
    ctx.set(out, ctx.ids(args[0]))


@rule(*WINDOWS)
def window(ctx, name, func, args, kwargs, out) -> None:
    """Pooling, interpolation and padding with what is there: positions in space share a class."""
    space = int(next(re.finditer(r"(\d)d", func._schema.name)).group(1))
    values = tree_leaves(out)
    axes = range(args[0].ndim - space, args[0].ndim)
    numbers = ctx.classes.together(ctx.ids(args[0]), axes, ctx.said("pooled with a constant"))
    ctx.set(values[0], numbers.expand(values[0].shape))
    for value in values[1:]:
        ctx.set(value, ctx.constant(value))


@rule("constant_pad_nd", "pad")
def pad(ctx, name, func, args, kwargs, out) -> None:
    """Zeros belong to any class: new ones where channels are added. Another constant is a barrier."""
    value = args[2] if len(args) > 2 else kwargs.get("value", 0)
    if value and not math.isinf(value):
        reason = ctx.said(f"padded with the constant {value:g}")
        return barrier(ctx, name, func, args, kwargs, out, reason)
    numbers, widths = ctx.ids(args[0]), list(args[1])
    for axis in range(numbers.ndim):
        before, after = widths[2 * (numbers.ndim - 1 - axis) :][:2] or (0, 0)
        if not (before or after):
            continue
        if numbers.stride(axis) == 0 or numbers.shape[axis] == 1:
            numbers = core(numbers, [axis]).expand(*numbers.shape[:axis], out.shape[axis], *numbers.shape[axis + 1 :])
            continue
        inner = core(numbers)
        parts = [inner.narrow(axis, max(-before, 0), inner.shape[axis] - max(-before, 0) - max(-after, 0))]
        for place, width in ((0, before), (len(parts), after)):
            if width > 0:
                shape = [width if k == axis else 1 for k in range(inner.ndim)]
                zeros = ctx.classes.fresh(width, ctx.path).reshape(shape)
                zeros = zeros.expand([width if k == axis else n for k, n in enumerate(inner.shape)])
                parts.insert(0 if place == 0 else len(parts), zeros)
        full = [out.shape[axis] if k == axis else n for k, n in enumerate(numbers.shape)]
        numbers = torch.cat(parts, axis).expand(full)
    ctx.set(out, numbers)


@rule(*REDUCTIONS)
def reduce(ctx, name, func, args, kwargs, out) -> None:
    """Sums, means, maxima and norms over axes, whose entries then share a class."""
    if isinstance(args[1] if len(args) > 1 else None, Tensor):
        return unite(ctx, name, func, args, kwargs, out)
    numbers, values = ctx.ids(args[0]), tree_leaves(out)
    by_order = name in ("linalg_vector_norm", "norm")
    if by_order and (args[1:2] or (kwargs.get("ord", 2),))[0] == 0:
        return barrier(ctx, name, func, args, kwargs, out)  # it counts
    axes = kwargs.get("dim", args[1 + by_order] if len(args) > 1 + by_order else None)
    axes = [axes] if isinstance(axes, int) else axes or range(numbers.ndim)
    axes = [axis % max(numbers.ndim, 1) for axis in axes]
    numbers = ctx.classes.together(numbers, axes, ctx.said("summed with a constant"))
    if values[0].ndim < numbers.ndim:
        numbers = numbers[tuple(0 if k in axes else slice(None) for k in range(numbers.ndim))]
    ctx.set(values[0], numbers.expand(values[0].shape))
    for value in values[1:]:
        ctx.set(value, ctx.constant(value))


@rule(*SUMS)
def unite(ctx, name, func, args, kwargs, out) -> None:
    """Terms of a sum share a class. A constant term fixes it, unless it is zero."""
    terms = args[:2]
    numbers = [ctx.ids(term) for term in terms if isinstance(term, Tensor)]
    constant = [term for term in terms if not isinstance(term, Tensor)]
    if len(args) > 2 and isinstance(args[2], Tensor):
        ctx.fix(args[2], ctx.said("a weight of an interpolation"))
    if any(constant):
        ctx.classes.fix(numbers[0], ctx.said(f"the constant {constant[0]} is added"))
    if len(numbers) == 2:
        ctx.classes.unite(*numbers, ctx.said("a constant is added"))
    ctx.set(out, smallest(numbers, out.shape))


def smallest(numbers: list[Shaped[Tensor, "..."]], shape: torch.Size) -> Shaped[Tensor, "..."]:
    """Of tensors that name the same classes, the one of fewest entries."""
    return min((core(each) for each in numbers), key=Tensor.numel).expand(shape)


@rule("where", "masked_fill")
def choose(ctx, name, func, args, kwargs, out) -> None:
    """A mask is a constant; what it chooses from shares a class. Zero and infinity belong to any."""
    if name == "masked_fill":
        value, mask, filling = args
        ctx.fix(mask, ctx.said("a mask"))
        numbers = ctx.ids(value)
        if isinstance(filling, Tensor) or (filling and not math.isinf(filling)):
            ctx.classes.fix(numbers, ctx.said(f"{name} writes a constant"))
        return ctx.set(out, numbers.expand(out.shape))
    if len(args) < 3:
        return barrier(ctx, name, func, args, kwargs, out)
    ctx.fix(args[0], ctx.said("a mask"))
    unite(ctx, name, func, args[1:], {}, out)


@rule(*COMPARISONS)
def compare(ctx, name, func, args, kwargs, out) -> None:
    """Signs do not depend on a positive factor; sizes compared with another number do."""
    others = [value for value in (*args[1:2], *kwargs.values()) if value is not None]
    if name in ("gt", "lt", "ge", "le", "eq", "ne") and not (
        isinstance(others[0], (int, float)) and (others[0] == 0 or math.isinf(others[0]))
    ):
        return barrier(ctx, name, func, args, kwargs, out)
    if name.startswith(("new_empty", "empty_like", "new_zeros", "zeros_like")):
        return ctx.set_blank(out)
    ctx.set(out, ctx.constant(out))


@rule("cat", "stack")
def join(ctx, name, func, args, kwargs, out) -> None:
    """Concatenation keeps classes apart."""
    axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    parts = [ctx.ids(value) for value in args[0]]
    if name == "stack":
        parts = [part.unsqueeze(axis) for part in parts]
    parts = [part for part in parts if part.numel() and part.ndim == out.ndim]
    axis %= out.ndim
    cores = [core(part, [k for k in range(out.ndim) if k != axis]) for part in parts]
    shape = torch.broadcast_shapes(*([n if k != axis else 1 for k, n in enumerate(c.shape)] for c in cores))
    whole = torch.cat([c.expand([n if k == axis else shape[k] for k, n in enumerate(c.shape)]) for c in cores], axis)
    ctx.set(out, whole.expand(out.shape))


@rule("index", "index_select", "gather", "take_along_dim", "grid_sampler_2d", "grid_sampler_3d", "sort", "topk")
def pick(ctx, name, func, args, kwargs, out) -> None:
    """Entries chosen by numbers that a trace does not know: along the axes of choice all share a class."""
    value, values = args[0], tree_leaves(out)
    for each in tree_leaves((args[1:], kwargs)):
        if isinstance(each, Tensor):
            ctx.fix(each, ctx.said("an index"))
    if name == "index":
        axes = [k for k, each in enumerate(args[1]) if each is not None]
        if values[0].ndim != value.ndim or any(each is not None and each.ndim > 1 for each in args[1]):
            axes = list(range(value.ndim))
    elif name.startswith("grid_sampler"):
        axes = list(range(2, value.ndim))
    elif name in ("sort", "topk"):
        axes = [kwargs.get("dim", -1)] if name == "sort" or len(args) < 3 else [args[2]]
    else:
        axes = [args[1]]
    axes = [axis % value.ndim for axis in axes]
    numbers = ctx.classes.together(ctx.ids(value), axes, ctx.said("picked among constants"))
    if len(axes) == value.ndim:
        numbers = numbers.reshape([1] * values[0].ndim)
    ctx.set(values[0], numbers.expand(values[0].shape))
    for each in values[1:]:
        ctx.set(each, ctx.constant(each))

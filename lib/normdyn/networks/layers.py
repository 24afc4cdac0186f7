r"""What layers with weights do to classes: new ones for their outputs, see :mod:`normdyn.networks.operations`.

Each weight is multiplied by the factor of the unit that it enters and divided by that of the unit it comes from. A
normalisation's gain enters a unit too, from something that has no factor.

Source: ours, after Saul, eqs. (6), (7).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from normdyn.networks.operations import NORMALISATIONS, barrier, rule
from normdyn.networks.units import core
from normdyn.shapes import Shaped

__all__ = [
    "add_bias",
    "attend",
    "connect",
    "contract",
    "convolve",
    "convolve_values",
    "embed",
    "multiply",
    "multiply_matrices",
    "normalise",
    "scale",
]


@rule("mul", "div", "true_divide")
def multiply(ctx, name, func, args, kwargs, out) -> None:
    """A constant factor keeps classes; a parameter is a gain that makes new ones; of two values one is fixed."""
    a, b = args[:2]
    if kwargs.get("rounding_mode") is not None or (name != "mul" and not isinstance(a, Tensor)):
        return barrier(ctx, name, func, args, kwargs, out)
    if not isinstance(b, Tensor) or not isinstance(a, Tensor):
        return ctx.set(out, ctx.ids(a if isinstance(a, Tensor) else b))
    if name == "mul":
        for value, gain in ((a, b), (b, a)):
            if ctx.weight(gain) is not None and ctx.weight(value) is None:
                return scale(ctx, value, gain, out)
    if name != "mul" or not ctx.classes.fixed(ctx.ids(a)):
        ctx.fix(b, ctx.said("a divisor" if name != "mul" else "multiplies another value that could be rescaled"))
    numbers = ctx.ids(b) if ctx.classes.fixed(ctx.ids(a)) else ctx.ids(a)
    ctx.set(out, numbers.expand(out.shape))


def scale(ctx, value: Shaped[Tensor, "..."], gain: Shaped[Tensor, "..."], out: Shaped[Tensor, "..."]) -> None:
    """A gain for each unit: a layer with one weight a row. One for units of many classes stays as it is."""
    axes = [k for k in range(-gain.ndim, 0) if gain.stride(k) and gain.shape[k] > 1]
    numbers = ctx.ids(value).expand(out.shape)
    shared = [k for k in range(-out.ndim, 0) if k not in axes]
    roots = core(ctx.classes.roots(core(numbers)).expand(out.shape))
    uneven = any((roots.narrow(k, 0, 1) != roots).any() for k in shared if roots.shape[k] > 1)
    if len(axes) != 1 or uneven:
        ctx.fix(gain, ctx.said("a gain for units that are not rescaled alike"))
        return ctx.set(out, numbers)
    (axis,), n = axes, gain.shape[axes[0]]
    for k in shared:
        numbers = numbers.narrow(k, 0, 1) if numbers.shape[k] > 1 else numbers
    source = numbers.expand([n if k == axis else 1 for k in range(-out.ndim, 0)]).reshape(n, 1)
    target = ctx.classes.fresh(n, ctx.path)
    ctx.use(gain, (n, 1, 1), (gain.stride(axis), 0, 0), target[:, None], source)
    ctx.set(out, target.reshape([n if k == axis else 1 for k in range(-out.ndim, 0)]).expand(out.shape))


@rule("mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "linear", "matmul")
def multiply_matrices(ctx, name, func, args, kwargs, out) -> None:
    """A layer if one side is a parameter. Of two values one must be fixed; the other's classes are summed over."""
    bias = None
    if name in ("addmm", "baddbmm"):
        bias, *args = args
    a, b = args[:2]
    single = lambda weight: ctx.weight(weight) is not None and (weight.ndim == 2 or weight.shape[0] == 1)
    if name == "linear" and single(b) and ctx.weight(a) is None and a.ndim > 1:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        numbers = connect(ctx, ctx.ids(a), b, b.stride(), b.shape, bias)
    elif min(a.ndim, b.ndim) < 2 or name in ("linear", "addbmm", "matmul"):
        return barrier(ctx, name, func, (bias, *args), kwargs, out)
    elif single(b) and ctx.weight(a) is None:
        numbers = connect(ctx, ctx.ids(a), b, b.stride()[:-3:-1], tuple(b.shape)[:-3:-1], bias)
    elif single(a) and ctx.weight(b) is None and bias is None:
        numbers = connect(ctx, ctx.ids(b).mT, a, a.stride()[-2:], a.shape[-2:], None)[:, None]
    else:
        numbers = contract(ctx, a, b)
        if bias is not None:
            ctx.classes.unite(numbers.expand(out.shape), ctx.ids(bias), ctx.said("a constant is added"))
    ctx.set(out, numbers.expand(out.shape))


def connect(ctx, numbers, weight, strides, sizes, bias) -> Shaped[Tensor, "..."]:
    """A dense layer over the last axis of a value of these classes; the classes of its outputs."""
    said = ctx.said("a layer sees constants at the same unit")
    source = ctx.classes.together(numbers, range(numbers.ndim - 1), said)
    source = source.expand(*source.shape[:-1], sizes[1]).reshape(1, -1)
    target = ctx.classes.fresh(sizes[0], ctx.path)
    use = ctx.use(weight, (1, *sizes), (0, *strides), target[None], source)
    add_bias(ctx, bias, target, (1, sizes[0]), use)
    return target


def add_bias(
    ctx, bias: Shaped[Tensor, "..."] | None, target: Shaped[Tensor, "..."], shape: tuple[int, int], layer: Any
) -> None:
    """A bias goes with its unit."""
    if bias is None:
        return
    if ctx.weight(bias) is None or bias.numel() != target.numel() or not bias.is_contiguous():
        numbers = ctx.ids(bias) if bias.numel() != target.numel() else ctx.ids(bias).reshape(-1)
        return ctx.classes.unite(target, numbers, ctx.said("a constant is added"))
    groups, rows = shape
    ctx.use(bias, (groups, rows, 1), (rows, 1, 0), target.reshape(shape), torch.zeros(groups, 1).long(), layer)


def contract(ctx, a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """A product of two values, as of attention weights with what they attend to."""
    if ctx.classes.fixed(ctx.ids(a)):
        return ctx.classes.together(ctx.ids(b), [b.ndim - 2], ctx.said("summed with a constant"))
    if not ctx.classes.fixed(ctx.ids(b)):
        for value in (a, b):
            ctx.fix(value, ctx.said("a product with another value that could be rescaled"))
    return ctx.classes.together(ctx.ids(a), [a.ndim - 1], ctx.said("summed with a constant"))


@rule(
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps", "scaled_dot_product_attention",
)  # fmt: skip
def attend(ctx, name, func, args, kwargs, out) -> None:
    """Attention: queries and keys pass a softmax, values are summed with what it gives."""
    query, key, value, *rest = args
    first, *others = tree_leaves(out)
    for each in tree_leaves((query, key, rest, kwargs)):
        if isinstance(each, Tensor):
            ctx.fix(each, ctx.said("attention weights are a softmax, which is not homogeneous"))
    numbers = ctx.classes.together(ctx.ids(value), [value.ndim - 2], ctx.said("summed with a constant"))
    if numbers.ndim == first.ndim and numbers.shape[1] not in (1, first.shape[1]):
        numbers = numbers.repeat_interleave(first.shape[1] // numbers.shape[1], 1)
    ctx.set(first, numbers.expand(first.shape))
    for each in others:
        if isinstance(each, Tensor):
            ctx.set(each, ctx.constant(each))


@rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution", "convolution_overrideable")
def convolve(ctx, name, func, args, kwargs, out) -> None:
    """A layer over channels: every pair of channels in a group has a kernel."""
    value, weight, bias = args[:3]
    if name == "mkldnn_convolution":
        transposed, groups = False, args[6]
    elif name == "cudnn_convolution":
        return barrier(ctx, name, func, args, kwargs, out)
    else:
        transposed, groups = args[6], args[8]
    channels, space = (0 if value.ndim == weight.ndim - 1 else 1), weight.ndim - 2
    axes = [k for k in range(value.ndim) if k != channels]
    source = ctx.classes.together(ctx.ids(value), axes, ctx.said("a layer sees constants at the same unit"))
    source = source.expand([1 if k in axes else n for k, n in enumerate(value.shape)]).reshape(groups, -1)
    shape = [out.shape[channels] if k == channels else 1 for k in range(out.ndim)]
    if ctx.weight(weight) is None:
        return convolve_values(ctx, source, weight, bias, shape, out)
    outer, inner, *steps = weight.stride()
    rows, columns = out.shape[channels] // groups, source.shape[1]
    strides = (columns * outer, inner, outer) if transposed else (rows * outer, outer, inner)
    target = ctx.classes.fresh(groups * rows, ctx.path)
    use = ctx.use(
        weight,
        (groups, rows, columns, *weight.shape[-space:]),
        (*strides, *steps),
        target.reshape(groups, rows),
        source,
    )
    add_bias(ctx, bias, target, (groups, rows), use)
    ctx.set(out, target.reshape(shape).expand(out.shape))


def convolve_values(ctx, source, weight, bias, shape, out) -> None:
    """With weights that are computed: they stay, so that all channels of a group share a class."""
    ctx.fix(weight, ctx.said("weights that are computed, not stored"))
    source = ctx.classes.together(source, [1], ctx.said("summed with a constant"))
    numbers = source.expand(len(source), out.numel() and math.prod(shape) // len(source)).reshape(shape)
    if bias is not None:
        ctx.classes.unite(numbers, ctx.ids(bias).reshape(shape), ctx.said("a constant is added"))
    ctx.set(out, numbers.expand(out.shape))


@rule(*NORMALISATIONS)
def normalise(ctx, name, func, args, kwargs, out) -> None:
    """What enters is fixed, in training and in evaluation; gain and bias make new classes of what leaves."""
    first, *rest = tree_leaves(out)
    value = args[0]
    ctx.fix(value, ctx.said(f"{ctx.actor(name)} normalises what enters, which has no scale to pass on"))
    by_shape = NORMALISATIONS[name] < 0
    weight, bias = (*args[2 if by_shape else 1 :], None, None)[:2]
    bias = bias if isinstance(bias, Tensor) else None  # the eps of a norm without bias
    for each in rest:
        ctx.set(each, ctx.constant(each))
    shape = [1] * first.ndim
    if by_shape:
        shape[-len(args[1]) :] = args[1]
    else:
        shape[1] = value.shape[1]
    if weight is None:
        ctx.set(first, ctx.constant(first, ctx.said(f"{ctx.actor(name)} has no gain that could be rescaled")))
        if bias is not None:
            ctx.fix(bias, ctx.said("a bias without a gain"))
        return
    count = weight.numel()
    if ctx.weight(weight) is None or not weight.is_contiguous():
        numbers = ctx.ids(weight)
        ctx.count(numbers)
        if bias is not None:
            ctx.classes.unite(numbers, ctx.ids(bias), ctx.said("a constant is added"))
        return ctx.set(first, numbers.reshape(shape).expand(first.shape))
    target = ctx.classes.fresh(count, ctx.path)
    use = ctx.use(weight, (count, 1, 1), (1, 0, 0), target[:, None], torch.zeros(count, 1).long())
    add_bias(ctx, bias, target, (count, 1), use)
    ctx.set(first, target.reshape(shape).expand(first.shape))


@rule("embedding")
def embed(ctx, name, func, args, kwargs, out) -> None:
    """A layer whose inputs are words: a column for each unit."""
    weight, words = args[:2]
    ctx.fix(words, ctx.said("an index"))
    if ctx.weight(weight) is None:
        numbers = ctx.classes.together(ctx.ids(weight), [0], ctx.said("picked among constants"))
        return ctx.set(out, numbers.reshape([1] * words.ndim + [-1]).expand(out.shape))
    vocabulary, width = weight.shape
    target = ctx.classes.fresh(width, ctx.path)
    steps = (0, weight.stride(1), 0, weight.stride(0))
    ctx.use(weight, (1, width, 1, vocabulary), steps, target[None], torch.zeros(1, 1).long())
    ctx.set(out, target.expand(out.shape))

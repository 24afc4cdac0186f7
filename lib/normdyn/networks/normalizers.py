r"""Normalisation layers as functions of tensors: batch, layer, group and instance normalisation, weight normalisation.

All but the last are one map over different axes: subtract the mean, divide by the standard deviation,

.. math:: \hat z = (z-\mu)/s, \qquad \mu=\langle z\rangle,\quad s^2=\langle (z-\mu)^2\rangle+\epsilon .

Samples are rows; features, or channels, are the second axis; what follows is space. Variances divide by the number of
averaged values, as training does. Sources: Ioffe and Szegedy 2015; Ba et al. 2016; Wu and He 2018; Ulyanov et al. 2016;
Salimans and Kingma 2016.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from normdyn.networks.graphs import Activation
from normdyn.shapes import Float

__all__ = [
    "Normalizer",
    "averaged_axes",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "normalize",
    "normalize_backward",
    "normalize_curvature",
    "normalized_mlp",
    "weight_norm",
]

Normalizer = Callable[[Tensor], Tensor]


def averaged_axes(kind: str, ndim: int) -> tuple[int, ...]:
    """Axes of one mean: ``batch``, ``layer`` or ``instance`` normalisation of a tensor of ``ndim`` axes.

    Raises:
        ValueError: Another kind, or instance normalisation of a signal without space.

    Example:
        >>> averaged_axes("batch", 4), averaged_axes("layer", 2), averaged_axes("instance", 4)
        ((0, 2, 3), (1,), (2, 3))
    """
    chosen = {"batch": (0, *range(2, ndim)), "layer": tuple(range(1, ndim)), "instance": tuple(range(2, ndim))}
    if kind not in chosen:
        raise ValueError(f"kind must be one of {sorted(chosen)}, got {kind!r}")
    if not chosen[kind]:
        raise ValueError(f"kind='instance' averages over space, but the signal has {ndim} axes: it needs three or more")
    return chosen[kind]


def normalize(z: Float[Tensor, "n ..."], over: Sequence[int], *, epsilon: float = 0.0) -> Float[Tensor, "n ..."]:
    """Zero mean and unit variance over the axes ``over``; no gain, no shift.

    Raises:
        ValueError: A group of values has no spread, and ``epsilon`` is zero (not checked under ``torch.func``).
    """
    variance, mean = torch.var_mean(z, tuple(over), keepdim=True, correction=0)
    if epsilon == 0 and not torch._C._functorch.is_functorch_wrapped_tensor(z) and not bool((variance > 0).all()):
        raise ValueError("z: one group of values has no spread, so it cannot be normalised; give an epsilon")
    return (z - mean) / (variance + epsilon).sqrt()


def normalize_backward(
    z: Float[Tensor, "n ..."], gradient: Float[Tensor, "n ..."], over: Sequence[int], *, epsilon: float = 0.0
) -> Float[Tensor, "n ..."]:
    r"""Gradient in ``z`` of a loss whose gradient in :func:`normalize`'s output is ``gradient``.

    .. math:: \frac1s\left(g-\langle g\rangle-\hat z\,\langle g\hat z\rangle\right)

    The averages run over the same axes as the normalisation's; ``epsilon`` enters through ``s`` and ``z_hat`` alone.
    """
    over = tuple(over)
    variance, mean = torch.var_mean(z, over, keepdim=True, correction=0)
    scale = (variance + epsilon).sqrt()
    hat = (z - mean) / scale
    return (gradient - gradient.mean(over, keepdim=True) - hat * (gradient * hat).mean(over, keepdim=True)) / scale


def normalize_curvature(
    z: Float[Tensor, "n ..."],
    gradient: Float[Tensor, "n ..."],
    direction: Float[Tensor, "n ..."],
    over: Sequence[int],
    *,
    epsilon: float = 0.0,
) -> Float[Tensor, "n ..."]:
    r"""Second derivative of :func:`normalize`, contracted with a gradient, applied to a direction.

    With :math:`\Pi x = x-\langle x\rangle-\hat z\langle\hat zx\rangle`,

    .. math:: -\frac1{s^2}\left(\langle\hat zh\rangle\,\Pi g+\langle\hat zg\rangle\,\Pi h
              +\hat z\,\langle h\,\Pi g\rangle\right).

    The Hessian in ``z`` of a loss with gradient :math:`g` and Hessian :math:`A` in the normalised values maps
    :math:`h` to :math:`s^{-2}\Pi A\Pi h` plus this. For :math:`h=\hat z` this is :math:`-s^{-2}\Pi g` if ``epsilon``
    is zero: the Hessian has a row of zeros along the signal only where the gradient vanishes.

    Args:
        gradient: In the normalised values, of the shape of ``z``.
        direction: In ``z``, of its shape.

    Source: ours; paper C, appendix A.1.2, leaves these terms out.
    """
    over = tuple(over)
    variance, mean = torch.var_mean(z, over, keepdim=True, correction=0)
    scale = (variance + epsilon).sqrt()
    hat = (z - mean) / scale
    average = lambda x: x.mean(over, keepdim=True)
    slope, moved = (scale * normalize_backward(z, x, over, epsilon=epsilon) for x in (gradient, direction))
    mixed = average(hat * direction) * slope + average(hat * gradient) * moved
    return -(mixed + hat * average(direction * slope)) / scale.square()


def batch_norm(
    z: Float[Tensor, "n ..."],
    *,
    epsilon: float = 0.0,
    statistics: tuple[Float[Tensor, " c"], Float[Tensor, " c"]] | None = None,
) -> Float[Tensor, "n ..."]:
    """Batch normalisation of each feature or channel, by the batch's own statistics or by stored ones.

    Args:
        statistics: Mean and variance of each feature, constants as at inference; the batch's own if None.
    """
    if statistics is None:
        return normalize(z, averaged_axes("batch", z.ndim), epsilon=epsilon)
    mean, variance = (t.reshape(1, -1, *[1] * (z.ndim - 2)) for t in statistics)
    return (z - mean) / (variance + epsilon).sqrt()


def layer_norm(z: Float[Tensor, "n ..."], *, epsilon: float = 0.0) -> Float[Tensor, "n ..."]:
    """Layer normalisation: each sample over all its features."""
    return normalize(z, averaged_axes("layer", z.ndim), epsilon=epsilon)


def group_norm(z: Float[Tensor, "n ..."], groups: int, *, epsilon: float = 0.0) -> Float[Tensor, "n ..."]:
    """Group normalisation: each sample over each of ``groups`` equal runs of features; ``1`` is layer normalisation.

    Raises:
        ValueError: ``groups`` does not divide the number of features.
    """
    if groups < 1 or z.shape[1] % groups:
        raise ValueError(f"groups must divide the {z.shape[1]} features, got {groups}")
    grouped = z.reshape(len(z), groups, -1)
    return normalize(grouped, (2,), epsilon=epsilon).reshape(z.shape)


def instance_norm(z: Float[Tensor, "n ..."], *, epsilon: float = 0.0) -> Float[Tensor, "n ..."]:
    """Instance normalisation: each sample and channel over space."""
    return normalize(z, averaged_axes("instance", z.ndim), epsilon=epsilon)


def weight_norm(v: Float[Tensor, "o ..."], gain: Float[Tensor, " o"]) -> Float[Tensor, "o ..."]:
    """Weights ``gain * v / |v|``, one gain and one length for each output unit (Salimans and Kingma)."""
    shape = (-1, *[1] * (v.ndim - 1))
    return gain.reshape(shape) * v / v.flatten(1).norm(dim=1).reshape(shape)


def normalized_mlp(
    weights: Sequence[Float[Tensor, "_ _"]],
    X: Float[Tensor, "m d"],
    *,
    normalizer: Normalizer = batch_norm,
    activation: Activation = torch.relu,
    biases: Sequence[Float[Tensor, " _"]] | None = None,
    gains: Sequence[Float[Tensor, " _"]] | None = None,
    shifts: Sequence[Float[Tensor, " _"]] | None = None,
) -> Float[Tensor, "m r"]:
    """Outputs of a layered network with a normalisation in front of each activation; the last layer is linear.

    Args:
        weights: ``(fan_out, fan_in)``, as :func:`normdyn.networks.graphs.mlp` takes them.
        normalizer: Maps ``(m, units)`` to the same shape, for example :func:`batch_norm`.
        biases: One for each layer, added before the normalisation (and to the output); none if None.
        gains, shifts: Of each hidden layer, after the normalisation; ones and zeros if None.
    """
    H = X
    for l, W in enumerate(weights):
        H = H @ W.mT if biases is None else H @ W.mT + biases[l]
        if l < len(weights) - 1:
            H = normalizer(H)
            H = H if gains is None else gains[l] * H
            H = activation(H if shifts is None else H + shifts[l])
    return H

"""Layers without weights that section 4 of paper A is about: poolings and normalisations of samples of positions.

A sample has positions and channels, (samples, positions, channels); pooled positions are repeated, which is linear.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Map = Callable[[Tensor], Tensor]
EPS = 1e-5  # what torch adds under the root unless told otherwise
TINY = 1e-300  # torch wants BatchNorm's eps positive; this one rounds away


def convolve(H: Tensor, K: Tensor, padding: str | int, stride: int) -> Tensor:
    """One-dimensional convolution of feature maps (samples, channels, positions)."""
    if padding == "circular":
        return functional.conv1d(functional.pad(H, (0, K.shape[-1] - 1), mode="circular"), K, stride=stride)
    return functional.conv1d(H, K, padding=padding, stride=stride)


# Poolings


def over_positions(pool: Map) -> Map:
    """Pool pairs of positions and repeat the result."""
    return lambda h: pool(h.mT).repeat_interleave(2, -1).mT


def neighbours(nodes: int) -> Tensor:
    """A graph: each node reads itself, the next one and the one opposite."""
    eye = torch.eye(nodes, dtype=torch.float64)
    return eye + eye.roll(1, 1) + eye.roll(nodes // 2, 1)


def graph_sum(h: Tensor) -> Tensor:
    return neighbours(h.shape[1]) @ h


def graph_max(h: Tensor) -> Tensor:
    return torch.where(neighbours(h.shape[1])[..., None] > 0, h[:, None], -torch.inf).amax(2)


def scores(channels: int) -> Tensor:
    """Fixed weights of either sign by which nodes are scored."""
    return (2.3 * torch.arange(1, channels + 1, dtype=torch.float64)).sin()


def top_nodes(h: Tensor, q: Tensor | None = None, gate: Map = torch.sigmoid) -> Tensor:
    """Keep the better half of the nodes by score, each multiplied by the gate of its score; the others are zero."""
    q = scores(h.shape[-1]) if q is None else q
    score = h @ q / q.norm()
    kept = torch.zeros_like(score).scatter(1, score.topk(h.shape[1] // 2, dim=1).indices, 1.0)
    return h * (kept * gate(score))[..., None]


def plain_top_nodes(h: Tensor) -> Tensor:
    """The same without a gate."""
    return top_nodes(h, gate=torch.ones_like)


def soft_clusters(h: Tensor, Q: Tensor | None = None) -> Tensor:
    """Assign nodes to clusters by a softmax of their scores, pool, and go back to the nodes."""
    n = h.shape[-1]
    Q = torch.arange(n * n, dtype=torch.float64).sin().reshape(n, n) if Q is None else Q
    S = torch.softmax(h @ Q, -1)
    return S @ (S.mT @ h)


def log_sum_exp(h: Tensor) -> Tensor:
    """Soft maxima of triples of channels, repeated."""
    return h.unflatten(-1, (h.shape[-1] // 3, 3)).logsumexp(-1).repeat_interleave(3, -1)


# Normalisations


class Norm(NamedTuple):
    """One kind: torch's own where it has one, as a function of eps, and the dimensions of its statistics."""

    own: Callable[[float], Map]
    over: tuple[int, ...]  # of (samples, positions, channels); with a group of channels, of (..., groups, channels)
    groups: int = 1

    def standard(self, z: Tensor) -> Tensor:
        """Minus the mean, over the standard deviation."""
        if self.groups > 1:
            z = z.unflatten(-1, (self.groups, -1))
        out = (z - z.mean(self.over, keepdim=True)) / z.var(self.over, keepdim=True, unbiased=False).sqrt()
        return out.flatten(2)

    def share(self, z: Tensor, eps: float) -> Tensor:
        """eps over the variance plus eps, for each group of entries."""
        return eps / (z.var(self.over, keepdim=True, unbiased=False) + eps)


def channels_last(norm: Map) -> Map:
    return lambda z: norm(z.mT).mT


def by_absolute(z: Tensor, over: tuple[int, ...]) -> Tensor:
    """Over the mean absolute value in place of the deviation."""
    centred = z - z.mean(over, keepdim=True)
    return centred / centred.abs().mean(over, keepdim=True)


def by_largest(z: Tensor, over: tuple[int, ...]) -> Tensor:
    """Over the largest absolute value."""
    centred = z - z.mean(over, keepdim=True)
    return centred / centred.abs().amax(over, keepdim=True)


def batch_norm(eps: float) -> Map:
    return channels_last(lambda z: functional.batch_norm(z, None, None, training=True, eps=eps or TINY))


def layer_norm(eps: float) -> Map:
    return lambda z: functional.layer_norm(z, z.shape[-1:], eps=eps)


def instance_norm(eps: float) -> Map:
    return channels_last(lambda z: functional.instance_norm(z, eps=eps))


def group_norm(eps: float) -> Map:
    return channels_last(lambda z: functional.group_norm(z, 2, eps=eps))


def rms_norm(eps: float) -> Map:
    return lambda z: functional.rms_norm(z, z.shape[-1:], eps=eps)


NORMS = {
    "BatchNorm": Norm(batch_norm, (0, 1)),
    "LayerNorm": Norm(layer_norm, (2,)),
    "InstanceNorm": Norm(instance_norm, (1,)),
    "GroupNorm": Norm(group_norm, (1, 3), 2),
    "RMSNorm": Norm(rms_norm, (2,)),
    "$\\ell^1$ BatchNorm": Norm(lambda eps: lambda z: by_absolute(z, (0, 1)), (0, 1)),
    "$\\ell^\\infty$ BatchNorm": Norm(lambda eps: lambda z: by_largest(z, (0, 1)), (0, 1)),
}

r"""How far a classifier may be pushed: noise on its weights, and the distance of a sample to the decision boundary.

Stacks of two-class networks with one hidden ReLU layer, :math:`f(x)=v\cdot(Wx+b)_+ + c`, as dictionaries with one
leading dimension ``k``: ``W`` ``(k, h, d)``, ``b`` ``(k, h)``, ``v`` ``(k, h)``, ``c`` ``(k,)``. A batch normalisation
with frozen statistics is affine: :func:`fold` makes it part of ``W`` and ``b``.

A margin :math:`yf(x)` and a noise of given standard deviation are measured in the units of the weights. What is
measured in units of the input, or relative to each weight, does not change when the weights are rescaled.

Source: ours, elementary for one hidden layer; made for paper C's third experiment, on margins and noise on weights,
which does not say how it measures them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from normdyn.shapes import Float

__all__ = [
    "NOISES",
    "Params",
    "boundary_above",
    "boundary_below",
    "fold",
    "input_gradient",
    "noise_curve",
    "output",
    "path_norm",
    "perturb",
    "tolerance",
]

Params = dict[str, Tensor]
NOISES = ("absolute", "layer", "weight")


def fold(
    params: Params,
    mean: Float[Tensor, "k h"],
    variance: Float[Tensor, "k h"],
    gain: Float[Tensor, "k h"],
    *,
    epsilon: float = 0.0,
) -> Params:
    """The same function without normalisation: ``gain * (W x - mean) / std + b`` as one affine map.

    Args:
        params: ``b`` is the shift after the normalisation.
        mean, variance: Of ``W x``, the statistics that inference uses.
    """
    scale = gain / (variance + epsilon).sqrt()
    return params | {"W": scale[..., None] * params["W"], "b": params["b"] - scale * mean}


def output(params: Params, X: Float[Tensor, "k n d"]) -> Float[Tensor, "k n"]:
    """Outputs of the stacked networks, each on its own samples."""
    hidden = torch.relu(X @ params["W"].mT + params["b"][:, None])
    return (hidden @ params["v"][..., None]).squeeze(-1) + params["c"][:, None]


def input_gradient(params: Params, X: Float[Tensor, "k n d"]) -> Float[Tensor, "k n d"]:
    """Gradient of each output in its input."""
    on = (X @ params["W"].mT + params["b"][:, None] > 0).to(X.dtype)
    return (on * params["v"][:, None]) @ params["W"]


def path_norm(params: Params) -> Float[Tensor, " k"]:
    r""":math:`\sum_j|v_j|\,\|w_j\|`: a Lipschitz constant of the output, the same for all rescalings of the units."""
    return (params["v"].abs() * params["W"].norm(dim=-1)).sum(-1)


def boundary_below(params: Params, X: Float[Tensor, "k n d"], steps: int = 50) -> Float[Tensor, "k n"]:
    r"""A radius within which no input changes the sign of the output: from below, the distance to the boundary.

    Within radius ``r`` a unit switches only if :math:`|z_j|\le r\|w_j\|`. So there the output's Lipschitz constant is
    at most the norm of the sum of :math:`v_jw_j` over the other active units, plus the norms of theirs. The largest
    ``r`` with ``Lipschitz * r <= |f|``, by bisection.
    """
    margin, z = output(params, X).abs(), X @ params["W"].mT + params["b"][:, None]
    slopes = params["v"][..., None] * params["W"]
    on, lengths, reach = (z > 0), slopes.norm(dim=-1)[:, None], z.abs() / params["W"].norm(dim=-1)[:, None]
    low, high = torch.zeros_like(margin), reach.amax(-1) + margin / slopes.norm(dim=-1).sum(-1)[:, None]
    high = high + margin / (on.to(X.dtype) @ slopes).norm(dim=-1).clamp_min(1e-300)
    high = high.clamp_max(1e6)
    for _ in range(steps):
        r = (low + high) / 2
        free = reach <= r[..., None]
        lipschitz = ((on & ~free).to(X.dtype) @ slopes).norm(dim=-1) + (free * lengths).sum(-1)
        safe = lipschitz * r <= margin
        low, high = torch.where(safe, r, low), torch.where(safe, high, r)
    return low


def boundary_above(params: Params, X: Float[Tensor, "k n d"], steps: int = 12) -> Float[Tensor, "k n"]:
    """The distance to the nearest input found on the decision boundary: from above, the distance to the boundary.

    Starts between each sample and the nearest one that the network puts on the other side. Then it moves the point
    towards the projection of the sample on the boundary of that linear piece, as far as this helps.

    Raises:
        ValueError: A network gives all its samples one sign.
    """
    sign = output(params, X).sign()
    apart = torch.cdist(X, X).masked_fill(sign[:, :, None] * sign[:, None] > 0, torch.inf)
    if not bool(apart.isfinite().any(-1).all()):
        raise ValueError("X: a network gives all its samples one sign, so no boundary is known to lie between them")
    point, _ = _first_change(params, X, X.gather(1, apart.argmin(-1)[..., None].expand_as(X)), sign)
    best = (point - X).norm(dim=-1)
    for _ in range(steps):
        slope = input_gradient(params, point)
        along = ((X - point) * slope).sum(-1) / slope.square().sum(-1).clamp_min(1e-300)
        foot = X - along[..., None] * slope
        for share in (1.0, 0.3, 0.1):
            trial, found = _first_change(params, X, X + 1.2 * (point + share * (foot - point) - X), sign)
            distance = (trial - X).norm(dim=-1)
            nearer = found & (distance < best)
            best = torch.where(nearer, distance, best)
            point = torch.where(nearer[..., None], trial, point)
    return best


def _first_change(params: Params, X: Tensor, goal: Tensor, sign: Tensor, halvings: int = 30) -> tuple[Tensor, Tensor]:
    """The point on the way to ``goal`` where the sign changes, by bisection; the goal itself where it does not."""
    found = output(params, goal) * sign <= 0
    low, high = torch.zeros_like(sign), torch.ones_like(sign)
    for _ in range(halvings):
        middle = (low + high) / 2
        over = output(params, X + middle[..., None] * (goal - X)) * sign <= 0
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    share = torch.where(found, high, 1.0)
    return X + share[..., None] * (goal - X), found


def perturb(params: Params, size: float, generator: Generator, *, relative_to: str = "absolute") -> Params:
    """Every tensor plus Gaussian noise.

    Args:
        size: Standard deviation, in units of ``relative_to``: one (``absolute``), the root mean square of the tensor
            (``layer``) or the magnitude of each weight (``weight``, which no diagonal rescaling changes).

    Raises:
        ValueError: Another unit.
    """
    if relative_to not in NOISES:
        raise ValueError(f"relative_to must be one of {NOISES}, got {relative_to!r}")
    moved = {}
    for name, W in params.items():
        noise = size * torch.randn(W.shape, generator=generator, dtype=W.dtype)
        rms = W.reshape(len(W), -1).square().mean(1).sqrt().reshape(-1, *[1] * (W.ndim - 1))
        moved[name] = W + noise * {"absolute": torch.ones_like(W), "layer": rms, "weight": W.abs()}[relative_to]
    return moved


def noise_curve(
    classify: Callable[[Params], Float[Tensor, "k n"]],
    params: Params,
    labels: Float[Tensor, "k n"],
    sizes: Sequence[float],
    generator: Generator,
    *,
    relative_to: str = "absolute",
    repeats: int = 1,
) -> Float[Tensor, "s k"]:
    """Accuracy of each network under noise of each size.

    Args:
        classify: Outputs of the stack for perturbed parameters; its sign is the class.
        labels: +-1.
        repeats: Draws of the noise, averaged.
    """
    hit = lambda size: classify(perturb(params, size, generator, relative_to=relative_to)) * labels > 0
    draws = [[hit(float(size)).double().mean(1) for _ in range(repeats)] for size in sizes]
    return torch.stack([torch.stack(d).mean(0) for d in draws])


def tolerance(sizes: Float[Tensor, " s"], accuracy: Float[Tensor, "s k"], level: float = 0.9) -> Float[Tensor, " k"]:
    """The noise at which each network's accuracy first falls to ``level``, interpolated in the logarithm of the size.

    Raises:
        ValueError: A network is below the level at the least noise, or above it at the largest.
    """
    below = accuracy <= level
    if bool(below[0].any()) or not bool(below.any(0).all()):
        raise ValueError(f"sizes: accuracies must pass level {level} between {sizes[0]:g} and {sizes[-1]:g}")
    after = below.to(torch.int8).argmax(0)
    columns = torch.arange(accuracy.shape[1])
    high, low = accuracy[after - 1, columns], accuracy[after, columns]
    share = (high - level) / (high - low)
    logs = sizes.log()
    return (logs[after - 1] + share * (logs[after] - logs[after - 1])).exp()

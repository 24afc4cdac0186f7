"""Runs of the chapter on the model of paper C: gradients and Hessians below a normalisation, by autograd."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.normalization_geometry.normalised_units import (
    OVER,
    NormalisedNetwork,
    WeightNormalised,
    layers,
    networks,
    units,
    upper_loss,
    weight_normalised,
)
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.measures.curvature import flatten, hessian
from normdyn.motion.flows import gradient_flow, integrate
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import Normalizer, batch_norm, layer_norm, normalize

SIZES = (0.1, 0.3, 1.0, 3.0, 10.0)
GROWTHS = (1.0, 1e3, 1e6, 1e9, 1e12)
OUTLIERS = (4, 9, 256)


def identity(z: Tensor) -> Tensor:
    return z


def root_mean_square(z: Tensor, over: tuple[int, ...], epsilon: float) -> Tensor:
    """Normalisation that leaves the mean in."""
    return z / (z.square().mean(over, keepdim=True) + epsilon).sqrt()


def stored(z: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Batch normalisation by constants, as at inference."""
    return batch_norm(z, epsilon=epsilon, statistics=(torch.zeros_like(z[0]), torch.ones_like(z[0])))


# Values


@shared
def normalised(case: Case, kind: str, epsilon: float, centred: bool = True) -> list[tuple[Tensor, Tensor]]:
    """Signals of five sizes around three, and their normalised values."""
    found = []
    for one, size in zip(layers(case, kind, epsilon), SIZES, strict=True):
        z = size * one.z + 3
        found.append((z, one.hat(z) if centred else root_mean_square(z, OVER[kind], epsilon)))
    return found


@shared
def grown(case: Case, normalised: bool = True, samples: int = 9) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Gains, and outputs less their shifts, of units with grown weights on heavy-tailed inputs, and the signals before.

    One item for each of five draws and each growth: 400 batches of three units. The last items are batches of 4, 9 and
    256 samples with one outlier. Epsilon is 1e-5.
    """
    found, act = [], (lambda z: batch_norm(z, epsilon=1e-5)) if normalised else identity
    for k in range(5):
        X, W = normal(case, f"grown {k} X", 400, samples, 4) ** 5, normal(case, f"grown {k} W", 3, 4) ** 3
        gain = normal(case, f"grown {k} gain", 1, 400 * 3)
        for growth in GROWTHS:
            z = growth * (X @ W.mT).transpose(0, 1).reshape(samples, -1)
            found.append((gain, gain * act(z), z))
    for m in OUTLIERS:
        z = 1e6 * torch.eye(m, 1, dtype=torch.float64)
        found.append((torch.full((1, 1), -2.0).double(), -2.0 * act(z), z))
    return found


@shared
def grown_networks(case: Case, normalised: bool = True) -> list[tuple[NormalisedNetwork, Tensor]]:
    """Networks whose first layer grows by each factor, and their largest outputs; the last hidden layer is linear."""
    act = (lambda z: batch_norm(z, epsilon=1e-5)) if normalised else identity
    return [
        (one, one.moved(growth).output(act, identity).abs().amax(0)) for one in networks(case) for growth in GROWTHS
    ]


# Moved parameters


@shared
def moved(
    case: Case,
    factor: str = "ones",
    offset: float = 0.0,
    gain: float = 1.0,
    undo: bool = False,
    normalizer: Normalizer = batch_norm,
    epsilon: float = 0.0,
) -> list[Tensor]:
    """Outputs of five networks after a change of the first layer, with one factor for each of its six units.

    Args:
        factor: "ones", or "spread" from a thousandth to a thousand; with a minus sign their negatives.
        offset: Size of random numbers that are added to the biases.
        gain: Of the gains.
        undo: Whether each factor is undone in the unit's gain.
    """
    size = torch.logspace(-3, 3, 6, dtype=torch.float64) if "spread" in factor else torch.ones(6).double()
    size = -size if factor.startswith("-") else size
    act = partial(normalizer, epsilon=epsilon)
    return [
        one.moved(size, offset * normal(case, f"offset {k}", 6), gain / size.abs() if undo else gain).output(act)
        for k, one in enumerate(networks(case))
    ]


@shared
def by_torch(case: Case, normalizer: Normalizer = batch_norm, epsilon: float = 0.0) -> list[Tensor]:
    """Outputs of the networks as they were drawn, by torch's own functions, which want an epsilon above zero."""
    functions: dict[Normalizer, Normalizer] = {
        batch_norm: lambda z: F.batch_norm(z, None, None, training=True, eps=epsilon or 1e-300),
        stored: lambda z: F.batch_norm(z, 0 * z[0], 0 * z[0] + 1, training=False, eps=epsilon),
        layer_norm: lambda z: F.layer_norm(z, z.shape[1:], eps=epsilon),
    }
    found = []
    for one in networks(case):
        H, last = one.X, len(one.weights) - 1
        for l, (W, b) in enumerate(zip(one.weights, one.biases, strict=True)):
            H = F.linear(H, W, b)
            H = F.relu(one.gains[l] * functions[normalizer](H) + one.shifts[l]) if l < last else H
        found.append(H)
    return found


@shared
def first_slopes(case: Case, normalizer: Normalizer) -> list[tuple[Tensor, Tensor]]:
    """Slopes of the square loss in weights and biases of the first layer: on the batch, and on its two halves."""
    found = []
    for one in networks(case):
        for rows in (slice(None), slice(6), slice(6, None)):
            found.append(slopes(replace(one, X=one.X[rows]), normalizer))
    return found


def slopes(one: NormalisedNetwork, normalizer: Normalizer) -> tuple[Tensor, Tensor]:
    def loss(W, b):
        put = replace(one, weights=(W, *one.weights[1:]), biases=(b, *one.biases[1:]))
        return square_loss(put.output(normalizer), one.X[:, :2])

    return torch.func.grad(loss, (0, 1))(one.weights[0], one.biases[0])


@shared
def slopes_at(case: Case, factor: float, epsilon: float, normalised: bool = True) -> list[Tensor]:
    """Slopes in weights and biases of a first layer that are multiplied by a factor, in a row."""
    act = (lambda z: batch_norm(z, epsilon=epsilon)) if normalised else identity
    some = networks(case, (3, 6, 2))
    return [torch.cat([g.flatten() for g in slopes(one.moved(factor), act)]) for one in some]


# The backward pass


@dataclass(frozen=True)
class Backward:
    """Signals before a normalisation, gains, and the gradients of a loss in the outputs and in the signals."""

    z: Tensor
    gain: Tensor
    above: Tensor
    below: Tensor


@shared
def backward(case: Case, kind: str, epsilon: float, constants: bool = False, factor: float = 1.0) -> list[Backward]:
    """Five layers of a kind; with ``constants`` mean and variance do not depend on the signals when differentiated.

    Args:
        factor: Largest of three factors by which samples are multiplied in turn: 1, its root, and itself.
    """
    found = []
    for one in layers(case, kind, epsilon):
        size = factor ** (torch.arange(len(one.z)).remainder(3) / 2).double().reshape(-1, *[1] * (one.z.ndim - 1))
        z, over = size * one.z, OVER[kind]
        if constants:
            mean, s = z.mean(over, keepdim=True), (z.var(over, correction=0, keepdim=True) + epsilon).sqrt()
            act = lambda z, one=one, mean=mean, s=s: one.gain * (z - mean) / s + one.shift
            above = torch.func.grad(one.loss)(act(z))
            below = torch.func.grad(lambda z, one=one, act=act: one.loss(act(z)))(z)
        else:
            above, below = replace(one, z=z).slopes()
        found.append(Backward(z, one.gain, above, below))
    return found


# Weight normalisation

Seen = Callable[[WeightNormalised, Tensor, Tensor], Tensor]


@shared
def partials(case: Case, layer: Seen) -> list[tuple[Tensor, Tensor]]:
    """Slopes in v and g of five losses at a layer's weights."""
    both = lambda one: torch.func.grad(lambda v, gain: one.loss(layer(one, v, gain)), (0, 1))(one.v, one.gain)
    return [both(one) for one in weight_normalised(case)]


@shared
def seen_slopes(case: Case, layer: Seen) -> list[Tensor]:
    """Slopes of the same losses in the weights themselves."""
    return [torch.func.grad(one.loss)(layer(one, one.v, one.gain)) for one in weight_normalised(case)]


# Second derivatives


@dataclass(frozen=True)
class Row:
    """The Hessian at one normalised unit: applied to its weights and biases, the unit, its part of the gradient."""

    applied: Tensor
    unit: Tensor
    slope: Tensor
    size: Tensor
    shift: Tensor


@shared
def hessian_rows(case: Case, solved: bool = False, epsilon: float = 0.0) -> list[Row]:
    """Rows of the Hessian along every unit of five networks of four units, at random points or at solutions."""
    found = []
    for one in units(case, solved=solved, epsilon=epsilon):
        loss, p = one.loss(epsilon), one.start
        H, G, count = hessian(loss, p), torch.func.grad(loss)(p), len(one.b)
        for i in range(count):
            own = torch.zeros(count, 1).double()
            own[i] = 1
            place = lambda q, own=own: flatten({"W": own * q["W"], "b": own[:, 0] * q["b"]})
            found.append(Row(H @ place(p), place(p), place(G), H.norm(), H[:, -count + i]))
    return found


@shared
def descent_of_a_unit(case: Case, normalised: bool = True) -> dict[str, Tensor]:
    """Hessian, gradient and weights along the flow of one unit with a linear output; without normalisation convex."""
    X, y = normal(case, "one X", 20, 3), normal(case, "one y", 20, 1)
    act = batch_norm if normalised else identity
    loss = lambda p: square_loss(act((X @ p["W"])[:, None]), y)
    start, times = {"W": normal(case, "one W", 3)}, torch.logspace(-1, 2, 31, dtype=torch.float64)
    path = integrate(gradient_flow(loss), start, times, relative=1e-11)["W"]
    slope = torch.stack([torch.func.grad(loss)({"W": w})["W"] for w in path])
    H = torch.stack([hessian(loss, {"W": w}) for w in path])
    kept = slope.norm(dim=1) > 1e-6 * slope[0].norm()
    return {"times": times[kept], "w": path[kept], "slope": slope[kept], "H": H[kept]}


# Pictures and numbers of the page


def outlier(case: Case, samples: int, sizes: Tensor) -> Tensor:
    """Normalised value of one sample of a batch against its size, in standard deviations of the others."""
    rest = normalize(normal(case, "outlier", samples - 1), (0,))
    return torch.stack([batch_norm(torch.cat([size[None], rest])[:, None])[0, 0] for size in sizes])


def pair_slopes(case: Case, epsilon: float) -> list[Tensor]:
    """Largest slopes of a loss below BN of two samples and below LN of two units."""
    found = []
    for over, shape in (((0,), (2, 7)), ((1,), (7, 2))):
        z, loss = 1 + normal(case, f"pairs {over}", *shape), upper_loss(case, f"pairs {over}", *shape)
        act: Callable[[Tensor], Tensor] = lambda z, over=over: normalize(z, over, epsilon=epsilon)
        found.append(torch.func.grad(lambda z, loss=loss, act=act: loss(act(z)))(z).abs().max())
    return found

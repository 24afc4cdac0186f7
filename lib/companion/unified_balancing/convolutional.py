r"""Small convolutional networks on digits, several seeds at once, with all that moves the norms of their layers.

The networks of A Figs. 1a and 1b: :math:`3\times3` kernels with padding, an activation, perhaps pooling, perhaps a
batch normalisation, a dense readout. Tensors are ``(seed, channel, image, height, width)``; every quantity that is
recorded has a row a step and an entry a seed, and one a layer where it belongs to a layer.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from claimbook.evidence import Case, shared
from normdyn.data.sets import digits

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "leaky": lambda z: F.leaky_relu(z, 0.1), "gelu": F.gelu, "tanh": torch.tanh
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """Every choice of a run; the defaults are those of A Fig. 1a, as far as the paper gives them.

    Args:
        normalise: After which convolution there is a batch normalisation without gain and shift; 0 for none.
        inputs: ``standardised`` over all pixels, or ``pixels`` in [0, 1].
        centred: Targets of the square loss are one-hot less one tenth.
        gain: Variance of a weight times fan-in; a third is that of torch's default layers.
        every: Steps between measurements of the sharpness; 0 for none.
    """

    images: int = 100
    steps: int = 400
    learning_rate: float = 0.06
    convolutions: int = 2
    channels: int = 8
    activation: str = "relu"
    pool: bool = True
    normalise: int = 0
    epsilon: float = 1e-5
    biases: bool = False
    loss: str = "square"
    inputs: str = "standardised"
    centred: bool = False
    gain: float = 1 / 3
    every: int = 0
    seeds: int = 5


FIGURE_1A = Figure()
FIGURE_1B = Figure(convolutions=3, channels=4, activation="leaky", pool=False, normalise=3, loss="cross-entropy",
                   learning_rate=0.02, steps=250)  # fmt: skip


def patches(H: Tensor) -> Tensor:
    """All neighbourhoods of 3 x 3 pixels: (seed, 9 channels, image x height x width)."""
    height, width = H.shape[-2:]
    padded = F.pad(H, (1, 1, 1, 1))
    moved = [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(moved, 2).flatten(1, 2).flatten(2)


@functools.cache
def all_digits() -> tuple[Tensor, Tensor]:
    """All images in float64, and labels; read once, whatever is tried with them."""
    everything = digits()
    return everything.inputs.double(), everything.labels


def start(case: Case, figure: Figure) -> tuple[list[Tensor], Tensor, Tensor]:
    """Weights (and biases, if any, after them), images and labels, one entry a seed."""
    draw, (images, labels) = case.generator("convolutions"), all_digits()
    chosen = torch.stack([torch.randperm(len(labels), generator=draw)[: figure.images] for _ in range(figure.seeds)])
    X = images[chosen].transpose(1, 2)
    if figure.inputs == "standardised":
        deviation, mean = torch.std_mean(X, (1, 2, 3, 4), correction=0, keepdim=True)
        X = (X - mean) / deviation
    side = X.shape[-1] // 2 ** (figure.convolutions * figure.pool)
    shapes = [(figure.channels, 9 * c) for c in [1] + [figure.channels] * (figure.convolutions - 1)]
    shapes.append((10, figure.channels * side * side))
    normal = lambda *shape: torch.randn(figure.seeds, *shape, generator=draw, dtype=torch.float64)
    weights = [normal(*shape) * (figure.gain / shape[1]) ** 0.5 for shape in shapes]
    biases = [0.1 * normal(figure.channels, 1) for _ in range(figure.convolutions * figure.biases)]
    return weights + biases, X, labels[chosen]


class Pass(NamedTuple):
    """One pass forward: output, what the normalisation returns, and its shares epsilon / (variance + epsilon)."""

    output: Tensor
    normalised: Tensor | None
    shares: Tensor


def forward(figure: Figure, params: list[Tensor], first: Tensor, shape: torch.Size) -> Pass:
    """The network on all images.

    Args:
        first: :func:`patches` of the images, which no step changes.
        shape: Of the images.
    """
    weights, biases = params[: figure.convolutions + 1], params[figure.convolutions + 1 :]
    H, normalised, shares, size = first, None, first.new_zeros(()), shape[2:]
    for l, W in enumerate(weights[:-1]):
        Z = W @ (patches(H) if l else first) + (biases[l] if biases else 0)
        H = ACTIVATIONS[figure.activation](Z).unflatten(2, size)
        if figure.pool:
            H = H.unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2)).amax((-3, -1))
            size = H.shape[2:]
        if l + 1 == figure.normalise:
            variance, mean = torch.var_mean(H, (2, 3, 4), correction=0, keepdim=True)
            H = normalised = (H - mean) / (variance + figure.epsilon).sqrt()
            shares = figure.epsilon / (variance + figure.epsilon)
    return Pass(H.transpose(1, 2).flatten(2) @ weights[-1].mT, normalised, shares)


def risks(figure: Figure, f: Tensor, labels: Tensor) -> Tensor:
    """The loss of each seed."""
    if figure.loss == "cross-entropy":
        return F.cross_entropy(f.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
    targets = F.one_hot(labels, 10).double() - 0.1 * figure.centred
    return (f - targets).square().sum((1, 2)) / (2 * f.shape[1])


def squares(tensors) -> Tensor:
    """Squared norm of each layer, a column a layer."""
    return torch.stack([W.square().flatten(1).sum(1) for W in tensors], 1)


def orders(figure: Figure) -> Tensor:
    """K of each layer: 0 below a normalisation, 1 elsewhere."""
    above = figure.convolutions + 1 - figure.normalise
    return torch.tensor([0.0] * figure.normalise + [1.0] * above, dtype=torch.float64)


@shared
def descent(case: Case, figure: Figure) -> dict[str, Tensor]:
    r"""Full-batch gradient descent.

    Returns:
        For each step, seed and layer the ``quotient`` :math:`(\|W'\|^2-\|W\|^2)/\eta`, the ``square`` :math:`\|W\|^2`
        and ``step`` :math:`\eta\|g\|^2`; for each step and seed ``loss``, ``drive``
        :math:`2\langle f,-\nabla_fL\rangle` and ``half``, the same on the first half of the images; for each layer the
        ``leak`` of the normalisation and the ``flow`` of A Theorem 2; ``sharpness`` at the steps ``at``.
    """
    params, X, labels = start(case, figure)
    layers, first, rows, sharp, vector = figure.convolutions + 1, patches(X), [], [], None
    for step in range(figure.steps):
        params = [p.detach().requires_grad_() for p in params]
        f, normalised, shares = forward(figure, params, first, X.shape)
        loss = risks(figure, f, labels)
        inner = [f] if normalised is None else [f, normalised]
        if figure.every and step % figure.every == 0:
            value, vector = sharpness(loss, params, vector)
            sharp.append((step, value))
        found = torch.autograd.grad(loss.sum(), [*inner, *params])
        gradients = found[len(inner) :]
        with torch.no_grad():
            leak = 0 * loss if normalised is None else -2 * (shares * normalised * found[1]).flatten(1).sum(1)
            moved = [p - figure.learning_rate * g for p, g in zip(params, gradients, strict=True)]
            pull, half = f * found[0], figure.images // 2
            before, after = squares(params[:layers]), squares(moved[:layers])
            rows.append({
                "square": before, "quotient": (after - before) / figure.learning_rate, "leak": leak, "loss": loss,
                "step": figure.learning_rate * squares(gradients[:layers]), "drive": -2 * pull.sum((1, 2)),
                "half": -2 * pull[:, :half].sum((1, 2)) * figure.images / half,
            })  # fmt: skip
        params = moved
    record = {name: torch.stack([row[name] for row in rows]).detach() for name in rows[0]}
    record["leak"] = record["leak"][..., None] * (1 - orders(figure))
    record["flow"] = record["drive"][..., None] * orders(figure)
    at, values = zip(*sharp, strict=True) if sharp else ((0,), (torch.full((figure.seeds,), math.nan),))
    return record | {"at": torch.tensor(at), "sharpness": torch.stack(values)}


def sharpness(loss: Tensor, params: list[Tensor], vector: Tensor | None, most: int = 8) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of each seed's Hessian with its vector, by Lanczos steps from the vector of a moment ago."""
    slope = torch.cat([g.flatten(1) for g in torch.autograd.grad(loss.sum(), params, create_graph=True)], 1)
    product = lambda v: torch.cat(
        [h.flatten(1) for h in torch.autograd.grad((slope * v).sum(), params, retain_graph=True)], 1
    )
    v = torch.ones_like(slope.detach()) if vector is None else vector
    basis, images = [v / v.norm(dim=1, keepdim=True)], []
    for _ in range(most if vector is not None else 2 * most):
        images.append(product(basis[-1]))
        Q, w = torch.stack(basis, 1), images[-1]
        for _ in range(2):
            w = w - (Q.mT @ (Q @ w[:, :, None]))[:, :, 0]
        basis.append(w / w.norm(dim=1, keepdim=True).clamp_min(1e-300))
    Q = torch.stack(basis[:-1], 1)
    values, vectors = torch.linalg.eigh(Q @ torch.stack(images, 2))
    return values[:, -1], (Q.mT @ vectors[:, :, -1:])[:, :, 0]

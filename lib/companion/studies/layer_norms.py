r"""Norms of the layers of a convolutional network under full-batch gradient descent, with all that moves them.

Two networks, of Figures 1a and 1b of Singh, Compagnoni and Orvieto: ReLU with max pooling and the square loss, leaky
ReLU with a batch normalisation before the readout and cross-entropy. For each step and layer a run records the squared
norm and the terms of its exact law, where :math:`B` is what the normalisation reads and :math:`N(B)` what it returns:

.. math:: \frac{\|W'\|^2-\|W\|^2}{\eta} = 2K\langle f,-\nabla_f L\rangle + \eta\,\|g\|^2
   - 2\sum_c \frac{\varepsilon}{\sigma_c^2+\varepsilon}\,\langle N_c,\nabla_{N_c}L\rangle .

The last sum, over channels, is what a normalisation with :math:`\varepsilon>0` leaks to the layers below it, since its
order is zero only at :math:`\varepsilon=0`. It is ours, and so is the middle term.
"""

import copy
import gc
import hashlib
import math
import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from curvlinops import HessianLinearOperator
from scipy.sparse.linalg import eigsh
from torch import Tensor
from torch.nn import Module, Parameter, ParameterList
from torch.nn import functional as F

from claimbook.show import results
from normdyn.data import sets as data
from normdyn.networks.losses import cross_entropy, square_loss
from normdyn.norms.laws import alignment

CLASSES = 10  # of all three sets of images
LOSSES = {"square": square_loss, "cross-entropy": cross_entropy}
GAINS = {"he": 2.0, "lecun": 1.0, "torch": 1 / 3}  # variance times fan in; torch's default layers have a third
ACTIVATIONS = {"relu": torch.relu, "leaky": lambda z: F.leaky_relu(z, 0.1), "gelu": F.gelu, "tanh": torch.tanh}
SOURCES = ["companion.studies.layer_norms", "normdyn.networks.losses", "normdyn.norms.laws", "normdyn.data.sets"]


@dataclass(frozen=True)
class Setup:
    """Every choice of a run; the defaults are those of Figure 1a, as far as the paper gives them.

    Args:
        convolutions, channels, kernel: Hidden layers, of stride 1 with zero padding that keeps the size.
        pool: Max pooling of 2 x 2 after each hidden layer.
        normalise: A batch normalisation without gain and shift before the readout, with ``epsilon``.
        normalise_after: Of which hidden layer, counted from 1; 0 is the last one.
        biases: Trained in the hidden layers, Gaussian at the start; outside of the theory.
        loss: ``square`` or ``cross-entropy``.
        coding: Of the targets of the square loss: ``one-hot``, or ``centred``, which is one-hot minus 1/classes.
        inputs: ``pixels`` in [0, 1], or ``standardised``, each channel over all images.
        initialisation: A name in ``GAINS``.
        every: Steps between measurements of the sharpness; 0 for none.
    """

    images: int = 1000
    convolutions: int = 2
    channels: int = 8
    kernel: int = 3
    activation: str = "relu"
    pool: bool = True
    normalise: bool = False
    normalise_after: int = 0
    epsilon: float = 1e-5
    biases: bool = False
    loss: str = "square"
    coding: str = "one-hot"
    inputs: str = "standardised"
    initialisation: str = "torch"
    learning_rate: float = 0.04
    steps: int = 300
    every: int = 0
    seed: int = 0

    def __post_init__(self):
        known = {"loss": LOSSES, "initialisation": GAINS, "activation": ACTIVATIONS}
        known |= {"coding": ("one-hot", "centred"), "inputs": ("pixels", "standardised")}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown, choose among {', '.join(choices)}")
        if not (self.learning_rate > 0 and self.steps >= 1 and self.convolutions >= 1 and self.epsilon >= 0):
            raise ValueError("learning_rate, steps and convolutions must be positive, epsilon not negative")
        if not 0 <= self.normalise_after <= self.convolutions:
            raise ValueError(f"normalise_after={self.normalise_after} must lie in 0..{self.convolutions}")


FIGURE_1A = Setup()
FIGURE_1B = Setup(
    convolutions=3, channels=4, activation="leaky", pool=False, normalise=True, loss="cross-entropy", learning_rate=0.02
)  # fmt: skip


class _Mean(Module):
    """A loss as curvature libraries ask for it, with the word for how samples are put together."""

    reduction = "mean"

    def __init__(self, name: str):
        super().__init__()
        self.function = LOSSES[name]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.function(output, target)


class Pass(NamedTuple):
    """One pass forward: output, what the normalisation returns, and its shares epsilon / (variance + epsilon)."""

    output: Tensor
    normalised: Tensor | None
    shares: Tensor | None


class Network(Module):
    """The network of a setup for images of one shape; a module, since that is what curvature libraries ask for."""

    def __init__(self, setup: Setup, shape: tuple[int, int, int], classes: int):
        super().__init__()
        draw = torch.Generator().manual_seed(1000 * setup.seed + 1)
        inputs, height, width = shape
        fan_ins = [inputs] + [setup.channels] * (setup.convolutions - 1)
        sizes = [(setup.channels, n, setup.kernel, setup.kernel) for n in fan_ins]
        shrink = 2 ** (setup.convolutions * setup.pool)
        if min(height, width) < shrink:
            raise ValueError(f"images of {height} x {width} are too small for {setup.convolutions} poolings")
        sizes.append((classes, setup.channels * (height // shrink) * (width // shrink)))
        gain = GAINS[setup.initialisation]
        normal = lambda size: torch.randn(*size, generator=draw, dtype=torch.float64)
        self.weights = ParameterList(Parameter(normal(s) * (gain / math.prod(s[1:])) ** 0.5) for s in sizes)
        self.biases = ParameterList(Parameter(0.1 * normal(s[:1])) for s in sizes[:-1] if setup.biases)
        self.setup = setup

    def trace(self, images: Tensor) -> Pass:
        """Output and what the exact law needs of the normalisation."""
        H, setup, normalised, shares = images, self.setup, None, None
        for l, kernel in enumerate(list(self.weights)[:-1]):
            H = F.conv2d(H, kernel, self.biases[l] if setup.biases else None, padding=setup.kernel // 2)
            H = ACTIVATIONS[setup.activation](H)
            H = F.max_pool2d(H, 2) if setup.pool else H
            if setup.normalise and l + 1 == (setup.normalise_after or setup.convolutions):
                variance, mean = torch.var_mean(H, (0, 2, 3), correction=0, keepdim=True)
                H = normalised = (H - mean) / (variance + setup.epsilon).sqrt()
                shares = setup.epsilon / (variance + setup.epsilon)
        return Pass(H.flatten(1) @ self.weights[-1].mT, normalised, shares)

    def forward(self, images: Tensor) -> Tensor:
        return self.trace(images).output


def prepare(dataset: data.Dataset, setup: Setup) -> tuple[Tensor, Tensor]:
    """Images and targets of a setup: the images drawn with its seed, scaled; targets are labels for cross-entropy."""
    draw = torch.Generator().manual_seed(1000 * setup.seed)
    chosen = data.draw_samples(dataset, setup.images, generator=draw)
    images = chosen.inputs.double()
    if setup.inputs == "standardised":
        deviation, mean = torch.std_mean(images, (0, 2, 3), correction=0, keepdim=True)
        images = (images - mean) / deviation
    if setup.loss == "cross-entropy":
        return images, chosen.labels
    targets = F.one_hot(chosen.labels, len(dataset.names)).double()
    return images, targets - (setup.coding == "centred") / len(dataset.names)


def sharpness(
    network: Network, images: Tensor, targets: Tensor, start: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Largest eigenvalue of the loss's Hessian and its eigenvector, by Lanczos in float32 to three digits.

    Args:
        start: First vector of the iteration, such as the eigenvector of a moment ago; ones unless given.
    """
    single = copy.deepcopy(network).float()
    batch = images.float(), targets.float() if targets.is_floating_point() else targets
    hessian = HessianLinearOperator(
        single, _Mean(network.setup.loss), list(single.parameters()), [batch], check_deterministic=False,
        num_data=len(images),
    ).to_scipy()  # fmt: skip
    start = np.ones(hessian.shape[0], np.float32) if start is None else start
    values, vectors = eigsh(hessian, k=1, which="LA", tol=1e-3, v0=start, ncv=8, maxiter=200)
    del hessian
    gc.collect()  # the operator refers to itself and holds the batch: memory would grow with every call
    return float(values[0]), vectors[:, 0]


def run(setup: Setup, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    r"""Train by full-batch gradient descent in the precision of the images and record each step.

    Returns:
        ``squares`` (steps + 1, layers); for each step and layer ``pull`` :math:`\langle W,g\rangle`, ``gradient``
        :math:`\|g\|^2` and ``leak`` of the normalisation; ``order`` K of each layer; for each step ``loss``, ``drive``
        :math:`2\langle f,-\nabla_f L\rangle`, ``half_drive``, the same on the first half of the images alone, and
        ``correct``, the share of images classified rightly; ``sharpness_steps`` and ``sharpness``.
    """
    network = Network(setup, tuple(images.shape[1:]), CLASSES if targets.ndim == 1 else targets.shape[1])
    network.to(images.dtype)
    rows, sharp, vector = [], [], None
    for step in range(setup.steps):
        if setup.every and step % setup.every == 0:
            value, vector = sharpness(network, images, targets, vector)
            sharp.append((step, value))
        rows.append(_step(network, images, targets))
    squares = [row["squares"] for row in rows] + [_squares(network.weights)]
    recorded = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "squares"}
    at, values = ([s[k] for s in sharp] for k in (0, 1))
    return recorded | {
        "squares": torch.stack(squares),
        "order": _orders(setup).to(images.dtype),
        "sharpness_steps": torch.tensor(at, dtype=torch.int64),
        "sharpness": torch.tensor(values, dtype=torch.float64),
    }


def terms(result: dict[str, Tensor], learning_rate: float) -> dict[str, Tensor]:
    """Measured difference quotient of every layer and step, and the causes that the exact law adds up.

    Returns:
        ``quotient``, ``flow`` (the paper's prediction), ``step``, ``leak`` and ``rest``, the quotient without these
        three; each ``(steps, layers)``.
    """
    quotient = result["squares"].diff(dim=0) / learning_rate
    flow = result["order"] * result["drive"][:, None]
    step, leak = learning_rate * result["gradient"], result["leak"]
    return {"quotient": quotient, "flow": flow, "step": step, "leak": leak, "rest": quotient - flow - step - leak}


def store(setup: Setup, dataset: data.Dataset, name: str, **options) -> None:
    """Run a setup on images of a data set and store the result with its provenance."""
    clock, key = time.perf_counter(), results.code_key(SOURCES)
    result = run(setup, *prepare(dataset, setup))
    files = "".join(f"{file} {digest}\n" for file, digest in sorted(dataset.provenance["files"].items()))
    results.save(
        result, name, setup=setup, seeds=setup.seed, seconds=time.perf_counter() - clock, device="cpu, one thread",
        data_sha256=hashlib.sha256(files.encode()).hexdigest(), sources=SOURCES, key=key, **options,
    )  # fmt: skip


def _step(network: Network, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Take one step of gradient descent in place; what was measured before it."""
    seen, setup = network.trace(images), network.setup
    loss, weights = LOSSES[setup.loss](seen.output, targets), list(network.weights)
    inner = [seen.output] + ([] if seen.normalised is None else [seen.normalised])
    found = torch.autograd.grad(loss, [*inner, *network.parameters()])
    output_gradient, gradients = found[0], found[len(inner) :]
    labels, half = targets if targets.ndim == 1 else targets.argmax(1), len(images) // 2
    leak = loss.new_zeros(())
    if seen.normalised is not None:
        leak = -2 * (seen.shares * seen.normalised * found[1]).sum()
    with torch.no_grad():
        measured = {
            "squares": _squares(weights),
            "pull": torch.stack([(W * g).sum() for W, g in zip(weights, gradients, strict=False)]),
            "gradient": _squares(gradients[: len(weights)]),
            "leak": leak * (1 - _orders(setup).to(loss.dtype)),
            "loss": loss.detach(),
            "drive": 2 * alignment(seen.output, output_gradient),
            "half_drive": 2 * alignment(seen.output[:half], output_gradient[:half]) * len(images) / half,
            "correct": (seen.output.argmax(1) == labels).to(loss.dtype).mean(),
        }
        for parameter, g in zip(network.parameters(), gradients, strict=True):
            parameter -= setup.learning_rate * g
    return {name: value.detach() for name, value in measured.items()}


def _squares(tensors) -> Tensor:
    return torch.stack([tensor.detach().square().sum() for tensor in tensors])


def _orders(setup: Setup) -> Tensor:
    """K of each layer: 0 below a normalisation, 1 elsewhere."""
    below = (setup.normalise_after or setup.convolutions) if setup.normalise else 0
    return torch.tensor([0.0] * below + [1.0] * (setup.convolutions + 1 - below), dtype=torch.float64)


def main() -> None:
    """Both figures with the papers' images, as stored: ``NORMDYN_DATA=... python -m companion.studies.layer_norms``."""
    torch.set_num_threads(1)
    store(replace(FIGURE_1A, images=500, steps=400, every=20), data.cifar10("test"), "layer-norms-relu")
    store(replace(FIGURE_1B, images=500, steps=400, every=100), data.mnist("test"), "layer-norms-batchnorm")


if __name__ == "__main__":
    main()

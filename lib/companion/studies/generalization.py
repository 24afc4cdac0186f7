r"""Small convolutional classifiers by mini-batch SGD, several at once, with every layer's norm on the books.

The network is that of paper D, Figures 5, 6, 11 and 12: convolutions of stride 2 without pooling until one pixel is
left, ReLUs, one linear layer. All draws of a :class:`Setup` train together, one batch dimension for the draw.

At each step the squared norm of a layer changes by exactly

.. math:: \|W'\|^2-\|W\|^2 = -2\eta\langle W,g\rangle + \eta^2\|g\|^2 ,

and both terms are summed: ``flow`` and ``finite_step``. Where the network is homogeneous in the layer, the first is the
same for all layers (paper D, eq. 43), and zero below a normalisation.
"""

import dataclasses
import hashlib
import sys
import time

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F
from tqdm import tqdm

from claimbook.show import results
from companion.studies.stacks import Device, Params, along, in_words, move, require
from normdyn.data import sets as data

SOURCES = ["companion.studies.generalization", "companion.studies.stacks"]
PAPER = {"depth": 5, "draws": 2, "epochs": 70, "evaluations": 7}
SIZES, WIDTHS, IMAGES = (500, 2000, 8000), (4, 8, 16, 32, 64), 2000


@dataclasses.dataclass(frozen=True)
class Setup:
    """One experiment; defaults are the quick profile's.

    Args:
        channels: Width of every convolution.
        depth: Number of convolutions of kernel 3 and stride 2.
        classes: Outputs of the linear layer.
        batch: Samples in a step.
        epochs: Passes over the training set.
        learning_rate: Constant.
        batch_norm: Normalise after each convolution, by statistics of the batch; at evaluation of the training set.
        biases: Convolutions have trained biases (and only without batch normalisation).
        gain: Factor on He's initialisation, for all layers.
        draws: Independent initialisations and orders, trained together.
        eps: Of the normalisation.
        perturbation: Standard deviation of Gaussian noise added to the weights, relative to their root mean square.
        every: Epochs between two perturbations; the last half of the run has none.
        evaluations: Number of evaluations after the first, evenly spread over the epochs, which they must divide.
        seed: Of all generators.
    """

    channels: int = 16
    depth: int = 3
    classes: int = 10
    batch: int = 100
    epochs: int = 70
    learning_rate: float = 0.1
    batch_norm: bool = True
    biases: bool = False
    gain: float = 1.0
    draws: int = 5
    eps: float = 1e-5
    perturbation: float = 0.0
    every: int = 10
    evaluations: int = 10
    seed: int = 0

    def __post_init__(self):
        numbers = ("channels", "depth", "classes", "batch", "epochs", "draws", "every", "evaluations")
        require(self, at_least_one=numbers)
        if self.epochs % self.evaluations:
            raise ValueError(f"evaluations must divide the {self.epochs} epochs, got {self.evaluations}")
        if self.biases and self.batch_norm:
            raise ValueError("biases=True needs batch_norm=False: a normalisation removes them")


def initialize(setup: Setup, inputs: int, dtype: torch.dtype = torch.float64) -> Params:
    """Weights with a leading dimension for the draws, ``W1`` to ``W{depth+1}``, biases ``b1`` on if asked for."""
    generator = torch.Generator().manual_seed(setup.seed)
    params, fan_in = {}, inputs
    for l in range(1, setup.depth + 1):
        shape = (setup.draws, setup.channels, fan_in, 3, 3)
        scale = setup.gain * (2 / (9 * fan_in)) ** 0.5
        params[f"W{l}"] = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        if setup.biases:
            params[f"b{l}"] = torch.zeros(setup.draws, setup.channels, dtype=dtype)
        fan_in = setup.channels
    shape = (setup.draws, setup.classes, setup.channels)
    params[f"W{setup.depth + 1}"] = (
        setup.gain * setup.channels**-0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    )
    return {name: p.to(dtype) for name, p in params.items()}


def parameter_count(setup: Setup, inputs: int, *, biases: bool = False) -> int:
    """Trained numbers of one network; with ``biases`` also one for each output feature, the linear layer's included."""
    convolutions = 9 * setup.channels * (inputs + (setup.depth - 1) * setup.channels)
    weights = convolutions + setup.classes * setup.channels
    return weights + (setup.depth * setup.channels + setup.classes if biases else 0)


def logits(
    params: Params, images: Float[Tensor, "n c h w"], setup: Setup, reference: Float[Tensor, "m c h w"] | None = None
) -> Float[Tensor, "n k"]:
    """Outputs of one network (no leading dimension); normalised by statistics of ``reference``, else of ``images``."""
    count = len(images)
    z = images if reference is None or not setup.batch_norm else torch.cat([images, reference])
    for l in range(1, setup.depth + 1):
        z = F.conv2d(z, params[f"W{l}"], params.get(f"b{l}"), stride=2, padding=1)
        if setup.batch_norm:
            source = z[count:] if len(z) > count else z
            variance, mean = torch.var_mean(source, (0, 2, 3), keepdim=True, correction=0)
            z = (z - mean) / (variance + setup.eps).sqrt()
        z = z.relu()
    return z[:count].mean((2, 3)) @ params[f"W{setup.depth + 1}"].mT


def run(
    setup: Setup,
    train: tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]],
    test: tuple[Float[Tensor, "m c h w"], Int[Tensor, " m"]],
    *,
    device: Device = "cpu",
) -> dict[str, Tensor]:
    """Train all draws on a device, in the images' precision; evaluate at the start and as often as the setup says.

    Returns:
        On the processor: ``train_loss``, ``train_error``, ``test_loss``, ``test_error``: ``(evaluations + 1, draws)``,
        cross-entropy and shares; ``calibrated``: the test loss at the best common temperature; ``squared_norms``,
        ``flow``, ``finite_step``: ``(evaluations + 1, draws, layers)``, the last two as sums since the start;
        ``steps``; ``normalized_loss``: the final training loss with every layer divided by its Frobenius norm,
        ``(draws,)``.
    """
    (X, Y), (X_test, Y_test) = train, test
    if len(X) < setup.batch:
        raise ValueError(f"batch must not exceed the {len(X)} training images, got {setup.batch}")
    X, Y, X_test, Y_test = (part.to(device) for part in (X, Y, X_test, Y_test))
    params = move(initialize(setup, X.shape[1], X.dtype), device)
    names = [name for name in params if name.startswith("W")]
    orders = [torch.Generator().manual_seed(1000 * (setup.seed + 1) + k) for k in range(setup.draws)]
    noise = torch.Generator().manual_seed(setup.seed + 77)
    gradient = vmap(grad(lambda p, x, y: F.cross_entropy(logits(p, x, setup), y)))
    evaluate = vmap(lambda p, x: logits(p, x, setup, X), in_dims=(0, None))
    squares = lambda tensors: torch.stack([tensors[n].flatten(1).square().sum(1) for n in names], 1)
    flow = torch.zeros(setup.draws, len(names), dtype=X.dtype, device=device)
    finite, steps, history = flow.clone(), 0, []

    def record():
        inside, outside = evaluate(params, X), evaluate(params, X_test)
        loss = lambda f, y: torch.stack([F.cross_entropy(g, y) for g in f])
        error = lambda f, y: (f.argmax(2) != y).double().mean(1)
        history.append(
            {
                "train_loss": loss(inside, Y), "train_error": error(inside, Y),
                "test_loss": loss(outside, Y_test), "test_error": error(outside, Y_test),
                "calibrated": calibrated_loss(outside, Y_test), "squared_norms": squares(params),
                "flow": flow.clone(), "finite_step": finite.clone(), "steps": torch.tensor(steps),
            }
        )  # fmt: skip

    record()
    for epoch in range(1, setup.epochs + 1):
        order = torch.stack([torch.randperm(len(X), generator=g) for g in orders])
        for rows in order.to(device).split(setup.batch, 1):
            if rows.shape[1] < setup.batch:
                continue  # a short batch would be another loss
            g = gradient(params, X[rows], Y[rows])
            inner = torch.stack([(params[n] * g[n]).flatten(1).sum(1) for n in names], 1)
            flow -= 2 * setup.learning_rate * inner
            finite += setup.learning_rate**2 * squares(g)
            params = {n: p - setup.learning_rate * g[n] for n, p in params.items()}
            steps += 1
        if setup.perturbation and epoch % setup.every == 0 and epoch <= setup.epochs // 2:
            params = perturbed(params, setup.perturbation, noise)
        if epoch % (setup.epochs // setup.evaluations) == 0:
            record()
    unit = {n: p / along(p.flatten(1).norm(dim=1), p) for n, p in params.items()}
    normalized = torch.stack([F.cross_entropy(f, Y) for f in evaluate(unit, X)])
    path = {k: torch.stack([h[k] for h in history]) for k in history[0]}
    return move(path | {"normalized_loss": normalized}, "cpu")


def perturbed(params: Params, size: float, generator: torch.Generator) -> Params:
    """Every weight plus Gaussian noise of ``size`` times the root mean square of its layer and draw."""
    moved = {}
    for name, W in params.items():
        noise = torch.randn(W.shape, generator=generator, dtype=W.dtype).to(W.device)
        moved[name] = W + size * along(W.flatten(1).square().mean(1).sqrt(), W) * noise
    return moved


def calibrated_loss(
    outputs: Float[Tensor, "d n k"], labels: Int[Tensor, " n"], points: int = 61
) -> Float[Tensor, " d"]:
    """Least cross-entropy over common temperatures: the loss of the direction of the outputs, without their scale."""
    scales = torch.logspace(-3, 2, points, dtype=outputs.dtype, device=outputs.device)
    losses = [torch.stack([F.cross_entropy(s * f, labels) for s in scales]).min() for f in outputs]
    return torch.stack(losses)


def with_noise(labels: Int[Tensor, " n"], share: float, seed: int, classes: int = 10) -> Int[Tensor, " n"]:
    """Labels of which a share is drawn uniformly from all classes."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(labels), generator=generator) < share
    return torch.where(wrong, torch.randint(classes, labels.shape, generator=generator), labels)


def experiments(
    sizes: tuple[int, ...] = SIZES, widths: tuple[int, ...] = WIDTHS, images: int = IMAGES, **changes
) -> dict[str, tuple[Setup, int, float]]:
    """Figures 5, 6, 11 and 12 as setups, numbers of images and shares of random labels, by name."""
    setup = dataclasses.replace(Setup(**PAPER), **changes)
    plain = dataclasses.replace(setup, batch_norm=False, epochs=2 * setup.epochs, evaluations=2 * setup.evaluations)
    plans = {f"examples_{n}": (setup, n, 0.0) for n in sizes} | {f"random_labels_{n}": (setup, n, 1.0) for n in sizes}
    plans |= {f"channels_{c}": (dataclasses.replace(setup, channels=c), images, 0.0) for c in widths}
    return plans | {"without_normalisation": (plain, images, 0.0)}


def store(
    name: str = "deep-experiments", *, test_images: int = 4000, device: Device = "cpu", folder=None, **options
) -> None:
    """Run all experiments on CIFAR-10 and store their curves: ``NORMDYN_DATA=... python -m`` this module.

    The device may be named behind the module.
    """
    clock, key = time.perf_counter(), results.code_key(SOURCES)
    pool, held = (data.cifar10(split, dtype=torch.float32) for split in ("train", "test"))
    test = held.inputs[:test_images], held.labels[:test_images]
    plans, stored = experiments(**options), {}
    for title, (setup, count, noise) in tqdm(plans.items()):
        train = pool.inputs[:count], with_noise(pool.labels[:count], noise, setup.seed)
        stored |= {f"{title}__{quantity}": value for quantity, value in run(setup, train, test, device=device).items()}
    digests = {file: digest for part in (pool, held) for file, digest in part.provenance["files"].items()}
    files = "".join(f"{file} {digest}\n" for file, digest in sorted(digests.items()))
    results.save(
        stored, name, setup={title: dataclasses.asdict(plan[0]) | {"images": plan[1]} for title, plan in plans.items()},
        seeds=0, seconds=time.perf_counter() - clock, device=in_words(device),
        data_sha256=hashlib.sha256(files.encode()).hexdigest(), sources=SOURCES, key=key, folder=folder,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    store(device=next(iter(sys.argv[1:]), "cpu"))

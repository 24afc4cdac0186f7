r"""Classifiers trained far beyond zero error, both losses, several decays and seeds together: all measures of collapse.

A network has ReLU layers without biases, with or without batch normalisation (no gain, no shift), and one output a
class. The losses are the square loss on one-hot labels, :math:`\|f-e_y\|^2/2`, and cross-entropy, both averaged over
samples. Losses, decays and seeds are one stacked dimension; a seed's start and order of samples are shared by all
losses and decays. :func:`store` runs CIFAR-10 at a CPU's size.

Without a test set the inputs may be turned into their own span first (:func:`rotate`): full batches move the first
layer inside that span only, and Gaussian starts have no preferred axes, so nothing changes but the cost.
"""

import dataclasses
import hashlib
import sys
import time

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from claimbook.show import results
from companion.studies.stacks import Device, in_words, orders, require, unfold
from normdyn.data import sets as data
from normdyn.measures import collapse
from normdyn.networks.graphs import layered_weights

SOURCES = (
    "companion.studies.collapse_runs", "companion.studies.stacks", "normdyn.measures.collapse",
    "normdyn.measures.class_moments",
)  # fmt: skip
LOSSES = ("square", "cross-entropy")
NAME = "neural-collapse-images"


@dataclasses.dataclass(frozen=True)
class Setup:
    """One stack: a network for each loss, decay and seed, in this order.

    Args:
        losses: Of ``square`` and ``cross-entropy``.
        decays: Weight decays ``d``; each adds ``d * W`` to the gradient, as torch does, in all layers.
        seeds: One start, and one order of the samples, for each.
        widths: Units of the hidden layers.
        batch_norm: Normalise each hidden layer over the batch before its ReLU.
        epsilon: Of the normalisation.
        learning_rate, momentum, steps: Of stochastic descent.
        batch: Samples a step, in a new random order each epoch, a short last batch left out; all of them if None.
        first, per_decade: Records are made from step ``first`` on, so many a decade, and at the last step.
    """

    losses: tuple[str, ...] = LOSSES
    decays: tuple[float, ...] = (0.0, 5e-3)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    widths: tuple[int, ...] = (24, 24)
    batch_norm: bool = False
    epsilon: float = 1e-5
    learning_rate: float = 0.05
    momentum: float = 0.9
    steps: int = 600
    batch: int | None = None
    first: int = 10
    per_decade: int = 4

    def __post_init__(self):
        numbers = ("steps", "first", "per_decade", "batch")
        require(self, filled=("losses", "decays", "seeds", "widths"), at_least_one=numbers)
        for loss in self.losses:
            if loss not in LOSSES:
                raise ValueError(f"losses has {loss!r}, choose among {', '.join(LOSSES)}")
        if not min(self.widths) >= 1:
            raise ValueError(f"widths must be 1 or more, got {self.widths}")
        if not self.learning_rate > 0 or not self.epsilon > 0:
            raise ValueError(f"learning_rate and epsilon must be positive, got {self.learning_rate} and {self.epsilon}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not min(self.decays) >= 0:
            raise ValueError(f"decays must not be negative, got {self.decays}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of losses, decays and seeds: what the stacked dimension unfolds to."""
        return len(self.losses), len(self.decays), len(self.seeds)

    @property
    def records(self) -> list[int]:
        """Steps after which everything is measured, in order.

        Example:
            >>> Setup(steps=150, per_decade=2).records
            [10, 32, 100, 150]
        """
        grid, k = {self.steps}, 0
        while (step := round(self.first * 10 ** (k / self.per_decade))) < self.steps:
            grid.add(step)
            k += 1
        return sorted(grid)


def initialize(setup: Setup, inputs: int, classes: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Stacked layers, ``(k, fan_out, fan_in)``: Gaussian of variance ``1 / fan_in``, one draw a seed."""
    widths = (inputs, *setup.widths, classes)
    starts = [layered_weights(widths, torch.Generator().manual_seed(1000 * seed + 1)) for seed in setup.seeds]
    copies = len(setup.losses) * len(setup.decays)
    return [torch.stack(W).repeat(copies, 1, 1).to(dtype) for W in zip(*starts, strict=True)]


def last_features(layers: list[Tensor], X: Tensor, setup: Setup, reference: Tensor | None = None) -> Tensor:
    """What the last layer of every network reads, ``(k, n, d)``.

    Args:
        X: One set for all networks, ``(n, d)``, or one for each, ``(k, n, d)``.
        reference: Samples whose statistics normalise, those of ``X`` unless given.
    """
    Z = X if reference is None else torch.cat([X, reference], -2)
    for W in layers[:-1]:
        if Z.ndim == 2:  # one product for all networks
            Z = (Z @ W.flatten(0, 1).mT).unflatten(1, W.shape[:2]).movedim(1, 0)
        else:
            Z = Z @ W.mT
        if setup.batch_norm:
            source = Z if reference is None else Z[:, X.shape[-2] :]
            variance, mean = torch.var_mean(source, 1, keepdim=True, correction=0)
            Z = (Z - mean) * (variance + setup.epsilon).rsqrt()
        Z = Z.relu()
    return Z[:, : X.shape[-2]]


def mean_losses(outputs: Float[Tensor, "k n c"], y: Int[Tensor, "*k n"], setup: Setup) -> Float[Tensor, " k"]:
    """Loss of every network on its samples, without decay."""
    y = y.expand(outputs.shape[:2])
    parts = zip(setup.losses, outputs.chunk(len(setup.losses)), y.chunk(len(setup.losses)), strict=True)
    return torch.cat([_one_loss(loss, f, t) for loss, f, t in parts])


def _one_loss(loss: str, f: Tensor, t: Tensor) -> Tensor:
    if loss == "square":
        return (f - F.one_hot(t, f.shape[2])).square().sum(2).mean(1) / 2
    return (f.logsumexp(2) - f.gather(2, t[..., None])[..., 0]).mean(1)


def measure(layers: list[Tensor], X: Tensor, y: Tensor, setup: Setup, test=None) -> dict[str, Tensor]:
    """All of :func:`normdyn.measures.collapse.neural_collapse` in float64, ``loss``, ``error``: one number a network.

    With a test set ``(X, y)`` also ``test_error``, under the training set's statistics.
    """
    with torch.no_grad():
        H, W = last_features(layers, X, setup), layers[-1]
        f = H @ W.mT
        every = [collapse.neural_collapse(h.double(), y, w.double()) for h, w in zip(H, W, strict=True)]
        seen = {name: torch.stack([m[name] for m in every]) for name in every[0]}
        seen |= {"loss": mean_losses(f, y, setup), "error": (f.argmax(2) != y).double().mean(1)}
        if test is not None:
            held = last_features(layers, test[0], setup, reference=X) @ W.mT
            seen["test_error"] = (held.argmax(2) != test[1]).double().mean(1)
    return seen


def run(
    setup: Setup,
    X: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    *,
    test: tuple[Float[Tensor, "m d"], Int[Tensor, " m"]] | None = None,
    device: Device = "cpu",
) -> dict[str, Tensor]:
    """Train all networks together on a device, in the inputs' precision.

    Returns:
        On the processor: ``steps``, and with leading dimensions ``(records, losses, decays, seeds)`` all that
        :func:`measure` gives; ``features`` of the training set at the end, ``(losses, decays, seeds, n, d)``, and the
        final layers ``W1`` on.

    Raises:
        ValueError: Labels do not fit, a class has no sample, or the batch exceeds the samples; or a run diverges.
    """
    if setup.batch is not None and setup.batch > len(X):
        raise ValueError(f"batch must not exceed the {len(X)} samples, got {setup.batch}")
    losses, decays, seeds = setup.shape
    layers = [W.to(device).requires_grad_() for W in initialize(setup, X.shape[1], count_classes(X, y), X.dtype)]
    X, y, test = X.to(device), y.to(device), None if test is None else tuple(part.to(device) for part in test)
    decay = torch.tensor(setup.decays, dtype=X.dtype).repeat_interleave(seeds).repeat(losses)[:, None, None].to(device)
    speed, history, batches = [torch.zeros_like(W) for W in layers], [], _batches(setup, len(X))
    for step in range(1, setup.steps + 1):
        rows = next(batches)
        inputs, labels = (X, y) if rows is None else (X[rows.to(device)], y[rows.to(device)])
        total = mean_losses(last_features(layers, inputs, setup) @ layers[-1].mT, labels, setup).sum()
        slopes = torch.autograd.grad(total, layers)
        with torch.no_grad():
            for W, v, g in zip(layers, speed, slopes, strict=True):
                v.mul_(setup.momentum).add_(g).addcmul_(decay, W)
                W.sub_(v, alpha=setup.learning_rate)
        if step in setup.records:
            if not total.isfinite():
                raise ValueError(f"a run diverges before step {step}: learning_rate={setup.learning_rate} is too large")
            history.append(measure(layers, X, y, setup, test))
    final = {f"W{l}": W for l, W in enumerate(layers, 1)} | {"features": last_features(layers, X, setup)}
    path = {name: torch.stack([unfold(h[name], setup.shape) for h in history]) for name in history[0]}
    final = {name: unfold(values, setup.shape) for name, values in final.items()}
    return path | final | {"steps": torch.tensor(setup.records)}


def count_classes(X: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> int:
    """Number of classes, each with at least one sample.

    Raises:
        ValueError: Labels do not fit the samples, or a class has no sample.
    """
    if y.shape != X.shape[:1]:
        raise ValueError(f"y has shape {tuple(y.shape)} for {len(X)} samples: give one label a sample")
    if y.min() < 0 or (counts := y.bincount()).min() == 0 or len(counts) < 2:
        raise ValueError(f"y must hold all labels from 0 to at least 1, got {y.unique().tolist()}")
    return len(counts)


def _batches(setup: Setup, samples: int):
    """Rows of the next batch of every network, ``(k, batch)``; None for all samples."""
    while setup.batch is None:
        yield None
    for order in orders(setup.seeds, samples, len(setup.losses) * len(setup.decays)):
        yield from (rows for rows in order.split(setup.batch, 1) if rows.shape[1] == setup.batch)


def prepare(images: data.Dataset, size: float = 3.0) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    """Rows minus their mean, of root mean square norm ``size``, and labels."""
    X = images.inputs.flatten(1)
    X = X - X.mean(0)
    return size * X / X.square().sum(1).mean().sqrt(), images.labels


def rotate(X: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
    """The same samples in an orthonormal basis of their span: all inner products are kept.

    Example:
        >>> rotate(torch.tensor([[3.0, 0.0, 4.0]])).abs()
        tensor([[5.]])
    """
    if len(X) >= X.shape[1]:
        return X
    U, s, _ = torch.linalg.svd(X.double(), full_matrices=False)
    return (U * s).to(X.dtype)


def pooled(images: data.Dataset, side: int = 8) -> data.Dataset:
    """Images averaged over blocks to ``side`` by ``side`` pixels."""
    return dataclasses.replace(images, inputs=F.adaptive_avg_pool2d(images.inputs, side))


def experiments(*, samples: dict[int, int] | None = None, **changes) -> dict[str, tuple[int, int, Setup]]:
    """Classes, images a class and setup of every stack on CIFAR-10; ``changes`` replace fields in all of them."""
    base = {"widths": (64, 64), "decays": (0.0, 2e-3), "steps": 6000, "per_decade": 6} | changes
    each = (samples or {2: 100, 3: 70, 10: 30}).items()
    make = lambda bn: Setup(**base | {"batch_norm": bn})
    return {f"classes_{c}{'_bn' * bn}": (c, n, make(bn)) for c, n in each for bn in (False, True)}


def speeds(*, rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1), **changes) -> dict[str, Setup]:
    """Setups that compare the two losses in time: no decay, six seeds, batches of 100, one for each learning rate."""
    base = {"widths": (64, 64), "decays": (0.0,), "seeds": tuple(range(6)), "batch": 100, "steps": 1500}
    base |= {"first": 3, "per_decade": 6} | changes
    make = lambda k, bn: Setup(**base | {"learning_rate": rates[k], "batch_norm": bn})
    return {f"rate_{k}{'_bn' * bn}": make(k, bn) for bn in (False, True) for k in range(len(rates))}


def store(
    name: str = NAME, *, device: Device = "cpu", folder=None, parts=None, each=100, samples=None, rates=None, **changes
) -> None:
    """Run everything on CIFAR-10 in float32 and store the curves: ``NORMDYN_DATA=... python -m`` this module.

    The device may be named behind the module.

    Args:
        parts: Folder that keeps each stack as soon as it is done; stacks found there, by the same code, are not run.
        each: Images a class of the comparison in time, all ten classes, 8 by 8 pixels; twice as many for testing.
        samples, rates, changes: For :func:`experiments` and :func:`speeds`.
    """
    key = results.code_key(SOURCES)
    full = {split: data.cifar10(split, dtype=torch.float32) for split in ("train", "test")}
    files = sorted(item for part in full.values() for item in part.provenance["files"].items())
    digest = hashlib.sha256("".join(f"{file} {value}\n" for file, value in files).encode()).hexdigest()
    jobs = {title: (setup, *_collapse_data(full, classes, count), None)
            for title, (classes, count, setup) in experiments(samples=samples, **changes).items()}  # fmt: skip
    train, test = _speed_data(full, each)
    jobs |= {title: (setup, *train, test) for title, setup in speeds(**{"rates": rates} if rates else {}).items()}
    stored, total = {}, 0.0
    for title, (setup, X, y, held) in jobs.items():
        file = f"{name}-{title.replace('_', '-')}"
        origin = None
        if parts is not None and results.stored(file, "paper", folder=parts):
            values, origin = results.load(file, "paper", folder=parts)
        if origin is None or origin.code_key != key:
            clock = time.perf_counter()
            values = run(setup, X, y, test=held, device=device).items()
            values = {k: v for k, v in values if k != "features" and k[0] != "W"}
            values = {k: v.float() if v.is_floating_point() else v for k, v in values.items()}
            seconds = time.perf_counter() - clock
            about = {"setup": dataclasses.asdict(setup), "seeds": list(setup.seeds), "seconds": seconds}
            about |= {"device": in_words(device), "data_sha256": digest, "sources": SOURCES, "key": key}
            if parts is not None:
                results.save(values, file, **about, folder=parts)
        else:
            seconds = origin.seconds
        total += seconds
        stored |= {f"{title}__{quantity}": value for quantity, value in values.items()}
        print(f"{title}: {seconds:.0f} s", flush=True)
    setups = {title: dataclasses.asdict(job[0]) | {"samples": len(job[1])} for title, job in jobs.items()}
    results.save(
        stored, name, setup=setups, seeds=sorted({s for job in jobs.values() for s in job[0].seeds}), seconds=total,
        device=in_words(device), data_sha256=digest, sources=SOURCES, key=key, folder=folder,
    )  # fmt: skip


def _collapse_data(full: dict[str, data.Dataset], classes: int, count: int) -> tuple[Tensor, Tensor]:
    chosen = data.select_classes(full["train"], list(range(classes)))
    X, y = prepare(data.draw_per_class(chosen, count, generator=torch.Generator().manual_seed(classes)))
    return rotate(X), y


def _speed_data(full: dict[str, data.Dataset], each: int) -> tuple[tuple, tuple]:
    draw = lambda split, count: pooled(
        data.draw_per_class(full[split], count, generator=torch.Generator().manual_seed(11))
    )
    train, test = draw("train", each), draw("test", 2 * each)
    mean = train.inputs.flatten(1).mean(0)
    size = 3 / (train.inputs.flatten(1) - mean).square().sum(1).mean().sqrt()
    return tuple(((part.inputs.flatten(1) - mean) * size, part.labels) for part in (train, test))


if __name__ == "__main__":
    torch.set_num_threads(1)
    store(parts="build/collapse-runs", device=next(iter(sys.argv[1:]), "cpu"))

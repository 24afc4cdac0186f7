"""Runs behind the claims of Figures 5, 6, 11 and 12 of paper D and of the experiments that its text describes.

On CIFAR-10 with the paper's network: stored, by :mod:`companion.studies.generalization`. On the 8 x 8 digits, with
three convolutions: made here, trained until the labels are fitted.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from claimbook.evidence import Case, Unfinished, shared
from claimbook.show import results
from companion.studies.generalization import Setup, initialize, logits, run
from normdyn.data.sets import digits

STORED = "data/results/paper/deep-experiments.npz"
SIZES, WIDTHS, IMAGES = (500, 2000, 8000), (4, 8, 16, 32, 64), 2000
TESTS = 4000  # images of the stored runs
PLAIN = Setup(batch=50, epochs=300, draws=12, evaluations=6, learning_rate=0.15, batch_norm=False)
KICK = 0.3  # of the root mean square of a layer, every ten epochs in the first half of a run


# CIFAR-10


@shared
def stored() -> dict[str, Tensor]:
    """All curves of the stored runs."""
    return results.load(STORED)[0]


def curve(title: str, quantity: str) -> Tensor:
    """One quantity over evaluations and draws."""
    return stored()[f"{title}__{quantity}"].double()


@shared
def ends(titles: tuple[str, ...], quantity: str) -> Tensor:
    """Its last values, one row a run."""
    return torch.stack([curve(title, quantity)[-1] for title in titles])


def by_size(labels: str) -> tuple[str, ...]:
    """Titles of the runs with more and more examples, with true labels or ``random`` ones."""
    return tuple(f"{'examples' if labels == 'true' else 'random_labels'}_{n}" for n in SIZES)


BY_WIDTH = tuple(f"channels_{c}" for c in WIDTHS)


def grown(title: str) -> Tensor:
    """Growth of squared norms at the end: draws by layers."""
    squares = curve(title, "squared_norms")
    return squares[-1] - squares[0]


def parameters(channels: int, stride: int = 2) -> int:
    """What torch trains in the network of the captions: five convolutions and a linear layer, 32 x 32 pixels."""
    layers: list[nn.Module] = [
        nn.Conv2d(3 if k == 0 else channels, channels, 3, stride, 1, bias=False) for k in range(5)
    ]
    pixels = 32 // stride**5 if stride > 1 else 32
    layers.append(nn.Linear(channels * pixels**2, 10, bias=False))
    return sum(p.numel() for layer in layers for p in layer.parameters())


# Digits


@shared
def images(case: Case, count: int, dtype: torch.dtype = torch.float32) -> Any:
    """Training and test sets of digits, 500 in the test set."""
    pool = digits(dtype=dtype)
    order = torch.randperm(len(pool.labels), generator=case.generator("images"))
    rows, held = order[500 : 500 + count], order[:500]
    return (pool.inputs[rows], pool.labels[rows]), (pool.inputs[held], pool.labels[held])


def fitted(case: Case, gain: float = 1.0, perturbation: float = 0.0, share: float = 1.0, within: float = 0.02) -> Any:
    """Networks without normalisation on 100 digits, after 600 steps or a share of them.

    Raises:
        Unfinished: a draw has more than two labels in a hundred wrong.
    """
    return _trained(case, gain, perturbation, share, within)


@shared
def _trained(case: Case, gain: float, perturbation: float, share: float, within: float) -> Any:
    """One key for one run, however :func:`fitted` is called."""
    setup = dataclasses.replace(
        PLAIN, epochs=6 * max(1, round(50 * share)), gain=gain, learning_rate=PLAIN.learning_rate / gain**2,
        perturbation=perturbation, every=10, seed=case.seed,
    )  # fmt: skip
    found = run(setup, *images(case, 100), device=case.device)
    wrong = found["train_error"][-1].max().item()
    if wrong > within:
        raise Unfinished(f"gain {gain:g}, kicks {perturbation:g}: {100 * wrong:.0f} % of the labels wrong in a draw")
    return {name: value.double() for name, value in found.items()}


def weight(found: Any) -> Tensor:
    """Squared norm of all weights at the end, one number a draw."""
    return found["squared_norms"][-1].sum(-1)


@shared
def booked(case: Case, kind: str, rate: float = 0.1) -> Any:
    """Short runs in float64 whose books of flow and finite step are kept: ``plain``, ``biased`` or ``normalised``."""
    setup = Setup(
        batch=50, epochs=12, evaluations=4, draws=3, learning_rate=rate, eps=1e-12, seed=case.seed,
        batch_norm=kind == "normalised", biases=kind == "biased",
    )  # fmt: skip
    return run(setup, *images(case, 200, torch.float64), device=case.device)


@shared
def growth(case: Case, kind: str, rate: float = 0.1) -> Tensor:
    """Of squared norms in these runs, draws by layers."""
    found = booked(case, kind, rate)
    return found["squared_norms"][-1] - found["squared_norms"][0]


@shared
def flow(case: Case, kind: str, rate: float = 0.1) -> Tensor:
    """The part that the flow has in it."""
    return booked(case, kind, rate)["flow"][-1]


@shared
def finite_step(case: Case, kind: str, rate: float = 0.1) -> Tensor:
    """The other part, by its own book."""
    return booked(case, kind, rate)["finite_step"][-1]


@shared
def rescaled(case: Case, factors: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs of a normalised network, and the product of its layers' norms, before and after factors on its layers."""
    setup = Setup(eps=0.0, draws=1, seed=case.seed)
    (X, _), _ = images(case, 200, torch.float64)
    before = {name: w[0] for name, w in initialize(setup, X.shape[1], X.dtype).items()}
    after = {name: w * f for (name, w), f in zip(before.items(), (*factors, 1.0), strict=True)}
    product = lambda p: torch.stack([w.norm() for w in p.values()]).prod()
    return logits(before, X, setup), logits(after, X, setup), product(before), product(after)

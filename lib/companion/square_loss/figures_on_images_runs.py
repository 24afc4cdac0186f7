"""Figures 1 to 12 of paper B on two classes of CIFAR-10: what is stored, and the same networks on digits beside it.

Of every network the stored runs keep quantiles of y g, the margins times the length, and no single sample. What the
mean of |f| needs is read off them: between two quantiles the distribution is taken as flat.
"""

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show import results
from companion.studies import square_loss
from companion.studies.square_loss_figures import LEVELS, summary
from normdyn.data import sets

STORED = "data/results/paper/square-loss-figures.npz"
DECAY, NORMED, PLAIN = "figures_1_to_5", "figures_6_to_9", ("figures_10_to_12", "small_steps", "smaller_steps")
LATE = 17  # records, the last third


@shared
def stored() -> dict[str, Tensor]:
    return results.load(STORED)[0]


@shared
def setups() -> dict[str, dict]:
    return results.load(STORED)[1].setup


def quantity(name: str, what: str, decay: int = 0) -> Tensor:
    """Records, starts, seeds of one quantity, margins with their levels; decay 1 is the second of a plan."""
    return stored()[f"{name}__{what}"][:, :, decay].double()


def moments(quantiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, mean size and standard deviation of a distribution that is flat between its quantiles."""
    share, a, b = torch.tensor(LEVELS).double().diff(), quantiles[..., :-1], quantiles[..., 1:]
    mean = (share * (a + b) / 2).sum(-1)
    square = (share * (a * a + a * b + b * b) / 3).sum(-1)
    crossed = (a * a + b * b) / (2 * (b - a)).clamp(min=1e-30)
    size = (share * torch.where(a * b < 0, crossed, (a + b).abs() / 2)).sum(-1)
    return mean, size, (square - mean * mean).clamp(min=0).sqrt()


def relative_spread(quantiles: Tensor) -> Tensor:
    """Standard deviation of the margins over their mean."""
    mean, _, deviation = moments(quantiles)
    return deviation / mean.abs()


def apart(values: Tensor) -> float:
    """Largest over smallest of the geometric means over seeds at the end, over the starts."""
    means = values[-1].log().mean(-1)
    return (means.max() - means.min()).exp().item()


@shared
def digits(case: Case) -> dict[str, Tensor]:
    """Figures 1 to 5 on 256 digits, three against eight, width 16, 300 epochs of two steps: the stored quantities."""
    pair = sets.flatten(sets.select_classes(sets.digits(), ["3", "8"]))
    train, test = square_loss.two_classes(pair, samples=256, seed=case.seed)
    setup = square_loss.Setup(decays=(0.01, 0.0), seeds=tuple(5 * case.seed + k for k in range(5)), width=16,
                              epochs=300, evaluations=30)  # fmt: skip
    return summary(square_loss.run(setup, train, test, device=case.device), train[1])

"""Runs of Figures 6 to 9 of paper B and of two remarks: normalisation without decay, decay without normalisation.

Figures are on digits, fully connected, and on stored convolutional runs on two classes of CIFAR-10.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show import results
from companion.square_loss.batch_normalization_and_decay_runs import (
    Curves,
    curves_of,
    default_epochs,
    on_images,
    pair,
    seeds,
)
from companion.studies.square_loss import Setup, run

STARTS = (0.1, 5.0)
FIGURES = "figures_6_to_9"

# Figures 6 to 9


@shared
def on_two(
    case: Case, epochs: int = 0, decay: float = 0.0, normalised: bool = True, factor: bool = False
) -> dict[str, Tensor]:
    """Four fully connected layers of width 16 from norms 0.1 and 5, rate 0.01; with a factor the output is normalised
    too and multiplied by a trained number that starts at zero."""
    count = epochs or default_epochs(case)
    setup = Setup(
        scales=STARTS, decays=(decay,), seeds=seeds(case), width=16, epochs=count, evaluations=count // 10,
        learning_rate=0.01, batch_norm=normalised, output_scale=factor,
    )  # fmt: skip
    return run(setup, *pair(case), device=case.device)


@shared
def labels(case: Case) -> Tensor:
    return pair(case)[0][1]


def on_digits(case: Case, epochs: int = 0, decay: float = 0.0, normalised: bool = True, factor: bool = False) -> Curves:
    """Their curves; the factor counts in rho."""
    result = on_two(case, epochs, decay, normalised, factor)
    curves = curves_of(result, labels(case))
    return curves._replace(rho=curves.rho * result["gain"][:, :, 0].abs()) if factor else curves


def stored() -> Curves:
    """The convolutional runs on images."""
    return on_images(0.0, FIGURES)


@shared
def lowest(case: Case, epochs: int = 0, normalised: bool = True) -> list[Tensor]:
    """The lowest margin y g over records, starts and seeds, on digits and on images."""
    result = on_two(case, epochs, 0.0, normalised)
    images = results.load("data/results/paper/square-loss-figures.npz")[0][f"{FIGURES}__margins"]
    return [(result["outputs"] * labels(case))[:, :, 0].amin(-1), images[:, :, 0, :, 0].double()]


@shared
def sizes(case: Case, epochs: int = 0) -> list[Tensor]:
    """First decile, median and ninth of rho |f_n|, on digits and on images, where late y f are positive."""
    level = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    digits = on_two(case, epochs)["outputs"][:, :, 0].abs().quantile(level, dim=-1).movedim(0, -1)
    return [digits, stored().deciles]


def gap(deciles: Tensor) -> Tensor:
    """Distance of the outer deciles over their sum, one where signs differ."""
    low, _, high = deciles.unbind(-1)
    return ((high - low) / (high + low).abs()).clamp(max=1)


# Decay without normalisation

CROSS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
CROSS_LABELS = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)  # no linear network separates them
PENALTY, PRODUCTS, WIDTHS = 0.02, (0.7, 8.0, 72.0), (64, 128)


class End(NamedTuple):
    """Product of norms and outputs times labels at the end of descents, an entry a start and draw."""

    rho: Tensor
    margins: Tensor


@shared
def on_the_cross(case: Case, width: int, decay: float, steps: int = 8000, draws: int = 4) -> End:
    """Two ReLU layers without normalisation from layers of equal norms, three products of them, on four inputs.

    Half a sum of squares; ``decay`` of torch. Momentum 0.9, step 0.005.
    """
    draw = case.generator(f"cross {width}")
    size = torch.tensor(PRODUCTS, dtype=torch.float64).repeat_interleave(draws).sqrt()[:, None, None]
    normals = lambda *shape: torch.randn(len(size), *shape, generator=draw, dtype=torch.float64)
    W, a = (size * V / V.flatten(1).norm(dim=1)[:, None, None] for V in (normals(width, 2), normals(1, width)))
    momentum_W, momentum_a = torch.zeros_like(W), torch.zeros_like(a)
    for _ in range(steps):
        hidden = (CROSS @ W.mT).relu()
        ell = hidden @ a.mT - CROSS_LABELS[:, None]
        slope_a = ell.mT @ hidden
        slope_W = ((ell * a) * (hidden > 0)).mT @ CROSS
        momentum_W = 0.9 * momentum_W + slope_W + decay * W
        momentum_a = 0.9 * momentum_a + slope_a + decay * a
        W, a = W - 0.005 * momentum_W, a - 0.005 * momentum_a
    rho = W.flatten(1).norm(dim=1) * a.flatten(1).norm(dim=1)
    return End(rho, ((CROSS @ W.mT).relu() @ a.mT)[..., 0] * CROSS_LABELS)


@shared
def deep_cross(
    case: Case, product: float, *, depth: int = 3, decay: float = PENALTY, normalised: bool = False, steps: int = 5000
) -> Tensor:
    """The product of norms at the end, an entry a draw, from layers of equal norms and of this product; four draws.

    Normalised: unit layers and one length rho with the penalty ``decay rho^2 / 2``; their start leans to the labels.
    """
    draw = case.generator(f"deep cross {depth}")
    shapes = [(64, 2), *[(64, 64)] * (depth - 2), (1, 64)]
    unit = lambda V: V / V.flatten(1).norm(dim=1)[:, None, None]
    V = [unit(torch.randn(4, *shape, generator=draw, dtype=torch.float64)) for shape in shapes]

    def outputs(layers: list[Tensor]) -> Tensor:
        H = CROSS
        for W in layers[:-1]:
            H = (H @ W.mT).relu()
        return (H @ layers[-1].mT)[..., 0]

    V[-1] = V[-1] * (outputs(V) * CROSS_LABELS).sum(-1).sign()[:, None, None]
    size = product if normalised else product ** (1 / depth)
    layers = [(W if normalised else size * W).requires_grad_() for W in V]
    rho = torch.full((4,), product, dtype=torch.float64, requires_grad=normalised)
    descent = torch.optim.SGD([*layers, rho] if normalised else layers, lr=0.005, momentum=0.9)
    for _ in range(steps):
        seen = [unit(W) for W in layers] if normalised else layers
        f = rho[:, None] * outputs(seen) if normalised else outputs(seen)
        lengths = [rho] if normalised else layers
        loss = (f - CROSS_LABELS).square().sum() / 2 + decay / 2 * sum(W.square().sum() for W in lengths)
        descent.zero_grad()
        loss.backward()
        descent.step()
        if normalised:
            for W in layers:
                W.data = unit(W.data)
    return rho.detach() if normalised else torch.stack([W.detach().flatten(1).norm(dim=1) for W in layers]).prod(0)


# Two losses on CIFAR-10


@shared
def arrivals(rate: int, above: float = 0.01) -> tuple[Tensor, Tensor, float]:
    """Steps until the square loss and cross-entropy reach a good test error, an entry a start, and that error.

    Good is a hundredth above the best of the loss whose best is worse, over four rates; 1500 steps, stored.
    """
    kept = results.load("data/results/paper/neural-collapse-images.npz")[0]
    errors = [kept[f"rate_{k}__test_error"][:, :, 0].double() for k in range(4)]  # records, losses, starts
    good = max(min(one[:, loss].mean(1).min().item() for one in errors) for loss in range(2)) + above
    steps = kept[f"rate_{rate}__steps"].double()[:, None, None]
    first = torch.where(errors[rate] <= good, steps, 2 * steps[-1]).amin(0)
    return first[0], first[1], good

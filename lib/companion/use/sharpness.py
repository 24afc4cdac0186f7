"""What the page on sharpness shows: one function in many gauges, and two trainings that plain sharpness confuses."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from claimbook.evidence import Case, shared
from claimbook.show.figures import BLUE, GREEN, VERMILION, axes
from claimbook.show.notebook import show_figure
from normdyn.data.sets import digits, flatten
from normdyn.measures.sharpness import adaptive_sharpness, least_norm_sharpness, sharpness

SAMPLES = 200
FIGURES = {"plain": sharpness, "adaptive": adaptive_sharpness, "at the least norm": least_norm_sharpness}


def samples(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Digits in two batches, float64."""
    data = flatten(digits())
    X, y = data.inputs[:SAMPLES] / data.inputs.max(), data.labels[:SAMPLES]
    return [(a.to(case.device), b.to(case.device)) for a, b in zip(X.split(100), y.split(100), strict=True)]


@shared
def trained(case: Case, lr: float = 0.5, steps: int = 200) -> nn.Sequential:
    """A network with one hidden layer, after plain gradient descent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=case.generator("network"))))
        model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double().to(case.device)
    X, y = (torch.cat(parts) for parts in zip(*samples(case), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(X), y).backward()
        optimizer.step()
    return model


def rescaled(model: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function: what enters the hidden units times a factor, what leaves them over it."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight.mul_(factor), model[0].bias.mul_(factor), model[2].weight.div_(factor)
    return model


@shared
def orbit(case: Case) -> dict[str, list[float]]:
    """Each figure along one orbit."""
    factors = torch.logspace(-1.5, 1.5, 9).tolist()
    models = [rescaled(trained(case), factor) for factor in factors]
    return {"factor": factors} | {
        name: [figure(m, F.cross_entropy, samples(case)).value for m in models] for name, figure in FIGURES.items()
    }


def draw_orbit(case: Case) -> None:
    """All figures against the factor."""
    found = orbit(case)
    figure, ax = axes(height=3.2)
    for name, color, marker in (("plain", VERMILION, "o"), ("adaptive", BLUE, "s"), ("at the least norm", GREEN, "^")):
        ax.loglog(found["factor"], found[name], color=color, marker=marker, markersize=4, linewidth=1.8, label=name)
    ax.set(
        xlabel="factor on the weights into the hidden units (and its inverse on those out of them)", ylabel="sharpness"
    )
    ax.legend()
    data = {name.replace(" ", "_"): values for name, values in found.items()}
    show_figure(figure, name="use-sharpness", data=data)


def spread(case: Case, name: str) -> float:
    """Largest over smallest value on the orbit."""
    return max(orbit(case)[name]) / min(orbit(case)[name])

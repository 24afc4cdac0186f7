"""What the page on effective learning rates shows: a small convolutional network whose filters have no length."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from claimbook.evidence import Case, shared
from claimbook.show.figures import BLUE, INK, VERMILION, axes
from claimbook.show.notebook import show_figure
from normdyn.data.sets import digits
from normdyn.symmetry.scale_invariance import (
    ScaleGroup,
    effective_learning_rates,
    group_norms,
    scale_invariant_groups,
)

SAMPLES, BATCH, STEPS, EVERY = 500, 50, {"quick": 400, "paper": 3000}, 10
LR, DECAY = 0.3, 0.02


@shared
def samples(case: Case) -> tuple[Tensor, Tensor]:
    """Digits as images, and their labels; the first ones."""
    data = digits(dtype=torch.float32)
    return data.inputs[:SAMPLES].to(case.device), data.labels[:SAMPLES].to(case.device)


def network(case: Case) -> nn.Sequential:
    """Two convolutions below batch normalisation and a readout, started from a generator of the case's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=case.generator("network"))))
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Flatten(), nn.Linear(48, 10),
        ).to(case.device)  # fmt: skip


def train(
    case: Case,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    record: Callable[[], object] = lambda: None,
    start: int = 0,
) -> None:
    """Steps on batches drawn at random, and a record before each; those from another start draw other batches."""
    (X, y), generator = samples(case), case.generator(f"batches from {start}")
    for _ in range(steps):
        record()
        rows = torch.randint(SAMPLES, (BATCH,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(X[rows]), y[rows]).backward()
        optimizer.step()


@shared
def path(case: Case, weight_decay: float) -> dict[str, list[float]]:
    """Over all filters: norm and angle of a step, root mean squares, and the geometric mean of the effective rate."""
    model = network(case)
    filters = [group for group in scale_invariant_groups(model, samples(case)[0][:BATCH]) if group.row is not None]
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, weight_decay=weight_decay)
    found: dict[str, list[float]] = {"step": [], "norm": [], "rate": [], "angle": []}
    for step in range(0, STEPS[case.profile], EVERY):
        found["step"].append(float(step))
        found["norm"].append(group_norms(parameters, filters).square().mean().sqrt().item())
        found["rate"].append(effective_learning_rates(parameters, filters, optimizer).log().mean().exp().item())
        seen: list[Tensor] = []
        train(case, model, optimizer, EVERY, lambda seen=seen: seen.append(_directions(parameters, filters)), step)
        turns = torch.stack([*seen, _directions(parameters, filters)]).diff(dim=0)
        found["angle"].append((turns.square().sum() / EVERY / len(filters)).sqrt().item())
    return found


def _directions(parameters: dict[str, Tensor], filters: Sequence[ScaleGroup]) -> Tensor:
    """Unit vectors of all filters, one after the other."""
    names = dict.fromkeys(name for group in filters for name in group.parameters)
    return torch.cat([F.normalize(parameters[name].detach().flatten(1)).flatten() for name in names])


def draw_paths(case: Case) -> None:
    """Norm, effective rate and angle of a step, with decay and without."""
    with_decay, without = path(case, DECAY), path(case, 0.0)
    figure, panels = axes(1, 3, height=3.1)
    labels = {"norm": "norm of a filter", "rate": r"effective rate $\eta/|w|^2$", "angle": "angle of a step"}
    for ax, (column, label) in zip(panels, labels.items(), strict=True):
        for found, color, name in ((with_decay, BLUE, "with decay"), (without, VERMILION, "without")):
            ax.plot(found["step"], found[column], color=color, linewidth=1.6, label=name)
        ax.set(xlabel="step", title=label)
    panels[2].axhline(
        math.sqrt(2 * LR * DECAY), color=INK, linestyle="--", linewidth=1.2, label=r"$\sqrt{2\eta\delta}$"
    )
    panels[2].set_yscale("log")
    figure.legend(*panels[2].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    data = {f"{name}_{c}": found[c] for name, found in (("decay", with_decay), ("without", without)) for c in labels}
    show_figure(figure, name="use-rates", data={"step": with_decay["step"]} | data)


def late(case: Case, column: str, weight_decay: float) -> float:
    """Mean of a column over the last third of the run; root of the mean square for angles."""
    values = path(case, weight_decay)[column]
    last = torch.tensor(values[-len(values) // 3 :])
    return last.square().mean().sqrt().item() if column == "angle" else last.mean().item()

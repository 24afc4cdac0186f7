"""What the page on measuring collapse shows: a classifier trained far beyond zero error, measured on the way."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from claimbook.evidence import Case, shared
from claimbook.show.figures import BLUE, GREEN, ORANGE, PURPLE, VERMILION, axes
from claimbook.show.notebook import show_figure
from normdyn.data.sets import digits, flatten
from normdyn.measures.collapse_stream import Accumulator

TRAIN, STEPS = 600, {"quick": 1500, "paper": 6000}


def samples(case: Case) -> tuple[Tensor, Tensor]:
    """Digits as rows of numbers up to one, and their labels; the first ones."""
    data = flatten(digits(dtype=torch.float32))
    return (data.inputs[:TRAIN] / data.inputs.max()).to(case.device), data.labels[:TRAIN].to(case.device)


def classifier(case: Case) -> nn.Sequential:
    """Two hidden layers with batch normalisation, started from a generator of the case's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=case.generator("classifier"))))
        return nn.Sequential(
            nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
            nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
        ).to(case.device)  # fmt: skip


def last_features(model: nn.Sequential, X: Tensor) -> Tensor:
    """What the last layer reads."""
    with torch.no_grad():
        return model[:-1](X)


def measure(model: nn.Sequential, X: Tensor, y: Tensor) -> dict[str, float]:
    """All measures, from features in batches of 50."""
    accumulator = Accumulator(counts=y.bincount())
    for inputs, labels in zip(X.split(50), y.split(50), strict=True):
        accumulator.update(last_features(model, inputs), labels)
    return {name: value.item() for name, value in accumulator.result(model[-1].weight.detach()).items()}


@shared
def trained(case: Case) -> tuple[nn.Sequential, dict[str, list[float]]]:
    """The classifier after full-batch descent with decay, and its measures at steps that grow like a power."""
    (X, y), model = samples(case), classifier(case)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-3)
    count = STEPS[case.profile]
    records = sorted({round(10 * (count / 10) ** (k / 14)) for k in range(15)})
    path: dict[str, list[float]] = {"step": [], "error": []}
    for step in range(1, count + 1):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(X), y).backward()
        optimizer.step()
        if step in records:
            model.eval()
            row = {"step": float(step), "error": (model(X).argmax(1) != y).double().mean().item()}
            for name, value in (row | measure(model, X, y)).items():
                path.setdefault(name, []).append(value)
    return model.eval(), path


def draw_path(case: Case) -> None:
    """Left NC1 in its three conventions, right NC2 and NC3."""
    path = trained(case)[1]
    figure, (left, right) = axes(1, 2, height=3.2)
    conventions = {
        "variance_ratio": "trace ratio",
        "distance_variance": "class distance",
        "variability": "pseudo-inverse",
    }
    others = {"length_spread": "NC2, lengths of means", "angle_gap": "NC2, angles of means",
              "classifier_angle_gap": "NC2, angles of the last layer", "duality_gap": "NC3, duality"}  # fmt: skip
    for ax, names in ((left, conventions), (right, others)):
        for (name, label), color in zip(names.items(), (BLUE, VERMILION, GREEN, PURPLE), strict=False):
            ax.loglog(path["step"], path[name], color=color, linewidth=1.8, label=label)
        ax.set(xlabel="steps")
        ax.legend()
    fitted = next(step for step, error in zip(path["step"], path["error"], strict=True) if error == 0)
    for ax in (left, right):
        ax.axvline(fitted, color=ORANGE, linewidth=1, linestyle=":")
    left.set(ylabel="NC1")
    names = ("step", *conventions, *others)
    show_figure(figure, name="use-collapse", data={name: path[name] for name in names})


def fall(case: Case, name: str) -> float:
    """By what a measure has shrunk since the first record without an error."""
    path = trained(case)[1]
    return path[name][path["error"].index(0.0)] / path[name][-1]

"""What the page on watching norms shows: a small classifier, and why the norm of each layer grows or shrinks."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from claimbook.evidence import Case, shared
from claimbook.show.figures import BLUE, GREEN, INK, VERMILION, axes
from claimbook.show.notebook import show_figure
from normdyn.data.sets import digits, flatten
from normdyn.norms.monitor import LayerReport, NormMonitor

SAMPLES, BATCH, STEPS, WINDOW = 1000, 50, {"quick": 500, "paper": 2000}, 20
DRAWN = {
    "rate": (INK, "measured"),
    "flow": (BLUE, "flow"),
    "decay": (VERMILION, "decay"),
    "step_term": (GREEN, "finite step"),
}


def network(case: Case, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Three layers without biases, started from a generator of the case's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=case.generator("network"))))
        layers = [nn.Linear(64, 32, bias=False), activation(), nn.Linear(32, 32, bias=False), activation()]
        return nn.Sequential(*layers, nn.Linear(32, 10, bias=False)).to(case.device)


def batches(case: Case, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As many batches of digits, in the order of a loader that shuffles at every epoch."""
    data, generator = flatten(digits(dtype=torch.float32)), case.generator("batches")
    X, y = data.inputs[:SAMPLES].to(case.device), data.labels[:SAMPLES].to(case.device)
    order: list[Tensor] = []
    for _ in range(steps):
        order = order or list(torch.randperm(SAMPLES, generator=generator).split(BATCH))
        rows = order.pop()
        yield X[rows], y[rows]


@shared
def growth(case: Case, lr: float = 0.2, weight_decay: float = 5e-3) -> dict[str, list[float] | list[str]]:
    """Rates of each layer's squared norm and their causes, means over windows of steps, as columns."""
    model = network(case)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=weight_decay)
    with NormMonitor(model, optimizer) as monitor:
        for inputs, labels in batches(case, STEPS[case.profile]):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    table, names = monitor.table(), monitor.names
    means = {
        c: table[c].double().reshape(-1, WINDOW, len(names)).mean(1).flatten().tolist()
        for c in ("step", "squared_norm", *DRAWN)
    }
    return {"layer": names * (len(means["step"]) // len(names))} | means


def draw_growth(case: Case) -> None:
    """One panel a layer: the measured rate, and the three causes it is the sum of."""
    found = growth(case)
    layers = len(set(found["layer"]))
    figure, panels = axes(1, layers, height=3.1, sharey=True)
    for k, ax in enumerate(panels):
        for column, (color, label) in DRAWN.items():
            style = "--" if column == "rate" else "-"
            steps, values = (found[c][k::layers] for c in ("step", column))
            ax.plot(steps, values, style, color=color, linewidth=1.6, label=label)
        ax.set(xlabel="step", title=f"layer {k + 1}")
        ax.set_yscale("symlog", linthresh=0.1)
    panels[0].set(ylabel="rate of the squared norm")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(DRAWN))
    show_figure(figure, name="use-watch-norms", data=found)


def reports(
    case: Case,
    activation: type[nn.Module] = nn.ReLU,
    before_step: Callable[[list[nn.Parameter]], object] | None = None,
) -> list[LayerReport]:
    """What the monitor says after 30 steps without decay, with something between ``backward`` and ``step``."""
    model = network(case, activation)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with NormMonitor(model, optimizer) as monitor:
        for inputs, labels in batches(case, 30):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            if before_step is not None:
                before_step(list(model.parameters()))
            optimizer.step()
    return monitor.check(warn=False)


def late(case: Case, column: str, layer: str) -> float:
    """Mean of a column over the last quarter of the run."""
    found = growth(case)
    values = [v for v, name in zip(found[column], found["layer"], strict=True) if name == layer]
    last = values[-len(values) // 4 :]
    return sum(last) / len(last)


class Writer:
    """Has what a SummaryWriter of TensorBoard has, and only collects."""

    def __init__(self) -> None:
        self.scalars: dict[tuple[str, int], float] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Keep one number."""
        self.scalars[tag, step] = value

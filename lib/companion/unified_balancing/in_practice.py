"""What decides the page on networks of one's own: ours; laws of momentum and inside of transformers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from claimbook.evidence import Case, claim, equal, shared, together
from normdyn.data.sets import digits
from normdyn.norms.monitor import NormMonitor

STEPS = {"quick": 150, "paper": 600}


# Networks and an ordinary training loop


class Block(nn.Module):
    """Two convolutions with batch normalisation, and the way round them."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(x + branch)


def resnet(width: int = 8) -> nn.Sequential:
    """A stem, two blocks and a readout for digits."""
    stem = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    blocks = Block(width), nn.MaxPool2d(2), Block(width), nn.AvgPool2d(4)
    return nn.Sequential(*stem, *blocks, nn.Flatten(), nn.Linear(width, 10))


class Attention(nn.Module):
    """Attention over rows, in heads, without biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a perceptron, each of which normalises what it reads from the stream and adds what it computes."""

    def __init__(self, width: int, heads: int, activation: Callable[[], nn.Module], eps: float):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=eps, bias=False) for _ in range(2))
        self.attention, self.activation = Attention(width, heads), activation()
        self.up, self.down = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Eight rows of eight pixels are eight tokens; two layers, and a readout of their mean."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU, eps: float = 1e-5, width: int = 32):
        super().__init__()
        self.embed, self.position = nn.Linear(8, width, bias=False), nn.Parameter(0.1 * torch.randn(8, width))
        self.layers = nn.Sequential(*(Layer(width, 4, activation, eps) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width, eps=eps, bias=False), nn.Linear(width, 10, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layers(self.embed(images[:, 0]) + self.position)
        return self.head(self.norm(x).mean(1))


def made(case: Case, build: Callable[[], nn.Module]) -> nn.Module:
    """A network from a generator of the case's own, on its device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=case.generator("network"))))
        return build().to(case.device)


def fit(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, batch: int = 128) -> None:
    """An ordinary training loop that knows nothing of norms, in the precision of the model."""
    order, dtype = case.generator("batches"), next(model.parameters()).dtype
    data = digits(dtype=dtype)
    for _ in range(STEPS[case.profile]):
        rows = torch.randint(len(data.labels), (batch,), generator=order)
        optimizer.zero_grad()
        F.cross_entropy(model(data.inputs[rows].to(case.device)), data.labels[rows].to(case.device)).backward()
        optimizer.step()


def report(monitor: NormMonitor) -> None:
    """Each layer, its nearest order, what the monitor says of that, by how much it is missed, and why."""
    for r in monitor.check(warn=False):
        print(f"{r.layer:30} K = {r.order:g}  {r.status:11} {r.misfit:.0e}  {'; '.join(r.reasons).partition(';')[0]}")


# Momentum


@shared
def under_momentum(case: Case, momentum: float = 0.9) -> NormMonitor:
    """A ResNet trained in double precision by descent with momentum and decay."""
    model = made(case, resnet).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum, weight_decay=5e-4)
    monitor = NormMonitor(model, optimizer)
    fit(case, model, optimizer)
    return monitor


def remembered(total: dict[str, Tensor], momentum: float) -> Tensor:
    """The optimiser's term from those of flow, decay and step alone: ``-2 mu a``, with ``a = <W, m>``."""
    a, found = torch.zeros((), dtype=torch.float64), []
    for gained, step in zip(total["flow"] + total["broken"] + total["decay"], total["step_term"], strict=True):
        found.append(-2 * momentum * a)
        a = momentum * a - gained / 2 - step
    return torch.stack(found)


@claim("O-momentum-term", control={"recalled": 0.8})
def momentum_adds_what_it_remembers(case, recalled=0.9):
    """What momentum adds to the rate of the squared norm follows from flow, decay and steps of the past alone."""
    total = lambda: under_momentum(case).total()
    return equal(
        measured=lambda: total()["optimizer"],
        predicted=lambda: remembered(total(), recalled),
        bound=1e-10,
        reason="rounding of weights and buffers in double precision, over all steps",
    )


# Inside of a transformer


@shared
def attentive(case: Case, activation: Callable[[], nn.Module] = nn.ReLU, eps: float = 0.0, single: bool = False):
    """A transformer trained by AdamW, and watched."""
    model = made(case, lambda: Transformer(activation, eps))
    model = model if single else model.double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    monitor = NormMonitor(model, optimizer)
    fit(case, model, optimizer)
    return monitor


def slopes(monitor: NormMonitor) -> dict[str, Tensor]:
    """``<W, g>`` of each parameter, one entry a step."""
    table, count = monitor.table(), len(monitor.names)
    grid = -(table["flow"] + table["broken"]).reshape(-1, count) / 2
    return {name: grid[:, k] for k, name in enumerate(monitor.names)}


class Pair(NamedTuple):
    """Layers that may be scaled against each other, by their names in a block."""

    one: str
    other: str


PAIRS = (Pair("attention.query", "attention.key"), Pair("attention.value", "attention.out"), Pair("up", "down"))


def side(monitor: NormMonitor, pairs: tuple[Pair, ...], which: int) -> list[Tensor]:
    """Slopes of the first or the second layers of all pairs, in both blocks."""
    found = slopes(monitor)
    return [found[f"layers.{block}.{pair[which]}.weight"] for block in range(2) for pair in pairs]


def writers(monitor: NormMonitor) -> list[str]:
    """Names of what adds to the residual stream."""
    ends = ("out.weight", "down.weight")
    return [name for name in monitor.names if name in ("embed.weight", "position") or name.endswith(ends)]


@claim(
    "O-transformer-laws", control=[{"activation": nn.GELU}, {"eps": 1e-5}, {"pairs": (Pair("up", "attention.key"),)}]
)
def slopes_agree_in_pairs_and_cancel(case, activation=nn.ReLU, eps=0.0, pairs=PAIRS):
    """Queries and keys have one slope, values and outputs another, and so have the layers of a ReLU perceptron.

    The slopes of all that writes to the residual stream add up to zero, if every reader normalises first with no
    epsilon.
    """
    watched = lambda: attentive(case, activation, eps)
    return together(
        pairs=equal(
            measured=lambda: side(watched(), pairs, 0),
            predicted=lambda: side(watched(), pairs, 1),
            bound=1e-11,
            reason="rounding of sums over a batch in double precision",
        ),
        stream=equal(
            measured=lambda: torch.stack([slopes(watched())[name] for name in writers(watched())[1:]]).sum(0),
            predicted=lambda: -slopes(watched())[writers(watched())[0]],
            bound=1e-9,
            reason="rounding, where six slopes cancel that are larger than the one that is left",
        ),
    )

"""What decides the statements of the chapter on practice: ours, about ``rebalance`` on models of PyTorch."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from claimbook.evidence import Case, claim, equal, shared
from claimbook.show.figures import BLUE, ORANGE, axes
from claimbook.show.notebook import show_figure
from normdyn.data.sets import digits
from normdyn.networks.graphs import layered_matrix
from normdyn.rescaling.gauge import rebalance
from normdyn.rescaling.group import entrywise_norm, orbit_minimum, rescale

PAIRS = ((2.0, 2.0), (1.0, 2.0), (3.0, 1.0))


# Models


def convnet(first: int = 12, second: int = 24, width: int = 32) -> nn.Sequential:
    """Two convolutions and two linear layers, with two kinds of pooling, for digits of 8 x 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1), nn.LeakyReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(4 * second, width), nn.ReLU(), nn.Linear(width, 10),
    )  # fmt: skip


def small_convnet() -> nn.Sequential:
    return convnet(4, 6, 8)


def small_perceptron() -> nn.Sequential:
    """Three linear layers, for the same digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 10))


def seeded(build: Callable[[], nn.Sequential], draw: Generator) -> nn.Sequential:
    """A model with weights from a generator of ours, though torch's layers draw from the global stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=draw)))
        return build().double().eval()


def layers_of(model: nn.Sequential) -> list[nn.Module]:
    return [module for module in model if isinstance(module, (nn.Linear, nn.Conv2d))]


def dialled(model: nn.Sequential, draw: Generator, size: float = 3.0, *, outgoing: bool = True) -> nn.Sequential:
    """A copy whose hidden units are rescaled by random factors with logarithms of a given size, written out by hand."""
    model = copy.deepcopy(model)
    layers = layers_of(model)
    with torch.no_grad():
        for here, after in zip(layers, layers[1:], strict=False):
            a = (size * torch.randn(here.weight.shape[0], generator=draw, dtype=torch.float64)).exp().to(here.weight)
            here.weight.copy_(here.weight * a.view(-1, *[1] * (here.weight.ndim - 1)))
            here.bias.copy_(here.bias * a)
            if outgoing:  # after a Flatten several features come from one channel
                each = a.repeat_interleave(after.weight.shape[1] // len(a))
                after.weight.copy_(after.weight / each.view(1, -1, *[1] * (after.weight.ndim - 2)))
    return model


def images(draw: Generator) -> Tensor:
    return torch.randn(40, 1, 8, 8, generator=draw, dtype=torch.float64)


# Training, for the page's example


def fit(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int = 300, rate: float = 1e-2) -> nn.Module:
    """Adam on a thousand digits, fifty at a time."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for t in range(steps):
        batch = torch.arange(t * 50, t * 50 + 50) % 1000
        optimiser.zero_grad()
        F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimiser.step()
    return model.eval()


@shared
def trained(case: Case) -> nn.Sequential:
    """A model in float32, as practitioners have it, trained on digits."""
    data = digits(dtype=torch.float32)
    return fit(seeded(convnet, case.generator("trained")).float(), data.inputs, data.labels)


# Same function, least norm


class Balance(NamedTuple):
    """A model, the same far out of balance, and that after ``rebalance``."""

    p: float
    q: float
    plain: nn.Sequential
    before: nn.Sequential
    after: nn.Sequential


@shared
def balances(case: Case, solved_for: tuple[float, float] | None = None) -> list[Balance]:
    """The models for each pair of exponents; balanced for the pair, or for another one."""
    draw, found = case.generator("balances"), []
    for (p, q), build in zip(PAIRS, (small_convnet, small_perceptron, small_convnet), strict=True):
        plain = seeded(build, draw)
        model = dialled(plain, draw)
        found.append(Balance(p, q, plain, model, rebalance(model, *(solved_for or (p, q)), tol=1e-14).model))
    return found


@shared
def before_and_after(case: Case, bias: bool) -> list[tuple[Tensor, Tensor]]:
    """Outputs of both; with ``bias`` false the biases are those from before."""
    found = []
    for pair in balances(case):
        after = copy.deepcopy(pair.after)
        if not bias:
            for here, there in zip(layers_of(pair.before), layers_of(after), strict=True):
                there.bias.data.copy_(here.bias)
        X = images(case.generator("images"))
        with torch.no_grad():
            found.append((pair.before(X), after(X)))
    return found


@claim("O-rebalance-function", control={"bias": False})
def rebalance_keeps_the_function(case, bias=True):
    """``rebalance`` keeps the function of convolutional and linear networks, however far out of balance."""
    return equal(
        measured=lambda: [after for _, after in before_and_after(case, bias)],
        predicted=lambda: [before for before, _ in before_and_after(case, bias)],
        bound=1e-12,
        reason="rounding of sums over up to 64 weights, after factors of any size",
    )


def norm_of(model: nn.Sequential, p: float, q: float) -> Tensor:
    """The norm over all units; what enters a channel is all of its kernels."""
    return torch.cat([layer.weight.detach().flatten(1).norm(p, 1) for layer in layers_of(model)]).norm(q)


def kernels(model: nn.Sequential, p: float) -> list[Tensor]:
    """For every layer a matrix of sizes, of the weights between a unit and one of the layer before."""
    found, units = [], 1
    for layer in layers_of(model):
        W = layer.weight.detach()
        first = units == 1 and W.ndim == 2  # features of the input are units by themselves
        found.append(W.abs() if first else W.reshape(len(W), units, -1).norm(p, 2))
        units = len(W)
    return found


@shared
def least_norms(case: Case) -> list[Tensor]:
    """The least norm on each orbit by Newton's method, which begins elsewhere on it and knows nothing of balance."""
    found = []
    for p, q, plain, _, _ in balances(case):
        W, hidden = layered_matrix(kernels(plain, p))
        found.append(entrywise_norm(rescale(W, W[0], orbit_minimum(W, hidden, p=p, q=q))[0], p=p, q=q))
    return found


@claim("O-rebalance-least", control={"solved_for": (2.0, 4.0)})
def rebalance_finds_the_least(case, solved_for=None):
    """No rescaling has a smaller norm than what ``rebalance`` returns: Newton's method on the norm finds none."""
    return equal(
        measured=lambda: [norm_of(b.after, b.p, b.q) for b in balances(case, solved_for)],
        predicted=lambda: least_norms(case),
        bound=1e-11,
        reason="both stop at a relative gap below 1e-13, within rounding",
    )


@claim("O-rebalance-layers", control={"solved_for": (2.0, 4.0)})
def layers_share_equally(case, solved_for=None):
    """After ``rebalance`` every layer has the same share of the norm's q-th power."""

    def shares(b):
        totals = [layer.weight.detach().flatten(1).norm(b.p, 1).pow(b.q).sum() for layer in layers_of(b.after)]
        return torch.stack(totals) / sum(totals)

    return equal(
        measured=lambda: [shares(b) for b in balances(case, solved_for)],
        predicted=lambda: [torch.full((n,), 1 / n, dtype=torch.float64) for n in (4, 3, 4)],
        bound=1e-6,
        reason="the norm is flat at its minimum: a gap of 1e-14 leaves 1e-7 in the shares",
    )


# Which models


def batch_norm() -> nn.Module:
    """A batch normalisation that has seen data: a fresh one is the identity but for its epsilon."""
    norm = nn.BatchNorm1d(8)
    norm.running_mean.fill_(0.3)
    return norm


BETWEEN = {
    "ReLU": nn.ReLU, "leaky ReLU": nn.LeakyReLU, "PReLU": nn.PReLU, "RReLU": nn.RReLU, "identity": nn.Identity,
    "dropout": nn.Dropout, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "GELU": nn.GELU, "SiLU": nn.SiLU, "ELU": nn.ELU,
    "softplus": nn.Softplus, "ReLU6": nn.ReLU6, "softmax": lambda: nn.Softmax(1),
    "layer norm": lambda: nn.LayerNorm(8), "batch norm": batch_norm,
}  # fmt: skip


def tied() -> nn.Sequential:
    """Two layers that are one matrix."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    return model


def chains() -> list[Callable[[], nn.Sequential]]:
    """Chains of two linear layers with each operation between them, and one with tied weights."""
    return [lambda op=op: nn.Sequential(nn.Linear(8, 8), op(), nn.Linear(8, 8)) for op in BETWEEN.values()] + [tied]


def left_alone(model: nn.Module) -> float:
    """One if ``rebalance`` leaves all units of the first layer as they are, else zero."""
    return float((rebalance(model).factors["0"] == 1).all())


def changes(model: nn.Sequential, draw: Generator, outgoing: bool) -> float:
    """One if a rescaling of its hidden units moves the outputs of a model, beyond rounding, else zero."""
    X = torch.randn(40, 8, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        before, after = model(X), dialled(model, draw, outgoing=outgoing)(X)
    return 0.0 if (after - before).abs().max() < 1e-9 * before.abs().max() else 1.0


@shared
def tried(case: Case, outgoing: bool) -> list[tuple[float, float]]:
    """For each chain whether a rescaling changes its function, and whether ``rebalance`` leaves its units alone."""
    draw = case.generator("chains")
    models = [seeded(build, draw) for build in chains()]
    return [(changes(model, draw, outgoing), left_alone(model)) for model in models]


@claim("O-rebalance-refuses", control={"outgoing": False})
def refuses_what_rescaling_would_change(case, outgoing=True):
    """Of seventeen chains ``rebalance`` leaves exactly those alone whose function a rescaling of units would change."""
    return equal(
        measured=lambda: [kept for _, kept in tried(case, outgoing)],
        predicted=lambda: [change for change, _ in tried(case, outgoing)],
        bound=1e-3,
        reason="models are counted: one exception is a residual of one",
    )


# Pruning


def pruned(model: nn.Sequential, share: float = 0.7) -> nn.Sequential:
    """A copy without the given share of its weights, the smallest of the whole model."""
    model = copy.deepcopy(model)
    prune.global_unstructured([(layer, "weight") for layer in layers_of(model)], prune.L1Unstructured, amount=share)
    return model


@shared
def pruned_outputs(case: Case, first: bool, vacuous: bool) -> list[tuple[Tensor, Tensor]]:
    """Outputs of pruned models, and of the same functions at other settings of the dials; rebalanced first, or not.

    Args:
        vacuous: Nothing leaves one of the hidden units.
    """
    draw, found = case.generator("pruning"), []
    prepared = lambda model: rebalance(model, 1, 1, tol=1e-14).model if first else model
    for build in (small_convnet, small_perceptron):
        model, X = seeded(build, draw), images(draw)
        with torch.no_grad():
            layers_of(model)[-1].weight[:, 2] *= not vacuous
            found.append(tuple(pruned(prepared(m))(X) for m in (model, dialled(model, draw, 1.0))))
    return found


@claim("O-prune-balanced", control=[{"first": False}, {"vacuous": True}])
def pruning_forgets_the_gauge(case, first=True, vacuous=False):
    """Weights of least size depend on the dials; after ``rebalance`` the pruned function of living units does not."""
    return equal(
        measured=lambda: [turned for _, turned in pruned_outputs(case, first, vacuous)],
        predicted=lambda: [plain for plain, _ in pruned_outputs(case, first, vacuous)],
        bound=1e-5,
        reason="the norm is flat at its minimum: a gap of 1e-14 leaves 1e-7 in the factors, and layers add up",
    )


# Figure


def squares(model: nn.Sequential) -> list[float]:
    """Sum of the squared weights of each layer."""
    return [layer.weight.detach().square().sum().item() for layer in layers_of(model)]


def numbers_of_the_example(case: Case) -> dict[str, str]:
    """What the prose says of the trained network: accuracy in per cent, passes, and how unequal the layers were."""
    data, model = digits(dtype=torch.float32), trained(case)
    found = rebalance(model)
    with torch.no_grad():
        right = found.model(data.inputs[1000:]).argmax(1) == data.labels[1000:]
    norms, layers = found.history["norm"], squares(model)
    return {
        "accuracy": f"{100 * right.double().mean():.0f}",
        "passes": f"{len(norms) - 1}",
        "ratio": f"{norms[-1] / norms[0]:.2f}",
        "unequal": f"{max(layers) / min(layers):.0f}",
    }


def draw_layers(case: Case) -> None:
    """Squared norms of the trained network's layers, before and after ``rebalance``."""
    model, names = trained(case), ["conv 1", "conv 2", "linear 1", "linear 2"]
    columns = {"trained": squares(model), "rebalanced": squares(rebalance(model).model)}
    fig, ax = axes(height=2.6, width=6.0)
    for shift, color, (label, sizes) in zip((-0.2, 0.2), (ORANGE, BLUE), columns.items(), strict=True):
        bars = ax.bar([k + shift for k in range(4)], sizes, width=0.36, color=color, label=label)
        ax.bar_label(bars, fmt="%.0f", padding=2, fontsize=9)
    ax.set_xticks(range(4), names)
    ax.set_ylabel("squared norm")
    ax.grid(axis="x", visible=False)
    ax.set_axisbelow(True)
    ax.legend()
    show_figure(fig, name="layers", data={"layer": names} | columns)

"""What decides the how-to on quantisation: ours; weights on one scale a tensor, trained, scrambled or at least norm."""

import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from claimbook.evidence import Case, claim, equal, shared, tendency
from claimbook.show.figures import BLUE, GREEN, ORANGE, VERMILION, axes
from claimbook.show.notebook import show_figure
from claimbook.show.results import ROOT
from companion.use.tables import table
from companion.weight_balancing.in_practice import fit, seeded
from normdyn.data.sets import digits
from normdyn.rescaling.assembly import apply
from normdyn.rescaling.following import follow
from normdyn.rescaling.gauge import rebalance

SEEDS = 6
BITS = (8, 6, 5, 4, 3)


# Networks, trained on digits here


class Block(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Head(nn.Sequential):
    """Means over pixels, and a linear layer."""

    def __init__(self, width: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def plain() -> nn.Module:
    """Three convolutions in a chain."""
    return nn.Sequential(Block(1, 16), Block(16, 24), nn.MaxPool2d(2), Block(24, 32), Head(32))


def separable() -> nn.Module:
    """Depthwise and pointwise convolutions in turn, as in a MobileNet."""
    pairs = [block for _ in range(3) for block in (Block(24, 24, groups=24), Block(24, 24, 1))]
    return nn.Sequential(Block(1, 24), *pairs, Head(24))


class Residual(nn.Module):
    """Two blocks that add to a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = Block(1, 20), Head(20)
        self.inner = nn.ModuleList([Block(20, 20) for _ in range(2)])
        self.outer = nn.ModuleList([nn.Conv2d(20, 20, 3, padding=1) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = F.relu(h + outer(inner(h)))
        return self.head(h)


KINDS: dict[str, Callable[[], nn.Module]] = {"plain": plain, "separable": separable, "residual": Residual}


def folded(model: nn.Module) -> nn.Module:
    """A copy whose normalisations are part of the convolutions before them, as networks are deployed."""
    model = copy.deepcopy(model).eval()
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        block.conv, block.norm = fuse_conv_bn_eval(block.conv, block.norm), nn.Identity()
    return model


@shared
def trained(case: Case, name: str) -> list[nn.Module]:
    """One network a seed, trained on a thousand digits and folded."""
    data, found = digits(dtype=torch.float32), []
    for number in range(SEEDS):
        model = seeded(KINDS[name], case.generator(f"{name} {number}")).float().train()
        found.append(folded(fit(model, data.inputs, data.labels, rate=3e-3)))
    return found


# Ways to write one function


def scrambled(model: nn.Module, case: Case, size: float = 1.5) -> nn.Module:
    """The same function with every dial turned at random."""
    trace = follow(model, digits(dtype=torch.float32).inputs[:2])[0]
    roots = trace.classes.roots(torch.arange(len(trace.classes)))
    dials = size * torch.randn(len(roots), generator=case.generator("dials"), dtype=torch.float64)
    dials[0] = 0.0
    model = copy.deepcopy(model)
    apply(trace, model, dials[roots])
    return model


def balanced(model: nn.Module, p: float = 2.0, q: float = 2.0) -> nn.Module:
    """At the least norm."""
    return rebalance(model, p, q, tol=1e-12, sample=digits(dtype=torch.float32).inputs[:2]).model


@shared
def written(case: Case, name: str, way: str) -> list[nn.Module]:
    """The trained networks as trained, scrambled, or at the least norm from there."""
    models = trained(case, name)
    if way.startswith("scrambled"):
        models = [scrambled(model, case.with_seed(case.seed + number)) for number, model in enumerate(models)]
    return [balanced(model) for model in models] if way.endswith("balanced") else models


# Quantisation


def rounded(weight: Tensor, bits: int, per_channel: bool) -> Tensor:
    """Weights on a symmetric grid of ``2**bits - 1`` values, whose scale is that of the largest one."""
    largest = weight.abs().flatten(1).amax(1) if per_channel else weight.abs().amax()
    scale = (largest / (2 ** (bits - 1) - 1)).clamp_min(torch.finfo(weight.dtype).tiny)
    scale = scale.reshape(-1, *[1] * (weight.ndim - 1)) if per_channel else scale
    return (weight / scale).round() * scale


def quantised(model: nn.Module, bits: int, *, per_channel: bool = False) -> nn.Module:
    """A copy with weights of all layers rounded; biases and activations keep their precision."""
    model = copy.deepcopy(model)
    for value in model.parameters():
        if value.ndim > 1:
            value.data.copy_(rounded(value.data, bits, per_channel))
    return model


def outputs(model: nn.Module) -> Tensor:
    """For the digits that it was not trained on."""
    with torch.no_grad():
        return model(digits(dtype=torch.float32).inputs[1000:])


def accuracy(model: nn.Module) -> float:
    """Share of those digits that it knows."""
    return (outputs(model).argmax(1) == digits(dtype=torch.float32).labels[1000:]).double().mean().item()


@shared
def errors(case: Case, name: str, way: str, bits: int, per_channel: bool = False) -> Tensor:
    """Error of the outputs after rounding, relative to the outputs, one a seed."""
    found = []
    for exact, model in zip(trained(case, name), written(case, name, way), strict=True):
        y = outputs(exact)
        found.append((outputs(quantised(model, bits, per_channel=per_channel)) - y).norm() / y.norm())
    return torch.stack(found).double()


@claim("O-quantised-once", control={"balance": False})
def the_least_norm_undoes_scrambling(case, balance=True):
    """At the least norm a network has the same weights, whichever way its dials stood before."""
    way = " balanced" if balance else ""
    grids = lambda start: [
        torch.cat([p.detach().flatten() for p in model.parameters()])
        for name in KINDS for model in written(case, name, f"{start}{way}")
    ]  # fmt: skip
    return equal(
        measured=lambda: grids("scrambled"),
        predicted=lambda: grids("trained"),
        bound=1e-4,
        reason="single precision: weights multiplied twice, and a minimum that is flat",
    )


@claim("O-quantised-scrambled", control={"start": "trained"})
def scrambled_networks_gain(case, start="scrambled"):
    """Rounding costs scrambled networks more than the same networks at the least norm."""
    cells = [(name, bits) for name in KINDS for bits in (8, 4)]
    return tendency(
        lambda: [errors(case, n, start, b).log() - errors(case, n, f"{start} balanced", b).log() for n, b in cells],
        reason=f"cells: three networks, 8 and 4 bits; {SEEDS} seeds; any gain counts, after a look at a factor of two",
    )


def gain(case: Case) -> tuple[float, float]:
    """By what factor the least norm lowers the error of networks as trained: mean over all, and one standard error."""
    logs = [
        errors(case, name, "trained", bits).log() - errors(case, name, "trained balanced", bits).log()
        for name in KINDS for bits in (8, 6, 5, 4)
    ]  # fmt: skip
    per_network = torch.stack(logs).reshape(len(KINDS), -1, SEEDS).mean(1).flatten()
    return per_network.mean().exp().item(), (per_network.std() / len(per_network) ** 0.5).item()


# The page's figure


def draw(case: Case) -> None:
    """Error against bits, a panel a network."""
    fig, panels = axes(1, len(KINDS), height=2.9, sharey=True)
    ways = {
        "as trained": ("trained", False, "o-", ORANGE), "least norm": ("trained balanced", False, "s-", BLUE),
        "scrambled": ("scrambled", False, "x--", VERMILION), "a scale a channel": ("trained", True, "^:", GREEN),
    }  # fmt: skip
    columns: dict[str, list] = {"bits": list(BITS)}
    for ax, name in zip(panels, KINDS, strict=True):
        for label, (way, per_channel, style, colour) in ways.items():
            shown = [100 * errors(case, name, way, bits, per_channel).log().mean().exp().item() for bits in BITS]
            ax.semilogy(BITS, shown, style, color=colour, label=label, markersize=4, linewidth=1.4)
            columns[f"{name}_{label.replace(' ', '_')}"] = shown
        ax.set(title=name, xlabel="bits a weight", xticks=BITS)
        ax.invert_xaxis()
    panels[0].set_ylabel("error of the outputs, %")
    panels[0].legend(frameon=False, fontsize=7)
    show_figure(fig, name="quantisation", data=columns)


def show_stored(path: str = "data/zoo/quantisation.json") -> None:
    """The table of rounding errors that ``make zoo`` stored, in per cent."""
    stored = json.loads((ROOT / path).read_text(encoding="utf-8"))
    bits = list(stored["rows"][0]["errors"])
    head = ["network", "way", *(f"{b} bits" for b in bits), "seconds"]
    rows = [
        [f"{row['network']}, {row['start']}", row["way"], *(f"{100 * row['errors'][b]:.3g} %" for b in bits),
         f"{row['seconds']:.2f}"]
        for row in stored["rows"]
    ]  # fmt: skip
    table(head, rows)

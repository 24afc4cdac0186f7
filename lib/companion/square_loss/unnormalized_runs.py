"""Runs of appendix D of paper B: networks at an instant, chains along the flow, digits from three sizes of layers."""

from typing import NamedTuple

import torch
from scipy.special import hyp2f1
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from normdyn.data.sets import digits, draw_per_class, flatten, select_classes, unit_norm
from normdyn.motion.flows import Params, descend, gradient_flow, integrate
from normdyn.networks.graphs import layered_weights, mlp


def normal(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers in float64, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


# At an instant


class Task(NamedTuple):
    """Inputs, labels, layers by name and hidden biases."""

    X: Tensor
    y: Tensor
    W: Params
    biases: list[Tensor] | None

    def output(self, W: Params) -> Tensor:
        return mlp(list(W.values()), self.X, biases=self.biases)[:, 0]


def units(W: Params, sizes=None) -> Params:
    """Layers of norm one, or of given norms."""
    sizes = sizes or [1.0] * len(W)
    return {k: s * w / w.norm() for s, (k, w) in zip(sizes, W.items(), strict=True)}


@shared
def tasks(case: Case, spread: float = 0.0) -> list[Task]:
    """Fifteen ReLU networks of 2, 3 and 5 layers; hidden biases of a given size."""
    found = []
    for k in range(5):
        for depth in (2, 3, 5):
            role = f"{k} depth {depth}"
            widths = (6, *[7 + j for j in range(depth - 1)], 1)
            W = dict(zip("ABCDE", layered_weights(widths, case.generator(f"layers {role}")), strict=False))
            biases = [spread * normal(case, f"bias {n} {role}", len(w)) for n, w in W.items()] if spread else None
            X = normal(case, f"X {role}", 12, 6)
            found.append(Task(X, normal(case, f"y {role}", 12).sign(), W, biases))
    return found


@shared
def ends(case: Case, step: float | None) -> list[Tensor]:
    """Norms of linear layers that start equal, after a time of one half, by the flow or by steps."""
    found = []
    for k in range(2):
        for depth in (2, 3):
            role = f"linear {k} {depth}"
            X, y = normal(case, f"X {role}", 12, 6), normal(case, f"y {role}", 12).sign()
            layers = layered_weights((6, *[4] * (depth - 1), 1), case.generator(role))
            W = units(dict(zip("ABC", layers, strict=False)))
            f = lambda W, X=X: mlp(list(W.values()), X, activation=lambda z: z)[:, 0]
            field = gradient_flow(lambda W, y=y, f=f: (f(W) - y).square().mean())
            if step is None:
                path = integrate(field, W, (0.0, 0.5), relative=1e-11)
            else:
                path = descend(field, W, step=step, steps=round(0.5 / step), every=1000)
            found.append(torch.stack([path[n][-1].norm() for n in W]))
    return found


# Chains of single units

INPUTS = (1.1, 0.4, 0.9, 1.5, 0.2, 0.7, 1.3, 0.6, 1.0)
TARGETS = torch.tensor([1.0] * 7 + [-1.0] * 2, dtype=torch.float64)


def constants() -> tuple[float, float]:
    """a = sum f y and b = sum f^2 of a chain whose layers are one."""
    x = torch.tensor(INPUTS, dtype=torch.float64)
    return (x * TARGETS).sum().item(), x.square().sum().item()


def antiderivative(u: Tensor, depth: float) -> Tensor:
    """F(u) of the closed form."""
    p = 2 - 2 / depth
    return torch.logit(u) if p == 1 else u ** (1 - p) / (1 - p) * torch.from_numpy(hyp2f1(1, 1 - p, 2 - p, u.numpy()))


def clock(depth: int) -> float:
    """Time units in which u = b rho / a moves by u^p (1 - u)."""
    a, b = constants()
    return 2 * depth * a * (a / b) ** (1 - 2 / depth)


def times_of(u: Tensor, depth: int) -> Tensor:
    """Flow times at which a chain passes these values, from the first on, by the closed form."""
    return (antiderivative(u, depth) - antiderivative(u[:1], depth)) / clock(depth)


@shared
def chain(depth: int, start: float = 1e-2, last: float = 0.98, count: int = 14) -> tuple[Tensor, Tensor]:
    """Times and u = b rho / a along the flow of a chain of single ReLU units in its weights."""
    a, b = constants()
    x = torch.tensor(INPUTS, dtype=torch.float64)[:, None]
    W = {f"W{k}": torch.full((1, 1), (start * a / b) ** (1 / depth), dtype=torch.float64) for k in range(depth)}
    field = gradient_flow(lambda W: (mlp(list(W.values()), x)[:, 0] - TARGETS).square().sum())
    end = times_of(torch.tensor([start, last], dtype=torch.float64), depth)[-1].item()
    product = {"u": lambda W: b / a * torch.cat(list(W.values())).prod()}
    path = integrate(field, W, torch.linspace(0, end, count), record=product, relative=1e-11)
    return path["times"], path["u"]


def wait(depth: int, start: float) -> Tensor:
    """Time to half of the equilibrium in units with a = b = 1, by the closed form."""
    return antiderivative(torch.tensor([start, 0.5], dtype=torch.float64), depth).diff()[0] / (2 * depth)


# Digits

WIDTH, DRAWS, DEPTH = 48, 5, 4
HE = (2 * WIDTH) ** 0.5  # norm of a layer at He's scale
SCALES = (0.8 * HE / 6, 0.8 * HE / 2, 0.8 * HE)
STEPS = (0.03, 0.03, 0.003)


class Trained(NamedTuple):
    """Product of norms (time, draw), loss (time, draw) and margins y g (time, draw, sample) at some steps."""

    rho: Tensor
    loss: Tensor
    margins: Tensor

    def normalised(self) -> Tensor:
        """Margins y f over time."""
        return self.margins / self.rho[..., None]


@shared
def images(case: Case) -> tuple[Tensor, Tensor]:
    """Forty threes and forty eights of norm one, labels +-1."""
    pair = select_classes(digits(), [3, 8])
    pair = unit_norm(flatten(draw_per_class(pair, 40, generator=case.generator("images"))))
    return pair.inputs.double(), 2.0 * pair.labels.double() - 1


def outputs(W: list[Tensor], X: Tensor) -> Tensor:
    """Of ReLU networks side by side, whose layers are stacked along the first axis: (draw, sample)."""
    H = X
    for layer in W[:-1]:
        H = (H @ layer.mT).relu()
    return (H @ W[-1].mT)[..., 0]


@shared
def trained(case: Case, size: float, step: float, steps: int, decay: float = 0.0, momentum: float = 0.9,
            depth: int = DEPTH, every: int = 10) -> Trained:  # fmt: skip
    """ReLU networks from layers of one norm, full batches, mean square loss; draws side by side."""
    X, y = images(case)
    shapes = [(WIDTH, X.shape[1]), *[(WIDTH, WIDTH)] * (depth - 2), (1, WIDTH)] if depth > 1 else [(1, X.shape[1])]
    draw = case.generator(f"training {depth}")
    W = [torch.randn(DRAWS, *shape, generator=draw, dtype=torch.float64) for shape in shapes]
    W = [(size * w / w.flatten(1).norm(dim=1)[:, None, None]).requires_grad_() for w in W]
    optimizer = torch.optim.SGD(W, lr=step, momentum=momentum, weight_decay=decay)
    rho, losses, kept = [], [], []
    for k in range(steps + 1):
        margins = y * outputs(W, X)
        loss = (margins - 1).square().mean(1)
        if k % every == 0:
            rho.append(torch.stack([w.detach().flatten(1).norm(dim=1) for w in W]).prod(0))
            losses.append(loss.detach())
            kept.append(margins.detach())
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    if not losses[-1].isfinite().all():
        raise Unfinished(f"training from layers of norm {size:.1f} at step {step} has left the numbers")
    return Trained(torch.stack(rho), torch.stack(losses), torch.stack(kept))

"""Runs of sections 4.1 to 4.3 of paper C: normalised networks before and after a layer is rescaled, and one weight.

Networks have tanh units, gains, shifts and biases; every hidden layer is normalised the same way.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.normalization_geometry.normalised_units import WeightNormalised, weight_normalised
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.motion.flows import Params, gradient_flow, integrate
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import Normalizer, batch_norm, layer_norm, normalized_mlp, weight_norm

NETWORKS = 5
FACTORS = (0.1, 3.0, 100.0)
STORED = (torch.linspace(-0.6, 0.6, 6).double(), torch.linspace(0.5, 2, 6).double())  # mean, variance of six units

# Networks


class Drawn(NamedTuple):
    """Parameters of a network by name and layer (``W``, ``b``, ``gain``, ``shift``), and batches with their targets."""

    params: Params
    batches: list[tuple[Tensor, Tensor]]


@shared
def networks(case: Case, widths: tuple[int, ...] = (3, 6, 6, 2)) -> list[Drawn]:
    """Five networks with three batches of twenty samples each."""
    found = []
    for k in range(NETWORKS):
        draw = lambda name, *shape, k=k: normal(case, f"C {widths} {k} {name}", *shape)
        params = {}
        for l, (fan_in, width) in enumerate(zip(widths, widths[1:], strict=False)):
            params |= {f"W{l}": draw(f"W{l}", width, fan_in) / fan_in**0.5, f"b{l}": draw(f"b{l}", width) / 3}
            if l < len(widths) - 2:
                params |= {f"gain{l}": 1 + draw(f"gain{l}", width).abs() / 2, f"shift{l}": draw(f"shift{l}", width) / 3}
        batches = [((1 + b / 2) * draw(f"X{b}", 20, widths[0]) + 0.3, draw(f"Y{b}", 20, widths[-1])) for b in range(3)]
        found.append(Drawn(params, batches))
    return found


def normalizer(kind: str, epsilon: float) -> Normalizer:
    """``batch``, ``layer``, ``stored`` (constants in place of the batch's own statistics) or ``none``."""
    match kind:
        case "batch":
            return lambda z: batch_norm(z, epsilon=epsilon)
        case "layer":
            return lambda z: layer_norm(z, epsilon=epsilon)
        case "stored":
            return lambda z: batch_norm(z, epsilon=epsilon, statistics=STORED)
    return lambda z: z


def outputs(params: Params, X: Tensor, kind: str, epsilon: float = 0.0) -> Tensor:
    """Outputs of the network on one batch."""
    named = lambda name: [params[key] for key in params if key.rstrip("0123456789") == name]
    return normalized_mlp(
        named("W"), X, normalizer=normalizer(kind, epsilon), activation=torch.tanh,
        biases=named("b"), gains=named("gain"), shifts=named("shift"),
    )  # fmt: skip


def rescaled(params: Params, factor: float, *, block: int = 1, gain: float = 1.0, center: bool = False) -> Params:
    """Weights and biases of a block times a factor, its gains times another.

    With ``center`` biases are scaled about the stored means.
    """
    W, b, g = f"W{block}", f"b{block}", f"gain{block}"
    middle = STORED[0] if center else 0.0
    return params | {W: factor * params[W], b: middle + factor * (params[b] - middle), g: gain * params[g]}


@shared
def before(case: Case, kind: str = "batch", epsilon: float = 0.0) -> list[Tensor]:
    """Outputs of all networks on all batches."""
    return [outputs(one.params, X, kind, epsilon) for one in networks(case) for X, _ in one.batches]


@shared
def after(
    case: Case, factor: float, *, kind: str = "batch", epsilon: float = 0.0, gain: float = 1.0, center: bool = False
) -> list[Tensor]:
    """The same when weights and biases of the second layer are multiplied by a factor, its gains by another."""
    move = lambda one: rescaled(one.params, factor, gain=gain, center=center)
    return [outputs(move(one), X, kind, epsilon) for one in networks(case) for X, _ in one.batches]


def change(case: Case, factor: float, *, kind: str = "batch", epsilon: float = 0.0, gain: float = 1.0) -> Tensor:
    """How far the outputs of all networks move, relative to their size."""
    start, end = (
        torch.cat(before(case, kind, epsilon)),
        torch.cat(after(case, factor, kind=kind, epsilon=epsilon, gain=gain)),
    )
    return (end - start).norm() / start.norm()


class Radial(NamedTuple):
    """Rows (weights and bias) of a normalised layer, and the gradient of the square loss in them."""

    rows: Tensor
    gradient: Tensor


@shared
def gradients(case: Case, kind: str, epsilon: float) -> list[Radial]:
    """Both hidden layers of all networks, on each batch by itself."""
    found = []
    for one in networks(case):
        for X, Y in one.batches:
            slope = torch.func.grad(lambda p, X=X, Y=Y: square_loss(outputs(p, X, kind, epsilon), Y))(one.params)
            joint = lambda p, l: torch.cat([p[f"W{l}"], p[f"b{l}"][:, None]], 1)
            found += [Radial(joint(one.params, l), joint(slope, l)) for l in range(2)]
    return found


class Signals(NamedTuple):
    """One unit on a batch: inputs, weights, bias and the gradient at the layer's outputs."""

    X: Tensor
    w: Tensor
    b: Tensor
    delta: Tensor


@shared
def units(case: Case) -> list[Signals]:
    """Five units with four inputs and twenty samples."""
    draw = lambda k, name, *shape: normal(case, f"C unit {k} {name}", *shape)
    return [
        Signals(draw(k, "X", 20, 4), draw(k, "w", 4), draw(k, "b", 1)[0], draw(k, "d", 20)) for k in range(NETWORKS)
    ]


def by_equation_one(one: Signals, epsilon: float = 0.0, second: bool = True, third: bool = True) -> Tensor:
    """The gradient in the signals by the bracket of equation (1), or without its second or third term."""
    z = one.X @ one.w + one.b
    s = (z.var(correction=0) + epsilon).sqrt()
    hat = (z - z.mean()) / s
    return (one.delta - second * one.delta.mean() - third * hat * (one.delta * hat).mean()) / s


class Regression(NamedTuple):
    """Samples and targets, a weight with another one, and the square loss with gradient and Hessian at the weight."""

    X: Tensor
    t: Tensor
    w: Tensor
    other: Tensor
    loss: Callable[[Tensor], Tensor]
    gradient: Tensor
    hessian: Tensor


@shared
def regressions(case: Case, samples: int) -> list[Regression]:
    """Linear regressions of four weights without normalisation."""
    found = []
    for one in units(case):
        X, t = one.X[:samples], one.delta[:samples]
        loss = lambda w, X=X, t=t: (X @ w - t).square().mean() / 2
        slopes = torch.func.grad(loss)(one.w), torch.func.hessian(loss)(one.w)
        found.append(Regression(X, t, one.w, one.X[2], loss, *slopes))
    return found


def row_tangents(one: Drawn, kind: str, epsilon: float) -> Tensor:
    """How the outputs on all batches move when one row of the second layer is scaled, a row for each."""
    every = lambda p: torch.cat([outputs(p, X, kind, epsilon) for X, _ in one.batches]).flatten()
    tangents = []
    for row in range(len(one.params["W1"])):
        moved = {name: torch.zeros_like(p) for name, p in one.params.items()}
        for name in ("W1", "b1"):
            moved[name][row] = one.params[name][row]
        tangents.append(torch.func.jvp(every, (one.params,), (moved,))[1])
    return torch.stack(tangents)


@shared
def lost_row_scales(case: Case, kind: str, width: int, epsilon: float) -> list[Tensor]:
    """How many combinations of the scales of the second layer's rows do not move the outputs, of each network."""
    found = []
    for one in networks(case, (3, width, width, 2)):
        values = torch.linalg.svdvals(row_tangents(one, kind, epsilon))
        found.append((values < 1e-9 * values[0].clamp_min(1e-9)).sum())
    return found


class Curved(NamedTuple):
    """Weights and biases of one normalised layer in a row, with gradient and Hessian of a loss in them."""

    theta: Tensor
    gradient: Tensor
    hessian: Tensor


@shared
def curved_layers(case: Case, kind: str, epsilon: float = 0.0) -> list[Curved]:
    """Five layers of five units on three inputs below a linear unit."""
    found = []
    for k in range(NETWORKS):
        draw = lambda name, *shape, k=k: normal(case, f"C curved {k} {name}", *shape)
        X, theta, head, y = draw("X", 20, 3), draw("theta", 20), draw("head", 5), draw("y", 20)
        norm = normalizer(kind, epsilon)

        def loss(t, X=X, head=head, y=y, norm=norm):
            return (torch.tanh(norm(X @ t[:15].reshape(5, 3).mT + t[15:])) @ head - y).square().mean()

        found.append(Curved(theta, torch.func.grad(loss)(theta), torch.func.hessian(loss)(theta)))
    return found


def joint_norms(params: Params, whole: bool) -> Tensor:
    """Norms of weights and biases of both hidden layers, of each layer or of each row, one entry a row."""
    rows = [torch.cat([params[f"W{l}"], params[f"b{l}"][:, None]], 1) for l in range(2)]
    return torch.stack([(r.norm() if whole else r.norm(dim=1)) * torch.ones(len(r)).double() for r in rows])


@shared
def on_spheres(case: Case, whole: bool = True, epsilon: float = 0.0) -> list[Tensor]:
    """Outputs under layer normalisation when every hidden layer, or every row, is brought to norm one."""
    found = []
    for one in networks(case):
        size, moved = joint_norms(one.params, whole), dict(one.params)
        for l in range(2):
            moved |= {f"W{l}": moved[f"W{l}"] / size[l][:, None], f"b{l}": moved[f"b{l}"] / size[l]}
        found += [outputs(moved, X, "layer", epsilon) for X, _ in one.batches]
    return found


@shared
def radii(case: Case, whole: bool = True, epsilon: float = 0.0) -> list[Tensor]:
    """Norms of layers, or of rows, of two networks along the flow of the square loss, one row a time."""
    found = []
    for one in networks(case, (3, 4, 4, 2))[:2]:
        X, Y = one.batches[0]
        field = gradient_flow(lambda p, X=X, Y=Y: square_loss(outputs(p, X, "layer", epsilon), Y))
        size = {"r": lambda p: joint_norms(p, whole).flatten()}
        found.append(integrate(field, one.params, [0.0, 0.5, 1.0], record=size, relative=1e-10)["r"])
    return found


# What figures show


class Valley(NamedTuple):
    """A loss of two weights and its flows from four starts: points, one row a time."""

    loss: Callable[[Tensor], Tensor]
    paths: list[Tensor]


@shared
def valleys(case: Case) -> dict[str, Valley]:
    """One unit with two weights, without normalisation, under batch normalisation, and with a large epsilon.

    A loss takes weights as rows.
    """
    X = normal(case, "C valley X", 60, 2) @ torch.tensor([[1.5, 0.4], [0.0, 0.6]]).double()
    best = torch.tensor([[0.8, 0.9]]).double()
    target = batch_norm(X @ best.mT) + 0.4 * normal(case, "C valley noise", 60, 1)
    starts = torch.tensor([[-1.1, 1.0], [0.3, -1.0], [-0.4, 0.35], [1.3, -0.6]]).double()
    times, found = 60 * torch.linspace(0, 1, 80).double() ** 3, {}
    for name, norm in {"no normalisation": None, "BN": 0.0, r"BN, $\epsilon=0.3$": 0.3}.items():
        signal = normalizer("none" if norm is None else "batch", norm or 0.0)
        loss = lambda W, signal=signal: (signal(X @ W.mT) - target).square().mean(0) / 2
        field = gradient_flow(lambda p, loss=loss: loss(p["w"][None])[0])
        found[name] = Valley(loss, [integrate(field, {"w": w}, times, relative=1e-8)["w"] for w in starts])
    return found


def drift(one: Valley) -> float:
    """By what share of itself the distance from the origin changes along the flows, at most."""
    sizes = torch.stack(one.paths).norm(dim=2)
    return (sizes / sizes[:, :1] - 1).abs().max().item()


@shared
def lengths(case: Case) -> tuple[Tensor, Tensor, Tensor, WeightNormalised]:
    """Times, |v|^2 and g^2 along a flow in v and g of a quadratic loss, and where it started."""
    A, best = normal(case, "C lengths A", 5, 5) / 2, normal(case, "C lengths best", 5)
    loss = lambda w: (A @ (w - best)).square().sum()
    start = WeightNormalised(loss, normal(case, "C lengths v", 5), torch.tensor(2.5).double())
    times = torch.linspace(0, 3, 61).double()
    path = integrate(gradient_flow(lambda p: loss(seen(p["v"], p["g"]))), {"v": start.v, "g": start.gain}, times)
    return times, path["v"].square().sum(1), path["g"].square(), start


# One weight vector under weight normalisation


def seen(v: Tensor, g: Tensor) -> Tensor:
    """The weight that the network sees."""
    return weight_norm(v[None], g[None])[0]


@shared
def weights(case: Case, minimum: bool = False) -> list[WeightNormalised]:
    """Five losses of six weights, none quadratic; or quadratic ones, each at its minimum."""
    if not minimum:
        return weight_normalised(case)
    found = []
    for k in range(NETWORKS):
        A, best = normal(case, f"C weight {k} A", 8, 6), normal(case, f"C weight {k} best", 6)
        loss = lambda w, A=A, best=best: (A @ (w - best)).square().sum()
        found.append(WeightNormalised(loss, 2.5 * best, best.norm()))
    return found


@shared
def weight_slopes(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Gradients in v and g by automatic differentiation."""
    full = lambda one: torch.func.grad(lambda v, g: one.loss(seen(v, g)), (0, 1))(one.v, one.gain)
    return [full(one) for one in weights(case)]


@shared
def weight_hessians(case: Case, minimum: bool) -> list[Tensor]:
    """Hessians in (v, g)."""
    full = lambda one: torch.func.hessian(lambda p: one.loss(seen(p[:-1], p[-1])))(torch.cat([one.v, one.gain[None]]))
    return [full(one) for one in weights(case, minimum)]

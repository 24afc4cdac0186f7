"""Networks at an instant, flows off the sphere and sequences of draws, for sections 2.1 to 2.3 and appendix B."""

from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.square_loss.unnormalized_runs import normal, tasks
from normdyn.motion.flows import Params, gradient, integrate
from normdyn.networks.chains import homogeneous_activation
from normdyn.networks.graphs import layered_weights, mlp

RHO = 1.7
LENGTHS = [1.4, 0.5, 2.6]


class State(NamedTuple):
    """Inputs, labels, unit layers by name and hidden biases."""

    X: Tensor
    y: Tensor
    V: Params
    biases: list[Tensor] | None

    def output(self, V: Params) -> Tensor:
        return mlp(list(V.values()), self.X, biases=self.biases)[:, 0]


@shared
def states(case: Case, spread: float = 0.0) -> list[State]:
    """Unit layers of the fifteen networks of appendix D; hidden biases of a given size."""
    units = lambda W: {n: w / w.norm() for n, w in W.items()}
    return [State(one.X, one.y, units(one.W), one.biases) for one in tasks(case, spread)]


@shared
def square_states(case: Case) -> list[State]:
    """Five networks of three layers whose last two have as many inputs."""
    found = []
    for k in range(5):
        layers = layered_weights((4, 5, 5, 1), case.generator(f"square {k}"))
        X, y = normal(case, f"square {k} X", 8, 4), normal(case, f"square {k} y", 8).sign()
        found.append(State(X, y, {n: W / W.norm() for n, W in zip("ABC", layers, strict=True)}, None))
    return found


def jacobian(one: State, V: Params | None = None) -> Params:
    """Gradient of every output in every layer: samples first."""
    return torch.func.jacrev(one.output)(one.V if V is None else V)


def by_hand(one: State, V: Params | None = None) -> Params:
    """The same gradients without automatic differentiation, signals forward and slopes backward."""
    layers = one.V if V is None else V
    signals, gates = [one.X], []
    for k, W in enumerate(layers.values()):
        z = signals[-1] @ W.mT + (one.biases[k] if one.biases else 0.0)
        signals.append(z.clamp(min=0))
        gates.append((z > 0).double())
    back, found = torch.ones(len(one.X), 1, dtype=one.X.dtype), dict[str, Tensor]()
    for k, (n, W) in reversed(list(enumerate(layers.items()))):
        back = back if k == len(layers) - 1 else back * gates[k]
        found[n] = torch.einsum("ni,nj->nij", back, signals[k])
        back = back @ W
    return {n: found[n] for n in layers}


def said(one: State, V: Params | None = None) -> Tensor:
    """The outputs by hand, for the sides that state a formula."""
    signal, last = one.X, len(one.V) - 1
    for k, W in enumerate((one.V if V is None else V).values()):
        z = signal @ W.mT + (one.biases[k] if one.biases else 0.0)
        signal = z if k == last else z.clamp(min=0)
    return signal[:, 0]


def across(V: Tensor, h: Tensor) -> Tensor:
    """The part of h at a right angle to a unit layer."""
    return h - V * (V * h).sum()


def pulled(one: State) -> Params:
    """The first term of (21), -2 sum (rho f - y) rho df/dV_k."""
    ell = RHO * said(one) - one.y
    return {n: -2 * RHO * torch.einsum("n,nij->ij", ell, S) for n, S in by_hand(one).items()}


def solved_multiplier(one: State) -> Tensor:
    """The multiplier that keeps the first layer, from the derivative of the loss along it."""
    first, *_ = one.V
    scaled = lambda s: (RHO * one.output(one.V | {first: s * one.V[first]}) - one.y).square().sum()
    return -torch.func.grad(scaled)(torch.tensor(1.0, dtype=one.X.dtype)) / 2


# Two descents


def drives(one: State) -> Params:
    """Minus the gradient of the sum of squares in weights of three lengths, from its formula."""
    W = {n: r * V for r, (n, V) in zip(LENGTHS, one.V.items(), strict=True)}
    ell = said(one, W) - one.y
    return {n: -2 * torch.einsum("n,nij->ij", ell, S) for n, S in by_hand(one, W).items()}


def weight_normalised(one: State) -> tuple[Tensor, list[Tensor]]:
    """Minus the gradients in gains and in vectors of norm one, of a network that sees g v/|v|."""

    def loss(gains: Tensor, V: Params) -> Tensor:
        seen = {n: g * v / v.norm() for g, (n, v) in zip(gains, V.items(), strict=True)}
        return (one.output(seen) - one.y).square().sum()

    gains, turns = torch.func.grad(loss, (0, 1))(torch.tensor(LENGTHS, dtype=torch.float64), one.V)
    return -gains, [-v for v in turns.values()]


def directions_of_the_flow(one: State, penalty=None) -> list[Tensor]:
    """Velocities of W/|W| where the weights follow their own gradient flow, with a penalty or none."""
    loss = lambda W: (one.output(W) - one.y).square().sum() + (penalty(W) if penalty else 0.0)
    W = dict(zip(one.V, (r * V for r, V in zip(LENGTHS, one.V.values(), strict=True)), strict=True))
    down = gradient(loss)(W)
    return [torch.func.jvp(lambda A: A / A.norm(), (W[n],), (-down[n],))[1] for n in W]


def on_the_sphere(one: State) -> list[Tensor]:
    """Minus the gradients in the layers of a network that normalises them, times rho."""
    loss = lambda V: (RHO * one.output({n: v / v.norm() for n, v in V.items()}) - one.y).square().sum()
    return [-v for v in gradient(loss)(one.V).values()]


def with_gains(one: State, trained) -> list[Tensor]:
    """Velocities of the product of gains and of the vectors under weight normalisation, some gains trained."""
    start = torch.tensor([1.0] * (len(one.V) - 1) + [RHO], dtype=torch.float64)

    def loss(gains: Tensor, V: Params) -> Tensor:
        return (gains.prod() * one.output({n: v / v.norm() for n, v in V.items()}) - one.y).square().sum()

    gains, turns = torch.func.grad(loss, (0, 1))(start, one.V)
    moving = torch.zeros_like(start)
    moving[trained(start.tolist())] = 1.0
    rate = torch.func.jvp(torch.prod, (start,), (-gains * moving,))[1]
    return [rate, *(-v for v in turns.values())]


def last_only(rho: Tensor, depth: int) -> list[Tensor]:
    """Lengths of the layers: one, and rho for the last."""
    return [torch.ones_like(rho)] * (depth - 1) + [rho]


def alike(rho: Tensor, depth: int) -> list[Tensor]:
    return [rho ** (1 / depth)] * depth


# Small things


@shared
def unit_outputs(case: Case, normalised) -> list[Tensor]:
    """Outputs of five drawn networks on 200 unit inputs, and of five aligned networks of rank one on their own."""
    found = []
    for k in range(5):
        X = normal(case, f"unit {k} X", 200, 4)
        layers = [normalised(W) for W in layered_weights((4, 6, 5, 1), case.generator(f"unit {k}"))]
        found.append(mlp(layers, X / X.norm(dim=1, keepdim=True)))
    found += [mlp([normalised(W) for W in layers.values()], c) for c, layers in aligned(case)]
    return found


@shared
def aligned(case: Case) -> list[tuple[Tensor, Params]]:
    """An input of norm one and layers of rank one that hand on all of it: the output is one."""
    unit = lambda v: v / v.norm()
    found = []
    for k in range(5):
        c, a, b = (unit(normal(case, f"aligned {k} {n}", n).abs()) for n in (4, 6, 5))
        found.append((c[None], {"A": torch.outer(a, c), "B": torch.outer(b, a), "C": b[None]}))
    return found


@shared
def agreement(case: Case, samples: int, depth: int) -> float:
    """Directions of five inputs in which minimisers from twelve starts agree; with two layers, of the first one."""
    X, y = normal(case, f"agree {samples} X", samples, 5), normal(case, f"agree {samples} y", samples).sign()
    starts = normal(case, f"agree {samples} w", 12, 5)
    ends = starts + (y - starts @ X.mT) @ torch.linalg.pinv(X).mT
    if depth == 2:  # w = a v: any factor may move from one layer to the other
        ends = ends * torch.linspace(0.5, 2.0, 12, dtype=ends.dtype)[:, None]
    return 5.0 - torch.linalg.matrix_rank(ends - ends[0], rtol=1e-8, atol=1e-8).item()


@shared
def batches(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Five batches of 40 inputs of unequal sizes, and the weights of six units."""
    sizes = torch.tensor([3.0, 1.0, 0.5, 0.2], dtype=torch.float64)
    return [(normal(case, f"batch {k}", 40, 4) * sizes, normal(case, f"units {k}", 6, 4)) for k in range(5)]


# Off the sphere


@shared
def speeds_off_the_sphere(case: Case, shift: float) -> list[float]:
    """Largest velocity of (5) and (6) without decay where six inputs are interpolated at norms that are not one."""
    found = []
    for k in range(5):
        X, y = normal(case, f"rest {k} X", 6, 4), normal(case, f"rest {k} y", 6).sign()
        A = normal(case, f"rest {k} A", 30, 4)
        B = torch.linalg.lstsq((X @ A.mT).clamp(min=0), (y / RHO)[:, None], driver="gelsd").solution.mT
        one = State(X, y + shift, {"A": A, "B": B}, None)
        f = one.output(one.V)
        ell = RHO * f - one.y
        move = [2 * RHO * ((ell @ f) * one.V[n] - torch.einsum("n,nij->ij", ell, S)) for n, S in jacobian(one).items()]
        found.append(max(-2 * ell @ f, *(m.abs().max() for m in move), key=abs).item())
    return found


@shared
def off_sphere(case: Case, k: int, decay: float, origin: bool = False, stop: float = 100.0, count: int = 5) -> Params:
    """Follow (5) and (6) from layers of norms 1.2 and 1.1; the activation is z^3/|z|^2, without a kink.

    At the origin rho is zero, and one input has both labels.
    """
    X, V = normal(case, f"off {k} X", 2, 3).abs(), [normal(case, f"off {k} A", 4, 3).abs(),
                                                     normal(case, f"off {k} B", 1, 4).abs()]  # fmt: skip
    X, y = X / X.norm(dim=1, keepdim=True), torch.ones(2, dtype=torch.float64)
    if origin:
        X, y = X[:1].expand(2, -1), torch.tensor([1.0, -1.0], dtype=torch.float64)
    layers = {n: r * W / W.norm() for n, r, W in zip("AB", (1.2, 1.1), V, strict=True)}
    output = lambda s: mlp([s["A"], s["B"]], X, activation=homogeneous_activation(1))[:, 0]

    def field(s: Params) -> Params:
        f = output(s)
        ell = (s["rho"] * f - y).detach()
        push = gradient(lambda p: ell @ output(p))({n: s[n] for n in "AB"})
        move = {n: 2 * s["rho"] * (s[n] * (ell @ f) - push[n]) for n in "AB"}
        return move | {"rho": -2 * ell @ f - 2 * decay * s["rho"], "I": s["rho"] ** 2}

    scalar = lambda x: torch.tensor(x, dtype=torch.float64)
    start = layers | {"rho": scalar(0.0 if origin else 0.5), "I": scalar(0.0)}
    times = torch.linspace(0, stop, count).tolist()
    record = {"defect": lambda s: torch.stack([s[n].square().sum() - 1 for n in "AB"]), "rho": lambda s: s["rho"],
              "I": lambda s: s["I"]}  # fmt: skip
    return integrate(field, start, times, record=record, relative=1e-10, absolute=1e-12)


# One draw a step

ETA, DRAWS = 0.2, 8


@shared
def outputs(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Outputs between 0.3 and 0.8 and labels, one of them minus one, of five sets of four samples."""
    y = torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    draw = lambda k: torch.rand(4, generator=case.generator(f"outputs {k}"), dtype=torch.float64)
    return [(0.3 + 0.5 * draw(k), y) for k in range(5)]


@shared
def sequences(case: Case, decay: float, from_zero: bool) -> list[Tensor]:
    """Lengths after eight steps, for all sequences of draws."""
    found = []
    for f, y in outputs(case):
        rho = torch.zeros(1, dtype=f.dtype) if from_zero else ((f @ y) / (f @ f))[None]
        for _ in range(DRAWS):
            rho = (rho[:, None] - 2 * ETA * (f * (rho[:, None] * f - y) + decay * rho[:, None])).flatten()
        found.append(rho)
    return found


@shared
def moments(case: Case) -> list[tuple[float, float]]:
    """The mean from zero and the variance from the equilibrium after eight draws, in closed form."""
    found = []
    for f, y in outputs(case):
        target = ((f * y).mean() / f.square().mean()).item()
        noise = (f * (target * f - y)).square().mean().item()
        second, fourth = f.square().mean().item(), f.pow(4).mean().item()
        limit = ETA * noise / (second - ETA * fourth)
        kept = 1 - 4 * ETA * second + 4 * ETA**2 * fourth
        found.append((target * (1 - (1 - 2 * ETA * second) ** DRAWS), limit * (1 - kept**DRAWS)))
    return found


# At length one


@shared
def motion_at_one(case: Case, copies: bool) -> list[float]:
    """The largest of the velocities of rho and V_k and of the loss at rho = 1, by automatic differentiation."""
    found = []
    for k, (c, V) in enumerate(aligned(case)):
        X = (
            c.expand(3, -1)
            if copies
            else (lambda X: X / X.norm(dim=1, keepdim=True))(normal(case, f"differ {k}", 3, 4))
        )
        one = State(X, torch.ones(3, dtype=X.dtype), V, None)
        loss = lambda rho, V, one=one: (
            (rho * one.output({n: v / v.norm() for n, v in V.items()}) - one.y).square().sum()
        )
        at = torch.tensor(1.0, dtype=X.dtype)
        rate, turns = torch.func.grad(loss, (0, 1))(at, V)
        found.append(max(abs(rate).item(), loss(at, V).item(), *(v.abs().max().item() for v in turns.values())))
    return found


@shared
def margins(case: Case, least: float) -> list[Tensor]:
    """A thousand sets of eight numbers y f from a least one to one, and zeros and ones; with positive sums."""
    draw = torch.rand(1000, 8, generator=case.generator("margins"), dtype=torch.float64)
    return [m[m.sum(1) > 1e-3] for m in (least + (1 - least) * draw, (draw > 0.5).double())]

"""What decides the claims of paper A on the balance between layers: Theorem 1, Lemma 3, and its conclusion.

Convolutions and other layers whose entries are tied are in :mod:`companion.unified_balancing.tied_layers`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vjp
from torch.nn import functional

from claimbook.evidence import Case, claim, equal, limit, shared, together
from claimbook.show.checks import observed_order, relative_error
from companion.unified_balancing.common import Task, chains, identity, listed, named
from normdyn.motion.flows import gradient, gradient_flow, integrate
from normdyn.networks.chains import chain, signals
from normdyn.networks.chains import homogeneous_activation as power
from normdyn.networks.losses import cross_entropy, square_loss
from normdyn.norms.laws import (
    gramian_balance,
    gramian_balance_momentum_step,
    gramian_balance_step,
    unit_balance,
    unit_balance_step,
)

DECAY = 0.3
TIMES = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
LOSSES = (square_loss, cross_entropy)
WIDTHS = (4, 6, 6, 5, 3)
FLOW = "DOP853 with a relative tolerance of 1e-12 a step"

square, vanish, root = power(2), power(0), power(0.5)  # orders 2, 0 and 1/2


def hermitian(M: Tensor) -> Tensor:
    """The paper's "+ h.c."."""
    return M + M.mT


# The operator


@shared
def pairs(case: Case, first: tuple[int, int], second: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Gaussian layers that follow each other."""
    draw = case.generator("pairs")
    random = lambda shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    return [(random(first), random(second)) for _ in range(20)]


@shared
def directions(case: Case, size: int) -> list[tuple[Tensor, Tensor]]:
    """Pairs of vectors, and for each an orthonormal basis to sum over."""
    draw = case.generator("directions")
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    return [(random(2, size), torch.linalg.qr(random(size, size))[0]) for _ in range(20)]


def adjoint(W: Tensor, y: Tensor) -> Tensor:
    """The adjoint of a layer at y, by automatic differentiation."""
    return vjp(lambda x: W @ x, W.new_zeros(W.shape[1]))[1](y)[0]


def output_side(W: Tensor, x: Tensor) -> Tensor:
    return adjoint(W, x)


def input_side(W: Tensor, x: Tensor) -> Tensor:
    return W @ x


@shared
def meeting_pairs(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Layers with equal singular values that meet along the same directions, and these values."""
    found, draw = [], case.generator("meeting")
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    for _ in range(5):
        U, V, Q = (torch.linalg.qr(random(4, 4))[0] for _ in range(3))
        s = (random(4).abs() + 0.5).sort(descending=True).values
        found.append((U * s @ V.mT, Q * s @ U.mT, s))
    return found


@claim("A-eq3", control={"sides": (input_side, output_side)})
def balance_operator(case, sides=(output_side, input_side)):
    """<x, B y> = <T* x, T* y> - <T' x, T' y>: self-adjoint; zero for layers that meet along equal singular values.

    Then the product of the two layers has the squares of these values.  A (3)
    """
    both = lambda: zip(pairs(case, (4, 4), (4, 4)), directions(case, 4), strict=True)
    inside = lambda side, W, x, y: side(W, x) @ side(W, y)
    return together(
        form=equal(
            measured=lambda: [y @ gramian_balance(W, V) @ x for (W, V), ((x, y), _) in both()],
            predicted=lambda: [
                inside(sides[0], W, x, y) - inside(sides[1], V, x, y) for (W, V), ((x, y), _) in both()
            ],
            scale=lambda: [W.square().sum() + V.square().sum() for W, V in pairs(case, (4, 4), (4, 4))],
            bound=1e-13, reason="rounding of sums of a few dozen products",
        ),
        balanced=equal(
            measured=lambda: [gramian_balance(W, V) for W, V, _ in meeting_pairs(case)],
            predicted=lambda: [torch.zeros(4, 4) for _ in meeting_pairs(case)],
            scale=lambda: [s[0] ** 2 for _, _, s in meeting_pairs(case)],
            bound=1e-13, reason="as above",
        ),
        product=equal(
            measured=lambda: [torch.linalg.svdvals(V @ W) for W, V, _ in meeting_pairs(case)],
            predicted=lambda: [s**2 for _, _, s in meeting_pairs(case)],
            bound=1e-13, reason="as above",
        ),
    )  # fmt: skip


def hilbert_schmidt(V: Tensor, E: Tensor) -> Tensor:
    """Squares of the images of an orthonormal basis, summed."""
    return (V @ E).square().sum()


def operator_norm(V: Tensor, E: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(V, ord=2) ** 2


@claim("A-eq24", control={"size": operator_norm})
def trace_of_balance(case, size=hilbert_schmidt):
    """The trace of the balance is the difference of the squared Hilbert-Schmidt norms.  A (24)"""
    layers = lambda: pairs(case, (5, 4), (3, 5))
    bases = lambda: zip(layers(), directions(case, 4), directions(case, 5), strict=True)
    return equal(
        measured=lambda: [gramian_balance(W, V).trace() for W, V in layers()],
        predicted=lambda: [size(W, E) - size(V, F) for (W, V), (_, E), (_, F) in bases()],
        scale=lambda: [W.square().sum() + V.square().sum() for W, V in layers()],
        bound=1e-13, reason="rounding of sums of 35 squares, over any orthonormal basis",
    )  # fmt: skip


# Lemma 3


LISTS = (
    (torch.tanh, functional.gelu, torch.relu),
    (functional.softplus, square, torch.sin),
    (root, identity, vanish),
)


class Junctions(NamedTuple):
    """All that Lemma 3 speaks of, for one network: rates of both Gramians of each layer, and the signals."""

    left: list[Tensor]
    right: list[Tensor]
    gradients: list[Tensor]
    weights: list[Tensor]
    inputs: list[Tensor]
    fields: list[Tensor]
    field_gradients: list[Tensor]


@shared
def junctions(case: Case, literal: bool = False) -> list[Junctions]:
    """Networks with three lists of activations and two losses at their starts, moving by the flow.

    Rates are derivatives of the Gramians along the flow, forward mode. Literal: the regulariser as in eq. (2).
    """
    found = []
    for activations in LISTS:
        for loss in LOSSES:
            for task in chains(case, "lemma", WIDTHS, loss=loss):
                objective = lambda p, s=task, a=activations, L=loss: L(chain(listed(p), s.X, a), s.Y)
                velocity = listed(flow(objective, DECAY, literal)(named(task.weights)))
                moving = zip(task.weights, velocity, strict=True)
                rates = [[jvp(f, (W,), (v,))[1] for f in (left_gramian, right_gramian)] for W, v in moving]
                s = signals(lambda f, L=loss, Y=task.Y: L(f, Y), task.weights, task.X, activations)
                found.append(Junctions(*map(list, zip(*rates, strict=True)), s.gradients, task.weights, *s[:3]))
    return found


def left_gramian(W: Tensor) -> Tensor:
    return W @ W.mT


def right_gramian(W: Tensor) -> Tensor:
    return W.mT @ W


def flow(loss: Callable, decay: float, literal: bool = False) -> Callable:
    """Gradient flow with drift -decay * theta; literal: with the regulariser |theta|^2, of twice that gradient."""
    printed = lambda p: loss(p) + decay * sum(W.square().sum() for W in p.values())
    return gradient_flow(printed) if literal else gradient_flow(loss, weight_decay=decay)


def fields(s: Junctions, l: int) -> Tensor:
    return s.fields[l]


def inputs(s: Junctions, l: int) -> Tensor:
    return s.inputs[l]


def through_tanh(s: Junctions, l: int) -> Tensor:
    return torch.tanh(s.fields[l])


def fields_below(s: Junctions, l: int) -> Tensor:
    return s.fields[l - 1]


def left_rates(s: Junctions, signal: Callable, layers: range) -> list[Tensor]:
    """A (13): from field gradients, a signal and the decay."""
    G, W = s.field_gradients, s.weights
    return [hermitian(-G[l].mT @ signal(s, l) - DECAY * W[l] @ W[l].mT) for l in layers]


ROUNDING = "rounding of sums over 12 samples; three lists of activations, two losses"


@claim("A-lem3-left", printed={"literal": True}, control={"signal": through_tanh})
def left_gramian_moves(case, literal=False, signal=fields):
    """d/dt T T* = [-G x Z - delta T T*] + h.c., whatever the activations, with the drift -delta T.  A (13)"""
    return equal(
        measured=lambda: [rate for s in junctions(case, literal) for rate in s.left[:-1]],
        predicted=lambda: [rate for s in junctions(case) for rate in left_rates(s, signal, range(3))],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


@claim("A-lem3-right", printed={"literal": True}, control={"signal": fields_below})
def right_gramian_moves(case, literal=False, signal=inputs):
    """d/dt T'* T' = [-T'* G' x A - delta T'* T'] + h.c., whatever the activations, with the drift -delta T.  A (14)"""
    G = lambda s: s.field_gradients
    pull = lambda s, l: s.weights[l].mT @ G(s)[l].mT @ signal(s, l)
    return equal(
        measured=lambda: [rate for s in junctions(case, literal) for rate in s.right[1:]],
        predicted=lambda: [
            hermitian(-pull(s, l) - DECAY * s.weights[l].mT @ s.weights[l]) for s in junctions(case) for l in (1, 2, 3)
        ],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


def all_layers(depth: int) -> set[int]:
    return set(range(1, depth + 1))


def all_but_the_last(depth: int) -> set[int]:
    return set(range(1, depth))


@claim("A-lem3-range", printed={"layers": all_but_the_last}, control={"signal": through_tanh})
def lemma_for_every_layer(case, layers=all_layers, signal=fields):
    """The left half of Lemma 3 holds for all L layers, as Theorem 2 needs it, and not only for the first L - 1."""
    gap = lambda s, l: relative_error(s.left[l], left_rates(s, fields, range(l, l + 1))[0])
    return together(
        last=equal(
            measured=lambda: [s.left[-1] for s in junctions(case)],
            predicted=lambda: [left_rates(s, signal, range(3, 4))[0] for s in junctions(case)],
            bound=1e-12, reason=ROUNDING,
        ),
        range=equal(
            measured=lambda: [torch.tensor([gap(s, l) < 1e-12 for l in range(4)]).double() for s in junctions(case)],
            predicted=lambda: [torch.tensor([l in layers(4) for l in range(1, 5)]).double() for _ in junctions(case)],
            bound=1e-9, reason="yes or no, layer by layer",
        ),
    )  # fmt: skip


def outer(G: Tensor, A: Tensor) -> Tensor:
    """The sum over samples of G x A."""
    return torch.einsum("ni,nj->ij", G, A)


def outer_of_fields(G: Tensor, A: Tensor) -> Tensor:
    return outer(G, torch.tanh(A))


@claim("A-eq15b", control={"tensor": outer_of_fields})
def gradient_is_an_outer_product(case, tensor=outer):
    """The gradient of the loss in a layer is the outer product of G above it and A below, over samples.  A (15b)"""
    return equal(
        measured=lambda: [g for s in junctions(case) for g in s.gradients],
        predicted=lambda: [
            tensor(G, A) for s in junctions(case) for G, A in zip(s.field_gradients, s.inputs, strict=True)
        ],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


# Theorem 1


def architectures(junction: Callable) -> tuple[tuple[Callable, ...], ...]:
    """Activations of three networks, with one that is looked at after the second layer."""
    return (identity, junction, identity), (torch.tanh, junction, torch.sin), (square, junction, functional.gelu)


@shared
def balances(case: Case, junction: Callable = identity, decay: float = DECAY, literal: bool = False) -> list[Tensor]:
    """The balance at that junction along the flows of these networks, for two losses."""
    found = []
    for k, activations in enumerate(architectures(junction)):
        for loss in LOSSES:
            task = chains(case, f"theorem {k}", (4, 5, 5, 4, 3), loss=loss, count=1)[0]
            objective = lambda p, s=task, a=activations, L=loss: L(chain(listed(p), s.X, a), s.Y)
            record = {"B": lambda p: gramian_balance(p["W2"], p["W3"])}
            found.append(integrate(flow(objective, decay, literal), named(task.weights), TIMES, record=record)["B"])
    return found


@claim("A-thm1", printed={"literal": True}, control={"junction": torch.tanh})
def balance_shrinks(case, literal=False, junction=identity):
    """Around an identity the balance shrinks as exp(-2 delta t), whatever data, loss and other layers.  A Theorem 1

    With the drift -delta T, which is the gradient of half the squared norm.
    """
    return equal(
        measured=lambda: balances(case, junction, DECAY, literal),
        predicted=lambda: [
            torch.exp(-2 * DECAY * TIMES)[:, None, None] * B[0] for B in balances(case, junction, DECAY, literal)
        ],
        bound=1e-11, reason=f"{FLOW}; three architectures, both losses",
    )  # fmt: skip


@claim("A-thm1-nodecay", control=[{"junction": torch.tanh}, {"decay": 0.3}])
def balance_is_kept(case, junction=identity, decay=0.0):
    """Without weight decay the balance around an identity stands still, and so does not come closer to zero.

    Du, Hu and Lee, Theorem 2.2.
    """
    return equal(
        measured=lambda: [B[1:] for B in balances(case, junction, decay)],
        predicted=lambda: [B[0].expand(2, -1, -1) for B in balances(case, junction, decay)],
        bound=1e-11, reason=f"{FLOW}; three architectures, both losses",
    )  # fmt: skip


class Linear(NamedTuple):
    """A linear network on the way: its layers, their velocities, and the balances of its junctions at some times."""

    weights: list[Tensor]
    velocity: list[Tensor]
    balances: Tensor
    X: Tensor
    Y: Tensor


@shared
def linear_networks(case: Case, spread: float, backwards: bool = False) -> list[Linear]:
    """Three layers that are balanced but for a factor 1 + spread of the first; a time of 1/2 later or 1/100 earlier."""
    found, draw = [], case.generator("linear")
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    s = torch.linspace(0.6, 1.4, 4, dtype=torch.float64)
    for _ in range(3):
        U = [torch.linalg.qr(random(4, 4))[0] for _ in range(4)]
        weights = [U[l + 1] * s @ U[l].mT for l in range(3)]
        task = Task([(1 + spread) * weights[0], *weights[1:]], random(12, 4), random(12, 4))
        objective = lambda p, s=task: square_loss(chain(listed(p), s.X, [identity] * 2), s.Y)
        forward = gradient_flow(objective, weight_decay=DECAY)
        field = (lambda p, f=forward: {k: -v for k, v in f(p).items()}) if backwards else forward
        path = integrate(field, named(task.weights), [0.0, 0.005, 0.01] if backwards else [0.0, 0.25, 0.5])
        end = {k: v[-1] for k, v in path.items() if k != "times"}
        at = lambda l, p=path: torch.stack(
            [gramian_balance(*pair) for pair in zip(p[f"W{l}"], p[f"W{l + 1}"], strict=True)]
        )
        found.append(Linear(listed(end), listed(forward(end)), torch.stack([at(1), at(2)]), task.X, task.Y))
    return found


def power_of(M: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(M)
    return vectors * values.clamp_min(0) ** exponent @ vectors.mT


def end_to_end(s: Linear) -> Tensor:
    """How the product of the layers moves, from the product alone: Arora, Cohen and Hazan, Theorem 1, with decay."""
    V, N = s.weights[2] @ s.weights[1] @ s.weights[0], 3
    slope = gradient(lambda p: square_loss(s.X @ p["V"].mT, s.Y))({"V": V})["V"]
    left, right = left_gramian(V), right_gramian(V)
    pulls = [power_of(left, (j - 1) / N) @ slope @ power_of(right, (N - j) / N) for j in range(1, N + 1)]
    return -N * DECAY * V - torch.stack(pulls).sum(0)


def moving_product(s: Linear) -> Tensor:
    """The same from the velocities of all layers."""
    return jvp(lambda *W: W[2] @ W[1] @ W[0], tuple(s.weights), tuple(s.velocity))[1]


@claim("A-thm1-arora", control={"spread": 0.5})
def balanced_stays_balanced(case, spread=0.0):
    """Linear layers that are balanced stay so, forwards and backwards in time; then their product moves by itself.

    The latter is what Theorem 1 of Arora, Cohen and Hazan states; that balance persists is in its proof.
    """
    size = lambda: torch.tensor(1.4**2)
    zero = lambda backwards: equal(
        measured=lambda: [s.balances for s in linear_networks(case, spread, backwards)],
        predicted=lambda: [torch.zeros_like(s.balances) for s in linear_networks(case, spread, backwards)],
        scale=lambda: [size() for _ in linear_networks(case, spread, backwards)],
        bound=1e-11, reason=f"{FLOW}, in units of the largest squared singular value",
    )  # fmt: skip
    return together(
        stays=zero(False),
        was=zero(True),
        product=equal(
            measured=lambda: [moving_product(s) for s in linear_networks(case, spread)],
            predicted=lambda: [end_to_end(s) for s in linear_networks(case, spread)],
            bound=1e-10, reason=f"{FLOW}, and roots of eigenvalues down to 0.05",
        ),
    )  # fmt: skip


# Ours: one step at a time


class Run(NamedTuple):
    """Balances after each step of gradient descent, measured and carried by the exact law, in units of a Gramian."""

    measured: Tensor
    carried: Tensor
    loss: Tensor


STEPS: dict[str, dict] = {
    "full batch": {"eta": 0.05},
    "weight decay": {"eta": 0.05, "decay": 0.3},
    "mini-batches": {"eta": 0.05, "batch": 8, "decay": 0.1},
    "momentum": {"eta": 0.02, "momentum": 0.9, "decay": 0.1},
    "beyond the edge": {"eta": 0.15, "decay": 0.01, "steps": 200},
}


@shared
def learnable(case: Case) -> list[Task]:
    """Networks with ReLUs around an identity, inputs, and targets that they can come close to."""
    found = []
    for task in chains(case, "learnable", (4, 8, 6, 5, 3), samples=40, gain=1.0):
        A = torch.randn(4, 3, generator=case.generator("targets"), dtype=torch.float64)
        found.append(task._replace(Y=2 * torch.tanh(task.X @ A)))
    return found


def descent(task: Task, eta, steps=100, decay=0.0, batch=40, momentum=0.0, junction=identity, late=False) -> Run:
    """Gradient descent with the law of the matrix at the second junction carried along; late: one gradient too old."""
    weights, X, Y = task
    B, P, old = gramian_balance(*weights[1:3]), 0 * weights[1] @ weights[1].mT, None
    unit, keys = left_gramian(weights[1]).abs().max(), {"learning_rate": eta, "weight_decay": decay}
    found, buffers = [], [torch.zeros_like(W) for W in weights]
    for step in range(steps):
        rows = (torch.arange(batch) + batch * step) % len(X)
        s = signals(lambda f, Y=Y[rows]: square_loss(f, Y), weights, X[rows], [torch.relu, junction, torch.relu])
        g, other = s.gradients, s.gradients[2] if old is None or not late else old
        buffers = [momentum * m + v + decay * W for m, v, W in zip(buffers, g, weights, strict=True)]
        weights, old = [W - eta * m for W, m in zip(weights, buffers, strict=True)], g[2]
        if momentum:
            B, P = gramian_balance_momentum_step(B, P, buffers[1], buffers[2], momentum=momentum, **keys)
        else:
            B = gramian_balance_step(B, g[1], other, **keys)
        found.append((gramian_balance(*weights[1:3]) / unit, B / unit, s.loss))
    return Run(*(torch.stack(column) for column in zip(*found, strict=True)))


@shared
def descents(case: Case, junction: Callable, late: bool) -> list[Run]:
    """All settings, on a network of its own each."""
    tasks = learnable(case)
    ways = enumerate(STEPS.values())
    return [descent(tasks[k % 3], **way, junction=junction, late=late and "momentum" not in way) for k, way in ways]


@claim("O-balance-step", control=[{"junction": torch.relu}, {"late": True}])
def balance_after_a_step(case, junction=identity, late=False):
    """B' = (1 - eta delta)^2 B + eta^2 (g g' - g'' g'''), exactly, at any step and batch; with momentum two such laws.

    The balance is carried by the law through whole runs and never measured again.
    """
    return equal(
        measured=lambda: [run.measured for run in descents(case, junction, late)],
        predicted=lambda: [run.carried for run in descents(case, junction, late)],
        scale=lambda: [run.measured.abs().amax((1, 2), keepdim=True) for run in descents(case, junction, late)],
        bound=1e-11, reason="rounding over up to 200 steps",
    )  # fmt: skip


ORDERS = {1.0: torch.relu, 2.0: lambda z: torch.relu(z) ** 2, 0.5: lambda z: z.abs().sqrt() * z.sign()}


@shared
def single_steps(case: Case) -> list[dict]:
    """One step with absurd rates among others, around coordinate-wise activations of three orders."""
    found = []
    for k, activation in ORDERS.items():
        for eta, task in zip((0.01, 1.0, 100.0), chains(case, "units", (4, 6, 5, 3)), strict=True):
            s = signals(lambda f, Y=task.Y: square_loss(f, Y), task.weights, task.X, [activation, torch.tanh])
            after = [W - eta * (g + 0.1 * W) for W, g in zip(task.weights, s.gradients, strict=True)]
            found.append({"k": k, "eta": eta, "before": task.weights, "g": s.gradients, "after": after})
    return found


@claim("O-unit-step", control={"order": 1.0})
def units_after_a_step(case, order=None):
    """Around a coordinate-wise activation of order k, squares into a unit less k times those out of it obey it too."""
    k = lambda s: order or s["k"]
    keys = lambda s: {"learning_rate": s["eta"], "weight_decay": 0.1, "order": k(s)}
    into = lambda W: W.square().sum(1)
    out = lambda W: W.square().sum(0)
    return equal(
        measured=lambda: [into(s["after"][0]) - k(s) * out(s["after"][1]) for s in single_steps(case)],
        predicted=lambda: [
            unit_balance_step(unit_balance(*s["before"][:2], order=k(s)), *s["g"][:2], **keys(s))
            for s in single_steps(case)
        ],
        scale=lambda: [into(s["after"][0]) + out(s["after"][1]) for s in single_steps(case)],
        bound=1e-12, reason="rounding of sums over 12 samples",
    )  # fmt: skip


@shared
def orders(case: Case) -> dict[str, list[float]]:
    """Orders at which the law of the flow is met with fixed steps, identity below a tanh or a ReLU."""
    found: dict[str, list[float]] = {}
    for name, activation, method in (
        ("tanh", torch.tanh, "rk4"), ("relu", torch.relu, "rk4"), ("euler", torch.relu, "euler"),
    ):  # fmt: skip
        for task in chains(case, "orders", (4, 6, 8, 3), samples=40, gain=1.0):
            objective = lambda p, s=task, a=activation: square_loss(chain(listed(p), s.X, [identity, a]), s.Y)
            field, counts = gradient_flow(objective, weight_decay=DECAY), [20, 40, 80]
            errors = [law_error(fixed_steps(field, named(task.weights), n, method), task) for n in counts]
            found.setdefault(name, []).append(observed_order(errors, [1 / n for n in counts]))
    return found


def fixed_steps(field: Callable, p: dict, count: int, method: str) -> dict:
    """Unit time in equal steps of Euler's or the classical Runge-Kutta method."""
    h, move = 1 / count, lambda p, v, h: {k: p[k] + h * v[k] for k in p}
    for _ in range(count):
        v = field(p)
        if method == "rk4":
            v2 = field(move(p, v, h / 2))
            v3 = field(move(p, v2, h / 2))
            v4 = field(move(p, v3, h))
            v = {k: (v[k] + 2 * v2[k] + 2 * v3[k] + v4[k]) / 6 for k in p}
        p = move(p, v, h)
    return p


def law_error(p: dict, task: Task) -> float:
    law = torch.exp(torch.tensor(-2 * DECAY, dtype=torch.float64)) * gramian_balance(*task.weights[:2])
    return relative_error(gramian_balance(p["W1"], p["W2"]), law)


# The conclusion: do layers synchronise?


class Descent(NamedTuple):
    """Norms of first and last layer after each step, and both balances at the first junction: measured and carried."""

    ratio: Tensor  # logarithm of the squared norm of the last layer over that of the first
    units: Tensor
    units_carried: Tensor
    matrix: Tensor
    matrix_carried: Tensor


RATE, REACH = 0.06, 500  # learning rate, and steps of the stated range: a time of 30


@shared
def synchronising(case: Case, junction: Callable, decay: float, steps: int = 2 * REACH) -> list[Descent]:
    """Gradient descent of three layers from norms 6, 2 and 0.6, on a target that can be learned."""
    found, draw = [], case.generator("synchronise")
    for task in chains(case, "synchronise", (4, 8, 8, 3), samples=40, gain=2.0, count=2):
        Y = task.X @ torch.randn(4, 3, generator=draw, dtype=torch.float64) / 2
        weights = [c * W / W.norm() for c, W in zip((6.0, 2.0, 0.6), task.weights, strict=True)]
        U, M, rows = unit_balance(*weights[:2]), gramian_balance(*weights[:2]), []
        keys = {"learning_rate": RATE, "weight_decay": decay}
        for _ in range(steps + 1):
            square = [W.square().sum() for W in weights]
            rows.append(
                ((square[2] / square[0]).log(), unit_balance(*weights[:2]), U, gramian_balance(*weights[:2]), M)
            )
            g = signals(lambda f, Y=Y: square_loss(f, Y), weights, task.X, [junction] * 2).gradients
            weights = [W - RATE * (v + decay * W) for W, v in zip(weights, g, strict=True)]
            U, M = unit_balance_step(U, g[0], g[1], **keys), gramian_balance_step(M, g[0], g[1], **keys)
        found.append(Descent(*(torch.stack(column) for column in zip(*rows, strict=True))))
    return found


@claim("A-conclusion-sync", printed={"decay": 2.0}, control=[{"law": "matrix"}, {"junction": torch.tanh}])
def layers_synchronise(case, decay=0.2, law="units", junction=torch.relu):
    """From a start of one to ten, norms of first and last layer become equal if weight decay leaves the network alive.

    Linear and ReLU networks; at a ReLU it is one number a unit that obeys the law, not the matrix. Without the
    proviso: with a decay that outweighs the data all layers die together, and their ratio freezes.  A section 6
    """
    nets = lambda: synchronising(case, junction, decay)
    both = lambda: nets() + synchronising(case, identity, decay)
    return together(
        difference=equal(
            measured=lambda: [getattr(run, law) for run in nets()],
            predicted=lambda: [getattr(run, f"{law}_carried") for run in nets()],
            scale=lambda: [36.0 for _ in nets()],
            bound=1e-12, reason="rounding of the exact law over 1,000 steps, in units of the largest squared norm",
        ),
        ratio=limit(
            measured=lambda reach: [run.ratio[int(REACH * reach)] for run in both()],
            predicted=lambda: [0.0 for _ in both()],
            scale=lambda: [1.0 for _ in both()],
            bound=2e-3, reason="at time 30 the share exp(-12) of a difference of 36 is left, of squares of 0.1 or more",
        ),
    )  # fmt: skip

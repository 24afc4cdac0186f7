"""For which architectures the law of norms holds: a table of networks, with the orders that Theorem 2 of paper A gives.

All work on samples of six positions with four channels and end in a linear readout of all positions. Where the law
fails as printed a row may name a *change*: a graded sum of parameters, another order, or another tensor through which
the layers' influence passes, such as a branch's output. A layer's own fields would always do; a change says more.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from claimbook.evidence import Case, claim, equal, shared, together
from companion.unified_balancing.common import identity, normal, root, signed_square, squared_relu
from companion.unified_balancing.layers import (
    EPS,
    NORMS,
    Map,
    convolve,
    layer_norm,
    log_sum_exp,
    rms_norm,
    soft_clusters,
    top_nodes,
)
from companion.unified_balancing.special_cases import POOLS
from normdyn.networks.chains import homogeneous_activation as power
from normdyn.networks.losses import square_loss

BOUND = 1e-12  # rounding, in units of |f| |grad_f|
Network = Callable[[dict[str, Tensor], Tensor, Callable[..., Tensor]], Tensor]
Law = tuple[dict[str, float], float, str]  # grades of parameters, K, name of the tensor

SHAPES = {
    "W1": (6, 4), "W2": (6, 6), "U2": (6, 6), "V": (3, 36), "A": (8, 6), "B": (6, 8), "b1": (6,), "b2": (6,),
    "c": (3,), "g": (6,), "s": (6,), "q": (6,), "Q": (6, 6), "K": (6, 6), "T": (6, 4, 3),
}  # fmt: skip


class Row(NamedTuple):
    """An architecture: network(p, X, tap), orders as printed, changed laws and what they are in words."""

    group: str
    name: str
    network: Network
    orders: dict[str, float]
    changes: tuple[Law, ...] = ()
    change: str = ""
    covered: bool = True  # by the printed laws, or where there are changes by these


# Parts of networks

relu, leaky, first_norm = torch.relu, functional.leaky_relu, layer_norm(0.0)


def read(p: dict[str, Tensor], h: Tensor) -> Tensor:
    return h.flatten(1) @ p["V"].mT


def stack(first: Map, second: Callable[..., Tensor], biases: bool = False) -> Network:
    """Two layers with activations of their own, then the readout; the second may use parameters and tap."""

    def network(p, X, tap):
        h = first(X @ p["W1"].mT + biases * p["b1"])
        return read(p, second(h @ p["W2"].mT + biases * p["b2"], p, tap)) + biases * p["c"]

    return network


def plain(name: str, first: Map, second: Map, k1: float, k2: float, covered: bool = True) -> Row:
    network = stack(first, lambda z, p, tap: second(z))
    return Row("activations", name, network, {"W1": k1 * k2, "W2": k2, "V": 1}, covered=covered)


def pooling(name: str, pool: Callable[[Tensor, dict[str, Tensor]], Tensor], covered: bool = True, **orders) -> Row:
    network = stack(relu, lambda z, p, tap: pool(relu(z), p))
    return Row("pooling, convolution", name, network, ONES | orders, covered=covered)


def normalised(name: str, norm: Map, value: Callable[..., Tensor] | None = None, change: str = "", k: float = 0) -> Row:
    """Normalise leaky_relu(z); value gives what the tapped output has to be contracted with in the changed law."""

    def second(z, p, tap):
        u = leaky(z)
        return tap("normalised", norm(u), value(u, norm(u)) if value else None)

    laws = tuple(({n: 1}, 1, "normalised") for n in ("W1", "W2")) if value else ()
    return Row("normalisation", name, stack(leaky, second), {"W1": k, "W2": k, "V": 1}, laws, change)


def affine(name: str, shifted: float, laws: tuple[Law, ...], change: str) -> Row:
    network = stack(leaky, lambda z, p, tap: leaky(first_norm(leaky(z)) * p["g"] + shifted * p["s"]))
    return Row("normalisation", name, network, {"W1": 0, "W2": 0, "g": 1, "V": 1}, laws, change)


def convolution(name: str, padding: str | int) -> Row:
    def network(p, X, tap):
        h = functional.max_pool1d(relu(convolve(X.mT, p["T"], padding, 1)), 2).repeat_interleave(2, -1).mT
        return read(p, relu(h @ p["W2"].mT))

    return Row("pooling, convolution", name, network, {"T": 1, "W2": 1, "V": 1})


def block(inside: Map = identity, after: Map = identity) -> Network:
    """A stem, a residual block with one hidden layer and normalisations at up to two places, the readout."""

    def network(p, X, tap):
        h = X @ p["W1"].mT
        branch = tap("branch", relu(inside(h) @ p["A"].mT) @ p["B"].mT)
        return read(p, after(h + branch))

    return network


def twice(p, X, tap):
    h = relu(relu(X @ p["W1"].mT) @ p["W2"].mT)
    return read(p, relu(h @ p["W2"].mT))


def gated(gate: Map) -> Network:
    def network(p, X, tap):
        h = relu(X @ p["W1"].mT)
        return read(p, gate(h @ p["W2"].mT) * (h @ p["U2"].mT))

    return network


def attention(score: Callable[..., Tensor]) -> Network:
    def network(p, X, tap):
        h = X @ p["W1"].mT
        S = score(h @ p["Q"].mT, h @ p["K"].mT, tap)
        return read(p, S @ (h @ p["W2"].mT) @ p["U2"].mT)

    return network


def dot(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / 6**0.5


def softmax_score(q, k, tap):
    return torch.softmax(tap("logits", dot(q, k)), -1)


def normalised_score(q, k, tap):
    return torch.softmax(dot(first_norm(q), first_norm(k)), -1)


def leaking(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What the output of a norm with eps has to be contracted with: itself, times its local order."""
    return lambda u, out: out * NORMS[name].share(u, EPS)


# The table

BRANCHES, ONES = "branches, biases, ties", {"W1": 1, "W2": 1, "V": 1}
BRANCH_LAWS = (({"A": 1}, 1, "branch"), ({"B": 1}, 1, "branch"))
TOP = ({"V": 1, "c": 1}, 1, "f")
ONE_BIAS = (({"W1": 1, "b1": 1, "b2": 1, "c": 1}, 1, "f"), ({"W2": 1, "b2": 1, "c": 1}, 1, "f"), TOP)
TWO_BIAS = (({"W1": 1, "b1": 1, "b2": 2, "c": 1}, 1, "f"), ({"W2": 1, "b2": 1, "c": 0.5}, 0.5, "f"), TOP)
HEADS = ONES | {"U2": 1}


def by_output(*names: str, K: float = 1) -> tuple[Law, ...]:
    return ((dict.fromkeys(names, 1), K, "f"),)


TABLE = (
    plain("order 0: unit length", power(0), power(0), 0, 0),
    plain("order 1/2: root", root, root, 0.5, 0.5),
    plain("order 1: leaky ReLU", leaky, leaky, 1, 1),
    plain("order 2: squared ReLU", squared_relu, squared_relu, 2, 2),
    plain("orders 2, 1/2", signed_square, root, 2, 0.5),
    plain("orders 1, 0", leaky, power(0), 1, 0),
    Row("activations", "gated unit, ReLU", gated(relu), {"W1": 2, "W2": 1, "U2": 1, "V": 1}),
    Row("activations", "gated unit, SiLU", gated(functional.silu), {"W1": 2, "W2": 1, "U2": 1, "V": 1}, covered=False),
    plain("tanh", torch.tanh, torch.tanh, 1, 1, covered=False),
    plain("GELU", functional.gelu, functional.gelu, 1, 1, covered=False),
    *(pooling(name, lambda h, p, f=f: f(h)) for name, f in POOLS.items()),
    pooling("log-sum-exp", lambda h, p: log_sum_exp(h), covered=False),
    pooling("gated top k", lambda h, p: top_nodes(h, p["q"]), q=0, covered=False),
    pooling("soft clusters", lambda h, p: soft_clusters(h, p["Q"]), covered=False),
    convolution("circular convolution", "circular"),
    convolution("zero-padded convolution", 1),
    *(normalised(name, norm.own(0.0)) for name, norm in NORMS.items()),
    normalised("BatchNorm, eps 1e-5", NORMS["BatchNorm"].own(EPS), leaking("BatchNorm"), "local order eps / (v + eps)"),
    normalised("LayerNorm, eps 1e-5", layer_norm(EPS), leaking("LayerNorm"), "local order eps / (v + eps)"),
    normalised(
        "RMSNorm, eps 1e-5", rms_norm(EPS), lambda u, out: out * EPS / (u.square().mean(-1, keepdim=True) + EPS),
        "local order eps / (mean square + eps)",
    ),
    normalised(
        "BatchNorm, running statistics", lambda u: (u - 0.4) / 1.3, lambda u, out: u / 1.3,
        "order 1 plus a term for the running mean", k=1,
    ),
    normalised("running deviation only", lambda u: u / 1.3, k=1),
    affine("LayerNorm with gain", 0.0, (), ""),
    affine("LayerNorm, gain and shift", 1.0, by_output("g", "s"), "gain and shift together"),
    Row(BRANCHES, "biases, orders 1", stack(relu, lambda z, p, tap: relu(z), True), ONES, ONE_BIAS,
        "with all later biases"),
    Row(BRANCHES, "biases, orders 2, 1/2", stack(signed_square, lambda z, p, tap: root(z), True),
        {"W1": 1, "W2": 0.5, "V": 1}, TWO_BIAS, "with later biases, graded"),
    Row(BRANCHES, "residual block", block(), {"W1": 1, "A": 1, "B": 1, "V": 1}, BRANCH_LAWS, "through the branch"),
    Row(BRANCHES, "post-norm block", block(after=first_norm), {"W1": 0, "A": 0, "B": 0, "V": 1}, BRANCH_LAWS,
        "through the branch; stem K = 0"),
    Row(BRANCHES, "pre-norm block", block(inside=first_norm), {"W1": 1, "A": 1, "B": 1, "V": 1},
        BRANCH_LAWS + by_output("W1", "B"), "through the branch; stem with last branch layer"),
    Row(BRANCHES, "pre-norm block, final norm", block(inside=first_norm, after=first_norm),
        {"W1": 0, "A": 0, "B": 0, "V": 1}, BRANCH_LAWS + by_output("W1", "B", K=0), "the same, with K = 0"),
    Row(BRANCHES, "tied weights", twice, ONES, by_output("W2", K=2), "K of all uses added"),
    Row("attention", "value and output", attention(softmax_score), {"W2": 1, "U2": 1, "V": 1}),
    Row("attention", "query and key", attention(softmax_score), {"Q": 1, "K": 1},
        tuple(({n: 1}, 1, "logits") for n in "QK"), "through the logits"),
    Row("attention", "layers below softmax attention", attention(softmax_score), {"W1": 1}, covered=False),
    Row("attention", "all, normalised queries and keys", attention(normalised_score), HEADS | {"Q": 0, "K": 0}),
    Row("attention", "all, without softmax", attention(lambda q, k, tap: dot(q, k)), HEADS | {"W1": 3, "Q": 1, "K": 1}),
)  # fmt: skip


# What is measured


class Measured(NamedTuple):
    """One network at random weights: <W, gradient> of its parameters, <f, gradient> of its tapped tensors, a scale."""

    pulls: dict[str, float]
    tensors: dict[str, float]
    size: float

    def left(self, grades: dict[str, float]) -> float:
        return sum(c * self.pulls[name] for name, c in grades.items())


def measure(row: Row, case: Case, k: int) -> Measured:
    """One pass forward and backward through a row's network."""
    p = {n: normal(case, f"{n} {k}", *s) / (math.prod(s[1:]) / 2) ** 0.5 for n, s in SHAPES.items()}
    p, taps = {n: W.requires_grad_() for n, W in p.items()}, {}

    def tap(name: str, tensor: Tensor, value: Tensor | None = None) -> Tensor:
        taps[name] = (tensor, tensor if value is None else value)
        return tensor

    f = tap("f", row.network(p, normal(case, f"X {k}", 12, 6, 4), tap))
    tensors = [*p.values(), *(t for t, _ in taps.values())]
    loss = square_loss(f, normal(case, f"Y {k}", 12, 3))
    gradients = torch.autograd.grad(loss, tensors, materialize_grads=True)
    inner: Any = lambda a, b: (a * b).sum().item()
    pulls = {n: inner(W, g) for (n, W), g in zip(p.items(), gradients, strict=False)}
    driven = {n: inner(value, g) for (n, (_, value)), g in zip(taps.items(), gradients[len(p) :], strict=True)}
    return Measured(pulls, driven, (f.norm() * gradients[len(p) + list(taps).index("f")].norm()).item())


@shared
def measured(case: Case, draws: int = 3) -> list[list[Measured]]:
    """All rows of the table, a few draws each."""
    return [[measure(row, case, k) for k in range(draws)] for row in TABLE]


class Covered(NamedTuple):
    """What is found of a row: a verdict, how many layers follow the printed law, misses over |f| |grad_f|."""

    row: Row
    verdict: str
    kept: str
    printed: float
    decisive: float


def judge(row: Row, found: list[Measured]) -> Covered:
    """Covered if all printed laws hold, with a change if those that do not stand in a changed law that does."""
    miss = lambda one, grades, K, name: abs(one.left(grades) - K * one.tensors[name]) / one.size
    own = {n: max(miss(one, {n: 1}, K, "f") for one in found) for n, K in row.orders.items()}
    kept = [m for m in own.values() if m <= BOUND]
    share, printed = f"{len(kept)}/{len(own)}", max(own.values())
    if len(kept) == len(own):
        return Covered(row, "covered", share, printed, printed)
    changed = max([*kept, *(miss(one, *law) for law in row.changes for one in found)], default=0.0)
    mended = all(any(n in grades for grades, _, _ in row.changes) for n, m in own.items() if not m <= BOUND)
    if mended and changed <= BOUND:
        return Covered(row, "with a change", share, printed, changed)
    return Covered(row, "not covered", share, printed, printed)


@shared
def coverage(case: Case) -> list[Covered]:
    """The table."""
    return [judge(row, found) for row, found in zip(TABLE, measured(case), strict=True)]


@shared
def decisive(case: Case, covered: bool) -> list[tuple[Law, Measured]]:
    """Of the rows that are said to be covered, or of the others: each law that decides, with each draw."""
    found = []
    for row, draws in zip(TABLE, measured(case), strict=True):
        if row.covered == covered:
            laws = row.changes or tuple(({n: 1}, K, "f") for n, K in row.orders.items())
            found += [(law, one) for law in laws for one in draws]
    return found


@shared
def unbiased(case: Case, layer: str) -> list[Measured]:
    """All rows with that layer whose readout has no bias."""
    pairs = zip(TABLE, measured(case), strict=True)
    return [one for row, draws in pairs if layer in row.orders and "biases" not in row.name for one in draws]


@claim("O-coverage", control=[{"covered": False}, {"layer": "W1"}])
def rows_are_covered(case, covered=True, layer="V"):
    """Every row that is said to be covered keeps its laws to rounding, and so does every readout without a bias."""
    return together(
        laws=equal(
            measured=lambda: [one.left(grades) for (grades, _, _), one in decisive(case, covered)],
            predicted=lambda: [K * one.tensors[name] for (_, K, name), one in decisive(case, covered)],
            scale=lambda: [one.size for _, one in decisive(case, covered)],
            bound=BOUND, reason="rounding of inner products, relative to |f| |grad f|; 3 draws of every network",
        ),
        readout=equal(
            measured=lambda: [one.pulls[layer] for one in unbiased(case, layer)],
            predicted=lambda: [one.tensors["f"] for one in unbiased(case, layer)],
            scale=lambda: [one.size for one in unbiased(case, layer)],
            bound=BOUND, reason="rounding of inner products, relative to |f| |grad f|; covered rows or not",
        ),
    )  # fmt: skip

"""What decides the claims of sections 1, 1.1 and 2.1 of paper E: the dial of a unit, its graph, and the norm."""

from typing import NamedTuple

import torch
from scipy.optimize import brentq, minimize
from torch import Tensor
from torch.nn import functional as F

from claimbook.evidence import Case, at_most, claim, equal, limit, shared, together
from companion.weight_balancing.common import networks
from normdyn.networks.graphs import feedforward, hidden_mask, layered_weights, mlp
from normdyn.rescaling.group import entrywise_norm, rescale

FACTORS = (1e-3, 0.5, 2.0, 1e3)


# One unit


class Unit(NamedTuple):
    """A hidden unit by itself: the weights that enter it, its bias, the weights that leave it."""

    incoming: Tensor
    bias: Tensor
    outgoing: Tensor


def random_unit(draw: torch.Generator, inputs: int = 5, readers: int = 4) -> Unit:
    return Unit(*(torch.randn(size, generator=draw, dtype=torch.float64) for size in (inputs, (), readers)))


def turned(unit: Unit, a: float, powers: tuple[float, float, float] = (1, 1, -1)) -> Unit:
    """The unit with its dial at ``a``: incoming weights and bias times ``a``, outgoing weights times ``1 / a``."""
    return Unit(*(a**power * values for power, values in zip(powers, unit, strict=True)))


def effect(unit: Unit, X: Tensor, activation=torch.relu) -> Tensor:
    """What the unit adds to the fields of the units it feeds: samples are rows, readers columns."""
    return activation(X @ unit.incoming + unit.bias)[:, None] * unit.outgoing


class Turn(NamedTuple):
    """A unit before and after its dial was turned, with its effect."""

    a: float
    units: tuple[Unit, Unit]
    effects: tuple[Tensor, Tensor]


@shared
def turns(case: Case, activation, powers: tuple[float, float, float], sign: float) -> list[Turn]:
    """Ten random units, each at four other settings."""
    draw, found = case.generator("units"), []
    for _ in range(10):
        unit, X = random_unit(draw), torch.randn(50, 5, generator=draw, dtype=torch.float64)
        for a in FACTORS:
            pair = unit, turned(unit, sign * a, powers)
            found.append(Turn(a, pair, tuple(effect(one, X, activation) for one in pair)))
    return found


@claim(
    "E-fig1",
    control=[
        {"activation": torch.tanh},
        {"activation": F.gelu},
        {"powers": (0, 1, -1)},
        {"powers": (1, 0, -1)},
        {"powers": (1, 1, 0)},
        {"sign": -1},
    ],
)
def same_effect_at_every_setting(case, activation=torch.relu, powers=(1, 1, -1), sign=1):
    """A ReLU has the same effect at every setting of its dial: above one what enters grows and what leaves shrinks,
    below one the reverse.  E Fig. 1"""
    run = lambda: turns(case, activation, powers, sign)
    growth = lambda side: [(getattr(t.units[1], side).abs() - getattr(t.units[0], side).abs()).sign() for t in run()]
    above_one = lambda: [torch.tensor(t.a - 1.0).sign() for t in run()]
    return together(
        effect=equal(
            measured=lambda: [t.effects[1] for t in run()],
            predicted=lambda: [t.effects[0] for t in run()],
            bound=1e-13,
            reason="rounding of a sum over five inputs and of three products",
        ),
        incoming=equal(lambda: growth("incoming"), above_one, 1e-9, "signs are whole numbers"),
        outgoing=equal(lambda: growth("outgoing"), lambda: [-s for s in above_one()], 1e-9, "signs are whole numbers"),
    )


# Which activations


def linear(z: Tensor) -> Tensor:
    return z


def maxout(z: Tensor) -> Tensor:
    """The largest of several affine fields, here along the last axis."""
    return z.amax(-1, keepdim=True)


def grid(sign: float) -> tuple[Tensor, list[float]]:
    """Fields through zero in three dimensions, and factors of six decades."""
    line = torch.linspace(-5, 5, 11, dtype=torch.float64)
    return torch.cartesian_prod(line, line, line), (sign * torch.logspace(-3, 3, 13, dtype=line.dtype)).tolist()


@shared
def responses(activations: tuple, sign: float) -> list[Tensor]:
    """``g(a z)`` for every activation and factor."""
    z, factors = grid(sign)
    return [g(a * z) for g in activations for a in factors]


@shared
def multiples(activations: tuple, sign: float) -> list[Tensor]:
    """``a g(z)`` for every activation and factor."""
    z, factors = grid(sign)
    return [a * g(z) for g in activations for a in factors]


@shared
def sizes(activations: tuple, sign: float) -> list[Tensor]:
    """``|a z|`` in the shapes of the above."""
    z, factors = grid(sign)
    return [(a * z).abs().amax(-1, keepdim=True).expand_as(g(z)) for g in activations for a in factors]


@claim(
    "E-eq4",
    control=[{"activations": (g,)} for g in (F.elu, F.gelu, F.softplus, torch.tanh)] + [{"sign": -1.0}],
)
def positively_homogeneous(case, activations=(torch.relu, linear, F.leaky_relu, maxout), sign=1.0):
    """``g(az) = a g(z)`` for all ``a > 0``: ReLU, linear, leaky ReLU and maxout units.  E (4)"""
    return equal(
        measured=lambda: responses(activations, sign),
        predicted=lambda: multiples(activations, sign),
        bound=1e-14,
        reason="rounding of two products",
        scale=lambda: sizes(activations, sign),
    )


# Any graph


@shared
def rescaled_graphs(case: Case, activations: tuple, bias: float, everywhere: bool) -> list[tuple[Tensor, Tensor]]:
    """Outputs before and after all hidden units of random graphs were rescaled at once, by 1/1000 to 1000."""
    draw, found = case.generator("rescalings"), []
    for W, hidden in networks(case, "graphs", 12):
        b, X = (torch.randn(*size, generator=draw, dtype=W.dtype) for size in ((len(W),), (50, 3)))
        a = 10 ** (6 * torch.rand(len(W), generator=draw, dtype=W.dtype) - 3)
        a = a if everywhere else torch.where(hidden, a, 1.0)
        V, _ = rescale(W, b, a)
        for g in activations:
            found.append(
                (
                    feedforward(W, b, X, hidden, activation=g),
                    feedforward(V, b * a**bias, X, hidden, activation=g),
                )
            )
    return found


@claim(
    "E-eq6",
    control=[{"activations": (torch.tanh,)}, {"activations": (F.gelu,)}, {"bias": 0.0}, {"everywhere": True}],
)
def rescaling_keeps_the_function(case, activations=(torch.relu, linear, F.leaky_relu), bias=1.0, everywhere=False):
    """Rescaling all hidden units of any feedforward graph at once keeps its function.  E (5) to (7)"""
    run = lambda: rescaled_graphs(case, activations, bias, everywhere)
    return equal(
        measured=lambda: [after for _, after in run()],
        predicted=lambda: [before for before, _ in run()],
        bound=1e-11,
        reason="rounding through six hidden units whose weights span up to fourteen decades",
    )


def power_of_relu(order: int):
    return lambda z: torch.relu(z) ** order


def rescale_order(W: Tensor, b: Tensor, a: Tensor, divisor: float) -> tuple[Tensor, Tensor]:
    """What enters a unit is multiplied by its factor, what leaves it divided by a power of it."""
    return W * a[:, None] / a**divisor, b * a


@shared
def rescaled_orders(case: Case, orders: tuple, divided_by: float | None) -> list[tuple[Tensor, Tensor]]:
    """Outputs of random graphs of units of order k before and after a rescaling whose outgoing factor is a power."""
    draw, found = case.generator("orders"), []
    for W, hidden in networks(case, "graphs", 6):
        b, X = (torch.randn(*size, generator=draw, dtype=W.dtype) for size in ((len(W),), (50, 3)))
        a = torch.where(hidden, 10 ** (2 * torch.rand(len(W), generator=draw, dtype=W.dtype) - 1), 1.0)
        for k in orders:
            nets, g = ((W, b), rescale_order(W, b, a, divided_by or k)), power_of_relu(k)
            found.append(tuple(feedforward(*net, X, hidden, activation=g) for net in nets))
    return found


@claim("O-order-k", control={"divided_by": 1.0})
def units_of_any_order(case, orders=(2, 3), divided_by=None):
    """Units of order k have the symmetry too, if what leaves them is divided by the k-th power of the factor."""
    run = lambda: rescaled_orders(case, orders, divided_by)
    return equal(
        measured=lambda: [after for _, after in run()],
        predicted=lambda: [before for before, _ in run()],
        bound=1e-10,
        reason="rounding of powers up to the third in chains of six units, which multiply relative errors",
    )


# All parameters at once


def layers_below(layer: int) -> int:
    """Number of layers up to this one, the first being layer 0."""
    return layer + 1


def like_weights(layer: int) -> int:
    return 1


class Layered(NamedTuple):
    """A layered network with inputs, and a common factor for all its parameters."""

    weights: list[Tensor]
    biases: list[Tensor]
    X: Tensor
    c: float


@shared
def layered(case: Case, with_biases: bool) -> list[Layered]:
    """Networks of two, three and six layers, three of each, with three factors."""
    draw, found = case.generator("layers"), []
    for depth in (2, 3, 6) * 3:
        weights = layered_weights([4, 10, 8, 6, 5, 7][:depth] + [2], draw)
        biases = [torch.randn(len(W), generator=draw, dtype=W.dtype) * with_biases for W in weights]
        X = torch.randn(40, 4, generator=draw, dtype=torch.float64)
        found += [Layered(weights, biases, X, c) for c in (0.2, 1.7, 30.0)]
    return found


@shared
def outputs_of_scaled(case: Case, grade, activation, with_biases: bool) -> list[Tensor]:
    """Outputs with all weights times ``c`` and the biases of each layer times ``c ** grade``."""
    found = []
    for weights, b, X, c in layered(case, with_biases):
        biases = [c ** grade(l) * v for l, v in enumerate(b)]
        found.append(mlp([c * W for W in weights], X, biases=biases, activation=activation))
    return found


@shared
def scaled_outputs(case: Case, activation, with_biases: bool) -> list[Tensor]:
    """``c ** depth`` times the outputs."""
    nets = layered(case, with_biases)
    return [n.c ** len(n.weights) * mlp(n.weights, n.X, biases=n.biases, activation=activation) for n in nets]


@claim("E-homog-degree", printed={"grade": like_weights}, control={"activation": torch.tanh})
def degree_is_the_depth(case, grade=layers_below, activation=torch.relu):
    """A layered network is homogeneous, of a degree equal to its depth, in its weights if it has no biases, and with
    biases if those of layer l are scaled by the l-th power.  E section 2.1"""
    degree = lambda with_biases: equal(
        measured=lambda: outputs_of_scaled(case, grade, activation, with_biases),
        predicted=lambda: scaled_outputs(case, activation, with_biases),
        bound=1e-12,
        reason="rounding in two to six layers",
    )
    return together(without_biases=degree(False), with_biases=degree(True))


def product_up_to(factors: Tensor, layer: int) -> Tensor:
    return factors[: layer + 1].prod()


def own_factor(factors: Tensor, layer: int) -> Tensor:
    return factors[layer]


@shared
def graded_layers(case: Case, bias_factor, activation) -> list[tuple[Tensor, Tensor]]:
    """Product of the layers' factors times ``f``, and the outputs with every layer scaled by a factor of its own."""
    draw, found = case.generator("graded"), []
    for depth in (2, 3, 6) * 3:
        weights = layered_weights([4, 10, 8, 6, 5, 7][:depth] + [2], draw)
        b = [torch.randn(len(W), generator=draw, dtype=W.dtype) for W in weights]
        X = torch.randn(40, 4, generator=draw, dtype=torch.float64)
        c = 10 ** (2 * torch.rand(depth, generator=draw, dtype=X.dtype) - 1)
        biases = [bias_factor(c, l) * v for l, v in enumerate(b)]
        scaled = mlp([c[l] * W for l, W in enumerate(weights)], X, biases=biases, activation=activation)
        found.append((c.prod() * mlp(weights, X, biases=b, activation=activation), scaled))
    return found


@claim("O-graded", control=[{"bias_factor": own_factor}, {"activation": torch.tanh}])
def graded_homogeneity(case, bias_factor=product_up_to, activation=torch.relu):
    """Every layer has a dial of its own, if biases are scaled by the product of the dials up to their layer."""
    run = lambda: graded_layers(case, bias_factor, activation)
    return equal(
        measured=lambda: [scaled for _, scaled in run()],
        predicted=lambda: [predicted for predicted, _ in run()],
        bound=1e-12,
        reason="rounding in two to six layers",
    )


# Forward and backward


class Shift(NamedTuple):
    """Sizes of what enters and what leaves a unit, before and after its factor ``a``."""

    a: float
    before: Tensor
    after: Tensor


@shared
def shifts(case: Case, outgoing: float, others: bool) -> list[Shift]:
    """Every hidden unit of random graphs, at four settings, in three norms."""
    draw, found = case.generator("shifts"), []
    for W, hidden in networks(case, "graphs", 3):
        sizes = lambda V, i: torch.stack([V[i].norm(p) for p in (1, 2, 3)] + [V[:, i].norm(p) for p in (1, 2, 3)])
        for i in hidden.nonzero()[:, 0].tolist():
            for x in FACTORS:
                a = torch.where(hidden & others, torch.randn(len(W), generator=draw, dtype=W.dtype).exp(), 1.0)
                a[i] = x
                V, _ = rescale(W, W[0], a)
                V[:, i] *= x ** (1 + outgoing)
                found.append(Shift(x, sizes(W, i), sizes(V, i)))
    return found


@claim("E-redistribute", control=[{"outgoing": 1.0}, {"others": True}])
def magnitude_moves(case, outgoing=-1.0, others=False):
    """A factor below one moves magnitude from incoming to outgoing weights, one above one moves it back: what one side
    loses in ratio the other gains.  E section 3.2"""
    run = lambda: shifts(case, outgoing, others)
    return together(
        law=equal(
            measured=lambda: [s.after for s in run()],
            predicted=lambda: [s.before * torch.tensor([s.a] * 3 + [1 / s.a] * 3, dtype=torch.float64) for s in run()],
            bound=1e-13,
            reason="rounding of one product",
            each=True,
        ),
        direction=equal(
            measured=lambda: [(s.after - s.before).sign() for s in run()],
            predicted=lambda: [torch.tensor([-1.0] * 3 + [1.0] * 3) * (1 if s.a < 1 else -1) for s in run()],
            bound=1e-9,
            reason="signs are whole numbers",
        ),
    )


def slope_at(z: float, W: Tensor, unit: int, p: float, q: float) -> float:
    """Derivative of the logarithm of the network's norm in the log factor of one unit, the others fixed."""
    log_factor = torch.tensor(z, dtype=W.dtype, requires_grad=True)
    a = torch.where(torch.arange(len(W)) == unit, log_factor.exp(), 1.0)
    return torch.autograd.grad(entrywise_norm(W * a[:, None] / a, p=p, q=q).log(), log_factor)[0].item()


@shared
def best_settings(case: Case, ratio: float) -> list[tuple[Tensor, Tensor]]:
    """Log factor of one unit at which the norm of the whole network is stationary, and half the log ratio of sizes."""
    found = []
    for k, (W, hidden) in enumerate(networks(case, "graphs", 4)):
        i, p = int(hidden.nonzero()[k]), (1.0, 2.0, 3.0, 1.5)[k]
        best = brentq(slope_at, -30, 30, args=(W, i, p, ratio * p), xtol=1e-13)
        found.append((torch.tensor(best, dtype=W.dtype), (W[:, i].norm(p) / W[i].norm(p)).log() / 2))
    return found


@claim("O-one-dial", control={"ratio": 2.0})
def best_setting_of_one_dial(case, ratio=1.0):
    """With all other units fixed and p = q, the norm is least where what enters and what leaves are of one size."""
    run = lambda: best_settings(case, ratio)
    return equal(
        measured=lambda: [best for best, _ in run()],
        predicted=lambda: [predicted for _, predicted in run()],
        bound=1e-11,
        reason="the root of the slope is found to 1e-13",
        scale=lambda: [torch.ones(()) for _ in run()],
    )


# Units that play no part


def outputs(W: Tensor, b: Tensor, X: Tensor, hidden: Tensor, unit: int | None = None) -> Tensor:
    """Outputs of a graph, E (3); the activity of one unit may be replaced by the one that it has at another sample."""
    h = list(X.unbind(1))
    for i in range(X.shape[1], len(W)):
        z = torch.stack(h, 1) @ W[i, :i] + b[i]
        h.append(torch.relu(z) if hidden[i] else z)
        h[i] = h[i].flip(0) if i == unit else h[i]
    return torch.stack(h[int(hidden.nonzero()[-1]) + 1 :], 1)


class Role(NamedTuple):
    """Outputs, the same with one unit's activities interchanged, and the share of hidden units with both edges."""

    plain: Tensor
    changed: Tensor
    both: Tensor


def role(draw: torch.Generator, W: Tensor, b: Tensor, hidden: Tensor, unit: int) -> Role:
    X = torch.randn(50, 3, generator=draw, dtype=W.dtype)
    both = ((W != 0).any(1) & (W != 0).any(0))[hidden].double().mean()
    return Role(outputs(W, b, X, hidden), outputs(W, b, X, hidden, unit), both)


@shared
def cut_off(case: Case, cut: bool) -> list[Role]:
    """Each hidden unit of random graphs after all weights into it, or all out of it, were set to zero."""
    draw, found = case.generator("cut"), []
    for W, hidden in networks(case, "graphs", 6):
        b = torch.randn(len(W), generator=draw, dtype=W.dtype)
        for i in hidden.nonzero()[:, 0].tolist():
            no_input, no_output = W.clone(), W.clone()
            no_input[i], no_output[:, i] = W[i] * (not cut), W[:, i] * (not cut)
            found += [role(draw, V, b, hidden, i) for V in (no_input, no_output)]
    return found


@shared
def silenced(case: Case, sign: float, edges: bool = True) -> list[Role]:
    """The last hidden unit of random graphs, fed by ReLUs only, through weights of one sign and with no bias."""
    draw, found = case.generator("silenced"), []
    for W, hidden in networks(case, "graphs", 6):
        b, W, i = torch.randn(len(W), generator=draw, dtype=W.dtype), W.clone(), int(hidden.nonzero()[-1])
        W[i] = torch.where(hidden & (torch.arange(len(W)) < i), sign * (1 + W[i].abs()), 0.0)
        b[i] = 0.0
        if not edges:
            W[:, i] = 0.0
        found.append(role(draw, W, b, hidden, i))
    return found


@claim("E-vacuous", control=[{"cut": False}, {"sign": 1.0}, {"edges": False}])
def one_edge_on_each_side_is_necessary(case, cut=True, sign=-1.0, edges=True):
    """A hidden unit plays a role only if some weight enters it and some weight leaves it; that is a minimal
    requirement, and a unit that meets it may still play none.  E section 2.1"""
    off, silent = lambda: cut_off(case, cut), lambda: silenced(case, sign, edges)
    still = lambda roles: equal(
        measured=lambda: [r.changed - r.plain for r in roles()],
        predicted=lambda: [torch.zeros_like(r.plain) for r in roles()],
        bound=1e-12,
        reason="no arithmetic of the outputs is changed, so none of their digits",
        scale=lambda: [r.plain.abs().max().expand_as(r.plain) for r in roles()],
    )
    return together(
        necessary=still(off),
        not_enough=still(silent),
        requirement_met=equal(
            measured=lambda: [r.both for r in silent()],
            predicted=lambda: [torch.ones(()) for _ in silent()],
            bound=1e-9,
            reason="a share of units, which are counted",
        ),
    )


SMALL = hidden_mask(2, 3, 1)  # two inputs, three hidden units, one output


@shared
def all_graphs(ordered: bool = True) -> Tensor:
    """The edges of every small graph, ones and zeros; if ``ordered`` they lead from earlier to later units."""
    slots = [(i, j) for i in (2, 3, 4) for j in range(5) if i != j and (j < i or not ordered)]
    slots += [(5, j) for j in (2, 3, 4)]  # from inputs to the output there is no edge: no hidden unit would notice
    code, edges = torch.arange(2 ** len(slots)), torch.zeros(2 ** len(slots), 6, 6)
    for k, (i, j) in enumerate(slots):
        edges[:, i, j] = (code >> k & 1).float()
    return edges


@shared
def edge_on_each_side(ordered: bool = True) -> Tensor:
    """One where every hidden unit has an incoming and an outgoing edge, else zero."""
    edges = all_graphs(ordered)
    return ((edges.sum(2) > 0) & (edges.sum(1) > 0))[:, SMALL].all(1).double()


@shared
def all_on_paths(ordered: bool = True) -> Tensor:
    """One where every hidden unit is reached from an input and reaches the output, in at most five steps; else zero."""
    edges, start, end = all_graphs(ordered), torch.tensor([1.0, 1, 0, 0, 0, 0]), torch.tensor([0.0, 0, 0, 0, 0, 1])
    walks = lambda steps, units: (torch.eye(6) + steps).matrix_power(5) @ units
    return ((walks(edges, start) > 0) & (walks(edges.mT, end) > 0))[:, SMALL].all(1).double()


@claim("O-alive-paths", control={"ordered": False})
def edges_on_each_side_make_paths(case, ordered=True):
    """If units are ordered, one edge on each side of every hidden unit puts all of them on paths from an input to an
    output, and nothing less does."""
    return equal(
        measured=lambda: all_on_paths(ordered),
        predicted=lambda: edge_on_each_side(ordered),
        bound=1e-3,
        reason="graphs are counted: one exception is a residual of one",
    )


# The norm


GRID = tuple((p, q) for p in (1.0, 1.5, 4.0) for q in (1.0, 1.5, 4.0))


@shared
def matrix_pairs(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Pairs of matrices: generic, with disjoint entries, in one row, in one column, parallel."""
    A, B = torch.randn(2, 8, 6, 6, generator=case.generator("matrices"), dtype=torch.float64)
    row, column = torch.zeros(2, 6, 6, dtype=torch.float64)
    row[0, 0], column[0, 0] = 1.0, 1.0
    lines = [(row, row.roll(1, 1)), (column, column.roll(1, 0))]
    return lines + [pair for a, b in zip(A, B, strict=True) for pair in ((a, b), (a.tril(), b.triu(1)), (a, 2 * a))]


@claim(
    "E-eq1-norm",
    control=[{"exponents": ((0.5, 2.0),)}, {"exponents": ((2.0, 0.5),)}, {"first": 1}],
)
def a_norm(case, exponents=GRID, first=0):
    """For p, q >= 1 the expression (1) is a norm: triangle inequality, scaling, zero at zero only.  E (1)"""
    every = lambda function: [function(A, B, p, q) for p, q in exponents for A, B in matrix_pairs(case)]
    ours = lambda V, p, q: entrywise_norm(V[:, first:], p=p, q=q)
    rows = lambda V, p: torch.linalg.vector_norm(V, p, -1)
    by_torch = lambda V, p, q: torch.linalg.vector_norm(rows(V[:, first:], p), q)
    return together(
        triangle=at_most(
            left=lambda: every(lambda A, B, p, q: ours(A + B, p, q)),
            right=lambda: every(lambda A, B, p, q: by_torch(A, p, q) + by_torch(B, p, q)),
            bound=1e-14,
            reason="rounding of sums over 36 entries",
        ),
        scaling=equal(
            measured=lambda: every(lambda A, B, p, q: ours(-3 * A, p, q)),
            predicted=lambda: every(lambda A, B, p, q: 3 * by_torch(A, p, q)),
            bound=1e-14,
            reason="rounding of sums over 36 entries",
        ),
        definite=at_most(
            left=lambda: every(lambda A, B, p, q: A.abs().max()),
            right=lambda: every(lambda A, B, p, q: ours(A, p, q)),
            bound=1e-14,
            reason="rounding of sums over 36 entries",
        ),
    )


@claim("E-eq1-maxnorm", control=[{"axis": 0}, {"which": "p"}])
def max_norm_emerges(case, axis=1, which="q"):
    """As q grows the norm tends to the largest norm of a unit's incoming weights.  E section 1.1"""
    every = lambda function: [function(A, p) for p in (1.0, 1.5, 2.0, 5.0) for A, _ in matrix_pairs(case)[2::3]]
    exponents = lambda p, large: (p, large) if which == "q" else (large, p)
    printed = lambda A, p, q: ((A.abs().pow(p).sum(1).log() * q / p).logsumexp(0) / q).exp()  # E (1), in logarithms
    return limit(
        measured=lambda reach: every(lambda A, p: printed(A, *exponents(p, 1024 * reach))),
        predicted=lambda: every(lambda A, p: A.abs().pow(p).sum(axis).pow(1 / p).max()),
        bound=2e-3,
        reason=r"$n^{1/q}-1$ with $n=6$ units is 0.0018 at $q=1024$, and half of it at twice that",
    )


@claim("O-maxnorm-rate", control=[{"aggregate": torch.sum}, {"units": 3}])
def distance_to_the_max_norm(case, aggregate=torch.amax, units=6):
    """With n units the norm lies between the max-norm and $n^{1/q}$ times it; rows of one size attain the latter."""
    some = lambda: [torch.ones(6, 6, dtype=torch.float64)] + [A for A, _ in matrix_pairs(case)[2::3]]
    every = lambda function: [function(A, q) for q in (1.0, 2.0, 8.0, 64.0, 512.0) for A in some()]
    norm, rows = lambda A, q: entrywise_norm(A, p=2, q=q), lambda A: A.norm(dim=1)
    why = "rounding of powers up to 512"
    return together(
        below=at_most(lambda: every(lambda A, q: aggregate(rows(A))), lambda: every(norm), 1e-13, why),
        above=at_most(lambda: every(norm), lambda: every(lambda A, q: units ** (1 / q) * rows(A).max()), 1e-13, why),
    )


# The gauge of electrodynamics, on a periodic box


POINTS = 7  # odd, so that every mode has a derivative


def derivative() -> Tensor:
    """Matrix of the derivative of the trigonometric polynomial through equispaced values on a circle."""
    gap = torch.arange(POINTS)[:, None] - torch.arange(POINTS)
    sine = torch.where(gap == 0, torch.inf, (torch.pi * gap.double() / POINTS).sin())
    return 0.5 * (1 - 2 * (gap % 2)) / sine


def partial(field: Tensor, axis: int) -> Tensor:
    return torch.tensordot(derivative(), field, ([1], [axis])).movedim(0, axis)


def gradient(chi: Tensor) -> Tensor:
    return torch.stack([partial(chi, axis) for axis in range(3)])


def divergence(A: Tensor) -> Tensor:
    return sum(partial(A[axis], axis) for axis in range(3))


def curl(A: Tensor) -> Tensor:
    return torch.stack([partial(A[j], i) - partial(A[i], j) for i, j in ((1, 2), (2, 0), (0, 1))])


def integral(A: Tensor, power: float) -> Tensor:
    """Volume integral of a power of the length of a field."""
    return A.square().sum(0).pow(power / 2).mean() * (2 * torch.pi) ** 3


def waves() -> Tensor:
    k = torch.fft.fftfreq(POINTS, dtype=torch.float64) * POINTS
    return torch.stack(torch.meshgrid(k, k, k, indexing="ij"))


def coulomb(A: Tensor) -> Tensor:
    """The potential without its longitudinal part, mode by mode: divergence-free, with the same magnetic field."""
    K, modes = waves(), torch.fft.fftn(A, dim=(1, 2, 3))
    along = (K * modes).sum(0) / K.square().sum(0).clamp_min(1)
    return torch.fft.ifftn(modes - K * along, dim=(1, 2, 3)).real


def axial(A: Tensor) -> Tensor:
    """The potential in an axial gauge: its last component does not vary along the last axis."""
    K, modes = waves(), torch.fft.fftn(A, dim=(1, 2, 3))
    along = torch.where(K[2] == 0, 0, modes[2] / torch.where(K[2] == 0, 1, K[2]))
    return torch.fft.ifftn(modes - K * along, dim=(1, 2, 3)).real


@shared
def potentials(case: Case) -> list[Tensor]:
    """Of mean zero: a constant potential has neither curl nor divergence, and no gauge function removes it."""
    draw = case.generator("potentials")
    some = [torch.randn(3, POINTS, POINTS, POINTS, generator=draw, dtype=torch.float64) for _ in range(3)]
    return [A - A.mean((1, 2, 3), keepdim=True) for A in some]


@shared
def descended(case: Case, power: float) -> list[tuple[Tensor, Tensor]]:
    """Least integral over all gauge functions, by descent on their values, and the divergence where it is attained."""
    found = []
    for A in potentials(case):
        value = lambda chi, A=A: integral(A + gradient(chi), power)

        def of_numpy(x, A=A, value=value):
            chi = torch.from_numpy(x).reshape(A[0].shape).requires_grad_()
            height = value(chi)
            return height.item(), torch.autograd.grad(height, chi)[0].flatten().numpy()

        options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 0.0, "gtol": 1e-10, "maxcor": 30}
        x = minimize(of_numpy, torch.zeros(POINTS**3).double().numpy(), jac=True, method="L-BFGS-B", options=options).x
        least = A + gradient(torch.from_numpy(x).reshape(A[0].shape))
        found.append((integral(least, power), divergence(least)))
    return found


@shared
def gauged(case: Case, gauge, power: float) -> list[tuple[Tensor, Tensor]]:
    """The integral in a gauge, and what the gauge does to the magnetic field: nothing."""
    return [(integral(gauge(A), power), curl(gauge(A))) for A in potentials(case)]


@claim("E-coulomb", control=[{"gauge": axial}, {"power": 4.0}])
def coulomb_gauge_is_the_least(case, gauge=coulomb, power=2.0):
    """Of all potentials of one magnetic field the one in Coulomb gauge has the least integral of its square; in a
    periodic box, of mean zero.  E section 1.1"""
    return together(
        least=equal(
            measured=lambda: [value for value, _ in descended(case, power)],
            predicted=lambda: [value for value, _ in gauged(case, gauge, power)],
            bound=1e-10,
            reason="the integral is flat where the descent stops, at a slope of about 1e-7",
        ),
        divergence=equal(
            measured=lambda: [div for _, div in descended(case, power)],
            predicted=lambda: [torch.zeros(POINTS, POINTS, POINTS)] * 3,
            bound=1e-5,
            reason="the slope at which the descent stops",
            scale=lambda: [A.norm(dim=0) for A in potentials(case)],
        ),
        magnetic_field=equal(
            measured=lambda: [B for _, B in gauged(case, gauge, power)],
            predicted=lambda: [curl(A) for A in potentials(case)],
            bound=1e-12,
            reason="rounding of Fourier transforms of 343 points",
        ),
    )

"""What decides the claims of section 2.6 of paper E, how fast Algorithm 1 converges, and what we add to them.

Runs of E Fig. 2 are in :mod:`companion.weight_balancing.figure_two`.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, hessian

from claimbook.evidence import Case, at_most, claim, equal, limit, shared, tendency, together
from companion.weight_balancing.common import (
    EXPONENTS,
    Problem,
    jacobian,
    largest_safe_exponent,
    logarithmic_form,
    minimisers,
    paper_exponent,
    problems,
    rescaled,
    sides,
    twice_the_safe_exponent,
    update,
)
from companion.weight_balancing.figure_two import (
    EQUAL,
    NETWORKS,
    PANELS,
    SEEDS,
    Curves,
    as_drawn,
    drawn,
    equalised,
    joined,
    narrow,
    run,
    wide,
)
from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling.gauge import minimum_norm
from normdyn.rescaling.group import entrywise_norm
from normdyn.rescaling.problems import RescalingProblem

PAIRS = (*EXPONENTS, (8, 2))
TINY = tuple(tuple(max(n // 100, 1) for n in widths) for widths in NETWORKS)
LAYERED = (
    (5, 7, 4),
    (6, 9, 8, 3),
    (4, 7, 6, 7, 5),
    (3, 6, 5, 6, 5, 6, 4),
)  # one to five hidden layers of a few units


# Claims: E Fig. 2


def both_sizes(case: Case, start=as_drawn) -> list[Curves]:
    """E Fig. 2 at the paper's sizes and narrower."""
    return [wide(case, start), narrow(case, start)]


def at_size(case: Case, shapes) -> list[Curves]:
    """E Fig. 2 at the paper's sizes, or other networks just as they are described."""
    return [wide(case) if shapes is NETWORKS else as_described(case, shapes)]


@shared
def as_described(case: Case, shapes) -> Curves:
    """A hundred updates of networks of other widths."""
    seeds, found = [case.with_seed(SEEDS * case.seed + k) for k in range(SEEDS)], []
    for number, widths in enumerate(shapes):
        curves = run([drawn(each, number, widths) for each in seeds], 100)
        found.append(Curves(curves.ratio[:, None], curves.least[:, None]))
    return joined(found, 1)


def cells(found: list[Tensor]) -> list[Tensor]:
    """One item a panel and network, one entry a seed."""
    return [seeds for each in found for seeds in each.flatten(0, 1)]


def settled(curves: Curves, updates: int) -> Tensor:
    """How many times less than a hundredth of the fall is left, as a logarithm."""
    return (0.01 / curves.excess()[..., updates].clamp_min(1e-6)).log()


def updates_needed(curves: Curves) -> Tensor:
    """Updates until 99 % of the fall to the least norm is done; those of a run, if it never is."""
    return (curves.excess() > 0.01).sum(-1).clamp_min(1)


def departures(curves: Curves) -> Tensor:
    """How far each seed's curve departs from the mean of the others, at most, relative to the fall."""
    others = (curves.ratio.sum(2, keepdim=True) - curves.ratio) / (curves.ratio.shape[2] - 1)
    return (curves.ratio - others).abs().amax(-1) / (1 - curves.least.mean(2, keepdim=True))


def hidden_units(widths: tuple[int, ...]) -> int:
    return sum(widths[1:-1])


def all_weights(widths: tuple[int, ...]) -> int:
    return sum(m * n for m, n in pairwise(widths))


@claim("E-fig2-units", control={"count": all_weights})
def same_number_of_units(case, count=hidden_units):
    """The three networks have 200 inputs, 3750 hidden units and 10 outputs.  E section 2.6"""
    return equal(
        measured=lambda: [torch.tensor([w[0], count(w), w[-1]]) for w in NETWORKS],
        predicted=lambda: [torch.tensor([200, 3750, 10])] * 3,
        bound=1e-4,
        reason="integers, so anything below one unit",
    )


@claim("E-fig2", control={"updates": 10})
def settles_in_a_hundred_updates(case, updates=100):
    """After 100 updates Algorithm 1 has done 99 % of the fall to the least norm.  E Fig. 2

    A hundred updates cost what the gradient of a hundred examples costs: two products a layer for each.
    """
    return tendency(
        effect=lambda: cells([settled(curves, updates) for curves in both_sizes(case)]),
        reason="6 panels, 3 networks, 2 sizes, 8 seeds each; share and number of updates were fixed beforehand",
    )


@claim("E-fig2-depth", control={"start": equalised})
def deeper_takes_longer(case, start=as_drawn):
    """A deeper network needs more updates, as long as whole layers are out of balance.  E section 2.6

    The control equalises layers first: then nothing has to propagate, and depth costs nothing.
    """
    longer = lambda needed: (needed[:, 1:] / needed[:, :-1]).log()
    return tendency(
        effect=lambda: cells([longer(updates_needed(curves)) for curves in both_sizes(case, start)]),
        reason="6 panels, 2 steps of depth, 2 sizes, 8 seeds each; updates until 99 % of the fall is done",
    )


@claim("E-fig2-seed", control={"shapes": TINY})
def seeds_hardly_matter(case, shapes=NETWORKS):
    """No seed's curve departs from the others' mean by more than a tenth of the fall.  E section 2.6"""
    return tendency(
        effect=lambda: cells([(0.1 / departures(curves)).log() for curves in at_size(case, shapes)]),
        reason="6 panels, 3 networks, 8 seeds each at the paper's sizes, at every update; control: widths a hundredth",
    )


@claim("E-init-unbalanced", control=[{"shapes": EQUAL}, {"updates": 10}])
def far_from_minimal(case, shapes=NETWORKS, updates=100):
    """At the start a tenth of the norm or more is superfluous, and 100 updates remove it.  E section 2.6"""
    return together(
        far=tendency(
            effect=lambda: cells([0.9 - curves.least for curves in at_size(case, shapes)]),
            reason="6 panels, 3 networks, 8 seeds each at the paper's sizes; control: all layers equally wide",
        ),
        easily=tendency(
            effect=lambda: cells([settled(curves, updates) for curves in at_size(case, shapes)]),
            reason="the same cells, 99 % of the fall",
        ),
    )


# Near the balanced point


@shared
def balanced_graphs(case: Case, pairs=PAIRS) -> list[Problem]:
    """Random graphs at their least norm, by Newton's method."""
    some = problems(case, "spectrum", pairs, {"quick": 4, "paper": 24}[case.profile])
    return [rescaled(s, z.exp()) for s, z in zip(some, minimisers(some), strict=True)]


@shared
def layered_problems(case: Case, pairs=PAIRS, shapes=LAYERED, even: bool = False) -> list[Problem]:
    """Layered networks for every pair of exponents; Gaussian weights, or even ones, between 1/2 and 3/2."""
    draw = case.generator("layered")
    rand = lambda m, n: torch.rand(m, n, generator=draw, dtype=torch.float64) + 0.5
    made = lambda w: [rand(m, n) for n, m in pairwise(w)] if even else layered_weights(w, draw)
    nets = [layered_matrix(made(widths)) for widths in shapes]
    return [Problem(W, hidden, p, q) for p, q in pairs for W, hidden in nets]


@shared
def balanced_layers(case: Case, pairs=PAIRS, shapes=LAYERED) -> list[Problem]:
    """The same at their least norm."""
    some = layered_problems(case, pairs, shapes)
    return [rescaled(s, z.exp()) for s, z in zip(some, minimisers(some), strict=True)]


@shared
def untouched_graphs(case: Case, pairs=PAIRS) -> list[Problem]:
    return problems(case, "spectrum", pairs, 4)


def factors(problem: Problem, exponent=paper_exponent) -> Tensor:
    """What one update multiplies the modes of a small displacement by, from least to largest."""
    return torch.linalg.eigvals(jacobian(problem, exponent)).real.sort().values


def shares(problem: Problem) -> Tensor:
    r"""The matrix with entries sqrt(rho_i) pi_ij / sqrt(rho_j), from hidden units j to all units i, by hand."""
    W, hidden, p, q = problem
    M = W.abs() ** p
    rows = torch.where(M.any(1), M.sum(1), 1.0)
    root = torch.where(M.any(1), rows ** (q / 2 / p), 1.0)
    return (root[:, None] * M / rows[:, None] / root)[:, hidden]


def modes(problem: Problem) -> Tensor:
    """Eigenvalues of S in (p + q) - q (A + A') + (q - p) A'A, from least to largest."""
    _, hidden, p, q = problem
    A = shares(problem)
    S = (p + q) * torch.eye(A.shape[1], dtype=A.dtype) - q * (A[hidden] + A[hidden].mT) + (q - p) * A.mT @ A
    return torch.linalg.eigvalsh(S)


def ceiling(p: float, q: float) -> float:
    """No eigenvalue of S exceeds it."""
    return 4 * q if p <= 2 * q else p**2 / (p - q)


def ceiling_of_layers(p: float, q: float) -> float:
    """What the modes that are constant on layers stay below."""
    return 4 * q


@claim("O-pass-spectrum", control=[{"networks": untouched_graphs}, {"most": ceiling_of_layers}])
def spectrum_of_a_pass(case, networks=balanced_graphs, most=ceiling):
    """Near balance one update multiplies the modes by 1 - kappa mu, with mu the eigenvalues of S; none is negative.

    The largest mu is at most 4q, for p > 2q at most p^2 / (p - q). Derivative of the actual update, on any graph.
    """
    safe = lambda s: largest_safe_exponent(s.p, s.q)
    return together(
        spectrum=equal(
            measured=lambda: [factors(s, largest_safe_exponent) for s in networks(case)],
            predicted=lambda: [1 - modes(s).flip(0) / max(s.p, 2 * s.q) for s in networks(case)],
            bound=1e-9,
            reason="rounding of eigenvalues, times the spread of the weights",
        ),
        largest=at_most(
            left=lambda: [(1 - factors(s, largest_safe_exponent)[0]) / safe(s) for s in networks(case)],
            right=lambda: [most(s.p, s.q) for s in networks(case)],
            bound=1e-9,
            reason="as above",
        ),
    )


def most_hidden_on_a_path(problem: Problem) -> int:
    """The largest number of hidden units on a path from an input to an output."""
    return _hidden_on_a_path(problem, max)


def fewest_hidden_on_a_path(problem: Problem) -> int:
    return _hidden_on_a_path(problem, min)


def _hidden_on_a_path(problem: Problem, choose: Callable) -> int:
    W, hidden = problem.W, problem.hidden.tolist()
    count = [0] * len(W)
    for i, below in enumerate(W):
        sources = below.nonzero()[:, 0].tolist()
        if sources:
            count[i] = choose(count[j] for j in sources) + hidden[i]
    return choose(count[i] for i in range(len(W)) if W[i].any() and not W[:, i].any())


def slowest_layer_mode(p: float, q: float, K: int, exponent=paper_exponent) -> float:
    """By what an update multiplies the mode that is a half sine over K hidden layers."""
    return 1 - 4 * q * exponent(p, q) * math.sin(math.pi / (2 * (K + 1))) ** 2


def guaranteed(problem: Problem, count: Callable[[Problem], int]) -> float:
    """What no mode exceeds: E (10) on a graph of which a path has that many hidden units."""
    _, _, p, q = problem
    return 1 - min(p, q) / max(p, q) * math.sin(math.pi / (2 * (count(problem) + 1))) ** 2


RUNS = ((2, 2), (2, 1), (8, 2))
FLAT = tuple((p, q) for p, q in PAIRS if p >= q)


@shared
def tails(case: Case, reach: float) -> list[float]:
    """Measured contractions of layered networks, from the first update to so far that the slowest mode is alone."""
    some = layered_problems(case, RUNS, even=True)
    return [tail(s, long_enough(s, most_hidden_on_a_path(s), reach)) for s in some]


def tail(problem: Problem, updates: int) -> float:
    """Contraction of the largest |log out - log in| a update, over two updates after so many."""
    sizes = []
    for _ in range(updates + 3):
        a = update(problem)
        sizes.append(a.log().abs().max().item())
        problem = rescaled(problem, a)
    return (sizes[-1] / sizes[-3]) ** 0.5


def long_enough(problem: Problem, K: int, reach: float) -> int:
    """Updates after which the slowest layer mode has shrunk fortyfold and more, times the reach."""
    return math.ceil(reach * (12 + 1.5 * (K + 1) ** 2) * max(problem.p / problem.q, 1))


@shared
def all_factors(case: Case) -> list[Tensor]:
    """Factors of the modes of random graphs and layered networks, with the paper's exponent."""
    return [factors(s) for s in balanced_graphs(case) + balanced_layers(case)]


@claim("O-depth-rate", control={"count": fewest_hidden_on_a_path})
def depth_bounds_the_rate(case, count=most_hidden_on_a_path):
    """Near balance no mode shrinks slower than the depth says; in layered networks with p >= q, one exactly so.

    Jacobian of the actual update, on random graphs and on layered networks, and the tail of actual runs.
    """
    everything = lambda: balanced_graphs(case) + balanced_layers(case)
    layered = lambda s: s.p >= s.q and len(s.W) != 11  # the graphs have eleven units
    return together(
        any_graph=at_most(
            left=lambda: [found.abs().max() for found in all_factors(case)],
            right=lambda: [guaranteed(s, count) for s in everything()],
            bound=1e-9,
            reason="rounding of eigenvalues, times the spread of the weights",
        ),
        layered=equal(
            measured=lambda: [
                found[-1] for s, found in zip(everything(), all_factors(case), strict=True) if layered(s)
            ],
            predicted=lambda: [slowest_layer_mode(p, q, len(w) - 2) for p, q in FLAT for w in LAYERED],
            bound=1e-9,
            reason="as above",
        ),
        runs=limit(
            measured=lambda reach: tails(case, reach),
            predicted=lambda: [slowest_layer_mode(p, q, len(w) - 2) for p, q in RUNS for w in LAYERED],
            bound=5e-3,
            reason="the second mode, and the square of the first, have not died out after that many updates",
        ),
    )


def doubly_stochastic(depth: int, p: float, width: int = 6, t: float = 0.1) -> tuple[Tensor, Tensor]:
    """A balanced network whose layers all average alike: the identity less t times the Laplacian of a path."""
    degree = torch.tensor([1.0, *[2.0] * (width - 2), 1.0], dtype=torch.float64)
    beside = torch.diag(torch.ones(width - 1, dtype=torch.float64), 1)
    P = torch.eye(width, dtype=torch.float64) - t * (degree.diag() - beside - beside.mT)
    return layered_matrix([P ** (1 / p)] * (depth + 1))


@shared
def balanced_stacks(case: Case, pairs=PAIRS) -> list[tuple[Problem, list[int]]]:
    """Balanced layered networks with their widths: a few random ones, and deep ones whose layers average alike."""
    out = [(s, list(w)) for s, w in zip(balanced_layers(case, pairs), len(pairs) * LAYERED, strict=True)]
    return out + [(Problem(*doubly_stochastic(10, p), p, q), [6] * 12) for p, q in pairs]


def within_layers(problem: Problem, widths: list[int]) -> Tensor:
    """Eigenvalues (1 - factor) / kappa of the actual update on what has weighted mean zero in each layer."""
    _, hidden, p, q = problem
    root = sides(problem)[0].sqrt()
    layers = torch.block_diag(*root.split(widths[1:-1])).mT  # one column a layer
    basis = torch.linalg.svd(layers, full_matrices=True)[0][:, len(widths) - 2 :]
    J = root[:, None] * jacobian(problem) / root
    D = (torch.eye(len(J), dtype=J.dtype) - J) / paper_exponent(p, q)
    return torch.linalg.eigvalsh(basis.mT @ (D + D.mT) / 2 @ basis)


def averaging(problem: Problem, widths: list[int]) -> list[Tensor]:
    """Singular values of A between hidden layers and from the last to the outputs, from the largest, which is one."""
    rows, columns = shares(problem).split(widths)[2:], widths[1:-1]
    return [torch.linalg.svdvals(row.split(columns, 1)[k]) for k, row in enumerate(rows)]


def largest_but(number: int, problem: Problem, widths: list[int]) -> float:
    return max(values[number].item() if len(values) > number else 0.0 for values in averaging(problem, widths))


def interval(p: float, q: float, sigma: float) -> tuple[float, float]:
    """Where the eigenvalues of S off the layer modes lie, if no layer passes on more than sigma of a difference."""
    s = min(sigma, q / (p - q)) if p > q else sigma
    return (1 - sigma) * (p + q + (p - q) * sigma), (1 + s) * (p + q - (p - q) * s)


def of_one_layer(p: float, q: float, values: Tensor, units: int) -> float:
    """Largest factor, up to its sign, with the safe exponent and one hidden layer."""
    kappa = 1 / max(p, 2 * q)
    values = torch.cat([values, values.new_zeros(max(units - len(values), 0))])
    return (1 - kappa * (p + q + (q - p) * values**2)).abs().max().item()


def of_the_layer_mode(p: float, q: float, values: Tensor, units: int) -> float:
    """What it would be if the mode that is constant on the layer were all."""
    return abs(1 - 2 * q / max(p, 2 * q))


@claim("O-modes-within-layers", control=[{"number": 2}, {"law": of_the_layer_mode}])
def modes_within_layers(case, number=1, law=of_one_layer):
    """Differences within layers: bounds by the second singular values, and the whole spectrum for one hidden layer.

    With the largest safe exponent and p > q they can be slower than all layer modes, with a negative factor.
    """
    stacks = lambda: balanced_stacks(case)
    one = lambda: [pair for pair in stacks() if len(pair[1]) == 3]
    return together(
        above=at_most(
            left=lambda: [within_layers(*pair)[-1] for pair in stacks()],
            right=lambda: [interval(s.p, s.q, largest_but(number, s, w))[1] for s, w in stacks()],
            bound=1e-9,
            reason="rounding of eigenvalues and singular values",
        ),
        below=at_most(
            left=lambda: [interval(s.p, s.q, largest_but(number, s, w))[0] for s, w in stacks()],
            right=lambda: [within_layers(*pair)[0] for pair in stacks()],
            bound=1e-9,
            reason="as above",
        ),
        one_layer=equal(
            measured=lambda: [factors(s, largest_safe_exponent).abs().max() for s, _ in one()],
            predicted=lambda: [law(s.p, s.q, averaging(s, w)[0], w[1]) for s, w in one()],
            bound=1e-9,
            reason="as above, relative to one",
            scale=lambda: [1.0] * len(one()),
        ),
    )


# From any start


class Walk(NamedTuple):
    """Algorithm 1 on one network.

    Attributes:
        excess: log(norm / least norm) before each update.
        imbalance: sum of |in - out| over hidden units, relative to the sum of in over all units.
        distance: largest |log a| that is left to the balanced network.
    """

    problem: Problem
    excess: Tensor
    imbalance: Tensor
    distance: Tensor


def walk(problem: Problem, least: Tensor, exponent, updates: int, floor: float = 1e-10) -> Walk:
    """Up to so many updates, to where the excess is no more than a floor, or the norm has grown a thousandfold."""
    p, q, start = problem.p, problem.q, problem
    norm = lambda s: entrywise_norm(s.W, p=p, q=q)
    bottom, z, rows = norm(rescaled(problem, least.exp())), torch.zeros_like(least), []
    for _ in range(updates):
        into, out = sides(problem)
        total = norm(problem) ** q
        rows.append([(norm(problem) / bottom).log(), (into - out).abs().sum() / total, (z - least).abs().max()])
        if not floor < rows[-1][0] < math.log(1000) + rows[0][0]:
            break
        a = update(problem, exponent)
        problem, z = rescaled(problem, a), z + a.log()
    return Walk(start, *torch.tensor(rows, dtype=torch.float64).T)


def alternating(edges: int, p: float, q: float) -> Problem:
    """A chain of weights 1 and 1.1 in turn: no update falls by less for its imbalance."""
    W = torch.diag(1 + 0.1 * (torch.arange(edges, dtype=torch.float64) % 2), -1)
    i = torch.arange(edges + 1)
    return Problem(W, (i > 0) & (i < edges), p, q)


@shared
def walks(case: Case, exponent=paper_exponent) -> list[Walk]:
    """Algorithm 1 on random graphs, and on a chain."""
    some = problems(case, "passes", PAIRS, {"quick": 3, "paper": 24}[case.profile]) + [alternating(40, 2, 2)]
    return [walk(s, z, exponent, 60) for s, z in zip(some, minimisers(some), strict=True)]


def hill(edges: int, p: float, q: float, slope: float = 0.5) -> tuple[Problem, Tensor]:
    """A chain of weights one, displaced by log factors that rise to the middle and fall again; and the way back."""
    i = torch.arange(edges + 1, dtype=torch.float64)
    z = slope * torch.minimum(i, edges - i)
    W = torch.diag(torch.ones(edges, dtype=torch.float64), -1) * (z[:, None] - z).exp()
    return Problem(W, (i > 0) & (i < edges), p, q), -z


@shared
def updates_to_a_tenth(edges: int) -> float:
    """Updates until a tenth of the excess is left, between two of them by the geometric rule."""
    excess = walk(*hill(edges, 2, 2), paper_exponent, edges**2, floor=0.01).excess
    logs = (excess / excess[0]).log() + math.log(10)
    k = int((logs > 0).sum()) - 1
    return k + (logs[k] / (logs[k] - logs[k + 1])).item()


@claim("O-passes", control={"exponent": twice_the_safe_exponent})
def passes_on_any_graph(case, exponent=paper_exponent):
    """After k updates the norm is within exp(8 r D^2 / k) of the least, on any graph; r = max(p, q), D the way to go.

    Update by update: one over the logarithm grows by 1 / (8 r D^2), the logarithm falls by the squared imbalance over
    8 r. D never grows for p >= q, and chains need a number of updates that goes like D^2.
    """
    r = lambda w: max(w.problem.p, w.problem.q)
    flat = lambda: [w for w in walks(case, exponent) if w.problem.p >= w.problem.q]
    return together(
        excess=at_most(
            left=lambda: [1 / (8 * r(w) * w.distance.max() ** 2) for w in walks(case, exponent)],
            right=lambda: [(1 / w.excess).diff() for w in walks(case, exponent)],
            bound=1e-4,
            reason="rounding of an excess of 1e-10",
        ),
        imbalance=at_most(
            left=lambda: [w.imbalance[:-1] ** 2 / (8 * r(w)) for w in walks(case, exponent)],
            right=lambda: [-w.excess.diff() for w in walks(case, exponent)],
            bound=1e-4,
            reason="as above",
        ),
        distance=at_most(
            left=lambda: [w.distance[1:] for w in flat()],
            right=lambda: [w.distance[:-1] for w in flat()],
            scale=lambda: [w.distance[:1] for w in flat()],
            bound=1e-9,
            reason="rounding, relative to the distance at the start",
        ),
        order=limit(
            measured=lambda reach: updates_to_a_tenth(int(24 * reach)) / updates_to_a_tenth(int(12 * reach)),
            predicted=lambda: 4.0,
            bound=2e-3,
            reason="chains of 12, 24 and 48 edges: the next order is the square of one over their number",
        ),
    )


# Other ways to the minimum, and where it lies


def as_they_are(W: Tensor, hidden: Tensor) -> Tensor:
    return W


def with_a_skip(W: Tensor, hidden: Tensor) -> Tensor:
    """Every input also feeds every output."""
    W, inputs, outputs = W.clone(), int(hidden.nonzero()[0]), int(hidden.nonzero()[-1]) + 1
    W[outputs:, :inputs] = 1
    return W


def over_layers(problem: Problem, widths: tuple[int, ...]) -> float:
    """The least norm over rescalings that are constant on layers, by Newton's method on E (13)."""
    index = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    log_norm = lambda x: (problem.q * logarithmic_form(torch.nn.functional.pad(x, (1, 1))[index], problem)).log()
    slope, bend, x = grad(log_norm), hessian(log_norm), problem.W.new_zeros(len(widths) - 2)
    for _ in range(60):
        step = torch.linalg.solve(bend(x), slope(x))
        x = x - step / step.abs().max().clamp_min(1.0)
        if step.abs().max() < 1e-9:
            break
    return (log_norm(x) / problem.q).exp().item()


def equal_totals(problem: Problem, widths: tuple[int, ...]) -> float:
    """The norm when all layers of weights have the geometric mean of their totals."""
    W, _, p, q = problem
    totals = [((layer.abs() ** p).sum(1) ** (q / p)).sum().item() for layer in W.split(widths)[1:]]
    return (len(totals) * math.prod(totals) ** (1 / len(totals))) ** (1 / q)


@shared
def changed(case: Case, pairs: tuple, graph: Callable[[Tensor, Tensor], Tensor]) -> list[Problem]:
    """Layered networks with another graph: both sides begin from them."""
    return [s._replace(W=graph(s.W, s.hidden)) for s in layered_problems(case, pairs)]


@claim("O-equalise", control={"graph": with_a_skip})
def equal_totals_are_least(case, graph=as_they_are):
    """Among rescalings that are constant on layers the norm is least when all layers have the same total."""
    pairs = ((1, 1), (2, 2), (2, 1), (1.5, 4))
    shapes = lambda: len(pairs) * LAYERED
    return equal(
        measured=lambda: [over_layers(s, w) for s, w in zip(changed(case, pairs, graph), shapes(), strict=True)],
        predicted=lambda: [equal_totals(s, w) for s, w in zip(changed(case, pairs, graph), shapes(), strict=True)],
        bound=1e-12,
        reason="rounding; Newton's method is at its end",
    )


@claim("O-accelerated", control={"method": "paper"})
def accelerated_minimum(case, method="auto"):
    """The library's solver finds the least norm of graphs and layered networks, within forty passes."""
    pairs = ((1, 1), (2, 2), (2, 1), (1.5, 4))
    some = lambda: problems(case, "accelerated", pairs, 2) + layered_problems(case, pairs)
    given = lambda: [
        RescalingProblem.graph(s.W, s.hidden, p=s.p, q=s.q) for s in problems(case, "accelerated", pairs, 2)
    ]
    layers = lambda: [RescalingProblem.layered(_weights(s), p=s.p, q=s.q) for s in layered_problems(case, pairs)]
    solve = lambda problem: minimum_norm(problem, method=method, tolerance=1e-13, max_passes=40).norm
    norm = lambda W, p, q: ((W.abs() ** p).sum(1) ** (q / p)).sum() ** (1 / q)
    return equal(
        measured=lambda: [solve(problem) for problem in given() + layers()],
        predicted=lambda: [
            norm(s.W * (z[:, None] - z).exp(), s.p, s.q) for s, z in zip(some(), minimisers(some()), strict=True)
        ],
        bound=1e-11,
        reason="the solver stops at an estimated gap of 1e-13",
    )


def _weights(problem: Problem) -> list[Tensor]:
    """The layers of a layered problem: maximal blocks of the matrix, found from its shape in LAYERED."""
    widths = next(w for w in LAYERED if sum(w) == len(problem.W))
    starts = torch.tensor([0, *widths]).cumsum(0).tolist()
    return [problem.W[b:c, a:b] for a, b, c in zip(starts, starts[1:], starts[2:], strict=False)]


def predicted_ratio(widths: tuple[int, ...], p: float, q: float, within_layers: bool = True) -> float:
    """Least norm over norm of a wide Gaussian network whose variances go like one over the fan-in."""
    moment = lambda r: 2 ** (r / 2) * math.gamma((r + 1) / 2) / math.sqrt(math.pi)
    v, L, n = (moment(2 * p) / moment(p) ** 2 - 1) * within_layers, len(widths) - 1, widths
    totals = [n[l + 1] * n[l] ** (q / p - q / 2) * (1 + q / p * (q / p - 1) * v / (2 * n[l])) for l in range(L)]
    layers = (L * math.prod(T ** (1 / L) for T in totals) / sum(totals)) ** (1 / q)
    return layers * math.exp(-v / (2 * (p + q) * L) * sum(1 / n[l + 1] + (q / p) ** 2 / n[l - 1] for l in range(1, L)))


@claim("O-taper", control={"widths": EQUAL})
def taper_sets_the_ratio(case, widths=NETWORKS):
    """For p <= 2 the ratio at which E Fig. 2 settles follows from the layer sizes, to one part in a hundred."""
    panels = [k for k, (p, _) in enumerate(PANELS) if p <= 2]
    measured = lambda: [wide(case).least[k, n] for k in panels for n in range(len(NETWORKS))]
    predicted = lambda: [predicted_ratio(w, *PANELS[k]) for k in panels for w in widths]
    return tendency(
        effect=lambda: [0.01 - (m / f - 1).abs() for m, f in zip(measured(), predicted(), strict=True)],
        reason="5 panels, 3 networks, 8 seeds at the paper's sizes; control: the same law for equal widths",
    )

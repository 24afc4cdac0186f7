"""Runs and other worlds of :mod:`.multiplicative_updates`: what its claims, its figures and its page share."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from claimbook.evidence import Case, shared
from companion.weight_balancing.common import (
    EXPONENTS,
    F,
    Problem,
    minimisers,
    paper_exponent,
    problems,
    rescaled,
    sides,
    stacks,
    update,
)
from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling.gauge import algorithm_1
from normdyn.rescaling.group import (
    auxiliary_function,
    multiplicative_update,
    orbit_regularizer,
    regularizer,
)

Exponent = Callable[[float, float], float]  # of the update, or the order r of E (19), from p and q
BELOW, ABOVE = ((1, 1), (2, 2), (1, 2), (1.5, 4), (2, 8)), ((1, 1), (2, 2), (2, 1), (3, 1.5), (8, 2))
BEYOND, SHARP = ((4, 1), (8, 1)), ((2, 2), (1, 2), (2, 1))  # p > 2q, and p up to that


def exponent_with_min(p: float, q: float) -> float:
    return 1 / (4 * min(p, q))


def least_order(p: float, q: float) -> float:
    """The smallest r with which E (19) lies above F, ours; the paper takes max(p, q)."""
    return max(q, p / 2)


def quarter_of_the_order(p: float, q: float) -> float:
    return max(p, q) / 4


def half_the_least_order(p: float, q: float) -> float:
    return least_order(p, q) / 2


def twice_the_order(p: float, q: float) -> float:
    return 2 * max(p, q)


def nothing_leaves_the_last(W: Tensor, hidden: Tensor) -> Tensor:
    return W.index_fill(1, hidden.nonzero()[-1], 0.0)


def nothing_enters_the_first(W: Tensor, hidden: Tensor) -> Tensor:
    return W.index_fill(0, hidden.nonzero()[0], 0.0)


def alive(W: Tensor, hidden: Tensor) -> Tensor:
    return W


def rescaled_by(z: Tensor, W: Tensor) -> Tensor:
    """E (6) for log factors, of one network or many."""
    return W * (z[..., :, None] - z[..., None, :]).exp()


def norm_written_out(W: Tensor, p: float, q: float) -> Tensor:
    """E (1), of one network or many."""
    return ((W.abs() ** p).sum(-1) ** (q / p)).sum(-1) ** (1 / q)


def descend(stack: Problem, exponent: Exponent = paper_exponent, most: int = 1500) -> Iterator[Tensor]:
    """Stacked weights before the first update and after each, until no factor differs from one by more than 1e-14.

    It also ends where a norm has grown a thousandfold, where factors are no smaller than 50 passes ago, or where the
    weights around a unit that nothing leaves have vanished: its factor is 0, for which 1/10 stands.
    """
    W, hidden, p, q = stack
    factors = vmap(lambda V: multiplicative_update(V, hidden, p=p, q=q, exponent=exponent(p, q)))
    limit, sizes = 1000 * norm_written_out(W, p, q), []
    yield W
    for _ in range(most):
        a = factors(W)
        z = torch.where(a > 0, a, 0.1).log()
        sizes.append(z.abs().max())
        if sizes[-1] < 1e-14 or W[W != 0].abs().min() < 1e-30 or (len(sizes) > 50 and sizes[-1] > 0.99 * sizes[-51]):
            return
        W = rescaled_by(z, W)
        yield W
        if not (norm_written_out(W, p, q) < limit).all():
            return


def ends(some: Sequence[Problem], exponent: Exponent = paper_exponent, most: int = 1500) -> list[Problem]:
    """Where the updates of each end."""
    found = [(stack, list(descend(stack, exponent, most))[-1]) for stack in stacks(some)]
    return [stack._replace(W=W) for stack, end in found for W in end]


@shared
def at_rest(case: Case) -> list[Problem]:
    """Where the updates of every problem end."""
    return ends(problems(case))


@shared
def untouched(case: Case) -> list[Problem]:
    return problems(case)


def least(some: Sequence[Problem]) -> list[Problem]:
    """The network of least norm on the orbit of each, by Newton's method, which knows nothing of balance."""
    return [s._replace(W=rescaled_by(z, s.W)) for s, z in zip(some, minimisers(some), strict=True)]


@shared
def of_least_norm(case: Case) -> list[Problem]:
    """The network of least norm on the orbit of every problem."""
    return least(problems(case))


def everywhere(case: Case) -> list[Problem]:
    """The problems, and the same networks with p > 2q."""
    return problems(case, "networks", EXPONENTS + BEYOND)


@shared
def random_factors(case: Case, sizes: tuple[float, ...] = (0.03, 0.3, 1.0)) -> list[tuple[Tensor, Problem]]:
    """Rescaling factors of several sizes for every problem, also with p > 2q; one on inputs and outputs."""
    draw = case.generator("factors")
    normal = lambda s: torch.randn(len(s.W), generator=draw, dtype=s.W.dtype) * s.hidden
    return [((size * normal(s)).exp(), s) for s in everywhere(case) for size in sizes]


@shared
def updates(case: Case, order: Exponent = max) -> list[tuple[Tensor, Problem]]:
    """The factors of one update of every problem, with the exponent 1 / (4 r), r = order(p, q)."""
    return [(update(s, lambda p, q: 1 / (4 * order(p, q))), s) for s in problems(case)]


def chain(weights: Tensor, p: float, q: float) -> Problem:
    """Input, hidden units in a row, output."""
    hidden = torch.tensor([False] + [True] * (len(weights) - 1) + [False])
    return Problem(torch.diag(weights.to(torch.float64), -1), hidden, p, q)


def alternating_chain(length: int, p: float, q: float, ratio: float = 4.0) -> Problem:
    """A chain of weights 1, ratio, 1, ratio and so on: every unit pulls against its neighbours."""
    return chain(torch.tensor([1.0, ratio]).repeat(length // 2), p, q)


class Descent(NamedTuple):
    """Algorithm 1 on one network, with its biases: where it begins, where it ends, and the norms on the way."""

    start: Problem
    biases: Tensor
    end: Problem
    end_biases: Tensor
    norms: Tensor


@shared
def descents(case: Case, tolerance: float = 1e-12) -> list[Descent]:
    """Algorithm 1 on every second problem."""
    runs, draw = [], case.generator("biases")
    for s in problems(case)[::2]:
        b = torch.randn(len(s.W), generator=draw, dtype=s.W.dtype)
        W, c, history = algorithm_1(s.W, b, p=s.p, q=s.q, hidden=s.hidden, tolerance=tolerance)
        runs.append(Descent(s, b, s._replace(W=W), c, history["norm"]))
    return runs


class Orbit(NamedTuple):
    """One network and rescalings of it, far away: the network, where the updates end, the norms on the way."""

    network: Problem
    ends: Tensor
    norms: Tensor


@shared
def orbits(case: Case, network=alive, exponent: Exponent = paper_exponent, starts: int = 5) -> list[Orbit]:
    """The updates from three networks and from random rescalings of each, for some pairs of exponents."""
    found, draw = [], case.generator("starts")
    for some in stacks(problems(case, "orbits", (*EXPONENTS[:4], (0.5, 0.7)), 3)):
        W, hidden, p, q = some._replace(W=torch.stack([network(V, some.hidden) for V in some.W]))
        z = 3 * torch.randn(starts, *W.shape[:2], generator=draw, dtype=W.dtype) * hidden
        stack = Problem(rescaled_by(torch.cat([0 * z[:1], z]), W).flatten(0, 1), hidden, p, q)
        path = torch.stack(list(descend(stack, exponent)))
        last, norms = path[-1].unflatten(0, (-1, len(W))), norm_written_out(path, p, q).unflatten(1, (-1, len(W)))
        found += [Orbit(some._replace(W=W[k]), last[:, k], norms[:, :, k]) for k in range(len(W))]
    return found


@shared
def cancelling_pair(case: Case, p: float, q: float, scale: float = 1.0) -> Problem:
    """A balanced network whose last two hidden units cancel; their outgoing weights were multiplied by scale."""
    A, B = layered_weights([3, 4, 2], case.generator("network"))
    row = torch.randn(1, 3, generator=case.generator("pair"), dtype=A.dtype)
    out = scale * torch.tensor([1.0, -1.0], dtype=A.dtype).expand(2, 2)
    net = layered_matrix([torch.cat([A, row, row]), torch.cat([B, out], 1)])
    return ends([Problem(*net, p, q)], most=500)[0]


@shared
def best_rescaling(case: Case, p: float, q: float, count: int = 2000) -> Problem:
    """The least of many rescalings of the balanced network, small and large."""
    s = cancelling_pair(case, p, q)
    z = torch.randn(count, len(s.W), generator=case.generator("rescalings"), dtype=s.W.dtype) * s.hidden
    z = z * torch.tensor([1e-3, 1e-2, 0.1, 1.0], dtype=z.dtype).repeat(count // 4)[:, None]
    return s._replace(W=rescaled_by(z[norm_written_out(rescaled_by(z, s.W), p, q).argmin()], s.W))


@shared
def pair_faded(case: Case, p: float, q: float) -> Problem:
    """The same function with the pair's outgoing weights divided by a million, balanced."""
    return cancelling_pair(case, p, q, 1e-6)


def smallest_saving(case: Case) -> float:
    """The share of the norm that goes with the pair, for the pair of exponents for which it is least."""
    norm = lambda s: norm_written_out(s.W, s.p, s.q)
    return min((1 - norm(pair_faded(case, *pq)) / norm(cancelling_pair(case, *pq))).item() for pq in EXPONENTS)


def ramp(length: int, p: float, q: float) -> Problem:
    """A chain whose log factors rise by equal steps to its middle and fall again: no factor hides better."""
    k = torch.arange(length)
    slope = 0.1 / (q * paper_exponent(p, q)) * torch.minimum(k, length - k)
    return chain(slope.cumsum(0).exp(), p, q)


@shared
def steps(case: Case, pinned: bool) -> list[tuple[Problem, Tensor, Tensor]]:
    """One update of random networks, of ramps, of networks of least norm: before, factors, weights after.

    Not pinned, inputs and outputs move too, and all factors are doubled.
    """
    before = [*problems(case), *(ramp(8, p, q) for p, q in EXPONENTS), *of_least_norm(case)]
    taken = [(s, update(s)) for s in before]
    return [(s, a if pinned else 2 * a, rescaled(s, a if pinned else 2 * a).W) for s, a in taken]


@shared
def rivals(case: Case, network: Callable[[Case], list[Problem]]) -> list[Tensor]:
    """Norms of 400 rescalings of each network, small and large, and of the least that Newton's method finds."""
    found, draw = [], case.generator("rivals")
    for s, best in zip(network(case), least(network(case)), strict=True):
        z = torch.randn(400, len(s.W), generator=draw, dtype=s.W.dtype) * s.hidden
        z = z * torch.tensor([1e-3, 1e-2, 0.1, 1.0], dtype=z.dtype).repeat(100)[:, None]
        found.append(norm_written_out(torch.cat([best.W[None], rescaled_by(z, s.W)]), s.p, s.q))
    return found


@shared
def pairs(case: Case) -> list[tuple[Problem, Tensor]]:
    """Twenty pairs of log factors for every problem, close and far."""
    draw, sizes = case.generator("pairs"), torch.tensor([0.1, 1.0], dtype=torch.float64)
    normal = lambda s: torch.randn(20, 2, len(s.W), generator=draw, dtype=s.W.dtype) * s.hidden
    return [(s, normal(s) * sizes.repeat(10)[:, None, None]) for s in problems(case)]


@shared
def layers_at_rest(case: Case) -> list[Problem]:
    """A layered network, balanced for every pair of exponents."""
    W, hidden = layered_matrix(layered_weights([5, 7, 6, 4, 3], case.generator("layers")))
    return ends([Problem(W, hidden, p, q) for p, q in EXPONENTS])


@shared
def layers_untouched(case: Case) -> list[Problem]:
    W, hidden = layered_matrix(layered_weights([5, 7, 6, 4, 3], case.generator("layers")))
    return [Problem(W, hidden, p, q) for p, q in EXPONENTS]


class Walk(NamedTuple):
    """Many updates: the networks before each, F before each, and by how much it falls."""

    before: Problem
    F: Tensor
    fall: Tensor


@shared
def walks(case: Case, exponent: Exponent = paper_exponent, passes: int = 60) -> list[Walk]:
    """The updates of random networks and of alternating chains, for every pair of exponents, also p > 2q."""
    found = []
    for stack in stacks([*everywhere(case), *(alternating_chain(40, p, q) for p, q in EXPONENTS + BEYOND)]):
        path = torch.stack(list(descend(stack, exponent, passes)))
        size = vmap(vmap(lambda W, s=stack: regularizer(W, p=s.p, q=s.q)))(path)
        found.append(Walk(stack._replace(W=path[:-1].flatten(0, 1)), size[:-1].flatten(), -size.diff(dim=0).flatten()))
    return found


def promise(problem: Problem, order: Exponent) -> Tensor:
    """By how much one update lowers F at least: what E (19) loses there with r = order(p, q)."""
    (x, y), r = sides(problem), order(problem.p, problem.q)
    theta = 2 * r * paper_exponent(problem.p, problem.q)
    return (x + y - x ** (1 - theta) * y**theta - x**theta * y ** (1 - theta)).sum() / (2 * r)


def promises(stack: Problem, order: Exponent) -> Tensor:
    """The promise of each of many stacked networks."""
    return vmap(lambda W: promise(stack._replace(W=W), order))(stack.W)


@shared
def kept(length: int, order: Exponent) -> list[Tensor]:
    """Promised over measured decrease of F by one update of alternating chains; close to balance where p > 2q."""
    ratios = []
    for p, q in SHARP + BEYOND:
        s = alternating_chain(length, p, q, 4.0 if p <= 2 * q else 1.02)
        ratios.append(promise(s, order) / (F(torch.ones_like(s.W[0]), s) - F(update(s), s)))
    return ratios


class Rows(NamedTuple):
    """Of a problem with random factors: what the proof compares in every row with inputs."""

    a: Tensor
    problem: Problem
    p: float
    q: float
    rho: Tensor
    pi: Tensor
    ratios: Tensor  # a_i / a_j


@shared
def rows(case: Case, exponents: tuple[tuple[float, float], ...]) -> list[Rows]:
    """Factors close to one and far from it, for every problem with some pairs of exponents."""
    found, draw = [], case.generator("rows")
    for s in problems(case, "rows", exponents):
        for size in (0.1, 1.0):
            a = (size * torch.randn(len(s.W), generator=draw, dtype=s.W.dtype) * s.hidden).exp()
            M = s.W[3:].abs() ** s.p
            rho, pi = M.sum(1) ** (s.q / s.p), M / M.sum(1, keepdim=True)
            found.append(Rows(a, s, s.p, s.q, rho, pi, a[3:, None] / a))
    return found


def G(a: Tensor, problem: Problem) -> Tensor:
    """E (19) as the library has it."""
    return auxiliary_function(a, problem.W, p=problem.p, q=problem.q)


def boundary(problem: Problem, directions: Tensor) -> Tensor:
    """Log factors of hidden units where F is as at one, along each direction; F is convex, 100 stands for infinity."""
    W, hidden, p, q = problem
    level = vmap(lambda z: orbit_regularizer(z, W, hidden, p=p, q=q))
    descent = grad(lambda z: orbit_regularizer(z, W, hidden, p=p, q=q))(0 * directions[0])
    directions = directions * -(directions @ descent).sign()[:, None]
    low = torch.zeros(len(directions), 1, dtype=W.dtype)
    high, start = low + 100, level(0 * directions)[0]
    for _ in range(60):
        middle = (low + high) / 2
        inside = (level(middle * directions) <= start)[:, None]
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return low * directions


def way_to_rest(problem: Problem, most: int = 1500) -> Tensor:
    """Log factors of hidden units at the start and after each update, read off the weights along a path."""
    path = torch.cat(list(descend(problem._replace(W=problem.W[None]), most=most)))
    z = torch.zeros(path.shape[:2], dtype=path.dtype)
    for i in problem.hidden.nonzero()[:, 0].tolist():
        j = int(problem.W[i].abs().argmax())
        z[:, i] = z[:, j] + (path[:, i, j] / problem.W[i, j]).log()
    return z[:, problem.hidden]


@shared
def sublevel_points(case: Case, network=alive) -> list[tuple[Problem, Tensor]]:
    """Points of sublevel sets: on the boundary, in random and axis directions, and inside, on the way of the updates.

    The last problems are chains whose second weight is much larger than the first: there the bounds are reached.
    """
    found, draw = [], case.generator("directions")
    lopsided = [chain(torch.tensor([0.01, 1.0]), p, q) for p, q in EXPONENTS[:4]]
    for s in [*(s._replace(W=network(s.W, s.hidden)) for s in problems(case)[::3]), *lopsided]:
        units = int(s.hidden.sum())
        directions = torch.randn(100, units, generator=draw, dtype=s.W.dtype)
        points = boundary(s, torch.cat([directions, torch.eye(units, dtype=s.W.dtype)]))
        inside = way_to_rest(s, 20) if network is alive else points[:0]
        found.append((s, torch.cat([points, inside])))
    return found


@shared
def paths(case: Case) -> list[tuple[Tensor, list[int], Tensor]]:
    """A path from an input through each hidden unit to an output, along the largest weights; sizes of weights."""
    found = []
    for W, unit in [(s.W.abs(), unit) for s in problems(case)[::3] for unit in s.hidden.nonzero()[:, 0].tolist()]:
        path, along = [unit], []
        while W[path[0]].any():
            along.insert(0, W[path[0]].max())
            path.insert(0, int(W[path[0]].argmax()))
        while W[:, path[-1]].any():
            along.append(W[:, path[-1]].max())
            path.append(int(W[:, path[-1]].argmax()))
        found.append((W, path, torch.stack(along)))
    return found


@shared
def shaken(case: Case, exponent: Exponent, size: float) -> list[tuple[Tensor, Tensor]]:
    """Updates after all weights changed by factors e^size or e^-size, in 20 random and 6 aimed patterns, and before.

    The aimed ones raise what enters one hidden unit, and lower all else.
    """
    draw, found = case.generator("shaken"), []
    for s in problems(case):
        signs = torch.randint(0, 2, (26, *s.W.shape), generator=draw).to(s.W.dtype) * 2 - 1
        signs[20:] = -1
        signs[torch.arange(20, 26), torch.arange(3, 9)] = 1
        act = vmap(lambda W, s=s: update(s._replace(W=W), exponent))
        found.append((act(s.W * (size * signs).exp()), update(s, exponent)))
    return found

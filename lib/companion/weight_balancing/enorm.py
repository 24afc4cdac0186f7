"""What decides the claims of section 2.4 of paper E: one unit or one layer at a time, or all units at once."""

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, vmap

from claimbook.evidence import Case, at_most, claim, counterexample, equal, limit, shared, together
from companion.weight_balancing.common import (
    EXPONENTS,
    F,
    Problem,
    jacobian,
    logarithmic_form,
    minimisers,
    paper_exponent,
    problems,
    rescaled,
    twice_the_safe_exponent,
    update,
)
from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling.group import entrywise_norm, largest_safe_exponent, scatter

EQUAL = ((1, 1), (1.5, 1.5), (2, 2), (3, 3), (5, 5))
UNEQUAL = tuple((p, q) for p, q in EXPONENTS if p != q)
GRID = tuple((p, q) for p in (0.5, 1, 1.5, 2, 3, 5) for q in (0.5, 1, 1.5, 2, 3, 5))
SHAPES = ((4, 6, 3), (5, 8, 7, 4), (3, 4, 5, 4, 3))


def enorm_exponent(p: float, q: float) -> float:
    """E (17), whatever q is."""
    return 1 / (2 * p)


@shared
def random_graphs(case: Case, pairs=EQUAL, count: int | None = None) -> list[Problem]:
    return problems(case, "one at a time", pairs, count)


@shared
def layered(case: Case, pairs=EQUAL, shapes=SHAPES) -> list[Problem]:
    draw = case.generator("layers at a time")
    nets = [layered_matrix(layered_weights(widths, draw)) for widths in shapes]
    return [Problem(W, hidden, p, q) for p, q in pairs for W, hidden in nets]


# Claims: one unit, one layer


@shared
def some_factors(case: Case, pairs=EQUAL) -> list[tuple[Tensor, Problem]]:
    """Random rescaling factors for every graph, one on inputs and outputs."""
    draw = case.generator("factors")
    return [
        (scatter(torch.randn(6, generator=draw, dtype=s.W.dtype), s.hidden).exp(), s)
        for s in random_graphs(case, pairs)
    ]


def printed_derivative(a: Tensor, problem: Problem) -> Tensor:
    """E (16), written out."""
    M = (problem.W * (a[:, None] / a)).abs() ** problem.p
    return ((M.sum(1) - M.sum(0)) / a)[problem.hidden]


@claim("E-eq16", control={"pairs": UNEQUAL})
def derivative_for_equal_exponents(case, pairs=EQUAL):
    """The derivative of F in a factor as printed for p = q, against automatic differentiation.  E (16)"""
    return equal(
        measured=lambda: [grad(F)(a, s)[s.hidden] for a, s in some_factors(case, pairs)],
        predicted=lambda: [printed_derivative(a, s) for a, s in some_factors(case, pairs)],
        bound=1e-12,
        reason="rounding of two sums",
    )


def best_of_one_unit(problem: Problem) -> Tensor:
    """For each hidden unit the log factor of least norm while the others rest, by Newton's method on E (13)."""
    axes = torch.eye(len(problem.W), dtype=problem.W.dtype)[problem.hidden]
    slope = grad(lambda t, axis: logarithmic_form(t * axis, problem))
    slopes, bends, t = vmap(slope), vmap(grad(slope)), axes.new_zeros(len(axes))
    for _ in range(60):
        step = (slopes(t, axes) / bends(t, axes)).clamp(-1, 1)
        t = t - step
        if step.abs().max() < 1e-13:
            break
    return t


def ratio_by_hand(problem: Problem) -> Tensor:
    """E (17), its logarithm."""
    M = problem.W.abs() ** problem.p
    return (M.sum(0) / M.sum(1)).log()[problem.hidden] / (2 * problem.p)


def blocks(problem: Problem) -> list[Tensor]:
    """Masks of hidden units with equal longest path from the inputs: no edge joins two of a block."""
    W, hidden = problem.W, problem.hidden
    depth = torch.zeros(len(W), dtype=torch.long)
    for i in hidden.nonzero()[:, 0].tolist():
        depth[i] = 1 + depth[:i][W[i, :i] != 0].max()
    return [hidden & (depth == d) for d in depth[hidden].unique().tolist()]


def sweep(problem: Problem, exponent=enorm_exponent) -> Problem:
    """One sweep of ENorm: E (17) for one block after the other."""
    for block in blocks(problem):
        problem = rescaled(problem, torch.where(block, update(problem, exponent), 1.0))
    return problem


def parallel(problem: Problem, exponent=paper_exponent) -> Problem:
    """One update of all units at once."""
    return rescaled(problem, update(problem, exponent))


def norm_of(problem: Problem) -> Tensor:
    return entrywise_norm(problem.W, p=problem.p, q=problem.q)


def norms(problem: Problem, step: Callable[[Problem], Problem], passes: int) -> Tensor:
    """Norms before the first pass and after each, as far as they stay below a thousand times the start."""
    found = [norm_of(problem)]
    while len(found) <= passes and found[-1] < 1000 * found[0]:
        problem = step(problem)
        found.append(norm_of(problem))
    return torch.stack(found)


def least_norms(some: list[Problem]) -> list[Tensor]:
    """By Newton's method on E (13)."""
    total = lambda s, z: (s.q * logarithmic_form(z, s)) ** (1 / s.q)
    return [total(s, z) for s, z in zip(some, minimisers(some), strict=True)]


@shared
def swept(case: Case, pairs) -> list[Tensor]:
    return [norms(s, sweep, 30) for s in layered(case, pairs)]


@claim("E-eq17", control={"pairs": UNEQUAL})
def one_unit_exactly(case, pairs=EQUAL):
    """For p = q the best factor of one unit is as printed; sweeps of it over layers end at the least norm.  E (17)"""
    return together(
        unit=equal(
            measured=lambda: [best_of_one_unit(s) for s in random_graphs(case, pairs, 1)],
            predicted=lambda: [ratio_by_hand(s) for s in random_graphs(case, pairs, 1)],
            bound=1e-10,
            reason="rounding at the flat end of Newton's method",
        ),
        layers=equal(
            measured=lambda: [run[-1] for run in swept(case, pairs)],
            predicted=lambda: least_norms(layered(case, pairs)),
            bound=1e-10,
            reason="30 sweeps, each of which quarters the gap or does better",
        ),
    )


@claim("E-decouple", control={"pairs": UNEQUAL})
def units_of_a_layer_decouple(case, pairs=EQUAL):
    """For p = q no derivative (16) of a unit depends on the factor of another one in its layer.  E section 2.4"""

    def coupling(s: Problem) -> Tensor:
        H = hessian(lambda a: F(a, s))(torch.ones_like(s.W[0]))
        together = torch.stack([block[:, None] & block for block in blocks(s)]).any(0)
        unit = H.diagonal().clamp_min(1e-300).rsqrt()
        return (H * unit[:, None] * unit)[together & ~torch.eye(len(H), dtype=torch.bool)]

    return equal(
        measured=lambda: [coupling(s) for s in layered(case, pairs)],
        predicted=lambda: [0.0] * len(layered(case, pairs)),
        bound=1e-14,
        reason="rounding, relative to the second derivatives of the units themselves",
        scale=lambda: [1.0] * len(layered(case, pairs)),
    )


# Claims: Osborne's iteration


def merged(problem: Problem) -> Tensor:
    """|W|^p with all inputs and outputs as one node, the last."""
    M, h = problem.W.abs() ** problem.p, problem.hidden
    rows = torch.cat([M[h], M[~h].sum(0, keepdim=True)])
    M = torch.cat([rows[:, h], rows[:, ~h].sum(1, keepdim=True)], 1)
    return M - M.diagonal().diag()


def osborne(M: Tensor, sweeps: int) -> Tensor:
    """Logarithms of the diagonal that balances a nonnegative matrix: node by node, all of them in turn."""
    x = M.new_zeros(len(M))
    for _ in range(sweeps):
        for i in range(len(M)):
            scaled = M * (x[:, None] - x).exp()
            x[i] += (scaled[:, i].sum() / scaled[i].sum()).log() / 2
    return x


def balanced_as_a_matrix(problem: Problem, sweeps: int = 60) -> Tensor:
    """Log factors at hidden units from Osborne's iteration on the merged matrix; the node of the ends counts as one."""
    x = osborne(merged(problem), sweeps) / problem.p
    return x[:-1] - x[-1]


@claim("O-osborne", control={"pairs": UNEQUAL})
def balancing_is_osbornes(case, pairs=EQUAL):
    """For p = q the least network is |W|^p balanced as a matrix, with all inputs and outputs merged into one node.

    Newton's method on the norm, against Osborne's iteration, which also rescales that node.
    """
    some = lambda: random_graphs(case, pairs, 2) + layered(case, pairs)
    return equal(
        measured=lambda: [z[s.hidden] for s, z in zip(some(), minimisers(some()), strict=True)],
        predicted=lambda: [balanced_as_a_matrix(s) for s in some()],
        bound=1e-7,
        reason="what 60 sweeps leave",
        scale=lambda: [1.0] * len(some()),
    )


def at_least_norm(some: list[Problem]) -> list[Problem]:
    """The same networks balanced, by Newton's method on E (13)."""
    return [rescaled(s, z.exp()) for s, z in zip(some, minimisers(some), strict=True)]


@shared
def balanced(case: Case, pairs=EQUAL) -> list[Problem]:
    return at_least_norm(random_graphs(case, pairs, 3) + layered(case, pairs))


def in_turn(problem: Problem, order: list[int], share: float = 1.0) -> Callable[[Tensor], Tensor]:
    """E (17) unit by unit in that order, as a function of the log factors of hidden units; or a share of each step."""
    W, hidden, p, _ = problem
    units = hidden.nonzero()[:, 0]

    def step(x: Tensor) -> Tensor:
        for k in order:
            z, i = scatter(x, hidden), int(units[k])
            M = W.abs() ** p * (p * (z[:, None] - z)).exp()
            x = x + torch.eye(len(x), dtype=x.dtype)[k] * (M[:, i].sum() / M[i].sum()).log() * share / (2 * p)
        return x

    return step


def rate_in_turn(case: Case, problem: Problem, share: float = 1.0) -> float:
    """Contraction near balance of a sweep over units, in a random order."""
    units = int(problem.hidden.sum())
    order = torch.randperm(units, generator=case.generator("order")).tolist()
    J = jacrev(in_turn(problem, order, share))(problem.W.new_zeros(units))
    return torch.linalg.eigvals(J).abs().max().item()


def rate_at_once(problem: Problem, exponent=paper_exponent) -> float:
    """Contraction near balance of the parallel update."""
    return torch.linalg.eigvals(jacobian(problem, exponent)).abs().max().item()


def coupling_rate(problem: Problem) -> float:
    """Largest eigenvalue of the mean of averages over what enters and over what leaves: Jacobi's, by hand."""
    M, h = problem.W.abs() ** problem.p, problem.hidden
    root = torch.where(h, M.sum(1), 1.0).rsqrt()
    B = (root[:, None] * (M + M.mT) * root / 2)[h][:, h]
    return torch.linalg.eigvalsh(B)[-1].item()


@claim("O-sweeps", control=[{"pairs": UNEQUAL}, {"share": 0.5}])
def what_a_sweep_is_worth(case, pairs=EQUAL, share=1.0):
    """For p = q, with l the rate of the parallel update with ENorm's exponent: Algorithm 1 has (1 + l) / 2, and a sweep
    over units in any order lies between l^2 and l / (2 - l).  Layer after layer, it is l^2.
    """
    chains = lambda: [math.cos(math.pi / (len(w) - 1)) for _ in pairs for w in SHAPES]
    ends = lambda: [s for k, s in enumerate(balanced(case, pairs)) if k >= 3 * len(pairs)]
    return together(
        at_once=equal(
            measured=lambda: [
                rate_at_once(s, k) for s in balanced(case, pairs) for k in (enorm_exponent, paper_exponent)
            ],
            predicted=lambda: [
                x for s in balanced(case, pairs) for x in (coupling_rate(s), (1 + coupling_rate(s)) / 2)
            ],
            bound=1e-9,
            reason="rounding of eigenvalues, times the spread of the weights",
            scale=lambda: [1.0] * 2 * len(balanced(case, pairs)),
        ),
        above=at_most(
            left=lambda: [coupling_rate(s) ** 2 for s in balanced(case, pairs)],
            right=lambda: [rate_in_turn(case, s, share) for s in balanced(case, pairs)],
            scale=lambda: [1.0] * len(balanced(case, pairs)),
            bound=1e-6,
            reason="as above; a defective zero of the sweep shows as the root of rounding",
        ),
        below=at_most(
            left=lambda: [rate_in_turn(case, s, share) for s in balanced(case, pairs)],
            right=lambda: [coupling_rate(s) / (2 - coupling_rate(s)) for s in balanced(case, pairs)],
            scale=lambda: [1.0] * len(balanced(case, pairs)),
            bound=1e-6,
            reason="as above",
        ),
        layers=equal(
            measured=lambda: [rate_in_layers(s) for s in ends()],
            predicted=lambda: [c**2 for c in chains()],
            bound=1e-6,
            reason="as above, relative to one",
            scale=lambda: [1.0] * len(ends()),
        ),
    )


def rate_in_layers(problem: Problem) -> float:
    """Contraction near balance of ENorm's sweep from the first layer to the last."""
    units = int(problem.hidden.sum())
    J = jacrev(in_turn(problem, list(range(units))))(problem.W.new_zeros(units))
    return torch.linalg.eigvals(J).abs().max().item()


# Claims: how large a parallel step may be


@shared
def graphs_of_the_grid(case: Case, pairs=GRID) -> list[Problem]:
    return problems(case, "safe exponents", pairs, {"quick": 3, "paper": 30}[case.profile])


def links(problem: Problem, stretch: float) -> Tensor:
    """The terms of the proof in their order, relative to S, the last; m is so many times max(p, 2q)."""
    W, hidden, p, q = problem
    m, M = stretch * max(p, 2 * q), W.abs() ** p
    rows = torch.where(M.any(1), M.sum(1), 1.0)
    rho, pi = torch.where(M.any(1), rows ** (q / p), 0.0), M / rows[:, None]
    y = torch.where(hidden, rho @ pi / torch.where(hidden, rho, 1.0), 1.0)
    s, S = pi @ (1 / y), rho.sum()
    holder = (rho @ y) ** (q / m) * (rho @ s) ** (q / m) * S ** (1 - 2 * q / m)
    ends = rho[~hidden].sum() - (rho @ pi)[~hidden].sum()
    return torch.stack([rho @ (y * s) ** (q / m), holder, S * (1 - (ends / S) ** 2) ** (q / m), S]) / S


def moved(problem: Problem, stretch: float) -> Tensor:
    """q F after the actual update with exponent 1/m, relative to S."""
    m = stretch * max(problem.p, 2 * problem.q)
    return (norm_of(parallel(problem, lambda p, q: 1 / m)) / norm_of(problem)) ** problem.q


@shared
def terms(case: Case, stretch: float) -> list[Tensor]:
    """What the update leaves of q F, and the terms of the proof behind it, for every graph of the grid."""
    return [torch.cat([moved(s, stretch)[None], links(s, stretch)]) for s in graphs_of_the_grid(case)]


def chain(K: int, p: float, q: float, size: float = 0.0) -> Problem:
    """A balanced chain of K hidden units, displaced along its steepest mode."""
    k = torch.arange(K + 2, dtype=torch.float64)
    z = size * (-1) ** k * torch.sin(math.pi * k / (K + 1))
    W = torch.diag(torch.ones(K + 1, dtype=torch.float64), -1)
    return Problem(W * (z[:, None] - z).exp(), (k > 0) & (k < K + 1), p, q)


def dominated(p: float, q: float) -> Problem:
    """Input, hidden unit, output; a second input dominates the output, the hidden unit's weight is tiny."""
    W = torch.zeros(4, 4, dtype=torch.float64)
    W[2, 0], W[3, 1], W[3, 2] = 1, 1, 10 ** (-280 / max(p, 2))
    return Problem(W, torch.tensor([False, False, True, False]), p, q)


def growth(problem: Problem, kappa: float) -> float:
    """Relative change of the norm by one update with that exponent."""
    return (norm_of(parallel(problem, lambda p, q: kappa)) / norm_of(problem)).item() - 1


def border(problem: Problem) -> float:
    """The exponent at which one update begins to increase the norm, by bisection."""
    low, high = 0.25 / max(problem.p, 2 * problem.q), 4 / max(problem.p, 2 * problem.q)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if growth(problem, middle) <= 1e-15 else (low, middle)
    return low


def worst_border(p: float, q: float, depth: int) -> float:
    """The smallest exponent that increases the norm of a deep chain or of a dominated row."""
    return min(border(chain(depth, p, q, 1e-4)), border(dominated(p, q)))


@claim("O-safe-exponent", control={"stretch": 0.5})
def largest_safe_exponent_is(case, stretch=1.0):
    """No update with an exponent up to 1 / max(p, 2q) increases the norm of any network; a larger one does of some.

    Each term of the proof is at most the next, on graphs with 36 pairs (p, q), for the border itself and beyond it.
    """
    some = lambda: graphs_of_the_grid(case)
    return together(
        decrease=at_most(
            left=lambda: [moved(s, stretch) for s in some()],
            right=lambda: [1.0] * len(some()),
            bound=1e-12,
            reason="rounding of sums",
        ),
        links=at_most(
            left=lambda: [each[:-1] for each in terms(case, stretch)],
            right=lambda: [each[1:] for each in terms(case, stretch)],
            scale=lambda: [1.0] * len(some()),
            bound=1e-12,
            reason="rounding of sums, relative to the last term, from which they are subtracted",
        ),
        no_larger_one=limit(
            measured=lambda reach: [worst_border(p, q, int(48 * reach)) for p, q in EXPONENTS],
            predicted=lambda: [1 / max(p, 2 * q) for p, q in EXPONENTS],
            bound=5e-3,
            reason="deep chains of 48 and 96 units and a row dominated by 1e280 are close to their limits",
        ),
    )


@claim("O-chain-threshold", control={"size": 1.0})
def threshold_of_a_chain(case, size=1e-4):
    """A balanced chain of K hidden units turns unstable at 1 / 2q times 2 / (1 + cos(pi / (K + 1)))."""
    depths, pairs = (1, 2, 3, 4, 6, 8, 12, 24), ((2, 2), (1, 3), (2, 1))
    return equal(
        measured=lambda: [border(chain(K, p, q, size)) for p, q in pairs for K in depths],
        predicted=lambda: [1 / q / (1 + math.cos(math.pi / (K + 1))) for _, q in pairs for K in depths],
        bound=1e-4,
        reason="first order in the displacement of 1e-4",
    )


def of_the_majoriser(p: float, q: float) -> float:
    """The exponent at which the paper's majoriser is least, for in = 1 and out = 2, by Newton's method."""
    r = max(p, q)
    G = lambda x: 2 ** (2 * r * x) + 2 * 2 ** (-2 * r * x)
    x = torch.tensor(0.3 / r, dtype=torch.float64)
    for _ in range(20):
        x = x - grad(G)(x) / grad(grad(G))(x)
    return x.item()


@claim("E-exponent-needed", control={"largest": of_the_majoriser})
def smaller_exponent_is_not_needed(case, largest=largest_safe_exponent):
    """No exponent larger than the paper's keeps the norm from rising: refuted by one two to four times as large."""
    step = lambda s: moved_by(s, largest(s.p, s.q))
    some = lambda: problems(case, "exponents", EXPONENTS)
    return counterexample(
        at_most(
            left=lambda: [largest(p, q) for p, q in EXPONENTS],
            right=lambda: [paper_exponent(p, q) for p, q in EXPONENTS],
            bound=1e-3,
            reason="the paper's exponent to one part in a thousand",
        ),
        exact=lambda: [Fraction(4 * max(p, q)) / Fraction(max(p, 2 * q)) - 1 for p, q in EXPONENTS],
        monotone=at_most(
            left=lambda: [step(s) for s in some()],
            right=lambda: [1.0] * len(some()),
            bound=1e-12,
            reason="rounding of a norm",
        ),
    )


def moved_by(problem: Problem, kappa: float, updates: int = 20) -> Tensor:
    """Norm after each update over the norm before it."""
    run = norms(problem, lambda s: parallel(s, lambda p, q: kappa), updates)
    return run[1:] / run[:-1]


@shared
def runs_at_once(case: Case, exponent) -> list[Tensor]:
    return [norms(s, lambda s: parallel(s, exponent), 300) for s in tangled(case)]


@shared
def tangled(case: Case) -> list[Problem]:
    """Graphs with skip connections, one pair of exponents after the other."""
    return problems(case, "tangled", EXPONENTS, {"quick": 2, "paper": 20}[case.profile])


@shared
def least_tangled(case: Case) -> list[Tensor]:
    return least_norms(tangled(case))


@claim("E-enorm-layered", control=[{"exponent": enorm_exponent}, {"exponent": twice_the_safe_exponent}])
def parallel_on_any_graph(case, exponent=paper_exponent):
    """All hidden units at once, on graphs without layers and for p and q of any kind: down to the least norm.  E 2.4"""
    return together(
        least=equal(
            measured=lambda: [run[-1] for run in runs_at_once(case, exponent)],
            predicted=lambda: least_tangled(case),
            bound=1e-10,
            reason="what 300 updates leave",
        ),
        monotone=at_most(
            left=lambda: [run[1:] for run in runs_at_once(case, exponent)],
            right=lambda: [run[:-1] for run in runs_at_once(case, exponent)],
            bound=1e-12,
            reason="rounding of a norm",
        ),
    )

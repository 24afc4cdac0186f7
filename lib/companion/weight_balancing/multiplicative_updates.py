"""What decides the claims of sections 2.2, 2.3 and 2.5 of paper E: the update, its fixed points, its convergence."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.func import grad, hessian, vmap

from claimbook.evidence import at_most, claim, equal, limit, together
from companion.weight_balancing.common import (
    EXPONENTS,
    F,
    Problem,
    logarithmic_form,
    paper_exponent,
    problems,
    sides,
    twice_the_safe_exponent,
)
from companion.weight_balancing.multiplicative_updates_runs import (
    ABOVE,
    BELOW,
    BEYOND,
    SHARP,
    Exponent,
    G,
    Rows,
    alive,
    at_rest,
    best_rescaling,
    cancelling_pair,
    descents,
    ends,
    exponent_with_min,
    half_the_least_order,
    kept,
    layers_at_rest,
    layers_untouched,
    least,
    least_order,
    norm_written_out,
    nothing_enters_the_first,
    nothing_leaves_the_last,
    of_least_norm,
    orbits,
    pair_faded,
    pairs,
    paths,
    promises,
    quarter_of_the_order,
    random_factors,
    rescaled_by,
    rivals,
    rows,
    shaken,
    steps,
    sublevel_points,
    twice_the_order,
    untouched,
    updates,
    walks,
)
from normdyn.networks.graphs import feedforward, layered_matrix, layered_weights
from normdyn.rescaling.group import entrywise_norm, multiplicative_update, orbit_regularizer, scatter, stochastic_matrix

ROUNDING = "rounding of sums"
STOP = "factors stop at 1e-14, up to 33 times as far from the limit where a pass gains 3 %"


# Claims: the algorithm and what it finds


@claim("E-eq9-stochastic", printed={"axis": 0})
def rows_sum_to_one(case, axis=1):
    """The matrix of shares is stochastic by rows; the text says columns.  E (9)"""
    return equal(
        measured=lambda: [stochastic_matrix(s.W, p=s.p)[s.W.any(1)].sum(axis) for s in problems(case)],
        predicted=lambda: [1.0] * len(problems(case)),
        bound=1e-14,
        reason="rounding of a sum of shares",
    )


def unit_by_unit(problem: Problem, order: list[int], exponent: Exponent, in_turn: bool) -> Tensor:
    """E (8) to (10) for one unit after the other, from its own row and those of the units it feeds."""
    W, _, p, q = problem
    W, a = W.abs().clone(), torch.ones_like(W[0])
    row = lambda j: sum(w**p for w in W[j].tolist())
    for i in order:
        outgoing = sum(row(j) ** (q / p) * W[j, i] ** p / row(j) for j in W[:, i].nonzero()[:, 0].tolist())
        a[i] = (outgoing / row(i) ** (q / p)) ** exponent(p, q)
        if in_turn:
            W[i], W[:, i] = W[i] * a[i], W[:, i] / a[i]
    return a


@claim("E-eq10", control=[{"exponent": exponent_with_min}, {"in_turn": True}])
def factors_by_formula(case, exponent=paper_exponent, in_turn=False):
    """The factors of all units follow at once from the magnitudes of one and the same weights.  E (8) to (10)"""
    signs = lambda: torch.randint(0, 2, (11, 11), generator=case.generator("signs")) * 2 - 1
    order = lambda: (3 + torch.randperm(6, generator=case.generator("order"))).tolist()  # of the six hidden units
    return equal(
        measured=lambda: [multiplicative_update(s.W * signs(), s.hidden, p=s.p, q=s.q) for s in problems(case)],
        predicted=lambda: [unit_by_unit(s, order(), exponent, in_turn) for s in problems(case)],
        bound=1e-13,
        reason="rounding of sums and of a root",
    )


@claim("E-alg1", control=[{"tolerance": 0.1}, {"activation": torch.tanh}])
def algorithm_finds_the_least_norm(case, tolerance=1e-12, activation=torch.relu):
    """Algorithm 1 ends at the least norm among all rescalings and keeps the function.  E Algorithm 1"""
    X = lambda: torch.randn(50, 3, generator=case.generator("samples"), dtype=torch.float64)
    outputs = lambda s, b: feedforward(s.W, b, X(), s.hidden, activation=activation)
    return together(
        minimum=equal(
            measured=lambda: [run.norms[-1] for run in descents(case, tolerance)],
            predicted=lambda: [norm_written_out(s.W, s.p, s.q) for s in of_least_norm(case)[::2]],
            bound=1e-11,
            reason="a tolerance of 1e-12 in the factors, whose square is the gap, and rounding of 1e-16 a pass",
        ),
        function=equal(
            measured=lambda: [outputs(run.end, run.end_biases) for run in descents(case, tolerance)],
            predicted=lambda: [outputs(run.start, run.biases) for run in descents(case, tolerance)],
            bound=1e-11,
            reason="rounding over some hundred rescalings",
        ),
    )


@claim("E-thm2.1", control=[{"network": nothing_leaves_the_last}, {"exponent": twice_the_safe_exponent}])
def updates_converge_to_the_least_norm(case, network=alive, exponent=paper_exponent):
    """From wherever on an orbit, norms fall and the updates end at its network of least norm.  E Theorem 2.1"""
    found = lambda: orbits(case, network, exponent)
    limits = lambda: least([o.network for o in found()])
    return together(
        minimiser=equal(
            measured=lambda: [V for o in found() for V in o.ends],
            predicted=lambda: [s.W for s in limits() for _ in found()[0].ends],
            bound=1e-11,
            reason=STOP,
        ),
        balance=equal(
            measured=lambda: [sides(o.network._replace(W=V))[0] for o in found() for V in o.ends],
            predicted=lambda: [outgoing_written_out(o.network._replace(W=V)) for o in found() for V in o.ends],
            bound=1e-9,
            reason=f"{STOP}; balance is 4 max(p, q) times coarser",
            each=True,
        ),
        descent=at_most(
            left=lambda: [o.norms[1:] for o in found()],
            right=lambda: [o.norms[:-1] for o in found()],
            bound=1e-13,
            reason="rounding of a norm",
        ),
    )


@claim("E-abs-equivalent", printed={"rival": pair_faded})
def least_of_all_rescalings(case, rival=best_rescaling):
    """No rescaling of the balanced network has a smaller norm; another network with its function may.  E abstract"""
    X = lambda s: torch.randn(50, 3, generator=case.generator("samples"), dtype=s.W.dtype)
    outputs = lambda s: feedforward(s.W, 0 * s.W[0], X(s), s.hidden)
    return together(
        least=at_most(
            left=lambda: [entrywise_norm(cancelling_pair(case, *pq).W, p=pq[0], q=pq[1]) for pq in EXPONENTS],
            right=lambda: [norm_written_out(rival(case, *pq).W, *pq) for pq in EXPONENTS],
            bound=1e-12,
            reason="rounding of a norm",
        ),
        same_function=equal(
            measured=lambda: [outputs(cancelling_pair(case, *pq)) for pq in EXPONENTS],
            predicted=lambda: [outputs(rival(case, *pq)) for pq in EXPONENTS],
            bound=1e-11,
            reason="rounding of outputs after some hundred rescalings",
        ),
    )


@claim("O-merge-split", control={"share": 1.0})
def copies_cost_by_p(case, share=0.5):
    """A unit and two copies with half its outgoing weights: the same function, 2^(1 - p/2) times the norm's power."""
    powers = (1.0, 1.5, 2.0, 3.0)
    layers = lambda: layered_weights([3, 1, 2], case.generator("unit"))
    single = lambda: [Problem(*layered_matrix(layers()), p, p) for p in powers]
    twins = lambda A, B: [A.repeat(2, 1), share * B.repeat(1, 2)]
    double = lambda: [Problem(*layered_matrix(twins(*layers())), p, p) for p in powers]
    cost = lambda nets: torch.stack([norm_written_out(s.W, s.p, s.q) ** s.p for s in least(nets)])
    X = lambda: torch.randn(50, 3, generator=case.generator("samples"), dtype=torch.float64)
    outputs = lambda nets: [feedforward(s.W, 0 * s.W[0], X(), s.hidden) for s in nets]
    return together(
        cost=equal(
            measured=lambda: cost(double()) / cost(single()),
            predicted=lambda: 2 ** (1 - torch.tensor(powers, dtype=torch.float64) / 2),
            bound=1e-12,
            reason="Newton's method, to rounding",
            each=True,
        ),
        function=equal(
            measured=lambda: outputs(double()),
            predicted=lambda: outputs(single()),
            bound=1e-14,
            reason="rounding of outputs",
        ),
    )


# Claims: fixed points


def shortest(cost: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Least cost of a path to each hidden unit from an input, and from it to an output; inf stands for no edge."""
    up = down = torch.where(hidden, torch.inf, torch.zeros(len(cost), dtype=cost.dtype))
    for _ in range(len(cost)):
        up, down = torch.minimum(up, (cost + up).amin(1)), torch.minimum(down, (cost.T + down).amin(1))
    return up[hidden], down[hidden]


@claim("E-prop2.2", control={"pinned": False})
def fixed_if_and_only_if_all_factors_are_one(case, pinned=True):
    """An update leaves the weights if and only if all its factors are one.  E Proposition 2.2

    In numbers: weights move by the ratios of factors, and no factor exceeds what they moved times the number d of
    edges to the nearest input or output. Ramps attain that.
    """
    moved = lambda s, V: (V / s.W)[s.W != 0].abs().log()
    edges = lambda s: torch.minimum(*shortest(torch.where(s.W != 0, 1.0, torch.inf).to(s.W.dtype), s.hidden))
    rest = lambda: steps(case, pinned)[-len(problems(case)) :]
    return together(
        factors=at_most(
            left=lambda: [a[s.hidden].log().abs() for s, a, _ in steps(case, pinned)],
            right=lambda: [edges(s) * moved(s, V).abs().max() for s, _, V in steps(case, pinned)],
            scale=lambda: [1.0] * len(steps(case, pinned)),
            bound=1e-12,
            reason="rounding of logarithms",
        ),
        weights=equal(
            measured=lambda: [moved(s, V) for s, _, V in steps(case, pinned)],
            predicted=lambda: [(a.log()[:, None] - a.log())[s.W != 0] for s, a, _ in steps(case, pinned)],
            scale=lambda: [torch.tensor(1.0)] * len(steps(case, pinned)),
            bound=1e-12,
            reason="rounding of logarithms",
        ),
        at_least_norm=equal(
            measured=lambda: [V for _, _, V in rest()],
            predicted=lambda: [s.W for s, _, _ in rest()],
            bound=1e-12,
            reason="Newton's method, to rounding",
        ),
    )


@claim("E-lem2.3", control={"network": untouched})
def fixed_points_have_least_norm(case, network=at_rest):
    """No rescaling of a fixed point, small, large or the best that Newton's method finds, is smaller.  E Lemma 2.3"""
    return at_most(
        left=lambda: [entrywise_norm(s.W, p=s.p, q=s.q) for s in network(case)],
        right=lambda: rivals(case, network),
        bound=1e-12,
        reason="rounding of a norm",
    )


def mean_of_logarithms(x: Tensor, y: Tensor) -> Tensor:
    return (x + y) / 2


def mean_of_factors(x: Tensor, y: Tensor) -> Tensor:
    return ((x.exp() + y.exp()) / 2).log()


@claim("E-eq13-convex", control=[{"middle": mean_of_factors}, {"network": untouched}])
def convex_in_log_factors(case, middle=mean_of_logarithms, network=at_rest):
    """F is convex in the logarithms of the factors, so where its derivative vanishes it is least.  E (12), (13)"""
    enters = lambda s: ((s.W.abs() ** s.p).sum(1) ** (s.q / s.p))[s.hidden]
    value = lambda s: vmap(lambda z: orbit_regularizer(z[s.hidden], s.W, s.hidden, p=s.p, q=s.q))
    again = lambda s: vmap(lambda z: logarithmic_form(z, s))
    return together(
        forms=equal(
            measured=lambda: [value(s)(x[:, 0]) for s, x in pairs(case)],
            predicted=lambda: [again(s)(x[:, 0]) for s, x in pairs(case)],
            bound=1e-12,
            reason=ROUNDING,
            each=True,
        ),
        midpoint=at_most(
            left=lambda: [value(s)(middle(x[:, 0], x[:, 1])) for s, x in pairs(case)],
            right=lambda: [vmap(again(s))(x).mean(1) for s, x in pairs(case)],
            bound=1e-12,
            reason=ROUNDING,
        ),
        stationary=equal(
            measured=lambda: [grad(F)(torch.ones_like(s.W[0]), s)[s.hidden] for s in network(case)],
            predicted=lambda: [0.0 for _ in network(case)],
            scale=lambda: [enters(s) for s in network(case)],
            bound=1e-11,
            reason="factors stop at 1e-14, derivatives are 4 max(p, q) times coarser",
        ),
        least=at_most(
            left=lambda: [value(s)(0 * s.W[:1]) for s in network(case)],
            right=lambda: [again(s)(x[:, 0]) for s, (_, x) in zip(network(case), pairs(case), strict=True)],
            bound=1e-12,
            reason=ROUNDING,
        ),
    )


@claim("O-strictly-convex", control={"with_mean": False})
def second_derivative_is_a_sum_of_squares(case, with_mean=True):
    """The second derivative of F along any direction is a sum of squares that vanishes for none but zero."""

    def squares(s, z, v):
        M = rescaled_by(z, s.W).abs() ** s.p
        total = M.sum(1)
        pi, u = M / torch.where(total > 0, total, 1.0)[:, None], v[:, None] - v
        mean = (pi * u).sum(1)
        terms = s.p * (pi * (u - mean[:, None]) ** 2).sum(1) + with_mean * s.q * mean**2
        return (total ** (s.q / s.p) * terms).sum()

    def by_derivatives(s, z, v):
        H = hessian(lambda x: orbit_regularizer(x, s.W, s.hidden, p=s.p, q=s.q))(z[s.hidden])
        return v[s.hidden] @ H @ v[s.hidden]

    along = lambda quadratic: [vmap(lambda x, s=s: quadratic(s, x[0], x[1]))(ends[1::4]) for s, ends in pairs(case)]
    return equal(
        measured=lambda: along(by_derivatives),
        predicted=lambda: along(squares),
        bound=1e-11,
        reason="rounding of second derivatives",
        each=True,
    )


def as_printed(p: float, q: float) -> float:
    """The power of the second sum in E (14)."""
    return q / p - 1


def no_power(p: float, q: float) -> float:
    return 0.0


@claim("E-eq14", control={"power": no_power})
def derivative_along_the_orbit(case, power=as_printed):
    """The derivative of F in the factors, written out as printed, against automatic differentiation.  E (14)"""

    def printed(a, s):
        M = (s.W * (a[:, None] / a)).abs() ** s.p
        rows = torch.where(M.sum(1) > 0, M.sum(1), 1.0)
        return ((M.sum(1) ** (s.q / s.p) - (rows ** power(s.p, s.q) * M.T).sum(1)) / a)[s.hidden]

    return equal(
        measured=lambda: [grad(F)(a, s)[s.hidden] for a, s in random_factors(case)[1::2]],
        predicted=lambda: [printed(a, s) for a, s in random_factors(case)[1::2]],
        bound=1e-12,
        reason=ROUNDING,
    )


def outgoing_written_out(problem: Problem) -> Tensor:
    """The right side of E (15) at the hidden units."""
    W, hidden, p, q = problem
    M = W.abs() ** p
    rows = torch.where(M.sum(1) > 0, M.sum(1), 1.0)
    return (rows ** (q / p - 1) @ M)[hidden]


@claim("E-eq15", control={"network": untouched})
def balance_at_fixed_points(case, network=at_rest):
    """At a fixed point what enters a unit balances what leaves it, and the derivative of F vanishes.  E (15)"""
    enters = lambda s: ((s.W.abs() ** s.p).sum(1) ** (s.q / s.p))[s.hidden]
    stop = "factors stop at 1e-14, balance is 4 max(p, q) times coarser"
    return together(
        units=equal(
            measured=lambda: [enters(s) for s in network(case)],
            predicted=lambda: [outgoing_written_out(s) for s in network(case)],
            bound=1e-11,
            reason=stop,
            each=True,
        ),
        derivative=equal(
            measured=lambda: [grad(F)(torch.ones_like(s.W[0]), s)[s.hidden] for s in network(case)],
            predicted=lambda: [0.0 for _ in network(case)],
            scale=lambda: [enters(s) for s in network(case)],
            bound=1e-11,
            reason=stop,
        ),
    )


@claim("O-layer-totals", control={"network": layers_untouched})
def layers_share_the_norm_equally(case, network=layers_at_rest):
    """In a balanced layered network all layers have the same share of the norm's q-th power."""
    units = lambda s: (s.W.abs() ** s.p).sum(1) ** (s.q / s.p)
    return equal(
        measured=lambda: [torch.stack([x.sum() for x in units(s)[5:].split([7, 6, 4, 3])]) for s in network(case)],
        predicted=lambda: [entrywise_norm(s.W, p=s.p, q=s.q) ** s.q / 4 for s in network(case)],
        bound=1e-11,
        reason="factors stop at 1e-14, balance is 4 max(p, q) times coarser",
    )


# Claims: why the norm decreases


@claim("E-lem2.4", control={"exponent": twice_the_safe_exponent})
def norm_decreases(case, exponent=paper_exponent):
    """One update never raises the norm, and lowers it by an amount that vanishes at balance only.  E Lemma 2.4

    The amount is what the paper's auxiliary function loses: a sum of (sqrt(in) - sqrt(out))^2 / 2r over hidden units.
    """
    return at_most(
        left=lambda: [promises(walk.before, max) for walk in walks(case, exponent)],
        right=lambda: [walk.fall for walk in walks(case, exponent)],
        scale=lambda: [walk.F for walk in walks(case, exponent)],
        bound=1e-13,
        reason="rounding of two sums, relative to F",
    )


@claim("O-promised-decrease", control=[{"order": max}, {"exponent": twice_the_safe_exponent}])
def promised_decrease_is_sharp(case, order=least_order, exponent=paper_exponent):
    """The decrease that r = max(q, p/2) promises is kept by every update; long chains fall by no more if p <= 2q.

    For p > 2q they fall, close to balance, by (4 - 2q/p) / 3 times as much: no promise can be larger by more than that.
    """
    return together(
        promised=at_most(
            left=lambda: [promises(walk.before, order) for walk in walks(case, exponent)],
            right=lambda: [walk.fall for walk in walks(case, exponent)],
            scale=lambda: [walk.F for walk in walks(case, exponent)],
            bound=1e-13,
            reason="rounding of two sums, relative to F",
        ),
        sharp=limit(
            measured=lambda reach: kept(int(700 * reach), order),
            predicted=lambda: [1.0 if p <= 2 * q else 3 / (4 - 2 * q / p) for p, q in SHARP + BEYOND],
            bound=3e-3,
            reason="the two end edges of 700",
        ),
    )


def majoriser(a: Tensor, problem: Problem, order: Exponent = max, constant: bool = True) -> Tensor:
    """E (19) written out; with another r, or without its constant, it is another world."""
    W, _, p, q = problem
    M = W.abs() ** p
    rows, r = M.sum(1), order(p, q)
    shares = (rows ** (q / p) / torch.where(rows > 0, rows, 1.0))[:, None] * M  # rho_i pi_ij
    total = (shares * (a[:, None] ** (2 * r) + a ** (-2 * r))).sum() / (2 * r)
    return total + constant * max(0.0, 1 - q / r) * shares.sum() / q  # r = p where that is not 0


@claim("E-eq18", control={"order": quarter_of_the_order})
def majoriser_forces_the_descent(case, order=max):
    """At the update F is at most G, which is lower there than at one by a sum of squares, where it is F.  E (18)"""
    steps = lambda: updates(case, order)
    one = lambda s: torch.ones_like(s.W[0])
    squares = lambda x, y: (x.sqrt() - y.sqrt()).square().sum()
    return together(
        below=at_most(
            left=lambda: [F(a, s) for a, s in steps()],
            right=lambda: [majoriser(a, s, order) for a, s in steps()],
            bound=1e-13,
            reason=ROUNDING,
        ),
        lower=equal(
            measured=lambda: [majoriser(one(s), s, order) - majoriser(a, s, order) for a, s in steps()],
            predicted=lambda: [squares(*sides(s)) / (2 * order(s.p, s.q)) for _, s in steps()],
            bound=1e-11,
            reason="rounding of two sums whose difference may be a thousandth of them",
        ),
        touches=equal(
            measured=lambda: [majoriser(one(s), s, order) for _, s in steps()],
            predicted=lambda: [F(one(s), s) for _, s in steps()],
            bound=1e-13,
            reason=ROUNDING,
        ),
    )


@claim("E-eq19-i", control={"order": min})
def majoriser_lies_above(case, order=max):
    """F is at most G at all factors.  E (19), property (i)"""
    return at_most(
        left=lambda: [F(a, s) for a, s in random_factors(case)],
        right=lambda: [majoriser(a, s, order) for a, s in random_factors(case)],
        bound=1e-13,
        reason=ROUNDING,
    )


@claim("E-eq19-ii", control={"constant": False})
def majoriser_touches(case, constant=True):
    """F and G agree at one, for p up to q and for p above.  E (19), property (ii)"""
    one = lambda s: torch.ones_like(s.W[0])
    return equal(
        measured=lambda: [majoriser(one(s), s, constant=constant) for s in problems(case)],
        predicted=lambda: [F(one(s), s) for s in problems(case)],
        bound=1e-13,
        reason=ROUNDING,
    )


def newton_on_majoriser(problem: Problem) -> Tensor:
    """Factors at the minimum of G by Newton steps in their logarithms: G is a sum over units, so one number each."""
    hidden = problem.hidden
    slope = grad(lambda z: majoriser(scatter(z, hidden).exp(), problem))
    bend, z = grad(lambda z: slope(z).sum()), problem.W.new_zeros(int(hidden.sum()))
    for _ in range(30):
        z = z - (slope(z) / bend(z)).clamp(-1, 1)
    return scatter(z, hidden).exp()


@claim("E-eq19-iii", control=[{"order": min}, {"power": -1}])
def update_minimises_the_majoriser(case, order=max, power=1):
    """G is strongly convex in the powers a^r, and the update is its minimiser.  E (19), property (iii)"""

    def curvatures(a, s):
        root = lambda u: scatter(u.log(), s.hidden).exp() ** (power / max(s.p, s.q))
        return torch.linalg.eigvalsh(hessian(lambda u: majoriser(root(u), s))(a[s.hidden] ** (power * max(s.p, s.q))))

    return together(
        minimiser=equal(
            measured=lambda: [newton_on_majoriser(s) for s in problems(case)[::6]],
            predicted=lambda: [a for a, _ in updates(case, order)[::6]],
            bound=1e-12,
            reason="Newton's method, to rounding",
            each=True,
        ),
        convex=at_most(
            left=lambda: [sides(s)[0].min() / max(s.p, s.q) for _, s in random_factors(case)[2::9]],
            right=lambda: [curvatures(a, s).min() for a, s in random_factors(case)[2::9]],
            bound=1e-9,
            reason="rounding of second derivatives",
        ),
    )


@claim("O-lower-majoriser", control=[{"order": half_the_least_order}, {"order": twice_the_order}])
def smaller_order_majorises(case, order=least_order):
    """With r = max(q, p/2) the auxiliary function still lies above F, and below the paper's."""
    return together(
        above=at_most(
            left=lambda: [F(a, s) for a, s in random_factors(case)],
            right=lambda: [majoriser(a, s, order) for a, s in random_factors(case)],
            bound=1e-13,
            reason=ROUNDING,
        ),
        below=at_most(
            left=lambda: [majoriser(a, s, order) for a, s in random_factors(case)],
            right=lambda: [G(a, s) for a, s in random_factors(case)],
            bound=1e-13,
            reason=ROUNDING,
        ),
    )


def means_of_squares(row: Rows, r: float, share: float) -> Tensor:
    """What stands for (a_i / a_j)^r after xy <= (x^2 + y^2) / 2, averaged over each row."""
    return 2 * (row.pi * (share * row.a[3:, None] ** (2 * r) + (1 - share) * row.a ** (-2 * r))).sum(1) / 2


@claim("E-eq22", control=[{"exponents": ABOVE[2:]}, {"share": 0.2}])
def jensen_then_squares(case, exponents=BELOW, share=0.5):
    """For p up to q: Jensen's inequality in every row, then xy <= (x^2 + y^2) / 2, lead from F to G.  E (20) to (24)"""
    data = lambda: rows(case, exponents)
    mean = lambda row, r: (row.pi * row.ratios**r).sum(1)
    total = lambda row, terms: (row.rho * terms).sum() / row.q
    return together(
        first=equal(
            measured=lambda: [F(row.a, row.problem) for row in data()],
            predicted=lambda: [total(row, mean(row, row.p) ** (row.q / row.p)) for row in data()],
            bound=1e-13,
            reason=ROUNDING,
        ),
        jensen=at_most(
            left=lambda: [mean(row, row.p) ** (row.q / row.p) for row in data()],
            right=lambda: [mean(row, row.q) for row in data()],
            bound=1e-13,
            reason=ROUNDING,
        ),
        squares=at_most(
            left=lambda: [mean(row, row.q) for row in data()],
            right=lambda: [means_of_squares(row, row.q, share) for row in data()],
            bound=1e-13,
            reason=ROUNDING,
        ),
        last=equal(
            measured=lambda: [G(row.a, row.problem) for row in data()],
            predicted=lambda: [total(row, means_of_squares(row, row.q, share)) for row in data()],
            bound=1e-13,
            reason=ROUNDING,
        ),
    )


@claim("E-eq26", control=[{"exponents": BELOW[2:]}, {"share": 0.2}])
def tangent_then_squares(case, exponents=ABOVE, share=0.5):
    """For p from q on: the tangent at one, then xy <= (x^2 + y^2) / 2, lead from F to G.  E (25) to (29)"""
    data = lambda: rows(case, exponents)
    mean = lambda row: (row.pi * row.ratios**row.p).sum(1)
    line = lambda row, y: 1 + row.q / row.p * (y - 1)
    total = lambda row, terms: (row.rho * terms).sum() / row.q
    return together(
        first=equal(
            measured=lambda: [F(row.a, row.problem) for row in data()],
            predicted=lambda: [total(row, mean(row) ** (row.q / row.p)) for row in data()],
            bound=1e-13,
            reason=ROUNDING,
        ),
        tangent=at_most(
            left=lambda: [mean(row) ** (row.q / row.p) for row in data()],
            right=lambda: [line(row, mean(row)) for row in data()],
            bound=1e-13,
            reason=ROUNDING,
        ),
        squares=at_most(
            left=lambda: [line(row, mean(row)) for row in data()],
            right=lambda: [line(row, means_of_squares(row, row.p, share)) for row in data()],
            scale=lambda: [1 + mean(row) for row in data()],
            bound=1e-13,
            reason=ROUNDING,
        ),
        last=equal(
            measured=lambda: [G(row.a, row.problem) for row in data()],
            predicted=lambda: [total(row, line(row, means_of_squares(row, row.p, share))) for row in data()],
            bound=1e-13,
            reason=ROUNDING,
        ),
    )


# Claims: nothing escapes


@claim("E-eq30", control={"reach": 1.2})
def edges_stay_below_the_norm(case, reach=1.0):
    """Where F is no larger than at one, no rescaled weight exceeds the norm.  E (30)"""
    full = lambda z, s: z.new_zeros(len(z), len(s.W)).index_copy(1, s.hidden.nonzero()[:, 0], reach * z)
    return at_most(
        left=lambda: [rescaled_by(full(z, s), s.W).abs().amax(0) for s, z in sublevel_points(case)],
        right=lambda: [entrywise_norm(s.W, p=s.p, q=s.q) for s, _ in sublevel_points(case)],
        bound=1e-12,
        reason="rounding of 60 bisections",
    )


@claim("E-lem2.5", control=[{"network": nothing_leaves_the_last}, {"network": nothing_enters_the_first}])
def factors_stay_within_path_bounds(case, network=alive):
    """Where F is no larger than at one, each factor is bounded along paths on either side.  E Lemma 2.5, (31), (32)

    The best path is taken; the bound of any other is larger. Controls: without the edges that the bounds go along.
    """
    found = lambda: sublevel_points(case, network)
    length = lambda s: (norm_written_out(s.W, s.p, s.q) / s.W.abs()).log()
    bounds = lambda side: [shortest(length(s), s.hidden)[side].exp() for s, _ in sublevel_points(case, alive)]
    every = lambda side: [bound.expand(len(z), -1) for bound, (_, z) in zip(bounds(side), found(), strict=True)]
    return together(
        above=at_most(
            left=lambda: [z.exp() for _, z in found()],
            right=lambda: every(0),
            bound=1e-12,
            reason="rounding of 60 bisections",
        ),
        below=at_most(
            left=lambda: [(-z).exp() for _, z in found()],
            right=lambda: every(1),
            bound=1e-12,
            reason="rounding of 60 bisections",
        ),
    )


def into_the_next(W: Tensor, i: int, j: int) -> Tensor:
    return W[j, i]


def in_printed_order(W: Tensor, i: int, j: int) -> Tensor:
    return W[i, j]


@claim("E-lem2.5-index", printed={"weight": in_printed_order})
def path_of_nonzero_weights(case, weight=into_the_next):
    """The weights of the path, from each unit into the next, are the nonzero ones it follows.  E, proof of Lemma 2.5"""
    return equal(
        measured=lambda: [
            torch.stack([weight(W, i, j).abs() for i, j in pairwise(path)]) for W, path, _ in paths(case)
        ],
        predicted=lambda: [along for _, _, along in paths(case)],
        bound=1e-15,
        reason="the same numbers",
        each=True,
    )


@claim("O-half-lipschitz", control={"exponent": twice_the_safe_exponent})
def update_halves_relative_changes(case, exponent=paper_exponent):
    """If no weight changes by more than a factor e^eps, no factor of the update changes by more than e^(eps/2)."""
    sizes = (1e-3, 0.1, 1.0)
    return at_most(
        left=lambda: [(a / b).log().abs() for size in sizes for a, b in shaken(case, exponent, size)],
        right=lambda: [size / 2 for size in sizes for _ in problems(case)],
        bound=1e-11,
        reason="rounding of logarithms, relative to changes of 1e-3",
    )


@claim("E-meyer", control=[{"exponent": twice_the_safe_exponent}])
def iterates_come_to_rest(case, exponent=paper_exponent):
    """The update is continuous, and its iterates converge to the one network of least norm.  E, proof of Theorem 2.1"""
    return together(
        continuous=at_most(
            left=lambda: [(a / b).log().abs().max() for a, b in shaken(case, exponent, 1e-6)],
            right=lambda: [5e-7 for _ in problems(case)],
            bound=1e-8,
            reason="rounding of logarithms, relative to changes of 1e-6",
        ),
        rest=equal(
            measured=lambda: [s.W for s in ends(problems(case), exponent)],
            predicted=lambda: [s.W for s in of_least_norm(case)],
            bound=1e-11,
            reason=STOP,
        ),
    )

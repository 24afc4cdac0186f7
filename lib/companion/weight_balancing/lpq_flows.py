"""What decides the claims of section 3.3 of paper E, flows for entrywise norms, and the steps that keep the balance."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, hessian, jvp

from claimbook.evidence import Case, at_most, claim, equal, limit, shared, together
from companion.weight_balancing.common import (
    Learner,
    Problem,
    layered_learners,
    learners,
    linear,
    problems,
    written_out,
)
from companion.weight_balancing.lpq_rules import (
    FIRST_ORDER,
    NORMS,
    STRENGTH,
    away_from_zero,
    flow_of,
    order,
    regression,
)
from normdyn.motion.flows import Params, gradient, integrate
from normdyn.rescaling.descent import correspondence, magnitudes
from normdyn.rescaling.flows import log_hessian, minimum_norm_flow
from normdyn.rescaling.group import per_unit_regularizer, regularizer, stochastic_matrix

Penalty = Callable[[Tensor, float, float], Tensor]


def without_its_factor(W: Tensor, p: float, q: float) -> Tensor:
    """E (51) without the 1/q in front: another regulariser."""
    return q * written_out(W, p, q)


def logarithmic(W: Tensor, p: float, q: float) -> Tensor:
    """A regulariser whose V is 1 on every edge, whatever the weights: it determines nothing."""
    return W[W != 0].abs().log().sum()


def products(W: Tensor, p: float, q: float, penalty: Penalty = written_out) -> Tensor:
    """V of Lemma 3.6 by automatic differentiation: W times the derivative of E (51)."""
    return W * grad(penalty)(W, p, q)


@shared
def nets(case: Case) -> list[Problem]:
    """Graphs with skip connections, each with every pair of exponents."""
    return problems(case, "lpq", NORMS, 3)


@shared
def random_matrices(case: Case, role: str) -> list[Tensor]:
    """A Gaussian matrix for each network, zero where it has no edge."""
    draw = case.generator(role)
    return [torch.randn(s.W.shape, generator=draw, dtype=s.W.dtype) * (s.W != 0) for s in nets(case)]


# Claims: the correspondence of V and W


@claim("E-eq54", control={"penalty": without_its_factor})
def products_are_shares(case, penalty=written_out):
    """W dR/dW is the unit's part of the norm times the input's share in the unit.  E (54)"""
    measured = lambda: [products(s.W, s.p, s.q, penalty) for s in nets(case)]
    shares = lambda s: stochastic_matrix(s.W, p=s.p) * per_unit_regularizer(s.W, p=s.p, q=s.q)[:, None]
    return together(
        printed=equal(measured, lambda: [shares(s) for s in nets(case)], 1e-13, "rounding of row sums"),
        in_one=equal(
            measured, lambda: [correspondence(s.W, p=s.p, q=s.q) for s in nets(case)], 1e-13, "rounding of row sums"
        ),
    )


@claim("E-lem3.6", control=[{"penalty": without_its_factor}, {"penalty": logarithmic}])
def products_determine_weights(case, penalty=written_out):
    """V gives rho, pi and the magnitudes of W; signs leave no trace in it; every positive V comes from an orthant."""
    V = lambda: [products(s.W, s.p, s.q, penalty) for s in nets(case)]
    flips = lambda: [x.sign() for x in random_matrices(case, "signs")]
    targets = lambda: [x.exp() * (x != 0) for x in random_matrices(case, "targets")]
    some, why = slice(3, None), "rounding of sums and powers"  # inputs have no weights
    every = lambda s, t, sign: products(sign * magnitudes(t, p=s.p, q=s.q), s.p, s.q, penalty)
    return together(
        rho=equal(
            lambda: [v.sum(1) for v in V()], lambda: [per_unit_regularizer(s.W, p=s.p, q=s.q) for s in nets(case)],
            1e-12, why,
        ),
        pi=equal(
            lambda: [(v / v.sum(1, keepdim=True))[some] for v in V()],
            lambda: [stochastic_matrix(s.W, p=s.p)[some] for s in nets(case)], 1e-12, why,
        ),
        weights=equal(
            lambda: [magnitudes(v, p=s.p, q=s.q) for v, s in zip(V(), nets(case), strict=True)],
            lambda: [s.W.abs() for s in nets(case)], 1e-12, why, each=True,
        ),
        signs=equal(
            lambda: [products(s.W * x, s.p, s.q, penalty) for s, x in zip(nets(case), flips(), strict=True)],
            lambda: [correspondence(s.W.abs(), p=s.p, q=s.q) for s in nets(case)], 1e-12, why,
        ),
        onto=equal(
            lambda: [every(*x) for x in zip(nets(case), targets(), flips(), strict=True)], targets, 1e-12, why,
        ),
    )  # fmt: skip


# Claims: two familiar rules


@shared
def slopes(case: Case, p: float, q: float) -> list[tuple[Tensor, Tensor]]:
    """Weights of ReLU networks and the gradient of the regularised loss in them."""
    found = []
    for params, _, error in learners(case, "points", torch.relu):
        W = params["W"]
        penalty = torch.where(W != 0, correspondence(W, p=p, q=q) / W, 0.0)
        found.append((W, gradient(error)(params)["W"] + STRENGTH * penalty))
    return found


@claim("E-eq52", control={"q": 1})
def squares_give_gradient_descent(case, p=2, q=2):
    """For p = q = 2 the flow is gradient flow at half speed; gradient descent follows it to first order.  E (52)"""
    moved = lambda W, g: jvp(lambda x: products(x, p, q), (W,), (-g / 2,))[1]
    return together(
        flow=equal(
            measured=lambda: [moved(W, g) for W, g in slopes(case, p, q)],
            predicted=lambda: [-W * g for W, g in slopes(case, p, q)],
            bound=1e-13, reason="rounding; ReLU networks with penalty",
        ),
        descent=limit(
            measured=lambda reach: order(case, "descent", p, q, int(8 * reach)),
            predicted=lambda: 1.0, bound=5e-3, reason=FIRST_ORDER,
        ),
    )  # fmt: skip


@claim("E-eq53", control={"q": 2})
def magnitudes_give_exponentiated_gradients(case, p=1, q=1):
    """For p = q = 1 the flow is |W| times gradient flow; exponentiated gradients follow it to first order.  E (53)"""
    moved = lambda W, g: jvp(lambda x: products(x, p, q), (W,), (-W.abs() * g,))[1]
    return together(
        flow=equal(
            measured=lambda: [moved(W, g) for W, g in slopes(case, p, q)],
            predicted=lambda: [-W * g for W, g in slopes(case, p, q)],
            bound=1e-13, reason="rounding; ReLU networks with penalty",
        ),
        exponentiated=limit(
            measured=lambda reach: order(case, "exponentiated", p, q, int(8 * reach)),
            predicted=lambda: 1.0, bound=5e-3, reason=FIRST_ORDER,
        ),
    )  # fmt: skip


# Claims: the Hessian of the regulariser, and descent


@claim("E-eq63", control={"penalty": without_its_factor})
def products_move_by_unit(case, penalty=written_out):
    """The rate of V along any motion of log |W|, by repeated differentiation.  E (60) to (63)"""
    moves = lambda: zip(nets(case), random_matrices(case, "motions"), strict=True)

    def predicted(s, x):
        pi, rho = stochastic_matrix(s.W, p=s.p), per_unit_regularizer(s.W, p=s.p, q=s.q)
        return pi * rho[:, None] * (s.p * x + (s.q - s.p) * (pi * x).sum(1, keepdim=True))

    rate = lambda s, x: jvp(lambda W: products(W, s.p, s.q, penalty), (s.W,), (s.W * x,))[1]
    return equal(
        measured=lambda: [rate(s, x) for s, x in moves()],
        predicted=lambda: [predicted(s, x) for s, x in moves()],
        bound=1e-12, reason="rounding of second derivatives",
    )  # fmt: skip


def on_the_edges(s, draw: Tensor) -> Tensor:
    """Two random matrices on the edges of the network, and one entry alone where V is smallest."""
    V = correspondence(s.W, p=s.p, q=s.q)
    alone = torch.zeros_like(s.W).flatten()
    alone[V.where(V > 0, torch.inf).argmin()] = 1.0
    return torch.stack([draw[0] * (s.W != 0), draw[1] * (s.W != 0), alone.view_as(s.W)])


def off_the_edges(s, draw: Tensor) -> Tensor:
    """Matrices of the size of W that live where the network has no edge."""
    return torch.stack([draw[0] * (s.W == 0), draw[1] * (s.W == 0), torch.eye(len(s.W), dtype=s.W.dtype)])


@shared
def directions(case: Case, support: Callable) -> list[Tensor]:
    draw = case.generator("directions")
    return [support(s, torch.randn(2, *s.W.shape, generator=draw, dtype=s.W.dtype)) for s in nets(case)]


def bend_along(s, U: Tensor, penalty: Penalty) -> Tensor:
    """Second derivative of R as log |W| moves along each U."""
    at = lambda t, u: penalty(s.W * (t * u).exp(), s.p, s.q)
    return torch.stack([grad(grad(at))(torch.zeros((), dtype=U.dtype), u) for u in U])


def expanded(s, U: Tensor) -> Tensor:
    """E (64)."""
    pi, rho = stochastic_matrix(s.W, p=s.p), per_unit_regularizer(s.W, p=s.p, q=s.q)
    return s.p * (rho * (pi * U**2).sum(2)).sum(1) + (s.q - s.p) * (rho * (pi * U).sum(2) ** 2).sum(1)


def squares(s, U: Tensor) -> Tensor:
    """E (65)."""
    pi, rho = stochastic_matrix(s.W, p=s.p), per_unit_regularizer(s.W, p=s.p, q=s.q)
    mean = (pi * U).sum(2, keepdim=True)
    return s.p * (rho * (pi * (U - mean) ** 2).sum(2)).sum(1) + s.q * (rho * mean[..., 0] ** 2).sum(1)


def least_bend(s, U: Tensor) -> Tensor:
    """Ours: the smallest eigenvalue is at least min(p, q) times the smallest V."""
    V = correspondence(s.W, p=s.p, q=s.q)
    return min(s.p, s.q) * V[V > 0].min() * U.square().sum((1, 2))


@claim("E-eq65", control=[{"penalty": without_its_factor}, {"support": off_the_edges}])
def hessian_is_positive(case, support=on_the_edges, penalty=written_out):
    """The quadratic form of R in log |W| is a sum of squares, and positive for every u on the edges.  E (64) to (66)"""
    pairs = lambda: list(zip(nets(case), directions(case, support), strict=True))
    form = lambda: [bend_along(*pair, penalty) for pair in pairs()]
    why = "rounding of second derivatives"
    return together(
        expanded=equal(form, lambda: [expanded(*pair) for pair in pairs()], 1e-12, why),
        squares=equal(form, lambda: [squares(*pair) for pair in pairs()], 1e-12, why),
        positive=at_most(
            lambda: [least_bend(*pair) for pair in pairs()], form, 1e-12, why,
            scale=lambda: [least_bend(*pair) for pair in pairs()],
        ),
    )  # fmt: skip


@claim("O-lpq-spectrum", control={"penalty": without_its_factor})
def two_speeds(case, penalty=written_out):
    """In the metric of V the Hessian has the eigenvalue q once for each unit, and p for all other edges."""

    def spectrum(s):
        V = correspondence(s.W, p=s.p, q=s.q)[s.W != 0]
        H = log_hessian(lambda W: penalty(W, s.p, s.q), s.W)
        return torch.linalg.eigvalsh(H / V.sqrt() / V.sqrt()[:, None])

    def expected(s):
        units, edges = int(s.W.any(1).sum()), int((s.W != 0).sum())
        return torch.tensor([s.p] * (edges - units) + [s.q] * units, dtype=s.W.dtype).sort().values

    return equal(
        measured=lambda: [spectrum(s) for s in nets(case)], predicted=lambda: [expected(s) for s in nets(case)],
        bound=1e-11, reason="rounding of eigenvalues of matrices of 40 rows",
    )  # fmt: skip


class Point(NamedTuple):
    """A network of ReLUs in some orthant, with its edges."""

    one: Learner
    edges: Tensor
    p: float
    q: float


def inside(W: Tensor) -> Tensor:
    return W


def on_the_boundary(W: Tensor) -> Tensor:
    """One weight is exactly zero."""
    first = (W != 0).flatten().nonzero()[0]
    return W.flatten().index_fill(0, first, 0.0).view_as(W)


@shared
def points(case: Case, place: Callable) -> list[Point]:
    """Graphs in random orthants; a small network in each of its 64 orthants; weights that are all one in size."""
    draw, found = case.generator("orthants"), []
    add = lambda one, W, p, q: found.append(
        Point(one._replace(params=one.params | {"W": place(W)}), one.params["W"] != 0, p, q)
    )
    graphs = learners(case, "points", torch.relu)
    for k, (p, q) in enumerate(NORMS):
        W = graphs[k % 5].params["W"]
        add(graphs[k % 5], W * torch.randn(W.shape, generator=draw, dtype=W.dtype).sign(), p, q)
    for p in (1, 2):
        add(graphs[p], graphs[p].params["W"].sign(), p, p)
    small = layered_learners(case, "small", torch.relu, (2, 2, 1), count=1)[0]
    i, j = (small.params["W"] != 0).nonzero(as_tuple=True)
    for k in range(64):
        signs = torch.tensor([1.0 if k >> bit & 1 else -1.0 for bit in range(6)], dtype=torch.float64)
        W = small.params["W"].index_put((i, j), small.params["W"][i, j].abs() * signs)
        add(small, W, *NORMS[k % len(NORMS)])
    return found


def loss_rate(point: Point, speed: float) -> Tensor:
    """Rate of the regularised loss along the flow of the library, in forward mode."""
    (params, hidden, error), _, p, q = point
    W_dot = speed * minimum_norm_flow(error, hidden, p=p, q=q, strength=STRENGTH)(params)["W"]
    loss = lambda W: error(params | {"W": W}) + STRENGTH * regularizer(W, p=p, q=q)
    return jvp(loss, (params["W"],), (W_dot,))[1]


def in_logs(point: Point) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the loss, V, and the Hessian of E (51), in log |W| on all edges."""
    (params, _, error), edges, p, q = point
    W, place = params["W"], edges.nonzero(as_tuple=True)
    along = lambda omega: written_out(W.index_put(place, W[place] * omega.exp()), p, q)
    zero = W.new_zeros(len(place[0]))
    V = grad(along)(zero)
    return (W * grad(error)(params)["W"])[place] + STRENGTH * V, V, hessian(along)(zero)


def steepest(point: Point) -> Tensor:
    """E (49): the gradient's square in the inverse Hessian of the regulariser."""
    g, V, H = in_logs(point)
    some = V > 0
    return g[some] @ torch.linalg.solve(H[some][:, some], g[some])


@claim("E-cor3.8", control=[{"place": on_the_boundary}, {"speed": 0.5}])
def flow_descends_in_every_orthant(case, place=inside, speed=1.0):
    """In every open orthant the flow lowers the regularised loss, wherever its gradient does not vanish.  E Cor. 3.8

    The Hessian of R in log |W| is positive definite: its smallest eigenvalue is at least min(p, q) times the smallest
    V. The rate is that of E (49), and at least the squared gradient over max(p, q) times the largest V.
    """
    some = lambda: points(case, place)

    def slowest(point):
        g, V, _ = in_logs(point)
        return g.square().sum() / (max(point.p, point.q) * V.max())

    def smallest(point):
        V = correspondence(point.one.params["W"], p=point.p, q=point.q)
        return min(point.p, point.q) * V[V > 0].min()

    return together(
        rate=equal(lambda: [-loss_rate(x, speed) for x in some()], lambda: [steepest(x) for x in some()], 1e-9,
                   "rounding, solving with graded Hessians"),
        descent=at_most(lambda: [slowest(x) for x in some()], lambda: [-loss_rate(x, speed) for x in some()], 1e-9,
                        "rounding"),
        definite=at_most(lambda: [smallest(x) for x in some()],
                         lambda: [torch.linalg.eigvalsh(in_logs(x)[2])[0] for x in some()], 1e-9,
                         "rounding of the smallest eigenvalue, far below the largest",
                         scale=lambda: [smallest(x) for x in some()]),
    )  # fmt: skip


# Claims: a linear equation with data


class Task(NamedTuple):
    """A start with what moves it, until when, and how exactly to follow."""

    one: Learner
    p: float
    q: float
    strength: float
    times: Tensor
    tolerances: dict[str, float]


def in_its_orthant(case: Case) -> list[Task]:
    """Linear and tanh networks in turn, each with a pair of exponents, until the fastest product V may have halved.

    At the speed of the start, that is: the orthant ends where a V comes to zero, and V is what moves evenly.
    """
    units = [learners(case, "orthant", g, count=len(NORMS)) for g in (linear, torch.tanh)]
    found = []
    for k, (p, q) in enumerate(NORMS):
        one = away_from_zero(units[k % 2][k])
        W, V = one.params["W"], correspondence(one.params["W"], p=p, q=q)
        speed = STRENGTH * V + W * gradient(one.error)(one.params)["W"]
        times = torch.tensor([0, 0.5, 1]).double() / (2 * (speed / V)[V > 0].abs().max())
        found.append(Task(one, p, q, STRENGTH, times, {"relative": 1e-11, "absolute": 1e-20}))
    return found


def across_its_boundary(case: Case) -> list[Task]:
    """Regressions whose first weight has to change its sign, p = q = 2, where the flow in W passes zero."""
    times, loose = torch.linspace(0, 8, 3).double(), {"relative": 1e-5, "absolute": 1e-6}
    return [Task(regression(case, k), 2, 2, 0.0, times, loose) for k in range(3)]


@shared
def in_weights(case: Case, world: Callable) -> list[Tensor]:
    """The weights over time by integration of the flow E (40)."""
    return [integrate(flow_of(*s[:4]), s.one.params, s.times, **s.tolerances)["W"] for s in world(case)]


@shared
def in_products(case: Case, world: Callable) -> list[Tensor]:
    """The same by integration of E (58), the signs those of the start."""
    found = []
    for (params, hidden, error), p, q, strength, times, tolerances in world(case):
        signs = params["W"].sign()
        weights = lambda V, signs=signs, p=p, q=q: signs * magnitudes(V.clamp_min(0.0), p=p, q=q)

        def linear_form(state: Params, weights=weights, error=error, hidden=hidden, strength=strength) -> Params:
            W = weights(state["V"])
            g = gradient(error)({"W": W, "b": state["b"]})
            return {"V": -strength * state["V"] - W * g["W"], "b": -torch.where(hidden, 0.0, g["b"])}

        start = {"V": correspondence(params["W"], p=p, q=q), "b": params["b"]}
        record = {"W": lambda state, weights=weights: weights(state["V"])}
        found.append(integrate(linear_form, start, times, record=record, **tolerances)["W"])
    return found


@shared
def starts(case: Case, world: Callable) -> list[tuple]:
    """Of every task the weights, their velocity in the library's flow, the error's gradient, p, q and lambda."""
    found = []
    for one, p, q, strength, *_ in world(case):
        W, W_dot = one.params["W"], flow_of(one, p, q, strength)(one.params)["W"]
        found.append((W, W_dot, gradient(one.error)(one.params)["W"], p, q, strength))
    return found


@claim("E-cor3.7", control={"world": across_its_boundary})
def flow_is_linear_in_products(case, world=in_its_orthant):
    """In an open orthant the flow of W and the linear equation for V go the same way.  E Corollary 3.7

    Both are integrated; and the velocity of W is held against E (40), with V by automatic differentiation.
    """
    moved = lambda W, W_dot, p, q: jvp(lambda x: products(x, p, q), (W,), (W_dot,))[1]
    return together(
        paths=equal(
            measured=lambda: in_weights(case, world), predicted=lambda: in_products(case, world),
            bound=1e-8, reason="two adaptive integrations with tolerance 1e-11 a step",
        ),
        velocity=equal(
            measured=lambda: [moved(W, W_dot, p, q) for W, W_dot, _, p, q, _ in starts(case, world)],
            predicted=lambda: [
                -c * correspondence(W, p=p, q=q) - W * g for W, _, g, p, q, c in starts(case, world)
            ],
            bound=1e-12, reason="rounding of second derivatives",
        ),
    )  # fmt: skip

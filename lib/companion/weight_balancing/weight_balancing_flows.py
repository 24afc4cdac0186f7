"""What decides the claims of section 3.2 of paper E, and of 1.2: flows that keep the balance of any penalty."""

import math
from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor
from torch.func import grad, hessian, jvp

from claimbook.evidence import Case, claim, equal, shared, tendency, together
from companion.weight_balancing.common import (
    Learner,
    Problem,
    layered_learners,
    learners,
    linear,
    rescaled,
    until_at_rest,
    update,
)
from companion.weight_balancing.kinked_flows import slid
from companion.weight_balancing.penalties import (
    ALL,
    CONDITION,
    NORMS,
    ROUNDING,
    TOLERANCE,
    Penalty,
    columns,
    cosh,
    flow_of,
    itself,
    least,
    loss_of,
    norm,
    paths,
    quartic,
    squares_and_logarithms,
    swapped,
)
from normdyn.motion.flows import integrate
from normdyn.networks.graphs import feedforward, layered_matrix, layered_weights, random_dag
from normdyn.rescaling.group import incoming_outgoing, rescale, rescaling_derivative, scatter

# Stationarity: Lemma 3.2 and around it


@shared
def functions(case: Case, activation=torch.relu) -> list[tuple[Learner, Callable[[Tensor], Tensor]]]:
    """Errors, a norm and an arbitrary smooth function of the weights, each at a random network."""
    draw, found = case.generator("functions"), []
    for one in learners(case, "functions", activation):
        C = torch.randn(2, *one.params["W"].shape, generator=draw, dtype=torch.float64)
        error = lambda W, one=one: one.error(one.params | {"W": W})
        smooth = lambda W, C=C: (C[0] * W).sin().sum() + (C[1] * W).sum() ** 2
        found += [(one, K) for K in (error, smooth, norm(1.5, 4))]
    return found


@shared
def directions(case: Case) -> list[Tensor]:
    """For each function rates of log a at all hidden units at once, zero at the others."""
    draw = case.generator("directions")
    rates = lambda one: torch.randn(len(one.hidden), generator=draw, dtype=torch.float64) * one.hidden
    return [rates(one) for one, _ in functions(case)]


def through_rescaling(K: Callable, one: Learner, zeta: Tensor, h: float = 2e-3) -> Tensor:
    """Derivative of K along a rescaling, by differences of fourth order: no formula for a derivative."""
    at = lambda t: K(rescale(one.params["W"], one.params["b"], (t * zeta).exp())[0])
    return (8 * (at(h) - at(-h)) - at(2 * h) + at(-2 * h)) / (12 * h)


def side_sums(K: Callable, W: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of E (37), over what enters a unit and over what leaves it."""
    flow = W * grad(K)(W)
    return flow.sum(1)[hidden], flow.sum(0)[hidden]


def amount(K: Callable, one: Learner) -> Tensor:
    """The size of the two sums, in units of which their difference may be zero."""
    return sum(side.abs().sum() for side in side_sums(K, one.params["W"], one.hidden))


@claim("E-lem3.2", control={"sign": 1.0})
def stationary_where_sums_agree(case, sign=-1.0):
    """Along every rescaling a function changes by the difference of the two sums at each unit.  E Lemma 3.2

    So it is stationary if and only if the sums agree at every hidden unit.
    """

    def predicted(one, K, zeta):
        incoming, outgoing = side_sums(K, one.params["W"], one.hidden)
        return zeta[one.hidden] @ (incoming + sign * outgoing)

    pairs = lambda: zip(functions(case), directions(case), strict=True)
    return equal(
        measured=lambda: [through_rescaling(K, one, zeta) for (one, K), zeta in pairs()],
        predicted=lambda: [predicted(one, K, zeta) for (one, K), zeta in pairs()],
        scale=lambda: [amount(K, one) for (one, K), _ in pairs()],
        bound=1e-7, reason="differences of fourth order, step 0.002; errors, a norm, smooth functions",
    )  # fmt: skip


@claim("E-eq38", control={"sign": 1.0})
def first_variation(case, sign=-1.0):
    """A rescaling 1 + da moves a weight by W (da_i - da_j), a function by the sum of da_i times (37).  E (38), (39)"""

    def moved(K, one, zeta):
        first = lambda t: K(rescale(one.params["W"], one.params["b"], 1 + t * zeta)[0])
        return jvp(first, (zeta.new_zeros(()),), (zeta.new_ones(()),))[1]

    def in_weights(one, zeta):
        return one.params["W"] * (zeta[:, None] + sign * zeta)

    def in_function(K, one, zeta):
        incoming, outgoing = side_sums(K, one.params["W"], one.hidden)
        return (zeta[one.hidden] * (incoming + sign * outgoing)).sum()

    pairs = lambda: zip(functions(case), directions(case), strict=True)
    return together(
        weights=equal(lambda: [moved(lambda W: W, one, z) for (one, _), z in pairs()],
                      lambda: [in_weights(one, z) for (one, _), z in pairs()], 1e-13, "rounding of one product"),
        function=equal(lambda: [moved(K, one, z) for (one, K), z in pairs()],
                       lambda: [in_function(K, one, z) for (one, K), z in pairs()], 1e-11, ROUNDING,
                       scale=lambda: [amount(K, one) for (one, K), _ in pairs()]),
    )  # fmt: skip


@claim("E-def3.1", control={"sign": 1.0})
def balanced_means_stationary(case, sign=-1.0):
    """A norm is stationary under rescalings where the sides of E (15) agree.  E Definition 3.1

    So the definition means what section 2 means by balance; and that is where Algorithm 1 ends.
    """

    def sides(penalty, W, hidden):
        incoming, outgoing = incoming_outgoing(W, p=penalty.exponents[0], q=penalty.exponents[1])
        return (incoming + sign * outgoing)[hidden]

    def slope(penalty, W, hidden):
        turned = lambda z: penalty(W * (scatter(z, hidden)[:, None] - scatter(z, hidden)).exp())
        return grad(turned)(W.new_zeros(int(hidden.sum())))

    def rest(one, penalty):
        return until_at_rest(Problem(one.params["W"], one.hidden, *penalty.exponents)).W

    pairs = lambda: list(zip(learners(case, "points", torch.relu, count=len(ALL)), ALL, strict=True))
    size = lambda: [penalty(one.params["W"]) for one, penalty in pairs()]
    return together(
        anywhere=equal(
            measured=lambda: [slope(penalty, one.params["W"], one.hidden) for one, penalty in pairs()],
            predicted=lambda: [sides(penalty, one.params["W"], one.hidden) for one, penalty in pairs()],
            bound=1e-12, reason=ROUNDING,
        ),
        algorithm_1=equal(
            measured=lambda: [slope(penalty, rest(one, penalty), one.hidden) for one, penalty in pairs()],
            predicted=lambda: [torch.zeros(5)] * len(ALL),
            scale=size, bound=1e-11, reason="factors at rest to 1e-14",
        ),
    )  # fmt: skip


@shared
def rescalings(case: Case, activation: Callable) -> list[tuple[Learner, Tensor, dict]]:
    """Networks with hidden biases, factors from 1/100 to 100, and their rescaled twins."""
    found = []
    for one in learners(case, "twins", activation, hidden_bias=0.3):
        draw = torch.rand(5, generator=case.generator("factors"), dtype=torch.float64)
        a = 10 ** scatter(4 * draw - 2, one.hidden)
        found.append((one, a, dict(zip("Wb", rescale(one.params["W"], one.params["b"], a), strict=True))))
    return found


@claim("E-grad-scaling", control={"activation": torch.tanh})
def slopes_scale_inversely(case, activation=torch.relu):
    """A rescaling that multiplies a weight divides the derivative of the error in it by as much.  E section 3.2"""
    slope = lambda one, params: grad(one.error)(params)["W"]
    return equal(
        measured=lambda: [slope(one, twin) for one, _, twin in rescalings(case, activation)],
        predicted=lambda: [slope(one, one.params) / (a[:, None] / a) for one, a, _ in rescalings(case, activation)],
        bound=1e-12, reason="rounding; factors from 1/100 to 100",
    )  # fmt: skip


@claim("E-error-invariant", control={"activation": torch.tanh})
def error_is_invariant(case, activation=torch.relu):
    """A rescaling leaves the error as it is; of a norm with p = q it multiplies every summand.  E section 3.2"""

    def summands(one, a, p):
        return ((one.params["W"] * a[:, None] / a).abs() ** p).sum() / p

    twins = lambda: rescalings(case, activation)
    return together(
        error=equal(
            measured=lambda: [one.error(twin) for one, _, twin in twins()],
            predicted=lambda: [one.error(one.params) for one, *_ in twins()],
            bound=1e-12, reason="rounding; factors from 1/100 to 100",
        ),
        penalty=equal(
            measured=lambda: [norm(p, p)(twin["W"]) for *_, twin in twins() for p in (1, 2)],
            predicted=lambda: [summands(one, a, p) for one, a, _ in twins() for p in (1, 2)],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


# The flow: Theorem 3.3


def without_biases(field: Callable) -> Callable:
    """The same flow of the weights with every bias frozen."""

    def weights_alone(params: dict) -> dict:
        velocity = field(params)
        return velocity | {"b": 0 * velocity["b"]}

    return weights_alone


@shared
def followed(
    case: Case,
    penalties: tuple[Penalty, ...] = NORMS,
    strengths: tuple[float, ...] = (0.5, 0.0, 2.0, 0.1),
    activation: Callable = linear,
    hidden_bias: float = 0.0,
    balance: bool = True,
    times: tuple[float, ...] = (0.0, 0.25, 0.5),
    driver: Callable[[Penalty], Penalty] = itself,
    frozen: bool = False,
    **options,
) -> list[dict]:
    """The flow of each penalty (or of ``driver`` of it): W, loss, imbalance Q, size of R.

    Output biases follow gradient flow, or are ``frozen`` with all others.
    """
    runs, draws = [], learners(case, "flows", activation, hidden_bias=hidden_bias, count=len(penalties))
    for one, penalty, strength in zip(draws, penalties, strengths, strict=False):
        W = least(penalty, one.params["W"], one.hidden) if balance else one.params["W"]
        Q = lambda s, R=penalty, h=one.hidden: rescaling_derivative(R, s["W"], h)
        record = {"W": lambda s: s["W"], "Q": Q, "loss": loss_of(one, penalty, strength)}
        field, start = flow_of(one, driver(penalty), strength, **options), one.params | {"W": W}
        field = without_biases(field) if frozen else field
        path = integrate(field, start, times, record=record, relative=1e-9)
        runs.append(path | {"size": penalty(W), "strength": strength, "hidden": one.hidden, "penalty": penalty})
    return runs


@shared
def rates_of_balance(case: Case, hidden_bias: float = 0.0, balance: bool = True, driver=itself) -> list[dict]:
    """At ReLU networks, for seven norms and two penalties that are none, with lambda = 1/2: Q, its rate along the flow,
    the differences of sums in E (37) for the loss and for the error, and both sides of E (40)."""
    penalties, found = (*ALL, cosh, columns), []
    some = learners(case, "points", torch.relu, hidden_bias=hidden_bias, count=len(penalties))
    for one, penalty in zip(some, penalties, strict=True):
        W = least(penalty, one.params["W"], one.hidden) if balance else one.params["W"]
        start, loss = one.params | {"W": W}, loss_of(one, penalty, 0.5)
        velocity = flow_of(one, driver(penalty), 0.5)(start)["W"]
        Q = lambda W, R=penalty, h=one.hidden: rescaling_derivative(R, W, h)
        sums = [side_sums(lambda W, f=f, s=start: f(s | {"W": W}), W, one.hidden) for f in (loss, one.error)]
        products = lambda W, R=penalty: W * grad(R)(W)
        total = W * grad(lambda W, f=loss, s=start: f(s | {"W": W}))(W)
        found.append({
            "Q": Q(W), "rate": jvp(Q, (W,), (velocity,))[1], "loss": sums[0][0] - sums[0][1],
            "error": sums[1][0] - sums[1][1], "size": penalty(W), "pull": sums[1][0].abs().max(),
            "moved": jvp(products, (W,), (velocity,))[1], "total": total,
        })  # fmt: skip
    return found


@claim("E-thm3.3", control=[{"hidden_bias": 0.5}, {"balance": False}, {"driver": swapped}])
def balance_is_kept(case, hidden_bias=0.0, balance=True, driver=itself):
    """Weights balanced in a penalty stay so along its flow, if hidden biases are frozen at zero.  E Theorem 3.3

    Whole paths with linear units for four norms; for ReLUs the rate of the imbalance at random balanced networks, for
    seven norms and two penalties that are none, where the weights are seen to move as E (40) says.
    """
    runs = lambda: followed(case, hidden_bias=hidden_bias, balance=balance, driver=driver)
    rates = lambda: rates_of_balance(case, hidden_bias, balance, driver)
    return together(
        paths=equal(
            measured=lambda: [run["Q"] for run in runs()],
            predicted=lambda: [0 * run["Q"] for run in runs()],
            scale=lambda: [run["size"] for run in runs()],
            bound=1e-7, reason=f"start balanced to 1e-14, {TOLERANCE}",
        ),
        relu=equal(
            measured=lambda: [one["rate"] for one in rates()],
            predicted=lambda: [0 * one["rate"] for one in rates()],
            scale=lambda: [one["size"] for one in rates()],
            bound=1e-10, reason=CONDITION,
        ),
        flow=equal(
            measured=lambda: [one["moved"] for one in rates()],
            predicted=lambda: [-one["total"] for one in rates()],
            bound=1e-10, reason=CONDITION,
        ),
    )  # fmt: skip


@claim("E-eq44", control=[{"activation": torch.tanh}, {"driver": swapped}])
def imbalance_decays(case, activation=linear, driver=itself):
    """Every imbalance decays as exp(-lambda t), from any start, and for lambda = 0 not at all.  E (44)

    Whole paths with linear units, four norms and strengths; the rate at random ReLU networks, with other penalties too.
    """
    runs = lambda: followed(case, activation=activation, balance=False)
    rates = lambda: rates_of_balance(case, 0.0, False, driver)
    decayed = lambda run: torch.exp(-run["strength"] * run["times"])[:, None] * run["Q"][0]
    return together(
        paths=equal(
            measured=lambda: [run["Q"][1:] for run in runs()],
            predicted=lambda: [decayed(run)[1:] for run in runs()],
            bound=1e-7, reason=TOLERANCE,
        ),
        relu=equal(
            measured=lambda: [one["rate"] for one in rates()],
            predicted=lambda: [-0.5 * one["Q"] for one in rates()],
            bound=1e-10, reason=CONDITION,
        ),
    )  # fmt: skip


@claim("E-eq42", control=[{"driver": swapped}, {"hidden_bias": 0.5}])
def rate_of_imbalance(case, driver=itself, hidden_bias=0.0):
    """The imbalance changes at minus the sums (37) of the loss, to which the error adds nothing.  E (42), (43)"""
    rates = lambda: rates_of_balance(case, hidden_bias, False, driver)
    return together(
        rate=equal(
            measured=lambda: [one["rate"] for one in rates()],
            predicted=lambda: [-one["loss"] for one in rates()],
            bound=1e-10, reason=CONDITION,
        ),
        error=equal(
            measured=lambda: [one["error"] for one in rates()],
            predicted=lambda: [0 * one["error"] for one in rates()],
            scale=lambda: [one["pull"] for one in rates()],
            bound=1e-11, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("E-once-enough", control={"driver": swapped})
def once_is_enough(case, driver=itself):
    """Fixed at the start, the gauge stays fixed: until learning is over the penalty is the least on the orbit.  E 3.2

    Continuous time. Linear units for four norms until time 5; one hidden layer of ReLUs for two norms until time 3,
    sliding along kinks where it has to.
    """
    smooth = lambda: followed(case, strengths=(0.01,) * 4, times=(0.0, 0.5, 1.0, 2.0, 5.0), driver=driver)
    of_relu = lambda: slid(case, 0.01, True, driver=driver, penalties=NORMS[2:])
    best = lambda run: torch.stack([least(run["penalty"], W, run["hidden"]) for W in run["W"]])
    why = "tolerance of 1e-9 a step and of the events, divided by the curvature along the orbit"
    return together(
        linear=equal(lambda: [run["W"] for run in smooth()], lambda: [best(run) for run in smooth()], 1e-6, why),
        relu=equal(lambda: [run["W"] for run in of_relu()], lambda: [best(run) for run in of_relu()], 1e-6, why),
    )


# The flow in log|W|, and descent: Theorem 3.4 and Corollary 3.5


def logarithmic(one: Learner, penalty: Penalty, strength: float) -> tuple[Tensor, Tensor]:
    """Gradient of the loss and Hessian of the penalty in log|W| of the nonzero weights, by autograd alone."""
    W, edges = one.params["W"], one.params["W"] != 0
    turned = lambda o: torch.zeros_like(W).index_put(edges.nonzero(as_tuple=True), W[edges] * o.exp())
    loss, zero = loss_of(one, penalty, strength), W.new_zeros(int(edges.sum()))
    return grad(lambda o: loss(one.params | {"W": turned(o)}))(zero), hessian(lambda o: penalty(turned(o)))(zero)


def scaled(one: Learner, factor: Callable[[Tensor], Tensor]) -> Learner:
    """The same network with other magnitudes of its weights."""
    W = one.params["W"]
    return one._replace(params=one.params | {"W": torch.where(W != 0, W.sign() * factor(W.abs()), W)})


def below_one(size: Tensor) -> Tensor:
    return size / (1 + size)


def above_one(size: Tensor) -> Tensor:
    return 1.2 + size


@shared
def points(case: Case, quartic_at: Callable = below_one) -> list[tuple[Learner, Penalty]]:
    """ReLU networks, each with a penalty: seven norms, and the quartic where its Hessian is positive."""
    some = learners(case, "points", torch.relu, count=len(ALL) + 1)
    return [*zip(some, ALL, strict=False), (scaled(some[-1], quartic_at), quartic)]


def single(H: Tensor) -> Tensor:
    return H


def double(H: Tensor) -> Tensor:
    return 2 * H


@claim("E-eq46", control=[{"driver": swapped}, {"bend": double}])
def flow_in_logarithms(case, driver=itself, bend=single):
    """In omega = log|W| the flow moves dR/domega at -dL/domega; so omega moves at -H^-1 dL/domega.  E (46)-(48)"""
    pairs = lambda: points(case)[: len(ALL)]

    def velocity(one, penalty):
        return flow_of(one, driver(penalty), 0.5)(one.params)["W"]

    def products(one, penalty):
        V = lambda W: W * grad(penalty)(W)
        return jvp(V, (one.params["W"],), (velocity(one, penalty),))[1]

    def pull(one, penalty):
        return one.params["W"] * grad(loss_of(one, penalty, 0.5))(one.params)["W"]

    def explicit(one, penalty):
        g, H = logarithmic(one, penalty, 0.5)
        return -torch.linalg.solve(bend(H), g)

    in_logarithms = lambda one, penalty: (velocity(one, penalty) / one.params["W"])[one.params["W"] != 0]
    return together(
        implicit=equal(
            measured=lambda: [products(*pair) for pair in pairs()],
            predicted=lambda: [-pull(*pair) for pair in pairs()],
            bound=1e-11, reason=ROUNDING,
        ),
        explicit=equal(
            measured=lambda: [in_logarithms(*pair) for pair in pairs()],
            predicted=lambda: [explicit(*pair) for pair in pairs()],
            bound=1e-9, reason=CONDITION,
        ),
    )  # fmt: skip


def weights_of(V: Tensor, rows: Tensor, units: int, penalty: Penalty, large: bool) -> Tensor:
    """|W| from the products V = W dR/dW at the edges: E (55)-(57) for norms, a root of a quadratic for the quartic."""
    if exponents := getattr(penalty, "exponents", None):
        rho = V.new_zeros(units).index_add(0, rows, V)[rows]
        return (V / rho) ** (1 / exponents[0]) * rho ** (1 / exponents[1])
    return (1 + (1 if large else -1) * (1 - V).sqrt()).sqrt()


def change_of_loss(one: Learner, penalty: Penalty, strength: float, moving: Tensor) -> Tensor:
    """dL/dt where the products move as E (40) says, and some biases down their gradient. No Hessian is met."""
    W, edges, loss = one.params["W"], one.params["W"] != 0, loss_of(one, penalty, strength)
    where, slope = edges.nonzero(as_tuple=True), grad(loss)(one.params)
    V, pull = (W * grad(penalty)(W))[edges], (W * slope["W"])[edges]
    large, b = bool(W[edges].abs().min() > 1), one.params["b"]

    def along(V: Tensor, b: Tensor) -> Tensor:
        size = weights_of(V, where[0], len(W), penalty, large)
        return loss({"W": torch.zeros_like(W).index_put(where, W[edges].sign() * size), "b": b})

    return jvp(along, (V, b), (-pull, -torch.where(moving, slope["b"], 0.0)))[1]


def promised(one: Learner, penalty: Penalty, strength: float, bend: Callable) -> Tensor:
    """Minus the gradient in log|W| through the inverse Hessian with itself, E (49)."""
    g, H = logarithmic(one, penalty, strength)
    return -g @ torch.linalg.solve(bend(H), g)


def nothing(hidden: Tensor) -> Tensor:
    return torch.zeros_like(hidden)


@claim("E-thm3.4", control=[{"bend": double}, {"quartic_at": above_one}])
def balanced_descent(case, bend=single, quartic_at=below_one):
    """Where the Hessian of the penalty in log|W| is positive, the loss falls, at the rate -g H^-1 g.  E Theorem 3.4

    Measured along (40) itself, in the products, at ReLU networks; and along integrated paths with linear units,
    all biases frozen. What breaks it: the Hessian doubled; a penalty with a negative one, where the flow climbs.
    """
    pairs = lambda: points(case, quartic_at)
    rates = lambda: [change_of_loss(one, R, 0.5, nothing(one.hidden)) for one, R in pairs()]
    steps = lambda: [run["loss"].diff().sign() for run in followed(case, balance=False, frozen=True)]
    return together(
        rate=equal(
            measured=rates,
            predicted=lambda: [promised(one, R, 0.5, bend) for one, R in pairs()],
            bound=1e-9, reason=CONDITION,
        ),
        falls=equal(
            measured=lambda: [x.sign() for x in rates()] + steps(),
            predicted=lambda: [-torch.ones(())] * (len(ALL) + 1 + len(NORMS)),
            bound=1e-9, reason="signs are exact",
        ),
    )  # fmt: skip


def outputs(hidden: Tensor) -> Tensor:
    """The biases that move: of all units that are not hidden; those of inputs have no gradient."""
    return ~hidden


def of_hidden(hidden: Tensor) -> Tensor:
    return hidden


@claim("E-cor3.5", control=[{"moving": of_hidden, "bias_speed": 1.0}, {"bend": double}, {"along": -1.0}])
def output_biases_may_move(case, moving=outputs, bias_speed=0.0, bend=single, along=1.0):
    """Output biases that follow gradient flow add minus their squared gradient to the rate.  E Corollary 3.5, (50)

    Strictly negative, therefore, where the loss is not stationary in the weights and output biases. The balance of the
    hidden units is kept.
    """

    def with_biases(one, penalty):
        slope = grad(one.error)(one.params)["b"][~one.hidden]
        return promised(one, penalty, 0.5, bend) - slope.square().sum()

    rates = lambda: [along * change_of_loss(one, R, 0.5, moving(one.hidden)) for one, R in points(case)]
    runs = lambda: followed(case, bias_speed=bias_speed)
    return together(
        rate=equal(
            measured=rates,
            predicted=lambda: [with_biases(*pair) for pair in points(case)],
            bound=1e-9, reason=CONDITION,
        ),
        falls=equal(
            measured=lambda: [x.sign() for x in rates()],
            predicted=lambda: [-torch.ones(())] * (len(ALL) + 1),
            bound=1e-9, reason="signs are exact",
        ),
        balance=equal(
            measured=lambda: [run["Q"] for run in runs()],
            predicted=lambda: [0 * run["Q"] for run in runs()],
            scale=lambda: [run["size"] for run in runs()],
            bound=1e-7, reason=TOLERANCE,
        ),
    )  # fmt: skip


@claim("O-one-velocity", control=[{"quartic_at": torch.ones_like}, {"others": (norm(1, 2), paths)}])
def one_flow_where_the_hessian_is_invertible(case, quartic_at=below_one, others=(cosh, columns)):
    """Where the Hessian in log|W| is invertible exactly one velocity satisfies (40); elsewhere none does, or many.

    So there is not a canonical flow for any differentiable penalty, as the text after Theorem 3.3 has it.
    """

    def system(one, penalty):
        W, edges = one.params["W"], one.params["W"] != 0
        turned = lambda w: torch.zeros_like(W).index_put(edges.nonzero(as_tuple=True), w)
        products = lambda w: w * grad(lambda w: penalty(turned(w)))(w)
        return torch.func.jacrev(products)(W[edges]), -(W * grad(loss_of(one, penalty, 0.5))(one.params)["W"])[edges]

    def pairs():
        some = points(case, quartic_at)
        return [*some, *zip([one for one, _ in some], others, strict=False)]

    def reached(J, pull):
        return J @ (torch.linalg.pinv(J, rtol=1e-12) @ pull)

    systems = lambda: [system(*pair) for pair in pairs()]
    return together(
        some=equal(lambda: [reached(*one) for one in systems()], lambda: [pull for _, pull in systems()], 1e-9,
                   "rounding, times the condition of a matrix with a row an edge"),
        one=equal(lambda: [torch.linalg.matrix_rank(J, rtol=1e-12).double() for J, _ in systems()],
                  lambda: [float(len(J)) for J, _ in systems()], 1e-9, "ranks are whole numbers"),
    )  # fmt: skip


# When it is gradient flow


@claim("E-intro-sign", printed={"sign": 1.0})
def squares_give_gradient_flow(case, sign=-1.0):
    """For half the squared norm the flow (2) is dW/dt = -1/2 dL/dW.  E section 1.2"""
    some = lambda: learners(case, "points", torch.relu)
    halves = lambda W: W.square().sum() / 2
    loss = lambda one: loss_of(one, halves, 0.5)
    return equal(
        measured=lambda: [flow_of(one, halves, 0.5)(one.params)["W"] for one in some()],
        predicted=lambda: [sign / 2 * grad(loss(one))(one.params)["W"] * (one.params["W"] != 0) for one in some()],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


def sine(u: Tensor, v: Tensor) -> Tensor:
    u, v = u / u.norm(), v / v.norm()
    return (u - (u @ v) * v).norm()


def chain(one: Learner) -> Learner:
    """The network without all weights but the first into each unit."""
    W = one.params["W"]
    first = (W != 0) & ((W != 0).cumsum(1) == 1)
    return one._replace(params=one.params | {"W": torch.where(first, W, 0.0)})


AWAY = ((1, 1), (3, 3), (1, 2), (2, 1), (2, 8), (1.9, 2), (2, 2.1))


def squares_and_the_path(W: Tensor) -> Tensor:
    """On a chain of one hidden unit this flow is parallel to the gradient everywhere, at a speed that varies."""
    return W.square().sum() / 2 + (W[1, 0] * W[2, 1]).square()


@shared
def kinds_of_flows(case: Case) -> list[tuple[Learner, Penalty, bool]]:
    """Networks with penalties of all kinds, and whether every unit has one incoming weight."""
    found = []
    for one in learners(case, "points", torch.relu, count=3):
        found += [(one, R, False) for R in (norm(2, 2), squares_and_logarithms, cosh, columns)]
        found += [(one, norm(*pair), False) for pair in AWAY]
    for one in learners(case, "points", linear, count=3):  # ReLUs in a chain are silent too often
        found += [(chain(one), norm(*pair), True) for pair in ((1, 2), (8, 2), (2, 1), (2, 3))]
    return found + [(one, squares_and_the_path, True) for one in layered_learners(case, widths=(1, 1, 1), count=3)]


def by_form(penalty: Penalty, alone: bool) -> bool:
    """Whether R = c sum W^2 + sum k log|W|; where every unit has one incoming weight, p does not matter."""
    p, q = getattr(penalty, "exponents", (0, 0))
    return penalty is squares_and_logarithms or q == 2 and (p == 2 or alone)


def by_print(penalty: Penalty, alone: bool) -> bool:
    """The squared norm, and nothing else."""
    return getattr(penalty, "exponents", None) == (2, 2)


@claim("E-only-l2", printed={"rule": by_print})
def only_squares_and_logarithms(case, rule=by_form):
    """The flow is -c dL/dW, one constant c for every error, if and only if R = sum W^2/4c + sum k log|W|.  E 1.2

    Decided by velocity and gradient of two errors at two magnitudes of the weights, all in one long vector, so that a
    speed that varies counts: an angle below 1e-6 is gradient flow, above 1e-3 it is none.
    """

    def is_gradient_flow(one, penalty):
        found, edges = [], one.params["W"] != 0
        for factor in (1.0, 0.8):
            start = one.params | {"W": factor * one.params["W"]}
            for error in (one.error, lambda s: one.error(s).square() + one.error(s)):
                other = one._replace(error=error)
                velocity, slope = flow_of(other, penalty, 0.0)(start)["W"][edges], grad(error)(start)["W"][edges]
                found.append(torch.stack([velocity, slope]) / slope.norm())
        angle = sine(*torch.cat(found, 1))
        return 1.0 if angle < 1e-6 else 0.0 if angle > 1e-3 else math.nan

    return equal(
        measured=lambda: [torch.tensor([is_gradient_flow(one, R) for one, R, _ in kinds_of_flows(case)])],
        predicted=lambda: [torch.tensor([float(rule(R, alone)) for _, R, alone in kinds_of_flows(case)])],
        bound=1e-6, reason="yes or no: angles are below 1e-6, by rounding, or above 1e-3",
    )  # fmt: skip


# Zero biases, and what it costs to wait


def activation_of(k: int, W: Tensor, b: Tensor, X: Tensor, hidden: Tensor, activation: Callable) -> Tensor:
    """Of one hidden unit at all samples: the graph up to it, with it as the output."""
    before = hidden[: k + 1].clone()
    before[k] = False
    return activation(feedforward(W[: k + 1, : k + 1], b[: k + 1], X, before, activation=activation)[:, -1])


@shared
def brightened(case: Case, activation: Callable) -> list[dict]:
    """Each hidden unit in turn alone has a bias: how far three times the light is from three times the activation.

    Units that are silent on all 300 samples without a bias are left out.
    """
    draw, found = case.generator("brightness"), []
    for _ in range(5):
        W, hidden = random_dag(draw, inputs=3, hidden=6, outputs=2)
        X = 100 * torch.randn(300, 3, generator=draw, dtype=W.dtype)
        sizes = torch.randn(len(W), generator=draw, dtype=W.dtype) * 10.0 ** -(torch.arange(len(W)) % 4)
        at = lambda k, b, X, W=W, hidden=hidden: activation_of(k, W, b, X, hidden, activation)
        units = [k for k in hidden.nonzero()[:, 0].tolist() if at(k, 0 * sizes, X).max() > 0]
        missed = lambda k, b, at=at, X=X: (at(k, b, 3 * X) - 3 * at(k, b, X)).abs().max()
        alone = [torch.where(torch.arange(len(W)) == k, sizes, 0.0) for k in units]
        found.append({
            "biased": torch.stack([missed(k, b) for k, b in zip(units, alone, strict=True)]),
            "size": sizes[units].abs(),
            "unbiased": torch.stack([missed(k, 0 * sizes) for k in units]),
            "light": torch.stack([at(k, 0 * sizes, X).abs().max() for k in units]),
        })  # fmt: skip
    return found


@claim("E-equivariance", control={"activation": torch.tanh})
def zero_biases_are_necessary(case, activation=torch.relu):
    """Hidden activations scale with the input if and only if no hidden unit has a bias, of those that are ever active.

    If the input is multiplied by c, the first unit with a bias b misses by (c - 1)|b| wherever it is active at both
    intensities, and nowhere by more; without biases none misses.  E footnote 3
    """
    seen = lambda: brightened(case, activation)
    return together(
        necessary=equal(
            measured=lambda: [one["biased"] for one in seen()],
            predicted=lambda: [2 * one["size"] for one in seen()],
            scale=lambda: [one["light"] for one in seen()],
            bound=1e-12, reason="rounding, relative to the activations; biases from 1e-3 to 1",
        ),
        sufficient=equal(lambda: [one["unbiased"] for one in seen()], lambda: [0 * one["unbiased"] for one in seen()],
                         1e-12, "rounding", scale=lambda: [one["light"] for one in seen()]),
    )  # fmt: skip


WIDTHS = ((4, 20, 1), (4, 20, 20, 1))


@shared
def trained(case: Case, decay: float, widths: tuple[int, ...], share: float, length: int) -> dict:
    """Eight layered networks of ReLUs, by gradient descent with weight decay, each until its error is small enough.

    Imbalance of the hidden units (its norm) at the start and at the end, steps, and the passes of Algorithm 1.
    """
    draw, seeds, rate, most = case.generator(f"waiting {widths}"), 8, 0.02, 1000
    nets = [layered_weights(widths, draw) for _ in range(seeds)]
    weights = [torch.stack(layer) for layer in zip(*nets, strict=True)]
    X = torch.randn(seeds, 30, widths[0], generator=draw, dtype=torch.float64)
    Y = torch.sin(2 * X[..., :1])

    def errors(weights: list[Tensor]) -> Tensor:
        H = X
        for l, W in enumerate(weights):
            H = torch.relu(H @ W.mT) if l < len(weights) - 1 else H @ W.mT
        return (H - Y).square().mean((1, 2)) / 2

    def imbalance(weights: list[Tensor]) -> Tensor:
        sides = zip(weights, weights[1:], strict=False)
        return torch.cat([W.square().sum(2) - V.square().sum(1) for W, V in sides], 1).norm(dim=1)

    first, before = errors(weights), imbalance(weights)
    after, steps = before.clone(), torch.zeros(seeds)
    goal = torch.full((seeds,), most * length)
    for step in count():
        reached = (errors(weights) <= share * first) & (goal == most * length)
        goal = torch.where(reached, min(step * length, most * length), goal)
        stopping = goal == step
        after, steps = torch.where(stopping, imbalance(weights), after), torch.where(stopping, float(step), steps)
        if step >= goal.max():
            break
        leaves = [W.requires_grad_() for W in weights]
        slopes = torch.autograd.grad(errors(leaves).sum(), leaves)
        weights = [(W - rate * (g + decay * W)).detach() for W, g in zip(leaves, slopes, strict=True)]
    return {
        "before": before,
        "after": after.detach(),
        "steps": steps,
        "passes": torch.tensor([passes(W) for W in nets]),
    }


def passes(weights: list[Tensor], reduction: float = 1e3) -> float:
    """Multiplicative updates of E (10) that divide the squared norm's imbalance by a thousand."""
    problem = Problem(*layered_matrix(weights), 2, 2)
    size = lambda problem: torch.stack(incoming_outgoing(problem.W, p=2, q=2)).diff(dim=0)[0, problem.hidden].norm()
    start = size(problem)
    for number in count(1):
        problem = rescaled(problem, update(problem))
        if size(problem) < start / reduction or number == 10_000:
            return float(number)


@claim("E-Q-slow", control={"decays": (1.0,)}, untrained={"share": 1.0}, longer={"length": 2})
def waiting_is_slow(case, decays=(1e-4, 1e-3), share=0.1, length=1):
    """With usual weight decay, to divide the imbalance by a thousand takes a hundred times as many steps, or more, as
    Algorithm 1 takes passes over the weights.  E section 3.2

    Gradient descent at rate 0.02 on layered ReLU networks until the error is a tenth of the first, or 1000 steps.
    """
    cells = lambda: [trained(case, d, widths, share, length) for d in decays for widths in WIDTHS]

    def remaining(run):
        return run["after"] / run["before"]

    def advantage(run):
        left = remaining(run).clamp(1e-300, 1 - 1e-9)
        needed = run["steps"] * math.log(1e3) / -left.log()
        return torch.where(run["steps"] > 0, (needed / run["passes"]).log10(), math.nan)

    why = "two usual strengths of weight decay, two depths, eight networks each"
    return tendency(lambda: [advantage(run) for run in cells()], least=2.0, reason=f"{why}; a hundredfold")

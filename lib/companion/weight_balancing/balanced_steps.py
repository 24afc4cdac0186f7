"""What decides our claims beside section 3.3 of paper E: steps that keep the balance exactly, and ways through zero."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, at_most, claim, equal, shared, together
from companion.weight_balancing.common import layered_learners, learners, linear
from companion.weight_balancing.lpq_flows import products
from companion.weight_balancing.lpq_rules import (
    FIRST_ORDER,
    NORMS,
    STRENGTH,
    Step,
    descend,
    edge_gradient,
    exponential,
    flow_of,
    order,
    regression,
)
from normdyn.motion.flows import Params, gradient, integrate
from normdyn.rescaling.descent import balanced_step, correspondence, exponential_step, half_step
from normdyn.rescaling.group import per_unit_regularizer, rescaling_imbalance


@shared
def charges(case: Case, activation: Callable) -> list[tuple[Tensor, Tensor]]:
    """Sums of W dE/dW into and out of the hidden units, on one sample after the other."""
    found = []
    for params, hidden, error in learners(case, "points", activation):
        flows = torch.stack([params["W"] * gradient(error)(params, [k])["W"] for k in range(20)])
        found.append((flows.sum(2)[:, hidden], flows.sum(1)[:, hidden]))
    return found


@claim("O-kirchhoff", control={"activation": torch.tanh})
def errors_flow_through(case, activation=torch.relu):
    """What W dE/dW brings into a hidden unit it takes out again, at any weights and on every sample."""
    return equal(
        measured=lambda: [into for into, _ in charges(case, activation)],
        predicted=lambda: [out for _, out in charges(case, activation)],
        bound=1e-12, reason="rounding of sums over edges",
    )  # fmt: skip


# Ours: steps that keep the balance


@shared
def balanced_runs(case: Case, activation: Callable) -> list[tuple[Tensor, Tensor]]:
    """Imbalances after each of eight steps on batches of four, one and two stages, and the time at which they are."""
    draw, found = case.generator("batches"), []
    for k, (p, q) in enumerate(NORMS):
        for stages in (1, 2):
            one = learners(case, "steps", activation)[k % 5]
            W, b, clock, path = one.params["W"], one.params["b"], [0.0], []
            for _ in range(8):
                path.append(rescaling_imbalance(W, one.hidden, p=p, q=q))
                rows = torch.randperm(20, generator=draw)[:4]
                W, b, taken = exponential(Step(W, b, edge_gradient(one, rows), 0.3, p, q), stages)
                clock.append(clock[-1] + taken)
            path.append(rescaling_imbalance(W, one.hidden, p=p, q=q))
            found.append((torch.stack(path), torch.tensor(clock, dtype=W.dtype)))
    return found


def charge(V: Tensor, hidden: Tensor) -> Tensor:
    """What V brings into the hidden units less what it takes out."""
    return (V.sum(1) - V.sum(0))[hidden]


LARGE = 3.0  # a step in flow time, in which plain descent would diverge


@shared
def steps_from_elsewhere(case: Case, activation: Callable) -> list[tuple[Tensor, Tensor]]:
    """Charges before and after an exponential step with Z dE(Z) of random weights Z; entries may become negative."""
    draw, found = case.generator("elsewhere"), []
    for k, (p, q) in enumerate(NORMS):
        params, hidden, error = learners(case, "steps", activation)[k % 5]
        V, Z = products(params["W"], p, q), torch.randn(params["W"].shape, generator=draw, dtype=params["W"].dtype)
        Z = Z * (params["W"] != 0)
        flow = Z * gradient(error)({"W": Z, "b": params["b"]})["W"]
        after = exponential_step(V, flow, step=LARGE, strength=STRENGTH)
        found.append((charge(V, hidden), charge(after, hidden)))
    return found


@claim("O-exact-balance", control={"activation": torch.tanh})
def steps_keep_the_balance(case, activation=torch.relu):
    """Exponential steps in V multiply every imbalance by exp(-lambda h), at any step, point and batch."""
    starts = lambda: [
        charge(products(one.params["W"], p, q), one.hidden)
        for k, (p, q) in enumerate(NORMS) for one in [learners(case, "steps", activation)[k % 5]] for _ in (1, 2)
    ]  # fmt: skip
    clocks = lambda: [clock for _, clock in balanced_runs(case, activation)]
    return together(
        rules=equal(
            measured=lambda: [path for path, _ in balanced_runs(case, activation)],
            predicted=lambda: [(-STRENGTH * t).exp()[:, None] * Q for t, Q in zip(clocks(), starts(), strict=True)],
            bound=1e-10, reason="rounding over eight steps; sums of V that cancel in part",
        ),
        any_point=equal(
            measured=lambda: [after for _, after in steps_from_elsewhere(case, activation)],
            predicted=lambda: [math.exp(-STRENGTH * LARGE) * Q for Q, _ in steps_from_elsewhere(case, activation)],
            bound=1e-10, reason="rounding of sums of V that cancel in part",
        ),
    )  # fmt: skip


PLAIN = (("exponentiated", 1), ("descent", 2))


@claim("O-rule-orders", control={"rules": ("midpoint", "Euler"), "plain": (("Euler", 1), ("midpoint", 2))})
def orders_of_the_rules(case, rules=("Euler", "midpoint"), plain=PLAIN):
    """Exponential Euler is of first order in the step, the midpoint rule of second.

    The paper's rules drift off the law of the balance, at first order.
    """
    norms = ((1, 1), (2, 2), (3, 1.5))
    first, second = rules
    return together(
        Euler=equal(lambda: [order(case, first, *n, 8) for n in norms], lambda: [1.0] * 3, 5e-3, FIRST_ORDER),
        midpoint=equal(lambda: [order(case, second, *n, 16) for n in norms], lambda: [2.0] * 3, 4e-3, FIRST_ORDER),
        drift=equal(
            lambda: [order(case, rule, p, p, 8, which=1) for rule, p in plain], lambda: [1.0] * 2, 5e-3, FIRST_ORDER
        ),
    )


# Ours: through zero


def in_u(u: Tensor, slope: Tensor, p: float, q: float, strength: float) -> Tensor:
    """Velocity of u = sign(W) |W|^(p-1) for p > 1, continuous where a weight is zero."""
    W = u.sign() * u.abs() ** (1 / (p - 1))
    rho = (W.abs() ** p).sum(1, keepdim=True) ** (q / p)
    rho = torch.where(rho > 0, rho, 1.0)
    kappa = (q - p) / (p * q) * (W * slope).sum(1, keepdim=True) / rho - strength / q
    return (p - 1) * (kappa * u - rho ** (p / q - 1) * slope / p)


CROSSING = ((2, 2), (2, 1), (1.5, 1.5), (1.5, 4))


@shared
def at_points(case: Case) -> list[tuple]:
    """Weights of ReLU networks, their velocity in the flow, the gradient of their error, p and q."""
    found = []
    for k, (p, q) in enumerate(CROSSING):
        one = learners(case, "points", torch.relu)[k]
        W, W_dot = one.params["W"], flow_of(one, p, q)(one.params)["W"]
        found.append((W, W_dot, gradient(one.error)(one.params)["W"], p, q))
    return found


@shared
def through_zero(case: Case, activation: Callable) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The flow in u of layered networks: time, imbalance at the end, and how many signs have changed."""
    found = []
    for one, (p, q) in zip(layered_learners(case, "zero", activation, count=4), CROSSING, strict=True):
        W = one.params["W"]
        velocity = lambda s, one=one, p=p, q=q: {
            "u": in_u(s["u"], gradient(one.error)({"W": s["u"].sign() * s["u"].abs() ** (1 / (p - 1)),
                                                   "b": one.params["b"]})["W"], p, q, STRENGTH)
        }  # fmt: skip
        u = integrate(velocity, {"u": W.sign() * W.abs() ** (p - 1)}, [0, 1.0], relative=1e-9)["u"][-1]
        Q = rescaling_imbalance(u.sign() * u.abs() ** (1 / (p - 1)), one.hidden, p=p, q=q)
        found.append((torch.tensor(1.0), Q, (u.sign() != W.sign()).sum()))
    if not sum(changes for *_, changes in found):
        raise Unfinished("no weight has changed its sign by time 1")
    return found


@shared
def towards_zero(case: Case, exponents: tuple) -> list[tuple[Tensor, Tensor]]:
    """Of regressions: -log V(t)/V(0) of both weights, and lambda t plus the integral that bounds it."""
    found = []
    for k, (p, q) in enumerate(exponents):
        one = regression(case, k)
        flow, W0 = flow_of(one, p, q), one.params["W"]

        def extended(s: Params, one=one, flow=flow, q=q, p=p) -> Params:
            point = {"W": s["W"], "b": s["b"]}
            size = per_unit_regularizer(s["W"], p=p, q=q)[2] ** (1 / q - 1)
            return flow(point) | {"sum": STRENGTH + gradient(one.error)(point)["W"][2, :2].abs() * size}

        start = one.params | {"sum": torch.zeros(2, dtype=torch.float64)}
        path = integrate(extended, start, torch.linspace(0, 8, 41), relative=1e-9)
        V = torch.stack([correspondence(W, p=p, q=q)[2, :2] for W in path["W"]])
        found.append((-(V / correspondence(W0, p=p, q=q)[2, :2]).log()[1:], path["sum"][1:]))
    return found


@claim("O-through-zero", control=[{"activation": torch.tanh}, {"low": ((2, 2), (2, 1), (2, 0.7), (2, 1))}])
def who_reaches_zero(case, activation=linear, low=((1, 1), (0.5, 0.7), (1, 0.7), (1, 2))):
    """For p > 1 the flow goes through zero in u, and the balance keeps its law; for p <= 1 the way to zero is bounded.

    The logarithm of a weight falls by no more than an integral that is finite if q <= 1, or while the unit is not zero.
    """
    to_u = lambda W, W_dot, p: torch.where(W != 0, (p - 1) * W.abs() ** (p - 2) * W_dot, 0.0)
    of = lambda W, p: W.sign() * W.abs() ** (p - 1)
    starts = lambda: layered_learners(case, "zero", activation, count=4)
    return together(
        velocity=equal(
            measured=lambda: [to_u(W, W_dot, p) for W, W_dot, _, p, _ in at_points(case)],
            predicted=lambda: [in_u(of(W, p), g, p, q, STRENGTH) for W, _, g, p, q in at_points(case)],
            bound=1e-12, reason="rounding of row sums",
        ),
        law=equal(
            measured=lambda: [Q for _, Q, _ in through_zero(case, activation)],
            predicted=lambda: [
                math.exp(-STRENGTH) * charge(products(one.params["W"], p, q), one.hidden)
                for one, (p, q) in zip(starts(), CROSSING, strict=True)
            ],
            bound=1e-6, reason="integrator's tolerance of 1e-9 a step, over zeros at which a second derivative jumps",
        ),
        never=at_most(
            lambda: [fallen for fallen, _ in towards_zero(case, low)],
            lambda: [most for _, most in towards_zero(case, low)],
            1e-6, "integrator's tolerance of 1e-9 a step, in the logarithm of a small number",
        ),
    )  # fmt: skip


def implicit_midpoint(at: Step) -> Tensor:
    """Between two halves of the decay W1 = W0 - h/2 dE((W0 + W1)/2), for p = q = 2."""
    decay = math.exp(-at.strength * at.h / 4)
    start = Z = decay * at.W
    for _ in range(200):
        before, Z = Z, start - at.h / 4 * at.slopes([Z], [at.b])[0][0]
        if (Z - before).abs().max() < 1e-15:
            break
    return decay * (2 * Z - start)


def flip(at: Step) -> Tensor:
    """Exponential Euler for p = q = 2 that takes |V| and turns the sign where V would become negative."""
    V = exponential_step(at.W**2, at.W * at.slopes([at.W], [at.b])[0][0], step=at.h, strength=at.strength)
    return (at.W * V.sign()).sign() * V.abs().sqrt()


WAYS = {"implicit": implicit_midpoint, "flip": flip, "descent": descend}


@shared
def crossings(case: Case, rule: str, activation: Callable = linear, h: float = 0.1) -> list[dict]:
    """Thirty steps of layered networks, p = q = 2: imbalances, times, changes of sign, share of the step taken."""
    runs = []
    for one in layered_learners(case, "crossing", activation, (3, 5, 5, 2), count=3):
        W, b, clock, path, changes = one.params["W"], one.params["b"], [0.0], [], 0
        path.append(rescaling_imbalance(W, one.hidden, p=2, q=2))
        still = lambda weights, biases, one=one: (edge_gradient(one)(weights, biases)[0], [torch.zeros_like(biases[0])])
        for _ in range(30):
            at, before = Step(W, b, still, h, 2, 2, 0.1), W
            W, taken = (WAYS[rule](at), h) if rule in WAYS else exponential(at, 2)[::2]
            clock.append(clock[-1] + taken)
            changes += int((W.sign() != before.sign()).sum())
            path.append(rescaling_imbalance(W, one.hidden, p=2, q=2))
        runs.append({"Q": torch.stack(path), "clock": torch.tensor(clock, dtype=W.dtype), "changes": changes})
    if not sum(run["changes"] for run in runs):
        raise Unfinished(f"{rule}: no weight has changed its sign")
    return runs


@shared
def crossing_path(case: Case, p: float, stages: int, steps: int = 40, time: float = 8.0) -> tuple[Tensor, Tensor]:
    """First weight of the regression over time, by exponential steps."""
    one = regression(case)
    W, path, clock, edges = one.params["W"], [0.5], [0.0], one.params["W"] != 0
    slopes = lambda weights, _: ([gradient(one.error)({"W": weights[0], "b": one.params["b"]})["W"] * edges], [])
    for _ in range(steps):
        (W,), _, taken = balanced_step([W], [], slopes, step=time / steps, p=p, q=p, stages=stages)
        path.append(W[2, 0].item())
        clock.append(clock[-1] + taken)
    return torch.tensor(clock, dtype=W.dtype), torch.tensor(path, dtype=W.dtype)


@shared
def linear_loss(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Random weights, a constant gradient, and V after one large midpoint step for p = q = 2 without decay."""
    draw = case.generator("linear loss")
    W, g = torch.randn(2, 5, 6, generator=draw, dtype=torch.float64)
    middle, _ = half_step(W, g, step=LARGE, strength=0.0, p=2, q=2)
    return W, g, exponential_step(W**2, middle * g, step=LARGE, strength=0.0)


@claim("O-crossing-rules", control=[{"explicit": "descent", "implicit": "flip"}, {"passing": (1, 2)}])
def rules_that_pass_zero(case, explicit="midpoint", implicit="implicit", passing=(2, 2)):
    """For p = q = 2 both midpoint rules pass zero and keep the balance; one stage stops there, and so does p = 1.

    Where the gradient is constant the midpoint rule is the flow: the new V is the square of the weight it goes to.
    """
    ways = lambda: crossings(case, explicit) + crossings(case, explicit, torch.relu)
    starts = lambda *units: [
        charge(one.params["W"] ** 2, one.hidden)
        for g in units for one in layered_learners(case, "crossing", g, (3, 5, 5, 2), count=3)
    ]  # fmt: skip
    law = lambda runs, Q: [(-0.1 * r["clock"]).exp()[:, None] * q for r, q in zip(runs, Q, strict=True)]
    why = "rounding over 30 steps"
    signs = lambda: [crossing_path(case, *way)[1][-1].sign() for way in (passing, (2, 1), (1, 2))]
    return together(
        explicit=equal(lambda: [r["Q"] for r in ways()], lambda: law(ways(), starts(linear, torch.relu)), 1e-11, why),
        implicit=equal(
            lambda: [r["Q"] for r in crossings(case, implicit)],
            lambda: law(crossings(case, implicit), starts(linear)), 1e-11, why,
        ),
        square=equal(
            lambda: linear_loss(case)[2], lambda: (linear_loss(case)[0] - LARGE / 2 * linear_loss(case)[1]) ** 2,
            1e-12, "rounding",
        ),
        signs=equal(signs, lambda: [-1.0, 1.0, 1.0], 1e-12, "signs of a weight that has to turn"),
    )  # fmt: skip

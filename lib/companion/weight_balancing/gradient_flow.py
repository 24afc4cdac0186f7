"""What decides the claims of section 3.1 of paper E and of its introduction, and what descent does in place of flow."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from claimbook.evidence import Case, at_most, claim, equal, limit, shared, together
from companion.weight_balancing.common import Learner, Problem, layered_learners, learners, linear, until_at_rest
from normdyn.motion.flows import Field, Params, gradient, gradient_flow, integrate
from normdyn.networks.graphs import feedforward
from normdyn.networks.losses import square_loss
from normdyn.rescaling.flows import synaptic_balance

Activation = Callable[[Tensor], Tensor]
TOLERANCE = 1e-10  # of a step of the integrator


# Losses that do not notice a rescaling


def quartic(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).pow(4).mean() / 10


def logistic(output: Tensor, target: Tensor) -> Tensor:
    return functional.softplus(-output * target.sign()).mean()


def with_path_norm(one: Learner) -> Learner:
    """Add a penalty that looks at the weights and is invariant all the same: squared weights multiplied along paths."""
    ones = torch.ones(1, int(one.hidden.nonzero()[0]), dtype=torch.float64)
    paths = lambda W: feedforward(W.square(), 0 * W[0], ones, one.hidden, activation=linear).sum()
    return one._replace(error=lambda params, *rows: one.error(params, *rows) + 0.1 * paths(params["W"]))


@shared
def tasks(case: Case, activation: Activation) -> list[Learner]:
    """Graphs with hidden biases, each with a loss of its own; the last one's looks at its weights too."""
    losses = {"square": square_loss, "quartic": quartic, "logistic": logistic, "paths": square_loss}
    found = [learners(case, role, activation, hidden_bias=0.3, loss=loss, count=1)[0] for role, loss in losses.items()]
    return [*found[:-1], with_path_norm(found[-1])]


# Shared runs


def clock(field: Field, start: Params) -> Tensor:
    """Start, middle and end of the time in which the fastest parameter, at its first speed, moves by a half."""
    return torch.tensor([0, 0.25, 0.5]).double() / max(v.abs().max().item() for v in field(start).values())


@shared
def followed(case: Case, activation: Activation, weight_decay: float = 0.0) -> list[dict]:
    """Gradient flow of every task, with the integral of the squared gradient carried along; W, b, integral, loss."""
    runs = []
    for params, _, error in tasks(case, activation):
        field, slope = gradient_flow(error, weight_decay=weight_decay), gradient(error)

        def extended(state: Params, field=field, slope=slope) -> Params:
            point = {"W": state["W"], "b": state["b"]}
            return field(point) | {"integral": sum(g.square().sum() for g in slope(point).values())}

        start, times = params | {"integral": torch.zeros((), dtype=torch.float64)}, clock(field, params)
        path = integrate(extended, start, times, relative=TOLERANCE)
        losses = [error({"W": W, "b": b}) for W, b in zip(path["W"], path["b"], strict=True)]
        runs.append(path | {"loss": torch.stack(losses)})
    return runs


@shared
def slopes(case: Case, activation: Activation, weight_decay: float = 0.0) -> list[tuple[Params, Tensor, Params]]:
    """Parameters, hidden units and gradient of a loss, its decay included, at 25 random networks."""
    found = []
    for params, hidden, error in learners(case, "points", activation, hidden_bias=0.3, count=25):
        g = gradient(error)(params)
        found.append((params, hidden, {k: g[k] + weight_decay * params[k] for k in params}))
    return found


# Claims: the loss, and one number at each unit


def flat(params: Params) -> Tensor:
    return torch.cat([params["W"].flatten(), params["b"]])


@shared
def velocities(case: Case, weight_decay: float) -> list[Tensor]:
    """Of gradient flow at random points."""
    some = learners(case, "points", hidden_bias=0.3, count=3)
    return [flat(gradient_flow(one.error, weight_decay=weight_decay)(one.params)) for one in some]


def differences(one: Learner) -> Tensor:
    """Derivatives of the error by central differences: exact where it is quadratic in each single parameter."""
    start, shapes = flat(one.params), one.params["W"].shape
    at = lambda v: one.error({"W": v[: -shapes[0]].reshape(shapes), "b": v[-shapes[0] :]})
    return torch.stack([at(start + e / 2) - at(start - e / 2) for e in torch.eye(len(start), dtype=start.dtype)])


@claim("E-eq33", control={"weight_decay": 0.5})
def loss_falls(case, weight_decay=0.0):
    """Along gradient flow the loss falls at the rate of its squared gradient, and the flow rests where that is zero.

    The rate is a sum of squares: negative off stationary points. The velocity is minus the derivative at every point,
    so that fixed points are stationary points and no others.  E (33)
    """
    runs = lambda: [run for units in (linear, torch.tanh) for run in followed(case, units, weight_decay)]
    small = lambda: learners(case, "points", hidden_bias=0.3, count=3)
    return together(
        rate=equal(
            measured=lambda: [run["loss"][0] - run["loss"][1:] for run in runs()],
            predicted=lambda: [run["integral"][1:] for run in runs()],
            bound=1e-8, reason="integrator's tolerance of 1e-10 a step; linear and tanh units, four losses",
        ),
        velocity=equal(
            measured=lambda: velocities(case, weight_decay),
            predicted=lambda: [-differences(s) for s in small()],
            bound=1e-12, reason="rounding: differences are exact for linear units and the square loss",
        ),
    )  # fmt: skip


def balance(W: Tensor, b: Tensor, hidden: Tensor) -> Tensor:
    """E (34) written out, of one network or of a path of them."""
    return (b.square() + W.square().sum(-1) - W.square().sum(-2))[..., hidden]


def shrinking(run: dict, one: Learner, weight_decay: float) -> Tensor:
    """The balance of the start, times ``exp(-2 d t)``."""
    start = balance(one.params["W"], one.params["b"], one.hidden)
    return torch.exp(-2 * weight_decay * run["times"])[:, None] * start


def balances(run: dict, one: Learner) -> Tensor:
    """The balance along a path, by the library."""
    return torch.stack([synaptic_balance(W, b, one.hidden) for W, b in zip(run["W"], run["b"], strict=True)])


@claim("E-eq34", control=[{"units": (torch.tanh, torch.tanh)}, {"weight_decay": 0.5}])
def balance_is_kept(case, units=(linear, torch.relu), weight_decay=0.0):
    """Gradient flow of an invariant loss keeps the balance of every hidden unit.  E (34)

    Whole paths with linear units, for four losses; and its rate at random networks of ReLUs.
    """
    smooth, kinked = units
    both = lambda: zip(followed(case, smooth, weight_decay), tasks(case, smooth), strict=True)
    into = lambda theta, g, hidden: (theta["b"] * g["b"] + (theta["W"] * g["W"]).sum(1))[hidden]
    return together(
        path=equal(
            measured=lambda: [balances(*pair) for pair in both()],
            predicted=lambda: [shrinking(*pair, 0.0) for pair in both()],
            bound=1e-8, reason="integrator's tolerance of 1e-10 a step",
        ),
        rate=equal(
            measured=lambda: [into(theta, g, h) for theta, h, g in slopes(case, kinked, weight_decay)],
            predicted=lambda: [(theta["W"] * g["W"]).sum(0)[h] for theta, h, g in slopes(case, kinked, weight_decay)],
            bound=1e-12, reason="rounding of sums over 20 samples",
        ),
    )  # fmt: skip


@claim("O-balance-decays", control={"activation": torch.tanh})
def balance_decays(case, activation=linear, weight_decay=0.5):
    """With weight decay d on all parameters every balance shrinks by the factor exp(-2 d t)."""
    runs = lambda: zip(followed(case, activation, weight_decay), tasks(case, activation), strict=True)
    return equal(
        measured=lambda: [balances(*pair) for pair in runs()],
        predicted=lambda: [shrinking(*pair, weight_decay) for pair in runs()],
        bound=1e-8, reason="integrator's tolerance of 1e-10 a step",
    )  # fmt: skip


@shared
def balanced_runs(case: Case, layered: bool, activation: Activation, frozen: bool) -> list[dict]:
    """Gradient flow from balanced weights and hidden biases at zero: squares into, out of, and of the bias of a unit.

    Layered: the squared norms of the layers in place of units.
    """
    runs = []
    draw = layered_learners if layered else learners
    for params, hidden, error in draw(case, "balanced", activation, count=3):
        start = {"W": until_at_rest(Problem(params["W"], hidden, 2, 2)).W, "b": params["b"]}
        still, moving = hidden & frozen, gradient_flow(error)
        field = lambda s, f=moving, still=still: (v := f(s)) | {"b": torch.where(still, 0.0, v["b"])}
        path = integrate(field, start, clock(field, start), relative=TOLERANCE)
        W, b = path["W"][-1].square(), path["b"][-1].square()
        runs.append({"in": W.sum(1)[hidden], "out": W.sum(0)[hidden], "bias": b[hidden]})
    return runs


@claim("E-balanced-stays", printed={"frozen": False, "counted": False}, control={"units": (torch.tanh, torch.tanh)})
def balanced_stays(case, frozen=True, counted=True, units=(linear, torch.relu)):
    """Weights that are balanced stay so, if hidden biases are frozen at zero or counted among them.  E section 1

    Whole paths with linear units; for ReLUs the rates of both sides, which are equal at any network.
    """
    activation, kinked = units
    rates = lambda: slopes(case, kinked, 0.0)
    why = "start balanced to 1e-13, integrator's tolerance of 1e-10 a step"
    runs = lambda frozen, layered=False: balanced_runs(case, layered, activation, frozen)
    sums = lambda x: torch.stack([part.sum() for part in x.split(4)])
    return together(
        weights=equal(lambda: [r["in"] for r in runs(frozen)], lambda: [r["out"] for r in runs(frozen)], 1e-8, why),
        layers=equal(
            lambda: [sums(r["in"]) for r in runs(frozen, True)], lambda: [sums(r["out"]) for r in runs(frozen, True)],
            1e-8, why,
        ),
        with_biases=equal(
            lambda: [r["in"] + counted * r["bias"] for r in runs(False)], lambda: [r["out"] for r in runs(False)],
            1e-8, why,
        ),
        rates=equal(
            lambda: [(counted * s["b"] * g["b"] + (s["W"] * g["W"]).sum(1))[h] for s, h, g in rates()],
            lambda: [(s["W"] * g["W"]).sum(0)[h] for s, h, g in rates()],
            1e-12, "rounding of sums over 20 samples",
        ),
    )  # fmt: skip


# Ours: descent in place of flow


class Descent(NamedTuple):
    """A run of gradient descent, one entry a step and one more for the start."""

    balance: Tensor  # measured
    moved: Tensor  # its start, and what each step adds by the squares of gradients
    loss: Tensor
    squares: Tensor  # squared length of the gradient that was followed, one entry a step


def curvature(one: Learner) -> float:
    """Largest eigenvalue of the error's Hessian at the start."""
    shape = one.params["W"].shape
    at = lambda v: one.error({"W": v[: -shape[0]].reshape(shape), "b": v[-shape[0] :]})
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(at, flat(one.params)))[-1].item()


def descent(
    case: Case, one: Learner, step: float, steps: int, batch: int | None = None, weight_decay: float = 0.0
) -> Descent:
    """Gradient descent on full batches or on random ones, with the law of the balance applied beside it."""
    (params, hidden, error), slope, order = one, gradient(one.error), case.generator("batches")
    kept, rows = 1 - step * weight_decay, slice(None)
    found, law = [], balance(params["W"], params["b"], hidden)
    for _ in range(steps + 1):
        measured = synaptic_balance(params["W"], params["b"], hidden)
        rows = rows if batch is None else torch.randperm(20, generator=order)[:batch]
        g = slope(params, rows)
        found.append((measured, law, error(params), flat(g).square().sum()))
        law = kept**2 * law + step**2 * balance(g["W"], g["b"], hidden)
        params = {name: kept * value - step * g[name] for name, value in params.items()}
    balances, laws, losses, squares = (torch.stack(column) for column in zip(*found, strict=True))
    return Descent(balances, laws, losses, squares[:-1])


@shared
def descents(case: Case, activation: Activation) -> list[Descent]:
    """Runs of 50 steps at a tenth of the inverse curvature: full batches and batches of 4, without decay and with."""
    ways = [(batch, decay) for batch in (None, 4) for decay in (0.0, 0.05)]
    nets = learners(case, "descent", activation, hidden_bias=0.3, count=3)
    return [descent(case, one, 0.1 / curvature(one), 50, *way) for one in nets for way in ways]


@shared
def single_steps(case: Case, activation: Activation) -> list[Descent]:
    """One step at a time, small and absurdly large."""
    nets = learners(case, "points", activation, hidden_bias=0.3, count=25)
    return [descent(case, one, 10.0 ** (k % 5 - 2), 1, 4, 0.05) for k, one in enumerate(nets)]


@claim("O-discrete-balance", control={"activation": torch.tanh})
def balance_of_descent(case, activation=torch.relu):
    """A step of gradient descent moves the balance by the squares of its gradients, exactly, at any step and batch."""
    runs = lambda: descents(case, activation) + single_steps(case, activation)
    return equal(
        measured=lambda: [run.balance[1:] for run in runs()],
        predicted=lambda: [run.moved[1:] for run in runs()],
        bound=1e-11, reason="rounding over 50 steps, and of squares of gradients that a large step multiplies",
    )  # fmt: skip


def slow_chain(case: Case) -> Learner:
    """One input, one hidden unit, one output: the outgoing weight is large, so that the incoming one does the work."""
    edges = torch.zeros(3, 3, dtype=torch.float64)
    edges[1, 0], edges[2, 1] = 1.0, 1.0
    X = torch.randn(20, 1, generator=case.generator("chain"), dtype=torch.float64)
    error = lambda s, rows=slice(None): square_loss((s["W"][1, 0] * s["W"][2, 1] * X)[rows], X[rows])
    params = {"W": edges * torch.tensor([0.0, 0.02, 10.0], dtype=torch.float64)[:, None], "b": torch.zeros(3).double()}
    return Learner(params, torch.tensor([False, True, False]), error)


def share_kept(run: Descent, step: float) -> float:
    """The least share of ``step`` times the squared gradient by which a step lowers the loss."""
    return (-run.loss.diff() / (step * run.squares)).min().item()


@shared
def budgets(case: Case, activation: Activation) -> list[tuple[Descent, float]]:
    """Full batches, at the first of ever smaller steps that keep half of the first-order decrease; steps and runs."""
    found = []
    for one in [slow_chain(case), *learners(case, "budget", activation, hidden_bias=0.3, count=3)]:
        step = 0.2 / curvature(one)
        while share_kept(run := descent(case, one, step, 50), step) < 0.5:
            step /= 2
        found.append((run, step / share_kept(run, step)))
    return found


@claim("O-balance-budget", control={"activation": torch.tanh})
def balance_has_a_budget(case, activation=linear):
    """If each step lowers the loss by c eta |grad L|^2, no balance moves by more than eta / c times the loss lost."""
    runs = lambda: budgets(case, activation)
    return at_most(
        left=lambda: [(run.balance[-1] - run.balance[0]).abs().max() for run, _ in runs()],
        right=lambda: [ratio * (run.loss[0] - run.loss[-1]) for run, ratio in runs()],
        bound=1e-9, reason="rounding of a small difference of balances",
    )  # fmt: skip


@shared
def small_steps(case: Case, activation: Activation, steps: int) -> list[Tensor]:
    """Change of the balance by descent over a fixed time, in units of the step."""
    found = []
    for one in learners(case, "rates", activation, hidden_bias=0.3, count=3):
        step = 1 / curvature(one) / steps
        run = descent(case, one, step, steps)
        found.append((run.balance[-1] - run.balance[0]) / step)
    return found


@shared
def excess(case: Case, activation: Activation) -> list[Tensor]:
    """Squares of gradients into a unit less those out of it, integrated along the flow over the same time."""
    found = []
    for params, hidden, error in learners(case, "rates", activation, hidden_bias=0.3, count=3):
        slope = gradient(error)

        def extended(s: Params, slope=slope, hidden=hidden) -> Params:
            g = slope({"W": s["W"], "b": s["b"]})
            return {"W": -g["W"], "b": -g["b"], "sum": balance(g["W"], g["b"], hidden)}

        start = params | {"sum": torch.zeros(int(hidden.sum()), dtype=torch.float64)}
        time = 1 / curvature(Learner(params, hidden, error))
        found.append(integrate(extended, start, [0, time], relative=TOLERANCE)["sum"][-1])
    return found


@claim("O-balance-first-order", control={"activation": torch.tanh})
def drift_is_of_first_order(case, activation=linear):
    """Over a fixed time descent moves the balance by eta times an integral along the flow, to first order."""
    drift = lambda n: zip(small_steps(case, activation, n), small_steps(case, activation, 2 * n), strict=True)
    return limit(
        measured=lambda reach: [2 * fine - coarse for coarse, fine in drift(int(20 * reach))],
        predicted=lambda: excess(case, activation),
        bound=5e-3, reason="second order in steps of a twentieth of the time, after one extrapolation",
    )  # fmt: skip

"""Ours, next to section 3.2 of paper E: weights that are zero stay zero, and hidden biases can be trained."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from claimbook.evidence import Case, at_most, claim, equal, shared, tendency, together
from companion.weight_balancing.common import Learner, learners, linear
from companion.weight_balancing.penalties import NORMS, TOLERANCE, Penalty, flow_of, least, norm
from normdyn.motion.flows import descend, gradient, integrate
from normdyn.networks.graphs import feedforward, layered_matrix, layered_weights
from normdyn.networks.losses import square_loss
from normdyn.rescaling.flows import minimum_norm_flow
from normdyn.rescaling.group import rescaling_derivative, scatter


def subsets(d: int) -> list[Tensor]:
    return [torch.tensor([code >> k & 1 for k in range(d)]).bool() for code in range(2**d)]


@shared
def regression(case: Case, d: int = 5, p: float = 1) -> dict:
    """A linear regression without hidden units, and its least-squares solutions on every subset of inputs."""
    draw, hidden = case.generator("regression"), torch.zeros(d + 1, dtype=torch.bool)
    X, noise = (torch.randn(30, k, generator=draw, dtype=torch.float64) for k in (d, 1))
    Y = noise + X.sum(1, keepdim=True)
    error = lambda s: square_loss(feedforward(s["W"], s["b"], X, hidden), Y)

    def place(w: Tensor) -> dict:
        W = torch.zeros(d + 1, d + 1, dtype=torch.float64)
        W[d, :d] = w
        return {"W": W, "b": torch.zeros(d + 1, dtype=torch.float64)}

    solutions = []
    for some in subsets(d):
        A = X * some
        w = torch.linalg.solve(A.mT @ A + torch.diag(~some).double(), A.mT @ Y)[:, 0]
        solutions.append(place(torch.where(some, w, 0.0)))
    start = place(torch.tensor([-1.0, 1, 1, 1, 1]).double())
    flow = minimum_norm_flow(error, hidden, p=p, q=p)
    path = integrate(lambda s: flow(s) | {"b": 0 * s["b"]}, start, [0, 5, 10, 20], record={"w": lambda s: s["W"][d, 0]})
    return {"error": error, "hidden": hidden, "solutions": solutions, "wrong side": path["w"]}


@claim("O-dead-weights", control={"p": 2})
def zero_is_an_equilibrium(case, p=1):
    """A linear regression on d inputs has one stationary point, and its flow for p = q = 1 has 2^d equilibria.

    A weight that starts on the wrong side of zero dies out there. Gradient flow, p = q = 2, crosses zero.
    """

    def resting(case):
        data, edges = regression(case), torch.zeros(6, 6, dtype=torch.bool)
        edges[5, :5] = True
        flow = minimum_norm_flow(data["error"], data["hidden"], p=p, q=p, edges=edges)
        return [float(flow(s)["W"].abs().max() < 1e-11) for s in data["solutions"]]

    def stationary(case):
        data = regression(case)
        return sum(float(grad(data["error"])(s)["W"][5, :5].abs().max() < 1e-11) for s in data["solutions"])

    return together(
        points=equal(
            lambda: [float(sum(resting(case))), stationary(case)], lambda: [32.0, 1.0], 1e-9, "numbers of points"
        ),
        wrong_side=equal(
            lambda: regression(case, p=p)["wrong side"].sign(), lambda: -torch.ones(4), 1e-9, "signs are exact"
        ),
    )


@shared
def with_biases(
    case: Case,
    activation: Callable = linear,
    strength: float = 0.5,
    unit: bool = False,
    penalties: tuple[Penalty, ...] = NORMS,
    times: tuple[float, ...] = (0.0, 0.2),
    **options,
) -> list[dict]:
    """Hidden biases that move, from balanced starts; the law of Q is integrated next to the network."""
    runs = []
    for one, penalty in zip(learners(case, "biases", activation, hidden_bias=0.5, count=4), penalties, strict=False):
        if unit:
            one = with_constant_unit(one)
        start = one.params | {"W": least(penalty, one.params["W"], one.hidden)}
        Q = lambda s, R=penalty, h=one.hidden: rescaling_derivative(R, s["W"], h)
        slope, field = gradient(one.error), flow_of(one, penalty, strength, **options)

        def extended(s, one=one, slope=slope, field=field):
            now = {"W": s["W"], "b": s["b"]}
            return field(now) | {"law": -strength * s["law"] + (s["b"] * slope(now)["b"])[one.hidden]}

        record = {"Q": Q, "law": lambda s: s["law"], "b": lambda s, h=one.hidden: s["b"][h]}
        path = integrate(extended, start | {"law": Q(start)}, times, record=record, relative=1e-9)
        runs.append(path | {"size": penalty(start["W"])})
    return runs


def with_constant_unit(one: Learner) -> Learner:
    """The same network with its hidden biases as weights from a first unit that is always one."""
    (params, hidden, error), n = one, len(one.hidden)
    W = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    W[1:, 1:], W[1:, 0] = params["W"], params["b"] * hidden
    inner = lambda s: {"W": s["W"][1:, 1:], "b": torch.where(hidden, s["W"][1:, 0], s["b"][1:])}
    b = torch.cat([W[0, :1], params["b"] * ~hidden])
    return Learner({"W": W, "b": b}, torch.cat([torch.tensor([False]), hidden]), lambda s: error(inner(s)))


@claim("O-bias-law", control=[{"activation": torch.tanh}, {"bias_decay": 0.0}])
def biases_and_balance(case, activation=linear, bias_decay=0.5):
    """Whatever hidden biases do, dQ/dt = -lambda Q + b dE/db; with decay lambda the charge Q + b^2 / 2 kappa decays.

    Counted as weights from a unit that is always one, biases keep the balance that includes them; and a compensating
    rescaling keeps the balance of the weights alone.
    """
    runs = lambda **options: with_biases(case, activation, **options)
    moving = lambda: runs(bias_speed=1.0)
    charged = lambda: runs(bias_speed=2.0, bias_decay=bias_decay)
    charge = lambda run: run["Q"] + run["b"] ** 2 / 4
    fading = lambda run: torch.exp(-0.5 * run["times"])[:, None] * charge(run)[0]
    size = lambda some: lambda: [run["size"] for run in some()]
    unit = lambda: runs(unit=True, penalties=NORMS[2:])
    compensated = lambda: runs(bias_speed=1.0, compensate=True, penalties=NORMS[2:])
    return together(
        law=equal(
            measured=lambda: [run["Q"] for run in moving()],
            predicted=lambda: [run["law"] for run in moving()],
            scale=size(moving), bound=1e-7, reason=TOLERANCE,
        ),
        charge=equal(
            measured=lambda: [charge(run) for run in charged()],
            predicted=lambda: [fading(run) for run in charged()],
            bound=1e-7, reason=TOLERANCE,
        ),
        unit=equal(
            measured=lambda: [run["Q"] for run in unit()],
            predicted=lambda: [0 * run["Q"] for run in unit()],
            scale=size(unit), bound=1e-7, reason=TOLERANCE,
        ),
        compensated=equal(
            measured=lambda: [run["Q"] for run in compensated()],
            predicted=lambda: [0 * run["Q"] for run in compensated()],
            scale=size(compensated), bound=1e-7, reason=TOLERANCE,
        ),
    )  # fmt: skip


WAYS = {
    "frozen at zero": {},
    "gradient flow": {"bias_speed": 1.0},
    "compensated": {"bias_speed": 1.0, "compensate": True},
}


@shared
def sines(case: Case, way: str, steps: int = 200, seeds: int = 8, every: int = 10) -> list[dict]:
    """A sine in one dimension, twenty ReLUs, Euler steps of 0.1 along the flow of the (1, 2) norm."""
    runs, draw, penalty = [], case.generator("sines"), norm(1, 2)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    for _ in range(seeds):
        W, hidden = layered_matrix(layered_weights((1, 20, 1), draw))
        b = scatter(torch.randn(20, generator=draw, dtype=W.dtype), hidden) * (way != "frozen at zero")

        def error(s: dict) -> Tensor:
            values = torch.relu(x @ s["W"][1:21, :1].mT + s["b"][1:21])
            return square_loss(values @ s["W"][21:, 1:21].mT + s["b"][21:], torch.sin(2 * x))

        one = Learner({"W": least(penalty, W, hidden), "b": b}, hidden, error)
        tilt = lambda s, h=hidden: rescaling_derivative(penalty, s["W"], h).norm() / penalty(s["W"])
        field = flow_of(one, penalty, 1e-4, **WAYS[way])
        record = {"error": error, "tilt": tilt}
        runs.append(descend(field, one.params, step=0.1, steps=steps, every=every, record=record))
    return runs


def floor() -> Tensor:
    """The least error of any network of ReLUs without hidden biases: one kink, at zero, and a constant."""
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    basis = torch.cat([x.relu(), (-x).relu(), torch.ones_like(x)], 1)
    Y = torch.sin(2 * x)
    return square_loss(basis @ torch.linalg.lstsq(basis, Y).solution, Y)


@claim(
    "O-trained-biases",
    control=[{"without": "compensated"}, {"way": "frozen at zero"}, {"way": "gradient flow"}],
    untrained={"steps": 1},
    longer={"steps": 400},
)
def balanced_and_biased(case, way="compensated", without="frozen at zero", steps=200):
    """With trained biases a network learns what it cannot without; compensated, it stays balanced ten times better.

    Without hidden biases a function of one input has one kink, at zero, and no error is below the least of those.
    """
    ends = lambda way: torch.stack([run["error"][-1] for run in sines(case, way, steps)])
    worst = lambda way: torch.stack([run["tilt"].max() for run in sines(case, way, steps)])
    cell = "eight starts of twenty ReLUs, 200 steps of 0.1"
    return together(
        floor=at_most(lambda: floor(), lambda: ends(without), 1e-9, "rounding"),
        learns=tendency(lambda: [(floor() / ends(way)).log()], reason=cell),
        balanced=tendency(
            lambda: [(worst("gradient flow") / worst(way)).log10()], least=1.0, reason=f"{cell}; tenfold"
        ),
    )

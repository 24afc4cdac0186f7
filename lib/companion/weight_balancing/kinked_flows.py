"""Flows of ReLU networks with one hidden layer, which slide where a sample is pinned at a unit's kink. Ours."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.optimize import brentq, lsq_linear
from torch import Tensor
from torch.func import grad, hessian, jvp

from claimbook.evidence import Case, claim, equal, limit, shared, together
from companion.weight_balancing.common import written_out
from companion.weight_balancing.penalties import NORMS, Penalty, itself, least, norm
from normdyn.motion.flows import Params, descend
from normdyn.motion.sliding import FlowEnds, slide
from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling.flows import minimum_norm_flow
from normdyn.rescaling.group import rescaling_imbalance


class Kinked(NamedTuple):
    """A network of one hidden layer and one output, and its data; gates are the slopes of the ReLUs on each sample."""

    W: Tensor
    hidden: Tensor
    X: Tensor
    Y: Tensor  # (samples,)
    bias: Tensor  # of the hidden units, frozen

    def switches(self, s: Params) -> Tensor:
        """The pre-activations, unit after unit."""
        return (s["W"][self.hidden, : self.X.shape[1]] @ self.X.mT + self.bias[:, None]).flatten()

    def rates(self, s: Params, velocity: Params) -> Tensor:
        """Of the switches, which are linear in the weights."""
        return (velocity["W"][self.hidden, : self.X.shape[1]] @ self.X.mT).flatten()

    def error(self, s: Params, gates: Tensor) -> Tensor:
        values = (gates * self.switches(s)).reshape(len(self.bias), -1)
        return (s["W"][-1, self.hidden] @ values - self.Y).square().sum() / (2 * len(self.Y))

    def plain(self, s: Params) -> Tensor:
        """The error as anyone would write it."""
        values = torch.relu(s["W"][self.hidden, : self.X.shape[1]] @ self.X.mT + self.bias[:, None])
        return (s["W"][-1, self.hidden] @ values - self.Y).square().sum() / (2 * len(self.Y))

    def field(self, penalty: Penalty, strength: float) -> Callable[[Params, Tensor], Params]:
        """The weight-balancing flow under given gates; no bias moves."""
        p, q = penalty.exponents

        def velocity(s: Params, gates: Tensor) -> Params:
            flow = minimum_norm_flow(lambda r: self.error(r, gates), self.hidden, p=p, q=q, strength=strength)
            return {"W": flow(s | {"b": self.W[0]})["W"]}

        return velocity


@shared
def kinked(case: Case, hidden_bias: float = 0.0) -> list[Kinked]:
    """Networks with 3 inputs and 4 ReLUs on 10 Gaussian samples, one for each of four norms."""
    draw, found = case.generator("kinked"), []
    for _ in NORMS:
        W, hidden = layered_matrix(layered_weights((3, 4, 1), draw))
        X, Y, b = (torch.randn(*shape, generator=draw, dtype=W.dtype) for shape in ((10, 3), (10,), (4,)))
        found.append(Kinked(W, hidden, X, Y, hidden_bias * b))
    return found


@shared
def slid(
    case: Case,
    strength: float,
    balance: bool,
    hidden_bias: float = 0.0,
    driver: Callable[[Penalty], Penalty] = itself,
    penalties: tuple[Penalty, ...] = NORMS,
    times: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0),
) -> list[dict]:
    """The flow of every network, from event to event: W, imbalance Q, plain loss, gates.

    Where it ends before the last time, since all weights into a unit come to zero, the times are drawn together.
    """
    runs = []
    for one, penalty in zip(kinked(case, hidden_bias), penalties, strict=False):
        p, q = penalty.exponents
        start = {"W": least(penalty, one.W, one.hidden) if balance else one.W}
        record = {
            "W": lambda s: s["W"],
            "Q": lambda s, h=one.hidden, p=p, q=q: rescaling_imbalance(s["W"], h, p=p, q=q),
            "loss": lambda s, one=one, R=penalty: one.plain(s) + strength * R(s["W"]),
        }
        field = one.field(driver(penalty), strength)
        follow = lambda times, one=one, field=field, start=start, record=record: slide(
            field, one.switches, start, times, rates=one.rates, record=record, relative=1e-9
        )
        try:
            path = follow(times)
        except FlowEnds as end:
            path = follow([0.9 * end.time * time / times[-1] for time in times])
        runs.append(path | {"one": one, "penalty": penalty, "hidden": one.hidden, "strength": strength})
    return runs


def pinned(run: dict) -> Tensor:
    """How many samples are pinned at a kink of a unit, at each recorded time."""
    return ((run["gates"] > 0) & (run["gates"] < 1)).sum(1)


# A network that can be solved: two inputs, one ReLU, two samples

TILT, TARGET, PULL = 2.0, 1.0, 1.0  # samples (1, -TILT) with target -PULL and (1, 0) with target TARGET


def solvable(p: float, u: float = 0.25) -> Kinked:
    """Incoming weights (TILT u, u): the first sample is at the kink, and stays there. Balanced for p = q."""
    W, hidden = layered_matrix([weights(u, p)[:2][None], weights(u, p)[2:][None]])
    X, Y = torch.tensor([[1.0, -TILT], [1.0, 0.0]]), torch.tensor([-PULL, TARGET])
    return Kinked(W, hidden, X.double(), Y.double(), torch.zeros(1).double())


def closed_form(p: float, time: float, u: float = 0.25) -> float:
    """The second incoming weight at a time: du/dt = c u^(3-p) (y - m u^2), for p = q in 1, 2, 4."""
    m, c = TILT * (1 + TILT**p) ** (1 / p), TILT / (2 * p) * (1 + TILT**p) ** (1 / p - 1)
    rest = TARGET / m
    if p == 2:
        return math.sqrt(rest / (1 + (rest / u**2 - 1) * math.exp(-2 * c * TARGET * time)))
    if p == 4:
        return math.sqrt(rest - (rest - u**2) * math.exp(-2 * c * m * time))
    clock = lambda v: (math.atanh(v / math.sqrt(rest)) / math.sqrt(rest) - 1 / v) / (c * TARGET)
    return brentq(lambda v: clock(v) - clock(u) - time, u, math.sqrt(rest) * (1 - 1e-13), xtol=1e-15)


SPANS = (0.5, 1.0, 2.0)
POWERS = (1, 2, 4)


@shared
def solved(p: float) -> dict:
    """The solvable network from event to event."""
    one, penalty = solvable(p), norm(p, p)
    path = slide(one.field(penalty, 0.0), one.switches, {"W": one.W}, (0.0, *SPANS), rates=one.rates)
    return path | {"one": one, "penalty": penalty, "strength": 0.0}


@shared
def stepped(p: float, step: float, time: float = 1.0) -> dict:
    """The same by Euler steps with the slope 0 at the kink, as torch has it: it hops across the kink."""
    one = solvable(p)
    flow = minimum_norm_flow(one.plain, one.hidden, p=p, q=p)
    record = {"W": lambda s: s["W"], "kink": lambda s: one.switches(s)[0]}
    return descend(flow, {"W": one.W, "b": one.W[0]}, step=step, steps=round(time / step), record=record)


def weights(u: float, p: float) -> Tensor:
    return torch.tensor([TILT * u, u, (1 + TILT**p) ** (1 / p) * u], dtype=torch.float64)


def three(W: Tensor) -> Tensor:
    """The weights of the solvable network."""
    return torch.stack([W[..., 2, 0], W[..., 2, 1], W[..., 3, 2]], -1)


# Rates of the loss


def rate_of_loss(run: dict, k: int) -> Tensor:
    """dL/dt at a recorded time, L as anyone would write it, along the velocity of the path."""
    one, s = run["one"], {"W": run["W"][k]}
    velocity = one.field(run["penalty"], run["strength"])(s, run["gates"][k])
    loss = lambda W: one.plain({"W": W}) + run["strength"] * run["penalty"](W)
    return jvp(loss, (s["W"],), (velocity["W"],))[1]


def least_subgradient(run: dict, k: int, bend: Callable[[Tensor], Tensor]) -> Tensor:
    """Minus the least of g H^-1 g over subgradients g of the loss in log|W|; H by autograd of E (51) written out."""
    one, W, gates = run["one"], run["W"][k], run["gates"][k]
    edges = W != 0
    turned = lambda omega: torch.zeros_like(W).index_put(edges.nonzero(as_tuple=True), W[edges] * omega.exp())
    R, zero = lambda omega: written_out(turned(omega), *run["penalty"].exponents), W.new_zeros(int(edges.sum()))
    slope = lambda gates: grad(lambda o: one.error({"W": turned(o)}, gates) + run["strength"] * R(o))(zero)
    kinks = (one.switches({"W": W}).abs() < 1e-8).nonzero()[:, 0]
    shut = gates.index_fill(0, kinks, 0.0)
    opened = [slope(shut.index_fill(0, j[None], 1.0)) - slope(shut) for j in kinks]
    half = torch.linalg.inv(torch.linalg.cholesky(bend(hessian(R)(zero))))
    g = half @ slope(shut)
    if opened:
        A = half @ torch.stack(opened, 1)
        mixture = lsq_linear(A.numpy(), -g.numpy(), bounds=(0, 1), tol=1e-14).x
        g = g + A @ torch.from_numpy(mixture)
    return -g @ g


def as_it_is(H: Tensor) -> Tensor:
    return H


def doubled(H: Tensor) -> Tensor:
    return 2 * H


@claim("O-sliding", control=[{"hidden_bias": 0.5}, {"bend": doubled}])
def sliding(case, hidden_bias=0.0, bend=as_it_is):
    """The flow of a network of ReLUs slides along kinks, and there too imbalance decays and the loss falls.

    Filippov's solution agrees with a closed form, and with Euler's steps in the limit. Along it every imbalance decays
    at rate lambda; the loss falls at the rate of the least subgradient, measured by the inverse Hessian of the penalty.
    """
    times = [(p, k, time) for p in POWERS for k, time in enumerate(SPANS)]
    runs = lambda: slid(case, 0.1, False, hidden_bias)
    fading = lambda run: torch.exp(-run["strength"] * run["times"])[:, None] * run["Q"][0]
    every = lambda: [solved(p) for p in POWERS] + slid(case, 0.1, False)
    return together(
        closed_form=equal(
            measured=lambda: [three(solved(p)["W"][k + 1]) for p, k, _ in times],
            predicted=lambda: [weights(closed_form(p, time), p) for p, _, time in times],
            bound=1e-9, reason="tolerance of 1e-11 a step, and of the events",
        ),
        steps=limit(
            measured=lambda reach: [three(stepped(p, 2e-3 / reach)["W"][-1]) for p in (1, 2)],
            predicted=lambda: [weights(closed_form(p, 1.0), p) for p in (1, 2)],
            bound=5e-3, reason="Euler hops across the kink, by up to twice a step of 0.002 times the speed",
        ),
        balance=equal(
            measured=lambda: [run["Q"][1:] for run in runs()],
            predicted=lambda: [fading(run)[1:] for run in runs()],
            bound=1e-8, reason="tolerance of 1e-10 a step, and of the events; four norms",
        ),
        descent=equal(
            measured=lambda: [rate_of_loss(run, k) for run in every() for k in range(len(run["times"]))],
            predicted=lambda: [least_subgradient(run, k, bend) for run in every() for k in range(len(run["times"]))],
            bound=1e-7, reason="rounding of a bounded least-squares problem",
        ),
    )  # fmt: skip

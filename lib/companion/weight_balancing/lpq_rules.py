"""Rules that discretise the flows of section 3.3 of paper E, and how far they get: of the paper, and ours."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.weight_balancing.common import EXPONENTS, Learner, learners
from normdyn.motion.flows import Params, gradient, integrate
from normdyn.rescaling.descent import balanced_step
from normdyn.rescaling.flows import minimum_norm_flow
from normdyn.rescaling.group import rescaling_imbalance

NORMS = (*EXPONENTS, (0.5, 0.7))  # the last pair is no norm, and nothing in section 3.3 needs one
STRENGTH = 0.5  # lambda
FIRST_ORDER = "second order in steps of an eighth of the time, after one extrapolation"


class Step(NamedTuple):
    """Where a rule is: weights, biases, gradient of the error there, step, exponents."""

    W: Tensor
    b: Tensor
    slopes: Callable
    h: float
    p: float
    q: float
    strength: float = STRENGTH


def descend(at: Step) -> Tensor:
    """E (52) with eta = h / 2; the penalty of p = q = 2 has the slope W."""
    return at.W - at.h / 2 * (at.slopes([at.W], [at.b])[0][0] + at.strength * at.W)


def exponentiate(at: Step) -> Tensor:
    """E (53) with eta = h; the penalty of p = q = 1 has the slope sign(W)."""
    return at.W * (-at.h * (at.W.sign() * at.slopes([at.W], [at.b])[0][0] + at.strength)).exp()


def exponential(at: Step, stages: int) -> tuple[Tensor, Tensor, float]:
    """The rules of the section below, from the library: weights, output biases, time taken."""
    norm = {"p": at.p, "q": at.q, "strength": at.strength}
    (W,), (b,), taken = balanced_step([at.W], [at.b], at.slopes, step=at.h, stages=stages, **norm)
    return W, b, taken


def step_once(rule: str, at: Step) -> tuple[Tensor, Tensor, float]:
    """One step of a rule by name: weights, biases and the time that it took."""
    if rule in ("Euler", "midpoint"):
        return exponential(at, {"Euler": 1, "midpoint": 2}[rule])
    b = at.b - at.h * at.slopes([at.W], [at.b])[1][0]
    return {"descent": descend, "exponentiated": exponentiate}[rule](at), b, at.h


def edge_gradient(one: Learner, rows=slice(None)) -> Callable:
    """Gradients of the error as balanced_step wants them: weights, and biases of which only the outputs' move."""

    def at(weights: list[Tensor], biases: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        slope = gradient(one.error)({"W": weights[0], "b": biases[0]}, rows)
        return [slope["W"]], [torch.where(one.hidden, 0.0, slope["b"])]

    return at


def flow_of(one: Learner, p: float, q: float, strength: float = STRENGTH) -> Callable[[Params], Params]:
    return minimum_norm_flow(one.error, one.hidden, p=p, q=q, strength=strength)


def span_of(one: Learner, p: float, q: float, share: float) -> float:
    """The time in which the fastest weight, at its first speed, changes by a share of itself."""
    W = one.params["W"]
    return share / (flow_of(one, p, q)(one.params)["W"] / W)[W != 0].abs().max().item()


def away_from_zero(one: Learner) -> Learner:
    """The network without small weights, which would be the first to move and leave the others no time."""
    W = one.params["W"]
    return one._replace(params=one.params | {"W": W + 0.5 * W.sign()})


@shared
def without_small_weights(case: Case) -> list[Learner]:
    """Two linear networks on which rules are compared with the flow."""
    return [away_from_zero(one) for one in learners(case, "rules", count=2)]


@shared
def references(case: Case, p: float, q: float) -> list[tuple[float, Tensor]]:
    """For linear networks a time, and the flow's weights then."""
    found = []
    for one in without_small_weights(case):
        time = span_of(one, p, q, 0.2)
        found.append((time, integrate(flow_of(one, p, q), one.params, [0, time])["W"][-1]))
    return found


@shared
def ends(case: Case, rule: str, p: float, q: float, count: int) -> list[tuple[Tensor, Tensor]]:
    """Error in the weights, and miss of the law of the balance, after so many steps to that time."""
    found = []
    for one, (time, exact) in zip(without_small_weights(case), references(case, p, q), strict=True):
        W, b, start = one.params["W"], one.params["b"], rescaling_imbalance(one.params["W"], one.hidden, p=p, q=q)
        for _ in range(count):
            W, b, _ = step_once(rule, Step(W, b, edge_gradient(one), time / count, p, q))
        law = math.exp(-STRENGTH * time) * start
        found.append(((W - exact).norm(), (rescaling_imbalance(W, one.hidden, p=p, q=q) - law).norm()))
    return found


def order(case: Case, rule: str, p: float, q: float, count: int, which: int = 0) -> Tensor:
    """Order of a rule from count, twice and four times as many steps, extrapolated once."""
    errors = [torch.stack([pair[which] for pair in ends(case, rule, p, q, k * count)]) for k in (1, 2, 4)]
    first, second = ((a / b).log2() for a, b in zip(errors, errors[1:], strict=False))
    return 2 * second - first


def regression(case: Case, seed: int = 0) -> Learner:
    """One linear unit on two inputs that has to turn the sign of its first weight, from 0.5 to -1."""
    X = torch.randn(30, 2, generator=case.generator(f"regression {seed}"), dtype=torch.float64)
    W = torch.zeros(3, 3, dtype=torch.float64)
    W[2, :2] = torch.tensor([0.5, 0.3])
    target = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    error = lambda s, *rows: (X @ (s["W"][2, :2] - target)).square().mean() / 2
    return Learner({"W": W, "b": torch.zeros_like(W[0])}, torch.zeros(3, dtype=torch.bool), error)

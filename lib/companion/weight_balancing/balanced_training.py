"""What decides our claims on training that keeps a network balanced at any step size."""

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from claimbook.evidence import Case, claim, equal, shared, tendency, together
from normdyn.data.sets import digits, flatten
from normdyn.networks.graphs import layered_matrix
from normdyn.rescaling.descent import BalancedDescent, StepCollapsed
from normdyn.rescaling.gauge import minimum_norm, rebalance
from normdyn.rescaling.group import entrywise_norm, incoming_outgoing, regularizer, rescaling_imbalance
from normdyn.rescaling.problems import RescalingProblem

WIDTHS, LEARNT, SEEDS = (64, 24, 24, 10), 1400, 8  # units, digits to learn from, networks a cell
STRENGTH = 1e-3  # of the penalty


class Rule(NamedTuple):
    """How one trains: exponents of the penalty, step, stages of the balanced rule (0: gradient descent).

    With ``every`` the network is rebalanced after that many steps.
    """

    p: float
    q: float
    step: float
    stages: int = 1
    every: int = 0


RULES = {
    "balanced (1, 1)": Rule(1, 1, 2.0),
    "balanced (1, 2)": Rule(1, 2, 6.0),
    "balanced (2, 2)": Rule(2, 2, 0.3, 2),
    "descent (1, 1)": Rule(1, 1, 0.2, 0),
    "descent (1, 2)": Rule(1, 2, 0.2, 0),
    "descent (2, 2)": Rule(2, 2, 0.15, 0),
    "descent, rescaled": Rule(2, 2, 0.15, 0, every=10),
}
BALANCED, DESCENT = tuple(RULES)[:3], tuple(RULES)[3:6]
STEPS = {"quick": 150, "paper": 1500}


@shared
def sample(case: Case) -> tuple[Tensor, Tensor]:
    """All digits in random order; the first 1,400 are to learn from."""
    data = flatten(digits())
    order = torch.randperm(len(data.labels), generator=case.generator("order"))
    return data.inputs[order].to(case.device), data.labels[order].to(case.device)


def batches(case: Case, steps: int, number: int = 0, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches drawn anew for each network."""
    (X, Y), draw = sample(case), case.generator(f"batches {number}")
    for _ in range(steps):
        rows = torch.randint(LEARNT, (size,), generator=draw).to(case.device)
        yield X[rows], Y[rows]


def network(case: Case, number: int = 0, *, p: float, q: float, balanced: bool = True) -> nn.Sequential:
    """Two hidden layers of ReLUs without biases; brought into balance, which changes no output."""
    draw, layers = case.generator(f"network {number}"), []
    for below, above in zip(WIDTHS, WIDTHS[1:], strict=False):
        layers += [nn.Linear(below, above, bias=above == WIDTHS[-1], dtype=torch.float64), nn.ReLU()]
        nn.init.kaiming_uniform_(layers[-2].weight, a=math.sqrt(5), generator=draw)
    nn.init.zeros_(layers[-2].bias)
    model = nn.Sequential(*layers[:-1]).to(case.device)
    return rebalance(model, p=p, q=q, tol=1e-26, verify=False).model if balanced else model


def matrix(model: nn.Sequential) -> tuple[Tensor, Tensor]:
    """The network's weights as one matrix over all units, with the mask of the hidden ones."""
    return layered_matrix([layer.weight for layer in model if isinstance(layer, nn.Linear)])


class Run(NamedTuple):
    """What training leaves: imbalances before and after each step, steps taken, losses now and then, the network."""

    imbalances: Tensor
    taken: Tensor
    losses: Tensor
    W: Tensor
    hidden: Tensor
    right: float
    share: float  # of a unit in the norm at the start, by which imbalances are measured


@shared
def run(case: Case, rule: Rule, number: int, steps: int, strength: float = STRENGTH, balanced: bool = True) -> Run:
    """Train one network on digits; descent has the penalty in its loss, the balanced rules have it built in."""
    p, q, descent = rule.p, rule.q, not rule.stages
    model = network(case, number, p=p, q=q, balanced=balanced)
    if descent:
        optimizer = torch.optim.SGD(model.parameters(), rule.step)
    else:
        optimizer = BalancedDescent(model, rule.step, p=p, q=q, strength=strength, stages=rule.stages)
    penalty = lambda: strength * regularizer(matrix(model)[0], p=p, q=q)
    whole = lambda: F.cross_entropy(model(sample(case)[0][:LEARNT]), sample(case)[1][:LEARNT]) + penalty()
    imbalances, taken, losses = [rescaling_imbalance(*matrix(model), p=p, q=q)], [], [whole().item()]
    share = incoming_outgoing(matrix(model)[0], p=p, q=q)[0][matrix(model)[1]].mean().item()
    for t, (X, Y) in enumerate(batches(case, steps, number), 1):

        def closure(X=X, Y=Y) -> Tensor:
            optimizer.zero_grad()
            error = F.cross_entropy(model(X), Y) + (penalty() if descent else 0.0)
            error.backward()
            return error

        with warnings.catch_warnings():  # rules that stop are run on purpose
            warnings.simplefilter("ignore", StepCollapsed)
            optimizer.step(closure)
        if rule.every and t % rule.every == 0:
            rebalance(model, p=p, q=q, tol=1e-24, inplace=True, verify=False)
        imbalances.append(rescaling_imbalance(*matrix(model), p=p, q=q))
        taken.append(2 * rule.step if descent else optimizer.taken)
        if t % 10 == 0:
            losses.append(whole().item())
    X, Y = sample(case)
    right = (model(X[LEARNT:]).argmax(1) == Y[LEARNT:]).double().mean().item()
    numbers = [torch.tensor(values, dtype=torch.float64) for values in (taken, losses)]
    return Run(
        torch.stack(imbalances).detach().cpu(), *numbers, *(part.detach().cpu() for part in matrix(model)), right, share
    )


@shared
def runs(case: Case, name: str, steps: int | None = None, count: int = SEEDS) -> list[Run]:
    """Several networks under one rule."""
    steps = STEPS[case.profile] if steps is None else steps
    return [run(case, RULES[name], number, steps) for number in range(count)]


def norm(r: Run, rule: Rule) -> Tensor:
    return entrywise_norm(r.W, p=rule.p, q=rule.q)


def least_norm(r: Run, rule: Rule) -> float:
    """The least norm among all rescalings of the trained network."""
    problem = RescalingProblem.graph(r.W, r.hidden, p=rule.p, q=rule.q, precise=True)
    return minimum_norm(problem, tolerance=1e-14).norm


@claim("O-balance-kept", control={"rules": DESCENT})
def training_stays_balanced(case, rules=BALANCED, count=3):
    """On mini-batches the balanced rules keep the balance to rounding, so the norm stays the least of its orbit."""
    every = lambda: [(r, RULES[name]) for name in rules for r in runs(case, name, count=count)]
    why = "rounding of some hundred steps"
    return together(
        balance=equal(
            lambda: [r.imbalances for r, _ in every()],
            lambda: [0.0 for _ in every()],
            bound=1e-11,
            reason=why,
            scale=lambda: [r.share for r, _ in every()],
        ),
        norm=equal(
            lambda: [norm(*one) for one in every()],
            lambda: [least_norm(*one) for one in every()],
            bound=1e-11,
            reason=why,
        ),
    )


LONG = (Rule(1, 1, 50.0), Rule(1, 2, 20.0), Rule(2, 2, 10.0, 2), Rule(2, 1, 1.0, 2), Rule(1.5, 3, 5.0, 2))


@claim("O-imbalance-decays", control={"rules": tuple(RULES[name] for name in DESCENT)})
def imbalance_decays_at_any_step(case, rules=LONG, strength=0.02, count=3):
    """From an unbalanced start each step multiplies every imbalance by exp(-lambda times the step taken)."""
    every = lambda: [run(case, rule, number, 20, strength, False) for rule in rules for number in range(count)]
    factor = lambda r: torch.exp(-strength * F.pad(r.taken, (1, 0)).cumsum(0))[:, None]
    return equal(
        lambda: [r.imbalances for r in every()],
        lambda: [factor(r) * r.imbalances[0] for r in every()],
        bound=1e-11,
        reason="rounding of 20 steps, however long",
    )


ASKED = (0.03, 0.1, 0.3, 1.0)  # steps in flow time


@shared
def shares(case: Case, p: float, q: float, stages: int) -> Tensor:
    """Flow time taken over flow time asked for, networks by steps."""
    taken = lambda step, number: run(case, Rule(p, q, step, stages), number, 15).taken.mean() / step
    return torch.tensor([[taken(step, number) for step in ASKED] for number in range(SEEDS)])


@claim("O-two-stages", control=[{"p": 1}, {"asked": (1.0,)}])
def two_stages_take_practical_steps(case, p=2, asked=None):
    """For p = q = 2 two stages take most of a step of 0.03 or 0.1 of flow time, one stage little of 0.1 or more."""
    pick = lambda table, default: [table[:, ASKED.index(step)] for step in asked or default]
    why = "cells: two or three steps; 8 networks, 15 mini-batches"
    return together(
        two=tendency(lambda: [x - 0.7 for x in pick(shares(case, p, p, 2), ASKED[:2])], reason=f"{why}; most is 70 %"),
        one=tendency(
            lambda: [0.2 - x for x in pick(shares(case, p, p, 1), ASKED[1:])], reason=f"{why}; little is 20 %"
        ),
    )


@claim("O-balanced-learns", control={"steps": 3}, untrained={"steps": 0}, longer={"steps": 300})
def balanced_rules_learn(case, steps=None):
    """The balanced rules bring the loss with its penalty below 0.6 of what it was."""
    fall = lambda r: (r.losses[0] / r.losses[-1]).log()
    return tendency(
        lambda: [torch.stack([fall(r) for r in runs(case, name, steps)]) for name in BALANCED],
        least=-math.log(0.6),
        reason="cells: three rules; 8 networks, 150 mini-batches of 64 digits",
    )


def small(r: Run, below: float | Tensor = 0.01) -> Tensor:
    """Share of weights whose size is below a hundredth, or other parts, of the largest one."""
    sizes = (r.W[r.W != 0].abs() / r.W.abs().max()).sort().values
    return torch.searchsorted(sizes, torch.as_tensor(below, dtype=sizes.dtype)) / len(sizes)


@claim("O-small-weights", control={"names": DESCENT[2:]}, untrained={"steps": 0}, longer={"steps": 300})
def one_makes_small_weights_smaller(case, names=BALANCED[:2], steps=None):
    """Under the rules for p = 1 more weights end below a hundredth of the largest than under the rule for p = 2."""
    counts = lambda name: torch.stack([small(r) for r in runs(case, name, steps)])
    return tendency(
        lambda: [counts(name) - counts("balanced (2, 2)") for name in names],
        least=0.1,
        reason="cells: q = 1 and q = 2; 8 networks, 150 mini-batches; more by ten points or more",
    )


def drift(case: Case) -> float:
    """Largest imbalance at the end of descent without rescaling, in shares of a unit: mean over networks."""
    ends = [r.imbalances[-1].abs().max() / r.share for r in runs(case, "descent (2, 2)")]
    return torch.stack(ends).mean().item()


def left_over(case: Case) -> float:
    """Largest imbalance right after a rescaling, in shares of a unit."""
    every = RULES["descent, rescaled"].every
    rests = [r.imbalances[every::every].abs().max() / r.share for r in runs(case, "descent, rescaled")]
    return max(rests).item()

"""Pairs of trained networks for experiment 3 of paper C: start x optimiser x step x stopping rule.

A cell is a way to train. Both networks of a pair have the same task and the same first weights; one has batch
normalisation with a trained gain and shift a unit, the other one a bias a unit.
"""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linprog
from torch import Tensor
from torch.nn.functional import softplus

from claimbook.evidence import Case, Unfinished, shared
from companion.normalization_geometry.protocols import STARTS, Trained, train
from companion.studies import classifiers
from companion.studies.stacks import Params
from normdyn.measures import robustness

RATES = {"descent": (1.0, 0.5), "momentum": (0.2, 0.1), "Adam": (0.02, 0.01)}
STEPS, LEVEL = 140, 0.1  # the length of all runs, and the training loss at which networks are matched
STOPS = {
    "first": "each first without error",
    "both": "first step at which both are",
    "matched": f"each at the loss {LEVEL:g}",
    "end": f"after {STEPS} steps",
}
SIZES = torch.logspace(-2.3, 1.5, 20, dtype=torch.float64)  # standard deviations of noise on the weights


class Way(NamedTuple):
    """How both networks of a pair are trained."""

    start: str
    optimiser: str
    rate: float


WAYS = tuple(
    Way(start, name, rate) for start, (name, rates) in itertools.product(STARTS, RATES.items()) for rate in rates
)
CELLS = tuple(itertools.product(WAYS, STOPS))
FEWEST = 6  # pairs of a cell that have to have fitted


def setup(case: Case, normalised: bool = True) -> classifiers.Setup:
    """The size of the experiment; 10 pairs a cell, 40 in the profile ``paper``."""
    draws = 40 if case.profile == "paper" else 10
    return classifiers.Setup(draws=draws, samples=300, batch_norm=normalised, seed=case.seed)


@shared
def task(case: Case) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test sets of all pairs."""
    return classifiers.task(setup(case))


def weights(case: Case, start: str, normalised: bool) -> Params:
    """First weights of the stack: the same draw for all starts and for both networks of a pair."""
    made, draw = setup(case), case.generator("weights")
    hidden, last = (
        torch.randn(made.draws, *shape, generator=draw) * STARTS[start] / shape[1] ** 0.5
        for shape in ((made.width, made.inputs), (1, made.width))
    )
    shifts = torch.zeros(made.draws, made.width)
    return {"W1": hidden, "b1": shifts, "W2": last} | ({"g1": torch.ones_like(shifts)} if normalised else {})


@shared
def pairs(case: Case, way: Way, rectified: bool = True) -> Trained:
    """Both stacks, trained side by side as one; names of parameters begin with ``BN`` or ``plain``.

    The rules ``first`` and ``matched`` copy each network by itself, ``both`` copies the pair.
    """
    (X, y), kinds = task(case)[0], {"BN": setup(case, True), "plain": setup(case, False)}
    X, y = X.float(), y.float()
    starts = {kind: weights(case, way.start, made.batch_norm and rectified) for kind, made in kinds.items()}

    def evaluate(params: Params) -> dict[str, Tensor]:
        seen = {"loss": torch.zeros(len(X))}
        for kind, made in kinds.items():
            own = part(params, kind)
            m = (classifiers.outputs(own, X, made) if rectified else linear_outputs(own, X)) * y
            own_loss = softplus(-m).mean(1)
            seen |= {f"error {kind}": (m <= 0).float().mean(1), f"loss {kind}": own_loss.detach()}
            seen["loss"] = seen["loss"] + own_loss  # a sum over networks that share nothing
        return seen

    right = lambda seen, kind: seen[f"error {kind}"] == 0
    rules = {"both": lambda seen: right(seen, "BN") & right(seen, "plain"), "never": lambda seen: seen["loss"] < 0}
    for kind in kinds:
        rules[f"first {kind}"] = lambda seen, kind=kind: right(seen, kind)
        rules[f"matched {kind}"] = lambda seen, kind=kind: seen[f"loss {kind}"] < LEVEL
    together = {f"{kind} {name}": p for kind, start in starts.items() for name, p in start.items()}
    return train(evaluate, together, optimiser=way.optimiser, rate=way.rate, steps=STEPS, until=rules)


def part(params: Params, kind: str) -> Params:
    """One network of each pair."""
    return {name.removeprefix(f"{kind} "): p for name, p in params.items() if name.startswith(f"{kind} ")}


def linear_outputs(params: Params, X: Float[Tensor, "k n d"]) -> Float[Tensor, "k n"]:
    """The same network with the identity in place of the rectifier, which can only separate by hyperplanes."""
    return ((X @ params["W1"].mT + params["b1"][:, None]) @ params["W2"].mT)[..., 0]


def name(normalised: bool) -> str:
    return "BN" if normalised else "plain"


def network(case: Case, way: Way, stop: str, normalised: bool) -> Params:
    """The stack at a moment."""
    run, kind = pairs(case, way), name(normalised)
    return part(run.end if stop == "end" else run.copies[stop if stop == "both" else f"{stop} {kind}"], kind)


def fitted(case: Case, way: Way, stop: str) -> Bool[Tensor, " k"]:
    """Pairs that have come to this moment; at the end, those of which both networks are without error.

    Raises:
        Unfinished: fewer than six pairs have.
    """
    run = pairs(case, way)
    if stop == "end":
        kept = (run.seen["error BN"][-1] == 0) & (run.seen["error plain"][-1] == 0)
    elif stop == "both":
        kept = run.reached["both"] >= 0
    else:
        kept = (run.reached[f"{stop} BN"] >= 0) & (run.reached[f"{stop} plain"] >= 0)
    if kept.sum() < FEWEST:
        raise Unfinished(
            f"{way.start}, {way.optimiser} {way.rate:g}, {STOPS[stop]}: {int(kept.sum())} pairs have fitted"
        )
    return kept


@shared
def margins(case: Case, way: Way, stop: str, normalised: bool, flipped: float = 0.0) -> Float[Tensor, "k n"]:
    """Margins ``y f(x)`` of the training points in float64; a share of the labels may be flipped, drawn at random."""
    (X, y), made = task(case)[0], setup(case, normalised)
    params = {name: p.double() for name, p in network(case, way, stop, normalised).items()}
    wrong = torch.rand(y.shape, generator=case.generator("flips")) < flipped
    return classifiers.outputs(params, X, made) * torch.where(wrong, -y, y)


@shared
def accuracies(
    case: Case,
    way: Way,
    stop: str,
    normalised: bool,
    *,
    factor: float = 1.0,
    unit: str = "absolute",
    stretch: float = 1.0,
) -> Float[Tensor, "s k"]:
    """Training accuracy under noise on all parameters, of ``stretch`` times the sizes; all times ``factor`` before."""
    (X, y), made = task(case)[0], setup(case, normalised)
    params = {name: factor * p for name, p in network(case, way, stop, normalised).items()}
    classify = lambda p: classifiers.outputs(p, X.float(), made)
    noise = case.generator("noise")
    return robustness.noise_curve(classify, params, y.float(), (stretch * SIZES).tolist(), noise, relative_to=unit)


@shared
def folded(case: Case, way: Way, stop: str, normalised: bool) -> Params:
    """The stack in the form of inference, batch normalisation as part of its weights."""
    params = {name: p.double() for name, p in network(case, way, stop, normalised).items()}
    return classifiers.folded(params, task(case)[0][0], setup(case, normalised))


@shared
def distances(case: Case, way: Way, stop: str, normalised: bool) -> tuple[Tensor, Tensor]:
    """Mean distance of 60 training points to the decision boundary, from below and from above, ``(k,)`` each."""
    net, X = folded(case, way, stop, normalised), task(case)[0][0][:, :60]
    return robustness.boundary_below(net, X).mean(1), robustness.boundary_above(net, X).mean(1)


@shared
def tests(case: Case, way: Way, stop: str, normalised: bool) -> Float[Tensor, " k"]:
    """Test accuracy, with the statistics of the training set."""
    X, y = task(case)[1]
    return (robustness.output(folded(case, way, stop, normalised), X) * y > 0).double().mean(1)


@shared
def violations(case: Case, samples: int = 300) -> Float[Tensor, " k"]:
    """How far a hyperplane is from separating the first samples of each task: 0 if it does, at most 1."""
    X, y = (part[:, :samples] for part in task(case)[0])
    return torch.tensor([least_violation(*pair) for pair in zip(X, y, strict=True)], dtype=torch.float64)


def least_violation(points: Float[Tensor, "n d"], labels: Float[Tensor, " n"]) -> float:
    """The least violation of ``y (w x + b) >= 1`` over all hyperplanes, by linear programming."""
    ones = torch.ones(len(points), 1, dtype=points.dtype)
    rows = torch.cat([-labels[:, None] * torch.cat([points, ones], 1), -ones], 1)
    aim, bounds = [0.0] * (rows.shape[1] - 1) + [1.0], [(None, None)] * (rows.shape[1] - 1) + [(0, None)]
    return linprog(aim, A_ub=rows.numpy(), b_ub=-ones.numpy(), bounds=bounds).fun

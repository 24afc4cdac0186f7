"""What decides A section 5.1: how good the prediction is on either side of the edge, and that it is always too low."""

from dataclasses import replace

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, at_most, claim, equal, shared, tendency, together
from companion.unified_balancing.convolutional import FIGURE_1A, Figure, descent
from companion.unified_balancing.evidence import SEEN, SETTLED, height, total

EDGE = replace(FIGURE_1A, images=40, learning_rate=0.08, steps=200, every=15)
CELLS = (EDGE, replace(EDGE, centred=True))  # targets one-hot, and centred


@shared
def crossings(case: Case, figure: Figure) -> Tensor:
    """For each seed the first step, after the settling ones, at which the sharpness was seen at 2 / eta.

    It is measured every few steps, and a short visit may fall between two of them: within a twentieth counts.
    """
    run = descent(case, figure)
    above = (run["sharpness"] > 0.95 * 2 / figure.learning_rate) & (run["at"] >= 2 * SETTLED)[:, None]
    if not above.any(0).all():
        raise Unfinished(f"in {figure.steps} steps the sharpness was not seen at the edge in every seed")
    return run["at"][above.double().argmax(0)]


def off(run: dict[str, Tensor], extra: int = 0) -> Tensor:
    """How far the prediction of the total rate is from the quotient, relative to it; for each step and seed."""
    predicted = total(run["flow"]) + extra * run["drive"]
    return (total(run["quotient"]) - predicted).abs() / total(run["quotient"]).abs()


def either_side(case: Case, figure: Figure, slower: int = 1, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Median of what is missed before and after the crossing, by seed.

    Args:
        extra: Layers too many in the prediction.
        slower: A step that is so many times smaller, and as many more steps: the same stretches of time.
    """
    cross = crossings(case, figure)
    run = figure
    if slower > 1:
        run = replace(figure, learning_rate=figure.learning_rate / slower, steps=slower * figure.steps, every=0)
    gap = off(descent(case, run), extra)
    before = [gap[slower * SETTLED : slower * int(c), k].median() for k, c in enumerate(cross)]
    after = [gap[slower * (int(c) + 15) :, k].median() for k, c in enumerate(cross)]
    return torch.stack(before), torch.stack(after)


@claim("A-eos-precise", control=[{"slower": 3}, {"extra": 1}], untrained={"steps": 30}, longer={"steps": 400})
def precise_until_the_edge(case, slower=1, extra=0, steps=EDGE.steps):
    """Until the sharpness reaches 2 / eta the two rates are one to the eye, from then on they are not.

    Controls: a third of the step over the same time, whose edge lies three times as high and is not met; one layer too
    many in the prediction.
    """
    figures = [replace(figure, steps=steps) for figure in CELLS]
    sides = lambda k: [either_side(case, figure, slower, extra)[k] for figure in figures]
    why = "cells: targets one-hot and centred; 5 seeds; a twentieth of the rate is seen; medians over steps"
    return together(
        before=tendency(
            effect=lambda: [(SEEN / gap).log() for gap in sides(0)], reason=f"{why} from 10 to the crossing"
        ),
        after=tendency(
            effect=lambda: [(gap / SEEN).log() for gap in sides(1)], reason=f"{why} from 15 past the crossing"
        ),
    )


@claim("A-eos-underestimate", control=[{"activation": "tanh"}, {"biases": True}, {"drive": "half"}, {"extra": 1}])
def never_above(case, activation="relu", biases=False, drive="drive", extra=0):
    """The prediction exceeds the quotient at no step, before the edge and after; what it misses is a squared gradient.

    Controls: tanh, biases, the output on half of the batch, one layer too many.
    """
    figures = [replace(figure, activation=activation, biases=biases, every=0) for figure in CELLS]
    runs = lambda: [descent(case, figure) for figure in figures]
    predicted = lambda run: (EDGE.convolutions + 1 + extra) * run[drive]  # all orders are one
    why = "rounding of a squared norm, divided by the learning rate; every step of ten runs across the edge"
    return together(
        under=at_most(
            left=lambda: [predicted(run) for run in runs()],
            right=lambda: [run["quotient"].sum(-1) for run in runs()],
            scale=lambda: [height(run) for run in runs()],
            bound=1e-11,
            reason=f"{why}, relative to the largest rate",
        ),
        gap=equal(
            measured=lambda: [run["quotient"].sum(-1) - predicted(run) for run in runs()],
            predicted=lambda: [total(run["step"]) for run in runs()],
            bound=1e-11,
            reason=why,
        ),
    )


def work(run: dict[str, Tensor], figure: Figure, steps: slice, seed: int) -> tuple[float, float]:
    """Excess of a stretch over eta times the loss it lost, and the mean of eta r / 2 with weights of the excess."""
    excess = figure.learning_rate * total(run["step"])[steps, seed].sum()
    lost = figure.learning_rate * (run["loss"][steps, seed][0] - run["loss"][steps, seed][-1])
    return (excess / lost).item(), (1 - lost / excess).item()

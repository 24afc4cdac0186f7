"""What decides section 7.2 of paper C: which solution descent finds, margins and bounds, cues and shifts.

Runs are in :mod:`companion.normalization_geometry.implicit_bias_runs`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, limit, shared, together
from companion.normalization_geometry import implicit_bias_runs as runs
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.networks.graphs import mlp
from normdyn.networks.normalizers import batch_norm, normalized_mlp

# Without normalisation


@claim("C-min-norm-bias", control={"start": 1.0})
def shortest_interpolant(case, start=0.0):
    """From zero, gradient descent on least squares ends at the shortest interpolant.  C 7.2

    Control: a random start, whose part in the null space stays.
    """
    return limit(
        measured=lambda reach: runs.descended(case, start, round(2**14 * reach)),
        predicted=lambda: [X.mT @ torch.linalg.solve(X @ X.mT, y) for X, y in runs.wide_regressions(case)],
        bound=1e-9, reason="rounding of a matrix to the power of 16,384, and of twice that; 5 regressions",
    )  # fmt: skip


def logarithm(s: float) -> float:
    """How w grows, s being log t."""
    return s


def not_at_all(s: float) -> float:
    """It comes to the shortest vector itself."""
    return 1.0


LATE = 2000.0


def direction(w: Tensor) -> Tensor:
    return w / w.norm()


@claim("C-linear-classifier-bias", printed={"growth": not_at_all}, control={"unit": 0.1})
def norm_at_a_given_margin(case, growth=logarithm, unit=1.0):
    """Descent on separable data heads for the largest margin, and minimises the norm at a given margin.  C 7.2

    w = w^ log t + r, with w^ the shortest vector whose margins are one or more. Three clouds in the plane, two
    starts each. Printed: w itself is short. Control: descent with one feature in another unit.
    """
    each = lambda value: [value(points) for points in runs.clouds(case) for _ in runs.STARTS]
    return together(
        direction=limit(
            measured=lambda reach: [w / w.norm() for w in runs.late_vectors(case, LATE * reach, unit)],
            predicted=lambda: each(lambda points: direction(runs.shortest(points)[0])),
            bound=5e-3, reason="of order 1/log t, at log t = 2000 and 4000",
        ),
        length=limit(
            measured=lambda reach: [w.norm() / growth(LATE * reach) for w in runs.late_vectors(case, LATE * reach)],
            predicted=lambda: each(lambda points: runs.shortest(points)[0].norm()),
            bound=5e-3, reason="of order 1/log t, at log t = 2000 and 4000",
        ),
        remainder=equal(
            measured=lambda: runs.late_vectors(case, LATE),
            predicted=lambda: each(lambda points: LATE * runs.shortest(points)[0] + runs.residual_of(points)),
            scale=lambda: each(lambda points: 1.0),
            bound=1e-6, reason="what is left falls exponentially in log t; integrator at 1e-7",
        ),
    )  # fmt: skip


# With normalisation


@claim("C-bn-no-norm-bias", control={"kind": "none"})
def indifferent_to_the_norm(case, kind="batch"):
    """Behind a batch normalisation the loss does not see the norm, and the flow keeps it, at any length.  C 7.2

    Norms from 0.01 to 100. Control: no normalisation.
    """
    return together(
        loss=equal(
            measured=lambda: runs.unit_losses(kind),
            predicted=lambda: [runs.unit_losses(kind)[2] for _ in runs.LENGTHS],
            bound=1e-12, reason="rounding",
        ),
        kept=equal(
            measured=lambda: runs.norms_along_the_flow(case, kind), predicted=lambda: [1.0 for _ in runs.LENGTHS],
            bound=1e-8, reason="integrator's tolerance of 1e-11 a step",
        ),
    )  # fmt: skip


def identity(points: Tensor) -> Tensor:
    return torch.eye(points.shape[1], dtype=points.dtype)


@claim("O-margin-in-the-data-norm", control={"metric": identity})
def metric_of_the_bias(case, metric=runs.moments):
    """A batch-normalised unit heads for the largest margin in the norm w'Mw of the batch's second moments.

    Control: the ordinary norm.
    """

    def longest_margin(points):
        root = torch.linalg.cholesky(metric(points))
        white = torch.linalg.solve_triangular(root, points.mT, upper=False).mT
        return torch.linalg.solve(root.mT, runs.shortest(white)[0])

    return limit(
        measured=lambda reach: runs.normalised_directions(case, 200.0 * reach),
        predicted=lambda: [direction(longest_margin(points)) for points in runs.clouds(case)],
        bound=1e-3, reason="of the square of 1/log t, at log t = 200 and 400; three clouds in the plane",
    )  # fmt: skip


FACTORS = (1e-3, 0.5, 3.0, 1e4)


@claim("C-last-layer-scale", printed={"left": 0.99}, control={"above": "batch"})
def last_layer_is_free(case, left=1.0, above="nothing"):
    """The logits scale as the last layer does, exactly, and no signal below changes. Later updates below do.  C 7.2

    Gradients in the layers below are those of slopes alpha (p - y) W_L/n in the features, with p at scaled logits.
    Printed: partly nullified, by one per cent say. Control: the logits are normalised as well.
    """

    def carried(one, factor):
        p = one.params
        below = lambda q: torch.relu(batch_norm(torch.relu(batch_norm(one.X @ q["W0"].mT)) @ q["W1"].mT))
        H, back = torch.func.vjp(below, {name: p[name] for name in runs.LOWER})
        wrong = torch.softmax(factor * (H @ p["W2"].mT + p["b"]), 1) - torch.eye(3, dtype=H.dtype)[one.labels]
        return back(factor * wrong @ p["W2"] / len(H))[0]

    return together(
        logits=equal(
            measured=lambda: [z for factor in FACTORS for _, z in runs.signals(case, factor, above)],
            predicted=lambda: [left * factor * z for factor in FACTORS for _, z in runs.signals(case, 1.0, above)],
            bound=1e-12, reason="rounding; 3 networks, factors 0.001 to 10,000",
        ),
        below=equal(
            measured=lambda: [H for factor in FACTORS for H, _ in runs.signals(case, factor)],
            predicted=lambda: [H for _ in FACTORS for H, _ in runs.signals(case, 1.0)],
            bound=1e-14, reason="the same sums",
        ),
        updates=equal(
            measured=lambda: [
                found[name] for factor in FACTORS for found in runs.updates(case, factor) for name in runs.LOWER
            ],
            predicted=lambda: [
                carried(one, factor)[name] for factor in FACTORS for one in runs.stacks(case) for name in runs.LOWER
            ],
            bound=1e-9, reason="rounding of automatic differentiation, with slopes that nearly vanish",
        ),
    )  # fmt: skip


STRETCH = torch.logspace(-1, 1.5, 26, dtype=torch.float64)


@claim("C-separable-loss-infinity", control=[{"flipped": 3}, {"bias": 50.0}])
def zero_loss_is_at_infinity(case, flipped=0, bias=0.0):
    """On separable data the cross-entropy goes to zero along a ray, and is positive at every finite length.  C 7.2

    It is at most log(1 + e^-m) of the smallest margin, which grows with the product of the factors, and at least that
    of the product of the norms. Controls: some labels wrong; a bias of fixed size.
    """
    some = lambda: runs.separators(case, flipped)
    outputs = lambda one, a: mlp([a.sqrt() * W for W in one.weights], one.X)[:, 0] + bias
    loss = lambda one: torch.stack(
        [torch.nn.functional.softplus(-one.labels * outputs(one, a)).mean() for a in STRETCH]
    )
    smallest = lambda one: mlp(one.weights, one.X)[:, 0].abs().min()
    reach = lambda one: math.prod(torch.linalg.matrix_norm(W, 2) for W in one.weights) * one.X.norm(dim=1).max()
    return together(
        falls=at_most(
            left=lambda: [loss(one) for one in some()],
            right=lambda: [torch.nn.functional.softplus(-STRETCH * smallest(one)) for one in some()],
            bound=1e-12, reason="rounding; 4 networks, 26 factors up to 32", scale=lambda: [1.0 for _ in some()],
        ),
        positive=at_most(
            left=lambda: [torch.nn.functional.softplus(-STRETCH * reach(one)) for one in some()],
            right=lambda: [loss(one) for one in some()],
            bound=1e-12, reason="rounding; 4 networks, 26 factors up to 32", scale=lambda: [1.0 for _ in some()],
        ),
    )  # fmt: skip


# Margins and bounds


def tilted(best: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Two directions of one norm, the first of twice the margin."""
    return best, half


def rescaled(best: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """One classifier, and half of its weights."""
    return best, best / 2


@claim("C-margin-doubling", printed={"pair": rescaled}, control={"confidence": 1.0})
def twice_the_margin_at_one_norm(case, pair=tilted, confidence=0.0):
    """A bound (1/m) sqrt(complexity/N) halves when the margin doubles at the same complexity, so at the same norm.

    Linear classifiers, twelve samples, all signs summed. Printed: weights are doubled, and the margin with them.
    Control: the term in the confidence, which has no margin.  C 7.2
    """

    def bound(X, w):
        term = 2 * runs.averaged(X, w.norm()) / (X @ w).min()
        return term + confidence * math.sqrt(math.log(20) / (2 * len(X)))

    pairs = lambda: [(X, *pair(best, half)) for X, best, half in runs.margined(case)]
    return together(
        margins=equal(
            measured=lambda: [(X @ wide).min() / (X @ narrow).min() for X, wide, narrow in pairs()],
            predicted=lambda: [2.0] * 5, bound=1e-9, reason="bisection to rounding",
        ),
        bounds=equal(
            measured=lambda: [bound(X, wide) / bound(X, narrow) for X, wide, narrow in pairs()],
            predicted=lambda: [0.5] * 5, bound=1e-9, reason="bisection to rounding; 4096 signs summed",
        ),
    )  # fmt: skip


def lengths(W: Tensor) -> Tensor:
    return W.norm(dim=1)


def complexity(weights: list[Tensor], samples: int, unit: bool = False) -> Tensor:
    """Sum of |W_l|_{2,1}^2 prod |W_j|_{2,inf}^2 over samples; rows below the last layer of length one if wanted."""
    sizes = [torch.ones(len(W)).double() if unit and l < 2 else lengths(W) for l, W in enumerate(weights)]
    tops = [size.max() ** 2 for size in sizes]
    return sum(size.sum() ** 2 * math.prod(tops[:l] + tops[l + 1 :]) for l, size in enumerate(sizes)) / samples


@claim("C-generalization-bound", control={"unit": True}, untrained={"steps": 0}, longer={"steps": 2 * runs.STEPS})
def a_bound_that_a_rescaling_breaks(case, unit=False, steps=runs.STEPS):
    """The gap is at most a constant times the sum of products of norms over N. No constant will do.

    The constant is a thousand times what the fitted network needs; its first layer is then scaled by 1e-4, which
    leaves the function. Control: normalised layers with rows of length one.  C 7.2
    """
    small = 1e-4
    size = lambda factor: complexity(runs.shrunken(case, factor, steps), 100, unit)
    return counterexample(
        at_most(
            left=lambda: [runs.gap(case, small, steps)],
            right=lambda: [1e3 * runs.gap(case, 1.0, steps) / size(1.0) * size(small)],
            bound=1e-6, reason="counts of digits, and rounding",
        ),
        exact=lambda: [1 / (1e3 * small**2) - 1],
        there_is_a_gap=at_most(
            left=lambda: [0.02], right=lambda: [runs.gap(case, 1.0, steps)], bound=1e-6, reason="a count of 800 digits"
        ),
        same_function=equal(
            measured=lambda: [normalized_mlp(runs.shrunken(case, small, steps), runs.digits(case, steps).test[0])],
            predicted=lambda: [normalized_mlp(runs.digits(case, steps).weights, runs.digits(case, steps).test[0])],
            bound=1e-8, reason="rounding of normalised signals",
        ),
    )  # fmt: skip


# Cues and shifts

Cue = Callable[..., tuple[Tensor, Tensor]]


@shared
def normalised_cue(case, cue: Cue) -> tuple[Tensor, Tensor]:
    """The feature, normalised in each batch, and labels."""
    feature, label = cue(case)
    return torch.stack([batch_norm(one[:, None])[:, 0] for one in feature]), label


@claim("C-spurious-scale-feature", control={"cue": runs.of_whole_batches})
def a_cue_in_the_size(case, cue=runs.in_each_batch):
    """Normalisation removes the difference of a feature that is large in one class and small in the other. It does not.

    It keeps the order: classes are as separable as before. Control: a size that a whole batch shares, which goes.
    C 7.2
    """
    return counterexample(
        equal(
            measured=lambda: [runs.ordered(*normalised_cue(case, cue))], predicted=lambda: [0.0],
            scale=lambda: [1.0], bound=1e-9, reason="a count of ordered pairs, on values of nine digits",
        ),
        exact=lambda: [runs.ordered_exactly(*cue(case))],
        normalised=equal(
            measured=lambda: [normalised_cue(case, cue)[0].square().mean(1), normalised_cue(case, cue)[0].mean(1) + 1],
            predicted=lambda: [1.0, 1.0], bound=1e-12, reason="rounding of ten batches",
        ),
        large_and_small=equal(
            measured=lambda: [runs.ordered(*cue(case))], predicted=lambda: [1.0],
            bound=1e-12, reason="a count of ordered pairs",
        ),
    )  # fmt: skip


def of_the_batch(signals: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    return signals.mean(0), signals.var(0, correction=0)


def stored(signals: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Statistics of the training set."""
    return reference.mean(0), reference.var(0, correction=0)


def seen(weights: list[Tensor], batch: Tensor, reference: Tensor, statistics, first: bool = False) -> Tensor:
    """Outputs on a batch, hidden signals normalised by some statistics, and inputs as well if wanted."""
    H, R = batch, reference
    if first:
        H, R = batch_norm(H, statistics=statistics(H, R)), batch_norm(R)
    for W in weights[:-1]:
        H, R = H @ W.mT, R @ W.mT
        H, R = torch.relu(batch_norm(H, statistics=statistics(H, R))), torch.relu(batch_norm(R))
    return H @ weights[-1].mT


def shared_by_the_batch(batch: Tensor, strength: float) -> Tensor:
    return strength * batch + 0.3 * (strength - 1)


def of_each_image(batch: Tensor, strength: float) -> Tensor:
    """Strengths from the inverse to that given, one an image."""
    each = strength ** torch.linspace(-1, 1, len(batch), dtype=batch.dtype)[:, None]
    return each * batch + 0.3 * (each - 1)


def of_each_feature(batch: Tensor, strength: float) -> Tensor:
    return batch * strength ** torch.linspace(-1, 1, batch.shape[1], dtype=batch.dtype)


@shared
def shifted_outputs(case, statistics, change, features, strength: float) -> list[Tensor]:
    """Outputs of three drawn networks on changed inputs; every second one has its inputs normalised as well."""
    found = []
    for k, one in enumerate(runs.stacks(case)):
        weights, fresh = [one.params[f"W{l}"] for l in range(3)], normal(case, f"C shifted {k}", 40, 5)
        found.append(seen(weights, change(fresh, strength), one.X, statistics))
        found.append(seen(weights, features(fresh, strength) + 0.2 * strength, one.X, statistics, first=True))
    return found


@claim("C-affine-shift-robustness", printed={"statistics": stored}, control=[{"change": of_each_image}])
def robust_with_its_own_statistics(case, statistics=of_the_batch, change=shared_by_the_batch, features=of_each_feature):
    """With the batch's own statistics a scale and an offset that the batch shares change no output.  C 7.2

    Nor does a scale of each feature, if inputs are normalised too. Printed: stored statistics, as at inference.
    Control: each sample has its own scale.
    """
    strengths = (0.01, 0.5, 2.0, 100.0)
    return equal(
        measured=lambda: [f for s in strengths for f in shifted_outputs(case, statistics, change, features, s)],
        predicted=lambda: [f for _ in strengths for f in unshifted_outputs(case, statistics)],
        bound=1e-10, reason="rounding at epsilon = 0; 3 networks, strengths 0.01 to 100",
    )  # fmt: skip


@shared
def unshifted_outputs(case, statistics) -> list[Tensor]:
    found = []
    for k, one in enumerate(runs.stacks(case)):
        weights, fresh = [one.params[f"W{l}"] for l in range(3)], normal(case, f"C shifted {k}", 40, 5)
        found += [seen(weights, fresh, one.X, statistics), seen(weights, fresh, one.X, statistics, first=True)]
    return found

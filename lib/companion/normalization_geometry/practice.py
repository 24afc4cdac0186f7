"""What can be tested of paper C, sections 7.3 and 9: starts, biases, decay, the radius, whitening, limits."""

import torch

from claimbook.evidence import claim, counterexample, equal, limit, together
from companion.normalization_geometry import implicit_bias_runs as biased
from companion.normalization_geometry import practice_runs as runs
from companion.normalization_geometry.practice_runs import FEATURES, UNITS
from normdyn.networks.normalizers import batch_norm


@claim("C-symmetric-init", control=[{"outgoing": 0.1}, {"scale": 0.1}])
def twins_stay_twins(case, outgoing=0.0, scale=0.0):
    """Units with the same weights in and out stay the same, and weights that are all zero stay zero.  C 9.1

    A thousand steps of mini-batches with momentum and decay, epsilon 1e-5. Controls: outgoing weights that differ by a
    tenth; weights that are not zero.
    """
    ends = lambda: runs.descended(case, 1.0, True, outgoing)[-1]
    return together(
        twins=equal(lambda: ends()[1], lambda: ends()[0], 1e-12, "rounding"),
        zero=equal(
            lambda: runs.descended(case, scale, False)[-1], lambda: torch.zeros(6, 4), 1e-12, "zero is exact",
            scale=lambda: torch.ones(6, 4),
        ),
    )  # fmt: skip


@claim("C-no-bias-needed", control=[{"kind": "layer"}, {"folded": False}, {"counted": "output"}])
def biases_are_not_needed(case, kind="batch", folded=True, counted="hidden"):
    """Biases before a batch normalisation change no output, in training or at inference, and add no dimension.  C 9.1

    Controls: layer normalisation, which subtracts the mean of the biases only; stored means that do not lose the bias;
    biases of the output.
    """
    return together(
        training=equal(
            lambda: runs.in_training(case, False, kind), lambda: runs.in_training(case, True, kind), 1e-12, "rounding"
        ),
        inference=equal(
            lambda: runs.at_inference(case, False, folded), lambda: runs.at_inference(case, True), 1e-12, "rounding"
        ),
        capacity=equal(
            lambda: runs.freedom(case, counted), lambda: runs.freedom(case, "none"), 1e-9, "ranks are whole numbers"
        ),
    )


@claim("C-wd-selects-min-norm", control={"normalised": False})
def decay_selects_a_member(case, normalised=True):
    """Weight decay picks the member of least norm of a class of weights that BN does not tell apart.  C 9.1, 1.4

    Then the norm would come to rest. For a normalised unit the rate of its logarithm, over the decay, is minus one at
    all times. Control: a linear model with more weights than equations, without normalisation, at time 400.
    """
    return counterexample(
        equal(
            lambda: [runs.rate_of_the_norm(case, normalised)], lambda: [torch.zeros(())], 1e-4,
            "at rest up to the tolerance of the flow", scale=lambda: [torch.ones(())],
        ),
        exact=lambda: [1.0],
    )  # fmt: skip


@claim("C-radial-free-gradient", printed={"white": False})
def tangent_steps_mimic(case, white=True):
    """An optimiser on the sphere that drops the radial part of the gradient goes where descent behind BN goes.  C 9.5

    For whitened inputs and steps eta |w|^2 behind BN. As printed: any inputs.
    """
    return equal(
        lambda: runs.round_the_sphere(case, white, True),
        lambda: runs.round_the_sphere(case, white, False),
        bound=1e-11, reason="rounding over 50 steps",
    )  # fmt: skip


@claim("C-whitening-symmetry", printed={"turned_back": False})
def whitening_forgets_a_turn(case, turned_back=True):
    """Weights turned by an orthonormal matrix are an equivalent point under whitening.  C 9.5

    ZCA turns along, so the layer on top has to be turned back; PCA whitening forgets the turn, up to signs. As printed:
    nothing is turned back.
    """

    def outputs(turn, whiten=runs.zca):
        X, W, Q, V = runs.layer(case)
        top = V @ Q.mT if turn and turned_back else V
        return whiten(X @ (Q @ W if turn else W).mT) @ top.mT

    def principal(turn):
        X, W, Q, _ = runs.layer(case)
        return runs.pca(X @ (Q @ W if turn else W).mT).abs()

    return together(
        zca=equal(lambda: outputs(True), lambda: outputs(False), 1e-10, "rounding times a condition number"),
        pca=equal(lambda: principal(True), lambda: principal(False), 1e-10, "rounding times a condition number"),
    )


@claim("O-whitening-quotient", control=[{"whitenings": (batch_norm,) * 3}, {"top": False}])
def whitened_signals_have_these_dimensions(case, whitenings=(runs.zca, runs.pca, runs.cholesky), top=True):
    """Whitened signals of d units on k features have dk - d(d+1)/2 dimensions, with a linear layer on top d(k-d).  Ours

    Whichever whitening it is. Controls: batch normalisation, which leaves d(k-1); no layer on top.
    """
    whole = UNITS * FEATURES - UNITS * (UNITS + 1) // 2
    return together(
        signals=equal(
            lambda: [runs.dimension(case, f) for f in whitenings], lambda: [whole] * 3, 1e-9, "ranks are whole numbers"
        ),
        topped=equal(
            lambda: runs.dimension(case, whitenings[0], top), lambda: UNITS * (FEATURES - UNITS), 1e-9,
            "ranks are whole numbers",
        ),
    )  # fmt: skip


direction = lambda w: w / w.norm()
euclidean = lambda X: torch.eye(X.shape[1], dtype=X.dtype)


def longest_margin(points, metric):
    """Direction of the largest margin in the norm of a metric, by trying all pairs of support vectors."""
    root = torch.linalg.cholesky(metric(points))
    white = torch.linalg.solve_triangular(root, points.mT, upper=False).mT
    return direction(torch.linalg.solve(root.mT, biased.shortest(white)[0]))


@claim("C-bn-different-solution", control=[{"metric": euclidean}, {"plain_metric": biased.moments}])
def limits_are_margins_in_two_norms(case, metric=biased.moments, plain_metric=euclidean):
    """Behind BN a linear classifier tends to the largest margin in the data's norm, else in the ordinary one.  C 7.3

    Exponential loss, flows to log t = 400. Controls: each with the other's norm.
    """
    plain = lambda s: [
        late - early for late, early in zip(biased.late_vectors(case, s), biased.late_vectors(case, s / 2), strict=True)
    ]
    return together(
        normalised=limit(
            lambda reach: biased.normalised_directions(case, 200.0 * reach),
            lambda: [longest_margin(points, metric) for points in biased.clouds(case)],
            bound=1e-3, reason="of the square of 1/log t, at log t = 200 and 400; three clouds in the plane",
        ),
        plain=limit(
            lambda reach: [direction(w) for w in plain(200.0 * reach)],
            lambda: [longest_margin(points, plain_metric) for points in biased.clouds(case) for _ in biased.STARTS],
            bound=1e-3, reason="the vector is log t times the limit plus a constant, up to powers of 1/t",
        ),
    )  # fmt: skip

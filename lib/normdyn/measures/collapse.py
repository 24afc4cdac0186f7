r"""Neural collapse: measures of last-layer features, their class means and the last layer.

``features`` are what the last layer reads, one row a sample; ``labels`` are ``0..C-1``; ``classifier`` is the last
layer, ``(C, d)``. A network with one output for two classes has ``(1, d)``: its rows are ``-w`` and ``w``. Class means
:math:`\mu_c` weigh every class alike and are centred at *their* mean :math:`\mu_G`; for balanced classes that is the
mean of all samples. With

.. math:: \Sigma_W=\tfrac1C\sum_c\operatorname{Cov}(h\mid c),\quad
   \Sigma_B=\tfrac1C\sum_c(\mu_c-\mu_G)(\mu_c-\mu_G)^\top

collapse is: NC1 :math:`\Sigma_W\to0` against :math:`\Sigma_B`, NC2 centred means of one length and with all cosines
:math:`-1/(C-1)`, NC3 the last layer parallel to the centred means, NC4 the decision is that of the nearest class mean.
Every measure is zero at collapse. Source: Papyan, Han and Donoho, PNAS 117 (2020), section "Results" and figures 2-7.

Two measures have a blind side. ``variability`` as published sees only the span of the centred means, and is zero where
samples of a class differ at right angles to it; ``variance_ratio`` and ``distance_variance`` see all. And two centred
means are opposite by construction, so that NC2 says nothing for ``C = 2``.

A class without samples has no mean and takes part in nothing: ``C`` is the number of classes that have one. A class of
one sample has no scatter, so it lowers NC1. :func:`neural_collapse` names both kinds.

Features are read a few thousand rows at a time, in float32 if they are of half precision and in their own precision
else; no second copy of them is made, and no ``(d, d)`` matrix. Those that do not fit in memory go through
:class:`normdyn.measures.collapse_stream.Accumulator`.
"""

import math

import torch
from torch import Generator, Tensor

from normdyn.measures import class_moments
from normdyn.measures.class_moments import (
    Classifier,
    Convention,
    Features,
    Labels,
    Measures,
    Sample,
    Weights,
    decisions,
    nearest_center,
    row_chunks,
)
from normdyn.measures.collapse_stream import Accumulator
from normdyn.shapes import Float

__all__ = [
    "Accumulator",
    "Features",
    "Labels",
    "angle_gap",
    "center_disagreement",
    "class_means",
    "classifier_angle_gap",
    "classifier_length_spread",
    "covariances",
    "distance_variance",
    "duality_gap",
    "length_spread",
    "nearest_center",
    "neural_collapse",
    "simplex_frame",
    "variability",
    "variance_ratio",
]


def class_means(features: Features, labels: Labels) -> Float[Tensor, "c d"]:
    """Mean feature of each class, one row a class; NaN where a class has no sample.

    Raises:
        ValueError: Shapes differ, features are not finite, or labels are not whole numbers from 0.

    Example:
        >>> class_means(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1])).tolist()
        [[1.0], [5.0]]
    """
    return Sample(features, labels).class_means


def covariances(features: Features, labels: Labels) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Within-class and between-class covariance, every class with the same weight."""
    moments = Sample(features, labels)
    return moments.covariance(), moments.centred.mT @ moments.centred / len(moments.centred)


def variability(
    features: Features, labels: Labels, *, convention: Convention = "pseudo-inverse", weights: Weights = "classes"
) -> Float[Tensor, ""]:
    r"""NC1: scatter within classes against that between them.

    Args:
        convention: One of three that are in use. ``pseudo-inverse`` is the first one published,
            :math:`\operatorname{tr}(\Sigma_W\Sigma_B^+)/C`. ``trace ratio`` is :func:`variance_ratio`, and
            ``class distance`` is :func:`distance_variance`.
        weights: In :math:`\Sigma_W` every class counts alike (``classes``) or every sample (``samples``). The two are
            one where classes have equal numbers of samples.

    Raises:
        ValueError: Unknown convention or weights, weights other than ``classes`` for ``class distance``, fewer than
            two classes with samples, all class means equal, see also :func:`class_means`.

    Source: Papyan, Han and Donoho (2020), figure 6. Their public code takes the trace over all samples,
    ``weights="samples"``, and does not divide by ``C``: ``C`` times ours.

    Example:
        >>> h = torch.tensor([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.0], [-1.0, 0.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> variability(h, y).item()                               # differs at right angles to the means: not seen
        0.0
        >>> variability(h, y, convention="trace ratio").item(), variability(h, y, convention="class distance").item()
        (0.125, 0.03125)
    """
    return Sample(features, labels).variability(convention, weights)


def variance_ratio(features: Features, labels: Labels) -> Float[Tensor, ""]:
    r"""NC1 without a blind side: :math:`\operatorname{tr}\Sigma_W/\operatorname{tr}\Sigma_B`."""
    return Sample(features, labels).variability("trace ratio")


def distance_variance(features: Features, labels: Labels) -> Float[Tensor, ""]:
    r"""NC1 by pairs of classes, the class-distance normalised variance, mean over the pairs.

    .. math:: \frac{\operatorname{Var}_c+\operatorname{Var}_{c'}}{2\|\mu_c-\mu_{c'}\|^2},\qquad
       \operatorname{Var}_c=\operatorname{E}[\|h-\mu_c\|^2\mid c]

    Raises:
        ValueError: Two classes have one mean, see also :func:`class_means`.

    Source: Galanti, György and Hutter (2022), section 3.1.

    Example:
        >>> distance_variance(torch.tensor([[1.0], [3.0], [8.0], [12.0]]), torch.tensor([0, 0, 1, 1])).item()
        0.0390625
    """
    return Sample(features, labels).variability("class distance")


def length_spread(features: Features, labels: Labels) -> Float[Tensor, ""]:
    """NC2, equal norms: standard deviation over mean of the lengths of the centred class means."""
    return class_moments.length_spread(Sample(features, labels).centred)


def angle_gap(features: Features, labels: Labels) -> Float[Tensor, ""]:
    r"""NC2, equal and largest angles: mean of :math:`|\cos(\mu_c-\mu_G,\mu_{c'}-\mu_G)+\frac1{C-1}|` over pairs.

    Raises:
        ValueError: A class mean is the mean of all and has no direction.
    """
    return Sample(features, labels).angle_gap()


def classifier_length_spread(classifier: Classifier) -> Float[Tensor, ""]:
    """NC2 of the last layer: standard deviation over mean of the lengths of its rows, as they are (not centred).

    Source: Papyan, Han and Donoho (2020), figure 2.
    """
    return class_moments.length_spread(class_moments.two_rows(classifier))


def classifier_angle_gap(classifier: Classifier) -> Float[Tensor, ""]:
    r"""NC2 of the last layer: mean of :math:`|\cos(w_c,w_{c'})+\frac1{C-1}|` over pairs of its rows, not centred.

    Raises:
        ValueError: A row is zero and has no direction.

    Source: Papyan, Han and Donoho (2020), figure 4.
    """
    rows = class_moments.two_rows(classifier)
    lengths = rows.norm(dim=1)
    if not lengths.all():
        raise ValueError(f"classifier: row {int(lengths.argmin())} is zero and has no direction")
    return class_moments.angle_gap(rows)


def duality_gap(features: Features, labels: Labels, classifier: Classifier) -> Float[Tensor, ""]:
    """NC3: distance of the last layer from the centred class means, each divided by its Frobenius norm.

    Rows of classes without a sample are left out on both sides.

    Raises:
        ValueError: The classifier is not ``(classes, d)`` (or ``(1, d)`` for two), or is zero.

    Source: Papyan, Han and Donoho (2020), figure 5, which shows the square.
    """
    return Sample(features, labels).duality_gap(classifier)


def center_disagreement(
    features: Features, labels: Labels, outputs: Float[Tensor, "m r"], *, points: Float[Tensor, "m d"] | None = None
) -> Float[Tensor, ""]:
    """NC4: share of points that the network puts into another class than the nearest class mean does.

    Args:
        features, labels: Training set, which gives the means.
        outputs: Of the network at the points, one column a class, or one column with the sign of the class.
        points: Features to classify, the training set's unless given.

    Raises:
        ValueError: There is not one row of outputs for each point.
    """
    return _center_disagreement(Sample(features, labels), outputs, points)


def neural_collapse(
    features: Features, labels: Labels, classifier: Classifier, *, bias: Float[Tensor, " r"] | None = None
) -> Measures:
    """All measures on a training set by name; the outputs are ``features @ classifier.T + bias``.

    Returns:
        A dictionary of numbers that also says, as attributes, which classes are ``missing`` or ``single``.

    Example:
        >>> frame = simplex_frame(3, 3)
        >>> measures = neural_collapse(frame, torch.arange(3), frame)
        >>> sorted(measures)  # doctest: +NORMALIZE_WHITESPACE
        ['angle_gap', 'center_disagreement', 'classifier_angle_gap', 'classifier_length_spread', 'distance_variance',
         'duality_gap', 'length_spread', 'variability', 'variance_ratio']
        >>> bool(max(measures.values()) < 1e-12), measures.missing, measures.single
        (True, [], [0, 1, 2])
    """
    moments = Sample(features, labels)
    W, b = classifier.to(moments.dtype), 0 if bias is None else bias.to(moments.dtype)
    found = moments.measures(classifier)
    outputs = torch.cat([h @ W.mT + b for h, _ in moments.chunks()])
    found["center_disagreement"] = _center_disagreement(moments, outputs)
    counts = torch.nn.functional.pad(moments.counts, (0, max(0, len(W) - len(moments.counts))))
    return Measures(found, counts)


def simplex_frame(
    classes: int, dimension: int, *, generator: Generator | None = None, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "c d"]:
    """A simplex equiangular tight frame: unit rows with all cosines ``-1/(classes - 1)``, summing to zero.

    Args:
        generator: Turns the frame into a random position; the coordinate axes otherwise.

    Raises:
        ValueError: Fewer than two classes, or a dimension below ``classes - 1``.
    """
    if classes < 2 or dimension < classes - 1:
        raise ValueError(f"classes={classes}, dimension={dimension}: need two classes and dimension >= classes - 1")
    centred = torch.eye(classes, dtype=dtype) - 1 / classes
    inside = torch.linalg.eigh(centred)[1][:, 1:] * math.sqrt(classes / (classes - 1))
    if generator is None:
        return torch.cat([inside, inside.new_zeros(classes, dimension - classes + 1)], 1)
    turn = torch.linalg.qr(torch.randn(dimension, classes - 1, generator=generator, dtype=dtype))[0]
    return inside @ turn.mT


def _center_disagreement(moments: Sample, outputs: Tensor, points: Tensor | None = None) -> Tensor:
    points = moments.features if points is None else points
    if len(outputs) != len(points):
        raise ValueError(f"outputs has {len(outputs)} rows for {len(points)} points: give one row a point")
    nearest = torch.cat([nearest_center(part, moments.class_means) for part in row_chunks(points)])
    return (nearest != decisions(outputs)).to(moments.dtype).mean()

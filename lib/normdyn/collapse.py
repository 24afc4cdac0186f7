r"""Neural collapse: four measures of last-layer features, their class means and the last layer.

``features`` are what the last layer reads, one row a sample; ``labels`` are ``0..C-1``; ``classifier`` is the last
layer, ``(C, d)``. A network with one output for two classes has ``(1, d)``: its rows are ``-w`` and ``w``. Class means
:math:`\mu_c` weigh every class alike and are centred at *their* mean :math:`\mu_G`; for balanced classes that is the
mean of all samples. With

.. math:: \Sigma_W=\tfrac1C\sum_c\operatorname{Cov}(h\mid c),\quad
   \Sigma_B=\tfrac1C\sum_c(\mu_c-\mu_G)(\mu_c-\mu_G)^\top

collapse is: NC1 :math:`\Sigma_W\to0` against :math:`\Sigma_B`, NC2 centred means of one length and with all cosines
:math:`-1/(C-1)`, NC3 the last layer parallel to the centred means, NC4 the decision is that of the nearest class mean.
Every measure is zero at collapse. Source: Papyan, Han and Donoho, PNAS 117 (2020), section "Results" and figures 2-7.

Two measures have a blind side. ``variability`` sees only the span of the centred means, and is zero where samples of a
class differ at right angles to it; ``variance_ratio`` sees all. And two centred means are opposite by construction, so
that NC2 says nothing for ``C = 2``.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

Features = Float[Tensor, "n d"]
Labels = Int[Tensor, " n"]


def class_means(features: Features, labels: Labels) -> Float[Tensor, "c d"]:
    """Mean feature of each class, one row a class.

    Raises:
        ValueError: Shapes differ, features are not finite, there are fewer than two classes, or one has no sample.

    Example:
        >>> class_means(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1])).tolist()
        [[1.0], [5.0]]
    """
    _check(features, labels)
    counts = torch.bincount(labels)
    sums = features.new_zeros(len(counts), features.shape[1]).index_add(0, labels, features)
    return sums / counts[:, None]


def covariances(features: Features, labels: Labels) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Within-class and between-class covariance, every class with the same weight."""
    centred, rest, weights = _parts(features, labels)
    return (rest * weights[:, None]).mT @ rest, centred.mT @ centred / len(centred)


def variability(features: Features, labels: Labels) -> Float[Tensor, ""]:
    r"""NC1 as published: :math:`\operatorname{tr}(\Sigma_W\Sigma_B^+)/C`.

    Raises:
        ValueError: All class means are equal, see also :func:`class_means`.

    Example:
        >>> h = torch.tensor([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.0], [-1.0, 0.0]])
        >>> variability(h, torch.tensor([0, 0, 1, 1])).item()      # differs at right angles to the means: not seen
        0.0
    """
    centred, rest, weights = _parts(features, labels)
    _, scales, directions = torch.linalg.svd(centred, full_matrices=False)
    scales, directions = scales[: len(centred) - 1], directions[: len(centred) - 1]  # the rank; the rest is rounding
    kept = scales > max(1e-10, 100 * torch.finfo(scales.dtype).eps) * scales[0]
    along = rest @ directions[kept].mT / scales[kept]
    return (along.square().sum(1) * weights).sum()  # the C of Sigma_B cancels the one in front


def variance_ratio(features: Features, labels: Labels) -> Float[Tensor, ""]:
    r"""NC1 without a blind side: :math:`\operatorname{tr}\Sigma_W/\operatorname{tr}\Sigma_B`."""
    centred, rest, weights = _parts(features, labels)
    return (rest.square().sum(1) * weights).sum() / centred.square().sum(1).mean()


def length_spread(features: Features, labels: Labels) -> Float[Tensor, ""]:
    """NC2, equal norms: standard deviation over mean of the lengths of the centred class means."""
    lengths = _parts(features, labels)[0].norm(dim=1)
    return lengths.std(correction=0) / lengths.mean()


def angle_gap(features: Features, labels: Labels) -> Float[Tensor, ""]:
    r"""NC2, equal and largest angles: mean of :math:`|\cos(\mu_c-\mu_G,\mu_{c'}-\mu_G)+\frac1{C-1}|` over pairs.

    Raises:
        ValueError: A class mean is the mean of all and has no direction.
    """
    centred = _parts(features, labels)[0]
    lengths = centred.norm(dim=1, keepdim=True)
    if not lengths.all():
        raise ValueError(f"features: the mean of class {int(lengths.argmin())} is that of all classes, no direction")
    count = len(centred)
    cosines = (centred / lengths) @ (centred / lengths).mT
    pairs = ~torch.eye(count, dtype=torch.bool, device=features.device)
    return (cosines[pairs] + 1 / (count - 1)).abs().mean()


def duality_gap(features: Features, labels: Labels, classifier: Float[Tensor, "r d"]) -> Float[Tensor, ""]:
    """NC3: distance of the last layer from the centred class means, each divided by its Frobenius norm.

    Raises:
        ValueError: The classifier has another shape than ``(classes, d)`` (or ``(1, d)`` for two), or is zero.
    """
    centred, W = _parts(features, labels)[0], classifier
    if len(W) == 1 and len(centred) == 2:
        W = torch.cat([-W, W])
    if W.shape != centred.shape:
        raise ValueError(f"classifier has shape {tuple(classifier.shape)}, the class means {tuple(centred.shape)}")
    if not W.any():
        raise ValueError("classifier is zero and has no direction")
    return (W / W.norm() - centred / centred.norm()).norm()


def nearest_center(points: Float[Tensor, "m d"], means: Float[Tensor, "c d"]) -> Int[Tensor, " m"]:
    """The class whose mean is nearest to each point; the first one of equals.

    Example:
        >>> nearest_center(torch.tensor([[0.4], [0.6]]), torch.tensor([[0.0], [1.0]])).tolist()
        [0, 1]
    """
    return (points @ means.mT - means.square().sum(1) / 2).argmax(1)


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
    points = features if points is None else points
    if len(outputs) != len(points):
        raise ValueError(f"outputs has {len(outputs)} rows for {len(points)} points: give one row a point")
    decision = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
    return (nearest_center(points, class_means(features, labels)) != decision).to(features.dtype).mean()


def neural_collapse(
    features: Features, labels: Labels, classifier: Float[Tensor, "r d"], *, bias: Float[Tensor, " r"] | None = None
) -> dict[str, Tensor]:
    """All measures on a training set by name; the outputs are ``features @ classifier.T + bias``.

    Example:
        >>> frame = simplex_frame(3, 3)
        >>> measures = neural_collapse(frame, torch.arange(3), frame)
        >>> sorted(measures), bool(max(measures.values()) < 1e-12)  # doctest: +NORMALIZE_WHITESPACE
        (['angle_gap', 'center_disagreement', 'duality_gap', 'length_spread', 'variability', 'variance_ratio'], True)
    """
    outputs = features @ classifier.mT + (0 if bias is None else bias)
    return {
        "variability": variability(features, labels),
        "variance_ratio": variance_ratio(features, labels),
        "length_spread": length_spread(features, labels),
        "angle_gap": angle_gap(features, labels),
        "duality_gap": duality_gap(features, labels, classifier),
        "center_disagreement": center_disagreement(features, labels, outputs),
    }


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


def _parts(features: Features, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
    """Centred means, deviations from the class means, and weights of the samples that sum to one."""
    means = class_means(features, labels)
    centred = means - means.mean(0)
    if not centred.norm() > 1e-14 * means.norm():
        raise ValueError("features: all class means are equal, and collapse has no meaning")
    weights = 1 / (len(means) * torch.bincount(labels)[labels]).to(features.dtype)
    return centred, features - means[labels], weights


def _check(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features has shape {tuple(features.shape)}, labels {tuple(labels.shape)}: give (n, d) and (n,)"
        )
    if labels.dtype.is_floating_point or labels.dtype == torch.bool or (len(labels) and labels.min() < 0):
        raise ValueError("labels must be whole numbers 0..C-1; map -1 and 1 to 0 and 1")
    if not features.isfinite().all():
        raise ValueError("features must be finite")
    counts = torch.bincount(labels)
    if len(counts) < 2 or not counts.all():
        raise ValueError(
            f"labels: every class 0..C-1 needs a sample and there must be two, counts are {counts.tolist()}"
        )

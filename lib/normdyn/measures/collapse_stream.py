r"""Neural collapse of features that do not fit in memory: what the measures need, added up batch by batch.

Kept are a count, a mean and a scatter of each class, and the within-class covariance, ``(d, d)``, in float64; products
within a batch are formed in the features' precision (float32 for half). Batches are merged by the formula of Chan,
Golub and LeVeque (1983): no sum of squares is formed from which a large mean is subtracted later.

.. math:: S_{ab} = S_a + S_b + \frac{n_an_b}{n_a+n_b}\,\delta\delta^\top,\qquad \delta = \mu_b - \mu_a

Batch ``b`` adds the sum of :math:`(h-\mu_a)(h-\mu_{ab})^\top` over its samples, which is the same.

Source: the merging is theirs; the measures are those of :mod:`normdyn.measures.collapse`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normdyn.measures.class_moments import (
    Classifier,
    Features,
    Labels,
    Measures,
    Moments,
    Weights,
    check_batch,
    decisions,
    nearest_center,
    wide,
)
from normdyn.shapes import Bool, Float, Int

__all__ = ["Accumulator"]


class Accumulator:
    """Measures of neural collapse from batches of features, read once.

    Args:
        counts: Samples of each class in the whole set, ``(classes,)``, such as ``labels.bincount()``. Where every class
            is to count alike, the weight of a sample depends on its class's size, which a single pass does not know in
            advance. Not needed where classes have equal sizes, or for ``result(weights="samples")``.
        covariance: Keep the ``(d, d)`` covariance; without it ``variability`` is left out of the result.

    Attributes:
        seen: Samples of each class so far, ``(classes,)``.

    Raises:
        ValueError: Batches do not agree, see :meth:`update`, :meth:`merge` and :meth:`result`.

    Example:
        >>> accumulator = Accumulator()
        >>> for batch in torch.eye(3).double().repeat(4, 1).split(5):
        ...     accumulator.update(batch, batch.argmax(1))
        >>> measures = accumulator.result()
        >>> measures["variance_ratio"].item(), measures.counts.tolist()
        (0.0, [4, 4, 4])
    """

    def __init__(self, counts: Int[Tensor, " c"] | None = None, *, covariance: bool = True):
        self.counts, self.covariance = counts, covariance
        self.seen: Tensor = torch.zeros(0, dtype=torch.long)
        self._means: Tensor = torch.zeros(0, 0)
        self._squares: Tensor = torch.zeros(0)  # summed squared distances from the mean, each class
        self._scatter: Tensor | None = None  # the same as a matrix over all classes, samples weighted

    @property
    def class_means(self) -> Float[Tensor, "c d"]:
        """Class means so far, float64; NaN where a class has no sample."""
        return self._means.masked_fill((self.seen == 0)[:, None], torch.nan)

    @torch.no_grad()
    def update(self, features: Features, labels: Labels) -> None:
        """Add a batch.

        Raises:
            ValueError: The batch has another width or device than those before, a label is beyond ``counts``, or see
                :func:`normdyn.measures.collapse.class_means`. Nothing is added then.
        """
        check_batch(features, labels)
        if not len(labels):
            return
        h = features.detach().to(wide(features.device))
        counts = torch.bincount(labels)
        self._fits(h, len(counts))
        means = h.new_zeros(len(counts), h.shape[1]).index_add_(0, labels, h) / counts.clamp_min(1)[:, None]
        squares = h.new_zeros(len(counts)).index_add_(0, labels, (h - means[labels]).square().sum(1))
        before = torch.where((self.seen[: len(counts)] > 0)[:, None], self._means[: len(counts)], means)
        self._merge(counts, means, squares)
        if self._scatter is not None:
            kind = torch.promote_types(features.dtype, torch.float32)
            left = ((h - before[labels]) * self._weights(counts, h)[labels, None]).to(kind)
            self._scatter += left.mT @ (h - self._means[labels]).to(kind)

    def merge(self, other: Accumulator) -> None:
        """Add what another accumulator has seen, such as that of another process.

        Raises:
            ValueError: One of the two keeps the covariance or has ``counts`` and the other does not; or see
                :meth:`update`.
        """
        given = [None if one.counts is None else one.counts.tolist() for one in (self, other)]
        if self.covariance != other.covariance or given[0] != given[1]:
            raise ValueError("other: both accumulators need the same counts and the same covariance=...")
        if len(other.seen):
            self._fits(other._means, len(other.seen))
            moved = self._merge(other.seen, other._means, other._squares)
            if self._scatter is not None and other._scatter is not None:
                self._scatter += other._scatter + (moved * self._weights(other.seen, moved)[:, None]).mT @ moved

    def differs(self, points: Float[Tensor, "m d"], outputs: Float[Tensor, "m r"]) -> Bool[Tensor, " m"]:
        """NC4 in a second pass: where the network decides otherwise than the nearest class mean.

        Args:
            points, outputs: Features and outputs of a batch, see
                :func:`normdyn.measures.collapse.center_disagreement`, which is the mean over all batches.
        """
        if len(outputs) != len(points):
            raise ValueError(f"outputs has {len(outputs)} rows for {len(points)} points: give one row a point")
        return nearest_center(points, self.class_means) != decisions(outputs)

    def result(self, classifier: Classifier | None = None, *, weights: Weights = "classes") -> Measures:
        """All measures but ``center_disagreement``, in float64; those of the last layer if it is given.

        Raises:
            ValueError: ``counts`` are not those of the samples seen; classes have different sizes, count alike and
                ``counts`` was not given; or see :func:`normdyn.measures.collapse.neural_collapse`.
        """
        return Measures(_Stream(self).measures(classifier, weights), self.seen.clone())

    def _fits(self, h: Tensor, classes: int) -> None:
        """Check a batch against those before, and make room for its classes."""
        if self.counts is not None and classes > len(self.counts):
            raise ValueError(f"labels: {classes - 1} is beyond counts, which has {len(self.counts)} classes")
        if not len(self.seen):
            self._means, self._squares = h.new_zeros(0, h.shape[1]), h.new_zeros(0)
            self.seen = torch.zeros(0, dtype=torch.long, device=h.device)
            self._scatter = h.new_zeros(2 * h.shape[1:]) if self.covariance else None
        if h.shape[1] != self._means.shape[1] or h.device != self._means.device:
            now, before = (f"{part.shape[1]} columns on {part.device}" for part in (h, self._means))
            raise ValueError(f"features has {now}, the batches before {before}")
        more = max(classes, 0 if self.counts is None else len(self.counts)) - len(self.seen)
        if more > 0:
            pad = torch.nn.functional.pad
            self.seen, self._squares = pad(self.seen, (0, more)), pad(self._squares, (0, more))
            self._means = pad(self._means, (0, 0, 0, more))

    def _weights(self, classes: Tensor, h: Tensor) -> Tensor:
        """Weight of a sample of each class in the covariance; one if the sizes of the classes are not known."""
        if self.counts is None:
            return h.new_ones(len(classes))
        return 1 / self.counts[: len(classes)].clamp_min(1).to(h)

    def _merge(self, counts: Tensor, means: Tensor, squares: Tensor) -> Tensor:
        """Merge counts, means and squares; rows whose products with themselves the scatter of each class gains."""
        rows = slice(0, len(counts))
        before, total = self.seen[rows], self.seen[rows] + counts
        delta, share = means - self._means[rows], counts.to(means.dtype) / total.clamp_min(1)
        between = before * share
        self._squares[rows] += squares + between * delta.square().sum(1)
        self._means[rows] += delta * share[:, None]
        self.seen[rows] = total
        return delta * between.sqrt()[:, None]


class _Stream(Moments):
    """What an accumulator has seen; classes without a sample have no row."""

    def __init__(self, source: Accumulator):
        self.source, self.counts, self.covariance_known = source, source.seen, source.covariance

    @property
    def class_means(self) -> Float[Tensor, "c d"]:
        return self.source.class_means

    def spreads(self) -> Float[Tensor, " k"]:
        return (self.source._squares / self.counts)[self.present]

    def within(
        self, directions: Float[Tensor, "r d"] | None, scales: Float[Tensor, " r"] | None, weights: Weights
    ) -> Float[Tensor, ""]:
        if directions is None or scales is None:
            spreads, counts = self.spreads(), self.counts[self.present]
            return spreads.mean() if weights == "classes" else (spreads * counts).sum() / counts.sum()
        scatter, along = self.source._scatter, directions / scales[:, None]
        assert scatter is not None
        return ((along @ scatter) * along).sum() / self._divisor(weights)

    def _divisor(self, weights: Weights) -> int:
        """By what the scatter is divided to be the within-class covariance."""
        given, sizes = self.source.counts, self.counts[self.present]
        if given is not None:
            if given.tolist() != self.counts.tolist():
                raise ValueError(f"counts: {given.tolist()} were announced and {self.counts.tolist()} seen")
            if weights == "samples" and sizes.unique().numel() > 1:
                raise ValueError("weights='samples' needs an Accumulator without counts where class sizes differ")
            return len(sizes)
        if weights == "classes" and sizes.unique().numel() > 1:
            raise ValueError(
                f"counts: classes have {sizes.tolist()} samples and are to count alike; give Accumulator(counts=...) "
                "the sizes before the first batch, or call result(weights='samples')"
            )
        return int(sizes.sum())

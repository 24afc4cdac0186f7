"""Counts, means and scatter of classes, read from features a few thousand rows at a time.

What :mod:`normdyn.measures.collapse` measures, it measures on :class:`Moments`: those of features in memory
(:class:`Sample`), or of a stream (:class:`normdyn.measures.collapse_stream.Accumulator`).

Source: the formulas are those that :mod:`normdyn.measures.collapse` names.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from normdyn.shapes import Float, Int, Shaped

__all__ = [
    "CONVENTIONS",
    "ENTRIES",
    "Classifier",
    "Convention",
    "Features",
    "Labels",
    "Measures",
    "Moments",
    "Sample",
    "Weights",
    "angle_gap",
    "check_batch",
    "decisions",
    "length_spread",
    "nearest_center",
    "row_chunks",
    "two_rows",
    "wide",
]

Features = Float[Tensor, "n d"]
Labels = Int[Tensor, " n"]
Classifier = Float[Tensor, "r d"]
Convention = Literal["pseudo-inverse", "trace ratio", "class distance"]
CONVENTIONS = ("pseudo-inverse", "trace ratio", "class distance")
Weights = Literal["classes", "samples"]
ENTRIES = 1 << 19  # of features that are worked on at a time


class Measures(dict[str, Tensor]):
    """Measures by name, and what they were taken from; makes such a dictionary from one and from counts.

    Attributes:
        counts: Samples of each class, ``(classes,)``.
        missing: Labels of the classes without a sample, which are left out.
        single: Labels of the classes with one sample, which have no scatter.
    """

    def __init__(self, values: dict[str, Tensor], counts: Int[Tensor, " c"]):
        super().__init__(values)
        self.counts = counts
        self.missing, self.single = ((counts == k).nonzero().flatten().tolist() for k in (0, 1))


class Moments(ABC):
    """What the measures ask of a set of features; classes without a sample have no row.

    Attributes:
        counts: Samples of each class, ``(classes,)``, zeros among them.
        class_means: ``(classes, d)``, NaN where there is no sample.
        covariance_known: The scatter along single directions is known, not only its trace.
    """

    counts: Int[Tensor, " c"]
    covariance_known = True

    @property
    @abstractmethod
    def class_means(self) -> Float[Tensor, "c d"]:
        """Means of all classes."""

    @cached_property
    def present(self) -> Int[Tensor, " k"]:
        """Labels of the classes that have a sample."""
        return self.counts.nonzero().flatten()

    @cached_property
    def means(self) -> Float[Tensor, "k d"]:
        """Class means of those."""
        return self.class_means[self.present]

    @cached_property
    def centred(self) -> Float[Tensor, "k d"]:
        """Class means less their mean.

        Raises:
            ValueError: Fewer than two classes have a sample, or all means are equal.
        """
        if len(self.present) < 2:
            raise ValueError(f"labels: there must be two classes with a sample, counts are {self.counts.tolist()}")
        centred = self.means - self.means.mean(0)
        if not centred.norm() > 1e-14 * self.means.norm():
            raise ValueError("features: all class means are equal, and collapse has no meaning")
        return centred

    @abstractmethod
    def spreads(self) -> Float[Tensor, " k"]:
        """Mean squared distance of each class from its mean."""

    @abstractmethod
    def within(
        self, directions: Float[Tensor, "r d"] | None, scales: Float[Tensor, " r"] | None, weights: Weights
    ) -> Float[Tensor, ""]:
        """Trace of the within-class covariance, in the coordinates ``<h, direction> / scale``; in all if None."""

    def variability(self, convention: Convention = "pseudo-inverse", weights: Weights = "classes") -> Float[Tensor, ""]:
        """:func:`normdyn.measures.collapse.variability`.

        Raises:
            ValueError: As there.
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {CONVENTIONS}, got {convention!r}")
        if weights not in ("classes", "samples"):
            raise ValueError(f"weights must be 'classes' or 'samples', got {weights!r}")
        centred = self.centred
        if convention == "trace ratio":
            return self.within(None, None, weights) / centred.square().sum(1).mean()
        if convention == "class distance":
            if weights != "classes":
                raise ValueError("weights: 'class distance' is a mean over pairs of classes, leave weights='classes'")
            return self._distance_variance()
        _, scales, directions = torch.linalg.svd(centred, full_matrices=False)
        scales, directions = (
            scales[: len(centred) - 1],
            directions[: len(centred) - 1],
        )  # the rank; the rest is rounding
        kept = scales > max(1e-10, 100 * torch.finfo(scales.dtype).eps) * scales[0]
        return self.within(directions[kept], scales[kept], weights)  # the C of Sigma_B cancels the one in front

    def _distance_variance(self) -> Tensor:
        distances, spreads = torch.pdist(self.means).square(), self.spreads()
        first, second = torch.triu_indices(len(spreads), len(spreads), 1, device=spreads.device)
        if not distances.all():
            pair = int(distances.argmin())
            labels = self.present[torch.stack([first[pair], second[pair]])].tolist()
            raise ValueError(f"features: classes {labels[0]} and {labels[1]} have one mean, their distance is zero")
        return ((spreads[first] + spreads[second]) / (2 * distances)).mean()

    def angle_gap(self) -> Float[Tensor, ""]:
        """:func:`normdyn.measures.collapse.angle_gap`.

        Raises:
            ValueError: As there.
        """
        lengths = self.centred.norm(dim=1)
        if not lengths.all():
            label = int(self.present[lengths.argmin()])
            raise ValueError(f"features: the mean of class {label} is that of all classes, no direction")
        return angle_gap(self.centred)

    def duality_gap(self, classifier: Classifier) -> Float[Tensor, ""]:
        """:func:`normdyn.measures.collapse.duality_gap`.

        Raises:
            ValueError: As there.
        """
        shape, width = tuple(classifier.shape), self.means.shape[1]
        W = two_rows(classifier)
        if W.ndim != 2 or W.shape[1] != width or len(W) < len(self.counts):
            raise ValueError(
                f"classifier has shape {shape}, the class means {(len(self.counts), width)}: give one row a class, "
                "or a single row for two classes"
            )
        if not W.any():
            raise ValueError("classifier is zero and has no direction")
        centred, W = self.centred, W.to(self.centred.dtype)[self.present]
        return (W / W.norm() - centred / centred.norm()).norm()

    def measures(self, classifier: Classifier | None, weights: Weights = "classes") -> dict[str, Tensor]:
        """All measures that moments and a last layer give, by name."""
        found = {"variability": self.variability("pseudo-inverse", weights)} if self.covariance_known else {}
        found |= {
            "variance_ratio": self.variability("trace ratio", weights),
            "distance_variance": self.variability("class distance"),
            "length_spread": length_spread(self.centred),
            "angle_gap": self.angle_gap(),
        }
        if classifier is not None:
            found["duality_gap"] = self.duality_gap(classifier)
            found["classifier_length_spread"] = length_spread(two_rows(classifier))
            found["classifier_angle_gap"] = angle_gap(two_rows(classifier))
        return found


class Sample(Moments):
    """Features in memory, read in chunks.

    Raises:
        ValueError: See :func:`check_batch`.
    """

    def __init__(self, features: Features, labels: Labels):
        check_batch(features, labels)
        self.features, self.labels = features, labels
        self.dtype = torch.promote_types(features.dtype, torch.float32)
        self.counts = torch.bincount(labels)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features in the precision that is computed with, and labels, some rows at a time."""
        parts = row_chunks(self.features)
        for h, y in zip(parts, self.labels.split([len(part) for part in parts]), strict=True):
            yield h.to(self.dtype), y

    @cached_property
    def class_means(self) -> Float[Tensor, "c d"]:
        """Means of all classes."""
        shape = len(self.counts), self.features.shape[1]
        sums = self.features.new_zeros(shape, dtype=wide(self.features.device))
        for h, y in self.chunks():
            sums += h.new_zeros(shape).index_add(0, y, h)
        return sums.to(self.dtype) / self.counts[:, None]

    def spreads(self) -> Float[Tensor, " k"]:
        """Mean squared distance of each class from its mean."""
        total = self.features.new_zeros(len(self.counts), dtype=wide(self.features.device))
        for h, y in self.chunks():
            total.index_add_(0, y, (h - self.class_means[y]).square().sum(1).to(total.dtype))
        return (total / self.counts)[self.present].to(self.dtype)

    def within(
        self, directions: Float[Tensor, "r d"] | None, scales: Float[Tensor, " r"] | None, weights: Weights
    ) -> Float[Tensor, ""]:
        """Trace of the within-class covariance in some coordinates."""
        every = torch.full_like(self.counts, len(self.labels))
        share = 1 / (every if weights == "samples" else len(self.present) * self.counts).to(self.dtype)
        total = self.features.new_zeros((), dtype=wide(self.features.device))
        for h, y in self.chunks():
            rest = h - self.class_means[y]
            along = rest if directions is None or scales is None else rest @ directions.mT / scales
            total += (along.square().sum(1) * share[y]).sum()
        return total.to(self.dtype)

    def covariance(self) -> Float[Tensor, "d d"]:
        """Within-class covariance, every class with the same weight."""
        total = self.features.new_zeros(2 * self.features.shape[1:], dtype=self.dtype)
        for h, y in self.chunks():
            rest = h - self.class_means[y]
            total += (rest / (len(self.present) * self.counts[y])[:, None]).mT @ rest
        return total


def length_spread(rows: Float[Tensor, "r d"]) -> Float[Tensor, ""]:
    """Standard deviation over mean of the lengths of rows."""
    lengths = rows.norm(dim=1)
    return lengths.std(correction=0) / lengths.mean()


def angle_gap(rows: Float[Tensor, "r d"]) -> Float[Tensor, ""]:
    """Mean distance of the cosines of pairs of rows from that of a simplex."""
    lengths, count = rows.norm(dim=1, keepdim=True), len(rows)
    cosines = (rows / lengths) @ (rows / lengths).mT
    pairs = ~torch.eye(count, dtype=torch.bool, device=rows.device)
    return (cosines[pairs] + 1 / (count - 1)).abs().mean()


def two_rows(classifier: Classifier) -> Float[Tensor, "k d"]:
    """The last layer with one output for two classes as two rows; in float32 if of half precision."""
    W = classifier.to(torch.promote_types(classifier.dtype, torch.float32))
    return torch.cat([-W, W]) if len(W) == 1 else W


def nearest_center(points: Float[Tensor, "m d"], means: Float[Tensor, "c d"]) -> Int[Tensor, " m"]:
    """The class whose mean is nearest to each point; the first one of equals. Rows of NaN are no class.

    Example:
        >>> nearest_center(torch.tensor([[0.4], [0.6]]), torch.tensor([[0.0], [1.0]])).tolist()
        [0, 1]
    """
    points = points.to(means.dtype)
    nearness = points @ means.mT - means.square().sum(1) / 2
    return nearness.masked_fill(means.isnan().any(1), -math.inf).argmax(1)


def decisions(outputs: Float[Tensor, "m r"]) -> Int[Tensor, " m"]:
    """The class of the largest output; of one output, its sign."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def check_batch(features: Shaped[Tensor, "..."], labels: Shaped[Tensor, "..."]) -> None:
    """See that features and labels are a batch.

    Raises:
        ValueError: Shapes differ, features are not finite, or labels are not whole numbers from 0.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features has shape {tuple(features.shape)}, labels {tuple(labels.shape)}: give (n, d) and (n,)"
        )
    if labels.dtype.is_floating_point or labels.dtype == torch.bool or (len(labels) and labels.min() < 0):
        raise ValueError("labels must be whole numbers 0..C-1; map -1 and 1 to 0 and 1")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating-point numbers, got {features.dtype}")
    if not all(bool(part.isfinite().all()) for part in row_chunks(features)):
        raise ValueError("features must be finite")


def row_chunks(rows: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    """Views of a few thousand rows each."""
    return rows.split(max(1, ENTRIES // max(1, rows.shape[1])))


def wide(device: torch.device) -> torch.dtype:
    """The precision in which sums over chunks and batches are kept: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64

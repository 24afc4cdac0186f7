"""Oracles: the same measures from features in memory, in any batches, far from the origin, in several parts."""

import math

import pytest
import torch

from normdyn.measures import collapse as nd
from normdyn.measures.collapse_stream import Accumulator


def generator(k=0):
    return torch.Generator().manual_seed(k)


def normal(k, *shape):
    return torch.randn(*shape, generator=generator(k), dtype=torch.float64)


def stream(features, labels, size, **options):
    accumulator = Accumulator(**options)
    for h, y in zip(features.split(size), labels.split(size), strict=True):
        accumulator.update(h, y)
    return accumulator


def scattered(counts, d=6, offset=0.0):
    """Features in random order, so that batches lack classes, with a last layer."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator(5))]
    return normal(0, len(labels), d) + 2 * normal(1, len(counts), d)[labels] + offset, labels, normal(2, len(counts), d)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("counts", [(12, 12, 12), (1, 20, 0, 9)])
def test_a_stream_gives_what_one_call_gives(counts, size):
    features, labels, W = scattered(counts)
    whole = nd.neural_collapse(features, labels, W)
    accumulator = stream(features, labels, size, counts=torch.tensor(counts))
    found = accumulator.result(W)
    assert set(whole) - set(found) == {"center_disagreement"}
    for name in found:
        assert math.isclose(found[name], whole[name], rel_tol=1e-11), name
    assert (found.missing, found.single) == (whole.missing, whole.single)
    parts = zip(features.split(7), (features @ W.mT).split(7), strict=True)
    wrong = torch.cat([accumulator.differs(h, f) for h, f in parts])
    assert wrong.double().mean() == whole["center_disagreement"]
    samples = stream(features, labels, size).result(weights="samples")
    assert math.isclose(samples["variability"], nd.variability(features, labels, weights="samples"), rel_tol=1e-11)
    lean = stream(features, labels, size, covariance=False).result()
    assert "variability" not in lean and math.isclose(lean["variance_ratio"], whole["variance_ratio"], rel_tol=1e-11)


def test_a_stream_far_from_the_origin_loses_no_digits_to_it():
    """Sums of squares less squared sums would leave nothing at an offset of 1e8: 1e16 times the rounding is one."""
    features, labels, W = scattered((20, 20, 20), offset=1e8)
    near, _, _ = scattered((20, 20, 20))
    found = stream(features, labels, 6).result()
    for name in ("variability", "variance_ratio", "distance_variance"):
        assert math.isclose(found[name], nd.neural_collapse(near, labels, W)[name], rel_tol=1e-6), name


def test_accumulators_of_several_processes_are_merged():
    features, labels, W = scattered((5, 20, 9))
    options = {"counts": labels.bincount()}
    first, second = stream(features[:13], labels[:13], 4, **options), stream(features[13:], labels[13:], 4, **options)
    first.merge(second)
    first.merge(Accumulator(**options))
    whole = nd.neural_collapse(features, labels, W)
    for name, value in first.result(W).items():
        assert math.isclose(value, whole[name], rel_tol=1e-11), name
    with pytest.raises(ValueError, match="same counts"):
        first.merge(Accumulator())


@pytest.mark.parametrize(("kind", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
def test_streams_in_lower_precision_are_added_in_double(kind, bound):
    """A thousand copies of a batch: what is left is a batch's rounding."""
    features, labels, _ = scattered((4, 4), offset=3.0)
    found, exact = Accumulator(), Accumulator()
    for _ in range(1000):
        found.update(features.to(kind), labels)
    exact.update(features.to(kind).double(), labels)
    expected = exact.result()
    for name, value in found.result().items():
        assert math.isclose(value, expected[name], rel_tol=bound), name
    assert math.isclose(found.result()["distance_variance"], expected["distance_variance"], rel_tol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, h, y: a.update(h[:, :2], y), "2 columns on cpu, the batches before 3"),
        (lambda a, h, y: a.update(h, y + 2), "3 is beyond counts"),
        (lambda a, h, y: a.update(h / 0, y), "finite"),
        (lambda a, h, y: a.result(h[:2]), "classifier has shape"),
        (lambda a, h, y: a.result(h[:3, :2]), "classifier has shape"),
        (lambda a, h, y: (a.update(h, 0 * y), a.result()), r"\[3, 3, 0\] were announced and \[9, 3, 0\] seen"),
        (lambda a, h, y: stream(h[1:], y[1:], 2).result(), r"\[2, 3\] samples and are to count alike"),
        (lambda a, h, y: stream(h[1:], y[1:], 2, counts=y[1:].bincount()).result(weights="samples"), "without counts"),
        (lambda a, h, y: Accumulator().result(), "two classes with a sample"),
    ],
)
def test_bad_streams_are_named(call, message):
    features, labels = normal(0, 6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    accumulator = stream(features, labels, 2, counts=torch.tensor([3, 3, 0]))
    with pytest.raises(ValueError, match=message):
        call(accumulator, features, labels)

"""Oracles: published formulas with loops and a pseudoinverse, public code written anew, classes left out by hand."""

import math

import numpy as np
import pytest
import torch

from normdyn.measures import class_moments
from normdyn.measures import collapse as nd


def generator(k=0):
    return torch.Generator().manual_seed(k)


def normal(k, *shape):
    return torch.randn(*shape, generator=generator(k), dtype=torch.float64)


def frame(classes=4, dimension=9, copies=5, k=0):
    """A collapsed set: means, features, labels."""
    M = nd.simplex_frame(classes, dimension, generator=generator(k))
    labels = torch.arange(classes).repeat(copies)
    return M, M[labels], labels


def scattered(counts, d=6, offset=0.0):
    """Features in random order, so that batches lack classes, with a last layer."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator(5))]
    return normal(0, len(labels), d) + 2 * normal(1, len(counts), d)[labels] + offset, labels, normal(2, len(counts), d)


@pytest.mark.parametrize("counts", [(7, 7, 7), (2, 9, 5)])
def test_against_the_published_formulas_with_loops(counts):
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    features, W, C = normal(0, len(labels), 5), normal(1, 3, 5), 3
    means = torch.stack([features[labels == c].mean(0) for c in range(C)])
    center = sum(means) / C
    within = sum(torch.cov(features[labels == c].mT, correction=0) for c in range(C)) / C
    between = sum(torch.outer(m - center, m - center) for m in means) / C
    measures = nd.neural_collapse(features, labels, W)
    assert math.isclose(measures["variability"], (within @ torch.linalg.pinv(between)).trace() / C, rel_tol=1e-11)
    assert math.isclose(measures["variance_ratio"], within.trace() / between.trace(), rel_tol=1e-12)
    ours = nd.covariances(features, labels)
    assert torch.allclose(ours[0], within) and torch.allclose(ours[1], between)
    cosine = torch.nn.functional.cosine_similarity
    gaps = [abs(cosine(means[a] - center, means[b] - center, dim=0) + 0.5) for a in range(C) for b in range(a)]
    assert math.isclose(measures["angle_gap"], sum(gaps) / len(gaps), rel_tol=1e-12)
    wrong = 0
    for h in features:
        nearest = min(range(C), key=lambda c: (h - means[c]).norm().item())
        wrong += nearest != max(range(C), key=lambda c: (W[c] @ h).item())
    assert math.isclose(measures["center_disagreement"], wrong / len(labels), rel_tol=1e-12)


def test_a_longer_and_a_turned_mean_have_known_gaps():
    M, features, labels = frame(3, 2)
    lengths = (M * torch.tensor([[1.3], [1.0], [1.0]], dtype=torch.float64) - 0.1 * M[0]).norm(dim=1)  # centred again
    stretched = features * (1 + 0.3 * (labels == 0).double())[:, None]
    expected = lengths.std(correction=0) / lengths.mean()
    assert math.isclose(nd.length_spread(stretched, labels), expected, rel_tol=1e-12)
    square = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    square[2, 1] = 3.0
    centred = square - square.mean(0)
    cosines = [torch.cosine_similarity(centred[a], centred[b], dim=0) for a, b in ((0, 1), (0, 2), (1, 2))]
    expected = sum(abs(c + 0.5) for c in cosines) / 3
    assert math.isclose(nd.angle_gap(square, torch.arange(3)), expected, rel_tol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, math.pi])
def test_a_turned_classifier_is_a_chord_away(angle):
    M, features, labels = frame(3, 2)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    assert math.isclose(nd.duality_gap(features, labels, M @ turn), 2 * math.sin(angle / 2), abs_tol=1e-12)


def test_disagreement_uses_points_and_bias():
    M, features, labels = frame(2, 1)
    points = torch.tensor([[0.2], [-0.2], [3.0]], dtype=torch.float64)
    side = (points * M[1]).sum(1, keepdim=True)
    assert nd.center_disagreement(features, labels, side, points=points) == 0
    assert nd.center_disagreement(features, labels, side + 1, points=points) == pytest.approx(1 / 3)
    shifted = nd.neural_collapse(features, labels, M, bias=torch.tensor([0.0, 5.0], dtype=torch.float64))
    assert shifted["center_disagreement"] == 0.5


@pytest.mark.parametrize("counts", [(8, 8, 8, 8), (2, 9, 5, 30)])
def test_conventions_against_public_code_written_anew(counts):
    """NumPy after the code published with the first paper, and the class-distance variance pair by pair."""
    labels = np.repeat(np.arange(4), counts)
    features = normal(0, len(labels), 6).numpy()
    means = np.stack([features[labels == c].mean(0) for c in range(4)])
    rest, centred = features - means[labels], means - means.mean(0)
    U, s, _ = np.linalg.svd(centred.T @ centred / 4)
    inverse = U[:, :3] / s[:3] @ U[:, :3].T
    trace = np.trace(rest.T @ rest / len(rest) @ inverse)
    given = torch.from_numpy(features), torch.from_numpy(labels)
    assert math.isclose(4 * nd.variability(*given, weights="samples"), trace, rel_tol=1e-12)
    ratio = (rest**2).sum(1).mean() / (centred**2).sum(1).mean()
    assert math.isclose(nd.variability(*given, convention="trace ratio", weights="samples"), ratio, rel_tol=1e-12)
    if len(set(counts)) == 1:
        assert math.isclose(4 * nd.variability(*given), trace, rel_tol=1e-12)
    spread = [((features[labels == c] - means[c]) ** 2).sum(1).mean() for c in range(4)]
    pairs = [(spread[a] + spread[b]) / (2 * ((means[a] - means[b]) ** 2).sum()) for a in range(4) for b in range(a)]
    assert math.isclose(nd.variability(*given, convention="class distance"), sum(pairs) / 6, rel_tol=1e-12)
    assert nd.distance_variance(*given) == nd.variability(*given, convention="class distance")
    assert nd.variance_ratio(*given) == nd.variability(*given, convention="trace ratio")


def test_nc2_of_the_last_layer_row_by_row():
    W = normal(0, 4, 7)
    lengths = W.norm(dim=1)
    assert math.isclose(nd.classifier_length_spread(W), lengths.std(correction=0) / lengths.mean(), rel_tol=1e-13)
    gaps = [abs(torch.cosine_similarity(W[a], W[b], dim=0) + 1 / 3) for a in range(4) for b in range(a)]
    assert math.isclose(nd.classifier_angle_gap(W), sum(gaps) / 6, rel_tol=1e-12)
    assert max(nd.classifier_length_spread(W[:1]), nd.classifier_angle_gap(W[:1])) < 1e-14  # one output is w and -w


def test_a_class_without_samples_is_left_out_and_named():
    features, labels, W = normal(0, 30, 6), torch.tensor([0, 1, 4]).repeat(10), normal(1, 6, 6)
    some = nd.neural_collapse(features, labels, W)
    three = nd.neural_collapse(features, torch.tensor([0, 1, 2]).repeat(10), W[[0, 1, 4]])
    assert some.missing == [2, 3, 5] and some.single == [] and some.counts.tolist() == [10, 10, 0, 0, 10, 0]
    assert three.missing == []
    for name in set(three) - {"center_disagreement", "classifier_length_spread", "classifier_angle_gap"}:
        assert some[name] == three[name], name  # the last layer's rows and decisions are six, with or without samples
    means = nd.class_means(features, labels)
    assert means.isnan().all(1).tolist() == [False, False, True, True, False]
    assert set(nd.nearest_center(features, means).tolist()) == {0, 1, 4}


def test_a_class_of_one_sample_has_no_scatter_and_is_named():
    features, labels, W = normal(0, 7, 3), torch.tensor([0, 0, 0, 1, 2, 2, 2]), normal(1, 3, 3)
    found = nd.neural_collapse(features, labels, W)
    assert found.single == [1] and found.missing == []
    spread = [features[labels == c].var(0, correction=0).sum() for c in (0, 2)]
    between = nd.covariances(features, labels)[1].trace()
    assert math.isclose(found["variance_ratio"], sum(spread) / 3 / between, rel_tol=1e-12)


@pytest.mark.parametrize(("kind", "bound"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_measured_in_single(kind, bound):
    features, labels, W = normal(0, 300, 16), torch.arange(5).repeat(60), normal(1, 5, 16)
    features = features + 2 * normal(2, 5, 16)[labels]
    half, full = (nd.neural_collapse(features.to(t), labels, W.to(t)) for t in (kind, torch.float64))
    rounded = nd.neural_collapse(features.to(kind).double(), labels, W.to(kind).double())
    for name in full:
        assert half[name].dtype == torch.float32
        assert math.isclose(half[name], rounded[name], rel_tol=1e-5, abs_tol=1e-6), name  # what is left is float32's
        assert math.isclose(half[name], full[name], rel_tol=10 * bound, abs_tol=bound), name
    assert nd.neural_collapse(200 * features.half(), labels, W.half())["variability"].isfinite()  # squares overflow


def test_large_sets_are_read_in_chunks(monkeypatch):
    features, labels, W = scattered((50, 60, 70))
    whole = nd.neural_collapse(features, labels, W)
    monkeypatch.setattr(class_moments, "ENTRIES", 60)  # ten rows
    sizes = []
    record = lambda self, *args: sizes.append(self.numel()) or record.was(self, *args)
    record.was = torch.Tensor.square
    monkeypatch.setattr(torch.Tensor, "square", record)
    chunked = nd.neural_collapse(features, labels, W)
    assert max(sizes) <= 60  # no temporary of the features' size
    for name in whole:
        assert math.isclose(chunked[name], whole[name], rel_tol=1e-12), name
    monkeypatch.undo()
    assert torch.allclose(
        nd.covariances(features, labels)[0],
        sum(torch.cov(features[labels == c].mT, correction=0) for c in range(3)) / 3,
    )

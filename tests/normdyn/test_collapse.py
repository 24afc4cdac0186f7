"""Exact frames, invariances, perturbations with a known answer, and bad input."""

import math

import pytest
import torch

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


@pytest.mark.parametrize(("classes", "dimension"), [(2, 1), (2, 6), (3, 2), (5, 7), (10, 9), (10, 32)])
def test_a_simplex_frame_is_one(classes, dimension):
    for M in (
        nd.simplex_frame(classes, dimension),
        nd.simplex_frame(classes, dimension, generator=generator(classes)),
    ):
        gram = (classes * torch.eye(classes, dtype=M.dtype) - 1) / (classes - 1)
        assert (M @ M.mT - gram).abs().max() < 1e-14 * classes
        assert M.sum(0).abs().max() < 1e-14 * classes


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_all_measures_vanish_at_collapse_wherever_the_frame_lies(classes):
    M, features, labels = frame(classes, 12)
    shift = normal(1, 12)
    shift = shift - M.mT @ (M @ shift) * (classes - 1) / classes  # at right angles, so that NC4 needs no bias
    measures = nd.neural_collapse(3 * features + shift, labels, 0.1 * M)
    assert all(value < 1e-12 for value in measures.values()), measures


def test_measures_do_not_depend_on_rotation_scale_or_the_order_of_samples():
    features, W, labels = normal(0, 30, 6), normal(1, 3, 6), torch.arange(3).repeat(10)
    turn, order = torch.linalg.qr(normal(2, 6, 6))[0], torch.randperm(30, generator=generator(3))
    one, other = (
        nd.neural_collapse(features, labels, W),
        nd.neural_collapse(7 * features[order] @ turn, labels[order], 0.3 * W @ turn),
    )
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-11, atol=1e-13), name


def test_scatter_along_one_edge_of_the_frame_has_a_known_variability():
    M, features, labels = frame(4, 9, copies=6)
    edge = (M[0] - M[1]) / (M[0] - M[1]).norm()
    sign = (
        torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(4).repeat(3)
    )  # half of each class on either side
    moved = features + 0.01 * sign[:, None] * edge
    # Sigma_B is 1/(C-1) times the projector on the frame's span: the answer is (C-1)/C times the variance
    assert math.isclose(nd.variability(moved, labels), 0.75 * 1e-4, rel_tol=1e-11)
    assert math.isclose(nd.variance_ratio(moved, labels), 1e-4, rel_tol=1e-11)


def test_scatter_at_right_angles_is_seen_by_the_ratio_alone():
    M = nd.simplex_frame(3, 2)
    labels = torch.arange(3).repeat(2)
    moved = torch.cat([M[labels], torch.tensor([[0.2]] * 3 + [[-0.2]] * 3, dtype=M.dtype)], 1)
    assert nd.variability(moved, labels) < 1e-30
    assert math.isclose(nd.variance_ratio(moved, labels), 0.04, rel_tol=1e-12)


def test_one_output_stands_for_two_classes():
    features, labels, w = normal(0, 20, 4), torch.arange(2).repeat(10), normal(1, 1, 4)
    one, two = nd.neural_collapse(features, labels, w), nd.neural_collapse(features, labels, torch.cat([-w, w]))
    assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in two.items()}
    assert one["length_spread"] < 1e-14 and one["angle_gap"] < 1e-14  # NC2 is empty for two classes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h, y: nd.class_means(h, 2 * y - 1), "map -1 and 1"),
        (lambda h, y: nd.variability(h, 0 * y), r"there must be two classes with a sample, counts are \[6\]"),
        (lambda h, y: nd.variability(h, 0 * y, convention="class distance"), "there must be two"),
        (lambda h, y: nd.variability(h, y, convention="class distance", weights="samples"), "mean over pairs"),
        (lambda h, y: nd.distance_variance(torch.cat([h, h]), torch.cat([y, y + 2])), "classes 0 and 2 have one mean"),
        (lambda h, y: nd.class_means(h / 0, y), "finite"),
        (lambda h, y: nd.variability(0 * h + 1, y), "all class means are equal"),
        (lambda h, y: nd.duality_gap(h, y + 1, h[:2]), "classifier has shape"),
        (lambda h, y: nd.classifier_angle_gap(0 * h), "row 0 is zero"),
        (lambda h, y: nd.duality_gap(h, y, 0 * h[:2]), "classifier is zero"),
        (lambda h, y: nd.center_disagreement(h, y, h[:3]), "3 rows for 6 points"),
        (lambda h, y: nd.simplex_frame(4, 2), "dimension >= classes - 1"),
        (lambda h, y: nd.simplex_frame(1, 2), "two classes"),
        (lambda h, y: nd.angle_gap(torch.tensor([[0.0], [1.0], [2.0]]), torch.arange(3)), "class 1 is that of all"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(0, 6, 3), torch.tensor([0, 0, 0, 1, 1, 1]))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_variability_near_collapse_has_its_closed_form_in_both_precisions(kind):
    """Rounding gives the centred means a direction of relative length u, by which nothing must be divided."""
    classes, copies, size = 10, 200, 1e-3
    M = nd.simplex_frame(classes, 30, generator=generator(1)) + normal(2, 1, 30)
    labels = torch.arange(classes).repeat(copies)
    features = (M[labels] + size * normal(3, len(labels), 30)).to(kind)
    expected = size**2 * (1 - 1 / copies) * (classes - 1) ** 2 / classes
    assert math.isclose(nd.variability(features, labels).item(), expected, rel_tol=0.03)

"""Normalisation layers against torch's own, their backward formula against autograd."""

import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose

from normdyn.networks import normalizers
from normdyn.networks.graphs import mlp


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 4), (5, 6, 4, 3)])
def test_batch_layer_and_group_normalisation_are_those_of_torch(shape, epsilon):
    z = draw(*shape)
    theirs = F.batch_norm(z, None, None, training=True, eps=epsilon or 1e-300)  # torch asks for more than zero
    assert_allclose(normalizers.batch_norm(z, epsilon=epsilon), theirs, atol=1e-13)
    assert_allclose(normalizers.layer_norm(z, epsilon=epsilon), F.layer_norm(z, shape[1:], eps=epsilon), atol=1e-13)
    for groups in (1, 2, 3):
        ours = normalizers.group_norm(z, groups, epsilon=epsilon)
        assert_allclose(ours, F.group_norm(z, groups, eps=epsilon), atol=1e-13)


def test_instance_normalisation_is_group_normalisation_with_a_channel_a_group():
    z = draw(5, 6, 4, 3)
    assert_allclose(normalizers.instance_norm(z), F.group_norm(z, 6, eps=0), atol=1e-13)


def test_stored_statistics_are_constants():
    z, mean, variance = draw(5, 6, 4), draw(6, seed=1), draw(6, seed=2).exp()
    ours = normalizers.batch_norm(z, epsilon=0.1, statistics=(mean, variance))
    assert_allclose(ours, F.batch_norm(z, mean, variance, training=False, eps=0.1), atol=1e-13)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["batch", "layer", "instance"])
def test_backward_formula_is_that_of_autograd(kind, epsilon):
    z, g = draw(5, 6, 4, 3).requires_grad_(), draw(5, 6, 4, 3, seed=1)
    over = normalizers.averaged_axes(kind, 4)
    (slow,) = torch.autograd.grad(normalizers.normalize(z, over, epsilon=epsilon), z, g)
    fast = normalizers.normalize_backward(z.detach(), g, over, epsilon=epsilon)
    assert_allclose(fast, slow, atol=1e-13)
    assert (fast - g).abs().max() > 0.1


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["batch", "layer", "instance"])
def test_curvature_is_the_derivative_of_the_backward_pass(kind, epsilon):
    z, g, h = (draw(5, 6, 4, 3, seed=k) for k in range(3))
    over = normalizers.averaged_axes(kind, 4)
    inner = lambda z: (g * normalizers.normalize(z, over, epsilon=epsilon)).sum()
    slow = torch.func.jvp(torch.func.grad(inner), (z,), (h,))[1]
    fast = normalizers.normalize_curvature(z, g, h, over, epsilon=epsilon)
    assert_allclose(fast, slow, atol=1e-13)
    assert fast.abs().max() > 0.1


def test_curvature_along_the_signal_is_minus_the_gradient():
    z, g = draw(7), draw(7, seed=1)
    along = normalizers.normalize_curvature(z, g, z, (0,))
    assert_allclose(along, -normalizers.normalize_backward(z, g, (0,)), atol=1e-13)


def test_weight_normalisation_is_that_of_torch():
    v, gain = draw(3, 4, 2), draw(3, seed=1)
    assert_allclose(normalizers.weight_norm(v, gain), torch._weight_norm(v, gain.reshape(3, 1, 1), 0), atol=1e-14)


def test_network_forgets_scale_and_offset_of_normalised_layers():
    weights, X = [draw(6, 3), draw(4, 6, seed=1), draw(2, 4, seed=2)], draw(9, 3, seed=3)
    f = normalizers.normalized_mlp(weights, X)
    moved = normalizers.normalized_mlp(
        [7 * weights[0], 0.1 * weights[1], weights[2]],
        X,
        biases=[draw(6), draw(4), torch.zeros(2, dtype=torch.float64)],
    )
    assert_allclose(moved, f, atol=1e-12)
    gains, shifts = [draw(6), draw(4)], [draw(6, seed=4), draw(4, seed=5)]
    plain = normalizers.normalized_mlp(weights, X, normalizer=lambda z: z, gains=gains, shifts=shifts)
    folded = [g[:, None] * W for g, W in zip([*gains, torch.ones(2, dtype=torch.float64)], weights, strict=True)]
    assert_allclose(plain, mlp(folded, X, biases=[*shifts, torch.zeros(2, dtype=torch.float64)]), atol=1e-13)


def test_torch_func_can_be_used():
    z = draw(5, 6)
    jacobian = torch.func.jacrev(normalizers.batch_norm)(z).reshape(30, 30)
    assert torch.linalg.matrix_rank(jacobian, rtol=1e-10) == 30 - 2 * 6


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="kind must be one of .*'rows'"):
        normalizers.averaged_axes("rows", 2)
    with pytest.raises(ValueError, match="'instance' averages over space"):
        normalizers.instance_norm(draw(5, 6))
    with pytest.raises(ValueError, match="groups must divide the 6 features, got 4"):
        normalizers.group_norm(draw(5, 6), 4)
    with pytest.raises(ValueError, match="no spread"):
        normalizers.batch_norm(torch.ones(5, 6))

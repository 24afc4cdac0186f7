"""Chains and their signals against torch's own modules."""

import pytest
import torch

from normdyn.networks.chains import chain, homogeneous_activation, signals
from normdyn.networks.graphs import layered_weights, mlp
from normdyn.networks.homogeneity import order
from normdyn.networks.losses import square_loss


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS, X, Y = layered_weights([4, 6, 5, 3], torch.Generator().manual_seed(0)), draw(1, 9, 4), draw(2, 9, 3)


def test_a_chain_of_relus_is_an_mlp():
    biases = [draw(3 + l, len(W)) for l, W in enumerate(WEIGHTS)]
    assert torch.equal(chain(WEIGHTS, X, [torch.relu] * 2, biases=biases), mlp(WEIGHTS, X, biases=biases))


def test_signals_are_those_of_a_module():
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5), torch.nn.ReLU(),
                                 torch.nn.Linear(5, 3)).double()  # fmt: skip
    linear = [module[0], module[2], module[4]]
    value = square_loss(module(X), Y)
    value.backward()
    seen = signals(
        lambda f: square_loss(f, Y), [m.weight for m in linear], X, [torch.tanh, torch.relu],
        biases=[m.bias for m in linear],
    )  # fmt: skip
    assert torch.allclose(seen.loss, value, rtol=1e-14)
    for m, g, b, A, G in zip(
        linear, seen.gradients, seen.bias_gradients, seen.inputs, seen.field_gradients, strict=True
    ):
        assert torch.allclose(g, m.weight.grad, rtol=1e-13) and torch.allclose(b, m.bias.grad, rtol=1e-13)
        assert torch.allclose(g, G.mT @ A, rtol=1e-12, atol=1e-15)
    assert torch.allclose(seen.output_gradient, (seen.output - Y) / 9)
    assert not any(t.requires_grad for group in seen[:5] for t in group)


def test_a_layer_cut_off_by_an_activation_has_zero_gradient():
    seen = signals(lambda f: square_loss(f, Y), WEIGHTS, X, [torch.relu, lambda z: z.detach()])
    assert seen.gradients[0].abs().max() == 0


@pytest.mark.parametrize("k", [0, 0.5, 1, 2, 3])
def test_power_has_its_order(k):
    found = order(homogeneous_activation(k), draw(5, 7, 4))
    assert abs(found.value - k) < 1e-13 and found.error < 1e-13
    assert torch.autograd.gradcheck(homogeneous_activation(k), draw(6, 2, 3).requires_grad_())


def test_count_of_activations():
    with pytest.raises(ValueError, match="3 layers need 2 activations, got 1"):
        chain(WEIGHTS, X, [torch.relu])

"""Closed forms, invariance under the scalings that the figures are to forget, and networks that have no order."""

import copy
import math

import pytest
import torch
from torch import nn

from normdyn.norms.margins import normalized_margin
from normdyn.norms.network_margins import network_margin


def network(*, bias=False, activation=nn.ReLU, outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8, bias=bias), activation(), nn.Linear(8, 6, bias=bias), activation(),
                         nn.Linear(6, outputs, bias=bias)).double()  # fmt: skip


X = torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(12) % 3


def test_a_linear_classifier_has_the_margin_of_its_vector():
    model = nn.Linear(4, 1, bias=False).double()
    labels = (X @ model.weight[0] > 0).long()
    found = network_margin(model, X, labels)
    expected = normalized_margin(X * (2 * labels - 1)[:, None], model.weight[0]).item()
    assert math.isclose(found.normalized, expected, rel_tol=1e-12) and found.by_layers == found.normalized
    assert found.order == 1 and (found.margins > 0).all()


def test_margins_are_the_logit_of_the_label_less_the_largest_other():
    model = network()
    found, f = network_margin(model, X, Y), model(X).tolist()
    expected = [row[y] - max(v for k, v in enumerate(row) if k != y) for row, y in zip(f, Y.tolist(), strict=True)]
    assert (found.margins - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-13
    assert found.order == 3 and set(found.orders.values()) == {1}
    norms = [model[k].weight.norm().item() for k in (0, 2, 4)]
    assert math.isclose(found.normalized, min(expected) / sum(n * n for n in norms) ** 1.5, rel_tol=1e-12)
    assert math.isclose(found.by_layers, min(expected) / math.prod(norms), rel_tol=1e-12)


def test_scale_moves_neither_and_layers_against_each_other_only_the_first():
    model = network()
    alike, apart = copy.deepcopy(model), copy.deepcopy(model)
    for layer, factor in ((0, 20.0), (2, 0.5), (4, 0.1)):
        alike[layer].weight.data *= 3.0
        apart[layer].weight.data *= factor
    one, two, three = (network_margin(m, X, Y) for m in (model, alike, apart))
    assert math.isclose(two.normalized, one.normalized, rel_tol=1e-12)
    assert math.isclose(two.by_layers, one.by_layers, rel_tol=1e-12)
    assert math.isclose(two.margins.min(), 27 * one.margins.min(), rel_tol=1e-12)
    assert math.isclose(three.by_layers, one.by_layers, rel_tol=1e-12)
    assert abs(three.normalized / one.normalized - 1) > 0.5


def test_orders_above_one_and_weights_below_a_normalization():
    class Squared(nn.Module):
        def forward(self, x):
            return x.relu().square()

    found = network_margin(network(activation=Squared), X, Y)
    assert list(found.orders.values()) == [4, 2, 1] and found.order == 7
    torch.manual_seed(0)
    normed = nn.Sequential(nn.Linear(4, 8, bias=False), nn.LayerNorm(8, eps=1e-300, elementwise_affine=False),
                           nn.ReLU(), nn.Linear(8, 3, bias=False)).double()  # fmt: skip
    found = network_margin(normed, X, Y)
    assert list(found.orders.values()) == [0, 1]
    assert math.isclose(found.normalized, found.margins.min().item() / normed[3].weight.norm().item(), rel_tol=1e-12)


def test_the_model_and_its_precision_stay():
    model = network().float().train()
    before = copy.deepcopy(model.state_dict())
    network_margin(model, X.float(), Y)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        (network(bias=True), Y, r"^0.weight: the outputs have no order in it .* such as a bias"),
        (network(activation=nn.Tanh), Y, r"^0.weight: the outputs have no order .*tanh"),
        (nn.Linear(4, 3).double(), Y, r"^weight: the outputs have no order"),
        (nn.Sequential(network(), nn.Flatten(0)), Y, r"gives \(36,\) for 12 labels"),
        (network(outputs=2), Y, "labels must lie between 0 and 1"),
    ],
)
def test_networks_without_an_order_are_refused(model, labels, message):
    with pytest.raises(ValueError, match=message):
        network_margin(model, X, labels)


def test_a_bias_that_alone_has_no_order_is_named():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(3).double())
            self.layer = nn.Linear(4, 3, bias=False).double()

        def forward(self, x):
            return self.layer(x) + self.shift

    with pytest.raises(ValueError, match=r"^shift: .* build the layers with bias=False"):
        network_margin(Shifted(), X, Y)

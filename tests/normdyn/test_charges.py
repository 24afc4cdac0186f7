"""Charges under gradient flow, networks that lack a symmetry, and units that are dead on the batch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normdyn.motion.flows import gradient_flow, integrate
from normdyn.symmetry.charges import charges


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = draw(1, 30, 4), torch.arange(30) % 3


def network(activation=nn.LeakyReLU):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 6), activation(), nn.Linear(6, 3)).double()


def kinds(found):
    return {kind: [c.name for c in found if c.kind == kind] for kind in ("rescaling", "scale", "translation")}


def test_a_leaky_network_under_cross_entropy_has_one_charge_a_unit_and_a_shift():
    found = charges(network(), F.cross_entropy, X, Y)
    names = kinds(found)
    assert names["rescaling"] == [f"{l}.weight[{unit}]" for l, n in ((0, 5), (2, 6)) for unit in range(n)]
    assert names["translation"] == ["4.bias", *(f"4.weight[:, {k}]" for k in range(6))]
    assert names["scale"] == [] and max(c.residual for c in found) < 1e-12


def test_charges_are_what_the_definitions_say():
    model = network()
    found = {c.name: c.value for c in charges(model, F.cross_entropy, X, Y)}
    with torch.no_grad():
        unit = model[0].weight[2].square().sum() + model[0].bias[2] ** 2 - model[2].weight[:, 2].square().sum()
        assert found["0.weight[2]"] == pytest.approx(unit.item(), rel=1e-13)
        assert found["4.bias"] == pytest.approx(model[4].bias.sum().item(), rel=1e-12)
        assert found["4.weight[:, 1]"] == pytest.approx(model[4].weight[:, 1].sum().item(), rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_gradient_flow_conserves_all_of_them_and_decay_does_not(decay):
    model = network(nn.Identity)  # without kinks, at which an integrator's steps collapse
    loss = lambda p: F.cross_entropy(torch.func.functional_call(model, p, (X,)), Y)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    before = [c.value for c in charges(model, F.cross_entropy, X, Y)]
    path = integrate(gradient_flow(loss, weight_decay=decay), start, [0.0, 1.0], relative=1e-8, absolute=1e-10)
    model.load_state_dict({name: path[name][-1] for name in start})
    after = [c.value for c in charges(model, F.cross_entropy, X, Y)]
    drift = max(abs(x - y) for x, y in zip(before, after, strict=True))
    assert drift > 1e-2 if decay else drift < 1e-6
    assert max((path[name][-1] - p).abs().max() for name, p in start.items()) > 1e-2


def test_symmetries_that_a_network_or_a_loss_lacks_are_not_listed():
    assert kinds(charges(network(nn.Tanh), F.cross_entropy, X, Y))["rescaling"] == []
    square = lambda f, y: (f - F.one_hot(y, 3)).square().mean()
    names = kinds(charges(network(), square, X, Y))
    assert names["translation"] == [] and len(names["rescaling"]) == 11


def test_a_unit_that_is_dead_on_the_batch_counts_for_nothing():
    model = network(nn.ReLU)
    model[0].bias.data[3] = -1e3
    names = kinds(charges(model, F.cross_entropy, X, Y))
    assert "0.weight[3]" not in names["rescaling"] + names["scale"] and "0.weight[2]" in names["rescaling"]


def test_convolutions_and_rows_below_a_normalization():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)).double()
    names = kinds(charges(model, F.cross_entropy, draw(2, 20, 1, 6, 6), torch.arange(20) % 3))
    assert names["rescaling"] == ["0.weight[0]", "0.weight[1]", "0.weight[2]"]
    normed = nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5, eps=1e-30), nn.Tanh(), nn.Linear(5, 3)
    ).double()
    before = copy.deepcopy(normed.state_dict())
    names = kinds(charges(normed.train(), F.cross_entropy, X, Y))
    assert names["scale"] == [*(f"0.weight[{k}]" for k in range(5)), "0.weight"]
    assert all(torch.equal(v, before[k]) for k, v in normed.state_dict().items())


def test_no_gradient_no_answer():
    with pytest.raises(ValueError, match="the gradient is zero or not finite"):
        charges(network(), lambda f, y: 0 * f.sum(), X, Y)

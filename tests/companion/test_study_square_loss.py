"""The stacked ensemble against single networks trained by torch's own modules, loss and optimiser."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion.studies.square_loss import Setup, equilibrium_ratio, initialize, norm_products, output, run, two_classes
from normdyn.data import sets as data

TOY = Setup(
    scales=(0.5, 3.0), decays=(0.0, 0.1), seeds=(0, 7), width=5, batch=8, epochs=4, evaluations=2, learning_rate=0.05
)


def toy_data(setup=TOY, n=17, side=8):
    draw = torch.Generator().manual_seed(3)
    X = torch.randn((n, 1, side, side) if setup.convolutional else (n, 6), generator=draw, dtype=torch.float64)
    X = X / X.flatten(1).norm(dim=1).reshape(-1, *[1] * (X.ndim - 1))
    return X, torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return self.gain * x


def module(setup, weights):
    """torch's own layers with the given weights."""
    layers = []
    for l, W in enumerate(weights, 1):
        last = l == setup.layers
        if W.ndim == 4:
            layer = nn.Conv2d(W.shape[1], W.shape[0], 3, stride=2, padding=1, bias=False)
        else:
            layer = nn.Linear(W.shape[1], W.shape[0], bias=False)
        layer.weight = nn.Parameter(W.clone())
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if last and setup.convolutional else []
        norm = nn.BatchNorm2d if W.ndim == 4 else nn.BatchNorm1d
        norm = [norm(len(W), affine=False, eps=setup.epsilon).double()] if setup.batch_norm else []
        tail = [*norm, Gain()] if setup.output_scale else []
        layers += [*pool, layer, *(tail if last else [*norm, nn.ReLU()])]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "changes", [{}, {"batch_norm": False}, {"output_scale": True}, {"convolutional": True, "width": 3}]
)
def test_the_stacked_ensemble_is_that_of_single_networks(changes):
    setup = dataclasses.replace(TOY, **changes)
    (X, y), held = toy_data(setup), toy_data(setup, 9)
    result, start = run(setup, (X, y), held), initialize(setup, X.shape[1])
    names = [f"W{l}" for l in range(1, setup.layers + 1)]
    for i in range(len(setup.scales)):
        for j, decay in enumerate(setup.decays):
            for k, seed in enumerate(setup.seeds):
                flat = (i * len(setup.decays) + j) * len(setup.seeds) + k
                model = module(setup, [start[n][flat] for n in names])
                optimizer = torch.optim.SGD(
                    model.parameters(), lr=setup.learning_rate, momentum=setup.momentum, weight_decay=decay
                )
                order = torch.Generator().manual_seed(1000 * seed + 2)
                for _ in range(setup.epochs):
                    for rows in torch.randperm(len(X), generator=order).split(setup.batch):
                        if len(rows) == setup.batch:
                            optimizer.zero_grad()
                            F.mse_loss(model(X[rows])[:, 0], y[rows]).backward()
                            optimizer.step()
                weights = [m.weight for m in model if getattr(m, "weight", None) is not None]
                for name, W in zip(names, weights, strict=True):
                    torch.testing.assert_close(result[name][i, j, k], W.detach(), rtol=1e-9, atol=1e-11)
                g = model(X)[:, 0].detach()  # training mode: statistics of the whole set
                torch.testing.assert_close(result["outputs"][-1, i, j, k], g, rtol=1e-9, atol=1e-11)
                torch.testing.assert_close(result["train_loss"][-1, i, j, k], F.mse_loss(g, y), rtol=1e-9, atol=1e-11)


def test_every_layer_starts_at_its_scale_and_seeds_share_directions():
    params = initialize(TOY, 6)
    norms = params["W2"].flatten(1).norm(dim=1).reshape(TOY.shape)
    torch.testing.assert_close(norms, torch.tensor([0.5, 3.0]).double()[:, None, None].expand(TOY.shape))
    W = params["W1"].reshape(*TOY.shape, 5, 6)
    torch.testing.assert_close(W[0] * 6, W[1])
    assert (W[0, 0, 0] - W[0, 0, 1]).abs().max() > 1e-3


def test_folded_norms_are_those_of_the_network_without_its_normalisation():
    setup = dataclasses.replace(TOY, epsilon=1e-3)
    X, _ = toy_data()
    params = {n: W[0] for n, W in initialize(setup, 6).items()}
    z, norms = X, []
    for l in range(1, 5):
        W, pre = params[f"W{l}"], z @ params[f"W{l}"].mT
        if l < 4:
            W = W / (pre.var(0, correction=0) + setup.epsilon).sqrt()[:, None]
            z = (z @ W.mT - (z @ W.mT).mean(0)).relu()
        else:
            z = pre
        norms.append(W.norm())
    g, folded = output(params, X, setup)
    torch.testing.assert_close(g, z[:, 0])
    torch.testing.assert_close(folded, torch.stack(norms))


def test_statistics_of_a_reference_and_the_meaning_of_the_norms():
    (X, y), held = toy_data(), toy_data(TOY, 9)
    params = {n: W[0] for n, W in initialize(TOY, 6).items()}
    torch.testing.assert_close(output(params, X[:3], TOY, X)[0], output(params, X, TOY)[0][:3])
    result = run(TOY, (X, y), held)
    rho = norm_products(result)
    assert result["outputs"].shape == (3, *TOY.shape, 17) and rho["all"].shape == (3, *TOY.shape)
    torch.testing.assert_close(rho["all"][0, 1, 0], torch.full((2,), 81.0).double())
    f = result["outputs"] / rho["folded"][..., None]
    ratio = (f @ y) / f.square().sum(-1) / rho["folded"]
    torch.testing.assert_close(ratio, equilibrium_ratio(result["outputs"], y))
    plain = run(dataclasses.replace(TOY, batch_norm=False), (X, y), held)
    torch.testing.assert_close(norm_products(plain)["folded"], norm_products(plain)["all"])


def test_two_classes_are_split_and_scaled():
    pair = data.flatten(data.select_classes(data.digits(), ["3", "8"]))
    (X, y), (X_test, y_test) = two_classes(pair, samples=256, seed=0)
    assert len(X) == 256 and len(X) + len(X_test) == len(pair.inputs) == len(y) + len(y_test)
    torch.testing.assert_close(X.norm(dim=1), torch.ones(256).double())
    assert set(y.tolist()) == {1.0, -1.0}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"width": 0}, "width must be 1"),
        ({"scales": (0.0,)}, "scales must be positive"),
        ({"seeds": ()}, "seeds is empty"),
        ({"epochs": 3}, "evaluations must divide"),
        ({"batch_norm": False, "output_scale": True}, "output_scale=True needs batch_norm=True"),
    ],
)
def test_setups_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TOY, **changes)


def test_data_that_cannot_be():
    X, y = toy_data()
    with pytest.raises(ValueError, match="batch must not exceed"):
        run(TOY, (X[:5], y[:5]), (X, y))
    with pytest.raises(ValueError, match="labels must be"):
        run(TOY, (X, 0 * y), (X, y))
    with pytest.raises(ValueError, match="two classes"):
        two_classes(data.digits(), samples=3, seed=0)
    with pytest.raises(ValueError, match="samples must lie"):
        two_classes(data.select_classes(data.digits(), ["3", "8"]), samples=1000, seed=0)

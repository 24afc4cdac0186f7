"""The ensemble of classifiers against one network trained by torch's own modules and optimiser."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion.studies.generalization import Setup, calibrated_loss, initialize, logits, parameter_count, perturbed, run

TOY = Setup(channels=3, depth=2, batch=6, epochs=2, draws=2, evaluations=2, learning_rate=0.3)


def toy_data(n=12, side=4):
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 1, side, side, generator=draw, dtype=torch.float64)
    return inputs, torch.randint(10, (n,), generator=draw)


def module(setup, params, draw):
    layers, fan_in = [], 1
    for l in range(1, setup.depth + 1):
        conv = nn.Conv2d(fan_in, setup.channels, 3, stride=2, padding=1, bias=setup.biases).double()
        conv.weight.data = params[f"W{l}"][draw].clone()
        if setup.biases:
            conv.bias.data = params[f"b{l}"][draw].clone()
        norm = [nn.BatchNorm2d(setup.channels, eps=setup.eps, affine=False).double()] if setup.batch_norm else []
        layers += [conv, *norm, nn.ReLU()]
        fan_in = setup.channels
    linear = nn.Linear(setup.channels, setup.classes, bias=False).double()
    linear.weight.data = params[f"W{setup.depth + 1}"][draw].clone()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


@pytest.mark.parametrize("changes", [{}, {"batch_norm": False}, {"batch_norm": False, "biases": True}])
def test_training_is_that_of_torch_and_the_books_balance(changes):
    setup = dataclasses.replace(TOY, **changes)
    train, test = toy_data(), toy_data(5)
    result = run(setup, train, test)
    params = initialize(setup, 1)
    for draw in range(setup.draws):
        model = module(setup, params, draw)
        optimizer = torch.optim.SGD(model.parameters(), lr=setup.learning_rate)
        order = torch.Generator().manual_seed(1000 + draw)
        for _ in range(setup.epochs):
            for rows in torch.randperm(12, generator=order).split(setup.batch):
                optimizer.zero_grad()
                F.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
                optimizer.step()
        weights = [m.weight for m in model if hasattr(m, "weight") and m.weight is not None]
        squares = torch.stack([w.detach().square().sum() for w in weights])
        torch.testing.assert_close(result["squared_norms"][-1, draw], squares, rtol=1e-12, atol=0)
        loss = F.cross_entropy(model(train[0]), train[1])  # training mode: statistics of the whole set
        torch.testing.assert_close(result["train_loss"][-1, draw], loss.detach(), rtol=1e-12, atol=0)
    booked = result["squared_norms"][0] + result["flow"] + result["finite_step"]
    torch.testing.assert_close(result["squared_norms"], booked, rtol=1e-12, atol=0)


def test_evaluation_normalises_by_the_reference():
    X, _ = toy_data()
    params = {name: w[0] for name, w in initialize(TOY, 1).items()}
    torch.testing.assert_close(logits(params, X, TOY, X), logits(params, X, TOY))
    alone = logits(params, X[:2], TOY, X)
    torch.testing.assert_close(alone, logits(params, X, TOY)[:2])
    assert (alone - logits(params, X[:2], TOY)).abs().max() > 1e-3


def test_the_count_is_that_of_the_weights():
    W = initialize(dataclasses.replace(TOY, draws=1), 3)
    assert parameter_count(TOY, 3) == sum(w.numel() for w in W.values())
    assert parameter_count(Setup(depth=5), 3) == 9808 and parameter_count(Setup(depth=5), 3, biases=True) == 9898


def test_the_best_temperature_undoes_a_common_factor():
    _, labels = toy_data()
    outputs = torch.randn(2, 12, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    outputs = outputs + 2 * F.one_hot(labels, 10)
    least = calibrated_loss(outputs, labels)
    torch.testing.assert_close(least, calibrated_loss(outputs * 10**0.5, labels), rtol=5e-3, atol=0)
    plain = torch.stack([F.cross_entropy(f, labels) for f in outputs])
    assert (least <= plain * (1 + 1e-2)).all() and (least < 0.9 * plain).any()  # a grid of temperatures, 1/12 decade


def test_perturbations_have_their_size():
    params = {"W1": torch.full((3, 400, 50), 2.0, dtype=torch.float64)}
    moved = perturbed(params, 0.5, torch.Generator().manual_seed(0))["W1"] - params["W1"]
    assert moved.flatten(1).std(1).sub(1.0).abs().max() < 0.03  # 20,000 samples


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"channels": 0}, "channels"), ({"epochs": 5}, "evaluations"), ({"biases": True}, "batch_norm=False")],
)
def test_a_setup_that_cannot_be_says_why(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TOY, **changes)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch must not exceed the 4"):
        run(TOY, toy_data(4), toy_data(4))

"""The stacked networks against single ones of torch's own modules, loss and optimiser, and against exact laws."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companion.studies.normalized_runs import Setup, blobs, hessians, initialize, mean_loss, moons, regression, run

TOY = Setup(scales=(0.5, 2.0), learning_rates=(0.05, 0.2), seeds=(0, 7), hidden=2, width=4, steps=5, shift=True)


def module(setup, params):
    """torch's own layers with the parameters of one network, and whether its parameters are all trained."""
    layers = []
    for l in range(1, setup.hidden + 2):
        W, last = params[f"W{l}"], l == setup.hidden + 1
        normalised = setup.normalize_output if last else setup.normalizer == "batch"
        affine = setup.affine and not last
        layer = nn.Linear(W.shape[1], W.shape[0], bias=(affine and not normalised) or (last and setup.shift)).double()
        layer.weight = nn.Parameter(W.clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(torch.zeros_like(layer.bias))
        norm = [nn.BatchNorm1d(len(W), affine=affine, eps=setup.epsilon).double()] if normalised else []
        if setup.normalizer == "layer" and not last:
            norm = [nn.LayerNorm(len(W), elementwise_affine=affine, eps=setup.epsilon).double()]
            layer = nn.Linear(W.shape[1], W.shape[0], bias=False).double()
            layer.weight = nn.Parameter(W.clone())
        layers += [layer, *norm, *([] if last else [nn.ReLU() if setup.activation == "relu" else nn.Tanh()])]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "changes",
    [{"epsilon": 1e-3}, {"normalizer": "none"}, {"normalizer": "layer", "activation": "relu"},
     {"affine": False, "loss": "logistic", "epsilon": 1e-3},
     {"normalize_output": True, "shift": False, "epsilon": 0.1}, {"normalizer": "none", "hidden": 0, "affine": False}],
)  # fmt: skip
def test_the_stack_is_that_of_single_networks(changes):
    setup = dataclasses.replace(TOY, **changes)
    X, y = moons(setup.seeds, samples=12)
    result, start = run(setup, X, y), initialize(setup, 2)
    loss = (lambda f, t: F.mse_loss(f, t) / 2) if setup.loss == "square" else (lambda f, t: F.softplus(-t * f).mean())
    for i, (a, b, c) in enumerate((a, b, c) for a in range(2) for b in range(2) for c in range(2)):
        net = module(setup, {name: p[i] for name, p in start.items()})
        optimizer = torch.optim.SGD(net.parameters(), lr=setup.learning_rates[b])
        for step in range(setup.steps + 1):
            optimizer.zero_grad()
            value = loss(net(X[c])[:, 0], y[c])
            assert torch.isclose(result["loss"][step, a, b, c], value, rtol=1e-10)
            value.backward()
            size = sum(p.grad.square().sum() for p in net.parameters()).sqrt()
            assert torch.isclose(result["slope"][step, a, b, c], size, rtol=1e-8)
            if step < setup.steps:
                optimizer.step()
        linear = [layer for layer in net if isinstance(layer, nn.Linear)]
        for l, layer in enumerate(linear, 1):
            assert torch.allclose(result[f"W{l}"][a, b, c], layer.weight, rtol=1e-9, atol=1e-12)
        norms = torch.stack([layer.weight.norm() for layer in linear])
        assert torch.allclose(result["norms"][-1, a, b, c], norms, rtol=1e-9)


def test_normalised_norms_grow_by_the_squared_step_with_batches_too():
    for batch in (None, 6):
        setup = dataclasses.replace(TOY, batch=batch, steps=20)
        result = run(setup, *regression(setup.seeds, samples=20))
        squares, rates = result["norms"].square()[..., :2], torch.tensor(setup.learning_rates, dtype=torch.float64)
        grown = squares[:-1] + (rates[:, None, None] * result["slopes"][:-1, ..., :2]).square()
        assert torch.allclose(squares[1:], grown, rtol=1e-12)
    last = result["norms"].square()[..., 2]  # the output's layer is not normalised
    assert not torch.allclose(
        last[1:], last[:-1] + (rates[:, None] * result["slopes"][:-1, ..., 2]).square(), rtol=1e-3
    )


def test_mini_batches_differ_and_a_batch_of_all_samples_does_not():
    X, y = regression(TOY.seeds, samples=10)
    whole, all_in_one, small = (run(dataclasses.replace(TOY, batch=b), X, y)["loss"] for b in (None, 10, 5))
    assert torch.allclose(whole, all_in_one, rtol=1e-10)
    assert not torch.allclose(whole, small, rtol=1e-3)


def test_hessians_are_differences_of_gradients():
    setup = dataclasses.replace(TOY, seeds=(0, 1), scales=(1.0,), learning_rates=(0.1,), hidden=1)
    X, y = regression(setup.seeds, samples=9)
    params = initialize(setup, 2)
    H, step = hessians(setup, params, X, y), 1e-5
    for i in range(2):
        one = {name: p[i] for name, p in params.items()}
        slope = torch.func.grad(lambda p, i=i: mean_loss(p, X[i], y[i], setup))
        flat = lambda tree: torch.cat([tree[name].reshape(-1) for name in params])
        moved = [slope(one | {"W1": one["W1"] + s * torch.eye(4, 2, dtype=torch.float64)}) for s in (step, -step)]
        direction = torch.cat([torch.eye(4, 2).flatten(), torch.zeros(H.shape[1] - 8)]).double()
        assert torch.allclose(H[i] @ direction, (flat(moved[0]) - flat(moved[1])) / (2 * step), atol=1e-8)


def test_start_and_kept_paths():
    X, y = regression(TOY.seeds, samples=10)
    first = run(TOY, X, y, keep=("W1",))
    again = run(TOY, X, y, start={n: first[n].flatten(0, 2) for n in initialize(TOY, 2)})
    longer = run(dataclasses.replace(TOY, steps=10), X, y)
    assert torch.allclose(again["loss"][-1], longer["loss"][-1], rtol=1e-10)
    assert torch.equal(first["path_W1"][-1], first["W1"]) and len(first["path_W1"]) == 6
    shared = run(TOY, X[0], y[0])
    assert torch.allclose(shared["loss"][..., 0], first["loss"][..., 0])


def test_generated_data():
    X, y = blobs((0, 1, 2), samples=20)
    assert X.shape == (3, 20, 2) and (y.sum(1) == 0).all() and not torch.equal(X[0], X[1])
    means = (X * y[..., None]).mean(1)
    assert ((X @ means[..., None])[..., 0] * y > 0).double().mean() > 0.95
    assert all(torch.equal(a, b) for a, b in zip(blobs((1,), samples=20), (X[1:2], y[1:2]), strict=True))
    Z, t = regression((0, 1))
    assert Z.shape == (2, 64, 2) and torch.allclose(t.square().mean(1), torch.ones(2, dtype=t.dtype))
    inputs, labels = moons((3,))
    assert torch.allclose(inputs.mean(1), torch.zeros(1, 2, dtype=t.dtype), atol=1e-12) and set(labels[0].tolist()) == {
        -1,
        1,
    }


@pytest.mark.parametrize(
    "changes, text",
    [({"width": 0}, "width must be 1"), ({"hidden": -1}, "must not be negative"), ({"scales": ()}, "scales is empty"),
     ({"learning_rates": (0.0,)}, "must be positive"), ({"normalizer": "bn"}, "normalizer must be one of"),
     ({"activation": "gelu"}, "activation must be"), ({"loss": "hinge"}, "loss must be")],
)  # fmt: skip
def test_bad_setups_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(TOY, **changes)


def test_bad_input_is_refused():
    X, y = regression((0, 1, 2))
    with pytest.raises(ValueError, match="one set for each of the 2 seeds"):
        run(TOY, X, y)
    with pytest.raises(ValueError, match="batch must lie between"):
        run(dataclasses.replace(TOY, batch=65), X[:2], y[:2])
    with pytest.raises(ValueError, match="keep must name"):
        run(TOY, X[:2], y[:2], keep=("W9",))
    with pytest.raises(ValueError, match="does not separate"):
        blobs((0,), samples=40, distance=0.1)

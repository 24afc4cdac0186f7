"""The study of tanh networks at toy size, against plain autograd and plain loops."""

from dataclasses import replace

import pytest
import torch

from companion.studies.tanh_balance import (
    ACTIVATIONS,
    Setup,
    defect,
    initial_weights,
    prepare,
    relative_balance,
    run,
    sharpness,
    store,
)
from normdyn.data import sets as data
from normdyn.networks.chains import signals
from normdyn.networks.graphs import mlp

TOY = Setup(images=12, hidden=(6, 5, 4), steps=6, every=2, learning_rate=0.1, sharpness_every=1)


def plain(setup, X, Y):
    """Weights after every step, by autograd on the loss with the decay term written as a penalty."""
    weights, path = initial_weights(setup, X, Y), []
    for _ in range(setup.steps + 1):
        path.append(weights)
        leaves = [W.clone().requires_grad_() for W in weights]
        penalty = setup.weight_decay / 2 * sum(W.square().sum() for W in leaves)
        output = mlp(leaves, X, activation=ACTIVATIONS[setup.activation])
        grads = torch.autograd.grad(setup.objective(Y)(output) + penalty, leaves)
        weights = [W - setup.learning_rate * g for W, g in zip(weights, grads, strict=True)]
    return path


@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "identity"])
def test_run_records_what_plain_training_does_and_closes_both_laws(loss, activation):
    setup = replace(TOY, loss=loss, activation=activation, target_scale=3.0, logit_scale=2.0, loss_scale=1.5)
    X, Y = prepare(data.digits(), setup)
    result, path = run(setup, X, Y), plain(setup, X, Y)
    for row, step in enumerate(range(0, setup.steps, setup.every)):
        for l in range(4):
            W, new = path[step][l], path[step + 1][l]
            quotient = (new.square().sum() - W.square().sum()) / setup.learning_rate
            assert torch.isclose(result["quotient"][row, l], quotient, rtol=1e-9)
        for l in range(3):
            W, V = path[step][l], path[step][l + 1]
            assert torch.isclose(result["largest"][row, l], (W @ W.T - V.T @ V).abs().max(), rtol=1e-10)
    terms = sum(result[name] for name in ("flow", "decay", "defect", "own_step"))
    assert torch.allclose(result["quotient"], terms, rtol=1e-9, atol=1e-10)
    assert result["law"].max() < 1e-10
    assert (result["defect"].abs().max() < 1e-12) == (activation == "identity")


def test_defect_is_the_sum_over_samples_and_units():
    X, Y = prepare(data.digits(), TOY)
    weights = initial_weights(TOY, X, Y)
    s = signals(TOY.objective(Y), weights, X, [torch.tanh] * 3)
    for l, C in enumerate(defect(s, weights, torch.tanh)):
        slow = torch.zeros_like(C)
        for n in range(len(X)):
            z = s.fields[l][n]
            u = s.field_gradients[l + 1][n] @ weights[l + 1]
            for i in range(len(z)):
                for j in range(len(z)):
                    slow[i, j] += u[i] * (1 - torch.tanh(z[i]) ** 2) * z[j] - u[i] * torch.tanh(z[j])
        assert torch.allclose(C, slow, atol=1e-13)


def test_local_order_of_tanh_is_its_closed_form():
    X, Y = prepare(data.digits(), TOY)
    field = X @ initial_weights(TOY, X, Y)[0].T
    expected = (2 * field / torch.sinh(2 * field)).mean()
    assert torch.isclose(run(TOY, X, Y)["local_order"][0, 0], expected, rtol=1e-12)


def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian():
    X, Y = prepare(data.digits(), TOY)
    weights, loss = initial_weights(TOY, X, Y), TOY.objective(Y)
    sizes = [W.numel() for W in weights]
    flat = torch.cat([W.flatten() for W in weights])
    split = lambda v: [p.reshape(W.shape) for p, W in zip(v.split(sizes), weights, strict=True)]
    function = lambda v: loss(mlp(split(v), X, activation=torch.tanh))
    top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(function, flat))[-1].item()
    found = sharpness(lambda w: loss(mlp(w, X, activation=torch.tanh)), weights)
    assert found == pytest.approx(top, rel=1e-2)


def test_ratio_starts_at_one_and_store_keeps_the_run(tmp_path):
    store(TOY, data.digits(), "toy", folder=tmp_path)
    from claimbook.show import results

    kept, origin = results.load("toy", "paper", folder=tmp_path)
    fresh = run(TOY, *prepare(data.digits(), TOY, dtype=torch.float32))
    assert torch.equal(kept["largest"], fresh["largest"]) and origin.is_current
    assert torch.equal(relative_balance(kept, TOY)[0], torch.ones(3))


@pytest.mark.parametrize("wrong", [{"loss": "hinge"}, {"activation": "sine"}, {"steps": 0}, {"learning_rate": -1.0}])
def test_setup_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(TOY, **wrong)

"""Stacked classifiers against one network at a time, and the laws that the stack must keep."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from companion.studies.classifiers import Setup, first_below, folded, initialize, outputs, task, train
from normdyn.measures import robustness

SMALL = Setup(draws=3, samples=30, inputs=6, width=5, layers=3, steps=8, learning_rates=(0.1,), epsilon=1e-5)


def by_hand(params, X, setup):
    """One network after another, with torch's own batch normalisation."""
    rows = []
    for k, z in enumerate(X):
        for l in range(1, setup.layers):
            z = z @ params[f"W{l}"][k].T
            if setup.batch_norm:
                z = F.batch_norm(z, None, None, training=True, eps=setup.epsilon)
                z = z * params[f"g{l}"][k] if setup.affine else z
            z = torch.relu(z + params[f"b{l}"][k] if setup.affine else z)
        rows.append((z @ params[f"W{setup.layers}"][k].T)[:, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_outputs_and_descent_agree_with_one_network_at_a_time(batch_norm, affine):
    setup = replace(SMALL, batch_norm=batch_norm, affine=affine)
    (X, y), _ = task(setup)
    params = initialize(setup)
    run = train(setup, X, y)
    for _ in range(setup.steps):
        leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
        loss = F.softplus(-by_hand(leaves, X, setup) * y).mean(1).sum()
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        params = {n: p - 0.1 * g for (n, p), g in zip(params.items(), slopes, strict=True)}
    assert all(torch.allclose(run["end"][n], params[n], atol=1e-10) for n in params)
    assert torch.allclose(outputs(params, X, setup), by_hand(params, X, setup), atol=1e-10)


def test_labels_are_balanced_and_tasks_differ():
    (X, y), (X_test, y_test) = task(SMALL, held=70)
    assert X_test.shape == (3, 70, 6) and set(y.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(torch.cat([y, y_test], 1).sum(1), torch.zeros(3, dtype=torch.float64))
    assert not torch.equal(X[0], X[1])


def test_scales_share_draws_and_have_their_steps():
    setup = replace(SMALL, scales=(1.0, 10.0), learning_rates=(0.1, 0.0), scale_last=False)
    params, (X, y) = initialize(setup), task(setup)[0]
    assert torch.allclose(params["W1"][3:], 10 * params["W1"][:3]) and torch.equal(params["W3"][3:], params["W3"][:3])
    end = train(setup, X, y)["end"]
    assert torch.equal(end["W1"][3:], params["W1"][3:])
    alone = train(replace(setup, scales=(1.0,), learning_rates=(0.1,)), X, y)["end"]
    assert torch.allclose(end["W1"][:3], alone["W1"], atol=1e-12)


def test_copies_are_taken_when_the_condition_first_holds():
    (X, y), _ = task(SMALL)
    run = train(SMALL, X, y, until={"now": lambda m, L: L < 1e9, "never": lambda m, L: L < 0})
    assert run["reached"]["now"].tolist() == [0, 0, 0] and run["reached"]["never"].tolist() == [-1, -1, -1]
    assert torch.equal(run["now"]["W1"], initialize(SMALL)["W1"])
    assert torch.equal(run["never"]["W1"], run["end"]["W1"])


def test_frozen_tensors_stay_and_records_are_kept():
    (X, y), _ = task(SMALL)
    run = train(SMALL, X, y, frozen=("W1",), record=lambda p: p["W1"].flatten(1).norm(dim=1))
    assert torch.equal(run["end"]["W1"], initialize(SMALL)["W1"]) and run["recorded"].shape == (9, 3)
    assert not torch.equal(run["end"]["W2"], initialize(SMALL)["W2"])


def test_mini_batches_of_everything_differ_only_by_the_sampling():
    setup = replace(SMALL, batch=30, steps=1)
    (X, y), _ = task(setup)
    assert not torch.equal(train(setup, X, y)["end"]["W1"], train(replace(setup, batch=None), X, y)["end"]["W1"])


def test_folding_is_inference():
    setup = replace(SMALL, layers=2)
    (X, y), _ = task(setup)
    end = train(setup, X, y)["end"]
    assert torch.allclose(robustness.output(folded(end, X, setup), X), outputs(end, X, setup), atol=1e-12)
    with pytest.raises(ValueError, match="layers must be 2"):
        folded(end, X, SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"layers": 1}, "layers must be 2"), ({"loss": "l1"}, "loss must be one of"), ({"width": 0}, "width must be 1"),
     ({"learning_rates": (1.0, 2.0)}, "learning_rates must be one")],
)  # fmt: skip
def test_bad_setups(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_first_below():
    setup = replace(SMALL, scales=(1.0, 2.0))
    losses = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.4, 1.0, 1.0, 1.0, 1.0, torch.nan],
                           [0.9, 0.4, 0.3, 0.4, 1.0, torch.nan]])  # fmt: skip
    share, step = first_below(losses, 0.5, setup)
    assert share.tolist() == [1.0, pytest.approx(1 / 3)] and step.tolist() == [2.0, torch.inf]

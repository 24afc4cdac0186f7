"""The stack with samples last is the network of the study; a step of its own for each network is its step."""

from dataclasses import replace

import pytest
import torch
from torch.func import vmap

from claimbook.evidence import Case
from companion.normalization_geometry.spectra_experiment_runs import NORMALISED, outputs, setup, stacked, train
from companion.studies.normalized_runs import initialize, output, regression, run


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("kind", NORMALISED)
def test_outputs_are_those_of_single_networks(kind, activation):
    made = setup(Case(0), kind, activation, seeds=(0, 1))
    draw = torch.Generator().manual_seed(0)
    params = {n: p + torch.randn(p.shape, generator=draw, dtype=p.dtype) for n, p in initialize(made, 2).items()}
    X = regression(made.seeds)[0].repeat(3, 1, 1)
    slow = vmap(lambda p, x: output(p, x, made))(params, X)
    torch.testing.assert_close(outputs(params, X.mT, made), slow, rtol=1e-10, atol=1e-10)


def test_each_network_has_its_own_step():
    made = replace(setup(Case(0), "plain", "tanh", seeds=(0, 1)), learning_rates=(0.05, 0.2), steps=10)
    X, y = (t.float() for t in regression(made.seeds))
    slow, fast = run(made, X, y), train(made, stacked(made), "descent", 10, "cpu")
    for name in ("loss", "slope"):
        torch.testing.assert_close(fast[name], slow[name].reshape(11, -1), rtol=1e-3, atol=1e-5)


def test_the_first_step_of_adam_has_the_length_of_the_rate():
    made = replace(setup(Case(0), "plain", "tanh", seeds=(0,)), learning_rates=(0.01, 0.04))
    moved = train(made, stacked(made), "Adam", 1, "cpu")["W2"] - initialize(made, 2)["W2"].float()
    largest = moved.flatten(1).abs().amax(1)
    torch.testing.assert_close(largest, stacked(made), rtol=1e-3, atol=1e-6)

"""The summary of a run against the outputs it leaves out, and the stored result against a slice run again."""

import os

import numpy as np
import pytest
import torch

from claimbook.show import results
from companion.studies import square_loss
from companion.studies import square_loss_figures as figures

REAL = os.environ.get("NORMDYN_DATA")
TOY = {"width": 5, "channels": 3, "seeds": (0, 1), "epochs": 2, "evaluations": 1, "batch": 8}


def toy_data(convolutional, n=17):
    draw = torch.Generator().manual_seed(3)
    X = torch.randn((n, 3, 8, 8), generator=draw, dtype=torch.float64)
    X = X / X.flatten(1).norm(dim=1)[:, None, None, None]
    return X if convolutional else X.flatten(1), torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()


@pytest.mark.parametrize("name", figures.experiments())
def test_the_summary_is_that_of_the_outputs(name):
    setup = figures.experiments(**TOY)[name]
    X, y = toy_data(setup.convolutional)
    result = square_loss.run(setup, (X, y), (X, y))
    kept, records = figures.summary(result, y), (2, *setup.shape)
    for quantity in ("loss", "test_error", "rho", "rho_folded", "ratio"):
        assert kept[quantity].shape == records, quantity
    margins = (result["outputs"][1, 0, 0, 1] * y).numpy()
    np.testing.assert_allclose(kept["margins"][1, 0, 0, 1], np.quantile(margins, figures.LEVELS), rtol=1e-12)
    g = result["outputs"][1, 0, 0, 1]
    assert kept["ratio"][1, 0, 0, 1] == pytest.approx(((g * y).sum() / (g * g).sum()).item(), rel=1e-12, nan_ok=True)


def test_the_papers_choices_are_kept():
    plans = figures.experiments()
    assert plans["figures_1_to_5"].scales == (0.1, 1.0, 5.0) and 0.01 in plans["figures_1_to_5"].decays
    assert plans["figures_6_to_9"].convolutional and plans["figures_6_to_9"].learning_rate == 0.01
    assert plans["figures_10_to_12"].scales == (5.0, 15.0, 30.0) and not plans["figures_10_to_12"].batch_norm
    for plan in plans.values():
        assert (plan.layers, plan.batch, plan.momentum, plan.epochs, len(plan.seeds)) == (4, 128, 0.9, 1000, 5)


@pytest.mark.skipif(not REAL, reason="NORMDYN_DATA names no folder with CIFAR-10")
def test_a_slice_of_the_stored_result_is_recomputed():
    stored, origin = results.load("square-loss-figures", "paper")
    assert origin.is_current
    name = "smaller_steps"
    setup = figures.experiments(epochs=20, evaluations=1)[name]
    train, test, _ = figures.pairs(512)
    flat = lambda pair: (pair[0].flatten(1), pair[1])
    again = figures.summary(square_loss.run(setup, flat(train), flat(test)), train[1])
    for quantity in ("loss", "rho", "margins"):
        np.testing.assert_allclose(again[quantity], stored[f"{name}__{quantity}"][:2], rtol=1e-3)  # float32, 80 steps

"""The stacked training against single networks trained by torch's own modules, losses and optimiser."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from claimbook.show import results
from companion.studies import collapse_runs
from companion.studies.collapse_runs import Setup, initialize, run
from normdyn.data import sets as data
from normdyn.measures import collapse

REAL = os.environ.get("NORMDYN_DATA")
TOY = Setup(decays=(0.0, 0.1), seeds=(0, 7), widths=(5, 4), steps=12, first=3, per_decade=2)


def toy_data(n=17, d=6, classes=3, dtype=torch.float64):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(n, d, generator=draw, dtype=torch.float64).to(dtype), torch.arange(n) % classes


def module(setup, weights):
    """torch's own layers with the given weights."""
    layers = []
    for W in weights:
        layer = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=torch.float64)
        layer.weight = nn.Parameter(W.detach().clone())
        norm = [nn.BatchNorm1d(len(W), affine=False, eps=setup.epsilon).double()] if setup.batch_norm else []
        layers += [layer, *norm, nn.ReLU()]
    return nn.Sequential(*layers[: -2 if setup.batch_norm else -1])


@pytest.mark.parametrize(
    "changes",
    [{}, {"batch_norm": True}, {"batch": 5}, {"batch": 5, "batch_norm": True}, {"momentum": 0.0}, {"widths": (6,)}],
)
def test_the_stack_is_that_of_single_networks(changes):
    setup = dataclasses.replace(TOY, **changes)
    X, y = toy_data()
    result, start = run(setup, X, y), initialize(setup, 6, 3)
    for i, loss in enumerate(setup.losses):
        for j, decay in enumerate(setup.decays):
            for k, seed in enumerate(setup.seeds):
                flat = (i * len(setup.decays) + j) * len(setup.seeds) + k
                model, order = module(setup, [W[flat] for W in start]), torch.Generator().manual_seed(1000 * seed + 2)
                optimizer = torch.optim.SGD(
                    model.parameters(), lr=setup.learning_rate, momentum=setup.momentum, weight_decay=decay
                )
                epoch = []
                for _ in range(setup.steps):
                    if not epoch and setup.batch:
                        parts = torch.randperm(len(X), generator=order).split(setup.batch)
                        epoch = [rows for rows in parts if len(rows) == setup.batch]
                    rows = epoch.pop(0) if setup.batch else slice(None)
                    optimizer.zero_grad()
                    f, target = model(X[rows]), F.one_hot(y[rows], 3).double()
                    square = F.mse_loss(f, target, reduction="sum") / 2 / len(f)
                    (square if loss == "square" else F.cross_entropy(f, y[rows])).backward()
                    optimizer.step()
                trained = [m.weight for m in model if isinstance(m, nn.Linear)]
                for l, W in enumerate(trained, 1):
                    torch.testing.assert_close(result[f"W{l}"][i, j, k], W.detach(), rtol=1e-9, atol=1e-11)
                H, f = model[:-1](X).detach(), model(X).detach()  # training mode: statistics of the whole set
                torch.testing.assert_close(result["features"][i, j, k], H, rtol=1e-9, atol=1e-11)
                seen = {name: path[-1, i, j, k] for name, path in result.items() if path.ndim == 4 and name[0] != "W"}
                oracle = collapse.neural_collapse(H, y, trained[-1].detach())
                oracle["error"] = (f.argmax(1) != y).double().mean()
                square = (f - F.one_hot(y, 3)).square().sum() / 2 / len(y)
                oracle["loss"] = square if loss == "square" else F.cross_entropy(f, y)
                assert seen.keys() == oracle.keys()
                for name, value in oracle.items():
                    torch.testing.assert_close(seen[name], value, rtol=1e-8, atol=1e-10)


def test_records_are_on_a_logarithmic_grid_and_those_of_shorter_runs():
    X, y = toy_data()
    assert TOY.records == [3, 9, 12] and dataclasses.replace(TOY, steps=2).records == [2]
    result, shorter = run(TOY, X, y), run(dataclasses.replace(TOY, steps=9), X, y)
    assert result["steps"].tolist() == TOY.records and result["loss"].shape == (3, *TOY.shape)
    torch.testing.assert_close(result["loss"][:2], shorter["loss"])


def test_losses_decays_and_seeds_share_what_they_should():
    layers = [W.reshape(*TOY.shape, *W.shape[1:]) for W in initialize(TOY, 6, 3)]
    for W in layers:
        assert torch.equal(W[0, 0], W[1, 1]) and (W[0, 0, 0] - W[0, 0, 1]).abs().max() > 1e-3
    X, y = toy_data()
    alone = run(dataclasses.replace(TOY, losses=("cross-entropy",), decays=(0.1,), seeds=(7,), batch=5), X, y)
    together = run(dataclasses.replace(TOY, batch=5), X, y)
    torch.testing.assert_close(alone["W1"][0, 0, 0], together["W1"][1, 1, 1])


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_span_of_the_samples_is_enough_for_full_batches(batch_norm, monkeypatch):
    setup = dataclasses.replace(TOY, batch_norm=batch_norm, decays=(0.0,), seeds=(0,))
    X, y = toy_data(n=9, d=20)
    turned = collapse_runs.rotate(X)
    assert turned.shape == (9, 9)
    torch.testing.assert_close(turned @ turned.mT, X @ X.mT)
    start = initialize(setup, 20, 3)
    basis = torch.linalg.lstsq(turned, X).solution  # turned @ basis is X, with orthonormal rows
    whole = run(setup, X, y)
    monkeypatch.setattr(collapse_runs, "initialize", lambda *_: [start[0] @ basis.mT, *start[1:]])
    torch.testing.assert_close(run(setup, turned, y)["features"], whole["features"], rtol=1e-8, atol=1e-10)


def test_test_errors_use_the_statistics_of_the_training_set():
    setup = dataclasses.replace(TOY, batch_norm=True)
    (X, y), held = toy_data(), toy_data(n=8, d=6)
    result = run(setup, X, y, test=held)
    weights = [result[f"W{l}"][1, 0, 1] for l in (1, 2, 3)]
    Z, T = X, held[0]
    for W in weights[:-1]:
        Z, T = Z @ W.mT, T @ W.mT
        mean, deviation = Z.mean(0), (Z.var(0, correction=0) + setup.epsilon).sqrt()
        Z, T = ((Z - mean) / deviation).relu(), ((T - mean) / deviation).relu()
    wrong = ((T @ weights[-1].mT).argmax(1) != held[1]).double().mean()
    assert result["test_error"][-1, 1, 0, 1] == wrong


def test_single_precision_is_close():
    X, y = toy_data()
    double, single = run(TOY, X, y), run(TOY, X.float(), y)
    assert single["W1"].dtype == torch.float32 and single["variance_ratio"].dtype == torch.float64
    torch.testing.assert_close(double["variance_ratio"], single["variance_ratio"], rtol=1e-3, atol=1e-3)


def test_inputs_are_centred_and_scaled():
    X, y = collapse_runs.prepare(data.digits())
    torch.testing.assert_close(X.square().sum(1).mean(), torch.tensor(9.0).double())
    assert X.mean(0).abs().max() < 1e-12 and y[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"widths": ()}, "widths is empty"),
        ({"widths": (0,)}, "widths must be 1"),
        ({"losses": ("hinge",)}, "losses has 'hinge'"),
        ({"steps": 0}, "steps must be 1"),
        ({"batch": 0}, "batch must be 1"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"learning_rate": float("nan")}, "learning_rate and epsilon must be positive"),
        ({"decays": (-0.1,)}, "decays must not be negative"),
    ],
)
def test_setups_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TOY, **changes)


def test_data_that_cannot_be():
    X, y = toy_data()
    with pytest.raises(ValueError, match="one label a sample"):
        run(TOY, X, y[:-1])
    with pytest.raises(ValueError, match="batch must not exceed"):
        run(dataclasses.replace(TOY, batch=18), X, y)
    with pytest.raises(ValueError, match="y must hold all labels"):
        run(TOY, X, 2 * y)
    with pytest.raises(ValueError, match="learning_rate=1e\\+150 is too large"):
        run(dataclasses.replace(TOY, learning_rate=1e150), X, y)


def toy_images(split="train", **_):
    draw = torch.Generator().manual_seed(len(split))
    images = torch.rand(400, 3, 32, 32, generator=draw)
    return data.Dataset(images, torch.arange(400) % 10, tuple("abcdefghij"), {"files": {split: "0" * 64}})


def test_a_stored_run_takes_up_its_parts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "cifar10", toy_images)
    monkeypatch.setattr(collapse_runs, "speeds", lambda **_: {"rate_0": dataclasses.replace(TOY, decays=(0.0,))})
    call = lambda: collapse_runs.store(
        folder=tmp_path / "all", parts=tmp_path / "parts", each=3, samples={2: 4}, widths=(4,), steps=12
    )
    call()
    first, origin = results.load(collapse_runs.NAME, "paper", folder=tmp_path / "all")
    assert {key.split("__")[0] for key in first} == {"classes_2", "classes_2_bn", "rate_0"}
    assert "rate_0__test_error" in first and origin.is_current and origin.setup["classes_2"]["samples"] == 8
    monkeypatch.setattr(collapse_runs, "run", None)  # nothing is left to run
    call()
    again, _ = results.load(collapse_runs.NAME, "paper", folder=tmp_path / "all")
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.skipif(not REAL, reason="NORMDYN_DATA names no folder with CIFAR-10")
def test_a_slice_of_the_stored_result_is_recomputed():
    stored, _ = results.load(collapse_runs.NAME, "paper")
    classes, count, setup = collapse_runs.experiments()["classes_2"]
    full = {"train": data.cifar10("train", dtype=torch.float32)}
    again = run(dataclasses.replace(setup, steps=46), *collapse_runs._collapse_data(full, classes, count))
    for quantity in ("loss", "variance_ratio", "duality_gap"):
        kept = stored[f"classes_2__{quantity}"][: len(again["steps"])]
        np.testing.assert_allclose(again[quantity], kept, rtol=1e-2)  # float32, 46 steps

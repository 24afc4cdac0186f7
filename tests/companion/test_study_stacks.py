"""What stacked studies share, and that they train on the device that they are told."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from companion.studies import classifiers, collapse_runs, generalization, normalized_runs, square_loss, stacks
from other_device import NAME, OtherDevice

f64 = torch.float64


def test_orders_belong_to_seeds_and_are_shared_by_copies():
    shuffles = stacks.orders((3, 4), 6, 2)
    first, second = next(shuffles), next(shuffles)
    assert first.shape == (4, 6) and torch.equal(first[:2], first[2:])
    assert torch.equal(first.sort(1).values, torch.arange(6).expand(4, 6))
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert torch.equal(next(stacks.orders((4,), 6, 1))[0], first[1])  # whatever the other seeds are
    assert not torch.equal(next(stacks.orders((4,), 6, 1, salt=3))[0], first[1])


def test_gradients_are_those_of_each_network_alone():
    params = {"W": torch.randn(3, 4, dtype=f64), "b": torch.randn(3, dtype=f64)}
    graph = stacks.leaves(params, frozen=("b",))
    found = stacks.gradients((graph["W"].square().sum(1) * graph["b"]), graph)
    assert set(found) == {"W"} and not params["W"].requires_grad
    torch.testing.assert_close(found["W"], 2 * params["W"] * stacks.along(params["b"], params["W"]))


def test_values_unfold_to_the_grid_with_seeds_last():
    grid = stacks.unfold(torch.arange(24.0, requires_grad=True).reshape(12, 2), (2, 3, 2))
    assert grid.shape == (2, 3, 2, 2) and not grid.requires_grad
    assert grid[1, 2, 0].tolist() == [20.0, 21.0]


def test_bad_fields_are_named():
    setup = square_loss.Setup()
    with pytest.raises(ValueError, match="seeds is empty"):
        stacks.require(type("Setup", (), {"seeds": ()}), filled=("seeds",))
    with pytest.raises(ValueError, match="batch must be 1 or more, got 0"):
        stacks.require(type("Setup", (), {"batch": 0}), at_least_one=("batch",))
    stacks.require(type("Setup", (), {"batch": None}), at_least_one=("batch",))
    stacks.require(setup, filled=("scales",), at_least_one=("width",))


def two_blobs(n=12, d=3):
    X = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    return X, torch.where(X[:, 0] > 0, 1.0, -1.0)


def train_square_loss(device):
    X, y = two_blobs()
    sizes = {"width": 4, "layers": 3, "batch": 4, "epochs": 2, "evaluations": 1}
    for changes in ({}, {"output_scale": True}, {"batch_norm": False}):
        setup = square_loss.Setup(**sizes | changes)
        result = square_loss.run(setup, (X[:8], y[:8]), (X[8:], y[8:]), device=device)
    images = X[:, :, None, None].expand(-1, -1, 4, 4)
    setup = square_loss.Setup(**sizes, convolutional=True)
    square_loss.run(setup, (images[:8], y[:8]), (images[8:], y[8:]), device=device)
    return result


def train_normalized_runs(device):
    X, y = normalized_runs.moons((0, 1), samples=12)
    setup = normalized_runs.Setup(seeds=(0, 1), scales=(0.5, 1.0), steps=3, batch=6, gain=True, shift=True)
    return normalized_runs.run(setup, X, y, keep=("W1",), device=device)


def train_classifiers(device):
    setup = classifiers.Setup(draws=2, samples=12, inputs=3, width=4, scales=(0.5, 1.0), steps=3, batch=6)
    sets = torch.randn(2, 12, 3, dtype=f64), torch.ones(2, 12, dtype=f64)
    until = {"low": lambda margins, losses: losses < 0.5}
    norms = lambda params: params["W1"].flatten(1).norm(dim=1)
    result = classifiers.train(setup, *sets, until=until, frozen=("b1",), record=norms, device=device)
    return result | result["low"] | result["end"]


def train_collapse_runs(device):
    X, y = two_blobs()
    for batch, test in ((None, None), (4, (X, (y > 0).long()))):
        setup = collapse_runs.Setup(widths=(4, 4), batch_norm=True, steps=3, first=1, batch=batch)
        result = collapse_runs.run(setup, X, (y > 0).long(), test=test, device=device)
    return result


def train_generalization(device):
    images, labels = torch.randn(12, 2, 4, 4, dtype=f64), torch.arange(12) % 3
    setup = generalization.Setup(
        channels=3, depth=2, classes=3, batch=4, epochs=4, evaluations=2, draws=2, every=1, perturbation=0.1
    )
    return generalization.run(setup, (images[:8], labels[:8]), (images[8:], labels[8:]), device=device)


MODULES = (square_loss, normalized_runs, classifiers, generalization)
STUDIES = (train_square_loss, train_normalized_runs, train_classifiers, train_generalization, train_collapse_runs)


@pytest.fixture(autouse=True)
def answer_for_numbers(monkeypatch):
    """Counting labels and the measures of collapse pick entries by value, which cannot be followed without numbers."""
    monkeypatch.setattr(collapse_runs, "count_classes", lambda X, y: 2)
    monkeypatch.setattr(collapse_runs.collapse, "neural_collapse", lambda h, y, w: {"first": h[0, 0] * w[0, 0]})


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_trains_on_its_device_and_returns_to_the_processor(study):
    with OtherDevice() as device:
        result = study(NAME)
        assert {value.device.type for value in result.values() if isinstance(value, torch.Tensor)} == {"cpu"}
    assert set(device.products) == {NAME} and device.products[NAME] > 10


@pytest.mark.parametrize("study", STUDIES[: len(MODULES)])
def test_parameters_left_behind_are_found(study, monkeypatch):
    for module in MODULES:
        monkeypatch.setattr(module, "move", lambda params, device: params)
    with OtherDevice(), pytest.raises(FakeTensorDeviceMismatchError):
        study(NAME)

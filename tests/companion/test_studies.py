"""The study of layer norms: its exact law, its oracles, its stored results at toy size, and real images."""

import dataclasses
import os

import numpy as np
import pytest
import torch

from claimbook.show import results
from companion.studies import layer_norms
from companion.studies.layer_norms import FIGURE_1A, FIGURE_1B, Network, Setup, prepare, run, sharpness, terms
from normdyn.data import sets as data
from normdyn.networks.losses import cross_entropy, square_loss

REAL = os.environ.get("NORMDYN_DATA")
SMALL = {"images": 20, "steps": 4}
FIGURES = [FIGURE_1A, FIGURE_1B, dataclasses.replace(FIGURE_1B, epsilon=0.1), dataclasses.replace(FIGURE_1B, pool=True)]


def toy(setup, **changes):
    setup = dataclasses.replace(setup, **(SMALL | changes))
    return setup, *prepare(data.digits(), setup)


@pytest.mark.parametrize("setup", FIGURES)
def test_the_exact_law_leaves_rounding(setup):
    setup, images, targets = toy(setup)
    parts = terms(run(setup, images, targets), setup.learning_rate)
    assert parts["rest"].abs().max() < 1e-11 * parts["quotient"].abs().max()


@pytest.mark.parametrize("change", [{"biases": True}, {"activation": "gelu"}, {"activation": "tanh"}])
def test_outside_of_the_class_it_does_not(change):
    setup, images, targets = toy(FIGURE_1A, **change)
    parts = terms(run(setup, images, targets), setup.learning_rate)
    assert parts["rest"].abs().max() > 1e-3 * parts["quotient"].abs().max()


@pytest.mark.parametrize("setup", FIGURES)
def test_pull_is_minus_half_of_flow_and_leak(setup):
    setup, images, targets = toy(setup)
    result = run(setup, images, targets)
    parts = terms(result, setup.learning_rate)
    assert torch.allclose(-2 * result["pull"], parts["flow"] + parts["leak"], rtol=1e-9, atol=1e-12)


def torch_twin(setup, weights):
    """The same network of torch's own layers, in training mode, with the same weights."""
    layers, inputs = [], 1
    for _ in range(setup.convolutions):
        layers += [torch.nn.Conv2d(inputs, setup.channels, setup.kernel, padding="same", bias=False)]
        layers += [torch.nn.ReLU() if setup.activation == "relu" else torch.nn.LeakyReLU(0.1)]
        layers += [torch.nn.MaxPool2d(2)] * setup.pool
        inputs = setup.channels
    layers += [torch.nn.BatchNorm2d(inputs, eps=setup.epsilon, affine=False)] * setup.normalise
    layers += [torch.nn.Flatten(), torch.nn.Linear(weights[-1].shape[1], 10, bias=False)]
    twin = torch.nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter, weight in zip(twin.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return twin


@pytest.mark.parametrize("setup", FIGURES)
def test_a_run_is_torchs_own_descent(setup):
    setup, images, targets = toy(setup)
    result = run(setup, images, targets)
    twin = torch_twin(setup, list(Network(setup, (1, 8, 8), 10).weights))
    optimizer = torch.optim.SGD(twin.parameters(), lr=setup.learning_rate)
    loss = square_loss if setup.loss == "square" else cross_entropy
    for step in range(setup.steps):
        optimizer.zero_grad()
        value = loss(twin(images), targets)
        assert abs(value.item() - result["loss"][step].item()) < 1e-12 * max(1, value.item())
        value.backward()
        optimizer.step()
    squares = torch.stack([p.detach().square().sum() for p in twin.parameters()])
    assert torch.allclose(squares, result["squares"][-1], rtol=1e-11)


@pytest.mark.parametrize("setup", [FIGURE_1A, FIGURE_1B])
def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian(setup):
    setup, images, targets = toy(setup, images=12, channels=2, convolutions=2)
    network = Network(setup, (1, 8, 8), 10)
    names = [name for name, _ in network.named_parameters()]
    sizes = [p.shape for p in network.parameters()]
    loss = square_loss if setup.loss == "square" else cross_entropy

    def risk(flat):
        parts = flat.split([size.numel() for size in sizes])
        given = {name: part.reshape(size) for name, part, size in zip(names, parts, sizes, strict=True)}
        return loss(torch.func.functional_call(network, given, (images,)), targets)

    flat = torch.cat([p.detach().flatten() for p in network.parameters()])
    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(risk, flat))[-1].item()
    value, vector = sharpness(network, images, targets)
    assert abs(value / exact - 1) < 1e-3
    again, _ = sharpness(network, images, targets, vector)
    assert abs(again / exact - 1) < 1e-3 and np.isfinite(vector).all()


def test_orders_below_and_above_a_normalisation():
    for place, orders in ((0, [0, 0, 0, 1]), (1, [0, 1, 1, 1]), (2, [0, 0, 1, 1])):
        setup, images, targets = toy(FIGURE_1B, normalise_after=place)
        assert run(setup, images, targets)["order"].tolist() == orders


def test_choices_of_inputs_and_targets():
    for change, mean in (({"inputs": "standardised"}, 0.0), ({"coding": "centred"}, None)):
        _, images, targets = toy(FIGURE_1A, **change)
        assert mean is None or abs(images.mean().item() - mean) < 1e-12
        if "coding" in change:
            assert targets.sum(1).abs().max() < 1e-12
    assert toy(FIGURE_1A, inputs="pixels")[1].min() == 0


@pytest.mark.parametrize("name", ["activation", "loss", "coding", "inputs", "initialisation"])
def test_unknown_words(name):
    with pytest.raises(ValueError, match=f"{name}='none' is unknown, choose among"):
        Setup(**{name: "none"})


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="must be positive"):
        Setup(learning_rate=0.0)
    with pytest.raises(ValueError, match=r"normalise_after=3 must lie in 0\.\.2"):
        Setup(normalise_after=3)
    with pytest.raises(ValueError, match="images of 8 x 8 are too small for 4 poolings"):
        Network(Setup(convolutions=4), (1, 8, 8), 10)


def test_a_run_is_stored_with_its_provenance_and_recomputed(tmp_path):
    setup, images, targets = toy(FIGURE_1A, every=2)
    layer_norms.store(setup, data.digits(), "toy", folder=tmp_path)
    stored, origin = results.load("toy", "paper", folder=tmp_path)
    assert origin.is_current and Setup(**origin.setup) == setup and origin.seeds == [0]
    again = run(setup, images, targets)
    assert stored.keys() == again.keys()
    for name, value in again.items():
        assert torch.allclose(stored[name], value, rtol=1e-9, atol=1e-12), name


STORED = [name for name in ("layer-norms-relu", "layer-norms-batchnorm") if results.stored(name, "paper")]


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_obeys_the_law_and_is_current(name):
    stored, origin = results.load(name, "paper")
    setup = Setup(**origin.setup)
    parts = terms(stored, setup.learning_rate)
    assert stored["squares"].shape == (setup.steps + 1, setup.convolutions + 1)
    assert parts["rest"].abs().max() < 1e-11 * parts["quotient"].abs().max()
    assert torch.equal(stored["squares"][0], start(setup, 3 if name == "layer-norms-relu" else 1))
    assert origin.is_current


def start(setup, channels):
    """Squared norms at the start, which need the size of images but no image."""
    size = 32 if channels == 3 else 28
    return torch.stack([W.detach().square().sum() for W in Network(setup, (channels, size, size), 10).weights])


@pytest.mark.skipif(not REAL, reason="NORMDYN_DATA names no folder with CIFAR-10")
def test_the_first_steps_of_the_stored_run_come_back_on_real_images():
    stored, origin = results.load("layer-norms-relu", "paper")
    setup = dataclasses.replace(Setup(**origin.setup), steps=2, every=2)
    again = run(setup, *prepare(data.cifar10("test"), setup))
    for name in ("squares", "loss", "drive", "gradient"):
        assert torch.allclose(again[name], stored[name][: len(again[name])], rtol=1e-9), name
    assert abs(again["sharpness"][0] / stored["sharpness"][0] - 1) < 1e-2

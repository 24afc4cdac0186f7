"""Several seeds at once, against torch's own descent of one; and studies that go on where they stopped."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from claimbook.evidence import Case
from claimbook.show import results
from companion.studies import layer_norms, repeated_figures
from companion.unified_balancing import activations, convolutional
from companion.unified_balancing.convolutional import FIGURE_1A, FIGURE_1B

TINY = {"images": 12, "steps": 3, "seeds": 2, "every": 2}
CONVOLUTIONAL = [
    replace(FIGURE_1A, **TINY),
    replace(FIGURE_1A, **TINY, biases=True, centred=True, activation="tanh", inputs="pixels"),
    replace(FIGURE_1B, **TINY),
]


def one_network(figure, params, X):
    """A seed's network with torch's own convolutions, pooling and normalisation."""
    kernels = params[: figure.convolutions]
    biases = params[figure.convolutions + 1 :] or [None] * figure.convolutions
    H = X.transpose(0, 1)
    for l, (W, b) in enumerate(zip(kernels, biases, strict=True)):
        kernel = W.view(W.shape[0], -1, 3, 3)
        Z = F.conv2d(H, kernel, None if b is None else b[:, 0], padding=1)
        H = convolutional.ACTIVATIONS[figure.activation](Z)
        H = F.max_pool2d(H, 2) if figure.pool else H
        if l + 1 == figure.normalise:
            H = F.batch_norm(H, None, None, training=True, eps=figure.epsilon)
    return H.flatten(1) @ params[figure.convolutions].mT


def loss_of(figure, f, labels):
    if figure.loss == "cross-entropy":
        return F.cross_entropy(f, labels)
    return (f - F.one_hot(labels, 10) + 0.1 * figure.centred).square().sum() / (2 * len(f))


@pytest.mark.parametrize("figure", CONVOLUTIONAL)
def test_convolutional_descent_is_torchs_own(figure):
    case = Case(3)
    run = convolutional.descent(case, figure)
    params, X, labels = convolutional.start(case, figure)
    for k in range(figure.seeds):
        leaves = [p[k].clone().requires_grad_() for p in params]
        optimizer = torch.optim.SGD(leaves, lr=figure.learning_rate)
        for step in range(figure.steps):
            optimizer.zero_grad()
            loss = loss_of(figure, one_network(figure, leaves, X[k]), labels[k])
            assert abs(loss.item() - run["loss"][step, k].item()) < 1e-12
            loss.backward()
            before = torch.stack([p.detach().square().sum() for p in leaves])
            optimizer.step()
            after = torch.stack([p.detach().square().sum() for p in leaves])
            quotient = ((after - before) / figure.learning_rate)[: figure.convolutions + 1]
            assert torch.allclose(quotient, run["quotient"][step, k], atol=1e-11)


def test_sharpness_is_the_largest_eigenvalue():
    figure, case = replace(FIGURE_1A, images=6, steps=1, seeds=2, channels=2, every=1), Case(1)
    params, X, labels = convolutional.start(case, figure)
    sizes = [p[0].shape for p in params]
    for k in range(2):

        def risk(flat, k=k):
            parts = [p.view(size) for p, size in zip(flat.split([s.numel() for s in sizes]), sizes, strict=True)]
            return loss_of(figure, one_network(figure, parts, X[k]), labels[k])

        exact = torch.linalg.eigvalsh(torch.func.hessian(risk)(torch.cat([p[k].flatten() for p in params])))[-1]
        found = convolutional.descent(case, figure)["sharpness"][0, k]
        assert abs(found / exact - 1) < 1e-3


@pytest.mark.parametrize("activation", list(activations.ACTIVATIONS))
@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
def test_gradients_written_out_are_those_of_autograd(activation, loss):
    figure = activations.Figure(loss=loss, activation=activation, bent=0.7, loss_scale=0.6, target_scale=2.0, images=9,
                                hidden=(5, 4), seeds=2)  # fmt: skip
    weights, X, Y = activations.start(Case(2), figure)
    found = activations.signals(figure, weights, X, Y).g
    phi = activations.ACTIVATIONS[activation].value
    for k in range(2):
        leaves = [W[k].clone().requires_grad_() for W in weights]
        H = X[k]
        for W in leaves[:-1]:
            H = phi(0.7 * (H @ W.mT)) / 0.7
        f = H @ leaves[-1].mT
        value = F.cross_entropy(f, Y[k].argmax(1)) if loss == "cross-entropy" else (f - 2 * Y[k]).square().sum() / 18
        for g, h in zip(torch.autograd.grad(0.6 * value, leaves), found, strict=True):
            assert torch.allclose(g, h[k], atol=1e-14)


def test_a_wide_network_is_known_again(tmp_path):
    small = {"images": 12, "steps": 2, "every": 1, "hidden": (4, 3), "folder": tmp_path}
    setup = replace(repeated_figures.WIDE, **{k: v for k, v in small.items() if k != "folder"}, seed=0)
    repeated_figures.store("figure-1c-seeds", seeds=(0,), parts=tmp_path, **small)
    assert repeated_figures._same("figure-1c-seeds-0", setup, tmp_path)


def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    small = {"images": 12, "steps": 2, "every": 1, "parts": tmp_path / "parts", "folder": tmp_path}
    repeated_figures.store("figure-1b-large-step", seeds=(0, 1), **small)
    ran = []
    monkeypatch.setattr(layer_norms, "store", lambda setup, *rest, **options: ran.append(setup.seed) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        repeated_figures.store("figure-1b-large-step", seeds=(0, 1, 2), **small)
    assert ran == [2]
    stacked, origin = results.load("figure-1b-large-step", "paper", folder=tmp_path)
    assert stacked["squares"].shape == (2, 3, 4) and origin.seeds == [0, 1]


@pytest.mark.parametrize("name", [name for name in repeated_figures.STUDIES if results.stored(name, "paper")])
def test_what_is_stored_is_current(name):
    _, origin = results.load(name, "paper")
    assert origin.is_current and origin.setup == repeated_figures.described(repeated_figures.STUDIES[name][1])

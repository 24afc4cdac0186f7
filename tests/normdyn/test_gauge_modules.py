"""Rebalancing PyTorch modules: same function, least norm, untouched input, clear refusals."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normdyn.networks.modules import UnsupportedModel, kernel_norms
from normdyn.rescaling.gauge import convex_optimum, rebalance
from normdyn.rescaling.group import entrywise_norm

PAIRS = [(2, 2), (1, 2), (3, 1), (64, 64)]


class Convolutional(nn.Module):
    """Strides, padding, groups, depthwise, pooling, PReLU, functional calls, a view, softmax at the end."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.grouped = nn.Conv2d(8, 16, 3, groups=4, bias=False)
        self.block = nn.Sequential(nn.Conv2d(16, 16, 1, groups=16), nn.PReLU(16), nn.Dropout(0.5))
        self.hidden, self.last = nn.Linear(16 * 4, 30), nn.Linear(30, 5)

    def forward(self, x):
        x = F.max_pool2d(F.leaky_relu(self.grouped(torch.relu(self.first(x)))), 3)
        x = self.block(x)
        return torch.softmax(self.last(self.hidden(x.view(x.size(0), -1)).relu()), -1)


def seeded(build, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double().eval()


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), *between, nn.Linear(6, 2))


MODELS = {
    "linear": (lambda: nn.Linear(4, 3), (7, 4)),
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(4, 9), nn.ReLU(), nn.Sequential(nn.Linear(9, 8), nn.LeakyReLU()), nn.Linear(8, 2)
        ),
        (7, 4),
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 5, 3, dilation=2), nn.ReLU(), nn.AvgPool1d(2),
            nn.Conv1d(5, 4, 2), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4 * 4, 3),
        ),
        (7, 2, 24),
    ),
    "conv2d": (Convolutional, (7, 3, 16, 16)),
    "pooled to a pixel": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, padding_mode="reflect"), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3), nn.LogSoftmax(1),
        ),
        (7, 1, 8, 8),
    ),
    "flattened images": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2), nn.Tanh()),
        (7, 3, 4),
    ),
}  # fmt: skip


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]


def norm_of(model: nn.Module, p: float, q: float) -> float:
    """Over all units: rows of Linear layers, output channels of convolutions."""
    rows = [W.detach().flatten(1).double() for W in weights_of(model)]
    width = max(row.shape[1] for row in rows)
    return entrywise_norm(torch.cat([F.pad(row, (0, width - row.shape[1])) for row in rows]), p=p, q=q).item()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("p, q", PAIRS)
def test_the_function_is_kept_and_the_norm_least(name, p, q):
    build, shape = MODELS[name]
    model = seeded(build)
    X = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    found = rebalance(model, p=p, q=q, tol=1e-13)
    assert found.converged
    torch.testing.assert_close(found.model(X), model(X), rtol=1e-12, atol=1e-13)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert math.isclose(norm_of(model, p, q), found.history["norm"][0].item(), rel_tol=1e-12)
    least = norm_of(found.model, p, q)
    assert math.isclose(least, found.history["norm"][-1].item(), rel_tol=1e-12)
    perturbed = copy.deepcopy(found.model)
    for layer, after in zip(weights_of(perturbed), weights_of(perturbed)[1:], strict=False):
        with torch.no_grad():
            layer[0] *= 1.01
            channel = (
                after[:, : max(1, after.shape[1] // layer.shape[0])] if after.shape[1] >= layer.shape[0] else after[:1]
            )
            channel /= 1.01
        assert norm_of(perturbed, p, q) >= least * (1 - 1e-15)


def test_the_norm_of_linear_layers_is_that_of_a_convex_solver():
    model = seeded(MODELS["mlp"][0])
    _, norm = convex_optimum([W.detach() for W in weights_of(model)], p=1, q=2)
    assert math.isclose(norm_of(rebalance(model, p=1, q=2, tol=1e-14).model, 1, 2), norm, rel_tol=1e-12)


def test_a_convolution_is_balanced_as_the_matrix_over_pixels_is():
    """On a circle every pixel of a channel sees the same weights: the unrolled graph has the same factors."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular", bias=False),
            nn.ReLU(),
            nn.Conv1d(3, 2, 3, padding=1, padding_mode="circular", bias=False),
        )
    )
    pixels = 5
    unroll = lambda conv, channels: (
        conv(torch.eye(channels * pixels).double().reshape(-1, channels, pixels)).flatten(1).mT
    )
    for p, q in PAIRS[:3]:
        matrices = [unroll(model[0], 2).detach(), unroll(model[2], 3).detach()]
        z, _ = convex_optimum(matrices, p=p, q=q)
        over_pixels = z[2 * pixels : 5 * pixels].reshape(3, pixels).exp()
        factors = rebalance(model, p=p, q=q, tol=1e-14).factors["0"]
        torch.testing.assert_close(over_pixels, factors[:, None].expand(3, pixels), rtol=1e-6, atol=0)


def test_kernel_norms_neither_overflow_nor_underflow():
    kernels = torch.tensor([[[3e-200, 4e-200], [0.0, 0.0], [3e200, 4e200]]], dtype=torch.float64)
    torch.testing.assert_close(kernel_norms(kernels, 2), torch.tensor([[5e-200, 0, 5e200]], dtype=torch.float64))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_precision_is_kept(dtype, tolerance):
    build, shape = MODELS["mlp"]
    model = seeded(build).to(dtype)
    X = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    balanced = rebalance(model).model
    assert {value.dtype for value in balanced.state_dict().values()} == {dtype}
    torch.testing.assert_close(balanced(X), model(X), rtol=tolerance, atol=tolerance)


def test_layers_may_differ_in_precision():
    model = seeded(lambda: mlp(nn.ReLU()))
    model[0].float()
    balanced = rebalance(model).model
    assert [W.dtype for W in weights_of(balanced)] == [torch.float32, torch.float64]
    assert norm_of(balanced, 2, 2) < norm_of(model, 2, 2)


def test_inplace_writes_into_the_model_only():
    model = seeded(lambda: mlp(nn.ReLU()))
    apart = rebalance(model)
    assert apart.model is not model
    within = rebalance(model, inplace=True)
    assert within.model is model
    for one, other in zip(apart.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
        assert other.requires_grad


def test_a_balanced_model_stays_as_it_is():
    balanced = rebalance(seeded(MODELS["mlp"][0]), tol=1e-15).model
    again = rebalance(balanced, tol=1e-10)
    assert len(again.history["gap"]) == 1
    for one, other in zip(balanced.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.relu(x)) + x


class Branching(Residual):
    def forward(self, x):
        return self.b(x) if x.sum() > 0 else self.a(x)


class Functional(Residual):
    def forward(self, x):
        return self.b(torch.sigmoid(self.a(x)))


def tied_parameter():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def tied_module():
    layer = nn.Linear(4, 4)
    return nn.Sequential(nn.Linear(3, 4), layer, nn.ReLU(), layer)


KEPT = {  # a network whose every unit stays, and the reason for those of its first layer
    "tanh": (lambda: mlp(nn.Tanh()), "1: Tanh is not homogeneous"),
    "gelu": (lambda: mlp(nn.Sequential(nn.GELU())), "1.0: GELU is not homogeneous"),
    "sigmoid": (Functional, "Functional: sigmoid is not homogeneous"),
    "softmax": (lambda: mlp(nn.Softmax(-1)), "1: Softmax is not homogeneous"),
    "relu6": (lambda: mlp(nn.ReLU6()), "1: ReLU6 is not homogeneous"),
    "silu": (lambda: mlp(nn.SiLU()), "1: SiLU is not homogeneous"),
    "hardtanh": (lambda: mlp(nn.Hardtanh()), "1: Hardtanh is not homogeneous"),
    "softsign": (lambda: mlp(nn.Softsign()), "1: "),
    "skip to the output": (Residual, "returned by the model"),
    "tied parameter": (tied_parameter, "0.weight is used twice, once where it must stay"),
    "tied module": (tied_module, "returned by the model"),
    "recurrent": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 4)), "1: LSTM has gates"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_rescaled_stays_and_the_report_says_why(name):
    build, reason = KEPT[name]
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = rebalance(model, inplace=True)
    assert found.model is model
    assert found.report.rescaled == 0 and found.report.kept > 0
    assert found.report.units[0].reason.startswith(reason)
    assert all((a == 1).all() for a in found.factors.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_that_cannot_be_followed_comes_back_with_the_reason():
    for build, reason in (
        (Branching, "its control flow or its shapes depend on values"),
        (lambda: nn.Sequential(nn.Linear(3, 3), Refusing()), "never"),
    ):
        found = rebalance(build(), sample=torch.ones(2, 3))
        assert found.report.units == () or found.report.rescaled == 0
        assert reason in str(found.report)


class Refusing(nn.Module):
    def forward(self, x):
        raise RuntimeError("never")


def test_a_model_without_weights_comes_back():
    found = rebalance(nn.ReLU())
    assert found.converged and found.report.units == () and len(found.history["norm"]) == 0


@pytest.mark.parametrize("inplace", [False, True])
def test_vacuous_units_stay_and_bad_values_are_refused(inplace):
    def changed(change):
        model = seeded(lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
        with torch.no_grad():
            change(model)
        return model

    for change, layer, unit, reason in (
        (lambda m: m[0].weight[1].zero_(), "0", 1, "no nonzero weight enters it"),
        (lambda m: m[2].weight[3].zero_(), "2", 3, "no nonzero weight enters it"),
        (lambda m: m[4].weight[:, 2].zero_(), "2", 2, "no nonzero weight leaves it"),
    ):
        model = changed(change)
        X = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        Y = model(X)
        found = rebalance(model, inplace=inplace, tol=1e-13)
        (kept,) = [units for units in found.report.units if units.reason.startswith(reason)]
        assert (kept.layer, kept.indices) == (layer, (unit,))
        assert found.factors[layer][unit] == 1 and found.report.kept == 3
        assert found.history["norm"][-1] < found.history["norm"][0]
        torch.testing.assert_close(found.model(X), Y, rtol=1e-12, atol=1e-13)
    for change, message in (
        (lambda m: m[2].bias.fill_(math.nan), r"^2\.bias holds a value that is not finite"),
        (lambda m: m[4].weight.fill_(math.inf), r"^4\.weight holds a value that is not finite"),
    ):
        model = changed(change)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(UnsupportedModel, match=message):
            rebalance(model, inplace=inplace)
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match="p must be a positive finite number, got 0"):
        rebalance(changed(lambda m: None), p=0)
    with pytest.raises(ValueError, match="method must be one of"):
        rebalance(changed(lambda m: None), method="quick")


def test_weights_that_would_leave_their_dtype_are_refused_before_anything_is_written():
    model = seeded(
        lambda: nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    ).half()
    with torch.no_grad():
        for layer, value in zip(weights_of(model), (1e-4, 6e4, 6e4), strict=True):
            layer.fill_(value)
        model[2].bias.fill_(6e4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UnsupportedModel, match=r"^0: the rescaled weights overflow"):
        rebalance(model, inplace=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_devices(device):
    build, shape = MODELS["conv2d"]
    model = seeded(build).to(device)
    X = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    balanced = rebalance(model).model
    assert next(balanced.parameters()).device.type == device
    torch.testing.assert_close(balanced(X), model(X), rtol=1e-12, atol=1e-13)

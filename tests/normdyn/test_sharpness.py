"""Oracles: dense Hessians of torch.func, closed forms; rescaled networks, with plain sharpness as the control."""

import copy
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normdyn.measures import operators, sharpness


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(kind, seed=0):
    """Small networks with biases, and a pair of layers between which units can be rescaled."""
    torch.manual_seed(seed)
    if kind == "mlp":
        layers = [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)]
        pairs = [(0, 2), (2, 4)]
    elif kind == "conv":
        layers = [
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 3, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3, 3),
        ]
        pairs = [(0, 3)]
    else:
        layers = [nn.Linear(5, 8), nn.BatchNorm1d(8, eps=1e-30), nn.ReLU(), nn.Linear(8, 3)]
        pairs = [(1, 3)]
    return nn.Sequential(*layers).double(), pairs


def data(kind):
    X = draw(1, 24, 1, 7, 7) if kind == "conv" else draw(1, 24, 5)
    y = torch.arange(24) % 3
    return [(X[:16], y[:16]), (X[16:], y[16:])]


def rescaled(model, pairs, spread=4.0):
    """The same function: each unit's incoming side times a factor, its outgoing side over it."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for below, above in pairs:
            a = torch.linspace(-spread, spread, len(model[below].weight), dtype=torch.float64).exp()
            shape = [-1] + [1] * (model[below].weight.ndim - 1)
            model[below].weight.mul_(a.reshape(shape))
            model[below].bias.mul_(a)
            model[above].weight.div_(a.reshape([1, -1] + [1] * (model[above].weight.ndim - 2)))
    return model


def dense(model, batches):
    """The Hessian by torch.func, all samples at once."""
    parameters = operators.trainable(model)
    X, y = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def loss(flat):
        parts = dict(zip(parameters, operators.split(flat, parameters), strict=True))
        return F.cross_entropy(torch.func.functional_call(model, parts, (X,)), y)

    return torch.func.hessian(loss)(operators.flatten(parameters))


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_products_are_those_of_the_hessian_and_leave_the_model_alone(kind):
    model, _ = network(kind)
    before = copy.deepcopy(model.state_dict())
    product = operators.HessianProduct(model, F.cross_entropy, data(kind))
    H = dense(model, data(kind))
    v = draw(7, len(H))
    assert (product(v) - H @ v).norm() < 1e-12 * (H @ v).norm()
    X, y = (torch.cat(parts) for parts in zip(*data(kind), strict=True))
    assert abs(product.value - F.cross_entropy(model(X), y).item()) < 1e-14
    assert all(p.grad is None for p in model.parameters()) and product.calls == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_running_statistics_do_not_move_in_training_mode():
    model, _ = network("norm")
    before = copy.deepcopy(model.state_dict())
    sharpness.adaptive_trace(model.train(), F.cross_entropy, data("norm"), probes=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_figures_are_those_of_the_dense_hessian():
    model, _ = network("mlp")
    H, w = dense(model, data("mlp")), operators.flatten(operators.trainable(model))
    plain, adaptive = (
        f(model, F.cross_entropy, data("mlp")) for f in (sharpness.sharpness, sharpness.adaptive_sharpness)
    )
    assert plain.value == pytest.approx(torch.linalg.eigvalsh(H)[-1].item(), rel=1e-10)
    assert adaptive.value == pytest.approx(torch.linalg.eigvalsh(w[:, None].abs() * H * w.abs())[-1].item(), rel=1e-10)
    assert max(plain.residual, adaptive.residual) < 1e-7
    trace = sharpness.adaptive_trace(model, F.cross_entropy, data("mlp"), probes=200)
    assert abs(trace.value - (w.square() * H.diagonal()).sum()) < 4 * trace.error < 0.5 * trace.value


@pytest.mark.parametrize("kind", ["mlp", "conv", "norm"])
def test_no_rescaling_moves_the_adaptive_figures_and_plain_sharpness_goes_with_it(kind):
    model, pairs = network(kind)
    model.train(kind == "norm")
    other = rescaled(model, pairs)
    X = data(kind)[0][0]
    assert (copy.deepcopy(other)(X) - copy.deepcopy(model)(X)).abs().max() < 1e-10
    for f in (sharpness.adaptive_sharpness, sharpness.adaptive_trace):
        one, two = (f(m, F.cross_entropy, data(kind)).value for m in (model, other))
        assert abs(two - one) < 1e-10 * abs(one), f.__name__
    plain, moved = (sharpness.sharpness(m, F.cross_entropy, data(kind)).value for m in (model, other))
    assert moved > 30 * plain


def test_the_scale_below_a_normalization_does_not_move_the_adaptive_figures():
    model, _ = network("norm")
    other = copy.deepcopy(model)
    other[0].weight.data *= 50
    other[0].bias.data *= 50
    one, two = (sharpness.adaptive_sharpness(m.train(), F.cross_entropy, data("norm")).value for m in (model, other))
    assert abs(two - one) < 1e-9 * one


def test_the_least_norm_is_one_point_for_all_rescalings():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 6, bias=False), nn.ReLU(),
                          nn.Linear(6, 3)).double()  # fmt: skip
    other = copy.deepcopy(model)
    for below, above in ((0, 2), (2, 4)):
        a = (2 * draw(3 + below, len(model[below].weight))).exp()
        other[below].weight.data *= a[:, None]
        other[above].weight.data /= a
    start = copy.deepcopy(other.state_dict())
    one, two = (sharpness.least_norm_sharpness(m, F.cross_entropy, data("mlp")).value for m in (model, other))
    plain, moved = (sharpness.sharpness(m, F.cross_entropy, data("mlp")).value for m in (model, other))
    assert abs(two - one) < 1e-5 * one and moved > 10 * plain
    assert all(torch.equal(value, start[name]) for name, value in other.state_dict().items())


def test_a_shift_of_all_logits_moves_them_which_is_said():
    """A symmetry that is not diagonal: the limit that the module's text names."""
    model, _ = network("mlp")
    other = copy.deepcopy(model)
    other[4].bias.data += 10.0
    one, two = (sharpness.adaptive_sharpness(m, F.cross_entropy, data("mlp")).value for m in (model, other))
    assert abs(two / one - 1) > 0.1


def test_zero_weights_are_not_seen():
    model = nn.Linear(5, 3).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    assert sharpness.adaptive_sharpness(model, F.cross_entropy, data("mlp")).value == 0
    assert sharpness.sharpness(model, F.cross_entropy, data("mlp")).value > 0


def test_single_precision_unused_and_frozen_parameters_and_one_weight():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    model.unused = nn.Parameter(torch.ones(3))
    model.forward = lambda X: nn.Sequential.forward(model, X) if False else model[2](model[1](model[0](X)))
    batches = [(X.float(), y) for X, y in data("mlp")]
    found = sharpness.sharpness(model, F.cross_entropy, batches)
    assert found.residual < 1e-3 and found.vector[-3:].abs().max() == 0 or found.value > 0
    model[0].requires_grad_(False)
    assert len(sharpness.sharpness(model, F.cross_entropy, batches).vector) == 3 + 27
    one = nn.Linear(1, 1, bias=False).double()
    X = draw(0, 6, 1)
    square = lambda f, y: (f - y).square().mean()
    assert sharpness.sharpness(one, square, [(X, X)]).value == pytest.approx(2 * X.square().mean().item())


class Attention(nn.Module):
    """Attention in one head, and several inputs by name."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x, shift):
        q, k, v = (self.qkv(x) + shift).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v).mean(1))


def test_attention_and_named_or_several_inputs():
    torch.manual_seed(0)
    model, x, shift, y = Attention().double(), draw(0, 6, 5, 4), draw(1, 12), torch.arange(6) % 3
    named = operators.HessianProduct(model, F.cross_entropy, [({"x": x, "shift": shift}, y)])
    several = operators.HessianProduct(model, F.cross_entropy, [((x, shift), y)])
    v, eps = draw(2, len(named.gradient)), 1e-5
    flat = operators.flatten(named.parameters)

    def gradient(at):
        moved = copy.deepcopy(model)
        nn.utils.vector_to_parameters(at, moved.parameters())
        return operators.HessianProduct(moved, F.cross_entropy, [((x, shift), y)]).gradient

    differences = (gradient(flat + eps * v) - gradient(flat - eps * v)) / (2 * eps)
    assert (named(v) - differences).norm() < 1e-7 * differences.norm()
    assert torch.equal(named(v), several(v))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, b: (nn.Sequential(m, nn.Dropout(0.5)), b), "call model.eval"),
        (lambda m, b: (m, iter(b)), "read once only"),
        (lambda m, b: (m, []), "there is no sample"),
        (lambda m, b: (m.requires_grad_(False), b), "no parameter requires a gradient"),
        (lambda m, b: (m, [(X * torch.nan, y) for X, y in b]), "one finite number"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    model, batches = change(network("mlp")[0], data("mlp"))
    with pytest.raises(ValueError, match=message):
        operators.HessianProduct(model, F.cross_entropy, batches)


def test_too_few_probes_and_unfinished_eigenvalues(monkeypatch):
    model, _ = network("mlp")
    with pytest.raises(ValueError, match="probes must be at least 2"):
        sharpness.adaptive_trace(model, F.cross_entropy, data("mlp"), probes=1)
    monkeypatch.setattr(sharpness, "RESTARTS", 1)
    many = nn.Linear(60, 3).double()
    batches = [(draw(4, 300, 60), torch.arange(300) % 3)]
    with pytest.raises(ArithmeticError, match="to a tolerance of 1e-14"):
        sharpness.sharpness(many, F.cross_entropy, batches, tolerance=1e-14)


def test_the_operator_is_curvlinops_and_a_wrong_hessian_is_found_out(monkeypatch):
    model, calls = network("mlp")[0], []
    product, factor = operators.HessianProduct(model, F.cross_entropy, data("mlp")), [1.0]

    class Stand:
        def __init__(self, name):
            self.name = name

        def __matmul__(self, vector):
            return factor[0] * product(vector)

    stand_in = types.ModuleType("curvlinops")
    for name in ("HessianLinearOperator", "GGNLinearOperator", "FisherMCLinearOperator"):
        setattr(stand_in, name, lambda *args, name=name, **options: calls.append((name, *args, options)) or Stand(name))
    monkeypatch.setitem(sys.modules, "curvlinops", stand_in)
    loss, batches = nn.CrossEntropyLoss(), data("mlp")
    found = [operators.operator(model, loss, batches, kind=kind, mc_samples=2) for kind in ("hessian", "ggn", "fisher")]
    assert [each.name for each in found] == ["HessianLinearOperator", "GGNLinearOperator", "FisherMCLinearOperator"]
    name, m, l, parameters, b, options = calls[0]
    assert (m.model, l, b, options) == (model, loss, batches, {"mc_samples": 2})
    assert torch.equal(m(batches[0][0]), model(batches[0][0])) and m.training == model.training
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    factor[0] = 1.001
    with pytest.raises(ArithmeticError, match=r"differs from differentiating twice by 1.0e-03"):
        operators.operator(model, loss, batches)
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    with pytest.raises(ImportError, match=r"pip install normdyn\[curvature\]"):
        operators.operator(model, loss, batches)

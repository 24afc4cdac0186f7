"""The balance-preserving optimiser against slow twins: autograd, an adaptive integrator, sums written out."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from claimbook.show.checks import observed_order, relative_error
from normdyn.data.sets import digits, flatten
from normdyn.motion.flows import integrate
from normdyn.networks.graphs import feedforward, random_dag
from normdyn.networks.losses import square_loss
from normdyn.rescaling.descent import (
    BalancedDescent,
    StepCollapsed,
    balanced_step,
    correspondence,
    exponential_step,
    half_step,
    longest_step,
    magnitudes,
)
from normdyn.rescaling.flows import minimum_norm_flow
from normdyn.rescaling.group import regularizer

EXPONENTS = [(1.0, 1.0), (2.0, 2.0), (1.0, 2.0), (2.0, 1.0), (3.0, 1.5), (0.5, 0.7)]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("p", "q"), EXPONENTS)
def test_correspondence_is_weight_times_derivative_of_the_regularizer(p, q):
    W, _ = random_dag(torch.Generator().manual_seed(0))
    V = correspondence(W, p=p, q=q)
    slope = torch.func.grad(lambda W: regularizer(W, p=p, q=q))(
        W[3:] + 0
    )  # input rows are zero: no derivative at p < q
    assert relative_error(V[3:], (W[3:] * slope).nan_to_num()) < 1e-13
    assert V[:3].count_nonzero() == 0
    assert relative_error(magnitudes(V, p=p, q=q), W.abs()) < 1e-13


def test_exponential_step_is_exact_for_a_constant_flow():
    V, flow = draw(0, 3, 4).abs() + 1, draw(1, 3, 4)
    for strength in (0.0, 1e-12, 0.7):
        once = exponential_step(V, flow, step=0.4, strength=strength)
        twice = exponential_step(
            exponential_step(V, flow, step=0.2, strength=strength), flow, step=0.2, strength=strength
        )
        assert relative_error(twice, once) < 1e-14
        many = V
        for _ in range(4000):
            many = many - 1e-4 * (strength * many + flow)
        assert relative_error(many, once) < 1e-4  # Euler with a ten-thousandth


@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_longest_step_brings_the_first_entry_to_zero(strength):
    V, flow = draw(2, 5, 6).abs(), draw(3, 5, 6)
    h = longest_step(V, flow, strength=strength)
    assert abs(exponential_step(V, flow, step=h, strength=strength).min()) < 1e-14
    assert exponential_step(V, flow, step=0.99 * h, strength=strength).min() > 0
    assert longest_step(V, -V, strength=strength) == math.inf
    assert longest_step(torch.zeros(1), torch.ones(1), strength=strength) == 0


@pytest.fixture(scope="module")
def graph():
    """A linear network on a random graph, so that the flow is smooth, and its error."""
    W, hidden = random_dag(torch.Generator().manual_seed(5), spread=0.3)
    W = W + 0.5 * W.sign()
    X, Y, edges = draw(6, 20, 3), draw(7, 20, 2), W != 0
    error = lambda params: square_loss(feedforward(params["W"] * edges, params["b"], X, hidden, activation=_same), Y)
    return {"W": W, "b": torch.zeros(len(W), dtype=W.dtype)}, hidden, edges, error


def _same(z):
    return z


@pytest.mark.parametrize(("p", "q"), EXPONENTS)
def test_order_of_convergence_and_exact_balance_on_a_graph(graph, p, q):
    start, hidden, edges, error = graph
    strength = 0.4
    flow = minimum_norm_flow(error, hidden, p=p, q=q, strength=strength)
    span = 0.1 / (flow(start)["W"] / start["W"])[edges].abs().max().item()  # of the fastest weight
    exact = integrate(flow, start, [0.0, span], relative=1e-11)
    charge = lambda W: (correspondence(W, p=p, q=q).sum(1) - correspondence(W, p=p, q=q).sum(0))[hidden]

    def gradient(weights, free):
        slope = torch.func.grad(error)({"W": weights[0], "b": free[0]})
        return [slope["W"]], [torch.where(hidden, 0.0, slope["b"])]

    for stages in (1, 2):
        errors, free_errors, counts = [], [], (4, 8, 16)
        for count in counts:
            weights, free, step = [start["W"]], [start["b"]], span / count
            for _ in range(count):
                weights, free, taken = balanced_step(
                    weights, free, gradient, step=step, p=p, q=q, strength=strength, stages=stages
                )
                assert taken == step
            errors.append(relative_error(weights[0], exact["W"][-1]))
            free_errors.append(relative_error(free[0], exact["b"][-1]))
            kept = math.exp(-strength * span) * charge(start["W"])
            assert relative_error(charge(weights[0]), kept) < 1e-12
        for measured in (errors, free_errors):
            assert abs(observed_order(measured, [1 / count for count in counts]) - stages) < 0.2, measured


@pytest.mark.parametrize(("p", "q"), EXPONENTS)
def test_half_step_follows_the_flow_to_first_order(graph, p, q):
    start, hidden, edges, error = graph
    W, slope = start["W"], torch.func.grad(error)(start)["W"]
    velocity = minimum_norm_flow(error, hidden, p=p, q=q, strength=0.4)(start)["W"]
    step = 1e-7
    middle, end = half_step(W, slope, step=step, strength=0.4, p=p, q=q)
    assert relative_error((middle - W) / (step / 2), velocity) < 1e-4
    assert (end.sign() == W.sign())[edges].all()


def convolutional(seed: int = 0, dtype: torch.dtype = torch.float64, **bias: bool) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, **bias), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2, groups=2, **bias), nn.LeakyReLU(),
        nn.Flatten(), nn.Linear(24, 7, **bias), nn.Dropout(0.2), nn.ReLU(), nn.Linear(7, 3),
    ).to(dtype)  # fmt: skip


def charges(model: nn.Sequential, p: float, q: float, with_bias: bool = False) -> torch.Tensor:
    """Imbalance of every hidden unit, summed one unit at a time."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear | nn.Conv2d)]
    V = []
    for layer in layers:
        rows = layer.weight.detach().flatten(1)
        if with_bias and layer is not layers[-1]:
            rows = torch.cat([rows, layer.bias.detach()[:, None]], 1)
        V.append(correspondence(rows, p=p, q=q)[:, : layer.weight[0].numel()])
    incoming = []
    for layer, v in zip(layers, V, strict=True):
        extra = 0.0
        if with_bias and layer is not layers[-1]:
            rows = torch.cat([layer.weight.detach().flatten(1), layer.bias.detach()[:, None]], 1)
            extra = correspondence(rows, p=p, q=q)[:, -1]
        incoming.append(v.sum(1) + extra)
    result = []
    for l, after in enumerate(layers[1:]):
        units = len(incoming[l])
        groups = getattr(after, "groups", 1)
        for unit in range(units):
            per_group = units // groups
            group, place = divmod(unit, per_group)
            rows = V[l + 1].reshape(groups, -1, per_group, V[l + 1].shape[1] // per_group)
            result.append(incoming[l][unit] - rows[group, :, place].sum())
    return torch.stack(result)


def train(model, optimizer, *, steps=20, seed=1, dtype=torch.float64) -> tuple[float, float]:
    """Random images in mini-batches; returns the total time taken and the last error."""
    images, labels = draw(seed, 40, 1, 8, 8).to(dtype), torch.arange(40) % 3
    total, pick = 0.0, torch.Generator().manual_seed(seed)
    for k in range(steps):
        batch = torch.randint(40, (8,), generator=pick)

        def closure(batch=batch, k=k):
            torch.manual_seed(k)  # one dropout mask a step
            optimizer.zero_grad()
            error = F.cross_entropy(model(images[batch]), labels[batch])
            error.backward()
            return error

        error = optimizer.step(closure)
        total += optimizer.taken
    return total, error.item()


@pytest.mark.filterwarnings("ignore::normdyn.rescaling.descent.StepCollapsed")
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("lr", [0.05, 20.0])
@pytest.mark.parametrize(("p", "q"), EXPONENTS)
def test_imbalance_decays_exactly_in_a_convolutional_network(p, q, lr, stages):
    model = convolutional(bias=False)
    before = charges(model, p, q)
    total, _ = train(model, BalancedDescent(model, lr, p=p, q=q, strength=0.05, stages=stages))
    assert total > 0
    assert relative_error(charges(model, p, q), math.exp(-0.05 * total) * before) < 1e-11


def test_single_precision_keeps_balance_to_its_rounding():
    model = convolutional(dtype=torch.float32, bias=False)
    before = charges(model, 2.0, 2.0)
    total, _ = train(model, BalancedDescent(model, 0.1, strength=0.05, stages=2), dtype=torch.float32)
    assert relative_error(charges(model, 2.0, 2.0), math.exp(-0.05 * total) * before) < 1e-5


def test_gradient_descent_does_not_keep_balance():
    model = convolutional(bias=False)
    before = charges(model, 2.0, 2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.taken = 0.0
    train(model, optimizer)
    assert relative_error(charges(model, 2.0, 2.0), before) > 1e-3


def test_biases_frozen_or_regularized():
    model = convolutional()
    with pytest.raises(ValueError, match=r"^0: its bias is not zero"):
        BalancedDescent(model, 0.1, biases="frozen")
    before = charges(model, 1.0, 2.0, with_bias=True)
    total, _ = train(model, BalancedDescent(model, 0.05, p=1.0, q=2.0, strength=0.1, biases="regularized"))
    assert relative_error(charges(model, 1.0, 2.0, with_bias=True), math.exp(-0.1 * total) * before) < 1e-11
    assert relative_error(charges(model, 1.0, 2.0), math.exp(-0.1 * total) * charges(convolutional(), 1.0, 2.0)) > 1e-3
    hidden = [layer for layer in model if getattr(layer, "bias", None) is not None][:-1]
    for layer in hidden:
        nn.init.zeros_(layer.bias)
    output = model[-1].bias.detach().clone()
    train(model, BalancedDescent(model, 0.05, biases="frozen"))
    assert all(layer.bias.count_nonzero() == 0 for layer in hidden)
    assert (model[-1].bias != output).all()


def one_unit(weights: list[float]) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 1, bias=False)).double()
    model[0].weight.data = torch.tensor([weights], dtype=torch.float64)
    return model


def fit(model, optimizer, steps=100) -> torch.Tensor:
    X = draw(9, 30, 2)
    Y = X @ torch.tensor([[-1.0], [1.0]], dtype=X.dtype)

    def closure():
        optimizer.zero_grad()
        error = square_loss(model(X), Y)
        error.backward()
        return error

    for _ in range(steps):
        optimizer.step(closure)
    return model[0].weight.detach()[0]


@pytest.mark.filterwarnings("ignore::normdyn.rescaling.descent.StepCollapsed")
@pytest.mark.parametrize(("p", "q"), [(2.0, 2.0), (2.0, 1.0), (1.5, 1.5), (3.0, 3.0)])
def test_two_stages_go_through_zero_and_one_does_not(p, q):
    target = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    model = one_unit([0.5, 0.3])
    assert relative_error(fit(model, BalancedDescent(model, 0.3, p=p, q=q, stages=2)), target) < 1e-3
    model = one_unit([0.5, 0.3])
    stuck = fit(model, BalancedDescent(model, 0.3, p=p, q=q, stages=1))
    assert 0 <= stuck[0] < 0.1


def test_two_stages_may_take_twice_the_longest_step_when_signs_cannot_change():
    weight, slope = torch.full((1, 1), 2.0, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    gradient = lambda weights, free: ([slope], [])
    (moved,), _, taken = balanced_step([weight], [], gradient, step=1.5, p=1.0, q=1.0, stages=2)
    assert taken == 1.5 and moved.item() == pytest.approx(2 - 1.5 * 0.25 * 2)  # V - h Z g with Z = (1 - h/2) V
    *_, taken = balanced_step([weight], [], gradient, step=1.5, p=1.0, q=1.0, stages=1)
    assert taken == pytest.approx(0.99)


def test_zero_weights_absorb_except_with_two_stages_and_p_above_one():
    for p, stages, revived in [(1.0, 1, False), (1.0, 2, False), (2.0, 1, False), (2.0, 2, True)]:
        model = one_unit([0.0, 0.3])
        weight = fit(model, BalancedDescent(model, 0.05, p=p, q=p, stages=stages), steps=10)[0]
        assert (weight != 0) == revived, (p, stages, weight)


@pytest.mark.parametrize(("p", "stages"), [(2.0, 2), (1.5, 2), (1.0, 1), (0.5, 1)])
def test_stages_are_chosen_by_the_exponent(p, stages):
    assert BalancedDescent(convolutional(bias=False), 0.1, p=p).stages == stages


def learn_digits(steps: int, **options) -> float:
    """Share of test digits that are right, two hidden layers from torch's own initialisation, biases among it."""
    data = flatten(digits())
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))
    X, y = data.inputs[order].float() / data.inputs.max(), data.labels[order]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer, pick = BalancedDescent(model, 0.5, **options), torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(1400, (64,), generator=pick)

        def closure(rows=rows):
            optimizer.zero_grad()
            error = F.cross_entropy(model(X[rows]), y[rows])
            error.backward()
            return error

        optimizer.step(closure)
    return (model(X[1400:]).argmax(1) == y[1400:]).double().mean().item()


def test_defaults_learn_digits_and_the_rule_that_cannot_says_so():
    assert learn_digits(200) > 0.8
    with pytest.warns(StepCollapsed, match="no longer learns; two stages let weights go through zero"):
        assert learn_digits(30, stages=1) < 0.3


def test_a_collapsed_step_is_told_once_and_a_lowered_rate_is_none(recwarn):
    model = one_unit([0.5, 0.3])
    fit(model, BalancedDescent(model, 0.3, stages=1), steps=200)
    assert [w.category for w in recwarn] == [StepCollapsed]
    recwarn.clear()
    model = one_unit([0.5, 0.3])
    optimizer = BalancedDescent(model, 0.3, p=1.0, q=1.0)
    fit(model, optimizer, steps=3)
    optimizer.param_groups[0]["lr"] = 1e-6
    fit(model, optimizer, steps=20)
    assert optimizer.taken == 1e-6 and not recwarn.list


def test_scheduler_and_state_dict():
    model = convolutional(bias=False)
    optimizer = BalancedDescent(model, 0.1, p=1.0, q=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    train(model, optimizer, steps=1)
    scheduler.step()
    train(model, optimizer, steps=1)
    assert optimizer.taken == 0.05
    other = BalancedDescent(convolutional(bias=False), 0.1, p=1.0, q=1.0)
    other.load_state_dict(optimizer.state_dict())
    assert {group["lr"] for group in other.param_groups} == {0.05}
    optimizer.param_groups[0]["lr"] = 1.0
    with pytest.raises(ValueError, match="one lr"):
        train(model, optimizer, steps=1)


def test_bad_input_is_named_and_changes_nothing():
    tanh = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 1))
    with pytest.raises(ValueError, match=r"1: Tanh is not known to be positively homogeneous"):
        BalancedDescent(tanh, 0.1)
    model = convolutional(bias=False)
    wrong = [{"lr": 0.0}, {"p": -1.0}, {"q": math.nan}, {"strength": -1.0}]
    for arguments in wrong:
        (name,) = arguments
        with pytest.raises(ValueError, match=f"^{name} must be"):
            BalancedDescent(model, **{"lr": 0.1} | arguments)
    with pytest.raises(ValueError, match="pass step"):
        BalancedDescent(model, 0.1, stages=2).step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for stages in (1, 2):
        optimizer = BalancedDescent(model, 0.1, stages=stages)
        calls = []

        def closure(optimizer=optimizer, calls=calls, stages=stages):
            calls.append(0)
            optimizer.zero_grad()
            error = model(draw(0, 2, 1, 8, 8)).sum() * (math.nan if len(calls) == stages else 1.0)
            error.backward()
            return error

        with pytest.raises(FloatingPointError, match="no step was taken"):
            optimizer.step(closure)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

"""Norm and balance laws against plain arithmetic on the weights before and after a step."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from normdyn.motion.flows import gradient_flow, integrate
from normdyn.networks.graphs import layered_weights
from normdyn.networks.losses import cross_entropy, square_loss
from normdyn.norms import laws as norms

ROUNDING = 1e-12  # float64, sums of a few hundred terms
SMOOTH = {0.5: lambda z: z.abs().sqrt(), 1: F.leaky_relu, 2: lambda z: torch.relu(z) ** 2, 0: lambda z: z / z.norm()}


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(weights, X, activations, biases=None):
    H = X
    for l, W in enumerate(weights):
        H = H @ W.mT if biases is None else H @ W.mT + biases[l]
        H = activations[l](H) if l < len(activations) else H
    return H


def gradients(loss, tensors):
    """Value, its gradient and the gradients of all tensors, for a loss of the output."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    output, value = loss(tensors)
    wanted = torch.autograd.grad(value, [output, *tensors])
    return output.detach(), wanted[0], list(wanted[1:])


def quotient(new, old, learning_rate, grades=None):
    grades = [1.0] * len(new) if grades is None else grades
    return (
        sum(c * (a.square().sum() - b.square().sum()) for c, a, b in zip(grades, new, old, strict=True)) / learning_rate
    )


def close(measured, predicted, scale=None):
    scale = predicted.abs().max() if scale is None else scale
    return ((measured - predicted).abs().max() / scale).item()


def run(orders, steps=40, *, seed=0, eta=0.05, decay=0.0, batch=None, loss=square_loss):
    """Gradient descent; yields weights, gradients, output and its gradient, and the next weights."""
    weights = layered_weights([6, 8, 7, 5, 3][: len(orders) + 1] + [3], torch.Generator().manual_seed(seed))
    X = draw(seed + 1, 30, 6)
    Y = torch.arange(30) % 3 if loss is cross_entropy else draw(seed + 2, 30, 3)
    activations = [SMOOTH[k] for k in orders]
    for step in range(steps):
        rows = torch.arange(30) if batch is None else (torch.arange(batch) + batch * step) % 30

        def objective(W, rows=rows):
            output = network(W, X[rows], activations)
            return output, loss(output, Y[rows])

        f, df, g = gradients(objective, weights)
        after = [W - eta * (G + decay * W) for W, G in zip(weights, g, strict=True)]
        yield weights, g, f, df, after
        weights = after


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss", [square_loss, cross_entropy])
@pytest.mark.parametrize("orders", [(1, 1, 1), (1, 2, 1), (0.5, 2, 1), (2, 1, 0.5), (1, 0, 1), (1, 1, 0)])
@pytest.mark.parametrize("batch", [None, 10])
def test_norm_step_is_exact(orders, loss, seed, batch):
    eta, decay = 0.02, 0.1
    for weights, g, f, df, after in run(orders, 10, seed=seed, eta=eta, decay=decay, batch=batch, loss=loss):
        for W, G, V, K in zip(weights, g, after, norms.order_products(orders), strict=True):
            law = norms.squared_norm_step(W, G, f, df, learning_rate=eta, weight_decay=decay, order=K)
            largest = max(W.square().sum() / eta, law["flow"].abs())
            assert close(quotient([V], [W], eta), law["total"], largest) < ROUNDING


def test_norm_step_beyond_the_edge_of_stability():
    """Steps so large that the loss goes up every other time: the law is about a step, not about a flow."""
    eta, losses = 0.3, []
    for weights, g, f, df, after in run((1, 1), 250, eta=eta):
        for W, G, V in zip(weights, g, after, strict=True):
            law = norms.squared_norm_step(W, G, f, df, learning_rate=eta)
            assert close(quotient([V], [W], eta), law["total"], W.square().sum() / eta) < ROUNDING
        losses.append(square_loss(f, draw(2, 30, 3)))
    assert sum(b > a for a, b in pairwise(losses)) > 20


@pytest.mark.parametrize("what", ["wrong order", "stale batch", "no step term", "bias", "tanh"])
def test_controls_miss(what):
    eta, missed = 0.05, []
    previous = None
    for weights, g, f, df, after in run((1, 2, 1), 6, eta=eta, batch=10):
        output, output_gradient, order = f, df, 2.0
        if what in ("bias", "tanh"):
            X, b = draw(1, 30, 6), [draw(9, len(W)) for W in weights]
            act = [torch.tanh] * 3 if what == "tanh" else [torch.relu] * 3

            def objective(W, X=X, b=b, act=act):
                out = network(W, X, act, b if what == "bias" else None)
                return out, square_loss(out, draw(3, 30, 3))

            output, output_gradient, g = gradients(objective, weights)
            after, order = [W - eta * G for W, G in zip(weights, g, strict=True)], 1.0
        if what == "stale batch":
            output, output_gradient, previous = (*(previous or (f, df)), (f, df))
        law = norms.squared_norm_step(
            weights[0], g[0], output, output_gradient, learning_rate=eta, order=1.0 if what == "wrong order" else order
        )
        total = law["total"] - (law["step"] if what == "no step term" else 0)
        missed.append(close(quotient(after[:1], weights[:1], eta), total, law["total"].abs()))
    assert min(missed[1:]) > 1e-4  # eight orders above rounding, at every step


@pytest.mark.parametrize("orders", [(1, 1, 1), (2, 0.5, 1)])
@pytest.mark.parametrize("layer", range(4))
def test_graded_sum_restores_the_law_with_biases(orders, layer):
    eta, decay = 0.03, 0.2
    weights = layered_weights([6, 8, 7, 5, 3], torch.Generator().manual_seed(4))
    biases = [draw(10 + l, len(W)) for l, W in enumerate(weights)]
    X, Y = draw(1, 20, 6), draw(2, 20, 3)
    activations = [SMOOTH[k] for k in orders]

    def objective(tensors):
        output = network(tensors[:4], X, activations, tensors[4:])
        return output, square_loss(output, Y)

    f, df, g = gradients(objective, weights + biases)
    own = [weights[layer], *biases[layer:]]
    pulled = [g[layer], *g[4 + layer :]]
    after = [t - eta * (G + decay * t) for t, G in zip(own, pulled, strict=True)]
    order, grades = norms.order_products(orders)[layer], [1.0, *norms.bias_grades(orders, layer)]
    law = norms.squared_norm_step(own, pulled, f, df, learning_rate=eta, weight_decay=decay, order=order, grades=grades)
    assert close(quotient(after, own, eta, grades), law["total"], law["total"].abs() + law["flow"].abs()) < ROUNDING


@pytest.mark.parametrize("decoupled", [False, True])
def test_momentum_laws_are_exact(decoupled):
    eta, mu, decay, orders = 0.02, 0.9, 0.3, (1, 1)
    weights = layered_weights([6, 8, 7, 3], torch.Generator().manual_seed(5))
    X, Y = draw(1, 30, 6), draw(2, 30, 3)
    activations = [lambda z: z, torch.relu]  # identity junction, then a ReLU junction
    buffers, memory = [torch.zeros_like(W) for W in weights], [0.0] * 3
    B, P = norms.gramian_balance(*weights[:2]), torch.zeros(8, 8, dtype=X.dtype)
    for _ in range(60):

        def objective(W):
            output = network(W, X, activations)
            return output, square_loss(output, Y)

        f, df, g = gradients(objective, weights)
        buffers = [mu * m + G + (0 if decoupled else decay) * W for m, G, W in zip(buffers, g, weights, strict=True)]
        kept = 1 - eta * decay if decoupled else 1
        after = [kept * W - eta * m for W, m in zip(weights, buffers, strict=True)]
        keys = {"learning_rate": eta, "momentum": mu, "weight_decay": decay, "decoupled": decoupled}
        for l, K in enumerate(norms.order_products(orders)):
            law = norms.squared_norm_momentum_step(memory[l], weights[l], buffers[l], f, df, order=K, **keys)
            scale = weights[l].square().sum() / eta
            assert close(quotient([after[l]], [weights[l]], eta), law["total"], scale) < ROUNDING
            memory[l] = law["memory"]
        B, P = norms.gramian_balance_momentum_step(B, P, buffers[0], buffers[1], **keys)
        assert close(B, norms.gramian_balance(*after[:2]), weights[0].square().sum()) < ROUNDING
        weights = after


@pytest.mark.parametrize("decay", [0.0, 0.4])
@pytest.mark.parametrize("batch", [None, 7])
def test_balance_step_is_exact_at_an_identity_junction(decay, batch):
    eta = 0.05
    weights = layered_weights([6, 8, 7, 3], torch.Generator().manual_seed(6))
    X, Y = draw(1, 30, 6), draw(2, 30, 3)
    B, U = norms.gramian_balance(*weights[:2]), norms.unit_balance(*weights[1:])
    for step in range(50):
        rows = torch.arange(30) if batch is None else (torch.arange(batch) + batch * step) % 30

        def objective(W, rows=rows):
            output = network(W, X[rows], [lambda z: z, torch.relu])
            return output, square_loss(output, Y[rows])

        _, _, g = gradients(objective, weights)
        keys = {"learning_rate": eta, "weight_decay": decay}
        full_relu = norms.gramian_balance_step(norms.gramian_balance(*weights[1:]), g[1], g[2], **keys)
        weights = [W - eta * (G + decay * W) for W, G in zip(weights, g, strict=True)]
        B = norms.gramian_balance_step(B, g[0], g[1], **keys)
        U = norms.unit_balance_step(U, g[1], g[2], **keys)
        assert close(B, norms.gramian_balance(*weights[:2])) < ROUNDING  # carried along, never measured again
        assert close(U, norms.unit_balance(*weights[1:])) < ROUNDING
    assert close(full_relu, norms.gramian_balance(*weights[1:])) > 1e-5  # off the diagonal a ReLU breaks it


def test_unit_balance_of_another_order():
    eta, weights = 0.02, layered_weights([6, 8, 3], torch.Generator().manual_seed(7))
    X, Y = draw(1, 30, 6), draw(2, 30, 3)

    def objective(W):
        output = network(W, X, [SMOOTH[2]])
        return output, square_loss(output, Y)

    for _ in range(20):
        _, _, g = gradients(objective, weights)
        expected = norms.unit_balance_step(norms.unit_balance(*weights, order=2), *g, learning_rate=eta, order=2)
        wrong = norms.unit_balance_step(norms.unit_balance(*weights), *g, learning_rate=eta)
        weights = [W - eta * G for W, G in zip(weights, g, strict=True)]
        assert close(norms.unit_balance(*weights, order=2), expected) < ROUNDING
    assert close(norms.unit_balance(*weights), wrong) > 1e-5


@pytest.mark.parametrize("padding, stride", [(0, 1), (1, 1), (1, 2), ("circular", 1)])
def test_channel_gramians_are_balanced_by_any_convolution(padding, stride):
    eta, decay = 0.05, 0.2
    K, V, W = 0.3 * draw(1, 4, 2, 3, 3), 0.3 * draw(2, 5, 4, 3, 3), 0.1 * draw(3, 3, 5 * 9)
    X, Y = draw(4, 6, 2, 8, 8), draw(5, 6, 3)

    def convolve(H, K, stride):
        if padding == "circular":
            return F.conv2d(F.pad(H, (1, 1, 1, 1), mode="circular"), K, stride=stride)
        return F.conv2d(H, K, padding=padding, stride=stride)

    def objective(tensors):
        K, V, W = tensors
        H = F.adaptive_avg_pool2d(convolve(convolve(X, K, stride), V, 1), 3)
        output = H.flatten(1) @ W.mT
        return output, square_loss(output, Y)

    B = norms.gramian_balance(K, V)
    C = norms.gramian_balance(V, W.unflatten(1, (5, -1)))
    for _ in range(15):
        _, _, g = gradients(objective, [K, V, W])
        K, V, W = (t - eta * (G + decay * t) for t, G in zip((K, V, W), g, strict=True))
        keys = {"learning_rate": eta, "weight_decay": decay}
        B = norms.gramian_balance_step(B, g[0], g[1], **keys)
        C = norms.gramian_balance_step(C, g[1], g[2].unflatten(1, (5, -1)), **keys)
        assert close(B, norms.gramian_balance(K, V)) < ROUNDING
        assert close(C, norms.gramian_balance(V, W.unflatten(1, (5, -1)))) < ROUNDING


def test_a_bias_is_one_more_column():
    eta, weights, b = 0.05, layered_weights([6, 8, 3], torch.Generator().manual_seed(8)), draw(3, 8)
    X, Y = draw(1, 30, 6), draw(2, 30, 3)

    def objective(tensors):
        output = (X @ tensors[0].mT + tensors[2]) @ tensors[1].mT
        return output, square_loss(output, Y)

    column = lambda W, b: torch.cat([W, b[:, None]], 1)
    _, _, g = gradients(objective, [*weights, b])
    after = [t - eta * G for t, G in zip([*weights, b], g, strict=True)]
    keys = {"learning_rate": eta}
    B = norms.gramian_balance_step(
        norms.gramian_balance(column(weights[0], b), weights[1]), column(g[0], g[2]), g[1], **keys
    )
    assert close(B, norms.gramian_balance(column(after[0], after[2]), after[1])) < ROUNDING
    without = norms.gramian_balance_step(norms.gramian_balance(*weights), g[0], g[1], **keys)
    assert close(without, norms.gramian_balance(*after[:2])) > 1e-4


def test_residual_branch_takes_its_own_output():
    eta, X, Y = 0.05, draw(1, 30, 6), draw(2, 30, 6)
    V1, V2 = 0.4 * draw(3, 9, 6), 0.4 * draw(4, 6, 9)
    seen = {}

    def objective(tensors):
        branch = torch.relu(X @ tensors[0].mT) @ tensors[1].mT
        branch.retain_grad()
        seen["branch"] = branch
        output = X + branch
        return output, square_loss(output, Y)

    tensors = [V1.requires_grad_(), V2.requires_grad_()]
    output, value = objective(tensors)
    output.retain_grad()
    value.backward()
    branch = seen["branch"]
    for V in tensors:
        after = V - eta * V.grad
        law = norms.squared_norm_step(V, V.grad, branch, branch.grad, learning_rate=eta)
        whole = norms.squared_norm_step(V, V.grad, output, output.grad, learning_rate=eta)
        assert close(quotient([after], [V], eta), law["total"], V.square().sum() / eta) < ROUNDING
        assert close(quotient([after], [V], eta), whole["total"]) > 1e-3


def test_flow_is_the_limit_of_the_step():
    weights = layered_weights([4, 5, 3], torch.Generator().manual_seed(9))
    X, Y = draw(1, 20, 4), draw(2, 20, 3)
    params = {"W1": weights[0], "W2": weights[1]}
    loss = lambda p: square_loss(X @ p["W1"].mT @ p["W2"].mT, Y)
    path = integrate(
        gradient_flow(loss, weight_decay=0.3), params, [0.0, 0.5, 1.0],
        record={"B": lambda p: norms.gramian_balance(p["W1"], p["W2"])},
    )  # fmt: skip
    assert close(path["B"], torch.exp(-0.6 * path["times"])[:, None, None] * path["B"][0]) < 1e-11


@pytest.mark.parametrize(
    "orders, products", [((), [1.0]), ((1, 2, 1), [2.0, 2.0, 1.0, 1.0]), ((2, 0.5), [1.0, 0.5, 1.0])]
)
def test_order_products(orders, products):
    assert norms.order_products(orders) == products


def test_errors_say_what_to_do():
    W = torch.ones(2, 2)
    with pytest.raises(ValueError, match="learning_rate must be positive and finite, got 0"):
        norms.squared_norm_step(W, W, W, W, learning_rate=0)
    with pytest.raises(ValueError, match="give one each"):
        norms.squared_norm_step([W, W], [W], W, W, learning_rate=0.1)
    with pytest.raises(ValueError, match="puts out 2 units and W_next takes 3"):
        norms.gramian_balance(W, torch.ones(2, 3))
    with pytest.raises(ValueError, match="layer must lie between 0 and 2"):
        norms.bias_grades([1, 1], 3)


def test_operator_of_a_convolution_has_its_norm_times_the_positions():
    K = draw(1, 3, 2, 3)
    convolve = lambda H: F.conv1d(F.pad(H, (1, 1), mode="circular"), K)
    T, H = norms.operator_matrix(convolve, (2, 7)), draw(2, 5, 2, 7)
    assert torch.allclose(H.flatten(1) @ T.mT, convolve(H).flatten(1), rtol=1e-13, atol=1e-14)
    assert close(T.square().sum(), 7 * K.square().sum()) < ROUNDING
    with pytest.raises(ValueError, match="leave its bias out"):
        norms.operator_matrix(lambda H: H + 1, (2,))

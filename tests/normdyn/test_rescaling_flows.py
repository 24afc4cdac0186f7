"""Weight-balancing flows: closed forms against slow twins, laws of the balance, refusals."""

import pytest
import torch

from claimbook.show.checks import relative_error
from normdyn.motion.flows import gradient, integrate
from normdyn.rescaling.flows import (
    graph_regression,
    log_hessian,
    minimum_norm_flow,
    rescaling_hessian,
    synaptic_balance,
    weight_balancing_flow,
)
from normdyn.rescaling.group import regularizer, rescale, rescaling_imbalance

NORMS = [(2, 2), (1, 1), (3, 3), (1, 2), (2, 1), (1.5, 4), (4, 1.5)]
linear = lambda z: z


def problem(seed=0, activation=torch.relu, hidden_bias=0.5):
    return graph_regression(torch.Generator().manual_seed(seed), activation=activation, hidden_bias=hidden_bias)


def norm(p, q):
    return lambda W: regularizer(W, p=p, q=q)


@pytest.mark.parametrize("seed", range(3))
def test_synaptic_balance_against_loops(seed):
    params, hidden, _ = problem(seed)
    W, b = params["W"].tolist(), params["b"].tolist()
    n = range(len(b))
    slow = [b[i] ** 2 + sum(W[i][j] ** 2 for j in n) - sum(W[j][i] ** 2 for j in n) for i in n if hidden[i]]
    assert relative_error(synaptic_balance(**params, hidden=hidden), torch.tensor(slow, dtype=torch.float64)) < 1e-14


@pytest.mark.parametrize(("p", "q"), NORMS)
@pytest.mark.parametrize(
    "options", [{}, {"strength": 0.3}, {"strength": 0.3, "bias_speed": 2.0, "bias_decay": 0.1, "compensate": True}]
)
def test_closed_form_is_the_flow_of_its_norm(p, q, options):
    params, hidden, error = problem()
    closed = minimum_norm_flow(error, hidden, p=p, q=q, **options)(params)
    solved = weight_balancing_flow(error, norm(p, q), hidden, **options)(params)
    assert all(relative_error(closed[name], solved[name]) < 1e-11 for name in params)


@pytest.mark.parametrize(("p", "q"), NORMS)
def test_flow_satisfies_its_defining_equation(p, q):
    params, hidden, error = problem(1)
    W = params["W"]
    velocity = weight_balancing_flow(error, norm(p, q), hidden, strength=0.7)(params)["W"]
    product = lambda V: torch.where(W != 0, V * gradient(lambda s: norm(p, q)(s["W"]))({"W": V})["W"], 0.0)
    h = 1e-5
    rate = (product(W + h * velocity) - product(W - h * velocity)) / (2 * h)  # differences: no formula shared
    pull = W * gradient(error)(params)["W"] + 0.7 * product(W)
    assert relative_error(rate, -pull) < 1e-6


@pytest.mark.parametrize(("p", "q"), NORMS)
def test_rescaling_hessian_is_the_derivative_of_the_imbalance(p, q):
    params, hidden, _ = problem(2)
    M, h = rescaling_hessian(params["W"], hidden, p=p, q=q), 1e-5
    for k, unit in enumerate(hidden.nonzero()[:, 0]):
        sides = []
        for sign in (1, -1):
            a = torch.ones_like(params["b"])
            a[unit] = torch.tensor(sign * h, dtype=torch.float64).exp()
            sides.append(rescaling_imbalance(rescale(params["W"], params["b"], a)[0], hidden, p=p, q=q))
        assert relative_error(M[:, k], (sides[0] - sides[1]) / (2 * h)) < 1e-7
    assert relative_error(M, M.mT) < 1e-14
    assert torch.linalg.eigvalsh(M)[0] > 0


def test_log_hessian_of_a_separable_penalty_is_diagonal():
    W = torch.tensor([[0.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    assert log_hessian(lambda V: V.abs().pow(3).sum(), W).item() == pytest.approx(9 * 8)


def test_gradient_flow_at_half_speed_for_the_squared_norm_and_absent_edges_stay_absent():
    params, hidden, error = problem(3)
    velocity = minimum_norm_flow(error, hidden, p=2, q=2)(params)["W"]
    assert relative_error(velocity, -gradient(error)(params)["W"] / 2) < 1e-14
    assert (velocity[params["W"] == 0] == 0).all()


@pytest.mark.parametrize(("p", "q"), [(1, 2), (1.5, 3)])
@pytest.mark.parametrize("seed", range(2))
def test_imbalance_decays_and_charge_with_biases_decays(p, q, seed):
    params, hidden, error = problem(seed, linear)
    record = {"Q": lambda s: rescaling_imbalance(s["W"], hidden, p=p, q=q), "b": lambda s: s["b"][hidden]}
    options = {"strength": 0.5, "bias_decay": 0.5}
    field = minimum_norm_flow(error, hidden, p=p, q=q, bias_speed=2.0, **options)
    path = integrate(field, params, [0, 0.3], record=record)
    charge = path["Q"] + path["b"] ** 2 / 4
    assert relative_error(charge[1], charge[0] * torch.tensor(-0.15, dtype=torch.float64).exp()) < 1e-11
    field = minimum_norm_flow(error, hidden, p=p, q=q, strength=0.5, bias_speed=2.0, compensate=True)
    path = integrate(field, params, [0, 0.3], record=record)
    assert relative_error(path["Q"][1], path["Q"][0] * torch.tensor(-0.15, dtype=torch.float64).exp()) < 1e-11
    assert (path["b"][1] - path["b"][0]).abs().max() > 1e-2


@pytest.mark.parametrize(("p", "q"), NORMS)
def test_the_error_does_not_feel_the_compensation(p, q):
    params, hidden, error = problem(7)
    slope = gradient(error)(params)
    plain, compensated = (
        minimum_norm_flow(error, hidden, p=p, q=q, bias_speed=1.0, compensate=c)(params) for c in (False, True)
    )
    added = {name: compensated[name] - plain[name] for name in params}
    parts = torch.stack([(slope[name] * added[name]).sum() for name in params])
    assert relative_error(-parts[:1], parts[1:]) < 1e-10 and parts.abs().min() > 1e-6


@pytest.mark.parametrize("activation", [torch.relu, torch.nn.functional.leaky_relu])
def test_biases_move_the_balance_by_their_own_flow(activation):
    params, hidden, error = problem(4, activation)
    slope = gradient(error)(params)
    velocity = minimum_norm_flow(error, hidden, p=1, q=3)(params)
    Q_dot = torch.func.jvp(lambda W: rescaling_imbalance(W, hidden, p=1, q=3), (params["W"],), (velocity["W"],))[1]
    assert relative_error(Q_dot, (params["b"] * slope["b"])[hidden]) < 1e-12
    assert (velocity["b"][hidden] == 0).all()
    assert torch.equal(velocity["b"][~hidden], -slope["b"][~hidden])


def test_zero_weights_stay_unless_they_are_edges_that_can_move():
    params, hidden, error = problem(5)
    edges = params["W"] != 0
    i, j = edges.nonzero()[0].tolist()
    params["W"][i, j] = 0.0
    flow = lambda p, e: minimum_norm_flow(error, hidden, p=p, q=p, edges=e)(params)["W"][i, j].item()
    assert flow(2, None) == 0 and flow(1, edges) == 0
    assert flow(2, edges) == pytest.approx(-gradient(error)(params)["W"][i, j].item() / 2)
    with pytest.raises(ValueError, match="p = 3 > 2 has infinite speed"):
        flow(3, edges)


def test_singular_penalty_is_refused():
    params, hidden, error = problem(6)
    params["W"] = params["W"].sign()
    with pytest.raises(ValueError, match="singular"):
        weight_balancing_flow(error, lambda W: (W**2 - W**4 / 4).sum(), hidden)(params)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"p": 0}, "p and q must be positive, got 0 and 2"), ({"strength": -1.0}, "strength must not be negative, got -1"),
     ({"bias_speed": -1.0}, "bias_speed"), ({"bias_decay": -1.0}, "bias_decay")],
)  # fmt: skip
def test_nonsense_is_refused(options, message):
    _, hidden, error = problem()
    with pytest.raises(ValueError, match=message):
        minimum_norm_flow(error, hidden, **({"p": 2, "q": 2} | options))

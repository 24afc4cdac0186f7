"""Orders of maps whose order is known, and maps that have none."""

import pytest
import torch
from torch.nn import functional as F

from normdyn.networks.graphs import layered_weights
from normdyn.networks.homogeneity import Order, euler_order, euler_residual, layer_orders, order

KNOWN = {
    "relu": (torch.relu, 1), "leaky": (F.leaky_relu, 1), "root": (lambda z: z.abs().sqrt(), 0.5),
    "square": (lambda z: torch.relu(z) ** 2, 2), "inverse": (lambda z: 1 / z, -1), "cube": (lambda z: z**3, 3),
    "layer norm": (lambda z: F.layer_norm(z, z.shape[-1:], eps=0.0), 0), "max pool": (lambda z: F.max_pool1d(z, 2), 1),
    "attention of one order": (lambda z: z.softmax(-1).detach() @ z.mT, 1),
    "pi": (lambda z: z.abs() ** torch.pi, torch.pi),
}  # fmt: skip
NONE = {"tanh": torch.tanh, "gelu": F.gelu, "softmax": lambda z: z.softmax(-1), "affine": lambda z: z + 1.0,
        "layer norm with eps": lambda z: F.layer_norm(z, z.shape[-1:], eps=0.1)}  # fmt: skip
EXACT = [name for name in KNOWN if name != "attention of one order"]


def points(seed):
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", EXACT)
def test_known_orders(name, seed):
    function, k = KNOWN[name]
    found = order(function, points(seed))
    assert abs(found.value - k) < 1e-13 and found.error < 1e-13  # rounding of a ratio of norms
    assert euler_residual(function, points(seed), order=k) < 1e-13
    local = euler_order(function, points(seed))
    assert abs(local.value - k) < 1e-13 and local.error < 1e-13


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NONE)
def test_maps_without_an_order(name, seed):
    assert order(NONE[name], points(seed)).error > 1e-2
    assert min(euler_residual(NONE[name], points(seed), order=k) for k in (0.0, 0.5, 1.0, 2.0)) > 1e-2
    assert euler_order(NONE[name], points(seed)).error > 1e-3


def test_a_wrong_order_shows():
    assert euler_residual(torch.relu, points(0), order=2) == pytest.approx(1.0)


def test_error_grows_with_the_input_where_a_map_is_only_nearly_linear():
    errors = [order(torch.tanh, s * points(0)).error for s in (1e-3, 1e-2, 1e-1)]
    assert errors[0] < 1e-5 and errors[1] / errors[0] == pytest.approx(100, rel=0.05)  # quadratic in the input


def test_float32_has_the_error_of_float32():
    found = order(torch.relu, points(0).float())
    assert abs(found.value - 1) < 1e-6 and 0 <= found.error < 1e-6


@pytest.mark.parametrize("factors", [(), (1.0, 2.0), (-1.0,), (0.0,), (float("inf"),)])
def test_bad_factors(factors):
    with pytest.raises(ValueError, match="factors must be positive, finite and not 1"):
        order(torch.relu, points(0), factors=factors)


def test_no_order_shows_at_a_zero_output():
    with pytest.raises(ValueError, match="no order shows there"):
        order(torch.relu, -torch.ones(3))
    with pytest.raises(ValueError, match="no order shows there"):
        euler_residual(torch.relu, -torch.ones(3))


def test_layer_orders_of_a_mixed_network():
    W = layered_weights([8, 6, 5, 4], torch.Generator().manual_seed(0))
    params = {f"W{l + 1}": w for l, w in enumerate(W)}

    def network(p):
        return torch.relu(torch.relu(points(1) @ p["W1"].mT) @ p["W2"].mT) ** 2 @ p["W3"].mT

    found = layer_orders(network, params)
    assert [round(found[name].value, 12) for name in params] == [2.0, 2.0, 1.0]
    assert max(k.error for k in found.values()) < 1e-13


def test_groups_grade_the_biases():
    W = layered_weights([8, 6, 5, 4], torch.Generator().manual_seed(0))
    params = {f"W{l + 1}": w for l, w in enumerate(W)} | {
        f"b{l + 1}": torch.ones(len(w), dtype=w.dtype) for l, w in enumerate(W)
    }

    def network(p):
        H = F.leaky_relu(points(1) @ p["W1"].mT + p["b1"]).square()
        return torch.relu(H @ p["W2"].mT + p["b2"]) @ p["W3"].mT + p["b3"]

    graded = {"layer 1": {"W1": 1, "b1": 1, "b2": 2, "b3": 2}, "layer 2": {"W2": 1, "b2": 1, "b3": 1}}
    found = layer_orders(network, params, groups=graded)
    assert isinstance(found["layer 1"], Order)
    assert found["layer 1"].value == pytest.approx(2, abs=1e-13) and found["layer 1"].error < 1e-13
    assert found["layer 2"].value == pytest.approx(1, abs=1e-13) and found["layer 2"].error < 1e-13
    assert layer_orders(network, params)["W1"].error > 1e-2  # alone, without the biases, it has none
    with pytest.raises(ValueError, match="groups name parameters that do not exist"):
        layer_orders(network, params, groups={"x": {"W9": 1}})

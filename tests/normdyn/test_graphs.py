"""Networks on graphs and in layers against loops over units, torch's own layers and graph theory."""

import math
from itertools import pairwise

import networkx as nx
import pytest
import torch
from torch import nn

from claimbook.show.checks import relative_error
from normdyn.networks.graphs import feedforward, hidden_mask, layered_matrix, layered_weights, mlp, random_dag


def stream(seed):
    return torch.Generator().manual_seed(seed)


def slow_feedforward(W, b, x, hidden, g):
    """One sample, one unit after the other, in plain numbers."""
    W, values = W.tolist(), list(x)
    for i in range(len(x), len(W)):
        field = sum(W[i][j] * values[j] for j in range(i)) + b[i]
        values.append(g(field) if hidden[i] else field)
    return values[max(i for i, free in enumerate(hidden) if free) + 1 :]


@pytest.mark.parametrize("activation, g", [(torch.relu, lambda z: max(z, 0.0)), (torch.tanh, math.tanh)])
def test_a_graph_computes_what_a_loop_over_units_computes(activation, g):
    for seed in range(5):
        W, hidden = random_dag(stream(seed), inputs=3, hidden=5, outputs=2)
        b, X = (
            torch.randn(10, generator=stream(50), dtype=W.dtype),
            torch.randn(4, 3, generator=stream(51), dtype=W.dtype),
        )
        expected = [slow_feedforward(W, b.tolist(), x, hidden.tolist(), g) for x in X.tolist()]
        outputs = feedforward(W, b, X, hidden, activation=activation)
        assert relative_error(outputs, torch.tensor(expected, dtype=W.dtype)) < 1e-12


def test_a_graph_of_one_unit_by_hand():
    W = torch.tensor([[0.0, 0, 0], [2, 0, 0], [1, -3, 0]])
    b = torch.tensor([9.0, 1.0, 0.5])  # the bias of an input is not used
    outputs = feedforward(W, b, torch.tensor([[1.0], [-1.0]]), torch.tensor([False, True, False]))
    assert outputs.flatten().tolist() == [1 - 9 + 0.5, -1 + 0.5]


def test_a_graph_without_hidden_units_is_linear():
    W = torch.zeros(3, 3)
    W[2, :2] = torch.tensor([2.0, -1.0])
    X = torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    assert feedforward(W, torch.zeros(3), X, torch.zeros(3, dtype=torch.bool)).flatten().tolist() == [1.0, -3.0]


def test_layers_agree_with_torch_and_with_their_graph():
    widths = [4, 6, 5, 3]
    weights = layered_weights(widths, stream(1))
    biases = [torch.randn(n, generator=stream(n), dtype=torch.float64) for n in widths[1:]]
    X = torch.randn(20, 4, generator=stream(2), dtype=torch.float64)
    modules = [m for n, k in pairwise(widths) for m in (nn.Linear(n, k), nn.ReLU())]
    model = nn.Sequential(*modules[:-1]).double()
    with torch.no_grad():
        for layer, W, b in zip(model[::2], weights, biases, strict=True):
            layer.weight.copy_(W), layer.bias.copy_(b)
        expected = model(X)
    matrix, hidden = layered_matrix(weights)
    graph_biases = torch.cat([torch.zeros(4, dtype=X.dtype), *biases])
    assert relative_error(mlp(weights, X, biases=biases), expected) < 1e-14
    assert relative_error(feedforward(matrix, graph_biases, X, hidden), expected) < 1e-13
    assert relative_error(mlp(weights, X), feedforward(matrix, 0 * graph_biases, X, hidden)) < 1e-13
    assert relative_error(mlp(weights, X, activation=torch.tanh), mlp(weights, X)) > 1e-2


def test_the_matrix_of_layers_has_their_blocks_and_nothing_else():
    weights = layered_weights([2, 3, 4, 1], stream(3))
    matrix, hidden = layered_matrix(weights)
    assert matrix.shape == (10, 10)
    assert torch.equal(matrix[2:5, :2], weights[0])
    assert torch.equal(matrix[5:9, 2:5], weights[1])
    assert torch.equal(matrix[9:, 5:9], weights[2])
    assert matrix.count_nonzero() == sum(W.numel() for W in weights)
    assert hidden.tolist() == [False] * 2 + [True] * 7 + [False]


def test_hidden_mask_orders_inputs_hidden_outputs():
    assert hidden_mask(1, 2, 1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_gaussian_weights_have_the_variance_of_their_fan_in(gain):
    weights = [W for seed in range(5) for W in layered_weights([50, 400, 100], stream(seed), gain=gain)]
    for W in weights:
        scaled = W.square().mean().item() * W.shape[1] / gain
        assert abs(scaled - 1) < 5 * (2 / W.numel()) ** 0.5  # five standard errors of a chi-squared mean
        assert abs(W.mean().item()) < 5 * (gain / W.shape[1] / W.numel()) ** 0.5


def test_random_numbers_follow_their_generator():
    first, again, other = (layered_weights([3, 4, 2], stream(s))[0] for s in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(random_dag(stream(7))[0], random_dag(stream(7))[0])


@pytest.mark.parametrize("density", [0.01, 0.6, 1.0])
@pytest.mark.parametrize("shape", [(3, 6, 2), (1, 1, 1), (1, 8, 3), (4, 2, 1)])
def test_every_hidden_unit_of_a_random_graph_lies_on_a_path(density, shape):
    inputs, free, outputs = shape
    for seed in range(10):
        W, hidden = random_dag(stream(seed), inputs=inputs, hidden=free, outputs=outputs, density=density)
        assert W.triu().count_nonzero() == 0
        assert W[:inputs].count_nonzero() == 0
        assert W[:, inputs + free :].count_nonzero() == 0
        graph = nx.DiGraph([(int(j), int(i)) for i, j in W.nonzero()])
        from_inputs = set().union(*(nx.descendants(graph, j) for j in range(inputs)))
        to_outputs = set().union(*(nx.ancestors(graph, i) for i in range(inputs + free, len(W))))
        assert set(range(inputs, inputs + free)) <= from_inputs & to_outputs
        assert set(range(inputs)) <= to_outputs
        assert set(range(inputs + free, len(W))) <= from_inputs
        assert hidden.sum() == free


def test_density_and_spread_of_a_random_graph():
    full = random_dag(stream(0), density=1.0)[0]
    assert full.count_nonzero() == 6 * 3 + 6 * 5 // 2 + 2 * 9
    sparse = sum(random_dag(stream(s), density=0.3, hidden=20)[0].count_nonzero().item() for s in range(20))
    allowed = 20 * (20 * 3 + 20 * 19 // 2 + 2 * 23)
    assert 0.28 < sparse / allowed < 0.36  # a few edges are added to keep units alive
    plain = torch.cat([random_dag(stream(s), spread=0.0)[0].flatten() for s in range(200)])
    plain = plain[plain != 0]
    assert abs(plain.std().item() - 1) < 5 / (2 * len(plain)) ** 0.5


def test_shapes_that_do_not_fit_are_refused():
    W, hidden = random_dag(stream(1))
    b = torch.zeros(len(W), dtype=W.dtype)
    with pytest.raises(ValueError, match="X has 4 columns, the graph has 3 input units"):
        feedforward(W, b, torch.zeros(2, 4, dtype=W.dtype), hidden)
    with pytest.raises(ValueError, match="strictly lower triangular"):
        feedforward(W.T, b, torch.zeros(2, 3, dtype=W.dtype), hidden)
    for widths in ([3], [3, 0, 2], []):
        with pytest.raises(ValueError, match="two layers of one unit or more"):
            layered_weights(widths, stream(0))
    for density in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="density must lie in"):
            random_dag(stream(0), density=density)

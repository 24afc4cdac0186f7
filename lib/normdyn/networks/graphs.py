"""Networks as functions of tensors: any feedforward graph (paper E's setting) and layered ones.

A graph on ``n`` units is an ``n x n`` matrix ``W`` with ``W[i, j]`` the weight into unit ``i`` from unit ``j``,
strictly lower triangular. Inputs come first, outputs last, hidden units between them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from normdyn.shapes import Bool, Float

__all__ = ["Activation", "feedforward", "hidden_mask", "layered_matrix", "layered_weights", "mlp", "random_dag"]

Activation = Callable[[Tensor], Tensor]


def feedforward(
    W: Float[Tensor, "n n"],
    b: Float[Tensor, " n"],
    X: Float[Tensor, "m d"],
    hidden: Bool[Tensor, " n"],
    *,
    activation: Activation = torch.relu,
) -> Float[Tensor, "m r"]:
    """Outputs of a feedforward graph, unit by unit in their order; output units are linear.

    Args:
        W, b: Weights and biases; biases of input units are not used.
        X: Samples are rows; ``d`` input units are the first ``d`` of the graph.
        hidden: Mask of the hidden units, which stand between inputs and outputs.

    Raises:
        ValueError: The graph has other inputs than ``X`` has columns, or is not strictly lower triangular.

    Source: Saul, eq. (3); the paper's output units share the activation, here they are linear, which changes nothing
    for a rescaling symmetry of hidden units.
    """  # fmt: skip
    inputs = int(hidden.nonzero()[0]) if hidden.any() else X.shape[1]
    if inputs != X.shape[1]:
        raise ValueError(f"X has {X.shape[1]} columns, the graph has {inputs} input units before its first hidden unit")
    if W.triu().count_nonzero():
        raise ValueError("W must be strictly lower triangular: order the units from inputs to outputs")
    values = list(X.unbind(1))
    for i in range(inputs, len(W)):
        field = torch.stack(values, 1) @ W[i, :i] + b[i]
        values.append(activation(field) if hidden[i] else field)
    return torch.stack(values[int(hidden.nonzero()[-1]) + 1 if hidden.any() else inputs :], 1)


def mlp(
    weights: Sequence[Float[Tensor, "_ _"]],
    X: Float[Tensor, "m d"],
    *,
    activation: Activation = torch.relu,
    biases: Sequence[Float[Tensor, " _"]] | None = None,
) -> Float[Tensor, "m r"]:
    """Outputs of a layered network; ``weights[l]`` is ``(fan_out, fan_in)``, the last layer is linear.

    Example:
        >>> mlp([torch.tensor([[2.0]]), torch.tensor([[3.0]])], torch.tensor([[1.0], [-1.0]])).flatten().tolist()
        [6.0, 0.0]
    """
    H = X
    for l, W in enumerate(weights):
        H = H @ W.mT if biases is None else H @ W.mT + biases[l]
        H = H if l == len(weights) - 1 else activation(H)
    return H


def layered_weights(
    widths: Sequence[int], generator: Generator, *, gain: float = 2.0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Gaussian weights of variance ``gain / fan_in`` (He et al. for 2), one matrix a layer, zero mean.

    Raises:
        ValueError: There are fewer than two widths, or one is below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must name at least two layers of one unit or more, got {list(widths)}")
    return [torch.randn(m, n, generator=generator, dtype=dtype) * (gain / n) ** 0.5 for n, m in pairwise(widths)]


def layered_matrix(weights: Sequence[Float[Tensor, "_ _"]]) -> tuple[Float[Tensor, "n n"], Bool[Tensor, " n"]]:
    """The layers as one matrix over all units, and the mask of its hidden units."""
    widths = [weights[0].shape[1]] + [W.shape[0] for W in weights]
    starts = torch.tensor([0] + widths).cumsum(0).tolist()
    matrix = weights[0].new_zeros(starts[-1], starts[-1])
    for l, W in enumerate(weights):
        matrix[starts[l + 1] : starts[l + 2], starts[l] : starts[l + 1]] = W
    return matrix, hidden_mask(widths[0], sum(widths[1:-1]), widths[-1])


def hidden_mask(inputs: int, hidden: int, outputs: int) -> Bool[Tensor, " n"]:
    """True at hidden units, in the order inputs, hidden, outputs."""
    return torch.tensor([False] * inputs + [True] * hidden + [False] * outputs)


def random_dag(
    generator: Generator,
    *,
    inputs: int = 3,
    hidden: int = 6,
    outputs: int = 2,
    density: float = 0.6,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Float[Tensor, "n n"], Bool[Tensor, " n"]]:
    """A random feedforward graph with skip connections in which every hidden unit is alive.

    Each allowed edge is present with probability ``density``; a hidden unit left without incoming or outgoing edge
    gets one. Weights are Gaussian times log-normal of log-scale ``spread`` (0: plain Gaussian). No edge leaves an
    output, none enters an input.

    Raises:
        ValueError: ``density`` is not in (0, 1].
    """  # fmt: skip
    if not 0 < density <= 1:
        raise ValueError(f"density must lie in (0, 1], got {density}")
    n = inputs + hidden + outputs
    mask = hidden_mask(inputs, hidden, outputs)
    allowed = torch.ones(n, n, dtype=torch.bool).tril(-1)
    allowed[:inputs] = False
    allowed[:, inputs + hidden :] = False
    present = (torch.rand(n, n, generator=generator) < density) & allowed
    for i in range(inputs, n):
        if not present[i].any():
            present[i, int(torch.randint(min(i, inputs + hidden), (), generator=generator))] = True
    for j in range(inputs + hidden):
        if not present[:, j].any():
            first = max(j + 1, inputs)
            present[int(torch.randint(first, n, (), generator=generator)), j] = True
    noise = torch.randn(2, n, n, generator=generator, dtype=dtype)
    return noise[0] * (spread * noise[1]).exp() * present, mask

r"""Chains of layers with an activation of its own at each junction, and the signals that pass through them.

Paper A's networks: :math:`Z_\ell = A_{\ell-1} W_\ell^\top`, :math:`A_\ell = \phi_\ell(Z_\ell)`, the last layer linear.
Samples are rows, so the paper's :math:`G \otimes A` is ``G.mT @ A``.

Source: Singh et al., section 2, and the chain rule; :func:`homogeneous_activation` is ours.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normdyn.shapes import Float

__all__ = ["Activation", "Signals", "chain", "homogeneous_activation", "signals"]

Activation = Callable[[Tensor], Tensor]


class Signals(NamedTuple):
    """What one pass forward and backward shows, one entry a layer.

    Attributes:
        inputs: ``A`` of the layer below, ``(n, fan_in)``; the first is the data.
        fields: Pre-activations ``Z``, ``(n, fan_out)``; the last is the output.
        field_gradients: ``G``, gradients of the loss in ``Z``; the last is the gradient in the output.
        gradients, bias_gradients: Of the loss in weights and biases.
        loss: Its value.
    """

    inputs: list[Tensor]
    fields: list[Tensor]
    field_gradients: list[Tensor]
    gradients: list[Tensor]
    bias_gradients: list[Tensor]
    loss: Tensor

    @property
    def output(self) -> Float[Tensor, "n c"]:
        """Of the network: the last layer's fields."""
        return self.fields[-1]

    @property
    def output_gradient(self) -> Float[Tensor, "n c"]:
        """Gradient of the loss in the network's output."""
        return self.field_gradients[-1]


def chain(
    weights: Sequence[Float[Tensor, "_ _"]],
    X: Float[Tensor, "n d"],
    activations: Sequence[Activation],
    *,
    biases: Sequence[Float[Tensor, " _"]] | None = None,
) -> Float[Tensor, "n c"]:
    """Output of the network with ``activations[l]`` after layer ``l``; the last layer is linear.

    Example:
        >>> W = torch.tensor([[2.0]])
        >>> chain([W, W], torch.tensor([[3.0]]), [torch.square]).item()
        72.0
    """
    return _forward(weights, X, activations, biases)[1][-1]


def signals(
    loss: Callable[[Tensor], Tensor],
    weights: Sequence[Float[Tensor, "_ _"]],
    X: Float[Tensor, "n d"],
    activations: Sequence[Activation],
    *,
    biases: Sequence[Float[Tensor, " _"]] | None = None,
) -> Signals:
    """Run the chain forward and the loss of its output backward; nothing returned keeps a graph.

    Args:
        loss: Output to number.

    Raises:
        ValueError: The number of activations is not one less than that of layers.
    """
    weights = [W.detach().requires_grad_() for W in weights]
    biases = None if biases is None else [b.detach().requires_grad_() for b in biases]
    inputs, fields = _forward(weights, X, activations, biases)
    value = loss(fields[-1])
    wanted = [*fields, *weights, *(biases or [])]
    gradients = torch.autograd.grad(value, wanted, materialize_grads=True)
    L = len(weights)
    detached = lambda tensors: [t.detach() for t in tensors]
    return Signals(
        detached(inputs),
        detached(fields),
        list(gradients[:L]),
        list(gradients[L : 2 * L]),
        list(gradients[2 * L :]),
        value.detach(),
    )


def homogeneous_activation(order: float | int) -> Activation:
    r"""A smooth activation of any homogeneity order: :math:`z\odot z\,\|z\|^{k-2}` for each sample.

    Not coordinate-wise, not linear, differentiable wherever a sample's fields are not all zero.

    Example:
        >>> homogeneous_activation(2)(torch.tensor([[3.0, 4.0]])).tolist()
        [[9.0, 16.0]]
        >>> homogeneous_activation(0)(torch.tensor([[4.0, 0.0]])).tolist()
        [[1.0, 0.0]]
    """
    return lambda z: z * z * z.square().sum(-1, keepdim=True) ** (order / 2 - 1)


def _forward(weights, X, activations, biases) -> tuple[list[Tensor], list[Tensor]]:
    if len(activations) != len(weights) - 1:
        raise ValueError(f"{len(weights)} layers need {len(weights) - 1} activations, got {len(activations)}")
    inputs, fields = [X], []
    for l, W in enumerate(weights):
        Z = inputs[-1] @ W.mT
        fields.append(Z if biases is None else Z + biases[l])
        if l < len(activations):
            inputs.append(activations[l](fields[-1]))
    return inputs, fields

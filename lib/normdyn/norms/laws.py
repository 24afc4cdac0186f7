r"""How layer norms and the balance between layers move: the laws of gradient flow and their exact discrete forms.

A step is ``W - learning_rate * (g + weight_decay * W)`` with ``g`` the gradient of the loss *of that step*: a
mini-batch's output and gradients belong together, and with that every law here holds for it as for the full batch.
Rates are per unit of time, learning rate times steps, so a discrete law reads (new - old) / learning_rate.

The laws ask for homogeneity, nothing else. ``output`` may therefore be any tensor through which all influence of the
layer passes: the network's output, or the output of the residual branch or of the attention head that holds the layer.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from normdyn.shapes import Float

__all__ = [
    "Number",
    "alignment",
    "bias_grades",
    "gramian_balance",
    "gramian_balance_momentum_step",
    "gramian_balance_step",
    "operator_matrix",
    "order_products",
    "squared_norm_momentum_step",
    "squared_norm_rate",
    "squared_norm_step",
    "unit_balance",
    "unit_balance_step",
]

Number = float | int

# Orders


def order_products(orders: Sequence[Number]) -> list[float]:
    r""":math:`K_\ell = \prod_{l \ge \ell} k_l` for each of the L layers, from the orders of the L - 1 activations.

    Source: Singh et al., Theorem 2, where the last order is 1.

    Example:
        >>> order_products([1, 2, 1])                    # ReLU, squared ReLU, ReLU between four layers
        [2.0, 2.0, 1.0, 1.0]
    """
    return list(accumulate(map(float, reversed(orders)), lambda a, b: a * b, initial=1.0))[::-1]


def bias_grades(orders: Sequence[Number], layer: int) -> list[float]:
    r"""Shares of the biases of layers ``layer, ..., L - 1`` in the law of ``layer``: :math:`\prod_{l\le m<j} k_m`.

    Scaling a layer by ``c`` together with each later bias by ``c`` to the power of its grade multiplies the output by
    ``c ** K``, so ``|W|^2 + sum_j grade_j |b_j|^2`` obeys Theorem 2. Layers count from 0.

    Raises:
        ValueError: There is no such layer.

    Source: ours; extends Singh et al., Theorem 2, to biases.

    Example:
        >>> bias_grades([1, 2, 1], 0)
        [1.0, 1.0, 2.0, 2.0]
    """
    if not 0 <= layer <= len(orders):
        raise ValueError(f"layer must lie between 0 and {len(orders)}, the number of activations, got {layer}")
    return list(accumulate(map(float, orders[layer:]), lambda a, b: a * b, initial=1.0))


# Norms


def alignment(output: Float[Tensor, "*s"], output_gradient: Float[Tensor, "*s"]) -> Float[Tensor, ""]:
    r""":math:`s = \langle f, -\nabla_f L\rangle`, the one number by which the loss drives every layer's norm.

    Source: Singh et al., Theorem 2, eq. (5).
    """
    return -(output * output_gradient).sum()


def squared_norm_rate(
    output: Float[Tensor, "*s"], output_gradient: Float[Tensor, "*s"], *, order: Number = 1.0
) -> Float[Tensor, ""]:
    r"""Rate of a layer's squared Frobenius norm under gradient flow, without weight decay.

    .. math:: \tfrac{d}{dt}\|W_\ell\|_F^2 = -2\,k\,\langle f, \nabla_f L\rangle

    Weight decay adds ``-2 * weight_decay * |W|^2``.

    Args:
        output: Network output on the whole training set.
        output_gradient: Gradient of the loss in the output; it carries the loss's ``1/n``.
        order: Product of homogeneity orders from this layer up; 1 for ReLU, 0 below a normalisation layer.

    Source: Singh et al., Theorem 2, eq. (5) with delta = 0. Fails for tanh.

    Example:
        >>> f = torch.tensor([3.0])                  # target 1, loss (f - 1)**2 / 2
        >>> squared_norm_rate(f, f - 1).item()
        -12.0
    """
    return 2 * order * alignment(output, output_gradient)


def squared_norm_step(
    parameters: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    output: Float[Tensor, "*s"],
    output_gradient: Float[Tensor, "*s"],
    *,
    learning_rate: Number,
    weight_decay: Number = 0.0,
    order: Number = 1.0,
    grades: Sequence[Number] | None = None,
) -> dict[str, Tensor]:
    r"""The exact law of one step of gradient descent, term by term.

    .. math:: \frac{\|W'\|^2-\|W\|^2}{\eta} = -2k\langle f,\nabla_f L\rangle - 2\delta\|W\|^2 + \eta\,\|g+\delta W\|^2

    Args:
        parameters, gradients: One layer, or the tensors of a graded sum (a layer with the biases from it upward).
            Gradients are those of the loss, without the decay term.
        output, output_gradient: Of the batch of this step.
        grades: Factors of the squares in a graded sum, see :func:`bias_grades`; all 1 unless given.

    Returns:
        ``flow``, ``decay`` and ``step``, the three terms, and ``total``, their sum: the difference quotient.

    Raises:
        ValueError: The learning rate is not positive, or the numbers of parameters, gradients and grades differ.

    Source: ours; the first two terms are Singh et al., Theorem 2. Momentum: :func:`squared_norm_momentum_step`.

    Example:
        >>> W, x, y = torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.0])    # loss (W x - y)**2 / 2
        >>> law = squared_norm_step(W, (W * x - y) * x, W * x, W * x - y, learning_rate=0.5)
        >>> law["total"].item(), ((W - 0.5 * (W * x - y) * x) ** 2 - W**2).item() / 0.5
        (-3.5, -3.5)
    """
    _positive(learning_rate)
    parameters, gradients, grades = _matched(parameters, gradients, grades)
    flow = squared_norm_rate(output, output_gradient, order=order)
    tensors = list(zip(grades, parameters, gradients, strict=True))
    nothing = torch.zeros_like(flow)
    decay = -2 * weight_decay * sum((c * W.square().sum() for c, W, _ in tensors), nothing)
    step = learning_rate * sum((c * (g + weight_decay * W).square().sum() for c, W, g in tensors), nothing)
    return {"flow": flow, "decay": decay, "step": step, "total": flow + decay + step}


def squared_norm_momentum_step(
    memory: Number | Float[Tensor, ""],
    parameter: Float[Tensor, "*p"],
    buffer: Float[Tensor, "*p"],
    output: Float[Tensor, "*s"],
    output_gradient: Float[Tensor, "*s"],
    *,
    learning_rate: Number,
    momentum: Number,
    weight_decay: Number = 0.0,
    order: Number = 1.0,
    decoupled: bool = False,
) -> dict[str, Tensor]:
    r"""The exact law of one step with heavy-ball momentum, coupled or decoupled weight decay.

    With :math:`m' = \mu m + g + \delta W` and :math:`W' = W - \eta m'`, the number
    :math:`a=\langle W, m\rangle` is all that the past contributes:

    .. math:: \frac{\|W'\|^2-\|W\|^2}{\eta} = -2k\langle f,\nabla_f L\rangle-2\delta\|W\|^2-2\mu a+\eta\|m'\|^2,
       \qquad a' = \mu a + k\langle f,\nabla_f L\rangle + \delta\|W\|^2 - \eta\|m'\|^2 .

    Decoupled decay leaves the buffer alone, :math:`W' = (1-\eta\delta)W-\eta m'`.

    Args:
        memory: ``a`` before the step; 0 at the start, then the ``memory`` returned by the previous step.
        parameter: Before the step.
        buffer: After the step, as torch keeps it (no dampening, no Nesterov).

    Returns:
        ``flow``, ``decay``, ``momentum``, ``step``, their ``total``, and the next ``memory``.

    Source: ours. Norms under momentum need no gradient, only ``|m'|`` and the alignment of output and its gradient.
    """
    _positive(learning_rate)
    kept = 1 - learning_rate * weight_decay if decoupled else 1.0
    square, flow = parameter.square().sum(), squared_norm_rate(output, output_gradient, order=order)
    coupled = 0.0 if decoupled else weight_decay
    gained = momentum * memory - flow / 2 + coupled * square  # <W, m'>
    step = learning_rate * buffer.square().sum()
    terms = {
        "flow": kept * flow,
        "decay": (-weight_decay * (1 + kept) if decoupled else -2 * weight_decay) * square,
        "momentum": -2 * kept * momentum * torch.as_tensor(memory, dtype=square.dtype, device=square.device),
        "step": step,
    }
    return terms | {"total": sum(terms.values(), torch.zeros_like(step)), "memory": kept * gained - step}


# Balance


def gramian_balance(W: Float[Tensor, "m n *k"], W_next: Float[Tensor, "r c *j"]) -> Float[Tensor, "m m"]:
    r"""Left Gramian of a layer minus right Gramian of the next.

    .. math:: B(W_\ell, W_{\ell+1}) = W_\ell W_\ell^\top - W_{\ell+1}^\top W_{\ell+1}

    Convolution kernels ``(out, in, *taps)`` are summed over taps as well: the *channel* Gramians, whose difference is
    what gradient flow balances whatever padding and stride. A linear layer that reads flattened feature maps is
    ``W_next.unflatten(1, (channels, -1))``; a bias is one more input column, ``torch.cat([W, b[:, None]], 1)``.

    Source: Singh et al., eq. (3); the convolutional reading is ours.

    Example:
        >>> gramian_balance(torch.tensor([[3.0]]), torch.tensor([[2.0], [1.0]])).item()
        4.0
    """
    _junction(W, W_next)
    return _left(W, W) - _right(W_next, W_next)


def unit_balance(
    W: Float[Tensor, "m n *k"], W_next: Float[Tensor, "r c *j"], *, order: Number = 1.0
) -> Float[Tensor, " m"]:
    r"""Squared incoming norm minus ``order`` times squared outgoing norm of each hidden unit or channel.

    With a homogeneous coordinate-wise activation of that order between the layers this keeps the law that
    :func:`gramian_balance` has without one. Source: for order 1 the diagonal of Singh et al., eq. (3); others are ours.
    """
    _junction(W, W_next)
    return W.flatten(1).square().sum(1) - order * W_next.transpose(0, 1).flatten(1).square().sum(1)


def gramian_balance_step(
    balance: Float[Tensor, "m m"],
    gradient: Float[Tensor, "m n *k"],
    gradient_next: Float[Tensor, "r c *j"],
    *,
    learning_rate: Number,
    weight_decay: Number = 0.0,
) -> Float[Tensor, "m m"]:
    r"""The balance after one step of gradient descent, exactly, where nothing nonlinear lies between the layers.

    .. math:: B' = (1-\eta\delta)^2 B + \eta^2\,(g_\ell g_\ell^\top - g_{\ell+1}^\top g_{\ell+1})

    Args:
        gradient, gradient_next: Gradients of the loss of this step, without the decay term.

    Source: ours; Singh et al., Theorem 1, is the limit of small steps.

    Example:
        >>> a, b = torch.tensor([[2.0]]), torch.tensor([[1.0]])      # loss (a b)**2 / 2, step 1/2: a, b -> 1, -1
        >>> gramian_balance_step(gramian_balance(a, b), a * b * b, b * a * a, learning_rate=0.5).item()
        0.0
    """
    _positive(learning_rate)
    _junction(gradient, gradient_next)
    source = _left(gradient, gradient) - _right(gradient_next, gradient_next)
    return (1 - learning_rate * weight_decay) ** 2 * balance + learning_rate**2 * source


def unit_balance_step(
    balance: Float[Tensor, " m"],
    gradient: Float[Tensor, "m n *k"],
    gradient_next: Float[Tensor, "r c *j"],
    *,
    learning_rate: Number,
    weight_decay: Number = 0.0,
    order: Number = 1.0,
) -> Float[Tensor, " m"]:
    """The :func:`unit_balance` after one step, exactly, with a homogeneous coordinate-wise activation between.

    Source: ours; the diagonal of Singh et al., eq. (3), after one discrete step.
    """
    _positive(learning_rate)
    source = unit_balance(gradient, gradient_next, order=order)
    return (1 - learning_rate * weight_decay) ** 2 * balance + learning_rate**2 * source


def gramian_balance_momentum_step(
    balance: Float[Tensor, "m m"],
    memory: Float[Tensor, "m m"],
    buffer: Float[Tensor, "m n *k"],
    buffer_next: Float[Tensor, "r c *j"],
    *,
    learning_rate: Number,
    momentum: Number,
    weight_decay: Number = 0.0,
    decoupled: bool = False,
) -> tuple[Float[Tensor, "m m"], Float[Tensor, "m m"]]:
    r"""Balance and memory after one step with heavy-ball momentum, exactly, without a nonlinearity between.

    The memory :math:`P = m_\ell W_\ell^\top - W_{\ell+1}^\top m_{\ell+1}` starts at zero, and

    .. math:: P_+ = \mu P + \delta B,\quad B' = B-\eta(P_++P_+^\top)+\eta^2 M,\quad P' = P_+-\eta M,

    with :math:`M = m_\ell' m_\ell'^\top - m_{\ell+1}'^\top m_{\ell+1}'`. Decoupled decay scales ``B`` by the square of
    ``1 - learning_rate * weight_decay`` and ``P`` by its first power instead. Buffers are those after the step.

    Source: ours.
    """
    _positive(learning_rate)
    kept = 1 - learning_rate * weight_decay if decoupled else 1.0
    gained = momentum * memory + (0.0 if decoupled else weight_decay) * balance
    square = _left(buffer, buffer) - _right(buffer_next, buffer_next)
    balance = kept**2 * balance - kept * learning_rate * (gained + gained.mT) + learning_rate**2 * square
    return balance, kept * gained - learning_rate * square


def operator_matrix(function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Float[Tensor, "m n"]:
    """Matrix of a linear map on tensors of this shape, for example of a convolution on feature maps.

    Args:
        function: Linear, maps a batch of inputs to a batch of outputs.
        shape: Of one input, such as ``(channels, height, width)``.

    Raises:
        ValueError: The map takes zero to something else: it has a bias.

    Source: elementary; the operators of Singh et al., section 2, in finite dimension.

    Example:
        >>> operator_matrix(lambda H: H[..., 1:] - H[..., :-1], (3,)).tolist()
        [[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]
    """
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    if function(torch.zeros_like(basis[:1])).count_nonzero():
        raise ValueError("function takes zero to something else: leave its bias out")
    return function(basis).flatten(1).mT


def _left(W: Tensor, V: Tensor) -> Tensor:
    return W.flatten(1) @ V.flatten(1).mT


def _right(W: Tensor, V: Tensor) -> Tensor:
    return W.transpose(0, 1).flatten(1) @ V.transpose(0, 1).flatten(1).mT


def _junction(W: Tensor, W_next: Tensor) -> None:
    if W.shape[0] != W_next.shape[1]:
        raise ValueError(
            f"W puts out {W.shape[0]} units and W_next takes {W_next.shape[1]}: name two consecutive layers, "
            "and unflatten a linear layer that reads feature maps"
        )


def _matched(parameters, gradients, grades) -> tuple[list[Tensor], list[Tensor], list[float]]:
    parameters, gradients = ([v] if isinstance(v, Tensor) else list(v) for v in (parameters, gradients))
    grades = [1.0] * len(parameters) if grades is None else list(grades)
    if not len(parameters) == len(gradients) == len(grades):
        raise ValueError(
            f"{len(parameters)} parameters, {len(gradients)} gradients, {len(grades)} grades: give one each"
        )
    return parameters, gradients, grades


def _positive(learning_rate: Number) -> None:
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")

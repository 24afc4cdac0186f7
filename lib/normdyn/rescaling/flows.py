r"""Flows that keep a regulariser minimal under rescaling while the loss descends, and what biases do to them.

Parameters are ``{"W": n x n, "b": n}`` of a graph (:mod:`normdyn.networks.graphs`), ``hidden`` is the mask of its
hidden units. With :math:`\omega = \log|W|` and :math:`L = E + \lambda R` the flow is

.. math:: \frac{d}{dt}\,\frac{\partial R}{\partial\omega} = -\frac{\partial L}{\partial\omega},
    \qquad\text{that is}\qquad \dot\omega = -H^{-1}\,\frac{\partial L}{\partial\omega},\quad
    H = \frac{\partial^2 R}{\partial\omega\,\partial\omega^\top}.

Hidden biases are frozen unless ``bias_speed`` is positive, output biases follow gradient flow. At a hidden unit the
imbalance :math:`Q_i` of the weights (eq. 41) then obeys, however its bias moves,

.. math:: \dot Q_i = -\lambda Q_i + b_i\,\frac{\partial E}{\partial b_i}.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from normdyn.motion.flows import Field, Params, gradient
from normdyn.networks.graphs import Activation, feedforward, random_dag
from normdyn.networks.losses import square_loss
from normdyn.rescaling.group import per_unit_regularizer, scatter, stochastic_matrix
from normdyn.shapes import Bool, Float

__all__ = [
    "Error",
    "Regularizer",
    "graph_regression",
    "log_hessian",
    "minimum_norm_flow",
    "rescaling_hessian",
    "synaptic_balance",
    "weight_balancing_flow",
]

Error = Callable[[Params], Tensor]
Regularizer = Callable[[Float[Tensor, "n n"]], Float[Tensor, ""]]


def synaptic_balance(
    W: Float[Tensor, "n n"], b: Float[Tensor, " n"], hidden: Bool[Tensor, " n"]
) -> Float[Tensor, " h"]:
    r""":math:`\Delta_i = b_i^2 + \sum_j W_{ij}^2 - \sum_j W_{ji}^2` at the hidden units, kept by gradient flow.

    Source: Saul, eq. (34).

    Example:
        >>> W = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> synaptic_balance(W, torch.tensor([0.0, 1.0, 7.0]), torch.tensor([False, True, False])).item()
        6.0
    """
    square = W.square()
    return (b.square() + square.sum(1) - square.sum(0))[hidden]


def minimum_norm_flow(
    error: Error,
    hidden: Bool[Tensor, " n"],
    *,
    p: float,
    q: float,
    strength: float = 0.0,
    bias_speed: float = 0.0,
    bias_decay: float = 0.0,
    compensate: bool = False,
    edges: Bool[Tensor, "n n"] | None = None,
) -> Field:
    r"""The weight-balancing flow of :math:`R = \|W\|_{p,q}^q / q`, at the cost of one more row sum than gradient flow.

    The Hessian has a block for each unit, :math:`H_i = \rho_i[p\,\mathrm{diag}(\pi_i) + (q-p)\,\pi_i\pi_i^\top]`, whose
    inverse is :math:`\rho_i^{-1}[\tfrac1p\,\mathrm{diag}(1/\pi_i) - \tfrac{q-p}{pq}\,11^\top]`. With
    :math:`G = \partial E/\partial W` and :math:`s_i = \sum_j |W_{ij}|^p`,

    .. math:: \dot W_{ij} = -\frac{|W_{ij}|^{2-p}}{p\,s_i^{q/p-1}}\,G_{ij}
        + \frac{q-p}{pq}\,\frac{W_{ij}}{s_i^{q/p}}\,\sum_k W_{ik} G_{ik} - \frac{\lambda}{q}\,W_{ij}:

    for every ``p`` and ``q`` the penalty acts as plain weight decay.

    Args:
        error: Maps ``{"W", "b"}`` to the unregularised error ``E``, invariant under rescaling.
        hidden: Mask of the hidden units.
        p, q: Exponents of the norm, one or more for a norm; any positive number is a flow.
        strength: The factor ``lambda`` of ``R`` in the loss.
        bias_speed: Speed ``kappa`` of the hidden biases, ``db/dt = -kappa dE/db - bias_decay b / 2``; 0 freezes them.
        bias_decay: With ``bias_decay = strength`` it is ``Q_i + b_i**2 / (2 kappa)`` that decays at rate ``strength``.
        compensate: Add the rescaling that undoes what biases do to the balance: one linear system with a row a hidden
            unit. The loss does not feel it where the weights are balanced.
        edges: Where weights may move; by default where they are not zero. For ``p < 2`` a zero weight stays zero, for
            ``p = 2`` it moves if it is an edge.

    Raises:
        ValueError: ``p``, ``q`` or an option is out of range; or, when the field is called, ``p > 2`` and an edge has
            weight zero, where the speed is infinite.

    Source: Saul, eqs. (40), (48), (63); the inverse, the biases and the compensation are ours.
    """
    _not_negative(strength=strength)
    if not (p > 0 and q > 0):
        raise ValueError(f"p and q must be positive, got {p} and {q}")

    def velocity(W: Tensor, slope: Tensor) -> Tensor:
        mask = W != 0 if edges is None else edges
        if p > 2 and (mask & (W == 0)).any():
            raise ValueError(f"an edge has weight zero, where the flow for p = {p} > 2 has infinite speed")
        total = W.abs().pow(p).sum(1, keepdim=True)
        total = torch.where(total > 0, total, torch.ones_like(total))
        first = W.abs().masked_fill(~mask, 1.0).pow(2 - p) * slope / (p * total.pow(q / p - 1))
        second = (q - p) / (p * q) * W * (W * slope).sum(1, keepdim=True) / total.pow(q / p)
        return torch.where(mask, second - first - strength / q * W, 0.0)

    coupling = (lambda W: rescaling_hessian(W, hidden, p=p, q=q)) if compensate else None
    return _flow(error, velocity, hidden, bias_speed, bias_decay, coupling)


def weight_balancing_flow(
    error: Error,
    regularizer: Regularizer,
    hidden: Bool[Tensor, " n"],
    *,
    strength: float = 0.0,
    bias_speed: float = 0.0,
    bias_decay: float = 0.0,
    compensate: bool = False,
) -> Field:
    """The weight-balancing flow of any regulariser that is twice differentiable where weights are not zero.

    Solves a linear system with one row a nonzero weight at every call: for small networks and for tests.
    Weights that are zero stay zero. Where the Hessian in ``log|W|`` is indefinite the flow exists but may ascend.

    Args:
        error, hidden, strength, bias_speed, bias_decay, compensate: As in :func:`minimum_norm_flow`.
        regularizer: Maps ``W`` to a number.

    Raises:
        ValueError: The Hessian is singular at the present weights (when the field is called): no flow, or not one.

    Source: Saul, eqs. (40), (48).
    """

    _not_negative(strength=strength)
    penalty_slope = gradient(lambda params: regularizer(params["W"]))

    def velocity(W: Tensor, slope: Tensor) -> Tensor:
        mask = W != 0
        slope = slope + strength * penalty_slope({"W": W})["W"]
        H = log_hessian(regularizer, W)
        smallest, largest = torch.linalg.svdvals(H)[[-1, 0]].tolist()
        if not smallest > 1e-13 * largest:
            raise ValueError(
                f"the regularizer's Hessian in log|W| is singular (smallest singular value {smallest:.1e}, largest "
                f"{largest:.1e}): eq. (40) does not determine the motion of the weights here"
            )
        return torch.zeros_like(W).masked_scatter(mask, W[mask] * torch.linalg.solve(H, -(W * slope)[mask]))

    def coupling(W: Tensor) -> Tensor:
        target, source = (W != 0).nonzero(as_tuple=True)
        units = torch.eye(len(W), dtype=W.dtype, device=W.device)[:, hidden]
        lever = units[target] - units[source]
        return lever.mT @ log_hessian(regularizer, W) @ lever

    return _flow(error, velocity, hidden, bias_speed, bias_decay, coupling if compensate else None)


def graph_regression(
    generator: Generator,
    *,
    activation: Activation,
    hidden_bias: float = 0.0,
    units: int = 5,
    samples: int = 20,
    loss: Callable[[Tensor, Tensor], Tensor] = square_loss,
) -> tuple[Params, Bool[Tensor, " n"], Callable[..., Tensor]]:
    """A small test bed: a random graph with three inputs and two outputs, and its error on Gaussian data.

    Args:
        activation: Of the hidden units. An adaptive integrator needs a smooth one; linear units are homogeneous too.
        hidden_bias: Standard deviation of the hidden biases; those of the outputs have 0.3.
        units, samples: Hidden units and data.
        loss: Maps outputs and targets to a number.

    Returns:
        Parameters, mask of the hidden units, and ``error(params, rows=slice(None))``. Absent edges have no gradient.

    Source: ours.
    """
    W, hidden = random_dag(generator, inputs=3, hidden=units, outputs=2, spread=0.3)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=W.dtype)
    b, X, Y = normal(len(W)), normal(samples, 3), normal(samples, 2)
    edges = W != 0

    def error(params: Params, rows=slice(None)) -> Tensor:
        outputs = feedforward(params["W"] * edges, params["b"], X[rows], hidden, activation=activation)
        return loss(outputs, Y[rows])

    return {"W": 0.7 * W, "b": b * torch.where(hidden, hidden_bias, 0.3).to(b)}, hidden, error


def log_hessian(regularizer: Regularizer, W: Float[Tensor, "n n"]) -> Float[Tensor, "k k"]:
    """Hessian of a regulariser in ``log|W|`` at the nonzero weights, in the order of ``W[W != 0]``.

    Source: the definition of ``H`` above; calculus.
    """
    mask = W != 0
    place = torch.zeros_like(mask, dtype=torch.long).masked_scatter(mask, torch.arange(int(mask.sum())))
    along = lambda omega: regularizer(W * torch.where(mask, omega[place], 0.0).exp())
    return torch.func.hessian(along)(W.new_zeros(int(mask.sum())))


def rescaling_hessian(
    W: Float[Tensor, "n n"], hidden: Bool[Tensor, " n"], *, p: float, q: float
) -> Float[Tensor, "h h"]:
    r"""Hessian of ``R`` in the logarithms of the rescaling factors: by how much a rescaling moves each imbalance.

    With :math:`D = \mathrm{diag}(\rho)` it is the Laplacian of the network plus a correction for ``p != q``,

    .. math:: p\,[D + \mathrm{diag}(\pi^\top\rho) - D\pi - \pi^\top D] + (q-p)\,(1-\pi)^\top D\,(1-\pi).

    Positive definite if every hidden unit has an incoming and an outgoing weight.

    Source: ours.
    """
    rho, pi = per_unit_regularizer(W, p=p, q=q), stochastic_matrix(W, p=p)
    rest = torch.eye(len(W), dtype=W.dtype, device=W.device) - pi
    weighted = rho[:, None] * pi
    laplacian = torch.diag(rho + rho @ pi) - weighted - weighted.mT
    return (p * laplacian + (q - p) * rest.mT @ (rho[:, None] * rest))[hidden][:, hidden]


def _flow(
    error: Error,
    velocity: Callable[[Tensor, Tensor], Tensor],
    hidden: Tensor,
    bias_speed: float,
    bias_decay: float,
    coupling: Callable[[Tensor], Tensor] | None,
) -> Field:
    """Weights by ``velocity(W, dE/dW)``, biases by gradient flow at their speed, and the compensating rescaling.

    ``coupling`` maps the weights to the Hessian of the penalty in the rescaling factors.
    """
    _not_negative(bias_speed=bias_speed, bias_decay=bias_decay)
    slope_of = gradient(error)

    def field(params: Params) -> Params:
        W, b, slope = params["W"], params["b"], slope_of(params)
        W_dot = velocity(W, slope["W"])
        b_dot = -torch.where(hidden, bias_speed * slope["b"] + bias_decay / 2 * b, slope["b"])
        if coupling is not None:
            push = (b * slope["b"])[hidden]
            zeta = scatter(-torch.linalg.solve(coupling(W), push), hidden)
            W_dot, b_dot = W_dot + W * (zeta[:, None] - zeta), b_dot + b * zeta
        return {"W": W_dot, "b": b_dot}

    return field


def _not_negative(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")

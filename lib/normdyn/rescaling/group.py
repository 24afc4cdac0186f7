r"""The rescaling group of a homogeneous network and the quantities that balance compares.

A rescaling multiplies what enters hidden unit ``i`` (weights and bias) by ``a_i > 0`` and what leaves it by
``1 / a_i``. On the ``n x n`` matrix of a feedforward graph (see :mod:`normdyn.networks.graphs`) that is
``W[i, j] * a[i] / a[j]`` with ``a = 1`` off the hidden units.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from normdyn.shapes import Bool, Float

__all__ = [
    "auxiliary_function",
    "entrywise_norm",
    "incoming_outgoing",
    "largest_safe_exponent",
    "multiplicative_update",
    "orbit_minimum",
    "orbit_regularizer",
    "per_unit_regularizer",
    "regularizer",
    "rescale",
    "rescaling_derivative",
    "rescaling_imbalance",
    "scatter",
    "stochastic_matrix",
]


def rescale(W: Float[Tensor, "n n"], b: Float[Tensor, " n"], a: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Apply the rescaling factors ``a`` (1 off the hidden units) to weights and biases.

    Raises:
        ValueError: A factor is not positive or not finite.

    Source: Saul, eqs. (6), (7).
    """
    if not ((a > 0) & a.isfinite()).all():
        raise ValueError(f"rescaling factors must be positive and finite, they range from {a.min():g} to {a.max():g}")
    return W * (a[:, None] / a), b * a


def per_unit_regularizer(W: Float[Tensor, "m n"], *, p: float, q: float) -> Float[Tensor, " m"]:
    r""":math:`\rho_i = (\sum_j |W_{ij}|^p)^{q/p}`, the share of unit ``i`` in the norm. Source: Saul, eq. (8)."""
    _positive(p=p, q=q)
    return _power(_power(W.abs(), p).sum(1), q / p)


def stochastic_matrix(W: Float[Tensor, "m n"], *, p: float) -> Float[Tensor, "m n"]:
    r""":math:`\pi_{ij} = |W_{ij}|^p / \sum_k |W_{ik}|^p`; rows sum to one, rows of units without inputs are zero.

    Source: Saul, eq. (9), whose text says columns.
    """
    _positive(p=p)
    power = _power(W.abs(), p)
    total = power.sum(1, keepdim=True)
    return power / torch.where(total > 0, total, torch.ones_like(total))


def entrywise_norm(W: Float[Tensor, "m n"], *, p: float, q: float) -> Float[Tensor, ""]:
    r""":math:`\|W\|_{p,q} = (\sum_i (\sum_j |W_{ij}|^p)^{q/p})^{1/q}`. Source: Saul, eq. (1).

    Example:
        >>> entrywise_norm(torch.tensor([[3.0, 4.0]]), p=2, q=1).item()
        5.0
    """
    _positive(p=p, q=q)
    largest = W.abs().max()
    if not largest > 0:
        return largest
    rows = _power(
        _power((W / largest).abs(), p).sum(1), 1 / p
    )  # in units of the largest entry and row: q = 512 overflows else
    return largest * rows.max() * _power(rows / rows.max(), q).sum().pow(1 / q)


def regularizer(W: Float[Tensor, "m n"], *, p: float, q: float) -> Float[Tensor, ""]:
    r""":math:`R(W) = \|W\|_{p,q}^q / q`. Source: Saul, eq. (51)."""
    return per_unit_regularizer(W, p=p, q=q).sum() / q


def incoming_outgoing(
    W: Float[Tensor, "n n"], *, p: float, q: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    r"""Both sides of the balance at each unit: :math:`\rho_i` and :math:`\sum_j \rho_j \pi_{ji}`.

    A network is balanced when they agree at every hidden unit. Source: Saul, eqs. (10), (15).
    """
    rho = per_unit_regularizer(W, p=p, q=q)
    return rho, rho @ stochastic_matrix(W, p=p)


def rescaling_imbalance(
    W: Float[Tensor, "n n"], hidden: Bool[Tensor, " n"], *, p: float, q: float
) -> Float[Tensor, " h"]:
    r""":math:`Q_i = \rho_i - \sum_j \rho_j \pi_{ji}` at the hidden units: the derivative of ``R`` in ``log a_i``.

    Source: Saul, eqs. (14), (41).
    """
    incoming, outgoing = incoming_outgoing(W, p=p, q=q)
    return (incoming - outgoing)[hidden]


def rescaling_derivative(
    function: Callable[[Float[Tensor, "n n"]], Float[Tensor, ""]], W: Float[Tensor, "n n"], hidden: Bool[Tensor, " n"]
) -> Float[Tensor, " h"]:
    r""":math:`\sum_j (W_{ij}\,\partial_{W_{ij}} K - W_{ji}\,\partial_{W_{ji}} K)` at the hidden units, by autograd.

    Zero exactly where ``K`` is stationary under rescaling. Source: Saul, Lemma 3.2, eq. (37).
    """
    flow = W * torch.func.grad(function)(W)
    return (flow.sum(1) - flow.sum(0))[hidden]


def orbit_regularizer(
    log_a: Float[Tensor, " h"], W: Float[Tensor, "n n"], hidden: Bool[Tensor, " n"], *, p: float, q: float
) -> Float[Tensor, ""]:
    r""":math:`F(\log a) = R(W')` with ``W'`` the rescaled network: strictly convex. Source: Saul, eqs. (12), (13)."""
    z = scatter(log_a, hidden)
    return regularizer(W * (z[:, None] - z).exp(), p=p, q=q)


def orbit_minimum(W: Float[Tensor, "n n"], hidden: Bool[Tensor, " n"], *, p: float, q: float) -> Float[Tensor, " n"]:
    r"""Rescaling factors of the equivalent network of least norm, by Newton's method on :math:`\log F(\log a)`.

    Knows nothing of balance: automatic derivatives of the norm and scipy's trust region. For small graphs, as the
    independent word on a minimum; :func:`normdyn.rescaling.gauge.minimum_norm` is the fast one.

    Source: ours, by convex optimisation.

    Raises:
        RuntimeError: The gradient did not vanish; a hidden unit that nothing enters or leaves has no minimum.
    """
    value = lambda z: orbit_regularizer(z, W, hidden, p=p, q=q).log()
    gradient, hessian = torch.func.grad(value), torch.func.hessian(value)
    of_numpy = lambda function: lambda z: function(torch.from_numpy(z).to(W)).cpu().numpy()
    found = minimize(
        of_numpy(value), np.zeros(int(hidden.sum())), jac=of_numpy(gradient), hess=of_numpy(hessian),
        method="trust-exact", options={"gtol": 1e-13, "maxiter": 500},
    )  # fmt: skip
    z = torch.from_numpy(found.x).to(W)
    for _ in range(100):  # the norm is flat to rounding by now; its derivatives still see units of small weights
        step = torch.linalg.solve(hessian(z), gradient(z))
        z = z - step / step.abs().max().clamp_min(1.0)
        if step.abs().max() < 1e-12:
            break
    if not (gradient(z) / hessian(z).diagonal()).abs().max() < 1e-9:
        raise RuntimeError("no minimum found, the gradient of log F does not vanish: is a hidden unit vacuous?")
    return scatter(z, hidden).exp()


def auxiliary_function(a: Float[Tensor, " n"], W: Float[Tensor, "n n"], *, p: float, q: float) -> Float[Tensor, ""]:
    r"""The separable majoriser ``G(a)`` of ``F`` whose minimiser is the paper's update. Source: Saul, eq. (19)."""
    r = max(p, q)
    rho = per_unit_regularizer(W, p=p, q=q)
    outgoing = rho @ stochastic_matrix(W, p=p)
    total = (rho * a.pow(2 * r)).sum() + (outgoing * a.pow(-2 * r)).sum()
    return total / (2 * r) + max(0.0, 1 - q / p) * rho.sum() / q


def multiplicative_update(
    W: Float[Tensor, "n n"], hidden: Bool[Tensor, " n"], *, p: float, q: float, exponent: float | None = None
) -> Float[Tensor, " n"]:
    """Rescaling factors ``(outgoing / incoming) ** exponent``, 1 off the hidden units.

    Args:
        exponent: The paper's ``1 / (4 max(p, q))`` unless given. :func:`largest_safe_exponent` is up to four times
            larger and still never increases the norm.

    Source: Saul, eq. (10).
    """
    exponent = 1 / (4 * max(p, q)) if exponent is None else exponent
    incoming, outgoing = incoming_outgoing(W, p=p, q=q)
    a = torch.ones_like(incoming)
    a[hidden] = (outgoing[hidden] / incoming[hidden]).pow(exponent)
    return a


def largest_safe_exponent(p: float, q: float) -> float:
    """The largest exponent for which the parallel update increases the norm of no network: ``1 / max(p, 2q)``.

    Source: ours, by the power-mean and Cauchy-Schwarz inequalities for ``p <= 2q`` and by Hölder's for ``p > 2q``; deep
    chains and a unit that enters a dominated row show that nothing larger is safe.

    Example:
        >>> largest_safe_exponent(2, 2), largest_safe_exponent(2, 1)
        (0.25, 0.5)
    """
    _positive(p=p, q=q)
    return 1 / max(p, 2 * q)


def scatter(values: Float[Tensor, " h"], hidden: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Values of hidden units placed among all units, zero elsewhere; differentiable.

    Source: elementary.
    """
    return values.new_zeros(len(hidden)).index_copy(0, hidden.nonzero()[:, 0], values)


def _power(x: Tensor, exponent: float) -> Tensor:
    """``x ** exponent`` for ``x >= 0``; derivatives at zero, an absent edge, are zero where they would be infinite."""
    if exponent == 1 or exponent >= 2:
        return x.pow(exponent)
    present = x > 0
    return torch.where(present, torch.where(present, x, 1.0).pow(exponent), 0.0)


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")

r"""The homogeneity order of a map, found numerically, and how far a map is from having one.

A map is positively homogeneous of order ``k`` if :math:`\phi(cx) = c^k\phi(x)` for all ``c > 0``; where it is
differentiable Euler's identity :math:`D\phi(x)\,x = k\,\phi(x)` follows. :func:`order` tests the first, over finite
factors; :func:`euler_order` and :func:`euler_residual` the second, at a point.

Source: Singh et al., Definition 1; how an order is read from numbers is ours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normdyn.shapes import Float

__all__ = ["FACTORS", "Map", "Number", "Order", "euler_order", "euler_residual", "layer_orders", "order"]

Map = Callable[[Tensor], Tensor]
Number = float | int
FACTORS = (0.25, 0.7, 1.5, 4.0)


class Order(NamedTuple):
    """A measured order, and by how much it is wrong: 0 up to rounding for a homogeneous map.

    Attributes:
        value: The order; where ``error`` is not small, the best single number for a map that has none.
        error: Largest mismatch of ``phi(c x)`` and ``c ** value * phi(x)``, relative, per unit of ``|log c|``: an
            upper bound on how far an order read off from a single factor lies from ``value``, to first order.
    """

    value: float
    error: float


def order(function: Map, x: Float[Tensor, "..."], *, factors: Sequence[Number] = FACTORS) -> Order:
    """Order of a map at ``x`` by log-ratios of output norms, with the error that the whole outputs show.

    Args:
        function: Tensor to tensor; called once at ``x`` and once for each factor.
        factors: Positive and not 1. Wide ones find a map that is homogeneous only nearby (tanh near 0).

    Raises:
        ValueError: A factor is not positive or is 1, or the output is zero or not finite, where no order shows.

    Example:
        >>> x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        >>> round(order(lambda x: torch.relu(x) ** 2, x).value, 12)
        2.0
        >>> order(torch.tanh, x).error > 0.1
        True
    """
    if not factors or any(not 0 < c < math.inf or c == 1 for c in factors):
        raise ValueError(f"factors must be positive, finite and not 1, got {list(factors)}")
    with torch.no_grad():
        base, *scaled = (function(c * x) for c in (1.0, *factors))
    logs = [_log_norm(value) for value in (base, *scaled)]
    # least squares through the origin, so that a factor near 1 does not magnify rounding
    rates = [math.log(c) for c in factors]
    value = sum(r * (l - logs[0]) for r, l in zip(rates, logs[1:], strict=True)) / sum(r * r for r in rates)
    misses = [
        (y - c**value * base).norm() / (y.norm() * abs(math.log(c))) for c, y in zip(factors, scaled, strict=True)
    ]
    return Order(value, max(misses).item())


def euler_order(function: Map, x: Float[Tensor, "..."]) -> Order:
    r"""Order at a point from the derivative: :math:`k = \langle\phi, D\phi\,x\rangle / |\phi|^2`, and the residual."""
    value, along = torch.func.jvp(function, (x,), (x,))[:2]
    _log_norm(value)
    k = ((value * along).sum() / value.square().sum()).item()
    return Order(k, ((along - k * value).norm() / value.norm()).item())


def euler_residual(function: Map, x: Float[Tensor, "..."], *, order: Number = 1.0) -> float:
    r""":math:`|D\phi(x)\,x - k\,\phi(x)| / |\phi(x)|`: zero where the map is homogeneous of order ``k``.

    Source: Singh et al., Definition 1.

    Example:
        >>> x = torch.tensor([1.0, -2.0], dtype=torch.float64)
        >>> euler_residual(torch.relu, x), euler_residual(torch.tanh, x) > 0.3
        (0.0, True)
    """
    value, along = torch.func.jvp(function, (x,), (x,))[:2]
    _log_norm(value)
    return ((along - order * value).norm() / value.norm()).item()


def layer_orders(
    function: Callable[[dict[str, Tensor]], Tensor],
    params: Mapping[str, Tensor],
    *,
    groups: Mapping[str, Mapping[str, Number]] | None = None,
    factors: Sequence[Number] = FACTORS,
) -> dict[str, Order]:
    """Order of a network's output in each parameter: the ``K`` of its norm law (Singh et al., Theorem 2).

    Args:
        function: Parameters to output, on inputs of the caller's choice.
        params: Named parameters; each is scaled alone while the others stay.
        groups: Instead of single parameters, sets of them scaled together, each by ``c`` to the power of its grade:
            ``{"layer 1": {"W1": 1, "b1": 1, "b2": 1}}``.

    Raises:
        ValueError: A group names a parameter that does not exist.

    Example:
        >>> X = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
        >>> params = {"W1": torch.eye(2, dtype=X.dtype), "W2": torch.ones(1, 2, dtype=X.dtype)}
        >>> network = lambda p: torch.relu(X @ p["W1"].mT) ** 2 @ p["W2"].mT
        >>> {name: round(k.value, 9) for name, k in layer_orders(network, params).items()}
        {'W1': 2.0, 'W2': 1.0}
    """
    groups = {name: {name: 1.0} for name in params} if groups is None else groups
    unknown = {name for group in groups.values() for name in group} - set(params)
    if unknown:
        raise ValueError(f"groups name parameters that do not exist: {sorted(unknown)}; there are {sorted(params)}")
    one = next(iter(params.values())).new_ones(())

    def scaled(group: Mapping[str, Number]) -> Map:
        return lambda c: function({name: c ** group[name] * W if name in group else W for name, W in params.items()})

    return {name: order(scaled(group), one, factors=factors) for name, group in groups.items()}


def _log_norm(value: Tensor) -> float:
    norm = value.detach().norm().item()
    if not 0 < norm < math.inf:
        raise ValueError(f"the output has norm {norm:g}: no order shows there, choose another input")
    return math.log(norm)

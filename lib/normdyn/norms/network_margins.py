r"""Normalised margins of a homogeneous classifier, whatever module it is.

If scaling the parameters by :math:`c` multiplies the outputs by :math:`c^L`, a margin :math:`q_n=f_{y_n}-\max_{j\ne
y_n}f_j` can be made as large as one likes without changing a decision. What does not move is :math:`\min_nq_n` over
:math:`\|w\|^L`, or over :math:`\prod_\ell\|W_\ell\|^{k_\ell}` where each layer has an order :math:`k_\ell` of its own,
which no rescaling of layers against each other moves either.

Orders are measured (:mod:`normdyn.networks.homogeneity`), tensor by tensor, and a network without them is refused:
hidden biases, tanh, and softmax attention have none. Weights of order 0, below a normalisation, are in no norm.

Source: Lyu and Li (2020), section 4, for the norm of all weights; Bartlett, Foster and Telgarsky (2017) and Banburski
et al. for products over layers.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normdyn.networks.homogeneity import Order, layer_orders
from normdyn.shapes import Float, Int, Shaped

__all__ = ["TOLERANCE", "NetworkMargin", "network_margin"]

TOLERANCE = 1e-6  # of a measured order, in float64


class NetworkMargin(NamedTuple):
    r"""Margins of a network on a set of samples.

    Attributes:
        margins: :math:`q_n`, ``(n,)``, float64; negative where the network is wrong.
        normalized: Least margin over the norm of all weights of positive order to the power ``order``.
        by_layers: Least margin over the product of the layers' Frobenius norms to the power of their orders.
        order: ``L``, the sum of the layers' orders.
        orders, norms: Of each parameter, by name.
    """

    margins: Float[Tensor, " n"]
    normalized: float
    by_layers: float
    order: int
    orders: dict[str, int]
    norms: dict[str, float]


def network_margin(
    model: nn.Module, inputs: Shaped[Tensor, "n ..."], labels: Int[Tensor, " n"], *, tolerance: float = TOLERANCE
) -> NetworkMargin:
    """Margins of a classifier and their least, normalised in two ways; measured on a float64 copy in evaluation mode.

    Args:
        model: Maps inputs to logits ``(n, classes)``, or ``(n, 1)`` whose sign decides between labels 0 and 1.
        inputs, labels: A sample a row; a few are enough to test the orders, the margin is that of those given.
        tolerance: On the orders, see :class:`normdyn.networks.homogeneity.Order`.

    Raises:
        ValueError: The network has no order in some parameters (they are named), the outputs are no logits for the
            labels, or they are all zero.

    Source: see the module.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
        >>> _ = [nn.init.eye_(layer.weight) for layer in (model[0], model[2])]
        >>> found = network_margin(model, torch.tensor([[3.0, 1.0], [0.0, 4.0]]), torch.tensor([0, 1]))
        >>> found.margins.tolist(), found.order, round(found.normalized, 6), round(found.by_layers, 6)
        ([2.0, 4.0], 2, 0.5, 1.0)
    """
    model = copy.deepcopy(model).double().eval()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    params = {name: p.detach() for name, p in model.named_parameters()}
    with torch.no_grad():
        margins = _margins(model(inputs), labels)
        measured = layer_orders(lambda p: torch.func.functional_call(model, p, (inputs,)), params)
    orders = {name: _whole(name, order, params, tolerance) for name, order in measured.items()}
    norms, least = {name: p.norm().item() for name, p in params.items()}, margins.min().item()
    kept, total = [name for name in params if orders[name]], sum(orders.values())
    whole = math.hypot(*(norms[name] for name in kept)) ** total
    product = math.prod(norms[name] ** orders[name] for name in kept)
    return NetworkMargin(margins, least / whole, least / product, total, orders, norms)


def _margins(outputs: Tensor, labels: Tensor) -> Float[Tensor, " n"]:
    if outputs.ndim != 2 or len(outputs) != len(labels):
        raise ValueError(
            f"model gives {tuple(outputs.shape)} for {len(labels)} labels: it must give (n, classes) logits"
        )
    classes = max(2, outputs.shape[1])
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must lie between 0 and {classes - 1}, got {labels.unique().tolist()}")
    if outputs.shape[1] == 1:
        return outputs[:, 0] * (2 * labels - 1)
    own = outputs.gather(1, labels[:, None])
    return own[:, 0] - outputs.scatter(1, labels[:, None], -math.inf).amax(1)


def _whole(name: str, order: Order, params: dict[str, Tensor], tolerance: float) -> int:
    """The order as a whole number, or an error that names what has none."""
    nearest = round(order.value)
    if order.error <= tolerance and abs(order.value - nearest) <= tolerance and nearest >= 0:
        return nearest
    cause = (
        "a bias adds a number that does not grow with the rest; build the layers with bias=False"
        if params[name].ndim == 1
        else "something above it is not homogeneous, such as a bias, tanh, sigmoid, GELU or attention"
    )
    raise ValueError(
        f"{name}: the outputs have no order in it (scaled alone, they miss c**{order.value:.3g} by {order.error:.1e}): "
        f"{cause}. No power of a norm makes the margin independent of scale"
    )

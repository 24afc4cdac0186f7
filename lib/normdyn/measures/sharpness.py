r"""Sharpness, with and without the choice of gauge.

A ReLU unit's incoming weights times :math:`a` and its outgoing ones over :math:`a` give the same function. At the new
point :math:`w'=Sw` the Hessian is :math:`S^{-1}HS^{-1}`: its largest eigenvalue, plain *sharpness*, can be made as
large as one likes, and says nothing of the function (Dinh et al., 2017). The figures here do not move:

- :func:`adaptive_sharpness` is the largest eigenvalue of :math:`|w|H|w|` (weights on the diagonal), and
  :func:`adaptive_trace` its trace :math:`\sum_iw_i^2H_{ii}`. Each weight is disturbed in its own units, and
  :math:`|Sw|\,S^{-1}HS^{-1}\,|Sw|` is the same matrix, for *any* positive diagonal symmetry: units, channels, whole
  layers, the scale of weights below a normalisation. Both cost Hessian products alone, on any module.
- :func:`least_norm_sharpness` is plain sharpness at one point of the orbit that all its points agree upon, the one of
  least norm. It needs a network that :func:`normdyn.rescaling.gauge.rebalance` can bring there.

What they are not. They are no bounds on the test error, and across models and tasks adaptive sharpness correlates with
it weakly or not at all (Andriushchenko et al., 2023). They do move under symmetries that are not diagonal (rotations of
a linear network, a shift of all logits' biases) and under another parametrisation of the same functions. They do not
see weights that are exactly zero. And Hessians of ReLU networks are those of the linear piece at ``w``.

Source: Kwon et al. (2021), eq. (3) and its second order; Tsuzuku et al. (2020) for the trace with one scale a weight;
the least norm is ours.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn

from normdyn.measures.operators import Batches, HessianProduct, Loss, flatten
from normdyn.shapes import Float

__all__ = [
    "RESTARTS",
    "Eigenvalue",
    "Trace",
    "adaptive_sharpness",
    "adaptive_trace",
    "least_norm_sharpness",
    "sharpness",
]

RESTARTS = 200  # of Lanczos' method, about twenty products each


class Eigenvalue(NamedTuple):
    r"""The largest eigenvalue of a curvature.

    Attributes:
        value: :math:`\lambda`.
        residual: :math:`\|Av-\lambda v\|/|\lambda|` for the unit vector ``v`` found: a true eigenvalue is that near.
        vector: ``v``, flat.
        products: Hessian products that it took.
    """

    value: float
    residual: float
    vector: Float[Tensor, " D"]
    products: int


class Trace(NamedTuple):
    """An estimate of a trace.

    Attributes:
        value: Mean over the probes.
        error: Standard error of that mean.
    """

    value: float
    error: float


def sharpness(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    tolerance: float | None = None,
    generator: Generator | None = None,
) -> Eigenvalue:
    r"""Plain sharpness: the largest eigenvalue of the Hessian. It moves under rescalings.

    Args:
        model, loss, batches: See :class:`normdyn.measures.operators.HessianProduct`.
        tolerance: Of Lanczos' method, relative to the eigenvalue; 1e-8 in float64 and 1e-4 below unless given.
        generator: Of the start vector; seed 0 unless given.

    Raises:
        ValueError: See :class:`normdyn.measures.operators.HessianProduct`.
        ArithmeticError: The method does not converge.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
        >>> _ = [nn.init.constant_(layer.weight, value) for layer, value in ((model[0], 4.0), (model[2], 0.25))]
        >>> data = [(torch.ones(1, 1).double(), torch.ones(1, 1).double())]
        >>> square = lambda outputs, targets: (outputs - targets).square().mean() / 2
        >>> round(sharpness(model, square, data).value, 6)                    # (4, 1/4) and (1, 1) are one function
        16.0625
        >>> round(adaptive_sharpness(model, square, data).value, 6)
        2.0
    """
    return _largest(HessianProduct(model, loss, batches), None, tolerance, generator)


def adaptive_sharpness(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    tolerance: float | None = None,
    generator: Generator | None = None,
) -> Eigenvalue:
    r"""The largest eigenvalue of :math:`|w|H|w|`, the same for all rescalings of units and layers.

    At a minimum, :math:`\tfrac12\rho^2` times it is the most by which the loss rises under disturbances with
    :math:`\|\delta/w\|\le\rho`, to second order. Weights that are zero are not disturbed.

    Args:
        model, loss, batches, tolerance, generator: As in :func:`sharpness`.

    Raises:
        ValueError: See :class:`normdyn.measures.operators.HessianProduct`.
        ArithmeticError: The method does not converge.

    Source: Kwon et al. (2021), eq. (3) with ``T_w = diag |w|``, to second order.
    """
    product = HessianProduct(model, loss, batches)
    return _largest(product, flatten(product.parameters).abs(), tolerance, generator)


def adaptive_trace(
    model: nn.Module, loss: Loss, batches: Batches, *, probes: int = 20, generator: Generator | None = None
) -> Trace:
    r""":math:`\sum_iw_i^2H_{ii}`, the same for all rescalings, by random signs.

    It is twice the mean rise of the loss, to second order, under independent relative noise of unit variance on each
    weight. With one seed, rescaled networks get the same probes and the same estimate up to rounding.

    Args:
        model, loss, batches: As in :func:`sharpness`.
        probes: Vectors of signs; one Hessian product each.
        generator: Of the signs; seed 0 unless given.

    Raises:
        ValueError: Fewer than two probes, see also :class:`normdyn.measures.operators.HessianProduct`.

    Source: Tsuzuku et al. (2020) with one scale a weight; the estimate is Hutchinson's.

    Example:
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 5.0]]))
        >>> square = lambda outputs, targets: (outputs - targets).square().mean() / 2
        >>> adaptive_trace(model, square, [(torch.eye(2).double(), torch.zeros(2, 1).double())])   # (9 + 25) / 2
        Trace(value=17.0, error=0.0)
    """
    if probes < 2:
        raise ValueError(f"probes must be at least 2 for an error, got {probes}")
    product = HessianProduct(model, loss, batches)
    scale, source = flatten(product.parameters).abs(), _generator(generator)
    found = []
    for _ in range(probes):
        signs = torch.randint(2, scale.shape, generator=source).to(scale) * 2 - 1
        found.append((scale * signs * product(scale * signs)).sum().double().item())
    values = torch.tensor(found, dtype=torch.float64)
    return Trace(values.mean().item(), (values.std() / probes**0.5).item())


def least_norm_sharpness(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    tolerance: float | None = None,
    generator: Generator | None = None,
) -> Eigenvalue:
    """Plain sharpness of the network with the least sum of squared weights among all rescalings of it.

    The model itself is not changed. The figure moves by what the least norm is missed, about the square root of the
    rounding.

    Args:
        model, loss, batches, tolerance, generator: As in :func:`sharpness`.

    Raises:
        ValueError: The network has no such symmetry, see :func:`normdyn.rescaling.gauge.rebalance`, or see
            :class:`normdyn.measures.operators.HessianProduct`.
        ArithmeticError: The method does not converge.

    Source: ours.
    """
    from normdyn.rescaling.gauge import rebalance

    return sharpness(rebalance(model).model, loss, batches, tolerance=tolerance, generator=generator)


def _largest(product: HessianProduct, scale: Tensor | None, tolerance: float | None, generator: Generator | None):
    """Largest eigenvalue by Lanczos' method; the Hessian between ``scale`` on both sides, if given."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    like = product.gradient
    tolerance = (1e-8 if like.dtype == torch.float64 else 1e-4) if tolerance is None else tolerance

    def act(v: np.ndarray) -> np.ndarray:
        vector = torch.from_numpy(np.ascontiguousarray(v).reshape(-1)).to(like)
        image = product(vector) if scale is None else scale * product(scale * vector)
        return image.double().cpu().numpy()

    size = len(like)
    start = torch.randn(size, generator=_generator(generator), dtype=torch.float64).numpy()
    if not act(start).any():  # a linear loss, or weights that are all zero
        value, vector = 0.0, start / np.linalg.norm(start)
    elif size < 3:  # too few for the method
        dense = np.stack([act(column) for column in np.eye(size)])
        values, vectors = np.linalg.eigh((dense + dense.T) / 2)
        value, vector = float(values[-1]), vectors[:, -1]
    else:
        basis = min(size, 20 if size < 10**6 else 8)  # vectors of the network's size, float64
        matrix = LinearOperator((size, size), act, dtype=float)
        try:
            values, vectors = eigsh(matrix, 1, which="LA", v0=start, tol=tolerance, ncv=basis, maxiter=RESTARTS)
        except ArpackError as error:
            raise ArithmeticError(
                f"no largest eigenvalue to a tolerance of {tolerance:g}, raise it: {error}"
            ) from error
        value, vector = float(values[0]), vectors[:, 0]
    residual = float(np.linalg.norm(act(vector) - value * vector))
    return Eigenvalue(value, residual / abs(value) if value else residual, torch.from_numpy(vector), product.calls)


def _generator(generator: Generator | None) -> Generator:
    return Generator().manual_seed(0) if generator is None else generator

r"""Weight and batch normalisation as motion of the weights that the network sees.

The network sees ``W``. A *drive* is minus the gradient of the loss in ``W``. One gradient flow in ``W``, two in a
length and a direction, and they are not the same motion of ``W``:

====================  ======================  =================================  ====================================
system                coordinates             velocity of length, direction      velocity of ``W``
====================  ======================  =================================  ====================================
polar                 ``W = rho V``           ``V.h``, ``S h / rho``             ``h``
sphere                ``W = rho V``           ``V.h``, ``rho S h``               ``V V.h + rho^2 S h``
weight normalisation  ``W = g v / |v|``       ``u.h``, ``g S h / |v|``           ``u u.h + (g/|v|)^2 S h``
====================  ======================  =================================  ====================================

with ``h`` the drive, ``u = v/|v|`` and ``S`` the projector that removes the component along the direction.
Lengths are of the whole tensor (Frobenius). Time is flow time.

Source: Banburski et al., section 6; what names no equation below is the chain rule.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from normdyn.motion.flows import Field, Params
from normdyn.shapes import Float

__all__ = [
    "VELOCITIES",
    "batch_normalization_velocity",
    "from_polar",
    "hard_margin",
    "orthogonal_part",
    "polar_velocity",
    "reparametrized",
    "seen_velocity",
    "sphere_velocity",
    "standardize_columns",
    "standardize_jacobian",
    "to_polar",
    "weight_normalization_velocity",
    "whitening",
]


def orthogonal_part(v: Float[Tensor, " *shape"], x: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """``S x``, the part of ``x`` at right angles to ``v``; the tensors are taken as vectors.

    Example:
        >>> orthogonal_part(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 5.0])).tolist()
        [0.0, 5.0]
    """
    return x - v * ((v * x).sum() / v.square().sum())


def polar_velocity(
    length: Float[Tensor, ""], direction: Float[Tensor, " *shape"], drive: Float[Tensor, " *shape"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " *shape"]]:
    """Velocity of norm and unit direction of ``W`` where ``W`` moves with ``drive``.

    Source: Banburski et al., eqs. (31), (32), (35), (36).
    """
    return (direction * drive).sum(), orthogonal_part(direction, drive) / length


def sphere_velocity(
    length: Float[Tensor, ""], direction: Float[Tensor, " *shape"], drive: Float[Tensor, " *shape"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " *shape"]]:
    """Gradient flow in length and direction, the direction kept on the sphere by projection.

    Source: Banburski et al., eqs. (26), (27), (37), with the sign of a descent.
    """
    return (direction * drive).sum(), length * orthogonal_part(direction, drive)


def weight_normalization_velocity(
    gain: Float[Tensor, ""], raw: Float[Tensor, " *shape"], drive: Float[Tensor, " *shape"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " *shape"]]:
    """Gradient flow in ``g`` and ``v`` of ``W = g v / |v|``; the norm of ``v`` is conserved.

    Source: Salimans and Kingma; Banburski et al., eqs. (24), (25), (119)-(121), with the sign of a descent.
    """
    size = raw.norm()
    return (raw * drive).sum() / size, gain / size * orthogonal_part(raw, drive)


VELOCITIES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "polar": polar_velocity,
    "sphere": sphere_velocity,
    "weight normalization": weight_normalization_velocity,
}


def to_polar(weights: Params, *, size: float | None = None) -> Params:
    """Length and direction of each tensor, ``name.length`` and ``name.direction``.

    Args:
        size: Norm of the directions: 1 unless given; weight normalisation allows any.

    Raises:
        ValueError: A tensor is zero, and has no direction, or ``size`` is not positive.
    """
    if size is not None and not 0 < size < math.inf:
        raise ValueError(f"size must be positive and finite, got {size}")
    zero = [name for name, W in weights.items() if not W.any()]
    if zero:
        raise ValueError(f"weights {zero} are zero and have no direction: start elsewhere")
    lengths = {f"{name}.length": W.norm() for name, W in weights.items()}
    return lengths | {f"{name}.direction": W / W.norm() * (size or 1.0) for name, W in weights.items()}


def from_polar(params: Params) -> Params:
    """The tensors that the network sees, from :func:`to_polar`'s names, for directions of any norm."""
    names = [name.removesuffix(".length") for name in params if name.endswith(".length")]
    directions = {name: params[f"{name}.direction"] for name in names}
    return {name: params[f"{name}.length"] * V / V.norm() for name, V in directions.items()}


def reparametrized(drive: Field, system: str) -> Field:
    """The field in :func:`to_polar`'s coordinates that a system makes of a drive in the weights.

    Args:
        drive: Minus the gradient in the weights, such as :func:`normdyn.motion.flows.gradient_flow` gives.
        system: A key of :data:`VELOCITIES`.

    Raises:
        ValueError: The system is unknown.
    """
    if system not in VELOCITIES:
        raise ValueError(f"system={system!r} is unknown, choose among {', '.join(VELOCITIES)}")

    def field(params: Params) -> Params:
        drives, out = drive(from_polar(params)), dict[str, Tensor]()
        for name, h in drives.items():
            keys = f"{name}.length", f"{name}.direction"
            out |= dict(zip(keys, VELOCITIES[system](*(params[k] for k in keys), h), strict=True))
        return {name: out[name] for name in params}

    return field


def seen_velocity(
    gain: Float[Tensor, ""], raw: Float[Tensor, " *shape"], drive: Float[Tensor, " *shape"]
) -> Float[Tensor, " *shape"]:
    """Velocity of ``W = g v / |v|`` under weight normalisation: ``u u.h + (g/|v|)^2 S h``."""
    tangent = orthogonal_part(raw, drive)
    return drive - tangent + (gain / raw.norm()) ** 2 * tangent


def standardize_columns(X: Float[Tensor, "n d"], *, epsilon: float = 0.0, center: bool = True) -> Float[Tensor, "n d"]:
    """Batch normalisation of each column without gain and shift; ``center=False`` leaves the mean in.

    Raises:
        ValueError: A column has no spread, and ``epsilon`` is zero.

    Source: Ioffe and Szegedy, Algorithm 1; Banburski et al., section 6.3, where the mean is neglected.
    """
    X = X - X.mean(0) if center else X
    scale = (X.square().mean(0) + epsilon).sqrt()
    if not scale.all():
        raise ValueError(f"X: column {int((scale == 0).nonzero()[0])} has no spread; leave it out or give an epsilon")
    return X / scale


def standardize_jacobian(
    X: Float[Tensor, "n d"], *, epsilon: float = 0.0, center: bool = True
) -> Float[Tensor, "d n n"]:
    r"""Jacobian of :func:`standardize_columns`, one ``n x n`` block a column (columns do not mix).

    Block ``d`` is :math:`\frac1{s_d}(I-\frac1n11^T-\frac1n\hat x_d\hat x_d^T)`, without the middle term if the mean
    is left in. Source: Banburski et al., section 6.3, whose Hadamard product is mended here.
    """
    n = len(X)
    hat = standardize_columns(X, epsilon=epsilon, center=center)
    shifted = X - X.mean(0) if center else X
    scale = (shifted.square().mean(0) + epsilon).sqrt()
    base = torch.eye(n, dtype=X.dtype) - (1 / n if center else 0)
    return (base - torch.einsum("nd,md->dnm", hat, hat) / n) / scale[:, None, None]


def batch_normalization_velocity(
    gain: Float[Tensor, ""], raw: Float[Tensor, " d"], drive: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " d"]]:
    r"""Gradient flow in gain and weights of one unit ``gain w.x / s``, with ``s^2 = w' C w`` over the batch.

    The unit sees ``gain w / s``, and the drive is minus the gradient in that vector. ``|w|`` is conserved.

    Args:
        covariance: ``C``, of the inputs of the batch; second moments if the mean is left in.
    """
    scale = (raw @ covariance @ raw).sqrt()
    unit = raw / scale
    along = unit @ drive
    return along, gain / scale * (drive - covariance @ unit * along)


def hard_margin(points: Float[Tensor, "n d"], metric: Float[Tensor, "d d"] | None = None) -> tuple[Tensor, Tensor]:
    """Direction of the largest margin under ``w' M w = 1``, and the dual weights of the points (they sum to one).

    Args:
        points: Samples times labels, rows.
        metric: Positive definite ``M``; the identity if not given.

    Returns:
        ``w`` scaled to ``w' M w = 1`` and the dual weights: ``M w`` is parallel to ``points.T @ dual``.

    Raises:
        ValueError: No direction separates the points, or the metric is not positive definite.

    Source: Lawson and Hanson, Solving Least Squares Problems, chapter 23: least distance as non-negative least squares.
    """
    root = torch.eye(points.shape[1], dtype=points.dtype)
    if metric is not None:
        root, info = torch.linalg.cholesky_ex(metric)
        if info:
            raise ValueError("metric must be positive definite: use fewer features or more samples")
    white = torch.linalg.solve_triangular(root, points.mT, upper=False).mT
    goal = np.zeros(points.shape[1] + 1)
    goal[-1] = 1
    dual, rest = nnls(np.vstack([white.mT.numpy(), np.ones(len(points))]), goal)
    if rest < 1e-7:
        raise ValueError("points: no direction has a positive margin on all of them")
    dual = torch.tensor(dual / dual.sum(), dtype=points.dtype)
    w = torch.linalg.solve_triangular(root.mT, (white.mT @ dual)[:, None], upper=True)[:, 0]
    return w / (root.mT @ w).norm(), dual


def whitening(C: Float[Tensor, "d d"], *, iterations: int = 40) -> Float[Tensor, "d d"]:
    """The inverse root of a covariance by Newton-Schulz iterations, which need products only.

    Raises:
        ValueError: ``C`` is not symmetric and positive definite, or the iterations did not converge.

    Source: Higham, Functions of Matrices, chapter 6; it takes the place of Banburski et al., eq. (122).
    """
    if not torch.equal(C, C.mT) or torch.linalg.cholesky_ex(C)[1]:
        raise ValueError("C must be symmetric and positive definite")
    size, eye = C.norm(), torch.eye(len(C), dtype=C.dtype)
    Y, Z = C / size, eye
    for _ in range(iterations):
        T = (3 * eye - Z @ Y) / 2
        Y, Z = Y @ T, T @ Z
    if not (Z @ Y - eye).norm() < 1e-6:
        raise ValueError(f"C is too ill-conditioned for {iterations} iterations: raise iterations")
    return Z / size.sqrt()

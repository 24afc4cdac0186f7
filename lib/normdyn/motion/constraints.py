"""Ways to keep a vector on the unit sphere of an Lp norm while a drive pushes it.

A *drive* ``g`` is step size times minus the gradient. The four steps of Banburski et al., section 5, are
:func:`lagrange_step`, :func:`coefficient_step`, :func:`tangent_step` and, for ``p = 2``, :func:`natural_step`;
:func:`weight_normalization_step` is their section 6.2 for general ``p``. All are pure functions of flat vectors.

To first order in ``g`` they are the fields of :func:`constrained_velocity`, with ``v`` the norm's gradient at ``u``:

=====================  =====================================  ================
method                 velocity                               ends where
=====================  =====================================  ================
lagrange, tangent      ``g - v (v.g) / |v|^2``                ``g`` along ``v``
weight normalisation   ``P P' g`` with ``P = I - u v'``       ``g`` along ``v``
coefficient            ``g - u (v.g)``                        ``g`` along ``u``
=====================  =====================================  ================

They are one for ``p = 2`` only, where ``v = u``.
"""

import math

import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from normdyn.shapes import Float

__all__ = [
    "UNIT",
    "Vector",
    "coefficient_step",
    "constrained_velocity",
    "lagrange_multiplier",
    "lagrange_step",
    "natural_step",
    "norm_gradient",
    "tangent_projection",
    "tangent_step",
    "weight_normalization_step",
]

Vector = Float[Tensor, " n"]
UNIT = 1e-6  # how far from one a norm may be before a step refuses it


def norm_gradient(u: Vector, p: float) -> Vector:
    r"""Gradient of the Lp norm, ``sign(u) |u|^(p-1) / ||u||_p^(p-1)``; it has inner product ``||u||_p`` with ``u``.

    Raises:
        ValueError: ``p < 1``, or the norm has no gradient here: at zero, for ``p = 1`` where an entry vanishes, for
            ``p = inf`` where two entries tie.

    Source: Banburski et al., section 5.3, remarks, for p of 1, 2 and infinity.

    Example:
        >>> norm_gradient(torch.tensor([3.0, -4.0]), 2).tolist()
        [0.6000000238418579, -0.800000011920929]
        >>> norm_gradient(torch.tensor([3.0, -4.0]), math.inf).tolist()
        [0.0, -1.0]
    """
    _exponent(p)
    size = u.abs()
    if not size.any():
        raise ValueError(f"u must not be zero: the L{p:g} norm has no gradient there")
    if p == 1:
        if not size.all():
            raise ValueError(f"u has {int((size == 0).sum())} zero entries, where the L1 norm has no gradient")
        return u.sign()
    if math.isinf(p):
        if int((size == size.max()).sum()) > 1:
            raise ValueError("u has its largest magnitude in two entries, where the maximum norm has no gradient")
        return u.sign() * (size == size.max())
    return u.sign() * (size / torch.linalg.vector_norm(u, p)) ** (p - 1)


def tangent_projection(u: Vector, g: Vector, p: float = 2) -> Vector:
    """The part of ``g`` along the level set of the norm, ``g - v (v.g) / |v|^2``.

    Source: Banburski et al., Theorem 4, eq. (22).

    Example:
        >>> tangent_projection(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 5.0])).tolist()
        [0.0, 5.0]
    """
    v = norm_gradient(u, p)
    return g - v * (v @ g) / (v @ v)


def constrained_velocity(u: Vector, g: Vector, p: float = 2, *, method: str) -> Vector:
    """The flow that a method follows for small steps, for ``u`` of unit norm; the table of this module.

    Raises:
        ValueError: The method is none of the four, or ``u`` is not of unit norm.

    Source: ours; the limits of the steps of Banburski et al., section 5, as the step becomes small.
    """
    _unit(u, p)
    v = norm_gradient(u, p)
    match method:
        case "lagrange" | "tangent":
            return g - v * (v @ g) / (v @ v)
        case "weight":
            raw = g - v * (u @ g)
            return raw - u * (v @ raw)
        case "coefficient":
            return g - u * (v @ g)
    raise ValueError(f"method must be lagrange, coefficient, tangent or weight, got {method!r}")


def tangent_step(u: Vector, g: Vector, p: float = 2) -> Vector:
    """A step along the tangent; it leaves the sphere by a term of second order.

    Source: Banburski et al., Theorem 4, eq. (22).
    """
    return u + tangent_projection(u, g, p)


def coefficient_step(u: Vector, g: Vector, p: float = 2) -> Vector:
    """A free step, then division by the norm. Source: Banburski et al., section 5.2."""
    _exponent(p)
    free = u + g
    return free / torch.linalg.vector_norm(free, p)


def lagrange_multiplier(u: Vector, g: Vector, p: float = 2) -> float:
    r"""The multiplier for which ``u + g - lambda p sign(u) |u|^(p-1)`` has unit norm: the root next to zero step.

    For ``p = 2`` it is ``(1 - alpha) / 2`` with alpha of eq. (20); else it is found by bracketing to rounding.

    Raises:
        ValueError: ``p`` is 1 or infinite, ``u`` is not of unit norm, or the step is too large: no multiplier exists.

    Source: Banburski et al., eqs. (16)-(20); the sign of the multiplier's term is that of minus the gradient.
    """
    _unit(u, p)
    if p == 1 or math.isinf(p):
        raise ValueError(f"p must lie strictly between 1 and infinity for a Lagrange step, got {p}")
    if p == 2:
        along, square = (u @ g).item(), 1 - (g @ g).item() + (u @ g).item() ** 2
        if square < 0:
            raise ValueError(f"the step is too large: its tangent part has length {math.sqrt(1 - square):.3g} > 1")
        return (1 - math.sqrt(square) + along) / 2
    normal = p * norm_gradient(u, p)
    excess = lambda m: torch.linalg.vector_norm(u + g - m * normal, p).item() - 1
    deepest = _lowest(excess, ((normal @ (u + g)) / (normal @ normal)).item())
    if excess(deepest) > 0:
        raise ValueError(f"the step is too large: no multiple of the normal brings the L{p:g} norm to one")
    reach = 1.0
    while excess(deepest - reach) <= 0:
        reach *= 2
    return brentq(excess, deepest - reach, deepest, xtol=1e-16, rtol=1e-15)


def lagrange_step(u: Vector, g: Vector, p: float = 2) -> Vector:
    """A step with the multiplier that keeps the norm at one exactly.

    Source: Banburski et al., eqs. (16)-(20), by :func:`lagrange_multiplier`.

    Example:
        >>> u, g = torch.tensor([[1.0, 0.0], [9.0, 0.6]], dtype=torch.float64)
        >>> [round(x, 12) for x in lagrange_step(u, g).tolist()]      # the unit vector above the tangent part 0.6
        [0.8, 0.6]
    """
    return u + g - lagrange_multiplier(u, g, p) * p * norm_gradient(u, p)


def natural_step(u: Vector, g: Vector) -> Vector:
    """The great circle in the direction of the tangent part, for ``p = 2``: ``u cos|t| + t sin|t| / |t|``.

    Source: the "true gradient" of Banburski et al., section 5, after Douglas, Amari and Kung.
    """
    _unit(u, 2)
    t = tangent_projection(u, g)
    return u * torch.cos(t.norm()) + t * torch.sinc(t.norm() / math.pi)


def weight_normalization_step(u: Vector, g: Vector, p: float = 2) -> Vector:
    """A gradient step of ``u / ||u||_p`` as a function of raw ``u``, of any norm; returns the new raw vector.

    ``g`` is step size times minus the gradient in the normalised vector. The flow keeps the *Euclidean* norm of the
    raw vector for every ``p``. Source: Banburski et al., eq. (25), where p = 2.
    """
    size = torch.linalg.vector_norm(u, p)
    return u + (g - norm_gradient(u, p) * (u @ g) / size) / size


def _exponent(p: float) -> None:
    if not p >= 1:
        raise ValueError(f"p must be at least 1 for a norm, got {p}")


def _unit(u: Tensor, p: float) -> None:
    _exponent(p)
    size = torch.linalg.vector_norm(u, p).item()
    if not abs(size - 1) < UNIT:
        raise ValueError(f"u must have unit L{p:g} norm, got {size:.6g}: divide by the norm first")


def _lowest(convex, start: float) -> float:
    """Minimiser of a convex function of one number, near ``start``."""
    return minimize_scalar(convex, bracket=(start - 0.5, start + 0.5), tol=1e-12).x

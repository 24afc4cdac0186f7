r"""Rates at which a linear classifier under the exponential loss turns to its maximum margin.

``points`` are samples times labels. The network sees ``w``, the loss is ``sum_n exp(-w.x_n)`` and the drive, minus its
gradient, is ``h``. Weight and batch normalisation turn the motion of their parameters into a motion of ``w`` alone,
so all three flows have ``w`` as their state (:func:`predictor_velocity`). Time is ``s = log(1 + t)``: margins grow as
``s``, so the state is followed in a frame that moves with it, ``w = s c + r``. The frame ``c`` may be any vector and
does not change the result. With the hard-margin vector as frame the residual ``r`` stays moderate and nothing cancels,
up to ``t = e^(10^5)`` for gradient flow. The stiffness of the normalised flows grows like ``s^2``, and ``t = e^(10^4)``
is their end.

The hard-margin ``vector`` has least norm under ``w.x_n >= 1``, and ``vector = sum_n dual_n x_n``.

Source: the flows are those of Banburski et al., sections 6 and 8.1; the frame, the exponents of decay and the closed
forms are ours where no equation is named.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from normdyn.shapes import Float

__all__ = [
    "SYSTEMS",
    "decay_exponents",
    "direction_error",
    "follow",
    "limit_residual",
    "normalized_margin",
    "one_point",
    "one_point_normalized",
    "predictor_velocity",
    "symmetric_pair",
]

SYSTEMS = ("gradient", "weight normalization", "batch normalization")


def normalized_margin(
    points: Float[Tensor, "n d"], w: Float[Tensor, "*b d"], metric: Float[Tensor, "d d"] | None = None
) -> Float[Tensor, "*b"]:
    """Least margin of ``w`` over its length, the latter in a metric if one is given.

    Example:
        >>> normalized_margin(torch.eye(2), torch.tensor([3.0, 4.0])).item()  # doctest: +ELLIPSIS
        0.6...
    """
    squares = (w * (w if metric is None else w @ metric)).sum(-1)
    return (w @ points.mT).amin(-1) / squares.sqrt()


def predictor_velocity(
    w: Float[Tensor, " d"],
    drive: Float[Tensor, " d"],
    system: str = "gradient",
    *,
    metric: Float[Tensor, "d d"] | None = None,
    size: float = 1.0,
) -> Float[Tensor, " d"]:
    r"""Velocity of the vector that the network sees.

    With :math:`g^2=w^\top Mw`, :math:`u=w/g`, :math:`P=I-uu^\top M`, and raw weights of norm ``size``,

    .. math:: \dot w = u\,u^\top h + \frac{|w|^2}{\mathrm{size}^2}\,P P^\top h

    is batch normalisation over a batch with second moments ``M``; weight normalisation is ``M = I``.

    Raises:
        ValueError: The system is unknown, batch normalisation has no metric, or another system has one.

    Source: Banburski et al., eqs. (24), (25) with the sign of a descent, and section 8.1.

    Example:
        >>> predictor_velocity(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]), "weight normalization").tolist()
        [1.0, 4.0]
    """
    _check_system(system, metric, size)
    return _velocity(w, drive, system, metric, size)


def follow(
    points: Float[Tensor, "n d"],
    start: Float[Tensor, " p"],
    log_times: Float[Tensor, " k"] | Sequence[float],
    *,
    system: str = "gradient",
    frame: Float[Tensor, " d"] | None = None,
    metric: Float[Tensor, "d d"] | None = None,
    size: float = 1.0,
    relative: float = 1e-8,
) -> dict[str, Tensor]:
    """Follow a flow from ``t = 0`` and record at given ``s = log(1 + t)``.

    Args:
        points: Samples times labels, rows.
        start: ``w`` at ``t = 0``.
        log_times: Increasing, positive; ``690`` is ``t = 1e300``, see the module's text for the end.
        system: One of :data:`SYSTEMS`.
        frame: ``c`` in ``w = s c + r``; the hard-margin vector for long times, zero if not given.
        metric: Second moments of the batch, for batch normalisation.
        size: Norm of the raw weights under a normalisation.
        relative: Tolerance of one step.

    Returns:
        ``log_times``, ``residual`` (``r``), and ``vector`` (``w``); one row a time.

    Raises:
        ValueError: Shapes or times do not fit, or see :func:`predictor_velocity`.
    """  # fmt: skip
    _check_system(system, metric, size)
    s = torch.as_tensor(log_times, dtype=torch.float64)
    if s.ndim != 1 or len(s) < 1 or not s[0] > 0 or (s.diff() <= 0).any():
        raise ValueError(f"log_times must be positive and increase, got {s.flatten().tolist()[:3]}")
    if start.shape != points.shape[1:]:
        raise ValueError(f"start has shape {tuple(start.shape)}, points have {points.shape[1]} columns")
    X, c = points.double().numpy(), (torch.zeros_like(start) if frame is None else frame).double().numpy()
    M, lead = None if metric is None else metric.double().numpy(), X @ c - 1

    def rate(now: float, r: np.ndarray) -> np.ndarray:
        drive = np.exp(-(X @ r) - now * lead) @ X
        return _velocity(now * c + r, drive, system, M, size) - c

    def jacobian(now: float, r: np.ndarray) -> np.ndarray:
        """By complex steps, exact to rounding: differences would drown in the stiffness."""
        return np.stack([rate(now, r + 1e-30j * e).imag / 1e-30 for e in np.eye(len(r))], axis=1)

    first = start.double().numpy()
    residual = torch.from_numpy(_march(rate, first, s.tolist(), relative, relative / 100, jacobian))
    return {"log_times": s, "residual": residual, "vector": s[:, None] * torch.from_numpy(c) + residual}


def direction_error(path: dict[str, Tensor], vector: Float[Tensor, " d"]) -> Float[Tensor, " k"]:
    """Angle between the recorded ``w`` and ``vector``, from the residual: no digits are lost for small angles.

    ``path`` must come from :func:`follow` with ``frame=vector``.
    """
    unit = vector / vector.norm()
    along = path["residual"] @ unit
    across = (path["residual"] - along[:, None] * unit).norm(dim=1)
    return torch.atan2(across, path["log_times"] * vector.norm() + along)


def limit_residual(
    points: Float[Tensor, "n d"], dual: Float[Tensor, " n"], *, threshold: float = 1e-9
) -> Float[Tensor, " d"]:
    r"""The limit of ``w - vector log t`` in the span of the points with a dual weight: ``exp(-r.x_n) = dual_n``.

    Source: Soudry et al., Theorem 4; for weight normalisation it holds up to the part along ``vector``.
    """
    kept = dual > threshold * dual.max()
    return torch.linalg.lstsq(points[kept], -dual[kept].log()[:, None], driver="gelsd").solution[:, 0]


def decay_exponents(
    points: Float[Tensor, "n d"], vector: Float[Tensor, " d"], dual: Float[Tensor, " n"]
) -> Float[Tensor, " m"]:
    r"""Positive eigenvalues of :math:`\sum_n\alpha_ny_ny_n^\top`, with ``y_n`` the part of ``x_n`` across ``vector``.

    They are the powers of ``1/t`` with which gradient flow relaxes across the maximum margin, in increasing order.
    """
    across = points - torch.outer(points @ vector, vector) / vector.square().sum()
    values = torch.linalg.eigvalsh(across.mT * dual @ across)
    return values[values > 1e-10 * max(values.max().item(), 1.0)]


def one_point(
    x: Float[Tensor, " d"], start: Float[Tensor, " d"], log_times: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    r"""Logarithm of the tangent of the angle between ``w`` and one point under gradient flow, in closed form.

    .. math:: \tan\theta=\frac{|x|\,|w_\perp(0)|}{\log(e^{w(0)\cdot x}+|x|^2t)}

    Args:
        log_times: ``log t``; ``1e300`` is no trouble.

    Raises:
        ValueError: The point has not been separated at some of the times, so the angle is a right one or more.

    Source: Banburski et al., section 8.1, whose :math:`1/\log t` it makes exact.

    Example:
        >>> e1, e2 = torch.eye(2, dtype=torch.float64)
        >>> one_point(e1, e2, torch.tensor([10.0], dtype=torch.float64)).exp().item()  # doctest: +ELLIPSIS
        0.09999...
    """
    margin = torch.logaddexp(start @ x, 2 * x.norm().log() + log_times)
    if not (margin > 0).all():
        raise ValueError(f"log_times: the point is not separated before {log_times[margin <= 0].max():g}, start later")
    return _across(start, x).norm().log() + x.norm().log() - margin.log()


def one_point_normalized(
    x: Float[Tensor, " d"], start: Float[Tensor, " d"], log_times: Float[Tensor, " k"], *, size: float = 1.0
) -> dict[str, Tensor]:
    r"""Weight normalisation on one point: length ``g`` and logarithm of the sine of the angle.

    :math:`\sin\theta\,e^{g^2/2\,\mathrm{size}^2}` is conserved. This leaves one equation, for ``g |x| - s``.

    Args:
        log_times: ``log(1 + t)``, positive, increasing.
        size: Norm of the raw weights ``v``.

    Returns:
        ``log_times``, ``length``, ``log_sine``.

    Raises:
        ValueError: The start does not separate the point.
    """
    norm, g0 = x.norm().item(), start.norm().item()
    if not start @ x > 0:
        raise ValueError(f"start has margin {float(start @ x):g} on the point, it must be positive")
    constant = math.log(_across(start, x).norm().item() / g0) + g0**2 / (2 * size**2)

    def rate(s: float, lag: np.ndarray) -> np.ndarray:
        g = (s + lag) / norm
        sine2 = np.exp(2 * np.minimum(constant - g**2 / (2 * size**2), 0.0))
        cosine = np.sqrt(1 - sine2)
        return norm**2 * cosine * np.exp(g * norm * sine2 / (1 + cosine) - lag) - 1

    s = torch.as_tensor(log_times, dtype=torch.float64)
    lag = torch.from_numpy(_march(rate, np.array([g0 * norm]), s.tolist(), 1e-11, 1e-12))[:, 0]
    g = (s + lag) / norm
    return {"log_times": s, "length": g, "log_sine": constant - g**2 / (2 * size**2)}


def symmetric_pair(
    slope: float, start: tuple[float, float], log_times: Float[Tensor, " k"], *, system: str = "gradient"
) -> dict[str, Tensor]:
    r"""Two points ``(1, b)`` and ``(1, -b)``, with equal dual weights: log of the tangent of the angle to ``(1, 0)``.

    The state is ``w_1 - s`` and the logarithm of the tangent, so the angle may be as small as :math:`e^{-10^{12}}`.

    Args:
        slope: ``b``, positive.
        start: ``w`` at ``t = 0``, positive entries.
        log_times: ``log(1 + t)``, positive, increasing.
        system: ``gradient`` or ``weight normalization`` (``|v| = 1``).

    Raises:
        ValueError: ``slope`` or an entry of ``start`` is not positive, or the system is another.
    """
    _check_system(system, None, 1.0)
    p0, q0 = start
    if not (slope > 0 and p0 > 0 and q0 > 0):
        raise ValueError(f"slope and both entries of start must be positive, got {slope}, {start}")

    def rate(s: float, state: np.ndarray) -> np.ndarray:
        lag, log_tan = state
        p, tan = s + lag, np.exp(min(log_tan, 300.0))
        B = slope * p * tan
        even, odd = 2 * np.exp(-lag) * np.cosh(B), -2 * slope**2 * np.exp(-lag) * _sinhc(B)  # h_1, h_2 / w_2
        if system == "gradient":
            return np.array([even - 1, odd - even / p])
        cos2, g2 = 1 / (1 + tan**2), p**2 * (1 + tan**2)
        along = cos2 * (even + p * tan**2 * odd)  # u.h cos, of w_1
        turn = g2 * (odd - even / p)  # rate of log tan
        return np.array([along - p * tan**2 * turn * cos2 - 1, turn])

    s = torch.as_tensor(log_times, dtype=torch.float64)
    kept = torch.from_numpy(_march(rate, np.array([p0, math.log(q0 / p0)]), s.tolist(), 1e-11, 1e-12))
    return {"log_times": s, "along": s + kept[:, 0], "log_tangent": kept[:, 1]}


def _velocity(w, drive, system, metric, size):
    """As :func:`predictor_velocity`, for tensors and arrays, without the checks."""
    if system == "gradient":
        return drive
    image = w if metric is None else metric @ w
    square = w @ image
    across = drive - image * ((w @ drive) / square)
    across = across - w * ((image @ across) / square)
    return w * ((w @ drive) / square) + across * ((w @ w) / size**2)


def _march(rate, state: np.ndarray, times: list[float], relative: float, absolute: float, jacobian=None) -> np.ndarray:
    """States at increasing times, from zero, by an implicit method that ends a step at each of them."""
    now, kept = 0.0, []
    for end in times:
        solution = solve_ivp(rate, (now, end), state, method="Radau", rtol=relative, atol=absolute, jac=jacobian)
        if not solution.success:
            raise RuntimeError(f"{solution.message} (reached log time {solution.t[-1]:g})")
        state, now = solution.y[:, -1], end
        kept.append(state)
    return np.array(kept)


def _sinhc(B: float) -> float:
    return 1 + B * B / 6 if abs(B) < 1e-4 else np.sinh(B) / B


def _across(w: Tensor, x: Tensor) -> Tensor:
    return w - x * (w @ x) / x.square().sum()


def _check_system(system: str, metric: Tensor | None, size: float) -> None:
    if system not in SYSTEMS:
        raise ValueError(f"system={system!r} is unknown, choose among {', '.join(SYSTEMS)}")
    if (metric is not None) != (system == "batch normalization"):
        raise ValueError(f"metric is for batch normalization and needed there, system is {system!r}")
    if not 0 < size < math.inf:
        raise ValueError(f"size must be positive and finite, got {size}")

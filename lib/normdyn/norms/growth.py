r"""How layer norms and their product grow on one separated point under the exponential loss.

A network of ``K`` layers, homogeneous of order one in each, puts out :math:`\rho_1\cdots\rho_K\tilde f` on the point,
the *margin* :math:`\tilde f` being that of the normalised layers, which have come to rest. All squares grow alike,
:math:`\tfrac12\frac{d}{dt}\rho_k^2=y\,e^{-y}` with the output :math:`y=\tilde f\prod_k\rho_k`. For equal norms

.. math:: \dot y = K\tilde f^{2/K}\,y^a e^{-y},\qquad a=2-\tfrac2K,

so that :math:`\int e^yy^{-a}dy` is linear in time: a logarithm, a logarithmic integral or an incomplete gamma function.
``depth=math.inf`` is the limit of many layers, in the time ``K t``. Source: Banburski et al., section 14.5.1, with the
factor ``K`` where eqs. (98)-(100) have ``K^2``.
"""

import math
from collections.abc import Sequence

import mpmath
import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from torch import Tensor

from normdyn.shapes import Float

__all__ = [
    "DIGITS",
    "antiderivative",
    "asymptotic_output",
    "follow_norms",
    "follow_output",
    "log_output_time",
    "output",
    "rate_exponent",
    "rate_factor",
]

DIGITS = 40  # of mpmath: antiderivatives are subtracted


def rate_exponent(depth: float) -> float:
    """``a``, the power of the output in its own rate: 0 for one layer, 1 for two, 2 for very many.

    Raises:
        ValueError: ``depth`` is neither a whole number of layers nor infinite.

    Example:
        >>> rate_exponent(1), rate_exponent(2), rate_exponent(math.inf)
        (0.0, 1.0, 2.0)
    """
    if not (depth == math.inf or (depth >= 1 and depth == int(depth))):
        raise ValueError(f"depth must be a whole number of layers, one or more, or math.inf, got {depth}")
    return 2 - 2 / depth


def rate_factor(depth: float, margin: float) -> float:
    """``K margin^(2/K)``; one for infinite depth, whose time is ``K t``.

    Raises:
        ValueError: ``depth`` is no depth, or ``margin`` is not positive and finite.
    """
    rate_exponent(depth)
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be positive and finite, got {margin}: the point has to be separated")
    return 1.0 if depth == math.inf else depth * margin ** (2 / depth)


def antiderivative(y: float, depth: float) -> mpmath.mpf:
    r"""A primitive of :math:`e^yy^{-a}`: ``exp(y) - 1``, ``Ei(y) = li(exp(y))``, or Kummer's incomplete gamma.

    Example:
        >>> round(float(antiderivative(1.0, 1)), 6), round(float(antiderivative(2.0, 2)), 6)
        (1.718282, 4.954234)
    """  # fmt: skip
    a, y = rate_exponent(depth), mpmath.mpf(y)
    with mpmath.workdps(DIGITS):
        if a == 1:
            return mpmath.ei(y)
        if a == 2:
            return mpmath.ei(y) - mpmath.exp(y) / y
        b = mpmath.mpf(2) / int(depth) - 1
        return y**b / b * mpmath.hyp1f1(b, b + 1, y)


def log_output_time(y: float, depth: float, *, margin: float, start: float) -> float:
    """Logarithm of the time at which the output has grown from ``start`` to ``y``."""
    with mpmath.workdps(DIGITS):
        gained = antiderivative(y, depth) - antiderivative(start, depth)
        return float(mpmath.log(gained / rate_factor(depth, margin)))


def output(
    log_times: Float[Tensor, " k"], depth: float, *, margin: float = 1.0, start: float = 1.0
) -> Float[Tensor, " k"]:
    """The output ``y`` at given ``log t``, from the closed form; ``start`` is the output at ``t = 0``.

    Raises:
        ValueError: Depth, margin or start is not positive.

    Example:
        >>> round(output(torch.tensor([5.0], dtype=torch.float64), 1).item() - math.log(math.e + math.exp(5)), 12)
        0.0
    """
    factor = rate_factor(depth, margin)
    _check_start(start)
    if depth == 1:
        return torch.logaddexp(torch.as_tensor(start, dtype=torch.float64), log_times + math.log(factor))

    def reached(target: float) -> float:
        miss = lambda y: max(log_output_time(y, depth, margin=margin, start=start) - target, -1e3)
        above = 2 * max(start, 1.0)
        while miss(above) < 0:
            above *= 2
        return brentq(miss, start * (1 + 1e-14), above, xtol=1e-15 * above, rtol=1e-14)

    return torch.tensor([reached(s) for s in log_times.tolist()], dtype=torch.float64)


def follow_output(
    log_times: Float[Tensor, " k"], depth: float, *, margin: float = 1.0, start: float = 1.0
) -> Float[Tensor, " k"]:
    """The output at given ``s = log(1 + t)``, integrated: the state is ``y - s``, and nothing overflows."""
    factor, a = rate_factor(depth, margin), rate_exponent(depth)
    _check_start(start)
    shift = math.log(factor)
    rate = lambda s, lag: np.expm1(shift + a * np.log(s + lag) - lag)  # no rounding where y - s has come to rest
    lags = _march(rate, np.array([float(start)]), log_times.tolist())[:, 0]
    return log_times + torch.from_numpy(lags)


def asymptotic_output(log_times: Float[Tensor, " k"], depth: float, *, margin: float = 1.0) -> Float[Tensor, " k"]:
    r"""Two terms and the constant of the output at late times: :math:`\log t+a\log\log t+\log(K\tilde f^{2/K})`."""
    return log_times + rate_exponent(depth) * log_times.log() + math.log(rate_factor(depth, margin))


def follow_norms(
    log_times: Float[Tensor, " t"], norms: Sequence[float] | Float[Tensor, " k"], *, margin: float = 1.0
) -> Float[Tensor, "t k"]:
    """Layer norms at given ``s = log(1 + t)`` from an unequal start: all squares gain the same.

    Raises:
        ValueError: A norm is not positive: a layer at zero stops the others for ever.
    """
    squares = np.square(np.asarray(norms, dtype=float))
    if not (np.asarray(norms) > 0).all():
        raise ValueError(f"norms must be positive, got {list(norms)}")
    rate_factor(len(squares), margin)

    def rate(s: float, log_gain: np.ndarray) -> np.ndarray:
        gain = np.exp(log_gain)
        y = margin * np.sqrt(np.prod(squares + gain))
        return 2 * y * np.exp(s - y) / gain

    y0 = margin * math.sqrt(np.prod(squares))
    first = 1e-12 * squares.min()  # the gain of a short time before the clock starts
    begin = first / (2 * y0 * math.exp(-y0))
    log_gain = _march(rate, np.array([math.log(first)]), log_times.tolist(), begin=math.log1p(begin))
    return torch.from_numpy(np.sqrt(squares + np.exp(log_gain)))


def _march(rate, state: np.ndarray, times: list[float], begin: float = 0.0) -> np.ndarray:
    if not times or not times[0] > begin or any(b <= a for a, b in zip(times, times[1:], strict=False)):
        raise ValueError(f"log_times must be positive and increase, got {times[:3]}")
    now, kept = begin, []
    for end in times:
        solution = solve_ivp(rate, (now, end), state, method="LSODA", rtol=1e-12, atol=1e-13)
        if not solution.success:
            raise RuntimeError(f"{solution.message} (reached log time {solution.t[-1]:g})")
        state, now = solution.y[:, -1], end
        kept.append(state)
    return np.array(kept)


def _check_start(start: float) -> None:
    if not 0 < start < math.inf:
        raise ValueError(f"start must be positive and finite, got {start}: at zero layers do not move")

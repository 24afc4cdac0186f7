r"""Growth of layer norms on one point under the exponential loss, in closed form and as a flow in logarithmic time.

``K`` layers, homogeneous of order one each, one point with normalised output ``f`` (the *margin*): the output is
``y = f rho_1 ... rho_K`` and every layer obeys ``rho_k rho_k' = y exp(-y)``. For equal norms

.. math:: \dot y = \alpha\,y^{p}e^{-y},\qquad \alpha=K f^{2/K},\quad p=2-\frac2K,

so that :math:`G_p(y)-G_p(y_0)=\alpha t` with :math:`G_p(y)=\int^y e^z z^{-p}dz`: the exponential for one layer, the
logarithmic integral of ``R = exp(y)`` for two, an incomplete gamma function in general. The printed equations have
``K^2`` in place of ``K``. Times are flow time and enter as logarithms, so there is no last one.

Source: Banburski et al., section 14.5.1, eqs. (96)-(100).
"""

import math
from collections.abc import Sequence

import mpmath
import torch
from jaxtyping import Float
from torch import Tensor

from normdyn.flows import Field, Params


def rate_constant(layers: float, margin: float, *, printed: bool = False) -> float:
    r"""``alpha = K f^(2/K)`` of :math:`\dot y=\alpha y^{2-2/K}e^{-y}`; as printed, in eq. (100), ``K^2 f^(2/K)``.

    Raises:
        ValueError: ``layers`` is below one or not finite, or ``margin`` is not positive.
    """
    if not 1 <= layers < math.inf:
        raise ValueError(f"layers must be one or more and finite, got {layers}: alpha has no limit")
    if not 0 < margin < math.inf:
        raise ValueError(f"margin must be positive and finite, got {margin}")
    return layers ** (2 if printed else 1) * margin ** (2 / layers)


def antiderivative(y: mpmath.mpf | float, layers: float) -> mpmath.mpf:
    r""":math:`G_p(y)`, ``p = 2 - 2/K``, up to a constant; for ``math.inf`` layers ``li(R) - R/log R``.

    Raises:
        ValueError: ``y`` is not positive.

    Example:
        >>> antiderivative(1.0, 2) == mpmath.li(mpmath.e)
        True
    """
    if not y > 0:
        raise ValueError(f"y must be positive, got {y}: the point is not separated")
    y = mpmath.mpf(y)
    if layers == 1:
        return mpmath.exp(y)
    if layers == 2:
        return mpmath.ei(y)
    if layers == math.inf:
        return mpmath.ei(y) - mpmath.exp(y) / y
    a = mpmath.mpf(2) / layers - 1  # 1 - p
    return y**a / a * mpmath.hyp1f1(a, a + 1, y)


def growth_time(outputs: Sequence[float], *, layers: int, margin: float, start: float) -> list[float]:
    """Logarithms of the times at which the output, from ``start``, reaches the given values.

    Example:
        >>> round(growth_time([5.0], layers=1, margin=1.0, start=1e-9)[0], 6) == round(math.log(math.exp(5) - 1), 6)
        True
    """
    G0, alpha = antiderivative(start, layers), rate_constant(layers, margin)
    return [float(mpmath.log((antiderivative(y, layers) - G0) / alpha)) for y in outputs]


def grown_output(
    log_times: Float[Tensor, " t"] | Sequence[float],
    *,
    layers: int,
    margin: float,
    start: float,
    printed: bool = False,
) -> Float[Tensor, " t"]:
    r"""Output ``y = log R`` at times given by their logarithms, by inverting :math:`G_p(y)=G_p(y_0)+\alpha t`.

    Args:
        start: Output at time zero, positive.
        printed: Use the ``K^2`` of the printed eq. (100).
    """
    alpha, p = rate_constant(layers, margin, printed=printed), 2 - 2 / layers
    G0, found = antiderivative(start, layers), []
    for s in torch.as_tensor(log_times, dtype=torch.float64).tolist():
        goal = G0 + alpha * mpmath.exp(s)
        y = max(start, s + p * math.log(max(s, 1.0)) + math.log(alpha))  # above the root, where Newton descends
        for _ in range(60):
            value = antiderivative(y, layers)
            step = mpmath.log(value / goal) * value if value > 0 and goal > 0 else value - goal
            new = float(max(y - step * mpmath.exp(-mpmath.mpf(y)) * mpmath.mpf(y) ** p, start))
            y, done = new, abs(new - y) <= 1e-15 * abs(new)
            if done:
                break
        found.append(y)
    return torch.tensor(found, dtype=torch.float64)


def asymptotic_output(log_times: Float[Tensor, " t"], *, layers: int, margin: float) -> Float[Tensor, " t"]:
    r"""Three terms, :math:`y=\log t+(2-\tfrac2K)\log\log t+\log(Kf^{2/K})+o(1)`, for any start, equal norms or not."""
    return log_times + (2 - 2 / layers) * log_times.log() + math.log(rate_constant(layers, margin))


def layer_norms(outputs: Float[Tensor, " t"], *, layers: int, margin: float) -> Float[Tensor, " t"]:
    """The common norm of the layers, ``(y / f)^(1/K)``."""
    return (outputs / margin) ** (1 / layers)


def norm_flow(margin: float) -> Field:
    """The flow of layer norms, equal or not, in ``s = log(1 + t)``; the state is ``norms`` (K) and ``s``.

    Multiplying by ``dt/ds = exp(s)`` under the exponential of the loss keeps both from over- and underflow.

    Source: Banburski et al., eq. (96), which is right.
    """

    def field(state: Params) -> Params:
        product = state["norms"].prod()
        pull = margin * product * (state["s"] - margin * product).exp()
        return {"norms": pull / state["norms"], "s": torch.ones_like(state["s"])}

    return field


def norm_start(norms: Sequence[float]) -> Params:
    """State of :func:`norm_flow` at time zero.

    Raises:
        ValueError: A norm is not positive; a layer at zero does not move.
    """
    if not all(0 < r < math.inf for r in norms):
        raise ValueError(f"norms must be positive and finite, got {list(norms)}: a network at zero stays there")
    return {"norms": torch.tensor(list(norms), dtype=torch.float64), "s": torch.zeros((), dtype=torch.float64)}

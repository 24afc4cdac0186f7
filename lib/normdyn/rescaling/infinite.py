r"""The least norm for infinite exponents: of a largest weight, or of a largest row.

Such a norm is convex in ``log a`` but has corners, and its minimum is rarely unique. It lies between norms with large
exponents and the same times a power of sizes,

.. math:: \|W\|_{P,Q} \ge \|W\|_{p,q} \ge K^{-1/P} R^{-1/Q} \|W\|_{P,Q},

with at most ``K`` entries in ``R`` rows (a factor drops out for a finite exponent). So minima for growing ``P``,
``Q`` come as near as one likes; how near is proven. What is returned is the limit of minima for finite exponents, as
far as the path was followed: one minimum among many.

Source: ours.
"""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from normdyn.rescaling.certificate import certified_gap
from normdyn.rescaling.minimum import Minimum, minimum_norm
from normdyn.rescaling.shared import SharedProblem, Weights
from normdyn.shapes import Float

__all__ = ["EXPONENTS", "TOLERANCE", "least_infinite", "log_norm"]

EXPONENTS = (8, 32, 128, 512, 2048, 8192)
TOLERANCE = 1e-3  # relative gap at which to stop, if no larger one is asked for


def least_infinite(
    layers: Sequence[Weights],
    count: int,
    *,
    p: float,
    q: float,
    kept: Collection[int] = (),
    bound: float = math.inf,
    tolerance: float = TOLERANCE,
    max_passes: int = 100,
) -> Minimum:
    """The rescaling of nearly least norm, for ``p`` or ``q`` infinite.

    Args:
        layers, count: As of :class:`SharedProblem`.
        kept: Classes that stay.
        bound: On ``|log a|``.
        tolerance: Proven relative gap at which to stop; 1e-3 at least.
        max_passes: For each of the finite exponents.

    Returns:
        As of :func:`minimum_norm`; its gaps are proven, and an entry of the history is one pair of finite exponents.

    Example:
        >>> one, none = torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
        >>> layers = [Weights(torch.full((1, 1, 1), w), *ends) for w, ends in ((8.0, (one, none)), (2.0, (none, one)))]
        >>> found = least_infinite(layers, 2, p=math.inf, q=math.inf)
        >>> round(found.norm, 2), found.converged
        (4.0, True)
    """
    z = torch.zeros(count, dtype=torch.float64)
    columns = max(values.shape[2] for values, *_ in layers)
    rows = sum(target.numel() for _, target, _ in layers)
    history: dict[str, list[float]] = {"norm": [math.exp(log_norm(layers, z, p, q))], "imbalance": [], "gap": []}
    best, lower, passes = z, -math.inf, 0.0
    for exponent in EXPONENTS:
        finite = [exponent if math.isinf(value) else value for value in (p, q)]
        problem = SharedProblem(layers, count, p=finite[0], q=finite[1], precise=True, bound=bound)
        problem.hidden[list(kept)] = False
        problem.start = z
        found = minimum_norm(problem, tolerance=1e-7, max_passes=max_passes)
        z, passes = found.log_factors, passes + found.passes
        slack = math.log(columns) / finite[0] * math.isinf(p) + math.log(rows) / finite[1] * math.isinf(q)
        lower = max(lower, log_norm(layers, z, *finite) - certified_gap(problem, z) - slack)
        if log_norm(layers, z, p, q) <= log_norm(layers, best, p, q):
            best = z
        history["norm"].append(math.exp(log_norm(layers, best, p, q)))
        history["gap"].append(math.expm1(log_norm(layers, best, p, q) - lower))
        history["imbalance"].append(found.history["imbalance"][-1].item())
        if history["gap"][-1] <= max(tolerance, TOLERANCE):
            break
    converged = history["gap"][-1] <= max(tolerance, TOLERANCE)
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in history.items()}
    return Minimum(best, history["norm"][-1], passes, converged, tensors)


def log_norm(layers: Sequence[Weights], z: Float[Tensor, " n"], p: float, q: float) -> float:
    """The logarithm of the norm after rescaling by ``exp(z)``, for finite or infinite exponents.

    Source: Saul, eq. (1).
    """
    rows = []
    for values, target, source in layers:
        logs = values.double().abs().log() - z[source][:, None]
        size = logs.amax(2) if math.isinf(p) else (p * logs).logsumexp(2) / p
        rows.append((size + z[target]).flatten())
    sizes = torch.cat(rows)
    return (sizes.max() if math.isinf(q) else (q * sizes).logsumexp(0) / q).item()

r"""Descent on a linear model with the square loss, solved in the eigenbasis: any number of steps costs the same.

With features :math:`\Phi` of shape ``(samples, parameters)`` and the loss :math:`|\Phi w-y|^2/2n`, a step of size
:math:`\eta` is affine in ``w``. In a direction with singular value ``s`` the distance to the minimum-norm solution is
multiplied by :math:`1-\eta s^2/n`; in the null space nothing moves. A paper that descends on the mean square without
the factor one half uses half of the step that is given here.

Source: the experiments are Banburski et al., Figures 7 to 10; the closed forms are linear algebra, and ours where noise
is added to the weights.
"""

import itertools
import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normdyn.extras import need
from normdyn.shapes import Float

__all__ = [
    "Interpolant",
    "LinearDescent",
    "chebyshev_nodes",
    "expected_square_error",
    "linear_descent",
    "minimum_norm_interpolant",
    "monomials",
    "perturbed_descent",
    "perturbed_variances",
]


def chebyshev_nodes(count: int) -> Float[Tensor, " count"]:
    """Zeros of the Chebyshev polynomial of degree ``count``, ascending in (-1, 1), in float64.

    Raises:
        ValueError: ``count`` is below 1.

    Example:
        >>> [round(x, 3) for x in chebyshev_nodes(3).tolist()]
        [-0.866, 0.0, 0.866]
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}: ask for one node or more")
    odd = torch.arange(1 - count, count, 2, dtype=torch.float64)
    return torch.sin(odd * (math.pi / (2 * count)))


def monomials(x: Float[Tensor, " n"], degree: int) -> Float[Tensor, "n terms"]:
    """Rows ``1, x, ..., x^degree``.

    Raises:
        ValueError: ``degree`` is negative.

    Example:
        >>> monomials(torch.tensor([2.0]), 3)
        tensor([[1., 2., 4., 8.]])
    """
    if degree < 0:
        raise ValueError(f"degree must not be negative, got {degree}: 0 is the constant")
    return x[:, None] ** torch.arange(degree + 1, dtype=x.dtype)


@dataclass(frozen=True)
class LinearDescent:
    """Gradient descent on ``|features @ w - targets|^2 / 2n``; made by :func:`linear_descent`."""

    solution: Float[Tensor, " p"]
    modes: Float[Tensor, "p r"]
    rates: Float[Tensor, " r"]

    @property
    def null_dimension(self) -> int:
        """Number of directions in which the loss is flat."""
        return self.modes.shape[0] - self.modes.shape[1]

    def factors(self, steps: int) -> Float[Tensor, " r"]:
        """What ``steps`` steps leave of the distance in each mode."""
        magnitude = (1 - self.rates).abs().log().where(self.rates > 1, torch.log1p(-self.rates.clamp_max(1)))
        sign = torch.where((self.rates > 1) & bool(steps % 2), -1.0, 1.0)
        return sign * (steps * magnitude).exp() if steps else torch.ones_like(self.rates)

    def null_part(self, weights: Float[Tensor, "*b p"]) -> Float[Tensor, "*b p"]:
        """Projection on the flat directions."""
        return weights - weights @ self.modes @ self.modes.mT

    def at(self, start: Float[Tensor, "*b p"], steps: int) -> Float[Tensor, "*b p"]:
        """Weights after any number of steps, exactly; rows of ``start`` are separate runs.

        Raises:
            ValueError: ``steps`` is negative.

        Example:
            >>> descent = linear_descent(torch.eye(2).double()[:1], torch.ones(1).double(), step=0.5)
            >>> descent.at(torch.tensor([0.0, 3.0]).double(), 2)
            tensor([0.7500, 3.0000], dtype=torch.float64)
        """
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}: descent does not run backwards")
        distance = (start - self.solution) @ self.modes
        return self.solution + self.null_part(start) + (self.factors(steps) * distance) @ self.modes.mT


def linear_descent(
    features: Float[Tensor, "n p"], targets: Float[Tensor, " n"], *, step: float, tolerance: float = 1e-13
) -> LinearDescent:
    """Solve descent once for all numbers of steps.

    Args:
        features: One row for each sample, float64.
        targets: One number for each sample.
        step: Learning rate for the loss ``|f - y|^2 / 2n``.
        tolerance: Singular values below this share of the largest count as zero.

    Raises:
        ValueError: the step is not positive, or so large that a mode diverges.
    """
    if not step > 0:
        raise ValueError(f"step must be positive, got {step}: it is a learning rate")
    U, s, Vt = torch.linalg.svd(features, full_matrices=False)
    kept = s > tolerance * s[0]
    U, s, modes = U[:, kept], s[kept], Vt[kept].mT
    rates = step * s.square() / len(targets)
    if rates[0] > 2:
        raise ValueError(f"step {step:g} diverges: take at most {2 * step / rates[0].item():.3g}")
    return LinearDescent(modes @ ((targets @ U) / s), modes, rates)


def perturbed_descent(
    descent: LinearDescent,
    start: Float[Tensor, "*b p"],
    *,
    deviation: float,
    every: int,
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "times *b p"]:
    """Descend ``every`` steps, add Gaussian noise to all weights, descend again; weights just before each kick.

    Entry ``m`` is after ``m`` kicks, each followed by ``every`` steps. Rows of ``start`` are independent runs.
    """  # fmt: skip
    path = [descent.at(start, every)]
    for _ in range(count):
        kick = torch.randn(start.shape, generator=generator, dtype=start.dtype)
        path.append(descent.at(path[-1] + deviation * kick, every))
    return torch.stack(path)


def perturbed_variances(
    descent: LinearDescent, *, deviation: float, every: int, count: int
) -> tuple[Float[Tensor, " r"], float]:
    """Law after ``count`` kicks, each followed by ``every`` steps: variance in each mode and in each null direction.

    The weights are Gaussian; their mean is that of the run without kicks, and directions are independent. In a mode
    with factor ``q`` the variance is ``deviation^2 (q^2 + q^4 + ... + q^2count)``, in the null space
    ``deviation^2 count``: a random walk.
    """
    q = descent.factors(every).square()
    powers = q[:, None] ** torch.arange(1, count + 1, dtype=q.dtype)
    return deviation**2 * powers.sum(1), deviation**2 * count


def expected_square_error(
    descent: LinearDescent,
    mean: Float[Tensor, " p"],
    variances: tuple[Float[Tensor, " r"], float],
    features: Float[Tensor, "n p"],
    targets: Float[Tensor, " n"],
) -> float:
    """Expected mean square error of Gaussian weights, in closed form: error of the mean plus variance."""  # fmt: skip
    modes, null = features @ descent.modes, descent.null_part(features)
    spread = modes.square() @ variances[0] + variances[1] * null.square().sum(1)
    return ((features @ mean - targets).square() + spread).mean().item()


def _powers(t: Any, degree: int) -> list:
    """``1, t, ..., t^degree`` by repeated multiplication."""
    return list(itertools.accumulate([t] * degree, operator.mul, initial=type(t)(1)))


@dataclass(frozen=True)
class Interpolant:
    """Minimum-norm polynomial in long arithmetic: test values, squared norm, certified digits of the values.

    Attributes:
        values: ``flint.arb`` numbers, one a point.
        squared_norm: Another.
        digits: Digits that all values are certain to.
    """

    values: list
    squared_norm: Any
    digits: float


def minimum_norm_interpolant(nodes: list, targets: list, points: list, degree: int, *, bits: int = 2000) -> Interpolant:
    r"""Least squares polynomial of least coefficient norm, in ball arithmetic (every digit is certified).

    With as many coefficients as nodes or more it is :math:`\Phi^\top(\Phi\Phi^\top)^{-1}y`, with fewer
    :math:`(\Phi^\top\Phi)^{-1}\Phi^\top y`; both need about twice the digits of the condition number of the features.

    Args:
        nodes, targets, points: ``flint.arb`` numbers of ``bits`` bits: training inputs, outputs, and test inputs.
        degree: Highest power.
        bits: Working precision.

    Raises:
        ValueError: the system cannot be solved with so few bits.
        ImportError: python-flint is not installed (``normdyn[exact]``).
    """
    flint = need("flint", "exact")
    before, flint.ctx.prec = flint.ctx.prec, bits
    try:
        rows = lambda x: flint.arb_mat([_powers(t, degree) for t in x])
        features, y = rows(nodes), flint.arb_mat([[t] for t in targets])
        if degree + 1 >= len(nodes):
            weights = features.transpose() * (features * features.transpose()).solve(y)
        else:
            weights = (features.transpose() * features).solve(features.transpose() * y)
        values = (rows(points) * weights).entries()
        norm = (weights.transpose() * weights)[0, 0]
        widest = max(v.rad() for v in values)
        return Interpolant(values, norm, float(-widest.log() / flint.arb(10).log()) if widest > 0 else math.inf)
    except ZeroDivisionError:
        raise ValueError(f"bits = {bits} is not enough at degree {degree}: the matrix may be singular") from None
    finally:
        flint.ctx.prec = before

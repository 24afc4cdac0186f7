r"""Second derivatives at critical points: how many are zero, and how many a symmetry explains.

A continuous symmetry of a loss makes its critical points come in orbits, and every direction along an orbit is a zero
mode of the Hessian. For a linear network :math:`W_L\cdots W_1` the group is a product of one factor for each hidden
width, the general linear group, or the orthogonal group if the weights are decayed. A part of the group may leave the
weights alone (the stabiliser), so the orbit has the dimension of the group less that of the stabiliser.

Source: the group is that of paper D, section 14.3. What names no source below is calculus and linear algebra (Hessians,
ranks, and SciPy's Levenberg-Marquardt and L-BFGS).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import least_squares, minimize
from torch import Tensor

from normdyn.shapes import Float

__all__ = [
    "Loss",
    "Nullity",
    "Params",
    "critical_point",
    "flatten",
    "general_orbit_dimension",
    "hessian",
    "interpolation_nullity",
    "minimum",
    "nullity",
    "orbit_dimension",
    "orbit_tangent",
    "orthogonal_orbit_dimension",
    "unflatten",
]

Params = dict[str, Tensor]
Loss = Callable[[Params], Tensor]


class Nullity(NamedTuple):
    """A number of zero eigenvalues and its certificate.

    Attributes:
        zeros, negative, positive: How many eigenvalues there are of each kind.
        gap: Smallest magnitude that counts as nonzero over the largest that counts as zero; infinite if there is
            nothing on one side.
    """

    zeros: int
    negative: int
    positive: int
    gap: float


def hessian(loss: Loss, params: Params) -> Float[Tensor, "D D"]:
    """The matrix of second derivatives in all parameters, flattened in the order of ``params``.

    Raises:
        ValueError: A parameter is not float64, in which rank decisions are not safe.

    Example:
        >>> point = {"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.tensor(2.0, dtype=torch.float64)}
        >>> hessian(lambda p: p["a"] ** 2 * p["b"], point).tolist()
        [[4.0, 2.0], [2.0, 0.0]]
    """
    flat = flatten(params)
    matrix = torch.func.hessian(lambda v: loss(unflatten(v, params)))(flat)
    return (matrix + matrix.mT).detach() / 2


def nullity(
    matrix: Float[Tensor, "D D"], *, relative: float = 1e-8, gap: float = 1e3, scale: float | None = None
) -> Nullity:
    """How many eigenvalues of a symmetric matrix are zero, refused where zero and nonzero are not far apart.

    Args:
        matrix: Symmetric; a Hessian at a critical point.
        relative: An eigenvalue counts as zero up to this share of ``scale``.
        gap: Required ratio between the smallest nonzero and the largest zero eigenvalue.
        scale: Size of the problem; the largest magnitude of an eigenvalue unless given.

    Raises:
        ValueError: The matrix is not symmetric, or no gap of the required size separates the two kinds.

    Example:
        >>> nullity(torch.diag(torch.tensor([0.0, 1e-16, -2.0, 1.0], dtype=torch.float64)))[:3]
        (2, 1, 1)
    """
    if matrix.dim() != 2 or not torch.allclose(matrix, matrix.mT, rtol=1e-9, atol=1e-12):
        raise ValueError(f"matrix must be symmetric, got shape {tuple(matrix.shape)}: give (H + H.T) / 2")
    values = torch.linalg.eigvalsh(matrix)
    size = values.abs().max().item() if scale is None else scale
    small = values.abs() <= relative * size
    zero, kept = values[small].abs(), values[~small].abs()
    ratio = math.inf
    if len(zero) and len(kept):
        # rounding puts exact zeros anywhere below eps times the size
        ratio = kept.min().item() / max(zero.max().item(), torch.finfo(values.dtype).eps * size)
    if ratio < gap:
        raise ValueError(
            f"no gap of {gap:g} around {relative:g} of the largest eigenvalue, only {ratio:.3g}: "
            "converge further to the critical point, or choose another `relative`"
        )
    signs = values[~small].sign()
    return Nullity(int(small.sum()), int((signs < 0).sum()), int((signs > 0).sum()), ratio)


def critical_point(loss: Loss, params: Params, *, tolerance: float = 1e-11, steps: int = 400) -> Params | None:
    """A zero of the gradient near a start, of any index, by Levenberg and Marquardt on the gradient.

    Args:
        params: Start, float64; not changed.
        tolerance: Largest entry of the gradient at the answer.
        steps: Most evaluations of the gradient.

    Returns:
        Parameters there, or None if the search came to rest elsewhere.

    Example:
        >>> start = {"w": torch.tensor([1.5, 0.4], dtype=torch.float64)}
        >>> point = critical_point(lambda p: (p["w"] ** 2 - 1).square().sum(), start)
        >>> [round(abs(v), 12) for v in point["w"].tolist()]
        [1.0, 0.0]
    """
    scalar = lambda v: loss(unflatten(v, params))
    slope, second = torch.func.grad(scalar), torch.func.hessian(scalar)
    evaluate = lambda function: lambda v: function(torch.from_numpy(np.array(v))).detach().numpy()
    found = least_squares(
        evaluate(slope), flatten(params).numpy(), jac=evaluate(second), method="lm",
        xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=steps,
    )  # fmt: skip
    if not np.abs(found.fun).max() <= tolerance:
        return None
    return unflatten(torch.from_numpy(found.x), params)


def minimum(loss: Loss, params: Params, *, tolerance: float = 1e-11, steps: int = 5000) -> Params | None:
    """A local minimum by L-BFGS, polished by :func:`critical_point` until its Hessian's rank can be read.

    Args:
        params: Start, float64; not changed.
        tolerance: Largest entry of the gradient at the answer.
        steps: Most steps of L-BFGS; few where kinks may trap it.

    Returns:
        Parameters there, or None if the polished point has not reached the tolerance.

    Example:
        >>> start = {"w": torch.tensor([3.0, -1.0], dtype=torch.float64)}
        >>> point = minimum(lambda p: (p["w"].prod() - 1).square() + 0.1 * p["w"].square().sum(), start)
        >>> round(point["w"].prod().item(), 12)
        0.9
    """
    both = torch.func.grad_and_value(lambda v: loss(unflatten(v, params)))

    def evaluate(v: np.ndarray) -> tuple[float, np.ndarray]:
        slope, value = both(torch.from_numpy(v))
        return value.item(), slope.numpy()

    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 1e-16, "gtol": 1e-9}
    found = minimize(evaluate, flatten(params).numpy(), jac=True, method="L-BFGS-B", options=options)
    return critical_point(loss, unflatten(torch.from_numpy(found.x), params), tolerance=tolerance, steps=60)


def orbit_tangent(
    weights: Sequence[Float[Tensor, "_ _"]], group: str = "general", *, ends: bool = False
) -> Float[Tensor, "g D"]:
    r"""Directions :math:`A_\ell W_\ell - W_\ell A_{\ell-1}` in which the group moves a linear network, one a row.

    Args:
        weights: From the first layer to the last, ``(fan_out, fan_in)``; :math:`A_0` and :math:`A_L` are zero.
        group: ``general`` for any :math:`A_\ell`, ``orthogonal`` for skew ones.
        ends: Add the general linear maps at input and output that together keep the product
            :math:`M`: pairs with :math:`A_L M = M A_0`.

    Raises:
        ValueError: The group is unknown, or the layers do not fit each other.

    Source: paper D, section 14.3; ``ends`` is ours.
    """
    if group not in ("general", "orthogonal"):
        raise ValueError(f"group must be 'general' or 'orthogonal', got {group!r}")
    _chain([W.shape for W in weights])
    rows = []
    for l, (W, V) in enumerate(pairwise(weights)):
        for A in _algebra(len(W), group).to(W):
            moved = [torch.zeros_like(U) for U in weights]
            moved[l], moved[l + 1] = A @ W, -V @ A
            rows.append(torch.cat([U.flatten() for U in moved]))
    for A, B in _ends(weights) if ends else ():
        moved = [torch.zeros_like(U) for U in weights]
        moved[0] = moved[0] - weights[0] @ B
        moved[-1] = moved[-1] + A @ weights[-1]
        rows.append(torch.cat([U.flatten() for U in moved]))
    return torch.stack(rows) if rows else weights[0].new_zeros(0, sum(W.numel() for W in weights))


def orbit_dimension(
    weights: Sequence[Float[Tensor, "_ _"]], group: str = "general", *, ends: bool = False, relative: float = 1e-9
) -> int:
    """Dimension of the orbit of a linear network's weights, by the rank of :func:`orbit_tangent`.

    Example:
        >>> W = [torch.ones(3, 2, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)]
        >>> orbit_dimension(W), orbit_dimension(W, "orthogonal")
        (5, 2)
    """
    rows = orbit_tangent(weights, group, ends=ends)
    values = torch.linalg.svdvals(rows) if len(rows) else rows.new_zeros(1)
    return int((values > relative * values.max().clamp_min(torch.finfo(values.dtype).tiny)).sum())


def general_orbit_dimension(widths: Sequence[int], ranks: dict[tuple[int, int], int] | None = None) -> int:
    r"""Dimension of a general linear orbit from widths and ranks of partial products alone.

    The weights split into intervals: ``m[a, b]`` chains of ones that begin at layer ``a`` and end at ``b``, with
    :math:`m_{ab} = r_{ab} - r_{a-1,b} - r_{a,b+1} + r_{a-1,b+1}`. One interval maps to another, :math:`[a,b]` to
    :math:`[c,d]`, in one way if :math:`c \le a \le d \le b`, and such a map fixes both ends of the network if
    :math:`a \ge 1` and :math:`d < L`. These maps are the stabiliser.

    Args:
        widths: :math:`d_0, \dots, d_L`.
        ranks: Rank of the product from width ``i`` to width ``j``, for ``i < j``; generic ones unless given.

    Raises:
        ValueError: There are fewer than two widths, or one is below 1.

    Source: ours; intervals are the indecomposable representations of a linear quiver (Gabriel).

    Example:
        >>> general_orbit_dimension([4, 5, 2]), 5**2            # three dimensions of the group do nothing
        (22, 25)
    """
    last = len(widths) - 1
    if last < 1 or min(widths) < 1:
        raise ValueError(f"widths must name at least two layers of one unit or more, got {list(widths)}")

    def rank(i: int, j: int) -> int:
        if i < 0 or j > last:
            return 0
        return widths[i] if i == j else min(widths[i : j + 1]) if ranks is None else ranks[i, j]

    count = {
        (a, b): rank(a, b) - rank(a - 1, b) - rank(a, b + 1) + rank(a - 1, b + 1)
        for a in range(last + 1) for b in range(a, last + 1)
    }  # fmt: skip
    stabiliser = sum(
        m * n for (a, b), m in count.items() for (c, d), n in count.items() if c <= a <= d <= b and 1 <= a and d < last
    )
    return sum(d * d for d in widths[1:-1]) - stabiliser


def interpolation_nullity(widths: Sequence[int]) -> int:
    r"""Zero modes of an unregularised linear network at a generic interpolating point: :math:`D - r(d_0+d_L-r)`.

    :math:`D` is the number of weights and :math:`r` the smallest width; the second term is the dimension of the
    matrices of rank :math:`r`, all of which the network reaches. Inputs must span their space.

    Source: ours.

    Example:
        >>> interpolation_nullity([1, 2, 3]), general_orbit_dimension([1, 2, 3])    # one zero that no group explains
        (5, 4)
    """
    r = min(widths)
    return sum(m * n for m, n in pairwise(widths)) - r * (widths[0] + widths[-1] - r)


def orthogonal_orbit_dimension(widths: Sequence[int], rank: int) -> int:
    r"""Dimension of an orthogonal orbit of balanced weights: :math:`\sum_k \binom{d_k}{2} - \binom{d_k-r}{2}`.

    Args:
        widths: :math:`d_0, \dots, d_L`; the sum runs over hidden ones.
        rank: Common rank of all layers, as at a minimum with weight decay.

    Raises:
        ValueError: The rank is negative or above the smallest width.

    Source: ours; completes paper D, section 14.3.

    Example:
        >>> orthogonal_orbit_dimension([3, 4, 1], 1), math.comb(4, 2)
        (3, 6)
    """
    if not 0 <= rank <= min(widths):
        raise ValueError(f"rank must lie between 0 and the smallest width {min(widths)}, got {rank}")
    return sum(math.comb(d, 2) - math.comb(d - rank, 2) for d in widths[1:-1])


def flatten(params: Params) -> Float[Tensor, " D"]:
    """All parameters as one vector, in their order.

    Raises:
        ValueError: A parameter is not float64.
    """
    wrong = [name for name, value in params.items() if value.dtype != torch.float64]
    if wrong:
        raise ValueError(f"params must be float64 for second derivatives and ranks, {wrong} are not: call .double()")
    return torch.cat([value.detach().reshape(-1) for value in params.values()])


def unflatten(flat: Float[Tensor, " D"], like: Params) -> Params:
    """The inverse of :func:`flatten`, for parameters of the shapes of ``like``."""
    parts = flat.split([value.numel() for value in like.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


def _algebra(d: int, group: str) -> Float[Tensor, "g d d"]:
    units = torch.eye(d * d).reshape(d * d, d, d)
    if group == "general":
        return units
    rows, columns = torch.triu_indices(d, d, 1)
    upper = units[rows * d + columns]
    return upper - upper.mT


def _ends(weights: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """A basis of the pairs ``A, B`` with ``A M = M B``, ``M`` the product of the weights."""
    M = weights[0]
    for W in weights[1:]:
        M = W @ M
    r, d = M.shape
    eye = lambda n: torch.eye(n, dtype=M.dtype, device=M.device)
    matrix = torch.cat([torch.kron(eye(r), M.mT.contiguous()), -torch.kron(M, eye(d))], 1)
    _, values, basis = torch.linalg.svd(matrix)
    kernel = basis[int((values > 1e-9 * values[0]).sum()) :]
    return [(v[: r * r].reshape(r, r), v[r * r :].reshape(d, d)) for v in kernel]


def _chain(shapes: Sequence[Sequence[int]]) -> None:
    for l, (below, above) in enumerate(pairwise(shapes)):
        if below[0] != above[1]:
            raise ValueError(
                f"layer {l} puts out {below[0]} units and layer {l + 1} takes {above[1]}: order the layers"
            )

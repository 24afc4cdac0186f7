"""Runs behind the claims of section 16 of paper D: two samples, two layers, and flows with several places to end.

Labels are absorbed: ``x`` stands for ``y x``. Flows run on the logarithm of the loss: the same paths in a faster clock.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from normdyn.motion.flows import Field, Params, integrate
from normdyn.symmetry.polar import from_polar, reparametrized, to_polar

CLOCKS = {"standard": 12.0, "sphere": 1.2}  # of the logarithm of the loss; the second flow turns faster
SEPARATES = 0.1  # below this margin a start has lost a sample for good: no unit with a_j > 0 sees it


def rows(values: Sequence) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def uniform(case: Case, role: str, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=case.generator(role), dtype=torch.float64)


def pair(degrees: float) -> Tensor:
    """The two samples at plus and minus an angle."""
    angle = math.radians(degrees)
    return rows([[math.cos(angle), math.sin(angle)], [math.cos(angle), -math.sin(angle)]])


def unit(Z: Tensor, leak: float) -> Tensor:
    """A ReLU, or a linear unit at leak one."""
    return torch.where(Z > 0, Z, leak * Z)


def network(p: Params, X: Tensor, leak: float = 0.0) -> Tensor:
    """Outputs ``sum_j a_j sigma(w_j . x)``."""
    return unit(X @ p["W"].mT, leak) @ p["a"]


def normalised(p: Params, X: Tensor, leak: float = 0.0) -> Tensor:
    """Smallest output over the product of the lengths of the layers."""
    return network(p, X, leak).min() / (p["W"].norm() * p["a"].norm())


def one_sided(case: Case, degrees: float, k: int) -> Params:
    """Four units with positive output weights, two active on the first sample alone, two on the second alone."""
    spread = 0.9 * degrees * (2 * uniform(case, f"angles {degrees} {k}", 4) - 1)
    angles = ((90 + spread) * rows([1, 1, -1, -1])).deg2rad()
    size = 1.5 + uniform(case, f"sizes {degrees} {k}", 2, 4)
    return {"W": size[0][:, None] * torch.stack([angles.cos(), angles.sin()], 1), "a": size[1]}


def drive(X: Tensor, leak: float) -> Field:
    """Minus the gradient of the logarithm of ``sum_n exp(-f(x_n))``."""

    def downhill(p: Params) -> Params:
        Z = X @ p["W"].mT
        H = unit(Z, leak)
        q = torch.softmax(-H @ p["a"], 0)
        return {"W": (torch.where(Z > 0, 1.0, leak) * q[:, None] * p["a"]).mT @ X, "a": H.mT @ q}

    return downhill


@shared
def followed(case: Case, degrees: float, k: int, law: str, leak: float = 0.0) -> Params:
    """Weights late in a flow: ``standard`` in the weights, ``sphere`` in lengths and unit directions.

    Raises:
        Unfinished: the margin still moves in the last fifth of the clock.
    """
    p, X = one_sided(case, degrees, k), pair(degrees)
    standard, end = law == "standard", CLOCKS[law]
    start = p if standard else to_polar(p)
    flow = drive(X, leak) if standard else reparametrized(drive(X, leak), law)
    path = integrate(flow, start, (0.0, 0.8 * end, end), method="LSODA", relative=1e-9, absolute=1e-11)
    late = [{name: path[name][i] for name in start} for i in (1, 2)]
    first, last = late if standard else map(from_polar, late)
    moved = (normalised(first, X, leak) - normalised(last, X, leak)).abs().item()
    if not moved < 1e-4:
        raise Unfinished(f"{law} flow, {degrees} degrees, start {k}: the margin still moves by {moved:.1e}")
    return last


class Batch(NamedTuple):
    """Margins of many starts after a run and after nine tenths of it, and unit weights at the end."""

    margins: Tensor
    before: Tensor
    W: Tensor
    a: Tensor

    def separating(self) -> Tensor:
        """Which starts end with a positive margin."""
        return self.margins > SEPARATES

    def moving(self, most: float = 1e-4) -> Tensor:
        """Which of them still move: they decide nothing."""
        return ((self.margins - self.before).abs() > most) & self.separating()


def velocities(X: Tensor, V: Tensor, v: Tensor, r: Tensor, law: str) -> tuple[Tensor, Tensor, Tensor]:
    """Velocities of lengths and unit directions of many networks, in the clock that moves directions evenly."""
    Z = V @ X.mT
    H, rho = Z.relu(), r.prod(1, keepdim=True)
    f = (H * v[..., None]).sum(1)
    q = torch.softmax(-rho * f, 1)[:, None, :]  # the gradient over the loss
    gV, gv, pull = ((Z > 0) * q * v[..., None]) @ X, (H * q).sum(2), (q[:, 0] * f).sum(1, keepdim=True)
    speed = rho / r**2 if law == "standard" else torch.ones_like(r)
    stretch = (rho if law == "standard" else 1.0) / r * pull
    return stretch, speed[:, :1, None] * (gV - V * pull[..., None]), speed[:, 1:] * (gv - v * pull)


def descend_all(
    X: Tensor,
    W: Tensor,
    a: Tensor,
    law: str,
    schedule: Sequence[tuple[float, int]],
    lengths: Sequence | Tensor = (1, 1),
) -> Batch:
    """Steps along the velocities for many starts; the schedule lists step sizes and how many of each."""
    flat = lambda W: W.flatten(1).norm(dim=1)[:, None, None]
    r, V, v = rows(lengths).expand(len(W), 2), W / flat(W), a / a.norm(dim=1, keepdim=True)
    margin = lambda: ((V @ X.mT).relu() * v[..., None]).sum(1).amin(1)
    before, sizes = margin(), [eta for eta, steps in schedule for _ in range(steps)]
    for n, eta in enumerate(sizes):
        dr, dV, dv = velocities(X, V, v, r, law)
        r, V, v = r + eta * dr, V + eta * dV, v + eta * dv
        V, v = V / flat(V), v / v.norm(dim=1, keepdim=True)
        before = margin() if n == 9 * len(sizes) // 10 else before
    return Batch(margin(), before, V, v)


ANGLES = (46, 50, 54, 57, 62, 65, 68, 72, 76, 80, 84)
STARTS = 40


def random_starts(case: Case, role: str, count: int, units: int) -> tuple[Tensor, Tensor]:
    """Incoming weights of random direction, output weights between 0.2 and 1.2."""
    W = torch.randn(count, units, 2, generator=case.generator(f"{role} in"), dtype=torch.float64)
    return W, 0.2 + uniform(case, f"{role} out", count, units)


def one_each(W: Tensor, X: Tensor) -> Tensor:
    """Which starts have no unit that is active on both samples, and cover both."""
    active = W @ X.mT > 0
    return ~active.all(2).any(1) & active.any(1).all(1)


def starts_of_three(case: Case, degrees: int) -> tuple[Tensor, Tensor]:
    """The starts behind :func:`three_units` at one angle."""
    k = ANGLES.index(degrees) * STARTS
    W, a = random_starts(case, "three units", len(ANGLES) * STARTS, 3)
    return W[k : k + STARTS], a[k : k + STARTS]


@shared
def three_units(case: Case, law: str = "tangent", angles: tuple[int, ...] = ANGLES) -> dict[int, Batch]:
    """Ends of forty random starts at each angle."""
    X = torch.stack([pair(degrees) for degrees in angles]).repeat_interleave(STARTS, 0)
    W, a = (torch.cat(x) for x in zip(*(starts_of_three(case, degrees) for degrees in angles), strict=True))
    schedule = [(2e-2, 4000)] if law == "tangent" else [(1e-2, 3000), (5e-4, 800)]
    found = descend_all(X, W, a, law, schedule)
    return {degrees: Batch(*(x[k * STARTS : (k + 1) * STARTS] for x in found)) for k, degrees in enumerate(angles)}


def stationary(degrees: float) -> list[float]:
    """Margins at which the flow may stop: units active on both samples, on one each, or a mixture."""
    angle = math.radians(degrees)
    mixed = [1 / (1 - 2 * math.cos(2 * angle))] if 60 < degrees < 67.5 else []
    return [math.cos(angle), 0.5, *mixed]


def caught(units: int, degrees: float = 50) -> float:
    """Share of starts, among those that cover both samples, without a unit active on both."""
    p, m = 0.5 - degrees / 180, units
    return ((1 - p) ** m - 2 * 0.5**m + p**m) / (1 - 2 * 0.5**m + p**m)


WIDTHS, TRIES = (2, 3, 4, 6, 9, 12), 200


@shared
def by_width(case: Case) -> list[Batch]:
    """Ends of two hundred starts of each width at fifty degrees."""
    found = []
    for units in WIDTHS:
        found.append(
            descend_all(pair(50), *random_starts(case, f"{units} units", TRIES, units), "tangent", [(5e-2, 800)])
        )
    return found

"""What decides the claim about D Figure 4: the landscape exp(-f) of its caption at a water level."""

import math
from itertools import pairwise

import torch
from scipy import optimize
from torch import Tensor

from claimbook.evidence import at_most, claim, equal, together


def ground(w1: Tensor, w2: Tensor) -> Tensor:
    """The function f that the caption of D Figure 4 offers; the landscape is exp(-f)."""
    return w1.square() + w2.square() * w2.sin() / 100


def crossings(level: float, low: float, high: float) -> Tensor:
    """Where the axis w_1 = 0 runs into the water, away from the origin: (w_2 with its sign), by bisection."""
    depth = lambda w: -math.exp(-(w * w * math.sin(w)) / 100) + level
    found = []
    for sign in (1, -1):
        inside = lambda w, sign=sign: depth(sign * w)
        grid = [low + 0.01 * k for k in range(int((high - low) / 0.01))]
        ends = [(p, q) for p, q in pairwise(grid) if inside(p) < 0 <= inside(q)]
        found += [sign * optimize.brentq(inside, *pair, xtol=1e-13) for pair in ends]
    return torch.tensor(sorted(found, key=abs), dtype=torch.float64)


def by_series(level: float, low: float, high: float) -> Tensor:
    """The same from ``w = pi k + arcsin(100 c / w^2)``, ``c = -log(level)``: even k at w_2 > 0, odd k at w_2 < 0."""
    c, found = -math.log(level), []
    for k in range(math.ceil(low / math.pi), math.ceil(high / math.pi)):
        w = math.pi * k
        for _ in range(60):
            if 100 * c > w * w:
                break
            w = math.pi * k + math.asin(100 * c / w**2)
        else:
            found.append(w if k % 2 == 0 else -w)
    return torch.tensor(found, dtype=torch.float64)


def least_around(level: float, tip: float, reach: float = 0.3) -> Tensor:
    """Least norm of points under water near a point of the axis: a fine grid that contains the point."""
    side = torch.linspace(-1, 1, 601, dtype=torch.float64)
    w1, w2 = (3 * side)[:, None], tip + math.copysign(1, tip) * reach * side[None]
    wet = torch.exp(-ground(w1, w2)) <= level * (1 + 1e-12)
    return (w1.square() + w2.square()).sqrt()[wet].min()


LEVELS = (0.01, 0.1, 0.5)
GULFS = (202.0, 226.0)  # beyond 200 the shore turns away from the origin on both sides of a crossing
STRAITS = (18.0, 32.0)


@claim("D-fig4", control={"where": STRAITS})
def gulfs_of_equal_loss(case, where=GULFS):
    """At a water level below one the landscape exp(-f) has many points of equal loss and locally least, unequal norms.

    They lie where the axis runs into the water, from a norm of 200 on. The crossings that one sees first, from 19.5 on,
    are no such points: beside them the shore runs on towards the origin.  D Figure 4
    """
    return together(
        places=equal(
            measured=lambda: [crossings(level, *where) for level in LEVELS],
            predicted=lambda: [by_series(level, *where) for level in LEVELS],
            each=True, bound=1e-10, reason="bisection to 1e-13, and rounding",
        ),
        same_loss=equal(
            measured=lambda: [torch.exp(-ground(torch.zeros(1).double(), by_series(c, *where))) for c in LEVELS],
            predicted=lambda: [torch.full((len(crossings(c, *where)),), c, dtype=torch.float64) for c in LEVELS],
            bound=1e-9, reason="rounding of the crossings times the slope of f there, some hundreds",
        ),
        locally_least=at_most(
            left=lambda: [abs(tip) for level in LEVELS for tip in crossings(level, *where).tolist()],
            right=lambda: [least_around(level, tip) for level in LEVELS for tip in by_series(level, *where).tolist()],
            bound=1e-7, reason="the grid contains the point up to rounding",
        ),
    )  # fmt: skip


def ebb(start: tuple[float, float], level: float, steps: int, shrink: float = 1e-3) -> Tensor:
    """A boat drawn to the origin: shrink the position; where that is dry, go back to the shore along the slope of f."""
    c, (x, y), path = -math.log(level), start, []
    for _ in range(steps):
        path.append((x, y))
        x, y = (1 - shrink) * x, (1 - shrink) * y
        for _ in range(3):
            lack = c - x * x - y * y * math.sin(y) / 100
            if lack <= 0:
                break
            p, q = 2 * x, (2 * y * math.sin(y) + y * y * math.cos(y)) / 100
            x, y = x + lack * p / (p * p + q * q), y + lack * q / (p * p + q * q)
    return torch.tensor(path, dtype=torch.float64)

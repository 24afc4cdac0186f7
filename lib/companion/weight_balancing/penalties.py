"""Penalties, their flows by the library, and the rescaling of least penalty: for the chapters on flows of paper E."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, hessian

from companion.weight_balancing.common import EXPONENTS, Learner, linear
from normdyn.motion.flows import Field
from normdyn.networks.graphs import feedforward
from normdyn.rescaling.flows import minimum_norm_flow, weight_balancing_flow
from normdyn.rescaling.group import scatter

Penalty = Callable[[Tensor], Tensor]
ROUNDING = "rounding of sums over 20 samples and some 20 edges"
CONDITION = f"{ROUNDING}, times the condition of a Hessian with a row an edge"
TOLERANCE = "integrator's tolerance of 1e-9 a step"


# Loss and penalties are part of the problem, like network and data, and stand on both sides of a claim.

loss_of = lambda one, penalty, strength: lambda s: one.error(s) + strength * penalty(s["W"])  # E (36)


@functools.cache
def norm(p: float, q: float) -> Penalty:
    """E (51); an absent edge has no derivative. The penalty keeps its exponents, for the closed form of its flow."""

    def penalty(W: Tensor) -> Tensor:
        present = W != 0
        sums = torch.where(present, torch.where(present, W, 1.0).abs() ** p, 0.0).sum(1)
        some = sums > 0
        return torch.where(some, torch.where(some, sums, 1.0) ** (q / p), 0.0).sum() / q

    penalty.exponents, penalty.__name__ = (p, q), f"norm ({p}, {q})"
    return penalty


NORMS = tuple(norm(p, q) for p, q in ((2, 2), (1, 1), (1, 2), (2, 1)))
ALL = tuple(norm(p, q) for p, q in EXPONENTS)


_spread = lambda W, low, high: torch.linspace(low, high, W.numel(), dtype=W.dtype).reshape(W.shape)
_three_inputs = torch.tensor([False] * 3 + [True] * 5 + [False] * 2)

cosh = lambda W: ((W.cosh() - 1) * _spread(W, 0.5, 1.5)).sum()  # no norm
columns = lambda W: norm(1.5, 2)(W.mT)  # of what leaves the units, in place of what enters them
quartic = lambda W: (W**2 - W**4 / 4).sum()  # Hessian in log|W| positive below one, zero at one, negative above
squares_and_logarithms = lambda W: (
    W.square().sum() / 2 + (_spread(W, -1, 1) * torch.where(W != 0, W, 1.0).abs().log()).sum()
)
paths = lambda W: feedforward(  # squared weights multiplied along paths, which no rescaling moves
    W.square(), 0 * W[0], torch.ones(1, 3, dtype=W.dtype), _three_inputs, activation=linear
).sum()


def flow_of(one: Learner, penalty: Penalty, strength: float, **options) -> Field:
    """The library's flow: in closed form for norms, by a linear system for other penalties."""
    if exponents := getattr(penalty, "exponents", None):
        p, q = exponents
        return minimum_norm_flow(one.error, one.hidden, p=p, q=q, strength=strength, **options)
    return weight_balancing_flow(one.error, penalty, one.hidden, strength=strength, **options)


def least(penalty: Penalty, W: Tensor, hidden: Tensor) -> Tensor:
    """The rescaling of least penalty, by Newton's method in log a on automatic derivatives; it knows no balance."""

    def turned(z: Tensor) -> Tensor:
        y = scatter(z, hidden)
        return W * (y[:, None] - y).exp()

    value, z = lambda z: penalty(turned(z)), W.new_zeros(int(hidden.sum()))
    for _ in range(100):
        step = torch.linalg.solve(hessian(value)(z), grad(value)(z))
        z = z - step / step.abs().max().clamp_min(1.0)
        if step.abs().max() < 1e-14:
            break
    return turned(z)


def swapped(penalty: Penalty) -> Penalty:
    """Another penalty: the norm with p and q exchanged, absolute values for squares, a norm for what is none."""
    p, q = getattr(penalty, "exponents", (2, 1))
    return norm(q, p) if p != q else norm(3 - p, 3 - q) if p < 3 else norm(1, 1)


def itself(penalty: Penalty) -> Penalty:
    return penalty

"""How networks are trained and when they are looked at: what a tendency is asked to survive.

The experiments of paper C name no optimiser, no step, no start and no stopping rule. Each of these is a coordinate of a
cell here, and a tendency is decided over cells. Networks of one cell are stacked: torch's optimisers work entry by
entry, so a stack that descends the sum of its losses is as many networks, each by itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from companion.studies.stacks import Params, along, leaves

Seen = dict[str, Tensor]  # of every network, "loss" first of all: (k,)
Rule = Callable[[Seen], Bool[Tensor, " k"]]

OPTIMISERS: dict[str, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    "descent": lambda params, rate: torch.optim.SGD(params, lr=rate),
    "momentum": lambda params, rate: torch.optim.SGD(params, lr=rate, momentum=0.9),
    "Adam": lambda params, rate: torch.optim.Adam(params, lr=rate),
    "AdamW": lambda params, rate: torch.optim.AdamW(params, lr=rate, weight_decay=0.01),
}
# Standard deviation of the weights of a hidden layer times the root of its inputs: LeCun's, He's, and torch's default.
STARTS = {"LeCun": 1.0, "He": 2**0.5, "torch": 3**-0.5}


@dataclass(frozen=True)
class Trained:
    """A stack of networks after training.

    Args:
        seen: What was recorded before every step and at the end, ``(steps + 1, k)`` each: the entries of ``evaluate``,
            and ``slope``, the norm of the gradient.
        copies: For each stopping rule the parameters at which it first held; where it never did, those at the end.
        reached: For each rule the step at which it first held, ``(k,)``; -1 where it never did.
        end: The parameters at the end.
    """

    seen: Seen
    copies: dict[str, Params]
    reached: dict[str, Int[Tensor, " k"]]
    end: Params


def train(
    evaluate: Callable[[Params], Seen],
    params: Params,
    *,
    optimiser: str,
    rate: float,
    steps: int,
    until: Mapping[str, Rule] | None = None,
) -> Trained:
    """Train a stack of networks.

    Args:
        evaluate: From stacked parameters to what is recorded of each network; ``loss`` is descended.
        params: Stacked parameters, the network first; they stay as they are.
        optimiser: A key of :data:`OPTIMISERS`.
        steps: How many are made; with ``until``, fewer where every rule has held for every network.
        until: Stopping rules by name, of what is recorded.

    Raises:
        KeyError: there is no such optimiser.

    Example:
        >>> bowl = lambda p: {"loss": p["w"].square().sum(1) / 2}
        >>> near = {"near": lambda seen: seen["loss"] < 0.1}
        >>> run = train(bowl, {"w": torch.tensor([[1.0], [4.0]])}, optimiser="descent", rate=0.5, steps=9, until=near)
        >>> run.reached["near"].tolist(), len(run.seen["loss"])
        ([2, 4], 5)
    """
    moving, until = leaves({name: p.clone() for name, p in params.items()}), dict(until or {})
    stepper = OPTIMISERS[optimiser](list(moving.values()), rate)
    k, history = len(next(iter(params.values()))), list[Seen]()
    reached = {name: torch.full((k,), -1) for name in until}
    copies = dict.fromkeys(until, params)
    for step in range(steps + 1):
        stepper.zero_grad()
        seen = evaluate(moving)
        seen["loss"].sum().backward()
        history.append({name: value.detach().clone() for name, value in seen.items()} | {"slope": _slope(moving, k)})
        now = {name: p.detach().clone() for name, p in moving.items()}
        for name, rule in until.items():
            first = rule(history[-1]) & (reached[name] < 0)
            reached[name] = reached[name].where(~first, step)
            copies[name] = _where(first, now, copies[name])
        if until and all((at >= 0).all() for at in reached.values()):
            break
        if step < steps:
            stepper.step()
    copies = {name: _where(reached[name] < 0, now, kept) for name, kept in copies.items()}
    return Trained({name: torch.stack([h[name] for h in history]) for name in history[0]}, copies, reached, now)


def _slope(params: Params, k: int) -> Tensor:
    return sum(p.grad.reshape(k, -1).square().sum(1) for p in params.values() if p.grad is not None).sqrt()


def _where(networks: Bool[Tensor, " k"], these: Params, those: Params) -> Params:
    """The first parameters for the marked networks, the second ones for the others."""
    return {name: p.where(along(networks, p), those[name]) for name, p in these.items()}

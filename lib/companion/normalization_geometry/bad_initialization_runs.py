"""Narrow deep networks from weights that are far too small or far too large: runs for experiment 4 of paper C."""

import dataclasses
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.normalization_geometry.protocols import train
from companion.studies import classifiers
from companion.studies.classifiers import LOSSES, Setup, initialize, outputs
from companion.studies.stacks import Params
from normdyn.networks.normalizers import normalized_mlp

RATES = {"descent": 0.1, "momentum": 0.03, "Adam": 0.01}
NOTHING = {"logistic": math.log(2), "square": 0.5}  # the loss of the output zero
SMALL, LARGE = (1e-4, 1e-3, 1e-2), (10.0, 100.0, 1000.0)
SCALES = (1e-4, 3e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
STEPS = 300


def setup(case: Case, **changes) -> Setup:
    """Five layers, four of them hidden with ten units, on 64 points of a teacher in ten dimensions."""
    draws = 100 if case.profile == "paper" else 12
    made = Setup(draws=draws, samples=64, inputs=10, width=10, layers=5, epsilon=1e-5, seed=case.seed)
    return dataclasses.replace(
        made, **{"learning_rates": (RATES["descent"],), "steps": STEPS, "scales": SCALES} | changes
    )


@shared
def task(case: Case) -> tuple[Tensor, Tensor]:
    """Training points and labels of all draws."""
    return classifiers.task(setup(case), held=1)[0]


@shared
def losses(case: Case, batch_norm: bool, loss: str = "logistic", optimiser: str = "descent") -> Float[Tensor, "t s d"]:
    """Training losses: steps, factors on all weights (:data:`SCALES`), draws; nan or infinite after an overflow."""
    made = setup(case, batch_norm=batch_norm, loss=loss)
    X, y = (part.float().repeat(len(SCALES), *[1] * (part.ndim - 1)) for part in task(case))
    evaluate = lambda params: {"loss": LOSSES[loss](outputs(params, X, made) * y).mean(1)}
    start = initialize(made, torch.float32)
    run = train(evaluate, start, optimiser=optimiser, rate=RATES[optimiser], steps=STEPS)
    return run.seen["loss"].double().unflatten(1, (len(SCALES), made.draws))


def learned(case: Case, batch_norm: bool, loss: str, optimiser: str) -> Bool[Tensor, "s d"]:
    """Whether the loss has fallen below half of that of the output zero, within 300 steps."""
    return (losses(case, batch_norm, loss, optimiser) < NOTHING[loss] / 2).any(0)


# --------------------------------------------------------------------------------- from weights that are far too small

LEFT = 0.692  # the loss at which a network has left the plateau at log 2 = 0.6931


def stacked(case: Case, made: Setup) -> tuple[Tensor, Tensor]:
    """The task for every scale of a setup, in float64."""
    return tuple(part.repeat(len(made.scales), *[1] * (part.ndim - 1)) for part in task(case))


def first(run: Tensor) -> Float[Tensor, " k"]:
    """First row in which each column is true; infinite where none is."""
    return torch.where(run.any(0), run.to(torch.int8).argmax(0).double(), torch.inf)


@shared
def delays(case: Case, factor: float, epsilon: float, steps: int = 600) -> Float[Tensor, " d"]:
    """Steps of 0.1 that networks with BN, without gains and shifts, stay on the plateau; infinite if all of them."""
    made = setup(case, affine=False, scales=(factor,), epsilon=epsilon)
    X, y = task(case)
    evaluate = lambda params: {"loss": LOSSES["logistic"](outputs(params, X, made) * y).mean(1)}
    left = {"left": lambda seen: seen["loss"] < LEFT}
    run = train(evaluate, initialize(made), optimiser="descent", rate=0.1, steps=steps, until=left)
    return first(run.seen["loss"] < LEFT)


@shared
def centred_delays(case: Case, pace: float, steps: int = 600) -> Float[Tensor, " d"]:
    """Steps until the outputs of networks that only subtract means have grown ten thousandfold.

    Their step is ``pace`` in the units in which a homogeneous network of any small scale moves alike.
    """
    made, scale, (X, y) = setup(case, affine=False, batch_norm=False, scales=(1.0,)), 1e-2, task(case)
    single = lambda weights, x: normalized_mlp(weights, x, normalizer=lambda z: z - z.mean(0))[:, 0]

    def evaluate(params: Params) -> dict[str, Tensor]:
        f = torch.func.vmap(single)([params[f"W{l}"] for l in range(1, 6)], X)
        return {"loss": LOSSES["logistic"](f * y).mean(1), "size": f.detach().abs().mean(1)}

    start = {name: scale * p for name, p in initialize(made).items()}
    small = evaluate(start)["size"]
    grown = {"grown": lambda seen: seen["size"] > 1e4 * small}
    run = train(evaluate, start, optimiser="descent", rate=pace * scale**-3, steps=steps, until=grown)
    return first(run.seen["size"] > 1e4 * small)


@shared
def plateau_ends(case: Case, scale: float, power: int, steps: int = 20) -> Tensor:
    """Weights over their scale after steps of ``0.02 scale^-power`` without normalisation, biases and gains."""
    made, (X, y) = setup(case, affine=False, batch_norm=False, scales=(scale,)), task(case)
    evaluate = lambda params: {"loss": LOSSES["logistic"](outputs(params, X, made) * y).mean(1)}
    rate = 0.02 * scale**-power * 1e6 ** (1 - power / 3)  # the same for all powers at the scale 1e-2
    run = train(evaluate, initialize(made), optimiser="descent", rate=rate, steps=steps)
    return torch.cat([p.reshape(-1) / scale for p in run.end.values()])


# --------------------------------------------------------------------------------- from weights that are far too large


def hidden(name: str) -> bool:
    return name in ("W1", "W2", "W3", "W4")


@shared
def descended(case: Case, factor: float, epsilon: float, step: float, steps: int = 30) -> Params:
    """Descent with BN from hidden weights times ``factor``; their step is ``step``, that of all else 0.1."""
    made, (X, y) = setup(case, scales=(1.0,), epsilon=epsilon), task(case)
    params = {name: factor * p if hidden(name) else p for name, p in initialize(made).items()}
    for _ in range(steps):
        moving = {name: p.detach().requires_grad_() for name, p in params.items()}
        loss = LOSSES["logistic"](outputs(moving, X, made) * y).mean(1).sum()
        slopes = torch.autograd.grad(loss, list(moving.values()))
        params = {
            name: (p - (step if hidden(name) else 0.1) * slope).detach()
            for (name, p), slope in zip(moving.items(), slopes, strict=True)
        }
    return params


@shared
def held(case: Case, factor: float, frozen: bool, steps: int = 200) -> tuple[Tensor, Tensor]:
    """Losses, and norms of hidden layers over their start, from hidden weights times ``factor``; or these held."""
    made = setup(case, scales=(factor,), scale_last=False, steps=steps)
    norms = lambda p: torch.stack([p[f"W{l}"].flatten(1).norm(dim=1) for l in range(1, 5)], 1)
    names = ("W1", "W2", "W3", "W4") if frozen else ()
    run = classifiers.train(made, *task(case), frozen=names, record=norms, device=case.device)
    return run["loss"], run["recorded"] / run["recorded"][0]

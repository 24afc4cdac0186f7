"""Runs of experiment 2 of paper C: descents over a grid of ways to train, final solutions, and teachers.

Three hidden layers of ten units; the data are 64 points of a regression in two variables with targets of mean zero and
variance one. The network is ``plain``, or has batch normalisation in its ``hidden`` layers or in ``all``,
with a trained gain and shift after each. Networks of one kind are stacked over starts, steps and seeds.
"""

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import jacfwd
from torch.nn.functional import layer_norm

from claimbook.evidence import Case, Unfinished, shared
from companion.normalization_geometry.protocols import OPTIMISERS, STARTS
from companion.studies.normalized_runs import ACTIVATIONS, Setup, hessians, initialize, output, regression
from companion.studies.stacks import Params, along, gradients, leaves, move, unfold

STEPS, TARGET = 160, 100  # the length of the runs of the grid, and the printed number of iterations
LEVELS = (0.05, 0.05 / 3)  # a tenth and a thirtieth of the loss of predicting nothing
RATES = {name: tuple(first * 2**k for k in range(5)) for name, first in
         (("descent", 0.1), ("momentum", 0.05), ("Adam", 0.016))}  # fmt: skip
NORMALISED: dict[str, dict[str, Any]] = {
    "plain": {"normalizer": "none"},
    "hidden": {},
    "all": {"normalize_output": True, "gain": True},
}
RULES = {"equal": "one step, the largest for BN", "best": "each its best step"}


class Way(NamedTuple):
    """What the paper leaves open about both networks, but for the step and for when one looks."""

    start: str
    activation: str
    layers: str  # that are normalised: hidden or all
    optimiser: str


WAYS = tuple(Way(*way) for way in itertools.product(STARTS, ("relu", "tanh"), ("hidden", "all"), RATES))


def setup(case: Case, kind: str, activation: str, **changes: Any) -> Setup:
    """The network of a kind; 24 seeds, 48 in the profile ``paper``."""
    count = 48 if case.profile == "paper" else 24
    seeds = tuple(range(count * case.seed, count * (case.seed + 1)))
    made = Setup(activation=activation, seeds=seeds, scales=tuple(STARTS.values()), shift=True, epsilon=1e-5)
    return replace(made, **(NORMALISED[kind] | changes))


def outputs(params: Params, X: Float[Tensor, "k d n"], made: Setup) -> Float[Tensor, "k n"]:
    """:func:`companion.studies.normalized_runs.output` of a stack: samples come last, where they are averaged."""
    hat = lambda z: layer_norm(z, z.shape[-1:], eps=made.epsilon)
    z = X
    for l in range(1, made.hidden + 1):
        z = params[f"W{l}"] @ z
        z = params[f"g{l}"][..., None] * hat(z) if made.normalizer == "batch" else z
        z = ACTIVATIONS[made.activation](z + params[f"b{l}"][..., None])
    z = params[f"W{made.hidden + 1}"] @ z
    f = (hat(z) if made.normalize_output else z)[:, 0]
    return (params["gain"][:, None] * f if made.gain else f) + params["shift"][:, None]


def losses(params: Params, X: Float[Tensor, "k d n"], y: Float[Tensor, "k n"], made: Setup) -> Float[Tensor, " k"]:
    """Half the mean square of the errors of each network."""
    return (outputs(params, X, made) - y).square().mean(1) / 2


def train(made: Setup, rates: Tensor, optimiser: str, steps: int, device: str) -> dict[str, Tensor]:
    """Train a stack in single precision, each network with a step of its own.

    The optimiser moves ``u`` in ``start + s u`` with the step one: the same as the step ``s^2`` for descent and
    momentum, and ``s`` for Adam.

    Returns:
        ``loss`` and ``slope`` (norm of the gradient), ``(steps + 1, k)``, and the parameters at the end.
    """
    X, y = (t.float().to(device) for t in regression(made.seeds))
    times = len(rates) // len(X)
    X, y = X.mT.repeat(times, 1, 1), y.repeat(times, 1)
    start = move(initialize(made, X.shape[1], torch.float32), device)
    size = (rates if optimiser == "Adam" else rates.sqrt()).float().to(device)
    u = leaves({name: torch.zeros_like(p) for name, p in start.items()})
    stepper, history = OPTIMISERS[optimiser](list(u.values()), 1.0), []
    place = lambda: {name: p + along(size, p) * u[name] for name, p in start.items()}
    for step in range(steps + 1):
        value = losses(place(), X, y, made)
        found = gradients(value, u)
        slope = sum((g.reshape(len(size), -1).square().sum(1) for g in found.values()), torch.zeros_like(size)).sqrt()
        history.append((value.detach(), slope / size))
        for name, g in found.items():
            u[name].grad = g
        if step < steps:
            stepper.step()
    kept = [torch.stack(one).cpu() for one in zip(*history, strict=True)]
    return {"loss": kept[0], "slope": kept[1]} | {name: p.detach().cpu() for name, p in place().items()}


def stacked(made: Setup) -> Tensor:
    """The learning rate of every network of a stack."""
    scales, _, seeds = made.shape
    return torch.tensor(made.learning_rates).repeat_interleave(seeds).repeat(scales)


@shared
def sweep(case: Case, kind: str, activation: str, optimiser: str, steps: int = STEPS) -> dict[str, Tensor]:
    """All starts, steps and seeds: ``loss`` and ``slope``, ``(steps + 1, starts, rates, seeds)``; nan is infinite."""
    made = setup(case, kind, activation, learning_rates=RATES[optimiser])
    run = train(made, stacked(made), optimiser, steps, case.device)
    return {
        n: torch.stack([unfold(row, made.shape) for row in run[n]]).nan_to_num(torch.inf) for n in ("loss", "slope")
    }


def curves(case: Case, way: Way, normalised: bool, steps: int = STEPS, what: str = "loss") -> Float[Tensor, "t r s"]:
    """Losses, or norms of gradients, over steps, learning rates and seeds."""
    kind = way.layers if normalised else "plain"
    return sweep(case, kind, way.activation, way.optimiser, steps)[what][:, list(STARTS).index(way.start)]


def stable(case: Case, way: Way, normalised: bool, steps: int = STEPS) -> Bool[Tensor, " r"]:
    """With which learning rates nine networks in ten stay below a tenth over the last twenty steps."""
    return (curves(case, way, normalised, steps)[-20:] < LEVELS[0]).all(0).double().mean(1) >= 0.9


def ways(case: Case, steps: int = STEPS) -> list[Way]:
    """Those that have a step that is stable with BN, and at the largest such step are not stable without.

    Raises:
        Unfinished: fewer than ten of the 36 have.
    """
    found = [way for way in WAYS if (s := stable(case, way, True, steps)).any()
             and not stable(case, way, False, steps)[largest(s)]]  # fmt: skip
    if len(found) < 10:
        raise Unfinished(f"{len(found)} of {len(WAYS)} ways have a step that is stable with BN and not without")
    return found


def largest(marked: Bool[Tensor, " r"]) -> int:
    """The index of the last that is marked."""
    return int(marked.nonzero().max())


def arrivals(case: Case, way: Way, normalised: bool, level: float, steps: int = STEPS) -> Float[Tensor, "r s"]:
    """The first step at which the loss is below the level; the length of the run, if it never is."""
    below = curves(case, way, normalised, steps) < level
    return torch.where(below.any(0), below.int().argmax(0), steps).double()


def chosen(case: Case, way: Way, rule: str, normalised: bool, steps: int = STEPS) -> int:
    """Which of the learning rates a rule takes.

    ``equal``: for both networks the largest that is stable with BN. ``best``: for each that with the fewest steps to a
    tenth, in the median over seeds; the smaller one of two.
    """
    if rule == "equal":
        return largest(stable(case, way, True, steps))
    return int(arrivals(case, way, normalised, LEVELS[0], steps).quantile(0.5, dim=1).argmin())


# Final solutions

HIGH, LOWERED = 0.4, (0.1, 0.4 / 6)  # steps of descent: for BN, and for the plain network, a quarter and a sixth
CUTS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # in units of the largest eigenvalue


@shared
def finals(case: Case, kind: str, activation: str, steps: int = 800) -> dict[str, Tensor]:
    """Parameters after 800 steps of descent of 8 seeds with each of a few learning rates, in double precision."""
    made = final_setup(case, kind, activation)
    return {name: p.double() for name, p in train(made, stacked(made), "descent", steps, case.device).items()}


def final_setup(case: Case, kind: str, activation: str) -> Setup:
    made = setup(case, kind, activation)
    return replace(made, seeds=made.seeds[:8], learning_rates=LOWERED if kind == "plain" else (HIGH, LOWERED[1]))


@shared
def tops(case: Case, kind: str, activation: str, steps: int = 800) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues and losses of the final solutions, ``(starts, rates, seeds)``, by the power method."""
    made, run = final_setup(case, kind, activation), finals(case, kind, activation, steps)
    X, y = regression(made.seeds)
    times = len(made.scales) * len(made.learning_rates)
    X, y = X.mT.repeat(times, 1, 1), y.repeat(times, 1)
    point = leaves({name: p for name, p in run.items() if name not in ("loss", "slope")})
    flat = lambda parts: torch.cat([part.reshape(len(X), -1) for part in parts], 1)
    slopes = torch.autograd.grad(losses(point, X, y, made).sum(), list(point.values()), create_graph=True)
    v = torch.randn(flat(slopes).shape, generator=case.generator("power"), dtype=torch.float64)
    for _ in range(60):
        v = v / v.norm(dim=1, keepdim=True)
        parts = v.split([p[0].numel() for p in point.values()], dim=1)
        along_v = [part.reshape(p.shape) for part, p in zip(parts, point.values(), strict=True)]
        v, before = flat(torch.autograd.grad(slopes, list(point.values()), along_v, retain_graph=True)), v
    return unfold((v * before).sum(1), made.shape), unfold(run["loss"][-1], made.shape)


@shared
def spectra(case: Case, kind: str, activation: str, steps: int = 800) -> Float[Tensor, "s d"]:
    """Eigenvalues of the Hessian of 8 final solutions from LeCun's start, rising; steps 0.4 with BN, and 0.1 without.

    Raises:
        Unfinished: the loss of one of them is above a tenth.
    """
    made, run = final_setup(case, kind, activation), finals(case, kind, activation, steps)
    here = list(STARTS).index("LeCun"), 0
    if (unfold(run["loss"][-1], made.shape)[here] > LEVELS[0]).any():
        raise Unfinished(f"{kind}, {activation}: a final loss is above {LEVELS[0]:g}")
    point = {name: unfold(p, made.shape)[here] for name, p in run.items() if name not in ("loss", "slope")}
    return torch.linalg.eigvalsh(hessians(made, point, *regression(made.seeds)))


def conditions(values: Float[Tensor, "s d"], cut: float) -> Float[Tensor, " s"]:
    """The largest eigenvalue over the smallest above a cut-off, which is relative to the largest."""
    top = values[:, -1:]
    return values[:, -1] / torch.where(values > cut * top, values, torch.inf).amin(1)


# Teachers: solutions that are known exactly


@shared
def teachers(case: Case, kind: str, activation: str, samples: int) -> list[Float[Tensor, " d"]]:
    """Singular values of the Jacobian at four networks that are their own teachers, largest first, of all parameters.

    There the Hessian is ``J^T J / n``. Weights have twice the usual size, biases or gains and shifts are drawn.
    """
    made = setup(case, kind, activation, scales=(2.0,), epsilon=0.0)
    made, draw = replace(made, seeds=made.seeds[:4]), case.generator("teachers")
    stir = lambda name, p: p if name[0] == "W" else p + 0.5 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
    points, found = {name: stir(name, p) for name, p in initialize(made, 2).items()}, []
    for k, X in enumerate(regression(made.seeds, samples=samples)[0]):
        parts = jacfwd(lambda p, X=X: output(p, X, made))({name: p[k] for name, p in points.items()})
        J = torch.cat([part.reshape(samples, -1) for part in parts.values()], 1)
        values = torch.linalg.svdvals(J)
        found.append(torch.cat([values, values.new_zeros(J.shape[1] - len(values))]))
    return found


def zeros(values: Float[Tensor, " d"], cut: float = 2e-14) -> Tensor:
    """How many singular values are zero up to rounding, which leaves 1e-15 here; the least others are about 1e-12."""
    return (values <= cut * values[0]).sum().double()

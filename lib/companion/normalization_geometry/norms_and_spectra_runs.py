"""Runs of experiment 1 of paper C: one linear unit on two classes in the plane, with and without normalised output.

Tasks are stacked: inputs ``(s, n, 2)``, labels ``(s, n)``, weights ``(s, 2)``, one row a task. Inputs are centred,
so that under the square loss the best direction is the same with and without normalisation.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.studies.normalized_runs import LOSSES, Setup, blobs, initialize, mean_loss, run
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.motion.flows import gradient, gradient_flow, integrate
from normdyn.networks.normalizers import batch_norm

DRAWS = 20
KINDS = ("blobs", "stretched")


# --------------------------------------------------------------------------------------------------------------- tasks


@shared
def task(case: Case, kind: str = "blobs") -> tuple[Tensor, Tensor]:
    """Twenty pairs of round classes, six deviations apart; or these stretched threefold along a random axis.

    Along the line of their centres no sample is further than 2.5 deviations from its centre: a line separates them.
    """
    aim, y = unit(normal(case, "C aims", DRAWS, 2)), torch.tensor([1.0, -1.0]).double().repeat(DRAWS, 20)
    along = 3 * y + normal(case, "C along", DRAWS, 40).clamp(-2.5, 2.5)
    side = normal(case, "C beside", DRAWS, 40)
    X = along[..., None] * aim[:, None] + side[..., None] * across(aim)[:, None]
    if kind == "stretched":
        axis = unit(normal(case, "C axes", DRAWS, 2))
        X = X + 2 * torch.einsum("sni,si,sj->snj", X, axis, axis)
    return X - X.mean(1, keepdim=True), y


def moments(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Second moments of the inputs, :math:`H=X^\top X/n`, and their covariance with the labels, :math:`c`."""
    return X.mT @ X / X.shape[1], (X * y[..., None]).mean(1)


def best(X: Tensor, y: Tensor) -> Tensor:
    r"""The minimiser of the square loss without normalisation, :math:`H^{-1}c`."""
    return torch.linalg.solve(*moments(X, y))


def fisher(X: Tensor, y: Tensor) -> Tensor:
    """Fisher's direction, unit vectors: difference of the class means over the scatter within classes."""
    parts = [(y == sign).double()[..., None] for sign in (1, -1)]
    means = [(part * X).sum(1) / part.sum(1) for part in parts]
    within = sum((part * (X - m[:, None])).mT @ (part * (X - m[:, None])) for part, m in zip(parts, means, strict=True))
    return unit(torch.linalg.solve(within, means[0] - means[1]))


def unit(w: Tensor) -> Tensor:
    return w / w.norm(dim=-1, keepdim=True)


def across(w: Tensor) -> Tensor:
    """The same length, a quarter turn on."""
    return torch.stack([-w[..., 1], w[..., 0]], -1)


@shared
def spokes(count: int) -> Tensor:
    """Unit vectors of the plane at even angles."""
    angle = torch.arange(count).double() * (2 * torch.pi / count)
    return torch.stack([angle.cos(), angle.sin()], -1)


# -------------------------------------------------------------------------------------------------------------- losses


def losses(X: Tensor, y: Tensor, w: Tensor, loss: str, normalised: bool, epsilon: float = 0.0) -> Tensor:
    """Mean loss of each unit, ``(s,)``."""
    z = torch.einsum("sni,si->ns", X, w)
    return LOSSES[loss](batch_norm(z, epsilon=epsilon) if normalised else z, y.mT).mean(0)


def over_circle(X: Tensor, y: Tensor, w: Tensor, loss: str) -> Tensor:
    """Normalised losses of all tasks at all of ``(k, 2)`` weights, ``(k, s)``."""
    return torch.stack([losses(X, y, v.expand(len(X), 2), loss, True) for v in w])


@shared
def best_on_circle(case: Case, kind: str, loss: str, epsilon: float = 0.0) -> Tensor:
    """Unit vectors at which the normalised loss is least: a grid of angles, refined four times."""
    X, y = task(case, kind)
    middle, reach = torch.zeros(len(X)).double(), torch.pi
    for _ in range(5):
        angles = middle + reach * torch.linspace(-1, 1, 201).double()[:, None]
        at = torch.stack([angles.cos(), angles.sin()], -1)
        heights = torch.stack([losses(X, y, w, loss, True, epsilon) for w in at])
        middle, reach = angles.gather(0, heights.argmin(0)[None])[0], reach / 50
    return torch.stack([middle.cos(), middle.sin()], -1)


# --------------------------------------------------------------------------------------------- descent: growth of norms

SCALES, RATES, STEPS = (0.1, 0.3, 1.0, 3.0, 10.0), (0.01, 0.1, 1.0), 500


class Grown(NamedTuple):
    """Norms ``(steps, scales, rates, s)`` of descents from random weights, and losses."""

    norms: Tensor
    loss: Tensor


def unit_setup(case: Case, loss: str, normalised: bool = True, steps: int = STEPS) -> Setup:
    seeds = tuple(range(DRAWS * case.seed, DRAWS * (case.seed + 1)))
    return Setup(scales=SCALES, learning_rates=RATES, seeds=seeds, hidden=0, affine=False, normalizer="none",
                 normalize_output=normalised, loss=loss, steps=steps)  # fmt: skip


@shared
def grown(case: Case, loss: str, normalised: bool = True, steps: int = STEPS) -> Grown:
    """Descents from five scales with three steps, twenty random directions each."""
    path = run(unit_setup(case, loss, normalised, steps), *task(case), device=case.device)
    return Grown(path["norms"][..., 0], path["loss"])


@shared
def varied(case: Case) -> dict[str, Tensor]:
    """Relative changes of norms from scale 1 with the step 0.1, in six variants, hundred starts each."""
    seeds = tuple(range(100 * case.seed, 100 * (case.seed + 1)))
    X, y = blobs(seeds, distance=6.0)
    plain = {"hidden": 0, "affine": False, "normalizer": "none", "loss": "logistic"}
    base = Setup(seeds=seeds, normalize_output=True, steps=150, **plain)
    changes = {"as left": {}, "square loss": {"loss": "square"}, "gain, shift": {"gain": True, "shift": True},
               "batch of 10": {"batch": 10}, r"$\epsilon=1$": {"epsilon": 1.0}}  # fmt: skip
    found = {}
    for name, change in changes.items():
        norms = run(Setup(**vars(base) | change), X, y, device=case.device)["norms"][:, 0, 0, :, 0]
        found[name] = (norms[-1] / norms[0] - 1).abs()
    return found


@shared
def curvature(case: Case, loss: str) -> Tensor:
    """The largest operator norm of the Hessian of the normalised loss on the unit circle, one number a task."""
    (X, y), made = task(case), unit_setup(case, loss)
    at = lambda w, x, t: mean_loss({"W1": w[None]}, x, t, made)
    every = torch.func.vmap(torch.func.vmap(torch.func.hessian(at), (0, None, None)), (None, 0, 0))
    return torch.linalg.eigvalsh(every(spokes(720), X, y)).abs().amax((1, 2))


@shared
def floor(case: Case, loss: str) -> Tensor:
    """The least normalised loss of each task."""
    return over_circle(*task(case), spokes(2000), loss).amin(0)


@shared
def learned(case: Case, loss: str, normalised: bool = True, steps: int = STEPS) -> Tensor:
    """Whether the loss has come nine tenths of the way to its floor with normalisation, run by run."""
    seen = grown(case, loss, normalised, steps).loss
    return seen[-1] - floor(case, loss) <= 0.1 * (seen[0] - floor(case, loss))


@shared
def from_the_start(case: Case, loss: str) -> tuple[Tensor, Tensor]:
    r"""What is known before the first step: :math:`q=\eta B/r_0^2`, and the largest growth of the norm by it."""
    X, y = task(case)
    start = initialize(unit_setup(case, loss), 2)["W1"].reshape(len(SCALES), len(RATES), DRAWS, 2)
    square = start.square().sum(-1)
    first = torch.stack([losses(X, y, w, loss, True) for w in start.flatten(0, 1)]).reshape(square.shape)
    fall = first - floor(case, loss)
    ratio = torch.tensor(RATES, dtype=torch.float64)[:, None] / square
    q = ratio * curvature(case, loss)
    return q, (1 + ratio * fall / (1 - q / 2).clamp_min(0)).sqrt() - 1


# ------------------------------------------------------------------------------------------------ paths in the plane

SMALL, LARGE = (0.1, 1 / 3), (3.0, 10.0)
LONG = (10.0, 30.0)
TIMES = torch.cat([torch.zeros(1), torch.logspace(-2, 1.8, 39)]).double()


def starts(case: Case, kind: str, factor: float, angle: float = torch.pi / 2) -> Tensor:
    """Weights at an angle from the best direction, of ``factor`` times the best norm."""
    w = best(*task(case, kind))
    turn = torch.tensor(angle, dtype=torch.float64)
    return factor * (turn.cos() * w + turn.sin() * across(w))


@shared
def arcs(case: Case, kind: str, loss: str, factor: float, normalised: bool = True, step: float = 0.0) -> Tensor:
    """Paths from 90 degrees off the best direction, ``(times, s, 2)``: the flow, or forty descents with a step.

    Time and step are in units of the squared norm of the start, task by task.
    """
    (X, y), w = task(case, kind), starts(case, kind, factor)
    slow = gradient_flow(lambda p: losses(X, y, p["w"], loss, normalised).sum())
    field = lambda p: {"w": w.square().sum(1, keepdim=True) * slow(p)["w"]}
    if not step:
        return integrate(field, {"w": w}, TIMES, relative=1e-9)["w"]
    path = [w]
    for _ in range(40):
        path.append(path[-1] + step * field({"w": path[-1]})["w"])
    return torch.stack(path)


@shared
def logistic(case: Case, kind: str, factor: float, angle: float, until: float = 1e8) -> Tensor:
    """Paths of the flow of the logistic loss without normalisation, followed in logarithmic time."""
    X, y = task(case, kind)
    slow = gradient_flow(lambda p: losses(X, y, p["w"], "logistic", False).sum())
    field = lambda p: {"w": slow({"w": p["w"]})["w"] * p["s"].exp(), "s": torch.ones(()).double()}
    start = {"w": starts(case, kind, factor, angle), "s": torch.tensor(-6.0).double()}
    times = torch.linspace(0, math.log(until) + 6, 161).double()
    return integrate(field, start, times, relative=1e-6, absolute=1e-8)["w"]


@shared
def descended(
    case: Case, factor: float, rate: float, loss: str = "square", normalised: bool = False, steps: int = 400
) -> Tensor:
    """Paths of descent from random angles, ``(steps, s, 2)``; the step is ``rate`` over the top eigenvalue of H."""
    X, y = task(case)
    turn = (2 * torch.pi * torch.rand(DRAWS, generator=case.generator("C angles"), dtype=torch.float64))[:, None]
    w = starts(case, "blobs", factor, 0.0)
    path = [turn.cos() * w + turn.sin() * across(w)]
    step = rate / torch.linalg.eigvalsh(moments(X, y)[0])[:, -1:]
    slope = gradient(lambda p: losses(X, y, p["w"], loss, normalised).sum())
    for _ in range(steps):
        path.append(path[-1] - step * slope({"w": path[-1]})["w"])
    return torch.stack(path)


@shared
def torques(case: Case, kind: str, loss: str, factor: float, normalised: bool = True) -> Tensor:
    """Rate at which the flow turns towards the best direction, ``(angles, s)``: up to 90 degrees off, both ways."""
    X, y = task(case, kind)
    aim = best_on_circle(case, kind, loss)
    size = factor * best(X, y).norm(dim=1, keepdim=True)
    slope = gradient(lambda p: losses(X, y, p["w"], loss, normalised).sum())
    found = []
    for angle in torch.linspace(0.01, 1, 25).double() * torch.pi / 2:
        for way in (1, -1):
            u = angle.cos() * aim + way * angle.sin() * across(aim)
            found.append(way * (slope({"w": size * u})["w"] * across(u)).sum(1))
    return torch.stack(found)


def exact(case: Case, kind: str, start: Tensor, rate: float = 0.0, count: int = 600) -> Tensor:
    """Square loss without normalisation, in closed form: the flow, or descent with ``rate`` over the top curvature."""
    X, y = task(case, kind)
    H, c = moments(X, y)
    values, basis = torch.linalg.eigh(H)
    end = torch.linalg.solve(H, c)
    part = torch.einsum("sij,si->sj", basis, start - end)
    top = values[:, -1:]
    if rate:
        factors = (1 - rate * values / top) ** torch.arange(count + 1).double()[:, None, None]
    else:
        times = torch.cat([torch.zeros(1), torch.logspace(-4, 3, 701)]).double()
        factors = (-values / top * times[:, None, None]).exp()
    return end + torch.einsum("sij,tsj->tsi", basis, factors * part)


def angles(path: Tensor, aim: Tensor) -> Tensor:
    """Signed angles from unit vectors to a path's weights, ``(times, s)``."""
    return torch.atan2((path * across(aim)).sum(-1), (path * aim).sum(-1))


def radial_lead(path: Tensor) -> Tensor:
    """Share of all change of the logarithmic norm that is done when half of all turning is, less a half."""
    turn = (
        torch.atan2(path[:-1, :, 0] * path[1:, :, 1] - path[:-1, :, 1] * path[1:, :, 0], (path[:-1] * path[1:]).sum(-1))
        .abs()
        .cumsum(0)
    )
    radial = path.norm(dim=2).log().diff(dim=0).abs().cumsum(0)
    turn, radial = turn / turn[-1], radial / radial[-1]
    after = (turn >= 0.5).to(torch.int8).argmax(0)[None]
    before = (after - 1).clamp_min(0)
    low, high = ((turn.gather(0, at), radial.gather(0, at)) for at in (before, after))
    way = ((0.5 - low[0]) / (high[0] - low[0]).clamp_min(1e-12)).clamp(0, 1)
    return (low[1] + way * (high[1] - low[1]))[0] - 0.5

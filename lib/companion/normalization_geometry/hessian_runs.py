"""Runs of section 6 of paper C: Hessians of single units, of hidden layers, and of networks that were trained."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import hessian as second_derivatives
from torch.func import jacrev, vmap

from claimbook.evidence import Case, Unfinished, shared
from companion.normalization_geometry.protocols import STARTS, train
from companion.studies.normalized_runs import Setup, initialize, mean_loss, regression
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.measures.curvature import flatten, hessian, unflatten
from normdyn.motion.flows import Params
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import batch_norm

Normaliser = Callable[[Tensor], Tensor]
SHIFTS, SPREADS = (0.0, 0.3, 1.0), (1.0, 2.0)  # typical mean of an input, decades between the inputs' deviations


def plain(z: Tensor) -> Tensor:
    return z


def of_unit(X: Tensor, y: Tensor, unit: Normaliser = batch_norm) -> Callable[[Params], Tensor]:
    """Half the mean square distance of a unit's outputs to its targets."""
    return lambda p: square_loss(unit((X @ p["w"])[:, None]), y[:, None])


def inputs(case: Case, role: str, m: int = 40, n: int = 5, shift: float = 1.0, decades: float = 1.0) -> Tensor:
    """Inputs whose deviations run from one down over some decades, in random directions, with a mean."""
    turned = torch.linalg.qr(normal(case, f"{role} axes", n, n))[0]
    spreads = torch.logspace(0, -decades, n, dtype=torch.float64)
    return normal(case, f"{role} X", m, n) * spreads @ turned.mT + shift * normal(case, f"{role} mean", n)


def moments(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance of the inputs, and their covariance with the targets."""
    Xc = X - X.mean(0)
    return Xc.mT @ Xc / len(X), Xc.mT @ y / len(X)


class Unit(NamedTuple):
    """A unit on its data, at weights w, with the gradient and the Hessian there by automatic differentiation."""

    X: Tensor
    y: Tensor
    w: Tensor
    g: Tensor
    H: Tensor


def differentiated(X: Tensor, y: Tensor, w: Tensor, unit: Normaliser = batch_norm) -> Unit:
    loss = of_unit(X, y, unit)
    return Unit(X, y, w, torch.func.grad(loss)({"w": w})["w"], hessian(loss, {"w": w}))


@shared
def units(
    case: Case, place: str = "minimum", unit: Normaliser = batch_norm, n: int = 5, length: float = 1.0,
    white: bool = False,
) -> list[Unit]:  # fmt: skip
    """Five units at the best direction, which regression gives, or anywhere; with ``white`` inputs are whitened."""
    found = []
    for k in range(5):
        X, y = inputs(case, f"C unit {k}", n=n), normal(case, f"C unit {k} y", 40)
        X = math.sqrt(40) * torch.linalg.qr(X - X.mean(0))[0] if white else X
        w = torch.linalg.solve(*moments(X, y)) if place == "minimum" else normal(case, f"C unit {k} w", n)
        found.append(differentiated(X, y, length * w / w.norm(), unit))
    return found


def frozen_deviation(z: Tensor) -> Normaliser:
    return lambda u: (u - u.mean()) / z.std(correction=0)


def frozen(z: Tensor) -> Normaliser:
    return lambda u: (u - z.mean()) / z.std(correction=0)


def live(z: Tensor) -> Normaliser:
    return batch_norm


@shared
def at_solutions(case: Case, statistics: Callable[[Tensor], Normaliser]) -> list[Unit]:
    """Units that meet their targets, many samples of few inputs and few samples of many, with statistics held."""
    found = []
    for m, n in ((40, 5), (6, 8)):
        for k in range(5):
            X, w = inputs(case, f"C solved {k}", m=m, n=n), normal(case, f"C solved {k} w", n)
            y = batch_norm((X @ w)[:, None])[:, 0]
            found.append(differentiated(X, y, w, statistics(X @ w)))
    return found


@shared
def turns(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, weights, and a vector of the same length at right angles to them."""
    found = []
    for k in range(5):
        w, v = normal(case, f"C turn {k} w", 5), normal(case, f"C turn {k} v", 5)
        v = v - w * (v @ w) / (w @ w)
        found.append((inputs(case, f"C turn {k}"), w, v * w.norm() / v.norm()))
    return found


@shared
def linear_units(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, Hessian of a linear unit, and that of a linear unit with a bias, its last coordinate."""
    found, ones = [], torch.ones(40, 1, dtype=torch.float64)
    for k in range(5):
        X, y = inputs(case, f"C unit {k}"), normal(case, f"C unit {k} y", 40)
        w, both = normal(case, f"C unit {k} w", 5), normal(case, f"C unit {k} wb", 6)
        joint = differentiated(torch.cat([X, ones], 1), y, both, plain).H
        found.append((X, differentiated(X, y, w, plain).H, joint))
    return found


# Condition numbers


def condition(values: Tensor, relative: float = 1e-10) -> float:
    """Largest over smallest, what is zero left out; values in increasing order."""
    kept = values[values > relative * values[-1]]
    return (kept[-1] / kept[0]).item()


def filled_axis(X: Tensor) -> Tensor:
    """The same inputs with the mean along their weakest direction, of the size that makes it as strong as the first."""
    values, vectors = torch.linalg.eigh((X - X.mean(0)).mT @ (X - X.mean(0)) / len(X))
    return X - X.mean(0) + (values[-1] - values[0]).sqrt() * vectors[:, 0]


def as_drawn(X: Tensor) -> Tensor:
    return X


def of_units(X: Tensor, w: Tensor) -> Tensor:
    """Condition numbers at solutions ``w`` of many data sets ``X``, one a row.

    Columns: normalised, covariance of the inputs, linear with a bias, linear without, and a lower bound on the first.
    """
    y = vmap(lambda X, w: batch_norm((X @ w)[:, None])[:, 0])(X, w)
    bent = vmap(lambda X, y, w: second_derivatives(lambda w: of_unit(X, y)({"w": w}))(w))(X, y, w)
    centred, both = X - X.mean(1, keepdim=True), torch.cat([X, torch.ones_like(X[:, :, :1])], 2)
    C, joint, S = (Z.mT @ Z / X.shape[1] for Z in (centred, both, X))
    values = torch.linalg.eigvalsh(C)
    spectra = map(torch.linalg.eigvalsh, ((bent + bent.mT) / 2, C, joint, S))
    rows = [[condition(v) for v in spectrum] for spectrum in spectra]
    return torch.stack([*torch.tensor(rows, dtype=torch.float64), values[:, -2] / values[:, 1]], 1)


@shared
def unit_conditions(
    case: Case, mean: Callable[[Tensor], Tensor], count: int = 100
) -> dict[tuple[float, float], Tensor]:
    """By shift and decades: rows of :func:`of_units` for random data and solutions, ``(count, 5)``."""
    w, found = torch.stack([normal(case, f"C at {k}", 5) for k in range(count)]), {}
    for shift in SHIFTS:
        for decades in SPREADS:
            sets = [mean(inputs(case, f"C set {k}", shift=shift, decades=decades)) for k in range(count)]
            found[shift, decades] = of_units(torch.stack(sets), w)
    return found


def exact_data(case: Case, variances: Sequence[float], mean: Sequence[float]) -> Tensor:
    """Forty samples with exactly these variances, no correlations, and this mean."""
    Z = normal(case, "C exact", 40, len(variances))
    Q = math.sqrt(40) * torch.linalg.qr(Z - Z.mean(0))[0]
    return Q * torch.tensor(variances, dtype=Q.dtype).sqrt() + torch.tensor(mean, dtype=Q.dtype)


@shared
def two_examples(case: Case) -> Tensor:
    """Variances 100, 1, 1 without a mean, and 1, 1, 1/100 with the mean that fills the third axis up."""
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    better = exact_data(case, [100.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    worse = exact_data(case, [1.0, 1.0, 0.01], [0.0, 0.0, 0.99**0.5])
    return of_units(torch.stack([better, worse]), torch.stack([first, first]))


@shared
def layers(case: Case, role: str, shift: float, length: float, longer: float = 1.0) -> tuple[Tensor, Tensor]:
    """Spectra of a tanh layer's Hessian where targets are met: plain, and normalised with the same outputs.

    Four inputs, three units, rows of one length; the normalised rows may be ``longer``. Gains are the deviations of
    the signals and shifts their means. Values increase.
    """
    X = 2 * inputs(case, f"C layer {role}", m=80, n=4, shift=shift)
    W, b = normal(case, f"C layer {role} W", 3, 4), normal(case, f"C layer {role} b", 3) / 2
    W, v = length * W / W.norm(dim=1, keepdim=True), normal(case, f"C layer {role} v", 3)
    variance, mean = torch.var_mean(X @ W.mT, 0, correction=0)
    raw = {"W": W, "b": b - mean, "v": v}  # units centred on the data, as a start would have them
    made = {"W": longer * W, "gain": variance.sqrt(), "shift": b, "v": v}
    f = lambda p: torch.tanh(X @ p["W"].mT + p["b"]) @ p["v"]
    g = lambda p: torch.tanh(p["gain"] * batch_norm(X @ p["W"].mT) + p["shift"]) @ p["v"]
    jacobian = lambda h, p: jacrev(lambda q: h(unflatten(q, p)))(flatten(p))
    first, second = (torch.linalg.svdvals(jacobian(h, p)).square().flip(0) / 80 for h, p in ((f, raw), (g, made)))
    return first, second


@shared
def layer_conditions(case: Case, shift: float, length: float, count: int = 60) -> Tensor:
    """Condition numbers of plain and of normalised layers, ``(count, 2)``."""
    pairs = [layers(case, str(k), shift, length) for k in range(count)]
    return torch.tensor([[condition(v, 1e-22) for v in pair] for pair in pairs], dtype=torch.float64)


# Networks that were trained

RATES = {"momentum": 0.03, "Adam": 0.01}


@shared
def trained(
    case: Case, activation: str, optimiser: str, steps: int, level: float, count: int = 8
) -> dict[str, tuple[Setup, Params, Tensor]]:
    """Networks at the first step at which their loss is below a level (no fit costs one half), and which came there.

    Two hidden layers of ten units, the regression of experiment 2; a stack of starts by seeds without normalisation
    and with it.
    """
    seeds = tuple(range(count * case.seed, count * (case.seed + 1)))
    data, found = targets(case, count), {}
    for kind in ("none", "batch"):
        setup = Setup(
            tuple(STARTS.values()), seeds=seeds, hidden=2, normalizer=kind, activation=activation, shift=True,
            epsilon=1e-5,
        )  # fmt: skip
        losses = vmap(lambda p, x, t, setup=setup: mean_loss(p, x, t, setup))
        run = train(
            lambda p, losses=losses: {"loss": losses(p, *data)}, initialize(setup, 2),
            optimiser=optimiser, rate=RATES[optimiser], steps=steps, until={"fit": lambda seen: seen["loss"] < level},
        )  # fmt: skip
        found[kind] = setup, run.copies["fit"], run.reached["fit"] >= 0
    return found


def targets(case: Case, count: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of every network of a stack."""
    X, y = regression(tuple(range(count * case.seed, count * (case.seed + 1))))
    return X.repeat(len(STARTS), 1, 1), y.repeat(len(STARTS), 1)


@shared
def sharpness(
    case: Case, kind: str, activation: str, optimiser: str, steps: int, level: float, longer: float
) -> Tensor:
    """Largest eigenvalues of Hessians, ``(starts, seeds)``, not a number where a network did not fit in time.

    Rows of normalised hidden layers are made ``longer`` first, which leaves the outputs alone.
    """
    setup, params, fitted = trained(case, activation, optimiser, steps, level)[kind]
    there = {name: longer * p if kind == "batch" and name in ("W1", "W2") else p for name, p in params.items()}
    data = targets(case, len(setup.seeds))
    tops = vmap(lambda p, x, t: top(p, x, t, setup), chunk_size=8)(there, *data)
    return tops.where(fitted, math.nan).reshape(len(STARTS), -1)


def top(params: Params, X: Tensor, y: Tensor, setup: Setup) -> Tensor:
    """Largest eigenvalue of the Hessian of one network of a stack."""
    sizes, shapes = [p.numel() for p in params.values()], [p.shape for p in params.values()]
    flat = torch.cat([p.reshape(-1) for p in params.values()])
    parts = lambda v: {m: u.reshape(s) for m, s, u in zip(params, shapes, v.split(sizes), strict=True)}
    return torch.linalg.eigvalsh(second_derivatives(lambda v: mean_loss(parts(v), X, y, setup))(flat))[-1]


def flatness(
    case: Case, activation: str, optimiser: str, steps: int, level: float, longer: float = 1.0
) -> list[Tensor]:
    """By start: by how many decades the normalised network is the flatter one, one entry a seed that both fit.

    Raises:
        Unfinished: fewer than five seeds of a start fit with and without normalisation.
    """
    flat = lambda kind, longer: sharpness(case, kind, activation, optimiser, steps, level, longer)
    gains = (flat("none", 1.0) / flat("batch", longer)).log10()
    if (gains.isfinite().sum(1) < 5).any():
        raise Unfinished(f"of {activation}, {optimiser} only {gains.isfinite().sum(1).tolist()} fit in {steps} steps")
    return [row[row.isfinite()] for row in gains]

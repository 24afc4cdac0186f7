"""Runs of section 4 and appendix F of paper B: complexities in the plane, interpolants, trained networks on digits."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.studies.square_loss import Setup, norm_products, run, two_classes
from companion.theory_iii.margins_and_bounds_runs import coins, draw
from normdyn.data import sets
from normdyn.networks.graphs import layered_weights, mlp


class Layers(NamedTuple):
    """Weights and hidden biases of a ReLU network."""

    weights: list[Tensor]
    biases: list[Tensor]


# Complexities in the plane


def unit(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], -1)


@shared
def signs(case: Case) -> tuple[Tensor, Tensor]:
    """Twelve points on the circle, and sixty draws of signs."""
    return torch.nn.functional.normalize(draw(case, "plane", 12, 2), dim=1), coins(case, "plane signs", 60, 12)


@shared
def exact(case: Case, bias: float) -> float:
    """Rademacher average of one ReLU unit of norm one: on each arc between two kinks the best direction is known."""
    X, draws = signs(case)
    base, away = torch.atan2(X[:, 1], X[:, 0]), math.acos(-bias)
    kinks = (torch.cat([base + away, base - away]) % (2 * math.pi)).sort().values
    middles = (kinks + torch.cat([kinks[1:], kinks[:1] + 2 * math.pi])) / 2
    active = (unit(middles) @ X.mT + bias > 0).double()
    total = 0.0
    for sigma in draws:
        tops = (active * sigma) @ X
        inside = torch.nn.functional.normalize(torch.cat([tops, -tops]), dim=1)
        values = (torch.cat([unit(kinks), inside]) @ X.mT + bias).relu() @ sigma
        total += values.abs().amax().item()
    return total / len(draws) / len(X)


@shared
def searched(case: Case, norms: tuple[float, float], bias: float) -> float:
    """The same of networks whose two layers have these norms, by a search over angles with one hidden unit.

    More units do not help: sum_j a_j |w_j| h(w_j / |w_j|) is at most |a| |W| max h.
    """
    X, draws = signs(case)
    shift = [torch.tensor([bias], dtype=X.dtype), torch.zeros(1, dtype=X.dtype)]
    readout = torch.tensor([[norms[1]]], dtype=X.dtype)
    output = lambda angle: mlp([norms[0] * unit(angle)[None], readout], X, biases=shift)[:, 0]
    grid = torch.linspace(0, 2 * math.pi, 1441, dtype=X.dtype)
    table = torch.stack([output(angle) for angle in grid])
    total = 0.0
    for sigma in draws:
        values = (table @ sigma).abs()
        value = lambda angle, sigma=sigma: -abs((output(torch.tensor(angle, dtype=X.dtype)) @ sigma).item())
        best = 0.0
        for k in values.topk(6).indices.tolist():
            around = (grid[k].item() - 0.005, grid[k].item() + 0.005)
            found = minimize_scalar(value, bounds=around, method="bounded", options={"xatol": 1e-12})
            best = max(best, -found.fun)
        total += best
    return total / len(draws) / len(X)


@shared
def inputs(case: Case) -> Tensor:
    return draw(case, "inputs", 500, 4)


@shared
def networks(case: Case, bias: float) -> list[Layers]:
    """Five ReLU networks of two hidden layers whose layers have norms between one and four."""
    found = []
    for k in range(5):
        weights = layered_weights((4, 6, 6, 1), case.generator(f"network {k}"))
        biases = [bias * draw(case, f"biases {k} {l}", len(W)) for l, W in enumerate(weights)]
        found.append(Layers([1.5 * W for W in weights], biases))
    return found


# Interpolants


@shared
def interpolants(case: Case, stretch: float = 1.0) -> list[Tensor]:
    """Margins of linear interpolants from 18 starts, 40 points in 60 dimensions; stretched by a factor."""
    A = draw(case, "points", 40, 60) / math.sqrt(60)
    y, inverse = coins(case, "labels", 40), torch.linalg.pinv(A)
    found = []
    for u in draw(case, "starts", 6, 60):
        for size in (0.0, 0.5, 2.0):
            found.append(y * (A @ (stretch * (inverse @ y + size * (u - inverse @ (A @ u))))))
    return found


@shared
def shortest(case: Case, k: int, noise: bool, samples: int = 150, dimension: int = 200) -> tuple[float, float]:
    """Test error of the shortest interpolant of two distant Gaussian classes, and 2 rho R_N; labels may be coins."""
    role, mean = f"shortest {k} {noise}", torch.zeros(dimension, dtype=torch.float64)
    mean[0] = 6.0
    y, y_new = coins(case, f"{role} y", samples), coins(case, f"{role} new y", 4000)
    cloud = lambda name, t: (
        draw(case, f"{role} {name}", len(t), dimension) / math.sqrt(dimension) + t[:, None] * mean / 2
    )
    x, x_new = cloud("x", y), cloud("new x", y_new)
    if noise:
        y, y_new = coins(case, f"{role} noise", samples), coins(case, f"{role} new noise", 4000)
    w = torch.linalg.pinv(x) @ y
    average = (coins(case, f"{role} signs", 500, samples) @ x).norm(dim=1).mean().item() / samples
    return ((x_new @ w) * y_new <= 0).double().mean().item(), 2 * w.norm().item() * average


# Leaving one out


class Trial(NamedTuple):
    """Random ReLU features and labels of samples, and of others of the same two classes."""

    features: Tensor
    labels: Tensor
    others: Tensor
    other_labels: Tensor


@shared
def digits_task(case: Case) -> Trial:
    """Sixty digits, three against eight, in 300 random ReLU features."""
    pair = sets.select_classes(sets.digits(), ["3", "8"])
    (P, p), (Q, q) = two_classes(sets.flatten(pair), samples=60, seed=case.seed)
    hidden = draw(case, "hidden", 300, P.shape[1])
    features = lambda images: (images @ hidden.mT).relu() / math.sqrt(300)
    return Trial(features(P), p, features(Q), q)


@shared
def starts(case: Case, kind: str) -> list[Tensor]:
    """Where gradient flow begins: at zero, at the ridge solution of other samples, or at random and its negative."""
    trial = digits_task(case)
    if kind == "informed":
        G, eye = trial.others, torch.eye(300, dtype=torch.float64)
        return [torch.linalg.solve(G.mT @ G + 0.03 * eye, G.mT @ trial.other_labels)]
    if kind == "random":
        return [sign * u for u in draw(case, "far", 20, 300) for sign in (1, -1)]
    return [torch.zeros(300, dtype=torch.float64)]


def interpolant(F: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Where gradient flow on the square loss ends."""
    return start + torch.linalg.pinv(F) @ (y - F @ start)


def margins(trial: Trial, start: Tensor) -> Tensor:
    return trial.labels * (trial.features @ interpolant(trial.features, trial.labels, start))


def length(trial: Trial, start: Tensor) -> Tensor:
    return interpolant(trial.features, trial.labels, start).norm()


def least_length(trial: Trial) -> Tensor:
    """Of all interpolants, by the kernel matrix: the root of y K^-1 y."""
    F, y = trial.features, trial.labels
    return (y @ torch.linalg.solve(F @ F.mT, y)).sqrt()


def closed_form(trial: Trial, start: Tensor, ridge: float = 0.0) -> Tensor:
    """Errors on each sample when it is left out: [K^-1 (y - F u)]_i / [K^-1]_ii."""
    F, y = trial.features, trial.labels
    inverse = torch.linalg.inv(F @ F.mT + ridge * torch.eye(len(y), dtype=y.dtype))
    return (inverse @ (y - F @ start)) / inverse.diagonal()


@shared
def left_out(case: Case, kind: str, size: float = 1.0) -> float:
    """Root mean square of the errors, over samples and starts."""
    trial = digits_task(case)
    return torch.stack([closed_form(trial, size * u) for u in starts(case, kind)]).square().mean().sqrt().item()


@shared
def refitted(case: Case, kind: str) -> float:
    """The same by fitting again without each sample; of the random starts only the first pair."""
    F, y, *_ = digits_task(case)
    errors = []
    for u in starts(case, kind)[:2]:
        for i in range(len(y)):
            rest = torch.arange(len(y)) != i
            errors.append(y[i] - F[i] @ interpolant(F[rest], y[rest], u))
    return torch.stack(errors).square().mean().sqrt().item()


# Trained networks

ROLES = {"no normalisation": "plain", "batch normalisation": "bn"}


@shared
def halves(case: Case) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """256 digits, even against odd, and the rest."""
    digits = sets.digits()
    parity = replace(digits, labels=digits.labels % 2, names=("even", "odd"))
    return two_classes(sets.flatten(parity), samples=256, seed=case.seed)


@shared
def trained(case: Case) -> dict[str, tuple[Setup, Tensor, Tensor]]:
    """Setups with norms and test errors: scale x decay x seed, four layers, without and with normalisation."""
    seeds, epochs = tuple(10 * case.seed + k for k in range(10)), 400 if case.profile == "quick" else 1000
    plain = Setup(scales=(2.0, 3.0, 4.0, 6.0), decays=(0.0, 0.0003, 0.001), seeds=seeds, width=16, batch_norm=False,
                  learning_rate=0.01, epochs=epochs, evaluations=4)  # fmt: skip
    normed = replace(plain, scales=(0.1, 1.0, 3.0), decays=(0.0, 0.003, 0.01), batch_norm=True, learning_rate=0.1,
                     epochs=epochs // 2)  # fmt: skip
    found = {}
    for name, setup in zip(ROLES, (plain, normed), strict=True):
        result = run(setup, *halves(case), device=case.device)
        found[name] = (setup, norm_products(result)["folded"][-1], result["test_error"][-1])
    return found


@shared
def reached_complexity(case: Case, width: int = 16, steps: int = 150) -> float:
    """A lower bound of the Rademacher average of four unit ReLU layers on the digits, by ascent on the spheres."""
    (Z, _), _ = halves(case)
    total = 0.0
    for k, sigma in enumerate(coins(case, "ascent", 6, len(Z))):
        shapes = [(width, Z.shape[1]), (width, width), (width, width), (1, width)]
        W = [draw(case, f"ascent {k} {l}", *shape) for l, shape in enumerate(shapes)]
        value = torch.zeros(())
        for _ in range(steps):
            W = [(w / w.norm()).requires_grad_() for w in W]
            value = (mlp(W, Z)[:, 0] @ sigma).abs() / len(Z)
            W = [(w + g / g.norm()).detach() for w, g in zip(W, torch.autograd.grad(value, W), strict=True)]
        total += value.item()
    return total / 6

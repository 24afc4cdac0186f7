"""Figures of the chapter on convergence: a path without limit, unit variances that do not whiten, saturated layers."""

import math

import torch
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, INK, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import convergence_runs as runs
from companion.normalization_geometry.convergence import finitely_many
from normdyn.motion.flows import gradient_flow, integrate

SIZE = 1.5  # of the solution


def portrait() -> dict[str, Tensor]:
    """Flow lines of a unit with gain in the plane of its angle to the solution and its gain, inputs whitened."""
    plane = lambda p: (p["gain"].square() / 2 - p["gain"] * SIZE * p["angle"].cos()).sum()
    begin = {
        "gain": runs.rows([1.8, -1.8, 1.8, -1.8, 0.05, -0.05, 0.05, -0.05, 1.0, -1.0]),
        "angle": runs.rows([3.0, 0.14, -3.0, -0.14, 1.58, 1.56, -1.58, -1.56, 2.2, 0.9]),
    }
    return integrate(gradient_flow(plane), begin, torch.linspace(0, 12, 121), relative=1e-9)


def draw_no_limit(case: Case) -> None:
    """A smooth bounded path without limit, and the plane of angle and gain."""
    fig, (left, right) = axes(1, 2, height=3.3)
    r = (1 - 1 / torch.linspace(1.2, 50, 4000, dtype=torch.float64)).sqrt()
    turns, rim, lines = 1 / (1 - r**2), torch.linspace(0, 2 * math.pi, 200), portrait()
    left.plot(r * turns.cos(), r * turns.sin(), **MEASURED | {"linewidth": 0.9})
    left.plot(rim.cos(), rim.sin(), **PREDICTED)
    left.set(aspect="equal", xlabel="$w_1$", ylabel="$w_2$", title="a path without limit")
    for k in range(10):
        right.plot(lines["angle"][:, k].rad2deg(), lines["gain"][:, k], **MEASURED | {"linewidth": 1.2})
    right.plot([-180, 0, 180], [-SIZE, SIZE, -SIZE], "o", color=GREEN, label="minimum")
    right.plot([-90, 90], [0, 0], "X", color=BROKEN["color"], markersize=8, label="saddle")
    right.set(xlabel="angle to $w^*$ (degrees)", ylabel=r"gain $\gamma$", xticks=[-180, -90, 0, 90, 180])
    right.set(title="with a gain", ylim=(-2.6, 2.6))
    right.legend(loc="upper center", ncols=2)
    data = {"spiral_radius": r, "spiral_angle": turns}
    data |= {f"{name}_{k}": lines[name][:, k] for name in ("angle", "gain") for k in range(10)}
    show_figure(fig, name="c-no-limit", data=data)


def excess(H: Tensor, error: Tensor, t: Tensor) -> Tensor:
    """Excess loss after steps of one over the largest curvature, from an error in the weights."""
    values, basis = torch.linalg.eigh((H + H.mT) / 2)
    values = values.clamp_min(0)
    rest = torch.log1p(-(values / values[-1]).clamp(max=1 - 1e-16))
    return (values * (error @ basis).square() / 2 * (2 * t[:, None] * rest).exp()).sum(1)


def draw_rates(case: Case) -> None:
    """Three features that unit variances make slower, and three hundred whose power law ends."""
    fig, (left, right) = axes(1, 2, height=3.1)
    C, short = runs.rows(runs.WORSE), torch.arange(0, 2001, dtype=torch.float64)
    data = {"steps": short}
    for name, H, error, look in (
        ("plain", C, torch.ones(3).double(), MEASURED),
        ("standardised", runs.scaled(C), C.diagonal().sqrt(), BROKEN),
    ):
        kappa, curve = runs.condition(H), excess(H, error, short)
        left.semilogy(short, curve, **look, label=rf"{name}, $\kappa={kappa:.0f}$")
        left.semilogy(short, curve[-1] * (1 - 1 / kappa) ** (2 * (short - short[-1])), **PREDICTED)
        data[f"three_{name}"] = curve
    left.set(xlabel="steps", ylabel="excess loss", ylim=(1e-9, 30))
    left.legend(loc="upper right")
    d, t = 300, torch.logspace(0, 7, 141, dtype=torch.float64)
    turned, power = torch.linalg.qr(runs.normal(case, "C turned", d, d)).Q, (math.pi / (2 * t)).sqrt() / 4
    wide = turned * finitely_many(d) @ turned.mT
    plain = excess(finitely_many(d).diag(), torch.ones(d).double(), t)
    rotated = excess(runs.scaled(wide), (turned @ torch.ones(d).double()) * wide.diagonal().sqrt(), t)
    right.loglog(t, plain, **MEASURED, label="plain")
    right.loglog(t, power, color=INK, linestyle=":", linewidth=1.2, label="$t^{-1/2}$")
    right.loglog(t, power * torch.erfc((2 * t).sqrt() / d), **PREDICTED, label="law with erfc")
    right.loglog(t, rotated, **BROKEN, label="rotated, standardised")
    right.axvline(1, color=GREEN, linestyle=":", linewidth=2, label="uncorrelated, standardised")
    right.set(xlabel="steps", ylim=(1e-9, 3))
    right.legend(loc="lower left", bbox_to_anchor=(0.05, 0), fontsize=8)
    show_figure(fig, name="c-rates", data=data | {"long_steps": t, "plain": plain, "rotated": rotated})


SHOWN = (("sigmoid", 1, 0.2),)


def draw_plateau(case: Case) -> None:
    """Loss of sigmoid layers, plain and normalised, by the bias or the shift that they start from."""
    fig, ax = axes(1, 1, width=6.0, height=3.0)
    columns, variance = {}, runs.saturated(case, 0.0, cells=SHOWN)[1]
    for label, bias, shift, normed, look in (
        ("plain, bias 0", 0.0, 0.0, 0, PREDICTED),
        ("plain, bias 7", runs.BIAS, 0.0, 0, BROKEN),
        ("normalised, bias 7", runs.BIAS, 0.0, 1, MEASURED),
        ("normalised, shift 7", runs.BIAS, runs.BIAS, 1, MEASURED | {"color": GREEN, "linestyle": ":"}),
    ):
        run = runs.saturated(case, bias, shift, cells=SHOWN)[0][1:, 0, normed]
        at = torch.arange(1, len(run) + 1)
        ax.plot(at, run.mean(1), **look, label=label)
        ax.fill_between(at, run.amin(1), run.amax(1), color=look["color"], alpha=0.12, linewidth=0)
        columns[label] = run.mean(1)
    ax.set(xscale="log", xlabel="steps", ylabel="loss", ylim=(0, 1.3 * variance))
    ax.legend(loc="lower left")
    show_figure(fig, name="c-plateau", data={"steps": at} | columns)

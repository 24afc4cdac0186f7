"""Figures of the chapter on norms and expected error, and the numbers that its prose quotes."""

import math

import torch
from scipy.stats import spearmanr
from torch import Tensor

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, MEASURED, ORANGE, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import bounds_runs as runs


def draw_norm_and_error(case: Case) -> None:
    """Test error against the product of norms, one dot a network; colours are decays."""
    fig, panels = axes(1, 2, height=3.3, sharey=True)
    columns = {}
    for ax, (name, (setup, rho, errors)) in zip(panels, runs.trained(case).items(), strict=True):
        for j, color in enumerate((VERMILION, ORANGE, BLUE)):
            norms, error = rho[:, j].flatten(), 100 * errors[:, j].flatten()
            ax.semilogx(norms, error, ".", color=color, markersize=5, label=f"decay {setup.decays[j]:g}")
            columns |= {f"rho_{runs.ROLES[name]}_{j}": norms, f"error_{runs.ROLES[name]}_{j}": error}
        ax.set(xlabel=r"$\rho$, normalisation folded in", title=name)
        ax.xaxis.set_minor_formatter("")
        ax.legend(loc="upper left", fontsize=8)
    panels[0].set(ylabel="test error, percent", ylim=(2.5, 10.5))
    show_figure(fig, name="norm-and-error", data=columns)


def draw_leave_one_out(case: Case) -> None:
    """Leave-one-out error against the norm of the interpolant, from an informed start and from random ones."""
    trial, steps, columns = runs.digits_task(case), torch.linspace(0, 2, 30, dtype=torch.float64), {}
    (informed,) = runs.starts(case, "informed")
    random = [u * informed.norm() / u.norm() for u in runs.starts(case, "random")]
    root = lambda values: torch.stack(list(values)).square().mean().sqrt()
    fig, ax = axes(height=3.1, width=5.6)
    for starts, style, name in (([informed], MEASURED, "informed start"), (random, BROKEN, "random starts, mean")):
        lengths = torch.stack([root(runs.length(trial, t * u) for u in starts) for t in steps])
        values = torch.stack([root(runs.closed_form(trial, t * u) for u in starts) for t in steps])
        ax.plot(lengths, values, **style, label=name)
        columns |= {f"norm_{name.split()[0]}": lengths, f"error_{name.split()[0]}": values}
    zero = torch.zeros_like(informed)
    ax.plot(runs.length(trial, zero), runs.left_out(case, "zero"), "o", color=PREDICTED["color"], label="shortest")
    ax.set(xlabel="norm of the interpolant", ylabel="leave-one-out error")
    ax.legend(fontsize=8)
    show_figure(fig, name="leave-one-out", data=columns)


def ranks(case: Case, rho: Tensor, errors: Tensor) -> tuple[float, Tensor, float]:
    """Rank correlation over all runs, its 90 % band from seeds drawn again, and that over the seeds of one setting."""
    seeds = rho.shape[-1]
    pooled = lambda at: spearmanr(rho[..., at].flatten(), errors[..., at].flatten()).statistic
    again = torch.randint(seeds, (200, seeds), generator=case.generator("seeds again"))
    band = torch.tensor([pooled(at) for at in again], dtype=torch.float64)
    settings = list(zip(rho.flatten(0, 1), errors.flatten(0, 1), strict=True))
    inner = sum(spearmanr(r, e).statistic for r, e in settings) / len(settings)
    return pooled(torch.arange(seeds)), band.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)), inner


def agreement(rho: Tensor, errors: Tensor) -> float:
    """Share of pairs with one seed of which the one with the smaller norm has the smaller error."""
    order = lambda values: (values.flatten(0, 1)[:, None] - values.flatten(0, 1)).sign()
    same = order(rho) * order(errors)
    return ((same > 0).sum() / (same != 0).sum()).item()


def of_networks(case: Case) -> dict[str, str]:
    """The bound of trained networks from below and by the theorem; what norms say about the order of errors."""
    found = runs.trained(case)
    samples, lower = len(runs.halves(case)[0][0]), runs.reached_complexity(case)
    upper = (math.sqrt(2 * math.log(2) * 4) + 1) / math.sqrt(samples)
    least = min(rho.min().item() for _, rho, _ in found.values())
    errors = torch.cat([error.flatten() for *_, error in found.values()])
    numbers = {
        "lower": f"{lower:.4f}",
        "upper": f"{upper:.2f}",
        "least": f"{least:.0f}",
        "vacuous": f"{2 * least * lower:.0f}",
        "honest": f"{2 * least * upper:.0f}",
        "error-range": f"{errors.min():.2f} to {errors.max():.2f}",
        "networks": f"{len(errors)}",
    }
    for name, (_, rho, error) in found.items():
        statistic, band, inner = ranks(case, rho, error)
        short = runs.ROLES[name]
        numbers[f"rank-{short}"] = f"{statistic:.2f} ({band[0]:.2f} to {band[1]:.2f})"
        numbers[f"inner-{short}"] = f"{inner:.2f}"
        numbers[f"agree-{short}"] = f"{100 * agreement(rho, error):.0f}"
    return numbers


def of_interpolants(case: Case, count: int = 40) -> dict[str, str]:
    """Errors and bounds of the shortest interpolant of distant classes and of coins, at delta = 1/20."""
    rest = 5.2 * math.sqrt(math.log(20) / 300)
    far, noise = ([runs.shortest(case, k, coin) for k in range(count)] for coin in (False, True))
    return {
        "useful": f"{max(term for _, term in far):.2f}",
        "useful-error": f"{max(error for error, _ in far):.3f}",
        "noise-bound": f"{min(term for _, term in noise):.0f}",
        "rest": f"{rest:.2f}",
    }


def of_leaving_out(case: Case) -> dict[str, str]:
    """Norms and leave-one-out errors of the shortest and of the informed interpolant, and of ridge regression."""
    trial, (zero,), (informed,) = runs.digits_task(case), runs.starts(case, "zero"), runs.starts(case, "informed")
    ridge = min(runs.closed_form(trial, zero, 10.0**k).square().mean().sqrt().item() for k in range(-6, 1))
    return {
        "norm-zero": f"{runs.length(trial, zero):.1f}",
        "norm-informed": f"{runs.length(trial, informed):.1f}",
        "loo-zero": f"{runs.left_out(case, 'zero'):.2f}",
        "loo-informed": f"{runs.left_out(case, 'informed'):.2f}",
        "loo-ridge": f"{ridge:.2f}",
    }

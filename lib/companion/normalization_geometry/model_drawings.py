"""Figures of the chapter on the model of paper C."""

import math

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, MEASURED, ORANGE, PREDICTED, PURPLE, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import model_runs as runs
from companion.normalization_geometry.model import least_curvature
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.networks.normalizers import normalize, normalize_backward


def draw_inverse_scale(case: Case) -> None:
    """Length of the gradient against the size of the weights: epsilon zero, a finite one, no normalisation."""
    grid = torch.logspace(-3, 3, 37, dtype=torch.float64).tolist()
    at = lambda *args: torch.stack([runs.slopes_at(case, c, *args)[0].norm() for c in grid])
    zero, finite, plain = at(0.0), at(0.01), at(0.0, False)
    law = torch.stack([runs.slopes_at(case, 1.0, 0.01 / c**2)[0].norm() / c for c in grid])
    fig, ax = axes(height=3.1, width=6.2)
    ax.loglog(grid, zero, **MEASURED)
    ax.loglog(grid, finite, color=GREEN, linewidth=2)
    ax.loglog(grid[::3], law[::3], "o", color=GREEN, markersize=4.5)
    ax.loglog(grid, zero[0] * grid[0] / torch.tensor(grid), **PREDICTED)
    ax.loglog(grid, plain, **BROKEN)
    ax.text(6e-3, 2 * zero[4], r"$\epsilon=0$", color=BLUE)
    ax.text(1.2e-3, 0.3 * finite[0], r"$\epsilon=0.01$, dots: law", color=GREEN)
    ax.text(40, 4 * plain[-10], "no BN", color=BROKEN["color"], ha="right")
    ax.set(xlabel="factor on weights and biases", ylabel="norm of the gradient")
    columns = {"factor": grid, "epsilon_0": zero, "epsilon_0.01": finite, "law": law, "plain": plain}
    show_figure(fig, name="c-inverse-scale", data=columns)


def draw_outlier(case: Case) -> None:
    """Normalised value of one outlier against its size, for four sizes of the batch."""
    fig, ax = axes(height=3.1, width=6.2)
    sizes = torch.logspace(0, 4, 60, dtype=torch.float64)
    columns = {"size": sizes}
    for m, color in zip((4, 16, 64, 256), (ORANGE, GREEN, PURPLE, BLUE), strict=True):
        columns[f"m_{m}"] = runs.outlier(case, m, sizes)
        ax.loglog(sizes, columns[f"m_{m}"], color=color, linewidth=2)
        ax.axhline(math.sqrt(m - 1), **PREDICTED)
        ax.text(9e3, 1.08 * math.sqrt(m - 1), f"m = {m}", va="bottom", ha="right", color=color)
    ax.loglog(sizes, sizes, **BROKEN)
    ax.text(30, 45, "not normalised", color=BROKEN["color"], ha="right")
    ax.set(xlabel="size of the outlier, in standard deviations of the others", ylabel=r"its value $\hat z$")
    ax.set(xlim=(1, 1e4), ylim=(0.7, 100))
    show_figure(fig, name="c-outlier", data=columns)


def draw_projector(case: Case) -> None:
    """Eigenvalues of the backward pass, and what it leaves of a gradient."""
    fig, (left, right) = axes(1, 2, height=2.9)
    z = normal(case, "projector", 12)
    z, columns = z * math.sqrt(12) / (z - z.mean()).norm(), {}
    hat = normalize(z, (0,))
    for e, fill in ((0.0, BLUE), (1.0, "none")):
        J = torch.func.jacrev(lambda z, e=e: normalize(z, (0,), epsilon=e))(z) * math.sqrt(1 + e)
        columns[f"epsilon_{e}"] = torch.linalg.eigvalsh(J)
        label = r"$\epsilon=v$" if e else r"$\epsilon=0$"
        style = {"color": BLUE, "markerfacecolor": fill, "markersize": 8 if e else 5}
        left.plot(range(1, 13), columns[f"epsilon_{e}"], "o", label=label, **style)
    left.set(xlabel="number", title=r"eigenvalues of $s\,\partial\hat z/\partial z$", ylim=(-0.1, 1.15))
    left.set(xticks=[1, 2, 6, 12])
    left.legend(loc="center right")
    above = 0.7 + 0.6 * hat + normal(case, "above", 12)
    basis = torch.stack([torch.ones(12).double() / math.sqrt(12), hat / hat.norm()])
    for x, name, vector, color in (
        (-0.2, r"above: $\delta$", above, ORANGE),
        (0.2, r"below: $P\delta$", normalize_backward(z, above, (0,)), BLUE),
    ):
        shares = [*(basis @ vector).square(), (vector - basis.mT @ (basis @ vector)).square().sum()]
        right.bar([k + x for k in range(3)], shares, width=0.36, color=color, label=name)
        columns["above" if x < 0 else "below"] = torch.stack(shares)
    right.set(xticks=range(3), title="squared length of the gradient")
    right.set_xticklabels(["along 1", r"along $\hat z$", "the rest"])
    right.legend(loc="upper right")
    show_figure(fig, name="c-projector", data=columns)


def draw_flat_direction(case: Case) -> None:
    """Along a descent: the Hessian times the weights against the gradient, and the smallest eigenvalue."""
    path = runs.descent_of_a_unit(case)
    t, mixed = path["times"], torch.einsum("tij,tj->ti", path["H"], path["w"]).norm(dim=1)
    slope, lowest, bound = path["slope"].norm(dim=1), -torch.linalg.eigvalsh(path["H"])[:, 0], -least_curvature(path)
    fig, (left, right) = axes(1, 2, height=2.9)
    left.loglog(t, mixed, **MEASURED, label=r"$\|Hw\|$")
    left.loglog(t, slope, **PREDICTED, label=r"$\|\nabla L\|$")
    right.loglog(t, lowest, **MEASURED, label=r"$-\lambda_{\min}$")
    right.loglog(t, bound, **PREDICTED, label="at least")
    for ax in (left, right):
        ax.set(xlabel="flow time")
        ax.legend(loc="lower left")
    columns = {"time": t, "mixed": mixed, "gradient": slope, "lowest": lowest, "bound": bound}
    show_figure(fig, name="c-flat-direction", data=columns)

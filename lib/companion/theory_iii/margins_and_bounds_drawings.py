"""Figures of the chapter on margins and bounds: what minimisers lack, worst members, and streams."""

import math

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii import margins_and_bounds_runs as runs
from companion.theory_iii.margins_and_bounds import NORMS, RHOS, angle_of, confidence, defects, hashed
from companion.theory_iii.summary_theorem import plane
from normdyn.symmetry.polar import hard_margin


def draw_defects(case: Case) -> None:
    """What the margin of a minimiser lacks, and where minimisers of two losses go."""
    fig, (left, right) = axes(1, 2, height=3.2)
    A, columns = plane(case)[0], {"rho": RHOS}
    for p in NORMS:
        best = runs.largest_margin(A, p)
        lacks = torch.stack(
            [best - runs.margin_of_minimiser(hashed(A), p, rho.item(), runs.log_exponential) for rho in RHOS]
        )
        columns[f"linear_p{p:g}"] = lacks.clamp(min=0)
        for depth in (2, 3):
            columns[f"depth{depth}_p{p:g}"] = defects(runs.members(case, depth, p), runs.log_exponential) / RHOS
    for name, values in columns.items():
        if name == "rho":
            continue
        look = MEASURED if name.startswith("linear") else {"color": GREEN}
        label = {"linear_p2": "linear functions", "depth2_p2": "ReLU networks"}.get(name)
        seen = torch.where(values > 1e-9, values, math.nan)
        left.loglog(RHOS, seen, **look | {"linewidth": 1.1, "label": label})
    left.loglog(RHOS, math.log(6) / RHOS, **PREDICTED, label=r"$\ln N/\rho$")
    left.set(xlabel=r"$\rho$", ylabel="what the margin lacks", ylim=(1e-8, 3))
    left.legend(fontsize=8)
    degrees = lambda loss: torch.stack([angle_of(rho.item(), A, loss) for rho in RHOS]).rad2deg()
    columns |= {"exponential_degrees": degrees(runs.log_exponential), "power_degrees": degrees(runs.power)}
    right.semilogx(RHOS, columns["exponential_degrees"], **MEASURED, label="exponential loss")
    right.semilogx(RHOS, columns["power_degrees"], **BROKEN, label="loss $1/(1+m)$")
    u = hard_margin(A)[0]
    right.axhline(math.degrees(math.atan2(u[1], u[0])), **PREDICTED, label="largest margin")
    right.set(xlabel=r"$\rho$", ylabel="direction of the minimiser, degrees")
    right.legend(fontsize=8)
    show_figure(fig, name="margin-defect", data=columns)


def draw_promises(case: Case) -> None:
    """Largest gaps of memorising classes under their bound, and expected risk along three streams."""
    fig, (left, right) = axes(1, 2, height=3.1)
    sizes, columns = (5, 10, 20, 40, 80, 160, 320), {}
    for points, look in ((60, MEASURED), (2000, {"color": GREEN})):
        known = [runs.memoriser(case, points, n) for n in sizes]
        gap = torch.stack([one.gaps.quantile(0.95) for one in known])
        bound = torch.stack([one.averages.mean() + confidence(one.samples)[-1] for one in known])
        left.semilogx(sizes, gap, **look, label=f"largest gap, {points:,} points")
        left.semilogx(sizes, bound, **PREDICTED, label="bound" if points == 60 else None)
        columns |= {f"gap_{points}": gap, f"bound_{points}": bound}
    left.set(xlabel="samples $N$", ylabel="true minus empirical error", ylim=(0, 1.8))
    left.set_xticks([5, 20, 80, 320], ["5", "20", "80", "320"])
    left.set_xticks([], minor=True)
    left.legend(fontsize=8)
    looks = {(6, False): (BROKEN, "6 samples, shaken"), (32, False): ({"color": GREEN}, "all inputs, shaken"),
             (32, True): (MEASURED, "new samples")}  # fmt: skip
    steps = torch.unique(torch.logspace(0, math.log10(3999), 60).long())
    for (n, fresh), (look, label) in looks.items():
        truth = runs.stream(case, n, fresh).truth
        risk = (runs.descent(case, n, fresh)[steps - 1] - truth).square().sum(1) / 2
        right.loglog(steps, risk, **look, label=label)
        columns |= {f"risk_{n}_{'new' if fresh else 'shaken'}": risk}
        if not fresh:
            floor = (runs.ridge(case, n) - truth).square().sum().item() / 2
            right.axhline(floor, **PREDICTED, label="ridge regression" if n == 6 else None)
    right.set(xlabel="steps", ylabel="expected risk over the least")
    right.legend(fontsize=8, loc="lower left")
    show_figure(fig, name="promises", data=columns)

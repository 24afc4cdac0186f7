"""Figures of the chapter on flows for entrywise norms: orders, balance, and the passage through zero."""

import torch
from matplotlib.axes import Axes

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, INK, MEASURED, ORANGE, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing.balanced_steps import crossing_path, crossings
from companion.weight_balancing.lpq_rules import ends, flow_of, regression
from normdyn.motion.flows import integrate

COUNTS = (4, 8, 16, 32, 64)
RULES = {
    "exponentiated": BROKEN | {"label": "exponentiated gradient, E (53)"},
    "Euler": MEASURED | {"label": "exponential Euler"},
    "midpoint": MEASURED | {"color": GREEN, "label": "exponential midpoint"},
}
WAYS = {
    "midpoint": MEASURED | {"label": "two stages"},
    "implicit": MEASURED | {"color": GREEN, "linestyle": ":", "label": "implicit midpoint"},
    "flip": BROKEN | {"color": ORANGE, "label": "sign flip"},
    "descent": BROKEN | {"label": "gradient descent"},
}


def slope(ax: Axes, order: int, last: float, label: str | None = None) -> None:
    """A line of the given order through the last point."""
    n = torch.tensor(COUNTS).double()
    ax.loglog(n, last * (n / n[-1]) ** -order, **PREDICTED, label=label)


def draw_rules(case: Case) -> None:
    """Error in the weights and miss of the balance against the number of steps to a fixed time, p = q = 1."""
    fig, (left, right) = axes(1, 2, height=3.1)
    columns = {"steps": COUNTS}
    for rule, look in RULES.items():
        errors, misses = (torch.stack([ends(case, rule, 1, 1, n)[0][k] for n in COUNTS]) for k in (0, 1))
        left.loglog(COUNTS, errors, **look, marker="o", markersize=4)
        right.loglog(COUNTS, misses.clamp_min(1e-17), **look, marker="o", markersize=4)
        columns |= {f"error_{rule}": errors, f"miss_{rule}": misses}
    slope(left, 1, columns["error_Euler"][-1].item(), "slopes 1 and 2")
    slope(left, 2, columns["error_midpoint"][-1].item())
    slope(right, 1, columns["miss_exponentiated"][-1].item())
    for panel in (left, right):
        panel.set_xticks(COUNTS, [str(n) for n in COUNTS])
        panel.set_xticks([], minor=True)
        panel.set(xlabel="steps to a fixed time ($p=q=1$)")
    left.set(ylabel="error in the weights")
    left.set_ylim(columns["error_midpoint"].min().item() / 200, None)
    right.set(ylabel=r"miss of $Q=e^{-\lambda t}Q(0)$", ylim=(1e-17, 1))
    left.legend(fontsize=8, loc="lower left")
    show_figure(fig, name="exponential-rules", data=columns)


def draw_crossing(case: Case) -> None:
    """A weight that has to change its sign, by four ways; and the balance of layered networks whose weights do."""
    fig, (left, right) = axes(1, 2, height=3.2)
    times, one = torch.linspace(0, 8, 41).double(), regression(case)
    exact = integrate(flow_of(one, 2, 2, 0.0), one.params, times, relative=1e-9)["W"][:, 2, 0]
    looks = {
        (2, 2): MEASURED | {"label": "two stages, $p=2$"},
        (1, 2): MEASURED | {"color": ORANGE, "label": "two stages, $p=1$"},
        (2, 1): BROKEN | {"marker": "o", "markersize": 3, "label": "one stage, $p=2$"},
    }
    columns = {"time": times, "exact": exact}
    for (p, stages), look in looks.items():
        clock, path = crossing_path(case, p, stages)
        left.plot(clock, path, **look)
        columns |= {f"time p={p} stages={stages}": clock, f"weight p={p} stages={stages}": path}
    left.plot(times, exact, **PREDICTED, label="exact flow, $p=2$")
    left.axhline(0, color=INK, linewidth=0.6)
    left.set(xlabel="time", ylabel="weight that has to change sign")
    left.legend(fontsize=8)
    for rule, look in WAYS.items():
        misses = torch.stack([miss(run) for run in crossings(case, rule)]).amax(0).clamp_min(1e-17)
        right.semilogy(torch.arange(1, len(misses) + 1), misses, **look)
        columns[f"miss_{rule}"] = misses
    right.set(xlabel="step", ylabel="miss of the law of $Q$", ylim=(1e-17, 1))
    right.legend(fontsize=8, loc="center")
    show_figure(fig, name="through-zero", data=columns)


def miss(run: dict) -> torch.Tensor:
    """Largest deviation of Q from its law after each step, relative to the largest Q."""
    law = (-0.1 * run["clock"]).exp()[:, None] * run["Q"][0]
    return ((run["Q"] - law).abs().amax(1) / law.abs().amax(1))[1:]

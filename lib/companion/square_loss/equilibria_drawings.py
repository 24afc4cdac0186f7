"""The figure of the chapter on equilibria of length and direction, and the numbers of its text."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import equilibria_runs as runs


def draw_overshoot() -> None:
    """Length against time for two inputs with decay, its moving target, and the length for one input without."""
    two, alone = runs.planar((0.0, 5.0), 0.01), runs.planar((0.0,), 0.0)
    fig, ax = axes(height=3.1)
    ax.semilogx(two["times"][1:], two["rho"][1:], **BROKEN, label=r"$\rho$, two inputs")
    ax.semilogx(two["times"][1:], two["target"][1:], **PREDICTED, label=r"its target $\rho_{eq}(V)$")
    ax.semilogx(alone["times"][1:], alone["rho"][1:], **MEASURED, label=r"$\rho$, one input, no decay")
    ax.set(xlabel="time", ylabel="length", ylim=(0, 2.5))
    ax.legend(loc="upper right")
    columns = {"rho_two": two["rho"], "target_two": two["target"], "rho_one": alone["rho"]}
    show_figure(fig, name="square-overshoot", data={"time": two["times"]} | columns)


def numbers(case: Case) -> dict[str, str]:
    """What the text quotes: the overshoot, the loss that stays, and how much longer than the least interpolants are."""
    path = runs.planar((0.0, 5.0), 0.01)
    excess = lambda noise: [100 * (one.rho / one.least - 1) for one in runs.first_interpolants(case, noise)]
    lost = lambda *angles: (runs.at_angles(*angles) @ runs.planar(angles, 1e-4, -25.0)["w"][-1] - 1).square().sum()
    nets = runs.interpolants(case)
    apart = torch.stack([(one.probe - nets[0].probe).norm() / one.probe.norm() for one in nets[1:]])
    return {
        "peak": f"{path['rho'].max():.3f}",
        "ending": f"{path['rho'][-1]:.3f}",
        "two-left": f"{lost(0.0, 30.0):.0e}",
        "three-left": f"{lost(0.0, 30.0, 60.0):.4f}",
        "spread-out": f"{sum(excess(1.0)) / 3:.1f}",
        "agreeing": f"{sum(excess(0.15)) / 3:.1f}",
        "apart": f"{100 * apart.min():.0f}",
    }

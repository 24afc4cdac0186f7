"""Figures of the chapter on degenerate Hessians: a hat with its brim, and two counts of zero modes."""

import math

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, INK, MEASURED, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii import degenerate_hessian as degenerate
from normdyn.measures.curvature import hessian, nullity, orthogonal_orbit_dimension

PENALTIES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.35, 0.4, 0.6, 0.7, 0.8, 1.0)


def smallest(penalty: float, corner: float) -> float:
    """The smallest eigenvalue at the global minimum: zero up to the corner, then a line."""
    return max(0.0, 2 * (penalty - corner))


def draw_hat(case: Case) -> None:
    """The loss over the plane w1 = w2, w3 = w4 as a surface, and the smallest eigenvalue against the penalty."""
    fig, (hat, right) = axes(1, 2, height=3.3, width=7.2)
    spot = hat.get_subplotspec()
    hat.remove()
    hat = fig.add_subplot(spot, projection="3d")
    r, turn = torch.linspace(0, 1.9, 40), torch.linspace(0, 2 * math.pi, 73)
    R, A = torch.meshgrid(r, turn, indexing="ij")
    height = torch.exp(-(R**2)) + 2 * 0.1 * R**2
    hat.plot_surface(R * A.cos(), R * A.sin(), height, cmap="cividis", alpha=0.75, linewidth=0, rstride=2, cstride=2)
    brim = (-math.log(0.2)) ** 0.5
    level = 0.2 * (1 - math.log(0.2))
    hat.plot(brim * turn.cos(), brim * turn.sin(), 0 * turn + level + 0.01, color=VERMILION, linewidth=2.2, zorder=9)
    hat.plot([0], [0], [1.01], marker="o", color=INK, markersize=4, zorder=10)
    hat.set(xlabel="$w_1=w_2$", ylabel="$w_3=w_4$")
    hat.set_title(r"loss at $\lambda=0.1$", y=0.97)
    hat.set_box_aspect((1, 1, 0.62), zoom=1.0)
    hat.view_init(elev=50, azim=-60)
    hat.set_xticks([-2, 0, 2])
    hat.set_yticks([-2, 0, 2])
    hat.set_zticks([0.5, 1.0])
    for axis in (hat.xaxis, hat.yaxis, hat.zaxis):
        axis.set_pane_color((0, 0, 0, 0))
    grid, columns = torch.linspace(0.01, 1, 100).tolist(), {"penalty": PENALTIES}
    looks = {"exponential": (MEASURED, 0.5), "logistic": (MEASURED | {"color": GREEN}, 0.25)}
    for name, (look, corner) in looks.items():
        loss = getattr(degenerate, name)
        at = [hessian(degenerate.four_weights(l, loss), {"w": degenerate.lowest(case, l, loss)}) for l in PENALTIES]
        columns[name] = [torch.linalg.eigvalsh(H)[0].item() for H in at]
        right.plot(
            PENALTIES, columns[name], **look | {"linestyle": "none", "marker": "o", "markersize": 4.5}, label=name
        )
        right.plot(grid, [smallest(l, corner) for l in grid], **PREDICTED)
    right.set(xlabel=r"penalty $\lambda$", ylabel="smallest eigenvalue at the minimum")
    right.legend(loc="upper left")
    show_figure(fig, name="lemma-eight", data=columns)


def draw_staircase(case: Case) -> None:
    """Zero modes of a linear network with two layers against the weight decay."""
    fig, ax = axes(height=2.9)
    fine = torch.linspace(0.01, 3.1, 400).tolist()
    law = lambda decay: orthogonal_orbit_dimension(degenerate.STAIR, degenerate.kept(degenerate.SINGULAR, decay))
    decays = (*degenerate.DECAYS, 3.0)
    found = [
        nullity(degenerate.decayed(case, degenerate.STAIR, decay, degenerate.SINGULAR)[1], relative=1e-7, gap=100).zeros
        for decay in decays
    ]
    ax.plot(fine, [law(decay) for decay in fine], **PREDICTED, label="orbit, from the target's singular values")
    ax.plot(decays, found, **MEASURED | {"linestyle": "none", "marker": "o"}, label="zero eigenvalues, measured")
    ax.axhline(math.comb(6, 2), **BROKEN, label="dimension of the group $O_6$")
    ax.set(xlabel="weight decay", ylabel="zero eigenvalues", ylim=(-0.5, 21))
    ax.legend(fontsize=8.5, loc="upper right")
    show_figure(fig, name="zero-mode-staircase", data={"decay": decays, "measured": found, "law": [*map(law, decays)]})

"""Figures of the chapter on the landscape: a pond above the sea, Hessians along rays, degeneracies that cross."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii import landscape, landscape_hessians, landscape_square_loss


def draw_pond(case: Case) -> None:
    """The loss of three samples over a slice of the weights of three units."""
    fig, ax = axes(height=3.7, width=6.4)
    spot = ax.get_subplotspec()
    ax.remove()
    ax = fig.add_subplot(spot, projection="3d")
    of = lambda t, b: landscape.pond_loss(landscape.pond_weights(t, b / (0.5 + max(-t, 0.0)))).item()
    t, b = torch.linspace(-0.7, 1.4, 64), torch.linspace(0.0, 8.0, 65)
    height = torch.tensor([[of(u, v) for v in b.tolist()] for u in t.tolist()])
    T, B = torch.meshgrid(t, b, indexing="ij")
    ax.plot_surface(T, B, height, cmap="cividis", vmin=0, vmax=4, linewidth=0, alpha=0.9, rstride=1, cstride=1)
    flat = t[t <= 0]
    rest, level = torch.full_like(flat, landscape.BEST), torch.full_like(flat, of(-0.5, landscape.BEST))
    ax.plot(flat, rest, level + 0.06, color=VERMILION, linewidth=2.6, zorder=9)
    ax.set(xlabel="$t$", ylabel="$b$", zlabel="loss", zlim=(0, 5))
    ax.set_box_aspect((1.15, 1, 0.62), zoom=1.12)
    ax.view_init(elev=38, azim=-122)
    ax.set_zticks([0, 1, 2, 3, 4])
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color((0, 0, 0, 0))
    show_figure(fig, name="pond", data={"t": T.flatten(), "output": B.flatten(), "loss": height.flatten()})


def draw_rays(case: Case) -> None:
    """Norm of the Hessian along a ray, with all labels right and with one wrong."""
    fig, ax = axes(height=2.9)
    sizes = {False: [1.0, 50, 100, 150, 200], True: [1.0, 25, 50, 75, 100]}
    columns = {"margin": sizes[False], "margin_wrong": sizes[True]}
    for wrong, grid in sizes.items():
        for k, widths in enumerate(landscape_hessians.RAYS):
            norms = [
                torch.linalg.matrix_norm(landscape_hessians.along(case, widths, size, wrong), 2).item() for size in grid
            ]
            look = BROKEN if wrong else MEASURED | {"alpha": 1 - 0.25 * k}
            label = ("one label wrong" if k == 0 else None) if wrong else f"{k + 1} layer{'s' * (k > 0)}"
            ax.semilogy(grid, norms, **look, label=label)
            columns[f"layers_{k + 1}{'_wrong' * wrong}"] = norms
        rate = 1 if wrong else -1
        law = torch.exp(rate * (torch.tensor(grid, dtype=torch.float64) - 1))
        ax.semilogy(grid, law, **PREDICTED, label=None if wrong else r"$e^{\mp m}$")
    ax.set(xlabel="smallest margin $m$, or that of the wrong label", ylabel="norm of the Hessian", ylim=(1e-90, 1e60))
    ax.legend(fontsize=8.5)
    show_figure(fig, name="hessian-at-infinity", data=columns)


def draw_crossing(case: Case) -> None:
    """Zero eigenvalues against the number of samples: fits, and points where a whole layer vanishes."""
    fig, ax = axes(height=2.9)
    widths, n = landscape_square_loss.BOTTLENECK, [4, 5, 6, 7, 8, 9, 10]
    weights = sum(landscape_square_loss.sizes(widths))
    flat = landscape_square_loss.flat
    fits = [flat(case, landscape_square_loss.interpolating, widths, N) for N in n]
    first = [flat(case, landscape_square_loss.first_layer_zero, widths, N) for N in n]
    last = weights - 2 * landscape_square_loss.sizes(widths)[-1]
    dots = {"linestyle": "none", "marker": "o"}
    ax.plot(n, fits, **MEASURED | dots, label="interpolating")
    ax.plot(n, first, **BROKEN | dots | {"marker": "x", "markersize": 7}, label="first layer zero")
    ax.plot(n, [weights - N for N in n], **PREDICTED, label="counted")
    ax.axhline(weights - 8, **PREDICTED)
    ax.axhline(last, color=GREEN, linestyle=":", label="last layer zero, $D-2D_K$")
    ax.set(xlabel="samples $N$", ylabel="zero eigenvalues", ylim=(18, 54))
    ax.legend(loc="center left", fontsize=8.5)
    show_figure(fig, name="degeneracy-crossing", data={"samples": n, "interpolating": fits, "first_layer_zero": first})

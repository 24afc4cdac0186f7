"""Figures of the chapter on the growth of weights: products, single layers, and eigenvalues near zero loss."""

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, MEASURED, PREDICTED, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.theory_iii.growth_of_weights_runs import DEPTHS, LINE, Curves, curves, rows, spectra
from normdyn.norms.growth import asymptotic_output

LINES = tuple(LINE.tolist())  # log t
RANGE = tuple(0.1 + 0.274 * k for k in range(51))  # of the first panels: to t = 10^6


def _columns(early: Curves, late: Curves, what: str) -> dict:
    """What is stored with a figure."""
    found = {"early_log_time": early.clock, "log_time": late.clock}
    for K in DEPTHS:
        found |= {f"early_{K}": getattr(early, what)[K], f"late_{K}": getattr(late, what)[K]}
    return found


def draw_products() -> None:
    """Figure 3 left, and what becomes of it."""
    early, found = curves(RANGE), curves(LINES)
    s, colors = found.clock, layer_colors(len(DEPTHS))
    fig, (near, far) = axes(1, 2, height=3.2)
    for K, color in zip(DEPTHS, colors, strict=True):
        near.plot(early.clock, early.product[K], color=color, label=f"K = {K}")
        late = s > 5
        far.plot(s[late], (found.product[K] / s)[late], color=color)
        if K > 1:
            wide = s > 30
            law = (asymptotic_output(s, K) / s)[wide]
            far.plot(s[wide], law, **PREDICTED, label="law" if K == 2 else None)
    near.set(xlabel=r"$\log(1+t)$", ylabel="product of norms", title="to $t=10^6$")
    far.set(xscale="log", xlabel=r"$\log t$", ylabel=r"product of norms over $\log t$", title="to $t=e^{10000}$")
    near.legend(fontsize=8)
    far.legend(fontsize=8)
    show_figure(fig, name="growth-product", data=_columns(early, found, "product"))


def draw_layers() -> None:
    """Figure 3 right at its own range, and for ever."""
    early, found = curves(RANGE), curves(LINES)
    s, colors = found.clock, layer_colors(len(DEPTHS))
    fig, (near, far) = axes(1, 2, height=3.2)
    for K, color in zip(DEPTHS, colors, strict=True):
        near.plot(early.clock, early.layer[K], color=color, label=f"K = {K}")
        late = s > 1
        far.plot(s[late], found.layer[K][late], color=color)
        wide = s > 30
        far.plot(s[wide], s[wide] ** (1 / K), **PREDICTED, label=r"$(\log t)^{1/K}$" if K == 1 else None)
    near.set(xlabel=r"$\log(1+t)$", ylabel="norm of one layer", title="to $t=10^6$")
    far.set(xscale="log", yscale="log", xlabel=r"$\log t$", ylabel="norm of one layer", title="to $t=e^{10000}$")
    near.legend(fontsize=8)
    far.legend(fontsize=8)
    show_figure(fig, name="growth-layer", data=_columns(early, found, "layer"))


def draw_spectrum(case: Case) -> None:
    """Eigenvalues of the Hessian over the loss, as the loss falls."""
    margins = tuple(10 ** (k / 20) for k in range(33))
    found, line = spectra(case, margins), rows(margins)
    fig, ax = axes(height=3.2)
    for k in range(found.shape[1]):
        below = found[-1, k] < -1e-6
        ax.plot(line, found[:, k], **(BROKEN if below else MEASURED))
    ax.set(xscale="log", xlabel="smallest margin, minus the logarithm of the loss", ylabel="eigenvalue over the loss")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_yticks([-10, -1, 0, 1, 10, 100], ["-10", "-1", "0", "1", "10", "100"])
    ax.plot([], [], **MEASURED, label="positive or zero")
    ax.plot([], [], **BROKEN, label="negative")
    ax.legend(fontsize=8)
    columns = {f"eigenvalue_{k + 1}": found[:, k] for k in range(found.shape[1])}
    show_figure(fig, name="growth-spectrum", data={"margin": line} | columns)

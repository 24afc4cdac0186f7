"""Figures of the chapter on deep networks and the square loss: zeros by samples, and where a step expands."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import GREEN, MEASURED, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.theory_iii.deep_square_loss import recursion
from companion.theory_iii.deep_square_loss_runs import CUT, condition, normal, slopes_by_hand
from normdyn.networks.graphs import layered_weights

SAMPLES = range(1, 45)
SHALLOW, NARROW = (5, 6, 1), (6, 6, 1, 5)


def zeros_by_samples(case: Case, widths: tuple[int, ...], kind: str) -> list[int]:
    """Zero eigenvalues at zero loss of one network, for more and more samples."""
    weights = layered_weights(widths, case.generator(f"zeros {widths}"))
    X = normal(case, f"zeros {widths} X", max(SAMPLES), widths[0])
    D = sum(W.numel() for W in weights)
    return [D - int(torch.linalg.matrix_rank(slopes_by_hand(weights, X[:n], kind), rtol=CUT)) for n in SAMPLES]


def draw_theorem_nine(case: Case) -> None:
    """Zero eigenvalues against samples: tanh, ReLU, the recursion, and where the theorem's condition ends."""
    fig, panels = axes(1, 2, height=3.1)
    columns = {"samples": list(SAMPLES)}
    for axis, widths, name in zip(panels, (SHALLOW, NARROW), ("shallow", "narrow"), strict=True):
        D = sum(a * b for a, b in zip(widths, widths[1:], strict=False))
        for kind, look in (("ReLU", MEASURED | {"color": GREEN}), ("tanh", MEASURED)):
            columns[f"{name}_{kind}"] = zeros_by_samples(case, widths, kind)
            axis.plot(SAMPLES, columns[f"{name}_{kind}"], **look, label=kind)
        columns[f"{name}_recursion"] = [D - recursion(widths, n) for n in SAMPLES]
        axis.plot(SAMPLES, columns[f"{name}_recursion"], **PREDICTED, label="recursion")
        ends = max(n for n in SAMPLES if condition(widths, n))
        axis.axvline(ends + 0.5, color=VERMILION, linestyle=":", label="condition ends")
        axis.set(xlabel="samples", title="widths " + ", ".join(map(str, widths)))
    panels[0].set(ylabel="zero eigenvalues")
    panels[1].legend(fontsize=8)
    show_figure(fig, name="theorem-nine", data=columns)


def draw_expansive_region() -> None:
    """Where a gradient step on two scalar layers brings points apart, and the minima on the edge of that region."""
    fig, axis = axes(1, 1, width=4.6, height=4.0)
    line = torch.linspace(-3, 3, 241).double()
    P = line[:, None] * line
    axis.contourf(line, line, ((1 - P) * (3 * P - 1) < 0).double(), levels=[0.5, 1.5], colors=[VERMILION], alpha=0.25)
    branch, short = torch.linspace(1 / 3, 3, 100).double(), torch.linspace(1 / 9, 3, 100).double()
    for sign in (1, -1):
        axis.plot(sign * branch, sign / branch, **MEASURED, label="minima" if sign > 0 else None)
        axis.plot(sign * short, sign / (3 * short), **PREDICTED, label="$w_1w_2=1/3$" if sign > 0 else None)
    axis.set(xlabel="$w_1$", ylabel="$w_2$", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    axis.legend(fontsize=8, loc="upper left")
    show_figure(
        fig, name="expansive-region", data={"w1": branch, "minimum_w2": 1 / branch, "edge_w2": 1 / (3 * branch)}
    )

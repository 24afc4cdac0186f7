"""Figures of the chapter on practice: a weight that decays along its ray, and margins behind a normalisation."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import implicit_bias_runs as biased
from companion.normalization_geometry import practice_runs as runs
from companion.normalization_geometry.practice_runs import DECAY, TIMES
from normdyn.norms.margins import follow


def draw_decay(case: Case) -> None:
    """The norm over its start along the flow with decay, behind BN and in a linear model."""
    behind, plain = (runs.decayed(case, normalised)[0] for normalised in (True, False))
    fig, ax = axes(height=2.8, width=6.0)
    ax.semilogy(TIMES, behind, **MEASURED, label="normalised")
    ax.semilogy(TIMES, torch.exp(-DECAY * TIMES), **PREDICTED, label=r"$e^{-\lambda t}$")
    ax.semilogy(TIMES, plain, **BROKEN, label="linear model")
    ax.set(xlabel="flow time", ylabel="norm / norm at the start", yticks=[1, 0.5, 0.2], yticklabels=["1", "0.5", "0.2"])
    ax.yaxis.minorticks_off()
    ax.legend()
    show_figure(fig, name="decay-on-the-ray", data={"time": TIMES, "normalised": behind, "plain": plain})


def few_points(case: Case) -> torch.Tensor:
    """Four samples times their labels, as many dimensions as it takes for all margins to be equal; two of them far."""
    size = torch.tensor([1.0, 4.0, 1.0, 4.0], dtype=torch.float64)
    lengths = torch.nn.functional.pad(torch.stack([size, size.sqrt()], 1), (0, 3))
    return 0.3 * torch.randn(4, 5, generator=case.generator("few"), dtype=torch.float64) + lengths


def draw_margins(case: Case) -> None:
    """Margins of four samples over the smallest one against log time, with and without BN."""
    P, times = few_points(case), torch.logspace(-1.3, 2.3, 37, dtype=torch.float64)
    start = 0.3 * runs.unit(P.mean(0))
    frame = torch.linalg.pinv(P).sum(1)
    paths = {
        "plain": follow(P, start, times, frame=frame)["vector"],
        "normalised": follow(P, start, times, system="batch normalization", frame=frame, metric=biased.moments(P))[
            "vector"
        ],
    }
    fig, ax = axes(height=2.8, width=6.0)
    columns = {"log_time": times}
    for name, look in (("plain", BROKEN), ("normalised", MEASURED)):
        margins = paths[name] @ P.mT
        margins = margins / margins.amin(1, keepdim=True)
        lines = ax.loglog(times, margins, **look)
        lines[0].set_label(name)
        columns |= {f"{name}_{i}": margins[:, i] for i in range(4)}
    ax.set(xlabel="logarithm of the flow time", ylabel="margin / smallest margin")
    ax.set_yticks([1, 2, 3, 5], ["1", "2", "3", "5"])
    ax.yaxis.minorticks_off()
    ax.legend()
    show_figure(fig, name="equal-margins", data=columns)

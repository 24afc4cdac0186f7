"""Figures of the chapter on training without normalisation: plateaus, and three scales of the start."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BAND, BLUE, BROKEN, GREEN, MEASURED, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.square_loss import unnormalized_runs as runs
from companion.square_loss.unnormalized import LAYERS, end_of, waits

COLORS = (BLUE, GREEN, VERMILION)


def draw_plateaus() -> None:
    """Chains along the flow on the closed form; waits against depth with norms kept, and with their product kept."""
    fig, (left, right) = axes(1, 2, height=3.0)
    grid, columns = torch.linspace(1e-2, 0.98, 300, dtype=torch.float64), {}
    for depth, color in zip((2, 3, 6), COLORS, strict=True):
        t, u = runs.chain(depth)
        left.plot(t / t[-1], u, "o", color=color, markersize=4, label=f"$L={depth}$")
        left.plot(runs.times_of(grid, depth) / t[-1], grid, **PREDICTED)
        columns |= {f"time_{depth}": t, f"u_{depth}": u}
    left.set(xlabel="time over end time", ylabel=r"$u=\rho\,b/a$")
    left.legend(loc="upper left", fontsize=8)
    rows = {
        "layers": [runs.wait(L, 0.5**L).item() for L in LAYERS],
        "product": [runs.wait(L, 0.1).item() for L in LAYERS],
    }
    right.semilogy(LAYERS, rows["layers"], **MEASURED, label=r"each $\rho_k=0.5$")
    right.semilogy(LAYERS, rows["product"], **BROKEN, label=r"product $\rho_0=0.1$")
    right.set(xlabel="layers $L$", ylabel="time to half", xticks=(2, 5, 10, 15, 20))
    right.legend(loc="upper left", fontsize=8)
    show_figure(fig, name="plateaus", data=columns | {"depth": list(LAYERS)} | rows)


def draw_three_scales(case: Case) -> None:
    """Products of norms with decay and without, and sorted normalised margins at the end; bands are five draws."""
    fig, (left, right) = axes(1, 2, height=3.2)
    columns = {}
    for k, (color, name) in enumerate(zip(COLORS, ("norms 1", "norms 3", "norms 6"), strict=True)):
        run, decayed = end_of(case, k, 0.0), end_of(case, k, 0.01)
        at, later = (10 + 10 * torch.arange(len(one.rho)) for one in (run, decayed))
        left.loglog(at, run.rho.mean(1), color=color, linewidth=2)
        left.fill_between(at, run.rho.amin(1), run.rho.amax(1), **BAND | {"color": color})
        left.loglog(later, decayed.rho.mean(1), **BROKEN | {"color": color, "linewidth": 1.1})
        margins = run.normalised()[-1].sort(1).values
        right.semilogy(margins.mean(0), color=color, linewidth=2, label=name)
        band = margins.amin(0).clamp_min(1e-5), margins.amax(0)
        right.fill_between(range(margins.shape[1]), *band, **BAND | {"color": color})
        columns |= {f"step_{k}": at, f"rho_{k}": run.rho.mean(1), f"margin_{k}": margins.mean(0)}
        columns |= {f"step_decay_{k}": later, f"rho_decay_{k}": decayed.rho.mean(1)}
    left.set(xlabel="steps + 10", ylabel=r"$\rho$", title="solid: no decay; dash-dot: decay")
    right.set(xlabel="sample, sorted", ylabel=r"normalised margin $y_nf_n$", ylim=(1e-4, 0.2))
    right.legend(loc="upper left", ncols=3, columnspacing=1, handlelength=1, fontsize=8)
    show_figure(fig, name="three-scales", data=columns)


def numbers(case: Case) -> dict[str, str]:
    """What the prose quotes: losses and products at the end, margins at their peak and last, the first fall."""
    plain, decayed = ([end_of(case, k, decay) for k in range(3)] for decay in (0.0, 0.01))
    mean = plain[0].normalised().mean(2)
    large = runs.trained(case, 1.7 * runs.HE, 1e-3, 60, momentum=0.0, every=1)
    ends = torch.cat([run.rho[-1] for run in decayed])
    return {
        "loss": f"{max(run.loss[-1].max().item() for run in plain):.0e}",
        "rho-small": f"{plain[0].rho[-1].mean():.0f}",
        "rho-large": f"{plain[2].rho[-1].mean():.0f}",
        "rho-decay": f"{ends.min():.0f} to {ends.max():.0f}",
        "peak": f"{mean.amax(0).mean():.3f}",
        "last": f"{mean[-1].mean():.3f}",
        "fall": f"{100 * (1 - large.rho.amin(0) / large.rho[0]).min():.1f}",
        "half-2": f"{waits(case, 2, 0.6).mean():.0f}",
        "half-3": f"{waits(case, 3, 0.6).mean():.0f}",
    }

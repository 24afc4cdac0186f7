"""Figures of the chapter on conserved norms: flow and steps, growth and the fall of the loss, equilibria."""

import math

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry.norm_conservation import ADAM, LAMBDA, RATE
from companion.normalization_geometry.norm_conservation_runs import (
    HIDDEN,
    best,
    hidden_only,
    noisy,
    over_time,
    task,
    unit_gradient,
)

SPAN = 8.0


def draw_norms(case: Case) -> None:
    """Norms of rows of two normalised layers, and of the last layer, under the flow and in steps."""
    fig, panels = axes(1, 2, height=3.2, sharey=True)
    looks = {"layer 1": {"color": BLUE}, "layer 2": {"color": GREEN}, "last layer": BROKEN}
    columns, paths = {}, over_time(case)
    for ax, (name, path), title in zip(panels, paths.items(), ("gradient flow", "steps of 0.5"), strict=True):
        for label, look in looks.items():
            ax.plot(path["times"], path[label], **look)
            ax.plot([], [], **look, label=label)
            columns |= {f"{name}_{label}_{i}".replace(" ", "_"): path[label][:, i] for i in range(path[label].shape[1])}
        columns[f"{name}_time"] = path["times"]
        ax.set(title=title, xlabel="time", ylim=(0, None))
    panels[0].set(ylabel="norm")
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    show_figure(fig, name="norms-over-time", data=columns)


def draw_growth(case: Case) -> None:
    """Growth of the squared norms over the step, against the fall of the loss along the flow."""
    fig, ax = axes(height=3.0)
    when = tuple(torch.linspace(0, SPAN, 33).tolist())
    _, exact = hidden_only(case, "batch", None, 0.0, when)[0]
    columns = {"time": torch.tensor(when), "fall": exact[0] - exact}
    for step, width in zip((0.2, 0.1, 0.05), (0.7, 1.3, 2.2), strict=True):
        path, _ = hidden_only(case, "batch", step, 0.0, (0.0, SPAN))[0]
        square = sum(path[n].square().sum((1, 2)) for n in HIDDEN)
        growth, times = (square - square[0]) / step, step * torch.arange(len(square))
        ax.plot(times, growth, **MEASURED | {"linewidth": width}, label=rf"descent, $\eta={step:g}$")
        columns |= {f"time_{step:g}": times, f"growth_{step:g}": growth}
    ax.plot(when, exact[0] - exact, **PREDICTED, label=r"fall of the loss, $L(0)-L(t)$")
    ax.set(xlabel="time (steps times step size)", ylabel=r"growth of $\sum\|w\|^2$, over $\eta$", ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    show_figure(fig, name="growth-loss", data=columns)


def draw_equilibrium(case: Case) -> None:
    """Norms without decay under noise and on the full batch; fourth powers with decay from three starts."""
    fig, (left, right) = axes(1, 2, height=3.3)
    steps, at = 4000, torch.arange(1, 4000)
    free = noisy(case, decay=0.0, steps=steps, runs=5)
    (X, y), full = task(case, 8, 1.0), []
    w = best(X, y)[None] + 0.7 * torch.eye(8).double()[:1].roll(3, 1)
    w = w / w.norm()
    for _ in range(steps):
        full.append(w.norm())
        w = w - RATE * unit_gradient(w, X[None], y[None])
    mean, law = free.squares.sqrt().mean(1)[1:steps], (1 + 2 * RATE**2 * free.pushes.mean() * at) ** 0.25
    left.plot(at, mean, **MEASURED, label="mini-batches")
    left.plot(at, law, **PREDICTED, label=r"$(r_0^4+2\eta^2Gt)^{1/4}$")
    left.plot(at, torch.stack(full)[1:], color=GREEN, linewidth=1.8, label="full batch")
    left.set(xscale="log", yscale="log", xlabel="steps", ylabel="norm", title="no decay", ylim=(0.9, 2.8))
    left.set_yticks([1, 1.5, 2, 2.5], ["1", "1.5", "2", "2.5"])
    left.minorticks_off()
    left.legend(loc="upper left")
    columns = {"step": at, "norm_sgd": mean, "norm_law": law, "norm_full": torch.stack(full)[1:]}
    radii, shown = (0.5, 1.0, 1.5), torch.arange(0, 1501)
    settled = noisy(case, radii=radii, runs=5, steps=3000)
    rest = RATE * settled.late(settled.pushes).mean() / (2 * LAMBDA)
    for k in range(15):
        fourth = settled.squares[:1501, k].square()
        label = "15 runs" if k == 0 else None
        right.plot(shown, fourth, color=BLUE, linewidth=0.8, alpha=0.6, label=label)
        columns[f"fourth_{k}"] = fourth
    for r in radii:
        law = rest + (r**4 - rest) * torch.exp(-4 * RATE * LAMBDA * shown)
        right.plot(shown, law, **PREDICTED, label="predicted mean" if r == 1 else None)
        columns[f"fourth_law_{r:g}"] = law
    right.set(xlabel="steps", ylabel=r"$r^4$", title=rf"decay $\lambda={LAMBDA:g}$", ylim=(0, 5.2))
    right.legend(loc="upper right")
    show_figure(fig, name="equilibrium", data=columns)


def draw_adamw(case: Case) -> None:
    """Squared norms under AdamW from two starts, in a drawn direction and along an axis."""
    fig, ax = axes(height=2.9)
    rest = ADAM["rate"] * ADAM["features"] / (2 * ADAM["decay"])
    columns = {}
    for aligned, look, label in ((False, MEASURED, "drawn direction"), (True, BROKEN, "along an axis")):
        run = noisy(case, "AdamW", **(ADAM | {"aligned": aligned}))
        for k, mean in enumerate(run.squares.reshape(len(run.squares), 2, -1).mean(2).mT):
            ax.plot(mean, **look, label=label if k else None)
            columns[f"square_{k + 1}_{label.replace(' ', '_')}"] = mean
    ax.axhline(rest, **PREDICTED, label=r"$\eta d/2\lambda$")
    ax.set(xlabel="steps", ylabel=r"mean of $r^2$", ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    show_figure(fig, name="adamw", data=columns)


def adamw_over_law(case: Case, aligned: bool) -> float:
    """Squared norm that AdamW settles at, over eta d/(2 lambda)."""
    run = noisy(case, "AdamW", **(ADAM | {"aligned": aligned}))
    return run.late(run.squares).mean().item() * 2 * ADAM["decay"] / (ADAM["rate"] * ADAM["features"])


def momentum_over_law(case: Case) -> tuple[float, float, float]:
    """With a momentum of 0.9: fourth power and turn over their laws, and the share of steps in which the norm falls."""
    rate, mu = RATE / 5, 0.9
    run = noisy(case, "momentum", rate=rate, steps=6000, runs=40, radii=(1.3,))
    fourth = run.late(run.squares.square()).mean() * 2 * LAMBDA * (1 - mu) / (rate * run.late(run.pushes).mean())
    turn = run.late(run.turns.square()).mean().sqrt().item() / math.sqrt(2 * rate * LAMBDA / (1 + mu))
    return fourth.item(), turn, (run.squares.diff(dim=0) < 0).double().mean().item()

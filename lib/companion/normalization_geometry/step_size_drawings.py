"""Figures of the chapter on step size: trajectories in the plane, steps of all sizes, large steps and curvature."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, INK, MEASURED, PREDICTED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry.step_size_runs import (
    LENGTHS,
    STEPS,
    across,
    all_steps,
    planes,
    rotations,
    settled,
)


def draw_trajectories(case: Case) -> None:
    """Losses over the plane of weights with paths of flow and descent from a right angle, short and long."""
    fig, panels = axes(1, 2, height=3.6, sharey=True)
    span = torch.linspace(-1.2, 3.6, 90, dtype=torch.float64)
    first, second = torch.meshgrid(span, span, indexing="xy")
    cloud, columns = torch.stack([first, second], -1).reshape(-1, 2), {}
    for ax, kind, title in zip(panels, ("none", "batch"), ("no normalisation", "batch normalisation"), strict=True):
        at = planes(case, kind)[0]
        frame = torch.stack([at.aim, across(at.aim)])  # coordinates along the best direction and at a right angle
        level = torch.func.vmap(at.loss)(cloud @ frame).reshape(first.shape)
        ax.contour(first, second, level, levels=10, colors="#8a929e", linewidths=0.6)
        for r, color in zip(LENGTHS, (VERMILION, BLUE), strict=True):
            k = LENGTHS.index(r)
            flow, steps = rotations(case, kind)[k][0], rotations(case, kind, False, 60)[k][0]
            if kind == "none":
                flow = torch.stack([flow[0], at.best])  # straight, as the inputs are white
            flow, steps = flow @ frame.mT, steps @ frame.mT
            ax.plot(*flow.mT, **PREDICTED)
            ax.plot(*steps.mT, ".", color=color, markersize=5, zorder=4)
            ax.plot(*steps[0], "o", color=color, markersize=8, markerfacecolor="none", zorder=4)
            columns |= {f"{kind}_{r:g}_w{i + 1}": steps[:, i] for i in range(2)}
        ax.set(title=title, xlabel="along the best direction", xlim=(-0.6, 3.6), ylim=(-0.6, 3.6), aspect="equal")
        ax.grid(False)
    panels[0].plot(planes(case, "none")[0].best.norm(), 0, "*", color=INK, markersize=11, zorder=5)
    panels[1].plot([0, 6], [0, 0], color=GREEN, linewidth=1.5)
    panels[0].set(ylabel="across")
    show_figure(fig, name="trajectories", data=columns)


def draw_decades(case: Case) -> None:
    """Loss after a hundred steps, and effective rate after the first, against the step."""
    fig, (left, right) = axes(1, 2, height=3.1)
    one, plain = all_steps(case, "batch", 100)[0], planes(case, "none")[0]
    steps, push = one.steps[:-1], one.push
    w, slope = 0.1 * plain.aim.expand(len(steps), 2), torch.func.vmap(torch.func.grad(plain.loss))
    for _ in range(100):
        w = w - steps[:, None] * slope(w)
    losses = torch.func.vmap(plain.loss)(w).nan_to_num(1e300, posinf=1e300)
    left.plot(steps, one.losses[:-1], **MEASURED, label="batch normalisation")
    left.plot(steps, losses, **BROKEN, label="linear unit without")
    left.set(xscale="log", xlabel=r"step size $\eta$", ylabel="loss after 100 steps")
    left.set(ylim=(0, 1.6 * one.losses.max().item()))
    left.legend(loc="upper right")
    law = steps / (1 + (steps * push) ** 2)
    right.plot(steps, one.rates[:-1], **MEASURED, label="measured")
    right.plot(steps, law, **PREDICTED, label="formula")
    right.axhline((1 / (2 * push)).item(), color=GREEN, linewidth=1.2)
    right.text(1.3e-4, (1.2 / (2 * push)).item(), r"$1/2\|\tilde g\|$", color=GREEN, fontsize=9, va="bottom")
    right.set(xscale="log", yscale="log", xlabel=r"step size $\eta$", ylabel=r"$\eta/r^2$ after one step")
    right.legend(loc="lower center")
    data = {"step": steps, "loss": one.losses[:-1], "loss_linear": losses, "effective": one.rates[:-1]}
    show_figure(fig, name="decades", data=data)


def draw_flat(case: Case) -> None:
    """Curvature after a large step against that after a small one, a point a start."""
    fig, panels = axes(1, 2, height=3.2, sharex=True, sharey=True)
    columns = {}
    for ax, normalised, title in zip(panels, (False, True), ("no normalisation", "batch normalisation"), strict=True):
        for kind, look in (("tanh", {"color": BLUE, "marker": "o"}), ("gelu", {"color": VERMILION, "marker": "^"})):
            large, small = settled(case, normalised, kind).tops
            ax.plot(small, large, linestyle="none", markersize=5, alpha=0.8, **look, label=kind.replace("gelu", "GELU"))
            columns |= {f"{kind}_{normalised}_small": small, f"{kind}_{normalised}_large": large}
        ax.axhline(2 / STEPS[0], **PREDICTED)
        ax.axvline(2 / STEPS[1], **PREDICTED)
        ax.plot([1.5, 4], [1.5, 4], color="#8a929e", linewidth=0.9)
        ax.set(title=title, xscale="log", yscale="log", xlabel=f"curvature after steps of {STEPS[1]:g}")
    panels[0].set(ylim=(1.2, 4))
    panels[0].set_xticks([2, 5, 10, 20], ["2", "5", "10", "20"])
    panels[0].set_yticks([1.5, 2, 2.5, 3], ["1.5", "2", "2.5", "3"])
    for ax in panels:
        ax.minorticks_off()
    panels[0].set(ylabel=f"curvature after steps of {STEPS[0]:g}")
    panels[0].legend(loc="upper left")
    show_figure(fig, name="flat", data=columns)


def flat_shares(case: Case) -> tuple[float, float]:
    """Mean ratio of both curvatures over starts that fit, without normalisation and with it."""
    found = []
    for normalised in (False, True):
        effect = torch.cat([(run.tops[1] / run.tops[0]).log() for run in
                            (settled(case, normalised, kind) for kind in ("tanh", "gelu"))])  # fmt: skip
        found.append(effect[effect.isfinite()].mean().exp().item())
    return found[0], found[1]

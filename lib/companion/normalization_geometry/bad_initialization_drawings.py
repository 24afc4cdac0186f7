"""Figures of the chapter on experiment 4: which scales learn, which scales and steps, the wait from small weights."""

import torch

from claimbook.evidence import Case, shared
from claimbook.show.figures import BLUE, GREEN, INK, ORANGE, PREDICTED, PURPLE, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import bad_initialization_runs as runs
from companion.normalization_geometry.bad_initialization import WAITS
from companion.normalization_geometry.bad_initialization_runs import SCALES
from companion.studies.classifiers import initialize, train

SHOWN = {1e-4: (PURPLE, ":"), 1e-3: (GREEN, "--"), 0.1: (BLUE, "-"), 1.0: (INK, "-"), 10.0: (ORANGE, "-."),
         1000.0: (VERMILION, "--")}  # fmt: skip
GRID = tuple((c, eta) for c in torch.logspace(-4, 3, 15).tolist() for eta in torch.logspace(-6, 1, 8).tolist())


def draw_starts(case: Case) -> None:
    """Median losses from six scales without and with BN; shares that learn by scale, by descent and by Adam."""
    fig, panels = axes(1, 3, height=3.0, width=10.0)
    columns = {"step": torch.arange(runs.STEPS + 1)}
    for ax, batch_norm, title in zip(panels, (False, True), ("without BN", "with BN"), strict=False):
        middle = runs.losses(case, batch_norm).nan_to_num(torch.inf).clamp(max=1e3).median(-1).values
        for scale, (colour, dash) in SHOWN.items():
            curve = middle[:, SCALES.index(scale)]
            ax.semilogy(curve, color=colour, linestyle=dash, linewidth=1.6, label=f"{scale:g}")
            columns[f"{title}_{scale:g}"] = curve
        ax.set(xlabel="step", title=title, ylim=(1e-3, 400))
    panels[0].set(ylabel="training loss, median")
    panels[1].legend(title="factor", ncols=2, fontsize=8, loc="upper right")
    kinds = ((True, "descent", BLUE, "-", "BN"), (False, "descent", VERMILION, "-.", "without"),
             (True, "Adam", GREEN, "--", "BN, Adam"), (False, "Adam", ORANGE, ":", "without, Adam"))  # fmt: skip
    for batch_norm, optimiser, colour, dash, label in kinds:
        share = runs.learned(case, batch_norm, "logistic", optimiser).double().mean(1)
        panels[2].semilogx(SCALES, share, marker="o", ms=3, color=colour, linestyle=dash, label=label)
        columns |= {"scale": list(SCALES), f"share_{label}": share}
    panels[2].set(xlabel="factor on the weights", title="share that learns", ylim=(-0.03, 1.75), yticks=(0, 0.5, 1))
    panels[2].legend(loc="upper right", fontsize=7, ncols=2)
    show_figure(fig, name="bad-starts", data=columns)


@shared
def learning_map(case: Case, batch_norm: bool) -> torch.Tensor:
    """Share of three networks that reach 90 % of accuracy within 120 steps, by scale (rows) and step of descent."""
    scales, rates = (tuple(sorted({pair[k] for pair in GRID})) for k in range(2))
    made = runs.setup(case, batch_norm=batch_norm, draws=3, steps=120, scales=tuple(c for c, _ in GRID),
                      learning_rates=tuple(eta for _, eta in GRID))  # fmt: skip
    few = [part[:3].float() for part in runs.task(case)]
    best = train(made, *few, initialize(made, torch.float32), device=case.device)["accuracy"].amax(0) >= 0.9
    return best.reshape(len(scales), len(rates), 3).double().mean(-1)


def draw_map(case: Case) -> None:
    """Which scales and steps learn, without and with BN."""
    scales, rates = (sorted({pair[k] for pair in GRID}) for k in range(2))
    fig, panels = axes(1, 2, height=3.1, width=8.0, sharey=True)
    columns = {"scale": [c for c, _ in GRID], "step": [eta for _, eta in GRID]}
    for ax, batch_norm, name in zip(panels, (False, True), ("without BN", "with BN"), strict=True):
        shares = learning_map(case, batch_norm)
        ax.pcolormesh(scales, rates, shares.T.numpy(), cmap="Blues", vmin=0, vmax=1, shading="nearest")
        ax.set(xscale="log", yscale="log", xlabel="factor on the weights", title=name, ylim=(4e-7, 30))
        ax.grid(False)
        columns[name] = shares.flatten()
    line = torch.logspace(-0.3, 2.3, 20)
    panels[0].plot(line, 0.4 * line**-3, **PREDICTED)
    panels[0].text(25, 1e-2, r"$\eta\propto c^{-3}$")
    panels[0].set(ylabel="step")
    show_figure(fig, name="scale-and-step", data=columns)


def draw_delay(case: Case) -> None:
    """How long single networks wait, with BN against one that only subtracts means."""
    pace, (fig, ax) = 0.1 * WAITS[1][0] ** 3 / WAITS[1][1] ** 2, axes(width=4.6, height=3.4)
    predicted = runs.centred_delays(case, pace)
    columns = {"predicted": predicted}
    for (scale, epsilon), colour, marker in zip(WAITS, (GREEN, BLUE, VERMILION), "os^", strict=True):
        waited = runs.delays(case, scale, epsilon)
        ax.loglog(predicted, waited, marker, ms=5, mfc="none", color=colour, label=rf"$\epsilon=$ {epsilon:g}")
        columns[f"epsilon_{epsilon:g}"] = waited
    finite = predicted[predicted.isfinite()]
    ends = torch.stack([finite.min() / 1.3, finite.max() * 1.3])
    ax.loglog(ends, ends, **PREDICTED)
    ax.set(xlabel="predicted steps", ylabel="steps on the plateau")
    ax.legend(loc="upper left", fontsize=8)
    show_figure(fig, name="delay", data=columns)


def numbers(case: Case) -> dict[str, str]:
    """For the text: shares that learn, waits, and the fit of random features."""
    learned = lambda batch_norm, optimiser, scale: (
        100 * runs.learned(case, batch_norm, "logistic", optimiser)[SCALES.index(scale)].double().mean()
    )
    told = {f"adam-{scale:g}": f"{learned(False, 'Adam', scale):.0f}" for scale in (1e-4, 1e-2, 10.0)}
    told |= {f"bn-{scale:g}": f"{learned(True, 'descent', scale):.0f}" for scale in (3e-4, 100.0)}
    waited = runs.delays(case, *WAITS[1]).median()
    clock = waited * WAITS[1][0] ** 3 / WAITS[1][1] ** 2  # eta k at scale^3 = epsilon^2
    told["wait"] = f"{waited:.0f}"
    told["wait-tiny"] = f"{clock * 1e-10 / 1e-12:.0f}"
    told["wait-tinier"] = f"{clock * 1e-10 / 1e-15:.0e}"
    told["still"] = f"{runs.held(case, 100.0, False)[0][-1].mean():.2f}"
    told["start"] = f"{runs.held(case, 100.0, False)[0][0].mean():.2f}"
    return told

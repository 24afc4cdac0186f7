"""Figures of the chapter on the derivations of the appendix: which lines are right, eigenvalues, and the gain."""

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BLUE, BROKEN, GREEN, MEASURED, VERMILION, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import derivations as lines
from companion.normalization_geometry import derivations_runs as runs


def errors(case: Case) -> dict[str, tuple[float, float | None]]:
    """Error of each line of the appendix as printed, and as mended (None where nothing mends it)."""
    whole = lambda claim, **world: claim(case, **world).parts()
    part = lambda name, claim, **world: whole(claim, **world)[name].residual()
    right = lambda name, claim: (part(name, claim),) * 2
    mended = lambda name, claim: (part(name, claim, **claim.printed), part(name, claim))
    return {
        "chain rule": mended("", lines.chain_rule),
        "slope of the centring": right("centring", lines.jacobian),
        "slope of the scale": right("scale", lines.jacobian),
        "Jacobian": mended("jacobian", lines.jacobian),
        "gathered terms": mended("gathered", lines.jacobian),
        "final formula": right("", lines.final_formula),
        "gradient of the weights": right("formula", lines.weight_gradient),
        "right angle": right("zero", lines.right_angle),
        "slopes at a solution": mended("slopes", lines.slopes_vanish_at_interpolation),
        "Hessian": mended("", lines.hessian_in_values),
        r"eigenvalue of $\hat z$": (part("violated", lines.hat_is_a_direction_of_negative_curvature), None),
        "eigenvalue of the ones": right("eigenvalue", lines.ones_are_flat),
        "eigenvalue of the rest": right("", lines.the_rest_is_round),
        "the gain compensates": (part("violated", lines.gain_compensates), None),
        "count in the weights": mended("positive", lines.weights_of_a_unit),
    }


def draw_lines(case: Case) -> None:
    """Errors of the lines of the appendix, as printed and as mended."""
    found = errors(case)
    fig, ax = axes(height=4.4, width=6.8)
    floor = lambda value: max(value, 1e-17)
    for k, (printed, mended) in enumerate(found.values()):
        bad = mended is None or printed > 1e-6
        if bad and mended is not None:
            ax.plot([floor(mended), printed], [k, k], color=VERMILION, linewidth=1, linestyle=":")
            ax.plot(floor(mended), k, "o", color=BLUE, markerfacecolor="none", markersize=7)
        marker = "X" if mended is None else "s" if bad else "o"
        ax.plot(floor(printed), k, marker, color=VERMILION if bad else BLUE, markersize=7)
    looks = {
        "right as printed": ("o", BLUE, BLUE),
        "wrong as printed": ("s", VERMILION, VERMILION),
        "the same line, mended": ("o", BLUE, "none"),
        "wrong, the opposite is true": ("X", VERMILION, VERMILION),
    }
    for label, (marker, color, fill) in looks.items():
        ax.plot([], [], marker, color=color, markerfacecolor=fill, linestyle="none", label=label)
    ax.set(yticks=range(len(found)), xscale="log", xlabel="largest relative error", xlim=(3e-18, 100))
    ax.set(ylim=(len(found) - 0.4, -0.6))
    ax.set_yticklabels(list(found))
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, fontsize=8)
    printed, mended = zip(*found.values(), strict=True)
    show_figure(
        fig, name="c-steps", data={"line": list(found), "printed": printed, "mended": [m or 0.0 for m in mended]}
    )


def draw_spectrum(case: Case) -> None:
    """Eigenvalues on ones, on the normalised values and elsewhere: true, and of the three matrices of the text."""
    one = runs.batches(case)[0]
    m = len(one.z)
    basis = torch.linalg.qr(torch.cat([torch.ones(m, 1), one.hat[:, None], torch.eye(m)[:, : m - 2]], 1).double())[0]
    looks = {
        "true": (runs.hessian, "o", BLUE, 0.27),
        "printed: last matrix": (lines.as_printed, "s", VERMILION, -0.27),
        "printed: entries": (lines.by_entries, "^", VERMILION, -0.09),
        "printed: as used": (lines.as_computed_with, "x", VERMILION, 0.09),
    }
    fig, (left, right) = axes(1, 2, height=3.0, sharey=False)
    columns = {"direction": ["ones", "zhat"] + ["rest"] * (m - 2)}
    for label, (matrix, marker, color, shift) in looks.items():
        values = (basis.mT @ matrix(one) @ basis).diagonal() * (one.s / runs.GAIN) ** 2
        columns[label.replace(": ", "_").replace(" ", "_")] = values
        for ax in (left, right):
            ax.plot(torch.arange(3) + shift, values[:3], marker, color=color, markersize=7, label=label)
    left.set(ylim=(-8, 2), ylabel=r"eigenvalue $\cdot\,\sigma^2/\gamma^2$", title="all")
    right.set(ylim=(-0.15, 1.35), title="enlarged")
    for ax in (left, right):
        ax.set(xticks=range(3), xlim=(-0.5, 2.5))
        ax.set_xticklabels(["ones", r"$\hat z$", "rest"])
    right.legend(loc="center", bbox_to_anchor=(0.5, 0.5), fontsize=8)
    show_figure(fig, name="c-hessian-spectrum", data=columns)


def draw_compensation(case: Case) -> None:
    """The loss along a scaling of weights and bias: the gain fixed, the gain divided, and as the text has it."""
    one = runs.solutions(case, runs.hat_of)[0]
    p, c = one.params, torch.linspace(0.5, 1.8, 53, dtype=torch.float64)
    scaled = lambda t, gain: one.loss(p | {"w": t * p["w"], "b": t * p["b"], "gain": p["gain"] / gain})
    fixed, undone = torch.stack([scaled(t, 1.0) for t in c]), torch.stack([scaled(t, t) for t in c])
    quadratic = runs.GAIN**2 * (1 - len(one.z)) * len(one.z) * (c - 1).square() / 2
    fig, ax = axes(height=3.0, width=6.2)
    ax.plot(c, fixed, **MEASURED)
    ax.plot(c, undone, **BROKEN)
    ax.plot(c, quadratic, color=GREEN, linestyle=":", linewidth=2)
    ax.text(1.8, -0.5, r"$\gamma$ fixed: no change", color=BLUE, ha="right", va="top")
    ax.text(0.62, 8.0, r"$\gamma/c$, said to compensate", color=VERMILION, ha="left")
    ax.text(1.47, -12, r"printed: $1-m$", color=GREEN, ha="left")
    ax.set(xlabel="factor c on weights and bias", ylabel="loss", ylim=(-20, 12))
    show_figure(fig, name="c-compensation", data={"factor": c, "fixed": fixed, "undone": undone, "printed": quadratic})

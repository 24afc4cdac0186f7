"""Figures of the chapter on implicit bias: two margins, three measures under a rescaling, and brightness."""

import math

import torch

from claimbook.evidence import Case
from claimbook.show.figures import BROKEN, GREEN, INK, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.normalization_geometry import implicit_bias as bias
from companion.normalization_geometry import implicit_bias_runs as runs
from normdyn.networks.normalizers import normalized_mlp
from normdyn.norms.margins import normalized_margin
from normdyn.symmetry.polar import hard_margin

FACTORS = torch.logspace(-4, 2, 25, dtype=torch.float64)
STRENGTHS = torch.logspace(-1, 1, 21, dtype=torch.float64)


def draw_two_margins(case: Case) -> None:
    """Direction and margins of plain descent and of a normalised unit over logarithmic time."""
    fig, (left, right) = axes(1, 2, height=3.1)
    heading = lambda v: torch.atan2(v[..., 1], v[..., 0]).rad2deg()
    systems = {"plain": ("gradient", None, MEASURED), "normalised": ("batch normalization", "data", BROKEN)}
    norms, columns = {"length": None, "data norm": runs.moments(runs.SIX)}, {"log_time": runs.TURNS}
    for name, (system, metric, look) in systems.items():
        path, end = runs.turning(case, system), hard_margin(runs.SIX, norms["data norm"] if metric else None)[0]
        left.semilogx(runs.TURNS, heading(path), color=look["color"], linewidth=2, label=name)
        left.axhline(heading(end), **PREDICTED)
        columns[f"direction_{name}"] = heading(path)
        for measure, style in (("length", "-"), ("data norm", ":")):
            curve = normalized_margin(runs.SIX, path, norms[measure])
            label = f"{name}, by {measure}"
            right.semilogx(runs.TURNS, curve, color=look["color"], linestyle=style, linewidth=2, label=label)
            columns[label] = curve
    left.set(xlabel=r"$\log(1+t)$", ylabel="direction of $w$ (degrees)")
    right.set(xlabel=r"$\log(1+t)$", ylabel="normalised margin", ylim=(0, 1.95))
    left.legend(loc="center right"), right.legend(fontsize=8, loc="upper right")
    show_figure(fig, name="c-two-margins", data=columns)


def least_margin(case: Case, factor: float) -> float:
    """Least margin in logits with the last layer scaled."""
    one = runs.digits(case)
    f, label = normalized_mlp([*one.weights[:-1], factor * one.weights[-1]], one.train[0]), one.train[1][:, None]
    return (f.gather(1, label)[:, 0] - f.scatter(1, label, -math.inf).amax(1)).amin().item()


def draw_scale_free(case: Case) -> None:
    """Margin, bound and flatness of one network under rescalings that change no prediction."""
    one, each = runs.digits(case), FACTORS.tolist()
    bound = lambda c, unit: bias.complexity(runs.shrunken(case, c), 100, unit).item()
    row = {
        "in_logits": [least_margin(case, c) for c in each],
        "bound": [bound(c, False) for c in each],
        "unit": [bound(c, True) for c in each],
        "gap": [runs.gap(case, c) for c in each],
        "absolute": [runs.roughness(case, c, False) for c in each],
        "relative": [runs.roughness(case, c, True) for c in each],
    }
    row["normalised"] = [m / (c * one.weights[-1].norm()).item() for m, c in zip(row["in_logits"], each, strict=True)]
    fig, (left, middle, right) = axes(1, 3, height=3.0)
    left.loglog(FACTORS, row["in_logits"], **BROKEN, label="in logits")
    left.loglog(FACTORS, row["in_logits"][16] * FACTORS / FACTORS[16], **PREDICTED)
    left.loglog(FACTORS, row["normalised"], **MEASURED, label="per norm")
    left.set(xlabel="factor on last layer", title="least margin")
    middle.loglog(FACTORS, row["bound"], **BROKEN, label="as printed")
    middle.loglog(FACTORS, row["bound"][16] * (FACTORS / FACTORS[16]) ** 2, **PREDICTED)
    middle.loglog(FACTORS, row["unit"], color=GREEN, linewidth=2, label="unit rows")
    middle.loglog(FACTORS, row["gap"], **MEASURED, label="gap")
    middle.set(xlabel="factor on first layer", title="bound and gap")
    right.loglog(FACTORS, row["absolute"], **BROKEN, label="fixed noise")
    right.loglog(FACTORS, row["relative"], **MEASURED, label="relative noise")
    right.set(xlabel="factor on first layer", title="rise of the loss")
    for ax, place in ((left, "upper left"), (middle, "upper left"), (right, "lower left")):
        ax.legend(loc=place, fontsize=8)
    show_figure(fig, name="c-scale-free", data={"factor": FACTORS} | row)


def draw_brightness(case: Case) -> None:
    """Accuracy of the fitted network on held-out digits whose scale and offset change."""
    one = runs.digits(case)
    images, labels = one.test
    looks = {
        "common, batch statistics": (bias.shared_by_the_batch, bias.of_the_batch, MEASURED),
        "common, stored statistics": (bias.shared_by_the_batch, bias.stored, BROKEN),
        "each image, batch statistics": (bias.of_each_image, bias.of_the_batch, {"color": GREEN, "linestyle": ":"}),
        "each pixel, batch statistics": (bias.of_each_feature, bias.of_the_batch, {"color": INK, "linestyle": "--"}),
    }
    fig, ax = axes(1, 1, width=6.2, height=3.1)
    columns = {"strength": STRENGTHS}
    for label, (change, statistics, look) in looks.items():
        output = lambda s, change=change, statistics=statistics: bias.seen(
            one.weights, change(images, s), one.train[0], statistics
        )
        columns[label] = [(output(s).argmax(1) == labels).double().mean().item() for s in STRENGTHS.tolist()]
        ax.semilogx(STRENGTHS, columns[label], **{"linewidth": 2} | look, label=label)
    ax.set(xlabel="strength $s$ of the change", ylabel="accuracy", ylim=(0, 1.25), yticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
    ax.legend(loc="upper center", ncols=2, fontsize=8)
    show_figure(fig, name="c-brightness", data=columns)

"""Figures of the page on convergence."""

import math

import pandas
import seaborn
import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show.figures import BLUE, BROKEN, INK, MEASURED, ORANGE, PREDICTED, VERMILION, axes, layer_colors
from claimbook.show.notebook import show_figure
from companion.weight_balancing import convergence
from companion.weight_balancing.common import Problem, largest_safe_exponent, minimisers, rescaled
from companion.weight_balancing.figure_two import NETWORKS, PANELS, wide
from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling.gauge import minimum_norm

DEPTHS = [len(widths) - 2 for widths in NETWORKS]


def draw_figure_2(case: Case) -> None:
    """E Fig. 2: norm over initial norm, with the band of all seeds."""
    fig, panels = axes(3, 2, height=7.4, sharex=True)
    ratio, data = wide(case).ratio, {}
    updates = torch.arange(ratio.shape[-1])
    for k, (ax, (p, q)) in enumerate(zip(panels.flat, PANELS, strict=True)):
        for n, color in enumerate(layer_colors(3)):
            curves = ratio[k, n]
            frame = pandas.DataFrame({"update": updates.repeat(len(curves)).numpy(), "ratio": curves.flatten().numpy()})
            band = {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.35, "linewidth": 0}}
            seaborn.lineplot(frame, x="update", y="ratio", color=color, ax=ax, label=f"{DEPTHS[n]} hidden layers",
                             linewidth=1.6, legend=False, **band)  # fmt: skip
            name = f"{DEPTHS[n]} layers p={p} q={q}"
            data |= {f"mean {name}": curves.mean(0), f"low {name}": curves.amin(0), f"high {name}": curves.amax(0)}
        ax.set(title=f"$p={p}$, $q={q}$", xlim=(0, 200), ylim=(0.2, 1.03), xlabel="", ylabel="")
    for ax in panels[:, 0]:
        ax.set_ylabel("norm / initial norm")
    for ax in panels[-1]:
        ax.set_xlabel("updates")
    panels[2, 0].legend(loc="lower right")
    show_figure(fig, name="figure-2", data=data)


def draw_excess(case: Case) -> None:
    """What is left of the fall, over updates, with the slopes that depth sets."""
    fig, panels = axes(1, 3, height=2.9, sharey=True)
    excess, data = wide(case).excess().mean(2), {}
    for ax, (p, q) in zip(panels, ((2, 2), (2, 1), (8, 2)), strict=True):
        for n, color in enumerate(layer_colors(3)):
            curve = excess[PANELS.index((p, q)), n]
            k = int((curve > 3e-6).sum()) - 1
            along = torch.arange(k // 3, k + 1)
            rate = convergence.slowest_layer_mode(p, q, DEPTHS[n])
            ax.semilogy(curve[: k + 1], color=color, linewidth=2, label=f"{DEPTHS[n]} hidden layers")
            ax.semilogy(along, curve[k] * rate ** (2.0 * (along - k)), **PREDICTED)
            data[f"{DEPTHS[n]} layers p={p} q={q}"] = curve[: k + 1]
        ax.plot([100], [0.01], "+", color=VERMILION, markersize=11, markeredgewidth=1.6)
        ax.set(title=f"$p={p}$, $q={q}$", xlabel="updates", xlim=(0, 300), ylim=(1e-6, 1.5))
    panels[0].set_ylabel("share of the fall that is left")
    panels[0].legend(loc="upper right")
    show_figure(fig, name="excess", data=data)


@shared
def rates(case: Case) -> list[tuple[int, float, bool]]:
    """Hidden units on the longest path, largest factor with the paper's exponent, and whether there are layers."""
    found = []
    for problems, layered in ((convergence.balanced_graphs(case), False), (convergence.balanced_layers(case), True)):
        for s in problems:
            if s.p == s.q:
                found.append((convergence.most_hidden_on_a_path(s), convergence.factors(s)[-1].item(), layered))
    return found


@shared
def radii(case: Case, widths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """p / q, and the largest factor up to its sign with the largest safe exponent."""
    W, hidden = layered_matrix(layered_weights(widths, case.generator("radii")))
    p = torch.linspace(1, 2, 9, dtype=torch.float64)
    problems = [Problem(W, hidden, each, 1) for each in p.tolist()]
    balanced = [rescaled(s, z.exp()) for s, z in zip(problems, minimisers(problems), strict=True)]
    return p, torch.stack([convergence.factors(s, largest_safe_exponent).abs().max() for s in balanced])


def draw_rates(case: Case) -> None:
    """Left, the contraction against depth; right, with the largest safe exponent against p / q."""
    fig, (left, right) = axes(1, 2, height=3.0)
    K = torch.arange(1, 8)
    bound = 1 - torch.sin(torch.pi / (2 * (K + 1))) ** 2
    left.plot(K, bound, **PREDICTED, label="theorem")
    data = {"depth": K, "theorem": bound}
    for layered, style in ((False, {"color": BLUE, "marker": "o"}), (True, {"color": ORANGE, "marker": "s"})):
        points = [(depth, rate) for depth, rate, kind in rates(case) if kind == layered]
        name = "layered" if layered else "random graphs"
        left.plot(*zip(*points, strict=True), linestyle="none", markersize=4.5, label=name, **style)
        data |= {f"depth, {name}": [d for d, _ in points], f"factor, {name}": [r for _, r in points]}
    left.set(xlabel="hidden units on the longest path", ylabel="slowest factor, $p=q$", ylim=(0.4, 1))
    left.legend(loc="lower right")
    for widths, style in (((30, 40, 20, 5), MEASURED), ((30, 40, 5), BROKEN)):
        p, radius = radii(case, widths)
        label = "-".join(map(str, widths))
        right.plot(p, radius, **style, marker="o", markersize=3.5, label=label)
        right.axhline(math.cos(math.pi / (len(widths) - 1)), **PREDICTED | {"linewidth": 1})
        data |= {"p/q": p, f"radius {label}": radius}
    right.set(xlabel="$p/q$", ylabel="slowest factor, safe exponent", ylim=(-0.03, 1))
    right.legend(loc="upper left")
    show_figure(fig, name="rates", data=data)


def draw_passes(case: Case) -> None:
    """Excess over updates on random graphs, and the bound of each."""
    fig, ax = axes(height=3.0, width=6.4)
    data = {}
    for n, w in enumerate(convergence.walks(case)[:-1:3]):
        k = torch.arange(1, len(w.excess))
        scale = 8 * max(w.problem.p, w.problem.q) * w.distance.max() ** 2
        name = f"p={w.problem.p} q={w.problem.q}"
        ax.loglog(k, w.excess[1:], **MEASURED | {"linewidth": 1.2, "alpha": 0.8}, label=None if n else "random graphs")
        ax.loglog(k, scale / k, **PREDICTED | {"linewidth": 0.8}, label=None if n else "bounds")
        data |= {f"excess {name}": w.excess[1:], f"bound {name}": scale / k}
    ax.set(xlabel="updates", ylabel="log(norm / least norm)", ylim=(1e-8, None))
    ax.legend(loc="lower left")
    show_figure(fig, name="passes", data=data)


WAYS = {
    "paper": ("paper's exponent", INK),
    "multiplicative": ("largest safe exponent", BLUE),
    "auto": ("equalised, in halves, extrapolated", VERMILION),
}


@shared
def three_ways(case: Case) -> dict[tuple[int, int, int, str], tuple[Tensor, float]]:
    """Gaps after each pass, and passes a step, by hidden layers, p, q and way; hidden layers a tenth of the paper's."""
    found = {}
    for widths in NETWORKS:
        sizes = [widths[0], *(n // 10 for n in widths[1:-1]), widths[-1]]
        W = layered_weights(sizes, case.generator("three ways"))
        for p, q in ((2, 2), (2, 1)):
            least = minimum_norm(W, p=p, q=q, tolerance=1e-15).norm
            for way in WAYS:
                run = minimum_norm(W, p=p, q=q, method=way, tolerance=2e-15, max_passes=500)
                steps = len(run.history["norm"]) - (way == "auto")
                found[len(sizes) - 2, p, q, way] = run.history["norm"] / least - 1, run.passes / steps
    return found


def passes_to(case: Case, gap: float, p: int = 2, q: int = 2) -> dict[str, list[int]]:
    """Passes until the gap is below a number, for each way and network."""
    count = lambda curve, cost: math.ceil(int((curve > gap).sum()) * cost)
    return {way: [count(*three_ways(case)[K, p, q, way]) for K in DEPTHS] for way in WAYS}


def draw_three_ways(case: Case) -> None:
    """Gap over passes for six hidden layers."""
    fig, panels = axes(1, 2, height=2.9, sharey=True)
    data = {}
    for ax, (p, q) in zip(panels, ((2, 2), (2, 1)), strict=True):
        for way, (label, color) in WAYS.items():
            curve, cost = three_ways(case)[6, p, q, way]
            curve = curve[: int((curve > 1e-14).sum())]
            marker = {"marker": "o", "markersize": 4} if way == "auto" else {}
            ax.loglog(cost * torch.arange(1, len(curve)), curve[1:], color=color, linewidth=2, label=label, **marker)
            data[f"gap {way} p={p} q={q}"] = curve
        ax.set(title=f"$p={p}$, $q={q}$", xlabel="passes", ylim=(1e-14, 2))
    panels[0].set_ylabel("gap to the least norm")
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    show_figure(fig, name="three-ways", data=data)

"""Figures of the page on one layer at a time, or all units at once."""

import math

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show.figures import BROKEN, GREEN, MEASURED, ORANGE, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing import enorm
from companion.weight_balancing.common import largest_safe_exponent, paper_exponent, problems

POSITIONS = torch.cat([torch.linspace(0.25, 2, 15), torch.tensor([1.01])]).sort().values.tolist()
TRIED = tuple((p, q) for p in (1, 1.5, 2, 3, 5) for q in (1, 1.5, 2, 3, 5))


@shared
def harmed(case: Case) -> dict[str, list[float]]:
    """Share of networks whose norm one update raises, for exponents in units of the largest safe one."""
    families = {
        "random graphs": [s for pq in TRIED for s in problems(case, "harmed", (pq,), 6)],
        "deep chains": [enorm.chain(K, *pq, size) for pq in TRIED for K in (20, 30, 40) for size in (0.01, 0.1)],
        "dominated row": [enorm.dominated(*pq) for pq in TRIED],
    }
    raised = lambda s, x: enorm.growth(s, x * largest_safe_exponent(s.p, s.q)) > 1e-13
    return {name: [sum(raised(s, x) for s in some) / len(some) for x in POSITIONS] for name, some in families.items()}


def draw_safe_exponent(case: Case) -> None:
    """Left, the largest safe exponent in units of the paper's; right, what larger ones do."""
    fig, (left, right) = axes(1, 2, height=2.9)
    ratios = torch.logspace(-2, 3, 21, base=2.0, dtype=torch.float64)
    law = [4 * max(p, 1.0) / max(p, 2.0) for p in ratios.tolist()]
    worst = [enorm.worst_border(p, 1.0, 48) / paper_exponent(p, 1.0) for p in ratios.tolist()]
    left.semilogx(ratios, law, **PREDICTED, base=2, label="theorem")
    left.plot(ratios, worst, "o", color=MEASURED["color"], ms=4, label="worst networks")
    left.axhline(1, color=GREEN, label="paper")
    left.set(xlabel="$p/q$", ylabel="safe / paper's exponent", ylim=(0, 4.5))
    left.legend()
    for style, (name, share) in zip([MEASURED, BROKEN, BROKEN | {"color": ORANGE}], harmed(case).items(), strict=True):
        right.plot(POSITIONS, share, **style, label=name)
    right.axvline(1, **PREDICTED | {"linewidth": 0.8})
    right.set(xlabel="exponent / safe exponent", ylabel="share of networks harmed")
    right.legend(loc="upper left", fontsize=8)
    data = {"p/q": ratios, "theorem": law, "measured": worst, "position": POSITIONS}
    show_figure(fig, name="safe-exponent", data=data | {f"harmed, {k}": v for k, v in harmed(case).items()})


def draw_chain_threshold(case: Case) -> None:
    """Exponent at which a balanced chain turns unstable, over the safe one, less one."""
    depths = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    law = torch.tensor([2 / (1 + math.cos(math.pi / (K + 1))) - 1 for K in depths])
    measured = torch.tensor([4 * enorm.border(enorm.chain(K, 2, 2, 1e-4)) - 1 for K in depths])
    fig, ax = axes(height=2.6, width=5.2)
    ax.plot(depths, law, **PREDICTED, label=r"$2/(1+\cos\frac{\pi}{K+1})-1$")
    ax.plot(depths, measured, "o", color=MEASURED["color"], ms=4.5, label="bisection")
    ax.set(xscale="log", yscale="log", xlabel="hidden units in the chain, $K$", ylabel="threshold / safe $-$ 1")
    ax.legend()
    show_figure(fig, name="chain-threshold", data={"depth": depths, "measured": measured, "predicted": law})


WAYS = {
    "Algorithm 1": lambda s: enorm.parallel(s),
    "all at once, 1/2p": lambda s: enorm.parallel(s, largest_safe_exponent),
    "one by one": lambda s: enorm.sweep(s),
}


@shared
def falls(case: Case) -> list[tuple[str, float, dict[str, Tensor]]]:
    """For a layered network and a graph: what it is, the rate l of the parallel update, gaps after each pass."""
    net = enorm.layered(case, ((2, 2),), ((10, 24, 24, 24, 24, 6),))[0]
    found = []
    for name, s in (("four hidden layers", net), ("a graph", problems(case, "one by one", ((2, 2),), 3)[1])):
        least = enorm.least_norms([s])[0]
        rate = enorm.coupling_rate(enorm.at_least_norm([s])[0])
        found.append((name, rate, {way: enorm.norms(s, step, 140) / least - 1 for way, step in WAYS.items()}))
    return found


def slopes(rate: float) -> dict[str, float]:
    """Contraction a pass of the log factors; of one by one the least that it can be."""
    return dict(zip(WAYS, ((1 + rate) / 2, rate, rate**2), strict=True))


def passes_to(case: Case, gap: float) -> list[list[int]]:
    """Passes until the gap is below a number, for each network and way."""
    return [[int((curve > gap).sum()) for curve in curves.values()] for _, _, curves in falls(case)]


def draw_falls(case: Case) -> None:
    """Gap to the least norm against passes, with the slopes of the theorem."""
    fig, panels = axes(1, 2, height=3.0, sharey=True)
    data = {}
    for ax, (name, rate, curves) in zip(panels, falls(case), strict=True):
        for style, (way, gap) in zip([BROKEN, MEASURED, MEASURED | {"color": GREEN}], curves.items(), strict=True):
            gap = gap[: int((gap > 1e-13).sum())]
            ax.semilogy(gap, **style, label=way)
            t = torch.arange(len(gap), dtype=gap.dtype)
            ax.semilogy(t, 2 * gap[-1] * slopes(rate)[way] ** (2 * (t - t[-1])), **PREDICTED | {"linewidth": 0.9})
            data[f"{way}, {name}"] = gap
        ax.set(title=name, xlabel="passes over the weights", ylim=(1e-13, 5))
    panels[0].set_ylabel("gap to the least norm, relative")
    panels[0].legend()
    show_figure(fig, name="enorm-passes", data=data)

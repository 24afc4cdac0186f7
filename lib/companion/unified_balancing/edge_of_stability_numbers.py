"""Numbers that the prose of the chapter on the edge of stability quotes, rounded, by the names it calls them."""

import torch

from claimbook.evidence import Case
from companion.unified_balancing import edge_of_stability as edge
from companion.unified_balancing import edge_of_stability_drawings as drawings
from companion.unified_balancing.convolutional import descent
from companion.unified_balancing.edge_of_stability import EDGE, crossings, off
from companion.unified_balancing.evidence import total
from companion.unified_balancing.evidence_drawings import stored

PHOTOGRAPHS, RATE = "data/results/paper/layer-norms-relu.npz", 0.04


def before_the_edge(case: Case) -> dict[str, str]:
    """What slow steps miss, and where the runs start."""
    run = descent(case, EDGE)
    late = torch.cat(edge.either_side(case, EDGE, slower=3)).max()
    first, sharp = 100 * off(run)[0], run["sharpness"][0] * EDGE.learning_rate / 2
    return {
        "slow": f"{100 * late:.1f}",
        "start-gap": f"{first.min():.0f} to {first.max():.0f}",
        "start-sharpness": f"{sharp.min():.2f} to {sharp.max():.2f}",
    }


def work_of_the_gradient(case: Case) -> dict[str, str]:
    """The squared step against what the curvature along it explains, on either side of the edge."""
    run = descent(case, EDGE)
    cross = crossings(case, EDGE).tolist()
    calm = [edge.work(run, EDGE, slice(10, max(c - 15, 20)), k)[0] for k, c in enumerate(cross)]
    wild = [edge.work(run, EDGE, slice(c + 15, None), k) for k, c in enumerate(cross)]
    return {
        "calm": f"{min(calm):.2f} to {max(calm):.2f}",
        "wild": f"{min(x for x, _ in wild):.0f} to {max(x for x, _ in wild):.0f}",
        "curved": f"{min(x for _, x in wild):.2f} to {max(x for _, x in wild):.2f}",
    }


def of_photographs() -> dict[str, str]:
    """The stored run on CIFAR-10: where it crosses, and what the prediction misses before and after."""
    run, origin = stored(PHOTOGRAPHS)
    crossed = drawings.crossing(run, RATE)
    missed = 100 * (1 - total(run["flow"]) / total(run["quotient"])).abs()
    law = (run["rest"].abs().amax() / run["quotient"].abs().amax()).item()
    return {
        "stored": "{images} images of CIFAR-10, {steps} steps. ".format(**origin.setup) + origin.summary(),
        "photo-cross": f"{crossed}",
        "photo-gap": f"{missed[10:crossed].median():.1f} % before and {missed[crossed:].median():.0f} % after",
        "photo-law": f"{law:.0e}",
    }


def of_the_partings() -> dict[str, str]:
    """Shares of leak and of finite steps over the last hundred steps of three stored studies."""
    partings, last = drawings.partings(), slice(-100, None)
    pixels, ideal, large = ([drawings.causes(run, last) for run in runs] for runs, _ in partings.values())
    tops = [(run["sharpness"][1:] * 0.01).max().item() for runs, _ in list(partings.values())[:2] for run in runs]
    return {
        "pixel-leak": f"{100 * min(leak for _, leak in pixels):.1f} to {100 * max(leak for _, leak in pixels):.1f}",
        "pixel-step": f"{100 * max(step for step, _ in pixels):.2f}",
        "none-step": f"{100 * max(step for step, _ in ideal):.2f}",
        "pixel-top": f"{max(tops):.2f}",
        "large-late": f"{100 * max(step for step, _ in large):.2f}",
        "made": " ".join(origin.summary() for _, origin in partings.values()),
    }

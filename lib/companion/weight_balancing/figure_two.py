"""E Fig. 2: Algorithm 1 on three networks of the same size and different depth, over seeds, panels and sizes.

At the paper's sizes the runs are stored; with hidden layers a twentieth as wide they are made on the spot. ``python -m
companion.weight_balancing.figure_two`` makes the stored ones again, in some minutes.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show import results
from companion.weight_balancing.common import paper_exponent
from normdyn.networks.graphs import layered_weights
from normdyn.rescaling.gauge import minimum_norm

NETWORKS = (  # of 2, 4 and 6 hidden layers
    (200, 2500, 1250, 10),
    (200, 2000, 1000, 500, 250, 10),
    (200, 1000, 750, 750, 500, 500, 250, 10),
)
EQUAL = tuple((100,) * len(widths) for widths in NETWORKS)  # as deep, inputs and outputs as wide as the rest
PANELS = ((1, 1), (2, 2), (1, 2), (2, 1), (2, 8), (8, 2))  # pairs (p, q): the natural ones, and one of the two large
STORED = "data/results/paper/figure-two.npz"
SEEDS, UPDATES = 8, 300


class Curves(NamedTuple):
    """Norms relative to the start.

    Attributes:
        ratio: (panels, networks, seeds, updates + 1), before the first update and after each.
        least: (panels, networks, seeds), the least norm of the orbit.
    """

    ratio: Tensor
    least: Tensor

    def excess(self) -> Tensor:
        """What is left of the fall from the start to the least norm: one at the start, zero at the end."""
        least = self.least[..., None]
        return (self.ratio - least) / (1 - least)


def narrowed(widths: tuple[int, ...], part: int) -> list[int]:
    """Hidden layers narrower by a factor, inputs and outputs as they are."""
    return [widths[0], *(n // part for n in widths[1:-1]), widths[-1]]


def traverse(powers: list[Tensor], z: list[Tensor], p: float, q: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Both sides of the balance for log factors z, layer by layer: what enters every unit, what leaves it."""
    into, out = [], []
    for P, (low, high) in zip(powers, pairwise(z), strict=True):
        x = (-p * low).exp()
        sums = P @ x
        into.append(sums ** (q / p) * (q * high).exp())
        out.append(x * ((into[-1] / sums).mT @ P).mT)
    return into, out[1:]


def equalised(powers: list[Tensor], z: list[Tensor], p: float, q: Tensor) -> list[Tensor]:
    """Log factors, constant on layers, that give all layers of weights the same total."""
    totals = torch.stack([side.sum(1, keepdim=True).log() for side in traverse(powers, z, p, q)[0]])
    shift = ((totals.mean(0) - totals) / q).cumsum(0)
    return [z[0], *(s.expand_as(v) for s, v in zip(shift, z[1:-1], strict=False)), z[-1]]


def as_drawn(powers: list[Tensor], z: list[Tensor], p: float, q: Tensor) -> list[Tensor]:
    return z


def algorithm_1(
    powers: list[Tensor],
    p: float,
    qs: list[float],
    updates: int,
    exponent: Callable[[float, float], float] = paper_exponent,
    start: Callable[..., list[Tensor]] = as_drawn,
) -> Tensor:
    """Norms before the first update and after each, of many networks at once: (qs, networks, updates + 1).

    The weights stay as they are: with ``powers`` = |W|^p formed once, (networks, fan out, fan in) for each layer, an
    update is two products a layer, and several q share them.
    """
    q = torch.tensor(qs, dtype=powers[0].dtype, device=powers[0].device)
    kappa = torch.tensor([exponent(p, each) for each in qs], dtype=q.dtype, device=q.device)
    widths = [P.shape[2] for P in powers] + [powers[-1].shape[1]]
    z = start(powers, [q.new_zeros(len(powers[0]), width, len(qs)) for width in widths], p, q)
    norms = []
    for _ in range(updates + 1):
        into, out = traverse(powers, z, p, q)
        norms.append(sum(side.sum(1).double() for side in into) ** (1 / q.double()))
        z[1:-1] = [v + kappa * (o / i).log() for v, i, o in zip(z[1:-1], into, out, strict=False)]
    return torch.stack(norms).permute(2, 1, 0)


def run(networks: list[list[Tensor]], updates: int, start: Callable[..., list[Tensor]] = as_drawn) -> Curves:
    """All panels for networks of one shape, given as lists of their weights."""
    layers = [torch.stack(layer) for layer in zip(*networks, strict=True)]
    ratio, least = {}, {}
    for p in sorted({p for p, _ in PANELS}):
        qs = [q for r, q in PANELS if r == p]
        norms = algorithm_1([W.abs() ** p for W in layers], p, qs, updates, start=start).cpu()
        for q, curve in zip(qs, norms, strict=True):
            ratio[p, q] = curve / curve[:, :1]
            ends = [minimum_norm(W, p=p, q=q, tolerance=1e-10).norm for W in networks]
            least[p, q] = torch.tensor(ends, dtype=torch.float64) / curve[:, 0]
    return Curves(torch.stack([ratio[panel] for panel in PANELS]), torch.stack([least[panel] for panel in PANELS]))


def joined(curves: Sequence[Curves], dim: int) -> Curves:
    """Several runs side by side, as networks (1) or as seeds (2)."""
    return Curves(torch.cat([c.ratio for c in curves], dim), torch.cat([c.least for c in curves], dim))


def drawn(case: Case, number: int, widths: Sequence[int]) -> list[Tensor]:
    """He's initialisation, zero-mean and Gaussian with variance 2 / fan in."""
    weights = layered_weights(widths, case.generator(f"figure two, {number}"), dtype=torch.float32)
    return [W.to(case.device) for W in weights]


@shared
def narrow(case: Case, start=as_drawn, shapes=NETWORKS, part: int = 20) -> Curves:
    """The same networks with hidden layers narrower by a factor, made now."""
    found = []
    for number, widths in enumerate(shapes):
        seeds = [case.with_seed(SEEDS * case.seed + k) for k in range(SEEDS)]
        networks = [drawn(each, number, narrowed(widths, part)) for each in seeds]
        curves = run(networks, 200, start)
        found.append(Curves(curves.ratio[:, None], curves.least[:, None]))
    return joined(found, 1)


@shared
def wide(case: Case, start=as_drawn) -> Curves:
    """The networks at the paper's sizes: stored, or with the paper's profile made now."""
    if case.profile == "quick":
        stored, _ = results.load(STORED)
        return Curves(stored[f"ratio_{start.__name__}"].double(), stored[f"least_{start.__name__}"])
    return made(case, start)


def made(case: Case, start, updates: int = UPDATES) -> Curves:
    """The networks at the paper's sizes, one after the other, for memory's sake."""
    found = []
    for number, widths in enumerate(NETWORKS):
        seeds = [
            run([drawn(case.with_seed(SEEDS * case.seed + k), number, widths)], updates, start) for k in range(SEEDS)
        ]
        curves = joined(seeds, 1)
        found.append(Curves(curves.ratio[:, None], curves.least[:, None]))
    return joined(found, 1)


def main() -> None:
    """Make the stored runs again."""
    torch.set_num_threads(1)
    began, arrays = time.perf_counter(), {}
    for start in (as_drawn, equalised):
        curves = made(Case(), start)
        arrays |= {f"ratio_{start.__name__}": curves.ratio.float(), f"least_{start.__name__}": curves.least}
    setup = {
        "networks": [list(widths) for widths in NETWORKS],
        "panels": [list(panel) for panel in PANELS],
        "updates": UPDATES,
        "gain": 2.0,
        "dtype": "float32",
    }
    sources = ["companion.weight_balancing.figure_two"]
    seconds = time.perf_counter() - began
    results.save(
        arrays,
        "figure-two",
        setup=setup,
        seeds=range(SEEDS),
        seconds=seconds,
        device="cpu",
        data_sha256="",
        sources=sources,
    )


if __name__ == "__main__":
    main()

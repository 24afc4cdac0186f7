"""Rebalancing against the plain ways: ``python -m benchmarks.bench_gauge``.

Every method is stopped at the first pass after which its weights are within a relative gap of 1e-6 of the optimum of a
general convex solver; the stopping point is found beforehand, so that no method pays for a stopping rule. Timed is
the whole way from weights to rescaled weights. Compared with ours are

- (a) Algorithm 1 as printed, on the dense n x n matrix;
- (b) Algorithm 1 layer by layer, its powers |w|^p formed once as ours are;
- (c) block-coordinate descent over layers in ENorm's order, on the weights themselves as ENorm does it;
- (c*) the same sweeps with our sums: logarithms of factors, powers formed once in single precision.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling.gauge import convex_optimum, minimum_norm
from normdyn.rescaling.group import multiplicative_update, rescale
from normdyn.rescaling.problems import RescalingProblem

FIG2 = {
    "200-2500-1250-10": (200, 2500, 1250, 10),
    "200-2000-1000-500-250-10": (200, 2000, 1000, 500, 250, 10),
    "200-1000-750-750-500-500-250-10": (200, 1000, 750, 750, 500, 500, 250, 10),
}
HARD = FIG2["200-2000-1000-500-250-10"]
EXPONENTS = ((1, 1), (2, 2), (1, 2), (2, 1), (2, 8))
GAP, TIGHT = 1e-6, 1e-12


def clock() -> float:
    """Processor time for one thread, which other work on the machine disturbs little; else the time on the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def networks(seed: int = 0) -> dict[str, list[Tensor]]:
    """The paper's three, and three hard cases on the widths of the middle one."""
    he = {name: layered_weights(widths, torch.Generator().manual_seed(seed)) for name, widths in FIG2.items()}
    generator = torch.Generator().manual_seed(seed + 1)
    plain = layered_weights(HARD, generator)
    heavy = [W * (2 * torch.randn(W.shape, generator=generator, dtype=W.dtype)).exp() for W in plain]
    sparse = [W * alive_mask(W.shape, 0.05, generator) for W in plain]
    unbalanced = [W * 1e6 ** (l % 2) for l, W in enumerate(heavy)]
    return he | {"heavy-tailed": heavy, "sparse 5 %": sparse, "unbalanced 1e6": unbalanced}


def alive_mask(shape: tuple[int, int], density: float, generator: torch.Generator) -> Tensor:
    """Random connections, at least one in every row and every column."""
    mask = torch.rand(shape, generator=generator) < density
    rows, columns = torch.arange(shape[0]), torch.arange(shape[1])
    mask[rows, torch.randint(shape[1], (shape[0],), generator=generator)] = True
    mask[torch.randint(shape[0], (shape[1],), generator=generator), columns] = True
    return mask


def median_time(act: Callable[[list[Tensor]], object], weights: list[Tensor], repeats: int) -> float:
    """Median seconds of ``act`` on a fresh copy of the weights, after one warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        copies = [W.clone() for W in weights]
        start = clock()
        act(copies)
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])


def solve(weights: list[Tensor], method: str, p: float, q: float, passes: float, precise: bool = False) -> None:
    """From weights to rescaled weights in a given number of passes."""
    problem = RescalingProblem.layered(weights, p=p, q=q, precise=precise)
    found = minimum_norm(problem, method=method, tolerance=0, max_passes=passes)
    problem.rescale_(weights, found.log_factors)


def enorm(weights: list[Tensor], p: float, q: float, sweeps: int) -> None:
    """Sweeps of ENorm on the weights: each hidden layer in turn is rescaled to balance, or safely towards it."""
    power = {1: torch.abs, 2: torch.square}.get(p, lambda W: W.abs().pow(p))
    exponent = 1 / (q + max(p, q))  # exact for p = q
    for _ in range(sweeps):
        for W, V in pairwise(weights):
            incoming = power(W).sum(1).pow(q / p)
            P = power(V)
            outgoing = P.sum(0) if p == q else P.sum(1).pow(q / p - 1) @ P
            a = (outgoing / incoming).pow(exponent)
            W.mul_(a[:, None])
            V.div_(a)


def passes_to(gap: float, weights: list[Tensor], method: str, p: float, q: float, log_optimum: float) -> float:
    """First number of passes after which the relative gap of the norm is at most ``gap``."""
    precise = RescalingProblem.layered(weights, p=p, q=q, precise=True)

    def reached(z: Tensor) -> bool:
        return precise.traverse(z)[0].logsumexp(0).item() / q - log_optimum <= gap

    if method == "auto":
        problem = RescalingProblem.layered(weights, p=p, q=q, precise=gap < 1e-11)
        for passes in range(1, 200):
            if reached(minimum_norm(problem, tolerance=0, max_passes=passes).log_factors):
                return passes
        raise RuntimeError(f"no gap of {gap} for p, q = {p}, {q}")
    path: list[Tensor] = []
    problem = RescalingProblem.layered(weights, p=p, q=q)
    found = minimum_norm(problem, method=method, tolerance=gap / 1e3, max_passes=3000, callback=path.append)
    path = [*path[1:], found.log_factors] if method == "paper" else path  # a pass ends with its update
    low, high = 0, len(path) - 1  # the norm never increases: bisect
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(path[middle]) else (middle + 1, high)
    return (low + 1) if method == "paper" else (low + 1) * found.passes / len(path)


def measure(name: str, weights: list[Tensor], p: float, q: float, repeats: int, full: float) -> dict:
    """All numbers of one row."""
    log_optimum, reference = reference_optimum(weights, p, q)
    passes = {m: passes_to(GAP, weights, m, p, q, log_optimum) for m in ("auto", "paper", "enorm")}
    sweeps = round(passes["enorm"] / (1 if p == q else 1.5))
    ways = {m: lambda W, m=m: solve(W, m, p, q, passes[m]) for m in passes}
    ways["on weights"] = lambda W: enorm(W, p, q, sweeps)
    seconds = {way: median_time(act, weights, repeats if way == "auto" else repeats // 2) for way, act in ways.items()}
    W, hidden = layered_matrix(weights)
    b = W.new_zeros(len(W))

    def literal(W: Tensor, b: Tensor, updates: int) -> float:
        start = clock()
        for _ in range(updates):
            W, b = rescale(W, b, multiplicative_update(W, hidden, p=p, q=q))
        return clock() - start

    update = min(literal(W, b, 1) for _ in range(3))
    whole = update * passes["paper"] <= full
    dense = literal(W, b, int(passes["paper"])) if whole else update * passes["paper"]
    return {
        "network": name, "p": p, "q": q, "reference_difference": reference,
        "passes": passes["auto"], "passes_b": passes["paper"], "passes_c": passes["enorm"],
        "passes_tight": passes_to(TIGHT, weights, "auto", p, q, log_optimum),
        "seconds": seconds["auto"], "seconds_a": dense, "seconds_b": seconds["paper"],
        "seconds_c": seconds["on weights"], "seconds_c*": seconds["enorm"],
        "a_run_in_full": whole,
    }  # fmt: skip


def reference_optimum(weights: list[Tensor], p: float, q: float) -> tuple[float, float]:
    """Logarithm of the least norm known, and how far apart the convex solver and ours are."""
    problem = RescalingProblem.layered(weights, p=p, q=q, precise=True)

    def log_norm(z: Tensor) -> float:
        return problem.traverse(z)[0].logsumexp(0).item() / q

    convex = log_norm(convex_optimum(weights, p=p, q=q)[0])
    ours = log_norm(minimum_norm(problem, tolerance=1e-15, max_passes=200).log_factors)
    return min(convex, ours), convex - ours


def summary(rows: list[dict]) -> dict[str, float]:
    """The bars, as ratios within this run."""
    easy = [row for row in rows if row["network"] in FIG2]
    hard = [row for row in rows if row["network"] not in FIG2]
    ratio = lambda rows, x, y: [row[x] / row[y] for row in rows]
    return {
        "least speed-up over (a)": min(ratio(rows, "seconds_a", "seconds")),
        "median share of the passes of (b), Fig. 2": statistics.median(ratio(easy, "passes", "passes_b"))
        if easy
        else 0,
        "median share of the passes of (b), hard": statistics.median(ratio(hard, "passes", "passes_b")) if hard else 0,
        "median speed-up over (c)": statistics.median(ratio(rows, "seconds_c", "seconds")),
        "least speed-up over (c)": min(ratio(rows, "seconds_c", "seconds")),
        "median speed-up over (c*)": statistics.median(ratio(rows, "seconds_c*", "seconds")),
        "least speed-up over (c*)": min(ratio(rows, "seconds_c*", "seconds")),
        "most passes to 1e-12, Fig. 2": max((row["passes_tight"] for row in easy), default=0),
    }


def machine() -> dict[str, str | int]:
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": model[0] if model else platform.processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "clock": "processor" if torch.get_num_threads() == 1 else "wall",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of every method (default 1)")
    parser.add_argument("--repeats", type=int, default=11, help="runs of which the median is taken (default 11)")
    parser.add_argument("--full", type=float, default=20, help="seconds up to which (a) is run in full (default 20)")
    parser.add_argument("--only", help="substring of the networks to run")
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks/gauge.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'network':32} {'p,q':>5} | {'passes':>6} {'(b)':>5} {'(c)':>6} {'1e-12':>5} | "
          f"{'ms':>7} {'x (a)':>8} {'x (b)':>6} {'x (c)':>6} {'x (c*)':>6}")  # fmt: skip
    for name, weights in networks().items():
        if options.only and options.only not in name:
            continue
        for p, q in EXPONENTS:
            row = measure(name, weights, p, q, options.repeats, options.full)
            rows.append(row)
            print(f"{name:32} {p},{q:<3} | {row['passes']:6.0f} {row['passes_b']:5.0f} {row['passes_c']:6.1f} "
                  f"{row['passes_tight']:5.0f} | {1e3 * row['seconds']:7.1f} {row['seconds_a'] / row['seconds']:8.0f} "
                  f"{row['seconds_b'] / row['seconds']:6.1f} {row['seconds_c'] / row['seconds']:6.1f} "
                  f"{row['seconds_c*'] / row['seconds']:6.1f}"
                  f"{'' if row['a_run_in_full'] else '   (a): one update x passes'}", flush=True)  # fmt: skip
    print()
    for bar, value in summary(rows).items():
        print(f"{bar:45} {value:10.3g}")
    if not options.only:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": machine(), "gap": GAP, "summary": summary(rows), "rows": rows}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

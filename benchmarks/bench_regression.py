"""Exact descent on degenerate regression against the literal loop: ``python -m benchmarks.bench_regression``.

Both go from the same start to the weights after the same number of steps, on nine Chebyshev nodes with monomials of
degree 39. The loop is PyTorch at its leanest: two fused products a step, nothing allocated, nothing recorded. The
exact way is timed with its singular value decomposition, as if for a single run.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench_gauge import clock, machine
from normdyn.motion.regression import chebyshev_nodes, linear_descent, monomials

STEP = 0.4


def problem(degree: int = 39, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, targets and a random start."""
    x = chebyshev_nodes(9)
    start = torch.randn(degree + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return monomials(x, degree), torch.sin(8 * math.pi * x), start


def literal(features: Tensor, y: Tensor, start: Tensor, steps: int) -> Tensor:
    """One step after the other, in place."""
    w, residual, transposed, scale = start.clone(), torch.empty_like(y), features.mT.contiguous(), -STEP / len(y)
    with torch.inference_mode():
        for _ in range(steps):
            torch.addmv(y, features, w, beta=-1, out=residual)
            w.addmv_(transposed, residual, alpha=scale)
    return w


def exact(features: Tensor, y: Tensor, start: Tensor, steps: int) -> Tensor:
    return linear_descent(features, y, step=STEP).at(start, steps)


def measure(steps: int, repeats: int) -> dict[str, float]:
    """Median seconds of the exact way, seconds of the loop, and how far apart the two end."""
    args = problem()
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        ours = exact(*args, steps)
        seconds.append(clock() - start)
    start = clock()
    looped = literal(*args, steps)
    loop_seconds = clock() - start
    difference = ((ours - looped).abs().max() / looped.abs().max()).item()
    median = statistics.median(seconds[1:])
    return {"steps": steps, "seconds": median, "seconds_loop": loop_seconds, "speed_up": loop_seconds / median,
            "relative_difference": difference}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of both ways (default 1)")
    parser.add_argument("--repeats", type=int, default=51, help="runs of which the median is taken (default 51)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of steps")
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks/regression.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'steps':>9} | {'exact ms':>8} {'loop s':>8} {'ratio':>8} {'difference':>10}")
    for steps in options.steps:
        row = measure(steps, options.repeats)
        rows.append(row)
        print(f"{steps:9} | {1e3 * row['seconds']:8.2f} {row['seconds_loop']:8.2f} {row['speed_up']:8.0f} "
              f"{row['relative_difference']:10.1e}", flush=True)  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Logarithmic time against explicit steps: ``python -m benchmarks.bench_margins``.

Gradient flow and weight normalisation on separable points, from one start to ``t = 1e6``. Compared with
:func:`normdyn.norms.margins.follow` are

- (a) explicit steps of one size, NumPy at its leanest, as large as the curvature at the start allows and at most 0.5;
  only the last state is kept. Where there are too many, some steps are timed and the error is not compared.
- (b) an adaptive solver (LSODA) in plain ``t``, a stronger baseline, which also grows its steps with ``t``.

Both adaptive ways get the loosest tolerance, a power of ten, whose error is at most that of (a), or 1e-8 if (a) ends
closer. An error is the distance of the directions from a run at a tolerance of 1e-10. Last comes the way to
``t = 1e300``, for (a) out of reach, at a tolerance of 1e-6, and how far (b) ends from there (nan where it breaks down).
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.bench_gauge import clock, machine
from normdyn.data.sets import iris, unit_norm
from normdyn.norms.margins import follow
from normdyn.symmetry.polar import hard_margin

END, FAR = math.log1p(1e6), math.log(1e300)
SYSTEMS = ("gradient", "weight normalization")


def problems() -> dict[str, Tensor]:
    """Points times labels: two with unequal dual weights, and IRIS, setosa against the rest, samples of unit norm."""
    flowers = unit_norm(iris())
    signs = torch.where(flowers.labels == 0, 1.0, -1.0).double()
    pair = torch.tensor([[1.0, 1.0], [1.0, -0.5]], dtype=torch.float64)
    return {"pair": pair / pair.norm(dim=1, keepdim=True), "IRIS": flowers.inputs * signs[:, None]}


def velocity(X: np.ndarray, system: str) -> Callable[[np.ndarray], np.ndarray]:
    """Velocity of the weights that the network sees; weight normalisation from raw weights of norm one."""

    def plain(w: np.ndarray) -> np.ndarray:
        return np.exp(-(X @ w)) @ X

    def normalized(w: np.ndarray) -> np.ndarray:
        h = plain(w)
        square = w @ w
        return square * h + w * ((w @ h) / square * (1 - square))

    return plain if system == "gradient" else normalized


def explicit(X: np.ndarray, w: np.ndarray, system: str, step: float, steps: int) -> np.ndarray:
    """One step after the other."""
    rate, w = velocity(X, system), w.copy()
    for _ in range(steps):
        w += step * rate(w)
    return w


def adaptive(X: np.ndarray, w: np.ndarray, system: str, relative: float, end: float = 1e6) -> np.ndarray:
    """LSODA in plain time; where it gives up, as far as it came."""
    rate = velocity(X, system)
    with np.errstate(over="ignore", invalid="ignore"):  # trial states
        return solve_ivp(lambda _, w: rate(w), (0, end), w, method="LSODA", rtol=relative, atol=relative / 100).y[:, -1]


def direction_gap(w: Tensor | np.ndarray, reference: Tensor) -> float:
    w = torch.as_tensor(w)
    return (w / w.norm() - reference / reference.norm()).norm().item()


def loosest(run: Callable[[float], Tensor | np.ndarray], reference: Tensor, error: float) -> tuple[float, float]:
    """The loosest tolerance, a power of ten, that is at least as exact as asked, and its error."""
    for exponent in range(2, 13):
        found = direction_gap(run(10.0**-exponent), reference)
        if found <= error:
            return 10.0**-exponent, found
    raise RuntimeError(f"no tolerance reaches an error of {error:.1e}, the last one left {found:.1e}")


def median_time(act: Callable[[], object], repeats: int) -> float:
    """Median seconds after one warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        act()
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])


def measure(name: str, points: Tensor, system: str, repeats: int, full: int) -> dict:
    """All numbers of one row."""
    unit, _ = hard_margin(points)
    frame = unit / (points @ unit).min()
    start = frame + 0.5 * torch.linspace(1, -1, len(unit), dtype=unit.dtype)
    X, w = points.numpy(), start.numpy()
    ours = lambda relative, times=(END,): follow(
        points, start, list(times), system=system, frame=frame, relative=relative
    )["vector"][-1]
    plain = lambda relative, end=1e6: adaptive(X, w, system, relative, end)
    reference = ours(1e-10)
    curvature = np.exp(-(X @ w)) @ (X * X).sum(1) * (1 if system == "gradient" else w @ w)
    step = min(0.5, 1 / curvature)
    steps = round(1e6 / step)
    taken = min(steps, full)
    began = clock()
    stepped = explicit(X, w, system, step, taken)
    seconds_a = (clock() - began) * steps / taken
    error_a = direction_gap(stepped, reference) if taken == steps else None
    relative, error = loosest(ours, reference, max(error_a or 0, 1e-8))
    relative_b, error_b = loosest(plain, reference, max(error_a or 0, 1e-8))
    return {
        "points": name, "system": system, "step": step, "steps": steps, "a_run_in_full": taken == steps,
        "error": error, "error_a": error_a, "error_b": error_b, "relative": relative, "relative_b": relative_b,
        "seconds": median_time(lambda: ours(relative), repeats), "seconds_a": seconds_a,
        "seconds_b": median_time(lambda: plain(relative_b), repeats),
        "seconds_far": median_time(lambda: ours(1e-6, (END, FAR)), max(1, repeats // 3)),
        "difference_far": direction_gap(plain(1e-6, 1e300), ours(1e-6, (END, FAR))),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of every way (default 1)")
    parser.add_argument("--repeats", type=int, default=11, help="runs of which the median is taken (default 11)")
    parser.add_argument("--full", type=int, default=4_000_000, help="most steps of (a) taken (default 4 million)")
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks/margins.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'points':6} {'system':>20} | {'error':>7} {'ms':>7} {'(a) s':>8} {'x (a)':>8} {'x (b)':>6} | "
          f"{'1e300 ms':>8} {'to (b)':>7}")  # fmt: skip
    for name, points in problems().items():
        for system in SYSTEMS:
            row = measure(name, points, system, options.repeats, options.full)
            rows.append(row)
            print(f"{name:6} {system:>20} | {row['error']:7.0e} {1e3 * row['seconds']:7.1f} {row['seconds_a']:8.1f} "
                  f"{row['seconds_a'] / row['seconds']:8.0f} {row['seconds_b'] / row['seconds']:6.2f} | "
                  f"{1e3 * row['seconds_far']:8.1f} {row['difference_far']:7.0e}"
                  f"{'' if row['a_run_in_full'] else '   (a): some steps timed'}", flush=True)  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

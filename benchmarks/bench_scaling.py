"""How the cost of training many networks together grows, and how far it is from the limit: ``python -m`` this module.

:func:`companion.studies.square_loss.run` on inputs of the embedded digits, with batch normalisation, float32. One of
three numbers varies: networks, width, layers. Counted for each step are the operations of the matrix products,
forward and backward (six for each weight and sample, four in the first layer, whose inputs need no gradient), and the
bytes that have to move if every weight, momentum and gradient is touched once by the step. The limits are measured in
the same run: a matrix product of 1,024 rows for operations, a copy of 64 MB for bytes. What is left between cost and
limit is overhead of small operations.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from benchmarks.bench_gauge import machine
from benchmarks.bench_margins import median_time
from companion.studies.square_loss import Setup, run, two_classes
from normdyn.data import sets as data

BASE = Setup(scales=(1.0,), decays=(0.01,), seeds=tuple(range(9)), width=32, epochs=20, evaluations=1)
VARIED = {
    "networks": [dataclasses.replace(BASE, seeds=tuple(range(k))) for k in (1, 2, 4, 8, 16, 32, 64)],
    "width": [dataclasses.replace(BASE, width=w) for w in (8, 16, 32, 64, 128, 256)],
    "layers": [dataclasses.replace(BASE, layers=n) for n in (2, 4, 8, 16)],
}
NUMBER = {"networks": lambda s: len(s.seeds), "width": lambda s: s.width, "layers": lambda s: s.layers}


def limits(repeats: int) -> dict[str, float]:
    """Operations and bytes a second that this machine reaches in float32."""
    A = torch.randn(1024, 1024)
    block = torch.randn(16 * 2**20)
    return {
        "operations": 2 * 1024**3 / median_time(lambda: A @ A, repeats),
        "bytes": 2 * 4 * block.numel() / median_time(block.clone, repeats),
    }


def counts(setup: Setup, inputs: int) -> tuple[float, float]:
    """Operations and bytes of one step of all networks."""
    fans = [inputs] + [setup.width] * (setup.layers - 1) + [1]
    weights = [m * n for m, n in zip(fans[:-1], fans[1:], strict=True)]
    products = 2 * setup.batch * (3 * sum(weights) - weights[0])
    moved = 4 * sum(weights) * 6  # weight: read twice, written; momentum: read, written; gradient: written, read
    return len(setup.seeds) * products, len(setup.seeds) * moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is taken (default 5)")
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks/scaling.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair = data.flatten(data.select_classes(data.digits(), ["3", "8"]))
    train, test = two_classes(pair, samples=256, seed=0, dtype=torch.float32)
    limit, rows = limits(options.repeats), []
    print(f"limits: {limit['operations'] / 1e9:.0f} G operations/s, {limit['bytes'] / 1e9:.1f} GB/s")
    for varied, setups in VARIED.items():
        for setup in setups:
            steps = setup.epochs * (len(train[0]) // setup.batch)
            seconds = median_time(lambda setup=setup: run(setup, train, test), options.repeats) / steps
            operations, moved = counts(setup, train[0].shape[1])
            least = max(operations / limit["operations"], moved / limit["bytes"])
            rows.append({
                "varied": varied, "number": NUMBER[varied](setup), "seconds a step": seconds, "operations": operations,
                "bytes": moved, "share of the limit": least / seconds,
            })  # fmt: skip
            print(f"{varied:10} {NUMBER[varied](setup):4} | {1e3 * seconds:7.2f} ms a step | {least / seconds:6.1%}")
    ensembles = {row["number"]: row["seconds a step"] for row in rows if row["varied"] == "networks"}
    summary = {
        "time of 64 networks over that of one": ensembles[64] / ensembles[1],
        "largest share of the limit": max(row["share of the limit"] for row in rows),
        "operations a second of a large product": limit["operations"],
        "bytes a second of a large copy": limit["bytes"],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine(), "summary": summary, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

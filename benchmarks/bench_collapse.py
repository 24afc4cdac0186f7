"""Measures of neural collapse against the public way: ``python -m benchmarks.bench_collapse``.

Features of one size are measured in a process of its own for each way, which reports its seconds (best of a few runs)
and how far its peak memory rises above what features, labels and last layer take. Compared with

- ``ours``: :func:`normdyn.measures.collapse.neural_collapse`, all nine measures, and
- ``stream``: :class:`normdyn.measures.collapse_stream.Accumulator`, batches of 500, all but NC4, are
- ``peer``: the first paper's public analysis written anew in torch, batches of 500: a pass for the class means, a pass
  for the ``(d, d)`` covariance within classes, its trace against the pseudo-inverse, and NC2 to NC4; and
- ``before``: the same formulas on whole tensors, as this library had them.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench_gauge import machine

SIZES = {"50000 x 512, 10 classes": (50_000, 512, 10), "20000 x 2048, 100 classes": (20_000, 2048, 100)}
WAYS = ("ours", "stream", "peer", "before")
BATCH = 500


def draw(samples: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    features = torch.empty(samples, width)
    means = torch.randn(classes, width, generator=generator)
    for rows in torch.arange(samples).split(1000):
        features[rows] = torch.randn(len(rows), width, generator=generator).add_(means[labels[rows]])
    return features, labels, torch.randn(classes, width, generator=generator)


def ours(features: Tensor, labels: Tensor, W: Tensor) -> dict[str, float]:
    from normdyn.measures.collapse import neural_collapse

    return {name: value.item() for name, value in neural_collapse(features, labels, W).items()}


def stream(features: Tensor, labels: Tensor, W: Tensor) -> dict[str, float]:
    from normdyn.measures.collapse_stream import Accumulator

    accumulator = Accumulator()
    for h, y in zip(features.split(BATCH), labels.split(BATCH), strict=True):
        accumulator.update(h, y)
    return {name: value.item() for name, value in accumulator.result(W).items()}


def peer(features: Tensor, labels: Tensor, W: Tensor) -> dict[str, float]:
    classes, width = W.shape
    batches = list(zip(features.split(BATCH), labels.split(BATCH), strict=True))
    means, counts = torch.zeros(classes, width), torch.zeros(classes)
    for h, y in batches:
        for c in range(classes):
            means[c] += h[y == c].sum(0)
            counts[c] += (y == c).sum()
    means /= counts[:, None]
    within, wrong = torch.zeros(width, width), 0
    for h, y in batches:
        rest = h - means[y]
        within += rest.mT @ rest
        wrong += int((torch.cdist(h, means).argmin(1) != (h @ W.mT).argmax(1)).sum())
    centred = means - means.mean(0)
    between = centred.mT @ centred / classes
    values, vectors = torch.linalg.eigh(between)
    values, vectors = values[-classes + 1 :], vectors[:, -classes + 1 :]
    trace = torch.trace(within / len(features) @ (vectors / values @ vectors.mT))
    cosines = torch.nn.functional.normalize(centred) @ torch.nn.functional.normalize(centred).mT
    gap = (cosines + 1 / (classes - 1)).fill_diagonal_(0).abs().sum() / classes / (classes - 1)
    return {
        "variability": trace.item() / classes,
        "variance_ratio": (within.trace() / len(features) / between.trace()).item(),
        "length_spread": (centred.norm(dim=1).std(correction=0) / centred.norm(dim=1).mean()).item(),
        "angle_gap": gap.item(),
        "duality_gap": (W / W.norm() - centred / centred.norm()).norm().item(),
        "center_disagreement": wrong / len(features),
    }


def before(features: Tensor, labels: Tensor, W: Tensor) -> dict[str, float]:
    def parts() -> tuple[Tensor, Tensor, Tensor]:
        counts = torch.bincount(labels)
        means = features.new_zeros(W.shape).index_add(0, labels, features) / counts[:, None]
        return means - means.mean(0), features - means[labels], 1 / (len(W) * counts[labels]).to(features)

    centred, rest, weights = parts()
    _, scales, directions = torch.linalg.svd(centred, full_matrices=False)
    along = rest @ directions[:-1].mT / scales[:-1]
    found = {"variability": (along.square().sum(1) * weights).sum().item()}
    centred, rest, weights = parts()
    found["variance_ratio"] = ((rest.square().sum(1) * weights).sum() / centred.square().sum(1).mean()).item()
    return found


def measure(way: str, size: str, repeats: int) -> dict:
    """Seconds, memory and values of one way, in this process."""
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    act: Callable[[Tensor, Tensor, Tensor], dict[str, float]] = globals()[way]
    act(*draw(60, 8, 4))  # libraries are loaded
    given = draw(*SIZES[size])
    held, seconds = peak(), []
    for _ in range(repeats):
        start = time.process_time()
        values = act(*given)
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "megabytes": peak() - held, "values": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best is taken (default 3)")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "SIZE"), help="measure one way here and print it as JSON")
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks/collapse.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(measure(*options.one, options.repeats)))
        return
    rows = []
    for size in SIZES:
        found = {}
        for way in WAYS:
            command = [sys.executable, "-m", __spec__.name, "--one", way, size, "--repeats", str(options.repeats)]
            found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        agree = max(abs(found["ours"]["values"][k] / v - 1) for k, v in found["peer"]["values"].items())
        streamed = max(abs(found["ours"]["values"][k] / v - 1) for k, v in found["stream"]["values"].items())
        row = {"size": size, "difference_from_peer": agree, "difference_of_stream": streamed}
        for way in WAYS:
            row |= {f"seconds_{way}": found[way]["seconds"], f"megabytes_{way}": found[way]["megabytes"]}
        rows.append(row)
        print(f"{size:28}" + "".join(
            f"{way}: {row[f'seconds_{way}']:.2f} s, {row[f'megabytes_{way}']:.0f} MB   " for way in WAYS
        ) + f"differences {agree:.0e}, {streamed:.0e}")  # fmt: skip
    most = lambda x: max(row[f"{x}_ours"] / row[f"{x}_peer"] for row in rows)
    summary = {"most time over the peer's": most("seconds"), "most memory over the peer's": most("megabytes")}
    for bar, value in summary.items():
        print(f"{bar:45} {value:10.3g}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "batch": BATCH, "summary": summary, "rows": rows}
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""An ensemble trained together against its networks one after the other: ``python -m benchmarks.bench_square_loss``.

Nine networks of paper B's experiment (three initial norms, three seeds) on two classes of the embedded digits: four
layers with and without batch normalisation, batch 128, momentum, weight decay. The plain way is torch's own: a
``Sequential`` of ``Linear``, ``BatchNorm1d`` and ``ReLU``, ``MSELoss``, ``SGD``. Both see the same weights and batches
in float64, both are timed with no record but the last, and their final weights are compared in the same run.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.bench_gauge import clock, machine
from companion.studies.square_loss import Params, Setup, initialize, run, two_classes
from normdyn.data import sets as data

BASE = Setup(seeds=(0, 1, 2), width=16, epochs=50, evaluations=1)
CASES = {
    "batch normalisation, width 16": BASE,
    "batch normalisation, width 32": dataclasses.replace(BASE, width=32),
    "no normalisation, width 16": dataclasses.replace(BASE, batch_norm=False, learning_rate=0.01),
}


def module(setup: Setup, start: Params, k: int) -> nn.Sequential:
    """Network ``k`` of the ensemble, from torch's own layers."""
    layers: list[nn.Module] = []
    for l in range(1, setup.layers + 1):
        W = start[f"W{l}"][k]
        layer = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
        layer.weight = nn.Parameter(W.clone())
        norm = [nn.BatchNorm1d(len(W), affine=False, eps=setup.epsilon, dtype=W.dtype)] if setup.batch_norm else []
        layers += [layer] if l == setup.layers else [layer, *norm, nn.ReLU()]
    return nn.Sequential(*layers)


def one_after_the_other(setup: Setup, train: tuple[Tensor, Tensor]) -> list[list[Tensor]]:
    """Final weights of all networks, each trained on its own."""
    (X, y), final = train, []
    start, seeds = initialize(setup, train[0].shape[1]), setup.seeds * len(setup.scales)
    loss = nn.MSELoss()
    for k, seed in enumerate(seeds):
        model, order = module(setup, start, k), torch.Generator().manual_seed(1000 * seed + 2)
        descent = torch.optim.SGD(
            model.parameters(), lr=setup.learning_rate, momentum=setup.momentum, weight_decay=setup.decays[0]
        )
        for _ in range(setup.epochs):
            for rows in torch.randperm(len(X), generator=order).split(setup.batch):
                if len(rows) == setup.batch:
                    descent.zero_grad()
                    loss(model(X[rows])[:, 0], y[rows]).backward()
                    descent.step()
        final.append([W.detach() for W in model.parameters()])
    return final


def measure(name: str, setup: Setup, repeats: int) -> dict:
    """Median seconds of both ways after a warm-up, turn by turn, and the largest relative gap of the final weights."""
    train, test = two_classes(data.flatten(data.select_classes(data.digits(), ["3", "8"])), samples=256, seed=0)
    ways = {"stacked": lambda: run(setup, train, test), "plain": lambda: one_after_the_other(setup, train)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, act in ways.items():
            start = clock()
            act()
            seconds[way].append(clock() - start)
    short = dataclasses.replace(setup, epochs=5)  # rounding grows along the way: chaos, not a difference of methods
    together, alone = run(short, train, test), one_after_the_other(short, train)
    gap = max(
        ((together[f"W{l + 1}"].flatten(0, 2)[k] - W).abs().max() / W.abs().max()).item()
        for k, weights in enumerate(alone)
        for l, W in enumerate(weights)
    )
    stacked, plain = (statistics.median(seconds[way][1:]) for way in ways)
    return {
        "case": name, "networks": len(alone), "steps": setup.epochs * (len(train[0]) // setup.batch),
        "seconds_stacked": stacked, "seconds_plain": plain, "ratio": plain / stacked, "gap": gap,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of both ways (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the median is taken (default 5)")
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks/square_loss.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'nine networks':32} | {'stacked s':>9} {'plain s':>8} {'ratio':>6} | {'gap':>8}")
    for name, setup in CASES.items():
        row = measure(name, setup, options.repeats)
        rows.append(row)
        print(f"{name:32} | {row['seconds_stacked']:9.2f} {row['seconds_plain']:8.2f} {row['ratio']:6.2f} | "
              f"{row['gap']:8.1e}", flush=True)  # fmt: skip
    summary = {"least ratio": min(row["ratio"] for row in rows), "largest gap": max(row["gap"] for row in rows)}
    print(f"\nleast ratio {summary['least ratio']:.2f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine(), "summary": summary, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

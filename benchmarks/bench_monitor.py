"""What tracking every step costs: ``python -m benchmarks.bench_monitor``.

The network of the paper's Fig. 1a in shape: convolutions with 4 channels, ReLU and max pooling after each, a linear
readout, mean squared error, full-batch gradient descent. Every way trains the same network from the same start; rounds
of a few steps take turns, so that all ways meet the same machine. Cost is the ratio to plain gradient descent, the
median over rounds, of

- monitor: :class:`normdyn.norms.monitor.NormMonitor`, hooks and float64 sums, every step;
- (b) second backward: the flow's rate of each layer from a backward pass of its own, and the norms by difference;
- (c) finite differences: order of each layer from the outputs at weights scaled by 1 + h, and the norms by difference.

A second table has networks of common size, trained by stochastic gradient descent on mini-batches, plain and monitored:
multilayer perceptrons on images of MNIST's size, also with the balances of their units (``junctions="chain"``), and
ResNet18 on images of CIFAR-10's; and a third what ``check()``
takes after 100 steps of chains of more and more layers.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.bench_gauge import clock, machine
from benchmarks.networks import perceptron, resnet18
from normdyn.data.sets import digits, draw_samples
from normdyn.norms.monitor import NormMonitor


def network(channels_in: int, side: int, convolutions: int, channels: int = 4, classes: int = 10) -> nn.Sequential:
    """ReLU-CNN without biases, max pooling after every convolution, linear readout."""
    widths = [channels_in] + [channels] * convolutions
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)]
    readout = nn.Linear(channels * (side >> convolutions) ** 2, classes, bias=False)
    return nn.Sequential(*layers, nn.Flatten(), readout)


def problems() -> dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor]]:
    """Networks with their data: all digits, fewer, and images of the size of CIFAR-10's."""
    draw = torch.Generator().manual_seed(0)
    found = {}
    for samples in (1797, 500):
        data = draw_samples(digits(dtype=torch.float32), samples, generator=draw)
        targets = nn.functional.one_hot(data.labels, 10).float()
        found[f"{samples} digits 1x8x8"] = (lambda: network(1, 8, 3), data.inputs, targets)
    for samples in (256, 1024):
        images, labels = torch.randn(samples, 3, 32, 32, generator=draw), torch.arange(samples) % 10
        targets = nn.functional.one_hot(labels, 10).float()
        found[f"{samples} images 3x32x32"] = (lambda: network(3, 32, 3), images, targets)
    return found


class Run:
    """One network in training, and one way to track its norms."""

    def __init__(self, way: str, build: Callable[[], nn.Module], X: Tensor, Y: Tensor, learning_rate: float = 0.02):
        torch.manual_seed(0)
        self.model, self.X, self.Y, self.way = build(), X, Y, way
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=learning_rate)
        self.monitor = NormMonitor(self.model, self.optimizer) if way == "monitor" else None
        self.learning_rate, self.records = learning_rate, []

    def loss(self, f: Tensor) -> Tensor:
        return (f - self.Y).square().sum() / (2 * len(f))

    def step(self) -> None:
        plain = self.way in ("plain", "monitor")
        before = None if plain else self.norms()
        f = self.model(self.X)
        loss = self.loss(f)
        self.optimizer.zero_grad()
        loss.backward(retain_graph=self.way == "second backward")
        if self.way == "second backward":
            (gradient,) = torch.autograd.grad(loss, f, retain_graph=True)
            weights = list(self.model.parameters())
            flow = torch.autograd.grad(f, weights, gradient)
            slopes = torch.stack(
                [(W.detach() * g).sum(dtype=torch.float64) for W, g in zip(weights, flow, strict=True)]
            )
        elif self.way == "finite differences":
            slopes = self.slopes(f.detach())
        self.optimizer.step()
        if not plain:
            self.records.append((before, -2 * slopes, (self.norms() - before) / self.learning_rate))

    @torch.no_grad()
    def norms(self) -> Tensor:
        return torch.stack([W.square().sum(dtype=torch.float64) for W in self.model.parameters()])

    @torch.no_grad()
    def slopes(self, f: Tensor, h: float = 1e-2) -> Tensor:
        """Derivative of the loss along each layer, by a difference quotient."""
        base, found = self.loss(f), []
        for W in self.model.parameters():
            W.mul_(1 + h)
            found.append((self.loss(self.model(self.X)) - base) / h)
            W.div_(1 + h)
        return torch.stack(found).double()


WAYS = ("plain", "monitor", "second backward", "finite differences")


def measure(name: str, build, X: Tensor, Y: Tensor, rounds: int, seconds: float) -> dict:
    """Median ratios to plain gradient descent over rounds in which all ways take turns."""
    runs = {way: Run(way, build, X, Y) for way in WAYS}
    for run in runs.values():
        run.step()
    start = clock()
    runs["plain"].step()
    steps = max(3, round(seconds / (clock() - start)))
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for k in range(rounds):
        for way in WAYS[k % len(WAYS) :] + WAYS[: k % len(WAYS)]:
            start = clock()
            for _ in range(steps):
                runs[way].step()
            spent[way].append((clock() - start) / steps)
    ratio = lambda way: [x / y for x, y in zip(spent[way], spent["plain"], strict=True)]
    row = {"network": name, "parameters": sum(p.numel() for p in runs["plain"].model.parameters()), "steps": steps}
    row["seconds_plain"] = statistics.median(spent["plain"])
    for way in WAYS[1:]:
        row[way] = statistics.median(ratio(way))
    row["seconds_monitor"] = statistics.median(spent["monitor"]) - row["seconds_plain"]
    table = runs["monitor"].monitor.total()
    row["law_residual"] = ((table["rate"] - table["law"]).abs().max() / table["rate"].abs().max()).item()
    return row


def common() -> dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor]]:
    """Networks of common size with a mini-batch."""
    draw = torch.Generator().manual_seed(0)
    found = {}
    for batch in (128, 512):
        X, labels = torch.randn(batch, 784, generator=draw), torch.arange(batch) % 10
        found[f"784-512-512-10, batch {batch}"] = (lambda: perceptron(784, 512, 512, 10), X, labels)
    images = torch.randn(128, 3, 32, 32, generator=draw)
    found["ResNet18 on 32x32, batch 128"] = (resnet18, images, torch.arange(128) % 10)
    return found


def overhead(name: str, build: Callable[[], nn.Module], X: Tensor, labels: Tensor, rounds: int, seconds: float) -> dict:
    """Median ratio of monitored to plain training over rounds in which both take turns."""
    steps, monitor = {}, None
    junctions = {"monitor": None} | ({} if batched(build) else {"with balances": "chain"})
    for way in ("plain", *junctions):
        torch.manual_seed(0)
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        if way != "plain":
            monitor = NormMonitor(model, optimizer, junctions=junctions[way])

        def step(model=model, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), labels).backward()
            optimizer.step()

        steps[way] = step
    for step in steps.values():
        step()
    start = clock()
    steps["plain"]()
    count = max(1, round(seconds / (clock() - start)))
    rounds = rounds if count > 1 else min(rounds, 5)
    spent: dict[str, list[float]] = {way: [] for way in steps}
    for k in range(rounds):
        for way in list(steps)[:: 1 if k % 2 else -1]:
            start = clock()
            for _ in range(count):
                steps[way]()
            spent[way].append((clock() - start) / count)
    ratios = {w: [x / y for x, y in zip(spent[w], spent["plain"], strict=True)] for w in junctions}
    low, _, high = statistics.quantiles(ratios["monitor"], n=4)
    assert monitor is not None
    return {
        "network": name, "parameters": sum(p.numel() for p in build().parameters()), "tensors": len(monitor.names),
        "rounds": rounds, "seconds_plain": statistics.median(spent["plain"]), "quartiles": [low, high],
    } | {way: statistics.median(found) for way, found in ratios.items()}  # fmt: skip


def batched(build: Callable[[], nn.Module]) -> bool:
    """Whether the network has batch normalisation, and so no chain of layers whose units are balanced."""
    return any(isinstance(m, nn.BatchNorm2d) for m in build().modules())


def check_times(depths: tuple[int, ...] = (25, 50, 100, 200), steps: int = 100) -> list[dict]:
    """Seconds of ``check()`` by number of tensors."""
    rows = []
    for depth in depths:
        torch.manual_seed(0)
        model = perceptron(*[8] * (depth + 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        monitor = NormMonitor(model, optimizer, junctions=[])
        X = torch.randn(4, 8)
        for _ in range(steps):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
        start = clock()
        monitor.check(warn=False)
        rows.append({"tensors": len(monitor.names), "steps": steps, "seconds": clock() - start})
    return rows


def summary(rows: list[dict]) -> dict[str, float]:
    """The bars, as ratios within this run."""
    return {
        "largest cost of the monitor": max(row["monitor"] for row in rows) - 1,
        "median cost of the monitor": statistics.median(row["monitor"] for row in rows) - 1,
        "least cost of (b) a second backward pass": min(row["second backward"] for row in rows) - 1,
        "least cost of (c) finite differences": min(row["finite differences"] for row in rows) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of every way (default 1)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of which the median is taken (default 15)")
    parser.add_argument("--seconds", type=float, default=0.15, help="of plain descent in a round (default 0.15)")
    parser.add_argument("--output", type=Path, default=Path("data/benchmarks/monitor.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'network':24} {'params':>6} {'ms/step':>8} | {'monitor':>8} {'(b)':>6} {'(c)':>6} | {'law residual':>12}")
    for name, (build, X, Y) in problems().items():
        row = measure(name, build, X, Y, options.rounds, options.seconds)
        rows.append(row)
        print(f"{name:24} {row['parameters']:6} {1e3 * row['seconds_plain']:8.2f} | {row['monitor']:8.3f} "
              f"{row['second backward']:6.2f} {row['finite differences']:6.2f} | {row['law_residual']:12.1e}",
              flush=True)  # fmt: skip
    print()
    for bar, value in summary(rows).items():
        print(f"{bar:45} {value:10.3g}")
    print()
    usual = []
    for name, (build, X, labels) in common().items():
        usual.append(overhead(name, build, X, labels, 2 * options.rounds, options.seconds))
        row = usual[-1]
        print(f"{name:30} {row['parameters']:9} {1e3 * row['seconds_plain']:9.2f} ms | monitor {row['monitor']:6.3f} "
              f"(quartiles {row['quartiles'][0]:.3f} to {row['quartiles'][1]:.3f}) "
              f"with balances {row.get('with balances', float('nan')):6.3f}", flush=True)  # fmt: skip
    checks = check_times()
    for row in checks:
        print(f"check() of {row['tensors']:4} tensors over {row['steps']} steps: {row['seconds']:.3f} s")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "summary": summary(rows), "rows": rows, "common": usual, "check": checks}
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

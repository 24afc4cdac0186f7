"""Which training loops the monitor can watch: ``python -m benchmarks.zoo.loops``, with the zoo's own requirements.

Every loop trains a network of which the truth is known: three layers without biases and ReLU between them obey the norm
law exactly with order 1, whatever the loop does to gradients and steps. A cell passes if the monitor says so, if under
plain descent the rate is the sum of its terms within its error bar, and if no step is missing. Where it does not pass
by right, the cell holds the reason that the monitor gives, and the words that it has to contain.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from normdyn.norms.callbacks import lightning_callback, log_tensorboard, trainer_callback
from normdyn.norms.monitor import NormMonitor

STEPS = 8
LOOPS: dict[str, tuple[Callable[[], NormMonitor | list[NormMonitor]], str]] = {}


def loop(name: str, expected: str = "exact"):
    """Enter a function that trains and returns its monitors, with the status that is true."""

    def enter(function):
        LOOPS[name] = function, expected
        return function

    return enter


def network(seed: int = 0, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    widths = (6, 16, 12, 3)
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def data(samples: int = 32, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 6, generator=draw), torch.randn(samples, 3, generator=draw)


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.05} | options))


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, X: Tensor, Y: Tensor) -> None:
    optimizer.zero_grad()
    F.mse_loss(model(X), Y).backward()
    optimizer.step()


def watched(step: Callable[..., object] = plain_step, model=None, optimizer=None, **options: Any) -> NormMonitor:
    model = network() if model is None else model
    optimizer = sgd(model) if optimizer is None else optimizer
    with NormMonitor(model, optimizer, **options) as monitor:
        for _ in range(STEPS):
            step(model, optimizer, *data())
    return monitor


@loop("plain descent")
def plain():
    return watched()


@loop("momentum, gradients set to zero")
def momentum():
    def step(model, optimizer, X, Y):
        optimizer.zero_grad(set_to_none=False)
        F.mse_loss(model(X), Y).backward()
        optimizer.step()

    model = network()
    return watched(step, model, sgd(model, momentum=0.9, nesterov=True, weight_decay=1e-2))


def closed(model, optimizer, X, Y):
    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), Y)
        loss.backward()
        return loss

    optimizer.step(closure)


@loop("closure")
def closure():
    return watched(closed)


@loop("closure, LBFGS")
def lbfgs():
    model = network()
    return watched(closed, model, torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4))


@loop("gradient accumulation")
def accumulation():
    def step(model, optimizer, X, Y):
        optimizer.zero_grad()
        for part in range(4):
            (F.mse_loss(model(X[part::4]), Y[part::4]) / 4).backward()
        optimizer.step()

    return watched(step)


@loop("warm-up from learning rate 0")
def warm_up():
    model = network()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, k / 3))

    def step(*rest):
        plain_step(*rest)
        schedule.step()

    return watched(step, model, optimizer)


@loop("one-cycle schedule, AdamW")
def one_cycle():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)

    def step(*rest):
        plain_step(*rest)
        schedule.step()

    return watched(step, model, optimizer)


@loop("autocast bf16 and GradScaler")
def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(model, optimizer, X, Y):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            f = model(X)
        scaler.scale(F.mse_loss(f.float(), Y)).backward()
        scaler.step(optimizer)
        scaler.update()

    return watched(step)


@loop("GradScaler, unscaled and clipped by norm")
def clipped_and_scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(model, optimizer, X, Y):
        optimizer.zero_grad()
        scaler.scale(F.mse_loss(model(20 * X), 20 * Y)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return watched(step)


@loop("clipping by norm")
def clipped():
    def step(model, optimizer, X, Y):
        optimizer.zero_grad()
        F.mse_loss(model(20 * X), 20 * Y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return watched(step)


@loop("clipping by value", "gradients changed between backward and step")
def clipped_by_value():
    def step(model, optimizer, X, Y):
        optimizer.zero_grad()
        F.mse_loss(model(X), Y).backward()
        nn.utils.clip_grad_value_(model.parameters(), 1e-2)
        optimizer.step()

    return watched(step)


@loop("a bad batch is skipped")
def skipped():
    calls = []

    def step(model, optimizer, X, Y):
        calls.append(0)
        bad = len(calls) == 3
        optimizer.zero_grad()
        F.mse_loss(model(X * (torch.nan if bad else 1.0)), Y).backward()
        if not bad:
            optimizer.step()

    return watched(step)


def one_of_two(rank: int, folder: str, ranks: bool, wrap: str) -> None:
    store = f"file://{folder}/{wrap}{ranks}"
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, init_method=store)
    model = nn.parallel.DistributedDataParallel(network())
    if wrap == "zero":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.05)
    else:
        optimizer = sgd(model)
    with NormMonitor(model, optimizer, ranks=ranks) as monitor:
        for k in range(STEPS):
            plain_step(model, optimizer, *data(seed=10 * k + rank))
    if rank == 0:
        torch.save(
            {"state": monitor.state_dict(), "reports": [tuple(r) for r in monitor.check(warn=False)]}, f"{folder}/0"
        )
    torch.distributed.destroy_process_group()


class Stored:
    """What a monitor in another process said."""

    def __init__(self, found: dict):
        self._found = found

    def __len__(self) -> int:
        return len(self._found["state"]["steps"])

    def check(self, warn: bool = False) -> list:
        from normdyn.norms.diagnosis import LayerReport

        return [LayerReport(*r) for r in self._found["reports"]]


def in_two_processes(ranks: bool, wrap: str = "ddp") -> Any:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one_of_two, (folder, ranks, wrap), nprocs=2)
        return Stored(torch.load(f"{folder}/0", weights_only=False))


@loop("DistributedDataParallel, ranks=True")
def ddp():
    return in_two_processes(True)


@loop("DistributedDataParallel, one rank alone", "averaged over 2 processes, as DistributedDataParallel does")
def ddp_alone():
    return in_two_processes(False)


@loop("ZeroRedundancyOptimizer, ranks=True")
def zero():
    return in_two_processes(True, "zero")


@loop("FSDP", "model is sharded by FullyShardedDataParallel")
def fsdp():
    class FullyShardedDataParallel(nn.Sequential):
        """Of the name that is looked for: FSDP itself needs an accelerator or several processes."""

    model = FullyShardedDataParallel(network())
    return watched(model=model)


def quiet_lightning():
    import lightning

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return lightning


def lightning_module(manual: bool):
    lightning = quiet_lightning()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.automatic_optimization = not manual

        def training_step(self, batch, index):
            X, Y = batch
            loss = F.mse_loss(self.net(X), Y)
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def configure_optimizers(self):
            return sgd(self)

    return Module()


def fit(manual: bool, **options: Any) -> list[NormMonitor]:
    lightning = quiet_lightning()
    batches = torch.utils.data.DataLoader(list(zip(*data(32 * STEPS), strict=True)), batch_size=32)
    callback = lightning_callback(log_every=2)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", devices=1, default_root_dir=folder, **options,
        )  # fmt: skip
        trainer.fit(lightning_module(manual), batches)
    return callback.monitors


@loop("Lightning, automatic optimisation")
def lightning_automatic():
    return fit(False)


@loop("Lightning, manual optimisation")
def lightning_manual():
    return fit(True)


@loop("Lightning, bf16-mixed, clipped")
def lightning_mixed():
    return fit(False, precision="bf16-mixed", gradient_clip_val=0.1)


class ForTrainer(nn.Module):
    """A model as the Trainer of Hugging Face calls it."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x=None, labels=None):
        f = self.net(x)
        return {"loss": F.mse_loss(f.float(), labels), "logits": f}


def hugging_face(**options: Any) -> NormMonitor:
    import transformers

    transformers.logging.set_verbosity_error()
    X, Y = data(32 * STEPS)
    rows = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    written: list[dict[str, float]] = []
    callback = trainer_callback(log_every=1, write=lambda numbers, step: written.append(numbers))
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=16, use_cpu=True, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_steps=4, learning_rate=0.01, **options,
        )  # fmt: skip
        model = ForTrainer()
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
        trainer.train()
    if not written:
        raise AssertionError("none of the monitor's numbers was written")
    return callback.monitor


@loop("Hugging Face Trainer")
def trainer():
    return hugging_face()


@loop("Hugging Face Trainer, bf16, accumulation")
def trainer_mixed():
    return hugging_face(bf16=True, gradient_accumulation_steps=2)


@loop("Accelerate")
def accelerate():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
    model = network()
    model, optimizer = accelerator.prepare(model, sgd(model))

    def step(model, optimizer, X, Y):
        optimizer.zero_grad()
        accelerator.backward(F.mse_loss(model(X), Y))
        accelerator.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    return watched(step, model, optimizer)


@loop("torch.compile")
def compiled():
    model = torch.compile(network(), fullgraph=True, backend="aot_eager")
    return watched(model=model, optimizer=sgd(model))


@loop("average of the weights (EMA)")
def averaged():
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))

    def step(model, *rest):
        plain_step(model, *rest)
        average.update_parameters(model)

    return watched(step, model)


@loop("two optimisers in turns")
def two():
    model = network()
    first, *others = model.parameters()
    optimizers = [torch.optim.SGD([first], lr=0.05), torch.optim.AdamW(others, lr=1e-2)]
    monitors = [NormMonitor(model, optimizer) for optimizer in optimizers]
    for k in range(2 * STEPS):
        X, Y = data()
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.mse_loss(model(X), Y).backward()
        optimizers[k % 2].step()
    return monitors


@loop("sparse embedding, SparseAdam and SGD")
def sparse():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 6, sparse=True), nn.ReLU(), nn.Linear(6, 3, bias=False))
    words, (_, Y) = torch.arange(32) % 11, data()
    optimizers = [
        torch.optim.SparseAdam(model[0].parameters(), lr=1e-2),
        torch.optim.SGD(model[2].parameters(), lr=0.05),
    ]
    monitors = [NormMonitor(model, optimizer) for optimizer in optimizers]
    for _ in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.mse_loss(model(words), Y).backward()
        for optimizer in optimizers:
            optimizer.step()
    return monitors


def with_timm(name: str, **options: Any) -> NormMonitor:
    from timm.optim import create_optimizer_v2

    model = network()
    optimizer = create_optimizer_v2(model, opt=name, lr=1e-2, weight_decay=0.05, filter_bias_and_bn=False, **options)
    monitor = watched(model=model, optimizer=optimizer)
    check_decay(name, options)
    return monitor


def check_decay(name: str, options: dict[str, Any]) -> None:
    """Without a gradient the rate is the decay term: for optimisers whose decay is decoupled."""
    from timm.optim import create_optimizer_v2

    model = network()
    optimizer = create_optimizer_v2(model, opt=name, lr=1e-2, weight_decay=0.05, filter_bias_and_bn=False, **options)
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group["lr"]  # corrected decay shows only below the largest rate

    def step(model, optimizer, X, Y):
        optimizer.zero_grad()
        (0.0 * model(X)).sum().backward()
        optimizer.step()

    table = watched(step, model, optimizer).table()
    gap = (table["rate"] - table["decay"] - table["step_term"]).abs() - table["law_error"]
    rounding = 1e-6 * table["squared_norm"] / table["learning_rate"]
    later = table["step"] > 0  # ADOPT's first step moves nothing
    if not bool((gap <= rounding)[later].all()) or not bool((table["decay"] < 0).all()):
        raise AssertionError(f"decay of {name} is not the rate without a gradient: {gap.max():.2e}")


for label, options in {
    "adamw": {}, "nadamw": {}, "lion": {}, "sgdw": {}, "adopt": {"decoupled": True}, "cadamw": {},
    "lamb": {"decoupled_decay": True}, "adabelief": {"fixed_decay": True}, "nadamw ": {"corrected_weight_decay": True},
    "lion ": {"corrected_weight_decay": True},
}.items():  # fmt: skip
    words = ", ".join(f"{key}={value}" for key, value in options.items())
    kind = label.strip()
    loop(f"timm {kind}" + (f", {words}" if words else ""))(
        lambda kind=kind, options=options: with_timm(kind, **options)
    )


@loop("TensorBoard")
def tensorboard():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        monitor = watched()
        log_tensorboard(monitor, writer, STEPS)
        writer.close()
        events = EventAccumulator(folder)
        events.Reload()
        value = events.Scalars("norms/rate/0.weight")[0].value
    if abs(value - monitor.latest()["0.weight"]["rate"]) > 1e-6 * abs(value):
        raise AssertionError("TensorBoard holds another number")
    return monitor


def cell(name: str) -> dict[str, Any]:
    """Outcome of one loop."""
    run, expected = LOOPS[name]
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run()
        monitors = found if isinstance(found, list) else [found]
        reports = [r for monitor in monitors for r in monitor.check(warn=False)]
        said = sorted({f"{r.status}, order {r.order:g}" for r in reports})
        reasons = sorted({reason for r in reports for reason in r.reasons})
        scaling = sorted({r.scaling for r in reports if r.scaling})
    except ValueError as refused:
        said, reasons, scaling, reports = ["refused"], [str(refused)], [], []
    except Exception:
        said, reasons, scaling, reports = ["error"], [traceback.format_exc(limit=-3)], [], []
    exact = bool(reports) and said == ["exact, order 1"]
    right = exact if expected == "exact" else not exact and any(expected in reason for reason in reasons)
    return {
        "loop": name, "expected": expected, "passes": right, "said": said, "reasons": reasons, "scaling": scaling,
        "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip


def versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "lightning", "transformers", "accelerate", "timm", "tensorboard"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loops", nargs="*", help="names of loops, all by default")
    parser.add_argument("--output", type=Path, default=Path("data/zoo/loops.json"))
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    rows = []
    for name in options.loops or LOOPS:
        rows.append(cell(name))
        row = rows[-1]
        print(
            f"{'pass' if row['passes'] else 'FAIL'}  {name:45} {'; '.join(row['said'])}  {row['seconds']} s", flush=True
        )
        if not row["passes"]:
            print("      " + "\n      ".join(row["reasons"]).replace("\n", "\n      "))
    if not options.loops:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")
    failed = [row["loop"] for row in rows if not row["passes"]]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(rows)} loops: {', '.join(failed)}")


if __name__ == "__main__":
    main()

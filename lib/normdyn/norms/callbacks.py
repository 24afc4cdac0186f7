r"""A monitor in the training loops of others, and its numbers in their loggers.

Each returns an object of the library's own base class, which is imported only then::

    trainer = lightning.Trainer(callbacks=[lightning_callback(module="net")])
    trainer = transformers.Trainer(..., callbacks=[trainer_callback()])

and :func:`log_tensorboard` and :func:`log_wandb` write :func:`scalars` in a loop of one's own.

Source: ours.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from normdyn.norms.hooks import innermost
from normdyn.norms.monitor import COLUMNS, NormMonitor
from normdyn.shapes import Float

__all__ = [
    "SHOWN",
    "LightningHooks",
    "TrainerHooks",
    "lightning_callback",
    "log_tensorboard",
    "log_wandb",
    "logits",
    "scalars",
    "trainer_callback",
]

SHOWN = ("squared_norm", "rate", "flow", "k_eff")


def scalars(monitor: NormMonitor, columns: Sequence[str] = SHOWN, prefix: str = "norms") -> dict[str, float]:
    """The last recorded step as ``prefix/column/parameter``: number; the tags of TensorBoard and Weights & Biases.

    Raises:
        ValueError: There is no such column.
        RuntimeError: Nothing is recorded yet.
    """
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise ValueError(f"columns names {', '.join(unknown)}; there are {', '.join(COLUMNS)}")
    latest = monitor.latest()
    return {f"{prefix}/{column}/{name}": row[column] for column in columns for name, row in latest.items()}


def log_tensorboard(monitor: NormMonitor, writer: Any, step: int, **options: Any) -> None:
    """Write the last recorded step by ``writer.add_scalar(tag, value, step)``, as a SummaryWriter has it.

    Args:
        options: Of :func:`scalars`.
    """
    for tag, value in scalars(monitor, **options).items():
        writer.add_scalar(tag, value, step)


def log_wandb(monitor: NormMonitor, run: Any, step: int, **options: Any) -> None:
    """Write the last recorded step by ``run.log(numbers, step=step)``, as a run of Weights & Biases has it.

    Args:
        options: Of :func:`scalars`.
    """
    run.log(scalars(monitor, **options), step=step)


def logits(result: Any) -> Float[Tensor, "*s"]:
    """The tensor that counts in what a model returns: itself, or its ``logits``.

    Raises:
        TypeError: It has none.
    """
    found = result if isinstance(result, Tensor) else getattr(result, "logits", None)
    if found is None and isinstance(result, Mapping):
        found = result.get("logits")
    if not isinstance(found, Tensor):
        raise TypeError(f"model returns {type(result).__name__}, which has no logits: give output=lambda r: ...")
    return found


def lightning_callback(*, module: str | None = None, log_every: int = 0, **options: Any) -> Any:
    """A Lightning ``Callback`` with one :class:`NormMonitor` for each optimiser, in its attribute ``monitors``.

    Args:
        module: Name of the submodule that ``training_step`` calls, as in ``self.net(x)``; empty for the LightningModule
            itself, as in ``self(x)``. Absent, the module itself if it has a ``forward`` of its own, else its only
            child with parameters.
        log_every: Log :func:`scalars` by the module's ``log_dict`` every so many steps; never if 0.
        options: Of :class:`NormMonitor`. ``ranks`` is true by default where several processes train.

    Raises:
        ImportError: Neither ``lightning`` nor ``pytorch_lightning`` is installed.
    """
    base = _imported("Callback", "lightning.pytorch", "pytorch_lightning")
    return _derived(LightningHooks, base)(module=module, log_every=log_every, options=options)


def trainer_callback(
    *, log_every: int = 0, write: Callable[[dict[str, float], int], object] | None = None, **options: Any
) -> Any:
    """A ``TrainerCallback`` of Hugging Face with a :class:`NormMonitor` in its attribute ``monitor``.

    Args:
        log_every: Add :func:`scalars` to what the trainer prints, at every so many steps that it logs; never if 0.
        write: Called with the scalars and the step then, as in ``lambda numbers, step: run.log(numbers, step=step)``:
            what the trainer itself reports to had its turn before.
        options: Of :class:`NormMonitor`; ``output`` is :func:`logits` by default.

    Raises:
        ImportError: ``transformers`` is not installed.
    """
    base = _imported("TrainerCallback", "transformers")
    return _derived(TrainerHooks, base)(log_every=log_every, write=write, options=options)


class LightningHooks:
    """What :func:`lightning_callback` does at each event, without Lightning's base class."""

    def __init__(self, *, module: str | None, log_every: int, options: dict[str, Any]):
        self.monitors: list[NormMonitor] = []
        self._module, self._log_every, self._options = module, log_every, options
        self._saved: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Attach a monitor to each optimiser; go on from a checkpoint if there is one."""
        model = _called(pl_module, self._module)
        self.monitors = [NormMonitor(model, o, **_several() | self._options) for o in trainer.optimizers]
        for monitor, state in zip(self.monitors, self._saved, strict=False):
            monitor.load_state_dict(state)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Log, if that is asked for."""
        if self._log_every and trainer.global_step % self._log_every == 0:
            for k, monitor in enumerate(self.monitors):
                if len(monitor):
                    pl_module.log_dict(scalars(monitor, prefix="norms" if k == 0 else f"norms{k}"))

    def on_train_end(self, *_: Any) -> None:
        """Detach; the monitors keep what they recorded."""
        for monitor in self.monitors:
            monitor.close()

    def on_exception(self, *_: Any) -> None:
        """Detach when training breaks off."""
        self.on_train_end()

    def state_dict(self) -> dict[str, Any]:
        """What was recorded, for Lightning's checkpoints."""
        return {"monitors": [monitor.state_dict() for monitor in self.monitors]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what was recorded before; it is used when training starts."""
        self._saved = list(state["monitors"])


class TrainerHooks:
    """What :func:`trainer_callback` does at each event, without the base class of Hugging Face."""

    def __init__(self, *, log_every: int, write: Callable | None, options: dict[str, Any]):
        self.monitor: NormMonitor | None = None
        self._log_every, self._write, self._options = log_every, write, options

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach."""
        options = {"output": logits} | _several() | self._options
        self.monitor = NormMonitor(kwargs["model"], innermost(kwargs["optimizer"]), **options)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Add the scalars to what is logged."""
        monitor = self.monitor
        if logs is None or not self._log_every or monitor is None or not len(monitor):
            return
        if state.global_step % self._log_every == 0:
            numbers = scalars(monitor)
            logs.update(numbers)
            if self._write is not None:
                self._write(numbers, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Detach; the monitor keeps what it recorded."""
        if self.monitor is not None:
            self.monitor.close()


def _several() -> dict[str, Any]:
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return {"ranks": True} if several else {}


def _called(pl_module: nn.Module, name: str | None) -> nn.Module:
    if name is not None:
        return pl_module.get_submodule(name)
    if "forward" in vars(type(pl_module)):
        return pl_module
    children = [child for child in pl_module.children() if next(child.parameters(), None) is not None]
    if len(children) != 1:
        raise ValueError(
            f"{type(pl_module).__name__} has no forward and {len(children)} children with parameters: name the one "
            "that training_step calls, as in lightning_callback(module='net')"
        )
    return children[0]


def _imported(name: str, *modules: str) -> type:
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as missing:
            if missing.name is None or not module.startswith(missing.name):
                raise
    raise ImportError(f"{name} needs {' or '.join(modules)}: install it first")


def _derived(hooks: type, base: type) -> type:
    return type(hooks.__name__, (hooks, base), {})

r"""What passes by in a training loop, step by step: weights, gradients, the output and its gradient, as inner products.

For each parameter tensor ``W`` there are two gradients: ``G``, what the backward passes since the last step brought,
and ``g``, what the optimiser finds. Clipping, loss scaling and averaging come between them; where they multiply by a
number, ``g = c G`` and ``c`` is known. What one factor does not explain stays as a remainder.

Inner products are accumulated in float64 on the device of the model and leave it only when a result is asked for.

Source: ours.
"""

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normdyn.networks.modules import UnsupportedModel, weighted_layers
from normdyn.norms.decay import decay_rate
from normdyn.norms.hooks import Hook, compiled, innermost, sharding, unwrapped
from normdyn.norms.products import NAMES, Pieces, Rows

__all__ = ["Recorder", "known"]

_FOLD = 256


class Recorder:
    """Hooks into a model, its parameters and its optimiser, and what they have seen; :class:`NormMonitor` asks it.

    Attributes:
        names, parameters: Of the tensors that are watched.
        junctions: Pairs of names, neighbours whose balance is recorded.
        steps: Numbers of the recorded steps.
        precision: Spacing of the numbers that the network is evaluated in, the coarsest seen.
        ranks: Processes that train together.
        readout: Name of the module whose result is the output as it is; empty if that is not known.

    Raises:
        ValueError, TypeError: As :class:`NormMonitor`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        output: Callable[[Any], Tensor] | None,
        junctions: Iterable[tuple[str, str]] | str | None,
        every: int,
        average: bool,
    ):
        optimizer = innermost(optimizer)
        if how := sharding(model):
            raise ValueError(
                f"model is sharded by {how}: each process holds a part of every weight, and no hook sees a whole "
                "gradient; watch a run without sharding, such as DistributedDataParallel with ranks=True"
            )
        group_of = {id(p): k for k, group in enumerate(optimizer.param_groups) for p in group["params"]}
        tracked = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) in group_of}
        if not tracked:
            raise ValueError("optimizer holds no trainable parameter of model: build it from model.parameters()")
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if model._compiled_call_impl is not None:
            raise ValueError(
                "model.compile() hides the output from hooks: train compiled = torch.compile(model) instead, and give "
                "the monitor that"
            )
        if average and self.ranks == 1:
            raise ValueError("ranks=True needs several processes: call torch.distributed.init_process_group before")
        self.names = list(tracked)
        self.parameters: list[Tensor] = list(tracked.values())
        self.model, self._optimizer, self.average = model, optimizer, average
        self._output, self._every = output, every
        self._groups = [group_of[id(p)] for p in self.parameters]
        self._identity = self._fingerprint()
        self.junctions = self._junctions(junctions)
        known({name for pair in self.junctions for name in pair}, self.names, "junctions")
        for below, above in self.junctions:
            _columns(tracked[above], len(tracked[below]), above, below)
        self._device = self._only_device()
        pairs = [(self.names.index(below), self.names.index(above)) for below, above in self.junctions]
        self._products = (Pieces if self._device.type == "cpu" else Rows)(self.parameters, pairs)
        self._received = self._products.received
        self._fresh = [True] * len(self.parameters)  # whether nothing was received yet for this step
        self._units = [len(tracked[below]) for below, _ in self.junctions]
        self._called: list[str] = []
        self._last: tuple[str, Any] = ("", None)
        self.readout = ""
        self._alignment: Tensor | None = None
        self._before: list[Tensor | None] | None = None  # gradients that the backward pass under way adds to
        self._passes, self._backward, self._taken = 0, -1, False
        self.precision = 0.0
        self._step = 0
        self.steps: list[int] = []
        self._settings: list[tuple[tuple[float, float], ...]] = []
        self._records: list[Tensor] = []
        self._folded: list[Tensor] = []

    def __len__(self) -> int:
        self._settle()
        return len(self.steps)

    # Hooks

    def attach(self) -> None:
        """Watch from now on."""
        inner = [] if compiled(self.model) else [(n, m) for n, m in self.model.named_modules() if n]
        self._order_hooks = [m.register_forward_hook(Hook(self._note_call(n))) for n, m in inner]
        self._hooks = [
            self.model.register_forward_hook(Hook(self._watch_output)),
            *(p.register_post_accumulate_grad_hook(Hook(self._add_gradient(k))) for k, p in enumerate(self.parameters)),
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]

    def detach(self) -> None:
        """Take all hooks away."""
        for hook in (*self._hooks, *self._order_hooks):
            hook.remove()

    @property
    def _watching(self) -> bool:
        return self._step % self._every == 0 and not self._taken

    def _note_call(self, name: str):
        def note(module: nn.Module, inputs: tuple, result: Any) -> None:
            self._called.append(name)
            if result is not self._last[1]:  # what contains the module may return the same
                self._last = name, result
            if isinstance(result, Tensor) and result.is_floating_point():  # autocast shows inside, not at the output
                self.precision = max(self.precision, _epsilon(result))

        return note

    def _watch_output(self, module: nn.Module, inputs: tuple, result: Any) -> None:
        f = result if self._output is None else self._output(result)
        if not isinstance(f, Tensor):
            raise TypeError(
                f"model returns {type(result).__name__}: tell which tensor counts with output=lambda r: ..."
            )
        if self._last[1] is f:
            self.readout = self._last[0]
        self._last = "", None
        while self._order_hooks:
            self._order_hooks.pop().remove()
        if not f.requires_grad or not self._watching:
            return
        self.precision = max(self.precision, _epsilon(f), _epsilon(self.parameters[0]))
        value = f.detach().clone()  # a copy: the loop may go on in place, as in logits /= temperature
        node, place = _before_casts(f)
        if node is f.grad_fn:
            f.register_hook(lambda gradient: self._watch_gradient(value, gradient))
        else:
            node.register_prehook(lambda gradients: self._watch_gradient(value, gradients[place]))

    def _watch_gradient(self, f: Tensor, gradient: Tensor | None) -> None:
        if not self._watching or gradient is None:
            return
        backward = torch._C._current_graph_task_id()
        if backward != self._backward:
            self._backward = backward
            self._forget_skipped()
            self._passes += 1
            self._before = [self._found_before(k) for k in range(len(self.parameters))]
        rows = torch.stack((f.reshape(-1), gradient.detach().reshape(-1))).to(self._device, torch.float64)
        seen = (rows @ rows.mT).flatten()
        self._alignment = seen if self._alignment is None else self._alignment + seen

    def _forget_skipped(self) -> None:
        """Gradients that are zero again before a new backward pass belonged to a batch that was skipped: forget it.

        So does a loss scaler that finds an overflow, and a loop that throws away what is not finite.
        """
        gradients = [_dense(p.grad) for p in self.parameters if p.grad is not None]
        if not gradients:
            self._start_over()
        elif self._alignment is not None:
            largest = torch.stack(torch._foreach_norm(gradients, torch.inf))  # squares of small ones would vanish
            skipped = (largest == 0).all()  # stays on the device
            self._alignment = self._alignment.masked_fill(skipped, 0.0)
            for received in self._received:
                received.masked_fill_(skipped, 0.0)

    def _start_over(self) -> None:
        self._alignment, self._passes = None, 0
        self._before = None
        self._fresh = [True] * len(self.parameters)

    def _found_before(self, k: int) -> Tensor | None:
        """The gradient that this backward pass adds to, copied; None if there is none, or what was received so far.

        A hook on the gradient itself would see it without that, but would have autograd copy it.
        """
        gradient = self.parameters[k].grad
        if gradient is None or (self._products.compares and not gradient.is_sparse and self._expected(k, gradient)):
            return None
        return _dense(gradient).detach().clone()

    def _expected(self, k: int, gradient: Tensor) -> bool:
        if self._fresh[k]:
            return not gradient.count_nonzero()
        return _same(self._received[k], gradient)

    def _add_gradient(self, k: int):
        def add(parameter: Tensor) -> None:
            if not self._watching or self._before is None:
                return
            received, gradient, before = self._received[k], _gradient(parameter), self._before[k]
            if before is None:
                received.copy_(gradient)
            elif self._fresh[k]:
                torch.sub(gradient, before, out=received)
            else:
                received.add_(gradient - before)
            self._fresh[k] = False

        return add

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Take weights and gradients: now, or after the closure that the step calls has computed them."""
        self._taken = False
        if not self._watching:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._take(optimizer)
            return None

        def watched():
            loss = closure()
            if not self._taken:  # searches along a line call again: the law is that of the gradient at the start
                self._take(optimizer)
            return loss

        return ((args[0], watched, *args[2:]), kwargs) if len(args) > 1 else (args, kwargs | {"closure": watched})

    def _take(self, optimizer: torch.optim.Optimizer) -> None:
        if self._alignment is None:
            raise RuntimeError(
                "step without backward: since the last step no gradient passed the output of model(...); call the "
                "model that the monitor was given, then loss.backward(), then optimizer.step(). Of a compiled network "
                "give it compiled = torch.compile(model) itself: nothing is seen inside, nor after model.compile()"
            )
        if all(p.grad is None for p in self.parameters):
            raise RuntimeError(
                f"no gradient in {', '.join(self.names)}: zero_grad came between backward and step, or the loss does "
                "not depend on the model; call zero_grad after the step or before backward"
            )
        if self._fingerprint() != self._identity:
            raise RuntimeError("the model's parameters changed (replaced, frozen or moved): create a new monitor")
        with torch.no_grad():
            for received, fresh in zip(self._received, self._fresh, strict=True):
                if fresh:
                    received.zero_()
            scale = getattr(optimizer, "grad_scale", None)  # a loss scaler leaves it to fused optimisers to divide
            if self.average:
                self._average()
            self._products.begin(self.parameters, self._found(scale))
        self._taken = True

    def _found(self, scale: Tensor | None) -> list[Tensor | None]:
        """What the optimiser finds; None where that is what was received, which takes no look on a processor only."""
        gradients = [_gradient(p) for p in self.parameters]
        if scale is not None:
            return [g.double() / scale.to(self._device) for g in gradients]
        if not self._products.compares:
            return list(gradients)
        return [None if _same(G, g) else g.clone() for G, g in zip(self._received, gradients, strict=True)]

    def _average(self) -> None:
        """Of all ranks, as DistributedDataParallel averages what the optimiser finds."""
        assert self._alignment is not None
        flat = torch.cat([received.flatten() for received in self._received])
        for seen in (flat, self._alignment):
            dist.all_reduce(seen)
            seen.div_(self.ranks)
        sizes = [received.numel() for received in self._received]
        for received, mean in zip(self._received, flat.split(sizes), strict=True):
            received.copy_(mean.view_as(received))

    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if self._step % self._every == 0:
            if not self._taken:
                raise RuntimeError("the optimiser did not call its closure: call backward before step() without one")
            with torch.no_grad():
                alignment = self._alignment
                assert alignment is not None  # what comes before the step has seen to it
                products = self._products.finish(self.parameters).flatten()
                passes = alignment.new_full((1,), self._passes)
                self._records.append(torch.cat([products, alignment, passes, *self._products.balances()]))
            groups, defaults = optimizer.param_groups, optimizer.defaults
            self._settings.append(tuple((float(g["lr"]), decay_rate(g, defaults)) for g in groups))
            self.steps.append(self._step)
            self._start_over()
            if len(self._records) >= _FOLD:
                self._fold()
        self._taken = False
        self._step += 1

    # Storage

    def _fold(self) -> None:
        """Gather the latest records, of units the norms alone, still on the device."""
        if not self._records:
            return
        records, width = torch.stack(self._records), len(NAMES) * len(self.names) + 5
        units = records[:, width:].split([3 * count for count in self._units], 1)
        balances = [junction.unflatten(1, (3, -1)).norm(dim=2) for junction in units]
        self._folded.append(torch.cat([records[:, :width], *balances], 1))
        self._records = []

    def _settle(self) -> None:
        """Drop steps that did not happen: the gradient was not finite, and the optimiser moved nothing."""
        self._fold()
        if not self._folded:
            return
        records, width = torch.cat(self._folded), len(NAMES)
        sums = records[:, : width * len(self.names)].unflatten(1, (-1, width)).sum(1)
        happened = sums[:, NAMES.index("gg")].isfinite() | (sums[:, NAMES.index("uu")] != 0)
        self._folded = [records[happened]]
        kept = happened.nonzero().flatten().tolist()
        self.steps, self._settings = ([column[k] for k in kept] for column in (self.steps, self._settings))

    def _only_device(self) -> torch.device:
        devices = {p.device for p in self.parameters}
        if len(devices) > 1:
            raise ValueError(f"parameters are on {sorted(map(str, devices))}: only one device is supported")
        return devices.pop()

    def _fingerprint(self) -> tuple:
        return tuple((id(p), p.requires_grad, p.device) for p in self.model.parameters())

    def _junctions(self, asked: Iterable[tuple[str, str]] | str | None) -> list[tuple[str, str]]:
        if isinstance(asked, str):
            if asked != "chain":
                raise ValueError(f'junctions must be pairs of parameter names or "chain", got {asked!r}')
            found = self._chain()
            if not found:
                raise ValueError('junctions="chain": the model has no two layers in a row that the optimizer holds')
            return found
        return [(below, above) for below, above in asked or ()]

    def _chain(self) -> list[tuple[str, str]]:
        try:
            layers = weighted_layers(unwrapped(self.model))
        except UnsupportedModel as error:
            why = str(error).partition("; only chains")[0]
            raise ValueError(f'junctions="chain": {why}; name pairs of neighbours instead') from error
        names = {id(p): name for name, p in zip(self.names, self.parameters, strict=True)}
        found = [(names.get(id(a.module.weight)), names.get(id(b.module.weight))) for a, b in pairwise(layers)]
        return [
            (first, second)
            for (first, second), (_, b) in zip(found, pairwise(layers), strict=True)
            if first is not None and second is not None and getattr(b.module, "groups", 1) == 1
        ]

    # Results

    @property
    def averaging(self) -> str:
        """What averages gradients over processes without that this recorder sees it; empty if nothing does."""
        if self.ranks == 1 or self.average:
            return ""
        return (
            f"averaged over {self.ranks} processes, as DistributedDataParallel does, and only the output of this one "
            "is seen; create NormMonitor(..., ranks=True) in each of them"
        )

    @property
    def called(self) -> list[str]:
        """Modules in the order of their calls; as they were registered where the calls are out of sight."""
        return self._called or [n for n, m in self.model.named_modules() if n and not next(m.children(), None)]

    def data(self, last: int | None = None) -> dict[str, Tensor]:
        """All records, or the ``last`` few, on the CPU: the one synchronisation. Tensors of shape (steps, layers).

        Products of ``W``, ``g``, ``V`` (``W`` after the step), ``u``, ``G`` and ``d = g - G``; ``factor``, ``c``;
        ``a``, the alignment ``<f, grad_f L>`` of the loss whose gradient the optimiser found, ``c`` times that of the
        backward pass; ``size``, the product of norms in it; ``rest``, what of ``g`` is no multiple of ``G``, relative
        and a backward pass; ``slope``, ``<W, g> / c``; ``k_eff``, ``eta``, ``delta``; and ``balances``, of shape
        (steps, junctions, 3).

        Raises:
            RuntimeError: Nothing is recorded yet.
        """
        self._settle()
        if not self.steps:
            raise RuntimeError("nothing is recorded yet: train at least one step")
        rows = slice(-last if last else None, None)
        records, products = self._folded[0][rows].cpu(), len(NAMES) * len(self.names)
        d = dict(zip(NAMES, records[:, :products].unflatten(1, (-1, len(NAMES))).unbind(2), strict=True))
        ff, a, _, gg, passes = records[:, products : products + 5, None].unbind(1)
        factor = torch.where(d["GG"] == 0, 1.0, d["Gg"] / d["GG"])
        # |g - c G|^2 from the shorter of g and g - G, whose rounding is less.
        near, far = (x - (y.square() / d["GG"]).nan_to_num() for x, y in ((d["dd"], d["Gd"]), (d["gg"], d["Gg"])))
        rest = torch.where(d["dd"] < d["gg"], near, far).clamp_min(0)
        settings = torch.tensor(self._settings[rows], dtype=torch.float64)[:, self._groups]
        return d | {
            "factor": factor, "a": factor * a, "size": factor.abs() * (ff * gg).sqrt(), "k_eff": d["WG"] / a,
            "slope": torch.where(factor == 0, d["WG"], d["Wg"] / factor),
            "rest": (rest / d["gg"] / passes).nan_to_num().sqrt(),
            "eta": settings[..., 0], "delta": settings[..., 1],
            "balances": records[:, products + 5 :].reshape(len(records), len(self.junctions), 3),
        }  # fmt: skip

    def _here(self) -> dict[str, Any]:
        return {"columns": list(NAMES), "names": list(self.names), "junctions": [list(p) for p in self.junctions]}

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`NormMonitor.state_dict`."""
        self._settle()
        return self._here() | {
            "step": self._step, "steps": list(self.steps), "settings": [list(map(list, s)) for s in self._settings],
            "precision": self.precision, "called": list(self._called), "readout": self.readout,
            "records": self._folded[0].cpu() if self._folded else None,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As :meth:`NormMonitor.load_state_dict`.

        Raises:
            ValueError: The state is of another kind.
        """
        for key, value in self._here().items():
            if state.get(key) != value:
                raise ValueError(
                    f"state has {key} {state.get(key)}, this monitor has {value}: build it as it was saved"
                )
        records = state["records"]
        self._step, self.steps = state["step"], list(state["steps"])
        self._settings = [tuple(map(tuple, s)) for s in state["settings"]]
        self.precision, self._called, self.readout = state["precision"], list(state["called"]), state["readout"]
        self._folded = [] if records is None else [records.to(self._device)]
        self._records, self._taken = [], False
        self._start_over()


def known(given: Iterable[str], names: Sequence[str], argument: str) -> None:
    """Check names against those that are tracked.

    Raises:
        ValueError: One is not among them.
    """
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(f"{argument} names {', '.join(unknown)}, which is not tracked; there are {', '.join(names)}")


def _columns(W: Tensor, units: int, above: str, below: str) -> None:
    if W.ndim < 2 or W.shape[1] % units:
        raise ValueError(f"junctions: {above} of shape {tuple(W.shape)} does not read the {units} units of {below}")


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _gradient(parameter: Tensor) -> Tensor:
    """What the optimiser finds; zero where the loss does not depend on the parameter."""
    return parameter.new_zeros(()).expand_as(parameter) if parameter.grad is None else _dense(parameter.grad)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all bits are equal; C's own comparison looks six times faster than NumPy or torch, where it is there."""
    alike = one.dtype == other.dtype and one.shape == other.shape and one.is_contiguous() and other.is_contiguous()
    if _memcmp is None or not alike:
        return torch.equal(one, other)
    return _memcmp(one.data_ptr(), other.data_ptr(), one.numel() * one.element_size()) == 0


def _c_comparison() -> Callable[[int, int, int], int] | None:
    """``memcmp`` of the C library that the interpreter is linked with; None where the system hides it."""
    try:
        compare = ctypes.CDLL(None).memcmp
    except (AttributeError, OSError, TypeError):
        return None
    compare.argtypes, compare.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
    return compare


_memcmp = _c_comparison()


def _before_casts(f: Tensor) -> tuple[Any, int]:
    """The node of the graph that computed a tensor before casts: a loss inside of the model does not see those.

    Accelerate casts what a model returns to float32, and Hugging Face's models compute their loss themselves.
    """
    node: Any = f.grad_fn
    place = f.output_nr
    while type(node).__name__ == "ToCopyBackward0":
        node, place = node.next_functions[0]
    return node, place


def _epsilon(tensor: Tensor) -> float:
    """Spacing of the numbers that a network with this tensor is evaluated in; TF32 rounds factors to 11 bits."""
    spacing = torch.finfo(tensor.dtype).eps
    tf32 = tensor.is_cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return max(spacing, 2.0**-10) if tf32 and tensor.dtype == torch.float32 else spacing

r"""Running a model without numbers, to see which of its units can be rescaled.

The model runs on tensors that have shapes and no data (PyTorch's *meta* device), on a copy that shares nothing with
it; each operation passes on which class of units every entry belongs to (:mod:`normdyn.networks.operations`). What is
run is what is seen: attention, control flow by shapes and other people's modules as well. Control flow by values
cannot be; the module that has it is a barrier. Both modes are run, since a training head may be fed by units that the
evaluation does not feed on.

Source: ours.
"""

import copy
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import normdyn.networks.layers  # noqa: F401  (registers its rules)
from normdyn.networks.operations import propagate
from normdyn.networks.shadow import Untraceable, shadow, shortcut
from normdyn.networks.units import Classes, core
from normdyn.networks.uses import Use, random_like, tensors_in
from normdyn.shapes import Int, Shaped

__all__ = ["Trace", "Untraceable", "Use", "tensors_in"]

LARGEST_VALUE = 1 << 21  # entries up to which a parameter may be a value with a class for each of them
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
DEPENDENT = ("_local_scalar_dense", "nonzero", "unique", "_unique2", "equal", "is_nonzero", "masked_select", "bincount")


class Trace(TorchDispatchMode):
    """What running a model has shown.

    Attributes:
        classes: Of all units.
        uses: Of the parameters, in the order of running.
        frozen: Parameters that must stay, with the reason.
        notes: What could not be seen.
        calls: How often each module ran in evaluation mode.
        followers: Pairs of modules, the second of which alone took what the first returned.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.classes, self.uses, self.frozen = Classes(), list[Use](), dict[str, str]()
        self.notes: list[str] = []
        self.calls, self._readers, self._givers = Counter[str](), Counter[int](), dict[int, str]()
        self._taken: list[tuple[int, str]] = []
        self.followers: list[tuple[str, str]] = []
        self.original = dict(model.named_modules(remove_duplicate=False))
        self.stack: list[tuple[str, nn.Module | None]] = [("", None)]
        self._values: dict[int, Tensor] = {}
        self._alive: list[Any] = []
        self._random: set[int] = set()
        self._constants: dict[str | None, Tensor] = {None: torch.zeros((), dtype=torch.long)}
        self._known: dict[tuple, int] = {}
        self._blank: dict[int, Tensor] = {}
        self._muted = 0
        self.lenient = False
        self.model, self._parameters, kept, frozen = shadow(model)
        self.frozen.update(frozen)
        self._alive += kept
        for name, module in self.model.named_modules():
            self._hook(name, module)

    # Modules

    def _hook(self, name: str, module: nn.Module) -> None:
        leaf = next(module.children(), None) is None
        reason = None
        if leaf and (module._forward_hooks or module._forward_pre_hooks) and not self._is_old_norm(module):
            reason = f"{name or type(module).__name__}: {type(module).__name__} has a hook, which may do anything"
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        elif not leaf:
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        if isinstance(module, RECURRENT):
            reason = f"{name or type(module).__name__}: {type(module).__name__} has gates, which are not homogeneous"
        module.__dict__["forward"] = functools.wraps(module.forward)(
            functools.partial(self._call, name, module, module.forward, reason)
        )

    @staticmethod
    def _is_old_norm(module: nn.Module) -> bool:
        """Hooks of ``torch.nn.utils`` that compute a weight from parameters: they can be run."""
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        return all(type(hook).__module__.startswith("torch.nn.utils") for hook in hooks)

    @property
    def path(self) -> str:
        """Name of the module at work."""
        return self.stack[-1][0] or self._root

    @property
    def _root(self) -> str:
        return type(self.model).__name__ if hasattr(self, "model") else ""

    def actor(self, name: str) -> str:
        """What to call an operation: by its module, if that does nothing else."""
        module = self.stack[-1][1]
        plain = module is not None and next(module.children(), None) is None and "torch.nn" in type(module).__module__
        return type(module).__name__ if plain else name.strip("_")

    def said(self, what: str) -> str:
        """A reason with its place."""
        return f"{self.path}: {what}"

    def _call(self, name: str, module: nn.Module, forward: Callable, reason: str | None, *args, **kwargs) -> Any:
        if self._muted:
            return forward(*args, **kwargs)
        self.stack.append((name, module))
        self.calls[name] += not self.model.training
        if args and isinstance(args[0], Tensor):
            self._taken.append((id(args[0]), name))
        try:
            if reason is not None:
                return self._opaque(name, module, forward, reason, args, kwargs)
            out = forward(*args, **kwargs)
            if isinstance(out, Tensor):
                self._givers.setdefault(id(out), name)
            return out
        except Exception as error:
            if not name or not (isinstance(error, Untraceable) or self.lenient):
                raise
            reason = f"{name}: {type(module).__name__} cannot be followed: {error}"
            return self._opaque(name, module, None, reason, args, kwargs)
        finally:
            self.stack.pop()

    def _opaque(self, name, module, forward, reason, args, kwargs) -> Any:
        """A module as a barrier."""
        for parameter in module.parameters():
            self.fix(parameter, reason)
        for value in tensors_in((args, kwargs)):
            self.fix(value, reason)
        if forward is not None:
            self._muted += 1
            try:
                out = forward(*args, **kwargs)
            finally:
                self._muted -= 1
        else:
            with torch.utils._python_dispatch._disable_current_modes():
                out = self._run_for_real(name, args, kwargs)
        for value in tensors_in(out):
            self.set(value, self.constant(value, reason))
        return out

    def _run_for_real(self, name: str, args: tuple, kwargs: dict) -> Any:
        module = copy.deepcopy(self.original[name])
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        real = lambda v: random_like(v, device) if isinstance(v, Tensor) and v.is_meta else v
        shell = lambda v: torch.empty_like(v, device="meta") if isinstance(v, Tensor) else v
        return tree_map(shell, module(*tree_map(real, args), **tree_map(real, kwargs)))

    # Values and parameters

    def ids(self, value: Shaped[Tensor, "..."]) -> Int[Tensor, "*s"]:
        """The class of each entry of a value."""
        known = self._values.get(id(value))
        if known is not None:
            return known.clamp_min(0) if self._is_blank(known) else known
        if self.weight(value) is not None:
            return self._as_value(value)
        return self.constant(value)

    def set(self, value: Shaped[Tensor, "..."], numbers: Int[Tensor, "*s"]) -> None:
        """Remember the classes of a value."""
        assert numbers.shape == value.shape, (numbers.shape, value.shape)
        self._values[id(value)] = numbers
        self._alive.append(value)

    # Memory that is written to after it was made: -1 where nothing has been written

    def raw(self, value: Shaped[Tensor, "..."]) -> Int[Tensor, "*s"]:
        """As :meth:`ids`, with -1 for what has not been written; views of memory are views of these numbers."""
        known = self._values.get(id(value))
        return self.ids(value) if known is None else known

    def tracked(self, value: Shaped[Tensor, "..."]) -> bool:
        """Whether something that may be rescaled is in a value."""
        known = self._values.get(id(value))
        return self.weight(value) is not None or (
            known is not None and not self.classes.fixed(core(known).clamp_min(0))
        )

    def set_blank(self, value: Shaped[Tensor, "..."]) -> None:
        """Memory that is reserved, or full of zeros, which belong to any class."""
        blank = torch.full(value.shape, -1)
        self._blank[blank.untyped_storage()._cdata] = blank
        self.set(value, blank)

    def _is_blank(self, numbers: Shaped[Tensor, "..."]) -> bool:
        return numbers.untyped_storage()._cdata in self._blank

    def follow_blank(self, numbers: Shaped[Tensor, "..."], moved: list[Shaped[Tensor, "..."]]) -> None:
        """A movement of blank memory must be a view of it, that later writing is seen.

        Raises:
            Untraceable: It is not.
        """
        if self._is_blank(numbers) and not all(self._is_blank(each) for each in moved):
            if (numbers < 0).any():
                raise Untraceable("it writes into memory in a way that cannot be followed")

    def write(self, into: Shaped[Tensor, "..."], value: Shaped[Tensor, "..."]) -> bool:
        """Write a value into memory that is partly blank; False if it is not."""
        numbers = self._values.get(id(into))
        if numbers is None or not self._is_blank(numbers):
            return False
        new, old = self.raw(value).expand(into.shape).clone(), numbers >= 0
        both = old & (new >= 0)
        if both.any():
            self.classes.unite(numbers[both], new[both], self.said("written over a constant"))
        numbers[~old] = new[~old]
        return True

    def constant(self, value: Shaped[Tensor, "..."], reason: str | None = None) -> Int[Tensor, "*s"]:
        """Classes of what is not rescaled."""
        if reason not in self._constants:
            number = self.classes.fresh(1, "")
            self.classes.fix(number, reason or "")
            self._constants[reason] = number[0]
        return self._constants[reason].expand(value.shape)

    def fix(self, value: Shaped[Tensor, "..."], reason: str) -> None:
        """Let a value, or a parameter, stay as it is."""
        name = self.weight(value)
        if name is not None:
            self.frozen.setdefault(name, reason)
        elif id(value) in self._values:
            self.classes.fix(core(self._values[id(value)]).clamp_min(0), reason)

    def weight(self, value: Shaped[Tensor, "..."]) -> str | None:
        """Name of the parameter of which this is a view."""
        if not value.is_meta or id(value) in self._values:
            return None
        return self._parameters.get(value.untyped_storage()._cdata)

    def use(
        self,
        weight: Shaped[Tensor, "..."],
        size: Sequence[int],
        stride: Sequence[int],
        target: Int[Tensor, "g r"],
        source: Int[Tensor, "g c"],
        layer: int | None = None,
        *,
        value: bool = False,
    ) -> int:
        """Note the use of a parameter; used again as before, both uses share their classes.

        Args:
            layer: For a bias, the number of the layer's use.
            value: The parameter is a value by itself, not the weights of a layer.
        """
        name = self.weight(weight)
        assert name is not None
        of = layer if layer is not None else -1 if value else None
        path = self.uses[layer].layer if layer is not None else self.path
        use = Use(name, path, tuple(size), tuple(stride), int(weight.storage_offset()), target, source, of)
        number = self._known.setdefault((name, use.geometry), len(self.uses))
        if number == len(self.uses):
            self.uses.append(use)
            return number
        before, reason = self.uses[number], f"{name} is used twice, once where it must stay"
        if before.target.shape == target.shape and before.source.shape == source.shape and before.stride == use.stride:
            self.classes.unite(before.target, target, reason)
            self.classes.unite(before.source, source, reason)
        else:
            self.frozen.setdefault(name, f"{name} is used twice, in different roles")
            for each in (target, source):
                self.classes.fix(each, self.frozen[name])
        return number

    def _as_value(self, value: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Classes of a parameter that is a value: one for each entry."""
        axes = [k for k in range(value.ndim) if value.stride(k) and value.shape[k] > 1]
        shape = [value.shape[k] if k in axes else 1 for k in range(value.ndim)]
        sizes, steps = [value.shape[k] for k in axes], [value.stride(k) for k in axes]
        count = int(torch.tensor(sizes).prod()) if sizes else 1
        dense = all(s == n * t for s, n, t in zip(steps, sizes[1:], steps[1:], strict=False))
        if dense:
            sizes, steps = [1, count, 1], [0, steps[-1] if steps else 0, 0]
        elif len(axes) == 2:
            sizes, steps = [*sizes, 1], [*steps, 0]
        name = self.weight(value)
        if count > LARGEST_VALUE or not value.is_floating_point() or len(sizes) != 3 or name in self.frozen:
            self.fix(value, self.said(f"{name} is used as a value"))
            return self.constant(value, self.frozen[str(name)])
        target = self.classes.fresh(count, self.path)
        self.use(value, sizes, steps, target.reshape(sizes[:2]), torch.zeros(sizes[0], 1).long(), value=True)
        return target.reshape(shape).expand(value.shape)

    def count(self, numbers: Int[Tensor, "*s"]) -> None:
        """A parameter that was taken for a value turns out to be a gain: it counts as weights."""
        for k, use in enumerate(self.uses):
            if use.of == -1 and torch.isin(use.target, numbers).any():
                self.uses[k] = use._replace(of=None)

    # Operations

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else each operation passes through a compiler that takes seconds to import

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        name = func._schema.name.split("::")[1]
        if not any(v.is_meta for v in leaves) and not self._goes_to_meta(kwargs):
            if name in DEPENDENT and any(id(v) in self._random for v in leaves):
                raise Untraceable("its control flow is random")
            out = func(*args, **kwargs)
            if torch.Tag.nondeterministic_seeded in func.tags or any(id(v) in self._random for v in leaves):
                for value in tensors_in(out):
                    self._random.add(id(value))
                    self._alive.append(value)
            return out
        if name in DEPENDENT or (name == "_to_copy" and kwargs.get("device") not in (None, torch.device("meta"))):
            raise Untraceable("its control flow or its shapes depend on values")
        shell = lambda v: torch.empty_like(v, device="meta") if isinstance(v, Tensor) and not v.is_meta else v
        try:
            out = shortcut(name, args, kwargs)
            if out is None:
                out = func(*tree_map(shell, args), **tree_map(shell, kwargs))
        except NotImplementedError as error:
            raise Untraceable(f"{name} does not run without numbers") from error
        self._alive.append(out)
        if self._muted:
            return out
        if not leaves:
            if name in ("empty", "zeros", "empty_strided"):
                self.set_blank(out)
            return out
        views = [v for v in tree_leaves(out) if isinstance(v, Tensor)]
        if self.weight(args[0]) if args and isinstance(args[0], Tensor) else False:
            if all(self.weight(v) for v in views) and not func._schema.is_mutable:
                return out  # a view of a parameter
            if name in ("_to_copy", "clone") and views[0].is_floating_point() and args[0].stride() == views[0].stride():
                self._copies(args[0], views[0])
                return out
        self._readers.update({id(v) for v in leaves})
        propagate(self, func, args, kwargs, out)
        return out

    def _copies(self, value: Shaped[Tensor, "..."], copied: Shaped[Tensor, "..."]) -> None:
        self.set(copied, self._as_value(value))

    @staticmethod
    def _goes_to_meta(kwargs: dict) -> bool:
        device = kwargs.get("device")
        return device is not None and torch.device(device).type == "meta"

    # Running

    def run(self, args: tuple, kwargs: dict) -> None:
        """Run the model once; inputs and outputs are fixed."""
        shell = lambda v: torch.empty_like(v, device="meta") if isinstance(v, Tensor) else v
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), self:
                out = self.model(*tree_map(shell, args), **tree_map(shell, kwargs))
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        self._readers.update(id(value) for value in tensors_in(out))
        if not self.model.training:
            self.followers = [
                (self._givers[k], name) for k, name in self._taken if k in self._givers and self._readers[k] == 1
            ]
        for value in tensors_in(out):
            name = self.weight(value)
            what = f"{name} is returned by the model" if name else "returned by the model"
            self.fix(value, what)
        self._values.clear()
        for each in (self._blank, self._readers, self._givers, self._taken):
            each.clear()
        self._alive = [v for v in self._alive if isinstance(v, nn.Parameter)]

    def close(self) -> None:
        """Fix the classes of all parameters that must stay, or that are used in ways that exclude each other."""
        by_name: dict[str, list[Use]] = {}
        for use in self.uses:
            by_name.setdefault(use.name, []).append(use)
        for name, uses in by_name.items():
            spans = sorted(use.reach for use in uses)
            if any(after[0] <= before[1] for before, after in zip(spans, spans[1:], strict=False)):
                self.frozen.setdefault(name, f"{name} is used twice, in different roles")
        for use in self.uses:
            if use.name in self.frozen:
                for each in (use.target, use.source):
                    self.classes.fix(each, self.frozen[use.name])

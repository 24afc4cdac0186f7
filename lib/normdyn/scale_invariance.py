r"""Scale-invariant weights of any torch module: find them, and step on their spheres.

A group of weights is scale-invariant if the output does not change when the group is multiplied by a positive number.
Its gradient is then at right angles to it, and shrinks like :math:`1/\|w\|`; only the *effective* learning rate
:math:`\eta/\|w\|^2` means anything. :func:`scale_invariant_groups` finds such groups by trying, on a copy; the other
functions take named tensors and return new ones::

    groups = scale_invariant_groups(model, inputs)
    parameters = dict(model.named_parameters())
    rates = effective_learning_rates(parameters, groups, 0.1)
    gradients = {name: p.grad for name, p in parameters.items()}
    model.load_state_dict(sphere_step(parameters, gradients, groups, learning_rate=0.1), strict=False)

Sources: van Laarhoven 2017; Hoffer et al. 2018; paper C, sections 4 and 5.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from normdyn.flows import Params

ROUNDING = 1e-10  # a residual below this is rounding of float64 through a network
TINY = 1e-16  # epsilon of the structural test: no effect on a spread above 1e-3, and a constant feature stays finite


@dataclass(frozen=True)
class ScaleGroup:
    """Weights that can be multiplied by one positive number.

    Attributes:
        parameters: Names of the tensors that are scaled together.
        row: Index of the row (along the first axis) of each of them that is scaled; whole tensors if None.
        residual: Largest relative change of the output seen, with the model's own epsilons.
    """

    parameters: tuple[str, ...]
    row: int | None
    residual: float

    @property
    def exact(self) -> bool:
        """Invariant to rounding; else up to an epsilon under a root."""
        return self.residual <= ROUNDING

    def parts(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The group's part of each of its tensors, as views."""
        for name in self.parameters:
            yield name, tensors[name] if self.row is None else tensors[name][self.row]


def scale_invariant_groups(
    model: nn.Module,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    training: bool = True,
    factors: Sequence[float] = (0.5, 2.0, 8.0),
    tolerance: float = 1e-8,
    rows: bool = True,
) -> list[ScaleGroup]:
    """Find the groups of weights whose scale the output on ``inputs`` does not see.

    Tried are each row of a parameter, and each row with its bias; where no row is invariant, the whole parameter, and
    the whole with its bias. The first that is invariant is taken, so groups are disjoint. Parameters that the output
    does not see at all (a bias in front of batch normalisation) are left out. Rows that are invariant only together
    (group normalisation), and the units of a transposed convolution, come as one group.

    The test runs in float64 on a copy whose parameters are shaken, so that a bias that happens to be zero does not make
    its layer look invariant. A group counts if it is invariant with all ``eps`` attributes of the copy made tiny; its
    residual is measured with the model's own. Model, gradients, running statistics and random states stay as they are.

    Args:
        inputs, keywords: What the model is called with. Results hold for these inputs: give a batch as in training.
        training: Statistics of the batch, as in training; False uses running statistics, which end the invariance.
        factors: Scales to try, positive and not one.
        tolerance: Largest relative change of the output that counts as none.
        rows: Try single rows where not all rows are invariant; one call of the model for each factor and row.

    Raises:
        ValueError: Factors are not positive, the model has lazy or no parameters, or its output has no
            floating-point tensor, is not finite or differs between two calls.
    """
    if not factors or any(not 0 < c < math.inf or c == 1 for c in factors):
        raise ValueError(f"factors must be positive, finite and not one, got {list(factors)}")
    probe = _Probe(model, inputs, keywords or {}, training, epsilon=TINY)
    own = _Probe(model, inputs, keywords or {}, training, epsilon=None)
    groups, taken = [], set()
    for name, tensor in probe.parameters.items():
        for names, row in _search(probe, name, factors, tolerance, rows) if name not in taken else ():
            residual = own.change(names, row, factors)
            groups += [ScaleGroup(names, k, residual) for k in (range(len(tensor)) if row == "each" else [row])]
            taken.update(names)
    return groups


def group_norms(parameters: Mapping[str, Tensor], groups: Sequence[ScaleGroup]) -> Float[Tensor, " g"]:
    """Norm of each group.

    Raises:
        ValueError: A group names a parameter that is missing, or two groups share weights.
    """
    _check_groups(parameters, groups)
    return torch.stack([_norm(group, parameters) for group in groups]) if groups else torch.zeros(0)


def effective_learning_rates(
    parameters: Mapping[str, Tensor], groups: Sequence[ScaleGroup], learning_rate: float
) -> Float[Tensor, " g"]:
    """Learning rate over squared norm of each group: the rate at which descent moves its direction.

    Raises:
        ValueError: The rate is not positive, or a group is zero and has no direction.

    Source: paper C, section 5; van Laarhoven 2017.

    Example:
        >>> effective_learning_rates({"w": torch.tensor([3.0, 4.0])}, [ScaleGroup(("w",), None, 0.0)], 0.5).tolist()
        [0.019999999552965164]
    """
    _positive(learning_rate=learning_rate)
    return learning_rate / _lengths(parameters, groups).square()


def tangent_gradients(
    parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], groups: Sequence[ScaleGroup]
) -> Params:
    """Gradients without their parts along the groups; the others as they are.

    For exactly invariant groups this removes rounding; with an epsilon, frozen statistics or a penalty it removes what
    pulls on the norms.

    Raises:
        ValueError: Gradients are missing or of another shape, or a group is zero.
    """
    squares = _lengths(parameters, groups).square()
    new = _matching(parameters, gradients)
    for group, square in zip(groups, squares.unbind(), strict=True):
        views = dict(group.parts(new))
        share = sum((w * views[name]).sum() for name, w in group.parts(parameters)) / square
        for name, w in group.parts(parameters):
            views[name].sub_(share.to(w.dtype) * w.detach())
    return new


def restore_norms(parameters: Mapping[str, Tensor], groups: Sequence[ScaleGroup], norms: Float[Tensor, " g"]) -> Params:
    """The same directions with the given norms, for use after a step of any optimiser.

    Args:
        norms: One for each group, such as :func:`group_norms` gave at the start.

    Raises:
        ValueError: Not one positive norm for each group, or a group is zero.
    """
    if len(norms) != len(groups) or not bool((norms > 0).all()):
        raise ValueError(f"norms must be one positive number for each of {len(groups)} groups, got {norms.tolist()}")
    lengths = _lengths(parameters, groups)
    new = {name: value.detach().clone() for name, value in parameters.items()}
    for group, factor in zip(groups, (norms / lengths).unbind(), strict=True):
        for _, part in group.parts(new):
            part.mul_(factor.to(part.dtype))
    return new


def sphere_step(
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    groups: Sequence[ScaleGroup],
    *,
    learning_rate: float,
) -> Params:
    r"""One step of descent that keeps the norm of each group; other parameters take the plain step.

    A group turns by :math:`\arctan(\eta\|g\|/\|w\|)` towards minus its tangent gradient :math:`g`: the direction
    after a plain step, at the old norm.

    Raises:
        ValueError: The rate is not positive, gradients are missing or of another shape, or a group is zero.
    """
    _positive(learning_rate=learning_rate)
    slope = tangent_gradients(parameters, gradients, groups)
    moved = {name: value.detach() - learning_rate * slope[name] for name, value in parameters.items()}
    return restore_norms(moved, groups, _lengths(parameters, groups)) if groups else moved


class _Probe:
    """A shaken copy of a model in float64, to be called with some parameters scaled."""

    def __init__(self, model: nn.Module, inputs: tuple, keywords: Mapping, training: bool, *, epsilon: float | None):
        if any(is_lazy(value) for value in (*model.parameters(), *model.buffers())):
            raise ValueError("model has lazy parameters: call it once, then look for its groups")
        self.copy = deepcopy(model).double().train(training)
        generator = torch.Generator().manual_seed(0)
        real = {name: p.detach() for name, p in self.copy.named_parameters() if p.is_floating_point()}
        self.parameters = {name: _shaken(p, generator) for name, p in real.items()}
        if not self.parameters:
            raise ValueError("model has no parameters, so there is nothing to scale")
        self.others = {name: _shaken(torch.zeros_like(p), generator, 1.0) for name, p in self.parameters.items()}
        self.spread = {name: _uniform(p, generator) for name, p in self.parameters.items()}
        for module in self.copy.modules():
            if epsilon is not None and isinstance(getattr(module, "eps", None), float):
                module.eps = epsilon
        double = lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
        self.inputs, self.keywords = tree_map(double, (inputs, dict(keywords)))
        self.base = self.output({})
        if not self.base:
            raise ValueError("the output has no floating-point tensor")
        if not all(bool(x.isfinite().all()) for x in self.base):
            raise ValueError("the output is not finite on these inputs")
        if self.distance({}):
            raise ValueError("the output differs between two calls with the same random state: nothing can be compared")

    def output(self, changed: Params) -> list[Tensor]:
        """Floating-point tensors of the output; each call starts from the same random state and buffers."""
        clone = lambda x: x.clone() if isinstance(x, Tensor) else x
        inputs, keywords = tree_map(clone, (self.inputs, self.keywords))
        state = self.parameters | {name: b.clone() for name, b in self.copy.named_buffers()} | changed
        devices = sorted({p.device.index for p in self.parameters.values() if p.is_cuda})
        with torch.no_grad(), torch.random.fork_rng(devices):
            result = torch.func.functional_call(self.copy, state, inputs, keywords)
        return [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.is_floating_point()]

    def distance(self, changed: Params) -> float:
        """Largest relative change of an output tensor; infinite where it is not a number."""
        pairs = zip(self.output(changed), self.base, strict=True)
        gaps = [float((x - b).abs().max() / (b.abs().max() or 1.0)) for x, b in pairs if b.numel()]
        return max((math.inf if math.isnan(gap) else gap) for gap in gaps) if gaps else 0.0

    def change(self, names: tuple[str, ...], row: int | None | str, factors: Sequence[float]) -> float:
        """Largest change under scaling: of one row, of each row by a factor of its own (``each``), or of all."""
        return max(self.distance(self._scaled(names, row, c)) for c in factors)

    def unseen(self, names: tuple[str, ...], row: int | None, tolerance: float) -> bool:
        """Whether other values there give the same output."""
        changed = {name: self.parameters[name].clone() for name in names}
        for name in names:
            at = ... if row is None else row
            changed[name][at] = self.others[name][at]
        return self.distance(changed) <= tolerance

    def _scaled(self, names: tuple[str, ...], row: int | None | str, c: float) -> Params:
        first = self.parameters[names[0]]
        factor = torch.full(first.shape[:1], c, dtype=first.dtype, device=first.device)
        if row == "each":
            factor = c ** self.spread[names[0]]
        elif row is not None:
            factor = torch.where(torch.arange(len(first), device=first.device) == row, c, 1.0)
        return {n: self.parameters[n] * factor.reshape(-1, *[1] * (self.parameters[n].ndim - 1)) for n in names}


def _search(probe: _Probe, name: str, factors: Sequence[float], tolerance: float, rows: bool) -> list[tuple]:
    """Names and row of the invariant groups of one parameter; row ``each`` if every row is one."""
    tensor, bias = probe.parameters[name], _bias(name, probe.parameters)
    choices = [(name,)] + ([(name, bias)] if bias else [])
    first = lambda row: next((names for names in choices if probe.change(names, row, factors) <= tolerance), None)
    if not tensor.numel() or not tensor.ndim or probe.unseen(choices[0], None, tolerance):
        return []
    if tensor.ndim > 1:
        if names := first("each"):
            return [(names, "each")]
        found = [(names, row) for row in (range(len(tensor)) if rows else ()) if (names := first(row))]
        found = [(names, row) for names, row in found if not probe.unseen(names, row, tolerance)]
        if found:
            return found
    return [(names, None)] if (names := first(None)) else []


def _bias(name: str, parameters: Params) -> str | None:
    """Name of the bias that belongs to a weight, with one entry for each of its rows."""
    head, _, last = name.rpartition(".")
    bias = f"{head}.{last.replace('weight', 'bias')}".lstrip(".")
    fits = bias != name and bias in parameters and parameters[bias].shape == parameters[name].shape[:1]
    return bias if fits else None


def _shaken(p: Tensor, generator: torch.Generator, share: float = 0.1) -> Tensor:
    """A tensor with Gaussian noise of a share of its root mean square, of one where it is zero."""
    noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
    size = p.square().mean().sqrt() if p.numel() else p.sum()
    return p + share * (size if size > 0 else 1.0) * noise


def _uniform(p: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers between -1 and 1, one for each row."""
    return (2 * torch.rand(p.shape[:1], generator=generator, dtype=torch.float64) - 1).to(p.device)


def _norm(group: ScaleGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([part.detach().norm() for _, part in group.parts(tensors)]).norm()


def _lengths(parameters: Mapping[str, Tensor], groups: Sequence[ScaleGroup]) -> Tensor:
    """Norms of the groups, all positive."""
    norms = group_norms(parameters, groups)
    if not bool((norms > 0).all()):
        zero = groups[int((norms == 0).nonzero()[0])]
        raise ValueError(f"group {zero.parameters}, row {zero.row}, is zero and has no direction: initialise it")
    return norms


def _check_groups(parameters: Mapping[str, Tensor], groups: Sequence[ScaleGroup]) -> None:
    seen: dict[str, set] = {}
    for group in groups:
        for name in group.parameters:
            if name not in parameters:
                raise ValueError(f"parameters lack {name!r}, which a group names: pass all of model.named_parameters()")
            rows = seen.setdefault(name, set())
            if group.row in rows or (rows and None in (group.row, *rows)):
                raise ValueError(f"two groups share weights of {name!r}: their norms cannot be kept separately")
            rows.add(group.row)


def _matching(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Params:
    """Copies of the gradients of all parameters."""
    for name, value in parameters.items():
        slope = gradients.get(name)
        if slope is None or slope.shape != value.shape:
            got = "none" if slope is None else f"shape {tuple(slope.shape)}"
            raise ValueError(f"gradients[{name!r}] must have shape {tuple(value.shape)}, got {got}: run backward first")
    return {name: gradients[name].detach().clone() for name in parameters}


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {number}")

r"""Which rows and tensors of a model can be scaled without a change of its output: one backward pass, and a trial.

Along a scale-invariant part ``w`` the output ``f`` does not change, so a random cotangent ``v`` gives ``<w, g> = 0``
with ``g`` the gradient of ``<v, f>``; one backward pass tells so for all rows at once. What passes is scaled together,
each part by a factor of its own, and the outputs are compared. If they differ, as ReLU6 does that no sample saturates,
the derivative where they differ tells who did it; in the last resort halves are tried.

Source: ours; that the gradient is at right angles to scale-invariant weights is Hoffer et al. 2018, and paper C,
Corollary 4.1.1.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map

from normdyn.motion.flows import Params
from normdyn.shapes import Bool

__all__ = [
    "ORTHOGONAL",
    "ROUNDS",
    "TINY",
    "UNSEEN",
    "Part",
    "Probe",
    "Sums",
    "candidates",
    "confirmed",
    "detached_copy",
]

TINY = 1e-16  # epsilon of the structural test: no effect on a spread above 1e-3, and a constant feature stays finite
ORTHOGONAL = 1e-8  # cosine of weights and gradient that is none: rounding in float64 gives 1e-12 at worst
UNSEEN = 1e-11  # sensitivity relative to the model's largest that is none
ROUNDS = 4  # trials with the derivative, before halves are tried


class Part(NamedTuple):
    """Parameters that are scaled together: one row (along the first axis) of each, or all if ``row`` is None."""

    names: tuple[str, ...]
    row: int | None


class Probe:
    """A shaken copy of a model in float64, to be differentiated, and called with some parameters scaled.

    Raises:
        ValueError: The model has lazy or no parameters, or its output has no floating-point tensor, is not finite or
            has no derivative in the parameters.
    """

    def __init__(self, model: nn.Module, inputs: tuple, keywords: Mapping[str, Any], training: bool):
        if any(is_lazy(value) for value in (*model.parameters(), *model.buffers())):
            raise ValueError("model has lazy parameters: call it once, then look for its groups")
        self.copy = detached_copy(model).double().train(training)
        self.generator = torch.Generator().manual_seed(0)
        real = {name: p.detach() for name, p in self.copy.named_parameters() if p.is_floating_point()}
        self.parameters = {name: _shaken(p, self.generator) for name, p in real.items()}
        if not self.parameters:
            raise ValueError("model has no parameters, so there is nothing to scale")
        double = lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
        self.inputs, self.keywords = tree_map(double, (inputs, dict(keywords)))
        own = [(m, key, value) for m in self.copy.modules() for key, value in vars(m).items() if _epsilon(key, value)]
        self.own = self.differentiate(self.parameters)[1] if own else None  # with the model's own epsilons
        for module, key, _ in own:
            setattr(module, key, TINY)
        self.base, self.structural = self.differentiate(self.parameters)

    def output(self, changed: Params) -> list[Tensor]:
        """Floating-point tensors of the output; each call starts from the same random state and buffers."""
        clone = lambda x: x.clone() if isinstance(x, Tensor) else x
        inputs, keywords = tree_map(clone, (self.inputs, self.keywords))
        state = self.parameters | {name: b.clone() for name, b in self.copy.named_buffers()} | changed
        devices = sorted({p.device.index for p in self.parameters.values() if p.is_cuda})
        with torch.random.fork_rng(devices):
            result = torch.func.functional_call(self.copy, state, inputs, keywords)
        return [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.is_floating_point()]

    def differentiate(self, at: Params) -> tuple[list[Tensor], Params]:
        """Output, and gradients against a random cotangent, which weighs relative changes of its tensors alike."""
        leaves = {name: p.detach().requires_grad_() for name, p in at.items()}
        with torch.enable_grad():
            outputs = self.output(leaves)
        if not outputs:
            raise ValueError("the output has no floating-point tensor")
        if not all(bool(x.isfinite().all()) for x in outputs):
            raise ValueError("the output is not finite on these inputs")
        active = [x for x in outputs if x.requires_grad]
        if not active:
            raise ValueError("the output has no derivative in the parameters: the model computes without gradients")
        draw = torch.Generator().manual_seed(1)
        noise = [torch.randn(x.shape, generator=draw, dtype=x.dtype).to(x.device) for x in active]
        weighed = [v / (x.detach().norm() or 1.0) for v, x in zip(noise, active, strict=True)]
        found = torch.autograd.grad(active, list(leaves.values()), weighed, allow_unused=True)
        slopes = zip(at.items(), found, strict=True)
        gradients = {name: torch.zeros_like(p) if g is None else g for (name, p), g in slopes}
        return [x.detach() for x in outputs], gradients

    def distance(self, changed: Params) -> float:
        """Largest relative change of an output tensor; infinite where it is not a number."""
        with torch.no_grad():
            pairs = list(zip(self.output(changed), self.base, strict=True))
        gaps = [float((x - b).abs().max() / (b.abs().max() or 1.0)) for x, b in pairs if b.numel()]
        return max((math.inf if math.isnan(gap) else gap) for gap in gaps) if gaps else 0.0

    def scaled(self, parts: Sequence[Part], factors: Sequence[float]) -> Params:
        """The parameters of these parts, each part multiplied by its factor."""
        rows: dict[str, list[Tensor]] = {}
        for part, factor in zip(parts, factors, strict=True):
            for name in part.names:
                p = self.parameters[name]
                scales = rows.setdefault(name, [p.new_ones(len(p)) if p.ndim else p.new_ones(1)])[0]
                scales[... if part.row is None else part.row] *= factor
        return {n: self.parameters[n] * s.reshape(-1, *[1] * (self.parameters[n].ndim - 1)) for n, (s,) in rows.items()}

    def residual(self, part: Part) -> float:
        """Relative change of the output by unit of the logarithm of this part's scale, with the model's epsilons."""
        slopes = self.own or self.structural
        at = ... if part.row is None else part.row
        return abs(sum(float((self.parameters[n][at] * slopes[n][at]).sum()) for n in part.names))


class Sums:
    """By row, the derivative of the output in the logarithm of its scale, and the largest that it could be.

    The one is ``<w_r, g_r>``, the other the product of the norms.
    """

    def __init__(self, parameters: Params, gradients: Params):
        pairs = {name: (_rows(p), _rows(gradients[name])) for name, p in parameters.items()}
        self.slopes = {name: (w * g).sum(1) for name, (w, g) in pairs.items()}
        self.sizes = {name: w.norm(dim=1) * g.norm(dim=1) for name, (w, g) in pairs.items()}

    def orthogonal(self, names: tuple[str, ...], whole: bool = False) -> Bool[Tensor, " r"]:
        """Whether the gradient is at right angles to each row, taken together over these tensors, or to the whole."""
        add = lambda sums: torch.stack([sums[n].sum()[None] if whole else sums[n] for n in names]).sum(0)
        return add(self.slopes).abs() <= ORTHOGONAL * add(self.sizes)

    def keep(self, parts: Sequence[Part]) -> list[Part]:
        """Those of the parts whose gradient is at right angles to them."""
        fits = {(names, whole): self.orthogonal(names, whole).tolist() for names, whole in {_kind(p) for p in parts}}
        return [part for part in parts if fits[_kind(part)][part.row or 0]]


def candidates(probe: Probe, rows: bool) -> tuple[list[Part], list[Part]]:
    """Parts whose gradient is at right angles to them, disjoint; and rows and tensors that the output does not see."""
    sums = Sums(probe.parameters, probe.structural)
    largest = max((float(size.max()) for size in sums.sizes.values() if len(size)), default=0.0)
    found: list[Part] = []
    dead: list[Part] = []
    taken: set[str] = set()
    for name, tensor in probe.parameters.items():
        if not tensor.numel() or name in taken:
            continue
        unseen = sums.sizes[name] <= UNSEEN * largest
        if bool(unseen.all()):
            dead.append(Part((name,), None))
            continue
        bias = _bias(name, probe.parameters)
        choices: list[tuple[str, ...]] = [(name,), *([(name, bias)] if bias else [])]
        parts = _rowwise(choices, sums, unseen, rows) if tensor.ndim > 1 else []
        if parts:
            dead += [Part((name,), row) for row in unseen.nonzero().flatten().tolist()]
        else:
            parts = [Part(names, None) for names in choices if bool(sums.orthogonal(names, whole=True))][:1]
        found += parts
        taken.update(n for part in parts for n in part.names)
    return found, dead


def confirmed(
    probe: Probe, parts: list[Part], factors: Sequence[float], tolerance: float, rounds: int = ROUNDS
) -> list[Part]:
    """Those of the parts that can be scaled, all at once and each by all of the factors, with the output unchanged.

    Raises:
        ValueError: The output differs between two calls.
    """
    drawn = torch.randint(len(factors), (len(parts),), generator=probe.generator).tolist()
    turned = lambda turn: probe.scaled(parts, [factors[(k + turn) % len(factors)] for k in drawn])
    seen = any(probe.distance(turned(turn)) > tolerance for turn in range(len(factors) if parts else 0))
    if rounds == ROUNDS and (seen or not parts) and probe.distance({}) > tolerance:
        raise ValueError("the output differs between two calls with the same random state: nothing can be compared")
    if not seen:
        return parts
    if rounds:
        kept = parts
        for turn in range(len(factors)):
            there = probe.parameters | turned(turn)
            kept = Sums(there, probe.differentiate(there)[1]).keep(kept)
        return confirmed(probe, kept, factors, tolerance, rounds - 1)
    if len(parts) == 1:
        return []
    halves = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    return [part for half in halves for part in confirmed(probe, half, factors, tolerance, 0)]


def detached_copy(model: nn.Module) -> nn.Module:
    """A deep copy, also of what hooks computed from parameters and left in a module, as old ``weight_norm`` does."""
    computed = [x for m in model.modules() for x in vars(m).values() if isinstance(x, Tensor) and not x.is_leaf]
    return deepcopy(model, {id(x): x.detach().clone() for x in computed})


def _kind(part: Part) -> tuple[tuple[str, ...], bool]:
    return part.names, part.row is None


def _rowwise(choices: list[tuple[str, ...]], sums: Sums, unseen: Tensor, rows: bool) -> list[Part]:
    """The first choice that fits of each row that is seen; without ``rows`` only if all have one."""
    fits = torch.stack([sums.orthogonal(names) for names in choices]) & ~unseen
    if not rows and not bool((fits.any(0) | unseen).all()):
        return []
    chosen = fits.int().argmax(0).tolist()
    return [Part(choices[chosen[row]], row) for row in fits.any(0).nonzero().flatten().tolist()]


def _bias(name: str, parameters: Params) -> str | None:
    """Name of the bias that belongs to a weight, with one entry for each of its rows."""
    head, _, last = name.rpartition(".")
    bias = f"{head}.{last.replace('weight', 'bias')}".lstrip(".")
    fits = bias != name and bias in parameters and parameters[bias].shape == parameters[name].shape[:1]
    return bias if fits else None


def _epsilon(key: str, value: object) -> bool:
    """Whether an attribute is a number under a root: ``eps``, ``variance_epsilon``, ``norm_eps``."""
    return isinstance(value, float) and ("epsilon" in key or key.rpartition("_")[2] == "eps")


def _rows(p: Tensor) -> Tensor:
    return p.reshape(len(p), -1) if p.ndim else p.reshape(1, 1)


def _shaken(p: Tensor, generator: torch.Generator, share: float = 0.1) -> Tensor:
    """A tensor with Gaussian noise of a share of its root mean square, of one where it is zero."""
    noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
    size = p.square().mean().sqrt() if p.numel() else p.sum()
    return p + share * (size if size > 0 else 1.0) * noise

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normdyn.motion.flows import Params
from normdyn.shapes import Float
from normdyn.symmetry.scale_probe import TINY, Probe, candidates, confirmed

__all__ = [
    "POWERS",
    "ROUNDING",
    "RULES",
    "ScaleGroup",
    "ScaleGroups",
    "TINY",
    "effective_learning_rates",
    "group_norms",
    "restore_norms",
    "scale_invariant_groups",
    "sphere_gradients",
    "sphere_step",
]

ROUNDING = 1e-10  # a residual below this is rounding of float64 through a network
POWERS = {"gradient": 2, "normalized": 1, "relative": 0}  # of the norm, by which a step's rate is divided
RULES = {
    "gradient": ("SGD", "SGDW", "ASGD"),
    "normalized": ("Adam", "AdamW", "NAdam", "NAdamW", "RAdam", "Adamax", "RMSprop", "RMSpropTF", "Lion", "Adopt"),
    "relative": ("Lars", "LARS", "Lamb", "LAMB"),
}


@dataclass(frozen=True)
class ScaleGroup:
    """Weights that can be multiplied by one positive number.

    Attributes:
        parameters: Names of the tensors that are scaled together.
        row: Index of the row (along the first axis) of each of them that is scaled; whole tensors if None.
        residual: Relative change of the output by unit of the logarithm of the scale, with the model's own epsilons;
            an estimate by one random cotangent.
        dead: The output on the inputs given does not see these weights at all.
    """

    parameters: tuple[str, ...]
    row: int | None
    residual: float
    dead: bool = False

    @property
    def exact(self) -> bool:
        """Seen, and invariant to rounding; else up to an epsilon under a root."""
        return not self.dead and self.residual <= ROUNDING

    @property
    def status(self) -> str:
        """``exact``, ``approximate`` (up to an epsilon under a root) or ``dead``."""
        return "dead" if self.dead else "exact" if self.exact else "approximate"

    def parts(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The group's part of each of its tensors, as views."""
        for name in self.parameters:
            yield name, tensors[name] if self.row is None else tensors[name][self.row]


class ScaleGroups(list[ScaleGroup]):
    """Groups that were found, in the order of the model's parameters.

    Attributes:
        dead: What the output on these inputs does not see, whatever its scale: rows of parameters whose other rows are
            groups (a unit that no sample of the batch turns on), and whole parameters (a bias in front of batch
            normalisation). Nothing can be told of them.
    """

    def __init__(self, groups: Iterable[ScaleGroup], dead: Iterable[ScaleGroup]):
        super().__init__(groups)
        self.dead = tuple(dead)


def scale_invariant_groups(
    model: nn.Module,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    training: bool = True,
    factors: Sequence[float] = (0.5, 8.0),
    tolerance: float = 1e-8,
    rows: bool = True,
) -> ScaleGroups:
    """Find the groups of weights whose scale the output on ``inputs`` does not see.

    Tried are each row of a parameter, and each row with its bias; where no row is invariant, the whole parameter, and
    the whole with its bias. The first that is invariant is taken, so groups are disjoint. What the output does not see
    at all is listed as ``dead``. Rows that are invariant only together (group normalisation), and the units of a
    transposed convolution, come as one group.

    One backward pass tells which weights have their gradient at right angles to them; all that do are then scaled at
    once, the groups by different factors, and the outputs compared. Both run in float64 on a copy whose parameters
    are shaken, so that a bias that happens to be zero does not make its layer look invariant, and with all epsilons of
    the copy's modules made tiny (1e-16). A residual is then measured with the model's own: one more backward pass.
    An epsilon that is written into a function is not found, and its layer is then no group unless its effect stays
    below the tolerance; nor are weights whose gradient is replaced, as under a straight-through estimator. Model,
    gradients, running statistics and random states stay as they are.

    Args:
        inputs, keywords: What the model is called with. Results hold for these inputs: give a batch as in training.
        training: Statistics of the batch, as in training; False uses running statistics, which end the invariance.
        factors: Scales to try, positive and not one; one call of the model for each. A kink that none of them reaches
            on these inputs, as ReLU6 has one, goes unseen.
        tolerance: Largest relative change of the output that counts as none.
        rows: Take single rows where not all rows are invariant.

    Raises:
        ValueError: Factors are not positive, the model has lazy or no parameters, or its output has no
            floating-point tensor, is not finite, has no derivative or differs between two calls.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2), nn.Tanh())
        >>> groups = scale_invariant_groups(model, torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
        >>> [(g.parameters, g.row, g.status) for g in groups]
        [(('0.weight',), 0, 'approximate'), (('0.weight',), 1, 'approximate')]
    """
    if not factors or any(not 0 < c < math.inf or c == 1 for c in factors):
        raise ValueError(f"factors must be positive, finite and not one, got {list(factors)}")
    probe = Probe(model, inputs, keywords or {}, training)
    found, dead = candidates(probe, rows)
    return ScaleGroups(
        (ScaleGroup(*part, probe.residual(part)) for part in confirmed(probe, found, factors, tolerance)),
        (ScaleGroup(*part, 0.0, dead=True) for part in dead),
    )


def group_norms(parameters: Mapping[str, Tensor], groups: Sequence[ScaleGroup]) -> Float[Tensor, " g"]:
    """Norm of each group.

    Raises:
        ValueError: A group names a parameter that is missing, or two groups share weights.
    """
    _check_groups(parameters, groups)
    sizes: dict[tuple, Tensor] = {}
    for group in groups:
        if (kind := (group.parameters, group.row is None)) not in sizes:
            tensors = [parameters[name].detach() for name in group.parameters]
            rows = [t.reshape(1, -1) if kind[1] else t.reshape(len(t), -1) for t in tensors]
            sizes[kind] = torch.stack([r.norm(dim=1) for r in rows]).norm(dim=0)
    return torch.stack([sizes[g.parameters, g.row is None][g.row or 0] for g in groups]) if groups else torch.zeros(0)


def effective_learning_rates(
    parameters: Mapping[str, Tensor],
    groups: Sequence[ScaleGroup],
    learning_rate: float | torch.optim.Optimizer,
    *,
    rule: str | None = None,
) -> Float[Tensor, " g"]:
    r"""The learning rate at which each group's direction moves, on the unit sphere.

    The gradient of a scale-invariant group shrinks like :math:`1/\|w\|`, so a step of gradient descent turns the
    direction :math:`w/\|w\|` as a step of length :math:`\eta/\|w\|^2` does at unit norm. Adam and its kin divide the
    gradient by its own size: their step is as long at every norm, and turns the direction by :math:`\eta/\|w\|` times
    a number that does not depend on the scale (as long as their epsilon is small against the gradient). LARS and LAMB
    make the step proportional to the norm: :math:`\eta`, by whole tensors. Weight decay, decoupled or not, changes the
    norm and not the direction; its effect on later rates is in the norm.

    Args:
        learning_rate: Of a step, or an optimiser that holds ``parameters`` (those of the model, not copies): then each
            group has the rate of its parameters, and the rule is known by the optimiser's class.
        rule: ``gradient`` (SGD with or without momentum, the default), ``normalized`` (Adam, AdamW, RMSprop, Lion) or
            ``relative`` (LARS, LAMB).

    Raises:
        ValueError: The rate is not positive, a group is zero and has no direction, the rule is unknown, or the
            optimiser holds not all of a group or holds it at several rates.

    Source: van Laarhoven 2017, sections 3 and 4 (descent, and methods that normalise); Hoffer et al. 2018; paper C,
    section 5.

    Example:
        >>> groups = [ScaleGroup(("w",), None, 0.0)]
        >>> effective_learning_rates({"w": torch.tensor([3.0, 4.0])}, groups, 0.5).tolist()
        [0.019999999552965164]
        >>> effective_learning_rates({"w": torch.tensor([3.0, 4.0])}, groups, 0.5, rule="normalized").tolist()
        [0.10000000149011612]
    """
    lengths = _lengths(parameters, groups)
    if isinstance(learning_rate, torch.optim.Optimizer):
        rates = lengths.new_tensor(_rates(parameters, groups, learning_rate))
        rule = rule or _rule(learning_rate)
    else:
        rates = lengths.new_full((), learning_rate)
    if rule is not None and rule not in POWERS:
        raise ValueError(f"rule must be one of {', '.join(POWERS)}, got {rule!r}")
    if not bool(((rates > 0) & rates.isfinite()).all()):
        raise ValueError(f"learning_rate must be positive and finite, got {rates.tolist()}")
    return rates / lengths ** POWERS[rule or "gradient"]


def sphere_gradients(
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
    slope = sphere_gradients(parameters, gradients, groups)
    moved = {name: value.detach() - learning_rate * slope[name] for name, value in parameters.items()}
    return restore_norms(moved, groups, _lengths(parameters, groups)) if groups else moved


def _rule(optimizer: torch.optim.Optimizer) -> str:
    """By the class of the optimiser or one above it: libraries derive their own."""
    for kind in type(optimizer).__mro__:
        for rule, names in RULES.items():
            if kind.__name__ in names:
                return rule
    raise ValueError(f"rule of {type(optimizer).__name__} is not known: give rule, one of {', '.join(POWERS)}")


def _rates(
    parameters: Mapping[str, Tensor], groups: Sequence[ScaleGroup], optimizer: torch.optim.Optimizer
) -> list[float]:
    rate_of = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    rates = {name: rate_of.get(id(value)) for name, value in parameters.items()}
    found = []
    for group in groups:
        rate, *others = {rates[name] for name in group.parameters}
        if rate is None or others:
            raise ValueError(
                f"optimizer must hold {', '.join(group.parameters)} at one rate: give it and this function the "
                "parameters of the same model"
            )
        found.append(rate)
    return found


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

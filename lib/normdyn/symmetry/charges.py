r"""Symmetries of a module's loss at its parameters, each with its tangent and what gradient flow conserves by it.

If moving the parameters along a direction :math:`\xi(w)` does not change the loss on any batch, then
:math:`\langle\nabla L,\xi\rangle=0`, and gradient flow without decay conserves a *charge*, whose gradient is a multiple
of :math:`\xi`:

===========  =========================================================  ============================================
kind         tangent :math:`\xi`                                        charge
===========  =========================================================  ============================================
rescaling    a unit's incoming weights and bias, minus its outgoing     their squared norm, less that of the outgoing
scale        weights below a normalisation                              their squared norm
translation  a common shift of all logits, by the bias or one feature   the sum that the shift adds to
===========  =========================================================  ============================================

Candidates come from the module's structure. Each is kept only if its tangent is orthogonal to the gradient on the batch
given at the parameters *and* at two points nearby, and if at two of these three the gradient of what it moves is not
zero: weights that are merely dead on the batch count for nothing. An epsilon below a normalisation's root breaks its
scale by about that much: see :mod:`normdyn.symmetry.scale_invariance` for such.

Source: Kunin et al. (2021), section 3, for the three kinds; that candidates are tested on gradients is ours.
"""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from normdyn.networks.modules import UnsupportedModel, weighted_layers
from normdyn.shapes import Shaped

__all__ = ["TOLERANCE", "Candidate", "Charge", "Params", "charges"]

Params = dict[str, Tensor]
TOLERANCE = 1e-9  # of a cosine, in float64


class Charge(NamedTuple):
    r"""A symmetry of the loss and its charge.

    Attributes:
        kind: ``rescaling``, ``scale`` or ``translation``.
        name: Which one, such as ``0.weight[3]``: the tensor and the row.
        tangent: :math:`\xi` for the parameters that it moves, by name, in their shapes.
        value: The charge: what gradient flow without weight decay conserves.
        residual: Largest :math:`|\langle\nabla L,\xi\rangle|` found, over the norms of both parts.
    """

    kind: Literal["rescaling", "scale", "translation"]
    name: str
    tangent: Params
    value: float
    residual: float


def charges(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    inputs: Any,
    targets: Shaped[Tensor, "n ..."],
    *,
    tolerance: float = TOLERANCE,
) -> list[Charge]:
    """Symmetries of a module's loss among rescalings, scales of rows and shifts of logits, each verified.

    Measured on a float64 copy in the model's own mode; batch statistics are those of the batch in training mode.

    Args:
        model: Rescalings are looked for in chains (:func:`normdyn.networks.modules.weighted_layers`), scales in every
            weight's rows, shifts in the last linear layer.
        loss: ``loss(model(inputs), targets)``; a shift is a symmetry of a softmax's loss, not of the square loss.
        inputs, targets: A batch on which gradients are taken.
        tolerance: Largest cosine between gradient and tangent that counts as zero.

    Raises:
        ValueError: The gradient is zero or not finite, so that nothing can be verified.

    Source: see the module.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> _ = [nn.init.constant_(layer.weight, value) for layer, value in ((model[0], 1.0), (model[2], 3.0))]
        >>> square = lambda outputs, targets: (outputs - targets).square().mean()
        >>> [(c.kind, c.name, c.value) for c in charges(model, square, torch.ones(1, 2), torch.zeros(1, 1))]
        [('rescaling', '0.weight[0]', -7.0)]
    """
    probe = copy.deepcopy(model).double()
    inputs, targets = (x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in (inputs, targets))
    points = [{name: p.detach().clone() for name, p in probe.named_parameters()}]
    generator = torch.Generator().manual_seed(0)
    points += [{name: _shaken(p, generator) for name, p in points[0].items()} for _ in range(2)]
    slopes = [_gradient(probe, loss, inputs, targets, point) for point in points]
    found, taken = [], set()
    for kind, name, tangent, charge in (*_rescalings(probe), *_translations(probe), *_scales(points[0])):
        if name in taken and kind == "scale":
            continue
        cosines = [_cosine(slope, tangent(point)) for slope, point in zip(slopes, points, strict=True)]
        alive = [cosine for cosine in cosines if cosine is not None]
        if len(alive) > 1 and max(alive) <= tolerance:
            found.append(Charge(kind, name, tangent(points[0]), charge(points[0]), max(alive)))
            taken.add(name)
    return found


Candidate = tuple[Any, str, Callable[[Params], Params], Callable[[Params], float]]


def _rescalings(model: nn.Module) -> list[Candidate]:
    """Units between two layers of a chain; none where the model is no chain that can be rescaled."""
    try:
        layers = weighted_layers(model)
    except UnsupportedModel:
        return []
    names = {id(module): name for name, module in model.named_modules()}
    found: list[Candidate] = []
    for below, above in pairwise(layers):
        here, after = (names[id(layer.module)] for layer in (below, above))
        units = len(below.module.weight)
        for unit in range(units):
            columns = _columns(below.module, above.module, unit)
            if columns is None:
                break

            def tangent(p: Params, here=here, after=after, unit=unit, columns=columns) -> Params:
                parts = {f"{here}.weight": _only(p[f"{here}.weight"], unit)}
                if f"{here}.bias" in p:
                    parts[f"{here}.bias"] = _only(p[f"{here}.bias"], unit)
                outgoing = torch.zeros_like(p[f"{after}.weight"])
                outgoing[:, columns] = -p[f"{after}.weight"][:, columns]
                return parts | {f"{after}.weight": outgoing}

            def charge(p: Params, tangent=tangent, after=after) -> float:
                squares = {name: part.square().sum().item() for name, part in tangent(p).items()}
                return sum(squares.values()) - 2 * squares[f"{after}.weight"]

            found.append(("rescaling", f"{here}.weight[{unit}]", tangent, charge))
    return found


def _columns(below: Any, above: Any, unit: int) -> slice | None:
    """Where a unit enters the next layer; none for grouped convolutions."""
    if getattr(above, "groups", 1) != 1 or getattr(below, "groups", 1) != 1:
        return None
    each = above.weight.shape[1] // len(below.weight)
    return slice(unit * each, (unit + 1) * each)


def _translations(model: nn.Module) -> list[Candidate]:
    """Common shifts of the rows of the last linear layer: of its bias, and of each column."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return []
    name, module = linear[-1]
    weight, bias = (f"{name}.{part}" if name else part for part in ("weight", "bias"))

    def shift(key: str, column: int | None) -> Candidate:
        def tangent(p: Params) -> Params:
            ones = torch.zeros_like(p[key])
            ones[(slice(None),) if column is None else (slice(None), column)] = 1.0
            return {key: ones}

        label = key if column is None else f"{key}[:, {column}]"
        return ("translation", label, tangent, lambda p: (p[key] * tangent(p)[key]).sum().item())

    columns = [shift(weight, k) for k in range(module.weight.shape[1])]
    return ([shift(bias, None)] if module.bias is not None else []) + columns


def _scales(params: Params) -> list[Candidate]:
    """Every row of a weight, and every whole weight, by itself."""
    found: list[Candidate] = []
    for name, p in params.items():
        for unit in range(len(p)) if p.ndim > 1 else ():
            found.append(_scale(name, unit))
        if p.ndim > 1:
            found.append(_scale(name, None))
    return found


def _scale(name: str, unit: int | None) -> Candidate:
    tangent = lambda p: {name: p[name].clone() if unit is None else _only(p[name], unit)}
    return (
        "scale",
        name if unit is None else f"{name}[{unit}]",
        tangent,
        lambda p: tangent(p)[name].square().sum().item(),
    )


def _gradient(model: nn.Module, loss: Callable, inputs: Any, targets: Tensor, point: Params) -> Params:
    leaves = {name: p.clone().requires_grad_() for name, p in point.items()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    value = loss(torch.func.functional_call(model, leaves | buffers, arguments), targets)
    slopes = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    found = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(leaves.items(), slopes, strict=True)}
    if not all(g.isfinite().all() for g in found.values()) or not any(g.any() for g in found.values()):
        raise ValueError(
            "the gradient is zero or not finite on this batch: no symmetry can be verified, give another one"
        )
    return found


def _cosine(slope: Params, tangent: Params) -> float | None:
    """Of gradient and tangent on the tangent's support; none where either vanishes there."""
    inner = sum(((slope[name] * part).sum() for name, part in tangent.items()), torch.zeros(()))
    seen = sum(((slope[name] * (part != 0)).square().sum() for name, part in tangent.items()), torch.zeros(()))
    size = sum((part.square().sum() for part in tangent.values()), torch.zeros(()))
    norm = (seen * size).sqrt()
    return float(abs(inner) / norm) if norm else None


def _only(tensor: Tensor, row: int) -> Tensor:
    kept = torch.zeros_like(tensor)
    kept[row] = tensor[row]
    return kept


def _shaken(p: Tensor, generator: torch.Generator) -> Tensor:
    size = p.square().mean().sqrt().clamp_min(1e-3)
    return p + 0.1 * size * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)

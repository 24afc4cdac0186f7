r"""Minimum-norm gauge fixing of PyTorch models: :func:`rebalance`; and the solvers below it.

What can be rescaled in a network is found by running it without numbers (:mod:`normdyn.networks.traced`); which
factors are best is a convex problem (:mod:`normdyn.rescaling.shared`, :mod:`normdyn.rescaling.minimum`).

Source: Saul, section 2; on graphs ours.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normdyn.networks.traced import Untraceable
from normdyn.rescaling.assembly import apply, assemble
from normdyn.rescaling.folding import fold, foldable, put
from normdyn.rescaling.following import check_finite, follow, unwrapped
from normdyn.rescaling.minimum import METHODS, Minimum, algorithm_1, convex_optimum, minimum_norm
from normdyn.rescaling.moments import check_state, rescale_state
from normdyn.rescaling.problems import check_exponents
from normdyn.rescaling.report import Report, factors_of, units_of
from normdyn.rescaling.solving import NOTHING, certificate, solve
from normdyn.rescaling.verification import Check, NotTheSame, duplicate

__all__ = [
    "METHODS",
    "Minimum",
    "NotTheSame",
    "Rebalanced",
    "Report",
    "algorithm_1",
    "convex_optimum",
    "minimum_norm",
    "rebalance",
]


class Rebalanced(NamedTuple):
    """What :func:`rebalance` returns.

    Attributes:
        model: The network of least norm.
        history: ``norm``, ``imbalance`` and ``gap`` over the passes, see :class:`Minimum`.
        factors: ``a`` for the units of each layer with weights, by the layer's name; ones for what stays.
        converged: Whether the estimated relative gap went below the tolerance.
        report: Every unit with its fate and the reason, and what was verified.
    """

    model: nn.Module
    history: dict[str, Tensor]
    factors: dict[str, Tensor]
    converged: bool
    report: Report


def rebalance(
    model: nn.Module,
    p: float = 2,
    q: float = 2,
    tol: float = 1e-10,
    method: str = "auto",
    inplace: bool = False,
    max_passes: int = 1000,
    *,
    sample: Any = None,
    verify: bool = True,
    max_factor: float = math.inf,
    count_biases: bool = False,
    fold_batchnorm: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
    certify: bool = False,
) -> Rebalanced:
    r"""The functionally identical network whose weights have the least :math:`\|W\|_{p,q}`.

    Units that the trace shows to be rescalable are rescaled, others stay, and the report says why. A unit is an output
    feature or an output channel; its regulariser runs over all weights that enter it. Gains of normalisations are
    weights: one enters each unit. Biases are rescaled but not counted, as in the paper, unless ``count_biases``.

    Args:
        model: Left as it is unless ``inplace``.
        p, q: Exponents within a unit and over units; 2 and 2 is the sum of squares that weight decay penalises. One
            or both may be infinite: the norm is then within 0.1 % of the least, if ``converged``, and one of many such.
        tol: Relative gap between the norm and its minimum at which to stop.
        method: See :func:`minimum_norm`; ``enorm`` for chains of layers only.
        inplace: Write the new weights into ``model``, after everything else has succeeded.
        sample: An input: a tensor, a tuple of arguments, or a dict of them. Made from the shape of the first layer
            unless given. What is found holds for inputs that take the same way through the model.
        verify: Compare all that the model returns on the sample before and after, in evaluation and in training mode.
        max_factor: No unit's factor is larger, or smaller than one over it: the least norm within these bounds. A unit
            with tiny incoming and huge outgoing weights is else scaled up, and its activations with it.
        count_biases: A bias is one of the weights that enter its unit.
        fold_batchnorm: First fold each batch normalisation that alone follows a layer into that layer. The model is
            then the same in evaluation mode only.
        optimizer: One of ``model``'s, with ``inplace``: momenta and moments are rescaled as their weights are.
        certify: Prove how near the least norm is, see :func:`normdyn.rescaling.certificate.certified_gap`; it takes
            some passes more.

    Raises:
        UnsupportedModel: A weight is not finite, or the rescaled ones would overflow their dtype. It is a ValueError.
        NotTheSame: The verification failed; please report the model. ``model`` is as it was.
        ValueError: ``p`` or ``q`` is not positive, the method is unknown, ``max_factor`` is below 1, or ``optimizer``
            comes without ``inplace``, with ``fold_batchnorm``, or with a state that is not known.
        TypeError: ``model`` is not a module.

    Source: Saul, section 2, brought to modules; :func:`minimum_norm` names what is whose.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> for layer, weight in zip((model[0], model[2]), (8.0, 2.0)):
        ...     _ = nn.init.constant_(layer.weight, weight)
        >>> found = rebalance(model)
        >>> [w.item() for w in found.model.parameters()]
        [4.0, 4.0]
        >>> print(found.report)
        1 units rescaled, 1 kept
        0: 1 unit rescaled
        2: 1 unit kept: returned by the model
        eval mode verified: outputs differ by 0.0e+00
        train mode verified: outputs differ by 0.0e+00
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_exponents(*(1 if value == math.inf else value for value in (p, q)))
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not max_factor >= 1:
        raise ValueError(f"max_factor must be 1 or more, got {max_factor}")
    if optimizer is not None and (fold_batchnorm or not inplace):
        raise ValueError("optimizer holds the parameters of model: it needs inplace=True and fold_batchnorm=False")
    given, model = model, unwrapped(model)
    check_finite(model)
    try:
        trace, args, kwargs = follow(model, sample)
    except Untraceable as error:
        report = Report((), (f"nothing rescaled: {type(model).__name__} cannot be followed: {error}",))
        return Rebalanced(given if inplace else duplicate(model), NOTHING.history, {}, True, report)
    check = Check(model, args, kwargs, (False,) if fold_batchnorm else (False, True)) if verify else None
    original, model = model, model if inplace and not fold_batchnorm else duplicate(model)
    pairs = foldable(trace, model) if fold_batchnorm else []
    if pairs:
        fold(model, pairs)
        trace, args, kwargs = follow(model, kwargs or args)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if optimizer is not None:
        check_state(optimizer, parameters)
    assembly = assemble(trace, parameters, p=p, q=q, count_biases=count_biases)
    found, kept = solve(assembly, p, q, tol, method, max_passes, math.log(max_factor))
    gap = certificate(assembly, found, kept, p, q, math.log(max_factor)) if certify else None
    factors = torch.zeros(len(trace.classes), dtype=torch.float64)
    factors[assembly.numbers] = found.log_factors.cpu()
    factors = factors[trace.classes.roots(torch.arange(len(trace.classes)))]
    apply(trace, model, factors)
    differences, notes = {}, list(trace.notes)
    if check is not None:
        try:
            differences = check.compare(model)
        except NotTheSame:
            apply(trace, model, -factors)
            raise
        notes += check.notes
    if optimizer is not None:
        rescale_state(optimizer, trace, parameters, factors)
    if inplace and fold_batchnorm:
        for name in [name for pair in pairs for name in pair]:
            put(original, name, model.get_submodule(name))
        original.load_state_dict(model.state_dict())
        model = original
    report = Report(units_of(trace, kept), tuple(notes), differences, tuple(pairs), gap)
    return Rebalanced(given if inplace else model, found.history, factors_of(trace, factors), found.converged, report)

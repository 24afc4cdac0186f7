r"""Training that keeps a network balanced at any step size.

With :math:`V_{ij} = W_{ij}\,\partial\mathcal R/\partial W_{ij}` the weight-balancing flow of an error
:math:`\mathcal E` with penalty :math:`\lambda\mathcal R` is :math:`\dot V = -\lambda V - W \circ \partial\mathcal E`.
The imbalance of a hidden unit is a difference of sums of ``V``, and the same sums of ``W * dE/dW`` cancel unit by
unit in a homogeneous network, at *every* point and on every batch. Any exponential Runge-Kutta step in ``V`` therefore
multiplies every imbalance by ``exp(-lambda * step)``, without error, as long as no ``V`` becomes negative.

Rows are units: a row holds the weights into one unit (of a convolution: one output channel, all its kernels).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normdyn.networks.modules import weighted_layers
from normdyn.shapes import Float

__all__ = [
    "COLLAPSED",
    "HALVINGS",
    "PATIENCE",
    "RESERVE",
    "BalancedDescent",
    "Gradient",
    "StepCollapsed",
    "balanced_step",
    "correspondence",
    "exponential_step",
    "half_step",
    "longest_step",
    "magnitudes",
]


def correspondence(W: Float[Tensor, "*rows fan_in"], *, p: float, q: float) -> Float[Tensor, "*rows fan_in"]:
    r""":math:`V_{ij} = W_{ij}\,\partial\mathcal R/\partial W_{ij} = \pi_{ij}\rho_i`, for :math:`p, q > 0`.

    Zero weights give zero, also in a row of zeros.

    Source: Saul, eq. (54), Lemma 3.6.

    Example:
        >>> correspondence(torch.tensor([[-1.0, 3.0]]), p=1, q=2).tolist()
        [[4.0, 12.0]]
    """
    power = W.abs().pow(p)
    total = power.sum(-1, keepdim=True)
    return power * torch.where(total > 0, total, 1.0).pow(q / p - 1)


def magnitudes(V: Float[Tensor, "*rows fan_in"], *, p: float, q: float) -> Float[Tensor, "*rows fan_in"]:
    r"""Undo :func:`correspondence`: :math:`|W_{ij}| = \pi_{ij}^{1/p}\rho_i^{1/q}` with :math:`\rho_i = \sum_j V_{ij}`.

    Source: Saul, eqs. (55)-(57).

    Example:
        >>> magnitudes(torch.tensor([[4.0, 12.0]]), p=1, q=2).tolist()
        [[1.0, 3.0]]
    """
    rho = V.sum(-1, keepdim=True)
    return (V / torch.where(rho > 0, rho, 1.0)).pow(1 / p) * rho.pow(1 / q)


def exponential_step(
    V: Float[Tensor, "*s"], flow: Float[Tensor, "*s"], *, step: float, strength: float
) -> Float[Tensor, "*s"]:
    r"""Exact for a constant flow: :math:`e^{-\lambda h} V - \phi F` with :math:`\phi = (1 - e^{-\lambda h})/\lambda`.

    Args:
        V: From :func:`correspondence`.
        flow: ``W * dE/dW``, both at one point.
        step: ``h``.
        strength: ``lambda``; its limit 0 is ``V - h * flow``.

    Source: Saul, Corollary 3.7, which leaves the discretisation open.

    Example:
        >>> exponential_step(torch.tensor(1.0), torch.tensor(0.5), step=1.0, strength=0.0).item()
        0.5
    """
    integral = -math.expm1(-strength * step) / strength if strength else step
    return math.exp(-strength * step) * V - integral * flow


def longest_step(V: Float[Tensor, "*s"], flow: Float[Tensor, "*s"], *, strength: float) -> float:
    r"""The step at which :func:`exponential_step` brings the first entry to zero: :math:`\log(1 + \lambda/c)/\lambda`.

    Here :math:`c = \max W \partial\mathcal E / V`; infinite where no entry falls.

    Source: ours.

    Example:
        >>> longest_step(torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0]), strength=0.0)
        2.0
    """
    rate = torch.where(flow > 0, flow / V, 0.0).max().item()
    if rate in (0.0, math.inf):
        return math.inf if rate == 0 else 0.0
    return math.log1p(strength / rate) / strength if strength else 1 / rate


def half_step(
    W: Float[Tensor, "*rows fan_in"],
    gradient: Float[Tensor, "*rows fan_in"],
    *,
    step: float,
    strength: float,
    p: float,
    q: float,
) -> tuple[Tensor, Tensor]:
    r"""The flow's weights after half a step, to first order, and numbers with the signs they have after all of it.

    For ``p > 1`` the flow goes through zero in :math:`u = \mathrm{sign}(W)|W|^{p-1}`, in which its velocity is
    continuous: :math:`\dot u = (p - 1)(-\tfrac1p \rho^{p/q-1}\partial\mathcal E + \kappa u)` with
    :math:`\kappa = \tfrac{q-p}{pq\rho}\sum_k W_k\partial_k\mathcal E - \tfrac\lambda q`. For ``p <= 1`` no weight
    reaches zero, and the half step is one of :func:`exponential_step`, which must not exceed :func:`longest_step`.

    Source: ours; the continuation through zero of the flow of Saul, Corollary 3.7.
    """  # fmt: skip
    V, flow = correspondence(W, p=p, q=q), W * gradient
    if p <= 1:
        return magnitudes(exponential_step(V, flow, step=step / 2, strength=strength), p=p, q=q).copysign(W), W
    rho = V.sum(-1, keepdim=True)
    rho = torch.where(rho > 0, rho, 1.0)
    u = W.sign() * W.abs().pow(p - 1)
    kappa = (q - p) / (p * q) * flow.sum(-1, keepdim=True) / rho - strength / q
    velocity = (p - 1) * (kappa * u - rho.pow(p / q - 1) * gradient / p)
    middle = u + step / 2 * velocity
    return middle.abs().pow(1 / (p - 1)).copysign(middle), u + step * velocity


Gradient = Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]
RESERVE = 0.99  # of the longest step, where that is what limits
HALVINGS = 10
COLLAPSED, PATIENCE = 1e-3, 5  # of the first step taken; so many steps below that in a row are worth a word


class StepCollapsed(UserWarning):
    """The steps of :class:`BalancedDescent` have become so short that the network no longer learns."""


def balanced_step(
    weights: Sequence[Float[Tensor, "_ _"]],
    free: Sequence[Tensor],
    gradient: Gradient,
    *,
    step: float,
    p: float,
    q: float,
    strength: float = 0.0,
    stages: Literal[1, 2] = 1,
) -> tuple[list[Tensor], list[Tensor], float]:
    r"""One step of the minimum-norm flow that multiplies every imbalance by :math:`e^{-\lambda h}`, up to rounding.

    Args:
        weights: Matrices of the network, a row a unit.
        free: What follows its gradient instead (output biases).
        gradient: Maps ``weights, free`` to the error's gradients, on one batch.
        step: ``h``, in flow time. If an entry of ``V`` would not stay positive, all entries take a shorter one.
        p, q, strength: Of the regulariser.
        stages: 1 is exponential Euler, of first order, with one gradient; weights keep their signs. 2 is the
            exponential midpoint rule, of second order, with two gradients; for ``p > 1`` weights go through zero.

    Returns:
        New weights, new free parameters, and the step taken.

    Raises:
        FloatingPointError: A gradient is not finite.

    Source: Saul, Corollary 3.7, which leaves the discretisation open. Ours: see the module's text. With two stages the
    new ``V`` of a weight that passes zero is a square up to third order in the step (``p = 2``), so that moderate steps
    are taken almost whole; with one stage and ``p > 1`` the first weight to reach zero stops all progress. A weight
    that the error holds at zero from both sides (a kink there: the only input of a ReLU) stops two stages too.
    """  # fmt: skip
    W, norm, decay = list(weights), {"p": p, "q": q}, {"strength": strength}
    slopes, free_slopes = _finite(gradient(W, list(free)))
    V = [correspondence(w, **norm) for w in W]
    flow = [w * g for w, g in zip(W, slopes, strict=True)]
    ends = W
    limit = lambda: RESERVE * min(longest_step(v, f, **decay) for v, f in zip(V, flow, strict=True))
    if stages == 1:
        step = min(step, limit())
    elif p <= 1:
        step = min(step, 2 * limit())
    for attempt in range(HALVINGS if stages == 2 else 0):
        moved = [half_step(w, g, step=step, **norm, **decay) for w, g in zip(W, slopes, strict=True)]
        middle, ends = ([pair[k] for pair in moved] for k in (0, 1))
        slopes_there, free_there = _finite(
            gradient(middle, [b - step / 2 * g for b, g in zip(free, free_slopes, strict=True)])
        )
        flow = [z * g for z, g in zip(middle, slopes_there, strict=True)]
        if limit() >= step / 2 or attempt == HALVINGS - 1:
            step, free_slopes = min(step, limit()), free_there
            break
        step /= 2
    V = [exponential_step(v, f, step=step, **decay) for v, f in zip(V, flow, strict=True)]
    W = [magnitudes(v, **norm).copysign(end) for v, end in zip(V, ends, strict=True)]
    return W, [b - step * g for b, g in zip(free, free_slopes, strict=True)], step


def _finite(gradients: tuple[list[Tensor], list[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    if not all(bool(g.isfinite().all()) for part in gradients for g in part):
        raise FloatingPointError("a gradient is not finite: no step was taken; look at the data, or take shorter steps")
    return gradients


def _check(*, stages: int, strength: float, **positive: float) -> None:
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive finite number, got {value!r}")
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be zero or a positive finite number, got {strength!r}")
    if stages not in (1, 2):
        raise ValueError(f"stages must be 1 (one gradient a step), 2, or None to choose by p, got {stages!r}")


class BalancedDescent(torch.optim.Optimizer):
    r"""Minimise an error plus :math:`\lambda\mathcal R`, :math:`\mathcal R = \|W\|_{p,q}^q / q`, and stay balanced.

    The penalty belongs to the rule: the loss that is differentiated is the error alone. Each step multiplies every
    imbalance ``Q_i`` by ``exp(-strength * taken)`` up to rounding, whatever the step and the batch. To start balanced
    use :mod:`normdyn.rescaling.gauge`.

    Args:
        model: A chain of Linear and convolution layers with positively homogeneous functions between them.
        lr: Step, in flow time. For ``p = q = 2`` it is twice the rate of gradient descent.
        p, q, strength: As in :func:`balanced_step`.
        stages: As in :func:`balanced_step`; two stages need a closure. ``None`` takes two for ``p > 1`` and one else:
            with one stage and ``p > 1`` the first weight to reach zero stops the whole network, and with ``p <= 1``
            no weight reaches zero.
        biases: ``regularized`` treats each hidden bias as one more weight into its unit, in the penalty and in the
            balance. ``frozen`` keeps hidden biases at zero, as the paper does. The output bias follows its gradient in
            both.

    Attributes:
        stages: One or two.
        taken: The last step, in flow time; ``lr`` unless some ``V`` would not have stayed positive.

    Raises:
        ValueError: An argument is out of range, a frozen bias is not zero, or the model has no such symmetry
            (:class:`normdyn.networks.modules.UnsupportedModel`); the message names the layer.

    Warns:
        StepCollapsed: Once, when five steps in a row are below a thousandth of the first one (and of ``lr``); the
            message says what to do.

    Source: Saul, Corollaries 3.5 and 3.7, for biases frozen at zero (Theorem 3.3). That a bias may count as a weight,
    the step control, the second stage and the passage through zero are ours.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> _ = [layer.weight.data.fill_(2.0) for layer in (model[0], model[2])]
        >>> optimizer = BalancedDescent(model, lr=0.5, p=1, q=1)
        >>> (model(torch.ones(1, 1)) / 8).sum().backward()      # W dE/dW is 1/2 in both layers
        >>> optimizer.step()
        >>> [layer.weight.item() for layer in (model[0], model[2])]
        [1.75, 1.75]
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        p: float = 2.0,
        q: float = 2.0,
        strength: float = 0.0,
        stages: Literal[1, 2] | None = None,
        biases: Literal["frozen", "regularized"] = "regularized",
    ):
        self.stages: Literal[1, 2] = (2 if p > 1 else 1) if stages is None else stages
        stages = self.stages
        _check(lr=lr, p=p, q=q, strength=strength, stages=stages)
        if biases not in ("frozen", "regularized"):
            raise ValueError(f"biases must be 'frozen' or 'regularized', got {biases!r}")
        *hidden, output = weighted_layers(model)
        with_bias = [layer for layer in hidden if layer.module.bias is not None]
        for layer in with_bias if biases == "frozen" else ():
            if layer.module.bias.count_nonzero():
                raise ValueError(
                    f"{layer.name}: its bias is not zero; zero it, build the layer with bias=False, or pass "
                    "biases='regularized'"
                )
        self.rule: dict[str, Any] = {"p": p, "q": q, "strength": strength, "stages": stages}
        self.taken, self._first, self._short = 0.0, 0.0, 0
        regularized = {layer.name for layer in with_bias} if biases == "regularized" else set()
        rows: list[dict[str, Any]] = [
            {"params": [layer.module.weight, layer.module.bias] if layer.name in regularized else [layer.module.weight]}
            for layer in (*hidden, output)
        ]
        free: list[dict[str, Any]] = (
            [] if output.module.bias is None else [{"params": [output.module.bias], "free": True}]
        )
        super().__init__([*rows, *free], {"lr": lr, "free": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Float[Tensor, ""] | None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: Clears the gradients, computes the error, calls ``backward`` and returns the error; the same
                batch each time it is called. With one stage it may be left out, after ``backward``.

        Source: ours, :func:`balanced_step` on the parameters of a module.

        Raises:
            ValueError: The closure is missing (two stages call it twice), or the groups have different ``lr``: balance
                needs one step for all.
            FloatingPointError: A gradient is not finite; the parameters are as before the step.
        """
        if closure is None and self.stages == 2:
            raise ValueError(
                f"p={self.rule['p']:g} takes two stages, which need the gradient twice: pass step(closure); stages=1 "
                "needs no closure, but stops learning when the first weight reaches zero"
            )
        steps = {group["lr"] for group in self.param_groups}
        if len(steps) > 1:
            raise ValueError(f"all groups must have one lr, since balance needs one step for all layers, got {steps}")
        errors: list[Tensor | None] = []

        def gradient(weights: list[Tensor], free: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            if errors:  # the parameters are already those of the first call
                self._write(weights, free)
            errors.append(None if closure is None else torch.enable_grad()(closure)())
            return self._read(
                lambda parameter: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            )

        start = self._read(lambda parameter: parameter.detach().clone())
        try:
            weights, free, self.taken = balanced_step(*start, gradient, step=steps.pop(), **self.rule)
        except FloatingPointError:
            self._write(*start)
            raise
        self._write(weights, free)
        self._watch()
        return errors[0]

    def _watch(self) -> None:
        """Warn once when steps have become too short to learn anything."""
        self._first = self._first or self.taken
        if self.taken >= COLLAPSED * min(self._first, self.param_groups[0]["lr"]) and self._short < PATIENCE:
            self._short = 0
            return
        self._short += 1
        if self._short != PATIENCE:
            return
        remedy = (
            "two stages let weights go through zero: pass stages=2 and step(closure)"
            if self.stages == 1 and self.rule["p"] > 1
            else "take plain gradient steps and normdyn.rescaling.gauge.rebalance every few of them instead"
        )
        warnings.warn(
            f"the step has fallen to {self.taken:.1e} from {self._first:.1e}: a weight is next to zero and must not "
            f"pass it, and all layers take its step, so that the network no longer learns; {remedy}",
            StepCollapsed,
            stacklevel=5,
        )

    def _read(self, value: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Matrices with a row a unit, and the parameters that follow their gradient."""
        rows = lambda group: torch.cat([value(parameter).flatten(1) if parameter.ndim > 1 else value(parameter)[:, None]
                                        for parameter in group["params"]], 1)  # fmt: skip
        weights = [rows(group) for group in self.param_groups if not group["free"]]
        return weights, [value(group["params"][0]) for group in self.param_groups if group["free"]]

    def _write(self, weights: list[Tensor], free: list[Tensor]) -> None:
        matrices, vectors = iter(weights), iter(free)
        for group in self.param_groups:
            if group["free"]:
                group["params"][0].copy_(next(vectors))
                continue
            parts = next(matrices).split([parameter[0].numel() for parameter in group["params"]], 1)
            for parameter, part in zip(group["params"], parts, strict=True):
                parameter.copy_(part.reshape(parameter.shape))

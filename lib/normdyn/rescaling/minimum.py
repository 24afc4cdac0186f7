r"""Minimum-norm gauge fixing: the rescaling of a homogeneous network with the least :math:`\|W\|_{p,q}`.

With ``z = log a`` the norm of the rescaled network is convex in ``z``. One *pass* over the weights gives both sides of
the balance at every unit, ``in`` (its regulariser) and ``out`` (its share in the regularisers it feeds), hence the
norm and its gradient. Everything else costs a vector operation:

1. the paper's update ``a = (out / in) ** exponent``, monotone for every network up to
   :func:`~normdyn.rescaling.group.largest_safe_exponent`;
2. in a layered network, the imbalance between whole layers, the slowest part of it, solved in closed form, and the
   update of one half of the layers after the other (:mod:`normdyn.rescaling.alternating`);
3. Anderson's extrapolation over the last passes, kept only if the norm decreased.

The norm is flat at its minimum, so that an error of 1e-7 in ``z`` costs 1e-14: single precision does for most passes.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import scipy.optimize
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from normdyn.rescaling.alternating import Halves, Sweep
from normdyn.rescaling.group import entrywise_norm, largest_safe_exponent, multiplicative_update, rescale, scatter
from normdyn.rescaling.problems import RescalingProblem, check_alive, check_exponents, check_graph
from normdyn.rescaling.shared import SharedProblem
from normdyn.shapes import Bool, Float

__all__ = ["METHODS", "Minimum", "algorithm_1", "convex_optimum", "minimum_norm"]

METHODS = ("auto", "multiplicative", "paper", "enorm")


class Minimum(NamedTuple):
    """What :func:`minimum_norm` returns.

    Attributes:
        log_factors: ``z = log a`` for all units, zero on inputs and outputs.
        norm: Norm at the last pass; that of ``log_factors`` is no larger, by the last, proven step.
        passes: Passes over the weights, each worth all row and column sums.
        converged: Whether the estimated relative gap to the minimum went below the tolerance.
        history: ``imbalance`` (largest ``|log(out / in)|``) and ``gap`` (estimated, relative), one entry a pass or
            sweep (for ``p != q`` a sweep costs more than a pass); ``norm``, which begins with that of the weights as
            given (for ``enorm`` with the first sweep's).
    """

    log_factors: Float[Tensor, " n"]
    norm: float
    passes: float
    converged: bool
    history: dict[str, Tensor]


def minimum_norm(
    network: RescalingProblem | SharedProblem | Sequence[Float[Tensor, "_ _"]],
    *,
    p: float | None = None,
    q: float | None = None,
    method: str = "auto",
    exponent: float | None = None,
    tolerance: float = 1e-10,
    max_passes: int = 1000,
    callback: Callable[[Float[Tensor, " n"]], None] | None = None,
) -> Minimum:
    r"""The rescaling of least :math:`\|W\|_{p,q}`.

    Args:
        network: A problem, or the weights of a layered network together with ``p`` and ``q``. Large layers begin in
            single precision; for a list and a tolerance below 1e-11 in double precision.
        method: ``auto`` solves layer imbalances directly, sweeps in two halves and extrapolates; ``multiplicative`` is
            the parallel update alone, with the largest safe exponent; ``paper`` the same with the paper's
            ``1 / (4 max(p, q))``; ``enorm`` sweeps over layers, one block of coordinates after the other.
        exponent: Exponent of the parallel update, instead of the method's own.
        tolerance: Stop when the estimated relative gap between the norm and its minimum is below it.
        max_passes: Stop there at the latest.
        callback: Called with ``z`` at each pass, for progress or for recording the path.

    Raises:
        ValueError: See :class:`RescalingProblem`; an unknown method; ``enorm`` for a graph that is not layered.

    Source: Saul, Algorithm 1 (method ``paper``), section 2.4 (``enorm``); the rest is ours.

    Example:
        >>> found = minimum_norm([torch.tensor([[8.0]]), torch.tensor([[2.0]])], p=2, q=2)
        >>> [round(a, 12) for a in found.log_factors.exp().tolist()]  # 8 and 2 become 4 and 4
        [1.0, 0.5, 1.0]
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not max_passes >= 1:
        raise ValueError(f"max_passes must be 1 or more, got {max_passes}")
    if not isinstance(network, (RescalingProblem, SharedProblem)):
        if p is None or q is None:
            raise ValueError("give p and q together with a list of weights")
        network = RescalingProblem.layered(network, p=p, q=q, precise=tolerance < 1e-11)
    elif p not in (None, network.p) or q not in (None, network.q):
        raise ValueError(f"the problem was built for p, q = {network.p}, {network.q}: leave p and q out, got {p}, {q}")
    if method == "auto" and network.layers:
        return _alternate(network, exponent, tolerance, max_passes, callback)
    solver = _sweeps if method == "enorm" else _passes
    return solver(network, method, exponent, tolerance, max_passes, callback)


def _passes(problem, method, exponent, tolerance, max_passes, callback) -> Minimum:
    """The parallel updates; with method ``auto``, for a graph that has no layers, extrapolated."""
    p, q, hidden, auto, bound = problem.p, problem.q, problem.hidden, method == "auto", problem.bound
    safe = largest_safe_exponent(p, q)
    if exponent is None:
        exponent = {"paper": 1 / (4 * max(p, q)), "multiplicative": safe, "auto": 1 / (p + q)}[method]
    z = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    z = z if problem.start is None else problem.start.clone()
    history: dict[str, list[float]] = {"norm": [], "imbalance": [], "gap": []}
    memory, best, gap, converged = _Memory(len(z), z.device), None, torch.inf, False
    for _ in range(max_passes):
        log_in, log_out = problem.traverse(z)
        if best is None:
            check_alive(log_in, log_out, hidden)
            if auto:
                history["norm"].append(_exp(log_in.logsumexp(0).item() / q))
        state = _State(z, log_in, log_out, hidden, q, bound)
        if callback is not None:
            callback(z)
        if not auto or best is None or state.improves(best, problem.rounding()):
            step = exponent * state.imbalance
            if auto:
                step = memory.extrapolate(state, best, step)
            z = (state.z + step).clamp(-bound, bound)
            gap, best = 0.5 * abs((state.gradient @ (z - state.z)).item()), state
        else:
            memory.clear()
            z = (best.z + safe * best.imbalance).clamp(-bound, bound)
        for name, number in (("norm", best.norm), ("imbalance", best.largest), ("gap", gap)):
            history[name].append(number)
        converged = gap <= tolerance
        if converged:
            break
    assert best is not None  # there was a pass
    if auto:  # the last step is one that needs no pass to judge it
        z = (best.z + min(safe, exponent) * best.imbalance).clamp(-bound, bound)
    return _minimum(z, len(history["gap"]), converged, history)


def _alternate(problem, exponent, tolerance, max_passes, callback) -> Minimum:
    """Extrapolated sweeps in two halves."""
    halves, rounding = Halves(problem), problem.rounding
    exponent = 1 / (problem.p + problem.q) if exponent is None else exponent
    z = torch.zeros(len(problem.hidden), dtype=torch.float64, device=problem.hidden.device)
    history: dict[str, list[float]] = {"norm": [], "imbalance": [], "gap": []}
    memory, best, gap, passes, converged = _Memory(len(z), z.device), None, torch.inf, 0.0, False
    while not converged and (not passes or passes + halves.passes <= max_passes):
        last = passes + 2 * halves.passes > max_passes
        state = Sweep(problem, halves, z, min(exponent, halves.safe) if last else exponent)
        passes += halves.passes
        if callback is not None:
            callback(state.z)
        if best is None:
            history["norm"].append(_exp(state.log_start))
        if best is None or state.improves(best, rounding()):
            step = memory.extrapolate(state, best, state.step)
            gap, best, z = state.decrease(step), state, state.z + step
        else:  # from the best point, by a sweep that cannot fail
            memory.clear()
            if exponent > halves.safe:
                best = Sweep(problem, halves, best.z, halves.safe)
                passes += halves.passes
            z = best.z + best.step
        for name, number in (("norm", _exp(best.log_norm)), ("imbalance", best.largest), ("gap", gap)):
            history[name].append(number)
        converged = gap <= tolerance
    assert best is not None  # there was a pass
    proven = best.exponent <= halves.safe  # such a step needs no pass to judge it
    return _minimum(best.z + best.step if proven else best.z, passes, converged, history)


class _State:
    """A point and what one pass says about it. Units at a bound that would go further are not free to move."""

    def __init__(self, z: Tensor, log_in: Tensor, log_out: Tensor, hidden: Tensor, q: float, bound: float):
        self.z, top = z, log_in.max()
        if bound < math.inf:
            hidden = hidden & ~((z >= bound) & (log_out > log_in)) & ~((z <= -bound) & (log_out < log_in))
        share_in = (log_in - top).exp_()
        total = share_in.sum()
        log_total = top + total.log()
        self.log_norm = log_total.item() / q
        self.imbalance = torch.where(hidden, log_out - log_in, 0.0)
        share_in, share_out = share_in.div_(total), (log_out - log_total).exp_()
        self.gradient = torch.where(hidden, share_in - share_out, 0.0)  # of the logarithm of the norm
        self.weight = torch.where(hidden, share_in + share_out, 0.0)

    @property
    def norm(self) -> float:
        return _exp(self.log_norm)

    @property
    def largest(self) -> float:
        return self.imbalance.abs().max().item()

    def improves(self, old: "_State", rounding: float) -> bool:
        """Whether the norm is lower; where rounding hides that, the slopes at both ends of the step decide."""
        change = self.log_norm - old.log_norm
        if abs(change) > 16 * rounding:
            return change < 0
        return ((self.gradient + old.gradient) @ (self.z - old.z)).item() <= 0


class _Memory:
    """The last steps, and Anderson's combination of them that leaves the least imbalance in the norm's own metric."""

    def __init__(self, units: int, device: torch.device, size: int = 8):
        self.changes, self.sums = torch.zeros(2, size, units, dtype=torch.float64, device=device)
        self.last: Tensor | None = None
        self.count = 0

    def clear(self) -> None:
        self.count = 0

    def extrapolate(self, state: "_State | Sweep", before: "_State | Sweep | None", step: Tensor) -> Tensor:
        """The step to take from ``state``, whose plain step is given."""
        last, self.last = self.last, step
        if before is None or last is None:
            return step
        row = self.count % len(self.sums)
        torch.sub(step, last, out=self.changes[row])
        torch.sub(state.z, before.z, out=self.sums[row]).add_(self.changes[row])
        self.count += 1
        kept = min(self.count, len(self.sums))
        weighted = self.changes[:kept] * state.weight
        gram = weighted @ self.changes[:kept].mT
        scale = gram.diagonal().sqrt().clamp_min(1e-300)
        gram = gram / scale / scale[:, None]
        gram.diagonal().add_(1e-12)
        return step - torch.linalg.solve(gram, weighted @ step / scale).div_(scale) @ self.sums[:kept]


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf


def _minimum(z: Tensor, passes: float, converged: bool, history: dict[str, list[float]]) -> Minimum:
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in history.items()}
    return Minimum(z, history["norm"][-1], passes, converged, tensors)


def _sweeps(problem, method, exponent, tolerance, max_passes, callback) -> Minimum:
    """Block-coordinate descent over hidden layers, first to last.

    One layer's exact minimiser has exponent ``1 / 2p`` for ``p = q``; else ``1 / (q + max(p, q))`` is monotone for one
    layer. A sweep needs every matrix' row and column sums once, and its row sums once more for ``p != q``.
    """
    if not problem.layers:
        raise ValueError("method 'enorm' sweeps over layers: build the problem by RescalingProblem.layered")
    p, q, hidden, blocks = problem.p, problem.q, problem.hidden, problem.blocks
    exponent = 1 / (q + max(p, q)) if exponent is None else exponent
    z = torch.zeros(len(hidden), dtype=torch.float64, device=hidden.device)
    history: dict[str, list[float]] = {"norm": [], "imbalance": [], "gap": []}
    passes, converged = 0.0, False
    while passes < max_passes and not converged:
        totals, decrements, largest = [], [], 0.0
        for block, after in pairwise(blocks):
            here, there = block.target, after.target
            log_in = q / p * (p * z[here] + block.sums(-p * z[block.source]))
            share = p * z[there]
            if p != q:
                share = share + (q / p - 1) * (share + after.sums(-p * z[here]))
            log_out = after.sums(share, transposed=True) - p * z[here]
            if not passes:
                check_alive(log_in, log_out, hidden[here], first=here.start)
            step = exponent * (log_out - log_in)
            z[here] += step
            totals.append((log_in + q * step).logsumexp(0))
            decrements.append((log_in, log_out, step))
            largest = max(largest, (log_out - log_in).abs().max().item())
        last = blocks[-1]
        totals.append((q / p * last.sums(-p * z[last.source])).logsumexp(0))
        log_total = torch.stack(totals).logsumexp(0)
        gap = sum(0.5 * (((o - log_total).exp() - (i - log_total).exp()) @ step).item() for i, o, step in decrements)
        passes += 1 if p == q else 1.5
        if callback is not None:
            callback(z.clone())
        history["norm"].append(_exp(log_total.item() / q))
        history["imbalance"].append(largest)
        history["gap"].append(gap)
        converged = gap <= tolerance
    return _minimum(z, passes, converged, history)


def algorithm_1(
    W: Float[Tensor, "n n"],
    b: Float[Tensor, " n"],
    *,
    p: float,
    q: float,
    hidden: Bool[Tensor, " n"],
    exponent: float | None = None,
    tolerance: float = 1e-12,
    max_passes: int = 10_000,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Algorithm 1 as it stands: rescale all hidden units in parallel until no factor differs from 1.

    Args:
        W, b, hidden: Any feedforward graph, see :mod:`normdyn.networks.graphs`.
        exponent: ``1 / (4 max(p, q))`` unless given.
        tolerance: Stop when no ``|log a|`` exceeds it.

    Returns:
        Weights, biases, and the history: ``norm`` before each update and after the last, ``factor`` (the largest
        ``|log a|`` of each update).

    Source: Saul, Algorithm 1, eqs. (6) to (10).
    """
    check_exponents(p, q)
    check_graph(W, hidden)
    connected = W != 0
    check_alive(connected.sum(1).log(), connected.sum(0).log(), hidden)
    norms, factors = [entrywise_norm(W, p=p, q=q)], list[float]()
    while len(factors) < max_passes and not (factors and factors[-1] <= tolerance):
        a = multiplicative_update(W, hidden, p=p, q=q, exponent=exponent)
        W, b = rescale(W, b, a)
        norms.append(entrywise_norm(W, p=p, q=q))
        factors.append(a.log().abs().max().item())
    return W, b, {"norm": torch.stack(norms), "factor": torch.tensor(factors, dtype=W.dtype)}


def convex_optimum(
    weights: Sequence[Float[Tensor, "_ _"]] | Float[Tensor, "n n"],
    *,
    p: float,
    q: float,
    hidden: Bool[Tensor, " n"] | None = None,
) -> tuple[Float[Tensor, " n"], float]:
    r"""The minimum by a general convex solver that knows none of the formulas above: the reference for gaps.

    L-BFGS on :math:`\log \|W\|_{p,q}` as a function of ``log a`` with derivatives by autograd, then Newton steps by
    conjugate gradients as long as they shrink the gradient.

    Args:
        weights: Layers, or one ``n x n`` matrix together with ``hidden``.

    Returns:
        ``log a`` for all units, and the norm.

    Source: Saul, eq. (13), for the convexity.
    """
    if hidden is None:
        layers = list(weights)
        problem = RescalingProblem.layered(layers, p=p, q=q)
        hidden, spans = problem.hidden, [(block.target, block.source) for block in problem.blocks]
    else:
        layers = [torch.as_tensor(weights)]
        check_graph(layers[0], hidden)
        spans = [(slice(None), slice(None))]
    powers = [W.detach().abs().to(torch.float64) for W in layers]
    units = [P.max() for P in powers]
    powers = [P.div_(unit).pow_(p) for P, unit in zip(powers, units, strict=True)]

    def log_norm(free: Tensor) -> Tensor:
        z = scatter(free, hidden)
        terms = []
        for P, unit, (target, source) in zip(powers, units, spans, strict=True):
            x = -p * z[source]
            shift = x.max().detach()
            sums = P @ (x - shift).exp()
            live = sums > 0
            terms.append(q * (z[target][live] + unit.log() + (sums[live].log() + shift) / p))
        return torch.cat(terms).logsumexp(0) / q

    def value_and_gradient(x):
        free = torch.tensor(x, device=hidden.device, requires_grad=True)
        value = log_norm(free)
        return value.item(), torch.autograd.grad(value, free)[0].cpu().numpy()

    size = int(hidden.sum())
    options = {"maxiter": 3000, "maxfun": 6000, "maxcor": 30, "ftol": 0.0, "gtol": 1e-9}
    x = scipy.optimize.minimize(
        value_and_gradient, torch.zeros(size).double().numpy(), jac=True, method="L-BFGS-B", options=options
    ).x
    for _ in range(20):
        free = torch.tensor(x, device=hidden.device, requires_grad=True)
        gradient = torch.autograd.grad(log_norm(free), free, create_graph=True)[0]

        def product(v, free=free, gradient=gradient):
            v = torch.as_tensor(v.reshape(-1), dtype=torch.float64, device=hidden.device)
            return torch.autograd.grad(gradient @ v, free, retain_graph=True)[0].cpu().numpy()

        hessian = LinearOperator((size, size), matvec=product, dtype=float)
        slope = gradient.detach().cpu().numpy()
        step, _ = cg(hessian, -slope, rtol=1e-4, maxiter=500)
        if not abs(value_and_gradient(x + step)[1]).max() < 0.5 * abs(slope).max():
            break
        x = x + step
    free = torch.as_tensor(x, device=hidden.device)
    return scatter(free, hidden), log_norm(free).exp().item()

"""Motion: vector fields on named parameters, and two ways to follow them.

Time is learning rate times steps. :func:`integrate` follows the flow with a controlled error, :func:`descend` takes
Euler steps, which for a gradient flow is gradient descent.

Source: elementary; the integrators are SciPy's (Dormand and Prince's of order 8 unless another is named).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from normdyn.shapes import Float

__all__ = ["Field", "Params", "Record", "descend", "gradient", "gradient_flow", "integrate"]

Params = dict[str, Tensor]
Field = Callable[[Params], Params]
Record = Mapping[str, Callable[[Params], Tensor | float]]


def gradient(loss: Callable[..., Tensor]) -> Callable[..., Params]:
    """The gradient of a loss in named parameters, zero in those it does not use; further arguments are passed on.

    What ``torch.func.grad`` gives, at half the price for small networks.
    """

    def at(params: Params, *args) -> Params:
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
            slopes = torch.autograd.grad(loss(leaves, *args), list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, slopes, strict=True))

    return at


def gradient_flow(loss: Callable[[Params], Tensor], *, weight_decay: float = 0.0) -> Field:
    """The field ``-grad loss - weight_decay * parameters``, as torch's weight decay: the penalty is half the square."""
    slope = gradient(loss)
    return lambda params: {name: -g - weight_decay * params[name] for name, g in slope(params).items()}


def integrate(
    field: Field,
    params: Params,
    times: Float[Tensor, " t"] | Sequence[float],
    *,
    record: Record | None = None,
    relative: float = 1e-12,
    absolute: float = 1e-14,
    method: str = "DOP853",
    max_evaluations: int = 1_000_000,
) -> dict[str, Tensor]:
    """Follow a flow with an adaptive Runge-Kutta method and record at given times.

    Args:
        field: Maps parameters to their time derivatives.
        params: Start, float64; not changed.
        times: Increasing flow times at which to record; the first is the start.
        record: Functions of the parameters; without it the parameters themselves are recorded.
        relative, absolute: Tolerances of one step. Smooth fields only: at a ReLU kink the steps collapse, see
            :func:`normdyn.motion.sliding.slide`.
        method: Of ``scipy.integrate.solve_ivp``; ``LSODA`` where the field is stiff.
        max_evaluations: How often the field may be evaluated in all. A million takes a small network minutes; a run
            that needs more has come to a kink as a rule.

    Returns:
        Stacked records, one row a time, and ``times``.

    Raises:
        ValueError: Parameters are not float64, the times do not increase, or ``max_evaluations`` is not positive.
        RuntimeError: ``max_evaluations`` are spent; or the integrator gave up, in the solver's words. Both say at
            which time.
    """  # fmt: skip
    times = torch.as_tensor(times, dtype=torch.float64)
    if (times.diff() <= 0).any() or len(times) < 2:
        raise ValueError(f"times must increase and be two or more, got {times.tolist()[:5]}")
    wrong = [name for name, value in params.items() if value.dtype != torch.float64]
    if wrong:
        raise ValueError(f"params must be float64 for an integrator with a controlled error, {wrong} are not")
    if not max_evaluations >= 1:
        raise ValueError(f"max_evaluations must be positive, got {max_evaluations}")
    spent = 0

    def right_hand_side(time: float, flat: np.ndarray) -> np.ndarray:
        nonlocal spent
        spent += 1
        if spent > max_evaluations:
            raise RuntimeError(
                f"max_evaluations = {max_evaluations} are spent at time {time:g} of {times[-1]:g}. At a kink (a ReLU "
                f"whose input stays at zero) no number is enough: take motion.sliding.slide, or descend. For a stiff "
                f"field take method='LSODA'; else loosen relative = {relative:g}, or raise max_evaluations"
            )
        return _flatten(field(_unflatten(torch.from_numpy(flat), params))).numpy()

    states, first = [_flatten(params).numpy()], None
    for start, end in pairwise(times.tolist()):  # to each time by a step of its own: the dense output loses four digits
        solution = solve_ivp(
            right_hand_side, (start, end), states[-1], method=method, rtol=max(relative, 1e-13), atol=absolute,
            first_step=first and min(first, end - start),
        )  # fmt: skip
        if not solution.success:
            raise RuntimeError(f"{solution.message} (reached time {solution.t[-1]:g})")
        states.append(solution.y[:, -1])
        first = np.diff(solution.t).max()
    path = [_unflatten(torch.from_numpy(state.copy()), params) for state in states]
    return _recorded(path, record) | {"times": times}


def descend(
    field: Field, params: Params, *, step: float, steps: int, record: Record | None = None, every: int = 1
) -> dict[str, Tensor]:
    """Take Euler steps and record every few of them, start and end included.

    Raises:
        ValueError: ``step``, ``steps`` or ``every`` is not positive.
    """
    if not step > 0 or steps < 1 or every < 1:
        raise ValueError(f"step, steps and every must be positive, got {step}, {steps}, {every}")
    kept, at = [params], [0]
    for k in range(1, steps + 1):
        velocity = field(params)
        params = {name: value + step * velocity[name] for name, value in params.items()}
        if k % every == 0 or k == steps:
            kept.append(params)
            at.append(k)
    return _recorded(kept, record) | {"times": step * torch.tensor(at, dtype=torch.float64)}


def _recorded(path: list[Params], record: Record | None) -> dict[str, Tensor]:
    if record is None:
        return {name: torch.stack([params[name] for params in path]) for name in path[0]}
    return {
        name: torch.stack([torch.as_tensor(measure(params)).detach() for params in path])
        for name, measure in record.items()
    }


def _flatten(params: Params) -> Float[Tensor, " k"]:
    return torch.cat([value.reshape(-1) for value in params.values()]).detach()


def _unflatten(flat: Float[Tensor, " k"], like: Params) -> Params:
    parts = flat.split([value.numel() for value in like.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}

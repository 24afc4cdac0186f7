"""Flows with kinks: Filippov's solutions, from event to event.

The flow of a ReLU network jumps where a pre-activation changes sign. Where both sides push towards the kink no
ordinary solution exists: the state slides along it, with the one mixture of both velocities that stays there. An
integrator with error control stalls at such a place; this one stops at it, and goes on along the surface.

Source: Filippov, Differential Equations with Discontinuous Righthand Sides, 1988, section 4 of chapter 1 (solutions by
convex mixture), for several surfaces at once; the choice of the one consistent continuation is ours.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from normdyn.motion.flows import Params, Record, _flatten, _recorded, _unflatten
from normdyn.shapes import Float

__all__ = ["SLACK", "FlowEnds", "slide"]

SLACK = 1e-12  # by how much a switch has to overshoot before it counts
LOST = 1e-9  # by how much it cannot have overshot if the event was found


class FlowEnds(RuntimeError):
    """At its ``time`` the flow has no continuation, or several, as where all weights into a unit have come to zero."""

    def __init__(self, message: str, time: float):
        super().__init__(message)
        self.time = time


def slide(
    field: Callable[[Params, Float[Tensor, " k"]], Params],
    switches: Callable[[Params], Float[Tensor, " k"]],
    params: Params,
    times: Float[Tensor, " t"] | Sequence[float],
    *,
    rates: Callable[[Params, Params], Float[Tensor, " k"]] | None = None,
    record: Record | None = None,
    relative: float = 1e-11,
    absolute: float = 1e-13,
    max_events: int = 1000,
) -> dict[str, Tensor]:
    r"""Follow a piecewise smooth flow; where it is pinned at a surface, slide.

    Args:
        field: Maps parameters and gates to velocities, smooth in the parameters. A gate is 1 where its switch is
            positive, 0 where it is negative, and between them while the switch is pinned at zero. There the rates of
            the switches must be affine in the gates, as they are for the units of one hidden layer.
        switches: Maps parameters to the quantities whose signs open and close the gates.
        params: Start, float64.
        times: Increasing times at which to record; the first is the start.
        rates: Maps parameters and velocities to the rates of the switches; without it they are differentiated.
        record: Functions of the parameters; without it the parameters themselves are recorded.
        relative, absolute: Tolerances of one step.
        max_events: How often a gate may change.

    Returns:
        Stacked records, ``times``, ``gates`` at those times, and ``events``, the times at which a gate changed.

    Raises:
        FlowEnds: no continuation at a surface, or several; ``time`` says when.
        RuntimeError: more than ``max_events`` changes.

    A switch that crosses and returns within one step is not seen: record often where that may happen.

    Example:
        >>> pinned = lambda state, gates: {"x": 0.25 - gates[0] + 0 * state["x"]}  # down above zero, up below
        >>> start = {"x": torch.tensor(-0.5, dtype=torch.float64)}
        >>> path = slide(pinned, lambda state: state["x"][None], start, [0, 1, 4])
        >>> [round(x, 9) + 0.0 for x in path["x"].tolist()], round(path["gates"][-1].item(), 9)
        ([-0.5, -0.25, 0.0], 0.25)
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    flow = _Flow(field, switches, rates, params)
    flat, changes = _flatten(params).numpy(), []
    values = flow.switches(flat)
    flow.gates = (values > 0).double()
    flow.settle(times[0].item(), flat, (values.abs() <= SLACK).nonzero()[:, 0].tolist())
    kept = [(flat, flow.mixed(flat))]
    for start, end in pairwise(times.tolist()):
        while start < end:
            found = solve_ivp(
                flow.velocity, (start, end), flat, method="DOP853", rtol=relative, atol=absolute,
                events=[flow.distance, flow.freedom],
            )  # fmt: skip
            flow.check_sides(found.t, found.y)
            start, flat = found.t[-1], found.y[:, -1]
            if found.status == 0:
                break
            changes.append(start)
            if found.status < 0 or len(changes) > max_events:
                raise RuntimeError(f"max_events = {max_events} changes, or no step, at time {start:g}: {found.message}")
            at = flow.switches(flat)
            crossed = ((2 * flow.gates - 1) * at < -SLACK / 2) & ~flow.pinned
            flow.settle(start, flat, (crossed | flow.pinned).nonzero()[:, 0].tolist())
        kept.append((flat, flow.mixed(flat)))
    path = [_unflatten(torch.from_numpy(state.copy()), params) for state, _ in kept]
    gates = torch.stack([gates for _, gates in kept])
    return _recorded(path, record) | {
        "times": times,
        "gates": gates,
        "events": torch.tensor(changes, dtype=torch.float64),
    }


class _Flow:
    """A flow with its present gates, on flat arrays."""

    def __init__(self, field: Callable, switches: Callable, rates: Callable | None, like: Params):
        self.field, self.of, self.like = field, switches, like
        self.along = rates or (lambda params, velocity: torch.func.jvp(switches, (params,), (velocity,))[1])
        self.gates = self.of(like).new_zeros(self.of(like).shape)
        self.pinned = torch.zeros_like(self.gates, dtype=torch.bool)

    def params(self, flat: np.ndarray) -> Params:
        return _unflatten(torch.from_numpy(flat), self.like)

    def switches(self, flat: np.ndarray) -> Tensor:
        return self.of(self.params(flat)).detach()

    def rates(self, params: Params, gates: Tensor, which: Sequence[int]) -> Tensor:
        """Of some switches, under given gates."""
        return self.along(params, self.field(params, gates)).detach()[list(which)]

    def affine(self, params: Params, which: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rates of some switches as ``offset + matrix @ gates`` of these switches."""
        closed = self.gates.index_fill(0, torch.tensor(which), 0.0)
        offset = self.rates(params, closed, which)
        columns = [self.rates(params, closed.index_fill(0, torch.tensor(k), 1.0), which) - offset for k in which]
        return offset, torch.stack(columns, 1)

    def mixed(self, flat: np.ndarray) -> Tensor:
        """All gates; those of pinned switches are what keeps these at zero."""
        which = self.pinned.nonzero()[:, 0].tolist()
        if not which:
            return self.gates.clone()
        offset, matrix = self.affine(self.params(flat), which)
        return self.gates.index_copy(0, torch.tensor(which), torch.linalg.solve(matrix, -offset))

    def velocity(self, time: float, flat: np.ndarray) -> np.ndarray:
        return _flatten(self.field(self.params(flat), self.mixed(flat))).numpy()

    def distance(self, time: float, flat: np.ndarray) -> float:
        """How far the nearest free switch is from its surface; an event where it becomes negative."""
        signed = (2 * self.gates - 1) * self.switches(flat)
        return float(signed[~self.pinned].min()) + SLACK if (~self.pinned).any() else 1.0

    def freedom(self, time: float, flat: np.ndarray) -> float:
        """How far the gates of pinned switches are from 0 and 1; an event where this becomes negative."""
        gates = self.mixed(flat)[self.pinned]
        return float(torch.minimum(gates, 1 - gates).min()) + SLACK if len(gates) else 1.0

    def check_sides(self, times: np.ndarray, states: np.ndarray) -> None:
        """All steps end with free switches on their sides: where many turn at once, an event may be lost."""
        for before, after, flat in zip(times, times[1:], states.T[1:], strict=False):
            if self.distance(after, flat) < -LOST:
                raise FlowEnds(f"a switch turned unseen: the flow ends or branches at time {before:g}", float(before))

    for event in (distance, freedom):  # as SciPy wants them told
        vars(event).update(terminal=True, direction=-1)

    def settle(self, time: float, flat: np.ndarray, which: Sequence[int]) -> None:
        """Open, close or pin the switches that lie at their surfaces, in the one way that is consistent."""
        if not which:
            return
        offset, matrix = self.affine(self.params(flat), which)
        ways = [way for way in product((0.0, 1.0, None), repeat=len(which)) if _consistent(way, offset, matrix)]
        if len(ways) != 1:
            message = f"{len(ways)} continuations at switches {list(which)}: the flow ends or branches at time {time:g}"
            raise FlowEnds(message, time)
        for k, gate in zip(which, ways[0], strict=True):
            self.pinned[k] = gate is None
            self.gates[k] = 0.0 if gate is None else gate


def _consistent(way: Sequence[float | None], offset: Tensor, matrix: Tensor) -> bool:
    """Whether closed switches fall, open ones rise, and pinned ones stay with a gate between 0 and 1."""
    pinned = torch.tensor([gate is None for gate in way])
    gates = torch.tensor([gate or 0.0 for gate in way], dtype=offset.dtype)
    if pinned.any():
        block, drive = matrix[pinned][:, pinned], (offset + matrix @ gates)[pinned]
        mixed, info = torch.linalg.solve_ex(block, -drive)
        if info or not ((mixed > 0) & (mixed < 1)).all():
            return False
        gates[pinned] = mixed
    rates = offset + matrix @ gates
    return bool((pinned | ((2 * gates - 1) * rates > 0)).all())

r"""What an optimiser remembers of parameters that are rescaled.

Entries multiplied by ``c`` have gradients divided by ``c``: so are averages of gradients; averages of their squares are
divided by ``c**2``.

Source: the chain rule; the names are those of PyTorch's optimisers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from normdyn.networks.traced import Trace
from normdyn.rescaling.assembly import multiply
from normdyn.shapes import Float

__all__ = ["NUMBERS", "POWERS", "check_state", "power", "rescale_state"]

POWERS = {
    "momentum_buffer": -1, "exp_avg": -1, "grad_avg": -1, "exp_inf": -1, "prev": -1, "exp_avg_sq": -2,
    "max_exp_avg_sq": -2, "square_avg": -2, "sum": -2, "acc_delta": 0, "step_size": 0, "ax": 1,
}  # fmt: skip
NUMBERS = ("step", "eta", "mu", "mu_product")  # one for a parameter


def power(key: str, state: dict[str, Any]) -> int:
    """Power of an entry's factor that a part of an optimiser's state is multiplied by.

    Example:
        >>> power("exp_avg_sq", {})
        -2
        >>> power("momentum_buffer", {"square_avg": 0})  # of RMSprop: of gradients over their own size
        0
    """
    return 0 if key == "momentum_buffer" and "square_avg" in state else POWERS[key]


def check_state(optimizer: Any, parameters: Mapping[str, Tensor]) -> None:
    """Check that every tensor of the optimiser's state is one whose power of the factor is known.

    Raises:
        ValueError: One is not, or it is laid out otherwise than its parameter.

    Source: elementary.
    """
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or key in NUMBERS:
                continue
            if key not in POWERS:
                raise ValueError(f"optimizer: it is not known how its state {key!r} of {name} changes with a rescaling")
            if value.shape != parameter.shape or value.stride() != parameter.stride():
                raise ValueError(f"optimizer: its state {key!r} of {name} is not laid out as the parameter is")


def rescale_state(optimizer: Any, trace: Trace, parameters: Mapping[str, Tensor], factors: Float[Tensor, " n"]) -> None:
    """Rescale momenta and moments as their parameters were.

    Source: the chain rule.
    """
    with torch.no_grad():
        for use in trace.uses:
            top, bottom = factors[use.target], factors[use.source]
            if not (top.any() or bottom.any()):
                continue
            state = optimizer.state.get(parameters[use.name], {})
            for key, value in state.items():
                if isinstance(value, Tensor) and key not in NUMBERS and power(key, state):
                    multiply(use.view(value), power(key, state) * top, power(key, state) * bottom)

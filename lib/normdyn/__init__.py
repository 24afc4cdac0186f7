"""Norm dynamics: what happens to the sizes of a network's weights while it trains.

Folders are subjects. Modules are imported singly (``from normdyn.rescaling import gauge``); packages import nothing,
so that a program pays only for what it uses. The tools for networks as people train them can also be had from here,
``normdyn.rebalance``, and are imported when they are asked for.

Example:
    >>> import normdyn
    >>> normdyn.rebalance.__module__
    'normdyn.rescaling.gauge'
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Without the name of this package before it: a page of the book rests on what it uses, not on all of this.
TOOLS = {
    "BalancedDescent": "rescaling.descent",
    "NormMonitor": "norms.monitor",
    "adaptive_sharpness": "measures.sharpness",
    "charges": "symmetry.charges",
    "effective_learning_rates": "symmetry.scale_invariance",
    "lightning_callback": "norms.callbacks",
    "minimum_norm": "rescaling.minimum",
    "network_margin": "norms.network_margins",
    "neural_collapse": "measures.collapse",
    "rebalance": "rescaling.gauge",
    "scale_invariant_groups": "symmetry.scale_invariance",
    "sphere_step": "symmetry.scale_invariance",
    "trainer_callback": "norms.callbacks",
}
__all__ = ["__version__", *TOOLS]


def __getattr__(name: str) -> Any:
    if name not in TOOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its tools are {', '.join(TOOLS)}")
    return getattr(import_module(f"{__name__}.{TOOLS[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *TOOLS]

"""Another name of :mod:`normdyn.rescaling.gauge`."""

from normdyn.rescaling.gauge import (
    METHODS,
    Minimum,
    NotTheSame,
    Rebalanced,
    Report,
    algorithm_1,
    convex_optimum,
    minimum_norm,
    rebalance,
)

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

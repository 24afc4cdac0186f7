"""Another name of :mod:`normdyn.rescaling.descent`."""

from normdyn.rescaling.descent import (
    COLLAPSED,
    HALVINGS,
    PATIENCE,
    RESERVE,
    BalancedDescent,
    Gradient,
    StepCollapsed,
    balanced_step,
    correspondence,
    exponential_step,
    half_step,
    longest_step,
    magnitudes,
)

__all__ = [
    "BalancedDescent",
    "COLLAPSED",
    "Gradient",
    "HALVINGS",
    "PATIENCE",
    "RESERVE",
    "StepCollapsed",
    "balanced_step",
    "correspondence",
    "exponential_step",
    "half_step",
    "longest_step",
    "magnitudes",
]

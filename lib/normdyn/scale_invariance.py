"""Another name of :mod:`normdyn.symmetry.scale_invariance`."""

from normdyn.symmetry.scale_invariance import (
    ROUNDING,
    TINY,
    ScaleGroup,
    ScaleGroups,
    effective_learning_rates,
    group_norms,
    restore_norms,
    scale_invariant_groups,
    sphere_gradients,
    sphere_step,
)

__all__ = [
    "ROUNDING",
    "ScaleGroup",
    "ScaleGroups",
    "TINY",
    "effective_learning_rates",
    "group_norms",
    "restore_norms",
    "scale_invariant_groups",
    "sphere_step",
    "sphere_gradients",
]

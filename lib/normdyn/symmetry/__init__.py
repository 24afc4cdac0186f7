"""Symmetries of a network: continuous ones, scale invariance, polar coordinates.

The public names of :mod:`.continuous` can be had from here (``from normdyn.symmetry import predicted_symmetries``); it
is imported when one of them is asked for.
"""

from typing import Any

CONTINUOUS = (
    "ACTIVATIONS",
    "Architecture",
    "NORMALIZERS",
    "NullSpace",
    "Params",
    "activities",
    "draw",
    "generators",
    "jacobian",
    "null_space",
    "outputs",
    "pattern_margin",
    "predicted_symmetries",
    "reduced",
    "unexplained",
)
__all__ = [*CONTINUOUS]


def __getattr__(name: str) -> Any:
    if name not in CONTINUOUS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from normdyn.symmetry import continuous

    return getattr(continuous, name)

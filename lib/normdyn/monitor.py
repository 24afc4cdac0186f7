"""Another name of :mod:`normdyn.norms.monitor`."""

from normdyn.norms.monitor import (
    COLUMNS,
    KNOWN,
    LINEAR,
    SHAPES,
    TERMS,
    LayerReport,
    NormLawWarning,
    NormMonitor,
)

__all__ = [
    "COLUMNS",
    "KNOWN",
    "LINEAR",
    "LayerReport",
    "NormLawWarning",
    "NormMonitor",
    "SHAPES",
    "TERMS",
]

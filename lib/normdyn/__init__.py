"""Norm dynamics: what happens to the sizes of a network's weights while it trains.

Modules are imported one by one (``from normdyn import gauge``); the package itself imports nothing, so that a
page pays only for what it uses.
"""

__version__ = "0.1.0"

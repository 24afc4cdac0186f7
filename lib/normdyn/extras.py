"""Packages that some tools need and the library does not: imported when they are used, named when they are missing."""

from importlib import import_module
from typing import Any

__all__ = ["need"]


def need(module: str, extra: str) -> Any:
    """An optional package's module.

    Args:
        module: Its full name.
        extra: The extra of this library that installs it.

    Raises:
        ImportError: It is not installed; the message says how to install it.

    Source: ours.

    Example:
        >>> need("json", "plots").dumps([1, 2])
        '[1, 2]'
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"this needs {package}, which is not installed: pip install normdyn[{extra}]") from error

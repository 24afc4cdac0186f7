"""What a book says of itself to its machinery: the table ``[tool.claimbook]`` of its ``pyproject.toml``."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Names of packages and modules, never of theorems.

    Args:
        package: Below ``lib/``, with a folder a paper and a module a chapter: what decides the claims.
        library: The packages whose functions probes trace and bend, beside ``package``.
        common: Modules that both sides of a claim may use: networks, data, losses.
        training: Modules or functions that train networks.
        checked: Function -> the claim or test that checks it; it may stand on both sides of another claim.
        minutes: Profile -> how long one chapter may take.
    """

    package: str = ""
    library: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    checked: dict[str, str] = field(default_factory=dict)
    minutes: dict[str, float] = field(default_factory=lambda: {"quick": 15.0, "paper": 1440.0})


def read_settings(root: Path) -> Settings:
    """The settings of the book below ``root``; without a table, those of a book that has no package of claims.

    Raises:
        ValueError: a name is not known.
    """
    path = root / "pyproject.toml"
    table: dict[str, Any] = {}
    if path.is_file():
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("claimbook", {})
    unknown = table.keys() - Settings.__dataclass_fields__.keys()
    if unknown:
        known = ", ".join(Settings.__dataclass_fields__)
        raise ValueError(f"pyproject.toml: [tool.claimbook] has {', '.join(sorted(unknown))}; choose among {known}")
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
    return Settings(**given)

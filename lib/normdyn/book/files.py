"""Writing files so that they are whole or absent, and untouched when nothing changed."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write to a temporary name in the same folder and rename: nobody ever sees half a file."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def write_if_changed(path: Path, content: str | bytes) -> Path:
    """Write unless the file says so already; Sphinx re-reads what has a new time stamp, and only that."""
    data = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, data)
    return path


def to_json(value: Any) -> str:
    """JSON as it is stored: sorted, indented, with a final newline."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=True) + "\n"


def digest(*parts: str | bytes) -> str:
    """Hash of a sequence of texts, each preceded by its length, so that no two sequences share one.

    Example:
        >>> digest("ab", "c") == digest("a", "bc")
        False
    """
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def tree_digest(folder: Path) -> str:
    """Hash of every file below a folder: names and contents."""
    parts: list[str | bytes] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts += [str(path.relative_to(folder)), path.read_bytes()]
    return digest(*parts)

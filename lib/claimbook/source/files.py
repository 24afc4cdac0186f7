"""Writing files so that they are whole or absent, and untouched when nothing changed."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

# What a machine refuses, and what to do about it. Any other OSError is a mistake of ours and keeps its traceback.
REFUSALS = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENOMEM: "run fewer chapters at once (JOBS=1)",
    errno.EROFS: "write to a folder that is not read-only",
    errno.EACCES: "see who may write there",
    errno.EPERM: "see who may write there",
    errno.EIO: "see whether the disk is sound",
}


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write to a temporary name in the same folder and rename: nobody ever sees half a file.

    Raises:
        OSError: it cannot be written; the error names the path.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def refusal(error: OSError) -> str | None:
    """What the machine refused and what to do, in a line; None for an error of another kind.

    Example:
        >>> refusal(OSError(errno.ENOSPC, "No space left on device", "one.ipynb"))
        'one.ipynb: No space left on device; make room on the disk and run it again; what is finished is kept'
    """
    number, what, where = error.errno, error.strerror, error.filename
    if isinstance(error, shutil.Error):  # of a tree that was copied: a list of source, target, text
        _, where, text = error.args[0][0]
        number = next((n for n in REFUSALS if f"[Errno {n}]" in text), None)
        what = os.strerror(number) if number else text
    if number not in REFUSALS:
        return None
    return f"{where or 'a file'}: {what}; {REFUSALS[number]} and run it again; what is finished is kept"


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

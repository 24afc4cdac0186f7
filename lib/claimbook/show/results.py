"""Stored results of studies too slow for a page: arrays with where they come from, in one compressed file each.

A file ``data/results/<profile>/<name>.npz`` holds the arrays of one run and a text with its provenance: setup, seeds,
versions, device, seconds, hash of the data and *code key*, the hash of the sources that computed it. A page names the
file by its path, which makes the file part of the page's key: a changed result executes the page again::

    stored, origin = results.load("data/results/paper/relu-cnn.npz")
    print(origin.summary())
"""

import dataclasses
import hashlib
import importlib.util
import io
import json
import os
import platform
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parents[3]
PROFILES = ("quick", "paper")
ENTRY = "provenance"  # the array's name under which the text lies in the file


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a stored result comes from.

    Args:
        name, profile: The file is ``data/results/<profile>/<name>.npz``.
        setup: Every choice of the run, by name.
        seeds: One number or several.
        versions: Of Python, NumPy and torch.
        device: In words, such as ``cpu``.
        seconds: Of wall clock.
        data_sha256: Hash of the data that was read, and of nothing else.
        sources: Modules whose source computed the result.
        code_key: :func:`code_key` of ``sources`` at the time of the run.
    """

    name: str
    profile: str
    setup: dict[str, Any]
    seeds: list[int]
    versions: dict[str, str]
    device: str
    seconds: float
    data_sha256: str
    sources: list[str]
    code_key: str

    @property
    def is_current(self) -> bool:
        """Whether the modules that computed the result still read as they did."""
        try:
            return code_key(self.sources) == self.code_key
        except ValueError:  # a module is gone
            return False

    def summary(self) -> str:
        """One sentence for a page.

        Example:
            >>> made = Provenance("x", "paper", {}, [0], {"torch": "2.13.0"}, "cpu", 75.0, "", ["claimbook.show"], "")
            >>> made.summary()
            'Stored result x (paper profile): seed 0, computed in 75 s on cpu with torch 2.13.0, by older code.'
        """
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        time = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        code = "the code as it is now" if self.is_current else "older code"
        return (
            f"Stored result {self.name} ({self.profile} profile): {seeds}, computed in {time} on {self.device} "
            f"with torch {self.versions['torch']}, by {code}."
        )


def save(
    result: Mapping[str, Any],
    name: str,
    *,
    setup: Any,
    seeds: int | Sequence[int],
    seconds: float,
    device: str,
    data_sha256: str,
    sources: Sequence[str | ModuleType] = (),
    key: str | None = None,
    profile: str = "paper",
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Write arrays and their provenance as one compressed file, whole or not at all; returns its path.

    Args:
        result: Arrays or tensors by name; tensors are copied to the CPU. Objects are refused.
        name: Of the file, lower case with dashes.
        setup: A dataclass or a dictionary with every choice of the run.
        seeds, seconds, device, data_sha256, sources: See :class:`Provenance`; name every module of the library whose
            code decides the numbers.
        key: The :func:`code_key` of the sources when a long run began; that of now unless given.
        folder: Where ``<profile>/<name>.npz`` goes, instead of the book's ``data/results``.

    Raises:
        ValueError: A name, an array or the profile cannot be stored; the message says what to do.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save({"loss": torch.ones(3)}, "toy", setup={"steps": 3}, seeds=0, seconds=0.1, device="cpu",
        ...                 data_sha256="0" * 64, sources=["claimbook.show.checks"], folder=folder)
        ...     arrays, origin = load("toy", "paper", folder=folder)
        >>> arrays["loss"].tolist(), origin.setup, origin.is_current
        ([1.0, 1.0, 1.0], {'steps': 3}, True)
    """
    _check(name, profile)
    arrays = {key: _array(key, value) for key, value in result.items()}
    names = [source if isinstance(source, str) else source.__name__ for source in sources]
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    plain = dataclasses.is_dataclass(setup) and not isinstance(setup, type)
    settings = dataclasses.asdict(setup) if plain else dict(setup)
    origin = Provenance(
        name, profile, settings, [seeds] if isinstance(seeds, int) else list(seeds), versions, str(device),
        float(seconds), data_sha256, names, key or code_key(names),
    )  # fmt: skip
    text = json.dumps(dataclasses.asdict(origin), sort_keys=True)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays, **{ENTRY: np.array(text)})
    return _write(_folder(folder) / profile / f"{name}.npz", stream.getvalue())


def load(
    name: str, profile: str | None = None, *, folder: str | os.PathLike[str] | None = None
) -> tuple[dict[str, Tensor], Provenance]:
    """The arrays of a stored result, as tensors, and its :class:`Provenance`.

    Args:
        name: On a page the path, ``"data/results/paper/<name>.npz"``, so that the page's key covers the file; elsewhere
            a name will do, with its ``profile``.
        folder: Instead of the book's ``data/results``.

    Raises:
        FileNotFoundError: No such result is stored; the message lists those that are.
        ValueError: The file is damaged, or is no stored result, or the name cannot be one.
    """
    path = locate(name, profile, folder=folder)
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.npz"))
        raise FileNotFoundError(f"no stored result {path.stem!r} in profile {path.parent.name!r}, there is: {there}")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        origin = Provenance(**json.loads(str(arrays.pop(ENTRY))))
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as problem:
        raise ValueError(f"{path.name} is damaged or was not written by save(): run its study again") from problem
    return {key: torch.from_numpy(array) for key, array in arrays.items()}, origin


def stored(name: str, profile: str | None = None, *, folder: str | os.PathLike[str] | None = None) -> bool:
    """Whether there is such a result; arguments as in :func:`load`."""
    return locate(name, profile, folder=folder).is_file()


def locate(name: str, profile: str | None = None, *, folder: str | os.PathLike[str] | None = None) -> Path:
    """The file of a result, whether it is there or not; arguments as in :func:`load`."""
    if profile is None:
        match = re.fullmatch(r"data/results/([\w-]+)/([\w.-]+)\.npz", name)
        if not match:
            raise ValueError(f"name={name!r} without profile: give profile=, or the path data/results/PROFILE/NAME.npz")
        profile, name = match.groups()
    _check(name, profile)
    return _folder(folder) / profile / f"{name}.npz"


def code_key(sources: Sequence[str | ModuleType]) -> str:
    """sha256 over the names and the sources of modules, in order of their names; nothing is imported for it.

    Raises:
        ValueError: A module is not there or has no source.
    """
    total = hashlib.sha256()
    for name in sorted({source if isinstance(source, str) else source.__name__ for source in sources}):
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            spec = None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ValueError(f"sources names {name!r}, which is no Python module with a source: give its full name")
        content = Path(spec.origin).read_bytes()
        total.update(f"{name} {len(content)}\n".encode() + content)
    return total.hexdigest()


def _check(name: str, profile: str) -> None:
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} is unknown, choose among {', '.join(PROFILES)}")
    if not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", name):
        raise ValueError(f"name={name!r} is not allowed: use lower-case letters and digits, with dashes between")


def _array(key: str, value: Any) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if key == ENTRY or not key.isidentifier():
        raise ValueError(f"result has the key {key!r}: use a Python name other than {ENTRY!r}")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"result[{key!r}] has dtype {array.dtype}: store numbers or truth values")
    return array


def _folder(folder: str | os.PathLike[str] | None) -> Path:
    return ROOT.joinpath("data", "results") if folder is None else Path(folder)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        text = f"{error.strerror or error}; make room, or choose another folder, and save again"
        raise OSError(error.errno, text, str(path)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path

"""Which functions a side reaches, and the same claim with one of them bent."""

import contextlib
import dataclasses
import functools
import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from claimbook.evidence.case import shared

SHARED = f"{shared.__name__}.<locals>.call"  # the frame inside which a shared run is computed
BEND = 0.01


@dataclasses.dataclass(frozen=True)
class Reached:
    """Functions as ``module:name``: those that were called directly, and those inside shared runs."""

    direct: frozenset[str]
    inside: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        return self.direct | self.inside


def reached(act: Callable[[], Any], packages: Sequence[str]) -> Reached:
    """The functions of some packages that are called while ``act`` runs."""
    prefixes = tuple(f"{package}." for package in packages)
    direct, inside, depth = set[str](), set[str](), 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal depth
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code.co_qualname == SHARED:
            depth += 1 if event == "call" else -1
        module = frame.f_globals.get("__name__", "")
        if event == "call" and f"{module}.".startswith(prefixes) and "<" not in code.co_qualname:
            (inside if depth else direct).add(f"{module}:{code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(before)
    return Reached(frozenset(direct), frozenset(inside))


@contextlib.contextmanager
def bent(function: str, packages: Sequence[str]) -> Iterator[None]:
    """Within it every number that a function returns is wrong by up to 1 %, each entry by its own share.

    It is replaced wherever a module of the packages holds it: by name, in a class, or as a default argument.

    Raises:
        LookupError: it is not a function that can be found again under its name.
    """
    module, _, name = function.partition(":")
    holder: Any = sys.modules[module]
    *path, last = name.split(".")
    for step in path:
        holder = getattr(holder, step, None)
    original = inspect.getattr_static(holder, last, None) if holder is not None else None
    if isinstance(original, (staticmethod, classmethod, property)) or not callable(original):
        raise LookupError(f"{function} cannot be replaced")
    wrong = _bending(original)
    undo = _replace(holder, last, original, wrong) + _elsewhere(original, wrong, packages)
    try:
        yield
    finally:
        for restore in reversed(undo):
            restore()


def _replace(holder: Any, name: str, original: Any, wrong: Any) -> list[Callable[[], None]]:
    setattr(holder, name, wrong)
    return [lambda: setattr(holder, name, original)]


def _elsewhere(original: Any, wrong: Any, packages: Sequence[str]) -> list[Callable[[], None]]:
    """Replace a function where modules imported it by name, and where functions hold it as a default."""
    prefixes, undo = tuple(f"{package}." for package in packages), []
    for module in [m for name, m in list(sys.modules.items()) if f"{name}.".startswith(prefixes)]:
        for name, value in list(vars(module).items()):
            if value is original:
                undo += _replace(module, name, original, wrong)
            plain = getattr(value, "function", value)
            defaults = getattr(plain, "__defaults__", None)
            if inspect.isfunction(plain) and defaults and any(default is original for default in defaults):
                changed = tuple(wrong if default is original else default for default in defaults)
                undo += _replace(plain, "__defaults__", defaults, changed)
    return undo


def _bending(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrong(*args: Any, **kwargs: Any) -> Any:
        return _wrong(function(*args, **kwargs))

    return wrong


def _wrong(value: Any) -> Any:
    """A value with every number in it bent, the same way each time; functions give bent values."""
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            return value
        signs = torch.rand(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return value * (1 + BEND * (2 * signs - 1).sign() * (0.5 + signs)).to(value)
    if isinstance(value, float):
        return value * (1 + BEND)
    if isinstance(value, dict):
        return type(value)({key: _wrong(entry) for key, entry in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_wrong, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_wrong, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        with contextlib.suppress(Exception):  # a class that checks its fields may refuse bent ones
            return dataclasses.replace(
                value, **{f.name: _wrong(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
            )
        return value
    if inspect.isfunction(value):
        return _bending(value)
    return value


@contextlib.contextmanager
def at_most_seconds(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread when the time is over."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"not finished after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

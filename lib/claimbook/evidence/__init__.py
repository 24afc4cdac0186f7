"""Evidence that cannot cheat: a claim is a function whose sides know nothing of each other, and a word by rule.

- :mod:`.case`: what a run may depend on, and runs that several claims share;
- :mod:`.kinds`: equality, inequality, tendency, limit and counterexample, each computing its own residual;
- :mod:`.claims`: the function with its id on the door, its control and the other worlds it is tried in;
- :mod:`.words`: the verdict, a function of the numbers alone;
- :mod:`.cards`: how a notebook and the site show it;
- :mod:`.probes`: what a verdict is worth.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from claimbook.evidence.case import Case, shared
    from claimbook.evidence.claims import ControlError, claim, decide
    from claimbook.evidence.kinds import Unfinished, at_most, counterexample, equal, limit, tendency, together

__all__ = [
    "Case",
    "ControlError",
    "Unfinished",
    "at_most",
    "claim",
    "counterexample",
    "decide",
    "equal",
    "limit",
    "shared",
    "tendency",
    "together",
]


def __getattr__(name: str) -> Any:
    """What decides claims needs torch; who only shows words and cards, as the site does, is spared its seconds."""
    if name in __all__:
        for module in ("case", "claims", "kinds"):
            found = import_module(f"claimbook.evidence.{module}")
            if name in vars(found):
                return vars(found)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

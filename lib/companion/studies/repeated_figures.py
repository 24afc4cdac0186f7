"""Figures 1b to 2b of paper A over three seeds, as long and with such choices that the effects of its text are seen.

What runs is :mod:`.layer_norms` and :mod:`.tanh_balance`; here stands with which choices. Each seed is kept as soon as
it is done, so that a study that was cut short goes on where it stopped.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from claimbook.show import results
from companion.studies import layer_norms, tanh_balance
from companion.studies.layer_norms import FIGURE_1B
from normdyn.data import sets as data

SEEDS = (0, 1, 2)
PIXELS = replace(FIGURE_1B, inputs="pixels", images=200, steps=400, every=100)
LARGE_STEP = replace(FIGURE_1B, images=1000, steps=300, every=20, learning_rate=0.2)
WIDE = tanh_balance.Setup(images=128, steps=3000, every=50)
STUDIES = {  # name of the file: what runs it, with which choices, and the images it is given
    "figure-1b-pixels": (layer_norms, PIXELS, "mnist"),
    "figure-1b-no-epsilon": (layer_norms, replace(PIXELS, epsilon=0.0), "mnist"),
    "figure-1b-large-step": (layer_norms, LARGE_STEP, "digits"),
    "figure-1d-seeds": (tanh_balance, replace(WIDE, loss="cross-entropy"), "digits"),
    "figure-1c-seeds": (tanh_balance, WIDE, "digits"),
}  # fmt: skip
SETS = {"mnist": lambda: data.mnist("test"), "digits": data.digits}


def store(name: str, *, seeds: Sequence[int] = SEEDS, parts="build/repeated-figures", folder=None, **changes) -> Path:
    """Run a study for each seed and store all, stacked along a first axis; seeds found in ``parts`` are not run."""
    study, setup, images = STUDIES[name]
    setup, found, origins = replace(setup, **changes), [], []
    for seed in seeds:
        one, file = replace(setup, seed=seed), f"{name}-{seed}"
        if not (results.stored(file, "paper", folder=parts) and _same(file, one, parts)):
            study.store(one, SETS[images](), file, folder=parts)
        result, origin = results.load(file, "paper", folder=parts)
        found.append(result)
        origins.append(origin)
    made = origins[0]
    return results.save(
        {key: torch.stack([run[key] for run in found]) for key in found[0]}, name, setup=setup, seeds=seeds,
        seconds=sum(origin.seconds for origin in origins), device=made.device, data_sha256=made.data_sha256,
        sources=made.sources, key=made.code_key, folder=folder,
    )  # fmt: skip


def load(name: str) -> tuple[list[dict[str, torch.Tensor]], results.Provenance]:
    """The runs of a stored study, one a seed."""
    stacked, origin = results.load(name, "paper")
    return [{key: values[k] for key, values in stacked.items()} for k in range(len(origin.seeds))], origin


def _same(file: str, setup, parts: str) -> bool:
    """Whether a part was made by the code as it is, with these choices."""
    _, origin = results.load(file, "paper", folder=parts)
    return origin.is_current and origin.setup == described(setup)


def described(setup) -> dict:
    """The choices of a run as a stored result has them."""
    return json.loads(json.dumps(asdict(setup)))


def main(names: Sequence[str]) -> None:
    """All studies, or those named: ``NORMDYN_DATA=... python -m companion.studies.repeated_figures [NAME ...]``."""
    torch.set_num_threads(1)
    for name in names or STUDIES:
        store(name)


if __name__ == "__main__":
    main(sys.argv[1:])

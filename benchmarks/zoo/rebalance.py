"""``data/zoo/rebalance.json``: which models come back rescaled, computing the same, and how fast, beside aimet-torch.

Both tools get the same model and sample. Outputs are compared at the model's own size of image, relative to the largest
of each returned tensor. Seconds are those that one processor spent on the tool alone, without verification, the better
of two.
"""

import contextlib
import copy
import gc
import io
import json
import logging
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.models import MODELS, made
from normdyn.rescaling.gauge import rebalance
from normdyn.rescaling.verification import largest_difference, outputs

PATH = Path(__file__).parents[2] / "data" / "zoo" / "rebalance.json"
BOUNDS = {"float64": 1e-12, "float32": 1e-5}


def timed(act: Callable[[nn.Module], Any], model: nn.Module, times: int = 2) -> tuple[Any, float]:
    """The result, and the least of the seconds it took on copies of the model."""
    least, result = float("inf"), None
    for _ in range(times):
        copied = copy.deepcopy(model)
        gc.collect()
        start = time.process_time()
        result = act(copied)
        least = min(least, time.process_time() - start)
    return result, least


def differs(before: nn.Module, after: nn.Module, sample: Tensor) -> float:
    """Largest relative difference of what two models return."""
    one, other = (outputs(model, (sample,), {}, training=False) for model in (before, after))
    return largest_difference(one, other)


def ours(model: nn.Module, sample: Tensor) -> dict:
    """The row of this library."""
    found, seconds = timed(lambda m: rebalance(m, inplace=True, sample=sample, verify=False), model)
    difference = {"float32": differs(model, found.model, sample)}
    double = copy.deepcopy(model).double()
    wide = sample.double() if sample.is_floating_point() else sample
    difference["float64"] = differs(double, rebalance(double, sample=wide, verify=False).model, wide)
    units = found.report.rescaled + found.report.kept
    reasons: dict[str, int] = {}
    for reason, count in found.report.reasons().items():
        short = reason.rpartition(": ")[2]
        reasons[short] = reasons.get(short, 0) + count
    norms = found.history["norm"]
    return {
        "outcome": "pass" if all(difference[key] <= bound for key, bound in BOUNDS.items()) else "differs",
        "rescaled": found.report.rescaled / units if units else 0.0,
        "units": units,
        "reasons": reasons,
        "notes": list(found.report.notes),
        "norm before": norms[0].item() if len(norms) else None,
        "norm after": norms[-1].item() if len(norms) else None,
        "passes": len(found.history["gap"]),
        "difference": difference,
        "seconds": seconds,
    }


def theirs(model: nn.Module, sample: Tensor) -> dict:
    """The row of aimet-torch."""
    from aimet_torch.cross_layer_equalization import equalize_model

    def equalize(model: nn.Module) -> nn.Module:
        equalize_model(model, dummy_input=sample)
        return model

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            after, seconds = timed(equalize, model)
            difference = differs(model, after.eval(), sample)
    except Exception as error:
        text = str(error).strip().split("\n")[0][:160]
        return {"outcome": f"{type(error).__name__}: {text}", "seconds": None, "difference": None}
    outcome = "pass" if difference <= 1e-4 else "differs"
    return {"outcome": outcome, "seconds": seconds, "difference": {"float32": difference}}


def reading(model: nn.Module) -> float:
    """Seconds to read all weights once, for their norms, which is the fastest way to do so: the least of five."""
    weights = [p.detach() for p in model.parameters()]
    act = lambda _: sum(weight.norm() for weight in weights)
    return timed(act, nn.Identity(), times=5)[1]


def row(name: str) -> dict:
    """Both tools on one model."""
    model, sample = made(name), MODELS[name].sample(batch=1)
    return {"normdyn": ours(model, sample), "aimet": theirs(model, sample), "seconds to read": reading(model)}


def main() -> None:
    """Write the table and print it."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rebalance(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))  # imports
    rows = {}
    for name in MODELS:
        rows[name] = row(name)
        mine, other = rows[name]["normdyn"], rows[name]["aimet"]
        times = "/".join("-" if s is None else f"{s:.2f}" for s in (mine["seconds"], other["seconds"]))
        readings = mine["seconds"] / rows[name]["seconds to read"]
        print(
            f"{name:16} {mine['outcome']:8} {mine['rescaled']:5.0%} {times:12} {readings:5.1f} readings "
            f"{other['outcome'][:70]}",
            flush=True,
        )
        versions = {each: version(each) for each in ("torch", "torchvision", "timm", "transformers", "aimet-torch")}
        table = {
            "machine": platform.processor() or platform.machine(),
            "threads": 1,
            "versions": versions,
            "rows": rows,
        }
        PATH.parent.mkdir(parents=True, exist_ok=True)
        PATH.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

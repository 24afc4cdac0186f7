"""Rounding after cross-layer equalisation by aimet-torch, and after ``rebalance``: ``data/zoo/quantisation.json``.

The networks are those of the how-to on quantisation, trained on digits here; the errors those of its page.
"""

import copy
import json
import time
from importlib.metadata import version
from pathlib import Path

import torch

from claimbook.evidence import Case
from companion.use import quantisation as example
from normdyn.data.sets import digits
from normdyn.rescaling.gauge import rebalance

PATH = Path(__file__).parents[2] / "data" / "zoo" / "quantisation.json"
BITS = (8, 6, 4)


def equalised(model: torch.nn.Module) -> torch.nn.Module:
    """A copy after aimet's equalisation."""
    from aimet_torch.cross_layer_equalization import equalize_model

    model = copy.deepcopy(model)
    equalize_model(model, dummy_input=digits(dtype=torch.float32).inputs[:2])
    return model


def at_least_norm(model: torch.nn.Module, p: float, q: float) -> torch.nn.Module:
    """A copy by ``rebalance``."""
    return rebalance(model, p, q, sample=digits(dtype=torch.float32).inputs[:2]).model


WAYS = {
    "as it is": (lambda model: model, False),
    "aimet-torch, equalised": (equalised, False),
    "rebalance, p = q = 2": (lambda model: at_least_norm(model, 2, 2), False),
    "rebalance, p = q = 8": (lambda model: at_least_norm(model, 8, 8), False),
    "a scale a channel": (lambda model: model, True),
}


def error(model: torch.nn.Module, exact: torch.Tensor, bits: int, per_channel: bool) -> float:
    """Relative error of the outputs after rounding."""
    rounded = example.outputs(example.quantised(model, bits, per_channel=per_channel))
    return ((rounded - exact).norm() / exact.norm()).item()


def table() -> list[dict]:
    """One row a network, a start and a way: errors in the geometric mean over seeds."""
    case, rows = Case(), []
    for name in example.KINDS:
        for start in ("trained", "scrambled"):
            models = example.written(case, name, start)
            exact = [example.outputs(model) for model in example.trained(case, name)]
            for way, (change, per_channel) in WAYS.items():
                began = time.process_time()
                changed = [change(model) for model in models]
                seconds = (time.process_time() - began) / len(models)
                moved = max(
                    ((example.outputs(m) - y).norm() / y.norm()).item() for m, y in zip(changed, exact, strict=True)
                )
                pairs = list(zip(changed, exact, strict=True))
                each = {b: torch.tensor([error(m, y, b, per_channel) for m, y in pairs]) for b in BITS}
                errors = {str(bits): values.log().mean().exp().item() for bits, values in each.items()}
                row = {"network": name, "start": start, "way": way}
                rows.append(row | {"errors": errors, "moved": moved, "seconds": seconds})
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    versions = {each: version(each) for each in ("torch", "aimet-torch")}
    PATH.write_text(json.dumps({"versions": versions, "rows": table()}, indent=1) + "\n", encoding="utf-8")

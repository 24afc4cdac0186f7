"""The measures on a convolutional network, a vision transformer and a language model: ``data/zoo/measures.json``.

Random weights, small inputs. A row is a model and a tool, with what it gave or why it gave nothing: collapse in
batches against all at once, products against those of curvlinops, eigenvalues by their residual.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normdyn.measures import collapse
from normdyn.measures.operators import HessianProduct, operator
from normdyn.measures.sharpness import adaptive_trace, sharpness

PATH = Path(__file__).parents[2] / "data" / "zoo" / "measures.json"


def models() -> dict[str, tuple[nn.Module, Any, Tensor, str]]:
    """Model, inputs, labels, and the name of its last layer."""
    import timm
    import torchvision
    import transformers

    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8) % 4
    words = torch.randint(0, 100, (8, 12))
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=4, depth=4)
    config = transformers.GPT2Config(vocab_size=100, n_positions=16, n_embd=32, n_layer=2, n_head=2, num_labels=4)
    config.pad_token_id = 0
    return {
        "torchvision ResNet18": (torchvision.models.resnet18(num_classes=4), images, labels, "fc"),
        "timm ViT-tiny": (vit, images, labels, "head"),
        "GPT-2, two layers": (transformers.GPT2ForSequenceClassification(config), words, labels, "score"),
    }


def logits(outputs: Any) -> Tensor:
    """What the loss needs of a model's outputs."""
    return getattr(outputs, "logits", outputs)


def loss(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits(outputs), targets)


def measure_collapse(model: nn.Module, inputs: Any, labels: Tensor, last: str) -> str:
    """Features by a hook, in batches and at once, in half precision too."""
    caught: list[Tensor] = []
    layer = model.get_submodule(last)
    hook = layer.register_forward_hook(lambda module, args, output: caught.append(args[0].detach()))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    features = caught[0] if caught[0].ndim == 2 else caught[0][:, -1]
    weight = layer.weight.detach()
    whole, accumulator = collapse.neural_collapse(features, labels, weight), collapse.Accumulator()
    for h, y in zip(features.split(4), labels.split(4), strict=True):
        accumulator.update(h, y)
    streamed = accumulator.result(weight)
    gap = max(abs(streamed[name] / whole[name] - 1).item() for name in streamed)
    half = collapse.neural_collapse(features.half(), labels, weight.half())
    assert gap < 1e-3, gap
    assert all(value.isfinite() for value in half.values())
    return f"NC1 {whole['variability'].item():.3g}; batches agree to {gap:.0e}"


def measure_operator(model: nn.Module, inputs: Any, labels: Tensor, last: str) -> str:
    """A product of curvlinops' operator with one of ours, in float64."""
    wrapped = Logits(copy.deepcopy(model).double())
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    ours = HessianProduct(wrapped, F.cross_entropy, [(inputs, labels)])
    vector = torch.randn(len(ours.gradient), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = operator(wrapped, nn.CrossEntropyLoss(), [(inputs, labels)], kind="hessian", check_deterministic=False)
    other, own = matrix @ vector, ours(vector)
    gap = ((other - own).norm() / own.norm()).item()
    assert gap < 1e-9, gap
    return f"{len(vector)} parameters; product agrees with differentiating twice to {gap:.0e}"


def measure_sharpness(model: nn.Module, inputs: Any, labels: Tensor, last: str) -> str:
    """The largest eigenvalue, with its residual."""
    found = sharpness(model, loss, [(inputs, labels)], tolerance=1e-2)
    assert found.residual < 0.1, found.residual
    return f"{found.value:.3g}, residual {found.residual:.0e}, {found.products} products"


def measure_adaptive(model: nn.Module, inputs: Any, labels: Tensor, last: str) -> str:
    """The invariant trace, finite with its error."""
    found = adaptive_trace(model, loss, [(inputs, labels)], probes=4)
    assert math.isfinite(found.value)
    return f"{found.value:.3g} ± {found.error:.1g}"


class Logits(nn.Module):
    """A model that returns its logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, inputs: Any) -> Tensor:
        return logits(self.model(inputs))


TOOLS: dict[str, Callable[[nn.Module, Any, Tensor, str], str]] = {
    "neural_collapse, Accumulator": measure_collapse,
    "operator (curvlinops)": measure_operator,
    "sharpness": measure_sharpness,
    "adaptive_trace": measure_adaptive,
}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, (model, inputs, labels, last) in models().items():
        for tool, act in TOOLS.items():
            start = time.perf_counter()
            try:
                row = {"passed": True, "note": act(model.eval(), inputs, labels, last)}
            except Exception as error:  # the table is to say it
                row = {"passed": False, "note": f"{type(error).__name__}: {error}".splitlines()[0]}
            rows.append({"model": name, "tool": tool} | row | {"seconds": round(time.perf_counter() - start, 1)})
            print(rows[-1], flush=True)
    packages = {
        name: version(name) for name in ("torch", "torchvision", "timm", "transformers", "curvlinops-for-pytorch")
    }
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps({"versions": packages, "rows": rows}, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()

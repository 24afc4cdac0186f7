"""Figures 1 to 12 of paper B on two classes of CIFAR-10, small enough for a CPU; the result is stored.

The captions contradict one another; what differs in substance is run: with decay and without, fully connected and
convolutional, with normalisation and without, and where the printed step diverges a smaller one as well. Networks are
narrow and the images few (512); epochs, batch, momentum, decay, initial norms and the other steps are the paper's.
"""

import dataclasses
import hashlib
import sys
import time

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from claimbook.show import results
from companion.studies import square_loss
from companion.studies.square_loss import Setup, equilibrium_ratio, norm_products, two_classes
from companion.studies.stacks import Device, in_words
from normdyn.data import sets as data

SOURCES = ("companion.studies.square_loss_figures", "companion.studies.square_loss", "companion.studies.stacks")
CLASSES = ("airplane", "automobile")
LEVELS = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def experiments(*, width: int = 64, channels: int = 12, **changes) -> dict[str, Setup]:
    """The setups by name; ``changes`` replace fields in all of them."""
    decay = Setup(scales=(0.1, 1.0, 5.0), decays=(0.01, 0.0), width=width)
    conv = Setup(scales=(0.1, 5.0), decays=(0.0,), width=channels, convolutional=True, learning_rate=0.01)
    bare = Setup(scales=(5.0, 15.0, 30.0), decays=(0.0,), width=width, batch_norm=False)
    plans = {"figures_1_to_5": decay, "figures_6_to_9": conv, "figures_10_to_12": bare}
    plans["small_steps"] = dataclasses.replace(bare, scales=(15.0,), learning_rate=1e-3)
    plans["smaller_steps"] = dataclasses.replace(bare, scales=(30.0,), learning_rate=3e-5)
    return {name: dataclasses.replace(setup, **changes) for name, setup in plans.items()}


def summary(result: dict[str, Tensor], labels: Float[Tensor, " n"]) -> dict[str, Tensor]:
    """What the figures need, without the outputs of every sample.

    Returns:
        ``(records, scales, decays, seeds)``: ``loss``, ``test_error``, ``rho`` and ``rho_folded`` (products of norms),
        ``ratio`` of sum y g to sum g^2; with a last dimension for :data:`LEVELS`, ``margins``, quantiles of ``y g``;
        and ``epochs``.
    """
    products = norm_products(result)
    levels = torch.tensor(LEVELS, dtype=result["outputs"].dtype)
    margins = (result["outputs"] * labels).nanquantile(levels, dim=-1).movedim(0, -1)
    kept = {"loss": result["train_loss"], "test_error": result["test_error"], "epochs": result["epochs"]}
    kept |= {"rho": products["all"], "rho_folded": products["folded"], "margins": margins}
    return kept | {"ratio": equilibrium_ratio(result["outputs"], labels)}


def pairs(samples: int) -> tuple[tuple, tuple, dict[str, str]]:
    """Training images of the two classes, the test images of the same, and the digests of the files."""
    splits = [data.select_classes(data.cifar10(split, dtype=torch.float32), CLASSES) for split in ("train", "test")]
    train, _ = two_classes(splits[0], samples=samples, seed=0, dtype=torch.float32)
    test, rest = two_classes(splits[1], samples=len(splits[1].inputs) - 1, seed=0, dtype=torch.float32)
    digests = {file: digest for part in splits for file, digest in part.provenance["files"].items()}
    return train, tuple(torch.cat(pair) for pair in zip(test, rest, strict=True)), digests


def store(
    name: str = "square-loss-figures", *, samples: int = 512, device: Device = "cpu", folder=None, **changes
) -> None:
    """Run all experiments and store their curves: ``NORMDYN_DATA=... python -m`` this module, and the device."""
    clock, key = time.perf_counter(), results.code_key(SOURCES)
    train, test, digests = pairs(samples)
    plans, stored = experiments(**changes), {}
    for title, setup in tqdm(plans.items()):
        shaped = (lambda x: x) if setup.convolutional else (lambda x: x.flatten(1))
        result = square_loss.run(setup, (shaped(train[0]), train[1]), (shaped(test[0]), test[1]), device=device)
        stored |= {f"{title}__{quantity}": value for quantity, value in summary(result, train[1]).items()}
    files = "".join(f"{file} {digest}\n" for file, digest in sorted(digests.items()))
    results.save(
        stored, name, setup={title: dataclasses.asdict(plan) | {"samples": samples} for title, plan in plans.items()},
        seeds=list(Setup.seeds), seconds=time.perf_counter() - clock, device=in_words(device),
        data_sha256=hashlib.sha256(files.encode()).hexdigest(), sources=SOURCES, key=key, folder=folder,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    store(device=next(iter(sys.argv[1:]), "cpu"))

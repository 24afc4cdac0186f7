"""Running a model without numbers on an input that it accepts, given or made.

Source: ours.
"""

from typing import Any

from torch import nn

from normdyn.networks.modules import UnsupportedModel
from normdyn.networks.samples import arguments, samples
from normdyn.networks.traced import Trace, Untraceable
from normdyn.rescaling.verification import one_line, outputs

__all__ = ["check_finite", "follow", "runs", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of wrappers that run it elsewhere or otherwise: parallel, compiled.

    Source: elementary.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model.get_submodule("_orig_mod")
        else:
            return model


def check_finite(model: nn.Module) -> None:
    """Refuse biases and gains that are not finite; matrices are looked at when their sizes are.

    Raises:
        UnsupportedModel: One is not.

    Source: elementary.
    """
    for name, value in model.named_parameters():
        if value.ndim < 2 and not value.isfinite().all():
            raise UnsupportedModel(f"{name} holds a value that is not finite")


def follow(model: nn.Module, sample: Any) -> tuple[Trace, tuple, dict]:
    """Run a model without numbers, in both modes, on a sample or on the first made one that it accepts.

    Raises:
        Untraceable: It accepts none, or its way depends on values everywhere.

    Source: ours.
    """
    first: Exception | None = None
    half: tuple[Trace, tuple, dict] | None = None
    for lenient in (False, True):
        for tried, candidate in enumerate([sample] if sample is not None else samples(model)):
            if lenient and sample is None and not runs(model, candidate):
                continue
            if half is not None and tried > 12:
                break
            args, kwargs = arguments(candidate)
            try:
                trace = Trace(model)
                trace.lenient = lenient
                trace.model.eval()
                trace.run(args, kwargs)
            except Exception as error:
                first = first or error
                continue
            try:
                trace.model.train()
                trace.run(args, kwargs)
            except Exception as error:  # perhaps another size does for both modes
                trace.notes.append(f"only the evaluation mode was seen; training mode: {one_line(error)}")
                half = half or (trace, args, kwargs)
                continue
            trace.close()
            return trace, args, kwargs
        if half is not None:
            half[0].close()
            return half
    where = "the sample" if sample is not None else "no sample that could be made; give one by sample="
    raise Untraceable(f"on {where}: {one_line(first)}") from first


def runs(model: nn.Module, sample: Any) -> bool:
    """Whether a model accepts a sample.

    Source: elementary.
    """
    args, kwargs = arguments(sample)
    try:
        outputs(model, args, kwargs, training=False)
    except Exception:
        return False
    return True

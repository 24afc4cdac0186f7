r"""The weight decay of an optimiser's group, as a rate per unit of time, learning rate times steps.

Coupled decay adds ``weight_decay * W`` to the gradient, decoupled decay multiplies ``W`` by ``1 - learning_rate *
weight_decay``: to first order both are ``-2 weight_decay |W|^2``. Some optimisers scale theirs otherwise, which is
found by the names of their options, those of timm and of AdaBelief.

Source: Loshchilov and Hutter 2019 (decoupled decay); Zhuang et al. 2020 (``fixed_decay``); Chou 2024 (corrected decay).
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["decay_rate"]


def decay_rate(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> float:
    """``delta`` in the decay term ``-2 delta |W|^2`` of the squared norm's rate.

    Args:
        group: One of an optimiser's ``param_groups``, with its learning rate of this step.
        defaults: The optimiser's ``defaults``; they hold the largest learning rate where the group does not.

    Returns:
        ``weight_decay``; divided by the learning rate where decay does not scale with it (``fixed_decay``,
        ``unscaled_wd``), 0 there at learning rate 0; times learning rate over its largest value where it scales with
        the square (``corrected_weight_decay``).

    Example:
        >>> decay_rate({"lr": 0.5, "weight_decay": 0.01, "fixed_decay": True}, {})
        0.02
        >>> decay_rate({"lr": 0.1, "weight_decay": 0.01, "corrected_weight_decay": True}, {"lr": 0.4})
        0.0025
    """
    rate, decay = float(group["lr"]), float(group.get("weight_decay") or 0.0)
    decoupled = group.get("decoupled_decay", group.get("weight_decouple", group.get("decoupled", True)))
    if not decay or not decoupled:
        return decay
    if group.get("corrected_weight_decay"):
        decay *= rate / float(group.get("max_lr_snapshot") or defaults["lr"])
    if group.get("fixed_decay") or group.get("unscaled_wd"):
        return decay / rate if rate else 0.0
    return decay

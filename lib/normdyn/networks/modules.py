"""PyTorch modules as rescaling problems: which layers carry weights, and whether all between them is homogeneous.

A unit is an output of a Linear layer or an output channel of a convolution. Rescaling multiplies its incoming weights
and its bias, and divides what leaves it.

Source: ours; it brings Saul's rescaling, eqs. (6), (7), to PyTorch's modules.
"""

import operator
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from normdyn.shapes import Float

__all__ = [
    "CONVOLUTIONS",
    "DROPOUTS",
    "HOMOGENEOUS",
    "HOMOGENEOUS_FUNCTIONS",
    "POOLING",
    "POOLING_FUNCTIONS",
    "Layer",
    "UnsupportedModel",
    "kernel_norms",
    "weighted_layers",
]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Identity, *DROPOUTS)
POOLING = tuple(
    getattr(nn, f"{kind}Pool{d}d") for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for d in (1, 2, 3)
)
HOMOGENEOUS_FUNCTIONS = (F.relu, F.relu_, torch.relu, F.leaky_relu, F.dropout)
POOLING_FUNCTIONS = tuple(
    getattr(F, f"{kind}_pool{d}d") for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for d in (1, 2, 3)
) + (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)  # fmt: skip


class UnsupportedModel(ValueError):
    """A model that cannot be rescaled without changing its function, with the layer's name and the reason."""


class Layer(NamedTuple):
    """A layer with weights.

    Attributes:
        name: Its dotted name in the model.
        module: Linear or convolution.
        features: Input features for each unit of the layer before: more than one after a Flatten.
    """

    name: str
    module: Any  # an nn.Module with a weight and perhaps a bias: torch types these as Tensor | Module
    features: int

    @property
    def units(self) -> int:
        """Output features, or output channels."""
        return self.module.weight.shape[0]

    def magnitudes(self, p: float) -> Float[Tensor, "o i"]:
        r"""For each pair of units the norm :math:`(\sum |w|^p)^{1/p}` of the weights between them."""
        W = self.module.weight.detach()
        if W.ndim == 2 and self.features == 1:
            return W
        kernels = W.reshape(W.shape[0], -1, self.features) if W.ndim == 2 else W.flatten(2)
        norms = kernel_norms(kernels, p)
        groups = getattr(self.module, "groups", 1)
        if groups == 1:
            return norms
        return torch.block_diag(*norms.chunk(groups))

    def rescaled(
        self, log_target: Float[Tensor, " o"], log_source: Float[Tensor, " i"]
    ) -> tuple[Tensor, Tensor | None]:
        """Weight and bias after rescaling, in their own precision."""
        W, b = self.module.weight.detach(), self.module.bias
        groups = getattr(self.module, "groups", 1)
        source = log_source.repeat_interleave(self.features).reshape(groups, -1)
        log_factor = log_target.reshape(groups, -1, 1) - source[:, None]
        factor = log_factor.exp().reshape(W.shape[0], W.shape[1], *[1] * (W.ndim - 2))
        weight = (W.to(torch.float64) * factor).to(W.dtype)
        return weight, None if b is None else (b.detach().to(torch.float64) * log_target.exp()).to(b.dtype)


def kernel_norms(kernels: Float[Tensor, "o i k"], p: float) -> Float[Tensor, "o i"]:
    """Norms over the last axis, in units of the largest entry so that no power over- or underflows."""
    largest = kernels.abs().amax(-1).to(torch.float64)
    unit = torch.where(largest > 0, largest, 1.0)
    return largest * (kernels / unit[..., None]).abs().pow(p).sum(-1).pow(1 / p)


def weighted_layers(model: nn.Module) -> list[Layer]:
    """The layers with weights from input to output, after a check that all between them is homogeneous.

    Before the first and after the last layer with weights anything without parameters is allowed, since inputs and
    outputs are not rescaled.

    Raises:
        UnsupportedModel: The model branches, uses weights twice, normalises, or holds an operation between two layers
            that is not positively homogeneous or not known to be.
    """
    if fx.Tracer().is_leaf_module(model, ""):
        model = nn.Sequential(OrderedDict([(type(model).__name__, model)]))
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:
        raise UnsupportedModel(f"{type(model).__name__} cannot be traced by torch.fx: {error}") from error
    modules = dict(model.named_modules())
    layers: list[Layer] = []
    pending, flattened, value = None, False, None
    for node in graph.nodes:
        if node.op == "output" or _is_shape(node):
            continue
        name = _name(node)
        if node.op == "placeholder":
            if value is not None:
                raise UnsupportedModel(f"{name}: a second input; only networks with one input can be rebalanced")
            value = node
            continue
        if node.op == "get_attr":
            raise UnsupportedModel(f"{name}: a parameter used outside of a Linear or convolution layer")
        inputs = [argument for argument in node.all_input_nodes if not _is_shape(argument)]
        if inputs != [value]:
            raise UnsupportedModel(
                f"{name}: joins branches (a skip connection?); only chains of layers can be rebalanced"
            )
        value = node
        module = modules[node.target] if node.op == "call_module" else None
        if module is not None:
            _check_plain(name, module)
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            if pending is not None:
                raise UnsupportedModel(pending)
            layers.append(Layer(name, module, _features(name, module, layers[-1] if layers else None, flattened)))
            flattened = False
        elif _is_flatten(node, module):
            flattened = True
        elif layers and pending is None:
            pending = _objection(name, node, module, layers[-1])
    if not layers:
        raise UnsupportedModel(f"{type(model).__name__} has no Linear or convolution layer: nothing to rebalance")
    _check_untied(layers)
    return layers


def _objection(name: str, node: fx.Node, module: nn.Module | None, before: Layer) -> str | None:
    """Why no layer with weights may follow this operation, or None."""
    if isinstance(module, HOMOGENEOUS) or node.target in HOMOGENEOUS_FUNCTIONS or node.target in ("relu", "contiguous"):
        return None
    if isinstance(module, POOLING) or node.target in POOLING_FUNCTIONS:
        if isinstance(before.module, nn.Linear):
            return f"{name}: pools over the units of {before.name}, which then cannot be rescaled one by one"
        return None
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    return f"{name}: {what} is not known to be positively homogeneous, g(a x) = a g(x); ReLU, LeakyReLU and pooling are"


def _check_plain(name: str, module: nn.Module) -> None:
    weighted = isinstance(module, (nn.Linear, *CONVOLUTIONS))
    if "Norm" in type(module).__name__:
        raise UnsupportedModel(
            f"{name}: {type(module).__name__} normalises, so that rescaling its input changes nothing"
        )
    if is_parametrized(module) or module._forward_pre_hooks or module._forward_hooks:
        raise UnsupportedModel(f"{name}: {type(module).__name__} has a parametrization or a hook; remove it first")
    if not weighted and not isinstance(module, nn.PReLU) and next(module.parameters(), None) is not None:
        raise UnsupportedModel(
            f"{name}: {type(module).__name__} has parameters that rebalancing does not know how to rescale"
        )
    for kind, value in module.named_parameters():
        if not value.dtype.is_floating_point:
            raise UnsupportedModel(f"{name}.{kind}: weights must be real floating-point numbers, got {value.dtype}")
        if not value.isfinite().all():
            raise UnsupportedModel(f"{name}.{kind} holds a value that is not finite")


def _features(name: str, module: Any, before: Layer | None, flattened: bool) -> int:
    """Input features of a layer for each unit of the layer before it."""
    if before is None:
        return 1
    linear = isinstance(module, nn.Linear)
    width = module.in_features if linear else module.in_channels
    if linear == isinstance(before.module, nn.Linear) and width == before.units:
        return 1
    if linear and flattened and not isinstance(before.module, nn.Linear) and width % before.units == 0:
        return width // before.units
    raise UnsupportedModel(
        f"{name}: takes {width} features, {before.name} has {before.units} units, and it is unclear which unit feeds "
        "which feature; a Linear layer after a convolution needs a Flatten between them"
    )


def _check_untied(layers: list[Layer]) -> None:
    owners: dict[int, str] = {}
    for layer in layers:
        for kind, value in layer.module.named_parameters():
            name = f"{layer.name}.{kind}"
            owner = owners.setdefault(value.data_ptr(), name)
            if owner != name:
                raise UnsupportedModel(f"{name}: tied to {owner}; tied weights cannot be rescaled separately")
    names = [layer.name for layer in layers]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UnsupportedModel(f"{twice[0]}: used twice; tied weights cannot be rescaled separately")


def _is_flatten(node: fx.Node, module: nn.Module | None) -> bool:
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    arguments = node.args[1:]
    if node.target in (torch.flatten, "flatten"):
        return (*arguments, *node.kwargs.values()) in ((1,), (1, -1))
    return bool(node.target in ("view", "reshape") and len(arguments) == 2 and arguments[1] == -1)


def _is_shape(node: fx.Node) -> bool:
    """Nodes that carry sizes, not values."""
    if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
        return True
    first = node.args[0] if node.args else None
    return node.target is operator.getitem and isinstance(first, fx.Node) and _is_shape(first)


def _name(node: fx.Node) -> str:
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    return f"{node.name} ({getattr(node.target, '__name__', node.target)})"

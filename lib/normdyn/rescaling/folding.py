"""Folding batch normalisations into the layers before them, as deployment does.

Source: Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference
(2018), section 3.2; the arithmetic is PyTorch's.
"""

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from normdyn.networks.traced import Trace

__all__ = ["fold", "foldable", "put"]


def foldable(trace: Trace, model: nn.Module) -> list[tuple[str, str]]:
    """Names of layers and of the batch normalisations that alone see what they return, both of them used once.

    Source: elementary.
    """
    modules = dict(model.named_modules())
    found = []
    for layer, norm in trace.followers:
        one, other = modules.get(layer), modules.get(norm)
        if not isinstance(one, (nn.Linear, _ConvNd)) or not isinstance(other, nn.modules.batchnorm._BatchNorm):
            continue
        if other.running_var is not None and trace.calls[layer] == trace.calls[norm] == 1:
            found.append((layer, norm))
    return found


def fold(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Replace each layer by one that does both, and each batch normalisation by nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
        >>> fold(model, [("0", "1")])
        >>> [type(layer).__name__ for layer in model]
        ['Linear', 'Identity']
    """
    modules = dict(model.named_modules())
    for layer, norm in pairs:
        one, other = modules[layer], modules[norm]
        training = [(module, module.training) for module in (one, other)]
        one.eval(), other.eval()
        if isinstance(one, nn.Linear):
            whole = fuse_linear_bn_eval(one, other)
        else:
            whole = fuse_conv_bn_eval(one, other, transpose=isinstance(one, _ConvTransposeNd))
        for module, was in training:
            module.training = was
        whole.train(one.training)
        put(model, layer, whole)
        put(model, norm, nn.Identity())


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set a module by its dotted name.

    Source: elementary.
    """
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)

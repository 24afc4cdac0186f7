r"""Curvature of any module's loss as an operator: products with vectors, no ``(D, D)`` matrix.

The loss is :math:`L(w)=\sum_b n_b\,\ell(f_w(x_b),y_b)\big/\sum_b n_b` over batches of :math:`n_b` samples, where
``loss`` gives :math:`\ell`, a mean over its batch. Vectors are flat: the trainable parameters in the order of
``model.named_parameters()``, each flattened. The model stays as it is: nothing is stepped, no ``.grad`` is written and
no buffer moves.

:func:`hessian_product` needs torch alone. :func:`operator` is curvlinops', which also knows the generalised
Gauss-Newton matrix and the Fisher information, their traces, spectra and inverses.

Source: products with a Hessian are those of Pearlmutter (1994), by differentiating twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normdyn.shapes import Float

__all__ = [
    "Batches",
    "HessianProduct",
    "Kind",
    "Loss",
    "flatten",
    "operator",
    "split",
    "trainable",
    "twice_differentiable",
]

Batches = Iterable[tuple[Any, Tensor]]
Loss = Callable[[Any, Tensor], Tensor]
Kind = Literal["hessian", "ggn", "fisher"]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name; a tied one once.

    Raises:
        ValueError: There is none.
    """
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError("model: no parameter requires a gradient, call model.requires_grad_()")
    return found


def flatten(tensors: Mapping[str, Tensor]) -> Float[Tensor, " D"]:
    """Parameters, or what belongs to each, as one vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()])


def split(flat: Float[Tensor, " D"], like: Mapping[str, Tensor]) -> list[Tensor]:
    """The parts of a vector in the shapes of parameters."""
    parts = flat.split([p.numel() for p in like.values()])
    return [part.reshape(p.shape) for part, p in zip(parts, like.values(), strict=True)]


class HessianProduct:
    """Products of the Hessian of a loss with vectors, by differentiating twice: call it with a vector.

    Args:
        model: In the mode in which it is to be measured, usually ``eval()``; on any device, in any real precision.
        loss: ``loss(model(inputs), targets)``, a mean over the batch. It gets what the model returns.
        batches: Pairs of inputs and targets, in a list or what can be read again; inputs are a tensor, a tuple of
            positional ones or a dictionary of named ones.

    Attributes:
        parameters: The trainable parameters by name.
        value: The loss.
        gradient: Of the loss, ``(D,)``.
        calls: Products formed so far.

    Raises:
        ValueError: No parameter is trainable; there is no sample; the batches can be read once only; the loss is not
            one finite number; or it changes from one call to the next (dropout, augmentation).

    Example:
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> square = lambda outputs, targets: (outputs - targets).square().mean() / 2
        >>> X = torch.tensor([[1.0, 0.0], [1.0, 2.0]]).double()
        >>> product = HessianProduct(model, square, [(X, torch.zeros(2, 1).double())])
        >>> product(torch.tensor([1.0, 0.0]).double()).tolist()                      # X.T @ X / 2
        [1.0, 1.0]
    """

    def __init__(self, model: nn.Module, loss: Loss, batches: Batches):
        if isinstance(batches, Iterator):
            raise ValueError("batches can be read once only: give a list, or a DataLoader")
        self.model, self.loss, self.batches = model, loss, batches
        self.parameters, self.calls = trainable(model), 0
        self._buffers = dict(model.named_buffers())
        self.value, self.gradient = self._measure()
        again = self._measure()[0]
        if again != self.value:
            raise ValueError(
                f"the loss is {self.value:.9g} and then {again:.9g}: call model.eval() (dropout), and give batches "
                "without random augmentation"
            )

    def __call__(self, vector: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """``H @ vector``, in the parameters' precision."""
        parameters, total, count = list(self.parameters.values()), torch.zeros_like(self.gradient), 0
        direction = split(vector.to(self.gradient), self.parameters)
        with twice_differentiable():
            for value, size in self._losses():
                slopes = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
                along = sum((g * v).sum() for g, v in zip(slopes, direction, strict=True) if _moves(g))
                if isinstance(along, Tensor):
                    total += size * self._flat(torch.autograd.grad(along, parameters, allow_unused=True))
                count += size
        self.calls += 1
        return total / count

    def _measure(self) -> tuple[float, Float[Tensor, " D"]]:
        """Loss and gradient over all batches."""
        parameters, value, count = list(self.parameters.values()), 0.0, 0
        gradient = torch.zeros_like(flatten(self.parameters))
        for part, size in self._losses():
            value += size * part.item()
            gradient += size * self._flat(torch.autograd.grad(part, parameters, allow_unused=True))
            count += size
        if not count:
            raise ValueError("batches: there is no sample")
        return value / count, gradient / count

    def _losses(self) -> Iterator[tuple[Tensor, int]]:
        """Loss of each batch, with its graph, and the number of its samples."""
        for inputs, targets in self.batches:
            with torch.enable_grad():
                buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
                value = self.loss(torch.func.functional_call(self.model, buffers, *_arguments(inputs)), targets)
            if value.numel() != 1 or not value.isfinite():
                raise ValueError(f"loss must be one finite number for a batch, got {value.detach().tolist()}")
            yield value.reshape(()), len(targets)

    def _flat(self, slopes: tuple[Tensor | None, ...]) -> Tensor:
        parts = zip(slopes, self.parameters.values(), strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g.detach()).reshape(-1) for g, p in parts])


def operator(model: nn.Module, loss: nn.Module, batches: Batches, *, kind: Kind = "hessian", **options: Any) -> Any:
    """A linear operator of curvlinops for the curvature of a module's loss: ``matrix @ vector`` and more.

    Args:
        model, batches: As in :class:`HessianProduct`; inputs are one tensor, or a dictionary with ``batch_size_fn``
            among the options.
        loss: ``nn.CrossEntropyLoss()``, ``nn.MSELoss()`` or ``nn.BCEWithLogitsLoss()``.
        kind: ``hessian``, ``ggn`` (generalised Gauss-Newton) or ``fisher`` (its Monte-Carlo estimate).
        options: Passed on, such as ``mc_samples`` for ``fisher``.

    Raises:
        ImportError: curvlinops is not installed.
        ValueError: The kind is unknown, or the model has no trainable parameter.
        ArithmeticError: A product with the Hessian is not that of :class:`HessianProduct`. curvlinops differentiates
            forward over backward; with a LayerNorm and torch 2.15 that was seen to differ from finite differences.

    Source: Dangel et al., curvlinops (2025).
    """
    names = {"hessian": "HessianLinearOperator", "ggn": "GGNLinearOperator", "fisher": "FisherMCLinearOperator"}
    if kind not in names:
        raise ValueError(f"kind must be one of {tuple(names)}, got {kind!r}")
    try:
        import curvlinops
    except ImportError as error:
        raise ImportError(
            "operator() is curvlinops': pip install normdyn[curvature] (HessianProduct needs torch alone)"
        ) from error
    inside = _PlainAttention(model)
    found = getattr(curvlinops, names[kind])(inside, loss, list(trainable(model).values()), batches, **options)
    if kind == "hessian":
        _verify(found, HessianProduct(model, loss, batches))
    return found


def _verify(matrix: Any, product: HessianProduct) -> None:
    """Compare one product of an operator with that by differentiating twice."""
    like = product.gradient
    vector = torch.randn(len(like), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    own = product(vector)
    gap = ((matrix @ vector - own).norm() / own.norm().clamp_min(torch.finfo(own.dtype).tiny)).item()
    if not gap < (1e-8 if own.dtype == torch.float64 else 1e-4):
        raise ArithmeticError(
            f"curvlinops' Hessian differs from differentiating twice by {gap:.1e}: it differentiates forward over "
            "backward, which was seen to go wrong for LayerNorm; use HessianProduct, sharpness, or kind='ggn'"
        )


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by its formula, for the fused kernels have no second derivative."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


class _PlainAttention(nn.Module):
    """A model whose forward pass can be differentiated twice, at any later time."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.training = model, model.training

    def forward(self, inputs: Any) -> Any:
        positional, named = _arguments(inputs)
        with twice_differentiable():
            return self.model(*positional, **named)


def _moves(slope: Tensor | None) -> bool:
    """Whether a gradient has a derivative of its own; that of a linear function has none."""
    return slope is not None and slope.requires_grad


def _arguments(inputs: Any) -> tuple[Any, Any]:
    """Positional and named arguments of a model."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}

"""Loss functions: network outputs and targets in, one number out.

Source: elementary; the factor one half of the square loss is ours for all five papers.
"""

import torch
from torch import Tensor

from normdyn.shapes import Float, Int

__all__ = ["cross_entropy", "square_loss"]


def square_loss(output: Float[Tensor, "n c"], target: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Half the squared distance, summed over outputs, averaged over samples: ``|f - Y|^2 / 2n``.

    Example:
        >>> square_loss(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])).item()
        2.0
    """
    return (output - target).square().sum() / (2 * len(output))


def cross_entropy(output: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Softmax cross-entropy in nats, averaged over samples.

    Example:
        >>> round(cross_entropy(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.6931
    """
    return torch.nn.functional.cross_entropy(output, label)

"""A device that this machine need not have: shapes, types and devices are followed, no number is computed.

An operation that mixes tensors of two devices is refused, as a GPU refuses it.
"""

from collections import Counter

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten
NAME = "lazy"  # a device that torch knows and nothing else here uses
ANSWERS = {aten.equal.default: True, aten._local_scalar_dense.default: 1}  # where code asks for a number
PRODUCTS = (aten.mm, aten.bmm, aten.convolution)


class OtherDevice(FakeTensorMode):
    """Run code as if ``device="lazy"`` were there; questions about numbers are answered with yes and one.

    ``products`` counts matrix products and convolutions by the device that they ran on.
    """

    def __init__(self):
        super().__init__()
        self.products = Counter()

    def dispatch(self, func, types, args=(), kwargs=None):
        """Answer what only numbers could tell, and count products."""
        if func in ANSWERS:
            return ANSWERS[func]
        out = super().dispatch(func, types, args, kwargs)
        if func.overloadpacket in PRODUCTS:
            self.products[out.device.type] += 1
        return out

"""Networks that benchmarks train: ResNet18 as it is trained on 32 x 32 images, and multilayer perceptrons."""

from collections import OrderedDict

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions with batch normalisation, and the way round them."""

    def __init__(self, fan_in: int, fan_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity()
        if stride > 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet18(classes: int = 10, width: int = 64, *, large_images: bool = False) -> nn.Sequential:
    """ResNet18 (He et al. 2016); on 32 x 32 images it begins with one convolution without stride or pooling."""
    stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False)] if large_images else [nn.Conv2d(3, width, 3, 1, 1, bias=False)]
    stages, fan_in = [], width
    for k, stride in enumerate((1, 2, 2, 2)):
        fan_out = width * 2**k
        stages += [Block(fan_in, fan_out, stride), Block(fan_out, fan_out, 1)]
        fan_in = fan_out
    pool = [nn.MaxPool2d(3, 2, 1)] if large_images else []
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, classes)]
    return nn.Sequential(*stem, nn.BatchNorm2d(width), nn.ReLU(), *pool, *stages, *head)


def perceptron(*widths: int, bias: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for l, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False)):
        if l:
            layers[f"relu{l}"] = nn.ReLU()
        layers[f"linear{l + 1}"] = nn.Linear(fan_in, fan_out, bias=bias)
    return nn.Sequential(layers)

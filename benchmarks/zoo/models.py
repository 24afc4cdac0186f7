"""Public models with random weights, and an input for each."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Model(NamedTuple):
    """How to build a model, and the shape of an input; of words if ``words`` is their number."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    words: int = 0

    def sample(self, batch: int = 2) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        if self.words:
            return torch.randint(self.words, (batch, *self.shape), generator=draw)
        return torch.randn(batch, *self.shape, generator=draw)


class UNet(nn.Module):
    """Three scales, skip connections by concatenation, transposed convolutions upwards."""

    def __init__(self, width: int = 16):
        super().__init__()
        block = lambda i, o: nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
            nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.down = nn.ModuleList([block(3, width), block(width, 2 * width)])
        self.middle = block(2 * width, 4 * width)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in (2 * width, width))
        self.out = nn.ModuleList([block(4 * width, 2 * width), block(2 * width, width)])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, block in zip(self.up, self.out, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def dcgan() -> nn.Module:
    """The generator of Radford, Metz and Chintala (2016) for 64 x 64 images, at half their width."""
    layers: list[nn.Module] = []
    widths = (100, 256, 128, 64, 32)
    for l, (i, o) in enumerate(zip(widths, widths[1:], strict=False)):
        step = (4, 1, 0) if l == 0 else (4, 2, 1)
        layers += [nn.ConvTranspose2d(i, o, *step, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh())


def vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of torchvision."""

    def build() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(weights=None, **options)

    return build


def mixer() -> nn.Module:
    import timm

    return timm.create_model("mixer_s32_224")


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(n_embd=192, n_layer=4, n_head=6, vocab_size=1000, n_positions=128, **ends))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 1000}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=6, num_key_value_heads=2, **sizes))


IMAGE = (3, 224, 224)
MODELS = {
    "AlexNet": Model(vision("alexnet"), IMAGE),
    "VGG11": Model(vision("vgg11"), IMAGE),
    "VGG11-BN": Model(vision("vgg11_bn"), IMAGE),
    "ResNet18": Model(vision("resnet18"), IMAGE),
    "ResNet50": Model(vision("resnet50"), IMAGE),
    "MobileNetV2": Model(vision("mobilenet_v2"), IMAGE),
    "DenseNet121": Model(vision("densenet121"), IMAGE),
    "GoogLeNet": Model(vision("googlenet", init_weights=False), IMAGE),
    "SqueezeNet": Model(vision("squeezenet1_0"), IMAGE),
    "EfficientNet-B0": Model(vision("efficientnet_b0"), IMAGE),
    "UNet": Model(UNet, (3, 64, 64)),
    "DCGAN": Model(dcgan, (100, 1, 1)),
    "ViT-B/16": Model(vision("vit_b_16"), IMAGE),
    "ConvNeXt-T": Model(vision("convnext_tiny"), IMAGE),
    "Mixer-S/32": Model(mixer, IMAGE),
    "GPT-2": Model(gpt2, (32,), 1000),
    "Llama": Model(llama, (32,), 1000),
}


def made(name: str, seed: int = 0) -> nn.Module:
    """A model with weights of which none are special: heads that begin at zero, gains of one and statistics of a
    fresh batch normalisation are drawn at random, since much holds for those that is not true of a trained model."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = MODELS[name].build().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
            elif parameter.ndim == 1 and (parameter == parameter[0]).all():
                with torch.no_grad():
                    parameter += torch.rand_like(parameter) - 0.5
        for key, value in model.named_buffers():
            if key.endswith("running_mean"):
                value.normal_(std=0.1)
            elif key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    return model

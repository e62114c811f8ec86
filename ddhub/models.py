"""The networks that recipes and protocols name: small nets in the forms of dataset distillation.

Parameters are those of 3-channel 32 px images and 10 or 100 classes; only a ConvNet's depend on the
size. BN is the number of BatchNorm2d layers.

| name             | parameters: 10 |        100 | BN | form                                      |
|------------------|---------------:|-----------:|---:|-------------------------------------------|
| `convnet3`       |        320,010 |    504,420 |  0 | 3 x [conv 3x3 to 128 channels,            |
|                  |                |            |    | InstanceNorm, ReLU, AvgPool 2], linear    |
| `convnet4`       |        452,490 |    498,660 |  0 | the same with 4 blocks                    |
| `convnet5`       |        596,490 |    608,100 |  0 | 5 blocks                                  |
| `convnet6`       |              - |          - |  0 | 6 blocks: 64 px and more                  |
| `convnet3-bn`    |        320,010 |    504,420 |  3 | BatchNorm in place of InstanceNorm;       |
|                  |                |            |    | also `convnet4-bn` to `convnet6-bn`       |
| `resnet18`       |     11,173,962 | 11,220,132 | 20 | torchvision's, stem 3x3, no max-pool      |
| `mobilenetv2`    |      2,296,922 |  2,412,212 | 57 | stem of stride 1, convolved shortcuts     |
| `efficientnetb0` |      3,599,686 |  3,628,576 | 49 | stem of stride 1, linear on 320 features  |
| `shufflenet`     |        887,582 |    959,672 | 49 | version 1 with 2 groups                   |
| `convnet3-w64`   |         86,282 |    178,532 |  0 | `-wN` makes a ConvNet or a ResNet-18      |
| `resnet18-w16`   |        701,466 |    713,076 | 20 | N channels wide in its first stage        |
| `timm:NAME`      |                |            |    | any model of timm, not pretrained;        |
|                  |                |            |    | `size` is not passed on                   |

One of EfficientNet's BatchNorm layers never runs (see `SqueezeBlock`): whoever collects BatchNorm
statistics must ask which layers fired.

Every net but timm's is a `Net`: `net.features(x)` gives the penultimate features `[N, D]` and
`net.head` is the linear layer on them.

    net = build("resnet18", classes=10)
    logits = net(torch.zeros(2, 3, 32, 32))
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddhub import errors

DEPTHS = (3, 4, 5, 6)


def names() -> tuple[str, ...]:
    """The nets of this module, without width suffixes and timm's."""
    convnets = (f"convnet{depth}{norm}" for norm in ("", "-bn") for depth in DEPTHS)
    return (*convnets, "resnet18", *_FIXED)


def build(name: str, *, classes: int, size: int = 32, channels: int = 3) -> nn.Module:
    """A new net for `[N, channels, size, size]` images that returns logits `[N, classes]`.

    The initial weights are drawn from torch's global generator. Raises UsageError for an unknown
    name, a width on a net that has none, an image too small for the depth, and a missing timm.
    """
    if not isinstance(name, str):
        raise errors.UsageError(f"model is of type {type(name).__name__}; give its name: {', '.join(names())}")
    if name.startswith("timm:"):
        return _timm(name, classes=classes, channels=channels)
    match = re.fullmatch(r"(.+?)(?:-w([1-9][0-9]{0,3}))?", name)
    if match is None or match[1] not in names():
        raise errors.unknown("model", name, names(), "-wN sets a width; timm:NAME is timm's")
    base, width = match.groups()
    if width and base in _FIXED:
        raise errors.UsageError(f"model {name!r}: {base} has one width; use {base!r}, or -wN on a convnet or resnet18")
    if base in _FIXED:
        layers, features = _FIXED[base](channels)
    elif base == "resnet18":
        layers, features = resnet18(channels, width=int(width or 64))
    else:
        depth = int(base[len("convnet")])
        if size < 2**depth:
            raise errors.UsageError(
                f"model {name!r} halves the image {depth} times: {size} px is too small, "
                f"it needs {2**depth} px or a lower depth"
            )
        norm = "batch" if base.endswith("-bn") else "instance"
        layers, features = convnet(channels, size=size, depth=depth, width=int(width or 128), norm=norm)
    return Net(layers, features, classes)


def convnet(channels: int, *, size: int, depth: int, width: int, norm: str) -> tuple[list[nn.Module], int]:
    """The ConvNet of DC and MTT (norm "instance") or of INFER ("batch"); features: the last map.

    One-channel images of 28 px become maps of 32 px in the first convolution, as in the code of DC.
    """
    layers: list[nn.Module] = []
    small = (channels, size) == (1, 28)
    for block in range(depth):
        layers += [
            nn.Conv2d(width if block else channels, width, 3, padding=3 if small and not block else 1),
            nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(width, width),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
        ]
    return [*layers, nn.Flatten()], width * ((32 if small else size) >> depth) ** 2


def resnet18(channels: int, *, width: int) -> tuple[list[nn.Module], int]:
    """ResNet-18 of stages 1, 2, 4 and 8 times `width`, with the stem of small images.

    Initialised as a torchvision net whose stem was replaced: the blocks Kaiming normal with fan
    out, the stem and the linear layer by torch's default.
    """
    blocks: list[nn.Module] = []
    before = width
    for stage in range(4):
        after = width << stage
        for stride in (2 if stage else 1, 1):
            shortcut = None if stride == 1 else nn.Sequential(*_conv_bn(before, after, 1, stride))
            blocks.append(_Residual(before, after, stride, shortcut))
            before = after
    for module in nn.ModuleList(blocks).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    stem = [*_conv_bn(channels, width, 3), nn.ReLU(inplace=True)]
    return [*stem, *blocks, *_pool()], before


def mobilenetv2(channels: int) -> tuple[list[nn.Module], int]:
    """MobileNetV2 in its CIFAR form: strides 1 in the stem and in the second stage."""
    stages = (
        # expand, channels, blocks, stride
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    layers = [*_conv_bn(channels, 32, 3), nn.ReLU(inplace=True)]
    before = 32
    for expand, after, blocks, stride in stages:
        for block in range(blocks):
            layers.append(InvertedBlock(before, after, expand, 1 if block else stride))
            before = after
    return [*layers, *_conv_bn(before, 1280, 1), nn.ReLU(inplace=True), *_pool()], 1280


def efficientnetb0(channels: int) -> tuple[list[nn.Module], int]:
    """EfficientNet-B0 in its CIFAR form: stem of stride 1, no last 1x1 convolution, dropout 0.2."""
    stages = (
        # expand, channels, blocks, kernel, stride
        (1, 16, 1, 3, 1),
        (6, 24, 2, 3, 2),
        (6, 40, 2, 5, 2),
        (6, 80, 3, 3, 2),
        (6, 112, 3, 5, 1),
        (6, 192, 4, 5, 2),
        (6, 320, 1, 3, 1),
    )
    layers = [*_conv_bn(channels, 32, 3), nn.SiLU()]
    before = 32
    for expand, after, blocks, kernel, stride in stages:
        for block in range(blocks):
            layers.append(SqueezeBlock(before, after, expand, kernel, 1 if block else stride))
            before = after
    return [*layers, *_pool(), nn.Dropout(0.2)], before


def shufflenet(channels: int) -> tuple[list[nn.Module], int]:
    """ShuffleNet version 1 with 2 groups in its CIFAR form: stem 1x1, each stage halves the map."""
    layers = [*_conv_bn(channels, 24, 1), nn.ReLU(inplace=True)]
    before = 24
    for after, blocks in ((200, 4), (400, 8), (800, 4)):
        for block in range(blocks):
            layers.append(ShuffleBlock(before, after, groups=2, stride=1 if block else 2))
            before = after
    return [*layers, *_pool()], before


_FIXED: dict[str, Callable[[int], tuple[list[nn.Module], int]]] = {
    "mobilenetv2": mobilenetv2,
    "efficientnetb0": efficientnetb0,
    "shufflenet": shufflenet,
}


def _conv_bn(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias that keeps the size up to its stride, and its BatchNorm."""
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(after)


def _pool() -> tuple[nn.Module, nn.Module]:
    """The mean over the map, whatever its size, as `[N, D]`."""
    return nn.AdaptiveAvgPool2d(1), nn.Flatten()


def _timm(name: str, *, classes: int, channels: int) -> nn.Module:
    try:
        import timm
    except RuntimeError as error:
        raise errors.UsageError(
            f"model {name!r} needs timm, whose torchvision does not fit this torch ({errors.first_line(error)}); "
            "install the torchvision made for it"
        ) from error
    except ImportError as error:
        raise errors.UsageError(
            f"model {name!r} needs timm, which is not installed: pip install ddhub[timm]"
        ) from error
    key = name.removeprefix("timm:")
    if not timm.is_model(key):
        raise errors.unknown("timm model", key, timm.list_models(), "timm.list_models() shows all")
    net: nn.Module = timm.create_model(key, pretrained=False, num_classes=classes, in_chans=channels)
    return net


class _Residual(nn.Module):
    """ResNet's basic block, its layers in torchvision's order and by torchvision's names.

    Written out because importing torchvision takes longer than importing torch.
    """

    def __init__(self, before: int, after: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class Net(nn.Module):
    """`head(features(x))`: features are `[N, D]`, the head is one linear layer."""

    def __init__(self, layers: list[nn.Module], features: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


class InvertedBlock(nn.Module):
    """MobileNetV2's block: widen, depthwise 3x3, narrow; a shortcut wherever the stride is 1."""

    def __init__(self, before: int, after: int, expand: int, stride: int) -> None:
        super().__init__()
        middle = expand * before
        self.body = nn.Sequential(
            *_conv_bn(before, middle, 1),
            nn.ReLU(inplace=True),
            *_conv_bn(middle, middle, 3, stride, groups=middle),
            nn.ReLU(inplace=True),
            *_conv_bn(middle, after, 1),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity()
            if before != after:
                self.shortcut = nn.Sequential(*_conv_bn(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y if self.shortcut is None else y + self.shortcut(x)


class SqueezeBlock(nn.Module):
    """EfficientNet's block: widen, depthwise, squeeze and excite, narrow; shortcut if shapes agree.

    With `expand` 1 there is nothing to widen: `conv1` and `bn1` exist, as in the nets that papers
    train and count, but never run.
    """

    def __init__(self, before: int, after: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = expand * before
        self.widens = expand != 1
        self.conv1, self.bn1 = _conv_bn(before, middle, 1)
        self.conv2, self.bn2 = _conv_bn(middle, middle, kernel, stride, groups=middle)
        self.squeeze = nn.Conv2d(middle, before // 4, 1)
        self.excite = nn.Conv2d(before // 4, middle, 1)
        self.conv3, self.bn3 = _conv_bn(middle, after, 1)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.silu(self.bn1(self.conv1(x))) if self.widens else x
        y = F.silu(self.bn2(self.conv2(y)))
        gate = F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))
        y = self.bn3(self.conv3(y * self.excite(gate).sigmoid()))
        return y + x if self.adds else y


class ShuffleBlock(nn.Module):
    """ShuffleNet's block: 1x1, shuffle, depthwise 3x3, 1x1; stride 2 appends the pooled input."""

    def __init__(self, before: int, after: int, groups: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        added = after - before if stride == 2 else after
        middle = added // 4
        # The first block of the net sees 24 channels: its first convolution is not grouped.
        self.groups = 1 if before == 24 else groups
        self.conv1, self.bn1 = _conv_bn(before, middle, 1, groups=self.groups)
        self.conv2, self.bn2 = _conv_bn(middle, middle, 3, stride, groups=middle)
        self.conv3, self.bn3 = _conv_bn(middle, added, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.channel_shuffle(y, self.groups)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        if self.stride == 2:
            return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, padding=1)], 1), inplace=True)
        return F.relu(x + y, inplace=True)

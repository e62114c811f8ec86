"""The nets against the counts of the papers' own files, torchvision, and hand-written forwards."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddhub import models
from ddhub.errors import UsageError
from tools.torchvision_stub import torchvision

SMALL = ("convnet3", "convnet3-bn", "convnet5-w16", "resnet18-w16", *models.names()[-3:])


def parameters(name: str, classes: int, size: int = 32) -> int:
    return sum(p.numel() for p in models.build(name, classes=classes, size=size).parameters())


def norms(net: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: m for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}


def randomise(net: nn.Module) -> nn.Module:
    """Norm layers that do something visible: a fresh one in eval mode is the identity."""
    for layer in norms(net).values():
        for tensor in (layer.weight.data, layer.bias.data, layer.running_var):
            tensor.uniform_(0.5, 1.5)
        layer.running_mean.uniform_(-0.5, 0.5)
    return net.eval()


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("convnet3", 10, 320_010),
        ("convnet3-bn", 100, 504_420),
        ("resnet18", 100, 11_220_132),
        ("mobilenetv2", 100, 2_412_212),
        ("efficientnetb0", 100, 3_628_576),
        ("shufflenet", 100, 959_672),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, classes: int, count: int) -> None:
    assert parameters(name, classes) == count


@pytest.mark.parametrize("depth", [3, 4, 5, 6])
@pytest.mark.parametrize("width", [128, 16])
def test_convnet_parameters_by_hand(depth: int, width: int) -> None:
    first, later = 3 * width * 9 + width, width * width * 9 + width
    linear = (width * (64 // 2**depth) ** 2 + 1) * 10
    expected = first + (depth - 1) * later + depth * 2 * width + linear
    suffix = "" if width == 128 else f"-w{width}"
    assert parameters(f"convnet{depth}{suffix}", 10, size=64) == expected
    assert parameters(f"convnet{depth}-bn{suffix}", 10, size=64) == expected


def test_docstring_table_is_true() -> None:
    rows = re.findall(r"^\| `([\w-]+)` +\| +([\d,]+) \| +([\d,]+) \| +(\d+) \|", models.__doc__, re.M)
    assert len(rows) == 10
    for name, *expected in rows:
        ten, hundred, batchnorms = (int(number.replace(",", "")) for number in expected)
        assert parameters(name, 10) == ten
        assert parameters(name, 100) == hundred
        assert len(norms(models.build(name, classes=10))) == batchnorms


@pytest.mark.parametrize(
    ("name", "modules", "channels"),
    [
        ("convnet3", 0, 0),
        ("convnet3-bn", 3, 384),
        ("resnet18", 20, 4_800),
        ("mobilenetv2", 57, 17_544),
        ("efficientnetb0", 49, None),
        ("shufflenet", 49, 9_888),
    ],
)
def test_batchnorms_and_the_one_that_never_fires(name: str, modules: int, channels: int | None) -> None:
    net = models.build(name, classes=10)
    layers = norms(net)
    assert len(layers) == modules
    assert channels is None or sum(layer.num_features for layer in layers.values()) == channels

    fired = []
    for key, layer in layers.items():
        layer.register_forward_hook(lambda *_, key=key: fired.append(key))
    net(torch.rand(2, 3, 32, 32))
    silent = set(layers) - set(fired)
    assert len(fired) == len(set(fired)) == modules - len(silent)
    if name == "efficientnetb0":
        first = next(key for key, m in net.named_modules() if isinstance(m, models.SqueezeBlock))
        assert silent == {f"{first}.bn1"}
        assert list(layers)[1] == f"{first}.bn1"
    else:
        assert not silent


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("size", "channels"), [(32, 3), (64, 3), (32, 1)])
def test_shapes(name: str, size: int, channels: int) -> None:
    net = models.build(name, classes=7, size=size, channels=channels).eval()
    with torch.no_grad():
        x = torch.rand(2, channels, size, size)
        features = net.features(x)
        assert features.shape == (2, net.head.in_features)
        assert torch.equal(net.head(features), net(x))
        assert net(x).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_a_training_step_reaches_every_parameter_that_runs(name: str) -> None:
    net = models.build(name, classes=10)
    net(torch.rand(4, 3, 32, 32)).square().sum().backward()
    idle = [key for key, p in net.named_parameters() if p.grad is None]
    block = "features.3"
    expected = [f"{block}.conv1.weight", f"{block}.bn1.weight", f"{block}.bn1.bias"]
    assert idle == (expected if name == "efficientnetb0" else [])


@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet18-w16", 4), ("mobilenetv2", 4), ("efficientnetb0", 2), ("shufflenet", 4)],
)
def test_last_map_of_32_px(name: str, side: int) -> None:
    layers = list(models.build(name, classes=10).eval().features)
    pool = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.AdaptiveAvgPool2d))
    with torch.no_grad():
        last = nn.Sequential(*layers[:pool])(torch.rand(1, 3, 32, 32))
    assert last.shape[2:] == (side, side)


def test_convnet_forward_by_hand() -> None:
    net = models.build("convnet3-w8", classes=5)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    x = torch.rand(3, 3, 32, 32)
    y = x
    tensors = list(net.parameters())
    for block in range(3):
        weight, bias, scale, shift = tensors[4 * block : 4 * block + 4]
        y = F.conv2d(y, weight, bias, padding=1)
        mean = y.mean((2, 3), keepdim=True)
        variance = y.var((2, 3), keepdim=True, correction=0)
        y = (y - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
        y = y.clamp(min=0).unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
    torch.testing.assert_close(net(x), y.flatten(1) @ tensors[12].T + tensors[13], rtol=1e-3, atol=1e-3)


def test_resnet18_is_torchvisions_with_another_stem() -> None:
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    randomise(theirs)
    ours = models.build("resnet18", classes=10).eval()
    keys, values = ours.state_dict(), theirs.state_dict().values()
    ours.load_state_dict(dict(zip(keys, values, strict=True)))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_resnet18_initialisation() -> None:
    net = models.build("resnet18", classes=10)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs[1:]:
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    assert convs[0].weight.abs().max() <= 27**-0.5  # torch's default: uniform within 1/sqrt(fan in)


def conv_bn(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, **options: int) -> Tensor:
    y = F.conv2d(x, conv.weight, **options)
    y = (y - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[:, None, None]
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_shuffle_block_by_hand(stride: int) -> None:
    before, added = 40, (40 if stride == 1 else 64)
    block = randomise(models.ShuffleBlock(before, 40 if stride == 1 else 104, 2, stride))
    x = torch.rand(2, before, 8, 8)
    middle = added // 4
    y = conv_bn(block.conv1, block.bn1, x, groups=2).clamp(min=0)
    half = middle // 2
    y = y[:, [c for pair in zip(range(half), range(half, middle), strict=True) for c in pair]]
    y = conv_bn(block.conv2, block.bn2, y, stride=stride, padding=1, groups=middle).clamp(min=0)
    y = conv_bn(block.conv3, block.bn3, y, groups=2)
    y = y + x if stride == 1 else torch.cat([y, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)
    torch.testing.assert_close(block(x), y.clamp(min=0))


@pytest.mark.parametrize(("after", "expand", "stride"), [(8, 6, 1), (12, 6, 1), (8, 1, 1), (8, 6, 2)])
@torch.no_grad()
def test_squeeze_block_by_hand(after: int, expand: int, stride: int) -> None:
    block = randomise(models.SqueezeBlock(8, after, expand, kernel=5, stride=stride))
    x = torch.rand(2, 8, 8, 8)
    y = x if expand == 1 else conv_bn(block.conv1, block.bn1, x)
    y = y * y.sigmoid() if expand != 1 else y
    y = conv_bn(block.conv2, block.bn2, y, stride=stride, padding=2, groups=8 * expand)
    y = y * y.sigmoid()
    gate = y.mean((2, 3)) @ block.squeeze.weight[:, :, 0, 0].T + block.squeeze.bias
    assert gate.shape[1] == 2  # a quarter of the block's input, not of its widened maps
    gate = gate * gate.sigmoid() @ block.excite.weight[:, :, 0, 0].T + block.excite.bias
    y = conv_bn(block.conv3, block.bn3, y * gate.sigmoid()[:, :, None, None])
    torch.testing.assert_close(block(x), y + x if stride == 1 and after == 8 else y)


@pytest.mark.parametrize(("after", "stride"), [(8, 1), (12, 1), (8, 2)])
@torch.no_grad()
def test_inverted_block_by_hand(after: int, stride: int) -> None:
    block = randomise(models.InvertedBlock(8, after, 6, stride))
    x = torch.rand(2, 8, 8, 8)
    y = conv_bn(block.body[0], block.body[1], x).clamp(min=0)
    y = conv_bn(block.body[3], block.body[4], y, stride=stride, padding=1, groups=48).clamp(min=0)
    y = conv_bn(block.body[6], block.body[7], y)
    if stride == 1:
        y = y + (x if after == 8 else conv_bn(*block.shortcut, x))
    torch.testing.assert_close(block(x), y)


def test_weights_come_from_the_global_generator() -> None:
    states = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states.append(models.build("resnet18-w8", classes=10).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", r"unknown model 'resnet81'; did you mean 'resnet18'\?"),
        ("resnet18-w0", "unknown model 'resnet18-w0'"),
        ("resnet18-w", "unknown model 'resnet18-w'"),
        ("convnet7", "unknown model 'convnet7'"),
        ("", "unknown model ''; known: convnet3, "),
        ("shufflenet-w8", "model 'shufflenet-w8': shufflenet has one width; use 'shufflenet'"),
        ("convnet6", "model 'convnet6' .* 32 px is too small, it needs 64 px or a lower depth"),
    ],
)
def test_errors_say_what_to_do(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        models.build(name, classes=10)


def test_timm_passes_through() -> None:
    pytest.importorskip("timm")
    net = models.build("timm:resnet10t", classes=7, channels=1).eval()
    assert net(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    with pytest.raises(UsageError, match=r"^unknown timm model 'resnet10'; did you mean"):
        models.build("timm:resnet10", classes=7)


def test_timm_beside_a_torchvision_of_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "timm":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(
        UsageError, match="torchvision does not fit this torch .*; install the torchvision made for it$"
    ):
        models.build("timm:resnet10t", classes=7)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"needs timm, .*: pip install ddhub\[timm\]$"):
        models.build("timm:resnet10t", classes=7)

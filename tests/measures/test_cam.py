"""Class activation maps against loops over positions and channels, and against what they must add up to."""

from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch
from torch import Tensor, nn

from ddhub import models
from ddhub.errors import UsageError
from ddhub.measures.cam import attention, cam


def skip_without_timm() -> None:
    """Skip a test where timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm")
    from tools import torchvision_stub  # noqa: F401  first: timm imports torchvision, which may need its help


def trained(name: str, size: int = 32) -> nn.Module:
    """A double-precision net for 7 classes whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(0)
    net = models.build(name, classes=7, size=size).double().train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, size, size, dtype=torch.float64))
    return net.eval().requires_grad_(False)


def batch(size: int = 32) -> tuple[Tensor, Tensor]:
    """Five images, and classes that are not all different."""
    return torch.randn(5, 3, size, size, dtype=torch.float64), torch.tensor([3, 0, 3, 6, 1])


@pytest.mark.parametrize("name", ["resnet18-w8", "efficientnetb0", "shufflenet"])
def test_mean_of_the_map_of_a_mean_and_a_linear_head_is_the_logit(name: str) -> None:
    net, (x, y) = trained(name), batch()
    maps, logits = cam(net, x, y), net(x)
    assert maps.shape[0] == 5 and maps.shape[1] > 1 and not maps.requires_grad
    found = maps.mean((1, 2)) + net.head.bias[y]
    torch.testing.assert_close(found, logits[torch.arange(5), y], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "side"), [("convnet3-bn-w8", 4), ("convnet3-w8", 4), ("convnet4-bn-w8", 2)])
def test_sum_of_the_map_of_a_flatten_head_is_the_logit(name: str, side: int) -> None:
    net, (x, y) = trained(name), batch()
    maps = cam(net, x, y)
    assert maps.shape == (5, side, side)
    found = maps.sum((1, 2)) + net.head.bias[y]
    torch.testing.assert_close(found, net(x)[torch.arange(5), y], rtol=1e-9, atol=1e-9)


def test_a_map_far_from_the_head_is_one_of_grad_cam() -> None:
    net, (x, y) = trained("efficientnetb0", 16), batch(16)
    maps = cam(net, x, y)  # the last map of more than one position has 80 channels, which 2 x 2 times are 320, too
    assert maps.shape == (5, 2, 2) and net.head.in_features == 320 and float(maps.min()) >= 0


def test_a_last_map_of_one_position_is_read_before_the_pooling() -> None:
    net, (x, y) = trained("convnet5-bn-w8"), batch()
    maps = cam(net, x, y)
    assert maps.shape == (5, 2, 2)
    torch.testing.assert_close(maps.mean((1, 2)) + net.head.bias[y], net(x)[torch.arange(5), y])


@pytest.mark.parametrize(("name", "cut"), [("resnet18-w8", -2), ("convnet3-bn-w8", -1)])
def test_maps_equal_a_loop_over_images_positions_and_channels(name: str, cut: int) -> None:
    net, (x, y) = trained(name), batch()
    found = cam(net, x, y)
    for n in range(5):
        features = net.features[:cut](x[n : n + 1])[0]
        depth, high, wide = features.shape
        row = net.head.weight[int(y[n])]
        for i, j in itertools.product(range(high), range(wide)):
            wanted = 0.0
            for k in range(depth):
                weight = row[k] if cut == -2 else row[(k * high + i) * wide + j]
                wanted += (weight * features[k, i, j]).item()
            assert float(found[n, i, j]) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


class TwoLayers(nn.Module):
    """A net that `ddhub.models` does not have: a head of two layers, and its features changed in place, or not."""

    def __init__(self, in_place: bool = True) -> None:
        super().__init__()
        self.relu = torch.relu_ if in_place else torch.relu
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 49, 10), nn.Tanh(), nn.Linear(10, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)))


def test_grad_cam_of_any_other_head_equals_a_loop_with_differences() -> None:
    torch.manual_seed(0)
    net = TwoLayers().double()
    x, y = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([2, 2, 5])
    found = cam(net, x, y)
    assert found.shape == (3, 7, 7) and not found.requires_grad and float(found.max()) > 0
    assert all(parameter.grad is None for parameter in net.parameters())
    for n in range(3):
        features = net.conv(x[n : n + 1]).detach()
        weighted = torch.zeros(7, 7, dtype=torch.float64)
        for k in range(6):
            slope = 0.0
            for i, j in itertools.product(range(7), range(7)):
                step = torch.zeros_like(features)
                step[0, k, i, j] = 1e-6
                up, down = (net.head(torch.relu(features + sign * step))[0, y[n]].item() for sign in (1, -1))
                slope += (up - down) / 2e-6 / 49
            weighted += slope * features[0, k]
        torch.testing.assert_close(found[n], weighted.clamp(min=0), rtol=1e-5, atol=1e-9)


def test_grad_cam_of_a_mean_and_a_linear_head_is_cam_by_the_positions() -> None:
    skip_without_timm()
    torch.manual_seed(0)
    net = models.build("timm:resnet18", classes=7).double().eval()
    x, y = batch(64)
    maps = cam(net, x, y)
    features = net.forward_features(x).detach()
    assert maps.shape == features.shape[:1] + features.shape[2:] == (5, 2, 2)
    wanted = torch.einsum("bk,bkhw->bhw", net.fc.weight.detach()[y], features).clamp(min=0) / 4
    torch.testing.assert_close(maps, wanted)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_maps_are_those_of_torchcam() -> None:
    methods = pytest.importorskip("torchcam.methods")
    net, (x, y) = trained("resnet18-w8"), batch()
    with methods.CAM(net, f"features.{len(net.features) - 3}", "head") as extract:
        net(x)
        (wanted,) = extract(y.tolist(), normalized=False)
    torch.testing.assert_close(cam(net, x, y), wanted)
    other, (x, y) = TwoLayers(in_place=False).double(), batch(16)
    with methods.GradCAM(other, "conv") as extract:
        (wanted,) = extract(y.tolist(), other(x), normalized=False)
    torch.testing.assert_close(cam(other, x, y), wanted.detach())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_net_of_tokens_has_no_cam(name: str) -> None:
    skip_without_timm()
    net = models.build(f"timm:{name}", classes=2).eval()
    with pytest.raises(UsageError, match="has no CAM; use a convolutional net"):
        cam(net, torch.zeros(1, 3, 224, 224), torch.zeros(1, dtype=torch.long))


def test_a_net_without_features_has_no_cam() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(UsageError, match="Sequential does not end in feature maps"):
        cam(net, torch.zeros(1, 3, 2, 2), torch.zeros(1, dtype=torch.long))


def test_maps_do_not_depend_on_the_batch_and_leave_no_hooks() -> None:
    net, (x, y) = trained("resnet18-w8"), batch()
    whole = cam(net, x, y)
    for n in range(5):
        torch.testing.assert_close(cam(net, x[n : n + 1], y[n : n + 1])[0], whole[n], rtol=1e-9, atol=1e-12)
    assert not any(module._forward_hooks for module in net.modules())


def test_attention_is_the_enlarged_map_from_0_to_1_by_hand() -> None:
    maps = torch.tensor([[[-3.0, 1.0], [2.0, 4.0]]])  # ReLU first: 0 1 2 4
    found = attention(maps, (4, 4))
    # Bilinear at (i + 1/2) / 2 - 1/2, held at the edges: shares 0, 1/4, 3/4, 1 of the lower and of the right pixel.
    share = [0.0, 0.25, 0.75, 1.0]
    for i, j in itertools.product(range(4), range(4)):
        upper, lower = share[j] * 1.0, 2 + share[j] * 2
        assert float(found[0, i, j]) == pytest.approx((upper + share[i] * (lower - upper)) / 4)
    assert float(found.min()) == 0 and float(found.max()) == 1


def test_attention_of_cells_is_that_of_each_cell_and_flat_ones_are_0() -> None:
    torch.manual_seed(0)
    maps = torch.rand(3, 4, 4)
    whole, cells = attention(maps, (8, 8)), attention(maps, (8, 8), cells=2)
    for n, i, j in itertools.product(range(3), (0, 4), (0, 4)):
        own = whole[n, i : i + 4, j : j + 4]
        wanted = (own - own.min()) / (own.max() - own.min())
        torch.testing.assert_close(cells[n, i : i + 4, j : j + 4], wanted)
    assert torch.equal(attention(torch.full((1, 2, 2), 5.0), (4, 4)), torch.zeros(1, 4, 4))
    assert torch.equal(attention(-torch.rand(1, 2, 2), (4, 4), cells=2), torch.zeros(1, 4, 4))

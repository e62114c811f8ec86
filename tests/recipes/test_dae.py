"""DAE: the specification's weights, Grad-CAM and Smooth Grad-CAM++ against loops, and which class is asked for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from test_cam import TwoLayers, batch, trained
from test_matching import source
from torch import Tensor, nn

from ddhub import models
from ddhub.errors import UsageError
from ddhub.measures.cam import grad_cam, smooth_grad_cam
from ddhub.sources.known import KNOWN
from recipes.trajectories import dae
from recipes.trajectories.dae import Enhancing, PixelWeights, activation, imagenet_numbers, weights

HOW = Enhancing(seed=0, cam="grad-cam", every=50, beta=1.0, threshold=0.0)


@pytest.mark.parametrize(
    ("beta", "threshold", "wanted"),
    [(1.0, 0.0, [[1, 1], [1.6, 2]]), (2.0, 0.0, [[1, 1], [2.6, 3]]), (1.0, 0.7, [[1, 1], [1, 2]])],
)
def test_weights_are_those_of_the_specification(beta: float, threshold: float, wanted: list[list[float]]) -> None:
    maps = torch.tensor([[[0.0, 0.2], [0.6, 1.0]]])
    found = weights(maps, beta, threshold)
    assert found.shape == (1, 1, 2, 2)
    torch.testing.assert_close(found[0, 0], torch.tensor(wanted, dtype=torch.float32))


def test_each_map_has_its_own_mean() -> None:
    maps = torch.tensor([[[0.0, 0.2], [0.6, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(weights(maps, 1.0)[1, 0], torch.tensor([[1.0, 1.0], [1.0, 2.0]]))


def test_activation_goes_from_0_to_1_before_it_is_enlarged() -> None:
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]]])  # shares 0 1/2 1/4 1
    found = activation(maps, (4, 4))
    share = [0.0, 0.25, 0.75, 1.0]  # of the lower and the right one: bilinear at (i + 1/2) / 2 - 1/2, held at the edges
    for i, j in itertools.product(range(4), range(4)):
        upper, lower = share[j] * 0.5, 0.25 + share[j] * 0.75
        assert float(found[0, i, j]) == pytest.approx(upper + share[i] * (lower - upper), abs=1e-7)
    assert torch.equal(activation(torch.full((1, 2, 2), 5.0), (4, 4)), torch.zeros(1, 4, 4))


def test_grad_cam_of_a_flattened_head_equals_a_loop() -> None:
    net, (x, y) = trained("convnet3-w8"), batch()
    assert isinstance(net, models.Net)
    found = grad_cam(net, x, y)
    for n in range(5):
        features = net.features[:-1](x[n : n + 1])[0]
        rows = net.head.weight[int(y[n])].view_as(features)  # the gradient, of a linear head the same everywhere
        wanted = sum(rows[k].mean() * features[k] for k in range(8))
        torch.testing.assert_close(found[n], wanted.clamp(min=0))


def test_smooth_grad_cam_equals_a_loop() -> None:
    torch.manual_seed(0)
    net = TwoLayers().double()
    x, y = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([2, 2, 5])
    noise = 0.3 * torch.randn(4, *x.shape, dtype=torch.float64)
    found = smooth_grad_cam(net, x, y, noise)
    assert found.shape == (3, 7, 7) and not found.requires_grad and float(found.max()) > 0

    def looked(image: Tensor, label: int) -> tuple[Tensor, Tensor]:
        features = net.conv(image[None]).detach().requires_grad_()
        net.head(torch.relu(features))[0, label].backward()
        return features.detach()[0], features.grad[0]

    for n in range(3):
        clean, _ = looked(x[n], y[n])
        passes = [looked(x[n] + more[n], y[n]) for more in noise]
        wanted = torch.zeros(7, 7, dtype=torch.float64)
        for k in range(6):
            slopes = [slope[k] for _, slope in passes]
            square, cube = sum(s * s for s in slopes) / 4, sum(s * s * s for s in slopes) / 4
            below = sum(float(cube[i, j] * clean[k, i, j]) for i, j in itertools.product(range(7), range(7)))
            weight = 0.0
            for i, j in itertools.product(range(7), range(7)):
                alpha = float(square[i, j]) / (2 * float(square[i, j]) + below + 1e-8)
                weight += alpha * max(0.0, float(slopes[3][i, j]))
            wanted += weight * passes[3][0][k]
        torch.testing.assert_close(found[n], wanted.clamp(min=0), rtol=1e-9, atol=1e-12)


def test_weights_do_not_depend_on_the_batch_and_noise_on_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, y) = trained("convnet3-w8").float(), batch()
    look = PixelWeights(net=net, settings=HOW)
    whole = look.weights(x.float(), y, 0)
    assert whole.shape == (5, 1, 32, 32) and bool(((whole == 1) | (whole >= 1)).all()) and 1 < float(whole.max()) <= 2
    monkeypatch.setattr(dae, "_TOGETHER", 2)
    torch.testing.assert_close(look.weights(x.float(), y, 50), whole)
    smooth = PixelWeights(net=net, settings=replace(HOW, cam="smooth-grad-cam++"))
    assert torch.equal(smooth.weights(x.float(), y, 0), smooth.weights(x.float(), y, 0))
    assert not torch.equal(smooth.weights(x.float(), y, 0), smooth.weights(x.float(), y, 50))
    assert [HOW.due(i) for i in (0, 1, 49, 50, 51, 100)] == [True, False, False, True, False, True]


class Parity(nn.Module):
    """Logits of 1,000 classes: of even ones the sum of the red, of odd ones that of the green."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3))[:, torch.arange(1000) % 2]


def test_a_net_of_imagenet_is_asked_for_the_subsets_class() -> None:
    net = nn.Sequential(nn.Identity(), Parity())
    x = torch.rand(2, 3, 4, 4)
    for numbers, seen in ((torch.tensor([217, 482]), (1, 0)), (None, (0, 1))):  # without numbers classes 0 and 1
        found = PixelWeights(net=net, settings=HOW, numbers=numbers).weights(x, torch.tensor([0, 1]), 0)
        wanted = torch.stack([x[n, channel] for n, channel in enumerate(seen)])
        torch.testing.assert_close(found, weights(activation(wanted, (4, 4)), 1.0))


def test_numbers_are_those_of_the_labels_of_each_source() -> None:
    nette = replace(source(), name="imagenette", classes=KNOWN["imagenette"].classes)
    assert imagenet_numbers(nette).tolist() == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    woof = replace(source(), name="imagewoof", classes=KNOWN["imagewoof"].classes)
    assert imagenet_numbers(woof).tolist() == [155, 159, 162, 167, 182, 193, 207, 229, 258, 273]  # the Hub's order
    meow = replace(source(), name="imagemeow", classes=KNOWN["imagemeow"].classes)
    assert imagenet_numbers(meow).tolist() == [281, 282, 283, 284, 285, 291, 292, 290, 289, 287]
    with pytest.raises(UsageError, match=r"classes of cifar10 are none of ImageNet's.* --cam-net expert"):
        imagenet_numbers(replace(source(), name="cifar10"))

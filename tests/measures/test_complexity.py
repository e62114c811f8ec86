"""Complexity and recovery ratio against loops, values worked out by hand, and the paper's table."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import ddhub
from ddhub import models
from ddhub.errors import UsageError
from ddhub.measures.cam import cam
from ddhub.measures.complexity import class_complexity, complexity_score, net_complexity, recovery_ratio

# EDF's table: data set -> accuracy (%) of EDF at ipc 1, 10 and 50, that of the whole data set, and the ratios (%).
TABLE = {
    "ImageNette": ((52.6, 71.0, 77.8), 87.8, (59.9, 80.9, 88.6)),
    "ImageWoof": ((30.8, 41.8, 48.4), 66.5, (46.3, 62.9, 72.8)),
    "ImageMeow": ((34.5, 52.6, 58.2), 65.2, (52.9, 80.7, 89.3)),
    "ImageYellow": ((49.4, 68.2, 73.2), 83.2, (59.4, 82.0, 88.0)),
    "ImageFruit": ((32.8, 46.2, 53.2), 64.4, (50.9, 71.7, 82.6)),
    "ImageSquawk": ((41.8, 65.4, 74.8), 86.4, (48.4, 75.7, 86.6)),
}


def test_scores_worked_out_by_hand() -> None:
    maps = torch.tensor([[[0.0, 0.2], [0.6, 1.0]], [[0.5, 0.5], [0.51, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert complexity_score(maps).tolist() == [0.5, 0.75, 1.0]
    assert complexity_score(maps, strict=False).tolist() == [0.5, 0.25, 1.0]
    assert complexity_score(maps, threshold=0.1).tolist() == [0.25, 0.25, 1.0]


def test_scores_equal_a_loop() -> None:
    maps = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    wanted = []
    for one in maps.tolist():
        active = sum(value > 0.5 for line in one for value in line)
        wanted.append(1 - active / 21)
    assert complexity_score(maps).tolist() == pytest.approx(wanted, abs=1e-15)


def test_maps_that_are_none() -> None:
    with pytest.raises(UsageError, match=r"maps have values from -1 to 3; scale each to \[0, 1\]"):
        complexity_score(torch.tensor([[[-1.0, 3.0]]]))
    with pytest.raises(UsageError, match="from nan to nan"):
        complexity_score(torch.tensor([[[0.5, float("nan")]]]))
    for shape in ([2, 2], [0, 2, 2], [1, 1, 2, 2]):
        with pytest.raises(UsageError, match=r"give \[images, height, width\]"):
            complexity_score(torch.zeros(shape))


def test_a_class_is_the_mean_of_its_images() -> None:
    scores, labels = torch.tensor([0.2, 0.4, 0.9, 0.6], dtype=torch.float64), torch.tensor([1, 1, 0, 1])
    assert class_complexity(scores, labels).tolist() == pytest.approx([0.9, 0.4])
    assert class_complexity(scores, labels, 2).tolist() == pytest.approx([0.9, 0.4])
    with pytest.raises(UsageError, match="class 2 has no images"):
        class_complexity(scores, labels, 3)
    with pytest.raises(UsageError, match="labels are 0 to 1, not within 0 to 0"):
        class_complexity(scores, labels, 1)
    with pytest.raises(UsageError, match=r"scores are \[4\] and labels \[3\]"):
        class_complexity(scores, labels[:3])


def trained() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = models.build("resnet18-w8", classes=7, size=32).eval().requires_grad_(False)
    return net, torch.randn(7, 3, 32, 32)


def test_of_a_net_and_images() -> None:
    """Maps at the layer's own resolution, each from its least to its greatest; the class is the likeliest one."""
    net, x = trained()
    found = net_complexity(net, x, cam, batch=3)
    for i in range(7):
        (one,) = cam(net, x[i : i + 1], net(x[i : i + 1]).argmax(1))
        low, high = float(one.min()), float(one.max())
        cells = [(value - low) / (high - low) for line in one.tolist() for value in line]
        assert float(found[i]) == pytest.approx(1 - sum(cell > 0.5 for cell in cells) / len(cells))
    assert found.shape == (7,) and 0 < float(found.min()) < float(found.max()) < 1


def test_of_a_net_for_given_classes() -> None:
    net, x = trained()
    own, other = net(x).argmax(1), (net(x).argmax(1) + 1) % 7
    assert torch.equal(net_complexity(net, x, cam), net_complexity(net, x, cam, classes=own))
    assert not torch.equal(net_complexity(net, x, cam), net_complexity(net, x, cam, classes=other))
    with pytest.raises(UsageError, match=r"\[3\] classes of 7 images; give one each"):
        net_complexity(net, x, cam, classes=own[:3])


def test_a_map_without_an_active_place() -> None:
    """A map that is alike everywhere is 0 everywhere, as in the official code: nothing is active."""
    net, x = trained()
    for value in (0.0, 5.0):
        flat = torch.full((7, 4, 4), value)
        assert net_complexity(net, x, lambda *_, flat=flat: flat).tolist() == [1.0] * 7
        assert net_complexity(net, x, lambda *_, flat=flat: flat, strict=False).tolist() == [1.0] * 7


@pytest.mark.parametrize("name", TABLE)
def test_ratios_of_the_papers_table(name: str) -> None:
    accuracies, full, ratios = TABLE[name]
    assert [round(recovery_ratio(accuracy, full), 1) for accuracy in accuracies] == [*ratios]


def test_a_ratio_may_exceed_the_whole() -> None:
    assert recovery_ratio(50.0, 40.0) == 125.0 and recovery_ratio(0.0, 40.0) == 0.0


@pytest.mark.parametrize("pair", [(50.0, 0.0), (-1.0, 50.0), (101.0, 50.0), (50.0, 101.0), (float("nan"), 50.0)])
def test_accuracies_that_are_none(pair: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="accuracies are .* %; the first is 0 to 100"):
        recovery_ratio(*pair)


def test_they_are_functions_of_the_package() -> None:
    for name in ("complexity_score", "net_complexity", "class_complexity", "recovery_ratio"):
        assert getattr(ddhub, name).__module__ == "ddhub.measures.complexity" and name in ddhub.__all__
    code = "import ddhub, sys; assert 'torch' not in sys.modules; print(ddhub.recovery_ratio(71.0, 87.8))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout[:4] == "80.8"

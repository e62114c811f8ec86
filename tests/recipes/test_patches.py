"""Patches and their search against loops over images, boxes and pixels, and mosaics laid out by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from repeated import Repeated
from torch import Tensor, nn

from ddhub import models
from ddhub.data.views import windows
from ddhub.errors import UsageError
from ddhub.measures.cam import attention, cam
from ddhub.training.devices import computing
from recipes.patches import discovery
from recipes.patches.discovery import Scoring, Search, discovery_units, search
from recipes.patches.patches import box_ratios, cut, mosaics, tiled
from recipes.run.draws import generator, normalised

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
HOW = Search(
    crops=4, crop_area=0.1, top=1, factor=2, cam_ratio="density", epsilon=0.5, confidence="lowest", guard="none"
)


def teacher() -> nn.Module:
    """A ConvNet for 8 classes and 16 px, with BatchNorm statistics of its own; any class may be its first or last."""
    torch.manual_seed(0)
    net = models.build("convnet3-bn-w8", classes=8, size=16).train()
    with torch.no_grad():
        net(torch.randn(32, 3, 16, 16))
        net.head.weight.mul_(8)
        net.eval().head.bias.sub_(net(normalised(pictures(60), MEAN, STD)).mean(0))
    return net.requires_grad_(False)


def pictures(count: int, side: int = 16) -> Tensor:
    """Random smooth images u8."""
    torch.manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4) * 255
    return F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("side", "patch"), [(16, 8), (16, 16), (24, 5), (9, 9)])
def test_patches_are_cut_and_resized_as_one_at_a_time(side: int, patch: int) -> None:
    images = pictures(30, side)
    boxes = windows(torch.rand(30, 22, dtype=torch.float64), (side, side), 0.05, (1, 1))
    boxes[0] = torch.tensor([0, 0, side, side])
    found = cut(images, boxes, patch)
    assert found.dtype == torch.uint8 and found.shape == (30, 3, patch, patch)
    for image, box, one in zip(images, boxes.tolist(), found, strict=True):
        top, left, height, width = box
        part = image[None, :, top : top + height, left : left + width].float()
        wanted = F.interpolate(part, size=(patch, patch), mode="bilinear", antialias=True)[0]
        assert float((wanted - one).abs().max()) <= 0.5 + 1e-3  # rounded
    assert patch != side or torch.equal(found[0], images[0])  # the whole image is left as it is


def test_boxes_are_squares_of_the_area_that_torchvision_would_draw() -> None:
    u = torch.rand(2000, 22, dtype=torch.float64)
    boxes = windows(u, (32, 32), 0.08, (1, 1))
    for row, (top, left, height, width) in zip(u.tolist(), boxes.tolist(), strict=True):
        side = round((32 * 32 * (0.08 + 0.92 * row[0])) ** 0.5)
        assert height == width == side and 0 <= top <= 32 - side and 0 <= left <= 32 - side
    assert int(boxes[:, 2].min()) == 9 and int(boxes[:, 2].max()) == 32


@pytest.mark.parametrize("kind", ["density", "mass", "share"])
def test_ratios_equal_a_loop_over_pixels(kind: str) -> None:
    torch.manual_seed(0)
    maps = torch.rand(6, 12, 12)
    maps[5] = 0  # nothing speaks for the class
    boxes = windows(torch.rand(18, 22, dtype=torch.float64), (12, 12), 0.05, (1, 1)).view(6, 3, 4)
    boxes[0, 0] = torch.tensor([0, 0, 12, 12])
    found = box_ratios(maps, boxes, kind, 0.6)
    assert found.shape == (6, 3)
    for n, m in itertools.product(range(6), range(3)):
        top, left, height, width = boxes[n, m].tolist()
        inside = [maps[n, i, j].item() for i in range(top, top + height) for j in range(left, left + width)]
        total = sum(maps[n].flatten().tolist())
        wanted = {
            "density": sum(inside) / len(inside),
            "mass": sum(inside) / total if total else 0,
            "share": sum(value >= maps.new_tensor(0.6).item() for value in inside) / len(inside),
        }[kind]
        assert found[n, m].item() == pytest.approx(wanted, abs=1e-9)
    if kind == "mass":
        assert found[0, 0].item() == pytest.approx(1)


def test_mosaics_have_patch_k_ipc_plus_j_in_cell_k_of_image_j_by_hand() -> None:
    side, ipc = 6, 3
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, side, side).contiguous()
    rows = torch.arange(40)[: 2 * 4 * ipc].view(2, 4 * ipc)  # class 0: patches 0..11, class 1: 12..23
    boxes = torch.tensor([0, 0, 6, 6]).expand(2, 4 * ipc, 4)
    found = mosaics(images, rows, boxes, 2, range(1, 3), torch.device("cpu"))
    assert found.shape == (2, 2, 3, side, side) and found.dtype == torch.uint8
    for place, j in enumerate((1, 2)):
        for label in (0, 1):
            cells = [12 * label + k * ipc + j for k in range(4)]
            for k, (i, m) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
                cell = found[place, label, :, 3 * i : 3 * i + 3, 3 * m : 3 * m + 3]
                assert bool((cell == cells[k]).all())
    patches = torch.arange(2 * 9 * 3 * 2 * 2).view(2, 9, 3, 2, 2)
    assert torch.equal(tiled(patches, 3)[1, 2, 2:4, 4:6], patches[1, 5, 2])  # row 1, column 2: cell 5
    assert torch.equal(tiled(patches[:, :1], 1), patches[:, 0])


def naive(net: nn.Module, images: Tensor, rows: list[int], label: int, how: Search, count: int) -> list[list[float]]:
    """One image, one crop at a time: (row, box, confidence, ratio) of the patches that are wanted."""
    side, patch = images.shape[3], images.shape[3] // how.factor
    u = torch.rand(len(rows) * how.crops, 22, generator=generator(7, "boxes", label), dtype=torch.float64)
    keys = torch.rand(len(rows), how.crops, generator=generator(7, "order", label)).tolist()
    boxes = windows(u, (side, side), how.crop_area, (1, 1)).view(len(rows), how.crops, 4)
    pool = []
    for n, row in enumerate(rows):
        x = (images[row] / 255 - MEAN) / STD
        c = attention(cam(net, x[None], torch.tensor([label])), (side, side))[0]
        own = []
        for m in range(how.crops):
            top, left, height, width = boxes[n, m].tolist()
            part = images[row, None, :, top : top + height, left : left + width].float()
            small = F.interpolate(part, size=(patch, patch), mode="bilinear", antialias=True).round()
            blank = torch.zeros(1, 3, side, side)  # the mean colour
            edge = (side - patch) // 2
            blank[:, :, edge : edge + patch, edge : edge + patch] = (small / 255 - MEAN) / STD
            sure = torch.softmax(net(blank), 1)[0]
            region = c[top : top + height, left : left + width]
            ratio = {
                "": 0.0,
                "density": region.mean().item(),
                "mass": (region.sum() / c.sum()).item(),
                "share": (region >= how.epsilon).float().mean().item(),
            }[how.cam_ratio]
            place = int((sure > sure[label]).sum())
            own.append((row, boxes[n, m].tolist(), sure[label].item(), ratio, keys[n][m], place))
        rank = {"lowest": lambda p: -p[2], "highest": lambda p: p[2], "random": lambda p: p[4]}[how.confidence]
        own.sort(key=(lambda p: p[3]) if how.cam_ratio else rank, reverse=True)
        pool += own[: how.top]
    if how.guard == "median":
        middle = sorted(p[3] for p in pool)[(len(pool) - 1) // 2]
        pool = [p for p in pool if p[3] >= middle]
    if how.guard == "top5":
        pool = [p for p in pool if p[5] < 5]
    pool.sort(key=rank, reverse=True)
    return [[p[0], *p[1], p[2], p[3]] for p in pool[:count]]


RDED = replace(HOW, cam_ratio="", confidence="highest")


@pytest.mark.parametrize(
    "how",
    [
        HOW, replace(HOW, top=3, cam_ratio="mass"), replace(HOW, cam_ratio="share", top=2, factor=1),
        replace(HOW, confidence="highest", factor=4), replace(HOW, confidence="random"), RDED, replace(RDED, top=2),
        replace(RDED, confidence="random"), replace(RDED, confidence="lowest"),
        replace(HOW, guard="median"), replace(HOW, guard="top5", top=2),
    ],
)  # fmt: skip
def test_search_finds_what_one_image_and_crop_at_a_time_finds(how: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = teacher(), pictures(60)
    rows = torch.randperm(60, generator=generator("rows"))[:25]
    wanted = naive(net, images, rows.tolist(), 5, how, 8)
    if how.guard != "none":  # it has something to drop
        assert wanted != naive(net, images, rows.tolist(), 5, replace(how, guard="none"), 8)
    for pixels in (2**20, 16 * 16 * 7):  # in one batch, and in several
        monkeypatch.setattr(discovery, "PIXELS", pixels)
        found = search(Scoring(net, how, mean=MEAN, std=STD), images, rows, 5, 8, 7)
        assert found["rows"].tolist() == [row[0] for row in wanted]
        assert found["boxes"].tolist() == [row[1:5] for row in wanted]
        torch.testing.assert_close(found["confidence"], torch.tensor([row[5] for row in wanted]), rtol=1e-3, atol=1e-6)
        ratios = torch.tensor([row[6] for row in wanted], dtype=torch.float64)
        torch.testing.assert_close(found["ratio"], ratios, rtol=1e-4, atol=1e-6)
    assert (
        how.confidence == "random" or found["confidence"].diff().mul(1 if how.confidence == "lowest" else -1).min() >= 0
    )


def test_another_class_has_boxes_of_its_own() -> None:
    net, images = teacher(), pictures(30)
    scoring = Scoring(net, HOW, mean=MEAN, std=STD)
    one, other = (search(scoring, images, torch.arange(30), label, 30, seed=0) for label in (0, 1))
    again = search(scoring, images, torch.arange(30), 0, 30, seed=0)
    assert torch.equal(one["boxes"], again["boxes"]) and not torch.equal(
        one["boxes"].sort(0)[0], other["boxes"].sort(0)[0]
    )
    seeded = search(scoring, images, torch.arange(30), 0, 30, seed=1)
    assert not torch.equal(one["boxes"].sort(0)[0], seeded["boxes"].sort(0)[0])


@pytest.mark.parametrize("how", [replace(HOW, top=2, guard="median"), RDED], ids=["nrr-dd", "rded"])
@pytest.mark.parametrize("deep", [False, True], ids=["cam", "grad-cam"])
def test_recorded_batches_find_what_eager_ones_find(
    how: Search, deep: bool, repeated: list[Repeated], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, images = teacher(), pictures(70)
    if deep:  # with a head of two layers
        net.head = nn.Sequential(nn.Linear(net.head.in_features, 16), nn.ReLU(), nn.Linear(16, 8)).requires_grad_(False)
        net = nn.Sequential(net.features, net.head).eval()
    monkeypatch.setattr(discovery, "PIXELS", 16 * 16 * 7 * (how.top if how.cam_ratio else how.crops))  # of 7 images

    def found(precision: str) -> list[dict[str, Tensor]]:
        with computing(torch.device("cpu"), precision):
            scoring = Scoring(net, how, mean=MEAN, std=STD)
            return [search(scoring, images, torch.arange(30) + 10 * k, k, 8, 7) for k in range(4)]

    recorded, eager = found("fp32"), found("exact")
    # Four whole batches a class, of which three run first, and one of 2, whose fourth is that of the last class.
    assert sorted((one.shapes[0][0], one.calls) for one in repeated) == [(2, 1), (7, 13)]
    for one, other in zip(recorded, eager, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


def test_normalised_undoes_8_bits() -> None:
    x = normalised(pictures(2), MEAN, STD)
    assert torch.equal(((x * STD + MEAN) * 255).round().to(torch.uint8), pictures(2))


def test_units_hold_whole_classes() -> None:
    assert discovery_units(300, 10, 32) == [("discover", range(10))]
    assert [len(own) for _, own in discovery_units(300, 10, 224)] == [4, 4, 2]
    assert len(discovery_units(300, 1000, 224)) == 250


def test_too_few_patches_are_an_error() -> None:
    net, images = teacher(), pictures(12)
    with pytest.raises(
        UsageError, match="class 3 has 7 patches of 12 left by guard 'median', 8 are needed; raise --mipc"
    ):
        search(Scoring(net, replace(HOW, guard="median"), mean=MEAN, std=STD), images, torch.arange(12), 3, 8, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cam_ratio": "size"}, "unknown cam_ratio 'size'; known: density, mass, share"),
        ({"confidence": "low"}, "unknown confidence 'low'; did you mean 'lowest'?"),
        ({"guard": "top1"}, "unknown guard 'top1'; did you mean 'top5'?"),
        ({"crop_area": 0.0}, r"crop_area is 0; it must be in \(0, 1\]"),
        ({"top": 5}, "top is 5 of 4 squares an image"),
        ({"factor": 0}, "factor is 0; use 1 or more"),
        ({"guard": "median", "cam_ratio": ""}, "guard 'median' is one of CAM ratios"),
    ],
)
def test_a_search_that_is_not_possible_is_an_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(HOW, **changes)

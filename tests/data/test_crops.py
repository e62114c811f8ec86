"""The decoder `crops` against a naive loop in float64 and values by hand, and artifacts of mosaics from end to end."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from test_artifact import forge
from test_cli import run
from test_results import tiny
from torch import Tensor

import ddhub
from ddhub.artifact import results
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import MANIFEST, README
from ddhub.cards import card
from ddhub.convert.export import export
from ddhub.data import decode
from ddhub.errors import ArtifactError, UsageError
from ddhub.measures import mosaic

UNIT = [(0.0, 1.0)] * 3
CROPS = {"kind": "crops", "factor": 2, "side": 4}


def noise(count: int, side: int, channels: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(side)
    return torch.randint(256, (count, channels, side, side), dtype=torch.uint8, generator=random)


def some_boxes(count: int, regions: int, last: int) -> Tensor:
    random = torch.Generator().manual_seed(regions)
    return torch.randint(last + 1, (count, regions, 2), generator=random).to(
        torch.uint8 if last < 256 else torch.uint16
    )


def naive(images: Tensor, factor: int, boxes: Tensor | None) -> np.ndarray[Any, Any]:
    """All items in order, pixel by pixel in float64, as the specification of IDC and UDD says it."""
    stored = images.double().numpy() / 255
    count, channels, height, _ = stored.shape
    side = math.ceil(height / factor)
    canvas = np.full((count, channels, factor * side, factor * side), 0.5)
    canvas[:, :, :height, :height] = stored
    places = [(n, row * side, column * side) for row in range(factor) for column in range(factor) for n in range(count)]
    if boxes is not None:
        places += [(n, *map(int, boxes[n, r])) for r in range(boxes.shape[1]) for n in range(count)]
    items = np.zeros((len(places), channels, height, height))
    for item, (n, top, left) in enumerate(places):
        square = canvas[n, :, top : top + side, left : left + side]
        for i in range(height):
            for j in range(height):
                (y, up), (x, right) = (along(place, side, height) for place in (i, j))
                y2, x2 = min(y + 1, side - 1), min(x + 1, side - 1)
                first = square[:, y, x] * (1 - right) + square[:, y, x2] * right
                second = square[:, y2, x] * (1 - right) + square[:, y2, x2] * right
                items[item, :, i, j] = first * (1 - up) + second * up
    return items


def along(place: int, side: int, height: int) -> tuple[int, float]:
    """The source pixel of a target pixel's centre, and how far beyond that pixel's centre it is."""
    at = min(max((place + 0.5) * side / height - 0.5, 0), side - 1)
    return int(at), at - int(at)


@pytest.mark.parametrize(
    ("side", "factor", "regions", "channels"),
    [(8, 2, 3, 3), (8, 2, 0, 3), (7, 2, 2, 1), (10, 3, 1, 3), (14, 3, 1, 1), (10, 4, 5, 3), (5, 5, 1, 3)],
)
def test_items_equal_a_naive_loop(side: int, factor: int, regions: int, channels: int) -> None:
    images, tile = noise(3, side, channels), math.ceil(side / factor)
    boxes = some_boxes(3, regions, (factor - 1) * tile) if regions else None
    tensors = {} if boxes is None else {"decoder.boxes": boxes}
    decoder = decode.build({"kind": "crops", "factor": factor, "side": tile}, images, tensors, UNIT[:channels])
    assert len(decoder) == 3 * (factor**2 + regions)
    whole = decoder(torch.arange(len(decoder)))
    assert whole.dtype == torch.float32
    assert np.allclose(whole.numpy(), naive(images, factor, boxes), rtol=0, atol=1e-6)
    for size in (1, 2, 5):  # whatever batch an item comes in, to the bit
        assert torch.equal(torch.cat([decoder(part) for part in torch.arange(len(decoder)).split(size)]), whole)
    mixed = torch.tensor([len(decoder) - 1, 0, 4, 4])
    assert torch.equal(decoder(mixed), whole[mixed])
    assert decoder.image_of(mixed).tolist() == [2, 0, 1, 1]


def test_a_tile_and_a_region_by_hand() -> None:
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    boxes = torch.tensor([[[1, 2]]], dtype=torch.uint8)
    x = decode.Crops(image, 2, boxes, UNIT[:1])(torch.arange(5)) * 255
    # the outer pixels are the corners' own: twice as many pixels have their centres at 1/4 and 3/4 of a pixel
    first = [[0, 0.25, 0.75, 1], [1, 1.25, 1.75, 2], [3, 3.25, 3.75, 4], [4, 4.25, 4.75, 5]]
    for item, corner in enumerate([0, 2, 8, 10, 6]):  # four tiles row by row, then the region at row 1, column 2
        assert torch.allclose(x[item, 0], torch.tensor(first) + corner, atol=1e-5)


def test_beyond_the_image_is_grey() -> None:
    image = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
    x = decode.Crops(image, 2, None, UNIT)(torch.arange(4))
    assert not bool(x[0].any())
    for item, edge in ((1, x[1, :, :, -1]), (2, x[2, :, -1]), (3, x[3, :, -1])):
        assert bool((edge == 0.5).all()), item
    # a pixel range moves what is stored, and not what lies beyond it
    ranged = decode.Crops(image, 2, None, [(-1.0, 1.0)] * 3)(torch.arange(4))
    assert torch.equal(ranged[0], torch.full((3, 5, 5), -1.0)) and bool((ranged[1, :, :, -1] == 0.5).all())


def test_a_recipes_images_are_the_loaders_once_they_are_bytes() -> None:
    images, boxes = noise(4, 32), some_boxes(4, 2, 16)
    decoder, float_images = decode.Crops(images, 2, boxes, UNIT), images.float() / 255
    tiles = decode.grid(32, 32, 2)
    assert tiles.tolist() == [[0, 0], [0, 16], [16, 0], [16, 16]]
    which = torch.arange(4).repeat(6)
    corners = torch.cat([tiles.repeat_interleave(4, 0), boxes.long().transpose(0, 1).flatten(0, 1)])
    made = decode.crops(float_images, corners, which, side=16, size=(32, 32))
    assert torch.equal(made, decoder(torch.arange(24)))
    few = torch.tensor([3, 9, 17])
    assert torch.equal(decode.crops(float_images, corners[few], which[few], 16, (32, 32)), made[few])


def test_one_tile_is_the_image() -> None:
    images = noise(2, 8).float() / 255
    assert decode.grid(8, 8, 1).tolist() == [[0, 0]]
    assert torch.equal(decode.crops(images, torch.zeros(2, 2).long(), torch.tensor([1, 0]), 8, (8, 8)), images.flip(0))


def test_crops_are_differentiable_in_the_images() -> None:
    random = torch.Generator().manual_seed(0)
    images, step = torch.rand(2, 2, 3, 5, 5, generator=random, dtype=torch.float64).unbind(1)
    weights = torch.rand(4, 3, 5, 5, generator=random, dtype=torch.float64)
    corners, which = torch.tensor([[0, 0], [3, 3], [1, 2], [1, 2]]), torch.tensor([0, 1, 1, 1])

    def weighted(x: Tensor) -> Tensor:
        return (decode.crops(x, corners, which, 3, (5, 5)) * weights).sum()

    change = float(weighted(images + step) - weighted(images))  # the gradient's product with the step: crops are linear
    (gradient,) = torch.autograd.grad(weighted(images.requires_grad_()), images)
    assert float((gradient * step).sum()) == pytest.approx(change, rel=1e-12)
    assert not bool(gradient[0, :, 3:].any()) and not bool(gradient[0, :, :, 3:].any())


@pytest.mark.parametrize(("height", "width", "factor"), [(8, 8, 0), (8, 8, -2), (8, 8, 9), (32, 32, 12), (8, 6, 2)])
def test_a_factor_that_does_not_fit(height: int, width: int, factor: int) -> None:
    with pytest.raises(UsageError, match=f"factor {factor} for images of {height} x {width} pixels; they must be"):
        decode.grid(height, width, factor)


def bad(spec: dict[str, Any], message: str, **changes: Any) -> Any:
    return pytest.param(spec, changes, message)


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        bad({}, "a box begins beyond pixel 4", boxes=torch.tensor([[[0, 5]]] * 3).byte()),
        bad({}, "a box begins beyond pixel 4", boxes=torch.tensor([[[255, 0]]] * 3).byte()),
        bad({}, "boxes torch.int64 .* do not fit images", boxes=torch.zeros(3, 1, 2).long()),
        bad({}, "boxes torch.float32 .* do not fit images", boxes=torch.zeros(3, 1, 2)),
        bad({}, "boxes torch.int8 .* do not fit images", boxes=torch.zeros(3, 1, 2, dtype=torch.int8)),
        bad({}, r"boxes torch.uint8 \(2, 1, 2\) do not fit images \(3, 3, 8, 8\)", boxes=torch.zeros(2, 1, 2).byte()),
        bad({}, "do not fit images", boxes=torch.zeros(3, 1, 4).byte()),
        bad({}, "do not fit images", boxes=torch.zeros(3, 2).byte()),
        bad({"factor": 9, "side": 1}, "factor 9 for images of 8 x 8 pixels"),
        bad({"factor": 10**400, "side": 1}, "factor 10{400} for images"),
        bad({"factor": 1, "side": 8}, "needs whole numbers factor, 2 or more"),
        bad({"factor": 2.0}, "needs whole numbers factor"),
        bad({"factor": True}, "needs whole numbers factor"),
        bad({"side": None}, "needs whole numbers factor"),
        bad({"order": "region-major"}, "needs whole numbers .* and nothing else"),
        bad({"side": 8}, "side 8, not 4"),
        bad({}, "factor 2 for images of 8 x 6 pixels", images=torch.zeros(3, 3, 8, 6).byte()),
    ],
)
def test_what_is_stored_must_fit(spec: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    tensors = {"decoder.boxes": changes["boxes"]} if "boxes" in changes else {}
    with pytest.raises(ArtifactError, match=f"^decoder 'crops'.*{message}.*; regenerate the artifact$"):
        decode.build({**CROPS, **spec}, changes.get("images", noise(3, 8)), tensors, UNIT)


def test_boxes_of_sixteen_bits() -> None:
    image, boxes = noise(1, 600, 1), torch.tensor([[[300, 299]]], dtype=torch.uint16)
    decoder = decode.build({"kind": "crops", "factor": 2, "side": 300}, image, {"decoder.boxes": boxes}, UNIT[:1])
    assert float(decoder(torch.tensor([4]))[0, 0, 0, 0]) == pytest.approx(float(image[0, 0, 300, 299]) / 255)


# ---------------------------------------------------------------- artifacts of mosaics


def mosaics(folder: Path, regions: int = 2, side: int = 8, channels: int = 3, **changes: Any) -> Artifact:
    """Two mosaics of 2 x 2 tiles for each of three classes."""
    tile = math.ceil(side / 2)
    manifest = tiny(
        name=folder.name,
        image_size=(channels, side, side),
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
        decoder={"kind": "crops", "factor": 2, "side": tile},
        tensors={},
        **{"method": "udd", "labels": {"kind": "hard"}, "pixel_range": ((0.0, 1.0),) * channels, **changes},
    )
    tensors = {"decoder.boxes": some_boxes(6, regions, tile)} if regions else {}
    if manifest.labels["kind"] == "soft":
        tensors["labels.logits"] = torch.randn(6 * (4 + regions), 3).half()
    return Artifact.write(
        folder,
        manifest=manifest,
        images=noise(6, side, channels),
        image_labels=torch.tensor([0, 0, 1, 1, 2, 2]),
        tensors=tensors,
    )


def test_an_artifact_of_mosaics_loads_and_trains(tmp_path: Path) -> None:
    artifact = mosaics(tmp_path / "tiny-udd-ipc2")
    data = ddhub.load(artifact.folder)
    assert len(data) == 36 and repr(data).startswith("LoadedData 'tiny-udd-ipc2': 36 items of")
    x, target = data.as_dataset()[19]  # the fourth tile of the second image
    assert target.tolist() == [1, 0, 0]
    wanted = torch.tensor(naive(artifact.images(), 2, artifact.tensors()["decoder.boxes"])[19])
    assert torch.allclose(x, ((wanted - 0.5) / 0.2).float(), atol=1e-5)
    seen = [(len(images), len(labels)) for images, labels in data.batches(seed=0, epochs=1, batch_size=16)]
    assert seen == [(16, 16), (16, 16), (4, 4)]
    assert artifact.bytes_by_tensor()["decoder.boxes"] == 24


@pytest.mark.parametrize(
    ("change", "boxes", "message"),
    [
        ({}, torch.full((6, 2, 2), 5), "a box begins beyond pixel 4"),
        ({"factor": 9, "side": 1}, None, "factor 9 for images of 8 x 8 pixels"),
        ({"side": 5}, None, "side 5, not 4"),
    ],
)
def test_forged_mosaics_are_refused(tmp_path: Path, change: dict[str, Any], boxes: Tensor | None, message: str) -> None:
    folder = mosaics(tmp_path / "tiny-udd-ipc2").folder
    stored = {} if boxes is None else {"tensors": safetensors.torch.save({"decoder.boxes": boxes.byte()})}
    forge(folder, lambda record: record["decoder"].update(change), **stored)
    with pytest.raises(ArtifactError, match=f"^{folder / MANIFEST}: decoder 'crops'.*{message}[^\\n]*$"):
        ddhub.load(folder)


def test_more_items_than_memory_may_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mosaics(tmp_path / "tiny-udd-ipc2").folder
    monkeypatch.setattr("ddhub.artifact.consistency.max_bytes", lambda: 8 * 36 - 1)
    with pytest.raises(ArtifactError, match=f"{MANIFEST}: 36 training images, and DDHUB_MAX_BYTES allows 287 bytes"):
        ddhub.load(folder)
    monkeypatch.setattr("ddhub.artifact.consistency.max_bytes", lambda: 8 * 36)
    ddhub.load(folder)


def test_export_writes_every_square(tmp_path: Path) -> None:
    artifact = mosaics(tmp_path / "tiny-udd-ipc2", regions=1)
    export(artifact.folder, "npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert found["images"].shape == (30, 3, 8, 8) and np.bincount(found["labels"]).tolist() == [10, 10, 10]
        order = [n + 6 * slot for pair in ((0, 1), (2, 3), (4, 5)) for slot in range(5) for n in pair]
        wanted = naive(artifact.images(), 2, artifact.tensors()["decoder.boxes"])
        assert np.allclose(found["images"], wanted[order], atol=1e-6)


def test_the_picture_shows_squares_and_how_often_pixels_are_used(tmp_path: Path) -> None:
    artifact = mosaics(tmp_path / "tiny-udd-ipc2", side=7)
    path = tmp_path / "a.png"
    words = "4 tiles in white, 2 regions in colours; training images per pixel, white is "
    assert run("preview", artifact.folder, "--to", path).startswith(f"{path}: {words}")
    boxes = artifact.tensors()["decoder.boxes"].tolist()
    counts = np.ones((6, 8, 8), int)  # a pixel is part of one tile
    for n, image in enumerate(boxes):
        for y, x in image:
            counts[n, y : y + 4, x : x + 4] += 1
    picture = np.asarray(Image.open(path))
    assert picture.shape == (3 * 130 + 2, 4 * 130 + 2, 3)  # rows of two images and two maps of 8 x 8 pixels, x 16
    for n in range(6):
        row, column = divmod(n, 2)
        used = picture[130 * row + 10 :, 130 * (2 * column + 1) + 10 :][:128:16, :128:16]
        assert np.array_equal(used[..., 0], counts[n] * 255 // counts.max()) and np.ptp(used, axis=2).max() == 0
    assert picture[2, 2].tolist() in ([255, 255, 255], [0xE6, 0x9F, 0x00], [0x56, 0xB4, 0xE9])
    middle = picture[2 + 12, 2 + 12]  # inside the first pixel of the first image
    assert middle.tolist() == artifact.images()[0, :, 0, 0].tolist()
    plain = run("preview", mosaics(tmp_path / "plain", regions=0, channels=1).folder, "--to", path)
    assert plain == f"{path}: 4 tiles in white, 0 regions in colours; training images per pixel, white is 1\n"
    assert mosaic.use_counts(torch.tensor([[0, 0], [1, 1]]), 2).tolist() == [[1, 1, 0], [1, 2, 1], [0, 1, 1]]


@pytest.mark.parametrize("measured", [3, [], {"proxy": ["x"]}, {"proxy": "../../x"}, {"proxy": "nobody@0123456789ab"}])
def test_the_picture_of_a_manifest_that_names_no_proxy(tmp_path: Path, measured: object) -> None:
    recipe = {**tiny().recipe, "run": {**tiny().recipe["run"], "measured": measured}}
    folder = mosaics(tmp_path / "tiny-udd-ipc2", recipe=recipe).folder
    assert "training images per pixel, white is " in run("preview", folder, "--to", tmp_path / "a.png")


def test_the_picture_of_large_images_is_reduced(tmp_path: Path) -> None:
    png, _ = mosaic.draw(mosaics(tmp_path / "tiny-udd-ipc2", side=200))
    assert Image.open(io.BytesIO(png)).size == (4 * 130 + 2, 3 * 130 + 2)


def test_what_was_measured_is_printed_and_on_the_card(tmp_path: Path) -> None:
    recipe = tiny().recipe
    measured = {"mUE": 0.912, "proxy": "a <b>\nx", "proxy_accuracy": 83.25}
    recipe = {**recipe, "run": {**recipe["run"], "measured": measured}}
    folder = mosaics(tmp_path / "tiny-udd-ipc2", recipe=recipe).folder
    lines = run("info", folder).splitlines()
    assert "measured        mUE 0.912, proxy a <b> x, proxy_accuracy 83.25" in lines
    assert "decoder         factor 2, kind crops, side 4" in lines
    assert json.loads(run("info", folder, "--json"))["measured"] == measured
    run("card", folder)
    text = (folder / README).read_text()
    for line in ("| measured mUE | 0.912 |", "| measured proxy | a &lt;b> x |", "| measured proxy_accuracy | 83.25 |"):
        assert line in text
    made = "4 tiles and 2 regions of 4 x 4 px of every stored image, enlarged: 36 training images"
    assert f"Decoder: crops ({made})." in text
    run("verify", folder)


@pytest.mark.parametrize("spec", [{"factor": 10**4000}, {"factor": "2"}, {"side": 3}, {"factor": -1}, {}])
def test_cards_of_impossible_mosaics_render(spec: dict[str, Any]) -> None:
    m = tiny(decoder={"kind": "crops", "factor": 2, "side": 4, **spec})
    text = card.render(results.Entry(m, []))
    assert "Decoder: crops. Labels" in text and "squares" not in text
    boxes = {"dtype": "U8", "shape": [6]}
    m = replace(tiny(), decoder=CROPS, image_size=(3, 8, 8), tensors={**tiny().tensors, "decoder.boxes": boxes})
    assert "4 tiles and 0 regions" in card.render(results.Entry(m, []))

"""Encodings: stored pixels are those that pictures decode to, sheets those of a loop, other decoders are noticed."""

from __future__ import annotations

import io
import logging
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_artifact import content, tiny

from ddhub.artifact import codec, consistency, pictures
from ddhub.artifact.codec import cut, decode, encode, sheets
from ddhub.artifact.encoding import grid, is_encoding, name_of, parse
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import PARQUET, Manifest
from ddhub.errors import ArtifactError, UsageError
from ddhub.sources.source import open_source

LOSSY = ["webp:30", "webp:90/1", "avif:50", "avif:50:420/3", "avif:20/2"]


@pytest.fixture(scope="module")
def real() -> tuple[torch.Tensor, torch.Tensor]:
    """Six real images of each of ten classes, class by class."""
    source = open_source("cifar10-mini")
    rows = torch.cat([(source.labels == k).nonzero().flatten()[:6] for k in range(10)])
    return source.images[rows], source.labels[rows]


def manifest(images: torch.Tensor, **changes: object) -> Manifest:
    """That of cifar10-mini's images with hard labels."""
    source = open_source("cifar10-mini")
    return tiny(
        name="coded", dataset="mini", classes=source.classes, image_size=tuple(images.shape[1:]),
        pixel_range=((0.0, 1.0),) * images.shape[1], mean=(0.5,) * images.shape[1], std=(0.2,) * images.shape[1],
        labels={"kind": "hard"}, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("text", [*LOSSY, "png", "png/6", "png/4", "avif:0", "webp:100/20"])
def test_an_encoding_has_one_name(text: str) -> None:
    assert name_of(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jpeg:30", "must be png, webp:QUALITY or avif:QUALITY"),
        ("webp", "must be webp:0 to webp:100$"),
        ("webp:30:444", "must be webp:0 to webp:100$"),
        ("avif:101", "avif:0 to avif:100, or avif:0 to avif:100:420"),
        ("avif:50:411", "avif:0 to avif:100, or"),
        ("png:5", "png has no quality"),
        ("avif:50/0", "must be png"),
        ("avif:50/x", "must be png"),
        ("", "must be png"),
    ],
)
def test_other_encodings_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(text)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 12])
def test_sheets_are_what_a_loop_pastes(count: int) -> None:
    images = torch.randint(0, 256, (2 * count, 3, 4, 5), dtype=torch.uint8)
    joined, (rows, columns) = sheets(images, count), grid(count)
    assert rows * columns >= count > (rows - 1) * columns
    for number, sheet in enumerate(joined):
        pasted = np.full((3, rows * 4, columns * 5), 128, np.uint8)
        for k in range(count):
            y, x = divmod(k, columns)
            pasted[:, 4 * y : 4 * y + 4, 5 * x : 5 * x + 5] = images[number * count + k].numpy()
        assert np.array_equal(sheet.numpy(), pasted)
    assert torch.equal(cut(joined, count), images)


@pytest.mark.parametrize("text", [*LOSSY, "png", "png/3"])
@pytest.mark.parametrize("channels", [3, 1])
def test_coded_images_are_what_pillow_reads_from_the_parquet_file(
    text: str, channels: int, real: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    images, labels = real[0][:, :channels], real[1]
    coded = encode(images, labels, parse(text))
    artifact = Artifact.write(
        tmp_path / "coded", manifest=manifest(images), images=coded, image_labels=labels, tensors={}
    )
    rows = pq.read_table(tmp_path / "coded" / PARQUET).to_pylist()
    sheet = artifact.manifest.encoding.get("sheet", 1)
    assert len(rows) == 60 // sheet
    _, columns = grid(sheet)
    for number, image in enumerate(Artifact.open(tmp_path / "coded").images()):
        row, k = rows[number // sheet], number % sheet
        assert row["label"] == labels[number]
        y, x = divmod(k, columns)
        picture = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        naive = picture[32 * y : 32 * y + 32, 32 * x : 32 * x + 32].transpose(2, 0, 1)
        assert np.array_equal(image.numpy(), naive if channels == 3 else naive[1:2])
    assert torch.equal(artifact.images(), coded.images)
    moved = (coded.images.float() - images.float()).square().mean().sqrt()
    assert (moved == 0) if text.startswith("png") else (0.5 < moved < 25)


def test_a_sheet_of_a_class_is_the_default_and_costs_less(real: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = real
    one, many = (encode(images, labels, parse(text)) for text in ("avif:50/1", "avif:50"))
    assert many.encoding["sheet"] == 6 and len(many.pictures) == 10
    assert sum(map(len, many.pictures)) < 0.5 * sum(map(len, one.pictures))
    uneven = encode(images[:-2], labels[:-2], parse("webp:30"))  # 6 images of nine classes, 4 of the last
    assert uneven.encoding["sheet"] == 2
    assert torch.equal(uneven.picture_labels, labels[:-2:2])


def test_a_sheet_that_mixes_classes_or_is_too_large_is_refused(real: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = real
    for text in ("avif:50/4", "avif:50/7", "avif:50/12"):
        with pytest.raises(UsageError, match="mixes classes, or is not filled; choose a divisor"):
            encode(images, labels, parse(text))
    wide = torch.zeros(4, 3, 1, 9000, dtype=torch.uint8)
    with pytest.raises(UsageError, match=r"18,000 pixels a side, and 16,383 are allowed; lower /4"):
        encode(wide, torch.zeros(4), parse("webp:30/4"))
    assert encode(wide, torch.zeros(4), parse("webp:30")).encoding["sheet"] == 1


def test_the_digest_has_the_encoding_and_the_content_the_pixels(
    real: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    images, labels = real
    coded = encode(images, labels, parse("avif:50"))
    write = {"manifest": manifest(images), "image_labels": labels, "tensors": {}}
    one = Artifact.write(tmp_path / "one", images=coded, **write)
    two = Artifact.write(tmp_path / "two", images=coded.images, **write)  # the same pixels, as PNG
    assert one.manifest.content == two.manifest.content
    assert one.manifest.digest != two.manifest.digest
    assert one.manifest.stored_bytes < 0.2 * two.manifest.stored_bytes


def test_other_labels_than_those_of_the_pictures_are_refused(
    real: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    images, labels = real
    coded = encode(images, labels, parse("webp:30"))
    with pytest.raises(UsageError, match="not those that the images were coded with"):
        Artifact.write(tmp_path / "x", manifest=manifest(images), images=coded, image_labels=labels.flip(0), tensors={})


def test_a_decoder_that_differs_is_told_and_bounded(
    real: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    images, labels = real
    Artifact.write(
        tmp_path / "x", manifest=manifest(images), images=encode(images, labels, parse("avif:50")),
        image_labels=labels, tensors={},
    )  # fmt: skip

    def decoder(levels: int) -> None:
        def other(picture: bytes, size: tuple[int, int, int], name: str) -> np.ndarray:
            return (decode(picture, size, name).astype(int) + levels).clip(0, 255).astype(np.uint8)

        monkeypatch.setattr(pictures, "decode", other)

    with caplog.at_level(logging.WARNING):
        Artifact.open(tmp_path / "x")
        assert not caplog.messages
        decoder(2)
        Artifact.open(tmp_path / "x")
        assert caplog.messages == [
            "coded: its images decode to other pixels than where they were made, by 2 of 255 levels at most in samples"
        ]
    decoder(3)
    with pytest.raises(ArtifactError, match=r"other pixels here \(avif .*\), by 3 levels in 2\d\d of 256 .* 2;"):
        Artifact.open(tmp_path / "x")


@pytest.mark.parametrize("text", ["webp:50/1", "avif:50/1", "avif:50:420/3", "png"])
def test_a_changed_picture_is_refused_or_has_its_size(text: str, real: tuple[torch.Tensor, torch.Tensor]) -> None:
    picture = encode(real[0][:3], real[1][:3], parse(text)).pictures[0]
    size = (3, 64, 64) if text.endswith("/3") else (3, 32, 32)
    draw, refused = np.random.default_rng(0), 0
    for _ in range(600):
        changed = bytearray(picture)
        for place in draw.integers(0, len(picture), draw.integers(1, 4)):
            changed[place] = draw.integers(0, 256)
        cut_off = bytes(changed[: draw.integers(0, len(picture))] if draw.random() < 0.2 else changed)
        try:
            pixels = decode(cut_off, size, text.partition(":")[0])
        except (ValueError, OSError, SyntaxError, RuntimeError, struct.error):
            refused += 1
        else:
            assert pixels.shape == size and pixels.dtype == np.uint8
    assert refused > 100


def test_what_a_manifest_may_say_of_its_images(real: tuple[torch.Tensor, torch.Tensor]) -> None:
    good = encode(*real, parse("avif:50")).encoding
    assert is_encoding(good) and is_encoding({"codec": "png"}) and is_encoding({"codec": "png", "sheet": 3})
    changes = {
        "codec": ["png", "jpeg", 3, None], "quality": [101, -1, 5.0, True], "chroma": ["411", 4], "sheet": [0, "6"],
        "pixels": ["", "g" * 64, 3], "samples": ["abc", "zz", "00" * 257, None], "tolerance": [-1, 5, 255, 0.5],
    }  # fmt: skip
    for key, values in changes.items():
        assert not is_encoding({k: v for k, v in good.items() if k != key})
        for value in values:
            assert not is_encoding({**good, key: value}), (key, value)
    assert (
        not is_encoding({**good, "more": 1}) and not is_encoding([]) and not is_encoding({"codec": "png", "sheet": 0})
    )


def test_a_pillow_without_the_codec_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(codec.features, "check", lambda name: False)
    rest = content()
    with pytest.raises(UsageError, match="this Pillow has no AVIF; pip install -U pillow"):
        encode(rest["images"], rest["image_labels"], parse("avif:50"))


def test_recorded_pixels_stand_for_the_images_in_the_content(real: tuple[torch.Tensor, torch.Tensor]) -> None:
    coded = encode(*real, parse("webp:30"))
    plain = manifest(coded.images)
    recorded = replace(plain, encoding=coded.encoding)
    assert consistency.content(plain, coded.images, coded.labels, {}) == consistency.content(
        recorded, coded.images, coded.labels, {}
    )

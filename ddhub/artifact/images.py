"""Stored images: the parquet file that is their one home, and the preview grid.

The file holds two columns, `image` {bytes: PNG, WebP or AVIF, path: null} and `label` int64, and names its
features in the schema key `huggingface`, so that

    datasets.load_dataset("parquet", data_files="data/train-00000-of-00001.parquet")

yields images and named classes. `datasets` itself is not needed, neither to write nor to read.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from ddhub.artifact.codec import Coded
from ddhub.artifact.manifest import Manifest, canonical
from ddhub.data import decode
from ddhub.data.decode import Decoder

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LABEL = pa.int64()


def to_parquet(coded: Coded, classes: tuple[str, ...]) -> bytes:
    """The parquet file of pictures and their classes."""
    label = {"names": [*classes], "_type": "ClassLabel"}
    return table(coded.pictures, {"label": (label, pa.array(coded.picture_labels.tolist(), LABEL))})


def stored_bytes(coded: Coded, classes: tuple[str, ...], tensors: Mapping[str, Tensor] | None = None) -> int:
    """Bytes of the files that would hold pictures with their classes, and tensors (`Manifest.stored_bytes`)."""
    whole = {name: tensor.contiguous().clone() for name, tensor in sorted((tensors or {}).items())}
    return len(to_parquet(coded, classes)) + (len(safetensors.torch.save(whole)) if whole else 0)


def table(pictures: Sequence[bytes], columns: dict[str, tuple[dict[str, Any], pa.Array]]) -> bytes:
    """A parquet file of encoded pictures and further columns: name -> (feature of `datasets`, values)."""
    features = {"image": {"_type": "Image"}, **{name: feature for name, (feature, _) in columns.items()}}
    schema = pa.schema(
        [("image", IMAGE), *((name, values.type) for name, (_, values) in columns.items())],
        metadata={"huggingface": canonical({"info": {"features": features}})},
    )
    rows = [{"bytes": picture, "path": None} for picture in pictures]
    out = io.BytesIO()
    pq.write_table(
        pa.table([pa.array(rows, IMAGE), *(values for _, values in columns.values())], schema=schema),
        out,
        # small groups and a page index: what the Hub's viewer scans is bounded; not too many, as the reader bounds them
        row_group_size=max(100, len(pictures) // 1000),
        write_page_index=True,
        # pictures neither compress nor repeat, and their statistics would repeat whole images
        compression="none",
        use_dictionary=False,
        write_statistics=[*columns],
        data_page_version="1.0",
    )
    return out.getvalue()


def preview_of(manifest: Manifest, images: Tensor, labels: Tensor, tensors: Mapping[str, Tensor]) -> bytes:
    """The PNG picture of an artifact: its stored images, but of compensated ones what they become."""
    if manifest.decoder["kind"] != "compensate":
        return preview(images, labels, manifest.classes)
    decoder = decode.build(manifest.decoder, images, tensors, manifest.pixel_range)
    return decoded_preview(decoder, labels, manifest.classes, most=20)


def preview(images: Tensor, labels: Tensor, classes: tuple[str, ...], most: int = 20) -> bytes:
    """PNG grid of images u8 [N, C, H, W]: a row a class, at most 10 rows of `most`, on white, in 256 colours.

    Images of at most 64 pixels are enlarged twice, those of more than 128 reduced to 128.
    """
    rows = class_rows(labels, len(classes), most)
    height, width = images.shape[2:]
    scale = 2.0 if max(height, width) <= 64 else min(1.0, 128 / max(height, width))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grid = sheet([[to_pil(images[i]).resize(size, method) for i in row] for row in rows])
    return to_png(grid if grid.mode == "L" else grid.quantize(256, dither=Image.Dither.NONE))


def decoded_preview(decoder: Decoder, labels: Tensor, classes: tuple[str, ...], most: int = 10) -> bytes:
    """`preview` of training images of each class, those of one stored image side by side.

    Args:
        decoder: makes the training images.
        labels: classes `[N]` of the stored images.
        classes: their names.
        most: training images a class.
    """
    stored = decoder.image_of(torch.arange(len(decoder), device="cpu"))
    views = max(1, len(stored) // len(labels))  # training images of a stored one
    shown = class_rows(labels, len(classes), max(1, most // views))
    items = torch.cat([(stored == image).nonzero().flatten() for row in shown for image in row])
    images = decoder(items).mul(255).round().clamp(0, 255).to(torch.uint8)
    return preview(images, labels[stored[items]], classes, most)


def class_rows(labels: Tensor, classes: int, most: int) -> list[list[int]]:
    """Images of each of the first ten classes that have some: all, or so many that are spread evenly over them."""
    rows = [torch.nonzero(labels == k).flatten() for k in range(classes)]
    filled = [row for row in rows if len(row)][:10]
    return [
        row[torch.arange(min(most, len(row)), device="cpu") * len(row) // min(most, len(row))].tolist()
        for row in filled
    ]


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Rows of pictures of one size and mode, on white."""
    first = rows[0][0]
    dx, dy = first.width + 2, first.height + 2
    grid = Image.new(first.mode, (dx * max(map(len, rows)) + 2, dy * len(rows) + 2), "white")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            grid.paste(cell, (2 + x * dx, 2 + y * dy))
    return grid


def to_png(image: Image.Image) -> bytes:
    """The PNG file of an image; the same bytes for the same pixels and version of Pillow."""
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=False, compress_level=9)
    return out.getvalue()


def to_pil(image: Tensor) -> Image.Image:
    """An image u8 `[C, H, W]` as Pillow's: grey of one channel, else RGB."""
    array = image.permute(1, 2, 0) if len(image) == 3 else image[0]
    return Image.fromarray(array.contiguous().numpy())

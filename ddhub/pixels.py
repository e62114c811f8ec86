"""Stored images: the parquet file that is their one home, and the preview grid.

The file holds two columns, `image` {bytes: PNG, path: null} and `label` int64, and names its
features in the schema key `huggingface`, so that

    datasets.load_dataset("parquet", data_files="data/train-00000-of-00001.parquet")

yields images and named classes. `datasets` itself is not needed, neither to write nor to read.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from ddhub.errors import ArtifactError, first_line
from ddhub.manifest import REPAIR, canonical

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_LABEL = pa.int64()


def to_parquet(images: Tensor, labels: Tensor, classes: tuple[str, ...]) -> bytes:
    """The parquet file of images u8 [N, C, H, W] and their class numbers [N]."""
    features = {"image": {"_type": "Image"}, "label": {"names": [*classes], "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", _IMAGE), ("label", _LABEL)],
        metadata={"huggingface": canonical({"info": {"features": features}})},
    )
    rows = [{"bytes": to_png(_to_pil(image)), "path": None} for image in images]
    table = pa.table([pa.array(rows, _IMAGE), pa.array(labels.tolist(), _LABEL)], schema=schema)
    out = io.BytesIO()
    pq.write_table(
        table,
        out,
        # small groups and a page index: what the Hub's viewer scans is bounded
        row_group_size=100,
        write_page_index=True,
        # PNG neither compresses nor repeats, and its statistics would repeat whole images
        compression="none",
        use_dictionary=False,
        write_statistics=["label"],
    )
    return out.getvalue()


def read_images(path: Path, count: int, image_size: tuple[int, int, int]) -> Tensor:
    """The `count` images of a parquet file, u8 [N, C, H, W]. ArtifactError for anything else."""
    column = _column(path, "image", _IMAGE, count)
    out = np.empty((count, *image_size), np.uint8)
    for i, value in enumerate(column):
        try:
            out[i] = _decode(value["bytes"].as_py(), image_size)
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, …
            cause = f"image {i} is no PNG of {image_size} pixels ({first_line(error)})"
            raise ArtifactError(f"{path}: {cause}; {REPAIR}") from None
    return torch.from_numpy(out)


def read_labels(path: Path, count: int, classes: int) -> Tensor:
    """The `count` labels of a parquet file, int64 [N]. ArtifactError outside 0..classes-1."""
    labels = _column(path, "label", _LABEL, count).to_pylist()
    for i, label in enumerate(labels):
        if label is None or not 0 <= label < classes:
            cause = f"label {i} is {label}, not one of 0..{classes - 1}"
            raise ArtifactError(f"{path}: {cause}; {REPAIR}")
    return torch.tensor(labels)


def preview(images: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Image.Image:
    """Grid of images u8 [N, C, H, W]: a row a class, at most 10 rows of 10, on white.

    Images of at most 64 pixels are enlarged twice, those of more than 128 reduced to 128.
    """
    rows = [torch.nonzero(labels == k).flatten()[:10].tolist() for k in range(len(classes))]
    rows = [row for row in rows if row][:10]
    height, width = images.shape[2:]
    scale = 2.0 if max(height, width) <= 64 else min(1.0, 128 / max(height, width))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    dx, dy = size[0] + 2, size[1] + 2
    grid = Image.new(
        "L" if images.shape[1] == 1 else "RGB",
        (dx * max(len(row) for row in rows) + 2, dy * len(rows) + 2),
        "white",
    )
    for y, row in enumerate(rows):
        for x, i in enumerate(row):
            grid.paste(_to_pil(images[i]).resize(size, method), (2 + x * dx, 2 + y * dy))
    return grid


def to_png(image: Image.Image) -> bytes:
    """The PNG file of an image; the same bytes for the same pixels and version of Pillow."""
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=False, compress_level=9)
    return out.getvalue()


def _to_pil(image: Tensor) -> Image.Image:
    array = image.permute(1, 2, 0) if len(image) == 3 else image[0]
    return Image.fromarray(array.contiguous().numpy())


def _column(path: Path, name: str, kind: pa.DataType, count: int) -> pa.ChunkedArray:
    try:
        with pq.ParquetFile(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
            if schema.names != ["image", "label"] or schema.field(name).type != kind:
                raise ValueError(f"columns {schema.names}, or the type of {name!r}, are not ours")
            if rows != count:
                raise ValueError(f"{rows} rows, the manifest says {count}")
            return file.read(columns=[name]).column(name)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({first_line(error)}); {REPAIR}") from None


def _decode(png: bytes, size: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """u8 [C, H, W] of a PNG file; ValueError when it is of another mode or size."""
    image = Image.open(io.BytesIO(png), formats=["PNG"])
    mode = "L" if size[0] == 1 else "RGB"
    # asked before it is decoded: a small file can decode to gigabytes
    if (image.mode, image.height, image.width) != (mode, *size[1:]):
        raise ValueError(f"{image.mode}, {image.height} x {image.width}")
    return np.asarray(image).reshape(*size[1:], size[0]).transpose(2, 0, 1)

"""The careful reader of stored images: what a parquet file claims is compared with the manifest before it is read.

ddhub writes neither compression nor dictionaries, and a PNG of three kinds of chunks. A file that has anything else is
refused, because a few bytes of it could stand for gigabytes: so no column takes more memory than the file has bytes,
and what it decodes to is what the manifest says.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddhub.errors import ArtifactError, first_line
from ddhub.manifest import REPAIR, canonical
from ddhub.pixels import IMAGE, LABEL

_MAGIC = b"PAR1"
_TOGETHER = 2**25  # bytes of images in memory at a time, were every row as large as its group of rows
_GROUPS = 1100  # of rows: ddhub writes at most 1,010
_PNG = b"\x89PNG\r\n\x1a\n"


def read(
    data: bytes, count: int, image_size: tuple[int, int, int], classes: tuple[str, ...], what: str
) -> tuple[Tensor, Tensor]:
    """The `count` images u8 [N, C, H, W] of a parquet file and their labels int64 [N].

    Raises:
        ArtifactError: about `what`, for anything but so many PNG of this size with labels of 0..len(classes)-1.
    """
    images, labels = np.empty((count, *image_size), np.uint8), np.empty(count, np.int64)
    row = 0
    try:
        for batch in _batches(data, count, len(canonical(classes))):
            for i, label in enumerate(batch.column(1).to_pylist(), row):
                if label is None or not 0 <= label < len(classes):
                    raise _Wrong(f"label {i} is {label}, not one of 0..{len(classes) - 1}")
                labels[i] = label
            for i, png in enumerate(batch.column(0).flatten()[0], row):
                try:
                    images[i] = _decode(png.as_py() or b"", image_size)
                except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, …
                    raise _Wrong(f"image {i} is no PNG of {image_size} pixels ({first_line(error)})") from None
            row += len(batch)
    except _Wrong as error:
        raise ArtifactError(f"{what}: {error}; {REPAIR}") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{what}: cannot be read ({first_line(error)}); {REPAIR}") from None
    return torch.from_numpy(images), torch.from_numpy(labels)


class _Wrong(Exception):
    """What is wrong with an image or a label, so that the rest of the message is written once."""


def _batches(data: bytes, count: int, names: int) -> Iterator[pa.RecordBatch]:
    """Rows of both columns, `count` in all, some MiB at a time; the names of the classes have `names` bytes.

    Raises ValueError, OSError or Arrow's errors.
    """
    footer = int.from_bytes(data[-8:-4], "little")
    # It lists groups of rows, 4 bytes a row, and the names, twice. Arrow may take 250 times its bytes in memory.
    largest = min(2**17 + 8 * count + 4 * names, 2**20)
    if data[-4:] != _MAGIC or footer > min(largest, len(data)):
        raise ValueError(f"no parquet file, or a footer of {footer:,} bytes, where {largest:,} are allowed")
    with pq.ParquetFile(
        pa.BufferReader(data),
        thrift_string_size_limit=largest,
        thrift_container_size_limit=_GROUPS,
    ) as file:
        step = _checked(file, count, len(data))
        row = 0
        for batch in file.iter_batches(step, columns=["image.bytes", "label"], use_threads=False):
            row += len(batch)
            if row > count:
                break
            yield batch
        if row != count:
            raise ValueError(f"{row} rows, the manifest says {count}")


def _checked(file: pq.ParquetFile, count: int, size: int) -> int:
    """How many rows to read at a time of a file that is what ddhub writes; else ValueError."""
    meta, schema = file.metadata, file.schema_arrow
    if schema.names != ["image", "label"] or schema.types != [IMAGE, LABEL] or meta.num_columns != 3:
        raise ValueError(f"columns {schema.names[:3]}, or their types, are not ours")
    if meta.num_rows != count:
        raise ValueError(f"{meta.num_rows} rows, the manifest says {count}")
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    largest = 1
    for column in (group.column(i) for group in groups for i in range(meta.num_columns)):
        name = column.path_in_schema
        if column.compression != "UNCOMPRESSED":
            raise ValueError(f"column {name!r} is compressed ({column.compression})")
        if column.has_dictionary_page or not {*column.encodings} <= {"PLAIN", "RLE"}:
            raise ValueError(f"column {name!r} has a dictionary or an encoding that is not ours")
        if not 0 <= column.total_compressed_size <= column.total_uncompressed_size <= size:
            raise ValueError(f"column {name!r} is said to have {column.total_uncompressed_size:,} bytes")
        largest = max(largest, column.total_compressed_size)
    if [group.num_rows for group in groups if group.num_rows < 1] or sum(group.num_rows for group in groups) != count:
        raise ValueError(f"its groups do not have {count} rows together")
    return max(1, _TOGETHER // largest)


def _decode(png: bytes, size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """u8 [C, H, W] of a PNG file; ValueError when it is of another mode or size, or has any chunk but the image's."""
    shape = (*size[1:], size[0])
    _check_png(png, shape)
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.frombuffer(image.tobytes(), np.uint8).reshape(shape).transpose(2, 0, 1)


def _check_png(png: bytes, shape: tuple[int, int, int]) -> None:
    """ValueError unless a PNG of this height, width and channels is all there is, as its header and chunks say."""
    if png[:8] != _PNG or png[12:16] != b"IHDR":
        raise ValueError("another format")
    width, height, *rest = header = struct.unpack(">IIBBBBB", png[16:29])
    # 8 bits, grey or RGB, and the only compression, filter and interlacing that Pillow writes
    if [height, width, *rest] != [*shape[:2], 8, 0 if shape[2] == 1 else 2, 0, 0, 0]:
        raise ValueError(f"its header says {header}")
    at, kind = 33, b"IHDR"
    while at + 12 <= len(png) and kind != b"IEND":
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind not in (b"IDAT", b"IEND"):
            raise ValueError(f"a chunk {kind!r}, which is no part of the pixels")
        at += 12 + length
    if at != len(png) or kind != b"IEND":
        raise ValueError("its chunks do not end where the file does")

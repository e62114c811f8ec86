"""The careful reader of stored images: a PNG's header and chunks are compared with the manifest before it is decoded.

ddhub writes a PNG of three kinds of chunks, for what it is and its pixels. One that has anything else is refused: texts
and profiles can stand for gigabytes. Pillow alone decodes 265 MB of pixels out of a file of 0.3 MB, and ignores bytes
behind an image.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddhub.artifact import parquet
from ddhub.errors import first_line

_PNG = b"\x89PNG\r\n\x1a\n"


def read(data: bytes, count: int, image_size: tuple[int, int, int], classes: int) -> tuple[Tensor, Tensor]:
    """The `count` images u8 [N, C, H, W] of a parquet file and their labels int64 [N].

    Raises:
        ValueError: anything but so many PNG of this size with labels of 0..classes-1.
    """
    images, labels = np.empty((count, *image_size), np.uint8), np.empty(count, np.int64)
    for i, (png, label) in enumerate(parquet.rows(data, count)):
        if label is None or not 0 <= label < classes:
            raise ValueError(f"label {i} is {label}, not one of 0..{classes - 1}")
        labels[i] = label
        try:
            images[i] = _decode(b"" if png is None else bytes(png), image_size)
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, …
            raise ValueError(f"image {i} is not a PNG of {image_size} pixels ({first_line(error)})") from None
    return torch.from_numpy(images), torch.from_numpy(labels)


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

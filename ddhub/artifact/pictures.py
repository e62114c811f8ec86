"""The careful reader of stored images: pictures out of the parquet file, held against the manifest before decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddhub.artifact import parquet
from ddhub.artifact.codec import check_codec, cut, decode
from ddhub.artifact.encoding import picture_size
from ddhub.errors import first_line


def read(
    data: bytes, count: int, image_size: tuple[int, int, int], classes: int, encoding: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """The `count` images u8 [N, C, H, W] of a parquet file and their labels int64 [N].

    Raises:
        ValueError: anything but pictures of so many images of this size with labels of 0..classes-1.
        UsageError: a codec that the installed Pillow lacks.
    """
    check_codec(encoding["codec"])
    sheet, codec, size = encoding.get("sheet", 1), encoding["codec"], picture_size(encoding, image_size)
    if count % sheet:
        raise ValueError(f"{count} images do not fill pictures of {sheet}")
    pictures, labels = np.empty((count // sheet, *size), np.uint8), np.empty(count // sheet, np.int64)
    for i, (picture, label) in enumerate(parquet.rows(data, count // sheet)):
        if label is None or not 0 <= label < classes:
            raise ValueError(f"label {i} is {label}, not one of 0..{classes - 1}")
        labels[i] = label
        try:
            pictures[i] = decode(b"" if picture is None else bytes(picture), size, codec)
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, …
            kind = {"png": "a PNG", "webp": "a WebP", "avif": "an AVIF"}[codec]
            raise ValueError(f"image {i} is not {kind} of {size} pixels ({first_line(error)})") from None
    return cut(torch.from_numpy(pictures), sheet), torch.from_numpy(labels).repeat_interleave(sheet)

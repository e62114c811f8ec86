"""Encoded images and parquet files as the Hub has them, written without any code of the package."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def write_shard(
    file: Path,
    images: Sequence[bytes | None],
    labels: Any,
    classes: Sequence[str],
    columns: Sequence[str] = ("img", "label"),
) -> Path:
    """A file with an image column and label columns; every label column has the labels and the classes."""
    image = pa.array([{"bytes": b, "path": None} for b in images], IMAGE_TYPE)
    table = pa.table({columns[0]: image, **{column: pa.array(labels) for column in columns[1:]}})
    label = {"names": list(classes), "_type": "ClassLabel"}
    features = {columns[0]: {"_type": "Image"}, **dict.fromkeys(columns[1:], label)}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(meta), file, row_group_size=100)
    return file

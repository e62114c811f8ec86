"""Compensators as pictures: a second config of a published artifact, for the Hub's viewer and for other tools.

    compensators/train-00000-of-00001.parquet     image (PNG), net, set, scale; one row a compensator

A byte b of the picture stands for (b - 128) · scale in unit scale, so that grey is no change. The conversion is
lossless. The file is a copy: images are rebuilt from the tensors.
"""

from __future__ import annotations

import pyarrow as pa
import torch

from ddhub.artifact import images as pixels
from ddhub.artifact.folder import Artifact
from ddhub.cards.metadata import COLUMNS, COMPENSATED, compensated


def render(artifact: Artifact) -> bytes | None:
    """The contents of the parquet file of an artifact's compensators; None if it has no compensators."""
    if not compensated(artifact.manifest):
        return None
    tensors = artifact.tensors()
    stored, scale = tensors[COMPENSATED], tensors["decoder.scale"]
    nets, sets = scale.shape
    values = {
        "net": pa.array([net for net in range(nets) for _ in range(sets)], pa.int64()),
        "set": pa.array([*range(sets)] * nets, pa.int64()),
        "scale": pa.array(scale.flatten().tolist(), pa.float32()),
    }
    kinds = {column["name"]: {"dtype": column["dtype"], "_type": "Value"} for column in COLUMNS}
    images = (stored.to(torch.int16) + 128).to(torch.uint8).flatten(0, 1)
    pictures = [pixels.to_png(pixels.to_pil(image)) for image in images]
    return pixels.table(pictures, {name: (kinds[name], column) for name, column in values.items()})

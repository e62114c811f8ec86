"""Whether what an artifact says about itself makes sense together: all that loading it would otherwise find out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ddhub.artifact.manifest import Manifest
from ddhub.data import decode, labels
from ddhub.errors import ArtifactError
from ddhub.io.files import max_bytes
from ddhub.protocols.protocol import Protocol


def check(manifest: Manifest, images: Tensor, image_labels: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """ArtifactError unless decoder, labels and protocol are known and fit what is stored.

    A decoder may make many items of few bytes: their indices (8 bytes each) must stay below DDHUB_MAX_BYTES. Teachers
    that label are not looked for.
    """
    plan = Protocol.from_json(manifest.protocol)
    decoder = decode.build(manifest.decoder, images, tensors, manifest.pixel_range)
    if 8 * len(decoder) > max_bytes():
        cause = f"{len(decoder):,} training images, and DDHUB_MAX_BYTES allows {max_bytes():,} bytes for their numbers"
        raise ArtifactError(f"{cause}; set it higher if you trust the artifact")
    if manifest.labels["kind"] == "teacher":
        labels.temperature(manifest.labels)
    else:
        classes = image_labels[decoder.image_of(torch.arange(len(decoder)))]
        labels.build(manifest.labels, classes, len(manifest.classes), tensors, epochs=plan.epochs)

"""Whether what an artifact says about itself makes sense together: all that loading it would otherwise find out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from ddhub.artifact.codec import difference
from ddhub.artifact.manifest import DAMAGED, REPAIR, Manifest, canonical, label_dtype
from ddhub.artifact.tensors import DTYPES, describe, sha256
from ddhub.data import decode, labels
from ddhub.errors import ArtifactError, shown
from ddhub.io.files import max_bytes
from ddhub.io.rules import is_number
from ddhub.protocols.protocol import MOST_RATE, Protocol

log = logging.getLogger(__name__)


def check(manifest: Manifest, images: Tensor, image_labels: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """ArtifactError unless decoder, labels and protocol are known and fit what is stored.

    A decoder may make many items of few bytes: their indices (8 bytes each) must stay below DDHUB_MAX_BYTES. Teachers
    that label are not looked for.
    """
    apart = difference(images, manifest.encoding)
    if apart:
        log.warning(
            "%s: its images decode to other pixels than where they were made, by %d of 255 levels at most in samples",
            manifest.name, apart,
        )  # fmt: skip
    if not manifest.content:
        raise ArtifactError(f"its content has no hash: it was made before there were any; {REPAIR}")
    plan = Protocol.from_json(manifest.protocol)
    if (padding := plan.augment.crop_padding) > max(manifest.image_size[1:]):
        raise ArtifactError(f"protocol: crop_padding is {padding}, more than the images' side; {REPAIR}")
    decoder = decode.build(manifest.decoder, images, tensors, manifest.pixel_range)
    if 8 * len(decoder) > max_bytes():
        cause = f"{len(decoder):,} training images, and DDHUB_MAX_BYTES allows {max_bytes():,} bytes for their numbers"
        raise ArtifactError(f"{cause}; set it higher if you trust the artifact")
    rate = manifest.labels.get("lr")
    if rate is not None and not (is_number(rate) and 0 < rate <= MOST_RATE):
        raise ArtifactError(f"its learned rate is {shown(rate)}, not a number above 0, at most {MOST_RATE:,}; {REPAIR}")
    if manifest.labels["kind"] == "teacher":
        labels.temperature(manifest.labels)
    else:
        classes = image_labels[decoder.image_of(torch.arange(len(decoder), device="cpu"))]
        labels.build(manifest.labels, classes, len(manifest.classes), tensors, epochs=plan.epochs)
    if content(manifest, images, image_labels, tensors) != manifest.content:
        raise ArtifactError(f"images, labels or tensors are not those of its content hash ({DAMAGED}); {REPAIR}")


def content(manifest: Manifest, images: Tensor, image_labels: Tensor, tensors: Mapping[str, Tensor]) -> str:
    """The sha256 (hex) of what a student sees, and nothing else: two artifacts hold the same data if it is equal.

    It covers the decoded pixels, the classes and every tensor, with what says how they are read: image size, pixel
    range, decoder and label scheme, a learned rate included. Of a lossy codec the pixels are those that were recorded.
    """
    classes = image_labels.to(DTYPES[label_dtype(len(manifest.classes))])
    stored = {"images": images, "image_labels": classes, **tensors}
    recorded = {"images": manifest.encoding["pixels"]} if "pixels" in manifest.encoding else {}
    seen = {
        "image_size": [*manifest.image_size],
        "pixel_range": [[*pair] for pair in manifest.pixel_range],
        "decoder": manifest.decoder,
        "labels": manifest.labels,
        "tensors": {
            name: {**entry, "sha256": recorded.get(name) or sha256(stored[name])}
            for name, entry in describe(stored).items()
        },
    }
    return hashlib.sha256(canonical(seen).encode()).hexdigest()

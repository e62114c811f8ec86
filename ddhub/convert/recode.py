"""Recoding: the same artifact with images as WebP or AVIF, labels of fewer bits, or both.

    recode("cifar10-edf-ipc10", "out/cifar10-edf-ipc10-avif", encoding="avif:50", label_bits=8)

Images are coded as they are stored, so mosaics stay mosaics and compensators are added to what the pictures decode to.
Labels are kept, though they belong to the pixels before: whoever wants them made again runs the recipe with
`--encoding`. What coding moved is a deviation on the card.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ddhub.artifact.codec import encode
from ddhub.artifact.encoding import name_of, parse
from ddhub.artifact.folder import Artifact
from ddhub.data.label_bits import pack
from ddhub.errors import UsageError
from ddhub.io.rules import is_name


def recode(source: Artifact, out: str | Path, *, encoding: str = "png", label_bits: int = 16) -> Artifact:
    """Write an artifact anew, with its images and labels stored in another way.

    Args:
        source: the artifact, opened.
        out: folder of the new one, whose name it gets.
        encoding: of the images, as `ddhub.artifact.encoding.parse` takes it.
        label_bits: of stored logits, distances and probabilities: 16, 8 or 4.

    Raises:
        UsageError: an encoding or a number of bits that is not known, images that are coded already, or a name that
            cannot be one.
        ArtifactError: a damaged artifact, or a disk that is full.
    """
    m, target = source.manifest, Path(out)
    if not is_name(target.name):
        raise UsageError(f"{target.name!r} cannot name an artifact; use lower-case letters, digits, '.', '_' and '-'")
    if "pixels" in m.encoding or "bits" in m.labels:
        raise UsageError(
            f"{m.name} is {name_of(m.encoding)} already, and coding again loses more; recode what it is from"
        )
    images = source.images()
    coded = encode(images, source.image_labels(), parse(encoding))
    labels, tensors = pack(m.labels, source.tensors(), label_bits)
    bits = f" --label-bits {label_bits}" if label_bits != 16 else ""
    note = (
        f"Stored anew by `ddhub recode {m.name} {target.name} --encoding {encoding}{bits}` from the artifact of digest "
        f"{m.digest[:12]}: {_moved(images, coded.images)}; labels are those made before."
    )
    manifest = replace(
        m,
        name=target.name,
        labels=labels,
        deviations=[*m.deviations, note],
        paper=m.paper,
        tensors={},
        content="",
        files={},
    )
    return Artifact.write(target, manifest=manifest, images=coded, image_labels=source.image_labels(), tensors=tensors)


def _moved(before: Tensor, after: Tensor) -> str:
    """How far coding moved the stored pixels, in words."""
    error = (before.double() - after.double()).square().mean()
    if not error:
        return "the same pixels"
    decibel = 10 * float(torch.log10(255**2 / error))
    return f"pixels moved by {float(error.sqrt()):.1f} of 255 levels (rms), a PSNR of {decibel:.1f} dB"

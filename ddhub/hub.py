"""Names: from "cifar10-infer-ipc10" to a folder, and from a folder to training batches.

A name is a folder if there is one at that path, else an artifact bundled in the package. Nothing here needs a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddhub.errors import ArtifactError, unknown
from ddhub.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddhub.data import DistilledData

BUNDLED = Path(__file__).parent / "artifacts"


def catalog() -> dict[str, Manifest]:
    """Every bundled artifact's manifest by name, sorted; needs no torch.

    Raises:
        ArtifactError: a bundled folder that is damaged.
    """
    return {path.parent.name: read_manifest(path.parent) for path in sorted(BUNDLED.glob("*/manifest.json"))}


def resolve(name: str | Path) -> Path:
    """The folder of an artifact: a path, or the name of a bundled one.

    Raises:
        ArtifactError: a folder that holds no artifact.
        UsageError: neither a folder nor a known name; the message offers the nearest name.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    bundled = BUNDLED / str(name)
    if folder.name == str(name) and (bundled / "manifest.json").exists():
        return bundled
    if folder.exists():
        raise ArtifactError(f"{folder} is a file, not an artifact's folder; name the folder that holds manifest.json")
    raise unknown("artifact", str(name), (path.parent.name for path in BUNDLED.glob("*/manifest.json")), "ddhub list")


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    teachers: Sequence[nn.Module] | None = None,
) -> DistilledData:
    """An artifact as training batches, every file checked against its SHA-256 first.

    Args:
        name: a bundled artifact's name (`ddhub list`) or an artifact's folder.
        device: where batches are reconstructed; `auto` is a GPU where there is one.
        teachers: nets that label each batch, for artifacts whose labels are of kind `teacher`.

    Raises:
        UsageError: an unknown name or device.
        ArtifactError: a file that is damaged, missing or made for a newer ddhub.
    """
    import torch

    from ddhub import decode, labels
    from ddhub.artifact import Artifact
    from ddhub.data import About, DistilledData
    from ddhub.protocols import Protocol

    artifact = Artifact.open(resolve(name))
    manifest, tensors = artifact.manifest, artifact.tensors()
    decoder = decode.build(manifest.decoder, artifact.images(), tensors, manifest.pixel_range)
    classes = artifact.image_labels()[decoder.image_of(torch.arange(len(decoder)))]
    scheme = labels.build(manifest.labels, classes, len(manifest.classes), tensors, teachers)
    about = About(
        name=manifest.name,
        digest=manifest.digest,
        dataset=manifest.dataset,
        classes=manifest.classes,
        image_size=manifest.image_size,
        mean=manifest.mean,
        std=manifest.std,
    )
    return DistilledData(decoder, scheme, Protocol.from_json(manifest.protocol), about).to(device)

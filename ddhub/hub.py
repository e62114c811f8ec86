"""Names: from "cifar10-infer-ipc10" to a folder, and from a folder to training batches.

A name is a folder if there is one at that path, else an artifact bundled in the package. Nothing here needs a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddhub._fields import is_number
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
        teachers: nets that label each batch, for artifacts whose labels are of kind `teacher`, in place of the
            teachers that the manifest names (which lie beside the artifact, or are bundled).

    Raises:
        UsageError: an unknown name or device, or a teacher that is nowhere.
        ArtifactError: a file that is damaged, missing or made for a newer ddhub, or a teacher of other data.
    """
    import torch

    from ddhub import decode, labels
    from ddhub.artifact import Artifact
    from ddhub.data import About, DistilledData
    from ddhub.protocols import Protocol
    from ddhub.teachers import fitting

    artifact = Artifact.open(resolve(name))
    manifest, tensors = artifact.manifest, artifact.tensors()
    decoder = decode.build(manifest.decoder, artifact.images(), tensors, manifest.pixel_range)
    classes = artifact.image_labels()[decoder.image_of(torch.arange(len(decoder)))]
    about = About(
        name=manifest.name,
        digest=manifest.digest,
        dataset=manifest.dataset,
        classes=manifest.classes,
        image_size=manifest.image_size,
        mean=manifest.mean,
        std=manifest.std,
        lr=_learned_lr(manifest),
        near=artifact.folder.resolve().parent,
    )
    if teachers is None and manifest.labels["kind"] == "teacher":
        teachers = fitting(_teacher_ids(manifest), about)
    plan = Protocol.from_json(manifest.protocol)
    scheme = labels.build(manifest.labels, classes, len(manifest.classes), tensors, teachers, plan.epochs)
    return DistilledData(decoder, scheme, plan, about).to(device)


def _learned_lr(manifest: Manifest) -> float | None:
    rate = manifest.labels.get("lr")
    if rate is not None and not (is_number(rate) and rate > 0):
        raise ArtifactError(f"{manifest.name}: its learned rate is {rate!r}, not a number above 0; regenerate it")
    return rate


def _teacher_ids(manifest: Manifest) -> list[str]:
    """The ids NAME@DIGEST of the teachers that label; empty when the manifest names none."""
    entries = manifest.labels.get("teachers", [])
    try:
        return [f"{entry['name']}@{entry['digest']}" for entry in entries]
    except (KeyError, TypeError):
        raise ArtifactError(f"{manifest.name}: its teachers are no objects of name and digest; regenerate it") from None

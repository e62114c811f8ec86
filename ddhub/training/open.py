"""From an opened artifact to training batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import Manifest
from ddhub.data import decode, labels
from ddhub.data.about import About
from ddhub.errors import ArtifactError, UsageError, shown
from ddhub.protocols.protocol import Protocol
from ddhub.remote.find import resolve
from ddhub.sources.known import FOLDER
from ddhub.sources.source import Source, open_source
from ddhub.teachers import Ask, fitting, from_hub
from ddhub.training.batches import DistilledData

_Data = TypeVar("_Data", bound=DistilledData)


def open_data(
    artifact: Artifact,
    *,
    teachers: Sequence[nn.Module] | None = None,
    ask: Ask = from_hub,
    kind: type[_Data] = DistilledData,  # type: ignore[assignment]
) -> _Data:
    """The artifact's data on the CPU, as the class `kind`, every file checked against its SHA-256 first.

    Args:
        artifact: opened by `Artifact.open`.
        teachers: nets that label each batch, in place of those that the manifest names.
        ask: gets a teacher that is not at hand, by name and digest.

    Raises:
        UsageError: a teacher that is nowhere.
        ArtifactError: a file that is damaged or missing, or a teacher of other data.
    """
    manifest, tensors = artifact.manifest, artifact.tensors()
    decoder = decode.build(manifest.decoder, artifact.images(), tensors, manifest.pixel_range)
    classes = artifact.image_labels()[decoder.image_of(torch.arange(len(decoder), device="cpu"))]
    described = about(artifact)
    if teachers is None and manifest.labels["kind"] == "teacher":
        teachers = fitting(teacher_ids(manifest), described, ask)
    plan = Protocol.from_json(manifest.protocol)
    scheme = labels.build(manifest.labels, classes, len(manifest.classes), tensors, teachers, plan.epochs)
    return kind(decoder, scheme, plan, described, targets=classes)


def loaded(data: DistilledData | str | Path) -> DistilledData:
    """The data, or those of an artifact by name (`ddhub.load`). UsageError for anything else."""
    if isinstance(data, (str, Path)):
        return open_data(Artifact.open(resolve(data)))
    if not isinstance(data, DistilledData):
        raise UsageError(
            f"data are of type {type(data).__name__}; give what ddhub.load returns, or a name that it takes"
        )
    return data


def test_images(
    test: str | Source | None, dataset: str, *, root: str | Path | None = None, size: int | None = None
) -> Source:
    """Test images by name, or as they are given; by default those of the data set that an artifact names.

    A folder is opened only where the user names it: what an artifact calls `folder:flowers` says whose images they
    are, and not where.

    Raises:
        UsageError: no name, or an artifact of somebody's own images and none given.
        SourceError: as `open_source`.
    """
    if isinstance(test, Source):
        return test
    if test is None and dataset.startswith(FOLDER):
        cause = (
            f"its images are of a folder of one's own, {shown(dataset)}, and only you know where test images of it lie"
        )
        raise UsageError(f"no test data: {cause}; name them: --test {FOLDER}PATH, or test=")
    return open_source(dataset if test is None else test, "test", root=root, size=size)


def about(artifact: Artifact) -> About:
    """What is known of the data of an opened artifact."""
    manifest = artifact.manifest
    return About(
        name=manifest.name,
        digest=manifest.digest,
        dataset=manifest.dataset,
        classes=manifest.classes,
        image_size=manifest.image_size,
        mean=manifest.mean,
        std=manifest.std,
        lr=manifest.labels.get("lr"),
        near=artifact.folder.resolve().parent,
        folder=artifact.folder.resolve(),
    )


def teacher_ids(manifest: Manifest) -> list[str]:
    """The ids NAME@DIGEST of the teachers that label; empty when the manifest names none."""
    if manifest.labels["kind"] != "teacher":
        return []
    entries = manifest.labels.get("teachers", [])
    try:
        return [f"{entry['name']}@{entry['digest']}" for entry in entries]
    except (KeyError, TypeError):
        raise ArtifactError(
            f"{manifest.name}: its teachers are not objects of name and digest; regenerate it"
        ) from None

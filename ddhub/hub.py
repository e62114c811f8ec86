"""Names: from "cifar10-infer-ipc10" to a folder, and from a folder to training batches.

What a name may be is said in `ddhub._finding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ddhub._fields import is_number
from ddhub._files import replace_folder
from ddhub.errors import ArtifactError, DDHubError, UsageError
from ddhub.manifest import MANIFEST, README, RESULTS, Manifest, read_bytes, read_manifest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddhub.artifact import Artifact
    from ddhub.data import About, DistilledData

BUNDLED = Path(__file__).parent / "artifacts"


def catalog() -> dict[str, Manifest]:
    """Every bundled artifact's manifest by name, sorted; needs no torch.

    Raises:
        ArtifactError: a bundled folder that is damaged.
    """
    return {path.parent.name: read_manifest(path.parent) for path in sorted(BUNDLED.glob("*/manifest.json"))}


def resolve(
    name: str | Path,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    whole: bool = True,
) -> Path:
    """The folder of an artifact; one that comes from elsewhere is downloaded where it is not yet, and checked.

    Args:
        name: a folder; else a bundled artifact's name, one of the catalog, or any in DDHUB_NAMESPACE on the Hub, or
            `namespace/name`; the last two may end in `@revision`.
        source: where else than on the Hub it is looked for: a folder, or the https address of one, that `ddhub push
            --to` has made.
        revision: a commit of 40 hex digits, which once downloaded is never asked for again; or a branch or tag.
        token: the Hub's, False for none; None is the user's own, but none for what the catalog pins.
        cache_dir: instead of the user's cache of the Hub.
        local_files_only: ask nobody.
        force_download: do not trust the cache.
        whole: False for the manifest and the results alone.

    Raises:
        ArtifactError: a folder that holds no artifact; files that are not what manifest, catalog or Hub say.
        UsageError: neither a folder nor a known name; the message offers the nearest name.
        HubError: the Hub cannot be asked and the cache has no copy, or it refuses.
    """
    from ddhub._finding import find
    from ddhub._remote import Access

    return find(name, source, revision, Access(token, cache_dir, local_files_only, force_download), whole=whole)[0]


def download(
    name: str | Path,
    to: str | Path | None = None,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    force_download: bool = False,
) -> Path:
    """Get an artifact, its card and its teachers, so that it loads without a network, and the folder where it is.

    Args:
        name, source, revision, force_download: as of `resolve`.
        to: a folder to write it to, where there is nothing.

    Raises:
        UsageError: an unknown name, or something at `to`.
        ArtifactError: files that are not what manifest, catalog or Hub say.
        HubError: the Hub cannot be asked, or it refuses.
        DDHubError: a disk that is full or read-only.
    """
    from ddhub import teachers
    from ddhub._finding import find
    from ddhub._remote import Access
    from ddhub.artifact import Artifact

    target = None if to is None else Path(to)
    if target and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{to}: there is something; choose another folder")
    access = Access(force_download=force_download)
    folder, owner = find(name, source, revision, access, card=True)
    artifact = Artifact.open(folder)
    for known in _teacher_ids(artifact.manifest):
        teachers.resolve(
            known, near=folder.resolve().parent, ask=partial(teachers.from_hub, owner=owner, access=access)
        )
    if target is None:
        return folder
    files = {x: read_bytes(folder / x) for x in (*artifact.manifest.files, RESULTS, README) if (folder / x).exists()}
    try:
        replace_folder(target, {**files, MANIFEST: read_bytes(folder / MANIFEST)}, Artifact.open)
    except OSError as error:
        raise DDHubError(f"{to}: cannot be written ({error.strerror}); free space or choose another folder") from None
    return target


def load(
    name: str | Path,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    device: str | torch.device = "cpu",
    teachers: Sequence[nn.Module] | None = None,
) -> DistilledData:
    """An artifact as training batches, every file checked against its SHA-256 first.

    Args:
        name, source, revision, token, cache_dir, local_files_only, force_download: which artifact, and how it is
            downloaded where it is not bundled: see `ddhub.hub.resolve`.
        device: where batches are reconstructed; `auto` is a GPU where there is one.
        teachers: nets that label each batch, for artifacts whose labels are of kind `teacher`, in place of the
            teachers that the manifest names (which lie beside the artifact, are bundled, or come from the Hub).

    Raises:
        UsageError: an unknown name or device, or a teacher that is nowhere.
        ArtifactError: a file that is damaged, missing or made for a newer ddhub, or a teacher of other data.
        HubError: the Hub cannot be asked and the cache has no copy, or it refuses.
    """
    import torch

    from ddhub import decode, labels
    from ddhub._finding import find
    from ddhub._remote import Access
    from ddhub.artifact import Artifact
    from ddhub.data import DistilledData
    from ddhub.protocols import Protocol
    from ddhub.teachers import fitting, from_hub

    access = Access(token, cache_dir, local_files_only, force_download)
    folder, owner = find(name, source, revision, access)
    artifact = Artifact.open(folder)
    manifest, tensors = artifact.manifest, artifact.tensors()
    decoder = decode.build(manifest.decoder, artifact.images(), tensors, manifest.pixel_range)
    classes = artifact.image_labels()[decoder.image_of(torch.arange(len(decoder)))]
    facts = about(artifact)
    if teachers is None and manifest.labels["kind"] == "teacher":
        teachers = fitting(_teacher_ids(manifest), facts, partial(from_hub, owner=owner, access=access))
    plan = Protocol.from_json(manifest.protocol)
    scheme = labels.build(manifest.labels, classes, len(manifest.classes), tensors, teachers, plan.epochs)
    return DistilledData(decoder, scheme, plan, facts).to(device)


def about(artifact: Artifact) -> About:
    """What is known of the data of an opened artifact. ArtifactError for a learned rate that is none."""
    from ddhub.data import About

    manifest = artifact.manifest
    return About(
        name=manifest.name,
        digest=manifest.digest,
        dataset=manifest.dataset,
        classes=manifest.classes,
        image_size=manifest.image_size,
        mean=manifest.mean,
        std=manifest.std,
        lr=_learned_lr(manifest),
        near=artifact.folder.resolve().parent,
        folder=artifact.folder.resolve(),
    )


def _learned_lr(manifest: Manifest) -> float | None:
    rate = manifest.labels.get("lr")
    if rate is not None and not (is_number(rate) and rate > 0):
        raise ArtifactError(f"{manifest.name}: its learned rate is {rate!r}, not a number above 0; regenerate it")
    return rate


def _teacher_ids(manifest: Manifest) -> list[str]:
    """The ids NAME@DIGEST of the teachers that label; empty when the manifest names none."""
    if manifest.labels["kind"] != "teacher":
        return []
    entries = manifest.labels.get("teachers", [])
    try:
        return [f"{entry['name']}@{entry['digest']}" for entry in entries]
    except (KeyError, TypeError):
        raise ArtifactError(f"{manifest.name}: its teachers are no objects of name and digest; regenerate it") from None

"""Load an artifact by name, as training batches; or download it.

    data = ddhub.load("cifar10-infer-ipc10")
    data.push_to_hub("lab/cifar10-infer-ipc10")

What a name may be is said in `ddhub.remote.find`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ddhub import teachers as nets
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import README, RESULTS
from ddhub.convert.export import Export
from ddhub.convert.export import export as write_export
from ddhub.errors import DDHubError, UsageError
from ddhub.io.files import replace_folder
from ddhub.publish.bundle import Published
from ddhub.training.batches import DistilledData
from ddhub.training.open import open_data, teacher_ids


class LoadedData(DistilledData):
    """What `load` returns: data that know the folder they come from, and can be published and exported from it."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
    ) -> Published:
        """Publish the artifact that was loaded, as its folder holds it, in the repository NAMESPACE/NAME.

        What `using` and `to` have changed is no part of it. `ddhub.publish.push` says what the arguments are, what is
        checked before, and what is raised.
        """
        from ddhub.publish.push import push
        from ddhub.remote.client import REPO

        if not isinstance(repo_id, str) or not REPO.fullmatch(repo_id):
            raise UsageError(f"{repo_id!r} is not a repository NAMESPACE/NAME; correct it")
        return push(
            self._folder(),
            repo_id,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
        )

    def export(self, to: str, out: str | Path) -> Export:
        """Write the rebuilt images of the artifact that was loaded for other tools: `ddhub.convert.export.export`."""
        return write_export(self._folder(), to, out)

    def _folder(self) -> Path:
        if self.about.folder is None:
            raise UsageError(f"{self.about.name!r} was made in memory; write it to a folder first (Artifact.write)")
        return self.about.folder


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
        name, source, revision, force_download: as of `ddhub.remote.find.resolve`.
        to: a folder to write it to, where there is nothing.

    Raises:
        UsageError: an unknown name, or something at `to`.
        ArtifactError: files that are not what manifest, catalog or Hub say.
        HubError: the Hub cannot be asked, or it refuses.
        DDHubError: a disk that is full or read-only.
    """
    from ddhub.remote.client import Access
    from ddhub.remote.find import find

    target = None if to is None else Path(to)
    if target and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{to}: there is something; choose another folder")
    access = Access(force_download=force_download)
    folder, owner = find(name, source, revision, access, card=True)
    artifact = Artifact.open(folder)
    for known in teacher_ids(artifact.manifest):
        ask = partial(nets.from_hub, owner=owner, access=access)
        nets.resolve(known, near=folder.resolve().parent, ask=ask)
    if target is None:
        return folder
    try:
        replace_folder(target, artifact.contents(RESULTS, README), Artifact.open)
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
) -> LoadedData:
    """An artifact as training batches, every file checked against its SHA-256 first.

    Args:
        name, source, revision, token, cache_dir, local_files_only, force_download: which artifact, and how it is
            downloaded where it is not bundled: see `ddhub.remote.find.resolve`.
        device: where batches are reconstructed; `auto` is a GPU where there is one.
        teachers: nets that label each batch, for artifacts whose labels are of kind `teacher`, in place of the
            teachers that the manifest names (which lie beside the artifact, are bundled, or come from the Hub).

    Raises:
        UsageError: an unknown name or device, or a teacher that is nowhere.
        ArtifactError: a file that is damaged, missing or made for a newer ddhub, or a teacher of other data.
        HubError: the Hub cannot be asked and the cache has no copy, or it refuses.
    """
    from ddhub.remote.client import Access
    from ddhub.remote.find import find

    access = Access(token, cache_dir, local_files_only, force_download)
    folder, owner = find(name, source, revision, access)
    artifact = Artifact.open(folder)
    ask = partial(nets.from_hub, owner=owner, access=access)
    return open_data(artifact, teachers=teachers, ask=ask, kind=LoadedData).to(device)

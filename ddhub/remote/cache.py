"""The folder of one repository in the user's cache of the Hub, and the checks of its files.

    CACHE/datasets--NAMESPACE--NAME/refs/main          the commit of a branch or tag when it was last downloaded
    CACHE/datasets--NAMESPACE--NAME/snapshots/COMMIT/  the files of a commit: links to blobs/, or files
    CACHE/datasets--NAMESPACE--NAME/blobs/HASH         contents, named by git's sha1 or, if large, by sha256

The layout is huggingface_hub's; CACHE is HF_HUB_CACHE unless `Access.cache_dir` names another.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddhub.artifact.manifest import DAMAGED, MANIFEST, README, REPAIR, RESULTS, read_bytes, read_manifest
from ddhub.errors import ArtifactError, UsageError
from ddhub.io.files import replace_file
from ddhub.remote.client import COMMIT, Access, Unreachable

HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Contents:
    """The identity and files of a folder, from its manifest: name, digest, and sha256 and bytes of each file."""

    name: str
    digest: str
    files: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Kind:
    """A kind of published folder: its repository type, the name and reader of its manifest, and the files that grow.

    `growing` lists files that change after publication, such as the results; the manifest does not cover them.
    """

    repo_type: str
    manifest: str
    read: Callable[[Path], Contents]
    growing: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoteFile:
    """Size in bytes and hash of a file as the Hub lists them: sha256, or git's sha1 for a small file."""

    bytes: int
    hash: str


def _read_artifact(folder: Path) -> Contents:
    manifest = read_manifest(folder)
    return Contents(manifest.name, manifest.digest, manifest.files)


ARTIFACT: Kind = Kind("dataset", MANIFEST, _read_artifact, (RESULTS,))


@dataclass(frozen=True)
class RepoCache:
    """One repository in the cache. `digest` is the start of the digest that its manifest must have, None for any."""

    repo: str
    kind: Kind
    digest: str | None
    access: Access

    @property
    def root(self) -> Path:
        """The folder of the cache."""
        from huggingface_hub import constants

        return Path(self.access.cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()

    @property
    def storage(self) -> Path:
        """The repository's folder in the cache."""
        return self.root / f"{self.kind.repo_type}s--{self.repo.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit, which may not exist."""
        return self.storage / "snapshots" / commit

    def ref(self, revision: str | None) -> str | None:
        """The commit that a branch or tag (`main` if None) had when it was last downloaded."""
        try:
            commit = (self.storage / "refs" / (revision or "main")).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def record(self, revision: str | None, commit: str) -> None:
        """Note the commit of a branch or tag for times without the Hub; does nothing in a read-only cache."""
        path = self.storage / "refs" / (revision or "main")
        if self.ref(revision) != commit:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, commit.encode())

    def kept(self, revision: str | None, whole: bool) -> Path:
        """The checked folder of a revision in the cache; no request is sent.

        Raises:
            Unreachable: the cache does not hold the revision.
            ArtifactError: the folder is damaged or incomplete.
        """
        commit = revision if revision and COMMIT.fullmatch(revision) else self.ref(revision)
        if not commit or not (self.snapshot(commit) / self.kind.manifest).exists():
            cause = f"no copy of {revision or 'main'} in the Hub's cache, {self.root}"
            raise Unreachable(f"{self.repo}: {cause}; load it once with the Hub reachable")
        self.verify(self.snapshot(commit), whole)
        return self.snapshot(commit)

    def holds(self, commit: str, whole: bool) -> bool:
        """Whether the cache holds a commit without damage."""
        try:
            self.verify(self.snapshot(commit), whole)
        except ArtifactError:
            return False
        return True

    def verify(self, folder: Path, whole: bool) -> None:
        """Check hashes of the files in the manifest (if `whole`) and of the growing files. Raises ArtifactError."""
        contents = self.read(folder)
        check_files(folder, contents.files if whole else {})
        for name in (*self.kind.growing, README):  # these are links to blobs, whose names are hashes
            path = folder / name
            blob = Path(os.readlink(path)).name if path.is_symlink() else ""
            if HASH.fullmatch(blob):
                check_hash(path, read_bytes(path), blob)

    def read(self, folder: Path) -> Contents:
        """The contents of `folder`. Raises ArtifactError for another name or digest than expected."""
        contents, name = self.kind.read(folder), self.repo.split("/")[1]
        if contents.name != name:
            raise ArtifactError(f"{self.repo}: holds {contents.name!r}, not {name!r}; ask who published it")
        if not contents.digest.startswith(self.digest or ""):
            cause = f"its digest is {contents.digest[:12]}, not {(self.digest or '')[:12]} as expected"
            raise ArtifactError(f"{self.repo}: {cause}; it was changed after it was pinned")
        return contents

    def discard(self, path: Path, commit: str) -> None:
        """Remove a file that was downloaded for `commit`: the link, and its targets inside the cache."""
        with suppress(OSError):
            (self.storage / "refs" / commit).unlink(missing_ok=True)  # where the client noted another commit
            while path.is_symlink():
                target = path.parent.resolve() / os.readlink(path)
                path.unlink()
                path = Path(os.path.normpath(target))
                if not path.is_relative_to(self.root):
                    return
            path.unlink(missing_ok=True)


def check_hash(path: Path, data: bytes, expected: str) -> None:
    """Raise ArtifactError unless the bytes of a file have the expected hash: sha256, or git's sha1."""
    actual = hashlib.sha256(data) if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % len(data) + data)
    if actual.hexdigest() != expected:
        raise ArtifactError(f"{path}: its {actual.name} differs from the one expected ({DAMAGED}); {REPAIR}")


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ArtifactError unless every file in `folder` has the size and sha256 that a manifest lists."""
    for name, entry in files.items():
        check_hash(folder / name, read_bytes(folder / name, entry["bytes"]), entry["sha256"])


def writable(folder: Path) -> Path:
    """The folder, if it may be written to. Raises UsageError for a folder in the Hub's cache."""
    if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):
        raise UsageError(f"{folder} is in the Hub's cache; make a copy to write to: ddhub download NAME --to FOLDER")
    return folder

"""One repository's part of the user's cache of the Hub, and the checks of what lies there.

    CACHE/datasets--NAMESPACE--NAME/refs/main          the commit of a branch or tag when it was last downloaded
    CACHE/datasets--NAMESPACE--NAME/snapshots/COMMIT/  the files of a commit: links to blobs/, or files
    CACHE/datasets--NAMESPACE--NAME/blobs/HASH         contents by git's sha1, or by sha256 if they are large

The layout is huggingface_hub's; CACHE is HF_HUB_CACHE if no other is asked for.
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
    """What a folder says of itself: its name, its digest, and sha256 and bytes of its files."""

    name: str
    digest: str
    files: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Kind:
    """What is published: in which type of repository, which file describes it, how that is read, what grows beside."""

    repo_type: str
    index: str
    read: Callable[[Path], Contents]
    growing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """Size and hash of a file as the Hub knows them: a sha256, or of a small file git's sha1."""

    bytes: int
    hash: str


def _read_artifact(folder: Path) -> Contents:
    manifest = read_manifest(folder)
    return Contents(manifest.name, manifest.digest, manifest.files)


ARTIFACT = Kind("dataset", MANIFEST, _read_artifact, (RESULTS,))


@dataclass(frozen=True)
class RepoCache:
    """Where a repository lies in the cache, and what is expected of it: its name and, if known, its digest's start."""

    repo: str
    kind: Kind
    digest: str | None
    access: Access

    @property
    def root(self) -> Path:
        """The cache."""
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
        """Note which commit a branch or tag has, for when the Hub cannot be asked; a read-only cache stays as it is."""
        path = self.storage / "refs" / (revision or "main")
        if self.ref(revision) != commit:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, commit.encode())

    def kept(self, revision: str | None, whole: bool) -> Path:
        """The folder of a revision as the cache has it, checked; nobody is asked.

        Raises:
            Unreachable: there is none.
            ArtifactError: it is damaged, or only a part of it.
        """
        commit = revision if revision and COMMIT.fullmatch(revision) else self.ref(revision)
        if not commit or not (self.snapshot(commit) / self.kind.index).exists():
            cause = f"no copy of {revision or 'main'} in the Hub's cache, {self.root}"
            raise Unreachable(f"{self.repo}: {cause}; load it once when the Hub may be asked")
        self.verify(self.snapshot(commit), whole)
        return self.snapshot(commit)

    def holds(self, commit: str, whole: bool) -> bool:
        """Whether the cache has a commit, every byte as it should be."""
        try:
            self.verify(self.snapshot(commit), whole)
        except ArtifactError:
            return False
        return True

    def verify(self, folder: Path, whole: bool) -> None:
        """Hash what the manifest in `folder` lists (if `whole`) and what grows beside it. Raises ArtifactError."""
        contents = self.read(folder)
        check_files(folder, contents.files if whole else {})
        for name in (*self.kind.growing, README):  # the links to them bear their hashes
            path = folder / name
            blob = Path(os.readlink(path)).name if path.is_symlink() else ""
            if HASH.fullmatch(blob):
                check(path, read_bytes(path), blob)

    def read(self, folder: Path) -> Contents:
        """What the folder says of itself. ArtifactError unless it is what this repository must hold."""
        contents, name = self.kind.read(folder), self.repo.split("/")[1]
        if contents.name != name:
            raise ArtifactError(f"{self.repo}: holds {contents.name!r}, not {name!r}; ask who published it")
        if not contents.digest.startswith(self.digest or ""):
            cause = f"its digest is {contents.digest[:12]}, not {(self.digest or '')[:12]} as expected"
            raise ArtifactError(f"{self.repo}: {cause}; it was changed after it was named")
        return contents

    def discard(self, path: Path, commit: str) -> None:
        """Remove a file that was got for `commit`: the link, and what it leads to as far as that is in the cache."""
        with suppress(OSError):
            (self.storage / "refs" / commit).unlink(missing_ok=True)  # the client's note that it is another commit
            while path.is_symlink():
                target = path.parent.resolve() / os.readlink(path)
                path.unlink()
                path = Path(os.path.normpath(target))
                if not path.is_relative_to(self.root):
                    return
            path.unlink(missing_ok=True)


def check(path: Path, data: bytes, want: str) -> None:
    """ArtifactError unless the bytes of a file have this hash: a sha256, or git's sha1."""
    digest = hashlib.sha256(data) if len(want) == 64 else hashlib.sha1(b"blob %d\0" % len(data) + data)
    if digest.hexdigest() != want:
        raise ArtifactError(f"{path}: its {digest.name} differs from the one expected ({DAMAGED}); {REPAIR}")


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """ArtifactError unless every file in `folder` has the size and the sha256 that a manifest lists."""
    for name, entry in files.items():
        check(folder / name, read_bytes(folder / name, entry["bytes"]), entry["sha256"])


def writable(folder: Path) -> Path:
    """The folder, if it is one to write to. UsageError for what lies in the cache of the Hub."""
    if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):
        raise UsageError(f"{folder} is the Hub's cache; make a copy to write to: ddhub download NAME --to FOLDER")
    return folder

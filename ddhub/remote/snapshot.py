"""Download of a repository of the Hub at one commit into the user's cache, with every byte checked.

huggingface_hub checks the size of a download but not its content, and returns a cached copy whenever the Hub fails. So
this module resolves the revision once, with sizes and hashes of all files; reads the manifest first and checks all
sizes; and then downloads only the files that the manifest lists, by name at that commit. Files are hashed after the
download and each time they are used from the cache. A file that does not match is removed and downloaded once more.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddhub.artifact.manifest import README, REPAIR, TEXT_BYTES, read_bytes
from ddhub.errors import ArtifactError, HubError, UsageError
from ddhub.io.files import max_bytes
from ddhub.remote.cache import ARTIFACT, HASH, Kind, RemoteFile, RepoCache, check_hash
from ddhub.remote.client import COMMIT, TIMEOUT, Access, Unreachable, api, check_bytes, patiently

_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./+-]{0,199}", re.ASCII)
_ANY = Access()
_log = logging.getLogger("ddhub")


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit, by path."""

    commit: str
    files: dict[str, RemoteFile]


def fetch(
    repo: str,
    kind: Kind = ARTIFACT,
    *,
    revision: str | None = None,
    digest: str | None = None,
    access: Access = _ANY,
    whole: bool = True,
    card: bool = False,
) -> Path:
    """The folder of a repository's files at a commit; files that the cache lacks are downloaded.

    Args:
        repo: NAMESPACE/NAME.
        kind: the kind of published folder.
        revision: a commit (40 hex digits), which is requested only once, or a branch or tag.
        digest: the digest that the manifest must have, or its beginning.
        whole: False for the manifest and the growing files only.
        card: True for README.md too.

    Raises:
        HubError: the Hub refuses, or cannot be reached and the cache has no complete copy.
        ArtifactError: files differ from the manifest or from the Hub's listing.
        UsageError: the revision is malformed, or the download is larger than DDHUB_MAX_BYTES.
    """
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UsageError(f"revision {revision!r} is not a commit, branch or tag; correct it")
    cache = RepoCache(repo, kind, digest, access)
    commit = revision if revision and COMMIT.fullmatch(revision) else None
    known = commit or (digest and cache.ref(revision))
    if known and not access.force_download and not card and cache.holds(known, whole):
        return cache.snapshot(known)
    if access.offline:
        return cache.kept(revision, whole)
    try:
        listing = list_files(repo, kind, revision, access)
        if not commit and not digest:
            advice = f"to pin it, load {repo}@{listing.commit}"
            _log.warning("%s: %s is commit %s; %s", repo, revision or "main", listing.commit, advice)
        get_growing(cache, listing, card=card)  # first: a manifest in the cache implies these files
        wanted = plan(cache, listing)
        for name in wanted if whole else ():
            get(cache, listing, name, limit=max_bytes(), sha256=wanted[name])
    except Unreachable as error:
        try:
            kept = cache.kept(revision, whole)
        except (HubError, ArtifactError):
            raise error from None
        _log.warning("%s; using the cached copy of commit %s", error, kept.name)
        return kept
    _log.info("%s: commit %s", repo, listing.commit)
    if whole and not commit:
        cache.record(revision, listing.commit)
    return cache.snapshot(listing.commit)


def list_files(repo: str, kind: Kind, revision: str | None, access: Access) -> Listing:
    """The files of a repository at a revision, from one request. Raises HubError."""

    def request() -> Listing:
        try:
            info = api(access.token).repo_info(
                repo, repo_type=kind.repo_type, revision=revision, files_metadata=True, timeout=TIMEOUT
            )
            siblings: Any = getattr(info, "siblings", None) or ()
            listing = Listing(info.sha or "", {x.rfilename: _remote_file(x) for x in siblings})
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # the client's errors for a malformed answer
            raise Unreachable(f"{repo}: the Hub's answer cannot be read; try again later") from error
        if not COMMIT.fullmatch(listing.commit) or (COMMIT.fullmatch(revision or "") and listing.commit != revision):
            expected = revision or "a commit"
            raise Unreachable(f"{repo}: the Hub answers for {listing.commit!r}, not for {expected}; try again later")
        return listing

    return patiently(request, repo)


def _remote_file(sibling: Any) -> RemoteFile:
    size, digest = (sibling.lfs.size, sibling.lfs.sha256) if sibling.lfs else (sibling.size, sibling.blob_id)
    if type(size) is not int or not HASH.fullmatch(digest):
        raise ValueError(f"{sibling.rfilename!r} has no size and hash")
    return RemoteFile(size, digest)


def get(cache: RepoCache, listing: Listing, name: str, *, limit: int, sha256: str = "") -> Path:
    """The path of one file of a listing in the cache, downloaded if necessary, and once more if its content is wrong.

    Raises:
        HubError: the Hub cannot be reached, or has no such file.
        ArtifactError: the file is not listed, has more than `limit` bytes, or has wrong content after two downloads.
    """
    entry = listing.files.get(name)
    if entry is None:
        raise ArtifactError(f"{cache.repo}: no {name} at commit {listing.commit}; {REPAIR}")
    if entry.bytes > limit:
        raise ArtifactError(f"{cache.repo}: {name} has {entry.bytes:,} bytes, more than {limit:,}; {REPAIR}")
    expected = cache.snapshot(listing.commit) / name
    for trial in (1, 2):
        path = _download(cache, listing.commit, name)
        try:
            if path != expected:
                raise ArtifactError(f"{cache.repo}: {name} comes from another commit than {listing.commit}; try again")
            data = read_bytes(path, entry.bytes)
            for known in {entry.hash, sha256 or entry.hash}:
                check_hash(path, data, known)
            return path
        except ArtifactError as error:
            cache.discard(path, listing.commit)
            if trial == 2:
                raise
            _log.warning("%s; removed from the cache and downloaded once more", error)
    raise AssertionError("there are two trials")


def _download(cache: RepoCache, commit: str, name: str) -> Path:
    access, kind = cache.access, cache.kind.repo_type

    def request() -> str:
        return api(access.token).hf_hub_download(
            cache.repo,
            name,
            repo_type=kind,
            revision=commit,
            cache_dir=cache.root,
            force_download=access.force_download,
            etag_timeout=TIMEOUT,
        )

    return Path(patiently(request, f"{cache.repo}: {name}"))


def plan(cache: RepoCache, listing: Listing) -> dict[str, str]:
    """Download the manifest; return the sha256 of each file that it lists, by path.

    Raises:
        HubError: the Hub cannot be reached.
        ArtifactError: the manifest is damaged or not the expected one, or the Hub lists another size or sha256.
        UsageError: the files together are larger than DDHUB_MAX_BYTES.
    """
    get(cache, listing, cache.kind.manifest, limit=TEXT_BYTES)
    files = cache.read(cache.snapshot(listing.commit)).files
    for name, item in files.items():
        entry = listing.files.get(name, RemoteFile(-1, ""))
        if entry.bytes != item["bytes"] or (len(entry.hash) == 64 and entry.hash != item["sha256"]):
            cause = f"{name} at commit {listing.commit} is missing or differs from the manifest"
            raise ArtifactError(f"{cache.repo}: {cause}; {REPAIR}")
    check_bytes(sum(item["bytes"] for item in files.values()), cache.repo)
    return {name: item["sha256"] for name, item in files.items()}


def get_growing(cache: RepoCache, listing: Listing, *, card: bool = False) -> None:
    """Download the growing files, and README.md if `card`. Raises as `get` does."""
    for name in (*cache.kind.growing, *[README] * card):
        if name in listing.files:
            get(cache, listing, name, limit=TEXT_BYTES)

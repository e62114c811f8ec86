"""What a repository of the Hub holds at one commit, in the user's cache of the Hub, every byte checked.

The client checks the size of what it downloads, not the content, and serves a cached copy whenever the Hub fails. So
here the revision is resolved once, together with sizes and hashes of all files; the manifest is read first and all
sizes are checked; then only the files that it lists are asked for, each by name at that commit, and hashed, when they
come and again whenever they are found in the cache. What is not as it should be is removed and asked for once more.
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
from ddhub.remote.cache import ARTIFACT, HASH, Entry, Kind, RepoCache, check
from ddhub.remote.client import COMMIT, TIMEOUT, Access, Unreachable, api, check_bytes, patiently

_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./+-]{0,199}", re.ASCII)
_ANY = Access()
_log = logging.getLogger("ddhub")


@dataclass(frozen=True)
class Listing:
    """A repository at a commit: its files by path."""

    commit: str
    files: dict[str, Entry]


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
    """The folder of a repository's files at a commit, downloaded where the cache has them not.

    Args:
        revision: a commit (40 hex digits), which once downloaded is never asked for again, or a branch or tag.
        digest: what the manifest's must be, or its beginning.
        whole: False for the manifest, and what grows beside it, alone.
        card: README.md too.

    Raises:
        HubError: it cannot be asked, and the cache has no whole copy; or it refuses.
        ArtifactError: files that are not as their manifest, or the Hub, says.
        UsageError: a revision that cannot be one, or a download above DDHUB_MAX_BYTES.
    """
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UsageError(f"revision {revision!r} is not a commit, branch or tag; correct it")
    cached = RepoCache(repo, kind, digest, access)
    commit = revision if revision and COMMIT.fullmatch(revision) else None
    known = commit or (digest and cached.ref(revision))
    if known and not access.force_download and not card and cached.holds(known, whole):
        return cached.snapshot(known)
    if access.offline:
        return cached.kept(revision, whole)
    try:
        listing = look(repo, kind, revision, access)
        if not commit and not digest:
            advice = f"for always the same one, load {repo}@{listing.commit}"
            _log.warning("%s: %s is commit %s; %s", repo, revision or "main", listing.commit, advice)
        get_growing(cached, listing, card=card)  # first, so that where a manifest is they are, too
        wanted = plan(cached, listing)
        for name in wanted if whole else ():
            get(cached, listing, name, limit=max_bytes(), sha256=wanted[name])
    except Unreachable as error:
        try:
            kept = cached.kept(revision, whole)
        except (HubError, ArtifactError):
            raise error from None
        _log.warning("%s; using the cached copy of commit %s", error, kept.name)
        return kept
    _log.info("%s: commit %s", repo, listing.commit)
    if whole and not commit:
        cached.record(revision, listing.commit)
    return cached.snapshot(listing.commit)


def look(repo: str, kind: Kind, revision: str | None, access: Access) -> Listing:
    """What the Hub has at a revision, by one request. Raises HubError."""

    def ask() -> Listing:
        try:
            info = api(access.token).repo_info(
                repo, repo_type=kind.repo_type, revision=revision, files_metadata=True, timeout=TIMEOUT
            )
            siblings: Any = getattr(info, "siblings", None) or ()
            listing = Listing(info.sha or "", {x.rfilename: _entry(x) for x in siblings})
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # whatever the client makes of nonsense
            raise Unreachable(f"{repo}: the Hub's answer cannot be read; try again later") from error
        if not COMMIT.fullmatch(listing.commit) or (COMMIT.fullmatch(revision or "") and listing.commit != revision):
            asked = revision or "a commit"
            raise Unreachable(f"{repo}: the Hub answers for {listing.commit!r}, not for {asked}; try again later")
        return listing

    return patiently(ask, repo)


def _entry(sibling: Any) -> Entry:
    size, digest = (sibling.lfs.size, sibling.lfs.sha256) if sibling.lfs else (sibling.size, sibling.blob_id)
    if type(size) is not int or not HASH.fullmatch(digest):
        raise ValueError(f"{sibling.rfilename!r} has no size and hash")
    return Entry(size, digest)


def get(cached: RepoCache, listing: Listing, name: str, *, limit: int, sha256: str = "") -> Path:
    """One file of a listing as the cache has it, downloaded if need be; what is not as listed is fetched once more.

    Raises:
        HubError: the Hub cannot be asked, or has no such file.
        ArtifactError: no such file listed, more than `limit` bytes, or twice another content than listed.
    """
    entry = listing.files.get(name)
    if entry is None:
        raise ArtifactError(f"{cached.repo}: no {name} at commit {listing.commit}; {REPAIR}")
    if entry.bytes > limit:
        raise ArtifactError(f"{cached.repo}: {name} has {entry.bytes:,} bytes, more than {limit:,}; {REPAIR}")
    want = cached.snapshot(listing.commit) / name
    for trial in (1, 2):
        file = _download(cached, listing.commit, name)
        try:
            if file != want:
                raise ArtifactError(f"{cached.repo}: {name} comes from another commit than {listing.commit}; try again")
            data = read_bytes(file, entry.bytes)
            for known in {entry.hash, sha256 or entry.hash}:
                check(file, data, known)
            return file
        except ArtifactError as error:
            cached.discard(file, listing.commit)
            if trial == 2:
                raise
            _log.warning("%s; removed from the cache and fetched once more", error)
    raise AssertionError("there are two trials")


def _download(cached: RepoCache, commit: str, name: str) -> Path:
    access, kind = cached.access, cached.kind.repo_type

    def ask() -> str:
        return api(access.token).hf_hub_download(
            cached.repo,
            name,
            repo_type=kind,
            revision=commit,
            cache_dir=cached.root,
            force_download=access.force_download,
            etag_timeout=TIMEOUT,
        )

    return Path(patiently(ask, f"{cached.repo}: {name}"))


def plan(cached: RepoCache, listing: Listing) -> dict[str, str]:
    """The files that the manifest lists, which is downloaded now, with their sha256.

    Raises:
        HubError: the Hub cannot be asked.
        ArtifactError: the manifest is damaged or not the one expected, or the Hub lists another size or sha256.
        UsageError: all together are larger than DDHUB_MAX_BYTES.
    """
    get(cached, listing, cached.kind.index, limit=TEXT_BYTES)
    listed = cached.read(cached.snapshot(listing.commit)).files
    for name, record in listed.items():
        entry = listing.files.get(name, Entry(-1, ""))
        if entry.bytes != record["bytes"] or (len(entry.hash) == 64 and entry.hash != record["sha256"]):
            cause = f"{name} at commit {listing.commit} is missing or not as the manifest says"
            raise ArtifactError(f"{cached.repo}: {cause}; {REPAIR}")
    check_bytes(sum(record["bytes"] for record in listed.values()), cached.repo)
    return {name: record["sha256"] for name, record in listed.items()}


def get_growing(cached: RepoCache, listing: Listing, *, card: bool = False) -> None:
    """Download what grows beside the manifest, and README.md if `card`. Raises as `get` does."""
    for name in (*cached.kind.growing, *[README] * card):
        if name in listing.files:
            get(cached, listing, name, limit=TEXT_BYTES)

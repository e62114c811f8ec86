"""Publish into a repository of the Hub: one commit, a comparison of its files with those that were sent, then a tag.

A push that fails leaves the repository unchanged or with a commit without a tag; the next push continues from there.
Unchanged files are not sent again, so that a repeated push changes nothing. The commit names its parent, so that the
Hub refuses it if somebody else has committed in the meantime.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ddhub.artifact.manifest import RESULTS, TENSORS
from ddhub.errors import HubError, UsageError
from ddhub.publish.bundle import Publication, Published
from ddhub.remote import client
from ddhub.remote.client import TIMEOUT, Missing, Pin, Unreachable, patiently

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_STALE = re.compile(rf"(data|compensators)/.*|{re.escape(TENSORS)}|{re.escape(RESULTS)}")


@dataclass(frozen=True)
class _Head:
    """The state of a repository: its last commit and the hashes of its files (sha256; for small files git's sha1)."""

    commit: str
    private: bool
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A repository to push to, and the options of the push."""

    repo: str
    kind: str
    token: str | None = None
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False

    @property
    def is_draft(self) -> bool:
        """Whether the push goes to a branch or a pull request, which gets no tag."""
        return self.create_pr or self.revision not in (None, "main")

    @property
    def url(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def api(self) -> HfApi:
        return client.api(self.token)


def push(publication: Publication, target: Target, message: str | None, *, dry_run: bool) -> Published:
    """Write a publication into a repository, which is created if it does not exist; `dry_run` only compares.

    Raises:
        HubError: the token is missing, unknown or may not write; the Hub does not answer or refuses; or files in the
            repository differ from those that were sent.
        UsageError: the repository is public and `target.private` is True.
    """
    _check_token(target)
    head = _head(target)
    tags = _tags(target) if head else {}
    plan = Published(
        url=target.url,
        commit="",
        tag="" if target.is_draft else f"v{max(tags.values(), default=0) + 1}",
        files={name: len(data) for name, data in sorted(publication.files.items())},
        changed=True,
        checks=publication.checks,
    )
    if head is None and not dry_run:
        head = _create(target)
    if head and target.revision and target.is_draft and not dry_run:
        _branch(target, target.revision)
    if head and _is_current(publication.files, head.files):
        number = max((number for commit, number in tags.items() if commit == head.commit), default=0)
        plan = replace(plan, commit=head.commit, changed=False, tag=f"v{number}" if number and plan.tag else plan.tag)
    if dry_run or head is None:
        return plan
    if plan.changed:
        url, commit = _commit(publication, target, head, message or f"{publication.name} {publication.digest[:12]}")
        plan = replace(plan, url=url, commit=commit)
    if plan.tag and int(plan.tag[1:]) not in tags.values():
        _tag(target, plan.tag, plan.commit)
    if plan.tag and target.kind == "dataset":
        plan = replace(plan, pin=Pin(target.repo, plan.commit, publication.digest, plan.tag))
    return plan


def _check_token(target: Target) -> None:
    from huggingface_hub import constants, get_token

    advice = f"make one of role 'write' ({constants.ENDPOINT}/settings/tokens), then: hf auth login"
    if not (target.token or get_token()):
        raise HubError(f"{target.repo}: a push needs a token, and there is none; {advice}")
    try:
        user: dict[str, Any] = patiently(target.api.whoami, target.repo)
    except Unreachable:
        raise
    except HubError:
        raise HubError(f"{target.repo}: the Hub does not know the token; {advice}") from None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"{target.repo}: the token may read but not write; {advice}")


def _head(target: Target) -> _Head | None:
    """The state of the target branch, or of main if that branch does not exist; None without a repository."""
    with suppress(Missing):
        return _state(target, target.revision)
    if target.revision is None:
        if target.create_pr:
            raise HubError(f"{target.repo}: no such repository to open a pull request for; push without --create-pr")
        return None
    with suppress(Missing):
        return _state(target, None)
    return None


def _state(target: Target, revision: str | None) -> _Head:
    def request() -> _Head:
        info: Any = target.api.repo_info(
            target.repo, repo_type=target.kind, revision=revision, files_metadata=True, timeout=TIMEOUT
        )
        files = {x.rfilename: x.lfs.sha256 if x.lfs else x.blob_id for x in info.siblings or ()}
        return _Head(info.sha, info.private, files)

    head = patiently(request, target.repo)
    if target.private and not head.private:
        raise UsageError(f"{target.repo} is public; make it private in its settings first, or push without --private")
    return head


def _create(target: Target) -> _Head:
    api, private = target.api, target.private
    patiently(lambda: api.create_repo(target.repo, repo_type=target.kind, private=private, exist_ok=True), target.repo)
    return _state(target, None)


def _branch(target: Target, name: str) -> None:
    api, subject = target.api, f"{target.repo}: branch {name}"
    patiently(lambda: api.create_branch(target.repo, branch=name, repo_type=target.kind, exist_ok=True), subject)


def _tag(target: Target, name: str, commit: str) -> None:
    api, subject = target.api, f"{target.repo}: tag {name}"
    patiently(lambda: api.create_tag(target.repo, tag=name, revision=commit, repo_type=target.kind), subject)


def _tags(target: Target) -> dict[str, int]:
    """The highest version number of each commit that has a tag v1, v2, ..."""
    refs = patiently(lambda: target.api.list_repo_refs(target.repo, repo_type=target.kind), f"{target.repo}: its tags")
    versions: dict[str, int] = {}
    for tag in refs.tags:
        if re.fullmatch(r"v[1-9][0-9]{0,8}", tag.name):
            versions[tag.target_commit] = max(versions.get(tag.target_commit, 0), int(tag.name[1:]))
    return versions


def _is_current(files: Mapping[str, bytes], hashes: Mapping[str, str]) -> bool:
    """Whether a repository holds these files and no stale ones; `hashes` are those of its files by path."""
    return not _stale(files, hashes) and not [name for name in files if not _same(files[name], hashes.get(name, ""))]


def _stale(files: Mapping[str, bytes], hashes: Mapping[str, str]) -> list[str]:
    """Data files in a repository that are not published any more; `data/train-*` would match them."""
    return [name for name in hashes if name not in files and _STALE.fullmatch(name)]


def _same(data: bytes, expected: str) -> bool:
    """Whether data has the hash that the Hub lists: sha256 for large files, git's sha1 of a blob for others."""
    if len(expected) == 64:
        return hashlib.sha256(data).hexdigest() == expected
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest() == expected


def _commit(publication: Publication, target: Target, head: _Head, message: str) -> tuple[str, str]:
    """Make the commit; return the address of the repository or pull request, and the commit's hash."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = publication.files

    def send() -> Any:
        new = [name for name in files if not _same(files[name], head.files.get(name, ""))]
        adds = [CommitOperationAdd(name, files[name]) for name in new]
        deletes = [CommitOperationDelete(name) for name in _stale(files, head.files)]
        return target.api.create_commit(
            target.repo,
            [*adds, *deletes],
            commit_message=message,
            repo_type=target.kind,
            revision=target.revision,
            parent_commit=head.commit,
            create_pr=target.create_pr,
        )

    try:
        done = patiently(send, f"{target.repo}: the commit")
        url, commit = done.pr_url or target.url, done.oid
    except HubError:
        now = head
        with suppress(HubError):
            now = _state(target, target.revision)
        if now.commit == head.commit or target.create_pr:
            raise
        if not _is_current(files, now.files):
            raise HubError(f"{target.repo}: someone else has committed in the meantime; push again") from None
        url, commit = target.url, now.commit  # the commit arrived, only the answer was lost
    sent = _state(target, commit).files
    wrong = [name for name in files if not _same(files[name], sent.get(name, ""))]
    if wrong:
        raise HubError(f"{target.repo}: {wrong[0]} differs from the file that was sent (commit {commit}); push again")
    return url, commit

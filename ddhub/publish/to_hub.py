"""Publish into a repository of the Hub: one commit on the one that was looked at, compared afterwards, then a tag.

A push that dies leaves the repository as it was, or with a commit that has no tag yet; the next one goes on from there.
What is already as it should be is not sent again, so that pushing twice changes nothing.
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
    """A repository as it was found: its last commit, and the hashes of its files (sha256, or git's of a small file)."""

    commit: str
    private: bool
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A repository and how it is written to. A branch or a pull request is a draft: it gets no tag."""

    repo: str
    kind: str
    token: str | None = None
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False

    @property
    def is_draft(self) -> bool:
        return self.create_pr or self.revision not in (None, "main")

    @property
    def url(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def api(self) -> HfApi:
        return client.api(self.token)


def push(publication: Publication, target: Target, message: str | None, *, dry_run: bool) -> Published:
    """Write what is published into a repository, made if there is none; `dry_run` only asks and compares.

    Raises:
        HubError: a token that is missing, unknown or may not write; a Hub that does not answer or refuses; files that
            are not there as they were sent.
        UsageError: a public repository that was to be private.
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
    if head and _is_there(publication.files, head.files):
        number_of_tag = max((number for commit, number in tags.items() if commit == head.commit), default=0)
        plan = replace(
            plan, commit=head.commit, changed=False, tag=f"v{number_of_tag}" if number_of_tag and plan.tag else plan.tag
        )
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
        raise HubError(f"{target.repo}: publishing takes a token, and there is none; {advice}")
    try:
        user: dict[str, Any] = patiently(target.api.whoami, target.repo)
    except Unreachable:
        raise
    except HubError:
        raise HubError(f"{target.repo}: the Hub does not know the token; {advice}") from None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"{target.repo}: the token may read but not write; {advice}")


def _head(target: Target) -> _Head | None:
    """The repository at the branch that is written to, or at main where there is no such branch; None for neither."""
    with suppress(Missing):
        return _look(target, target.revision)
    if target.revision is None:
        if target.create_pr:
            raise HubError(f"{target.repo}: no such repository to open a pull request for; push without --create-pr")
        return None
    with suppress(Missing):
        return _look(target, None)
    return None


def _look(target: Target, revision: str | None) -> _Head:
    def ask() -> _Head:
        info: Any = target.api.repo_info(
            target.repo, repo_type=target.kind, revision=revision, files_metadata=True, timeout=TIMEOUT
        )
        files = {x.rfilename: x.lfs.sha256 if x.lfs else x.blob_id for x in info.siblings or ()}
        return _Head(info.sha, info.private, files)

    head = patiently(ask, target.repo)
    if target.private and not head.private:
        raise UsageError(f"{target.repo} is public; make it private in its settings first, or push without --private")
    return head


def _create(target: Target) -> _Head:
    api, private = target.api, target.private
    patiently(lambda: api.create_repo(target.repo, repo_type=target.kind, private=private, exist_ok=True), target.repo)
    return _look(target, None)


def _branch(target: Target, name: str) -> None:
    api, subject = target.api, f"{target.repo}: branch {name}"
    patiently(lambda: api.create_branch(target.repo, branch=name, repo_type=target.kind, exist_ok=True), subject)


def _tag(target: Target, name: str, commit: str) -> None:
    api, subject = target.api, f"{target.repo}: tag {name}"
    patiently(lambda: api.create_tag(target.repo, tag=name, revision=commit, repo_type=target.kind), subject)


def _tags(target: Target) -> dict[str, int]:
    """The number of the highest tag v1, v2, ... of each commit that has one."""
    refs = patiently(lambda: target.api.list_repo_refs(target.repo, repo_type=target.kind), f"{target.repo}: its tags")
    tags: dict[str, int] = {}
    for tag in refs.tags:
        if re.fullmatch(r"v[1-9][0-9]{0,8}", tag.name):
            tags[tag.target_commit] = max(tags.get(tag.target_commit, 0), int(tag.name[1:]))
    return tags


def _is_there(files: Mapping[str, bytes], remote: Mapping[str, str]) -> bool:
    """Whether a repository holds these files, and no others of ours."""
    return not _stale(files, remote) and not [name for name in files if not _same(files[name], remote.get(name, ""))]


def _stale(files: Mapping[str, bytes], remote: Mapping[str, str]) -> list[str]:
    """What lies where data lie but is not published any more: `data/train-*` would take it for data."""
    return [name for name in remote if name not in files and _STALE.fullmatch(name)]


def _same(data: bytes, digest: str) -> bool:
    """Whether a hash of the Hub is that of the data: sha256 of large files, of others git's sha1 of a blob."""
    if len(digest) == 64:
        return hashlib.sha256(data).hexdigest() == digest
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest() == digest


def _commit(publication: Publication, target: Target, head: _Head, message: str) -> tuple[str, str]:
    """Make the one commit; its address, or the pull request's, and its 40 hex digits. Raises HubError."""
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
            now = _look(target, target.revision)
        if now.commit == head.commit or target.create_pr:
            raise
        if not _is_there(files, now.files):
            raise HubError(f"{target.repo}: someone else has committed in the meantime; push again") from None
        url, commit = target.url, now.commit  # it did arrive, and only the answer was lost
    there = _look(target, commit).files
    wrong = [name for name in files if not _same(files[name], there.get(name, ""))]
    if wrong:
        raise HubError(f"{target.repo}: {wrong[0]} lies there other than it was sent (commit {commit}); push again")
    return url, commit

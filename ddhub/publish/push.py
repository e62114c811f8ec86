"""Publish an artifact or a teacher: into a repository of the Hub, or into a folder.

    push("out/cifar10-infer-ipc10", "lab/cifar10-infer-ipc10").url
    push("out/cifar10-infer-ipc10", "/srv/ddhub")           # ddhub.load("cifar10-infer-ipc10", source="/srv/ddhub")

Only what loads is published, and of artifacts only what has results that are not below those of random selection. A
repository gets one commit, and the tag v1, v2, ... once its files are compared with those at hand.
"""

from __future__ import annotations

from pathlib import Path

from ddhub.cards.usage import NAMESPACE
from ddhub.errors import DDHubError, UsageError
from ddhub.publish import to_folder, to_hub
from ddhub.publish.bundle import Publication, Published, of_artifact, of_teacher
from ddhub.publish.to_hub import Target
from ddhub.remote import client
from ddhub.remote.client import REPO, Pin
from ddhub.remote.find import resolve
from ddhub.teachers import folder_of


def push(
    folder: str | Path,
    to: str | Path | None = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    dry_run: bool = False,
    accept_below_baseline: bool = False,
    accept_uncommitted: bool = False,
    catalog: str | Path | None = None,
) -> Published:
    """Publish the artifact or teacher in `folder`; what is there already is not sent again.

    Args:
        folder: an artifact's or a teacher's folder, or the name of one.
        to: the repository "namespace/NAME", with the name that the manifest has; or a folder, as a Path, or as a text
            that is no two words around a slash: "/srv/ddhub", "./ddhub". If not given, the repository of that name in
            the namespace DDHUB_NAMESPACE, else `ddhub`.
        private: whether a new repository is private; it is an error if True and there is a public one.
        token: the user's own if not given (`hf auth login`, HF_TOKEN).
        revision: another branch than main. Neither it nor a pull request gets a tag or a catalog's entry.
        create_pr: open a pull request in place of a commit.
        commit_message: name and digest if not given.
        dry_run: check and compare everything, but write nothing.
        accept_below_baseline: publish an artifact that random selection beats; its card says so in any case.
        accept_uncommitted: publish an artifact whose code was in no commit when it was made.
        catalog: the file that gets the entry of the new version: repository, commit, digest, tag.

    Raises:
        UsageError: results or baseline missing, a mean below the baseline's, a `to` that cannot be.
        ArtifactError: a folder that does not load.
        HubError: a token that may not write, a Hub that refuses or cannot be reached; nothing, or a commit without a
            tag, is left there, and the same push can be repeated.
        DDHubError: a folder or catalog that cannot be written.
    """
    repo = to if isinstance(to, str) and REPO.fullmatch(to) else None
    owner = client.namespace() if to is None else repo.partition("/")[0] if repo else NAMESPACE
    publication = _read(folder, owner, accept_below_baseline, accept_uncommitted)
    if to is not None and not repo:
        if private is not None or revision or create_pr or catalog:
            raise UsageError(f"{to} is a folder: it has no visibility, branches or catalog entry; leave them out")
        return to_folder.push(publication, Path(to).expanduser(), dry_run=dry_run)
    repo = repo or f"{owner}/{publication.name}"
    if repo != f"{owner}/{publication.name}":
        raise UsageError(
            f"{repo}: a repository has the name of what is in it; use {owner}/{publication.name}, or ./{repo}"
        )
    if revision and create_pr:
        raise UsageError(f"{repo}: a pull request goes to main; leave out the revision {revision!r}")
    target = Target(
        repo=repo, kind=publication.kind, token=token, private=private, revision=revision, create_pr=create_pr
    )  # fmt: skip
    done = to_hub.push(publication, target, commit_message, dry_run=dry_run)
    if catalog and done.pin and not dry_run:
        _enter(Path(catalog), publication.name, done.pin)
    return done


def _read(folder: str | Path, owner: str, accept_below_baseline: bool, accept_uncommitted: bool) -> Publication:
    if teacher := folder_of(str(folder)):
        return of_teacher(teacher, owner)
    return of_artifact(
        resolve(folder),
        owner,
        accept_below_baseline=accept_below_baseline,
        accept_uncommitted=accept_uncommitted,
    )


def _enter(catalog: Path, name: str, pin: Pin) -> None:
    try:
        client.write_pin(catalog, name, pin)
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise DDHubError(f"{catalog}: {cause}; {name} is published, push again with another --catalog") from None

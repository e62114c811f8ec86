"""Publish an artifact or a teacher: into a repository of the Hub, or into a folder.

    push("out/cifar10-infer-ipc10", "lab/cifar10-infer-ipc10").url
    push("out/cifar10-infer-ipc10", "/srv/ddhub")           # ddhub.load("cifar10-infer-ipc10", source="/srv/ddhub")

Only folders that load are published, and only artifacts with results that are not below those of random selection. A
repository gets one commit. After its files have been compared with the local ones it gets the tag v1, v2, ...
"""

from __future__ import annotations

from pathlib import Path

from ddhub.cards.usage import NAMESPACE
from ddhub.errors import DDHubError, UsageError, shown
from ddhub.io.private import told, told_by_bytes
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
    accept_private: bool = False,
    catalog: str | Path | None = None,
) -> Published:
    """Publish the artifact or teacher in `folder`; files that are unchanged are not sent again.

    Args:
        folder: the folder or the name of an artifact or a teacher.
        to: the repository "namespace/NAME", where NAME is the name in the manifest; or a folder, given as a Path or as
            text other than two words around a slash ("/srv/ddhub", "./ddhub"). By default the repository of that name
            in the namespace DDHUB_NAMESPACE, else `ddhub`.
        private: whether a new repository is private; True is an error for an existing public repository.
        token: a token of the Hub; by default the user's (`hf auth login`, HF_TOKEN).
        revision: a branch other than main. Neither a branch nor a pull request gets a tag or a catalog entry.
        create_pr: open a pull request instead of a commit.
        commit_message: by default name and digest.
        dry_run: check and compare everything, but write nothing.
        accept_below_baseline: publish an artifact that is below random selection; its card says so in any case.
        accept_uncommitted: publish an artifact that was made from uncommitted code.
        accept_private: publish files in which there is a path, or the name of this machine or its user.
        catalog: the catalog file that gets an entry for the new version: repository, commit, digest, tag.

    Raises:
        UsageError: results or the baseline are missing, a mean is below the baseline's, a file tells of this machine,
            or the arguments do not fit.
        ArtifactError: the folder does not load.
        HubError: the token may not write, or the Hub refuses or cannot be reached. The repository is then unchanged or
            has a commit without a tag; the same push can be repeated.
        DDHubError: the folder or the catalog cannot be written.
    """
    repo = to if isinstance(to, str) and REPO.fullmatch(to) else None
    owner = client.namespace() if to is None else repo.partition("/")[0] if repo else NAMESPACE
    publication = _read(folder, owner, accept_below_baseline, accept_uncommitted)
    if not accept_private:
        _check_private(publication, owner)
    if to is not None and not repo:
        if private is not None or revision or create_pr or catalog:
            raise UsageError(f"{to} is a folder: it has no visibility, branches or catalog entry; leave them out")
        return to_folder.push(publication, Path(to).expanduser(), dry_run=dry_run)
    expected = f"{owner}/{publication.name}"
    repo = repo or expected
    if repo != expected:
        cause = f"the repository must have the name of its contents, {publication.name}"
        raise UsageError(f"{repo}: {cause}; use {expected}, or ./{repo} for a folder")
    if revision and create_pr:
        raise UsageError(f"{repo}: a pull request goes to main; leave out the revision {revision!r}")
    target = Target(
        repo=repo, kind=publication.kind, token=token, private=private, revision=revision, create_pr=create_pr
    )  # fmt: skip
    done = to_hub.push(publication, target, commit_message, dry_run=dry_run)
    if catalog and done.pin and not dry_run:
        _add_to_catalog(Path(catalog), publication.name, done.pin)
    return done


def _check_private(publication: Publication, owner: str) -> None:
    """UsageError for a file that tells of the machine that it was made on."""
    for name, data in sorted(publication.files.items()):
        is_text = name.endswith((".json", ".jsonl", ".md"))
        if found := told(data.decode("utf-8", "replace"), (owner,)) if is_text else told_by_bytes(data):
            cause = f"there is {shown(found)} in its {name}, and it would be published"
            raise UsageError(f"{publication.name}: {cause}; make it again, or publish it anyway with --accept-private")


def _read(folder: str | Path, owner: str, accept_below_baseline: bool, accept_uncommitted: bool) -> Publication:
    if teacher := folder_of(str(folder)):
        return of_teacher(teacher, owner)
    return of_artifact(
        resolve(folder),
        owner,
        accept_below_baseline=accept_below_baseline,
        accept_uncommitted=accept_uncommitted,
    )


def _add_to_catalog(catalog: Path, name: str, pin: Pin) -> None:
    try:
        client.write_pin(catalog, name, pin)
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise DDHubError(f"{catalog}: {cause}; {name} is published, push again with another --catalog") from None

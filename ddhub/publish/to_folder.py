"""Publish into a folder: a tree that `ddhub.load(name, source=FOLDER)` reads, from disk or off any web server.

    FOLDER/catalog.json      {"format": 1, "artifacts": {NAME: {"digest": …, "files": [paths inside NAME]}}}
    FOLDER/NAME/             the files

The catalog is written last of all: who reads while an artifact is replaced, or after a push was killed, finds the old
one, the new one, or one that the catalog does not fit, which is refused; never a part of one. Teachers lie there
without an entry: an artifact finds those that it names beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import MANIFEST, REPAIR, parse, read_bytes
from ddhub.errors import ArtifactError, DDHubError, UsageError
from ddhub.io.files import locked, replace_file, replace_folder
from ddhub.publish.bundle import Publication, Published
from ddhub.teachers import TEACHER, verify

CATALOG = "catalog.json"


def push(publication: Publication, tree: Path, *, dry_run: bool) -> Published:
    """Write what is published into `tree`; `dry_run` compares and writes nothing.

    Raises:
        UsageError: a folder in its place that holds something else.
        ArtifactError: a catalog that is damaged.
        DDHubError: a disk that is full or read-only.
    """
    name, files = publication.name, publication.files
    folder = tree / name
    if folder.exists() and not any((folder / mark).is_file() for mark in (MANIFEST, TEACHER)):
        raise UsageError(f"{folder}: not overwritten, it is not an artifact; choose another folder for --to")
    catalog = _catalog(tree)
    entry = {"digest": publication.digest, "files": sorted(files)}
    is_listed = publication.kind != "dataset" or catalog.get(name) == entry
    plan = Published(
        url=str(folder),
        commit="",
        tag="",
        files={name: len(data) for name, data in sorted(files.items())},
        changed=not (is_listed and _holds(folder, files)),
        checks=publication.checks,
    )
    if dry_run or not plan.changed:
        return plan
    try:
        tree.mkdir(parents=True, exist_ok=True)
        with locked(tree):
            replace_folder(folder, files, Artifact.open if publication.kind == "dataset" else verify)
            if publication.kind == "dataset":
                text = json.dumps({"format": 1, "artifacts": {**_catalog(tree), name: entry}}, sort_keys=True, indent=1)
                replace_file(tree / CATALOG, f"{text}\n".encode())
            for stale in tree.glob(f".{CATALOG}.tmp-*"):  # of killed processes
                stale.unlink(missing_ok=True)
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise DDHubError(f"{folder}: {cause}; free space or choose another folder for --to") from None
    return plan


def _catalog(tree: Path) -> dict[str, object]:
    """The entries of the catalog in `tree`, {} where there is none yet. ArtifactError for one that is damaged."""
    path = tree / CATALOG
    if not path.exists():
        return {}
    entries = parse(read_bytes(path), str(path)).get("artifacts")
    if not isinstance(entries, dict):
        raise ArtifactError(f"{path}: no catalog of artifacts; {REPAIR}")
    return entries


def _holds(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether the files in `folder` are these, and no others."""
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return present == files.keys() and all((folder / name).read_bytes() == data for name, data in files.items())

"""Publish into a folder: a tree that `ddhub.load(name, source=FOLDER)` reads, from disk or from any web server.

    FOLDER/catalog.json      {"format": 1, "artifacts": {NAME: {"digest": …, "files": [paths inside NAME]}}}
    FOLDER/NAME/             the files of the artifact or teacher

The catalog is written last. A reader during a push, or after a push was killed, gets the old artifact or the new one,
both complete, or an error because catalog and artifact do not match. Teachers have no entry in the catalog: an artifact
finds its teachers in the same tree.
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
    """Write a publication into the folder `tree`; `dry_run` compares and writes nothing.

    Raises:
        UsageError: the target folder exists and holds something else.
        ArtifactError: the catalog is damaged.
        DDHubError: the disk is full or read-only.
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
            for stale in tree.glob(f".{CATALOG}.tmp-*"):  # left by killed processes
                stale.unlink(missing_ok=True)
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise DDHubError(f"{folder}: {cause}; free space or choose another folder for --to") from None
    return plan


def _catalog(tree: Path) -> dict[str, object]:
    """The entries of the catalog in `tree`, {} if there is no catalog yet. Raises ArtifactError if it is damaged."""
    path = tree / CATALOG
    if not path.exists():
        return {}
    entries = parse(read_bytes(path), str(path)).get("artifacts")
    if not isinstance(entries, dict):
        raise ArtifactError(f"{path}: not a catalog of artifacts; {REPAIR}")
    return entries


def _holds(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether `folder` holds exactly these files."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return paths == files.keys() and all((folder / name).read_bytes() == data for name, data in files.items())

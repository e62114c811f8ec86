"""`ddhub verify`: every byte of artifacts and teachers, and their cards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ddhub.cli.options import complete_artifacts, json_option
from ddhub.cli.printing import print_json, say
from ddhub.errors import ArtifactError, UsageError


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, shell_complete=complete_artifacts)
@click.option("--remote", is_flag=True, help="Check that the Hub has what the catalog pins; all of it without a NAME.")
@json_option
def verify(names: tuple[str, ...], remote: bool, as_json: bool) -> None:
    """Check every byte of artifacts and teachers, and that cards are what manifests and results say."""
    if remote:
        from ddhub.cli.verify import verify_published

        return verify_published(names, as_json)
    if not names:
        raise UsageError("nothing to check; name an artifact, or give --remote (ddhub verify --help)")
    from ddhub import teachers
    from ddhub.artifact.bundled import at_hand
    from ddhub.remote.find import resolve
    from ddhub.teachers import folder_of

    folders = {name: folder_of(name) for name in names}
    found = {name: resolve(name) for name, teacher in folders.items() if not teacher}
    entries = list(at_hand(found.values()).values())
    reports: list[dict[str, Any]] = []
    for name, teacher in folders.items():
        try:
            if teacher:
                count, digests = 2, {"digest": teachers.verify(teacher)["digest"]}
            else:
                count, digests = _checked(name, found[name], entries)
        except ArtifactError as error:
            reports.append({"name": name, "ok": False, "error": str(error)})
            say(f"error: {error}", err=True)
            continue
        reports.append({"name": name, "ok": True, "files": count, **digests})
        if not as_json:
            say(f"{name}: ok, {count} files, {', '.join(f'{key} {value}' for key, value in digests.items())}")
    if as_json:
        print_json(reports)
    if not all(report["ok"] for report in reports):
        sys.exit(1)


def _checked(name: str, folder: Path, entries: list[Any]) -> tuple[int, dict[str, str]]:
    """Files and digests of an artifact of which every byte and the card are right. Raises ArtifactError."""
    from ddhub.artifact import results
    from ddhub.artifact.folder import Artifact
    from ddhub.artifact.manifest import COMPENSATORS, README, read_bytes
    from ddhub.cards import card
    from ddhub.publish import compensators

    artifact = Artifact.open(folder)
    readme, pictures = folder / README, folder / COMPENSATORS
    if readme.exists() and not card.is_right(read_bytes(readme).decode(), results.read(folder), entries):
        cause = "not the card of the manifest and results beside it"
        raise ArtifactError(f"{readme}: {cause}; run ddhub card {name}")
    if pictures.exists() and read_bytes(pictures) != compensators.render(artifact):
        raise ArtifactError(f"{pictures}: not what this Pillow makes of the tensors; remove it, or publish it again")
    m = artifact.manifest
    return len(artifact.file_bytes()), {"digest": m.digest, "content": m.content}


def verify_published(names: tuple[str, ...], as_json: bool) -> None:
    """What `ddhub verify --remote` prints; exits with 1 if the Hub has not what the catalog pins."""
    from ddhub.remote.links import report

    reports = report(names)
    if as_json:
        print_json(reports)
    for entry in reports:
        if not entry["ok"]:
            say(f"error: {entry['name']}: {entry['error']}", err=True)
        elif not as_json:
            say(f"{entry['name']}: ok, {entry['repo']} {entry['tag']} is commit {entry['revision']}")
    if not reports and not as_json:
        say("nothing is published yet: the catalog is empty")
    if not all(entry["ok"] for entry in reports):
        sys.exit(1)

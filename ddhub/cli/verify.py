"""`ddhub verify`: check every byte of artifacts and teachers, and their cards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ddhub.cli.options import complete_artifacts, json_option
from ddhub.cli.printing import print_json, say
from ddhub.errors import ArtifactError, UsageError


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_artifacts)
@click.option(
    "--remote",
    is_flag=True,
    help="Check that the Hub still has the versions in the catalog; without a NAME, all of them.",
)
@json_option
def verify(names: tuple[str, ...], remote: bool, as_json: bool) -> None:
    """Check every byte of artifacts and teachers, and that their cards agree with manifests and results."""
    if remote:
        _verify_published(names, as_json)
        return
    if not names:
        raise UsageError("nothing to check; name an artifact, or give --remote (ddhub verify --help)")
    from ddhub import teachers
    from ddhub.artifact.bundled import at_hand
    from ddhub.remote.find import resolve
    from ddhub.teachers import folder_of

    folders = {name: folder_of(name) for name in names}
    artifacts = {name: resolve(name) for name, teacher in folders.items() if not teacher}
    entries = list(at_hand(artifacts.values()).values())
    reports: list[dict[str, Any]] = []
    for name, teacher in folders.items():
        try:
            if teacher:
                count, digests = 2, {"digest": teachers.verify(teacher)["digest"]}
            else:
                count, digests = _checked(name, artifacts[name], entries)
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
    """Check an artifact; returns its number of files and its digests. ArtifactError if a byte or the card is wrong."""
    from ddhub.artifact import results
    from ddhub.artifact.folder import Artifact
    from ddhub.artifact.manifest import COMPENSATORS, README, read_bytes
    from ddhub.cards import card
    from ddhub.publish import compensators

    artifact = Artifact.open(folder)
    readme, pictures = folder / README, folder / COMPENSATORS
    if readme.exists() and not card.is_right(read_bytes(readme).decode(), results.read(folder), entries):
        cause = "does not agree with the manifest and results beside it"
        raise ArtifactError(f"{readme}: {cause}; run ddhub card {name}")
    if pictures.exists() and read_bytes(pictures) != compensators.render(artifact):
        raise ArtifactError(f"{pictures}: not what this Pillow makes of the tensors; remove it, or publish it again")
    m = artifact.manifest
    return len(artifact.file_bytes()), {"digest": m.digest, "content": m.content}


def _verify_published(names: tuple[str, ...], as_json: bool) -> None:
    """Check the versions in the catalog against the Hub; exits with 1 if the Hub does not have one of them."""
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

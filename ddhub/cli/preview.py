"""`ddhub preview`: a picture of an artifact."""

from __future__ import annotations

from pathlib import Path

import click

from ddhub.cli.options import name_argument
from ddhub.cli.printing import say, write
from ddhub.errors import UsageError


@click.command()
@name_argument
@click.option(
    "--to", metavar="FILE.png", help="Write the picture to this file. [default: NAME.png in the current folder]"
)
@click.option(
    "--decoded", is_flag=True, help="Show the rebuilt training images; those of one stored image are side by side."
)
@click.option(
    "--proxy",
    metavar="TEACHER",
    help="For mosaics: show how much this teacher uses each pixel. [default: the proxy of the recipe]",
)
def preview(name: str, to: str | None, decoded: bool, proxy: str | None) -> None:
    """Write a picture of an artifact, one row for each class: its stored images, or the training images made of them.

    For mosaics (decoder crops) the picture shows where tiles and regions lie, and how much a proxy, a teacher, uses
    each pixel. If no proxy is found, it shows how often each pixel is used.
    """
    from ddhub.artifact.manifest import PREVIEW, read_bytes, read_manifest
    from ddhub.remote.find import resolve

    folder = resolve(name)
    manifest = read_manifest(folder)
    path = Path(to or f"{manifest.name}{'-decoded' if decoded else ''}.png")
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png; choose another --to")
    mosaics, legend = manifest.decoder["kind"] == "crops" and not decoded, ""
    if proxy and not mosaics:
        raise UsageError(f"--proxy is for the tiles and regions of mosaics, and {manifest.name} has none; leave it out")
    if decoded:
        picture = _decoded(folder)
    elif mosaics:
        picture, legend = _mosaics(folder, proxy)
    else:
        picture = read_bytes(folder / PREVIEW)
    write(path, picture)
    say(f"{path}: {legend}" if legend else str(path))


def _mosaics(folder: Path, proxy: str | None) -> tuple[bytes, str]:
    """The picture of a mosaic's tiles and regions, and its legend; the proxy is the given one, else the recipe's."""
    from ddhub import teachers
    from ddhub.artifact.folder import Artifact
    from ddhub.errors import DDHubError
    from ddhub.measures import mosaic
    from ddhub.training.open import about

    artifact = Artifact.open(folder)
    described = about(artifact)
    measured = artifact.manifest.recipe["run"].get("measured")
    recorded = str(measured.get("proxy", "")) if isinstance(measured, dict) else ""
    try:
        ids = [teachers.identify(proxy, near=described.near) if proxy else recorded] if proxy or recorded else []
        nets = teachers.fitting(ids, described)
    except DDHubError as error:
        if proxy:
            raise
        picture, legend = mosaic.draw(artifact)
        return picture, f"{legend} (no proxy: {error})"
    return mosaic.draw(artifact, *nets)


def _decoded(folder: Path) -> bytes:
    """PNG grid of the first ten training images of the first ten classes, grouped by their stored image."""
    from ddhub.artifact.folder import Artifact
    from ddhub.artifact.images import decoded_preview
    from ddhub.data import decode

    artifact = Artifact.open(folder)
    m = artifact.manifest
    decoder = decode.build(m.decoder, artifact.images(), artifact.tensors(), m.pixel_range)
    return decoded_preview(decoder, artifact.image_labels(), m.classes)

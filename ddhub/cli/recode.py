"""`ddhub recode`: an artifact with images as WebP or AVIF, or labels of fewer bits.

ddhub recode cifar10-edf-ipc10 out/cifar10-edf-ipc10-avif --encoding avif:50 --label-bits 8
"""

from __future__ import annotations

import click

from ddhub.cli.options import json_option, name_argument
from ddhub.cli.printing import print_json, say


@click.command()
@name_argument
@click.argument("out", type=click.Path())
@click.option("--encoding", default="png", show_default=True, help="Of the images: png, webp:30, avif:50, avif:50/20.")
@click.option(
    "--label-bits", default="16", show_default=True, type=click.Choice(["16", "8", "4"]), help="Of stored labels."
)
@json_option
def recode(name: str, out: str, encoding: str, label_bits: str, as_json: bool) -> None:
    """Store an artifact anew at OUT, in fewer bytes.

    Images are coded, labels stay as they are or get fewer bits; what that moved stands on the new card. Recipes with
    --encoding code before they label, which is better where a teacher labels.
    """
    from ddhub.artifact.folder import Artifact
    from ddhub.convert.recode import recode as write
    from ddhub.remote.find import resolve

    source = Artifact.open(resolve(name))
    done = write(source, out, encoding=encoding, label_bits=int(label_bits))
    before, after = source.manifest.stored_bytes, done.manifest.stored_bytes
    if as_json:
        print_json({"path": str(done.folder), "digest": done.manifest.digest, "bytes": after, "before": before})
        return
    say(f"{done.folder}: {after:,} stored bytes in place of {before:,}, digest {done.manifest.digest}")

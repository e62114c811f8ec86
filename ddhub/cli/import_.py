"""`ddhub import`: what others have published, as an artifact.

ddhub import logged/images_best.pt out/cifar100-datm-ipc10 --dataset cifar100 --method datm --normalized
ddhub import syn_data/ out/cifar10-rded-ipc10 --dataset cifar10 --method rded --teachers cifar10-resnet18
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ddhub.cli.options import complete_protocols, complete_sources, complete_teachers, json_option
from ddhub.cli.printing import print_json, say
from ddhub.errors import DDHubError, UsageError, first_line
from ddhub.protocols.named import protocols


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(map(float, value.split(",")))
    except ValueError:
        raise UsageError(f"--{option.name} is {value!r}; give numbers joined by commas, one a channel") from None


def _words(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(x.strip() for x in value.split(",")) if value else ()


@click.command("import")
@click.argument("path", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--dataset", metavar="SOURCE", help="The data set that was distilled.", shell_complete=complete_sources)
@click.option("--method", help="What distilled it: datm, mtt, sre2l, …")
@click.option("--ipc", type=click.IntRange(min=1), help="Images a class, to be checked.")
@click.option("--format", type=click.Choice(["auto", "pt", "idc", "folder", "npz"]), default="auto", show_default=True)
@click.option("--labels", metavar="FILE.pt", help="Of the images of a .pt file; labels_X.pt beside images_X.pt.")
@click.option("--lr", metavar="X|FILE.pt", help="The learned step size; lr_X.pt beside images_X.pt.")
@click.option("--normalized", "scale", flag_value="normalized", help="Pixels are floats, normalised by mean and std.")
@click.option("--unit", "scale", flag_value="unit", help="Pixels are floats in unit scale, about 0 to 1.")
@click.option("--zca", "scale", flag_value="zca", help="Pixels are whitened: refused, with what to import instead.")
@click.option("--mean", metavar="X,X,X", callback=_numbers, help="If it is not the data set's.")
@click.option("--std", metavar="X,X,X", callback=_numbers, help="If it is not the data set's.")
@click.option("--size", type=click.IntRange(min=1), help="Side in pixels, if not the data set's; folders are resized.")
@click.option("--factor", type=click.IntRange(min=1), help="IDC's multi-formation factor; 1 where each image is one.")
@click.option(
    "--class-order", metavar="A,B,…", callback=_words, help="The data set's classes in the order of the file's labels."
)
@click.option(
    "--teachers",
    metavar="NAME,…",
    callback=_words,
    help="Teachers that label every batch; they lie beside OUT.",
    shell_complete=complete_teachers,
)
@click.option("--temperature", type=float, help="Of soft labels; the protocol's, else 1, if not given.")
@click.option(
    "--protocol",
    help=f"Recommended to students: {', '.join(protocols())}; the method's if not given.",
    shell_complete=complete_protocols,
)
@click.option("--license", metavar="TEXT", help="What the publisher allows.")
@click.option("--citation", metavar="TEXT|FILE", help="BibTeX of what was published.")
@click.option("--source-url", metavar="TEXT", help="Where the files came from.")
@json_option
def import_(path: str, out: str, citation: str | None, as_json: bool, **options: Any) -> None:
    """Make the artifact OUT of what others published at PATH.

    \b
    pt      images_best.pt, labels_best.pt, lr_best.pt, as of MTT and DATM; what ddhub export --to pt wrote
    idc     one .pt file of images and labels, as of IDC
    folder  images in one folder a class, as of SRe2L and RDED
    npz     images and labels; what ddhub export --to npz wrote

    Files are read without running anything in them. What of them was rounded or left out is printed, and
    stands on the card.
    """
    from ddhub.convert.importing import import_artifact

    artifact = import_artifact(path, out, citation=_text(citation), **options)
    m = artifact.manifest
    count = m.tensors["images"]["shape"][0]
    if as_json:
        keys = ("name", "digest", "dataset", "ipc", "labels", "pixel_range", "deviations")
        print_json({"path": str(artifact.folder), "images": count, **{key: getattr(m, key) for key in keys}})
        return
    say(f"{artifact.folder}: {count:,} images, labels {m.labels['kind']}, digest {m.digest}")
    for line in m.deviations:
        say(line)


def _text(citation: str | None) -> str | None:
    """The text that was given, or that of the file."""
    if citation is None or "\n" in citation or "{" in citation or not Path(citation).is_file():
        return citation
    try:
        return Path(citation).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DDHubError(f"{citation}: cannot be read ({first_line(error)}); give the text of a citation") from None

"""`ddhub import`: make an artifact of a distilled data set in another format.

ddhub import logged/images_best.pt out/cifar100-datm-ipc10 --dataset cifar100 --method datm --normalized
ddhub import syn_data/ out/cifar10-rded-ipc10 --dataset cifar10 --method rded --teachers cifar10-resnet18
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ddhub.cli.options import complete_sources, complete_teachers, json_option, protocol_option
from ddhub.cli.printing import print_json, say
from ddhub.errors import DDHubError, UsageError, first_line


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(map(float, value.split(",")))
    except ValueError:
        raise UsageError(f"--{option.name} is {value!r}; give numbers joined by commas, one for each channel") from None


def _words(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(x.strip() for x in value.split(",")) if value else ()


@click.command("import")
@click.argument("path", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--dataset", metavar="SOURCE", help="The data set that was distilled.", shell_complete=complete_sources)
@click.option("--method", help="The method that distilled it: datm, mtt, sre2l, …")
@click.option("--ipc", type=click.IntRange(min=1), help="Images per class; stop if PATH has another number.")
@click.option(
    "--format",
    type=click.Choice(["auto", "pt", "idc", "folder", "npz"]),
    default="auto",
    show_default=True,
    help="The format of PATH, as listed above.",
)
@click.option(
    "--labels", metavar="FILE.pt", help="Labels of the images of a .pt file. [default: labels_X.pt beside images_X.pt]"
)
@click.option("--lr", metavar="X|FILE.pt", help="The learned learning rate. [default: lr_X.pt beside images_X.pt]")
@click.option("--normalized", "scale", flag_value="normalized", help="Pixels are floats, normalised by mean and std.")
@click.option("--unit", "scale", flag_value="unit", help="Pixels are floats in unit scale, about 0 to 1.")
@click.option(
    "--zca",
    "scale",
    flag_value="zca",
    help="Pixels are ZCA-whitened: ddhub refuses them, and says what to import instead.",
)
@click.option("--mean", metavar="X,X,X", callback=_numbers, help="Mean of each channel. [default: the data set's]")
@click.option("--std", metavar="X,X,X", callback=_numbers, help="Deviation of each channel. [default: the data set's]")
@click.option(
    "--size",
    type=click.IntRange(min=1),
    help="Side of the images in pixels; the images of folders are resized to it. [default: the data set's]",
)
@click.option(
    "--factor", type=click.IntRange(min=1), help="Multi-formation factor of IDC; 1 if a stored image is one image."
)
@click.option(
    "--class-order", metavar="A,B,…", callback=_words, help="The data set's classes in the order of the file's labels."
)
@click.option(
    "--teachers",
    metavar="NAME,…",
    callback=_words,
    help="Teachers that label every batch; their folders must lie beside OUT.",
    shell_complete=complete_teachers,
)
@click.option("--temperature", type=float, help="Temperature of soft labels. [default: the protocol's, else 1]")
@protocol_option("Protocol that is recommended for students: {protocols}. [default: the method's]")
@click.option("--license", metavar="TEXT", help="The license of the files.")
@click.option("--citation", metavar="TEXT|FILE", help="BibTeX entry of the publication.")
@click.option("--source-url", metavar="TEXT", help="The web address of the files.")
@json_option
def import_(path: str, out: str, citation: str | None, as_json: bool, **options: Any) -> None:
    """Make the artifact OUT of a distilled data set at PATH in another format.

    \b
    pt      images_best.pt, labels_best.pt, lr_best.pt of MTT and DATM, or the files of ddhub export --to pt
    idc     one .pt file of images and labels of IDC
    folder  images in one folder for each class, of SRe2L and RDED
    npz     images and labels in the file of ddhub export --to npz

    No code in the files is run. What was rounded or left out is printed, and stands on the card.
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
    """The given text, or the contents of the file of that name."""
    if citation is None or "\n" in citation or "{" in citation or not Path(citation).is_file():
        return citation
    try:
        return Path(citation).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DDHubError(f"{citation}: cannot be read ({first_line(error)}); give the text of a citation") from None

"""`ddhub data`: the known real data sets, their descriptions, and how to decode one ahead of time."""

from __future__ import annotations

from typing import Any

import click

from ddhub.cli.printing import flat, print_json, print_table, say

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@click.group()
def data() -> None:
    """Show and prepare real data sets.

    NAME is a data set of `ddhub data list`, or folder:PATH for images of your own with one folder for each class.
    """


@data.command("list")
@_json
def list_(as_json: bool) -> None:
    """Show the data sets that have a name."""
    from ddhub.sources.known import KNOWN

    if as_json:
        print_json([_record(name) for name in KNOWN])
        return
    rows = []
    for name, spec in KNOWN.items():
        side = f"{spec.size}x{spec.size}" if spec.size else "many sizes"
        where = "in the package" if spec.embedded else spec.hub_id
        rows.append([name, len(spec.classes), "grey" if spec.channels == 1 else "RGB", side, where])
    print_table(["name", ">classes", "colours", ">pixels", "on the Hub"], rows)


@data.command()
@click.argument("name")
@_json
def info(name: str, as_json: bool) -> None:
    """Show what is known about a data set; of images of your own classes, counts, sizes, and what becomes of them.

    \b
    ddhub data info cifar10
    ddhub data info folder:/home/me/flowers
    """
    record = _record(name, look=True)
    if as_json:
        print_json(record)
        return
    for key, value in record.items():
        lines = value if key == "cannot_be_read" else [", ".join(value) if key == "classes" else flat(value)]
        for line in lines:
            say(f"{key.replace('_', ' ') + ':':15} {line}")


@data.command()
@click.argument("name")
@click.option(
    "--size",
    type=click.IntRange(min=1),
    help="Side of the images in pixels. [default: the data set's, or one that suits]",
)
@click.option("--data", "root", metavar="ROOT", help="Folder of real data. [default: DDHUB_DATA, else the Hub]")
@_json
def prepare(name: str, size: int | None, root: str | None, as_json: bool) -> None:
    """Decode every split of a data set into the cache, so that later commands need not wait for it."""
    from ddhub.sources.source import open_source

    if size is None and name.startswith("folder:"):
        from ddhub.sources.folder import usual_side

        size = usual_side(name)
    reports = []
    for split in _record(name)["splits"]:
        source = open_source(name, split, root=root, size=size)
        count, channels, height, width = source.images.shape
        report = {"name": source.name, "split": split, "images": count, "image_size": [channels, height, width]}
        reports.append({**report, "notes": source.notes, "fingerprint": source.fingerprint})
        if not as_json:
            shape = f"{channels} x {height} x {width}"
            say(f"{source.label}, {split}: {count:,} images of {shape}, fingerprint {source.fingerprint[:12]}")
    if as_json:
        print_json(reports)


def _record(name: str, look: bool = False) -> dict[str, Any]:
    """The facts that `info` prints: of a known data set, or of a folder by its file names, and to `look` headers."""
    from ddhub.sources.known import FOLDER, find

    if name.startswith(FOLDER):
        from ddhub.sources.folder import read_tree
        from ddhub.sources.survey import survey

        if look:
            return survey(name)

        tree = read_tree(name)
        splits = {split: f"{len(images.files()):,} images" for split, images in tree.splits.items()}
        return {"name": tree.name, "splits": splits, "classes": list(tree.classes)}
    spec = find(name)
    return {
        "name": name,
        "title": spec.title,
        "hub_id": spec.hub_id,
        "gated": spec.gated,
        "folders": [copy.folder for copy in spec.copies],
        "splits": spec.splits,
        "columns": [spec.image_column, spec.label_column],
        "channels": spec.channels,
        "size": spec.size,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "license": spec.license,
        "notes": spec.notes,
        "classes": list(spec.classes),
        **({"part_of": spec.part_of, "labels_there": list(spec.imagenet)} if spec.part_of else {}),
    }

"""`ddhub data`: the real data sets that are known, what they are, and decoding them ahead of time."""

from __future__ import annotations

from typing import Any

import click

from ddhub.cli.printing import flat, print_json, print_table, say

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def data() -> None:
    """Real data by NAME: one of `ddhub data list`, or folder:PATH for images of your own, one folder a class."""


@data.command("list")
@_json
def list_(as_json: bool) -> None:
    """Show the data sets that are known by name."""
    from ddhub.sources.known import KNOWN

    if as_json:
        print_json([_facts(name) for name in KNOWN])
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
    """Show what is known about a data set, without opening an image."""
    facts = _facts(name)
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        say(f"{key + ':':14} {', '.join(value) if key == 'classes' else flat(value)}")


@data.command()
@click.argument("name")
@click.option(
    "--size", type=click.IntRange(min=1), help="Side of the images in pixels; the data set's own if not given."
)
@click.option("--data", "root", metavar="ROOT", help="Folder of real data; DDHUB_DATA, then the Hub, if not given.")
@_json
def prepare(name: str, size: int | None, root: str | None, as_json: bool) -> None:
    """Decode every split of a data set into the cache, so that whatever needs it begins at once."""
    from ddhub.sources.source import open_source

    reports = []
    for split in _facts(name)["splits"]:
        source = open_source(name, split, root=root, size=size)
        count, channels, height, width = source.images.shape
        report = {"name": source.name, "split": split, "images": count, "image_size": [channels, height, width]}
        reports.append({**report, "notes": source.notes, "fingerprint": source.fingerprint})
        if not as_json:
            shape = f"{channels} x {height} x {width}"
            say(f"{source.label}, {split}: {count:,} images of {shape}, fingerprint {source.fingerprint[:12]}")
    if as_json:
        print_json(reports)


def _facts(name: str) -> dict[str, Any]:
    """What `info` prints: the entry of a known data set, or what the file names of a folder say."""
    from ddhub.sources.known import FOLDER, find

    if name.startswith(FOLDER):
        from ddhub.sources.folder import read_tree

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

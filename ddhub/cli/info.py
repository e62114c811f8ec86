"""`ddhub info`: what the manifest and the results of an artifact say, or the description of a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddhub.cli.options import json_option, name_argument
from ddhub.cli.printing import flat, mean_text, print_json, say

if TYPE_CHECKING:
    from ddhub.artifact.results import Entry


@click.command()
@name_argument
@json_option
def info(name: str, as_json: bool) -> None:
    """Show all that is known about an artifact or a teacher, without opening its images."""
    from ddhub.teachers import folder_of

    teacher = folder_of(name)
    record, results = _teacher(teacher) if teacher else _artifact(name)
    if as_json:
        print_json(record)
        return
    classes = record["classes"]
    record |= {
        "classes": f"{len(classes)}: {', '.join(classes[:10])}{', …' * (len(classes) > 10)}",
        "image_size": " x ".join(map(str, record["image_size"])),
    }
    if not teacher:
        record["results"] = results
    for key, value in record.items():
        lines = value if isinstance(value, list) and key not in ("mean", "std") else [value]
        for number, line in enumerate(lines or ["none"]):
            say(f"{'' if number else key:15} {flat(line)}")


def _teacher(folder: Path) -> tuple[dict[str, Any], list[str]]:
    from ddhub import teachers

    return teachers.read(folder), []


def _artifact(name: str) -> tuple[dict[str, Any], list[str]]:
    """The facts of an artifact, and its results in a line each."""
    from ddhub.artifact import results
    from ddhub.remote.find import resolve

    entry = results.read(resolve(name, whole=False))
    lines = [f"{mean_text(x)}, protocol {x.first.protocol} ({x.first.protocol_digest})" for x in entry.means()]
    return artifact_facts(entry), lines


def artifact_facts(entry: Entry) -> dict[str, Any]:
    """What `ddhub info` prints about an artifact; `ddhub list --json` prints a part of it."""
    from ddhub.artifact.encoding import name_of
    from ddhub.cards.storage_text import label_bits, storage
    from ddhub.protocols.protocol import Protocol

    m = entry.manifest
    recipe, run = {key: m.recipe[key] for key in ("path", "commit", "preset", "seed")}, m.recipe["run"]
    return {
        **{key: getattr(m, key) for key in ("name", "digest", "content", "method", "dataset", "ipc", "license")},
        "classes": list(m.classes),
        "image_size": list(m.image_size),
        "encoding": name_of(m.encoding),
        "label_bits": label_bits(m),
        "stored_as": storage(m),
        "decoder": m.decoder,
        "labels": m.labels,
        "protocol": {**m.protocol, "digest": Protocol.from_json(m.protocol).digest},
        "recipe": recipe,
        # what the recipe measured on its images, and the candidates where it chose the encoding
        **{key: run[key] for key in ("measured", "encodings") if run.get(key)},
        "source": m.source,
        "teachers": m.teachers,
        "raw_bytes": m.bytes_by_tensor(),
        "bytes": entry.bytes,
        "bits_per_class": m.bits_per_class(),
        "deviations": m.deviations,
        "results": [mean.to_json() for mean in entry.means()],
    }

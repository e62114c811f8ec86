"""`ddhub list` and `ddhub info`: what artifacts and teachers say of themselves."""

from __future__ import annotations

from typing import Any

import click

from ddhub.artifact.results import Entry
from ddhub.cli.options import json_option, name_argument
from ddhub.cli.printing import flat, print_json, print_table, say
from ddhub.protocols.protocol import Protocol


@click.command("list")
@click.option("--remote", is_flag=True, help="Ask the Hub: those of DDHUB_NAMESPACE, else ddhub, and of the catalog.")
@json_option
def list_(remote: bool, as_json: bool) -> None:
    """Show the bundled artifacts, the accuracies of their students, and the bundled teachers."""
    if remote:
        from ddhub.cli.show import print_published

        return print_published(as_json)

    from ddhub import teachers
    from ddhub.artifact.bundled import at_hand
    from ddhub.artifact.results import settings
    from ddhub.cli.printing import test_text
    from ddhub.cli.show import facts

    entries = list(at_hand().values())
    known = teachers.catalog()
    if as_json:
        keys = ["name", "method", "dataset", "ipc", "bytes", "bits_per_class", "digest", "results"]
        shown = [{"kind": "artifact", **{key: facts(entry)[key] for key in keys}} for entry in entries]
        keys = ["name", "model", "dataset", "accuracy", "epochs", "digest"]
        print_json(shown + [{"kind": "teacher", **{key: x[key] for key in keys}} for x in known.values()])
        return
    rows: list[list[object]] = []
    for entry in entries:
        m = entry.manifest
        rows.append([m.name, m.method, m.dataset, m.ipc, f"{entry.bytes:,}", f"{m.bits_per_class():,.0f}"])
    print_table(["name", "method", "dataset", ">ipc", ">stored bytes", ">bits per class"], rows)
    for means in settings(entries).values():
        first = means[0].first
        click.echo()
        say(f"accuracy in %, last epoch, protocol {first.protocol} ({first.protocol_digest}), {test_text(first)}")
        models = list(dict.fromkeys(mean.first.model for mean in means))
        cells = {(x.first.artifact, x.first.model): f"{x.text} (n = {len(x.runs)})" for x in means}
        names = dict.fromkeys(mean.first.artifact for mean in means)
        print_table(["name", *models], [[name, *(cells.get((name, x), "") for x in models)] for name in names])
    if known:
        click.echo()
        rows = [[x["name"], x["model"], x["dataset"], x["epochs"], f"{x['accuracy']:.2f}"] for x in known.values()]
        print_table(["teacher", "model", "dataset", ">epochs", ">accuracy in %"], rows)


@click.command()
@name_argument
@json_option
def info(name: str, as_json: bool) -> None:
    """Show what an artifact or a teacher says about itself."""
    from ddhub import teachers
    from ddhub.artifact import results
    from ddhub.cli.printing import mean_text
    from ddhub.cli.show import facts
    from ddhub.remote.find import resolve
    from ddhub.teachers import folder_of

    teacher = folder_of(name)
    means = []
    if teacher:
        shown = teachers.read(teacher)
    else:
        entry = results.read(resolve(name, whole=False))
        shown, means = facts(entry), entry.means()
    if as_json:
        print_json(shown)
        return
    classes = shown["classes"]
    shown |= {
        "classes": f"{len(classes)}: {', '.join(classes[:10])}{', …' * (len(classes) > 10)}",
        "image_size": " x ".join(map(str, shown["image_size"])),
    }
    if not teacher:
        shown["results"] = [f"{mean_text(x)}, protocol {x.first.protocol} ({x.first.protocol_digest})" for x in means]
    for key, value in shown.items():
        lines = value if isinstance(value, list) and key not in ("mean", "std") else [value]
        for number, line in enumerate(lines or ["none"]):
            say(f"{'' if number else key:15} {flat(line)}")


def facts(entry: Entry) -> dict[str, Any]:
    """What `info` prints of an artifact, and `list` in part."""
    m = entry.manifest
    recipe, run = {key: m.recipe[key] for key in ("path", "commit", "preset", "seed")}, m.recipe["run"]
    return {
        **{key: getattr(m, key) for key in ("name", "digest", "content", "method", "dataset", "ipc", "license")},
        "classes": list(m.classes),
        "image_size": list(m.image_size),
        "decoder": m.decoder,
        "labels": m.labels,
        "protocol": {**m.protocol, "digest": Protocol.from_json(m.protocol).digest},
        "recipe": recipe,
        **({"measured": run["measured"]} if run.get("measured") else {}),  # what the recipe found out about its images
        "source": m.source,
        "teachers": m.teachers,
        "raw_bytes": m.bytes_by_tensor(),
        "bytes": entry.bytes,
        "bits_per_class": m.bits_per_class(),
        "deviations": m.deviations,
        "results": [mean.to_json() for mean in entry.means()],
    }


def print_published(as_json: bool) -> None:
    """What `ddhub list --remote` prints."""
    from ddhub.remote.links import published

    rows = published()
    if as_json:
        print_json(rows)
        return
    table = []
    for row in rows:
        pinned = f"at {row['pinned'][:12]}" if row["pinned"] else "no"
        commit = row["commit"][:12] if row["commit"] else "not listed"
        table.append([row["name"], commit, row["modified"] or "", "yes" if row["pinned"] == row["commit"] else pinned])
    print_table(["name", "commit", "modified", "in the catalog"], table)

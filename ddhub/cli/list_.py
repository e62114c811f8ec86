"""`ddhub list`: the bundled artifacts, best first for each data set and ipc, or those on the Hub.

A rank compares results of one protocol, test set and student (`ddhub.cards.ranking`). Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ddhub.cli.options import json_option
from ddhub.cli.printing import accuracy_text, print_json, print_table, say

if TYPE_CHECKING:
    from ddhub.artifact.results import Entry

_COLUMNS = (">rank", "name", "method", "dataset", ">ipc", ">stored bytes", "accuracy in %", "student", "protocol")


@click.command("list")
@click.option(
    "--all",
    "show_all",
    is_flag=True,
    help="Also show variants, artifacts of which only the results are here, and teachers.",
)
@click.option(
    "--remote",
    is_flag=True,
    help="Show the artifacts on the Hub instead: those in the namespace DDHUB_NAMESPACE (ddhub if it is not set) and "
    "those in the catalog.",
)
@json_option
def list_(show_all: bool, remote: bool, as_json: bool) -> None:
    """Show the bundled artifacts, best first for each data set and number of images per class (ipc).

    Artifacts are ranked under the protocol, test set and student for which most of them have results. Accuracies of
    different protocols do not compare: an artifact without a rank is shown with its best accuracy under another one.
    Accuracies are means after the last epoch, with the sample standard deviation over n seeds.
    """
    if remote:
        _print_published(as_json)
        return

    from ddhub import teachers
    from ddhub.artifact.bundled import at_hand, folders_of_results

    entries = list(at_hand(data=not (show_all or as_json)).values())
    catalog = teachers.catalog()
    if as_json:
        print_json([*_artifact_facts(entries), *_teacher_facts(catalog)])
        return
    count = _print_rankings(entries, show_all)
    if show_all:
        _print_teachers(catalog)
    click.echo()
    say("A rank compares one protocol, test set and student; an accuracy without a rank is the best under another.")
    if not show_all and (hidden := _counts(variant=len(folders_of_results()) - count, teacher=len(catalog))):
        say(f"{hidden}: ddhub list --all")
    say("Next: ddhub compare NAME NAME shows accuracies side by side; ddhub info NAME shows all about an artifact.")


def _counts(**numbers: int) -> str:
    """'5 variants, 1 teacher', without those of which there are none."""
    return ", ".join(f"{number} {noun}{'s' * (number > 1)}" for noun, number in numbers.items() if number)


def _print_rankings(entries: Sequence[Entry], with_variants: bool) -> int:
    """Print one table with an empty line between data sets and sizes; returns the number of artifacts in it."""
    from ddhub.cards.comparison import BASELINE
    from ddhub.cards.ranking import rankings, variants

    marks = dict.fromkeys(variants(x.manifest for x in entries), " (variant)")
    rows: list[Sequence[object]] = []
    lists = rankings(entries, with_variants=with_variants)
    for ranking in lists:
        rows += [[""] * len(_COLUMNS)] if rows else []
        for item in ranking:
            m, mean = item.entry.manifest, item.mean
            mark = " (baseline)" if m.method == BASELINE else marks.get(m.name, "")
            mark += "" if item.entry.kept else " (no data)"
            result = [accuracy_text(mean), mean.first.model, mean.first.protocol] if mean else ["no result", "", ""]
            size = f"{item.entry.bytes:,}"
            rows.append([item.rank or "", m.name, f"{m.method}{mark}", m.dataset, m.ipc, size, *result])
    print_table(_COLUMNS, rows)
    return sum(map(len, lists))


def _print_teachers(catalog: Mapping[str, Mapping[str, Any]]) -> None:
    if catalog:
        click.echo()
        rows = [[x["name"], x["model"], x["dataset"], x["epochs"], f"{x['accuracy']:.2f}"] for x in catalog.values()]
        print_table(["teacher", "model", "dataset", ">epochs", ">accuracy in %"], rows)


def _artifact_facts(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The artifacts as `--json` prints them."""
    from ddhub.cards.ranking import variants
    from ddhub.cli.info import artifact_facts

    originals = variants(x.manifest for x in entries)
    stored = ("bytes", "bits_per_class", "encoding", "label_bits", "stored_as")
    keys = ("name", "method", "dataset", "ipc", *stored, "digest", "results")
    items = []
    for entry in entries:
        record = artifact_facts(entry)
        shown = {key: record[key] for key in keys}
        items.append({"kind": "artifact", **shown, "variant_of": originals.get(entry.manifest.name)})
    return items


def _teacher_facts(catalog: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The teachers as `--json` prints them."""
    keys = ("name", "model", "dataset", "accuracy", "epochs", "digest")
    return [{"kind": "teacher", **{key: record[key] for key in keys}} for record in catalog.values()]


def _print_published(as_json: bool) -> None:
    """Print the artifacts on the Hub, and whether the catalog has the same commit."""
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

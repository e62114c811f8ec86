"""`ddhub compare`: recorded results side by side, one protocol and one test set in a table.

    ddhub compare cifar10-infer-ipc10 cifar10-random-ipc10 --protocol infer-static-50 --plot accuracy.png
    ddhub compare --dataset cifar10 --ipc 10       # every table of the bundled artifacts of that size
    ddhub compare --frontier --dataset cifar10 --model convnet3       # the best accuracy at a size (ddhub.cli.frontier)

Artifacts that are named stand in one table, which has results of each of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddhub.cli.choice import Choice, bundled_entries
from ddhub.cli.options import (
    complete_artifacts,
    complete_models,
    complete_protocols,
    complete_sources,
    json_option,
)
from ddhub.cli.printing import accuracy_text, print_json, print_table, say, test_text, write
from ddhub.errors import UsageError

if TYPE_CHECKING:
    from ddhub.artifact.results import Entry, Mean


@dataclass(frozen=True)
class Table:
    """The means of artifacts under one protocol and on one test set."""

    entries: list[Entry]
    means: list[Mean]

    @property
    def models(self) -> list[str]:
        """The students, a column each."""
        return list(dict.fromkeys(mean.first.model for mean in self.means))

    @property
    def rows(self) -> list[tuple[Entry, dict[str, Mean]]]:
        """The artifacts that have results, each with its mean by student."""
        rows = [(x, {mean.first.model: mean for mean in self.means if _is_of(mean, x)}) for x in self.entries]
        return [(entry, students) for entry, students in rows if students]

    @property
    def title(self) -> str:
        """'protocol infer-static-50 (9f28338a5da2), CIFAR-10, 10,000 test images'."""
        first = self.means[0].first
        return f"protocol {first.protocol} ({first.protocol_digest}), {test_text(first)}"


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_artifacts)
@click.option("--dataset", help="Without a NAME: only artifacts of this data set.", shell_complete=complete_sources)
@click.option("--ipc", type=int, help="Without a NAME: only artifacts of so many images per class.")
@click.option(
    "--protocol", help="Only results under this protocol: a name or a digest.", shell_complete=complete_protocols
)
@click.option("--model", help="Only results of this student.", shell_complete=complete_models)
@click.option(
    "--test",
    metavar="SOURCE",
    help="Only results on this test data: a data set's name or a fingerprint.",
    shell_complete=complete_sources,
)
@click.option(
    "--frontier",
    is_flag=True,
    help="Instead show accuracy against stored bytes a class, of one data set, student and test set.",
)
@click.option("--plot", metavar="FILE.png", help="Also draw the accuracies of the table against bits per class.")
@json_option
def compare(
    names: tuple[str, ...],
    dataset: str | None,
    ipc: int | None,
    protocol: str | None,
    model: str | None,
    test: str | None,
    frontier: bool,
    plot: str | None,
    as_json: bool,
) -> None:
    """Show recorded results of artifacts in tables: a table has one protocol and one test set.

    With a NAME or more it is one table, in which each artifact has results. Without a NAME it is every table of the
    bundled artifacts.

    With --frontier it is one table of the best results at each size, in which protocols may differ, then random
    selection at those bytes, and what papers report.
    """
    path = Path(plot) if plot else None
    if path and path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png; choose another --plot")
    choice = Choice(protocol, model, test)
    if names and (dataset or ipc is not None):
        raise UsageError("--dataset and --ipc choose among the bundled artifacts; give them without a NAME")
    if frontier:
        _show_frontier(names, dataset, ipc, choice, path, as_json)
        return
    tables = [_named(names, choice)] if names else _bundled(dataset, ipc, choice)
    if path:
        _draw(tables, path, as_json)
    if as_json:
        shown = [_table_record(table) for table in tables]
        print_json(shown[0] if names else shown)
        return
    for number, table in enumerate(tables):
        if number:
            click.echo()
        _print(table)


def _show_frontier(
    names: Sequence[str], dataset: str | None, ipc: int | None, choice: Choice, path: Path | None, as_json: bool
) -> None:
    from ddhub.cli.frontier import show

    entries = list(_read(names).values()) if names else bundled_entries(dataset, ipc)
    show(entries, bundled_entries(None, None), choice, path, as_json)


def _read(names: Sequence[str]) -> dict[str, Entry]:
    """The named artifacts, each once."""
    from ddhub.artifact import results
    from ddhub.remote.find import resolve

    folders = {resolve(name, whole=False): name for name in names}
    return {name: results.read(folder) for folder, name in folders.items()}


def _named(names: Sequence[str], choice: Choice) -> Table:
    """The one table in which each of the named artifacts has results."""
    entries = _read(names)
    return Table(list(entries.values()), _common_means(entries, choice))


def _bundled(dataset: str | None, ipc: int | None, choice: Choice) -> list[Table]:
    """Every table of the bundled artifacts of a data set and ipc.

    Raises:
        UsageError: there is no such artifact, or no such result.
    """
    entries = bundled_entries(dataset, ipc)
    tables = [Table(entries, means) for means in choice.tables(entries)]
    if not tables:
        raise UsageError("no recorded result of a bundled artifact is as chosen; leave out an option (ddhub list)")
    return tables


def _print(table: Table) -> None:
    say(f"accuracy in %, last epoch, {table.title}")
    lines: list[list[object]] = []
    for entry, students in table.rows:
        m = entry.manifest
        cells = [accuracy_text(students[x]) if x in students else "" for x in table.models]
        lines.append([m.name, m.method, m.ipc, f"{entry.bytes:,}", f"{m.bits_per_class():,.0f}", *cells])
    print_table(["name", "method", ">ipc", ">stored bytes", ">bits per class", *table.models], lines)


def _draw(tables: Sequence[Table], path: Path, as_json: bool) -> None:
    """Write the plot of the one table. UsageError where there are more."""
    from ddhub.cli.plot import accuracy_over_bits

    if len(tables) > 1:
        raise UsageError(f"--plot draws one table, these are {len(tables)}; choose with --protocol or --test, or NAMEs")
    points = [(entry, mean) for entry, students in tables[0].rows for mean in students.values()]
    write(path, accuracy_over_bits(points, tables[0].title))
    say(str(path), err=as_json)


def _table_record(table: Table) -> dict[str, object]:
    """A table for `--json`."""
    keys = ("protocol", "protocol_digest", "test", "test_images", "test_fingerprint")
    setting = {key: getattr(table.means[0].first, key) for key in keys}
    return {**setting, "artifacts": [_row_facts(entry, students) for entry, students in table.rows]}


def _row_facts(entry: Entry, students: Mapping[str, Mean]) -> dict[str, object]:
    m = entry.manifest
    return {
        **{key: getattr(m, key) for key in ("name", "method", "dataset", "ipc", "digest")},
        "bytes": entry.bytes,
        "bits_per_class": m.bits_per_class(),
        "students": {model: {"mean": x.mean, "sd": x.sd, "n": len(x.runs)} for model, x in students.items()},
    }


def _is_of(mean: Mean, entry: Entry) -> bool:
    return mean.first.digest == entry.manifest.digest


def _common_means(entries: Mapping[str, Entry], choice: Choice) -> list[Mean]:
    """The means of the one protocol and test set under which a student has results on every artifact.

    Raises:
        UsageError: there is none, or more than one.
    """
    tables = choice.tables(entries.values())
    # the means of one student under one protocol and on one test set
    groups = [
        [mean for mean in means if mean.first.model == model]
        for means in tables
        for model in dict.fromkeys(mean.first.model for mean in means)
    ]
    complete = {group[0].setting for group in groups if all(any(_is_of(x, y) for x in group) for y in entries.values())}
    common = [means for means in tables if means[0].setting in complete]
    if len(common) == 1:
        return common[0]
    if not common:
        raise UsageError(_missing(entries, max(groups, key=len, default=[]), choice))
    alternatives = (
        f"{x.protocol} ({x.protocol_digest}) on {x.test} ({x.test_fingerprint[:12]})"
        for x in (means[0].first for means in common)
    )
    raise UsageError(f"all have results under {'; '.join(alternatives)}; choose with --protocol or --test")


def _missing(entries: Mapping[str, Entry], students: Sequence[Mean], choice: Choice) -> str:
    """Which artifacts have no result beside `students`, of one setting and model, and the command that records it."""
    from ddhub.cards.tables import flags

    tested = [name for name, entry in entries.items() if any(_is_of(mean, entry) for mean in students)]
    untested = [name for name in entries if name not in tested]
    if students:
        first = students[0].first
        options = flags(first, entries[tested[0]].manifest)
        options += ["--model", first.model, "--seeds", str(max(len(mean.runs) for mean in students))]
        options += ["--test", first.test_name]
        setting = f" with {first.model} under protocol {first.protocol} ({first.protocol_digest}) on {first.test}"
    else:
        options = ["--protocol", choice.protocol] if choice.protocol else []
        options += ["--model", choice.model or "convnet3", "--seeds", "3"]
        options += ["--test", choice.test] if choice.test else []
        parts = (("with", choice.model), ("under protocol", choice.protocol), ("on", choice.test))
        setting = "".join(f" {preposition} {name}" for preposition, name in parts if name)
    # An artifact with results comes first: where no protocol is named, all are trained under its protocol.
    command = shlex.join(["ddhub", "train", *tested, *untested, *options, "--record", "--data", "ROOT"])
    return f"no result of {', '.join(untested)}{setting}; record it: {command}"

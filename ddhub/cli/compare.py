"""`ddhub compare`: recorded results side by side, of one protocol and one test set.

ddhub compare cifar10-infer-ipc10 cifar10-random-ipc10 --protocol infer-static-50 --plot accuracy.png
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddhub.cli.options import complete_models, complete_protocols, complete_sources, json_option, names_argument
from ddhub.cli.printing import print_json, print_table, say, write
from ddhub.errors import UsageError, unknown
from ddhub.protocols.named import protocols

if TYPE_CHECKING:
    from ddhub.artifact.results import Entry, Mean


@click.command()
@names_argument
@click.option(
    "--protocol", help="A protocol's name or digest, if there are several.", shell_complete=complete_protocols
)
@click.option("--model", help="One student; all if not given.", shell_complete=complete_models)
@click.option(
    "--test", metavar="SOURCE", help="Test data, or its fingerprint, if several.", shell_complete=complete_sources
)
@click.option("--plot", metavar="FILE.png", help="Also draw accuracy against bits per class.")
@json_option
def compare(
    names: tuple[str, ...], protocol: str | None, model: str | None, test: str | None, plot: str | None, as_json: bool
) -> None:
    """Show recorded results of artifacts in one table: one protocol, one test set."""
    from ddhub.artifact import results
    from ddhub.cli.printing import test_text
    from ddhub.remote.find import resolve

    path = Path(plot) if plot else None
    if path and path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png; choose another --plot")
    named = {resolve(name, whole=False): name for name in names}
    entries = {name: results.read(folder) for folder, name in named.items()}
    means = _setting(entries, protocol, model, test)
    first = means[0].first
    models = list(dict.fromkeys(mean.first.model for mean in means))
    own = {x.manifest.digest: {mean.first.model: mean for mean in means if _is_of(mean, x)} for x in entries.values()}
    rows = [(x, own[x.manifest.digest]) for x in entries.values()]
    if path:
        from ddhub.cli.plot import accuracy_over_bits

        points = [(x, mean) for x, students in rows for mean in students.values()]
        title = f"protocol {first.protocol} ({first.protocol_digest}), {test_text(first)}"
        write(path, accuracy_over_bits(points, title))
        say(str(path), err=as_json)
    if as_json:
        keys = ("protocol", "protocol_digest", "test", "test_images", "test_fingerprint")
        print_json(
            {**{key: getattr(first, key) for key in keys}, "artifacts": [_facts(x, students) for x, students in rows]}
        )
        return
    say(f"accuracy in %, last epoch, protocol {first.protocol} ({first.protocol_digest}), {test_text(first)}")
    lines: list[list[object]] = []
    for entry, students in rows:
        m = entry.manifest
        cells = [f"{students[x].text} (n = {len(students[x].runs)})" if x in students else "" for x in models]
        lines.append([m.name, m.method, m.ipc, f"{entry.bytes:,}", f"{m.bits_per_class():,.0f}", *cells])
    print_table(["name", "method", ">ipc", ">stored bytes", ">bits per class", *models], lines)


def _facts(entry: Entry, students: Mapping[str, Mean]) -> dict[str, object]:
    """A row of the table, for `--json`."""
    m = entry.manifest
    return {
        **{key: getattr(m, key) for key in ("name", "method", "dataset", "ipc", "digest")},
        "bytes": entry.bytes,
        "bits_per_class": m.bits_per_class(),
        "students": {model: {"mean": x.mean, "sd": x.sd, "n": len(x.runs)} for model, x in students.items()},
    }


def _is_of(mean: Mean, entry: Entry) -> bool:
    return mean.first.digest == entry.manifest.digest


def _setting(entries: Mapping[str, Entry], protocol: str | None, model: str | None, test: str | None) -> list[Mean]:
    """The means of the one protocol and test set under which a student has results on every artifact.

    Raises:
        UsageError: there is none, or more than one.
    """
    from ddhub.artifact import results
    from ddhub.protocols.named import protocol as known

    tables = list(results.settings(entries.values()).values())
    if protocol:
        digest = known(protocol).digest if protocol in protocols() else ""
        tables = [x for x in tables if {protocol, digest} & {x[0].first.protocol, x[0].first.protocol_digest}]
        if not tables and not digest:
            raise unknown("protocol", protocol, protocols(), "ddhub compare --help")
    if test:
        tables = [x for x in tables if x[0].first.test_name == test or x[0].first.test_fingerprint.startswith(test)]
    if model:
        tables = [[mean for mean in means if mean.first.model == model] for means in tables]
    # the students of one model under one protocol and on one test set, as many as there are
    groups = [
        [mean for mean in means if mean.first.model == one]
        for means in tables
        for one in dict.fromkeys(mean.first.model for mean in means)
    ]
    whole = {group[0].setting for group in groups if all(any(_is_of(x, y) for x in group) for y in entries.values())}
    found = [means for means in tables if means and means[0].setting in whole]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(_missing(entries, max(groups, key=len, default=[]), protocol, model, test))
    which = (
        f"{x.protocol} ({x.protocol_digest}) on {x.test} ({x.test_fingerprint[:12]})"
        for x in (means[0].first for means in found)
    )
    raise UsageError(f"all have results under {'; '.join(which)}; choose with --protocol or --test")


def _missing(
    entries: Mapping[str, Entry], students: Sequence[Mean], protocol: str | None, model: str | None, test: str | None
) -> str:
    """What `students` of one setting and model lack for a table, and the command that records it."""
    from ddhub.cards.tables import flags

    having = [name for name, entry in entries.items() if any(_is_of(mean, entry) for mean in students)]
    lacking = [name for name in entries if name not in having]
    if students:
        first = students[0].first
        words = flags(first, entries[having[0]].manifest)
        words += ["--model", first.model, "--seeds", str(max(len(mean.runs) for mean in students))]
        words += ["--test", first.test_name]
        under = f" with {first.model} under protocol {first.protocol} ({first.protocol_digest}) on {first.test}"
    else:
        words = ["--protocol", protocol] if protocol else []
        words += ["--model", model or "convnet3", "--seeds", "3", *(["--test", test] if test else [])]
        asked = (("with", model), ("under protocol", protocol), ("on", test))
        under = "".join(f" {word} {name}" for word, name in asked if name)
    # An artifact with results comes first: where no protocol is named, its own is what all are trained under.
    command = shlex.join(["ddhub", "train", *having, *lacking, *words, "--record", "--data", "ROOT"])
    return f"no result of {', '.join(lacking)}{under}; record it: {command}"

"""`ddhub compare --frontier`: accuracy against stored bytes a class, of one data set, student and test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddhub.cli.choice import Choice
from ddhub.cli.printing import print_json, print_table, say, test_text, write
from ddhub.errors import UsageError

if TYPE_CHECKING:
    from ddhub.artifact.results import Entry
    from ddhub.cards.frontier import Curve, Point


def show(entries: Sequence[Entry], others: Sequence[Entry], choice: Choice, path: Path | None, as_json: bool) -> None:
    """Print the one frontier of the artifacts' chosen results, and draw it where a path is given.

    Args:
        others: artifacts among which random selection is looked for too.

    Raises:
        UsageError: no such result, or those of more than one data set, student or test set.
    """
    curve = _curve(entries, others, choice)
    if path:
        from ddhub.cli.plot import frontier

        write(path, frontier(curve, _title(curve)))
        say(str(path), err=as_json)
    if as_json:
        print_json(_record(curve))
    else:
        _print(curve)


def _curve(entries: Sequence[Entry], others: Sequence[Entry], choice: Choice) -> Curve:
    from ddhub.cards.frontier import curves

    known = {entry.manifest.digest: entry for entry in (*others, *entries)}
    means = (mean for table in choice.tables(known.values()) for mean in table)
    results = [(known[mean.first.digest], mean) for mean in means]
    named = {entry.manifest.digest for entry in entries}
    found = curves([x for x in results if x[0].manifest.digest in named], results)
    if not found:
        raise UsageError(
            "no recorded result is as chosen, or a teacher is needed for each; leave out an option (ddhub list)"
        )
    if len(found) > 1:
        kinds = {
            "--dataset": [x.points[0].entry.manifest.dataset for x in found],
            "--model": [x.points[0].mean.first.model for x in found],
            "--test": [x.points[0].mean.first.test_fingerprint[:12] for x in found],
        }
        option, values = next((key, list(dict.fromkeys(x))) for key, x in kinds.items() if len(set(x)) > 1)
        raise UsageError(
            f"a frontier is of one data set, student and test set; choose with {option}, or NAMEs: {', '.join(values)}"
        )
    return found[0]


def _title(curve: Curve) -> str:
    """'convnet3, CIFAR-10, 10,000 test images'."""
    first = curve.points[0].mean.first
    return f"{first.model}, {test_text(first)}"


def _print(curve: Curve) -> None:
    from ddhub.cards.comparison import is_random
    from ddhub.cards.frontier import RULE
    from ddhub.cards.published import COUNTS

    say(f"accuracy in %, last epoch, {_title(curve)}; * is what nothing with as many bytes or fewer beats")
    say(RULE)
    stars = {id(point) for point in curve.frontier}
    rows: list[list[object]] = []
    for x in curve.points:
        m, mark = x.entry.manifest, "*" if id(x) in stars else ""
        size = [f"{x.bytes_per_class:,.0f}", f"{x.entry.bytes:,}"]
        rows.append([mark, *size, m.name, m.method, x.encoding, x.labels, x.mean.first.protocol, *_accuracy(x)])
    sizes = [">bytes a class", ">bytes"]
    print_table(["", *sizes, "name", "method", "encoding", "labels", "protocol", "accuracy", ">n"], rows)
    learned = [(x, curve.random_at(x)) for x in curve.frontier if not is_random(x.entry.manifest)]
    if pairs := [(x, random) for x, random in learned if random]:
        click.echo()
        say("the best random selection with as many bytes as an artifact of the frontier, or fewer")
        rows = []
        for x, y in pairs:
            size = [y.entry.manifest.name, f"{y.bytes_per_class:,.0f}", y.mean.first.protocol]
            rows.append([x.entry.manifest.name, *size, *_accuracy(y), f"{x.mean.mean - y.mean.mean:+.2f}"])
        header = ["name", "random selection", ">bytes a class", "protocol", "accuracy", ">n", ">gain in points"]
        print_table(header, rows)
    if curve.published:
        click.echo()
        say(f"published, copied and not repeated here, under protocols of their own; they count {COUNTS}")
        rows = [[x.size, x.method, f"{x.accuracy:.1f}", f"copied: {x.source}"] for x in curve.published]
        print_table([">bytes a class", "method", ">accuracy", "source"], rows)


def _accuracy(point: Point) -> list[object]:
    return [point.mean.text, len(point.mean.runs)]


def _record(curve: Curve) -> dict[str, Any]:
    """A frontier for `--json`."""
    first, stars = curve.points[0].mean.first, {id(point) for point in curve.frontier}
    points = []
    for point in curve.points:
        random = curve.random_at(point)
        facts = {"frontier": id(point) in stars, "random_selection": _facts(random) if random else None}
        points.append(_facts(point) | facts)
    return {
        "dataset": curve.points[0].entry.manifest.dataset,
        **{key: getattr(first, key) for key in ("model", "test", "test_images", "test_fingerprint")},
        "artifacts": points,
        "published": [x.to_json() for x in curve.published],
    }


def _facts(point: Point) -> dict[str, Any]:
    from ddhub.cards.storage_text import label_bits

    m, mean = point.entry.manifest, point.mean
    return {
        **{key: getattr(m, key) for key in ("name", "method", "ipc", "digest")},
        "bytes": point.entry.bytes,
        "bytes_per_class": point.bytes_per_class,
        "encoding": point.encoding,
        "labels": m.labels["kind"],
        "label_bits": label_bits(m),
        **{key: getattr(mean.first, key) for key in ("protocol", "protocol_digest")},
        **{"mean": mean.mean, "sd": mean.sd, "n": len(mean.runs)},
    }

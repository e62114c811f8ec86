"""The frontier: the best accuracy that is known at a size, of one student on one data set and test set.

    (curve,) = curves((entry, mean) for entry in entries for mean in entry.means())
    [point.entry.manifest.name for point in curve.frontier]
    curve.random_at(curve.frontier[0])         # the best random selection with as many bytes or fewer

An artifact stands with its best result. Here alone results of different protocols share a table: a frontier asks for
the best that is known at a size, whatever it takes to train on it. Results for which a teacher was asked are left out,
as its bytes are not among the stored ones. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ddhub.artifact.encoding import name_of
from ddhub.artifact.results import Entry, Mean
from ddhub.cards.comparison import is_random
from ddhub.cards.label_text import short
from ddhub.cards.markdown import table, text
from ddhub.cards.published import COUNTS, Published, published
from ddhub.cards.storage_text import label_bits

RULE = (
    "An artifact stands with its best result, and protocols may differ from row to row, as a frontier asks for the "
    "best that is known at a size; results that need a teacher beside the stored bytes are left out."
)


@dataclass(frozen=True)
class Point:
    """An artifact and its best result."""

    entry: Entry
    mean: Mean

    @property
    def bytes_per_class(self) -> float:
        """Stored bytes of a class, labels included."""
        return self.entry.bytes / len(self.entry.manifest.classes)

    @property
    def encoding(self) -> str:
        """The encoding of the images by name, such as 'avif:40/22'."""
        return name_of(self.entry.manifest.encoding)

    @property
    def labels(self) -> str:
        """'hard', or 'soft, 8 bits'."""
        bits = label_bits(self.entry.manifest)
        return short(self.entry.manifest) + (f", {bits} bits" if bits else "")


@dataclass(frozen=True)
class Curve:
    """The artifacts of one data set with results of one student on one test set.

    Attributes:
        points: one an artifact, the smallest first.
        random: random selection in the same order, also what is not among the points.
    """

    points: list[Point]
    random: list[Point]

    @property
    def frontier(self) -> list[Point]:
        """The points than which none with as many bytes or fewer is better."""
        return _unbeaten(self.points)

    @property
    def random_frontier(self) -> list[Point]:
        """The same of random selection alone."""
        return _unbeaten(self.random)

    @property
    def published(self) -> list[Published]:
        """What papers report of this student on this data set, where the test set is the data set's own."""
        first, dataset = self.points[0].mean.first, self.points[0].entry.manifest.dataset
        return published(dataset, first.model) if first.test_name == dataset else []

    def random_at(self, point: Point) -> Point | None:
        """The best random selection with as many bytes as a point, or fewer; None where there is none."""
        smaller = [x for x in self.random if x.entry.bytes <= point.entry.bytes]
        return max(smaller, key=lambda x: x.mean.mean, default=None)


def curves(results: Iterable[tuple[Entry, Mean]], others: Iterable[tuple[Entry, Mean]] = ()) -> list[Curve]:
    """A curve for each data set, student and test set of the results, in this order.

    Args:
        results: artifacts and their means.
        others: where random selection is looked for too.
    """
    groups, around = _best(results), _best(others)
    return [
        Curve(
            _by_size(points.values()),
            _by_size(x for x in {**around.get(key, {}), **points}.values() if is_random(x.entry.manifest)),
        )
        for key, points in sorted(groups.items())
    ]


def _best(results: Iterable[tuple[Entry, Mean]]) -> dict[tuple[str, str, str], dict[str, Point]]:
    """The best result of each artifact, by its digest, for each data set, student and test set."""
    groups: dict[tuple[str, str, str], dict[str, Point]] = {}
    for entry, mean in results:
        if _asks_teachers(entry, mean):
            continue
        points = groups.setdefault((entry.manifest.dataset, mean.first.model, mean.first.test_fingerprint), {})
        known = points.get(entry.manifest.digest)
        if known is None or mean.mean > known.mean.mean:
            points[entry.manifest.digest] = Point(entry, mean)
    return groups


def _by_size(points: Iterable[Point]) -> list[Point]:
    return sorted(points, key=lambda x: (x.entry.bytes, -x.mean.mean, x.entry.manifest.name))


def _unbeaten(points: Sequence[Point]) -> list[Point]:
    """The points than which none with as many bytes or fewer is better."""
    return [p for p in points if not any(x.entry.bytes <= p.entry.bytes and x.mean.mean > p.mean.mean for x in points)]


def _asks_teachers(entry: Entry, mean: Mean) -> bool:
    return entry.manifest.labels["kind"] == "teacher" or bool(mean.first.settings.get("teachers"))


def section(entries: Iterable[Entry]) -> list[str]:
    """The frontiers of all artifacts, Markdown: a table for each data set, student and test set, [] without results."""
    found = curves((entry, mean) for entry in entries for mean in entry.means())
    parts = [
        "## Frontier",
        f"{RULE} Shown is what no artifact with as many bytes or fewer beats, beside the best random selection with as "
        "many bytes or fewer. What is marked as copied are numbers of papers, not repeated here, under their own "
        f"protocols; they count {COUNTS}.",
    ]
    for curve in found:
        first = curve.points[0].mean.first
        parts += [f"### {text(first.model)} on {text(first.test)}, {first.test_images:,} test images", numbers(curve)]
    return parts if found else []


def numbers(curve: Curve) -> str:
    """A curve as a table, Markdown: its frontier beside random selection, and what papers report."""
    rows: list[tuple[float, tuple[object, ...]]] = []
    for point in curve.frontier:
        m, mean, random = point.entry.manifest, point.mean, curve.random_at(point)
        size = (f"{point.bytes_per_class:,.0f}", f"[{m.name}]({m.name}/README.md)", m.method)
        drawn = "" if random is None or random.entry is point.entry else random.mean.text
        how = (point.encoding, point.labels, mean.first.protocol)
        rows.append((point.bytes_per_class, (*size, *how, mean.text, len(mean.runs), drawn)))
    for x in curve.published:
        rows.append((x.low, (x.size, f"copied: {x.source}", x.method, "", "", "", f"{x.accuracy:.1f}", "", "")))
    columns = "bytes a class|artifact|method|encoding|labels|protocol|accuracy %|n|random selection %"
    return table(columns, [row for _, row in sorted(rows, key=lambda row: row[0])])

"""Charts: places of points, error bars and ticks, computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from test_results import result, tiny

from ddhub.artifact.manifest import PARQUET
from ddhub.artifact.results import Entry
from ddhub.cards.frontier import Curve, curves
from ddhub.gallery import chart
from ddhub.gallery.chart import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Bars, Frontier


def entry(name: str, size: int, *accuracies: float) -> Entry:
    fields: dict[str, Any] = {"name": name, "method": name, "files": {PARQUET: {"sha256": "0" * 64, "bytes": size}}}
    m = tiny(**fields)
    return Entry(m, [result(m, seed, x) for seed, x in enumerate(accuracies)])


def drawn(*entries: Entry) -> Frontier:
    (curve,) = curves((x, mean) for x in entries for mean in x.means())
    assert isinstance(curve, Curve)
    return chart.frontier(curve)


def test_sizes_are_logarithmic_and_error_bars_are_deviations() -> None:
    made = drawn(entry("a", 300, 20.0, 22.0), entry("b", 3000, 60.0), entry("c", 30_000, 40.0))
    a, b, c = (next(x for x in made.marks if x.point.entry.manifest.name == name) for name in "abc")
    assert b.x - a.x == pytest.approx(c.x - b.x)  # ten times as large each
    assert LEFT < a.x < c.x < WIDTH - RIGHT and TOP < b.y < a.y < HEIGHT
    points = (b.y - a.y) / (60.0 - 21.0)  # of the picture, a point of accuracy
    assert a.high - a.y == pytest.approx(points * math.sqrt(2)) and a.low - a.y == pytest.approx(-points * math.sqrt(2))
    assert b.low == b.high == b.y  # one seed
    assert [x.kind for x in (a, b, c)] == ["best", "best", "other"]
    assert made.best == f"M{a.x:.1f} {a.y:.1f}H{b.x:.1f}V{b.y:.1f}H{WIDTH - RIGHT}"
    ticks = {tick.text: tick.at for tick in made.across}
    assert ticks["1 k"] == pytest.approx(b.x) and {"100", "10 k"} <= ticks.keys()


def test_labels_do_not_overlap_and_stay_inside() -> None:
    made = drawn(*(entry(f"artifact-of-a-long-name-{i}", 1000 + 3 * i, 30.0 + i) for i in range(12)))
    labelled = [x for x in made.marks if x.label]
    assert labelled
    boxes = []
    for mark in labelled:
        assert mark.label
        x, y, anchor = mark.label
        width = 6.4 * len(chart.label_of(mark.point))
        boxes.append((x - width if anchor == "end" else x, y))
        assert boxes[-1][0] >= LEFT and boxes[-1][0] + width <= WIDTH - RIGHT
    for i, (x, y) in enumerate(boxes):
        assert not any(abs(x - other) < 100 and abs(y - high) < 10 for other, high in boxes[i + 1 :])


@pytest.mark.parametrize("size", [0, 1, 3200, 10**12])
def test_one_artifact_of_any_size_has_a_chart_with_ticks(size: int) -> None:
    for accuracy in (0.0, 100.0):
        made = drawn(entry("a", size, accuracy))
        assert len(made.across) > 1 and len(made.up) > 1
        assert all(math.isfinite(x.x) and math.isfinite(x.y) for x in made.marks)


def test_rows_of_a_table_share_an_axis() -> None:
    means = [x for item in (entry("a", 1, 20.0, 24.0), entry("b", 1, 40.0)) for x in item.means()]
    bars = Bars(means)
    a, b = map(bars, means)
    assert 0 < a.low < a.at < a.high < b.at < 100 and b.low == b.high == b.at
    assert a.at - a.low == pytest.approx(a.high - a.at)
    assert [tick.text for tick in bars.ticks] == ["20", "25", "30", "35", "40"]

"""The frontier: who is on it, what random selection is at a size, and what papers report beside it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_results import result, tiny

import ddhub
from ddhub import models
from ddhub.artifact.manifest import PARQUET
from ddhub.artifact.results import Entry, Mean
from ddhub.cards import card
from ddhub.cards.frontier import Curve, curves
from ddhub.cards.published import published
from ddhub.protocols.named import protocol
from ddhub.sources.known import KNOWN


def entry(name: str, size: int, *accuracies: float, **changes: Any) -> Entry:
    """An artifact of so many stored bytes, of three classes, with a result a seed."""
    keys = ("plan", "model", "test_fingerprint", "test_name")
    setting = {key: changes.pop(key) for key in keys if key in changes}
    fields = {"name": name, "method": name, "files": {PARQUET: {"sha256": "0" * 64, "bytes": size}}, **changes}
    m = tiny(**fields)
    return Entry(m, [result(m, seed, x, **setting) for seed, x in enumerate(accuracies)])


def results(*entries: Entry) -> list[tuple[Entry, Mean]]:
    return [(x, mean) for x in entries for mean in x.means()]


def names(points: list[Any]) -> list[str]:
    return [x.entry.manifest.name for x in points]


def one(*entries: Entry) -> Curve:
    (curve,) = curves(results(*entries))
    return curve


def test_on_the_frontier_is_what_nothing_as_small_beats() -> None:
    curve = one(
        entry("f", 900, 39.0),  # large and bad
        entry("e", 600, 50.0, 52.0),
        entry("d", 300, 40.0),
        entry("c", 300, 41.0),  # of as many bytes as d, and better
        entry("b", 200, 10.0),
        entry("a", 100, 20.0),
    )
    assert names(curve.points) == ["a", "b", "c", "d", "e", "f"]
    assert names(curve.frontier) == ["a", "c", "e"]
    assert [x.bytes_per_class for x in curve.frontier] == [100 / 3, 100, 200]
    assert [x.mean.mean for x in curve.frontier] == [20.0, 41.0, 51.0]


def test_an_artifact_stands_with_its_best_result_whatever_the_protocol() -> None:
    m = entry("a", 100).manifest
    several = Entry(m, [result(m, 0, 30.0), result(m, 0, 35.0, plan=protocol("rded")), result(m, 1, 31.0)])
    (point,) = one(several).points
    assert (point.mean.mean, point.mean.first.protocol, len(point.mean.runs)) == (35.0, "rded", 1)


def test_students_data_sets_and_test_sets_have_curves_of_their_own() -> None:
    found = curves(
        results(
            entry("a", 100, 20.0),
            entry("b", 100, 20.0, model="resnet18"),
            entry("c", 100, 20.0, test_fingerprint="cafe"),
            entry("d", 100, 20.0, dataset="other"),
        )
    )
    assert [names(curve.points) for curve in found] == [["d"], ["a"], ["c"], ["b"]]


@pytest.mark.parametrize(
    "change",
    [{"labels": {"kind": "teacher", "temperature": 1.0}}, {"plan": protocol("rded", teachers=("t@0123456789ab",))}],
)
def test_what_a_teacher_was_asked_for_is_left_out(change: dict[str, Any]) -> None:
    assert names(one(entry("a", 100, 20.0), entry("taught", 100, 90.0, **change)).points) == ["a"]


def test_random_selection_at_a_size_is_the_best_that_is_as_small() -> None:
    def coreset(policy: str) -> dict[str, Any]:
        return {"method": "coreset", "recipe": {**tiny().recipe, "config": {"policy": policy}}}

    learned = [entry("tiny", 50, 5.0), entry("small", 250, 60.0), entry("large", 400, 70.0)]
    drawn = [
        entry("real", 100, 30.0, method="random-real"),
        entry("worse", 200, 20.0, method="random-real"),
        entry("coded", 400, 40.0, **coreset("random")),
        entry("herded", 100, 99.0, **coreset("herding")),
    ]
    (curve,) = curves(results(*learned), results(*drawn, *learned))
    at = {x.entry.manifest.name: curve.random_at(x) for x in curve.points}
    assert {name: x and x.entry.manifest.name for name, x in at.items()} == {
        "tiny": None,
        "small": "real",
        "large": "coded",
    }
    assert names(curve.frontier) == ["tiny", "small", "large"]  # what is only looked for at its side is not on it
    assert names(curve.random_frontier) == ["real", "coded"]


def test_published_points_are_of_known_data_students_and_sources() -> None:
    path = Path(ddhub.__file__).parent / "assets/published.toml"
    table = tomllib.loads(path.read_text())
    assert table.keys() == {"counts", "sources", "points"} and "labels included" in table["counts"]
    for dataset, students in table["points"].items():
        assert dataset in KNOWN
        for model, rows in students.items():
            models.build(model, channels=3, classes=10, size=32)
            assert len(published(dataset, model)) == len(rows)
            for x in published(dataset, model):
                assert x.method in table["sources"] and 1000 < x.low <= x.high < 10**6 and 50 < x.accuracy < 90
                assert x.to_json()["copied"] is True and x.to_json()["counts"] == table["counts"]
    assert published("cifar10", "resnet18") == published("mnist", "convnet3") == []


def test_published_points_stand_beside_the_same_student_and_the_data_sets_own_test_set() -> None:
    own = one(entry("a", 100, 20.0, dataset="cifar10"))
    first, *_ = own.published
    assert (first.method, first.size, first.accuracy) == ("TM-RUO", "13,400", 70.3)
    assert "96,000 to 122,000" in [x.size for x in own.published]
    assert one(entry("a", 100, 20.0, dataset="cifar10", model="convnet3-w32")).published == []
    assert one(entry("a", 100, 20.0, dataset="cifar10", test_name="cifar10-mini")).published == []


def test_the_leaderboard_has_the_frontiers() -> None:
    entries = [
        entry("a", 30_000, 20.0, 22.0, dataset="cifar10", encoding={"codec": "png", "sheet": 2}),
        entry("beaten", 60_000, 11.0, dataset="cifar10", plan=protocol("rded")),
        entry("b", 90_000, 40.0, dataset="cifar10", plan=protocol("rded"), labels={"kind": "soft", "bits": 8}),
        entry("drawn", 40_000, 15.0, dataset="cifar10", method="random-real", labels={"kind": "hard"}),
    ]
    board = card.leaderboard(entries)
    section = board.partition("\n## Frontier\n")[2].partition("\n## Protocol")[0]
    assert section.count("\n### ") == 1 and "\n### convnet3 on Tiny (JPEG copy), 10,000 test images\n" in section
    rows = [[x.strip() for x in line[1:-1].split("|")] for line in section.splitlines() if line.startswith("| ")][2:]
    assert [row[2] for row in rows[:3]] == ["a", "TM-RUO", "NSD"]
    link = "[a](a/README.md)"
    assert rows[0] == ["10,000", link, "a", "png/2", "soft, 16 bits", "infer-dynamic", "21.00 ± 1.41", "2", ""]
    assert rows[1][1].startswith("copied: Bao et al.") and rows[1][6] == "70.3"
    (row,) = [row for row in rows if row[2] == "b"]
    assert rows.index(row) == 4 and row[4:] == ["soft, 8 bits", "rded", "40.00", "1", "15.00"]
    assert "beaten" not in section and "[drawn]" not in section
    assert "## Frontier" not in card.leaderboard([entry("empty", 100)])

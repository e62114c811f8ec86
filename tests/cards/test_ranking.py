"""The order of artifacts in a list: who is a variant, which setting ranks, and who has no rank."""

from __future__ import annotations

from typing import Any

from test_results import result, tiny

from ddhub.artifact.results import Entry
from ddhub.cards.ranking import Ranked, rankings, variants
from ddhub.protocols.named import protocol


def entry(name: str, *results: tuple[float, dict[str, Any]], **changes: Any) -> Entry:
    """An artifact with one result for each accuracy and its setting."""
    m = tiny(**{"name": name, "method": name, **changes})
    return Entry(m, [result(m, 0, accuracy, **setting) for accuracy, setting in results])


def shown(ranking: list[Ranked]) -> list[tuple[str, int | None, float | None]]:
    return [(x.entry.manifest.name, x.rank, x.mean.mean if x.mean else None) for x in ranking]


def test_the_setting_of_most_artifacts_ranks() -> None:
    rded, other = {"plan": protocol("rded")}, {"test_fingerprint": "cafe"}
    entries = [
        entry("a", (10.0, {}), (99.0, {"model": "resnet18"})),  # its best, but of one artifact alone
        entry("b", (20.0, {})),
        entry("c", (98.0, rded), (15.0, {})),
        entry("none"),
        entry("d", (50.0, rded), (60.0, other)),
        entry("e", (70.0, other)),
        entry("f", (55.0, rded)),
    ]
    # 3 artifacts have the plain setting, and 3 `rded`, whose best mean is higher: c 98, f 55, d 50
    (ranking,) = rankings(entries)
    assert shown(ranking)[:3] == [("c", 1, 98.0), ("f", 2, 55.0), ("d", 3, 50.0)]
    # by the protocol and the other parts of the setting of their best accuracy
    assert {x[0] for x in shown(ranking)[3:6]} == {"a", "b", "e"}
    assert ("a", None, 99.0) in shown(ranking) and ("e", None, 70.0) in shown(ranking)
    assert shown(ranking)[-1] == ("none", None, None)
    (ranking,) = rankings([*entries, entry("g", (5.0, {}))])
    assert shown(ranking)[:4] == [("b", 1, 20.0), ("c", 2, 15.0), ("a", 3, 10.0), ("g", 4, 5.0)]
    # d has 60 on the other test set, where e is better
    assert [x[0] for x in shown(ranking) if x[0] in "de"] == ["e", "d"]


def test_the_mean_counts_and_not_the_best_seed() -> None:
    names = {"a": (10.0, 50.0), "b": (31.0, 31.0)}
    entries = []
    for name, accuracies in names.items():
        m = tiny(name=name, method=name)
        entries.append(Entry(m, [result(m, seed, accuracy) for seed, accuracy in enumerate(accuracies)]))
    (ranking,) = rankings(entries)
    assert shown(ranking) == [("b", 1, 31.0), ("a", 2, 30.0)]


def test_a_list_for_each_data_set_and_ipc() -> None:
    sizes = [("cifar10", 10), ("a", 50), ("cifar10", 1), ("cifar10", 2)]
    lists = rankings(entry(f"{data}-{ipc}", dataset=data, ipc=ipc) for data, ipc in sizes)
    assert [x.entry.manifest.name for ranking in lists for x in ranking] == [
        "a-50",
        "cifar10-1",
        "cifar10-2",
        "cifar10-10",
    ]
    assert rankings([]) == []


CODED = {
    "codec": "avif", "quality": 50, "chroma": "444", "sheet": 2, "pixels": "0" * 64, "samples": "00", "tolerance": 2,
}  # fmt: skip


def test_variants_continue_the_name_and_the_preset() -> None:
    def made(name: str, preset: str | None, **changes: Any) -> Entry:
        return entry(name, **{"method": "infer", **changes}, recipe={**tiny().recipe, "preset": preset})

    entries = [
        made("x-hard", "x-cpu-hard"),
        made("x-hard-more", "x-cpu-hard-more"),  # of the artifact itself, not of the variant
        made("x", "x-cpu"),
        made("x-gpu", "x"),  # of another preset
        made("xy", "x-cpu"),
        made("x-ipc1", "x-cpu", ipc=1),
        made("x-other", "x-cpu", method="other"),
        made("x-avif", "x-cpu", encoding=CODED),
    ]
    manifests = [x.manifest for x in entries]
    assert variants(manifests) == {"x-hard": "x", "x-hard-more": "x"}
    # of settings that were given one by one
    assert variants([made("y", None).manifest, made("y-z", None).manifest]) == {"y-z": "y"}
    assert variants(entry(x, method="random-real").manifest for x in ("r", "r-soft")) == {}


def test_variants_have_no_say_in_the_setting() -> None:
    rded = {"plan": protocol("rded")}
    entries = [
        entry("x", (10.0, {}), method="infer"),
        *(entry(f"x-{i}", (20.0 + i, rded), method="infer") for i in range(3)),
        entry("random", (5.0, {}), method="random-real"),
    ]
    assert shown(rankings(entries)[0]) == [("x", 1, 10.0), ("random", 2, 5.0)]
    (ranking,) = rankings(entries, with_variants=True)
    assert shown(ranking)[:2] == [("x", 1, 10.0), ("random", 2, 5.0)]
    assert shown(ranking)[2:] == [("x-2", None, 22.0), ("x-1", None, 21.0), ("x-0", None, 20.0)]

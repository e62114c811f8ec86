"""Recipes on the pretend GPU: the artifacts of a CPU, and a stage waits as often however many steps it has."""

from __future__ import annotations

import pytest

from pretend.asked import Table, asked, places

# How many waits more an epoch of an expert, or an outer iteration, may cost at a place, and why.
ALLOWED = {
    "recipes/trajectories/checkpoints.py Checkpoints.write": (2, "an epoch of each of two experts is written"),
}
# Places that may wait once an epoch of an expert, or an outer iteration or a refresh within it, and why; of steps alone
# those that the codec is in the loop of.
_REGIONS = "the search for regions, once in so many outer iterations, works with lists on the host"
WAITS: dict[str, dict[str, str]] = {
    "by_step": {
        "ddhub/artifact/codec.py encode": "a codec in the loop works on the host, once in so many steps",
    },
    "by_epoch": {
        "recipes/trajectories/experts.py _trajectories": "parameters are looked at for numbers after each epoch",
        "recipes/gradients/outer.py Matcher.report": "loss and images are read before regions are chosen again",
        "recipes/gradients/regions.py choose": _REGIONS,
        "recipes/gradients/regions.py jitter_use": _REGIONS,
        "recipes/udd.py advance": _REGIONS,
    },
}


@pytest.fixture(scope="module")
def found() -> Table:
    return asked("methods")


def test_artifacts_are_those_of_a_cpu(found: Table) -> None:
    assert {case.partition(",")[0] for case in found} == {
        "coreset",
        "edf",
        "infer",
        "nrr-dd",
        "random-real",
        "sre2l",
        "udd",
    }
    assert {case: one["apart"] for case, one in found.items() if one["apart"] > 0} == {}


@pytest.mark.parametrize("kind", ["by_step", "by_epoch"])
def test_nothing_waits_but_what_is_listed(found: Table, kind: str) -> None:
    waiting = places(found, kind)
    for place, (most, _) in ALLOWED.items() if kind == "by_epoch" else ():
        if all(abs(more[0]) <= most for more in waiting.get(place, {}).values()):
            waiting.pop(place, None)
    assert {place: cases for place, cases in waiting.items() if place not in WAITS[kind]} == {}
    assert [place for place in WAITS[kind] if place not in waiting] == []

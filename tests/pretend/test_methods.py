"""Recipes on the pretend GPU: the artifacts of a CPU, and a stage waits as often however many steps it has."""

from __future__ import annotations

import pytest

from pretend.asked import Table, asked, places

# How many waits more an epoch of an expert, or an outer iteration, may cost at a place, and why.
ALLOWED = {
    "recipes/trajectories/checkpoints.py Checkpoints.write": (2, "an epoch of each of two experts is written"),
}
# Places that still wait once a step, iteration or batch (or more often an epoch than is allowed), and why; what is
# mended leaves its list.
_DRAWS = "the draws of an iteration are copied to the device"
_REGIONS = "the search for regions, once in so many outer iterations, works with lists on the host"
STILL = {
    "by_step": {
        "recipes/trajectories/trajectory.py outer_iteration": _DRAWS,
        "recipes/trajectories/trajectory.py outer_iteration.<genexpr>": "an expert's parameters are copied",
        "recipes/trajectories/dae.py PixelWeights.weights": "the noise of Smooth Grad-CAM++ is copied to the device",
        "recipes/patches/discovery.py search": "of each batch images and draws are copied to the device, results back",
    },
    "by_epoch": {
        "recipes/trajectories/experts.py _trajectories": "parameters are looked at for numbers after each epoch",
        "recipes/gradients/outer.py Real.of_classes": _DRAWS,
        "recipes/gradients/outer.py outer_iteration": "draws and the new net are copied, images looked at for numbers",
        "recipes/gradients/outer.py picks": _DRAWS,
        "recipes/gradients/regions.py choose": _REGIONS,
        "recipes/gradients/regions.py jitter_use": _REGIONS,
        "recipes/gradients/regions.py Searching.chosen": _REGIONS,
        "recipes/udd.py advance": _REGIONS,
    },
}


@pytest.fixture(scope="module")
def found() -> Table:
    return asked("methods")


def test_artifacts_are_those_of_a_cpu(found: Table) -> None:
    assert {case.partition(",")[0] for case in found} == {"edf", "infer", "nrr-dd", "random-real", "sre2l", "udd"}
    assert {case: one["apart"] for case, one in found.items() if one["apart"] > 0} == {}


@pytest.mark.parametrize("kind", ["by_step", "by_epoch"])
def test_nothing_waits_but_what_is_listed(found: Table, kind: str) -> None:
    waiting = places(found, kind)
    for place, (most, _) in ALLOWED.items() if kind == "by_epoch" else ():
        if all(abs(more[0]) <= most for more in waiting.get(place, {}).values()):
            waiting.pop(place, None)
    assert {place: cases for place, cases in waiting.items() if place not in STILL[kind]} == {}
    assert [place for place in STILL[kind] if place not in waiting] == []

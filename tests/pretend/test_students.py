"""Students, evaluation and relabelling on the pretend GPU: what the CPU gives, and not a wait a step or an epoch."""

from __future__ import annotations

import pytest

from pretend.asked import Table, asked, places

# Places that still wait once a step (or batch), or once an epoch, and why; what is mended leaves its list.
STILL = {
    "by_step": {
        "ddhub/training/batches.py _Items.__getitems__": "a DataLoader's list of items is copied to the device",
    },
    "by_epoch": {
        "ddhub/training/batches.py _Items.__getitems__": "as it does for each of its batches",
    },
}


@pytest.fixture(scope="module")
def found() -> Table:
    return asked("students")


def test_results_are_those_of_a_cpu(found: Table) -> None:
    assert len(found) > 35
    assert {case: one["apart"] for case, one in found.items() if one["apart"] > 0} == {}


@pytest.mark.parametrize("kind", ["by_step", "by_epoch"])
def test_nothing_waits_but_what_is_listed(found: Table, kind: str) -> None:
    waiting = places(found, kind)
    assert {place: cases for place, cases in waiting.items() if place not in STILL[kind]} == {}
    assert [place for place in STILL[kind] if place not in waiting] == []

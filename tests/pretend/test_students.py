"""Students, evaluation and relabelling on the pretend GPU: what the CPU gives, and not a wait a step or an epoch."""

from __future__ import annotations

import pytest

from pretend.asked import Table, asked, places


@pytest.fixture(scope="module")
def found() -> Table:
    return asked("students")


def test_results_are_those_of_a_cpu(found: Table) -> None:
    assert len(found) > 35
    assert {case: one["apart"] for case, one in found.items() if one["apart"] > 0} == {}


@pytest.mark.parametrize("kind", ["by_step", "by_epoch"])
def test_nothing_waits(found: Table, kind: str) -> None:
    assert places(found, kind) == {}

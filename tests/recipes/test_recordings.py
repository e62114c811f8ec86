"""Recordings give their memory on the device back with their last user."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

import pytest
import torch

from ddhub.data.dsa import COLUMNS
from ddhub.training.capture import Captured
from recipes.run.options import discover
from recipes.run.run import Run
from recipes.trajectories.adjoint import match
from recipes.trajectories.flat import Flat
from recipes.trajectories.student import Student

METHODS = discover()
SHORT: dict[str, dict[str, Any]] = {"udd": {"n_outer": 1}}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ReferenceType[Captured[Any]]]]:
    """Every step that is made, while no garbage is collected."""
    made: list[ReferenceType[Captured[Any]]] = []
    begin = Captured.__init__

    def noted(self: Captured[Any], *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        made.append(ref(self))

    monkeypatch.setattr(Captured, "__init__", noted)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"random-real", "coreset", "edf"}))
def test_no_step_outlives_a_run_until_garbage_is_collected(
    method: str, steps: list[ReferenceType[Captured[Any]]], tmp_path: Path
) -> None:
    recipe = METHODS[method]
    cfg = replace(recipe.SMOKE, **SHORT.get(method, {}))
    recipe.distill(cfg, Run(recipe, cfg, tmp_path / "x", device="cpu"))
    assert steps and [step().name for step in steps if step()] == []  # type: ignore[union-attr]


def test_no_step_outlives_a_student_of_trajectories(steps: list[ReferenceType[Captured[Any]]]) -> None:
    flat = Flat("convnet3-w4", 3, 8, 3)
    student = Student(flat, torch.zeros(2, 3, 8, 8), torch.zeros(2, 3), torch.device("cpu"), crop=0.125)
    student.begin(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3), [torch.arange(2)], [], torch.zeros(1, 2, COLUMNS))
    start = flat.initial(0)
    match(flat, start, start + 1, torch.tensor(0.1), student.shown, 1, student.give, way="reverse", moves=student.moves)
    assert len(steps) == 5
    del student
    assert [step for step in steps if step()] == []

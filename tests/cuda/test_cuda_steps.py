"""Captured steps on a GPU: the same numbers, the same random draws, steady memory, and what comes of a wait."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from gpu import DEVICE, debugging
from torch import Tensor

from ddhub.training.capture import Captured, eager
from ddhub.training.devices import computing, seeded

pytestmark = pytest.mark.cuda


def values(work: Callable[[Tensor], Tensor], count: int = 10, name: str = "a step") -> list[float]:
    """What a captured step returns for the numbers 0, 1, 2, ..."""
    with computing(DEVICE, "fp32"), seeded(DEVICE, 3):
        step = Captured(work, DEVICE, name)
        numbers = torch.arange(count, dtype=torch.float32, device=DEVICE).split(1)
        return [float(step(number)) for number in numbers]


def dropped(x: Tensor) -> Tensor:
    return F.dropout(x + torch.ones(64, device=DEVICE), 0.5).sum()


def test_a_recording_is_made_after_three_calls_and_computes_the_same(recordings: list[str]) -> None:
    assert values(lambda x: (2 * x + 1).sum()) == [2 * k + 1 for k in range(10)]
    assert recordings == ["a step"]


def test_random_draws_are_those_of_eager_steps(recordings: list[str]) -> None:
    found = values(dropped)
    with eager():
        assert values(dropped) == found
    assert len(set(found)) == 10 and recordings == ["a step"]


def test_a_replay_waits_for_nothing() -> None:
    x = torch.ones(8, device=DEVICE)
    with computing(DEVICE, "fp32"):
        step = Captured(lambda x: (x * x).sum(), DEVICE, "a step")
        for _ in range(5):
            step(x)
        with debugging("error"):
            for _ in range(20):
                total = step(x)
    assert float(total) == 8


def test_a_step_that_waits_runs_eagerly_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def waiting(x: Tensor) -> Tensor:
        return x * float(x + 1)

    with caplog.at_level(logging.WARNING):
        found = values(waiting, name="a step that waits")
    assert found == [k * (k + 1) for k in range(10)]
    (line,) = [line for line in caplog.messages if "cannot be captured" in line]
    assert line.startswith("a step that waits cannot be captured (") and line.endswith("); it runs eagerly")
    assert torch.cuda.current_stream() == torch.cuda.default_stream()  # not where the recording failed
    with eager():
        wanted = values(dropped)
    assert values(dropped) == wanted and caplog.messages.count(line) == 1  # draws, and other recordings


def test_memory_is_the_same_after_200_replays() -> None:
    weight = torch.randn(512, 512, device=DEVICE, requires_grad=True)
    solver = torch.optim.AdamW([weight], capturable=True, fused=True)

    def work(x: Tensor) -> Tensor:
        loss = (x @ weight).square().mean()
        solver.zero_grad(set_to_none=True)
        loss.backward()
        solver.step()
        return loss.detach()

    x, seen = torch.randn(256, 512, device=DEVICE), []
    with computing(DEVICE, "fp32"):
        step = Captured(work, DEVICE, "a step")
        for _ in range(200):
            step(x)
            seen.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert set(seen[10:]) == {seen[10]}

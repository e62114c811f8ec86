"""Captured steps."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recorded import Played
from test_training import TINY, weights
from torch import Tensor

from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import open_source
from ddhub.training import capture, devices, loop
from ddhub.training.capture import Captured
from ddhub.training.devices import computing
from recipes.run.teachers import real_data

CPU = torch.device("cpu")


def test_steps_are_recorded_after_three_calls_for_each_shape_and_key(recorded: list[Played]) -> None:
    calls: list[tuple[int, Hashable]] = []

    def work(x: Tensor, key: Hashable = None) -> Tensor:
        calls.append((len(x), key))
        return x * 2

    with computing(CPU, "fp32"):
        step = Captured(work, CPU, "a step")
    for size, key in [(4, None)] * 5 + [(3, None)] * 2 + [(4, "flip")] * 4:
        x = torch.rand(size)
        assert torch.equal(step(x, key=key), 2 * x)
    assert [x.played for x in recorded] == [2, 1]  # the smaller batch was seen twice only
    assert [len(x.held[0]) for x in recorded] == [4, 4]


def test_nothing_is_recorded_on_a_cpu_or_where_exact_numbers_are_wanted() -> None:
    with computing(CPU, "fp32"):
        assert not Captured(lambda x: x, CPU, "a step").active
    assert not devices.captures(torch.device("cuda"))  # outside of `computing`
    with computing(CPU, "exact"):
        assert not devices.captures(torch.device("cuda"))
    with computing(CPU, "bf16"):
        assert devices.captures(torch.device("cuda"))
    assert not devices.captures(torch.device("cuda"))


def test_a_step_that_cannot_be_recorded_runs_eagerly_and_says_so_once(
    recorded: list[Played], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Captured[Tensor], work: object, tensors: object) -> Played:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Captured, "_record", fail)
    with computing(CPU, "fp32"):
        step = Captured(lambda x: x + 1, CPU, "the step of a test")
    with caplog.at_level(logging.WARNING):
        results = [float(step(torch.tensor(k))) for k in range(8)]
    assert results == [1, 2, 3, 4, 5, 6, 7, 8]
    (line,) = caplog.messages
    assert line == (
        "the step of a test cannot be captured (operation not permitted when stream is capturing); it runs eagerly"
    )


ONE_CYCLE = Protocol(epochs=4, batch_size=16, optimizer="sgd", lr=0.1, schedule="one-cycle", warmup=1, nesterov=True)
DROPS = Protocol(
    epochs=4, batch_size=16, optimizer="sgd", lr=0.1, schedule="steps", milestones=(2,), decay=0.1, restart=True
)


@pytest.mark.parametrize("plan", [replace(TINY, epochs=4), ONE_CYCLE, DROPS], ids=["adamw", "one-cycle", "steps"])
def test_a_recorded_student_is_the_eager_one(
    plan: Protocol, recorded: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source("cifar10-mini")
    data = real_data(replace(source, images=source.images[:40], labels=source.labels[:40]), plan)
    played, steps, _ = loop.fit(data, "convnet3-bn-w8", 3, "fp32", progress=False)
    assert steps == 12
    # Two whole batches an epoch, of which three run first, and one of 8, whose fourth is the last step of all.
    assert sorted((len(x.held[0]), x.played) for x in recorded) == [(8, 1), (16, 5)]
    monkeypatch.setattr(capture, "captures", lambda device: False)  # the same optimizer, step by step
    eager, _, _ = loop.fit(data, "convnet3-bn-w8", 3, "fp32", progress=False)
    assert all(torch.equal(x, y) for x, y in zip(weights(played), weights(eager), strict=True))
    assert len(recorded) == 2


def test_a_net_of_ones_own_is_never_recorded(recorded: list[Played]) -> None:
    source = open_source("cifar10-mini")
    data = real_data(replace(source, images=source.images[:40], labels=source.labels[:40]), replace(TINY, epochs=4))
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    loop.fit(data, own, 0, "fp32", progress=False)
    assert not recorded


def test_a_student_goes_on_from_a_state_that_another_device_wrote(
    recorded: list[Played], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source("cifar10-mini")
    data = real_data(replace(source, images=source.images[:40], labels=source.labels[:40]), ONE_CYCLE)
    monkeypatch.setattr(loop, "SAVE", 0)
    whole, _, _ = loop.fit(data, "convnet3-bn-w8", 3, "exact", progress=False)
    checkpoint, save = tmp_path / "state", loop._save

    def stop(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        if state["epochs"] == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_save", stop)
        patch.setattr(loop, "captures", lambda device: False)
        loop.fit(data, "convnet3-bn-w8", 3, "fp32", checkpoint, progress=False)  # its rate is a number
    resumed, _, _ = loop.fit(data, "convnet3-bn-w8", 3, "fp32", checkpoint, progress=False)  # its rate is a tensor
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

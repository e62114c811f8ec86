"""Recordings of captured steps without a GPU, by a stand-in.

It keeps what it was recorded with, as a CUDA graph keeps addresses, and computes from its own copies of the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ddhub.training import capture, devices, loop
from ddhub.training.capture import Captured


class Played:
    """A recording: the same tensors in place of the arguments every time, and one result that is overwritten."""

    made: ClassVar[list[Played]] = []

    def __init__(self, work: Callable[..., Tensor | None], tensors: tuple[Tensor, ...]) -> None:
        self.work, self.held, self.result = work, [torch.empty_like(tensor) for tensor in tensors], None
        self.played = 0
        Played.made.append(self)

    def __call__(self, *tensors: Tensor) -> Tensor | None:
        for held, tensor in zip(self.held, tensors, strict=True):
            held.copy_(tensor)
        result = self.work(*self.held)
        self.played += 1
        if self.result is None:
            self.result = result
        elif result is not None:
            self.result.copy_(result)
        return self.result


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Played]]:
    """Recordings on the CPU, by the stand-in."""
    for module in (capture, loop):
        monkeypatch.setattr(module, "captures", lambda device: not devices._exact.get())
    monkeypatch.setattr(Captured, "_record", lambda self, work, tensors: Played(work, tensors))
    Played.made.clear()
    yield Played.made

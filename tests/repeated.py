"""Captured steps as the operations that a CUDA graph repeats: no Python between them, every number as it was.

What a step reads of Python and what a test changes between calls shows: the recording knows nothing of it. A step that
waits for the device cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
import torch
from recorded import Played
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ddhub.training.capture import Captured


class Repeated:
    """A recording: the operations of one call on the same tensors; arguments are given by value."""

    made: ClassVar[list[Repeated]] = []

    def __init__(self, work: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> None:
        self.first: Tensor | None = None

        def noted(*tensors: Tensor) -> Tensor:
            self.first = work(*tensors)
            return self.first

        # Writing operations down runs them: this is the first call.
        self.graph = make_fx(noted)(*(tensor.clone() for tensor in tensors))
        self.shapes, self.calls = [tensor.shape for tensor in tensors], 0
        Repeated.made.append(self)

    def __call__(self, *tensors: Tensor) -> Tensor:
        self.calls += 1
        if self.first is not None:
            result, self.first = self.first, None
            return result
        with torch.no_grad():
            return self.graph(*tensors)


@pytest.fixture
def repeated(recorded: list[Played], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Repeated]]:
    """Recordings on the CPU, as operations."""
    monkeypatch.setattr(Captured, "_record", lambda self, work, tensors: Repeated(work, tensors))
    Repeated.made.clear()
    yield Repeated.made

"""Captured steps as the operations that a CUDA graph repeats: no Python between them, every tensor where it was.

What a step reads of Python and what a test changes between calls shows: the recording knows nothing of it. So does a
tensor that a step puts in the place of another. A step that waits for the device cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from recorded import Played
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ddhub.training.capture import Captured


def _alias(x: Any) -> Any:
    """Another tensor of the same memory: an operation may give an own one another shape."""
    return x.detach() if isinstance(x, Tensor) else x


def _waits(operation: Any, args: Any) -> bool:
    """Whether a GPU is waited for: the host needs a value, or a shape that depends on values."""
    if operation in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):  # tagged for the sake of masks
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return any(tag in operation.tags for tag in (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))


class Repeated(TorchDispatchMode):
    """A recording: the operations of one call in order, with the memory that they read and wrote."""

    made: ClassVar[list[Repeated]] = []

    def __init__(self, work: Callable[..., Tensor | None], tensors: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any]] = []
        self.shapes, self.calls = [tensor.shape for tensor in tensors], 0
        self.tensors = [tensor.clone() for tensor in tensors]
        with self:  # writing operations down runs them: this is the first call
            self.result = work(*self.tensors)
        Repeated.made.append(self)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _waits(operation, args):
            raise RuntimeError(f"{operation} waits for the device")
        given = tree_map(_alias, (args, kwargs or {}))
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, given, tree_map(_alias, result)))
        return result

    def __call__(self, *tensors: Tensor) -> Tensor | None:
        self.calls += 1
        if self.calls > 1:
            for held, tensor in zip(self.tensors, tensors, strict=True):
                held.copy_(tensor)
            with torch.no_grad():
                self._repeat()
        return self.result

    def _repeat(self) -> None:
        for operation, given, result in self.operations:
            args, kwargs = tree_map(_alias, given)
            for held, new in zip(tree_leaves(result), tree_leaves(operation(*args, **kwargs)), strict=True):
                if isinstance(held, Tensor) and new.data_ptr() != held.data_ptr():  # neither a view nor in place
                    held.copy_(new)


@pytest.fixture
def repeated(recorded: list[Played], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Repeated]]:
    """Recordings on the CPU, as operations."""
    monkeypatch.setattr(Captured, "_record", lambda self, work, tensors: Repeated(work, tensors))
    Repeated.made.clear()
    yield Repeated.made

"""Captured steps: a step of static shapes, launched at once as a CUDA graph.

    step = Captured(work, device, "a student's step")
    loss = step(x, y)                 # work(x, y)

Small nets on small images are launch-bound: a step is hundreds of kernels of a few microseconds each. The first calls
run `work` itself, on a stream of their own; then one call is recorded, and from there on a call copies its arguments
into the recorded ones and launches the whole recording. There is one recording for each combination of shapes and of
`key`, so a last, smaller batch has its own.

Where nothing is recorded, calls run `work`: on other devices than CUDA, under the precision `exact`
(`ddhub.training.devices.computing`), within `eager`, and where recording fails, which is said once in the log.

What `work` has to keep to:

- tensors that it reads and writes beside its arguments stay where they are: they are changed in place;
- it depends on no number that changes between calls and is not an argument, `key` or such a tensor;
- it does not wait for the device, and draws no random numbers but those of the device's own generator.

What a call returns is overwritten by the next call.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MethodType
from typing import Any, Generic, TypeVar
from weakref import WeakMethod

import torch
from torch import Tensor

from ddhub.errors import first_line
from ddhub.training.devices import captures

log = logging.getLogger(__name__)

T = TypeVar("T")
_WARM_UP = 3  # calls before one is recorded: they choose kernels, and make the state that is then changed in place
_MOST = 24  # recordings of a step; each has memory of its own
_eager: ContextVar[bool] = ContextVar("eager", default=False)


@contextmanager
def eager() -> Iterator[None]:
    """Captured steps run kernel by kernel within, all else being as it is: what recordings are compared with."""
    token = _eager.set(True)
    try:
        yield
    finally:
        _eager.reset(token)


class Recording:
    """A CUDA graph of one call, its arguments and what it returned.

    Args:
        work: the step.
        tensors: arguments of the call; only their shapes and kinds matter.
        stream: where it is recorded.
    """

    def __init__(self, work: Callable[..., Any], tensors: tuple[Tensor, ...], stream: torch.cuda.Stream) -> None:
        self.tensors = [torch.empty_like(tensor) for tensor in tensors]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):  # where a recording fails, torch does not leave its stream
            try:
                with torch.cuda.graph(self.graph, stream=stream):
                    self.result = work(*self.tensors)
            except RuntimeError:
                _mend(stream)
                raise

    def __call__(self, *tensors: Tensor) -> Any:
        for held, tensor in zip(self.tensors, tensors, strict=True):
            held.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.result


def _mend(stream: torch.cuda.Stream) -> None:
    """Bring torch's random numbers back after a recording that failed.

    Up to torch 2.11 the generator of the device is left as one that is being recorded, and refuses every draw. A
    recording that succeeds ends that.
    """
    with suppress(RuntimeError):
        one, graph = torch.zeros((), device=stream.device), torch.cuda.CUDAGraph()
        graph.capture_begin()
        one.add_(1)
        graph.capture_end()


class Captured(Generic[T]):
    """A step that is recorded when it has been called a few times.

    Args:
        work: takes tensors, and under the name `key` what else tells one recording from another, if calls give it. The
            object of a method is not kept alive: it mostly has the step, and a circle would keep the memory of the
            recordings on the device until Python happens to collect it.
        device: where it computes.
        name: of the step, for the log.
        active: false never records it.
    """

    def __init__(self, work: Callable[..., T], device: torch.device, name: str, *, active: bool = True) -> None:
        self._work = WeakMethod(work) if isinstance(work, MethodType) else lambda: work
        self.device, self.name = device, name
        self.active = active and captures(device)
        self._calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, Callable[..., T]] = {}
        self._stream = torch.cuda.Stream(device) if self.active and device.type == "cuda" else None

    def __call__(self, *tensors: Tensor, key: Hashable = None) -> T:
        work = self._work()
        assert work is not None, f"{self.name} is called when the object that computes it is gone"
        work = work if key is None else _keyed(work, key)
        if not self.active or _eager.get():
            return work(*tensors)
        what = key, tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if what not in self._recordings:
            if not self._is_due(what):
                return self._aside(work, tensors)
            try:
                self._recordings[what] = self._record(work, tensors)
            except RuntimeError as error:
                self.active = False
                log.warning("%s cannot be captured (%s); it runs eagerly", self.name, first_line(error))
                return self._aside(work, tensors)
        return self._recordings[what](*tensors)

    def _is_due(self, what: Hashable) -> bool:
        """Whether this call is to be recorded; counts it otherwise."""
        if len(self._recordings) >= _MOST:
            return False
        self._calls[what] = self._calls.get(what, 0) + 1
        return self._calls[what] > _WARM_UP

    def _record(self, work: Callable[..., T], tensors: tuple[Tensor, ...]) -> Callable[..., T]:
        assert self._stream is not None
        return Recording(work, tensors, self._stream)

    def _aside(self, work: Callable[..., T], tensors: tuple[Tensor, ...]) -> T:
        """`work` on the stream of the recordings, behind and before all on the present one."""
        if self._stream is None:
            return work(*tensors)
        present = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # of optimizers that were made for a captured step: these are the ones before it
            warnings.filterwarnings("ignore", message=".*capturable=True.*")
            result = work(*tensors)
        present.wait_stream(self._stream)
        return result


def _keyed(work: Callable[..., T], key: Hashable) -> Callable[..., T]:
    return lambda *tensors: work(*tensors, key=key)

"""What tests on a CUDA device share: steady kernels, recordings that are noted, waits that are counted."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ddhub.training.devices import computing

Said = Callable[[str, float, float], None]  # what is compared, how far it is apart, and how far it may be
DEVICE = torch.device("cuda", 0)


@contextmanager
def steady(device: torch.device, precision: str) -> Iterator[None]:
    """`computing`, with deterministic kernels: nothing but the capture is left between eager and captured steps."""
    with computing(device, precision):
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        yield


@contextmanager
def debugging(mode: str) -> Iterator[None]:
    """Waits for the device are warned of (`warn`) or refused (`error`) within."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(work: Callable[[], object]) -> Counter[str]:
    """How often some work waits for the device, by file and line."""
    with debugging("warn"), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    return Counter(f"{one.filename}:{one.lineno}" for one in seen if "synchronizing CUDA" in str(one.message))


def apart(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference, as a share of the norm of what is wanted."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))

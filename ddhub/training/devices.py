"""Devices: where a net runs, in which precision and memory format, and how a run is seeded and described.

| precision | nets under autocast | float32, on a GPU | kernels, on a GPU |
|---|---|---|---|
| `bf16` | bfloat16, parameters float32 | TF32 in convolutions and matrix products | the fastest, steps captured |
| `fp32` | float32 | float32 | the fastest, steps captured |
| `exact` | float32 | float32 | deterministic, step by step: the same numbers every time |

Matching and trajectories do not use autocast: `bf16` is TF32 to them. On a CPU `exact` is `fp32` without compiled nets
(`ddhub.training.compiled`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from ddhub import __version__
from ddhub.errors import UsageError, first_line

PRECISIONS = ("auto", "bf16", "fp32", "exact")
_exact: ContextVar[bool] = ContextVar("exact", default=True)  # outside of `computing`


def resolve_device(device: str | torch.device) -> torch.device:
    """`auto` is a GPU where there is one, else the CPU.

    Raises:
        UsageError: a device that torch does not know or that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {str(device)!r} cannot be used: {first_line(error)}; try --device cpu") from None


def versions() -> str:
    """The versions a number depends on, for results and manifests."""
    return f"ddhub {__version__}, torch {torch.__version__}, python {platform.python_version()}"


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` is bf16 on a GPU that computes it natively, else fp32.

    On a CPU bf16 is the slower one for these nets even where it has instructions for it: 280 to 295 images/s in place
    of 660 to 775 (ResNet-18 of width 16, 32 px, training, two cores with AMX).

    Raises:
        UsageError: a precision other than auto, bf16, fp32 and exact.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; it must be auto, bf16, fp32 or exact")
    if precision != "auto":
        return precision
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Kernels and captured steps as a precision wants them (see the table above); as before afterwards."""
    token = _exact.set(precision == "exact")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    exact, tf32 = precision == "exact", precision == "bf16"
    try:
        if device.type == "cuda":
            cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = exact, not exact, tf32, tf32
        yield
    finally:
        _exact.reset(token)
        if device.type == "cuda":
            cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def captures(device: torch.device) -> bool:
    """Whether steps are captured here: on CUDA, within `computing`, but not for the precision `exact`."""
    return device.type == "cuda" and not _exact.get()


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seeded generators; the caller's own state comes back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """One thread of the CPU within, for many short operations: each ends when its last thread does, and others spin.

    Beside other busy processes two threads rendered 29 CIFAR images/s in 2.3 ms of CPU each, one thread 1,082 in 0.05
    (2 cores, median of 6 pairs).
    """
    threads = torch.get_num_threads()
    if threads == 1 or not wanted:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def layout(net: nn.Module, device: torch.device) -> torch.memory_format:
    """The faster memory format: channels_last, but for GroupNorm on a CPU (15 % slower there, measured)."""
    grouped = device.type == "cpu" and any(isinstance(module, nn.GroupNorm) for module in net.modules())
    return torch.contiguous_format if grouped else torch.channels_last


def placed(net: nn.Module, device: torch.device) -> nn.Module:
    return net.to(device=device, memory_format=layout(net, device))  # type: ignore[call-overload, no-any-return]


def describe(device: torch.device) -> str:
    """A device in words: the GPU's name, or the CPU's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, threads: {torch.get_num_threads()}"

"""The careful reader of tensors: what a safetensors file claims is compared with what is wanted before it is read.

    8 bytes   length of the header, little endian
    header    JSON: name -> {"dtype", "shape", "data_offsets": [begin, end]}
    the rest  the tensors' bytes, one after the other without a gap

ddhub writes no metadata into the header. The library safetensors (0.8) builds whatever a header lists, 1.3 million
empty tensors in 2 GB for one of 87 MB, and takes a name that stands twice and values that are not finite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ddhub.artifact.fields import DTYPE_BYTES
from ddhub.io.json import load

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
_HEADER = 2**18  # bytes


def describe(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """What a manifest says of tensors: name -> {"dtype", "shape"}. KeyError for a type that is none of `DTYPES`."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    return {key: {"dtype": names[tensor.dtype], "shape": [*tensor.shape]} for key, tensor in tensors.items()}


def sha256(tensor: Tensor) -> str:
    """The sha256 (hex) of a tensor's values, row by row, little endian."""
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def describe_net(build: Callable[[], nn.Module]) -> dict[str, dict[str, Any]]:
    """`describe` of the state of the net that `build` makes, without the memory that it would take."""
    with _Uninitialised(), torch.device("meta"):
        return describe(build().state_dict())


def read(data: bytes, want: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be exactly those of `want`, by name and in its order.

    Args:
        data: the content of the file.
        want: name -> {"dtype", "shape"}, as `describe` gives them.

    Raises:
        ValueError: other tensors, a header that does not fit them or has more than 256 kB, a hole between tensors, a
            value that is not finite.
    """
    body, spans = _spans(data, want)
    return {name: _tensor(name, body[spans[name]], want[name]) for name in want}


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is infinite or NaN."""
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


class _Uninitialised(TorchFunctionMode):
    """Initial values are not drawn: on tensors without memory that costs seconds, for what torch then imports."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _spans(data: bytes, want: Mapping[str, Mapping[str, Any]]) -> tuple[memoryview, dict[str, slice]]:
    """The bytes behind the header, and where in them each tensor begins and ends."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_HEADER, len(data) - 8):
        cause = f"a header of {length:,} bytes in a file of {len(data):,}; {_HEADER:,} are allowed"
        raise ValueError(f"cannot be read ({cause})")
    try:
        header, body = load(data[8 : 8 + length]), memoryview(data)[8 + length :]
    except ValueError as error:
        raise ValueError(f"cannot be read (its header: {error})") from None
    if not isinstance(header, dict):
        raise ValueError("cannot be read (its header is not a JSON object)")
    if header.keys() != want.keys():
        raise ValueError(f"holds other tensors than the manifest lists ({min(header.keys() ^ want.keys())!r})")
    for name, entry in header.items():
        span = entry.get("data_offsets") if isinstance(entry, dict) else None
        if {**want[name], "data_offsets": span} != entry or not _is_span(span):
            raise ValueError(f"{name!r} is not as the manifest says")
    at, spans = 0, {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        end = at + DTYPE_BYTES[want[name]["dtype"]] * math.prod(want[name]["shape"])
        if entry["data_offsets"] != [at, end]:
            raise ValueError(f"cannot be read ({name!r} is not at bytes {at} to {end})")
        spans[name] = slice(at, end)
        at = end
    if at != len(body):
        raise ValueError(f"cannot be read ({len(body):,} bytes of tensors, not {at:,})")
    return body, spans


def _is_span(value: object) -> bool:
    return isinstance(value, list) and [type(x) for x in value] == [int, int]


def _tensor(name: str, data: memoryview, entry: Mapping[str, Any]) -> Tensor:
    dtype = DTYPES[entry["dtype"]]
    # bytes of 2 and more would be bools that are neither true nor false
    kind = torch.uint8 if dtype is torch.bool else dtype
    tensor = torch.frombuffer(bytearray(data), dtype=kind).reshape(entry["shape"])
    if not is_finite(tensor):
        raise ValueError(f"{name!r} holds a value that is not finite")
    if dtype is torch.bool and tensor.max() > 1:
        raise ValueError(f"{name!r} holds a value that is neither true nor false")
    return tensor.to(dtype)

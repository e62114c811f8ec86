"""A pretend GPU: the torch device `pretend:0`, whose tensors lie in ordinary memory.

    from pretend.device import DEVICE, waits      # registers the device for the rest of the process
    net.to(DEVICE)(x.to(DEVICE)).sum().item()
    waits                                         # [Wait("copy to the device", ...), ..., Wait("item", ...)]

It refuses what a GPU refuses: tensors of two devices in one operation, but for numbers (no dimensions) of the host.
And it notes whatever would make the host wait for a GPU, with the place of the project's code that it came from:

    a value is read             item, float, bool, a comparison of whole tensors, tolist, format, saving
    a shape depends on values   nonzero, a mask as index, unique, bincount, repeat_interleave without a size
    copies                      to the host, and to the device unless `non_blocking`; lists and indices of the host too

It stands on torch's experimental Python backend (2.9 and later): a tensor of the device wraps one of the host, and an
operation unwraps, computes and wraps. It has one stream, no memory of its own, no speed, and no `torch.func.vmap`,
which ends the process. Draws come from the host's generator, so that results are those of the CPU.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

_ROOT = Path(__file__).resolve().parents[2]
_INSIDE = tuple(f"{_ROOT / name}/" for name in ("ddhub", "recipes"))
_HOST = torch.device("cpu")
# A mask as index of an assignment is a fill where the value is a number; else its places are looked up.
_PUTS = ("aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_INDEXED = ("aten::index", *_PUTS)
_COPIES = ("aten::copy_", "aten::_to_copy")
_MAIN = threading.main_thread().ident


class Wait(NamedTuple):
    """One wait: what for, and where in the project: file and function, and the line."""

    what: str
    place: str
    line: int


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


waits: list[Wait] = []
_setup_privateuseone_for_python_backend("pretend", backend_module=_Module())
DEVICE = torch.device("pretend:0")


def note(what: str) -> None:
    """Note a wait, at the innermost frame of the project."""
    frame: FrameType | None = sys._getframe(1)
    inner = _project(frame)
    if inner is None:  # a thread of autograd, while the main thread is in `backward`
        inner = _project(sys._current_frames().get(_MAIN or 0))
    if inner is None:
        waits.append(Wait(what, "outside", 0))
        return
    code = inner.f_code
    file = Path(code.co_filename).relative_to(_ROOT).as_posix()
    waits.append(Wait(what, f"{file} {code.co_qualname.replace('.<locals>', '')}", inner.f_lineno))


def _project(frame: FrameType | None) -> FrameType | None:
    while frame is not None and not frame.f_code.co_filename.startswith(_INSIDE):
        frame = frame.f_back
    return frame


class Far(Tensor):
    """A tensor of the device; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Far:
        far: Far = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        far.held = held
        return far

    def __init__(self, held: Tensor) -> None: ...

    def __repr__(self, **_: Any) -> str:
        note("repr")
        return f"Far({self.detach().held!r})"

    def __format__(self, words: str) -> str:
        return format(self.detach().cpu(), words)

    def __reduce_ex__(self, protocol: Any) -> Any:  # saved as a tensor of the host
        return self.detach().cpu().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        note("tolist")
        return self.detach().held.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of pretend:0 to numpy; use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(op, args, kwargs or {})


def _computed(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives, after the checks and notes."""
    name, far, near = op._schema.name, [], []

    def unwrapped(x: Any) -> Any:
        if isinstance(x, Far):
            far.append(x)
            return x.held
        if isinstance(x, Tensor):
            near.append(x)
        elif isinstance(x, (list, tuple)):
            return type(x)(map(unwrapped, x))
        elif isinstance(x, torch.device):
            return _HOST
        return x

    own_args = tuple(map(unwrapped, args))
    own_kwargs = {key: unwrapped(x) for key, x in kwargs.items()}
    asked = kwargs.get("device")
    there = bool(far) if asked is None else torch.device(asked).type == DEVICE.type
    if name in _COPIES:
        _note_copy(name, args, kwargs, bool(near) or not there)
    else:
        _check(op, name, args, far, near)
    out = op(*own_args, **own_kwargs)
    if name == "aten::copy_" or not there:
        return args[0] if name == "aten::copy_" else out
    if torch.Tag.inplace_view in op.tags:
        _reshape(op, args, kwargs)
    known = {id(x.held): x for x in far}  # what is changed in place comes back as the wrapper that it has

    def wrapped(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(map(wrapped, x))
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else Far(x)

    return wrapped(out)


def _reshape(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Give a wrapper the new shape of what it holds, by the same operation on its own shape and strides alone."""
    before = torch._C._meta_in_tls_dispatch_include()
    torch._C._set_meta_in_tls_dispatch_include(True)
    try:
        with torch._C._DisableTorchDispatch():
            op(*args, **kwargs)
    finally:
        torch._C._set_meta_in_tls_dispatch_include(before)


def _note_copy(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], across: bool) -> None:
    blocking = not (kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2]))
    if across and blocking:
        note("copy to the device" if name == "aten::copy_" and isinstance(args[0], Far) else "copy to the host")


def _check(op: Any, name: str, args: tuple[Any, ...], far: list[Far], near: list[Tensor]) -> None:
    """Refuse what is on two devices, note what would be waited for."""
    if name in _INDEXED:
        _check_index(name, args)
    elif far and any(x.dim() for x in near):
        raise RuntimeError(f"{name}: expected all tensors on one device, found {DEVICE} and {_HOST}")
    elif far and near and name == "aten::where":
        note("copy to the device")  # the other operations take a number of the host as an argument
    depends = torch.Tag.data_dependent_output in op.tags or torch.Tag.dynamic_output_shape in op.tags
    if depends and far and name not in _INDEXED:
        note({"aten::_local_scalar_dense": "item"}.get(name, name.removeprefix("aten::")))


def _check_index(name: str, args: tuple[Any, ...]) -> None:
    given = [x for x in args[1] if x is not None]
    values = [x for x in args[2:3] if isinstance(x, Tensor)]
    if not isinstance(args[0], Far):
        raise RuntimeError(f"{name}: indices should be on the host, as the indexed tensor is; found {DEVICE}")
    if any(x.dim() and not isinstance(x, Far) for x in values):
        raise RuntimeError(f"{name}: expected all tensors on one device, found {DEVICE} and {_HOST}")
    if not all(isinstance(x, Far) for x in given):
        note("copy to the device")  # of the indices
    masks = any(x.dtype in (torch.bool, torch.uint8) for x in given)
    if masks and not (values and values[0].numel() == 1):
        note("a mask as index")


def _made(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that makes a tensor of what Python holds, on the host and then copied: torch's own skips a backend."""

    def made(data: Any, *, dtype: torch.dtype | None = None, device: Any = None, **rest: Any) -> Tensor:
        if device is None or isinstance(data, Far):
            return make(data, dtype=dtype, **({} if device is None else {"device": device}), **rest)
        return make(data, dtype=dtype, **rest).to(device)

    return made


def _new_tensor(self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, **rest: Any) -> Tensor:
    return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, **rest)


torch.tensor, torch.as_tensor = _made(torch.tensor), _made(torch.as_tensor)
Tensor.new_tensor = _new_tensor  # type: ignore[method-assign, assignment]
_library = torch.library.Library("_", "IMPL", "PrivateUse1")
_library.fallback(lambda op, *args, **kwargs: _computed(op, args, kwargs))

"""The pretend GPU itself: what it notes and what it refuses, each with what is expected of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub.data.decode import Identity
from ddhub.data.geometry import windows
from ddhub.training.devices import placed
from pretend.device import DEVICE, waits

TO_DEVICE, TO_HOST = "copy to the device", "copy to the host"
HERE = torch.arange(6.0).view(2, 3)
FAR = HERE.to(DEVICE)
MASK, ROWS = FAR > 2, torch.ones(1, dtype=torch.long, device=DEVICE)


class Check(NamedTuple):
    """The reasons of the waits that were noted, or the error, and those that were expected; and the places."""

    found: list[str]
    expected: list[str]
    places: list[str]

    def record(self) -> dict[str, Any]:
        return self._asdict()


def noted(expected: list[str], work: Callable[[], Any]) -> Check:
    waits.clear()
    try:
        work()
    except (RuntimeError, TypeError) as error:
        return Check([f"{type(error).__name__}: {error}"], expected, [])
    return Check([one.what for one in waits], expected, [one.place for one in waits])


def fill() -> None:
    x = FAR.clone()
    x[MASK] = 0.0
    x[0] = 1.0
    assert x.held.tolist() == [[1, 1, 1], [0, 0, 0]]


def reshape() -> None:
    x = torch.zeros(2, 3, device=DEVICE)
    assert x.unsqueeze_(-1).shape == (2, 3, 1) and x.stride() == (3, 1, 1)


def step() -> None:
    """A step of a student: forward, backward in autograd's thread, optimizer."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).to(DEVICE)
    waits.clear()
    optimizer = torch.optim.AdamW(net.parameters())
    F.cross_entropy(net(FAR), ROWS.expand(2)).backward()
    optimizer.step()
    torch.where(FAR > 1, FAR, 1.0) + torch.tensor(2.0)


def doubly() -> None:
    """A second derivative, as of gradient matching."""
    x = FAR.clone().view(1, 2, 1, 3).requires_grad_()
    (slope,) = torch.autograd.grad(F.group_norm(x, 2).square().mul(x).sum(), x, create_graph=True)
    torch.autograd.grad(slope.square().sum(), x)


def read_in_backward() -> None:
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * float(grads[0].sum())

    Reads.apply(FAR.clone().requires_grad_()).sum().backward()


MIXED = "RuntimeError: aten::add: expected all tensors on one device, found pretend:0 and cpu"
ON_HOST = "RuntimeError: aten::index: indices should be on the host, as the indexed tensor is; found pretend:0"
NO_NUMPY = "TypeError: can't convert a tensor of pretend:0 to numpy; use Tensor.cpu() first"
CASES_OF: dict[str, tuple[list[str], Callable[[], Any]]] = {
    "item": (["item"], lambda: FAR.sum().item()),
    "float, bool, int": (["item"] * 3, lambda: (float(FAR[0, 0]), bool(MASK.any()), int(FAR.sum()))),
    "format": ([TO_HOST, "item"], lambda: (f"{FAR.sum():.3f}", "%.3f" % FAR.sum())),  # noqa: UP031
    "tolist, repr": (["tolist", "repr"], lambda: (FAR.tolist(), repr(FAR))),
    "equal, allclose": (["equal", "allclose"], lambda: (torch.equal(FAR, FAR), torch.allclose(FAR, FAR))),
    "a mask as index": (["a mask as index"] * 2, lambda: (FAR[MASK], FAR.clone().index_put_((MASK,), FAR[0]))),
    "a mask that is filled": ([], fill),
    "a number as index": (["item"], lambda: FAR[ROWS[0]]),
    "indices of the host": ([TO_DEVICE], lambda: FAR[torch.tensor([1, 0])]),
    "nonzero": (["nonzero"], lambda: MASK.nonzero()),
    "unique": (["_unique2"], lambda: FAR.unique()),
    "bincount": (["bincount"], lambda: torch.bincount(ROWS)),
    "masked_select": (["masked_select"], lambda: FAR.masked_select(MASK)),
    "repeat_interleave": (["repeat_interleave"], lambda: FAR.repeat_interleave(ROWS.expand(2), 0)),
    "repeated to a size": ([], lambda: FAR.repeat_interleave(2, 0)),
    "to the host": ([TO_HOST] * 3, lambda: (FAR.cpu(), FAR.to("cpu"), HERE.clone().copy_(FAR))),
    "to the device": ([TO_DEVICE] * 2, lambda: (HERE.to(DEVICE), FAR.clone().copy_(HERE))),
    "to the device, not blocking": ([], lambda: (HERE.to(DEVICE, non_blocking=True), FAR.clone().copy_(HERE, True))),
    "lists": ([TO_DEVICE] * 3, lambda: (
        torch.tensor([1, 2], device=DEVICE), torch.as_tensor([1], device=DEVICE), FAR.new_tensor([1.0]))),
    "made there": ([], lambda: (torch.zeros(2, device=DEVICE), torch.arange(3, device=DEVICE), FAR.new_zeros(2))),
    "another kind there": ([], lambda: (FAR.half(), FAR.to(DEVICE), FAR.to(memory_format=torch.contiguous_format))),
    "one-hot": ([], lambda: F.one_hot(ROWS, 3)),
    "saved": ([TO_HOST], lambda: torch.save({"x": FAR}, io.BytesIO())),
    "a step": ([], step),
    "a second derivative": ([], doubly),
    "read in backward": (["item"], read_in_backward),
    "reshaped in place": ([], reshape),
    "mixed": ([MIXED], lambda: FAR + HERE),
    "indices of the device": ([ON_HOST], lambda: HERE[ROWS]),
    "numpy": ([NO_NUMPY], lambda: FAR.numpy()),
    "a place": ([TO_DEVICE] * 2, lambda: placed(nn.Linear(2, 2), DEVICE)),
    "windows": ([], lambda: windows(torch.rand(2, 22, device=DEVICE), (8, 8), 0.5)),
    "a range of pixels": ([TO_DEVICE], lambda: Identity(FAR.view(2, 1, 1, 3), [(0.5, 1)])(ROWS)),
}  # fmt: skip
CASES: dict[str, Callable[[], Check]] = {name: partial(noted, *rest) for name, rest in CASES_OF.items()}

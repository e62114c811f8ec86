"""Ranks: one program in many processes, started by torchrun.

    torchrun --nproc-per-node 2 -m ddhub.cli train cifar10-infer-ipc10 --seeds 4

    with ranks.group():
        mine = [work(seed) for seed in ranks.share(seeds)]      # rank 0 of 2: seeds 0, 2; rank 1: 1, 3
        results = ranks.gather(mine)                            # on every rank, in the order of seeds
        if ranks.rank() == 0:
            print(results)

A rank is a process, the world is how many there are; both come from the environment that torchrun sets. The process
group is made when ranks first have something to tell each other. In a world of one, every function here returns at
once, and no group is made.

A rank that raises leaves with its error, torchrun ends the others, and what each of them saved is there for the next
start. A rank that waits for one that is gone notices by the closed connection, not by a time limit: units of work may
take days. Importing this module does not import torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ddhub.errors import TrainingError, UsageError, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # that one rank may be busy while the others wait


def rank() -> int:
    """The number of this process among its world, from 0; rank 0 alone prints and writes what all have made."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def world() -> int:
    """How many processes run this program together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def device(wanted: str) -> str:
    """`cuda:LOCAL_RANK` for `auto` on a machine with GPUs and many ranks, else what was wanted.

    Raises:
        UsageError: more ranks than GPUs on this machine.
    """
    if wanted != "auto" or world() == 1:
        return wanted
    import torch

    count, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if count == 0:
        return "cpu"
    if local >= count:
        raise UsageError(
            f"rank {rank()} has no GPU of its own, this machine has {count}; use --nproc-per-node {count}, "
            "or --device cuda:0 for all ranks on one"
        )
    return f"cuda:{local}"


def share(items: Sequence[T]) -> list[T]:
    """This rank's share of items that every rank has in the same order: every world-th, from its rank-th on."""
    return list(items[rank() :: world()])


def gather(items: Sequence[T]) -> list[T]:
    """What the ranks made of their shares, on every rank, in the order that `share` took them from.

    Raises:
        TrainingError: another rank is gone.
    """
    shares = gather_all(list(items))
    return [shares[number % world()][number // world()] for number in range(sum(map(len, shares)))]


def gather_all(item: T) -> list[T]:
    """The item of every rank (anything that pickles), by rank, on every rank.

    Raises:
        TrainingError: another rank is gone.
    """
    if world() == 1:
        return [item]
    import torch.distributed as dist

    items: list[Any] = [None] * world()
    with _meeting():
        dist.all_gather_object(items, item)
    return items


def barrier() -> None:
    """Wait until every rank is here.

    Raises:
        TrainingError: another rank is gone.
    """
    gather_all(None)


def wire(device: torch.device) -> torch.device:
    """What `broadcast` sends over: the ranks' GPUs (nccl) if every rank computes on its own, else the CPU (gloo).

    Raises:
        TrainingError: another rank is gone.
    """
    import torch

    is_local = str(device) == f"cuda:{os.environ.get('LOCAL_RANK')}"
    return device if all(gather_all(is_local)) else torch.device("cpu")


def broadcast(tensors: dict[str, Tensor] | None, source: int, over: torch.device) -> dict[str, Tensor]:
    """The CPU tensors of rank `source`, on every rank.

    Args:
        tensors: of the source; what the other ranks pass does not matter.
        source: the rank that has them.
        over: the device that the bytes pass through, from `wire`.

    Raises:
        TrainingError: another rank is gone.
    """
    if world() == 1:
        assert tensors is not None
        return tensors
    import torch
    import torch.distributed as dist

    mine = tensors if rank() == source and tensors is not None else {}
    with _meeting():
        head: list[Any] = [[(name, value.shape, value.dtype) for name, value in mine.items()]]
        dist.broadcast_object_list(head, source, device=torch.device("cpu"))
        received = {}
        for name, shape, kind in head[0]:
            value = mine[name].contiguous() if name in mine else torch.empty(shape, dtype=kind, device="cpu")
            if value.numel():
                raw = value.view(-1).view(torch.uint8)  # as bytes, since nccl does not know every dtype
                sent = raw.to(over)
                dist.broadcast(sent, source)
                if sent is not raw:
                    raw.copy_(sent)
            received[name] = value
    return received


@contextmanager
def group() -> Iterator[None]:
    """End together: on success every rank waits for the others; the process group, if one was made, is destroyed."""
    if world() == 1:
        yield
        return
    import torch.distributed as dist

    try:
        yield
        barrier()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End the program with this exit code; a rank at once, without tearing the interpreter down.

    A finished rank was once seen to abort ("terminate called without an active exception"), and torchrun took it for a
    dead one. The likely cause, not proved: a thread that wants Python's lock while the interpreter is torn down.
    """
    if world() == 1:
        sys.exit(code)
    import logging  # here because it takes a twentieth of the time of `ddhub list`

    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def _meeting() -> Iterator[None]:
    """Around what all ranks do together: makes the process group the first time, and says when a rank is gone."""
    import torch.distributed as dist

    try:
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if dist.is_nccl_available() else "gloo"  # nccl starts when first used
            dist.init_process_group(backend, timeout=_PATIENCE)
        yield
    except RuntimeError as error:
        cause = first_line(error).partition(". ")[0]
        raise TrainingError(
            f"rank {rank()} lost touch with another rank, whose own error says why ({cause}); "
            "start again, finished work is kept"
        ) from None

"""Stages: what a function returned, computed once, kept in a file of the work folder, and shared by the ranks.

A unit is one computation: its name, its file and the function; the units of one call do not depend on one another.
With many ranks (`ddhub.training.ranks`) each unit belongs to one of them: to the first that has its file, and they take
turns for the others. A rank computes and saves its own units one after the other; then each is handed to all. So
whatever was finished before a rank died is there for the next start, also for one with another number of ranks.

The file is safetensors; its metadata are the facts: `seconds` and `peak_bytes` of the computation.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddhub.errors import UsageError
from ddhub.training import ranks

log = logging.getLogger(__name__)


class Unit(NamedTuple):
    """One computation: what it is called, the file that holds its result, and the function that computes it."""

    name: str
    path: Path
    fn: Callable[[], dict[str, Tensor]]


class Result(NamedTuple):
    """What a unit came to: CPU tensors, and the facts of their computation."""

    tensors: dict[str, Tensor]
    record: dict[str, str]


def results(units: Sequence[Unit], device: torch.device, machine: Mapping[str, str]) -> list[Result]:
    """The results of the units, in order, on every rank: out of their files, or computed by the ranks they belong to.

    Args:
        units: the computations.
        device: where they compute.
        machine: device, precision and versions of this process, which become facts of what it computes.

    Raises:
        TrainingError: another rank is gone.
    """
    if ranks.world() == 1:
        return [_result(unit, device, machine) for unit in units]
    have = ranks.gather_all({unit.path.name for unit in units if unit.path.exists()})
    owners = assign([unit.path.name for unit in units], have)
    mine = {unit.path.name: _result(unit, device, machine) for unit in units if owners[unit.path.name] == ranks.rank()}
    records: dict[str, dict[str, str]] = {}
    for part in ranks.gather_all({name: result.record for name, result in mine.items()}):
        records |= part
    wire = ranks.wire(device)
    gathered = []
    for unit in units:
        key, owner = unit.path.name, owners[unit.path.name]
        tensors = ranks.broadcast(mine[key].tensors if key in mine else None, owner, wire)
        if key not in mine and ranks.rank() == 0:
            log.info("stage %s: %s s, by rank %d", unit.name, records[key]["seconds"], owner)
        gathered.append(Result(tensors, records[key]))
    return gathered


def assign(names: Sequence[str], have: Sequence[set[str]]) -> dict[str, int]:
    """The rank that each file belongs to: the first that has it; the files that nobody has, in turn.

    >>> assign(["a", "b", "c", "d"], [set(), {"b"}])
    {'a': 0, 'b': 1, 'c': 1, 'd': 0}
    """
    turn = count()
    owners = {}
    for name in dict.fromkeys(names):
        holders = [rank for rank, files in enumerate(have) if name in files]
        owners[name] = holders[0] if holders else next(turn) % len(have)
    return owners


def make_folder(work: Path) -> None:
    """Make the work folder. Raises UsageError."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{work} cannot be made ({error.strerror}); choose another OUT or --work") from None


def _result(unit: Unit, device: torch.device, machine: Mapping[str, str]) -> Result:
    """Read the unit's file; without one, compute the unit and save it whole."""
    if unit.path.exists():
        log.info("stage %s: found in %s", unit.name, unit.path.name)
        with safe_open(unit.path, "pt") as file:
            return Result({key: file.get_tensor(key) for key in file.keys()}, file.metadata())  # noqa: SIM118
    log.info("stage %s: starting", unit.name)
    make_folder(unit.path.parent)
    begin = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    tensors = {key: value.detach().cpu().contiguous() for key, value in unit.fn().items()}
    record = {"seconds": f"{time.perf_counter() - begin:.1f}", "peak_bytes": str(_peak(device)), **machine}
    part = unit.path.with_name(f"{unit.path.name}.{ranks.rank()}-{os.getpid()}.part")
    save_file(tensors, part, metadata=record)
    os.replace(part, unit.path)
    log.info("stage %s: %s s", unit.name, record["seconds"])
    return Result(tensors, record)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

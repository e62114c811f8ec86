"""The parameters of many training runs after every epoch, as one file that is read as a memory map.

    NAME.npy      float32 [experts, epochs + 1, P], of its full size from the beginning
    NAME.json     what it is: the settings; when it is complete also the sha256 of each expert, and seconds
    NAME.epochs   until then: int64 [experts, 2], how many checkpoints of each are there, and the milliseconds they took

A checkpoint is written before it is counted, with plain writes: on a full disk those raise, where a map kills the
process. Ranks share the file and write different experts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddhub.errors import ArtifactError, UsageError, first_line
from ddhub.io.files import replace_file
from recipes.run.stages import make_folder

log = logging.getLogger(__name__)


class Checkpoints:
    """A file of trajectories.

    Args:
        path: its name, ending in `.npy`.
        shape: (experts, epochs + 1, P).
        facts: what it holds is a function of these.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], record: dict[str, Any]) -> None:
        self.path, self.shape = path, shape
        self.record = json.loads(json.dumps({**record, "shape": shape}))
        self._json, self._epochs = path.with_suffix(".json"), path.with_suffix(".epochs")

    def prepare(self) -> None:
        """Make an empty file, unless there is one, and say how large it is.

        Raises:
            UsageError: no room, or no place to write it.
            ArtifactError: one that is of something else, or not of its size.
        """
        if self._json.exists():
            self._read()
            self._map()
            return
        size, (experts, snapshots, count) = 4 * math.prod(self.shape), self.shape
        make_folder(self.path.parent)
        free = shutil.disk_usage(self.path.parent).free
        log.info(
            "trajectories: %d experts, %d checkpoints each of %s parameters: %.1f MB of %.1f MB free, in %s",
            experts, snapshots, f"{count:,}", size / 1e6, free / 1e6, self.path,
        )  # fmt: skip
        if size > free:
            raise UsageError(
                f"trajectories of {size / 1e6:,.1f} MB do not fit on the disk of {self.path.parent}, which has "
                f"{free / 1e6:,.1f} MB free; choose another --work, or fewer experts or epochs"
            )
        with _writing(self.path):
            np.lib.format.open_memmap(self.path, "w+", np.float32, self.shape).flush()
            np.zeros((experts, 2), np.int64).tofile(self._epochs)
            replace_file(self._json, json.dumps(self.record).encode())  # last: from now on the file counts

    def complete(self) -> bool:
        """Whether all checkpoints are there. Raises ArtifactError."""
        return "sha256" in self._read()

    def epochs(self) -> list[int]:
        """How many checkpoints of each expert are there. Raises ArtifactError."""
        return [count for count, _ in self._counted()]

    def read(self, expert: int, number: int) -> Tensor:
        """A checkpoint [P]."""
        return torch.from_numpy(self._map()[expert, number].copy())

    def write(self, experts: Sequence[int], number: int, w: Tensor, seconds: float = 0.0) -> None:
        """Put checkpoints [k, P] of some experts in their places, and count them and the seconds that they took.

        Raises:
            UsageError: no room.
            ArtifactError: counts that are damaged.
        """
        taken = [took for _, took in self._counted()]
        with _writing(self.path), open(self.path, "r+b") as file, open(self._epochs, "r+b") as epochs:
            begin = self._map().offset
            for expert, row in zip(experts, w.detach().cpu().numpy(), strict=True):
                file.seek(begin + 4 * self.shape[2] * (expert * self.shape[1] + number))
                file.write(row.tobytes())
            file.flush()
            os.fsync(file.fileno())
            for expert in experts:
                epochs.seek(16 * expert)
                took = taken[expert] + round(1000 * seconds / len(experts))
                epochs.write(np.array([number + 1, took], np.int64).tobytes())

    def digest(self, expert: int) -> str:
        """The sha256 of an expert's numbers, which were all written. Raises ArtifactError."""
        rows = self._map()[expert]
        bad = next((number for number, row in enumerate(rows) if not np.isfinite(row).all()), None)
        if bad is not None:
            raise self._broken(f"has numbers that are not finite, in checkpoint {bad} of expert {expert}")
        return hashlib.sha256(rows.reshape(-1).view(np.uint8)).hexdigest()

    def finish(self, digests: Sequence[str]) -> None:
        """Say that all checkpoints are there. Raises UsageError."""
        with _writing(self._json):
            seconds = sum(took for _, took in self._counted()) / 1000
            record = {**self.record, "sha256": list(digests), "seconds": round(seconds, 1)}
            replace_file(self._json, json.dumps(record).encode())
            self._epochs.unlink()

    def opened(self) -> Tensor:
        """All of it, float32 [experts, epochs + 1, P]: a memory map. Writing to it does not reach the file.

        Raises:
            ArtifactError: a file that is missing, unfinished, cut short, of something else, or not as it was made.
        """
        record, table = self._read(), self._map()
        if "sha256" not in record:
            whole = sum(count == self.shape[1] for count in self.epochs())
            raise ArtifactError(
                f"{self.path} is not finished, {whole} of {self.shape[0]} experts are; the same command goes on with it"
            )
        for expert, digest in enumerate(record["sha256"]):
            if self.digest(expert) != digest:
                raise self._broken(f"is not as it was made: expert {expert} has changed")
        return torch.from_numpy(table)

    def _counted(self) -> list[tuple[int, int]]:
        """Of each expert how many checkpoints are there, and the milliseconds that they took. Raises ArtifactError."""
        try:
            saved = np.fromfile(self._epochs, np.int64)
        except OSError as error:
            raise self._broken(f"lacks {self._epochs.name} ({error.strerror})") from None
        counts, taken = saved[::2].tolist(), saved[1::2].tolist()
        if len(saved) != 2 * self.shape[0] or not all(0 <= count <= self.shape[1] for count in counts):
            raise self._broken(f"has a damaged {self._epochs.name}")
        return list(zip(counts, taken, strict=True))

    def _read(self) -> dict[str, Any]:
        """What NAME.json says, which must be of the same facts. Raises ArtifactError."""
        try:
            record = json.loads(self._json.read_bytes())
            other = [key for key, value in self.record.items() if record[key] != value]
            if "sha256" in record and list(map(type, record["sha256"])) != [str] * self.shape[0]:
                raise ValueError("sha256")
        except FileNotFoundError:
            raise ArtifactError(
                f"there are no trajectories {self.path}: {self._json.name} is missing; train them"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._broken(f"has a damaged {self._json.name} ({first_line(error)})") from None
        if other:
            raise self._broken(
                f"is of other trajectories ({other[0]}: {record[other[0]]}, not {self.record[other[0]]})"
            )
        return record

    def _map(self) -> np.memmap[Any, np.dtype[np.float32]]:
        """The file, in memory as far as it is read. Raises ArtifactError."""
        try:
            table = np.load(self.path, mmap_mode="c")
        except FileNotFoundError:
            raise self._broken("is not there, but its description is") from None
        except (OSError, ValueError, EOFError) as error:
            raise self._broken(f"cannot be read ({first_line(error)})") from None
        if table.shape != self.shape or table.dtype != np.float32 or not table.flags.c_contiguous:
            raise self._broken(f"is a table of {table.dtype} {list(table.shape)}, not of float32 {list(self.shape)}")
        return table

    def _broken(self, fault: str) -> ArtifactError:
        return ArtifactError(
            f"{self.path} {fault}; put the file back, or delete {self._json.name} to have it made again"
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """UsageError for what cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror or first_line(error)}); make room, or choose another --work"
        ) from None

"""A data set as Python and torch expect one: by index, by slice, one item after the other, and shown in a notebook.

data[0], data[-1], data[:8], list(data)         # (image, target), or a list of them
torch.utils.data.DataLoader(data, 64)           # many items in one decode
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from operator import index
from pathlib import Path
from typing import Any, overload

from torch import Tensor
from torch.utils.data import Dataset

from ddhub.artifact.manifest import PREVIEW, read_bytes
from ddhub.errors import ArtifactError, UsageError, shown

_TOGETHER = 256  # items of a decode


class Items(Dataset[tuple[Tensor, Any]]):
    """Items by number. Who inherits says how many there are, and gives those of some numbers: `__getitems__`."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, Any]]:
        """The items of some numbers in one decode: what `DataLoader` calls for a batch."""
        raise NotImplementedError

    @overload
    def __getitem__(self, row: int) -> tuple[Tensor, Any]: ...
    @overload
    def __getitem__(self, row: slice) -> list[tuple[Tensor, Any]]: ...
    def __getitem__(self, row: int | slice) -> tuple[Tensor, Any] | list[tuple[Tensor, Any]]:
        """An item, counted from the end if negative, or a list of those of a slice.

        Raises:
            IndexError: beyond the last.
            UsageError: what is neither a whole number nor a slice of such.
        """
        try:
            if isinstance(row, slice):
                return list(self._several(range(len(self))[row]))
            number = index(row)
        except (TypeError, ValueError):
            raise UsageError(
                f"item {shown(row)}: items have whole numbers, 0 to {len(self) - 1}; or give a slice"
            ) from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"item {shown(number)} of {len(self)}")
        return self.__getitems__([number % len(self)])[0]

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        return self._several(range(len(self)))

    def _several(self, rows: Sequence[int]) -> Iterator[tuple[Tensor, Any]]:
        for first in range(0, len(rows), _TOGETHER):
            yield from self.__getitems__(rows[first : first + _TOGETHER])


def page(text: str, folder: Path | None) -> str:
    """HTML of a text, and of the preview of the artifact in a folder if there is one."""
    try:
        data = base64.b64encode(read_bytes(folder / PREVIEW)).decode() if folder else ""
    except ArtifactError:
        data = ""
    picture = f'<img alt="stored images" style="max-width: 100%" src="data:image/png;base64,{data}">' if data else ""
    return f"<pre>{html.escape(text)}</pre>{picture}"

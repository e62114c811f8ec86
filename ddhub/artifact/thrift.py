"""Thrift's compact form, in which the headers of parquet files are written: a struct becomes {field number: value}.

    Thrift(b"\\x15\\x04\\x00").struct()          # {1: 2}

pyarrow reads these headers too, and ends the process for a forged one. This is the first thing that is read of a file
that anyone may have made: a value takes no more than some ten times its bytes of memory, and all that can go wrong is
a ValueError.
"""

from __future__ import annotations

import struct
from typing import Any

_DEPTH = 12  # of structs and lists in one another


class Thrift:
    """A reader of `data` that begins at byte `at`, and moves on.

    Raises:
        ValueError: bytes that are not a value, or an end too early.
    """

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self.data, self.at = memoryview(data), at

    def struct(self, depth: int = _DEPTH) -> dict[int, Any]:
        """Integers, texts (bytes), numbers, truth values, lists and structs by their field's number."""
        values: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._integer()
            if field in values:
                raise ValueError(f"field {field} twice")
            values[field] = head & 15 == 1 if head & 15 in (1, 2) else self._value(head & 15, depth - 1)
        return values

    def varint(self) -> int:
        """Seven bits a byte, the lowest first; at most 64 bits."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("an integer without end")

    def _value(self, kind: int, depth: int) -> Any:
        if depth < 0:
            raise ValueError(f"nested more than {_DEPTH} deep")
        if kind in (1, 2, 3):  # in a list a truth value is a byte
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return struct.unpack("<d", self.take(8))[0]
        if kind == 8:
            return bytes(self.take(self.varint()))
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self.varint()
            if count > len(self.data) - self.at:
                raise ValueError("a list longer than the file")
            return [self._value(head & 15, depth - 1) for _ in range(count)]
        if kind == 12:
            return self.struct(depth)
        raise ValueError(f"a value of kind {kind}")

    def _integer(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def _byte(self) -> int:
        return self.take(1)[0]

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise ValueError("an end too early")
        self.at += count
        return part

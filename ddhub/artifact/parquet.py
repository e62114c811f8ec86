"""The careful reader of parquet: only what ddhub writes, and not a byte of memory for what a file merely claims.

    PAR1, pages of column chunks, metadata, 4 bytes with the metadata's length, PAR1

ddhub writes two columns, `image` {bytes, path} and `label` int64, in groups of rows, without compression, without
dictionaries, in data pages of version 1. Other parquet files are refused: a few bytes of them could stand for
gigabytes. pyarrow cannot be asked what a forged file holds: version 26 ends the process for an unknown compression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from ddhub.artifact.thrift import Thrift

_MAGIC = b"PAR1"
_END = 2**20  # bytes of metadata: a thousand groups of rows, and the names of the classes twice
# (physical type, repetition, name, children) of the schema's elements below its root
_BYTES, _INT64, _OPTIONAL = 6, 2, 1
_SCHEMA = [
    (None, _OPTIONAL, b"image", 2),
    (_BYTES, _OPTIONAL, b"bytes", None),
    (_BYTES, _OPTIONAL, b"path", None),
    (_INT64, _OPTIONAL, b"label", None),
]
_PLAIN, _RLE = 0, 3
_T = TypeVar("_T")


def rows(data: bytes, count: int) -> Iterator[tuple[memoryview | None, int | None]]:
    """The bytes of each image and its label, of a file of `count` rows; None for what is missing.

    Raises:
        ValueError: a file that ddhub did not write, or of another number of rows.
    """
    try:
        yield from _rows(data, count)
    except ValueError as error:
        raise ValueError(f"cannot be read ({error})") from None


def _rows(data: bytes, count: int) -> Iterator[tuple[memoryview | None, int | None]]:
    length = int.from_bytes(data[-8:-4], "little")
    if data[:4] != _MAGIC or data[-4:] != _MAGIC or length > min(_END, len(data) - 12):
        raise ValueError(f"no parquet file, or metadata of {length:,} bytes, where {_END:,} are allowed")
    pages = memoryview(data)[: len(data) - 8 - length]
    meta = Thrift(data[len(pages) : -8]).struct()
    schema = _structs(meta, 2)
    if [tuple(element.get(field) for field in (1, 3, 4, 5)) for element in schema[1:]] != _SCHEMA:
        names = [str(element.get(4)) for element in schema[1:5]]
        raise ValueError(f"columns {', '.join(names)[:100]}, or their types, are not ours")
    if _get(meta, 3, int) != count:
        raise ValueError(f"{_get(meta, 3, int)} rows, the manifest says {count}")
    groups = [(_structs(group, 1), _get(group, 3, int)) for group in _structs(meta, 4)]
    if sum(size for _, size in groups) != count or not all(len(chunks) == 3 and size > 0 for chunks, size in groups):
        raise ValueError(f"its groups do not have {count} rows of three columns together")
    for chunks, size in groups:
        images, labels = _column(pages, chunks[0], "image", size), _column(pages, chunks[2], "label", size)
        yield from zip(images, labels, strict=True)


def _column(pages: memoryview, chunk: dict[int, Any], name: str, count: int) -> Iterator[Any]:
    """The values of a column in one group of rows, None for those that are missing."""
    metadata = _get(chunk, 3, dict)
    codec, begin, size = (_get(metadata, field, int) for field in (4, 9, 7))
    if codec:
        raise ValueError(f"column {name!r} is compressed (codec {codec})")
    if 11 in metadata or not all(encoding in (_PLAIN, _RLE) for encoding in _get(metadata, 2, list)):
        raise ValueError(f"column {name!r} has a dictionary, or another encoding than ours")
    end = begin + size
    if size != metadata.get(6) or not 4 <= begin <= end <= len(pages):
        raise ValueError(
            f"column {name!r} is said to have {metadata.get(6)} bytes, {size} of them packed, from {begin} on"
        )
    while count:
        reader = Thrift(pages[:end], begin)
        head = reader.struct()
        if head.get(1) != 0:
            raise ValueError(f"column {name!r} has a dictionary, or a page of another version than ours")
        size, values = _get(head, 3, int), _get(head, 5, dict)
        rows_of_page = _get(values, 1, int)
        ours = size == head.get(2) and (values.get(2), values.get(3)) == (_PLAIN, _RLE)
        if not ours or not 0 < rows_of_page <= count or not 0 <= size <= end - reader.at:
            raise ValueError(f"column {name!r} has a page that is not ours")
        yield from _page(pages[reader.at : reader.at + size], name, rows_of_page)
        begin, count = reader.at + size, count - rows_of_page
    if begin != end:
        raise ValueError(f"column {name!r} has bytes behind its pages")


def _page(page: memoryview, name: str, count: int) -> Iterator[Any]:
    """The values of a data page: which are there, run-length encoded, and then those."""
    reader = Thrift(page)
    levels = reader.take(int.from_bytes(reader.take(4), "little"))
    present = _present(levels, count, 2 if name == "image" else 1)
    for there in present:
        if not there:
            yield None
        elif name == "image":
            yield reader.take(int.from_bytes(reader.take(4), "little"))
        else:
            yield int.from_bytes(reader.take(8), "little", signed=True)
    if reader.at != len(page):
        raise ValueError(f"column {name!r} has bytes behind the values of a page")


def _present(levels: memoryview, count: int, top: int) -> list[bool]:
    """Which of so many rows have a value: those whose level is the highest."""
    reader, width = Thrift(levels), top.bit_length()
    present: list[bool] = []
    while len(present) < count:
        head = reader.varint()
        if head & 1:  # groups of eight levels, packed
            for _ in range(head >> 1):
                bits = int.from_bytes(reader.take(width), "little")
                present += [bits >> width * i & (1 << width) - 1 == top for i in range(8)]
        else:  # the same level many times
            present += [reader.take(1)[0] == top] * min(head >> 1, count - len(present))
    return present[:count]


def _structs(record: dict[int, Any], field: int) -> list[dict[int, Any]]:
    structs = _get(record, field, list)
    if not all(isinstance(item, dict) for item in structs):
        raise ValueError("metadata that is not a parquet file's")
    return structs


def _get(record: dict[int, Any], field: int, kind: type[_T]) -> _T:
    value = record.get(field)
    if type(value) is not kind:
        raise ValueError("metadata that is not a parquet file's")
    return value

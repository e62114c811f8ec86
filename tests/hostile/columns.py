"""Parquet files that would take gigabytes of memory, and columns that are not those of an artifact."""

from __future__ import annotations

import io
import struct
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from test_artifact import forge, parquet, png, same

from ddhub.artifact.images import IMAGE
from ddhub.artifact.manifest import PARQUET
from tests.hostile._threats import LABELS, Make, chunk, enter, put, threat


def table(pngs: list[bytes | None], labels: list[int]) -> pa.Table:
    images = [None if row is None else {"bytes": row, "path": None} for row in pngs]
    return pa.table({"image": pa.array(images, IMAGE), "label": pa.array(labels, pa.int64())})


def written(rows: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows, out, **{"compression": "none", "use_dictionary": False, **options})
    return out.getvalue()


def rows(count: int, data: bytes) -> Make:
    """A parquet file of so many rows, for a manifest that says so, too."""

    def change(record: dict[str, Any]) -> None:
        record["tensors"]["images"]["shape"][0] = count
        record["tensors"]["image_labels"]["shape"] = [count]

    return lambda folder: forge(folder, change, parquet=data)


@cache
def repeated(**options: Any) -> bytes:
    """1000 rows of the same image, which has a megabyte behind its pixels: a gigabyte in all. The last label is 9."""
    padded = png()[:33] + chunk(b"IDAT", png()[41:-16] + bytes(2**20)) + png()[-12:]
    same_image = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), [padded])
    images = pa.StructArray.from_arrays([same_image, pa.nulls(1000, pa.string())], ["bytes", "path"])
    found = pa.table({"image": images, "label": pa.array([0] * 999 + [9], pa.int64())})
    return written(found, use_dictionary=True, store_schema=False, **options)


@threat(PARQUET, "column 'image' is compressed (codec 6)")
def a_megabyte_a_row_in_2_kB(folder: Path) -> None:
    data = repeated(compression="zstd")
    assert len(data) < 5000
    rows(1000, data)(folder)


@threat(PARQUET, "column 'image' has a dictionary")
def a_dictionary(folder: Path) -> None:
    rows(1000, repeated())(folder)


@threat(PARQUET, "1000000 rows, the manifest says 6")
def a_million_rows(folder: Path) -> None:
    put(parquet=written(table([None], [0]).take(pa.array([0] * 10**6))))(folder)


SIX = table([png()] * 6, LABELS)
for name in ("snappy", "gzip", "zstd", "lz4", "brotli"):
    enter(f"{name} columns", PARQUET, ("is compressed (codec",), put(parquet=written(SIX, compression=name)))

OTHERS = (
    ("five rows", "5 rows, the manifest says 6", parquet([png()] * 5, LABELS[:5])),
    ("another column", "columns b'picture', b'bytes', b'path', b'label'", parquet([png()] * 6, LABELS, "picture")),
    ("a label too large", "label 3 is 3, not one of 0..2", parquet([png()] * 6, [0, 1, 2, 3, 0, 1])),
    ("a negative label", "label 0 is -7, not one of 0..2", parquet([png()] * 6, [-7, 1, 2, 0, 0, 1])),
    ("no label", "label 2 is None, not one of 0..2", parquet([png()] * 6, [0, 0, None, 1, 2, 2])),
    ("no image", "image 1 is not a PNG", parquet([png(), None] * 3, LABELS)),
)
for name, word, data in OTHERS:
    enter(name, PARQUET, (word,), put(parquet=data))


# Thrift's compact form, of which the end of a parquet file is made: a struct is {field: (type, value)}.
INT, LONG, TEXT, LIST, STRUCT = 5, 6, 8, 9, 12


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def thrift(kind: int, value: Any) -> bytes:
    if kind in (INT, LONG):
        return varint(value << 1 if value >= 0 else -value * 2 - 1)
    if kind == TEXT:
        return varint(len(value)) + value
    if kind == LIST:
        of, items = value
        return bytes([0xF0 | of]) + varint(len(items)) + b"".join(thrift(of, item) for item in items)
    out, last = b"", 0
    for field, (of, item) in value.items():
        out, last = out + bytes([(field - last) << 4 | of]) + thrift(of, item), field
    return out + b"\0"


def end(groups: list[Any], count: int, schema: list[Any]) -> bytes:
    data = thrift(STRUCT, {1: (INT, 2), 2: (LIST, (STRUCT, schema)), 3: (LONG, count), 4: (LIST, (STRUCT, groups))})
    return data + struct.pack("<I", len(data)) + b"PAR1"


SCHEMA = [
    {4: (TEXT, b"schema"), 5: (INT, 2)},
    {3: (INT, 1), 4: (TEXT, b"image"), 5: (INT, 2)},
    {1: (INT, 6), 3: (INT, 1), 4: (TEXT, b"bytes")},
    {1: (INT, 6), 3: (INT, 1), 4: (TEXT, b"path"), 6: (INT, 0)},
    {1: (INT, 2), 3: (INT, 1), 4: (TEXT, b"label")},
]


def disguised(data: bytes, **said: int) -> bytes:
    """A parquet file whose end says that it has no dictionary, or other sizes, or another compression."""
    meta = pq.read_metadata(io.BytesIO(data))
    columns = []
    for old in map(meta.row_group(0).column, range(3)):
        new = {
            1: (INT, 2 if old.physical_type == "INT64" else 6),
            2: (LIST, (INT, [0, 3])),  # PLAIN, RLE
            3: (LIST, (TEXT, [part.encode() for part in old.path_in_schema.split(".")])),
            4: (INT, said.get("codec", 0)),
            5: (LONG, old.num_values),
            6: (LONG, said.get("unpacked", old.total_compressed_size)),
            7: (LONG, said.get("packed", old.total_compressed_size)),
            9: (LONG, old.dictionary_page_offset or old.data_page_offset),
        }
        columns.append({2: (LONG, 0), 3: (STRUCT, new)})
    group = {1: (LIST, (STRUCT, columns)), 2: (LONG, 0), 3: (LONG, meta.num_rows)}
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:start] + end([group], meta.num_rows, SCHEMA)


@threat(PARQUET, "column 'image' has a dictionary, or a page of another version")
def a_dictionary_in_disguise(folder: Path) -> None:
    rows(1000, disguised(repeated()))(folder)


@threat(PARQUET, "metadata of 20,000,000 bytes, where 1,048,576 are allowed")
def a_footer_of_20_MB(folder: Path) -> None:
    forge(folder, same, parquet=b"PAR1" + bytes(20_000_000) + struct.pack("<I", 20_000_000) + b"PAR1")


@threat(PARQUET, "cannot be read")
def groups_without_rows(folder: Path) -> None:
    """As many empty columns as the end may hold: each takes 700 bytes of memory, and 3 of the file."""
    columns = [{2: (LONG, 0)}] * 60
    groups = [{1: (LIST, (STRUCT, columns)), 2: (LONG, 0), 3: (LONG, 0)}] * 600
    forge(folder, same, parquet=b"PAR1" + end(groups, 6, SCHEMA))


@threat(PARQUET, "cannot be read")
def a_schema_nested_deep(folder: Path) -> None:
    inner = [{3: (INT, 1), 4: (TEXT, b"a"), 5: (INT, 1)}] * 15_000
    schema = [{4: (TEXT, b"r"), 5: (INT, 1)}, *inner, {1: (INT, 2), 3: (INT, 1), 4: (TEXT, b"x")}]
    forge(folder, same, parquet=b"PAR1" + end([], 6, schema))


PLAIN = written(SIX)
SAID = (
    ("a column said to be large", "is said to have 1099511627776 bytes", disguised(PLAIN, unpacked=2**40)),
    ("a column beyond the file", "is said to have", disguised(PLAIN, packed=2**40)),
    ("a compression of no name", "is compressed (codec 99)", disguised(PLAIN, codec=99)),  # pyarrow aborts
    ("a negative compression", "is compressed (codec -64)", disguised(PLAIN, codec=-64)),
    ("a column of no bytes", "an end too early", disguised(PLAIN, packed=0, unpacked=0)),
)
for name, word, data in SAID:
    enter(name, PARQUET, (word,), put(parquet=data))

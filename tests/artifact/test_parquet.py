"""The reader of parquet against pyarrow's, on files as ddhub writes them and on others of that kind."""

from __future__ import annotations

import io
import random
import struct
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddhub.artifact import parquet
from ddhub.artifact.images import IMAGE
from ddhub.artifact.thrift import Thrift


def table(count: int, rng: random.Random, missing: float = 0.0, largest: int = 60) -> pa.Table:
    """Rows of random bytes and labels, some of them missing in one way or another."""
    images: list[Any] = [{"bytes": rng.randbytes(rng.randrange(largest)), "path": None} for _ in range(count)]
    labels: list[int | None] = [rng.choice((0, 1, 255, -1, 2**62, -(2**63))) for _ in range(count)]
    for i in range(count):
        if rng.random() < missing:
            images[i] = rng.choice((None, {"bytes": None, "path": "x"}))
        if rng.random() < missing:
            labels[i] = None
    return pa.table({"image": pa.array(images, IMAGE), "label": pa.array(labels, pa.int64())})


def written(rows: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows, out, **{"compression": "none", "use_dictionary": False, **options})
    return out.getvalue()


def check(rows: pa.Table, data: bytes) -> None:
    theirs = pq.read_table(io.BytesIO(data)).to_pylist()
    want = [((row["image"] or {}).get("bytes"), row["label"]) for row in theirs]
    found = [(png if png is None else bytes(png), label) for png, label in parquet.rows(data, rows.num_rows)]
    assert found == want


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 63, 64, 65, 99, 100, 101, 1000])
def test_rows_are_those_of_pyarrow(count: int) -> None:
    rng = random.Random(count)
    for missing in (0, 0.02, 0.5, 1):
        rows = table(count, rng, missing)
        for options in ({}, {"row_group_size": 100, "write_page_index": True}, {"row_group_size": 7}):
            check(rows, written(rows, **options, write_statistics=rng.choice((True, False, ["label"]))))


def test_groups_of_many_pages() -> None:
    rng = random.Random(0)
    rows = table(500, rng, 0.1)
    check(rows, written(rows, data_page_size=100, write_batch_size=1))  # many pages in a group
    check(rows, written(rows, write_page_checksum=True))
    large = table(60, rng, 0, largest=200_000)  # pages end at a megabyte
    check(large, written(large))


@pytest.mark.parametrize("option", [{"version": version} for version in ("1.0", "2.4", "2.6")])
def test_versions_of_the_format(option: dict[str, str]) -> None:
    rows = table(50, random.Random(1), 0.1)
    check(rows, written(rows, **option))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "snappy"},
        {"use_dictionary": True},
        {"data_page_version": "2.0"},
        {"column_encoding": {"label": "DELTA_BINARY_PACKED"}},
        {"column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
    ],
)
def test_what_ddhub_does_not_write_is_refused(options: dict[str, Any]) -> None:
    data = written(table(50, random.Random(2)), **options)
    with pytest.raises(ValueError, match=r"^cannot be read \(column '(image|label)' .* ours\)|is compressed"):
        [*parquet.rows(data, 50)]


def test_any_bytes_are_rows_or_a_value_error() -> None:
    """Every cut and many changes of a file: nothing but ValueError, and never more rows than were asked for."""
    rng = random.Random(3)
    whole = written(table(12, rng, 0.2), row_group_size=5)
    tries = [whole[:end] for end in range(len(whole))]
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data) - 900, len(data)) if rng.random() < 0.7 else rng.randrange(len(data))] = (
                rng.randrange(256)
            )
        tries.append(bytes(data))
    refused = 0
    for data in tries:
        try:
            assert len([*parquet.rows(data, 12)]) == 12
        except ValueError:
            refused += 1
    assert refused > len(whole)


def test_thrift() -> None:
    """Examples worked out by hand from the definition of the compact form."""
    assert Thrift(b"\x15\x04\x00").struct() == {1: 2}
    assert Thrift(b"\x15\x03\x16\x01\x00").struct() == {1: -2, 2: -1}
    assert Thrift(b"\x05\x32\x0e\x00").struct() == {25: 7}  # the number of the field written out
    assert Thrift(b"\x11\x12\x00").struct() == {1: True, 2: False}
    assert Thrift(b"\x18\x03abc\x00").struct() == {1: b"abc"}
    assert Thrift(b"\x17" + struct.pack("<d", 0.5) + b"\x00").struct() == {1: 0.5}
    assert Thrift(b"\x19\x35\x02\x04\x06\x00").struct() == {1: [1, 2, 3]}
    assert Thrift(b"\x19\xf8\x10" + b"\x01x" * 16 + b"\x00").struct() == {1: [b"x"] * 16}
    assert Thrift(b"\x1c\x15\x02\x00\x25\x02\x00").struct() == {1: {1: 1}, 3: 1}
    assert Thrift(b"\xac\x02").varint() == 300
    for wrong in (b"", b"\x15", b"\x15" + b"\xff" * 11, b"\x18\x09abc", b"\x1b\x00\x00", b"\x19\xf5\xff\x7f\x00"):
        with pytest.raises(ValueError):
            Thrift(wrong).struct()
    with pytest.raises(ValueError, match="field 1 twice"):
        Thrift(b"\x15\x02\x05\x02\x02\x00").struct()
    with pytest.raises(ValueError, match="nested more than 12 deep"):
        Thrift(b"\x1c" * 1000).struct()

"""The careful reader of AVIF: the one form that ddhub writes, its size known before a pixel is decoded.

    ftyp    a file of type avif
    meta    one item, av01, with its place in mdat and its size (ispe), colours (pixi, colr) and coding (av1C)
    mdat    of AV1 a sequence header, which is that of a still picture, and one frame

What a decoder makes room for is the size in the sequence header, so that is read too, bit by bit (AV1 specification,
section 5.5.1). Further items, such as transparency, thumbnails and metadata, sequences of pictures, and properties that
turn or cut the picture are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_ITEM = {b"hdlr", b"pitm", b"iloc", b"iinf", b"iprp"}
_PROPERTIES = {b"ispe", b"pixi", b"av1C", b"colr"}
_SEQUENCE, _DELIMITER, _FRAME = 1, 2, 6  # kinds of open bitstream units


def check(data: bytes, size: tuple[int, int]) -> None:
    """ValueError unless an AVIF of one still picture of 8 bits, of this height and width, is all there is."""
    if data[4:12] != b"ftypavif":
        raise ValueError("another format")
    boxes = dict(_boxes(data))
    if [kind for kind, _ in _boxes(data)] != [b"ftyp", b"meta", b"mdat"]:
        raise ValueError("boxes other than ftyp, meta and mdat")
    meta = dict(_boxes(boxes[b"meta"][4:]))
    if meta.keys() != _ITEM or len(list(_boxes(boxes[b"meta"][4:]))) != len(_ITEM):
        raise ValueError("metadata that are not those of one picture")
    items = list(_boxes(meta[b"iinf"][6:]))
    if meta[b"iinf"][:6] != bytes(5) + b"\1" or len(items) != 1 or b"av01" not in items[0][1][:12]:
        raise ValueError("items other than one picture")
    begin, mdat = len(data) - len(boxes[b"mdat"]), boxes[b"mdat"]
    # version 0, one item, whose construction is one extent with offset and length of 4 bytes
    head, (offset, length) = meta[b"iloc"][:14], struct.unpack(">II", meta[b"iloc"][14:].ljust(8, b"\0")[:8])
    if head != bytes.fromhex("00000000 4400 0001 0001 0000 0001") or len(meta[b"iloc"]) != 22:
        raise ValueError("an item in more than one place")
    if (offset, length) != (begin, len(mdat)):
        raise ValueError("a picture that is not the whole of mdat")
    parts = dict(_boxes(meta[b"iprp"]))
    kinds = [kind for kind, _ in _boxes(parts.get(b"ipco", b""))]
    if parts.keys() != {b"ipco", b"ipma"} or not set(kinds) <= _PROPERTIES or len(set(kinds)) != len(kinds):
        raise ValueError("properties other than size, colours and coding")
    properties = dict(_boxes(parts[b"ipco"]))
    if len(properties.get(b"ispe", b"")) != 12 or len(properties.get(b"av1C", b"")) != 4:
        raise ValueError("no size, or a coding with headers of its own")
    wide, high = struct.unpack(">II", properties[b"ispe"][4:])
    if (high, wide) != size:
        raise ValueError(f"its header says {wide} x {high}")
    if (frame := _frame_size(mdat)) != size:
        raise ValueError(f"its frame is {frame[1]} x {frame[0]}")


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes that data are made of; ValueError where they do not end with the data."""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if len(data) - at < 8 or not 8 <= length <= len(data) - at:
            raise ValueError("its boxes do not end where the file does")
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _frame_size(data: bytes) -> tuple[int, int]:
    """Height and width in the sequence header of a still picture, which one frame follows. ValueError."""
    units = list(_units(data))
    kinds = [kind for kind, _ in units if kind != _DELIMITER]
    if kinds != [_SEQUENCE, _FRAME]:
        raise ValueError("a bitstream of more than a sequence header and a frame")
    header = next(unit for kind, unit in units if kind == _SEQUENCE)
    bits = _Bits(header)
    profile, still, reduced = bits.take(3), bits.take(1), bits.take(1)
    if not (still and reduced):
        raise ValueError("a sequence that is not of a still picture")
    bits.take(5)  # its level
    lengths = bits.take(4) + 1, bits.take(4) + 1
    wide, high = (bits.take(length) + 1 for length in lengths)
    bits.take(6)  # tools that change nothing of the size
    if bits.take(1) or profile > 1:
        raise ValueError("more than 8 bits a channel")
    return high, wide


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the open bitstream units that data are made of. ValueError."""
    at = 0
    while at < len(data):
        head, at = data[at], at + 1
        if head & 0b10000101 or not head & 0b10:
            raise ValueError("a unit of the bitstream that has no size, or an extension")
        length = shift = 0
        while True:
            if at >= len(data) or shift > 28:
                raise ValueError("a bitstream that ends in a unit")
            byte, at = data[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        if length > len(data) - at:
            raise ValueError("a bitstream that ends in a unit")
        yield head >> 3 & 15, data[at : at + length]
        at += length


class _Bits:
    """Numbers of so many bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data[:32], "big"), 8 * min(len(data), 32)

    def take(self, count: int) -> int:
        if count > self.left:
            raise ValueError("a bitstream that ends in a unit")
        self.left -= count
        return self.value >> self.left & (1 << count) - 1

"""The careful reader of WebP: the one form that ddhub writes, its size known before a pixel is decoded.

    RIFF, size, WEBP, "VP8 ", length, a key frame: 3 bytes, 9d 01 2a, width and height of 14 bits each

Lossy WebP in its simple form. The extended form, which may hold animations, transparency and texts, is refused.
"""

from __future__ import annotations

import struct


def check(data: bytes, size: tuple[int, int]) -> None:
    """ValueError unless a lossy WebP of this height and width is all there is."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError("another format")
    if data[12:16] != b"VP8 ":
        raise ValueError(f"a WebP whose first chunk is {data[12:16]!r}, not of the simple lossy form")
    if len(data) < 30:
        raise ValueError("a file that ends in its header")
    whole, length = struct.unpack("<I", data[4:8])[0], struct.unpack("<I", data[16:20])[0]
    if whole != len(data) - 8 or length + length % 2 != len(data) - 20:
        raise ValueError("its chunks do not end where the file does")
    if data[20] & 0b10001 != 0b10000 or data[23:26] != b"\x9d\x01\x2a":
        raise ValueError("a frame that is not a shown key frame")
    wide, high = struct.unpack("<HH", data[26:30])
    if (high, wide) != size:  # the two bits above the 14 ask for scaling
        raise ValueError(f"its header says {wide & 0x3FFF} x {high & 0x3FFF}")

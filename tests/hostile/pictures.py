"""WebP and AVIF that are more, less or larger than the manifest says; sheets that do not fit."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from PIL import Image
from test_artifact import forge, parquet

from ddhub.artifact.manifest import PARQUET
from tests.hostile._threats import LABELS, Make, enter, saved, threat

RECORDED = {"pixels": "0" * 64, "samples": "00" * 256, "tolerance": 4}
WEBP = {"codec": "webp", "quality": 50, "chroma": "420", "sheet": 1, **RECORDED}
AVIF = {**WEBP, "codec": "avif", "chroma": "444"}


def webp(size: tuple[int, int] = (6, 4), **options: Any) -> bytes:
    return saved("RGB", size, format="WEBP", **options)


def avif(size: tuple[int, int] = (6, 4), mode: str = "RGB", **options: Any) -> bytes:
    return saved(mode, size, format="AVIF", speed=10, max_threads=1, **options)


def coded(encoding: dict[str, Any], first: bytes, rest: bytes, count: int = 6, **fields: Any) -> Make:
    """A parquet file of these pictures, the first another one, and a manifest that names the codec."""
    data = parquet([first, *[rest] * (count - 1)], LABELS[:count])
    return lambda folder: forge(folder, lambda record: record.update(encoding=encoding, **fields), parquet=data)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(x)) + x + b"\0" * (len(x) % 2) for kind, x in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def frame(data: bytes) -> bytes:
    """The frame of a simple WebP."""
    return data[20 : 20 + struct.unpack("<I", data[16:20])[0]]


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def put_size(data: bytes, wide: int, high: int) -> bytes:
    """An AVIF that says another size in its metadata."""
    return put(data, data.index(b"ispe") + 8, struct.pack(">II", wide, high))


MOVING = webp(save_all=True, append_images=[Image.new("RGB", (6, 4), "red")], duration=10)
METADATA = (b"EXIF", bytes(2**20))
EXTENDED = (b"VP8X", bytes(4) + b"\5\0\0\3\0\0")
FIRST = (
    ("a PNG", "another format", saved("RGB")),
    ("an animation", "first chunk is b'VP8X'", MOVING),
    ("without loss", "first chunk is b'VP8L'", webp(lossless=True)),
    ("a transparent one", "first chunk is b'VP8X'", saved("RGBA", format="WEBP")),
    ("a megabyte of metadata", "first chunk is b'VP8X'", riff(EXTENDED, (b"VP8 ", frame(webp())), METADATA)),
    ("metadata behind the frame", "do not end where", riff((b"VP8 ", frame(webp())), (b"EXIF", bytes(10)))),
    ("height and width exchanged", "its header says 4 x 6", webp((4, 6))),
    ("one of 16,383 pixels", "its header says 16383 x 16383", put(webp(), 26, struct.pack("<HH", 16383, 16383))),
    ("one that scales", "its header says 6 x 4", put(webp(), 26, struct.pack("<HH", 6 | 1 << 14, 4))),
    ("bytes behind it", "do not end where", webp() + b"x"),
    ("half of one", "do not end where", webp()[:-10]),
    ("a header alone", "ends in its header", webp()[:25]),
    ("no key frame", "not a shown key frame", put(webp(), 20, bytes([webp()[20] | 1]))),
)  # fmt: skip
for name, word, data in FIRST:
    if word:
        enter(
            f"{name} for a WebP",
            PARQUET,
            ("image 0 is not a WebP of (3, 4, 6) pixels", word),
            coded(WEBP, data, webp()),
        )

TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation
FIRST = (
    ("a PNG", "another format", saved("RGB")),
    ("a moving picture", "", avif(save_all=True, append_images=[Image.new("RGB", (6, 4), "red")])),
    ("a transparent one", "", avif(mode="RGBA")),
    ("height and width exchanged", "its header says 4 x 6", avif((4, 6))),
    ("one that says 10^9 pixels", "its header says 32768 x 32768", put_size(avif(), 32768, 32768)),
    ("a larger frame than it says", "its frame is 2000 x 2000", put_size(avif((2000, 2000)), 6, 4)),
    ("bytes behind it", "do not end where", avif() + b"x"),
    ("a box more", "boxes other than", avif() + struct.pack(">I4s", 2**20 + 8, b"free") + bytes(2**20)),
    ("half of one", "do not end where", avif()[:-10]),
    ("a megabyte of metadata", "metadata that are not", avif(xmp=bytes(2**20))),
    ("a colour profile", "", avif(icc_profile=bytes(2**16))),
    ("one that is turned", "", avif(exif=TURNED)),
    ("one without a frame", "do not end where", avif()[: avif().index(b"mdat") + 4]),
)  # fmt: skip
for name, word, data in FIRST:
    enter(f"{name} for an AVIF", PARQUET, ("image 0 is not an AVIF", word), coded(AVIF, data, avif()))


@threat(PARQUET, "6 images do not fill pictures of 4")
def a_sheet_that_is_not_filled(folder: Path) -> None:
    coded({**WEBP, "sheet": 4}, webp(), webp())(folder)


@threat(PARQUET, "too small a file for images of")
def a_sheet_of_a_billion_images(folder: Path) -> None:
    """Each of a grey picture that a few bytes stand for."""

    def change(record: dict[str, Any]) -> None:
        record["encoding"] = {**AVIF, "sheet": 10_000_000}
        record["tensors"]["images"]["shape"][0] = 10_000_000
        record["tensors"]["image_labels"]["shape"] = [10_000_000]

    forge(folder, change, parquet=parquet([avif()], [0]))

"""PNG bombs, and images that are no PNG of the size that the manifest says."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import Image
from test_artifact import parquet, png

from ddhub.artifact.manifest import PARQUET
from tests.hostile._threats import LABELS, Make, chunk, enter, put, saved, threat


def images(*first: bytes) -> Make:
    """Other images; the rest of six is right."""
    return put(parquet=parquet([*first, *[png()] * 6][:6], LABELS))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A right PNG with one chunk more, behind its header."""
    return png()[:33] + chunk(kind, data) + png()[33:]


BOMB = zlib.compress(bytes(10_000_000), 9)  # 10 kB
ANIMATION = saved("RGB", save_all=True, append_images=[Image.new("RGB", (6, 4), "red")])
FIRST = (
    ("a bomb in iCCP", "a chunk b'iCCP'", with_chunk(b"iCCP", b"x\0\0" + BOMB)),
    ("a bomb in zTXt", "a chunk b'zTXt'", with_chunk(b"zTXt", b"x\0\0" + BOMB)),
    ("a bomb in iTXt", "a chunk b'iTXt'", with_chunk(b"iTXt", b"x\0\1\0\0\0" + BOMB)),
    ("a text in an image", "a chunk b'tEXt'", with_chunk(b"tEXt", b"a\0b")),
    ("an animation", "a chunk b'acTL'", ANIMATION),
    ("a palette", "its header says (6, 4, 1, 3", saved("P")),
    ("an alpha channel", "its header says (6, 4, 8, 6", saved("RGBA")),
    ("a grey image", "its header says (6, 4, 8, 0", saved("L")),
    ("16 bits", "its header says (6, 4, 16, 0", saved("I;16")),
    ("height and width exchanged", "its header says (4, 6, 8, 2", png(size=(4, 6))),
    ("bytes behind an image", "do not end where", png() + b"x"),
    ("a chunk of 4 GiB", "do not end where", png()[:33] + b"\xff\xff\xff\xff" + png()[37:]),
    ("half an image", "do not end where", png()[:-6]),
    ("an image without pixels", "truncated", png()[:33] + chunk(b"IDAT", zlib.compress(b"")) + png()[-12:]),
    *((f"{form} for a PNG", "another format", saved("RGB", format=form)) for form in ("BMP", "GIF", "TIFF", "ICO")),
    *((f"{form} for a PNG", "another format", saved("RGB", format=form)) for form in ("PPM", "EPS", "PDF", "JPEG")),
)
for name, word, data in FIRST:
    enter(name, PARQUET, ("image 0 is not a PNG of (3, 4, 6) pixels", word), images(data))


@threat(PARQUET, "image 0 is not a PNG of (3, 4, 6) pixels", "its header says (9400, 9400, 8, 2")
def a_PNG_of_9400_pixels(folder: Path) -> None:
    """0.3 MB of file and 265 MB of pixels."""
    pack, row = zlib.compressobj(1), bytes(1 + 3 * 9400)
    pixels = b"".join(pack.compress(row) for _ in range(9400)) + pack.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9400, 9400, 8, 2, 0, 0, 0))
    images(png()[:8] + head + chunk(b"IDAT", pixels) + png()[-12:])(folder)


enter("the last image exchanged", PARQUET, ("image 5 is not a PNG",), images(*[png()] * 5, png(size=(4, 6))))

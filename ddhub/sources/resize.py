"""One encoded image to a square of 8-bit pixels: its mode, its size, and what is wrong with it.

An image that has another size than the one wanted is cut to its centre square, which is then resized bilinearly with
antialiasing: `RULE`. In a square image nothing is cut, and one that has the size already is left as it is. Of modes,
grey and RGB stay; a colour palette, CMYK and the like become RGB, and what is transparent becomes white. 16-bit and
float images are refused: there is no one way to make 8 bits of them.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ddhub.errors import SourceError, first_line

RULE = "centre square, resized bilinearly"  # part of keys, fingerprints and notes of what was resized
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


class Fit(NamedTuple):
    """What images must be, and what becomes of them."""

    channels: int  # 1 or 3
    side: int  # of the square that is wanted, in pixels
    stored: int | None  # the side that the encoded images must have; None: any size
    upright: bool = False  # turn photographs as their EXIF entry says
    repair: str = "fetch it again"  # the next step when one is damaged
    resize: str = "fetch it again"  # the next step when one has another size than `stored`


class Batch(NamedTuple):
    """Successive images, still encoded: bytes, or the file that has them."""

    names: Sequence[str]  # for errors: the file, and the row in it
    images: Sequence[bytes | Path | None]
    labels: NDArray[np.int64]


class Chunk(NamedTuple):
    """Decoded images, how many of them were resized, and what modes others were converted from."""

    pixels: NDArray[np.uint8]  # [n, C, S, S]
    jpeg: int
    resized: int
    converted: Counter[str]


def decode(fit: Fit, batch: Batch) -> Chunk:
    """Decode a few images. Raises SourceError for one that is damaged or of another size than it must be."""
    pixels = np.empty((len(batch.images), fit.side, fit.side, fit.channels), np.uint8)
    mode, jpeg, resized, converted = "L" if fit.channels == 1 else "RGB", 0, 0, Counter[str]()
    for i, (name, data) in enumerate(zip(batch.names, batch.images, strict=True)):
        try:
            with _open(data) as opened:
                image = ImageOps.exif_transpose(opened) if fit.upright else opened
                width, height = image.size
                if fit.stored and (width, height) != (fit.stored, fit.stored):
                    wanted = f"{fit.stored}x{fit.stored}"
                    raise SourceError(f"{name}: {width}x{height} pixels instead of {wanted}; {fit.resize}")
                jpeg += opened.format == "JPEG"
                resized += (width, height) != (fit.side, fit.side)
                if image.mode != mode:
                    converted[image.mode] += 1
                    image = _convert(image, mode)
                # tobytes and not np.asarray: a fifth of the whole decoding for images this small.
                flat = np.frombuffer(_square(image, fit.side).tobytes(), np.uint8)
            pixels[i] = flat.reshape(pixels.shape[1:])
        except SourceError:
            raise
        except Exception as error:  # Pillow raises many kinds for damaged bytes
            raise _not_an_image(name, error, fit.repair) from error
    return Chunk(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), jpeg, resized, converted)


def is_grey(file: Path, repair: str) -> bool:
    """Whether a file's header says that the image has no colours. Raises SourceError when there is none."""
    try:
        with _open(file) as image:
            return image.mode in ("1", "L", "LA")
    except Exception as error:
        raise _not_an_image(str(file), error, repair) from error


def size_of(file: Path, repair: str) -> tuple[int, int]:
    """Width and height of the upright image, from the file's header alone. Raises SourceError."""
    try:
        with _open(file) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # orientation: a quarter turn or its mirror image
            return (image.height, image.width) if turned else image.size
    except Exception as error:
        raise _not_an_image(str(file), error, repair) from error


def _open(data: bytes | Path | None) -> Image.Image:
    if not data:
        raise ValueError("no bytes")
    return Image.open(data if isinstance(data, Path) else io.BytesIO(data), formats=FORMATS)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _square(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    # Cut first: with `box=` the pixels around the square would count at its edges.
    return image.crop((left, top, left + shorter, top + shorter)).resize((side, side), Image.Resampling.BILINEAR)


def _not_an_image(name: str, error: Exception, repair: str) -> SourceError:
    reason = re.sub(r" (<_io.*>|'.*')$", "", first_line(error))  # of the file, whose name comes first anyway
    return SourceError(f"{name}: not an image ({reason}); {repair}")

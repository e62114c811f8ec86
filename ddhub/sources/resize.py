"""Decoding of one encoded image to a square of 8-bit pixels.

An image of another size than requested is cut to its centre square, which is resized bilinearly with antialiasing
(`RULE`). A square image is not cut, and an image of the requested size is not resized. Grey and RGB images keep their
mode; palettes, CMYK and other modes become RGB, and transparent pixels become white. 16-bit and float images are
refused, as their conversion to 8 bits is ambiguous.
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

RULE = "centre square, resized bilinearly"  # part of keys, fingerprints and notes of resized images
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


class Fit(NamedTuple):
    """The form that encoded images must have, and the form that they are decoded to."""

    channels: int  # 1 or 3
    side: int  # side of the decoded images in pixels
    stored: int | None  # the side that the encoded images must have; None: any size
    upright: bool = False  # turn photographs according to their EXIF orientation
    repair: str = "fetch it again"  # the next step for a damaged image
    resize: str = "fetch it again"  # the next step for an image of another size than `stored`


class Batch(NamedTuple):
    """Successive encoded images: their bytes, or the files that hold them."""

    names: Sequence[str]  # file and row, for error messages
    images: Sequence[bytes | Path | None]
    labels: NDArray[np.int64]


class Chunk(NamedTuple):
    """Decoded images, with the numbers of JPEG, resized and, by mode, converted ones."""

    pixels: NDArray[np.uint8]  # [n, C, S, S]
    jpeg: int
    resized: int
    converted: Counter[str]


def decode(fit: Fit, batch: Batch) -> Chunk:
    """Decode a few images. Raises SourceError for an image that is damaged or of the wrong size."""
    pixels = np.empty((len(batch.images), fit.side, fit.side, fit.channels), np.uint8)
    mode, jpeg, resized, converted = "L" if fit.channels == 1 else "RGB", 0, 0, Counter[str]()
    for i, (name, data) in enumerate(zip(batch.names, batch.images, strict=True)):
        try:
            with _open(data) as opened:
                image = ImageOps.exif_transpose(opened) if fit.upright else opened
                width, height = image.size
                if fit.stored and (width, height) != (fit.stored, fit.stored):
                    expected = f"{fit.stored}x{fit.stored}"
                    raise SourceError(f"{name}: {width}x{height} pixels instead of {expected}; {fit.resize}")
                jpeg += opened.format == "JPEG"
                resized += (width, height) != (fit.side, fit.side)
                if image.mode != mode:
                    converted[image.mode] += 1
                    image = _convert(image, mode)
                # tobytes, as np.asarray takes a fifth of the decoding time of small images.
                flat = np.frombuffer(_square(image, fit.side).tobytes(), np.uint8)
            pixels[i] = flat.reshape(pixels.shape[1:])
        except SourceError:
            raise
        except Exception as error:  # Pillow raises errors of many kinds for damaged bytes
            raise _not_an_image(name, error, fit.repair) from error
    return Chunk(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), jpeg, resized, converted)


def header_of(file: Path, repair: str) -> tuple[int, int, str]:
    """Width and height of the upright image in pixels, and its mode, from the file's header. Raises SourceError."""
    try:
        with _open(file) as image:
            is_turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: a quarter turn, or its mirror image
            return (*(image.size[::-1] if is_turned else image.size), image.mode)
    except Exception as error:
        raise _not_an_image(str(file), error, repair) from error


def is_grey(mode: str) -> bool:
    """Whether images of a mode have no colours."""
    return mode in ("1", "L", "LA")


def is_deep(mode: str) -> bool:
    """Whether images of a mode have more than 8 bits a channel, which are not taken."""
    return mode.startswith(("I", "F"))


def _open(data: bytes | Path | None) -> Image.Image:
    if not data:
        raise ValueError("no bytes")
    return Image.open(data if isinstance(data, Path) else io.BytesIO(data), formats=FORMATS)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if is_deep(image.mode):
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
    # Cut first: with `box=` pixels outside the square would influence its edges.
    return image.crop((left, top, left + shorter, top + shorter)).resize((side, side), Image.Resampling.BILINEAR)


def _not_an_image(name: str, error: Exception, repair: str) -> SourceError:
    reason = re.sub(r" (<_io.*>|'.*')$", "", first_line(error))  # the message has the name already
    return SourceError(f"{name}: not an image ({reason}); {repair}")

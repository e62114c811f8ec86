"""Encodings by name: how stored images are coded, as a text and as a manifest says it.

    encoding      what it means                                        what a manifest says
    png           lossless, a picture an image                         {"codec": "png"}
    webp:30       lossy WebP of quality 30, a picture a class          {"codec": "webp", "quality": 30, ...}
    avif:50       AVIF of quality 50, colours at full resolution       {"codec": "avif", "chroma": "444", ...}
    avif:50:420   colours at half the resolution                       {"codec": "avif", "chroma": "420", ...}
    avif:50/1     a picture an image; /20 a picture of 20 images       {"sheet": 1, ...}

A container costs more than a small image, so the n images of a sheet stand side by side, unscaled, in rows of
ceil(sqrt(n)), the last row filled up with grey. All sheets have as many images, all of one class, in their order.

What a student sees are decoded pixels. A decoder may differ from version to version, so the manifest records of lossy
ones `pixels`, the sha256 of all, `samples`, 256 of them spread over the images, and a `tolerance` in levels.

Nothing here imports torch: the rules of a manifest need this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ddhub.errors import UsageError

CHROMA = {"webp": ("420",), "avif": ("444", "420")}  # the first is that of an encoding that names none
SIDE = 16_383  # pixels, the most that a WebP has
SAMPLES = 256
TOLERANCE = 4  # levels at most: with more, other images could pass for the recorded ones
_HEX = set("0123456789abcdef")


def parse(text: str) -> dict[str, Any]:
    """The encoding that a text such as `avif:50:420/20` names, without what only images tell; a sheet of 0 is a class.

    Raises:
        UsageError: another text.
    """
    words, _, sheet = text.partition("/")
    codec, *rest = words.split(":")
    forms = "png, webp:QUALITY or avif:QUALITY, with /N for N images a picture"
    if codec not in ("png", *CHROMA) or (sheet and not sheet.isdecimal()) or (sheet and not int(sheet)):
        raise UsageError(f"encoding {text!r} is not known; it must be {forms}")
    if codec == "png":
        if rest:
            raise UsageError(f"encoding {text!r}: png has no quality; it must be {forms}")
        return {"codec": codec, **({"sheet": int(sheet)} if sheet else {})}
    quality, *chroma = rest or [""]
    if not quality.isdecimal() or int(quality) > 100 or chroma not in ([], *([x] for x in CHROMA[codec])):
        words = f"{codec}:0 to {codec}:100"
        known = " or ".join(f"{words}:{x}" for x in CHROMA[codec][1:])
        raise UsageError(f"encoding {text!r} is not known; it must be {words}{', or ' * bool(known)}{known}")
    return {
        "codec": codec,
        "quality": int(quality),
        "chroma": chroma[0] if chroma else CHROMA[codec][0],
        "sheet": int(sheet or 0),
    }


def name_of(encoding: Mapping[str, Any]) -> str:
    """The text that `parse` takes: `avif:50`, `webp:30/20`."""
    codec = encoding["codec"]
    words = [codec]
    if codec != "png":
        words.append(str(encoding["quality"]))
        words += [encoding["chroma"]] if encoding["chroma"] != CHROMA[codec][0] else []
    return ":".join(words) + (f"/{encoding['sheet']}" if encoding.get("sheet") else "")


def grid(images: int) -> tuple[int, int]:
    """Rows and columns of a sheet of so many images."""
    columns = math.ceil(math.sqrt(images))
    return -(-images // columns), columns


def picture_size(encoding: Mapping[str, Any], image_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Channels, height and width of a picture, of images of this size."""
    rows, columns = grid(encoding.get("sheet", 1))
    return image_size[0], rows * image_size[1], columns * image_size[2]


def is_encoding(value: Any) -> bool:
    """Whether a manifest may say so of its images."""
    if not isinstance(value, dict) or value.get("codec") not in ("png", *CHROMA):
        return False
    rules: dict[str, Callable[[Any], bool]] = {"sheet": lambda x: type(x) is int and x > 0}
    if value["codec"] == "png":
        return value.keys() == {"codec"} or (value.keys() == {"codec", "sheet"} and rules["sheet"](value["sheet"]))
    rules |= {
        "quality": lambda x: type(x) is int and 0 <= x <= 100,
        "chroma": lambda x: x in CHROMA[value["codec"]],
        "pixels": lambda x: isinstance(x, str) and len(x) == 64 and set(x) <= _HEX,
        "samples": lambda x: isinstance(x, str) and len(x) <= 2 * SAMPLES and len(x) % 2 == 0 and set(x) <= _HEX,
        "tolerance": lambda x: type(x) is int and 0 <= x <= TOLERANCE,
    }
    return value.keys() == {"codec", *rules} and all(fits(value[key]) for key, fits in rules.items())

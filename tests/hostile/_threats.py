"""How a hostile artifact is made: a sound one with one thing changed, and its hashes made right again."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from test_artifact import forge, same

LABELS = [0, 0, 1, 1, 2, 2]  # of the sound one's six images
Make = Callable[[Path], object]


@dataclass(frozen=True)
class Threat:
    """What is done to a folder, the file that the message must name, and what else it must say."""

    make: Make
    file: str
    words: tuple[str, ...]


THREATS: dict[str, Threat] = {}


def enter(name: str, file: str, words: tuple[str, ...], make: Make) -> None:
    """Enter a threat under a name of its own."""
    assert name not in THREATS
    THREATS[name] = Threat(make, file, words)


def threat(file: str, *words: str) -> Callable[[Make], Make]:
    """The same for a function, under the function's name."""

    def decorate(make: Make) -> Make:
        enter(make.__name__.replace("_", " "), file, words, make)
        return make

    return decorate


def put(**files: bytes) -> Make:
    """Another `parquet` or `tensors`."""
    return lambda folder: forge(folder, same, **files)


def set_field(**changes: Any) -> Make:
    """Other fields of the manifest."""
    return lambda folder: forge(folder, lambda record: record.update(changes))


def say_tensor(name: str, **entry: Any) -> Make:
    """Another entry of the manifest's `tensors`."""
    return lambda folder: forge(folder, lambda record: record["tensors"].update({name: entry}))


def saved(mode: str, size: tuple[int, int] = (6, 4), **options: Any) -> bytes:
    """An image file of one colour."""
    out = io.BytesIO()
    Image.new(mode, size).save(out, **{"format": "PNG", **options})
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

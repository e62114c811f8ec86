"""The cache of decoded images: a data set is decoded once and then mapped into memory.

    CACHE/sources/cifar10-train-<key>/    images.npy     u8 [N, C, S, S]
                                          labels.npy     i64 [N]
                                          meta.json      shape, fingerprint, converted modes, sizes of the files

CACHE is DDHUB_CACHE, else ~/.cache/ddhub; the key is a hash of the identity of the encoded data. `ddhub.sources.source`
reads the rows and `ddhub.sources.resize` decodes one image. Rows are read, decoded and written a few hundred at a time,
so that memory does not grow with the data set.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ddhub.errors import SourceError, first_line
from ddhub.io.files import cache_home, is_alive
from ddhub.sources.resize import RULE, Batch, Fit, decode

INSTEAD = "pass --data ROOT or set DDHUB_DATA to a folder in the Hub's layout, or use cifar10-mini"
_CACHE_VERSION = 1  # part of every key: raise it when the same files would decode differently
_CHUNK = 64, 2**24  # images and bytes that a thread decodes at a time, whichever is less
_AHEAD = 8  # chunks that are decoded before the first one is written


class Rows(NamedTuple):
    """Encoded images that are read on demand, and the size and classes that they must have."""

    total: int | None  # None: not known before the end, for rows that are selected from others
    fit: Fit
    classes: int
    batches: Iterator[Batch]

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """The shape (N, C, S, S) of the pixels of `count` images."""
        return (count, self.fit.channels, self.fit.side, self.fit.side)


class Decoded(NamedTuple):
    """Pixels and labels as arrays, with notes on their decoding.

    `fingerprint` is the sha256 of shape, pixels and labels, and of `RULE` when any image was resized.
    """

    images: NDArray[np.uint8]  # [N, C, S, S]
    labels: NDArray[np.int64]  # [N]
    fingerprint: str
    jpeg: bool  # whether any image came as JPEG
    resized: int  # number of images that had another size
    converted: dict[str, int]  # mode -> number of images that were converted from it


def in_memory(title: str, rows: Rows) -> Decoded:
    """Decode all rows into memory, without a file in the cache."""
    buffer = io.BytesIO()
    labels, details = _decode_all(title, rows, buffer)
    buffer.seek(0)
    return Decoded(np.load(buffer), labels, **details)


def cached(title: str, identity: list[Any], rows: Callable[[], Rows]) -> Decoded:
    """The decoded images from the cache; if they are not there, decode and store them.

    A cache folder is written under a temporary name and then renamed. The next process removes the temporary folder of
    a killed one; of two processes that decode at once, the slower one deletes its copy.

    Args:
        title: the start of the folder's name.
        identity: JSON values that identify the encoded data; they are hashed into the key.
        rows: opens the encoded data; called only if the cache does not hold it.

    Raises:
        SourceError: an image cannot be decoded, or the cache cannot be written.
    """
    key = hashlib.sha256(json.dumps([_CACHE_VERSION, identity]).encode()).hexdigest()[:16]
    cache = cache_home() / "sources"
    folder = cache / f"{title}-{key}"
    decoded = _read_cache(folder)
    if decoded is not None:
        return decoded
    encoded = rows()
    owner = f"{platform.node()}-{os.getpid()}"
    sibling = cache / f".{folder.name}.tmp-{owner}-{secrets.token_hex(4)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        sibling.mkdir()
        with open(sibling / "images.npy", "w+b") as file:
            labels, details = _decode_all(title, encoded, file)
        np.save(sibling / "labels.npy", labels)
        sizes = {file.name: file.stat().st_size for file in sorted(sibling.iterdir())}
        meta = {"shape": encoded.shape(len(labels)), **details, "bytes": sizes}
        (sibling / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        decoded = _read_cache(sibling)  # a memory map stays valid after the rename
        _publish(sibling, folder)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise SourceError(
            f"cannot write the cache {cache} ({reason}); free space or set DDHUB_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(sibling, ignore_errors=True)
    decoded = _read_cache(folder) or decoded
    if decoded is None:
        raise SourceError(f"{folder} cannot be read back; set DDHUB_CACHE to another folder")
    return decoded


def _decode_all(title: str, rows: Rows, file: IO[bytes]) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Write all pixels to `file` as .npy; return the labels and the other fields of a `Decoded`.

    The pixels are written and not memory-mapped: on a full disk a write raises, a map kills the process. The shape is
    first in the file and in the fingerprint; if it is known only at the end, the file is read once more.
    """
    digest, jpeg, resized, converted = _begin(file, rows.shape(rows.total or 0)), 0, 0, Counter[str]()
    labels = [np.empty(0, np.int64)]
    step = max(1, min(_CHUNK[0], _CHUNK[1] // math.prod(rows.shape(1))))
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        tqdm(total=rows.total, desc=f"decoding {title}", unit="img", disable=None) as bar,
    ):
        for batch in rows.batches:
            check_labels(batch.names, batch.labels, rows.classes)
            labels.append(batch.labels)
            parts = [slice(i, i + step) for i in range(0, len(batch.images), step)]
            work = [Batch(batch.names[part], batch.images[part], batch.labels[part]) for part in parts]
            for first in range(0, len(work), _AHEAD):
                for chunk in pool.map(partial(decode, rows.fit), work[first : first + _AHEAD]):
                    digest.update(chunk.pixels.data)
                    file.write(chunk.pixels.data)
                    jpeg, resized = jpeg + chunk.jpeg, resized + chunk.resized
                    converted += chunk.converted
                    bar.update(len(chunk.pixels))
    all_labels = np.concatenate(labels)
    if not len(all_labels):
        raise SourceError(f"{title} has no rows; {INSTEAD}")
    if rows.total is None:
        digest = _begin(file, rows.shape(len(all_labels)))
        while pixels := file.read(_CHUNK[1]):
            digest.update(pixels)
    digest.update(all_labels.astype("<i8").data)
    if resized:
        digest.update(RULE.encode())
    details = {"fingerprint": digest.hexdigest(), "jpeg": jpeg > 0, "resized": resized, "converted": dict(converted)}
    return all_labels, details


def _begin(file: IO[bytes], shape: tuple[int, ...]) -> hashlib._Hash:
    """Write the header of a .npy file, of the same length for every shape; return a hash that starts with the shape."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return hashlib.sha256(str(shape).encode())


def check_labels(names: Sequence[str], labels: NDArray[np.int64], classes: int) -> None:
    """Raise SourceError unless all labels are in 0..classes - 1; `names` are those of the images."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        name, label = names[wrong[0]], labels[wrong[0]]
        raise SourceError(f"{name}: label {label} is not one of 0..{classes - 1}; fetch it again")


def _read_cache(folder: Path) -> Decoded | None:
    """The contents of a cache folder; None if it is missing or damaged. Pixels are not hashed again."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        sizes = {file: (folder / file).stat().st_size for file in ("images.npy", "labels.npy")}
        # "c", copy on write: torch has no read-only tensors and warns about read-only arrays.
        images = np.load(folder / "images.npy", mmap_mode="c")
        labels = np.load(folder / "labels.npy")
        kinds = (images.dtype, labels.dtype) == (np.uint8, np.int64)
        shapes = [*images.shape] == meta["shape"] and labels.shape == images.shape[:1]
        if sizes == meta["bytes"] and kinds and shapes:
            counts = (meta.get("resized", 0), meta.get("converted", {}))  # folders of older versions have neither entry
            return Decoded(images, labels, meta["fingerprint"], meta["jpeg"], *counts)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        pass  # a damaged folder is decoded again
    return None


def _publish(sibling: Path, folder: Path) -> None:
    """Rename a finished temporary folder, unless another process was first; a damaged folder is replaced."""
    try:
        os.rename(sibling, folder)
    except OSError:
        if _read_cache(folder) is None:
            damaged = sibling.with_name(f"{sibling.name}-damaged")
            with suppress(OSError):  # if another process does the same, its copy stays
                os.rename(folder, damaged)
                os.rename(sibling, folder)
            shutil.rmtree(damaged, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove temporary folders that killed processes of this machine left."""
    pattern = re.compile(rf"\.tmp-{re.escape(platform.node())}-(\d+)-[0-9a-f]{{8}}(-damaged)?$")
    for sibling in cache.iterdir():
        owner = pattern.search(sibling.name)
        if owner and not is_alive(int(owner[1])):
            shutil.rmtree(sibling, ignore_errors=True)

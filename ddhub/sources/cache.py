"""Encoded images to decoded ones, once: into a cache that is mapped into memory from then on.

    CACHE/sources/cifar10-train-<key>/    images.npy     u8 [N, C, S, S]
                                          labels.npy     i64 [N]
                                          meta.json      shape, fingerprint, what was converted, sizes of the files

CACHE is DDHUB_CACHE, else ~/.cache/ddhub; the key is a hash of whatever identifies the encoded data. Where the rows
come from is the business of `ddhub.sources.source`; what becomes of one image is that of `ddhub.sources.resize`. Memory
does not grow with the data set: rows are read, decoded and written a few hundred at a time.
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
_CHUNK = 64, 2**24  # images a thread decodes at a time: this many, or fewer that have as many bytes
_AHEAD = 8  # chunks that are decoded before the first of them must be written


class Rows(NamedTuple):
    """Encoded images still to be read, and what they must be."""

    total: int | None  # None: only their end tells, as of rows that are picked from others
    fit: Fit
    classes: int
    batches: Iterator[Batch]

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Of the pixels of `count` images: N, C, S, S."""
        return (count, self.fit.channels, self.fit.side, self.fit.side)


class Decoded(NamedTuple):
    """Pixels and labels as arrays, and what there is to say about them.

    `fingerprint` is sha256 of shape, pixels and labels, and of `RULE` when any image was resized.
    """

    images: NDArray[np.uint8]  # [N, C, S, S]
    labels: NDArray[np.int64]  # [N]
    fingerprint: str
    jpeg: bool  # whether any image came as JPEG
    resized: int  # how many images had another size
    converted: dict[str, int]  # mode -> how many images came in it and were converted


def in_memory(title: str, rows: Rows) -> Decoded:
    """Decode all rows, and keep them in memory only."""
    buffer = io.BytesIO()
    labels, record = _decode_all(title, rows, buffer)
    buffer.seek(0)
    return Decoded(np.load(buffer), labels, **record)


def cached(title: str, identity: list[Any], rows: Callable[[], Rows]) -> Decoded:
    """What the cache holds for `identity` (whatever identifies the encoded data), or decode it now.

    The folder appears by renaming a finished sibling: a process that is killed leaves a sibling,
    which the next one removes; of two that decode at once, the slower one drops its copy.
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
            labels, found_out = _decode_all(title, encoded, file)
        np.save(sibling / "labels.npy", labels)
        sizes = {file.name: file.stat().st_size for file in sorted(sibling.iterdir())}
        meta = {"shape": encoded.shape(len(labels)), **found_out, "bytes": sizes}
        (sibling / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        decoded = _read_cache(sibling)  # a memory map outlives the name of its file
        _publish(sibling, folder)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise SourceError(
            f"cannot write the cache {cache} ({reason}); make room or set DDHUB_CACHE to elsewhere"
        ) from error
    finally:
        shutil.rmtree(sibling, ignore_errors=True)
    decoded = _read_cache(folder) or decoded
    if decoded is None:
        raise SourceError(f"{folder} cannot be read back; set DDHUB_CACHE to elsewhere")
    return decoded


def _decode_all(title: str, rows: Rows, file: IO[bytes]) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Write all pixels to `file` as .npy; return the labels, and the other facts of a `Decoded`.

    Plain writes and no memory map: on a full disk they raise, where a map kills the process. The shape comes first, in
    the file and in the fingerprint: one that is not known before the end makes the file be read once more.
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
    every = np.concatenate(labels)
    if not len(every):
        raise SourceError(f"{title} has no rows; {INSTEAD}")
    if rows.total is None:
        digest = _begin(file, rows.shape(len(every)))
        while pixels := file.read(_CHUNK[1]):
            digest.update(pixels)
    digest.update(every.astype("<i8").data)
    if resized:
        digest.update(RULE.encode())
    record = {"fingerprint": digest.hexdigest(), "jpeg": jpeg > 0, "resized": resized, "converted": dict(converted)}
    return every, record


def _begin(file: IO[bytes], shape: tuple[int, ...]) -> hashlib._Hash:
    """Write the header of a .npy file, as long for every number of images; return the hash of what comes next."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return hashlib.sha256(str(shape).encode())


def check_labels(names: Sequence[str], labels: NDArray[np.int64], classes: int) -> None:
    """SourceError unless all labels are those of classes; the names are the images'."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        name, label = names[wrong[0]], labels[wrong[0]]
        raise SourceError(f"{name}: label {label} is not one of 0..{classes - 1}; fetch it again")


def _read_cache(folder: Path) -> Decoded | None:
    """What a cache folder holds; None when it is absent or damaged. Pixels are not hashed again."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        sizes = {file: (folder / file).stat().st_size for file in ("images.npy", "labels.npy")}
        # "c", copy on write: torch has no read-only tensors, and warns about an array that is.
        images = np.load(folder / "images.npy", mmap_mode="c")
        labels = np.load(folder / "labels.npy")
        kinds = (images.dtype, labels.dtype) == (np.uint8, np.int64)
        shapes = [*images.shape] == meta["shape"] and labels.shape == images.shape[:1]
        if sizes == meta["bytes"] and kinds and shapes:
            counts = (meta.get("resized", 0), meta.get("converted", {}))  # older folders have neither, nor needed them
            return Decoded(images, labels, meta["fingerprint"], meta["jpeg"], *counts)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        pass  # whatever is wrong with it, decoding again is the cure
    return None


def _publish(sibling: Path, folder: Path) -> None:
    """Rename a finished sibling, unless another process was first; a damaged folder makes way."""
    try:
        os.rename(sibling, folder)
    except OSError:
        if _read_cache(folder) is None:
            damaged = sibling.with_name(f"{sibling.name}-damaged")
            with suppress(OSError):  # another process may be doing the same: then its copy stays
                os.rename(folder, damaged)
                os.rename(sibling, folder)
            shutil.rmtree(damaged, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove what processes of this machine left when they were killed."""
    left = re.compile(rf"\.tmp-{re.escape(platform.node())}-(\d+)-[0-9a-f]{{8}}(-damaged)?$")
    for sibling in cache.iterdir():
        owner = left.search(sibling.name)
        if owner and not is_alive(int(owner[1])):
            shutil.rmtree(sibling, ignore_errors=True)

"""Encoded images to decoded ones, once: into a cache that is mapped into memory from then on.

    CACHE/sources/cifar10-train-<key>/    images.npy     u8 [N, C, H, W]
                                          labels.npy     i64 [N]
                                          meta.json      shape, fingerprint, sizes of the files

CACHE is DDHUB_CACHE, else ~/.cache/ddhub; the key is a hash of whatever identifies the encoded data. Where the rows
come from is the business of `ddhub.sources`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ddhub._files import is_alive
from ddhub.errors import SourceError, first_line

INSTEAD = "pass --data ROOT or set DDHUB_DATA to a folder in the Hub's layout, or use cifar10-mini"
_CACHE_VERSION = 1  # part of every key: raise it when the same files would decode differently
_CHUNK = 256  # images a thread decodes at a time


class Batch(NamedTuple):
    """Successive rows of one file, still encoded."""

    where: str  # the file
    start: int  # its row that comes first
    images: list[bytes | None]
    labels: pa.Array


class Rows(NamedTuple):
    """Encoded images still to be read, and what they must be."""

    total: int
    image_size: tuple[int, int, int]  # C, H, W
    classes: int
    batches: Iterator[Batch]


class Decoded(NamedTuple):
    """Pixels and labels as arrays; `fingerprint` is sha256 of shape, pixels and labels."""

    images: NDArray[np.uint8]  # [N, C, H, W]
    labels: NDArray[np.int64]  # [N]
    jpeg: bool  # whether any image came as JPEG
    fingerprint: str


def in_memory(title: str, rows: Rows) -> Decoded:
    """Decode all rows, and keep them in memory only."""
    buffer = io.BytesIO()
    labels, jpeg, fingerprint = _decode_all(title, rows, buffer)
    buffer.seek(0)
    return Decoded(np.load(buffer), labels, jpeg, fingerprint)


def cached(title: str, facts: list[Any], rows: Callable[[], Rows]) -> Decoded:
    """What the cache holds for `facts` (whatever identifies the encoded data), or decode it now.

    The folder appears by renaming a finished sibling: a process that is killed leaves a sibling,
    which the next one removes; of two that decode at once, the slower one drops its copy.
    """
    key = hashlib.sha256(json.dumps([_CACHE_VERSION, facts]).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ddhub"
    cache = Path(os.environ.get("DDHUB_CACHE") or home).expanduser() / "sources"
    folder = cache / f"{title}-{key}"
    found = _read_cache(folder)
    if found is not None:
        return found
    encoded = rows()
    owner = f"{platform.node()}-{os.getpid()}"
    sibling = cache / f".{folder.name}.tmp-{owner}-{secrets.token_hex(4)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        sibling.mkdir()
        with open(sibling / "images.npy", "wb") as file:
            labels, jpeg, fingerprint = _decode_all(title, encoded, file)
        np.save(sibling / "labels.npy", labels)
        sizes = {file.name: file.stat().st_size for file in sorted(sibling.iterdir())}
        shape = [encoded.total, *encoded.image_size]
        meta = {"shape": shape, "fingerprint": fingerprint, "jpeg": jpeg, "bytes": sizes}
        (sibling / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        found = _read_cache(sibling)  # a memory map outlives the name of its file
        _publish(sibling, folder)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise SourceError(
            f"cannot write the cache {cache} ({reason}); make room or set DDHUB_CACHE to elsewhere"
        ) from error
    finally:
        shutil.rmtree(sibling, ignore_errors=True)
    found = _read_cache(folder) or found
    if found is None:
        raise SourceError(f"{folder} cannot be read back; set DDHUB_CACHE to elsewhere")
    return found


def _decode_all(title: str, rows: Rows, file: IO[bytes]) -> tuple[NDArray[np.int64], bool, str]:
    """Write all pixels to `file` as .npy; return labels, whether any was JPEG, the fingerprint.

    Plain writes and no memory map: on a full disk they raise, where a map kills the process.
    """
    if not rows.total:
        raise SourceError(f"{title} has no rows; {INSTEAD}")
    shape = (rows.total, *rows.image_size)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    digest, parts, jpeg = hashlib.sha256(str(shape).encode()), [], False
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        tqdm(total=rows.total, desc=f"decoding {title}", unit="img", disable=None) as bar,
    ):
        for batch in rows.batches:
            parts.append(_labels(batch, rows.classes))
            firsts = range(0, len(batch.images), _CHUNK)
            work = [(batch.where, batch.start + i, batch.images[i : i + _CHUNK]) for i in firsts]
            for pixels, lossy in pool.map(partial(_decode, rows.image_size), work):
                digest.update(pixels.data)
                file.write(pixels.data)
                jpeg |= lossy
                bar.update(len(pixels))
    labels = np.concatenate(parts)
    digest.update(labels.astype("<i8").data)
    return labels, jpeg, digest.hexdigest()


def _labels(batch: Batch, classes: int) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = batch.labels.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        row, label = batch.start + wrong[0], batch.labels[int(wrong[0])].as_py()
        raise SourceError(f"{batch.where}, row {row}: label {label} is not in 0..{classes - 1}; fetch it again")
    return labels


def _decode(size: tuple[int, int, int], chunk: tuple[str, int, list[bytes | None]]) -> tuple[NDArray[np.uint8], bool]:
    """Decode (file, first row, encoded images) to pixels [n, C, H, W]; and was any of them JPEG?"""
    where, start, encoded = chunk
    channels, height, width = size
    pixels, jpeg = np.empty((len(encoded), height, width, channels), np.uint8), False
    for i, data in enumerate(encoded):
        try:
            with Image.open(io.BytesIO(data or b""), formats=("PNG", "JPEG")) as image:
                if image.size != (width, height):
                    raise ValueError(f"{image.size} pixels instead of {(width, height)}")
                jpeg |= image.format == "JPEG"
                mode = "L" if channels == 1 else "RGB"
                wanted = image if image.mode == mode else image.convert(mode)
                # tobytes and not np.asarray: a fifth of the whole decoding for images this small.
                flat = np.frombuffer(wanted.tobytes(), np.uint8)
            pixels[i] = flat.reshape(height, width, channels)
        except Exception as error:  # Pillow raises many kinds for damaged bytes
            reason = re.sub(r" <_io.*>", "", first_line(error)) if data else "no bytes"
            raise SourceError(f"{where}, row {start + i}: not an image ({reason}); fetch it again") from error
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), jpeg


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
            return Decoded(images, labels, meta["jpeg"], meta["fingerprint"])
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

"""Real data by name: bytes, labels, class names, and a fingerprint of exactly these pixels.

A source is read from a data root in the layout of the Hub's repositories,

    ROOT/uoft-cs/cifar10/plain_text/train-00000-of-00001.parquet    img {bytes, path}, label

given as `root` or by DDHUB_DATA; without one it comes from the Hub through `datasets`. Images are
decoded once, into a cache (in DDHUB_CACHE, else ~/.cache/ddhub) that later calls map into memory:

    CACHE/sources/cifar10-train-<key>/    images.npy     u8 [N, C, H, W]
                                          labels.npy     i64 [N]
                                          meta.json      shape, fingerprint, sizes of the files

`cifar10-mini` is part of the package: it needs no root, no network and no cache.

>>> train = open_source("cifar10-mini")
>>> train.images.shape, train.classes[3]
(torch.Size([2000, 3, 32, 32]), 'cat')
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ddhub.errors import SourceError, unknown

_CACHE_VERSION = 1  # part of every key: raise it when the same files would decode differently
_BATCH = 4096  # rows read at a time, so that memory does not grow with the data set
_CHUNK = 256  # images a thread decodes at a time
_INSTEAD = "pass --data ROOT or set DDHUB_DATA to a folder in the Hub's layout, or use cifar10-mini"


@dataclass(frozen=True, kw_only=True)
class _Spec:
    """All there is to know about one data set: a new one is one more entry of `_KNOWN`."""

    title: str
    hub_id: str
    config: str  # as `datasets.load_dataset` calls it
    folder: str  # of the parquet files: inside hub_id, or inside the package when embedded
    splits: dict[str, str]  # our name -> the Hub's
    image_column: str
    label_column: str
    image_size: tuple[int, int, int]  # C, H, W
    classes: tuple[str, ...]  # in the order of the labels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    license: str
    lossless: bool  # whether the Hub's own images are, so that JPEG ones are a lossy copy
    embedded: bool = False
    notes: str = ""


_CIFAR10: dict[str, Any] = {
    "hub_id": "uoft-cs/cifar10",
    "config": "plain_text",
    "splits": {"train": "train", "test": "test"},
    "image_column": "img",
    "label_column": "label",
    "image_size": (3, 32, 32),
    "classes": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "license": "unknown (CIFAR-10 by Krizhevsky, 2009; see https://www.cs.toronto.edu/~kriz/cifar.html)",
    "lossless": True,
}
_KNOWN: dict[str, _Spec] = {
    "cifar10": _Spec(title="CIFAR-10", folder="plain_text", **_CIFAR10),
    "cifar10-mini": _Spec(
        title="CIFAR-10 mini",
        folder="assets/cifar10-mini",
        embedded=True,
        notes="first 200 training / 100 test images of each class",
        **_CIFAR10,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One split of a real data set.

    `images` is a copy-on-write view of a memory map: writing to it never reaches the cache. `mean`
    and `std` are per channel in unit scale; `fingerprint` is sha256 of shape, pixels and labels.
    """

    name: str
    split: str
    images: Tensor  # u8 [N, C, H, W]
    labels: Tensor  # i64 [N]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hub_id: str
    license: str
    notes: str
    fingerprint: str

    @property
    def label(self) -> str:
        """The name for tables and texts: 'CIFAR-10', or 'CIFAR-10 (JPEG copy)'."""
        title = _KNOWN[self.name].title if self.name in _KNOWN else self.name
        return f"{title} ({self.notes})" if self.notes else title


class _Rows(NamedTuple):
    """Encoded images still to be read: `batches` yields (file, its row that comes first, batch)."""

    total: int
    batches: Iterator[tuple[str, int, pa.RecordBatch]]


class _Decoded(NamedTuple):
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    jpeg: bool  # whether any image came as JPEG
    fingerprint: str


def names() -> tuple[str, ...]:
    """The names that `open_source` knows."""
    return tuple(_KNOWN)


def open_source(name: str, split: str = "train", *, root: str | Path | None = None) -> Source:
    """Open the "train" or "test" split of a data set; the first time, decode it into the cache.

    Raises UsageError for an unknown name or split; SourceError for data that is missing (a root
    without the files is never replaced by a download), damaged, or not what its name says.
    """
    if name not in _KNOWN:
        raise unknown("data set", name, _KNOWN)
    spec = _KNOWN[name]
    if split not in spec.splits:
        raise unknown("split", split, spec.splits, f"of {name}")
    hub_split, root = spec.splits[split], root or os.environ.get("DDHUB_DATA")
    if spec.embedded:
        decoded = _embedded(spec, hub_split)
    elif root:
        files = _shards(spec, hub_split, Path(root).expanduser())
        facts: list[Any] = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        decoded = _cached(f"{name}-{split}", facts, spec, partial(_parquet_rows, spec, files))
    else:
        # No revision among these facts: data that was decoded once needs no network any more.
        facts = ["hub", spec.hub_id, spec.config, hub_split]
        decoded = _cached(f"{name}-{split}", facts, spec, partial(_hub_rows, spec, hub_split))
    copied = "JPEG copy" if decoded.jpeg and spec.lossless else ""
    return Source(
        name=name,
        split=split,
        images=torch.from_numpy(decoded.images),
        labels=torch.from_numpy(decoded.labels),
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        hub_id=spec.hub_id,
        license=spec.license,
        notes="; ".join(filter(None, (copied, spec.notes))),
        fingerprint=decoded.fingerprint,
    )


# Encoded rows, from parquet files or from the Hub


def _shards(spec: _Spec, split: str, root: Path) -> list[Path]:
    """The parquet files of a split: all of them, in order."""
    folder, pattern = root / spec.hub_id / spec.folder, f"{split}-*.parquet"
    files = sorted(folder.glob(pattern))
    if not files:
        raise SourceError(f"no {spec.title} in {root}: no {folder / pattern}; {_INSTEAD}")
    last = re.search(r"-of-(\d+)", files[-1].name)
    total = int(last[1]) if last else 1
    wanted = [folder / f"{split}-{i:05d}-of-{total:05d}.parquet" for i in range(total)]
    for file in wanted:
        if file not in files:
            raise SourceError(f"{spec.title} is incomplete: no {file}; copy that shard there too")
    for file in files:
        if file not in wanted:
            raise SourceError(f"{file} is not one of the {total} shards beside it; remove it")
    return files


def _parquet_rows(spec: _Spec, files: list[Path]) -> _Rows:
    def batches() -> Iterator[tuple[str, int, pa.RecordBatch]]:
        for path, file in zip(files, opened, strict=True):
            start = 0
            with _reading(path):
                for batch in file.iter_batches(_BATCH, columns=columns):
                    yield str(path), start, batch
                    start += batch.num_rows

    opened, columns = [], [spec.image_column, spec.label_column]
    for path in files:
        with _reading(path):
            opened.append(pq.ParquetFile(path))
            _check_schema(spec, opened[-1].schema_arrow, str(path))
    return _Rows(sum(file.metadata.num_rows for file in opened), batches())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"cannot read {path} ({_reason(error)}); fetch it again") from error


def _hub_rows(spec: _Spec, split: str) -> _Rows:
    try:
        import datasets  # here because it takes a second, and only the Hub needs it

        found = datasets.load_dataset(spec.hub_id, spec.config, split=split)
    except Exception as error:  # no `datasets`, no network, no repository: all kinds of errors
        reason = _reason(error)
        raise SourceError(f"cannot get {spec.hub_id} from the Hub ({reason}); {_INSTEAD}") from error
    where = f"{spec.hub_id} (Hub, {split})"
    _check_schema(spec, found.features.arrow_schema, where)
    # In any format but arrow `datasets` would decode the images itself, one after the other.
    rows = found.select_columns([spec.image_column, spec.label_column]).with_format("arrow")
    starts = range(0, found.num_rows, _BATCH)
    tables = (rows[start : start + _BATCH].combine_chunks() for start in starts)
    batches = ((where, i, t.to_batches()[0]) for i, t in zip(starts, tables, strict=True))
    return _Rows(found.num_rows, batches)


def _check_schema(spec: _Spec, schema: pa.Schema, where: str) -> None:
    """Check the columns, their types and, where they are recorded, the names of the classes."""
    image, label = spec.image_column, spec.label_column
    for column in (image, label):
        if column not in schema.names:
            has = ", ".join(schema.names)
            raise SourceError(f"{where} has no column {column!r} but {has}; is it {spec.hub_id}?")
    types = schema.field(image).type, schema.field(label).type
    encoded = pa.types.is_struct(types[0]) and types[0].get_field_index("bytes") >= 0
    if not encoded or not pa.types.is_integer(types[1]):
        raise SourceError(
            f"{where}: {image} is {types[0]} and {label} is {types[1]}, not encoded images"
            f" and integers; is it {spec.hub_id}?"
        )
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    classes = info.get("features", {}).get(label, {}).get("names", spec.classes)
    if tuple(classes) != spec.classes:
        raise SourceError(
            f"{where} has the classes {', '.join(classes[:12])}, not {', '.join(spec.classes[:12])}"
            f" in this order; is it {spec.hub_id}?"
        )


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# Decoding


def _decode_all(rows: _Rows, spec: _Spec, title: str, file: IO[bytes]) -> tuple[NDArray[np.int64], bool, str]:
    """Write all pixels to `file` as .npy; return labels, whether any was JPEG, the fingerprint.

    Plain writes and no memory map: on a full disk they raise, where a map kills the process.
    """
    if not rows.total:
        raise SourceError(f"{title} has no rows; {_INSTEAD}")
    shape = (rows.total, *spec.image_size)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    digest, parts, jpeg = hashlib.sha256(str(shape).encode()), [], False
    with (
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        tqdm(total=rows.total, desc=f"decoding {title}", unit="img", disable=None) as bar,
    ):
        for where, start, batch in rows.batches:
            parts.append(_labels(spec, where, start, batch.column(spec.label_column)))
            data = batch.column(spec.image_column).field("bytes").to_pylist()
            firsts = range(0, len(data), _CHUNK)
            work = [(where, start + i, data[i : i + _CHUNK]) for i in firsts]
            for pixels, lossy in pool.map(partial(_decode, spec.image_size), work):
                digest.update(pixels.data)
                file.write(pixels.data)
                jpeg |= lossy
                bar.update(len(pixels))
    labels = np.concatenate(parts)
    digest.update(labels.astype("<i8").data)
    return labels, jpeg, digest.hexdigest()


def _labels(spec: _Spec, where: str, start: int, column: pa.Array) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = column.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(spec.classes)))
    if wrong.size:
        row, label = start + wrong[0], column[int(wrong[0])].as_py()
        allowed = f"0..{len(spec.classes) - 1}"
        raise SourceError(f"{where}, row {row}: label {label} is not in {allowed}; fetch it again")
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
            reason = re.sub(r" <_io.*>", "", _reason(error)) if data else "no bytes"
            raise SourceError(f"{where}, row {start + i}: not an image ({reason}); fetch it again") from error
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), jpeg


# Where the pixels stay: in memory for embedded data, in the cache for all other


def _embedded(spec: _Spec, split: str) -> _Decoded:
    buffer = io.BytesIO()
    with resources.as_file(resources.files("ddhub") / spec.folder / f"{split}.parquet") as path:
        rows = _parquet_rows(spec, [path])
        labels, jpeg, fingerprint = _decode_all(rows, spec, spec.title, buffer)
    buffer.seek(0)
    return _Decoded(np.load(buffer), labels, jpeg, fingerprint)


def _cached(title: str, facts: list[Any], spec: _Spec, rows: Callable[[], _Rows]) -> _Decoded:
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
            labels, jpeg, fingerprint = _decode_all(encoded, spec, title, file)
        np.save(sibling / "labels.npy", labels)
        sizes = {file.name: file.stat().st_size for file in sorted(sibling.iterdir())}
        shape = [encoded.total, *spec.image_size]
        meta = {"shape": shape, "fingerprint": fingerprint, "jpeg": jpeg, "bytes": sizes}
        (sibling / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        found = _read_cache(sibling)  # a memory map outlives the name of its file
        _publish(sibling, folder)
    except OSError as error:
        reason = error.strerror or _reason(error)
        raise SourceError(
            f"cannot write the cache {cache} ({reason}); make room or set DDHUB_CACHE to elsewhere"
        ) from error
    finally:
        shutil.rmtree(sibling, ignore_errors=True)
    found = _read_cache(folder) or found
    if found is None:
        raise SourceError(f"{folder} cannot be read back; set DDHUB_CACHE to elsewhere")
    return found


def _read_cache(folder: Path) -> _Decoded | None:
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
            return _Decoded(images, labels, meta["jpeg"], meta["fingerprint"])
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
        if owner := left.search(sibling.name):
            try:
                os.kill(int(owner[1]), 0)  # signal 0 only asks: is it alive?
            except ProcessLookupError:
                shutil.rmtree(sibling, ignore_errors=True)
            except PermissionError:
                continue  # alive, and someone else's

"""Real data by name: bytes, labels, class names, and a fingerprint of exactly these pixels.

A source is read from a data root in the layout of the Hub's repositories,

    ROOT/uoft-cs/cifar10/plain_text/train-00000-of-00001.parquet    img {bytes, path}, label

given as `root` or by DDHUB_DATA; without one it comes from the Hub through `datasets`. Images are decoded once, into
a cache (`ddhub._decoded`). `cifar10-mini` is part of the package: it needs no root, no network and no cache.

>>> train = open_source("cifar10-mini")
>>> train.images.shape, train.classes[3]
(torch.Size([2000, 3, 32, 32]), 'cat')
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ddhub import _decoded
from ddhub._decoded import INSTEAD, Batch, Rows
from ddhub.errors import SourceError, first_line, unknown

_BATCH = 4096  # rows read at a time, so that memory does not grow with the data set


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
        with resources.as_file(resources.files("ddhub") / spec.folder / f"{hub_split}.parquet") as file:
            decoded = _decoded.in_memory(spec.title, _parquet_rows(spec, [file]))
    elif root:
        files = _shards(spec, hub_split, Path(root).expanduser())
        facts: list[Any] = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        decoded = _decoded.cached(f"{name}-{split}", facts, partial(_parquet_rows, spec, files))
    else:
        # No revision among these facts: data that was decoded once needs no network any more.
        facts = ["hub", spec.hub_id, spec.config, hub_split]
        decoded = _decoded.cached(f"{name}-{split}", facts, partial(_hub_rows, spec, hub_split))
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
        raise SourceError(f"no {spec.title} in {root}: no {folder / pattern}; {INSTEAD}")
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


def _parquet_rows(spec: _Spec, files: list[Path]) -> Rows:
    def batches() -> Iterator[Batch]:
        for path, file in zip(files, opened, strict=True):
            start = 0
            with _reading(path):
                for batch in file.iter_batches(_BATCH, columns=columns):
                    yield _batch(spec, str(path), start, batch)
                    start += batch.num_rows

    opened, columns = [], [spec.image_column, spec.label_column]
    for path in files:
        with _reading(path):
            opened.append(pq.ParquetFile(path))
            _check_schema(spec, opened[-1].schema_arrow, str(path))
    return _rows(spec, sum(file.metadata.num_rows for file in opened), batches())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"cannot read {path} ({first_line(error)}); fetch it again") from error


def _hub_rows(spec: _Spec, split: str) -> Rows:
    try:
        import datasets  # here because it takes a second, and only the Hub needs it

        found = datasets.load_dataset(spec.hub_id, spec.config, split=split)
    except Exception as error:  # no `datasets`, no network, no repository: all kinds of errors
        reason = first_line(error)
        raise SourceError(f"cannot get {spec.hub_id} from the Hub ({reason}); {INSTEAD}") from error
    where = f"{spec.hub_id} (Hub, {split})"
    _check_schema(spec, found.features.arrow_schema, where)
    # In any format but arrow `datasets` would decode the images itself, one after the other.
    rows = found.select_columns([spec.image_column, spec.label_column]).with_format("arrow")
    starts = range(0, found.num_rows, _BATCH)
    tables = (rows[start : start + _BATCH].combine_chunks() for start in starts)
    batches = (_batch(spec, where, i, t.to_batches()[0]) for i, t in zip(starts, tables, strict=True))
    return _rows(spec, found.num_rows, batches)


def _rows(spec: _Spec, total: int, batches: Iterator[Batch]) -> Rows:
    return Rows(total, spec.image_size, len(spec.classes), batches)


def _batch(spec: _Spec, where: str, start: int, rows: pa.RecordBatch) -> Batch:
    images = rows.column(spec.image_column).field("bytes").to_pylist()
    return Batch(where, start, images, rows.column(spec.label_column))


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

"""Real data by name: pixels, labels, class names, and a fingerprint of the pixels.

A source is read from a data root in the layout of the Hub's repositories,

    ROOT/uoft-cs/cifar10/plain_text/train-00000-of-00001.parquet    img {bytes, path}, label

The root is `root` or DDHUB_DATA; without one the data comes from the Hub through `datasets`. Images are decoded once,
into a cache (`ddhub.sources.cache`). `cifar10-mini` is part of the package: it needs no root, network or cache. Names
are those of `ddhub.sources.known`, and `folder:PATH` for the user's own images (`ddhub.sources.folder`). A subset of
another data set (`ddhub.sources.subsets`) is read from the files of the whole: only images of its classes are decoded
and cached. From the Hub the files are streamed and not stored.

Images are square. With a `size` other than the data set's side, the centre square of each image is resized bilinearly
with antialiasing, and the notes say so. Imagenette and Imagewoof exist at several scales; the smallest one that is
large enough is read. The default size of subsets of ImageNet-1k is 128 px.

>>> train = open_source("cifar10-mini")
>>> train.images.shape, train.classes[3]
(torch.Size([2000, 3, 32, 32]), 'cat')
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ddhub.errors import SourceError, UsageError, first_line, shown, unknown
from ddhub.io.rules import is_whole
from ddhub.sources import cache, held_out
from ddhub.sources import folder as _folder
from ddhub.sources.cache import INSTEAD, Decoded, Rows
from ddhub.sources.known import FOLDER, KNOWN, Copy, Known, find
from ddhub.sources.resize import RULE, Batch, Fit

_LARGEST = 4096  # side in pixels; an RGB image of this size takes 50 MB
_BATCH = 512  # rows read at a time, so that memory does not grow with the data set


@dataclass(frozen=True, kw_only=True)
class Source:
    """One split of a real data set.

    `images` is a copy-on-write view of a memory map: writing to it does not change the cache. `mean` and `std` are per
    channel in unit scale. `fingerprint` is the sha256 of shape, pixels and labels, and of the rule of resizing if an
    image was resized. `name` is the name in manifests, without the path of a folder; `address` is the name that
    `open_source` takes.
    """

    name: str
    address: str
    split: str
    images: Tensor  # u8 [N, C, S, S]
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
        """The title for tables and texts, with the notes: 'CIFAR-10', or 'CIFAR-10 (JPEG copy)'."""
        whole = self.name.partition("/")[0]
        title = KNOWN[whole].title if whole in KNOWN else self.name
        return f"{title} ({self.notes})" if self.notes else title


def names() -> tuple[str, ...]:
    """The names that `open_source` takes, besides `folder:PATH`."""
    return tuple(KNOWN)


def open_source(name: str, split: str = "train", *, root: str | Path | None = None, size: int | None = None) -> Source:
    """Open the "train" or "test" split of a data set; the first call decodes it into the cache.

    Args:
        name: one of `names()`, `NAME/COUNT` for the training images of one, split (`ddhub.sources.held_out`), or
            `folder:PATH`.
        split: "train" or "test".
        root: folder of real data in the Hub's layout; by default DDHUB_DATA, else the Hub itself.
        size: side of the images in pixels; by default the data set's.

    Raises:
        UsageError: the name or the split is unknown, or images have many sizes and `size` is None.
        SourceError: data is missing (files that a root lacks are not downloaded), damaged, or not what its name says.
    """
    if not isinstance(name, str):
        raise UsageError(f"data set {shown(name)} is no name; give one of {', '.join(names())}, or {FOLDER}PATH")
    if size is not None and not (is_whole(size) and 1 <= size <= _LARGEST):
        raise UsageError(f"size {shown(size)} cannot be the side of images; give 1 to {_LARGEST} pixels")
    if name.startswith(FOLDER):
        if split not in ("train", "test"):
            raise unknown("split", split, ("train", "test"), f"of {name}")
        return _from_folder(name, split, size)
    whole, count = held_out.count_of(name)
    if count:
        if split not in ("train", "test"):
            raise unknown("split", split, ("train", "test"), f"of {name}")
        return held_out.parts(open_source(whole, "train", root=root, size=size), count)[split == "test"]
    spec = find(name)
    if split not in spec.splits:
        raise unknown("split", split, spec.splits, f"of {name}")
    decoded, notes = _open(name, spec, split, root or os.environ.get("DDHUB_DATA"), size)
    copied = "JPEG copy" if decoded.jpeg and spec.lossless else ""
    return Source(
        name=name,
        address=name,
        split=split,
        images=torch.from_numpy(decoded.images),
        labels=torch.from_numpy(decoded.labels),
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        hub_id=spec.hub_id,
        license=spec.license,
        notes="; ".join(filter(None, (copied, spec.notes, *notes))),
        fingerprint=decoded.fingerprint,
    )


def _from_folder(name: str, split: str, size: int | None) -> Source:
    tree, decoded, notes = _folder.open_folder(name, split, size)
    # ImageNet's constants, or their averages for grey images: statistics of the pixels would differ between the splits.
    grey = decoded.images.shape[1] == 1
    return Source(
        name=tree.name,
        address=name,
        split=split,
        images=torch.from_numpy(decoded.images),
        labels=torch.from_numpy(decoded.labels),
        classes=tree.classes,
        mean=(0.449,) if grey else (0.485, 0.456, 0.406),
        std=(0.226,) if grey else (0.229, 0.224, 0.225),
        hub_id="",
        license="unknown (a folder of the user's own)",
        notes="; ".join(notes),
        fingerprint=decoded.fingerprint,
    )


def _open(name: str, spec: Known, split: str, root: str | Path | None, size: int | None) -> tuple[Decoded, list[str]]:
    """The decoded images, and notes on the copy that was read and on resizing."""
    hub_split, top, size = spec.splits[split], Path(root or "").expanduser() / spec.hub_id, size or spec.side
    if spec.embedded:
        copies = spec.copies
    elif root:
        copies = tuple(copy for copy in spec.copies if (top / copy.folder).is_dir()) or spec.copies[:1]
    else:
        copies = tuple(copy for copy in spec.copies if copy.config)
    copy = _choose(spec, copies, size)
    side = size or copy.shorter
    assert side is not None, "a copy is chosen without a size only if it has one"
    stored = copy.shorter if copy.square else None
    fit = Fit(spec.channels, side, stored)
    resizing = [] if side == stored else [["size", side, RULE]]  # the key of images that are not resized has no size
    picking = [["labels", *spec.imagenet]] if spec.part_of else []
    title = f"{name}-{split}" + (f"-{side}px" if resizing else "")
    if spec.embedded:
        with resources.as_file(resources.files("ddhub") / copy.folder / f"{hub_split}.parquet") as file:
            decoded = cache.in_memory(spec.title, _parquet_rows(spec, fit, [file]))
    elif root:
        files = _shards(spec, top / copy.folder, hub_split)
        identity: list[Any] = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        decoded = cache.cached(title, identity + resizing + picking, partial(_parquet_rows, spec, fit, files))
    else:
        # The identity has no revision, so that decoded data needs no network.
        identity = ["hub", spec.hub_id, copy.config, hub_split]
        rows = partial(_hub_rows, spec, fit, str(copy.config), hub_split)
        decoded = cache.cached(title, identity + resizing + picking, rows)
    notes = [f"{copy.folder} copy"] if len(spec.copies) > 1 else []
    return decoded, notes + ([f"{RULE} to {side} px"] if decoded.resized else [])


def _choose(spec: Known, copies: Sequence[Copy], size: int | None) -> Copy:
    """The smallest copy that is large enough, else the largest; without a size the copy of square images."""
    if size is None:
        square = next((copy for copy in copies if copy.square), None)
        if square is None:
            raise UsageError(f"{spec.title} has images of many sizes; give size= (--size 128)")
        return square
    return next((copy for copy in copies if copy.shorter is None or copy.shorter >= size), copies[-1])


# Encoded rows, from parquet files or from the Hub


def _shards(spec: Known, folder: Path, split: str) -> list[Path]:
    """All parquet files of a split, in order; in some repositories their names end in a hash. Raises SourceError."""
    shape, pattern = re.compile(rf"{split}-(\d{{5}})-of-(\d{{5}})(-[0-9a-f]{{16}})?\.parquet"), f"{split}-*.parquet"
    files = sorted(folder.glob(pattern))
    if not files:
        raise SourceError(f"no {spec.title} in {folder.parents[2]}: no {folder / pattern}; {INSTEAD}")
    matches = [shape.fullmatch(file.name) for file in files]
    total = max((int(match[2]) for match in matches if match), default=1)
    numbers = [int(match[1]) if match and int(match[2]) == total else -1 for match in matches]
    for i in range(total):
        if i not in numbers:
            missing = folder / f"{split}-{i:05d}-of-{total:05d}.parquet"
            raise SourceError(f"{spec.title} is incomplete: no {missing}; copy that shard there too")
    for i, (number, file) in enumerate(zip(numbers, files, strict=True)):
        if number < 0 or number in numbers[:i]:
            raise SourceError(f"{file} is not one of the {total} shards in its folder; remove it")
    return files


def _parquet_rows(spec: Known, fit: Fit, files: list[Path]) -> Rows:
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
            opened.append(pq.ParquetFile(path, pre_buffer=False))  # a pre-buffer keeps everything that was read
            _check_schema(spec, opened[-1].schema_arrow, str(path))
    total = None if spec.part_of else sum(file.metadata.num_rows for file in opened)
    return Rows(total, fit, len(spec.classes), batches())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"cannot read {path} ({first_line(error)}); fetch it again") from error


def _hub_rows(spec: Known, fit: Fit, config: str, split: str) -> Rows:
    def batches() -> Iterator[Batch]:
        start = 0
        with _requesting(spec):
            for table in rows.iter(_BATCH):
                yield _batch(spec, where, start, table.combine_chunks().to_batches()[0])
                start += table.num_rows

    with _requesting(spec):
        import datasets  # imported here because it takes a second and only the Hub needs it

        dataset = datasets.load_dataset(spec.hub_id, config, split=split, **{"streaming": True} if spec.part_of else {})
    where = f"{spec.hub_id} (Hub, {split})"
    _check_schema(spec, dataset.features.arrow_schema, where)
    # In formats other than arrow, `datasets` would decode the images itself, one after the other.
    rows = dataset.select_columns([spec.image_column, spec.label_column]).with_format("arrow")
    return Rows(None if spec.part_of else dataset.num_rows, fit, len(spec.classes), batches())


@contextmanager
def _requesting(spec: Known) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # no `datasets`, no network, no repository: all kinds of errors
        terms = "accept its terms there and log in (hf auth login), or " if spec.gated else ""
        raise SourceError(f"cannot get {spec.hub_id} from the Hub ({first_line(error)}); {terms}{INSTEAD}") from error


def _batch(spec: Known, where: str, start: int, rows: pa.RecordBatch) -> Batch:
    """Encoded images with their labels; for a subset only rows of its classes, with the labels of the subset."""
    names = [f"{where}, row {start + i}" for i in range(rows.num_rows)]
    labels = rows.column(spec.label_column).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    if spec.part_of:
        cache.check_labels(names, labels, len(find(spec.part_of).classes))
        kept = np.flatnonzero(np.isin(labels, spec.imagenet))
        names, rows = [names[i] for i in kept], rows.take(pa.array(kept))
        labels = np.array([spec.imagenet.index(label) for label in labels[kept]], np.int64)
    return Batch(names, rows.column(spec.image_column).field("bytes").to_pylist(), labels)


def _check_schema(spec: Known, schema: pa.Schema, where: str) -> None:
    """Raise SourceError for wrong columns, types or, if the file has them, class names."""
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
    whole = find(spec.part_of) if spec.part_of else spec
    classes = info.get("features", {}).get(label, {}).get("names", whole.classes)
    if not whole.names_agree(classes):
        raise SourceError(
            f"{where} has the classes {', '.join(classes[:12])}, not {', '.join(whole.classes[:12])}"
            f" in this order; is it {spec.hub_id}?"
        )

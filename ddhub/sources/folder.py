"""A user's own images, `folder:PATH`, in one folder a class.

    PATH/train/CLASS/*.jpg    and    PATH/test/CLASS/*.jpg (or PATH/val)
    PATH/CLASS/*.jpg                 training images only

Classes are the names of the folders, sorted; both splits must have the same ones, each with an image. Images may lie
in subfolders of a class (`CLASS/images/0.png`); links to folders are not followed there. Other files are left out and
counted in the notes. If every image of PATH is grey, the data set has one channel; otherwise all images become RGB.
Photographs are turned according to their EXIF orientation. Cache keys hold names, sizes and times of the files but not
PATH, so that the folder can move.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from ddhub.errors import SourceError
from ddhub.sources import cache
from ddhub.sources.cache import Decoded, Rows
from ddhub.sources.known import FOLDER
from ddhub.sources.resize import RULE, Batch, Fit, header_of, is_grey

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_CLUTTER = ("thumbs.db", "desktop.ini")  # files of file managers, skipped like names that begin with a dot
_REPAIR = "repair or remove it"
_FILES = 256  # files in a batch
_LOOKED_AT = 1000  # files whose headers say what side suits a folder


class Images(NamedTuple):
    """One split: image files by class, and other files."""

    top: Path
    classes: dict[str, list[Path]]  # in the order of the labels
    others: list[Path]

    def files(self) -> list[Path]:
        return [file for files in self.classes.values() for file in files]


class Tree(NamedTuple):
    """The splits of `folder:PATH`."""

    name: str  # folder:BASENAME
    splits: dict[str, Images]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(next(iter(self.splits.values())).classes)


def read_tree(name: str) -> Tree:
    """The files of `folder:PATH`, listed but not opened. Raises SourceError if the folder is not such a tree."""
    path = Path(name.removeprefix(FOLDER)).expanduser()
    if name == FOLDER or not path.is_dir():
        raise SourceError(f"no folder {str(path)!r}; give the path of your images, as in {FOLDER}/home/me/flowers")
    candidates = {"train": [path / "train"], "test": [path / "test", path / "val"]}
    existing = {split: next(filter(Path.is_dir, tops), None) for split, tops in candidates.items()}
    tops = {split: top for split, top in existing.items() if top} or {"train": path}
    try:
        splits = {split: _images(top) for split, top in tops.items()}
    except OSError as error:
        raise SourceError(f"cannot read {error.filename} ({error.strerror}); make it readable") from error
    first, *rest = splits.values()
    other = rest[0] if rest else first
    if odd := sorted(first.classes.keys() ^ other.classes.keys()):
        has, lacks = (first, other) if odd[0] in first.classes else (other, first)
        raise SourceError(f"class {odd[0]!r} is in {has.top} and not in {lacks.top}; both need the same folders")
    return Tree(f"{FOLDER}{path.resolve().name}", splits)


def headers(files: Sequence[Path]) -> Iterator[tuple[int, int, str]]:
    """Width, height and mode of images, from their headers. Raises SourceError."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(partial(header_of, repair=_REPAIR), files)


def usual_side(name: str) -> int | None:
    """A side in pixels for images of many sizes or forms; None where all are squares of one size.

    It is 64, or 32 where half of the images are smaller than that. Of a large folder some images are looked at.

    Raises:
        SourceError: as `read_tree`, and for a file that is no image.
    """
    files = [file for part in read_tree(name).splits.values() for file in part.files()]
    return side_of([(width, height) for width, height, _ in headers(files[:: -(-len(files) // _LOOKED_AT)])])


def side_of(sizes: Sequence[tuple[int, int]]) -> int | None:
    """As `usual_side`, of widths and heights in pixels."""
    if len(set(sizes)) == 1 and sizes[0][0] == sizes[0][1]:
        return None
    return 64 if median(map(min, sizes)) >= 64 else 32


def open_folder(name: str, split: str, size: int | None) -> tuple[Tree, Decoded, list[str]]:
    """The tree, the decoded images of one split, and notes on their decoding.

    Raises SourceError for a missing split, a damaged file, and images of different sizes if `size` is None.
    """
    tree = read_tree(name)
    if split not in tree.splits:
        folder = f"{split} or {name.removeprefix(FOLDER)}/val" if split == "test" else split
        raise SourceError(f"{name} has no {split} images; put them into {name.removeprefix(FOLDER)}/{folder}, by class")
    images = tree.splits[split]
    side = size or _side(images.files()[0])
    # The key covers both splits: one coloured image in either makes all of them RGB.
    stats = {
        key: [(file.relative_to(part.top).as_posix(), *_stat(file)) for file in part.files()]
        for key, part in tree.splits.items()
    }
    identity = ["folder", split, stats, side, RULE]
    title = re.sub(r"[^A-Za-z0-9._-]", "_", f"{tree.name}-{split}-{side}px")
    decoded = cache.cached(title, identity, partial(_rows, tree, split, side, size is None))
    if size is None and decoded.resized:
        raise SourceError(f"{name} has images of many sizes; {_advice(side)}")
    notes = []
    if decoded.resized:
        notes.append(f"{RULE} to {side} px")
    if decoded.converted:
        counts = ", ".join(f"{count} {mode}" for mode, count in sorted(decoded.converted.items()))
        notes.append(f"converted to {'grey' if decoded.images.shape[1] == 1 else 'RGB'}: {counts}")
    if images.others:
        notes.append(f"{len(images.others)} files that are not images left out")
    return tree, decoded, notes


def _images(top: Path) -> Images:
    """The image files below `top`, by class. Raises OSError."""
    entries = sorted(x for x in top.iterdir() if not _is_clutter(x.name))
    classes, others = {}, [x for x in entries if not x.is_dir()]
    for folder in filter(Path.is_dir, entries):
        paths = _walk(folder)
        files = [file for file in paths if file.suffix.lower() in _SUFFIXES]
        others += [file for file in paths if file.suffix.lower() not in _SUFFIXES]
        if not files:
            raise SourceError(f"class {folder.name!r} has no images in {folder}; add some or remove the folder")
        classes[folder.name] = files
    if not classes:
        raise SourceError(f"no folders of images in {top}; there must be one for each class")
    return Images(top, classes, others)


def _stat(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:  # such as a broken link
        raise SourceError(f"cannot read {file} ({error.strerror}); {_REPAIR}") from error
    return status.st_size, status.st_mtime_ns


def _walk(folder: Path) -> list[Path]:
    """All files below a folder, sorted. Raises OSError for a folder that cannot be read."""

    def fail(error: OSError) -> None:
        raise error

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not _is_clutter(name)]
        files += [Path(parent, name) for name in names if not _is_clutter(name)]
    return sorted(files)


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _side(file: Path) -> int:
    width, height, _ = header_of(file, _REPAIR)
    if width != height:
        raise SourceError(f"{file} is not a square ({width}x{height} pixels); {_advice(min(width, height))}")
    return width


def _advice(side: int) -> str:
    return f"give one side in pixels for all images: size={side} (--size {side})"


def _rows(tree: Tree, split: str, side: int, strict: bool) -> Rows:
    images = tree.splits[split]
    files = images.files()
    grey = all(is_grey(mode) for _, _, mode in headers([x for part in tree.splits.values() for x in part.files()]))
    fit = Fit(1 if grey else 3, side, side if strict else None, True, _REPAIR, _advice(side))
    sizes = [len(of_class) for of_class in images.classes.values()]
    labels = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    parts = [slice(i, i + _FILES) for i in range(0, len(files), _FILES)]
    batches = (Batch([str(file) for file in files[part]], files[part], labels[part]) for part in parts)
    return Rows(len(files), fit, len(sizes), batches)

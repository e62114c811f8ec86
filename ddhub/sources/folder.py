"""A user's own images, `folder:PATH`: one folder a class, as most tools read them.

    PATH/train/CLASS/*.jpg    and    PATH/test/CLASS/*.jpg (or PATH/val)
    PATH/CLASS/*.jpg                 training images alone

Classes are the names of the folders, sorted; both splits must have the same ones, each with an image. Images may lie
deeper inside a class (`CLASS/images/0.png`); links to folders are not followed there. Other files are left out, and
counted in the notes. If every image of PATH is grey, so is the data set; otherwise all become RGB. Photographs are
turned as their EXIF entry says. Cache keys hold names, sizes and times of the files, so that PATH may move.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddhub.errors import SourceError
from ddhub.sources import cache
from ddhub.sources.cache import Decoded, Rows
from ddhub.sources.known import FOLDER
from ddhub.sources.resize import RULE, Batch, Fit, is_grey, size_of

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_CLUTTER = ("thumbs.db", "desktop.ini")  # what file managers leave behind, like files whose names begin with a dot
_REPAIR = "repair or remove it"
_FILES = 256  # files of a batch


class Images(NamedTuple):
    """One split: image files by class, and how many other files there were."""

    top: Path
    classes: dict[str, list[Path]]  # in the order of the labels
    others: int

    def files(self) -> list[Path]:
        return [file for files in self.classes.values() for file in files]


class Tree(NamedTuple):
    """All of `folder:PATH`."""

    name: str  # folder:BASENAME
    splits: dict[str, Images]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(next(iter(self.splits.values())).classes)


def read_tree(name: str) -> Tree:
    """The files of `folder:PATH`, none of them opened. Raises SourceError for a folder that is no such tree."""
    path = Path(name.removeprefix(FOLDER)).expanduser()
    if name == FOLDER or not path.is_dir():
        raise SourceError(f"no folder {str(path)!r}; give the path of your images, as in {FOLDER}/home/me/flowers")
    tops = {"train": [path / "train"], "test": [path / "test", path / "val"]}
    there = {split: next((top for top in either if top.is_dir()), None) for split, either in tops.items()}
    splits_found = {split: top for split, top in there.items() if top} or {"train": path}
    try:
        splits = {split: _images(top) for split, top in splits_found.items()}
    except OSError as error:
        raise SourceError(f"cannot read {error.filename} ({error.strerror}); make it readable") from error
    first, *rest = splits.values()
    other = rest[0] if rest else first
    if odd := sorted(first.classes.keys() ^ other.classes.keys()):
        has, lacks = (first, other) if odd[0] in first.classes else (other, first)
        raise SourceError(f"class {odd[0]!r} is in {has.top} and not in {lacks.top}; both need the same folders")
    return Tree(f"{FOLDER}{path.resolve().name}", splits)


def open_folder(name: str, split: str, size: int | None) -> tuple[Tree, Decoded, list[str]]:
    """The tree, the decoded images of one split and notes on what became of them.

    Raises SourceError, also when images have different sizes and `size` is None.
    """
    tree = read_tree(name)
    if split not in tree.splits:
        expected = f"{split} or {name.removeprefix(FOLDER)}/val" if split == "test" else split
        raise SourceError(
            f"{name} has no {split} images; put them into {name.removeprefix(FOLDER)}/{expected}, by class"
        )
    images = tree.splits[split]
    side = size or _side(images.files()[0])
    # Of both splits: one coloured image anywhere makes all of them RGB.
    stats = {
        key: [(file.relative_to(part.top).as_posix(), *_stat(file)) for file in part.files()]
        for key, part in tree.splits.items()
    }
    identity = ["folder", split, stats, side, RULE]
    title = re.sub(r"[^A-Za-z0-9._-]", "_", f"{tree.name}-{split}-{side}px")
    decoded = cache.cached(title, identity, partial(_rows, tree, split, side, size is None))
    if size is None and decoded.resized:
        raise SourceError(f"{name} has images of many sizes; {_give(side)}")
    notes = []
    if decoded.resized:
        notes.append(f"{RULE} to {side} px")
    if decoded.converted:
        counts = ", ".join(f"{count} {mode}" for mode, count in sorted(decoded.converted.items()))
        notes.append(f"converted to {'grey' if decoded.images.shape[1] == 1 else 'RGB'}: {counts}")
    if images.others:
        notes.append(f"{images.others} files that are not images left out")
    return tree, decoded, notes


def _images(top: Path) -> Images:
    """The image files below `top`, by class. Raises OSError."""
    entries = sorted(x for x in top.iterdir() if not _is_clutter(x.name))
    classes, others = {}, sum(not x.is_dir() for x in entries)
    for folder in filter(Path.is_dir, entries):
        every = _walk(folder)
        files = [file for file in every if file.suffix.lower() in _SUFFIXES]
        others += len(every) - len(files)
        if not files:
            raise SourceError(f"class {folder.name!r} has no images in {folder}; add some or remove the folder")
        classes[folder.name] = files
    if not classes:
        raise SourceError(f"no folders of images in {top}; there must be one for each class")
    return Images(top, classes, others)


def _stat(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:  # such as a link to nowhere
        raise SourceError(f"cannot read {file} ({error.strerror}); {_REPAIR}") from error
    return status.st_size, status.st_mtime_ns


def _walk(folder: Path) -> list[Path]:
    """All files below, sorted; a folder that cannot be read is an error and not an absence."""

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
    width, height = size_of(file, _REPAIR)
    if width != height:
        raise SourceError(f"{file} is not a square ({width}x{height} pixels); {_give(min(width, height))}")
    return width


def _give(side: int) -> str:
    return f"give the side of the squares to make of them: size={side} (--size {side})"


def _rows(tree: Tree, split: str, side: int, strict: bool) -> Rows:
    images = tree.splits[split]
    files = images.files()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        every = [file for part in tree.splits.values() for file in part.files()]
        grey = all(pool.map(partial(is_grey, repair=_REPAIR), every))
    fit = Fit(1 if grey else 3, side, side if strict else None, True, _REPAIR, _give(side))
    sizes = [len(of_class) for of_class in images.classes.values()]
    labels = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    parts = [slice(i, i + _FILES) for i in range(0, len(files), _FILES)]
    batches = (Batch([str(file) for file in files[part]], files[part], labels[part]) for part in parts)
    return Rows(len(files), fit, len(sizes), batches)

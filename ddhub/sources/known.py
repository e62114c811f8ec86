"""The table of data sets that ddhub knows by name; the module does not import torch.

A data set is stored below a data root in the layout of its repository on the Hugging Face Hub,

    ROOT/HUB_ID/FOLDER/SPLIT-00000-of-00003.parquet    columns: image {bytes, path}, label (integer)

Repositories, columns, splits and class orders come from the Hub's cards and file lists for CIFAR-10, CIFAR-100, MNIST,
Fashion-MNIST, SVHN, ImageNet-1k and Tiny-ImageNet, and from the files for Imagenette. Not verified are the class names
in Imagewoof's files and their order (assumed to be that of the WordNet ids, as for Imagenette), and the configuration
name "default" of ImageNet-1k and Tiny-ImageNet. Class names that a file records are always compared with this table, so
that a wrong assumption gives an error and never a wrong label.

A data set may be a part of another one: `ddhub.sources.subsets` lists the classes of subsets of ImageNet-1k. Means and
standard deviations are the constants of the papers' codes, per channel in unit scale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddhub.errors import unknown
from ddhub.sources.subsets import CLASSIC, COMP_DD, NETTE, SIDE, WOOF

FOLDER = "folder:"  # prefix of a path to the user's own images (`ddhub.sources.folder`)


def _asset(name: str) -> tuple[str, ...]:
    return tuple((Path(__file__).parents[1] / "assets" / name).read_text().split())


def plain(name: str) -> str:
    """A class name in lower case, letters and digits only: 'T - shirt / top' and 'T-shirt/top' are equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One folder of a repository; a repository may hold the same images at several scales."""

    folder: str  # of the parquet files, in the repository or, if embedded, in the package
    config: str | None  # the name for `datasets.load_dataset`; None: not on the Hub
    shorter: int | None  # shorter side of the images in pixels; None: original sizes
    square: bool = True  # whether all images are square


@dataclass(frozen=True, kw_only=True)
class Known:
    """The description of one data set; `KNOWN` has one entry for each."""

    title: str
    hub_id: str
    copies: tuple[Copy, ...]  # in ascending order of image size
    splits: dict[str, str]  # ddhub's name -> the Hub's
    image_column: str = "image"
    label_column: str = "label"
    channels: int = 3
    classes: tuple[str, ...]  # in the order of the labels
    spelled: dict[str, str] = field(default_factory=dict)  # class -> its name in the Hub's files, if different
    mean: tuple[float, ...]
    std: tuple[float, ...]
    license: str
    lossless: bool = False  # whether the Hub's images are, so that a JPEG file is a lossy copy
    embedded: bool = False
    gated: bool = False  # whether users must accept terms on the Hub first
    notes: str = ""
    imagenet: tuple[int, ...] = ()  # ImageNet-1k's label of each class, for classes of ImageNet-1k
    part_of: str = ""  # the data set whose files are read; only rows of these classes are kept
    side: int | None = None  # default side in pixels, for images of many sizes

    @property
    def size(self) -> int | None:
        """The default side of the images in pixels; None if they have many sizes."""
        return self.side or (self.copies[0].shorter if len(self.copies) == 1 else None)

    def names_agree(self, recorded: Sequence[str]) -> bool:
        """Whether the class names in a file are these classes in this order.

        For WordNet ids a file may have the words instead ("tench, Tinca tinca"); then only the classes in `spelled`,
        which holds their first word, are compared.
        """
        if len(recorded) != len(self.classes):
            return False
        pairs = [(plain(word), name) for word, name in zip(recorded, self.classes, strict=True)]
        if all(word in (plain(name), plain(self.spelled.get(name, name))) for word, name in pairs):
            return True
        if not self.spelled or not all(re.fullmatch(r"n\d{8}", name) for name in self.classes):
            return False
        words = {name: plain(text.split(",")[0]) for text, name in zip(recorded, self.classes, strict=True)}
        return all(words[name] == plain(word) for name, word in self.spelled.items())


def _single(folder: str, side: int | None, config: str | None = None, square: bool = True) -> tuple[Copy, ...]:
    return (Copy(folder=folder, config=config or folder, shorter=side, square=square),)


_TRAIN_TEST = {"train": "train", "test": "test"}
_DIGITS = tuple("0123456789")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET_TERMS = "ImageNet's terms: non-commercial research and education (https://www.image-net.org/download)"
_IMAGENET_IDS = _asset("imagenet-1k.txt")
_TINY_IDS = _asset("tiny-imagenet.txt")
_IMAGENET: dict[str, Any] = {
    "hub_id": "ILSVRC/imagenet-1k",
    "copies": _single("data", None, "default", square=False),
    "splits": {"train": "train", "test": "validation"},
    "mean": _IMAGENET_MEAN,
    "std": _IMAGENET_STD,
    "license": _IMAGENET_TERMS,
    "gated": True,
}
_CIFAR10: dict[str, Any] = {
    "hub_id": "uoft-cs/cifar10",
    "splits": _TRAIN_TEST,
    "image_column": "img",
    "classes": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "license": "unknown (CIFAR-10 by Krizhevsky, 2009; see https://www.cs.toronto.edu/~kriz/cifar.html)",
    "lossless": True,
}
_SUBSET: dict[str, Any] = {
    "copies": (
        Copy(folder="128px", config=None, shorter=128),
        Copy(folder="160px", config="160px", shorter=160, square=False),
        Copy(folder="320px", config="320px", shorter=320, square=False),
        Copy(folder="full_size", config="full_size", shorter=None, square=False),
    ),
    "splits": {"train": "train", "test": "validation"},
    "mean": _IMAGENET_MEAN,
    "std": _IMAGENET_STD,
    "license": f"Apache-2.0 (the selection); images: {_IMAGENET_TERMS}",
}


def _subset(title: str, classes: dict[int, str]) -> Known:
    """A subset of ImageNet-1k; `classes` maps ImageNet-1k's label to the name of the class."""
    notes = "" if len(classes) == 10 else f"{len(classes)} classes, the published list repeats one"
    return Known(
        title=title,
        classes=tuple(classes.values()),
        imagenet=tuple(classes),
        part_of="imagenet-1k",
        side=SIDE,
        notes=notes,
        **_IMAGENET,
    )


KNOWN: dict[str, Known] = {
    "cifar10": Known(title="CIFAR-10", copies=_single("plain_text", 32), **_CIFAR10),
    "cifar10-mini": Known(
        title="CIFAR-10 mini",
        copies=_single("assets/cifar10-mini", 32),
        embedded=True,
        notes="first 200 training / 100 test images of each class",
        **_CIFAR10,
    ),
    "cifar100": Known(
        title="CIFAR-100",
        hub_id="uoft-cs/cifar100",
        copies=_single("cifar100", 32),
        splits=_TRAIN_TEST,
        image_column="img",
        label_column="fine_label",
        classes=_asset("cifar100.txt"),
        spelled={"crab": "cra"},
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        license="unknown (CIFAR-100 by Krizhevsky, 2009; see https://www.cs.toronto.edu/~kriz/cifar.html)",
        lossless=True,
    ),
    "mnist": Known(
        title="MNIST",
        hub_id="ylecun/mnist",
        copies=_single("mnist", 28),
        splits=_TRAIN_TEST,
        channels=1,
        classes=_DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
        license="MIT (as the Hub's card says)",
        lossless=True,
    ),
    "fashion-mnist": Known(
        title="Fashion-MNIST",
        hub_id="zalando-datasets/fashion_mnist",
        copies=_single("fashion_mnist", 28),
        splits=_TRAIN_TEST,
        channels=1,
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mean=(0.2861,),
        std=(0.3530,),
        license="MIT",
        lossless=True,
    ),
    "svhn": Known(
        title="SVHN",
        hub_id="ufldl-stanford/svhn",
        copies=_single("cropped_digits", 32),
        splits=_TRAIN_TEST,
        classes=_DIGITS,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        license="custom, non-commercial (see http://ufldl.stanford.edu/housenumbers)",
        lossless=True,
    ),
    "tiny-imagenet": Known(
        title="Tiny-ImageNet",
        hub_id="zh-plus/tiny-imagenet",
        copies=_single("data", 64, "default"),
        splits={"train": "train", "test": "valid"},
        classes=_TINY_IDS,
        imagenet=tuple(map(_IMAGENET_IDS.index, _TINY_IDS)),
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2302, 0.2265, 0.2262),
        license=f"unknown (Tiny-ImageNet of Stanford CS231n); images: {_IMAGENET_TERMS}",
    ),
    "imagenette": Known(
        title="Imagenette",
        hub_id="frgfm/imagenette",
        classes=tuple(NETTE.values()),
        imagenet=tuple(map(_IMAGENET_IDS.index, NETTE)),
        **_SUBSET,
    ),
    "imagewoof": Known(
        title="Imagewoof",
        hub_id="frgfm/imagewoof",
        classes=tuple(WOOF.values()),
        imagenet=tuple(map(_IMAGENET_IDS.index, WOOF)),
        **_SUBSET,
    ),
    **{title.lower(): _subset(title, classes) for title, classes in CLASSIC.items()},
    **{name: _subset(f"Comp-DD {name}", classes) for name, classes in COMP_DD.items()},
    "imagenet-1k": Known(
        title="ImageNet-1k",
        classes=_IMAGENET_IDS,
        spelled=NETTE | WOOF,
        imagenet=tuple(range(len(_IMAGENET_IDS))),
        **_IMAGENET,
    ),
}


def find(name: str) -> Known:
    """The description of a data set. Raises UsageError for an unknown name."""
    if name not in KNOWN:
        raise unknown("data set", name, [*KNOWN, f"{FOLDER}PATH"], "ddhub data list")
    return KNOWN[name]

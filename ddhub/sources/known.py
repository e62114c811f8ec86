"""The data sets that ddhub knows by name: one table, without torch.

A data set lies below a data root in the layout of its repository on the Hugging Face Hub,

    ROOT/HUB_ID/FOLDER/SPLIT-00000-of-00003.parquet    an image column {bytes, path}, a label column of integers

Repositories, columns, splits and class orders of CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST, SVHN, ImageNet-1k and
Tiny-ImageNet are those of the Hub's cards and file lists, and Imagenette's those of its files. Not verified: the names
and their order that Imagewoof's files record (taken to be in the order of the WordNet ids, as Imagenette's are), and
the configuration name "default" of ImageNet-1k and Tiny-ImageNet. Names that files record are always compared with the
ones here, so that a wrong guess is an error and never a wrong label.

A data set may be part of another one: `ddhub.sources.subsets` lists the classes of subsets of ImageNet-1k.

Means and standard deviations are the constants of the papers' codes, per channel in unit scale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddhub.errors import unknown
from ddhub.sources.subsets import CLASSIC, COMP_DD, NETTE, SIDE, WOOF

FOLDER = "folder:"  # of names that are not an entry here but a path: images of the user's own (`ddhub.sources.folder`)


def _asset(name: str) -> tuple[str, ...]:
    return tuple((Path(__file__).parents[1] / "assets" / name).read_text().split())


def plain(name: str) -> str:
    """A class name without case, blanks and signs: 'T - shirt / top' and 'T-shirt/top' are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One folder of a repository; a repository may hold the same images at several scales."""

    folder: str  # of the parquet files: inside the repository, or inside the package when embedded
    config: str | None  # as `datasets.load_dataset` calls it; None: not on the Hub
    shorter: int | None  # shorter side of the images in pixels; None: as they were photographed
    square: bool = True  # whether all images are squares of that side


@dataclass(frozen=True, kw_only=True)
class Known:
    """All there is to know about one data set: a new one is one more entry of `KNOWN`."""

    title: str
    hub_id: str
    copies: tuple[Copy, ...]  # in ascending order of their images' sizes
    splits: dict[str, str]  # our name -> the Hub's
    image_column: str = "image"
    label_column: str = "label"
    channels: int = 3
    classes: tuple[str, ...]  # in the order of the labels
    spelled: dict[str, str] = field(default_factory=dict)  # class -> how the Hub's files call it instead
    mean: tuple[float, ...]
    std: tuple[float, ...]
    license: str
    lossless: bool = False  # whether the Hub's own images are, so that JPEG ones are a lossy copy
    embedded: bool = False
    gated: bool = False  # whether the Hub wants its terms accepted first
    notes: str = ""
    imagenet: tuple[int, ...] = ()  # ImageNet-1k's label of each class, where these are classes of ImageNet-1k
    part_of: str = ""  # the known data set whose files these are; of their rows only those of these classes count
    side: int | None = None  # in pixels, of the squares that images of many sizes become where no size is asked for

    @property
    def size(self) -> int | None:
        """The side in pixels of the images where no size is asked for; None when there are many sizes."""
        return self.side or (self.copies[0].shorter if len(self.copies) == 1 else None)

    def names_agree(self, recorded: Sequence[str]) -> bool:
        """Whether class names that a file records are these classes in this order.

        Of WordNet ids a file may record the words instead ("tench, Tinca tinca"): then those classes count that
        `spelled` has the first word of.
        """
        if len(recorded) != len(self.classes):
            return False
        pairs = [(plain(was), plain(mine), mine) for was, mine in zip(recorded, self.classes, strict=True)]
        if all(was == mine or was == plain(self.spelled.get(name, name)) for was, mine, name in pairs):
            return True
        if not self.spelled or not all(re.fullmatch(r"n\d{8}", name) for name in self.classes):
            return False
        words = {name: plain(was.split(",")[0]) for was, name in zip(recorded, self.classes, strict=True)}
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


def _part(title: str, classes: dict[int, str]) -> Known:
    """A subset of ImageNet-1k from its label of each class and the class's name."""
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
    **{title.lower(): _part(title, classes) for title, classes in CLASSIC.items()},
    **{name: _part(f"Comp-DD {name}", classes) for name, classes in COMP_DD.items()},
    "imagenet-1k": Known(
        title="ImageNet-1k",
        classes=_IMAGENET_IDS,
        spelled=NETTE | WOOF,
        imagenet=tuple(range(len(_IMAGENET_IDS))),
        **_IMAGENET,
    ),
}


def find(name: str) -> Known:
    """What there is to know about a data set. Raises UsageError for an unknown name."""
    if name not in KNOWN:
        raise unknown("data set", name, [*KNOWN, f"{FOLDER}PATH"], "ddhub data list")
    return KNOWN[name]

"""The table of data sets: every entry opens from files of its repository's layout, and from nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoded import encode, write_shard
from PIL import Image

from ddhub.errors import SourceError, UsageError
from ddhub.sources import known
from ddhub.sources import source as sources
from ddhub.sources.known import KNOWN
from ddhub.sources.resize import RULE
from ddhub.sources.source import open_source

# name: hub id, config, folder, split names, columns, (channels, side), first and last class as the Hub records them
HUB: dict[str, tuple[Any, ...]] = {
    "cifar10": ("uoft-cs/cifar10", "plain_text", "plain_text", "test", ("img", "label"), (3, 32), "airplane", "truck"),
    "cifar100": (
        *("uoft-cs/cifar100", "cifar100", "cifar100", "test"),
        *(("img", "fine_label", "coarse_label"), (3, 32), "apple", "worm"),
    ),
    "mnist": ("ylecun/mnist", "mnist", "mnist", "test", ("image", "label"), (1, 28), "0", "9"),
    "fashion-mnist": (
        *("zalando-datasets/fashion_mnist", "fashion_mnist", "fashion_mnist", "test"),
        *(("image", "label"), (1, 28), "T - shirt / top", "Ankle boot"),
    ),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits", "cropped_digits", "test", ("image", "label"), (3, 32), "0", "9"),
    "tiny-imagenet": (
        *("zh-plus/tiny-imagenet", "default", "data", "valid"),
        *(("image", "label"), (3, 64), "n01443537", "n12267677"),
    ),
    "imagenette": (
        *("frgfm/imagenette", "160px", "160px", "validation"),
        *(("image", "label"), (3, None), "tench", "parachute"),
    ),
    "imagewoof": (
        *("frgfm/imagewoof", "160px", "160px", "validation"),
        *(("image", "label"), (3, None), "Shih-Tzu", "Dingo"),
    ),
    "imagenet-1k": (
        *("ILSVRC/imagenet-1k", "default", "data", "validation"),
        *(("image", "label"), (3, None), "n01440764", "n15075141"),
    ),
}
RANDOM = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DDHUB_DATA", raising=False)
    return tmp_path


def recorded(name: str) -> list[str]:
    """The class names as the Hub's files have them."""
    *_, first, last = HUB[name]
    return [first, *KNOWN[name].classes[1:-1], last]


def write(root: Path, name: str, split: str = "test") -> tuple[list[np.ndarray], list[int]]:
    """A few random images of the data set in its layout; returns pixels and labels."""
    hub_id, _, folder, test_split, columns, (channels, side), *_ = HUB[name]
    shapes = [(side, side)] * 3 if side else [(160, 213), (180, 160), (160, 160)]
    images = [RANDOM.integers(0, 256, (*shape, 3)[: 2 + (channels == 3)], dtype=np.uint8) for shape in shapes]
    labels = [1, len(KNOWN[name].classes) - 1, 0]
    file = root / hub_id / folder / f"{test_split if split == 'test' else split}-00000-of-00001.parquet"
    write_shard(file, [encode(x) for x in images], labels, recorded(name), columns)
    return images, labels


def squares(images: list[np.ndarray], side: int) -> np.ndarray:
    """The rule, written another way: crop first, then resize."""
    made = []
    for image in images:
        height, width = image.shape[:2]
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        cut = Image.fromarray(np.ascontiguousarray(image[top : top + short, left : left + short]))
        made.append(np.asarray(cut.resize((side, side), Image.Resampling.BILINEAR)).reshape(side, side, -1))
    return np.stack(made).transpose(0, 3, 1, 2)


def test_every_data_set_is_tested_here() -> None:
    subsets = {name for name, spec in KNOWN.items() if spec.part_of}  # in test_subsets.py
    assert {*HUB, "cifar10-mini", *subsets} == {*KNOWN} == {*sources.names()}


@pytest.mark.parametrize("name", HUB)
def test_it_opens_from_the_layout_of_the_hub(root: Path, name: str) -> None:
    images, labels = write(root, name)
    hub_id, *_, (channels, side), _, _ = HUB[name]
    source = open_source(name, "test", root=root, size=None if side else 128)
    np.testing.assert_array_equal(source.images.numpy(), squares(images, side or 128))
    assert source.images.shape == (3, channels, side or 128, side or 128) and source.labels.tolist() == labels
    assert (source.name, source.address, source.split, source.hub_id) == (name, name, "test", hub_id)
    assert len(source.mean) == len(source.std) == channels and source.license
    assert source.label.startswith(KNOWN[name].title)
    assert (RULE in source.notes) == (side is None)
    with pytest.raises(SourceError, match=r"no .*train-\*.parquet; pass --data ROOT"):
        open_source(name, root=root, size=side or 128)


@pytest.mark.parametrize("name", HUB)
def test_it_opens_through_datasets(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import datasets

    original, asked = datasets.load_dataset, []
    write(root, name, "train")
    write(root, name)
    hub_id, config, folder, test_split, _, (_, side), *_ = HUB[name]

    def local(*args: str, split: str) -> Any:
        asked.append((*args, split))
        # Of a folder without a card `datasets` takes the splits from the file names, where "valid" is validation.
        split = "validation" if split == "valid" else split
        return original(str(root / args[0] / folder), split=split, cache_dir=str(root / "datasets"))

    monkeypatch.setattr(datasets, "load_dataset", local)
    source = open_source(name, "test", size=None if side else 96)
    assert asked == [(hub_id, config, test_split)]
    assert open_source(name, "test", root=root, size=None if side else 96).fingerprint == source.fingerprint


@pytest.mark.parametrize("name", HUB)
def test_other_class_names_are_an_error(root: Path, name: str) -> None:
    hub_id, _, folder, test_split, columns, (_, side), *_ = HUB[name]
    file = root / hub_id / folder / f"{test_split}-00000-of-00001.parquet"
    write_shard(file, [encode(np.zeros((9, 9, 3), np.uint8))], [0], recorded(name)[::-1], columns)
    with pytest.raises(SourceError, match=r"has the classes .* in this order; is it"):
        open_source(name, "test", root=root, size=side or 128)


def test_words_for_wordnet_ids() -> None:
    spec = KNOWN["imagenet-1k"]
    words = [f"class {i}, a thing" for i in range(1000)]
    for place, word in ((0, "tench, Tinca tinca"), (482, "cassette player"), (497, "church, church building")):
        assert known.NETTE[spec.classes[place]] == word.split(",")[0]
    for name, word in (known.NETTE | known.WOOF).items():
        words[spec.classes.index(name)] = f"{word}, and a synonym"
    assert spec.names_agree(words) and spec.names_agree(spec.classes)
    assert not spec.names_agree(words[:999])
    assert not spec.names_agree([*words[1:], words[0]])
    assert not KNOWN["tiny-imagenet"].names_agree(words[:200])
    assert KNOWN["cifar100"].names_agree([x.replace("crab", "cra") for x in KNOWN["cifar100"].classes])


def test_wordnet_ids_are_those_of_timm() -> None:
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("timm is not installed")
    file = Path(found.submodule_search_locations[0]) / "data" / "_info" / "imagenet_synsets.txt"
    ids = file.read_text().split()
    assert KNOWN["imagenet-1k"].classes == tuple(ids)
    assert {*KNOWN["tiny-imagenet"].classes} < {*ids} and len(KNOWN["tiny-imagenet"].classes) == 200
    assert [ids.index(x) for x in known.NETTE] == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert [ids.index(x) for x in known.WOOF] == [155, 159, 162, 167, 182, 193, 207, 229, 258, 273]


@pytest.mark.parametrize("name", KNOWN)
def test_an_entry_is_sound(name: str) -> None:
    spec = KNOWN[name]
    assert len({*spec.classes}) == len(spec.classes) and len(spec.mean) == len(spec.std) == spec.channels
    sizes = [copy.shorter or 10**9 for copy in spec.copies]
    assert sizes == sorted(sizes)
    assert all(0 < x < 1 for x in (*spec.mean, *spec.std)) and {*spec.splits} == {"train", "test"}


# Copies of several sizes


def put(root: Path, folder: str, shade: int, shape: tuple[int, int]) -> None:
    image = encode(np.full((*shape, 3), shade, np.uint8))
    file = root / "frgfm/imagenette" / folder / "train-00000-of-00001.parquet"
    write_shard(file, [image], [0], KNOWN["imagenette"].classes, ("image", "label"))


def test_the_smallest_copy_that_is_large_enough(root: Path) -> None:
    put(root, "full_size", 4, (400, 500))
    put(root, "160px", 2, (160, 213))

    def shade(size: int) -> tuple[int, str]:
        source = open_source("imagenette", root=root, size=size)
        assert source.images.shape == (1, 3, size, size)
        return int(source.images[0, 0, 0, 0]), source.notes.split(";")[0]

    assert shade(128) == (2, "160px copy") == shade(160)
    assert shade(224) == (4, "full_size copy")
    with pytest.raises(UsageError, match="Imagenette has images of many sizes; give size="):
        open_source("imagenette", root=root)
    put(root, "128px", 1, (128, 128))
    assert shade(64) == shade(128) == (1, "128px copy")
    own = open_source("imagenette", root=root)
    assert own.images.shape == (1, 3, 128, 128) and own.notes == "128px copy"
    assert own.fingerprint == open_source("imagenette", root=root, size=128).fingerprint
    assert RULE in open_source("imagenette", root=root, size=64).notes
    (root / "frgfm/imagenette/full_size").rename(root / "elsewhere")
    assert shade(224) == (2, "160px copy")  # the largest there is
    with pytest.raises(UsageError, match="ImageNet-1k has images of many sizes; give size="):
        open_source("imagenet-1k", root=root)


def test_a_gated_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def gated(*args: Any, **options: Any) -> Any:
        raise PermissionError("gated repo")

    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(SourceError, match=r"\(gated repo\); accept its terms there and log in"):
        open_source("imagenet-1k", size=64)


# Real data


@pytest.mark.parametrize(
    ("name", "folder", "images", "side"),
    [("imagenette", "frgfm/imagenette/128px", 3925, 128), ("tiny-imagenet", "zh-plus/tiny-imagenet/data", 10000, 64)],
)
def test_real_data(data_root: Path, name: str, folder: str, images: int, side: int) -> None:
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder} in {data_root}")
    source = open_source(name, "test", root=data_root)
    assert source.images.shape == (images, 3, side, side)
    assert int(source.labels.bincount(minlength=len(source.classes)).min()) > 0
    mean = source.images[::20].float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor(source.mean), atol=0.05, rtol=0)

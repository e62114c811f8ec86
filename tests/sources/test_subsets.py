"""Subsets of ImageNet-1k: the rows of their classes and no others, in the order of the papers' lists."""

from __future__ import annotations

import importlib.util
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from encoded import encode, write_shard
from PIL import Image
from test_sources import never

from ddhub.cards import citations
from ddhub.cli.data import data
from ddhub.convert.class_folders import numbers
from ddhub.errors import SourceError, UsageError
from ddhub.sources import cache, resize
from ddhub.sources import source as sources
from ddhub.sources.known import KNOWN
from ddhub.sources.resize import RULE
from ddhub.sources.source import open_source

# As the papers' codes list them, label by label; music-hard with its repetition.
LISTS = {
    "imagemeow": "281 282 283 284 285 291 292 290 289 287",
    "imagesquawk": "84 130 88 144 145 22 96 9 100 89",
    "imagefruit": "953 954 949 950 951 957 952 945 943 948",
    "imageyellow": "309 986 954 951 987 779 599 291 72 11",
    "birds-hard": "14 19 91 15 13 95 10 16 20 12",
    "birds-easy": "130 140 83 142 134 139 88 90 144 21",
    "cars-hard": "802 660 829 627 609 575 573 867 734 408",
    "cars-easy": "581 535 717 817 511 436 656 757 661 751",
    "dogs-hard": "239 238 247 195 151 266 157 181 154 217",
    "dogs-easy": "193 180 227 167 246 248 224 177 269 252",
    "fish-hard": "0 391 389 395 4 396 2 394 50 103",
    "fish-easy": "5 1 6 397 390 3 392 393 148 147",
    "snake-hard": "46 42 41 40 43 58 65 59 53 52",
    "snake-easy": "64 57 55 56 61 62 68 67 54 60",
    "insect-hard": "301 326 324 305 325 300 318 320 70 322",
    "insect-easy": "323 314 310 309 306 308 302 313 303 315",
    "round-hard": "852 805 736 892 429 574 722 522 752 971",
    "round-easy": "417 560 953 826 426 981 430 890 746 768",
    "music-hard": "420 594 420 579 402 776 486 401 546 558",
    "music-easy": "542 687 494 566 642 513 875 683 889 881",
}
WHOLE = KNOWN["imagenet-1k"]
COLUMNS = ("image", "label")
MEOW = [int(label) for label in LISTS["imagemeow"].split()]
# Rows of ImageNet-1k with every class of ImageMeow among others: two of each, in an order of their own.
ROWS = np.random.default_rng(0).permutation([*MEOW, *MEOW, *range(0, 1000, 9), 954, 288, 293]).astype(np.int64)


def image(row: int) -> np.ndarray:
    """An image as photographs are: of a size of its own, and its row can be told from it."""
    shape = [(150, 200), (180, 140), (128, 128)][row % 3]
    return np.random.default_rng(row).integers(0, 256, (*shape, 3), dtype=np.uint8)


def shard(root: Path, number: int, split: str = "train", total: int = 2) -> Path:
    return root / "ILSVRC/imagenet-1k/data" / f"{split}-{number:05d}-of-{total:05d}.parquet"


def write_whole(root: Path) -> None:
    """ImageNet-1k in two shards; what is none of ImageMeow's is not even an image."""
    encoded = [encode(image(row)) if label in MEOW else b"no image" for row, label in enumerate(ROWS)]
    write_shard(shard(root, 0), encoded[:50], ROWS[:50], WHOLE.classes, COLUMNS)
    write_shard(shard(root, 1), encoded[50:], ROWS[50:], WHOLE.classes, COLUMNS)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DDHUB_DATA", raising=False)
    write_whole(tmp_path)
    return tmp_path


def squares(side: int) -> np.ndarray:
    """The images of ImageMeow in the order of their rows, by the rule written another way."""
    made = []
    for row in np.flatnonzero(np.isin(ROWS, MEOW)):
        pixels = image(int(row))
        high, wide = pixels.shape[:2]
        short = min(high, wide)
        top, left = (high - short) // 2, (wide - short) // 2
        cut = Image.fromarray(np.ascontiguousarray(pixels[top : top + short, left : left + short]))
        made.append(np.asarray(cut.resize((side, side), Image.Resampling.BILINEAR)))
    return np.stack(made).transpose(0, 3, 1, 2)


def test_the_lists_are_those_of_the_papers() -> None:
    assert {name for name, spec in KNOWN.items() if spec.part_of} == {*LISTS}
    for name, text in LISTS.items():
        spec, labels = KNOWN[name], tuple(dict.fromkeys(map(int, text.split())))
        assert spec.imagenet == labels and spec.part_of == "imagenet-1k" and spec.size == 128
        assert len(spec.classes) == len(labels) == (9 if name == "music-hard" else 10)
        assert spec.notes == ("9 classes, the published list repeats one" if name == "music-hard" else "")
        assert (spec.hub_id, spec.gated, spec.splits) == (WHOLE.hub_id, True, WHOLE.splits)


def test_names_and_labels_are_those_of_wordnet() -> None:
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        pytest.skip("timm is not installed")
    info = Path(found.submodule_search_locations[0]) / "data" / "_info"
    ids = (info / "imagenet_synsets.txt").read_text().split()
    words = dict(line.split("\t") for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    plain = {name: re.sub("[^a-z0-9]", "", words[name].split(",")[0].lower()) for name in ids}
    for name, spec in KNOWN.items():
        if spec.part_of or name in ("imagenette", "imagewoof"):
            assert [plain[ids[label]] for label in spec.imagenet] == [
                re.sub("[^a-z0-9]", "", own.lower()) for own in spec.classes
            ]
    tiny = KNOWN["tiny-imagenet"]
    assert [ids[label] for label in tiny.imagenet] == [*tiny.classes]
    assert WHOLE.imagenet == tuple(range(1000)) and KNOWN["cifar100"].imagenet == ()


def test_only_rows_of_its_classes_are_read_in_its_order(root: Path) -> None:
    source = open_source("imagemeow", root=root)
    kept = ROWS[np.isin(ROWS, MEOW)]
    assert source.images.shape == (20, 3, 128, 128) and source.images.dtype == torch.uint8
    assert source.labels.tolist() == [MEOW.index(label) for label in kept]
    assert source.labels.bincount().tolist() == [2] * 10
    np.testing.assert_array_equal(source.images.numpy(), squares(128))
    assert source.classes[:2] == ("tabby", "tiger cat") and source.hub_id == "ILSVRC/imagenet-1k"
    assert source.label == f"ImageMeow ({RULE} to 128 px)"


def test_the_cache_holds_the_subset_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_source("imagemeow", root=root)
    (folder,) = (root / "cache" / "sources").iterdir()
    assert folder.name.startswith("imagemeow-train-128px-")
    assert (folder / "images.npy").stat().st_size == 128 + 20 * 3 * 128 * 128
    assert json.loads((folder / "meta.json").read_text())["shape"] == [20, 3, 128, 128]
    np.testing.assert_array_equal(np.load(folder / "images.npy"), squares(128))
    monkeypatch.setattr(sources, "_parquet_rows", never)
    again = open_source("imagemeow", root=root)
    assert again.fingerprint == first.fingerprint and torch.equal(again.images, first.images)


def test_the_fingerprint_is_that_of_the_same_images_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape is hashed first and not known before the end: the result is the same."""
    source = open_source("imagemeow", root=root)
    rows = np.flatnonzero(np.isin(ROWS, MEOW))
    batch = resize.Batch(["x"] * 20, [encode(image(int(row))) for row in rows], source.labels.numpy())
    alone = cache.Rows(20, resize.Fit(3, 128, None), 10, iter([batch]))
    assert cache.in_memory("alone", alone).fingerprint == source.fingerprint


def test_another_size_and_another_subset_are_other_entries(root: Path) -> None:
    own = open_source("imagemeow", root=root)
    small = open_source("imagemeow", root=root, size=40)
    np.testing.assert_array_equal(small.images.numpy(), squares(40))
    assert small.notes == f"{RULE} to 40 px" and torch.equal(small.labels, own.labels)
    with pytest.raises(SourceError, match="row .*: not an image"):  # a row of its classes that is damaged
        open_source("imagefruit", root=root)
    names = {x.name.rsplit("-", 1)[0] for x in (root / "cache" / "sources").iterdir()}
    assert names == {"imagemeow-train-128px", "imagemeow-train-40px"}


def test_a_class_listed_twice_is_one(root: Path) -> None:
    labels = [420, 594, 579, 420, 7]
    file = shard(root, 0, "validation", 1)
    write_shard(file, [encode(image(row)) for row in range(5)], labels, WHOLE.classes, COLUMNS)
    source = open_source("music-hard", "test", root=root)
    assert source.labels.tolist() == [0, 1, 2, 0] and len(source.classes) == 9
    assert source.classes[:3] == ("banjo", "harp", "grand piano")
    assert source.label.startswith("Comp-DD music-hard (9 classes, the published list repeats one; ")


def test_through_datasets_it_is_streamed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    original, asked = datasets.load_dataset, []

    def local(*args: str, **options: Any) -> Any:
        asked.append((args, options))
        return original(str(root / args[0] / "data"), **options)

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.setattr(sources, "_BATCH", 32)  # more than one
    source = open_source("imagemeow")
    assert asked == [(("ILSVRC/imagenet-1k", "default"), {"split": "train", "streaming": True})]
    assert source.fingerprint == open_source("imagemeow", root=root).fingerprint
    monkeypatch.setattr(datasets, "load_dataset", never)
    assert open_source("imagemeow").fingerprint == source.fingerprint


def test_a_stream_that_breaks_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    original = datasets.load_dataset

    class Broken:
        def __init__(self, stream: Any) -> None:
            self.stream, self.features = stream, stream.features

        def __getattr__(self, name: str) -> Any:
            return lambda *args: Broken(getattr(self.stream, name)(*args))

        def iter(self, size: int) -> Any:
            yield next(iter(self.stream.iter(size)))
            raise ConnectionError("the line is cut")

    def local(*args: str, **options: Any) -> Any:
        return Broken(original(str(root / args[0] / "data"), **options))

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.setattr(sources, "_BATCH", 32)
    with pytest.raises(SourceError, match=r"cannot get ILSVRC/imagenet-1k from the Hub \(the line is cut\); accept"):
        open_source("imagemeow")
    assert [*(root / "cache" / "sources").iterdir()] == []


def test_memory_does_not_grow_with_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 rows of 20 kB, 40 MB, two batches of 10 MB are held; arrow counts its own memory."""
    import pyarrow as pa

    monkeypatch.setenv("DDHUB_CACHE", str(tmp_path / "cache"))
    noise = encode(np.random.default_rng(0).integers(0, 256, (80, 85, 3), dtype=np.uint8))
    assert len(noise) > 20_000
    labels = np.arange(2000) % 1000
    images = [noise + number.to_bytes(2, "big") for number in range(2000)]  # all alike they would be stored once
    write_shard(shard(tmp_path, 0, total=1), images, labels, WHOLE.classes, COLUMNS)
    del images
    held: list[int] = []
    batch = sources._batch

    def watched(*args: Any) -> Any:
        held.append(pa.total_allocated_bytes())
        return batch(*args)

    monkeypatch.setattr(sources, "_batch", watched)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        source = open_source("imagemeow", root=tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert source.images.shape == (20, 3, 128, 128)
    assert len(held) == 4 and max(held) - before < 30e6 and peak < 20e6


# Errors


def test_a_root_without_the_whole(tmp_path: Path) -> None:
    looked = "no ImageMeow in .*: no .*ILSVRC/imagenet-1k/data/train-\\*.parquet; pass --data ROOT"
    with pytest.raises(SourceError, match=looked):
        open_source("imagemeow", root=tmp_path)


@pytest.mark.parametrize("label", [1000, -1, None])
def test_a_label_out_of_range(root: Path, label: int | None) -> None:
    write_shard(shard(root, 1), [b"no image"] * 3, [5, label, 6], WHOLE.classes, COLUMNS)
    shown = -1 if label is None else label
    with pytest.raises(SourceError, match=f"row 1: label {shown} is not one of 0..999; fetch it again"):
        open_source("imagemeow", root=root)


def test_damage_names_the_row_of_the_file(root: Path) -> None:
    write_shard(shard(root, 1), [b"no image"] * 3, [5, 6, 281], WHOLE.classes, COLUMNS)
    with pytest.raises(SourceError, match=re.escape(f"{shard(root, 1)}, row 2: not an image")):
        open_source("imagemeow", root=root)


def test_files_with_other_classes(root: Path) -> None:
    write_shard(shard(root, 1), [b"no image"], [0], WHOLE.classes[::-1], COLUMNS)
    with pytest.raises(SourceError, match="has the classes n15075141, .* not n01440764, .* in this order"):
        open_source("imagemeow", root=root)
    write_shard(shard(root, 1), [b"no image"], [0], KNOWN["imagemeow"].classes, COLUMNS)
    with pytest.raises(SourceError, match="has the classes tabby, .* is it ILSVRC/imagenet-1k"):
        open_source("imagemeow", root=root)


def test_no_image_of_any_class(root: Path) -> None:
    with pytest.raises(SourceError, match="cars-hard-train-128px has no rows"):
        write_shard(shard(root, 0), [b"no image"], [0], WHOLE.classes, COLUMNS)
        write_shard(shard(root, 1), [b"no image"], [1], WHOLE.classes, COLUMNS)
        open_source("cars-hard", root=root)
    assert [*(root / "cache" / "sources").iterdir()] == []


@pytest.mark.parametrize(("asked", "meant"), [("music_hard", "music-hard"), ("bird-easy", "birds-easy")])
def test_the_spelling_of_others_is_understood(asked: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"unknown data set '{asked}'; did you mean '{meant}'"):
        open_source(asked)


# What else knows them


def run(*args: str) -> str:
    result = CliRunner().invoke(data, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_line(root: Path) -> None:
    (line,) = [line for line in run("list").splitlines() if line.startswith("imagemeow ")]
    assert line.split() == ["imagemeow", "10", "RGB", "128x128", "ILSVRC/imagenet-1k"]
    facts = json.loads(run("info", "music-hard", "--json"))
    assert (facts["part_of"], facts["size"], facts["gated"]) == ("imagenet-1k", 128, True)
    assert facts["labels_there"] == [420, 594, 579, 402, 776, 486, 401, 546, 558]
    assert "9 classes" in facts["notes"]
    write_shard(shard(root, 0, "validation", 1), [encode(image(0))], [281], WHOLE.classes, COLUMNS)
    text = run("prepare", "imagemeow", "--data", str(root))
    assert "train: 20 images of 3 x 128 x 128" in text and "test: 1 images of 3 x 128 x 128" in text


def test_they_are_cited_with_imagenet() -> None:
    assert "cazenavette2022distillation" in citations.of_dataset("imagemeow")
    assert "wang2025edf" in citations.of_dataset("dogs-hard")
    keys = [re.findall(r"@\w+\{(\w+)", entry) for entry in citations.citations([], ["imagemeow", "imagefruit"])]
    assert keys == [["cazenavette2022distillation"], ["russakovsky2015imagenet"], ["ddhub"]]


def test_class_folders_may_bear_their_wordnet_ids() -> None:
    spec = KNOWN["imagemeow"]
    folders = sorted(WHOLE.classes[label] for label in spec.imagenet)
    found, rule, named = numbers(folders, spec.classes, Path("x"))
    assert rule == "bear the WordNet ids of the classes" and named
    assert [WHOLE.classes.index(name) for name in sorted(found, key=found.__getitem__)] == MEOW

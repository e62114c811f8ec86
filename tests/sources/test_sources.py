"""Sources: what is read is what was stored, decoded once; all else is an error in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import signal
import time
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pyarrow as pa
import pytest
import torch
from encoded import encode, write_shard
from PIL import Image

from ddhub.errors import SourceError, UsageError
from ddhub.sources import cache as _decoded
from ddhub.sources import source as sources
from ddhub.sources.known import KNOWN, Copy
from ddhub.sources.resize import RULE
from ddhub.sources.source import open_source

CLASSES = ["airplane", "automobile", "bird", "cat", "deer"]
CLASSES += ["dog", "frog", "horse", "ship", "truck"]
PIXELS = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(len(PIXELS)) % 10
PNGS = [encode(p) for p in PIXELS]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root of 600 random images in two shards, with a cache of its own."""
    monkeypatch.setenv("DDHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DDHUB_DATA", raising=False)
    write_shard(shard(tmp_path, 0), PNGS[:350], LABELS[:350], CLASSES)
    write_shard(shard(tmp_path, 1), PNGS[350:], LABELS[350:], CLASSES)
    return tmp_path


def shard(root: Path, number: int, total: int = 2) -> Path:
    return root / "uoft-cs/cifar10/plain_text" / f"train-{number:05d}-of-{total:05d}.parquet"


def cached(root: Path) -> list[Path]:
    return sorted((root / "cache" / "sources").iterdir())


def written(file: Path) -> tuple[int, int]:
    """Which file it is and when it was written; when it was last read does not count."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns


def never(*args: Any, **options: Any) -> Any:
    raise AssertionError("this must not be called")


def assert_is_the_data(source: sources.Source) -> None:
    assert source.images.dtype == torch.uint8 and source.labels.dtype == torch.int64
    np.testing.assert_array_equal(source.images.numpy(), PIXELS.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(source.labels.numpy(), LABELS)


# The embedded data set


@pytest.mark.parametrize(
    ("split", "per_class", "fingerprint"),
    [
        ("train", 200, "879444c61b00bcfff59ff52a98a81da0ffc09539209342259c2edcda9b6997f6"),
        ("test", 100, "3c9cf7a261698b22b11602c0d701031e4ea4857113afa2b643a1afcb4c7a8937"),
    ],
)
def test_mini_is_in_the_package(root: Path, split: str, per_class: int, fingerprint: str) -> None:
    mini = open_source("cifar10-mini", split, root="/nowhere")
    assert mini.images.shape == (10 * per_class, 3, 32, 32) and mini.images.dtype == torch.uint8
    assert mini.labels.bincount().tolist() == [per_class] * 10
    assert mini.fingerprint == fingerprint
    assert mini.classes == tuple(CLASSES)
    assert mini.label.startswith("CIFAR-10 mini (JPEG copy; first 200 training / 100 test images")
    assert not (root / "cache").exists()
    assert 0.3 < mini.images.float().mean() / 255 < 0.6


# Real data


def test_cifar10_has_its_counts_statistics_and_cache(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (open_source("cifar10", split, root=data_root) for split in ("train", "test"))
    assert train.images.shape == (50000, 3, 32, 32) and test.images.shape == (10000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    mean = train.images[::10].float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor(train.mean), atol=0.01, rtol=0)
    monkeypatch.setattr(_decoded, "_decode_all", never)
    assert open_source("cifar10", root=data_root).fingerprint == train.fingerprint


def test_mini_is_the_first_images_of_each_class(data_root: Path) -> None:
    test, mini = open_source("cifar10", "test", root=data_root), open_source("cifar10-mini", "test")
    if test.notes != "JPEG copy":
        pytest.skip(f"{data_root} is not the JPEG copy that cifar10-mini was cut from")
    seen, rows = [0] * 10, []
    for row, label in enumerate(test.labels.tolist()):
        seen[label] += 1
        if seen[label] <= 100:
            rows.append(row)
    assert torch.equal(test.images[rows], mini.images)
    assert torch.equal(test.labels[rows], mini.labels)


# A data root of known pixels


def test_pixels_labels_and_fingerprint(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("cifar10", root=root)
    assert_is_the_data(source)
    assert source.notes == "" and source.label == "CIFAR-10"
    digest = hashlib.sha256(b"(600, 3, 32, 32)")
    digest.update(PIXELS.transpose(0, 3, 1, 2).tobytes() + LABELS.astype("<i8").tobytes())
    assert source.fingerprint == digest.hexdigest()
    monkeypatch.setenv("DDHUB_DATA", str(root))
    assert open_source("cifar10").fingerprint == source.fingerprint


def test_jpeg_bytes_of_a_lossless_data_set_are_noted(root: Path) -> None:
    jpegs = [encode(p, "JPEG") for p in PIXELS[350:]]
    write_shard(shard(root, 1), jpegs, LABELS[350:], CLASSES)
    source = open_source("cifar10", root=root)
    assert source.notes == "JPEG copy" and source.label == "CIFAR-10 (JPEG copy)"
    expected = np.stack([np.asarray(Image.open(io.BytesIO(j))) for j in jpegs])
    np.testing.assert_array_equal(source.images[350:].numpy(), expected.transpose(0, 3, 1, 2))


def test_a_grey_data_set_is_one_more_entry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = dataclasses.replace(
        KNOWN["cifar10"],
        title="Digits",
        hub_id="some/digits",
        copies=(Copy(folder="data", config="default", shorter=28),),
        splits={"test": "valid"},
        image_column="image",
        channels=1,
        classes=("0", "1"),
    )
    monkeypatch.setitem(KNOWN, "digits", entry)
    grey = PIXELS[:3, :28, :28, 0]
    file = root / "some/digits/data/valid-00000-of-00001.parquet"
    write_shard(file, [encode(p) for p in grey], [1, 0, 1], ["0", "1"], ("image", "label"))
    source = open_source("digits", "test", root=root)
    np.testing.assert_array_equal(source.images.numpy(), grey[:, None])
    assert source.labels.tolist() == [1, 0, 1] and source.label == "Digits"
    assert "digits" in sources.names()


# Another size


def test_another_size_is_another_entry_of_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decoded, "_CHUNK", (64, 5000))  # four images of this size
    own = open_source("cifar10", root=root)
    assert open_source("cifar10", root=root, size=32).fingerprint == own.fingerprint
    (folder,) = cached(root)
    small = open_source("cifar10", root=root, size=20)
    assert small.images.shape == (600, 3, 20, 20) and torch.equal(small.labels, own.labels)
    assert small.notes == f"{RULE} to 20 px"
    for pixels, stored in zip(small.images[::150].numpy(), PIXELS[::150], strict=True):
        expected = np.asarray(Image.fromarray(stored).resize((20, 20), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))
    digest = hashlib.sha256(b"(600, 3, 20, 20)" + small.images.numpy().tobytes())
    digest.update(LABELS.astype("<i8").tobytes() + RULE.encode())
    assert small.fingerprint == digest.hexdigest()
    assert {x.name.rsplit("-", 1)[0] for x in cached(root)} == {"cifar10-train-20px", "cifar10-train"}
    assert folder in cached(root)


def test_the_size_of_the_embedded_data_set(root: Path) -> None:
    mini = open_source("cifar10-mini", "test", size=16)
    assert mini.images.shape == (1000, 3, 16, 16) and mini.notes.endswith(f"{RULE} to 16 px")
    for size in (0, -1, 100000):
        with pytest.raises(UsageError, match=f"size {size} cannot be the side of images; give 1 to 4096 pixels"):
            open_source("cifar10-mini", size=size)


def test_stored_images_have_their_own_size_whatever_is_asked_for(root: Path) -> None:
    write_shard(shard(root, 1), damaged(encode(PIXELS[0, :16])), LABELS[350:], CLASSES)
    with pytest.raises(SourceError, match="row 205: 32x16 pixels instead of 32x32"):
        open_source("cifar10", root=root, size=16)


def test_a_cache_of_before_conversions_were_counted(root: Path) -> None:
    fingerprint = open_source("cifar10", root=root).fingerprint
    (folder,) = cached(root)
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta.pop("resized"), meta.pop("converted")) == (0, {})
    (folder / "meta.json").write_text(json.dumps(meta))
    before = written(folder / "images.npy")
    assert open_source("cifar10", root=root).fingerprint == fingerprint
    assert written(folder / "images.npy") == before


# The cache


@pytest.mark.filterwarnings("error")
def test_the_second_open_decodes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = open_source("cifar10", root=root)
    assert capsys.readouterr() == ("", "")  # no progress bar where nobody is looking
    monkeypatch.setattr(sources, "_parquet_rows", never)
    first.images.zero_()  # stays in this process
    again = open_source("cifar10", root=root)
    assert_is_the_data(again)
    assert again == dataclasses.replace(first, images=again.images, labels=again.labels)


def test_changed_files_are_other_data(root: Path) -> None:
    before = open_source("cifar10", root=root)
    write_shard(shard(root, 1), PNGS[350:], LABELS[350:][::-1], CLASSES)
    after = open_source("cifar10", root=root)
    assert after.fingerprint != before.fingerprint
    assert len(cached(root)) == 2


def test_the_cache_is_where_the_environment_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DDHUB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "xdg"))
    open_source("cifar10", root=root)
    (folder,) = (root / "xdg/ddhub/sources").iterdir()
    assert {f.name for f in folder.iterdir()} == {"images.npy", "labels.npy", "meta.json"}


def truncate(folder: Path) -> None:
    with open(folder / "images.npy", "r+b") as file:
        file.truncate(1000)


def reshape(folder: Path) -> None:
    size = (folder / "images.npy").stat().st_size
    np.save(folder / "images.npy", PIXELS)  # [N, H, W, C]: as many bytes
    assert (folder / "images.npy").stat().st_size == size


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"")


DAMAGES = {
    "truncated": truncate,
    "wrong shape": reshape,
    "empty files": empty,
    "no labels": lambda folder: (folder / "labels.npy").unlink(),
    "meta of another kind": lambda folder: (folder / "meta.json").write_text("[1]"),
    "meta without shape": lambda folder: (folder / "meta.json").write_text('{"bytes": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_rebuilt(root: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    fingerprint = open_source("cifar10", root=root).fingerprint
    (folder,) = cached(root)
    DAMAGES[damage](folder)
    rebuilt = open_source("cifar10", root=root)
    assert_is_the_data(rebuilt)
    assert rebuilt.fingerprint == fingerprint
    assert cached(root) == [folder]
    monkeypatch.setattr(sources, "_parquet_rows", never)
    assert_is_the_data(open_source("cifar10", root=root))


def test_a_cache_that_cannot_be_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_text("")
    monkeypatch.setenv("DDHUB_CACHE", str(root / "file"))
    assert_fails(root, "cannot write the cache", str(root / "file"), "DDHUB_CACHE")


CHILD = """
import sys
from ddhub.sources import cache, source
original = getattr(cache, sys.argv[1])
def wait(*args):
    print("here", flush=True)
    sys.stdin.readline()
    return original(*args)
setattr(cache, sys.argv[1], wait)
print(source.open_source("cifar10", root=sys.argv[2]).fingerprint)
"""


def start_child(function: str, root: Path) -> forked.Child:
    """A process that opens the data, and has stopped where it calls `function` until it reads a line."""
    child = forked.start("-c", CHILD, function, root)
    while child.poll() is None and "here" not in child.stdout:
        time.sleep(0.01)
    assert child.poll() is None, child.stderr
    return child


def test_two_processes_decode_at_once(root: Path) -> None:
    children = [start_child("_publish", root) for _ in range(2)]
    assert len(cached(root)) == 2  # two finished siblings
    for child in children:
        child.tell("\n")
    assert [child.wait() for child in children] == [0, 0]
    answers = [child.stdout.split()[-1] for child in children]
    (folder,) = cached(root)
    assert not folder.name.startswith(".")
    source = open_source("cifar10", root=root)
    assert_is_the_data(source)
    assert answers == [source.fingerprint] * 2


def test_a_killed_process_leaves_nothing_for_long(root: Path) -> None:
    child = start_child("decode", root)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    (left,) = cached(root)
    assert left.name.startswith(".cifar10-train-")
    assert_is_the_data(open_source("cifar10", root=root))
    (folder,) = cached(root)
    assert not folder.name.startswith(".")


# Errors


def assert_fails(root: Path | None, *parts: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source("cifar10", root=root)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="set 'cifar01'; did you mean 'cifar10'"):
        open_source("cifar01")
    with pytest.raises(UsageError, match="split 'tests'; did you mean 'test'"):
        open_source("cifar10", "tests")


def test_a_root_without_the_files_is_no_reason_to_download(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_hub_rows", never)
    looked = "nowhere/uoft-cs/cifar10/plain_text/train-*.parquet"
    assert_fails(root / "nowhere", looked, "--data", "DDHUB_DATA", "cifar10-mini")
    monkeypatch.setenv("DDHUB_DATA", str(root / "nowhere"))
    assert_fails(None, looked)


def test_missing_and_surplus_shards(root: Path) -> None:
    kept = shard(root, 1).rename(root / "kept.parquet")
    assert_fails(root, "incomplete", str(shard(root, 1)))
    kept.rename(shard(root, 1))
    shard(root, 0).rename(root / "kept.parquet")
    assert_fails(root, "incomplete", str(shard(root, 0)))
    (root / "kept.parquet").rename(shard(root, 0))
    write_shard(shard(root, 0, total=1), PNGS[:1], LABELS[:1], CLASSES)
    assert_fails(root, str(shard(root, 0, total=1)), "remove it")


def test_shards_whose_names_end_in_a_hash(root: Path) -> None:
    fingerprint = open_source("cifar10", root=root).fingerprint
    for number in (0, 1):
        old = shard(root, number)
        old.rename(old.with_name(f"{old.stem}-0123456789abcde{number}.parquet"))
    assert open_source("cifar10", root=root).fingerprint == fingerprint
    write_shard(shard(root, 1), PNGS[350:], LABELS[350:], CLASSES)
    assert_fails(root, "train-00001-of-00002.parquet is not one of the 2 shards", "remove it")
    shard(root, 1).rename(shard(root, 1).with_name("train-all.parquet"))
    assert_fails(root, "train-all.parquet is not one of the 2 shards", "remove it")


def damaged(replacement: bytes | None) -> list[bytes | None]:
    return [*PNGS[350:555], replacement, *PNGS[556:]]


@pytest.mark.parametrize(
    ("replacement", "reason"),
    [
        (b"not an image at all", "cannot identify image file)"),
        (PNGS[555][: len(PNGS[555]) // 2], "truncated"),
        (encode(PIXELS[0, :16]), "32x16 pixels instead of 32x32"),
        (None, "no bytes"),
    ],
)
def test_an_image_that_is_none(root: Path, replacement: bytes | None, reason: str) -> None:
    write_shard(shard(root, 1), damaged(replacement), LABELS[350:], CLASSES)
    assert_fails(root, str(shard(root, 1)), "row 205:", reason)
    assert cached(root) == []


@pytest.mark.parametrize(("label", "shown"), [(10, 10), (-1, -1), (None, -1)])
def test_a_label_out_of_range(root: Path, label: int | None, shown: int) -> None:
    labels = [*LABELS[350:].tolist()]
    labels[77] = label
    write_shard(shard(root, 1), PNGS[350:], labels, CLASSES)
    assert_fails(root, str(shard(root, 1)), "row 77:", f"label {shown} ", "0..9")


def test_files_that_are_other_data(root: Path) -> None:
    file = shard(root, 1)
    write_shard(file, PNGS[350:], LABELS[350:], CLASSES, ("image", "label"))
    assert_fails(root, str(file), "no column 'img'", "image, label")
    write_shard(file, PNGS[350:], [CLASSES[i] for i in LABELS[350:]], CLASSES)
    assert_fails(root, str(file), "label is string")
    write_shard(file, PNGS[350:], LABELS[350:], classes=sorted(CLASSES, reverse=True))
    assert_fails(root, str(file), "truck, ship", "airplane, automobile")
    file.write_bytes(b"PAR1 but not really")
    assert_fails(root, "cannot read", str(file), "fetch")
    for number in (0, 1):
        write_shard(shard(root, number), [], pa.array([], pa.int64()), CLASSES)
    assert_fails(root, "no rows")


def test_damage_within_a_file(root: Path) -> None:
    data = bytearray(shard(root, 1).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    shard(root, 1).write_bytes(data)
    assert_fails(root, str(shard(root, 1)))


# The Hub, through `datasets` on a local file


def test_the_hub_path_decodes_the_same_and_asks_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    original, asked = datasets.load_dataset, []

    def local(*args: Any, split: str) -> Any:
        asked.append((*args, split))
        files = {"train": [str(shard(root, 0)), str(shard(root, 1))]}
        cache = str(root / "datasets")
        return original("parquet", data_files=files, split=split, cache_dir=cache)

    monkeypatch.setattr(datasets, "load_dataset", local)
    monkeypatch.setattr(sources, "_BATCH", 256)  # more than one
    source = open_source("cifar10")
    assert_is_the_data(source)
    assert asked == [("uoft-cs/cifar10", "plain_text", "train")]
    assert source.fingerprint == open_source("cifar10", root=root).fingerprint
    monkeypatch.setattr(datasets, "load_dataset", never)
    assert open_source("cifar10").fingerprint == source.fingerprint


def test_the_hub_out_of_reach(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*args: Any, **options: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    parts = ("Couldn't reach the Hub", "--data ROOT", "DDHUB_DATA", "cifar10-mini")
    assert_fails(None, "uoft-cs/cifar10", *parts)
    assert not (root / "cache").exists()

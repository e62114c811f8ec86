"""Images of the user's own: which files count, what is converted, and errors that name the file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded import encode
from PIL import Image

from ddhub.errors import SourceError, UsageError
from ddhub.sources import cache
from ddhub.sources.resize import RULE
from ddhub.sources.source import open_source

RANDOM = np.random.default_rng(0)
PIXELS = {
    split: {name: RANDOM.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8) for name, count in counts.items()}
    for split, counts in {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 2}}.items()
}


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight images of 16 x 16 pixels in train and val, two classes."""
    monkeypatch.setenv("DDHUB_CACHE", str(tmp_path / "cache"))
    for split, classes in PIXELS.items():
        for name, images in classes.items():
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i, image in enumerate(images):
                (folder / f"{i}.png").write_bytes(encode(image))
    return tmp_path / "pets"


def assert_fails(pets: Path, *parts: str, split: str = "train", size: int | None = None) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(f"folder:{pets}", split, size=size)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_pixels_labels_and_names(pets: Path) -> None:
    name = f"folder:{pets}"
    train, test = open_source(name), open_source(name, "test")
    for source, split in ((train, "train"), (test, "val")):
        expected = np.concatenate([*PIXELS[split].values()]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(source.images.numpy(), expected)
        assert source.classes == ("cat", "dog") and source.notes == "" and source.hub_id == ""
        assert (source.name, source.label, source.address) == ("folder:pets", "folder:pets", name)
        assert source.license and len(source.mean) == len(source.std) == 3
    assert train.labels.tolist() == [0, 0, 0, 1, 1] and test.labels.tolist() == [0, 1, 1]
    assert (train.mean, train.std) == (test.mean, test.std)


def test_the_second_open_decodes_nothing(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_source(f"folder:{pets}")
    monkeypatch.setattr(cache, "_decode_all", None)
    assert open_source(f"folder:{pets}").fingerprint == first.fingerprint
    assert open_source(f"folder:{pets}/", size=16).fingerprint == first.fingerprint


def test_a_moved_folder_needs_no_decoding(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = open_source(f"folder:{pets}").fingerprint
    (pets.parent / "elsewhere").mkdir()
    moved = pets.rename(pets.parent / "elsewhere" / "pets")
    monkeypatch.setattr(cache, "_decode_all", None)
    assert open_source(f"folder:{moved}").fingerprint == fingerprint


def test_changed_files_are_other_data(pets: Path) -> None:
    before = open_source(f"folder:{pets}").fingerprint
    (pets / "train/dog/9.png").write_bytes(encode(PIXELS["train"]["cat"][0]))
    after = open_source(f"folder:{pets}")
    assert after.fingerprint != before and after.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_classes_alone_are_training_images(pets: Path) -> None:
    both = open_source(f"folder:{pets}")
    assert open_source(f"folder:{pets}/train").fingerprint == both.fingerprint
    assert_fails(pets / "train", "has no test images", "train/test", "train/val", split="test")
    shutil.rmtree(pets / "train")
    assert open_source(f"folder:{pets}", "test").labels.tolist() == [0, 1, 1]
    assert_fails(pets, "has no train images", f"{pets}/train")
    with pytest.raises(UsageError, match="split 'val'"):
        open_source(f"folder:{pets}", "val")


def test_test_comes_before_val(pets: Path) -> None:
    shutil.copytree(pets / "train", pets / "test")
    assert open_source(f"folder:{pets}", "test").labels.tolist() == [0, 0, 0, 1, 1]


def test_many_sizes(pets: Path) -> None:
    wide = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    (pets / "train/dog/9.png").write_bytes(encode(wide))
    assert_fails(pets, "dog/9.png: 30x20 pixels instead of 16x16", "--size 16")
    source = open_source(f"folder:{pets}", size=16)
    assert source.images.shape == (6, 3, 16, 16) and source.notes == f"{RULE} to 16 px"
    cut = Image.fromarray(np.ascontiguousarray(wide[:, 5:25])).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(source.images[5].numpy(), np.asarray(cut).transpose(2, 0, 1))
    np.testing.assert_array_equal(source.images[0].numpy(), PIXELS["train"]["cat"][0].transpose(2, 0, 1))
    assert_fails(pets, "has images of many sizes", "--size 16")  # also when the cache has them
    (pets / "train/cat/0.png").write_bytes(encode(wide))
    assert_fails(pets, "cat/0.png is not a square (30x20 pixels)", "--size 20")


def test_modes_are_converted_and_counted(pets: Path) -> None:
    dog = pets / "train/dog"
    image = Image.fromarray(PIXELS["train"]["dog"][0])
    image.convert("L").save(dog / "a.png")
    image.convert("CMYK").save(dog / "b.jpg")
    image.convert("RGBA").save(dog / "c.webp", lossless=True)
    image.quantize(8).save(dog / "d.gif")
    image.save(dog / "e.JPEG")
    image.save(dog / "f.bmp")
    image.save(dog / "g.tif")
    source = open_source(f"folder:{pets}")
    assert source.images.shape == (12, 3, 16, 16)
    assert source.notes == "converted to RGB: 1 CMYK, 1 L, 1 P" or source.notes == (
        "converted to RGB: 1 CMYK, 1 L, 1 P, 1 RGBA"  # an opaque WebP may come back as RGB
    )
    for i in (10, 11):  # the lossless ones, after a to e
        np.testing.assert_array_equal(source.images[i].numpy(), PIXELS["train"]["dog"][0].transpose(2, 0, 1))


def test_grey_images_stay_grey(pets: Path) -> None:
    for file in pets.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    for split in ("train", "test"):
        source = open_source(f"folder:{pets}", split)
        assert source.images.shape[1] == len(source.mean) == len(source.std) == 1 and source.notes == ""
    Image.fromarray(PIXELS["val"]["cat"][0]).save(pets / "val/cat/0.png")  # one image of colours, in the other split
    source = open_source(f"folder:{pets}")
    assert source.images.shape[1] == 3 and source.notes == "converted to RGB: 5 L"


def test_other_files_are_left_out_and_counted(pets: Path) -> None:
    for file in ("train/cat/boxes.txt", "train/readme.md", "train/cat/.DS_Store", "train/dog/Thumbs.db"):
        (pets / file).write_text("")
    (pets / "train/.cache").mkdir()
    (pets / "train/cat/deep").mkdir()
    (pets / "train/cat/1.png").rename(pets / "train/cat/deep/1.png")
    source = open_source(f"folder:{pets}")
    assert len(source.labels) == 5 and source.notes == "2 files that are not images left out"
    order = PIXELS["train"]["cat"][[0, 2, 1]].transpose(0, 3, 1, 2)  # 0.png, 2.png, deep/1.png
    assert torch.equal(source.images[:3], torch.from_numpy(np.ascontiguousarray(order)))


def test_a_corrupt_image(pets: Path) -> None:
    file = pets / "train/dog/1.png"
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"no image", b""):
        file.write_bytes(damage)
        assert_fails(pets, f"{file}: not an image (", "repair or remove it")
    file.unlink()
    file.symlink_to("nowhere.png")
    assert_fails(pets, f"cannot read {file} (No such file or directory)", "repair or remove it")


def test_classes_that_do_not_fit(pets: Path) -> None:
    (pets / "train/bird").mkdir()
    (pets / "train/bird/note.txt").write_text("none yet")
    assert_fails(pets, "class 'bird' has no images in", "add some or remove the folder")
    (pets / "train/bird/note.txt").rename(pets / "train/bird/1.png")
    assert_fails(pets, f"class 'bird' is in {pets / 'train'} and not in {pets / 'val'}")
    assert_fails(pets, "class 'bird'", split="test")


def test_no_such_tree(pets: Path) -> None:
    assert_fails(pets / "nowhere", "no folder", "nowhere", "folder:/home/me/flowers")
    with pytest.raises(SourceError, match="no folder"):
        open_source("folder:")
    (pets.parent / "empty").mkdir()
    assert_fails(pets.parent / "empty", "no folders of images in", "one for each class")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_class_that_cannot_be_read(pets: Path) -> None:
    (pets / "train/dog").chmod(0)
    try:
        assert_fails(pets, f"cannot read {pets / 'train/dog'}", "make it readable")
    finally:
        (pets / "train/dog").chmod(0o755)

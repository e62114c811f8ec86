"""Import: files as others write them, made here, and everything that must be refused of them."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import ddhub
from ddhub import models, teachers
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import README
from ddhub.artifact.results import Entry
from ddhub.cards.card import render
from ddhub.cli import app
from ddhub.convert.export import class_folders, export
from ddhub.convert.importing import import_artifact
from ddhub.errors import ArtifactError, DDHubError, UsageError
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.remote.find import resolve
from ddhub.sources import source as sources

MEAN, STD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])  # CIFAR-10's
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PT: dict[str, Any] = {"dataset": "cifar10-mini", "method": "datm", "scale": "normalized"}
PLAIN: dict[str, Any] = {"dataset": "cifar10-mini", "method": "mine", "protocol": "datm"}


def pixels(per_class: int = 2, seed: int = 0) -> Tensor:
    """Random bytes, u8 [10 · per_class, 3, 32, 32]."""
    return torch.randint(
        256, (10 * per_class, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def normalized(images: Tensor) -> Tensor:
    shift, scale = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    return ((images.double() / 255 - shift) / scale).float()


def off_grid() -> Tensor:
    """Normalised images whose values reach beyond [0, 1] in unit scale and are not bytes."""
    return normalized(pixels()) + torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def logits(per_class: int = 2) -> Tensor:
    """Soft labels of images class by class, each largest at its class."""
    values = torch.randn(10 * per_class, 10, generator=torch.Generator().manual_seed(1))
    return values + 8 * F.one_hot(torch.arange(10).repeat_interleave(per_class), 10)


def datm(folder: Path, images: Tensor, labels: Tensor, lr: float | None = 0.0123) -> Path:
    """What DATM's code leaves: the images as a leaf that was learned."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(images.clone().requires_grad_(images.is_floating_point()), folder / "images_best.pt")
    torch.save(labels, folder / "labels_best.pt")
    if lr is not None:
        torch.save(torch.tensor(lr), folder / "lr_best.pt")
    return folder / "images_best.pt"


def values(artifact: Artifact) -> np.ndarray[Any, Any]:
    """The pixels that an artifact stands for, by the manifest's definition of a byte, in unit scale."""
    low, high = np.array(artifact.manifest.pixel_range).T[:, None, :, None, None]
    return low + artifact.images().numpy() / 255 * (high - low)


def test_images_labels_and_step_size_of_datm(tmp_path: Path) -> None:
    images, soft = normalized(pixels()), logits()
    found = import_artifact(datm(tmp_path, images, soft), tmp_path / "out", **PT, ipc=2)
    m = found.manifest
    assert torch.equal(found.images(), pixels())  # they were bytes, and are the same bytes again
    assert m.pixel_range == ((0.0, 1.0),) * 3 and m.image_size == (3, 32, 32)
    assert found.image_labels().tolist() == [k for k in range(10) for _ in range(2)]
    assert torch.equal(found.tensors()["labels.logits"], soft.half())
    assert m.labels == {"kind": "soft", "temperature": 1.0, "lr": torch.tensor(0.0123).item()}
    assert (m.method, m.dataset, m.ipc, m.classes, m.protocol["name"]) == ("datm", "cifar10-mini", 2, NAMES, "datm")
    assert m.mean == tuple(MEAN) and m.std == tuple(STD)
    moved = (soft.half().float() - soft).abs().max().item()
    assert f"Soft labels are stored as 16-bit floats, which moved a logit by at most {moved:.3g}." in m.deviations
    assert any("0 of 20 soft labels are largest at another class" in line for line in m.deviations)
    assert not any("Pixels were floats" in line for line in m.deviations)


def test_pixels_beyond_the_unit_range_are_rounded_and_it_is_said(tmp_path: Path) -> None:
    images = off_grid()
    images[:, 1] *= 0.4  # a channel that stays inside
    found = import_artifact(datm(tmp_path, images, logits()), tmp_path / "out", **PT)
    wanted = images.double().numpy() * STD[:, None, None] + MEAN[:, None, None]
    low, high = wanted.min((0, 2, 3)), wanted.max((0, 2, 3))
    ranges = np.array(found.manifest.pixel_range)
    assert np.allclose(ranges[[0, 2]], np.stack([low, high], 1)[[0, 2]], atol=1e-12)
    assert ranges[1].tolist() == [0, 1]
    moved = np.abs(values(found) - wanted)
    assert (moved <= ((ranges[:, 1] - ranges[:, 0]) / 510)[:, None, None] + 1e-9).all()
    (line,) = [x for x in found.manifest.deviations if x.startswith("Pixels were floats")]
    assert f"at most {moved.max():.5f} (rms {np.sqrt((moved**2).mean()):.5f})" in line
    assert f"from {min(low.min(), 0):.4g} to {high.max():.4g}" in line
    data = ddhub.load(tmp_path / "out")  # what a student sees is the published tensor, but for the rounding
    x = data.normalize(data.decoder(torch.arange(20)))
    assert (x - images).abs().max() < moved.max() / STD.min() + 1e-5


def test_an_imported_artifact_trains_with_its_step_size(tmp_path: Path) -> None:
    import_artifact(datm(tmp_path, normalized(pixels()), logits()), tmp_path / "out", **PT)
    data = ddhub.load(tmp_path / "out")
    assert data.about.lr == pytest.approx(0.0123)
    plan = protocol("datm", epochs=2)
    model, result = ddhub.train(data, "convnet3-w4", protocol=plan, seed=0, device="cpu", precision="fp32")
    assert result.steps == 2 and result.epochs == 2
    x, y = next(data.batches(seed=0))
    assert data.loss(model(x), y).isfinite()


def test_hard_labels_and_options(tmp_path: Path) -> None:
    path = datm(tmp_path, normalized(pixels()), torch.arange(10).repeat(2), lr=None)
    found = import_artifact(
        path, tmp_path / "out", dataset="cifar10-mini", method="mtt", scale="normalized", protocol="datm", lr=0.5,
        license="MIT", citation="@misc{a, title={b}}", source_url="https://example.org/a",
    )  # fmt: skip
    m = found.manifest
    assert found.image_labels().tolist() == [*range(10)] * 2 and found.tensors() == {}
    assert m.labels == {"kind": "hard", "lr": 0.5}
    assert (m.license, m.citation) == ("MIT", "@misc{a, title={b}}")
    assert m.recipe["config"]["source_url"] == "https://example.org/a"


def test_files_elsewhere_are_named(tmp_path: Path) -> None:
    images = datm(tmp_path / "a", normalized(pixels()), logits()).rename(tmp_path / "pictures.pt")
    labels = (tmp_path / "a" / "labels_best.pt").rename(tmp_path / "b.pt")
    with pytest.raises(UsageError, match="no labels next to .*pictures.pt; name their file: --labels FILE"):
        import_artifact(images, tmp_path / "out", **PT)
    found = import_artifact(images, tmp_path / "out", **PT, labels=labels, lr=tmp_path / "a" / "lr_best.pt")
    config = found.manifest.recipe["config"]
    assert (config["labels"], config["lr"], config["path"]) == ("b.pt", "lr_best.pt", "pictures.pt")
    assert found.manifest.labels["lr"] == pytest.approx(0.0123)


def test_the_manifest_says_where_it_comes_from(tmp_path: Path) -> None:
    import hashlib

    path = datm(tmp_path, normalized(pixels()), logits())
    m = import_artifact(path, tmp_path / "out", **PT).manifest
    assert m.recipe["path"] == "ddhub/importing.py" and m.recipe["preset"] is None
    for name in ("images_best.pt", "labels_best.pt", "lr_best.pt"):
        wanted = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert m.recipe["config"][f"sha256 of {name}"] == wanted
    assert str(tmp_path) not in json.dumps(m.recipe)
    assert m.deviations[0].startswith("Imported")
    assert m.source["hub_id"] == "uoft-cs/cifar10" and m.source["fingerprint"] == "unknown"
    assert "CIFAR-10" in m.license and m.license.startswith("not stated")
    again = import_artifact(path, tmp_path / "again" / "out", **PT).manifest
    assert again.digest == m.digest


def test_whitened_images_are_refused_with_what_to_import_instead(tmp_path: Path) -> None:
    path = datm(tmp_path, normalized(pixels()), logits())
    with pytest.raises(UsageError, match="no unit scale: import the images_zca"):
        import_artifact(path, tmp_path / "out", **{**PT, "scale": "zca"})
    torch.save(pixels().float() / 255, tmp_path / "images_zca_best.pt")  # as MTT's code writes it beside
    with pytest.raises(
        UsageError, match="ZCA-whitened, as images_zca_best.pt next to it shows; .*import the images_zca"
    ):
        import_artifact(path, tmp_path / "out", **PT)
    with pytest.raises(UsageError, match="--normalized is not possible, its pixels are unit"):
        import_artifact(tmp_path / "images_zca_best.pt", tmp_path / "out", **PT)
    found = import_artifact(tmp_path / "images_zca_best.pt", tmp_path / "out", **{**PT, "scale": None})
    assert torch.equal(found.images(), pixels()) and "labels.logits" in found.tensors()
    assert any("whitening undone" in line for line in found.manifest.deviations)


def test_the_order_of_classes_is_that_of_the_file(tmp_path: Path) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]  # the file's class 0 is the data set's class 3, …
    path, soft = datm(tmp_path, normalized(pixels()), logits()), logits()
    a = import_artifact(path, tmp_path / "a", **PT, class_order=order)
    b = import_artifact(path, tmp_path / "b", **PT, class_order=[NAMES[k] for k in order])
    assert a.image_labels().tolist() == [k for k in order for _ in range(2)] == b.image_labels().tolist()
    stored = a.tensors()["labels.logits"]
    for file_class, number in enumerate(order):
        assert torch.equal(stored[:, number], soft[:, file_class].half())
    assert any("taken as 0 cat, 1 automobile" in line for line in a.manifest.deviations)
    for wrong in ([0, 1, 2], [*order[:-1], 3], ["cat"] * 10, [*range(1, 11)]):
        with pytest.raises(UsageError, match="not each of the 10 classes of cifar10-mini once"):
            import_artifact(path, tmp_path / "c", **PT, class_order=wrong)


def test_imagewoof_of_mtt_needs_its_order(tmp_path: Path) -> None:
    images = torch.randn(10, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    path = datm(tmp_path, images, torch.arange(10))
    options: dict[str, Any] = {"dataset": "imagewoof", "method": "datm", "scale": "normalized", "size": 16}
    with pytest.raises(UsageError, match="--class-order 5,4,8,2,0,3,1,9,6,7") as stop:
        import_artifact(path, tmp_path / "out", **options)
    order = str(stop.value).partition("--class-order ")[2].partition(",  ")[0].split(" ")[0].rstrip(",").split(",")
    found = import_artifact(path, tmp_path / "out", **options, class_order=order)
    names = [found.manifest.classes[k] for k in found.image_labels()]
    # ImageNet-1k's classes 193, 182, 258, 162, 155, 167, 159, 273, 207, 229, as MTT lists them
    assert names == [
        "Australian terrier", "Border terrier", "Samoyed", "beagle", "Shih-Tzu", "English foxhound",
        "Rhodesian ridgeback", "dingo", "golden retriever", "Old English sheepdog",
    ]  # fmt: skip


def test_idc_states_its_factor(tmp_path: Path) -> None:
    path = tmp_path / "data_best.pt"
    torch.save([pixels().float() / 255, torch.arange(10).repeat_interleave(2)], path)
    options = {"dataset": "cifar10-mini", "method": "idc"}
    with pytest.raises(UsageError, match="does not have its multi-formation factor.*--factor 2 .* or 1"):
        import_artifact(path, tmp_path / "out", **options)
    found = import_artifact(path, tmp_path / "out", **options, factor=1)
    assert torch.equal(found.images(), pixels()) and found.manifest.protocol["name"] == "idc"
    assert found.manifest.labels == {"kind": "hard"}
    with pytest.raises(UsageError, match="--factor is for IDC's files"):
        import_artifact(datm(tmp_path, normalized(pixels()), logits()), tmp_path / "b", **PT, factor=1)
    torch.save([pixels().float() / 255 * 1.2 - 0.1, torch.arange(10).repeat_interleave(2)], path)  # IDC does not clamp
    wide = import_artifact(path, tmp_path / "wide", **options, factor=1)
    assert np.abs(values(wide) - (pixels().numpy() / 255 * 1.2 - 0.1)).max() <= 0.6 / 255 + 1e-6


def test_mosaics_of_idc(tmp_path: Path) -> None:
    path, images = tmp_path / "data_best.pt", off_grid().clamp(0, 1)
    torch.save([images, torch.arange(10).repeat_interleave(2)], path)
    options: dict[str, Any] = {"dataset": "cifar10-mini", "method": "idc", "protocol": "idc"}
    found = import_artifact(path, tmp_path / "out", **options, factor=2, ipc=2)
    m = found.manifest
    assert m.decoder == {"kind": "crops", "factor": 2, "side": 16} and m.ipc == 2 and m.labels == {"kind": "hard"}
    assert "Images are mosaics of 2 x 2 tiles: a statement of the importer, not the file." in m.deviations
    assert m.recipe["config"]["factor"] == 2 and "--factor 2" in render(Entry(m, []))
    data = ddhub.load(tmp_path / "out")
    assert len(data) == 80
    # the decoder of IDC's code: tiles one after the other, of all images each, enlarged by torch
    parts = [images[:, :, y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16)]
    wanted = F.interpolate(torch.cat(parts), (32, 32), mode="bilinear")
    assert float((data.decoder(torch.arange(80)) - wanted).abs().max()) <= 0.5 / 255 + 1e-6
    assert torch.equal(found.image_labels()[data.decoder.image_of(torch.arange(80))], found.image_labels().repeat(4))
    nine = import_artifact(path, tmp_path / "nine", **options, factor=3).manifest.decoder
    assert nine == {"kind": "crops", "factor": 3, "side": 11}
    for factor in (12, 33):
        with pytest.raises(
            UsageError, match=f"data_best.pt: factor {factor} for images of 32 x 32 .*; correct --factor"
        ):
            import_artifact(path, tmp_path / "b", **options, factor=factor)
    torch.save([images, logits()], path)
    with pytest.raises(UsageError, match="soft labels are of whole images, and --factor 2 says .* give --factor 1"):
        import_artifact(path, tmp_path / "b", **options, factor=2)
    assert {x.name for x in tmp_path.iterdir()} == {"data_best.pt", "out", "nine"}


def tree(top: Path, names: list[str], suffix: str = "png", side: int = 32, per_class: int = 2) -> Path:
    """Class folders as SRe2L writes them: files class000_id000, of the images of `pixels`."""
    for number, name in enumerate(names):
        (top / name).mkdir(parents=True)
        for k in range(per_class):
            image = Image.fromarray(pixels(per_class)[number * per_class + k].permute(1, 2, 0).numpy())
            image.resize((side, side)).save(top / name / f"class{number:03d}_id{k:03d}.{suffix}")
    return top


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        ([f"new{k:03d}" for k in range(10)], "are numbered from new000 on"),  # SRe2L
        ([f"{k:05d}" for k in range(10)], "are numbered from 00000 on"),  # RDED
        ([str(k) for k in range(10)], "are numbered from 0 on"),
        ([*NAMES], "bear the names of the classes"),
        ([name.title() for name in NAMES], "bear the names of the classes"),
    ],
)
def test_class_folders(tmp_path: Path, names: list[str], rule: str) -> None:
    tree(tmp_path / "syn", names)
    (tmp_path / "syn" / "log.txt").write_text("x")
    found = import_artifact(tmp_path / "syn", tmp_path / "out", dataset="cifar10-mini", method="rded")
    assert torch.equal(found.images(), pixels())
    assert found.image_labels().tolist() == [k for k in range(10) for _ in range(2)]
    assert f"Class folders {rule}." in found.manifest.deviations
    assert "1 files that are not images were left out." in found.manifest.deviations
    assert found.manifest.labels == {"kind": "hard"} and "sha256 of 20 files" in found.manifest.recipe["config"]
    if "numbered" in rule:
        other = [*range(1, 10), 0]
        found = import_artifact(
            tmp_path / "syn", tmp_path / "b", dataset="cifar10-mini", method="rded", class_order=other
        )
        assert found.image_labels().tolist() == [k for k in other for _ in range(2)]
    else:
        with pytest.raises(UsageError, match="have the names of the classes"):
            import_artifact(
                tmp_path / "syn", tmp_path / "b", dataset="cifar10-mini", method="rded", class_order=range(10)
            )


def test_more_than_ten_numbered_folders_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for k in range(100):  # as text, 10 comes before 2
        (tmp_path / "syn" / str(k)).mkdir(parents=True)
        Image.new("RGB", (32, 32), (k, 0, 0)).save(tmp_path / "syn" / str(k) / "0.png")
    found = import_artifact(tmp_path / "syn", tmp_path / "out", dataset="cifar100", method="rded")
    assert found.images()[:, 0, 0, 0].tolist() == found.image_labels().tolist() == [*range(100)]


def test_folders_of_imagenette(tmp_path: Path) -> None:
    ids = ["n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413"]
    tree(tmp_path / "syn", [*ids, "n03445777", "n03888257"])
    found = import_artifact(tmp_path / "syn", tmp_path / "out", dataset="imagenette", method="rded")
    assert found.manifest.classes[0] == "tench" and found.image_labels().tolist()[-1] == 9
    assert torch.equal(found.images(), pixels()) and found.manifest.image_size == (3, 32, 32)
    assert "Class folders bear the WordNet ids of the classes." in found.manifest.deviations
    named = tree(tmp_path / "named", class_folders(found.manifest.classes))  # as `ddhub export` names them
    assert (named / "0-tench").is_dir()
    again = import_artifact(named, tmp_path / "b", dataset="imagenette", method="rded")
    assert torch.equal(again.image_labels(), found.image_labels())
    assert "Class folders bear the numbers and names of the classes." in again.manifest.deviations


def test_jpeg_and_sizes_are_said(tmp_path: Path) -> None:
    top = tree(tmp_path / "syn", [f"new{k:03d}" for k in range(10)], "jpg")
    found = import_artifact(top, tmp_path / "out", dataset="cifar10-mini", method="rded")
    assert any(line.startswith("20 of the 20 images were published as JPEG") for line in found.manifest.deviations)
    first = np.asarray(Image.open(top / "new000" / "class000_id000.jpg")).transpose(2, 0, 1)
    assert (found.images()[0].numpy() == first).all()
    large = tree(tmp_path / "large", [f"new{k:03d}" for k in range(10)], side=64)
    with pytest.raises(DDHubError, match="64x64 pixels instead of 32x32; resize all of them: --size 32"):
        import_artifact(large, tmp_path / "b", dataset="cifar10-mini", method="rded")
    found = import_artifact(large, tmp_path / "b", dataset="cifar10-mini", method="rded", size=32)
    assert "20 images had another size: centre square, resized bilinearly to 32 px." in found.manifest.deviations
    assert found.manifest.image_size == (3, 32, 32)
    kept = import_artifact(large, tmp_path / "c", dataset="cifar10-mini", method="rded", size=64)
    assert kept.manifest.image_size == (3, 64, 64)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"new{k:03d}" for k in range(9)], "9 class folders, and the data set has 10"),
        ([f"new{k:03d}" for k in range(1, 11)], "not numbered from 0 to 9"),
        ([*(f"new{k:03d}" for k in range(9)), "9"], "not numbered from 0 to 9"),  # two prefixes
        (["0", "00", *map(str, range(2, 10))], "not numbered from 0 to 9"),  # one class twice
        ([*NAMES[:9], "lorry"], "folder 'lorry' is not one of the classes"),
        ([*NAMES[:9], "Bird"], "is not one of the classes|folders are not numbered"),
    ],
)
def test_folders_that_are_not_the_classes(tmp_path: Path, names: list[str], message: str) -> None:
    tree(tmp_path / "syn", names)
    with pytest.raises(ArtifactError, match=message):
        import_artifact(tmp_path / "syn", tmp_path / "out", dataset="cifar10-mini", method="rded")
    assert not (tmp_path / "out").exists()


def teacher(folder: Path, **changes: Any) -> str:
    """The name of a small teacher of cifar10-mini."""
    with torch.random.fork_rng(devices=[]):
        net = models.build("convnet3-bn-w8", classes=10, size=32)
    facts: dict[str, Any] = {
        "model": "convnet3-bn-w8", "dataset": "cifar10-mini", "classes": NAMES, "image_size": (3, 32, 32),
        "mean": tuple(MEAN), "std": tuple(STD), "accuracy": 50.0, "epochs": 1, "seed": 0, "license": "mit",
        "test": {"name": "cifar10-mini", "label": "x", "images": 10, "fingerprint": "00"},
        "protocol": Protocol(epochs=1).to_json(), "run": {},
        "source": {"name": "a", "hub_id": "", "split": "train", "fingerprint": "", "notes": "", "license": "mit"},
    }  # fmt: skip
    teachers.write(folder, net, **{**facts, **changes})
    return folder.name


def test_teachers_label_what_has_no_labels(tmp_path: Path) -> None:
    top = tree(tmp_path / "syn", [f"new{k:03d}" for k in range(10)])
    options = {"dataset": "cifar10-mini", "method": "sre2l", "protocol": "sre2l-cifar"}
    name = teacher(tmp_path / "arts" / "t-one")
    found = import_artifact(top, tmp_path / "arts" / "out", **options, teachers=[name])
    digest = teachers.read(tmp_path / "arts" / "t-one")["digest"]
    assert found.manifest.recipe["config"]["teachers"] == ["t-one"]
    wanted = {"kind": "teacher", "temperature": 30.0, "teachers": [{"name": "t-one", "digest": digest}]}
    assert found.manifest.labels == wanted
    assert found.manifest.teachers == [{"model": "convnet3-bn-w8", "accuracy": 50.0, "epochs": 1}]
    x, y = next(ddhub.load(found.folder).batches(seed=0))
    assert y.shape == (20, 10) and y.isfinite().all() and x.shape[0] == 20
    with pytest.raises(DDHubError, match="unknown teacher 't-two'"):
        import_artifact(top, tmp_path / "arts" / "b", **options, teachers=["t-two"])
    teacher(tmp_path / "far" / "t-far")
    with pytest.raises(UsageError, match="is in a folder where the artifact does not find it; put its folder into"):
        import_artifact(top, tmp_path / "arts" / "b", **options, teachers=[str(tmp_path / "far" / "t-far")])
    teacher(tmp_path / "arts" / "t-odd", mean=(0.5, 0.5, 0.5))
    with pytest.raises(ArtifactError, match="has another mean than 'b'"):
        import_artifact(top, tmp_path / "arts" / "b", **options, teachers=["t-odd"])
    assert not (tmp_path / "arts" / "b").exists()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_of_bytes(tmp_path: Path, layout: str, write: Callable[..., None]) -> None:
    images = pixels().numpy()
    stored = images if layout == "NCHW" else images.transpose(0, 2, 3, 1)
    write(tmp_path / "a.npz", images=stored, labels=np.arange(20, dtype=">i2") // 2, rubbish=np.zeros(3))
    found = import_artifact(tmp_path / "a.npz", tmp_path / "out", **PLAIN)
    assert (found.images().numpy() == images).all()
    assert found.image_labels().tolist() == [k // 2 for k in range(20)]
    with pytest.raises(UsageError, match="--normalized is not possible, its pixels are unit"):
        import_artifact(tmp_path / "a.npz", tmp_path / "b", **PLAIN, scale="normalized")


def test_npz_of_floats_needs_a_scale_and_grey_images_no_axis(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((10, 28, 28), dtype=np.float32)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(10))
    options = {**PLAIN, "dataset": "mnist"}
    with pytest.raises(UsageError, match="does not name the scale"):
        import_artifact(tmp_path / "a.npz", tmp_path / "out", **options)
    found = import_artifact(tmp_path / "a.npz", tmp_path / "out", **options, scale="unit")
    assert found.manifest.image_size == (1, 28, 28)
    assert np.abs(values(found)[:, 0] - images).max() <= 0.5 / 255 + 1e-7


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """An imported artifact with soft labels, a temperature and a learned step size."""
    path = datm(tmp_path / "published", normalized(pixels()), logits())
    return import_artifact(path, tmp_path / "original", **PT, temperature=4.0, citation="@misc{a}").folder


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        found = {key: file[key] for key in file.files}
    return {**found, "facts": json.loads(str(found["facts"]))}


@pytest.mark.parametrize("to", ["npz", "pt"])
def test_export_import_export_is_the_same(original: Path, tmp_path: Path, to: str) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    export(original, "npz", first)
    export(original, to, tmp_path / f"out.{to}")
    if to == "npz":
        (tmp_path / "out.npz").rename(tmp_path / "sent.npz")
    sent = tmp_path / ("sent.npz" if to == "npz" else "out.pt")
    found = import_artifact(sent, tmp_path / "again")  # it says all of itself
    export(found.folder, "npz", second)
    a, b = arrays(first), arrays(second)
    for key in ("images", "labels", "logits", "classes"):
        assert (a[key] == b[key]).all() and a[key].dtype == b[key].dtype
    assert {key for key in a["facts"] if a["facts"][key] != b["facts"][key]} == {"name", "digest"}
    assert torch.equal(found.images(), Artifact.open(original).images())
    assert found.manifest.labels == Artifact.open(original).manifest.labels


def test_a_bundled_artifact_and_back(tmp_path: Path) -> None:
    export("cifar10-random-ipc10", "npz", tmp_path / "a.npz")
    found = import_artifact(tmp_path / "a.npz", tmp_path / "again")
    assert torch.equal(found.images(), Artifact.open(resolve("cifar10-random-ipc10")).images())
    export("cifar10-random-ipc10", "imagefolder", tmp_path / "tree")
    other = import_artifact(tmp_path / "tree", tmp_path / "other", dataset="cifar10", method="x", protocol="datm")
    assert torch.equal(other.images(), found.images()) and torch.equal(other.image_labels(), found.image_labels())


def test_a_range_survives_export_and_import(tmp_path: Path) -> None:
    path = datm(tmp_path, normalized(pixels()) * 2, logits())
    first = import_artifact(path, tmp_path / "a", **PT)
    export(first.folder, "npz", tmp_path / "a.npz")
    second = import_artifact(tmp_path / "a.npz", tmp_path / "b")
    assert torch.equal(first.images(), second.images())
    assert np.abs(values(first) - values(second)).max() < 1e-6


def test_facts_of_another_data_set_are_refused(original: Path, tmp_path: Path) -> None:
    export(original, "npz", tmp_path / "a.npz")
    with pytest.raises(ArtifactError, match="its classes are not those of svhn"):
        import_artifact(tmp_path / "a.npz", tmp_path / "b", dataset="svhn")
    wrong: list[dict[str, Any]] = [{"mean": [1]}, {"mean": "x"}, {"protocol": {"epochs": "many"}}, {"dataset": 3}]
    wrong += [{"labels": {"kind": "soft", "lr": "x"}}, {"dataset": "nowhere"}, {"source": {}}, {"license": ""}]
    for change in wrong:
        found = arrays(tmp_path / "a.npz")
        found["facts"] = np.array(json.dumps({**found["facts"], **change}))
        np.savez(tmp_path / "b.npz", **found)
        with pytest.raises(DDHubError) as stop:
            import_artifact(tmp_path / "b.npz", tmp_path / "out")
        assert "\n" not in str(stop.value) and not (tmp_path / "out").exists()


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {shlex.quote(str(self.mark))}",)


class Hoard:
    """Takes a terabyte when it is unpickled, by a call that torch allows."""

    def __reduce__(self) -> Any:
        return bytearray, (10**12,)


def rezipped(path: Path, out: Path, *, compression: int = zipfile.ZIP_STORED, twice: str = "", **changed: Any) -> Path:
    """A .pt file packed again, with members by their last part changed by a function of their bytes."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for member in old.infolist():
            data = old.read(member)
            last = member.filename.rpartition("/")[2].replace(".", "_")
            new.writestr(member.filename, changed.get(last, lambda x: x)(data))
            if member.filename.endswith(twice or "\0"):
                with pytest.warns(UserWarning, match="Duplicate name"):
                    new.writestr(member.filename, data)
    return out


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    bad = tmp_path / "bad"
    bad.mkdir()
    torch.save(Evil(mark), bad / "one.pt")
    torch.save([normalized(pixels()), Evil(mark)], bad / "two.pt")
    torch.save({"images": Evil(mark)}, bad / "three.pt", pickle_protocol=4)  # names on the stack
    torch.save(Hoard(), bad / "hoard.pt")
    torch.save([torch.zeros(2), np.zeros(2)], bad / "numpy.pt")
    torch.save(Evil(mark), bad / "legacy.pt", _use_new_zipfile_serialization=False)
    (bad / "plain.pt").write_bytes(pickle.dumps(Evil(mark)))
    np.savez(bad / "a.npz", images=np.array([Evil(mark)] * 3, dtype=object), labels=np.arange(3))
    good = datm(tmp_path, normalized(pixels()), logits())
    with pytest.raises(ArtifactError, match=r"needs pickle \('posix.system'\), which is never run; save its tensors"):
        import_artifact(bad / "one.pt", tmp_path / "out", **PT)
    for path in sorted(bad.iterdir()):
        for format in ("auto", "pt", "idc", "npz"):
            with pytest.raises(DDHubError) as stop:
                import_artifact(path, tmp_path / "out", **PT, format=format, factor=1 if format == "idc" else None)
            assert str(bad) in str(stop.value) and "\n" not in str(stop.value)
        for option in ("labels", "lr"):
            if path.suffix == ".pt":
                with pytest.raises(ArtifactError):
                    import_artifact(good, tmp_path / "out", **PT, **{option: path})
    with pytest.raises(ArtifactError, match="images.npy needs pickle"):
        import_artifact(bad / "a.npz", tmp_path / "out", **PLAIN)
    assert not mark.exists() and not (tmp_path / "out").exists()
    torch.load(bad / "one.pt", weights_only=False)  # the files are what they are said to be
    assert mark.exists()


def test_files_that_lie_about_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = datm(tmp_path, normalized(pixels()), logits())
    lying = {
        "wide": rezipped(good, tmp_path / "wide.pt", data_pkl=lambda x: x.replace(b"M\x00\xf0", b"M\x00\xff")),
        "deflated": rezipped(good, tmp_path / "deflated.pt", compression=zipfile.ZIP_DEFLATED),
        "twice": rezipped(good, tmp_path / "twice.pt", twice="data/0"),
        "headless": rezipped(good, tmp_path / "headless.pt", data_pkl=lambda x: b""),
    }
    torch.save(torch.zeros(1).expand(10**6, 3, 1000, 1000), tmp_path / "repeated.pt")  # 12 TB in four bytes
    lying["repeated"] = tmp_path / "repeated.pt"
    torch.save(torch.zeros(20, 3, 32, 32).to_sparse(), tmp_path / "sparse.pt")
    lying["sparse"] = tmp_path / "sparse.pt"
    for name, path in lying.items():
        with pytest.raises(ArtifactError, match=f"{name}.pt: "):
            import_artifact(path, tmp_path / "out", **PT, labels=tmp_path / "labels_best.pt")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 3, 32, 32)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("images.npy", header.getvalue() + bytes(100))
    with pytest.raises(ArtifactError, match="images.npy is not as long as its header says"):
        import_artifact(tmp_path / "a.npz", tmp_path / "out", **PLAIN)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("images.npy", b"")
        file.writestr("images.npy", b"")
    with pytest.raises(ArtifactError, match="two arrays have one name"):
        import_artifact(tmp_path / "b.npz", tmp_path / "out", **PLAIN)
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((2000, 3, 32, 32), np.uint8), labels=np.zeros(2000, int))
    monkeypatch.setenv("DDHUB_MAX_BYTES", "1000000")
    with pytest.raises(UsageError, match="6,160,256 bytes, and DDHUB_MAX_BYTES allows 1,000,000"):
        import_artifact(tmp_path / "bomb.npz", tmp_path / "out", **PLAIN)
    monkeypatch.setenv("DDHUB_MAX_BYTES", "10000")
    with pytest.raises(UsageError, match="images_best.pt: .* DDHUB_MAX_BYTES allows 10,000"):
        import_artifact(good, tmp_path / "out", **PT)
    with pytest.raises(UsageError, match="DDHUB_MAX_BYTES allows 10,000"):
        import_artifact(tree(tmp_path / "syn", [*NAMES]), tmp_path / "out", **PLAIN)
    assert not (tmp_path / "out").exists()


def test_damage_is_an_error_or_changes_values_alone(tmp_path: Path) -> None:
    """Cut and flipped files: a named error, or an artifact that is whole; never another exception."""
    draw = random.Random(0)
    datm(tmp_path / "pt", normalized(pixels(1)), logits(1))
    np.savez_compressed(tmp_path / "a.npz", images=pixels(1).numpy(), labels=np.arange(10))
    refused = 0
    for path, options in ((tmp_path / "pt" / "images_best.pt", PT), (tmp_path / "pt" / "labels_best.pt", PT),
                          (tmp_path / "a.npz", PLAIN)):  # fmt: skip
        data, target = path.read_bytes(), tmp_path / "pt" / "images_best.pt" if path.suffix == ".pt" else path
        ends = range(len(data) - min(len(data), 1500), len(data))  # where names, sizes and offsets are
        for number in range(40):
            changed = bytearray(data)
            if number % 3 == 0:
                del changed[draw.randrange(len(data)) :]
            else:
                place = draw.choice(ends) if number % 3 == 1 else draw.randrange(min(1500, len(data)))
                changed[place] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            try:
                found = import_artifact(target, tmp_path / "out", **options)
                assert found.images().shape == (10, 3, 32, 32)
                Artifact.open(tmp_path / "out")
            except DDHubError as error:
                refused += 1
                assert "\n" not in str(error)
        path.write_bytes(data)
    assert refused > 80


def with_value(value: float) -> Tensor:
    images = normalized(pixels())
    images[7, 1, 2, 3] = value
    return images


def unbalanced() -> Tensor:
    labels = torch.arange(20) // 2
    labels[0] = 9
    return labels


@pytest.mark.parametrize(
    ("images", "labels", "changes", "message"),
    [
        (with_value(float("nan")), None, {}, "image 7 holds a value that is not finite"),
        (with_value(float("inf")), None, {}, "image 7 holds a value that is not finite"),
        (with_value(1e6), None, {}, "pixels reach from .* in unit scale; give the mean and std"),
        (pixels().float() / 255, None, {}, "all pixels lie in .0, 1., which normalised ones do not; say --unit"),
        (pixels().float(), None, {"scale": "unit"}, "pixels reach from 0 to 255 .*; divide them by 255"),
        (normalized(pixels())[:, :1], None, {}, "images of 1 channels, and those of cifar10-mini have 3"),
        (normalized(pixels())[:, :2], None, {}, "images are float32 .20, 2, 32, 32., not floats or u8"),
        (normalized(pixels())[0], None, {}, "images are float32 .3, 32, 32., not floats or u8"),
        (normalized(pixels())[:, :, :16], None, {}, "images of 16 x 32 pixels, not square"),
        (normalized(pixels())[:, :, :16, :16], None, {}, "images of 16 x 16 pixels, not 32 x 32; give --size 16"),
        (pixels().long(), None, {}, "images are int64"),
        (normalized(pixels())[:0], None, {}, "images are float32 .0, 3, 32, 32."),
        (normalized(pixels())[:19], None, {}, "soft labels are .20, 10., and there are 19 images of 10 classes"),
        (None, torch.arange(19) // 2, {}, "19 labels for 20 images"),
        (None, torch.arange(20), {}, "label 10 of image 10 is not one of 0..9; is it the right --dataset"),
        (None, torch.arange(20) - 1, {}, "label -1 of image 0 is not one of 0..9"),
        (
            None,
            unbalanced(),
            {},
            "1 images of 'airplane' and 3 of 'truck'; an artifact must have the same number of each",
        ),
        (None, None, {"ipc": 5}, "there are 2 images a class, not 5; correct --ipc"),
        (None, logits()[:, :9], {}, "soft labels are .20, 9."),
        (None, logits().softmax(1), {}, "soft labels are probabilities .* save their logarithms"),
        (None, logits() * float("nan"), {}, "soft label holds a value that is not finite"),
        (None, logits() * 1e5, {}, "beyond ±65504"),
        (None, logits().roll(2, 0), {}, "only 0 of 20 soft labels are largest at the class of their position"),
        (None, (torch.arange(20) // 2).float(), {}, "labels are float32 .20., not whole numbers"),
        (None, torch.ones(20, dtype=torch.bool), {}, "labels are bool"),
        (None, torch.arange(20)[:, None], {}, "labels are int64 .20, 1."),
        (None, None, {"scale": None}, "does not name the scale of its pixels; give --normalized, --unit or --zca"),
        (None, None, {"scale": "whitened"}, "unknown scale"),
        (None, None, {"dataset": None}, "does not name its data set"),
        (None, None, {"dataset": "cifar11"}, "unknown data set 'cifar11'; did you mean 'cifar10'"),
        (None, None, {"dataset": "cifar100"}, "soft labels are .20, 10., and there are 20 images of 100 classes"),
        (None, None, {"method": None}, "no method; say which"),
        (None, None, {"method": "mtt"}, "no protocol is called 'mtt'; name one"),
        (None, None, {"protocol": "dat"}, "unknown protocol 'dat'"),
        (None, None, {"lr": 0}, "learned step size is 0.0"),
        (None, None, {"lr": -0.1}, "learned step size is -0.1"),
        (None, None, {"lr": "nan"}, "learned step size is nan"),
        (None, None, {"lr": "nowhere.pt"}, "nowhere.pt: cannot be read .No such file"),
        (None, None, {"labels": "nowhere.pt"}, "nowhere.pt: cannot be read .No such file"),
        (None, None, {"mean": (0.5,)}, "--mean has 1 numbers, and images have 3 channels"),
        (None, None, {"std": (0.5, 0.5, 0.0)}, "--std is .* one a channel"),
        (None, None, {"temperature": 0}, "--temperature is 0"),
        (None, torch.arange(20) // 2, {"temperature": 2}, "--temperature is for soft labels"),
        (None, None, {"format": "tar"}, "unknown format 'tar'"),
        (None, None, {"format": "idc", "factor": 1}, "not a list of images and labels"),
        (None, None, {"format": "npz", "labels": "x"}, "--labels names a file for images of --format pt"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, images: Tensor | None, labels: Tensor | None, changes: dict[str, Any], message: str
) -> None:
    path = datm(tmp_path, normalized(pixels()) if images is None else images, logits() if labels is None else labels)
    with pytest.raises((ArtifactError, UsageError), match=message) as stop:
        import_artifact(path, tmp_path / "out", **{**PT, **changes})
    assert "\n" not in str(stop.value)
    assert {x.name for x in tmp_path.iterdir()} == {"images_best.pt", "labels_best.pt", "lr_best.pt"}


def test_one_hot_labels_are_hard(tmp_path: Path) -> None:
    path = datm(tmp_path, normalized(pixels()), F.one_hot(torch.arange(20) // 2, 10).float())
    found = import_artifact(path, tmp_path / "out", **PT)
    assert found.manifest.labels["kind"] == "hard" and found.image_labels().tolist() == [k // 2 for k in range(20)]


def test_places_and_names(tmp_path: Path) -> None:
    path = datm(tmp_path / "in", normalized(pixels()), logits())
    assert import_artifact(tmp_path / "in", tmp_path / "out", **PT).manifest.ipc == 2  # the folder with images_best.pt
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for where, out, message in (
        (path, "Bad Name", "'Bad Name' cannot name an artifact"),
        (path, "mine", "not overwritten, it holds 'thesis.tex'|not overwritten, it has no manifest"),
        (tmp_path / "nothing", "b", "no file or folder"),
        (tmp_path / "mine" / "thesis.tex", "b", "its name does not show its format; give --format pt, idc"),
        (tmp_path / "empty", "b", "no folders of images"),
    ):
        with pytest.raises(DDHubError, match=message):
            import_artifact(where, tmp_path / out, **PT)
    assert [x.name for x in (tmp_path / "mine").iterdir()] == ["thesis.tex"] and not (tmp_path / "b").exists()
    os.mkfifo(tmp_path / "pipe.pt")
    for options in ({"labels": tmp_path / "pipe.pt"}, {"lr": tmp_path / "pipe.pt"}):
        with pytest.raises(ArtifactError, match="pipe.pt: not a file"):
            import_artifact(path, tmp_path / "b", **PT, **options)
    with pytest.raises(UsageError, match="has no images_best.pt and no images.pt"):
        import_artifact(tmp_path / "empty", tmp_path / "b", **PT, format="pt")


def run(*words: object) -> Any:
    return CliRunner().invoke(app.cli, [str(word) for word in words])


def test_the_command_line_and_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datm(tmp_path, off_grid(), logits())
    (tmp_path / "CITATION.bib").write_text("@misc{a,\n title={b}\n}\n")
    words = ["--dataset", "cifar10-mini", "--method", "datm", "--normalized", "--ipc", 2, "--lr", 0.25]
    words += ["--mean", "0.4914,0.4822,0.4465", "--citation", "CITATION.bib", "--license", "MIT; see 'terms'"]
    words += ["--class-order", "3,1,4,0,5,9,2,6,8,7", "--source-url", "https://example.org/a b"]
    done = run("import", "images_best.pt", "out/cifar10-datm", *words)
    assert done.exit_code == 0, done.output
    m = Artifact.open(tmp_path / "out" / "cifar10-datm").manifest
    assert f"out/cifar10-datm: 20 images, labels soft, digest {m.digest}" in done.output
    assert "which moved a pixel by at most" in done.output
    assert m.labels["lr"] == 0.25 and m.citation == "@misc{a,\n title={b}\n}\n"
    assert run("card", "out/cifar10-datm").exit_code == 0
    assert run("verify", "out/cifar10-datm").exit_code == 0
    assert "path ddhub/importing.py" in run("info", "out/cifar10-datm").output
    card = (tmp_path / "out" / "cifar10-datm" / README).read_text()
    assert "imported, made by its publisher by `datm` for a budget of 2 images a class" in card
    assert "python -m recipes" not in card
    (command,) = [line for line in card.splitlines() if line.startswith("ddhub import ")]
    again = run(*shlex.split(command)[1:])  # what the card says makes it again
    assert again.exit_code == 0, again.output
    assert Artifact.open(tmp_path / "cifar10-datm").manifest.digest == m.digest
    shown = json.loads(run("import", "images_best.pt", "out/b", *words, "--json").output)
    assert shown["images"] == 20 and shown["deviations"] == m.deviations and shown["name"] == "b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--zca"], "--zca: whitened pixels have no unit scale"),
        (["--normalized", "--mean", "a,b"], "--mean is 'a,b'; give numbers joined by commas"),
        (["--normalized", "--factor", "2"], "--factor is for IDC's files"),
        ([], "give --normalized, --unit or --zca"),
    ],
)
def test_the_command_line_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    datm(tmp_path, normalized(pixels()), logits())
    done = run("import", "images_best.pt", "out", "--dataset", "cifar10-mini", "--method", "datm", *words)
    assert done.exit_code != 0 and message in str(done.exception) and isinstance(done.exception, UsageError)
    assert not (tmp_path / "out").exists()


def test_an_imported_artifact_is_no_variant_of_a_recipe(tmp_path: Path) -> None:
    from ddhub.artifact.results import read
    from ddhub.cards.comparison import compare_with

    source = sources.open_source("cifar10-mini")
    path = datm(tmp_path, normalized(pixels(10)), logits(10))
    found = import_artifact(
        path, tmp_path / "out", **{**PT, "dataset": "cifar10", "method": "infer", "protocol": "datm"}
    )
    original = read(resolve("cifar10-infer-ipc10"))
    comparison = compare_with(read(found.folder), [original, read(resolve("cifar10-random-ipc10"))])
    assert comparison.variants == [] and comparison.baseline is not None and source.classes == NAMES


def test_nothing_half_written_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = datm(tmp_path / "in", normalized(pixels()), logits())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddhub.artifact.folder.replace_folder", full)
    with pytest.raises(ArtifactError, match="out: cannot be written .No space left"):
        import_artifact(path, tmp_path / "out", **PT)
    assert {x.name for x in tmp_path.iterdir()} == {"in"}

"""Export: every format holds the same items, rebuilt here by hand, and other people's tools read them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_results import tiny
from torch import Tensor
from torch.nn import functional as F

import ddhub
from ddhub import models
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import PARQUET
from ddhub.convert import export as module
from ddhub.convert.export import Export, class_folders, export
from ddhub.errors import ArtifactError, DDHubError, UsageError
from ddhub.sources import source

PLAIN: dict[str, Any] = {"decoder": {"kind": "identity"}, "labels": {"kind": "hard"}}


def write(folder: Path, classes_of: list[int], channels: int = 3, **changes: Any) -> Artifact:
    """An artifact of random images of `channels` x 4 x 6 pixels and these classes, with hard labels unless changed."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (len(classes_of), channels, 4, 6), dtype=torch.uint8, generator=draw)
    values = {"mean": (0.4,) * channels, "std": (0.2,) * channels, "pixel_range": ((0.0, 1.0),) * channels}
    return write_tensors(folder, images, classes_of, {}, image_size=(channels, 4, 6), **{**values, **PLAIN, **changes})


def write_tensors(
    folder: Path, images: Tensor, classes_of: list[int], tensors: dict[str, Tensor], **changes: Any
) -> Artifact:
    return Artifact.write(
        folder,
        manifest=tiny(tensors={}, **changes),
        images=images,
        image_labels=torch.tensor(classes_of),
        tensors=tensors,
    )


@pytest.fixture
def rebuilt(tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """INFER's artifact with soft labels: its folder, its items by the formula (float64, in unit scale), its logits."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 4, 6), dtype=torch.uint8, generator=draw)
    u = torch.randint(-127, 128, (2, 1, 3, 4, 6), dtype=torch.int8, generator=draw)
    scale = torch.tensor([[0.003], [0.0005]])
    logits = torch.randn(9, 3, generator=draw).half()
    tensors = {"decoder.compensators": u, "decoder.scale": scale, "labels.logits": logits}
    folder = write_tensors(tmp_path / "soft", images, [0, 1, 2], tensors).folder
    items = []
    for label in range(3):
        natural = images[label].numpy() / 255
        items.append(natural)
        items += [np.clip(natural + u[m, 0].numpy() * float(scale[m, 0]), 0, 1) for m in range(2)]
    return folder, np.stack(items), logits.numpy()


def test_npz_is_exact(rebuilt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, items, logits = rebuilt
    monkeypatch.setattr(module, "_BATCH", 4)  # the last batch is a part of one
    done = export(folder, "npz", tmp_path / "a" / "b.npz")
    assert done == Export(path=tmp_path / "a" / "b.npz", items=9, logits=True, change=0.0)
    with np.load(done.path) as found:
        assert np.abs(found["images"] - items).max() < 1e-6
        assert found["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert found["classes"].tolist() == ["airplane", "automobile", "bird"]
        assert found["logits"].dtype == np.float16 and (found["logits"] == logits).all()
        facts = json.loads(str(found["facts"]))
    assert facts["digest"] == Artifact.open(folder).manifest.digest
    assert facts["labels"] == {"kind": "soft", "temperature": 30.0}
    export(folder, "npz", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == done.path.read_bytes()


def test_imagefolder_is_rounded_and_read_by_torchvision(rebuilt: Any, tmp_path: Path) -> None:
    from tools.torchvision_stub import torchvision

    folder, items, logits = rebuilt
    out = tmp_path / "out"
    done = export(folder, "imagefolder", out)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    classes = ("airplane", "automobile", "bird")
    assert files == {"ddhub.json", "metadata.jsonl"} | {f"{name}/0000{i}.png" for name in classes for i in range(3)}
    rounded = np.round(items * 255)
    assert done.change == pytest.approx(np.abs(rounded / 255 - items).max(), abs=1e-6)
    assert 0 < done.change <= 0.5 / 255
    found = torchvision.datasets.ImageFolder(str(out))
    for row, (image, label) in enumerate(found):
        assert (np.asarray(image).transpose(2, 0, 1) == rounded[row]).all()
        assert label == row // 3
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [f"{classes[i // 3]}/0000{i % 3}.png" for i in range(9)]
    assert [line["label"] for line in lines] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [line["logits"] for line in lines] == logits.tolist()
    assert json.loads((out / "ddhub.json").read_text())["mean"] == [0.5, 0.5, 0.5]


def test_datasets_saves_images_classes_and_logits(
    rebuilt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    folder, items, logits = rebuilt
    monkeypatch.setattr(module, "_BATCH", 4)
    export(folder, "datasets", tmp_path / "out")
    found = datasets.load_from_disk(str(tmp_path / "out"))
    assert found.features["label"].names == ["airplane", "automobile", "bird"]
    assert found["label"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found["logits"] == logits.tolist()
    for image, item in zip(found["image"], items, strict=True):
        assert (np.asarray(image).transpose(2, 0, 1) == np.round(item * 255)).all()
    # the other way round: what `imagefolder` wrote, read by datasets
    export(folder, "imagefolder", tmp_path / "folder")
    found = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache"))
    assert found["train"]["label"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found["train"]["logits"] == logits.tolist()


def test_datasets_that_is_not_installed(rebuilt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="pip install datasets"):
        export(rebuilt[0], "datasets", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"soft"}


def test_pt_is_normalised_as_dd_ranking_takes_it(rebuilt: Any, tmp_path: Path) -> None:
    folder, items, logits = rebuilt
    out = tmp_path / "out"
    export(folder, "pt", out)
    found = {path.stem: torch.load(path, weights_only=True) for path in out.glob("*.pt")}
    assert found.keys() == {"images", "labels", "hard_labels"}
    assert np.abs(found["images"].numpy() - (items - 0.5) / 0.2).max() < 1e-5  # tiny's mean and std
    assert (found["labels"].numpy() == logits.astype(np.float32)).all() and found["labels"].dtype == torch.float32
    # classes in order, as many items each: what DD-Ranking's soft evaluator assumes
    assert found["hard_labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    # without logits, with a learned step size
    folder = write(tmp_path / "hard", [0, 1, 2], labels={"kind": "hard", "lr": 0.02}).folder
    export(folder, "pt", tmp_path / "hard-out")
    found = {path.stem: torch.load(path, weights_only=True) for path in (tmp_path / "hard-out").glob("*.pt")}
    assert found["labels"].tolist() == [0, 1, 2] and found["labels"].dtype == torch.int64
    assert found["lr"].item() == pytest.approx(0.02)


@pytest.mark.parametrize("to", module.FORMATS)
def test_items_come_class_by_class(tmp_path: Path, to: str) -> None:
    labels = [2, 0, 1, 0, 2, 2]
    artifact = write(tmp_path / "in", labels)
    order = [1, 3, 2, 0, 4, 5]
    images = artifact.images()[order]
    out = tmp_path / "out"
    done = export(tmp_path / "in", to, out)
    assert (done.items, done.logits, done.change) == (6, False, 0.0)
    if to == "npz":
        with np.load(out) as file:
            assert "logits" not in file
            found, classes = torch.from_numpy(file["images"]).mul(255).round().byte(), file["labels"].tolist()
    elif to == "pt":
        classes = torch.load(out / "hard_labels.pt").tolist()
        found = torch.load(out / "images.pt").mul(0.2).add(0.4).mul(255).round().byte()
    else:
        if to == "datasets":
            datasets = pytest.importorskip("datasets")
            read = datasets.load_from_disk(str(out))
            pictures, classes = list(read["image"]), read["label"]
            assert read.column_names == ["image", "label"]
        else:
            lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
            pictures, classes = [Image.open(out / x["file_name"]) for x in lines], [x["label"] for x in lines]
        found = torch.stack([torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in pictures])
    assert list(classes) == [0, 0, 1, 2, 2, 2]
    assert (found == images).all()


def test_grey_images_stay_one_channel(tmp_path: Path) -> None:
    artifact = write(tmp_path / "in", [0, 1, 2], channels=1)
    export(tmp_path / "in", "imagefolder", tmp_path / "out")
    with Image.open(tmp_path / "out" / "bird" / "00000.png") as image:
        assert image.mode == "L"
        assert (np.asarray(image) == artifact.images()[2, 0].numpy()).all()
    export(tmp_path / "in", "npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert found["images"].shape == (3, 1, 4, 6)


def test_values_beyond_8_bits_are_clipped_and_said(tmp_path: Path) -> None:
    artifact = write(tmp_path / "in", [0, 1, 2], pixel_range=((-0.5, 1.2),) * 3)
    values = artifact.images().double() / 255 * 1.7 - 0.5
    done = export(tmp_path / "in", "imagefolder", tmp_path / "out")
    assert done.change == pytest.approx(max(float(-values.min()), float(values.max()) - 1), abs=1e-6)
    with Image.open(tmp_path / "out" / "airplane" / "00000.png") as image:
        written = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert (written - values[0].clamp(0, 1) * 255).abs().max() < 0.5001
    export(tmp_path / "in", "npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert np.abs(found["images"] - values.numpy()).max() < 1e-6


def test_class_folders_sort_as_the_classes_do() -> None:
    assert class_folders(["cat", "dog"]) == ["cat", "dog"]
    assert class_folders(["tench", "English springer"]) == ["0-tench", "1-English springer"]
    assert class_folders(["a/b", "c"]) == ["0-a_b", "1-c"]
    assert class_folders(["..", "c"]) == ["0-__", "1-c"]
    assert class_folders(["A", "a"]) == ["0-A", "1-a"]  # one folder where case does not count
    many = class_folders([f"x{i}" for i in range(11)])
    assert many == sorted(many) and many[1] == "01-x1"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "in", [0, 1, 2])
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "empty", "link"):
        for to in module.FORMATS:
            with pytest.raises(UsageError, match="exists already"):
                export(tmp_path / "in", to, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(UsageError, match="did you mean 'npz'"):
        export(tmp_path / "in", "npzz", tmp_path / "out")


@pytest.mark.parametrize("to", module.FORMATS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, error: BaseException
) -> None:
    write(tmp_path / "in", [0, 1, 2])
    monkeypatch.setattr(module, "_BATCH", 1)
    whole = module._TrainingSet.batches

    def breaks(found: module._TrainingSet) -> Any:
        yield next(whole(found))
        raise error

    monkeypatch.setattr(module._TrainingSet, "batches", breaks)
    with pytest.raises((DDHubError, KeyboardInterrupt)) as stop:
        export(tmp_path / "in", to, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    if isinstance(error, OSError):
        assert "out: cannot be written (No space left on device)" in str(stop.value)


def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path) -> None:
    write(tmp_path / "in", [0, 1, 2])
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead, alive = tmp_path / f".out.tmp-{process.pid}", tmp_path / f".out.tmp-{os.getppid()}"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "part").write_text("")
    export(tmp_path / "in", "npz", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", alive.name}


def test_a_damaged_artifact_is_not_exported(tmp_path: Path) -> None:
    write(tmp_path / "in", [0, 1, 2])
    data = bytearray((tmp_path / "in" / PARQUET).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "in" / PARQUET).write_bytes(data)
    with pytest.raises(ArtifactError, match="sha256"):
        export(tmp_path / "in", "npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_teacher_labels_leave_the_class(tmp_path: Path) -> None:
    """The teachers need not be there: their labels depend on the view."""
    labels = {"kind": "teacher", "temperature": 30.0, "teachers": [{"name": "gone", "digest": "0" * 64}]}
    write(tmp_path / "in", [0, 1, 2], labels=labels)
    assert not export(tmp_path / "in", "imagefolder", tmp_path / "out").logits
    assert json.loads((tmp_path / "out" / "ddhub.json").read_text())["labels"]["kind"] == "teacher"


def plain_loop(rows: Any, facts: dict[str, Any], seed: int, test: source.Source) -> float:
    """What somebody without ddhub writes: INFER's static recipe on a saved data set, from the protocol's facts."""
    plan, augment = facts["protocol"], facts["protocol"]["augment"]
    heat, pad = facts["labels"]["temperature"], augment["crop_padding"]
    assert (plan["optimizer"], augment["mix"], augment["mix_per"]) == ("adamw", "mixup", "batch")
    images = torch.stack([torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in rows["image"]]).float() / 255
    logits = torch.tensor(rows["logits"])
    mean, std = (torch.tensor(facts[key]).view(-1, 1, 1) for key in ("mean", "std"))
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    net = models.build("convnet3-w8", classes=10).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan["lr"], weight_decay=plan["weight_decay"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan["epochs"])
    for _ in range(plan["epochs"]):
        for items in torch.randperm(len(images)).split(plan["batch_size"]):
            views = []
            for x in F.pad(images[items], (pad,) * 4):
                top, left = draw.integers(0, 2 * pad + 1, 2)
                x = x[:, top : top + 32, left : left + 32]
                views.append(x.flip(2) if draw.random() < augment["flip"] else x)
            x, z = (torch.stack(views) - mean) / std, logits[items]
            weight, other = draw.beta(augment["mix_alpha"], augment["mix_alpha"]), torch.randperm(len(items))
            x, z = (weight * a + (1 - weight) * a[other] for a in (x, z))
            loss = F.kl_div(F.log_softmax(net(x) / heat, 1), F.softmax(z / heat, 1), reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        output = net.eval()((test.images.float() / 255 - mean) / std)
    return 100 * float((output.argmax(1) == test.labels).float().mean())


def test_a_plain_pytorch_loop_reaches_the_accuracy_of_ddhub(tmp_path: Path) -> None:
    """Within two standard deviations, under the artifact's protocol with fewer and larger steps."""
    datasets = pytest.importorskip("datasets")
    export("cifar10-infer-ipc10", "datasets", tmp_path / "out")
    rows = datasets.load_from_disk(str(tmp_path / "out"))
    facts = json.loads((tmp_path / "out" / "ddhub.json").read_text())
    data, test = ddhub.load("cifar10-infer-ipc10"), source.open_source("cifar10-mini", "test")
    plan = replace(data.protocol, epochs=8, batch_size=32, lr=0.01)
    place: dict[str, Any] = {"test": test, "device": "cpu", "precision": "fp32", "progress": False}
    ours = [ddhub.train(data, "convnet3-w8", protocol=plan, seed=seed, **place)[1].accuracy for seed in range(3)]
    theirs = [plain_loop(rows, {**facts, "protocol": plan.to_json()}, seed, test) for seed in range(3)]
    noise = max(1.0, statistics.stdev(ours), statistics.stdev(theirs))  # three seeds may agree by chance
    assert abs(statistics.fmean(ours) - statistics.fmean(theirs)) < 2 * noise, (ours, theirs)
    assert min(ours + theirs) > 15, (ours, theirs)  # chance is 10

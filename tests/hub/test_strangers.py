"""What others see of a published artifact: `datasets`, the Hub's file system and command line, the card's own code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_crops import mosaics

import ddhub
from ddhub.artifact import bundled
from ddhub.artifact.folder import Artifact
from ddhub.artifact.manifest import COMPENSATORS, MANIFEST, PARQUET, README
from ddhub.publish.push import push
from hub import shelf
from hub.server import DummyHub
from hub.shelf import INFER, RANDOM

CLASSES = ["airplane", "automobile", "bird"]


@pytest.fixture
def published(signed_in: DummyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DummyHub:
    """Both artifacts on the Hub, and nobody signed in any more."""
    folder = shelf.pair(tmp_path / "out")
    for path in (folder, folder.parent / RANDOM):
        push(path, f"lab/{path.name}")
    monkeypatch.delenv("HF_TOKEN")
    return signed_in


def pixels(images: Any) -> torch.Tensor:
    """Pillow's images as u8 [N, C, H, W]."""
    arrays = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(arrays.reshape(*arrays.shape[:3], -1)).permute(0, 3, 1, 2)


def readers_code(hub: DummyHub, repo: str) -> str:
    """The code of the card's section on reading without ddhub."""
    card = hub.files(repo)[README].decode()
    match = re.search(r"\n## Without ddhub\n\n```python\n(.*?)```", card, re.DOTALL)
    assert match
    return match[1]


def test_datasets_reads_both_configs(published: DummyHub, tmp_path: Path) -> None:
    import datasets

    repo, artifact = f"lab/{INFER}", Artifact.open(tmp_path / "out" / INFER)
    rows = datasets.load_dataset(repo, split="train")
    assert torch.equal(pixels(rows["image"]), artifact.images())
    assert rows["label"] == artifact.image_labels().tolist() and rows.features["label"].names == CLASSES
    assert isinstance(rows.features["image"], datasets.Image) and set(rows.features) == {"image", "label"}
    assert datasets.get_dataset_config_names(repo) == ["default", "compensators"]
    counted = rows.info.splits["train"].num_bytes
    info = datasets.load_dataset_builder(repo).info.splits["train"]
    assert info.num_examples == len(rows) == 6 and abs(info.num_bytes - counted) < 2000  # of parquet's own

    added = datasets.load_dataset(repo, "compensators", split="train")
    stored = artifact.tensors()
    change = pixels(added["image"]).to(torch.int16) - 128
    assert torch.equal(change, stored["decoder.compensators"].flatten(0, 1).to(torch.int16))
    assert torch.equal(torch.tensor(added["scale"]), stored["decoder.scale"].flatten())
    assert list(zip(added["net"], added["set"], strict=True)) == [(net, k) for net in range(3) for k in range(2)]


def test_datasets_streams_and_reads_at_a_tag(published: DummyHub, tmp_path: Path) -> None:
    import datasets

    artifact = Artifact.open(tmp_path / "out" / RANDOM)
    rows = list(datasets.load_dataset(f"lab/{RANDOM}", split="train", streaming=True, revision="v1"))
    assert torch.equal(pixels(row["image"] for row in rows), artifact.images())
    assert [row["label"] for row in rows] == artifact.image_labels().tolist()
    assert datasets.get_dataset_config_names(f"lab/{RANDOM}") == ["default"]


def test_the_hubs_file_system_reads_it(published: DummyHub, tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    files, root = HfFileSystem(), f"datasets/lab/{INFER}"
    assert {x.removeprefix(f"{root}/") for x in files.find(root)} - {".gitattributes"} == {
        *Artifact.open(tmp_path / "out" / INFER).file_bytes(), README, COMPENSATORS
    }  # fmt: skip
    assert files.cat(f"{root}/{MANIFEST}") == (tmp_path / "out" / INFER / MANIFEST).read_bytes()
    with files.open(f"{root}/{PARQUET}") as file:
        table = pq.read_table(file)
    assert table.num_rows == 6
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"]["names"] == CLASSES


def test_the_hubs_command_line_reads_it(published: DummyHub, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    words = ["download", f"lab/{INFER}", "--repo-type", "dataset", "--revision", "v1", "--local-dir", str(out)]
    hf = str(Path(sys.executable).with_name("hf"))
    done = subprocess.run([hf, *words], capture_output=True, text=True, env=published.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (out / COMPENSATORS).is_file() and (out / README).is_file()
    data = ddhub.load(out)  # a whole artifact, compensators and the Hub's own files beside it
    assert data.about.digest == Artifact.open(tmp_path / "out" / INFER).manifest.digest


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_the_cards_ten_lines_rebuild_what_ddhub_rebuilds(
    signed_in: DummyHub, tmp_path: Path, channels: int, labels: str
) -> None:
    shelf.random(tmp_path / RANDOM, 30.0, channels=channels)
    folder = shelf.infer(tmp_path / INFER, 40.0, channels=channels, labels=labels)
    push(folder, f"lab/{INFER}")
    check_readers_code(signed_in, f"lab/{INFER}", folder)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_cards_lines_for_stored_images_of_any_range(signed_in: DummyHub, tmp_path: Path, channels: int) -> None:
    ranges = ((-0.5, 1.25), (0.0, 1.0), (-0.1, 1.1))[:channels]
    folder = shelf.random(tmp_path / RANDOM, 30.0, channels=channels, pixel_range=ranges)
    push(folder, f"lab/{RANDOM}")
    check_readers_code(signed_in, f"lab/{RANDOM}", folder)


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize(("regions", "side", "channels"), [(2, 8, 3), (0, 8, 1), (1, 7, 1), (3, 9, 3)])
def test_the_cards_lines_for_mosaics(
    signed_in: DummyHub, tmp_path: Path, regions: int, side: int, channels: int, labels: str
) -> None:
    scheme = {"kind": "soft", "temperature": 4.0} if labels == "soft" else {"kind": labels}
    ranges = ((-0.5, 1.25), (0.0, 1.0), (-0.1, 1.1))[:channels]
    fields = {"method": "random-real", "labels": scheme, "pixel_range": ranges}  # a method that needs no baseline
    artifact = mosaics(tmp_path / "tiny-crops-ipc2", regions, side, channels, **fields)
    shelf.record(artifact, 40.0)
    push(artifact.folder, "lab/tiny-crops-ipc2")
    check_readers_code(signed_in, "lab/tiny-crops-ipc2", artifact.folder, lines=17, slack=1e-6)


def test_the_bundled_artifacts_are_read_by_their_cards_lines(signed_in: DummyHub) -> None:
    for name in ("cifar10-infer-ipc10", "cifar10-random-ipc10"):
        push(name, f"ddhub/{name}")
        check_readers_code(signed_in, f"ddhub/{name}", bundled.BUNDLED / name)


def check_readers_code(hub: DummyHub, repo: str, folder: Path, lines: int = 10, slack: float = 0) -> None:
    """Run a card's lines in an interpreter of their own: the same images, by default to the bit, the same labels.

    In ten lines, and without ddhub.
    """
    code = readers_code(hub, repo)
    assert f'"{repo}"' in code and "ddhub" not in code.replace(repo, "")
    assert len([line for line in code.splitlines() if line]) <= lines and max(map(len, code.splitlines())) <= 120
    found: dict[str, Any] = {}
    exec(code, found)
    data = ddhub.load(folder)
    images = data.decoder(torch.arange(len(data)))
    assert found["images"].dtype == np.float32
    assert np.allclose(found["images"].transpose(0, 3, 1, 2), images.numpy(), rtol=0, atol=slack)
    artifact = Artifact.open(folder)
    if artifact.manifest.labels["kind"] == "soft":
        assert np.array_equal(found["labels"], artifact.tensors()["labels.logits"].numpy())
    else:
        stored = data.decoder.image_of(torch.arange(len(data)))
        assert found["labels"].tolist() == artifact.image_labels()[stored].tolist()

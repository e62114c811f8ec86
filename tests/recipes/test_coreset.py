"""Coresets: policies against loops, teachers at hand, and an artifact that is what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ddhub.errors import UsageError
from ddhub.sources.source import open_source
from ddhub.training.open import open_data
from recipes import coreset
from recipes.coreset import Config, chosen, herding, judges, spread
from recipes.run.draws import generator, select
from recipes.run.run import Run


def test_herding_is_that_of_a_loop() -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    mean, rows = features.double().mean(0), []
    for _ in range(7):
        gaps = {
            row: float((features.double()[[*rows, row]].mean(0) - mean).norm()) for row in range(30) if row not in rows
        }
        rows.append(min(gaps, key=lambda row: gaps[row]))
    assert herding(features, 7).tolist() == rows


def test_spread_takes_the_farthest() -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    rows = [min(range(30), key=lambda row: float((features[row] - features.mean(0)).norm()))]
    while len(rows) < 6:
        away = {
            row: min(float((features[row] - features[other]).norm()) for other in rows)
            for row in range(30)
            if row not in rows
        }
        rows.append(max(away, key=lambda row: away[row]))
    assert spread(features, 6).tolist() == rows
    assert sorted(spread(torch.zeros(4, 2), 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("policy", ["confident", "medium"])
def test_confidence_is_that_of_the_class(policy: str) -> None:
    source = open_source("cifar10-mini")
    logits = torch.randn(len(source.labels), 10, generator=torch.Generator().manual_seed(2))

    def seen(rows: Tensor) -> dict[str, Tensor]:
        return {"logits": logits[rows], "features": torch.zeros(len(rows), 1)}

    rows = chosen(Config(dataset="cifar10-mini", ipc=5, policy=policy), source, seen).view(10, 5)
    for label in range(10):
        members = (source.labels == label).nonzero().flatten()
        sure = {int(row): float(logits[row].softmax(0)[label]) for row in members}
        middle = sorted(sure.values())[99]
        wanted = sorted(sure, key=lambda row: -sure[row] if policy == "confident" else abs(sure[row] - middle))[:5]
        assert rows[label].tolist() == wanted


def test_the_strongest_teachers_at_hand_come_first() -> None:
    source = open_source("cifar10-mini")
    facts = list(judges(Config(within=100), source).values())
    accuracies = [fact["accuracy"] for fact in facts]
    assert len(facts) > 2 and accuracies == sorted(accuracies, reverse=True)
    assert list(judges(Config(within=0), source).values()) == facts[:1]
    named = judges(Config(teachers=(facts[2]["name"], facts[0]["name"])), source)
    assert [fact["name"] for fact in named.values()] == [facts[0]["name"], facts[2]["name"]]


def test_teachers_of_other_data_are_refused() -> None:
    source = open_source("cifar10-mini")
    with pytest.raises(UsageError, match="of other images or classes than cifar10-mini; name another"):
        judges(Config(teachers=("imagenette-convnet5-bn-w32-e10-s0",)), source)
    small = replace(source, images=source.images[:, :, :16, :16])
    with pytest.raises(UsageError, match="no teacher of cifar10-mini with images of 16 px is at hand; name one"):
        judges(Config(), small)


def test_the_smoke_artifact_has_the_teachers_and_the_rows_of_its_policy(tmp_path: Path) -> None:
    run = Run(coreset, coreset.SMOKE, tmp_path / "one", device="cpu", precision="fp32")
    artifact = coreset.distill(coreset.SMOKE, run)
    m, source = artifact.manifest, open_source("cifar10-mini")
    assert m.method == "coreset" and m.labels == {"kind": "soft", "temperature": 1.0}
    assert [x["model"] for x in m.teachers] == [x["model"] for x in judges(coreset.SMOKE, source).values()]
    found = coreset.rows_of(coreset.SMOKE, source, run)
    assert torch.equal(artifact.images(), source.images[found])
    again = Run(coreset, coreset.SMOKE, tmp_path / "two", device="cpu", precision="fp32", work=tmp_path / "other")
    assert coreset.distill(coreset.SMOKE, again).manifest.content == m.content


def test_mosaics_are_those_of_a_loop() -> None:
    """Two classes of eight images, four to a stored one; Pillow shrinks them."""
    images = torch.randint(0, 256, (2, 8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    stored = coreset.mosaics(images, 2)
    assert stored.shape == (2, 2, 3, 8, 8)
    for label in range(2):
        for slot in range(4):
            for n in range(2):
                y, x = divmod(slot, 2)
                tile = stored[label, n, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                picture = Image.fromarray(images[label, slot * 2 + n].permute(1, 2, 0).numpy())
                small = np.asarray(picture.resize((4, 4), Image.Resampling.BILINEAR)).astype(int)
                assert np.abs(tile.permute(1, 2, 0).numpy().astype(int) - small).max() <= 1


@pytest.mark.parametrize("factor", [1, 2])
def test_labels_of_original_images_belong_to_the_items(factor: int, tmp_path: Path) -> None:
    """What the teachers say of the image that an item was made of, though the item is coded and shrunk."""
    cfg = replace(coreset.SMOKE, factor=factor, labels_of="original", policy="random")
    run = Run(coreset, cfg, tmp_path / "one", device="cpu", precision="fp32", encoding="avif:50")
    artifact = coreset.distill(cfg, run)
    data, source = open_data(artifact), open_source("cifar10-mini")
    rows = select(source, 4 * factor**2, generator(0, "select")).view(10, -1)
    nets = coreset._opened(run, judges(cfg, source))
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (source.mean, source.std))
    for item in (0, 7, len(data) - 1):
        slot, n = divmod(item, 40)
        original = source.images[rows[n // 4, slot * 4 + n % 4]][None]
        shown = data.decoder(torch.tensor([item]))
        small = F.interpolate(original.float() / 255, 32 // factor, mode="bilinear", antialias=True)
        close = F.interpolate(small, 32, mode="bilinear") if factor > 1 else small
        assert (shown - close).abs().mean() < 0.06  # it is the image, but for the codec
        with torch.no_grad():
            x = ((original.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
            wanted = torch.stack([net(x) for net in nets]).mean(0)[0]
        assert torch.allclose(artifact.tensors()["labels.logits"][item].float(), wanted, atol=0.02)


def test_a_factor_that_does_not_divide_the_side_is_refused(tmp_path: Path) -> None:
    cfg = replace(coreset.SMOKE, factor=3)
    with pytest.raises(UsageError, match="factor 3 does not divide images of 32 px; choose another"):
        coreset.distill(cfg, Run(coreset, cfg, tmp_path / "one", device="cpu"))

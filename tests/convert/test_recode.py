"""Recoding: fewer bytes, the same items but for what coding moves, and a card that says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import ddhub
from ddhub.artifact import bundled
from ddhub.artifact.folder import Artifact
from ddhub.cli.app import cli
from ddhub.convert.recode import recode
from ddhub.errors import UsageError

NAMES = ["cifar10-random-ipc1", "cifar10-edf-ipc1", "cifar10-idc-ipc1", "cifar10-infer-ipc10"]


def stocked(name: str) -> Artifact:
    return Artifact.open(bundled.BUNDLED / name)


@pytest.mark.parametrize("name", NAMES)
def test_every_decoder_reads_coded_images(name: str, tmp_path: Path) -> None:
    old = stocked(name)
    new = recode(old, tmp_path / "new", encoding="avif:80", label_bits=8)
    assert new.manifest.stored_bytes < old.manifest.stored_bytes
    before, after = ddhub.load(bundled.BUNDLED / name), ddhub.load(tmp_path / "new")
    items = torch.arange(len(before))
    assert len(after) == len(before)
    moved = (before.decoder(items) - after.decoder(items)).square().mean().sqrt()
    span = max(high - low for low, high in old.manifest.pixel_range)
    assert 0 < moved < 0.03 * span
    assert torch.equal(new.image_labels(), old.image_labels())
    if before.labels.kind == "soft":
        gap = [x.labels.logits.float().softmax(1) for x in (before, after)]
        assert 0 < (gap[0] - gap[1]).abs().max() < 0.05
    assert new.manifest.name == "new" and new.results() == []
    assert len(new.manifest.deviations) == len(old.manifest.deviations) + 1
    assert re.search(
        rf"`ddhub recode {name} new --encoding avif:80 --label-bits 8`.* PSNR of \d\d\.\d dB",
        new.manifest.deviations[-1],
    )
    assert {**new.manifest.recipe, "run": 0} == {**old.manifest.recipe, "run": 0}


def test_a_lossless_one_has_the_same_content(tmp_path: Path) -> None:
    old = stocked("cifar10-random-ipc10")
    new = recode(old, tmp_path / "new", encoding="png/10")
    assert new.manifest.content == old.manifest.content
    assert torch.equal(new.images(), old.images())
    assert "the same pixels" in new.manifest.deviations[-1]


def test_what_is_coded_is_not_coded_again(tmp_path: Path) -> None:
    once = recode(stocked("cifar10-random-ipc1"), tmp_path / "once", encoding="webp:50")
    with pytest.raises(
        UsageError, match="once is webp:50/1 already, and coding again loses more; recode what it is from"
    ):
        recode(once, tmp_path / "twice", encoding="webp:30")
    with pytest.raises(UsageError, match="'Twice!' cannot name an artifact"):
        recode(once, tmp_path / "Twice!")


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "small"
    words = ["recode", "cifar10-random-ipc10", str(out), "--encoding", "avif:40"]
    done = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False)
    said = json.loads(done.stdout)
    assert said["bytes"] == Artifact.open(out).manifest.stored_bytes < 0.1 * said["before"]
    with pytest.raises(UsageError, match="encoding 'gif' is not known; it must be png, webp:QUALITY or avif:QUALITY"):
        CliRunner().invoke(cli, [*words[:4], "gif"], catch_exceptions=False)

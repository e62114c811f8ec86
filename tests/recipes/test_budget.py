"""Budgets in bytes: the number of images follows from coding, and no artifact has a byte too many."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ddhub.artifact.folder import Artifact
from ddhub.data.label_bits import unpack
from ddhub.errors import UsageError
from recipes import coreset, edf, infer, random_real, udd
from recipes.run import budget
from recipes.run.budget import in_all, most
from recipes.run.run import Run


def made(recipe: ModuleType, out: Path, size: str, cfg: Any = None, **options: Any) -> Artifact:
    cfg = cfg or recipe.SMOKE
    run = Run(recipe, cfg, out, device="cpu", precision="fp32", work=out.parent / "work", **options)
    run.cfg = budget.sized(recipe, cfg, run, size)
    return recipe.distill(run.cfg, run)


def test_bytes_of_a_class_or_in_all() -> None:
    assert in_all("30730", 10) == in_all("3073/class", 10) == in_all("30,730", 7) == 30_730
    for text in ("", "0", "3 kB", "30730/image", "-4", "1.5", "/class", "9" * 5000):
        with pytest.raises(UsageError, match="give for example 30730, or 3073/class"):
            in_all(text, 10)


def test_the_largest_that_fits() -> None:
    for top in range(40):
        assert most(lambda n, top=top: n - top, 25) == min(top, 25)
        assert most(lambda n, top=top: 0 if n <= top else inf, 25) == min(top, 25)
        assert most(lambda n, top=top: -inf if n < 3 else (n - top) * 70 + n**0.5, 25) == max(2, min(top - 1, 25))


def test_few_numbers_are_tried() -> None:
    asked: list[int] = []

    def over(number: int) -> float:
        asked.append(number)
        return 500 + 750 * number**0.98 - 1_300_000

    found = most(over, 5000)
    assert over(found) <= 0 < over(found + 1)
    assert len(set(asked)) == len(asked) - 2 <= 10 and sum(n > found / 2 for n in asked) <= 7
    asked.clear()
    assert most(lambda n: inf if n > 1700 else over(n), 5000) == most(lambda n: inf if n > 1700 else -1, 5000) == 1700
    assert len(asked) <= 20


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ("24616", {}),
        ("60000", {}),
        ("9000", {"encoding": "webp:30"}),
        ("2000/class", {"encoding": "avif:40", "label_bits": 4}),
        ("50000", {"encoding": "avif:60/1", "label_bits": 8}),
    ],
)
def test_real_images_fill_their_bytes_and_one_more_would_not_fit(
    size: str, options: dict[str, Any], tmp_path: Path
) -> None:
    allowed = in_all(size, 10)
    artifact = made(random_real, tmp_path / "one", size, **options)
    ipc = artifact.manifest.ipc
    assert artifact.manifest.stored_bytes <= allowed
    assert len(artifact.images()) == 10 * ipc
    more = Run(random_real, replace(random_real.SMOKE, ipc=ipc + 1), tmp_path / "more", device="cpu", **options)
    assert random_real.distill(more.cfg, more).manifest.stored_bytes > allowed
    if "encoding" in options:
        assert artifact.manifest.encoding["quality"] == int(options["encoding"].split(":")[1].split("/")[0])


def test_pictures_of_a_number_of_images_are_full(tmp_path: Path) -> None:
    artifact = made(random_real, tmp_path / "one", "9000", encoding="webp:30/3")
    assert artifact.manifest.ipc % 3 == 0 and artifact.manifest.stored_bytes <= 9000
    more = Run(random_real, replace(random_real.SMOKE, ipc=artifact.manifest.ipc + 3), tmp_path / "more",
               device="cpu", encoding="webp:30/3")  # fmt: skip
    assert random_real.distill(more.cfg, more).manifest.stored_bytes > 9000


def test_labels_count(tmp_path: Path) -> None:
    one, two = (
        made(coreset, tmp_path / name, "12000", encoding="avif:40", label_bits=bits)
        for name, bits in (("one", 16), ("two", 4))
    )
    assert two.manifest.ipc > one.manifest.ipc
    assert max(one.manifest.stored_bytes, two.manifest.stored_bytes) <= 12_000
    assert two.tensors()["labels.logits"].shape == (10 * two.manifest.ipc, 5)
    assert two.manifest.labels["bits"] == 4 and "bits" not in one.manifest.labels


@pytest.mark.parametrize("recipe", [edf, udd, infer], ids=["edf", "udd", "infer"])
def test_learned_images_keep_to_their_bytes(recipe: ModuleType, tmp_path: Path) -> None:
    """Their quality gives way where they code worse than real ones."""
    artifact = made(recipe, tmp_path / "one", "40000", encoding="avif:50", label_bits=8)
    assert artifact.manifest.stored_bytes <= 40_000
    assert artifact.manifest.encoding["quality"] <= 50
    assert artifact.manifest.ipc > recipe.SMOKE.ipc


def test_labels_belong_to_decoded_pixels(tmp_path: Path) -> None:
    """Those of the teachers on the images that the artifact shows, not on those that were coded."""
    artifact = made(coreset, tmp_path / "one", "12000", encoding="avif:20")
    images = artifact.images()
    cfg, run = artifact.manifest.recipe["config"], Run(coreset, coreset.SMOKE, tmp_path / "x", device="cpu")
    source = run.source(cfg["dataset"], "train")
    nets = coreset._opened(run, coreset.judges(coreset.SMOKE, source))
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (source.mean, source.std))
    x = ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = torch.stack([net(x) for net in nets]).mean(0)
    _, tensors = unpack(artifact.manifest.labels, artifact.tensors(), 10)
    assert torch.allclose(tensors["labels.logits"].float(), wanted, atol=0.05)


def test_a_budget_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1,000 bytes hold not one image a class of cifar10-mini; raise --bytes"):
        made(random_real, tmp_path / "one", "1000")

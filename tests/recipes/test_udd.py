"""UDD and IDC as recipes: rates and counts by hand, IDC's path to the bit, resuming, what is stored, bad input."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from test_matching import source
from torch import Tensor

import ddhub
from ddhub import models, teachers
from ddhub.artifact.folder import Artifact
from ddhub.cli.app import cli
from ddhub.data.decode import grid
from ddhub.errors import DDHubError, UsageError
from ddhub.measures.utilisation import Proxy, maps
from ddhub.protocols.protocol import Augment
from recipes import udd
from recipes.gradients.matching import formations
from recipes.gradients.outer import Matcher, Real
from recipes.gradients.regions import Searching
from recipes.run.run import Run
from recipes.run.straight_through import OFF, InLoop

CPU = torch.device("cpu")
TINY = replace(
    udd.SMOKE, n_outer=2, net="convnet3-w4", n_data=10, batch_real=5, regions=2, refresh_every=1, freeze=1.0, ipc=2
)


@pytest.mark.parametrize(
    ("dataset", "rates"),
    [
        ("cifar10", (5e-4, 5e-3, 2.5e-2)),
        ("cifar100", (5e-4, 5e-3, 2.5e-2)),
        ("svhn", (5e-4, 5e-3, 2.5e-2)),
        ("mnist", (1e-5, 1e-4, 5e-4)),
        ("fashion-mnist", (7.65625e-6, 7.65625e-5, 3.828125e-4)),
    ],
)
def test_rates_of_the_images(dataset: str, rates: tuple[float, ...]) -> None:
    side = 28 if "mnist" in dataset else 32
    for name in ("", "idc-", "idc-i-"):
        found = [udd.matching(udd.PRESETS[f"{name}{dataset}-ipc{ipc}"], side, CPU).rate for ipc in (1, 10, 50)]
        assert found == pytest.approx(rates, rel=1e-9)


@pytest.mark.parametrize(("channels", "size", "count"), [(3, 32, 320_010), (1, 28, 317_706)])
def test_the_matching_net_has_2048_features(channels: int, size: int, count: int) -> None:
    net = models.build(udd.Config().net, classes=10, size=size, channels=channels)
    assert sum(p.numel() for p in net.parameters()) == count
    assert isinstance(net, models.Net) and net.features(torch.zeros(2, channels, size, size)).shape == (2, 2048)


def test_presets_are_those_of_the_official_settings() -> None:
    words = {name: asdict(cfg) for name, cfg in udd.PRESETS.items()}
    for dataset, distance, n_data, ops, cutmix, plan in (
        ("cifar10", "mse", 2000, "color_crop_cutout", 0.5, "idc"),
        ("cifar100", "mse", 2000, "color_crop_cutout", 0.5, "idc"),
        ("svhn", "mse", 500, "color_crop_cutout", 0.5, "idc-svhn"),
        ("mnist", "l1", 500, "color_crop", 0.0, "idc-mnist"),
        ("fashion-mnist", "l1", 500, "color_crop_cutout", 0.5, "idc"),
    ):
        for ipc, regions, policy in ((1, 4, "rbp"), (10, 1, "jbp"), (50, 1, "jbp")):
            wanted = {"dataset": dataset, "ipc": ipc, "distance": distance, "n_data": n_data, "match_augment": ops}
            wanted |= {"cutmix": cutmix, "protocol": plan, "n_outer": 2000, "inner": 100, "batch_real": 64}
            name = f"{dataset}-ipc{ipc}"
            assert wanted.items() <= words[name].items() and wanted.items() <= words[f"idc-{name}"].items()
            assert (words[name]["regions"], words[name]["policy"]) == (regions, policy)
            assert words[f"idc-{name}"]["regions"] == 0 and words[f"idc-i-{name}"]["factor"] == 1
            assert (words[f"{name}-report"]["n_outer"], words[f"{name}-report"]["n_data"]) == (400, n_data)
            assert (words[f"{name}-dev"]["n_outer"], words[f"{name}-dev"]["n_data"]) == (100, 500)
    one = udd.PRESETS["idc-i-mnist-ipc1"]
    assert (one.match_augment, one.cutmix) == ("color_crop_cutout", 0.5)
    assert udd.students(one).augment == Augment(
        dsa="color_crop_scale_rotate", dsa_form="idc", mix="cutmix", mix_probability=0.5
    )
    assert udd.students(udd.PRESETS["idc-i-svhn-ipc1"]).augment.mix == "none"
    assert [udd.method(udd.PRESETS[f"{x}cifar10-ipc1"]) for x in ("", "idc-", "idc-i-")] == ["udd", "idc", "idc-i"]
    assert udd.training(udd.Config()).augment.dsa_ops == ("color", "crop")


def test_a_scaled_tier_has_the_controls_and_its_steps_scaled() -> None:
    for tier in ("", "-report", "-dev", "-cpu"):
        for what in ("random-regions", "rbp", "jbp", "contrast-only", "no-refresh"):
            assert udd.method(udd.PRESETS[f"cifar10-ipc1-{what}{tier}"]) == "udd"
    plan = udd.students(replace(udd.Config(), student_epochs=300))
    assert (plan.epochs, plan.milestones, plan.decay) == (300, (199, 249), 0.2)


def advanced(cfg: udd.Config, device: torch.device = CPU, loop: InLoop = OFF) -> dict[str, Tensor]:
    """The state after all outer iterations, on 3 classes of random images of 8 px, with an untrained proxy."""
    data = source(20)
    torch.manual_seed(0)
    proxy = models.build("convnet3-w8", classes=3, size=8).eval().requires_grad_(False)
    labels = torch.arange(3).repeat_interleave(cfg.ipc)
    look = Searching(udd.search(cfg), Proxy(proxy, torch.tensor(0.5), torch.tensor(0.25)), labels, 8)
    real = Real(data, udd.training(cfg), cfg.seed, cfg.batch_real, device)
    images = torch.rand(3, cfg.ipc, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    state = {
        "images": images,
        "velocity": torch.zeros_like(images),
        "norms": torch.zeros(2),
        "regions": torch.zeros(3 * cfg.ipc, cfg.regions, dtype=torch.long),
    }
    matcher = Matcher(images, look.side, real, udd.matching(cfg, 8, device), udd.contrasting(cfg), loop)
    for _, outers in udd.chunks(cfg):
        state = udd.advance(cfg, outers, state, look, matcher)
    return state


def test_without_regions_and_with_weight_0_idc_is_reproduced_to_the_bit() -> None:
    idc = advanced(replace(TINY, regions=0, contrast="none"))
    none = advanced(replace(TINY, regions=0, rho=0.0))
    assert all(torch.equal(none[key], idc[key]) for key in ("images", "velocity"))
    assert not torch.equal(advanced(replace(TINY, regions=0))["images"], idc["images"])
    assert not torch.equal(advanced(replace(TINY, contrast="none"))["images"], idc["images"])


def test_regions_change_until_they_freeze_and_random_ones_never_do() -> None:
    cfg = replace(TINY, contrast="none", n_outer=2, lr=200.0)
    first, changed = (advanced(replace(cfg, freeze=freeze))["regions"] for freeze in (0.0, 1.0))
    assert not torch.equal(changed, first)
    fixed, again = (advanced(replace(cfg, policy="random", lr=lr))["regions"] for lr in (200.0, 1.0))
    assert torch.equal(fixed, again) and not torch.equal(fixed, first)


def test_the_formation_of_factor_1_is_the_stored_image() -> None:
    images = torch.rand(3, 2, 3, 8, 8)
    corners, pick = torch.zeros(3, 2, 2, dtype=torch.long), torch.arange(2).expand(3, 2)
    assert torch.equal(formations(images, corners, pick, 8), images)


class Stopped(Exception):
    """An interrupt."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("udd") / "smoke"
    return udd.distill(udd.SMOKE, Run(udd, udd.SMOKE, out, preset="smoke"))


@pytest.mark.parametrize("number", [0, 2])
def test_interrupted_in_the_matching_and_started_again_gives_the_same_digest(
    number: int, smoke: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "smoke"
    out.with_name("smoke.work").mkdir()
    for file in smoke.folder.with_name("smoke.work").glob("teacher-*"):
        shutil.copy(file, out.with_name("smoke.work"))
    whole, calls = Matcher.iterate, 0

    def dying(self: Matcher, outer: int, *rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if outer == number and calls == number + 1:
            raise Stopped
        return whole(self, outer, *rest)

    monkeypatch.setattr(Matcher, "iterate", dying)
    with pytest.raises(Stopped):
        udd.distill(udd.SMOKE, Run(udd, udd.SMOKE, out, preset="smoke"))
    assert not out.exists() and len(list(out.with_name("smoke.work").glob("match-*"))) == number
    again = udd.distill(udd.SMOKE, Run(udd, udd.SMOKE, out, preset="smoke"))
    assert calls == 3 + 1  # what was finished is not computed again
    assert again.manifest.digest == smoke.manifest.digest


def test_the_loader_shows_the_trainers_formations_of_the_stored_images(smoke: Artifact) -> None:
    data = ddhub.load(smoke.folder)
    boxes = smoke.tensors()["decoder.boxes"].long()
    assert boxes.shape == (10, 2, 2) and int(boxes.max()) <= 16 and len(data) == 10 * (4 + 2)
    tiles = torch.tensor([[0, 0], [0, 16], [16, 0], [16, 16]]).expand(10, 4, 2)
    corners = torch.cat([tiles, boxes], dim=1)[:, :, None].flatten(1, 2)  # one image a class: slot after slot
    images = smoke.images().float().div(255)[:, None]
    found = formations(images, corners, torch.arange(6).expand(10, 6), 16)
    for slot in range(6):
        shown = data.decoder(torch.arange(10) + 10 * slot)
        assert torch.equal(shown, found[:, slot])


def test_the_manifest_says_what_was_measured_and_that_it_is_a_reconstruction(smoke: Artifact) -> None:
    m = smoke.manifest
    measured = m.recipe["run"]["measured"]
    assert measured.keys() == {"mUE", "mUE_cov", "proxy_accuracy", "proxy"} and 0 < measured["mUE"] <= 1
    assert (m.method, m.decoder, m.labels) == ("udd", {"kind": "crops", "factor": 2, "side": 16}, {"kind": "hard"})
    assert m.teachers[0]["accuracy"] == pytest.approx(measured["proxy_accuracy"], abs=0.01)
    assert m.deviations[0].startswith("A reconstruction of UDD from its abstract, not a reproduction")


def preview(*words: object) -> Result:
    return CliRunner().invoke(cli, ["preview", *map(str, words)], catch_exceptions=False)


def test_the_picture_shows_what_the_proxy_of_the_manifest_makes_of_the_pixels(smoke: Artifact, tmp_path: Path) -> None:
    path, m = tmp_path / "a.png", smoke.manifest
    found = preview(smoke.folder, "--to", path)
    said = (
        "4 tiles in white, 2 regions in colours; response of the proxy to each pixel, white is the maximum of an image"
    )
    assert (found.exit_code, found.output) == (0, f"{path}: {said}\n")
    net, _ = teachers.open_teacher(m.recipe["run"]["measured"]["proxy"], near=smoke.folder.parent)
    judge = Proxy(net, *(torch.tensor(x).view(3, 1, 1) for x in (m.mean, m.std)))
    boxes = smoke.tensors()["decoder.boxes"].long()
    corners = torch.cat([grid(32, 32, 2).expand(10, -1, 2), boxes], dim=1)
    wanted = maps(judge, smoke.images() / 255, smoke.image_labels(), corners, 16)
    picture = np.asarray(Image.open(path))
    for n, one in enumerate(wanted):  # a row a class; pixels four times as large, cells 130 apart
        shown = picture[130 * n + 4 :, 130 + 4 :][:128:4, :128:4]
        assert np.array_equal(shown[..., 0], (one * 255).byte().numpy())


def test_the_picture_without_its_proxy_and_with_wrong_ones(smoke: Artifact, tmp_path: Path) -> None:
    path, alone = tmp_path / "a.png", tmp_path / "smoke"
    shutil.copytree(smoke.folder, alone)
    words = preview(alone, "--to", path).output
    assert "training images per pixel, white is" in words and "(no proxy: " in words
    proxy = smoke.folder.parent / smoke.manifest.recipe["run"]["measured"]["proxy"].partition("@")[0]
    assert "response of the proxy to each pixel" in preview(alone, "--to", path, "--proxy", proxy).output
    for name, message in (
        ("cifar10-resnet18-w16-e4-s0", "the proxy must be a ConvNet that ends in ReLU, pooling and a linear layer"),
        ("imagenette-convnet5-bn-w32-e10-s0", "has another classes than 'smoke'"),
        ("nobody", "unknown teacher 'nobody'"),
    ):
        with pytest.raises(DDHubError, match=re.escape(message)):
            preview(alone, "--to", path, "--proxy", name)
    with pytest.raises(
        UsageError, match="--proxy is for the tiles and regions of mosaics, and cifar10-random-ipc10 has none"
    ):
        preview("cifar10-random-ipc10", "--to", path, "--proxy", proxy)


def bare(tmp_path: Path, cfg: udd.Config) -> Callable[[], object]:
    return lambda: udd.distill(cfg, Run(udd, cfg, tmp_path / "x"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": 40}, "factor 40 for images of 32 x 32 pixels; they must be squares, and the factor 1 or more"),
        ({"regions": 22}, "regions is 22, and a stored image has 21 candidates; lower --regions"),
        (
            {"ipc": 51},
            "ipc 51 starts from 204 images of each class, but class 'airplane' of .* has 200 images; lower --ipc",
        ),
        ({"factor": 1}, "factor 1 has no tiles, and 2 regions; use --regions 0 or --factor 2"),
        ({"net": "convnet3-bn"}, "net 'convnet3-bn' is not a ConvNet with InstanceNorm; use convnet3, or convnet3-wN"),
        ({"proxy": "resnet18"}, "net 'resnet18' is not a ConvNet"),
        ({"policy": "rpb"}, "unknown policy 'rpb'; did you mean 'rbp'?"),
        ({"distance": "cosine"}, "unknown distance 'cosine'"),
        ({"match_augment": "color_blur"}, "unknown operation in match_augment 'blur'"),
        ({"net_augment": "color_blur"}, "dsa is 'color_blur'"),
        ({"freeze": 1.5}, r"freeze is 1.5; it must be in \[0, 1\]"),
        ({"lr": 0.0}, "lr is 0.0; it must be a finite number above 0"),
        ({"momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\)"),
        ({"inner": 0}, "inner is 0; it must be 1 or more"),
        ({"rho": -1.0}, "rho is -1.0; it must be a finite number, 0 or more"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        bare(tmp_path, replace(udd.SMOKE, **changes))()
    assert "\n" not in str(error.value) and not any(tmp_path.glob("*/teacher-*"))


def test_a_proxy_at_chance_is_said() -> None:
    fact = {"model": "convnet3", "accuracy": 12.6}
    with pytest.raises(UsageError, match=r"proxy convnet3 is right on 12.6 % of .* chance \(10.0 %\).*--proxy-epochs"):
        udd.judge(fact, 10)
    udd.judge({**fact, "accuracy": 13.0}, 10)

"""SRe2L against independent references: the objective written out in float64, and the specification's counts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import ddhub
from ddhub import models
from ddhub.artifact.folder import Artifact
from ddhub.errors import TrainingError, UsageError
from recipes import sre2l
from recipes.inversion.inversion import Inversion, augment, draws, objective, optimise, variation
from recipes.run.draws import generator
from recipes.run.run import Run

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
MIXED: dict[str, Any] = {"shift": 3, "shift_back": 2, "crop_scale": 0.3, "flip": True, "tv": 1e-3, "l2": 1e-2}


def small_net(seed: int = 0) -> torch.nn.Module:
    """A double-precision ConvNet for 6 classes with BatchNorm whose running statistics are not the initial ones."""
    torch.manual_seed(seed)
    net = models.build("convnet3-bn-w8", classes=6, size=16).double()
    net.train()
    net(torch.randn(32, 3, 16, 16, dtype=torch.float64))
    return net.eval().requires_grad_(False)


def written_out(net: torch.nn.Module, x: torch.Tensor, target: list[int], cfg: sre2l.Config) -> torch.Tensor:
    """The specification's loss of one augmented set `[B, 3, H, W]`, with the net unrolled by hand."""
    smooth = 0.0
    for a, b in (
        (x[:, :, :, 1:], x[:, :, :, :-1]),
        (x[:, :, 1:], x[:, :, :-1]),
        (x[:, :, 1:, 1:], x[:, :, :-1, :-1]),
        (x[:, :, 1:, :-1], x[:, :, :-1, 1:]),
    ):
        smooth = smooth + torch.sqrt(((a - b) ** 2).sum())
    norm = sum(torch.sqrt((image**2).sum()) for image in x) / len(x)
    regular = []
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            x = F.conv2d(x, module.weight, module.bias, padding=1)
        elif isinstance(module, torch.nn.BatchNorm2d):
            mean = x.mean((0, 2, 3))
            var = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
            gap = torch.sqrt(((module.running_var - var) ** 2).sum())
            regular.append(gap + torch.sqrt(((module.running_mean - mean) ** 2).sum()))
            hat = (x - module.running_mean[:, None, None]) / torch.sqrt(module.running_var + module.eps)[:, None, None]
            x = F.avg_pool2d(F.relu(hat * module.weight[:, None, None] + module.bias[:, None, None]), 2)
        elif isinstance(module, torch.nn.Linear):
            x = x.flatten(1) @ module.weight.T + module.bias
    entropy = -sum(torch.log_softmax(x, 1)[i, label] for i, label in enumerate(target)) / len(x)
    matching = cfg.first_bn * regular[0] + sum(regular[1:])
    return entropy + cfg.beta * matching + cfg.tv * smooth + cfg.l2 * norm


def seen(x: torch.Tensor, window: list[int], mirrored: bool, shift: list[int]) -> torch.Tensor:
    """A set `[B, 3, H, W]` cropped, resized, mirrored and shifted, one after the other."""
    top, left, height, width = window
    part = x[:, :, top : top + height, left : left + width]
    x = F.interpolate(part, size=x.shape[2:], mode="bilinear", align_corners=False)
    x = torch.flip(x, [3]) if mirrored else x
    return torch.roll(x, tuple(shift), (2, 3))


def settings(cfg: sre2l.Config) -> Inversion:
    same = ("steps", "lr", "beta", "first_bn", "crop_scale", "flip", "tv", "l2")
    return Inversion(ahead=cfg.shift, back=cfg.shift_back, **{key: getattr(cfg, key) for key in same})


def test_two_steps_follow_the_written_out_loss_with_adam_and_clamp() -> None:
    net = small_net()
    cfg = replace(sre2l.SMOKE, steps=2, lr=0.9, beta=0.3, **MIXED)
    view = draws(settings(cfg), [(0, 2, k) for k in range(2)], size=(16, 16), device=torch.device("cpu"))
    torch.manual_seed(1)
    start = torch.randn(2, 3, 3, 16, 16, dtype=torch.float64)
    low, high = ((0 - MEAN) / STD).double(), ((1 - MEAN) / STD).double()
    found = optimise(
        net, start, lambda x: x, torch.arange(2, 5), settings(cfg), view, precision="fp32", bounds=(low, high)
    )
    for k in range(2):
        x, first, second = start[k], 0.0, 0.0
        for t in range(2):
            x = x.clone().requires_grad_()
            how = (view.window[t, k].tolist(), bool(view.flip[t, k]), view.shift[t, k].tolist())
            (g,) = torch.autograd.grad(written_out(net, seen(x, *how), [2, 3, 4], cfg), x)
            first, second = 0.5 * first + 0.5 * g, 0.9 * second + 0.1 * g * g
            rate = 0.5 * 0.9 * (1 + math.cos(math.pi * t / 2))
            step = (first / (1 - 0.5 ** (t + 1))) / (torch.sqrt(second / (1 - 0.9 ** (t + 1))) + 1e-8)
            x = torch.maximum(torch.minimum((x - rate * step).detach(), high), low)
        torch.testing.assert_close(found[k], x, rtol=1e-6, atol=1e-9)
        assert int(((found[k] == low) | (found[k] == high)).sum()) > 10  # the clamp had something to do
    assert not torch.equal(found, start)


def test_variation_of_an_edge_by_hand() -> None:
    x = torch.zeros(1, 1, 1, 3, 3)
    x[..., 1, 1] = 2.0  # two neighbours each way: sqrt(2 · 2²) in each of four directions
    assert variation(x).item() == pytest.approx(4 * math.sqrt(8))


def test_draws_cover_their_ranges_and_sets_have_their_own() -> None:
    how = Inversion(steps=400, lr=1, beta=1, first_bn=1, ahead=3, back=2, crop_scale=0.25, flip=True)
    view = draws(how, [(0, "a"), (0, "b"), (1, "a")], size=(16, 16), device=torch.device("cpu"))
    assert view.shift.shape == (400, 3, 2) and view.window.shape == (400, 3, 4) and view.flip.shape == (400, 3)
    assert view.shift.unique().tolist() == [-2, -1, 0, 1, 2, 3]
    area = view.window[..., 2] * view.window[..., 3] / 256
    assert 0.2 < float(area.min()) < 0.3 and float(area.max()) > 0.9
    assert 150 < int(view.flip[:, 0].sum()) < 250
    for part in (view.shift, view.window, view.flip):
        assert not torch.equal(part[:, 0], part[:, 1]) and not torch.equal(part[:, 0], part[:, 2])
    plain = draws(replace(how, crop_scale=0, flip=False), [(0, "b")], size=(16, 16), device=view.shift.device)
    assert torch.equal(plain.shift[:, 0], view.shift[:, 1])  # crops and flips leave the shifts alone
    assert plain.window is None and plain.flip is None
    assert torch.equal(augment(torch.ones(3, 2, 1, 16, 16), view, 0), torch.ones(3, 2, 1, 16, 16))


@pytest.mark.parametrize("more", [{}, MIXED])
def test_batched_images_equal_one_batch_at_a_time(more: dict[str, Any]) -> None:
    net, cfg = small_net(), replace(sre2l.SMOKE, steps=4, **more)
    common = {"mean": MEAN.double(), "std": STD.double(), "size": 16, "precision": "fp32"}
    together = sre2l.recover(net, cfg, range(1, 5), range(3), **common)["images"]
    assert together.shape == (3, 4, 3, 16, 16) and together.dtype == torch.uint8
    for k in range(3):
        alone = sre2l.recover(net, cfg, range(1, 5), range(k, k + 1), **common)["images"]
        assert torch.equal(together[k], alone[0])
    assert not torch.equal(together[0], together[1])


def test_images_start_as_unit_noise_and_are_rounded_to_8_bits() -> None:
    cfg = replace(sre2l.SMOKE, steps=1, lr=1e-12)  # where they start is where they end
    found = sre2l.recover(small_net().float(), cfg, range(6), range(2, 4), MEAN, STD, size=16, precision="fp32")[
        "images"
    ]
    for row, k in enumerate((2, 3)):
        noise = torch.randn(6, 3, 16, 16, generator=generator(0, "noise", 0, k))
        pixels = 255 * (noise * STD + MEAN).clamp(0, 1)
        assert float((found[row] - pixels).abs().max()) <= 0.5 + 1e-3


def test_what_cannot_be_recovered_is_an_error() -> None:
    common = {"labels": range(4), "sets": range(1), "size": 16, "precision": "fp32"}
    with pytest.raises(TrainingError, match=r"not finite \(lr 0.25, fp32\); lower --lr"):
        sre2l.recover(small_net(), sre2l.SMOKE, mean=MEAN.double() * math.nan, std=STD.double(), **common)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 6)).requires_grad_(False)
    with pytest.raises(UsageError, match="without BatchNorm layers"):
        sre2l.recover(plain, sre2l.SMOKE, mean=MEAN, std=STD, **common)
    one = torch.nn.Sequential(torch.nn.BatchNorm2d(3), plain).eval()
    assert objective(one, torch.zeros(2, 4, 3, 16, 16), torch.arange(4), 1.0, 10.0).shape == (2,)


@pytest.mark.parametrize(
    ("ipc", "classes", "epochs", "logits", "whole"),
    [(10, 10, 400, 800_000, 1_800_000), (50, 10, 400, 4_000_000, 9_000_000), (10, 100, 400, 80_000_000, 90_000_000),
     (50, 200, 100, 400_000_000, 425_000_000), (50, 1000, 300, 30_000_000_000, 30_375_000_000)],
)  # fmt: skip
def test_labels_for_every_view_would_take_the_bytes_of_the_storage_table(
    ipc: int, classes: int, epochs: int, logits: int, whole: int
) -> None:
    assert sre2l.label_bytes(ipc * classes, classes, epochs) == (logits, whole)


def test_batches_hold_every_image_once() -> None:
    assert sre2l.batches(10, 10, 100, 32**2) == [(range(10), range(10))]
    assert sre2l.batches(10, 100, 100, 32**2) == [(range(100), range(10))]
    assert len(sre2l.batches(50, 200, 100, 64**2)) == 2 * 25
    found = sre2l.batches(50, 1000, 100, 224**2)
    assert len(found) == 500 and all(len(labels) == 100 and len(sets) == 1 for labels, sets in found)
    # 101 classes are 50 and 51: statistics of a single image would match nothing.
    assert [labels for labels, _ in sre2l.batches(1, 101, 100, 1)] == [range(50), range(50, 101)]


def test_presets_are_those_of_the_specification() -> None:
    wanted = {  # lr, steps, alpha, shifts, crop, flip, protocol
        "cifar10": (0.25, 1000, 0.01, 4, 0, 0.0, False, "sre2l-cifar"),
        "cifar100": (0.25, 1000, 0.01, 4, 0, 0.0, False, "sre2l-cifar"),
        "tiny-imagenet": (0.1, 4000, 1.0, 4, 4, 0.08, True, "sre2l-tiny"),
        "imagenet-1k": (0.25, 4000, 0.01, 32, 0, 0.08, True, "sre2l-imagenet"),
    }
    for name, cfg in ((x, cfg) for x, cfg in sre2l.PRESETS.items() if "imagenette" not in x and "-gpu" not in x):
        assert name.startswith(f"{cfg.dataset}-ipc{cfg.ipc}")
        row = (cfg.lr, cfg.steps, cfg.beta, cfg.shift, cfg.shift_back, cfg.crop_scale, cfg.flip)
        assert row == wanted[cfg.dataset][:-1] and cfg.first_bn == 10 and cfg.tv == cfg.l2 == 0
        if cfg.labels == "teacher":
            assert cfg.protocol == wanted[cfg.dataset][-1]
        assert ddhub.protocol(cfg.protocol).temperature in (None, cfg.temperature)


@pytest.mark.parametrize("changes", [{"labels": "soft"}, {"steps": 0}, {"batch": 0}, {"shift_back": -1}])
def test_settings_out_of_range_are_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="unknown labels 'soft'; known: static, teacher|must be [01] or more"):
        replace(sre2l.SMOKE, **changes)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One work folder for all smoke runs: the teacher is trained once."""
    return tmp_path_factory.mktemp("work")


def smoke(out: Path, work: Path, **changes: Any) -> Artifact:
    cfg = replace(sre2l.SMOKE, **changes)
    return sre2l.distill(cfg, Run(sre2l, cfg, out, preset="smoke", device="cpu", precision="fp32", work=work))


STATIC: dict[str, Any] = {"labels": "static", "protocol": "infer-static-50"}


def test_teacher_labels_load_with_their_teacher_and_train(tmp_path: Path, work: Path) -> None:
    artifact = smoke(tmp_path / "teacher", work)
    manifest = artifact.manifest
    assert manifest.labels["kind"] == "teacher" and manifest.labels["temperature"] == 30
    (teacher,) = manifest.labels["teachers"]
    assert (tmp_path / teacher["name"]).is_dir()
    assert any("would take 360,000 bytes, 160,000 of them logits" in line for line in manifest.deviations)
    assert manifest.bytes_by_tensor() == {"images": 20 * 3072, "image_labels": 20}
    assert manifest.method == "sre2l" and manifest.protocol["name"] == "sre2l-cifar"

    data = ddhub.load(tmp_path / "teacher")
    net = models.build("convnet3-bn-w8", classes=10, size=32)
    x, y = next(iter(data.batches(seed=0)))
    loss = data.loss(net(x), y)
    loss.backward()
    assert x.shape == (20, 3, 32, 32) and bool(loss.isfinite()) and float(loss.detach()) > 0
    assert data.labels.loss(y, y).item() == pytest.approx(0, abs=1e-6)
    plan = ddhub.protocol("sre2l-cifar", epochs=1)
    _, result = ddhub.train(data, "convnet3-bn-w8", protocol=plan, test="cifar10-mini", progress=False)
    assert result.steps == 1


def test_static_labels_are_the_teachers_logits_on_the_stored_images(tmp_path: Path, work: Path) -> None:
    own, static = smoke(tmp_path / "teacher", work), smoke(tmp_path / "static", work, **STATIC)
    data, other = ddhub.load(tmp_path / "static"), ddhub.load(tmp_path / "teacher")
    assert data.labels.kind == "soft" and data.labels.logits.shape == (20, 10)
    assert torch.equal(data.decoder.images, other.decoder.images)
    with torch.no_grad():
        x = data.normalize(data.decoder(torch.arange(20)))
        torch.testing.assert_close(data.labels.logits.float(), other.labels.teachers[0](x), rtol=2e-3, atol=2e-3)
    assert static.manifest.digest != own.manifest.digest
    assert len(list(work.glob("recover-*.safetensors"))) == 1  # variants share what they agree on


def test_images_lie_class_by_class_and_units_change_nothing(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = replace(sre2l.SMOKE, batch=4, **STATIC)
    smoke(tmp_path / "whole", work, batch=4, **STATIC)
    monkeypatch.setattr("recipes.run.units.UNIT", 1)
    calls: dict[tuple[int, int], torch.Tensor] = {}
    monkeypatch.setattr("recipes.sre2l.recover", spy(sre2l.recover, calls))
    smoke(tmp_path / "parts", work, batch=4, **STATIC)
    assert list(calls) == [(first, k) for first in (0, 3, 6) for k in (0, 1)]
    whole, parts = (ddhub.load(tmp_path / name) for name in ("whole", "parts"))
    # A batch of another size rounds differently: hardly a value moves, and none by more than two levels.
    gap = (whole.decoder.images.int() - parts.decoder.images.int()).abs()
    assert int(gap.max()) <= 2 and float((gap > 0).float().mean()) < 1e-3 and int((gap > 1).sum()) <= 6
    assert torch.equal(parts.decoder.images.unflatten(0, (10, 2))[3:6, 1], calls[3, 1][0])

    run = Run(sre2l, cfg, tmp_path / "x")
    steps = sre2l.plan(cfg, run.source("cifar10-mini", "train"), run).steps
    assert [step.stage for step in steps][1:] == [*(f"recover-{j}" for j in range(6)), "labels"]
    assert sum(step.images for step in steps if step.stage.startswith("recover")) == 20 * 3


def spy(recover: Any, calls: dict[tuple[int, int], torch.Tensor]) -> Any:
    """`recover` that keeps the images of its calls by their first class and image."""

    def keeping(net: Any, cfg: Any, labels: range, sets: range, *rest: Any, **more: Any) -> Any:
        found = recover(net, cfg, labels, sets, *rest, **more)
        calls[labels.start, sets.start] = found["images"]
        return found

    return keeping

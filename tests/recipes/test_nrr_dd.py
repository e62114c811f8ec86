"""NRR-DD against independent references: refinement written out in float64, what stays frozen, and the counts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_cam import skip_without_timm
from torch import Tensor, nn

import ddhub
from ddhub import models
from ddhub.artifact.folder import Artifact
from ddhub.errors import UsageError
from ddhub.measures.cam import attention, cam
from recipes import nrr_dd, random_real, sre2l
from recipes.inversion.inversion import Inversion, answers, draws, optimise
from recipes.patches.patches import cut
from recipes.patches.refine import Masking, checks, masks, refine
from recipes.run.draws import normalised
from recipes.run.plan import Plan
from recipes.run.run import Run

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
HOW = Inversion(steps=6, lr=0.5, beta=0.1, first_bn=10.0, ahead=3, back=2, crop_scale=0.4, flip=True)
SOFT = Masking(part="background", epsilon=0.5)


def teacher(double: bool = False) -> nn.Module:
    """A ConvNet for 6 classes and 16 px with BatchNorm statistics of its own."""
    torch.manual_seed(0)
    net = models.build("convnet3-bn-w8", classes=6, size=16).train()
    with torch.no_grad():
        net(torch.randn(32, 3, 16, 16))
    return (net.double() if double else net).eval().requires_grad_(False)


def start(sets: int = 2, count: int = 4) -> Tensor:
    """Smooth random sets u8 `[sets, count, 3, 16, 16]`."""
    torch.manual_seed(1)
    coarse = torch.rand(sets * count, 3, 4, 4) * 255
    return F.interpolate(coarse, size=(16, 16)).to(torch.uint8).unflatten(0, (sets, count))


def refined(how: Inversion = HOW, masking: Masking = SOFT, sets: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """The first images, and what `refine` makes of them for the classes 1, 2, 3 and 4."""
    words = [(0, 1, k) for k in range(sets)]
    scale: dict[str, Any] = {"mean": MEAN, "std": STD, "precision": "fp32"}
    return start(sets), refine(teacher(), start(sets), torch.arange(1, 5), how, masking, words, **scale)


def critical(images: Tensor, cells: int = 1) -> Tensor:
    """C `[sets · count, H, W]` of sets u8 for the classes 1, 2, 3 and 4."""
    x = normalised(images.flatten(0, 1), MEAN, STD)
    return attention(cam(teacher(), x, torch.arange(1, 5).repeat(len(images))), (16, 16), cells)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("binary", [False, True])
def test_critical_pixels_keep_their_bytes_and_the_others_change(optimizer: str, binary: bool) -> None:
    before, found = refined(replace(HOW, optimizer=optimizer, lr=20.0), replace(SOFT, binary=binary))
    after, c = found["images"], critical(before).unflatten(0, (2, 4))[:, :, None].expand_as(before)
    assert torch.equal(after[c >= 0.5], before[c >= 0.5]) and int((c >= 0.5).sum()) > 500
    assert float((after != before)[c < 0.3].float().mean()) > 0.5


def test_frozen_pixels_have_a_difference_of_exactly_0() -> None:
    net, x = teacher(), normalised(start().flatten(0, 1), MEAN, STD).unflatten(0, (2, 4))
    mask = masks(net, x.flatten(0, 1), torch.arange(1, 5).repeat(2), SOFT).unflatten(0, (2, 4))
    view = draws(HOW, [(0, k) for k in range(2)], size=(16, 16), device=x.device)
    bounds = ((0 - MEAN) / STD, (1 - MEAN) / STD)
    done = optimise(
        net, x, lambda x: x, torch.arange(1, 5), HOW, view, precision="fp32", bounds=bounds, mask=lambda *_: mask
    )
    moved = (done - x).abs()
    frozen = (mask == 0).expand_as(moved)
    assert float(moved[frozen].max()) == 0.0 and float(moved[~frozen].mean()) > 0.01


def test_every_byte_survives_the_way_there_and_back() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for mean, std in ((MEAN, STD), (torch.tensor([0.4914, 0.5071, 0.485]), torch.tensor([0.2023, 0.2675, 0.229]))):
        mean, std = mean.view(3, 1, 1), std.view(3, 1, 1)
        x = normalised(ramp, mean, std)
        assert torch.equal(x.clamp((0 - mean) / std, (1 - mean) / std), x)
        assert torch.equal(((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8), ramp)


def written_out(net: nn.Module, x: Tensor, target: list[int], beta: float, first_bn: float) -> Tensor:
    """CE + beta · L_bn of one set `[B, 3, H, W]`, the net unrolled by hand."""
    gaps = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            x = F.conv2d(x, module.weight, module.bias, padding=1)
        elif isinstance(module, nn.BatchNorm2d):
            mean = x.mean((0, 2, 3))
            var = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
            gap = torch.sqrt(((module.running_mean - mean) ** 2).sum())
            gaps.append(gap + torch.sqrt(((module.running_var - var) ** 2).sum()))
            hat = (x - module.running_mean[:, None, None]) / torch.sqrt(module.running_var + module.eps)[:, None, None]
            x = F.avg_pool2d(F.relu(hat * module.weight[:, None, None] + module.bias[:, None, None]), 2)
        elif isinstance(module, nn.Linear):
            x = x.flatten(1) @ module.weight.T + module.bias
    entropy = -sum(torch.log_softmax(x, 1)[i, label] for i, label in enumerate(target)) / len(x)
    return entropy + beta * (first_bn * gaps[0] + sum(gaps[1:]))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_mask_multiplies_the_step_of_the_written_out_loss(optimizer: str) -> None:
    net, steps = teacher(double=True), 3
    how = Inversion(steps=steps, lr=0.4, beta=0.2, first_bn=10.0, ahead=0, optimizer=optimizer)
    torch.manual_seed(2)
    x = torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    mask = torch.rand(2, 4, 1, 16, 16, dtype=torch.float64).mul(0.7).sub(0.2).clamp(min=0)
    view = draws(how, [(0, 0), (0, 1)], size=(16, 16), device=x.device)
    target = torch.arange(1, 5)
    found = optimise(net, x, lambda x: x, target, how, view, precision="fp32", mask=lambda *_: mask)
    for k in range(2):
        own, first, second = x[k], 0.0, 0.0
        for t in range(steps):
            own = own.clone().requires_grad_()
            (g,) = torch.autograd.grad(written_out(net, own, target.tolist(), 0.2, 10.0), own)
            first, second = 0.5 * first + 0.5 * g, 0.9 * second + 0.1 * g * g
            adam = (first / (1 - 0.5 ** (t + 1))) / (torch.sqrt(second / (1 - 0.9 ** (t + 1))) + 1e-8)
            rate = 0.5 * 0.4 * (1 + math.cos(math.pi * t / steps))
            own = (own - rate * mask[k] * (adam if optimizer == "adam" else g)).detach()
        torch.testing.assert_close(found[k], own, rtol=1e-6, atol=1e-9)


def test_a_step_mask_keeps_weak_pixels_weak_where_a_gradient_mask_would_not() -> None:
    net = teacher(double=True)
    how = Inversion(steps=20, lr=0.1, beta=0.1, first_bn=10.0, ahead=4)
    torch.manual_seed(3)
    x = torch.randn(1, 6, 3, 16, 16, dtype=torch.float64)
    weak = (torch.rand(1, 6, 1, 16, 16) < 0.5).expand_as(x)
    mask = torch.where(weak, 0.08, 0.48).double()
    view, target = draws(how, [(0, 0)], size=(16, 16), device=x.device), torch.arange(6)

    def ratio(done: Tensor) -> float:
        moved = (done - x).abs()
        return (moved[weak].mean() / moved[~weak].mean()).item()

    assert 0.14 < ratio(optimise(net, x, lambda x: x, target, how, view, precision="fp32", mask=lambda *_: mask)) < 0.2

    def slower(z: Tensor) -> Tensor:  # its gradient is the mask times that of the images
        return x + mask * (z - x)

    scaled = optimise(net, x, slower, target, how, view, precision="fp32")
    assert 0.8 < ratio(scaled) < 1.3


def test_l_bn_and_checks_are_those_of_the_written_out_net() -> None:
    net, target = teacher(double=True), torch.tensor([1, 2, 3, 4])
    x = torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    output, gap = answers(net, x, 10.0)
    found = checks(net, x, target, 10.0)
    for k in range(2):
        zero = written_out(net, x[k], target.tolist(), 0.0, 10.0)
        wanted = written_out(net, x[k], target.tolist(), 1.0, 10.0) - zero
        assert gap[k].item() == pytest.approx(wanted.item(), rel=1e-6)
        sure = torch.softmax(net(x[k]), 1)
        own = sum(sure[i, label].item() for i, label in enumerate(target.tolist())) / 4
        right = sum(int(sure[i].argmax()) == label for i, label in enumerate(target.tolist())) / 4
        assert found[k].tolist() == pytest.approx([right, own, wanted.item()], rel=1e-6)
    torch.testing.assert_close(output, net(x.flatten(0, 1)))


@pytest.mark.parametrize(
    ("masking", "wanted"),
    [
        (SOFT, lambda c: max(0.0, 0.5 - c)),
        (replace(SOFT, epsilon=1.0), lambda c: 1 - c),
        (replace(SOFT, binary=True), lambda c: float(c < 0.5)),
        (replace(SOFT, part="all"), lambda c: 0.5),
        (replace(SOFT, part="all", binary=True), lambda c: 1.0),
        (replace(SOFT, part="inverted", epsilon=0.3), lambda c: max(0.0, 0.3 - (1 - c))),
        (replace(SOFT, cells=2), lambda c: max(0.0, 0.5 - c)),
    ],
)
def test_masks_by_pixel(masking: Masking, wanted: Callable[[float], float]) -> None:
    c = critical(start(1), masking.cells)
    x = normalised(start(1).flatten(0, 1), MEAN, STD)
    found = masks(teacher(), x, torch.arange(1, 5), masking)
    assert found.shape == (4, 1, 16, 16)
    for value, of in zip(found.flatten().tolist(), c.flatten().tolist(), strict=True):
        assert value == pytest.approx(wanted(of), abs=1e-6)
    frozen = {"background": c >= masking.epsilon, "inverted": 1 - c >= masking.epsilon, "all": c > 2}[masking.part]
    assert torch.equal(found[:, 0] == 0, frozen)


def test_the_mask_is_made_again_only_if_asked() -> None:
    with pytest.MonkeyPatch.context() as patch:
        calls: list[Tensor] = []

        def counted(net: nn.Module, images: Tensor, *rest: Any) -> Tensor:
            calls.append(images.clone())
            return masks(net, images, *rest)

        patch.setattr("recipes.patches.refine.masks", counted)
        refined()
        assert len(calls) == 1
        refined(masking=replace(SOFT, every=2))
    assert len(calls) == 1 + 3  # before step 0, and at steps 2 and 4
    assert torch.equal(calls[1], calls[0]) and not torch.equal(calls[2], calls[0])


def test_sets_refined_together_are_those_refined_one_at_a_time() -> None:
    _, both = refined()
    words: dict[str, Any] = {"mean": MEAN, "std": STD, "precision": "fp32"}
    for k in range(2):
        alone = refine(teacher(), start()[k : k + 1], torch.arange(1, 5), HOW, SOFT, [(0, 1, k)], **words)
        assert int((alone["images"][0].int() - both["images"][k].int()).abs().max()) <= 1
        torch.testing.assert_close(alone["checks"][:, 0], both["checks"][:, k], rtol=1e-3, atol=1e-3)


def test_refinement_raises_confidence_and_lowers_the_batchnorm_loss() -> None:
    _, found = refined(Inversion(steps=150, lr=0.3, beta=0.05, first_bn=10.0, ahead=2), replace(SOFT, epsilon=0.9))
    before, after = found["checks"].mean(1)
    assert after[1] > before[1] and after[2] < 0.8 * before[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One work folder for all smoke runs: the teacher is trained once."""
    return tmp_path_factory.mktemp("work")


def smoke(out: Path, work: Path, **changes: Any) -> Artifact:
    cfg = replace(nrr_dd.SMOKE, **changes)
    return nrr_dd.distill(cfg, Run(nrr_dd, cfg, out, preset="smoke", device="cpu", precision="fp32", work=work))


def smoke_teacher(work: Path) -> nn.Module:
    """The teacher of the smoke runs."""
    state = load_file(next(work.glob("teacher-*.safetensors")))
    state.pop("test_accuracy")
    net = models.build("convnet3-bn-w8", classes=10)
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def with_teacher(work: Path, folder: Path) -> Path:
    """A new work folder that has the teacher and nothing else."""
    folder.mkdir()
    for path in work.glob("teacher-*.safetensors"):
        shutil.copy(path, folder)
    return folder


def test_stored_distances_are_those_of_the_teacher_on_the_stored_images(tmp_path: Path, work: Path) -> None:
    artifact = smoke(tmp_path / "dbr", work)
    data = ddhub.load(tmp_path / "dbr")
    assert data.labels.kind == "dbr" and data.labels.distances.shape == (2, 20, 2)
    assert artifact.manifest.bytes_by_tensor() == {
        "images": 20 * 3072, "image_labels": 20, "labels.distances": 2 * 20 * 2 * 2,
    }  # fmt: skip
    net = smoke_teacher(work)
    for epoch in range(2):
        view, x, target = next(data.steps(replace(data.protocol, batch_size=20), seed=9, start=epoch))
        assert torch.equal(view.items.sort()[0], torch.arange(20))
        log_p = F.log_softmax(net(x), 1)
        wanted = -log_p[torch.arange(20), view.items // 2], -log_p[torch.arange(20), view.partner // 2]
        torch.testing.assert_close(target[:, 3:], torch.stack(wanted, 1).detach(), rtol=2e-3, atol=2e-3)
    loss = data.loss(net(x), target)
    assert bool(loss.isfinite())
    plan = replace(data.protocol, epochs=1)
    _, result = ddhub.train(data, "convnet3-bn-w8", protocol=plan, test="cifar10-mini", progress=False)
    assert result.steps == 2


def test_frozen_bytes_of_the_artifact_are_those_of_its_mosaics(tmp_path: Path, work: Path) -> None:
    smoke(tmp_path / "plain", work, refine="none", labels="hard")
    smoke(tmp_path / "refined", work, labels="hard")
    before, after = (ddhub.load(tmp_path / name).decoder.images for name in ("plain", "refined"))
    data = ddhub.load(tmp_path / "plain")
    x = data.normalize(before.float() / 255)
    c = attention(cam(smoke_teacher(work), x, data.labels.classes), (32, 32), cells=2)[:, None].expand_as(before)
    sure = (c - 0.5).abs() > 1e-4  # normalised a little otherwise than by the recipe
    assert torch.equal(after[sure & (c > 0.5)], before[sure & (c > 0.5)])
    assert float((after != before)[sure & (c < 0.3)].float().mean()) > 0.5
    assert len(list(work.glob("discover-*.safetensors"))) == 1  # what the images agree on is found once


def test_a_run_that_is_interrupted_in_each_stage_ends_with_the_same_digest(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = smoke(tmp_path / "whole" / "smoke", work, batch=4).manifest
    stages = ["select", "teacher-convnet3-bn-w8", "discover", "refine-0", "refine-1", "refine-2", "labels"]
    assert sorted(stages) == sorted(whole.recipe["run"]["stages"])
    own, out = with_teacher(work, tmp_path / "work"), tmp_path / "smoke"
    stages.remove("teacher-convnet3-bn-w8")
    computed = Run.stage
    for stage in stages:

        def dying(run: Run, name: str, fn: Callable[[], dict[str, Tensor]], *rest: Any, at: str = stage) -> Any:
            def fatal() -> dict[str, Tensor]:
                fn()
                raise KeyboardInterrupt

            return computed(run, name, fatal if name == at else fn, *rest)

        monkeypatch.setattr(Run, "stage", dying)
        with pytest.raises(KeyboardInterrupt):
            smoke(out, own, batch=4)
        assert not out.exists()
    monkeypatch.undo()
    assert smoke(out, own, batch=4).manifest.digest == whole.digest
    assert len(list(own.glob("*.safetensors"))) == 1 + len(stages)


def test_two_ranks_make_the_artifact_of_one_process(tmp_path: Path, work: Path) -> None:
    smoke(tmp_path / "one" / "smoke", work, batch=4)
    own = with_teacher(work, tmp_path / "work")
    words = (str(tmp_path / "smoke"), "--preset", "smoke", "--batch", "4", "--precision", "fp32", "--work", str(own))
    done = forked.together(forked.ranks(2, "-m", "recipes", "nrr-dd", *words))
    assert done.returncode == 0, done.stderr
    found = Artifact.open(tmp_path / "smoke").manifest
    assert found.digest == Artifact.open(tmp_path / "one" / "smoke").manifest.digest
    assert "rank 1: stage refine-1: starting" in done.stderr and "rank 0: stage refine-2: starting" in done.stderr


LABELS = {
    "hard": ("hard", set()), "teacher": ("teacher", set()), "static": ("soft", {"labels.logits"}),
    "soft": ("soft", {"labels.logits"}), "dbr": ("dbr", {"labels.distances"}),
    "dbr-once": ("dbr", {"labels.distances"}), "top1": ("top1", {"labels.top1", "labels.probability"}),
}  # fmt: skip


@pytest.mark.parametrize("word", LABELS)
def test_every_kind_of_labels_loads_and_has_the_bytes_of_its_plan(word: str, tmp_path: Path, work: Path) -> None:
    artifact, (kind, tensors) = smoke(tmp_path / word, work, labels=word), LABELS[word]
    manifest = artifact.manifest
    assert manifest.labels["kind"] == kind
    stored = manifest.bytes_by_tensor()
    assert set(stored) == {"images", "image_labels", *tensors}
    cfg = replace(nrr_dd.SMOKE, labels=word)
    run = Run(nrr_dd, cfg, tmp_path / "x")
    plan: Plan = nrr_dd.plan(cfg, run.source("cifar10-mini", "train"), run)
    assert plan.artifact_bytes == sum(stored.values())
    data = ddhub.load(tmp_path / word)
    x, y = next(data.batches(seed=0))
    assert bool(data.loss(torch.randn(len(x), 10), y).isfinite())


def test_dbr_once_is_the_mean_over_the_epochs(tmp_path: Path, work: Path) -> None:
    for word in ("dbr", "dbr-once"):
        smoke(tmp_path / word, work, labels=word)
    every, once = (ddhub.load(tmp_path / word) for word in ("dbr", "dbr-once"))
    assert once.labels.distances.shape == (1, 20, 2)
    wanted = every.labels.distances.float().mean(0)
    torch.testing.assert_close(once.labels.distances[0].float(), wanted, rtol=2e-3, atol=2e-3)


def test_rded_keeps_the_surest_crop_of_each_image(tmp_path: Path, work: Path) -> None:
    artifact = smoke(
        tmp_path / "rded", work, cam_filter=False, confidence="highest", refine="none", labels="teacher", factor=1
    )
    assert artifact.manifest.method == "rded" and artifact.manifest.recipe["path"] == "recipes/nrr_dd.py"
    assert "Diversity and Realism" in artifact.manifest.citation and "Non-Critical" not in artifact.manifest.citation
    stages = [load_file(path) for path in work.glob("discover-*.safetensors")]
    (found,) = (stage for stage in stages if stage["rows"].shape == (10, 2))
    assert not found["ratio"].any()
    source = Run(nrr_dd, nrr_dd.SMOKE, tmp_path / "x").source("cifar10-mini", "train")
    images = ddhub.load(tmp_path / "rded").decoder.images.unflatten(0, (10, 2))
    for label, (rows, boxes) in enumerate(zip(found["rows"], found["boxes"], strict=True)):
        assert source.labels[rows].tolist() == [label, label]
        assert torch.equal(images[label], cut(source.images[rows], boxes, 32))
        assert found["confidence"][label, 0] >= found["confidence"][label, 1]


def test_random_selection_has_the_same_images_with_and_without_a_teachers_labels(tmp_path: Path, work: Path) -> None:
    """The teacher is that of the other smoke runs, and its stage is found again."""
    found = {}
    for word in ("hard", "dbr", "static", "teacher"):
        how = {"teacher": "convnet3-bn-w8", "teacher_epochs": 1, "protocol": "nrr-dd-f2", "student_epochs": 2}
        cfg = random_real.Config(dataset="cifar10-mini", ipc=2, labels=word, **how)
        run = Run(random_real, cfg, tmp_path / word, device="cpu", precision="fp32", work=work)
        foretold = random_real.plan(cfg, run.source("cifar10-mini", "train"), run).artifact_bytes
        manifest = random_real.distill(cfg, run).manifest
        found[word] = ddhub.load(tmp_path / word)
        assert sum(manifest.bytes_by_tensor().values()) == foretold and manifest.method == "random-real"
        assert torch.equal(found[word].decoder.images, found["hard"].decoder.images)
    assert len(list(work.glob("teacher-*.safetensors"))) == 1
    data, net = found["dbr"], smoke_teacher(work)
    view, x, target = next(data.steps(data.protocol, seed=9))
    log_p = F.log_softmax(net(x), 1)
    wanted = [-log_p[torch.arange(len(x)), of // 2] for of in (view.items, view.partner)]
    torch.testing.assert_close(target[:, 3:], torch.stack(wanted, 1).detach(), rtol=2e-3, atol=2e-3)


def test_presets_are_those_of_the_specification() -> None:
    wanted = {  # side, f, lr, steps, alpha, shifts, crop, flip
        "cifar10": (0, 1, 0.25, 1000, 0.01, 4, 0, 0.0, False),
        "cifar100": (0, 1, 0.25, 1000, 0.01, 4, 0, 0.0, False),
        "tiny-imagenet": (0, 1, 0.1, 4000, 1.0, 4, 4, 0.08, True),
        "imagenette": (224, 2, 0.05, 2000, 0.01, 32, 0, 0.08, True),
        "imagewoof": (224, 2, 0.05, 2000, 0.01, 32, 0, 0.08, True),
        "imagenet-1k": (224, 2, 0.25, 2000, 0.01, 32, 0, 0.08, True),
    }
    batches = {("imagenet-1k", 1): 20, ("cifar100", 10): 100, ("tiny-imagenet", 1): 100, ("imagewoof", 50): 100}
    for name, cfg in nrr_dd.PRESETS.items():
        assert name.removeprefix("rded-").startswith(f"{cfg.dataset}-ipc{cfg.ipc}")
        full = (
            cfg.size,
            cfg.factor,
            cfg.lr,
            cfg.steps,
            cfg.alpha_bn,
            cfg.shift,
            cfg.shift_back,
            cfg.crop_scale,
            cfg.flip,
        )
        assert full == wanted[cfg.dataset] or name.endswith(("-cpu", "-gpu"))
        assert (cfg.mipc, cfg.crops, cfg.crop_area, cfg.top, cfg.epsilon) == (300, 5, 0.08, 1, 0.5)
        assert nrr_dd.is_rded(cfg) == name.startswith("rded-") == (cfg.labels == "teacher")
        assert nrr_dd.students(cfg).batch_size == batches.get((cfg.dataset, cfg.ipc), cfg.student_batch)
        per_item = nrr_dd.students(cfg).augment.mix_per == "item"
        assert per_item or cfg.labels == "teacher"  # what is stored of a view must fit every batch size
        assert nrr_dd.students(cfg).augment.shuffle == cfg.factor
    for dataset in wanted:
        for ipc in (1, 10, 50):
            assert {f"{dataset}-ipc{ipc}", f"rded-{dataset}-ipc{ipc}"} <= set(nrr_dd.PRESETS)
    changed: dict[str, dict[str, Any]] = {
        "cidd-only": {"refine": "none"},
        "all-pixels": {"refine": "all"},
        "inverted-mask": {"refine": "inverted"},
        "rded-init": {"cam_filter": False, "confidence": "highest"},
    }
    for what, how in changed.items():
        for cpu in ("", "-cpu"):
            base = nrr_dd.PRESETS[f"cifar10-ipc10{cpu}"]
            assert nrr_dd.PRESETS[f"cifar10-ipc10-{what}{cpu}"] == replace(base, **how)


def test_teachers_of_cpu_presets_are_those_of_the_other_recipes() -> None:
    own, other = nrr_dd.PRESETS["cifar10-ipc10-cpu"], sre2l.PRESETS["cifar10-ipc10-cpu"]
    for key in ("teacher", "teacher_epochs", "teacher_protocol", "seed", "dataset", "size"):
        assert getattr(own, key) == getattr(other, key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 4}, "12 images with 1 squares each are 12 patches a class, 16 are needed; raise --mipc or --top"),
        ({"epsilon": 0.0}, r"epsilon is 0.0; it must be in \(0, 1\]"),
        ({"epsilon": 1.5}, r"epsilon is 1.5; it must be in \(0, 1\]"),
        ({"refine": "foreground"}, "unknown refine 'foreground'; did you mean 'background'?"),
        ({"labels": "dbr-twice"}, "unknown labels 'dbr-twice'; did you mean 'dbr-once'?"),
        ({"dbr_distance": "l3"}, "distance is 'l3'; it must be one of l1, smooth_l1, squared"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
        ({"mask": "hard"}, "unknown mask 'hard'; known: binary, soft"),
        ({"top": 6}, "top is 6 of 5 squares"),
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"shift": -1}, "shift is -1; it must be 0 or more"),
    ],
)
def test_settings_out_of_range_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(nrr_dd.SMOKE, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": 3, "mipc": 18}, "factor 3 does not divide a side of 32 pixels; choose one that does"),
        ({"teacher": "convnet3-w8"}, "a teacher without BatchNorm layers has no statistics to match"),
        ({"teacher": "resnet19"}, "unknown model 'resnet19'"),
        ({"protocol": "mine"}, "unknown protocol 'mine'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.run.teachers._train", None)
    with pytest.raises(UsageError, match=message):
        smoke(tmp_path / "x", tmp_path / "work", **changes)


def test_a_teacher_of_tokens_is_refused() -> None:
    skip_without_timm()
    cfg = replace(nrr_dd.PRESETS["imagenette-ipc1"], teacher="timm:vit_tiny_patch16_224")
    source = Run(nrr_dd, nrr_dd.SMOKE, Path("x")).source("cifar10-mini", "train")
    source = replace(source, images=torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    with pytest.raises(UsageError, match="has no CAM; use a convolutional net"):
        nrr_dd.check(cfg, source)
    with pytest.raises(UsageError, match="without BatchNorm layers"):
        nrr_dd.check(replace(cfg, cam_filter=False, refine="all"), source)

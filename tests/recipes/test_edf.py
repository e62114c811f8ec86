"""EDF, DATM and MTT as recipes: windows, draws, steps and gradients, starts, presets, what is stored, bad input."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from safetensors.torch import load_file
from test_cam import skip_without_timm
from test_matching import source
from torch import Tensor, nn
from torch.func import functional_call

import ddhub
from ddhub import models
from ddhub.artifact.folder import Artifact
from ddhub.data.dsa import dsa
from ddhub.errors import TrainingError, UsageError
from ddhub.sources.known import KNOWN
from recipes import edf
from recipes.run import teachers
from recipes.run.run import Run
from recipes.trajectories import initial, trajectory
from recipes.trajectories.adjoint import Matched
from recipes.trajectories.flat import Flat
from recipes.trajectories.initial import averaged, correct
from recipes.trajectories.trajectory import (
    LEARNED,
    Outer,
    Window,
    advance,
    chunks,
    drawn,
    outer_iteration,
    started,
    stepped,
    student_of,
)
from tools import rounding_cost

CPU = torch.device("cpu")
OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
WINDOW = Window(least=0, first=1, last=2, expansion=2, sequential=True)
HOW = Outer(
    seed=0, window=WINDOW, span=1, steps=5, batch=4, ops=OPS, crop=0.125, drop=0.25, skip=math.inf,
    rates=(1.0, 1.0, 1.0), momenta=(0.5, 0.9, 0.5), way="", segment=1,
)  # fmt: skip


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The window, the draws


def test_the_window_grows_as_in_the_specification_and_its_end_is_not_in_it() -> None:
    window = Window(least=0, first=10, last=20, expansion=1000, sequential=True)
    assert [window.end(i) for i in (0, 550, 1000, 9999)] == [10, 15, 20, 20]
    assert {replace(window, sequential=False).end(i) for i in (0, 550)} == {20}
    how = replace(HOW, window=window, steps=1)
    for iteration, end in ((0, 10), (550, 15), (9999, 20)):
        near = [iteration] if iteration == 550 else range(iteration, iteration + 1)
        epochs = {drawn(i, 10, 3, replace(how, seed=s)).epoch for i in near for s in range(300)}
        assert epochs == set(range(end))
    late = replace(how, window=Window(least=40, first=60, last=60, expansion=1, sequential=False))
    assert {drawn(i, 10, 3, late).epoch for i in range(500)} == set(range(40, 60))


def test_batches_are_pieces_of_permutations_the_short_one_first() -> None:
    found = chunks(10, 4, 7, torch.Generator().manual_seed(0))
    assert [len(rows) for rows in found] == [2, 4, 4, 2, 4, 4, 2]
    for first in (0, 3):
        assert sorted(torch.cat(found[first : first + 3]).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(found[:3]), torch.cat(found[3:6]))
    assert [sorted(rows.tolist()) for rows in chunks(3, 100, 2, torch.Generator())] == [[0, 1, 2]] * 2


def test_experts_take_turns_and_all_draws_are_of_seed_and_iteration() -> None:
    order = [drawn(i, 6, 4, HOW).expert for i in range(32)]
    rounds = [order[i : i + 4] for i in range(0, 32, 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in rounds) and len({tuple(one) for one in rounds}) > 2
    a, b, c = drawn(3, 6, 4, HOW), drawn(3, 6, 4, HOW), drawn(3, 6, 4, replace(HOW, seed=1))
    assert torch.equal(a.u, b.u) and a.ops == b.ops and a.epoch == b.epoch
    assert not torch.equal(a.u, c.u) and a.u.shape == (5, 4, 12)
    assert {op for i in range(40) for op in drawn(i, 6, 4, HOW).ops} == set(OPS)


# Steps


def learner() -> dict[str, Tensor]:
    """A state in which everything moves."""
    state = started(random(6, 3, 8, 8).float(), random(6, 3, seed=1).float(), 0.01)
    return state | {f"velocity.{name}": random(*state[name].shape, seed=2).float() for name in LEARNED}


def test_steps_are_those_of_torchs_sgd() -> None:
    state = learner()
    how = replace(HOW, rates=(3.0, 2.0, 1e-3))
    state |= {f"velocity.{name}": torch.zeros_like(state[name]) for name in LEARNED}
    leaves = [state[name].clone().requires_grad_() for name in LEARNED]
    optimizers = [torch.optim.SGD([x], r, m) for x, r, m in zip(leaves, how.rates, how.momenta, strict=True)]
    for seed in range(3):
        gradients = [random(*x.shape, seed=seed).float() for x in leaves]
        state = stepped(state, gradients, torch.tensor(True), how)
        for leaf, gradient, optimizer in zip(leaves, gradients, optimizers, strict=True):
            leaf.grad = gradient
            optimizer.step()
    for name, leaf in zip(LEARNED, leaves, strict=True):
        torch.testing.assert_close(state[name], leaf.detach())


@pytest.mark.parametrize("loss", [1.1, math.nan, math.inf])
def test_a_skipped_iteration_leaves_every_bit(loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    state, flat = learner(), Flat("convnet3-w4", 3, 8, 3)

    def match(*words: Any, **_: Any) -> Matched:
        shown, steps, give = words[4:]
        for k in reversed(range(steps)):
            give(k, *(torch.full_like(value, math.nan) for value in shown(k)))
        return Matched(torch.tensor(loss), torch.tensor(math.nan))

    monkeypatch.setattr(trajectory, "match", match)
    how = replace(HOW, skip=1.0)
    after, found = outer_iteration(0, state, torch.zeros(2, 4, flat.count), student_of(flat, state, how, CPU), how)
    assert after.keys() == state.keys() and all(torch.equal(after[key], state[key]) for key in state)
    torch.testing.assert_close(found, torch.tensor(loss), equal_nan=True)


# Gradients of an iteration, against the whole unrolled


@pytest.mark.parametrize(("drop", "coded"), [(0.0, False), (0.25, False), (0.0, True)])
def test_an_iteration_has_the_gradients_of_the_unrolled_student_with_dsa_and_weights(drop: float, coded: bool) -> None:
    torch.manual_seed(0)
    net = models.build("convnet3-w4", classes=3, size=8).double()
    names, shapes = zip(*[(name, p.shape) for name, p in net.named_parameters()], strict=True)
    sizes = [shape.numel() for shape in shapes]
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])
    paths = torch.stack([theta + 0.03 * t * random(len(theta), seed=t) for t in range(8)]).view(2, 4, -1)
    how = replace(HOW, drop=drop)
    state = started(random(6, 3, 8, 8), random(6, 3, seed=1), 0.05)
    state["weights"] = 1 + random(6, 1, 8, 8, seed=4).abs()
    residual = 0.3 * random(6, 3, 8, 8, seed=5) * coded
    state |= {"residual": residual} if coded else {}
    after, loss = outer_iteration(1, state, paths, student_of(Flat("convnet3-w4", 3, 8, 3), state, how, CPU), how)

    draw = drawn(1, 6, 2, how)
    x, y, eta = (state[name].clone().requires_grad_() for name in LEARNED)
    start, target = paths[draw.expert, draw.epoch], paths[draw.expert, draw.epoch + 1]
    student = start.clone().requires_grad_()
    for k, rows in enumerate(draw.rows):
        view = dsa(x[rows] + residual[rows], draw.u[k, : len(rows)], draw.ops[k : k + 1], crop=0.125)
        parts = [part.view(shape) for part, shape in zip(student.split(sizes), shapes, strict=True)]
        logits = functional_call(net, dict(zip(names, parts, strict=True)), (view,))
        inner = F.cross_entropy(logits, y[rows].softmax(1))
        student = student - eta * torch.autograd.grad(inner, student, create_graph=True)[0]
    errors, scale = (student - target).square(), (start - target).square()
    kept = errors.detach().sort(stable=True).indices[int(drop * len(theta)) :]
    whole = errors[kept].sum() / scale[kept].sum()
    gradients = torch.autograd.grad(whole, (x, y, eta))
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-10, atol=0)
    for name, gradient in zip(LEARNED, gradients, strict=True):
        wanted = gradient * state["weights"] if name == "images" else gradient
        found = state[name] - after[name]  # rates are 1, and there was no momentum
        assert float((found - wanted).norm() / wanted.norm()) < 1e-9, name


def test_hard_labels_are_one_hot_and_stay() -> None:
    data, flat = source(), Flat("convnet3-w4", 3, 8, 3)
    paths = torch.stack([flat.initial(e, t) for e in range(2) for t in range(4)]).view(2, 4, -1)
    found = initial.initial(data, paths, flat, CPU, ipc=2, seed=0, init="real", soft=False)
    assert torch.equal(found["labels"].softmax(1), F.one_hot(torch.arange(3).repeat_interleave(2), 3).float())
    how = replace(edf.outer(replace(edf.SMOKE, labels="hard")), batch=4)
    assert how.rates == (1000.0, 0.0, 1e-5)
    state = started(**found, step=0.01)
    after = advance(range(2), state, paths, student_of(flat, state, how, CPU), how, None)
    assert torch.equal(after["labels"], found["labels"]) and not torch.equal(after["images"], found["images"])


# The start


def test_labels_are_the_mean_of_the_experts_that_are_right() -> None:
    answers = [torch.tensor(z) for z in ([[2.0, 1.0], [1.0, 3.0]], [[4.0, 0.0], [5.0, 0.0]], [[0.0, 9.0], [2.0, 0.0]])]
    found = averaged(answers, torch.tensor([0, 1]), torch.zeros(2, 2))
    assert torch.equal(found, torch.tensor([[3.0, 0.5], [1.0, 3.0]]))
    guard = averaged(answers[1:], torch.tensor([0, 1]), torch.tensor([[7.0, 7.0], [8.0, 8.0]]))
    assert torch.equal(guard, torch.tensor([[4.0, 0.0], [8.0, 8.0]])) and not guard.isnan().any()


def test_images_are_those_that_an_expert_gets_right_the_first_one_first() -> None:
    data = source()
    easy = [set((data.labels == c).nonzero().flatten().tolist()[:3]) for c in range(3)]  # all that the first knows

    def first(rows: Tensor) -> Tensor:
        right = torch.tensor([int(row) in easy[int(data.labels[row])] for row in rows])
        return F.one_hot(torch.where(right, data.labels[rows], (data.labels[rows] + 1) % 3), 3) * 1.0

    def second(rows: Tensor) -> Tensor:
        return F.one_hot(data.labels[rows], 3) * 2.0

    rows, logits = correct(data, [first, second], 3, seed=0)
    assert [set(part.tolist()) for part in rows.split(3)] == easy and float(logits.max()) == 1
    rows, logits = correct(data, [first, second], 5, seed=0)
    assert data.labels[rows].tolist() == [0] * 5 + [1] * 5 + [2] * 5 and len(set(rows.tolist())) == 15
    assert [set(part[:3].tolist()) for part in rows.split(5)] == easy
    assert logits.max(1).values.tolist() == [1, 1, 1, 2, 2] * 3
    rows, logits = correct(data, [first], 4, seed=0)  # of which it gets three right, and another one joins them
    assert data.labels[rows].tolist() == [0] * 4 + [1] * 4 + [2] * 4 and len(set(rows.tolist())) == 12
    assert (logits.argmax(1) == data.labels[rows]).view(3, 4).sum(1).tolist() == [3, 3, 3]


# Presets


def words(name: str) -> dict[str, Any]:
    return asdict(edf.PRESETS[name])


def test_presets_are_the_specifications_rows() -> None:
    keys = "ipc syn_steps batch_syn lr_img lr_y lr_lr lr_teacher threshold drop cam_every beta"
    window = "min_start_epoch current_max_start_epoch max_start_epoch expansion_end_epoch sequential expert_epochs"
    for name, values, start in (
        ("imagenette-ipc1", (1, 40, 1000, 10000, 2, 1e-5, 0.01, 1.5, 0, 50, 1), (0, 5, 10, 1000, True, 2)),
        ("imagenette-ipc50", (50, 80, 128, 1000, 5, 1e-5, 0.01, 1.5, 0.375, 200, 1), (0, 20, 40, 2000, True, 2)),
        ("imagewoof-ipc10", (10, 40, 250, 1000, 3, 1e-6, 0.01, 2, 0.25, 100, 2), (0, 10, 20, 1000, True, 2)),
        ("imagefruit-ipc1", (1, 40, 1000, 10000, 5, 1e-5, 0.01, 1.1, 0, 50, 1), (0, 5, 10, 1000, True, 2)),
        ("imagefruit-ipc10", (10, 40, 200, 1000, 5, 1e-5, 0.01, 1.1, 0.25, 100, 1), (0, 10, 20, 1000, True, 2)),
        ("imagesquawk-ipc50", (50, 80, 128, 100, 5, 1e-5, 0.005, 1.1, 0.5, 100, 1), (0, 20, 40, 1000, True, 2)),
        ("cars-hard-ipc50", (50, 40, 200, 100, 5, 1e-5, 0.01, 1.5, 0.375, 100, 1), (0, 20, 40, 2000, True, 2)),
        ("cifar10-ipc1000", (1000, 80, 1000, 100, 10, 1e-5, 0.01, 1.5, 0.25, 200, 1), (40, 60, 60, 1, False, 2)),
        ("tiny-imagenet-ipc10", (10, 60, 250, 100, 10, 1e-4, 0.01, 1.1, 0.5, 100, 1), (10, 50, 50, 1, False, 2)),
        ("datm-cifar10-ipc1", (1, 80, 10, 100, 5, 1e-7, 0.01, 1.1, 0, 100, 1), (0, 4, 4, 1, False, 2)),
        ("datm-cifar10-ipc10", (10, 80, 100, 100, 2, 1e-5, 0.01, 1, 0, 100, 1), (0, 10, 20, 1000, True, 2)),
        ("datm-cifar100-ipc1", (1, 40, 1000, 1000, 10, 1e-5, 0.01, 1, 0, 100, 1), (0, 10, 20, 1000, True, 3)),
        ("datm-tiny-imagenet-ipc50", (50, 20, 1000, 100, 10, 1e-4, 0.01, 1, 0, 100, 1), (40, 70, 70, 1, False, 2)),
        ("cifar10-ipc10", (10, 80, 100, 100, 2, 1e-5, 0.01, 1.5, 0.25, 100, 1), (0, 10, 20, 1000, True, 2)),
    ):
        assert tuple(words(name)[key] for key in keys.split()) == values, name
        assert tuple(words(name)[key] for key in window.split()) == start, name
    subsets = "imagenette imagewoof imagemeow imageyellow imagefruit imagesquawk birds-easy birds-hard dogs-easy "
    subsets += "dogs-hard cars-easy cars-hard"
    wanted = {f"{name}-ipc{ipc}" for name in subsets.split() for ipc in (1, 10, 50)}
    wanted |= {f"cifar10-ipc{ipc}" for ipc in (1, 10, 50, 500, 1000)}
    wanted |= {f"{name}-ipc{ipc}" for name in ("cifar100", "tiny-imagenet") for ipc in (1, 10, 50, 100)}
    full = {x for x in edf.PRESETS if not x.startswith(("datm-", "mtt-")) and not x.endswith(("-cpu", "-gpu"))}
    assert full == wanted | {"cifar10-ipc10-dae", "cifar10-ipc10-cpd"}
    for name in wanted:
        own, plain = edf.PRESETS[name], edf.PRESETS[f"datm-{name}"]
        assert (edf.method(own), edf.method(plain)) == ("edf", "datm") and own.drop == words(name)["drop"]
        assert edf.experts(own) == edf.experts(plain)
        assert (own.dataset, own.ipc) == (plain.dataset, plain.ipc) == (name.rpartition("-ipc")[0], own.ipc)
        if name.split("-")[0] not in ("cifar10", "cifar100", "tiny"):
            assert replace(own, drop=0.0, cam="none") == plain and own.size == 128 and own.net == "convnet5"
            assert (own.dsa_crop, own.protocol) == (0.25, "edf")
    assert words("tiny-imagenet-ipc50")["act_threshold"] == words("cifar10-ipc1000")["act_threshold"] == 0.5
    assert words("datm-cifar100-ipc50")["init"] == "real"


def test_the_pairs_and_the_ablation_share_experts_iterations_and_students() -> None:
    free = {"drop": 0.0, "cam": "none", "cam_every": 1, "threshold": 9.0}
    for name in ("cifar10-ipc1", "cifar10-ipc10", "imagenette-ipc1"):
        for tier in ("", "-cpu"):
            own, plain = edf.PRESETS[name + tier], edf.PRESETS[f"datm-{name}{tier}"]
            assert replace(own, **free) == replace(plain, **free)
    for tier in ("", "-cpu"):
        whole = edf.PRESETS[f"cifar10-ipc10{tier}"]
        dae, cpd = (edf.PRESETS[f"cifar10-ipc10-{what}{tier}"] for what in ("dae", "cpd"))
        assert dae == replace(whole, drop=0.0) and cpd == replace(whole, cam="none")
        assert edf.method(dae) == edf.method(cpd) == "edf"
    one, ten = (edf.PRESETS[f"cifar10-ipc{ipc}-cpu"] for ipc in (1, 10))
    assert edf.experts(one) == edf.experts(ten)
    for name, cfg in edf.PRESETS.items():
        if name.startswith("mtt-"):
            assert edf.method(cfg) == "mtt" and cfg.labels == "hard" and not cfg.sequential
            assert edf.experts(cfg).optimizer == "sgd" and cfg.max_start_epoch + cfg.expert_epochs <= cfg.train_epochs


def test_students_have_the_papers_protocols() -> None:
    assert edf.students(edf.PRESETS["imagenette-ipc1"]).name == "edf"
    plan = edf.students(replace(edf.Config(), student_epochs=300))
    assert (plan.epochs, plan.milestones) == (300, (150,)) and edf.students(edf.Config()).milestones == (502,)


def test_plan_counts_the_passes_by_hand(tmp_path: Path) -> None:
    run = Run(edf, edf.SMOKE, tmp_path / "x")
    data = run.source("cifar10-mini", "train")
    steps = {step.stage: step.images for step in edf.plan(edf.SMOKE, data, run).steps}
    # Experts: 2 of 2 epochs of 2,000 images, two passes each. An iteration: 4 passes of 4 steps of 8 images, and of 20
    # images a CAM every third iteration.
    assert steps["experts"] == 2 * 2 * 2 * 2000
    assert steps["match-0"] == 4 * 4 * 8 + 20 // 3 and len([name for name in steps if name.startswith("match")]) == 4
    big = replace(edf.PRESETS["datm-cifar10-ipc10"], dataset="cifar10-mini")
    parts = edf.chunks(big, data)
    assert len(parts) == 50 and sum(len(part) for _, part in parts) == 10_001
    assert len(edf.chunks(replace(big, ipc=1000), data)) == 17  # of 246 MB each, 4 GiB in all
    assert not any(tmp_path.iterdir())


# Runs


class Stopped(Exception):
    """An interrupt."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("edf") / "smoke"
    return edf.distill(edf.SMOKE, Run(edf, edf.SMOKE, out, preset="smoke"))


def work(artifact: Artifact) -> Path:
    return artifact.folder.with_name(f"{artifact.folder.name}.work")


def last(artifact: Artifact) -> Path:
    """Its last stage; other runs have theirs in the same folder."""
    step = artifact.manifest.labels["lr"]
    (found,) = (path for path in work(artifact).glob("match-3-*") if float(load_file(path)["step"]) == step)
    return found


def test_the_artifact_holds_what_was_learned(smoke: Artifact) -> None:
    m, state = smoke.manifest, load_file(last(smoke))
    measured = m.recipe["run"]["measured"]
    assert (m.method, m.decoder) == ("edf", {"kind": "identity"})
    assert m.labels == {"kind": "soft", "temperature": 1.0, "lr": float(state["step"])}
    assert measured["step_size"] == m.labels["lr"] != 0.01 and 0 < measured["learned_share"] <= 1
    data = ddhub.load(smoke.folder)
    images = data.decoder(torch.arange(20))
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (m.std, m.mean))
    gap = images - (state["images"] * std + mean)
    assert float(gap.abs().max()) == pytest.approx(measured["rounding_largest"], rel=1e-3)
    assert float(gap.square().mean().sqrt()) == pytest.approx(measured["rounding_rms"], rel=1e-3)
    assert any(high > 1 or low < 0 for low, high in m.pixel_range)
    assert torch.equal(smoke.tensors()["labels.logits"], state["labels"].half())
    assert data.about.lr == m.labels["lr"] and data.protocol.learned_lr
    assert "ZCA" in m.deviations[0] and m.paper == []
    start = load_file(next(work(smoke).glob("start-*")))
    assert all(not torch.equal(start[key], state[key]) for key in ("images", "labels"))
    assert float(state["weights"].max()) > 1


@pytest.mark.parametrize("number", [0, 2])
def test_interrupted_in_the_matching_and_started_again_gives_the_same_digest(
    number: int, smoke: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls, whole = tmp_path / "smoke", 0, trajectory.outer_iteration
    shutil.copytree(work(smoke), out.with_name("smoke.work"), ignore=shutil.ignore_patterns("match-*", "start-*"))

    def dying(iteration: int, *rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if iteration == number and calls == number + 1:
            raise Stopped
        return whole(iteration, *rest)

    monkeypatch.setattr(trajectory, "outer_iteration", dying)
    with pytest.raises(Stopped):
        edf.distill(edf.SMOKE, Run(edf, edf.SMOKE, out, preset="smoke"))
    assert not out.exists() and len(list(out.with_name("smoke.work").glob("match-*"))) == number
    again = edf.distill(edf.SMOKE, Run(edf, edf.SMOKE, out, preset="smoke"))
    assert calls == 4 + 1 and again.manifest.digest == smoke.manifest.digest


def test_datm_and_mtt_share_the_experts_of_a_work_folder(
    smoke: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in work(smoke).glob("experts-*")}
    assert before
    cfg = replace(edf.SMOKE, drop=0.0, cam="none")
    found = edf.distill(cfg, Run(edf, cfg, tmp_path / "datm", work=work(smoke)))
    assert found.manifest.method == "datm"
    cfg = replace(cfg, labels="hard", init="real", sequential=False)
    found = edf.distill(cfg, Run(edf, cfg, tmp_path / "mtt", work=work(smoke)))
    assert found.manifest.method == "mtt" and found.manifest.labels["kind"] == "hard"
    assert found.manifest.labels["lr"] > 0 and not found.tensors()
    assert {path: path.stat().st_mtime_ns for path in work(smoke).glob("experts-*")} == before


def test_a_net_to_train_and_smooth_grad_cam_do_as_the_cam(smoke: Artifact, tmp_path: Path) -> None:
    cfg = replace(edf.SMOKE, cam="smooth-grad-cam++", cam_net="convnet3-bn-w8", cam_epochs=1, iterations=1)
    found = edf.distill(cfg, Run(edf, cfg, tmp_path / "x", work=work(smoke)))
    assert found.manifest.method == "edf" and list(work(smoke).glob("teacher-convnet3-bn-w8-*"))


def test_a_pretrained_net_is_loaded_once_and_asked_for_its_own_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_timm()
    torch.manual_seed(0)
    net, loads = models.build("timm:resnet18.tv_in1k", classes=1000), []
    monkeypatch.setattr(teachers, "_download", lambda *words: loads.append(words) or net)
    nette = KNOWN["imagenette"]
    data = replace(source(), name="imagenette", classes=nette.classes, mean=nette.mean, std=nette.std)
    data = replace(data, images=data.images.repeat(1, 1, 8, 8), labels=data.labels % 10)
    cfg = replace(edf.SMOKE, cam_net="timm:resnet18.tv_in1k", ipc=1)
    run = Run(edf, cfg, tmp_path / "x")
    for _ in range(2):
        look = edf.pixel_weights(cfg, run, data, nn.Identity())
        assert look is not None and look.numbers is not None and look.numbers[1] == 217 and len(loads) == 1
        found = look.weights(random(3, 3, 64, 64).float(), torch.tensor([0, 1, 2]), 0)
        assert found.shape == (3, 1, 64, 64)
    official = edf.pixel_weights(replace(cfg, cam_class="official"), run, data, nn.Identity())
    assert official is not None and official.numbers is None
    with pytest.raises(UsageError, match="is normalised by"):
        edf.check(cfg, replace(data, std=(0.2, 0.2, 0.2), labels=torch.arange(51) % 10))


def test_students_of_the_floats_can_be_trained_and_are_a_fact_of_the_run(smoke: Artifact, tmp_path: Path) -> None:
    state = last(smoke)
    exact, stored = rounding_cost.learned(ddhub.load(smoke.folder), state), ddhub.load(smoke.folder)
    items = torch.arange(20)
    gap = float((exact.decoder(items) - stored.decoder(items)).abs().max())
    moved = smoke.manifest.recipe["run"]["measured"]["rounding_largest"]
    assert gap == pytest.approx(moved, rel=1e-3) and exact.about.lr == stored.about.lr
    folder = tmp_path / "smoke"
    shutil.copytree(smoke.folder, folder)
    words = [str(folder), str(state), "--student", "convnet3-w8", "--seeds", "2", "--record"]
    done = CliRunner().invoke(rounding_cost.main, words)
    noted = Artifact.open(folder).manifest
    before, after = (each.recipe["run"]["measured"] for each in (smoke.manifest, noted))
    key, said = "accuracy of convnet3-w8 without rounding, datm+epochs=4", r"\d+\.\d\d ± \d\.\d\d % \(n = 2\)"
    assert done.exit_code == 0 and re.search(f"{re.escape(key)}: {said}", done.output)
    assert after == {**before, key: after[key]} and re.fullmatch(said, after[key])
    assert noted.digest == smoke.manifest.digest
    text = tmp_path / "log.txt"
    text.write_text("no stage at all")
    for other in (*(next(work(smoke).glob(name)) for name in ("experts-*.safetensors", "match-0-*")), text):
        with pytest.raises(UsageError, match="does not hold the images of smoke; name the last of its stages match-N"):
            rounding_cost.learned(stored, other)


# Bad input


def bare(tmp_path: Path, cfg: edf.Config) -> Callable[[], object]:
    return lambda: edf.distill(cfg, Run(edf, cfg, tmp_path / "x"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": 1.0}, r"drop is 1.0; it must be in \[0, 1\)"),
        ({"train_epochs": 1}, "need experts of 2 epochs, and train_epochs is 1; raise it, or lower --max-start-epoch"),
        ({"min_start_epoch": 1}, "min_start_epoch is 1 and current_max_start_epoch 1, which leaves no epoch"),
        ({"current_max_start_epoch": 3}, "current_max_start_epoch is 3 and max_start_epoch 1, which leaves no epoch"),
        ({"min_start_epoch": 2, "sequential": False}, "min_start_epoch is 2 and max_start_epoch 1, which"),
        ({"ipc": 201}, "ipc is 201, but class 'airplane' of 'cifar10-mini' has 200 images; lower --ipc"),
        ({"cam": "cam"}, "unknown cam 'cam'"),
        ({"init": "noise"}, "unknown init 'noise'"),
        ({"dsa": "color_blur"}, "unknown operation in dsa 'blur'"),
        ({"net": "resnet18"}, "net 'resnet18' is not a ConvNet with InstanceNorm"),
        ({"cam_net": "timm:resnet18.tv_in1k"}, "the classes of cifar10-mini are none of ImageNet's"),
        ({"cam_net": "resnet19"}, "unknown model 'resnet19'"),
        ({"threshold": 0.0}, "threshold is 0.0; it must be a finite number above 0"),
        ({"momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\)"),
        ({"syn_steps": 0}, "syn_steps is 0; it must be 1 or more"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if str(changes.get("cam_net")).startswith("timm:"):
        skip_without_timm()
    with pytest.raises(UsageError, match=message) as error:
        bare(tmp_path, replace(edf.SMOKE, **changes))()
    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr_lr": 1e3}, r"the learned step size is -.* after iteration \d; lower --lr-lr|is not a number"),
        ({"lr_img": 1e30, "lr_y": 1e30}, "is not a number"),
        ({"lr_teacher": 1e25}, "every loss of the iterations 0 to 0 is not a number; lower --lr-teacher or --lr-lr"),
        ({"threshold": 1e-9}, "nothing was learned: no loss was at most 1e-09, the least was .*; raise --threshold"),
    ],
)
def test_a_run_that_goes_wrong_says_so_and_keeps_what_it_has(
    changes: dict[str, Any], message: str, smoke: Artifact, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    shutil.copytree(work(smoke), out.with_name("x.work"), ignore=shutil.ignore_patterns("match-*", "start-*"))
    cfg = replace(edf.SMOKE, **changes)
    with pytest.raises((TrainingError, UsageError), match=message) as error:
        edf.distill(cfg, Run(edf, cfg, out))
    assert "\n" not in str(error.value) and not out.exists()
    assert list(out.with_name("x.work").glob("experts-*.npy"))

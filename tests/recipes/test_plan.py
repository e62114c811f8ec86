"""Plans: operations by hand, sums, the model of a machine, and the presets for one H100."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from ddhub import models
from ddhub.errors import UsageError
from ddhub.protocols.named import protocol
from ddhub.sources.source import Source
from recipes import __main__ as program
from recipes import edf, infer, nrr_dd, random_real, sre2l, udd
from recipes.run import plan
from recipes.run.operations import cost
from recipes.run.options import discover, scaled
from recipes.run.plan import MACHINES, Line, Machine, Net, Step
from recipes.run.run import Run

RECIPES = discover()
DATA = {"cifar10": (50_000, 32, 10), "imagenette": (9469, 128, 10), "tiny-imagenet": (100_000, 64, 200)}
GPU = [
    (method, name)
    for method, recipe in RECIPES.items()
    for name, (_, _, tier) in recipe.PRESETS.names.items()
    if tier == "gpu"
]


def as_large_as(name: str, split: str = "train", size: int | None = None) -> Source:
    """A source of real shapes without pixels."""
    count, side, classes = DATA[name]
    side = size or side
    return Source(
        name=name, address=name, split=split,
        images=torch.empty(count, 3, side, side, dtype=torch.uint8, device="meta"),
        labels=torch.arange(count) % classes, classes=tuple(map(str, range(classes))),
        mean=(0.5,) * 3, std=(0.2,) * 3, hub_id="", license="", notes="", fingerprint="",
    )  # fmt: skip


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs see sources of real shapes; a check that computes is left out."""

    def source(_: Run, name: str, split: str, size: int | None = None) -> Source:
        return as_large_as(name, split, size)

    monkeypatch.setattr(Run, "source", source)
    monkeypatch.setattr(nrr_dd, "check", lambda cfg, source: None)


def students(method: str, cfg: Any, run: Run) -> list[Line]:
    """Three students each of ResNet-18 and a ConvNet, under the recommended protocol."""
    recipe = RECIPES[method]
    _, side, classes = DATA[cfg.dataset]
    rule = protocol(cfg.protocol) if recipe is sre2l else recipe.students(cfg)
    items, judges = cfg.ipc * classes, ()
    if recipe is infer and cfg.compensate:
        items = infer.natural_sets(cfg.ipc, classes, len(cfg.teachers)) * (1 + len(cfg.teachers)) * classes
    if recipe is udd:
        items *= cfg.factor**2 + cfg.regions
    if cfg.labels == "teacher":
        judges = cfg.teachers if recipe is infer else (cfg.teacher,)
    convnet = f"convnet{ {32: 3, 64: 4, 128: 5}[side] }" + ("" if recipe in (edf, udd) else "-bn")
    return [
        plan.student_line(net, rule, items, (3, side, side), classes, run, "h100", judges)
        for net in ("resnet18", convnet)
        for _ in range(3)
    ]


def test_operations_of_a_convnet_by_hand() -> None:
    by_hand = 2 * (32**2 * 128 * 3 * 9 + 16**2 * 128 * 128 * 9 + 8**2 * 128 * 128 * 9 + 2048 * 10)
    for name in ("convnet3", "convnet3-bn"):
        assert cost(name, classes=10, size=32).operations == by_hand == 101_490_688
    assert cost("convnet5", classes=10, size=128).kind == "convnet"


def test_operations_of_resnet18_by_hand() -> None:
    stem, first = 32**2 * 64 * 3 * 9, 4 * 32**2 * 64 * 64 * 9
    later = 0
    for side, width in ((16, 128), (8, 256), (4, 512)):
        half = width // 2
        later += side**2 * width * (half * 9 + 3 * width * 9 + half)  # the last is the shortcut's 1 x 1
    counted = cost("resnet18", classes=10, size=32)
    assert counted.operations == 2 * (stem + first + later + 512 * 10) == 1_110_845_440
    assert (counted.norms, counted.kind) == (20, "residual")
    assert cost("resnet18", classes=10, size=128).operations == 2 * 16 * (stem + first + later) + 2 * 512 * 10


def test_operations_of_grouped_convolutions_by_hand() -> None:
    # A block of ShuffleNet: 1 x 1 in 2 groups, depthwise 3 x 3, 1 x 1 in 2 groups.
    with torch.device("meta"):
        block = models.ShuffleBlock(200, 200, groups=2, stride=1)
        x = torch.zeros(1, 200, 16, 16)
    with FlopCounterMode(display=False) as counted:
        block(x)
    assert counted.get_total_flops() == 2 * 16**2 * (50 * 100 + 50 * 9 + 200 * 25)
    assert cost("shufflenet", classes=10, size=32).kind == "depthwise"


@pytest.mark.parametrize(
    ("net", "step", "inversion"),
    [("resnet18", 230, 689), ("mobilenetv2", 400, 1812), ("efficientnetb0", 570, 1805), ("shufflenet", 430, 1648)],
)
def test_kernels_are_those_counted_in_the_methods_own_steps(net: str, step: int, inversion: int) -> None:
    counted = cost(net, classes=10, size=32)
    assert counted.step == pytest.approx(step, rel=0.1) and counted.inversion == pytest.approx(inversion, rel=0.05)


def test_counting_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    cost.__wrapped__("resnet18-w16", classes=10, size=32)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_plan_by_hand(large: None, tmp_path: Path) -> None:
    cfg = sre2l.PRESETS["cifar10-ipc10"]
    steps = {
        step.stage: step for step in sre2l.plan(cfg, as_large_as("cifar10"), Run(sre2l, cfg, tmp_path / "x")).steps
    }
    net = cost("resnet18", classes=10, size=32)
    teacher, recover = steps["teacher-resnet18"], steps["recover"]
    assert (teacher.images, teacher.operations) == (200 * 50_000, 3 * 200 * 50_000 * net.operations)
    assert (teacher.launches, teacher.kind) == (200 * 391 * net.step, "residual-bf16")
    assert (recover.images, recover.operations) == (100 * 1000, 2 * 100 * 1000 * net.operations)  # the net is frozen
    assert recover.launches == 1000 * net.inversion


def test_steps_with_more_than_one_derivative_by_hand(large: None, tmp_path: Path) -> None:
    one = cost("convnet3", classes=10, size=32)
    cfg = edf.PRESETS["datm-cifar10-ipc10"]
    told = plan.lines(edf, cfg, Run(edf, cfg, tmp_path / "x"), "h100")
    # GSAM differentiates a batch twice; a student's step and its way back are twelve forward passes, labels three.
    assert told[0].operations == 100 * 100 * 50_000 * 2 * 3 * one.operations
    assert told[1].operations == 100 * 100 // 3 * 3 * one.operations
    assert sum(line.operations for line in told[2:]) == 10_001 * 80 * 100 * 12 * one.operations
    cfg = udd.PRESETS["idc-cifar10-ipc1"]
    told = plan.lines(udd, cfg, Run(udd, cfg, tmp_path / "x"), "h100")
    # 64 real images of a class once, four formations three times, 2,000 images for the net.
    passes = 2000 * 100 * (10 * (64 + 3 * 4) + 2000)
    assert sum(line.operations for line in told[2:]) == 3 * passes * one.operations


def test_labels_are_forward_passes(large: None, tmp_path: Path) -> None:
    cfg = infer.PRESETS["cifar10-ipc10"]
    labels = plan.lines(infer, cfg, Run(infer, cfg, tmp_path / "x"), "h100")[-1]
    asked = sum(cost(name, classes=10, size=32).operations for name in cfg.teachers)
    assert (labels.stage, labels.images, labels.operations) == ("labels", 4 * 350, 350 * asked)


@pytest.mark.parametrize("method", RECIPES)
def test_the_total_is_the_sum_of_the_lines(method: str, tmp_path: Path) -> None:
    recipe = RECIPES[method]
    run = Run(recipe, recipe.SMOKE, tmp_path / "x")
    told, text = (make(recipe, recipe.SMOKE, run, "h100") for make in (plan.lines, plan.text))
    total = plan.total(told)
    assert [sum(line[k] for line in told) for k in (1, 2, 3)] == [total.images, total.operations, total.seconds]
    rows = text.splitlines()
    assert [row.split()[0] for row in rows[1 : len(told) + 1]] == [line.stage for line in told]
    assert rows[-3].split()[:2] == ["total", f"{total.images:,}"] and rows[-2] == "seconds are by the model of h100"
    assert all((line.operations > 0) == (line.images > 0) for line in told)


def test_a_probe_is_asked_once_and_only_if_there_is_something_to_do(tmp_path: Path) -> None:
    asked = []

    def probe(name: str, rate: float) -> Any:
        return lambda: asked.append(name) or rate

    first, second = probe("first", 10), probe("second", 5)
    rows = (("a", 20, first), ("b", 5, first), ("c", 0, second))
    steps = [Step(stage=stage, images=images, rate=rate) for stage, images, rate in rows]

    class Recipe:
        @staticmethod
        def plan(*_: object) -> plan.Plan:
            return plan.Plan(steps=steps, artifact_bytes=0)

    run, cfg = Run(random_real, random_real.SMOKE, tmp_path / "x"), random_real.SMOKE
    assert [line.seconds for line in plan.lines(Recipe, cfg, run)] == [2, 0.5, 0] and asked == ["first"]  # type: ignore[arg-type]


def test_the_models_seconds_never_fall_with_the_work(
    monkeypatch: pytest.MonkeyPatch, large: None, tmp_path: Path
) -> None:
    run = Run(sre2l, sre2l.PRESETS["cifar10-ipc10-gpu"], tmp_path / "x")

    def seconds(**changes: Any) -> float:
        return plan.total(plan.lines(sre2l, replace(run.cfg, **changes), run, "h100")).seconds

    least = seconds()
    assert seconds(steps=2000) > least and seconds(ipc=100) > least and seconds(teacher_epochs=40) > least
    h100 = MACHINES["h100"]
    halves = {key: rate / 2 for key, rate in h100.rates.items()}
    for slower in (replace(h100, rates=halves), replace(h100, launch=1e-5), replace(h100, stage=1.0)):
        monkeypatch.setitem(MACHINES, "h100", slower)
        assert seconds() > least
    # By hand: 2 s of operations, 3 s of kernels, 4 s beside them; nothing but those where nothing is computed.
    monkeypatch.setitem(MACHINES, "h100", Machine(rates={"convnet-fp32": 10.0}, launch=1.0, stage=4.0))

    class Recipe:
        @staticmethod
        def plan(*_: object) -> plan.Plan:
            busy = Step(stage="a", images=1, operations=20, launches=3, kind="convnet-fp32")
            return plan.Plan(steps=[busy, replace(busy, launches=1), Step(stage="b", images=0)], artifact_bytes=0)

    assert [line.seconds for line in plan.lines(Recipe, run.cfg, run, "h100")] == [7, 6, 4]  # type: ignore[arg-type]


def test_the_model_knows_every_kind_of_net_in_both_precisions() -> None:
    kinds = {cost(name, classes=10, size=32).kind for name in ("resnet18", "convnet3", "mobilenetv2")}
    assert set(MACHINES["h100"].rates) == {f"{kind}-{word}" for kind, word in product(kinds, ("bf16", "fp32"))}


def test_a_student_by_hand(tmp_path: Path) -> None:
    run, rule = Run(random_real, random_real.SMOKE, tmp_path / "x"), replace(protocol("infer-static"), epochs=10)
    net, judge = (cost(name, classes=10, size=32) for name in ("convnet3", "resnet18"))
    line = plan.student_line("convnet3", rule, 100, (3, 32, 32), 10, run, "h100")
    assert line[:3] == ("student-convnet3", 1000, 3000 * net.operations)
    assert line.seconds == pytest.approx(10 * 2 * net.step * 3e-6 + 0.5)  # two batches of 64
    labelled = plan.student_line("convnet3", rule, 100, (3, 32, 32), 10, run, "h100", ("resnet18",))
    assert labelled.operations == 3000 * net.operations + 1000 * judge.operations and labelled.seconds > line.seconds
    here = plan.student_line("convnet3-w8", replace(rule, epochs=1), 100, (3, 32, 32), 10, run)
    assert here.seconds > 0


def test_a_net_of_a_plan_costs_nothing_where_there_is_nothing_to_do(tmp_path: Path) -> None:
    run = Run(random_real, random_real.SMOKE, tmp_path / "x")
    teacher = Net("timm:resnet18.tv_in1k", 10, (3, 224, 224), run)  # timm need not be there
    assert teacher.teacher(1000, 0, "squeeze") == Step(stage="teacher-timm:resnet18.tv_in1k", images=0)


def test_a_machine_that_is_not_at_hand_is_for_dry_runs_alone(tmp_path: Path) -> None:
    words = ["random-real", str(tmp_path / "x"), "--preset", "smoke", "--machine", "h100"]
    done = CliRunner().invoke(program.group(), words)
    assert done.exit_code == 2 and "add --dry-run" in done.output
    done = CliRunner().invoke(program.group(), [*words, "--dry-run"])
    assert done.exit_code == 0 and "by the model of h100" in done.output
    assert not list(tmp_path.iterdir())


def test_an_unknown_machine_is_an_error(tmp_path: Path) -> None:
    run = Run(random_real, random_real.SMOKE, tmp_path / "x")
    with pytest.raises(UsageError, match="unknown machine 'tpu'"):
        plan.lines(random_real, random_real.SMOKE, run, "tpu")


def test_the_presets_for_a_gpu_are_there() -> None:
    cifar, nette = [f"cifar10-ipc{ipc}-gpu" for ipc in (1, 10, 50)], [f"imagenette-ipc{ipc}-gpu" for ipc in (1, 10)]
    wanted = {
        "infer": [*cifar[1:], nette[1], "tiny-imagenet-ipc10-gpu", "cifar10-ipc10-no-compensators-gpu"],
        "sre2l": [*cifar[1:], *nette, "cifar10-ipc10-static-gpu"],
        "nrr-dd": [*cifar, *nette, *(f"rded-{name}" for name in (*cifar, *nette)), "cifar10-ipc10-cidd-only-gpu"],
        "udd": [*cifar, *(f"idc-{name}" for name in cifar), "cifar10-ipc1-random-regions-gpu"],
        "edf": [f"{method}{name}" for method in ("", "datm-", "mtt-") for name in (*cifar, *nette)],
        "random-real": [*cifar, *nette],
    }
    for method, names in wanted.items():
        assert set(names) <= set(RECIPES[method].PRESETS), method


@pytest.mark.parametrize(("method", "name"), GPU)
def test_a_preset_for_a_gpu_takes_eight_minutes_with_its_students(
    method: str, name: str, large: None, tmp_path: Path
) -> None:
    recipe = RECIPES[method]
    cfg = recipe.PRESETS[name]
    run = Run(recipe, cfg, tmp_path / "x", preset=name)
    told = plan.lines(recipe, cfg, run, "h100")
    assert plan.total([*told, *students(method, cfg, run)]).seconds <= 480
    trained = [getattr(cfg, key) for key in ("teacher_protocol",) if hasattr(cfg, key) and recipe is not random_real]
    assert trained in ([], ["teacher"]) and (not trained or 16 <= cfg.teacher_epochs <= 40)


@pytest.mark.parametrize(("method", "name"), GPU)
def test_the_card_of_a_preset_for_a_gpu_says_what_was_cut(method: str, name: str) -> None:
    recipe = RECIPES[method]
    presets = recipe.PRESETS
    full = presets.full(name)
    row, variant, _ = presets.names[name]
    assert full == (row if not variant or presets.variants[variant].tiers else name.removesuffix("-gpu"))
    assert full in presets and presets.names[full][2] == "" and name.endswith("-gpu")
    said = scaled(recipe, name, presets[name])
    assert bool(said) == (recipe is not random_real) and all(f"preset {full} has" in line for line in said)

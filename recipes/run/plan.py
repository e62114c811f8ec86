"""Plans: what a run would do and how long it would take, here or on a machine that is not at hand, for `--dry-run`.

    print(text(recipe, cfg, run))                       # at rates that short probes measure on this machine
    lines(recipe, cfg, run, machine="h100")             # by the model of a machine: see `Machine`

A recipe's `plan` states each stage in image passes, forward and backward, in operations and in kernels
(`recipes.run.operations`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch

from ddhub import models
from ddhub.errors import unknown
from ddhub.protocols.named import protocol as named
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from recipes.run.operations import Cost, cost
from recipes.run.run import Run

_LOOKED_AT = 500  # images of a batch that is not learned from


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of a plan.

    Attributes:
        stage: its name.
        images: image passes, forward and backward.
        rate: a probe of images per second on this machine.
        operations: floating point operations, a multiplication with an addition being two.
        launches: kernels, which a device starts one after the other.
        kind: of nets and precision, a key of `Machine.rates`.
    """

    stage: str
    images: int
    rate: Callable[[], float] | None = None
    operations: int = 0
    launches: int = 0
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do, for `--dry-run`.

    Attributes:
        steps: its stages, in order.
        artifact_bytes: raw bytes that the artifact would store, before any encoding.
        images: stored images; 0 where a recipe does not say, and takes no budget in bytes.
        label_bytes: those of the labels among the raw bytes.
    """

    steps: list[Step]
    artifact_bytes: int
    images: int = 0
    label_bytes: int = 0


class Line(NamedTuple):
    """A stage as it is told: its name, image passes, operations and seconds."""

    stage: str
    images: int
    operations: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A model of a machine: `max(operations / rate, launches * launch) + stage` seconds a stage.

    Attributes:
        rates: operations a second by kind of net and precision.
        launch: seconds from one small kernel to the next inside a captured graph.
        stage: seconds of a stage beside its work: files, warm-up, capture.
    """

    rates: Mapping[str, float]
    launch: float
    stage: float


# Assumed, nothing of it measured yet: replace a number by a measured one. One by one, kernels take 7 to 8 µs each.
MACHINES = {
    "h100": Machine(
        rates={
            "residual-bf16": 200e12,  # ResNet-18, channels_last: a fifth of the data sheet's dense 989e12
            "residual-fp32": 80e12,  # TF32
            "convnet-bf16": 60e12,  # 128 channels, bound by the memory of norms, ReLU and pooling
            "convnet-fp32": 60e12,  # TF32, second derivatives too
            "depthwise-bf16": 12e12,  # MobileNetV2, EfficientNet-B0, ShuffleNet: bound by memory
            "depthwise-fp32": 8e12,
        },
        launch=3e-6,
        stage=0.5,
    )
}


@dataclass(frozen=True)
class Net:
    """A net at work on images `[channels, S, S]` of some classes: what the steps of a plan are made of.

    Attributes:
        model: its name.
        classes, shape: of the images.
        run: whose device the probe is of.
        precision: `bf16` where the run's own decides, which a modelled machine takes to be that, or `fp32`.
        probe: images per second on this machine; if not given, of training.
    """

    model: str
    classes: int
    shape: tuple[int, int, int]
    run: Run
    precision: str = "bf16"
    probe: Callable[[], float] | None = None
    rate: Callable[[], float] = field(init=False)

    def __post_init__(self) -> None:
        measured = partial(training_rate, self.model, self.classes, self.shape, self.run)
        object.__setattr__(self, "rate", self.probe or measured)  # one object, so that it is measured once

    @property
    def cost(self) -> Cost:
        """Of a pass."""
        return cost(self.model, classes=self.classes, size=self.shape[1], channels=self.shape[0])

    def step(self, stage: str, images: int, launches: int, *, forwards: int = 3) -> Step:
        """A stage of so many image passes and kernels; a pass takes so many forward passes' operations."""
        if not images:
            return Step(stage=stage, images=0)
        return Step(
            stage=stage,
            images=images,
            rate=self.rate,
            operations=forwards * images * self.cost.operations,
            launches=launches,
            kind=f"{self.cost.kind}-{self.precision}",
        )

    def looked(self, stage: str, images: int) -> Step:
        """A stage that only asks the net what it sees."""
        return self.step(stage, images, -(-images // _LOOKED_AT) * self.cost.forward if images else 0, forwards=1)

    def inverted(self, stage: str, images: int, steps: int) -> Step:
        """A stage that optimises so many images together, by the BatchNorm statistics of a net that stays as it is."""
        return self.step(stage, images * steps, steps * self.cost.inversion if images else 0, forwards=2)

    def teacher(self, items: int, epochs: int, protocol: str) -> Step:
        """The net's training on all real images; none for 0 epochs."""
        steps = -(-items // named(protocol).batch_size) * epochs
        return self.step(f"teacher-{self.model}", epochs * items, steps * self.cost.step if steps else 0)


def net(model: str, source: Source, run: Run, **settings: Any) -> Net:
    """A net on the images of a source."""
    channels, height, width = source.images.shape[1:]
    return Net(model, len(source.classes), (channels, height, width), run, **settings)


def joined(stage: str, steps: Sequence[Step]) -> Step:
    """Several steps as one stage, at the rate and of the kind of the first."""
    images, operations, launches = (
        sum(getattr(step, key) for step in steps) for key in ("images", "operations", "launches")
    )
    first = steps[0]
    return Step(stage=stage, images=images, rate=first.rate, operations=operations, launches=launches, kind=first.kind)


def training_rate(model: str, classes: int, shape: tuple[int, int, int], run: Run, seconds: float = 0.5) -> float:
    """Images per second through forward and backward of a net, measured for `seconds` on the run's device."""
    net = models.build(model, classes=classes, size=shape[1], channels=shape[0])
    net = net.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(128, *shape, device=run.device).contiguous(memory_format=torch.channels_last)
    done, begin = -1, time.perf_counter()
    while done < 1 or time.perf_counter() - begin < seconds:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            loss = net(x).float().square().mean()
        loss.backward()
        float(loss.detach())
        done += 1
        if done == 0:  # the first pass warms up and is not counted
            begin = time.perf_counter()
    return done * len(x) / (time.perf_counter() - begin)


def planned(recipe: ModuleType, cfg: Any, run: Run) -> Plan:
    """The recipe's plan for a configuration, on the run's data."""
    plan: Plan = recipe.plan(cfg, run.source(cfg.dataset, "train", getattr(cfg, "size", None) or None), run)
    return plan


def lines(recipe: ModuleType, cfg: Any, run: Run, machine: str = "") -> list[Line]:
    """The stages of a run in order.

    Args:
        recipe, cfg: the method and its configuration.
        run: has the data, and the device that is probed.
        machine: a key of `MACHINES`, whose model says the seconds; if empty, probes on this machine do.

    Raises:
        UsageError: an unknown machine, or a configuration that cannot be.
    """
    return _told(planned(recipe, cfg, run).steps, machine)


def student_line(
    model: str,
    protocol: Protocol,
    items: int,
    image_size: Sequence[int],
    classes: int,
    run: Run,
    machine: str = "",
    teachers: Sequence[str] = (),
) -> Line:
    """The training of one student.

    Args:
        model: its net.
        protocol: how it is trained.
        items: what it sees in an epoch.
        image_size: of an item, `[channels, S, S]` as in a manifest.
        classes: how many.
        run: whose device is probed.
        machine: as for `lines`.
        teachers: nets that label every batch.
    """
    channels, height, width = image_size
    shape, steps, images = (channels, height, width), -(-items // protocol.batch_size), protocol.epochs * items
    student = Net(model, classes, shape, run)
    work = [student.step(model, images, protocol.epochs * steps * student.cost.step)]
    for teacher in teachers:
        judge = Net(teacher, classes, shape, run)
        work.append(judge.step(model, images, protocol.epochs * steps * judge.cost.forward, forwards=1))
    told = _told(work, machine)
    answered = sum(line.seconds / (1 if machine else 3) for line in told[1:])  # a probe is of forward and backward
    return Line(f"student-{model}", images, sum(line.operations for line in told), told[0].seconds + answered)


def text(recipe: ModuleType, cfg: Any, run: Run, machine: str = "", before: Sequence[Line] = ()) -> str:
    """The plan as text: stages, image passes, operations in 10^12, images per second, seconds, and bytes.

    What comes `before` the recipe's own stages is told first.
    """
    plan = planned(recipe, cfg, run)
    told = [*before, *_told(plan.steps, machine)]
    where = f"by the model of {machine}" if machine else "at the rates of this machine"
    rows = [f"{'stage':34}{'image passes':>14}{'TFLOP':>13}{'images/s':>10}{'seconds':>10}"]
    for line in [*told, total(told)]:
        speed = f"{line.images / line.seconds:,.0f}" if line.images and line.stage != "total" else "-"
        rows.append(
            f"{line.stage:34}{line.images:>14,}{line.operations / 1e12:>13,.1f}{speed:>10}{line.seconds:>10,.0f}"
        )
    rows.append(f"seconds are {where}")
    rows.append(f"artifact: {plan.artifact_bytes:,} raw bytes of images, tensors and labels")
    return "\n".join(rows)


def total(told: Sequence[Line]) -> Line:
    """The sum of lines."""
    return Line(
        "total",
        sum(line.images for line in told),
        sum(line.operations for line in told),
        sum(line.seconds for line in told),
    )


def _told(steps: Sequence[Step], machine: str) -> list[Line]:
    if machine and machine not in MACHINES:
        raise unknown("machine", machine, MACHINES)
    if machine:
        seconds = [_modelled(step, MACHINES[machine]) for step in steps]
    else:
        rates = {probe: probe() for probe in {step.rate for step in steps if step.images and step.rate}}
        seconds = [step.images / rates[step.rate] if step.images and step.rate else 0.0 for step in steps]
    return [Line(step.stage, step.images, step.operations, x) for step, x in zip(steps, seconds, strict=True)]


def _modelled(step: Step, machine: Machine) -> float:
    busy = step.operations / machine.rates[step.kind] if step.operations else 0.0
    return max(busy, step.launches * machine.launch) + machine.stage

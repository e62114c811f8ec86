"""The steps of a stock run and what they cost: artifacts are made, students are trained, one a model and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ddhub.artifact.results import read
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from recipes.run import plan as plans
from recipes.run.plan import Line
from recipes.run.run import Run
from recipes.stock.table import Item, Student

Key = tuple[str | int, ...]
SHARED = ("teacher-", "experts")  # stages that artifacts of the same data have in common, if they are as large


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: the artifact of an item is made, or a student of it, or of its baseline, is trained.

    Attributes:
        item: whose settings and protocol are meant.
        of: the artifact that is made or trained on.
        student: who is trained; None where the artifact is made.
        seed: of the student.
    """

    item: Item
    of: str
    student: Student | None = None
    seed: int = 0

    @property
    def title(self) -> str:
        """'cifar10-datm-ipc10: resnet18, seed 0', or 'cifar10-datm-ipc10: images'."""
        return f"{self.of}: {self.student.model}, seed {self.seed}" if self.student else f"{self.of}: images"


def steps(item: Item, table: Mapping[str, Item]) -> Iterator[Step]:
    """The steps of an item in order; its baseline is made first if it is in the table."""
    for name in (item.baseline, item.name):
        if name in table:
            yield Step(item=table[name], of=name)
    for name in (item.name, item.baseline) if item.baseline else (item.name,):
        for student in item.students:
            for seed in range(student.seeds):
                yield Step(item=item, of=name, student=student, seed=seed)


def key(step: Step) -> Key:
    """What a step does: a baseline has the same students for all artifacts of one protocol."""
    if step.student is None:
        return (step.of,)
    return step.of, step.student.model, step.student.plan(own(step.item)).digest, step.seed


def own(item: Item) -> Protocol:
    """The protocol that an item recommends to students, before there is a manifest."""
    known = getattr(item.recipe, "students", None)
    return known(item.cfg) if known else protocol(item.cfg.protocol)


class Costs:
    """What steps cost, by the plans of the recipes.

    Args:
        table: the items by name.
        stock: the folder of artifacts that are not in the table.
        machine: whose seconds (see `recipes.run.plan.lines`).
        options: of a Run: root, device, precision.
    """

    def __init__(self, table: Mapping[str, Item], stock: Path, machine: str, **options: Any) -> None:
        self.table, self.stock, self.machine, self.options = table, stock, machine, options
        self.opened: set[tuple[str, int]] = set()  # data that this process has read before
        self._lines: dict[Any, list[Line]] = {}

    def lines(self, step: Step) -> list[Line]:
        """The plan of a step."""
        item, student = step.item, step.student
        key = (item.name, step.of, student)
        if key not in self._lines:
            run = Run(item.recipe, item.cfg, self.stock / item.name, work=self.stock, **self.options)
            recipe = (
                SimpleNamespace(plan=partial(self._training, step.of, student, own(item))) if student else item.recipe
            )
            self._lines[key] = plans.lines(recipe, item.cfg, run, self.machine)
            self.opened.add(data_of(item))
        return self._lines[key]

    def seconds(self, step: Step) -> float | None:
        """Seconds of a step; None as long as its data would have to be read for that."""
        if data_of(step.item) not in self.opened:
            return None
        return sum(line.seconds for line in self.lines(step))

    def _training(self, of: str, student: Student, base: Protocol, cfg: Any, source: Any, run: Run) -> plans.Plan:
        """The plan of a student of `of`."""
        plan = student.plan(base)
        images = plan.epochs * self._items(of, len(source.classes))
        rate = partial(plans.training_rate, student.model, source, run)
        step = plans.Step(stage=f"student {student.model} ({plan.name})", images=images, rate=rate)
        return plans.Plan(steps=[step], artifact_bytes=0)

    def _items(self, of: str, classes: int) -> int:
        """Items of an epoch."""
        if of not in self.table:
            return read(self.stock / of).manifest.ipc * classes
        item = self.table[of]
        counted = getattr(item.recipe, "items", None)
        return counted(item.cfg, classes) if counted else item.cfg.ipc * classes


def data_of(item: Item) -> tuple[str, int]:
    """Which data an item is made of: name and side of the images, 0 if it is the data's."""
    return item.cfg.dataset, getattr(item.cfg, "size", 0)

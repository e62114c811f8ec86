"""The steps of a stock run and what they cost: artifacts are made, students are trained, one a model and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        machine: whose seconds (see `recipes.run.plan.lines`).
        options: of a Run: root, device, precision.
    """

    def __init__(self, table: Mapping[str, Item], machine: str, **options: Any) -> None:
        self.table, self.machine, self.options = table, machine, options
        self.opened: set[tuple[str, int]] = set()  # data that this process has read before
        self._lines: dict[tuple[str, str, Student | None], list[Line]] = {}

    def lines(self, step: Step) -> list[Line]:
        """The plan of a step."""
        what = (step.item.name, step.of, step.student)
        if what not in self._lines:
            item = step.item
            run = Run(item.recipe, item.cfg, Path(item.name), **self.options)
            if step.student:
                self._lines[what] = [self._training(step.of, item, step.student, run)]
            else:
                self._lines[what] = plans.lines(item.recipe, item.cfg, run, self.machine)
            self.opened.add(data_of(item))
        return self._lines[what]

    def seconds(self, step: Step) -> float | None:
        """Seconds of a step; None as long as its data would have to be read for that."""
        if data_of(step.item) not in self.opened:
            return None
        return sum(line.seconds for line in self.lines(step))

    def _training(self, of: str, item: Item, student: Student, run: Run) -> Line:
        """A student of `of`, which is an item or its baseline, under the item's protocol."""
        source = run.source(item.cfg.dataset, "train", data_of(item)[1] or None)
        cfg, classes = self.table[of].cfg if of in self.table else item.cfg, len(source.classes)
        counted = getattr(self.table[of].recipe, "items", None) if of in self.table else None
        judges: tuple[str, ...] = ()
        if of == item.name and getattr(cfg, "labels", "") == "teacher":
            judges = cfg.teachers if hasattr(cfg, "teachers") else (cfg.teacher,)
        items, plan = counted(cfg, classes) if counted else cfg.ipc * classes, student.plan(own(item))
        size = source.images.shape[1:]
        line = plans.student_line(student.model, plan, items, size, classes, run, self.machine, judges)
        return line._replace(stage=f"student {student.model} ({plan.name})")


def data_of(item: Item) -> tuple[str, int]:
    """Which data an item is made of: name and side of the images, 0 if it is the data's."""
    return item.cfg.dataset, getattr(item.cfg, "size", 0)

"""Random selection: ipc real images of every class, drawn uniformly; with their hard labels, or with a teacher's.

The baseline of every card: what the same bytes buy without any distillation. With the labels of a method's students
(`--labels`, see `recipes/_labels.py`) it is what those labels buy without the method's images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from ddhub.artifact.folder import Artifact
from ddhub.errors import UsageError
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from recipes.run.draws import generator, select
from recipes.run.labels import LABELS, Labelling, label
from recipes.run.plan import Plan, Step, training_rate
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.teachers import teachers


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = field(default="cifar10", metadata={"help": "real data to draw from"})
    ipc: int = field(default=10, metadata={"help": "images per class"})
    seed: int = field(default=0, metadata={"help": "of the draw, the teacher and the stored views"})
    protocol: str = field(default="infer-static", metadata={"help": "recommended to students"})
    size: int = field(default=0, metadata={"help": "side of the images in pixels; 0 is the data set's own"})

    labels: str = field(default="hard", metadata={"help": f"one of {', '.join(LABELS)}; all but hard need a teacher"})
    teacher: str = field(default="resnet18", metadata={"help": "architecture"})
    teacher_epochs: int = field(default=200, metadata={"help": "on the real data; 0 is timm's pretrained weights"})
    teacher_protocol: str = field(default="squeeze", metadata={"help": "of the teacher"})
    temperature: float = field(default=20.0, metadata={"help": "of the students' loss: soft, static, teacher"})
    stored_temperature: float = field(default=1.0, metadata={"help": "of the stored numbers: dbr, top1"})
    student_epochs: int = field(default=0, metadata={"help": "of students and stored views; 0 is the protocol's"})
    student_batch: int = field(default=0, metadata={"help": "images a step of students; 0 is the protocol's"})

    def __post_init__(self) -> None:
        if self.ipc < 1:
            raise UsageError(f"ipc is {self.ipc}; use --ipc 1 or more")
        for name in ("teacher_epochs", "student_epochs", "student_batch"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        labelling(self)  # raises what is wrong with it


def labelling(cfg: Config) -> Labelling:
    """Which labels the images get."""
    same = ("seed", "temperature", "stored_temperature")
    return Labelling(word=cfg.labels, **{key: getattr(cfg, key) for key in same})


def students(cfg: Config) -> Protocol:
    """The protocol that is recommended to students; labels that are stored per view have its epochs."""
    own = {"epochs": cfg.student_epochs, "batch_size": cfg.student_batch}
    return protocol(cfg.protocol, **{key: value for key, value in own.items() if value})


PRESETS = read_presets(__file__, Config())
SMOKE = Config(dataset="cifar10-mini", ipc=2)


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """The draw reads labels only; a teacher and its labels take the rest (see `recipes.Plan`)."""
    side, items = source.images.shape[2], cfg.ipc * len(source.classes)
    size = items * (source.images[0].numel() + (1 if len(source.classes) <= 256 else 2))
    steps = [Step(stage="select", images=0)]
    if cfg.labels == "hard":
        return Plan(steps=steps, artifact_bytes=size)
    rate = partial(training_rate, cfg.teacher, source, run)
    steps.append(Step(stage=f"teacher-{cfg.teacher}", images=cfg.teacher_epochs * len(source.labels), rate=rate))
    more, stored = labelling(cfg).steps(items, len(source.classes), side, students(cfg).epochs, rate)
    return Plan(steps=[*steps, *more], artifact_bytes=size + stored)


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    drawn = {"seed": cfg.seed, "ipc": cfg.ipc}
    pick = partial(select, source, cfg.ipc, generator(cfg.seed, "select"))
    rows = run.stage("select", lambda: {"rows": pick()}, drawn)["rows"]
    images, classes = source.images[rows], source.labels[rows]
    nets: list[nn.Module] = []
    facts: list[dict[str, Any]] = []
    if cfg.labels != "hard":
        nets, facts = teachers(run, source, (cfg.teacher,), cfg.teacher_epochs, cfg.seed, protocol=cfg.teacher_protocol)
    shared = {**drawn, **{key: getattr(cfg, key) for key in ("teacher", "teacher_epochs", "teacher_protocol")}}
    labels, tensors = label(run, source, images, classes, nets, facts, labelling(cfg), students(cfg), shared)
    return run.write(
        images=images,
        image_labels=classes,
        tensors=tensors,
        decoder={"kind": "identity"},
        labels=labels,
        protocol=students(cfg),
        teachers=facts,
        citation="",
        deviations=[],
        paper=[],
    )

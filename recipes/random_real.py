"""Random selection: ipc real images of every class, drawn uniformly; with their hard labels, or with a teacher's.

The baseline of every card: what the same bytes buy without any distillation. With the labels of a method's students
(`--labels`, see `run/labels.py`) it is what those labels buy without the method's images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ddhub.artifact.folder import Artifact
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from recipes.run.draws import generator, select
from recipes.run.labels import LABELS, Labelling, label
from recipes.run.options import check_options, option
from recipes.run.plan import Plan, Step, net
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.teachers import teachers


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = option("cifar10", "real data to draw from")
    ipc: int = option(10, "images a class", low=1)
    seed: int = option(0, "seed of the draw, teacher and stored views")
    protocol: str = option("infer-static", "protocol recommended to students")
    size: int = option(0, "side of the images, px; 0: the data's", low=0)

    labels: str = option("hard", f"labels: {', '.join(LABELS)}", choices=LABELS)
    teacher: str = option("resnet18", "net of the teacher; hard labels need none")
    teacher_epochs: int = option(200, "epochs of the teacher; 0: timm's weights", low=0)
    teacher_protocol: str = option("squeeze", "protocol of the teacher")
    temperature: float = option(20.0, "temperature of the students' loss", over=0)
    stored_temperature: float = option(1.0, "temperature of stored dbr and top1 labels", over=0)
    student_epochs: int = option(0, "epochs of students; 0: the protocol's", low=0)
    student_batch: int = option(0, "batch size of students; 0: the protocol's", low=0)

    def __post_init__(self) -> None:
        check_options(self)
        labelling(self)  # raises UsageError for labels that cannot be


def labelling(cfg: Config) -> Labelling:
    """Which labels the images get."""
    same = ("seed", "temperature", "stored_temperature")
    return Labelling(word=cfg.labels, **{key: getattr(cfg, key) for key in same})


def students(cfg: Config) -> Protocol:
    """The protocol that is recommended to students; labels that are stored per view have its epochs."""
    changes = {"epochs": cfg.student_epochs, "batch_size": cfg.student_batch}
    return protocol(cfg.protocol, **{key: value for key, value in changes.items() if value})


PRESETS = read_presets(__file__, Config())
SMOKE = PRESETS.smoke


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """The draw reads labels only; a teacher and its labels take the rest (see `recipes.Plan`)."""
    items = cfg.ipc * len(source.classes)
    size = items * (source.images[0].numel() + (1 if len(source.classes) <= 256 else 2))
    steps = [Step(stage="select", images=0)]
    if cfg.labels == "hard":
        return Plan(steps=steps, artifact_bytes=size, images=items)
    teacher = net(cfg.teacher, source, run)
    steps.append(teacher.teacher(len(source.labels), cfg.teacher_epochs, cfg.teacher_protocol))
    more, label_bytes = labelling(cfg).steps(items, students(cfg).epochs, teacher)
    return Plan(steps=[*steps, *more], artifact_bytes=size + label_bytes, images=items, label_bytes=label_bytes)


def stored(cfg: Config, source: Source, run: Run) -> tuple[Tensor, Tensor]:
    """The images u8 and their classes."""
    rows = select(source, cfg.ipc, generator(cfg.seed, "select"))
    return source.images[rows], source.labels[rows]


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    drawn = {"seed": cfg.seed, "ipc": cfg.ipc}
    pick = partial(select, source, cfg.ipc, generator(cfg.seed, "select"))
    rows = run.stage("select", lambda: {"rows": pick()}, drawn)["rows"]
    classes = source.labels[rows]
    images = run.coded(source.images[rows], classes)
    nets: list[nn.Module] = []
    records: list[dict[str, Any]] = []
    if cfg.labels != "hard":
        nets, records = teachers(
            run, source, (cfg.teacher,), cfg.teacher_epochs, cfg.seed, protocol=cfg.teacher_protocol
        )
    shared = {**drawn, **{key: getattr(cfg, key) for key in ("teacher", "teacher_epochs", "teacher_protocol")}}
    labels, tensors = label(run, source, images, classes, nets, records, labelling(cfg), students(cfg), shared)
    return run.write(
        images=images,
        image_labels=classes,
        tensors=tensors,
        decoder={"kind": "identity"},
        labels=labels,
        protocol=students(cfg),
        teachers=records,
        citation="",
        deviations=[],
        paper=[],
    )

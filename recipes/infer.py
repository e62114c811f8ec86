"""INFER: a few real images a class, plus compensators that all classes share (arXiv 2408.06927, ICLR 2025).

    K = floor(ipc · C / (C + M)) natural sets P_k, each one real image of every class, in class order
    u[k, m] = argmin CE(θ_m(A(P_k + u)), classes) + β · (g · R_1 + Σ_{l≥2} R_l)       one for each set k and teacher m
    items   = clip(P_k + u[k, m]) and the natural images: K (M + 1) C
    labels  = mean logits of all M teachers on the finished items, one static vector each

R_l matches BatchNorm statistics of a set to the teacher's (`recipes/_batchnorm.py`); A is one circular shift of the
whole set by 0…shift pixels a step, on larger images behind one resized crop and flip. The K compensators of a teacher
are independent, so many are optimised in one batched run (`recipes/_inversion.py`): one forward and backward pass of
all their images, with statistics and draws kept per set.

Compensators are quantised to 8 bits before the labels are computed, so that a label belongs to the image a student
sees. An ipc charges a compensator as one image: K · (C + M) ≤ ipc · C.

The method's controls are settings of the same recipe: `--compensate false` (ipc random images a class with the same
labels), `--labels hard`, `--label-teachers 1` (labels of the first teacher alone). `--labels teacher` is INFER+Dyn:
the teachers label every mixed batch, and the epochs of a static protocol are divided by M + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub.artifact.folder import Artifact
from ddhub.data.decode import Compensate, Decoder, Identity, quantize
from ddhub.errors import UsageError
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from recipes.inversion.inversion import Inversion, draws, optimise
from recipes.run.draws import generator, select
from recipes.run.labels import static_logits
from recipes.run.papers import Paper, paper_rows
from recipes.run.plan import Plan, Step, training_rate
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.teachers import publish, teachers
from recipes.run.units import numbered, units

CITATION = """@inproceedings{zhang2025infer,
  title = {Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator},
  author = {Zhang, Xin and Du, Jiawei and Liu, Ping and Zhou, Joey Tianyi},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  note = {arXiv:2408.06927}
}"""
DEVIATIONS = [
    "Compensators are stored as 8-bit integers with one scale each, and labels are computed after that; the official "
    "code stores JPEG composites. The last iterate is kept, not the one before the last step.",
    "Teacher schedule from a sibling code base (200 epochs, SGD) for all architectures; CIFAR-10 uses beta = 1 and the "
    "standard deviations (.2023, .1994, .2010) everywhere. The paper's text and code do not settle these.",
    "Circular shifts are drawn for each compensator on its own, so that a batched run equals one-at-a-time runs.",
    "Accuracy is that of the last epoch; the official script highlights the best epoch on the test set.",
]
# Tables 1 and 2: (data set, ipc, labels) -> student -> (accuracy, sd), in percent.
PAPER: Paper = {
    ("cifar10", 10, "static"): {"convnet3-bn": (34.0, 0.4), "resnet18": (32.0, 0.5)},
    ("cifar10", 10, "teacher"): {"convnet3-bn": (30.1, 0.8), "resnet18": (30.7, 0.3)},
    ("cifar10", 50, "static"): {"convnet3-bn": (57.0, 0.2), "resnet18": (60.4, 1.6)},
    ("cifar10", 50, "teacher"): {"convnet3-bn": (52.4, 0.7), "resnet18": (60.7, 0.9)},
    ("cifar100", 10, "static"): {"convnet3-bn": (41.0, 0.4), "resnet18": (45.2, 0.04)},
    ("cifar100", 50, "static"): {"convnet3-bn": (53.8, 0.2), "resnet18": (62.8, 0.4)},
    ("cifar100", 100, "static"): {"convnet3-bn": (57.0, 0.02), "resnet18": (66.3, 0.1)},
    ("tiny-imagenet", 10, "static"): {"convnet3-bn": (22.8, 0.3), "resnet18": (32.0, 0.1)},
    ("tiny-imagenet", 50, "static"): {"convnet3-bn": (32.3, 0.3), "resnet18": (52.9, 0.1)},
    ("imagenet-1k", 10, "static"): {"resnet18": (28.7, 0.2)},
    ("imagenet-1k", 50, "static"): {"resnet18": (51.8, 0.2)},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = field(default="cifar10", metadata={"help": "real data to distil"})
    ipc: int = field(default=10, metadata={"help": "images per class; a compensator counts as one image"})
    seed: int = field(default=0, metadata={"help": "of natural images, teachers and shifts"})
    teachers: tuple[str, ...] = field(
        default=("resnet18", "mobilenetv2", "efficientnetb0", "shufflenet"),
        metadata={"help": "architectures, one compensator each for every natural set"},
    )
    teacher_epochs: int = field(default=200, metadata={"help": "epochs of each teacher on the real data"})
    steps: int = field(default=1000, metadata={"help": "Adam steps of a compensator (T)"})
    lr: float = field(default=0.25, metadata={"help": "Adam's rate at the start, cosine to zero"})
    beta: float = field(default=1.0, metadata={"help": "weight of the BatchNorm loss"})
    first_bn: float = field(default=10.0, metadata={"help": "factor of the first BatchNorm layer (g)"})
    shift: int = field(default=4, metadata={"help": "largest circular shift, pixels"})
    crop_scale: float = field(default=0.0, metadata={"help": "smallest area of a random resized crop; 0 is none"})
    flip: bool = field(default=False, metadata={"help": "random horizontal flips"})
    compensate: bool = field(default=True, metadata={"help": "false: ipc random images a class, no compensators"})
    labels: str = field(default="static", metadata={"help": "static, hard, or teacher (INFER+Dyn)"})
    label_teachers: int = field(default=0, metadata={"help": "only the first so many teachers label; 0 is all"})
    temperature: float = field(default=30.0, metadata={"help": "of the students' loss"})
    protocol: str = field(default="infer-static", metadata={"help": "recommended to students"})
    teacher_protocol: str = field(default="squeeze", metadata={"help": "of the teachers"})
    size: int = field(default=0, metadata={"help": "side of the images in pixels; 0 is the data set's own"})

    def __post_init__(self) -> None:
        if self.steps < 1 or self.teacher_epochs < 0 or not self.teachers:
            raise UsageError("INFER needs at least one teacher and one step, and no negative epochs")
        if self.labels not in ("static", "hard", "teacher"):
            raise UsageError(f"labels are {self.labels!r}; use static, hard or teacher")
        if not 0 <= self.label_teachers <= len(self.teachers):
            raise UsageError(f"label_teachers is {self.label_teachers}; there are {len(self.teachers)} teachers")


PRESETS = read_presets(__file__, Config())
SMOKE = Config(
    dataset="cifar10-mini",
    ipc=2,
    teachers=("convnet3-bn-w8", "convnet4-bn-w8"),
    teacher_epochs=1,
    steps=3,
    protocol="infer-static-50",
)


def natural_sets(ipc: int, classes: int, nets: int) -> int:
    """`K = floor(ipc · C / (C + M))`: sets of natural images that leave room for their compensators.

    Raises:
        UsageError: K = 0.
    """
    count = ipc * classes // (classes + nets)
    if count == 0:
        least = -(-(classes + nets) // classes)
        raise UsageError(
            f"ipc {ipc} is too small for INFER with {nets} teachers and {classes} classes (K = 0 natural sets); "
            f"use --ipc {least} or more"
        )
    return count


def inversion(cfg: Config) -> Inversion:
    """How a compensator is optimised (see `recipes/_inversion.py`)."""
    same = ("steps", "lr", "beta", "first_bn", "crop_scale", "flip")
    return Inversion(ahead=cfg.shift, **{key: getattr(cfg, key) for key in same})


def compensators(net: nn.Module, natural: Tensor, cfg: Config, *, nets: int, sets: list[int], precision: str) -> Tensor:
    """Optimise the compensators of one teacher for the given natural sets together: `[K, channels, H, W]`.

    They start at zero and are neither constrained nor clipped.

    Args:
        net: the teacher, frozen, in eval mode.
        natural: normalised natural sets `[K, C, channels, H, W]`, one image of every class in class order.
        nets: index of the teacher, which seeds its draws.
        sets: index of each natural set, which seeds its draws.
        precision: bf16 or fp32.

    Raises:
        TrainingError: a compensator that is not a number.
    """
    how, names = inversion(cfg), [(cfg.seed, nets, k) for k in sets]
    height, width = natural.shape[-2:]
    return optimise(
        net,
        torch.zeros_like(natural[:, 0]),
        lambda u: natural + u[:, None],
        torch.arange(natural.shape[1], device=natural.device),
        how,
        draws(how, names, size=(height, width), device=natural.device),
        precision=precision,
    )


def compensator_units(cfg: Config, k: int, pixels: int) -> list[tuple[str, int, range]]:
    """(stage, teacher, natural sets) of every unit of work; `pixels` are those of a natural set, C · H · W."""
    parts = units(k, pixels)
    return [
        (stage, m, part)
        for m, name in enumerate(cfg.teachers)
        for stage, part in zip(numbered(f"compensators-{name}", len(parts)), parts, strict=True)
    ]


def _in_unit_scale(work: Callable[[], Tensor], std: Tensor) -> dict[str, Tensor]:
    return {"u": work() * std}


def students(cfg: Config) -> Protocol:
    """The recommended protocol; with teacher labels, a static one's epochs are divided by M + 1 (INFER+Dyn)."""
    plan = protocol(cfg.protocol)
    if cfg.labels == "teacher" and "static" in plan.name:
        return protocol(cfg.protocol, epochs=max(1, plan.epochs // (len(cfg.teachers) + 1)))
    return plan


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Stages with their image passes and the bytes of the artifact (see `recipes.Plan`)."""
    classes, nets = len(source.classes), len(cfg.teachers)
    k = natural_sets(cfg.ipc, classes, nets) if cfg.compensate else cfg.ipc
    pixels, items = source.images[0].numel(), k * classes * (nets + 1 if cfg.compensate else 1)
    steps = [Step(stage="select", images=0)]
    for name in cfg.teachers:
        rate = partial(training_rate, name, source, run)
        steps.append(Step(stage=f"teacher-{name}", images=cfg.teacher_epochs * len(source.labels), rate=rate))
    size = k * classes * (pixels + 1)
    if cfg.compensate:
        size += nets * k * (pixels + 4)
        height, width = source.images.shape[2:]
        for stage, m, part in compensator_units(cfg, k, classes * height * width):
            steps.append(Step(stage=stage, images=len(part) * classes * cfg.steps, rate=steps[1 + m].rate))
    if cfg.labels == "static":
        size += items * classes * 2
        steps.append(Step(stage="labels", images=items * (cfg.label_teachers or nets), rate=steps[1].rate))
    return Plan(steps=steps, artifact_bytes=size)


def _compensators(cfg: Config, run: Run, nets: list[nn.Module], natural: Tensor, std: Tensor) -> Tensor:
    """The compensators of all teachers in unit scale, `[M, K, channels, H, W]`, one stage a unit of work."""
    k, classes, _, height, width = natural.shape
    shared = ["seed", "steps", "lr", "beta", "first_bn", "shift", "teacher_epochs"]
    # Younger settings enter only where they are not at their defaults, so that older stages are still found.
    shared += [key for key in ("crop_scale", "flip", "teacher_protocol") if getattr(cfg, key) != getattr(Config, key)]
    work = []
    for stage, m, part in compensator_units(cfg, k, classes * height * width):
        settings = {key: getattr(cfg, key) for key in shared}
        settings |= {"teacher": cfg.teachers[m], "net": m, "sets": k if len(part) == k else [part.start, part.stop]}
        own = partial(compensators, nets[m], natural[part.start : part.stop], cfg, nets=m, sets=list(part))
        work.append((stage, partial(_in_unit_scale, partial(own, precision=run.precision), std), settings))
    return torch.cat([unit["u"] for unit in run.stages(work)]).unflatten(0, (len(nets), k))


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    classes = len(source.classes)
    k = natural_sets(cfg.ipc, classes, len(cfg.teachers)) if cfg.compensate else cfg.ipc
    rows = run.stage("select", lambda: {"rows": select(source, k, generator(cfg.seed, "select"))})["rows"]
    images = source.images[rows]
    nets, facts = teachers(run, source, cfg.teachers, cfg.teacher_epochs, cfg.seed, protocol=cfg.teacher_protocol)
    judges = nets[: cfg.label_teachers or len(nets)]

    shape = (-1, 1, 1)
    mean = torch.tensor(source.mean, device=run.device).view(shape)
    std = torch.tensor(source.std, device=run.device).view(shape)
    tensors: dict[str, Tensor] = {}
    decoder: Decoder = Identity(images, [(0, 1)] * images.shape[1])
    if cfg.compensate:
        natural = (images.to(run.device).float() / 255 - mean) / std
        natural = natural.unflatten(0, (classes, k)).transpose(0, 1)  # [K, C, channels, H, W]
        stored, scale = quantize(_compensators(cfg, run, nets, natural, std))
        tensors = {"decoder.compensators": stored, "decoder.scale": scale}
        decoder = Compensate(images, stored, scale)

    def label() -> dict[str, Tensor]:
        return {"logits": static_logits(judges, decoder.to(run.device), mean, std)}

    labels: dict[str, Any] = {"kind": "hard"}
    if cfg.labels == "static":
        labels = {"kind": "soft", "temperature": cfg.temperature}
        tensors["labels.logits"] = run.stage("labels", label)["logits"]
    elif cfg.labels == "teacher":
        found = publish(run, source, judges, facts[: len(judges)])
        labels = {"kind": "teacher", "temperature": cfg.temperature, "teachers": found}
    return run.write(
        images=images,
        image_labels=source.labels[rows],
        tensors=tensors,
        decoder={"kind": decoder.kind},
        labels=labels,
        protocol=students(cfg),
        teachers=facts,
        citation=CITATION,
        deviations=DEVIATIONS,
        paper=paper_rows(PAPER, cfg, "INFER") if cfg.compensate else [],
    )

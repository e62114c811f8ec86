"""INFER: a few real images a class, plus compensators that all classes share (arXiv 2408.06927, ICLR 2025).

    K = floor(ipc · C / (C + M)) natural sets P_k, each one real image of every class, in class order
    u[k, m] = argmin CE(θ_m(A(P_k + u)), classes) + β · (g · R_1 + Σ_{l≥2} R_l)       one for each set k and teacher m
    items   = clip(P_k + u[k, m]) and the natural images: K (M + 1) C
    labels  = mean logits of all M teachers on the finished items, one static vector each

R_l matches BatchNorm statistics of a set to the teacher's (`inversion/batchnorm.py`); A is one circular shift of the
whole set by 0…shift pixels a step, on larger images behind one resized crop and flip. The K compensators of a teacher
are independent, so many are optimised in one batched run (`inversion/inversion.py`): one forward and backward pass of
all their images, with statistics and draws kept per set.

Compensators are quantised to 8 bits before the labels are computed, so that a label belongs to the image a student
sees. An ipc charges a compensator as one image: K · (C + M) ≤ ipc · C.

The method's controls are settings of the same recipe: `--compensate false` (ipc random images a class with the same
labels), `--labels hard`, `--label-teachers 1` (labels of the first teacher alone). `--labels teacher` is INFER+Dyn:
the teachers label every mixed batch, and the epochs of a static protocol are divided by M + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub.artifact.folder import Artifact
from ddhub.data.decode import Compensate, Decoder, Identity, quantize
from ddhub.data.transfer import sent
from ddhub.errors import UsageError
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from recipes.inversion.inversion import Inversion, draws, optimise
from recipes.run.draws import generator, select
from recipes.run.labels import static_logits
from recipes.run.options import check_options, option
from recipes.run.papers import Paper, paper_rows
from recipes.run.plan import Plan, Step, joined, net
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
    dataset: str = option("cifar10", "real data to distil")
    ipc: int = option(10, "images a class, a compensator counts as one", low=1)
    seed: int = option(0, "seed of natural images, teachers and shifts")
    teachers: tuple[str, ...] = option(
        ("resnet18", "mobilenetv2", "efficientnetb0", "shufflenet"),
        "nets, with a compensator each for every set of images",
    )
    teacher_epochs: int = option(200, "epochs of each teacher; 0: timm's weights", low=0)
    steps: int = option(1000, "Adam steps of a compensator (T)", low=1)
    lr: float = option(0.25, "Adam's learning rate, cosine to zero", over=0)
    beta: float = option(1.0, "weight of the BatchNorm loss", low=0)
    first_bn: float = option(10.0, "factor of the first BatchNorm layer (g)", low=0)
    shift: int = option(4, "largest circular shift in pixels", low=0)
    crop_scale: float = option(0.0, "smallest share of random crops; 0: none", low=0, high=1)
    flip: bool = option(False, "random horizontal flips")
    compensate: bool = option(True, "false: random images, no compensators")
    labels: str = option("static", "labels: static, hard, teacher (INFER+Dyn)", choices=("static", "hard", "teacher"))
    label_teachers: int = option(0, "number of teachers that label; 0: all", low=0)
    temperature: float = option(30.0, "temperature of the students' loss", over=0)
    protocol: str = option("infer-static", "protocol recommended to students")
    teacher_protocol: str = option("squeeze", "protocol of the teachers")
    size: int = option(0, "side of the images, px; 0: the data's", low=0)

    def __post_init__(self) -> None:
        check_options(self)
        if not self.teachers:
            raise UsageError("INFER needs a teacher; name one with --teachers")
        if self.label_teachers > len(self.teachers):
            raise UsageError(f"label_teachers is {self.label_teachers}; there are {len(self.teachers)} teachers")


PRESETS = read_presets(__file__, Config())
SMOKE = PRESETS.smoke


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
    """How a compensator is optimised (see `inversion/inversion.py`)."""
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
    settings, names = inversion(cfg), [(cfg.seed, nets, k) for k in sets]
    height, width = natural.shape[-2:]
    return optimise(
        net,
        torch.zeros_like(natural[:, 0]),
        lambda u: natural + u[:, None],
        torch.arange(natural.shape[1], device=natural.device),
        settings,
        draws(settings, names, size=(height, width), device=natural.device),
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


def items(cfg: Config, classes: int) -> int:
    """Items that a student sees in an epoch: natural images, and each of them with the compensators of its set."""
    nets = len(cfg.teachers)
    return natural_sets(cfg.ipc, classes, nets) * classes * (nets + 1) if cfg.compensate else cfg.ipc * classes


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Stages with their image passes and the bytes of the artifact (see `recipes.Plan`)."""
    classes, nets = len(source.classes), [net(name, source, run) for name in cfg.teachers]
    k = natural_sets(cfg.ipc, classes, len(nets)) if cfg.compensate else cfg.ipc
    pixels, shown = source.images[0].numel(), items(cfg, classes)
    steps = [Step(stage="select", images=0)]
    steps += [each.teacher(len(source.labels), cfg.teacher_epochs, cfg.teacher_protocol) for each in nets]
    size = k * classes * (pixels + 1)
    if cfg.compensate:
        size += len(nets) * k * (pixels + 4)
        height, width = source.images.shape[2:]
        for stage, m, part in compensator_units(cfg, k, classes * height * width):
            steps.append(nets[m].inverted(stage, len(part) * classes, cfg.steps))
    label_bytes = shown * classes * 2 if cfg.labels == "static" else 0
    if label_bytes:
        judges = nets[: cfg.label_teachers or len(nets)]
        steps.append(joined("labels", [each.looked("labels", shown) for each in judges]))
    return Plan(steps=steps, artifact_bytes=size + label_bytes, images=k * classes, label_bytes=label_bytes)


def _compensators(cfg: Config, run: Run, nets: list[nn.Module], natural: Tensor, std: Tensor) -> Tensor:
    """The compensators of all teachers in unit scale, `[M, K, channels, H, W]`, one stage a unit of work."""
    k, classes, _, height, width = natural.shape
    shared = ["seed", "steps", "lr", "beta", "first_bn", "shift", "teacher_epochs"]
    # Younger settings enter only where they are not at their defaults, so that older stages are still found.
    shared += [key for key in ("crop_scale", "flip", "teacher_protocol") if getattr(cfg, key) != getattr(Config, key)]
    work = []
    for stage, m, part in compensator_units(cfg, k, classes * height * width):
        settings = {**{key: getattr(cfg, key) for key in shared}, **run.seen}
        settings |= {"teacher": cfg.teachers[m], "net": m, "sets": k if len(part) == k else [part.start, part.stop]}
        work_of_part = partial(compensators, nets[m], natural[part.start : part.stop], cfg, nets=m, sets=list(part))
        work.append((stage, partial(_in_unit_scale, partial(work_of_part, precision=run.precision), std), settings))
    return torch.cat([unit["u"] for unit in run.stages(work)]).unflatten(0, (len(nets), k))


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    classes = len(source.classes)
    k = natural_sets(cfg.ipc, classes, len(cfg.teachers)) if cfg.compensate else cfg.ipc
    rows = run.stage("select", lambda: {"rows": select(source, k, generator(cfg.seed, "select"))})["rows"]
    images = run.coded(source.images[rows], source.labels[rows])
    nets, records = teachers(run, source, cfg.teachers, cfg.teacher_epochs, cfg.seed, protocol=cfg.teacher_protocol)
    judges = nets[: cfg.label_teachers or len(nets)]

    shape = (-1, 1, 1)
    mean = torch.tensor(source.mean, device=run.device).view(shape)
    std = torch.tensor(source.std, device=run.device).view(shape)
    tensors: dict[str, Tensor] = {}
    decoder: Decoder = Identity(images, [(0, 1)] * images.shape[1])
    if cfg.compensate:
        natural = (sent(images, run.device).float() / 255 - mean) / std
        natural = natural.unflatten(0, (classes, k)).transpose(0, 1)  # [K, C, channels, H, W]
        stored, scale = quantize(_compensators(cfg, run, nets, natural, std))
        tensors = {"decoder.compensators": stored, "decoder.scale": scale}
        decoder = Compensate(images, stored, scale)

    def label() -> dict[str, Tensor]:
        return {"logits": static_logits(judges, decoder.to(run.device), mean, std)}

    labels: dict[str, Any] = {"kind": "hard"}
    if cfg.labels == "static":
        labels = {"kind": "soft", "temperature": cfg.temperature}
        tensors["labels.logits"] = run.stage("labels", label, {**asdict(cfg), **run.seen})["logits"]
    elif cfg.labels == "teacher":
        published = publish(run, source, judges, records[: len(judges)])
        labels = {"kind": "teacher", "temperature": cfg.temperature, "teachers": published}
    return run.write(
        images=images,
        image_labels=source.labels[rows],
        tensors=tensors,
        decoder={"kind": decoder.kind},
        labels=labels,
        protocol=students(cfg),
        teachers=records,
        citation=CITATION,
        deviations=DEVIATIONS,
        paper=paper_rows(PAPER, cfg, "INFER") if cfg.compensate else [],
    )

"""SRe2L: images recovered from a teacher's BatchNorm statistics and labelled by it (arXiv 2306.13092, NeurIPS 2023).

    squeeze    a teacher θ is trained on the real images (or, for ImageNet-1k, downloaded)
    recover    x[k, c] ~ N(0, 1) for image k of class c; argmin over x of CE(θ(A(x)), c) + α · (g · R_1 + Σ_{l≥2} R_l),
               x clamped to the range of pixels after every step; the last iterate, rounded to 8 bits
    relabel    teacher: θ labels every batch that the student sees; static (SRe2L*): its logits on each finished image

A batch is image k of all classes, or of up to `batch` of them; R_l matches its statistics to the teacher's
(`inversion/batchnorm.py`), A is one resized crop, flip and circular shift of the batch a step. Batches are independent
of one another, so several are optimised at a time (`inversion/inversion.py`).

Labels by the teacher need no bytes but the teacher's: it is published as an artifact beside this one. The paper stores
a label for every view instead (FKD), 2C + 25 bytes an image and epoch (logits f16, crop, flip, partner): the log and
the card say what that would take.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub.artifact.folder import Artifact
from ddhub.data.decode import Identity
from ddhub.data.transfer import sent
from ddhub.protocols.named import protocol
from ddhub.sources.source import Source
from recipes.inversion.inversion import Inversion, draws, optimise
from recipes.run.draws import generator, quantised
from recipes.run.labels import static_logits
from recipes.run.options import check_options, option
from recipes.run.papers import Paper, paper_rows
from recipes.run.plan import Plan, net
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.straight_through import OFF, InLoop, codec_every, in_loop
from recipes.run.teachers import publish, teachers
from recipes.run.units import batches, numbered

log = logging.getLogger(__name__)

CITATION = """@inproceedings{yin2023squeeze,
  title = {Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective},
  author = {Yin, Zeyuan and Xing, Eric and Shen, Zhiqiang},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  note = {arXiv:2306.13092}
}"""
DEVIATIONS = [
    "Images are rounded to 8 bits and stored losslessly, and labels are computed after that; the official code "
    "truncates and stores JPEG.",
    "CIFAR-10 has no official script: it uses CIFAR-100's values. Each data set uses its own mean and standard "
    "deviation; the official CIFAR-100 code uses CIFAR-10's.",
    "Under sre2l-cifar the teacher labels in eval mode; the official CIFAR code leaves it in training mode "
    "(protocol sre2l-cifar-batch-stats).",
    "Noise, crops, flips and shifts are drawn for each batch on its own, so that batches can be recovered together.",
    "Accuracy is that of the last epoch.",
]
# (data set, ipc, labels) -> student -> (accuracy, sd), in percent. Tables 1 and 2 of INFER (arXiv 2408.06927), which
# repeat SRe2L's own numbers and add those of static labels; Tiny-ImageNet with ipc 100: SRe2L's log, without an sd.
PAPER: Paper = {
    ("cifar10", 10, "teacher"): {"resnet18": (27.2, 0.5)},
    ("cifar10", 50, "teacher"): {"resnet18": (47.5, 0.6)},
    ("cifar100", 10, "teacher"): {"resnet18": (31.6, 0.2)},
    ("cifar100", 50, "teacher"): {"resnet18": (49.5, 0.3)},
    ("tiny-imagenet", 50, "teacher"): {"resnet18": (41.1, 0.4)},
    ("tiny-imagenet", 100, "teacher"): {"resnet18": (49.7, None)},
    ("imagenet-1k", 10, "teacher"): {"resnet18": (21.3, 0.6)},
    ("imagenet-1k", 50, "teacher"): {"resnet18": (46.8, 0.2)},
    ("imagenet-1k", 10, "static"): {"resnet18": (9.8, 0.1)},
    ("imagenet-1k", 50, "static"): {"resnet18": (17.3, 0.5)},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = option("cifar10", "real data to distil")
    ipc: int = option(10, "images a class", low=1)
    seed: int = option(0, "seed of the teacher, the noise and the draws")
    teacher: str = option("resnet18", "net of the teacher, one with BatchNorm")
    teacher_epochs: int = option(200, "epochs of the teacher; 0: timm's weights", low=0)
    teacher_protocol: str = option("squeeze", "protocol of the teacher")
    steps: int = option(1000, "Adam steps of an image (T)", low=1)
    lr: float = option(0.25, "Adam's learning rate, cosine to zero", over=0)
    beta: float = option(0.01, "weight of the BatchNorm loss (alpha)", low=0)
    first_bn: float = option(10.0, "factor of the first BatchNorm layer (g)", low=0)
    shift: int = option(4, "largest circular shift down and right, px", low=0)
    shift_back: int = option(0, "largest circular shift up and left, px", low=0)
    crop_scale: float = option(0.0, "smallest share of random crops; 0: none", low=0, high=1)
    flip: bool = option(False, "random horizontal flips")
    tv: float = option(0.0, "weight of the total variation", low=0)
    l2: float = option(0.0, "weight of the images' norm", low=0)
    batch: int = option(100, "classes that share BatchNorm statistics", low=1)
    codec_every: int = codec_every()
    labels: str = option("teacher", "labels: teacher (for every batch) or static", choices=("teacher", "static"))
    temperature: float = option(30.0, "temperature of the students' loss", over=0)
    protocol: str = option("sre2l-cifar", "protocol recommended to students")
    size: int = option(0, "side of the images, px; 0: the data's", low=0)

    def __post_init__(self) -> None:
        check_options(self)


PRESETS = read_presets(__file__, Config())
SMOKE = PRESETS.smoke


def label_bytes(images: int, classes: int, epochs: int) -> tuple[int, int]:
    """Bytes of labels stored for every view (FKD): of the f16 logits alone, and with crop, flip and partner.

    `images · E · 2C` and `images · E · (2C + 25)`: 16 bytes of crop, 1 of flip and 8 of partner an image and epoch.
    """
    return images * epochs * 2 * classes, images * epochs * (2 * classes + 25)


def recover(
    net: nn.Module,
    cfg: Config,
    labels: range,
    sets: range,
    mean: Tensor,
    std: Tensor,
    *,
    size: int,
    precision: str,
    loop: InLoop = OFF,
) -> dict[str, Tensor]:
    """`images` of some classes, u8 `[K, classes, channels, size, size]`, recovered from noise.

    Args:
        net: the teacher, frozen, in eval mode.
        cfg: steps, rate, weights and augmentation.
        labels: classes of a batch.
        sets: which images k of a class; their batches are optimised together.
        mean, std: of the teacher's images, `[channels, 1, 1]`, on its device.
        size: side of the images, pixels.
        precision: bf16 or fp32.
        loop: a codec in the loop.

    Raises:
        TrainingError: an image that is not a number.
        UsageError: a teacher without BatchNorm layers.
    """
    same = ("steps", "lr", "beta", "first_bn", "crop_scale", "flip", "tv", "l2")
    settings = Inversion(ahead=cfg.shift, back=cfg.shift_back, **{key: getattr(cfg, key) for key in same})
    shape = (len(labels), len(mean), size, size)
    noise = [torch.randn(shape, generator=generator(cfg.seed, "noise", labels.start, k)) for k in sets]
    names = [(cfg.seed, labels.start, k) for k in sets]
    x = optimise(
        net,
        sent(torch.stack(noise).to(mean.dtype), mean.device),
        lambda x: x,
        torch.arange(labels.start, labels.stop, device=mean.device),
        settings,
        draws(settings, names, size=(size, size), device=mean.device),
        precision=precision,
        bounds=((0 - mean) / std, (1 - mean) / std),
        loop=loop,
    )
    return {"images": quantised(x, mean, std)}


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Stages with their image passes and the bytes of the artifact (see `recipes.Plan`)."""
    classes, images = len(source.classes), cfg.ipc * len(source.classes)
    teacher = net(cfg.teacher, source, run)
    steps = [teacher.teacher(len(source.labels), cfg.teacher_epochs, cfg.teacher_protocol)]
    work = batches(cfg.ipc, classes, cfg.batch, source.images.shape[2] ** 2)
    for stage, (labels, sets) in zip(numbered("recover", len(work)), work, strict=True):
        steps.append(teacher.inverted(stage, len(labels) * len(sets), cfg.steps))
    size = images * (source.images[0].numel() + (1 if classes <= 256 else 2))
    label_bytes = images * classes * 2 if cfg.labels == "static" else 0
    if label_bytes:
        steps.append(teacher.looked("labels", images))
    return Plan(steps=steps, artifact_bytes=size + label_bytes, images=images, label_bytes=label_bytes)


def codec(cfg: Config, run: Run, source: Source) -> InLoop:
    """The codec in the loop. UsageError."""
    work = batches(cfg.ipc, len(source.classes), cfg.batch, source.images.shape[2] ** 2)
    return in_loop(cfg, run, source, units=[sets for _, sets in work])


def _recovered(
    cfg: Config, run: Run, net: nn.Module, source: Source, mean: Tensor, std: Tensor, loop: InLoop
) -> Tensor:
    """All images, u8 `[C · ipc, channels, H, W]`, class by class, one stage a unit of work."""
    classes, size = len(source.classes), source.images.shape[2]
    # what no image depends on, or only if it is on
    other = ("dataset", "ipc", "batch", "labels", "temperature", "protocol", "size", "codec_every")
    shared = {key: value for key, value in vars(cfg).items() if key not in other} | loop.settings
    work = batches(cfg.ipc, classes, cfg.batch, size**2)
    todo = []
    for stage, (labels, sets) in zip(numbered("recover", len(work)), work, strict=True):
        make = partial(recover, net, cfg, labels, sets, mean, std, size=size, precision=run.precision, loop=loop)
        settings = {**shared, "classes": [labels.start, labels.stop], "sets": [sets.start, sets.stop]}
        todo.append((stage, make, settings))
    images = torch.empty(classes, cfg.ipc, len(mean), size, size, dtype=torch.uint8)
    for (labels, sets), unit in zip(work, run.stages(todo), strict=True):
        images[labels.start : labels.stop, sets.start : sets.stop] = unit["images"].transpose(0, 1)
    return images.flatten(0, 1)


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    classes, students, loop = len(source.classes), protocol(cfg.protocol), codec(cfg, run, source)
    (net,), records = teachers(run, source, (cfg.teacher,), cfg.teacher_epochs, cfg.seed, protocol=cfg.teacher_protocol)
    mean, std = (torch.tensor(x, device=run.device).view(-1, 1, 1) for x in (source.mean, source.std))
    image_labels = torch.arange(classes).repeat_interleave(cfg.ipc)
    images = run.coded(_recovered(cfg, run, net, source, mean, std, loop), image_labels)

    logits, whole = label_bytes(len(images), classes, students.epochs)
    kept = {"teacher": "The teacher labels every batch, and no label", "static": "One label an image (SRe2L*)"}
    stored = (
        f"{kept[cfg.labels]} is stored. Labels stored for every view (FKD) of the {students.epochs} epochs of "
        f"{students.name} would take {whole:,} bytes, {logits:,} of them logits."
    )
    log.info(stored)
    tensors: dict[str, Tensor] = {}
    labels: dict[str, Any] = {"kind": "soft", "temperature": cfg.temperature}
    if cfg.labels == "static":
        decoder = Identity(images, [(0, 1)] * images.shape[1]).to(run.device)
        work = partial(static_logits, [net], decoder, mean, std)
        known = {key: value for key, value in asdict(cfg).items() if key != "codec_every"}  # the pixels tell
        stored_labels = run.stage("labels", lambda: {"logits": work()}, {**known, **run.seen})
        tensors["labels.logits"] = stored_labels["logits"]
    else:
        published = publish(run, source, [net], records)
        labels = {"kind": "teacher", "temperature": cfg.temperature, "teachers": published}
    return run.write(
        images=images,
        image_labels=image_labels,
        tensors=tensors,
        decoder={"kind": "identity"},
        labels=labels,
        protocol=students,
        teachers=records,
        citation=CITATION,
        deviations=[*DEVIATIONS, *loop.deviations, stored],
        paper=paper_rows(PAPER, cfg, "SRe2L"),
    )

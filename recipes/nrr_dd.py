"""NRR-DD: critical patches of real images, whose backgrounds a teacher refines (arXiv 2503.18267, CVPR 2025); and RDED.

    discover  of `mipc` images a class, random squares; by CAM the most critical of each image; of these the f² · ipc
              that the teacher is least sure of, f² of them on every image             `recipes/_patches.py`, `_cam.py`
    refine    x ← clip(x - M ⊙ η · Adam(CE + α · L_bn)), M = max(0, ε - CAM): critical pixels stay as they are, bit by
              bit; a batch is image j of all classes, or of up to `batch` of them                  `recipes/_refine.py`
    labels    two numbers a view, the cross-entropies between the teacher's answer on the mixed view and the view's two
              classes (`dbr`), or any other of `recipes/_labels.py`

RDED (arXiv 2312.03526, CVPR 2024) is `--cam-filter false --confidence highest --refine none --labels teacher`: of every
image the patch that the teacher is surest of. The presets `rded-...` say so. Controls: `cidd-only` (no refinement),
`all-pixels` and `inverted-mask` (other pixels are refined), `rded-init` (RDED's patches, refined).

Images are rounded to 8 bits before the labels are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub import models
from ddhub.artifact.folder import Artifact
from ddhub.errors import UsageError, unknown
from ddhub.measures.cam import cam
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from recipes.inversion.inversion import Inversion, answers
from recipes.patches.discovery import CONFIDENCES, Search, discover, discovery_units
from recipes.patches.patches import RATIOS, mosaics
from recipes.patches.refine import PARTS, Masking, refine
from recipes.run import papers
from recipes.run.draws import generator, scale, select
from recipes.run.labels import LABELS, Labelling, label
from recipes.run.papers import paper_rows
from recipes.run.plan import Plan, Step, training_rate
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.teachers import teachers
from recipes.run.units import batches, numbered

log = logging.getLogger(__name__)

DEVIATIONS = [
    "Written from incomplete sources: the paper's equations are known from a digest, its epsilon, weights, rates, "
    "steps, CAM ratio, students' protocol and label loss are not. What stands for them is an option of the recipe.",
    "C is the CAM of the true class (ReLU, bilinear, 0 to 1 for each image, for each cell of a mosaic's own), computed "
    "once on the first images; the CAM ratio is its mean in the crop. Squares, padding and mosaics are RDED's.",
    "M multiplies the step of Adam, not the gradient, which Adam would scale up again; the paper writes plain gradient "
    "descent (--optimizer sgd).",
    "L_bn, augmentation, rates and steps are those of SRe2L and FADRM for the same data.",
    "Both distances of dbr are taken on the mixed view, without a temperature; their loss is L1 of weight 1 beside the "
    "mixed cross-entropy. CutMix draws a box and a partner for each item, so that no batch has to be repeated.",
    "Images are rounded to 8 bits and stored losslessly; RDED truncates and stores JPEG.",
    "Accuracy is that of the last epoch; RDED reports the best on the test set.",
]
DEVIATIONS_RDED = [
    "Images are rounded to 8 bits, before they are scored too, and stored losslessly; the official code truncates and "
    "stores JPEG.",
    "Each data set uses its own mean and standard deviation; the official code uses ImageNet's.",
    "Accuracy is that of the last epoch; the official code reports the best on the test set.",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = field(default="cifar10", metadata={"help": "real data to distil"})
    ipc: int = field(default=10, metadata={"help": "images per class"})
    seed: int = field(default=0, metadata={"help": "of the teacher, the crops, the augmentation and the stored views"})
    size: int = field(default=0, metadata={"help": "side of the images in pixels; 0 is the data set's own"})
    teacher: str = field(default="resnet18", metadata={"help": "architecture, with BatchNorm"})
    teacher_epochs: int = field(default=200, metadata={"help": "on the real data; 0 is timm's pretrained weights"})
    teacher_protocol: str = field(default="squeeze", metadata={"help": "of the teacher"})

    mipc: int = field(default=300, metadata={"help": "real images a class that are looked at"})
    crops: int = field(default=5, metadata={"help": "random squares of each"})
    crop_area: float = field(default=0.08, metadata={"help": "smallest area of a square, as a share"})
    top: int = field(default=1, metadata={"help": "squares of an image that are kept (the paper's t)"})
    factor: int = field(default=1, metadata={"help": "patches a side of a mosaic (f, the paper's beta = f * f)"})
    cam_filter: bool = field(default=True, metadata={"help": "false: squares of an image are kept by confidence"})
    cam_ratio: str = field(default="density", metadata={"help": f"of a square: {', '.join(RATIOS)}"})
    confidence: str = field(default="lowest", metadata={"help": f"of the patches: {', '.join(CONFIDENCES)}"})
    guard: str = field(default="none", metadata={"help": "drop patches below the median CAM ratio, or not in the top5"})

    refine: str = field(default="background", metadata={"help": f"what changes: none, {', '.join(PARTS)}"})
    epsilon: float = field(default=0.5, metadata={"help": "CAM from which pixels are critical, in (0, 1]"})
    mask: str = field(default="soft", metadata={"help": "soft: max(0, epsilon - CAM); binary: CAM < epsilon"})
    cam_norm: str = field(default="cell", metadata={"help": "CAM is 0 to 1 for each cell of a mosaic, or image"})
    refresh_every: int = field(default=0, metadata={"help": "steps after which the mask is made again; 0 is never"})
    optimizer: str = field(default="adam", metadata={"help": "adam or sgd"})
    steps: int = field(default=1000, metadata={"help": "of an image"})
    lr: float = field(default=0.25, metadata={"help": "rate at the start, before the mask, cosine to zero (eta)"})
    alpha_bn: float = field(default=0.01, metadata={"help": "weight of the BatchNorm loss"})
    first_bn: float = field(default=10.0, metadata={"help": "factor of the first BatchNorm layer"})
    shift: int = field(default=4, metadata={"help": "largest circular shift down and right, pixels"})
    shift_back: int = field(default=0, metadata={"help": "largest circular shift up and left, pixels"})
    crop_scale: float = field(default=0.0, metadata={"help": "smallest area of a random resized crop; 0 is none"})
    flip: bool = field(default=False, metadata={"help": "random horizontal flips"})
    batch: int = field(default=100, metadata={"help": "most classes whose images share BatchNorm statistics"})

    labels: str = field(default="dbr", metadata={"help": f"one of {', '.join(LABELS)}"})
    temperature: float = field(default=20.0, metadata={"help": "of the students' loss: soft, static, teacher"})
    stored_temperature: float = field(default=1.0, metadata={"help": "of the stored numbers: dbr, top1 (tau)"})
    dbr_weight: float = field(default=1.0, metadata={"help": "of the distances in the students' loss"})
    dbr_distance: str = field(default="l1", metadata={"help": "l1, smooth_l1 or squared"})
    dbr_reading: str = field(default="mix", metadata={"help": "mix, view (d_org unmixed) or label (d_aug mixed)"})
    dbr_loss: str = field(default="distance", metadata={"help": "distance, or kd to a label rebuilt from both"})
    protocol: str = field(default="nrr-dd", metadata={"help": "recommended to students"})
    student_epochs: int = field(default=0, metadata={"help": "of students and stored views; 0 is the protocol's"})
    student_batch: int = field(default=0, metadata={"help": "images a step of students; 0 is the protocol's"})

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        least = dict.fromkeys(("ipc", "mipc", "steps", "batch"), 1)
        least |= dict.fromkeys(("teacher_epochs", "shift", "shift_back", "student_epochs", "student_batch"), 0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {low} or more")
        look(self), masking(self), labelling(self)  # raise what is wrong with them
        there, needed = self.top * self.mipc, self.factor**2 * self.ipc
        if there < needed:
            raise UsageError(
                f"{self.mipc} images with {self.top} squares each are {there} patches a class, {needed} are needed; "
                "raise --mipc or --top, or lower --ipc"
            )


_CHOICES = {
    "mask": ("soft", "binary"),
    "cam_norm": ("cell", "image"),
    "optimizer": ("adam", "sgd"),
}


def look(cfg: Config) -> Search:
    """Which patches are looked for."""
    same = ("crops", "crop_area", "top", "factor", "confidence", "guard")
    ratio = cfg.cam_ratio if cfg.cam_filter else ""
    epsilon = cfg.epsilon if ratio == "share" else 0.0  # of no other ratio, so that runs share their patches
    return Search(cam_ratio=ratio, epsilon=epsilon, **{key: getattr(cfg, key) for key in same})


def masking(cfg: Config) -> Masking:
    """Which pixels change; of no use where nothing is refined."""
    part = "background" if cfg.refine == "none" else cfg.refine
    cells = cfg.factor if cfg.cam_norm == "cell" else 1
    return Masking(part=part, epsilon=cfg.epsilon, binary=cfg.mask == "binary", cells=cells, every=cfg.refresh_every)


def inversion(cfg: Config) -> Inversion:
    """How the images are optimised."""
    same = ("steps", "lr", "first_bn", "crop_scale", "flip", "optimizer")
    return Inversion(
        beta=cfg.alpha_bn, ahead=cfg.shift, back=cfg.shift_back, **{key: getattr(cfg, key) for key in same}
    )


def labelling(cfg: Config) -> Labelling:
    """Which labels the images get."""
    dbr = {key: getattr(cfg, f"dbr_{key}") for key in ("weight", "distance", "reading", "loss")}
    same = {key: getattr(cfg, key) for key in ("seed", "temperature", "stored_temperature")}
    return Labelling(word=cfg.labels, **same, **dbr)


PRESETS = read_presets(__file__, Config())
SMOKE = Config(
    dataset="cifar10-mini",
    ipc=2,
    factor=2,
    mipc=12,
    teacher="convnet3-bn-w8",
    teacher_epochs=1,
    steps=3,
    protocol="nrr-dd-f2",
    student_epochs=2,
    student_batch=10,
)


def students(cfg: Config) -> Protocol:
    """The protocol that is recommended to students; labels that are stored per view have its epochs."""
    own = {"epochs": cfg.student_epochs, "batch_size": cfg.student_batch}
    return protocol(cfg.protocol, **{key: value for key, value in own.items() if value})


def _published_rows(cfg: Config) -> list[dict[str, Any]]:
    """The paper's numbers for NRR-DD or RDED as they are; none for what is neither."""
    if (cfg.cam_filter, cfg.confidence, cfg.refine) == (True, "lowest", "background"):
        return paper_rows(papers.NRR_DD_TABLE, cfg, "NRR-DD")
    return paper_rows(papers.RDED_TABLE, cfg, "RDED") if is_rded(cfg) else []


def is_rded(cfg: Config) -> bool:
    """Whether the images are RDED's."""
    return (cfg.cam_filter, cfg.confidence, cfg.refine) == (False, "highest", "none")


def _search_settings(cfg: Config) -> dict[str, Any]:
    """What the patches depend on."""
    shared = ("seed", "teacher", "teacher_epochs", "teacher_protocol", "ipc", "mipc")
    return {**{key: getattr(cfg, key) for key in shared}, **vars(look(cfg))}


def _image_settings(cfg: Config) -> dict[str, Any]:
    """What the images depend on."""
    if cfg.refine == "none":
        return _search_settings(cfg)
    how = {"mask": vars(masking(cfg)), "inversion": vars(inversion(cfg)), "batch": cfg.batch}
    return {**_search_settings(cfg), **how}


def refine_units(cfg: Config, classes: int, side: int) -> list[tuple[str, range, range]]:
    """(stage, classes, images of a class) of the refinement."""
    work = batches(cfg.ipc, classes, cfg.batch, side**2)
    return [(stage, *own) for stage, own in zip(numbered("refine", len(work)), work, strict=True)]


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Stages with their image passes and the bytes of the artifact (see `recipes.Plan`)."""
    check(cfg, source)
    classes, side, items = len(source.classes), source.images.shape[2], cfg.ipc * len(source.classes)
    rate = partial(training_rate, cfg.teacher, source, run)
    steps = [Step(stage="select", images=0)]
    steps.append(Step(stage=f"teacher-{cfg.teacher}", images=cfg.teacher_epochs * len(source.labels), rate=rate))
    looked = cfg.mipc * (1 + cfg.top if cfg.cam_filter else cfg.crops)
    found = discovery_units(cfg.mipc, classes, side)
    steps += [Step(stage=stage, images=len(own) * looked, rate=rate) for stage, own in found]
    for stage, own, sets in refine_units(cfg, classes, side) if cfg.refine != "none" else ():
        steps.append(Step(stage=stage, images=len(own) * len(sets) * cfg.steps, rate=rate))
    size = items * (source.images[0].numel() + (1 if classes <= 256 else 2))
    more, stored = labelling(cfg).steps(items, classes, side, students(cfg).epochs, rate)
    return Plan(steps=[*steps, *more], artifact_bytes=size + stored)


def check(cfg: Config, source: Source) -> None:
    """Find out before anything is computed what cannot be.

    Raises:
        UsageError: mosaics that do not fill an image, or a teacher without the BatchNorm layers or the CAM it needs.
    """
    shape = source.images.shape
    if shape[2] % cfg.factor:
        raise UsageError(f"factor {cfg.factor} does not divide a side of {shape[2]} pixels; choose one that does")
    with torch.random.fork_rng(devices=[]):
        net = models.build(cfg.teacher, classes=len(source.classes), size=shape[2], channels=shape[1]).eval()
    blank = torch.zeros(1, *shape[1:])
    with torch.no_grad():
        if cfg.cam_filter or cfg.refine in ("background", "inverted"):
            cam(net, blank, torch.zeros(1, dtype=torch.long))
        if cfg.refine != "none":
            answers(net, blank[None], cfg.first_bn)


def _images(
    cfg: Config, run: Run, source: Source, net: nn.Module, found: dict[str, Tensor]
) -> tuple[Tensor, list[str]]:
    """The images u8 `[C · ipc, channels, S, S]`, class by class, and what refinement did, for the card."""
    classes, (channels, side) = len(source.classes), source.images.shape[1:3]
    mean, std = scale(source, run.device)

    def start(labels: range, sets: range) -> Tensor:
        rows, boxes = (found[key][labels.start : labels.stop] for key in ("rows", "boxes"))
        return mosaics(source.images, rows, boxes, cfg.factor, sets, run.device)

    def refined(labels: range, sets: range) -> dict[str, Tensor]:
        words = [(cfg.seed, labels.start, k) for k in sets]
        target = torch.arange(labels.start, labels.stop, device=run.device)
        return refine(
            net, start(labels, sets), target, inversion(cfg), masking(cfg), words,
            mean=mean, std=std, precision=run.precision,
        )  # fmt: skip

    images = torch.empty(classes, cfg.ipc, channels, side, side, dtype=torch.uint8)
    work, judged = refine_units(cfg, classes, side), torch.zeros(2, 3)
    parts: Iterable[dict[str, Tensor]] = ({"images": start(*own)} for _, *own in work)
    if cfg.refine != "none":
        shared = _image_settings(cfg)
        units = [
            (stage, partial(refined, *own), {**shared, "part": [str(each) for each in own]}) for stage, *own in work
        ]
        parts = run.stages(units)
    for (_, labels, sets), part in zip(work, parts, strict=True):
        images[labels.start : labels.stop, sets.start : sets.stop] = part["images"].transpose(0, 1).cpu()
        if cfg.refine != "none":
            judged += part["checks"].sum(1) * len(labels)
    if cfg.refine == "none":
        return images.flatten(0, 1), []
    (right, sure, gap), (right_after, sure_after, gap_after) = (judged / (classes * cfg.ipc)).tolist()
    said = (
        f"The teacher recognises {right:.1%} of the images before refinement and {right_after:.1%} after it, with a "
        f"mean confidence of {sure:.3f} and {sure_after:.3f}; the BatchNorm loss goes from {gap:.1f} to "
        f"{gap_after:.1f}."
    )
    log.info(said)
    return images.flatten(0, 1), [said]


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    check(cfg, source)
    count, plan = len(source.classes), students(cfg)

    def pick() -> dict[str, Tensor]:
        return {"rows": select(source, cfg.mipc, generator(cfg.seed, "patches"), "--mipc").view(count, -1)}

    rows = run.stage("select", pick, {"seed": cfg.seed, "images": cfg.mipc})["rows"]
    nets, facts = teachers(run, source, (cfg.teacher,), cfg.teacher_epochs, cfg.seed, protocol=cfg.teacher_protocol)
    needed = cfg.factor**2 * cfg.ipc
    found = discover(run, source, nets[0], rows, look(cfg), needed, cfg.seed, _search_settings(cfg))
    images, said = _images(cfg, run, source, nets[0], found)
    classes = torch.arange(count).repeat_interleave(cfg.ipc)
    labels, tensors = label(run, source, images, classes, nets, facts, labelling(cfg), plan, _image_settings(cfg))
    return run.write(
        images=images,
        image_labels=classes,
        tensors=tensors,
        decoder={"kind": "identity"},
        labels=labels,
        protocol=plan,
        teachers=facts,
        citation="\n".join([papers.RDED] if is_rded(cfg) else [papers.NRR_DD, papers.RDED]),
        deviations=[*(DEVIATIONS_RDED if is_rded(cfg) else DEVIATIONS), *said],
        paper=_published_rows(cfg),
        method="rded" if is_rded(cfg) else "",
    )

"""NRR-DD: critical patches of real images, whose backgrounds a teacher refines (arXiv 2503.18267, CVPR 2025); and RDED.

    discover  of `mipc` images a class, random squares; by CAM the most critical of each image; of these the f² · ipc
              that the teacher is least sure of, f² of them on every image             `patches/patches.py`
    refine    x ← clip(x - M ⊙ η · Adam(CE + α · L_bn)), M = max(0, ε - CAM): critical pixels stay as they are, bit by
              bit; a batch is image j of all classes, or of up to `batch` of them                  `patches/refine.py`
    labels    two numbers a view, the cross-entropies between the teacher's answer on the mixed view and the view's two
              classes (`dbr`), or any other of `run/labels.py`

RDED (arXiv 2312.03526, CVPR 2024) is `--cam-filter false --confidence highest --refine none --labels teacher`: of every
image the patch that the teacher is surest of. The presets `rded-...` say so. Controls: `cidd-only` (no refinement),
`all-pixels` and `inverted-mask` (other pixels are refined), `rded-init` (RDED's patches, refined).

Images are rounded to 8 bits before the labels are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub import models
from ddhub.artifact.folder import Artifact
from ddhub.errors import UsageError
from ddhub.measures.cam import cam
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from recipes.inversion.inversion import Inversion, answers
from recipes.patches.discovery import CONFIDENCES, GUARDS, Search, discover, discovery_units
from recipes.patches.patches import RATIOS, mosaics
from recipes.patches.refine import PARTS, Masking, refine
from recipes.run import papers
from recipes.run.draws import generator, scale, select
from recipes.run.labels import LABELS, Labelling, label
from recipes.run.options import check_options, option
from recipes.run.papers import paper_rows
from recipes.run.plan import Plan, Step, net
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.straight_through import InLoop, codec_every, in_loop
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
    dataset: str = option("cifar10", "real data to distil")
    ipc: int = option(10, "images a class", low=1)
    seed: int = option(0, "seed of teacher, crops and stored views")
    size: int = option(0, "side of the images, px; 0: the data's", low=0)
    teacher: str = option("resnet18", "net of the teacher, one with BatchNorm")
    teacher_epochs: int = option(200, "epochs of the teacher; 0: timm's weights", low=0)
    teacher_protocol: str = option("squeeze", "protocol of the teacher")

    mipc: int = option(300, "real images a class that are searched", low=1)
    crops: int = option(5, "random crops of each of them", low=1)
    crop_area: float = option(0.08, "smallest share of the area of a crop", over=0, high=1)
    top: int = option(1, "crops of an image that are kept (t)", low=1)
    factor: int = option(1, "patches a side of a mosaic (f)", low=1)
    cam_filter: bool = option(True, "false: crops are kept by confidence")
    cam_ratio: str = option("density", f"CAM ratio of a crop: {', '.join(RATIOS)}", choices=tuple(RATIOS))
    confidence: str = option("lowest", f"confidence wanted: {', '.join(CONFIDENCES)}", choices=tuple(CONFIDENCES))
    guard: str = option("none", f"drops patches: {', '.join(GUARDS)}", choices=tuple(GUARDS))

    refine: str = option("background", f"refined part: none, {', '.join(PARTS)}", choices=("none", *PARTS))
    epsilon: float = option(0.5, "CAM from which a pixel is critical", over=0, high=1)
    mask: str = option("soft", "soft: max(0, epsilon - CAM), or binary", choices=("soft", "binary"))
    cam_norm: str = option("cell", "CAM is 0 to 1 for each cell, or image", choices=("cell", "image"))
    refresh_every: int = option(0, "steps between new masks; 0: never", low=0)
    optimizer: str = option("adam", "optimizer: adam or sgd", choices=("adam", "sgd"))
    steps: int = option(1000, "refinement steps of an image", low=1)
    lr: float = option(0.25, "learning rate before the mask (eta)", over=0)
    alpha_bn: float = option(0.01, "weight of the BatchNorm loss", low=0)
    first_bn: float = option(10.0, "factor of the first BatchNorm layer", low=0)
    shift: int = option(4, "largest circular shift down and right, px", low=0)
    shift_back: int = option(0, "largest circular shift up and left, px", low=0)
    crop_scale: float = option(0.0, "smallest share of random crops; 0: none", low=0, high=1)
    flip: bool = option(False, "random horizontal flips")
    batch: int = option(100, "classes that share BatchNorm statistics", low=1)
    codec_every: int = codec_every()

    labels: str = option("dbr", f"labels: {', '.join(LABELS)}", choices=LABELS)
    temperature: float = option(20.0, "temperature of the students' loss", over=0)
    stored_temperature: float = option(1.0, "temperature of stored dbr and top1 labels", over=0)
    dbr_weight: float = option(1.0, "weight of the distances in the loss", low=0)
    dbr_distance: str = option("l1", "distance: l1, smooth_l1 or squared")
    dbr_reading: str = option("mix", "mix, view (d_org unmixed), label (d_aug mixed)")
    dbr_loss: str = option("distance", "loss: distance, or kd to a rebuilt label")
    protocol: str = option("nrr-dd", "protocol recommended to students")
    student_epochs: int = option(0, "epochs of students; 0: the protocol's", low=0)
    student_batch: int = option(0, "batch size of students; 0: the protocol's", low=0)

    def __post_init__(self) -> None:
        check_options(self)
        look(self), masking(self), labelling(self)  # raise UsageError for what cannot be
        if self.codec_every and self.refine == "none":
            raise UsageError(
                f"codec_every is {self.codec_every}, and refine none learns no pixels; use --codec-every 0"
            )
        there, needed = self.top * self.mipc, self.factor**2 * self.ipc
        if there < needed:
            raise UsageError(
                f"{self.mipc} images with {self.top} squares each are {there} patches a class, {needed} are needed; "
                "raise --mipc or --top, or lower --ipc"
            )


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
SMOKE = PRESETS.smoke


def students(cfg: Config) -> Protocol:
    """The protocol that is recommended to students; labels that are stored per view have its epochs."""
    changes = {"epochs": cfg.student_epochs, "batch_size": cfg.student_batch}
    return protocol(cfg.protocol, **{key: value for key, value in changes.items() if value})


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
    refinement = {"mask": vars(masking(cfg)), "inversion": vars(inversion(cfg)), "batch": cfg.batch}
    return {**_search_settings(cfg), **refinement}


def refine_units(cfg: Config, classes: int, side: int) -> list[tuple[str, range, range]]:
    """(stage, classes, images of a class) of the refinement."""
    work = batches(cfg.ipc, classes, cfg.batch, side**2)
    return [(stage, *unit) for stage, unit in zip(numbered("refine", len(work)), work, strict=True)]


def suited(cfg: Config, source: Source) -> Config:
    """The settings, with no more searched images than the smallest class has. UsageError for too few patches."""
    least = int(torch.bincount(source.labels, minlength=len(source.classes)).min())
    return replace(cfg, mipc=least) if least < cfg.mipc else cfg


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Stages with their image passes and the bytes of the artifact (see `recipes.Plan`)."""
    cfg = suited(cfg, source)
    check(cfg, source)
    classes, side, items = len(source.classes), source.images.shape[2], cfg.ipc * len(source.classes)
    teacher = net(cfg.teacher, source, run)
    steps = [Step(stage="select", images=0)]
    steps.append(teacher.teacher(len(source.labels), cfg.teacher_epochs, cfg.teacher_protocol))
    looked = cfg.mipc * (1 + cfg.top if cfg.cam_filter else cfg.crops)
    searches = discovery_units(cfg.mipc, classes, side)
    steps += [teacher.looked(stage, len(labels) * looked) for stage, labels in searches]
    for stage, labels, sets in refine_units(cfg, classes, side) if cfg.refine != "none" else ():
        steps.append(teacher.inverted(stage, len(labels) * len(sets), cfg.steps))
    size = items * (source.images[0].numel() + (1 if classes <= 256 else 2))
    more, stored = labelling(cfg).steps(items, students(cfg).epochs, teacher)
    return Plan(steps=[*steps, *more], artifact_bytes=size + stored, images=items, label_bytes=stored)


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
    cfg: Config, run: Run, source: Source, net: nn.Module, patches: dict[str, Tensor], loop: InLoop
) -> tuple[Tensor, list[str]]:
    """The images u8 `[C · ipc, channels, S, S]`, class by class, and what refinement did, for the card."""
    classes, (channels, side) = len(source.classes), source.images.shape[1:3]
    mean, std = scale(source, run.device)

    def start(labels: range, sets: range) -> Tensor:
        rows, boxes = (patches[key][labels.start : labels.stop] for key in ("rows", "boxes"))
        return mosaics(source.images, rows, boxes, cfg.factor, sets, run.device)

    def refined(labels: range, sets: range) -> dict[str, Tensor]:
        words = [(cfg.seed, labels.start, k) for k in sets]
        target = torch.arange(labels.start, labels.stop, device=run.device)
        return refine(
            net, start(labels, sets), target, inversion(cfg), masking(cfg), words,
            mean=mean, std=std, precision=run.precision, loop=loop,
        )  # fmt: skip

    images = torch.empty(classes, cfg.ipc, channels, side, side, dtype=torch.uint8)
    work, judged = refine_units(cfg, classes, side), torch.zeros(2, 3)
    parts: Iterable[dict[str, Tensor]] = ({"images": start(*unit)} for _, *unit in work)
    if cfg.refine != "none":
        shared = _image_settings(cfg) | loop.settings
        units = [
            (stage, partial(refined, *unit), {**shared, "part": [str(each) for each in unit]}) for stage, *unit in work
        ]
        parts = run.stages(units)
    for (_, labels, sets), part in zip(work, parts, strict=True):
        images[labels.start : labels.stop, sets.start : sets.stop] = part["images"].transpose(0, 1).cpu()
        if cfg.refine != "none":
            judged += part["checks"].sum(1) * len(labels)
    if cfg.refine == "none":
        return images.flatten(0, 1), []
    (right, sure, gap), (right_after, sure_after, gap_after) = (judged / (classes * cfg.ipc)).tolist()
    notes = (
        f"The teacher recognises {right:.1%} of the images before refinement and {right_after:.1%} after it, with a "
        f"mean confidence of {sure:.3f} and {sure_after:.3f}; the BatchNorm loss goes from {gap:.1f} to "
        f"{gap_after:.1f}."
    )
    log.info(notes)
    return images.flatten(0, 1), [notes]


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    if (mipc := suited(cfg, source).mipc) < cfg.mipc:
        log.info("%d images of a class are searched in place of %d: the smallest has no more", mipc, cfg.mipc)
        cfg = suited(cfg, source)
    check(cfg, source)
    count, plan = len(source.classes), students(cfg)
    work = refine_units(cfg, count, source.images.shape[2])
    loop = in_loop(cfg, run, source, units=[sets for _, _, sets in work])

    def pick() -> dict[str, Tensor]:
        return {"rows": select(source, cfg.mipc, generator(cfg.seed, "patches"), "--mipc").view(count, -1)}

    rows = run.stage("select", pick, {"seed": cfg.seed, "images": cfg.mipc})["rows"]
    nets, records = teachers(run, source, (cfg.teacher,), cfg.teacher_epochs, cfg.seed, protocol=cfg.teacher_protocol)
    needed = cfg.factor**2 * cfg.ipc
    patches = discover(run, source, nets[0], rows, look(cfg), needed, cfg.seed, _search_settings(cfg))
    images, notes = _images(cfg, run, source, nets[0], patches, loop)
    classes = torch.arange(count).repeat_interleave(cfg.ipc)
    images = run.coded(images, classes)
    known = _image_settings(cfg) | loop.settings
    labels, tensors = label(run, source, images, classes, nets, records, labelling(cfg), plan, known)
    return run.write(
        images=images,
        image_labels=classes,
        tensors=tensors,
        decoder={"kind": "identity"},
        labels=labels,
        protocol=plan,
        teachers=records,
        citation="\n".join([papers.RDED] if is_rded(cfg) else [papers.NRR_DD, papers.RDED]),
        deviations=[*(DEVIATIONS_RDED if is_rded(cfg) else DEVIATIONS), *loop.deviations, *notes],
        paper=_published_rows(cfg),
        method="rded" if is_rded(cfg) else "",
    )

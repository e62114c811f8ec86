"""EDF: trajectories matched without common patterns, and with an eye on what matters (arXiv 2410.17193); DATM, MTT.

    experts   nets trained on the real images, a checkpoint an epoch, shared by all presets     `recipes/_experts.py`
    start     real images that an expert gets right, soft labels from all of them               `recipes/_initial.py`
    match     outer iterations: N steps on the images from an expert's epoch t land near its    `recipes/_trajectory.py`
              epoch t + M; images, labels and step size follow the exact gradient in constant   `recipes/_adjoint.py`
              memory; CPD drops the fraction `drop` of the parameters that are matched best,
              DAE weights pixels by a CAM                                                       `recipes/_dae.py`

DATM (arXiv 2310.05773) is `--drop 0 --cam none`, MTT (arXiv 2203.11932) has hard labels (`--labels hard`) beside; the
presets `datm-...` and `mtt-...` say so. Experts depend on nothing else, so that runs with one `--work` share them.

Images are learned in the data's normalised space, where they leave [0, 1]; they are stored as 8 bits over a range a
channel, labels as logits of 16 bits, and the learned step size is the students' learning rate. The stage `match-N` in
the work folder holds all of them as 32-bit floats: `recipes/_floats.py`.
"""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub import models
from ddhub.artifact.folder import Artifact
from ddhub.artifact.quantise import eight_bits
from ddhub.errors import TrainingError, UsageError, unknown
from ddhub.measures.cam import grad_cam
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import DSA_OPS, Protocol
from ddhub.sources.source import Source
from ddhub.training.loop import evaluate
from recipes.run import papers
from recipes.run.papers import paper_rows
from recipes.run.plan import Plan, Step, training_rate
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.teachers import check_of_imagenet, of_imagenet, teachers
from recipes.run.units import numbered
from recipes.trajectories.adjoint import WAYS
from recipes.trajectories.dae import CAM_CLASSES, CAMS, Enhancing, Looking, imagenet_numbers
from recipes.trajectories.experts import OPTIMIZERS, Experts, opened, settings, train
from recipes.trajectories.flat import Flat
from recipes.trajectories.initial import INITS, initial
from recipes.trajectories.trajectory import Outer, State, Window, advance, passes_per_second, started

log = logging.getLogger(__name__)
_CHUNKS, _KEPT = 50, 4 * 2**30  # stages of the iterations at most, and about the bytes that they take together

DEVIATIONS = [
    "Images are learned in the data set's normalised space; there is no ZCA whitening, which the papers use on CIFAR "
    "and Tiny-ImageNet.",
    "Images of ImageNet subsets are their centre squares; the official code squashes them to 128 x 128.",
    "The gradients are the exact ones of the unrolled student, computed by its adjoint in constant memory.",
    "Experts are trained by adaptive GSAM with rho 0.01 and alpha 0.3 for every data set, as DATM's and EDF's scripts "
    "do, and MTT's by SGD.",
    "Where too few images of a class are classified correctly by the first expert, the next one adds others; the "
    "official code starts the class again.",
    "Images are stored as 8 bits over a range a channel and labels as 16-bit floats; the official code stores float32.",
    "Accuracy is that of the last iteration's images; the official code keeps the best on the test set.",
]
DEVIATIONS_EDF = [
    "CPD's unit is one scalar parameter and its key the squared error without a scale, ties broken by position.",
    "DAE takes Grad-CAM, as the paper says; the official code takes Smooth Grad-CAM++ (--cam smooth-grad-cam++), and "
    "on subsets of ImageNet maps of other classes (--cam-class official).",
    "On CIFAR the CAM is that of an expert at its last checkpoint, and on Tiny-ImageNet that of a ResNet-18 trained "
    "here: the authors' net is not published.",
    "On CIFAR and on Tiny-ImageNet with one image a class EDF's published settings are incomplete: DATM's, with drop "
    "0 to 0.5 by images a class, beta 1, and a threshold of 1.5 where CPD raises the loss.",
]
DEVIATIONS_MTT = [
    "MTT with DATM's settings: hard labels, experts of SGD, random images, no sequential window.",
]


def _help(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = _help("cifar10", "real data to distil")
    size: int = _help(0, "side of the images in pixels; 0 is the data's own")
    ipc: int = _help(10, "images per class")
    seed: int = _help(0, "of all draws but the experts'")
    net: str = _help("convnet3", "architecture of experts and student, a ConvNet with InstanceNorm")

    n_experts: int = _help(100, "experts")
    train_epochs: int = _help(100, "of an expert")
    expert_opt: str = _help("gsam", f"optimizer of experts: {', '.join(OPTIMIZERS)}")
    expert_lr: float = _help(0.01, "rate of experts")
    expert_seed: int = _help(0, "of the experts")
    together: int = _help(0, "experts trained at once; 0 is the faster on the device")

    iterations: int = _help(10_001, "outer iterations; the official loop runs over range(10,000 + 1)")
    expert_epochs: int = _help(2, "epochs of an expert that are matched (M)")
    syn_steps: int = _help(80, "steps of the student (N)")
    batch_syn: int = _help(100, "images in a step")
    lr_img: float = _help(100.0, "rate of the images")
    lr_y: float = _help(2.0, "rate of the labels")
    lr_lr: float = _help(1e-5, "rate of the step size")
    lr_teacher: float = _help(0.01, "step size at the start")
    momentum: float = _help(0.5, "of images and step size")
    momentum_y: float = _help(0.9, "of labels")
    threshold: float = _help(1.0, "largest loss that is learned from")
    min_start_epoch: int = _help(0, "first epoch that is started from")
    current_max_start_epoch: int = _help(10, "end of these epochs in the first iteration, itself none of them")
    max_start_epoch: int = _help(20, "their end at last")
    expansion_end_epoch: int = _help(1000, "iterations after which it is")
    sequential: bool = _help(True, "whether the end moves; else it is the last from the first iteration on")
    dsa: str = _help("color_crop_cutout_flip_scale_rotate", "of the student's batches, joined by _")
    dsa_crop: float = _help(0.125, "largest shift of the crop, as a share of the side")
    init: str = _help("correct", "images at the start: correct (by an expert), or real")
    labels: str = _help("soft", "soft, which are learned, or hard")
    way: str = _help("", f"to the gradients: {', '.join(WAYS)}; nothing is the device's faster")
    segment: int = _help(1, "steps whose graphs are kept at once")

    drop: float = _help(0.0, "fraction of the parameters that CPD leaves out (alpha)")
    cam: str = _help("grad-cam", f"of DAE: {', '.join(CAMS)}; none is no DAE")
    cam_every: int = _help(100, "iterations after which the maps are made anew (K)")
    beta: float = _help(1.0, "added to the map where pixels are weighted")
    act_threshold: float = _help(0.0, "least of the map where they are; 0 is the mean")
    cam_net: str = _help("expert", "that the maps are of: expert, a net to train on the data, or timm:NAME of ImageNet")
    cam_class: str = _help("subset", "output of timm:NAME: subset, the image's class, or official, its number")
    cam_epochs: int = _help(50, "of a net to train")
    cam_protocol: str = _help("squeeze", "of it")

    protocol: str = _help("datm", "recommended to students")
    student_epochs: int = _help(0, "of students; 0 is the protocol's")

    def __post_init__(self) -> None:
        known: dict[str, tuple[str, ...]] = {"expert_opt": OPTIMIZERS, "cam": CAMS, "cam_class": CAM_CLASSES}
        known |= {"init": INITS, "labels": ("soft", "hard"), "way": ("", *WAYS)}
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise unknown(name, getattr(self, name), words)
        for op in filter(None, self.dsa.split("_")):
            if op not in DSA_OPS:
                raise unknown("operation in dsa", op, DSA_OPS)
        least = dict.fromkeys(("ipc", "n_experts", "train_epochs", "iterations", "expert_epochs", "syn_steps"), 1)
        least |= dict.fromkeys(("batch_syn", "expansion_end_epoch", "segment", "cam_every", "cam_epochs"), 1)
        least |= dict.fromkeys(("size", "together", "min_start_epoch", "student_epochs"), 0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {low} or more")
        for name in ("lr_img", "lr_y", "lr_lr", "beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a finite number, 0 or more")
        for name in ("expert_lr", "lr_teacher", "threshold"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a finite number above 0")
        for name in ("momentum", "momentum_y", "drop"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        for name in ("dsa_crop", "act_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if not re.fullmatch(r"convnet[3-6](-w[1-9][0-9]*)?", self.net):
            raise UsageError(f"net {self.net!r} is no ConvNet with InstanceNorm; use convnet3, or convnet3-wN")
        self._check_window()

    def _check_window(self) -> None:
        ends = ("current_max_start_epoch", "max_start_epoch") if self.sequential else ("max_start_epoch",)
        for low, high in zip(("min_start_epoch", *ends), ends, strict=False):
            if getattr(self, low) >= getattr(self, high) + (low != "min_start_epoch"):
                raise UsageError(
                    f"{low} is {getattr(self, low)} and {high} {getattr(self, high)}, which leaves no epoch to start "
                    f"from; raise --{high.replace('_', '-')}"
                )
        needed = self.max_start_epoch + self.expert_epochs
        if needed > self.train_epochs:
            raise UsageError(
                f"max_start_epoch {self.max_start_epoch} and expert_epochs {self.expert_epochs} need experts of "
                f"{needed} epochs, and train_epochs is {self.train_epochs}; raise it, or lower --max-start-epoch"
            )


def experts(cfg: Config) -> Experts:
    """Which experts there are: nothing of the distillation is among it."""
    return Experts(
        net=cfg.net,
        count=cfg.n_experts,
        epochs=cfg.train_epochs,
        optimizer=cfg.expert_opt,
        lr=cfg.expert_lr,
        seed=cfg.expert_seed,
        together=cfg.together,
    )


def outer(cfg: Config) -> Outer:
    """How images, labels and the step size are learned."""
    window = Window(
        least=cfg.min_start_epoch,
        first=cfg.current_max_start_epoch,
        last=cfg.max_start_epoch,
        expansion=cfg.expansion_end_epoch,
        sequential=cfg.sequential,
    )
    return Outer(
        seed=cfg.seed,
        window=window,
        span=cfg.expert_epochs,
        steps=cfg.syn_steps,
        batch=cfg.batch_syn,
        ops=tuple(filter(None, cfg.dsa.split("_"))),
        crop=cfg.dsa_crop,
        drop=cfg.drop,
        skip=cfg.threshold,
        rates=(cfg.lr_img, cfg.lr_y if cfg.labels == "soft" else 0.0, cfg.lr_lr),
        momenta=(cfg.momentum, cfg.momentum_y, cfg.momentum),
        way=cfg.way,
        segment=cfg.segment,
    )


def enhancing(cfg: Config) -> Enhancing:
    """How pixels are weighted; of no use without a CAM."""
    return Enhancing(seed=cfg.seed, cam=cfg.cam, every=cfg.cam_every, beta=cfg.beta, threshold=cfg.act_threshold)


def students(cfg: Config) -> Protocol:
    """The protocol that is recommended to students."""
    return protocol(cfg.protocol, epochs=cfg.student_epochs) if cfg.student_epochs else protocol(cfg.protocol)


def method(cfg: Config) -> str:
    """edf, or datm without CPD and DAE, and mtt if the labels are hard, too."""
    if cfg.drop or cfg.cam != "none":
        return "edf"
    return "datm" if cfg.labels == "soft" else "mtt"


PRESETS = read_presets(__file__, Config())
SMOKE = Config(
    dataset="cifar10-mini",
    ipc=2,
    net="convnet3-w8",
    n_experts=2,
    train_epochs=2,
    expert_lr=0.1,
    iterations=4,
    expert_epochs=1,
    syn_steps=4,
    batch_syn=8,
    lr_img=1000.0,
    threshold=10.0,
    current_max_start_epoch=1,
    max_start_epoch=1,
    drop=0.25,
    cam_every=3,
    student_epochs=4,
)


def check(cfg: Config, source: Source) -> None:
    """Find out before anything is computed what cannot be.

    Raises:
        UsageError: a class with too few images, a net that images are too small for, or a net of the CAM without one.
    """
    counts = torch.bincount(source.labels, minlength=len(source.classes))
    if int(counts.min()) < cfg.ipc:
        name = source.classes[int(counts.argmin())]
        raise UsageError(
            f"ipc is {cfg.ipc}, but class {name!r} of {source.name!r} has {int(counts.min())} images; lower --ipc"
        )
    if cfg.cam == "none" or cfg.cam_net == "expert":
        return
    shape, outputs = source.images.shape, len(source.classes)
    if cfg.cam_net.startswith("timm:"):
        outputs = 1000
        imagenet_numbers(source)
    with torch.random.fork_rng(devices=[]):
        net = models.build(cfg.cam_net, classes=outputs, size=shape[2], channels=shape[1]).eval()
    if outputs == 1000:
        check_of_imagenet(source, cfg.cam_net)
    grad_cam(net, torch.zeros(1, *shape[1:]), torch.zeros(1, dtype=torch.long))


def looking(cfg: Config, run: Run, source: Source, expert: nn.Module) -> Looking | None:
    """What says where pixels matter, if anything does: an expert, or the net that `cam_net` names."""
    if cfg.cam == "none":
        return None
    if cfg.cam_net == "expert":
        net = expert.to(run.device).eval().requires_grad_(False)
        return Looking(net=net, how=enhancing(cfg))
    if cfg.cam_net.startswith("timm:"):
        numbers = imagenet_numbers(source) if cfg.cam_class == "subset" else None
        return Looking(net=of_imagenet(run, source, cfg.cam_net), how=enhancing(cfg), numbers=numbers)
    (net,), _ = teachers(run, source, (cfg.cam_net,), cfg.cam_epochs, cfg.seed, protocol=cfg.cam_protocol)
    return Looking(net=net, how=enhancing(cfg))


def chunks(cfg: Config, source: Source) -> list[tuple[str, range]]:
    """(stage, iterations) of every stage of the matching."""
    images = cfg.ipc * len(source.classes) * source.images[0].numel()
    most = max(1, min(_CHUNKS, _KEPT // (8 * images)))  # images and their velocities
    size = -(-cfg.iterations // most)
    parts = [range(first, min(first + size, cfg.iterations)) for first in range(0, cfg.iterations, size)]
    return list(zip(numbered("match", len(parts)), parts, strict=True))


def _settings(cfg: Config) -> dict[str, Any]:
    """What the images depend on beside the experts, so that runs of other students share no more and no less."""
    unused = {"together", "protocol", "student_epochs"}
    if cfg.cam == "none":
        unused |= {"cam_every", "beta", "act_threshold", "cam_net"}
    if cfg.cam == "none" or not cfg.cam_net.startswith("timm:"):
        unused |= {"cam_class"}
    if cfg.cam == "none" or cfg.cam_net == "expert" or cfg.cam_net.startswith("timm:"):
        unused |= {"cam_epochs", "cam_protocol"}
    if not cfg.sequential:
        unused |= {"current_max_start_epoch", "expansion_end_epoch"}
    return {key: value for key, value in asdict(cfg).items() if key not in unused}


def _flat(cfg: Config, source: Source) -> Flat:
    return Flat(cfg.net, len(source.classes), source.images.shape[2], source.images.shape[1])


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Stages with their image passes and the bytes of the artifact (see `recipes.Plan`)."""
    check(cfg, source)
    classes, images = len(source.classes), cfg.ipc * len(source.classes)
    flat = _flat(cfg, source)
    rate = partial(passes_per_second, flat, min(cfg.batch_syn, images), run.device)
    passes = 2 if cfg.expert_opt == "gsam" else 1
    steps = [
        Step(stage="experts", images=passes * cfg.n_experts * cfg.train_epochs * len(source.labels), rate=rate),
        Step(stage="start", images=cfg.n_experts * images // 3, rate=rate),  # looked at, not differentiated
    ]
    if cfg.cam != "none" and cfg.cam_net != "expert":
        trained = 0 if cfg.cam_net.startswith("timm:") else cfg.cam_epochs * len(source.labels)
        other = partial(training_rate, cfg.cam_net, source, run) if trained else None
        steps.append(Step(stage=f"teacher-{cfg.cam_net}", images=trained, rate=other))
    # A step of the student and its way back take twelve forward passes, which are four forward and backward ones.
    shown = 4 * cfg.syn_steps * min(cfg.batch_syn, images)
    if cfg.cam != "none":
        shown += (1 if cfg.cam == "grad-cam" else 5) * images // cfg.cam_every
    steps += [Step(stage=stage, images=len(parts) * shown, rate=rate) for stage, parts in chunks(cfg, source)]
    size = images * (source.images[0].numel() + (1 if classes <= 256 else 2))
    return Plan(steps=steps, artifact_bytes=size + (images * classes * 2 if cfg.labels == "soft" else 0))


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    check(cfg, source)
    flat, known = _flat(cfg, source), settings(experts(cfg))
    file = run.path("experts", known).with_suffix(".npy")
    file = train(source, experts(cfg), flat, file, run.device)
    trajectories = opened(file, experts(cfg), flat, source)

    def score() -> dict[str, Tensor]:
        test = run.source(source.address, "test", flat.size)
        nets = [flat.load(path[-1]).to(run.device) for path in trajectories]
        return {"accuracy": torch.tensor([evaluate(net, test, device=run.device, precision="fp32") for net in nets])}

    accuracy = float(run.stage("experts", score, known)["accuracy"].mean())
    run.seconds["experts"] += json.loads(file.with_suffix(".json").read_bytes())["seconds"]  # of their training
    log.info("the experts are right on %.1f %% of the test images", accuracy)
    begin = partial(initial, source, trajectories, flat, run.device)
    words = {"ipc": cfg.ipc, "seed": cfg.seed, "init": cfg.init, "soft": cfg.labels == "soft"}
    state = started(**run.stage("start", partial(begin, **words), {**known, **words}), step=cfg.lr_teacher)
    look = looking(cfg, run, source, flat.load(trajectories[0, -1]))
    shared = {"experts": known, **_settings(cfg)}
    for stage, parts in chunks(cfg, source):
        work = partial(advance, parts, state, trajectories, flat, outer(cfg), look, run.device)
        state = run.stage(stage, work, {**shared, "part": [parts.start, parts.stop]})
    return _written(cfg, run, source, state, accuracy)


def _written(cfg: Config, run: Run, source: Source, state: State, accuracy: float) -> Artifact:
    """The artifact of the last state."""
    if int(state["learned"]) == 0:
        raise TrainingError(
            f"nothing was learned: no loss was at most {cfg.threshold:g}, the least was {float(state['least']):.4g}; "
            "raise --threshold"
        )
    logits, soft = state["labels"].half(), cfg.labels == "soft"
    if not bool(logits.isfinite().all()):
        raise TrainingError("a learned logit is beyond ±65504, the largest 16-bit float; lower --lr-y")
    stored, bounds, moved = eight_bits(state["images"], (source.mean, source.std))
    step = float(state["step"])
    kind, table = method(cfg), {"mtt": papers.MTT_TABLE, "datm": papers.DATM_TABLE, "edf": papers.EDF_TABLE}
    paper = paper_rows(table[kind], cfg, kind.upper())
    if kind == "edf":
        paper += paper_rows(papers.EDF_KD_TABLE, cfg, "EDF with knowledge distillation")
    return run.write(
        images=stored,
        image_labels=torch.arange(len(source.classes)).repeat_interleave(cfg.ipc),
        tensors={"labels.logits": logits} if soft else {},
        decoder={"kind": "identity"},
        labels={"kind": "soft", "temperature": 1.0, "lr": step} if soft else {"kind": "hard", "lr": step},
        protocol=students(cfg),
        citation="\n".join(_CITED[kind]),
        deviations=[*DEVIATIONS, *_MORE[kind]],
        paper=paper,
        method=kind,
        pixel_range=bounds,
        measured={
            "step_size": step,
            "learned_share": round(int(state["learned"]) / cfg.iterations, 4),
            "expert_accuracy": round(accuracy, 2),
            "rounding_rms": moved.rms,
            "rounding_largest": moved.largest,
        },
    )


_CITED = {
    "mtt": [papers.MTT],
    "datm": [papers.DATM, papers.MTT],
    "edf": [papers.EDF, papers.DATM, papers.MTT],
}
_MORE = {"mtt": DEVIATIONS_MTT, "datm": [], "edf": DEVIATIONS_EDF}

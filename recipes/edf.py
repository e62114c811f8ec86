"""EDF: trajectories matched without common patterns (2410.17193); DATM, MTT.

    experts   nets trained on the real images, a checkpoint an epoch, shared by all presets   `experts.py`
    start     real images that an expert gets right, soft labels from all of them             `initial.py`
    match     outer iterations: N steps on the images from an expert's epoch t land near      `trajectory.py`
              its epoch t + M; images, labels and step size follow the exact gradient in      `adjoint.py`
              constant memory; CPD drops the fraction `drop` of the parameters that are
              matched best, DAE weights pixels by a CAM                                       `dae.py`

DATM (arXiv 2310.05773) is `--drop 0 --cam none`, MTT (arXiv 2203.11932) has hard labels too (`--labels hard`): presets
`datm-...` and `mtt-...`. Experts depend on nothing else, so that runs with one `--work` share them. Images are learned
in the data's normalised space; stored are 8 bits over a range a channel, labels as 16-bit logits, and the learned
step size is the students' rate. The last stage `match-N` holds all of them as floats: `tools/rounding_cost.py`.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub.artifact.folder import Artifact
from ddhub.artifact.quantise import eight_bits
from ddhub.errors import TrainingError, UsageError, unknown
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import DSA_OPS, Protocol
from ddhub.sources.source import Source
from ddhub.training.devices import computing
from ddhub.training.scoring import evaluate
from recipes.run import papers
from recipes.run.draws import require_images
from recipes.run.options import check_options, option
from recipes.run.papers import paper_rows
from recipes.run.plan import Plan, net
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.straight_through import codec_every, in_loop
from recipes.run.teachers import of_imagenet, teachers
from recipes.run.units import parts
from recipes.trajectories.adjoint import WAYS
from recipes.trajectories.cost import experts_step, match_step
from recipes.trajectories.dae import CAM_CLASSES, CAMS, Enhancing, PixelWeights, check_net, imagenet_numbers
from recipes.trajectories.experts import OPTIMIZERS, Experts, opened, settings, train
from recipes.trajectories.flat import Flat
from recipes.trajectories.initial import INITS, initial
from recipes.trajectories.trajectory import Outer, State, Window, advance, passes_per_second, started, student_of

log = logging.getLogger(__name__)
_CHUNKS, _KEPT = 50, 4 * 2**30  # stages of the iterations at most, and about the bytes that they take together


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = option("cifar10", "real data to distil")
    size: int = option(0, "side of the images, px; 0: the data's", low=0)
    ipc: int = option(10, "images a class", low=1)
    seed: int = option(0, "seed of all draws but the experts'")
    net: str = option("convnet3", "net of experts and student, a ConvNet")

    n_experts: int = option(100, "number of experts", low=1)
    train_epochs: int = option(100, "epochs of an expert", low=1)
    expert_opt: str = option("gsam", f"experts' optimizer: {', '.join(OPTIMIZERS)}", choices=OPTIMIZERS)
    expert_lr: float = option(0.01, "learning rate of the experts", over=0)
    expert_batch: int = option(256, "real images in a step of an expert", low=1)
    expert_seed: int = option(0, "seed of the experts")
    together: int = option(0, "experts trained at once; 0: the faster", low=0)

    iterations: int = option(10_001, "outer iterations, one more than published", low=1)
    expert_epochs: int = option(2, "epochs of an expert to match (M)", low=1)
    syn_steps: int = option(80, "steps of the student (N)", low=1)
    batch_syn: int = option(100, "distilled images in a step", low=1)
    lr_img: float = option(100.0, "learning rate of the images", low=0)
    lr_y: float = option(2.0, "learning rate of the labels", low=0)
    lr_lr: float = option(1e-5, "learning rate of the step size", low=0)
    lr_teacher: float = option(0.01, "step size at the start", over=0)
    momentum: float = option(0.5, "momentum of images and step size", low=0, under=1)
    momentum_y: float = option(0.9, "momentum of the labels", low=0, under=1)
    threshold: float = option(1.0, "losses above it are skipped", over=0)
    min_start_epoch: int = option(0, "first start epoch (T-)", low=0)
    current_max_start_epoch: int = option(10, "end of start epochs at first (T)")
    max_start_epoch: int = option(20, "end of start epochs at last (T+)")
    expansion_end_epoch: int = option(1000, "iterations until the end is T+", low=1)
    sequential: bool = option(True, "false: the end is T+ from the start")
    dsa: str = option("color_crop_cutout_flip_scale_rotate", "student's DSA")
    dsa_crop: float = option(0.125, "largest shift of DSA's crop, a share", low=0, high=1)
    init: str = option("correct", "first images: correct (by experts), real", choices=INITS)
    labels: str = option("soft", "labels: soft (learned) or hard", choices=("soft", "hard"))
    way: str = option("", f"gradients by {', '.join(WAYS)}; '': the faster", choices=("", *WAYS))
    segment: int = option(1, "steps whose graphs are kept at once", low=1)
    codec_every: int = codec_every()

    drop: float = option(0.0, "share of parameters CPD drops (alpha)", low=0, under=1)
    cam: str = option("grad-cam", f"DAE by {', '.join(CAMS)}", choices=CAMS)
    cam_every: int = option(100, "iterations between new maps (K)", low=1)
    beta: float = option(1.0, "added to the map of weighted pixels", low=0)
    act_threshold: float = option(0.0, "map from which they are; 0: its mean", low=0, high=1)
    cam_net: str = option("expert", "maps by: expert, a net to train, timm:NAME")
    cam_class: str = option("subset", "timm's output: subset (class) or official", choices=CAM_CLASSES)
    cam_epochs: int = option(50, "epochs of the net to train for maps", low=1)
    cam_protocol: str = option("squeeze", "protocol of that net")

    protocol: str = option("datm", "protocol recommended to students")
    student_epochs: int = option(0, "epochs of students; 0: the protocol's", low=0)

    def __post_init__(self) -> None:
        check_options(self)
        for op in filter(None, self.dsa.split("_")):
            if op not in DSA_OPS:
                raise unknown("operation in dsa", op, DSA_OPS)
        if not re.fullmatch(r"convnet[3-6](-w[1-9][0-9]*)?", self.net):
            raise UsageError(f"net {self.net!r} is not a ConvNet with InstanceNorm; use convnet3, or convnet3-wN")
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
        net=cfg.net, count=cfg.n_experts, epochs=cfg.train_epochs, optimizer=cfg.expert_opt, lr=cfg.expert_lr,
        batch=cfg.expert_batch, seed=cfg.expert_seed, together=cfg.together,
    )  # fmt: skip


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
SMOKE = PRESETS.smoke


def check(cfg: Config, source: Source) -> None:
    """Find out before anything is computed what cannot be.

    Raises:
        UsageError: a class with too few images, a net that images are too small for, or a net of the CAM without one.
    """
    require_images(source, cfg.ipc, f"ipc is {cfg.ipc}")
    if cfg.cam != "none" and cfg.cam_net != "expert":
        check_net(cfg.cam_net, source)


def pixel_weights(cfg: Config, run: Run, source: Source, expert: nn.Module) -> PixelWeights | None:
    """What says where pixels matter, if anything does: an expert, or the net that `cam_net` names."""
    if cfg.cam == "none":
        return None
    if cfg.cam_net == "expert":
        net = expert.to(run.device).eval().requires_grad_(False)
        return PixelWeights(net=net, settings=enhancing(cfg))
    if cfg.cam_net.startswith("timm:"):
        numbers = imagenet_numbers(source) if cfg.cam_class == "subset" else None
        return PixelWeights(net=of_imagenet(run, source, cfg.cam_net), settings=enhancing(cfg), numbers=numbers)
    (net,), _ = teachers(run, source, (cfg.cam_net,), cfg.cam_epochs, cfg.seed, protocol=cfg.cam_protocol)
    return PixelWeights(net=net, settings=enhancing(cfg))


def chunks(cfg: Config, source: Source) -> list[tuple[str, range]]:
    """(stage, iterations) of every stage of the matching."""
    images = cfg.ipc * len(source.classes) * source.images[0].numel()
    most = max(1, min(_CHUNKS, _KEPT // (8 * images)))  # images and their velocities
    return parts("match", cfg.iterations, most)


def _settings(cfg: Config) -> dict[str, Any]:
    """What the images depend on beside the experts, so that runs of other students share no more and no less."""
    # the experts have a key of their own, and so has a codec in the loop
    unused = {"together", "expert_batch", "protocol", "student_epochs", "codec_every"}
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
    probe = partial(passes_per_second, flat, min(cfg.batch_syn, images), run.device, run.precision)
    student = net(cfg.net, source, run, precision="fp32", probe=probe)
    steps = [experts_step(student, experts(cfg), len(source.labels))]
    steps.append(student.step("start", cfg.n_experts * images // 3, 0))  # looked at, not differentiated
    if cfg.cam != "none" and cfg.cam_net != "expert":
        epochs = 0 if cfg.cam_net.startswith("timm:") else cfg.cam_epochs
        steps.append(net(cfg.cam_net, source, run).teacher(len(source.labels), epochs, cfg.cam_protocol))
    shown = (1 if cfg.cam == "grad-cam" else 5) * images // cfg.cam_every if cfg.cam != "none" else 0
    work = (cfg.syn_steps, min(cfg.batch_syn, images), shown)
    steps += [match_step(student, stage, len(part), *work) for stage, part in chunks(cfg, source)]
    size = images * (source.images[0].numel() + (1 if classes <= 256 else 2))
    label_bytes = images * classes * 2 if cfg.labels == "soft" else 0
    return Plan(steps=steps, artifact_bytes=size + label_bytes, images=images, label_bytes=label_bytes)


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    check(cfg, source)
    flat, known, loop = _flat(cfg, source), settings(experts(cfg)), in_loop(cfg, run, source, spread=True)
    file = run.path("experts", known).with_suffix(".npy")
    with computing(run.device, run.precision):  # training is no stage
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
    look = pixel_weights(cfg, run, source, flat.load(trajectories[0, -1]))
    shared = {"experts": known, **_settings(cfg), **loop.settings}
    with computing(run.device, run.precision):  # its recordings serve all stages
        student = student_of(flat, state, outer(cfg), run.device)
    for stage, part in chunks(cfg, source):
        work = partial(advance, part, state, trajectories, student, outer(cfg), look, loop)
        state = run.stage(stage, work, {**shared, "part": [part.start, part.stop]})
    return _written(cfg, run, source, state, accuracy, loop.deviations)


def _written(cfg: Config, run: Run, source: Source, state: State, accuracy: float, deviations: list[str]) -> Artifact:
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
    cited = {"mtt": [], "datm": [papers.DATM], "edf": [papers.EDF, papers.DATM]}[kind] + [papers.MTT]
    if kind == "edf":
        paper += paper_rows(papers.EDF_KD_TABLE, cfg, "EDF with knowledge distillation")
    image_labels = torch.arange(len(source.classes)).repeat_interleave(cfg.ipc)
    return run.write(
        images=run.coded(stored, image_labels),
        image_labels=image_labels,
        tensors={"labels.logits": logits} if soft else {},
        decoder={"kind": "identity"},
        labels={"kind": "soft", "temperature": 1.0, "lr": step} if soft else {"kind": "hard", "lr": step},
        protocol=students(cfg),
        citation="\n".join(cited),
        deviations=[*PRESETS.deviations["all"], *PRESETS.deviations.get(kind, []), *deviations],
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

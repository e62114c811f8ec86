"""UDD: stored images cut into enlarged squares, little used ones too (arXiv 2408.16268); IDC (arXiv 2205.14959) below.

    select  the first f² · ipc images of a class; each shrunk to a tile, f · f tiles a stored image
    proxy   a net trained on the real images: it says how much of a stored image is used      `recipes/_regions.py`
    match   outer iterations of a new net: images whose gradients are those of real ones      `recipes/_outer.py`,
            from the tiles and k little used regions of each, chosen anew as they change      `recipes/_matching.py`
            beside it, features of a class near its own mean, far from those of the others    `recipes/_contrast.py`

IDC is `--regions 0 --contrast none`, IDC-I `--factor 1` in addition; the presets `idc-...` and `idc-i-...` say so, and
their proxy does no more than measure mUE. Of UDD only the abstract is known: what the regions and the second loss are
is written from it. Controls: `random-regions`, `rbp` and `jbp` (regions alone, by policy), `contrast-only`,
`no-refresh` (the first regions stay).

The rate of the images is `lr · ipc / 10 · (side / lr_side)²`. Images are rounded to 8 bits before anything is measured.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddhub.artifact.folder import Artifact
from ddhub.data.decode import grid, tile_side
from ddhub.errors import UsageError, unknown
from ddhub.measures.utilisation import Proxy
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import DSA_OPS, Augment, Protocol
from ddhub.sources.source import Source
from recipes.gradients.contrast import KINDS, WEIGHTS, Contrast, Contrasting
from recipes.gradients.matching import DISTANCES, Matching, first_images, mixed
from recipes.gradients.outer import Real, outer_iteration
from recipes.gradients.regions import POLICIES, Search, Searching, candidates, evenness
from recipes.run import papers
from recipes.run.draws import scale
from recipes.run.papers import paper_rows
from recipes.run.plan import Plan, Step, training_rate
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.teachers import publish, teachers
from recipes.run.units import numbered

log = logging.getLogger(__name__)
_CHUNKS = 50  # stages that the outer iterations are cut into, at most

DEVIATIONS_IDC = [
    "The net's batches are those of the students' loader: the last of an epoch is smaller.",
    "Each data set uses its own mean and standard deviation; the official code has CIFAR-10's for CIFAR-100.",
    "Images are clipped, rounded to 8 bits and stored losslessly; the official code stores float32, as they are.",
    "Accuracy is that of the last epoch; the official code prints the best on the test set beside it.",
]
DEVIATIONS = [
    "A reconstruction of UDD from its abstract, not a reproduction: formulas, thresholds, sizes and schedules are not "
    "published there. What stands for them is an option of the recipe.",
    "IDC's multi-formation matching is the base. Regions have the side of a tile, lie on a grid of a quarter of it, "
    "not on the tiles, with an IoU of at most 0.5, and join the tiles in one cross-entropy.",
    "Use of a region: response-based, the mean of gradient times activation of the true class behind the last ReLU "
    "of a proxy; data-jittering-based, the KL divergence of its answers when noise is added there. The first for one "
    "image a class, the second for more.",
    "Regions are chosen again every hundredth of the outer iterations, give way only to one of less than 0.9 of their "
    "use, and stay after 70 % of the iterations.",
    "The contrastive loss is InfoNCE at temperature 0.1 of centred, normalised features of the matching net against "
    "class means; its gradient is weighted to a tenth of the matching loss's (--contrast-weight literal is weight 1).",
    "mUE is the mean entropy of the proxy's response maps over the stored images, 1 being even; the paper's formula is "
    "not known.",
    *DEVIATIONS_IDC,
]


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = field(default="cifar10", metadata=_help("real data to distil"))
    ipc: int = field(default=1, metadata=_help("stored images per class"))
    seed: int = field(default=0, metadata=_help("of nets, real batches, augmentation and regions"))
    factor: int = field(default=2, metadata=_help("tiles a side of a stored image (f); 1 is IDC-I"))

    n_outer: int = field(default=2000, metadata=_help("outer iterations, each with a new net"))
    inner: int = field(default=100, metadata=_help("inner iterations of an outer one"))
    n_data: int = field(default=2000, metadata=_help("real images the net is trained on after each"))
    batch_real: int = field(default=64, metadata=_help("real images of a class that are matched at once"))
    batch_syn: int = field(default=128, metadata=_help("formations of a class, at most"))
    net: str = field(default="convnet3", metadata=_help("architecture, a ConvNet with InstanceNorm"))
    distance: str = field(default="mse", metadata=_help(f"of gradients: {', '.join(DISTANCES)}"))
    lr: float = field(default=5e-3, metadata=_help("rate of the images at 10 images a class and side lr-side"))
    lr_side: int = field(default=32, metadata=_help("side of the images that the rate is for"))
    momentum: float = field(default=0.5, metadata=_help("of the images"))
    match_augment: str = field(default="color_crop_cutout", metadata=_help("of matched batches, joined by _"))
    net_augment: str = field(default="color_crop", metadata=_help("of the net's real images, joined by _"))
    cutmix: float = field(default=0.5, metadata=_help("share of the net's batches that CutMix mixes"))
    together: int = field(default=0, metadata=_help("classes computed at once; 0 is 1 on a CPU and 10 on a GPU"))

    regions: int = field(default=4, metadata=_help("regions of a stored image beside its tiles (k)"))
    policy: str = field(default="rbp", metadata=_help(f"that chooses them: {', '.join(POLICIES)}"))
    iou: float = field(default=0.5, metadata=_help("largest overlap of two regions"))
    jitters: int = field(default=4, metadata=_help("noises of jbp (J)"))
    sigma: float = field(default=0.1, metadata=_help("of the noise, in unit scale"))
    refresh_every: int = field(default=0, metadata=_help("outer iterations; 0 is a hundredth of them"))
    freeze: float = field(default=0.7, metadata=_help("share of the outer iterations after which regions stay"))
    proxy: str = field(default="convnet3", metadata=_help("architecture of the proxy, a ConvNet"))
    proxy_epochs: int = field(default=30, metadata=_help("of the proxy on the real data"))
    proxy_protocol: str = field(default="udd-proxy", metadata=_help("of the proxy"))

    contrast: str = field(default="cosine", metadata=_help(f"second loss: {', '.join(KINDS)}"))
    contrast_weight: str = field(default="balanced", metadata=_help(f"of it: {', '.join(WEIGHTS)}"))
    tau: float = field(default=0.1, metadata=_help("temperature of cosine"))
    rho: float = field(default=0.1, metadata=_help("of balanced: its gradient as a share of the matching loss's"))
    bank_every: int = field(default=1, metadata=_help("inner iterations after which the class means are made again"))
    bank_size: int = field(default=0, metadata=_help("formations of a class in its mean; 0 is all"))

    protocol: str = field(default="idc", metadata=_help("recommended to students"))
    student_epochs: int = field(default=0, metadata=_help("of students; 0 is the protocol's"))

    labels: ClassVar[str] = "hard"

    def __post_init__(self) -> None:
        known = {"distance": DISTANCES, "policy": POLICIES, "contrast": KINDS, "contrast_weight": WEIGHTS}
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise unknown(name, getattr(self, name), words)
        least = dict.fromkeys(("ipc", "factor", "n_outer", "inner", "batch_real", "batch_syn", "lr_side"), 1)
        least |= dict.fromkeys(("jitters", "proxy_epochs", "bank_every"), 1)
        least |= dict.fromkeys(("n_data", "together", "regions", "refresh_every", "bank_size", "student_epochs"), 0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {low} or more")
        for name in ("cutmix", "freeze", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        for name in ("lr", "sigma", "tau"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a finite number above 0")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}; it must be in [0, 1)")
        if not 0 <= self.rho < math.inf:
            raise UsageError(f"rho is {self.rho}; it must be a finite number, 0 or more")
        for op in self.match_augment.split("_"):
            if op not in DSA_OPS:
                raise unknown("operation in match_augment", op, DSA_OPS)
        for name in (self.net, self.proxy):
            if not re.fullmatch(r"convnet[3-6](-w[1-9][0-9]*)?", name):
                raise UsageError(f"net {name!r} is no ConvNet with InstanceNorm; use convnet3, or convnet3-wN")
        if self.factor == 1 and self.regions:
            raise UsageError(f"factor 1 has no tiles, and {self.regions} regions; use --regions 0 or --factor 2")
        training(self)  # raises what is wrong with its augmentation


def matching(cfg: Config, side: int, device: torch.device) -> Matching:
    """How images of a side in pixels are matched on a device."""
    same = ("seed", "net", "inner", "n_data", "batch_real", "batch_syn", "momentum", "distance")
    return Matching(
        rate=cfg.lr * cfg.ipc / 10 * (side / cfg.lr_side) ** 2,
        augment=tuple(cfg.match_augment.split("_")),
        together=cfg.together or (1 if device.type == "cpu" else 10),
        **{key: getattr(cfg, key) for key in same},
    )


def contrasting(cfg: Config) -> Contrasting:
    """How the contrastive loss is taken."""
    return Contrasting(
        kind=cfg.contrast,
        weight=cfg.contrast_weight,
        tau=cfg.tau,
        rho=cfg.rho,
        every=cfg.bank_every,
        most=cfg.bank_size,
    )


def search(cfg: Config) -> Search:
    """Which regions are looked for, and when."""
    return Search(
        count=cfg.regions,
        cap=cfg.iou,
        every=cfg.refresh_every or max(1, cfg.n_outer // 100),
        until=cfg.freeze * cfg.n_outer,
        **{key: getattr(cfg, key) for key in ("seed", "factor", "policy", "jitters", "sigma")},
    )


def training(cfg: Config) -> Protocol:
    """How the matching nets are trained on real images."""
    mix: dict[str, Any] = {"mix": "cutmix", "mix_probability": cfg.cutmix} if cfg.cutmix else {}
    augment = Augment(dsa=cfg.net_augment, dsa_form="idc", **mix)
    return Protocol(optimizer="sgd", lr=0.01, weight_decay=5e-4, schedule="steps", augment=augment)


def students(cfg: Config) -> Protocol:
    """The protocol that is recommended to students."""
    return protocol(cfg.protocol, epochs=cfg.student_epochs) if cfg.student_epochs else protocol(cfg.protocol)


def method(cfg: Config) -> str:
    """udd, or idc or idc-i where there is nothing of UDD."""
    if cfg.regions or cfg.contrast != "none":
        return "udd"
    return "idc" if cfg.factor > 1 else "idc-i"


PRESETS = read_presets(__file__, Config())
SMOKE = Config(
    dataset="cifar10-mini",
    n_outer=3,
    inner=2,
    n_data=64,
    batch_real=8,
    net="convnet3-w8",
    lr=0.05,
    regions=2,
    proxy="convnet3-w8",
    proxy_epochs=3,
    student_epochs=6,
)


def check(cfg: Config, source: Source) -> None:
    """Find out before anything is computed what cannot be.

    Raises:
        UsageError: a factor that does not fit the images, more regions than candidates, or a class with too few images.
    """
    side, needed = source.images.shape[2], cfg.factor**2 * cfg.ipc
    grid(side, source.images.shape[3], cfg.factor)
    count = len(candidates(tile_side(side, cfg.factor), cfg.factor))
    if cfg.regions > count:
        raise UsageError(f"regions is {cfg.regions}, and a stored image has {count} candidates; lower --regions")
    counts = torch.bincount(source.labels, minlength=len(source.classes))
    if int(counts.min()) < needed:
        name = source.classes[int(counts.argmin())]
        raise UsageError(
            f"ipc {cfg.ipc} starts from {needed} images of each class, but class {name!r} of {source.name!r} has "
            f"{int(counts.min())}; lower --ipc"
        )


def advance(
    cfg: Config, outers: range, state: dict[str, Tensor], look: Searching, real: Real, how: Matching
) -> dict[str, Tensor]:
    """The state after some outer iterations: images and velocity `[K, n, C, H, W]`, norms `[2]`, regions `[K · n, k]`.

    Regions are chosen at the start of an outer iteration.
    """
    state = {key: value.to(look.labels.device) for key, value in state.items()}
    images, velocity, regions = state["images"], state["velocity"], state["regions"]
    contrast = Contrast(contrasting(cfg), state["norms"]) if cfg.contrast != "none" else None
    for outer in outers:
        if cfg.regions and look.due(outer):
            old, now = regions, images.clamp(0, 1).flatten(0, 1)
            regions = look.chosen(now, outer, old if outer else None)
            changed = int((regions != old).sum()) if outer else regions.numel()
            log.info("outer iteration %d: %d regions are new", outer, changed)
        # slot after slot the images of a class: [K, (f² + k) · n, 2]
        corners = look.corners(regions).unflatten(0, images.shape[:2]).transpose(1, 2).flatten(1, 2)
        images, velocity = outer_iteration(outer, images, velocity, corners, look.side, real, how, contrast)
    norms = contrast.norms if contrast else state["norms"]
    return {"images": images, "velocity": velocity, "norms": norms, "regions": regions}


def chunks(cfg: Config) -> list[tuple[str, range]]:
    """(stage, outer iterations) of every stage of the matching."""
    size = -(-cfg.n_outer // _CHUNKS)
    parts = [range(first, min(first + size, cfg.n_outer)) for first in range(0, cfg.n_outer, size)]
    return list(zip(numbered("match", len(parts)), parts, strict=True))


def _settings(cfg: Config) -> dict[str, Any]:
    """What the images depend on, so that runs of other regions, losses and students share no more and no less."""
    unused = {"protocol", "student_epochs"}
    policy = cfg.policy if cfg.regions else ""
    if not policy:
        unused |= {"policy", "iou"}
    if policy not in ("rbp", "jbp"):
        unused |= {"proxy", "proxy_epochs", "proxy_protocol", "refresh_every", "freeze"}
    if policy != "jbp":
        unused |= {"jitters", "sigma"}
    if cfg.contrast == "none":
        unused |= {"contrast_weight", "tau", "rho", "bank_every", "bank_size"}
    return {key: value for key, value in asdict(cfg).items() if key not in unused}


def _corner_bytes(cfg: Config, side: int) -> int:
    """Bytes of a number of a region's corner, which is at most (f - 1) · s."""
    return 1 if (cfg.factor - 1) * tile_side(side, cfg.factor) < 256 else 4


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Stages with their image passes and the bytes of the artifact (see `recipes.Plan`)."""
    check(cfg, source)
    classes, stored = len(source.classes), len(source.classes) * cfg.ipc
    shown = min((cfg.factor**2 + cfg.regions) * cfg.ipc, cfg.batch_syn)
    # A formation is differentiated twice, which takes three passes; one of the bank is only looked at.
    images = classes * (cfg.batch_real + 3 * shown) + cfg.n_data
    if cfg.contrast != "none":
        images += classes * (cfg.bank_size or shown) // (3 * cfg.bank_every)
    trained = Step(
        stage=f"teacher-{cfg.proxy}",
        images=cfg.proxy_epochs * len(source.labels),
        rate=partial(training_rate, cfg.proxy, source, run),
    )
    rate = partial(training_rate, cfg.net, source, run)
    steps = [Step(stage=stage, images=len(outers) * cfg.inner * images, rate=rate) for stage, outers in chunks(cfg)]
    size = stored * (source.images[0].numel() + (1 if classes <= 256 else 2))
    size += stored * cfg.regions * 2 * _corner_bytes(cfg, source.images.shape[2])
    return Plan(steps=[Step(stage="select", images=0), trained, *steps], artifact_bytes=size)


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train")
    check(cfg, source)
    classes, side = len(source.classes), source.images.shape[2]
    needed = cfg.factor**2 * cfg.ipc
    rows = run.stage("select", lambda: {"rows": first_images(source, needed)}, {"images": needed})["rows"]
    nets, facts = teachers(run, source, (cfg.proxy,), cfg.proxy_epochs, cfg.seed, protocol=cfg.proxy_protocol)
    judge(facts[0], classes)

    labels = torch.arange(classes).repeat_interleave(cfg.ipc)
    look = Searching(search(cfg), Proxy(nets[0], *scale(source, run.device)), labels.to(run.device), side)
    real = Real(source, training(cfg), cfg.seed, cfg.batch_real, run.device)
    how, shared = matching(cfg, side, run.device), _settings(cfg)
    images = mixed(source.images[rows], cfg.factor)
    state = {
        "images": images,
        "velocity": torch.zeros_like(images),
        "norms": torch.zeros(2),
        "regions": torch.zeros(len(labels), cfg.regions, dtype=torch.long),
    }
    for stage, outers in chunks(cfg):
        work = partial(advance, cfg, outers, state, look, real, how)
        state = run.stage(stage, work, {**shared, "outer": [outers.start, outers.stop]})

    stored = (state["images"].clamp(0, 1) * 255).round().to(torch.uint8).flatten(0, 1)
    corners = look.corners(state["regions"].to(run.device))
    even, covered = evenness(look.maps(stored.to(run.device) / 255, corners))
    (proxy,) = publish(run, source, nets, facts)
    measured = {
        "mUE": round(even, 4),
        "mUE_cov": round(covered, 4),
        "proxy_accuracy": round(facts[0]["accuracy"], 2),
        "proxy": f"{proxy['name']}@{proxy['digest'][:12]}",
    }
    log.info("mUE %(mUE).3f, mUE_cov %(mUE_cov).3f under proxy %(proxy)s of %(proxy_accuracy).1f %%", measured)
    boxes = corners[:, cfg.factor**2 :].cpu().to(torch.uint8 if _corner_bytes(cfg, side) == 1 else torch.int32)
    tiled = cfg.factor > 1
    is_udd = method(cfg) == "udd"
    return run.write(
        images=stored,
        image_labels=labels,
        tensors={"decoder.boxes": boxes} if cfg.regions else {},
        decoder={"kind": "crops", "factor": cfg.factor, "side": look.side} if tiled else {"kind": "identity"},
        labels={"kind": "hard"},
        protocol=students(cfg),
        teachers=facts if cfg.regions and cfg.policy != "random" else [],
        citation="\n".join([papers.UDD, papers.IDC] if is_udd else [papers.IDC]),
        deviations=DEVIATIONS if is_udd else DEVIATIONS_IDC,
        paper=paper_rows(papers.IDC_TABLE if tiled else papers.IDC_I_TABLE, cfg, "IDC" if tiled else "IDC-I"),
        method=method(cfg),
        measured=measured,
    )


def judge(fact: dict[str, Any], classes: int) -> None:
    """UsageError for a proxy that knows no more than chance does, which 1,000 test images tell to 3 deviations."""
    chance = 1 / classes
    least = 100 * (chance + 3 * math.sqrt(chance * (1 - chance) / 1000))
    if fact["accuracy"] < least:
        raise UsageError(
            f"proxy {fact['model']} is right on {fact['accuracy']:.1f} % of the test images, about chance "
            f"({100 * chance:.1f} %), and tells nothing of regions; raise --proxy-epochs"
        )

"""UDD: stored images cut into enlarged squares, little used ones too (arXiv 2408.16268); IDC (arXiv 2205.14959) below.

    select  the first f² · ipc images of a class; each shrunk to a tile, f · f tiles a stored image
    proxy   a net trained on the real images: it says how much of a stored image is used      `gradients/regions.py`
    match   outer iterations of a new net: images whose gradients are those of real ones      `gradients/outer.py`,
            from the tiles and k little used regions of each, chosen anew as they change      `gradients/matching.py`
            beside it, features of a class near its own mean, far from those of the others    `gradients/contrast.py`

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
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddhub.artifact.folder import Artifact
from ddhub.data.decode import grid, tile_side
from ddhub.data.transfer import sent
from ddhub.errors import UsageError, unknown
from ddhub.measures.utilisation import Proxy
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import DSA_OPS, Augment, Protocol
from ddhub.sources.source import Source
from recipes.gradients.contrast import KINDS, WEIGHTS, Contrasting
from recipes.gradients.matching import DISTANCES, Matching, first_images, mixed
from recipes.gradients.outer import Matcher, Real
from recipes.gradients.regions import POLICIES, Search, Searching, candidates, evenness
from recipes.run import papers
from recipes.run.draws import quantised, require_images, scale
from recipes.run.options import check_options, option
from recipes.run.papers import paper_rows
from recipes.run.plan import Plan, Step, net
from recipes.run.presets import read_presets
from recipes.run.run import Run
from recipes.run.straight_through import codec_every, in_loop
from recipes.run.teachers import publish, teachers
from recipes.run.units import parts

log = logging.getLogger(__name__)
_CHUNKS = 50  # stages that the outer iterations are cut into, at most
_MATCH = 24  # kernels of a match of ten classes at once, by those of a forward and backward pass: 804 for convnet3


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = option("cifar10", "real data to distil")
    ipc: int = option(1, "stored images a class", low=1)
    seed: int = option(0, "seed of nets, batches, views and regions")
    factor: int = option(2, "tiles a side of a stored image; 1: IDC-I", low=1)

    n_outer: int = option(2000, "outer iterations, each with a new net", low=1)
    inner: int = option(100, "inner iterations of an outer one", low=1)
    n_data: int = option(2000, "real images the net is trained on in each", low=0)
    batch_real: int = option(64, "real images of a class in a match", low=1)
    batch_syn: int = option(128, "distilled images of a class in a match", low=1)
    net: str = option("convnet3", "matching net, a ConvNet with InstanceNorm")
    distance: str = option("mse", f"distance of gradients: {', '.join(DISTANCES)}", choices=tuple(DISTANCES))
    lr: float = option(5e-3, "images' learning rate at ipc 10", over=0)
    lr_side: int = option(32, "side in pixels that lr is meant for", low=1)
    momentum: float = option(0.5, "momentum of the images", low=0, under=1)
    match_augment: str = option("color_crop_cutout", "DSA of matched batches, joined by _")
    net_augment: str = option("color_crop", "DSA of the net's real images, joined by _")
    cutmix: float = option(0.5, "share of the net's batches with CutMix", low=0, high=1)
    together: int = option(0, "classes at once; 0: 1 on a CPU, 10 on a GPU", low=0)
    codec_every: int = codec_every()

    regions: int = option(4, "regions of an image beside its tiles (k)", low=0)
    policy: str = option("rbp", f"choice of regions: {', '.join(POLICIES)}", choices=tuple(POLICIES))
    iou: float = option(0.5, "largest overlap of two regions", low=0, high=1)
    jitters: int = option(4, "noises of the policy jbp (J)", low=1)
    sigma: float = option(0.1, "deviation of the noise, in unit scale", over=0)
    refresh_every: int = option(0, "outer iterations; 0: a hundredth of them", low=0)
    freeze: float = option(0.7, "share of n_outer after which regions stay", low=0, high=1)
    proxy: str = option("convnet3", "net of the proxy, a ConvNet")
    proxy_epochs: int = option(30, "epochs of the proxy on the real data", low=1)
    proxy_protocol: str = option("udd-proxy", "protocol of the proxy")

    contrast: str = option("cosine", f"contrastive loss: {', '.join(KINDS)}", choices=tuple(KINDS))
    contrast_weight: str = option("balanced", f"its weight: {', '.join(WEIGHTS)}", choices=tuple(WEIGHTS))
    tau: float = option(0.1, "temperature of the contrastive loss", over=0)
    rho: float = option(0.1, "its gradient as a share of the matching's", low=0)
    bank_every: int = option(1, "inner iterations between new class means", low=1)
    bank_size: int = option(0, "images of a class in its mean; 0: all", low=0)

    protocol: str = option("idc", "protocol recommended to students")
    student_epochs: int = option(0, "epochs of students; 0: the protocol's", low=0)

    size: int = option(0, "side of the images, px; 0: the data's", low=0)

    labels: ClassVar[str] = "hard"

    def __post_init__(self) -> None:
        check_options(self)
        for op in self.match_augment.split("_"):
            if op not in DSA_OPS:
                raise unknown("operation in match_augment", op, DSA_OPS)
        for name in (self.net, self.proxy):
            if not re.fullmatch(r"convnet[3-6](-w[1-9][0-9]*)?", name):
                raise UsageError(f"net {name!r} is not a ConvNet with InstanceNorm; use convnet3, or convnet3-wN")
        if self.factor == 1 and self.regions:
            raise UsageError(f"factor 1 has no tiles, and {self.regions} regions; use --regions 0 or --factor 2")
        training(self)  # raises UsageError for an augmentation that cannot be


def matching(cfg: Config, side: int, device: torch.device) -> Matching:
    """How images of a side in pixels are matched on a device."""
    same = ("seed", "net", "inner", "n_data", "batch_real", "batch_syn", "momentum", "distance")
    return Matching(
        rate=cfg.lr * cfg.ipc / 10 * (side / cfg.lr_side) ** 2,
        augment=tuple(cfg.match_augment.split("_")),
        together=cfg.together or (1 if device.type == "cpu" else 10),
        **{key: getattr(cfg, key) for key in same},
    )


def contrasting(cfg: Config) -> Contrasting | None:
    """How the contrastive loss is taken, if it is."""
    if cfg.contrast == "none":
        return None
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
SMOKE = PRESETS.smoke


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
    require_images(source, needed, f"ipc {cfg.ipc} starts from {needed} images of each class")


def advance(
    cfg: Config, outers: range, state: dict[str, Tensor], look: Searching, matcher: Matcher
) -> dict[str, Tensor]:
    """The state after some outer iterations: that of `Matcher.state`, and regions `[K · n, k]`.

    Regions are chosen at the start of an outer iteration.
    """
    learned = {key: sent(value, matcher.device) for key, value in state.items()}
    regions = learned.pop("regions")
    matcher.start(**learned)
    for outer in outers:
        if cfg.regions and look.due(outer):
            matcher.report()  # the choice waits for the device too, and is of no use where an image is not a number
            old, now = regions, matcher.shown().clamp(0, 1).flatten(0, 1)
            regions = look.chosen(now, outer, old if outer else None)
            changed = int((regions != old).sum()) if outer else regions.numel()
            log.info("outer iteration %d: %d regions are new", outer, changed)
        # slot after slot the images of a class: [K, (f² + k) · n, 2]
        corners = look.corners(regions).unflatten(0, matcher.images.shape[:2]).transpose(1, 2).flatten(1, 2)
        matcher.iterate(outer, corners)
    return {**matcher.state(), "regions": regions}


def chunks(cfg: Config) -> list[tuple[str, range]]:
    """(stage, outer iterations) of every stage of the matching."""
    return parts("match", cfg.n_outer, _CHUNKS)


def _settings(cfg: Config) -> dict[str, Any]:
    """What the images depend on, so that runs of other regions, losses and students share no more and no less."""
    # the key of a stage has the images themselves, and a codec in the loop where there is one
    unused = {"protocol", "student_epochs", "codec_every", "size"}
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


def items(cfg: Config, classes: int) -> int:
    """Items that a student sees in an epoch: tiles and regions, enlarged."""
    return classes * cfg.ipc * (cfg.factor**2 + cfg.regions)


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Stages with their image passes and the bytes of the artifact (see `recipes.Plan`)."""
    check(cfg, source)
    classes, stored = len(source.classes), len(source.classes) * cfg.ipc
    shown = min((cfg.factor**2 + cfg.regions) * cfg.ipc, cfg.batch_syn)
    # A formation is differentiated twice, which takes three passes; one of the bank is only looked at.
    images = classes * (cfg.batch_real + 3 * shown) + cfg.n_data
    if cfg.contrast != "none":
        images += classes * (cfg.bank_size or shown) // (3 * cfg.bank_every)
    trained = net(cfg.proxy, source, run).teacher(len(source.labels), cfg.proxy_epochs, cfg.proxy_protocol)
    matched, steps = net(cfg.net, source, run, precision="fp32"), []
    launches = -(-classes // (cfg.together or 10)) * _MATCH * matched.cost.both
    launches += -(-cfg.n_data // training(cfg).batch_size) * matched.cost.step
    for stage, outers in chunks(cfg):
        count = len(outers) * cfg.inner
        steps.append(matched.step(stage, count * images, count * launches))
    size = stored * (source.images[0].numel() + (1 if classes <= 256 else 2))
    size += stored * cfg.regions * 2 * _corner_bytes(cfg, source.images.shape[2])
    return Plan(steps=[Step(stage="select", images=0), trained, *steps], artifact_bytes=size, images=stored)


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    check(cfg, source)
    classes, side, loop = len(source.classes), source.images.shape[2], in_loop(cfg, run, source, normalised=False)
    needed = cfg.factor**2 * cfg.ipc
    rows = run.stage("select", lambda: {"rows": first_images(source, needed)}, {"images": needed})["rows"]
    nets, records = teachers(run, source, (cfg.proxy,), cfg.proxy_epochs, cfg.seed, protocol=cfg.proxy_protocol)
    judge(records[0], classes)

    labels = torch.arange(classes).repeat_interleave(cfg.ipc)
    look = Searching(search(cfg), Proxy(nets[0], *scale(source, run.device)), labels.to(run.device), side)
    real = Real(source, training(cfg), cfg.seed, cfg.batch_real, run.device)
    images, shared = mixed(source.images[rows], cfg.factor), _settings(cfg) | loop.settings
    matcher = Matcher(images, look.side, real, matching(cfg, side, run.device), contrasting(cfg), loop)
    state = {
        "images": images,
        "velocity": torch.zeros_like(images),
        "norms": torch.zeros(2),
        "regions": torch.zeros(len(labels), cfg.regions, dtype=torch.long),
    }
    for stage, outers in chunks(cfg):
        work = partial(advance, cfg, outers, state, look, matcher)
        state = run.stage(stage, work, {**shared, "outer": [outers.start, outers.stop]})

    unit = torch.zeros(()), torch.ones(())  # mean and standard deviation of unit scale
    stored = run.coded(quantised(state["images"].flatten(0, 1), *unit), labels)
    corners = look.corners(state["regions"].to(run.device))
    even, covered = evenness(look.maps(stored.to(run.device) / 255, corners))
    (proxy,) = publish(run, source, nets, records)
    measured = {
        "mUE": round(even, 4),
        "mUE_cov": round(covered, 4),
        "proxy_accuracy": round(records[0]["accuracy"], 2),
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
        teachers=records if cfg.regions and cfg.policy != "random" else [],
        citation="\n".join([papers.UDD, papers.IDC] if is_udd else [papers.IDC]),
        deviations=[*(PRESETS.deviations["udd"] if is_udd else []), *PRESETS.deviations["idc"], *loop.deviations],
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

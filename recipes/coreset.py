"""Coreset: chosen real images of every class, coded small, with the soft labels of the strongest teachers at hand.

    random      drawn uniformly
    herding     one after the other, so that their mean feature stays closest to the class's (Welling, 2009)
    confident   those of which the teachers are surest
    medium      those of median confidence
    spread      one after the other the farthest from all before it, the first nearest to the mean (k-centres, Sener &
                Savarese, 2018, arXiv 1708.00489)

    labels      mean logits of the teachers, one vector an image: on the images as students see them (`stored`), or as
                they were before coding and shrinking (`original`)
    factor f    f² images of a class share the room of one, shrunk to 1/f of the side (IDC's multi-formation, Kim et
                al., 2022, arXiv 2205.14959, without its optimisation); students see them enlarged

What a lossy codec and soft labels buy with no distillation at all: at equal bytes the baseline of every method. A
picture of all images of a class costs a twentieth of PNG, so that there are more of them (`--encoding`, `--bytes`).
Features are those in front of the first teacher's last layer; confidence is the probability of the class in the mean of
the teachers' answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub import models
from ddhub import teachers as artifacts
from ddhub.artifact.folder import Artifact
from ddhub.data.decode import Crops, Decoder, Identity, tile_side
from ddhub.data.transfer import sent
from ddhub.errors import UsageError
from ddhub.protocols.named import protocol
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from recipes.run import papers
from recipes.run.draws import generator, scale, select
from recipes.run.labels import static_logits
from recipes.run.options import check_options, option
from recipes.run.plan import Plan, Step, joined, net
from recipes.run.presets import read_presets
from recipes.run.run import Run

POLICIES = ("random", "herding", "confident", "medium", "spread")


@dataclass(frozen=True, kw_only=True)
class Config:
    dataset: str = option("cifar10", "real data to choose from")
    ipc: int = option(100, "images a class", low=1)
    seed: int = option(0, "seed of a random choice")
    policy: str = option("random", f"which images: {', '.join(POLICIES)}", choices=POLICIES)
    teachers: tuple[str, ...] = option((), "teachers by name; none: the strongest at hand")
    within: float = option(3.0, "percent that those may be behind the strongest", low=0)
    factor: int = option(1, "images along a side of a stored one", low=1)
    labels_of: str = option("stored", "labels on images: stored, original", choices=("stored", "original"))
    temperature: float = option(1.0, "temperature of the students' loss", over=0)
    protocol: str = option("coreset", "protocol recommended to students")
    student_epochs: int = option(0, "epochs of students; 0: the protocol's", low=0)
    size: int = option(0, "side of the images, px; 0: the data's", low=0)

    def __post_init__(self) -> None:
        check_options(self)


PRESETS = read_presets(__file__, Config())
SMOKE = PRESETS.smoke


def students(cfg: Config) -> Protocol:
    """The protocol that is recommended to students."""
    return protocol(cfg.protocol, epochs=cfg.student_epochs) if cfg.student_epochs else protocol(cfg.protocol)


def judges(cfg: Config, source: Source) -> dict[Path, dict[str, Any]]:
    """What is known of the teachers by their folders, the strongest first.

    Raises:
        UsageError: no teacher at hand, or one of other data.
    """

    def fits(fact: dict[str, Any]) -> bool:
        return (tuple(fact["image_size"]), tuple(fact["classes"])) == (tuple(source.images.shape[1:]), source.classes)

    folders = [artifacts.resolve(name) for name in cfg.teachers or artifacts.catalog()]
    known = {folder: artifacts.read(folder) for folder in folders}
    if cfg.teachers and (strange := next((x["name"] for x in known.values() if not fits(x)), "")):
        raise UsageError(f"teacher {strange} is of other images or classes than {source.name}; name another")
    known = {folder: fact for folder, fact in known.items() if fits(fact)}
    if not known:
        cause = f"no teacher of {source.name} with images of {source.images.shape[3]} px is at hand"
        raise UsageError(f"{cause}; name one with --teachers, or train one (tools/train_teacher.py)")
    best = max(x["accuracy"] for x in known.values())
    close = (x for x in known.items() if cfg.teachers or x[1]["accuracy"] >= best - cfg.within)
    return dict(sorted(close, key=lambda x: (-x[1]["accuracy"], x[1]["name"])))


@torch.no_grad()
def looked_at(nets: list[nn.Module], images: Tensor, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """`logits` f32 `[N, C]`, the mean of the nets', and `features` f32 `[N, D]` of the first, of images u8, on the CPU.

    Raises:
        UsageError: a first net without a last layer of its own.
    """
    first = nets[0]
    if not isinstance(first, models.Net):
        raise UsageError(f"features need a net of ddhub.models, not {type(first).__name__}; name another teacher first")
    logits, features = [], []
    for part in images.split(500):
        x = ((sent(part, mean.device).float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        inner = first.features(x)
        logits.append(torch.stack([first.head(inner), *(other(x) for other in nets[1:])]).mean(0).float())
        features.append(inner.float())
    return {"logits": torch.cat(logits).cpu(), "features": torch.cat(features).cpu()}


def herding(features: Tensor, count: int) -> Tensor:
    """Rows `[count]` of features `[N, D]` whose running mean stays closest to the mean of all."""
    aim, total = features.mean(0), torch.zeros(features.shape[1])
    free, rows = torch.ones(len(features), dtype=torch.bool), []
    for number in range(1, count + 1):
        gaps = ((total + features) / number - aim).square().sum(1)
        row = int(torch.where(free, gaps, torch.inf).argmin())
        rows.append(row)
        free[row] = False
        total = total + features[row]
    return torch.tensor(rows)


def spread(features: Tensor, count: int) -> Tensor:
    """Rows `[count]` of features `[N, D]`: the nearest to their mean, then always the farthest from all chosen."""
    rows = [int((features - features.mean(0)).square().sum(1).argmin())]
    gaps = torch.full((len(features),), torch.inf)
    while len(rows) < count:
        gaps = torch.minimum(gaps, (features - features[rows[-1]]).square().sum(1))
        gaps[rows[-1]] = -1
        rows.append(int(gaps.argmax()))
    return torch.tensor(rows)


def chosen(cfg: Config, source: Source, seen: Callable[[Tensor], dict[str, Tensor]]) -> Tensor:
    """Rows of the images, class by class.

    Args:
        cfg: policy, number and seed.
        source: the real images.
        seen: what `looked_at` returns of rows.

    Raises:
        UsageError: more images than a class has.
    """
    count = cfg.ipc * cfg.factor**2
    drawn = select(source, count, generator(cfg.seed, "select"))  # raises what is wrong with the number
    if cfg.policy == "random":
        return drawn
    rows = []
    for label in range(len(source.classes)):
        members = (source.labels == label).nonzero().flatten()
        found = seen(members)
        if cfg.policy in ("herding", "spread"):
            order = (herding if cfg.policy == "herding" else spread)(found["features"], count)
        else:
            sureness = found["logits"].softmax(1)[:, label]
            away = -sureness if cfg.policy == "confident" else (sureness - sureness.median()).abs()
            order = away.argsort(stable=True)[:count]
        rows.append(members[order])
    return torch.cat(rows)


def mosaics(images: Tensor, factor: int) -> Tensor:
    """Stored images u8 `[K, n, C, H, W]` of real ones `[K, f² · n, C, H, W]`: number k · n + i is tile k of image i.

    Tiles are shrunk with antialiasing; the factor divides the side.
    """
    classes, count, channels, height, width = images.shape
    size = (height // factor, width // factor)
    small = F.interpolate(images.flatten(0, 1).float(), size, mode="bilinear", antialias=True, align_corners=False)
    tiles = small.round().clamp(0, 255).to(torch.uint8).view(classes, factor, factor, -1, channels, *size)
    joined: Tensor = tiles.permute(0, 3, 4, 1, 5, 2, 6).reshape(classes, count // factor**2, channels, height, width)
    return joined


def stored(cfg: Config, source: Source, run: Run) -> tuple[Tensor, Tensor]:
    """The images u8 before coding, and their classes."""
    classes = torch.arange(len(source.classes)).repeat_interleave(cfg.ipc)
    images = source.images[rows_of(cfg, source, run)]
    if cfg.factor == 1:
        return images, classes
    return mosaics(images.unflatten(0, (len(source.classes), -1)), cfg.factor).flatten(0, 1), classes


def rows_of(cfg: Config, source: Source, run: Run) -> Tensor:
    """Rows of the real images, class by class."""
    folders = judges(cfg, source)
    mean, std = scale(source, run.device)

    def everything() -> dict[str, Tensor]:
        work = partial(looked_at, _opened(run, folders), source.images, mean, std)
        return run.stage("features", work, {"teachers": digests})

    found: dict[str, Tensor] = {}

    def seen(rows: Tensor) -> dict[str, Tensor]:
        found.update(found or everything())
        return {name: value[rows] for name, value in found.items()}

    digests = [x["digest"] for x in folders.values()]
    asked = {"policy": cfg.policy, "images": cfg.ipc * cfg.factor**2, "seed": cfg.seed}
    if cfg.policy != "random":
        asked |= {"teachers": digests}
        return run.stage("select", lambda: {"rows": chosen(cfg, source, seen)}, asked)["rows"]
    return chosen(cfg, source, seen)


def _opened(run: Run, folders: Iterable[Path]) -> list[nn.Module]:
    """The teachers on the run's device, frozen."""
    nets = [artifacts.open_teacher(folder)[0] for folder in folders]
    moved = [net.to(run.device, memory_format=torch.channels_last) for net in nets]  # type: ignore[call-overload]
    return [net.eval().requires_grad_(False) for net in moved]


def plan(cfg: Config, source: Source, run: Run) -> Plan:
    """Teachers look at every image where the policy asks for it, and at the chosen ones (see `recipes.Plan`)."""
    check(cfg, source)
    stored_images, classes = cfg.ipc * len(source.classes), len(source.classes)
    items = stored_images * cfg.factor**2
    looks = len(source.labels) if cfg.policy != "random" else 0
    nets = [net(fact["model"], source, run) for fact in judges(cfg, source).values()]
    looked = {stage: joined(stage, [each.looked(stage, count) for each in nets])
              for stage, count in (("features", looks), ("labels", items))}  # fmt: skip
    steps = [looked["features"], Step(stage="select", images=0), looked["labels"]]
    size = stored_images * (source.images[0].numel() + (1 if classes <= 256 else 2))
    label_bytes = 2 * items * classes
    return Plan(steps=steps, artifact_bytes=size + label_bytes, images=stored_images, label_bytes=label_bytes)


def check(cfg: Config, source: Source) -> None:
    """UsageError for a factor that does not divide the side."""
    if source.images.shape[2] % cfg.factor:
        raise UsageError(f"factor {cfg.factor} does not divide images of {source.images.shape[2]} px; choose another")


def distill(cfg: Config, run: Run) -> Artifact:
    source = run.source(cfg.dataset, "train", cfg.size or None)
    check(cfg, source)
    known = judges(cfg, source)
    nets, facts = _opened(run, known), list(known.values())
    images, classes = stored(cfg, source, run)
    images, unit = run.coded(images, classes), [(0, 1)] * images.shape[1]
    side = tile_side(images.shape[2], cfg.factor)
    shown: Decoder = Crops(images, cfg.factor, None, unit) if cfg.factor > 1 else Identity(images, unit)
    kind = {"kind": "crops", "factor": cfg.factor, "side": side} if cfg.factor > 1 else {"kind": "identity"}
    if cfg.labels_of == "original":  # of item slot · N + n, image n of its class
        rows = rows_of(cfg, source, run).view(len(source.classes), cfg.factor**2, cfg.ipc)
        shown = Identity(source.images[rows.transpose(0, 1).flatten()], unit)
    work = partial(static_logits, nets, shown.to(run.device), *scale(source, run.device))
    asked = {
        **{key: getattr(cfg, key) for key in ("policy", "ipc", "seed", "factor", "labels_of")},
        **{"teachers": [x["digest"] for x in facts], **run.seen},
    }
    logits = run.stage("labels", lambda: {"logits": work()}, asked)["logits"]
    told = ("model", "accuracy", "epochs", "seed")
    return run.write(
        images=images,
        image_labels=classes,
        tensors={"labels.logits": logits},
        decoder=kind,
        labels={"kind": "soft", "temperature": cfg.temperature},
        protocol=students(cfg),
        teachers=[
            {**{key: x[key] for key in told}, "protocol": x["protocol"].get("name", "pretrained")} for x in facts
        ],
        citation=papers.IDC if cfg.factor > 1 else "",
        deviations=[],
        paper=[],
    )

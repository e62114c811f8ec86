"""Discovery: the patches of every class that a teacher finds critical and is sure or unsure of.

    boxes       `crops` random squares an image, of `crop_area` to all of its pixels
    confidence  softmax(T(patch))[y]; the patch has a side of S / f and lies on the mean colour, S x S
    choice      of every image the `top` patches by CAM ratio, or without CAM by confidence; then of every class the
                first by confidence, as many as its mosaics need

NRR-DD (arXiv 2503.18267) wants critical patches that the teacher is least sure of; RDED (arXiv 2312.03526), whose
squares and padding these are, those that it is surest of, without CAM. Images are read in batches of bounded size, and
only boxes and numbers are kept of them, on the device until the class is done; whole classes are units of work.

    found = search(Scoring(net, how, mean=mean, std=std), images, rows, label=3, count=10, seed=0)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ddhub.data.geometry import WINDOW_COLUMNS, windows
from ddhub.data.transfer import sent
from ddhub.errors import UsageError, unknown
from ddhub.measures.cam import attention, cam
from ddhub.sources.source import Source
from ddhub.training.capture import Captured
from recipes.patches.patches import RATIOS, box_ratios, cut
from recipes.run.draws import generator, normalised, scale
from recipes.run.run import Run
from recipes.run.units import numbered, units

CONFIDENCES = ("lowest", "highest", "random")
GUARDS = ("none", "median", "top5")
_NUMBERS = ("confidence", "ratio", "ahead", "wanted")  # of a patch; `ahead` are likelier classes, `wanted` is its rank
PIXELS = 2**20  # of a batch: about 0.3 GB of activations a ResNet-18 with 16 channels, 1.2 GB with 64


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which patches are looked for.

    Attributes:
        crops: boxes an image.
        crop_area: least share of an image that a box covers, in (0, 1].
        top: patches that are kept of an image.
        factor: f; a patch has a side of S / f.
        cam_ratio: density, mass or share; empty if no CAM is used.
        epsilon: ε of `share`.
        confidence: lowest, highest or random: which patches come first.
        guard: what is dropped: none; `median`, patches whose ratio is below that of their class; `top5`, patches
            whose class is not among the teacher's first five.
    """

    crops: int
    crop_area: float
    top: int
    factor: int
    cam_ratio: str
    epsilon: float
    confidence: str
    guard: str

    def __post_init__(self) -> None:
        for name, known in (("cam_ratio", ("", *RATIOS)), ("confidence", CONFIDENCES), ("guard", GUARDS)):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), filter(None, known))
        if not 0 < self.crop_area <= 1:
            raise UsageError(f"crop_area is {self.crop_area:g}; it must be in (0, 1]")
        if not 1 <= self.top <= self.crops:
            raise UsageError(
                f"top is {self.top} of {self.crops} squares an image; use 1 or more, and no more than crops"
            )
        if self.factor < 1:
            raise UsageError(f"factor is {self.factor}; use 1 or more")
        if self.guard == "median" and not self.cam_ratio:
            raise UsageError("guard 'median' is one of CAM ratios, and there are none; use it with CAM")


class Scoring:
    """What a teacher says of squares of images, batch by batch: a captured step (`ddhub.training.capture`).

    Args:
        net: the teacher, frozen, in eval mode.
        settings: which patches are looked for.
        mean, std: of the net's images, `[C, 1, 1]`, on its device.
    """

    def __init__(self, net: nn.Module, settings: Search, *, mean: Tensor, std: Tensor) -> None:
        self.net, self.settings, self.mean, self.std = net, settings, mean, std
        self.step = Captured(self._work, mean.device, "a batch of patches")

    def __call__(self, images: Tensor, label: int, boxes: Tensor, keys: Tensor) -> Tensor:
        """The kept patches of a batch: `[N, top, 8]` float64, the columns of `_NUMBERS` behind the box.

        The next call overwrites it. Tensors are sent to the device.

        Args:
            images: u8 `[N, C, S, S]` of a class.
            label: the class.
            boxes: squares of each image, `[N, crops, 4]`.
            keys: a random rank of each, `[N, crops]`.
        """
        device = self.mean.device
        classes = torch.full((len(images),), label, device=device)
        return self.step(sent(images, device), classes, sent(boxes, device), sent(keys, device))

    def _work(self, images: Tensor, classes: Tensor, box: Tensor, key: Tensor) -> Tensor:
        settings, side = self.settings, images.shape[3]
        ratio = torch.zeros(box.shape[:2], dtype=torch.float64, device=box.device)
        if settings.cam_ratio:
            maps = cam(self.net, normalised(images, self.mean, self.std), classes)
            ratio = box_ratios(attention(maps, (side, side)), box, settings.cam_ratio, settings.epsilon)
            box, key, ratio = _take(ratio, settings.top, box, key, ratio)
        kept = box.shape[1]
        patches = cut(images.repeat_interleave(kept, 0), box.flatten(0, 1), side // settings.factor)
        patches = normalised(patches, self.mean, self.std)
        sureness, ahead = _sureness(self.net, patches, classes.repeat_interleave(kept), side)
        sureness, ahead = sureness.view(-1, kept), ahead.view(-1, kept)
        wanted = {"lowest": -sureness, "highest": sureness, "random": key}[settings.confidence]
        if not settings.cam_ratio:
            box, sureness, ahead, ratio, wanted = _take(wanted, settings.top, box, sureness, ahead, ratio, wanted)
        numbers = [value.double() for value in (sureness, ratio, ahead, wanted)]  # float64 holds each exactly
        return torch.cat([box.double(), torch.stack(numbers, dim=2)], dim=2)


def search(scoring: Scoring, images: Tensor, rows: Tensor, label: int, count: int, seed: int) -> dict[str, Tensor]:
    """The patches of one class, first those that its mosaics want most.

    Args:
        scoring: the teacher, and which patches are looked for.
        images: all real images, u8 `[.., C, S, S]`, which may be a memory map.
        rows: those of the class that are looked at.
        label: the class.
        count: how many are wanted.
        seed: of boxes and of a random order.

    Returns:
        On the CPU, for each of `count` patches: `rows` and `boxes` `[count, 4]`, the place where it is; `confidence`;
        `ratio`, which is 0 without CAM.

    Raises:
        UsageError: fewer patches than wanted, or a net that has no CAM.
    """
    side, settings = images.shape[3], scoring.settings
    draws, order = generator(seed, "boxes", label), generator(seed, "order", label)
    kept = settings.top if settings.cam_ratio else settings.crops
    # One pool from the start: small results of each batch, left between its large blocks, would let the heap grow.
    pool = torch.empty(len(rows) * settings.top, 4 + len(_NUMBERS), dtype=torch.float64, device=scoring.mean.device)
    for part in torch.arange(len(rows)).split(max(1, PIXELS // (side * side * kept))):
        u = torch.rand(len(part) * settings.crops, WINDOW_COLUMNS, generator=draws, dtype=torch.float64)
        keys = torch.rand(len(part), settings.crops, generator=order)
        boxes = windows(u, (side, side), settings.crop_area, (1, 1)).view(len(part), settings.crops, 4)
        block = slice(int(part[0]) * settings.top, (int(part[-1]) + 1) * settings.top)
        pool[block] = scoring(images[rows[part]], label, boxes, keys).flatten(0, 1)
    found = pool.cpu()
    boxes, numbers = found[:, :4].long(), dict(zip(_NUMBERS, found[:, 4:].unbind(1), strict=True))
    numbers["confidence"] = numbers["confidence"].float()
    return _choose(
        {"rows": rows.repeat_interleave(settings.top), "boxes": boxes, **numbers}, settings.guard, count, label
    )


def _take(rank: Tensor, top: int, *values: Tensor) -> list[Tensor]:
    """Of values `[N, M, ...]` the `top` of each row with the greatest rank `[N, M]`, the earlier of equal ones."""
    order = torch.argsort(rank, dim=1, descending=True, stable=True)[:, :top]
    rows = torch.arange(len(rank), device=rank.device)[:, None]
    return [value[rows, order] for value in values]


@torch.no_grad()
def _sureness(net: nn.Module, patches: Tensor, classes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The probability of their classes for patches `[N, C, P, P]`, and how many classes are likelier; `[N]` each."""
    before = (side - patches.shape[3]) // 2
    after = side - patches.shape[3] - before
    logits = net(F.pad(patches, (before, after, before, after))).float()
    own = logits.gather(1, classes[:, None])
    return F.softmax(logits, dim=1).gather(1, classes[:, None]).squeeze(1), (logits > own).sum(1)


def _choose(pool: dict[str, Tensor], guard: str, count: int, label: int) -> dict[str, Tensor]:
    """The `count` patches of a pool that are wanted most, without those that the guard drops."""
    good = torch.ones(len(pool["rows"]), dtype=torch.bool)
    if guard == "median":
        good = pool["ratio"] >= pool["ratio"].median()
    elif guard == "top5":
        good = pool["ahead"] < 5
    if int(good.sum()) < count:
        raise UsageError(
            f"class {label} has {int(good.sum())} patches of {len(good)} left by guard {guard!r}, {count} are needed; "
            "raise --mipc or --top, or lower --ipc"
        )
    order = torch.argsort(torch.where(good, pool["wanted"], -torch.inf), descending=True, stable=True)[:count]
    return {name: pool[name][order] for name in ("rows", "boxes", "confidence", "ratio")}


def discovery_units(images: int, classes: int, side: int) -> list[tuple[str, range]]:
    """(stage, classes) of every unit of work, for so many images of `side` pixels a class."""
    parts = units(classes, images * side**2, times=64)
    return list(zip(numbered("discover", len(parts)), parts, strict=True))


def discover(
    run: Run,
    source: Source,
    net: nn.Module,
    rows: Tensor,
    search_settings: Search,
    count: int,
    seed: int,
    settings: dict[str, Any],
) -> dict[str, Tensor]:
    """What `search` finds in every class, `[C, count, ...]` by name; units of classes are stages of the run.

    Args:
        run: names the device.
        source: the real images.
        net: the teacher, on the device.
        rows: those that are looked at, `[C, images]`, class by class.
        search_settings, count, seed: as for `search`.
        settings: what the result depends on, but for the classes of a unit.

    Raises:
        UsageError: as `search`.
    """
    mean, std = scale(source, run.device)

    def work(labels: range) -> dict[str, Tensor]:
        scoring = Scoring(net, search_settings, mean=mean, std=std)
        parts = [
            search(scoring, source.images, rows[label], label, count, seed)
            for label in tqdm(labels, desc="discover", unit="class", leave=False, disable=None)
        ]
        return {name: torch.stack([one[name] for one in parts]) for name in parts[0]}

    todo = [
        (stage, partial(work, label_range), {**settings, "classes": [label_range.start, label_range.stop]})
        for stage, label_range in discovery_units(rows.shape[1], len(rows), source.images.shape[2])
    ]
    parts = run.stages(todo)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

"""Discovery: the patches of every class that a teacher finds critical and is sure or unsure of.

    boxes       `crops` random squares an image, of `crop_area` to all of its pixels
    confidence  softmax(T(patch))[y]; the patch has a side of S / f and lies on the mean colour, S x S
    choice      of every image the `top` patches by CAM ratio, or without CAM by confidence; then of every class the
                first by confidence, as many as its mosaics need

NRR-DD (arXiv 2503.18267) wants critical patches that the teacher is least sure of; RDED (arXiv 2312.03526), whose
squares and padding these are, those that it is surest of, without CAM. Images are read in batches of bounded size, and
only boxes and numbers are kept of them; whole classes are units of work.
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
from ddhub.errors import UsageError, unknown
from ddhub.measures.cam import attention, cam
from ddhub.sources.source import Source
from recipes.patches.patches import RATIOS, box_ratios, cut
from recipes.run.draws import generator, normalised, scale
from recipes.run.run import Run
from recipes.run.units import numbered, units

CONFIDENCES = ("lowest", "highest", "random")
GUARDS = ("none", "median", "top5")
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


def search(
    net: nn.Module, images: Tensor, rows: Tensor, label: int, settings: Search, count: int, seed: int, *,
    mean: Tensor, std: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """The patches of one class, first those that its mosaics want most.

    Args:
        net: the teacher, frozen, in eval mode.
        images: all real images, u8 `[.., C, S, S]`, which may be a memory map.
        rows: those of the class that are looked at.
        label: the class.
        settings: which patches are looked for.
        count: how many are wanted.
        seed: of boxes and of a random order.
        mean, std: of the net's images, `[C, 1, 1]`, on its device.

    Returns:
        On the CPU, for each of `count` patches: `rows` and `boxes` `[count, 4]`, the place where it is; `confidence`;
        `ratio`, which is 0 without CAM.

    Raises:
        UsageError: fewer patches than wanted, or a net that has no CAM.
    """
    side = images.shape[3]
    draws, order = generator(seed, "boxes", label), generator(seed, "order", label)
    kept = settings.top if settings.cam_ratio else settings.crops
    # One pool from the start: small results of each batch, left between its large blocks, would let the heap grow.
    total = len(rows) * settings.top
    pool = {"rows": rows.repeat_interleave(settings.top), "boxes": torch.empty(total, 4, dtype=rows.dtype)}
    pool |= {"confidence": torch.empty(total), "ratio": torch.empty(total, dtype=torch.float64)}
    pool |= {"ahead": torch.empty(total, dtype=torch.long), "wanted": torch.empty(total)}
    for part in torch.arange(len(rows)).split(max(1, PIXELS // (side * side * kept))):
        x = images[rows[part]].to(mean.device)
        u = torch.rand(len(part) * settings.crops, WINDOW_COLUMNS, generator=draws, dtype=torch.float64)
        key = torch.rand(len(part), settings.crops, generator=order).to(mean.device)
        box = windows(u, (side, side), settings.crop_area, (1, 1)).to(mean.device)
        box = box.view(len(part), settings.crops, 4)
        ratio = torch.zeros(len(part), settings.crops, dtype=torch.float64, device=mean.device)
        if settings.cam_ratio:
            maps = cam(net, normalised(x, mean, std), torch.full((len(part),), label, device=mean.device))
            ratio = box_ratios(attention(maps, (side, side)), box, settings.cam_ratio, settings.epsilon)
            box, key, ratio = _take(ratio, settings.top, box, key, ratio)
        patches = cut(x.repeat_interleave(kept, 0), box.flatten(0, 1), side // settings.factor)
        sureness, ahead = _sureness(net, normalised(patches, mean, std), label, side)
        sureness, ahead = sureness.view(-1, kept), ahead.view(-1, kept)
        wanted = {"lowest": -sureness, "highest": sureness, "random": key}[settings.confidence]
        if not settings.cam_ratio:
            box, sureness, ahead, ratio, wanted = _take(wanted, settings.top, box, sureness, ahead, ratio, wanted)
        block = slice(int(part[0]) * settings.top, (int(part[-1]) + 1) * settings.top)
        patches_of_class = {"boxes": box, "confidence": sureness, "ratio": ratio, "ahead": ahead, "wanted": wanted}
        for name, value in patches_of_class.items():
            pool[name][block] = value.flatten(0, 1).cpu()
    return _choose(pool, settings.guard, count, label)


def _take(rank: Tensor, top: int, *values: Tensor) -> list[Tensor]:
    """Of values `[N, M, ...]` the `top` of each row with the greatest rank `[N, M]`, the earlier of equal ones."""
    order = torch.argsort(rank, dim=1, descending=True, stable=True)[:, :top]
    rows = torch.arange(len(rank), device=rank.device)[:, None]
    return [value[rows, order] for value in values]


@torch.no_grad()
def _sureness(net: nn.Module, patches: Tensor, label: int, side: int) -> tuple[Tensor, Tensor]:
    """The probability of the class for patches `[N, C, P, P]`, and how many classes are likelier; `[N]` each."""
    before = (side - patches.shape[3]) // 2
    after = side - patches.shape[3] - before
    logits = net(F.pad(patches, (before, after, before, after))).float()
    return F.softmax(logits, dim=1)[:, label], (logits > logits[:, label, None]).sum(1)


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
        parts = [
            search(net, source.images, rows[label], label, search_settings, count, seed, mean=mean, std=std)
            for label in tqdm(labels, desc="discover", unit="class", leave=False, disable=None)
        ]
        return {name: torch.stack([one[name] for one in parts]) for name in parts[0]}

    todo = [
        (stage, partial(work, label_range), {**settings, "classes": [label_range.start, label_range.stop]})
        for stage, label_range in discovery_units(rows.shape[1], len(rows), source.images.shape[2])
    ]
    parts = run.stages(todo)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

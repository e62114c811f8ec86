"""Regions of stored images that a proxy makes little use of: candidates, how much each is used, which are chosen.

    formation   a square of side s of a stored image, enlarged to the whole size: the f · f tiles, or a region
    map         M: how much a proxy answers to the formations at each pixel, the most 1 (`ddhub.measures.utilisation`)
    use         of a candidate w, by policy
                rbp     mean of M over w, M of the tiles alone
                jbp     mean over J noises in w of Σ_tiles KL(proxy(tile) ‖ proxy(tile with the noise))
                random  a uniform number, drawn once
    choice      the k candidates of least use, one after the other, none with an IoU above the cap with one before it;
                ties by rows. A region gives way only to one of less than 0.9 of its use (hysteresis)
    evenness    mUE, mean over the images of -Σ q log q / log(pixels), q = M / Σ M; mUE_cov, mean share of the pixels
                with M of 0.2 and more

Nothing of it is in a published text of UDD (arXiv 2408.16268) but that there are two policies, response-based and
data-jittering-based, and a metric called mUE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub.data.decode import crops, grid, tile_side
from ddhub.data.transfer import sent
from ddhub.errors import UsageError
from ddhub.measures.utilisation import Proxy, maps
from recipes.run.draws import generator

POLICIES = ("rbp", "jbp", "random")


def candidates(side: int, factor: int) -> Tensor:
    """Corners (y, x) int64 `[Nc, 2]`, row by row, of all squares on a grid of steps of the largest divisor of the side
    that is at most a quarter of it, inside factor · side pixels, but for those on the tiles."""
    step = max(d for d in range(1, max(1, side // 4) + 1) if side % d == 0)
    grid = torch.arange(0, (factor - 1) * side + 1, step)
    corners = torch.cartesian_prod(grid, grid)
    return corners[(corners % side != 0).any(1)]


def overlaps(corners: Tensor, side: int) -> Tensor:
    """IoU `[Nc, Nc]` of squares at corners `[Nc, 2]`."""
    shared = (side - (corners[:, None] - corners).abs()).clamp(min=0).prod(2)
    return shared / (2 * side**2 - shared)


def choose(use: Tensor, corners: Tensor, side: int, count: int, cap: float, old: Tensor | None = None) -> Tensor:
    """The chosen candidates of each image, int64 `[N, count]`, least use first; an old one that stays keeps its place.

    Args:
        use: `[N, Nc]`.
        corners: of the candidates, `[Nc, 2]`.
        side: of the squares.
        count: k.
        cap: largest IoU of two of them.
        old: those chosen before, `[N, count]`, whose use counts 0.9 times, and less than another that is as small.

    Raises:
        UsageError: not so many squares fit under the cap.
    """
    if old is not None:
        kept = torch.nextafter(0.9 * use.gather(1, old), use.new_tensor(-torch.inf))
        use = use.scatter(1, old, kept)
    near, free, chosen = overlaps(corners.to(use.device), side) > cap, torch.ones_like(use, dtype=torch.bool), []
    for _ in range(count):
        if not free.any(1).all():
            raise UsageError(
                f"{count} regions a stored image do not fit under an IoU of {cap}; lower --regions or raise --iou"
            )
        chosen.append(use.masked_fill(~free, torch.inf).argmin(1))  # the first of several
        free &= ~near[chosen[-1]]
    new = torch.stack(chosen, dim=1)
    if old is None:
        return new
    rows = zip(old.tolist(), new.tolist(), strict=True)
    return torch.tensor([_in_place(before, after) for before, after in rows], device=use.device)


def _in_place(before: list[int], after: list[int]) -> list[int]:
    """The candidates `after`, those of `before` at the places that they have there."""
    fresh = iter([one for one in after if one not in before])
    return [one if one in after else next(fresh) for one in before]


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which regions are looked for, and when.

    Attributes:
        seed: of the draws.
        factor: tiles a side of a stored image.
        policy: rbp, jbp or random.
        count: regions of an image.
        cap: largest IoU of two of them.
        jitters, sigma: noises of jbp, and their deviation in unit scale.
        every: outer iterations from one choice to the next.
        until: outer iteration from which on the regions stay.
    """

    seed: int
    factor: int
    policy: str
    count: int
    cap: float
    jitters: int
    sigma: float
    every: int
    until: float


def response_use(responses: Tensor, corners: Tensor, side: int) -> Tensor:
    """U of rbp `[N, Nc]`: means of maps `[N, P, P]` over the squares at corners `[Nc, 2]`."""
    means = F.avg_pool2d(responses[:, None], side, stride=1)[:, 0]
    return means[:, corners[:, 0], corners[:, 1]]


def jitter_use(proxy: Proxy, images: Tensor, tiles: Tensor, corners: Tensor, side: int, noise: Tensor) -> Tensor:
    """U of jbp `[N, Nc]`; a tile that a square does not touch keeps its answer and adds nothing.

    Args:
        proxy: whose answers.
        images: stored images `[N, C, H, W]` in unit scale.
        tiles, corners: corners of the tiles `[f², 2]` and of the candidates `[Nc, 2]`.
        side: of both.
        noise: `[J, C, side, side]`, added in every square, clipped with the image to [0, 1].
    """
    count, channels, height, width = images.shape
    size, padded = (height, width), height + -height % side
    every = torch.arange(count, device=images.device)

    def answers(x: Tensor, tile: Tensor) -> Tensor:
        return proxy.log_probabilities(crops(x, tile.expand(count, 2), every, side, size))

    base = [answers(images, tile) for tile in tiles]
    use = images.new_zeros(count, len(corners))
    touched = ((tiles - corners[:, None]).abs() < side).all(2).tolist()
    for w, (top, left) in enumerate(corners.tolist()):
        for one in noise:
            canvas = images.new_zeros(channels, padded, padded)
            canvas[:, top : top + side, left : left + side] = one
            x = (images + canvas[:, :height, :width]).clamp(0, 1)
            for before, tile, inside in zip(base, tiles, touched[w], strict=True):
                if inside:
                    use[:, w] += F.kl_div(answers(x, tile), before, reduction="none", log_target=True).sum(1)
    return use / len(noise)


class Searching:
    """The search for regions of stored images: what a proxy sees, where, by which policy.

    Args:
        how: policy and schedule.
        proxy: whose answers.
        labels: classes `[N]` of the stored images.
        side: of the stored images, in pixels.
    """

    def __init__(self, settings: Search, proxy: Proxy, labels: Tensor, side: int) -> None:
        self.settings, self.proxy, self.labels, self.side = settings, proxy, labels, tile_side(side, settings.factor)
        self.tiles = grid(side, side, settings.factor).to(labels.device)
        self.candidates = candidates(self.side, settings.factor).to(labels.device)

    def due(self, outer: int) -> bool:
        """Whether regions are chosen at the start of an outer iteration."""
        if outer == 0 or self.settings.policy == "random":
            return outer == 0
        return outer % self.settings.every == 0 and outer < self.settings.until

    def chosen(self, images: Tensor, outer: int, old: Tensor | None) -> Tensor:
        """Numbers of the chosen candidates `[N, k]` for stored images `[N, C, H, W]`; `old` are those before."""
        settings = self.settings
        if settings.policy == "random":
            use = torch.rand(len(images), len(self.candidates), generator=generator(settings.seed, "regions"))
            use = sent(use, images.device)
        elif settings.policy == "jbp":
            shape = (settings.jitters, images.shape[1], self.side, self.side)
            noise = sent(torch.randn(shape, generator=generator(settings.seed, "jitter", outer)), images.device)
            use = jitter_use(self.proxy, images, self.tiles, self.candidates, self.side, settings.sigma * noise)
        else:
            use = response_use(self.maps(images, self.tiles.expand(len(images), -1, 2)), self.candidates, self.side)
        return choose(use, self.candidates, self.side, settings.count, settings.cap, old)

    def maps(self, images: Tensor, corners: Tensor) -> Tensor:
        """M `[N, P, P]` of stored images, from the formations at corners `[N, F, 2]`."""
        return maps(self.proxy, images, self.labels, corners, self.side)

    def corners(self, regions: Tensor) -> Tensor:
        """Corners `[N, f² + k, 2]` of all formations of each image, from the numbers of its regions `[N, k]`."""
        tiles = self.tiles.expand(len(regions), -1, 2)
        return torch.cat([tiles, self.candidates[regions]], dim=1)


def evenness(responses: Tensor) -> tuple[float, float]:
    """(mUE, mUE_cov) of maps `[N, P, P]`; an image whose map is zero has 0 of the first."""
    flat = responses.double().flatten(1)
    q = flat / flat.sum(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    even = torch.special.entr(q).sum(1) / math.log(flat.shape[1])
    top = flat.amax(1, keepdim=True)
    return float(even.mean()), float(((flat >= 0.2 * top) & (top > 0)).double().mean())

"""Refinement: parts of images are optimised for what a teacher knows of their class in general.

    M = max(0, ε - C)          soft; binary: M = 1 where C < ε; C in [0, 1] of `ddhub.measures.cam.attention`
    x ← clip(x - M ⊙ η · u)    u is Adam's direction for CE(T(A(x)), y) + α · L_bn (`recipes.inversion.inversion`)

What is critical, C ≥ ε, keeps its pixels to the bit: M is 0 there. The controls take M = ε (binary: 1) everywhere
(`all`), or the mask of 1 - C (`inverted`), which freezes the background. As M is at most ε, runs compare at equal
η · ε.

NRR-DD's update (arXiv 2503.18267) is x - M ⊙ η · ∇L, which is `optimizer` sgd of `Inversion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub.errors import UsageError, unknown
from ddhub.measures.cam import attention, cam
from recipes.inversion.inversion import Inversion, answers, draws, optimise
from recipes.run.draws import normalised, quantised
from recipes.run.straight_through import OFF, InLoop

PARTS = ("background", "all", "inverted")


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Which pixels change.

    Attributes:
        part: background, all or inverted.
        epsilon: ε, in (0, 1].
        binary: M is 0 or 1.
        cells: C is between 0 and 1 in each cell of a grid of so many cells a side.
        every: C is computed again after so many steps; 0 is never.
    """

    part: str
    epsilon: float
    binary: bool = False
    cells: int = 1
    every: int = 0

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise unknown("refine", self.part, ("none", *PARTS))
        if not 0 < self.epsilon <= 1:
            raise UsageError(f"epsilon is {self.epsilon:g}; it must be in (0, 1]")
        if self.cells < 1 or self.every < 0:
            raise UsageError("a mask needs 1 or more cells a side, and no negative steps between its updates")


def masks(net: nn.Module, images: Tensor, classes: Tensor, settings: Masking) -> Tensor:
    """M `[B, 1, H, W]` of normalised images `[B, channels, H, W]` for their classes `[B]`."""
    size = (images.shape[2], images.shape[3])
    if settings.part == "all":
        critical = torch.zeros(len(images), *size, device=images.device)
    else:
        critical = attention(cam(net, images, classes), size, settings.cells)
        critical = 1 - critical if settings.part == "inverted" else critical
    room = settings.epsilon - critical
    return ((room > 0).to(images.dtype) if settings.binary else room.clamp(min=0))[:, None]


@torch.no_grad()
def checks(net: nn.Module, sets: Tensor, target: Tensor, first_bn: float) -> Tensor:
    """`[K, 3]` of normalised sets `[K, B, channels, H, W]`: accuracy and mean confidence of the net, and L_bn.

    `target` `[B]` are the classes; accuracy and confidence (of the right class) are shares.
    """
    output, gap = answers(net, sets, first_bn)
    sure = F.softmax(output, dim=1).unflatten(0, sets.shape[:2])
    target_sureness = sure.gather(2, target.expand(len(sets), -1)[:, :, None]).squeeze(2)
    return torch.stack([(sure.argmax(2) == target).float().mean(1), target_sureness.mean(1), gap], dim=1)


def refine(
    net: nn.Module,
    start: Tensor,
    target: Tensor,
    settings: Inversion,
    masking: Masking,
    words: Sequence[Sequence[object]],
    *,
    mean: Tensor,
    std: Tensor,
    precision: str,
    loop: InLoop = OFF,
) -> dict[str, Tensor]:
    """`images` u8 `[K, B, channels, H, W]` after all steps from `start`; `checks` f32 `[2, K, 3]` of before and after.

    Args:
        net: the teacher, frozen, in eval mode.
        start: sets u8 of images that share BatchNorm statistics.
        target: classes `[B]` of the images of a set.
        settings: steps, rate, weights and augmentation.
        masking: which pixels change.
        words: names of the sets, (seed, ...), for their draws.
        mean, std: of the net's images, `[channels, 1, 1]`, on its device.
        precision: bf16 or fp32, of the steps.
        loop: a codec in the loop; masks and `checks` are of the images before it.

    Raises:
        TrainingError: an image that is not a number.
        UsageError: a net without BatchNorm layers, or without CAM.
    """
    sets, size = len(start), (start.shape[3], start.shape[4])

    def again(x: Tensor) -> Tensor:
        return masks(net, x.flatten(0, 1), target.repeat(sets), masking).unflatten(0, (sets, -1))

    x = normalised(start.flatten(0, 1), mean, std).unflatten(0, (sets, -1))
    kept = again(x)

    def mask(step: int, x: Tensor) -> Tensor:
        nonlocal kept
        if masking.every and step and step % masking.every == 0:
            kept = again(x)
        return kept

    view = draws(settings, words, size=size, device=x.device)
    bounds = ((0 - mean) / std, (1 - mean) / std)
    done = optimise(
        net, x, lambda x: x, target, settings, view, precision=precision, bounds=bounds, mask=mask, loop=loop
    )
    images = quantised(done, mean, std)
    after = normalised(images.flatten(0, 1), mean, std).unflatten(0, (sets, -1))
    judged = [checks(net, batch, target, settings.first_bn) for batch in (x, after)]
    return {"images": images, "checks": torch.stack(judged)}

"""Float images as bytes over a range of each channel, and how far that moves a pixel.

    stored, pixel_range, moved = eight_bits(images, normalized=((0.49, 0.48, 0.45), (0.20, 0.20, 0.20)))

A channel whose values lie in [0, 1], or leave it by less than half a step of 1/255, is stored over [0, 1], which is
exact for what were bytes before. Any other is stored from its smallest to its largest value. The byte b means
low + b / 255 · (high - low).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddhub.errors import ArtifactError, UsageError

_HALF = 0.5 / 255
_FAR = 64.0  # unit scale: what lies beyond it is on another scale
_VALUES = 2**19  # at a time: 4 MiB of float64, which stay in the cache
_EXACT = 1e-5  # unit scale: float32 of values that were normalised and back

Constants = tuple[Sequence[float], Sequence[float]]  # mean and std per channel


@dataclass(frozen=True)
class Moved:
    """How far rounding moved the pixels, in unit scale: at most, and in the root of the mean square."""

    largest: float
    rms: float

    @property
    def exact(self) -> bool:
        return self.largest < _EXACT


def eight_bits(
    images: Tensor, normalized: Constants | None = None
) -> tuple[Tensor, tuple[tuple[float, float], ...], Moved]:
    """Images `[N, C, H, W]` as u8, the range (low, high) of each channel in unit scale, and what rounding did.

    Args:
        images: u8, which stay as they are, or floats: in unit scale, or normalised.
        normalized: mean and std of images that are `(x - mean) / std`.

    Raises:
        ArtifactError: a value that is not finite.
        UsageError: values that cannot be of the scale they are said to be of.
    """
    if images.dtype == torch.uint8:
        return images.contiguous(), ((0.0, 1.0),) * images.shape[1], Moved(0.0, 0.0)
    mean, std = normalized or ((0.0,) * images.shape[1], (1.0,) * images.shape[1])
    shift, scale = (torch.tensor([*x], dtype=torch.float64, device="cpu")[:, None, None] for x in (mean, std))
    low, high = _bounds(images, shift, scale)
    if normalized and bool((((low - shift) / scale).min() >= 0) & (((high - shift) / scale).max() <= 1)):
        raise UsageError("all pixels lie in [0, 1], which normalised ones do not; say --unit")
    if max(float(high.max()), -float(low.min())) > _FAR:
        hint = (
            "give the mean and std they were normalised with" if normalized else "divide them by 255, or --normalized"
        )
        raise UsageError(f"pixels reach from {float(low.min()):g} to {float(high.max()):g} in unit scale; {hint}")
    inside = (low >= -_HALF) & (high <= 1 + _HALF)
    low = torch.where(inside, 0.0, low)
    high = torch.where(inside, 1.0, torch.maximum(high, low + 1 / 255))
    stored, largest, squared = torch.empty(images.shape, dtype=torch.uint8, device="cpu"), 0.0, 0.0
    step, few = (high - low) / 255, _few(images)
    for part, x in zip(stored.split(few), images.split(few), strict=True):
        x = x.double().mul_(scale).add_(shift)
        steps = (x - low).div_(step).round_().clamp_(0, 255)
        part.copy_(steps)
        moved = steps.mul_(step).add_(low).sub_(x)
        largest = max(largest, float(moved.max()), -float(moved.min()))
        squared += float(moved.square_().sum())
    bounds = tuple((float(a), float(b)) for a, b in zip(low.flatten(), high.flatten(), strict=True))
    return stored, bounds, Moved(largest, math.sqrt(squared / images.numel()))


def _bounds(images: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each channel, f64 `[C, 1, 1]` in unit scale."""
    low, high = torch.full_like(shift, math.inf), torch.full_like(shift, -math.inf)
    few = _few(images)
    for first, x in zip(range(0, len(images), few), images.split(few), strict=True):
        finite = x.isfinite().flatten(1).all(1)
        if not finite.all():
            number = first + int((~finite).nonzero()[0])
            raise ArtifactError(f"image {number} holds a value that is not finite; such images train nothing")
        low = torch.minimum(low, x.amin((0, 2, 3)).double()[:, None, None] * scale + shift)
        high = torch.maximum(high, x.amax((0, 2, 3)).double()[:, None, None] * scale + shift)
    return low, high


def _few(images: Tensor) -> int:
    """How many images are looked at together."""
    return max(1, _VALUES // images[0].numel())

"""Decoders: from what an artifact stores to training image *i*, on the device, a batch of indices at a time.

    identity     images u8 [N, C, H, W]                          item i = images[i]
    compensate   images u8 [classes·K, C, H, W], class by class  item i = clip(images[n] + u[m - 1, k])
                 compensators i8 [M, K, C, H, W], scale f32 [M, K], u = compensators · scale

A decoder is an `nn.Module` whose stored tensors are buffers, called with item indices `[B]` (int64) and returning
`[B, C, H, W]` float32 in unit scale, unnormalised. It never holds the whole decoded set.

    decoder = build({"kind": "identity"}, images, {}, pixel_range=[(0, 1)] * 3)
    x = decoder(torch.tensor([3, 1]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddhub.errors import ArtifactError


def quantize(u: Tensor) -> tuple[Tensor, Tensor]:
    """Compensators `[M, K, C, H, W]` (unit scale, float) as `(int8, scale f32 [M, K])`, one scale each.

    A compensator is only ever added to a pixel in [0, 1] and clipped there, so values beyond ±1 act as ±1 do:
    clamping them first loses nothing and keeps the step at most 1/127 (INFER charges a compensator as one 8-bit
    image, arXiv 2408.06927). The step is `max|u| / 127`; a compensator of zeros has step 1/127.
    """
    u = u.clamp(-1, 1)
    top = u.abs().amax(dim=(-3, -2, -1))
    scale = torch.where(top > 0, top, torch.ones_like(top)).float() / 127
    return torch.round(u / scale[..., None, None, None]).clamp(-127, 127).to(torch.int8), scale


class Identity(nn.Module):
    """Item *i* is stored image *i*: `images` u8 `[N, C, H, W]`, 0…255 spread over each channel's `pixel_range`."""

    kind = "identity"
    images: Tensor
    low: Tensor
    span: Tensor

    def __init__(self, images: Tensor, pixel_range: Sequence[Sequence[float]]) -> None:
        super().__init__()
        bounds = torch.tensor([list(pair) for pair in pixel_range], dtype=torch.float32)
        self.register_buffer("images", images)
        self.register_buffer("low", bounds[:, 0, None, None])
        self.register_buffer("span", (bounds[:, 1] - bounds[:, 0])[:, None, None])
        self.unit = all(tuple(pair) == (0, 1) for pair in pixel_range)

    def __len__(self) -> int:
        return len(self.images)

    def image_of(self, items: Tensor) -> Tensor:
        """The stored image `[B]` that each item comes from: the one that gives the item its class."""
        return items

    def forward(self, items: Tensor) -> Tensor:
        x = self.images.index_select(0, items).to(torch.float32).div_(255)
        return x if self.unit else x.mul_(self.span).add_(self.low)


class Compensate(nn.Module):
    """INFER's rebuilt set: every natural image, alone and plus each of its M compensators, clipped to [0, 1].

    Item `i = c·K(M+1) + m·K + k` is class c, natural set k, m = 0 the natural image itself; its stored image is
    `n = c·K + k` (arXiv 2408.06927, Figure 3). The sum happens before any augmentation.
    """

    kind = "compensate"
    images: Tensor
    compensators: Tensor
    scale: Tensor

    def __init__(self, images: Tensor, compensators: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", images)
        self.register_buffer("compensators", compensators)
        self.register_buffer("scale", scale)
        self.nets, self.sets = compensators.shape[:2]

    def __len__(self) -> int:
        return len(self.images) * (self.nets + 1)

    def split(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Items `[B]` as (stored image n, net m with 0 the natural image, natural set k), each `[B]`."""
        label, rest = items // (self.sets * (self.nets + 1)), items % (self.sets * (self.nets + 1))
        k = rest % self.sets
        return label * self.sets + k, rest // self.sets, k

    def image_of(self, items: Tensor) -> Tensor:
        """The stored image `[B]` that each item comes from: the one that gives the item its class."""
        return self.split(items)[0]

    def forward(self, items: Tensor) -> Tensor:
        n, m, k = self.split(items)
        row = (m - 1).clamp_(min=0) * self.sets + k
        step = self.scale.flatten().index_select(0, row) * (m > 0)
        # index_select copies whole rows: on a CPU a twentieth of the time of indexing with a tensor.
        u = self.compensators.flatten(0, 1).index_select(0, row).to(torch.float32)
        x = self.images.index_select(0, n).to(torch.float32).div_(255)
        return u.mul_(step[:, None, None, None]).add_(x).clamp_(0, 1)


Decoder = Identity | Compensate


def build(
    spec: Mapping[str, Any],
    images: Tensor,
    tensors: Mapping[str, Tensor],
    pixel_range: Sequence[Sequence[float]],
) -> Decoder:
    """The decoder that a manifest names, from stored images and the tensors called `decoder.*`.

    Raises:
        ArtifactError: an unknown kind, or tensors that are missing or do not fit the images.
    """
    kind = spec["kind"]
    if kind == "identity":
        return Identity(images, pixel_range)
    if kind != "compensate":
        raise ArtifactError(f"decoder {kind!r} is not known to this ddhub: pip install -U ddhub")
    try:
        compensators, scale = tensors["decoder.compensators"], tensors["decoder.scale"]
    except KeyError as missing:
        raise ArtifactError(f"decoder 'compensate' lacks tensor {missing}; regenerate the artifact") from None
    fits = (
        compensators.dtype == torch.int8
        and compensators.ndim == 5
        and compensators.shape[2:] == images.shape[1:]
        and compensators.shape[1] > 0
        and len(images) % compensators.shape[1] == 0
        and scale.dtype == torch.float32
        and scale.shape == compensators.shape[:2]
    )
    if not fits:
        raise ArtifactError(
            f"decoder 'compensate': compensators {tuple(compensators.shape)} and scale {tuple(scale.shape)} "
            f"do not fit images {tuple(images.shape)}; regenerate the artifact"
        )
    if not (scale.min() >= 0 and scale.max() <= 1):
        raise ArtifactError("decoder 'compensate': a scale is not in [0, 1]; regenerate the artifact")
    return Compensate(images, compensators, scale)

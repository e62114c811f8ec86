"""Decoders: from what an artifact stores to training image *i*, on the device, a batch of indices at a time.

    identity     images u8 [N, C, H, W]                          item i = images[i]
    compensate   images u8 [classes·K, C, H, W], class by class  item i = clip(images[n] + u[m - 1, k])
                 compensators i8 [M, K, C, H, W], scale f32 [M, K], u = compensators · scale
    crops        images u8 [N, C, H, W], each a mosaic of    item i = a square of images[i % N], enlarged to H x W
                 factor · factor tiles; boxes u8 [N, R, 2] of R more squares of a tile's size, or none

A decoder is an `nn.Module` whose stored tensors are buffers, called with item indices `[B]` (int64) and returning
`[B, C, H, W]` float32 in unit scale, unnormalised. It never holds the whole decoded set.

    decoder = build({"kind": "identity"}, images, {}, pixel_range=[(0, 1)] * 3)
    x = decoder(torch.tensor([3, 1]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub.errors import ArtifactError, UsageError


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
        bounds = torch.tensor([list(pair) for pair in pixel_range], dtype=torch.float32, device=images.device)
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


def tile_side(height: int, factor: int) -> int:
    """Pixels along a side of a tile, and of a region: `ceil(height / factor)`."""
    return -(-height // max(1, factor))


def grid(height: int, width: int, factor: int) -> Tensor:
    """Top-left corners (y, x) of the factor · factor tiles of an image, int64 `[factor², 2]`, row by row.

    Where factor does not divide the side, the last row and column of tiles reach beyond the image, which goes on as
    0.5 (IDC, arXiv 2205.14959, section 4.2, and its code).

    Raises:
        UsageError: an image that is not a square, a factor below 1, or one with which a tile holds none of its pixels.
    """
    side = tile_side(height, factor)
    if height != width or factor < 1 or (factor - 1) * side >= height:
        cause = "they must be squares, and the factor 1 or more with a pixel in every tile"
        raise UsageError(f"factor {factor} for images of {height} x {width} pixels; {cause}")
    first = torch.arange(factor, device="cpu") * side
    return torch.cartesian_prod(first, first)


def crops(images: Tensor, corners: Tensor, which: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Squares cut out of images and enlarged: bilinear, `align_corners=False`. Differentiable in the images.

    Args:
        images: float `[N, C, H, W]` in unit scale. To the right and below they go on as 0.5, up to a multiple of side.
        corners: int64 `[B, 2]`, (y, x) of each square's top-left pixel; they are not checked.
        which: int64 `[B]`, the image that each square is cut from.
        side: of the squares, in pixels.
        size: height and width of what is returned.

    Returns:
        `[B, C, *size]`.
    """
    return _enlarged(images.index_select(0, which), corners, side, size)


def _enlarged(images: Tensor, corners: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """As `crops`, of one square each of images `[B, C, H, W]`."""
    height, width = images.shape[2:]
    if height % side or width % side:
        images = F.pad(images, (0, -width % side, 0, -height % side), value=0.5)
    rows, columns = (corners[:, :, None] + torch.arange(side, device=corners.device)).unbind(1)
    pixels = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(1)
    crops = images.flatten(2).gather(2, pixels[:, None].expand(-1, images.shape[1], -1))
    return F.interpolate(crops.unflatten(2, (side, side)), size, mode="bilinear", align_corners=False)


class Crops(Identity):
    """IDC's multi-formation (arXiv 2205.14959) and UDD's reuse of regions (arXiv 2408.16268): squares, enlarged.

    Item `i = slot·N + n` is a square of stored image n: for slot < factor² its tile of that number, else the region at
    `boxes[n, slot - factor²]`. Pixels get their `pixel_range` first, then `crops` enlarges the square.

    Args:
        factor: tiles along each side of an image.
        boxes: u8 or i32 `[N, R, 2]`, (y, x) of each region's top-left pixel; None for tiles alone.

    Raises:
        UsageError: images that the factor does not fit (`grid`).
    """

    kind = "crops"
    tiles: Tensor
    boxes: Tensor

    def __init__(
        self, images: Tensor, factor: int, boxes: Tensor | None, pixel_range: Sequence[Sequence[float]]
    ) -> None:
        super().__init__(images, pixel_range)
        height, width = images.shape[2:]
        self.register_buffer("tiles", grid(height, width, factor).to(images.device))
        self.register_buffer("boxes", images.new_empty(len(images), 0, 2) if boxes is None else boxes)
        self.factor, self.side, self.size = factor, tile_side(height, factor), (height, width)
        self.crops_per_image = len(self.tiles) + self.boxes.shape[1]  # of an image

    def __len__(self) -> int:
        return len(self.images) * self.crops_per_image

    def image_of(self, items: Tensor) -> Tensor:
        """The stored image `[B]` that each item comes from: the one that gives the item its class."""
        return items % len(self.images)

    def corners(self, items: Tensor) -> Tensor:
        """(y, x) of the top-left pixel of each item's square, int64 `[B, 2]`."""
        slot, tiles, regions = items // len(self.images), len(self.tiles), self.boxes.shape[1]
        corners = self.tiles.index_select(0, slot.clamp(max=tiles - 1))
        if not regions:
            return corners
        row = self.image_of(items) * regions + (slot - tiles).clamp(min=0)
        boxes = self.boxes.flatten(0, 1).index_select(0, row).long()
        return torch.where((slot < tiles)[:, None], corners, boxes)

    def forward(self, items: Tensor) -> Tensor:
        x = super().forward(self.image_of(items))
        return _enlarged(x, self.corners(items), self.side, self.size)


Decoder = Identity | Compensate | Crops


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
    if kind == "compensate":
        return _compensate(images, tensors)
    if kind == "crops":
        return _crops(spec, images, tensors.get("decoder.boxes"), pixel_range)
    raise ArtifactError(f"decoder {kind!r} is not known to this ddhub: pip install -U ddhub")


def _compensate(images: Tensor, tensors: Mapping[str, Tensor]) -> Compensate:
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


def _crops(
    spec: Mapping[str, Any], images: Tensor, boxes: Tensor | None, pixel_range: Sequence[Sequence[float]]
) -> Crops:
    factor, side = spec.get("factor"), spec.get("side")
    known = spec.keys() == {"kind", "factor", "side"}
    if not known or type(factor) is not int or type(side) is not int or factor < 2:  # of 1 it would be `identity`
        cause = "needs whole numbers factor, 2 or more, and side, and nothing else"
        raise ArtifactError(f"decoder 'crops' {cause}; regenerate the artifact")
    if boxes is not None and (
        boxes.dtype not in (torch.uint8, torch.uint16) or boxes.ndim != 3 or boxes.shape[::2] != (len(images), 2)
    ):
        shapes = f"boxes {boxes.dtype} {tuple(boxes.shape)} do not fit images {tuple(images.shape)}"
        raise ArtifactError(f"decoder 'crops': {shapes}; regenerate the artifact")
    try:  # torch neither picks rows of 16-bit numbers nor compares them
        decoder = Crops(images, factor, boxes.int() if boxes is not None and boxes.itemsize > 1 else boxes, pixel_range)
    except UsageError as error:
        raise ArtifactError(f"decoder 'crops': {error}; regenerate the artifact") from None
    if decoder.side != side:
        raise ArtifactError(f"decoder 'crops': side {side}, not {decoder.side}; regenerate the artifact")
    if boxes is not None and int(decoder.boxes.max()) > (last := side * (factor - 1)):
        raise ArtifactError(f"decoder 'crops': a box begins beyond pixel {last}; regenerate the artifact")
    return decoder

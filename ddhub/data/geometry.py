"""Geometry: pixels moved within images, an own move for every image of a batch, as pure functions of tensors.

    crop              zero padding, then a crop of the old size               corners [N, 2]
    flip              left to right                                           a mask [N]
    resized_crop      a window enlarged to the whole image, bilinear          windows [N, 4]
    windows           such windows as torchvision's RandomResizedCrop draws   uniforms [N, 22]
    shuffle_patches   RDED's patch shuffle                                    uniforms [N, 2f]
    shift             whole pixels up and left, zeros behind                  distances [N, 2]

No function loops over images, and an image's result does not depend on the others of its batch. All are differentiable
with respect to the images; the public place of all but `shift` is `ddhub.data.views`.

Example:

    window = windows(torch.rand(8, 22), (32, 32), scale_low=0.5)
    x = resized_crop(x, window)  # [8, 3, 32, 32]
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub.errors import UsageError

ATTEMPTS = 10  # of a window to fit into the image
WINDOW_COLUMNS: int = 2 * ATTEMPTS + 2
RATIO = (3 / 4, 4 / 3)  # of a window's width to its height, least and greatest


def crop(x: Tensor, offset: Tensor, padding: int) -> Tensor:
    """Crops of H x W from images x [N, C, H, W] with `padding` zeros on each side.

    `offset` [N, 2] int64 is (top, left) in the padded image, each in 0..2 * padding.
    """
    n, c, h, w = x.shape
    padded = F.pad(x, (padding, padding, padding, padding))
    height, width = padded.shape[2:]
    # A row of a crop is a stretch of w consecutive numbers: copied whole, it takes less than half
    # the time of an index per pixel.
    stretches = padded.view(-1).unfold(0, w, 1)
    plane = torch.arange(n * c, device=x.device).view(n, c, 1) * (height * width)
    corner = (offset[:, 0] * width + offset[:, 1]).view(n, 1, 1)
    row = torch.arange(h, device=x.device) * width
    return stretches.index_select(0, (plane + corner + row).view(-1)).view(n, c, h, w)


def flip(x: Tensor, mask: Tensor) -> Tensor:
    """Images x [N, C, H, W] of finite values, mirrored left to right where mask [N] is true."""
    # lerp gives its ends exactly and takes a third of the time of torch.where on a CPU.
    return torch.lerp(x, x.flip(3), mask.to(x.dtype).view(-1, 1, 1, 1))


def resized_crop(x: Tensor, window: Tensor) -> Tensor:
    """Images x [N, C, H, W] float cut to their windows, each enlarged to H x W -> [N, C, H, W].

    Bilinear with pixel centres at halves (`align_corners=False`), clamped at the edges of the window, as torchvision's
    `resized_crop` does it: pixel i of H is taken at `top + clip((i + 1/2) * height / H - 1/2, 0, height - 1)`.

    `window` [N, 4] int64 is (top, left, height, width): 1 or more pixels, inside the image.
    """
    n, _, high, wide = x.shape
    top, left, height, width = window.to(x.dtype)[:, :, None].unbind(1)
    axes = []
    for start, length, size in ((top, height, high), (left, width, wide)):
        position = (torch.arange(size, dtype=x.dtype, device=x.device) + 0.5) * (length / size) - 0.5
        position = torch.minimum(position.clamp(min=0), length - 1) + start
        axes.append((2 * position + 1) / size - 1)  # from -1 to 1, as grid_sample counts
    rows, columns = axes
    grid = torch.stack([columns[:, None, :].expand(n, high, wide), rows[:, :, None].expand(n, high, wide)], dim=3)
    # The border is for places that rounding put outside the image.
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def windows(u: Tensor, size: tuple[int, int], scale_low: float, ratio: tuple[float, float] = RATIO) -> Tensor:
    """Windows as torchvision's RandomResizedCrop draws them, from uniforms u [N, 22] in [0, 1) -> [N, 4] int64.

    Attempt k of 10 has the area `(scale_low + (1 - scale_low) * u[2k]) * H * W` and the ratio of width to height
    `exp(log(3/4) + (log(4/3) - log(3/4)) * u[2k + 1])`, sides rounded (half to even); the first that fits counts, and
    its corner is `floor(u[20] * (H - height + 1))`, `floor(u[21] * (W - width + 1))`. Where none fits, it is the
    largest window in the middle whose ratio is within 3/4 and 4/3. Everything is computed in float64.

    Args:
        u: a row is an image; float64 gives the same windows everywhere.
        size: (H, W) of an image.
        scale_low: smallest share of the area, in (0, 1].
        ratio: least and greatest ratio, in place of 3/4 and 4/3; (1, 1) for squares.

    Returns:
        (top, left, height, width) of each window.
    """
    u, (high, wide) = u.double(), size
    whole = _pair(u, *size)
    area = (scale_low + (1 - scale_low) * u[:, 0 : 2 * ATTEMPTS : 2]) * (high * wide)
    low, top = math.log(ratio[0]), math.log(ratio[1])
    form = torch.exp(low + (top - low) * u[:, 1 : 2 * ATTEMPTS : 2])
    sides = torch.stack([area / form, area * form], dim=2).sqrt().round()
    fits = ((sides >= 1) & (sides <= whole)).all(2)

    # The window in the middle is one attempt more, which always fits.
    middle = _pair(u, min(high, round(wide / ratio[0])), min(wide, round(high * ratio[1])))
    sides = torch.cat([sides, middle.expand(len(u), 1, 2)], dim=1)
    first = torch.cat([fits, fits.new_ones(len(u), 1)], dim=1).to(torch.uint8).argmax(1)  # the first that fits
    sides = sides[torch.arange(len(u), device=u.device), first]
    room = whole - sides
    # A float32 that was rounded up to 1 must not leave the image.
    corner = torch.minimum(torch.floor(u[:, 2 * ATTEMPTS :] * (room + 1)), room)
    corner = torch.where(first[:, None] == ATTEMPTS, torch.floor(room / 2), corner)
    return torch.cat([corner, sides], dim=1).long()


def shuffle_patches(x: Tensor, keys: Tensor, f: int) -> Tensor:
    """Images x [N, C, H, W] with their f vertical strips permuted, then their f horizontal ones.

    RDED's patch shuffle (arXiv 2312.03526): for an f x f mosaic, whole patches change places. Strip k of the result is
    strip `argsort(keys)[k]` (stable) of the image: the first f of `keys` [N, 2f] are those of the vertical strips.

    Raises:
        UsageError: a side that f does not divide.
    """
    for dim, key in ((3, keys[:, :f]), (2, keys[:, f:])):
        length, rest = divmod(x.shape[dim], f)
        if rest:
            raise UsageError(
                f"shuffle is {f}, which does not divide a side of {x.shape[dim]} pixels; choose one that does"
            )
        strip = key.argsort(dim=1, stable=True) * length
        x = _take(x, dim, (strip[:, :, None] + torch.arange(length, device=x.device)).flatten(1))
    return x


def shift(x: Tensor, by: Tensor) -> Tensor:
    """Pixel (i, j) of image x[n] [N, C, H, W] becomes pixel (i + by[n, 0], j + by[n, 1]), zero where there is none.

    `by` [N, 2] int64. Finite values.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        position = torch.arange(size, device=x.device) + by[:, dim - 2, None]
        inside = (position >= 0) & (position < size)
        x = _take(x, dim, position.clamp(0, size - 1)) * _along(inside.to(x.dtype), dim)
    return x


def _pair(like: Tensor, first: float, second: float) -> Tensor:
    """Two numbers [2] beside a tensor: filled in on its device, as a copy of a list would wait for it."""
    return torch.stack([like.new_full((), first), like.new_full((), second)])


def _take(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """x [N, C, H, W] with pixels index [N, L] of dimension 2 or 3, an own choice for each image."""
    return x.gather(dim, _along(index, dim).expand([*x.shape[:dim], index.shape[1], *x.shape[dim + 1 :]]))


def _along(rows: Tensor, dim: int) -> Tensor:
    """Numbers [N, L] for dimension 2 or 3 of images."""
    return rows[:, None, :, None] if dim == 2 else rows[:, None, None, :]

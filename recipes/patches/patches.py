"""Patches: squares of real images, how critical they are, and mosaics of them.

    ratio   r(R) of a box R, from C in [0, 1] (`ddhub.measures.cam.attention`)
            density Σ_R C / |R|        mass Σ_R C / Σ C        share |{R: C ≥ ε}| / |R|
    mosaic  patch k · n + j is cell k (row by row) of image j of n: each image has one patch of every f²-th part of them

The mosaics are RDED's (arXiv 2312.03526). Pixels are 8 bits, rounded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub.data.transfer import sent

RATIOS = ("density", "mass", "share")


def cut(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Boxes `[N, 4]` (top, left, height, width) of images u8 `[N, C, H, W]`, resized to `[N, C, side, side]` u8.

    Bilinear with antialiasing, rounded, as torchvision's `resized_crop` does it; every image has a box of its own.
    """
    rows, columns = (
        _weights(boxes[:, axis], boxes[:, 2 + axis], images.shape[2 + axis], side)[:, None] for axis in (0, 1)
    )
    return (rows @ images.float() @ columns.mT).round().clamp(0, 255).to(torch.uint8)


def _weights(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """The share `[N, side, size]` that each pixel has in each pixel of the box, resized along one axis."""
    scale = length[:, None, None] / side
    pixel = torch.arange(size, device=start.device) - start[:, None, None] + 0.5
    centre = (torch.arange(side, device=start.device)[:, None] + 0.5) * scale
    share = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    share = share * ((pixel > 0) & (pixel < length[:, None, None]))
    return share / share.sum(2, keepdim=True)


def box_ratios(maps: Tensor, boxes: Tensor, kind: str, epsilon: float) -> Tensor:
    """r of boxes `[N, M, 4]` on maps C `[N, H, W]`: `[N, M]` float64; a map of zeros gives 0."""
    values = (maps >= epsilon).double() if kind == "share" else maps.double()
    sums = F.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))  # [n, i, j] is the sum of the i x j pixels in the corner
    image = torch.arange(len(maps), device=maps.device)[:, None]
    top, left, height, width = boxes.unbind(2)
    bottom, right = top + height, left + width
    inside = sums[image, bottom, right] - sums[image, top, right] - sums[image, bottom, left] + sums[image, top, left]
    if kind == "mass":
        return inside / sums[:, -1, -1].clamp(min=torch.finfo(sums.dtype).tiny)[:, None]
    return inside / (height * width)


def mosaics(images: Tensor, rows: Tensor, boxes: Tensor, factor: int, which: range, device: torch.device) -> Tensor:
    """Some of the mosaics of some classes, u8 `[len(which), classes, C, S, S]`, on the device.

    Args:
        images: all real images, u8 `[.., C, S, S]`.
        rows, boxes: of the patches of each class, `[classes, f² · n]` and `[classes, f² · n, 4]`, as `search` orders
            them; n is the number of mosaics a class.
        factor: f.
        which: of the n.
        device: where they are cut.
    """
    classes, side = len(rows), images.shape[3]
    cells = rows.view(classes, factor**2, -1)[:, :, which.start : which.stop]
    box = boxes.view(classes, factor**2, -1, 4)[:, :, which.start : which.stop]
    patches = cut(sent(images[cells.flatten()], device), sent(box.flatten(0, 2), device), side // factor)
    patches = patches.unflatten(0, cells.shape).permute(2, 0, 1, 3, 4, 5)
    return tiled(patches.flatten(0, 1), factor).unflatten(0, (len(which), classes))


def tiled(patches: Tensor, factor: int) -> Tensor:
    """Patches `[N, f², C, P, P]` as N images `[N, C, f · P, f · P]`, row by row."""
    n, _, channels, side, _ = patches.shape
    grid = patches.view(n, factor, factor, channels, side, side)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, factor * side, factor * side)

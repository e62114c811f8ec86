"""DSA: Differentiable Siamese Augmentation (Zhao & Bilen, 2021, arXiv 2102.08259), and the form that IDC gave it.

A row of uniforms is what happens to an image; nothing else is drawn. With u the number of a column and M a mean:

    column   operation
    0                 which of the k listed operations: floor(u * k)
    1 2 3    color    brightness x + (u - 0.5), saturation (x - M) * 2u + M with M over the channels of a pixel,
                      contrast (x - M) * (u + 0.5) + M with M over the image, one after the other
    4 5      crop     row i is row i + floor(u * (2s + 1)) - s, s = floor(crop * side + 0.5), columns likewise; zeros in
    6 7      cutout   a box of zeros, sides s = floor(side / 2 + 0.5), from floor(u * p) - floor(s / 2) on, clipped to
                      the image; p is side + 1 for an even s, else side
    8        flip     left to right where u < 0.5
    9 10     scale    sx, sy = 1 / 1.2 + u * (1.2 - 1 / 1.2): (x, y) is taken at (sx * x, sy * y)
    11       rotate   a = (u - 0.5) * 30 degrees: (x, y) is taken at (x cos a - y sin a, x sin a + y cos a)

`dsa` applies the one operation that is picked. `idc` (Kim et al., 2022, arXiv 2205.14959) applies in this order flip,
color, the one that is picked from the others, and cutout, as far as they are listed. Scale and rotate are bilinear
with zeros outside, x and y in [-1, 1] over the image: from centre to centre of the outer pixels for `dsa`
(`align_corners=True`), from edge to edge for `idc` (torch's default).

Example, one operation and one set of parameters for a whole batch:

    u = torch.rand(1, COLUMNS).expand(len(x), -1)
    x = dsa(x, u, ["color", "crop", "cutout", "flip", "scale", "rotate"])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub.data.geometry import flip, shift
from ddhub.errors import UsageError, unknown
from ddhub.protocols.protocol import DSA_OPS, DSAForm

__all__ = ["COLUMNS", "dsa"]

COLUMNS = 12
_SCALE, _DEGREES = 1.2, 15.0
_FIRST, _LAST = ("flip", "color"), ("cutout",)  # what `idc` always applies

_Op = Callable[[Tensor, Tensor], Tensor]


def dsa(x: Tensor, u: Tensor, ops: Sequence[str], *, form: DSAForm = "dsa", crop: float = 0.125) -> Tensor:
    """Normalised images x [N, C, H, W] float, augmented as the rows of u say, differentiable with respect to x.

    Args:
        x: any number of channels; zero is what is filled in.
        u: [N, COLUMNS] float in [0, 1); one row expanded is one operation and one set of parameters for all.
        ops: different ones of `color crop cutout flip scale rotate`; none leaves x as it is.
        form: `dsa`, one operation an image, or `idc`, flip, color and cutout always and one of the others.
        crop: largest shift of the crop, as a share of the side.

    Raises:
        UsageError: an operation or a form that is not known, or a table of another shape.
    """
    for op in ops:
        if op not in DSA_OPS:
            raise unknown("operation of DSA", op, DSA_OPS, "ddhub.data.dsa")
    if form not in ("dsa", "idc"):
        raise UsageError(f"dsa_form is {form!r}; it must be 'dsa' or 'idc'")
    if u.shape != (len(x), COLUMNS):
        raise UsageError(f"the table of DSA is {list(u.shape)}; it must be [{len(x)}, {COLUMNS}]: a row an image")
    known: dict[str, _Op] = {
        "color": _color,
        "crop": partial(_crop, share=crop),
        "cutout": _cutout,
        "flip": _flip,
        "scale": partial(_scale, corners=form == "dsa"),
        "rotate": partial(_rotate, corners=form == "dsa"),
    }
    if form == "dsa":
        return _one_of(x, u, [known[op] for op in ops])
    for op in _FIRST:
        x = known[op](x, u) if op in ops else x
    x = _one_of(x, u, [known[op] for op in ops if op not in _FIRST + _LAST])
    for op in _LAST:
        x = known[op](x, u) if op in ops else x
    return x


def _one_of(x: Tensor, u: Tensor, ops: Sequence[_Op]) -> Tensor:
    """Every image through the operation that its row picks."""
    if len(ops) < 2:
        return ops[0](x, u) if ops else x
    pick = _whole(u[:, 0], len(ops))
    if x.device.type != "cpu":
        # All operations on all images: to ask which images are whose would wait for the device.
        chosen, *others = (op(x, u) for op in ops)
        for number, other in enumerate(others, 1):
            chosen = torch.where((pick == number)[:, None, None, None], other, chosen)
        return chosen
    counts = torch.bincount(pick, minlength=len(ops)).tolist()
    if max(counts) == len(x):
        return ops[counts.index(len(x))](x, u)
    order = pick.argsort()
    parts = zip(ops, x[order].split(counts), u[order].split(counts), strict=True)
    return torch.cat([op(*part) for op, *part in parts if len(part[0])])[order.argsort()]


def _color(x: Tensor, u: Tensor) -> Tensor:
    brightness, saturation, contrast = u[:, 1:4].to(x.dtype)[:, :, None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * (2 * saturation) + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _crop(x: Tensor, u: Tensor, share: float) -> Tensor:
    most = [int(share * side + 0.5) for side in x.shape[2:]]
    return shift(x, torch.stack([_whole(u[:, 4 + dim], 2 * s + 1) - s for dim, s in enumerate(most)], dim=1))


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    inside = []
    for dim, side in enumerate(x.shape[2:]):
        length = int(side / 2 + 0.5)
        first = _whole(u[:, 6 + dim], side + 1 - length % 2) - length // 2
        offset = torch.arange(side, device=x.device) - first[:, None]
        inside.append((offset >= 0) & (offset < length))
    rows, columns = inside
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    return flip(x, u[:, 8] < 0.5)


def _scale(x: Tensor, u: Tensor, corners: bool) -> Tensor:
    sx, sy = (1 / _SCALE + u[:, 9:11].to(x.dtype) * (_SCALE - 1 / _SCALE)).unbind(1)
    zero = torch.zeros_like(sx)
    return _sample(x, [[sx, zero, zero], [zero, sy, zero]], corners)


def _rotate(x: Tensor, u: Tensor, corners: bool) -> Tensor:
    angle = (u[:, 11].to(x.dtype) - 0.5) * math.radians(2 * _DEGREES)
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    return _sample(x, [[cos, -sin, zero], [sin, cos, zero]], corners)


def _sample(x: Tensor, matrix: Sequence[Sequence[Tensor]], corners: bool) -> Tensor:
    theta = torch.stack([torch.stack(list(row), dim=1) for row in matrix], dim=1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=corners)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=corners)


def _whole(u: Tensor, count: int) -> Tensor:
    """Uniforms as whole numbers 0..count - 1; a float32 that was rounded up to 1 is the last."""
    return (u * count).long().clamp(max=count - 1)

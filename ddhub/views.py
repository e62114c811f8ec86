"""Views: what happens to every item in one epoch, as one table of uniforms.

`epoch_views(seed, epoch, n, ...)` draws 8 columns x n uniforms and turns row i into the view of
item i: crop, flip, partner, mixing weight, CutMix box and its place in the order. Nothing else
enters, so a view does not depend on rank, loader worker, device or what was drawn before; resuming
needs no more than the epoch's number, and labels that were stored per view replay to the bit.
`render` makes the pixels:

    decode -> crop (zero padding) -> flip -> MixUp (Zhang et al., 2018) or CutMix (Yun et al., 2019)

The table is a file format, since labels stored per view were asked for in these views; it never
changes.

    raw      numpy Philox (4x64, 10 rounds), key [seed, epoch] (uint64), counter 0, as [column, n]
    uniform  (raw >> 11) * 2**-53, in [0, 1); a column added later leaves the earlier ones alone
    order    stable argsort of ORDER
    offset   floor(u * (2 * padding + 1)) for TOP and LEFT
    flip     FLIP < probability
    lambda   Beta(alpha, alpha): WEIGHT itself for alpha = 1, stable to the bit for ever. Any other
             alpha: `numpy.random.Generator(Philox(key, counter=[0, 0, 0, 1])).beta(alpha, alpha,
             n)`, which numpy does not promise to keep to the bit across versions and platforms
    partner  per item: stable argsort of PARTNER, a permutation of all items
             per batch: order[k] gets the k-th item by (batch, PARTNER), a permutation of each batch
    row      item i takes lambda and box from row i (per item), or from row b of its batch (per
             batch, the papers' form); batch b is order[b * batch_size : (b + 1) * batch_size],
             all ranks together
    box      sides int(sqrt(1 - lambda) * H) and the same of W, centre floor(BOX_Y * H) and
             floor(BOX_X * W), half a side (floor) to each side of it, clipped to the image
    weight   MixUp: lambda; CutMix: the share of the image that the clipped box leaves

Example:

    augment = Augment(crop_padding=4, flip=0.5, mix="mixup", mix_alpha=0.8)
    order, views = epoch_views(0, 3, len(images), augment, size=(32, 32), batch_size=64)
    x = render(lambda items: images[items] / 255, views, order[:64], augment)  # [64, C, 32, 32]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ddhub.errors import UsageError
from ddhub.protocols import Augment

__all__ = [
    "Augment",
    "Views",
    "crop",
    "cutmix",
    "epoch_views",
    "flip",
    "mixup",
    "render",
    "uniforms",
]

# Columns of the table. Append only: the position is part of the format.
ORDER, TOP, LEFT, FLIP, PARTNER, WEIGHT, BOX_Y, BOX_X = range(8)
COLUMNS = 8


def uniforms(seed: int, epoch: int, n: int) -> NDArray[np.float64]:
    """The table of an epoch: [8, n] float64 in [0, 1)."""
    raw = np.random.Philox(key=_key(seed, epoch)).random_raw(COLUMNS * n).reshape(COLUMNS, n)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def epoch_views(
    seed: int, epoch: int, n: int, augment: Augment, *, size: tuple[int, int], batch_size: int
) -> tuple[Tensor, Views]:
    """The order in which an epoch visits its items, [n] int64, and all n views in item order.

    Both are on the CPU.

    Args:
        seed: in 0..2**64-1, as is `epoch`.
        epoch: counted from 0.
        n: items, 1 or more.
        augment: crop, flip and mixing.
        size: (H, W) of a decoded image.
        batch_size: items of a global batch, all ranks together; only `mix_per="batch"` looks at it.

    Raises:
        UsageError: a number out of range.
    """
    _check(n >= 1, "n", n, "1 or more items")
    _check(batch_size >= 1, "batch_size", batch_size, "1 or more")
    table = uniforms(seed, epoch, n)
    order = np.argsort(table[ORDER], kind="stable")
    corner = np.floor(table[[TOP, LEFT]] * (2 * augment.crop_padding + 1)).astype(np.int64)

    row = partner = np.arange(n)
    weight, box = np.ones(n), np.zeros((n, 4), dtype=np.int64)
    if augment.mix != "none":
        if augment.mix_per == "item":
            partner = np.argsort(table[PARTNER], kind="stable")
        else:
            row, partner = np.empty_like(order), np.empty_like(order)
            row[order] = np.arange(n) // batch_size
            partner[order] = np.lexsort((table[PARTNER], row))
        weight = table[WEIGHT]
        if augment.mix_alpha != 1:
            philox = np.random.Philox(key=_key(seed, epoch), counter=[0, 0, 0, 1])
            weight = np.random.Generator(philox).beta(augment.mix_alpha, augment.mix_alpha, n)
        if augment.mix == "cutmix":
            box = _boxes(weight, table[BOX_Y], table[BOX_X], size)
            area = size[0] * size[1]
            weight = (area - (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])) / area
    return torch.from_numpy(order), Views(
        epoch=epoch,
        items=torch.arange(n),
        offset=torch.from_numpy(np.ascontiguousarray(corner.T)),
        flip=torch.from_numpy(table[FLIP] < augment.flip),
        partner=torch.from_numpy(partner),
        weight=torch.from_numpy(weight[row].astype(np.float32)),
        box=torch.from_numpy(box[row]),
    )


def render(
    decode: Callable[[Tensor], Tensor],
    views: Views,
    items: Tensor,
    augment: Augment,
    partners_at: Tensor | None = None,
) -> Tensor:
    """The pixels of `items` [B] in these views: decode, crop, flip, mix -> [B, C, H, W] float32, unit scale.

    `views` are those of all items in item order, since a partner brings its own crop and flip. `decode` maps indices
    [U] to images [U, C, H, W] float32 on the device of the views, and is called once, no item twice. `partners_at`
    [B] says at which rows of `items` the partners are, where all of them are among the items: a whole batch of the
    papers' form, which then needs no search and, on a GPU, no wait for its result.
    """
    own = views[items]
    if augment.mix == "none":
        return _augment(decode(items), own, augment)
    if partners_at is not None:
        a = _augment(decode(items), own, augment)
        b = a.index_select(0, partners_at)
    else:
        need, where = torch.unique(torch.cat([items, own.partner]), return_inverse=True)
        x = _augment(decode(need), views[need], augment)
        a, b = x.index_select(0, where[: len(items)]), x.index_select(0, where[len(items) :])
    return mixup(a, b, own.weight) if augment.mix == "mixup" else cutmix(a, b, own.box)


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
    return _choose(x, x.flip(3), mask.to(x.dtype).view(-1, 1, 1, 1))


def mixup(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """weight * a + (1 - weight) * b for images [N, C, H, W] and weight [N]."""
    weight = weight.view(-1, 1, 1, 1)
    return (weight * a).add_((1 - weight) * b)


def cutmix(a: Tensor, b: Tensor, box: Tensor) -> Tensor:
    """Images a [N, C, H, W] with the inside of box [N, 4] (top, left, bottom, right) taken from b.

    The values must be finite.
    """
    top, left, bottom, right = box.view(-1, 4, 1).unbind(1)
    y, x = (torch.arange(length, device=a.device) for length in a.shape[2:])
    rows = ((y >= top) & (y < bottom)).to(a.dtype)[:, None, :, None]
    columns = ((x >= left) & (x < right)).to(a.dtype)[:, None, None, :]
    return _choose(a, b, rows * columns)


def _choose(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """a where the mask is 0, b where it is 1."""
    # lerp gives its ends exactly and takes a third of the time of torch.where on a CPU.
    return torch.lerp(a, b, mask)


def _augment(x: Tensor, views: Views, augment: Augment) -> Tensor:
    if augment.crop_padding:
        x = crop(x, views.offset, augment.crop_padding)
    return flip(x, views.flip) if augment.flip else x


def _boxes(
    weight: NDArray[np.float64],
    centre_y: NDArray[np.float64],
    centre_x: NDArray[np.float64],
    size: tuple[int, int],
) -> NDArray[np.int64]:
    """CutMix boxes [n, 4] for weights [n] and the uniforms [n] of the centres."""
    length = np.array(size)
    centre = (np.stack([centre_y, centre_x], axis=1) * length).astype(np.int64)
    half = (np.sqrt(1 - weight)[:, None] * length).astype(np.int64) // 2
    return np.concatenate([(centre - half).clip(0), np.minimum(centre + half, length)], axis=1)


def _key(seed: int, epoch: int) -> NDArray[np.uint64]:
    _check(0 <= seed < 2**64, "seed", seed, "an integer in 0..2**64-1")
    _check(0 <= epoch < 2**64, "epoch", epoch, "an integer in 0..2**64-1")
    return np.array([seed, epoch], dtype=np.uint64)


def _check(ok: bool, what: str, value: int, allowed: str) -> None:
    if not ok:
        raise UsageError(f"{what} is {value}; it must be {allowed}")


@dataclass(frozen=True)
class Views:
    """What happens to some items in one epoch. A row is an item; all tensors are on one device.

    Attributes:
        epoch: counted from 0; -1 for items as they are stored (`plain`).
        items: [B] int64, who they are.
        offset: [B, 2] int64, (top, left) of the crop in the padded image, each in 0..2 * padding.
        flip: [B] bool.
        partner: [B] int64, the item that is mixed in; the item itself without mixing.
        weight: [B] float32, share of the item: MixUp's lambda, CutMix's kept area, else 1.
        box: [B, 4] int64, (top, left, bottom, right) of what the partner covers; else zeros.
    """

    epoch: int
    items: Tensor
    offset: Tensor
    flip: Tensor
    partner: Tensor
    weight: Tensor
    box: Tensor

    @classmethod
    def plain(cls, items: Tensor) -> Views:
        """Items [B] int64 as they are stored: no crop, no flip, no mixing."""
        n = len(items)
        return cls(
            epoch=-1,
            items=items,
            offset=items.new_zeros(n, 2),
            flip=items.new_zeros(n, dtype=torch.bool),
            partner=items,
            weight=items.new_ones(n, dtype=torch.float32),
            box=items.new_zeros(n, 4),
        )

    def __getitem__(self, rows: Tensor) -> Views:
        """The views of rows [R] int64."""
        return Views(self.epoch, *(tensor.index_select(0, rows) for tensor in self._tensors()))

    def to(self, device: torch.device | str) -> Views:
        """The same views on a device."""
        return Views(self.epoch, *(tensor.to(device) for tensor in self._tensors()))

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, item.name) for item in fields(self)[1:]]

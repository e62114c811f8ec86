"""Views: what happens to every item in one epoch, as one table of uniforms.

`epoch_views(seed, epoch, n, ...)` draws 8 columns x n uniforms, more only where the augmentation
looks at them, and turns row i into the view of item i: crop, flip, partner, mixing weight, CutMix
box and its place in the order. Nothing else enters, so a view does not depend on rank, loader
worker, device or what was drawn before; resuming needs no more than the epoch's number, and labels
that were stored per view replay to the bit. `render` makes the pixels:

    decode -> strips shuffled (RDED) -> resized crop -> crop (zero padding) -> flip -> DSA
           -> MixUp (Zhang et al., 2018) or CutMix (Yun et al., 2019)

The table is a file format, since labels stored per view were asked for in these views; it never
changes.

    raw      numpy Philox (4x64, 10 rounds), key [seed, epoch] (uint64), counter 0, as [column, n]
    uniform  (raw >> 11) * 2**-53, in [0, 1); a column added later leaves the earlier ones alone
    columns  ORDER TOP LEFT FLIP PARTNER WEIGHT BOX_Y BOX_X MIXED WINDOW (22) STRIPS (16) DSA (12)
    order    stable argsort of ORDER
    offset   floor(u * (2 * padding + 1)) for TOP and LEFT
    flip     FLIP < probability
    lambda   Beta(alpha, alpha): WEIGHT itself for alpha = 1, stable to the bit for ever. Any other
             alpha: `numpy.random.Generator(Philox(key, counter=[0, 0, 0, 1])).beta(alpha, alpha,
             n)`, which numpy does not promise to keep to the bit across versions and platforms
    partner  per item: stable argsort of PARTNER, a permutation of all items
             per batch: order[k] gets the k-th item by (batch, PARTNER), a permutation of each batch
    row      item i takes lambda, box and MIXED from row i (per item), or from row b of its batch
             (per batch, the papers' form); batch b is order[b * batch_size : (b + 1) * batch_size],
             all ranks together
    box      sides int(sqrt(1 - lambda) * H) and the same of W, centre floor(BOX_Y * H) and
             floor(BOX_X * W), half a side (floor) to each side of it, clipped to the image
    weight   MixUp: lambda; CutMix: the share of the image that the clipped box leaves
    mixed    MIXED < probability; an item that is not mixed is its own partner, of weight 1
    window   `windows` of the 22 columns WINDOW: area and ratio of 10 attempts, then the corner
    strips   the first 2f columns of STRIPS, rounded to float32: keys of `shuffle_patches`
    dsa      the 12 columns of DSA (`ddhub.data.dsa`), rounded to float32; the first, which picks the
             operation, from row i (per item) or from row b (per batch)

Example:

    augment = Augment(crop_padding=4, flip=0.5, mix="mixup", mix_alpha=0.8)
    order, views = epoch_views(0, 3, len(images), augment, size=(32, 32), batch_size=64)
    x = render(lambda items: images[items] / 255, views, order[:64], augment)  # [64, C, 32, 32]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddhub.data.dsa import COLUMNS as DSA_COLUMNS
from ddhub.data.dsa import dsa
from ddhub.data.geometry import WINDOW_COLUMNS, crop, flip, resized_crop, shuffle_patches, windows
from ddhub.data.transfer import sent
from ddhub.errors import UsageError
from ddhub.protocols.protocol import Augment

__all__ = [
    "Augment",
    "Views",
    "crop",
    "cutmix",
    "epoch_views",
    "flip",
    "mixup",
    "render",
    "resized_crop",
    "shuffle_patches",
    "uniforms",
    "windows",
]

# Columns of the table. Append only: the position is part of the format.
ORDER, TOP, LEFT, FLIP, PARTNER, WEIGHT, BOX_Y, BOX_X, MIXED, WINDOW = range(10)
COLUMNS = MIXED  # that every epoch draws
STRIPS = WINDOW + WINDOW_COLUMNS
DSA = STRIPS + 2 * 8  # keys of up to 8 strips each way
END = DSA + DSA_COLUMNS


def uniforms(seed: int, epoch: int, n: int, columns: int = COLUMNS) -> NDArray[np.float64]:
    """The first columns of the table of an epoch: [columns, n] float64 in [0, 1)."""
    raw = np.random.Philox(key=_key(seed, epoch)).random_raw(columns * n).reshape(columns, n)
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
        augment: crops, flip, DSA and mixing.
        size: (H, W) of a decoded image.
        batch_size: items of a global batch, all ranks together; only `mix_per` and `dsa_per` "batch"
            look at it.

    Raises:
        UsageError: a number out of range.
    """
    _check(n >= 1, "n", n, "1 or more items")
    _check(batch_size >= 1, "batch_size", batch_size, "1 or more")
    table = uniforms(seed, epoch, n, _columns(augment))
    order = np.argsort(table[ORDER], kind="stable")
    batch = np.empty_like(order)
    batch[order] = np.arange(n) // batch_size
    corner = np.floor(table[[TOP, LEFT]] * (2 * augment.crop_padding + 1)).astype(np.int64)

    row = partner = np.arange(n)
    weight, box = np.ones(n), np.zeros((n, 4), dtype=np.int64)
    if augment.mix != "none":
        if augment.mix_per == "item":
            partner = np.argsort(table[PARTNER], kind="stable")
        else:
            row, partner = batch, np.empty_like(order)
            partner[order] = np.lexsort((table[PARTNER], row))
        weight = table[WEIGHT]
        if augment.mix_alpha != 1:
            philox = np.random.Philox(key=_key(seed, epoch), counter=[0, 0, 0, 1])
            weight = np.random.Generator(philox).beta(augment.mix_alpha, augment.mix_alpha, n)
        if augment.mix == "cutmix":
            box = _boxes(weight, table[BOX_Y], table[BOX_X], size)
            area = size[0] * size[1]
            weight = (area - (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])) / area
        if augment.mix_probability < 1:
            mixed = table[MIXED] < augment.mix_probability
            weight, box = np.where(mixed, weight, np.ones(n)), box * mixed[:, None]
            partner = np.where(mixed[row], partner, np.arange(n))
    window = None
    if augment.crop_scale:
        window = windows(torch.from_numpy(table[WINDOW:STRIPS].T), size, augment.crop_scale)
    return torch.from_numpy(order), Views(
        epoch=epoch,
        items=torch.arange(n, device="cpu"),
        offset=torch.from_numpy(np.ascontiguousarray(corner.T)),
        flip=torch.from_numpy(table[FLIP] < augment.flip),
        partner=torch.from_numpy(partner),
        weight=torch.from_numpy(weight[row].astype(np.float32)),
        box=torch.from_numpy(box[row]),
        window=window,
        strips=_rows(table[STRIPS : STRIPS + 2 * augment.shuffle]) if augment.shuffle > 1 else None,
        dsa=_dsa_rows(table[DSA:END], batch, augment) if augment.dsa else None,
    )


def render(
    decode: Callable[[Tensor], Tensor],
    views: Views,
    items: Tensor,
    augment: Augment,
    partners_at: Tensor | None = None,
) -> Tensor:
    """The pixels of `items` [B] in these views: decode, crop, flip, DSA, mix -> [B, C, H, W] float32.

    `views` are those of all items in item order, since a partner brings its own crop and flip. `decode` maps indices
    [U] to images [U, C, H, W] float32 on the device of the views, and is called once, on a CPU no item twice: images in
    unit scale, or normalised ones for `augment.dsa`; the result is in the same scale. `partners_at` [B] says at which
    rows of `items` the partners are, where all of them are among the items: a whole batch of the papers' form, which
    then needs no search.
    """
    shown = views[items]
    if augment.mix == "none":
        return _augment(decode(items), shown, augment)
    if partners_at is not None:
        a = _augment(decode(items), shown, augment)
        b = a.index_select(0, partners_at)
    else:
        need = torch.cat([items, shown.partner])
        where = torch.arange(len(need), device=need.device)
        if need.device.type == "cpu":  # on a GPU the search is a wait, and costs more than it saves
            need, where = torch.unique(need, return_inverse=True)
        x = _augment(decode(need), views[need], augment)
        a, b = x.index_select(0, where[: len(items)]), x.index_select(0, where[len(items) :])
    return mixup(a, b, shown.weight) if augment.mix == "mixup" else cutmix(a, b, shown.box)


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
    # lerp gives its ends exactly and takes a third of the time of torch.where on a CPU.
    return torch.lerp(a, b, rows * columns)


def _augment(x: Tensor, views: Views, augment: Augment) -> Tensor:
    if views.strips is not None:
        x = shuffle_patches(x, views.strips, augment.shuffle)
    if views.window is not None:
        x = resized_crop(x, views.window)
    if augment.crop_padding:
        x = crop(x, views.offset, augment.crop_padding)
    if augment.flip:
        x = flip(x, views.flip)
    if views.dsa is not None:
        x = dsa(x, views.dsa, augment.dsa_ops, form=augment.dsa_form, crop=augment.dsa_crop)
    return x


def _columns(augment: Augment) -> int:
    """How many columns of the table an epoch needs."""
    needs = {
        MIXED + 1: augment.mix_probability < 1,
        STRIPS: augment.crop_scale > 0,
        DSA: augment.shuffle > 1,
        END: bool(augment.dsa),
    }
    return max((end for end, needed in needs.items() if needed), default=COLUMNS)


def _dsa_rows(table: NDArray[np.float64], batch: NDArray[np.int64], augment: Augment) -> Tensor:
    if augment.dsa_per == "batch":
        table[0] = table[0, batch]
    return _rows(table)


def _rows(table: NDArray[np.float64]) -> Tensor:
    """Columns [k, n] of the table as a row an item, [n, k] float32."""
    return torch.from_numpy(np.ascontiguousarray(table.T, dtype=np.float32))


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


def _check(ok: bool, name: str, value: int, allowed: str) -> None:
    if not ok:
        raise UsageError(f"{name} is {value}; it must be {allowed}")


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
        window: [B, 4] int64, (top, left, height, width) that is enlarged to the whole image; None without.
        strips: [B, 2f] float32, keys that permute the f vertical and the f horizontal strips; None without.
        dsa: [B, 12] float32, the numbers of DSA; None without.
    """

    epoch: int
    items: Tensor
    offset: Tensor
    flip: Tensor
    partner: Tensor
    weight: Tensor
    box: Tensor
    window: Tensor | None = None
    strips: Tensor | None = None
    dsa: Tensor | None = None

    @classmethod
    def plain(cls, items: Tensor) -> Views:
        """Items [B] int64 as they are stored: no crop, no flip, no DSA, no mixing."""
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
        return self._each(lambda tensor: tensor.index_select(0, rows))

    def to(self, device: torch.device | str) -> Views:
        """The same views on a device."""
        return self._each(lambda tensor: sent(tensor, device))

    def _each(self, move: Callable[[Tensor], Tensor]) -> Views:
        tensors: list[Any] = [getattr(self, item.name) for item in fields(self)[1:]]
        moved: list[Any] = [None if tensor is None else move(tensor) for tensor in tensors]
        return Views(self.epoch, *moved)

"""The pictures of an artifact: a thumbnail, its images by class, what they are decoded to, and what a student sees.

    made = draw(Artifact.open(folder))
    made.files["sheet"]                         # bytes of a WebP file
    made.facts["sheet"]                         # its size, and the class of each row

Pixels of images up to 64 px a side are kept to the bit; larger ones are coded at quality 85.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddhub.artifact.folder import Artifact
from ddhub.artifact.images import class_rows
from ddhub.data import decode, labels
from ddhub.data.decode import Decoder
from ddhub.data.views import Augment, epoch_views
from ddhub.io.rules import is_whole
from ddhub.protocols.protocol import Protocol
from ddhub.training.batches import DistilledData
from ddhub.training.open import about

SIDE = 128  # of the largest cell
_THUMBNAILS = ((8, 4), (6, 3), (4, 2), (2, 1), (1, 1))  # columns and rows, the largest that the images fill
_SHOWN = 5  # items of which decoded images and views are shown
_EPOCHS = 6
_MOST = 20  # images of a class


@dataclass(frozen=True)
class Pictures:
    """Pictures by name, `thumbnail`, `sheet`, `decoded` and `views`, and facts of each: width, height and more.

    `decoded` is missing where an item is the stored image.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, cells: list[list[Tensor]], **facts: Any) -> None:
        """A picture of rows of images u8 [C, H, W] of one size."""
        picture = _grid(cells)
        self.files[name] = _webp(picture, lossless=max(cells[0][0].shape[1:]) <= 64 and name != "thumbnail")
        self.facts[name] = {"width": picture.width, "height": picture.height, **facts}


def draw(artifact: Artifact) -> Pictures:
    """The pictures of an opened artifact; the same artifact gives the same bytes."""
    m, images, classes = artifact.manifest, artifact.images(), artifact.image_labels()
    made = Pictures()
    count = len(images)
    columns, rows = next(shape for shape in _THUMBNAILS if shape[0] * shape[1] <= count)
    spread = [i * count // (columns * rows) for i in range(columns * rows)]
    made.add("thumbnail", _rows([_shrunk(images[i], 64) for i in spread], columns))
    shown = class_rows(classes, len(m.classes), _MOST)
    names = [int(classes[row[0]]) for row in shown]
    made.add("sheet", [[_shrunk(images[i], SIDE) for i in row] for row in shown], classes=names, columns=len(shown[0]))
    decoder = decode.build(m.decoder, images, artifact.tensors(), m.pixel_range)
    items = [row[0] for row in shown[:_SHOWN]]
    if m.decoder["kind"] != "identity":
        made.add("decoded", _decoded(decoder, images, items))
    views = _views(artifact, decoder, items)
    made.add("views", views, epochs=len(views[0]) - 1)
    return made


def _decoded(decoder: Decoder, images: Tensor, stored: list[int]) -> list[list[Tensor]]:
    """A row a stored image: itself, then what it is decoded to, at most nine."""
    origin = decoder.image_of(torch.arange(len(decoder)))
    rows = []
    for image in stored:
        made = _bytes(decoder((origin == image).nonzero().flatten()[:9]))
        rows.append([_shrunk(x, SIDE) for x in (images[image], *made)])
    return rows


def _views(artifact: Artifact, decoder: Decoder, stored: list[int]) -> list[list[Tensor]]:
    """A row an item: as it is decoded, then as a student sees it in the first epochs of its protocol."""
    m = artifact.manifest
    origin = decoder.image_of(torch.arange(len(decoder)))
    items = torch.stack([(origin == image).nonzero().flatten()[0] for image in stored])
    # Labels have no part in pixels: whatever they are, no teacher is asked.
    plan = replace(Protocol.from_json(m.protocol), teachers=())
    described = about(artifact)
    hard = labels.build({"kind": "hard"}, artifact.image_labels()[origin], len(m.classes), {}, None, plan.epochs)
    data = DistilledData(decoder, hard, plan, described)
    seed = m.labels.get("seed", 0)  # that of the views for which labels are stored
    if not (is_whole(seed) and 0 <= seed < 2**64):
        seed = 0
    columns = [_bytes(decoder(items))]
    for epoch in range(min(_EPOCHS, plan.epochs)):
        columns.append(_seen(data, plan.augment, items, seed, epoch))
    return [[_shrunk(column[i], SIDE) for column in columns] for i in range(len(items))]


def _seen(data: DistilledData, augment: Augment, items: Tensor, seed: int, epoch: int) -> Tensor:
    """Items as a student sees them in an epoch, u8 [B, C, H, W]."""
    size, batch = data.about.image_size[1:], data.protocol.batch_size
    _, views = epoch_views(seed, epoch, len(data), augment, size=size, batch_size=batch)
    seen = data.render(views, items, augment)
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (data.about.mean, data.about.std))
    return _bytes(seen * std + mean)


def _bytes(images: Tensor) -> Tensor:
    return images.mul(255).round().clamp(0, 255).to(torch.uint8)


def _shrunk(image: Tensor, side: int) -> Tensor:
    """An image u8 [C, H, W] with sides of at most so many pixels."""
    height, width = image.shape[1:]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    array = image.permute(1, 2, 0).squeeze(2).contiguous().numpy()
    small = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX))
    return torch.from_numpy(small.copy()).view(size[1], size[0], -1).permute(2, 0, 1)


def _rows(cells: list[Tensor], columns: int) -> list[list[Tensor]]:
    return [cells[at : at + columns] for at in range(0, len(cells), columns)]


def _grid(cells: list[list[Tensor]]) -> Image.Image:
    """Rows of images of one size without gaps; what is missing in a row is grey."""
    channels, height, width = cells[0][0].shape
    grid = np.full((height * len(cells), width * max(map(len, cells)), channels), 127, np.uint8)
    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            grid[y * height : (y + 1) * height, x * width : (x + 1) * width] = cell.permute(1, 2, 0).numpy()
    return Image.fromarray(grid if channels == 3 else grid[..., 0]).convert("RGB")


def _webp(picture: Image.Image, *, lossless: bool) -> bytes:
    out = io.BytesIO()
    # Method 0 takes a twentieth of the time of the default, for 1 % more bytes of a lossless file.
    picture.save(out, "WEBP", lossless=lossless, quality=0 if lossless else 85, method=0)
    return out.getvalue()

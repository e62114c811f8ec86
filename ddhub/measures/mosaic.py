"""A picture of the crops that a `crops` artifact decodes to: their positions, and how much each pixel is used.

Each stored image has two cells side by side: the enlarged image with its tiles in white and its regions in colours, and
its utilisation map (`ddhub.measures.utilisation`). Without a proxy the second cell shows the number of training images
that contain each pixel.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ddhub.artifact import images
from ddhub.artifact.folder import Artifact
from ddhub.data.decode import Crops, build
from ddhub.measures.utilisation import Proxy, maps

# Okabe and Ito's palette, distinguishable with every kind of colour vision, without black, grey and white
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_SIDE = 128  # approximate side of a cell in pixels


def draw(artifact: Artifact, proxy: nn.Module | None = None) -> tuple[bytes, str]:
    """The picture as PNG bytes, and a line that explains it: one row a class, at most ten rows of five images.

    The artifact must have the decoder `crops`; the proxy must be a net for its data set.

    Raises:
        UsageError: the proxy is not a ConvNet.
    """
    m = artifact.manifest
    decoder = build(m.decoder, artifact.images(), artifact.tensors(), m.pixel_range)
    assert isinstance(decoder, Crops), "only artifacts with the decoder `crops` can be drawn"
    rows = images.class_rows(artifact.image_labels(), len(m.classes), 5)
    corners = {
        i: decoder.corners(torch.arange(i, len(decoder), len(decoder.images), device="cpu"))
        for row in rows
        for i in row
    }
    if proxy is None:
        uses = {i: use_counts(positions, decoder.side) for i, positions in corners.items()}
        most = max(int(count.max()) for count in uses.values())
        right = {i: count * 255 // most for i, count in uses.items()}
        legend = f"training images per pixel, white is {most}"
    else:
        chosen, stats = (
            list(corners),
            (torch.tensor(m.mean, device="cpu").view(-1, 1, 1), torch.tensor(m.std, device="cpu").view(-1, 1, 1)),
        )
        stored, positions = decoder.images[chosen] / 255, torch.stack([corners[i] for i in chosen])
        utilisation = maps(Proxy(proxy, *stats), stored, artifact.image_labels()[chosen], positions, decoder.side)
        right = dict(zip(chosen, (utilisation * 255).long(), strict=True))
        legend = "response of the proxy to each pixel, white is the maximum of an image"
    cells = [[cell for i in row for cell in (_outlined(decoder, i, corners[i]), _grey(right[i]))] for row in rows]
    tiles, regions = len(decoder.tiles), decoder.boxes.shape[1]
    return images.to_png(images.sheet(cells)), f"{tiles} tiles in white, {regions} regions in colours; {legend}"


def use_counts(corners: Tensor, side: int) -> Tensor:
    """The number of crops, with top left `corners` `[T, 2]`, that contain each pixel: i64 `[H, W]`."""
    height, width = (corners.amax(0) + side).tolist()
    count = torch.zeros(height, width, dtype=torch.int64, device="cpu")
    for y, x in corners.tolist():
        count[y : y + side, x : x + side] += 1
    return count


def _outlined(decoder: Crops, image: int, corners: Tensor) -> Image.Image:
    """A stored image, padded to the extent of its tiles, with the outlines of all crops."""
    height, width = decoder.size
    canvas = decoder.side * decoder.factor
    stored = torch.full((decoder.images.shape[1], canvas, canvas), 128, dtype=torch.uint8, device="cpu")
    stored[:, :height, :width] = decoder.images[image]
    picture = _cell(images.to_pil(stored))
    pen, scale = ImageDraw.Draw(picture), picture.width / canvas
    for number, (y, x) in enumerate(corners.tolist(), -len(decoder.tiles)):
        colour = _COLOURS[number % len(_COLOURS)] if number >= 0 else "white"
        left, top, right, bottom = (round(scale * z) for z in (x, y, x + decoder.side, y + decoder.side))
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=1 if number < 0 else 2)
    return picture


def _grey(level: Tensor) -> Image.Image:
    return _cell(images.to_pil(level.byte()[None]))


def _cell(picture: Image.Image) -> Image.Image:
    """A square picture in RGB, enlarged by an integer factor or reduced to the side of a cell."""
    times, side = max(1, _SIDE // picture.width), min(_SIDE, picture.width)
    method = Image.Resampling.NEAREST if picture.width <= _SIDE else Image.Resampling.BOX
    return picture.convert("RGB").resize((times * side, times * side), method)

"""A picture of the squares that a `crops` artifact decodes: where they lie, and how much a proxy makes of each pixel.

For each stored image two cells side by side: the image, enlarged, with its tiles in white and its regions in colours,
and its utilisation map (`ddhub.measures.utilisation`); without a proxy one of how many training images a pixel is part
of.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ddhub.artifact import images
from ddhub.artifact.folder import Artifact
from ddhub.data.decode import Crops, build
from ddhub.measures.utilisation import Proxy, maps

# Okabe and Ito's colours, which are told apart whatever kind of colour vision one has; without black, grey and white
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_SIDE = 128  # of a cell in pixels, about


def draw(artifact: Artifact, proxy: nn.Module | None = None) -> tuple[bytes, str]:
    """The picture as PNG, a row a class, at most ten rows of five images, and a line that explains it.

    The artifact must be one with the decoder `crops`, the proxy a net of its data set.

    Raises:
        UsageError: a proxy that is not a ConvNet.
    """
    m = artifact.manifest
    decoder = build(m.decoder, artifact.images(), artifact.tensors(), m.pixel_range)
    assert isinstance(decoder, Crops), "only squares can be drawn"
    rows = images.class_rows(artifact.image_labels(), len(m.classes), 5)
    corners = {i: decoder.corners(torch.arange(i, len(decoder), len(decoder.images))) for row in rows for i in row}
    if proxy is None:
        uses = {i: used(places, decoder.side) for i, places in corners.items()}
        most = max(int(count.max()) for count in uses.values())
        right = {i: count * 255 // most for i, count in uses.items()}
        legend = f"how often a pixel is used, white is {most}"
    else:
        chosen, stats = list(corners), (torch.tensor(m.mean).view(-1, 1, 1), torch.tensor(m.std).view(-1, 1, 1))
        stored, places = decoder.images[chosen] / 255, torch.stack([corners[i] for i in chosen])
        responses = maps(Proxy(proxy, *stats), stored, artifact.image_labels()[chosen], places, decoder.side)
        right = dict(zip(chosen, (responses * 255).long(), strict=True))
        legend = "how much the proxy answers to a pixel, white is the most in its image"
    cells = [[cell for i in row for cell in (_outlined(decoder, i, corners[i]), _grey(right[i]))] for row in rows]
    tiles, regions = len(decoder.tiles), decoder.boxes.shape[1]
    return images.to_png(images.sheet(cells)), f"{tiles} tiles in white, {regions} regions in colours; {legend}"


def used(corners: Tensor, side: int) -> Tensor:
    """How many of the squares at `corners` `[T, 2]` each pixel is part of: int64, as far as the squares reach."""
    height, width = (corners.amax(0) + side).tolist()
    count = torch.zeros(height, width, dtype=torch.int64)
    for y, x in corners.tolist():
        count[y : y + side, x : x + side] += 1
    return count


def _outlined(decoder: Crops, image: int, corners: Tensor) -> Image.Image:
    """A stored image, as far as its tiles reach, with the outlines of all squares."""
    height, width = decoder.size
    canvas = decoder.side * decoder.factor
    stored = torch.full((decoder.images.shape[1], canvas, canvas), 128, dtype=torch.uint8)
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
    """A square picture in RGB, enlarged by a whole number or reduced to the side of a cell."""
    times, side = max(1, _SIDE // picture.width), min(_SIDE, picture.width)
    method = Image.Resampling.NEAREST if picture.width <= _SIDE else Image.Resampling.BOX
    return picture.convert("RGB").resize((times * side, times * side), method)

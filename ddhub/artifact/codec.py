"""Codecs: stored images as pictures, one an image or one for many images of a class (`ddhub.artifact.encoding`).

coded = encode(images, labels, parse("avif:50"))
coded.images                            # what the pictures decode to: label these
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from ddhub.artifact import avif, png, webp
from ddhub.artifact.encoding import SAMPLES, SIDE, grid, picture_size
from ddhub.errors import ArtifactError, UsageError

_TOLERANCE = {"webp": 1, "avif": 2}  # levels: what other versions of the decoders differ by, in turning YUV to RGB
_GREY = 128


@dataclass(frozen=True)
class Coded:
    """Images as pictures.

    Attributes:
        pictures: encoded files, one a sheet.
        images: u8 `[N, C, H, W]` that they decode to.
        labels: the classes `[N]` of the images.
        encoding: what the manifest says.
    """

    pictures: list[bytes]
    images: Tensor
    labels: Tensor
    encoding: dict[str, Any]

    @property
    def picture_labels(self) -> Tensor:
        """The class of each picture."""
        return self.labels[:: self.encoding.get("sheet", 1)]


def check_codec(codec: str) -> None:
    """UsageError for a codec that the installed Pillow lacks."""
    if codec != "png" and not features.check(codec):
        raise UsageError(f"this Pillow has no {codec.upper()}; pip install -U pillow")


def sheets(images: Tensor, count: int) -> Tensor:
    """Images `[N, C, H, W]` as sheets of `count`, `[N / count, C, ...]`."""
    if count == 1:
        return images
    rows, columns = grid(count)
    whole = images.unflatten(0, (-1, count))
    rest = whole.new_full((len(whole), rows * columns - count, *whole.shape[2:]), _GREY)
    cells = torch.cat([whole, rest], 1).unflatten(1, (rows, columns))
    joined: Tensor = cells.permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
    return joined


def cut(pictures: Tensor, count: int) -> Tensor:
    """What `sheets` was made of."""
    if count == 1:
        return pictures
    rows, columns = grid(count)
    cells = pictures.unflatten(2, (rows, -1)).unflatten(4, (columns, -1))
    images: Tensor = cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, :count].flatten(0, 1)
    return images.contiguous()


def with_sheet(encoding: Mapping[str, Any], labels: Tensor, side: int) -> dict[str, Any]:
    """An encoding with the number of images of its sheets, for images of classes `[N]` with `side` pixels at most.

    Raises:
        UsageError: a sheet that the classes do not fill, or one that is too large.
    """
    whole = dict(encoding)
    if "sheet" in whole:
        whole["sheet"] = whole["sheet"] or _largest(labels, side)
        _check_sheet(labels, side, whole["sheet"])
    return whole


def encode(images: Tensor, labels: Tensor, encoding: Mapping[str, Any]) -> Coded:
    """Images u8 `[N, C, H, W]` of classes `[N]` as pictures.

    Args:
        images, labels: those of a sheet must be of one class, in this order.
        encoding: from `parse`; a sheet of 0 is the largest that all classes fill evenly, within the side of a picture.

    Raises:
        UsageError: a sheet that the classes do not fill, one that is too large, or a codec that this Pillow lacks.
    """
    check_codec(encoding["codec"])
    images, labels = images.detach().cpu(), labels.detach().cpu()
    whole = with_sheet(encoding, labels, max(images.shape[2:]))
    size = picture_size(whole, (images.shape[1], images.shape[2], images.shape[3]))
    pixels = sheets(images, whole.get("sheet", 1))
    pictures = [_encoded(picture.numpy(), whole) for picture in pixels]
    if whole["codec"] == "png":
        return Coded(pictures, images, labels, whole)
    seen = np.stack([decode(picture, size, whole["codec"]) for picture in pictures])
    images = cut(torch.from_numpy(seen), whole["sheet"])
    return Coded(pictures, images, labels, whole | _recorded(images, whole["codec"]))


def decode(picture: bytes, size: tuple[int, int, int], codec: str) -> NDArray[np.uint8]:
    """u8 `[C, H, W]` of a picture, whose header is read before its pixels.

    Raises:
        ValueError: another format or size, or anything beside the picture.
    """
    channels, high, wide = size
    if codec == "png":
        png.check(picture, (high, wide, channels))
    else:
        {"webp": webp, "avif": avif}[codec].check(picture, (high, wide))
    with Image.open(io.BytesIO(picture), formats=[codec.upper()]) as image:
        if image.size != (wide, high) or getattr(image, "n_frames", 1) != 1:
            raise ValueError(f"it decodes to {image.size[0]} x {image.size[1]}")
        if codec != "png" and image.mode != "RGB":
            raise ValueError(f"pixels of mode {image.mode}")
        pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(high, wide, -1).transpose(2, 0, 1)
    return pixels if len(pixels) == channels else pixels[1:2]  # grey is stored as three equal channels


def difference(images: Tensor, encoding: Mapping[str, Any]) -> int:
    """By how many levels decoded images differ from the recorded ones, in the recorded samples; 0 if they are equal.

    At least 1 where pixels differ, though no sample does.

    Raises:
        ArtifactError: more than the artifact allows, or samples of another number of pixels.
    """
    if encoding["codec"] == "png" or _pixels(images) == encoding["pixels"]:
        return 0
    recorded = np.frombuffer(bytes.fromhex(encoding["samples"]), np.uint8).astype(int)
    here = _samples(images).astype(int)
    if len(here) != len(recorded):
        raise ArtifactError("its samples are not those of its images; regenerate the artifact")
    most = max(1, int(np.abs(recorded - here).max()))
    if most > encoding["tolerance"]:
        library = f"{encoding['codec']} {features.version(encoding['codec'])}"
        raise ArtifactError(
            f"its images decode to other pixels here ({library}), by {most} levels in {int((recorded != here).sum())} "
            f"of {len(here)} samples, where it allows {encoding['tolerance']}; install another Pillow"
        )
    return most


def _encoded(picture: NDArray[np.uint8], encoding: Mapping[str, Any]) -> bytes:
    """A picture u8 `[C, H, W]` as a file: the same bytes for the same pixels and version of Pillow."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0) if len(picture) == 3 else picture[0]))
    out, codec = io.BytesIO(), encoding["codec"]
    if codec == "png":
        image.save(out, format="PNG", optimize=False, compress_level=9)
    elif codec == "webp":
        image.convert("RGB").save(out, format="WEBP", quality=encoding["quality"], method=6)
    else:
        chroma = ":".join(encoding["chroma"])
        # speed 3 takes ten times as long as 6 for half a decibel; more threads give other bytes
        settings = {"quality": encoding["quality"], "subsampling": chroma, "speed": 6, "max_threads": 1}
        image.convert("RGB").save(out, format="AVIF", **settings)
    return out.getvalue()


def _largest(labels: Tensor, side: int) -> int:
    """Images of a sheet: the most that divide the number of every class, within the side of a picture."""
    counts = torch.unique_consecutive(labels, return_counts=True)[1].tolist()
    even, most = math.gcd(*counts), SIDE // side
    return max(n for n in range(1, even + 1) if even % n == 0 and grid(n)[1] <= most)


def _check_sheet(labels: Tensor, side: int, count: int) -> None:
    if len(labels) % count or not bool((labels.view(-1, count) == labels[::count, None]).all()):
        cause = f"a picture of {count} images mixes classes, or is not filled"
        raise UsageError(f"{cause}; choose a divisor of the images of every class")
    whole = grid(count)[1] * side
    if whole > SIDE:
        cause = f"a picture of {count} images has {whole:,} pixels a side, and {SIDE:,} are allowed"
        raise UsageError(f"{cause}; lower /{count}")


def _recorded(images: Tensor, codec: str) -> dict[str, Any]:
    return {
        "pixels": _pixels(images),
        "samples": _samples(images).tobytes().hex(),
        "tolerance": _TOLERANCE[codec],
    }


def _pixels(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def _samples(images: Tensor) -> NDArray[np.uint8]:
    """256 pixels, evenly spread over all, or all of fewer."""
    flat = images.contiguous().flatten()
    return flat[
        torch.linspace(0, len(flat) - 1, min(SAMPLES, len(flat)), dtype=torch.float64, device="cpu").long()
    ].numpy()

"""The data set that published images were distilled from, and whether they can be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ddhub.artifact.quantise import Constants
from ddhub.data import decode
from ddhub.errors import ArtifactError, UsageError
from ddhub.io.files import max_bytes
from ddhub.sources.known import FOLDER, find


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a manifest says of it; `side` is that of its images in pixels, None where they have many sizes."""

    name: str
    classes: tuple[str, ...]
    channels: int
    side: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: dict[str, str]


def data_set(name: str, size: int | None) -> DataSet:
    """A data set by name; the images of `folder:PATH` are decoded, to squares of side `size`.

    Raises:
        UsageError: an unknown name.
        SourceError: a folder that is not as it must be.
    """
    side: int | None
    if name.startswith(FOLDER):
        from ddhub.sources.source import open_source

        real = open_source(name, "train", size=size)
        channels, side = int(real.images.shape[1]), int(real.images.shape[2])
        origin = (real.hub_id, real.fingerprint, real.notes, real.license)
        classes, mean, std, name = real.classes, real.mean, real.std, real.name
    else:
        spec = find(name)
        channels, side = spec.channels, spec.size
        origin = (spec.hub_id, "unknown", "not read when the artifact was imported", spec.license)
        classes, mean, std = spec.classes, spec.mean, spec.std
    source = dict(zip(("hub_id", "fingerprint", "notes", "license"), origin, strict=True))
    return DataSet(
        name=name,
        classes=classes,
        channels=channels,
        side=side,
        mean=mean,
        std=std,
        source={"name": name, "split": "train", **source},
    )


def check_images(path: Path, images: Tensor, data: DataSet, size: int | None, constants: Constants) -> None:
    """Whether images `[N, C, H, W]` of `path` can have been distilled from the data set.

    Args:
        size: their side in pixels, if it is another than the data set's.
        constants: mean and std, which must be as many as the channels.

    Raises:
        ArtifactError: images of other channels, or that are not squares.
        UsageError: another side, other constants, or more bytes than DDHUB_MAX_BYTES.
    """
    channels, height, width = images.shape[1:]
    side = size or data.side
    if images.numel() > max_bytes():
        cause = f"{images.numel():,} bytes of pixels, and DDHUB_MAX_BYTES allows {max_bytes():,}"
        raise UsageError(f"{path}: {cause}; raise it")
    if channels != data.channels:
        cause = f"images of {channels} channels, and those of {data.name} have {data.channels}"
        raise ArtifactError(f"{path}: {cause}; is it the right --dataset?")
    if height != width:
        raise ArtifactError(f"{path}: images of {height} x {width} pixels, no squares; is it the right file?")
    if side not in (None, height):
        cause = f"images of {height} x {width} pixels, not {side} x {side}"
        raise UsageError(f"{path}: {cause}; say --size {height} if that is right")
    for key, values in zip(("mean", "std"), constants, strict=True):
        if len(values) != channels:
            raise UsageError(f"--{key} has {len(values)} numbers, and images have {channels} channels; give one each")


def decoder_of(path: Path, images: Tensor, factor: int, soft: bool) -> dict[str, Any]:
    """The manifest's `decoder` of images `[N, C, H, W]`: with a factor above 1 they are IDC's mosaics.

    Raises:
        UsageError: a factor that does not fit, or soft labels, which say nothing of a single tile.
    """
    if factor == 1:
        return {"kind": "identity"}
    height, width = images.shape[2:]
    try:
        decode.grid(height, width, factor)
    except UsageError as error:
        raise UsageError(f"{path}: {error}; correct --factor") from None
    if soft:
        cause = f"soft labels are of whole images, and --factor {factor} says that each is {factor**2} training images"
        raise UsageError(f"{path}: {cause}; say --factor 1 if it is not")
    return {"kind": "crops", "factor": factor, "side": decode.tile_side(height, factor)}

"""The data set that imported images were distilled from, and checks that the images fit it."""

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
    """A data set as a manifest describes it; `side` is the side of its images in pixels, None for many sizes."""

    name: str
    classes: tuple[str, ...]
    channels: int
    side: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: dict[str, str]


def data_set(name: str, size: int | None) -> DataSet:
    """Describe a data set by name; the images of `folder:PATH` are decoded with side `size`.

    Raises:
        UsageError: the name is unknown.
        SourceError: the folder is not a tree of images.
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
    """Check that images `[N, C, H, W]` of `path` can have been distilled from the data set.

    Args:
        size: side of the images in pixels, if it is not the data set's.
        constants: mean and std, one number a channel.

    Raises:
        ArtifactError: the images have other channels or are not square.
        UsageError: the side, the constants or the size in bytes (DDHUB_MAX_BYTES) do not fit.
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
        raise ArtifactError(f"{path}: images of {height} x {width} pixels, not square; is it the right file?")
    if side not in (None, height):
        cause = f"images of {height} x {width} pixels, not {side} x {side}"
        raise UsageError(f"{path}: {cause}; give --size {height} if that is right")
    for key, values in zip(("mean", "std"), constants, strict=True):
        if len(values) != channels:
            raise UsageError(f"--{key} has {len(values)} numbers, and images have {channels} channels; give one each")


def decoder_of(path: Path, images: Tensor, factor: int, soft: bool) -> dict[str, Any]:
    """The manifest's `decoder` for images `[N, C, H, W]`, which are IDC's mosaics if `factor` is above 1.

    Raises:
        UsageError: the factor does not fit the images, or mosaics have soft labels, which do not apply to single tiles.
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
        raise UsageError(f"{path}: {cause}; give --factor 1 if it is not")
    return {"kind": "crops", "factor": factor, "side": decode.tile_side(height, factor)}

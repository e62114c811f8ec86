"""About: what a student's Result and an error message say of the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class About:
    """What a student's Result and an error message say of the data: names, digest, classes, normalisation.

    Attributes:
        lr: the step size that was learned with the images, for protocols with `learned_lr`.
        near: the folder in which the artifact lies, where its teachers may lie too.
        folder: the artifact's own.
    """

    name: str
    digest: str
    dataset: str
    classes: tuple[str, ...]
    image_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lr: float | None = None
    near: Path | None = None
    folder: Path | None = None

"""Random draws of recipes, named so that streams are independent; and images as nets see them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ddhub.errors import UsageError
from ddhub.sources.source import Source


def generator(*words: object) -> torch.Generator:
    """A generator on the CPU seeded by words such as (seed, "shift", teacher, set): independent streams by name."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def select(source: Source, per_class: int, generator: torch.Generator, option: str = "--ipc") -> Tensor:
    """Rows of `per_class` random images of every class, `[classes · per_class]`, class by class.

    Args:
        source: the real data.
        per_class: how many.
        generator: of the draw.
        option: what an error asks to lower.

    Raises:
        UsageError: more images asked for than a class has.
    """
    rows = []
    for label, name in enumerate(source.classes):
        members = (source.labels == label).nonzero().flatten()
        if per_class > len(members):
            raise UsageError(
                f"{per_class} images per class asked for, but class {name!r} of {source.name!r} has {len(members)}; "
                f"lower {option}"
            )
        rows.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(rows)


def scale(source: Source, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a source's channels, `[C, 1, 1]` each."""
    mean, std = (torch.tensor(x, device=device).view(-1, 1, 1) for x in (source.mean, source.std))
    return mean, std


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images u8 `[N, C, H, W]` as nets take them; mean and std `[C, 1, 1]`."""
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def quantised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images as they are stored, u8 `[..., C, H, W]`, of what `normalised` gives."""
    return ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def require_images(source: Source, needed: int, reason: str, option: str = "--ipc") -> None:
    """UsageError "REASON, but class C of S has K images; lower OPTION" unless every class has as many as needed."""
    counts = torch.bincount(source.labels, minlength=len(source.classes))
    least = int(counts.argmin())
    if int(counts[least]) < needed:
        cause = f"class {source.classes[least]!r} of {source.name!r} has {int(counts[least])} images"
        raise UsageError(f"{reason}, but {cause}; lower {option}")

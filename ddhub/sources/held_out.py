"""Held-out training images: `cifar10/5000` is CIFAR-10 whose training images are split, to make choices on.

    open_source("cifar10/5000")             # 45,000 training images
    open_source("cifar10/5000", "test")     # the other 5,000 training images, as many of each class

Which images are held out depends on their number alone. The data set's own test images play no part in it. What stays
can be split again: `cifar10/5000/1000`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ddhub.errors import UsageError

if TYPE_CHECKING:
    from ddhub.sources.source import Source


def count_of(name: str) -> tuple[str, int]:
    """The data set's name and the number of held-out images, 0 for a name without one. UsageError."""
    whole, slash, count = name.rpartition("/")
    if not slash:
        return name, 0
    if not count.isdecimal() or not int(count):
        raise UsageError(f"data set {name!r}: {count!r} is no number of held-out images; give for example {whole}/5000")
    return whole, int(count)


def parts(source: Source, count: int) -> tuple[Source, Source]:
    """The training images that stay, and `count` that are held out, as many of each class.

    Raises:
        UsageError: a number that the classes cannot share evenly, or more than there are.
    """
    each, rest = divmod(count, len(source.classes))
    if rest:
        raise UsageError(f"{count} images cannot be shared by {len(source.classes)} classes; use a multiple")
    draw = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(repr(("held out", count)).encode()).digest()[:8], "big") >> 1
    )
    out = torch.zeros(len(source.labels), dtype=torch.bool, device="cpu")
    for label, name in enumerate(source.classes):
        members = (source.labels == label).nonzero().flatten()
        if each >= len(members):
            cause = f"class {name!r} of {source.name!r} has {len(members)} images, and {each} would be held out"
            raise UsageError(f"{cause}; hold out fewer")
        out[members[torch.randperm(len(members), generator=draw, device="cpu")[:each]]] = True
    stays, held = (_part(source, rows, count, word) for rows, word in ((~out, "without"), (out, "of")))
    return stays, held


def _part(source: Source, rows: torch.Tensor, count: int, word: str) -> Source:
    notes = f"{word} {count:,} held-out training images"
    return replace(
        source,
        name=f"{source.name}/{count}",
        address=f"{source.address}/{count}",
        split="train" if word == "without" else "test",
        images=source.images[rows],
        labels=source.labels[rows],
        notes="; ".join(filter(None, (source.notes, notes))),
        fingerprint=hashlib.sha256(f"{source.fingerprint} {notes}".encode()).hexdigest()[: len(source.fingerprint)],
    )

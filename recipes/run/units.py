"""Units of work: what one stage computes at a time, whatever the number of ranks."""

from __future__ import annotations

import math
from itertools import pairwise

UNIT = 1024 * 32 * 32  # pixels of one unit of work: fixed, so that no result depends on how many ranks there are


def units(sets: int, pixels: int, times: int = 1) -> list[range]:
    """Sets of `pixels` (B · H · W) each, as the units of work in which they are optimised together.

    A unit has the pixels of at most 1,024 images of 32 x 32, or `times` as many where nothing is optimised, but at
    least one set.
    """
    together = max(1, times * UNIT // pixels)
    return [range(first, min(first + together, sets)) for first in range(0, sets, together)]


def batches(ipc: int, classes: int, most: int, area: int) -> list[tuple[range, range]]:
    """(classes, images) of every unit of work, which holds a batch of these classes for each of these images.

    Args:
        ipc: images per class.
        classes: number of classes, which are cut into as few and as equal parts as `most` allows.
        most: classes of a batch.
        area: H · W of an image.
    """
    parts = math.ceil(classes / most)
    edges = [part * classes // parts for part in range(parts + 1)]
    labels = [range(first, stop) for first, stop in pairwise(edges)]
    return [(label_range, sets) for label_range in labels for sets in units(ipc, len(label_range) * area)]


def parts(stage: str, count: int, most: int) -> list[tuple[str, range]]:
    """(stage, iterations) of `count` iterations in turn, cut into at most `most` stages."""
    size = -(-count // most)
    cut = [range(first, min(first + size, count)) for first in range(0, count, size)]
    return list(zip(numbered(stage, len(cut)), cut, strict=True))


def numbered(stage: str, count: int) -> list[str]:
    """Names of the stages of `count` units: `STAGE` if there is one, else `STAGE-0`, `STAGE-1`, ..."""
    return [stage] if count == 1 else [f"{stage}-{number}" for number in range(count)]

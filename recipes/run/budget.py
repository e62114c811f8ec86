"""Budgets in bytes: how many images a class a run may store, found by coding images and not by a guess.

    cfg = sized(recipe, cfg, run, "30730")       # --bytes in place of --ipc

The bytes are those of the stored files: coded pictures, parquet, tensors and labels. Where a recipe stores real images
and says which, `stored(cfg, source, run)`, those are coded; else random ones of each class stand for what will be
learned, and the quality of a lossy encoding gives way where the learned ones take more (`Run.coded`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite
from types import ModuleType
from typing import Any

import torch

from ddhub.artifact.codec import encode
from ddhub.artifact.images import stored_bytes
from ddhub.errors import UsageError
from ddhub.sources.source import Source
from recipes.run.draws import generator, select
from recipes.run.run import Run

log = logging.getLogger(__name__)
_HEADER = 400  # bytes of a safetensors file beside its numbers: names, types and shapes of a few tensors


def in_all(text: str, classes: int) -> int:
    """The bytes of an artifact that `--bytes` names: `30730`, or `3073/class`.

    Raises:
        UsageError: another text.
    """
    number, slash, unit = text.replace(",", "").replace("_", "").partition("/")
    if not number.isdecimal() or len(number) > 18 or not int(number) or (slash and unit != "class"):
        raise UsageError(f"bytes {text!r} are no number of bytes; give for example 30730, or 3073/class")
    return int(number) * (classes if slash else 1)


def most(over: Callable[[int], float], limit: int) -> int:
    """The largest number up to a limit that is not over; 0 where none is.

    Bytes grow almost evenly with the number of images, so that the next number to try is where a straight line through
    what is known meets 0: two or three of many images are coded in place of a dozen.

    Args:
        over: bytes above the budget for a number; the more, the larger it is.
        limit: the largest number that there can be.

    >>> most(lambda n: n - 37, 1000), most(lambda n: n - 37, 20), most(lambda n: 1, 9)
    (37, 20, 0)
    """
    known: dict[int, float] = {}
    low, high = 0, limit + 1  # low fits, or is 0; high does not, or is past the limit
    number, slow = min(1, limit), 0
    while high - low > 1:
        known[number] = over(number)
        width = high - low
        low, high = (number, high) if known[number] <= 0 else (low, number)
        slow = slow + 1 if 2 * (high - low) > width else 0
        ends = [end for end in (low, high) if isfinite(known.get(end, inf))]
        if len(ends) < 2:
            ends = sorted(end for end, value in known.items() if isfinite(value))[-2:]
        if high > limit and len(ends) < 2:
            guess = 2 * number
        elif len(ends) < 2 or (slow > 3 and high <= limit):
            guess = (low + high) // 2
        else:
            first, second = ends
            slope = (known[second] - known[first]) / (second - first)
            guess = int(first - known[first] / slope) if slope > 0 else 2 * number
            if high > limit:
                guess = min(guess, 8 * max(low, 1))
            elif guess >= high:  # known to be too many, though not by how much
                guess = (low + high) // 2
        number = min(max(guess, low + 1), high - 1)
    return low


def sized(recipe: ModuleType, cfg: Any, run: Run, text: str) -> Any:
    """The Config with as many images a class as a budget holds, which becomes the run's.

    Raises:
        UsageError: no number of bytes, or a budget that holds not one image a class.
    """
    source = run.source(cfg.dataset, "train", getattr(cfg, "size", None) or None)
    budget = in_all(text, len(source.classes))
    ipc, _ = room(recipe, cfg, run, budget)
    if not ipc:
        raise UsageError(
            f"{budget:,} bytes hold not one image a class of {source.name}; raise --bytes, or choose another "
            "--encoding or --label-bits"
        )
    return kept_to(recipe, cfg, run, budget, ipc)


def room(recipe: ModuleType, cfg: Any, run: Run, budget: int) -> tuple[int, bool]:
    """How many images a class so many bytes hold, 0 for none; and whether it is the classes that have no more."""
    source = run.source(cfg.dataset, "train", getattr(cfg, "size", None) or None)
    sheet = run.encoding.get("sheet") or 1  # images of a picture, which must be full
    lacking = set()

    def over(count: int) -> float:
        ipc = sheet * count
        try:
            changed = replace(cfg, ipc=ipc)
            images, labels = stored(recipe, changed, source, run)
        except UsageError:  # too few for the method, or more than a class has
            lacking.add(ipc)
            return -inf if ipc < 3 else inf
        coded = encode(images, labels, run.encoding)
        size = stored_bytes(coded, source.classes) + beside(recipe, changed, source, run, len(images))
        log.info("%d images a class take %s bytes", ipc, f"{size:,}")
        return size - budget

    limit = int(torch.bincount(source.labels, minlength=len(source.classes)).min())
    ipc = sheet * most(over, limit // sheet)
    return ipc, ipc + sheet > limit or ipc + sheet in lacking


def kept_to(recipe: ModuleType, cfg: Any, run: Run, budget: int, ipc: int) -> Any:
    """The Config with so many images a class, in a run that keeps to so many bytes."""
    source, found = run.source(cfg.dataset, "train", getattr(cfg, "size", None) or None), replace(cfg, ipc=ipc)
    run.budget = budget
    run.beside = beside(recipe, found, source, run, len(stored(recipe, found, source, run)[0]))
    log.info("%s bytes hold %d images a class", f"{budget:,}", ipc)
    return found


def stored(recipe: ModuleType, cfg: Any, source: Source, run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Images u8 that a recipe will store, or as many real ones, and their classes. UsageError."""
    if hasattr(recipe, "stored"):
        images, labels = recipe.stored(cfg, source, run)
        return images, labels
    count = recipe.plan(cfg, source, run).images // len(source.classes)
    if not count:
        raise UsageError("this method does not say how many images it stores; give --ipc in place of --bytes")
    rows = select(source, count, generator(cfg.seed, "budget"))
    return source.images[rows], source.labels[rows]


def beside(recipe: ModuleType, cfg: Any, source: Source, run: Run, images: int) -> int:
    """Bytes of the tensors that a recipe stores beside so many images, its labels of the run's bits."""
    plan = recipe.plan(cfg, source, run)
    rest = plan.artifact_bytes - images * (source.images[0].numel() + (1 if len(source.classes) <= 256 else 2))
    labels = min(rest, plan.label_bytes)
    scales = 2 * labels // max(1, 2 * len(source.classes)) if run.label_bits < 16 else 0
    return rest - labels + -(-labels * run.label_bits // 16) + scales + (_HEADER if rest else 0)

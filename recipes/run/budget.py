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
    if not number.isdecimal() or not int(number) or (slash and unit != "class"):
        raise UsageError(f"bytes {text!r} are no number of bytes; give for example 30730, or 3073/class")
    return int(number) * (classes if slash else 1)


def most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to a limit that fits, by doubling and halving; 0 where none does.

    >>> most(lambda n: n <= 37, 1000), most(lambda n: n <= 37, 20), most(lambda n: False, 9)
    (37, 20, 0)
    """
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def sized(recipe: ModuleType, cfg: Any, run: Run, text: str) -> Any:
    """The Config with as many images a class as a budget holds, which becomes the run's.

    Raises:
        UsageError: no number of bytes, or a budget that holds not one image a class.
    """
    source = run.source(cfg.dataset, "train", getattr(cfg, "size", None) or None)
    run.budget = in_all(text, len(source.classes))

    def fits(ipc: int) -> bool:
        try:
            changed = replace(cfg, ipc=ipc)
            images, labels = stored(recipe, changed, source, run)
        except UsageError:  # too few for the method, or more than a class has
            return ipc < 3
        coded = encode(images, labels, run.encoding)
        return stored_bytes(coded, source.classes) + beside(recipe, changed, source, run, len(images)) <= run.budget

    ipc = most(fits, int(torch.bincount(source.labels, minlength=len(source.classes)).min()))
    if not ipc:
        raise UsageError(
            f"{run.budget:,} bytes hold not one image a class of {source.name}; raise --bytes, or choose another "
            "--encoding or --label-bits"
        )
    found = replace(cfg, ipc=ipc)
    run.beside = beside(recipe, found, source, run, len(stored(recipe, found, source, run)[0]))
    log.info("%s bytes hold %d images a class", f"{run.budget:,}", ipc)
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

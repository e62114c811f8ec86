"""Plans: what a run would do, for `--dry-run`, and the probe that its seconds are estimated from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ddhub import models
from ddhub.sources.source import Source
from recipes.run.run import Run


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of a plan: a stage, its images through forward and backward, and a probe of images per second."""

    stage: str
    images: int
    rate: Callable[[], float] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do, for `--dry-run`: its stages in order and the bytes that the artifact would store."""

    steps: list[Step]
    artifact_bytes: int


def training_rate(model: str, source: Source, run: Run, seconds: float = 0.5) -> float:
    """Images per second through forward and backward of a net, measured for `seconds` on the run's device."""
    shape = source.images.shape
    net = models.build(model, classes=len(source.classes), size=shape[2], channels=shape[1])
    net = net.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = min(128, shape[0])
    x = (source.images[:batch].to(run.device).float() / 255).contiguous(memory_format=torch.channels_last)
    done, begin = -1, time.perf_counter()
    while done < 1 or time.perf_counter() - begin < seconds:
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.precision == "bf16"):
            loss = net(x).float().square().mean()
        loss.backward()
        float(loss.detach())
        done += 1
        if done == 0:  # the first pass warms up and is not counted
            begin = time.perf_counter()
    return done * batch / (time.perf_counter() - begin)

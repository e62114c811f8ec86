"""Small artifacts to publish: INFER's form of three classes, and random selection as its baseline, with results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from test_results import result, tiny

from ddhub.artifact.folder import Artifact

INFER, RANDOM = "tiny-infer-ipc2", "tiny-random-ipc2"
NETS, SETS, CLASSES = 3, 2, 3


def write(folder: Path, tensors: dict[str, torch.Tensor], count: int, channels: int = 3, **fields: Any) -> Artifact:
    """An artifact of `count` images of 8 x 6 pixels, which are noise; classes follow one another."""
    draw = torch.Generator().manual_seed(0)
    levels = {
        "image_size": (channels, 8, 6),
        **{key: value[:1] * channels for key, value in {"mean": (0.5,), "std": (0.2,)}.items()},
        "pixel_range": ((0.0, 1.0),) * channels,
    }
    manifest = tiny(name=folder.name, tensors={}, content="", files={}, **{**levels, **fields})
    images = torch.randint(256, (count, channels, 8, 6), dtype=torch.uint8, generator=draw)
    labels = torch.arange(count) // (count // CLASSES)
    return Artifact.write(folder, manifest=manifest, images=images, image_labels=labels, tensors=tensors)


def infer(folder: Path, *accuracies: float, channels: int = 3, labels: str = "soft", seed: int = 0) -> Path:
    """INFER's form: 6 natural images, 3 x 2 compensators, 24 items."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        "decoder.compensators": torch.randint(
            -127, 128, (NETS, SETS, channels, 8, 6), dtype=torch.int8, generator=draw
        ),
        "decoder.scale": torch.rand(NETS, SETS, generator=draw) / 127,
    }
    if labels == "soft":
        logits = torch.randn(CLASSES * SETS * (NETS + 1), CLASSES, generator=draw)
        tensors["labels.logits"] = logits.half()
    scheme = {"kind": "soft", "temperature": 30.0} if labels == "soft" else {"kind": labels}
    record(write(folder, tensors, CLASSES * SETS, channels, labels=scheme), *accuracies)
    return folder


def random(folder: Path, *accuracies: float, channels: int = 3, **fields: Any) -> Path:
    """Random selection: 6 images with hard labels."""
    fields = {"method": "random-real", "decoder": {"kind": "identity"}, "labels": {"kind": "hard"}, **fields}
    record(write(folder, {}, CLASSES * 2, channels, **fields), *accuracies)
    return folder


def record(artifact: Artifact, *accuracies: float, **changes: Any) -> None:
    """Results of seeds 0, 1, ... under the protocol that artifacts of `tiny` recommend."""
    for seed, accuracy in enumerate(accuracies):
        artifact.add_result(asdict(result(artifact.manifest, seed, accuracy, **changes)))


def pair(folder: Path) -> Path:
    """An artifact that is 10 points above its baseline, which lies beside it."""
    random(folder / RANDOM, 30.0, 31.0)
    return infer(folder / INFER, 40.0, 41.0)

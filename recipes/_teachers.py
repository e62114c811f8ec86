"""Teachers: nets trained on the real images, each one stage of the recipe that asks for it.

A teacher is a student of real data: the same loop, the `squeeze` protocol (SGD 0.1, momentum 0.9, weight decay 5e-4,
cosine over 200 epochs, batch 128, random crop and flip), checkpointed after every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ddhub import models
from ddhub.data import About, DistilledData
from ddhub.decode import Identity
from ddhub.labels import Hard
from ddhub.protocols import Protocol, protocol
from ddhub.sources import Source
from ddhub.training import evaluate, fit
from recipes import Run


def real_data(source: Source, plan: Protocol) -> DistilledData:
    """All images of a source as training batches with hard labels."""
    shape = source.images.shape
    about = About(
        name=source.name,
        digest=source.fingerprint,
        dataset=source.name,
        classes=source.classes,
        image_size=(shape[1], shape[2], shape[3]),
        mean=source.mean,
        std=source.std,
    )
    images = Identity(source.images, [(0, 1)] * shape[1])
    return DistilledData(images, Hard(source.labels, len(source.classes)), plan, about)


def teacher(
    run: Run, source: Source, name: str, epochs: int, seed: int, recipe: str
) -> tuple[nn.Module, dict[str, Any]]:
    """A trained teacher, frozen and in eval mode, and what the card says of it (accuracy in percent).

    Raises:
        TrainingError: a loss that is not a number.
    """
    plan = protocol(recipe, epochs=epochs)
    settings = {"model": name, "seed": seed, "protocol": plan.to_json()}

    def work() -> dict[str, torch.Tensor]:
        checkpoint = run.path(f"teacher-{name}", settings).with_suffix(".checkpoint")
        data = real_data(source, plan).to(run.device)
        net, _, _ = fit(data, name, seed, run.precision, checkpoint)
        test = run.source(source.name, "test")
        accuracy = evaluate(net, test, device=run.device, precision=run.precision)
        checkpoint.unlink(missing_ok=True)
        return {**net.state_dict(), "test_accuracy": torch.tensor(accuracy)}

    state = run.stage(f"teacher-{name}", work, settings)
    accuracy = float(state.pop("test_accuracy"))
    size, channels = source.images.shape[2], source.images.shape[1]
    net = models.build(name, classes=len(source.classes), size=size, channels=channels)
    net.load_state_dict(state)
    net = net.to(run.device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
    return net, {"model": name, "accuracy": accuracy, "epochs": epochs, "protocol": plan.name, "seed": seed}


def teachers(
    run: Run, source: Source, names: Sequence[str], epochs: int, seed: int, *, protocol: str = "squeeze"
) -> tuple[list[nn.Module], list[dict[str, Any]]]:
    """Several teachers of different architectures, in order, with their facts."""
    pairs = [teacher(run, source, name, epochs, seed, protocol) for name in names]
    return [net for net, _ in pairs], [facts for _, facts in pairs]

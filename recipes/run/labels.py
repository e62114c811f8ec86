"""Labels of finished images, by the word that a recipe's `--labels` takes.

| word       | what is stored                                                                       | stages      |
|------------|--------------------------------------------------------------------------------------|-------------|
| `hard`     | nothing: the classes                                                                 |             |
| `teacher`  | nothing: the teachers, published beside the artifact, answer while the student learns |            |
| `static`   | the teachers' logits on each image                                                   | labels      |
| `soft`     | their logits on every view (FKD)                                                     | labels(-N)  |
| `dbr`      | two distances of every view (NRR-DD)                                                 | labels(-N)  |
| `dbr-once` | their means over the epochs                                                          | labels      |
| `top1`     | the likeliest class of every view, and its probability                               | labels(-N)  |

What is stored of a view belongs to the protocol's views of `seed` (`ddhub.training.relabel`); units of work are whole
epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddhub.data.decode import Decoder, Identity
from ddhub.errors import unknown
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from ddhub.training.relabel import relabel, stored_bytes
from recipes.run.draws import scale
from recipes.run.plan import Net, Step
from recipes.run.run import Run
from recipes.run.teachers import publish, real_data
from recipes.run.units import numbered, units

_OF_VIEWS = {"dbr": "dbr", "dbr-once": "dbr", "soft": "soft", "top1": "top1"}  # word -> kind in the manifest
LABELS = (*_OF_VIEWS, "static", "teacher", "hard")


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """Which labels images get.

    Attributes:
        word: of `LABELS`.
        seed: of the stored views.
        temperature: of the students' loss: soft, static, teacher.
        stored_temperature: of the stored numbers: dbr, top1.
        weight, distance, reading, loss: of dbr (`ddhub.data.view_labels.Spec`).
    """

    word: str
    seed: int
    temperature: float
    stored_temperature: float = 1.0
    weight: float = 1.0
    distance: str = "l1"
    reading: str = "mix"
    loss: str = "distance"

    def __post_init__(self) -> None:
        if self.word not in LABELS:
            raise unknown("labels", self.word, LABELS)
        if self.word in _OF_VIEWS:
            stored_bytes(self.spec, items=1, classes=2, epochs=1)  # raises what is wrong with them

    @property
    def spec(self) -> dict[str, Any]:
        """The manifest's `labels`, but for the names of teachers."""
        if self.word == "hard":
            return {"kind": "hard"}
        if self.word not in _OF_VIEWS:
            return {"kind": "soft" if self.word == "static" else self.word, "temperature": self.temperature}
        kind = _OF_VIEWS[self.word]
        heat = self.temperature if kind == "soft" else self.stored_temperature
        spec: dict[str, Any] = {"kind": kind, "seed": self.seed, "temperature": heat}
        if kind == "dbr":
            spec |= {key: getattr(self, key) for key in ("weight", "distance", "reading", "loss")}
            spec |= {"once": True} if self.word == "dbr-once" else {}
        return spec

    def units(self, items: int, side: int, epochs: int) -> list[tuple[str, range]]:
        """(stage, epochs) of labels of views, for images of `side` pixels."""
        # A mean over the epochs needs all of them.
        parts = [range(epochs)] if self.word == "dbr-once" else units(epochs, items * side**2, times=64)
        return list(zip(numbered("labels", len(parts)), parts, strict=True))

    def steps(self, items: int, epochs: int, teacher: Net) -> tuple[list[Step], int]:
        """The stages of a plan and the bytes of the labels of one teacher, for so many images."""
        classes, side = teacher.classes, teacher.shape[1]
        if self.word in _OF_VIEWS:
            passes = items * (2 if self.spec.get("reading") == "view" else 1)
            steps = [teacher.looked(stage, passes * len(part)) for stage, part in self.units(items, side, epochs)]
            return steps, stored_bytes(self.spec, items=items, classes=classes, epochs=epochs)
        if self.word == "static":
            return [teacher.looked("labels", items)], 2 * items * classes
        return [], 0


def label(
    run: Run,
    source: Source,
    images: Tensor,
    classes: Tensor,
    nets: Sequence[nn.Module],
    records: Sequence[dict[str, Any]],
    scheme: Labelling,
    plan: Protocol,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest's `labels` and the tensors `labels.*` of finished images u8 `[N, C, H, W]`.

    Args:
        run: has the stages.
        source: the real images, whose mean and standard deviation the nets know.
        images, classes: the images and their classes `[N]`.
        nets, records: what `recipes.run.teachers.teachers` returned.
        scheme: which labels.
        plan: the protocol whose views are labelled.
        settings: what the images and the nets depend on.
    """
    spec, settings = scheme.spec, {**settings, **run.seen}
    if scheme.word in _OF_VIEWS:
        data = real_data(replace(source, images=images, labels=classes), plan).to(run.device)
        # The students' loss changes nothing of what is stored.
        asked = {key: value for key, value in spec.items() if key not in ("weight", "distance", "loss")}
        shared = {**settings, "labels": asked, "protocol": plan.to_json()}
        work = [
            (
                stage,
                partial(relabel, data, nets, spec, epochs=part, precision=run.precision),
                {**shared, "epochs": [part.start, part.stop]},
            )
            for stage, part in scheme.units(len(images), images.shape[2], plan.epochs)
        ]
        parts = run.stages(work)
        return spec, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if scheme.word == "static":
        decoder = Identity(images, [(0, 1)] * images.shape[1]).to(run.device)
        work_of = partial(static_logits, nets, decoder, *scale(source, run.device))
        return spec, {"labels.logits": run.stage("labels", lambda: {"logits": work_of()}, settings)["logits"]}
    if scheme.word == "teacher":
        spec["teachers"] = publish(run, source, nets, records)
    return spec, {}


@torch.no_grad()
def static_logits(nets: Sequence[nn.Module], decoder: Decoder, mean: Tensor, std: Tensor) -> Tensor:
    """One label an item: the mean logits of the nets on the un-augmented items, `[N, C]` f16.

    Args:
        nets: teachers, frozen, in eval mode.
        decoder: the finished items, on the nets' device.
        mean, std: of the nets' images, `[channels, 1, 1]`.
    """
    logits = []
    for part in torch.arange(len(decoder), device=mean.device).split(500):
        x = ((decoder(part) - mean) / std).contiguous(memory_format=torch.channels_last)
        logits.append(torch.stack([net(x) for net in nets]).mean(0))
    return torch.cat(logits).half()

"""Labels stored for every view: what teachers said of item i as epoch e shows it, replayed to the student.

| kind  | stores                                   | bytes an item and epoch | the student's loss                      |
|-------|------------------------------------------|-------------------------|-----------------------------------------|
| soft  | logits f16 [E, N, C]                     | 2C                      | KL to them (FKD, arXiv 2112.01528)      |
| dbr   | distances f16 [E, N, 2]                  | 4                       | NRR-DD's (arXiv 2503.18267), below      |
| top1  | top1 u8 or u16, probability f16 [E, N]   | 3 or 4                  | KL to them, the rest spread evenly      |

    dbr   L = λ CE(s, y) + (1 - λ) CE(s, y') + weight · mean_n Σ_k dist(d_k(s), d_k(teacher))
          d = (d_org, d_aug) of `ddhub.data.losses.distances`, at most 20 nats; with `loss: kd`, KL to the label that
          exp(-d) gives the two classes, the rest spread evenly

A label belongs to its view: batches are drawn with the stored seed, whatever the student's, and a protocol with other
views is refused (`check`). With `once`, the mean of the distances over the epochs is stored, [1, N, 2]; it belongs to
no view, and nothing is fixed then. A protocol's temperature is for logits, so that it sets the loss of `soft` alone.

    spec = Spec.parse({"kind": "dbr", "seed": 0, "reading": "mix"})
    shapes(spec, epochs=300, items=100, classes=10)     # {"labels.distances": (torch.float16, (300, 100, 2))}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub.data.losses import distances, distillation_loss, spread
from ddhub.data.views import Views
from ddhub.errors import ArtifactError, UsageError
from ddhub.io.rules import is_number
from ddhub.protocols.protocol import Augment, Protocol

FARTHEST = 20.0  # nats: e^-20 is nothing to a student, and f16 is coarser above
_DISTANCES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "squared": F.mse_loss,
}
# field: (what it must be, whether a value is that)
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "kind": ("one of soft, dbr, top1", lambda x: x in ("soft", "dbr", "top1")),
    "seed": ("a whole number in 0..2**64-1", lambda x: type(x) is int and 0 <= x < 2**64),
    "temperature": ("0.01 to 10,000", lambda x: is_number(x) and 0.01 <= x <= 10_000),
    "weight": ("0 to 10,000", lambda x: is_number(x) and 0 <= x <= 10_000),
    "distance": (f"one of {', '.join(_DISTANCES)}", lambda x: x in tuple(_DISTANCES)),
    "reading": ("one of mix, view, label", lambda x: x in ("mix", "view", "label")),
    "loss": ("one of distance, kd", lambda x: x in ("distance", "kd")),
    "once": ("true or false", lambda x: isinstance(x, bool)),
}
_EVERY_KIND = {"kind", "seed", "temperature"}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The manifest's `labels` of a scheme that is stored per view.

    Attributes:
        kind: soft, dbr or top1.
        seed: of the views that the labels were stored for.
        temperature: of the teachers' softmax; for `soft`, of the loss.
        weight: of the distances in the loss.
        distance: l1, smooth_l1 (beta 1) or squared.
        reading: mix, view or label: which distances (`ddhub.data.losses.distances`).
        loss: distance or kd.
        once: the mean over the epochs is stored.
    """

    kind: str
    seed: int = 0
    temperature: float = 1.0
    weight: float = 1.0
    distance: str = "l1"
    reading: str = "mix"
    loss: str = "distance"
    once: bool = False

    def __post_init__(self) -> None:
        for name, (want, fits) in _RULES.items():
            if not fits(getattr(self, name)):
                raise UsageError(f"labels {self.kind!r}: {name} is {getattr(self, name)!r}; it must be {want}")
        if self.loss == "kd" and self.reading != "mix":
            raise UsageError(f"labels 'dbr': loss 'kd' rebuilds one label, {self.reading!r} has two; use reading 'mix'")

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Spec:
        """The spec that a manifest holds; the learned step size that may lie there is no part of it.

        Raises:
            UsageError: an unknown field, or a value out of range.
        """
        kind, values = record.get("kind"), {key: value for key, value in record.items() if key != "lr"}
        strange = sorted(set(values) - (set(_RULES) if kind == "dbr" else _EVERY_KIND))
        if strange:
            raise UsageError(f"labels {kind!r}: unknown field {strange[0]!r}; correct it, or pip install -U ddhub")
        return cls(**{"kind": kind, **values})


def shapes(spec: Spec, *, epochs: int, items: int, classes: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The tensors that a spec needs, by name: dtype and shape."""
    if spec.kind == "dbr":
        return {"labels.distances": (torch.float16, (1 if spec.once else epochs, items, 2))}
    if spec.kind == "soft":
        return {"labels.logits": (torch.float16, (epochs, items, classes))}
    return {
        "labels.top1": (torch.uint8 if classes <= 256 else torch.uint16, (epochs, items)),
        "labels.probability": (torch.float16, (epochs, items)),
    }


def encode(spec: Spec, logits: Tensor, first: Tensor, partner: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """What is stored of teachers' logits on a batch of views, `[B, ...]` by name; arguments as of `distances`."""
    if spec.kind == "dbr":
        distance = distances(logits, first, partner, weight, spec.reading, spec.temperature)
        return {"labels.distances": distance.clamp(max=FARTHEST)}
    if spec.kind == "soft":
        return {"labels.logits": logits}
    probability, top = F.softmax(logits.float() / spec.temperature, dim=1).max(dim=1)
    return {"labels.top1": top, "labels.probability": probability}


def check(labels: Stored, made_for: Protocol, plan: Protocol) -> None:
    """Refuse a protocol whose views are not those that the labels were stored for, under `made_for`.

    Raises:
        UsageError: more epochs, another augmentation, or another batch size where a batch shares its draws.
    """
    if labels.spec.once:
        return
    why = f"labels {labels.kind!r} were stored for the views of {made_for.name!r}, and a label belongs to its view"
    instead = "change other fields only, or let a teacher label"
    if plan.epochs > labels.epochs:
        raise UsageError(f"epochs is {plan.epochs}: labels {labels.kind!r} are stored for {labels.epochs}; use no more")
    for name in (item.name for item in fields(Augment)):
        asked, stored = getattr(plan.augment, name), getattr(made_for.augment, name)
        if asked != stored:
            raise UsageError(f"augment.{name} is {asked!r}, not {stored!r}: {why}; {instead}")
    drawn = made_for.augment
    together = (drawn.mix != "none" and drawn.mix_per == "batch") or (drawn.dsa and drawn.dsa_per == "batch")
    if together and plan.batch_size != made_for.batch_size:
        raise UsageError(
            f"batch_size is {plan.batch_size}, not {made_for.batch_size}: the items of a batch share their draws, "
            f"{why}; {instead}"
        )


class Logits(nn.Module):
    """Logits of every view, `[E, N, C]` f16 (FKD): what `Teacher` would say, without the teacher."""

    kind = "soft"
    logits: Tensor

    def __init__(self, spec: Spec, logits: Tensor) -> None:
        super().__init__()
        self.spec, self.epochs = spec, len(logits)
        self.register_buffer("logits", logits)

    def forward(self, view: Views, x: Tensor) -> Tensor:
        return self.logits[view.epoch].index_select(0, view.items).float()

    def loss(self, output: Tensor, target: Tensor, temperature: float | None = None, times_t2: bool = False) -> Tensor:
        return distillation_loss(output, target, temperature or self.spec.temperature, times_t2)


class Top1(nn.Module):
    """The likeliest class of every view and its probability; the target is `T · log q` of the label rebuilt of them."""

    kind = "top1"
    top1: Tensor
    probability: Tensor

    def __init__(self, spec: Spec, count: int, top1: Tensor, probability: Tensor) -> None:
        super().__init__()
        self.spec, self.epochs, self.count = spec, len(top1), count
        # torch hardly computes with u16, so that its bits are kept as i16
        self.register_buffer("top1", top1.view(torch.int16) if top1.dtype == torch.uint16 else top1)
        self.register_buffer("probability", probability)

    def forward(self, view: Views, x: Tensor) -> Tensor:
        top = self.top1[view.epoch].index_select(0, view.items).long() & 0xFFFF
        given = self.probability[view.epoch].index_select(0, view.items).float()
        return self.spec.temperature * spread(top[:, None], given[:, None], self.count)

    def loss(self, output: Tensor, target: Tensor, temperature: float | None = None, times_t2: bool = False) -> Tensor:
        return distillation_loss(output, target, self.spec.temperature, times_t2)


class DBR(nn.Module):
    """Two distances a view; the target is `[B, 5]` f32: own class, partner's class, weight, d_org, d_aug.

    Under the reading `view` batches hold 2B images, B mixed ones and the same B unmixed, and `output` is `[2B, C]`.
    """

    kind = "dbr"
    classes: Tensor
    distances: Tensor

    def __init__(self, spec: Spec, classes: Tensor, count: int, distances: Tensor) -> None:
        super().__init__()
        self.spec, self.epochs, self.count = spec, len(distances), count
        self.register_buffer("classes", classes.long())
        self.register_buffer("distances", distances)

    def forward(self, view: Views, x: Tensor) -> Tensor:
        first, partner = self.classes[view.items], self.classes[view.partner]
        stored = self.distances[0 if self.spec.once else view.epoch].index_select(0, view.items)
        return torch.cat([torch.stack([first.float(), partner.float(), view.weight], dim=1), stored.float()], dim=1)

    def loss(self, output: Tensor, target: Tensor, temperature: float | None = None, times_t2: bool = False) -> Tensor:
        spec, weight, stored = self.spec, target[:, 2], target[:, 3:]
        first, partner = target[:, 0].long(), target[:, 1].long()
        if spec.loss == "kd":
            given = torch.exp(-stored)
            given = torch.where((first == partner)[:, None], given[:, :1], given)
            label = spread(torch.stack([first, partner], dim=1), given, self.count)
            return distillation_loss(output, spec.temperature * label, spec.temperature, times_t2)
        mixed = output[: len(target)].float()
        org = F.cross_entropy(mixed, first, reduction="none")
        aug = F.cross_entropy(mixed, partner, reduction="none")
        distance = distances(output, first, partner, weight, spec.reading, spec.temperature)
        gap = _DISTANCES[spec.distance](distance, stored, reduction="none").sum(dim=1)
        return (weight * org + (1 - weight) * aug + spec.weight * gap).mean()


Stored = DBR | Logits | Top1


def build(
    record: Mapping[str, Any], classes: Tensor, count: int, tensors: Mapping[str, Tensor], epochs: int | None = None
) -> Stored:
    """The scheme of a manifest's `labels`; arguments as of `ddhub.data.labels.build`.

    Raises:
        ArtifactError: an unknown field, a value out of range, or tensors that are missing or do not fit.
    """
    try:
        spec = Spec.parse(record)
    except UsageError as error:
        raise ArtifactError(f"{error}; or regenerate the artifact") from None
    first = next(iter(shapes(spec, epochs=1, items=1, classes=count)))
    if epochs is None:
        epochs = len(tensors[first]) if first in tensors else 1
    for name, (dtype, shape) in shapes(spec, epochs=epochs, items=len(classes), classes=count).items():
        stored = tensors.get(name)
        if stored is None or stored.dtype != dtype or tuple(stored.shape) != shape:
            state = "missing" if stored is None else f"{stored.dtype} {[*stored.shape]}"
            raise ArtifactError(
                f"labels {spec.kind!r}: tensor {name} is {state}, needed {dtype} {[*shape]} ({epochs} epochs of "
                f"{len(classes)} items); regenerate the artifact"
            )
    if spec.kind == "soft":
        return Logits(spec, tensors["labels.logits"])
    if spec.kind == "dbr":
        if tensors["labels.distances"].min() < 0:
            raise ArtifactError("labels 'dbr': a distance in labels.distances is below 0; regenerate the artifact")
        return DBR(spec, classes, count, tensors["labels.distances"])
    top, given = tensors["labels.top1"], tensors["labels.probability"]
    if int(top.int().max()) >= count or given.min() < 0 or given.max() > 1:
        raise ArtifactError(
            f"labels 'top1': a class is not in 0..{count - 1}, or a probability not in 0..1; regenerate the artifact"
        )
    return Top1(spec, count, top, given)

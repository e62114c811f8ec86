"""Protocol: how a student is trained and scored, frozen and hashed; Result: one student, one seed, one number.

Results of different protocols never share a table: the digest covers every field but the name. The accuracy of a
Result is that of the last epoch. This module imports no torch, so that `ddhub list` stays quick.

    Protocol(epochs=100).digest          # 12 hex digits
    protocol("infer-static")             # by name
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from ddhub._fields import is_number
from ddhub.errors import ArtifactError, UsageError, unknown

Mix = Literal["none", "mixup", "cutmix"]
MixPer = Literal["batch", "item"]
Optimizer = Literal["adamw", "sgd"]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(ok: bool, what: str, value: object, allowed: str) -> None:
    if not ok:
        raise UsageError(f"{what} is {value!r}; it must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What happens to an item before the student sees it: random crop, flip, then mixing with a partner.

    Attributes:
        crop_padding: pixels of zero padding on each side before a random crop of the original size; 0 is no crop.
        flip: probability of a horizontal flip.
        mix: `mixup` (Zhang et al., 2018) or `cutmix` (Yun et al., 2019), on every batch.
        mix_alpha: the weight is drawn from Beta(alpha, alpha).
        mix_per: `batch`, one weight and box a batch with a partner from the same batch, as the papers do it; or
            `item`, each item its own, with a partner from the whole set.
    """

    crop_padding: int = 0
    flip: float = 0.0
    mix: Mix = "none"
    mix_alpha: float = 1.0
    mix_per: MixPer = "batch"

    def __post_init__(self) -> None:
        padding = self.crop_padding
        _require(
            _is_whole(padding) and padding >= 0,
            "crop_padding",
            padding,
            "a whole number of pixels, 0 or more",
        )
        _require(is_number(self.flip) and 0 <= self.flip <= 1, "flip", self.flip, "a probability in [0, 1]")
        _require(self.mix in get_args(Mix), "mix", self.mix, f"one of {', '.join(get_args(Mix))}")
        alpha = self.mix_alpha
        _require(is_number(alpha) and alpha > 0, "mix_alpha", alpha, "a finite number above 0")
        _require(self.mix_per in get_args(MixPer), "mix_per", self.mix_per, "'batch' or 'item'")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a student is trained: cosine to zero, stepped once an epoch, no early stop, scored after the last epoch.

    Attributes:
        name: a word for people; not part of the digest.
        epochs: passes over the artifact's items.
        batch_size: items a step, over all ranks together; the last partial batch is kept.
        optimizer: `adamw` with default betas, or `sgd` with `momentum`.
        lr: learning rate at the start; epoch e uses `lr · (1 + cos(pi · e / epochs)) / 2`.
        weight_decay: as the optimizer applies it.
        momentum: of `sgd`; unused by `adamw`.
        augment: crop, flip and mixing.
    """

    name: str = "custom"
    epochs: int = 400
    batch_size: int = 64
    optimizer: Optimizer = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        _require(_is_whole(self.epochs) and self.epochs >= 1, "epochs", self.epochs, "1 or more")
        size = self.batch_size
        _require(_is_whole(size) and size >= 1, "batch_size", size, "1 or more")
        _require(self.optimizer in get_args(Optimizer), "optimizer", self.optimizer, "'adamw' or 'sgd'")
        _require(is_number(self.lr) and self.lr > 0, "lr", self.lr, "a finite number above 0")
        for name in ("weight_decay", "momentum"):
            value = getattr(self, name)
            _require(is_number(value) and value >= 0, name, value, "a finite number, 0 or more")

    @property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of every field but the name."""
        content = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Protocol:
        """The protocol that a manifest holds.

        Raises:
            ArtifactError: a field that this version does not know, or a value out of range.
        """
        known = {item.name for item in fields(cls)}
        strange = sorted(set(record) - known) + sorted(
            set(record.get("augment", {})) - {item.name for item in fields(Augment)}
        )
        if strange:
            raise ArtifactError(f"protocol: unknown field {strange[0]!r}; pip install -U ddhub")
        try:
            return cls(**{**record, "augment": Augment(**record.get("augment", {}))})
        except (UsageError, TypeError) as error:
            raise ArtifactError(f"protocol: {error}; regenerate the artifact") from None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One student, one seed, one number: top-1 accuracy in percent after the last epoch, on all test images.

    `digest` names the artifact's content, `protocol_digest` the protocol; `steps` and `seconds` are those of the
    training, `precision` is that of the student's forward passes.
    """

    artifact: str
    digest: str
    protocol: str
    protocol_digest: str
    model: str
    seed: int
    accuracy: float
    test_name: str
    test: str
    test_images: int
    test_fingerprint: str
    epochs: int
    steps: int
    seconds: float
    device: str
    precision: str
    versions: str


_STUDENT = Augment(crop_padding=4, flip=0.5, mix="mixup", mix_alpha=0.8, mix_per="batch")
_PROTOCOLS = {
    # INFER's validation of static labels on CIFAR (specification section 5.1; the temperature is in the labels).
    "infer-static": Protocol(name="infer-static", augment=_STUDENT),
    # INFER+Dyn: the epochs divided by M + 1 = 5 (section 5.2).
    "infer-dynamic": Protocol(name="infer-dynamic", epochs=80, augment=_STUDENT),
    # INFER's static protocol with an eighth of its epochs, for students on a CPU.
    "infer-static-50": Protocol(name="infer-static-50", epochs=50, augment=_STUDENT),
    # Teachers on real data: DWA's squeeze (section 2.1).
    "squeeze": Protocol(
        name="squeeze",
        epochs=200,
        batch_size=128,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        augment=Augment(crop_padding=4, flip=0.5),
    ),
}


def protocol(name: str, **changes: Any) -> Protocol:
    """A protocol by name; `changes` replace fields, and a changed one is called `NAME+field=value`.

    Raises:
        UsageError: an unknown name.
    """
    if name not in _PROTOCOLS:
        raise unknown("protocol", name, _PROTOCOLS, "ddhub train --help")
    base = _PROTOCOLS[name]
    changed = replace(base, **changes)
    if changed == base:
        return base
    notes = [f"{key}={value}" for key, value in changes.items() if getattr(base, key) != value]
    return replace(changed, name="+".join([name, *notes]))


def protocols() -> tuple[str, ...]:
    """The names that `protocol` knows."""
    return tuple(_PROTOCOLS)

"""Protocol: how a student is trained and scored, frozen and hashed.

Results of different protocols never share a table: the digest covers every field but the name. This module imports no
torch, so that `ddhub list` stays quick.

    Protocol(epochs=100).digest          # 12 hex digits
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from ddhub.errors import ArtifactError, UsageError
from ddhub.io.rules import is_line, is_whole, one_of, require, whole_within, within

Mix = Literal["none", "mixup", "cutmix"]
MixPer = Literal["batch", "item"]
DSAForm = Literal["dsa", "idc"]
Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "half-cosine", "one-cycle", "steps"]

DSA_OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
# Bounds that no paper comes near, so that a file of a stranger cannot ask for time or memory without end.
MOST_EPOCHS, MOST_RATE, MOST_NAME = 10**6, 1000, 1000
# Fields of the first protocols. A younger field enters digest and manifest only where it is not at its default, so
# that old digests stay and old manifests are read.
_FIRST = {"name", "epochs", "batch_size", "optimizer", "lr", "weight_decay", "momentum", "augment"}
_FIRST_AUGMENT = {"crop_padding", "flip", "mix", "mix_alpha", "mix_per"}


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What happens to an item before the student sees it.

        strips shuffled -> resized crop -> crop -> flip -> DSA -> mixed with a partner

    With `dsa` all of it happens to normalised images, so that what is filled with zeros becomes the mean colour, as in
    the papers; without, to images in unit scale, where zero is black.

    Attributes:
        crop_padding: pixels of zero padding on each side before a random crop of the original size; 0 is no crop.
        flip: probability of a horizontal flip.
        mix: `mixup` (Zhang et al., 2018) or `cutmix` (Yun et al., 2019).
        mix_alpha: the weight is drawn from Beta(alpha, alpha).
        mix_per: `batch`, one weight and box a batch with a partner from the same batch, as the papers do it; or
            `item`, each item its own, with a partner from the whole set.
        mix_probability: share of the batches (or of the items) that are mixed at all.
        crop_scale: smallest share of the area that a random resized crop keeps (at most all of it; aspect ratio 3/4
            to 4/3, bilinear, as torchvision's RandomResizedCrop); 0 is none.
        shuffle: f of RDED's patch shuffle: the f vertical strips of an image are permuted, then the f horizontal
            ones; 1 is none (Sun et al., 2024, arXiv 2312.03526).
        dsa: operations of Differentiable Siamese Augmentation joined by `_`, all being
            `color_crop_cutout_flip_scale_rotate` (Zhao & Bilen, 2021, arXiv 2102.08259); empty is none. Each item has
            its own parameters.
        dsa_form: `dsa`, one of the operations is drawn; or `idc`: flip, color and cutout are applied wherever they
            are listed, and one of the others is drawn (Kim et al., 2022, arXiv 2205.14959).
        dsa_per: the operation is drawn per `batch`, as the papers do it, or per `item`.
        dsa_crop: largest shift of DSA's crop, as a share of the side.
    """

    crop_padding: int = 0
    flip: float = 0.0
    mix: Mix = "none"
    mix_alpha: float = 1.0
    mix_per: MixPer = "batch"
    mix_probability: float = 1.0
    crop_scale: float = 0.0
    shuffle: int = 1
    dsa: str = ""
    dsa_form: DSAForm = "dsa"
    dsa_per: MixPer = "batch"
    dsa_crop: float = 0.125

    def __post_init__(self) -> None:
        whole_within("crop_padding", self.crop_padding, 0, 256, "a whole number of pixels")
        for name in ("flip", "mix_probability"):
            within(name, getattr(self, name), 0, 1, "a probability in [0, 1]")
        one_of("mix", self.mix, Mix)
        within("mix_alpha", self.mix_alpha, 1e-3, 1000, "a number from 0.001 to 1,000")
        one_of("mix_per", self.mix_per, MixPer)
        within("crop_scale", self.crop_scale, 0, 1, "a share of the area in [0, 1]")
        whole_within("shuffle", self.shuffle, 1, 8, "a number of strips")
        require(isinstance(self.dsa, str), "dsa", self.dsa, "a text")
        ops = self.dsa_ops
        known = len(set(ops)) == len(ops) and set(ops) <= set(DSA_OPS)
        require(known, "dsa", self.dsa, f"different ones of {', '.join(DSA_OPS)}, joined by _")
        one_of("dsa_form", self.dsa_form, DSAForm)
        one_of("dsa_per", self.dsa_per, MixPer)
        within("dsa_crop", self.dsa_crop, 0, 1, "a share of the side in [0, 1]")

    @property
    def dsa_ops(self) -> tuple[str, ...]:
        """The operations of `dsa`."""
        return tuple(self.dsa.split("_")) if self.dsa else ()


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a student is trained: a rate that is stepped once an epoch, no early stop, scored after the last epoch.

    Attributes:
        name: a word for people; not part of the digest.
        epochs: passes over the artifact's items.
        batch_size: items a step, over all ranks together; the last partial batch is kept.
        optimizer: `adamw` with default betas, or `sgd` with `momentum`.
        lr: learning rate at the start.
        weight_decay: as the optimizer applies it.
        momentum: of `sgd`; unused by `adamw`.
        augment: crop, flip, DSA and mixing.
        schedule: of epoch e of E: `cosine`, `lr · (1 + cos(pi · e / E)) / 2`; `half-cosine`, `lr · (1 + cos(pi · e /
            2E)) / 2`, which ends near lr / 2; `one-cycle`, set at every step, linear up to lr in the warm-up and from
            there down to zero (Smith & Topin, 2018, arXiv 1708.07120); or `steps`, lr times `decay` for every milestone
            that e has reached.
        milestones: epochs of `steps`; none is a constant rate.
        decay: factor of `steps`.
        restart: the optimizer's state is dropped at a milestone.
        nesterov: whether the momentum of `sgd` is Nesterov's.
        label_smoothing: share of a one-hot label that is spread evenly over all classes; of no effect on logits.
        warmup: epochs w of a linear warm-up, `lr · (0.01 + 0.99 · e / w)`, in front of a cosine over the other E - w.
        decay_biases: whether weight decay applies to tensors of fewer than 2 dimensions too.
        learned_lr: the rate is the artifact's learned step size where it has one, else `lr`.
        temperature: of the loss of logits (labels soft and teacher), in place of the labels' own.
        times_t2: the loss of soft labels is multiplied by the temperature squared.
        teachers: nets that label every mixed batch in place of the artifact's labels, as NAME@DIGEST of teacher
            artifacts.
        teacher_batch_stats: the BatchNorm layers of teachers use the statistics of the batch, as they do in SRe2L's
            CIFAR code, where the teacher is never put into eval mode.
    """

    name: str = "custom"
    epochs: int = 400
    batch_size: int = 64
    optimizer: Optimizer = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    augment: Augment = field(default_factory=Augment)
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    restart: bool = False
    warmup: int = 0
    decay_biases: bool = True
    learned_lr: bool = False
    temperature: float | None = None
    times_t2: bool = False
    teachers: tuple[str, ...] = ()
    teacher_batch_stats: bool = False
    nesterov: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("milestones", "teachers"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        require(isinstance(self.augment, Augment), "augment", self.augment, "an Augment")
        require(is_line(self.name, MOST_NAME), "name", self.name, f"a text of one line, 1 to {MOST_NAME:,} characters")
        whole_within("epochs", self.epochs, 1, MOST_EPOCHS)
        whole_within("batch_size", self.batch_size, 1, 2**20)
        one_of("optimizer", self.optimizer, Optimizer)
        within("lr", self.lr, 1e-12, MOST_RATE, f"a number above 0, at most {MOST_RATE:,}")
        within("weight_decay", self.weight_decay, 0, 100, "a number from 0 to 100")
        within("momentum", self.momentum, 0, 0.99999, "a number from 0 to below 1")
        within("decay", self.decay, 0, 100, "a number from 0 to 100")
        one_of("schedule", self.schedule, Schedule)
        marks = self.milestones
        fits = isinstance(marks, tuple) and all(is_whole(x) and 1 <= x <= MOST_EPOCHS for x in marks)
        require(
            fits and [*marks] == sorted(marks)[:1000],
            "milestones",
            marks,
            "rising epochs, 1 or more, up to 1,000 of them",
        )
        warm = self.warmup
        require(is_whole(warm) and 0 <= warm < self.epochs, "warmup", warm, "epochs, fewer than there are")
        rises = self.schedule in ("cosine", "one-cycle")
        require(not warm or rises, "warmup", warm, "0 unless the schedule is 'cosine' or 'one-cycle'")
        within("label_smoothing", self.label_smoothing, 0, 0.99, "a share from 0 to 0.99")
        moved = self.optimizer == "sgd" and self.momentum > 0
        require(moved or not self.nesterov, "nesterov", self.nesterov, "false without the momentum of 'sgd'")
        for name in ("restart", "decay_biases", "learned_lr", "times_t2", "teacher_batch_stats", "nesterov"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        if self.temperature is not None:
            within("temperature", self.temperature, 1e-3, 10_000, "a number from 0.001 to 10,000")
        named = isinstance(self.teachers, tuple) and len(self.teachers) <= 100 and all(map(is_line, self.teachers))
        require(named, "teachers", self.teachers, "up to 100 names")

    def to_json(self) -> dict[str, Any]:
        """The protocol as a manifest holds it: younger fields only where they are not at their defaults."""
        augment = _without_defaults(self.augment, _FIRST_AUGMENT)
        return json.loads(json.dumps({**_without_defaults(self, _FIRST), "augment": augment}))  # type: ignore[no-any-return]

    @cached_property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of `to_json` without the name."""
        content = {key: value for key, value in self.to_json().items() if key != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Protocol:
        """The protocol that a manifest holds.

        Raises:
            ArtifactError: a field that this version does not know, or a value out of range.
        """
        augment = record.get("augment", {})
        if not isinstance(augment, Mapping):
            raise ArtifactError("protocol: augment is not an object; regenerate the artifact")
        known = {item.name for item in fields(cls)}
        strange = sorted(set(record) - known) + sorted(set(augment) - {item.name for item in fields(Augment)})
        if strange:
            raise ArtifactError(f"protocol: unknown field {strange[0]!r}; pip install -U ddhub")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
        }
        try:
            return cls(**{**values, "augment": Augment(**augment)})
        except (UsageError, TypeError) as error:
            raise ArtifactError(f"protocol: {error}; regenerate the artifact") from None


def _without_defaults(record: Protocol | Augment, always: set[str]) -> dict[str, Any]:
    items = {item.name: item.default for item in fields(record)}
    return {key: value for key, value in asdict(record).items() if key in always or value != items[key]}

"""DistilledData: an artifact as training batches, reconstructed on the fly on the device.

    data = ddhub.load("cifar10-infer-ipc10", device="auto")
    for x, y in data.batches(seed=0):
        loss = data.loss(model(x), y)

Every batch is: item indices -> decode -> crop, flip, mix (`ddhub.data.views`) -> normalise -> labels. What happens to
an item in an epoch depends on (seed, epoch, item) alone, so `start=k` needs no loader state and ranks need no messages.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Self

import torch
from torch import Tensor

from ddhub.data.about import About
from ddhub.data.decode import Decoder
from ddhub.data.labels import Hard, Labels, Teacher
from ddhub.data.transfer import sent
from ddhub.data.view_labels import DBR, Stored, check
from ddhub.data.views import Views, epoch_views, render
from ddhub.errors import UsageError
from ddhub.io.files import max_bytes
from ddhub.io.rules import require
from ddhub.models import Net
from ddhub.protocols.protocol import Augment, Protocol
from ddhub.teachers import fitting
from ddhub.training.capture import Captured
from ddhub.training.devices import captures, one_thread, resolve_device
from ddhub.training.items import Items, page

# Batches of small images are rendered together, up to so many values (8 MiB of float32): about a tenth more images
# per second for batches of 64 CIFAR images on 2 cores, and fewer kernel launches on a GPU.
_TOGETHER = 2**21


class DistilledData(Items):
    """A decoder, a label scheme and the protocol they were made for.

    As a data set, it has items of normalised images `[C, H, W]`, not augmented, and class numbers; `batches` is what
    students are trained on, and `as_dataset` has the targets that the labels give.

    Attributes:
        decoder: item indices `[B]` -> images `[B, C, H, W]` in unit scale.
        labels: `labels(view, x)` and `labels.loss(output, target)`; teachers where the protocol names some.
        protocol: batch size, epochs and augmentation of `batches`.
        about: names, classes, mean and std.
    """

    def __init__(
        self,
        decoder: Decoder,
        labels: Labels,
        protocol: Protocol,
        about: About,
        made_for: Protocol | None = None,
        targets: Tensor | list[int] | None = None,
    ) -> None:
        self.decoder, self.protocol, self.about = decoder, protocol, about
        self._own_labels = labels  # the artifact's, which another protocol may ask for again
        self._made_for = made_for or protocol  # whose views labels were stored for
        known = labels.classes if targets is None and isinstance(labels, Hard) else targets
        self._numbers: Tensor | list[int] | None = known
        self.labels = _asked_for(labels, protocol, about).to(decoder.images.device)
        self._checked(protocol)
        self._settle(decoder.images.device)

    def __len__(self) -> int:
        return len(self.decoder)

    def __repr__(self) -> str:
        about, plan, size = self.about, self.protocol, " x ".join(map(str, self.about.image_size))
        return (
            f"{type(self).__name__} {about.name!r}: {len(self):,} items of {size}, {len(about.classes)} classes of "
            f"{about.dataset}\n  decoder {self.decoder.kind}, labels {self.labels.kind}, on {self.device}\n  protocol "
            f"{plan.name}: {plan.epochs:,} epochs, batches of {plan.batch_size:,}, {plan.optimizer}, lr {plan.lr:g}"
        )

    def _repr_html_(self) -> str:
        return page(repr(self), self.about.folder)

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, int]]:
        targets = self.targets  # raises where there are none, before anything is decoded
        return list(zip(self.decoded(rows)[1], (targets[row] for row in rows), strict=True))

    def decoded(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Numbers of items `[B]` and their normalised images `[B, C, H, W]`, on the device."""
        items = sent(torch.as_tensor(rows, device="cpu"), self.device)
        return items, self.normalize(self.decoder(items))

    @property
    def images(self) -> Tensor:
        """All items as images in unit scale, f32 `[N, C, H, W]`. UsageError for more than DDHUB_MAX_BYTES of them."""
        if (size := 4 * len(self) * math.prod(self.about.image_size)) > max_bytes():
            raise UsageError(f"{self.about.name!r} has images of {size:,} bytes; take some, data[:100], or batches()")
        parts = torch.arange(len(self), device=self.device).split(256)
        return torch.cat([self.decoder(part) for part in parts])

    @property
    def targets(self) -> list[int]:
        """The class number of each item. UsageError for data made in memory without them."""
        if self._numbers is None:
            raise UsageError(
                f"{self.about.name!r} was made without classes of its items; use as_dataset() or batches()"
            )
        if isinstance(self._numbers, Tensor):
            self._numbers = self._numbers.tolist()
        return self._numbers

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their numbers."""
        return list(self.about.classes)

    def head(self, count: int = 5) -> list[tuple[Tensor, int]]:
        """The first items."""
        return self[:count]

    def to(self, device: str | torch.device) -> Self:
        """Move to a device, `auto` being a GPU where there is one; what was made by `using` stays where it is."""
        target = resolve_device(device)
        if target != self.device:
            self.decoder = deepcopy(self.decoder).to(target)
            original, labels = deepcopy((self._own_labels, self.labels))  # together: they may be or share the same nets
            self._own_labels, self.labels = original.to(target), labels.to(target)
            self._settle(target)
        return self

    def using(self, *, protocol: Protocol | None = None, labels: Labels | None = None) -> Self:
        """The same images under another protocol or with other labels, such as `labels.Teacher([net], 30.0)`.

        Where the protocol names teachers, they label, whatever the labels are. Labels that are given here and stored
        per view are taken to be for the views of the protocol, those that the data have for the views of theirs.

        Raises:
            UsageError: a protocol with other views than those that labels were stored for.
            UsageError, ArtifactError: teachers that are not there, damaged or of other data (`ddhub.teachers`).
        """
        made_for = None if labels else self._made_for
        original = (labels or self._own_labels).to(self.device)
        return type(self)(self.decoder, original, protocol or self.protocol, self.about, made_for, self._numbers)

    def _checked(self, plan: Protocol) -> None:
        """UsageError for a protocol with other views than those that the labels were stored for."""
        if isinstance(self.labels, Stored):
            check(self.labels, self._made_for, plan)

    def _settle(self, device: torch.device) -> None:
        self.device = device
        self._teachers: Captured[Tensor] | None = None
        # As large as an image: with one number a channel a CPU does not vectorise the multiply-add (3 times as slow).
        size = self.about.image_size
        std = torch.tensor(self.about.std, device=device).view(-1, 1, 1).expand(size)
        mean = torch.tensor(self.about.mean, device=device).view(-1, 1, 1).expand(size)
        self._scale, self._shift = 1 / std, -mean / std

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the last partial one included, over all ranks."""
        return -(-len(self) // self.protocol.batch_size)

    def normalize(self, x: Tensor) -> Tensor:
        """`(x - mean) / std` per channel, as one multiply-add."""
        return torch.addcmul(self._shift, x, self._scale)

    def batches(
        self,
        seed: int = 0,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images `[B, C, H, W]` and their targets, epoch after epoch.

        Args:
            seed: with the epoch, it decides order, crops, flips, partners and weights; where labels are stored per
                view, the seed that was stored with them does, whatever is given here.
            epochs: how many; the protocol's if not given.
            batch_size: items a step over all ranks; the protocol's if not given.
            start: first batch, counted over epochs: `start=k` yields what skipping k batches would.
            rank, world: this process takes every world-th item of each batch, from its rank-th on.

        Raises:
            UsageError: a rank outside the world, a batch size or start that is not possible, or views that labels
                were not stored for.
        """
        plan = replace(
            self.protocol,
            epochs=self.protocol.epochs if epochs is None else epochs,
            batch_size=self.protocol.batch_size if batch_size is None else batch_size,
            warmup=0,  # says nothing of views, and could not be longer than a few epochs
        )
        for _, x, y in self.steps(plan, seed, start, rank, world):
            yield x, y

    def steps(
        self, plan: Protocol, seed: int = 0, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Views, Tensor, Tensor]]:
        """As `batches`, under a protocol, with the view of each batch in front: `(view, x, target)`.

        Under the reading `view` of `dbr`, x is `[2B, C, H, W]`: the mixed images, then the same images unmixed.
        """
        self._checked(plan)
        if isinstance(self.labels, Stored) and not self.labels.spec.once:
            seed = self.labels.spec.seed
        both = isinstance(self.labels, DBR) and self.labels.spec.reading == "view"
        for name, value in {"seed": seed, "start": start, "rank": rank, "world": world}.items():
            require(isinstance(value, Integral), name, value, "a whole number")
        if not 0 <= rank < world or start < 0:
            raise UsageError(f"rank {rank}, world {world}, start {start}: need 0 <= rank < world, start >= 0")
        size, count = self.about.image_size[1:], -(-len(self) // plan.batch_size)
        last = len(self) - (count - 1) * plan.batch_size
        if world > last:
            raise UsageError(f"{world} ranks cannot share the last batch of {last}; use at most {last} ranks")
        together = max(1, _TOGETHER * world // (plan.batch_size * math.prod(self.about.image_size)))
        for epoch in range(start // count, plan.epochs):
            order, views = epoch_views(seed, epoch, len(self), plan.augment, size=size, batch_size=plan.batch_size)
            order, views = sent(order, self.device), views.to(self.device)
            rank_of_item = torch.empty_like(order)
            rank_of_item[order] = torch.arange(len(self), device=self.device)
            shares = [batch[rank::world] for batch in order.split(plan.batch_size)]
            for first in range(start % count if epoch == start // count else 0, count, together):
                parts = shares[first : first + together]
                items = torch.cat(parts)
                # One process holds whole batches, and the papers' form takes partners from the same batch.
                closed = world == 1 and plan.augment.mix_per == "batch"
                partners_at = rank_of_item[views.partner[items]] - first * plan.batch_size if closed else None
                sizes = [len(part) for part in parts]
                batches = self.render(views, items, plan.augment, partners_at).split(sizes)
                if both:
                    alone = self.render(views, items, plan.augment, mixed=False).split(sizes)
                    batches = tuple(map(torch.cat, zip(batches, alone, strict=True)))
                for part, x in zip(parts, batches, strict=True):
                    view = views[part]
                    yield view, x, self._targets(view, x)

    def _targets(self, view: Views, x: Tensor) -> Tensor:
        """The labels of a batch; teachers, where they are nets of `ddhub.models`, answer in a captured step."""
        labels = self.labels
        if not (
            isinstance(labels, Teacher)
            and captures(self.device)
            and all(isinstance(net, Net) for net in labels.teachers)
        ):
            target: Tensor = labels(view, x)
            return target
        if self._teachers is None:  # they look at the images alone, so that the first view does for all
            self._teachers = Captured(partial(_answers, labels, view), self.device, "a batch of teachers' labels")
        # A recording keeps the kernels that it was made with, and what the next call overwrites is the caller's.
        return self._teachers(x, key=torch.backends.cudnn.allow_tf32).clone()

    def render(
        self, views: Views, items: Tensor, augment: Augment, partners_at: Tensor | None = None, *, mixed: bool = True
    ) -> Tensor:
        """Normalised images of `items` [B] in these views, `[B, C, H, W]`: `ddhub.data.views.render` of decoded items.

        Augmentation with DSA happens to normalised images, any other to images in unit scale. Where not `mixed`, the
        images are those before a partner is mixed in.
        """
        early = bool(augment.dsa)
        decode = (lambda items: self.normalize(self.decoder(items))) if early else self.decoder
        with one_thread(len(items) * math.prod(self.about.image_size) <= _TOGETHER):
            images = render(decode, views, items, augment if mixed else replace(augment, mix="none"), partners_at)
            return images if early else self.normalize(images)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss that labels and protocol ask for, from the student's logits `[B, classes]`: a scalar."""
        smoothing = self.protocol.label_smoothing
        if smoothing and self.labels.kind == "hard":
            target = target * (1 - smoothing) + smoothing / target.shape[1]
        return self.labels.loss(output, target, self.protocol.temperature, self.protocol.times_t2)

    def as_dataset(self) -> Items:
        """A map-style dataset for a `DataLoader` of your own.

        Item *i* is the reconstructed image `[C, H, W]`, normalised and not augmented, with the target that the
        stored labels give it: one-hot for `hard`, logits for `soft`. Order, augmentation and mixing are yours; mix
        targets with the images' weights and use `data.loss`.

        Raises:
            UsageError: labels that are stored per view, which say nothing of an item without augmentation.
        """
        if isinstance(self.labels, Stored):
            raise UsageError(
                f"labels {self.labels.kind!r} are stored for augmented views, items without have none; use "
                "data.batches(), or data.using(labels=...) first"
            )
        return _Targets(self)


def _asked_for(labels: Labels, plan: Protocol, about: About) -> Labels:
    """The labels under a protocol: the artifact's own, or the teachers that the protocol names."""
    if plan.teachers:
        return Teacher(fitting(plan.teachers, about), plan.temperature or 1.0, plan.teacher_batch_stats)
    if isinstance(labels, Teacher):
        return Teacher(labels.teachers, labels.temperature, plan.teacher_batch_stats)
    return labels


def _answers(labels: Teacher, view: Views, x: Tensor, key: Hashable) -> Tensor:
    """`labels(view, x)`, whatever the key of its recordings."""
    target: Tensor = labels(view, x)
    return target


class _Targets(Items):
    """Items with the targets that the labels give them."""

    def __init__(self, data: DistilledData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        items, x = self.data.decoded(rows)
        target = self.data.labels(Views.plain(items), x)
        return list(zip(x, target, strict=True))

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
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddhub.data.about import About
from ddhub.data.decode import Decoder
from ddhub.data.labels import Labels, Teacher
from ddhub.data.transfer import sent
from ddhub.data.view_labels import DBR, Stored, check
from ddhub.data.views import Views, epoch_views, render
from ddhub.errors import UsageError
from ddhub.models import Net
from ddhub.protocols.protocol import Augment, Protocol
from ddhub.teachers import fitting
from ddhub.training.capture import Captured
from ddhub.training.devices import captures, resolve_device

# Batches of small images are rendered together, up to so many values (8 MiB of float32): about a tenth more images
# per second for batches of 64 CIFAR images on 2 cores, and fewer kernel launches on a GPU.
_TOGETHER = 2**21


@contextmanager
def _few_threads(values: int) -> Iterator[None]:
    """One thread within, for up to `_TOGETHER` values.

    Each of many short operations ends when its last thread does, and the others spin: beside other busy processes two
    threads rendered 29 CIFAR images/s in 2.3 ms of CPU each, one thread 1,082 in 0.05 (2 cores, median of 6 pairs).
    """
    threads = torch.get_num_threads()
    if threads == 1 or values > _TOGETHER:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class DistilledData:
    """A decoder, a label scheme and the protocol they were made for.

    Attributes:
        decoder: item indices `[B]` -> images `[B, C, H, W]` in unit scale.
        labels: `labels(view, x)` and `labels.loss(output, target)`; teachers where the protocol names some.
        protocol: batch size, epochs and augmentation of `batches`.
        about: names, classes, mean and std.
    """

    def __init__(
        self, decoder: Decoder, labels: Labels, protocol: Protocol, about: About, made_for: Protocol | None = None
    ) -> None:
        self.decoder, self.protocol, self.about = decoder, protocol, about
        self._own_labels = labels  # the artifact's, which another protocol may ask for again
        self._made_for = made_for or protocol  # whose views labels were stored for
        self.labels = _asked_for(labels, protocol, about).to(decoder.images.device)
        self._checked(protocol)
        self._settle(decoder.images.device)

    def __len__(self) -> int:
        return len(self.decoder)

    def __repr__(self) -> str:
        return (
            f"DistilledData({self.about.name!r}, items={len(self)}, decoder={self.decoder.kind!r}, "
            f"labels={self.labels.kind!r}, protocol={self.protocol.name!r}, device={str(self.device)!r})"
        )

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
        return type(self)(self.decoder, original, protocol or self.protocol, self.about, made_for)

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
        with _few_threads(len(items) * math.prod(self.about.image_size)):
            images = render(decode, views, items, augment if mixed else replace(augment, mix="none"), partners_at)
            return images if early else self.normalize(images)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss that labels and protocol ask for, from the student's logits `[B, classes]`: a scalar."""
        smoothing = self.protocol.label_smoothing
        if smoothing and self.labels.kind == "hard":
            target = target * (1 - smoothing) + smoothing / target.shape[1]
        return self.labels.loss(output, target, self.protocol.temperature, self.protocol.times_t2)

    def as_dataset(self) -> Dataset[tuple[Tensor, Tensor]]:
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
        return _Items(self)


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


class _Items(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, data: DistilledData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Many items in one decode: what `DataLoader` calls for a batch."""
        items = sent(torch.as_tensor(rows), self.data.device)
        x = self.data.normalize(self.data.decoder(items))
        target = self.data.labels(Views.plain(items), x)
        return list(zip(x, target, strict=True))

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        if not 0 <= row < len(self):
            raise IndexError(f"item {row} of {len(self)}")
        return self.__getitems__([row])[0]

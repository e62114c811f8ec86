"""Outer iterations of gradient matching, each with a new net, matched and trained on real images in turn.

    S ← clip(S, 0, 1)
    inner times:  S ← the steps of all classes (`recipes.gradients.matching`), at the gradients under the net
                  net ← SGD on ceil(n_data / batch) batches of real images, augmented

    matcher = Matcher(images, side, real, settings)
    matcher.start(images, velocity, norms)
    for number in range(40):
        matcher.iterate(number, corners)
    images = matcher.state()["images"]

All draws come from (seed, number of the outer iteration) on the CPU, and are on the device before the first step, so
that nothing waits for the device inside, and an iteration needs nothing of those before it but S, v and the norms of
the contrastive loss. These, the net and what belongs to it are changed in place: the steps that are captured in the
first outer iteration (`ddhub.training.capture`) serve all others.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from functools import cached_property
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from ddhub import models
from ddhub.data.dsa import COLUMNS, dsa
from ddhub.data.transfer import sent
from ddhub.errors import TrainingError
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from ddhub.training.capture import Captured
from ddhub.training.devices import seeded
from ddhub.training.optimizer import build_optimizer, restart
from recipes.gradients.contrast import Contrast, Contrasting
from recipes.gradients.matching import Matching, formations, image_gradients, stepped, turns
from recipes.run.draws import generator
from recipes.run.straight_through import OFF, InLoop
from recipes.run.teachers import real_data

log = logging.getLogger(__name__)
_READ = 10  # outer iterations after which a GPU's losses are read, as reading waits for it


class Real:
    """The real images on the device: batches of each class, and augmented batches of all for the net.

    Args:
        source: the training images.
        plan: batch size, optimizer and augmentation of the net's training.
        seed: of the orders and the augmentation.
        batch: images of a class in a batch; less where a class has not so many.
        device: where the images lie.
    """

    def __init__(self, source: Source, plan: Protocol, seed: int, batch: int, device: torch.device) -> None:
        self.data, self.seed = real_data(source, plan).to(device), seed
        self.rows = [(source.labels == label).nonzero().flatten() for label in range(len(source.classes))]
        self.batch = min(batch, *map(len, self.rows))

    def of_classes(self, first: int, count: int) -> Tensor:
        """Rows `[count, K, batch]` of the inner iterations from number `first` on, counted over the whole run.

        The images of a class are shuffled again when less than a batch of them is left.
        """
        collected = []
        for label, rows in enumerate(self.rows):
            each = len(rows) // self.batch
            rounds = range(first // each, (first + count - 1) // each + 1)
            orders = [torch.randperm(len(rows), generator=generator(self.seed, "real", label, e)) for e in rounds]
            batches = torch.cat([rows[order[: each * self.batch]] for order in orders]).view(-1, self.batch)
            collected.append(batches[first - rounds.start * each :][:count])
        return sent(torch.stack(collected, dim=1), self.data.device)

    def images(self, rows: Tensor) -> Tensor:
        """Normalised images `[k, B, C, H, W]` of rows `[k, B]`."""
        return self.data.normalize(self.data.decoder(rows.flatten())).unflatten(0, rows.shape)


def picks(corners: Tensor, most: int, count: int, *words: object) -> Tensor:
    """Numbers `[count, K, P]` of random formations of each class, all in their order if they are not more than `most`.

    `corners` `[K, F, 2]` are those of the formations, `words` name the draw.
    """
    shape = (count, *corners.shape[:2])
    if shape[2] <= most:
        return torch.arange(shape[2], device=corners.device).expand(shape)
    return sent(torch.rand(shape, generator=generator(*words)).argsort(2)[:, :, :most], corners.device)


def siamese(x: Tensor, u: Tensor, ops: tuple[str, ...]) -> Tensor:
    """Normalised images `[k, B, C, H, W]`, augmented; the images of a class by its row of `u` `[k, COLUMNS]`."""
    table = u[:, None].expand(-1, x.shape[1], -1).flatten(0, 1)
    return dsa(x.flatten(0, 1), table, ops, form="idc").unflatten(0, x.shape[:2])


class Matcher:
    """The outer iterations of a run: S, v, the net and all that they need, each in one place for the whole run.

    Args:
        images: S `[K, n, C, H, W]` as it will be given; only its shape and kind matter.
        side: of the formations, in stored pixels.
        real: real images, on the device that computes.
        settings: settings of the matching.
        contrasting: how the loss beside it is taken, if there is one.
        loop: a codec in the loop; its steps are inner iterations, counted over the whole run.
    """

    def __init__(
        self,
        images: Tensor,
        side: int,
        real: Real,
        settings: Matching,
        contrasting: Contrasting | None = None,
        loop: InLoop = OFF,
    ) -> None:
        self.side, self.real, self.settings, self.device = side, real, settings, real.data.device
        self.images, self.velocity = (torch.zeros_like(images, device=self.device) for _ in range(2))
        self.loop, self.residual = loop, torch.zeros_like(self.images) if loop.every else None
        self.norms, self.loss = (images.new_zeros(shape, device=self.device) for shape in ([2], []))
        self.contrast = Contrast(contrasting, self.norms) if contrasting else None
        self.net = self._built(0).to(self.device, images.dtype)
        self.optimizer = build_optimizer(self.net, real.data.protocol)
        self.reads = 1 if self.device.type == "cpu" else _READ  # outer iterations after which losses are read
        self._unread: list[tuple[int, Tensor]] = []

    def start(self, images: Tensor, velocity: Tensor, norms: Tensor, residual: Tensor | None = None) -> None:
        """Go on from S and v `[K, n, C, H, W]`, and the running norms `[2]` of the contrastive loss.

        So from the residual of a codec in the loop, which there is none of before the first iteration: it makes one.
        """
        for held, given in ((self.images, images), (self.velocity, velocity), (self.norms, norms)):
            held.copy_(given)
        if self.residual is not None and residual is not None:
            self.residual.copy_(residual)

    def state(self) -> dict[str, Tensor]:
        """S, v, the norms and the residual, if any, as they are now, all reported: what `start` takes."""
        self.report()
        state = {"images": self.images.clone(), "velocity": self.velocity.clone(), "norms": self.norms.clone()}
        return state if self.residual is None else {**state, "residual": self.residual.clone()}

    def shown(self, images: Tensor | None = None, part: slice = slice(None)) -> Tensor:
        """S, or images of some classes in its place, as the net sees them: with the residual, if any."""
        images = self.images if images is None else images
        return images if self.residual is None else images + self.residual[part]

    def iterate(self, number: int, corners: Tensor) -> None:
        """Outer iteration `number`, from 0.

        Args:
            corners: of the formations, `[K, F, 2]` (`recipes.gradients.matching.formations`).

        Raises:
            TrainingError: an image that is not a number, after this iteration or one of the last ten.
        """
        settings, data, contrast = self.settings, self.real.data, self.contrast
        first, shape = number * settings.inner, (settings.inner, len(self.images), COLUMNS)
        u = sent(torch.rand(shape, generator=generator(settings.seed, "siamese", number)), self.device)
        rows = self.real.of_classes(first, settings.inner)
        pick = picks(corners, settings.batch_syn, settings.inner, settings.seed, "formations", number)
        most = contrast.settings.most if contrast else 0
        (bank,) = picks(corners, most or corners.shape[1], 1, settings.seed, "bank", number)
        steps = -(-settings.n_data // data.protocol.batch_size)
        epochs = -(-(first + settings.inner) * steps // data.steps_per_epoch)
        batches = data.batches(settings.seed, epochs=epochs, start=first * steps)

        remember, match, train = self._steps
        self._renew(number)
        self.images.clamp_(0, 1)
        for i in range(settings.inner):
            if self.residual is not None and self.loop.due(first + i):
                self.residual.copy_(self.loop.residual(self.images))
            if contrast is not None and i % contrast.settings.every == 0:
                remember(corners, bank)
            match(u[i], rows[i], pick[i], corners, key=contrast is not None and contrast.measures(i))
            for x, y in islice(batches, steps):
                train(x, y)
        weight = contrast.weight if contrast else torch.zeros_like(self.loss)
        finite = torch.isfinite(self.images).all().to(weight.dtype)
        self._unread.append((number, torch.stack([finite, self.loss, weight])))
        if len(self._unread) == self.reads:
            self.report()

    def report(self) -> None:
        """Log the outer iterations since the last report; waits for the device.

        Raises:
            TrainingError: an image that is not a number.
        """
        numbers, values = [number for number, _ in self._unread], [value for _, value in self._unread]
        self._unread = []
        for number, (finite, loss, weight) in zip(numbers, torch.stack(values).tolist() if values else [], strict=True):
            if not finite:
                raise TrainingError(f"an image is not a number after outer iteration {number}; lower --lr")
            mean = loss / self.settings.inner / len(self.images)
            more = f", lambda {weight:.3g}" if self.contrast else ""
            log.info("outer iteration %d: matching loss %.4g a class%s", number, mean, more)

    @cached_property
    def _steps(self) -> tuple[Captured[None], Captured[None], Captured[None]]:
        """`_remember`, `_match` and `_train`; not before the first stage, whose precision says whether to record."""
        return (
            Captured(self._remember, self.device, "the bank of the contrastive loss"),
            Captured(self._match, self.device, "the matching of gradients"),
            Captured(self._train, self.device, "a step of the matching net"),
        )

    def _remember(self, corners: Tensor, bank: Tensor) -> None:
        """Make the bank of the contrastive loss from the formations `bank` `[K, M]`."""
        assert self.contrast is not None
        x = self.real.data.normalize(formations(self.shown(), corners, bank, self.side))
        self.contrast.remember(self.net.features, x, bank, corners.shape[1])

    def _match(self, u: Tensor, rows: Tensor, pick: Tensor, corners: Tensor, key: Hashable) -> None:
        """S and v after the steps of all classes.

        Args:
            u: augmentation of each class, `[K, COLUMNS]`.
            rows: of its real images, `[K, B]`.
            pick: its formations `[K, P]`, of those at `corners` `[K, F, 2]`.
            key: whether the norms of the gradients are measured.
        """
        data, settings = self.real.data, self.settings

        def shown(leaf: Tensor, part: slice) -> Tensor:
            x = formations(self.shown(leaf, part), corners[part], pick[part], self.side)
            return siamese(data.normalize(x), u[part], settings.augment)

        def wanted(part: slice) -> Tensor:
            return siamese(self.real.images(rows[part]).to(self.images.dtype), u[part], settings.augment)

        turned = turns(self.images, self.velocity, settings)
        gradient, loss = image_gradients(
            self.net, turned, shown, wanted, settings, pick, self.contrast, apart=bool(key)
        )
        images, velocity = stepped(turned, self.velocity, gradient, settings)
        self.images.copy_(images)
        self.velocity.copy_(velocity)
        self.loss += loss

    def _train(self, x: Tensor, y: Tensor) -> None:
        """A step of the net on real images `[B, C, H, W]` and their labels `[B, K]`."""
        loss = F.cross_entropy(self.net(x.to(self.images.dtype)), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def _renew(self, number: int) -> None:
        """The weights of an outer iteration's net, into the net that is there; nothing is left of the one before."""
        own = list(self.net.parameters())  # there are no buffers: the norm is of each image
        new = torch.cat([parameter.flatten() for parameter in self._built(number).parameters()])
        for held, part in zip(own, sent(new, self.device).split([x.numel() for x in own]), strict=True):
            held.copy_(part.view_as(held))
        restart(self.optimizer)
        self.loss.zero_()

    def _built(self, number: int) -> models.Net:
        """The net of an outer iteration, on the CPU."""
        classes, _, channels, size, _ = self.images.shape
        with seeded(self.device, generator(self.settings.seed, "net", number).initial_seed()):
            net = models.build(self.settings.net, classes=classes, size=size, channels=channels)
        assert isinstance(net, models.Net)
        return net

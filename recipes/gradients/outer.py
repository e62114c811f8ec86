"""One outer iteration of gradient matching: a new net, matched and trained on real images in turn.

    S ← clip(S, 0, 1)
    inner times:  S ← the steps of all classes (`recipes.gradients.matching`), at the gradients under the net
                  net ← SGD on ceil(n_data / batch) batches of real images, augmented

All draws come from (seed, number of the outer iteration) on the CPU, and are on the device before the first step, so
that nothing waits for the device inside, and an iteration needs nothing of those before it but S and v.
"""

from __future__ import annotations

import logging
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub import models
from ddhub.data.dsa import COLUMNS, dsa
from ddhub.errors import TrainingError
from ddhub.protocols.protocol import Protocol
from ddhub.sources.source import Source
from ddhub.training.devices import seeded
from ddhub.training.optimizer import build_optimizer
from recipes.gradients.contrast import Contrast
from recipes.gradients.matching import Matching, formations, image_gradients, stepped, turns
from recipes.run.draws import generator
from recipes.run.teachers import real_data

log = logging.getLogger(__name__)


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
        return torch.stack(collected, dim=1).to(self.data.device)

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
    return torch.rand(shape, generator=generator(*words)).argsort(2)[:, :, :most].to(corners.device)


def siamese(x: Tensor, u: Tensor, ops: tuple[str, ...]) -> Tensor:
    """Normalised images `[k, B, C, H, W]`, augmented; the images of a class by its row of `u` `[k, COLUMNS]`."""
    table = u[:, None].expand(-1, x.shape[1], -1).flatten(0, 1)
    return dsa(x.flatten(0, 1), table, ops, form="idc").unflatten(0, x.shape[:2])


def outer_iteration(
    number: int,
    images: Tensor,
    velocity: Tensor,
    corners: Tensor,
    side: int,
    real: Real,
    settings: Matching,
    contrast: Contrast | None = None,
) -> tuple[Tensor, Tensor]:
    """S and v after it, `[K, n, C, H, W]` each.

    Args:
        number: of the outer iteration, from 0.
        images, velocity: S and v before it.
        corners, side: of the formations, `[K, F, 2]` (`recipes.gradients.matching.formations`).
        real: real images, on the same device.
        settings: settings of the matching.
        contrast: the loss beside it, if any; its norms go on.

    Raises:
        TrainingError: an image that is not a number.
    """
    data, device, first = real.data, images.device, number * settings.inner
    u = torch.rand(settings.inner, len(images), COLUMNS, generator=generator(settings.seed, "siamese", number)).to(
        device
    )
    rows = real.of_classes(first, settings.inner)
    pick = picks(corners, settings.batch_syn, settings.inner, settings.seed, "formations", number)
    bank = (
        picks(corners, contrast.settings.most or corners.shape[1], 1, settings.seed, "bank", number)[0]
        if contrast
        else None
    )
    steps = -(-settings.n_data // data.protocol.batch_size)
    epochs = -(-(first + settings.inner) * steps // data.steps_per_epoch)
    batches = data.batches(settings.seed, epochs=epochs, start=first * steps)
    total, dtype = images.new_zeros(()), images.dtype

    with seeded(device, generator(settings.seed, "net", number).initial_seed()):
        net = models.build(settings.net, classes=len(images), size=images.shape[3], channels=images.shape[2])
        assert isinstance(net, models.Net)
        net.to(device, dtype)
        optimizer = build_optimizer(net, data.protocol)
        images = images.clamp(0, 1)
        for i in range(settings.inner):
            if contrast is not None and bank is not None and i % contrast.settings.every == 0:
                x = data.normalize(formations(images, corners, bank, side))
                contrast.remember(net.features, x, bank, corners.shape[1])

            def shown(leaf: Tensor, part: slice, i: int = i) -> Tensor:
                x = formations(leaf, corners[part], pick[i, part], side)
                return siamese(data.normalize(x), u[i, part], settings.augment)

            def wanted(part: slice, i: int = i) -> Tensor:
                return siamese(real.images(rows[i, part]).to(dtype), u[i, part], settings.augment)

            turned = turns(images, velocity, settings)
            gradient, loss = image_gradients(net, turned, shown, wanted, settings, i, pick[i], contrast)
            images, velocity = stepped(turned, velocity, gradient, settings)
            total += loss
            for x, y in islice(batches, steps):
                _train(net, optimizer, F.cross_entropy(net(x.to(dtype)), y))
    if not torch.isfinite(images).all():
        raise TrainingError(f"an image is not a number after outer iteration {number}; lower --lr")
    weight = f", lambda {float(contrast.weight):.3g}" if contrast else ""
    log.info(
        "outer iteration %d: matching loss %.4g a class%s", number, float(total) / settings.inner / len(images), weight
    )
    return images, velocity


def _train(net: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

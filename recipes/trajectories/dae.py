"""DAE, discriminative area enhancement: pixels that a net sees the class in get larger gradients (EDF, section 3.3).

    A     Grad-CAM of the image's class, least to 0 and greatest to 1, then enlarged bilinearly
    F     1 where A < τ, β + A where A ≥ τ; τ is the mean of the image's A, or one number for all images
    ∂L/∂X ← ∂L/∂X ⊙ F

The paper says Grad-CAM, the official code takes Smooth Grad-CAM++ with 4 noises of deviation 0.3; both are there. The
class of an image is the likeliest of its current label. A net of the 1,000 ImageNet classes is asked for the same class
under its number there; the official code asks it for numbers 0 to 9, which are other classes (`official`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddhub import models
from ddhub.data.transfer import sent
from ddhub.errors import UsageError
from ddhub.measures.cam import grad_cam, smooth_grad_cam
from ddhub.sources.known import KNOWN
from ddhub.sources.source import Source
from recipes.run.draws import generator
from recipes.run.teachers import check_of_imagenet

CAMS = ("grad-cam", "smooth-grad-cam++", "none")
CAM_CLASSES = ("subset", "official")
_PASSES, _SIGMA = 4, 0.3  # of Smooth Grad-CAM++
_TOGETHER = 256  # images


@dataclass(frozen=True, kw_only=True)
class Enhancing:
    """How pixels are weighted.

    Attributes:
        seed: of the noise.
        cam: of `CAMS`, without `none`.
        every: iterations after which the maps are made anew (K).
        beta: β.
        threshold: τ; 0 is the mean of each map.
    """

    seed: int
    cam: str
    every: int
    beta: float
    threshold: float

    def due(self, iteration: int) -> bool:
        """Whether the weights are made anew before an iteration."""
        return iteration % self.every == 0


def activation(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """A `[B, H, W]` of maps `[B, h, w]`: least to 0 and greatest to 1, then enlarged to `size` bilinearly."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    shares = (maps - low) / (high - low + 1e-8)
    return F.interpolate(shares[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def weights(activation: Tensor, beta: float, threshold: float = 0.0) -> Tensor:
    """F `[B, 1, H, W]` of A `[B, H, W]`; a threshold of 0 is the mean of each map.

    >>> weights(torch.tensor([[[0.0, 0.2], [0.6, 1.0]]]), beta=1.0).squeeze().tolist()
    [[1.0, 1.0], [1.600000023841858, 2.0]]
    """
    least = activation.mean((1, 2), keepdim=True) if threshold == 0 else threshold
    return torch.where(activation >= least, activation + beta, 1.0)[:, None]


@dataclass(frozen=True, kw_only=True)
class PixelWeights:
    """A net that says where pixels matter.

    Attributes:
        net: returns logits; frozen and in eval mode.
        how: the settings.
        numbers: the output of the net for each class, `[K]`; None if its classes are the data's.
    """

    net: nn.Module
    settings: Enhancing
    numbers: Tensor | None = None

    def weights(self, images: Tensor, classes: Tensor, iteration: int) -> Tensor:
        """F `[n, 1, H, W]` of normalised images `[n, C, H, W]`, each for its class of `[n]`, before an iteration."""
        outputs = classes if self.numbers is None else sent(self.numbers, classes.device)[classes]
        draw, parts = generator(self.settings.seed, "cam", iteration), []
        for x, y in zip(images.split(_TOGETHER), outputs.split(_TOGETHER), strict=True):
            if self.settings.cam == "grad-cam":
                maps = grad_cam(self.net, x, y)
            else:
                noise = _SIGMA * torch.randn(_PASSES, *x.shape, generator=draw)
                maps = smooth_grad_cam(self.net, x, y, sent(noise, x.device).to(x.dtype))
            size = (x.shape[2], x.shape[3])
            parts.append(weights(activation(maps, size), self.settings.beta, self.settings.threshold))
        return torch.cat(parts)


def imagenet_numbers(source: Source) -> Tensor:
    """The number among the 1,000 classes of ImageNet-1k of each class of a source, `[K]`.

    Raises:
        UsageError: a source of other classes.
    """
    numbers = KNOWN[source.name].imagenet if source.name in KNOWN else ()
    if not numbers:
        raise UsageError(
            f"the classes of {source.name} are none of ImageNet's, which are all that a pretrained net knows; use "
            "--cam-net expert, or a net to train on the data, such as resnet18"
        )
    return torch.tensor(numbers)


def check_net(name: str, source: Source) -> None:
    """UsageError unless the net that maps are to be of fits the images and has a CAM."""
    shape, outputs = source.images.shape, len(source.classes)
    if name.startswith("timm:"):
        outputs = 1000
        imagenet_numbers(source)
    with torch.random.fork_rng(devices=[]):
        net = models.build(name, classes=outputs, size=shape[2], channels=shape[1]).eval()
    if outputs == 1000:
        check_of_imagenet(source, name)
    grad_cam(net, torch.zeros(1, *shape[1:]), torch.zeros(1, dtype=torch.long))

"""A codec in the loop: pixels are learned through what storing them makes of them, by a straight-through estimator.

    every k steps     residual = decoded - pixels; decoded: the pixels as 8 bits, coded and decoded
    every step        takes the gradient at pixels + residual, the residual held constant, as that of the pixels

So the gradient passes the codec as if that were not there (Bengio et al., arXiv 1308.3432), and what is learned is what
a student sees. Without it a lossy encoding comes when all is learned, and no gradient knows of it. This is the
project's own and in no method's paper: `InLoop.deviations` says so on the card.

The images become bytes, and pictures of the same images of a class, as `Run.coded` makes them at the end. The encoding
is that of `--encoding` as it is given, also where `--bytes` lowers its quality at the end.

    loop = in_loop(cfg, run, source)           # --codec-every 10 --encoding avif:30; `OFF` for 0
    if loop.due(step):
        residual.copy_(loop.residual(pixels))  # outside of what is captured: the codec works on the host
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ddhub.artifact.codec import check_codec, encode, with_sheet
from ddhub.artifact.encoding import CHROMA, name_of
from ddhub.artifact.quantise import eight_bits
from ddhub.data.decode import Identity
from ddhub.data.transfer import sent
from ddhub.errors import UsageError
from ddhub.sources.source import Source
from recipes.run.draws import quantised
from recipes.run.options import option
from recipes.run.run import Run


def codec_every() -> Any:
    """The option of a Config, `codec_every`."""
    return option(0, "steps between codings of pixels; 0: never", low=0)


@dataclass(frozen=True, kw_only=True)
class InLoop:
    """How a codec is in the loop; off, if nothing is said.

    Attributes:
        every: steps from one coding to the next, k; 0 is never.
        encoding: with the images of a picture (`ddhub.artifact.codec.with_sheet`).
        mean, std: of each channel: pixels are `(x - mean) / std` of images x in unit scale.
        spread: whether bytes are spread over the range of a channel (`ddhub.artifact.quantise`), and not over [0, 1].
    """

    every: int = 0
    encoding: Mapping[str, Any] = field(default_factory=dict)
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    spread: bool = False

    def due(self, step: int) -> bool:
        """Whether the pixels are coded before a step, from 0."""
        return self.every > 0 and step % self.every == 0

    def residual(self, pixels: Tensor) -> Tensor:
        """decoded - pixels, of pixels `[K, n, C, H, W]`, n images of each of K classes; waits for the device.

        Where pixels are no numbers it is none either, or 0: that they are not is said where they are read.
        """
        flat = pixels.detach().flatten(0, 1)
        bounds: Sequence[tuple[float, float]] = ((0.0, 1.0),) * flat.shape[1]
        if self.spread:
            flat = flat.cpu()
            if not bool(flat.isfinite().all()):
                return torch.zeros_like(pixels)
            stored, bounds, _ = eight_bits(flat, (self.mean, self.std))
        else:
            stored = quantised(flat, *self._scale(flat.device))
        labels = torch.arange(len(pixels)).repeat_interleave(pixels.shape[1])
        decoded = encode(stored, labels, self.encoding).images
        mean, std = self._scale(decoded.device)
        seen = (Identity(decoded, bounds)(torch.arange(len(decoded))) - mean) / std  # as a student's data set does
        return sent(seen.view(pixels.shape).to(pixels.dtype), pixels.device) - pixels.detach()

    @property
    def settings(self) -> dict[str, Any]:
        """What stages depend on that look at the pixels between the steps; nothing if it is off."""
        return {"codec_every": self.every, "encoding": name_of(self.encoding)} if self.every else {}

    @property
    def deviations(self) -> list[str]:
        """What a card says of it."""
        if not self.every:
            return []
        steps = "every step" if self.every == 1 else f"every {self.every} steps"
        return [
            f"The codec is in the loop, which is the project's own and not the paper's: {steps} the images are coded "
            f"as {name_of(self.encoding)} and decoded, and gradients are those at the decoded pixels, the difference "
            "held constant in between (straight-through estimator)."
        ]

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (sent(torch.tensor(x).view(-1, 1, 1), device) for x in (self.mean, self.std))
        return mean, std


OFF = InLoop()


def require_lossy(cfg: Any, encoding: Mapping[str, Any]) -> None:
    """UsageError for a codec in the loop that loses nothing. Of any Config: most have no such option."""
    every = getattr(cfg, "codec_every", 0)
    if every and encoding["codec"] not in CHROMA:
        raise UsageError(
            f"codec_every is {every}, and {encoding['codec']} loses nothing; give --encoding webp:30 or avif:50, or "
            "codec_every 0"
        )


def in_loop(
    cfg: Any,
    run: Run,
    source: Source,
    *,
    normalised: bool = True,
    spread: bool = False,
    units: Sequence[range] = (),
) -> InLoop:
    """The codec in the loop of a run whose Config has `codec_every`.

    Args:
        cfg: settings; it stores `ipc` images of each class.
        run: has the encoding.
        source: has classes, sizes, and mean and std of the pixels.
        normalised: false are pixels in unit scale.
        spread: as of `InLoop`.
        units: images of a class that are learned side by side; if not given, all are.

    Raises:
        UsageError: a lossless encoding, one that this Pillow lacks, or pictures that the images of a class do not fill
            or that hold images of several units, which never meet.
    """
    if not cfg.codec_every:
        return OFF
    require_lossy(cfg, run.encoding)
    check_codec(run.encoding["codec"])
    channels, *sides = source.images.shape[1:]
    labels = torch.arange(len(source.classes)).repeat_interleave(cfg.ipc)
    encoding = with_sheet(run.encoding, labels, max(sides))
    together = math.gcd(*map(len, units)) or cfg.ipc
    if together % encoding["sheet"]:
        raise UsageError(
            f"a picture has {encoding['sheet']} images of a class, and {together} are optimised side by side; give "
            f"--encoding {name_of({**encoding, 'sheet': together})}, or codec_every 0"
        )
    mean, std = (source.mean, source.std) if normalised else ((0.0,) * channels, (1.0,) * channels)
    return InLoop(every=cfg.codec_every, encoding=encoding, mean=mean, std=std, spread=spread)

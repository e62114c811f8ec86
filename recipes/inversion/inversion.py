"""Model inversion: images that a frozen teacher recognises and whose BatchNorm statistics are those it was trained on.

    L = CE(θ(A(x)), y) + β · (g · R_1 + Σ_{l≥2} R_l) + w_tv · TV + w_2 · ‖x‖₂      for each set of images on its own
    A = resized crop -> flip -> circular shift                                    one draw for each set and step
    x ← x - M ⊙ η_t · Adam(∇L), η_t = lr · (1 + cos(π · t / T)) / 2, betas (0.5, 0.9)    clamped where x is an image

R_l is in `inversion/batchnorm.py`. SRe2L (arXiv 2306.13092) optimises the images of a set, INFER (arXiv 2408.06927) one
compensator that is added to real images, both with M = 1; NRR-DD (arXiv 2503.18267) optimises parts of real images.
Sets are independent of one another: each has its own draws, and the losses of the sets that are optimised together add
up, so that the result is that of optimising them one at a time.

M multiplies the step, not the gradient: Adam divides by the gradient's size, so that a gradient times M would give
values of a small M the same steps as all others.

A whole step is captured where steps are (`ddhub.training.capture`): its draws are looked up on the device by its
number, and what is optimised and the optimizer's state stay in place.

    view = draws(how, [(seed, k) for k in sets], size=(32, 32), device=x.device)
    x = optimise(net, x, lambda x: x, target, how, view, precision="fp32")
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ddhub.data.geometry import WINDOW_COLUMNS
from ddhub.data.transfer import sent
from ddhub.data.views import flip, resized_crop, windows
from ddhub.errors import TrainingError, UsageError
from ddhub.training.capture import Captured
from ddhub.training.optimizer import Optimizer, set_rate
from recipes.inversion.batchnorm import gaps
from recipes.run.draws import generator
from recipes.run.straight_through import OFF, InLoop

log = logging.getLogger(__name__)

_READ = 250  # steps after which the loss is read for the log, as reading waits for a GPU


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """How sets are optimised.

    Attributes:
        steps: T.
        lr: the rate at the start.
        beta: weight of the BatchNorm term.
        first_bn: factor g of the first BatchNorm layer.
        ahead: largest circular shift down and right, pixels.
        back: largest circular shift up and left, pixels.
        crop_scale: smallest area of a random resized crop, as a share; 0 is none.
        flip: whether a set is mirrored in half of the steps.
        tv: weight of the total variation.
        l2: weight of the images' norm.
        optimizer: adam, or sgd, whose direction is the gradient itself.
    """

    steps: int
    lr: float
    beta: float
    first_bn: float
    ahead: int
    back: int = 0
    crop_scale: float = 0.0
    flip: bool = False
    tv: float = 0.0
    l2: float = 0.0
    optimizer: str = "adam"


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The augmentation of every step: `shift` `[T, K, 2]`, `window` `[T, K, 4]` and `flip` `[T, K]`, if there are."""

    shift: Tensor
    window: Tensor | None
    flip: Tensor | None

    def of(self, step: Tensor) -> Draws:
        """Those of one step, whose number `[1]` is on their device: T is 1."""
        return Draws(
            shift=self.shift.index_select(0, step),
            window=None if self.window is None else self.window.index_select(0, step),
            flip=None if self.flip is None else self.flip.index_select(0, step),
        )


def draws(
    settings: Inversion, words: Sequence[Sequence[object]], *, size: tuple[int, int], device: torch.device
) -> Draws:
    """The draws of all steps for sets that are named by `words` (seed, ...): shift, crop and flip are streams apart.

    Args:
        settings: ranges and number of steps.
        words: one name a set; its draws depend on nothing else.
        size: (H, W) of an image.
        device: where the sets are.
    """

    def stream(kind: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return sent(torch.stack([draw(generator(seed, kind, *rest)) for seed, *rest in words], dim=1), device)

    def window(source: torch.Generator) -> Tensor:
        u = torch.rand(settings.steps, WINDOW_COLUMNS, generator=source, dtype=torch.float64)
        return windows(u, size, settings.crop_scale)

    return Draws(
        shift=stream(
            "shift", lambda g: torch.randint(-settings.back, settings.ahead + 1, (settings.steps, 2), generator=g)
        ),
        window=stream("crop", window) if settings.crop_scale else None,
        flip=stream("flip", lambda g: torch.rand(settings.steps, generator=g) < 0.5) if settings.flip else None,
    )


def roll(x: Tensor, shift: Tensor) -> Tensor:
    """Shift sets `[K, B, channels, H, W]` circularly by `shift` `[K, 2]` (down, right) pixels, one shift a set."""
    sets, _, _, height, width = x.shape
    rows = (torch.arange(height, device=x.device) - shift[:, :1]) % height
    columns = (torch.arange(width, device=x.device) - shift[:, 1:]) % width
    source = (rows[:, :, None] * width + columns[:, None, :]).view(sets, 1, 1, -1)
    return x.flatten(-2).gather(-1, source.expand(*x.shape[:3], -1)).view_as(x)


def augment(x: Tensor, view: Draws, step: int) -> Tensor:
    """Sets `[K, B, channels, H, W]` as the teacher sees them in a step: resized crop, flip, circular shift."""
    # All images of a set share their draw, so that the set is one picture of B · channels planes.
    if view.window is not None:
        x = resized_crop(x.flatten(1, 2), view.window[step]).view_as(x)
    if view.flip is not None:
        x = flip(x.flatten(1, 2), view.flip[step]).view_as(x)
    return roll(x, view.shift[step])


def answers(net: nn.Module, batch: Tensor, first_bn: float) -> tuple[Tensor, Tensor]:
    """The logits `[K · B, C]` and the BatchNorm term `g · R_1 + Σ_{l≥2} R_l`, `[K]`, of sets.

    Args:
        net: a frozen teacher in eval mode.
        batch: normalised sets `[K, B, channels, H, W]`; the statistics are those of each set on its own.
        first_bn: factor g of the first BatchNorm layer.

    Raises:
        UsageError: a teacher without BatchNorm layers.
    """
    with gaps(net, len(batch)) as terms:
        output = net(batch.flatten(0, 1).contiguous(memory_format=torch.channels_last))
    if not terms:
        raise UsageError("a teacher without BatchNorm layers has no statistics to match; use one with them")
    rest = torch.stack(terms[1:]).sum(0) if terms[1:] else 0
    return output if output.dtype == torch.float64 else output.float(), first_bn * terms[0] + rest


def objective(net: nn.Module, batch: Tensor, target: Tensor, beta: float, first_bn: float) -> Tensor:
    """The loss `[K]` of each set: cross-entropy plus BatchNorm matching.

    Args:
        net, batch, first_bn: as for `answers`; the sets are augmented.
        target: classes `[B]` of the images of a set.
        beta: weight of the BatchNorm term.

    Raises:
        UsageError: a teacher without BatchNorm layers.
    """
    sets, count = batch.shape[:2]
    output, gap = answers(net, batch, first_bn)
    ce = F.cross_entropy(output, target.repeat(sets), reduction="none").view(sets, count).mean(1)
    return ce + beta * gap


def variation(batch: Tensor) -> Tensor:
    """TV `[K]` of sets `[K, B, channels, H, W]`: norms of the differences of neighbours in four directions, summed."""
    pairs = (
        (batch[..., :, :-1], batch[..., :, 1:]),
        (batch[..., :-1, :], batch[..., 1:, :]),
        (batch[..., 1:, :-1], batch[..., :-1, 1:]),
        (batch[..., :-1, :-1], batch[..., 1:, 1:]),
    )
    return torch.stack([torch.linalg.vector_norm((a - b).flatten(1), dim=1) for a, b in pairs]).sum(0)


def optimise(
    net: nn.Module,
    x: Tensor,
    images: Callable[[Tensor], Tensor],
    target: Tensor,
    settings: Inversion,
    view: Draws,
    *,
    precision: str,
    bounds: tuple[Tensor, Tensor] | None = None,
    mask: Callable[[int, Tensor], Tensor] | None = None,
    loop: InLoop = OFF,
) -> Tensor:
    """The variables `[K, ...]` of K sets after all steps, from `x`.

    Args:
        net: the teacher, frozen, in eval mode.
        x: where the variables start; left as it is.
        images: makes the sets `[K, B, channels, H, W]` of the variables, in a captured step: the same each time.
        target: as for `objective`.
        settings: steps, rate and weights.
        view: the augmentation of every step.
        precision: bf16 or fp32.
        bounds: lowest and highest values, to which the variables are clamped after every step.
        mask: M in [0, 1] of a step, from its number and the variables before it; where it is 0 they do not change. It
            is called before the step, outside of what is captured.
        loop: a codec in the loop of variables that are images `[K, B, channels, H, W]`: image k of B classes.

    Raises:
        TrainingError: a variable that is not a number.
        UsageError: a teacher without BatchNorm layers.
    """
    # Fused optimizers go through memory: a variable and its gradient have to lie there in one order.
    x = x.clone(memory_format=torch.contiguous_format).requires_grad_()
    residual = torch.zeros_like(x, requires_grad=False) if loop.every else None

    def work(number: Tensor, share: Tensor | None = None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            shown = images(x) if residual is None else images(x) + residual
            batch = augment(shown, view.of(number), 0)
            loss = objective(net, batch, target, settings.beta, settings.first_bn)
            if settings.tv:
                loss = loss + settings.tv * variation(batch)
            if settings.l2:
                loss = loss + settings.l2 * torch.linalg.vector_norm(batch.flatten(2), dim=2).mean(1)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        x.grad = gradient.contiguous()
        before = None if share is None else x.detach().clone()
        solver.step()
        with torch.no_grad():
            if share is not None and before is not None:
                x.copy_(torch.lerp(before, x, share))  # lerp gives its ends exactly
            if bounds is not None:
                x.clamp_(*bounds)
        return loss.detach()

    step = Captured(work, x.device, "a step of the inversion")
    solver = _solver(x, settings, capturable=step.active)
    numbers = torch.arange(settings.steps, device=x.device).split(1)
    for k in tqdm(range(settings.steps), unit="step", leave=False, disable=None):
        set_rate(solver, settings.lr * (1 + math.cos(math.pi * k / settings.steps)) / 2)
        if residual is not None and loop.due(k):
            residual.copy_(loop.residual(x.transpose(0, 1)).transpose(0, 1))
        loss = step(numbers[k]) if mask is None else step(numbers[k], mask(k, x.detach()))
        if k % _READ == 0 or k == settings.steps - 1:
            log.info("step %d of %d: loss %.4g", k + 1, settings.steps, float(loss.mean()))
    if not bool(x.isfinite().all()):
        raise TrainingError(f"what was optimised is not finite (lr {settings.lr:g}, {precision}); lower --lr")
    return x.detach()


def _solver(x: Tensor, settings: Inversion, *, capturable: bool) -> Optimizer:
    """The optimizer of the variables."""
    how: dict[str, Any] = {"betas": (0.5, 0.9), "eps": 1e-8}
    if settings.optimizer == "sgd":
        how = {"momentum": 0.0, "nesterov": False}
    return Optimizer(
        settings.optimizer, [{"params": [x], "lr": settings.lr, "weight_decay": 0.0, **how}], capturable=capturable
    )

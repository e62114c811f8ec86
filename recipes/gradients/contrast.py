"""The category-wise feature contrastive loss: features of a class's formations near their own mean, far from others'.

    bank     mu_c = mean of phi(x), the features of the class's formations x as they are, under the matching net
    cosine   z_i = norm(phi(x_i) - mean mu), p_c = norm(mu_c - mean mu), x_i an augmented formation of class c
             L_c = -mean_i log softmax(z_i · p / tau)[c]
    dot      the same of phi(x_i) · mu, neither centred nor normalised, tau = 1
    weight   balanced: lambda = rho · EMA ‖∂L_g/∂S_c‖ / EMA ‖∂L_c/∂S_c‖, L_g the matching loss, norms the mean over the
             classes, measured in every 10th inner iteration, decay 0.99; literal: lambda = 1

The bank is a constant, and x_i is left out of the mean of its own class. Of UDD's loss (arXiv 2408.16268) no more is
published than that it contrasts features by category and is added to L_g. With normalised features and weight 1 its
gradient is 1 % of the other's or less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("none", "cosine", "dot")
WEIGHTS = ("balanced", "literal")
_PERIOD, _DECAY = 10, 0.99  # of the norms
_BATCH = 500  # images a forward pass


@dataclass(frozen=True, kw_only=True)
class Contrasting:
    """How the loss is taken.

    Attributes:
        kind: cosine or dot.
        weight: balanced or literal.
        tau: temperature of cosine.
        rho: of balanced.
        every: inner iterations after which the bank is made again.
        most: formations of a class in the bank; 0 is all of them.
    """

    kind: str
    weight: str
    tau: float
    rho: float
    every: int
    most: int


class Contrast:
    """The loss under one net after the other: the bank of the present one, and the running norms.

    Both are changed in place, so that captured steps find them (`ddhub.training.capture`).

    Args:
        settings: kind, weight and bank.
        norms: `[2]`, running norms of the gradients of L_g and L_c; zeros before the first measurement.
    """

    def __init__(self, settings: Contrasting, norms: Tensor) -> None:
        self.settings, self.norms = settings, norms
        self.mean = self.features = self.inside = norms.new_empty(0)  # the bank, as large as `remember` finds it to be

    @torch.no_grad()
    def remember(self, net: nn.Module, x: Tensor, pick: Tensor, count: int) -> None:
        """Make the bank from normalised formations `[K, M, C, H, W]`, number `pick` `[K, M]` of the `count` a class."""
        parts = [net(part) for part in x.flatten(0, 1).split(_BATCH)]
        features = torch.cat(parts).unflatten(0, pick.shape)
        shape = (len(x), count, features.shape[2])
        if self.features.shape != shape:
            self.mean, self.features, self.inside = (features.new_empty(s) for s in (shape[::2], shape, shape[:2]))
        self.mean.copy_(features.mean(1))
        self.features.zero_().scatter_(1, pick[:, :, None].expand_as(features), features)
        self.inside.zero_().scatter_(1, pick, 1)
        self.size = pick.shape[1]

    def loss(self, features: Tensor, part: slice, pick: Tensor) -> Tensor:
        """The sum of L_c over the classes `part`: features `[k, P, D]` of formations number `pick` `[k, P]`."""
        label = torch.arange(len(self.mean), device=features.device)[part]
        positive = self.mean[part, None].expand_as(features)
        if self.size > 1:
            mine = self.features[part].gather(1, pick[:, :, None].expand_as(features))
            positive = (self.size * positive - mine) / (self.size - self.inside[part].gather(1, pick))[:, :, None]
        keys, tau = self.mean, 1.0
        if self.settings.kind == "cosine":
            centre, tau = self.mean.mean(0), self.settings.tau
            features, positive, keys = (F.normalize(v - centre, dim=-1) for v in (features, positive, keys))
        target = label[:, None, None].expand(*pick.shape, 1)
        near = (features @ keys.mT).scatter(2, target, (features * positive).sum(2, keepdim=True)) / tau
        return -F.log_softmax(near, dim=2).gather(2, target).mean(1).sum()

    def measures(self, iteration: int) -> bool:
        """Whether this inner iteration's gradients are asked for one by one."""
        return self.settings.weight == "balanced" and iteration % _PERIOD == 0

    @property
    def weight(self) -> Tensor:
        """lambda, a scalar on the device."""
        if self.settings.weight == "literal":
            return torch.ones_like(self.norms[0])
        return self.settings.rho * self.norms[0] / self.norms[1].clamp(min=torch.finfo(self.norms.dtype).tiny)

    def joined(self, matching: Tensor, contrast: Tensor) -> Tensor:
        """∂L_g/∂S + lambda · ∂L_c/∂S, `[K, ...]` each, after their norms are measured."""
        now = torch.stack([part.flatten(1).norm(dim=1).mean() for part in (matching, contrast)])
        self.norms.copy_(torch.where(self.norms > 0, _DECAY * self.norms + (1 - _DECAY) * now, now))
        return matching + self.weight * contrast

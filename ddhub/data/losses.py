"""What label schemes are made of: a divergence of logits, distances to classes, and labels rebuilt from a few numbers.

    distillation_loss(output, target, T)              KL(softmax(target / T) ‖ softmax(output / T))
    distances(logits, own, partner, weight, …)        -log p of the two classes of a mixed image, [B, 2]
    spread(classes, given, count)                     log of a label whose other classes share the rest, [B, count]

All are functions of rows: a batch of B.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST = 1e-12  # of a class: its logarithm stays finite


def distillation_loss(output: Tensor, target: Tensor, temperature: float, times_t2: bool = False) -> Tensor:
    """`KL(softmax(target/T) ‖ softmax(output/T))`, mean over the batch, logits `[B, C]`, times T² if asked for."""
    divergence = F.kl_div(
        F.log_softmax(output.float() / temperature, dim=1),
        F.log_softmax(target.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2 if times_t2 else divergence


def distances(
    logits: Tensor, first: Tensor, partner: Tensor, weight: Tensor, reading: str, temperature: float
) -> Tensor:
    """d_org and d_aug of NRR-DD (arXiv 2503.18267), nats, `[B, 2]`: cross-entropies to one-hot classes.

        p = softmax(logits / temperature)
        mix      -log p[y],       -log p[y']                          both of the mixed image
        view     -log p_view[y],  -log p[y']                          the first of the image before mixing
        label    -log p[y],       -λ log p[y] - (1 - λ) log p[y']     the second to the mixed label

    Args:
        logits: `[B, C]` of the mixed images; for `view` `[2B, C]`, those of the same images unmixed behind them.
        first, partner: the classes `[B]` of the image and of what is mixed in, y and y'.
        weight: share of the image itself, `[B]`, λ.
        reading: mix, view or label.
        temperature: T.
    """
    logits = logits.float() / temperature
    mixed, alone = logits.chunk(2) if reading == "view" else (logits, logits)
    org = F.cross_entropy(alone, first, reduction="none")
    aug = F.cross_entropy(mixed, partner, reduction="none")
    if reading == "label":
        aug = weight * org + (1 - weight) * aug
    return torch.stack([org, aug], dim=1)


def spread(classes: Tensor, given: Tensor, count: int) -> Tensor:
    """Log-probabilities `[B, count]`: `classes` `[B, K]` have the `given` ones, all others share the rest evenly.

    A class that is named twice has the same probability both times, and counts once.
    """
    label = given.new_zeros(len(given), count).scatter_(1, classes, given)
    named = torch.zeros_like(label, dtype=torch.bool).scatter_(1, classes, True)
    others = (~named).sum(dim=1, keepdim=True).clamp(min=1)
    rest = (1 - label.sum(dim=1, keepdim=True)) / others
    return torch.where(named, label, rest).clamp(min=_LEAST).log()

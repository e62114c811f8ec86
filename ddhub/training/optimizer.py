"""The optimizer and the learning rate of each epoch, as a Protocol asks for them.

    optimizer = build_optimizer(net, protocol("rded"))     # AdamW, biases and norms not decayed
    learning_rate(protocol("rded"), epoch=0)               # 0.001

The rate is set once an epoch, so that a resumed run needs no state of a scheduler.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ddhub.protocols.protocol import Protocol


def build_optimizer(model: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters; those of fewer than 2 dimensions are decayed only if the protocol says so."""
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if not protocol.decay_biases:
        small = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        large = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        groups = [{"params": large}, {"params": small, "weight_decay": 0.0}]
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=protocol.lr, weight_decay=protocol.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=protocol.lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        nesterov=protocol.nesterov,
    )


def learning_rate(protocol: Protocol, epoch: float, learned: float | None = None) -> float:
    """The rate of every step of an epoch e of E (from 0), in formulas `lr` being the learned one where there is one.

    Of `one-cycle` it is the rate of a single step, e being a fraction.

        cosine        lr · (1 + cos(pi · e / E)) / 2
          with warmup lr · (0.01 + 0.99 · e / w) for e < w, then lr · (1 + cos(pi · (e - w) / (E - w))) / 2
        half-cosine   lr · (1 + cos(pi · e / 2E)) / 2
        one-cycle     lr · e / w for e < w, then lr · (E - e) / (E - w)
        steps         lr · decay^(milestones that e has reached)

    Args:
        learned: the step size that was learned with the images; used only if the protocol asks for it.
    """
    lr = learned if protocol.learned_lr and learned is not None else protocol.lr
    if protocol.schedule == "steps":
        return lr * float(protocol.decay) ** sum(epoch >= milestone for milestone in protocol.milestones)
    if protocol.schedule == "one-cycle":
        rise, fall = epoch / max(protocol.warmup, 1e-9), (protocol.epochs - epoch) / (protocol.epochs - protocol.warmup)
        return lr * min(rise, fall)
    if epoch < protocol.warmup:
        return lr * (0.01 + 0.99 * epoch / protocol.warmup)
    length = (protocol.epochs - protocol.warmup) * (2 if protocol.schedule == "half-cosine" else 1)
    return lr * (1 + math.cos(math.pi * (epoch - protocol.warmup) / length)) / 2

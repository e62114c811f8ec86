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


def build_optimizer(model: nn.Module, protocol: Protocol, *, capturable: bool = False) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters; those of fewer than 2 dimensions are decayed only if the protocol says so.

    A capturable one keeps its rate in a tensor on the device, so that a captured step sees it change.
    """
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if not protocol.decay_biases:
        small = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        large = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        groups = [{"params": large}, {"params": small, "weight_decay": 0.0}]
    settings: dict[str, Any] = {"lr": protocol.lr, "weight_decay": protocol.weight_decay}
    if capturable:
        settings |= {"lr": torch.tensor(protocol.lr, device=next(model.parameters()).device), "fused": True}
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(groups, capturable=capturable, **settings)
    return torch.optim.SGD(groups, momentum=protocol.momentum, nesterov=protocol.nesterov, **settings)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, a number or a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restart(optimizer: torch.optim.Optimizer) -> None:
    """Forget what was learned of gradients, in place: as a new optimizer, for a captured step too."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()


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

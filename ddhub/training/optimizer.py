"""The optimizer and the learning rate of each epoch, as a Protocol asks for them.

    optimizer = build_optimizer(net, protocol("rded"))     # AdamW, biases and norms not decayed
    learning_rate(protocol("rded"), epoch=0)               # 0.001

The rate is set once an epoch, so that a resumed run needs no state of a scheduler. `Optimizer` is Adam, AdamW or SGD by
torch's own functions, without its classes: the first of those in a process imports torch's compiler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from ddhub.protocols.protocol import Protocol


class Optimizer:
    """Adam, AdamW or SGD, to the bit as `torch.optim` has them, and 2 s of CPU sooner in a process that has none yet.

    Args:
        kind: `adam`, `adamw` or `sgd`.
        groups: `params`, `lr` and `weight_decay` of each, and `betas` and `eps`, or `momentum` and `nesterov`.
        capturable: whether steps may be recorded: a rate and a count of steps on the device, and fused kernels.
    """

    def __init__(self, kind: str, groups: Sequence[dict[str, Any]], *, capturable: bool = False) -> None:
        self.kind, self.capturable = kind, capturable
        self.param_groups = [{**group, "params": list(group["params"])} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        if capturable:
            for group in self.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            grads = [parameter.grad for parameter in params]
            (self._sgd if self.kind == "sgd" else self._adam)(params, grads, group)

    def _sgd(self, params: list[Tensor], grads: list[Tensor], group: Mapping[str, Any]) -> None:
        moved = [self.state.get(x, {}).get("momentum_buffer") for x in params]
        keys = ("lr", "weight_decay", "momentum", "nesterov")
        settings = {key: group[key] for key in keys}
        sgd(params, grads, moved, fused=self.capturable or None, dampening=0, maximize=False, **settings)
        if group["momentum"]:
            self.state |= {x: {"momentum_buffer": y} for x, y in zip(params, moved, strict=True) if y is not None}

    def _adam(self, params: list[Tensor], grads: list[Tensor], group: Mapping[str, Any]) -> None:
        for x in params:
            if x not in self.state:
                count = torch.zeros((), dtype=torch.float32, device=x.device if self.capturable else "cpu")
                self.state[x] = {"step": count, "exp_avg": torch.zeros_like(x), "exp_avg_sq": torch.zeros_like(x)}
        steps, means, squares = ([self.state[x][key] for x in params] for key in ("step", "exp_avg", "exp_avg_sq"))
        (adamw if self.kind == "adamw" else adam)(
            params,
            grads,
            means,
            squares,
            [],
            steps,
            fused=self.capturable or None,
            capturable=self.capturable,
            amsgrad=False,
            maximize=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            **{key: group[key] for key in ("lr", "weight_decay", "eps")},
        )

    def state_dict(self) -> dict[str, dict[int, dict[str, Tensor]]]:
        """The state of every parameter by its number, as `torch.optim` has it, without rates and settings."""
        return {"state": {number: self.state[x] for number, x in enumerate(self._parameters()) if x in self.state}}

    def load_state_dict(self, record: Mapping[str, Mapping[int, Mapping[str, Tensor]]]) -> None:
        """Go on from what `state_dict` returned, on this one's devices."""
        parameters = self._parameters()
        for number, saved in record["state"].items():
            x = parameters[number]
            counted = x.device if self.capturable else torch.device("cpu")
            self.state[x] = {key: value.to(counted if key == "step" else x.device) for key, value in saved.items()}

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


def build_optimizer(model: nn.Module, protocol: Protocol, *, capturable: bool = False) -> Optimizer:
    """AdamW or SGD over all parameters; those of fewer than 2 dimensions are decayed only if the protocol says so.

    A capturable one keeps its rate in a tensor on the device, so that a captured step sees it change.
    """
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if not protocol.decay_biases:
        small = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        large = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        groups = [{"params": large}, {"params": small, "weight_decay": 0.0}]
    settings: dict[str, Any] = {"lr": protocol.lr, "weight_decay": protocol.weight_decay}
    if protocol.optimizer == "adamw":
        settings |= {"betas": (0.9, 0.999), "eps": 1e-8}
    else:
        settings |= {"momentum": protocol.momentum, "nesterov": protocol.nesterov}
    return Optimizer(protocol.optimizer, [{**settings, **group} for group in groups], capturable=capturable)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of every group, a number or a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restart(optimizer: Optimizer) -> None:
    """Forget what was learned of gradients, in place: as a new optimizer, for a captured step too."""
    for state in optimizer.state.values():
        for value in state.values():
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

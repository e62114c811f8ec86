"""What a net costs: the operations and kernels of its passes, counted on the meta device, where nothing is computed.

    cost("convnet3", classes=10, size=32).operations        # 101,490,688: a forward pass of one image

Operations are those of convolutions and linear layers, exact; a multiplication with an addition counts as two, as in
data sheets. Forward and backward together take three times those of forward. Kernels are operations of torch that make
new numbers: views and counters are none, and what a device does in several kernels counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ddhub import models

# Kernels beside those of the net, as counted in the methods' own steps: a step of training (view, loss, optimizer;
# counted are 100 to 155 kernels a step of ConvNet-3 in all, 222 to 230 of ResNet-18), and a BatchNorm layer whose
# statistics are matched (689 kernels a compensator's step of ResNet-18, 1,812 of MobileNetV2).
STEP, MATCHED_NORM = 90, 24


@dataclass(frozen=True)
class Cost:
    """Of a net at a size.

    Attributes:
        operations: of a forward pass of one image.
        forward: kernels of a forward pass.
        both: kernels of forward and backward.
        norms: BatchNorm layers that run.
        kind: `residual`, `convnet` or `depthwise` (a net with grouped convolutions): what the rate of a machine is of.
    """

    operations: int
    forward: int
    both: int
    norms: int
    kind: str

    @property
    def step(self) -> int:
        """Kernels of a step of training."""
        return self.both + STEP

    @property
    def inversion(self) -> int:
        """Kernels of a step of images that match the statistics of BatchNorm layers."""
        return self.step + MATCHED_NORM * self.norms


@lru_cache(maxsize=256)
def cost(model: str, *, classes: int, size: int, channels: int = 3) -> Cost:
    """What a net of `ddhub.models` costs on images `[channels, size, size]`. Raises UsageError as `models.build`."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        net = models.build(model, classes=classes, size=size, channels=channels)
        x = torch.zeros(2, channels, size, size)  # of one image BatchNorm has no statistics where a map is 1 x 1
        labels = torch.zeros(2, dtype=torch.long)
    ran: list[nn.Module] = []
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(lambda layer, _: ran.append(layer)) for layer in layers]
    counted = FlopCounterMode(display=False)
    with counted, _Kernels() as forward, torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    with _Kernels() as both:
        F.cross_entropy(net(x), labels).backward()
    return Cost(counted.get_total_flops() // len(x), forward.count, both.count, len(ran), _kind(net))


def _kind(net: nn.Module) -> str:
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    if any(layer.groups > 1 for layer in convolutions):
        return "depthwise"
    return "convnet" if len(convolutions) <= max(models.DEPTHS) else "residual"


class _Kernels(TorchDispatchMode):
    """Counts the operations of torch that make new floating point numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        first = made[0] if isinstance(made, (tuple, list)) else made
        if not func.is_view and isinstance(first, Tensor) and first.is_floating_point():
            self.count += func.overloadpacket is not torch.ops.aten.detach
        return made

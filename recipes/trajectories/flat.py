"""The ConvNet with InstanceNorm of `ddhub.models` as a pure function of one vector of all its parameters.

    flat = Flat("convnet3", classes=10, size=32, channels=3)
    theta = flat.initial(0, "expert", 3)      # [P], P = flat.count = 320,010
    logits = flat(theta, x)                   # [B, 10]

The vector holds the parameters in the order of `parameters()`: weight and bias of convolution and norm of each block,
then of the linear layer. A convolution's bias is a part of it that nothing depends on: the instance norm behind takes
it away, so it is not added, and its gradient is zero, not a rounding error.
"""

from __future__ import annotations

import re
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ddhub import models
from ddhub.errors import UsageError
from ddhub.training.devices import seeded
from recipes.run.draws import generator


class Flat:
    """A ConvNet as a function of its parameters `[P]` and images; in any dtype, and under grad, jvp and vmap.

    Args:
        name: `convnet3` to `convnet6`, `-wN` for the width.
        classes, size, channels: as for `ddhub.models.build`.

    Attributes:
        count: P, the number of parameters.
        shapes: of the parameters, in order.
        paddings: of the convolutions, one a block.

    Raises:
        UsageError: another net, or images too small for it.
    """

    def __init__(self, name: str, classes: int, size: int, channels: int) -> None:
        if not re.fullmatch(r"convnet[3-6](-w[1-9][0-9]*)?", name):
            raise UsageError(f"net {name!r} is not a ConvNet with InstanceNorm; use convnet3, or convnet3-wN")
        self.name, self.classes, self.size, self.channels = name, classes, size, channels
        self._net = self._built(0)
        self.shapes = [parameter.shape for parameter in self._net.parameters()]
        self._sizes = [shape.numel() for shape in self.shapes]
        self.count = sum(self._sizes)
        self.paddings = [layer.padding for layer in self._net.modules() if isinstance(layer, nn.Conv2d)]

    def _built(self, seed: int) -> nn.Module:
        with seeded(torch.device("cpu"), seed):
            return models.build(self.name, classes=self.classes, size=self.size, channels=self.channels)

    def initial(self, *words: object) -> Tensor:
        """A new net's parameters `[P]` on the CPU, as `ddhub.models.build` draws them, seeded by words."""
        return self.vector(self._built(generator(*words).initial_seed()))

    def vector(self, net: nn.Module) -> Tensor:
        """The parameters `[P]` of a net, copied."""
        return parameters_to_vector(net.parameters()).detach()

    def load(self, theta: Tensor) -> nn.Module:
        """A net with parameters theta `[P]`, copied, of their dtype and on their device."""
        net = deepcopy(self._net).to(theta)
        vector_to_parameters(theta.detach().clone(), net.parameters())
        return net

    def parts(self, theta: Tensor) -> list[Tensor]:
        """theta `[P]` cut into the parameters, in order, without a copy."""
        return [part.view(shape) for part, shape in zip(theta.split(self._sizes), self.shapes, strict=True)]

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """Logits `[B, K]` of normalised images x `[B, C, H, W]` under parameters theta `[P]`."""
        parts = self.parts(theta)
        for block, padding in enumerate(self.paddings):
            weight, _, scale, shift = parts[4 * block : 4 * block + 4]
            x = F.conv2d(x, weight, padding=padding)
            x = pooled(F.relu(F.group_norm(x, len(scale), scale, shift)))
        return F.linear(x.flatten(1), *parts[-2:])


def pooled(x: Tensor) -> Tensor:
    """`F.avg_pool2d(x, 2)` of maps [B, C, H, W] as two additions: a fifth of its time on a CPU."""
    for dim in (2, 3):
        half, odd = divmod(x.shape[dim], 2)
        x = x.narrow(dim, 0, 2 * half) if odd else x
        x = torch.add(*x.unflatten(dim, (half, 2)).unbind(dim + 1))
    return x * 0.25


def column(values: Tensor) -> Tensor:
    """Values [C] beside maps [B, C, H, W]."""
    return values[:, None, None]

"""Matching of BatchNorm statistics: how far a batch's feature statistics are from those a teacher was trained on.

    R_l = ‖running_var_l - Var_l‖₂ + ‖running_mean_l - Mean_l‖₂        input of BatchNorm layer l, biased variance

(R_feature of Yin et al., 2020, arXiv 1912.08795, with norms as in SRe2L and INFER: not squared.) A batch may hold
several independent sets of images: statistics are those of each set, while the teacher runs once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _Moments(torch.autograd.Function):
    """Mean and biased variance over dim 1 of `[sets, positions, channels]`, with a one-pass gradient.

    d/dx = g_mean / P + g_var · 2 (x - mean) / P: one multiply-add over x, where automatic differentiation of the
    two reductions makes four passes and keeps two more copies.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        mean = wide.mean(1, keepdim=True)
        var = (wide - mean).square_().mean(1)
        ctx.save_for_backward(x, mean)
        return mean.squeeze(1), var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        slope = grads[1][:, None] * (2 / x.shape[1])
        return torch.addcmul(grads[0][:, None] / x.shape[1] - slope * mean, x.to(slope.dtype), slope).to(x.dtype)


@contextmanager
def gaps(net: nn.Module, sets: int) -> Iterator[list[Tensor]]:
    """Collect `R_l`, `[sets]`, of every BatchNorm2d that fires in the next forward pass, in the order of firing.

    A layer that a net constructs but never runs (the first block of EfficientNet-B0 has one) adds nothing. The list
    is cleared by whoever reads it, once a forward pass.

    Args:
        net: in eval mode, so that its images do not influence one another.
        sets: the batch is this many sets of equal size, one after another.
    """
    layers_gaps: list[Tensor] = []

    def hook(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0]
        rows = x.permute(0, 2, 3, 1).reshape(sets, -1, x.shape[1])
        mean, var = _Moments.apply(rows)
        layers_gaps.append(
            torch.linalg.vector_norm(layer.running_var - var, dim=1)
            + torch.linalg.vector_norm(layer.running_mean - mean, dim=1)
        )

    handles = [layer.register_forward_pre_hook(hook) for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    try:
        yield layers_gaps
    finally:
        for handle in handles:
            handle.remove()
